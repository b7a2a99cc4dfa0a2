"""Reading the error messages of ONNX Runtime.

They begin with error codes and source locations, contain local paths, and span several lines. There is an exception
class for each kind of failure, but none for a lack of memory.
"""

import re

from service import errors

_CUDA = re.compile(r"CU\w+ failure \d+: [^;]+")
_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : "
    r"|(?:Load model from .+? failed|Exception during initialization): ?"
    r"|/\S+\.(?:cc|h|cu):\d+ [^()]*\((?:[^()]|\([^()]*\))*\)(?: const)? "  # source location and function
    r"|\w+\.(?:cc|h|cu):\d+ \w+ "
)
_OUT_OF_MEMORY = re.compile(
    "Failed to allocate memory|is smaller than requested bytes|out of memory|bad_alloc|ALLOC_FAILED", re.IGNORECASE
)
"""Messages of the arenas, of arenas with a limit, of CUDA, of C++ and of the CUDA libraries."""


def clean_message(error: Exception) -> str:
    """Return the informative part of an ONNX Runtime message, in one line without local paths."""
    failure = _CUDA.search(str(error))
    return errors.clean_message(failure[0] if failure else _NOISE.sub("", str(error)))


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a run failed for lack of memory, on the GPU or the host. A later or smaller one may succeed."""
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None
