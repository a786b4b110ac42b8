"""The examples in the documentation do what they say."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["", "._logistic", "._cv", "._torch", "._probe"])
def test_examples(name):
    module = importlib.import_module(f"flowreg{name}")
    failed, tried = doctest.testmod(module)
    assert failed == 0 < tried
