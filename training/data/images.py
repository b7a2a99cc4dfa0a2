"""MNIST and Fashion-MNIST: 28x28 grey images of ten classes, in gzipped IDX files."""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.data.download import Dataset, File

Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def _idx_files(base: str, digests: tuple[str, str, str, str]) -> dict[str, File]:
    names = (
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    )
    return {name: File(f"sha256:{digest}", base + name) for name, digest in zip(names, digests, strict=True)}


MNIST = Dataset(
    folder="mnist",
    name="MNIST",
    source="http://yann.lecun.com/exdb/mnist/",
    licence="CC BY-SA 3.0, as its redistributors state",
    citation="Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition, "
    "Proceedings of the IEEE 86(11), 1998",
    files=_idx_files(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
)

FASHION_MNIST = Dataset(
    folder="fashion-mnist",
    name="Fashion-MNIST",
    source="https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT",
    citation="H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017",
    files=_idx_files(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
)


@dataclass(frozen=True)
class Pictures:
    """Images, uint8 `[n, 28, 28]`, 0 background to 255 ink, and their classes, int64 `[n]`, 0 to 9."""

    pictures: Bytes
    labels: Labels

    def __getitem__(self, rows: slice | Labels) -> "Pictures":
        return Pictures(self.pictures[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, held_out: int, seed: int) -> tuple["Pictures", "Pictures"]:
        """Return all but `held_out` randomly chosen rows, and those."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self[order[held_out:]], self[order[:held_out]]


def load_images(dataset: Dataset, data_dir: Path | None = None) -> tuple[Pictures, Pictures]:
    """Return the 60,000 training and 10,000 test images of `MNIST` or `FASHION_MNIST`."""
    train, test = (
        Pictures(
            _read_idx(dataset.fetch(f"{split}-images-idx3-ubyte.gz", data_dir)).reshape(-1, 28, 28),
            _read_idx(dataset.fetch(f"{split}-labels-idx1-ubyte.gz", data_dir)).astype(np.int64),
        )
        for split in ("train", "t10k")
    )
    return train, test


def _read_idx(path: Path) -> Bytes:
    """Return the values of a gzipped IDX file, without its header: a magic and one int32 for each dimension."""
    content = gzip.decompress(path.read_bytes())
    dimensions = content[3]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).copy()
