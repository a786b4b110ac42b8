"""Features of every type and order; what is borrowed and what is converted."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import MaxAbsScaler

import flowreg

RNG = np.random.default_rng(0)
X = RNG.integers(0, 5, (60, 7)).astype(np.float32)
Y = RNG.integers(0, 3, 60)
MODEL = flowreg.LogisticRegression().fit(X, Y)


def frames():
    wide = np.zeros((60, 20), np.float32)
    wide[:, 3:10] = X
    tall = np.repeat(X, 2, axis=0)
    yield "read-only", np.frombuffer(X.tobytes(), np.float32).reshape(X.shape)
    yield "Fortran", np.asfortranarray(X)
    yield "window", wide[:, 3:10]
    yield "every other row", tall[::2]
    yield "backwards", X[::-1, ::-1].copy()[::-1, ::-1]
    yield "unaligned", np.frombuffer(b"x" + X.tobytes(), np.float32, offset=1).reshape(X.shape)
    yield "list", X.tolist()
    yield "frame", pd.DataFrame(X)
    yield "mixed frame", pd.DataFrame({i: column.astype("f8 i4 u1 f2".split()[i % 4]) for i, column in enumerate(X.T)})
    for dtype in "f8 f2 u1 i1 u2 i2 i4 i8 u8 >f4 >f8 O g".split():
        yield dtype, X.astype(dtype)


@pytest.mark.parametrize("name, features", [pytest.param(*frame, id=frame[0]) for frame in frames()])
def test_every_type_and_order_gives_the_same_model(name, features):
    model = flowreg.LogisticRegression().fit(features, Y)
    np.testing.assert_array_equal(model.coef_, MODEL.coef_)
    np.testing.assert_allclose(model.predict_proba(features), MODEL.predict_proba(X), atol=1e-5)
    sgd = flowreg.TorchLinear().fit(features, Y)
    np.testing.assert_array_equal(sgd.coef_, flowreg.TorchLinear().fit(X, Y).coef_)


def test_one_row_apart_and_one_feature():
    column = X[:, 2:3]
    assert column.strides == (28, 4)
    flowreg.LogisticRegression().fit(column, Y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value, word", [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
@pytest.mark.parametrize(
    "estimator", [flowreg.LogisticRegression(), flowreg.LogisticRegressionCV(Cs=2), flowreg.TorchLinear()]
)
def test_what_is_no_number_is_refused_in_scikit_learns_words(estimator, value, word, dtype):
    bad = X.astype(dtype)
    bad[7, 3] = value
    with pytest.raises(ValueError, match=f"Input X contains {word}"):
        estimator.fit(bad, Y)
    estimator.fit(X, Y)
    with pytest.raises(ValueError, match=f"Input X contains {word}"):
        estimator.predict(bad)


def test_numbers_beyond_float32_are_refused():
    for estimator in (flowreg.LogisticRegression(), flowreg.TorchLinear()):
        with pytest.raises(ValueError, match=r"X: found 4e\+300 in column 0, the largest there"):
            estimator.fit(X.astype(np.float64) * 1e300, Y)
    model = flowreg.LogisticRegression(C=1e6).fit(X, X[:, 0] > 2)
    assert model.predict(np.float32([[3e38, 0, 0, 0, 0, 0, 0]])) == [True]
    with pytest.raises(ValueError, match="X: found rows whose logits overflow float64"):
        model.predict([[1e308, 0, 0, 0, 0, 0, 0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("exponent", [16, 18, 25, 37])
@pytest.mark.parametrize("estimator", [flowreg.LogisticRegression(), flowreg.LogisticRegressionCV(Cs=2)])
def test_features_whose_squares_overflow_are_refused_by_column(estimator, exponent, dtype):
    large = X.astype(dtype)
    large[:, 3] *= dtype(10.0**exponent)
    advice = "so that sums of squares .* sklearn.preprocessing.MaxAbsScaler"
    with pytest.raises(ValueError, match=rf"X: found 4e\+{exponent} in column 3, .* at most 1e15.*{advice}"):
        estimator.fit(large, Y)
    frame = pd.DataFrame(large, columns=list("abcdefg"))
    with pytest.raises(ValueError, match="in column 'd'"):
        estimator.fit(frame, Y)
    # The advice works.
    assert estimator.fit(MaxAbsScaler().fit_transform(large), Y).status_ == "converged"


@pytest.mark.parametrize("size, is_taken", [(1e20, True), (1e38, True), (1e39, False)])
def test_sgd_takes_every_number_of_float32(size, is_taken):
    x = X.astype(np.float64)
    x[5, 2], x[6, 2] = size, -size
    with_validation = {"X_val": x, "y_val": Y}
    frames = {"X_val": pd.DataFrame(x, columns=list("abcdefg")), "y_val": Y}
    model = flowreg.TorchLinear(epochs=0, lr=1e-30)
    if is_taken:
        model.fit(x, Y)
        model.fit(X, Y, **with_validation)
        return
    limit = "the largest there, expected at most 3.4e38, the largest number of float32"
    with pytest.raises(ValueError, match=rf"^X: found 1e\+39 in column 2, {limit}"):
        model.fit(x, Y)
    with pytest.raises(ValueError, match=rf"^X_val: found 1e\+39 in column 2, {limit}"):
        model.fit(X, Y, **with_validation)
    with pytest.raises(ValueError, match=r"^X_val: found 1e\+39 in column 'c'"):
        model.fit(pd.DataFrame(X, columns=list("abcdefg")), Y, **frames)
    x[5, 2] = np.nan
    with pytest.raises(ValueError, match="^Input X_val contains NaN"):
        model.fit(X, Y, **with_validation)


def test_verbose_says_what_is_converted_and_done(capfd):
    flowreg.LogisticRegression().fit(X.astype(np.float64), Y)
    assert capfd.readouterr() == ("", "")
    flowreg.LogisticRegression(verbose=1).fit(X.astype(np.float64), Y)
    out = capfd.readouterr().out
    assert "X of float64 was converted to float32 in 1680 bytes" in out
    assert "iteration 1, objective" in out


def test_a_memory_map_is_fitted_without_a_copy(tmp_path):
    path = tmp_path / "x.npy"
    rows, features = 2048, 16384
    features_map = np.lib.format.open_memmap(path, "w+", np.float32, (rows, features))
    for start in range(0, rows, 256):
        features_map[start : start + 256] = RNG.standard_normal((256, features))
    features_map.flush()
    # The anonymous memory at its most, beside the 128 MiB that the map has.
    code = """
import sys, threading, time, numpy as np, flowreg
def anonymous():
    fields = dict(line.split(":") for line in open("/proc/self/status"))
    return int(fields["RssAnon"].split()[0]) << 10
X = np.load(sys.argv[1], mmap_mode="r")
y = np.arange(len(X)) % 2
flowreg.LogisticRegression(max_iter=2).fit(X[:8], y[:8])
before = most = anonymous()
def watch():
    global most
    while not done:
        most = max(most, anonymous())
        time.sleep(0.002)
done = False
thread = threading.Thread(target=watch)
thread.start()
flowreg.LogisticRegression(C=1e-3).fit(X, y)
flowreg.TorchLinear(epochs=2, engine="primal").fit(X, y)
flowreg.LogisticRegression(C=1e-3).fit(X[:1024], y[:1024]).predict(X)
done = True
thread.join()
print(most - before)
"""
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code, path], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    # K and its factors take 28 bytes an entry at the most, predictions a block of 32 MiB.
    limit = 28 * rows**2
    assert limit < 4 * rows * features
    assert 0 < int(run.stdout) < limit


class Tensor:
    """A stand-in for torch's."""

    __module__ = "torch"

    def __init__(self, values, device="cpu", requires_grad=False, dtype="torch.float32"):
        self.values, self.requires_grad, self.dtype = values, requires_grad, dtype
        self.device = type("device", (), {"type": device, "__str__": lambda self: device})()

    def numpy(self):
        return self.values

    def float(self):
        return Tensor(self.values)


def test_tensors():
    for estimator in (flowreg.LogisticRegression(), flowreg.TorchLinear()):
        model = estimator.fit(Tensor(X), Tensor(Y))
        np.testing.assert_array_equal(model.predict(Tensor(X)), model.predict(X))
        estimator.fit(Tensor(X, dtype="torch.bfloat16"), Y)
        for bad in (Tensor(X, "cuda:0"), Tensor(X, requires_grad=True)):
            with pytest.raises(TypeError, match=r"pass X.detach\(\).cpu\(\)"):
                estimator.fit(bad, Y)
            with pytest.raises(TypeError, match=r"pass X.detach\(\).cpu\(\)"):
                model.predict(bad)
        with pytest.raises(TypeError, match=r"pass y.detach\(\).cpu\(\)"):
            estimator.fit(X, Tensor(Y, "cuda:0"))


class Array:
    """Anything with ``__array__``."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values if dtype is None else self.values.astype(dtype)

    def __len__(self):
        return len(self.values)

    @property
    def shape(self):
        return self.values.shape


def test_whatever_has_array():
    model = flowreg.TorchLinear().fit(Array(X), Y)
    np.testing.assert_array_equal(model.coef_, flowreg.TorchLinear().fit(X, Y).coef_)
