"""Estimators in directories, which flowreg-predict reads; runs of flowreg-fit as estimators.

A directory has ``model.safetensors``, as a run has, and ``estimator.json``: class, parameters, labels
and what the fit found. A `TorchLinear` has ``history.jsonl``, too, as a run has. The checksums in
``estimator.json`` are those of its own fields and of the content of the other two files.

The model in the file applies to float32 rows. `_conversion` of an estimator says how inputs become such
rows, with the fields of the file's metadata: ``numbers`` (``scale``: bytes are divided by 255;
``shift``: it is subtracted), ``transform`` (of photographs) and ``temperature`` (it divides logits).
`coef_` and `intercept_` apply to inputs before the shift and give logits after the temperature.
"""

from __future__ import annotations

import json
import math
import os
import re
import zlib
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
# The list of files of every directory that flowreg writes.
_ENTRIES = ".flowreg.json"
# Of estimator.json. Version 1 has no checksums.
_VERSION = 2
_BYTES = "u8/255"
# Attributes that other files hold, or that are too large for JSON.
_NOT_IN_JSON = ("classes_", "coef_", "intercept_", "n_features_in_", "history_", "coefs_paths_")


class SavedMixin:
    """The method `save` of classifiers."""

    # How inputs become rows of the model; see the module.
    _conversion: dict[str, Any] = {}

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the fitted estimator into a directory, which ``flowreg-predict DIRECTORY`` reads, too.

        `load` gives it back. The directory appears whole or not at all.

        The weight is stored as float32: that is exact, except for `LogisticRegressionCV` with
        ``refit=False``, whose means are rounded. flowreg-predict multiplies in float32 and gives the
        probabilities of `predict_proba` of float32 rows up to the rounding of such products.
        ``coefs_paths_`` is not stored, nor are parameters that JSON cannot represent, such as
        callables; a warning names these.

        Parameters
        ----------
        directory : path
            Where to write. Parents that do not exist are created.
        overwrite : bool, default=False
            Replace the directory of an estimator, if it holds nothing else.

        Raises
        ------
        FileExistsError
            If the path exists, and `overwrite` is not set or does not apply.
        ValueError
            For an estimator of a subclass, a model that is not finite, labels that JSON cannot
            represent, names that are not valid Unicode, and a directory that may not be replaced.

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
        kind = type(self)
        if kind not in _estimators():
            base = next(base.__name__ for base in kind.__mro__ if base in _estimators())
            raise ValueError(
                f"save: found an estimator of {kind.__name__}, a subclass of {base}, expected one of "
                f"{', '.join(base.__name__ for base in _estimators())}, which load can make: pickle it, "
                f"for example by joblib.dump, or fit and save a {base}"
            )
        estimator: Any = self
        try:
            classes = _encoded(estimator.classes_)
        except TypeError as error:
            raise ValueError(
                f"classes_: found labels of {error}, expected numbers, booleans or texts: "
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
                f"save: found parameters that JSON cannot represent, {', '.join(left_out)}: they are "
                "not saved; set them after load, by set_params"
            )
        fitted = {
            name: _encoded(value)
            for name, value in vars(self).items()
            if name.endswith("_") and not name.startswith("_") and name not in _NOT_IN_JSON
        }
        history = None
        if hasattr(self, "history_"):
            lines = (json.dumps(epoch, allow_nan=False) + "\n" for epoch in estimator.history_)
            history = "".join(lines)
        weight, bias, about = stored_model(self)
        content = {
            "version": _VERSION,
            "flowreg": __version__,
            "estimator": kind.__name__,
            "params": params,
            "classes": classes,
            "dtype": estimator.coef_.dtype.name,
            "fitted": fitted,
            "model_crc32": _crc32_of_model(weight, bias, about),
            "history_crc32": None if history is None else zlib.crc32(history.encode()),
        }
        content["crc32"] = _crc32_of_fields(content)
        files = [(_ESTIMATOR, json.dumps(content, indent=2, allow_nan=False) + "\n")]
        if history is not None:
            files.append((_HISTORY, history))
        save_model(os.fspath(directory), weight, bias, about, files, overwrite=overwrite)


def _estimators() -> tuple[type, ...]:
    """The classes of which `save` writes and `load` makes estimators."""
    from ._cv import LogisticRegressionCV
    from ._logistic import LogisticRegression
    from ._torch import TorchLinear

    return LogisticRegression, LogisticRegressionCV, TorchLinear


def _crc32_of_fields(content: dict[str, Any]) -> int:
    """The checksum of all fields of estimator.json but ``crc32``."""
    fields = {name: value for name, value in content.items() if name != "crc32"}
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())


def _crc32_of_model(weight: Array, bias: Array, about: str) -> int:
    """The checksum of what a model file holds. Fields of its description that are None are left
    out, as the file leaves them out."""
    fields = {name: value for name, value in json.loads(about).items() if value is not None}
    checksum = zlib.crc32(json.dumps(fields, sort_keys=True).encode())
    for part in (weight, bias):
        checksum = zlib.crc32(np.ascontiguousarray(part, "<f4").data, checksum)
    return checksum


def stored_model(estimator: Any) -> tuple[Array, Array, str]:
    """Weight and bias as they are stored, in float32, and their description, as JSON."""
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
        numbers["columns"] = texts(names, "feature_names_in_", "name the column otherwise and fit again")
    about = {
        "class_names": texts(estimator.classes_, "classes_", "name the class otherwise and fit again"),
        "transform": conversion.get("transform"),
        "numbers": None if "transform" in conversion else numbers,
        "temperature": temperature,
    }
    with np.errstate(over="ignore"):
        return weight, np.ascontiguousarray(bias, np.float32), json.dumps(about)


def texts(names: Array, attribute: str, advice: str) -> list[str]:
    """The names as texts; ValueError for one that UTF-8 cannot represent."""
    found = [str(name) for name in names.tolist()]
    for text in found:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{attribute}: found {text!r} with a lone surrogate, expected valid Unicode: {advice}"
            ) from error
    return found


def stored_rows(estimator: Any, X: Any) -> Array:
    """Rows to which the stored model applies."""
    X = validate_data(estimator, to_numpy(X, "X"), reset=False, dtype="numeric")
    if is_of_bytes(estimator):
        return np.ascontiguousarray(quotients(X))
    shift = estimator._conversion.get("numbers", {}).get("shift")
    if shift is None:
        return as_features(X, False)[0]
    out = np.empty(X.shape, np.float32)
    with np.errstate(over="ignore"):
        for rows in blocks(len(X), 8 * X.shape[1]):
            out[rows] = X[rows] - shift
    return out


def is_of_bytes(estimator: Any) -> bool:
    """Whether the model takes bytes divided by 255, as of pixels."""
    conversion = estimator._conversion
    scale = (conversion.get("numbers") or {}).get("scale")
    return "transform" in conversion or scale == _BYTES


def quotients(X: Array) -> Array:
    """Bytes divided by 255, in float32; rows that are divided already are returned in float32."""
    if X.dtype == np.uint8:
        return np.divide(X, 255, dtype=np.float32)
    outside = (X < 0) | (X > 1)
    if outside.any():
        raise ValueError(
            f"X: found {X[outside][0]} in {X.dtype}, expected bytes (uint8), or bytes divided by 255, "
            "from 0 to 1, as the model was fitted to"
        )
    return X.astype(np.float32, copy=False)


def load(
    path: str | os.PathLike[str], *, class_names: bool = True
) -> LogisticRegression | LogisticRegressionCV | TorchLinear:
    """Load a fitted estimator: a directory that its ``save`` wrote, or a run of flowreg-fit.

    A run of ``--optimizer newton`` or ``lbfgs`` becomes a `LogisticRegression`, one of SGD a
    `TorchLinear`, and a model file alone, also a state dict of ``torch.nn.Linear``, a
    `LogisticRegression` with default parameters. Predictions are those of ``flowreg-predict``, up
    to the rounding of products:

    - ``--standardize`` is part of the weights already; ``--center`` becomes part of `intercept_`, and
      ``--calibrate`` divides `coef_` and `intercept_`;
    - a model of bytes (pixels) takes uint8 arrays, which it divides by 255, and arrays that are
      divided already, such as ``DATASET/test.x.npy``; it refuses others. For photographs use
      flowreg-predict;
    - the columns of a table become `feature_names_in_`.

    Parameters that the run's summary does not have keep their defaults; `C` is that of sample weights
    whose mean is 1. `fit` of a loaded run does not repeat what the estimator has no parameter for:
    ``--standardize`` (`C` of the run is for scaled features), ``--calibrate``, ``--label-smoothing`` of a
    converged fit, and of SGD ``--center`` and an ``--init`` from a file. Class weights from a file are
    not in the summary. A warning names those that the run was fitted with. Pass sample weights to
    `fit`, and bytes divided by 255, as it does not divide them.

    Parameters
    ----------
    path : path
        A directory, or a ``model.safetensors``.
    class_names : bool, default=True
        Of a run: whether `classes_` has the names of the classes, sorted; as integers or booleans
        if each name is what `str` makes of one. False: the numbers from 0 that the labels of
        datasets (``DATASET/test.y.npy``) are. Rows of `coef_` are in the order of `classes_`; those of
        ``model.safetensors`` are in the order of the dataset, which False keeps.

    Returns
    -------
    LogisticRegression, LogisticRegressionCV or TorchLinear
        Fitted.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        For files that are damaged, missing or of another model, or that flowreg did not write. The
        files that `save` writes have checksums; the ``summary.json`` of a run has none.

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
    from ._logistic import LogisticRegression
    from ._torch import TorchLinear

    path = Path(path)
    found = load_model(path)
    _check_entries(path)
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
    weight, bias = found["weight"], found["bias"]
    count = max(2, len(bias))
    estimator: Any
    dtype: np.dtype[Any] = np.dtype(np.float32)
    lost: list[str] = []
    history_crc32: int | None = None
    if (path / _ESTIMATOR).is_file():
        with _reading(path / _ESTIMATOR):
            content = _object(path / _ESTIMATOR)
            estimator, classes, dtype = _saved_estimator(content, found)
            history_crc32 = content.get("history_crc32")
    else:
        classes = labels(about["class_names"] if class_names else [], count)
        if len(np.unique(classes)) < count:
            raise ValueError(
                f"{path}: found the class names {classes.tolist()}, expected distinct names: load it "
                "with class_names=False"
            )
        if (path / _SUMMARY).is_file():
            with _reading(path / _SUMMARY):
                summary = _object(path / _SUMMARY)
                estimator = _of_run(summary)
                lost = _lost_options(summary, "shift" in conversion.get("numbers", {}))
        else:
            estimator = LogisticRegression()
    if isinstance(estimator, TorchLinear):
        estimator.history_ = _history(path, history_crc32)
    if lost:
        warn(
            f"load: found {', '.join(lost)} in {path / _SUMMARY}, expected options that "
            f"{type(estimator).__name__} has: predictions are those of the run, but fit leaves these "
            "options out; to repeat the fit use flowreg-fit"
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
    """The labels whose names these are: integers or booleans if `str` makes all names of them.

    Classes without names are called ``class N``; their labels are numbers.
    """
    names = names[:count] + [f"class {label}" for label in range(len(names), count)]
    is_numbered = all(name.startswith("class ") for name in names)
    words = [name.removeprefix("class ") for name in names] if is_numbered else names
    # Other digits, as in 007, are text.
    if all(re.fullmatch("0|-?[1-9][0-9]{0,17}", word) for word in words):
        numbers = np.array([int(word) for word in words])
        if len(np.unique(numbers)) == count:
            return numbers
    if sorted(names) == ["False", "True"]:
        return np.array([name == "True" for name in names])
    return np.array(names)


class _reading:
    """Turns an error in the content of a file into one that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        expected = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
        if isinstance(error, expected):
            found = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"{self.path}: found {found}, expected what flowreg writes: save or fit the model again"
            ) from error


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"JSON of {type(content).__name__}, where an object belongs")
    return content


def _check_entries(path: Path) -> None:
    """Refuse a directory that lacks the file that describes its estimator."""
    entries = path / _ENTRIES
    if not entries.is_file():
        return
    with _reading(entries):
        listed = list(_object(entries)["entries"])
    for name in (_ESTIMATOR, _SUMMARY):
        if name in listed and not (path / name).is_file():
            raise ValueError(
                f"{path / name}: found no such file, expected it, as {_ENTRIES} lists it: restore it, "
                f"or load {path / 'model.safetensors'} alone, as a LogisticRegression with default "
                "parameters"
            )


def _saved_estimator(
    content: dict[str, Any], found: dict[str, Any]
) -> tuple[Any, Array, np.dtype[Any]]:
    """The estimator, without its model, its labels, and the type of its weight, from the content of
    estimator.json and of the model file beside it."""
    version = content["version"]
    if version not in (1, _VERSION):
        raise ValueError(
            f"version {version!r}, which no flowreg writes, or a newer one; this one reads 1 and {_VERSION}"
        )
    if version > 1:
        if content["crc32"] != _crc32_of_fields(content):
            raise ValueError("fields that do not have the checksum in the field crc32")
        if content["model_crc32"] != _crc32_of_model(found["weight"], found["bias"], found["about"]):
            raise ValueError("the checksum of another model than that of model.safetensors")
    kinds = {kind.__name__: kind for kind in _estimators()}
    count = max(2, len(found["bias"]))
    if content["estimator"] not in kinds:
        raise ValueError(f"the estimator {content['estimator']!r}, none of {', '.join(kinds)}")
    params = {name: _decoded(value) for name, value in content["params"].items()}
    estimator = kinds[content["estimator"]]().set_params(**params)
    for name, value in content["fitted"].items():
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*_", name) or hasattr(estimator, name):
            raise ValueError(f"the result {name!r}, which no fit has")
        setattr(estimator, name, _decoded(value))
    if content["dtype"] not in ("float32", "float64"):
        raise ValueError(f"the dtype {content['dtype']!r}, neither float32 nor float64")
    classes = _decoded(content["classes"])
    if not isinstance(classes, np.ndarray) or classes.ndim != 1:
        raise ValueError("classes that are no array of one dimension")
    if len(np.unique(classes)) < len(classes):
        raise ValueError(f"the classes {classes.tolist()}, which are not distinct")
    if len(classes) != count:
        raise ValueError(f"{len(classes)} classes for a model of {count}")
    return estimator, classes, np.dtype(content["dtype"])


def _lost_options(summary: dict[str, Any], is_centered: bool) -> list[str]:
    """The options of a run that its estimator does not have, and that would change another fit."""
    is_sgd = summary["optimizer"] == "sgd"
    lost = []
    if summary["standardize"] not in (("none",) if is_sgd else ("none", "center")):
        # The bias of a converged fit is not penalised, so that its optimum does not depend on centring.
        lost.append(f"--standardize {summary['standardize']}")
    if summary["label_smoothing"] and not is_sgd:
        lost.append(f"--label-smoothing {summary['label_smoothing']}")
    if summary["class_weights"] not in ("equal", "balanced"):
        lost.append("--class-weight FILE")
    if summary.get("calibration") is not None:
        lost.append("--calibrate")
    if is_sgd and is_centered:
        lost.append("--center")
    if is_sgd and summary["init"] != "zeros" and not re.fullmatch(r"torch \(seed \d+\)", summary["init"]):
        lost.append(f"--init {summary['init']}")
    return lost


def _of_run(summary: dict[str, Any]) -> Any:
    """The estimator of a run of flowreg-fit, without its model."""
    from ._logistic import LogisticRegression
    from ._torch import TorchLinear

    class_weight = "balanced" if summary["class_weights"] == "balanced" else None
    if summary["optimizer"] != "sgd":
        l2, n = summary["l2"], summary["n"]
        if n < 1:
            raise ValueError(f"{n} rows (n)")
        converged = LogisticRegression(
            C=1 / (l2 * n) if l2 > 0 else np.inf,
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
    sgd.lr_ = summary["lr"]
    sgd.lr_bound_ = summary["lr_bound"]
    sgd.best_epoch_ = summary["best_epoch"]
    sgd.engine_ = summary["engine"]
    return sgd


def _history(path: Path, crc32: int | None) -> list[dict[str, Any]]:
    with _reading(path / _HISTORY):
        content = (path / _HISTORY).read_bytes()
        if crc32 is not None and crc32 != zlib.crc32(content):
            raise ValueError(f"epochs that do not have the checksum in {_ESTIMATOR}")
        return [json.loads(line) for line in content.splitlines()]


def _encoded(value: Any) -> Any:
    """A value as JSON; TypeError, with the type, for one that JSON cannot represent."""
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
    """The value of which `_encoded` made this."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float(value["float"])
    if "pairs" in value:
        return {_decoded(key): _decoded(item) for key, item in value["pairs"]}
    return np.array(_decoded(value["values"]), dtype=value["dtype"])
