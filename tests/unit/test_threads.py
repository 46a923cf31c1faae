import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from opendetr import cores, openmp, threads
from opendetr.cores import available_cores
from opendetr.errors import UserError
from opendetr.progress import console
from opendetr.threads import Threads, candidates, fastest, settle_threads


@pytest.fixture(autouse=True)
def torch_as_before(monkeypatch):
    """Tests change the number of threads, and begin with nothing settled by the environment."""
    before = torch.get_num_threads()
    for name in (*threads.SETTLING, *openmp.WAITING_OF_USERS, "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "_USUAL", {})
    yield
    torch.set_num_threads(before)


class Machine:
    """A clock that only moves when told, and answers to whoever listens and probes, counted."""

    def __init__(self, others: float = 1.0, **speeds: float) -> None:
        self.now, self.cost, self.heard, self.asked, self.others = 1000.0, 0.4, 0, [], others
        self.is_now(**speeds)

    def is_now(self, **speeds: float) -> None:
        self.speeds = {int(number.removeprefix("on_")): speed for number, speed in speeds.items()}

    def listen(self):
        self.heard += 1
        self.now += 0.2
        return self.others

    def probe(self, numbers):
        self.asked.append(list(numbers))
        self.now += self.cost
        return {number: self.speeds[number] for number in numbers}

    def threads(self, cores: int = 2, present: int = 2) -> Threads:
        torch.set_num_threads(present)
        return Threads(cores, measured=True, listen=self.listen, probe=self.probe, clock=lambda: self.now)

    def step(self, chosen: Threads, seconds: float, pixels: int = 1000, times: int = 1) -> None:
        for _ in range(times):
            self.now += seconds
            chosen.observe(seconds, pixels)


# --- cores ---


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_cores_are_those_of_the_affinity_where_there_is_one(eight_cores, monkeypatch, tmp_path):
    assert available_cores(tmp_path) == 6
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS, Windows
    assert available_cores(tmp_path) == 8


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 6), ("200000 100000", 2), ("160000 100000", 2), ("10000 100000", 1)]
)
def test_the_quota_of_a_group_of_version_2(eight_cores, tmp_path, quota, cores):
    write(tmp_path / "proc/self", cgroup="0::/jobs/ours")
    write(tmp_path / "sys/fs/cgroup/jobs/ours", cpu__max=quota)
    assert available_cores(tmp_path) == cores


def test_the_quota_of_a_parent_counts_and_the_smallest_wins(eight_cores, tmp_path):
    write(tmp_path / "proc/self", cgroup="0::/jobs/ours")
    write(tmp_path / "sys/fs/cgroup/jobs/ours", cpu__max="400000 100000")
    write(tmp_path / "sys/fs/cgroup/jobs", cpu__max="300000 100000")
    write(tmp_path, cpu__max="100000 100000")  # outside of the control groups
    assert available_cores(tmp_path) == 3


def test_a_container_sees_its_own_group_at_the_top(eight_cores, tmp_path):
    write(tmp_path / "proc/self", cgroup="0::/../somewhere/on/the/host")
    write(tmp_path / "sys/fs/cgroup", cpu__max="200000 100000")
    assert available_cores(tmp_path) == 2


@pytest.mark.parametrize(("quota", "cores"), [("-1", 6), ("150000", 3)])
def test_the_quota_of_a_group_of_version_1(eight_cores, tmp_path, quota, cores):
    write(tmp_path / "proc/self", cgroup="4:memory:/ours\n1:cpu,cpuacct:/ours\n0::/")
    write(tmp_path / "sys/fs/cgroup/cpu/ours", cpu__cfs_quota_us=quota, cpu__cfs_period_us="50000")
    assert available_cores(tmp_path) == cores


# --- choosing ---


def test_candidates_are_few_and_never_more_than_the_cores():
    assert candidates(2, 1.0, 2) == [2, 1]
    assert candidates(2, 7.0, 2) == [2, 1]
    assert candidates(16, 0.4, 16) == [16, 15, 8, 4, 2, 1]
    assert candidates(16, 2.9, 16) == [16, 15, 13, 8, 4, 2, 1]
    assert candidates(12, 1.0, 5) == [12, 11, 6, 5, 3, 1]
    assert candidates(4, 1.0, 64) == [4, 3, 2, 1]


def test_the_fastest_is_chosen_the_present_one_on_a_tie_and_else_the_fewest():
    assert fastest({2: 10.0, 1: 18.0}, 2) == 1
    assert fastest({2: 17.0, 1: 18.0}, 2) == 2
    assert fastest({2: 18.0, 1: 17.0}, 1) == 1
    assert fastest({2: 18.0, 1: 17.0}, None) == 1
    assert fastest({2: 18.0, 1: 16.0}, None) == 2
    assert fastest({8: 10.0, 4: 30.0, 2: 29.0, 1: 15.0}, 8) == 2


def test_it_is_measured_at_the_start_used_and_said(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    machine = Machine(others=0.97, on_2=10, on_1=18)
    with console.capture() as said:
        chosen = machine.threads()
    assert chosen.number == torch.get_num_threads() == 1
    assert said.get().strip() == "other programs take 48% of the processor: 1 thread is faster than 2"


def test_as_many_as_are_as_fast_are_not_needed_beside_others():
    """With larger operations fewer threads lose less than a small piece of work says."""
    machine = Machine(on_2=18.5, on_1=18)
    with console.capture() as said:
        chosen = machine.threads()
    assert said.get().strip().endswith("1 thread is as fast as 2")
    machine.is_now(on_2=19, on_1=18)
    machine.step(chosen, 0.1, times=320)
    assert (chosen.number, len(machine.asked)) == (1, 2)


def test_beside_others_all_threads_may_still_be_the_best():
    with console.capture() as said:
        chosen = Machine(on_2=30, on_1=18).threads()
    assert chosen.number == 2
    assert said.get() == ""


def test_a_quiet_machine_uses_all_and_is_not_probed():
    """Small pieces of work could speak for few threads where the real work is large."""
    machine = Machine(others=0.1, on_2=1, on_1=2)
    with console.capture() as said:
        chosen = machine.threads()
    assert (chosen.number, machine.asked, said.get()) == (2, [], "")


def test_no_more_threads_than_a_quota_leaves(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    with console.capture() as said:
        chosen = Machine(others=0.0).threads(cores=2, present=6)
    assert chosen.number == 2
    assert said.get().strip() == "only 2 of 8 cores are available: 2 threads instead of 6"


def test_no_more_threads_than_pytorch_takes_or_a_program_has_set():
    machine = Machine(on_4=4, on_3=3, on_2=2, on_1=1)
    assert machine.threads(cores=16, present=4).number == 4
    assert machine.asked == [[4, 3, 2, 1]]


def test_one_core_needs_no_look():
    machine = Machine()
    chosen = machine.threads(cores=1)
    machine.step(chosen, 0.1, times=100)
    machine.step(chosen, 1.0, times=100)
    assert (chosen.number, machine.heard, machine.asked) == (1, 0, [])


def test_who_asks_later_does_not_take_our_choice_for_the_usual_number():
    machine = Machine(on_2=10, on_1=18)
    assert machine.threads().number == 1
    machine.others = 0.0
    later = Threads(2, measured=True, listen=machine.listen, probe=machine.probe)
    assert later.number == 2
    torch.set_num_threads(1)  # by the program
    assert Threads(2, measured=True, listen=machine.listen, probe=machine.probe).number == 1


# --- what settles it ---


@pytest.fixture
def probes(monkeypatch):
    """How often a machine of two cores, on which one thread is the faster, was measured."""
    machine = Machine(on_2=1, on_1=2)
    monkeypatch.setattr(threads, "others_cores", machine.listen)
    monkeypatch.setattr(threads, "probe_speeds", machine.probe)
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    torch.set_num_threads(2)
    return machine.asked


@pytest.mark.parametrize("asked", [3, "3"])
def test_a_number_that_is_asked_for_wins(probes, monkeypatch, asked):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    chosen = settle_threads(asked, measure=True)
    assert (chosen.number, chosen.measured, probes) == (3, False, [])


@pytest.mark.parametrize("asked", [0, "-2", "two", "1.5", ""])
def test_what_is_no_number_is_refused(probes, asked):
    with pytest.raises(UserError, match=f"--threads {asked}: expected a whole number from 1 on, or auto"):
        settle_threads(asked, measure=True)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_PROC_BIND"])
def test_the_environment_settles_it(probes, monkeypatch, name):
    monkeypatch.setenv(name, "2")
    chosen = settle_threads(measure=True)
    with console.capture() as said:
        settle_threads("auto", measure=True)
    assert (chosen.number, chosen.measured, probes) == (2, False, [])
    assert f"{name} is set: 2 threads, not measured" in said.get()


def test_it_is_measured_where_the_work_wants_it_or_somebody_asks(probes):
    assert settle_threads(measure=False).number == 2
    assert probes == []
    assert settle_threads("auto", measure=False).number == 1
    torch.set_num_threads(2)
    assert settle_threads(measure=True).number == 1
    assert len(probes) == 2


@pytest.mark.parametrize(("device", "processes"), [("cuda", "1"), ("mps", "1"), ("cpu", "2")])
def test_accelerators_and_several_processes_are_not_measured(probes, monkeypatch, device, processes):
    monkeypatch.setenv("WORLD_SIZE", processes)
    chosen = settle_threads("auto", measure=True, device=device)
    assert (chosen.number, chosen.measured, probes) == (2, False, [])


def test_a_settled_number_stays_whatever_steps_do(probes):
    chosen = settle_threads(2, measure=True)
    for seconds in [0.1] * 100 + [9.0] * 100:
        chosen.observe(seconds, 1000)
    assert (chosen.number, probes) == (2, [])


# --- while a run goes on ---


def test_steady_steps_are_not_looked_into():
    machine = Machine(on_2=30, on_1=18)
    chosen = machine.threads()
    machine.step(chosen, 0.1, times=5000)
    machine.step(chosen, 0.12, times=5000)
    assert len(machine.asked) == 1


def test_much_slower_steps_are_looked_into_and_only_once():
    machine = Machine(on_2=30, on_1=18)
    chosen = machine.threads()
    machine.step(chosen, 0.1, times=500)
    machine.is_now(on_2=5, on_1=4)  # still the best
    machine.step(chosen, 0.2, times=1000)
    assert (chosen.number, len(machine.asked)) == (2, 2)
    machine.is_now(on_2=2, on_1=4)
    machine.step(chosen, 0.4, times=50)
    assert (chosen.number, len(machine.asked)) == (1, 3)


def test_slower_means_slower_than_the_best_so_far():
    machine = Machine(on_2=30, on_1=18)
    chosen = machine.threads()
    machine.step(chosen, 0.2, times=200)
    machine.step(chosen, 0.1, times=200)
    assert len(machine.asked) == 1
    machine.step(chosen, 0.18, times=200)
    assert len(machine.asked) == 2


def test_single_outliers_are_no_reason():
    machine = Machine(on_2=30, on_1=18)
    chosen = machine.threads()
    for _ in range(100):
        machine.step(chosen, 1.0, times=6)
        machine.step(chosen, 9.0)
    assert len(machine.asked) == 1


def test_pictures_of_another_size_are_no_reason():
    machine = Machine(on_2=30, on_1=18)
    chosen = machine.threads()
    machine.step(chosen, 0.1, pixels=1000, times=200)
    machine.step(chosen, 0.5, pixels=4000, times=200)
    machine.step(chosen, 0.06, pixels=400, times=200)
    machine.step(chosen, 0.1, pixels=1000, times=200)
    assert len(machine.asked) == 1
    machine.step(chosen, 0.2, pixels=1000, times=200)
    assert len(machine.asked) == 2


def test_unused_cores_are_tried_again_every_half_minute():
    machine = Machine(on_2=10, on_1=18)
    chosen = machine.threads()
    machine.step(chosen, 0.1, times=290)
    assert len(machine.asked) == 1
    machine.step(chosen, 0.1, times=20)
    assert (chosen.number, len(machine.asked)) == (1, 2)
    machine.others = 0.0
    with console.capture() as said:
        machine.step(chosen, 0.1, times=2000)
    assert (chosen.number, len(machine.asked), machine.heard) == (2, 2, 3)
    assert said.get().strip() == "no other program computes now: 2 threads instead of 1"


def test_at_most_a_fiftieth_of_the_time_goes_into_measuring():
    machine = Machine(on_2=10, on_1=18)
    machine.cost = 3.0
    chosen, begun = machine.threads(), machine.now
    for round_ in range(200):  # every look finds steps that become slower and slower
        machine.step(chosen, 0.1 * 1.02**round_, times=50)
    spent = (machine.cost + 0.2) * (len(machine.asked) - 1)
    assert len(machine.asked) > 3
    assert spent / (machine.now - begun) <= 0.021


# --- the real probe, the real environment ---


def test_the_probe_leaves_the_number_and_the_random_numbers_as_they_are():
    before = torch.random.get_rng_state()
    torch.set_num_threads(2)
    found = threads.probe_speeds([1, 3], seconds=0.01)
    assert set(found) == {1, 3}
    assert min(found.values()) > 0
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.random.get_rng_state(), before)


def test_others_are_those_who_work_but_us(monkeypatch):
    now = {"wall": 0.0, "user": 100.0, "system": 10.0, "idle": 50.0, "ours": 5.0}

    def sleep(seconds):  # of two cores others use one, and we a quarter of one
        now.update(wall=4.0, user=104.0, system=11.0, idle=53.0, ours=6.0)

    monkeypatch.setattr(cores.psutil, "cpu_times", lambda: SimpleNamespace(**now))
    monkeypatch.setattr(cores.time, "process_time", lambda: now["ours"])
    monkeypatch.setattr(cores.time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(cores.time, "sleep", sleep)
    assert cores.others_cores() == 1.0


def test_the_waiting_policy_is_a_default(monkeypatch):
    monkeypatch.setattr(os, "environ", environment := {})
    openmp.set_waiting_policy()
    assert environment == openmp.WAITING
    monkeypatch.setattr(os, "environ", environment := {"OMP_WAIT_POLICY": "ACTIVE"})
    openmp.set_waiting_policy()
    assert environment == {"OMP_WAIT_POLICY": "ACTIVE"}


def test_the_command_line_sets_it_before_torch_is_loaded():
    code = (
        "import os, sys; from opendetr.cli import entry\n"
        "entry.app = lambda **_: print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)\n"
        "entry.main()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [openmp.WAITING["GOMP_SPINCOUNT"], "False"]
