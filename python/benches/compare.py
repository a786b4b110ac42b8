"""flowreg beside scikit-learn: seconds and objective of the same fits, in one process.

    python benches/compare.py [FOLDER ...]

Data: iris, breast_cancer and digits of scikit-learn, standardised; 5000 x 256 Gaussian features of
20 classes; and every FOLDER/*.npz with `x` and `y`. C is 1. The objective, the mean loss plus
|coef|²/(2 C n), is computed in float64 from each model's own numbers; `excess` is how far it is
above the lowest one found, as a share of it. Times are the shortest of a few repetitions.

The last column is the time in which flowreg, at the largest of its tolerances 0.1, 0.01, ... 1e-8
that gets there, reaches the objective of scikit-learn's default.
"""

import sys
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn import datasets
from sklearn.linear_model import LogisticRegression as Sklearn
from sklearn.preprocessing import StandardScaler

import flowreg

# A solver that needs more Hessian than this is left out.
LARGEST_HESSIAN = 4000
# Repetitions end after so many seconds.
PATIENCE = 5.0


def problems(folders):
    for name in ("iris", "breast_cancer", "digits"):
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        yield name, StandardScaler().fit_transform(X).astype(np.float32), y
    rng = np.random.default_rng(0)
    X = rng.standard_normal((5000, 256), np.float32)
    W = rng.standard_normal((256, 20), np.float32) / 8
    yield "synthetic", X, (X @ W + rng.gumbel(size=(5000, 20))).argmax(axis=1)
    for folder in folders:
        for path in sorted(Path(folder).glob("*.npz")):
            with np.load(path) as arrays:
                yield path.stem, np.ascontiguousarray(arrays["x"], np.float32), arrays["y"]


def objective(model, X, y):
    logits = X.astype(np.float64) @ model.coef_.T.astype(np.float64) + model.intercept_
    if logits.shape[1] == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    labels = np.searchsorted(model.classes_, y)
    loss = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(y)), labels]
    return loss.mean() + (model.coef_.astype(np.float64) ** 2).sum() / (2 * len(y))


def timed(model, X, y):
    seconds, begun = [], time.perf_counter()
    while len(seconds) < 5 and (not seconds or time.perf_counter() - begun < PATIENCE):
        started = time.perf_counter()
        model.fit(X, y)
        seconds.append(time.perf_counter() - started)
    return min(seconds), objective(model, X, y)


def contenders(X, y):
    yield "flowreg", flowreg.LogisticRegression()
    yield "sklearn lbfgs", Sklearn()
    yield "sklearn lbfgs 1e-6", Sklearn(tol=1e-6, max_iter=10_000)
    if X.shape[1] * len(np.unique(y)) <= LARGEST_HESSIAN:
        yield "sklearn newton-cholesky", Sklearn(solver="newton-cholesky")


def main(folders):
    warnings.simplefilter("ignore")
    print("| data | fit | seconds | excess | flowreg's share | flowreg to the same objective |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, X, y in problems(folders):
        found = {label: timed(model, X, y) for label, model in contenders(X, y)}
        best = flowreg.LogisticRegression(tol=1e-8).fit(X, y)
        lowest = min([objective(best, X, y)] + [value for _, value in found.values()])
        ours = found["flowreg"][0]
        same = ""
        for tol in 10.0 ** -np.arange(1, 9):
            seconds, value = timed(flowreg.LogisticRegression(tol=tol), X, y)
            if value <= found["sklearn lbfgs"][1]:
                same = f"{seconds:.4f} (tol {tol:.0e})"
                break
        data = f"{name} {X.shape[0]} x {X.shape[1]}, {len(np.unique(y))}"
        for label, (seconds, value) in found.items():
            to_same = same if label == "sklearn lbfgs" else ""
            excess = (value - lowest) / lowest
            print(f"| {data} | {label} | {seconds:.4f} | {excess:.1e} | {ours / seconds:.3f} | {to_same} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
