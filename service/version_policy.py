"""The names of models and versions, and the policy that chooses which versions are loaded."""

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
    """`latest N`, the newest N versions that can be loaded; `all`; or a list of versions.

    `parse` and `str` convert it from and to text, `service.api.v2.configuration` from and to the JSON of clients.
    """

    most: int | None = 2
    """Number of versions, the newest first; None for no limit."""
    listed: tuple[int, ...] | None = None
    """The versions to load, ascending; None for any."""

    @classmethod
    def parse(cls, value: object) -> "VersionPolicy":
        """Parse "latest 2", "all" or a list such as [1, 3].

        Raises:
            ValueError: the value is none of them.
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

    def __str__(self) -> str:
        if self.listed is not None:
            return f"only {', '.join(map(str, self.listed))}"
        return "all" if self.most is None else f"latest {self.most}"

    def chooses(self, number: str, newer: int, on_trial: Collection[str] = ()) -> bool:
        """Return whether a version is to be loaded.

        Args:
            number: the version.
            newer: number of newer loaded versions that are not under trial.
            on_trial: versions under trial: they are loaded beside the latest, and do not count among them.
        """
        if self.listed is not None:
            return int(number) in self.listed
        return number in on_trial or self.most is None or newer < self.most

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Have pydantic read settings with `parse`."""
        return core_schema.no_info_plain_validator_function(cls.parse)
