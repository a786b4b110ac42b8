"""Arguments of the compiled fits: features as f32 arrays, and the number of threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse

from ._warnings import warn

Array = npt.NDArray[Any]

# Types of which f32 represents every value.
_EXACT = tuple(np.dtype(name) for name in ("f4", "f2", "u1", "i1", "u2", "i2", "bool"))
# A column that f32 rounds by more than this share of its standard deviation is shifted first: that
# costs nothing, as such columns are converted anyway.
_SHIFTED = 1e-6
# By more than this, a column that may not be shifted is warned of, as flowreg-prep refuses it.
_ROUNDING = 1e-4
# A bias that float32 rounds by more than this changes probabilities visibly.
_BIAS_ROUNDING = 1e-3
# Bytes that are converted together.
_BLOCK = 1 << 25
# The most threads of a fit.
MAX_THREADS = 1024


def to_numpy(values: Any, name: str) -> Any:
    """A torch tensor as an array that shares its memory; sparse data is refused; anything else is
    returned unchanged."""
    if issparse(values):
        size = 4 * values.shape[0] * values.shape[-1]
        raise TypeError(
            f"{name}: found sparse data of shape {values.shape}, expected a dense array: pass "
            f"{name}.toarray(), which takes {size} bytes as float32, or let the encoder that made "
            "it give dense data (sparse_output=False)"
        )
    if type(values).__module__.split(".")[0] != "torch":
        return values
    if getattr(values, "requires_grad", False) or values.device.type != "cpu":
        raise TypeError(
            f"{name}: found a tensor on {values.device} "
            f"{'with' if values.requires_grad else 'without'} gradients, expected one on cpu "
            f"without: pass {name}.detach().cpu()"
        )
    # NumPy has no bfloat16.
    return (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()


def dense(coef: Any) -> Array:
    """``coef_`` as an array, also after `sparsify`."""
    return coef.toarray() if issparse(coef) else coef


def blocks(rows: int, bytes_per_row: int) -> Iterator[slice]:
    """Slices of rows that are converted or multiplied together."""
    size = max(1, _BLOCK // max(1, bytes_per_row))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def is_borrowed(X: Array) -> bool:
    """Whether the compiled fits can read the rows without a copy."""
    value, features = X.itemsize, X.shape[1]
    row, column = X.strides
    return (
        X.dtype == np.float32
        and X.dtype.isnative
        and X.flags.aligned
        and (column == value or features == 1)
        and (row % value == 0 and row >= features * value or len(X) == 1)
    )


def as_features(X: Array, may_shift: bool) -> tuple[Array, Array | None]:
    """The rows as f32, and the shift of each column, or None.

    Rows of f32 whose features lie side by side are not copied. Wider types are rounded. A column far
    from 0 beside its spread, such as one of Unix times, is shifted by its mean first, if `may_shift`;
    the optimum is the same but for the intercept. If the shift is not allowed, the second result is
    given for columns that f32 rounds badly: the caller warns.
    """
    shift = shift_of(X, may_shift, _shift)
    return as_float32(X, shift if may_shift else None), shift


def shift_of(
    X: Array, may_shift: bool, of_columns: Callable[[Array, float], Array | None]
) -> Array | None:
    """The shift of each column, or None; `of_columns` is `_shift`."""
    return None if X.dtype in _EXACT else of_columns(X, _SHIFTED if may_shift else _ROUNDING)


def as_float32(X: Array, shift: Array | None) -> Array:
    """The rows less the shift as f32: X itself if the compiled fits can read it."""
    if is_borrowed(X):
        return X
    out = np.empty(X.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in blocks(*extent(X)):
            block = X[rows]
            out[rows] = block if shift is None else block - shift
    return out


def extent(X: Array) -> tuple[int, int]:
    """Number of rows, and bytes of one as f64, for `blocks`."""
    return X.shape[0], 8 * X.shape[1]


def _shift(X: Array, share: float) -> Array | None:
    """The mean of each column that f32 rounds by more than this share of its standard deviation, 0
    of the others; None if there is none."""
    rows = len(X)
    total, square, largest = np.zeros((3, X.shape[1]))
    with np.errstate(all="ignore"):
        # Differences of close numbers are exact, so that a constant column has no spread at all.
        first = X[0].astype(np.float64)
        for part in blocks(*extent(X)):
            block = X[part].astype(np.float64, copy=False)
            total += (block - first).sum(axis=0)
            np.maximum(largest, np.abs(block).max(axis=0), out=largest)
        mean = first + total / rows
        for part in blocks(*extent(X)):
            square += ((X[part].astype(np.float64, copy=False) - mean) ** 2).sum(axis=0)
        deviation = np.sqrt(square / rows)
        # Constant columns have no spread to lose, and NaN is refused later.
        rounded = (largest * 2.0**-24 > share * deviation) & (deviation > 0)
    return np.where(rounded, mean, 0.0) if rounded.any() else None


def threads(n_threads: int | None, n_jobs: int | None = None) -> int | None:
    """The number of threads to use; None is one for each core.

    `n_threads`, else a positive `n_jobs`, else FLOWREG_NUM_THREADS, else OMP_NUM_THREADS, which
    joblib sets in its processes. The latter three are at most `MAX_THREADS`.
    """
    if n_threads is not None:
        return int(n_threads)
    if n_jobs is not None:
        return min(int(n_jobs), MAX_THREADS) if n_jobs > 0 else None
    for name in ("FLOWREG_NUM_THREADS", "OMP_NUM_THREADS"):
        # OpenMP allows a list with one number for each level.
        text = os.environ.get(name, "").split(",")[0].strip()
        if text.isdecimal() and int(text) > 0:
            return min(int(text), MAX_THREADS)
        if text and name.startswith("FLOWREG"):
            raise ValueError(f"{name}: found {text!r}, expected a number of threads, or nothing")
    return None


def state_dict_of(coef: Any, intercept: Any = None) -> dict[str, Array]:
    """The state dict of a ``torch.nn.Linear``, with a warning if float32 is too coarse for the bias."""
    state = {"weight": np.array(dense(coef), dtype=np.float32)}
    if intercept is not None:
        state["bias"] = np.array(intercept, dtype=np.float32)
        rounding = np.abs(state["bias"] - np.asarray(intercept, dtype=np.float64)).max()
        if rounding > _BIAS_ROUNDING:
            warn(
                f"state_dict: float32 rounds the bias by {rounding:.1g}, because columns lie far from 0, so a "
                "float32 layer predicts worse than this model: subtract the means of the columns before the fit"
            )
    return state
