"""The Open Inference Protocol (V2): all that is under `/v2`."""
