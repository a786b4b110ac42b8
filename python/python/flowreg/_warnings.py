"""Warnings with the line of the caller."""

from __future__ import annotations

import sys
import warnings
from contextvars import ContextVar

# Whether another process of the same fit warns.
muted: ContextVar[bool] = ContextVar("muted", default=False)


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn with the line outside of this package that called it."""
    if muted.get():
        return
    frame, level = sys._getframe(1), 2
    # scikit-learn's callbacks wrap `fit`.
    inside = ("flowreg.", "sklearn.callback.")
    while frame.f_back is not None and f"{frame.f_globals.get('__name__')}.".startswith(inside):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)
