"""The ledger of looks at test rows: each one, by any version of a model, is a chance to overfit them.

Training and evaluation write it, one JSON object a line, to `training/ledgers/<name>.jsonl` beside the folder of the
models. Cards list the entries.
"""

import json
from pathlib import Path

from service.registry.card import GRAPHS, Card, digests
from training.run import now


def ledger_of(models_dir: Path, name: str) -> Path:
    """Return the ledger of a model."""
    return models_dir.absolute().parent / "training" / "ledgers" / f"{name}.jsonl"


def earlier_uses(ledger: Path, graph: str) -> tuple[str, ...]:
    """Return a sentence for each look by other graphs than the one with the digest `graph`, oldest first."""
    return tuple(f"{entry['when'][:10]}: {entry['text']}" for entry in _entries(ledger) if entry["graph"] != graph)


def record_use(ledger: Path, directory: Path, text: str) -> None:
    """Add a look by the reference graph in `directory`, unless the ledger has this graph already."""
    graph = graph_digest(directory)
    if all(entry["graph"] != graph for entry in _entries(ledger)):
        ledger.parent.mkdir(parents=True, exist_ok=True)
        entries = [*_entries(ledger), {"when": now(), "graph": graph, "text": text}]
        scratch = ledger.with_suffix(".partial")
        scratch.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
        scratch.replace(ledger)


def describe_use(card: Card) -> str:
    """Return what a look by this version found: its main figure and its command."""
    name, figure = next(iter(card.figures.items()))
    return f"`{card.training.command}` had {name.replace('_', ' ')} {figure.value:.4f}"


def graph_digest(directory: Path) -> str:
    """Return the sha256 of the reference graph."""
    return digests(directory)[GRAPHS["float32"]]


def _entries(ledger: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()] if ledger.exists() else []
