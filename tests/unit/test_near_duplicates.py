import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from opendetr.data import near_duplicates
from opendetr.data.near_duplicates import CLOSE, difference_hash, groups, near_pairs, share_of


def noise(seed, size=(96, 64)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def test_a_copy_of_another_size_and_brightness_has_nearly_the_same_hash():
    smooth = noise(0, (12, 8)).resize((240, 160), Image.Resampling.BICUBIC)
    other = smooth.resize((120, 80)).point(lambda value: value // 2 + 40)
    assert np.sum(difference_hash(smooth) != difference_hash(other)) <= CLOSE
    assert np.sum(difference_hash(smooth) != difference_hash(noise(1))) > CLOSE


@given(st.integers(0, 2**32 - 1))
def test_pairs_are_those_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    base = rng.random((4, 256)) < 0.5
    hashes = np.concatenate([base, base ^ (rng.random((4, 256)) < 0.125), np.zeros((2, 256), bool)])
    hashes = hashes[rng.permutation(len(hashes))]
    plain = hashes.sum(1) == 0
    expected = [
        (i, j) for i in range(10) for j in range(i + 1, 10)
        if (hashes[i] != hashes[j]).sum() <= CLOSE and not plain[i] and not plain[j]
    ]  # fmt: skip
    assert near_pairs(hashes) == expected


def test_blocks_change_nothing_and_of_very_many_only_equal_ones_are_found(monkeypatch):
    rng = np.random.default_rng(0)
    base = rng.random((20, 256)) < 0.5
    near = base.copy()
    near[:, 0] ^= True
    hashes = np.concatenate([base, near, base[:5]])
    whole = near_pairs(hashes)
    monkeypatch.setattr(near_duplicates, "BLOCK", 7)
    assert near_pairs(hashes) == whole
    monkeypatch.setattr(near_duplicates, "MOST", 10)
    assert near_pairs(hashes) == [(number, 40 + number) for number in range(5)]


def test_groups():
    assert groups(6, [(4, 5), (0, 4), (2, 1)]) == [[0, 4, 5], [1, 2], [3]]


@pytest.mark.parametrize("seed", range(5))
def test_a_share_keeps_groups_together_and_shows_every_class(seed):
    rng = np.random.default_rng(seed)
    labels = [np.array([number % 5]) for number in range(100)]
    pairs = [(number, number + 1) for number in range(0, 40, 2)]
    train, val = share_of(labels, pairs, 0.2, seed)
    assert sorted(train + val) == list(range(100))
    assert len(val) == 20
    assert all((one in val) == (other in val) for one, other in pairs)
    assert {labels[position][0] for position in val} == {labels[position][0] for position in train} == set(range(5))
    assert share_of(labels, pairs, 0.2, seed) == (train, val)
    assert share_of(labels, pairs, 0.2, seed + 1 + int(rng.integers(9)))[1] != val
