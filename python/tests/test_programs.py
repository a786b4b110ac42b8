"""The scripts are the programs, and their processes behave as those of the binaries."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from programs import command, run

import flowreg

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 7)).astype(np.float32)
Y = np.arange(60) % 3


@pytest.fixture
def arrays(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    return tmp_path


def module(*arguments, **options):
    all_of_them = [sys.executable, "-m", "flowreg", *arguments]
    return subprocess.run(all_of_them, capture_output=True, text=True, **options)


@pytest.mark.parametrize("program", ["prep", "fit", "predict"])
def test_a_script_and_the_module_are_one_program(program):
    text = run(program, "--help")
    assert f"Usage: flowreg-{program}" in text
    assert module(program, "--help").stdout == text
    assert run(program, "--version") == f"flowreg-{program} {flowreg.__version__}\n"
    listed = module("--help")
    assert listed.returncode == 0 and f"flowreg-{program}" in listed.stdout


def test_the_module_refuses_what_is_no_program():
    assert module("--version").stdout == f"flowreg {flowreg.__version__}\n"
    for arguments, found in [([], "no program"), (["train"], "'train'"), (["--fit"], "'--fit'")]:
        refused = module(*arguments)
        assert refused.returncode == 64 and refused.stdout == ""
        assert refused.stderr == (
            f"flowreg: found {found}, expected prep, fit or predict; "
            "run python -m flowreg --help for more\n"
        )


def test_a_dataset_is_made_fitted_and_predicted(arrays):
    run("prep", "npy", "--x", "x.npy", "--y", "y.npy", "--out", "data", cwd=arrays)
    printed = run("fit", "data", "--lr", "auto", "--epochs", "5", "--out", "run", cwd=arrays)
    assert "accuracy" in printed
    run("predict", "run", "x.npy", "--npy", "p.npy", "--quiet", cwd=arrays)
    assert np.load(arrays / "p.npy").shape == (60, 3)
    assert (arrays / "run" / "report.html").is_file()


@pytest.mark.parametrize(
    "program, arguments, code, said",
    [
        ("fit", ["--no-such-option"], 64, "--no-such-option"),
        ("fit", ["nowhere", "--lr", "1", "--epochs", "1", "--out", "run"], 74, "nowhere"),
        ("predict", ["nowhere", "x.npy"], 74, "nowhere"),
        ("prep", ["npy", "--x", "x.npy", "--y", "y.npy", "--out", "there"], 73, "already exists"),
    ],
)
def test_the_exit_code_is_that_of_the_program(arrays, program, arguments, code, said):
    (arrays / "there").mkdir()
    (arrays / "there" / "mine").write_text("kept")
    done = subprocess.run(command(program, *arguments), cwd=arrays, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"flowreg-{program}: ")
    of_module = module(program, *arguments, cwd=arrays)
    assert (of_module.returncode, of_module.stderr) == (code, done.stderr)


@pytest.mark.parametrize("number, name", [(2, "SIGINT"), (15, "SIGTERM")])
def test_a_signal_stops_a_program_as_it_stops_its_binary(arrays, number, name):
    options = ["--lr", "1e-9", "--epochs", "100000000", "--out", "run", "--json-logs"]
    fit = subprocess.Popen(
        command("fit", "--x", "x.npy", "--y", "y.npy", *options),
        cwd=arrays,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in fit.stdout:
        if json.loads(line)["event"] == "epoch":
            break
    fit.send_signal(number)
    _, errors = fit.communicate(timeout=60)
    assert fit.returncode == 128 + number
    event = json.loads(errors)
    assert event["event"] == "error" and f"stopped by signal {number}" in event["message"]
    assert sorted(path.name for path in arrays.iterdir()) == ["x.npy", "y.npy"]


def test_a_reader_that_goes_away_is_no_error(arrays):
    run("fit", "--x", "x.npy", "--y", "y.npy", "--lr", "auto", "--epochs", "5", "--out", "run", cwd=arrays)
    np.save(arrays / "x.npy", np.tile(X, (1000, 1)))
    for arguments in (
        command("predict", "run", "x.npy", "--csv"),
        [sys.executable, "-m", "flowreg", "--help"],
    ):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            arguments, cwd=arrays, stdout=writing, stderr=subprocess.PIPE, timeout=60
        )
        os.close(writing)
        assert (done.returncode, done.stderr) == (0, b"")


def test_closed_streams_do_not_end_up_in_the_output(arrays):
    arguments = ["--x", "x.npy", "--y", "y.npy", "--lr", "auto", "--epochs", "5", "--out", "run"]
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command("fit", *arguments)], cwd=arrays
    )
    assert closed.returncode == 0
    assert flowreg.load(arrays / "run").score(X, Y) > 0.3
    for path in (arrays / "run").glob("*.json"):
        json.loads(path.read_text())


def test_what_python_printed_before_comes_first():
    code = "import sys; from flowreg._cli import run; print('first'); sys.exit(run('fit', ['--version']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"first\nflowreg-fit {flowreg.__version__}\n")


def test_the_import_is_quick_and_leaves_the_process_as_it_is():
    code = """
import faulthandler, signal, sys
numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGBUS, signal.SIGPIPE)
before = [signal.getsignal(number) for number in numbers]
status = open("/proc/self/status").read() if sys.platform == "linux" else ""
import flowreg, flowreg._cli
assert [signal.getsignal(number) for number in numbers] == before
def caught(text): return [line for line in text.splitlines() if line.startswith("Sig")]
now = open("/proc/self/status").read() if sys.platform == "linux" else ""
assert caught(now) == caught(status), (caught(status), caught(now))
assert "sklearn" not in sys.modules and "numpy" not in sys.modules
assert flowreg.LogisticRegression.__module__ == "flowreg._logistic"
assert set(flowreg.__all__) <= set(dir(flowreg))
try:
    flowreg.nothing
except AttributeError as error:
    assert str(error) == "module 'flowreg' has no attribute 'nothing'"
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_build_without_programs_says_so(monkeypatch, capsys):
    from flowreg import _cli, _flowreg

    monkeypatch.delattr(_flowreg, "main")
    monkeypatch.delattr(_flowreg, "report")
    handler = signal.getsignal(signal.SIGINT)
    assert _cli.run("fit", []) == 69
    assert signal.getsignal(signal.SIGINT) is handler
    assert capsys.readouterr().err == (
        "flowreg-fit: this build of flowreg has no programs: install one with its default features\n"
    )
    with pytest.raises(ImportError, match="report: this build of flowreg has no programs"):
        flowreg.LogisticRegression().fit(X, Y).report("report.html")
