"""Use every method of kserve's `InferenceRESTClient`: `python ask_kserve.py HOST:PORT MODELS`."""

import asyncio
import sys
from pathlib import Path

import httpx
import numpy as np
from golden import DATATYPES, Case, agree, cases
from kserve import InferenceRESTClient, InferInput, InferRequest, InferResponse, RESTConfig


async def infers(client: InferenceRESTClient, base: str, case: Case, *, binary: bool) -> None:
    tensors = []
    for name, values in case.inputs.items():
        tensor = InferInput(name, list(values.shape), DATATYPES[values.dtype.name])
        tensor.set_data_from_numpy(values, binary_data=binary)
        tensors.append(tensor)
    request = InferRequest(case.model, tensors, request_id="seven", parameters={"binary_data_output": binary})
    headers: dict[str, str] = {}
    result = await client.infer(base, request, model_name=case.model, response_headers=headers)
    assert ("inference-header-content-length" in headers) == binary
    assert result.id == "seven"
    assert result.model_name == case.model
    assert [output.name for output in result.outputs] == list(case.outputs)
    if result.model_version == case.version:
        for output in result.outputs:
            agree(output.as_numpy(), case.outputs[output.name])


def reads_the_response_to_a_request_without_id(base: str, case: Case) -> None:
    """`InferResponse` requires an id."""
    tensors = [
        {"name": name, "shape": values.shape, "datatype": DATATYPES[values.dtype.name], "data": values.ravel().tolist()}
        for name, values in case.without_nan().inputs.items()
    ]
    answer = httpx.post(f"{base}/v2/models/{case.model}/infer", json={"inputs": tensors})
    assert InferResponse.from_rest(answer.json()).id == answer.headers["x-request-id"]


async def refusal(client: InferenceRESTClient, base: str) -> httpx.HTTPStatusError | None:
    """A tensor of the wrong shape gets an error."""
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
            reads_the_response_to_a_request_without_id(base, case)
            await infers(client, base, case, binary=True)
            await infers(client, base, case.without_nan(), binary=False)


asyncio.run(main(f"http://{sys.argv[1]}", Path(sys.argv[2])))
