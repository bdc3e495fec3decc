"""docs/benchmarks.md and its pages: every command's options exist."""

from __future__ import annotations

import importlib
import re
import shlex
from argparse import ArgumentParser
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "docs" / "benchmarks.md", *sorted((ROOT / "docs" / "benchmarks").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES).replace("\\\n", " ")
COMMANDS = [shlex.split(line, comments=True)
            for line in re.findall(r"^    (?:\S*/)?python benchmarks/(\w+\.py.*)$", TEXT, re.MULTILINE)]  # fmt: skip


class ParsedError(Exception):
    """Instead of what a script does with its arguments."""


def script_of(name: str) -> ModuleType:
    try:
        return importlib.import_module(name.removesuffix(".py"))
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] != "monailabel":
            raise
        pytest.skip(f"{name} needs the label server's environment")


def test_all_are_found():
    assert len(COMMANDS) > 25
    assert {"ablations.py", "step.py", "plain.py", "inference.py"} <= {words[0] for words in COMMANDS}


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:60])
def test_the_script_takes_them(words, monkeypatch):
    parse = ArgumentParser.parse_args

    def parse_alone(parser, argv=None):
        raise ParsedError(parse(parser, argv))

    script = script_of(words[0])
    monkeypatch.setattr(ArgumentParser, "parse_args", parse_alone)
    with pytest.raises(ParsedError) as caught:
        script.main(words[1:])
    for name in ("config", "recipe"):
        found = getattr(caught.value.args[0], name, None) or []
        for path in [found] if isinstance(found, (str, Path)) else found:
            assert (ROOT / path).is_file(), path
