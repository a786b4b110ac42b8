"""A linear layer trained along the trajectory of torch's SGD."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from ._arrays import Array, as_features, state_dict_of, threads, to_numpy
from ._base import COMMON_CONSTRAINTS, FLOAT32_MAX, LinearClassifier, check_magnitude, whole
from ._comm import Ranks, agreed, checksum, heard, ranks_of
from ._flowreg import fit_sgd
from ._logistic import listener


class TorchLinear(LinearClassifier):
    """``torch.nn.Linear`` trained by ``torch.optim.SGD``, without torch.

    The loss is ``BCEWithLogitsLoss`` of one output for two classes, else ``CrossEntropyLoss``. The
    initial weights have the bits of torch's after ``torch.manual_seed(seed)``, and every epoch has
    torch's loss. With fewer rows than features the trajectory is computed from products of rows,
    so that the cost of an epoch depends on the number of rows instead of features.

    Parameters
    ----------
    lr : float or 'auto', default=0.01
        Learning rate. 'auto' is 1/L, where L is a Lipschitz constant of the loss's gradient.
    epochs : int, default=100
        Number of passes over the rows.
    momentum, dampening, weight_decay : float, default=0.0
        As of ``torch.optim.SGD``; weight decay also acts on the bias.
    nesterov : bool, default=False
        As of ``torch.optim.SGD``.
    batch_size : int or None, default=None
        Rows per step; None: all. The order of rows is that of ``torch.randperm``.
    schedule : {'constant', 'step', 'cosine'}, default='constant'
        Learning rate over the epochs: ``StepLR(step_size, gamma)``, or ``CosineAnnealingLR`` to 0
        after the last epoch.
    step_size : int, default=30
        Number of epochs between changes, for the schedule 'step'.
    gamma : float, default=0.1
        Factor of each change, for the schedule 'step'.
    warmup : int, default=0
        Number of epochs of ``LinearLR``, from a third of the rate, before the schedule.
    seed : int, default=0
        Seed of the initial weights and of the order of batches.
    init : {'torch', 'zeros'}, default='torch'
        Initial weights, unless `load_state_dict` has set them.
    early_stopping : int or None, default=None
        Stop after this number of consecutive epochs without a lower validation loss, and keep the
        model of the best epoch. Requires validation rows.
    class_weight : dict, 'balanced' or None, default=None
        Weight of each class, as ``CrossEntropyLoss(weight=...)``.
    label_smoothing : float, default=0.0
        As of ``CrossEntropyLoss``.
    engine : {'auto', 'gram', 'primal'}, default='auto'
        'gram' uses products of rows, 'primal' the weight itself; 'auto' is the cheaper one.
    bias : bool, default=True
        As of ``torch.nn.Linear``. Without a bias `intercept_` is 0.
    verbose : int, default=0
        1 prints a line for each epoch.
    n_threads : int or None, default=None
        Number of threads, as of `LogisticRegression`.
    callback : callable or None, default=None
        Called with a dict for each event: ``event`` is 'gram_matrix' (with ``done``, ``total``) or
        'epoch' (with ``epoch``, ``lr``, ``loss``, ``val_loss``, ``val_accuracy``). An exception
        that it raises ends the fit.

    Attributes
    ----------
    coef_, intercept_ : ndarray
        Weight of shape (1 or n_classes, n_features) and bias; `state_dict` has both as float32.
    classes_ : ndarray of shape (n_classes,)
        Labels.
    history_ : list of dict
        For each epoch ``epoch``, ``lr``, ``loss`` (the mean of its batches, each before its step),
        and with validation rows ``val_loss`` and ``val_accuracy`` after it.
        ``pandas.DataFrame(model.history_)`` is a table.
    lr_ : float
        Learning rate before the factor of the schedule.
    lr_bound_ : float or None
        The learning rate below which full-batch steps decrease the loss, if it was computed.
    best_epoch_ : int or None
        With early stopping, the epoch whose model is kept.
    engine_ : str
        'gram' or 'primal'.

    Examples
    --------
    >>> import numpy as np
    >>> from flowreg import TorchLinear
    >>> X = np.float32([[0, 1], [0.2, 0.9], [1, 0.1], [0.8, 0]])
    >>> model = TorchLinear(lr=1.0).fit(X, [0, 0, 1, 1])
    >>> model.predict([[0.1, 0.8]])
    array([0])
    >>> sorted(model.state_dict())
    ['bias', 'weight']
    """

    history_: list[dict[str, Any]]

    # SGD needs no squares.
    _max_feature = FLOAT32_MAX

    # What depends on several of them is checked by the fit.
    _parameter_constraints: dict[str, Any] = {
        **COMMON_CONSTRAINTS,
        "lr": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "epochs": [whole(0)],
        "momentum": [Interval(Real, 0, None, closed="left")],
        "dampening": [Real],
        "nesterov": ["boolean"],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "batch_size": [whole(1), None],
        "schedule": [StrOptions({"constant", "step", "cosine"})],
        "step_size": [whole(1)],
        "gamma": [Interval(Real, 0, None, closed="left")],
        "warmup": [whole(0)],
        "seed": [whole(0, 2**32 - 1)],
        "init": [StrOptions({"torch", "zeros"})],
        "early_stopping": [whole(1), None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "engine": [StrOptions({"auto", "gram", "primal"})],
        "bias": ["boolean"],
    }

    def __init__(
        self,
        *,
        lr: float | str = 0.01,
        epochs: int = 100,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        batch_size: int | None = None,
        schedule: str = "constant",
        step_size: int = 30,
        gamma: float = 0.1,
        warmup: int = 0,
        seed: int = 0,
        init: str = "torch",
        early_stopping: int | None = None,
        class_weight: Any = None,
        label_smoothing: float = 0.0,
        engine: str = "auto",
        bias: bool = True,
        verbose: int = 0,
        n_threads: int | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        self.lr = lr
        self.epochs = epochs
        self.momentum = momentum
        self.dampening = dampening
        self.nesterov = nesterov
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.schedule = schedule
        self.step_size = step_size
        self.gamma = gamma
        self.warmup = warmup
        self.seed = seed
        self.init = init
        self.early_stopping = early_stopping
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.engine = engine
        self.bias = bias
        self.verbose = verbose
        self.n_threads = n_threads
        self.callback = callback

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        comm: Any = None,
    ) -> TorchLinear:
        """Train the model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features; also a torch tensor in memory.
        y : array-like of shape (n_samples,)
            Labels of any kind, of two classes or more. In sorted order they are torch's 0, 1, ...
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weight of each sample.
        X_val, y_val : array-like or None, default=None
            Validation rows, which are evaluated after every epoch.
        comm : communicator or None, default=None
            The processes that fit together, each with some of the rows: a communicator of mpi4py, or
            a `Comm`. All arrays are then the rows of this process; the dataset is
            those of all processes in the order of their ranks. All processes call `fit` with the same
            parameters, and get the same model. The callback, printed lines and warnings are those of
            process 0.

        Returns
        -------
        TorchLinear
            The estimator itself.

        Raises
        ------
        ValueError
            For invalid parameters or data.
        RuntimeError
            If the loss is not finite, because the learning rate is too large.
        """
        with ranks_of(comm, self) as ranks:
            return self._fit(X, y, sample_weight, X_val, y_val, ranks)

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, X_val: Any, y_val: Any, ranks: Ranks | None
    ) -> TorchLinear:
        with agreed(ranks):
            self._validate_params()
            if (X_val is None) != (y_val is None):
                raise ValueError("X_val and y_val: found one of them, expected both or none")
            if self.early_stopping is not None and X_val is None:
                raise ValueError(
                    f"early_stopping: found {self.early_stopping} without validation rows, expected "
                    "X_val and y_val in fit"
                )
            n_threads = threads(self.n_threads)
        fitted = self._unfitted()
        start = getattr(self, "_start", None)
        if ranks is not None:
            ranks.refuse_others(
                {
                    "X_val": "None" if X_val is None else "an array",
                    "state_dict": checksum(start),
                }
            )
        data = fitted._validate(X, y, sample_weight, ranks)
        if start is not None:
            c, d = len(fitted.classes_), data.rows.shape[1]
            expected = (1 if c == 2 else c, d)
            if start[0].shape != expected:
                raise ValueError(
                    f"state_dict: found a weight of shape {start[0].shape}, expected {expected}: "
                    "load one of this shape, or make a new TorchLinear"
                )
        fit = data.call(
            fit_sgd,
            lr=None if self.lr == "auto" else self.lr,
            epochs=self.epochs,
            momentum=self.momentum,
            dampening=self.dampening,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            seed=self.seed,
            schedule=self.schedule,
            step_size=self.step_size,
            gamma=self.gamma,
            warmup=self.warmup,
            init=self.init,
            start=start,
            early_stopping=self.early_stopping,
            class_weight=data.class_weight(),
            label_smoothing=self.label_smoothing,
            validation=None if X_val is None else fitted._validation(X_val, y_val, ranks),
            engine=self.engine,
            threads=n_threads,
            callback=heard(ranks, listener(self.verbose, self.callback)),
            fit_intercept=bool(self.bias),
        )
        data.set_model(fit)
        fitted.history_ = fit["history"]
        fitted.lr_ = fit["lr"]
        fitted.lr_bound_ = fit["lr_bound"]
        fitted.best_epoch_ = fit["best_epoch"]
        fitted.engine_ = fit["engine"]
        self._take_results(fitted)
        return self

    def _validation(self, X: Any, y: Any, ranks: Ranks | None) -> tuple[Array, Array]:
        """The validation rows of this process, and the labels of those of all as class numbers."""
        with agreed(ranks):
            X = to_numpy(X, "X_val")
            X = validate_data(self, X, reset=False, dtype="numeric", ensure_all_finite=False)
            with np.errstate(invalid="ignore"):
                # scikit-learn sums X first.
                assert_all_finite(X, estimator_name=type(self).__name__, input_name="X_val")
            rows = as_features(X, False)[0]
            if rows is not X:
                check_magnitude(self, X, rows, "X_val")
            numbers = self._class_numbers(y, "y_val")
            if ranks is not None and len(numbers) != len(rows):
                raise ValueError(
                    f"y_val: found {len(numbers)} labels, expected as many as rows of X_val, {len(rows)}"
                )
        return rows, numbers if ranks is None else ranks.gather_numbers(numbers)

    def state_dict(self) -> dict[str, Array]:
        """The state dict of a ``torch.nn.Linear``.

        Returns
        -------
        dict of ndarray
            ``weight`` (outputs x features) and, unless ``bias=False``, ``bias`` (outputs), float32;
            one output for two classes. For ``torch.nn.Linear.load_state_dict`` pass
            ``{k: torch.from_numpy(v) for k, v in model.state_dict().items()}``.
        """
        check_is_fitted(self)
        return state_dict_of(self.coef_, self.intercept_ if self.bias else None)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> TorchLinear:
        """Set the initial weights of later fits.

        Parameters
        ----------
        state_dict : mapping
            ``weight`` and, unless ``bias=False``, ``bias``, as arrays or tensors.

        Returns
        -------
        TorchLinear
            The estimator itself.

        Raises
        ------
        ValueError
            For other names, shapes that do not match, and numbers that are not finite in float32.
        """
        names = ["bias", "weight"] if self.bias else ["weight"]
        if sorted(state_dict) != names:
            raise ValueError(
                f"state_dict: found {sorted(state_dict)}, expected {names} with bias={self.bias}"
            )
        with np.errstate(over="ignore"):
            arrays = {
                name: np.ascontiguousarray(to_numpy(state_dict[name], name), dtype=np.float32)
                for name in names
            }
        weight = arrays["weight"]
        bias = arrays.get("bias", np.zeros(weight.shape[:1], np.float32))
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"state_dict: found a weight of shape {weight.shape} and a bias of shape "
                f"{bias.shape}, expected (outputs, features) and (outputs,)"
            )
        for name, values in (("weight", weight), ("bias", bias)):
            bad = values[~np.isfinite(values)]
            if len(bad):
                raise ValueError(
                    f"state_dict: found {bad[0]} in {name}, expected finite numbers of float32: load "
                    "the weights of an epoch before the loss became infinite or NaN"
                )
        self._start = (weight, bias)
        return self
