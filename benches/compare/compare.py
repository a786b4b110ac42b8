"""Time flowreg, scikit-learn, Cyanure and torch on the same problems, and judge every model by judge.py.

    python compare.py RECORD.json --flowers DATASET --sets FOLDER [--only NAME ...]

DATASET is Flowers102 as flowreg-prep wrote it; FOLDER has arcene.npz, coil20.npz, isolet.npz and
lymphoma.npz, each with `x` (rows x features) and `y` (labels from 0). `--only` keeps the problems of these
names and is for trying the script. report.py makes tables and the picture of RECORD.json.

All libraries minimise the mean cross-entropy plus |W|²/(2 C n), C = 1, the intercept free. Every fit starts
from zero in a process of its own. Only fit() is timed: reading and converting X is not. A fit that takes
less than a second is repeated for at most PATIENCE seconds or five times, and the shortest time counts. A
fit that has not ended after LIMIT seconds is killed and recorded as such; larger budgets of the same kind are
then left out. Each library takes the threads that it takes by default, which is one for each core.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np

import judge

PATIENCE = 1.0
LIMIT = 120.0
# The Hessian of scikit-learn's newton-cholesky is the square of the number of coefficients.
LARGEST_HESSIAN = 4000
SETS = ["arcene", "coil20", "isolet", "lymphoma"]
LIBRARIES = ["flowreg", "scikit-learn", "cyanure", "torch", "numpy", "scipy"]


# The problems: X float32 and C-contiguous, y int64 from 0.


def digits():
    from sklearn.datasets import load_digits
    from sklearn.preprocessing import StandardScaler

    X, y = load_digits(return_X_y=True)
    return StandardScaler().fit_transform(X).astype(np.float32), y


def tall():
    """50,000 x 768 rows with the spectrum of embeddings of real networks, as tools/probes.py makes them."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
    import probes

    return probes.make("tall-100")


def problems(flowers, sets):
    """Functions that load X and y, by name."""
    rows = lambda: (np.load(flowers / "train.x.npy"), np.load(flowers / "train.y.npy"))
    found = {"digits": digits}
    for name in SETS:
        found[name] = lambda name=name: (np.load(sets / f"{name}.npz")["x"], np.load(sets / f"{name}.npz")["y"])
    return found | {"softmax-fast": rows, "flowers102": rows, "tall": tall}


# The fits. Each takes X in its own type, y and its setting, and returns W (outputs x features) and b.


def fit_flowreg(X, y, **setting):
    import flowreg

    model = flowreg.LogisticRegression(**setting).fit(X, y)
    return model.coef_, model.intercept_


def fit_sklearn(X, y, **setting):
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(**setting).fit(X, y)
    return model.coef_, model.intercept_


def fit_cyanure(X, y, solver="auto", tol=1e-3, max_iter=10_000):
    from cyanure.estimators import Classifier

    several = y.max() > 1
    model = Classifier(
        loss="multiclass-logistic" if several else "logistic",
        penalty="l2",
        lambda_1=1 / len(y),
        fit_intercept=True,
        solver=solver,
        tol=tol,
        max_iter=max_iter,
        verbose=False,
    ).fit(X, y)
    W = np.atleast_2d(np.squeeze(model.coef_))
    return W if W.shape[1] == X.shape[1] else W.T, np.asarray(model.intercept_).reshape(-1)


def fit_torch(X, y, max_iter):
    """torch's LBFGS with its strong Wolfe line search."""
    import torch

    rows, labels = torch.from_numpy(X), torch.from_numpy(y)
    # Two classes have one output, as elsewhere: two outputs would share the penalty.
    outputs = int(y.max()) + 1 if y.max() > 1 else 1
    linear = torch.nn.Linear(X.shape[1], outputs, dtype=rows.dtype)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    optimizer = torch.optim.LBFGS(
        linear.parameters(),
        max_iter=max_iter,
        max_eval=10 * max_iter,
        tolerance_grad=1e-12,
        tolerance_change=0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        z = linear(rows)
        if outputs > 1:
            loss = torch.nn.functional.cross_entropy(z, labels)
        else:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(z[:, 0], labels.to(z.dtype))
        loss = loss + linear.weight.square().sum() / (2 * len(rows))
        loss.backward()
        return loss

    optimizer.step(closure)
    return linear.weight.detach().numpy(), linear.bias.detach().numpy()


# The recipe softmax-fast: 250 full-batch steps of SGD, lr 0.1, from torch's initial weights of seed 0.
EPOCHS, RATE = 250, 0.1


def sgd_flowreg(X, y):
    import flowreg

    model = flowreg.TorchLinear(lr=RATE, epochs=EPOCHS, seed=0).fit(X, y)
    return model.coef_, model.intercept_


def sgd_torch(X, y):
    import torch

    torch.manual_seed(0)
    rows, labels = torch.from_numpy(X), torch.from_numpy(y)
    linear = torch.nn.Linear(X.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.SGD(linear.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(linear(rows), labels).backward()
        optimizer.step()
    return linear.weight.detach().numpy(), linear.bias.detach().numpy()


FITS = {
    "flowreg": fit_flowreg,
    "scikit-learn": fit_sklearn,
    "Cyanure": fit_cyanure,
    "torch LBFGS": fit_torch,
    "flowreg SGD": sgd_flowreg,
    "torch SGD": sgd_torch,
}


def ladders(name, X, y):
    """Lists of fits (library, type of X, setting), each list from the smallest budget to the largest."""
    if name == "softmax-fast":
        return [[("flowreg SGD", "float32", {})], [("torch SGD", "float32", {})]]
    small = X.size < 5_000_000
    # flowreg's default is 1e-5.
    found = [
        [("flowreg", "float32", {"tol": float(f"1e-{k}")}) for k in range(1, 9 if small else 8)],
        # The default.
        [("scikit-learn", "float32", {"solver": "lbfgs"})],
    ]
    if small:
        # float32 is faster, float64 goes further.
        for solver in ["lbfgs", "newton-cg"]:
            for kind, tol in [("float32", 1e-6), ("float64", 1e-8)]:
                found.append([("scikit-learn", kind, {"solver": solver, "tol": tol, "max_iter": 10_000})])
        if X.shape[1] * (int(y.max()) + 1) <= LARGEST_HESSIAN:
            found.append([("scikit-learn", "float64", {"solver": "newton-cholesky", "tol": tol}) for tol in (1e-4, 1e-8)])
        found.append([("Cyanure", "float64", {"tol": tol}) for tol in (1e-3, 1e-6)])
        found.append([("torch LBFGS", kind, {"max_iter": steps}) for kind, steps in [("float32", 100), ("float64", 1000)]])
        return found
    # The default is 100 steps of lbfgs. newton-cg runs with its default, too.
    lbfgs, newton = {"solver": "lbfgs", "tol": 1e-12}, {"solver": "newton-cg"}
    found.append([("scikit-learn", "float32", {**lbfgs, "max_iter": k}) for k in (10, 30)])
    found.append([("scikit-learn", "float32", setting) for setting in ({**newton, "max_iter": 2}, newton)])
    found.append([("torch LBFGS", "float32", {"max_iter": k}) for k in (10, 30, 100, 250)])
    # The solver that Cyanure chooses by itself updates all of W for each row: it takes minutes. Its
    # quasi-Newton method passes over X as lbfgs does.
    passes = {"solver": "qning-ista", "tol": 1e-12}
    found.append([("Cyanure", "float64", {**passes, "max_iter": k}) for k in (10, 30, 100)])
    return found


def label_of(library, kind, setting):
    """A fit's name in tables."""
    parts = [setting["solver"]] if "solver" in setting else []
    if "tol" in setting and setting["tol"] > 1e-12:
        parts.append(f"tol {setting['tol']:.0e}".replace("e-0", "e-"))
    if setting.get("max_iter", 10_000) < 10_000:
        parts.append(f"{setting['max_iter']} steps")
    return ", ".join([*parts, kind] if library in ("scikit-learn", "torch LBFGS") else parts)


# One fit in a process of its own.


def child(spec):
    """Fit and time as the JSON says; print `ready` before the first fit and the seconds after the last."""
    warnings.simplefilter("ignore")
    spec = json.loads(spec)
    X = np.load(spec["x"]).astype(spec["type"], copy=False)
    y = np.load(spec["y"])
    fit = FITS[spec["library"]]
    # Imports and thread pools start here, outside of the time.
    few = np.concatenate([np.flatnonzero(y == label)[:2] for label in range(y.max() + 1)])
    short = {"max_iter": 1} if "max_iter" in spec["setting"] else {}
    fit(np.ascontiguousarray(X[few, :8]), y[few], **{**spec["setting"], **short})
    print("ready", flush=True)
    seconds, begun = [], time.perf_counter()
    while not seconds or (len(seconds) < 5 and max(seconds) < 1 and time.perf_counter() - begun < PATIENCE):
        started = time.perf_counter()
        W, b = fit(X, y, **spec["setting"])
        seconds.append(time.perf_counter() - started)
    np.savez(spec["model"], W=W, b=b)
    print(json.dumps(seconds), flush=True)


def fit_in_child(spec, limit):
    """The seconds of each repetition, or why there are none."""
    command = [sys.executable, __file__, "--fit", json.dumps(spec)]
    # Its errors are printed as they are; one library that breaks must not lose the fits of the others.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    # Imports and the fit of a few rows have as long as the fit itself.
    killer = threading.Timer(limit, process.kill)
    killer.start()
    is_ready = process.stdout.readline() == "ready\n"
    was_in_time = killer.is_alive()
    killer.cancel()
    if not is_ready:
        process.wait()
        return "error" if was_in_time else f"more than {limit:.0f} s"
    killer = threading.Timer(limit, process.kill)
    killer.start()
    out = process.communicate()[0]
    ended = killer.is_alive()
    killer.cancel()
    if not ended:
        return f"more than {limit:.0f} s"
    return "error" if process.returncode else json.loads(out)


def run_problem(name, load, scratch):
    """The problem's facts and all its fits, with the files of their models."""
    X, y = load()
    X, y = np.ascontiguousarray(X, np.float32), y.astype(np.int64)
    assert (np.unique(y) == np.arange(y.max() + 1)).all(), name
    spec = {"x": str(scratch / f"{name}.x.npy"), "y": str(scratch / f"{name}.y.npy")}
    np.save(spec["x"], X)
    np.save(spec["y"], y)
    problem = {"name": name, "rows": len(y), "features": X.shape[1], "classes": int(y.max()) + 1, "fits": []}
    for ladder in ladders(name, X, y):
        for library, kind, setting in ladder:
            model = scratch / f"{name}.{len(problem['fits'])}.npz"
            call = {**spec, "library": library, "type": kind, "setting": setting, "model": str(model)}
            seconds = fit_in_child(call, LIMIT)
            label = label_of(library, kind, setting)
            fit = {"library": library, "label": label, "type": kind, "setting": setting}
            if isinstance(seconds, list):
                fit["seconds"], fit["repetitions"] = min(seconds), len(seconds)
            else:
                fit["failed"] = seconds
            problem["fits"].append(fit)
            print(f"{time.strftime('%T')} {name}: {library} {label}: {fit.get('failed') or fit['seconds']}", flush=True)
            if "failed" in fit:
                break
    return problem


def commands(flowers, sets, only):
    """The command that repeats flowreg's fit of each problem, run as it stands beside the data."""
    lines = {name: f"flowreg-fit --x {name}.npz:x --y {name}.npz:y --optimizer newton --C 1 --out {name}" for name in SETS}
    lines["flowers102"] = "flowreg-fit flowers --optimizer newton --C 1 --out flowers102"
    lines["softmax-fast"] = "flowreg-fit flowers --recipe softmax-fast --out softmax-fast"
    found = {}
    for name, line in lines.items():
        if only and name not in only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            for file in SETS:
                os.symlink((sets / f"{file}.npz").resolve(), folder / f"{file}.npz")
            os.symlink(flowers.resolve(), folder / "flowers")
            program, *arguments = line.split()
            program = Path(sys.executable).parent / program
            subprocess.run([program, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            summary = json.loads((folder / name / "summary.json").read_text())
        # Of SGD, which minimises the loss alone, the loss is the objective.
        objective = summary.get("objective", summary["train_loss"])
        found[name] = {"command": line, "objective": objective, "gap": summary.get("gap")}
        print(f"{time.strftime('%T')} {name}: {line}: objective {objective}", flush=True)
    return found


def judge_problem(problem, scratch):
    """Add objective and bound to each fit that ended, and the highest bound to the problem."""
    name = problem["name"]
    X, y = np.load(scratch / f"{name}.x.npy"), np.load(scratch / f"{name}.y.npy")
    trajectory = name == "softmax-fast"
    for number, fit in enumerate(problem["fits"]):
        if "failed" in fit:
            continue
        model = np.load(scratch / f"{name}.{number}.npz")
        W, b = model["W"].astype(np.float64), model["b"].astype(np.float64)
        if not (np.isfinite(W).all() and np.isfinite(b).all()):
            fit["failed"] = "diverged"
        elif trajectory:
            # SGD minimises no penalty and does not end at the minimum, so there is no gap.
            fit["objective"] = judge.mean_loss(judge.logits(X, W) + b, y)
        else:
            fit["objective"], fit["bound"] = judge.judge(X, y, W, b, 1 / len(y))
    if not trajectory:
        judged = [fit for fit in problem["fits"] if "failed" not in fit]
        problem["bound"] = max((fit["bound"] for fit in judged), default=None)
        for fit in judged:
            fit["gap"] = (fit["objective"] - problem["bound"]) / fit["objective"]


def machine():
    with open("/proc/cpuinfo") as lines:
        facts = [line.split(":") for line in lines if ":" in line]
    facts = {key.strip(): value.strip() for key, value in facts}
    with open("/proc/meminfo") as lines:
        memory = int(lines.readline().split()[1])
    return {
        "processor": facts["model name"],
        "kind": f"family {facts['cpu family']}, model {facts['model']}, stepping {facts['stepping']}",
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**20, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def write(path, record):
    path.write_text(json.dumps(record, indent=1) + "\n")


def main():
    if sys.argv[1:2] == ["--fit"]:
        return child(sys.argv[2])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path, help="the JSON file to write")
    parser.add_argument("--flowers", type=Path, required=True, help="Flowers102 as flowreg-prep wrote it")
    parser.add_argument("--sets", type=Path, required=True, help="folder of the .npz files")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="the problems to fit")
    arguments = parser.parse_args()
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        # They would force slower kernels on NumPy and scikit-learn.
        os.environ.pop(name, None)
    loads = problems(arguments.flowers, arguments.sets)
    names = [name for name in loads if not arguments.only or name in arguments.only]
    record = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "limit": LIMIT}
    record["versions"] = {"Python": platform.python_version()}
    record["versions"] |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        record["problems"] = [run_problem(name, loads[name], scratch) for name in names]
        # What fails from here on does not lose the seconds.
        write(arguments.record, record)
        print(f"{time.strftime('%T')} every fit is timed; judging", flush=True)
        for problem in record["problems"]:
            judge_problem(problem, scratch)
            print(f"{time.strftime('%T')} {problem['name']} is judged", flush=True)
        write(arguments.record, record)
        record["commands"] = commands(arguments.flowers, arguments.sets, arguments.only)
    write(arguments.record, record)


if __name__ == "__main__":
    main()
