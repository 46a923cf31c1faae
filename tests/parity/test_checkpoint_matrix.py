"""What others wrote is read as they compute it, from the file to the boxes, for three pictures of odd sizes.

Cells are writers x backbones x the place of the layer norm. Some do not exist: Hugging Face's DETR has no pre-norm, its
own ResNet no dilation, and the Table Transformer is a ResNet-18 with pre-norm. Where two cells differ by a prefix only,
they share a model.
"""

from argparse import Namespace
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import official
import pytest
import torch
import transformers
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from opendetr.config import ModelConfig
from opendetr.inference.detector import Detector

TOLERANCE = 1e-5  # of scores, and of boxes as shares of the picture's longer side
SIZES = [(131, 197), (203, 157), (97, 301)]  # height and width; the largest longer side limits the last
SHORTER, LONGER = 160, 267  # in the proportion of 800 and 1333
CLASSES = ("cat", "dog", "emu")
NESTED = {
    "model_type": "resnet", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic",
    "out_features": ["stage4"],
}  # fmt: skip


class Answers(NamedTuple):
    """Of one picture, for every query: the score of its best class, its index, and the box in pixels."""

    scores: Tensor
    labels: Tensor
    boxes_xyxy: Tensor


class Cell(NamedTuple):
    """A file or folder of another library, and how that library computes a picture."""

    model: Path
    answers: Callable[[Image.Image], Answers]
    image_size: int | None = None  # where the file does not hold it and 800 would take long


@cache
def pictures() -> list[Image.Image]:
    """Noise in blocks: where resizing or the size of a side is rounded otherwise, answers differ."""
    draw, found = np.random.default_rng(0), []
    for height, width in SIZES:
        blocks = draw.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
        found.append(Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST))
    return found


@cache
def official_model(backbone: str, *, pre_norm: bool, num_queries: int, num_classes: int) -> nn.Module:
    config = ModelConfig(
        backbone=backbone.removesuffix("-dc5"), output_stride=16 if backbone.endswith("-dc5") else 32, embed_dim=32,
        num_heads=8, num_encoder_layers=2, num_decoder_layers=2, feedforward_dim=64, num_queries=num_queries,
        pre_norm=pre_norm,
    )  # fmt: skip
    model = official.build_model(config, num_classes)
    official.spread_answers(model, official.pad([official_input(picture) for picture in pictures()]))
    return model


def official_input(picture: Image.Image, *, resized: bool = False) -> Tensor:
    transforms = official.load().transforms
    steps = [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    if not resized:
        steps.insert(0, transforms.RandomResize([SHORTER], max_size=LONGER))
    return transforms.Compose(steps)(picture, None)[0]


@torch.no_grad()
def official_answers(model: nn.Module, image: Tensor, picture: Image.Image) -> Answers:
    output = model(official.pad([image]))
    (found,) = official.load().detr.PostProcess()(output, torch.tensor([[picture.height, picture.width]]))
    return Answers(found["scores"], found["labels"], found["boxes"])


def of_the_official_code(folder: Path, backbone: str, *, pre_norm: bool = False, prefix: str = "") -> Cell:
    """A `.pth`; with the prefix `module.` as a training on several GPUs saves the wrapped model."""
    model = official_model(backbone, pre_norm=pre_norm, num_queries=10, num_classes=len(CLASSES))
    arguments = Namespace(nheads=8, dilation=backbone.endswith("-dc5"), pre_norm=pre_norm, dropout=0.1)
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({"model": state, "args": arguments}, folder / "checkpoint.pth")

    def answers(picture: Image.Image) -> Answers:
        return official_answers(model, official_input(picture), picture)

    return Cell(folder / "checkpoint.pth", answers, SHORTER)


def of_table_transformer(folder: Path) -> Cell:
    """Weights alone, as the authors released them; their `MaxResize` is the longer side, by Pillow's default filter."""
    model = official_model("resnet18", pre_norm=True, num_queries=15, num_classes=2)
    torch.save(model.state_dict(), folder / "pubtables1m_detection_detr_r18.pth")

    def answers(picture: Image.Image) -> Answers:
        scale = SHORTER / max(picture.size)
        resized = picture.resize((round(scale * picture.width), round(scale * picture.height)))
        return official_answers(model, official_input(resized, resized=True), picture)

    return Cell(folder / "pubtables1m_detection_detr_r18.pth", answers, SHORTER)


@cache
def transformers_model(kind: str, backbone: str) -> nn.Module:
    network: dict[str, Any] = {"use_timm_backbone": True, "backbone": backbone.removesuffix("-dc5")}
    network |= {"dilation": backbone.endswith("-dc5"), "use_pretrained_backbone": False}
    if kind == "nested":
        network = {"use_timm_backbone": False, "backbone": None, "backbone_config": dict(NESTED)}
        if backbone == "resnet50":
            network["backbone_config"] = {"model_type": "resnet", "out_features": ["stage4"]}
    config_type, model_type = {
        "table": (transformers.TableTransformerConfig, transformers.TableTransformerForObjectDetection)
    }.get(kind, (transformers.DetrConfig, transformers.DetrForObjectDetection))
    torch.manual_seed(0)
    config = config_type(
        d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=8, decoder_attention_heads=8,
        encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=10, id2label=dict(enumerate(CLASSES)),
        label2id={name: index for index, name in enumerate(CLASSES)}, **network,
    )  # fmt: skip
    model = model_type(config).eval()
    spread(model)
    return model


@torch.no_grad()
def spread(model: nn.Module) -> None:
    """Random weights that answer differently to every query and picture."""
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1 and name.endswith(("weight", "running_var")):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim == 1 and tensor.is_floating_point():
            tensor.normal_(0, 0.1)
        elif tensor.ndim == 2:  # theirs begin so small that every query answers alike
            nn.init.xavier_uniform_(tensor)
    projection, features = model.model.input_projection, []
    with projection.register_forward_hook(lambda module, inputs, output: features.append(output)):
        model(processor()(pictures()[:1], return_tensors="pt")["pixel_values"])
    std, mean = torch.std_mean(features[0], dim=(0, 2, 3))
    projection.weight /= std[:, None, None, None]
    projection.bias.sub_(mean).div_(std)
    model.model.query_position_embeddings.weight.normal_(0, 3)


def processor(*, longer: int = LONGER) -> Any:
    return transformers.DetrImageProcessor(size={"shortest_edge": SHORTER, "longest_edge": longer})


@torch.no_grad()
def transformers_answers(model: nn.Module, prepare: Any, picture: Image.Image) -> Answers:
    output = model(**prepare(picture, return_tensors="pt"))
    sizes = torch.tensor([[picture.height, picture.width]])
    (found,) = prepare.post_process_object_detection(output, threshold=0.0, target_sizes=sizes)
    return Answers(found["scores"], found["labels"], found["boxes"])


def of_transformers(folder: Path, kind: str, backbone: str) -> Cell:
    """A folder of `save_pretrained`."""
    model, prepare = transformers_model(kind, backbone), processor(longer=SHORTER if kind == "table" else LONGER)
    model.save_pretrained(folder)
    prepare.save_pretrained(folder)
    return Cell(folder, lambda picture: transformers_answers(model, prepare, picture))


def of_lightning(folder: Path) -> Cell:
    """A `.ckpt` of the well-known notebook: the module holds the model of transformers as `model`."""
    model = transformers_model("timm", "resnet18")
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    content = {"state_dict": state, "hyper_parameters": {"lr": np.float64(1e-4)}, "epoch": 3, "global_step": 100}
    torch.save(
        content | {"pytorch-lightning_version": "2.4.0", "optimizer_states": [{"state": {}}]}, folder / "last.ckpt"
    )

    # The file does not say how pictures are prepared: what is assumed is said.
    return Cell(folder / "last.ckpt", lambda picture: transformers_answers(model, processor(), picture), SHORTER)


slow = pytest.mark.slow
CELLS = [
    pytest.param(lambda folder: of_the_official_code(folder, "resnet18"), id="official-r18"),
    pytest.param(lambda folder: of_the_official_code(folder, "resnet18", prefix="module."), id="ddp-r18"),
    pytest.param(lambda folder: of_the_official_code(folder, "resnet18", pre_norm=True), id="official-r18-pre"),
    pytest.param(lambda folder: of_the_official_code(folder, "resnet50"), id="official-r50", marks=slow),
    pytest.param(
        lambda folder: of_the_official_code(folder, "resnet50", pre_norm=True), id="official-r50-pre", marks=slow
    ),
    pytest.param(lambda folder: of_the_official_code(folder, "resnet50-dc5"), id="official-dc5"),
    pytest.param(
        lambda folder: of_the_official_code(folder, "resnet50-dc5", pre_norm=True), id="official-dc5-pre", marks=slow
    ),
    pytest.param(lambda folder: of_the_official_code(folder, "resnet50", prefix="module."), id="ddp-r50", marks=slow),
    pytest.param(lambda folder: of_transformers(folder, "timm", "resnet18"), id="timm-r18"),
    pytest.param(lambda folder: of_transformers(folder, "timm", "resnet50"), id="timm-r50", marks=slow),
    pytest.param(lambda folder: of_transformers(folder, "timm", "resnet50-dc5"), id="timm-dc5", marks=slow),
    pytest.param(lambda folder: of_transformers(folder, "nested", "resnet18"), id="nested-r18"),
    pytest.param(lambda folder: of_transformers(folder, "nested", "resnet50"), id="nested-r50"),
    pytest.param(of_lightning, id="lightning-r18"),
    pytest.param(of_table_transformer, id="table-r18-pre"),
    pytest.param(lambda folder: of_transformers(folder, "table", "resnet18"), id="table-transformers-r18-pre"),
]


@pytest.mark.parametrize("write", CELLS)
def test_what_others_wrote_is_computed_as_they_do(tmp_path, write):
    cell = write(tmp_path)
    detector = Detector.load(cell.model, "cpu", "torch", image_size=cell.image_size)
    for picture in pictures():
        found, expected = detector.predict(picture, threshold=0.0), cell.answers(picture)
        ours = Answers(torch.as_tensor(found.scores), torch.as_tensor(found.labels), torch.as_tensor(found.boxes_xyxy))
        assert len(ours.scores) == len(expected.scores)
        side = max(picture.size)
        apart = torch.stack([
            (ours.scores[:, None] - expected.scores[None]).abs(),
            (ours.labels[:, None] != expected.labels[None]).float(),
            (ours.boxes_xyxy[:, None] - expected.boxes_xyxy[None]).abs().amax(-1) / side,
        ]).amax(0)  # fmt: skip
        pairs = linear_sum_assignment(apart)
        assert apart[pairs].max() <= TOLERANCE
        assert expected.scores.std() > 100 * TOLERANCE
