"""The data: what was published is what is read, and no test row can be learnt from."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from training.data.download import DataError, Dataset, File
from training.data.images import FASHION_MNIST, MNIST, Pictures, load_images
from training.data.imdb import Reviews, load_reviews
from training.data.mammographic import MAMMOGRAPHIC_MASSES, load_masses


@cache
def reviews() -> tuple[Reviews, Reviews]:
    return load_reviews()


@pytest.mark.parametrize(
    ("dataset", "test_counts"),
    [
        (MNIST, [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
        (FASHION_MNIST, [1000] * 10),
    ],
)
def test_pictures_are_counted_and_in_range(dataset: Dataset, test_counts: list[int]) -> None:
    train, test = load_images(dataset)
    assert train.pictures.shape == (60_000, 28, 28)
    assert test.pictures.shape == (10_000, 28, 28)
    assert np.bincount(test.labels).tolist() == test_counts
    for split in (train, test):
        assert split.pictures.dtype == np.uint8
        assert (split.pictures.min(), split.pictures.max()) == (0, 255)
        assert set(split.labels.tolist()) == set(range(10))


def test_mnist_labels_are_those_published() -> None:
    train, _ = load_images(MNIST)
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def test_mnist_digits_fill_a_box_of_20_with_their_mass_in_the_middle() -> None:
    _, test = load_images(MNIST)
    ink = test.pictures.astype(float)
    centres = [(ink * grid).sum((1, 2)) / ink.sum((1, 2)) for grid in np.mgrid[:28, :28]]
    assert np.abs(np.array(centres) - 13.5).max() < 1.5
    assert all(max(np.ptp(np.nonzero(picture), axis=1)) + 1 <= 20 for picture in test.pictures[:1000])


@pytest.mark.parametrize(("dataset", "shared"), [(MNIST, 0), (FASHION_MNIST, 0)])
def test_no_test_picture_is_in_training(dataset: Dataset, shared: int) -> None:
    train, test = load_images(dataset)
    known = {picture.tobytes() for picture in train.pictures}
    assert sum(picture.tobytes() in known for picture in test.pictures) == shared


def test_a_split_of_pictures_is_whole_seeded_and_disjoint() -> None:
    train, _ = load_images(MNIST)
    numbered = Pictures(train.pictures[:1000], np.arange(1000))
    rest, held_out = numbered.split(100, seed=3)
    assert sorted([*rest.labels, *held_out.labels]) == list(range(1000))
    assert len(held_out) == 100
    assert np.array_equal(held_out.labels, numbered.split(100, seed=3)[1].labels)
    assert not np.array_equal(held_out.labels, numbered.split(100, seed=4)[1].labels)


def test_masses_are_those_published() -> None:
    data = load_masses()
    assert data.masses.shape == (961, 4)
    assert np.bincount(data.severity).tolist() == [516, 445]
    assert np.isnan(data.masses).sum(0).tolist() == [5, 31, 48, 76]
    assert np.nanmin(data.masses, axis=0).tolist() == [18, 1, 1, 1]
    assert np.nanmax(data.masses, axis=0).tolist() == [96, 4, 5, 4]


def test_reviews_are_balanced_and_whole() -> None:
    for split in reviews():
        assert len(split) == 25_000
        assert np.bincount(split.labels).tolist() == [12_500, 12_500]
        assert all(split.texts)
        assert all(film.startswith("tt") for film in split.films)


def test_reviews_that_are_in_both_splits_are_counted_and_left_out_of_training() -> None:
    train, test = reviews()
    clean = train.without(test)
    assert len(train) - len(clean) == 123
    assert not set(clean.texts) & set(test.texts)


def test_held_out_reviews_are_of_other_films() -> None:
    train, test = reviews()
    rest, held_out = train.without(test).split(2500, seed=0)
    assert len(rest) + len(held_out) == len(train) - 123
    assert 2500 <= len(held_out) <= 2530
    assert 0.45 < held_out.labels.mean() < 0.55
    assert not set(rest.films) & set(held_out.films)


def test_a_changed_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    source = MAMMOGRAPHIC_MASSES.fetch("mammographic_masses.data")
    copy = tmp_path / "mammographic-masses" / source.name
    copy.parent.mkdir()
    shutil.copyfile(source, copy)
    assert len(load_masses(tmp_path).severity) == 961
    copy.write_bytes(copy.read_bytes().replace(b"5,67,3,5,3,1", b"5,67,3,5,3,0", 1))
    with pytest.raises(DataError, match=r"mammographic_masses\.data is not the published file"):
        load_masses(tmp_path)


def test_a_file_that_cannot_be_had_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable = File("md5:0", "http://127.0.0.1:9/mammographic_masses.data")
    monkeypatch.setitem(MAMMOGRAPHIC_MASSES.files, "mammographic_masses.data", unreachable)
    with pytest.raises(DataError, match=r"mammographic_masses\.data is absent"):
        load_masses(tmp_path)
