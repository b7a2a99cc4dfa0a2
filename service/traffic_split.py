"""Split the requests for a model: a fraction is sent, or copied, to another version.

A hash of the request id decides. All workers decide alike, and a client that repeats an id gets the same version again.
"""

from hashlib import blake2b
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.version_policy import VersionNumber

Purpose = Literal["canary", "shadow"]
"""What the requests are chosen for. The choices for the two purposes are independent."""

_BYTES = 6
"""Size of the hash: a float can represent its value exactly."""


class TrafficSplit(BaseModel):
    """A fraction of a model's requests, and the version that gets them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: VersionNumber
    share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

    def takes(self, request_id: str, purpose: Purpose) -> bool:
        """Return whether the request with this id is among them."""
        return share_of(request_id, purpose) < self.share


def share_of(request_id: str, purpose: Purpose) -> float:
    """Map a request id to [0, 1): uniformly, and always to the same number."""
    digest = blake2b(request_id.encode(), digest_size=_BYTES, person=purpose.encode()).digest()
    return int.from_bytes(digest) / (1 << 8 * _BYTES)
