"""Tests of _extensions/program_help.py: python docs/test_program_help.py"""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

from program_help import Entry, parse, parts
from sphinx.errors import ExtensionError

SHORT = """\
Fit a model to a dataset

Usage: fit [OPTIONS] --out <RUN>
       fit <COMMAND>

Commands:
  export  Write a model as
          files

Options:
      --out <RUN>  Directory to write
  -h, --help       Print help

Converged fits (--optimizer newton):
      --l2 <VALUE>
          Penalty of a fit: a number, or auto, chosen by rows
          that are not fitted [default: 1]

Examples:
  fit --out run
  fit --l2 2 --out run

Exit codes: 0 done,
65 bad input.
"""
LONG = """\
Predict classes

Usage: predict <MODEL>

Arguments:
  <MODEL>
          Run directory

Options:
      --top <K>
          Number of classes
          
          [default: 5]

  -h, --help
          Print help
"""


class Help(unittest.TestCase):
    def test_short_help_is_read(self) -> None:
        found = parse("fit", SHORT)
        self.assertEqual(found.about, ["Fit a model to a dataset"])
        self.assertEqual(found.usage, ["fit [OPTIONS] --out <RUN>", "fit <COMMAND>"])
        self.assertEqual(
            found.groups,
            {
                "Commands": [Entry("export", ["Write a model as files"])],
                "Options": [
                    Entry("--out <RUN>", ["Directory to write"]),
                    Entry("-h, --help", ["Print help"]),
                ],
                "Converged fits (--optimizer newton)": [
                    Entry(
                        "--l2 <VALUE>",
                        [
                            "Penalty of a fit: a number, or auto, chosen by rows that are not "
                            "fitted [default: 1]"
                        ],
                    )
                ],
            },
        )
        examples = ["fit --out run", "fit --l2 2 --out run"]
        self.assertEqual(found.after, ["Examples:", examples, "Exit codes: 0 done, 65 bad input."])

    def test_long_help_is_read(self) -> None:
        found = parse("predict", LONG)
        self.assertEqual(found.groups["Arguments"], [Entry("<MODEL>", ["Run directory"])])
        top = Entry("--top <K>", ["Number of classes", "[default: 5]"])
        self.assertEqual(found.groups["Options"], [top, Entry("-h, --help", ["Print help"])])

    def test_defaults_and_examples_are_parts(self) -> None:
        text = "Rows to fit. Example: fit --refit all [default: train] [possible values: train, all]"
        expected = [
            "Rows to fit.",
            "Example: fit --refit all",
            "Default: train",
            "Possible values: train, all",
        ]
        self.assertEqual(parts([text]), expected)

    def test_what_cannot_be_read_is_an_error(self) -> None:
        for text, expected in [
            ("", "no usage"),
            ("Usage: fit\n", "no usage or no options"),
            ("Usage: fit\n\n    --out <RUN>  Directory\n", "cannot read the line"),
            ("Usage: fit\n\nOptions:\n    --out <RUN>  Directory\n", "cannot read the line"),
            ("Usage: fit\n\nOptions:\n      --out <RUN>\n", "--out <RUN> has no description"),
            ("Usage: fit\n\nOptions:\n\nExamples:\n  fit\n", "Options has no entries"),
        ]:
            with self.assertRaisesRegex(ExtensionError, expected, msg=text):
                parse("fit", text)


if __name__ == "__main__":
    unittest.main()
