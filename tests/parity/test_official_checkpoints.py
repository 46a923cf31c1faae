"""Checkpoints of the official code: read, computed with, and written back to the last bit."""

import argparse
import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image

from opendetr import Detector, api
from opendetr.checkpoints.download import RELEASES
from opendetr.checkpoints.loading import load_checkpoint
from opendetr.checkpoints.official import architecture, require_official_model, save_official
from opendetr.cli import main
from opendetr.config import ModelConfig
from opendetr.errors import UserError
from opendetr.model.postprocess import postprocess
from opendetr.structures import Batch

TOLERANCE = 1e-5
CONFIGS = {  # both backbones, with and without dilation; what R50-DC5 computes is in test_official_model.py
    "detr-r50-test": ModelConfig(),
    "detr-r101-dc5-test": ModelConfig(backbone="resnet101.tv_in1k", output_stride=16),
}
SMALL = ModelConfig(
    backbone="resnet18.tv_in1k", embed_dim=32, num_heads=4, num_encoder_layers=2, num_decoder_layers=2,
    feedforward_dim=64, num_queries=10,
)  # fmt: skip
PICTURE_SIZES = [(150, 230), (200, 170)]


@pytest.fixture(scope="module", params=CONFIGS)
def released(official, request, tmp_path_factory):
    """A file as the authors released theirs, without arguments; a batch; what the official model says of it; ours."""
    generator = torch.Generator().manual_seed(1)
    batch = official.pad([torch.randn(3, *size, generator=generator) for size in PICTURE_SIZES])
    theirs = official.build_model(CONFIGS[request.param], 91)
    official.spread_answers(theirs, batch)
    path = tmp_path_factory.mktemp("released") / f"{request.param}.pth"
    torch.save({"model": theirs.state_dict()}, path)
    with torch.no_grad():
        return path, batch, official.from_dict(theirs(batch)), load_checkpoint(path)


def test_the_architecture_is_read_and_every_layer_agrees(released):
    path, batch, reference, checkpoint = released
    expected = CONFIGS[path.stem]
    assert replace(checkpoint.config.model, backbone_weights="auto") == replace(expected, backbone_weights="auto")
    assert any("the file name" in remark for remark in checkpoint.origin.read)
    with torch.no_grad():
        found = checkpoint.model(batch.tensors, batch.mask)
    torch.testing.assert_close(found.logits, reference.logits, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(found.boxes_cxcywh, reference.boxes_cxcywh, rtol=0, atol=TOLERANCE)
    for values in reference:  # agreement means something: queries answer differently
        assert torch.cdist(values, values, p=float("inf")).median(-1).values.min() > 1000 * TOLERANCE


def test_written_back_it_is_the_same_file(released, tmp_path):
    path, _, _, checkpoint = released
    written = torch.load(save_official(checkpoint, tmp_path / "out"), weights_only=False)
    original = torch.load(path)["model"]
    assert written["model"].keys() == original.keys()
    for name, tensor in original.items():
        assert written["model"][name].dtype == tensor.dtype
        assert torch.equal(written["model"][name], tensor), name
    assert written["args"].dilation == ("dc5" in path.name)


def test_detections_are_the_official_ones(official, released):
    _, batch, reference, checkpoint = released
    sizes = torch.tensor(PICTURE_SIZES)
    with torch.no_grad():
        output = checkpoint.model(batch.tensors, batch.mask)
    of_sizes = Batch(batch.tensors, batch.mask, sizes, (1, 2))
    found = postprocess(output, of_sizes, checkpoint.model.scoring, checkpoint.label_map)
    expected = official.load().detr.PostProcess()(official.to_dict(reference), sizes)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.labels, theirs["labels"])
        torch.testing.assert_close(ours.scores, theirs["scores"], rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(ours.boxes_xyxy, theirs["boxes"], rtol=0, atol=TOLERANCE * max(sizes.flatten()))


def test_transformers_says_the_same_of_what_we_write(released, tmp_path):
    path, batch, reference, original = released
    folder = api.convert(path, tmp_path / "hf", "huggingface")
    theirs = transformers.DetrForObjectDetection.from_pretrained(folder).eval()
    with torch.no_grad():
        output = theirs(batch.tensors, pixel_mask=(~batch.mask).long())
    torch.testing.assert_close(output.logits, reference.logits[-1], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(output.pred_boxes, reference.boxes_cxcywh[-1], rtol=0, atol=TOLERANCE)
    processor, sizes = transformers.AutoImageProcessor.from_pretrained(folder), torch.tensor(PICTURE_SIZES)
    expected = processor.post_process_object_detection(output, threshold=0.0, target_sizes=sizes)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.label_map == original.label_map
    with torch.no_grad():
        ours = checkpoint.model(batch.tensors, batch.mask)
    of_sizes = Batch(batch.tensors, batch.mask, sizes, (1, 2))
    for mine, their in zip(
        postprocess(ours, of_sizes, checkpoint.model.scoring, checkpoint.label_map), expected, strict=True
    ):
        assert torch.equal(mine.labels, their["labels"])
        torch.testing.assert_close(mine.boxes_xyxy, their["boxes"], rtol=0, atol=TOLERANCE * max(sizes.flatten()))
    again = checkpoint.model.state_dict()  # the 92-column head too
    assert all(torch.equal(tensor, again[name]) for name, tensor in original.model.state_dict().items())


def test_results_carry_coco_names_and_raw_ids(released):
    _, _, _, checkpoint = released
    labels = checkpoint.label_map
    raw = dict(zip(labels.category_ids, labels.names))
    assert (raw[1], raw[13], raw[17], raw[44], raw[90]) == ("person", "stop sign", "cat", "bottle", "toothbrush")
    assert sum(category_id is not None for category_id in labels.category_ids) == 80
    picture = Image.effect_noise((160, 120), 80).convert("RGB")
    small = replace(checkpoint, preprocessing=replace(checkpoint.preprocessing, image_size=150, max_size=250))
    detections = Detector.of_checkpoint(small, "cpu").predict(picture, threshold=0.0)
    assert 0 < len(detections) <= 100
    assert None not in detections.category_ids
    assert {entry["name"] for entry in detections.to_coco()} <= set(raw.values()) - {"N/A"}


def test_padding_changes_a_picture_and_our_inference_has_none(released):
    """What facebookresearch/detr#239 is about: a convolution sees padding where the picture's own border would be."""
    _, batch, _, checkpoint = released
    detector = Detector.of_checkpoint(checkpoint, "cpu")
    first = batch.tensors[:1, :, : PICTURE_SIZES[0][0], : PICTURE_SIZES[0][1]]
    with torch.no_grad():
        alone = detector.model(first, None).logits[-1]
        in_company = detector.model(batch.tensors, batch.mask).logits[-1, :1]
    assert (alone - in_company).abs().max() > 100 * TOLERANCE
    small = replace(checkpoint, preprocessing=replace(checkpoint.preprocessing, image_size=150, max_size=250))
    detector = Detector.of_checkpoint(small, "cpu")
    pictures = [Image.effect_noise((width, height), 80).convert("RGB") for height, width in PICTURE_SIZES]
    for single, picture in zip(detector.predict(pictures, threshold=0.0, batch_size=2), pictures):
        same = detector.predict(picture, threshold=0.0)
        torch.testing.assert_close(single.boxes_xyxy, same.boxes_xyxy, rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def small(official):
    return official.build_model(SMALL, 5)


def test_stored_arguments_win_over_the_name(small, tmp_path):
    path = tmp_path / "mine-dc5.pth"
    arguments = argparse.Namespace(nheads=4, dilation=False, dropout=0.0, pre_norm=False, lr=1e-4)
    torch.save({"model": small.state_dict(), "args": arguments, "epoch": 3}, path)
    config = load_checkpoint(path).config.model
    assert (config.num_heads, config.output_stride, config.dropout, config.num_queries) == (4, 32, 0.0, 10)
    assert load_checkpoint(path, dc5=True).config.model.output_stride == 16
    assert load_checkpoint(path).label_map.names[4] == "class 4"


def test_what_a_name_does_not_tell_convert_says_once_for_all(small, tmp_path, capsys):
    path = tmp_path / "mine.pth"
    torch.save({"model": small.state_dict()}, path)
    assert load_checkpoint(path).config.model.output_stride == 32
    assert "opendetr convert mine.pth DIR --to opendetr --dc5" in " ".join(capsys.readouterr().out.split())
    converted = api.convert(path, tmp_path / "converted", "opendetr", dc5=True)
    assert load_checkpoint(converted).config.model.output_stride == 16
    released = RELEASES["detr-r50-dc5"]  # whose name is certain: there is nothing to say
    assert architecture(small.state_dict(), {}, released, None)[1][-1] == "stride 16 (DC5): the file name"


def test_stored_arguments_come_back_and_decide_the_loss(small, tmp_path):
    arguments = argparse.Namespace(
        nheads=4, dilation=False, dropout=0.0, lr=2e-4, lr_backbone=1e-5, dataset_file="coco", eos_coef=0.5,
        aux_loss=False, bbox_loss_coef=3.0, output_dir=Path("runs/mine"), resume="", pre_norm=False,
    )  # fmt: skip
    torch.save({"model": small.state_dict(), "args": arguments}, tmp_path / "mine.pth")
    loss = load_checkpoint(tmp_path / "mine.pth").config.loss
    assert (loss.no_object_weight, loss.l1_weight, loss.auxiliary, loss.giou_weight) == (0.5, 3.0, False, 2.0)
    native = api.convert(tmp_path / "mine.pth", tmp_path / "native", "opendetr")
    written = api.convert(native, tmp_path / "out", "official")
    again = vars(torch.load(written / "checkpoint.pth", weights_only=False)["args"])
    assert {name: again[name] for name in vars(arguments)} == vars(arguments) | {"output_dir": "runs/mine"}
    assert "labels" not in again["opendetr"]  # no names were told, and none are made up
    assert load_checkpoint(written).origin.labels == "names assumed"


def test_a_panoptic_checkpoint_gives_its_boxes(official, small, tmp_path):
    state = {f"detr.{name}": tensor for name, tensor in official.build_model(SMALL, 250).state_dict().items()}
    torch.save({"model": {**state, "mask_head.lay1.weight": torch.zeros(1)}}, tmp_path / "panoptic.pth")
    found = load_checkpoint(tmp_path / "panoptic.pth")
    assert any("masks are not read" in remark for remark in found.origin.read)
    labels = found.label_map
    assert labels.num_classes == 250
    assert (labels.names[1], labels.names[90]) == ("person", "toothbrush")
    assert labels.category_ids[12:15] == (None, 13, 14)
    assert set(labels.category_ids[91:]) == {None}  # stuff


class Code:
    def __reduce__(self):
        return (print, ("this must never be printed",))


DAMAGES = {
    "truncated": "is damaged, or no checkpoint", "not a checkpoint": "is damaged, or no checkpoint",
    "code": r"asks for code to be run, \S*print, and is refused; .* weights_only=False",
    "code of protocol 4": r"asks for code to be run, \S*print, and is refused",
    "TorchScript": "is a program of TorchScript", "no weights": "holds no weights",
    "missing": r"2 missing: backbone.0.body.layer1.0.bn1.bias, transformer.encoder.layers.1.linear1.weight$",
    "many missing": r"68 missing: (\S+, ){19}\S+ and 48 more$",
    "shape": r"1 of another shape: bbox_embed.layers.0.weight \[3, 3\] instead of \[32, 32\]",
    "scalar": "is damaged, or of no DETR", "arguments": "is damaged, or of no DETR",
}  # fmt: skip


def damaged(damage, model, path):
    """A file that is no checkpoint."""
    state, content = dict(model.state_dict()), {}
    if damage == "missing":
        del state["transformer.encoder.layers.1.linear1.weight"], state["backbone.0.body.layer1.0.bn1.bias"]
    if damage == "many missing":
        state = {name: tensor for name, tensor in state.items() if not re.search(r"\.bn\d\.", name)}
    if damage == "shape":
        state["bbox_embed.layers.0.weight"] = torch.zeros(3, 3)
    if damage == "scalar":
        state["class_embed.weight"] = torch.tensor(1.0)
    if damage == "arguments":
        content["args"] = argparse.Namespace(nheads="many")
    whole = {"no weights": {"model": {"a": 1}}}.get(damage, {"model": state} | content)
    if damage.startswith("code"):
        whole = {"model": Code()}
    torch.save(whole, path, pickle_protocol=4 if damage.endswith("4") else 2)
    if damage == "TorchScript":
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    if damage == "not a checkpoint":
        path.write_text("hello")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_checkpoint_is_one_sentence_code_2_and_nothing_written(small, tmp_path, monkeypatch, capfd, damage):
    path = tmp_path / "broken.pth"
    damaged(damage, small, path)
    monkeypatch.setattr("sys.argv", ["opendetr", "convert", str(path), str(tmp_path / "out"), "--to", "huggingface"])
    warnings.simplefilter("always")  # as they would come on the command line; pytest puts the filters back
    monkeypatch.setattr(warnings, "showwarning", lambda *found, **_: print(found[0], file=sys.stderr))
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capfd.readouterr()
    assert ended.value.code == 2
    assert err.count("\n") == 1, err
    assert "broken.pth" in err
    assert "\033" not in err
    assert re.search(DAMAGES[damage], err.strip()), err
    assert "never be printed" not in out
    assert [found.name for found in tmp_path.iterdir()] == ["broken.pth"]


def test_mistakes_of_our_own_are_not_called_damage(small, tmp_path, monkeypatch):
    def mistaken(*_):
        raise KeyError("ours")

    torch.save({"model": small.state_dict()}, tmp_path / "good.pth")
    monkeypatch.setattr("opendetr.checkpoints.official.build_model", mistaken)
    with pytest.raises(KeyError, match="ours"):
        load_checkpoint(tmp_path / "good.pth")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("detr-r5O", "did you mean 'detr-r50'"), ("detr.pth", "did you mean 'detr-r50'"),
        ("detr-r101-dc.pth", "did you mean 'detr-r101-dc5'"), ("some/model.safetensors", "give the folder it lies in"),
    ],
)  # fmt: skip
def test_a_name_that_is_nearly_right(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "model.safetensors").touch()
    (tmp_path / "some" / "config.toml").touch()
    with pytest.raises(UserError, match=said):
        load_checkpoint(name)


def test_91_classes_are_said_to_be_taken_for_coco(released):
    assert "91 classes: taken for COCO's" in released[3].origin.read


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"position_encoding": "none"}, "it knows sine or learned"),
        ({"feedforward_dim": 0}, "without feed-forward"),
        ({"backbone": "resnet50d.ra2_in1k"}, "it knows resnet18 to 152"),
        ({"query_source": "selected", "scoring": "focal"}, "it knows learned"),
    ],
)
def test_a_model_that_the_official_code_does_not_know_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        require_official_model(ModelConfig(**changes))
