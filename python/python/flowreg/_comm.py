"""Several processes that fit one model: each has some rows."""

from __future__ import annotations

import io
import numbers
import operator
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from . import _warnings
from ._arrays import Array, blocks, extent
from ._flowreg import __version__, instruction_set, share_of_rows

# Exceptions that one process raises and the others repeat.
_REPEATED: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (ValueError, TypeError, MemoryError, OSError)
}


class Comm:
    """The processes of a fit, for libraries other than mpi4py.

    Parameters
    ----------
    rank : int
        The number of this process, from 0.
    size : int
        The number of processes.
    sum : callable
        Called with a contiguous vector of int64, whose values it replaces by their sums over all
        processes. All processes call it in the same order, with vectors of the same length. It is
        called in the thread that called `fit`. An exception that it raises ends the fit.

    Examples
    --------
    The processes of ``torch.distributed``:

    >>> import flowreg
    >>> def of_torch():
    ...     import torch
    ...     import torch.distributed as dist
    ...     def add(values):
    ...         dist.all_reduce(torch.from_numpy(values))
    ...     return flowreg.Comm(dist.get_rank(), dist.get_world_size(), add)

    A single process is a group, too:

    >>> alone = flowreg.Comm(0, 1, lambda values: None)
    >>> flowreg.rows_of(alone, 10)
    slice(0, 10, None)
    """

    def __init__(self, rank: int, size: int, sum: Callable[[Array], Any]) -> None:
        _check_place(rank, size)
        if not callable(sum):
            raise TypeError(
                f"sum: found {type(sum).__name__}, expected a function of a vector of int64"
            )
        self.rank = int(rank)
        self.size = int(size)
        self._sum = sum

    def sum(self, values: Array) -> None:
        """Replace values by their sums over all processes.

        Parameters
        ----------
        values : ndarray of int64
            A contiguous vector.
        """
        self._sum(values)

    def __repr__(self) -> str:
        return f"Comm(rank={self.rank}, size={self.size})"


def rows_of(comm: Any, n: int) -> slice:
    """The rows that this process takes of n rows that all processes can read.

    Parameters
    ----------
    comm : communicator
        As of ``fit``.
    n : int
        Number of rows.

    Returns
    -------
    slice
        Consecutive rows, in the order of the ranks. They are those that a fit of tall data gives each
        process, so that no row moves: whole blocks of 512 rows or a multiple, if there are as many
        blocks as processes.

    Examples
    --------
    ``X = np.load("X.npy", mmap_mode="r"); mine = rows_of(comm, len(X)); model.fit(X[mine], y[mine],
    comm=comm)`` reads this process's rows only.

    >>> import flowreg
    >>> flowreg.rows_of(flowreg.Comm(1, 3, print), 10)
    slice(3, 6, None)
    """
    rank, size = _place(comm)
    rows = operator.index(n)
    if rows < 0:
        raise ValueError(f"n: found {n}, expected a number of rows, 0 or above")
    return slice(*share_of_rows(rows, rank, size))


def _check_place(rank: Any, size: Any) -> None:
    try:
        is_place = 0 <= int(rank) < int(size) and int(rank) == rank and int(size) == size
    except (TypeError, ValueError):
        is_place = False
    if not is_place:
        raise ValueError(
            f"comm: found rank {rank!r} of size {size!r}, expected whole numbers with "
            "0 <= rank < size"
        )


def _is_mpi(comm: Any) -> bool:
    return all(hasattr(comm, name) for name in ("Get_rank", "Get_size", "Allreduce"))


def _place(comm: Any) -> tuple[int, int]:
    """Rank and size."""
    if _is_mpi(comm):
        rank, size = comm.Get_rank(), comm.Get_size()
    elif all(hasattr(comm, name) for name in ("rank", "size", "sum")):
        rank, size = comm.rank, comm.size
    else:
        raise TypeError(
            f"comm: found {type(comm).__name__}, expected a communicator of mpi4py, or "
            "flowreg.Comm(rank, size, sum)"
        )
    _check_place(rank, size)
    return int(rank), int(size)


class Ranks:
    """The processes of a fit, and what is made of their sums."""

    def __init__(self, comm: Any) -> None:
        self.rank, self.size = _place(comm)
        self._comm = comm
        self._is_mpi = _is_mpi(comm)
        # After an exception in a sum or in a callback, the other processes are elsewhere.
        self.is_broken = False
        # Odd, so that neither 32 bits nor a float holds their sum.
        large = (1 << 60) // self.size | 1
        values = np.array([1, self.rank + 1, large, -self.rank - 1], np.int64)
        self.sum(values)
        ranks = self.size * (self.size + 1) // 2
        expected = [self.size, ranks, self.size * large, -ranks]
        if values.tolist() != expected:
            raise ValueError(
                f"comm: found {values.tolist()} as the sums of 1, rank + 1, {large} and -rank - 1 over "
                f"{self.size} processes, expected {expected}: sum must replace the values of its "
                "argument by those of all processes, in integers of 64 bits"
            )

    def sum(self, values: Array) -> None:
        """Replace a vector of int64 by its sums over the processes."""
        with self.breaking():
            if self._is_mpi:
                from mpi4py import MPI

                self._comm.Allreduce(MPI.IN_PLACE, values)
            else:
                self._comm.sum(values)

    @contextmanager
    def breaking(self) -> Iterator[None]:
        """What may raise in this process alone, where the others wait for a sum."""
        try:
            yield
        except BaseException:
            self.is_broken = True
            raise

    def listener(self, listen: Callable[[dict[str, Any]], Any] | None) -> Any:
        """The callback of process 0, which may raise; None in others."""
        if listen is None or self.rank > 0:
            return None

        def tell(event: dict[str, Any]) -> None:
            with self.breaking():
                listen(event)

        return tell

    def gather(self, values: Array) -> list[Array]:
        """The vectors of all processes, of any lengths; of a type of 8 bytes."""
        lengths = np.zeros(self.size, np.int64)
        lengths[self.rank] = len(values)
        self.sum(lengths)
        ends = np.cumsum(lengths)
        together = np.zeros(ends[-1], np.int64)
        together[ends[self.rank] - len(values) : ends[self.rank]] = values.view(np.int64)
        self.sum(together)
        return np.split(together.view(values.dtype), ends[:-1])

    def gather_bytes(self, own: bytes) -> list[bytes]:
        """The bytes of all processes."""
        lengths = np.concatenate(self.gather(np.array([len(own)], np.int64)))
        words = np.frombuffer(own + bytes(-len(own) % 8), np.int64)
        return [
            found.tobytes()[:length]
            for found, length in zip(self.gather(words), lengths, strict=True)
        ]

    def gather_numbers(self, numbers: Array) -> Array:
        """The numbers below 2**32 of all processes, one after the other."""
        packed = np.zeros(len(numbers) + len(numbers) % 2, np.uint32)
        packed[: len(numbers)] = numbers
        lengths = np.concatenate(self.gather(np.array([len(numbers)], np.int64)))
        found = self.gather(packed.view(np.int64))
        parts = (words.view(np.uint32)[:n] for words, n in zip(found, lengths, strict=True))
        return np.concatenate(list(parts))

    def of_first(self, values: Array) -> Array:
        """The values that process 0 has: float64, and of the same shape in all processes."""
        own = values if self.rank == 0 else np.zeros_like(values)
        bits = np.array(own, np.float64, order="C").reshape(-1).view(np.int64)
        self.sum(bits)
        return bits.view(np.float64).reshape(values.shape)

    @contextmanager
    def agree(self) -> Iterator[None]:
        """Work that may fail in one process: an error of one is an error of all."""
        error: Exception | None = None
        try:
            yield
        except Exception as found:
            if self.is_broken:
                raise
            error = found
        failed = np.zeros(self.size, np.int64)
        failed[self.rank] = error is not None
        self.sum(failed)
        if not failed.any():
            return
        kind = ""
        if error is not None:
            kinds = (kind.__name__ for kind in type(error).__mro__)
            kind = next((kind for kind in kinds if kind in _REPEATED), "RuntimeError")
        texts = self.gather_bytes(f"{kind}\n{error}".encode(errors="replace"))
        first = int(np.flatnonzero(failed)[0])
        if error is not None and texts[first] == texts[self.rank]:
            raise error
        kind, _, text = texts[first].decode().partition("\n")
        exception = _REPEATED.get(kind, RuntimeError)
        raise exception(f"{text} (in process {first} of {self.size})") from error

    def refuse_others(self, fields: dict[str, Any]) -> None:
        """Refuse processes whose fields have other texts than those of process 0."""
        own = "\0".join(map(str, fields.values())).encode(errors="replace")
        found = [text.decode().split("\0") for text in self.gather_bytes(own)]
        for number, name in enumerate(fields):
            for rank, texts in enumerate(found):
                if texts[number] != found[0][number]:
                    other, first = _difference(texts[number], found[0][number])
                    raise ValueError(
                        f"{name}: found {other} in process {rank} and {first} in process 0, expected "
                        "the same in all"
                    )

    def labels(self, y: Array) -> Array:
        """The labels of the rows of all processes."""
        is_object = y.dtype.kind == "O"
        with self.agree():
            others = [] if not is_object else [label for label in y if not isinstance(label, str)]
            if others:
                raise ValueError(
                    f"y: found {others[0]!r} of type {type(others[0]).__name__} in an array of objects, "
                    "expected strings, or an array of numbers"
                )
            own, numbers = np.unique(y, return_inverse=True)
            file = io.BytesIO()
            np.save(file, own.astype(str) if is_object else own, allow_pickle=False)
        parts = [np.load(io.BytesIO(part)) for part in self.gather_bytes(file.getvalue())]
        classes = np.unique(np.concatenate(parts))
        if is_object:
            classes = classes.astype(object)
        return classes[self.gather_numbers(np.searchsorted(classes, own)[numbers])]

    def shift(self, X: Array, share: float) -> Array | None:
        """As `_arrays._shift`, of the rows of all processes.

        Sums are exact sums of integers, so that the shift does not depend on the number of processes.
        """
        with np.errstate(all="ignore"):
            first = self.of_first(np.array(X[0], np.float64))
            n = int(np.concatenate(self.gather(np.array([len(X)], np.int64))).sum())

            def most(of_block: Callable[[Array], Array]) -> Array:
                """The largest |value| of each column."""
                largest = np.zeros(X.shape[1])
                for part in blocks(*extent(X)):
                    values = np.abs(of_block(X[part].astype(np.float64, copy=False)))
                    np.maximum(largest, values.max(axis=0), out=largest)
                return np.max(self.gather(largest), axis=0)

            def mean_of(of_block: Callable[[Array], Array]) -> Array:
                # The integers are below 2**61 in all.
                _, exponent = np.frexp(most(of_block) * n)
                total = np.zeros(X.shape[1], np.int64)
                for part in blocks(*extent(X)):
                    values = of_block(X[part].astype(np.float64, copy=False))
                    total += np.rint(np.ldexp(values, 61 - exponent)).astype(np.int64).sum(axis=0)
                self.sum(total)
                return np.ldexp(total.astype(np.float64), exponent - 61) / n

            largest = most(lambda block: block)
            mean = first + mean_of(lambda block: block - first)
            deviation = np.sqrt(mean_of(lambda block: (block - mean) ** 2))
            rounded = (largest * 2.0**-24 > share * deviation) & (deviation > 0)
        return np.where(rounded, mean, 0.0) if rounded.any() else None

    def folds_of_first(
        self, make: Callable[[], list[tuple[Array, Array]]]
    ) -> list[tuple[Array, Array]]:
        """The folds that process 0 makes; its error is that of all."""
        folds: list[tuple[Array, Array]] = []
        with self.agree():
            if self.rank == 0:
                folds = make()
        parts = [part for fold in folds for part in fold]
        lengths = self.gather(np.array([len(part) for part in parts], np.int64))[0]
        numbers = self.gather_numbers(np.concatenate([np.empty(0, np.uint32), *parts]))
        found = [np.ascontiguousarray(part) for part in np.split(numbers, np.cumsum(lengths))[:-1]]
        return list(zip(found[::2], found[1::2], strict=True))

    def of_fold(self, rows: Array, own: Array, logits: Array) -> Array:
        """The logits of the held-out rows of a fold, of which each process has those of its `own`."""
        numbers = self.gather_numbers(own)
        of_all = np.concatenate(self.gather(logits.reshape(-1))).reshape(len(rows), -1)
        found = np.empty_like(of_all)
        # A row may be held out twice.
        found[np.argsort(rows, kind="stable")] = of_all[np.argsort(numbers, kind="stable")]
        return found

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Warnings come from process 0 only."""
        if self.rank == 0:
            yield
            return
        token = _warnings.muted.set(True)
        try:
            yield
        finally:
            _warnings.muted.reset(token)


@contextmanager
def ranks_of(comm: Any, estimator: Any) -> Iterator[Ranks | None]:
    """The processes of a fit of this estimator, if `comm` is given; all have the same parameters."""
    if comm is None:
        yield None
        return
    ranks = Ranks(comm)
    with ranks.quiet():
        ranks.refuse_others(
            {
                "version of flowreg": __version__,
                "instruction set": instruction_set(),
                "estimator": type(estimator).__name__,
                "parameters": described(estimator),
            }
        )
        yield ranks


# Parameters that processes may have of their own.
_OWN = {"callback", "n_jobs", "n_threads", "verbose"}


def described(estimator: Any) -> str:
    """The parameters on which a fit depends, without addresses of objects."""
    given = estimator.get_params(deep=False)
    names = (name for name in sorted(given) if name not in _OWN)
    return ", ".join(f"{name}={_text(given[name])}" for name in names).replace("\0", "")


def _text(value: Any) -> str:
    """A text that is equal for equal values: all digits of numbers, all values of arrays."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, numbers.Real):
        return repr(float(value))
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return _text(value.item())
    if isinstance(value, np.ndarray | list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(sorted(f'{_text(key)}: {_text(value[key])}' for key in value))}}}"
    try:
        text = repr(value)
    except Exception:
        text = type(value).__name__
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _difference(a: str, b: str) -> tuple[str, str]:
    """Two texts, or what is around their first difference if they are long."""
    if max(len(a), len(b)) <= 100:
        return a, b
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    start = max(0, start - 30)
    return f"...{a[start : start + 60]}...", f"...{b[start : start + 60]}..."


def agreed(ranks: Ranks | None) -> AbstractContextManager[None]:
    """`Ranks.agree`, if there are several processes."""
    return nullcontext() if ranks is None else ranks.agree()


def heard(ranks: Ranks | None, listen: Any) -> Any:
    """The callback, or that of process 0."""
    return listen if ranks is None else ranks.listener(listen)


def checksum(arrays: tuple[Array, ...] | None) -> str:
    """A text that distinguishes arrays."""
    if arrays is None:
        return "None"
    return " ".join(f"{zlib.crc32(array.tobytes()):08x}" for array in arrays)
