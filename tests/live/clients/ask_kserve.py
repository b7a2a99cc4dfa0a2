"""Asks a server all that kserve's `InferenceRESTClient` can ask: `python ask_kserve.py HOST:PORT MODELS`."""

import asyncio
import sys
from pathlib import Path

import httpx
import numpy as np
from golden import DATATYPES, Case, agree, cases
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def infers(client: InferenceRESTClient, base: str, case: Case, request_id: str | None, *, binary: bool) -> None:
    tensors = []
    for name, values in case.inputs.items():
        tensor = InferInput(name, list(values.shape), DATATYPES[values.dtype.name])
        tensor.set_data_from_numpy(values, binary_data=binary)
        tensors.append(tensor)
    request = InferRequest(case.model, tensors, request_id=request_id, parameters={"binary_data_output": binary})
    headers: dict[str, str] = {}
    result = await client.infer(base, request, model_name=case.model, response_headers=headers)
    assert ("inference-header-content-length" in headers) == binary
    assert result.id == (request_id or headers["x-request-id"])
    assert result.model_name == case.model
    assert [output.name for output in result.outputs] == list(case.outputs)
    if result.model_version == case.version:
        for output in result.outputs:
            agree(output.as_numpy(), case.outputs[output.name])


async def refusal(client: InferenceRESTClient, base: str) -> httpx.HTTPStatusError | None:
    """What a tensor of another shape is answered."""
    tensor = InferInput("pictures", [1, 2], "UINT8")
    tensor.set_data_from_numpy(np.zeros((1, 2), np.uint8), binary_data=False)
    try:
        await client.infer(base, InferRequest("digits", [tensor]), model_name="digits")
    except httpx.HTTPStatusError as error:
        return error
    return None


async def main(base: str, models: Path) -> None:
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(base)
        assert await client.is_server_ready(base)
        assert not await client.is_model_ready(base, "nothing")
        error = await refusal(client, base)
        assert error is not None
        assert error.response.status_code == 400
        assert "pictures" in str(error)
        for case in cases(models):
            print(case.model, case.version)
            assert await client.is_model_ready(base, case.model)
            for request_id in ("seven", None):
                await infers(client, base, case, request_id, binary=True)
                await infers(client, base, case.without_nan(), request_id, binary=False)


asyncio.run(main(f"http://{sys.argv[1]}", Path(sys.argv[2])))
