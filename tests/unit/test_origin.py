import pytest

from opendetr.checkpoints.origin import Origin

RUN = {  # metrics.json of a run
    "data": "/data/cells", "train_split": "train", "backbone_weights": "timm's", "created": "2026-10-01T12:00:00+0000",
    "training": {"kind": "epoch", "epoch": 3.0, "step": 12}, "val": {"AP": 0.4, "per_class": {"cell": {"AP": 0.4}}},
}  # fmt: skip
OFFICIAL = {
    "format": "official", "read": ["8 attention heads: assumed"], "labels": "names assumed",
    "arguments": {"nheads": 8}, "kinds": {"class_embed.bias": "float16"}, "counters": {"backbone.num": 3},
    "source": "detr-r50",
}  # fmt: skip
HUGGING_FACE = {"format": "huggingface", "timm_backbone": False, "labels": "told", "read": ["a", "b"]}


@pytest.mark.parametrize("written", [{}, RUN, OFFICIAL, HUGGING_FACE, RUN | {"of_a_later_version": [1, {"a": 2}]}])
def test_what_is_written_is_read_and_written_again(written):
    assert Origin.from_json(written).to_json() == written


def test_what_is_not_known_is_empty():
    origin = Origin.from_json({"val": {"AP": 0.4}})
    assert (origin.format, origin.data, origin.training, origin.val) == ("", "", None, {"AP": 0.4})
