"""What `verify` and `doctor` find: a line each, for people."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    subject: str
    finding: str
    ok: bool = True


def lines(checks: Iterable[Check]) -> list[str]:
    """The checks as a table: whether it is as it should be, what, and what was found."""
    rows = list(checks)
    width = max((len(row.subject) for row in rows), default=0)
    return [f"  {'ok  ' if row.ok else 'FAIL'}  {row.subject:{width}}  {row.finding}".rstrip() for row in rows]
