"""The examples in the documentation do what they say."""

import doctest
import importlib
import os
import re
import subprocess
from pathlib import Path

import pytest
from programs import SCRIPTS

from flowreg import _flowreg


@pytest.mark.parametrize("name", ["", "._comm", "._logistic", "._cv", "._torch", "._probe", "._saved", "._notebook"])
def test_examples(name):
    module = importlib.import_module(f"flowreg{name}")
    failed, tried = doctest.testmod(module)
    assert failed == 0 < tried


README = (Path(__file__).parents[1] / "README.md").read_text()


def test_readme(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in re.findall("```python\n(.*?)```", README, re.DOTALL):
        exec(code, names)
    score, status, _, same = capsys.readouterr().out.split()
    assert float(score) > 0.9 and status == "converged" and same == "True"


@pytest.mark.skipif(not hasattr(_flowreg, "main"), reason="SKIPPED: this build has no programs")
def test_the_programs_of_the_readme(tmp_path):
    path = os.pathsep.join([str(SCRIPTS), os.environ["PATH"]])
    blocks = re.findall("```sh\n(.*?)```", README, re.DOTALL)
    assert blocks
    for number, code in enumerate(blocks):
        empty = tmp_path / str(number)
        empty.mkdir()
        done = subprocess.run(
            ["sh", "-e", "-c", code], cwd=empty, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, done
        assert done.stdout.count("%  setosa") == 3
