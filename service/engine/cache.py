"""A cache of outputs for repeated inputs: one per model, bounded in bytes, with the least recently used evicted first.

The key is a digest of the preprocessed inputs, so all endpoints share the entries, and of the content of the version,
so a version replaced under the same number never gets the outputs of its predecessor.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256

from service.engine.batcher import Batcher
from service.engine.queue import RunTimings
from service.observability.observer import Observer
from service.tensors import Array, Tensors

ENTRY_BYTES = 450
"""Memory of an entry without its arrays."""
ARRAY_BYTES = 250
"""Memory of an array without its elements. Both are the growth of a process with 200,000 entries."""


@dataclass(slots=True)
class _Entry:
    outputs: Tensors
    size: int
    """Bytes of memory."""


class Cache:
    """The outputs of all versions of one model. Belongs to one event loop."""

    def __init__(self, max_bytes: int, observer: Observer | None = None) -> None:
        """Create an empty cache.

        Args:
            max_bytes: memory of all entries, including the overhead of each.
            observer: records the size and the evictions.
        """
        self.bytes = 0
        """Memory of the entries."""
        self._max_bytes = max_bytes
        self._observer = observer or Observer()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        """By key, the least recently used first."""

    def get(self, key: bytes) -> Tensors | None:
        """Return the outputs stored under `key`, read-only; None if there are none."""
        if (entry := self._entries.get(key)) is None:
            return None
        self._entries.move_to_end(key)
        return entry.outputs

    def put(self, key: bytes, outputs: Tensors) -> None:
        """Store a copy of `outputs`, unless it is larger than the whole cache may be."""
        size = ENTRY_BYTES + sum(ARRAY_BYTES + values.nbytes for values in outputs.values())
        if size > self._max_bytes:
            return
        bytes_before = self.bytes
        if (replaced := self._entries.pop(key, None)) is not None:  # of a concurrent request with the same inputs
            self.bytes -= replaced.size
        # A view would keep the outputs of the whole batch alive.
        self._entries[key] = _Entry({name: _read_only_copy(values) for name, values in outputs.items()}, size)
        self.bytes += size
        evicted = 0
        while self.bytes > self._max_bytes:
            self.bytes -= self._entries.popitem(last=False)[1].size
            evicted += 1
        if self.bytes != bytes_before:
            self._observer.holds(self.bytes)
        if evicted:
            self._observer.evicted(evicted)


class CachedBatcher:
    """A version's batcher behind the cache of its model: only outputs that are not cached are computed."""

    def __init__(self, batcher: Batcher, cache: Cache, content: bytes, observer: Observer | None = None) -> None:
        """Put `cache` in front of `batcher`.

        Args:
            batcher: computes the outputs that are not cached.
            cache: of the model, shared by its versions.
            content: identifies the content of the version; different for any other version.
            observer: records lookups.
        """
        self._batcher = batcher
        self._cache = cache
        self._content = sha256(content)
        self._observer = observer or Observer()

    async def submit(self, inputs: Tensors) -> tuple[Tensors, RunTimings | None]:
        """Return the outputs for `inputs`, like `Batcher.submit`. Cached outputs are read-only and have no timings.

        Raises:
            Unavailable: the outputs are not cached, and the queue is full.
        """
        started = time.perf_counter()
        key = self._key(inputs)
        cached = self._cache.get(key)
        lookup_seconds = time.perf_counter() - started
        if cached is not None:
            self._observer.hit(lookup_seconds)
            return cached, None
        self._observer.missed()
        outputs, timings = await self._batcher.submit(inputs)
        computed = time.perf_counter()
        self._cache.put(key, outputs)
        self._observer.kept(time.perf_counter() - computed + lookup_seconds)
        return outputs, timings

    def check_room(self) -> None:
        """Accept any request: its outputs may be cached. If they are not, `submit` checks the queue."""

    def _key(self, inputs: Tensors) -> bytes:
        """Return a digest of the version and of the names, dtypes, shapes and elements of the inputs."""
        # With the SHA instructions of most processors, SHA-256 takes half the time of BLAKE2 on large inputs.
        digest = self._content.copy()
        for name in sorted(inputs):
            values = inputs[name]
            digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
            digest.update(values.tobytes())
        return digest.digest()


def _read_only_copy(values: Array) -> Array:
    copy = values.copy()
    copy.flags.writeable = False
    return copy
