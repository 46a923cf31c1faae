"""A folder that brings its own code says in `transformers` what its model says here, and only there is the code run."""

import ast
import json
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from opendetr import api
from opendetr.checkpoints.loading import load_checkpoint
from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.one_file import one_file
from opendetr.checkpoints.origin import Origin
from opendetr.checkpoints.remote_code import save_with_code
from opendetr.data.transforms import Preprocessing
from opendetr.errors import UserError
from opendetr.inference.detector import Detector
from opendetr.labels import UNUSED, LabelMap
from opendetr.model.build import build_model
from opendetr.recipes.recipe import load_recipe

TOLERANCE = 1e-5
SMALL = {
    "backbone": "test_resnet", "embed_dim": 32, "num_heads": 4, "feedforward_dim": 64, "num_encoder_layers": 1,
    "num_decoder_layers": 2, "num_queries": 12, "backbone_weights": "none",
}  # fmt: skip
FAST = SMALL | {"proposal_strides": (8,), "encoder_strides": (16,)}
MODELS = {
    "fast": ("fast", FAST),
    "fast, frozen batch norm with activations": (
        "fast", FAST | {"backbone": "test_efficientnet", "backbone_weights": "auto"},
    ),
    "fast, the last map only, buffers that no file holds": (
        "fast", SMALL | {"backbone": "resnetblur18", "proposal_strides": (), "encoder_strides": ()},
    ),
    "paper, before the norm, other places, dilated": (
        "paper", SMALL | {
            "pre_norm": True, "position_placement": "input", "query_placement": "input", "output_stride": 16,
            "position_encoding": "learned",
        },
    ),
    "paper, timm's batch norm": ("paper", SMALL | {"backbone": "test_efficientnet"}),
}  # fmt: skip
LABELS = LabelMap((7, None, 3, 12), ("cat", UNUSED, "dog", "emu"))  # raw ids of their own, and a class without one


@torch.no_grad()
def checkpoint_of(recipe: str, model: dict) -> Checkpoint:
    """A model that answers differently to every query and picture."""
    config = load_recipe(recipe)
    config = replace(config, model=replace(config.model, **model))
    detr = build_model(config.model, config.loss, LABELS.num_classes).eval()
    for name, tensor in detr.state_dict().items():
        if tensor.ndim == 1 and name.endswith(("weight", "running_var")):
            tensor.uniform_(0.8, 1.2)
        elif tensor.ndim == 1 and tensor.is_floating_point():
            tensor.normal_(0, 0.1)
        elif "bbox_embed" in name:  # small: boxes would grow by exponentials
            torch.nn.init.xavier_uniform_(tensor, 0.5)
        elif tensor.ndim == 2:
            torch.nn.init.xavier_uniform_(tensor, 2)
    if recipe == "paper":
        detr.query_embed.weight.normal_(0, 3)
    rule = {"multiple_of": 32} if recipe == "fast" else {"rounding": "nearest", "resampling": "bicubic"}
    preprocessing = Preprocessing(96, 150, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), **rule)
    image = preprocessing.transform()(tv_tensors.Image(v2.functional.pil_to_tensor(picture())))
    std, mean = torch.std_mean(detr(image[None]).logits[-1, 0], dim=0)  # so that every class is some query's best
    detr.class_embed.weight *= 2 / std[:, None]
    detr.class_embed.bias.sub_(mean).mul_(2 / std)
    return Checkpoint(detr, config, LABELS, preprocessing, Origin(), Path())


def picture(width=300, height=200, seed=0):
    noise = torch.randint(256, (height // 20, width // 20, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(noise.to(torch.uint8).numpy()).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(autouse=True)
def modules_of_their_own(tmp_path, monkeypatch):
    """`transformers` copies the code of folders into its cache and imports it from there."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]


def theirs(folder):
    model, info = transformers.AutoModelForObjectDetection.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for tensor in (*model.parameters(), *model.buffers()):  # in a file they lie at odd addresses, for which some
        tensor.data = tensor.data.clone()  # processors have other kernels, with other last bits
    return model.eval(), transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_scores_and_boxes_are_the_same(name, tmp_path):
    checkpoint = checkpoint_of(*MODELS[name])
    folder = save_with_code(checkpoint, tmp_path / "model")
    model, processor = theirs(folder)
    detector, names = Detector.of_checkpoint(deepcopy(checkpoint), "cpu"), set()
    for image in (picture(), picture(90, 260, seed=1)):
        inputs = processor(images=image, return_tensors="pt")
        assert torch.equal(inputs["pixel_values"][0], detector.prepare(image))
        output = model(**inputs)
        own = checkpoint.model(detector.prepare(image)[None])
        assert torch.equal(output.logits, own.logits[-1])  # the same operations, so the same bits
        assert torch.equal(output.pred_boxes, own.boxes_cxcywh[-1])
        # Agreement means something: the answers of the queries differ.
        assert torch.cdist(own.logits[-1, 0], own.logits[-1, 0]).median() > 1000 * TOLERANCE

        output = deepcopy(model).to(memory_format=torch.channels_last)(**inputs)  # as in the detector
        found = detector.predict(image, threshold=0.0)
        (answer,) = processor.post_process_object_detection(output, 0.0, [(image.height, image.width)])
        names |= set(found.names)
        assert answer["labels"].tolist() == found.labels.tolist()
        torch.testing.assert_close(answer["scores"], found.scores, rtol=0, atol=TOLERANCE)
        size = max(image.size)
        torch.testing.assert_close(answer["boxes"] / size, found.boxes_xyxy / size, rtol=0, atol=TOLERANCE)
    assert names == {"cat", "dog", "emu"}


@pytest.mark.parametrize("name", ["fast", "paper, timm's batch norm"])
def test_the_pipeline_finds_the_same(name, tmp_path, caplog):
    checkpoint = checkpoint_of(*MODELS[name])
    folder = save_with_code(checkpoint, tmp_path / "model")
    transformers.utils.logging.enable_propagation()
    try:
        detect = transformers.pipeline("object-detection", model=str(folder), trust_remote_code=True, device="cpu")
        detect.model.to(memory_format=torch.channels_last)  # as in the detector
        found = detect(picture(), threshold=0.1)
    finally:
        transformers.utils.logging.disable_propagation()
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    expected = Detector.of_checkpoint(checkpoint, "cpu").predict(picture(), threshold=0.1)
    assert [answer["label"] for answer in found] == expected.names
    assert len(set(expected.names)) == 3
    boxes = [tuple(answer["box"].values()) for answer in found]
    assert boxes == [tuple(int(side) for side in box) for box in expected.boxes_xyxy.tolist()]
    assert [answer["score"] for answer in found] == pytest.approx(expected.scores.tolist(), abs=TOLERANCE)


@torch.no_grad()
def test_padded_batches_are_masked(tmp_path):
    checkpoint = checkpoint_of(*MODELS["fast"])
    model, processor = theirs(save_with_code(checkpoint, tmp_path / "model"))
    inputs = processor(images=[picture(), picture(90, 260)], return_tensors="pt")
    padding = inputs["pixel_mask"] == 0
    assert padding.any()
    own = checkpoint.model(inputs["pixel_values"], padding)
    output = model(**inputs)
    torch.testing.assert_close(output.logits.sigmoid(), own.logits[-1].sigmoid(), rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(output.pred_boxes, own.boxes_cxcywh[-1], rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_weights_stay_in_float32(tmp_path):
    checkpoint = checkpoint_of(*MODELS["fast"])
    folder = save_with_code(checkpoint, tmp_path / "model")
    model = transformers.AutoModelForObjectDetection.from_pretrained(folder, trust_remote_code=True, dtype="bfloat16")
    image = Detector.of_checkpoint(deepcopy(checkpoint), "cpu").prepare(picture())[None]
    assert torch.equal(model.eval()(image).logits, checkpoint.model(image).logits[-1])


def test_the_folder_comes_back_whole_and_its_code_is_not_run(tmp_path, capsys):
    checkpoint = checkpoint_of(*MODELS["fast"])
    folder = save_with_code(checkpoint, tmp_path / "model")
    poison = tmp_path / "it-ran"
    for name in ("modeling_opendetr.py", "__init__.py", "conftest.py"):
        (folder / name).write_text(f"open({str(poison)!r}, 'w')")
    again = load_checkpoint(folder)
    assert not poison.exists()
    assert "its Python code is not run" in " ".join(capsys.readouterr().out.split())
    weights = again.model.state_dict()
    assert all(torch.equal(tensor, weights[key]) for key, tensor in checkpoint.model.state_dict().items())
    assert (again.config, again.label_map, again.preprocessing) == (
        checkpoint.config, checkpoint.label_map, checkpoint.preprocessing
    )  # fmt: skip
    api.predict(folder, [str(save_picture(tmp_path))], tmp_path / "found", engine="torch")
    assert not poison.exists()


def save_picture(folder):
    picture().save(folder / "picture.png")
    return folder / "picture.png"


def test_what_they_save_again_is_read_too(tmp_path):
    checkpoint = checkpoint_of(*MODELS["fast"])
    model, processor = theirs(save_with_code(checkpoint, tmp_path / "model"))
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    again = load_checkpoint(tmp_path / "again")
    own = checkpoint.model.state_dict()
    assert all(torch.equal(tensor, own[key]) for key, tensor in again.model.state_dict().items())
    assert again.preprocessing == checkpoint.preprocessing
    theirs(tmp_path / "again")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"opendetr": {}}, "config.json is damaged"),
        ({"opendetr": 5}, "config.json is damaged"),
        ({"id2label": {"0": "cat"}}, "names 1 classes; the weights have 4"),
    ],
)
def test_a_damaged_folder_is_one_sentence(tmp_path, change, said):
    folder = save_with_code(checkpoint_of(*MODELS["fast"]), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=said):
        load_checkpoint(folder)


def test_weights_of_another_model_are_one_sentence(tmp_path):
    folder = save_with_code(checkpoint_of(*MODELS["fast"]), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["opendetr"]["config"]["model"]["num_decoder_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="num_decoder_layers is 3, and the weights have 2"):
        load_checkpoint(folder)


def test_what_is_left_out_of_the_code_must_exist(monkeypatch):
    """Else a renamed member would silently be in it."""
    from opendetr.checkpoints import one_file as generator

    monkeypatch.setattr(generator, "LEFT_OUT", generator.LEFT_OUT | {"Preprocessing.gone"})
    with pytest.raises(AssertionError, match=r"Preprocessing\.gone: no such member"):
        one_file.__wrapped__("modeling_opendetr.py.txt")


def test_the_code_is_one_file_of_known_libraries():
    tree = ast.parse(one_file("modeling_opendetr.py.txt"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in imports if isinstance(node, ast.ImportFrom) and not node.level}
    assert not [node for node in imports if getattr(node, "level", 0)]
    roots = {name.partition(".")[0] for name in names}
    assert roots - sys.stdlib_module_names == {"torch", "torchvision", "timm", "transformers", "numpy", "PIL"}
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    assert len(defined) == len(set(defined))
    assert not {"with_denoising", "Denoising", "FoldedConv2d", "LabelMap"} & set(defined)
    assert "denoising: extra queries" not in ast.unparse(tree)


def test_two_definitions_of_one_name_are_not_merged(tmp_path, monkeypatch):
    """The generator stops, so that no model is written that runs another function than ours."""
    from opendetr.checkpoints import one_file as generator

    files = {
        "checkpoints/top.py.txt": '"""Top."""\nfrom opendetr.one import f\nfrom opendetr.two import g\ny = f() + g()\n',
        "one.py": '"""One."""\ndef _same(): return 1\ndef f(): return _same()\n',
        "two.py": '"""Two."""\ndef _same(): return 2\ndef g(): return _same()\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(generator.resources, "files", lambda package: tmp_path)
    with pytest.raises(AssertionError, match=r"one\.py and two\.py both define _same"):
        one_file("top.py.txt")


def test_the_default_recipe_is_written_with_code_and_the_plain_model_without(tmp_path, capsys):
    from opendetr.checkpoints.conversion import write_model

    write_model(checkpoint_of(*MODELS["fast"]), tmp_path / "fast", "huggingface", None, None, private=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "load it with trust_remote_code=True" in said
    card = (tmp_path / "fast" / "README.md").read_text()
    assert 'model="fast", trust_remote_code=True' in card
    write_model(checkpoint_of("paper", SMALL), tmp_path / "plain", "huggingface", None, None, private=False)
    assert not (tmp_path / "plain" / "modeling_opendetr.py").exists()
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["model_type"] == "detr"
