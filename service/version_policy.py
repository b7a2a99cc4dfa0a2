"""What models and their versions are called, and which versions are loaded: as settings, paths and requests say it."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

MODEL = r"[a-z][a-z0-9-]{0,63}"
VERSION = r"[1-9][0-9]{0,8}"

ModelName = Annotated[str, Field(pattern=rf"^{MODEL}$")]
VersionNumber = Annotated[str, Field(pattern=rf"^{VERSION}$")]

_LATEST = re.compile(rf"latest ({VERSION})")


@dataclass(frozen=True)
class VersionPolicy:
    """`latest N`, the newest N that prove themselves; `all`; or a list of versions."""

    most: int | None = 2
    """How many, the newest first; None for no bound."""
    listed: tuple[int, ...] | None = None
    """Which; None for any."""

    @classmethod
    def parse(cls, value: object) -> "VersionPolicy":
        """The policy that `value` says: "latest 2", "all" or [1, 3].

        Raises:
            ValueError: it says none.
        """
        if isinstance(value, cls):
            return value
        if value == "all":
            return cls(most=None)
        if isinstance(value, str) and (latest := _LATEST.fullmatch(value)):
            return cls(most=int(latest[1]))
        if isinstance(value, list | tuple) and value and all(re.fullmatch(VERSION, str(each)) for each in value):
            return cls(most=None, listed=tuple(sorted({int(str(each)) for each in value})))
        raise ValueError(f'"latest N", "all" or a list of versions, not {value!r}')

    @property
    def spelling(self) -> str | list[int]:
        """What `parse` reads."""
        if self.listed is not None:
            return list(self.listed)
        return "all" if self.most is None else f"latest {self.most}"

    def __str__(self) -> str:
        return f"only {', '.join(map(str, self.listed))}" if self.listed is not None else str(self.spelling)

    def chooses(self, number: str, newer: int, on_trial: Collection[str] = ()) -> bool:
        """Whether a version is to be loaded.

        Args:
            number: the version.
            newer: how many newer ones, none of them on trial, are.
            on_trial: versions that do not count among the latest, but are loaded beside them.
        """
        if self.listed is not None:
            return int(number) in self.listed
        return number in on_trial or self.most is None or newer < self.most

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Settings are read by `parse`."""
        return core_schema.no_info_plain_validator_function(cls.parse)
