"""ONNX Runtime with its telemetry disabled. All other modules import it from here.

Since 1.29, ONNX Runtime writes a device id and a database under `~/.cache` and sends events to Microsoft, unless
`ORT_DISABLE_TELEMETRY` is set when it is imported. A value set by the operator is kept.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

__all__ = ["ort"]
