"""Inference: the one path of a request from its preprocessing to its outputs, whatever protocol it came by."""
