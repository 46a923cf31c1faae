"""The recipe fast: what it chooses, learns, keeps and says."""

import json
import math
import re
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import TINY_FAST
from torchvision import tv_tensors

from opendetr import Detector, api, demonstration
from opendetr.checkpoints.imagenet import build_pretrained_model
from opendetr.checkpoints.native import load_folder, save_checkpoint
from opendetr.config import LossConfig
from opendetr.model.complexity import count_gflops
from opendetr.recipes.recipe import load_recipe
from opendetr.training import doctor
from opendetr.training.flips import FlipTrial
from opendetr.training.run_folder import load_training_state, read_metrics
from opendetr.training.speed import Speed
from opendetr.training.step import TrainingStep


@pytest.fixture(scope="module")
def fast_run(digits, tmp_path_factory):
    return api.train(digits, **TINY_FAST, epochs=2, output=tmp_path_factory.mktemp("runs") / "fast")


def test_info_counts_the_cost_at_sides_the_model_really_has(fast_run, tmp_path):
    """The recipe fast rounds both sides to multiples of 32."""
    checkpoint = load_folder(fast_run)
    larger = replace(checkpoint, preprocessing=replace(checkpoint.preprocessing, image_size=256, max_size=427))
    save_checkpoint(tmp_path / "model", larger)
    picture = torch.zeros(3, 480, 640, dtype=torch.uint8)
    really = list(larger.preprocessing.transform()(tv_tensors.Image(picture)).shape[-2:])
    for size in (None, (256, 341)):
        facts = api.info(tmp_path / "model", size)
        assert facts["gflops_at"] == really == [288, 384]
        assert facts["gflops"] == pytest.approx(count_gflops(checkpoint.model, 288, 384), abs=1e-3)


def test_it_is_the_default_and_its_choices_are_kept(fast_run):
    checkpoint = load_folder(fast_run)
    config = checkpoint.config
    assert (config.model.query_source, config.model.scoring) == ("selected", "focal")
    assert config.model.num_queries == 30  # at most 4 digits in a scene
    assert config.data.horizontal_flip == 0  # after two epochs the model is not sure of a mirrored digit
    assert (config.data.image_size, config.data.multiple_of) == (64, 32)
    assert checkpoint.preprocessing.multiple_of == 32
    assert config.model.num_queries > 0 == load_recipe("fast").model.num_queries


def test_the_average_is_kept_and_the_last_weights_are_there_to_resume(fast_run):
    averaged = load_file(fast_run / "last" / "model.safetensors")
    last = load_training_state(fast_run)["weights"]
    assert averaged.keys() == last.keys()
    changed = [name for name in averaged if not torch.equal(averaged[name], last[name])]
    assert any(name.startswith("transformer") for name in changed)


TWICE = TINY_FAST | {"epochs": 2, "val_split": "none"}


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    return api.train(digits, **TWICE, output=tmp_path_factory.mktemp("runs") / "whole")


def test_a_run_interrupted_and_resumed_ends_as_the_whole_one(whole, digits, tmp_path, monkeypatch):
    from opendetr.training.plan import Plan

    calls = []

    def interrupt(self):
        calls.append(1)
        return len(calls) > 9  # in the middle of the second epoch

    monkeypatch.setattr(Plan, "interrupted", lambda self: interrupt(self))
    part = api.train(digits, **TWICE, output=tmp_path / "part")
    monkeypatch.undo()
    assert json.loads((part / "metrics.jsonl").read_text().splitlines()[-1])["epoch"] < 2
    api.train(resume=part, epochs=2)
    expected, found = (load_file(run / "last" / "model.safetensors") for run in (whole, part))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_answers_do_not_depend_on_the_company(fast_run, digits):
    detector = Detector.load(fast_run, device="cpu")
    pictures = sorted((digits / "images").glob("test_*.png"))
    together = detector.predict(pictures, threshold=0.0, batch_size=4)
    for picture, among_others in zip(pictures, together):
        alone = detector.predict(picture, threshold=0.0)
        torch.testing.assert_close(alone.scores, among_others.scores, rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.boxes_xyxy, among_others.boxes_xyxy, rtol=0, atol=1e-2)


def test_portrait_and_landscape_train_together(coco_folder, tmp_path):
    root = coco_folder((1, 2, 1, 2, 1, 2), size=(120, 80))
    tall = coco_folder((1, 2, 1, 2), size=(80, 120))
    merged = json.loads((root / "annotations" / "train.json").read_text())
    other = json.loads((tall / "annotations" / "train.json").read_text())
    for image in other["images"]:
        name = f"tall_{image['file_name']}"
        (tall / "images" / image["file_name"]).rename(root / "images" / name)
        merged["images"].append({**image, "id": image["id"] + 100, "file_name": name})
    merged["annotations"] += [{**a, "id": a["id"] + 100, "image_id": a["image_id"] + 100} for a in other["annotations"]]
    (root / "annotations" / "train.json").write_text(json.dumps(merged))
    run = api.train(root, **TINY_FAST, epochs=2, output=tmp_path / "run")
    assert [line["epoch"] for line in read_metrics(run)] == [1, 2]


def test_a_preset_of_learned_queries_leaves_the_helpers_out():
    from opendetr.errors import UserError
    from opendetr.recipes.recipe import resolve_config

    config = resolve_config("fast", "detr-r50")
    assert (config.loss.proposal_repeats, config.loss.denoising_queries) == (0, 0)
    with pytest.raises(UserError, match=r"denoising_queries = 5 needs model.query_source = selected"):
        resolve_config("fast", "detr-r50", overrides=["loss.denoising_queries=5"])


def test_minutes_leave_at_least_one_step(digits, tmp_path):
    run = api.train(digits, **TINY_FAST, minutes=0.0001, output=tmp_path / "run")
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 1
    free = TINY_FAST | {"image_size": None}
    run = api.train(digits, **free, minutes=0.0001, output=tmp_path / "free")
    assert load_folder(run).config.data.image_size == 128


def test_flips_are_settled(fast_run):
    run = fast_run
    for path in (run / "config.toml", run / "last" / "config.toml"):
        config = load_recipe(str(path))
        assert {config.data.horizontal_flip, config.data.vertical_flip} <= {0.0, 0.5}


def test_pictures_grow_after_half_of_the_run(digits, tmp_path, monkeypatch):
    seen, step = [], TrainingStep.__call__

    def record(self, micro_batches):
        seen.append(min(micro_batches[0][0].images.shape[2:]))
        return step(self, micro_batches)

    monkeypatch.setattr(TrainingStep, "__call__", record)
    upright = (*TINY_FAST["overrides"], "data.horizontal_flip=0.0", "data.vertical_flip=0.0")
    options = TINY_FAST | {"image_size": 96, "overrides": upright, "val_split": "none"}
    api.train(digits, **options, epochs=2, output=tmp_path / "run")
    assert seen == [64] * 6 + [96] * 6  # of 24 scenes in fours


def test_a_machine_slower_than_it_seemed_gets_smaller_pictures_and_the_model_knows(
    digits, tmp_path, monkeypatch, capsys
):
    """The look at the start says one speed, steps take another: the size is chosen again, saved, and can be resumed."""
    from opendetr.training.sizing import Sizing

    monkeypatch.setattr("opendetr.training.setup.look_at_speed", lambda *_: Speed(1e-8, 100.0))
    monkeypatch.setattr("opendetr.training.sizing.choose_size", lambda *_: (64, "it is slow"))
    monkeypatch.setattr(
        Sizing, "is_due", lambda self, progress: self.pixels > 0 and not self.done.append(1) and len(self.done) == 1
    )
    free = TINY_FAST | {"image_size": None, "val_split": "none"}
    run = api.train(digits, **free, minutes=0.1, output=tmp_path / "run")
    said = capsys.readouterr().out.replace("\n", " ")
    assert "pictures of 128 pixels" in said
    assert re.search(r"this machine is .* times as slow as expected: pictures of 64 pixels: it is slow", said)
    checkpoint = load_folder(run)
    assert (checkpoint.preprocessing.image_size, checkpoint.config.data.image_size) == (64, 64)
    assert load_recipe(str(run / "config.toml")).data.image_size == 64
    api.train(resume=run, minutes=0.01)
    assert load_folder(run).preprocessing.image_size == 64


def test_flips_that_were_tried_are_not_tried_again_by_a_resumed_run(digits, tmp_path, monkeypatch, capsys):
    """Not even where the run is killed in the next step."""
    asked, step = [], TrainingStep.__call__

    def all_alike(*_, **options):
        asked.append(options["seconds"])
        return FlipTrial(1.0, 1.0, 1.0, 3.0)

    def die(self, micro_batches):
        if asked:
            raise RuntimeError("killed")
        return step(self, micro_batches)

    monkeypatch.setattr("opendetr.training.loop.try_flips", all_alike)
    monkeypatch.setattr(TrainingStep, "__call__", die)
    options = TINY_FAST | {"val_split": "none"}
    with pytest.raises(RuntimeError, match="killed"):
        api.train(digits, **options, epochs=2, output=tmp_path / "run")
    assert "chosen: pictures are also shown mirrored" in capsys.readouterr().out
    monkeypatch.setattr(TrainingStep, "__call__", step)
    run = api.train(resume=tmp_path / "run")
    assert asked == [float("inf")]  # epochs have no budget
    data = load_recipe(str(run / "config.toml")).data
    assert (data.horizontal_flip, data.vertical_flip) == (0.5, 0.0)
    steps = [line["step"] for line in read_metrics(run) if line["kind"] == "epoch"]
    assert steps == [6, 12]


def test_trials_that_decide_nothing_are_told_once_and_at_the_end(digits, tmp_path, monkeypatch, capsys):
    """The last one had no time, so the one that saw most says why there are no flips."""
    trials = iter([FlipTrial(0.5, 0.8, 1.0, 1.0), *[FlipTrial(0.0, 0.0, 1.0, 1.0, pictures=0)] * 3])
    monkeypatch.setattr("opendetr.training.loop.try_flips", lambda *_, **__: next(trials))
    api.train(digits, **TINY_FAST, val_split="none", epochs=2, output=tmp_path / "run")
    said = capsys.readouterr().out
    assert said.count("stays open") == 1
    assert "never shown mirrored, since the model has not learned enough yet (50% of the classes" in said
    assert next(trials, None) is None


def image_records(sizes):
    return [{"id": n, "file_name": f"{n}.png", "width": w, "height": h} for n, (w, h) in enumerate(sizes, start=1)]


@pytest.mark.parametrize(
    ("sizes", "per_picture", "classes", "length", "image_size", "batch_size"),
    [
        pytest.param([(160, 120)] * 6, 1, 1, {"epochs": 1}, 128, 8, id="one object per picture"),
        pytest.param([(160, 120)] * 5, 30, 2, {"epochs": 1}, 128, 8, id="thirty objects per picture"),
        pytest.param([(160, 120)] * 7, 3, 13, {"epochs": 1}, 128, 8, id="thirteen similar classes"),
        pytest.param([(160, 120)] * 5 + [(120, 160)] * 2, 2, 2, {"epochs": 1}, 128, 8, id="portrait and landscape"),
        pytest.param([(200, 200)] * 4, 2, 2, {"epochs": 1}, 192, 4, id="200 pixels"),
        pytest.param([(4000, 3000)] * 4, 2, 2, {"epochs": 1}, 416, 4, id="4000 pixels, of which 64 are an object's"),
        pytest.param([(4000, 3000)] * 4, 2, 2, {"minutes": 0.0001}, 128, 8, id="4000 pixels and no time"),
    ],
)
def test_any_data_find_their_choices_and_make_a_step(
    tmp_path, sizes, per_picture, classes, length, image_size, batch_size
):
    """Objects are bars on grey; classes differ by a shade."""
    rng, annotations = np.random.default_rng(0), []
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    for image in image_records(sizes):
        width, height = image["width"], image["height"]
        picture = np.full((height, width, 3), 90, dtype=np.uint8)
        for number in range(per_picture):
            w, h = width // 10, height // 6
            x, y, label = int(rng.integers(width - w)), int(rng.integers(height - h)), number % classes
            picture[y : y + h, x : x + w] = 120 + 10 * label
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image["id"], "category_id": label + 1, "bbox": [x, y, w, h],
                 "area": w * h, "iscrowd": 0}
            )  # fmt: skip
        Image.fromarray(picture).save(tmp_path / "images" / image["file_name"], compress_level=1)
    content = {
        "images": image_records(sizes),
        "annotations": annotations,
        "categories": [{"id": number + 1, "name": f"bar {number}"} for number in range(classes)],
    }
    (tmp_path / "annotations" / "train.json").write_text(json.dumps(content))
    free = TINY_FAST | {"image_size": None, "batch_size": None}
    run = api.train(tmp_path, **free, **length, output=tmp_path / "run")
    line, config = read_metrics(run)[-1], load_folder(run).config
    assert line["step"] == 1
    assert math.isfinite(line["loss"])
    assert line["skipped_steps"] == 0
    assert config.data.image_size == image_size
    assert config.model.num_queries == max(30, math.ceil(2.5 * per_picture / 10) * 10)
    assert config.train.batch_size == batch_size


@pytest.mark.slow  # half a minute; wrong data and what is said of them are tried by shorter tests
def test_doctor_finds_good_data_good(coco_folder, tmp_path, monkeypatch):
    """Eight light rectangles on noise are learned for a number of passes: how fast the machine is does not matter."""

    def for_passes(config, *arguments, **options):
        return assemble(config.with_values({"train.minutes": 0.0, "train.epochs": 40}, "test"), *arguments, **options)

    assemble = doctor.assemble
    monkeypatch.setattr(doctor, "assemble", for_passes)
    monkeypatch.setattr(doctor, "OVERFITTED", 0.5)  # without learning it stays at 0
    data = coco_folder((1,) * 8, splits=("train", "val"), names=("rectangle",), size=(32, 24))
    found = api.doctor(data, recipe=str(_tiny_recipe(tmp_path)), image_size=64, device="cpu")
    assert any("8 pictures were overfitted (AP50" in finding.sentence for finding in found), found
    assert not any(finding.is_problem for finding in found)


def test_doctor_says_problems_first(coco_folder, edit_json, tmp_path):
    data = coco_folder()
    edit_json(data / "annotations/train.json", lambda coco: coco["categories"].append({"id": 4, "name": "unused"}))
    (data / "images/train_0.png").write_bytes(b"no picture")
    problem, *notes = api.doctor(data, recipe=str(_tiny_recipe(tmp_path)), device="cpu")
    assert problem.is_problem
    assert "1 picture cannot be used" in problem.sentence
    assert any("never used" in note.sentence for note in notes)
    assert not any(note.is_problem for note in notes)


def _tiny_recipe(folder):
    from opendetr.recipes.recipe import resolve_config

    options = {"model.backbone": "test_resnet", "model.backbone_weights": "none", "train.workers": 0}
    config = resolve_config("fast", options=options, overrides=[*TINY_FAST["overrides"], "train.lr=3e-3"])
    path = folder / "tiny.toml"
    path.write_text(config.to_toml())
    return path


def test_what_is_frozen_stays_and_what_learns_moves(digits, tmp_path):
    """The real backbone: its batch norm, its first stages and its wide depthwise kernels stay as pretrained."""
    real = TINY_FAST | {"backbone": "tf_efficientnet_lite0", "backbone_weights": "auto"}
    run = api.train(digits, **real, epochs=1, output=tmp_path / "run")
    learned = load_folder(run).model.backbone
    pretrained = build_pretrained_model(load_folder(run).config.model, LossConfig(), 10)[0].backbone
    before, after = pretrained.state_dict(), learned.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {name for name, parameter in pretrained.named_parameters() if not parameter.requires_grad}
    kernels = {name for name, parameter in pretrained.named_parameters() if parameter.shape[2:] == (5, 5)}
    assert kernels
    assert kernels | {"body.conv_stem.weight"} <= frozen
    assert not moved & frozen
    assert not {name for name in moved if "running_" in name}
    assert moved == set(dict(pretrained.named_parameters())) - frozen


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of a demo with its comparison, what it learned, and the minutes that it gave the comparison.

    Its networks are tiny; the recipe's own backbone learns in the test before this.
    """
    folder, learned, given, learn = tmp_path_factory.mktemp("demo") / "demo", [], [], demonstration._learn
    tiny = {"model.backbone": "test_resnet", "model.backbone_weights": "none", "train.backbone_lr": 1e-4,
            "model.embed_dim": 32, "model.feedforward_dim": 64}  # fmt: skip
    resolve = demonstration.resolve_config

    def in_short(*settings):
        settings, minutes = settings[:5], settings[5:]
        given.extend(minutes)
        learned.append(learn(*settings, *(0.01 for _ in minutes)))
        return learned[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demonstration, "STEPS", 8)
        patch.setattr("opendetr.training.loop.LOGGED_EVERY", 5)
        patch.setattr(demonstration, "ENOUGH_AP50", 0.0)
        patch.setattr(demonstration, "TRAINING_SCENES", 64)  # an epoch of all steps, and twelve held-out scenes
        patch.setattr(demonstration, "_learn", in_short)
        patch.setattr("opendetr.explanation.folder.png_of", lambda figure: b"drawn by `explain` in its own tests")
        patch.setattr(demonstration, "resolve_config", lambda recipe, options: resolve(recipe, options=options | tiny))
        demonstration.run_demo(folder, time.time(), compare=True)
    return folder, learned, given


def assert_page_of_runs(page, count):
    assert page.count("held-out scenes, whose") == count
    assert page.count("data:image/") >= 17 * count  # 12 test scenes, and five figures of what it looks at
    assert page.count("<h2>Attention</h2>") == count
    assert "opendetr train --data DATA" in page
    assert not re.search(r"""(src|href)=.?https?:|url\(.?http""", page)  # it works from disk, offline


def test_the_demo_reports_what_it_learned(demo):
    folder, _, given = demo
    assert_page_of_runs((folder / "report.html").read_text(), 2)
    facts = json.loads((folder / "report.json").read_text())
    assert 0 <= facts["ap50"] <= 1
    assert facts["minutes"] > 0
    assert given == [pytest.approx(facts["minutes"], abs=0.01)]  # the comparison has the same
    assert facts["threads"] == torch.get_num_threads()
    history = read_metrics(folder / "run-1")
    assert [line["step"] for line in history if line["kind"] == "step"][:1] == [5]
    assert len([line for line in history if line["kind"] == "val"]) >= 2  # AP while it learns, and at the end
    assert history[-1]["step"] >= 8  # where steps are very fast, some more until the evaluation that ends it
    assert [run.name for run in sorted(folder.glob("run-?"))] == ["run-1", "run-2"]


def test_the_demo_compares_only_where_it_is_asked_to(demo, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(demonstration, "TRAINING_SCENES", 4)
    monkeypatch.setattr(demonstration, "_learn", lambda recipe, *_: asked.append(recipe) or demo[1][0])
    report = demonstration.run_demo(tmp_path, time.time())
    assert asked == ["fast"]
    assert_page_of_runs(report.read_text(), 1)
