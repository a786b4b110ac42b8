"""Converged fits by scikit-learn beside flowreg, in one run on the same rows and objective.

    python tools/sklearn_baseline.py DATASET [--cap SECONDS] [--cases wide,path,cv,tall-10,tall-100,easy]

DATASET is Flowers102 as flowreg-prep writes it. The objective is mean CE + (l2/2)|W|^2 with
l2 = 1/(n C). For every case one table: who, seconds, the objective reached (computed here in
float64 from the weights), and what the solver itself says of convergence. Seconds and ratio are those
of the fit alone on both sides: flowreg's train_seconds, and fit() of scikit-learn's best solver for the
shape, with the BLAS's own choice of kernels. flowreg's whole process, with mapping, checking and writing,
is in the last column. A scikit-learn fit that takes longer than --cap seconds is stopped and counts as that.

Needs numpy, scikit-learn, safetensors.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import probes  # noqa: E402


def objective(x, y, weight, bias, l2):
    """Softmax cross-entropy and penalty in float64, by blocks of rows."""
    weight, bias, loss = weight.astype(np.float64), bias.astype(np.float64), 0.0
    for first in range(0, len(x), 4096):
        z = x[first:first + 4096].astype(np.float64) @ weight.T + bias
        z -= z.max(axis=1, keepdims=True)
        loss += np.sum(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), y[first:first + 4096]])
    return loss / len(x) + 0.5 * l2 * np.sum(weight**2)


def sklearn_fit(x, y, c, solver, queue):
    from sklearn.linear_model import LogisticRegression
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        started = time.perf_counter()
        model = LogisticRegression(C=c, solver=solver, max_iter=1000).fit(x, y)
        seconds = time.perf_counter() - started
    said = "not converged" if any("onverge" in str(w.message) for w in caught) else "converged"
    queue.put((seconds, model.coef_, model.intercept_, f"{said}, {int(model.n_iter_.max())} iterations"))


def sklearn(x, y, l2, solver, cap):
    queue = multiprocessing.Queue()
    process = multiprocessing.Process(target=sklearn_fit, args=(x, y, 1 / (l2 * len(x)), solver, queue))
    process.start()
    try:
        seconds, weight, bias, said = queue.get(timeout=cap)
        found = objective(x, y, weight, bias, l2)
    except Exception:
        process.kill()
        seconds, found, said = cap, float("nan"), "stopped"
    process.join()
    return seconds, found, said


def flowreg(binary, data, options, x, y, l2=None):
    import safetensors.numpy
    with tempfile.TemporaryDirectory() as scratch:
        out = pathlib.Path(scratch) / "run"
        best = None
        for _ in range(3):
            started = time.perf_counter()
            subprocess.run([binary, *data, *options, "--out", out, "--force"], check=True, stdout=subprocess.DEVNULL)
            whole = time.perf_counter() - started
            summary = json.loads((out / "summary.json").read_text())
            best = min(best or (whole, whole), (summary["train_seconds"], whole))
        model = safetensors.numpy.load_file(out / "model.safetensors")
    l2 = summary["l2"] if l2 is None else l2
    found = objective(x, y, model["weight"], model["bias"], l2)
    return best[0], found, f"{summary['status']}, {summary['iterations']} steps, whole process {best[1]:.2f} s"


def row(case, who, result, ours=None):
    seconds, found, said = result
    ratio = "" if ours is None else f"{seconds / ours:8.1f}"
    print(f"{case:22} {who:28} {seconds:9.3f} {ratio:>8} {found:12.8f}  {said}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=pathlib.Path)
    parser.add_argument("--flowreg", default="target/release/flowreg-fit")
    parser.add_argument("--cap", type=float, default=600)
    parser.add_argument("--cases", default="wide,path,cv,tall-10,tall-100,easy")
    args = parser.parse_args()
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        if name in os.environ:  # It would slow NumPy down; read when NumPy is loaded.
            del os.environ[name]
            os.execv(sys.executable, [sys.executable, *sys.argv])
    cases = args.cases.split(",")
    print(f"{'case':22} {'who':28} {'seconds':>9} {'ratio':>8} {'objective':>12}  says")
    newton = ["--optimizer", "newton"]
    if {"wide", "path", "cv"} & set(cases):
        x, y = np.load(args.dataset / "train.x.npy"), np.load(args.dataset / "train.y.npy")
        data, n = [args.dataset], len(x)
        single = None
        for c in [1.0, 0.01] if "wide" in cases else [1.0]:
            l2 = 1 / (n * c)
            ours = flowreg(args.flowreg, data, [*newton, "--l2", repr(l2)], x, y)
            loose = flowreg(args.flowreg, data, [*newton, "--l2", repr(l2), "--tolerance", "5e-3"], x, y)
            row(f"flowers C={c}", "flowreg newton", ours)
            row(f"flowers C={c}", "flowreg, tolerance 5e-3", loose)
            theirs = sklearn(x, y, l2, "lbfgs", args.cap)
            single = single or theirs[0]
            row(f"flowers C={c}", "scikit-learn lbfgs", theirs, ours[0])
            print(f"{'':22} {theirs[0] / loose[0]:.1f} times tolerance 5e-3")
        several = ["--l2-path", "10:0.001:8", "--val-split", "val"]
        if "path" in cases:
            ours = flowreg(args.flowreg, data, [*newton, *several], x, y)
            row("8 penalties, val", "flowreg newton", ours)
            print(f"{'':22} scikit-learn's one fit, C=1, takes {single / ours[0]:.1f} times as long")
        if "cv" in cases:
            several = ["--l2-path", "10:0.001:10", "--cv", "5"]
            ours = flowreg(args.flowreg, data, [*newton, *several], x, y)
            row("10 penalties, 5 folds", "flowreg newton", ours)
            print(f"{'':22} scikit-learn's one fit, C=1, takes {single / ours[0]:.1f} times as long")
    for case in [case for case in cases if case in probes.PROBES]:
        x, y = probes.make(case)
        n, l2 = len(x), 1 / len(x)
        with tempfile.TemporaryDirectory() as scratch:
            files = [pathlib.Path(scratch) / f"{name}.npy" for name in "xy"]
            for file, values in zip(files, (x, y)):
                np.save(file, values)
            data = ["--x", files[0], "--y", files[1]]
            ours = flowreg(args.flowreg, data, [*newton, "--l2", repr(l2), "--no-report"], x, y)
            row(case, "flowreg newton", ours)
            path = ["--l2-path", f"{100 * l2}:{l2 / 100}:12", "--x-val", files[0], "--y-val", files[1]]
            row(case, "flowreg, 12 penalties + val",
                flowreg(args.flowreg, data, [*newton, *path, "--no-report"], x, y))
        for solver in ("lbfgs", "newton-cg", "newton-cholesky"):
            row(case, f"scikit-learn {solver}", sklearn(x, y, l2, solver, args.cap), ours[0])


if __name__ == "__main__":
    main()
