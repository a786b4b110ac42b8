"""Logistic regression with one penalty."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval

from ._arrays import Array, threads
from ._base import COMMON_CONSTRAINTS, Data, LinearClassifier, whole
from ._callbacks import CallbackSupportMixin, told, with_callbacks
from ._comm import Ranks, agreed, checksum, ranks_of
from ._flowreg import fit_path
from ._warnings import warn

_SOLVERS = {
    "newton": "newton",
    "newton-cg": "newton",
    "newton-cholesky": "newton",
    "lbfgs": "lbfgs",
}
# Of parameters that both estimators have, as scikit-learn's have them. Penalties and solvers are
# checked apart, to say what to use instead.
CONSTRAINTS: dict[str, Any] = {
    **COMMON_CONSTRAINTS,
    "dual": ["boolean"],
    "tol": [Interval(Real, 0, None, closed="left")],
    "fit_intercept": ["boolean"],
    "intercept_scaling": [Interval(Real, 0, None, closed="neither")],
    "random_state": ["random_state"],
    "max_iter": [whole(0)],
    "n_jobs": [Integral, None],
}


class LogisticRegression(CallbackSupportMixin, LinearClassifier):
    """Logistic regression with an l2 penalty and a certified optimum.

    Minimises ``C * sum_i w_i loss_i + |coef_|²/2``, the objective of scikit-learn's estimator of
    this name; `intercept_` is not penalised. The loss is logistic for two classes, else softmax.

    Parameters
    ----------
    penalty : {'l2', None}, default='l2'
        None is ``C=np.inf``.
    C : float, default=1.0
        Inverse of the penalty's strength, above 0; ``np.inf`` is no penalty.
    l1_ratio : float, default=0.0
        Only 0: an l1 penalty is not supported.
    dual : bool, default=False
        Only False. flowreg uses products of rows automatically where they are cheaper.
    tol : float, default=1e-5
        The fit ends when the norm of the gradient is at most `tol` times its norm at zero, and
        `gap_` is at most ``100 * tol`` times `objective_`. The status 'converged' holds for the
        solver's point; the gradient of the model, which is that point rounded to float32, may be
        above `tol` times its norm at zero where features have large scales. scikit-learn compares
        `tol` with the largest entry of the gradient, so that its effect depends on the scale of the
        data.
    fit_intercept : bool, default=True
        Whether to fit an intercept.
    intercept_scaling : float, default=1
        Not used, as in scikit-learn's solvers of these names.
    class_weight : dict, 'balanced' or None, default=None
        Weight of the samples of each class; 1 for classes that a dict lacks. A dict may have classes
        that y lacks, if it has all that y has.
    random_state : default=None
        Not used: the fit is deterministic.
    solver : {'newton', 'lbfgs', 'newton-cg', 'newton-cholesky'}, default='newton'
        The last two are 'newton'.
    max_iter : int, default=1000
        Largest number of steps of the solver.
    verbose : int, default=0
        1 prints a line for each step.
    warm_start : bool, default=False
        Whether to start at the model of the last fit. The optimum does not depend on it.
    n_jobs : int or None, default=None
        Number of threads, as `n_threads`; a negative number is all cores.
    n_threads : int or None, default=None
        Number of threads. None: `n_jobs`, else the environment's FLOWREG_NUM_THREADS or
        OMP_NUM_THREADS, else all cores. The result does not depend on it.
    callback : callable or None, default=None
        Called with a dict for each event of a fit: ``event`` is 'gram_matrix' (with ``done``,
        ``total``) or 'step' (with ``iteration``, ``objective``, ``gradient_norm``). An exception
        that it raises ends the fit. Pass scikit-learn's own callbacks to `set_callbacks`.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Weight, of X's type if that is float32, else float64. It has the precision of float32.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercept.
    classes_ : ndarray of shape (n_classes,)
        Labels.
    n_iter_ : ndarray of shape (1,)
        Number of steps of the solver, at least 1.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had names.
    status_ : str
        'converged', or 'iteration_limit', 'precision_limited', 'separable' or 'quasi_separable'.
    objective_ : float
        ``sum_i w_i loss_i / sum_i w_i + l2_/2 |coef_|²``: the objective above over C times the sum
        of the weights.
    gap_ : float or None
        Bound of the difference between `objective_` and its minimum; None without a penalty, and
        where a penalty is so weak that rounding leaves no bound, as with large C or sample weights.
    l2_ : float
        ``1 / (C * sum_i w_i)``.

    Notes
    -----
    Features are float32 while the fit runs. A C-ordered float32 array, also a memory map, is read
    where it is; others are converted once. A column far from 0 beside its spread is shifted by its
    mean first. Features beyond 1e15 are refused, so that sums of squares stay in the range of float32.
    Do not change X while a fit runs in another thread.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from flowreg import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression().fit(X, y)
    >>> model.status_
    'converged'
    >>> round(model.score(X, y), 3)
    0.973
    """

    status_: str
    objective_: float
    gap_: float | None
    l2_: float
    n_iter_: Array

    _parameter_constraints: dict[str, Any] = {
        **CONSTRAINTS,
        "C": [Interval(Real, 0, None, closed="right")],
        "warm_start": ["boolean"],
    }

    def __init__(
        self,
        penalty: str | None = "l2",
        *,
        C: float = 1.0,
        l1_ratio: float | None = 0.0,
        dual: bool = False,
        tol: float = 1e-5,
        fit_intercept: bool = True,
        intercept_scaling: float = 1,
        class_weight: Any = None,
        random_state: Any = None,
        solver: str = "newton",
        max_iter: int = 1000,
        verbose: int = 0,
        warm_start: bool = False,
        n_jobs: int | None = None,
        n_threads: int | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        self.penalty = penalty
        self.C = C
        self.l1_ratio = l1_ratio
        self.dual = dual
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.random_state = random_state
        self.solver = solver
        self.max_iter = max_iter
        self.verbose = verbose
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.n_threads = n_threads
        self.callback = callback

    @with_callbacks
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, comm: Any = None
    ) -> LogisticRegression:
        """Fit the model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features, dense.
        y : array-like of shape (n_samples,)
            Labels of any kind, of two classes or more.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weight of each sample. 0 is its removal, 2 its repetition.
        comm : communicator or None, default=None
            The processes that fit together, each with some of the rows: a communicator of mpi4py, or
            a `Comm`. X, y and `sample_weight` are then the rows of this process; the dataset is
            those of all processes in the order of their ranks. All processes call `fit` with the same
            parameters, and get the same model. The callback, printed lines and warnings are those of
            process 0.

        Returns
        -------
        LogisticRegression
            The estimator itself.

        Raises
        ------
        ValueError
            For invalid parameters or data.
        MemoryError
            If the matrices of the fit do not fit the memory.
        """
        with ranks_of(comm, self) as ranks:
            return self._fit(X, y, sample_weight, ranks)

    def _fit(self, X: Any, y: Any, sample_weight: Any, ranks: Ranks | None) -> LogisticRegression:
        with agreed(ranks):
            check_penalty(self.penalty, self.l1_ratio)
            options = solver_options(self)
        C = np.inf if self.penalty is None else float(self.C)
        fitted = self._unfitted()
        data = fitted._validate(X, y, sample_weight, ranks)
        if self.warm_start:
            is_fitted = getattr(self, "coef_", None) is not None
            with agreed(ranks):
                start = data.start(self) if is_fitted else None
            if ranks is not None:
                ranks.refuse_others({"warm_start: last model": checksum(start)})
            if start is not None:
                options["start"] = start
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        # The rows of the first process are the first ones.
        given = {"X": data.X, "y": data.y[: len(data.X)], "metadata": metadata}
        with told(self, given, options["callback"], ranks) as options["callback"]:
            steps = fit_one(fitted, data, C, options)
            fitted.n_iter_ = np.array([max(1, steps)], dtype=np.int32)
            self._take_results(fitted)
        return self


def fit_one(estimator: Any, data: Data, C: float, options: dict[str, Any]) -> int:
    """Fit one penalty to all rows and set what was found; the number of steps."""
    fit = data.call(
        fit_path, penalty="C", values=[C], class_weight=data.class_weight(), **options
    )
    data.set_model(fit)
    set_report(estimator, fit)
    warn_unless_converged(estimator, fit)
    return fit["iterations"]


def solver_options(estimator: Any) -> dict[str, Any]:
    """The options that both estimators give to `fit_path`, checked."""
    estimator._validate_params()
    solver = estimator.solver
    if not isinstance(solver, str) or solver not in _SOLVERS:
        advice = "'newton' finds the optimum of the l2 penalty"
        if solver == "saga":
            advice += "; for l1 use scikit-learn's LogisticRegression"
        elif solver == "liblinear":
            advice += ", which does not penalise the intercept as liblinear does"
        raise ValueError(
            f"solver: found {solver!r}, expected one of {', '.join(_SOLVERS)}: {advice}"
        )
    if estimator.dual:
        raise ValueError(
            "dual: found True, expected False: flowreg works with products of rows by itself "
            "where there are fewer rows than features"
        )
    return {
        "solver": _SOLVERS[solver],
        "tolerance": as_tolerance(estimator.tol),
        "max_iterations": int(estimator.max_iter),
        "fit_intercept": bool(estimator.fit_intercept),
        "threads": threads(estimator.n_threads, estimator.n_jobs),
        "callback": listener(estimator.verbose, estimator.callback),
    }


def as_tolerance(tol: float) -> float:
    """The tolerance as the compiled fits take it. At 0 the solver goes on until rounding stops it."""
    return max(float(tol), 1e-16)


def check_penalty(penalty: Any, l1_ratios: Any) -> None:
    """Check that the penalty is l2 or none."""
    is_l2 = l1_ratios is None or np.all(np.asarray(l1_ratios) == 0)
    if penalty not in ("l2", None, "deprecated") or not is_l2:
        raise ValueError(
            f"penalty: found {penalty!r} with an l1_ratio of {l1_ratios}, expected 'l2' or None: "
            "for l1 and elasticnet use scikit-learn's LogisticRegression(solver='saga')"
        )


def listener(
    verbose: int, callback: Callable[[dict[str, Any]], Any] | None
) -> Callable[[dict[str, Any]], Any] | None:
    """The callback for a compiled fit, which prints events if `verbose`."""
    if not verbose:
        return callback

    def tell(event: dict[str, Any]) -> None:
        values = (f"{name} {value!s}" for name, value in event.items() if np.isscalar(value))
        print("flowreg: " + ", ".join(values))
        if callback is not None:
            callback(event)

    return tell


def set_report(estimator: Any, fit: dict[str, Any]) -> None:
    """Set the status and measurements of the fit."""
    estimator.status_ = fit["status"]
    estimator.objective_ = fit["objective"]
    estimator.gap_ = fit["gap"]
    estimator.l2_ = fit["l2"]


def warn_unless_converged(estimator: Any, fit: dict[str, Any]) -> None:
    """Warn if the fit did not converge, with the criteria that it does not meet."""
    if fit["status"] == "converged":
        return
    tol, gap, objective = float(estimator.tol), fit["gap"], fit["objective"]
    share = fit["gradient_norm"] / (fit["initial_gradient_norm"] or 1.0)
    missing = []
    if share > tol:
        missing.append(f"the gradient is {share:.1e} of that at zero, above tol, {tol:.1e}")
    says_nothing = gap is not None and gap > objective
    if says_nothing and share <= tol:
        missing.append(
            f"gap_, {gap:.1e}, is above the objective itself, {objective:.1e}, as the penalty is too "
            "weak for a useful bound of the distance to the minimum"
        )
    elif gap is not None and not says_nothing and gap > 100 * tol * objective:
        missing.append(
            f"gap_, the bound of the distance to the minimum, is {gap:.1e}, above 100 times tol times "
            f"the objective, {100 * tol * objective:.1e}"
        )
    found = "; ".join(missing) or "a criterion of convergence does not hold"
    advice = "Lower C" if says_nothing and share <= tol else "Raise tol"
    texts = {
        "iteration_limit": f"max_iter={estimator.max_iter} steps were not enough: {found}. "
        "Raise max_iter, or scale the features",
        "precision_limited": f"rounding in float32 ended the fit before its optimum: {found}. "
        f"{advice}, scale the features, or replace single values far beyond the others",
        "separable": "the classes are separable and there is no penalty, so the loss has no "
        "minimum: set C",
        "quasi_separable": "some samples are separable and there is no penalty, so the loss has "
        "no minimum: set C",
    }
    other = f"the fit ended with status {fit['status']}: {found}"
    warn(texts.get(fit["status"], other), ConvergenceWarning)
