"""Weights in any wrapper, under any prefix, in pieces, of other architectures: found, or refused by the true reason."""

import argparse
import collections
import decimal
import fractions
import json
import os
import pathlib
import random
import re
import sys
import time
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from opendetr.checkpoints.other_architectures import backbone_by_names, other_architecture
from opendetr.checkpoints.pickles import NotRead, read_pickle
from opendetr.checkpoints.state_dicts import find_weights
from opendetr.checkpoints.weight_files import read_weight_file, read_weights_of
from opendetr.errors import UserError
from opendetr.files import read_json
from opendetr.images import read_image

OFFICIAL = {
    name: torch.full((2,), float(number))
    for number, name in enumerate(
        ("input_proj.weight", "transformer.decoder.norm.weight", "class_embed.weight", "backbone.0.body.conv1.weight")
    )
}
THEIRS = {
    name: torch.full((2,), float(number))
    for number, name in enumerate(
        ("model.input_projection.weight", "model.decoder.layernorm.weight", "class_labels_classifier.weight")
    )
}


def behind(prefix: str, state: dict) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPED = {
    "bare": OFFICIAL,
    "official": {"model": OFFICIAL, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "epoch": 3},
    "DDP": {"model": behind("module.", OFFICIAL)},
    "a module around it": behind("model.", OFFICIAL),
    "a trainer's": {"model_state_dict": OFFICIAL, "optimizer_state_dict": {}},
    "two in each other": {"checkpoint": {"state_dict": behind("module.model.", OFFICIAL)}},
    "compiled": {"state_dict": behind("_orig_mod.", OFFICIAL)},
    "compiled DDP": {"model": behind("module._orig_mod.", OFFICIAL)},
    "DDP of compiled": {"model": behind("_orig_mod.module.", OFFICIAL)},
    "compiled part": {"model": {name.replace("backbone.", "backbone._orig_mod."): OFFICIAL[name] for name in OFFICIAL}},
    "Lightning": {"state_dict": behind("model.", THEIRS), "hyper_parameters": {"lr": 1e-4}, "callbacks": {}},
    "DDP in Lightning": {"state_dict": behind("model.module.", THEIRS)},
    "compiled Hugging Face": behind("_orig_mod.", THEIRS),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_weights_are_found_in_every_wrapper(kind):
    found = find_weights(WRAPPED[kind], "x.pth")
    expected = THEIRS if "Lightning" in kind or "Hugging" in kind else OFFICIAL
    assert found.library == ("huggingface" if expected is THEIRS else "official")
    assert found.state.keys() == expected.keys()
    assert all(torch.equal(found.state[name], tensor) for name, tensor in expected.items())
    assert (found.remarks, found.panoptic) == ((), False)


@pytest.mark.parametrize(
    "content",
    [
        {"model": OFFICIAL, "model_ema": {name: tensor + 9 for name, tensor in OFFICIAL.items()}},
        {"ema": {"module": {name: tensor + 9 for name, tensor in OFFICIAL.items()}, "updates": 3}, "model": OFFICIAL},
        {"state_dict": {**behind("model.", OFFICIAL),
                        **behind("ema.module.", {name: tensor + 9 for name, tensor in OFFICIAL.items()})}},
    ],
)  # fmt: skip
def test_averaged_weights_come_before_raw_ones_and_that_is_said(content):
    found = find_weights(content, "x.pth")
    assert float(found.state["input_proj.weight"][0]) == 9
    assert found.state.keys() == OFFICIAL.keys()
    (said,) = found.remarks
    assert said.startswith("the averaged weights are taken")
    assert "the file also has" in said


def test_what_lies_beside_the_model_is_left_out_and_said():
    found = find_weights({"state_dict": behind("model.", OFFICIAL) | {"criterion.empty_weight": torch.ones(3)}}, "x")
    assert found.state.keys() == OFFICIAL.keys()
    assert found.remarks == ("1 tensor beside the model, such as criterion.empty_weight: left out",)


def test_tensors_of_a_loss_beside_a_bare_model_are_left_out_and_said():
    found = find_weights(OFFICIAL | {"criterion.empty_weight": torch.ones(3)}, "x")
    assert found.state.keys() == OFFICIAL.keys()
    assert found.remarks == ("1 tensor beside the model, such as criterion.empty_weight: left out",)


def test_an_average_of_parameters_takes_the_statistics_of_the_raw_weights():
    averaged = {name: tensor + 10 for name, tensor in OFFICIAL.items()}
    statistics = {"backbone.0.body.bn1.running_mean": torch.ones(2)}
    found = find_weights({"model": OFFICIAL | statistics, "EMA": averaged}, "x")
    assert found.state.keys() == (OFFICIAL | statistics).keys()
    assert float(found.state["input_proj.weight"][0]) == 10
    assert "1 tensor that is not averaged: from the raw weights" in found.remarks


def test_the_masks_of_a_panoptic_model_are_no_part_of_its_detector():
    whole = behind("module.detr.", OFFICIAL) | {"module.mask_head.lay1.weight": torch.ones(1)}
    found = find_weights({"model": whole}, "x")
    assert (found.state.keys(), found.panoptic, found.remarks) == (OFFICIAL.keys(), True, ())
    assert not find_weights({"model": behind("detr.", OFFICIAL)}, "x").panoptic  # a module that is called so


def test_doubles_are_rounded_and_said():
    found = find_weights({name: tensor.double() / 3 for name, tensor in OFFICIAL.items()}, "x")
    assert {tensor.dtype for tensor in found.state.values()} == {torch.float32}
    assert found.remarks == ("4 tensors of float64: rounded to float32",)


def test_arguments_are_those_of_the_official_code():
    args = argparse.Namespace(nheads=4)
    assert find_weights({"model": OFFICIAL, "args": args}, "x").arguments == {"nheads": 4}
    hyper = {"state_dict": behind("model.", OFFICIAL), "hyper_parameters": {"nheads": 4, "lr": 1}}
    assert find_weights(hyper, "x").arguments == {"nheads": 4, "lr": 1}
    hyper["hyper_parameters"] = {"args": args, "lr": 1}  # Lightning's, of a module that takes one argument
    assert find_weights(hyper, "x").arguments == {"nheads": 4}
    hyper["hyper_parameters"] = {"lr": 1}
    assert find_weights(hyper, "x").arguments == {}


def test_what_is_no_detr_is_said():
    for content, said in (
        ({"model": {"a": 1}}, "holds no weights"),
        ([], "holds no weights"),
        ({"fc.weight": torch.ones(1)}, "such as 'fc.weight', have neither the names"),
        ({"layer4.0.conv1.weight": torch.ones(1)}, "a backbone alone .* by --backbone-weights"),
        ({"state_dict": {"module.layer4.0.conv1.weight": torch.ones(1)}}, "a backbone alone"),
        (
            {
                "input_projection.weight": torch.ones(1),
                "decoder.layers.0.fc1.weight": torch.ones(1),
                "backbone.model.encoder.stages.0.weight": torch.ones(1),
            },
            "a DetrModel .* has no heads",
        ),
        ({"decoder.x.weight": torch.ones(1), "a.blocks.0.weight": torch.ones(1)}, "have neither the names"),
        (NotRead(), "a pickled object instead of weights"),
    ):
        with pytest.raises(UserError, match=said):
            find_weights(content, "x")


# Names of each architecture's tensors, as its authors' code and transformers write them.
NAMES = {
    "an adapter of PEFT (LoRA), to be merged into its model by merge_and_unload()":
        ["base_model.model.model.decoder.layers.0.self_attn.q_proj.lora_A.default.weight"],
    "Conditional DETR": ["transformer.decoder.layers.0.sa_qcontent_proj.weight", "transformer.decoder.norm.weight"],
    "DAB-DETR": ["refpoint_embed.weight", "transformer.decoder.layers.0.sa_qcontent_proj.weight", "input_proj.weight"],
    "DN-DETR": ["label_enc.weight", "refpoint_embed.weight", "transformer.decoder.layers.0.sa_qcontent_proj.weight"],
    "Deformable DETR": ["transformer.encoder.layers.0.self_attn.sampling_offsets.weight", "input_proj.0.0.weight"],
    "DINO": ["label_enc.weight", "transformer.enc_output.weight",
             "transformer.encoder.layers.0.self_attn.sampling_offsets.weight"],
    "Grounding DINO": ["bert.encoder.layer.0.output.dense.weight",
                       "transformer.encoder.layers.0.self_attn.sampling_offsets.weight"],
    "RT-DETR": ["decoder.dec_score_head.0.weight", "decoder.decoder.layers.0.cross_attn.sampling_offsets.weight"],
    "D-FINE or DEIM": ["decoder.pre_bbox_head.layers.0.weight", "decoder.dec_score_head.0.weight"],
    "RF-DETR": ["backbone.0.encoder.encoder.embeddings.cls_token", "backbone.0.projector.stages.0.0.cv1.conv.weight",
                "refpoint_embed.weight"],
    "LW-DETR": ["backbone.0.encoder.blocks.0.attn.qkv.weight", "backbone.0.projector.stages.0.0.cv1.conv.weight"],
    "YOLOS": ["backbone.det_token", "backbone.blocks.0.attn.qkv.weight"],
    "Anchor DETR": ["transformer.pattern.weight", "transformer.adapt_pos2d.0.weight"],
    "Faster R-CNN": ["backbone.body.conv1.weight", "rpn.head.cls_logits.weight",
                     "roi_heads.box_predictor.cls_score.weight"],
    "Mask R-CNN": ["rpn.head.cls_logits.weight", "roi_heads.mask_predictor.mask_fcn_logits.weight"],
    "RetinaNet, FCOS or SSD": ["head.classification_head.cls_logits.weight"],
    "YOLO (of ultralytics)": ["model.0.conv.weight", "model.22.cv2.0.0.conv.weight"],
    "MaskFormer": ["model.pixel_level_module.decoder.mask_projection.weight"],
    "Mask2Former": ["model.pixel_level_module.decoder.encoder.layers.0.self_attn.sampling_offsets.weight"],
    "a DETR of MMDetection or detrex": ["bbox_head.fc_cls.weight"],
}  # fmt: skip


@pytest.mark.parametrize("architecture", NAMES)
def test_another_architecture_is_refused_by_its_name(architecture):
    names = NAMES[architecture]
    for prefix in ("", "module."):
        found = other_architecture([prefix + name for name in names])
        assert found is not None
        assert found[0] == architecture
    state = dict.fromkeys([*OFFICIAL, *names], torch.ones(1))  # those of its own even beside those of every DETR
    with pytest.raises(UserError, match=r"of another architecture, .* tells; opendetr reads those of DETR"):
        find_weights({"model": state}, "x.pth")


def test_ours_and_theirs_are_no_other_architecture():
    assert other_architecture(OFFICIAL) is None
    assert other_architecture(THEIRS) is None
    assert (
        other_architecture(["query_embed.label_embed.weight", "transformer.decoder.layers.0.ffn.linear1.weight"])
        is None
    )


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["layers.0.blocks.0.attn.relative_position_bias_table"], "Swin"),
        (["blocks.0.0.conv_pwl.weight"], "EfficientNet"),
        (["stages.0.blocks.0.conv_dw.weight"], "ConvNeXt"),
        (["blocks.0.attn.qkv.weight"], "vision transformer"),
        (["conv1.0.weight"], "ResNet-C or -D"),
        (["features.0.0.weight"], "torchvision"),
        (["layer1.0.conv1.weight", "conv1.weight"], ""),
    ],
)
def test_another_backbone_is_named(names, kind):
    found = backbone_by_names(dict.fromkeys(behind("b.", dict.fromkeys(names)), torch.ones(1)), "b.")
    assert kind in found
    assert bool(found) == bool(kind)


def test_wide_resnets_are_told_by_their_shapes():
    third = {"layer1.0.conv3.weight": torch.ones(1)}
    for shape, kind in (((128, 128, 3, 3), "Wide ResNet"), ((128, 4, 3, 3), "ResNeXt"), ((64, 64, 3, 3), "")):
        assert backbone_by_names({"layer1.0.conv2.weight": torch.empty(shape)} | third, "") == kind


class OfAUser:
    """Anything that someone keeps among the settings of a training."""


def test_plain_things_beside_weights_are_read_or_stood_for(tmp_path):
    kept = argparse.Namespace(
        lr=np.float64(1e-4), epochs=np.int64(3), aux_loss=np.bool_(True), output_dir=pathlib.Path("runs"),
        history=collections.defaultdict(list, {"loss": [1.0]}), recent=collections.deque([1, 2], maxlen=5),
        array=np.zeros(3), mine=OfAUser(),
    )  # fmt: skip
    for zipped in (True, False):
        torch.save({"model": OFFICIAL, "args": kept}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        read = vars(read_pickle(tmp_path / "x.pth", "weights")["args"])
        assert (read["lr"], read["epochs"], read["aux_loss"]) == (1e-4, 3, True)
        assert [type(read[name]) for name in ("lr", "epochs", "aux_loss")] == [float, int, bool]
        assert (str(read["output_dir"]), read["history"], read["recent"]) == ("runs", {"loss": [1.0]}, [1, 2])
        assert all(isinstance(read[name], NotRead) for name in ("array", "mine"))


def test_plain_values_of_python_are_no_code(tmp_path):
    """A namespace is read; of the others nothing is kept."""
    kept = types.SimpleNamespace(
        lr=0.1, steps=range(3), rest=..., pattern=re.compile("a", re.IGNORECASE), flag=re.IGNORECASE,
        begun=time.gmtime(0), share=fractions.Fraction(1, 3), price=decimal.Decimal("0.1"), draws=random.Random(0),
    )  # fmt: skip
    for zipped in (True, False):
        torch.save({"model": OFFICIAL, "args": kept}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        read = vars(read_pickle(tmp_path / "x.pth", "weights")["args"])
        assert read.keys() == vars(kept).keys()
        assert read["lr"] == 0.1


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_is_told_from_weights(tmp_path, zipped):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"x\.pth holds a (pickled object|whole pickled module).*state_dict"):
        find_weights(read_pickle(tmp_path / "x.pth", "weights"), str(tmp_path / "x.pth"))


class Asks:
    """Asks for a function to be called when it is read."""

    def __init__(self, function, *arguments):
        self.asked = function, arguments

    def __reduce__(self):
        return self.asked


@pytest.mark.parametrize(
    ("bomb", "said"),
    [
        (Asks(getattr, "a", "b"), "code to be run, getattr"),
        (Asks(os.mkdir, "exploded"), r"code to be run, \w+\.mkdir"),
        (Asks(np.save, "exploded", 1), ""),  # of another package: stood for
    ],
)  # fmt: skip
def test_code_is_never_run(tmp_path, monkeypatch, bomb, said):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": OFFICIAL, "args": argparse.Namespace(bomb=bomb)}, "x.pth")
    if said:
        with pytest.raises(UserError, match=said):
            read_pickle(pathlib.Path("x.pth"), "weights")
    else:
        assert isinstance(read_pickle(pathlib.Path("x.pth"), "weights")["args"].bomb, NotRead)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_a_pickled_model_of_another_library_is_named(tmp_path, monkeypatch):
    for name in ("ultralytics", "ultralytics.nn", "ultralytics.nn.tasks"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    model = type("DetectionModel", (), {"__module__": "ultralytics.nn.tasks"})
    sys.modules["ultralytics.nn.tasks"].DetectionModel = model
    torch.save({"model": model()}, tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"best\.pt is a YOLO or RT-DETR of ultralytics"):
        read_pickle(tmp_path / "best.pt", "weights")


def pieces(folder, suffix, weight_map=None):
    parts = [dict(list(THEIRS.items())[:2]), dict(list(THEIRS.items())[2:])]
    files = [f"{'model' if suffix == 'safetensors' else 'pytorch_model'}-{n}-of-00002.{suffix}" for n in "12"]
    for part, name in zip(parts, files):
        (save_file if suffix == "safetensors" else torch.save)(part, folder / name)
    stem = "model.safetensors" if suffix == "safetensors" else "pytorch_model.bin"
    index = {"weight_map": weight_map or {tensor: name for part, name in zip(parts, files) for tensor in part}}
    (folder / f"{stem}.index.json").write_text(json.dumps(index))
    return files


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_weights_in_pieces_are_put_together(tmp_path, suffix):
    files = pieces(tmp_path, suffix)
    read = read_weights_of(tmp_path)
    assert read.keys() == THEIRS.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in THEIRS.items())
    (tmp_path / files[1]).unlink()
    with pytest.raises(UserError, match=f"names the piece {files[1]}, which is missing"):
        read_weights_of(tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({"a": "../model-1-of-00002.safetensors"}, "no file of weights beside it"),
        ({"a": "config.json"}, "no file of weights beside it"),
        ({"a": 3}, "has no 'weight_map'"),
        ({"a": "model-1-of-00002.safetensors"}, "names a, which is not in its piece"),
    ],
)
def test_an_index_that_is_wrong_is_one_sentence(tmp_path, weight_map, said):
    pieces(tmp_path, "safetensors", weight_map)
    with pytest.raises(UserError, match=said):
        read_weights_of(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "detr.pth", "config.json", "cat.png"])
def test_a_pointer_of_git_lfs_is_told(tmp_path, name):
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 166618694\n")
    read = {".json": read_json, ".png": lambda path, _: read_image(path)}.get(path.suffix, read_weight_file)
    with pytest.raises(UserError, match=f"{name} is a pointer of Git LFS, not the file itself: run `git lfs pull`"):
        read(path, "weights")
