"""The programs that came with the package, as processes."""

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(sys.executable).parent


def command(program, *arguments):
    return [str(SCRIPTS / f"flowreg-{program}"), *map(str, arguments)]


def run(program, *arguments, **options):
    """A program that is expected to succeed; what it prints."""
    done = subprocess.run(command(program, *arguments), capture_output=True, text=True, **options)
    assert done.returncode == 0, done
    return done.stdout
