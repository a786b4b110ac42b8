"""Seconds, objective and certified gap of flowreg, scikit-learn, Cyanure and torch on the same data.

    python benches/compare.py [--plot FILE] [--only NAME ...] [SOURCE ...]

Data: iris, breast_cancer and digits of scikit-learn, standardised; `tall`, 50,000 x 512 Gaussian
features of 100 classes; and each SOURCE, a folder of `.npz` files with `x` and `y` or a dataset that
`flowreg-prep` wrote (its split `train`). `--only` keeps the data sets of these names. Cyanure and
torch take part where they are installed.

All minimise the mean cross-entropy plus |W|²/(2 C n) with C = 1 and an intercept without penalty.
The objective is computed in float64 from each model's own coefficients. `excess` is the distance to
the lowest objective found, as a share of it; scikit-learn is run at its default tolerance and at
1e-6, by its default solver and by the one that is best for the shape: newton-cholesky while its
Hessian is small. Seconds are the shortest of a few repetitions, at most PATIENCE seconds of them, in
one process with all threads that each library takes by default. Cyanure and scikit-learn's default
stop at their own largest number of steps, 500 and 100.

The second table compares with scikit-learn's default: the time in which flowreg reaches the
objective where scikit-learn stops, at the largest of its tolerances 0.1, 0.01, ... 1e-8 that does,
and the time of flowreg's own default.
"""

import argparse
import importlib.metadata
import os
import platform
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn import datasets
from sklearn.linear_model import LogisticRegression as Sklearn
from sklearn.preprocessing import StandardScaler

import flowreg

# newton-cholesky is left out for more coefficients than this: its Hessian is their square.
LARGEST_HESSIAN = 4000
# Repetitions of one fit end after so many seconds.
PATIENCE = 5.0
# A fit that takes more seconds at a library's default is not run at 1e-6.
LONGEST = 30.0


def problems(sources):
    """Yield functions that load (name, X, y), X float32 and C-contiguous."""
    for name in ("iris", "breast_cancer", "digits"):
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        yield name, lambda X=X, y=y: (StandardScaler().fit_transform(X).astype(np.float32), y)
    yield "tall", tall
    for source in map(Path, sources):
        if (source / "train.x.npy").exists():
            yield source.name, lambda source=source: (
                np.load(source / "train.x.npy"),
                np.load(source / "train.y.npy"),
            )
        for path in sorted(source.glob("*.npz")):
            yield path.stem, lambda path=path: arrays(path)


def arrays(path):
    with np.load(path) as file:
        return np.ascontiguousarray(file["x"], np.float32), file["y"]


def tall():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50_000, 512), np.float32)
    W = rng.standard_normal((512, 100), np.float32) / 8
    return X, (X @ W + rng.gumbel(size=(50_000, 100))).argmax(axis=1)


def objective(coef, intercept, classes, X, y):
    """The objective in float64, a few thousand rows at a time."""
    coef, total = np.asarray(coef, np.float64), 0.0
    labels = np.searchsorted(classes, y)
    for start in range(0, len(y), 4096):
        rows = slice(start, start + 4096)
        logits = X[rows].astype(np.float64) @ coef.T + intercept
        if logits.shape[1] == 1:
            logits = np.hstack([np.zeros_like(logits), logits])
        of_label = logits[np.arange(len(logits)), labels[rows]]
        total += (np.logaddexp.reduce(logits, axis=1) - of_label).sum()
    return (total + (coef**2).sum() / 2) / len(y)


class Torch:
    """Torch's own LBFGS with its strong Wolfe line search, in float32."""

    def __init__(self, tol=1e-7, max_iter=1000):
        self.tol, self.max_iter = tol, max_iter

    def fit(self, X, y):
        import torch

        self.classes_, labels = np.unique(y, return_inverse=True)
        rows, labels = torch.from_numpy(X), torch.from_numpy(labels)
        # Two classes have one output, as elsewhere: two would share the penalty.
        outputs = len(self.classes_) if len(self.classes_) > 2 else 1
        linear = torch.nn.Linear(X.shape[1], outputs)
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
        optimizer = torch.optim.LBFGS(
            linear.parameters(),
            max_iter=self.max_iter,
            tolerance_grad=self.tol,
            tolerance_change=1e-9,
            line_search_fn="strong_wolfe",
        )

        def mean_loss(logits):
            if outputs > 1:
                return torch.nn.functional.cross_entropy(logits, labels)
            return torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float())

        def closure():
            optimizer.zero_grad()
            loss = mean_loss(linear(rows)) + linear.weight.square().sum() / (2 * len(rows))
            loss.backward()
            return loss

        optimizer.step(closure)
        self.coef_ = linear.weight.detach().numpy().copy()
        self.intercept_ = linear.bias.detach().numpy().copy()
        return self


class Cyanure:
    """Cyanure's classifier, in float64: it warns of float32. For two classes its logistic loss."""

    def __init__(self, tol=1e-3):
        self.tol = tol

    def fit(self, X, y):
        from cyanure.estimators import Classifier

        self.classes_, labels = np.unique(y, return_inverse=True)
        several = len(self.classes_) > 2
        model = Classifier(
            loss="multiclass-logistic" if several else "logistic",
            penalty="l2",
            lambda_1=1 / len(y),
            fit_intercept=True,
            tol=self.tol,
            max_iter=500,
            verbose=False,
        ).fit(X.astype(np.float64), labels)
        coef = np.atleast_2d(np.squeeze(model.coef_))
        self.coef_ = coef if coef.shape[1] == X.shape[1] else coef.T
        self.intercept_ = np.asarray(model.intercept_).reshape(-1)
        return self


def installed(package):
    try:
        __import__(package)
    except ImportError:
        return False
    return True


def contenders(X, y):
    yield "flowreg", flowreg.LogisticRegression()
    yield "flowreg 1e-6", flowreg.LogisticRegression(tol=1e-6)
    yield "scikit-learn lbfgs", Sklearn()
    yield "scikit-learn lbfgs 1e-6", Sklearn(tol=1e-6, max_iter=10_000)
    if X.shape[1] * len(np.unique(y)) <= LARGEST_HESSIAN:
        yield "scikit-learn newton-cholesky", Sklearn(solver="newton-cholesky")
        yield "scikit-learn newton-cholesky 1e-6", Sklearn(solver="newton-cholesky", tol=1e-6)
    if installed("cyanure"):
        yield "Cyanure", Cyanure()
        yield "Cyanure 1e-6", Cyanure(tol=1e-6)
    if installed("torch"):
        yield "torch LBFGS", Torch()


def timed(model, X, y):
    seconds, begun = [], time.perf_counter()
    while len(seconds) < 5 and (not seconds or time.perf_counter() - begun < PATIENCE):
        started = time.perf_counter()
        model.fit(X, y)
        seconds.append(time.perf_counter() - started)
    value = objective(model.coef_, model.intercept_, model.classes_, X, y)
    return min(seconds), value, getattr(model, "gap_", None)


def to_reach(value, X, y):
    """The seconds in which flowreg reaches an objective, and the tolerance that it takes."""
    for tol in 10.0 ** -np.arange(1, 9):
        seconds, reached, _ = timed(flowreg.LogisticRegression(tol=tol), X, y)
        if reached <= value:
            return seconds, tol
    return None, None


def plot(results, path):
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    import matplotlib.pyplot as plt

    columns = 4
    rows = -(-len(results) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 3.2 * rows), squeeze=False)
    families = ["flowreg", "scikit-learn", "Cyanure", "torch"]
    for ax in axes.flat[len(results) :]:
        ax.set_axis_off()
    for ax, (title, found, lowest) in zip(axes.flat, results):
        for i, family in enumerate(families):
            of = [(s, (v - lowest) / lowest) for label, (s, v, _) in found.items() if label.startswith(family)]
            if of:
                seconds, excess = zip(*of)
                ax.loglog(seconds, np.maximum(excess, 1e-10), "o", color=f"C{i}", label=family)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("seconds")
        ax.set_ylabel("excess of the objective")
    axes.flat[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


def machine():
    names = ["flowreg", "scikit-learn", "numpy", "scipy", "torch", "cyanure", "cyanure-openblas", "cyanure-mkl"]
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            pass
    with open("/proc/cpuinfo") as lines:
        models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cpu = f"{models[0] if models else platform.processor()}, {len(os.sched_getaffinity(0))} CPUs"
    return f"{cpu}; Python {platform.python_version()}; {', '.join(versions)}; {time.strftime('%Y-%m-%d')}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="folder of .npz files, or a prepared dataset")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="the data sets to fit")
    parser.add_argument("--plot", metavar="FILE", help="write the first table as a picture (needs matplotlib)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(machine())
    print("\n| data | fit | seconds | excess | certified gap |\n| --- | --- | --- | --- | --- |")
    results, compared = [], []
    for name, load in problems(arguments.sources):
        if arguments.only and name not in arguments.only:
            continue
        X, y = load()
        data = f"{name}: {X.shape[0]} x {X.shape[1]}, {len(np.unique(y))} classes"
        found = {}
        for label, model in contenders(X, y):
            loose = found.get(label.removesuffix(" 1e-6"))
            if loose and loose[0] > LONGEST:
                continue
            found[label] = timed(model, X, y)
            print(f"{data}: {label}: {found[label][0]:.4g} s", file=sys.stderr, flush=True)
        best = flowreg.LogisticRegression(tol=1e-8).fit(X, y)
        lowest = objective(best.coef_, best.intercept_, best.classes_, X, y)
        lowest = min([lowest] + [value for _, value, _ in found.values()])
        for label, (seconds, value, gap) in found.items():
            gap = "" if gap is None else f"{float(gap):.1e}"
            print(f"| {data} | {label} | {seconds:.4g} | {(value - lowest) / lowest:.1e} | {gap} |", flush=True)
        results.append((data, found, lowest))
        theirs, value, _ = found["scikit-learn lbfgs"]
        compared.append((data, theirs, found["flowreg"][0], *to_reach(value, X, y)))
    print("\n| data | scikit-learn's default, s | flowreg to the same objective, s | times sooner | flowreg's default, s | times sooner |")
    print("| --- | --- | --- | --- | --- | --- |")
    for data, theirs, ours, same, tol in compared:
        same = "not reached | " if same is None else f"{same:.4g} (tol {tol:.0e}) | {theirs / same:.1f}"
        print(f"| {data} | {theirs:.4g} | {same} | {ours:.4g} | {theirs / ours:.1f} |")
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
