"""Chooses the values that a recipe leaves open, for the data set and the machine, each with its reason in words."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from opendetr.config import LONGEST_ASPECT, DataConfig, RunConfig
from opendetr.data.index import DatasetIndex
from opendetr.data.transforms import Preprocessing
from opendetr.wording import counted

FINE_ENOUGH = 0.2  # of a picture's shorter side: objects from this size on need no feature map finer than stride 16
SMALLEST_PIXELS, COMFORTABLE_PIXELS = 12, 64  # sides of the smallest kind of object: the least to find it; ample
FEWEST_OBJECTS, FEWEST_SHARE = 5, 0.02  # of a kind that decides, alone or with the smaller kinds
# How many of the pixels of a budget one picture should have: area = BALANCE * sqrt(all pixels), so that twice the time
# gives 1.4 times as large pictures 1.4 times as often. Five minutes of BCCD get 224 or 256 pixels.
BALANCE = 4.4
FOR_STEPS = 0.9  # of the time; the rest goes to starting and ending
FEWEST_QUERIES, MOST_QUERIES, QUERIES_PER_OBJECT = 30, 300, 2.5
SIDE_STEP = 32
MANY_PASSES = 8  # over the pictures: with fewer, they need no augmentation by zooming
FEWEST_PASSES = 5  # over the pictures: with fewer, small objects are not learned at any size


@dataclass(frozen=True)
class ObjectSizes:
    """How large the objects of a data set are: square root of the box's area over the picture's shorter side."""

    smallest_kind: float  # the median of the class whose median is smallest, rare classes aside
    large: float  # nine of ten objects are smaller
    pixels: int  # the median picture's shorter side
    aspect: float  # the median picture's longer side over its shorter
    per_picture: float  # the mean number of objects

    @property
    def in_a_picture(self) -> int:
        """Objects of a typical picture, at least one."""
        return max(1, round(self.per_picture))


def measure_objects(index: DatasetIndex) -> ObjectSizes:
    """The sizes of the objects; without any, those of an object as large as its picture."""
    shorter = index.sizes.min(1)
    pixels = int(np.median(shorter))
    aspect = float(np.median(index.sizes.max(1) / shorter))
    boxes, labels = index.boxes_xyxy, index.labels
    if not len(boxes):
        return ObjectSizes(1.0, 1.0, pixels, aspect, 0.0)
    sizes = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])) / np.repeat(shorter, index.counts)
    kinds = sorted((sizes[labels == label] for label in np.unique(labels)), key=lambda kind: float(np.median(kind)))
    weighty = max(FEWEST_SHARE * len(sizes), min(FEWEST_OBJECTS, len(sizes) / 2))
    smallest = kinds[int(np.searchsorted(np.cumsum([len(kind) for kind in kinds]), weighty))]
    return ObjectSizes(
        float(np.median(smallest)), float(np.quantile(sizes, 0.9)), pixels, aspect, len(sizes) / len(index)
    )


def usual_size(index: DatasetIndex) -> int:
    """The shorter side of pictures, in pixels, at which `train` would train where time is no question."""
    return choose_size(measure_objects(index), len(index), None)[0]


def usual_preprocessing(index: DatasetIndex, image_size: int | None) -> Preprocessing:
    """The sizes of pictures that `train` would choose where time is no question; without normalisation."""
    size = image_size or usual_size(index)
    longest = round(size * max(LONGEST_ASPECT, measure_objects(index).aspect))
    return Preprocessing(size, longest, (0.0,) * 3, (1.0,) * 3)


def fit_to_data(config: RunConfig, index: DatasetIndex) -> tuple[RunConfig, list[str]]:
    """The config with queries, strides and zoom chosen where they are open, and a sentence for each choice.

    How far is zoomed has none: `fit_to_time` decides whether pictures are zoomed at all.
    """
    choices = list(_choices(config, index, measure_objects(index)))
    chosen = {name: value for name, value, _ in choices}
    return config.with_values(chosen, "the data"), [sentence for _, _, sentence in choices if sentence]


def _choices(config: RunConfig, index: DatasetIndex, objects: ObjectSizes) -> Iterator[tuple[str, object, str]]:
    """Dotted name, value and reason of each open value; the reason may be empty."""
    if config.model.num_queries == 0:
        most = int(index.counts.max())
        in_tens = math.ceil(QUERIES_PER_OBJECT * most / 10) * 10
        queries = max(FEWEST_QUERIES, most, min(MOST_QUERIES, in_tens))
        yield "model.num_queries", queries, f"{queries} queries: the fullest picture has {counted(most, 'object')}"
    if config.model.proposal_strides == (0,):
        coarsest = min((*config.model.encoder_strides, config.model.output_stride))
        finer = () if objects.smallest_kind >= FINE_ENOUGH else (coarsest // 2,)
        said = f"selected from cells of {coarsest} pixels on"
        if finer:
            said = f"also selected from cells of {finer[0]} pixels"
        typical = f"typically {objects.smallest_kind:.0%} of a picture's shorter side"
        yield "model.proposal_strides", finer, f"queries are {said}: the smallest kind of object is {typical}"
    if config.data.zoom_in == 0:
        yield "data.zoom_in", round(min(0.9, max(0.5, objects.large / 0.8)), 2), ""
    if config.data.zoom_out == 0:
        yield "data.zoom_out", round(min(1.5, max(1.0, 6 * objects.smallest_kind)), 2), ""


def fit_to_time(
    config: RunConfig, objects: ObjectSizes, pictures: int, seconds_per_pixel: float, seconds: float | None
) -> tuple[RunConfig, list[str]]:
    """The config with the size of the pictures and zooming chosen where they are open, and a sentence for each choice.

    `seconds` are left for training, of all processes together; None where epochs are counted.
    """
    data, said = config.data, list[str]()
    pixels = None if seconds is None else pixels_in(config, seconds, seconds_per_pixel)
    size = data.image_size
    if size == 0:
        size, reason = choose_size(objects, pictures, pixels)
        said.append(f"pictures of {size} pixels (shorter side): {reason}")
    max_size = data.max_size or round(size * max(LONGEST_ASPECT, objects.aspect))
    data = replace(data, image_size=size, max_size=max_size)
    if data.zoom_probability < 0:
        area = data.image_size**2 * objects.aspect
        passes = config.train.epochs if pixels is None else pixels / area / pictures
        zoom = 0.6 if passes >= MANY_PASSES else 0.0
        data = replace(data, zoom_probability=zoom)
        said.append(
            _zoom_in_words(data, objects)
            if zoom
            else f"no zooming: every picture is seen fewer than {MANY_PASSES} times"
        )
    return replace(config, data=data), said


def _zoom_in_words(data: DataConfig, objects: ObjectSizes) -> str:
    shown = f"{data.zoom_in:.0%} to {data.zoom_out:.0%} of a picture's sides are shown"
    large = f"nine of ten objects are below {objects.large:.0%} of the shorter side"
    small = "" if data.zoom_out > 1 else ", and the smallest kind would be lost in smaller pictures"
    return f"zooming: {shown}, for {large}{small}"


def pixels_in(config: RunConfig, seconds: float, seconds_per_pixel: float) -> float:
    """How many pixels, of all pictures together, can be trained on in the time, counted at their full size."""
    pixels = FOR_STEPS * max(seconds, 1.0) / seconds_per_pixel
    return pixels * (1 + 1.25 * config.train.small_first)  # at two thirds of the size, 9/4 times as many in the time


def choose_size(objects: ObjectSizes, pictures: int, pixels: float | None) -> tuple[int, str]:
    """The shorter side, and the reason; `pixels`, of all pictures together, can be trained on in the time."""
    least = _sides(SMALLEST_PIXELS / objects.smallest_kind, up=True)
    most = _sides(min(640, objects.pixels, max(320, COMFORTABLE_PIXELS / objects.smallest_kind)), up=False)
    size = most
    if pixels is not None:
        affordable = _sides((BALANCE * pixels**0.5 / objects.aspect) ** 0.5 + SIDE_STEP / 2, up=False)
        often_enough = _sides((pixels / (FEWEST_PASSES * pictures * objects.aspect)) ** 0.5, up=False)
        size = min(most, max(affordable, min(least, often_enough)))
    size = max(size, 4 * SIDE_STEP)
    reason = f"the smallest kind of object gets {objects.smallest_kind * size:.0f} pixels"
    if objects.smallest_kind * size < SMALLEST_PIXELS:
        reason += f". Warning: objects below {SMALLEST_PIXELS} pixels are hardly found; " + (
            "give more --minutes or a larger --image-size" if size < most else "cut the pictures into parts"
        )
    return size, reason


def fit_batch(
    config: RunConfig, processes: int, fits: Callable[[RunConfig, int], bool] = lambda *_: True
) -> tuple[RunConfig, str]:
    """The config with the batch size chosen, and the reason: small, since many steps were measured to learn most.

    `fits` says whether a batch size fits into memory; where it does not, gradients of smaller batches are summed.
    """
    pixels = config.data.image_size**2 * 4 // 3
    batch = wanted = next(size for size, at_most in ((8, 32_000), (4, 10**9)) if pixels <= at_most)
    while batch > 1 and not fits(config, batch):
        batch //= 2
    if batch < wanted:
        accumulate = config.train.accumulate * wanted // batch
        reason = f"{counted(batch, 'picture')} at once, to fit into memory, and {accumulate} times that for an update"
        return config.with_values({"train.batch_size": batch, "train.accumulate": accumulate}, "the memory"), reason
    at_this = "at this size many small steps learn more in the same time than few large ones"
    reason = f"{counted(batch, 'picture')} per step: {at_this}"
    together = batch * config.train.accumulate * processes
    if together > batch:
        reason += f". An update sees {together}; the learning rate stays that of {batch}: try --set train.lr=... too"
    return config.with_values({"train.batch_size": batch}, "the size"), reason


def _sides(pixels: float, *, up: bool) -> int:
    whole = -(-pixels // SIDE_STEP) if up else pixels // SIDE_STEP
    return max(1, int(whole)) * SIDE_STEP
