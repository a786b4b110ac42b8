"""Ill-conditioned linear probes, seeded: what embeddings of real networks look like.

    python tools/probes.py NAME OUT    # NAME: tall-10, tall-100 or easy

X = N(0,1) n x d · diag(10/k) · a random rotation; logits N(0,1) n x d · N(0,1) d x c · 6/sqrt(d);
labels by Gumbel-max. `easy` leaves the columns as they are drawn and the labels nearly without noise.
Writes OUT/x.npy (float32), OUT/y.npy (int64).
"""

import pathlib
import sys

import numpy as np

PROBES = {  # n, d, c, spectrum
    "tall-10": (60_000, 784, 10, True),
    "tall-100": (50_000, 768, 100, True),
    "easy": (20_000, 256, 10, False),
}


def make(name, seed=0):
    n, d, c, decay = PROBES[name]
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, d), dtype=np.float32)
    w = rng.standard_normal((d, c), dtype=np.float32)
    logits = z @ w * np.float32((6 if decay else 3) / np.sqrt(d))
    y = np.argmax(logits + rng.gumbel(size=(n, c)).astype(np.float32), axis=1)
    if decay:
        q, _ = np.linalg.qr(rng.standard_normal((d, d)))
        scale = (10 / np.arange(1, d + 1)).astype(np.float32)
        z = (z * scale) @ q.astype(np.float32)
    return np.ascontiguousarray(z), y.astype(np.int64)


if __name__ == "__main__":
    out = pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    x, y = make(sys.argv[1])
    np.save(out / "x.npy", x)
    np.save(out / "y.npy", y)
    print(f"{out}: {x.shape[0]} x {x.shape[1]}, {y.max() + 1} classes")
