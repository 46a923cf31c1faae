"""The facts of a model for `opendetr info`: classes, cost, preprocessing and origin."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from opendetr.checkpoints.download import RELEASES, cached_release
from opendetr.checkpoints.families import assumed_preprocessing
from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.official import labels_of
from opendetr.checkpoints.origin import Origin
from opendetr.config import RunConfig
from opendetr.data.sizes import snapped_shape
from opendetr.data.transforms import Preprocessing
from opendetr.labels import COCO_CLASSES
from opendetr.model.backbone import normalisation
from opendetr.model.build import build_model
from opendetr.model.complexity import count_gflops, count_parameters
from opendetr.recipes.presets import PRESETS
from opendetr.recipes.recipe import load_recipe, recipe_names, resolve_config

OPEN_QUERIES, OPEN_SIZE = 100, (480, 640)  # in place of what a recipe chooses by the data
MOST_COUNTED = 2_000  # pixels of a side: the model runs to be counted, whatever a file asks for
GFLOPS_REMARK = (
    "multiply-adds of one picture of this size; table 1 of the paper averages over the first 100 pictures of COCO's "
    "val, so its GFLOPs are not comparable"
)


def facts_of(checkpoint: Checkpoint, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """The facts in plain values, with the cost for `size`: height and width in pixels, rounded as the model does.

    The default size is that of a 480x640 picture.
    """
    preprocessing = checkpoint.preprocessing
    usual = preprocessing.with_shorter_side(MOST_COUNTED).shape(*OPEN_SIZE)
    height, width = usual if size is None else snapped_shape(*size, preprocessing.multiple_of)
    return {
        "source": str(checkpoint.source),
        "classes": [entry["name"] for entry in checkpoint.label_map.to_json()],
        "category_ids": list(checkpoint.label_map.category_ids),
        "thresholds": list(checkpoint.origin.thresholds) or None,  # of the classes, in their order
        "parameters": count_parameters(checkpoint.model),
        "gflops": round(count_gflops(checkpoint.model, height, width), 3),
        "gflops_at": [height, width],
        "gflops_remark": GFLOPS_REMARK,
        "preprocessing": preprocessing.to_json(),
        "config": checkpoint.config.to_dict(),
        "origin": replace(checkpoint.origin, thresholds=()).to_json(),
    }


def is_architecture(name: str) -> bool:
    """Whether it names an architecture without weights at hand: a preset, a recipe, or a release not in the cache."""
    if Path(name).exists():
        return False
    return name in (*recipe_names(), *PRESETS) and (name not in RELEASES or cached_release(name) is None)


def architecture_named(name: str) -> Checkpoint:
    """The model of a preset, of a recipe or of a released checkpoint, with random weights; nothing is downloaded.

    What a recipe chooses by the data is assumed; `origin.read` says it.
    """
    is_recipe = name in recipe_names()
    config = load_recipe(name) if is_recipe else resolve_config(preset=name)
    remarks = [
        f"'{name}' is {'a recipe' if is_recipe else 'an architecture'}: its weights are random, and nothing was "
        f"downloaded; {len(COCO_CLASSES)} classes as of COCO are assumed"
    ]
    if config.model.num_queries == 0 or config.data.image_size == 0:
        size = "x".join(map(str, OPEN_SIZE))
        remarks.append(f"'{name}' chooses by the data; here {OPEN_QUERIES} queries and pictures of {size} are assumed")
    config = _settled(config)
    labels, model = labels_of(len(COCO_CLASSES)), config.model
    built = build_model(model, config.loss, labels.num_classes).eval()
    mean, std = normalisation(built.backbone.body)
    data = config.data
    preprocessing = Preprocessing(data.image_size, data.max_size, mean, std, data.multiple_of)
    if name in RELEASES:  # as its file is read
        preprocessing, _ = assumed_preprocessing(model, of_transformers=False)
    return Checkpoint(built, config, labels, preprocessing, Origin(read=remarks), Path(name))


def _settled(config: RunConfig) -> RunConfig:
    """The config with the values that a recipe leaves open."""
    model, data = config.model, config.data
    strides = () if model.proposal_strides == (0,) else model.proposal_strides
    model = replace(model, num_queries=model.num_queries or OPEN_QUERIES, proposal_strides=strides)
    size, longest = data.image_size or min(OPEN_SIZE), data.max_size or max(OPEN_SIZE)
    return replace(config, model=model, data=replace(data, image_size=size, max_size=longest))
