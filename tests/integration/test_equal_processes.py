"""Two processes learn what one process learns with the same global batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from steps import steps_of
from tiny import TINY, TINY_FAST

STEPS = Path(__file__).with_name("steps.py")
ONE_SIZE = ("data.crop_probability=0", "data.train_sizes=[64]", "data.colour=0", "data.zoom_probability=0.0")


@pytest.fixture(scope="module")
def together():
    """Calls `steps.py` in two processes, as torchrun would; the answer of the first, and of the second."""

    def call(runs, data, folder) -> list[dict[str, list[dict[str, float]]]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        shared = os.environ | {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = [sys.executable, str(STEPS), json.dumps(runs), str(data), str(folder)]
        processes = [
            subprocess.Popen(command, env=shared | {"RANK": rank, "LOCAL_RANK": rank}, stdout=subprocess.PIPE)
            for rank in ("0", "1")
        ]
        try:
            answers = [process.communicate(timeout=240)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0, 0]
        return [json.loads(answer.splitlines()[-1]) for answer in answers]

    return call


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    """Weights for a backbone, so that its batch norms are frozen, as in every training with pretrained ones."""
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", pretrained=False)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    path = tmp_path_factory.mktemp("backbone") / "weights.safetensors"
    save_file(network.state_dict(), path)
    return str(path)


def test_every_loss_is_that_of_one_process_with_the_same_global_batch(digits, together, backbone, tmp_path):
    """Dropout 0, pictures of one size, denoising queries given: nothing else differs, in 20 steps of either recipe."""
    recipes = {
        "paper": TINY | {"overrides": [*ONE_SIZE, "model.dropout=0", "train.lr=1e-3", "train.backbone_lr=1e-3"]},
        "fast": TINY_FAST | {"overrides": [*ONE_SIZE, *TINY_FAST["overrides"], "data.horizontal_flip=0.5", "data.vertical_flip=0"]},
    }  # fmt: skip
    runs = {}
    for name, options in recipes.items():
        common = options | {"backbone_weights": backbone, "val_split": "none", "threads": 1, "precision": "fp32"}
        runs[f"{name}-64"] = {"options": common | {"epochs": 4, "batch_size": 2}, "double": True, "given": True}
        runs[f"{name}-32"] = {"options": common | {"epochs": 1, "batch_size": 2}, "double": False, "given": True}
    both = together(runs, digits, tmp_path)
    assert both[0] == both[1]
    for name, run in runs.items():
        alone = steps_of(digits, tmp_path / f"{name}-alone", **run | {"options": run["options"] | {"batch_size": 4}})
        steps, tolerance = (20, 1e-6) if run["double"] else (1, 1e-5)
        assert len(alone) >= steps
        for number, (ours, theirs) in enumerate(zip(both[0][name][:steps], alone, strict=False)):
            assert ours == pytest.approx(theirs, rel=tolerance), f"{name}, step {number}"
