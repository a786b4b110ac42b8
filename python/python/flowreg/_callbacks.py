"""scikit-learn's callbacks, in versions that have them (1.9 and later)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ._comm import Ranks, heard

if TYPE_CHECKING:

    class CallbackSupportMixin:
        def set_callbacks(self, *callbacks: Any) -> Any: ...

    def with_callbacks(method: Any) -> Any: ...

else:
    try:
        from sklearn.callback import CallbackSupportMixin, with_callbacks
    except ImportError:

        class CallbackSupportMixin:
            """Empty: this version of scikit-learn has no callbacks."""

        def with_callbacks(method):
            """Return the method unchanged."""
            return method


Listener = Callable[[dict[str, Any]], Any] | None


@contextmanager
def told(
    estimator: Any, given: dict[str, Any], listen: Listener, ranks: Ranks | None = None
) -> Iterator[Listener]:
    """Run scikit-learn's callbacks for a fit with `given` X, y and metadata.

    Yields the callback for the compiled fit. Each step of the solver is a task of scikit-learn's
    callbacks. Of several processes the first one runs callbacks.
    """
    if not hasattr(estimator, "_skl_callbacks") or (ranks is not None and ranks.rank > 0):
        yield heard(ranks, listen)
        return
    fit = estimator._init_callback_context(max_subtasks=None)
    fit.call_on_fit_task_begin(estimator=estimator, **given)

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            step = fit.subcontext(task_name="step")
            step.call_on_fit_task_begin(estimator=estimator)
            step.call_on_fit_task_end(estimator=estimator)
        if listen is not None:
            listen(event)

    yield heard(ranks, tell)
    fit.call_on_fit_task_end(estimator=estimator, reconstruction_attributes={}, **given)
