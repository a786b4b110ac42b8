"""Ctrl-C, threads, forks, callbacks: a fit is a good neighbour."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import flowreg
from flowreg import _flowreg

RNG = np.random.default_rng(0)


def long_fit(seconds=60.0):
    """A fit that takes minutes unless it is stopped, in short epochs."""
    X = RNG.standard_normal((300, 400)).astype(np.float32)
    y = np.arange(300) % 3
    return flowreg.TorchLinear(epochs=100_000_000, lr=1e-6), X, y


@pytest.mark.parametrize("engine", ["gram", "primal"])
def test_ctrl_c_stops_a_fit_and_the_next_one_works(engine):
    model, X, y = long_fit()
    model.set_params(engine=engine)
    sent = []

    def interrupt():
        time.sleep(0.3)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    stopped = time.perf_counter() - sent[0]
    thread.join()
    assert stopped < 1.0, stopped
    assert model.set_params(epochs=2).fit(X, y).history_


def test_ctrl_c_stops_a_converged_fit():
    X = RNG.standard_normal((1500, 3000)).astype(np.float32)
    y = RNG.integers(0, 30, 1500)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(1000):
            flowreg.LogisticRegressionCV(Cs=20, cv=10).fit(X, y)
    assert time.perf_counter() - started < 10
    flowreg.LogisticRegression(tol=1e-2).fit(X[:50], y[:50])


def test_other_threads_run_while_a_fit_works():
    model, X, y = long_fit()
    waits = []

    class Stop(Exception):
        pass

    def stop(event):
        if len(waits) >= 200:
            raise Stop

    def tick():
        for _ in range(200):
            started = time.perf_counter()
            time.sleep(0.001)
            waits.append(time.perf_counter() - started)

    thread = threading.Thread(target=tick)
    thread.start()
    with pytest.raises(Stop):
        model.set_params(callback=stop).fit(X, y)
    thread.join()
    # A fit that kept the interpreter would let the others wait for its end, minutes.
    assert np.median(waits) < 0.1, np.median(waits)


def test_fits_of_several_threads_agree():
    X = RNG.standard_normal((200, 300)).astype(np.float32)
    y = np.arange(200) % 3
    alone = flowreg.LogisticRegression().fit(X, y).coef_
    found = [None] * 4

    def fit(i):
        found[i] = flowreg.LogisticRegression().fit(X, y).coef_

    threads = [threading.Thread(target=fit, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for coef in found:
        np.testing.assert_array_equal(coef, alone)


def fit_in_child(queue):
    X = np.random.default_rng(1).standard_normal((300, 400)).astype(np.float32)
    queue.put(flowreg.LogisticRegression(n_threads=2).fit(X, np.arange(300) % 3).coef_)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_fits_after_its_parent_fitted(method):
    X = np.random.default_rng(1).standard_normal((300, 400)).astype(np.float32)
    ours = flowreg.LogisticRegression(n_threads=2).fit(X, np.arange(300) % 3).coef_
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=fit_in_child, args=(queue,))
    child.start()
    np.testing.assert_array_equal(queue.get(timeout=60), ours)
    child.join(60)
    assert child.exitcode == 0


def test_an_exception_of_the_callback_ends_the_fit():
    X = RNG.standard_normal((300, 400)).astype(np.float32)
    y = np.arange(300) % 3
    kinds = []

    def tell(event):
        kinds.append(event["event"])
        if event["event"] == "step" and event["iteration"] == 2:
            raise RuntimeError("enough")

    for estimator in (flowreg.LogisticRegression, flowreg.LogisticRegressionCV):
        kinds.clear()
        with pytest.raises(RuntimeError, match="enough"):
            estimator(callback=tell).fit(X, y)
        assert kinds[0] == "gram_matrix" and kinds[-1] == "step"


def test_events_of_a_whole_fit():
    X = RNG.standard_normal((300, 40)).astype(np.float32)
    y = np.arange(300) % 3
    steps, epochs = [], []
    model = flowreg.LogisticRegression(callback=steps.append).fit(X, y)
    objectives = [event["objective"] for event in steps if event["event"] == "step"]
    assert len(objectives) == model.n_iter_[0] + 1
    assert objectives == sorted(objectives, reverse=True)
    model = flowreg.TorchLinear(callback=epochs.append, epochs=5).fit(X, y)
    epochs = [event for event in epochs if event.pop("event") == "epoch"]
    assert epochs == model.history_ and len(epochs) == 5


def test_nothing_is_written_by_itself():
    code = """
import numpy as np, flowreg
X = np.random.default_rng(0).standard_normal((300, 400)).astype(np.float32)
y = np.arange(300) % 3
flowreg.LogisticRegression().fit(X, y).predict(X)
flowreg.LogisticRegressionCV(Cs=3).fit(X, y)
flowreg.TorchLinear(lr=1e-3).fit(X, y)
flowreg.fit_linear_probe(X, y, Cs=[0.1, 1])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


def test_the_compiled_functions_refuse_what_they_cannot_read():
    X, labels = np.zeros((4, 3), np.float32), np.uint32([0, 1, 0, 1])
    options = {"penalty": "C", "values": [1.0]}
    for bad in (np.asfortranarray(X), X[:, ::2], X[::-1], X[:, ::-1]):
        with pytest.raises(ValueError, match="side by side: pass numpy.ascontiguousarray"):
            _flowreg.fit_path(bad, labels, 2, **options)
    unaligned = np.frombuffer(bytes(4 * 12 + 1), np.float32, 12, offset=1).reshape(4, 3)
    with pytest.raises(ValueError, match="expected aligned rows"):
        _flowreg.fit_path(unaligned, labels, 2, **options)
    overlapping = np.lib.stride_tricks.as_strided(X, (4, 3), (4, 4))
    with pytest.raises(ValueError, match="side by side"):
        _flowreg.fit_path(overlapping, labels, 2, **options)
    for shape in ((0, 3), (4, 0)):
        with pytest.raises(ValueError, match="x: found"):
            _flowreg.fit_path(np.zeros(shape, np.float32), labels[: shape[0]], 2, **options)
    with pytest.raises(ValueError, match="labels: found 5 in row 2"):
        _flowreg.fit_path(X, np.uint32([0, 1, 5, 1]), 2, **options)
    with pytest.raises(TypeError):
        _flowreg.fit_path(X.astype(np.float64), labels, 2, **options)
    with pytest.raises(ValueError, match="solver: found \"sag\", expected newton or lbfgs"):
        _flowreg.fit_path(X, labels, 2, solver="sag", **options)
