"""Linear softmax and logistic classifiers, trained on the CPU at the speed of the machine.

There are two kinds of fits, both compiled:

- `LogisticRegression` and `LogisticRegressionCV` minimise the penalised loss, as scikit-learn's
  estimators of the same names do, and bound the distance to the minimum.
- `TorchLinear` computes the trajectory of ``torch.optim.SGD`` on a ``torch.nn.Linear``.

Each of them fits rows that several processes have, with a communicator of mpi4py or a `Comm`.

`fit_linear_probe` chooses the penalty of a classifier on frozen features by the protocols of the
papers that do it. `load` reads a run of the command line's flowreg-fit, and what ``save`` wrote.

>>> import numpy as np
>>> from flowreg import LogisticRegression
>>> X = np.float32([[0, 1], [0.2, 0.9], [1, 0.1], [0.8, 0]])
>>> model = LogisticRegression(C=10).fit(X, ["a", "a", "b", "b"])
>>> model.predict([[0.1, 0.8]])
array(['a'], dtype='<U1')
>>> model.status_
'converged'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._flowreg import __version__

if TYPE_CHECKING:
    from ._comm import Comm, rows_of
    from ._cv import LogisticRegressionCV
    from ._logistic import LogisticRegression
    from ._probe import LinearProbe, fit_linear_probe
    from ._saved import load
    from ._torch import TorchLinear

# The rest is imported when it is used: scikit-learn takes a second, which the programs do not need.
_MODULES = {
    "Comm": "_comm",
    "LinearProbe": "_probe",
    "LogisticRegression": "_logistic",
    "LogisticRegressionCV": "_cv",
    "TorchLinear": "_torch",
    "fit_linear_probe": "_probe",
    "load": "_saved",
    "rows_of": "_comm",
}

__all__ = [
    "Comm",
    "LinearProbe",
    "LogisticRegression",
    "LogisticRegressionCV",
    "TorchLinear",
    "__version__",
    "fit_linear_probe",
    "load",
    "rows_of",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
