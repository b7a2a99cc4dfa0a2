"""Calls every operation with the client that openapi-python-client has made of the document.

`python ask_openapi_python_client.py FOLDER URL ADMIN_KEY DOCUMENT PICTURE`; the client is `FOLDER/client`.
"""

import importlib
import json
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from calls import calls
from jsonschema import Draft202012Validator


def complies(document: dict[str, Any], content: dict[str, Any], body: bytes) -> bool:
    """Return whether a JSON body matches the document."""
    [[media_type, described]] = [each for each in content.items() if "json" in each[0]] or [*content.items()][:1]
    if "json" not in media_type:
        return bool(body)
    schema = {"components": document["components"], **described["schema"]}
    return Draft202012Validator(schema).is_valid(json.loads(body))


def main(folder: str, url: str, key: str, document_file: str, picture_file: str) -> None:
    sys.path.insert(0, folder)
    models, types = importlib.import_module("client.models"), importlib.import_module("client.types")
    clients = importlib.import_module("client.client")
    # An answer that may be a picture or JSON is JSON for those who say so.
    client = clients.AuthenticatedClient(url, token=key, headers={"Accept": "application/json"}, timeout=60)
    document, picture = json.loads(Path(document_file).read_text()), Path(picture_file)
    for call in calls(document, picture):
        function = importlib.import_module(f"client.api.{call.tag}.{call.operation_id}").sync_detailed
        arguments: dict[str, Any] = dict(call.arguments)
        if call.schema:
            arguments["body"] = getattr(models, call.schema).from_dict(call.body)
        answer = function(client=client, **arguments)
        assert answer.status_code == call.status, (call.operation_id, answer)
        assert answer.parsed is not None, (call.operation_id, answer)
        assert complies(document, call.answer, answer.content), (call.operation_id, answer.content)
        print(call.operation_id)

    digits = importlib.import_module("client.api.tasks.digits").sync

    def file() -> Any:
        return types.File(payload=BytesIO(picture.read_bytes()), file_name="digit.jpg", mime_type="image/jpeg")

    for body in (models.DigitsFilesBody(images=[file(), file()]), file()):
        found = digits(client=client, body=body, version="1")
        assert {each.digit for each in found.predictions} == {7}, found


main(*sys.argv[1:])
