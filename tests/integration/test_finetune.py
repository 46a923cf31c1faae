"""Begin with a trained model: with both recipes, frozen parts, new heads; then resume, convert and load again."""

import json
import shutil
from dataclasses import replace
from functools import cache

import pytest
import torch

from opendetr import Detector, api
from opendetr.checkpoints.adapt import begin_with, labels_on
from opendetr.checkpoints.huggingface import save_huggingface
from opendetr.checkpoints.loading import load_checkpoint
from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.official import labels_of, save_official
from opendetr.checkpoints.origin import Origin
from opendetr.config import ModelConfig
from opendetr.data.door import load_index
from opendetr.data.transforms import Preprocessing
from opendetr.errors import UserError
from opendetr.labels import LabelMap
from opendetr.model.build import build_model
from opendetr.recipes.recipe import load_recipe

SMALL = ModelConfig(
    backbone="resnet18.tv_in1k", embed_dim=32, num_heads=4, num_encoder_layers=1, num_decoder_layers=2,
    feedforward_dim=64, num_queries=12, dropout=0.0,
)  # fmt: skip
QUICK = {
    "epochs": 1, "batch_size": 8, "image_size": 64, "workers": 0, "device": "cpu", "precision": "fp32",
    "val_split": "none",
}  # fmt: skip


def checkpoint_of(num_classes, tmp_path):
    torch.manual_seed(0)
    recipe = load_recipe("paper")
    model = build_model(SMALL, recipe.loss, num_classes).eval()
    preprocessing = Preprocessing(64, 106, (0.5,) * 3, (0.5,) * 3)
    config = type(recipe)(model=SMALL, data=recipe.data, loss=recipe.loss, train=recipe.train)
    return Checkpoint(model, config, labels_of(num_classes), preprocessing, Origin(), tmp_path)


# Of source and recipe one pair each: what depends on a source hangs on no recipe.
DIAGONAL = [("official_file", "fast"), ("huggingface_folder", "paper")]
OTHERS = [("official_file", "paper"), ("huggingface_folder", "fast")]


@pytest.fixture(scope="module")
def official_file(tmp_path_factory):
    """A `.pth` with COCO's 91 classes."""
    folder = tmp_path_factory.mktemp("official")
    return save_official(checkpoint_of(91, folder), folder)


@pytest.fixture(scope="module")
def huggingface_folder(official_file, tmp_path_factory):
    return api.convert(official_file, tmp_path_factory.mktemp("hf") / "model", "huggingface")


@pytest.mark.parametrize(
    ("source", "recipe"), [*DIAGONAL, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in OTHERS)]
)
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


@pytest.fixture(scope="module")
def begun(request, digits, tmp_path_factory):
    """Gives the run that began with a source and learned for an epoch; to look at, never to change."""

    def train(source, recipe):
        output = tmp_path_factory.mktemp("begun") / "run"
        init = request.getfixturevalue(source)
        return api.train(digits, init=init, new_head=True, recipe=recipe, output=output, **QUICK)

    return cache(train)


@pytest.mark.parametrize(("source", "recipe"), [DIAGONAL[0], pytest.param(*DIAGONAL[1], marks=pytest.mark.slow)])
def test_resumed_converted_and_loaded_again_it_says_the_same(begun, digits, tmp_path, source, recipe):
    run = shutil.copytree(begun(source, recipe), tmp_path / "run")
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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"freeze": ("heads",), "new_head": True}, "--freeze heads would fix fresh weights, class_embed.weight, class"),
        (
            {"freeze": ("decoder",), "new_head": True, "overrides": ["model.num_queries=20"]},
            "--freeze decoder would fix fresh weights, query_embed.weight: they have to learn",
        ),
    ],
)
def test_what_is_fresh_is_not_frozen(digits, official_file, tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        api.train(digits, init=official_file, recipe="paper", output=tmp_path / "run", **options, **QUICK)
    assert not (tmp_path / "run").exists()


def test_fresh_heads_of_selected_queries_are_not_frozen(digits, tmp_path):
    """With another number of classes the decoder's side holds a class head too."""
    fast = load_recipe("fast")
    model = replace(
        fast.model, backbone="test_resnet", embed_dim=32, num_queries=9, proposal_strides=(), encoder_strides=()
    )
    config = replace(fast, model=model)
    checkpoint = Checkpoint(
        build_model(model, fast.loss, 3),
        config,
        labels_of(3),
        Preprocessing(64, 106, (0.5,) * 3, (0.5,) * 3),
        Origin(),
        tmp_path,
    )
    with pytest.raises(UserError, match=r"--freeze decoder would fix fresh weights, query_embed.class_embed.weight"):
        begin_with(
            checkpoint, config.with_values({"train.init": "x", "train.freeze": ["decoder"]}, "here"), labels_of(10),
            new_head=True,
        )  # fmt: skip


def test_the_queries_of_a_recipe_file_are_asked_for(digits, official_file, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[model]\nnum_queries = 7\n")
    run = api.train(digits, init=official_file, new_head=True, recipe=str(recipe), output=tmp_path / "run", **QUICK)
    assert len(load_checkpoint(run).model.query_embed.weight) == 7


def test_options_without_what_they_are_about(digits, tmp_path):
    with pytest.raises(UserError, match=r"--num-classes-from data .* name the model by --init MODEL"):
        api.train(digits, new_head=True, output=tmp_path / "run", **QUICK)


def test_a_model_without_names_is_measured_under_those_of_the_data(coco_folder, tmp_path, capsys):
    data = coco_folder((1, 2, 1, 2), names=("red", "white", "plate"))
    for num_classes in (5, 91):  # 91 were taken for COCO's, of which 1 is a person
        path = tmp_path / str(num_classes)
        written = save_official(replace(checkpoint_of(num_classes, path), origin=Origin(labels="names assumed")), path)
        metrics = api.val(written, data, "train", device="cpu")
        assert set(metrics.per_class) == {"red", "white", "plate"}
        assert "names of" in capsys.readouterr().out
    few = save_official(replace(checkpoint_of(2, path), origin=Origin(labels="names assumed")), tmp_path / "few")
    with pytest.raises(UserError, match=r"category 2 'white' is unknown to the model, .* the raw ids 0 to 1"):
        api.val(few, data, "train", device="cpu")


def test_huggingface_classes_are_matched_by_name(coco_folder, tmp_path, capsys):
    data = coco_folder((1, 2, 1, 2), names=("red", "white", "plate"))
    checkpoint = replace(checkpoint_of(3, tmp_path), label_map=LabelMap((0, 1, 2), ("plate", "red", "white")))
    folder = save_huggingface(checkpoint, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["opendetr"]["category_ids"]  # as transformers would write it
    (folder / "config.json").write_text(json.dumps(config))
    assert set(api.val(folder, data, "train", device="cpu").per_class) == {"red", "white", "plate"}
    said = " ".join(capsys.readouterr().out.split())
    assert "Warning: the model's raw ids are not those of" in said
    assert "classes are matched by name" in said
    found = load_checkpoint(folder)
    adopted = labels_on(found.label_map, found.origin, load_index(data, "train").label_map, "here")
    raw = {name: index for index, name in enumerate(("red", "white", "plate"), 1)}
    assert adopted == LabelMap(tuple(raw[name] for name in found.label_map.names), found.label_map.names)


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


def test_what_cannot_be_frozen(digits, coco_folder, official_file, tmp_path):
    output = tmp_path / "run"
    with pytest.raises(UserError, match="--freeze encoder would fix random weights"):
        api.train(digits, recipe="paper", preset="detr-tiny", freeze=("encoder",), output=output, **QUICK)
    everything = ("backbone", "input_proj", "encoder", "decoder", "heads")
    with pytest.raises(UserError, match="leaves nothing to learn"):
        api.train(coco_folder((1,), names=("person",)), init=official_file, freeze=everything, output=output, **QUICK)


def test_unknown_parts_and_mixed_requests(digits, official_file, tmp_path):
    with pytest.raises(UserError, match=r"freeze must be a list of backbone"):
        api.train(digits, init=official_file, new_head=True, freeze=("head",), output=tmp_path / "run", **QUICK)
    with pytest.raises(UserError, match=r"--init brings its own architecture"):
        api.train(digits, init=official_file, preset="detr-r50", output=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


def test_the_run_says_what_it_began_with(begun, official_file):
    run = begun("official_file", "fast")
    assert json.loads((run / "last" / "metrics.json").read_text())["backbone_weights"] == str(official_file)
    assert load_checkpoint(run).config.train.init == str(official_file)
    assert load_checkpoint(run).config.loss.denoising_queries == 0


@pytest.mark.parametrize(("source", "recipe"), DIAGONAL)
def test_real_pictures(request, test_data, tmp_path, source, recipe):
    run = api.train(
        test_data / "bccd", init=request.getfixturevalue(source), new_head=True, recipe=recipe, output=tmp_path / "run",
        val_split="none", minutes=0.05, image_size=64, device="cpu", workers=0, batch_size=4,
    )  # fmt: skip
    assert load_checkpoint(run).label_map.names == ("RBC", "WBC", "Platelets")
