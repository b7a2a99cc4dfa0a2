"""Turn a trained sentiment network into a version: tokenizer, graphs, golden cases, figures, plots, card."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from service.registry.card import GRAPHS, Card, Figure
from service.tasks.sentiment import MAX_TOKENS, ReviewReader, pad
from service.tensors import Tensors
from training import cards, quantize, version
from training.data.imdb import IMDB, archive_names
from training.run import Run
from training.sentiment import evaluate, onnx_graph
from training.sentiment.evaluate import CLASSES
from training.sentiment.model import FULL, Architecture, Sentiment
from training.sentiment.onnx_graph import OUTPUTS, inputs
from training.sentiment.tokens import Corpus, Rows, padded

INT8 = (
    "weights of the convolution in seven bits with a scale for each output channel; embeddings are bytes in both "
    "precisions; the recurrent layers and all else in float32"
)


def publish(
    network: Sentiment,
    reader: ReviewReader,
    training: Corpus,
    validation: Corpus,
    unlabelled: int,
    test: Corpus,
    h: Architecture,
    run: Run,
) -> Card:
    """Export, prove and measure the network, and rename the version into place.

    Args:
        network: on CPU, with compressed embeddings.
        reader: of the training reviews.
        training: reviews that the recurrent part learned from.
        validation: reviews held out from it.
        unlabelled: number of reviews without labels that it learned from.
        test: reviews to measure on.
        h: sizes.
        run: gives the directory and the history.
    """
    with version.VersionBuilder(run.out) as builder:
        directory = builder.directory
        reader.save(directory)
        graph = onnx_graph.write(network, directory, "float32")
        version.check_parity(network, graph, _batches_of_many_shapes(test))
        order = np.argsort([len(ids) for ids in test.ids], kind="stable")
        golden = padded(test.ids, order[np.linspace(0, len(order) - 1, 24).astype(int)]).numpy()
        version.write_golden(network, directory, {"tokens": golden}, ("probabilities", "log_odds"))
        onnx_graph.write(network, directory, "int8")
        accepted = quantize.accept_int8(
            directory,
            lambda path: float((evaluate.read(path, validation)[0].argmax(1) == validation.labels).mean()),
            _runs(test),
            f"{INT8}; {len(validation.ids):,} validation reviews",
        )
        measured = evaluate.measure_graph(graph, test)
        if accepted.served:
            in_int8 = evaluate.measure_graph(directory / GRAPHS["int8"], test).figures
            accepted = accepted.model_copy(update={"figures": in_int8})
        evaluate.plot(graph, test, run.history)
        blend = {
            f"weight_{part}": Figure(
                value=weight, how=f"of its log-odds at {FULL} tokens or more, fitted on the validation reviews"
            )
            for part, weight in zip(("recurrent", "linear"), network.blend.weights, strict=False)
        }
        text = cards.card_text(Path(__file__).parent, "bigrams")
        card = Card(
            name=builder.out.parent.name,
            version=builder.out.name,
            **{**text, "title": text["title"].format(cell=h.cell.upper())},
            inputs=inputs(len(network.recurrent.plain)),
            outputs=OUTPUTS,
            classes=CLASSES,
            figures=measured.figures | blend,
            subgroups=measured.subgroups,
            baselines=evaluate.baselines(graph, test),
            int8=accepted,
            distributions=evaluate.distributions(graph, test),
            data=(IMDB.describe(_splits(training, validation, unlabelled, test, run), archive_names(run.data_dir)),),
            training=run.record(h),
            provenance=run.steps(h, quantised=accepted.served),
            files={},
        )
        return builder.publish(card, run)


def _splits(training: Corpus, validation: Corpus, unlabelled: int, test: Corpus, run: Run) -> dict[str, str]:
    rows = len(training.ids) + len(validation.ids)
    used = "a smoke run: few rows" if run.smoke else "123 whose text is also in the test split are left out"
    others = "a smoke run" if run.smoke else "266 whose text is also in the test split, and repeated ones, are left out"
    return {
        "training": f"{rows:,} of the 25,000 training reviews; {used}",
        "unlabelled": f"{unlabelled:,} of the 50,000 unlabelled reviews, for vocabulary, word vectors and, with "
        f"estimated labels, the recurrent part; {others}",
        "validation": f"{len(validation.ids):,} of the training reviews, drawn by film with seed {run.seed}: "
        "choices, the blend by length, int8; the linear part is then fitted on them too, the recurrent part is not",
        "test": f"{len(test.ids):,} of the 25,000 test reviews, for figures and distributions",
    }


def _batches_of_many_shapes(test: Corpus) -> Iterator[dict[str, Rows]]:
    """Yield real reviews cut to many lengths, in batches of many sizes, rows of one token among them."""
    for size, length in ((1, 1), (1, 2), (2, 3), (7, 4), (3, 5), (64, 50), (16, 401), (4, MAX_TOKENS)):
        ids = [row[: max(1, length * (place + 1) // size)] for place, row in enumerate(test.ids[-size:])]
        yield {"tokens": pad(ids)}


def _runs(test: Corpus) -> dict[str, Tensors]:
    """Return reviews of about median length for timed runs, by number of rows."""
    order = np.argsort([len(ids) for ids in test.ids], kind="stable")
    middle = len(order) // 2
    return {str(rows): {"tokens": padded(test.ids, order[middle : middle + rows]).numpy()} for rows in (1, 8, 64)}
