"""Print the table of src/sgd/schedule.rs: torch's learning rates, epoch by epoch.

Each line is one schedule over 12 epochs at lr 1, as `torch.optim.lr_scheduler` gives it.
Needs torch (the table was made with torch 2.15).
"""

import warnings

import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, SequentialLR, StepLR

warnings.filterwarnings("ignore")
EPOCHS = 12


def decay(name, optimizer, epochs):
    if name == "constant":
        return ConstantLR(optimizer, factor=1.0)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=epochs)
    size, gamma = name
    return StepLR(optimizer, step_size=size, gamma=gamma)


def rates(name, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    if warmup:
        parts = [LinearLR(optimizer, total_iters=warmup), decay(name, optimizer, EPOCHS - warmup)]
        scheduler = SequentialLR(optimizer, parts, milestones=[warmup])
    else:
        scheduler = decay(name, optimizer, EPOCHS)
    for _ in range(EPOCHS):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()


for name, rust in [("constant", "Decay::Constant"), ((5, 0.3), "Decay::Step { size: 5, gamma: 0.3 }"),
                   ("cosine", "Decay::Cosine")]:
    for warmup in (0, 4):
        print(f"({rust}, {warmup}, [{', '.join(repr(rate) for rate in rates(name, warmup))}]),")
