"""Use every method of `tritonclient.http`: `python ask_triton.py HOST:PORT MODELS`."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from golden import DATATYPES, Case, agree, cases
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException


def tensors(case: Case, *, binary: bool) -> list[InferInput]:
    found = []
    for name, values in case.inputs.items():
        tensor = InferInput(name, list(values.shape), DATATYPES[values.dtype.name])
        tensor.set_data_from_numpy(values, binary_data=binary)
        found.append(tensor)
    return found


def asks_the_server(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "deepserve"
    assert not client.is_model_ready("nothing")
    assert not client.is_model_ready("digits", "99")


def is_refused_what_is_not_supported(client: InferenceServerClient) -> None:
    assert client.get_system_shared_memory_status() == []
    assert client.get_cuda_shared_memory_status() == []
    for unregister in (client.unregister_system_shared_memory, client.unregister_cuda_shared_memory):
        unregister()
        unregister("region")
    for ask in (
        lambda: client.register_system_shared_memory("region", "/key", 64),
        lambda: client.register_cuda_shared_memory("region", b"AAAA", 0, 64),
        client.get_trace_settings,
        lambda: client.update_trace_settings("digits", {"trace_level": ["TIMESTAMPS"]}),
        client.get_log_settings,
        lambda: client.update_log_settings({"log_verbose_level": 1}),
    ):
        error = refusal_of(ask)
        assert error is not None
        assert error.status() == "400", error
        assert "not supported" in error.message(), error


def asks_about_a_model(client: InferenceServerClient, case: Case) -> None:
    assert client.is_model_ready(case.model)
    assert client.is_model_ready(case.model, case.version)
    for version in ("", case.version):
        metadata = client.get_model_metadata(case.model, version)
        assert metadata["name"] == case.model
        assert case.version in metadata["versions"]
        assert [tensor["name"] for tensor in metadata["inputs"]] == list(case.inputs)
        assert [tensor["name"] for tensor in metadata["outputs"]] == list(case.outputs)
        assert client.get_model_config(case.model, version)["max_batch_size"] == 64
    entry = {"name": case.model, "version": case.version, "state": "READY", "reason": ""}
    assert entry in client.get_model_repository_index()


def infers(client: InferenceServerClient, case: Case, *, binary: bool, coding: str | None) -> None:
    outputs = [InferRequestedOutput(name, binary_data=binary) for name in case.outputs]
    result = client.infer(
        case.model,
        tensors(case, binary=binary),
        model_version=case.version,
        outputs=outputs,
        request_id="seven",
        priority=1,
        timeout=30_000_000,
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    assert result.get_response()["id"] == "seven"
    assert result.get_response()["model_version"] == case.version
    for name, values in case.outputs.items():
        agree(result.as_numpy(name), values)


def infers_without_naming_outputs(client: InferenceServerClient, case: Case) -> None:
    result = client.infer(case.model, tensors(case, binary=True), model_version=case.version)
    for name, values in case.outputs.items():
        agree(result.as_numpy(name), values)


def infers_many_at_once(client: InferenceServerClient, case: Case) -> None:
    rows = [case.of(np.array([row])) for row in range(8)]
    pending = [client.async_infer(case.model, tensors(row, binary=True), model_version=case.version) for row in rows]
    for row, request in zip(rows, pending, strict=True):
        result = request.get_result()
        for name, values in row.outputs.items():
            agree(result.as_numpy(name), values)


def classifies(client: InferenceServerClient, case: Case) -> None:
    name, values = next(iter(case.outputs.items()))
    labelled = values.shape[1:] == (len(case.classes),)
    for binary in (True, False):
        asked = InferRequestedOutput(name, binary_data=binary, class_count=1)
        found = client.infer(case.model, tensors(case, binary=True), model_version=case.version, outputs=[asked])
        for text, row in zip(found.as_numpy(name)[:, 0], values.reshape(len(values), -1), strict=True):
            value, index, *label = (text.decode() if isinstance(text, bytes) else text).split(":")
            assert abs(float(value) - float(row.max())) <= 1, text
            assert abs(float(row[int(index)]) - float(row.max())) <= 1, text
            assert label == ([case.classes[int(index)]] if labelled else []), text


def tracks(client: InferenceServerClient, case: Case) -> None:
    """Statistics count the requests."""

    def statistics() -> dict[str, int]:
        [found] = client.get_inference_statistics(case.model, case.version)["model_stats"]
        assert (found["name"], found["version"]) == (case.model, case.version)
        return {"rows": found["inference_count"], "requests": found["inference_stats"]["success"]["count"]}

    before = statistics()
    infers_without_naming_outputs(client, case)
    rows = len(next(iter(case.inputs.values())))
    assert statistics() == {"rows": before["rows"] + rows, "requests": before["requests"] + 1}
    named = {(each["name"], each["version"]) for each in client.get_inference_statistics()["model_stats"]}
    assert (case.model, case.version) in named


def refusal_of(ask: Callable[[], object]) -> InferenceServerException | None:
    try:
        ask()
    except InferenceServerException as error:
        return error
    return None


def refusal(client: InferenceServerClient, model: str, version: str) -> InferenceServerException | None:
    """A tensor of the wrong shape gets an error."""
    tensor = InferInput("pictures", [1, 28, 27], "UINT8")
    tensor.set_data_from_numpy(np.zeros((1, 28, 27), np.uint8))
    return refusal_of(lambda: client.infer(model, [tensor], model_version=version))


def is_refused(client: InferenceServerClient) -> None:
    for model, version, status in (("digits", "", "400"), ("nothing", "", "404"), ("digits", "99", "404")):
        error = refusal(client, model, version)
        assert error is not None
        assert error.status() == status, error
        assert error.message(), error


def main(address: str, models: Path) -> None:
    with InferenceServerClient(address, concurrency=4) as client:
        asks_the_server(client)
        is_refused(client)
        is_refused_what_is_not_supported(client)
        for case in cases(models):
            print(case.model, case.version)
            asks_about_a_model(client, case)
            infers(client, case, binary=True, coding=None)
            infers(client, case.without_nan(), binary=False, coding=None)
            infers(client, case, binary=True, coding="gzip")
            infers(client, case.without_nan(), binary=False, coding="deflate")
            infers_without_naming_outputs(client, case)
            infers_many_at_once(client, case)
            classifies(client, case)
            tracks(client, case)


main(sys.argv[1], Path(sys.argv[2]))
