"""What processes agree on; here they are threads, which never wait forever for one that does not come."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from accelerate import Accelerator

from opendetr.errors import UserError
from opendetr.training import processes
from opendetr.training.processes import SharedStop, of_first_process, stoppable_work_of_first

LONGEST = 20.0  # seconds for another thread to come: a test that waits so long has failed


class Process(Accelerator):
    """What is asked of one."""

    num_processes = process_index = is_main_process = None

    def __init__(self, number, count):
        self.num_processes, self.process_index, self.is_main_process = count, number, number == 0


@pytest.fixture
def run_in(monkeypatch):
    """Calls work(process) in so many threads; the results in the order of the processes."""

    def run(count, work):
        barrier, held = threading.Barrier(count), {}

        def exchange(process, value):
            held[process] = value
            barrier.wait(LONGEST)
            found = [held[number] for number in range(count)]
            barrier.wait(LONGEST)
            return found

        own = threading.local()
        monkeypatch.setattr(processes, "any_process", lambda accelerator, here: any(exchange(own.number, here)))
        monkeypatch.setattr(
            processes,
            "broadcast_object_list",
            lambda objects: pickle.loads(exchange(own.number, pickle.dumps(objects))[0]),
        )

        def one(number):
            own.number = number
            return work(Process(number, count))

        with ThreadPoolExecutor(count) as threads:
            return list(threads.map(one, range(count)))

    return run


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("total", [0, 1, 2, 5, 12, 13])
@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
def test_shares_of_any_length_are_worked_off_together(run_in, count, total, at_once):
    """Also where one has none, and whatever number of items a process does between two questions."""

    def work(process):
        stop = SharedStop(process, lambda: False, total, every=3)
        own, done = len(range(process.process_index, total, count)), 0
        while done < own:
            assert not stop.is_due(done)
            done += min(at_once + process.process_index, own - done)
        assert not stop.is_due_at_the_end()
        return stop.asked

    assert len(set(run_in(count, work))) == 1


@pytest.mark.parametrize("asks", [0, 1])
@pytest.mark.parametrize("from_round", [1, 2, 4])
def test_all_stop_together_where_one_must(run_in, asks, from_round):
    """Those that are faster too, who have done their share already."""

    def work(process):
        stop = SharedStop(
            process, lambda: process.process_index == asks and stop.asked >= from_round, total=24, every=3
        )
        done = 0
        while done < 12:
            if stop.is_due(done):
                return stop.asked
            done += 1 if process.process_index else 12
        return stop.asked if stop.is_due_at_the_end() else None

    assert run_in(2, work) == [from_round, from_round]


def test_an_error_of_the_first_process_is_that_of_all_and_said_once(run_in):
    def fail():
        raise UserError("the disk is full")

    def work(process):
        with pytest.raises(UserError, match="the disk is full") as raised:
            of_first_process(process, fail)
        return raised.value.is_said_elsewhere

    assert run_in(3, work) == [False, True, True]
    assert run_in(2, lambda process: of_first_process(process, lambda: process.process_index)) == [0, 0]


@pytest.mark.parametrize("asks", [0, 1])
def test_any_process_ends_long_work_of_the_first(run_in, asks):
    """The one that asks does so in the third answer."""

    def work(process):
        answers = []

        def stops():
            answers.append(len(answers) == 2 and process.process_index == asks)
            return answers[-1]

        def long(should_stop):
            return next(number for number in range(100) if should_stop())

        return stoppable_work_of_first(process, long, stops), len(answers)

    assert run_in(2, work) == [(2, 3), (2, 3)]


def test_long_work_that_fails_ends_for_all(run_in):
    def work(process):
        def fails(should_stop):
            assert not should_stop()
            raise UserError("no picture can be read")

        with pytest.raises(UserError, match="no picture"):
            stoppable_work_of_first(process, fails, lambda: False)
        return "ended"

    assert run_in(3, work) == ["ended"] * 3
