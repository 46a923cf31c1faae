"""`opendetr explain`: figures, arrays and one page; bad requests are one sentence."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY, TINY_FAST

from opendetr import api, cli
from opendetr.data.door import load_index
from opendetr.errors import UserError
from opendetr.explanation.explaining import Asked
from opendetr.explanation.look import look
from opendetr.explanation.slots import Survey, survey
from opendetr.inference.detector import Detector


@pytest.fixture(scope="module")
def fast_run(digits, tmp_path_factory):
    return api.train(digits, **TINY_FAST, epochs=1, output=tmp_path_factory.mktemp("runs") / "fast")


@pytest.fixture(scope="module", params=["paper", "fast"])
def run(request, tiny_run, fast_run):
    return tiny_run if request.param == "paper" else fast_run


def self_contained(page) -> str:
    text = page.read_text()
    assert not re.search(r"""(src|href)=.?https?:|url\(.?http""", text)
    return text


def test_a_picture_is_explained(run, digits, tmp_path):
    picture = sorted((digits / "images").glob("test_*.png"))[0]
    page = api.explain(run, [str(picture)], tmp_path / "out", points=[(10, 20), (100, 90)])
    name = picture.stem
    text = self_contained(page)
    assert "No answer reaches the threshold of 0.5; explained are the 3 best" in text
    for figure in ("encoder-readers", "encoder-reads", "decoder", "variants", "queries", "layers"):
        with Image.open(tmp_path / "out" / f"{name}-{figure}.png") as image:
            assert min(image.size) > 100
        assert f'<a href="{name}-{figure}.png"><img' in text
    assert text.count("data:image/png") == text.count("How to read this") == text.count("<b>Here.</b>") == 6
    assert f'<li><a href="{name}.npz">{name}.npz</a></li>' in text
    assert f"What {run.name} attends to" in text
    assert str(run.parent) not in text  # a page tells no folder, which may tell a user
    arrays = np.load(tmp_path / "out" / f"{name}.npz")
    assert arrays["encoder_attention"].shape[2] == 2  # points
    assert arrays["encoder_readers"].shape == arrays["encoder_attention"].shape
    assert arrays["cross_attention"].shape[2] == 3  # explained queries
    for key in ("encoder_attention", "cross_attention", "rollout"):
        np.testing.assert_allclose(arrays[key].sum((-2, -1)), 1, atol=1e-5)
    np.testing.assert_allclose(arrays["self_attention"].sum(-1), 1, atol=1e-5)


@pytest.mark.usefixtures("undrawn")
def test_layer_and_head_are_chosen(run, digits, tmp_path):
    picture = str(sorted((digits / "images").glob("test_*.png"))[0])
    api.explain(run, [picture], tmp_path / "out", layer=1, head=2, threshold=0.0, at_most=2)
    seen = look(Detector.load(run, "cpu"), Image.open(picture).convert("RGB"))
    maps = seen.cross_maps([0, 1])
    chosen, words = Asked(0.0, layer=1, head=2).of(maps)
    assert torch.equal(chosen, maps[0, 1])
    assert words == f"layer 1 of {len(maps)}, head 2"
    last, _ = Asked(0.0).of(maps)
    assert torch.equal(last, maps[-1].mean(0))
    with pytest.raises(UserError, match=r"--head 9: this model's heads count from 1 to 4"):
        api.explain(run, [picture], tmp_path / "other", head=9)
    with pytest.raises(UserError, match=r"--layer 7: this model's layers count from 1 to"):
        api.explain(run, [picture], tmp_path / "other", layer=7)
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("undrawn")
def test_pictures_of_one_name_stay_apart_and_broken_ones_are_left_out(fast_run, digits, tmp_path):
    picture = Image.open(sorted((digits / "images").glob("test_*.png"))[0])
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "a.bmp"):
        picture.save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "b.png").write_text("no picture")
    with pytest.raises(UserError, match=r"b\.png cannot be read"):
        api.explain(fast_run, [str(tmp_path / "pictures")], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.npz")} == {"a.npz", "a-2.npz"}
    assert self_contained(tmp_path / "out" / "explain.html").count("<h2>") == 2


def test_a_survey_measures_the_last_layer_as_val_does(run, digits):
    detector, index = Detector.load(run, "cpu"), load_index(digits, "val")
    found = survey(detector, index, 0.05)
    expected = api.val(run, digits, "val", device="cpu")
    assert found.layers[-1][0].summary == pytest.approx(expected.summary)
    detected = int((found.scores >= 0.05).sum())
    assert found.concentrations.shape[:2] == (detected, len(found.layers))
    assert (found.concentrations >= 0).all()
    assert len(found.widenings) == len(found.by_gradient) == detected  # the sample has all of so few pictures
    np.testing.assert_allclose(found.by_gradient[:, 1], found.widenings)


@pytest.mark.usefixtures("undrawn")
def test_detections_left_out_are_counted(run, digits, tmp_path):
    picture = str(sorted((digits / "images").glob("test_*.png"))[0])
    text = api.explain(run, [picture], tmp_path / "out", threshold=0.0, at_most=2).read_text()
    queries = len(np.load(next((tmp_path / "out").glob("*.npz")))["scores_by_layer"][0])
    assert f"the 2 best of {queries} detections" in text
    assert f"{queries - 2} more are left out" in text
    assert len(np.load(next((tmp_path / "out").glob("*.npz")))["queries"]) == 2
    with pytest.raises(UserError, match="--at-most 0: expected 1 or more"):
        api.explain(run, [picture], tmp_path / "out", at_most=0)


@pytest.mark.usefixtures("undrawn")
def test_a_new_page_takes_the_files_of_the_old_one_away_and_no_others(fast_run, digits, tmp_path):
    first, second = (str(path) for path in sorted((digits / "images").glob("test_*.png"))[:2])
    api.explain(fast_run, [first], tmp_path)
    (tmp_path / "mine.png").write_bytes(b"mine")
    before = {path.name for path in tmp_path.iterdir()}
    api.explain(fast_run, [second], tmp_path)
    after = {path.name for path in tmp_path.iterdir()}
    assert before & after == {"mine.png", "explain.html"}
    assert len(after) == len(before)


NONE = (np.zeros(0), np.zeros((0, 2)))  # no detection was looked at


def test_two_equal_slots_overlap_as_chance_says_and_specialists_do_not():
    rng = np.random.default_rng(0)
    boxes = np.full((72, 3, 4), 0.1)
    boxes[:, :2, :2] = rng.uniform(0, 1, (72, 2, 2))
    boxes[:, 2, :2] = 0.05
    scores = np.zeros((72, 3))
    scores[:18, 0] = 1
    starts = boxes - np.array([0.1, 0.0, 0.0, 0.0])
    found = Survey(
        boxes, scores, starts, np.full((72, 2), (300.0, 400.0)), np.zeros((0, 2, 4)), *NONE, [], scores >= 0.5, 0.5
    )
    assert found.specialisation[0, 1] == pytest.approx(0.75, abs=0.1)
    assert found.specialisation[0, 2] < 0.2
    assert found.usage.tolist() == [0.25, 0, 0]
    np.testing.assert_allclose(found.moves, 0.1 * 300 / 500)
    alike = replace(
        found, boxes_cxcywh=boxes[:, :2], scores=scores[:, :2], sure=found.sure[:, :2], starts_cxcywh=starts[:, :2]
    )
    assert alike.chance_overlap == pytest.approx(alike.specialisation[0, 1], abs=0.1)


def test_slots_of_learned_queries(tiny_run, digits, tmp_path):
    page = api.explain(tiny_run, output=tmp_path / "out", data=digits, split="val", slots=True, threshold=0.05)
    text = self_contained(page)
    assert "decoder layer" in text
    arrays = np.load(tmp_path / "out" / "slots.npz")
    assert arrays["boxes_cxcywh"].shape == (4, 10, 4)
    np.testing.assert_allclose(np.diag(arrays["overlap"]), 1)
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        "slots.png", "slots-overlap.png", "decoder-layers.png",
    }  # fmt: skip


def test_selected_queries_have_starts_instead_of_slots(fast_run, digits, tmp_path):
    page = api.explain(fast_run, output=tmp_path / "out", data=digits, split="val", slots=True)
    assert "have no fixed role" in self_contained(page)
    assert (tmp_path / "out" / "starts.png").exists()
    assert not (tmp_path / "out" / "slots.png").exists()


def test_matching_says_why_objects_were_missed(run, digits, tmp_path, capsys):
    image = load_index(digits, "val").records[0]
    page = api.explain(run, output=tmp_path / "out", data=digits, split="val", image=image.image_id, matching=True)
    text = self_contained(page)
    assert f"{len(image.labels)} true objects" in text
    assert capsys.readouterr().out.count("was missed") == len(image.labels)
    arrays = np.load(next((tmp_path / "out").glob("*.npz")))
    assert {len(arrays[key]) for key in ("queries", "sentences")} == {len(image.labels)}
    assert arrays["runners_up"].shape == (len(image.labels), 3)
    assert arrays["runners_up_costs"].shape == (len(image.labels), 3, 3)
    assert (np.diff(arrays["runners_up_costs"].sum(-1)) >= -1e-5).all()
    assert "its answer" in text
    assert "0 detections, no false alarm" in text


@pytest.mark.usefixtures("undrawn")
def test_matching_says_what_every_false_alarm_is(run, digits, tmp_path, capsys):
    image = load_index(digits, "val").records[0]
    page = api.explain(
        run, output=tmp_path / "out", data=digits, split="val", image=image.image_id, matching=True, threshold=0.0
    )  # fmt: skip
    arrays = np.load(next((tmp_path / "out").glob("*.npz")))
    wrong = [kind for kind in arrays["detections_alarms"].tolist() if kind]
    assert len(wrong) == (arrays["detections_objects"] == -1).sum() > 0
    assert (np.diff(arrays["detections_scores"]) <= 0).all()
    assert f"{len(arrays['detections_scores'])} detections, {len(wrong)} false alarms (" in self_contained(page)
    assert capsys.readouterr().out.count("\nfalse alarm ") >= len(wrong) - 1


@pytest.mark.usefixtures("undrawn")
def test_a_model_without_encoder(digits, tmp_path):
    bare = api.train(
        digits, **TINY, epochs=1, overrides=["model.num_encoder_layers=0"], output=tmp_path / "run"
    )  # fmt: skip
    picture = str(sorted((digits / "images").glob("test_*.png"))[0])
    with pytest.raises(UserError, match=r"this model has no encoder"):
        api.explain(bare, [picture], tmp_path / "out", points=[(1, 1)])
    assert "no encoder" in api.explain(bare, [picture], tmp_path / "out").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["PICTURE", "--point", "500,3"], "--point 500,3 lies outside .*, which is 128x128 pixels"),
        (["PICTURE", "--point", "here"], "--point here: expected x,y in pixels of the picture"),
        (["--data", "DATA", "--image", "99999", "--matching"], "--image 99999 is not in .*val.json; its 4 pictures "),
        (["--data", "DATA"], "explain needs pictures, or --data DIR with --slots"),
        (["PICTURE", "--data", "DATA", "--slots"], "explain needs pictures, or"),
        (["--data", "DATA", "--slots", "--image", "1", "--matching"], "explain needs pictures, or"),
        (["--data", "DATA", "--matching"], "explain needs pictures, or"),
        (["--data", "DATA", "--slots", "--layer", "1"], "--point, --layer and --head belong to pictures"),
    ],
)
def test_bad_requests(tiny_run, digits, tmp_path, monkeypatch, capsys, arguments, sentence):
    picture = str(sorted((digits / "images").glob("test_*.png"))[0])
    words = [{"PICTURE": picture, "DATA": str(digits)}.get(word, word) for word in arguments]
    monkeypatch.setattr(sys, "argv", ["opendetr", "explain", str(tiny_run), *words, "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert re.search(sentence, said)
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
