"""Bytes in, bytes out: the only room beside `service.app` that knows HTTP."""
