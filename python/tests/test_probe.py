"""fit_linear_probe: protocols, files, results."""

import json
import pickle
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import DataConversionWarning
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.model_selection import KFold

import flowreg
from flowreg import fit_linear_probe

X, Y = load_digits(return_X_y=True)
X, Y = X[Y < 5][:500].astype(np.float32) / 16, Y[Y < 5][:500]
TRAIN, VAL = (X[:350], Y[:350]), (X[350:], Y[350:])


def accuracy(C):
    """On the validation rows, by scikit-learn."""
    model = Reference(C=C, solver="newton-cholesky", tol=1e-6).fit(*TRAIN)
    return model.score(*VAL)


def test_validation_rows_choose():
    Cs = [1e-4, 1e-2, 1.0, 100.0]
    probe = fit_linear_probe(*TRAIN, val=VAL, Cs=Cs)
    table = pd.DataFrame(probe.table)
    assert list(table) == ["C", "accuracy", "log_loss"] and list(table["C"]) == Cs
    np.testing.assert_allclose(table["accuracy"], [accuracy(C) for C in Cs], atol=1.5 / 150)
    assert probe.C == Cs[table["accuracy"].argmax()] and probe.score == table["accuracy"].max()
    everything = flowreg.LogisticRegression(C=probe.C).fit(X, Y)
    np.testing.assert_array_equal(probe.model.coef_, everything.coef_)
    np.testing.assert_array_equal(probe.predict(X), everything.predict(X))
    state = probe.state_dict()
    assert state["weight"].shape == (5, 64) and state["bias"].dtype == np.float32
    assert f"C = {probe.C:.4g}" in probe._repr_html_()


def test_protocol_of_clip():
    probe = fit_linear_probe(*TRAIN, val=VAL, protocol="clip")
    Cs = probe.table["C"]
    assert 7 < len(Cs) <= 7 + 8
    np.testing.assert_allclose([C for C in Cs if round(np.log10(C), 6) % 2 == 0][:3], [1e-6, 1e-4, 1e-2])
    # Eight values a decade around the best one.
    nearest = min(abs(np.log10(C / probe.C)) for C in Cs if C != probe.C)
    assert nearest == pytest.approx(0.125)
    with pytest.raises(ValueError, match="protocol: found 'clip', expected `val`"):
        fit_linear_probe(*TRAIN, protocol="clip")


def test_protocol_of_dinov2():
    probe = fit_linear_probe(X, Y)
    np.testing.assert_allclose(probe.table["C"], np.logspace(-6, 5, 45))
    assert fit_linear_probe(X, Y, protocol="dinov2").table == probe.table
    assert fit_linear_probe(X, Y, seed=1).table != probe.table
    assert probe.score > 0.9


def test_folds_choose():
    folds = KFold(4, shuffle=True, random_state=0)
    probe = fit_linear_probe(X, Y, cv=folds, Cs=[1e-3, 1.0])
    scores = [
        np.mean([
            flowreg.LogisticRegression(C=C).fit(X[fit], Y[fit]).score(X[out], Y[out])
            for fit, out in folds.split(X)
        ])
        for C in (1e-3, 1.0)
    ]
    np.testing.assert_allclose(probe.table["accuracy"], scores, atol=0.01)


def save_safetensors(path, **arrays):
    names = {"float32": "F32", "float16": "F16", "int64": "I64", "uint16": "BF16"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        header[name] = {
            "dtype": names[str(array.dtype)],
            "shape": array.shape,
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_files(tmp_path):
    expected = fit_linear_probe(X, Y, Cs=[0.1, 1.0]).table
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    np.savez(tmp_path / "both.npz", features=X, labels=Y)
    save_safetensors(tmp_path / "both.safetensors", features=X, labels=Y)
    save_safetensors(tmp_path / "half.safetensors", x=X.astype(np.float16))
    upper = (X.view(np.uint32) >> 16).astype(np.uint16)
    save_safetensors(tmp_path / "brain.safetensors", x=upper)
    for features, labels in [
        (tmp_path / "x.npy", Y),
        (str(tmp_path / "x.npy"), tmp_path / "y.npy"),
        (tmp_path / "both.npz", None),
        (tmp_path / "both.safetensors", None),
        # Sixteenths are numbers of 16 bits, too.
        (tmp_path / "half.safetensors", Y),
        (tmp_path / "brain.safetensors", Y),
        (X.astype(np.float16), Y),
        (np.load(tmp_path / "x.npy", mmap_mode="r"), Y),
    ]:
        assert fit_linear_probe(features, labels, Cs=[0.1, 1.0]).table == expected
    np.savez(tmp_path / "many.npz", a=X, b=X)
    for path, message in [
        ("many.npz", r"found the arrays \['a', 'b'\], expected one called features or x"),
        ("x.csv", "found a file of kind '.csv'"),
    ]:
        (tmp_path / "x.csv").touch()
        with pytest.raises(ValueError, match=message):
            fit_linear_probe(tmp_path / path, Y)
    with pytest.raises(FileNotFoundError):
        fit_linear_probe(tmp_path / "none.npy", Y)
    whole = (tmp_path / "both.safetensors").read_bytes()
    for length in (4, 100, len(whole) - 1):
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut.safetensors: found"):
            fit_linear_probe(tmp_path / "cut.safetensors")


def test_features_are_not_taken_as_labels(tmp_path):
    numbers = np.arange(100)[:, None] % 2
    np.save(tmp_path / "x.npy", numbers)
    np.savez(tmp_path / "x.npz", x=numbers)
    save_safetensors(tmp_path / "x.safetensors", x=numbers)
    for name in ("x.npy", "x.npz", "x.safetensors"):
        said = f"labels: found none in .*{name}, the file of the features, .* labels or y or targets there: pass"
        with pytest.raises(ValueError, match=said):
            fit_linear_probe(tmp_path / name)
        # The advice works: a file of labels may have one array of any name.
        with pytest.warns(DataConversionWarning):
            assert fit_linear_probe(numbers, tmp_path / name, Cs=[1.0]).score == 1
    assert fit_linear_probe(bytes(tmp_path / "x.npy"), numbers[:, 0], Cs=[1.0]).score == 1


def test_files_that_numpy_cannot_read_are_named(tmp_path):
    np.save(tmp_path / "whole.npy", X)
    whole = (tmp_path / "whole.npy").read_bytes()
    np.savez(tmp_path / "none.npz")
    np.savez(tmp_path / "whole.npz", x=X)
    zipped = bytearray((tmp_path / "whole.npz").read_bytes())
    zipped[len(zipped) // 2] ^= 1
    np.save(tmp_path / "objects.npy", np.array(["a", 1], object))
    for name, content, said in [
        ("empty.npy", b"", "found no complete array"),
        ("empty.npz", b"", "found no complete array"),
        ("cut.npy", whole[:-1], "found no complete array"),
        ("head.npy", whole[:20], "found no complete array"),
        ("pickle.npy", pickle.dumps(X), "found no complete array"),
        ("text.npz", b"some text", "found no complete array"),
        ("damaged.npz", zipped, "found no complete array"),
        ("objects.npy", None, r"found no complete array .*array.astype\(str\)"),
        ("none.npz", None, r"found the arrays \[\], expected one called"),
    ]:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: {said}"):
            fit_linear_probe(tmp_path / name, Y)
        with pytest.raises(ValueError, match=f"{name}: {said}"):
            fit_linear_probe(X, tmp_path / name)


def test_labels_of_val_that_no_row_to_fit_has_are_refused():
    named = np.array([f"c{label}" for label in Y[350:]])
    said = "val: found the labels 'c.*, expected labels that rows of features have, such as .*: name the cl"
    with pytest.raises(ValueError, match=said):
        fit_linear_probe(*TRAIN, val=(X[350:], named))
    # Texts are no numbers.
    with pytest.raises(ValueError, match="val: found the labels .*'3'"):
        fit_linear_probe(*TRAIN, val=(X[350:], Y[350:].astype(str)))


def test_a_dataset_directory(tmp_path):
    # Made by: flowreg-prep npy --x x.npy --y y.npy --x-val xv.npy --y-val yv.npy --out iris
    iris = Path(__file__).parent / "iris"
    train, val = ((np.load(iris / f"{s}.x.npy"), np.load(iris / f"{s}.y.npy")) for s in ("train", "val"))
    expected = fit_linear_probe(*train, val=val, Cs=[0.1, 10])
    probe = fit_linear_probe(iris, val="val", Cs=[0.1, 10])
    assert probe.table == expected.table and probe.C == expected.C
    np.testing.assert_array_equal(probe.model.coef_, expected.model.coef_)
    with pytest.raises(ValueError, match='no split "test", expected one of train, val'):
        fit_linear_probe(iris, val="test")
    for file in iris.iterdir():
        data = bytearray(file.read_bytes())
        if file.name == "train.x.npy":
            data[-1] ^= 64
        (tmp_path / file.name).write_bytes(data)
    with pytest.raises(ValueError, match="train.x.npy"):
        fit_linear_probe(tmp_path, val="val")


def test_a_directory_that_is_no_dataset(tmp_path):
    with pytest.raises(FileNotFoundError, match="flowreg-prep makes one"):
        fit_linear_probe(tmp_path)


@pytest.mark.skipif("torch" in sys.modules, reason="SKIPPED: torch is there")
def test_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    probe = fit_linear_probe(X, Y, Cs=[1.0])
    with pytest.raises(ImportError, match=r"state_dict\(\) needs none"):
        probe.linear()
    (tmp_path / "x.pt").touch()
    with pytest.raises(ImportError, match="save the features as .npy or .safetensors"):
        fit_linear_probe(tmp_path / "x.pt", Y)


def test_what_does_not_fit_together_is_refused():
    for arguments, options, message in [
        ((X, Y[:-1]), {}, r"found shapes \(500, 64\) and \(499,\)"),
        ((X[0], Y), {}, "features and labels"),
        ((X,), {}, "labels: found none"),
        (TRAIN, {"val": (X[:, 1:], Y)}, "val: found 63 features, expected 64"),
        (TRAIN, {"val": "val"}, "val: found 'val', expected a pair"),
        (TRAIN, {"val": (1, 2, 3)}, r"val: found a tuple of 3, expected a pair \(features, labels\)"),
        (TRAIN, {"val": (X, Y[:-1])}, r"val: features and labels: found shapes \(500, 64\) and \(499,\)"),
        (TRAIN, {"val": (np.where(X == X.max(), np.nan, X), Y)}, "val: Input features contains NaN"),
        (TRAIN, {"val": (X, np.where(Y == 3, np.nan, Y))}, "val: Input labels contains NaN"),
        (TRAIN, {"val": (X, Y + 0.5)}, "val: Unknown label type: continuous"),
        (TRAIN, {"val": (X, None)}, "val: labels: found none"),
        (TRAIN, {"val": (X[:0], Y[:0])}, "val: found no rows"),
        (TRAIN, {"val": X}, "val: found a ndarray, expected a pair"),
        ((5, Y), {}, r"features and labels: found shapes \(\) and \(500,\)"),
        (TRAIN, {"val": VAL, "cv": 3}, "val and cv: found both"),
        (TRAIN, {"protocol": "best"}, "'protocol' parameter of fit_linear_probe .* Got 'best'"),
        (TRAIN, {"seed": -1}, "'seed' parameter of fit_linear_probe must be an int .* Got -1"),
        (TRAIN, {"seed": 0.5}, "'seed' parameter .* Got 0.5"),
        (TRAIN, {"n_threads": -3}, "'n_threads' parameter of fit_linear_probe .* Got -3"),
        (TRAIN, {"max_iter": 2.5}, "'max_iter' parameter .* Got 2.5"),
        (TRAIN, {"fit_intercept": "no"}, "'fit_intercept' parameter"),
        (TRAIN, {"cv": 0}, "'cv' parameter of fit_linear_probe"),
        (TRAIN, {"Cs": "all"}, "Cs: found 'all', expected the number of values, or a list"),
        ((X, Y + 0.5), {}, "Unknown label type: continuous"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit_linear_probe(*arguments, **options)


def test_labels_may_be_a_column():
    expected = fit_linear_probe(*TRAIN, val=VAL, Cs=[0.1, 1.0])
    with pytest.warns(DataConversionWarning, match=r"labels: found a column.*pass labels.ravel") as caught:
        probe = fit_linear_probe(X[:350], Y[:350, None], val=(X[350:], Y[350:, None]), Cs=[0.1, 1.0])
    assert probe.table == expected.table and {w.filename for w in caught} == {__file__}


def test_data_of_which_a_tenth_holds_no_row_of_each_class():
    rows = np.concatenate([np.flatnonzero(Y == k)[:4] for k in range(3)])
    with pytest.raises(ValueError, match="found 12 rows, a tenth of which is 2, .* 3 classes.*pass val"):
        fit_linear_probe(X[rows], Y[rows])
    rare = np.where(np.arange(500) == 3, 99, Y)
    with pytest.raises(ValueError, match="found 1 row of class 99, expected two or more.*pass val"):
        fit_linear_probe(X, rare)
    # The advice works.
    folds = KFold(3, shuffle=True, random_state=0)
    assert fit_linear_probe(X[rows], Y[rows], cv=folds, Cs=[1.0]).C == 1
    assert fit_linear_probe(X[rows], Y[rows], val=VAL_OF_3, Cs=[1.0]).C == 1


VAL_OF_3 = (X[350:][Y[350:] < 3], Y[350:][Y[350:] < 3])


def test_classes_that_are_not_fitted_are_warned_of():
    rows = TRAIN[1] < 4
    with pytest.warns(UserWarning, match="val: found class 4, which no row to fit has") as caught:
        fit_linear_probe(TRAIN[0][rows], TRAIN[1][rows], val=VAL, protocol="clip")
    assert len(caught) == 1 and caught[0].filename == __file__
    rare = np.where(np.arange(500) == 3, 99, Y)
    with pytest.warns(UserWarning, match="cv: fold 0 fits no row of class 99"):
        fit_linear_probe(X, rare, cv=KFold(3), Cs=[0.1, 1.0])


def test_no_penalty_may_be_tried():
    noisy = np.where(np.arange(500) % 3 == 0, Y[::-1], Y) % 2
    probe = fit_linear_probe(X[:, 10:14], noisy, cv=3, Cs=[1e-9, np.inf])
    assert probe.table["C"] == [1e-9, np.inf]
    probe.model.sparsify()
    assert probe.state_dict()["weight"].shape == (1, 4)


def test_a_bias_that_float32_rounds_is_warned_of():
    rng = np.random.default_rng(0)
    seconds = rng.integers(0, 60, 300)
    X = np.column_stack([1_700_000_000.0 + seconds, rng.normal(size=300)])
    probe = fit_linear_probe(X, seconds // 20, cv=3, Cs=[1.0])
    assert (probe.predict(X) == seconds // 20).mean() > 0.9
    with pytest.warns(UserWarning, match="float32 rounds the bias by .*subtract the means"):
        probe.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_linear_probe(X - X.mean(axis=0), seconds // 20, cv=3, Cs=[1.0]).state_dict()
