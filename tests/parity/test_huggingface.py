"""Hugging Face's DETR beside ours: the same weights say the same, in both directions, under old and new names."""

import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file

import opendetr
from opendetr import api
from opendetr.checkpoints.card import model_card
from opendetr.checkpoints.families import PREPROCESSING
from opendetr.checkpoints.huggingface import save_huggingface
from opendetr.checkpoints.loading import load_checkpoint
from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.official import labels_of
from opendetr.checkpoints.origin import Origin
from opendetr.cli import main
from opendetr.errors import UserError
from opendetr.inference.detector import Detector
from opendetr.model.build import build_model
from opendetr.model.postprocess import postprocess
from opendetr.recipes.presets import PRESETS
from opendetr.recipes.recipe import load_recipe
from opendetr.structures import Batch

TOLERANCE = 1e-5
BACKBONES = {
    "timm": {"use_timm_backbone": True, "backbone": "resnet18"},
    "transformers": {
        "use_timm_backbone": False, "backbone": None, "backbone_config": {
            "model_type": "resnet", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512],
            "layer_type": "basic", "out_features": ["stage4"],
        },
    },
}  # fmt: skip
ARCHITECTURES = {  # the paper's four, and networks of timm: other stems, other norms, another number of stages
    "R50": {"backbone": "resnet50"},
    "R101": {"backbone": "resnet101"},
    "R50-DC5": {"backbone": "resnet50", "dilation": True},
    "R101-DC5": {"backbone": "resnet101", "dilation": True},
    "transformers' R50": {"use_timm_backbone": False, "backbone": None, "backbone_config": {
        "model_type": "resnet", "out_features": ["stage4"],
    }},
    "resnet26d": {"backbone": "resnet26d"},
    "batch norm of another eps, with activations": {"backbone": "test_efficientnet"},
    "no batch norm, four stages": {"use_timm_backbone": False, "backbone": None, "backbone_config": {
        "model_type": "timm_backbone", "backbone": "test_convnext", "features_only": True, "out_indices": [3],
        "use_pretrained_backbone": False,
    }},
}  # fmt: skip
REPEATED = ("R50", "R101", "R101-DC5")  # other sizes of R50-DC5 and of transformers' R50
LABELS = {0: "cat", 1: "dog", 2: "emu"}


def build(**network):
    """A `DetrForObjectDetection` that answers differently to every query and picture."""
    torch.manual_seed(0)
    config = transformers.DetrConfig(
        d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=10, id2label=LABELS,
        label2id={name: index for index, name in LABELS.items()}, **network,
    )  # fmt: skip
    model = transformers.DetrForObjectDetection(config).eval()
    spread(model, images())
    return model


@torch.no_grad()
def spread(model, images):
    """Random weights that answer differently to every query and picture."""
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1 and name.endswith(("weight", "running_var")):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim == 1 and tensor.is_floating_point():
            tensor.normal_(0, 0.1)
        elif tensor.ndim == 2:  # theirs begin so small that every query answers alike
            torch.nn.init.xavier_uniform_(tensor)
    projection = model.model.input_projection
    features = []
    with projection.register_forward_hook(lambda module, args, output: features.append(output)):
        model(images)
    std, mean = torch.std_mean(features[0], dim=(0, 2, 3))
    projection.weight /= std[:, None, None, None]
    projection.bias.sub_(mean).div_(std)
    model.model.query_position_embeddings.weight.normal_(0, 3)
    for linear in (model.class_labels_classifier, *model.bbox_predictor.layers):
        linear.weight *= 2


@pytest.fixture(scope="module", params=BACKBONES)
def theirs(request):
    return build(**BACKBONES[request.param])


def images():
    return torch.randn(2, 3, 130, 170, generator=torch.Generator().manual_seed(0))


def masks():
    mask = torch.zeros(2, 130, 170, dtype=torch.bool)
    mask[1, 100:], mask[1, :, 120:] = True, True
    return mask


@torch.no_grad()
def answers(model, pictures, mask):
    output = model(pictures.masked_fill(mask[:, None], 0), pixel_mask=(~mask).long())
    return output.logits, output.pred_boxes


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("hf") / "model"
    theirs.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
    """A smaller model, for what the backbone has no part in."""
    path = tmp_path_factory.mktemp("hf") / "small"
    build(use_timm_backbone=True, backbone="test_resnet").save_pretrained(path)
    return path


def assert_same(ours, reference):
    pictures, mask = images(), masks()
    with torch.no_grad():
        found = ours(pictures.masked_fill(mask[:, None], 0), mask)
    for one, other in zip((found.logits[-1], found.boxes_cxcywh[-1]), reference):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)


def test_a_saved_folder_says_the_same(theirs, folder):
    reference = answers(theirs, images(), masks())
    for values in reference:  # agreement means something: queries answer differently
        assert torch.cdist(values, values, p=float("inf")).median(-1).values.min() > 1000 * TOLERANCE
    checkpoint = load_checkpoint(folder)
    assert checkpoint.label_map.names == ("cat", "dog", "emu")
    assert_same(checkpoint.model, reference)


def test_the_names_in_memory_are_known_too(theirs, folder):
    in_memory = theirs.state_dict()
    assert any(".o_proj." in name for name in in_memory)
    changed = {name: tensor + 1 if name.endswith("classifier.bias") else tensor for name, tensor in in_memory.items()}
    theirs_logits, boxes = answers(theirs, images(), masks())
    assert_same(opendetr.load_model(folder, state=changed), (theirs_logits + 1, boxes))  # and not the files'


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in REPEATED else []) for name in ARCHITECTURES]
)
def test_every_architecture_says_the_same_in_both_directions(name, tmp_path):
    theirs = build(**ARCHITECTURES[name])
    reference = answers(theirs, images(), masks())
    for values in reference:
        assert torch.cdist(values, values, p=float("inf")).median(-1).values.min() > 1000 * TOLERANCE
    theirs.save_pretrained(tmp_path / "theirs")
    native = api.convert(tmp_path / "theirs", tmp_path / "ours", "opendetr")
    for source in (tmp_path / "theirs", native):  # what decides the numbers survives our own form
        assert_same(opendetr.load_model(source), reference)
    assert_same(opendetr.load_model(tmp_path / "theirs", state=theirs.state_dict()), reference)

    checkpoint, sizes = load_checkpoint(native), torch.tensor([[130, 170], [100, 120]])
    with torch.no_grad():
        output = checkpoint.model(images().masked_fill(masks()[:, None], 0), masks())
    found = postprocess(output, Batch(images(), masks(), sizes, (1, 2)), checkpoint.model.scoring, checkpoint.label_map)
    expected = transformers.DetrImageProcessor().post_process_object_detection(
        SimpleNamespace(logits=reference[0], pred_boxes=reference[1]), threshold=0.0, target_sizes=sizes
    )
    for mine, their in zip(found, expected, strict=True):
        assert torch.equal(mine.labels, their["labels"])
        torch.testing.assert_close(mine.scores, their["scores"], rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(mine.boxes_xyxy, their["boxes"], rtol=0, atol=TOLERANCE * 170)

    written = api.convert(native, tmp_path / "out", "huggingface")
    again = transformers.DetrForObjectDetection.from_pretrained(written).eval()
    for one, other in zip(answers(again, images(), masks()), reference):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)
    before, after = (load_file(path / "model.safetensors") for path in (tmp_path / "theirs", written))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def test_what_was_read_is_printed(folder, capsys):
    load_checkpoint(folder)
    said = " ".join(capsys.readouterr().out.split())
    assert "resnet18.tv_in1k, 2 + 2 layers, 4 attention heads, stride 32: from config.json" in said
    assert "32 wide, 10 queries, 3 classes: from the weights; their names: from id2label" in said


def test_a_backbone_that_they_compute_otherwise_is_not_written(tmp_path):
    """transformers loses the activations that timm keeps in batch norm: no folding of eps would make it agree."""
    recipe = load_recipe("paper")
    small = replace(PRESETS["detr-small"], backbone="test_efficientnet", num_queries=3)
    model = build_model(small, recipe.loss, 3)
    checkpoint = Checkpoint(model, replace(recipe, model=small), labels_of(3), PREPROCESSING, Origin(), tmp_path)
    with pytest.raises(UserError, match="with the backbone test_efficientnet: it puts a plain batch norm of eps 1e-5"):
        save_huggingface(checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_written_config_tells_the_kind_of_the_weights(small_folder, tmp_path):
    shutil.copytree(small_folder, tmp_path / "in")
    half = {name: tensor.half() for name, tensor in load_file(small_folder / "model.safetensors").items()}
    save_file(half, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    written = api.convert(tmp_path / "in", tmp_path / "out", "huggingface")
    assert json.loads((written / "config.json").read_text())["torch_dtype"] == "float16"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rescale_factor": 1.0}, "rescale_factor = 1.0 cannot be computed here; expected 0.0039"),
        ({"resample": 1}, "resample = 1 cannot be computed here; expected 2 or 3"),
        ({"do_center_crop": True}, "do_center_crop = True cannot be computed here"),
        ({"do_rescale": False}, "do_rescale = False cannot be computed here"),
        ({"pad_size": {"height": 9, "width": 9}}, "pad_size"),
        ({"size": {"max_height": 800, "max_width": 1333}}, "expected shortest_edge and longest_edge"),
        ({"size": {"longest_edge": 400}}, "expected shortest_edge and longest_edge"),
        ({"size": "800"}, "expected shortest_edge and longest_edge"),
        ({"size": {"shortest_edge": "800", "longest_edge": 1333}}, "image_size must be a whole number of pixels"),
        ({"size": {"shortest_edge": -5, "longest_edge": 1333}}, "image_size must be .* got -5"),
        ({"image_std": [0, 0, 0]}, "std must be three numbers above 0"),
        ({"image_mean": [0.5]}, "mean must be three numbers, of red, green and blue"),
        ({"image_mean": 0.5}, "mean must be three numbers, of red, green and blue, got 0.5"),
    ],
)
def test_other_preprocessing_is_refused_by_name(small_folder, tmp_path, change, said):
    shutil.copytree(small_folder, tmp_path / "in")
    processor = {"size": {"shortest_edge": 400, "longest_edge": 600}, "do_pad": True, "resample": 2} | change
    (tmp_path / "in" / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(UserError, match=rf"preprocessor_config.json: .*{said}"):
        load_checkpoint(tmp_path / "in")


def test_they_read_what_we_write_without_a_warning(theirs, folder, tmp_path, recwarn, caplog):
    written = save_huggingface(load_checkpoint(folder), tmp_path / "out")
    transformers.utils.logging.enable_propagation()
    try:
        again, info = transformers.DetrForObjectDetection.from_pretrained(written, output_loading_info=True)
    finally:
        transformers.utils.logging.disable_propagation()
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert not [warning for warning in recwarn if "transformers" in warning.filename]
    for one, other in zip(answers(again.eval(), images(), masks()), answers(theirs, images(), masks())):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)
    assert again.config.id2label == {0: "cat", 1: "dog", 2: "emu"}


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_every_tensor_comes_back_bit_for_bit(folder, tmp_path, kind):
    shutil.copytree(folder, tmp_path / "in")
    original = {name: tensor.to(kind) for name, tensor in load_file(folder / "model.safetensors").items()}
    norm = next(name for name in original if name.endswith("running_mean"))
    original[norm.replace("running_mean", "num_batches_tracked")] = torch.tensor(7)  # older releases wrote these
    save_file(original, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    native = api.convert(tmp_path / "in", tmp_path / "ours", "opendetr")  # nothing is lost on the way through our form
    written = load_file(api.convert(native, tmp_path / "out", "huggingface") / "model.safetensors")
    assert written.keys() == original.keys()
    for name, tensor in original.items():
        assert written[name].dtype == tensor.dtype
        assert torch.equal(written[name], tensor), name


def test_a_panoptic_folder_gives_its_boxes(small_folder, tmp_path):
    shutil.copytree(small_folder, tmp_path / "in")
    state = {f"detr.{name}": tensor for name, tensor in load_file(small_folder / "model.safetensors").items()}
    save_file({**state, "mask_head.lay1.weight": torch.zeros(1)}, tmp_path / "in" / "model.safetensors")
    found = load_checkpoint(tmp_path / "in")
    assert any("masks are not read" in remark for remark in found.origin.read)
    expected = load_checkpoint(small_folder).model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.model.state_dict().items())


def test_the_card_says_what_is_known(small_folder, tmp_path):
    written = api.convert(small_folder, tmp_path / "out", "huggingface", licence="apache-2.0")
    card = ModelCard.load(written / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "object-detection"
    assert "Classes (3): cat, dog, emu" in card.text
    assert f"not by opendetr; read from {small_folder.name}" in card.text


def test_the_card_has_no_paths_of_this_machine_and_no_undefined_figures(small_folder, tmp_path):
    (tmp_path / "secret").mkdir()
    checkpoint = load_checkpoint(small_folder)
    last = {"epoch": 1.0, "step": 3, "seconds": 60.0}
    for said, shown in (
        ("the local cache (/home/me/.cache/hub/model.safetensors)", "the local cache"),
        (str(tmp_path / "secret" / "mine.pt"), "mine.pt"), ("secret/mine.pth", "mine.pth"), ("detr-r50", "detr-r50"),
        ("hf://someone/cells", "hf://someone/cells"),
    ):  # fmt: skip
        found = {"AP": -1.0, "AP50": 0.25, "AP75": -1.0}
        origin = Origin(data="/home/me/cells", training=last, val=found, backbone_weights=said)
        card = ModelCard(model_card(replace(checkpoint, origin=origin), "cells", None, "transformers"))
        assert f"began with {shown}\n" in card.text
        assert not any(word in str(card) for word in ("/home", "secret", "-1.0"))
        assert [(result.metric_type, result.metric_value) for result in card.data.eval_results] == [("AP50", 0.25)]
        assert "| AP | undefined |" in card.text


def test_thresholds_are_kept_in_the_config_and_said_by_the_card(small_folder, tmp_path):
    checkpoint = load_checkpoint(small_folder)
    assert checkpoint.origin.thresholds == ()
    own = tuple(0.25 + 0.125 * label for label in range(checkpoint.label_map.num_classes))
    checkpoint = replace(checkpoint, origin=replace(checkpoint.origin, thresholds=own))
    written = save_huggingface(checkpoint, tmp_path / "there")
    assert load_checkpoint(written).origin.thresholds == own
    assert "which opendetr uses where none is given: cat 0.25, dog 0.38" in model_card(checkpoint, "a", None, "code")
    config = json.loads((written / "config.json").read_text())
    config["opendetr"]["thresholds"] = [0.5]
    (written / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="'thresholds': expected"):
        load_checkpoint(written)


def test_the_hub_gets_the_whole_folder(small_folder, tmp_path, monkeypatch):
    sent = {}

    class Hub:
        def create_repo(self, name, private, exist_ok):
            return f"https://hub/{name}?private={private}"

        def upload_folder(self, folder_path, repo_id, commit_message):
            sent[repo_id] = sorted(path.name for path in folder_path.iterdir())

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    api.convert(small_folder, tmp_path / "out", "huggingface", push="me/cells")
    assert sent == {"me/cells": ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]}


def test_a_hub_that_refuses_is_a_sentence_and_the_folder_is_kept(small_folder, tmp_path, monkeypatch):
    class Hub:
        def create_repo(self, name, private, exist_ok):
            raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    with pytest.raises(UserError, match=r"'me/cells' on the Hugging Face hub does not take it \(no network\)"):
        api.convert(small_folder, tmp_path / "out", "huggingface", push="me/cells")
    assert load_checkpoint(tmp_path / "out").label_map.names == ("cat", "dog", "emu")


def test_a_folder_that_holds_something_is_left_alone(small_folder, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"exists and is not empty; give the name of a new folder"):
        api.convert(small_folder, tmp_path, "huggingface")
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_the_processor_is_theirs(small_folder, tmp_path):
    written = save_huggingface(load_checkpoint(small_folder), tmp_path / "out")
    processor = transformers.AutoImageProcessor.from_pretrained(written, use_fast=False)
    picture = Image.effect_noise((300, 200), 80).convert("RGB")
    expected = processor(picture, return_tensors="pt")["pixel_values"][0]
    ours = Detector.of_checkpoint(load_checkpoint(written), "cpu").prepare(picture)
    assert ours.shape == expected.shape
    assert float((ours - expected).abs().mean()) < 0.05  # two resize implementations


class Code:
    def __reduce__(self):
        return (print, ("this must never be printed",))


@pytest.mark.parametrize(
    "damage", ["truncated", "shape", "parts", "missing", "no weights", "no JSON", "squashing", "code"]
)
def test_damaged_folders_are_one_sentence_code_2_and_nothing_written(
    small_folder, tmp_path, monkeypatch, capfd, damage
):
    broken = tmp_path / "broken"
    shutil.copytree(small_folder, broken)
    weights, state = broken / "model.safetensors", load_file(broken / "model.safetensors")
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "shape":
        save_file({**state, "class_labels_classifier.bias": torch.zeros(9)}, weights)
    elif damage == "parts":
        save_file({**state, "model.encoder.layers.0.self_attn.k_proj.weight": torch.zeros(3, 5)}, weights)
    elif damage == "code":
        weights.unlink()
        torch.save({"a": Code()}, broken / "pytorch_model.bin", pickle_protocol=4)
    elif damage == "missing":
        save_file({name: tensor for name, tensor in state.items() if name != "model.decoder.layernorm.bias"}, weights)
    elif damage == "no weights":
        weights.unlink()
    elif damage == "no JSON":
        (broken / "config.json").write_text("{")
    else:
        (broken / "preprocessor_config.json").write_text('{"size": {"height": 480, "width": 480}}')
    sentence = {
        "truncated": "is damaged, or holds no weights", 
        "shape": r"1 of another shape: class_labels_classifier.bias \[9\] instead of \[4\]",
        "missing": "1 missing: model.decoder.layernorm.bias", "no weights": "holds no weights; expected",
        "no JSON": "cannot be read as JSON", "squashing": "expected shortest_edge and longest_edge",
        "parts": "is damaged, or of no DETR",
        "code": r"asks for code to be run, \S*print",
    }[damage]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["opendetr", "convert", str(broken), str(tmp_path / "out"), "--to", "official"])
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capfd.readouterr()
    assert ended.value.code == 2
    assert err.count("\n") == 1, err
    assert re.search(sentence, err), err
    assert "never be printed" not in out
    assert [found.name for found in tmp_path.iterdir()] == ["broken"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"id2label": None}, "no id2label"),
        (
            {"model_type": "yolos"},
            r"is of a YOLOS \(model_type 'yolos'\), another architecture than DETR; expected 'detr' or",
        ),
        ({"id2label": {str(n): str(n) for n in range(7)}}, "names 7 classes; the weights have 3"),
        ({"id2label": {"0": "cat"}}, "names 1 classes; the weights have 3"),
        ({"auxiliary_loss": True}, "auxiliary_loss = True cannot be computed here"),
        ({"decoder_attention_heads": 2}, "decoder_attention_heads = 2 cannot be computed here; expected 4"),
        ({"encoder_attention_heads": None, "decoder_attention_heads": None}, "is damaged, or of no DETR"),
        ({"opendetr": {"category_ids": 5}}, "is damaged, or of no DETR"),
    ],
)
def test_other_folders_are_refused(small_folder, tmp_path, change, sentence):
    config = json.loads((small_folder / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((small_folder / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=sentence):
        load_checkpoint(tmp_path)


def test_the_hub_by_name(small_folder, monkeypatch, tmp_path):
    asked = []

    def snapshot(repository, revision, allow_patterns):
        asked.append((repository, revision))
        return str(small_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    for name in ("hf://someone/cells", "someone/cells"):
        assert load_checkpoint(name).origin.source == name
    shutil.copytree(small_folder, tmp_path / "someone" / "cells")  # a path that exists wins
    load_checkpoint("someone/cells")
    load_checkpoint("hf://someone/cells")
    assert asked == [("someone/cells", None)] * 3
    for name in ("hf://someone/cells@v1.0", "someone/cells@refs/pr/1"):
        assert load_checkpoint(name).origin.source == name  # with the revision
    assert asked[3:] == [("someone/cells", "v1.0"), ("someone/cells", "refs/pr/1")]
    with pytest.raises(UserError, match=r"hf://someone/cells@: the revision is missing"):
        load_checkpoint("hf://someone/cells@")


def test_what_is_neither_here_nor_there_is_told_both_ways(monkeypatch, tmp_path):
    def snapshot(repository, revision, allow_patterns):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"is no folder here, and as a name on the Hugging Face hub .* \(no network\)"):
        load_checkpoint("someone/cells")
    with pytest.raises(UserError, match=r"^'someone/cells': on the Hugging Face hub it cannot be had"):
        load_checkpoint("hf://someone/cells")
    for path in ("models/detr.pth", "./mine/run", "../mine"):
        with pytest.raises(UserError, match="does not exist"):
            load_checkpoint(path)


def test_dc5_is_no_question_where_the_model_says_it(small_folder):
    with pytest.raises(UserError, match="leave out --dc5"):
        load_checkpoint(small_folder, dc5=True)
