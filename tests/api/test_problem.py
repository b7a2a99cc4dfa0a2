"""Every error has a status of its own kind, and its response says what the client can do."""

import json
from collections.abc import Iterator

import pytest
from pydantic import BaseModel, ValidationError

import service.engine.onnx.session  # noqa: F401  # defines errors of its own
from service.api.errors import Forbidden, MethodNotAllowed, Misdirected, RefusedByTransport, UnsupportedMediaType
from service.api.problem import MAX_FAULTS, MAX_TEXT, error_response, from_validation, status_of
from service.errors import (
    ClientError,
    DeadlineExceeded,
    Fault,
    Invalid,
    LoadFailed,
    Malformed,
    NotFound,
    ServiceError,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)

ERRORS = [
    (ServiceError("x"), 500, "Internal Server Error", {}, "failed"),
    (Malformed("x"), 400, "Bad Request", {}, "invalid"),
    (LoadFailed("x"), 400, "Bad Request", {}, "invalid"),
    (Unauthorized("x"), 401, "Unauthorized", {"WWW-Authenticate": "Bearer"}, "invalid"),
    (Forbidden("x"), 403, "Forbidden", {}, "invalid"),
    (NotFound("x"), 404, "Not Found", {}, "invalid"),
    (MethodNotAllowed("PUT", "GET, HEAD"), 405, "Method Not Allowed", {"Allow": "GET, HEAD"}, "invalid"),
    (TooLarge("x"), 413, "Content Too Large", {}, "invalid"),
    (UnsupportedMediaType("x", accept="a/b"), 415, "Unsupported Media Type", {"Accept": "a/b"}, "invalid"),
    (
        UnsupportedMediaType("x", accept_encoding="gzip"),
        *(415, "Unsupported Media Type", {"Accept-Encoding": "gzip"}, "invalid"),
    ),
    (Misdirected("x"), 421, "Misdirected Request", {}, "invalid"),
    (Invalid("x"), 422, "Unprocessable Content", {}, "invalid"),
    (RefusedByTransport(414, "x"), 414, "URI Too Long", {}, "invalid"),
    (RefusedByTransport(501, "x"), 501, "Not Implemented", {}, "invalid"),
    (
        TooManyRequests("x", retry_after_seconds=7),
        *(429, "Too Many Requests", {"Retry-After": "7"}, "rejected"),
    ),
    (Unavailable("x"), 503, "Service Unavailable", {"Retry-After": "1"}, "rejected"),
    (Unavailable("x", retry_after_seconds=9), 503, "Service Unavailable", {"Retry-After": "9"}, "rejected"),
    (DeadlineExceeded("x"), 504, "Gateway Timeout", {}, "expired"),
]


def below(error: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for each in error.__subclasses__():
        yield each
        yield from below(each)


@pytest.mark.parametrize(("error", "status", "title", "headers", "outcome"), ERRORS)
@pytest.mark.parametrize("path", ["/v1/digits", "/v2/models/digits/infer"])
def test_an_error_is_mapped(
    path: str, error: ServiceError, status: int, title: str, headers: dict[str, str], outcome: str
) -> None:
    response = error_response(error, path, "an id")
    assert (response.status, response.headers, response.outcome) == (status, headers, outcome)
    content = json.loads(response.body)
    if path.startswith("/v2"):
        assert response.media_type == "application/json"
        assert content == {"error": error.detail}
    else:
        assert response.media_type == "application/problem+json"
        expected = {"type": "about:blank", "title": title, "status": status, "detail": error.detail}
        assert content == {**expected, "request_id": "an id"}


def test_every_class_is_mapped_and_tested() -> None:
    tested = {type(error) for error, *_ in ERRORS} | {ClientError}
    for error in below(ServiceError):
        assert error in tested or error.__module__ not in ("service.errors", "service.api.errors"), error
        assert status_of(error) < 500 or not issubclass(error, ClientError)
        assert status_of(error) != 500, f"{error} counts as a fault of the server"


def test_an_error_of_the_engine_is_mapped_as_its_base_class_is() -> None:
    class OutOfMemory(Unavailable):
        pass

    assert error_response(OutOfMemory("x"), "/", "id").status == 503


def test_faults_are_listed_and_long_texts_are_cut() -> None:
    faults = tuple(Fault(("items", index, "n" * 1000), "m" * 1000) for index in range(MAX_FAULTS + 5))
    content = json.loads(error_response(Invalid("d" * 1000, faults=faults), "/", "id").body)
    assert len(content["errors"]) == MAX_FAULTS
    assert content["errors"][1]["loc"][:2] == ["items", 1]
    texts = [content["detail"], content["errors"][0]["msg"], content["errors"][0]["loc"][2]]
    assert all(len(text) == MAX_TEXT + 3 for text in texts)
    assert len(json.loads(error_response(Invalid("d" * 1000), "/v2", "id").body)["error"]) == MAX_TEXT + 3


class Row(BaseModel):
    values: list[int]


def rejected(text: str) -> ServiceError:
    with pytest.raises(ValidationError) as error:
        Row.model_validate_json(text)
    return from_validation(error.value)


def test_what_pydantic_rejects_is_malformed_or_invalid() -> None:
    assert isinstance(rejected("{"), Malformed)
    assert isinstance(rejected("[]"), Invalid)
    found = rejected('{"values": [1, "x", 2, "y"]}')
    assert [fault.loc for fault in found.faults] == [("values", 1), ("values", 3)]
    many = rejected('{"values": [' + ",".join(['"x"'] * 2000) + "]}")
    assert isinstance(many, Invalid)
    assert (many.faults, "2,000 places" in many.detail) == ((), True)
