"""Fits one model in several workers of Dask, each of which has some rows.

    python dask_fit.py [address of a scheduler]

The workers add vectors in an actor, which one of them holds: each vector goes to it and back once for
each worker. All ranks must run at once, so that each needs a free thread of a worker. If a worker dies,
the other ranks wait for its vectors: `client.restart()` ends them.
"""

import asyncio
import sys

import flowreg
import numpy as np
from distributed import Client


class Adder:
    """Adds the vectors of all ranks."""

    def __init__(self, size):
        self.size = size
        self.parts = 0
        self.total = 0
        self.sums = None

    async def add(self, values):
        self.sums = self.sums or asyncio.get_running_loop().create_future()
        sums = self.sums
        self.total = self.total + values
        self.parts += 1
        if self.parts == self.size:
            sums.set_result(self.total)
            self.parts, self.total, self.sums = 0, 0, None
        return await sums


def fit(adder, rank, size):
    """Fits the rows of this rank."""

    def add(values):
        values[:] = adder.add(values).result()

    comm = flowreg.Comm(rank, size, add)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 2000))
    mine = np.arange(120)[flowreg.rows_of(comm, 120)]
    y = np.array(["ant", "bee", "fly"])[mine % 3]
    X = np.stack([centres[row % 3] + np.random.default_rng(row).normal(size=2000) for row in mine])
    model = flowreg.LogisticRegression(n_threads=1).fit(X, y, comm=comm)
    return model, model.score(X, y)


def main():
    address = sys.argv[1:]
    options = {} if address else {"n_workers": 4, "threads_per_worker": 1, "dashboard_address": None}
    with Client(*address, **options) as client:
        workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
        size = len(workers)
        adder = client.submit(Adder, size, actor=True).result()
        fits = [
            client.submit(fit, adder, rank, size, workers=[worker], pure=False)
            for rank, worker in enumerate(workers)
        ]
        found = client.gather(fits)
    assert all(model.coef_.tobytes() == found[0][0].coef_.tobytes() for model, _ in found)
    for rank, (model, accuracy) in enumerate(found):
        print(f"process {rank} of {size}: {model.status_}, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
