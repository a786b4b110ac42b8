"""Linear probes: a classifier on frozen features, with a penalty chosen by a protocol."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.exceptions import DataConversionWarning
from sklearn.model_selection import check_cv, train_test_split
from sklearn.utils import assert_all_finite
from sklearn.utils._param_validation import StrOptions, validate_parameter_constraints
from sklearn.utils.multiclass import check_classification_targets

from ._arrays import Array, state_dict_of
from ._base import whole
from ._cv import Folds, HeldOut, Solved, fold_rows, penalties
from ._files import PATHS, load
from ._logistic import CONSTRAINTS, LogisticRegression, fit_one, solver_options
from ._notebook import plot_path
from ._warnings import warn

# DINOv2 (Oquab et al. 2023): 45 values of C, a tenth of the training rows held out.
_DINOV2_CS = np.logspace(-6, 5, 45)
_DINOV2_HELD_OUT = 0.1
# CLIP (Radford et al. 2021): seven values of C over twelve decades, then half the step around the
# best one until there are eight values a decade.
_CLIP_CS = np.logspace(-6, 6, 7)
_CLIP_STEPS = (1.0, 0.5, 0.25, 0.125)
_CONSTRAINTS: dict[str, Any] = {
    **CONSTRAINTS,
    "protocol": [StrOptions({"clip", "dinov2"}), None],
    "cv": ["cv_object"],
    "seed": [whole(0, 2**32 - 1)],
}


@dataclass
class LinearProbe:
    """The result of `fit_linear_probe`.

    Attributes
    ----------
    C : float
        The chosen inverse strength of the penalty.
    score : float
        The accuracy of the chosen C on held-out rows.
    table : dict of str to list
        ``C`` and its ``accuracy`` and ``log_loss`` on held-out rows, for each C that was tried, in
        ascending order; ``pandas.DataFrame(probe.table)`` is a table.
    model : LogisticRegression
        The classifier of the chosen C, fitted to all rows.
    """

    C: float
    score: float
    table: dict[str, list[float]]
    model: LogisticRegression = field(repr=False)

    def predict(self, features: Any) -> Array:
        """The most probable class of each row.

        Parameters
        ----------
        features : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels.
        """
        return self.model.predict(features)

    def state_dict(self) -> dict[str, Array]:
        """The state dict of a ``torch.nn.Linear``.

        Returns
        -------
        dict of ndarray
            ``weight`` and ``bias``, float32; one output for two classes.
        """
        return state_dict_of(self.model.coef_, self.model.intercept_)

    def linear(self) -> Any:
        """The classifier as a ``torch.nn.Linear``.

        Returns
        -------
        torch.nn.Linear
            In memory, with gradients.

        Raises
        ------
        ImportError
            If torch is not installed; `state_dict` does not need it.
        """
        try:
            import torch
        except ImportError as error:
            raise ImportError("linear: torch is not installed; state_dict() needs none") from error
        state = {name: torch.from_numpy(value) for name, value in self.state_dict().items()}
        outputs, features = state["weight"].shape
        layer = torch.nn.Linear(features, outputs)
        layer.load_state_dict(state)
        return layer

    def plot_path(self, *, ax: Any = None) -> Any:
        """Draw the accuracy on held-out rows over C.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        matplotlib Axes
            With the accuracies and the chosen C.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        Cs, accuracies = np.array(self.table["C"]), np.array(self.table["accuracy"])
        return plot_path(Cs, accuracies, None, self.C, "accuracy", ax)

    def _repr_html_(self) -> str:
        names = list(self.table)
        cells = zip(*self.table.values())
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{value:.4g}</td>" for value in row) + "</tr>" for row in cells
        )
        return f"<p>C = {self.C:.4g}, accuracy {self.score:.4f}</p><table><tr>{head}</tr>{body}</table>"


def fit_linear_probe(
    features: Any,
    labels: Any = None,
    *,
    val: Any = None,
    cv: Any = None,
    Cs: Any = None,
    protocol: str | None = None,
    fit_intercept: bool = True,
    solver: str = "newton",
    tol: float = 1e-5,
    max_iter: int = 1000,
    seed: int = 0,
    n_threads: int | None = None,
    verbose: int = 0,
    callback: Callable[[dict[str, Any]], Any] | None = None,
) -> LinearProbe:
    """Fit a linear classifier on frozen features with a penalty chosen on held-out rows.

    The model of the chosen C is fitted to all rows, including those that were held out.

    Parameters
    ----------
    features : array-like of shape (n_samples, n_features), or path
        Features: an array of any float or integer type, a memory map, a torch tensor in memory, a
        ``.npy``, ``.npz``, ``.safetensors`` or (with torch) ``.pt`` file, or a directory that
        flowreg-prep made, of which the split ``train`` is taken.
    labels : array-like of shape (n_samples,) or (n_samples, 1), path or None
        Labels. None takes those of the directory, or in the file of the features the array that is
        called ``labels``, ``y`` or ``targets``.
    val : pair of features and labels, str or None, default=None
        Held-out rows for the choice; a str is the name of a split of the directory.
    cv : int, splitter, iterable of pairs of index arrays, or None, default=None
        Folds that choose, by their mean accuracy.
    Cs : int, list of floats or None, default=None
        Inverse strengths of the penalty to try, as of `LogisticRegressionCV`. None: those of the
        protocol, or of 'dinov2'.
    protocol : {'clip', 'dinov2'} or None, default=None
        'clip' needs `val`: seven values of C from 1e-6 to 1e6, then a search around the best one
        until there are eight values a decade. 'dinov2': 45 values from 1e-6 to 1e5; without `val`
        and `cv` a tenth of the rows, stratified by class, is held out. None is 'dinov2'.
    fit_intercept : bool, default=True
        Whether to fit a bias.
    solver : {'newton', 'lbfgs'}, default='newton'
        As of `LogisticRegression`.
    tol : float, default=1e-5
        As of `LogisticRegression`.
    max_iter : int, default=1000
        Largest number of steps of the solver for one penalty.
    seed : int, default=0
        Seed of the choice of the rows that 'dinov2' holds out.
    n_threads : int or None, default=None
        Number of threads, as of `LogisticRegression`.
    verbose : int, default=0
        1 prints a line for each step.
    callback : callable or None, default=None
        As of `LogisticRegression`.

    Returns
    -------
    LinearProbe
        The chosen C, its score, the scores of all C, and the classifier.

    Raises
    ------
    ValueError
        For invalid parameters or data.
    MemoryError
        If the matrices of the fit do not fit the memory.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from flowreg import fit_linear_probe
    >>> X, y = load_digits(return_X_y=True)
    >>> probe = fit_linear_probe(X[:400], y[:400], val=(X[400:600], y[400:600]), Cs=[1e-4, 1e-2])
    >>> probe.C, round(probe.score, 3)
    (0.01, 0.825)
    """
    given = {
        "protocol": protocol,
        "cv": cv,
        "seed": seed,
        "fit_intercept": fit_intercept,
        "tol": tol,
        "max_iter": max_iter,
        "n_threads": n_threads,
        "verbose": verbose,
        "callback": callback,
    }
    validate_parameter_constraints(_CONSTRAINTS, given, caller_name="fit_linear_probe")
    model = LogisticRegression(
        fit_intercept=fit_intercept,
        solver=solver,
        tol=tol,
        max_iter=max_iter,
        n_threads=n_threads,
        verbose=verbose,
        callback=callback,
    )
    options = solver_options(model)
    if val is not None and cv is not None:
        raise ValueError("val and cv: found both, expected one of them")
    if protocol == "clip" and (val is None or Cs is not None):
        raise ValueError("protocol: found 'clip', expected `val` with it, and no `cv` or `Cs`")
    if isinstance(val, str):
        if not isinstance(features, PATHS) or not os.path.isdir(features):
            raise ValueError(
                f"val: found {val!r}, expected a pair of features and labels: only a dataset "
                "directory has splits"
            )
        val = load(features, None, val)
    elif val is not None:
        if not isinstance(val, (tuple, list)) or len(val) != 2:
            found = f"a {type(val).__name__}" + (f" of {len(val)}" if isinstance(val, (tuple, list)) else "")
            raise ValueError(
                f"val: found {found}, expected a pair (features, labels), or the name of a split"
            )
        with _naming("val"):
            val = load(val[0], val[1], "val")
    X, y = _check(*load(features, labels, "train"))
    if val is None and cv is None:
        _check_counts(y)
        fitted, held_out = train_test_split(
            np.arange(len(y)), test_size=_DINOV2_HELD_OUT, random_state=seed, stratify=y
        )
        cv = [(fitted, held_out)]
    elif val is not None:
        # One fold over both sets of rows: the last fit then uses all rows, and K is computed once.
        with _naming("val"):
            X_val, y_val = _check(val[0], val[1])
            assert_all_finite(X_val, input_name="features")
        if len(y_val) == 0:
            raise ValueError("val: found no rows, expected at least one")
        if X_val.shape[1] != X.shape[1]:
            raise ValueError(
                f"val: found {X_val.shape[1]} features, expected {X.shape[1]}, as in features"
            )
        known = set(y.tolist())
        if known.isdisjoint(y_val.tolist()):
            raise ValueError(
                f"val: found the labels {_some(y_val)}, expected labels that rows of features have, "
                f"such as {_some(y)}: name the classes alike in both sets of rows"
            )
        n = len(y)
        X, y = np.concatenate([X, X_val]), np.concatenate([y, y_val])
        cv = [(np.arange(n), np.arange(n, len(y)))]
    data = model._validate(X, y, None)
    splits = check_cv(cv, y, classifier=True).split(X, y)
    folds = fold_rows(data, splits, None if val is None else "val")
    scores: dict[float, tuple[float, float]] = {}

    def measure(found: Solved) -> tuple[float, float]:
        rows, held_out = found.rows, HeldOut()
        held_out._set(model, X, found)
        right = held_out.predict(X) == y[rows]
        own = held_out.predict_log_proba(X)[np.arange(len(rows)), data.labels[rows]]
        return float(right.mean()), float(-own.mean())

    def try_out(Cs: Any) -> float:
        """Score these values of C; return the best of all so far, the smallest one of a tie."""
        run = Folds(data, penalties(Cs), folds, measure, 2, False)
        run.fit(options)
        for C, score in zip(run.Cs, np.nanmean(run.scores, axis=0)):
            scores[float(C)] = (float(score[0]), float(score[1]))
        return max(sorted(scores), key=lambda C: scores[C][0])

    if protocol == "clip":
        best = try_out(_CLIP_CS)
        for step in _CLIP_STEPS:
            best = try_out(best * 10.0 ** np.array([-step, step]))
    else:
        best = try_out(_DINOV2_CS if Cs is None else Cs)
    tried = sorted(scores)
    table = {
        "C": tried,
        "accuracy": [scores[C][0] for C in tried],
        "log_loss": [scores[C][1] for C in tried],
    }
    fit_one(model.set_params(C=best), data, best, options)
    return LinearProbe(best, scores[best][0], table, model)


@contextmanager
def _naming(parameter: str) -> Iterator[None]:
    """Errors begin with the name of the parameter."""
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise ValueError(f"{parameter}: {error}") from error


def _check(features: Any, labels: Any) -> tuple[Array, Array]:
    X, y = np.asarray(features), np.asarray(labels)
    if y.ndim == 2 and y.shape == (*X.shape[:1], 1):
        warn(
            f"labels: found a column of shape {y.shape}, expected {y.shape[:1]}: pass labels.ravel()",
            DataConversionWarning,
        )
        y = y[:, 0]
    if X.ndim != 2 or y.shape != X.shape[:1]:
        raise ValueError(
            f"features and labels: found shapes {X.shape} and {y.shape}, expected "
            "(n_samples, n_features) and (n_samples,)"
        )
    assert_all_finite(y, input_name="labels")
    check_classification_targets(y)
    return X, y


def _some(labels: Array) -> str:
    """Some of the labels, for a message."""
    classes = list(dict.fromkeys(labels.tolist()))
    return ", ".join(map(repr, classes[:5])) + (", ..." if len(classes) > 5 else "")


def _check_counts(y: Array) -> None:
    """Refuse labels of which a tenth cannot hold a row of each class."""
    classes, counts = np.unique(y, return_counts=True)
    rarest = counts.argmin()
    held_out = int(np.ceil(_DINOV2_HELD_OUT * len(y)))
    if counts[rarest] < 2:
        found = f"{counts[rarest]} row of class {classes[rarest]}, expected two or more of each"
    elif held_out < len(classes):
        found = (
            f"{len(y)} rows, a tenth of which is {held_out}, expected one or more for each of the "
            f"{len(classes)} classes"
        )
    else:
        return
    raise ValueError(
        f"labels: found {found}: 'dinov2' holds out a tenth of the rows, with shares of each "
        "class; pass val=(features, labels), or cv=KFold(3, shuffle=True)"
    )
