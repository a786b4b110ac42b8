#!/usr/bin/env python3
"""Run the code of pages: every ```sh and ```python block, in order, in one new folder for each page.

The Python blocks of a page share one namespace. A block that cannot run has a comment before it:

    <!-- not run: REASON -->

Links to files are checked on pages that Sphinx does not build. Of other links the form is checked; the
network is not used.

Usage: check_pages.py PAGE...
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent
RUN = ("sh", "python")
# A directive of MyST begins with a brace.
SHOWN = ("", "text", "json", "csv", "c", "rust")
# rustdoc compiles the Rust code of the pages that this file names.
RUSTDOC = ROOT / "src/lib.rs"
# Pages whose blocks another test runs.
RUN_BY = {ROOT / "docs/guides/clusters.md": "tests/mpi.rs"}
# Blocks of README between these comments are run by .ci/run.
BEGIN, END = "<!-- ci:begin -->", "<!-- ci:end -->"
SECONDS = 300


@dataclass
class Block:
    language: str
    code: str
    # Number of the code's first line.
    line: int
    # Why it is not run.
    reason: str | None = None


@dataclass
class Page:
    path: Path
    blocks: list[Block] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def fault(self, line: int, text: str) -> None:
        self.faults.append(f"{self.path}:{line}: {text}")


def read(path: Path) -> Page:
    """The blocks of a page, and what is wrong in its marks, languages and links."""
    page = Page(path)
    mark: tuple[int, str] | None = None
    run_elsewhere = False
    for token in MarkdownIt("commonmark").parse(path.read_text()):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "fence":
            language, *flags = [part.strip() for part in token.info.split(",")]
            if language in RUN:
                block = Block(language, token.content, line + 1, mark and mark[1])
                if block.reason is None and run_elsewhere:
                    block.reason = "run by .ci/run"
                    if not all(code.startswith("cargo ") for code in token.content.splitlines()):
                        page.fault(line, ".ci/run runs lines that begin with `cargo ` alone")
                elif block.reason is None and language == "sh" and path in RUN_BY:
                    block.reason = f"run by {RUN_BY[path]}"
                page.blocks.append(block)
                mark = None
            elif language == "rust" and flags not in ([], ["no_run"]):
                page.fault(line, f"a block of `{token.info}`; expected rust or rust,no_run, which are compiled")
            elif language == "rust" and path.is_relative_to(ROOT):
                name = f"../{path.relative_to(ROOT)}"
                if f'include_str!("{name}")' not in RUSTDOC.read_text():
                    page.fault(line, f"expected {name} in src/lib.rs, which compiles its Rust code")
            elif language not in SHOWN and not language.startswith("{"):
                known = ", ".join(filter(None, (*RUN, *SHOWN)))
                page.fault(line, f"a block of `{language}`; expected one of {known}")
        if mark is not None:
            page.fault(mark[0], "the mark is not followed by a block of sh or python")
            mark = None
        if token.type == "html_block":
            run_elsewhere = read_limits(page, token.content, line, run_elsewhere)
            if "not run" in token.content:
                found = re.fullmatch(r"<!-- not run: (\S.*\S) -->", token.content.strip())
                if found:
                    mark = (line, found[1])
                else:
                    page.fault(line, "expected <!-- not run: REASON --> in a line of its own")
        children = token.children or []
        for child, following in zip(children, children[1:]):
            if child.type == "link_open":
                check_link(page, line, str(child.attrs["href"]))
                if following.type == "link_close":
                    page.fault(line, "a link without text: Sphinx fills it in, and other viewers of Markdown do not")
    if mark is not None:
        page.fault(mark[0], "the mark is not followed by a block of sh or python")
    if run_elsewhere:
        page.fault(0, f"{BEGIN} without {END}")
    return page


def read_limits(page: Page, comment: str, line: int, inside: bool) -> bool:
    """Whether the blocks after this comment are those of .ci/run."""
    if comment.strip() == BEGIN:
        if page.path.name != "README.md":
            page.fault(line, ".ci/run reads README.md alone")
        return True
    return inside and comment.strip() != END


def check_link(page: Page, line: int, target: str) -> None:
    parts = urlsplit(target)
    if parts.scheme in ("http", "https"):
        if parts.scheme != "https" or "." not in (parts.hostname or ""):
            page.fault(line, f"{target}: expected https and the name of a host")
    elif parts.scheme:
        page.fault(line, f"{target}: expected https, or a file")
    elif parts.path and not page.path.is_relative_to(ROOT / "docs"):
        if not (page.path.parent / parts.path).exists():
            page.fault(line, f"{target}: no such file")


def run_blocks(page: Page) -> None:
    """Run the blocks of a page in this process, in the current folder."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in page.blocks:
        if block.reason is not None:
            continue
        sys.stderr.flush()
        sys.stdout.flush()
        if block.language == "sh":
            command = ["bash", "-e", "-o", "pipefail", "-c", block.code]
            code = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
            if code != 0:
                sys.exit(f"{page.path}:{block.line}: exit code {code}")
        else:
            # The empty lines make the numbers of lines in a traceback those of the page.
            source = "\n" * (block.line - 1) + block.code
            try:
                exec(compile(source, str(page.path), "exec"), namespace)
            except SystemExit as error:
                sys.exit(f"{page.path}:{block.line}: it ends the process: exit code {error.code}")


def check(path: Path) -> Page:
    """Read a page and run its blocks in a process and a folder of its own."""
    page = read(path)
    ran = [block for block in page.blocks if block.reason is None]
    if not page.faults and ran:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            process = subprocess.Popen(
                [sys.executable, __file__, "--in-this-folder", str(path)],
                cwd=folder,
                env={**os.environ, "MPLBACKEND": "Agg"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                # A group of its own, which is ended with all that blocks started.
                start_new_session=True,
            )
            try:
                output = process.communicate(timeout=SECONDS)[0]
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                print(process.communicate()[0])
                page.fault(0, f"its blocks took more than {SECONDS} s, see above")
            else:
                if process.returncode != 0:
                    print(output)
                    page.fault(0, "a block failed, see above")
        print(f"{shown(path)}: {len(ran)} blocks, {time.monotonic() - begun:.1f} s", flush=True)
    return page


def shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] == "--in-this-folder":
        # Modules are imported from this folder, as by a script in it.
        sys.path[0] = ""
        run_blocks(read(Path(arguments[1])))
        return 0
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 64
    pages = [check(Path(argument).resolve()) for argument in arguments]
    blocks = [(page, block) for page in pages for block in page.blocks]
    marked = [(page, block) for page, block in blocks if block.reason is not None]
    for page, block in marked:
        print(f"not run: {shown(page.path)}:{block.line}: {block.reason}")
    faults = [fault for page in pages for fault in page.faults]
    print(
        f"{len(pages)} pages: {len(blocks) - len(marked)} blocks run, "
        f"{len(marked)} marked as not run, {len(faults)} faults"
    )
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
