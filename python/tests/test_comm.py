"""Fits of several processes: threads stand for them here, and mpirun starts some at the end."""

import functools
import os
import pickle
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.model_selection import StratifiedKFold

from flowreg import Comm, LogisticRegression, LogisticRegressionCV, TorchLinear, _arrays, rows_of
from flowreg._comm import Ranks

# A test that waits longer hangs.
SECONDS = 60


class Group:
    """Threads that sum vectors together."""

    def __init__(self, size):
        self.size = size
        self.barrier = threading.Barrier(size, timeout=SECONDS)
        self.parts = [None] * size
        self.callers = set()

    def comm(self, rank):
        def add(values):
            assert values.dtype == np.int64 and values.ndim == 1 and values.flags.c_contiguous
            self.callers.add((rank, threading.get_ident()))
            self.parts[rank] = values.copy()
            self.barrier.wait()
            assert len({len(part) for part in self.parts}) == 1
            total = np.sum(self.parts, axis=0)
            # No sum overflows: this one is of Python's numbers.
            if len(values) < 100:
                assert total.tolist() == [sum(column) for column in zip(*(p.tolist() for p in self.parts))]
            self.barrier.wait()
            values[:] = total

        return Comm(rank, self.size, add)


def on_ranks(size, work):
    """What `work` returns on each rank, or the exception that it raises."""
    group = Group(size)
    found = [None] * size

    def run(rank):
        try:
            found[rank] = work(group.comm(rank))
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive(), "hangs"
    assert not any(isinstance(error, threading.BrokenBarrierError) for error in found), found
    return found


def fitted(size, work):
    found = on_ranks(size, work)
    for error in found:
        if isinstance(error, Exception):
            raise error
    return found


# Where the rows of each rank end, for 30 rows: one rank has a single row.
ENDS = {1: [30], 2: [13, 30], 3: [10, 11, 30], 4: [5, 6, 19, 30]}
N, D = 30, 300


def own(comm, rows=ENDS):
    ends = [0, *rows[comm.size]]
    return slice(ends[comm.rank], ends[comm.rank + 1])


def data(classes, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(N) % classes
    X = rng.normal(size=(N, D)) + 0.3 * rng.normal(size=(classes, D))[y]
    return X.astype(dtype), y


def same_on_any_number(estimator, X, y, weights=None, rows=ENDS):
    """The model of the rows on 1, 2, 3 and 4 ranks, which must have the same bits everywhere."""
    models = []
    for size in rows:
        models += fitted(
            size,
            lambda comm: pickle.loads(pickle.dumps(estimator)).fit(
                X[own(comm, rows)],
                y[own(comm, rows)],
                None if weights is None else weights[own(comm, rows)],
                comm=comm,
            ),
        )
    for model in models:
        assert model.coef_.tobytes() == models[0].coef_.tobytes()
        assert model.intercept_.tobytes() == models[0].intercept_.tobytes()
        assert model.classes_.tolist() == models[0].classes_.tolist()
        assert model.classes_.dtype == models[0].classes_.dtype
    return models[0]


def near(model, plain, tolerance=1e-4):
    assert model.coef_.shape == plain.coef_.shape and model.coef_.dtype == plain.coef_.dtype
    assert model.classes_.tolist() == plain.classes_.tolist()
    scale = np.abs(plain.coef_).max()
    assert np.abs(model.coef_ - plain.coef_).max() <= tolerance * scale
    off = np.abs(model.intercept_ - plain.intercept_).max()
    assert off <= tolerance * max(1.0, np.abs(plain.intercept_).max())
    if hasattr(plain, "objective_"):
        # Both are within their gap of the minimum.
        allowed = model.gap_ + plain.gap_ + 1e-6 * plain.objective_
        assert abs(model.objective_ - plain.objective_) <= allowed
        assert model.status_ == plain.status_ == "converged"


STRINGS = np.array(["one", "three", "eleven", "a", "zz"])


@pytest.mark.parametrize(
    ("classes", "dtype", "labels"),
    [
        (2, np.float32, None),
        (2, np.float64, np.array([-0.5, 1.5]).round()),
        (2, np.float32, np.array([False, True])),
        (5, np.float32, None),
        (5, np.float64, STRINGS),
        (5, np.float64, STRINGS.astype(object)),
        (5, np.int16, None),
    ],
)
@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
def test_any_number_of_processes_gives_the_same_optimum(classes, dtype, labels, solver):
    X, y = data(classes)
    X = (X * 100 if dtype == np.int16 else X).astype(dtype)
    y = y if labels is None else labels[y]
    estimator = LogisticRegression(C=0.01 if dtype == np.int16 else 1.0, solver=solver)
    model = same_on_any_number(estimator, X, y)
    near(model, estimator.fit(X, y))
    assert model.classes_.dtype == estimator.classes_.dtype


def test_labels_that_some_processes_lack():
    X, y = data(5)
    order = np.argsort(y, kind="stable")
    near(same_on_any_number(LogisticRegression(), X[order], y[order]), LogisticRegression().fit(X, y))


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 2.0, 1: 0.5, 2: 1.0}])
def test_weights_are_of_all_rows(class_weight):
    X, y = data(3)
    y[::4] = 0
    weights = np.random.default_rng(1).uniform(0.5, 2, N)
    weights[::7] = 0
    # All weights of a process are 0.
    weights[:6] = 0
    estimator = LogisticRegression(class_weight=class_weight)
    near(same_on_any_number(estimator, X, y, weights), estimator.fit(X, y, weights))


def test_repeated_rows():
    X, y = data(3)
    X[10:20] = X[:10]
    y[10:20] = y[:10]
    near(same_on_any_number(LogisticRegression(), X, y), LogisticRegression().fit(X, y))


def test_shifts_are_of_all_rows():
    X, y = data(3, np.float64)
    X[:, 7] += 1.7e9
    X[:, 8] = 1e12
    X[:, 9] += np.arange(N) * 1e3 + 5e5
    estimator = LogisticRegression(tol=1e-8)
    model = same_on_any_number(estimator, X, y)
    plain = estimator.fit(X, y)
    assert abs(model.objective_ - plain.objective_) <= model.gap_ + plain.gap_ + 1e-6 * plain.objective_
    assert np.abs(model.predict_proba(X) - plain.predict_proba(X)).max() < 1e-3


def test_a_shift_is_that_of_one_process():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 5))
    X[:, 1] += 1e7
    X[:, 2] *= 1e-3
    # An outlier of one process, beside which float32 rounds the other rows.
    X[599, 2] = 1e3
    X[:, 3] = 7.7
    ends = {3: [1, 300, 600]}
    expected = _arrays._shift(X, 1e-6)
    assert (expected != 0).tolist() == [False, True, True, False, False]
    for found in fitted(3, lambda comm: Ranks(comm).shift(X[own(comm, ends)], 1e-6)):
        assert np.allclose(found, expected, rtol=1e-14, atol=0)
    assert fitted(3, lambda comm: Ranks(comm).shift(X[own(comm, ends), :1], 1e-6)) == [None] * 3


def test_files_that_all_processes_read(tmp_path):
    X, y = data(5)
    np.save(tmp_path / "X.npy", X)

    def work(comm):
        rows = np.load(tmp_path / "X.npy", mmap_mode="r")
        mine = rows_of(comm, len(rows))
        return LogisticRegression().fit(rows[mine], y[mine], comm=comm)

    for size in (1, 3, 4):
        near(fitted(size, work)[0], LogisticRegression().fit(X, y))
    parts = [rows_of(Comm(rank, 4, print), 30) for rank in range(4)]
    assert np.concatenate([np.arange(30)[part] for part in parts]).tolist() == list(range(30))


def tall(classes, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(2100) % classes
    X = rng.normal(size=(2100, 12)) + 0.5 * rng.normal(size=(classes, 12))[y]
    return X.astype(np.float32), y


# One rank has rows of several blocks, one a single row; or all have whole blocks.
TALL = {1: [2100], 2: [1024, 2100], 3: [1, 1100, 2100], 4: [512, 1024, 1536, 2100]}


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
def test_tall_data(classes, solver):
    X, y = tall(classes)
    weights = np.random.default_rng(1).uniform(0, 2, len(y)).round(1)
    estimator = LogisticRegression(solver=solver, class_weight="balanced")
    near(same_on_any_number(estimator, X, y, weights, TALL), estimator.fit(X, y, weights))
    assert [rows_of(Comm(rank, 2, print), 2100) for rank in (0, 1)] == [slice(0, 1024), slice(1024, 2100)]


def test_cross_validation_of_tall_data():
    X, y = tall(3)
    weights = np.random.default_rng(1).integers(0, 3, len(y)).astype(float)
    estimator = LogisticRegressionCV(Cs=3, cv=3, scoring="neg_log_loss")
    plain = LogisticRegressionCV(Cs=3, cv=3, scoring="neg_log_loss").fit(X, y, weights)
    model = same_on_any_number(estimator, X, y, weights, TALL)
    assert model.C_ == plain.C_ and np.abs(model.scores_ - plain.scores_).max() < 1e-3
    near(model, plain)
    # In another order than that of the ranks, and one fold without rows of the first rank.
    folds = [(np.arange(2100), np.arange(2099, 1600, -1)), (np.arange(1500), np.r_[7:2, 1990:20:-9, 7, 7])]
    folds = [(rows.tolist(), held_out.tolist()) for rows, held_out in folds]
    estimator.set_params(cv=folds)
    scores = [
        model.scores_.tobytes()
        for size in TALL
        for model in fitted(
            size,
            lambda comm: pickle.loads(pickle.dumps(estimator)).fit(X[own(comm, TALL)], y[own(comm, TALL)], comm=comm),
        )
    ]
    assert len(set(scores)) == 1
    plain = LogisticRegressionCV(Cs=3, cv=folds, scoring="neg_log_loss").fit(X, y)
    assert np.abs(np.frombuffer(scores[0]) - plain.scores_.ravel()).max() < 1e-3


@pytest.mark.parametrize(("init", "batch_size"), [("torch", None), ("zeros", 100)])
def test_trajectories_of_tall_data(init, batch_size):
    X, y = tall(4)
    estimator = TorchLinear(init=init, lr=0.1, epochs=5, momentum=0.5, batch_size=batch_size)
    near(same_on_any_number(estimator, X, y, None, TALL), estimator.fit(X, y))
    ends = {1: [99], 2: [98, 99], 3: [1, 50, 99], 4: [1, 2, 3, 99]}
    X_val, y_val = tall(4, seed=2)[0][:99], y[:99]
    estimator.set_params(early_stopping=2, lr=0.5)

    def work(comm):
        mine, held = own(comm, TALL), own(comm, ends)
        model = pickle.loads(pickle.dumps(estimator))
        return model.fit(X[mine], y[mine], X_val=X_val[held], y_val=y_val[held], comm=comm)

    plain = estimator.fit(X, y, X_val=X_val, y_val=y_val)
    for size in TALL:
        for model in fitted(size, work):
            near(model, plain)
            assert model.best_epoch_ == plain.best_epoch_


def test_warm_start():
    X, y = data(3)

    def work(comm):
        model = LogisticRegression(warm_start=True, C=0.5, tol=1e-8).fit(X[own(comm)], y[own(comm)], comm=comm)
        return model.set_params(C=0.501).fit(X[own(comm)], y[own(comm)], comm=comm)

    model, cold = fitted(3, work)[2], LogisticRegression(C=0.501, tol=1e-8).fit(X, y)
    near(model, cold)
    assert model.n_iter_ < cold.n_iter_


@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("scoring", [None, "neg_log_loss"])
def test_cross_validation(refit, scoring):
    X, y = data(3)
    weights = np.random.default_rng(1).uniform(0.5, 2, N)
    weights[::4] = 0
    estimator = LogisticRegressionCV(Cs=[1e-3, 1e-1, 10], cv=3, refit=refit, scoring=scoring)
    model = same_on_any_number(estimator, X, y, weights)
    plain = estimator.fit(X, y, weights)
    assert model.C_ == plain.C_
    assert np.abs(model.scores_ - plain.scores_).max() < 1e-3
    assert np.abs(model.coefs_paths_ - plain.coefs_paths_).max() < 1e-2 * np.abs(plain.coefs_paths_).max()
    if refit:
        near(model, plain)


def test_folds_are_those_of_the_first_process():
    X, y = data(3)
    estimator = LogisticRegressionCV(Cs=4, cv=StratifiedKFold(3, shuffle=True), scoring="neg_log_loss")
    models = fitted(3, lambda comm: pickle.loads(pickle.dumps(estimator)).fit(X[own(comm)], y[own(comm)], comm=comm))
    assert all(model.scores_.tobytes() == models[0].scores_.tobytes() for model in models)
    folds = [(list(range(20)), list(range(20, 30))), (np.arange(N) >= 10, np.arange(N) < 10)]
    estimator = LogisticRegressionCV(Cs=4, cv=folds)
    plain = LogisticRegressionCV(Cs=4, cv=folds).fit(X, y)
    assert same_on_any_number(estimator, X, y).scores_.shape == plain.scores_.shape


@pytest.mark.parametrize("init", ["torch", "zeros"])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("batch_size", [None, 7])
def test_trajectories(init, classes, batch_size):
    X, y = data(classes)
    estimator = TorchLinear(init=init, lr=0.01, epochs=20, momentum=0.5, seed=3, batch_size=batch_size)
    model = same_on_any_number(estimator, X, y)
    plain = estimator.fit(X, y)
    near(model, plain)
    losses = [[epoch["loss"] for epoch in model.history_] for model in (model, plain)]
    assert np.allclose(*losses, rtol=1e-4)


def test_validation_rows_are_of_all_processes():
    X, y = data(3)
    X_val, y_val = data(3, seed=0)[0] + 0.5 * data(3, seed=4)[0], y
    estimator = TorchLinear(lr=0.1, epochs=30, early_stopping=3)

    def work(comm):
        rows = own(comm)
        return pickle.loads(pickle.dumps(estimator)).fit(
            X[rows], y[rows], X_val=X_val[rows], y_val=y_val[rows], comm=comm
        )

    plain = estimator.fit(X, y, X_val=X_val, y_val=y_val)
    for size in ENDS:
        for model in fitted(size, work):
            near(model, plain)
            assert model.best_epoch_ == plain.best_epoch_


def test_states_are_of_all_processes():
    X, y = data(3)
    state = TorchLinear(epochs=3).fit(X, y).state_dict()
    model = same_on_any_number(TorchLinear(epochs=5).load_state_dict(state), X, y)
    near(model, TorchLinear(epochs=5).load_state_dict(state).fit(X, y))


# Refusals: on all ranks, with one message.


def changed(comm, rank, X, y, changes):
    """The arguments of `fit` on this rank; `changes` replaces those of one rank."""
    given = {"X": X[own(comm)], "y": y[own(comm)]}
    if comm.rank == rank:
        given.update({name: value(given) for name, value in changes.items()})
    return given


def with_nan(given):
    X = given["X"].copy()
    X[-1, 5] = np.nan
    return X


REFUSED = {
    "NaN": (dict(X=with_nan), "contains NaN"),
    "large": (dict(X=lambda given: given["X"] * 1e20), "expected at most 1e15"),
    "features": (dict(X=lambda given: given["X"][:, :-1]), "X: number of features: found 299 in process 2 and 300"),
    "type": (dict(X=lambda given: given["X"].astype(np.float64)), "X: type: found <f8"),
    "rows": (dict(X=lambda given: given["X"][:0], y=lambda given: given["y"][:0]), "0 sample"),
    "lengths": (dict(y=lambda given: given["y"][:-1]), "inconsistent"),
    "labels": (dict(y=lambda given: given["y"].astype(str)), "y: kind of labels: found U"),
    "columns": (dict(y=lambda given: [[0, 1]] * len(given["y"])), "y should be a 1d array"),
    "weights": (dict(sample_weight=lambda given: np.ones(len(given["y"]))), "sample_weight: found an array"),
    "None": (dict(y=lambda given: np.array([None, "a"], object)[given["y"] % 2]), "y: kind of labels: found O"),
    "continuous": (dict(y=lambda given: given["y"] + 0.5), "y: kind of labels: found f"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("estimator", [LogisticRegression, LogisticRegressionCV, TorchLinear])
def test_invalid_inputs_of_one_process_are_refused_by_all(name, estimator):
    if name == "large" and estimator is TorchLinear:
        return
    X, y = data(3)
    changes, message = REFUSED[name]
    found = on_ranks(3, lambda comm: estimator().fit(**changed(comm, 2, X, y, changes), comm=comm))
    for error in found:
        assert isinstance(error, ValueError), found
        assert str(error).split(" (in process")[0] == str(found[2]).split(" (in process")[0]
    with pytest.raises(ValueError, match=message):
        raise found[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda rank: LogisticRegression(C=1.0 + rank), r"parameters: found .*C=2.0.* in process 1"),
        (lambda rank: LogisticRegression(C=1.0 + rank * 1e-15), r"parameters: found .* in process 1"),
        (
            lambda rank: LogisticRegressionCV(Cs=np.geomspace(1e-3, 1 + rank * 1e-9, 1200)),
            r"parameters: found .* in process 1",
        ),
        (lambda rank: [LogisticRegression(), TorchLinear()][rank], "estimator: found TorchLinear in process 1"),
        (lambda rank: LogisticRegression(C=-1), "'C' parameter"),
        (lambda rank: LogisticRegression(solver="saga"), "solver: found 'saga'"),
        (lambda rank: LogisticRegression(n_threads=[1, 5000][rank]), "'n_threads' parameter"),
        (lambda rank: LogisticRegressionCV(cv=100), "n_splits=100"),
        (lambda rank: LogisticRegressionCV(scoring=lambda *_: 1.0), "scoring: found"),
        (lambda rank: TorchLinear(early_stopping=3), "without validation rows"),
        (lambda rank: TorchLinear(engine="primal"), "engine"),
    ],
)
def test_other_parameters_are_refused_by_all(make, message):
    X, y = data(3)
    found = on_ranks(2, lambda comm: make(comm.rank).fit(X[own(comm)], y[own(comm)], comm=comm))
    for error in found:
        with pytest.raises(ValueError, match=message):
            raise error


def test_equal_parameters_of_other_types_are_accepted():
    X, y = data(3)
    for first, second in [
        (LogisticRegression(C=1), LogisticRegression(C=np.float64(1.0))),
        (
            LogisticRegression(class_weight={0: 1, 1: 2.0, 2: 3}),
            LogisticRegression(class_weight={2: 3.0, 1: 2, 0: 1.0}),
        ),
        (LogisticRegressionCV(Cs=[0.1, 1]), LogisticRegressionCV(Cs=np.array([0.1, 1.0]))),
    ]:
        found = on_ranks(
            2, lambda comm: [first, second][comm.rank].fit(X[own(comm)], y[own(comm)], comm=comm).coef_
        )
        assert np.array_equal(*found)


@pytest.mark.parametrize("kind", [np.int32, np.float64, np.float32])
def test_a_sum_that_is_narrower_than_64_bits_is_refused(kind):
    def narrow(values):
        with np.errstate(all="ignore"):
            values[:] = values.astype(kind).astype(np.int64)

    with pytest.raises(ValueError, match="in integers of 64 bits"):
        LogisticRegression().fit(*data(3), comm=Comm(0, 1, narrow))


def test_rows_of_takes_counts_only():
    one = Comm(0, 1, print)
    with pytest.raises(TypeError):
        rows_of(one, 2.5)
    with pytest.raises(ValueError, match="n: found -1"):
        rows_of(one, -1)


def test_labels_and_names_of_one_process_are_refused_by_all():
    X, y = data(2)
    strings = np.array(["a", "b"], object)[y]
    strings[-1] = None
    for error in on_ranks(2, lambda comm: LogisticRegression().fit(X[own(comm)], strings[own(comm)], comm=comm)):
        assert "y: found None of type NoneType" in str(error)
    pd = pytest.importorskip("pandas", reason="SKIPPED: pandas is not installed")

    def work(comm):
        names = [f"f{i}" for i in range(D)]
        if comm.rank == 1:
            names[200] = "other"
        return LogisticRegression().fit(pd.DataFrame(X[own(comm)], columns=names), y[own(comm)], comm=comm)

    for error in on_ranks(2, work):
        message = str(error)
        assert "X: names of features: found ..." in message and "'other'" in message and "'f200'" in message


def test_versions_are_compared(monkeypatch):
    from flowreg import _comm

    ranks = threading.local()
    monkeypatch.setattr(_comm, "instruction_set", lambda: ["avx2", "neon"][ranks.here])
    X, y = data(3)

    def work(comm):
        ranks.here = comm.rank
        return LogisticRegression().fit(X[own(comm)], y[own(comm)], comm=comm)

    for error in on_ranks(2, work):
        assert "instruction set: found neon in process 1 and avx2 in process 0" in str(error)


def test_shapes_that_do_not_fit_are_refused_by_all():
    X, y = data(3)
    for error in on_ranks(2, lambda comm: LogisticRegression().fit(X[own(comm), :20], y[own(comm)], comm=comm)):
        assert isinstance(error, ValueError) and "at most 1: 30 rows" in str(error)
    for error in on_ranks(2, lambda comm: LogisticRegression().fit(X[own(comm), :40], y[own(comm)], comm=comm)):
        assert isinstance(error, ValueError) and "at most 1: 40 features" in str(error)
    weights = np.zeros(N)
    for error in on_ranks(2, lambda comm: LogisticRegression().fit(X[own(comm)], y[own(comm)], weights[own(comm)], comm=comm)):
        assert isinstance(error, ValueError) and "weight above 0 of one class only" in str(error)
    for error in on_ranks(2, lambda comm: LogisticRegression().fit(X[own(comm)], np.zeros(N)[own(comm)], comm=comm)):
        assert isinstance(error, ValueError) and "one class only" in str(error)


def test_groups_that_do_not_fit_are_refused():
    X, y = data(3)
    with pytest.raises(TypeError, match="comm: found int, expected a communicator of mpi4py"):
        LogisticRegression().fit(X, y, comm=1)
    with pytest.raises(ValueError, match=r"found \[1, 2, .* as the sums .* expected \[2, 3, "):
        LogisticRegression().fit(X, y, comm=Comm(1, 2, lambda values: values * 2))
    for rank, size in [(2, 2), (-1, 2), (0, 0), (0.5, 2), ("a", 2)]:
        with pytest.raises(ValueError, match="0 <= rank < size"):
            Comm(rank, size, print)
    with pytest.raises(TypeError, match="sum: found int"):
        Comm(0, 1, 1)
    assert repr(Comm(0, 1, print)) == "Comm(rank=0, size=1)"


class Broken(Exception):
    pass


@pytest.mark.parametrize("make", [data, tall])
@pytest.mark.parametrize("estimator", [LogisticRegression(), LogisticRegressionCV(Cs=2), TorchLinear(epochs=3)])
def test_an_exception_of_a_sum_is_raised(estimator, make):
    X, y = make(3)
    count = 0

    def add(values):
        nonlocal count
        count += 1
        if count == last:
            raise Broken(count)

    last = 10**9
    estimator.fit(X, y, comm=Comm(0, 1, add))
    total = count
    for last in range(1, total + 1, max(1, total // 12)):
        count = 0
        with pytest.raises(Broken):
            estimator.fit(X, y, comm=Comm(0, 1, add))
        assert count == last


def test_sums_are_made_in_the_thread_that_called():
    X, y = data(3)
    group = Group(1)
    LogisticRegression(n_threads=2).fit(X, y, comm=group.comm(0))
    assert group.callers == {(0, threading.get_ident())}


def test_callbacks_lines_and_warnings_are_of_the_first_process(capsys):
    X, y = data(3)
    told = []

    def work(comm):
        model = LogisticRegression(
            max_iter=1, tol=1e-9, verbose=1, callback=lambda event: told.append(comm.rank)
        )
        return model.fit(X[own(comm)].astype(np.float64), y[own(comm)], comm=comm)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        on_ranks(3, work)
    assert set(told) == {0}
    lines = capsys.readouterr().out.splitlines()
    assert sum("converted to float32" in line for line in lines) == 1
    assert [warning.category for warning in caught] == [ConvergenceWarning]


def test_a_communicator_is_no_metadata():
    for estimator in (LogisticRegression, LogisticRegressionCV, TorchLinear):
        assert "comm" not in str(estimator().get_metadata_routing())


# mpi4py.

SCRIPT = """
import sys, zlib
import numpy as np
from mpi4py import MPI
from flowreg import LogisticRegression, LogisticRegressionCV, TorchLinear, rows_of
comm = MPI.COMM_WORLD
rng = np.random.default_rng(0)
y = np.array(["a", "b", "c"])[np.arange(40) % 3]
X = rng.normal(size=(40, 500)).astype(np.float32)
mine = rows_of(comm, len(X))
if sys.argv[1] == "nan" and comm.rank == 1:
    X[mine] = np.nan
def stop(event):
    if sys.argv[1] == "stop":
        raise RuntimeError("stopped")
for model in (LogisticRegression(callback=stop), LogisticRegressionCV(Cs=3, cv=3), TorchLinear()):
    model.fit(X[mine], y[mine], comm=comm)
    found = comm.allgather(zlib.crc32(model.coef_.tobytes()))
    assert len(set(found)) == 1, found
    if comm.rank == 0:
        print(type(model).__name__, found[0], flush=True)
"""

MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
}


@functools.cache
def reason_without_mpi():
    if shutil.which("mpirun") is None:
        return "SKIPPED: mpirun is not installed"
    found = subprocess.run([sys.executable, "-c", "from mpi4py import MPI"], capture_output=True, text=True, env={**os.environ, **MPI})
    return "" if found.returncode == 0 else f"SKIPPED: mpi4py: {found.stderr.splitlines()[-1]}"


def mpirun(path, size, *arguments):
    # mpirun can wait for ever for processes that are dead.
    command = ["timeout", "-k", "5", "120", "mpirun", "-n", str(size)]
    command += [sys.executable, "-m", "mpi4py", str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **MPI})


@pytest.mark.skipif(reason_without_mpi() != "", reason=reason_without_mpi())
def test_processes_of_mpi(tmp_path):
    (tmp_path / "fit.py").write_text(SCRIPT)
    found = set()
    for size in (1, 2, 4):
        done = mpirun(tmp_path / "fit.py", size, "fit")
        assert done.returncode == 0, done
        found.add(done.stdout)
    assert len(found) == 1 and len(done.stdout.splitlines()) == 3, found


@pytest.mark.skipif(reason_without_mpi() != "", reason=reason_without_mpi())
@pytest.mark.parametrize(("case", "message"), [("nan", "Input X contains NaN."), ("stop", "stopped")])
def test_an_error_of_one_process_ends_all_of_mpi(tmp_path, case, message):
    (tmp_path / "fit.py").write_text(SCRIPT)
    done = mpirun(tmp_path / "fit.py", 2, case)
    assert done.returncode not in (0, 124, 137), done
    assert message in done.stderr


@pytest.mark.skipif(reason_without_mpi() != "", reason=reason_without_mpi())
def test_the_example_of_mpi():
    done = mpirun(Path(__file__).parents[1] / "examples" / "mpi4py_fit.py", 2)
    assert done.returncode == 0 and done.stdout.startswith("2 processes, converged"), done
