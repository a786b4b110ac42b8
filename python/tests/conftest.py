"""What is skipped is counted where `.ci/run` counts it."""

import os
import signal

# A shell that runs the tests in the background lets them ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Pictures are drawn into memory.
os.environ["MPLBACKEND"] = "agg"


def pytest_runtest_logreport(report):
    log = os.environ.get("FLOWREG_SKIPPED_LOG")
    if report.skipped and log:
        with open(log, "a") as lines:
            lines.write(f"python: {report.nodeid}: {report.longrepr[2]}\n")
