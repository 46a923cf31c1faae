"""val, predict and info on a trained model, from Python and from the command line."""

import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import opendetr as package
from opendetr import api
from opendetr.checkpoints.download import RELEASES
from opendetr.checkpoints.facts import architecture_named, is_architecture
from opendetr.checkpoints.families import PREPROCESSING
from opendetr.checkpoints.native import load_folder
from opendetr.cli import main
from opendetr.config import LossConfig
from opendetr.errors import UserError
from opendetr.inference.detector import Detector
from opendetr.model.build import build_model
from opendetr.recipes.presets import PRESETS


@pytest.fixture(scope="module")
def pictures(digits, tmp_path_factory):
    """Three pictures of different sizes and aspects."""
    folder = tmp_path_factory.mktemp("sizes")
    sources = sorted((digits / "images").glob("test_*"))[:3]
    paths = []
    for source, size in zip(sources, [(128, 128), (200, 100), (90, 150)]):
        path = folder / f"{size[0]}x{size[1]}.png"
        Image.open(source).resize(size).save(path)
        paths.append(path)
    return paths


def test_no_result_depends_on_the_company_a_picture_keeps(tiny_run, pictures):
    detector = Detector.load(tiny_run)
    together = detector.predict([str(path) for path in [*pictures, *pictures[::-1]]], threshold=0)
    for path, one in zip([*pictures, *pictures[::-1]], together):
        alone = detector.predict(path, threshold=0)
        # float32; kernels may differ with the batch size, by rounding only
        torch.testing.assert_close(one.scores, alone.scores, atol=1e-5, rtol=0)
        scale = torch.tensor([*one.image_size[::-1], *one.image_size[::-1]])
        torch.testing.assert_close(one.boxes_xyxy / scale, alone.boxes_xyxy / scale, atol=1e-5, rtol=0)


def test_val_does_not_depend_on_the_batch_size(tiny_run, digits):
    one, seven = (api.val(tiny_run, digits, "val", batch_size=size).summary for size in (1, 7))
    assert one == pytest.approx(seven, abs=1e-4)


def test_one_picture_gives_one_object_and_a_list_a_list(tiny_run, pictures):
    detector = Detector.load(tiny_run)
    one = detector.predict(pictures[1], threshold=0)
    assert len(one) == 10
    assert one.boxes_xyxy.shape == (10, 4)
    assert one.image_size == (100, 200)
    assert one.file_name == str(pictures[1])
    assert [len(d) for d in detector.predict([pictures[1]], threshold=1)] == [0]


def test_path_image_and_array_are_the_same_picture(tiny_run, pictures):
    detector = Detector.load(tiny_run)
    image = Image.open(pictures[1]).convert("RGB")
    expected = detector.predict(pictures[1], threshold=0).scores
    assert torch.equal(detector.predict(image, threshold=0).scores, expected)
    assert torch.equal(detector.predict(np.asarray(image), threshold=0).scores, expected)
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    for same in (tensor, tensor / 255, pictures[1].read_bytes(), pictures[1].open("rb")):
        assert torch.equal(detector.predict(same, threshold=0).scores, expected)
    for batch in (torch.stack([tensor, tensor]), np.stack([image, image]), (image, image)):
        both = detector.predict(batch, threshold=0, batch_size=1)
        assert [torch.equal(found.scores, expected) for found in both] == [True, True]
    bgr = np.asarray(image)[:, :, ::-1]
    assert torch.equal(detector.predict(bgr, threshold=0, channel_order="bgr").scores, expected)


def test_detections_draw_the_picture_that_was_given(tiny_run, pictures, tmp_path):
    detector = Detector.load(tiny_run)
    image = Image.open(pictures[1]).convert("RGB")
    of_file, of_content = (detector.predict(given, threshold=0) for given in (pictures[1], pictures[1].read_bytes()))
    drawn = of_file.plot().tobytes()
    assert of_content.plot().tobytes() == of_file.plot(image).tobytes() == drawn
    assert detector.predict(image, threshold=0).plot().tobytes() == drawn
    moved = tmp_path / "moved.png"
    moved.write_bytes(pictures[1].read_bytes())
    found = detector.predict(moved, threshold=0)
    moved.unlink()  # only its path is kept
    with pytest.raises(UserError, match=r"moved\.png does not exist"):
        found.crops()
    assert len(pickle.loads(pickle.dumps(of_file)).crops()) == len(of_file)


def test_a_threshold_in_per_cent_is_refused(tiny_run, pictures):
    detector = Detector.load(tiny_run)
    for detect in (
        lambda: detector.predict(pictures[1], threshold=50),
        lambda: detector.stream([(0, Image.open(pictures[1]))], threshold=50),
        lambda: api.predict(tiny_run, [str(pictures[1])], "unused", threshold=50),
    ):
        with pytest.raises(UserError, match=r"threshold must be between 0 and 1, got 50; for 50 % give 0\.5"):
            detect()


def test_the_bare_model_answers_for_every_layer(tiny_run):
    model = package.load_model(tiny_run)
    with torch.inference_mode():
        output = model(torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool))
    assert output.logits.shape == (2, 2, 10, 11)
    assert output.boxes_cxcywh.shape == (2, 2, 10, 4)


def test_val_prints_the_12_numbers_and_the_classes(tiny_run, digits, tmp_path, monkeypatch, capsys):
    command = ["opendetr", "val", str(tiny_run), "--data", str(digits), "--split", "test", "--json"]
    command += ["--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    printed = capsys.readouterr()
    numbers = json.loads(printed.out)
    assert list(numbers) == [
        "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl", "per_class",
        "analysis",
    ]  # fmt: skip
    assert set(numbers["per_class"]["3"]) == {"id", "AP", "AP50"}
    pictures = len(json.loads((digits / "annotations/test.json").read_text())["images"])
    said = f"Measuring the best weights of {tiny_run} in fp32 at 64 pixels on {pictures} pictures: the "
    said += f"split test of {digits}."
    assert said in printed.err
    low, high = numbers["analysis"]["intervals"]["AP50"]
    assert f"at IoU 0.50; 95 %: {low:.3f} to {high:.3f}" in printed.err  # the table for people
    assert low <= numbers["AP50"] <= high
    assert json.loads((tmp_path / "val.json").read_text()) == numbers
    assert (tmp_path / "val.html").exists()


def run_on(tiny_run, folder, **data):
    """A copy of a run that belongs to other data."""
    shutil.copytree(tiny_run, folder)
    for config_file in (folder / "best/config.toml", folder / "last/config.toml"):
        text = config_file.read_text()
        for name, value in data.items():
            text, number = re.subn(f"^{name} = .*?( +#|$)", rf'{name} = "{value}"\1', text, flags=re.MULTILINE)
            assert number == 1
        config_file.write_text(text)
    return folder


def test_val_knows_the_data_of_a_run(tiny_run, digits, tmp_path, capsys):
    given = api.val(tiny_run, digits, "val")
    capsys.readouterr()
    assert api.val(tiny_run) == given
    said = capsys.readouterr().out
    assert f"Measuring the best weights of {tiny_run} in fp32 " in said
    assert f"pictures: the split val of {digits}." in said
    run = run_on(tiny_run, tmp_path / "chosen by test", val_split="test")
    assert api.val(run / "last").summary == api.val(run / "last", split="test").summary
    said = capsys.readouterr().out
    assert f"the last weights of {run} in fp32 " in said
    assert "the split test of" in said


@pytest.mark.parametrize(
    ("model", "data", "sentence"),
    [
        ("RUN", {"root": "/gone"}, r"best.config\.toml names the data set /gone, which is not there: .* by --data DIR"),
        ("RUN", {"root": ""}, "does not name the data set of the model: give one by --data DIR"),
        ("RUN", {"val_split": "none"}, "was trained without a val split: give --split test, train or val"),
        ("detr-r50", {}, "detr-r50 is no run folder here, so it names no data set: give one by --data DIR"),
        ("cells.onnx", {}, "cells.onnx is no run folder here"),
    ],
)
def test_val_says_what_it_misses(tiny_run, tmp_path, model, data, sentence):
    name = run_on(tiny_run, tmp_path / "run", **data) if model == "RUN" else model
    with pytest.raises(UserError, match=sentence):
        api.val(name)


def test_predict_writes_pictures_and_results_of_the_data_set(tiny_run, digits, tmp_path):
    path = api.predict(tiny_run, [str(digits / "images" / "test_*.png")], tmp_path, threshold=0)
    entries = json.loads(path.read_text())
    truth = json.loads((digits / "annotations/test.json").read_text())
    id_of = {image["file_name"]: image["id"] for image in truth["images"]}
    assert path == tmp_path / "detections.json"
    for entry in entries:
        assert entry["image_id"] == id_of[entry["file_name"]]
        assert entry["name"] == str(entry["category_id"])
        assert len(entry["bbox"]) == 4
    assert {path.name for path in tmp_path.glob("*.png")} == set(id_of)
    metrics = api.val_files(tmp_path / "detections.json", digits / "annotations/test.json").summary
    assert metrics == pytest.approx(api.val(tiny_run, digits, "test").summary, abs=1e-4)


def test_predict_numbers_pictures_that_belong_to_no_data_set(tiny_run, pictures, tmp_path):
    path = api.predict(tiny_run, [str(path) for path in pictures], tmp_path, threshold=0)
    entries = json.loads(path.read_text())
    assert {entry["image_id"] for entry in entries} == {1, 2, 3}


def test_pictures_of_one_name_do_not_overwrite_each_other(tiny_run, pictures, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.open(pictures[0]).save(tmp_path / folder / "same.png")
    api.predict(tiny_run, [str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"same.png", "same-2.png"}


def test_a_broken_picture_is_named_and_the_others_are_finished(tiny_run, pictures, tmp_path):
    (tmp_path / "in").mkdir()
    Image.open(pictures[0]).save(tmp_path / "in/good.png")
    (tmp_path / "in/bad.jpg").write_bytes(b"no picture at all")
    with pytest.raises(package.UserError, match=r"bad\.jpg"):
        api.predict(tiny_run, [str(tmp_path / "in")], tmp_path / "out", threshold=0)
    assert {e["file_name"] for e in json.loads((tmp_path / "out/detections.json").read_text())} == {"good.png"}


def test_info_tells_what_a_model_is(tiny_run):
    facts = api.info(tiny_run, size=(64, 96))
    model = load_folder(tiny_run).model
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert facts["classes"] == list("0123456789")
    assert facts["gflops"] > 0
    assert facts["origin"]["train_split"] == "train"


def test_info_tells_what_a_name_stands_for_without_a_download(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENDETR_CACHE", str(tmp_path))
    monkeypatch.setattr("opendetr.checkpoints.loading.fetch_release", lambda name: pytest.fail(f"{name} was fetched"))
    facts = api.info("detr-tiny", size=(64, 64))
    assert (facts["source"], facts["gflops_at"], len(facts["classes"])) == ("detr-tiny", [64, 64], 91)
    assert "averages over the first 100 pictures" in facts["gflops_remark"]
    assert facts["parameters"] == sum(
        p.numel() for p in build_model(PRESETS["detr-tiny"], LossConfig(), 91).parameters()
    )
    facts = api.info("fast")
    assert (facts["config"]["model"]["num_queries"], facts["gflops_at"]) == (100, [480, 640])
    said = " ".join(capsys.readouterr().out.split())
    assert "'detr-tiny' is an architecture: its weights are random, and nothing was downloaded" in said
    assert "'fast' chooses by the data; here 100 queries and pictures of 480x640 are assumed" in said
    assert is_architecture("detr-r50")
    (tmp_path / RELEASES["detr-r50"]).write_bytes(b"here already")
    assert not is_architecture("detr-r50")
    assert not is_architecture("no-model")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fast").mkdir()  # a path comes before a name
    assert not is_architecture("fast")


def test_the_preprocessing_of_a_release_is_told_before_its_download():
    assert architecture_named("detr-r50").preprocessing == PREPROCESSING


def test_val_refuses_a_category_the_model_does_not_know(tiny_run, digits, tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").symlink_to(digits / "images")
    coco = json.loads((digits / "annotations/val.json").read_text())
    coco["categories"].append({"id": 77, "name": "letter"})
    (tmp_path / "annotations/val.json").write_text(json.dumps(coco))
    with pytest.raises(package.UserError, match="77 'letter'"):
        api.val(tiny_run, tmp_path, "val")


def test_a_model_uses_its_own_thresholds_and_a_number_is_for_all_classes(tiny_run, pictures, tmp_path, capsys):
    stored = json.loads((tiny_run / "best" / "metrics.json").read_text())
    number = Detector.load(tiny_run).description.label_map.num_classes
    assert len(stored["thresholds"]) == number  # training has fitted them
    shutil.copytree(tiny_run / "best", tmp_path / "model")
    everything = Detector.load(tiny_run).predict(pictures[1], threshold=0.0)
    wanted = int(everything.labels[0])
    own = [0.0 if label == wanted else 1.0 for label in range(number)]
    metrics = tmp_path / "model" / "metrics.json"
    metrics.write_text(json.dumps(stored | {"thresholds": own}))
    detector = Detector.load(tmp_path / "model")
    assert detector.predict(pictures[1]).labels.tolist() == [label for label in everything.labels if label == wanted]
    assert len(detector.predict(pictures[1], threshold=0.0)) == len(everything)
    assert api.info(tmp_path / "model")["thresholds"] == own
    found = json.loads(api.predict(tmp_path / "model", [str(pictures[1])], tmp_path / "out", drawn=False).read_text())
    assert len(found) == int((everything.labels == wanted).sum())
    metrics.write_text(json.dumps(stored | {"thresholds": [0.999] * (number - 1) + [0.99]}))
    api.predict(tmp_path / "model", [str(pictures[1])], tmp_path / "none", drawn=False)
    assert "no score reaches the model's threshold of its class (0.99 to 1); --threshold" in capsys.readouterr().out
    metrics.write_text(json.dumps(stored | {"thresholds": [2.0] * number}))
    with pytest.raises(UserError, match=f"metrics.json is damaged: 'thresholds': expected {number} numbers in 0..1"):
        Detector.load(tmp_path / "model")


@pytest.mark.parametrize("form", ["opendetr", "huggingface"])
def test_converted_models_keep_their_thresholds(tiny_run, tmp_path, form):
    shutil.copytree(tiny_run / "best", tmp_path / "model")
    metrics = tmp_path / "model" / "metrics.json"
    stored = json.loads(metrics.read_text())
    own = [0.1 + 0.05 * place for place in range(len(stored["thresholds"]))]
    metrics.write_text(json.dumps(stored | {"thresholds": own}))
    api.convert(tmp_path / "model", tmp_path / "there", form)
    api.convert(tmp_path / "there", tmp_path / "back", "opendetr")
    for folder in ("there", "back"):
        assert list(Detector.load(tmp_path / folder).description.thresholds) == own
