"""Display of fitted classifiers: in notebooks, as a page and as plots."""

from __future__ import annotations

import html
import json
import math
import os
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from . import _flowreg
from ._arrays import Array, dense, threads
from ._flowreg import __version__
from ._saved import stored_model, stored_rows, texts


class NotebookMixin:
    """The display of classifiers: `report` and plots."""

    @property
    def _repr_html_(self) -> Any:
        """scikit-learn's diagram, and below it how the fit ended."""
        # Not there if scikit-learn is configured to show text.
        diagram = super()._repr_html_  # type: ignore[misc]
        return lambda: diagram() + _line(self)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs)  # type: ignore[misc]
        if "text/html" in bundle:
            bundle["text/html"] += _line(self)
        return bundle

    def report(
        self,
        path: str | os.PathLike[str],
        X: Any = None,
        y: Any = None,
        *,
        split: str = "test",
        overwrite: bool = False,
    ) -> None:
        """Write the page that flowreg-fit writes, ``report.html``.

        It shows the options and results of the fit, the losses of the epochs of a `TorchLinear` and
        the scores of the penalties of a `LogisticRegressionCV`; on labelled rows accuracy, loss, confusion, each
        class's recall and precision, and the most confident errors. It needs no network and no other
        file.

        Parameters
        ----------
        path : path
            The file to write. It appears whole or not at all.
        X : array-like of shape (n_samples, n_features) or None, default=None
            Rows on which the model is evaluated.
        y : array-like of shape (n_samples,) or None, default=None
            Their labels.
        split : str, default='test'
            Name of these rows on the page.
        overwrite : bool, default=False
            Replace a page that flowreg wrote.

        Raises
        ------
        FileExistsError
            If the path exists, and `overwrite` is not set or does not apply.
        ImportError
            If flowreg was built without its programs, which contain the report template.
        ValueError
            For rows and labels that do not fit the model, and a file that may not be replaced.

        Examples
        --------
        >>> import tempfile
        >>> from sklearn.datasets import load_iris
        >>> from flowreg import LogisticRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> model = LogisticRegression().fit(X[::2], y[::2])
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     model.report(f"{directory}/report.html", X[1::2], y[1::2])
        """
        check_is_fitted(self)
        if not isinstance(split, str):
            raise ValueError(f"split: found {split!r}, expected a text, the name of the rows")
        texts(np.array([split], object), "split", "pass another name")
        if not hasattr(_flowreg, "report"):
            raise ImportError(
                "report: this build of flowreg has no programs, which contain the report template: "
                "install one with its default features"
            )
        if (X is None) != (y is None):
            raise ValueError("X and y: found one of them, expected both or none")
        estimator: Any = self
        rows = None
        if X is not None:
            rows = (stored_rows(self, X), estimator._class_numbers(y, "y"))
        outputs, features = estimator.coef_.shape
        kind = "Logistic" if outputs == 1 else "Softmax"
        content = {
            "title": f"{kind} of {len(estimator.classes_)} classes",
            "subtitle": f"{type(self).__name__} of {features} features; flowreg {__version__}",
            "summary": _facts(self),
            "history": getattr(self, "history_", []),
            "path": _table(self),
            "split": split,
        }
        try:
            _flowreg.report(
                os.fspath(path),
                *stored_model(self),
                json.dumps(content, allow_nan=False),
                rows,
                overwrite=overwrite,
                threads=threads(estimator.n_threads, getattr(self, "n_jobs", None)),
            )
        except RuntimeError as error:
            if not str(error).startswith("logits: found"):
                raise
            raise ValueError(
                "X: found rows whose logits overflow float32, in which a report is computed, expected "
                "smaller features: scale them as those of fit"
            ) from error

    def plot_confusion(self, X: Any, y: Any, *, ax: Any = None, **options: Any) -> Any:
        """Draw the confusion matrix of labelled rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,)
            Labels.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a figure.
        **options : dict
            As of scikit-learn's ``ConfusionMatrixDisplay.from_estimator``: ``normalize``, ``cmap``,
            ``sample_weight``, ...

        Returns
        -------
        sklearn.metrics.ConfusionMatrixDisplay
            With ``ax_``, ``figure_`` and ``confusion_matrix``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from flowreg import LogisticRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> display = LogisticRegression().fit(X, y).plot_confusion(X, y)
        >>> bool(display.confusion_matrix.trace() > 0.95 * len(y))
        True
        """
        check_is_fitted(self)
        pyplot("plot_confusion")
        from sklearn.metrics import ConfusionMatrixDisplay

        return ConfusionMatrixDisplay.from_estimator(self, X, y, ax=ax, **options)

    def plot_weights(
        self, shape: tuple[int, ...] | None = None, *, classes: Any = None, ax: Any = None
    ) -> Array:
        """Draw the weight of each class as a picture; of two classes that of ``classes_[1]``.

        Blue weights lower the logit of the class, white ones are 0, red ones raise it; of pictures in
        colour, grey is 0. Each class has a scale of its own.

        Parameters
        ----------
        shape : tuple or None, default=None
            Shape of a picture: (height, width), or with three colours (height, width, 3) or
            (3, height, width). None: that of the photographs to which a loaded model was fitted, else
            a square.
        classes : sequence of labels or None, default=None
            The classes that are drawn; None is all.
        ax : matplotlib Axes, sequence of them or None, default=None
            Where to draw, one for each picture; None makes a figure.

        Returns
        -------
        ndarray of matplotlib Axes
            One for each picture.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            For a shape that the features do not fill, labels that are no classes, no class at all,
            and too few axes.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from flowreg import LogisticRegression
        >>> X, y = load_digits(return_X_y=True)
        >>> axes = LogisticRegression().fit(X, y).plot_weights((8, 8))
        >>> len(axes), axes[3].get_title()
        (10, '3')
        """
        check_is_fitted(self)
        estimator: Any = self
        weights = dense(estimator.coef_)
        shape = _picture_shape(estimator, shape)
        drawn = estimator.classes_.tolist()[1 if len(weights) == 1 else 0 :]
        if classes is None:
            outputs = list(range(len(drawn)))
        else:
            if isinstance(classes, str) or np.ndim(classes) != 1 or not len(classes):
                raise ValueError(
                    f"classes: found {classes!r}, expected a sequence of one label or more, such as "
                    f"{drawn[:2]}"
                )
            unknown = [label for label in classes if label not in drawn]
            if unknown:
                raise ValueError(
                    f"classes: found {unknown[0]!r}, expected classes that have a weight: {drawn}"
                )
            outputs = [drawn.index(label) for label in classes]
        axes = _axes(ax, len(outputs))
        for axis, output in zip(axes, outputs):
            weight = weights[output].reshape(shape)
            largest = float(np.abs(weight).max()) or 1.0
            if len(shape) == 2:
                axis.imshow(weight, cmap="RdBu_r", vmin=-largest, vmax=largest)
            else:
                # Colours first, as photographs are stored.
                weight = np.moveaxis(weight, 0, 2) if shape[2] != 3 else weight
                axis.imshow(0.5 + weight / (2 * largest))
            axis.set_title(str(drawn[output]))
            axis.set_axis_off()
        return axes


def pyplot(name: str) -> Any:
    """matplotlib.pyplot, if it is installed."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            f"{name}: found no matplotlib, expected it to draw: pip install matplotlib"
        ) from error
    return pyplot


def plot_path(
    Cs: Array, mean: Array, spread: Array | None, chosen: float, ylabel: str, ax: Any
) -> Any:
    """Draw scores over C, and the chosen one."""
    plt = pyplot("plot_path")
    if ax is None:
        _, ax = plt.subplots()
    order = np.argsort(Cs)
    Cs, mean = Cs[order], mean[order]
    ax.plot(Cs, mean, marker="o", label="mean")
    if spread is not None:
        spread = spread[order]
        ax.fill_between(Cs, mean - spread, mean + spread, alpha=0.2, label="±1 standard deviation")
    ax.axvline(chosen, linestyle="--", color="gray", label=f"C = {chosen:.3g}")
    ax.set(xscale="log", xlabel="C", ylabel=ylabel)
    ax.legend()
    return ax


def _axes(ax: Any, count: int) -> Array:
    """Axes for `count` pictures: those given, or of a new figure."""
    if ax is not None:
        axes = np.ravel(np.asarray(ax, dtype=object))
        if len(axes) < count:
            raise ValueError(f"ax: found {len(axes)} axes, expected {count}, one for each picture")
        return axes[:count]
    columns = math.ceil(math.sqrt(count * 4 / 3))
    rows = math.ceil(count / columns)
    plt = pyplot("plot_weights")
    _, grid = plt.subplots(
        rows, columns, squeeze=False, figsize=(1.6 * columns, 1.8 * rows), layout="constrained"
    )
    axes = grid.ravel()
    for axis in axes[count:]:
        axis.remove()
    return axes[:count]


def _picture_shape(estimator: Any, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    features = estimator.coef_.shape[1]
    if shape is None:
        transform = estimator._conversion.get("transform")
        side = transform["size"] if transform else math.isqrt(features)
        shape = (3, side, side) if transform else (side, side)
    sides = np.shape(shape) and tuple(shape)
    is_picture = len(sides) == 2 or (len(sides) == 3 and 3 in (sides[0], sides[2]))
    if not is_picture or math.prod(sides) != features:
        raise ValueError(
            f"shape: found {shape!r} for {features} features, expected (height, width), "
            "(height, width, 3) or (3, height, width) with that product"
        )
    return sides


def _results(estimator: Any) -> dict[str, Any]:
    """The results of a fit, by name."""
    results: dict[str, Any] = {}
    for name in ("status", "objective", "gap", "l2", "C", "lr", "engine", "best_epoch"):
        value = getattr(estimator, f"{name}_", None)
        if value is not None:
            results[name] = value
    if "status" in results:
        steps = estimator.n_iter_
        results["iterations"] = int(steps[0] if steps.ndim == 1 else steps.sum())
    history = getattr(estimator, "history_", None)
    if history is not None:
        results["epochs"] = len(history)
    for name in ("loss", "val_loss", "val_accuracy"):
        if history and name in history[-1]:
            results[name] = history[-1][name]
    scores = getattr(estimator, "scores_", None)
    if scores is not None:
        results["score"] = float(np.nanmax(over_folds(scores[:, 0])[0]))
    return results


def over_folds(scores: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each column over the rows that are not NaN; NaN if all are."""
    scored = np.ma.array(scores, mask=np.isnan(scores))
    mean, deviation = scored.mean(axis=0), scored.std(axis=0)
    return np.ma.filled(mean, np.nan), np.ma.filled(deviation, np.nan)


def _line(estimator: Any) -> str:
    """How the fit ended, as HTML; nothing before a fit."""
    if not hasattr(estimator, "coef_"):
        return ""
    words = []
    for name, value in _results(estimator).items():
        text = f"{value:.6g}" if isinstance(value, float) else str(value).replace("_", " ")
        words.append(f"{name.replace('_', ' ')} <b>{html.escape(text)}</b>")
    return f'<p class="flowreg-fit">{", ".join(words)}</p>' if words else ""


def _facts(estimator: Any) -> dict[str, Any]:
    """Options and results for a report."""
    plain = (bool, int, float, str)
    params = estimator.get_params(deep=False).items()
    facts = {name: value for name, value in params if isinstance(value, plain)}
    facts = {"flowreg": __version__, "estimator": type(estimator).__name__, **facts}
    facts.update(_results(estimator))
    return _as_json(facts)


def _table(estimator: Any) -> list[dict[str, Any]] | None:
    """The scores of the penalties for a report, or None."""
    scores = getattr(estimator, "scores_", None)
    if scores is None:
        return None
    rows = zip(estimator.Cs_, *over_folds(scores[:, 0]))
    return [
        _as_json({"C": float(C), "score": float(mean), "deviation": float(deviation)})
        for C, mean, deviation in rows
    ]


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """The values with the text of numbers that are not finite, which JSON cannot represent."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
