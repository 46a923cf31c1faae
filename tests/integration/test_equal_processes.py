"""Two processes learn and measure what one process does; whatever happens to one of them, none waits for it."""

import os

import pytest
import timm
import torch
from in_processes import steps
from safetensors.torch import save_file
from tiny import TINY, TINY_FAST

from opendetr import api
from opendetr.training.run_folder import load_training_state, read_metrics

ONE_SIZE = ("data.crop_probability=0", "data.train_sizes=[64]", "data.zoom_probability=0.0")
FLIPPED = ("data.horizontal_flip=0.5", "data.vertical_flip=0.0")  # not tried: the trial is that of the first process
ALONE = {"val_split": "none", "threads": 1, "precision": "fp32"}


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
        "fast": TINY_FAST | {"overrides": [*ONE_SIZE, *FLIPPED, *TINY_FAST["overrides"]]},
    }

    def run(name, of_one, double):
        options = recipes[name] | ALONE | {"backbone_weights": backbone}
        options |= {"epochs": 2, "batch_size": 2 // of_one} if double else {"epochs": 1, "batch_size": 8 // of_one}
        folder = tmp_path / f"{name}-{of_one}-{double}"
        return {"data": str(digits), "folder": str(folder), "options": options, "double": double, "given": True}

    runs = [(name, double) for name in recipes for double in (True, False)]
    first, second = together(**{f"{name}-{double}": ("steps", run(name, 2, double)) for name, double in runs})
    assert first == second
    for name, double in runs:
        alone, both = steps(**run(name, 1, double)), first[f"{name}-{double}"]
        # Losses reach the host in float32, which rounds to 6e-8; in float32 sums of other order differ more.
        count, tolerance = (20, 1e-6) if double else (1, 1e-5)
        for number in range(count):
            assert both[number] == pytest.approx(alone[number], rel=tolerance), f"{name}, step {number}"


@pytest.mark.skipif(os.name != "posix", reason="Windows ends a process by SIGTERM without a handler")
def test_shares_of_any_length_a_signal_and_an_error_in_one_process(coco_folder, together, tmp_path):
    """Val of one picture leaves the second process none; SIGTERM comes to it where both would work for long."""

    def run(name, pictures, options, signal_at=""):
        data = coco_folder(pictures, splits=("train", "val"))
        return ("train", {
            "data": str(data), "folder": str(tmp_path / name), "options": {**options, "epochs": 1, "batch_size": 2},
            "signal_at": signal_at,
        })  # fmt: skip

    runs = {
        "empty": run("empty", [2], TINY),
        "uneven": run("uneven", [1, 2, 0, 3, 1], TINY),
        "evaluation": run("evaluation", [1, 2] * 10, TINY, "evaluation"),
        "flips": run("flips", [3] * 20, TINY_FAST, "flips"),
        "diverged": run("diverged", [1, 2, 1, 2], {**TINY, "overrides": ["train.lr=1e30"]}),
    }
    first, second = together(**runs)
    assert (first["empty"]["evaluated"], second["empty"]["evaluated"]) == ([0], [])
    assert sorted(first["uneven"]["evaluated"] + second["uneven"]["evaluated"]) == [0, 1, 2, 3, 4]
    for name in ("empty", "uneven"):
        measured = read_metrics(tmp_path / name)[-1]
        alone = api.val(tmp_path / name, runs[name][1]["data"], "val")
        assert measured["val_AP"] == pytest.approx(alone.summary["AP"], abs=1e-6)
        assert load_training_state(tmp_path / name)["state"]["epoch"] == 1
    # Every process has 10 pictures in batches of 4: both stop before the second batch.
    assert (len(first["evaluation"]["evaluated"]), len(second["evaluation"]["evaluated"])) == (4, 4)
    assert [line["kind"] for line in read_metrics(tmp_path / "evaluation")] == ["epoch"]
    assert load_training_state(tmp_path / "evaluation")["state"]["epoch"] == 1
    assert (first["flips"]["tried"], first["flips"]["decided"], second["flips"]["tried"]) == (1, 0, 0)
    assert load_training_state(tmp_path / "flips")["state"]["step"] > 0
    assert "no weights were written" in first["diverged"]["error"] == second["diverged"]["error"]
    assert (first["diverged"]["is_said"], second["diverged"]["is_said"]) == (True, False)


@pytest.mark.slow  # a minute
@pytest.mark.parametrize("recipe", ["paper", "fast"])
def test_what_each_process_draws_changes_no_mean(digits, together, backbone, tmp_path, recipe):
    """Dropout, and the noise of denoising: over seeds, losses differ by no more than chance, three standard errors."""
    drawn = {
        "paper": TINY | {"overrides": [*ONE_SIZE, "model.dropout=0.1"]},
        "fast": TINY_FAST | {"overrides": [*ONE_SIZE, *FLIPPED, *TINY_FAST["overrides"]]},
    }

    def run(seed, of_one):
        options = drawn[recipe] | ALONE | {"backbone_weights": backbone}
        options |= {"epochs": 1, "batch_size": 4 // of_one, "seed": seed}
        return {"data": str(digits), "folder": str(tmp_path / f"{seed}-{of_one}"), "options": options}

    seeds = range(8)
    both = together(**{str(seed): ("steps", run(seed, 2)) for seed in seeds})[0]
    differences = []
    for seed in seeds:
        ours, theirs = (torch.tensor([one["loss"] for one in of]) for of in (both[str(seed)], steps(**run(seed, 1))))
        differences.append((ours - theirs).mean() / theirs.mean())
    found = torch.stack(differences)
    assert found.std() > 1e-4
    assert found.mean().abs() < 3 * found.std() / len(seeds) ** 0.5 < 0.05
