"""LogisticRegression reaches scikit-learn's optimum."""

import re
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

import flowreg


def problem(n, d, classes, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((n, d)) * scale).astype(np.float32)
    W = rng.standard_normal((d, classes)) / np.sqrt(d)
    y = (X @ W + rng.gumbel(size=(n, classes))).argmax(axis=1)
    y[:classes] = np.arange(classes)
    return X, y


def reference(X, y, sample_weight=None, **options):
    return Reference(solver="newton-cholesky", tol=1e-12, max_iter=1000, **options).fit(
        X.astype(np.float64), y, sample_weight
    )


def objective(model, X, y, sample_weight, class_weight, C):
    """C times the sum of the weighted losses, plus half the weight's square."""
    labels = np.searchsorted(model.classes_, y)
    weights = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, float)
    if class_weight is not None:
        weights = weights * np.array([class_weight[label] for label in y])
    losses = -model.predict_log_proba(X.astype(np.float64))[np.arange(len(y)), labels]
    return C * (weights * losses).sum() + (model.coef_.astype(np.float64) ** 2).sum() / 2


def assert_same(model, expected, tolerance=1e-5):
    size = np.abs(expected.coef_).max()
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=tolerance * size)
    # The intercepts of a softmax are known up to a constant.
    ours, theirs = model.intercept_, expected.intercept_
    if len(ours) > 1:
        ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    size = max(size, np.abs(theirs).max())
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("shape", [(200, 5), (40, 90)])
def test_coefficients_are_those_of_scikit_learn(shape, classes, fit_intercept, dtype, solver):
    X, y = problem(*shape, classes)
    C = 0.7
    model = flowreg.LogisticRegression(
        C=C, fit_intercept=fit_intercept, solver=solver, tol=1e-7
    ).fit(X.astype(dtype), y)
    assert model.coef_.dtype == model.intercept_.dtype == dtype
    assert model.l2_ == pytest.approx(1 / (C * len(y)))
    expected = reference(X, y, C=C, fit_intercept=fit_intercept)
    assert_same(model, expected)
    ours = objective(model, X, y, None, None, C)
    assert ours / (C * len(y)) == pytest.approx(model.objective_, rel=1e-6)
    lowest = objective(expected, X, y, None, None, C)
    assert -1e-9 * lowest < ours - lowest < model.gap_ * C * len(y) + 1e-9 * lowest


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 0.3, 1: 2.0, 2: 1.0}])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(150, 4), (30, 60)])
def test_weights_mean_what_they_mean_in_scikit_learn(shape, weighted, class_weight):
    X, y = problem(*shape, 3, seed=1)
    weights = np.random.default_rng(2).uniform(0, 3, len(y)) if weighted else None
    options = {"C": 2.0, "class_weight": class_weight}
    model = flowreg.LogisticRegression(tol=1e-7, **options).fit(X, y, weights)
    assert_same(model, reference(X, y, weights, **options))


def test_a_weight_of_zero_removes_a_row_and_two_repeats_it():
    X, y = problem(60, 5, 3, seed=3)
    weights = np.arange(60) % 3
    model = flowreg.LogisticRegression(tol=1e-7).fit(X, y, weights)
    repeated = np.repeat(np.arange(60), weights)
    assert_same(model, flowreg.LogisticRegression(tol=1e-7).fit(X[repeated], y[repeated]))


@pytest.mark.parametrize("options", [{"C": np.inf}, {"penalty": None}])
@pytest.mark.parametrize("classes", [2, 3])
def test_no_penalty(classes, options):
    X, y = problem(400, 4, classes, seed=4)
    model = flowreg.LogisticRegression(tol=1e-7, **options).fit(X, y)
    assert model.gap_ is None and model.l2_ == 0 and model.status_ == "converged"
    expected = reference(X, y, C=np.inf)
    # Without a penalty the weights of a softmax are known up to a row.
    ours, theirs = (m.coef_ - (m.coef_.mean(axis=0) if classes > 2 else 0) for m in (model, expected))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("solver", ["newton-cg", "newton-cholesky"])
def test_solvers_of_scikit_learn_are_newtons_method(solver):
    X, y = problem(60, 5, 3)
    ours = flowreg.LogisticRegression(solver=solver).fit(X, y)
    newton = flowreg.LogisticRegression().fit(X, y)
    np.testing.assert_array_equal(ours.coef_, newton.coef_)


def test_warm_start_begins_at_the_last_model():
    X, y = problem(100, 20, 3)
    model = flowreg.LogisticRegression(warm_start=True).fit(X, y)
    first = model.n_iter_[0]
    coef = model.coef_
    model.fit(X, y)
    assert model.n_iter_[0] == 1 < first
    assert_same(model, flowreg.LogisticRegression().fit(X, y), 1e-4)
    assert np.abs(model.coef_ - coef).max() < 1e-4
    with pytest.raises(ValueError, match=r"coef_ of shape \(3, 20\), expected \(3, 19\)"):
        model.fit(X[:, 1:], y)


def test_what_does_not_converge_is_said():
    X, y = problem(100, 20, 3)
    with pytest.warns(ConvergenceWarning, match="max_iter=1 steps were not enough.*Raise max_iter") as caught:
        model = flowreg.LogisticRegression(max_iter=1).fit(X, y)
    assert model.status_ == "iteration_limit" and model.n_iter_[0] == 1
    assert caught[0].filename == __file__
    separable = np.float32([[0], [1], [2], [3]])
    with pytest.warns(ConvergenceWarning, match="separable.*set C"):
        model = flowreg.LogisticRegression(C=np.inf).fit(separable, [0, 0, 1, 1])
    assert model.status_ == "separable"


def test_the_warning_names_the_criterion_that_is_not_met():
    iris = load_iris(return_X_y=True)
    said = "before its optimum: gap_, [^ ]*, is above the objective itself, .*weak.*Lower C"
    with pytest.warns(ConvergenceWarning, match=said):
        flowreg.LogisticRegression(C=1e30).fit(*iris)
    # The advice works.
    assert flowreg.LogisticRegression(C=1e12).fit(*iris).status_ == "converged"
    said = "optimum: the gradient is .* above tol, 0.0e.00; gap_, the bound .* is .*, above 100 times tol.* Raise tol"
    with pytest.warns(ConvergenceWarning, match=said):
        flowreg.LogisticRegression(tol=0).fit(*iris)
    with pytest.warns(ConvergenceWarning, match="the gradient is .* above tol") as caught:
        model = flowreg.LogisticRegression(max_iter=2).fit(*iris)
    # Such a bound says nothing.
    assert model.gap_ > model.objective_ and "gap_" not in str(caught[0].message)


def test_columns_that_float32_would_round_away_are_shifted():
    X, y = problem(80, 3, 2, seed=5)
    X = X.astype(np.float64)
    far = X + [1.7e9, 0, -5e6]
    model = flowreg.LogisticRegression(tol=1e-7).fit(far, y)
    expected = reference(X, y)
    size = np.abs(expected.coef_).max()
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-5 * size)
    np.testing.assert_allclose(
        model.decision_function(far), expected.decision_function(X), rtol=0, atol=1e-4 * size
    )
    # A warm start knows of the shift.
    warm = flowreg.LogisticRegression(tol=1e-7, warm_start=True).fit(far, y)
    assert warm.fit(far, y).n_iter_[0] == 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flowreg.LogisticRegression(fit_intercept=False).fit(far, y)
    assert re.search("rounds columns 0, 2 .* subtract their means", str(caught[0].message))
    assert caught[0].filename == __file__


@pytest.mark.parametrize("offset", [1e9, 1e12, 1e13])
def test_columns_are_shifted_however_far_they_are(offset):
    X, y = problem(300, 3, 2, seed=5)
    # Numbers that float64 has at this offset.
    X = np.round(X.astype(np.float64) * 256) / 256
    near = flowreg.LogisticRegression(tol=1e-7).fit(X, y)
    far = flowreg.LogisticRegression(tol=1e-7).fit(X + offset, y)
    np.testing.assert_allclose(far.coef_, near.coef_, rtol=1e-4)
    assert far.score(X + offset, y) == pytest.approx(near.score(X, y), abs=0.02)
    # A constant column is none of these, whatever its rounding: 0.1 has no exact sum.
    constant = np.hstack([X, np.full((300, 1), 0.1 * offset)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert flowreg.LogisticRegression().fit(constant, y).coef_[0, 3] == 0
        flowreg.TorchLinear(epochs=0).fit(constant, y)
    with pytest.warns(UserWarning, match="rounds columns 0, 1, 2 by more than"):
        flowreg.TorchLinear(epochs=0).fit(X + offset, y)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"solver": "saga"}, "solver: found 'saga'.*for l1 use scikit-learn's"),
        ({"solver": "liblinear"}, "solver: found 'liblinear'.*does not penalise the intercept"),
        ({"penalty": "l1"}, "penalty: found 'l1'.*saga"),
        ({"penalty": "elasticnet"}, "penalty: found 'elasticnet'"),
        ({"l1_ratio": 0.5}, "l1_ratio of 0.5"),
        ({"dual": True}, "dual: found True"),
        ({"C": 0}, r"'C' parameter .* in the range \(0.0, inf\]. Got 0 instead"),
        ({"C": -1.0}, "'C' parameter .* Got -1.0"),
        ({"C": "1"}, "'C' parameter .* Got '1'"),
        ({"C": np.nan}, "'C' parameter .* Got nan"),
        ({"tol": -1}, "'tol' parameter .* Got -1"),
        ({"max_iter": 1.5}, "'max_iter' parameter .* must be an int .* Got 1.5"),
        ({"max_iter": 10**30}, "'max_iter' parameter .* must be an int in the range"),
        ({"n_threads": 0}, r"'n_threads' parameter .* in the range \[1, 1024\] or None. Got 0"),
        ({"n_threads": -3}, "'n_threads' parameter .* Got -3"),
        ({"n_threads": 2.5}, "'n_threads' parameter .* must be an int .* Got 2.5"),
        ({"n_jobs": 2.5}, "'n_jobs' parameter .* Got 2.5"),
        ({"fit_intercept": "no"}, "'fit_intercept' parameter .* must be an instance of 'bool'"),
        ({"warm_start": "x"}, "'warm_start' parameter .* must be an instance of 'bool'"),
        ({"verbose": -1}, "'verbose' parameter .* Got -1"),
        ({"callback": 3}, "'callback' parameter .* must be a callable or None"),
        ({"class_weight": "even"}, "'class_weight' parameter .* Got 'even'"),
        ({"class_weight": {0: 1, 2: 1}}, "class_weight: found a weight for 2 and none for 1, expected labels"),
        ({"C": 10**400}, "C: found an integer above 1.8e308, expected a number that float64 has"),
        ({"tol": 10**400}, "tol: found an integer above"),
        ({"class_weight": {0: -1}}, "class_weight"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(options, message):
    X, y = problem(20, 2, 2)
    with pytest.raises(ValueError, match=message):
        flowreg.LogisticRegression(**options).fit(X, y)


def test_parameters_of_numpy_are_taken():
    X, y = problem(20, 2, 2)
    expected = flowreg.LogisticRegression(max_iter=50, n_threads=2).fit(X, y)
    model = flowreg.LogisticRegression(
        C=np.float32(1), tol=np.float64(1e-5), max_iter=np.int64(50), n_threads=np.uint8(2),
        n_jobs=np.int32(5000), fit_intercept=np.bool_(True), verbose=False,
    ).fit(X, y)
    np.testing.assert_array_equal(model.coef_, expected.coef_)
    # As scikit-learn has it.
    np.testing.assert_array_equal(flowreg.LogisticRegression(C=True).fit(X, y).coef_, expected.coef_)


def test_numbers_of_threads_beyond_reason_are_taken_as_the_most(monkeypatch):
    X, y = problem(20, 2, 2)
    for name in ("FLOWREG_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, str(10**30))
        flowreg.LogisticRegression().fit(X, y)
        monkeypatch.delenv(name)
    flowreg.LogisticRegression(n_jobs=10**30).fit(X, y)


@pytest.mark.parametrize("value", [1e9, 1e11, 1e12, 1e13, 1e14])
@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
def test_one_huge_value_does_not_spoil_the_others(value, solver):
    X, y = load_iris(return_X_y=True)
    X[0, 0] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = flowreg.LogisticRegression(solver=solver).fit(X, y)
    # 0.195 is reached without a limit of the precision; the shares of the classes have 1.099.
    assert model.objective_ < 0.2 and model.score(X, y) > 0.95


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.filterwarnings("ignore:rounding in float32 ended the fit before its optimum")
@pytest.mark.parametrize("offset", [0.0, 1e4, -3e5])
def test_probabilities_are_as_precise_as_the_gap(offset, classes):
    X, y = problem(300, 4, classes, seed=8)
    X += np.float32(offset)
    C = 10.0
    model = flowreg.LogisticRegression(C=C, tol=1e-8).fit(X, y)
    probabilities = model.predict_proba(X)
    assert probabilities.dtype == np.float64
    loss = log_loss(y, probabilities)
    found = loss + model.l2_ / 2 * (model.coef_.astype(np.float64) ** 2).sum()
    assert abs(found - model.objective_) <= min(model.gap_, 1e-10) + 1e-14


def with_times(shape, dtype):
    X, y = problem(*shape, 3, seed=11)
    rng = np.random.default_rng(12)
    X = X.astype(np.float64)
    X[:, 1] = 1.7e9 + 1e6 * rng.standard_normal(len(X))
    return X.astype(dtype), y


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_times_in_wide_data_end_in_a_warning_whose_advice_works(dtype):
    X, y = with_times((60, 80), dtype)
    model = flowreg.LogisticRegression()
    with pytest.warns(ConvergenceWarning, match="scale the features"):
        model.fit(X, y)
    assert model.status_ != "converged"
    # The advice works.
    scaled = StandardScaler().fit_transform(X.astype(np.float64))
    assert model.fit(scaled, y).status_ == "converged"


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_column_of_times_beside_standardised_ones(dtype, solver):
    X, y = with_times((400, 5), dtype)
    model = flowreg.LogisticRegression(solver=solver).fit(X, y)
    assert model.status_ == "converged" and model.gap_ < 1e-3 * model.objective_
    centred = X.astype(np.float64) - X.astype(np.float64).mean(axis=0)
    expected = Reference(solver="newton-cholesky", tol=1e-10, max_iter=1000).fit(centred, y)
    ours, theirs = (
        objective(m, x, y, None, None, 1.0) for m, x in ((model, X), (expected, centred))
    )
    assert ours - theirs <= model.gap_ * len(y) + 1e-9 * theirs


def test_the_result_does_not_depend_on_the_number_of_threads(monkeypatch):
    X, y = problem(300, 400, 5)
    one = flowreg.LogisticRegression(n_threads=1).fit(X, y)
    for options in ({"n_threads": 3}, {"n_jobs": 2}, {"n_jobs": -1}, {}):
        other = flowreg.LogisticRegression(**options).fit(X, y)
        np.testing.assert_array_equal(one.coef_, other.coef_)
    monkeypatch.setenv("OMP_NUM_THREADS", "1,2")
    np.testing.assert_array_equal(one.coef_, flowreg.LogisticRegression().fit(X, y).coef_)
    monkeypatch.setenv("FLOWREG_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="FLOWREG_NUM_THREADS: found 'many'"):
        flowreg.LogisticRegression().fit(X, y)
