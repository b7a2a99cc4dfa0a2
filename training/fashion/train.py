"""Generate clothing: the class-conditional generator of a GAN, trained on Fashion-MNIST.

    python -m training train fashion              # three quarters of an hour on one busy core
    python -m training train fashion --resume     # continue after an interruption
    python -m training train fashion --smoke      # the whole way on little data

The generator turns a normal latent into a 14x14 map and doubles it by convolutions and a pixel shuffle; its batch norm
is conditional on the class. The discriminator has spectral normalisation and scores an image against its class by
projection (Miyato and Koyama, cGANs with Projection Discriminator, 2018). The exponential moving average of the
generator is exported. A classifier that trains neither (`training.fashion.judge`) chooses the epoch by the Frechet
distance to validation images.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from service.engine.onnx.runtime import ort
from service.registry.card import GRAPHS, Card
from service.tasks.fashion import CLASSES, LATENT, latents
from service.tensors import Tensors
from training import cards, plots, version
from training.data.images import FASHION_MNIST, Bytes, Labels, Pictures, load_images
from training.fashion import evaluate
from training.fashion.evaluate import INPUTS, OUTPUTS, frechet_distance, judge_images
from training.fashion.model import Discriminator, Generator
from training.loop import averaged
from training.run import Hyperparameters as Base
from training.run import Precision, Run

MODEL = "fashion"


class Hyperparameters(Base):
    """Chosen on 5,000 images cut from the training split."""

    epochs: PositiveInt = 18
    batch_size: PositiveInt = 64
    lr: PositiveFloat = 4e-4
    discriminator_lr: PositiveFloat = 6e-4
    width: int = Field(64, ge=4, multiple_of=4)
    ema_decay: float = Field(0.998, ge=0, lt=1)
    held_out: int = Field(5000, ge=100, le=30_000)
    validation_samples: int = Field(2000, ge=200)
    """Images generated after each epoch to choose the best one."""
    precision: Precision = "bfloat16"


SMOKE = {"epochs": 2, "held_out": 500, "validation_samples": 500, "ema_decay": 0.9, "batch_size": 32}
SMOKE_ROWS, SMOKE_TEST_ROWS = 6000, 1000

PIXEL_TOLERANCE = 1e-4
"""Largest difference between a pixel of the graph and of torch before rounding, of a range of 1."""


def train(h: Hyperparameters, run: Run) -> None:
    """Train, export and measure the generator; write the version `run.out`."""
    published, test = load_images(FASHION_MNIST, run.data_dir)
    if run.smoke:
        published, test = published[:SMOKE_ROWS], test[:SMOKE_TEST_ROWS]
    training, validation = published.split(h.held_out, run.seed)
    run.begin(h, training.pictures, training.labels)
    publish(fit(training, validation, h, run), training, validation, test, h, run)


class Game:
    """Generator and discriminator, their optimizers and the generator's moving average."""

    def __init__(self, h: Hyperparameters, run: Run, total_steps: int) -> None:
        self.h, self.run, self.total_steps, self.steps = h, run, total_steps, 0
        self.generator = Generator(h.width).to(run.device)
        self.discriminator = Discriminator(h.width).to(run.device)
        for network in (self.generator, self.discriminator):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = averaged(self.generator, h.ema_decay)
        # No momentum: past steps were taken against an opponent that has changed.
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), h.lr, (0.0, 0.99))
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), h.discriminator_lr, (0.0, 0.99)
        )

    def step(self, real: Tensor, label: Tensor) -> Tensor:
        """Update both networks on real images, float32 `[batch, 28, 28]`, and as many generated ones of the same
        classes; return the mean scores of real and generated images.

        Both losses are logistic and share one pass through the discriminator: for a generated image of score s, the
        gradient of the generator's loss softplus(-s) is that of the discriminator's softplus(s) times -exp(-s).
        """
        with self.run.autocast(self.h.precision):
            generated = self.generator.generate(torch.randn(len(label), LATENT, device=label.device), label)
            shown = generated.detach().requires_grad_()
            scores = self.discriminator(torch.cat([real, shown]), label.repeat(2))
        real_scores, generated_scores = scores.chunk(2)
        self.discriminator_optimizer.zero_grad()
        self.generator_optimizer.zero_grad()
        (F.softplus(-real_scores) + F.softplus(generated_scores)).mean().backward()  # type: ignore[no-untyped-call]
        assert shown.grad is not None
        factor = -torch.exp(-generated_scores.detach().clamp(min=-20))
        generated.backward(shown.grad * factor[:, None, None])  # type: ignore[no-untyped-call]
        # Constant in the first half, then linearly down to 0.
        lr_factor = min(1, 2 * (1 - self.steps / self.total_steps))
        for optimizer in (self.discriminator_optimizer, self.generator_optimizer):
            optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * lr_factor
            optimizer.step()
        self.average.update_parameters(self.generator)
        self.steps += 1
        return torch.stack([real_scores.mean(), generated_scores.mean()]).detach()

    def parts(self) -> dict[str, Any]:
        """Return everything with a state that a checkpoint holds."""
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }


def fit(training: Pictures, validation: Pictures, h: Hyperparameters, run: Run) -> Generator:
    """Train both networks; return the averaged generator of the epoch nearest to the validation images."""
    steps = len(training) // h.batch_size
    game = Game(h, run, steps * h.epochs)
    best: dict[str, Tensor] = {}
    first, best_distance = 1, float("inf")
    if (state := run.restore()) is not None:
        for name, part in game.parts().items():
            part.load_state_dict(state[name])
        game.steps = steps * state["epoch"]
        first, best_distance, best = state["epoch"] + 1, state["best_distance"], state["best"]
    images, labels = (torch.from_numpy(array).to(run.device) for array in (training.pictures, training.labels))
    for epoch in range(first, h.epochs + 1):
        game.generator.train()
        order = torch.randperm(len(training))[: steps * h.batch_size].view(steps, h.batch_size)
        batches = run.progress(order.to(run.device), f"epoch {epoch}", steps)
        scores = [game.step(images[rows].float() / 255, labels[rows]) for rows in batches]
        average: Generator = game.average.module
        generated, wanted = sample(average, h.validation_samples, run.seed)
        judged, features = judge_images(generated)
        distance = frechet_distance(features, judge_images(validation.pictures)[1])
        real_score, generated_score = torch.stack(scores).mean(0).tolist()
        run.log(
            epoch,
            real_score=real_score,
            generated_score=generated_score,
            agreement=float((judged == wanted).mean()),
            frechet_distance=distance,
        )
        if distance < best_distance:
            best_distance = distance
            best = {name: value.clone() for name, value in average.state_dict().items()}
        states = {name: part.state_dict() for name, part in game.parts().items()}
        run.save(epoch, best_distance=best_distance, best=best, **states)
    generator = Generator(h.width)
    generator.load_state_dict(best)
    return generator


@torch.inference_mode()
def sample(generator: Generator, count: int, seed: int) -> tuple[Bytes, Labels]:
    """Generate `count` images, uint8 `[count, 28, 28]`, of the classes in turn; return them with their classes."""
    device = generator.last.weight.device
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    inputs = torch.from_numpy(latents(seed, count)).to(device), torch.from_numpy(labels).to(device)
    batches = zip(*(torch.split(part, 500) for part in inputs), strict=True)
    images = [generator.eval()(latent, label).cpu() for latent, label in batches]
    return torch.cat(images).numpy(), labels


def publish(
    generator: Generator, training: Pictures, validation: Pictures, test: Pictures, h: Hyperparameters, run: Run
) -> Card:
    """Export, prove and measure the generator, and rename the version into place."""
    with version.VersionBuilder(run.out) as builder:
        directory = builder.directory
        cases = {size: _inputs(size, run.seed) for size in (1, 2, 7, 20, 64)}
        free = {"latent": {0: "batch"}, "label": {0: "batch"}}
        graph = version.export_graph(generator, directory / GRAPHS["float32"], cases[2], ("picture",), free)
        check_pixels(generator, graph, list(cases.values()))
        version.check_parity(generator, graph, cases.values(), tolerance=1)
        version.write_golden(generator, directory, cases[20], ("picture",))
        generated = evaluate.generate(graph, len(test), run.seed + 1)
        measured, judged = evaluate.measure_generated(generated, training, test)
        plots.plot_learning_curve(run.history, directory / "learning_curve.png")
        plots.plot_confusion(judged, generated.labels, CLASSES, directory / "confusion_matrix.png")
        shown, _ = sample(generator, 100, run.seed + 2)
        plots.plot_images(shown.reshape(10, 10, 28, 28).swapaxes(0, 1).reshape(100, 28, 28), directory / "samples.png")
        used = " (a smoke run: few rows)" if run.smoke else ""
        splits = {
            "training": f"{len(training):,} of the 60,000 training images{used}",
            "validation": f"{len(validation):,} others of them, drawn with seed {run.seed}: choice of the epoch",
            "test": f"{len(test):,} of the 10,000 test images",
        }
        card = Card(
            name=builder.out.parent.name,
            version=builder.out.name,
            **cards.card_text(Path(__file__).parent, "gan"),
            inputs=INPUTS,
            outputs=OUTPUTS,
            classes=CLASSES,
            figures=measured.figures,
            subgroups=measured.subgroups,
            baselines=evaluate.fit_baselines(training, test),
            distributions=evaluate.distributions(run.seed),
            data=(FASHION_MNIST.describe(splits),),
            training=run.record(h),
            provenance=run.steps(h, quantised=False),
            files={},
        )
        return builder.publish(card, run)


def _inputs(count: int, seed: int) -> Tensors:
    return {"latent": latents(seed, count), "label": np.arange(count, dtype=np.int64) % len(CLASSES)}


def check_pixels(generator: Generator, path: Path, batches: Iterable[Tensors]) -> float:
    """Return the largest difference between pixels of graph and network before rounding, of a range of 1.

    Raises:
        ParityError: it is above `PIXEL_TOLERANCE`.
    """
    model = onnx.load(path)
    rounding = next(node for node in model.graph.node if node.op_type == "Round")
    model.graph.output.append(onnx.ValueInfoProto(name=rounding.input[0]))
    graph = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in batches:
        inputs = [torch.from_numpy(np.asarray(value)) for value in batch.values()]
        with torch.inference_mode():
            expected = generator.cpu().eval().generate(*inputs)
        _, pixels = graph.run(None, dict(batch))
        worst = max(worst, float(np.abs(pixels / 255 - expected.numpy()).max()))
    if worst > PIXEL_TOLERANCE:
        raise version.ParityError(f"{path.name} differs by {worst:.2g}, more than {PIXEL_TOLERANCE:.2g}")
    return worst
