"""Estimators in directories, and runs of flowreg-fit as estimators."""

import json
import shutil
import subprocess
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from programs import command, run
from sklearn.base import clone
from sklearn.datasets import load_iris

import flowreg
from flowreg._saved import _crc32_of_fields

HERE = Path(__file__).parent
X, Y = load_iris(return_X_y=True)
X = X.astype(np.float32)
LABELS = [[0, 1, 2], [7, -3, 5], ["a", "c", "b"], [1.0, 3.0, 2.0]]
# Products in float32 and their order.
ROUNDING = 2e-6


def predicted(directory, model, rows, *options):
    """The probabilities of flowreg-predict."""
    np.save(directory / "rows.npy", rows)
    out = directory / "probabilities.npy"
    out.unlink(missing_ok=True)
    run("predict", model, directory / "rows.npy", "--npy", out, "--quiet", *options)
    return np.load(out)


def fitted():
    yield flowreg.LogisticRegression(C=0.3, class_weight={0: 1, 2: 2.5}), X, Y
    yield flowreg.LogisticRegression(C=np.inf, tol=1e-3), X[:100], Y[:100] > 0
    for labels in LABELS:
        yield flowreg.LogisticRegression(), X.astype(np.float64), np.array(labels)[Y]
        yield flowreg.LogisticRegression(), X[:100], np.array(labels)[Y[:100]]
    yield flowreg.LogisticRegression(fit_intercept=False), X, np.array(["x", "y", "z"], object)[Y]
    yield flowreg.LogisticRegressionCV(Cs=np.array([0.1, 1]), cv=3), X, Y
    yield flowreg.LogisticRegressionCV(Cs=[0.1, 1], cv=3, refit=False), X, Y
    yield flowreg.TorchLinear(lr="auto", epochs=7, class_weight="balanced"), X, Y
    yield flowreg.TorchLinear(bias=False, epochs=3), X[:100], Y[:100]
    frame = pd.DataFrame(X.astype(np.float64), columns=["a", "b b", "ç", "d"])
    yield flowreg.LogisticRegression(), frame, Y
    yield flowreg.LogisticRegression(), X.astype(np.float64) + [0, 1.7e9, 0, -3e7], Y
    yield flowreg.LogisticRegression(), (40 * X).astype(np.uint8), Y


@pytest.mark.parametrize("model, features, y", list(fitted()))
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_saved_estimator_is_loaded_and_predicts_by_the_program(tmp_path, model, features, y):
    model = clone(model).fit(features, y)
    model.save(tmp_path / "model")
    loaded = flowreg.load(tmp_path / "model")
    assert type(loaded) is type(model) and repr(loaded) == repr(model)
    for name, value in vars(model).items():
        if not name.endswith("_") or name in ("coefs_paths_", "coef_", "intercept_"):
            continue
        assert type(getattr(loaded, name)) is type(value), name
        np.testing.assert_array_equal(getattr(loaded, name), value, err_msg=name)
        if isinstance(value, np.ndarray):
            assert getattr(loaded, name).dtype == value.dtype, name
    mean_of_folds = getattr(model, "refit", True) is False
    for name in ("coef_", "intercept_"):
        value = getattr(model, name)
        assert getattr(loaded, name).dtype == value.dtype
        if mean_of_folds:
            np.testing.assert_allclose(getattr(loaded, name), value, rtol=1e-7)
        else:
            np.testing.assert_array_equal(getattr(loaded, name), value, err_msg=name)
    theirs = predicted(tmp_path, tmp_path / "model", np.asarray(features))
    np.testing.assert_allclose(theirs, model.predict_proba(features), atol=ROUNDING)
    # The names of the classes.
    printed = run("predict", tmp_path / "model", tmp_path / "rows.npy", "--json", "--top", "1")
    names = [json.loads(line)["predictions"][0]["class"] for line in printed.splitlines()]
    assert names == [str(label) for label in model.predict(features).tolist()]
    if isinstance(features, pd.DataFrame):
        features[["d", "ç", "a", "b b"]].to_csv(tmp_path / "rows.csv", index=False)
        printed = run("predict", tmp_path / "model", tmp_path / "rows.csv", "--json", "--top", "1")
        of_table = [json.loads(line)["predictions"][0]["class"] for line in printed.splitlines()]
        assert of_table == names
    # It can be fitted again.
    loaded.fit(features, y)
    np.testing.assert_array_equal(loaded.coef_, model.coef_)


def test_a_sparse_weight_is_saved_as_a_dense_one(tmp_path):
    model = flowreg.LogisticRegression().fit(X, Y)
    weight = model.coef_
    model.sparsify().save(tmp_path / "model")
    np.testing.assert_array_equal(flowreg.load(tmp_path / "model").coef_, weight)
    assert model.plot_weights((2, 2))[0].images[0].get_array().shape == (2, 2)


def test_a_directory_replaces_only_that_of_an_estimator(tmp_path):
    model = flowreg.LogisticRegression().fit(X, Y)
    model.save(tmp_path / "new" / "model")
    with pytest.raises(FileExistsError, match="give `overwrite` to replace it"):
        model.save(tmp_path / "new" / "model")
    other = flowreg.LogisticRegression(C=7).fit(X, Y)
    other.save(tmp_path / "new" / "model", overwrite=True)
    assert flowreg.load(tmp_path / "new" / "model").C == 7
    (tmp_path / "new" / "model" / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="found mine.txt, expected nothing that flowreg did not"):
        model.save(tmp_path / "new" / "model", overwrite=True)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    run("fit", "--x", "x.npy", "--y", "y.npy", "--optimizer", "newton", "--out", "run", cwd=tmp_path)
    with pytest.raises(ValueError, match="found a run, expected a model"):
        model.save(tmp_path / "run", overwrite=True)
    assert flowreg.load(tmp_path / "run").status_ == "converged"
    # And flowreg-fit does not replace the estimator.
    (tmp_path / "new" / "model" / "mine.txt").unlink()
    options = ["--optimizer", "newton", "--out", "new/model", "--force"]
    refused = subprocess.run(
        command("fit", "--x", "x.npy", "--y", "y.npy", *options),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert refused.returncode != 0 and "found a model, expected a run" in refused.stderr


def test_what_json_cannot_represent_is_named(tmp_path):
    model = flowreg.LogisticRegression(callback=lambda event: None, verbose=0).fit(X, Y)
    with pytest.warns(UserWarning, match="JSON cannot represent, callback: .* by set_params"):
        model.save(tmp_path / "model")
    assert flowreg.load(tmp_path / "model").callback is None
    model = flowreg.LogisticRegression().fit(X[:100], Y[:100])
    model.classes_ = np.array([0, "a"], object)
    model.save(tmp_path / "mixed")
    model.classes_ = np.array([0, (1, 2)], object)
    model.classes_[1] = object()
    with pytest.raises(ValueError, match="classes_: found labels of type object"):
        model.save(tmp_path / "objects")
    model = flowreg.LogisticRegression().fit(X, Y)
    model.coef_[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"weight\[1, 2\]: found NaN"):
        model.save(tmp_path / "nan")
    with pytest.raises(Exception, match="is not fitted yet"):
        flowreg.LogisticRegression().save(tmp_path / "unfitted")
    assert not any((tmp_path / name).exists() for name in ("objects", "nan", "unfitted"))


def change(**fields):
    """Writes a file with a checksum, but without these fields as they were."""

    def edit(directory):
        path = directory / "estimator.json"
        content = {**json.loads(path.read_text()), **fields}
        content = {name: value for name, value in content.items() if value != "gone"}
        path.write_text(json.dumps({**content, "crc32": _crc32_of_fields(content)}))

    return edit


def damage(name, content):
    return lambda directory: (directory / name).write_bytes(content)


@pytest.mark.parametrize(
    "damage, said",
    [
        (change(version=3), "version 3, which no flowreg writes, or a newer one; this one reads 1 and 2"),
        (change(crc32=0, version=1.5), "version 1.5, which no"),
        (change(model_crc32="gone"), "no field 'model_crc32'"),
        (change(params="gone"), "no field 'params'"),
        (change(params={"c": 1}), "Invalid parameter"),
        (change(estimator="SVC"), "the estimator 'SVC', none of LogisticRegression"),
        (change(fitted={"predict": 1}), "the result 'predict', which no fit has"),
        (change(fitted={"__class__": 1}), "the result '__class__'"),
        (change(classes={"dtype": "<i8", "values": [1, 2]}), "estimator.json: found 2 classes for a model of 3, expected"),
        (change(classes={"dtype": "<i8", "values": ["a", 2, 3]}), "invalid literal"),
        (change(classes=[0, 1, 2]), "estimator.json: found classes that are no array of one dimension"),
        (change(classes={"dtype": "<i8", "values": [[0], [1], [2]]}), "no array of one dimension"),
        (change(classes={"dtype": "<i8", "values": 3}), "no array of one dimension"),
        (change(classes={"dtype": "<i8", "values": [0, 0, 1]}), "the classes .0, 0, 1., which are not dis"),
        (change(classes={"dtype": "|O", "values": [0, "a", 1]}), "estimator.json: found '<' not supported"),
        (change(dtype="int8"), "estimator.json: found the dtype 'int8', neither float32 nor float64"),
        (change(dtype="O"), "estimator.json: found the dtype 'O'"),
        (change(dtype=["float32"]), "estimator.json: found the dtype .'float32'."),
        (damage("estimator.json", b"[" * 100_000), "estimator.json: found "),
        (damage("estimator.json", b"{"), "estimator.json: found .* expected what flowreg writes"),
        (damage("estimator.json", b"[]"), "estimator.json: found JSON of list, where an object belongs"),
        (damage("estimator.json", b"null"), "estimator.json: found JSON of NoneType, where an object"),
        (damage(".flowreg.json", b"{}"), ".flowreg.json: found no field 'entries', expected what flowreg"),
        (damage("history.jsonl", b"{}"), "history.jsonl: found epochs that do not have the checksum in estim"),
        (damage("history.jsonl", b'{"epoch":'), "^[^ ]*history.jsonl: found"),
        (damage("model.safetensors", b"12345678"), "model.safetensors: "),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, said):
    flowreg.TorchLinear(epochs=2).fit(X, Y).save(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(ValueError, match=said):
        flowreg.load(tmp_path / "model")


def test_damaged_bits_are_found(tmp_path):
    model = flowreg.TorchLinear(lr=0.0625, epochs=2).fit(X, np.array(["a", "b", "c"])[Y])
    model.save(tmp_path)
    for name in ("estimator.json", "history.jsonl"):
        path = tmp_path / name
        whole = path.read_bytes()
        for position in range(0, 8 * len(whole), 11):
            damaged = bytearray(whole)
            damaged[position // 8] ^= 1 << position % 8
            path.write_bytes(damaged)
            try:
                loaded = flowreg.load(tmp_path)
            except ValueError as error:
                assert str(path) in str(error)
            else:
                # E for e in a number, or another escape of one character.
                assert json.loads(damaged) == json.loads(whole) and name == "estimator.json"
                assert loaded.get_params() == model.get_params()
        path.write_bytes(whole)
    assert flowreg.load(tmp_path).history_ == model.history_


@pytest.mark.parametrize(
    "model",
    [flowreg.LogisticRegression(), flowreg.LogisticRegressionCV(Cs=2, cv=3), flowreg.TorchLinear(epochs=2)],
)
def test_the_files_of_a_directory_belong_together(tmp_path, model):
    far = X.astype(np.float64) + [0, 1.7e9, 0, 0]
    rows = {"one": (X, Y), "two": (X[::2], Y[::2]), "far": (far, Y), "named": (X, np.array(list("abc"))[Y])}
    for name, (features, labels) in rows.items():
        if name != "far" or not isinstance(model, flowreg.TorchLinear):
            clone(model).fit(features, labels).save(tmp_path / name)
    for name in rows:
        if name == "one" or not (tmp_path / name).exists():
            continue
        shutil.copytree(tmp_path / "one", tmp_path / "mixed", dirs_exist_ok=True)
        shutil.copy(tmp_path / name / "model.safetensors", tmp_path / "mixed")
        with pytest.raises(ValueError, match="estimator.json: found the checksum of another model than that"):
            flowreg.load(tmp_path / "mixed")
    (tmp_path / "one" / "estimator.json").unlink()
    said = "estimator.json: found no such file, expected it.*load .*model.safetensors alone"
    with pytest.raises(ValueError, match=said):
        flowreg.load(tmp_path / "one")
    # The advice works.
    assert flowreg.load(tmp_path / "one" / "model.safetensors").coef_.shape == (3, 4)


def test_a_run_without_its_summary_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    run("fit", "--x", "x.npy", "--y", "y.npy", "--optimizer", "newton", "--out", "run", cwd=tmp_path)
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(ValueError, match="summary.json: found no such file"):
        flowreg.load(tmp_path / "run")


class Scaled(flowreg.LogisticRegression):
    def decision_function(self, X):
        return 2 * super().decision_function(X)


def test_a_subclass_is_refused_with_advice_that_works(tmp_path):
    model = Scaled().fit(X, Y)
    said = "found an estimator of Scaled, a subclass of LogisticRegression, expected one of .*joblib.dump"
    with pytest.raises(ValueError, match=said):
        model.save(tmp_path / "model")
    assert not any(tmp_path.iterdir())
    joblib.dump(model, tmp_path / "model")
    np.testing.assert_array_equal(joblib.load(tmp_path / "model").predict_proba(X), model.predict_proba(X))


def test_names_that_are_not_unicode_are_named(tmp_path):
    model = flowreg.LogisticRegression().fit(X, np.array(["a", "b", "\ud800"])[Y])
    frame = pd.DataFrame(X, columns=["a", "b", "c", "\udcff"])
    of_columns = flowreg.LogisticRegression().fit(frame, Y)
    for estimator, said in [
        (model, r"^classes_: found '\\ud800' with a lone surrogate, expected valid Unicode"),
        (of_columns, r"^feature_names_in_: found '\\udcff' with a lone surrogate"),
    ]:
        with pytest.raises(ValueError, match=said):
            estimator.save(tmp_path / "model")
        with pytest.raises(ValueError, match=said):
            estimator.report(tmp_path / "report.html")
    assert not any(tmp_path.iterdir())


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: cannot read the model"):
        flowreg.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="model.safetensors: cannot read the model"):
        flowreg.load(tmp_path)


@pytest.mark.parametrize("name", ["logistic", "cv", "torch"])
def test_directories_of_version_0_1_are_read(name):
    model = flowreg.load(HERE / "saved_0.1" / name)
    assert list(model.classes_) == ["setosa", "versicolor", "virginica"]
    # One column of this one was far from 0.
    rows = X.astype(np.float64) + (1e9 * np.eye(4)[1] if name == "logistic" else 0)
    assert model.score(rows, np.array(["setosa", "versicolor", "virginica"])[Y]) > 0.5
    expected = json.loads((HERE / "saved_0.1" / "expected.json").read_text())[name]
    np.testing.assert_allclose(model.decision_function(rows[:1])[0], expected, atol=1e-4)


@pytest.fixture
def arrays(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    np.save(tmp_path / "names.npy", np.array(["setosa", "versicolor", "virginica"])[Y])
    return tmp_path


@pytest.mark.parametrize(
    "options",
    [
        ["--optimizer", "newton", "--C", "0.3"],
        ["--optimizer", "lbfgs", "--C", "2", "--class-weight", "balanced"],
        ["--optimizer", "newton", "--l2", "1e-3", "--standardize", "both"],
        ["--optimizer", "newton", "--C", "1", "--x-val", "x.npy", "--y-val", "y.npy", "--calibrate"],
    ],
)
def test_a_converged_run_is_an_estimator(arrays, options):
    run("fit", "--x", "x.npy", "--y", "y.npy", "--out", "run", *options, cwd=arrays)
    lost = {"both": "--standardize both", "--calibrate": "--calibrate"}.get(options[-1])
    if lost is None:
        model = flowreg.load(arrays / "run")
    else:
        with pytest.warns(UserWarning, match=f"load: found {lost} in"):
            model = flowreg.load(arrays / "run")
    assert isinstance(model, flowreg.LogisticRegression) and model.status_ == "converged"
    assert model.solver == options[1] and model.gap_ < 1e-3 * model.objective_
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])
    theirs = predicted(arrays, arrays / "run", X)
    np.testing.assert_allclose(model.predict_proba(X), theirs, atol=ROUNDING)
    summary = json.loads((arrays / "run" / "summary.json").read_text())
    assert model.score(X, Y) == pytest.approx(summary["eval_accuracy"])
    # Saved again it is the same model to the last bit.
    model.save(arrays / "again")
    np.testing.assert_array_equal(predicted(arrays, arrays / "again", X), theirs)
    np.testing.assert_array_equal(flowreg.load(arrays / "again").coef_, model.coef_)
    if "--standardize" not in options:
        # And fitted again it is the same optimum.
        again = clone(model).fit(X, Y)
        np.testing.assert_allclose(again.l2_, model.l2_, rtol=1e-9)
        np.testing.assert_allclose(again.objective_, model.objective_, rtol=1e-4)


def test_options_that_the_estimator_does_not_have_are_named(arrays):
    (arrays / "weights.txt").write_text("1 2 3")
    far = X.astype(np.float64) + [0, 1.7e9, 0, 0]
    np.save(arrays / "far.npy", far)
    prepared = ["--x", "far.npy", "--y", "y.npy", "--center", "--out", "data"]
    run("prep", "npy", *prepared, cwd=arrays)
    raw = ["--x", "x.npy", "--y", "y.npy"]
    run("fit", *raw, "--epochs", "2", "--out", "first", cwd=arrays)
    weights, init = ["--class-weight", "weights.txt"], ["--init", "first/model.safetensors"]
    scaled, smoothed = ["--standardize", "both"], ["--label-smoothing", "0.2"]
    newton = [*raw, "--optimizer", "newton", "--C", "0.01"]
    sgd = [*raw, "--epochs", "2"]
    for options, lost in [
        ([*newton, *scaled], "--standardize both"),
        ([*newton, "--standardize", "center"], None),
        ([*newton, *smoothed], "--label-smoothing 0.2"),
        ([*newton, *weights], "--class-weight FILE"),
        ([*newton, *scaled, *smoothed], "--standardize both, --label-smoothing 0.2"),
        (["data", "--optimizer", "newton"], None),
        (sgd, None),
        ([*sgd, *smoothed, "--init", "zeros"], None),
        ([*sgd, *scaled], "--standardize both"),
        ([*sgd, "--standardize", "center"], "--standardize center"),
        ([*sgd, *weights], "--class-weight FILE"),
        ([*sgd, *init], f"--init {init[1]}"),
        (["data", "--epochs", "2"], "--center"),
    ]:
        shutil.rmtree(arrays / "run", ignore_errors=True)
        run("fit", *options, "--out", "run", cwd=arrays)
        # Warnings that are not expected fail the test.
        if lost is None:
            model = flowreg.load(arrays / "run")
            rows = far if "data" in options else X
            again = clone(model).fit(rows, Y)
            np.testing.assert_allclose(again.predict_proba(rows), model.predict_proba(rows), atol=1e-3)
        else:
            with pytest.warns(UserWarning) as warned:
                flowreg.load(arrays / "run")
            (warning,) = warned
            assert f"load: found {lost} in {arrays / 'run' / 'summary.json'}, expected" in str(warning.message)
            assert Path(warning.filename).name == "test_saved.py"


@pytest.mark.parametrize("rows", [0, -1, None])
def test_a_damaged_summary_is_named(arrays, rows):
    run("fit", "--x", "x.npy", "--y", "y.npy", "--optimizer", "newton", "--out", "run", cwd=arrays)
    path = arrays / "run" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "n": rows}))
    with pytest.raises(ValueError, match="summary.json: found .* expected what flowreg writes"):
        flowreg.load(arrays / "run")


def test_a_run_of_sgd_is_an_estimator(arrays):
    options = ["--lr", "0.01", "--epochs", "12", "--momentum", "0.5", "--seed", "3", "--batch-size", "50"]
    options += ["--lr-schedule", "step", "--lr-step-size", "4", "--lr-gamma", "0.5", "--lr-warmup", "2"]
    run("fit", "--x", "x.npy", "--y", "names.npy", "--out", "run", *options, cwd=arrays)
    model = flowreg.load(arrays / "run")
    names = np.load(arrays / "names.npy")
    assert isinstance(model, flowreg.TorchLinear) and len(model.history_) == 12
    assert list(model.classes_) == ["setosa", "versicolor", "virginica"]
    np.testing.assert_allclose(
        model.predict_proba(X), predicted(arrays, arrays / "run", X), atol=ROUNDING
    )
    again = clone(model).fit(X, names)
    assert again.history_ == model.history_
    np.testing.assert_array_equal(again.coef_, model.coef_)
    assert (again.lr_, again.engine_, again.best_epoch_) == (model.lr_, model.engine_, model.best_epoch_)
    numbered = flowreg.load(arrays / "run", class_names=False)
    np.testing.assert_array_equal(numbered.classes_, [0, 1, 2])
    assert numbered.score(X, Y) == model.score(X, names)


def test_a_shift_is_part_of_the_intercept(tmp_path):
    far = X.astype(np.float64) + [0, 1.7e9, 0, 0]
    np.save(tmp_path / "x.npy", far)
    np.save(tmp_path / "y.npy", Y)
    run("prep", "npy", "--x", "x.npy", "--y", "y.npy", "--center", "--out", "data", cwd=tmp_path)
    run("fit", "data", "--optimizer", "newton", "--out", "run", cwd=tmp_path)
    model = flowreg.load(tmp_path / "run")
    theirs = predicted(tmp_path, tmp_path / "run", far)
    np.testing.assert_allclose(model.predict_proba(far), theirs, atol=ROUNDING)
    model.save(tmp_path / "again")
    np.testing.assert_array_equal(predicted(tmp_path, tmp_path / "again", far), theirs)


@pytest.mark.parametrize("pictures", [False, True])
def test_a_model_of_bytes_divides_them(tmp_path, pictures):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    if pictures:
        for i, label in enumerate(y):
            folder = tmp_path / "photographs" / "ab"[label]
            folder.mkdir(parents=True, exist_ok=True)
            values = rng.integers(0, 100 + 100 * label, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(values).save(folder / f"{i:02}.png")
        run("prep", "folder", "--root", "photographs", "--size", "6", "--out", "data", cwd=tmp_path)
    else:
        bytes_ = rng.integers(0, 100 + 100 * y[:, None], (40, 12), dtype=np.uint8)
        np.save(tmp_path / "x.npy", bytes_)
        np.save(tmp_path / "y.npy", y)
        run("prep", "npy", "--x", "x.npy", "--y", "y.npy", "--out", "data", cwd=tmp_path)
    run("fit", "data", "--optimizer", "newton", "--out", "run", cwd=tmp_path)
    model = flowreg.load(tmp_path / "run")
    assert list(model.classes_) == (["a", "b"] if pictures else [0, 1])
    quotients = np.load(tmp_path / "data" / "train.x.npy")
    bytes_ = np.round(255 * quotients).astype(np.uint8)
    theirs = predicted(tmp_path, tmp_path / "run", bytes_)
    for rows in (bytes_, quotients, quotients.astype(np.float64)):
        np.testing.assert_allclose(model.predict_proba(rows), theirs, atol=ROUNDING)
    with pytest.raises(ValueError, match=r"X: found .* expected bytes \(uint8\)"):
        model.predict(bytes_.astype(np.float32))
    with pytest.raises(ValueError, match="NaN"):
        model.predict(np.full_like(quotients, np.nan))
    model.save(tmp_path / "again")
    np.testing.assert_array_equal(predicted(tmp_path, tmp_path / "again", bytes_), theirs)
    if pictures:
        assert model.plot_weights()[0].images[0].get_array().shape == (6, 6, 3)
        shutil.copytree(tmp_path / "photographs", tmp_path / "more")
        names = run("predict", "again", "more", "--csv", "--top", "1", cwd=tmp_path)
        assert names == run("predict", "run", "more", "--csv", "--top", "1", cwd=tmp_path)
    # A fit takes its rows as they are.
    labels = model.classes_[np.load(tmp_path / "data" / "train.y.npy")]
    refitted = model.fit(bytes_, labels)
    fresh = flowreg.LogisticRegression(C=model.C, tol=model.tol).fit(bytes_, labels)
    np.testing.assert_array_equal(refitted.predict_proba(bytes_), fresh.predict_proba(bytes_))


def test_a_table_gives_the_names_of_features(tmp_path):
    frame = pd.DataFrame(X, columns=list("abcd"))
    table = frame.assign(kind=np.array(["3", "1", "2"])[Y])
    table.to_csv(tmp_path / "t.csv", index=False)
    run("prep", "csv", "--label", "kind", "--train", "t.csv", "--out", "data", cwd=tmp_path)
    run("fit", "data", "--optimizer", "newton", "--out", "run", cwd=tmp_path)
    model = flowreg.load(tmp_path / "run")
    assert list(model.feature_names_in_) == list("abcd")
    np.testing.assert_array_equal(model.classes_, [1, 2, 3])
    assert model.score(frame, np.array([3, 1, 2])[Y]) > 0.9
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[list("dcba")])


def test_numbers_in_several_spellings_are_one_class_unless_others_have_names(tmp_path):
    for last, expected in [("9", [7, 8, 9]), ("x", ["007", "008", "x"])]:
        rows = [f"{i},{label}\n" for i, label in enumerate(["007", "008", last] * 4)]
        (tmp_path / "t.csv").write_text("a,kind\n" + "".join(rows))
        run("prep", "csv", "--label", "kind", "--train", "t.csv", "--out", last, cwd=tmp_path)
        run("fit", last, "--optimizer", "newton", "--out", f"run{last}", cwd=tmp_path)
        assert flowreg.load(tmp_path / f"run{last}").classes_.tolist() == expected


def test_names_of_classes_as_labels():
    from flowreg._saved import labels

    for names, expected in [
        ([], [0, 1, 2]),
        (["class 1", "class 2", "class 3"], [1, 2, 3]),
        (["-1", "1", "2"], [-1, 1, 2]),
        (["-1", "+1", "2"], ["-1", "+1", "2"]),
        (["007", "042", "1"], ["007", "042", "1"]),
        (["class 01", "class 2", "class 3"], ["class 01", "class 2", "class 3"]),
        (["-0", "1", "2"], ["-0", "1", "2"]),
        (["01", "1", "2"], ["01", "1", "2"]),
        (["1", "two", "3"], ["1", "two", "3"]),
        (["a"], ["a", "class 1", "class 2"]),
        (["a", "b", "c", "d"], ["a", "b", "c"]),
        (["1" * 30, "2", "3"], ["1" * 30, "2", "3"]),
    ]:
        found = labels(names, 3)
        assert found.tolist() == expected
    assert labels(["True", "False"], 2).tolist() == [True, False]


def test_names_of_classes_that_are_not_distinct_are_refused(tmp_path):
    from flowreg._flowreg import save_model

    weight, bias = np.zeros((3, 2), np.float32), np.zeros(3, np.float32)
    save_model(tmp_path / "model", weight, bias, json.dumps({"class_names": ["a", "b", "a"]}), [])
    with pytest.raises(ValueError, match="model: found the class names .'a', 'b', 'a'., expected distinct"):
        flowreg.load(tmp_path / "model")
    assert list(flowreg.load(tmp_path / "model", class_names=False).classes_) == [0, 1, 2]


def test_classes_of_a_run_are_sorted(tmp_path):
    model = flowreg.LogisticRegression().fit(X, np.array(["b", "c", "a"])[Y])
    model.save(tmp_path / "model")
    # As in a run, whose classes need not be sorted.
    file = tmp_path / "model" / "model.safetensors"
    raw = flowreg.load(file, class_names=False)
    named = flowreg.load(file)
    assert list(named.classes_) == ["a", "b", "c"]
    np.testing.assert_array_equal(named.classes_[raw.predict(X)], model.predict(X))


def test_classes_out_of_order_are_sorted_with_their_weights(tmp_path):
    from flowreg._flowreg import save_model

    for outputs, names in [(3, ["c", "a", "b"]), (1, ["yes", "no"])]:
        # Of the petal's length, which tells the classes of iris apart.
        weight = np.eye(4, dtype=np.float32)[[2]] * np.float32([[0], [1], [1.5]])[-outputs:]
        bias = np.float32([0, -2, -4.4])[-outputs:]
        directory = tmp_path / str(outputs)
        save_model(directory, weight, bias, json.dumps({"class_names": names}), [])
        model = flowreg.load(directory)
        assert list(model.classes_) == sorted(names)
        by_number = flowreg.load(directory, class_names=False)
        expected = [names[label] for label in by_number.predict(X)]
        assert list(model.predict(X)) == expected and set(expected) == set(names)
        columns = [sorted(names).index(name) for name in names]
        # The sum over classes has another order in float32.
        ours = model.predict_proba(X)[:, columns]
        np.testing.assert_allclose(ours, by_number.predict_proba(X), rtol=1e-6)


def test_a_state_dict_of_torch_is_a_model(tmp_path):
    model = flowreg.LogisticRegression().fit(X, Y)
    model.save(tmp_path / "model")
    shutil.copy(tmp_path / "model" / "model.safetensors", tmp_path / "linear.safetensors")
    loaded = flowreg.load(tmp_path / "linear.safetensors")
    np.testing.assert_array_equal(loaded.coef_, model.coef_)
    np.testing.assert_array_equal(loaded.classes_, [0, 1, 2])
