#!/usr/bin/env python3
"""Times fits beside busy processes, with one thread and with two; needs no third-party packages.

    python tools/load.py [--busy 4] [--repeat 5] [--threads 1,2] BINARY[,BINARY...] NAME=ARGUMENTS...

It starts `--busy` processes that only count, and ends them at the end. Every case is an argument
such as "tall-10=--x x.npy --y y.npy --optimizer newton", to which `--threads`, `--out` and `--force`
are added. Binaries and numbers of threads take turns, so that other load on the machine affects all
of them alike. It prints one line for each case, binary and number of threads: the median of the wall
time in seconds, its range, user and system time, context switches (voluntary, involuntary), and the
ratio of the median to that of the first number of threads.
"""

import argparse
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time


def once(command):
    """Wall time and resource usage of a command, whose output is shown only if it fails."""
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            sys.exit(f"{shlex.join(command)}: exit code {process.returncode}\n{output.read().decode()}")
    return wall, usage.ru_utime, usage.ru_stime, usage.ru_nvcsw, usage.ru_nivcsw


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--busy", type=int, default=4, help="processes that only count")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", default="1,2", help="the first one is what others are held to")
    parser.add_argument("binaries", help="flowreg-fit, or several with commas between")
    parser.add_argument("cases", nargs="+", help="NAME=ARGUMENTS")
    args = parser.parse_args()
    binaries = args.binaries.split(",")
    threads = [int(count) for count in args.threads.split(",")]
    busy = [
        subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(args.busy)
    ]
    # Ended by a signal, the busy processes end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        print(f"{args.busy} busy processes, {os.cpu_count()} cores, median of {args.repeat}")
        for case in args.cases:
            name, _, arguments = case.partition("=")
            runs = {(binary, count): [] for count in threads for binary in binaries}
            with tempfile.TemporaryDirectory() as scratch:
                for _ in range(args.repeat):
                    for binary, count in runs:
                        out = ["--threads", str(count), "--out", f"{scratch}/run", "--force"]
                        command = [binary, *shlex.split(arguments), *out]
                        runs[binary, count].append(once(command))
            for (binary, count), found in runs.items():
                wall, user, system, voluntary, involuntary = map(statistics.median, zip(*found))
                walls = [run[0] for run in found]
                first = statistics.median(run[0] for run in runs[binary, threads[0]])
                print(
                    f"{name:12} {binary:32} {count} threads: {wall:7.3f} s"
                    f" ({min(walls):.3f} to {max(walls):.3f}), user {user:.2f}, system {system:.2f},"
                    f" switches {voluntary:.0f} + {involuntary:.0f}, ratio {wall / first:.2f}",
                    flush=True,
                )
    finally:
        for process in busy:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
