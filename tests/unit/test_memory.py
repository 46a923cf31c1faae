from types import SimpleNamespace

import pytest
import torch

from opendetr import memory
from opendetr.memory import control_group_bytes, free_bytes

GIB = 2**30


@pytest.fixture
def machine(tmp_path):
    """Lays down what Linux tells of a process's control groups."""

    def lay(groups: str, files: dict[str, object]):
        for name, content in {"proc/self/cgroup": groups, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        return tmp_path

    return lay


def version_2(group: str, limit: object, used: int, inactive: int = 0, high: object = "max") -> dict[str, object]:
    folder = f"sys/fs/cgroup/{group}"
    return {
        f"{folder}/memory.max": limit,
        f"{folder}/memory.high": high,
        f"{folder}/memory.current": used,
        f"{folder}/memory.stat": f"anon {used - inactive}\nactive_file 7\ninactive_file {inactive}",
    }


def version_1(group: str, limit: int, used: int, inactive: int = 0) -> dict[str, object]:
    folder = f"sys/fs/cgroup/memory/{group}"
    return {
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": used,
        f"{folder}/memory.stat": f"inactive_file 5\ntotal_rss 3\ntotal_inactive_file {inactive}",
    }


def test_a_limit_leaves_what_is_not_used_and_what_can_be_reclaimed(machine):
    assert control_group_bytes(machine("0::/", version_2("", 8 * GIB, 5 * GIB, GIB))) == 4 * GIB


def test_the_tightest_of_a_group_and_those_above_it_decides(machine):
    files = version_2("a", 8 * GIB, 7 * GIB) | version_2("a/b", 6 * GIB, 3 * GIB) | version_2("a/b/c", "max", GIB)
    assert control_group_bytes(machine("0::/a/b/c", files)) == GIB  # others in `a` have taken much of it


def test_a_group_that_is_slowed_down_beyond_a_mark_has_no_more_than_that(machine):
    assert control_group_bytes(machine("0::/a", version_2("a", 8 * GIB, GIB, high=2 * GIB))) == GIB


@pytest.mark.parametrize("path", ["/docker/0123", "/../../user.slice"])
def test_in_a_container_the_path_may_be_the_hosts(machine, path):
    assert control_group_bytes(machine(f"0::{path}", version_2("", 4 * GIB, 3 * GIB))) == GIB
    files = version_1("", 4 * GIB, GIB, 2)
    assert control_group_bytes(machine(f"5:cpu,cpuacct:/x\n4:hugetlb,memory:{path}\n0::{path}", files)) == 1 * GIB


def test_version_1_counts_what_the_groups_below_can_give_back(machine):
    files = version_1("jobs/1", 4 * GIB, 3 * GIB, GIB) | version_1("", 9223372036854771712, 20 * GIB)
    assert control_group_bytes(machine("9:name=systemd:/\n4:memory:/jobs/1\n0::/", files)) == 2 * GIB


def test_no_limit_is_none(machine, tmp_path):
    assert control_group_bytes(tmp_path) is None  # not Linux
    assert control_group_bytes(machine("0::/a", version_2("a", "max", GIB))) is None
    assert control_group_bytes(machine("4:memory:/a\n1:name=systemd:/", {})) is None  # not mounted
    huge = control_group_bytes(machine("4:memory:/", version_1("", 9223372036854771712, GIB)))
    assert huge > 2**60


def test_a_group_that_has_taken_more_than_its_limit_leaves_nothing(machine):
    assert control_group_bytes(machine("0::/", version_2("", GIB, 2 * GIB))) == 0


def test_the_smaller_of_machine_and_group_is_free(monkeypatch):
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=3 * GIB))
    for left, expected in ((None, 3 * GIB), (5 * GIB, 3 * GIB), (GIB, GIB)):
        monkeypatch.setattr(memory, "control_group_bytes", lambda left=left: left)
        assert free_bytes() == free_bytes(torch.device("cpu")) == expected


def test_this_machine_has_memory():
    assert 2**20 < free_bytes() < 2**50


def test_an_accelerator_has_memory_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * GIB)
    assert free_bytes(torch.device("cuda", 0)) == 13 * GIB
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 10 * GIB)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 11 * GIB)
    assert free_bytes(torch.device("mps")) == 0
