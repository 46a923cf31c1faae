"""Trainings that a launcher starts: what a signal, a killed process and a restart leave."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from opendetr.training.run_folder import read_metrics, was_saved

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
ENOUGH = 240  # seconds for two processes to begin on a busy machine
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
AGAIN = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # for torchrun: without it PyTorch's processes do not meet again
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def training(data: Path, run: Path, *options: str) -> list[str]:
    """The words of a tiny training after `opendetr`."""
    words = [
        "train",
        "--data",
        data,
        "--output",
        run,
        "--preset",
        "detr-tiny",
        "--image-size",
        "64",
        "--batch-size",
        "2",
    ]
    return [*map(str, words), "--device", "cpu", *options]


def started(command: list[str], said: Path, **environment: str) -> subprocess.Popen:
    with said.open("w") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=ONE_THREAD | environment)


def wait_for(condition, process: subprocess.Popen, said: Path) -> None:
    until = time.time() + ENOUGH
    while not condition():
        assert process.poll() is None, said.read_text()
        assert time.time() < until, said.read_text()
        time.sleep(0.05)


def workers(launcher: subprocess.Popen) -> dict[str, psutil.Process]:
    """The processes of the training by their rank."""
    found = {}
    for process in psutil.Process(launcher.pid).children():
        rank = process.environ().get("RANK")
        if rank is not None and "opendetr" in " ".join(process.cmdline()):
            found[rank] = process
    return found


@pytest.mark.slow  # half a minute
def test_torchrun_starts_a_training_again_which_goes_on(digits, tmp_path):
    """The second process is killed once, after the first save; no --resume is given."""
    run, said = tmp_path / "run", tmp_path / "said.txt"
    command = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "-m", "opendetr"]
    launcher = started([*command, *training(digits, run, "--epochs", "8")], said, **AGAIN)
    try:
        wait_for(lambda: was_saved(run), launcher, said)
        workers(launcher)["1"].kill()
        assert launcher.wait(ENOUGH) == 0, said.read_text()
    finally:
        launcher.kill()
    text = said.read_text()
    assert "started again by its launcher, so it goes on" in text
    assert f"continuing {run} after" in text
    epochs = [line["epoch"] for line in read_metrics(run) if line["kind"] == "epoch"]
    assert epochs == [*range(1, 9)]


@pytest.mark.slow  # half a minute
def test_accelerate_launch(digits, tmp_path):
    run, said = tmp_path / "run", tmp_path / "said.txt"
    # --multi_gpu is what starts several processes; the training itself asks for the CPU.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "opendetr"]
    launcher = started([*launch, *training(digits, run, "--epochs", "1")], said)
    assert launcher.wait(ENOUGH) == 0, said.read_text()
    assert "2 processes: every step sees 4 pictures" in said.read_text()
    assert [line["epoch"] for line in read_metrics(run) if line["kind"] == "epoch"] == [1]


@pytest.fixture
def hosts():
    """Two network namespaces that see each other only, as (what runs a command there, address)."""
    names = [f"opendetr-{os.getpid()}-{number}" for number in (1, 2)]
    ends = [f"od{os.getpid()}{letter}" for letter in "ab"]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
            for name, end, number in zip(names, ends, (1, 2), strict=True):
                ip("link", "set", end, "netns", name)
                ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", end)
                for device in ("lo", end):
                    ip("-n", name, "link", "set", device, "up")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces need Linux, the command ip and root: {error}")
        yield [
            (["ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={end}"], f"10.77.0.{number}")
            for name, end, number in zip(names, ends, (1, 2), strict=True)
        ]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@pytest.mark.slow  # a minute
def test_two_hosts_of_which_one_loses_its_process(digits, tmp_path, hosts):
    """The launcher of the other host counts no restart, and its process goes on from the last save all the same."""
    run, said = tmp_path / "run", [tmp_path / "first.txt", tmp_path / "second.txt"]
    launchers = []
    for (within, address), output in zip(hosts, said, strict=True):
        command = [*within, *TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "1"]
        command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{hosts[0][1]}:29477", "--local-addr", address]
        command += ["--rdzv-conf", f"is_host={int(not launchers)}"]  # which it finds out by the machine's name
        launchers.append(
            started([*command, "-m", "opendetr", *training(digits, run, "--epochs", "8")], output, **AGAIN)
        )
    try:
        wait_for(lambda: was_saved(run), launchers[0], said[0])
        found = {rank: process for launcher in launchers for rank, process in workers(launcher).items()}
        assert found.keys() == {"0", "1"}
        found["1"].kill()
        assert [launcher.wait(ENOUGH) for launcher in launchers] == [0, 0], said[0].read_text() + said[1].read_text()
    finally:
        for launcher in launchers:
            launcher.kill()
    assert "started again by its launcher, so it goes on" in said[0].read_text() + said[1].read_text()
    assert [line["epoch"] for line in read_metrics(run) if line["kind"] == "epoch"] == [*range(1, 9)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "sentence"),
    [
        (signal.SIGINT, 130, "opendetr: stopped"),
        (signal.SIGTERM, 130, "opendetr: stopped"),
        (9, 2, "process 1 of 2 ended with signal 9"),
    ],
    ids=["SIGINT", "SIGTERM", "SIGKILL"],
)
def test_a_signal_to_one_process_before_the_training_ends_all(digits, tmp_path, number, code, sentence):
    """The second process gets it while data and models are read: when it imports the user's transform."""
    said = tmp_path / "said.txt"
    ends = f"import os\nif os.environ.get('RANK') == '1':\n    os.kill(os.getpid(), {int(number)})\n"
    (tmp_path / "ending.py").write_text(f"{ends}from torchvision.transforms.v2 import Identity as Nothing\n")
    words = training(digits, tmp_path / "run", "--epochs", "1", "--devices", "2", "--transform", "ending:Nothing")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    launcher = started([sys.executable, "-m", "opendetr", *words], said, PYTHONPATH=path)
    try:
        assert launcher.wait(ENOUGH) == code, said.read_text()
    finally:
        launcher.kill()
    assert sentence in said.read_text()
    assert "Traceback" not in said.read_text()
