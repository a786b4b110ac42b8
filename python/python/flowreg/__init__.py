"""Linear softmax and logistic classifiers, trained on the CPU at the speed of the machine.

There are two kinds of fits, both compiled:

- `LogisticRegression` and `LogisticRegressionCV` minimise the penalised loss, as scikit-learn's
  estimators of the same names do, and bound the distance to the minimum.
- `TorchLinear` computes the trajectory of ``torch.optim.SGD`` on a ``torch.nn.Linear``.

`fit_linear_probe` chooses the penalty of a classifier on frozen features by the protocols of the
papers that do it.

>>> import numpy as np
>>> from flowreg import LogisticRegression
>>> X = np.float32([[0, 1], [0.2, 0.9], [1, 0.1], [0.8, 0]])
>>> model = LogisticRegression(C=10).fit(X, ["a", "a", "b", "b"])
>>> model.predict([[0.1, 0.8]])
array(['a'], dtype='<U1')
>>> model.status_
'converged'
"""

from ._flowreg import __version__
from ._cv import LogisticRegressionCV
from ._logistic import LogisticRegression
from ._probe import LinearProbe, fit_linear_probe
from ._torch import TorchLinear

__all__ = [
    "LinearProbe",
    "LogisticRegression",
    "LogisticRegressionCV",
    "TorchLinear",
    "__version__",
    "fit_linear_probe",
]
