"""The process that computes: it loads the model, and answers what the web process sends it.

Threads decode and prepare pictures while the model computes. Pictures of equal shape that are ready at the same time go
through the model together. Clients that were just answered are likely to send again at once, so the model waits for as
many, but never longer than a quarter of the time that their pictures took.
"""

import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any, BinaryIO

from opendetr.errors import UserError
from opendetr.serving.messages import packed, receive
from opendetr.wording import without_folders

PREPARING_THREADS = 2  # decoding and resizing release the GIL
PATIENCE = 0.25  # of the time of the last batch: without it, batches of 8 fall apart into such of 1 and 7


def compute_all() -> None:
    """Answer the messages on standard input, until it ends; what libraries print goes to standard error."""
    for each in (signal.SIGINT, signal.SIGTERM):  # both reach whole groups of processes; the web process ends this one
        signal.signal(each, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    questions = sys.stdin.buffer
    settings = receive(questions)
    from opendetr.serving.work import WORK, ServingWorker, warm_up  # torch takes seconds

    try:
        worker = ServingWorker(settings)
        warm_up(worker)
    except UserError as error:
        _send(answers, ("refused", str(error)))
        return
    _send(answers, ("ready", worker.facts()))
    Line(worker, WORK, settings.batch_size, lambda message: _send(answers, message)).work_off(questions)


def _send(answers: BinaryIO, message: Any) -> None:
    answers.write(packed(message))
    answers.flush()


@dataclass(eq=False)
class _Job:
    number: int
    name: str
    arguments: dict[str, Any]
    until: float | None  # the deadline, on the clock of time.monotonic, which all processes share
    prepared: "Future[Any] | None" = None  # None: the work is not batched, and needs no preparation

    @property
    def is_ready(self) -> bool:
        return self.prepared is None or self.prepared.done()


class Line:
    """The jobs that were sent to this process, in their order."""

    def __init__(self, worker: Any, table: dict[str, Any], batch_size: int, send: Callable[[Any], None]) -> None:
        """Take what the works get, the works by name, the most of a batch, and what sends an answer."""
        self.worker, self.table, self.batch_size, self.send = worker, table, batch_size, send
        self.jobs: deque[_Job] = deque()
        self.changed = Condition()
        self.is_over = False
        self.expected = 1  # jobs that are likely to be ready soon: those that were left, and as many as were answered
        self.patience = 0.0  # until when a batch waits for them, on the clock of time.monotonic

    def work_off(self, questions: BinaryIO) -> None:
        """Answer every message of a file, until it ends."""
        with ThreadPoolExecutor(PREPARING_THREADS, "opendetr-preparing") as pool:
            Thread(target=self._listen, args=(questions, pool), daemon=True).start()
            while (group := self._next()) is not None:
                late = [job for job in group if job.until is not None and time.monotonic() > job.until]
                for job in late:  # nobody waits for it any more
                    self.send(("late", job.number))
                if in_time := [job for job in group if job not in late]:
                    self._answer(in_time)

    def _listen(self, questions: BinaryIO, pool: ThreadPoolExecutor) -> None:
        while True:
            try:
                number, name, arguments, until = receive(questions)
            except (EOFError, OSError):
                break
            job = _Job(number, name, arguments, until)
            work = self.table.get(name)
            if work is not None and work.prepare is not None:
                job.prepared = pool.submit(work.prepare, self.worker, **arguments)
            with self.changed:
                self.jobs.append(job)
                self.changed.notify()
            if job.prepared is not None:
                job.prepared.add_done_callback(self._tell)
        with self.changed:
            self.is_over = True
            self.changed.notify()

    def _tell(self, prepared: "Future[Any]") -> None:
        with self.changed:
            self.changed.notify()

    def _next(self) -> list[_Job] | None:
        """The next batch, taken out of the line; None at the end."""
        with self.changed:
            self.changed.wait_for(lambda: self.is_over or any(job.is_ready for job in self.jobs))
            if self.is_over:
                return None
            now = time.monotonic()
            left = [(job.until - now) / 2 for job in self.jobs if job.until is not None]  # the rest is to compute in
            self.changed.wait_for(self._is_complete, min([self.patience - now, *left]))
            if self.is_over:
                return None
            group = self._group()
            for job in group:
                self.jobs.remove(job)
        return group

    def _is_complete(self) -> bool:
        """Whether the next batch is full, or can be expected to grow no more."""
        ready, group = sum(job.is_ready for job in self.jobs), self._group()
        is_full = group[0].prepared is None or len(group) >= self.batch_size
        return self.is_over or is_full or ready >= self.expected

    def _group(self) -> list[_Job]:
        """The first job that is ready, and those that can be computed with it."""
        first = next(job for job in self.jobs if job.is_ready)
        return [job for job in self.jobs if self._goes_with(job, first)][: self.batch_size]

    def _goes_with(self, job: _Job, first: _Job) -> bool:
        if job is first:
            return True
        if first.prepared is None or job.name != first.name or not job.is_ready:
            return False
        assert job.prepared is not None
        if first.prepared.exception() is not None or job.prepared.exception() is not None:
            return False
        alike: bool = self.table[job.name].alike(job.prepared.result(), first.prepared.result())
        return alike

    def _answer(self, group: list[_Job]) -> None:
        """Compute, and send what came out or what is wrong.

        Where something is wrong with several, each is computed again alone: one picture spoils no other's answer.
        """
        begun = time.monotonic()
        self.expected, self.patience = 1, begun
        try:
            work = self.table[group[0].name]
            if group[0].prepared is None:
                results = [work.run(self.worker, **group[0].arguments)]
            else:
                results = work.run(self.worker, [job.prepared.result() for job in group if job.prepared is not None])
        except Exception as error:
            if len(group) > 1:
                for job in group:
                    self._answer([job])
            elif isinstance(error, UserError):
                self.send(("wrong", group[0].number, type(error).__name__, without_folders(str(error))))
            else:  # a fault of ours: said on the console, and the process goes on
                traceback.print_exc()
                self.send(("failed", group[0].number, type(error).__name__))
        else:
            if group[0].prepared is not None:  # before they are answered: who is fast may be here again at once
                now = time.monotonic()
                self.expected, self.patience = len(self.jobs) + len(group), now + PATIENCE * (now - begun)
            for job, result in zip(group, results, strict=True):
                self.send(("found", job.number, result))
            if group[0].prepared is not None:
                self.send(("batch", len(group)))


if __name__ == "__main__":
    compute_all()
