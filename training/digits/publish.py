"""Turn a trained network of `digits` into a version: graphs in both precisions, golden cases, figures, plots, card."""

from pathlib import Path

from service.registry.card import GRAPHS, Card
from service.tensors import Tensors
from training import cards, quantize, version
from training.data.images import MNIST, Pictures
from training.digits import evaluate, int8
from training.digits.evaluate import CLASSES, INPUTS, OUTPUTS
from training.digits.model import Convolutional, Network
from training.run import Hyperparameters, Run

INT8 = (
    "weights in seven bits with a scale for each output channel; activations in eight bits, their scales fitted to "
    "training images; the last layer in float32"
)
SMOKE_PHOTOGRAPHS = 100


def publish(
    network: Network,
    variant: str,
    training: Pictures,
    validation: Pictures,
    test: Pictures,
    h: Hyperparameters,
    run: Run,
) -> Card:
    """Export, prove and measure the network, and rename the version into place.

    Args:
        network: on CPU, for inference.
        variant: `cnn` or `mlp`, a table of `card.toml`.
        training: what it learned from.
        validation: chose the temperature, and decides on int8.
        test: for the figures.
        h: hyperparameters, for the card.
        run: where to write.
    """
    with version.VersionBuilder(run.out) as builder:
        graph = export(network, builder.directory, training, test)
        accepted = quantize.accept_int8(
            builder.directory,
            lambda path: float((evaluate.read(path, validation).argmax(1) == validation.labels).mean()),
            _runs(test),
            f"{INT8}; {len(validation):,} validation images",
        )
        photographed = test[:SMOKE_PHOTOGRAPHS] if run.smoke else test
        measured = evaluate.measure_graph(graph, test, photographed)
        figures = measured.figures | evaluate.size_figures(network)
        if accepted.served:
            int8_figures = evaluate.measure_graph(builder.directory / GRAPHS["int8"], test, photographed).figures
            accepted = accepted.model_copy(update={"figures": int8_figures})
        evaluate.plot(graph, test, run.history)
        card = Card(
            name=builder.out.parent.name,
            version=builder.out.name,
            **cards.card_text(Path(__file__).parent, variant),
            inputs=INPUTS,
            outputs=OUTPUTS,
            classes=CLASSES,
            figures=figures,
            subgroups=measured.subgroups,
            baselines=evaluate.fit_baselines(training, test),
            int8=accepted,
            distributions=evaluate.distributions(graph, training),
            data=(MNIST.describe(_splits(training, validation, test, run)),),
            training=run.record(h),
            provenance=run.steps(h, quantised=accepted.served),
            files={},
        )
        return builder.publish(card, run)


def export(network: Network, directory: Path, training: Pictures, test: Pictures) -> Path:
    """Write both graphs and the golden cases; return the reference graph, proven at many batch sizes."""
    names, free = (OUTPUTS[0].name,), {INPUTS[0].name: {0: "batch"}}
    graph = directory / GRAPHS["float32"]
    version.export_graph(network, graph, {"pictures": test.pictures[:2]}, names, free)
    version.check_parity(network, graph, ({"pictures": test.pictures[:size]} for size in (1, 2, 7, 64, 1000)))
    version.write_golden(network, directory, {"pictures": test.pictures[:32]}, names)
    int8_graph = directory / GRAPHS["int8"]
    if isinstance(network, Convolutional):
        int8.write_convolutional(network.layers, network.temperature, training.pictures, int8_graph)
    else:
        int8.write_perceptron(network.layers, network.temperature, int8_graph)
    return graph


def _splits(training: Pictures, validation: Pictures, test: Pictures, run: Run) -> dict[str, str]:
    used = "" if not run.smoke else " (a smoke run: few rows)"
    return {
        "training": f"{len(training):,} of the 60,000 training images{used}",
        "validation": f"{len(validation):,} others of them, drawn with seed {run.seed}: temperature and int8",
        "test": f"{len(test):,} of the 10,000 test images",
    }


def _runs(test: Pictures) -> dict[str, Tensors]:
    """Return the inputs of timed runs, by number of rows."""
    return {str(rows): {INPUTS[0].name: test.pictures[:rows]} for rows in (1, 8, 64)}
