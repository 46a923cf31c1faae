"""Chooses the picture size again where steps are faster or slower than measured at the start."""

from dataclasses import dataclass, field, replace

from opendetr.config import RunConfig
from opendetr.training.choices import ObjectSizes, choose_size, pixels_in
from opendetr.training.speed import IN_A_RUN, Speed

MARKS = (0.1, 0.3)  # shares of the budget after which the speed is compared with the expected one
LARGEST_FACTOR = 1.5  # between the measured and the expected speed; beyond it the size is chosen again


@dataclass
class Sizing:
    """The measurement that the size was chosen by, and the time of steps since."""

    objects: ObjectSizes  # of the training split
    pictures: int  # of the training split
    speed: Speed  # measured at the start
    is_open: bool  # whether the size was chosen for the budget, and may be chosen again
    expected: float = 0.0  # seconds per pixel that the size was last chosen by
    pixels: int = 0  # trained on since the last comparison
    seconds: float = 0.0  # of training since the last comparison
    done: list[float] = field(default_factory=list)  # marks that are passed

    def __post_init__(self) -> None:
        self.expected = self.expected or self.speed.in_a_run

    def observe(self, pixels: int, seconds: float) -> None:
        """Add the pixels and seconds of a step."""
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
        """The config for the seconds per pixel that were found, and the reason, empty where the size stays.

        `seconds` is the whole budget for steps of all processes together.
        """
        factor = found / self.expected
        self.expected, self.pixels, self.seconds = found, 0, 0.0
        if 1 / LARGEST_FACTOR <= factor <= LARGEST_FACTOR:
            return config, ""
        speed = f"{factor:.1f} times as slow" if factor > 1 else f"{1 / factor:.1f} times as fast"
        size, reason = choose_size(self.objects, self.pictures, pixels_in(config, seconds, found / IN_A_RUN))
        if size == config.data.image_size:
            return config, f"this machine is {speed} as expected; pictures keep their {size} pixels"
        max_size = round(config.data.max_size * size / config.data.image_size)
        data = replace(config.data, image_size=size, max_size=max_size)
        return replace(config, data=data), f"this machine is {speed} as expected: pictures of {size} pixels: {reason}"
