"""`--devices N`: one training in several processes of one machine, without a launcher."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from tiny import TINY

from opendetr import api
from opendetr.api.launching import require_devices
from opendetr.checkpoints.native import load_folder
from opendetr.errors import UserError
from opendetr.training.run_folder import read_metrics, was_saved

ENOUGH = 240  # seconds for two processes to begin on a busy machine


@pytest.mark.skipif(sys.platform == "win32", reason="--devices is refused there, see require_devices")
def test_an_error_of_the_processes_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"--data .*nowhere is not a folder"):
        api.train(tmp_path / "nowhere", **TINY, epochs=1, devices=2)


@pytest.mark.slow  # half a minute; test_equal_processes has a signal to one process without the launcher
@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
def test_a_signal_to_one_process_ends_all_with_the_run_saved(digits, tmp_path):
    """Here to one that the launcher started and that does not write the run; then the run goes on in this process."""
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "opendetr",
        "train",
        "--data",
        str(digits),
        "--output",
        str(run),
        "--epochs",
        "5000",
    ]
    command += ["--preset", "detr-tiny", "--image-size", "64", "--batch-size", "2", "--device", "cpu", "--devices", "2"]
    ended = tmp_path / "said.txt"
    with ended.open("w") as output:
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        launcher = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=one_thread)
        try:
            until = time.time() + ENOUGH
            while not (run / "metrics.jsonl").is_file() and launcher.poll() is None and time.time() < until:
                time.sleep(0.1)
            second = next(
                process
                for process in psutil.Process(launcher.pid).children()
                if "opendetr.cli.launched" in process.cmdline() and process.environ().get("RANK") == "1"
            )
            second.send_signal(signal.SIGTERM)
            assert launcher.wait(ENOUGH) == 0, ended.read_text()
        finally:
            launcher.kill()
    said = ended.read_text()
    assert "2 processes: every step sees 4 pictures" in said
    assert "Traceback" not in said
    assert was_saved(run)
    done = read_metrics(run)[-1]["epoch"]
    api.train(resume=run, epochs=int(done) + 1)
    assert load_folder(run / "last").config.train.epochs == int(done) + 1


@pytest.mark.parametrize(("count", "said"), [(0, "at least 1, got 0"), (10_000, "this machine has")])
def test_a_number_that_cannot_be(count, said):
    with pytest.raises(UserError, match=f"--devices.*{said}"):
        require_devices(count, "cpu")


def test_windows_has_no_launcher(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UserError, match="--devices does not work on Windows"):
        require_devices(2, "cpu")


def test_a_launcher_says_the_number_itself(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="leave it out with torchrun"):
        require_devices(2, "cpu")
