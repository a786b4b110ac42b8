"""The objective of a model, and a lower bound of the minimum, in float64. Nothing here calls flowreg.

The problem, for n rows x_i with labels y_i in 0..c-1, one penalty and a free intercept:

    F(W, b) = (1/n) sum_i [logsumexp(z_i) - z_i[y_i]] + (l2/2) |W|²,   z_i = W x_i + b,   l2 = 1/(n C)

Two classes have one output: W is one row, and z_i = (0, w x_i + b). By weak duality every F(W, b) is at
least

    D(P) = (1/n) sum_i entropy(P_i) - |(1/n) (P - Y)ᵀ X|² / (2 l2)

where Y has the one-hot labels, for every P whose rows are probabilities and whose columns sum to those of Y.
The condition on the columns comes from the intercept, which has no penalty. For one output only the second
column of P - Y counts.

A model gives such a P: its own probabilities, after its intercept was fitted anew so that the columns sum
to the class counts, and after the rest of the difference was mixed away (`feasible`).
"""

import numpy as np
from scipy.special import logsumexp, xlogy

# Rows of X that are converted to float64 at a time.
BLOCK = 4096


def logits(X, W):
    """The n x c logits without the intercept."""
    z = np.vstack([X[i : i + BLOCK].astype(np.float64) @ W.T for i in range(0, len(X), BLOCK)])
    return np.hstack([np.zeros_like(z), z]) if len(W) == 1 else z


def full(b):
    """The intercepts of all classes: two classes have one, beside 0."""
    return np.concatenate([[0.0], b]) if len(b) == 1 else b


def mean_loss(z, y):
    return float(np.mean(logsumexp(z, axis=1) - z[np.arange(len(y)), y]))


def centred_intercept(z, b, counts):
    """The intercept at which the columns of the probabilities sum to the class counts, by Newton's method."""
    b = b.copy()
    value = logsumexp(z + b, axis=1).sum() - counts @ b
    for _ in range(100):
        p = np.exp(z + b - logsumexp(z + b, axis=1, keepdims=True))
        gradient = p.sum(axis=0) - counts
        if np.abs(gradient).max() <= 1e-9:
            break
        hessian = np.diag(p.sum(axis=0)) - p.T @ p
        # Shifting all intercepts changes nothing, so the Hessian is singular.
        step = -np.linalg.lstsq(hessian, gradient, rcond=1e-14)[0]
        slope, length = gradient @ step, 1.0
        if -slope <= 1e-15 * abs(value):
            # A smaller decrease is lost in the rounding of the value.
            break
        while length > 1e-9:
            new = b + length * step
            new_value = logsumexp(z + new, axis=1).sum() - counts @ new
            if new_value <= value + 1e-4 * length * slope:
                break
            length /= 2
        else:
            break
        b, value = new, new_value
    return b


def feasible(p, counts):
    """Mix p with one row of probabilities such that the columns sum to the class counts."""
    p = p / p.sum(axis=1, keepdims=True)
    sums = p.sum(axis=0)
    share = max(0.0, float(((sums - counts) / sums).max()))
    if share == 0.0:
        return p
    row = np.maximum((counts - (1 - share) * sums) / (share * len(p)), 0.0)
    if row.sum() == 0.0:
        # The difference is rounding alone.
        return p
    return (1 - share) * p + share * row / row.sum()


def lower_bound(X, y, W, b, l2):
    """The dual objective at the point that the model (W, b) gives."""
    return bound_of_logits(X, y, logits(X, W), full(b), l2, outputs=len(W))


def bound_of_logits(X, y, z, b, l2, outputs):
    n = len(y)
    counts = np.bincount(y, minlength=z.shape[1]).astype(np.float64)
    b = centred_intercept(z, b, counts)
    p = feasible(np.exp(z + b - logsumexp(z + b, axis=1, keepdims=True)), counts)
    residual = p.copy()
    residual[np.arange(n), y] -= 1.0
    if outputs == 1:
        residual = residual[:, 1:]
    slope = sum(residual[i : i + BLOCK].T @ X[i : i + BLOCK].astype(np.float64) for i in range(0, n, BLOCK)) / n
    return float(-xlogy(p, p).sum() / n - (slope**2).sum() / (2 * l2))


def judge(X, y, W, b, l2):
    """The objective F(W, b) and the lower bound that the model gives."""
    W, b = np.asarray(W, np.float64), np.asarray(b, np.float64)
    z = logits(X, W)
    objective = mean_loss(z + full(b), y) + l2 / 2 * float((W**2).sum())
    return objective, bound_of_logits(X, y, z, full(b), l2, outputs=len(W))
