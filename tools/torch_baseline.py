"""The notebook's recipes in PyTorch beside flowreg, in one run on one dataset.

    python tools/torch_baseline.py DATASET [--recipes softmax-fast,...] [--threads N]

DATASET is a directory written by flowreg-prep; its matrices are memory-mapped. For every
recipe three fits are made and one table printed:

  flowreg        flowreg-fit (default: target/release/flowreg-fit, see --flowreg)
  torch          nn.Linear and full-batch SGD on X, as in the notebook
  torch chol(K)  the same SGD on the Cholesky factor of K = X X^T: logits Z0 + L V^T + b

Seconds are those of training alone: what flowreg reports as train_seconds, and for torch
everything from the initial weights to the last ones (on chol(K): K, its factor, Z0 and the
way back to W included). The best of
--repeat fits counts, for everybody. "off" is the largest
relative distance from torch's loss in any epoch.

Needs torch and numpy.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import numpy as np
import torch
from torch import nn

RECIPES = {  # classes, lr, epochs
    "binary-slow": (2, 1e-4, 100),
    "binary-fast": (2, 1e-2, 100),
    "softmax-slow": (None, 0.01, 100),
    "softmax-fast": (None, 0.1, 250),
}


def load(dataset, split, classes):
    """The split's rows and labels below `classes`; X stays in the page cache where it can."""
    x = np.load(dataset / f"{split}.x.npy", mmap_mode="c")
    y = np.load(dataset / f"{split}.y.npy")
    if classes is not None:
        kept = np.flatnonzero(y < classes)
        first, last = kept[0], kept[-1] + 1
        x, y = (x[first:last], y[first:last]) if last - first == len(kept) else (x[kept], y[kept])
    return torch.from_numpy(x), torch.from_numpy(y)


def loss_function(y, outputs):
    if outputs == 1:
        target = y.float().unsqueeze(1)
        return lambda z: nn.functional.binary_cross_entropy_with_logits(z, target)
    return lambda z: nn.functional.cross_entropy(z, y)


def train(parameters, logits, loss_of, lr, epochs):
    """Full-batch SGD; the loss before every step."""
    optimizer = torch.optim.SGD(parameters, lr=lr)
    losses = []
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = loss_of(logits())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def fit_torch(x, y, outputs, lr, epochs):
    started = time.perf_counter()
    torch.manual_seed(0)
    linear = nn.Linear(x.shape[1], outputs)
    losses = train(linear.parameters(), lambda: linear(x), loss_function(y, outputs), lr, epochs)
    return losses, time.perf_counter() - started


def fit_torch_cholesky(x, y, outputs, lr, epochs):
    started = time.perf_counter()
    torch.manual_seed(0)
    start = nn.Linear(x.shape[1], outputs)
    with torch.no_grad():
        z0 = x @ start.weight.T
        k = x @ x.T
        # K may be singular to f32: a ridge far below what the losses show.
        k.diagonal().add_(1e-6 * k.diagonal().mean())
        factor = torch.linalg.cholesky(k)
    v = nn.Parameter(torch.zeros(outputs, len(x)))
    bias = nn.Parameter(start.bias.detach().clone())
    losses = train([v, bias], lambda: z0 + factor @ v.T + bias, loss_function(y, outputs), lr, epochs)
    with torch.no_grad():
        # L V^T = K A  =>  A = L^-T V^T, and W = W0 + A^T X.
        a = torch.linalg.solve_triangular(factor.T, v.T, upper=True)
        weight = start.weight + a.T @ x
    assert weight.shape == start.weight.shape
    return losses, time.perf_counter() - started


def fit_flowreg(binary, dataset, recipe, threads, repeat):
    best = None
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as scratch:
            out = pathlib.Path(scratch) / "run"
            command = [binary, dataset, "--recipe", recipe, "--threads", str(threads), "--out", out]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            summary = json.loads((out / "summary.json").read_text())
            lines = (out / "history.jsonl").read_text().splitlines()
        seconds = summary["train_seconds"]
        if best is None or seconds < best[1]:
            best = [json.loads(line)["loss"] for line in lines], seconds
    return best


def best_of(repeat, fit, *args):
    return min((fit(*args) for _ in range(repeat)), key=lambda result: result[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=pathlib.Path)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--flowreg", default="target/release/flowreg-fit")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=2, help="the best of so many fits counts")
    parser.add_argument("--json", action="store_true", help="print seconds only, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    seconds = {}
    if not args.json:
        print(f"torch {torch.__version__}, {args.threads} threads")
        print(f"{'recipe':13} {'who':14} {'seconds':>9} {'ratio':>7} {'off':>8}  loss at epoch 0, 10, ... 90; 140, 190, 240")
    for recipe in args.recipes.split(","):
        classes, lr, epochs = RECIPES[recipe]
        x, y = load(args.dataset, "train", classes)
        count = int(y.max()) + 1 if classes is None else classes
        outputs = 1 if count == 2 else count
        x.sum()  # into the page cache, for everybody
        fits = {"torch": best_of(args.repeat, fit_torch, x, y, outputs, lr, epochs),
                "torch chol(K)": best_of(args.repeat, fit_torch_cholesky, x, y, outputs, lr, epochs)}
        if not args.json:
            fits = {"flowreg": fit_flowreg(args.flowreg, args.dataset, recipe, args.threads, args.repeat),
                    **fits}
        seconds[recipe] = {who: taken for who, (_, taken) in fits.items()}
        if args.json:
            continue
        reference = np.array(fits["torch"][0])
        for who, (losses, taken) in fits.items():
            off = np.max(np.abs(np.array(losses) - reference) / reference)
            shown = losses[:100:10] + losses[140::50]
            print(f"{recipe:13} {who:14} {taken:9.4f} {fits['torch'][1] / taken:7.2f} {off:8.1e}  "
                  + " ".join(f"{loss:.4f}" for loss in shown))
    if args.json:
        print(json.dumps(seconds))


if __name__ == "__main__":
    main()
