"""Sessions of ONNX Runtime: the only package that knows it."""
