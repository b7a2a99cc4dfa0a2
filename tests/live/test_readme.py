"""Every curl of the README gives the answer that is printed under it."""

import json
import re
import shlex
import subprocess
from dataclasses import dataclass
from typing import Any

import pytest

from tests.live.conftest import ROOT


@dataclass(frozen=True)
class Example:
    command: str
    answer: str


def examples() -> list[Example]:
    """Each `$ curl ...` of a console block, continuation lines included, and the lines below it."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    commands = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    found = []
    for part in commands:
        match = re.match(r"(curl (?:[^\n]*\\\n)*[^\n]*\n)(.*)", part, re.DOTALL)
        if match:
            found.append(Example(match[1].replace("\\\n", ""), match[2].strip()))
    return found


def alike(found: Any, printed: Any) -> bool:
    """Equal, but for the last digits of numbers and what `...` leaves out."""
    if printed == "...":
        return True
    if isinstance(printed, dict):
        return isinstance(found, dict) and all(key in found and alike(found[key], printed[key]) for key in printed)
    if isinstance(printed, list):
        return isinstance(found, list) and len(found) == len(printed) and all(map(alike, found, printed))
    if isinstance(printed, float):
        return bool(found == pytest.approx(printed, rel=1e-2, abs=1e-3))
    return bool(found == printed)


def test_the_readme_has_an_example_of_every_task() -> None:
    for task in ("digits", "sentiment", "mammogram", "fashion"):
        assert any(f"/v1/{task}" in example.command for example in examples())


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.command[:60])
def test_the_answer_is_the_one_printed(server: str, example: Example, tmp_path: Any) -> None:
    words = [
        word.replace("http://localhost:3000", server).replace("localhost:3000", server.removeprefix("http://"))
        for word in shlex.split(example.command)
    ]
    if "-o" in words:
        words[words.index("-o") + 1] = str(tmp_path / "answer")
    done = subprocess.run([*words, "-sS"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    if example.answer:
        assert alike(json.loads(done.stdout), json.loads(example.answer)), done.stdout
    else:
        assert (tmp_path / "answer").read_bytes().startswith(b"\x89PNG")
