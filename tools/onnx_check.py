"""Repeats flowreg's evaluation in onnxruntime, from the model that flowreg-fit export wrote.

    flowreg-fit export RUN --out EXPORTED
    python tools/onnx_check.py EXPORTED RUN DATASET

The model is checked by onnx itself. Rows of photographs are given back as bytes, and shifted
rows as they were before, since the model has its scaling and shift inside. Accuracy and loss must be those of summary.json; weight.npy and bias.npy
must give the same logits.

Needs numpy, onnx and onnxruntime.
"""

import argparse
import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exported", type=pathlib.Path)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("dataset", type=pathlib.Path)
    args = parser.parse_args()
    path = args.exported / "model.onnx"
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    weight, bias = np.load(args.exported / "weight.npy"), np.load(args.exported / "bias.npy")
    summary = json.loads((args.run / "summary.json").read_text())
    split = summary["eval_split"]
    x = np.load(args.dataset / f"{split}.x.npy", mmap_mode="r")
    y = np.load(args.dataset / f"{split}.y.npy")
    numbers = json.loads((args.dataset / "dataset.json").read_text()).get("numbers", {})
    shift = np.array(numbers.get("shift", 0), np.float64)
    kept = np.flatnonzero(y < summary["classes"])
    hits, loss, apart = 0, 0.0, 0.0
    for rows in np.array_split(kept, max(1, len(kept) // 512)):
        batch = x[rows]
        plain = batch @ weight.T + bias
        if given.type == "tensor(uint8)":
            batch = np.rint(batch * 255).astype(np.uint8).reshape(-1, *given.shape[1:])
        elif given.type == "tensor(double)":
            batch = batch + shift
        z, p = session.run(["logits", "probabilities"], {given.name: batch})
        apart = max(apart, np.abs(z - plain).max() / np.abs(plain).max())
        assert np.allclose(p.sum(1), 1, atol=1e-5)
        hits += (p.argmax(1) == y[rows]).sum()
        z = np.concatenate([np.zeros_like(z), z], 1) if z.shape[1] == 1 else z
        top = z.max(1, keepdims=True)
        total = np.log(np.exp(z - top).sum(1, dtype=np.float64)) + top[:, 0]
        loss += (total - z[np.arange(len(rows)), y[rows]]).sum()
    accuracy, loss = hits / len(kept), loss / len(kept)
    print(f"onnxruntime: accuracy {accuracy:.6f}, loss {loss:.6f}, input {given.name} {given.type}")
    print(f"flowreg:     accuracy {summary['eval_accuracy']:.6f}, loss {summary['eval_loss']:.6f}")
    print(f"logits of weight.npy and bias.npy at most {apart:.1e} apart (relative to the largest)")
    right = abs(accuracy - summary["eval_accuracy"]) * summary["eval_rows"] <= 2
    right &= abs(loss - summary["eval_loss"]) <= 1e-5 * abs(loss)
    sys.exit(None if right and apart < 1e-4 else "not the same")


if __name__ == "__main__":
    main()
