"""What people read of a version is what its card says, and what a card says is complete."""

import re
import shutil
from pathlib import Path

import pytest

from service.registry.card import Card, digests
from tests.paths import MODELS, ROOT
from training import cards, evaluate
from training.__main__ import main
from training.ledger import earlier_uses, graph_digest, ledger_of, record_use

VERSIONS = sorted(path.parent for path in MODELS.glob("*/*/card.json"))


def status(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


def test_every_page_and_the_table_of_the_readme_are_those_of_the_cards() -> None:
    assert evaluate.render_all(MODELS, ROOT / "README.md", check=True) == []


def test_a_stale_page_or_table_is_found_and_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = Path(shutil.copytree(MODELS, tmp_path / "models"))
    readme = Path(shutil.copyfile(ROOT / "README.md", tmp_path / "README.md"))
    command = ("cards", "--models-dir", models, "--readme", readme)
    assert status(*command, "--check") == 0
    page = models / "digits" / "2" / "README.md"
    fresh = page.read_text()
    page.write_text(fresh.replace("0.99", "0.98"))
    readme.write_text(readme.read_text().replace("99.63 %", "99.93 %", 1))
    assert status(*command, "--check") == 1
    told = capsys.readouterr().out
    assert str(page) in told
    assert str(readme) in told
    assert status(*command) == 0
    assert page.read_text() == fresh
    assert readme.read_text() == (ROOT / "README.md").read_text()
    assert Card.read(page.parent).files == digests(page.parent)


@pytest.mark.parametrize("directory", VERSIONS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_page_says_how_good_on_what_and_how_to_ask(directory: Path) -> None:
    card, page = Card.read(directory), (directory / "README.md").read_text()
    for name, figure in card.figures.items():
        assert re.search(rf"^\| {name.replace('_', ' ')} \| {re.escape(cards._number(figure.value))} ", page, re.M), (
            name
        )
    for said in (*card.limits, *card.baselines, *card.subgroups, *card.data[0].checksums, *card.test_uses, "curl"):
        assert said in page
    assert all((directory / plot).is_file() for plot in re.findall(r"\]\((\w+\.png)\)", page))
    assert card.baselines
    assert card.subgroups
    assert card.provenance[0].action == "trained"
    assert card.provenance[-1].action == "measured"
    for step in card.provenance:
        assert re.fullmatch(r"[0-9a-f]{40}", step.commit), step
    for source in card.data:
        assert source.origins.keys() == source.checksums.keys()
        assert all(source.origins.values())


def test_the_command_on_a_card_is_one_that_the_command_line_takes() -> None:
    for directory in VERSIONS:
        words = Card.read(directory).training.command.split()
        assert words[:3] == ["python", "-m", "training"]
        assert status(*words[3:], "--epochs", "0") == 2  # refused for this alone


def test_looks_at_test_rows_are_kept_across_versions(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path / "models", "digits")
    first, second = (MODELS / "digits" / number for number in "12")
    record_use(ledger, first, "accuracy 0.9897")
    record_use(ledger, first, "measured again")
    record_use(ledger, second, "accuracy 0.9963")
    assert [use[12:] for use in earlier_uses(ledger, graph_digest(second))] == ["accuracy 0.9897"]
    assert len(earlier_uses(ledger, "another graph")) == 2
