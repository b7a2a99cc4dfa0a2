"""The server under deepserve with nothing to do: it takes the whole body and answers every request alike.

`bentoml serve load_tests.bare:Bare` starts it: the same worker, event loop and HTTP protocol class as deepserve's.
With `BARE_PROTOCOL` set, uvicorn's choice of classes by that name replaces the protocol class: `httptools` or `h11`.
"""

import os

import bentoml
import uvicorn.config
from starlette.types import ASGIApp, Receive, Scope, Send

from service.bento import ApiService

ANSWER = b'{"outputs":[{"name":"probabilities","shape":[1,10],"datatype":"FP32","data":[0,0,0,0,0,0,0,1,0,0]}]}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]


class BareService(ApiService):
    """Deepserve's way to be served, with a constant in place of the front door."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """The constant; BentoML's app still starts and stops the service."""
        app = super().to_asgi(is_main)
        if (protocol := os.environ.get("BARE_PROTOCOL")) is not None:
            uvicorn.config.HTTP_PROTOCOLS["auto"] = uvicorn.config.HTTP_PROTOCOLS[protocol]

        async def constant(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await app(scope, receive, send)
                return
            while (await receive()).get("more_body"):
                pass
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await send({"type": "http.response.body", "body": ANSWER})

        return constant


@bentoml.service(name="bare", service_class=BareService)
class Bare:
    """A service without methods."""
