"""Loads a run's model in PyTorch and repeats flowreg's evaluation, and its predictions.

    python tools/torch_load.py RUN DATASET [--photographs DIR] [--flowreg-predict PATH]

The model goes into `torch.nn.Linear` as a state dict; accuracy and loss on the run's --eval-split
must be those of summary.json. With --photographs, every JPEG and PNG in DIR also goes through
Pillow, torchvision's Resize and ToTensor, and the probabilities must be within 1e-5 of
flowreg-predict's.

Needs torch, torchvision, numpy and safetensors.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np
import safetensors
import safetensors.torch
import torch
from PIL import Image
from torchvision import transforms


def load(path):
    tensors = safetensors.torch.load_file(path)
    outputs, features = tensors["weight"].shape
    linear = torch.nn.Linear(features, outputs)
    linear.load_state_dict(tensors)
    with safetensors.safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["flowreg"])
    return linear, about


def probabilities(linear, x):
    z = linear(x)
    if z.shape[1] == 1:
        return torch.cat([torch.sigmoid(-z), torch.sigmoid(z)], 1)
    return torch.softmax(z, 1)


def evaluate(linear, dataset, summary):
    split = summary["eval_split"]
    x = np.load(dataset / f"{split}.x.npy", mmap_mode="c")
    y = np.load(dataset / f"{split}.y.npy")
    kept = np.flatnonzero(y < summary["classes"])
    hits, loss = 0, 0.0
    for rows in np.array_split(kept, max(1, len(kept) // 512)):
        z, target = linear(torch.from_numpy(x[rows])), torch.from_numpy(y[rows])
        if z.shape[1] == 1:
            loss += torch.nn.functional.binary_cross_entropy_with_logits(
                z[:, 0], target.float(), reduction="sum").item()
            hits += ((z[:, 0] > 0).long() == target).sum().item()
        else:
            loss += torch.nn.functional.cross_entropy(z, target, reduction="sum").item()
            hits += (z.argmax(1) == target).sum().item()
    return hits / len(kept), loss / len(kept)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("dataset", type=pathlib.Path)
    parser.add_argument("--photographs", type=pathlib.Path)
    parser.add_argument("--flowreg-predict", default="target/release/flowreg-predict")
    args = parser.parse_args()
    linear, about = load(args.run / "model.safetensors")
    summary = json.loads((args.run / "summary.json").read_text())
    right = True
    with torch.no_grad():
        accuracy, loss = evaluate(linear, args.dataset, summary)
        print(f"torch:   accuracy {accuracy:.6f}, loss {loss:.6f}")
        # The weights are those that were fitted; a temperature is for probabilities only.
        told = summary.get("eval_loss_uncalibrated", summary["eval_loss"])
        print(f"flowreg: accuracy {summary['eval_accuracy']:.6f}, loss {told:.6f}")
        # Two classes may be closer than f32 can tell in a row or two.
        right &= abs(accuracy - summary["eval_accuracy"]) * summary["eval_rows"] <= 2
        right &= abs(loss - told) <= 1e-5 * abs(loss)
        if args.photographs:
            right &= photographs(linear, about, args)
    sys.exit(None if right else "not the same")


def photographs(linear, about, args):
    size = about["transform"]["size"]
    to_row = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor()])
    command = [args.flowreg_predict, args.run, args.photographs, "--json", "--top", "1000000"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    worst = 0.0
    for line in map(json.loads, lines):
        row = to_row(Image.open(line["input"]).convert("RGB")).reshape(1, -1)
        expected = probabilities(linear, row)[0]
        found = torch.empty_like(expected)
        for prediction in line["predictions"]:
            found[prediction["label"]] = prediction["probability"]
        distance = (found - expected).abs().max().item()
        worst = max(worst, distance)
        if distance > 1e-5:
            print(f"{line['input']}: {distance:.2e} apart")
    print(f"{len(lines)} photographs: probabilities at most {worst:.2e} apart")
    return len(lines) > 0 and worst <= 1e-5


if __name__ == "__main__":
    main()
