"""Weights at the doors of every command: not finite, of a newer version, from a trainer's file without a config."""

import argparse
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from opendetr import Detector, api
from opendetr.checkpoints.adapt import begin_with
from opendetr.checkpoints.huggingface import save_huggingface
from opendetr.checkpoints.huggingface_names import from_ours
from opendetr.checkpoints.imagenet import build_pretrained_model
from opendetr.checkpoints.loading import load_checkpoint, load_model
from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.official import labels_of
from opendetr.checkpoints.official_names import official_name
from opendetr.checkpoints.origin import NO_HEAD, Origin
from opendetr.config import ModelConfig
from opendetr.data.transforms import Preprocessing
from opendetr.errors import UserError
from opendetr.explanation.look import look
from opendetr.model.build import build_model
from opendetr.recipes.recipe import load_recipe
from opendetr.training.start import _new_config
from opendetr.version import __version__

STORED = Path(__file__).parents[1] / "contracts" / "stored" / "run-of-dd1bd25"
PICTURES = STORED / "pictures"
ONE = PICTURES / "images" / "val-1.png"
SMALL = ModelConfig(
    backbone="resnet18.tv_in1k", embed_dim=32, num_heads=8, num_encoder_layers=1, num_decoder_layers=1,
    feedforward_dim=32, num_queries=5, dropout=0.0,
)  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run folder of an earlier version, which tells none."""
    return Path(shutil.copytree(STORED / "run", tmp_path / "run"))


@pytest.fixture(scope="module")
def small():
    """A model of the paper's kind, on a ResNet."""
    torch.manual_seed(0)
    recipe = load_recipe("paper")
    model = build_model(SMALL, recipe.loss, 3).eval()
    preprocessing = Preprocessing(64, 106, (0.5,) * 3, (0.5,) * 3)
    return Checkpoint(model, replace(recipe, model=SMALL), labels_of(3), preprocessing, Origin(), Path())


def official(checkpoint):
    return {official_name(name): tensor for name, tensor in checkpoint.model.state_dict().items()}


def spoil(run, value, name="class_embed.weight"):
    path = run / "last" / "model.safetensors"
    state = load_file(path)
    state[name][0, 0] = value
    save_file(state, path)


DOORS = {
    "load": lambda model, out: Detector.load(model),
    "predict": lambda model, out: api.predict(model, [str(ONE)], out),
    "val": lambda model, out: api.val(model, PICTURES),
    "explain": lambda model, out: api.explain(model, [str(ONE)], out),
    "info": lambda model, out: api.info(model),
    "convert": lambda model, out: api.convert(model, out, "opendetr"),
    "export": lambda model, out: api.export(model, out / "x.onnx"),
    "init": lambda model, out: api.train(PICTURES, init=model, output=out),
    "resume": lambda model, out: api.train(PICTURES, resume=model, epochs=9),
}


@pytest.mark.parametrize("door", DOORS)
def test_weights_that_are_no_numbers_are_refused_by_name(run, tmp_path, door):
    spoil(run, float("nan"))
    with pytest.raises(
        UserError, match=r"last/model\.safetensors holds weights that are no finite .* class_embed\.weight"
    ):
        DOORS[door](run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_training_state_that_is_no_number_is_refused_by_name(run):
    path = run / "last" / "training.pt"
    state = torch.load(path)
    state["optimizer"]["state"][3]["exp_avg"].view(-1)[0] = float("inf")
    torch.save(state, path)
    with pytest.raises(UserError, match=r"training\.pt holds weights .* optimizer\.state\.3\.exp_avg"):
        api.train(PICTURES, resume=run, epochs=9)


def test_files_of_weights_that_are_no_numbers_are_refused_under_their_names(small, tmp_path):
    state = official(small) | {"bbox_embed.layers.2.bias": torch.full((4,), float("inf"))}
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth holds .* 4 of the 4 values of module\.bbox_embed\.layers\.2\.bias"):
        load_checkpoint(tmp_path / "x.pth")


NO_PLAIN_TENSORS = {
    "float8_e4m3fn, is not known": lambda tensor: tensor.to(torch.float8_e4m3fn),
    "is without values": lambda tensor: tensor.to("meta"),
    "is sparse": lambda tensor: tensor.to_sparse(),
    "is quantised": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore")  # of torch, of what it will give up
@pytest.mark.parametrize("expected", NO_PLAIN_TENSORS)
def test_tensors_of_another_kind_are_refused_by_name(small, run, tmp_path, expected):
    """In a file of weights, in the state of a training, as a backbone."""
    state, name = official(small), "backbone.0.body.layer1.0.conv1.weight"
    state[name] = NO_PLAIN_TENSORS[expected](state[name])
    torch.save({"model": state}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=rf"x\.pth: .*{re.escape(name)}.*{expected}"):
        load_checkpoint(tmp_path / "x.pth")
    inner = {key.removeprefix("backbone.0.body."): value for key, value in state.items() if "backbone.0" in key}
    torch.save(inner, tmp_path / "backbone.pth")
    model = replace(SMALL, backbone_weights=str(tmp_path / "backbone.pth"))
    with pytest.raises(UserError, match=rf"backbone\.pth: .*layer1.0.conv1.*{expected}"):
        build_pretrained_model(model, small.config.loss, 3)
    path = run / "last" / "training.pt"
    training = torch.load(path)
    training["optimizer"]["state"][3]["exp_avg"] = NO_PLAIN_TENSORS[expected](torch.ones(2, 2))
    torch.save(training, path)
    with pytest.raises(UserError, match=rf"training\.pt: .*optimizer\.state\.3\.exp_avg.*{expected}"):
        api.train(PICTURES, resume=run, epochs=9)


def test_a_model_without_queries_is_refused(small, run, tmp_path):
    torch.save({"model": official(small) | {"query_embed.weight": torch.zeros(0, 32)}}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth: 'query_embed\.weight' has no object queries"):
        load_checkpoint(tmp_path / "x.pth")
    config = run / "last" / "config.toml"
    config.write_text(re.sub("num_queries = .*", "num_queries = 0", config.read_text()))
    with pytest.raises(UserError, match=r"model\.num_queries is 0"):
        load_checkpoint(run)


@pytest.mark.parametrize("side", [20_001, 10**6, 10**30])
def test_sizes_of_pictures_are_bounded(small, side):
    values = small.preprocessing.to_json() | {"pad_size": [200, side]}
    with pytest.raises(ValueError, match="pad_size must be at most 20000 pixels"):
        Preprocessing.from_json(values)
    with pytest.raises(UserError, match="--image-size must be at most 20000"):
        small.preprocessing.resized(side)
    framed = replace(small.preprocessing, pad_size=(200, 200))
    with pytest.raises(UserError, match="--image-size 20000 makes the model's pad_size"):
        framed.resized(20_000)


@pytest.mark.parametrize("tile", [None, 40])
def test_answers_that_are_no_numbers_end_in_a_sentence(run, tmp_path, tile):
    spoil(run, 3e38)  # finite: what is computed with it is not
    spoil(run, 3e38, "bbox_embed.layers.0.weight")
    spoil(run, -3e38, "bbox_embed.layers.1.weight")
    said = r"the engine torch in fp32 gives \d+ of \d+ answers for a picture that are no finite numbers"
    detector = Detector.load(run, "cpu", "torch")
    detector.model.class_embed.bias.data.fill_(float("nan"))
    with pytest.raises(UserError, match=said):
        detector.predict(str(ONE), threshold=1.0)  # which NaN never reaches
    with pytest.raises(UserError, match=said):
        look(detector, Image.open(ONE).convert("RGB"))
    monkey = pytest.MonkeyPatch()
    monkey.setattr("opendetr.api.detection.Detector.load", lambda *_, **__: detector)
    with monkey.context(), pytest.raises(UserError, match=said):
        api.predict(run, [str(ONE)], tmp_path / "out", tile=tile)
    monkey.undo()


def said_by_newer(run, **sections):
    """The run as a newer version would have written it."""
    for path in (run / "config.toml", run / "last" / "config.toml"):
        text = path.read_text()
        for section, line in sections.items():
            text = text.replace(f"[{section}]\n", f"[{section}]\n{line}\n")
        path.write_text(text)
    path = run / "last" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": "9.1.0"}))


def test_folders_tell_the_version_that_wrote_them(run, tmp_path):
    copied = api.convert(run, tmp_path / "copy", "opendetr")
    assert json.loads((copied / "metrics.json").read_text())["version"] == __version__


def test_a_newer_run_is_used_where_only_training_has_news(run, tmp_path, capsys):
    expected = load_checkpoint(run).model.state_dict()
    said_by_newer(run, train="muon_momentum = 0.9", loss="dice_weight = 1.0", data="mosaic = 0.5")
    found = load_checkpoint(run).model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    said = " ".join(capsys.readouterr().out.split())
    assert all(
        name in said for name in ("train.muon_momentum", "loss.dice_weight", "data.mosaic", "9.1.0", __version__)
    )
    with pytest.raises(UserError, match=rf"unknown key .*written by opendetr 9\.1\.0, and this is {__version__}"):
        api.train(PICTURES, resume=run, epochs=9)


@pytest.mark.parametrize("where", ["model", "preprocessing", "section"])
def test_a_newer_model_is_refused_with_both_versions(run, where):
    said_by_newer(run, **({"model": "gated = true"} if where == "model" else {}))
    if where == "preprocessing":
        path = run / "last" / "preprocessing.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"letterbox": True}))
    if where == "section":
        path = run / "last" / "config.toml"
        path.write_text(path.read_text() + "\n[tokens]\nsize = 3\n")
    named = {"model": "model.gated", "preprocessing": "letterbox", "section": "tokens"}[where]
    said = rf"{named}.*written by opendetr 9\.1\.0, and this is {re.escape(__version__)}"
    with pytest.raises(UserError, match=said) as caught:
        load_checkpoint(run)
    assert "is damaged" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model-00001-of-00002.bin", "model-00001-of-00002.safetensors", "config.json",
        "model.safetensors.index.json", "pytorch_model.bin.index.json",
    ],
)  # fmt: skip
def test_a_part_of_a_model_is_told_from_the_whole(tmp_path, name):
    path = tmp_path / name
    path.write_text("{}")
    with pytest.raises(
        UserError, match=rf"{name} (is one piece|holds no weights).*folder.* {re.escape(str(tmp_path))}$"
    ):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["", "adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_is_told_from_a_model(tmp_path, name):
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"base_model.model.a.lora_A.weight": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"is an adapter of PEFT \(LoRA\)"):
        load_checkpoint(tmp_path / name)


def test_the_output_folder_of_a_trainer_names_its_newest_checkpoint(small, tmp_path):
    for step in (500, 1000):
        (tmp_path / f"checkpoint-{step}").mkdir()
    with pytest.raises(UserError, match=r"holds no model itself.* the newest is \S+checkpoint-1000$"):
        load_checkpoint(tmp_path)
    save_huggingface(small, tmp_path / "whole")
    (tmp_path / "whole" / "checkpoint-500").mkdir()
    assert load_checkpoint(tmp_path / "whole").label_map.num_classes == 3


def test_an_unknown_key_of_this_version_stays_an_error(run):
    path = run / "last" / "config.toml"
    path.write_text(path.read_text().replace("[train]\n", "[train]\nmuon = 1\n"))
    with pytest.raises(UserError, match=r"unknown key 'train\.muon'"):
        load_checkpoint(run)


def test_a_file_of_lightning_is_read_as_far_as_weights_tell(small, tmp_path, capsys):
    theirs = from_ours(small.model.state_dict())
    content = {
        "state_dict": {f"model.{name}": tensor.double() for name, tensor in theirs.items()}, "epoch": 3,
        "pytorch-lightning_version": "2.0.1", "hyper_parameters": {"lr": 1e-4}, "callbacks": {}, "optimizer_states": [],
    }  # fmt: skip
    torch.save(content, tmp_path / "last.ckpt")
    found = load_checkpoint(tmp_path / "last.ckpt")
    assert (found.config.model.num_heads, found.config.model.num_queries, found.label_map.num_classes) == (8, 5, 3)
    out = " ".join(capsys.readouterr().out.split())
    assert "8 attention heads: assumed; if it is wrong, say so: opendetr convert last.ckpt DIR --to opendetr" in out
    assert "of float64: rounded to float32" in out
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(found.model(picture).logits, small.model(picture).logits)
    # With the config of its folder, beside the file or by `state`, nothing is assumed.
    folder = save_huggingface(small, tmp_path / "folder")
    shutil.copy(tmp_path / "last.ckpt", folder / "last.ckpt")
    assert "from config.json" in " ".join(load_checkpoint(folder / "last.ckpt").origin.read)
    model = load_model(folder, state=content["state_dict"])
    assert torch.equal(model.class_embed.weight, small.model.class_embed.weight)


def test_the_weights_of_a_model_folder_do_not_tell_the_whole_model(small, tmp_path):
    """Nor where their layers look as usual: scoring, strides, positions and sizes are in the config."""
    save_file(small.model.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"weights\.safetensors holds weights of opendetr.* give the model folder"):
        load_checkpoint(tmp_path / "weights.safetensors")


def test_heads_are_said_where_a_file_does_not_tell_them(small, tmp_path):
    torch.save(official(small), tmp_path / "x.pth")
    converted = api.convert(tmp_path / "x.pth", tmp_path / "converted", "opendetr", heads=4)
    assert load_checkpoint(converted).config.model.num_heads == 4
    for heads in (0, 5, 64):
        with pytest.raises(UserError, match=rf"--heads {heads}: x\.pth is 32 wide; expected a divisor"):
            load_checkpoint(tmp_path / "x.pth", heads=heads)
    with pytest.raises(UserError, match="says itself how many attention heads it has: leave out --heads"):
        load_checkpoint(converted, heads=4)


def test_a_class_head_that_was_deleted_is_made_for_the_data_alone(small, tmp_path):
    state = {name: tensor for name, tensor in official(small).items() if not name.startswith("class_embed")}
    torch.save({"model": state, "args": argparse.Namespace(nheads=8)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth has no class head .* --init x\.pth --num-classes-from data"):
        load_checkpoint(tmp_path / "x.pth")
    assert load_checkpoint(tmp_path / "x.pth", without_head=True).origin.labels == NO_HEAD
    given = {"train.init": str(tmp_path / "x.pth"), "train.new_head": True}
    config, trained = _new_config(given, "paper", None, None, ())
    begun, remarks = begin_with(trained, config, labels_of(7), new_head=True)
    assert begun.class_embed.weight.shape == (8, 32)
    assert torch.equal(begun.bbox_embed.layers[0].weight, small.model.bbox_embed.layers[0].weight)
    assert "class_embed.weight: fresh, for 7 classes" in remarks
    folder = save_huggingface(small, tmp_path / "folder")
    state = load_file(folder / "model.safetensors")
    rest = {name: tensor for name, tensor in state.items() if not name.startswith("class_labels_classifier")}
    save_file(rest, folder / "model.safetensors")
    with pytest.raises(UserError, match="has no class head"):
        load_checkpoint(folder)
    assert load_checkpoint(folder, without_head=True).origin.labels == NO_HEAD


def test_masks_on_own_classes_are_not_called_coco(small, tmp_path):
    state = {f"detr.{name}": tensor for name, tensor in official(small).items()}
    torch.save({"model": state | {"mask_head.lay1.weight": torch.zeros(1)}}, tmp_path / "x.pth")
    origin = load_checkpoint(tmp_path / "x.pth").origin
    assert origin.labels == "names assumed"
    assert "3 classes: their names are not in the file" in origin.read
    assert any("masks are not read" in remark for remark in origin.read)


def test_what_bare_weights_of_transformers_do_not_tell_is_said(small, tmp_path, capsys):
    torch.save({"state_dict": from_ours(small.model.state_dict())}, tmp_path / "last.ckpt")
    load_checkpoint(tmp_path / "last.ckpt")
    said = " ".join(capsys.readouterr().out.split())
    assert "activation: relu, assumed" in said
    assert "preprocessing: shorter side 800, longer at most 1333" in said


def test_an_argument_of_another_kind_is_no_dilation(small, tmp_path):
    content = official(small)
    content["args"] = argparse.Namespace(nheads=4, dilation="False")
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match="its argument dilation is 'False'; expected True or False"):
        load_checkpoint(tmp_path / "x.pth")
