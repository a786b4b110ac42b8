"""Tests of check_pages.py: python docs/test_check_pages.py"""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

CHECKER = Path(__file__).with_name("check_pages.py")


def check(pages: dict[str, str]) -> tuple[int, str]:
    """The exit code of the checker on pages, by their names, and what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in pages]
        for path in paths:
            path.write_text(pages[path.name])
        done = subprocess.run(
            [sys.executable, str(CHECKER), *map(str, paths)], capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr


class Pages(unittest.TestCase):
    def passes(self, pages: str | dict[str, str], expected: str) -> None:
        code, output = check(pages if isinstance(pages, dict) else {"page.md": pages})
        self.assertEqual(code, 0, output)
        self.assertIn(expected, output)

    def fails(self, text: str, expected: str) -> None:
        code, output = check({"page.md": text})
        self.assertEqual(code, 1, output)
        self.assertIn(expected, output)

    def test_blocks_share_a_folder_and_a_namespace(self) -> None:
        page = """
```sh
echo 7 >number
```
- In a list:
  ```python
  number = int(open("number").read())
  ```
```python
assert number == 7
```
"""
        self.passes(page, "3 blocks run, 0 marked as not run, 0 faults")

    def test_a_block_that_fails_is_a_fault(self) -> None:
        self.fails("```sh\nfalse\ntrue\n```\n", "page.md:2: exit code 1")
        self.fails("```sh\nfalse | cat\n```\n", "page.md:2: exit code 1")
        self.fails("```python\n1 / 1\n1 / 0\n```\n", 'page.md", line 3')
        for ends in ("raise SystemExit(0)", "import sys; sys.exit()"):
            self.fails(f"```python\n{ends}\n```\n```sh\ntrue\n```\n", "page.md:2: it ends")

    def test_a_page_sees_nothing_of_another(self) -> None:
        leaves = "```sh\ntouch left\n```\n```python\nleft = 1\n```\n"
        seeks = "```sh\ntest ! -e left\n```\n```python\nassert 'left' not in globals()\n```\n"
        self.passes({"a.md": leaves, "b.md": seeks}, "2 pages: 4 blocks run")

    def test_a_marked_block_is_not_run(self) -> None:
        page = "<!-- not run: needs a cluster -->\n```sh\nfalse\n```\n"
        self.passes(page, "page.md:3: needs a cluster")
        self.passes(page, "0 blocks run, 1 marked as not run, 0 faults")

    def test_a_mark_needs_a_reason_and_a_block(self) -> None:
        for mark in ("<!-- not run -->", "<!-- not run: -->", "<!-- not run:  -->"):
            self.fails(f"{mark}\n```sh\ntrue\n```\n", "expected <!-- not run: REASON -->")
        for behind in ("", "Text.\n", "```text\n```\n"):
            self.fails(f"<!-- not run: slow -->\n\n{behind}", "the mark is not followed")
        between = "<!-- not run: slow -->\n\nText.\n\n```sh\ntrue\n```\n"
        self.fails(between, "the mark is not followed")

    def test_a_block_of_another_language_is_refused(self) -> None:
        self.passes("```text\n$\n```\n```rust,no_run\n```\n```{toctree}\n```\n", "0 blocks run")
        for language in ("bash", "console", "py", "python3", "SH"):
            self.fails(f"```{language}\ntrue\n```\n", f"a block of `{language}`")

    def test_blocks_of_ci_are_left_to_it(self) -> None:
        page = "<!-- ci:begin -->\n```sh\ncargo none\n```\n<!-- ci:end -->\n```sh\ntrue\n```\n"
        self.passes({"README.md": page}, "1 blocks run, 1 marked as not run")
        self.fails(page, ".ci/run reads README.md alone")
        self.fails("<!-- ci:begin -->\n```sh\ncargo none\n```\n", "without <!-- ci:end -->")
        page = "<!-- ci:begin -->\n```sh\ntrue\n```\n<!-- ci:end -->\n"
        code, output = check({"README.md": page})
        self.assertEqual(code, 1, output)
        self.assertIn("begin with `cargo ` alone", output)

    def test_rust_is_compiled(self) -> None:
        self.fails("```rust,ignore\nfn main() {}\n```\n", "expected rust or rust,no_run")

    def test_links_have_a_text(self) -> None:
        self.passes({"page.md": "See [the other](other.md).\n", "other.md": "Text.\n"}, "0 faults")
        self.fails("See [](page.md).\n", "page.md:1: a link without text")

    def test_links_have_a_form_and_files_exist(self) -> None:
        self.passes("[a](https://example.org/b#c) [d](#e) [f](page.md)\n", "0 faults")
        for target in ("http://example.org", "https://", "https://host/a", "ftp://example.org"):
            self.fails(f"[a]({target})\n", f"{target}: expected https")
        self.fails("[a](missing.md)\n", "missing.md: no such file")


if __name__ == "__main__":
    unittest.main()
