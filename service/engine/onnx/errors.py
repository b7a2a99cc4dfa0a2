"""What ONNX Runtime says when it fails, as a person reads it, and whether it is memory that it lacks.

Its messages begin with codes and with places in its source, quote paths of this machine, and run over several lines. It
has a class for each kind of failure, but none for want of memory.
"""

import re

LONGEST = 1000
"""Characters of a reason; the longest that helps, on an opset of the future, has 500."""

_CUDA = re.compile(r"CU\w+ failure \d+: [^;]+")
_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : "
    r"|(?:Load model from .+? failed|Exception during initialization): ?"
    r"|/\S+\.(?:cc|h|cu):\d+ [^()]*\((?:[^()]|\([^()]*\))*\)(?: const)? "  # a place in its source, and the function
    r"|\w+\.(?:cc|h|cu):\d+ \w+ "
)
_PLACE = re.compile(r'(?<=")/[^"]*/(?=[^"]*")|(?<![\w.:/])/[^\s"]*/(?=[^\s"]*)')
"""Of a file, all but its name."""
_NO_MEMORY = re.compile(
    "Failed to allocate memory|is smaller than requested bytes|out of memory|bad_alloc|ALLOC_FAILED", re.IGNORECASE
)
"""As its arenas, those with a limit, CUDA, C++ and the libraries of CUDA have it."""


def readable(error: Exception) -> str:
    """The telling part of ONNX Runtime's message, in one line."""
    failure = _CUDA.search(str(error))
    return one_line(failure[0] if failure else _PLACE.sub("", _NOISE.sub("", str(error))))


def lacks_memory(error: Exception) -> bool:
    """Whether a run failed because there was no memory for it, on the GPU or here: a smaller one, or later, may do."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def one_line(text: str) -> str:
    """`text` cut to `LONGEST`, without line breaks and what else a terminal or a log would take for more than text."""
    line = "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
