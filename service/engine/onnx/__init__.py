"""ONNX Runtime: sessions, CUDA and shape buckets."""
