"""HTTP/1.1 on a connection: a protocol class for uvicorn that knows nothing of the service behind it.

`states` is the state machine, `connection` drives it, `reader` turns bytes into requests (`head`, `chunked`),
`exchange` is one request and its response as ASGI sees them, `options` is what the service hands in.
"""
