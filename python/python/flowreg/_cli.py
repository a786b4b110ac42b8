"""The programs of the command line: scripts, and ``python -m flowreg``.

A program takes over the process: its own handlers of Ctrl-C and SIGTERM, as its binary has.
"""

from __future__ import annotations

import os
import signal
import sys

from . import __version__, _flowreg

# Exit codes of a program that is not in this build, and of an invalid command line.
_UNAVAILABLE = 69
_USAGE = 64

_HELP = """\
Linear softmax and logistic classifiers, trained on the CPU at the speed of the machine.

Usage: python -m flowreg PROGRAM [ARGUMENTS]

Programs:
  prep     Pictures, arrays and text to datasets (flowreg-prep)
  fit      A dataset, or arrays, to a model (flowreg-fit)
  predict  A model and inputs to names and probabilities (flowreg-predict)

Run `python -m flowreg PROGRAM --help` for more; `flowreg-PROGRAM` is the same program.
"""
_PROGRAMS = ("prep", "fit", "predict")


def prep() -> int:
    """The script flowreg-prep."""
    return run("prep", sys.argv[1:])


def fit() -> int:
    """The script flowreg-fit."""
    return run("fit", sys.argv[1:])


def predict() -> int:
    """The script flowreg-predict."""
    return run("predict", sys.argv[1:])


def main(arguments: list[str]) -> int:
    """``python -m flowreg``."""
    if not arguments:
        return _refuse("no program")
    first, *rest = arguments
    if first in ("-h", "--help"):
        return _print(_HELP)
    if first in ("-V", "--version"):
        return _print(f"flowreg {__version__}\n")
    if first not in _PROGRAMS:
        return _refuse(repr(first))
    return run(first, rest)


def run(program: str, arguments: list[str]) -> int:
    """Run a program in this process, and return its exit code."""
    if not hasattr(_flowreg, "main"):
        text = "this build of flowreg has no programs: install one with its default features"
        print(f"flowreg-{program}: {text}", file=sys.stderr)
        return _UNAVAILABLE
    # Python's handler would raise KeyboardInterrupt after the program's own handler has run.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    return _flowreg.main(program, arguments)


def _open_standard_streams() -> None:
    """Open streams that the caller closed; else an output file would take their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _refuse(found: str) -> int:
    expected = f"{', '.join(_PROGRAMS[:-1])} or {_PROGRAMS[-1]}; run python -m flowreg --help for more"
    print(f"flowreg: found {found}, expected {expected}", file=sys.stderr)
    return _USAGE


def _print(text: str) -> int:
    """Print a text. A closed pipe is no error, as for the programs."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        # Python would complain when it flushes again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
