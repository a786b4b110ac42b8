"""Fits one model in several processes of torch.distributed.

    torchrun --nproc-per-node 4 torch_distributed.py
"""

import flowreg
import numpy as np
import torch
import torch.distributed as dist

dist.init_process_group("gloo")


def add(values):
    # The tensor shares the memory of the array.
    dist.all_reduce(torch.from_numpy(values))


comm = flowreg.Comm(dist.get_rank(), dist.get_world_size(), add)

# The rows of this process, which a program would read.
rng = np.random.default_rng(0)
centres = rng.normal(size=(3, 2000))
mine = np.arange(120)[flowreg.rows_of(comm, 120)]
y = np.array(["ant", "bee", "fly"])[mine % 3]
X = np.stack([centres[row % 3] + np.random.default_rng(row).normal(size=2000) for row in mine])

model = flowreg.LogisticRegression().fit(X, y, comm=comm)

everywhere = [None] * comm.size
dist.all_gather_object(everywhere, model.coef_.tobytes())
assert all(coef == everywhere[0] for coef in everywhere)
print(f"process {comm.rank} of {comm.size}: {model.status_}, accuracy {model.score(X, y):.3f}")
dist.destroy_process_group()
