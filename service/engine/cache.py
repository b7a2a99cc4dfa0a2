"""Answers kept for those who ask the same again: by model, bounded in bytes, the least recently used leave first.

A version's batcher is asked only what it has not answered yet. Answers are told apart by the decoded inputs, so that
all doors share them, and by the content of the version, so that one swapped for another of its number never answers for
it; what it leaves behind makes room as new answers come.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from service.engine.batcher import Batcher
from service.tensors import Array, Tensors

ENTRY_BYTES = 450
"""Memory that an answer takes beside its numbers, and..."""
ARRAY_BYTES = 250
"""...each of its arrays: growth of the process by 200,000 of them."""


class CacheObserver(Protocol):
    """Is told what a cache holds."""

    def holds(self, size: int) -> None:
        """All its answers take `size` bytes."""

    def evicted(self, answers: int) -> None:
        """So many answers have made room for others."""


class LookupObserver(Protocol):
    """Is told what a version's cached batcher does."""

    def hit(self, seconds: float) -> None:
        """An answer was found, in `seconds`."""

    def missed(self) -> None:
        """An answer is not there."""

    def kept(self, seconds: float) -> None:
        """To look for it in vain, and to keep it once it was there, took `seconds`."""


@dataclass(slots=True)
class _Entry:
    outputs: Tensors
    size: int
    """Bytes of memory."""


class Cache:
    """The answers of all versions of one model. Belongs to one event loop."""

    def __init__(self, most_bytes: int, observer: CacheObserver | None = None) -> None:
        """Keeps answers of `most_bytes` of memory, what it takes to keep them included; `observer` is told of them."""
        self.bytes = 0
        """Memory that the answers take."""
        self._most_bytes = most_bytes
        self._observer = observer
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        """By key, the least recently used first."""

    def get(self, key: bytes) -> Tensors | None:
        """The outputs that are kept under `key`, read-only; None if there are none."""
        if (entry := self._entries.get(key)) is None:
            return None
        self._entries.move_to_end(key)
        return entry.outputs

    def put(self, key: bytes, outputs: Tensors) -> None:
        """Keeps a copy of `outputs`, unless it would not fit even alone."""
        size = ENTRY_BYTES + sum(ARRAY_BYTES + values.nbytes for values in outputs.values())
        if size > self._most_bytes:
            return
        held = self.bytes
        if (former := self._entries.pop(key, None)) is not None:  # the same was asked twice at once
            self.bytes -= former.size
        # A view would keep the whole batch that it was computed in.
        self._entries[key] = _Entry({name: _read_only_copy(values) for name, values in outputs.items()}, size)
        self.bytes += size
        evicted = 0
        while self.bytes > self._most_bytes:
            self.bytes -= self._entries.popitem(last=False)[1].size
            evicted += 1
        if self._observer is not None:
            if self.bytes != held:
                self._observer.holds(self.bytes)
            if evicted:
                self._observer.evicted(evicted)


class CachedBatcher:
    """The batcher of a version, asked only for answers that are not kept."""

    def __init__(self, batcher: Batcher, cache: Cache, content: bytes, observer: LookupObserver) -> None:
        """Answers from `cache` what it can.

        Args:
            batcher: computes the rest.
            cache: of the model, for all its versions.
            content: what makes the version answer as it does; another version's differs.
            observer: told of what is found and what is not.
        """
        self._batcher = batcher
        self._cache = cache
        self._content = sha256(content)
        self._observer = observer

    async def submit(self, inputs: Tensors) -> Tensors:
        """The outputs for `inputs`, as `Batcher.submit` has them, perhaps read-only.

        Raises:
            Unavailable: they are not kept, and the queue is full.
        """
        started = time.perf_counter()
        key = self._key(inputs)
        kept = self._cache.get(key)
        found = time.perf_counter()
        if kept is not None:
            self._observer.hit(found - started)
            return kept
        self._observer.missed()
        outputs = await self._batcher.submit(inputs)
        computed = time.perf_counter()
        self._cache.put(key, outputs)
        self._observer.kept(time.perf_counter() - computed + found - started)
        return outputs

    def check_room(self) -> None:
        """Lets every request pass: its answer may be here, and if not, `submit` refuses it."""

    def _key(self, inputs: Tensors) -> bytes:
        """A digest of the version and of the inputs: their names, dtypes, shapes and numbers."""
        # On processors that know it, as most do, SHA-256 takes half the time of BLAKE2 where inputs are large.
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
