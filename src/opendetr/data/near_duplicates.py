"""Pictures that show the same: a difference hash of each, pairs that are close, and splits that keep them together."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool
from PIL import Image

SIDE = 16  # of the grid that is compared: 256 bits
CLOSE = 32  # bits of 256 that near duplicates differ in at most; other pictures differ in 39 or more on the data tried
PLAIN = 16  # bits of one kind below which a picture shows too little to be compared, such as a uniform one
BLOCK = 4096  # pictures that are compared with as many others at once
MOST = 100_000  # pictures up to which all pairs are compared: half a minute; of more only equal hashes are found


def difference_hash(image: Image.Image) -> Bool[np.ndarray, " 256"]:
    """Whether a picture gets lighter from each cell of a grid to the next one on its right."""
    small = image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, dtype=np.int16)
    lighter: np.ndarray = (grey[:, 1:] > grey[:, :-1]).ravel()
    return lighter


def near_pairs(hashes: Bool[np.ndarray, "N 256"]) -> list[tuple[int, int]]:
    """The pairs (i < j) of pictures whose hashes differ in at most `CLOSE` bits, plain pictures aside."""
    ones = hashes.sum(1)
    telling = np.flatnonzero((ones >= PLAIN) & (ones <= hashes.shape[1] - PLAIN))
    if len(telling) > MOST:
        return sorted(_equal_pairs(hashes, telling))
    signs = np.where(hashes[telling], 1, -1).astype(np.float32)  # their product is 256 - 2 x distance, exactly
    least = hashes.shape[1] - 2 * CLOSE
    found = list[tuple[int, int]]()
    for first in range(0, len(telling), BLOCK):
        for second in range(first, len(telling), BLOCK):
            alike = signs[first : first + BLOCK] @ signs[second : second + BLOCK].T >= least
            rows, columns = np.nonzero(np.triu(alike, 1) if first == second else alike)
            found += zip(telling[first + rows].tolist(), telling[second + columns].tolist())
    return sorted(found)


def _equal_pairs(hashes: Bool[np.ndarray, "N 256"], telling: np.ndarray) -> Iterator[tuple[int, int]]:
    """Each picture with the first one of the same hash."""
    first_of: dict[bytes, int] = {}
    for position, packed in zip(telling.tolist(), np.packbits(hashes[telling], axis=1)):
        first = first_of.setdefault(packed.tobytes(), position)
        if first != position:
            yield first, position


def groups(count: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The positions 0..count-1 in groups that pairs connect, in the order of their first ones."""
    leader = list(range(count))

    def of(position: int) -> int:
        while leader[position] != position:
            leader[position] = leader[leader[position]]
            position = leader[position]
        return position

    for one, other in pairs:
        low, high = sorted((of(one), of(other)))
        leader[high] = low
    found: dict[int, list[int]] = {}
    for position in range(count):
        found.setdefault(of(position), []).append(position)
    return list(found.values())


def share_of(
    labels: Sequence[np.ndarray], pairs: Sequence[tuple[int, int]], share: float, seed: int
) -> tuple[list[int], list[int]]:
    """Positions for training, and the share of them for validation; near duplicates stay on one side.

    Groups are taken in a random order by the seed, at first those with a class that the share lacks, so that every
    class that has pictures enough is on both sides.

    Args:
        labels: the class indices of every picture's objects.
        pairs: near duplicates, as of `near_pairs`.
        share: of the pictures, between 0 and 1.
        seed: of the order.
    """
    together = groups(len(labels), pairs)
    order = np.random.default_rng(seed).permutation(len(together)).tolist()
    wanted = round(share * len(labels))
    pictures_of: dict[int, int] = {}
    for of_picture in labels:
        for label in set(of_picture.tolist()):
            pictures_of[label] = pictures_of.get(label, 0) + 1
    lacking = {label for label, number in pictures_of.items() if share * number >= 1}
    taken: set[int] = set()
    for needs_class in (True, False):
        for number in order:
            group = together[number]
            shown = {label for position in group for label in labels[position].tolist()}
            is_wanted = bool(shown & lacking) if needs_class else group[0] not in taken
            if is_wanted and len(taken) + len(group) <= wanted and group[0] not in taken:
                taken.update(group)
                lacking -= shown
    return [position for position in range(len(labels)) if position not in taken], sorted(taken)
