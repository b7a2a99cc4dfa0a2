"""IMDB: film reviews with their labels and the films that they are about."""

import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.data.download import Dataset, File, default_data_dir

Labels = npt.NDArray[np.int64]

OFFICIAL, LABELLED, UNLABELLED = "aclImdb_v1.tar.gz", "aclImdb_labeled.tar.gz", "aclImdb_unlabeled.tar.gz"

IMDB = Dataset(
    folder="imdb",
    name="Large Movie Review Dataset v1.0",
    source="https://ai.stanford.edu/~amaas/data/sentiment/",
    licence="none stated; published for research",
    citation="A. L. Maas, R. E. Daly, P. T. Pham, D. Huang, A. Y. Ng, C. Potts, Learning Word Vectors for Sentiment "
    "Analysis, ACL 2011",
    files={
        OFFICIAL: File(
            "md5:7c2ac02c03563afcf9b574c7e56c153a",
            "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
        ),
        LABELLED: File(
            "sha256:86e20a44201c6690966b72ff1ef74797f4e938a7b57172480cffd294b54e9672",
            origin="the labelled reviews of aclImdb_v1.tar.gz, packed again without the unlabelled ones; unpublished: "
            "the official archive gives the same rows",
        ),
        UNLABELLED: File(
            "sha256:bcc91b375919c3006c565a275274943d6908472a0fb013b269205337f4cada08",
            origin="the unlabelled reviews of aclImdb_v1.tar.gz, packed again without the labelled ones; unpublished: "
            "the official archive gives the same rows",
        ),
    },
)


@dataclass(frozen=True)
class Reviews:
    """Reviews as written, with `<br />` tags; labels, int64 `[n]`, 0 negative and 1 positive; and films.

    A film is an IMDb title such as `tt0064354`. Reviews of one film resemble each other.
    """

    texts: list[str]
    labels: Labels
    films: list[str]

    def __getitem__(self, rows: Labels) -> "Reviews":
        return Reviews([self.texts[i] for i in rows], self.labels[rows], [self.films[i] for i in rows])

    def __len__(self) -> int:
        return len(self.texts)

    def without(self, others: "Reviews") -> "Reviews":
        """Return the reviews whose text is not among the `others`."""
        known = set(others.texts)
        return self[np.array([i for i, text in enumerate(self.texts) if text not in known], np.int64)]

    def split(self, held_out: int, seed: int) -> tuple["Reviews", "Reviews"]:
        """Return all but about `held_out` reviews, and those, chosen by film: no film is in both parts."""
        films = np.array(self.films)
        shuffled = np.random.default_rng(seed).permutation(np.unique(films))
        counts = dict(zip(*np.unique(films, return_counts=True), strict=True))
        cut = int(np.searchsorted(np.cumsum([counts[film] for film in shuffled]), held_out)) + 1
        chosen = np.isin(films, shuffled[:cut])
        return self[np.flatnonzero(~chosen)], self[np.flatnonzero(chosen)]


def archive_names(data_dir: Path | None = None) -> tuple[str, ...]:
    """Return the files that `load_reviews` and `load_unlabelled` read: the smaller ones where they are at hand."""
    return tuple(dict.fromkeys(_at_hand(file, data_dir) for file in (LABELLED, UNLABELLED)))


def _at_hand(repacked: str, data_dir: Path | None) -> str:
    return repacked if ((data_dir or default_data_dir()) / IMDB.folder / repacked).exists() else OFFICIAL


def load_reviews(data_dir: Path | None = None) -> tuple[Reviews, Reviews]:
    """Return the 25,000 training and 25,000 test reviews.

    123 training texts also are test texts, word for word: `Reviews.without` removes them.
    """
    archive = IMDB.fetch(_at_hand(LABELLED, data_dir), data_dir)
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


def load_unlabelled(data_dir: Path | None = None) -> list[str]:
    """Return the 50,000 reviews without labels; 266 of them also are test texts, word for word."""
    archive = IMDB.fetch(_at_hand(UNLABELLED, data_dir), data_dir)
    texts: dict[int, str] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            if path.parent.name == "unsup" and (content := tar.extractfile(member)) is not None:
                texts[int(path.stem.partition("_")[0])] = content.read().decode()
    return [text for _, text in sorted(texts.items())]


def _join(texts: dict[tuple[str, str], dict[int, str]], urls: dict[tuple[str, str], list[str]], split: str) -> Reviews:
    """Return one split, negative reviews first, each with the title in line `id` of its list of addresses."""
    rows = [
        (text, label, urls[split, name][number].split("/")[4])
        for label, name in enumerate(("neg", "pos"))
        for number, text in sorted(texts[split, name].items())
    ]
    return Reviews([r[0] for r in rows], np.array([r[1] for r in rows], np.int64), [r[2] for r in rows])
