"""Calls every operation with the Python client that openapi-generator has made of the document.

`python ask_openapi_generator.py FOLDER URL ADMIN_KEY DOCUMENT PICTURE`; the client is `FOLDER/openapi_client`.
"""

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from calls import RequestContext, calls


def answer_to(openapi: Any, client: Any, call: RequestContext) -> tuple[int, Any]:
    """Return the status and the parsed body."""
    api = getattr(openapi, f"{call.tag.capitalize()}Api")(client)
    arguments: dict[str, Any] = dict(call.arguments)
    if call.schema:
        name = re.sub("(?<!^)(?=[A-Z])", "_", call.schema).lower()
        arguments[name] = getattr(openapi, call.schema).from_dict(call.body)
    try:
        answer = getattr(api, f"{call.operation_id}_with_http_info")(**arguments)
    except openapi.ApiException as error:
        return error.status, error.data
    return answer.status_code, answer.data


def main(folder: str, url: str, key: str, document_file: str, picture_file: str) -> None:
    sys.path.insert(0, folder)
    openapi = importlib.import_module("openapi_client")
    document = json.loads(Path(document_file).read_text())
    with openapi.ApiClient(openapi.Configuration(host=url, access_token=key)) as client:
        for call in calls(document, Path(picture_file)):
            status, data = answer_to(openapi, client, call)
            assert status == call.status, (call.operation_id, status, data)
            assert data is not None, call.operation_id
            if call.operation_id == "fashion":
                assert data.seed == call.body["seed"], data
            print(call.operation_id)


main(*sys.argv[1:])
