"""Fits one model in several processes of Ray, each of which has some rows.

    python ray_fit.py [number of processes]

The processes add vectors in an actor: each vector goes to it and back once for each process. All
ranks must run at once.
"""

import asyncio
import sys

import flowreg
import numpy as np
import ray


@ray.remote(num_cpus=0)
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


@ray.remote(num_cpus=1, max_retries=0)
def fit(adder, rank, size):
    """Fits the rows of this rank."""

    def add(values):
        values[:] = ray.get(adder.add.remote(values))

    comm = flowreg.Comm(rank, size, add)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 2000))
    mine = np.arange(120)[flowreg.rows_of(comm, 120)]
    y = np.array(["ant", "bee", "fly"])[mine % 3]
    X = np.stack([centres[row % 3] + np.random.default_rng(row).normal(size=2000) for row in mine])
    model = flowreg.LogisticRegression(n_threads=1).fit(X, y, comm=comm)
    return model, model.score(X, y)


def main():
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    ray.init(num_cpus=size, include_dashboard=False)
    adder = Adder.remote(size)
    fits = [fit.remote(adder, rank, size) for rank in range(size)]
    # The first error ends this program, and with it the ranks that wait for the failed one.
    waiting = list(fits)
    while waiting:
        done, waiting = ray.wait(waiting)
        ray.get(done)
    found = ray.get(fits)
    assert all(model.coef_.tobytes() == found[0][0].coef_.tobytes() for model, _ in found)
    for rank, (model, accuracy) in enumerate(found):
        print(f"process {rank} of {size}: {model.status_}, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
