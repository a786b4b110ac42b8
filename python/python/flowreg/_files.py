"""Features and labels from files: .npy, .npz, .safetensors, .pt, and flowreg's dataset directories."""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ._arrays import Array, to_numpy
from ._flowreg import verify_split

_SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U8": "<u1",
    "BF16": "<u2",
}
# The types of paths.
PATHS = (str, bytes, os.PathLike)
# Names of the arrays in files with several ones.
_FEATURES = ("features", "x", "X", "embeddings")
_LABELS = ("labels", "y", "targets")


def load(features: Any, labels: Any, split: str) -> tuple[Any, Any]:
    """The given features and labels; a path is replaced by the array in the file.

    If labels are None, they are those in the file or dataset of the features.
    """
    if isinstance(features, PATHS):
        path = Path(os.fsdecode(features))
        if path.is_dir():
            if labels is None:
                labels = _dataset(path, split, "y")
            features = _dataset(path, split, "x")
        else:
            if labels is None:
                labels = _array(path, _LABELS, must_be_named=True)
            features = _array(path, _FEATURES)
    if isinstance(labels, PATHS):
        labels = _array(Path(os.fsdecode(labels)), _LABELS)
    if labels is None:
        raise ValueError(
            "labels: found none, expected one for each row of features: pass an array or a path"
        )
    return to_numpy(features, "features"), to_numpy(labels, "labels")


def _dataset(path: Path, split: str, what: str) -> Array:
    verify_split(path, split)
    return np.load(path / f"{split}.{what}.npy", mmap_mode="r")


def _array(path: Path, names: tuple[str, ...], must_be_named: bool = False) -> Any:
    """The array in a file: the first of these names, or the only one unless it `must_be_named`."""

    def choose(there: list[str]) -> str:
        chosen = next((name for name in names if name in there), None)
        if chosen is None and must_be_named:
            raise ValueError(
                f"labels: found none in {path}, the file of the features, expected an array called "
                f"{' or '.join(names)} there: pass labels, as an array or a path"
            )
        if chosen is None and len(there) != 1:
            raise ValueError(
                f"{path}: found the arrays {there}, expected one called {' or '.join(names)}"
            )
        return there[0] if chosen is None else chosen

    kind = path.suffix.lower()
    if kind in (".npy", ".npz"):
        with _reading(path):
            loaded = np.load(path, mmap_mode="r")
        if isinstance(loaded, np.ndarray):
            choose([""])
            return loaded
        with loaded:
            name = choose(list(loaded.files))
            with _reading(path):
                return loaded[name]
    if kind == ".safetensors":
        return _safetensors(path, choose)
    if kind in (".pt", ".pth"):
        try:
            import torch
        except ImportError as error:
            raise ImportError(
                f"{path}: only torch reads this file, and it is not installed: save the features "
                "as .npy or .safetensors"
            ) from error
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        name = choose(list(loaded) if isinstance(loaded, dict) else [""])
        return loaded[name] if isinstance(loaded, dict) else loaded
    raise ValueError(
        f"{path}: found a file of kind {kind!r}, expected .npy, .npz, .safetensors, .pt or a "
        "dataset directory"
    )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns an error of NumPy about the content of a file into one that names the file."""
    try:
        yield
    except (EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: found no complete array of numbers or texts ({error}), expected one that "
            "numpy.save or numpy.savez wrote: save it again; texts in an array of objects by "
            "array.astype(str)"
        ) from error


def _safetensors(path: Path, choose: Callable[[list[str]], str]) -> Array:
    """A tensor in a file, memory-mapped."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            raise ValueError(f"{path}: found no header of safetensors, expected one")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    tensor = header[choose(list(header))]
    kind, shape, (begin, end) = tensor["dtype"], tuple(tensor["shape"]), tensor["data_offsets"]
    if kind not in _SAFETENSORS:
        raise ValueError(f"{path}: found a tensor of {kind}, expected one of {list(_SAFETENSORS)}")
    dtype = np.dtype(_SAFETENSORS[kind])
    if end - begin != int(np.prod(shape, dtype=object)) * dtype.itemsize or end > size - 8 - length:
        raise ValueError(f"{path}: found {end - begin} bytes of data, which {kind} {shape} is not")
    values = np.memmap(path, dtype, "r", offset=8 + length + begin, shape=shape)
    if kind == "BF16":
        # bfloat16 is the upper half of float32.
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values
