"""How far a run is, and when it must stop: after its epochs or minutes, at a goal on val, or on Ctrl-C."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from opendetr.progress import console


@dataclass
class Goal:
    """A run that lasts until AP50 on val is high enough.

    The schedule has `steps` steps. Halfway, where the learning rate is still high, it waits until AP50 on val is so
    high that the falling learning rate will lead to the goal, and only then continues to its end.
    """

    ap50: float  # on val, from which on the schedule need not wait
    steps: int  # of the whole schedule, without waiting
    growth: float = 1.0  # how much longer a step takes once pictures have their full size
    done: float = 0.0  # steps of the schedule, 0..steps
    is_reached: bool = False  # whether an evaluation gave `ap50`
    unmeasured: int = 0  # steps since the last evaluation

    WAITING_AT = 0.5  # where pictures begin to have their full size and flips are decided
    HURRIES_FROM = 0.02  # share of the schedule; the first steps are slower than the later ones and say nothing
    MEASURED_EVERY, WHILE_WAITING, MEASURED_FROM = 0.1, 0.05, 0.2  # shares of the schedule

    @property
    def progress(self) -> float:
        """How far the schedule is, 0..1."""
        return self.done / self.steps

    def advance(self, step_seconds: float, remaining: float) -> None:
        """Count a step, where a step takes `step_seconds` and `remaining` seconds are left."""
        self.unmeasured += 1
        hurry = 1.0
        if self.progress >= self.HURRIES_FROM:  # a machine too slow for all steps goes through the schedule faster
            hurry = max(1.0, self.seconds_left(step_seconds) / max(remaining, 1e-3))
        waits = not self.is_reached and hurry == 1 and self.progress <= self.WAITING_AT
        self.done = min(self.done + hurry, self.steps * (self.WAITING_AT if waits else 1.0))

    def seconds_left(self, step_seconds: float) -> float:
        """Seconds for the rest of the schedule, where a step takes `step_seconds` now, without waiting."""
        small, full = max(0.0, self.WAITING_AT - self.progress), 1 - max(self.WAITING_AT, self.progress)
        return self.steps * step_seconds * (small + full * (self.growth if small else 1.0))

    def wants_measurement(self) -> bool:
        """Whether to evaluate on val now."""
        waits = self.progress == self.WAITING_AT
        every = self.WHILE_WAITING if waits else self.MEASURED_EVERY
        return self.progress >= self.MEASURED_FROM and self.unmeasured >= every * self.steps

    def record(self, ap50: float) -> None:
        """Record the AP50 of an evaluation."""
        self.unmeasured = 0
        self.is_reached = self.is_reached or ap50 >= self.ap50


@dataclass
class Plan:
    """Progress in 0..1 over epochs or over a wall-clock budget, and the time that must be left for the end."""

    total_steps: int  # of all epochs; used where `total_seconds` is None
    total_seconds: float | None  # the budget of all sessions of the run together
    started: float  # `time.time()` at the start of this session; for the command line, of the process
    goal: Goal | None = None  # ends the run before its budget is over
    spent: float = 0.0  # seconds of earlier sessions
    began: float = 0.0  # seconds of the run before its first step: imports, reading, measuring the machine
    step_seconds: float = 0.0  # a running mean, 0 before the first step
    evaluation_seconds: float = 0.0  # expected of the next evaluation; 0: none is planned
    saving_seconds: float = 2.0  # expected of writing the model
    evaluating: float = 0.0  # seconds of all evaluations so far
    saved: float = 0.0  # `time.time()` when the model was last written
    _interrupted: threading.Event = field(default_factory=threading.Event)

    def elapsed(self) -> float:
        """Seconds of the run up to now, earlier sessions included."""
        return self.spent + time.time() - self.started

    def remaining(self) -> float:
        """Seconds left of the budget; infinite where epochs are counted."""
        return float("inf") if self.total_seconds is None else self.total_seconds - self.elapsed()

    def begin(self) -> None:
        """Note that the first step comes next: the time before it is no part of the schedule."""
        self.began = self.began or self.elapsed()

    def progress(self, step: int) -> float:
        """How far training is, 0..1; learning rates depend on it."""
        return self.goal.progress if self.goal is not None else self.progress_at(step, self.elapsed())

    def progress_at(self, step: int, elapsed: float) -> float:
        """How far training without a goal is, 0..1, after these steps and seconds of the run."""
        if self.total_seconds is None:
            return min(1.0, step / self.total_steps)
        return min(1.0, (elapsed - self.began) / max(1e-3, self.total_seconds - self.began))

    def interrupted(self) -> bool:
        """Whether the user asked to stop."""
        return self._interrupted.is_set()

    def must_stop(self) -> bool:
        """Whether another step would leave too little time to evaluate, save and exit. The first step always runs."""
        if self.interrupted() or (self.goal is not None and self.goal.progress == 1):
            return True
        return self.step_seconds > 0 and self.remaining() < 1.2 * self.step_seconds + self.final_seconds()

    def final_seconds(self) -> float:
        """Seconds for the end: saving, and an evaluation unless it would take more than a quarter of the budget."""
        affordable = self.evaluation_seconds <= 0.25 * (self.total_seconds or float("inf"))
        return self.saving_seconds + (self.evaluation_seconds if affordable else 0.0)

    def time_for_steps(self) -> float:
        """Seconds left of the budget before the end must begin."""
        return max(0.0, self.remaining() - self.final_seconds())

    def remaining_of_run(self, step: int) -> float:
        """Seconds until the run is over, by its budget or by the steps it still has to do."""
        if self.goal is not None:
            return min(self.goal.seconds_left(self.step_seconds), self.time_for_steps())
        return self.remaining() if self.total_seconds is not None else (self.total_steps - step) * self.step_seconds

    def record_step(self, seconds: float) -> None:
        """Record the time of a step."""
        self.step_seconds = seconds if self.step_seconds == 0 else 0.9 * self.step_seconds + 0.1 * seconds
        if self.goal is not None:
            self.goal.advance(self.step_seconds, self.time_for_steps())

    def record_evaluation(self, seconds: float) -> None:
        """Record the time of an evaluation."""
        self.evaluation_seconds = seconds
        self.evaluating += seconds

    def extend_evaluation(self, seconds: float) -> None:
        """Add to the latest evaluation what followed it, such as the page: the next one will take as long."""
        self.evaluation_seconds += seconds
        self.evaluating += seconds

    def record_saving(self, seconds: float) -> None:
        """Record the time of saving."""
        self.saving_seconds, self.saved = max(0.5, 1.5 * seconds), time.time()

    def may_save(self) -> bool:
        """Whether to save between epochs: at once the first time, then for at most a tenth of the time."""
        return time.time() - self.saved > 10 * self.saving_seconds

    def may_save_within(self, seconds: float) -> bool:
        """Whether to save within an epoch: after these seconds without, for at most a tenth of the time."""
        return time.time() - max(self.saved, self.started) > max(seconds, 10 * self.saving_seconds)

    def may_evaluate(self) -> bool:
        """Whether an evaluation between epochs is affordable: they take at most 15 % of a wall-clock budget."""
        if self.total_seconds is None:
            return True
        if self.goal is not None and not self.goal.wants_measurement():
            return False
        share = self.evaluating + self.evaluation_seconds <= 0.15 * self.elapsed()
        return share and self.remaining() > self.evaluation_seconds + self.final_seconds() + self.step_seconds

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM let the current step finish; a second Ctrl-C stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask_to_stop(signum: int, frame: FrameType | None) -> None:
            if self._interrupted.is_set() and signum == signal.SIGINT:
                raise KeyboardInterrupt
            self._interrupted.set()
            console.print("Stopping after this step; the model is saved. Press Ctrl-C again to stop at once.")

        previous = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@dataclass
class Forecast:
    """Prints how long a run with a goal will take: after its first steps, and again after large changes."""

    plan: Plan
    said: float = 0.0  # seconds, of the whole run
    FROM, MUCH = 20, 1.4  # steps; a factor

    def say_after(self, step: int, pictures_per_second: float) -> None:
        """Print the expected time after this step, if it is new."""
        if self.plan.goal is None or step < self.FROM:
            return
        expected = self.plan.elapsed() + self.plan.remaining_of_run(step)
        if not self.said:
            console.print(
                f"This machine trains on about {pictures_per_second:.0f} pictures a second: expect "
                f"{expected / 60:.1f} minutes."
            )
        elif max(expected / self.said, self.said / expected) > self.MUCH:
            longer = "less long" if expected < self.said else "longer"
            console.print(f"It takes {longer} than expected: {expected / 60:.1f} minutes in all.")
        else:
            return
        self.said = expected
