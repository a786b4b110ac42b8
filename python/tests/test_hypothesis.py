"""LogisticRegression against scikit-learn's newton-cholesky on random problems."""

import warnings

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as Reference

import flowreg


@st.composite
def problems(draw):
    """Features, labels, weights and options, on which both are well conditioned."""
    classes = draw(st.integers(2, 5))
    n, d = draw(st.integers(8 * classes, 60)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = rng.standard_normal((n, d))
    y = rng.integers(0, classes, n)
    # Each class twice, so that a weight of 0 leaves one.
    y[: 2 * classes] = np.repeat(np.arange(classes), 2)
    X[:, 0] += y
    if draw(st.booleans()):
        X[n // 2 :] = X[: n - n // 2]
    if d > 1 and draw(st.booleans()):
        X[:, -1] = draw(st.sampled_from([0.0, 1.0, -0.1]))
    # The penalty is on the scale of the features.
    scale = 10.0 ** draw(st.integers(-3, 3))
    X *= scale
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    order = draw(st.sampled_from("CF"))
    weights = None
    if draw(st.booleans()):
        weights = rng.integers(0, 4, n) * draw(st.sampled_from([1.0, 0.37]))
        weights[: 2 * classes : 2] = 1.0
    names = np.array([f"class {k}" for k in range(classes)])
    class_weight = draw(
        st.sampled_from([None, "balanced", {names[0]: 3.0}, {names[-1]: 0.2, names[0]: 1.5}])
    )
    options = {
        "C": 10.0 ** draw(st.integers(-2, 2)) / scale**2,
        "fit_intercept": draw(st.booleans()),
        "class_weight": class_weight,
    }
    return np.asarray(X, dtype, order=order), names[y], weights, options


def centred(model):
    """Weights beside the intercepts; of a softmax without what all outputs have in common."""
    both = np.hstack([model.coef_, model.intercept_[:, None]]).astype(np.float64)
    return both - both.mean(axis=0) if len(both) > 1 else both


def assert_close(ours, theirs):
    size = np.abs(theirs[:, :-1]).max()
    np.testing.assert_allclose(ours[:, :-1], theirs[:, :-1], rtol=0, atol=1e-5 * size)
    size = max(1.0, np.abs(theirs[:, -1]).max())
    np.testing.assert_allclose(ours[:, -1], theirs[:, -1], rtol=0, atol=1e-5 * size)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(problems(), st.sampled_from(["newton", "lbfgs"]))
def test_coefficients_are_those_of_scikit_learn(problem, solver):
    X, y, weights, options = problem
    before = X.copy()
    model = flowreg.LogisticRegression(tol=1e-8, solver=solver, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y, weights)
        theirs = Reference(solver="newton-cholesky", tol=1e-12, max_iter=1000, **options)
        theirs.fit(X.astype(np.float64), y, weights)
    np.testing.assert_array_equal(X, before)
    assert model.coef_.dtype == X.dtype and model.coef_.shape == theirs.coef_.shape
    np.testing.assert_array_equal(model.classes_, theirs.classes_)
    assert_close(centred(model), centred(theirs))
    np.testing.assert_allclose(
        model.predict_proba(X), theirs.predict_proba(X.astype(np.float64)), rtol=0, atol=1e-5
    )
    assert model.status_ == "converged", model.status_
