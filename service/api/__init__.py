"""Bytes in, bytes out: the only room beside `service.bento` that knows HTTP."""
