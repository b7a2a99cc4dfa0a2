"""ONNX Runtime with its telemetry switched off. No other module imports it.

From 1.29 on, ONNX Runtime writes a device id and a database under `~/.cache` and sends events to Microsoft. It reads
`ORT_DISABLE_TELEMETRY` when it is imported. A value that the operator has set stays.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

__all__ = ["ort"]
