"""Draws clothing: the class-conditional generator of a GAN, trained on Fashion-MNIST.

    python -m training fashion                    # three quarters of an hour on one busy core
    python -m training fashion --resume           # go on after an interruption
    python -m training fashion --smoke            # the whole way on little data

The generator turns a normal latent into a 14x14 map and doubles it by convolutions and a pixel shuffle, its batch
normalisation scaled and shifted by class; the discriminator has spectral normalisation and scores a picture against its
class by projection (Miyato and Koyama, cGANs with Projection Discriminator, 2018). What is exported is the moving
average of the generator. A judge (`training/fashion_judge.py`), which teaches neither player, chooses the epoch by its
view of validation pictures and gives the figures of the card.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.engine.onnx.runtime import ort
from service.tasks.fashion import CLASSES, LATENT, latents
from service.tensors import Tensors, TensorSpec
from training import datasets, evaluate, export, fashion_figures
from training.datasets import FASHION_MNIST, Bytes, Labels, Pictures
from training.fashion_figures import frechet_distance, judgement
from training.fashion_graph import fold
from training.fashion_network import Discriminator, Generator
from training.loop import follow
from training.run import Precision, Run


@dataclass(frozen=True)
class Hyperparameters:
    """Chosen on 5,000 pictures cut from the training split."""

    epochs: int = 18
    batch_size: int = 64
    lr: float = 4e-4
    discriminator_lr: float = 6e-4
    width: int = 64
    average: float = 0.998
    held_out: int = 5000
    judged: int = 2000
    precision: Precision = "bfloat16"


SMOKE = {"epochs": 1, "held_out": 500, "judged": 200, "average": 0.9}

SHADE_TOLERANCE = 1e-4
"""Largest difference between a pixel of the graph and the same one of torch before rounding, of a range of 1."""


def train(h: Hyperparameters, run: Run) -> None:
    """Trains, exports and measures the generator; writes `run.out`."""
    everything, test = datasets.pictures(FASHION_MNIST, run.data_dir)
    if run.smoke:
        everything, test = everything[:4000], test[:1000]
    training, validation = everything.split(h.held_out, run.seed)
    write(fit(training, validation, h, run), training, test, h, run)


class Game:
    """Generator and discriminator, playing against each other."""

    def __init__(self, h: Hyperparameters, run: Run, last_step: int) -> None:
        self.h, self.run = h, run
        self.generator = Generator(h.width).to(run.device)
        self.discriminator = Discriminator(h.width).to(run.device)
        for network in (self.generator, self.discriminator):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.generator)
        self.steps, self.last_step = 0, last_step
        # No momentum: each player's last steps were against an opponent who has moved since.
        self.draw = torch.optim.Adam(self.generator.parameters(), h.lr, (0.0, 0.99))
        self.tell = torch.optim.Adam(self.discriminator.parameters(), h.discriminator_lr, (0.0, 0.99))

    def play(self, real: Tensor, label: Tensor) -> Tensor:
        """One step of both players, on real pictures and as many drawn of the same classes; the mean scores of both.

        Both losses are logistic. They share one pass through the discriminator: on a drawn picture of score s, the
        discriminator's softplus(s) and the generator's softplus(-s) differ by a factor of the slope alone, -exp(-s).
        """
        with self.run.autocast(self.h.precision):
            drawn = self.generator.draw(torch.randn(len(label), LATENT, device=label.device), label)
            shown = drawn.detach().requires_grad_()
            score = self.discriminator(torch.cat([real, shown]), label.repeat(2))
        of_real, of_drawn = score.chunk(2)
        self.tell.zero_grad()
        self.draw.zero_grad()
        (F.softplus(-of_real) + F.softplus(of_drawn)).mean().backward()  # type: ignore[no-untyped-call]
        assert shown.grad is not None
        slope = -torch.exp(-of_drawn.detach().clamp(min=-20))
        drawn.backward(shown.grad * slope[:, None, None])  # type: ignore[no-untyped-call]
        # Constant at first, then down to 0 in a straight line: the players settle.
        rate = min(1, 2 * (1 - self.steps / self.last_step))
        for optimizer, lr in ((self.tell, self.h.discriminator_lr), (self.draw, self.h.lr)):
            optimizer.param_groups[0]["lr"] = lr * rate
            optimizer.step()
        follow(self.average, self.generator, self.h.average, self.steps)
        self.steps += 1
        return torch.stack([of_real.mean(), of_drawn.mean()]).detach()

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """All that a checkpoint has to hold."""
        return {
            "network": self.generator,
            "opponent": self.discriminator,
            "average": self.average,
            "draw": self.draw,
            "tell": self.tell,
        }


def fit(training: Pictures, validation: Pictures, h: Hyperparameters, run: Run) -> Generator:
    """Plays the game; returns the averaged generator of the epoch that came closest to the validation pictures."""
    steps = len(training) // h.batch_size
    game = Game(h, run, steps * h.epochs)
    best: dict[str, Tensor] = {}
    first, closest = 1, float("inf")
    if (state := run.restore()) is not None:
        for name, part in game.parts().items():
            part.load_state_dict(state[name])
        game.steps = steps * state["epoch"]
        first, closest, best = state["epoch"] + 1, state["closest"], state["best"]
    pictures, labels = (torch.from_numpy(a).to(run.device) for a in (training.pictures, training.labels))
    for epoch in range(first, h.epochs + 1):
        game.generator.train()
        order = torch.randperm(len(training))[: steps * h.batch_size].view(steps, h.batch_size)
        batches = run.progress(order.to(run.device), f"epoch {epoch}", steps)
        scores = [game.play(pictures[rows].float() / 255, labels[rows]) for rows in batches]
        drawn, wanted = sample(game.average, h.judged, run.seed)
        named, features = judgement(drawn)
        distance = frechet_distance(features, judgement(validation.pictures)[1])
        real_score, drawn_score = torch.stack(scores).mean(0).tolist()
        run.log(
            epoch,
            real_score=real_score,
            drawn_score=drawn_score,
            agreement=float((named == wanted).mean()),
            frechet_distance=distance,
        )
        if distance < closest:
            closest = distance
            best = {name: value.clone() for name, value in game.average.state_dict().items()}
        run.save(epoch, closest=closest, best=best, **{name: part.state_dict() for name, part in game.parts().items()})
    generator = Generator(h.width)
    generator.load_state_dict(best)
    return generator


@torch.inference_mode()
def sample(generator: Generator, count: int, seed: int) -> tuple[Bytes, Labels]:
    """`count` pictures, the classes taking turns, and the classes that were asked for."""
    device = generator.last.weight.device
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    whole = torch.from_numpy(latents(seed, count)).to(device), torch.from_numpy(labels).to(device)
    batches = zip(*(torch.split(part, 500) for part in whole), strict=True)
    pictures = [generator.eval()(latent, label).cpu() for latent, label in batches]
    return torch.cat(pictures).numpy(), labels


def write(generator: Generator, training: Pictures, test: Pictures, h: Hyperparameters, run: Run) -> None:
    """Exports, proves, and measures against the test split: the only time that it is looked at."""
    directory = export.start(run.out)
    cases = {size: _orders(size, run.seed) for size in (1, 2, 7, 20, 64)}
    free = {"latent": {0: "batch"}, "label": {0: "batch"}}
    graph = export.write_graph(fold(generator), directory, cases[2], ("picture",), free)
    check_shades(generator, graph, list(cases.values()))
    export.check_parity(generator, graph, cases.values(), tolerance=1)
    export.write_golden(generator, directory, cases[20], ("picture",))
    drawn = fashion_figures.draw(graph, len(test), run.seed + 1)
    evaluate.plot_learning_curve(run.history, directory / "learning_curve.png")
    shown, _ = sample(generator, 100, run.seed + 2)
    by_class = shown.reshape(10, 10, 28, 28).swapaxes(0, 1).reshape(100, 28, 28)
    evaluate.plot_pictures(by_class, directory / "samples.png")
    figures, named = fashion_figures.measure(drawn, training, test)
    evaluate.plot_confusion(named, drawn.labels, CLASSES, directory / "confusion_matrix.png")
    export.write_card(
        directory,
        title="Fashion, generator of a class-conditional GAN",
        task="Draw a new piece of clothing of a given class",
        inputs=(
            TensorSpec(
                name="latent",
                dtype="float32",
                shape=("batch", LATENT),
                meaning="what to draw: each number drawn from the standard normal distribution",
                range="any; scaled down to 0.6 pieces are more alike, scaled up more varied",
            ),
            TensorSpec(
                name="label",
                dtype="int64",
                shape=("batch",),
                meaning="class of the piece, in the order of `classes`",
                range="0 to 9",
            ),
        ),
        outputs=(
            TensorSpec(
                name="picture",
                dtype="uint8",
                shape=("batch", 28, 28),
                meaning="grey picture of the piece, as Fashion-MNIST's",
                range="0 (background) to 255",
            ),
        ),
        classes=CLASSES,
        figures=figures,
        distributions=fashion_figures.distributions(run.seed),
        data=(
            FASHION_MNIST.describe(
                {
                    "training": f"{60_000 - h.held_out:,} of the 60,000 training pictures",
                    "validation": f"the other {h.held_out:,}, drawn with seed {run.seed}: choice of the epoch",
                    "test": "the 10,000 test pictures, for the figures alone",
                }
            ),
        ),
        training=run.finish(h),
        intended_use="Examples of what a generative adversarial network learns, as in a course; material for tests.",
        limits=(
            "28x28 grey pixels, one piece, seen from the front (shoes from the left), as the shop photographed it.",
            "Of shirts, coats and pullovers some look like one of the others: so do the real ones.",
            "Latents scaled up leave what was learned, and so do those scaled down far: some pieces fall apart.",
        ),
    )


def _orders(count: int, seed: int) -> Tensors:
    return {"latent": latents(seed, count), "label": np.arange(count, dtype=np.int64) % len(CLASSES)}


def check_shades(generator: Generator, path: Path, batches: Iterable[Tensors]) -> float:
    """The largest difference between pixels of graph and network before they are rounded, of a range of 1.

    Raises:
        ParityError: it is above `SHADE_TOLERANCE`.
    """
    model = onnx.load(path)
    rounding = next(node for node in model.graph.node if node.op_type == "Round")
    model.graph.output.append(onnx.ValueInfoProto(name=rounding.input[0]))
    graph = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in batches:
        with torch.inference_mode():
            expected = generator.cpu().eval().draw(*(torch.from_numpy(np.asarray(value)) for value in batch.values()))
        _, shades = graph.run(None, dict(batch))
        worst = max(worst, float(np.abs(shades / 255 - expected.numpy()).max()))
    if worst > SHADE_TOLERANCE:
        raise export.ParityError(f"{path} differs from the network by {worst:.2g}, more than {SHADE_TOLERANCE:.2g}")
    return worst
