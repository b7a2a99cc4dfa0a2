"""Handwritten digits: a convolutional network, and the multi-layer perceptron that it is compared with."""
