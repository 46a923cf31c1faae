"""The queue and the process behind it, with a program that has no model."""

import asyncio
import operator
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from types import SimpleNamespace

import psutil
import pytest

from opendetr.errors import UserError
from opendetr.serving import compute, process
from opendetr.serving.compute import Line
from opendetr.serving.messages import packed
from opendetr.serving.process import Compute, ComputeGone, Late, QueueFull, WorkFailed, WrongInputError
from opendetr.serving.settings import ModelSettings

PROGRAM = (sys.executable, str(Path(__file__).with_name("answering.py")))


@asynccontextmanager
async def computing(model="cells", waiting=64, batch_size=8):
    compute = Compute(ModelSettings(model, batch_size=batch_size), waiting, PROGRAM)
    try:
        await compute.start()
        yield compute
    finally:
        await compute.stop()


async def until(is_so):
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.005)


def test_a_work_answers_refuses_and_fails():
    async def run():
        async with computing() as compute:
            assert compute.is_ready
            assert compute.facts["process"] == compute.process_id != os.getpid()
            assert await compute.call("work", {"say": {"a": [1, 2.5, b"x"]}}) == {"a": [1, 2.5, b"x"]}
            with pytest.raises(WrongInputError, match="no picture") as refused:
                await compute.call("work", {"refuse": "no picture"})
            assert refused.value.kind == "UserError"
            with pytest.raises(WorkFailed, match=r"^ValueError$"):  # the text may hold a path; the console has it
                await compute.call("work", {"fail": "oh"})
            said = r"/home/someone/runs/model.safetensors of C:\someone\b.json is damaged; see http://x/y/z"
            with pytest.raises(WrongInputError, match=r"^model\.safetensors of b\.json is damaged; see http://x/y/z$"):
                await compute.call("work", {"refuse": said})
            with pytest.raises(WorkFailed, match="KeyError"):
                await compute.call("nothing", {})
            assert await compute.call("work", {"say": 1}) == 1  # the process went on

    asyncio.run(run())


@pytest.mark.parametrize(("model", "said"), [("missing", "missing does not exist"), ("broken", "exit code 7")])
def test_a_model_that_cannot_be_loaded_is_said_at_the_start(model, said):
    async def run():
        with pytest.raises(UserError, match=said):
            async with computing(model):
                pass

    asyncio.run(run())


def test_pictures_that_are_alike_go_together(tmp_path):
    async def run():
        async with computing() as compute:
            sizes = []
            compute.on_batch = sizes.append
            held = asyncio.create_task(compute.call("work", {"wait_for": str(tmp_path / "go")}))
            notes = [tmp_path / str(number) for number in range(6)]
            jobs = [{"say": number, "shape": number % 2, "note": str(note)} for number, note in enumerate(notes)]
            several = asyncio.create_task(compute.call_all("batched", jobs))
            await until(lambda: all(note.exists() for note in notes))  # prepared, while the first is computed
            (tmp_path / "go").touch()
            await held
            assert await several == [f"{number} of 3" for number in range(6)]
            await until(lambda: sizes == [3, 3])

    asyncio.run(run())


class Questions:
    """A line of jobs in a thread. Its works give 0, or the size of their batch; none ends before `release`."""

    def __init__(self, batch_size: int = 8) -> None:
        reader, writer = os.pipe()
        self.writer = os.fdopen(writer, "wb")
        self.begun, self.release, self.answers = False, Event(), SimpleQueue()
        alone = SimpleNamespace(run=lambda worker: 0, prepare=None)
        batched = SimpleNamespace(run=self.run, prepare=lambda worker, shape: shape, alike=operator.eq)
        self.line = Line(None, {"alone": alone, "batched": batched}, batch_size, self.answers.put)
        self.thread = Thread(target=self.line.work_off, args=(os.fdopen(reader, "rb"),), daemon=True)
        self.thread.start()
        self.ask("batched", shape="a")
        self.wait_for(lambda: self.begun)

    def run(self, worker, group):
        self.begun = True
        assert self.release.wait(30)
        return [len(group)] * len(group)

    def ask(self, name: str, **arguments: str) -> None:
        self.writer.write(packed((0, name, arguments, None)))
        self.writer.flush()

    def ask_all(self, *names: str) -> None:
        """Ask while the first computes, and wait until all are ready in the line."""
        for name in names:
            self.ask(name, **({"shape": "a"} if name == "batched" else {}))
        self.wait_for(lambda: sum(job.is_ready for job in list(self.line.jobs)) == len(names))

    def wait_for(self, is_so) -> None:
        for _ in range(30_000):
            if is_so():
                return
            self.thread.join(0.001)
        raise TimeoutError

    def answered(self, jobs: int) -> list[int]:
        """What the next answers say."""
        found = []
        while len(found) < jobs:
            kind, _, *said = self.answers.get(timeout=30)
            found += said if kind == "found" else []
        return found

    def end(self) -> None:
        self.writer.close()
        self.thread.join(30)
        assert not self.thread.is_alive()


def test_a_batch_waits_for_who_was_just_answered(monkeypatch):
    """Else the first to send again would be computed alone, and the others would wait for it."""
    monkeypatch.setattr(compute, "PATIENCE", 10**9)
    line = Questions()
    line.ask_all("batched", "batched")
    line.release.set()
    assert line.answered(1) == [1]
    line.ask("batched", shape="a")
    assert line.answered(3) == [3, 3, 3]
    line.end()


def test_it_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(compute, "PATIENCE", 0)
    line = Questions()
    line.ask_all("batched", "batched")
    line.release.set()
    assert line.answered(3) == [1, 2, 2]
    line.end()


def test_neither_a_full_batch_nor_the_end_waits(monkeypatch):
    monkeypatch.setattr(compute, "PATIENCE", 10**9)
    line = Questions(batch_size=2)
    line.ask_all("batched", "batched", "batched")
    line.release.set()
    assert line.answered(3) == [1, 2, 2]
    line.end()  # while the last one waits for others


def test_what_is_computed_alone_waits_for_nothing(monkeypatch):
    monkeypatch.setattr(compute, "PATIENCE", 10**9)
    line = Questions()
    line.ask_all("alone", "batched")
    line.release.set()
    assert line.answered(3) == [1, 0, 1]
    line.end()


def test_a_picture_that_fails_in_a_batch_spoils_no_other(tmp_path):
    async def run():
        async with computing() as compute:
            held = asyncio.create_task(compute.call("work", {"wait_for": str(tmp_path / "go")}))
            kinds = [{"say": 0}, {"refuse": "no numbers"}, {"say": 2}, {"fail": "oh"}]
            notes = [tmp_path / str(number) for number in range(len(kinds))]
            jobs = [
                asyncio.create_task(compute.call("batched", {**kind, "shape": 0, "note": str(note)}))
                for kind, note in zip(kinds, notes)
            ]
            await until(lambda: all(note.exists() for note in notes))
            (tmp_path / "go").touch()
            await held
            found = await asyncio.gather(*jobs, return_exceptions=True)
            assert [found[0], found[2]] == ["0 of 1", "2 of 1"]
            assert (str(found[1]), str(found[3])) == ("no numbers", "ValueError")

    asyncio.run(run())


def test_one_that_cannot_be_prepared_takes_no_other_along():
    async def run():
        async with computing() as compute:
            good = compute.call("batched", {"say": 1, "shape": 0})
            bad = compute.call("batched", {"refuse_early": "no picture", "shape": 0})
            found = await asyncio.gather(good, bad, return_exceptions=True)
            assert (found[0], str(found[1])) == ("1 of 1", "no picture")

    asyncio.run(run())


def test_the_queue_is_bounded_and_takes_all_of_a_request_or_none(tmp_path):
    async def run():
        async with computing(waiting=3, batch_size=1) as compute:
            gone = str(tmp_path / "go")
            sent = [
                asyncio.create_task(compute.call("work", {"wait_for": gone, "say": n})) for n in range(compute.window)
            ]
            await until(lambda: len(compute._sent) == compute.window)
            waiting = [asyncio.create_task(compute.call("work", {"say": n})) for n in (10, 11)]
            await until(lambda: compute.waiting == compute.window + 2)
            with pytest.raises(QueueFull):
                await compute.call_all("work", [{"say": 1}, {"say": 2}])
            last = asyncio.create_task(compute.call("work", {"say": 12}))
            await until(lambda: compute.waiting == compute.window + 3)
            with pytest.raises(QueueFull):
                await compute.call("work", {"say": 3})
            (tmp_path / "go").touch()
            assert await asyncio.gather(*sent) == list(range(compute.window))
            assert await asyncio.gather(*waiting, last) == [10, 11, 12]

    asyncio.run(run())


def test_what_is_late_or_cancelled_leaves_the_queue(tmp_path):
    async def run():
        async with computing(batch_size=1) as compute:
            gone = str(tmp_path / "go")
            sent = [asyncio.create_task(compute.call("work", {"wait_for": gone})) for _ in range(compute.window)]
            await until(lambda: len(compute._sent) == compute.window)
            with pytest.raises(Late):
                await compute.call("work", {"die": True}, deadline=0.01)
            dropped = asyncio.create_task(compute.call_all("work", [{"die": True}, {"die": True}]))
            await until(lambda: compute.waiting == compute.window + 2)
            dropped.cancel()
            await asyncio.wait([dropped])
            assert compute.waiting == compute.window
            (tmp_path / "go").touch()
            await asyncio.gather(*sent)
            assert await compute.call("work", {"say": "alive"}) == "alive"  # none of the three was ever computed

    asyncio.run(run())


def test_what_would_be_late_is_not_taken(tmp_path):
    async def run():
        async with computing() as compute:
            held = asyncio.create_task(compute.call("work", {"wait_for": str(tmp_path / "go"), "say": "held"}))
            await until(lambda: compute.waiting == 1)
            compute._pace = 10.0  # seconds for an answer, as measured before
            with pytest.raises(QueueFull):
                await compute.call("work", {"say": 1}, deadline=19)
            later = asyncio.create_task(compute.call("work", {"say": "in time"}, deadline=21))
            await until(lambda: compute.waiting == 2)
            (tmp_path / "go").touch()
            assert [await held, await later] == ["held", "in time"]
            compute._pace = 10.0
            assert (
                await compute.call("work", {"say": "first"}, deadline=9) == "first"
            )  # where nothing waits, it is tried
            assert compute._pace < 10

    asyncio.run(run())


def test_a_job_that_is_late_in_the_process_harms_no_other(tmp_path):
    async def run():
        async with computing() as compute:
            with pytest.raises(Late):
                await compute.call("work", {"wait_for": str(tmp_path / "go"), "say": "late"}, deadline=0.05)
            with pytest.raises(Late):  # sent, and late before its turn: it is never computed
                await compute.call("work", {"die": True}, deadline=0.05)
            (tmp_path / "go").touch()
            assert await compute.call("work", {"say": "next"}) == "next"

    asyncio.run(run())


def test_background_work_waits_until_nobody_asks(tmp_path):
    async def run():
        async with computing() as compute:
            ended = []

            async def noted(name, **options):
                await compute.call("work", {"say": name, **options.pop("given", {})}, **options)
                ended.append(name)

            first = asyncio.create_task(noted("asked", given={"wait_for": str(tmp_path / "go")}))
            await until(lambda: len(compute._sent) == 1)
            behind = [asyncio.create_task(noted(f"behind {n}", priority="background")) for n in range(2)]
            await asyncio.sleep(0)
            other = asyncio.create_task(noted("asked later"))
            await until(lambda: len(compute._sent) == 2)  # what is asked, and nothing of the background
            assert compute.waiting == 2
            (tmp_path / "go").touch()
            await asyncio.gather(first, *behind, other)
            assert ended == ["asked", "asked later", "behind 0", "behind 1"]

    asyncio.run(run())


def test_background_work_has_a_deadline_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "BACKGROUND", 0.05)

    async def run():
        async with computing() as compute:
            with pytest.raises(Late):
                await compute.call("work", {"wait_for": str(tmp_path / "go")}, priority="background")
            (tmp_path / "go").touch()
            assert await compute.call("work", {"say": 1}) == 1

    asyncio.run(run())


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
def test_kill_9_fails_what_waits_at_once_and_the_process_comes_back(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(process, "FIRST_PAUSE", 0.01)

    async def run():
        async with computing(batch_size=1) as compute:
            restarts = []
            compute.on_restart = lambda: restarts.append(1)
            before = compute.process_id
            jobs = [
                asyncio.create_task(compute.call("work", {"wait_for": str(tmp_path / "never")}))
                for _ in range(compute.window + 3)
            ]
            await until(lambda: compute.waiting == len(jobs))
            os.kill(before, signal.SIGKILL)
            async with asyncio.timeout(2):
                found = await asyncio.gather(*jobs, return_exceptions=True)
            assert {type(one) for one in found} == {ComputeGone}
            with pytest.raises(ComputeGone):
                await compute.call("work", {"say": 1})
            await until(lambda: compute.is_ready)
            assert await compute.call("work", {"say": "back"}) == "back"
            assert (compute.process_id != before, restarts) == (True, [1])

    asyncio.run(run())
    assert "the process that computes has ended (exit code -9); it is started again" in capsys.readouterr().out


def test_a_start_that_fails_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "FIRST_PAUSE", 0.01)
    note = tmp_path / "note"

    async def run():
        async with computing(f"once:{note}") as compute:
            with pytest.raises(ComputeGone):
                await compute.call("work", {"die": True})
            await until(tmp_path.joinpath("note.tried").exists)  # a start that failed
            assert not compute.is_ready
            note.unlink()
            await until(lambda: compute.is_ready)
            assert await compute.call("work", {"say": "back"}) == "back"

    asyncio.run(run())


def test_after_a_fault_in_the_watching_the_process_is_started_again(monkeypatch, capsys):
    monkeypatch.setattr(process, "FIRST_PAUSE", 0.01)

    async def run():
        async with computing() as compute:
            before, note = compute.process_id, compute.on_batch
            compute.on_batch = lambda size: 1 / 0
            await compute.call("batched", {"say": 1, "shape": 0})
            await until(lambda: compute.is_ready and compute.process_id != before)
            compute.on_batch = note
            assert await compute.call("batched", {"say": 2, "shape": 0}) == "2 of 1"

    asyncio.run(run())
    assert "the server has a fault (ZeroDivisionError)" in capsys.readouterr().out


def test_a_process_that_does_not_answer_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(process, "STUCK", 0.0)

    async def run():
        async with computing() as compute:
            before = compute.process_id
            with pytest.raises(Late):
                await compute.call("work", {"wait_for": str(tmp_path / "never")}, deadline=0.01)
            await until(lambda: compute.is_ready and compute.process_id != before)

    asyncio.run(run())


def test_at_a_stop_nothing_waits_for_ever_and_no_process_is_left(tmp_path):
    async def run():
        async with computing() as compute:
            job = asyncio.create_task(compute.call("work", {"say": 1}))
            await job
            number = compute.process_id
        assert not psutil.pid_exists(number)

    asyncio.run(run())
