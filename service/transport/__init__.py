"""HTTP/1.1 on a connection: a protocol class for uvicorn that knows nothing of the service behind it.

`states` is the state machine, `connection` drives it, `watchdog` limits its waits. `reader` parses bytes to requests
(`head`, `chunked`), `exchange` is one request and its response in ASGI, `options` is the configuration.
"""
