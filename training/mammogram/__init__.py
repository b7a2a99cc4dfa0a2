"""Mammographic masses: a multi-layer perceptron on four measurements."""
