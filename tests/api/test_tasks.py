"""The task endpoints: media types of requests and responses, versions, and errors in the body."""

import base64
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.types import Message

from service.api.errors import UnsupportedMediaType
from service.api.routing import HttpRequest, HttpResponse
from service.api.tasks import TaskEndpoint
from service.context import RequestContext
from service.errors import Invalid, Malformed, NotFound, ServiceError, TooLarge
from service.inference.binding import bind
from service.inference.service import InferenceService
from service.registry.registry import ModelRegistry
from service.settings import Settings
from service.tasks.base import AnyTask
from service.tasks.digits import DigitsTask
from service.tasks.fashion import COUNT, FashionTask
from tests.paths import DIGIT, MODELS

pytestmark = pytest.mark.anyio

PICTURE = DIGIT.read_bytes()
JSON, JPEG = {"content-type": "application/json"}, {"content-type": "image/jpeg"}
IN_JSON = json.dumps({"images": [base64.b64encode(PICTURE).decode()]}).encode()


leaves_parts_open = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""The parser keeps the parts of a multipart body in memory, as files that nobody closes."""


@pytest.fixture
async def inference() -> AsyncIterator[InferenceService]:
    models = ModelRegistry(Settings(models_dir=MODELS), bind)
    for name, versions in (("digits", ["1", "2"]), ("fashion", ["1"])):
        assert not models.load(name, versions, None)
    made = InferenceService(models, {})
    yield made
    await made.close()
    await models.close()


class Client:
    """Sends requests to one endpoint."""

    def __init__(self, inference: InferenceService, task: type[AnyTask], max_body_bytes: int = 2**20) -> None:
        self.endpoint = TaskEndpoint(f"/v1/{task.name}", task, inference, max_body_bytes)
        self.context = RequestContext()

    async def post(self, body: bytes, headers: dict[str, str], query: bytes = b"") -> HttpResponse:
        """Send a body in two parts."""
        middle = len(body) // 2
        parts = [{"body": body[:middle], "more_body": True}, {"body": body[middle:]}]

        async def receive() -> Message:
            return {"type": "http.request", **parts.pop(0)}

        fields = {name.encode(): value.encode() for name, value in headers.items()}
        self.context = RequestContext("an id")
        return await self.endpoint(HttpRequest("POST", self.endpoint.route, query, fields, receive), self.context)


@pytest.fixture
def digits(inference: InferenceService) -> Client:
    return Client(inference, DigitsTask)


@pytest.fixture
def fashion(inference: InferenceService) -> Client:
    return Client(inference, FashionTask)


def multipart(**files: bytes) -> tuple[bytes, dict[str, str]]:
    request = httpx.Request("POST", "http://x", files=[(name, ("a", data)) for name, data in files.items()])
    return request.read(), {"content-type": request.headers["content-type"]}


@leaves_parts_open
async def test_json_raw_image_and_multipart_body_give_the_same_response(digits: Client) -> None:
    responses = [
        await digits.post(IN_JSON, JSON),
        await digits.post(b"\xef\xbb\xbf" + IN_JSON, {}),  # JSON is the default, and may have a byte order mark
        await digits.post(PICTURE, JPEG),
        await digits.post(*multipart(images=PICTURE)),
    ]
    assert len({response.body for response in responses}) == 1
    response = responses[0]
    assert (response.status, response.media_type) == (200, "application/json")
    content = json.loads(response.body)
    assert (content["model"], content["version"]) == ("digits", response.headers["X-Model-Version"]) == ("digits", "2")
    assert [prediction["digit"] for prediction in content["predictions"]] == [7]


async def test_times_of_the_stages_are_in_the_context(digits: Client) -> None:
    await digits.post(PICTURE, JPEG)
    timings = digits.context.timings
    assert timings is not None
    assert 0 < timings.received < timings.preprocessed < timings.computed < timings.encoded
    assert (digits.context.model, digits.context.served_version) == ("digits", "2")


async def test_query_parameter_chooses_the_version(digits: Client) -> None:
    response = await digits.post(PICTURE, JPEG, b"version=1")
    assert response.headers["X-Model-Version"] == json.loads(response.body)["version"] == "1"
    with pytest.raises(NotFound):
        await digits.post(PICTURE, JPEG, b"version=7")
    with pytest.raises(NotFound):
        await digits.post(PICTURE, JPEG, b"version=")


@pytest.mark.parametrize(
    ("headers", "media_type"),
    [
        ({}, "image/png"),
        ({"accept": "application/json"}, "application/json"),
        ({"accept": "text/html"}, "image/png"),
        ({"accept": "*/*", "user-agent": "BentoML HTTP Client"}, "application/json"),
    ],
)
async def test_client_chooses_the_representation(fashion: Client, headers: dict[str, str], media_type: str) -> None:
    response = await fashion.post(b'{"seed": 7}', headers)
    assert response.media_type == media_type
    if media_type == "image/png":
        assert response.body.startswith(b"\x89PNG")
        assert response.headers["X-Seed"] == "7"
    else:
        assert json.loads(response.body)["seed"] == 7


async def test_empty_body_means_that_all_fields_have_their_defaults(fashion: Client) -> None:
    response = await fashion.post(b"", {"accept": "application/json"})
    assert len(json.loads(response.body)["predictions"]) == COUNT


@pytest.mark.parametrize(
    ("body", "headers", "error"),
    [
        (b"{", JSON, Malformed),
        (b"[]", JSON, Invalid),
        (b'{"images": []}', JSON, Invalid),
        (b'{"pictures": []}', JSON, Invalid),
        (b"no picture", JPEG, Invalid),
        (b"x", {"content-type": "text/plain"}, UnsupportedMediaType),
        (b"x", {**JSON, "content-encoding": "gzip"}, UnsupportedMediaType),
        (b"x" * 2**20 + b"x", JPEG, TooLarge),
        (b"", {**JPEG, "content-length": "1048577"}, TooLarge),
        (b"x", {"content-type": "multipart/form-data"}, Malformed),
    ],
)
async def test_bad_body_is_an_error(
    digits: Client, body: bytes, headers: dict[str, str], error: type[ServiceError]
) -> None:
    with pytest.raises(error):
        await digits.post(body, headers)
    assert digits.context.timings is None
    assert digits.context.model == "digits"


async def test_task_without_files_accepts_only_json(fashion: Client) -> None:
    for body, headers in ((PICTURE, JPEG), multipart(images=PICTURE)):
        with pytest.raises(UnsupportedMediaType) as refused:
            await fashion.post(body, headers)
        assert refused.value.accept == "application/json"


@leaves_parts_open
async def test_multipart_body_needs_files_of_the_right_name(digits: Client) -> None:
    with pytest.raises(Invalid) as refused:
        await digits.post(*multipart(pictures=PICTURE))
    assert [fault.loc for fault in refused.value.faults] == [("pictures",)]
    with pytest.raises(Invalid) as refused:
        await digits.post(b"--x--\r\n", {"content-type": "multipart/form-data; boundary=x"})
    assert [fault.loc for fault in refused.value.faults] == [("images",)]
