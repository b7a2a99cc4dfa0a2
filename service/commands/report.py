"""What `verify` and `doctor` find: a line each, for people."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "FAIL"]
"""FAIL makes the command fail."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    subject: str
    finding: str
    verdict: Verdict = "ok"

    @property
    def failed(self) -> bool:
        """Whether it makes the command fail."""
        return self.verdict == "FAIL"


def lines(checks: Iterable[Check]) -> list[str]:
    """The checks as a table: whether it is as it should be, what, and what was found."""
    rows = list(checks)
    width = max((len(row.subject) for row in rows), default=0)
    further = "\n" + " " * (width + 10)
    return [
        f"  {row.verdict:4}  {row.subject:{width}}  {row.finding.replace(chr(10), further)}".rstrip() for row in rows
    ]
