"""The compiled fits. `x` is float32 of shape (n, d), labels are uint32 below `classes`."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

_F32 = npt.NDArray[np.float32]
_F64 = npt.NDArray[np.float64]
_U32 = npt.NDArray[np.uint32]

class _Comm(Protocol):
    rank: int
    size: int

    def sum(self, values: npt.NDArray[np.int64], /) -> Any: ...

__all__ = [
    "__version__",
    "are_rows_shared",
    "available_memory",
    "fit_path",
    "fit_sgd",
    "instruction_set",
    "load_model",
    "main",
    "report",
    "save_model",
    "share_of_rows",
    "verify_split",
]

__version__: str

def fit_path(
    x: _F32,
    labels: _U32,
    classes: int,
    *,
    penalty: str,
    values: Sequence[float],
    solver: str = "newton",
    tolerance: float = 1e-5,
    fold_tolerance: float = 1e-5,
    max_iterations: int = 1000,
    fit_intercept: bool = True,
    sample_weight: _F64 | None = None,
    class_weight: _F64 | None = None,
    start: tuple[_F32, _F32] | None = None,
    folds: Sequence[tuple[_U32, _U32]] | None = None,
    validation: tuple[_F32, _U32] | None = None,
    held_out: bool = False,
    models: bool = False,
    engine: str = "auto",
    threads: int | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    comm: _Comm | None = None,
) -> dict[str, Any]: ...
def fit_sgd(
    x: _F32,
    labels: _U32,
    classes: int,
    *,
    lr: float | None = 0.01,
    epochs: int = 100,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    batch_size: int | None = None,
    seed: int = 0,
    schedule: str = "constant",
    step_size: int = 30,
    gamma: float = 0.1,
    warmup: int = 0,
    init: str = "torch",
    start: tuple[_F32, _F32] | None = None,
    early_stopping: int | None = None,
    sample_weight: _F64 | None = None,
    class_weight: _F64 | None = None,
    label_smoothing: float = 0.0,
    validation: tuple[_F32, _U32] | None = None,
    engine: str = "auto",
    threads: int | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    fit_intercept: bool = True,
    comm: _Comm | None = None,
) -> dict[str, Any]: ...
def instruction_set() -> str: ...
def are_rows_shared(n: int, d: int) -> bool: ...
def share_of_rows(n: int, rank: int, size: int) -> tuple[int, int]: ...
def verify_split(
    directory: str | PathLike[str], split: str, *, threads: int | None = None
) -> list[str]: ...
def available_memory() -> int | None: ...
def load_model(path: str | PathLike[str]) -> dict[str, Any]: ...
def save_model(
    directory: str | PathLike[str],
    weight: _F32,
    bias: _F32,
    about: str,
    files: Sequence[tuple[str, str]],
    *,
    overwrite: bool = False,
) -> None: ...

# Not in a build without the feature `cli`.
def main(program: str, arguments: Sequence[str]) -> int: ...
def report(
    path: str | PathLike[str],
    weight: _F32,
    bias: _F32,
    about: str,
    content: str,
    rows: tuple[_F32, _U32] | None = None,
    *,
    overwrite: bool = False,
    threads: int | None = None,
) -> None: ...
