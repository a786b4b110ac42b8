"""How fitted classifiers are shown."""

import json
import re
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import sklearn
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import flowreg

X, Y = load_digits(return_X_y=True)
X, X_TEST, Y, Y_TEST = X[:600], X[600:900], Y[:600], Y[600:900]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def fitted():
    yield flowreg.LogisticRegression().fit(X, Y), ["status <b>converged</b>", "gap <b>", "objective <b>"]
    chooser = flowreg.LogisticRegressionCV(Cs=3, cv=3).fit(X, Y)
    score = chooser.scores_.mean(axis=0).max()
    yield chooser, [f"score <b>{score:.6g}</b>", f"C <b>{chooser.C_:g}</b>", "status"]
    with_validation = flowreg.TorchLinear(lr=1e-3, epochs=5)
    with_validation.fit(X, Y, X_val=X_TEST, y_val=Y_TEST)
    yield with_validation, ["epochs <b>5</b>", "val loss <b>", "val accuracy <b>"]


@pytest.mark.parametrize("model, words", list(fitted()))
def test_the_line_of_the_fit_is_below_scikit_learns_diagram(model, words):
    page = model._repr_html_()
    assert "sk-" in page and type(model).__name__ in page
    line = page[page.rindex('<p class="flowreg-fit">') :]
    for word in words:
        assert word in line, (word, line)
    assert model._repr_mimebundle_()["text/html"].endswith(line)
    assert model._repr_mimebundle_()["text/plain"] == repr(model)
    with sklearn.config_context(display="text"):
        assert not hasattr(model, "_repr_html_")
        assert "text/html" not in model._repr_mimebundle_()
    assert "flowreg-fit" not in type(model)()._repr_html_()
    assert make_pipeline(StandardScaler(), model)._repr_html_()


def test_the_line_is_text():
    model = flowreg.LogisticRegression().fit(X, Y)
    model.status_ = "<img src=x>"
    assert "<img" not in model._repr_html_().split("flowreg-fit")[-1]


def data(path):
    page = path.read_text()
    assert page.startswith("<!doctype html><!-- flowreg -->")
    for address in ("http://", "https://", 'src="', "@import", "url("):
        assert address not in page.replace("http://www.w3.org/2000/svg", "")
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


@pytest.mark.parametrize("model, words", list(fitted()))
def test_a_report_has_the_scores_of_the_rows(tmp_path, model, words):
    path = tmp_path / "report.html"
    model.report(path, X_TEST, Y_TEST, split="held out")
    found = data(path)
    evaluation = found["evaluation"]
    assert (evaluation["split"], evaluation["rows"]) == ("held out", 300)
    assert evaluation["accuracy"] == pytest.approx(accuracy_score(Y_TEST, model.predict(X_TEST)))
    assert evaluation["loss"] == pytest.approx(log_loss(Y_TEST, model.predict_proba(X_TEST)), rel=1e-4)
    pairs = {(label, predicted): n for label, predicted, n in evaluation["confusion"]}
    assert sum(pairs.values()) == 300
    assert sum(n for (a, b), n in pairs.items() if a == b) == pytest.approx(300 * evaluation["accuracy"])
    assert found["classes"] == [str(label) for label in range(10)]
    summary = found["runs"][0]["summary"]
    assert summary["estimator"] == type(model).__name__
    if hasattr(model, "status_"):
        assert summary["status"] == "converged" and summary["iterations"] >= 1
        assert "epochs" not in summary
    else:
        assert summary["epochs"] == 5
        assert [epoch["loss"] for epoch in found["runs"][0]["history"]] == [
            epoch["loss"] for epoch in model.history_
        ]
    if hasattr(model, "scores_"):
        assert [row["C"] for row in found["path"]] == list(model.Cs_)
        np.testing.assert_allclose([row["score"] for row in found["path"]], model.scores_.mean(axis=(0, 1)))
    else:
        assert found["path"] is None


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_report_without_rows_and_what_it_replaces(tmp_path):
    model = flowreg.LogisticRegression(C=np.inf, tol=0.1).fit(X.astype(np.float32), Y > 4)
    path = tmp_path / "report.html"
    model.report(path)
    found = data(path)
    assert found["evaluation"] is None and found["title"] == "Logistic of 2 classes"
    assert found["runs"][0]["summary"]["C"] == "inf"
    with pytest.raises(FileExistsError, match="`overwrite`"):
        model.report(path)
    model.report(path, X, Y > 4, overwrite=True)
    assert data(path)["evaluation"]["rows"] == 600
    path.write_text("mine")
    with pytest.raises(ValueError, match="found a file that flowreg did not write"):
        model.report(path, overwrite=True)
    assert path.read_text() == "mine"
    with pytest.raises(ValueError, match="X and y: found one of them"):
        model.report(path, X)
    with pytest.raises(ValueError, match="y: found 7 in row 1, expected the labels of y"):
        model.report(tmp_path / "other.html", X[:2], [False, 7])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html"]


def half(y, predicted):
    """A score of 0.5; NaN if all predictions are one class."""
    return 0.5 if len(set(predicted)) > 1 else np.nan


def test_a_report_names_what_it_cannot_show(tmp_path):
    model = flowreg.LogisticRegression().fit(X, Y)
    for size in (1e38, 1e300):
        with pytest.raises(ValueError, match="X: found rows whose logits overflow float32, .* scale them as"):
            model.report(tmp_path / "report.html", size * X, Y)
    with pytest.raises(ValueError, match="split: found 3, expected a text, the name of the rows"):
        model.report(tmp_path / "report.html", X, Y, split=3)
    with pytest.raises(ValueError, match=r"split: found '\\udcff' with a lone surrogate, .*: pass another name"):
        model.report(tmp_path / "report.html", X, Y, split="\udcff")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("Cs", [[1, np.inf], [1e-12, 1]])
@pytest.mark.filterwarnings("ignore:scoring. found NaN as the score")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_report_and_plot_of_scores_that_are_not_finite(tmp_path, Cs):
    scorer = sklearn.metrics.make_scorer(half)
    model = flowreg.LogisticRegressionCV(Cs=Cs, cv=3, scoring=scorer, tol=1e-2).fit(X[:, :20], Y > 6)
    # NaN is not the best score.
    assert model.C_ == 1
    model.report(tmp_path / "report.html")
    found = data(tmp_path / "report.html")
    if Cs[1] == 1:
        assert np.isnan(model.scores_[:, 0, 0]).all()
        assert found["path"][0] == {"C": 1e-12, "score": "nan", "deviation": "nan"}
        assert found["path"][1] == {"C": 1.0, "score": 0.5, "deviation": 0.0}
    else:
        assert found["path"][1] == {"C": "inf", "score": 0.5, "deviation": 0.0}
    assert found["runs"][0]["summary"]["score"] == 0.5
    assert model.plot_path().lines
    assert "score <b>0.5</b>" in model._repr_html_()


def test_a_report_of_shifted_rows(tmp_path):
    far = X[:, :20] + 1e9 * (np.arange(20) == 3)
    model = flowreg.LogisticRegression().fit(far, Y)
    model.report(tmp_path / "report.html", far, Y)
    found = data(tmp_path / "report.html")["evaluation"]
    assert found["accuracy"] == pytest.approx(model.score(far, Y))
    assert found["loss"] == pytest.approx(log_loss(Y, model.predict_proba(far)), rel=1e-4)


def test_confusion():
    model = flowreg.LogisticRegression().fit(X, Y)
    _, ax = plt.subplots()
    display = model.plot_confusion(X_TEST, Y_TEST, ax=ax, normalize="true")
    assert isinstance(display, sklearn.metrics.ConfusionMatrixDisplay) and display.ax_ is ax
    np.testing.assert_allclose(display.confusion_matrix.sum(axis=1), 1)


def test_weights():
    model = flowreg.LogisticRegression().fit(X, Y)
    axes = model.plot_weights((8, 8))
    assert [axis.get_title() for axis in axes] == [str(label) for label in range(10)]
    np.testing.assert_allclose(axes[3].images[0].get_array(), model.coef_[3].reshape(8, 8))
    low, high = axes[3].images[0].get_clim()
    assert low == -high == -np.abs(model.coef_[3]).max()
    _, ax = plt.subplots()
    assert model.plot_weights(classes=[7], ax=ax)[0] is ax and ax.get_title() == "7"
    with pytest.raises(ValueError, match="ax: found 1 axes, expected 10"):
        model.plot_weights(ax=ax)
    with pytest.raises(ValueError, match=r"shape: found \(8, 9\) for 64 features"):
        model.plot_weights((8, 9))
    with pytest.raises(ValueError, match="shape: found 8 for 64 features, expected .height, width"):
        model.plot_weights(8)
    with pytest.raises(ValueError, match=r"classes: found 12, .* have a weight: \[0, 1, 2, 3, 4, 5, 6, 7, 8, 9\]"):
        model.plot_weights(classes=[12])
    for classes in ([], 3, "3", [[3]]):
        with pytest.raises(ValueError, match=r"classes: found .*, expected a sequence of one label or more, .* \[0, 1\]"):
            model.plot_weights(classes=classes)
    of_two = flowreg.LogisticRegression().fit(X[:, :60], Y > 4)
    with pytest.raises(ValueError, match=r"shape: found \(7, 7\) for 60 features"):
        of_two.plot_weights()
    (axis,) = of_two.plot_weights((6, 10))
    assert axis.get_title() == "True"
    for shape, first in [((4, 5, 3), of_two.coef_[0, :3]), ((3, 4, 5), of_two.coef_[0, ::20])]:
        picture = of_two.plot_weights(shape)[0].images[0].get_array()
        assert picture.shape == (4, 5, 3) and 0 <= picture.min() and picture.max() <= 1
        expected = 0.5 + first / (2 * np.abs(of_two.coef_).max())
        np.testing.assert_allclose(picture[0, 0], expected)


def test_paths():
    model = flowreg.LogisticRegressionCV(Cs=[1, 0.01, 0.1], cv=3, scoring="neg_log_loss").fit(X, Y)
    _, ax = plt.subplots()
    assert model.plot_path(ax=ax) is ax
    Cs, mean = ax.lines[0].get_data()
    np.testing.assert_allclose(Cs, [0.01, 0.1, 1])
    np.testing.assert_allclose(mean, model.scores_.mean(axis=(0, 1))[[1, 2, 0]])
    assert (ax.get_ylabel(), ax.get_xscale()) == ("neg_log_loss", "log")
    assert ax.lines[1].get_xdata()[0] == model.C_
    probe = flowreg.fit_linear_probe(X, Y, val=(X_TEST, Y_TEST), Cs=[0.01, 1])
    ax = probe.plot_path()
    np.testing.assert_allclose(ax.lines[0].get_ydata(), probe.table["accuracy"])
    assert not hasattr(flowreg.TorchLinear(), "plot_path")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    model = flowreg.LogisticRegressionCV(Cs=2).fit(X, Y)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (model.plot_path, model.plot_weights, lambda: model.plot_confusion(X, Y)):
        with pytest.raises(ImportError, match="^plot_.*: found no matplotlib.*pip install matplotlib"):
            draw()
