"""Fits one model in several processes of mpi4py.

    mpirun -n 4 python -m mpi4py mpi4py_fit.py

With `-m mpi4py` an exception in one process ends all of them.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
from flowreg import LogisticRegression, rows_of
from mpi4py import MPI

comm = MPI.COMM_WORLD

# One file that all processes can read.
folder = Path(comm.bcast(tempfile.mkdtemp() if comm.rank == 0 else None))
if comm.rank == 0:
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    features = rng.normal(size=(120, 2000)) + rng.normal(size=(3, 2000))[labels]
    np.save(folder / "X.npy", features.astype(np.float32))
    np.save(folder / "y.npy", labels)
comm.Barrier()

X = np.load(folder / "X.npy", mmap_mode="r")
y = np.load(folder / "y.npy")
mine = rows_of(comm, len(X))
model = LogisticRegression().fit(X[mine], y[mine], comm=comm)

everywhere = comm.allgather(model.coef_.tobytes())
assert all(coef == everywhere[0] for coef in everywhere)
comm.Barrier()
if comm.rank == 0:
    print(f"{comm.size} processes, {model.status_}, accuracy {model.score(X, y):.3f}")
    for name in ("X.npy", "y.npy"):
        os.remove(folder / name)
    os.rmdir(folder)
