"""Both networks of `digits` in eight-bit integers, as ONNX Runtime runs them fastest on CPU.

Pictures are bytes already. Every layer but the last multiplies integers and adds them in 32 bits; what it passes on is
rounded to bytes by a step that is fixed in advance, so that no answer depends on its neighbours. Pictures lie channels
last, as ONNX Runtime's integer convolutions want them.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from service.registry.card import GRAPHS
from training.digits_figures import INPUTS, OUTPUTS, SIZE
from training.graph import MICROSOFT, Graph
from training.int8 import LEVELS, quantized

GAUGED = 2000
"""Pictures that the steps between layers are fitted to."""

KEPT = 0.99999
"""Share of a layer's positive outputs that bytes tell apart; the few above are cut off."""

PIXEL = np.float32(1 / 255)
"""A step of the pictures: networks read them as 0 to 1."""

Floats = npt.NDArray[np.float32]


def write_perceptron(layers: nn.Sequential, temperature: Tensor, directory: Path) -> Path:
    """Writes a network of two dense layers."""
    hidden, last = (layer for layer in layers if isinstance(layer, nn.Linear))
    graph = Graph(INPUTS, OUTPUTS)
    values = graph.node("Reshape", INPUTS[0].name, [0, SIZE * SIZE])
    _finish(graph, _dense(graph, values, PIXEL, _array(hidden.weight), _array(hidden.bias)), last, temperature)
    return graph.write(directory / GRAPHS["int8"])


def write_convolutional(
    layers: nn.Sequential, temperature: Tensor, pictures: npt.NDArray[np.uint8], directory: Path
) -> Path:
    """Writes a network of convolutions, two of them pooled, a last one as large as its map, and a dense layer.

    Args:
        layers: batch norms folded.
        pictures: uint8 `[n, 28, 28]`, of the training split, in any order.
    """
    first, *middle, head = (layer for layer in layers if isinstance(layer, nn.Conv2d))
    step, *steps = _steps(layers, pictures[:GAUGED])
    graph = Graph(INPUTS, OUTPUTS)
    values = _convolve_and_pool(graph, INPUTS[0].name, first, step)
    for layer, following in zip(middle, steps, strict=False):
        weights, bias = _array(layer.weight), _array(layer.bias)
        values = _convolve(graph, values, step, weights, bias, following, int(layer.padding[0]), layer.stride[0])
        step = following
    values = graph.node("NhwcMaxPool", values, kernel_shape=[2, 2], strides=[2, 2], domain=MICROSOFT)
    weights = _array(head.weight).transpose(0, 2, 3, 1).reshape(head.out_channels, -1)
    values = graph.node("Reshape", values, [0, weights.shape[1]])
    _finish(graph, _dense(graph, values, step, weights, _array(head.bias)), layers[-1], temperature)
    return graph.write(directory / GRAPHS["int8"])


@torch.inference_mode()
def _steps(layers: nn.Sequential, pictures: npt.NDArray[np.uint8]) -> list[np.float32]:
    """The step between bytes after each ReLU but the last, which passes on floats."""
    values = torch.from_numpy(pictures[:, None]) * torch.tensor(PIXEL)
    steps = []
    for layer in layers:
        values = layer(values)
        if isinstance(layer, nn.ReLU):
            steps.append(np.float32(np.quantile(values[values > 0].numpy(), KEPT) / LEVELS))
    return steps[:-1]


def _convolve_and_pool(graph: Graph, pictures: str, layer: nn.Conv2d, step: np.float32) -> str:
    """The first convolution and the maximum of every 2x2 pixels.

    The four become four times the channels of a convolution with strides of two: ONNX Runtime then copies a third as
    much before it multiplies.
    """
    channels, half = layer.out_channels, SIZE // 2
    wide = np.zeros((2, 2, channels, 1, 4, 4), np.float32)
    for row in range(2):
        for column in range(2):
            wide[row, column, ..., row : row + 3, column : column + 3] = _array(layer.weight)
    values = graph.node("Reshape", pictures, [0, SIZE, SIZE, 1])
    values = _convolve(graph, values, PIXEL, wide.reshape(-1, 1, 4, 4), np.tile(_array(layer.bias), 4), step, 1, 2)
    values = graph.node("Reshape", values, [0, half * half, 4, channels])
    values = graph.node("NhwcMaxPool", values, kernel_shape=[1, 4], strides=[1, 4], domain=MICROSOFT)
    return graph.node("Reshape", values, [0, half, half, channels])


def _convolve(
    graph: Graph,
    values: str,
    step: np.float32,
    weights: Floats,
    bias: Floats,
    following: np.float32,
    padding: int,
    stride: int,
) -> str:
    """A convolution and its ReLU: bytes that count from 0 cut off what is below it."""
    integers, scale = quantized(weights)
    return graph.node(
        "QLinearConv",
        *(values, step, np.uint8(0)),
        *(integers, scale, np.zeros(len(integers), np.int8)),
        *(following, np.uint8(0)),
        _whole(bias, scale * step),
        pads=[padding] * 4,
        strides=[stride] * 2,
        channels_last=1,
        domain=MICROSOFT,
    )


def _dense(graph: Graph, values: str, step: np.float32, weights: Floats, bias: Floats) -> str:
    """A dense layer of bytes, and its ReLU, to floats."""
    integers, scale = quantized(weights)
    values = graph.node(
        "QGemm",
        *(values, step, np.uint8(0)),
        *(integers.T, scale, np.zeros(len(integers), np.int8)),
        _whole(bias, scale * step),
        domain=MICROSOFT,
    )
    return graph.node("Relu", values)


def _finish(graph: Graph, values: str, layer: nn.Module, temperature: Tensor) -> None:
    """The last layer is small, and the probabilities are calibrated: it stays in floats."""
    assert isinstance(layer, nn.Linear)
    weights, bias = (_array(part) / temperature.numpy() for part in (layer.weight, layer.bias))
    graph.node("Softmax", graph.node("Gemm", values, weights.T, bias), name=OUTPUTS[0].name, axis=1)


def _whole(bias: Floats, step: Floats) -> npt.NDArray[np.int32]:
    return np.round(bias / step).astype(np.int32)


def _array(parameter: Tensor | None) -> Floats:
    assert parameter is not None
    array: Floats = parameter.detach().numpy()
    return array
