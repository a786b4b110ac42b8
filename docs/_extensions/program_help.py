"""The directive `program-help`: the options of a program, from what it prints for --help.

Every option gets an entry that the role `option` links to: {option}`flowreg-fit --lr`. Help that cannot
be read ends the build.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

# Words of a description that are code: options, files and values of an environment.
OPTION = re.compile(r"--[A-Za-z][A-Za-z0-9-]*")
CODE = re.compile(
    r"(?:--[A-Za-z][A-Za-z0-9-]*"
    r"|\b[\w.]+\.(?:npy|npz|jsonl?|html|safetensors|onnx|checkpoint|svg|png|mat|tgz)(?::NAME)?\b"
    r"|\bFLOWREG_[A-Z0-9_]+|\b[A-Z]+_PROXY\b|\bflowreg-[a-z]+\b)"
)


@dataclass
class Entry:
    """A command, an argument or an option."""

    usage: str
    paragraphs: list[str] = field(default_factory=list)


@dataclass
class Help:
    about: list[str] = field(default_factory=list)
    usage: list[str] = field(default_factory=list)
    # Entries by heading; "Commands" is one of the headings.
    groups: dict[str, list[Entry]] = field(default_factory=dict)
    # What follows the options: paragraphs, or lines of examples.
    after: list[str | list[str]] = field(default_factory=list)


def parse(program: str, text: str) -> Help:
    """Read the long help of a program made with clap."""

    def wrong(line: str) -> ExtensionError:
        return ExtensionError(f"{program} --help: cannot read the line {line!r}")

    found = Help()
    entries: list[Entry] | None = None
    # Behind the last group there are paragraphs, and indented examples.
    is_after = False
    is_new_paragraph = True
    for line in text.rstrip().split("\n"):
        indent = len(line) - len(line.lstrip(" "))
        words = line.strip()
        if not words:
            is_new_paragraph = True
        elif line.startswith("Usage: "):
            found.usage.append(line.removeprefix("Usage: "))
        elif found.usage and not found.groups and indent == 7:
            found.usage.append(words)
        elif not found.usage:
            add(found.about, words, is_new_paragraph)
            is_new_paragraph = False
        elif indent == 0 and words.endswith(":") and words != "Examples:" and not is_after:
            entries = found.groups.setdefault(words[:-1], [])
        elif indent == 0:
            is_after = True
            add(found.after, words, is_new_paragraph)
            is_new_paragraph = False
        elif is_after:
            if isinstance(found.after[-1], str):
                found.after.append([])
            found.after[-1].append(words)
        elif entries is None:
            raise wrong(line)
        elif indent in (2, 6) and re.match(r"-|<|\[|[a-z0-9]+  ", words):
            # A short description is in the same line.
            usage, *rest = re.split(r"  +", words, maxsplit=1)
            entries.append(Entry(usage, rest))
            is_new_paragraph = not rest
        elif indent > 6 and entries:
            add(entries[-1].paragraphs, words, is_new_paragraph or words.startswith("- "))
            is_new_paragraph = False
        else:
            raise wrong(line)
    if not found.usage or not found.groups:
        raise ExtensionError(f"{program} --help: found no usage or no options")
    for name, group in found.groups.items():
        for entry in group:
            if not entry.paragraphs:
                raise ExtensionError(f"{program} --help: {name}: {entry.usage} has no description")
        if not group:
            raise ExtensionError(f"{program} --help: {name} has no entries")
    return found


def add(paragraphs: list[Any], words: str, is_new: bool) -> None:
    """Add a line to the last paragraph, or begin one."""
    if is_new or not paragraphs or not isinstance(paragraphs[-1], str):
        paragraphs.append(words)
    else:
        paragraphs[-1] += f" {words}"


@cache
def help_of(program: str) -> Help:
    """The long help of a program, or of a command as in "flowreg-fit export"."""
    try:
        done = subprocess.run(
            [*program.split(), "--help"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise ExtensionError(f"{program} --help: {error}") from error
    return parse(program, done.stdout)


def parts(paragraphs: list[str]) -> list[str]:
    """The paragraphs; an example, the default and the possible values are in some of their own."""
    result = []
    for text in paragraphs:
        behind = []
        while found := re.fullmatch(r"(.*?) ?\[(default|possible values): ([^]]*)\]", text):
            text = found[1]
            behind.insert(0, f"{found[2].capitalize()}: {found[3]}")
        text, separator, example = text.partition("Example: ")
        result += filter(None, (text.strip(), separator + example, *behind))
    return result


class ProgramHelp(SphinxDirective):
    """``{program-help} PROGRAM``: sections for its options and its commands."""

    required_arguments = 1
    final_argument_whitespace = False

    def run(self) -> list[nodes.Node]:
        program = self.arguments[0]
        found = help_of(program)
        result = self.front(program, found)
        examples = self.section("Examples")
        examples += self.back(program, found)
        result.append(examples)
        result += self.sections(program, found)
        for command in found.groups.get("Commands", []):
            # clap's own command prints what --help prints.
            if command.usage != "help":
                result.append(self.command(found, f"{program} {command.usage}"))
        return result

    def command(self, parent: Help, program: str) -> nodes.Node:
        found = help_of(program)
        section = self.section(program)
        section += self.front(program, found)
        # Options that the program has for all commands are listed once.
        common = [entry for group in parent.groups.values() for entry in group]
        groups = {
            name: [
                entry
                for entry in entries
                if entry not in common and not entry.usage.startswith("-h")
            ]
            for name, entries in found.groups.items()
        }
        for name, entries in groups.items():
            if entries:
                section += [nodes.rubric(name, name), self.entries(program, entries)]
        section += self.back(program, found)
        return section

    def front(self, program: str, found: Help) -> list[nodes.Node]:
        usage = "\n".join(found.usage)
        # clap removes the full stop of a single sentence.
        about = [text if text.endswith(".") else f"{text}." for text in found.about]
        return [
            *(nodes.paragraph("", "", *self.inline(program, text)) for text in about),
            nodes.literal_block(usage, usage, language="text"),
        ]

    def sections(self, program: str, found: Help) -> list[nodes.Node]:
        result = []
        for name, entries in found.groups.items():
            if name != "Commands":
                section = self.section(name)
                section += self.entries(program, entries)
                result.append(section)
        return result

    def section(self, title: str) -> nodes.section:
        section = nodes.section("", nodes.title(title, title))
        section["ids"].append(nodes.make_id(title))
        section["names"].append(nodes.fully_normalize_name(title))
        self.state.document.note_implicit_target(section, section)
        return section

    def entries(self, program: str, entries: list[Entry]) -> nodes.Node:
        """A list with an anchor for each option."""
        result = nodes.definition_list(classes=["options"])
        for entry in entries:
            term = nodes.term("", "", nodes.literal(entry.usage, entry.usage))
            names = OPTION.findall(entry.usage)
            if names:
                identifier = nodes.make_id(f"{program}-{names[0].removeprefix('--')}")
                term["ids"].append(identifier)
                term += nodes.reference("", "¶", refid=identifier, classes=["headerlink"])
                standard = self.env.domains.standard_domain
                for name in names:
                    standard.add_program_option(
                        program.replace(" ", "-"), name, self.env.docname, identifier
                    )
            body = nodes.definition()
            for text in parts(entry.paragraphs):
                if text.startswith("Example: "):
                    command = text.removeprefix("Example: ")
                    body += nodes.literal_block(command, command, language="sh")
                else:
                    body += nodes.paragraph("", "", *self.inline(program, text))
            result += nodes.definition_list_item("", term, body)
        return result

    def back(self, program: str, found: Help) -> list[nodes.Node]:
        result: list[nodes.Node] = []
        for part in found.after:
            if isinstance(part, list):
                text = "\n".join(part)
                result.append(nodes.literal_block(text, text, language="sh"))
            elif part != "Examples:":
                result.append(nodes.paragraph("", "", *self.inline(program, part)))
        return result

    def inline(self, program: str, text: str) -> list[nodes.Node]:
        """Text whose options and file names are code, and whose options of the program are links."""
        result: list[nodes.Node] = []
        known = {
            name
            for entries in help_of(program).groups.values()
            for entry in entries
            for name in OPTION.findall(entry.usage)
        }
        for part in re.split(f"({CODE.pattern})", text):
            if CODE.fullmatch(part) is None:
                result.append(nodes.Text(part))
                continue
            code = nodes.literal(part, part)
            if part in known:
                link = addnodes.pending_xref(
                    "", code, refdomain="std", reftype="option", reftarget=part, refwarn=True
                )
                link["refdoc"] = self.env.docname
                link["std:program"] = program.replace(" ", "-")
                result.append(link)
            else:
                result.append(code)
        return result


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("program-help", ProgramHelp)
    return {"version": "1", "parallel_read_safe": True}
