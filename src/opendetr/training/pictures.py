"""The training pictures of a run: their order, their size, and the batches that are read ahead."""

import itertools
import math
from collections.abc import Iterator
from copy import copy
from functools import cached_property

from accelerate import Accelerator
from torch import Tensor

from opendetr.config import RunConfig
from opendetr.data.balance import repeat_factors
from opendetr.data.cache import build_cache
from opendetr.data.loader import DetectionDataset, Sample, epoch_order, training_loader
from opendetr.data.picture_digests import picture_digests
from opendetr.data.transforms import Preprocessing, training_transform
from opendetr.progress import warn
from opendetr.structures import Batch, Targets
from opendetr.training.resume import RunState, random_state, restore_random_state
from opendetr.training.step import MicroBatches

SMALL = 2 / 3  # of the size: that of small pictures
MOST_SAID = 3  # pictures that cannot be used, each with a warning when it is met; the end of the run lists them


class TrainingPictures:
    """The training split as micro-batches of this process, epoch after epoch."""

    def __init__(
        self, dataset: DetectionDataset, config: RunConfig, preprocessing: Preprocessing, accelerator: Accelerator
    ) -> None:
        self.dataset, self.config, self.preprocessing, self.accelerator = dataset, config, preprocessing, accelerator
        self.are_small = False
        self.batches: Iterator[tuple[Batch, Targets]] = iter(())
        self.left_out: dict[str, None] = {}  # a sentence per picture that could not be used, in their order

    @cached_property
    def steps_per_epoch(self) -> int:
        """Updates per epoch; the last one may have fewer micro-batches."""
        return -(-len(self.epoch_batches(0)) // self.config.train.accumulate)

    def epoch_batches(self, epoch: int) -> list[list[int]]:
        """This process's micro-batches of an epoch, as keys of the data set."""
        train, accelerator = self.config.train, self.accelerator
        return epoch_order(
            len(self.dataset), epoch, train.seed, train.batch_size, accelerator.process_index,
            accelerator.num_processes, self.shapes, self.factors,
        )  # fmt: skip

    @cached_property
    def shapes(self) -> list[tuple[int, int]] | None:
        """The shape of every picture; None where most shapes differ."""
        if self.preprocessing.multiple_of == 1:
            return None
        return [self.preprocessing.shape(height, width) for width, height in self.dataset.index.sizes.tolist()]

    @cached_property
    def factors(self) -> Tensor | None:
        """How often every picture is shown in an epoch, in the mean; None for once."""
        return repeat_factors(self.dataset.index) if self.config.data.balanced else None

    @cached_property
    def digests(self) -> Tensor:
        """What a resumed run compares its pictures with."""
        return picture_digests(self.dataset.index)

    @cached_property
    def upright(self) -> DetectionDataset:
        """The pictures without augmentation, as in evaluation."""
        level = self.preprocessing.white_level
        cache = build_cache(self.config.data, white_level=level)
        transform, skips = self.preprocessing.transform(), self.dataset.skips_broken
        return DetectionDataset(self.dataset.index, transform, cache=cache, white_level=level, skips_broken=skips)

    def first(self, epoch: int) -> Iterator[Sample]:
        """The pictures of an epoch as training will see them at their full size, in its order, one by one."""
        dataset = copy(self.dataset)
        dataset.transform = training_transform(self.config.data, self.preprocessing)
        keys = itertools.chain.from_iterable(self.epoch_batches(epoch))
        return map(dataset.__getitem__, keys)  # which goes on after a picture that cannot be read

    def show(self, state: RunState, *, small: bool) -> None:
        """Read pictures from this state of the run on, augmented, at two thirds of the size where `small`."""
        self.are_small = small
        self.dataset.transform = training_transform(self.config.data, self.preprocessing, SMALL if small else 1.0)
        self.batches = iter(())  # drop batches read ahead, to free their memory first
        self.batches = self._batches_from(state.epoch, state.step)

    def next_batches(self, count: int) -> MicroBatches:
        """The next micro-batches, on the device; the first pictures that cannot be used are said."""
        device = self.accelerator.device
        batches = [(batch.to(device), targets.to(device)) for batch, targets in itertools.islice(self.batches, count)]
        for sentence in itertools.chain.from_iterable(batch.left_out for batch, _ in batches):
            if sentence not in self.left_out:
                self.left_out[sentence] = None
                if len(self.left_out) <= MOST_SAID:
                    warn(f"left out of training: {sentence}.")
        return batches

    def change(self, config: RunConfig, preprocessing: Preprocessing) -> None:
        """Use another config, from the next `show` on."""
        is_larger = config.data.image_size > self.config.data.image_size
        is_resized, self.config, self.preprocessing = preprocessing != self.preprocessing, config, preprocessing
        if is_larger and self.dataset.cache is not None:  # than the pictures it keeps
            self.dataset.cache = None
            self.dataset.cache = build_cache(
                config.data, self.dataset.index.sizes, config.train.workers, preprocessing.white_level
            )
        for name in ("shapes", "upright") if is_resized else ():
            self.__dict__.pop(name, None)

    def growth(self) -> float:
        """How much longer a step over full pictures takes than one over those shown now."""
        record = self.dataset.index.records[0]
        full = math.prod(self.preprocessing.shape(record.height, record.width))
        return full / self.dataset[0][0][0].numel()

    def _batches_from(self, first_epoch: int, first_step: int) -> Iterator[tuple[Batch, Targets]]:
        done = first_step * self.config.train.accumulate
        keys = (
            batch
            for epoch in itertools.count(first_epoch)
            for batch in self.epoch_batches(epoch)[done if epoch == first_epoch else 0 :]
        )
        before = random_state()
        batches = training_loader(self.dataset, keys, self.config.train.workers, self.accelerator.device)
        restore_random_state(before)  # making a loader draws a number: a resumed run must draw the same numbers
        return batches
