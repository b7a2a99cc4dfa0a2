"""What ONNX Runtime fails of, told apart by what it says: it has no class of its own for want of memory."""

import numpy as np
import pytest

from service.engine.onnx.errors import is_out_of_memory
from service.engine.onnx.runtime import ort
from tests.places import MODELS


def failure(session: ort.InferenceSession, pictures: np.ndarray) -> Exception:
    with pytest.raises(Exception) as raised:  # noqa: PT011
        session.run(None, {"pictures": pictures})
    return raised.value


def test_an_arena_that_may_not_grow_lacks_memory_and_a_wrong_shape_does_not() -> None:
    """What `DEEPSERVE_GPU_MEMORY_MIB` sets of a GPU is set here of the CPU, in the same arena."""
    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(place, ort.OrtArenaCfg({"max_mem": 64 * 2**20, "arena_extend_strategy": 1}))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.use_env_allocators", "1")
    session = ort.InferenceSession(MODELS / "digits" / "2" / "model.onnx", options, providers=["CPUExecutionProvider"])
    assert is_out_of_memory(failure(session, np.zeros((20_000, 28, 28), np.uint8)))
    assert not is_out_of_memory(failure(session, np.zeros((1, 27, 28), np.uint8)))
    assert session.run(None, {"pictures": np.zeros((2, 28, 28), np.uint8)})[0].shape == (2, 10)


def test_python_itself_may_lack_memory() -> None:
    with pytest.raises(MemoryError) as raised:
        np.zeros(2**62, np.uint8)
    assert is_out_of_memory(raised.value)
