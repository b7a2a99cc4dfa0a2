"""The real server on each device: who runs what, a swap under load, a run without memory, a device that fails."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import numpy as np
import psutil
import pytest
import torch

from service.engine.onnx import cuda as gpu
from service.engine.session import Runtime
from service.observability import gpus
from tests.live.conftest import clean_environment, serving
from tests.paths import MODELS, ROOT

ADMIN = {"Authorization": "Bearer admin"}
WORKERS = 2


@pytest.fixture(scope="module")
def server(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of two workers on the device, with every version loaded; on a GPU each model may take a GiB of it."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copytree(MODELS, folder / "models")
    with serving(
        folder / "log",
        seconds=300,
        models_dir=str(folder / "models"),
        device=runtime.device,
        cuda_graphs=str(runtime.cuda_graphs),
        precision="float32",
        workers=str(WORKERS),
        gpu_memory_mib="1024",
        threads="1",
        admin_keys="admin",
    ) as url:
        yield url


def metric(url: str, name: str) -> dict[str, float]:
    """The samples of a name, by their labels as they are written."""
    text = httpx.get(f"{url}/metrics", timeout=30).text
    return {labels: float(value) for labels, value in re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE)}


def test_every_version_runs_on_the_device_in_every_worker(server: str, runtime: Runtime) -> None:
    provider = "CPUExecutionProvider" if runtime.device == "cpu" else gpu.PROVIDERS["cuda"]
    found = metric(server, "deepserve_model_provider")
    assert len(found) == len(list(MODELS.glob("*/*/card.json")))
    assert set(found.values()) == {WORKERS}
    assert all(f'provider="{provider}"' in labels for labels in found)


def test_memory_of_a_gpu_is_told_where_there_is_one(server: str, runtime: Runtime) -> None:
    used, there = (metric(server, f"deepserve_gpu_memory_{each}bytes") for each in ("used_", ""))
    assert used.keys() == there.keys() == {f'gpu="{each.number}"' for each in gpus.found()}
    if runtime.device == "cuda":
        assert there
        assert all(0 < used[each] < there[each] for each in used)


@contextmanager
def traffic(url: str, versions: dict[str, np.ndarray], picture: np.ndarray) -> Iterator[tuple[Counter[str], list[str]]]:
    """Three clients that ask for digits without a pause: answers by version, and what was wrong with any."""
    answers, faults, over = Counter[str](), list[str](), threading.Event()
    tensor = {"name": "pictures", "shape": picture.shape, "datatype": "UINT8", "data": picture.ravel().tolist()}

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not over.is_set():
                response = client.post("/v2/models/digits/infer", json={"inputs": [tensor]})
                if response.status_code != 200:
                    faults.append(response.text)
                    continue
                answer = response.json()
                version = answer["model_version"]
                answers[version] += 1
                off = np.abs(np.array(answer["outputs"][0]["data"]) - versions[version]).max()
                if off > 1e-4:
                    faults.append(f"version {version} is off by {off}")

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield answers, faults
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_versions_are_swapped_under_load_without_a_failure(server: str) -> None:
    golden = {version: np.load(MODELS / "digits" / version / "golden.npz") for version in ("1", "2")}
    picture = golden["2"]["in:pictures"][:1]
    one = np.flatnonzero((golden["1"]["in:pictures"] == picture).all((1, 2)))
    assert len(one), "both versions have this golden case"
    expected = {"1": golden["1"]["out:probabilities"][one[0]], "2": golden["2"]["out:probabilities"][0]}
    with traffic(server, expected, picture) as (answers, faults):
        for swap in range(6):
            version = "12"[swap % 2]
            policy = f'{{"version_policy": {{"specific": {{"versions": [{version}]}}}}}}'
            asked = httpx.post(
                f"{server}/v2/repository/models/digits/load",
                json={"parameters": {"config": policy}},
                headers=ADMIN,
                timeout=120,
            )
            assert asked.status_code == 200, asked.text
            enough, end = answers[version] + 30, time.monotonic() + 30
            while answers[version] < enough and time.monotonic() < end:
                time.sleep(0.02)
            assert answers[version] >= enough
    assert faults == []


def infer(url: str, model: str, **inputs: np.ndarray) -> httpx.Response:
    """Asks a model with these tensors."""
    datatypes = {"int64": "INT64", "float32": "FP32"}
    tensors = [
        {"name": name, "shape": values.shape, "datatype": datatypes[str(values.dtype)], "data": values.ravel().tolist()}
        for name, values in inputs.items()
    ]
    return httpx.post(f"{url}/v2/models/{model}/infer", json={"inputs": tensors}, timeout=60)


def draw(url: str, count: int) -> httpx.Response:
    return infer(url, "fashion", latent=np.zeros((count, 64), np.float32), label=np.zeros(count, np.int64))


def read(url: str, reviews: int, tokens: int) -> httpx.Response:
    return infer(url, "sentiment", tokens=np.full((reviews, tokens), 7))


@contextmanager
def workers_with_little_memory(more: int) -> Iterator[None]:
    """The processes of the server may each take so many bytes more than they have, and nothing beyond."""
    before = {}
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # what an earlier test has left may end at any time
            before[child] = child.rlimit(psutil.RLIMIT_DATA)
            child.rlimit(psutil.RLIMIT_DATA, (child.memory_info().data + more, before[child][1]))
    try:
        yield
    finally:
        for child, limits in before.items():
            with suppress(psutil.NoSuchProcess):
                child.rlimit(psutil.RLIMIT_DATA, limits)


@contextmanager
def full_gpu(rest: int) -> Iterator[None]:
    """Somebody else takes the memory of the GPU, but for so many bytes."""
    torch.cuda.empty_cache()
    hold = torch.empty((torch.cuda.mem_get_info()[0] - rest) // 2**21 * 2**21, dtype=torch.uint8, device="cuda")
    yield
    del hold
    torch.cuda.empty_cache()


def test_requests_without_memory_are_503_and_the_next_are_answered(server: str, runtime: Runtime) -> None:
    """Many pictures at once, and reviews longer than any that were warm. On a GPU what was warm may do for them."""
    outcomes = Counter[int]()
    for _ in range(10 * WORKERS):  # a connection each, so that every worker has its threads
        assert draw(server, 4).status_code == read(server, 4, 100).status_code == 200
    for _ in range(2 * WORKERS):
        with workers_with_little_memory(4 * 2**20) if runtime.device == "cpu" else full_gpu(2**24):
            answers = [draw(server, 64), *([read(server, 4, 1024)] if runtime.device == "cuda" else [])]
        for answer in answers:
            outcomes[answer.status_code] += 1
            if answer.status_code == 503:
                assert "memory" in answer.json()["error"]
                assert int(answer.headers["Retry-After"]) >= 1
        assert draw(server, 4).status_code == read(server, 4, 100).status_code == 200
    assert outcomes.keys() <= {200, 503}
    if runtime.device == "cpu":
        assert outcomes[503]
    for _ in range(2 * WORKERS):
        assert draw(server, 64).status_code == read(server, 4, 1024).status_code == 200


def test_a_server_refuses_to_start_on_a_device_that_fails() -> None:
    """Whatever there is here, this process is shown none of it."""
    environment = {**clean_environment(), "DEEPSERVE_DEVICE": "cuda", "DEEPSERVE_PORT": "0", "CUDA_VISIBLE_DEVICES": ""}
    environment["DEEPSERVE_PORT"] = str(40_000 + os.getpid() % 20_000)
    done = subprocess.run(
        [sys.executable, "-m", "service"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert re.fullmatch(r"deepserve: DEEPSERVE_DEVICE: cuda does not work: .+\n", done.stderr)
