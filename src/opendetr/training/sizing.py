"""The size of pictures, chosen again where the machine turns out to be another than the look at the start said."""

from dataclasses import dataclass, field, replace

from opendetr.config import RunConfig
from opendetr.training.choices import ObjectSizes, choose_size, pixels_in
from opendetr.training.speed import IN_A_RUN, Speed

MARKS = (0.1, 0.3)  # of the budget, at which speed is compared with what was expected
TELLING = 1.5  # a factor between the two from which on the size is chosen again


@dataclass
class Sizing:
    """What the size was chosen by, and what steps have taken since.

    Attributes:
        objects: of the training split.
        pictures: of it.
        speed: of the look at the start.
        is_open: whether the size was chosen for the time there is, and may be chosen again.
        expected: seconds per pixel of a run like this, by what the size was chosen by last.
        pixels: that were learned from since the last comparison.
        seconds: that this took.
        done: the marks that were passed.
    """

    objects: ObjectSizes
    pictures: int
    speed: Speed
    is_open: bool
    expected: float = 0.0
    pixels: int = 0
    seconds: float = 0.0
    done: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.expected = self.expected or self.speed.in_a_run

    def observe(self, pixels: int, seconds: float) -> None:
        """A step learned from so many pixels in so many seconds."""
        self.pixels, self.seconds = self.pixels + pixels, self.seconds + seconds

    def is_due(self, progress: float) -> bool:
        """Whether it is time to compare."""
        due = [mark for mark in MARKS if mark <= progress and mark not in self.done]
        self.done += due
        return self.is_open and bool(due) and self.pixels > 0

    @property
    def found(self) -> float:
        """Seconds per pixel since the last comparison."""
        return self.seconds / self.pixels

    def chosen_again(self, config: RunConfig, seconds: float, found: float) -> tuple[RunConfig, str]:
        """The config for the speed that was found, and what to say, which is nothing where it stays.

        Args:
            config: of the run until now.
            seconds: the whole budget for steps, of all processes together.
            found: seconds per pixel, in the mean of all processes.
        """
        factor = found / self.expected
        self.expected, self.pixels, self.seconds = found, 0, 0.0
        if 1 / TELLING <= factor <= TELLING:
            return config, ""
        speed = f"{factor:.1f} times as slow" if factor > 1 else f"{1 / factor:.1f} times as fast"
        size, reason = choose_size(self.objects, self.pictures, pixels_in(config, seconds, found / IN_A_RUN))
        if size == config.data.image_size:
            return config, f"this machine is {speed} as expected; pictures keep their {size} pixels"
        max_size = round(config.data.max_size * size / config.data.image_size)
        data = replace(config.data, image_size=size, max_size=max_size)
        return replace(config, data=data), f"this machine is {speed} as expected: pictures of {size} pixels: {reason}"
