"""The sentiment model as it is served: the network of `training.sentiment_network`, laid out so that little is copied.

Where training convolves vectors, the graph first looks up the words and bigrams around each place and multiplies once;
places past the end of a review repeat its last one, which changes no maximum and spares masks; and one operator reads
both ways, each review from its own end, time first as it wants it. In eight bits the vectors are bytes as they are
stored, so that only the weights behind them are rounded.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import TensorProto
from torch import Tensor, nn

from service.engine.session import Precision
from service.registry.card import GRAPHS
from service.tasks.sentiment import MAX_TOKENS, PADDING, TOKENIZER_FILE, UNKNOWN
from service.tensors import TensorSpec
from training.graph import MICROSOFT, Graph
from training.int8 import quantized
from training.sentiment_counts import MULTIPLIER
from training.sentiment_network import POOLED, Linear, Recurrent, Sentiment

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
MIDDLE = 128
"""What stands for 0 in the bytes of vectors: they are unsigned, as processors multiply them."""


def inputs(vocabulary: int) -> tuple[TensorSpec, ...]:
    """What the graph of a model that knows so many words takes."""
    return (
        TensorSpec(
            name="tokens",
            dtype="int64",
            shape=("batch", "length"),
            meaning=f"ids of the last {MAX_TOKENS} words and marks by {TOKENIZER_FILE}, padded on the right with 0",
            range=f"0 to {vocabulary - 1}; any other number is an unknown word",
        ),
    )


def write(network: Sentiment, directory: Path, precision: Precision) -> Path:
    """Writes the graph of a network on CPU whose tables are compressed."""
    h = network.recurrent.h
    graph = Graph(inputs(h.vocabulary), OUTPUTS)
    known = graph.node("Clip", "tokens", _id(0), _id(h.vocabulary - 1))
    tokens = graph.node("Where", graph.node("Equal", known, "tokens"), "tokens", _id(UNKNOWN))
    around = graph.node("Pad", tokens, [1, 1], _id(PADDING), [1])  # [batch, 1 + length + 1]
    following = graph.node("Slice", around, [2], [np.iinfo(np.int64).max], [1])
    pairs = graph.node("Add", graph.node("Mul", tokens, _id(MULTIPLIER)), following)
    alone = graph.node("Equal", following, _id(PADDING))
    deep = _recurrent(graph, network.recurrent, tokens, around, _bucket(graph, pairs, alone, h.buckets, 0), precision)
    features = _bucket(graph, pairs, alone, network.linear.buckets, network.linear.vocabulary)
    wide = _linear(graph, network.linear, graph.node("Concat", tokens, features, axis=1))
    parts = graph.node("Concat", deep, wide, axis=1, name=OUTPUTS[1].name)
    *weights, offset = network.blend
    blend = np.outer(weights, (-1, 1)).astype(np.float32)
    logits = graph.node("Gemm", parts, blend, np.array([-offset, offset], np.float32))
    graph.node("Sigmoid", logits, name=OUTPUTS[0].name)
    return graph.write(directory / GRAPHS[precision])


def _bucket(graph: Graph, pairs: str, alone: str, buckets: int, behind: int) -> str:
    """The bucket of each pair, `behind` + 1 and more; 0 where a token stands alone."""
    number = graph.node("Add", graph.node("Mod", pairs, _id(buckets - 1)), _id(behind + 1))
    return graph.node("Where", alone, _id(PADDING), number)


def _linear(graph: Graph, network: Linear, features: str) -> str:
    """The sum of the weights of the features that occur, each once: `[batch, 1]`. Equal ones sort together."""
    count = graph.node("Shape", features, start=1)
    ordered = graph.node("TopK", features, count, axis=1, largest=0, outputs=2)
    before = graph.node("Slice", graph.node("Pad", ordered, [1, 0], _id(PADDING), [1]), [0], [-1], [1])
    weight = graph.node("Gather", graph.table("linear", network.weights.numpy()[:, 0]), ordered)
    fresh = graph.node("Where", graph.node("Equal", ordered, before), np.float16(0), weight)
    total = graph.node("ReduceSum", graph.node("Cast", fresh, to=TensorProto.FLOAT), [1])
    return graph.node("Add", total, np.float32(network.bias))


def _recurrent(graph: Graph, network: Recurrent, tokens: str, around: str, pairs: str, precision: Precision) -> str:
    """The log-odds of the recurrent network: `[batch, 1]`."""
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
    """Where the token before each place, at it, and after it stand in the flattened rows, `[steps, 4, batch, 3]`."""
    place = graph.node("Range", _id(0), graph.node("Mul", steps, _id(POOLED)), _id(1))
    place = graph.node("Reshape", place, [-1, POOLED, 1])
    place = graph.node("Min", place, graph.node("Sub", length, _id(1)))  # [steps, 4, batch]
    rows, columns = (graph.node("Squeeze", graph.node("Shape", tokens, start=axis, end=axis + 1)) for axis in (0, 1))
    row = graph.node("Range", _id(0), rows, _id(1))
    start = graph.node("Mul", row, graph.node("Add", columns, _id(2)))
    here = graph.node("Unsqueeze", graph.node("Add", place, start), [3])
    return graph.node("Add", here, np.arange(3))


def _look_up(graph: Graph, network: Recurrent, words: str, pairs: str) -> str:
    """The stored bytes of three neighbours, end to end: `[steps, 4, batch, 3 * width]`."""
    found = []
    for name, table, ids in (("words", network.words, words), ("bigrams", network.bigrams, pairs)):
        codes = graph.table(name, (table.codes.numpy().astype(np.int16) + MIDDLE).astype(np.uint8))
        found.append(graph.node("Reshape", graph.node("Gather", codes, ids), [0, 0, 0, -1]))
    return graph.node("Concat", *found, axis=3)


def _multiply(graph: Graph, network: Recurrent, codes: str, precision: Precision) -> str:
    """The convolution: `[steps, 4, batch, channels]`."""
    weights, bias = _weights(network), _array(network.bias)
    if precision == "float32":
        vectors = graph.node("DequantizeLinear", codes, np.float32(1), np.uint8(MIDDLE))
        return graph.node("Add", graph.node("MatMul", vectors, weights.T), bias)
    integers, scale = quantized(weights)
    return graph.node(
        "MatMulIntegerToFloat",
        *(codes, integers.T, np.float32(1), scale),
        *(np.uint8(MIDDLE), np.zeros(len(scale), np.int8), bias),
        domain=MICROSOFT,
    )


def _read(graph: Graph, network: Recurrent, values: str, lengths: str) -> str:
    """The states of both directions, `[steps, 2, batch, hidden]`, 0 past the end."""
    both = [_cell(layer) for layer in (network.forwards, network.backwards)]
    weights = [np.stack(parts) for parts in zip(*both, strict=True)]
    hidden = network.h.hidden
    if network.h.cell == "lstm":
        return graph.node("LSTM", values, *weights, lengths, direction="bidirectional", hidden_size=hidden)
    return graph.node(
        "GRU", values, *weights, lengths, direction="bidirectional", hidden_size=hidden, linear_before_reset=1
    )


def _weigh(graph: Graph, states: str, pooled: str, steps: str, out: nn.Linear) -> str:
    """The maximum and the mean of the states of each review, weighed and added up."""
    highest, mean = _array(out.weight).reshape(2, 2, 1, -1)
    step = graph.node("Unsqueeze", graph.node("Range", _id(0), steps, _id(1)), [1])
    left = graph.node("Sub", graph.node("Sub", pooled, _id(1)), step)  # [steps, batch]
    # A state is more than -1, so that none past the end is the maximum.
    past = graph.node("Cast", graph.node("Min", left, _id(0)), to=TensorProto.FLOAT)
    # The dimension of 1 in front makes ONNX Runtime take the faster of two ways to the maximum.
    within = graph.node("Add", states, graph.node("Unsqueeze", past, [0, 2, 4]))  # [1, steps, 2, batch, hidden]
    maximum = graph.node("ReduceMax", within, [1], keepdims=0)  # [1, 2, batch, hidden]
    total = graph.node("ReduceSum", states, [0], keepdims=0)
    average = graph.node("Div", total, graph.node("Unsqueeze", graph.node("Cast", pooled, to=TensorProto.FLOAT), [1]))
    weighed = graph.node("Add", graph.node("Mul", maximum, highest), graph.node("Mul", average, mean))
    log_odds = graph.node("Unsqueeze", graph.node("ReduceSum", weighed, [0, 1, 3], keepdims=0), [1])
    return graph.node("Add", log_odds, _array(out.bias))


def _weights(network: Recurrent) -> Floats:
    """What the codes around a place are multiplied by, `[channels, before, here and after of words, then of bigrams]`.

    The tables' scales are in them.
    """
    thirds = _array(network.mix.weight).reshape(3, network.h.channels, -1)
    split = np.split(thirds, [network.h.word_width], axis=2)
    scales = (network.words.scale, network.bigrams.scale)
    scaled = [part * scale.numpy() for part, scale in zip(split, scales, strict=True)]
    return np.concatenate([part.transpose(1, 0, 2).reshape(network.h.channels, -1) for part in scaled], axis=1)


def _cell(layer: nn.LSTM | nn.GRU) -> tuple[Floats, Floats, Floats]:
    """The layer's weights of inputs and of states, and both biases, with the gates in ONNX's order."""
    # Torch has the gates input, forget, cell, output, or reset, update, new; ONNX input, output, forget, cell, or
    # update, reset, new.
    order = [0, 3, 1, 2] if isinstance(layer, nn.LSTM) else [1, 0, 2]
    gates = [_array(parameter).reshape(len(order), layer.hidden_size, -1)[order] for parameter in layer.parameters()]
    inner, outer = (weight.reshape(-1, weight.shape[2]) for weight in gates[:2])
    return inner, outer, np.concatenate([bias.ravel() for bias in gates[2:]])


def _id(number: int) -> np.int64:
    return np.int64(number)


def _array(parameter: Tensor) -> Floats:
    array: Floats = parameter.detach().numpy()
    return array
