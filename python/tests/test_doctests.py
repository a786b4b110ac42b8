"""The examples in the documentation do what they say."""

import doctest
import importlib
import re
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["", "._logistic", "._cv", "._torch", "._probe", "._saved", "._notebook"])
def test_examples(name):
    module = importlib.import_module(f"flowreg{name}")
    failed, tried = doctest.testmod(module)
    assert failed == 0 < tried


def test_readme(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "README.md").read_text()
    names = {}
    for code in re.findall("```python\n(.*?)```", text, re.DOTALL):
        exec(code, names)
    score, status, _, same = capsys.readouterr().out.split()
    assert float(score) > 0.9 and status == "converged" and same == "True"
