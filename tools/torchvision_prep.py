"""Seconds that torchvision takes for a folder of photographs: decoded, resized, collected.

    python tools/torchvision_prep.py FOLDER [--size 128] [--workers 2] [--repeat 5]

One pass of a DataLoader over ImageFolder with Resize and ToTensor, the best of so many. Nothing
is written. benches/prep.rs runs this. Needs torch and torchvision.
"""

import argparse
import time

from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder")
parser.add_argument("--size", type=int, default=128)
parser.add_argument("--workers", type=int, default=2)
parser.add_argument("--repeat", type=int, default=5)
args = parser.parse_args()

transform = transforms.Compose([transforms.Resize((args.size, args.size)), transforms.ToTensor()])
photographs = ImageFolder(args.folder, transform)


def seconds():
    started = time.perf_counter()
    rows = sum(len(y) for _, y in DataLoader(photographs, batch_size=64, num_workers=args.workers))
    assert rows == len(photographs)
    return time.perf_counter() - started


print(min(seconds() for _ in range(args.repeat)))
