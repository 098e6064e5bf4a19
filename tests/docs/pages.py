"""Reads the pages of the documentation: code blocks and commands."""

import pathlib
import re
import shlex
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line where the text begins."""

    language: str
    text: str
    line: int


class Command(NamedTuple):
    """A call of a program, or options alone.

    Attributes:
      program: Module after `python -m`; empty for options that stand alone.
      words: What follows.
    """

    program: str
    words: list[str]


def read(page):
    return (ROOT / page).read_text()


def blocks(page):
    """The fenced blocks of a page, in order."""
    text = read(page)
    return [
        Block(match[2], match[3], text[: match.start(3)].count("\n") + 1)
        for match in _FENCE.finditer(text)
    ]


def _command(text):
    words = shlex.split(text)
    program = words[words.index("-m") + 1] if "-m" in words else ""
    if not program.startswith(("experiments.", "benchmarks.")):
        program = ""
    return Command(program, [word for word in words if word.startswith("--")])


def commands(page):
    """Calls of programs of this repository in blocks, and options in `code`."""
    text = read(page)
    lines = [
        line
        for block in blocks(page)
        if block.language in ("bash", "")
        for line in block.text.splitlines()
    ]
    text = _FENCE.sub("", text)
    lines += re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    found = [_command(line) for line in lines if "-m experiments" in line]
    found += [_command(line) for line in lines if "-m benchmarks" in line]
    for span in re.findall(r"`([^`]+)`", text):
        span = " ".join(span.split())
        if re.search(r"(^| )--\w|-m (experiments|benchmarks)\.", span):
            found.append(_command(span))
    return [command for command in found if command.program or command.words]
