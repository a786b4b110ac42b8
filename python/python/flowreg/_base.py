"""The base of all classifiers: validation and conversion of data, and predictions."""

from __future__ import annotations

import sys
from inspect import signature
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
from scipy.sparse import csr_array, issparse
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import assert_all_finite
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

from ._arrays import MAX_THREADS, Array, _shift, as_float32, blocks, dense, shift_of, to_numpy
from ._comm import Ranks, agreed
from ._notebook import NotebookMixin
from ._saved import SavedMixin, is_of_bytes, quotients
from ._warnings import warn

Self = TypeVar("Self", bound="LinearClassifier")


def whole(least: int, most: int = sys.maxsize) -> Interval:
    """What scikit-learn's validation takes for a whole number of this range."""
    return Interval(Integral, least, most, closed="both")


# The weights of one process of several may all be 0. scikit-learn before 1.9 does not refuse that.
_MAY_BE_ZERO = (
    {"allow_all_zero_weights": True}
    if "allow_all_zero_weights" in signature(_check_sample_weight).parameters
    else {}
)
FLOAT32_MAX = float(np.finfo(np.float32).max)

# What the fits set. Each fit replaces all of it.
_RESULTS = frozenset(
    "coef_ intercept_ classes_ n_features_in_ feature_names_in_ status_ objective_ gap_ l2_ n_iter_ "
    "C_ Cs_ scores_ coefs_paths_ l1_ratio_ l1_ratios_ history_ lr_ lr_bound_ best_epoch_ engine_ "
    "_conversion".split()
)

# Of parameters that all estimators have.
COMMON_CONSTRAINTS: dict[str, Any] = {
    "class_weight": [dict, StrOptions({"balanced"}), None],
    "verbose": ["verbose"],
    "n_threads": [whole(1, MAX_THREADS), None],
    "callback": [callable, None],
}


class LinearClassifier(NotebookMixin, SavedMixin, ClassifierMixin, BaseEstimator):
    """A classifier whose logits are ``X @ coef_.T + intercept_``.

    Two classes have one logit, that of ``classes_[1]``; more classes have one each, for a softmax.
    """

    coef_: Array
    intercept_: Array
    classes_: Array

    # A communicator is no metadata of rows.
    __metadata_request__fit = {"comm": UNUSED}

    # The largest feature that `fit` takes: sums of its squares stay in the range of float32.
    _max_feature = 1e15

    def _validate_params(self) -> None:
        super()._validate_params()
        for name, value in vars(self).items():
            if name in self._parameter_constraints and isinstance(value, Integral):
                try:
                    float(value)
                except OverflowError as error:
                    raise ValueError(
                        f"{name}: found an integer above 1.8e308, expected a number that float64 has"
                    ) from error

    def decision_function(self, X: Any) -> Array:
        """Logits of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            Of two classes one number, above 0 where ``classes_[1]`` is predicted. float64, also of
            float32 features: float32 sums would round away differences of rows with large features.
        """
        check_is_fitted(self)
        X = validate_data(
            self, to_numpy(X, "X"), reset=False, dtype="numeric", ensure_all_finite=False
        )
        coef = self.coef_.T.astype(np.float64)
        scores = np.empty((len(X), coef.shape[1]), np.float64)
        of_bytes = is_of_bytes(self)
        with np.errstate(all="ignore"):
            for rows in blocks(len(X), 8 * X.shape[1]):
                block = quotients(X[rows]) if of_bytes else X[rows]
                scores[rows] = block.astype(np.float64, copy=False) @ coef + self.intercept_
        # NaN and infinity show in a row's logits, so that X is read once, unless a sparse weight
        # leaves features out.
        if issparse(coef) or not np.isfinite(scores).all():
            assert_all_finite(X, estimator_name=type(self).__name__, input_name="X")
        if not np.isfinite(scores).all():
            raise ValueError(
                "X: found rows whose logits overflow float64, expected smaller features: "
                "scale them as those of fit"
            )
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> Array:
        """The most probable class of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels from ``classes_``.
        """
        scores = self.decision_function(X)
        best = (scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)
        return self.classes_[best]

    def predict_proba(self, X: Any) -> Array:
        """Probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Columns in the order of ``classes_``.
        """
        scores = self.decision_function(X)
        if scores.ndim == 1:
            return np.stack([expit(-scores), expit(scores)], axis=1)
        return softmax(scores, axis=1)

    def predict_log_proba(self, X: Any) -> Array:
        """Logarithm of each class's probability, finite where the probability rounds to 0.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Columns in the order of ``classes_``.
        """
        scores = self.decision_function(X)
        if scores.ndim == 1:
            return np.stack([log_expit(-scores), log_expit(scores)], axis=1)
        return log_softmax(scores, axis=1)

    def sparsify(self: Self) -> Self:
        """Convert ``coef_`` to a sparse array, which a weight of many zeros makes smaller.

        Returns
        -------
        LinearClassifier
            The estimator itself; it predicts as before, and `fit` gives a dense ``coef_``.
        """
        check_is_fitted(self)
        self.coef_ = csr_array(self.coef_)
        return self

    def densify(self: Self) -> Self:
        """Convert ``coef_`` back to an ndarray.

        Returns
        -------
        LinearClassifier
            The estimator itself.
        """
        check_is_fitted(self)
        self.coef_ = dense(self.coef_)
        return self

    def _unfitted(self: Self) -> Self:
        """A copy without results, for a fit that may fail: `_take_results` ends a successful one."""
        copy = object.__new__(type(self))
        copy.__dict__ = {name: value for name, value in vars(self).items() if name not in _RESULTS}
        return copy

    def _take_results(self, fitted: LinearClassifier) -> None:
        """Replace all results by those of the copy, at once."""
        kept = {name: value for name, value in vars(self).items() if name not in _RESULTS}
        found = {name: value for name, value in vars(fitted).items() if name in _RESULTS}
        self.__dict__ = {**kept, **found}

    def _validate(
        self, X: Any, y: Any, sample_weight: Any, ranks: Ranks | None = None
    ) -> Data:
        """Check and convert the arguments of `fit`; set ``classes_`` and attributes of X.

        With `ranks`, X has the rows of this process; labels and weights become those of all.
        """
        with agreed(ranks):
            X, y = validate_data(
                self,
                to_numpy(X, "X"),
                to_numpy(y, "y"),
                dtype="numeric",
                ensure_all_finite=False,
            )
            if sample_weight is not None:
                sample_weight = _check_sample_weight(
                    sample_weight,
                    X,
                    dtype=np.float64,
                    ensure_non_negative=True,
                    **({} if ranks is None else _MAY_BE_ZERO),
                )
        if ranks is not None:
            ranks.refuse_others(
                {
                    "X: number of features": X.shape[1],
                    "X: type": X.dtype.str,
                    "X: names of features": list(getattr(self, "feature_names_in_", [])),
                    "y: kind of labels": y.dtype.kind,
                    "sample_weight": "None" if sample_weight is None else "an array",
                }
            )
            y = ranks.labels(y)
            if sample_weight is not None:
                sample_weight = np.concatenate(ranks.gather(sample_weight))
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        present = labels if sample_weight is None else labels[sample_weight > 0]
        if len(np.unique(present)) < 2:
            where = "" if sample_weight is None else " of weight above 0"
            raise ValueError(
                f"y: found samples{where} of one class only, expected two classes or more"
            )
        data = Data(self, X, y, labels.astype(np.uint32), sample_weight, ranks)
        self._conversion = {} if data.shift is None else {"numbers": {"shift": data.shift}}
        return data

    def _class_numbers(self, y: Any, name: str) -> Array:
        """Labels of y as numbers in ``classes_``."""
        y = np.asarray(to_numpy(y, name))
        labels = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        unknown = np.flatnonzero(self.classes_[labels] != y)
        if len(unknown):
            raise ValueError(
                f"{name}: found {y[unknown[0]]} in row {unknown[0]}, expected the labels of y"
            )
        return labels.astype(np.uint32)


def _plain(label: Any) -> Any:
    """The label without NumPy's type, which messages would show."""
    return label.item() if isinstance(label, np.generic) else label


def check_magnitude(estimator: Any, X: Array, rows: Array, name: str) -> None:
    """Refuse features that the fit cannot use; `rows` are those of X in float32."""
    limit = estimator._max_feature
    largest = np.zeros(rows.shape[1], np.float32)
    for part in blocks(len(rows), 4 * rows.shape[1]):
        np.maximum(largest, np.abs(rows[part]).max(axis=0), out=largest)
    column = int(largest.argmax())
    if largest[column] <= limit:
        return
    value = float(np.abs(X[:, column].astype(np.float64)).max())
    names = getattr(estimator, "feature_names_in_", None)
    label = column if names is None else repr(names[column])
    if limit == FLOAT32_MAX:
        expected = "at most 3.4e38, the largest number of float32"
    else:
        expected = "at most 1e15, so that sums of squares stay in the range of float32"
    raise ValueError(
        f"{name}: found {value:.3g} in column {label}, the largest there, expected {expected}: "
        "scale the columns first, for example by sklearn.preprocessing.MaxAbsScaler"
    )


class Data:
    """The converted arguments of `fit`.

    With `ranks`, X and `rows` are those of this process; all else is of the rows of all.
    """

    def __init__(
        self,
        estimator: Any,
        X: Array,
        y: Array,
        labels: Array,
        sample_weight: Array | None,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks
        self.estimator = estimator
        self.X = X
        self.y = y
        self.labels = labels
        self.sample_weight = sample_weight
        may_shift = getattr(estimator, "fit_intercept", False)
        name = type(estimator).__name__
        if ranks is not None:
            with ranks.agree():
                assert_all_finite(X, estimator_name=name, input_name="X")
        self.shift = shift_of(X, may_shift, _shift if ranks is None else ranks.shift)
        with agreed(ranks):
            self.rows = as_float32(X, self.shift if may_shift else None)
            if ranks is not None:
                check_magnitude(estimator, X, self.rows, "X")
        if self.shift is not None and not may_shift:
            columns = ", ".join(map(str, np.flatnonzero(self.shift)[:5]))
            warn(
                f"X: float32, in which {name} computes, rounds columns "
                f"{columns} by more than 1e-4 of their spread: subtract their means"
            )
            self.shift = None
        is_first = ranks is None or ranks.rank == 0
        if getattr(estimator, "verbose", 0) and self.rows is not X and is_first:
            print(
                f"flowreg: X of {X.dtype} was converted to float32 in {self.rows.nbytes} bytes"
            )

    def class_weight(self) -> Array | None:
        """The weight of each class, from `class_weight` as in scikit-learn.

        A dict may have classes that y lacks, as folds and samples may lack rare ones; unless it also
        leaves out a class of y, which is a typing error.
        """
        given, classes = self.estimator.class_weight, self.estimator.classes_.tolist()
        if given is None:
            return None
        if given == "balanced":
            totals = np.bincount(self.labels, self.sample_weight, minlength=len(classes))
            mean = totals.sum() / np.count_nonzero(totals)
            weights = np.divide(mean, totals, out=np.ones(len(classes)), where=totals > 0)
            return weights if self.ranks is None else self.ranks.of_first(weights)
        unknown = [label for label in given if label not in classes]
        missing = [label for label in classes if label not in given]
        if unknown and missing:
            raise ValueError(
                f"class_weight: found a weight for {_plain(unknown[0])!r} and none for {missing[0]!r}, "
                f"expected labels of y, {classes}: correct the label, or give a weight for each of them"
            )
        return np.array([given.get(label, 1.0) for label in classes], dtype=np.float64)

    def call(self, fit: Any, **options: Any) -> dict[str, Any]:
        """Call a compiled fit. NaN and infinity raise scikit-learn's errors."""
        try:
            with agreed(self.ranks):
                return fit(
                    self.rows,
                    self.labels,
                    len(self.estimator.classes_),
                    sample_weight=self.sample_weight,
                    comm=self.ranks,
                    **options,
                )
        except ValueError as error:
            # Those of several processes were checked before.
            if str(error).startswith("x: found") and self.ranks is None:
                name = type(self.estimator).__name__
                assert_all_finite(self.X, estimator_name=name, input_name="X")
                check_magnitude(self.estimator, self.X, self.rows, "X")
            raise

    def model(self, fit: dict[str, Any]) -> tuple[Array, Array]:
        """``coef_`` and ``intercept_`` for the rows before the shift."""
        dtype = np.float32 if self.X.dtype == np.float32 else np.float64
        bias = fit["bias"].astype(np.float64)
        if self.shift is not None:
            bias -= fit["weight"] @ self.shift
            if self.ranks is not None:
                # The product depends on the machine's library.
                bias = self.ranks.of_first(bias)
        return fit["weight"].astype(dtype), bias.astype(dtype)

    def set_model(self, fit: dict[str, Any]) -> None:
        """Set ``coef_`` and ``intercept_``."""
        self.estimator.coef_, self.estimator.intercept_ = self.model(fit)

    def start(self, fitted: Any) -> tuple[Array, Array]:
        """The model of the last fit, as one of the converted rows."""
        coef, intercept = dense(fitted.coef_), fitted.intercept_
        c, d = len(self.estimator.classes_), self.rows.shape[1]
        expected = (1 if c == 2 else c, d)
        if coef.shape != expected:
            raise ValueError(
                f"warm_start: found a model with coef_ of shape {coef.shape}, expected "
                f"{expected}: set warm_start=False, or fit as many features and classes"
            )
        if self.shift is not None:
            intercept = intercept + coef @ self.shift
        return (
            np.ascontiguousarray(coef, dtype=np.float32),
            np.ascontiguousarray(intercept, dtype=np.float32),
        )
