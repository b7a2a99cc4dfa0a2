"""Error messages of ONNX Runtime: lack of memory is recognised by the text, since it has no class of its own."""

import numpy as np
import pytest

from service.engine.onnx.errors import clean_message, is_out_of_memory
from service.engine.onnx.runtime import ort
from tests.paths import MODELS


def failure(session: ort.InferenceSession, pictures: np.ndarray) -> Exception:
    with pytest.raises(Exception) as raised:  # noqa: PT011
        session.run(None, {"pictures": pictures})
    return raised.value


def test_full_arena_is_out_of_memory_and_a_wrong_shape_is_not() -> None:
    """Limit the arena of the CPU, which is the same class as the one of a GPU."""
    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(place, ort.OrtArenaCfg({"max_mem": 64 * 2**20, "arena_extend_strategy": 1}))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.use_env_allocators", "1")
    session = ort.InferenceSession(MODELS / "digits" / "2" / "model.onnx", options, providers=["CPUExecutionProvider"])
    assert is_out_of_memory(failure(session, np.zeros((20_000, 28, 28), np.uint8)))
    assert not is_out_of_memory(failure(session, np.zeros((1, 27, 28), np.uint8)))
    assert session.run(None, {"pictures": np.zeros((2, 28, 28), np.uint8)})[0].shape == (2, 10)


def test_memory_error_of_python_is_out_of_memory() -> None:
    with pytest.raises(MemoryError) as raised:
        np.zeros(2**62, np.uint8)
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize(
    ("message", "cleaned"),
    [
        ("[ONNXRuntimeError] : 10 : INVALID_GRAPH : Load model from /a/b/model.onnx failed:no such op", "no such op"),
        ('cannot open "/home/somebody/models/x.bin"', 'cannot open "x.bin"'),
        ("CUDA failure 35: the driver is too old ; GPU=0 ; file=/a/b.cc", "CUDA failure 35: the driver is too old"),
        ("two\nlines\x1b[31m", "two lines?[31m"),
        ("x" * 2000, "x" * 1000 + "..."),
    ],
)
def test_messages_are_one_line_without_codes_and_local_paths(message: str, cleaned: str) -> None:
    assert clean_message(RuntimeError(message)) == cleaned
