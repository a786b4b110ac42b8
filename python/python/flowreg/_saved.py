"""Estimators in directories, which flowreg-predict reads; runs of flowreg-fit as estimators.

A directory has ``model.safetensors``, as a run has, and ``estimator.json``: class, parameters, labels
and what the fit found. A `TorchLinear` has ``history.jsonl``, too, as a run has.

The model in the file is of float32 rows. `_conversion` of an estimator says how inputs become such
rows, in the words of the file's metadata: ``numbers`` (``scale``: bytes are divided by 255; ``shift``:
what is subtracted), ``transform`` (of photographs) and ``temperature`` (divides logits). `coef_` and
`intercept_` are of inputs before a shift and of logits after the temperature.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from ._arrays import Array, as_features, blocks, dense, to_numpy
from ._flowreg import __version__, load_model, save_model
from ._warnings import warn

if TYPE_CHECKING:
    from ._cv import LogisticRegressionCV
    from ._logistic import LogisticRegression
    from ._torch import TorchLinear

_ESTIMATOR = "estimator.json"
_HISTORY = "history.jsonl"
_SUMMARY = "summary.json"
# Of estimator.json.
_VERSION = 1
_BYTES = "u8/255"
# What the model file has, and what is too large for text.
_NOT_IN_TEXT = ("classes_", "coef_", "intercept_", "n_features_in_", "history_", "coefs_paths_")


class SavedMixin:
    """`save`, of classifiers."""

    # How inputs become the rows that the model is of; see above.
    _conversion: dict[str, Any] = {}

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the fitted estimator into a directory, which ``flowreg-predict DIRECTORY`` reads, too.

        `load` gives it back. The directory appears whole or not at all.

        The weight is stored as float32: that is exact, except for `LogisticRegressionCV` with
        ``refit=False``, whose means are rounded. flowreg-predict multiplies in float32 and gives the
        probabilities of `predict_proba` of float32 rows up to the rounding of such products.
        ``coefs_paths_`` is not stored, and neither are parameters that are no numbers, texts, lists
        or dicts of them, such as callables; a warning names these.

        Parameters
        ----------
        directory : path
            Where to write. What is not there of its parents is made.
        overwrite : bool, default=False
            Replace the directory of an estimator, if it holds nothing else.

        Raises
        ------
        FileExistsError
            If there is something, and `overwrite` is not set or would not replace it.
        ValueError
            For a model that is not finite, labels that text does not hold, and a directory that may
            not be replaced.

        Examples
        --------
        >>> import tempfile
        >>> import flowreg
        >>> model = flowreg.LogisticRegression().fit([[0.0], [1.0]], ["no", "yes"])
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     model.save(f"{parent}/model")
        ...     flowreg.load(f"{parent}/model").predict([[0.9]])
        array(['yes'], dtype='<U3')
        """
        check_is_fitted(self)
        estimator: Any = self
        try:
            classes = _encoded(estimator.classes_)
        except TypeError as error:
            raise ValueError(
                f"classes_: found labels of {error}, expected numbers, truth values or texts: "
                "fit such labels, or pickle the estimator"
            ) from error
        params, left_out = {}, []
        for name, value in estimator.get_params(deep=False).items():
            try:
                params[name] = _encoded(value)
            except TypeError:
                left_out.append(name)
        if left_out:
            warn(
                f"save: found parameters that JSON does not hold, {', '.join(left_out)}: they are not "
                "saved; set them after load, by set_params"
            )
        fitted = {
            name: _encoded(value)
            for name, value in vars(self).items()
            if name.endswith("_") and not name.startswith("_") and name not in _NOT_IN_TEXT
        }
        content = {
            "version": _VERSION,
            "flowreg": __version__,
            "estimator": type(self).__name__,
            "params": params,
            "classes": classes,
            "dtype": estimator.coef_.dtype.name,
            "fitted": fitted,
        }
        files = [(_ESTIMATOR, json.dumps(content, indent=2, allow_nan=False) + "\n")]
        if hasattr(self, "history_"):
            lines = (json.dumps(epoch, allow_nan=False) + "\n" for epoch in estimator.history_)
            files.append((_HISTORY, "".join(lines)))
        save_model(os.fspath(directory), *stored_model(self), files, overwrite=overwrite)


def stored_model(estimator: Any) -> tuple[Array, Array, str]:
    """Weight and bias of the rows as they are stored, in float32, and their description, as JSON."""
    conversion = estimator._conversion
    temperature = conversion.get("temperature")
    numbers = dict(conversion.get("numbers") or {})
    weight, bias = dense(estimator.coef_), estimator.intercept_
    if temperature is not None:
        weight, bias = weight * temperature, bias * temperature
    with np.errstate(over="ignore"):
        weight = np.ascontiguousarray(weight, np.float32)
    shift = numbers.get("shift")
    if shift is not None:
        bias = bias + weight @ shift
        numbers["shift"] = shift.tolist()
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        numbers["columns"] = list(names)
    about = {
        "class_names": [str(label) for label in estimator.classes_.tolist()],
        "transform": conversion.get("transform"),
        "numbers": None if "transform" in conversion else numbers,
        "temperature": temperature,
    }
    with np.errstate(over="ignore"):
        return weight, np.ascontiguousarray(bias, np.float32), json.dumps(about)


def stored_rows(estimator: Any, X: Any) -> Array:
    """Rows as the stored model takes them."""
    X = validate_data(estimator, to_numpy(X, "X"), reset=False, dtype="numeric")
    if is_of_bytes(estimator):
        return np.ascontiguousarray(quotients(X))
    shift = estimator._conversion.get("numbers", {}).get("shift")
    if shift is None:
        return as_features(X, False)[0]
    out = np.empty(X.shape, np.float32)
    for rows in blocks(len(X), 8 * X.shape[1]):
        out[rows] = X[rows] - shift
    return out


def is_of_bytes(estimator: Any) -> bool:
    """Whether the model is of bytes divided by 255, as pixels are."""
    conversion = estimator._conversion
    scale = (conversion.get("numbers") or {}).get("scale")
    return "transform" in conversion or scale == _BYTES


def quotients(X: Array) -> Array:
    """Bytes divided by 255, in float32; rows that are divided already as they are."""
    if X.dtype == np.uint8:
        return np.divide(X, 255, dtype=np.float32)
    outside = (X < 0) | (X > 1)
    if outside.any():
        raise ValueError(
            f"X: found {X[outside][0]} in {X.dtype}, expected bytes (uint8), or bytes divided by 255, "
            "from 0 to 1: the model was fitted to such"
        )
    return X.astype(np.float32, copy=False)


def load(
    path: str | os.PathLike[str], *, class_names: bool = True
) -> LogisticRegression | LogisticRegressionCV | TorchLinear:
    """A fitted estimator: what its ``save`` wrote, or a run of flowreg-fit.

    A run of ``--optimizer newton`` or ``lbfgs`` becomes a `LogisticRegression`, one of SGD a
    `TorchLinear`, and a model file alone, also a state dict of ``torch.nn.Linear``, a
    `LogisticRegression` whose fit is not known. Its predictions are those of ``flowreg-predict``, up
    to the rounding of products:

    - ``--standardize`` is part of the weights already; ``--center`` becomes part of `intercept_`, and
      ``--calibrate`` divides `coef_` and `intercept_`;
    - a model of bytes (pixels) takes uint8 arrays, which it divides by 255, and arrays that are
      divided already, such as ``DATASET/test.x.npy``; it refuses others. Photographs are for
      flowreg-predict to read;
    - the columns of a table become `feature_names_in_`.

    Parameters that the run's summary does not hold keep their defaults; `C` is that of sample weights
    whose mean is 1.

    Parameters
    ----------
    path : path
        A directory, or a ``model.safetensors``.
    class_names : bool, default=True
        Of a run: whether `classes_` has the names of the classes, sorted; as numbers or truth values
        where all of them are such. False: the numbers from 0 that the labels of datasets
        (``DATASET/test.y.npy``) are.

    Returns
    -------
    LogisticRegression, LogisticRegressionCV or TorchLinear
        Fitted.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        For files that are damaged, or that flowreg did not write.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import flowreg
    >>> model = flowreg.LogisticRegression(C=10).fit([[0.0], [1.0]], [3, 7])
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     model.save(f"{parent}/model")
    ...     loaded = flowreg.load(f"{parent}/model")
    >>> loaded
    LogisticRegression(C=10)
    >>> np.array_equal(loaded.coef_, model.coef_), loaded.classes_, loaded.status_
    (True, array([3, 7]), 'converged')
    """
    path = Path(path)
    found = load_model(path)
    about = json.loads(found["about"])
    conversion = {
        name: about[name]
        for name in ("transform", "numbers", "temperature")
        if about.get(name) is not None
    }
    columns = None
    if "numbers" in conversion:
        columns = conversion["numbers"].pop("columns", None)
        if "shift" in conversion["numbers"]:
            conversion["numbers"]["shift"] = np.array(conversion["numbers"]["shift"])
    estimator: Any
    dtype: np.dtype[Any] = np.dtype(np.float32)
    if (path / _ESTIMATOR).is_file():
        with _reading(path / _ESTIMATOR):
            estimator, classes, dtype = _saved_estimator(path)
    else:
        names = about["class_names"] if class_names else []
        classes = labels(names, max(2, len(found["bias"])))
        if (path / _SUMMARY).is_file():
            with _reading(path / _SUMMARY):
                estimator = _of_run(path, json.loads((path / _SUMMARY).read_bytes()))
        else:
            from ._logistic import LogisticRegression

            estimator = LogisticRegression()
    weight, bias = found["weight"], found["bias"]
    if len(classes) != max(2, len(bias)):
        raise ValueError(
            f"{path / _ESTIMATOR}: found {len(classes)} classes, expected {max(2, len(bias))}, as the "
            "model has: save the estimator again"
        )
    order = np.argsort(classes, kind="stable")
    if len(bias) > 1:
        weight, bias = weight[order], bias[order]
    elif order[0] == 1:
        weight, bias = -weight, -bias
    shift = conversion.get("numbers", {}).get("shift")
    temperature = conversion.get("temperature")
    if shift is not None or temperature is not None:
        # Their arithmetic is in float64.
        dtype = np.dtype(np.float64)
    bias = bias.astype(np.float64)
    if shift is not None:
        bias -= weight @ shift
    weight = weight.astype(dtype)
    if temperature is not None:
        weight, bias = weight / temperature, bias / temperature
    estimator._conversion = conversion
    estimator.coef_, estimator.intercept_ = weight, bias.astype(dtype)
    estimator.classes_ = classes[order]
    estimator.n_features_in_ = weight.shape[1]
    if columns is not None:
        estimator.feature_names_in_ = np.array(columns, dtype=object)
    return estimator


def labels(names: list[str], count: int) -> Array:
    """The labels that names of classes stand for: numbers or truth values if all of them are such.

    Classes without names are called ``class N``; their labels are numbers.
    """
    names = names[:count] + [f"class {label}" for label in range(len(names), count)]
    is_numbered = all(name.startswith("class ") for name in names)
    words = [name.removeprefix("class ") for name in names] if is_numbered else names
    if all(re.fullmatch("[+-]?[0-9]{1,18}", word) for word in words):
        numbers = np.array([int(word) for word in words])
        if len(np.unique(numbers)) == count:
            return numbers
    if sorted(names) == ["False", "True"]:
        return np.array([name == "True" for name in names])
    return np.array(names)


class _reading:
    """Turns what is wrong inside a file into an error that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, (KeyError, TypeError, ValueError, AttributeError)):
            found = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{self.path}: found {found}, expected what flowreg writes") from error


def _saved_estimator(path: Path) -> tuple[Any, Array, np.dtype[Any]]:
    """The estimator, without its model, its labels, and the type of its weight."""
    from ._cv import LogisticRegressionCV
    from ._logistic import LogisticRegression
    from ._torch import TorchLinear

    content = json.loads((path / _ESTIMATOR).read_bytes())
    if content["version"] != _VERSION:
        raise ValueError(
            f"version {content['version']}, which a newer flowreg reads; this one reads {_VERSION}"
        )
    kinds = {kind.__name__: kind for kind in (LogisticRegression, LogisticRegressionCV, TorchLinear)}
    if content["estimator"] not in kinds:
        raise ValueError(f"the estimator {content['estimator']!r}, none of {', '.join(kinds)}")
    params = {name: _decoded(value) for name, value in content["params"].items()}
    estimator = kinds[content["estimator"]]().set_params(**params)
    for name, value in content["fitted"].items():
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*_", name) or hasattr(estimator, name):
            raise ValueError(f"the result {name!r}, which no fit has")
        setattr(estimator, name, _decoded(value))
    if content["estimator"] == "TorchLinear":
        estimator.history_ = _history(path)
    return estimator, _decoded(content["classes"]), np.dtype(content["dtype"])


def _of_run(path: Path, summary: dict[str, Any]) -> Any:
    """The estimator of a run of flowreg-fit, without its model."""
    from ._logistic import LogisticRegression
    from ._torch import TorchLinear

    class_weight = "balanced" if summary["class_weights"] == "balanced" else None
    if summary["optimizer"] != "sgd":
        l2 = summary["l2"]
        converged = LogisticRegression(
            C=1 / (l2 * summary["n"]) if l2 > 0 else np.inf,
            tol=summary["tolerance"],
            solver=summary["optimizer"],
            class_weight=class_weight,
        )
        converged.status_ = summary["status"]
        converged.objective_ = summary["objective"]
        converged.gap_ = summary["gap"]
        converged.l2_ = l2
        converged.n_iter_ = np.array([max(1, summary["iterations"])], dtype=np.int32)
        return converged
    pattern = (
        r"(constant|step|cosine)(?: \(times (\S+) every (\d+) epochs\))?"
        r"(?: after (\d+) epochs of warm-up)?"
    )
    schedule = re.fullmatch(pattern, summary["lr_schedule"])
    if schedule is None:
        raise ValueError(f"the lr_schedule {summary['lr_schedule']!r}")
    decay, gamma, step_size, warmup = schedule.groups()
    steps: dict[str, Any] = {} if gamma is None else {"gamma": float(gamma), "step_size": int(step_size)}
    options = ("momentum", "dampening", "nesterov", "weight_decay", "batch_size", "seed")
    sgd = TorchLinear(
        lr=summary["lr"],
        epochs=summary["epochs"],
        schedule=decay,
        warmup=int(warmup or 0),
        init="zeros" if summary["init"] == "zeros" else "torch",
        early_stopping=summary["early_stopping"],
        class_weight=class_weight,
        label_smoothing=summary["label_smoothing"],
        engine=summary["engine"],
        **steps,
        **{option: summary[option] for option in options},
    )
    sgd.history_ = _history(path)
    sgd.lr_ = summary["lr"]
    sgd.lr_bound_ = summary["lr_bound"]
    sgd.best_epoch_ = summary["best_epoch"]
    sgd.engine_ = summary["engine"]
    return sgd


def _history(path: Path) -> list[dict[str, Any]]:
    with _reading(path / _HISTORY):
        return [json.loads(line) for line in (path / _HISTORY).read_bytes().splitlines()]


def _encoded(value: Any) -> Any:
    """A value as JSON has it; TypeError, with the type, for one that it does not hold."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.str, "values": _encoded(value.tolist())}
    if isinstance(value, (list, tuple)):
        return [_encoded(item) for item in value]
    if isinstance(value, dict):
        return {"pairs": [[_encoded(key), _encoded(item)] for key, item in value.items()]}
    raise TypeError(f"type {type(value).__name__}")


def _decoded(value: Any) -> Any:
    """The value that `_encoded` made this of."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float(value["float"])
    if "pairs" in value:
        return {_decoded(key): _decoded(item) for key, item in value["pairs"]}
    return np.array(_decoded(value["values"]), dtype=value["dtype"])
