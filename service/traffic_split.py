"""Which of a model's requests go to another version than they would, or are copied there: the same ones each time.

A request is chosen by a hash of its id alone, so that all workers agree, and who sends an id again meets the same
version again.
"""

from hashlib import blake2b
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.version_policy import VersionNumber

Purpose = Literal["canary", "shadow"]
"""What requests are chosen for; each choice is independent of the other."""

_BYTES = 6
"""Of the hash: as many as a float holds exactly."""


class TrafficSplit(BaseModel):
    """A share of a model's requests, and the version that gets them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: VersionNumber
    share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

    def takes(self, request_id: str, purpose: Purpose) -> bool:
        """Whether the request of this id is among them."""
        return share_of(request_id, purpose) < self.share


def share_of(request_id: str, purpose: Purpose) -> float:
    """Where in [0, 1) the request of this id lies: ids are spread evenly, and each always lies in the same place."""
    digest = blake2b(request_id.encode(), digest_size=_BYTES, person=purpose.encode()).digest()
    return int.from_bytes(digest) / (1 << 8 * _BYTES)
