"""The networks of `digits` in eight-bit integers, laid out as ONNX Runtime runs them fastest on CPU.

Every layer but the last multiplies bytes and accumulates in 32 bits. Activations are rounded with scales fixed in
advance, so that no answer depends on its neighbours. Channels come last, as the integer convolutions expect.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from training.digits.evaluate import INPUTS, OUTPUTS
from training.digits.model import SIZE
from training.graph_builder import MICROSOFT, Graph
from training.quantize import LEVELS, quantize_weights

CALIBRATION_ROWS = 2000
"""Training images that the scales of activations are fitted to."""

CALIBRATION_PERCENTILE = 99.999
"""Of a layer's positive outputs; larger ones saturate."""

PIXEL_SCALE = np.float32(1 / 255)
"""The networks read images as 0 to 1."""

Floats = npt.NDArray[np.float32]


def write_perceptron(layers: nn.Sequential, temperature: Tensor, path: Path) -> Path:
    """Write the graph of a network of two dense layers."""
    hidden, last = (layer for layer in layers if isinstance(layer, nn.Linear))
    graph = Graph(INPUTS, OUTPUTS)
    values = graph.node("Reshape", INPUTS[0].name, [0, SIZE * SIZE])
    _finish(graph, _dense(graph, values, PIXEL_SCALE, _array(hidden.weight), _array(hidden.bias)), last, temperature)
    return graph.write(path)


def write_convolutional(
    layers: nn.Sequential, temperature: Tensor, pictures: npt.NDArray[np.uint8], path: Path
) -> Path:
    """Write the graph of a network of convolutions, the last one as large as its map, and a dense layer.

    Args:
        layers: with folded batch norms.
        pictures: training images for calibration, uint8 `[n, 28, 28]`.
    """
    first, *middle, head = (layer for layer in layers if isinstance(layer, nn.Conv2d))
    scale, *scales = _activation_scales(layers, pictures[:CALIBRATION_ROWS])
    graph = Graph(INPUTS, OUTPUTS)
    values = _convolve_and_pool(graph, INPUTS[0].name, first, scale)
    for layer, next_scale in zip(middle, scales, strict=False):
        weights, bias = _array(layer.weight), _array(layer.bias)
        values = _convolve(graph, values, scale, weights, bias, next_scale, int(layer.padding[0]), layer.stride[0])
        scale = next_scale
    values = graph.node("NhwcMaxPool", values, kernel_shape=[2, 2], strides=[2, 2], domain=MICROSOFT)
    weights = _array(head.weight).transpose(0, 2, 3, 1).reshape(head.out_channels, -1)
    values = graph.node("Reshape", values, [0, weights.shape[1]])
    _finish(graph, _dense(graph, values, scale, weights, _array(head.bias)), layers[-1], temperature)
    return graph.write(path)


@torch.inference_mode()
def _activation_scales(layers: nn.Sequential, pictures: npt.NDArray[np.uint8]) -> list[np.float32]:
    """Return the scale after each ReLU but the last, whose output stays in float32."""
    values = torch.from_numpy(pictures[:, None]) * torch.tensor(PIXEL_SCALE)
    scales = []
    for layer in layers:
        values = layer(values)
        if isinstance(layer, nn.ReLU):
            highest = np.percentile(values[values > 0].numpy(), CALIBRATION_PERCENTILE)
            scales.append(np.float32(highest / LEVELS))
    return scales[:-1]


def _convolve_and_pool(graph: Graph, pictures: str, layer: nn.Conv2d, scale: np.float32) -> str:
    """Add the first convolution and 2x2 max pooling.

    The four pooled pixels become channels of a convolution with stride 2: ONNX Runtime then copies a third as much.
    """
    channels, half = layer.out_channels, SIZE // 2
    wide = np.zeros((2, 2, channels, 1, 4, 4), np.float32)
    for row in range(2):
        for column in range(2):
            wide[row, column, ..., row : row + 3, column : column + 3] = _array(layer.weight)
    values = graph.node("Reshape", pictures, [0, SIZE, SIZE, 1])
    values = _convolve(
        graph, values, PIXEL_SCALE, wide.reshape(-1, 1, 4, 4), np.tile(_array(layer.bias), 4), scale, 1, 2
    )
    values = graph.node("Reshape", values, [0, half * half, 4, channels])
    values = graph.node("NhwcMaxPool", values, kernel_shape=[1, 4], strides=[1, 4], domain=MICROSOFT)
    return graph.node("Reshape", values, [0, half, half, channels])


def _convolve(
    graph: Graph,
    values: str,
    scale: np.float32,
    weights: Floats,
    bias: Floats,
    next_scale: np.float32,
    padding: int,
    stride: int,
) -> str:
    """Add a convolution and its ReLU: unsigned bytes saturate at 0."""
    integers, weight_scales = quantize_weights(weights)
    return graph.node(
        "QLinearConv",
        *(values, scale, np.uint8(0)),
        *(integers, weight_scales, np.zeros(len(integers), np.int8)),
        *(next_scale, np.uint8(0)),
        _round(bias, weight_scales * scale),
        pads=[padding] * 4,
        strides=[stride] * 2,
        channels_last=1,
        domain=MICROSOFT,
    )


def _dense(graph: Graph, values: str, scale: np.float32, weights: Floats, bias: Floats) -> str:
    """Add a dense layer on bytes and its ReLU, with float32 outputs."""
    integers, weight_scales = quantize_weights(weights)
    values = graph.node(
        "QGemm",
        *(values, scale, np.uint8(0)),
        *(integers.T, weight_scales, np.zeros(len(integers), np.int8)),
        _round(bias, weight_scales * scale),
        domain=MICROSOFT,
    )
    return graph.node("Relu", values)


def _finish(graph: Graph, values: str, layer: nn.Module, temperature: Tensor) -> None:
    """Add the last layer and the softmax in float32: the layer is small, and probabilities are calibrated."""
    assert isinstance(layer, nn.Linear)
    weights, bias = (_array(part) / temperature.numpy() for part in (layer.weight, layer.bias))
    graph.node("Softmax", graph.node("Gemm", values, weights.T, bias), name=OUTPUTS[0].name, axis=1)


def _round(bias: Floats, scales: Floats) -> npt.NDArray[np.int32]:
    return np.round(bias / scales).astype(np.int32)


def _array(parameter: Tensor | None) -> Floats:
    assert parameter is not None
    array: Floats = parameter.detach().numpy()
    return array
