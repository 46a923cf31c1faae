"""Folders and files that others have: of transformers 4.46, of its Trainer, of older releases and of the official code.

`stored/transformers-4.46` has the JSON files of small models that release 4.46.3 wrote, and the names and shapes of
their weights (`shapes.json`). The weights are drawn anew; the installed release of transformers says what is right.
"""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import HfApi
from PIL import Image
from safetensors.torch import save_file

from opendetr.checkpoints.loading import load_checkpoint
from opendetr.inference.detector import Detector

STORED = Path(__file__).parent / "stored" / "transformers-4.46"
TOLERANCE = 1e-5
MODELS = {
    "detr": transformers.DetrForObjectDetection,
    "table-transformer": transformers.TableTransformerForObjectDetection,
}


def drawn_weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Weights of these names that answer differently to every query and picture."""
    generator, weights = torch.Generator().manual_seed(0), {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
        elif len(shape) == 1 and name.endswith(("weight", "running_var")):
            weights[name] = torch.rand(shape, generator=generator) * 0.5 + 0.75
        elif len(shape) == 1:
            weights[name] = torch.randn(shape, generator=generator) * 0.1
        else:
            fan = np.prod(shape[1:])
            gain = 3.0 if "query" in name else 1.0 / fan**0.5
            weights[name] = torch.randn(shape, generator=generator) * gain
    return weights


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """Transformers asks the hub whether the name of a timm network is also that of a repository."""
    monkeypatch.setattr(HfApi, "repo_exists", lambda *_, **__: False)


@pytest.fixture
def folder(request, tmp_path) -> Path:
    """A folder of 4.46 with weights."""
    path = tmp_path / "model"
    shutil.copytree(STORED / request.param, path)
    save_file(
        drawn_weights(json.loads((path / "shapes.json").read_text())), path / "model.safetensors", {"format": "pt"}
    )
    return path


@pytest.fixture
def picture() -> Image.Image:
    blocks = np.random.default_rng(0).integers(0, 256, (23, 35, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((213, 139), Image.Resampling.NEAREST)


def assert_alike(folder: Path, picture: Image.Image, prepared: Path | None = None) -> None:
    """Our detections are those of transformers, preprocessing included."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    model = MODELS[kind].from_pretrained(folder).eval()
    prepare = transformers.DetrImageProcessor.from_pretrained(prepared or folder)
    with torch.no_grad():
        output = model(**prepare(picture, return_tensors="pt"))
    sizes = torch.tensor([[picture.height, picture.width]])
    (expected,) = prepare.post_process_object_detection(output, threshold=0.0, target_sizes=sizes)
    found = Detector.load(folder, "cpu", "torch").predict(picture, threshold=0.0)
    order = expected["scores"].argsort(descending=True, stable=True)
    assert len(found) == len(order) == 10 + 5 * (kind != "detr")
    torch.testing.assert_close(
        found.scores.sort(descending=True).values, expected["scores"][order], rtol=0, atol=TOLERANCE
    )
    apart = (found.boxes_xyxy[:, None] - expected["boxes"][None]).abs().amax(-1).amin(1) / max(picture.size)
    assert apart.max() <= TOLERANCE
    assert expected["scores"].std() > 10 * TOLERANCE


@pytest.mark.parametrize(
    "folder",
    ["timm", "two-classes", "nested", "table", pytest.param("timm-dc5", marks=pytest.mark.slow)],
    indirect=True,
)
def test_a_folder_of_446_says_what_transformers_says(folder, picture):
    assert_alike(folder, picture)


@pytest.mark.parametrize("folder", ["timm"], indirect=True)
def test_what_the_trainer_leaves_beside_the_weights_is_not_read(folder, tmp_path, picture):
    """A folder such as `checkpoint-500`: states of the training, pickles among them, and weights as `.bin` of old."""
    weights = drawn_weights(json.loads((folder / "shapes.json").read_text()))
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth"):
        (folder / name).write_bytes(b"\x80\x04c__builtin__\nprint\n.")
    (folder / "trainer_state.json").write_text('{"global_step": 500}')
    assert_alike(folder.rename(tmp_path / "checkpoint-500"), picture)


@pytest.mark.parametrize("folder", ["timm"], indirect=True)
def test_an_old_feature_extractor_is_read(folder, tmp_path, picture):
    old = {
        "do_normalize": True, "do_resize": True, "feature_extractor_type": "DetrFeatureExtractor",
        "format": "coco_detection", "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
        "max_size": 267, "size": 160,
    }  # fmt: skip
    new = {"shortest_edge": 160, "longest_edge": 267}
    prepared = tmp_path / "prepared"
    transformers.DetrImageProcessor(size=new).save_pretrained(prepared)
    (folder / "preprocessor_config.json").write_text(json.dumps(old))
    assert_alike(folder, picture, prepared)


@pytest.mark.parametrize("folder", ["timm"], indirect=True)
@pytest.mark.parametrize("how", [{"_use_new_zipfile_serialization": False}, {}])
@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
def test_files_of_older_torch_and_half_precision_are_read(folder, tmp_path, how, kind):
    from opendetr.checkpoints.official import official_name

    model = load_checkpoint(folder).model
    state = {official_name(name): tensor.to(kind) for name, tensor in model.state_dict().items()}
    torch.save({"model": state, "args": Namespace(nheads=4, dilation=False, pre_norm=False)}, tmp_path / "a.pth", **how)
    found = load_checkpoint(tmp_path / "a.pth").model.state_dict()
    assert found.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(found[name], tensor.to(kind).to(tensor.dtype)), name
