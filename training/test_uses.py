"""The ledger of looks at test rows: each one, by any version of a model, is a chance to overfit them.

Training and evaluation write it, one JSON object a line, to `models/<name>/test_uses.jsonl`. Cards list the entries.
"""

import json
from pathlib import Path

from service.engine.card import GRAPHS, Card, digests
from training.run import now

LEDGER = "test_uses.jsonl"


def earlier_uses(model: Path, graph: str) -> tuple[str, ...]:
    """Return a sentence for each look by other graphs, oldest first; `model` is the folder `models/<name>`."""
    return tuple(f"{entry['when'][:10]}: {entry['text']}" for entry in _entries(model) if entry["graph"] != graph)


def record_use(model: Path, directory: Path, text: str) -> None:
    """Add a look by the reference graph in `directory`, unless the ledger has this graph already."""
    graph = graph_digest(directory)
    if all(entry["graph"] != graph for entry in _entries(model)):
        model.mkdir(parents=True, exist_ok=True)
        entries = [*_entries(model), {"when": now(), "graph": graph, "text": text}]
        scratch = model / f".{LEDGER}"
        scratch.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
        scratch.replace(model / LEDGER)


def describe_use(card: Card) -> str:
    """Return what a look by this version found: its main figure and its command."""
    name, figure = next(iter(card.figures.items()))
    return f"`{card.training.command}` had {name.replace('_', ' ')} {figure.value:.4f}"


def graph_digest(directory: Path) -> str:
    """Return the sha256 of the reference graph."""
    return digests(directory)[GRAPHS["float32"]]


def _entries(model: Path) -> list[dict[str, str]]:
    ledger = model / LEDGER
    return [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()] if ledger.exists() else []
