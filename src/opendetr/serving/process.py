"""The web process's side of the process that computes: it starts and watches it, and keeps the queue of its work.

A bounded number of jobs waits here. Only as many are sent to the other process as it can prepare ahead: a job whose
client has gone, or whose deadline has passed, leaves the queue and costs nothing. One that was sent is prepared all the
same, and computed unless its deadline has passed.
"""

import asyncio
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

from opendetr.errors import UserError
from opendetr.progress import warn
from opendetr.serving.messages import HEADER, length_of, packed, unpacked
from opendetr.serving.settings import ModelSettings

Priority = Literal["asked", "background"]
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a process that ended is started again; doubled each time
STUCK = 60.0  # seconds after its deadline in which a job that was sent must be answered, else the process is ended
BACKGROUND = 300.0  # seconds for a background job that names no deadline, so that none holds the process for ever
NEW = 0.05  # what the last answer counts in the mean time of an answer: batches come at once
ENDING = 5.0  # seconds in which the process ends by itself when it is told to


class QueueFull(Exception):  # noqa: N818 - what happened, as the answer says it
    """Too many jobs wait: come again later."""


class Late(Exception):  # noqa: N818
    """The deadline has passed; `was_sent` tells whether the process had the job by then."""

    def __init__(self, was_sent: bool = False) -> None:
        super().__init__()
        self.was_sent = was_sent


class ComputeGone(Exception):  # noqa: N818
    """The process that computes is not there: it has ended, `was_sent` with the job, or is being started."""

    def __init__(self, was_sent: bool = False) -> None:
        super().__init__()
        self.was_sent = was_sent


class WorkFailed(Exception):  # noqa: N818
    """A fault of ours in the process that computes, which said it on the console; the text is the exception's type."""


class WrongInputError(UserError):
    """What a work refuses, in a sentence; `kind` is the name of the exception there."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(eq=False)
class _Call:
    number: int
    name: str
    arguments: dict[str, Any]
    priority: Priority
    answer: "asyncio.Future[Any]"
    until: float | None  # on the clock of time.monotonic


class Compute:
    """The process that computes.

    Example:
        >>> compute = Compute(ModelSettings("runs/cells"))
        >>> await compute.start()
        >>> await compute.call("detect", {"picture": content, "name": "cell.jpg", "threshold": None}, deadline=30)
    """

    def __init__(self, settings: ModelSettings, waiting: int = 64, command: Sequence[str] = ()) -> None:
        """Take what the process loads, and the most jobs of each priority that wait.

        `command` starts another program that answers in the same way, for tests.
        """
        self.settings, self.most_waiting = settings, waiting
        self.command = tuple(command) or (sys.executable, "-m", "opendetr.serving.compute")
        self.window = 2 * settings.batch_size + 2  # jobs sent: one batch computes, the next is being prepared
        self.facts: dict[str, Any] = {}
        self.on_batch: Callable[[float], None] = lambda size: None  # called with the size of every batch
        self.on_restart: Callable[[], None] = lambda: None
        self._numbers = count(1)
        self._waiting: dict[Priority, dict[int, _Call]] = {"asked": {}, "background": {}}
        self._sent: dict[int, _Call] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._is_ready = False
        self._pace = self._busy_since = 0.0  # seconds between two answers; when the last was given or asked for
        self._watcher: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the model is loaded and answers."""
        return self._is_ready

    @property
    def process_id(self) -> int | None:
        """The id of the process, where one runs."""
        return None if self._process is None else self._process.pid

    @property
    def waiting(self) -> int:
        """How many jobs that a client waits for are in the queue or computed."""
        return len(self._waiting["asked"]) + sum(job.priority == "asked" for job in self._sent.values())

    async def start(self) -> None:
        """Start the process, and wait until the model is loaded.

        Raises:
            UserError: the model cannot be loaded.
        """
        await self._start()
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End the process; what waits gets `ComputeGone`."""
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()  # its sign to end
            try:
                await asyncio.wait_for(self._process.wait(), ENDING)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        self._lose_all()

    async def call(
        self, name: str, arguments: dict[str, Any], *, deadline: float | None = None, priority: Priority = "asked"
    ) -> Any:
        """What the function `name` of `work.WORK` returns for these arguments, which are plain values.

        Args:
            name: of the function.
            arguments: by name.
            deadline: seconds from now; None waits for ever, and in the background for `BACKGROUND`.
            priority: `background` jobs are computed one by one, while no client waits for anything.

        Raises:
            QueueFull: as many jobs of this priority wait as may, or so many that this one would be late.
            Late: the deadline has passed.
            ComputeGone: the process is not there, or ended before it answered.
            WrongInputError: the function refuses the arguments, as a picture that cannot be read.
            WorkFailed: the function has a fault.
        """
        return (await self.call_all(name, [arguments], deadline=deadline, priority=priority))[0]

    async def call_all(
        self,
        name: str,
        arguments: Sequence[dict[str, Any]],
        *,
        deadline: float | None = None,
        priority: Priority = "asked",
    ) -> list[Any]:
        """The same for several sets of arguments: all of them are taken, or none (`QueueFull`).

        Where one fails, the others leave the queue.
        """
        if not self._is_ready:
            raise ComputeGone
        if len(self._waiting[priority]) + len(arguments) > self.most_waiting:
            raise QueueFull
        if deadline is not None and self.waiting and (self.waiting + len(arguments)) * self._pace > deadline:
            raise QueueFull  # it would be late, and take the time of others that would then be late too
        if deadline is None and priority == "background":
            deadline = BACKGROUND
        until = None if deadline is None else time.monotonic() + deadline
        loop = asyncio.get_running_loop()
        jobs = [_Call(next(self._numbers), name, given, priority, loop.create_future(), until) for given in arguments]
        self._waiting[priority] |= {job.number: job for job in jobs}
        self._send_next()
        try:
            async with asyncio.timeout(deadline):
                return [await job.answer for job in jobs]
        except TimeoutError:
            raise Late(any(job.number in self._sent for job in jobs)) from None
        finally:
            for job in jobs:
                job.answer.cancel()
                if job.answer.done() and not job.answer.cancelled():
                    job.answer.exception()  # seen, so that asyncio reports none
                self._waiting[priority].pop(job.number, None)

    def _send_next(self) -> None:
        """Send as many jobs as the process may have: those that a client waits for come first."""
        if not self._is_ready or self._process is None:
            return
        asked, background = self._waiting["asked"], self._waiting["background"]
        while asked and len(self._sent) < self.window:
            self._send(asked.pop(next(iter(asked))))
        if background and not self._sent:
            self._send(background.pop(next(iter(background))))

    def _send(self, job: _Call) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        if not self._sent:
            self._busy_since = time.monotonic()
        self._sent[job.number] = job
        self._process.stdin.write(packed((job.number, job.name, job.arguments, job.until)))

    async def _start(self) -> None:
        """Start the process, and wait for its first message."""
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # as multiprocessing does
        self._process = process = await asyncio.create_subprocess_exec(
            *self.command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment
        )
        assert process.stdin is not None
        process.stdin.write(packed(self.settings))
        try:
            kind, content = await self._receive(process)
        except asyncio.IncompleteReadError:
            code = await process.wait()
            raise UserError(f"the process that computes ended while it loaded the model (exit code {code})") from None
        if kind == "refused":
            await process.wait()
            raise UserError(content)
        self.facts, self._is_ready = content, True

    async def _receive(self, process: asyncio.subprocess.Process) -> Any:
        assert process.stdout is not None
        header = await process.stdout.readexactly(HEADER)
        return unpacked(await process.stdout.readexactly(length_of(header)))

    async def _watch(self) -> None:
        """Hand on answers; when the process ends, fail what it had and start it again."""
        pause = FIRST_PAUSE
        while True:
            begun = time.monotonic()
            try:
                if self._is_ready:
                    await self._serve_until_it_ends()
                    if time.monotonic() - begun > LONGEST_PAUSE:
                        pause = FIRST_PAUSE
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                await self._start()
            except (UserError, OSError) as error:
                warn(f"the process that computes cannot be started again now: {error}")
            except Exception as error:  # a fault of ours: without a watcher nothing would be answered any more
                traceback.print_exc()
                warn(f"the server has a fault ({type(error).__name__}); the process that computes is started again")

    async def _serve_until_it_ends(self) -> None:
        """Hand on answers of the process; at its end what it had gets `ComputeGone`."""
        assert self._process is not None
        keeper = asyncio.create_task(self._end_if_stuck())
        try:
            await self._hand_on()
        except Exception:  # a fault in what it says, or in who reads it: it is not used any more
            self._process.kill()
            raise
        finally:
            keeper.cancel()
            self._is_ready = False
            self._lose_all()
        code = await self._process.wait()
        warn(f"the process that computes has ended (exit code {code}); it is started again")
        self.on_restart()

    async def _hand_on(self) -> None:
        """Give every answer to the job that waits for it, until the process ends."""
        assert self._process is not None
        while True:
            try:
                kind, number, *rest = await self._receive(self._process)
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            if kind == "batch":
                self.on_batch(number)
                continue
            job, now = self._sent.pop(number), time.monotonic()
            if kind != "late":
                self._pace += NEW * (now - self._busy_since - self._pace)
            self._busy_since = now
            if not job.answer.done():
                if kind == "found":
                    job.answer.set_result(rest[0])
                elif kind == "late":
                    job.answer.set_exception(Late())
                else:
                    job.answer.set_exception(WrongInputError(*rest) if kind == "wrong" else WorkFailed(*rest))
            self._send_next()

    async def _end_if_stuck(self) -> None:
        """End the process where a job is long past its deadline; then it is started again."""
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            if any(job.until is not None and now > job.until + STUCK for job in self._sent.values()):
                warn("the process that computes does not answer; it is ended")
                assert self._process is not None
                self._process.kill()
                return

    def _lose_all(self) -> None:
        """What waits or was sent gets no answer any more."""
        for jobs in (self._sent, *self._waiting.values()):
            for job in jobs.values():
                if not job.answer.done():
                    job.answer.set_exception(ComputeGone(jobs is self._sent))
            jobs.clear()
