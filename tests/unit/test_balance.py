"""Repeat factor sampling: pictures of rare classes are shown more often, in epochs as long as before."""

import json
from collections import Counter
from itertools import chain

import pytest
import torch

from opendetr.data.balance import repeat_factors
from opendetr.data.door import load_index
from opendetr.data.loader import epoch_order


@pytest.fixture
def index_of(coco_folder):
    """A function that makes an index of pictures with objects of these classes."""

    def make(*pictures, classes):
        folder = coco_folder([len(labels) for labels in pictures], names=[f"class {n}" for n in range(classes)])
        path = folder / "annotations" / "train.json"
        content = json.loads(path.read_text())
        for entry, label in zip(content["annotations"], chain.from_iterable(pictures), strict=True):
            entry["category_id"] = label + 1
        path.write_text(json.dumps(content))
        return load_index(folder, "train")

    return make


def test_factors_by_hand(index_of):
    """Class 0 is in 8 of 10 pictures, 1 in 4 (the median), 2 in 1; class 3 in none. sqrt(4 / 1) = 2."""
    pictures = [[0]] * 4 + [[0, 1, 1]] * 3 + [[0, 2], [1], []]
    found = repeat_factors(index_of(*pictures, classes=4))
    torch.testing.assert_close(found, torch.tensor([1.0] * 7 + [2.0, 1.0, 1.0]))


def test_without_objects_nothing_is_repeated(index_of):
    assert repeat_factors(index_of([], [], classes=2)).tolist() == [1, 1]


@pytest.mark.parametrize("world", [1, 2])
def test_epochs_stay_as_long_and_have_the_expected_shares(world):
    length, factors = 100, torch.ones(100)
    factors[:10] = 3.5
    shown, keys = Counter(), []
    for epoch in range(200):
        of_ranks = [epoch_order(length, epoch, 0, 4, rank, world, factors=factors) for rank in range(world)]
        batches = [key for batches in of_ranks for batch in batches for key in batch]
        assert len(batches) == length // (4 * world) * 4 * world
        assert len(set(batches)) == len(batches)  # a picture that is shown again is augmented in another way
        assert of_ranks == [epoch_order(length, epoch, 0, 4, rank, world, factors=factors) for rank in range(world)]
        shown.update(key % length for key in batches)
        keys += batches
    assert len(set(keys)) == len(keys)
    often, once = (sum(shown[at] for at in places) / len(places) for places in (range(10), range(10, 100)))
    assert often / once == pytest.approx(3.5, rel=0.05)  # 7000 of 25000 draws: a standard deviation of 1.5 %


def test_without_factors_the_order_is_that_of_earlier_versions():
    assert epoch_order(6, 1, 0, 2) == epoch_order(6, 1, 0, 2, factors=None)
    assert sorted(key for batch in epoch_order(6, 1, 0, 2) for key in batch) == list(range(6, 12))
