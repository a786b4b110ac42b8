"""Logistic regression with a penalty chosen by cross-validation."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import get_scorer, make_scorer
from sklearn.model_selection import check_cv
from sklearn.utils._param_validation import Interval
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.validation import check_is_fitted

from ._arrays import Array
from ._base import Data, LinearClassifier
from ._comm import Ranks, agreed, heard, ranks_of
from ._flowreg import are_rows_shared, available_memory, fit_path
from ._logistic import (
    CONSTRAINTS,
    LogisticRegression,
    as_tolerance,
    check_penalty,
    fit_one,
    set_report,
    solver_options,
)
from ._notebook import over_folds, plot_path
from ._warnings import warn


class LogisticRegressionCV(LinearClassifier):
    """Logistic regression whose penalty is chosen by cross-validation.

    The objective is that of `LogisticRegression`. Each fold is fitted for each C of `Cs`, from the
    strongest penalty to the weakest; the C with the highest mean score of held-out samples is
    fitted to all samples. The products of samples, or of features, are computed once for all folds
    and penalties, and once more for the last fit.

    Parameters
    ----------
    Cs : int or list of floats, default=10
        Inverse strengths of the penalty, above 0; ``np.inf`` is no penalty. A number is that of
        values from 1e-4 to 1e4, spaced geometrically.
    l1_ratios : None or (0,), default=None
        Only 0: an l1 penalty is not supported.
    fit_intercept : bool, default=True
        Whether to fit an intercept.
    cv : int, splitter, iterable of pairs of index arrays, or None, default=None
        The folds. None: five folds, stratified by class, in the order of the samples.
    dual : bool, default=False
        Only False.
    penalty : {'l2'}, default='l2'
        Only 'l2'.
    scoring : str, callable or None, default=None
        The score that chooses, one of scikit-learn's scorers; None is accuracy. 'neg_log_loss'
        distinguishes close penalties, accuracy often does not. The smallest C wins ties. A callable
        is called with a fold's estimator, its held-out rows and their labels. The estimator is a
        `LogisticRegression` of the C in question with all attributes of one.
    solver : {'newton', 'lbfgs', 'newton-cg', 'newton-cholesky'}, default='newton'
        The last two are 'newton'.
    tol : float, default=1e-5
        As of `LogisticRegression`, of the fit to all samples.
    max_iter : int, default=1000
        Largest number of steps of the solver for one penalty.
    class_weight : dict, 'balanced' or None, default=None
        Weight of the samples of each class; 'balanced' over all samples, as in scikit-learn.
    n_jobs : int or None, default=None
        Number of threads, as `n_threads`.
    verbose : int, default=0
        1 prints a line for each step.
    refit : bool, default=True
        False: the model is the mean of the folds' models, each for the fold's best C.
    intercept_scaling : float, default=1.0
        Not used.
    random_state : default=None
        Not used: give a splitter with a seed as `cv`.
    use_legacy_attributes : bool, default=False
        Only False.
    n_threads : int or None, default=None
        Number of threads, as of `LogisticRegression`.
    callback : callable or None, default=None
        Called with a dict for each event of a fit, as of `LogisticRegression`; those of folds
        have ``fold`` and ``l2``.
    store_coefs_paths : bool, default=True
        False leaves out `coefs_paths_`, and the time and memory that it takes.
    fold_tol : float or None, default=None
        `tol` of the fits of folds; a larger `tol` takes its place. None is `tol` without `refit`,
        when the folds' models are the result. With `refit` it is 1e-5: folds then give scores,
        which need not be as precise as a model of a smaller `tol`.

    Attributes
    ----------
    C_ : float
        The chosen C; without `refit` the mean of the folds' best C.
    Cs_ : ndarray of shape (n_cs,)
        All values of C.
    l1_ratio_ : float
        0.
    l1_ratios_ : ndarray of shape (1,)
        0.
    scores_ : ndarray of shape (n_folds, 1, n_cs)
        Scores of the held-out samples.
    coefs_paths_ : ndarray of shape (n_folds, 1, n_cs, 1 or n_classes, n_features + 1)
        Weights and, with `fit_intercept`, the intercept in the last column.
    n_iter_ : ndarray of shape (n_folds, 1, n_cs)
        Numbers of steps of the solver.
    coef_, intercept_, classes_, n_features_in_, feature_names_in_
        As of `LogisticRegression`.
    status_, objective_, gap_, l2_
        As of `LogisticRegression`, for the model that is fitted to all samples.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from flowreg import LogisticRegressionCV
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegressionCV(Cs=[0.01, 1, 100], scoring="neg_log_loss").fit(X, y)
    >>> model.C_
    100.0
    """

    C_: float
    scores_: Array

    _parameter_constraints: dict[str, Any] = {
        **CONSTRAINTS,
        "cv": ["cv_object"],
        "refit": ["boolean"],
        "use_legacy_attributes": ["boolean"],
        "store_coefs_paths": ["boolean"],
        "fold_tol": [Interval(numbers.Real, 0, None, closed="left"), None],
    }

    def __init__(
        self,
        *,
        Cs: Any = 10,
        l1_ratios: Any = None,
        fit_intercept: bool = True,
        cv: Any = None,
        dual: bool = False,
        penalty: str = "l2",
        scoring: Any = None,
        solver: str = "newton",
        tol: float = 1e-5,
        max_iter: int = 1000,
        class_weight: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        refit: bool = True,
        intercept_scaling: float = 1.0,
        random_state: Any = None,
        use_legacy_attributes: bool = False,
        n_threads: int | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        store_coefs_paths: bool = True,
        fold_tol: float | None = None,
    ) -> None:
        self.Cs = Cs
        self.l1_ratios = l1_ratios
        self.fit_intercept = fit_intercept
        self.cv = cv
        self.dual = dual
        self.penalty = penalty
        self.scoring = scoring
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.refit = refit
        self.intercept_scaling = intercept_scaling
        self.random_state = random_state
        self.use_legacy_attributes = use_legacy_attributes
        self.n_threads = n_threads
        self.callback = callback
        self.store_coefs_paths = store_coefs_paths
        self.fold_tol = fold_tol

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, comm: Any = None, **params: Any
    ) -> LogisticRegressionCV:
        """Choose C and fit the model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features, dense.
        y : array-like of shape (n_samples,)
            Labels of any kind, of two classes or more.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weight of each sample, in fits and, unless metadata routing is set otherwise, in scores.
        comm : communicator or None, default=None
            The processes that fit together, each with some of the rows: a communicator of mpi4py, or
            a `Comm`. X, y and `sample_weight` are then the rows of this process; the dataset is
            those of all processes in the order of their ranks. All processes call `fit` with the same
            parameters, and get the same model. The callback, printed lines and warnings are those of
            process 0.
            The folds are those that `cv` makes in process 0 of the labels of all rows; row numbers
            are those of all rows. A callable for `scoring` and ``params`` are not supported.
        **params : dict
            Metadata for the splitter and the scorer, with metadata routing.

        Returns
        -------
        LogisticRegressionCV
            The estimator itself.

        Raises
        ------
        ValueError
            For invalid parameters or data.
        MemoryError
            If the matrices of the fit, or `coefs_paths_`, do not fit the memory.
        """
        with ranks_of(comm, self) as ranks:
            return self._fit(X, y, sample_weight, ranks, params)

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, ranks: Ranks | None, params: dict[str, Any]
    ) -> LogisticRegressionCV:
        with agreed(ranks):
            options = solver_options(self)
            check_penalty(self.penalty, self.l1_ratios)
            if self.penalty is None:
                raise ValueError("penalty: found None, expected 'l2': there is no C to choose")
            if self.use_legacy_attributes:
                raise ValueError(
                    "use_legacy_attributes: found True, expected False: C_ is a number, scores_ and "
                    "coefs_paths_ are arrays"
                )
            if ranks is not None and params:
                raise ValueError(
                    f"fit: found {', '.join(params)} with comm, expected none: give folds of all "
                    "rows as cv, a list of pairs of row numbers"
                )
            fitted = self._unfitted()
            fitted.Cs_ = penalties(self.Cs)
        options["callback"] = heard(ranks, options["callback"])
        data = fitted._validate(X, y, sample_weight, ranks)
        with agreed(ranks):
            split, score = self._routed(data, params)
            # Of several processes, none has all rows; splitters take their number from X.
            rows = data.X if ranks is None else np.empty((len(data.labels), 0))
            given = check_cv(self.cv, data.y, classifier=True).split(rows, data.y, **split)
            keep_coefs = self.store_coefs_paths or not self.refit
            # scikit-learn's scorers use only predictions; others may use the rows and the estimator.
            scorer = with_labels(self._scorer(), fitted.classes_)
            is_own = not hasattr(scorer, "_score_func")
            if ranks is not None and is_own:
                raise ValueError(
                    f"scoring: found {type(scorer).__name__} with comm, expected a name of "
                    "scikit-learn or a scorer of make_scorer: no process has all rows"
                )
        folds = fold_rows(data, given)
        with agreed(ranks):
            measure = fitted._measure(data, scorer, is_own, score)
            run = Folds(data, fitted.Cs_, folds, measure, 1, keep_coefs, is_own)
        fold_tol = self.fold_tol
        if fold_tol is None:
            fold_tol = 1e-5 if self.refit else self.tol
        run.fit({**options, "fold_tolerance": as_tolerance(fold_tol)})
        if ranks is not None:
            run.scores = ranks.of_first(run.scores)
        scores = run.scores[:, :, 0]
        without = np.isnan(scores)
        if without.all():
            raise ValueError(
                "scoring: found NaN as the score of each fold and C, expected numbers: let the scorer "
                "return one"
            )
        of_scorer = np.argwhere(without & (run.statuses != "left out"))
        if len(of_scorer):
            fold, penalty = of_scorer[0]
            warn(
                f"scoring: found NaN as the score of fold {fold} and C={run.Cs[penalty]:.4g} (and of "
                f"{len(of_scorer) - 1} more), expected numbers: means leave these out"
            )
        fitted.scores_ = run.of_Cs(scores)
        fitted.n_iter_ = run.of_Cs(run.iterations)
        if run.coefs is not None and self.store_coefs_paths:
            fitted.coefs_paths_ = run.of_Cs(run.coefs)
        fitted.l1_ratio_ = 0.0
        fitted.l1_ratios_ = np.zeros(1)
        if self.refit:
            fitted.C_ = float(run.Cs[np.nanargmax(over_folds(scores)[0])])
            fit_one(fitted, data, fitted.C_, options)
        else:
            fitted._set_mean(run)
        self._take_results(fitted)
        return self

    def _measure(self, data: Data, scorer: Any, is_own: bool, params: dict[str, Any]) -> Measure:
        """The score as a function of a fold's estimator and its held-out rows.

        A scorer of the caller's `is_own`: it gets the rows and an estimator with all that
        `LogisticRegression` has.
        """
        n = len(data.labels)
        options = {name: getattr(self, name) for name in _OF_FOLDS}

        def measure(found: Solved) -> tuple[float]:
            rows = found.rows
            of_rows = {
                name: np.asarray(value)[rows] if np.shape(value)[:1] == (n,) else value
                for name, value in params.items()
            }
            X = data.X[rows] if is_own else np.empty((len(rows), 0))
            held_out = HeldOut(C=found.C, **options)
            held_out._set(self, X, found)
            score = scorer(held_out, X, data.y[rows], **of_rows)
            try:
                return (float(score),)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"scoring: found a score of type {type(score).__name__}, expected a number"
                ) from error

        return measure

    def _set_mean(self, run: Folds) -> None:
        """Set the mean of the folds' best models."""
        assert run.coefs is not None
        scores = run.scores[:, :, 0]
        scored = np.flatnonzero(~np.isnan(scores).all(axis=1))
        best = np.nanargmax(scores[scored], axis=1)
        mean = run.coefs[scored, best].mean(axis=0)
        d = self.n_features_in_
        self.coef_ = np.ascontiguousarray(mean[:, :d])
        self.intercept_ = mean[:, d] if self.fit_intercept else np.zeros(len(mean), mean.dtype)
        self.C_ = float(run.Cs[best].mean())
        statuses = run.statuses[scored, best]
        bad = statuses[statuses != "converged"]
        if len(bad):
            warn(
                f"{len(bad)} of the {len(statuses)} models of folds, whose mean is the model, did not "
                f"converge (status {bad[0]}): raise max_iter or tol, or scale the features",
                ConvergenceWarning,
            )

    def score(self, X: Any, y: Any, **params: Any) -> float:
        """The score of predictions by `scoring`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,)
            Labels.
        **params : dict
            Metadata for the scorer, such as ``sample_weight``.

        Returns
        -------
        float
            Higher is better.
        """
        if sklearn.get_config()["enable_metadata_routing"]:
            params = process_routing(self, "score", **params).scorer.score
        params = {name: value for name, value in params.items() if value is not None}
        return self._scorer()(self, X, y, **params)

    def plot_path(self, *, ax: Any = None) -> Any:
        """Draw the mean score of the held-out samples over C.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        matplotlib Axes
            With the mean and its deviation over the folds, and the chosen C.

        Raises
        ------
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from flowreg import LogisticRegressionCV
        >>> ax = LogisticRegressionCV(Cs=5).fit(*load_iris(return_X_y=True)).plot_path()
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('C', 'accuracy')
        """
        check_is_fitted(self)
        scoring = self.scoring or "accuracy"
        ylabel = scoring if isinstance(scoring, str) else "score"
        scores = self.scores_[:, 0]
        return plot_path(self.Cs_, *over_folds(scores), self.C_, ylabel, ax)

    def get_metadata_routing(self) -> Any:
        """The routing of metadata to the splitter and the scorer.

        Returns
        -------
        MetadataRouter
            The routing.
        """
        to_split = MethodMapping().add(caller="fit", callee="split")
        to_score = MethodMapping().add(caller="score", callee="score")
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(splitter=check_cv(self.cv), method_mapping=to_split)
            .add(
                scorer=self._scorer(),
                method_mapping=to_score.add(caller="fit", callee="score"),
            )
        )

    def _scorer(self) -> Any:
        return get_scorer(self.scoring or "accuracy")

    def _routed(
        self, data: Data, params: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The metadata for the splitter and for the scorer."""
        if sklearn.get_config()["enable_metadata_routing"]:
            if data.sample_weight is not None:
                params = {**params, "sample_weight": data.sample_weight}
            routed = process_routing(self, "fit", **params)
            return routed.splitter.split, routed.scorer.score
        if params:
            raise ValueError(
                f"fit: found {', '.join(params)}, expected none: such parameters need "
                "sklearn.set_config(enable_metadata_routing=True)"
            )
        if data.sample_weight is None:
            return {}, {}
        return {}, {"sample_weight": data.sample_weight}


def penalties(Cs: Any) -> Array:
    """The values of C, as scikit-learn reads them."""
    expected = "the number of values, or a list of values above 0 (np.inf is no penalty)"
    if isinstance(Cs, numbers.Integral) and int(Cs) >= 1:
        return np.logspace(-4, 4, int(Cs))
    try:
        values = np.asarray(Cs, dtype=np.float64)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"Cs: found {Cs!r}, expected {expected}") from error
    if values.ndim != 1 or not len(values) or not (values > 0).all():
        raise ValueError(f"Cs: found {Cs!r}, expected {expected}")
    return values


def row_numbers(rows: Any, n: int, fold: int) -> Array:
    """Row numbers of a fold, given as numbers or as a mask."""
    rows = np.asarray(rows)
    expected = f"expected numbers of rows, from 0 to {n - 1}, or a mask of {n} rows"
    is_mask = rows.dtype == bool
    # An empty list has the type of floats.
    if rows.ndim != 1 or (rows.dtype.kind not in "iub" and len(rows)) or (is_mask and len(rows) != n):
        raise ValueError(
            f"cv: found an array of {rows.dtype} and shape {rows.shape} in fold {fold}, {expected}"
        )
    if is_mask:
        rows = np.flatnonzero(rows)
    outside = rows[(rows < -n) | (rows >= n)]
    if len(outside):
        raise ValueError(f"cv: found row {outside[0]} in fold {fold}, {expected}")
    return np.ascontiguousarray(np.where(rows < 0, rows + n, rows), dtype=np.uint32)


def fold_rows(
    data: Data, folds: Iterable[Any], validation: str | None = None
) -> list[tuple[Array, Array]]:
    """Numbers of the rows that each fold fits and holds out.

    Warns once if a fold fits no row of a class that others have; `validation` names the argument
    that the held-out rows come from, if they are no part of X.
    """
    n, classes, weights = len(data.labels), data.estimator.classes_, data.sample_weight
    counts = np.ones(n) if weights is None else weights

    def numbers_of_rows() -> list[tuple[Array, Array]]:
        return [
            (row_numbers(fitted, n, fold), row_numbers(out, n, fold))
            for fold, (fitted, out) in enumerate(folds)
        ]

    ranks = data.ranks
    # A splitter may draw random numbers.
    rows = numbers_of_rows() if ranks is None else ranks.folds_of_first(numbers_of_rows)
    if not rows:
        raise ValueError(
            "cv: found no folds, expected one or more: if cv is an iterator or a generator, which one "
            "fit uses up, pass list(...) of a new one"
        )

    def has_rows(numbers: Array) -> Array:
        return np.bincount(data.labels[numbers], counts[numbers], len(classes)) > 0

    everywhere = has_rows(np.arange(n))
    absent = []
    for number, (fitted, _) in enumerate(rows):
        fits = has_rows(fitted)
        # The fit leaves out folds of fewer than two classes, and warns.
        if fits.sum() > 1:
            absent += [(number, classes[k]) for k in np.flatnonzero(everywhere & ~fits)]
    if absent:
        number, label = absent[0]
        more = f" (and {len(absent) - 1} more such cases)" if len(absent) > 1 else ""
        if validation is None:
            found = f"cv: fold {number} fits no row of class {label}{more}"
            advice = "use StratifiedKFold or fewer folds, or drop rare classes"
        else:
            found = f"{validation}: found class {label}, which no row to fit has{more}"
            advice = "add rows of it to those, or drop it"
        effect = "held-out rows of that class get probabilities near 0, which raises the log loss"
        warn(f"{found}: {effect}; {advice}")
    return rows


class Done(Exception):
    """Raised to end a fit whose folds are all scored."""


@dataclass
class Solved:
    """What the fit of a fold for one C found."""

    C: float
    rows: Array
    # Of the held-out rows.
    logits: Array
    # Status and measurements.
    report: dict[str, Any]
    # Weight and intercept, if they were asked for.
    model: tuple[Array, Array] | None


# Parameters of `LogisticRegression` that the folds' estimators take from `LogisticRegressionCV`.
_OF_FOLDS = (
    "dual tol fit_intercept intercept_scaling class_weight random_state solver max_iter n_jobs n_threads"
).split()


class HeldOut(LogisticRegression):
    """The estimator of a fold, for scorers. It knows the logits of the fold's held-out rows."""

    _rows: Any = None
    _logits: Array

    def _set(self, estimator: Any, rows: Any, found: Solved) -> None:
        """Set what is known of the fit of this fold."""
        self.classes_ = estimator.classes_
        self._rows, self._logits = rows, found.logits
        if found.model is None:
            return
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(estimator, name):
                setattr(self, name, getattr(estimator, name))
        self.coef_, self.intercept_ = found.model
        set_report(self, found.report)
        self.n_iter_ = np.array([max(1, found.report["iterations"])], dtype=np.int32)

    def decision_function(self, X: Any) -> Array:
        if X is not self._rows:
            return super().decision_function(X)
        return self._logits[:, 0] if self._logits.shape[1] == 1 else self._logits


Measure = Callable[[Solved], tuple[float, ...]]


class Folds:
    """Fits every fold for every C, and scores its held-out rows.

    `measure` returns `n_scores` scores of what the fit of a fold found; with `needs_models` that
    includes the model.
    """

    def __init__(
        self,
        data: Data,
        Cs: Array,
        folds: list[tuple[Array, Array]],
        measure: Measure,
        n_scores: int,
        keep_coefs: bool,
        needs_models: bool = False,
    ) -> None:
        self.data = data
        # Of the rows of all processes.
        self.shape = (len(data.labels), data.X.shape[1])
        self.given_Cs = Cs
        # In the order of the fit: the strongest penalty first.
        self.Cs = np.unique(Cs)
        self.rows = folds
        self.measure = measure
        self.needs_models = needs_models
        # The held-out rows whose model is not there yet.
        self.waiting: dict[str, Any] | None = None
        shape = (len(folds), len(self.Cs))
        # Scores of a fold that is left out remain NaN.
        self.scores = np.full((*shape, n_scores), np.nan)
        self.iterations = np.zeros(shape, np.int32)
        self.statuses = np.full(shape, "left out", object)
        self.scored = np.zeros(len(folds), np.intp)
        self.coefs: Array | None = None
        if keep_coefs:
            c = len(data.estimator.classes_)
            d = data.X.shape[1] + bool(data.estimator.fit_intercept)
            dtype = np.dtype(np.float32 if data.X.dtype == np.float32 else np.float64)
            size = (*shape, 1 if c == 2 else c, d)
            check_memory(size, dtype)
            self.coefs = np.full(size, np.nan, dtype)

    def fit(self, options: dict[str, Any]) -> None:
        """Fit and score all folds; `options` are those of `solver_options`."""
        listen = options["callback"]
        try:
            self.data.call(
                fit_path,
                penalty="C",
                values=list(self.Cs),
                class_weight=self.data.class_weight(),
                folds=self.rows,
                held_out=True,
                models=self.coefs is not None or self.needs_models,
                **{**options, "callback": lambda event: self._tell(event, listen)},
            )
        except Done:
            pass

    def _tell(self, event: dict[str, Any], listen: Callable[[dict[str, Any]], Any] | None) -> None:
        """Store scores and models from events of the fit; pass other events to `listen`."""
        kind, fold = event["event"], event.get("fold")
        if kind == "scored":
            raise Done
        if kind == "held_out" and self.data.ranks is not None and are_rows_shared(*self.shape):
            rows = self.rows[event["fold"]][1]
            logits = self.data.ranks.of_fold(rows, event["rows"], event["logits"])
            event = {**event, "rows": rows, "logits": logits}
        if kind == "held_out":
            # Its model follows, if there is one.
            if self.coefs is None and not self.needs_models:
                self._score(event, None)
            else:
                self.waiting = event
        elif kind == "solved":
            assert self.waiting is not None
            self._score(self.waiting, self.data.model(event))
        elif listen is not None:
            listen(event)

    def _score(self, event: dict[str, Any], model: tuple[Array, Array] | None) -> None:
        """Store what was found of one fold and C, and its score."""
        fold = event["fold"]
        penalty = self.scored[fold]
        self.scored[fold] += 1
        self.iterations[fold, penalty] = event["iterations"]
        self.statuses[fold, penalty] = event["status"]
        if self.coefs is not None and model is not None:
            weight, bias = model
            coefs = self.coefs[fold, penalty]
            coefs[:, : weight.shape[1]] = weight
            if self.data.estimator.fit_intercept:
                coefs[:, -1] = bias
        found = Solved(float(self.Cs[penalty]), event["rows"], event["logits"], event, model)
        self.scores[fold, penalty] = self.measure(found)

    def of_Cs(self, values: Array) -> Array:
        """Values of folds x penalties in the order of the given penalties."""
        if not np.array_equal(self.given_Cs, self.Cs):
            values = values[:, np.searchsorted(self.Cs, self.given_Cs)]
        return values[:, None]


def with_labels(scorer: Any, classes: Array) -> Any:
    """The scorer with the parameter `labels` if its metric has one: a fold may lack classes."""
    measure = getattr(scorer, "_score_func", None)
    if measure is None:
        return scorer
    asked = inspect.signature(measure).parameters
    if "labels" not in asked:
        return scorer
    known = {"labels": classes}
    if "pos_label" in asked and len(classes) == 2:
        known["pos_label"] = classes[1]
    return make_scorer(
        measure,
        greater_is_better=scorer._sign > 0,
        response_method=scorer._response_method,
        **{**known, **scorer._kwargs},
    )


def check_memory(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Check that the memory can hold the models of all folds and penalties."""
    needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    free = available_memory()
    if free is not None and needed > free:
        folds, Cs, outputs, features = shape
        raise MemoryError(
            f"coefs_paths_: {folds} folds x {Cs} Cs x {outputs} outputs x {features} coefficients "
            f"take {needed} bytes, and {free} are free: set store_coefs_paths=False (and refit=True)"
        )
