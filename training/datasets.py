"""Every data set: what it is, where it comes from, and how its files become arrays."""

import gzip
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.published import Dataset, File, default_data_dir

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
    """Pictures, uint8 `[n, 28, 28]`, 0 background to 255 ink, with their classes, int64 `[n]`, 0 to 9."""

    pictures: Bytes
    labels: Labels

    def __getitem__(self, rows: slice | Labels) -> "Pictures":
        return Pictures(self.pictures[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, held_out: int, seed: int) -> tuple["Pictures", "Pictures"]:
        """Shuffled by `seed` and cut in two: all but `held_out` rows, and those."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self[order[held_out:]], self[order[:held_out]]


def pictures(dataset: Dataset, data_dir: Path | None = None) -> tuple[Pictures, Pictures]:
    """Training (60,000) and test (10,000) pictures of `MNIST` or `FASHION_MNIST`."""
    train, test = (
        Pictures(
            _read_idx(dataset.fetch(f"{split}-images-idx3-ubyte.gz", data_dir)).reshape(-1, 28, 28),
            _read_idx(dataset.fetch(f"{split}-labels-idx1-ubyte.gz", data_dir)).astype(np.int64),
        )
        for split in ("train", "t10k")
    )
    return train, test


def _read_idx(path: Path) -> Bytes:
    """The bytes behind the header of a gzipped IDX file: magic, then one big-endian int32 per dimension."""
    content = gzip.decompress(path.read_bytes())
    dimensions = content[3]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).copy()


MAMMOGRAPHIC_MASSES = Dataset(
    folder="mammographic-masses",
    name="UCI Mammographic Mass",
    source="https://archive.ics.uci.edu/dataset/161/mammographic+mass",
    licence="CC BY 4.0",
    citation="M. Elter, R. Schulz-Wendtland, T. Wittenberg, The prediction of breast cancer biopsy outcomes using two "
    "CAD approaches that both emphasize an intelligible decision process, Medical Physics 34(11), 2007, "
    "doi:10.24432/C53K6Z",
    files={
        "mammographic_masses.data": File(
            "sha256:2ed8bb60a517f631256d218a4885c56ef196d41023c63307ab40d69985be3b4a",
            "https://archive.ics.uci.edu/ml/machine-learning-databases/mammographic-masses/mammographic_masses.data",
        )
    },
)


@dataclass(frozen=True)
class Masses:
    """Masses, float32 `[961, 4]`, and their severity, int64 `[961]`: 0 benign, 1 malignant.

    Columns: age (years), shape (1-4), margin (1-5), density (1-4), NaN where not recorded.
    """

    masses: npt.NDArray[np.float32]
    severity: Labels


def masses(data_dir: Path | None = None) -> Masses:
    """All rows. BI-RADS, the first column, is left out: it is the reader's own assessment, no predictor."""
    path = MAMMOGRAPHIC_MASSES.fetch("mammographic_masses.data", data_dir)
    table = np.genfromtxt(path, delimiter=",", missing_values="?", dtype=np.float32)
    return Masses(table[:, 1:5].copy(), table[:, 5].astype(np.int64))


IMDB = Dataset(
    folder="imdb",
    name="Large Movie Review Dataset v1.0",
    source="https://ai.stanford.edu/~amaas/data/sentiment/",
    licence="none stated; published for research",
    citation="A. L. Maas, R. E. Daly, P. T. Pham, D. Huang, A. Y. Ng, C. Potts, Learning Word Vectors for Sentiment "
    "Analysis, ACL 2011",
    files={
        "aclImdb_v1.tar.gz": File(
            "md5:7c2ac02c03563afcf9b574c7e56c153a",
            "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
        ),
        # The labelled half of the official archive, repacked: a third of the size, the same reviews.
        "aclImdb_labeled.tar.gz": File(
            "sha256:86e20a44201c6690966b72ff1ef74797f4e938a7b57172480cffd294b54e9672",
            "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
        ),
    },
)


@dataclass(frozen=True)
class Reviews:
    """Reviews as written, `<br />` tags and all; their labels, int64 `[n]`, 0 negative, 1 positive; and their films.

    A film is an IMDb title such as `tt0064354`: reviews of one film resemble each other.
    """

    texts: list[str]
    labels: Labels
    films: list[str]

    def __getitem__(self, rows: Labels) -> "Reviews":
        return Reviews([self.texts[i] for i in rows], self.labels[rows], [self.films[i] for i in rows])

    def __len__(self) -> int:
        return len(self.texts)

    def without(self, others: "Reviews") -> "Reviews":
        """Those whose text is not among the `others`."""
        known = set(others.texts)
        return self[np.array([i for i, text in enumerate(self.texts) if text not in known], np.int64)]

    def split(self, held_out: int, seed: int) -> tuple["Reviews", "Reviews"]:
        """Cut in two by film, shuffled by `seed`: all but about `held_out` reviews, and those; no film is in both."""
        films = np.array(self.films)
        shuffled = np.random.default_rng(seed).permutation(np.unique(films))
        counts = dict(zip(*np.unique(films, return_counts=True), strict=True))
        cut = int(np.searchsorted(np.cumsum([counts[film] for film in shuffled]), held_out)) + 1
        chosen = np.isin(films, shuffled[:cut])
        return self[np.flatnonzero(~chosen)], self[np.flatnonzero(chosen)]


def reviews(data_dir: Path | None = None) -> tuple[Reviews, Reviews]:
    """Training and test reviews, 25,000 each as published.

    123 texts of the training split stand word for word in the test split too: `Reviews.without` takes them out.
    """
    directory = (data_dir or default_data_dir()) / IMDB.folder
    repacked = directory / "aclImdb_labeled.tar.gz"
    archive = IMDB.fetch(repacked.name if repacked.exists() else "aclImdb_v1.tar.gz", data_dir)
    texts: dict[tuple[str, str], dict[int, str]] = {}
    urls: dict[tuple[str, str], list[str]] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if not member.isfile() or len(parts) < 3 or (content := tar.extractfile(member)) is None:
                continue
            split, place = parts[1], parts[2]
            if place in ("neg", "pos"):
                number = int(Path(member.name).stem.partition("_")[0])
                texts.setdefault((split, place), {})[number] = content.read().decode()
            elif place in ("urls_neg.txt", "urls_pos.txt"):
                urls[split, place[5:8]] = content.read().decode().splitlines()
    train, test = (_join(texts, urls, split) for split in ("train", "test"))
    return train, test


def _join(texts: dict[tuple[str, str], dict[int, str]], urls: dict[tuple[str, str], list[str]], split: str) -> Reviews:
    """One split, negative reviews first, each with the title in line `id` of its list of addresses."""
    rows = [
        (text, label, urls[split, name][number].split("/")[4])
        for label, name in enumerate(("neg", "pos"))
        for number, text in sorted(texts[split, name].items())
    ]
    return Reviews([r[0] for r in rows], np.array([r[1] for r in rows], np.int64), [r[2] for r in rows])
