"""Every curl command in the README and in docs/ returns the response that is printed below it."""

import json
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.live.conftest import serving
from tests.paths import ROOT


@dataclass(frozen=True)
class Example:
    section: str
    command: str
    answer: str


ROLL = "Roll a version out, and take it back"
"""The section whose examples follow one another, with the admin key SECRET."""


def examples() -> list[Example]:
    """Return each `$ curl ...` of a console block, with its continuation lines and the lines below it."""
    pages = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
    sections = re.split(r"^## ", "\n".join(page.read_text() for page in pages), flags=re.MULTILINE)
    return [example for section in sections for example in examples_of(*section.split("\n", 1))]


def examples_of(title: str, text: str) -> list[Example]:
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    commands = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    found = []
    for part in commands:
        match = re.match(r"(curl (?:[^\n]*\\\n)*[^\n]*\n)(.*)", part, re.DOTALL)
        if match:
            found.append(Example(title, match[1].replace("\\\n", ""), match[2].strip()))
    return found


def read(answer: str) -> Any:
    """JSON, in which `...` at the end of an object becomes a key."""
    return json.loads(re.sub(r"\.\.\.}", '"...": "..."}', answer))


def alike(found: Any, printed: Any) -> bool:
    """Equal, but for the last digits of numbers and what `...` leaves out: a value, or the other keys."""
    if printed == "...":
        return True
    if isinstance(printed, dict):
        named = {key: value for key, value in printed.items() if key != "..."}
        return (
            isinstance(found, dict)
            and (found.keys() >= named.keys() if "..." in printed else found.keys() == named.keys())
            and all(alike(found[key], value) for key, value in named.items())
        )
    if isinstance(printed, list):
        return isinstance(found, list) and len(found) == len(printed) and all(map(alike, found, printed))
    if isinstance(printed, float):
        return bool(found == pytest.approx(printed, rel=1e-2, abs=1e-3))
    return bool(found == printed)


def test_the_readme_has_an_example_of_every_task() -> None:
    for task in ("digits", "sentiment", "mammogram", "fashion"):
        assert any(f"/v1/{task}" in example.command for example in examples())


@pytest.mark.parametrize(
    "example", [each for each in examples() if each.section != ROLL], ids=lambda example: example.command[:60]
)
def test_the_answer_is_the_one_printed(server: str, example: Example, tmp_path: Path) -> None:
    answers(server, example, tmp_path)


def test_a_version_is_rolled_out_and_taken_back(tmp_path: Path) -> None:
    steps = [each for each in examples() if each.section == ROLL]
    assert any("/unload" in each.command for each in steps)
    with serving(tmp_path / "log", admin_keys="SECRET") as url:
        for example in steps:
            answers(url, example, tmp_path)


def answers(server: str, example: Example, tmp_path: Path) -> None:
    words = [
        word.replace("http://localhost:3000", server).replace("localhost:3000", server.removeprefix("http://"))
        for word in shlex.split(example.command)
    ]
    if "-o" in words:
        words[words.index("-o") + 1] = str(tmp_path / "answer")
    done = subprocess.run([*words, "-sS"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    if example.answer:
        assert alike(json.loads(done.stdout), read(example.answer)), done.stdout
    else:
        assert (tmp_path / "answer").read_bytes().startswith(b"\x89PNG")
