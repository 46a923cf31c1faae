"""Begin with a trained model: with both recipes, frozen parts, new heads; then resume, convert and load again."""

import json

import pytest
import torch

from opendetr import Detector, api
from opendetr.checkpoints.loading import load_checkpoint
from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.official import labels_of, save_official
from opendetr.config import ModelConfig, load_recipe
from opendetr.data.transforms import Preprocessing
from opendetr.errors import UserError
from opendetr.model.detr import build_model

SMALL = ModelConfig(
    backbone="resnet18.tv_in1k", embed_dim=32, num_heads=4, num_encoder_layers=1, num_decoder_layers=2,
    feedforward_dim=64, num_queries=12, dropout=0.0,
)  # fmt: skip
QUICK = {"epochs": 1, "batch_size": 8, "image_size": 64, "workers": 0, "device": "cpu", "precision": "fp32"}


def checkpoint_of(num_classes, tmp_path):
    torch.manual_seed(0)
    recipe = load_recipe("paper")
    model = build_model(SMALL, recipe.loss, num_classes).eval()
    preprocessing = Preprocessing(64, 106, (0.5,) * 3, (0.5,) * 3)
    config = type(recipe)(model=SMALL, data=recipe.data, loss=recipe.loss, train=recipe.train)
    return Checkpoint(model, config, labels_of(num_classes), preprocessing, {}, tmp_path)


@pytest.fixture(scope="module")
def official_file(tmp_path_factory):
    """A `.pth` with COCO's 91 classes."""
    folder = tmp_path_factory.mktemp("official")
    return save_official(checkpoint_of(91, folder), folder)


@pytest.fixture(scope="module")
def huggingface_folder(official_file, tmp_path_factory):
    return api.convert(official_file, tmp_path_factory.mktemp("hf") / "model", "huggingface")


@pytest.mark.parametrize("recipe", ["paper", "fast"])
@pytest.mark.parametrize("source", ["official_file", "huggingface_folder"])
def test_a_run_begins_with_the_trained_weights(request, digits, tmp_path, source, recipe):
    source = request.getfixturevalue(source)
    frozen = {"freeze": ("backbone", "encoder", "input_proj")}
    run = api.train(digits, init=source, new_head=True, recipe=recipe, output=tmp_path / "run", **frozen, **QUICK)
    begun, learned = load_checkpoint(source).model.state_dict(), load_checkpoint(run).model.state_dict()
    for name, tensor in begun.items():
        if name.startswith(("backbone", "transformer.encoder", "input_proj")):
            assert torch.equal(learned[name], tensor), name
    moved = [
        name
        for name in begun
        if begun[name].shape == learned[name].shape and not torch.equal(begun[name], learned[name])
    ]
    assert any(name.startswith("transformer.decoder") for name in moved)
    assert learned["class_embed.weight"].shape[0] == 10 + 1
    assert load_checkpoint(run).label_map.names == tuple("0123456789")


@pytest.mark.parametrize("recipe", ["paper", "fast"])
@pytest.mark.parametrize("source", ["official_file", "huggingface_folder"])
def test_resumed_converted_and_loaded_again_it_says_the_same(request, digits, tmp_path, source, recipe):
    begun = request.getfixturevalue(source)
    run = api.train(digits, init=begun, new_head=True, recipe=recipe, output=tmp_path / "run", **QUICK)
    api.train(resume=run, epochs=2)
    picture = sorted((digits / "images").glob("test_*.png"))[0]
    expected = Detector.load(run, device="cpu").predict(picture, threshold=0.0)
    for form in ("huggingface", "official", "opendetr"):
        again = Detector.load(api.convert(run, tmp_path / form, form), device="cpu").predict(picture, threshold=0.0)
        torch.testing.assert_close(again.boxes_xyxy, expected.boxes_xyxy)
        torch.testing.assert_close(again.scores, expected.scores)
        assert again.names == expected.names


def test_without_a_new_head_the_categories_must_be_known(digits, official_file, tmp_path):
    with pytest.raises(UserError, match=r"or give the model a new class head with --num-classes-from data"):
        api.train(digits, init=official_file, recipe="paper", output=tmp_path / "run", **QUICK)


def test_the_head_is_kept_where_the_model_knows_the_categories(coco_folder, official_file, tmp_path):
    data = coco_folder((1, 2, 1, 2), names=("person", "bicycle", "car"))
    options = QUICK | {"batch_size": 2}
    run = api.train(data, init=official_file, recipe="paper", output=tmp_path / "run", **options)
    checkpoint = load_checkpoint(run)
    assert checkpoint.label_map.num_classes == 91
    assert checkpoint.label_map.names[3] == "car"
    api.train(resume=run, epochs=2)


def test_fewer_queries_are_the_first_ones(digits, official_file, tmp_path, capsys):
    run = api.train(
        digits, init=official_file, new_head=True, recipe="paper", output=tmp_path / "run", freeze=("decoder",),
        overrides=["model.num_queries=5"], **QUICK,
    )  # fmt: skip
    kept = load_checkpoint(run).model.query_embed.weight
    assert torch.equal(kept, load_checkpoint(official_file).model.query_embed.weight[:5])
    said = capsys.readouterr().out
    assert "query_embed.weight: the first 5 of 12 queries are kept" in said
    assert "class_embed.weight: fresh, for 10 classes instead of 91" in said


def test_an_architecture_with_weights_is_not_changed(digits, official_file, tmp_path):
    for change in ("model.num_encoder_layers=3", "model.pre_norm=true", "model.embed_dim=64", "model.output_stride=16"):
        with pytest.raises(UserError, match="--init brings its own architecture"):
            api.train(digits, init=official_file, new_head=True, overrides=[change], output=tmp_path / "run", **QUICK)
    with pytest.raises(UserError, match="leave out --preset, --backbone and its weights"):
        api.train(digits, init=official_file, backbone_weights="none", output=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


def test_a_frozen_backbone_keeps_its_statistics(digits, tmp_path):
    """Batch norm that learns, as of a backbone from random weights: fixed weights alone would not fix it."""
    first = api.train(
        digits, recipe="paper", preset="detr-tiny", backbone_weights="none", output=tmp_path / "first", **QUICK
    )
    begun = load_checkpoint(first).model.state_dict()
    assert any("running_mean" in name for name in begun)
    run = api.train(digits, init=first, freeze=("backbone",), recipe="paper", output=tmp_path / "run", **QUICK)
    learned = load_checkpoint(run).model.state_dict()
    fixed = {name for name in begun if name.startswith("backbone") and not name.endswith("num_batches_tracked")}
    assert all(torch.equal(learned[name], begun[name]) for name in fixed)
    with pytest.raises(UserError, match=r"train.freeze cannot change within a run"):
        api.train(resume=run, freeze=("encoder",), epochs=2)


def test_what_cannot_be_frozen(digits, official_file, tmp_path):
    output = tmp_path / "run"
    with pytest.raises(UserError, match=r"--freeze encoder .* would fix random weights"):
        api.train(digits, recipe="paper", preset="detr-tiny", freeze=("encoder",), output=output, **QUICK)
    everything = ("backbone", "input_proj", "encoder", "decoder", "heads")
    with pytest.raises(UserError, match="leaves nothing to learn"):
        api.train(digits, init=official_file, new_head=True, freeze=everything, output=output, **QUICK)


def test_unknown_parts_and_mixed_requests(digits, official_file, tmp_path):
    with pytest.raises(UserError, match=r"freeze must be a list of backbone"):
        api.train(digits, init=official_file, new_head=True, freeze=("head",), output=tmp_path / "run", **QUICK)
    with pytest.raises(UserError, match=r"--init brings its own architecture"):
        api.train(digits, init=official_file, preset="detr-r50", output=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


def test_the_run_says_what_it_began_with(digits, official_file, tmp_path):
    run = api.train(digits, init=official_file, new_head=True, recipe="fast", output=tmp_path / "run", **QUICK)
    assert json.loads((run / "last" / "metrics.json").read_text())["backbone_weights"] == str(official_file)
    assert load_checkpoint(run).config.train.init == str(official_file)
    assert load_checkpoint(run).config.loss.denoising_queries == 0


@pytest.mark.parametrize("recipe", ["paper", "fast"])
def test_real_pictures(test_data, official_file, tmp_path, recipe):
    run = api.train(
        test_data / "bccd", init=official_file, new_head=True, recipe=recipe, output=tmp_path / "run", val_split="none",
        minutes=0.05, image_size=64, device="cpu", workers=0, batch_size=4,
    )  # fmt: skip
    assert load_checkpoint(run).label_map.names == ("RBC", "WBC", "Platelets")
