"""Writes tests/arrays: arrays as numpy itself saves them, for tests/arrays.rs.

    python tools/arrays_golden.py tests/arrays

Features are x[i, j] = 7 i - 3 j of 5 x 4, divided by 8 where the type is a float, as their
magnitude where it is unsigned, as x > 0 for bool. Labels are i % 3, or the names of them in NAMES.
Needs numpy alone.
"""

import pathlib
import sys

import numpy as np

NAMES = np.array(["rose", "aster", "Ähre"])


def main():
    out = pathlib.Path(sys.argv[1])
    i, j = np.mgrid[:5, :4]
    x, y = 7 * i - 3 * j, np.arange(5) % 3
    for kind in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"):
        values = x / 8 if kind[0] == "f" else abs(x) if kind[0] == "u" else x > 0 if kind == "?" else x
        for order in "<>":
            dtype = np.dtype(order + kind)
            if dtype.itemsize == 1 and order == ">":
                continue
            name = f"{'big' if order == '>' else 'little'}_{dtype.name}"
            np.save(out / f"{name}.npy", values.astype(dtype))
            np.save(out / f"{name}_fortran.npy", np.asfortranarray(values.astype(dtype)))
    for version in ((1, 0), (2, 0), (3, 0)):
        with open(out / f"version_{version[0]}.npy", "wb") as file:
            np.lib.format.write_array(file, (x / 8).astype("<f4"), version)
    np.save(out / "y.npy", y)
    np.save(out / "y_names.npy", NAMES[y])
    np.save(out / "y_names_big.npy", NAMES[y].astype(NAMES.dtype.newbyteorder(">")))
    np.save(out / "y_bytes.npy", np.char.encode(NAMES[y], "utf-8"))
    np.save(out / "y_column.npy", y.astype(">i2").reshape(-1, 1))
    np.save(out / "y_float.npy", y.astype("f8"))
    both = {"x": x / 8, "y": y, "turned": np.asfortranarray(x / 8)}
    np.savez(out / "stored.npz", **both)
    np.savez_compressed(out / "deflated.npz", **both)
    np.savez(out / "positional.npz", x / 8, y)
    np.savez(out / "single.npz", weights=x / 8)


if __name__ == "__main__":
    main()
