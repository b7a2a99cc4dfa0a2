"""The ONNX graphs of the sentiment network, float32 and int8, laid out so that little is copied.

The graph looks up the words and bigrams around each place and multiplies once, where training convolves. Places past
the end of a review repeat its last one: that changes no maximum and needs no mask. One operator reads both directions,
each review from its own end, time first. In int8 embeddings stay the bytes that are stored; only weights are rounded.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import TensorProto
from torch import Tensor, nn

from service.engine.session import Precision
from service.registry.card import GRAPHS
from service.tasks.sentiment import FIRST_TOKENS, MAX_TOKENS, PADDING, TOKENIZER_FILE, UNKNOWN
from service.tensors import TensorSpec
from training.graph_builder import MICROSOFT, Graph
from training.quantize import quantize_weights
from training.sentiment.linear import MULTIPLIER
from training.sentiment.model import FULL, POOLED, Linear, Recurrent, Sentiment

Floats = npt.NDArray[np.float32]

OUTPUTS = (
    TensorSpec(
        name="probabilities",
        dtype="float32",
        shape=("batch", 2),
        meaning="probability that the review is negative, and positive",
        range="0 to 1, each row sums to 1",
    ),
    TensorSpec(
        name="log_odds",
        dtype="float32",
        shape=("batch", 2),
        meaning="log-odds of positive by the recurrent network alone, and by the linear model alone",
        range="any; uncalibrated",
    ),
)
ZERO_POINT = 128
"""Zero point of the unsigned bytes of embeddings."""


def inputs(vocabulary: int) -> tuple[TensorSpec, ...]:
    """Return the inputs of a graph with that vocabulary."""
    return (
        TensorSpec(
            name="tokens",
            dtype="int64",
            shape=("batch", "length"),
            meaning=f"ids by {TOKENIZER_FILE} of words, negated words and marks, {MAX_TOKENS} at most: of more, the "
            f"first {FIRST_TOKENS} and the last; padded on the right with 0",
            range=f"0 to {vocabulary - 1}; any other number is an unknown word",
        ),
    )


def write(network: Sentiment, directory: Path, precision: Precision) -> Path:
    """Write the graph of a network on CPU with compressed embeddings."""
    h = network.recurrent.h
    graph = Graph(inputs(len(network.recurrent.plain)), OUTPUTS)
    vocabulary = len(network.recurrent.plain)
    valid = graph.node("Clip", "tokens", _id(0), _id(vocabulary - 1))
    tokens = graph.node("Where", graph.node("Equal", valid, "tokens"), "tokens", _id(UNKNOWN))
    around = graph.node("Pad", tokens, [1, 1], _id(PADDING), [1])  # [batch, 1 + length + 1]
    following = graph.node("Slice", around, [2], [np.iinfo(np.int64).max], [1])
    pairs = graph.node("Add", graph.node("Mul", tokens, _id(MULTIPLIER)), following)
    alone = graph.node("Equal", following, _id(PADDING))
    deep = _recurrent(graph, network.recurrent, tokens, around, _bucket(graph, pairs, alone, h.buckets, 0), precision)
    features = _bucket(graph, pairs, alone, network.linear.buckets, network.linear.vocabulary)
    wide = _linear(graph, network.linear, graph.node("Concat", tokens, features, axis=1))
    parts = graph.node("Concat", deep, wide, axis=1, name=OUTPUTS[1].name)
    full, slope = (_weighed(graph, parts, line) for line in (network.blend.weights, network.blend.slopes))
    logits = graph.node("Add", full, graph.node("Mul", slope, _shortness(graph, tokens)))
    graph.node("Sigmoid", logits, name=OUTPUTS[0].name)
    return graph.write(directory / GRAPHS[precision])


def _weighed(graph: Graph, parts: str, line: tuple[float, float, float]) -> str:
    """Add the weighed sum of both parts and its negative, for negative and positive: `[batch, 2]`."""
    *weights, offset = line
    return graph.node(
        "Gemm", parts, np.outer(weights, (-1, 1)).astype(np.float32), np.array([-offset, offset], np.float32)
    )


def _shortness(graph: Graph, tokens: str) -> str:
    """Add `Blend.shortness`: `[batch, 1]`."""
    known = graph.node("Cast", graph.node("Greater", tokens, _id(UNKNOWN)), to=TensorProto.FLOAT)
    count = graph.node("Clip", graph.node("ReduceSum", known, [1]), np.float32(1), np.float32(FULL))
    return graph.node("Log", graph.node("Mul", count, np.float32(1 / FULL)))


def _bucket(graph: Graph, pairs: str, alone: str, buckets: int, behind: int) -> str:
    """Add the bucket of each bigram, from `behind` + 1 on; 0 where no token follows."""
    number = graph.node("Add", graph.node("Mod", pairs, _id(buckets - 1)), _id(behind + 1))
    return graph.node("Where", alone, _id(PADDING), number)


def _linear(graph: Graph, network: Linear, features: str) -> str:
    """Add the sum of the weights of distinct features: `[batch, 1]`."""
    count = graph.node("Shape", features, start=1)
    ordered = graph.node("TopK", features, count, axis=1, largest=0, outputs=2)
    before = graph.node("Slice", graph.node("Pad", ordered, [1, 0], _id(PADDING), [1]), [0], [-1], [1])
    weight = graph.node("Gather", graph.table("linear", network.weights.numpy()[:, 0]), ordered)
    first = graph.node("Where", graph.node("Equal", ordered, before), np.float16(0), weight)
    total = graph.node("ReduceSum", graph.node("Cast", first, to=TensorProto.FLOAT), [1])
    return graph.node("Add", total, np.float32(network.bias))


def _recurrent(graph: Graph, network: Recurrent, tokens: str, around: str, pairs: str, precision: Precision) -> str:
    """Add the log-odds of the recurrent part: `[batch, 1]`."""
    marks = graph.node("ReduceSum", graph.node("Min", tokens, _id(1)), [1], keepdims=0)
    length = graph.node("Max", marks, _id(1))  # [batch]
    pooled = graph.node("Div", graph.node("Add", length, _id(POOLED - 1)), _id(POOLED))  # [batch]
    steps = graph.node("ReduceMax", pooled, keepdims=0)
    windows = _windows(graph, tokens, length, steps)
    pairs = graph.node("Pad", pairs, [1, 1], _id(PADDING), [1])
    words, pairs = (graph.node("Gather", graph.node("Reshape", ids, [-1]), windows) for ids in (around, pairs))
    places = _multiply(graph, network, _look_up(graph, network, words, pairs), precision)
    values = graph.node("Relu", graph.node("ReduceMax", places, [1], keepdims=0))  # [steps, batch, channels]
    states = _read(graph, network, values, graph.node("Cast", pooled, to=TensorProto.INT32))
    return _weigh(graph, states, pooled, steps, network.out)


def _windows(graph: Graph, tokens: str, length: str, steps: str) -> str:
    """Add the flat positions of the tokens before, at and after each place, `[steps, 4, batch, 3]`."""
    place = graph.node("Range", _id(0), graph.node("Mul", steps, _id(POOLED)), _id(1))
    place = graph.node("Reshape", place, [-1, POOLED, 1])
    place = graph.node("Min", place, graph.node("Sub", length, _id(1)))  # [steps, 4, batch]
    rows, columns = (graph.node("Squeeze", graph.node("Shape", tokens, start=axis, end=axis + 1)) for axis in (0, 1))
    row = graph.node("Range", _id(0), rows, _id(1))
    start = graph.node("Mul", row, graph.node("Add", columns, _id(2)))
    here = graph.node("Unsqueeze", graph.node("Add", place, start), [3])
    return graph.node("Add", here, np.arange(3))


def _look_up(graph: Graph, network: Recurrent, words: str, pairs: str) -> str:
    """Add the embeddings' bytes of three neighbours, concatenated: `[steps, 4, batch, 3 * width]`."""
    found = []
    for name, table, ids in (("words", network.words, words), ("bigrams", network.bigrams, pairs)):
        codes = graph.table(name, (table.codes.numpy().astype(np.int16) + ZERO_POINT).astype(np.uint8))
        found.append(graph.node("Reshape", graph.node("Gather", codes, ids), [0, 0, 0, -1]))
    return graph.node("Concat", *found, axis=3)


def _multiply(graph: Graph, network: Recurrent, codes: str, precision: Precision) -> str:
    """Add the convolution: `[steps, 4, batch, channels]`."""
    weights, bias = _weights(network), _array(network.bias)
    if precision == "float32":
        vectors = graph.node("DequantizeLinear", codes, np.float32(1), np.uint8(ZERO_POINT))
        return graph.node("Add", graph.node("MatMul", vectors, weights.T), bias)
    integers, scale = quantize_weights(weights)
    return graph.node(
        "MatMulIntegerToFloat",
        *(codes, integers.T, np.float32(1), scale),
        *(np.uint8(ZERO_POINT), np.zeros(len(scale), np.int8), bias),
        domain=MICROSOFT,
    )


def _read(graph: Graph, network: Recurrent, values: str, lengths: str) -> str:
    """Add the states of both directions, `[steps, 2, batch, hidden]`, 0 past the end."""
    both = [_cell(layer) for layer in (network.forwards, network.backwards)]
    weights = [np.stack(parts) for parts in zip(*both, strict=True)]
    hidden = network.h.hidden
    if network.h.cell == "lstm":
        return graph.node("LSTM", values, *weights, lengths, direction="bidirectional", hidden_size=hidden)
    return graph.node(
        "GRU", values, *weights, lengths, direction="bidirectional", hidden_size=hidden, linear_before_reset=1
    )


def _weigh(graph: Graph, states: str, pooled: str, steps: str, out: nn.Linear) -> str:
    """Add the output layer on the maximum and the mean of the states."""
    of_maximum, of_mean = _array(out.weight).reshape(2, 2, 1, -1)
    step = graph.node("Unsqueeze", graph.node("Range", _id(0), steps, _id(1)), [1])
    left = graph.node("Sub", graph.node("Sub", pooled, _id(1)), step)  # [steps, batch]
    # States are above -1: subtracting 1 or more past the end keeps them from being the maximum.
    past = graph.node("Cast", graph.node("Min", left, _id(0)), to=TensorProto.FLOAT)
    # The leading dimension of 1 makes ONNX Runtime choose its faster reduction.
    within = graph.node("Add", states, graph.node("Unsqueeze", past, [0, 2, 4]))  # [1, steps, 2, batch, hidden]
    maximum = graph.node("ReduceMax", within, [1], keepdims=0)  # [1, 2, batch, hidden]
    total = graph.node("ReduceSum", states, [0], keepdims=0)
    average = graph.node("Div", total, graph.node("Unsqueeze", graph.node("Cast", pooled, to=TensorProto.FLOAT), [1]))
    weighed = graph.node("Add", graph.node("Mul", maximum, of_maximum), graph.node("Mul", average, of_mean))
    log_odds = graph.node("Unsqueeze", graph.node("ReduceSum", weighed, [0, 1, 3], keepdims=0), [1])
    return graph.node("Add", log_odds, _array(out.bias))


def _weights(network: Recurrent) -> Floats:
    """Return the convolution's weights, `[channels, 3 * word_width + 3 * bigram_width]`, times the embeddings' scales.

    Columns: words before, at and after the place, then bigrams.
    """
    thirds = _array(network.mix.weight).reshape(3, network.h.channels, -1)
    split = np.split(thirds, [network.h.word_width], axis=2)
    scales = (network.words.scale, network.bigrams.scale)
    scaled = [part * scale.numpy() for part, scale in zip(split, scales, strict=True)]
    return np.concatenate([part.transpose(1, 0, 2).reshape(network.h.channels, -1) for part in scaled], axis=1)


def _cell(layer: nn.LSTM | nn.GRU) -> tuple[Floats, Floats, Floats]:
    """Return the layer's input weights, recurrent weights and biases, with the gates in ONNX's order."""
    # torch has input, forget, cell, output, or reset, update, new;
    # ONNX has input, output, forget, cell, or update, reset, new.
    order = [0, 3, 1, 2] if isinstance(layer, nn.LSTM) else [1, 0, 2]
    gates = [_array(parameter).reshape(len(order), layer.hidden_size, -1)[order] for parameter in layer.parameters()]
    inner, outer = (weight.reshape(-1, weight.shape[2]) for weight in gates[:2])
    return inner, outer, np.concatenate([bias.ravel() for bias in gates[2:]])


def _id(number: int) -> np.int64:
    return np.int64(number)


def _array(parameter: Tensor) -> Floats:
    array: Floats = parameter.detach().numpy()
    return array
