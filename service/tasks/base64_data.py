"""Binary data in JSON: base64 in the forms that clients send."""

from typing import Annotated
from urllib.parse import unquote

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator
from pydantic_core import PydanticCustomError

_SPACE = b" \t\n\v\f\r"


def without_wrapping(text: str) -> str:
    """Remove white space (RFC 2045, section 6.8) and the prefix of a data URI (RFC 2397) from base64.

    Raises:
        ValueError: the text is a data URI with another encoding.
    """
    if text[:16].lstrip()[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or head.rpartition(";")[2].strip().lower() != "base64":
            raise ValueError("a data URI must be in base64")
        text = unquote(text)
    return text.encode(errors="replace").translate(None, _SPACE).decode()


def _decode(value: object, decode: ValidatorFunctionWrapHandler) -> object:
    """Decode base64 in either alphabet, with or without padding; on failure, try again without wrapping."""
    try:
        return decode(value)
    except ValidationError:
        if not isinstance(value, str):
            raise
    try:
        return decode(without_wrapping(value))
    except ValueError as error:  # ValidationError is one
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise PydanticCustomError("base64", "{reason}", {"reason": reason}) from error


Base64Data = Annotated[
    bytes, WrapValidator(_decode), WithJsonSchema({"type": "string", "contentEncoding": "base64"}, mode="validation")
]
"""A field of a `Request`: bytes, in JSON as base64, which may be wrapped in lines or be a data URI."""
