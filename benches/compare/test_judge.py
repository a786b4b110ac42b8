"""The judge against a minimum that SciPy finds, on small random problems."""

import numpy as np
import pytest
from scipy.optimize import minimize

import judge


def problem(classes, rows=60, features=7):
    rng = np.random.default_rng(classes)
    X = rng.standard_normal((rows, features)).astype(np.float32)
    y = (X[:, 0] + 0.7 * rng.standard_normal(rows) > 0.4).astype(int) if classes == 2 else rng.integers(0, classes, rows)
    return X, y, 0.03, 1 if classes == 2 else classes


def split(point, X, outputs):
    return point[: outputs * X.shape[1]].reshape(outputs, -1), point[outputs * X.shape[1] :]


def plain_objective(point, X, y, l2, outputs):
    """The definition, row by row."""
    W, b = split(point, X, outputs)
    loss = 0.0
    for row, label in zip(X.astype(np.float64), y):
        z = W @ row + b
        if outputs == 1:
            loss += np.log1p(np.exp(-z[0] if label else z[0]))
        else:
            loss += np.log(np.exp(z).sum()) - z[label]
    return loss / len(y) + l2 / 2 * (W**2).sum()


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_objective_is_the_definition_and_the_bound_is_tight_at_the_minimum_only(classes):
    X, y, l2, outputs = problem(classes)
    start = np.zeros(outputs * (X.shape[1] + 1))
    found = minimize(plain_objective, start, (X, y, l2, outputs), method="BFGS", options={"gtol": 1e-7})
    lowest, bound = judge.judge(X, y, *split(found.x, X, outputs), l2)
    assert lowest == pytest.approx(found.fun, rel=1e-13)
    assert -1e-13 < lowest - bound < 1e-9
    rng = np.random.default_rng(0)
    for size in [1e-3, 0.1, 1.0, 30.0]:
        point = found.x + size * rng.standard_normal(found.x.shape)
        objective, other = judge.judge(X, y, *split(point, X, outputs), l2)
        assert objective == pytest.approx(plain_objective(point, X, y, l2, outputs), rel=1e-13)
        assert other < lowest < objective


def test_dual_points_are_feasible():
    rng = np.random.default_rng(1)
    counts = np.array([10.0, 25.0, 5.0])
    p = judge.feasible(rng.dirichlet([1, 1, 1], 40), counts)
    assert p.min() >= 0
    assert p.sum(axis=1) == pytest.approx(np.ones(40), abs=1e-14)
    assert p.sum(axis=0) == pytest.approx(counts, abs=1e-12)
