"""A run's life: train, stop, resume, within minutes or epochs."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import TINY, TINY_FAST

from free_port import free_port
from opendetr import api, threads
from opendetr.checkpoints.native import load_folder
from opendetr.errors import UserError
from opendetr.evaluation.report import MEANING
from opendetr.evaluation.runner import analyse_detections
from opendetr.training import speed
from opendetr.training.loop import Trainer
from opendetr.training.plan import Plan
from opendetr.training.run_folder import read_metrics, summary_of
from opendetr.training.step import TrainingStep


def lines(run: Path, *kinds: str) -> list[dict]:
    """The lines of a run's log, of these kinds; of epochs by default."""
    return [line for line in read_metrics(run) if line["kind"] in (kinds or ("epoch",))]


def test_a_run_folder_describes_itself(tiny_run):
    for name in ("last", "best"):
        files = {path.name for path in (tiny_run / name).iterdir()}
        assert files - {"training.pt"} == {
            "model.safetensors", "config.toml", "labels.json", "preprocessing.json", "metrics.json",
        }  # fmt: skip
    assert (tiny_run / "last" / "training.pt").exists()
    assert not (tiny_run / "best" / "training.pt").exists()
    checkpoint = load_folder(tiny_run)
    assert checkpoint.source.name == "best"
    assert checkpoint.label_map.names == tuple("0123456789")
    assert (checkpoint.preprocessing.image_size, checkpoint.config.model.num_queries) == (64, 10)
    assert not checkpoint.model.training


def test_metrics_are_logged_every_epoch(tiny_run):
    first, second = lines(tiny_run)
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert {
        "loss",
        "loss_class",
        "loss_l1",
        "loss_giou",
        "matched_iou",
        "matched_accuracy",
        "class_error",
    } <= first.keys()
    assert {"cardinality_error", "lr", "pictures_per_second"} <= first.keys()
    assert second["step"] == 2 * first["step"]
    measured = lines(tiny_run, "val")
    assert [line["step"] for line in measured] == [first["step"], second["step"]]
    assert {"val_AP", "val_AP50", "seconds"} <= measured[0].keys()


def test_a_resumed_run_is_the_run_that_was_not_stopped(digits, tmp_path, monkeypatch):
    """With dropout, augmentation and shuffling on: equal to the last bit on one machine and thread count."""
    monkeypatch.setattr("opendetr.training.loop.LOGGED_EVERY", 2)
    whole = api.train(digits, **TINY, epochs=3, output=tmp_path / "whole", overrides=["train.lr_drop=1.0"])
    part = api.train(digits, **TINY, epochs=1, output=tmp_path / "part", overrides=["train.lr_drop=1.0"])
    resumed = api.train(resume=part, epochs=3)
    assert resumed == part
    pages = [re.sub(r"base64,[^\"]*", "", (run / "report.html").read_text()) for run in (whole, part)]
    assert ["Epoch 3, step" in page and page.count("found (right)") == 4 for page in pages] == [True, True]
    assert not any(str(tmp_path) in page or socket.gethostname() in page for page in pages)
    expected, found = (load_file(run / "last" / "model.safetensors") for run in (whole, part))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    ignored = {"seconds", "pictures_per_second"}
    kinds = ("step", "epoch", "val")
    strip = [[{k: v for k, v in x.items() if k not in ignored} for x in lines(run, *kinds)] for run in (whole, part)]
    assert strip[0] == strip[1]


def test_resuming_refuses_another_model(tiny_run):
    with pytest.raises(UserError, match="model cannot change"):
        api.train(resume=tiny_run, epochs=5, overrides=["model.num_queries=7"])


def test_a_folder_with_a_run_is_not_overwritten(digits, tiny_run):
    before = (tiny_run / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match="holds a run already"):
        api.train(digits, **TINY, epochs=1, output=tiny_run)
    assert (tiny_run / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize("damage", ["cut", "zeros", "gone"])
def test_a_run_whose_log_is_lost_goes_on_and_keeps_its_best_weights(tiny_run, tmp_path, capsys, damage):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    log, noted = run / "metrics.jsonl", run / "best" / "metrics.json"
    noted.write_text(json.dumps(json.loads(noted.read_text()) | {"val": {"AP": 0.9}}))  # what no epoch here reaches
    before = (run / "best" / "model.safetensors").read_bytes()
    if damage == "gone":
        log.unlink()
    else:
        log.write_bytes(log.read_bytes()[:100] if damage == "cut" else bytes(300))  # in the first line
    api.train(resume=run, epochs=2 if damage == "gone" else 3)  # finished already, or not
    said = " ".join("".join(capsys.readouterr()).split())
    assert f"metrics.jsonl {'is gone' if damage == 'gone' else 'has 1 damaged line'}: the run goes on" in said
    assert (run / "best" / "model.safetensors").read_bytes() == before
    assert lines(run, "val")[-1]["val_AP"] < 0.9
    assert all(json.loads(line) for line in log.read_text().splitlines())


def test_trainings_without_output_take_folders_of_their_own(digits, tmp_path, monkeypatch):
    """The second begins while the first has only made its folder."""
    monkeypatch.chdir(tmp_path)
    fit, first = Trainer.fit, []

    def begin_another(trainer):
        if not first:
            first.append(trainer.folder.path)
            first.append(api.train(digits, **TINY, minutes=0.0001))
        fit(trainer)

    monkeypatch.setattr(Trainer, "fit", begin_another)
    run = api.train(digits, **TINY, minutes=0.0001)
    assert (run, first) == (Path("runs/digits"), [Path("runs/digits"), Path("runs/digits-2")])
    assert all((folder / "last" / "model.safetensors").is_file() for folder in first)


@pytest.mark.parametrize("content", [{}, [1], b"", {"state": {"epoch": 1, "step": 0}, "code": "import os"}])
def test_another_training_state_is_one_sentence_before_a_model_is_built(tiny_run, tmp_path, monkeypatch, content):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    file = run / "last" / "training.pt"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    monkeypatch.setattr("opendetr.checkpoints.native.build_model", lambda *_: pytest.fail("a model was built"))
    with pytest.raises(UserError, match=r"training\.pt is damaged"):
        api.train(resume=run, epochs=3)


def test_even_no_time_at_all_makes_one_step_and_a_usable_model(digits, tmp_path):
    run = api.train(digits, **TINY, minutes=0.0001, output=tmp_path / "run")
    assert lines(run)[-1]["step"] == 1
    assert len(json.loads(api.predict(run, [str(digits / "images")], tmp_path / "found", threshold=0).read_text())) > 0


def test_resuming_uses_what_is_left_of_the_minutes(digits, tmp_path):
    run = api.train(digits, **TINY, minutes=0.0001, output=tmp_path / "run")
    api.train(resume=run)  # nothing is left: it ends where it ended
    assert [line["step"] for line in lines(run)] == [1]
    api.train(resume=run, minutes=1e-4)  # as short as that: one more step all the same
    assert [line["step"] for line in lines(run)] == [1, 2]


def test_pictures_that_break_are_left_out_and_listed_at_the_end(coco_folder, tmp_path, capsys):

    root = coco_folder((2, 1, 2, 1, 1, 1), ("train", "val"))
    for name in ("train_3.png", "val_1.png"):
        (root / "images" / name).write_bytes((root / "images" / name).read_bytes()[:200])
    run = api.train(root, **TINY, output=tmp_path / "run", epochs=2)
    said = " ".join("".join(capsys.readouterr()).split())
    assert "1 picture could not be used and had no part in training" in said
    assert said.count("left out of training: ") == 1
    assert said.count("1 picture could not be used, their objects count as missed") == 1
    assert (run / "best" / "model.safetensors").exists()
    with pytest.raises(UserError, match=r"train_3\.png cannot be read"):
        api.train(root, **TINY, output=tmp_path / "strict", epochs=1, strict=True)
    metrics = api.val(run, root, "val")
    assert metrics.summary["AP"] >= 0
    with pytest.raises(UserError, match=r"val_1\.png cannot be read"):
        api.val(run, root, "val", strict=True)


def test_val_pictures_that_were_trained_on_choose_nothing(digits, tmp_path, capsys):
    run = api.train(digits, **TINY, epochs=1, val_split="train", output=tmp_path / "run")
    assert not (run / "best").exists()
    assert load_folder(run).source.name == "last"
    assert "only the last are kept" in capsys.readouterr().out.replace("\n", " ")


def test_an_undefined_ap_is_never_the_best(coco_folder, tmp_path):
    folder = coco_folder(boxes_per_picture=[0, 0], splits=("train", "val"))
    run = api.train(folder, **{**TINY, "batch_size": 1}, epochs=2, output=tmp_path / "run")
    assert [line["val_AP"] for line in lines(run, "val")] == [-1, -1]
    assert not (run / "best").exists()


@pytest.fixture
def free_threads(monkeypatch):
    """The environment settles no number of threads, another program computes, and 1 thread is the fastest."""
    for name in threads.SETTLING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    monkeypatch.setattr(threads, "others_cores", lambda: 1.0)
    monkeypatch.setattr(threads, "probe_speeds", lambda numbers: {number: 1 / number for number in numbers})
    monkeypatch.setattr(threads, "_USUAL", {})
    number = [2]  # PyTorch is told none: on a busy machine threads that wait for each other take seconds
    monkeypatch.setattr(torch, "get_num_threads", lambda: number[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda asked: number.__setitem__(0, asked))


@pytest.mark.parametrize(
    ("length", "asked", "left"),
    [
        ({"minutes": 1e-4}, None, 1),
        ({"epochs": 1}, None, 2),  # a run that can be repeated
        ({"epochs": 1}, "auto", 1),
        ({"minutes": 1e-4}, 2, 2),
    ],
)
def test_threads_are_measured_for_minutes_and_stay_for_epochs(coco_folder, tmp_path, free_threads, length, asked, left):
    seen, data = [], coco_folder([1] * 8, size=(64, 64))

    def observe(self, seconds, pixels):
        seen.append(pixels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads.Threads, "observe", observe)
        still = ["data.train_sizes=[64]", "data.crop_probability=0"]
        options = {**TINY, **length, "val_split": "none", "overrides": still}
        api.train(data, **options, threads=asked, output=tmp_path / "run")
    assert torch.get_num_threads() == left
    assert set(seen) == {8 * 64 * 64}


def test_a_run_of_epochs_does_not_inherit_what_was_chosen_before_it(coco_folder, tmp_path, free_threads):
    data = coco_folder([1] * 8)
    api.train(data, **TINY, minutes=1e-4, val_split="none", output=tmp_path / "short")
    assert torch.get_num_threads() == 1
    api.train(data, **TINY, epochs=1, val_split="none", output=tmp_path / "epochs")
    assert torch.get_num_threads() == 2


def flat(aps):
    """An analysis whose AP is the next of these; the last one again and again."""
    left = list(aps)

    def analyse(index, detections):
        ap = left.pop(0) if len(left) > 1 else left[0]
        return replace(analyse_detections(index, detections), summary={name: ap for name in MEANING})

    return analyse


@pytest.mark.parametrize(
    ("schedule", "epochs"),
    [pytest.param("train.lr_drop=1.0", 3, marks=pytest.mark.slow), ("train.lr_drop=0.5", 6)],
)
def test_patience_ends_a_run_whose_val_gets_no_better(digits, tmp_path, monkeypatch, capsys, schedule, epochs):
    """Two evaluations without a better AP; while learning rates are to fall, only those of the last half count."""
    monkeypatch.setattr("opendetr.training.validation.analyse_detections", flat([0.4, 0.3]))
    options = {**TINY, "epochs": 10, "patience": 2, "overrides": [schedule]}
    run = api.train(digits, **options, output=tmp_path / "run")
    assert [line["epoch"] for line in lines(run)] == list(range(1, epochs + 1))
    assert "2 evaluations gave no better AP on val" in capsys.readouterr().out.replace("\n", " ")
    assert json.loads((run / "best" / "metrics.json").read_text())["val"]["AP"] == 0.4
    api.train(resume=run)  # its patience is over still
    assert len(lines(run)) == epochs
    api.train(resume=run, patience=4)
    assert len(lines(run)) == epochs + 2


def test_patience_needs_a_val_split(digits, tmp_path):
    with pytest.raises(UserError, match="--patience 3 counts evaluations on val, but there is no val split"):
        api.train(digits, **TINY, epochs=1, patience=3, val_split="none", output=tmp_path / "run")


def test_a_run_says_what_to_expect_before_its_first_step(digits, tmp_path, capsys):
    api.train(digits, **TINY, epochs=1, output=tmp_path / "run")
    said = capsys.readouterr().out.replace("\n", " ")
    assert re.search(r"trains on about \S+ pictures a second: 1 epoch of 24 pictures will take about", said)
    assert said.index("This machine trains") < said.index("epoch 1 ")


def test_a_run_ends_with_what_matters_and_says_that_it_has_learned_nothing(digits, tmp_path, capsys):
    run = tmp_path / "run"
    api.train(digits, **TINY, epochs=1, output=run, overrides=["data.colour=0.1"])
    said = capsys.readouterr().out
    _, given = said.partition(f"The config of the run is {run / 'config.toml'}: the recipe paper with detr-tiny")[::2]
    changed = [line.strip() for line in given.splitlines() if line.startswith("  ")]
    assert "with these changes:" in given.splitlines()[0]
    assert "data.colour = 0.1" in changed
    assert not any(line.startswith(("data.root", "data.crop")) for line in changed)  # which nobody typed
    assert "[model]" not in said
    *_, measured, where, val, predict, nothing, resume = said.splitlines()
    found = summary_of(run)
    low, high = found["val"]["AP_interval"]
    said = f"AP {found['val']['AP']:.3f} (95 %: {low:.3f} to {high:.3f}), AP50 {found['val']['AP50']:.3f}"
    assert measured == f"{said} on val, at epoch 1 of 1."
    assert where.startswith(f"The run is in {run}: best, last, ")
    assert val == f"  opendetr val {run} --data {digits} --split test"
    assert predict == f"  opendetr predict {run} PICTURES --output found"
    assert "the model has learned almost nothing yet" in nothing
    assert nothing.endswith("passes over its pictures. Continue it:")
    assert resume == f"  opendetr train --resume {run} --epochs 2"
    api.train(resume=run)
    assert f"{run / 'config.toml'}: as before, unchanged.\n" in capsys.readouterr().out
    api.train(resume=run, epochs=2)
    assert f"{run / 'config.toml'}: as before, with these changes:\n  train.epochs = 2\n" in capsys.readouterr().out
    assert found["weights"] == str(run / "best")


def test_a_run_without_val_says_so_by_its_boxes(digits, tmp_path, capsys):
    run = api.train(digits, **TINY, minutes=1e-4, val_split="none", output=tmp_path / "run")
    said = capsys.readouterr().out
    assert "No val split is used: only the last weights are kept." in said
    assert re.search(r"almost nothing yet \(its boxes overlap .*\n.* --resume \S+ --minutes \d+$", said.strip())
    assert "The model was not measured: no val split was asked for." in said
    assert summary_of(run) | {"seconds": 0} == {
        "run": str(run), "weights": str(run / "last"), "epoch": 0.3333, "step": 1, "seconds": 0, "val": None,
        "val_epoch": None,
    }  # fmt: skip


def test_a_stopped_run_says_that_it_was_stopped_and_how_it_goes_on(digits, tmp_path, monkeypatch, capsys):
    """Its folder has a space, which a shell would split at."""
    monkeypatch.setattr(Plan, "interrupted", lambda self: True)
    run = api.train(digits, **TINY, epochs=30, output=tmp_path / "my run")
    *_, nothing, resume = capsys.readouterr().out.splitlines()
    assert nothing.endswith("It was stopped; continue it:")
    assert resume == f"  opendetr train --resume '{run}'"
    api.train(resume=run)
    assert "not measured: the run was stopped before the first evaluation on val." in capsys.readouterr().out


def test_steps_are_logged_between_epochs(coco_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("opendetr.training.loop.LOGGED_EVERY", 4)
    folder = coco_folder(boxes_per_picture=[1] * 9)
    run = api.train(folder, **{**TINY, "batch_size": 1}, epochs=2, val_split="none", output=tmp_path / "run")
    assert [(line["step"], line["kind"]) for line in lines(run, "step", "epoch")] == [
        (4, "step"), (8, "step"), (9, "epoch"), (13, "step"), (17, "step"), (18, "epoch"),
    ]  # fmt: skip
    first, second, epoch = lines(run, "step", "epoch")[:3]
    assert {"loss", "loss_class", "matched_iou", "lr", "pictures_per_second", "seconds"} <= first.keys()
    assert min(first["loss"], second["loss"]) * 0.8 < epoch["loss"] < max(first["loss"], second["loss"]) * 1.2


def test_a_failing_evaluation_does_not_lose_the_epoch(digits, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("opendetr.training.validation.analyse_detections", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        api.train(digits, **TINY, epochs=2, output=tmp_path / "run")
    assert load_folder(tmp_path / "run").source.name == "last"
    monkeypatch.undo()
    api.train(resume=tmp_path / "run")
    assert [line["epoch"] for line in lines(tmp_path / "run")] == [1, 2]


def test_a_data_set_that_grew_begins_the_unfinished_epoch_anew(coco_folder, tmp_path, monkeypatch):
    small, large = coco_folder(boxes_per_picture=[1] * 4), coco_folder(boxes_per_picture=[1] * 6)
    run = api.train(small, **{**TINY, "batch_size": 1}, minutes=1e-4, output=tmp_path / "run")
    with pytest.raises(
        UserError, match="learned from: 2 pictures were added; continue with the data it began with, or"
    ):
        api.train(large, resume=run, epochs=1)
    steps, real = [], TrainingStep.__call__
    monkeypatch.setattr(TrainingStep, "__call__", lambda step, batches: steps.append(1) or real(step, batches))
    api.train(large, resume=run, accept_data=True, epochs=1)
    assert len(steps) == 6
    assert lines(run)[-1]["epoch"] == 1


def test_the_minutes_of_resumed_sessions_add_up(digits, tmp_path):
    run = api.train(digits, **TINY, minutes=1e-4, output=tmp_path / "run")
    api.train(resume=run, minutes=2e-4)
    state = torch.load(run / "last" / "training.pt", weights_only=True)
    first = lines(run)[0]["seconds"]
    assert state["total_seconds"] == pytest.approx(first + 2e-4 * 60, abs=5.0)
    assert state["total_seconds"] > first


def test_gradients_accumulate_to_those_of_the_whole_batch(digits, tmp_path):
    """Eight pictures at once, or two by two with shared normalisers: one and the same update."""
    # Batch norm and padding look at the batch and dropout draws per batch: this law holds without them.
    off = ["model.dropout=0", "model.backbone=test_convnext", "model.output_stride=32"]
    off += ["data.train_sizes=[64]", "data.crop_probability=0"]

    def weights(name, **changes):
        options = TINY | {"epochs": 1, "val_split": "none", "output": tmp_path / name} | changes
        return load_file(api.train(digits, **options) / "last" / "model.safetensors")

    start = weights("start", overrides=[*off, "train.lr=0", "train.backbone_lr=1e-30"])
    whole = weights("whole", overrides=off)
    parts = weights("parts", overrides=[*off, "train.accumulate=4"], batch_size=2)
    difference = sum((whole[name] - parts[name]).norm() ** 2 for name in start) ** 0.5
    update = sum((whole[name] - start[name]).norm() ** 2 for name in start) ** 0.5
    # Adam's first steps have the size of the learning rate whatever the gradient's, so where it is all but zero its
    # rounding decides; without the shared normalisers the difference is half of the update.
    assert difference < 0.05 * update


def test_a_batch_without_any_object_trains_the_class_head_only(coco_folder, tmp_path):
    empty = coco_folder(boxes_per_picture=[0, 0, 0, 0])
    run = api.train(empty, **{**TINY, "batch_size": 2}, epochs=1, output=tmp_path / "run")
    line = lines(run)[-1]
    assert line["loss_class"] > 0
    assert (line["loss_l1"], line["loss_giou"], line["skipped_steps"]) == (0, 0, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_to_all_processes_ends_cleanly_and_the_run_can_be_continued(digits, tmp_path, number):
    """As a terminal sends Ctrl-C, and a scheduler or a container SIGTERM: loader workers get it too."""
    words = f"train --data {digits} --preset detr-tiny --image-size 64 --epochs 1000 --workers 2".split()
    code = f"from opendetr.training import speed; speed.LOOKED_AT = {speed.LOOKED_AT}; "
    code += "from opendetr.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, *words, "--output", str(tmp_path / "run")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert any("epoch 1 " in line for line in process.stdout), process.stderr.read()
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    stopped = lines(tmp_path / "run")[-1]
    assert stopped["epoch"] < 1000
    epochs = int(stopped["epoch"]) + 1
    api.train(resume=tmp_path / "run", epochs=epochs)
    assert lines(tmp_path / "run")[-1]["epoch"] == epochs


TOGETHER = {  # what two processes learn one after the other, for each takes seconds to begin
    "paper": TINY,
    "fast": TINY_FAST,
    "no-denoising": TINY_FAST
    | {"overrides": (*TINY_FAST["overrides"], "loss.denoising_queries=0", "data.horizontal_flip=0.0",
                     "data.vertical_flip=0.0")},
}  # fmt: skip


@pytest.mark.slow  # test_equal_processes.py has most of it
def test_two_processes_agree_and_survive_a_rank_without_objects(coco_folder, tmp_path):
    """gloo on two CPU processes; every second picture is empty, so one process may see no object at all."""
    folder = coco_folder(boxes_per_picture=[2, 0, 1, 0, 3, 0, 1, 0])
    code = f"from opendetr import api; from opendetr.training import speed; speed.LOOKED_AT = {speed.LOOKED_AT}"
    for name, tiny in TOGETHER.items():
        options = tiny | {"batch_size": 1, "epochs": 2, "output": str(tmp_path / name)}
        code += f"; api.train({str(folder)!r}, **{options!r})"
    port = str(free_port())
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [  # what torchrun and accelerate launch set up
        subprocess.Popen([sys.executable, "-c", code], env=shared | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    for name in TOGETHER:
        assert [line["epoch"] for line in lines(tmp_path / name)] == [1, 2], name
        assert lines(tmp_path / name)[-1]["step"] == 8, name  # 8 pictures, 2 per step, 2 epochs


@pytest.mark.slow
def test_eight_real_pictures_can_be_overfitted(test_data, tmp_path):
    """The overfit run of the first issue: AP50 >= 0.9 on the 8 BCCD pictures it trains on."""
    source = json.loads((test_data / "bccd/annotations/train.json").read_text())
    kept = source["images"][:8]
    ids = {image["id"] for image in kept}
    small = {
        **source, "images": kept, "annotations": [a for a in source["annotations"] if a["image_id"] in ids],
    }  # fmt: skip
    folder = tmp_path / "eight"
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").symlink_to(test_data / "bccd/images")
    (folder / "annotations/train.json").write_text(json.dumps(small))
    overfit = [
        "data.image_size=240", "data.max_size=320", "data.train_sizes=[240]", "data.crop_probability=0",
        "data.horizontal_flip=0", "model.dropout=0", "model.pre_norm=true", "model.num_queries=40",
        "loss.no_object_weight=0.5", "train.lr=5e-4", "train.backbone_lr=0", "train.lr_drop=0.85",
    ]  # fmt: skip
    run = api.train(folder, preset="detr-small", epochs=500, batch_size=4, overrides=overfit, output=tmp_path / "run")
    assert api.val(run, folder, "train").summary["AP50"] >= 0.9
