"""Every way in which a Hugging Face config says backbone, loss and classes: the same numbers, or a sentence."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from test_huggingface import BACKBONES, TOLERANCE, answers, assert_same, build, images, masks, spread

import opendetr
from opendetr import api
from opendetr.checkpoints.huggingface_config import read_labels
from opendetr.checkpoints.loading import load_checkpoint
from opendetr.errors import UserError
from opendetr.labels import COCO_CLASSES

OWN = BACKBONES["transformers"]["backbone_config"]  # the ResNet of transformers


def timm(**values):
    """A network of timm as release 5 writes it."""
    nested = {"model_type": "timm_backbone", "backbone": "test_resnet", "out_indices": [1, 2, 3, 4], **values}
    return {"use_timm_backbone": False, "backbone": None, "backbone_config": nested}


def written(theirs, folder, change=None, remove=()):
    """A folder of theirs, its config changed as another release, or a hand, writes it."""
    theirs.save_pretrained(folder)
    config = {**json.loads((folder / "config.json").read_text()), **(change or {})}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in remove}))
    return folder


def release_4(**values):
    """The backbone as release 4 wrote it; it had no `backbone_config`."""
    return {"use_timm_backbone": True, "backbone": "test_resnet", "backbone_config": None, **values}


STRIDES = {  # the network of transformers, what the config says instead of it, and the stride
    "dilation": ({"dilation": True, "backbone": "test_resnet"}, {}, 16),
    "nested, 8": (timm(output_stride=8), {}, 8),
    "nested, 16": (timm(output_stride=16), {}, 16),
    "nested, 16 of a last index": (timm(output_stride=16, out_indices=[-1]), {}, 16),
    "dilation counts for nothing beside a nested network": (timm(), {"dilation": True}, 32),
    "release 4, no stride": (timm(), release_4(backbone_kwargs={"out_indices": [1, 2, 3, 4], "in_chans": 3}), 32),
    "release 4, dilation": (
        timm(output_stride=16), release_4(dilation=True, backbone_kwargs={"output_stride": 16, "in_chans": 3}), 16,
    ),
    "release 4, dilation with other kwargs": (
        timm(output_stride=16), release_4(dilation=True, backbone_kwargs={"out_indices": [4]}), 16,
    ),
    "release 4, kwargs alone": (timm(output_stride=8), release_4(backbone_kwargs={"output_stride": 8}), 8),
    "release 4, kwargs win": (
        timm(output_stride=8), release_4(dilation=True, backbone_kwargs={"output_stride": 8}), 8,
    ),
    "no dilation of transformers' ResNet": (BACKBONES["transformers"], {"dilation": True}, 32),
    "transformers' ResNet has no stride": (
        BACKBONES["transformers"], {"backbone_config": {**OWN, "output_stride": 16}}, 32,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STRIDES)
def test_every_way_to_say_the_stride_says_the_same(name, tmp_path):
    network, change, stride = STRIDES[name]
    theirs = build(**network)
    reference = answers(theirs, images(), masks())
    checkpoint = load_checkpoint(written(theirs, tmp_path / "theirs", change))
    assert checkpoint.config.model.output_stride == stride
    assert_same(checkpoint.model, reference)
    if "release 4" in name:  # written as the others are
        return
    again = api.convert(tmp_path / "theirs", tmp_path / "again", "huggingface")  # written, and read by both
    assert_same(opendetr.load_model(again), reference)
    reread = transformers.DetrForObjectDetection.from_pretrained(again).eval()
    for one, other in zip(answers(reread, images(), masks()), reference):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)


def test_batch_norm_that_timm_freezes_stays_timms(tmp_path):
    """`freeze_batch_norm_2d` makes another class of it, which transformers then does not replace by its own."""
    theirs = build(**timm(backbone="test_efficientnet", freeze_batch_norm_2d=True))
    checkpoint = load_checkpoint(written(theirs, tmp_path / "theirs"))
    assert checkpoint.config.model.batch_norm == "timm"
    assert_same(checkpoint.model, answers(theirs, images(), masks()))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with a small network of timm."""
    path = tmp_path_factory.mktemp("hf") / "small"
    return written(build(use_timm_backbone=True, backbone="test_resnet"), path)


@pytest.fixture
def changed(small, tmp_path):
    """The small folder with another config."""

    def change(**values):
        shutil.copytree(small, tmp_path / "changed", dirs_exist_ok=True)
        config = json.loads((small / "config.json").read_text()) | values
        (tmp_path / "changed" / "config.json").write_text(json.dumps(config))
        return tmp_path / "changed"

    return change


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (timm(output_stride=4), "backbone_config.output_stride = 4 cannot be computed here; expected 8, 16 or 32"),
        (release_4(backbone_kwargs={"output_stride": 64}), "backbone_kwargs.output_stride = 64 cannot be computed"),
        (release_4(backbone_kwargs={"in_chans": 1}), "backbone_kwargs.in_chans = 1 cannot be computed"),
        (release_4(backbone_kwargs={"act_layer": "gelu"}), "backbone_kwargs.act_layer = gelu cannot be computed here"),
        (timm(features_only=False), "backbone_config.features_only = False cannot be computed here; expected True"),
        (timm(out_indices=[1, 2]), r"stage 2 of test_resnet \(out_indices\), .* expected 4"),
        ({"backbone_config": {**OWN, "hidden_act": "gelu"}}, "backbone_config.hidden_act = gelu cannot be computed"),
        ({"backbone_config": {**OWN, "embedding_size": 32}}, "backbone_config.embedding_size = 32 cannot be computed"),
        ({"backbone_config": {**OWN, "num_channels": 1}}, "backbone_config.num_channels = 1 cannot be computed here"),
        ({"backbone_config": {**OWN, "hidden_sizes": [8, 8, 8, 8]}}, r"hidden_sizes = \[8, 8, 8, 8\] cannot be comput"),
        ({"backbone_config": {**OWN, "downsample_in_first_stage": True}}, "downsample_in_first_stage = True cannot be"),
        ({"backbone_config": {"model_type": "resnet", "downsample_in_bottleneck": True}}, "downsample_in_bottleneck ="),
        ({"backbone_config": {**OWN, "out_features": ["stage3"]}}, "the features are those of stage3"),
        ({"backbone_config": {**OWN, "depths": [1, 1, 1, 1]}}, "is none that timm knows"),
        ({"backbone_config": {"model_type": "swin", "depths": [1, 1]}}, "the backbone is a 'swin' of transformers"),
        (
            {"use_timm_backbone": False, "backbone": "microsoft/swin-tiny-patch4-window7-224", "backbone_config": None},
            "the backbone is transformers' 'microsoft/swin-tiny-patch4-window7-224'",
        ),
        ({"num_channels": 1}, "num_channels = 1 cannot be computed here; expected 3"),
        ({"position_embedding_type": "rotary"}, "position_embedding_type = rotary cannot .* expected sine or learned"),
        ({"model_type": "conditional_detr"}, "a Conditional DETR .* another architecture than DETR"),
        ({"model_type": "deformable_detr"}, "a Deformable DETR .* another architecture than DETR"),
        ({"model_type": "dab-detr"}, "a DAB-DETR .* another architecture than DETR"),
        ({"model_type": "rt_detr"}, "an RT-DETR .* another architecture than DETR"),
        ({"model_type": "d_fine"}, "a D-FINE .* another architecture than DETR"),
        ({"model_type": "bert"}, "of a model of type 'bert'; expected 'detr' or 'table-transformer'"),
        ({"id2label": {"1": "cat", "2": "dog", "3": "emu"}}, "indices of id2label go from 1 to 3, .* from 0 to 2"),
        ({"eos_coefficient": -1.0}, "config.json: loss.no_object_weight must be at least 0, got -1.0"),
        ({"bbox_cost": "5"}, "config.json: loss.l1_cost must be a finite number, got '5'"),
    ],
)  # fmt: skip
def test_what_would_change_the_numbers_is_refused_by_its_name(changed, network, said):
    with pytest.raises(UserError, match=said):
        load_checkpoint(changed(**network))


def test_a_feature_map_of_another_stride_than_the_configs_is_refused(changed, monkeypatch):
    """timm could stop to honour an option; scores would be wrong silently."""
    import timm as library

    create = library.create_model
    monkeypatch.setattr(library, "create_model", lambda name, output_stride=32, **options: create(name, **options))
    with pytest.raises(
        UserError, match=r"gives a feature map of 2x3 cells .* at the config's stride 16 it would be 4x6"
    ):
        load_checkpoint(changed(backbone_config={**timm()["backbone_config"], "output_stride": 16}))


def test_a_git_lfs_pointer_is_called_that(changed, tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    ours, theirs, official = api.convert(changed(), tmp_path / "ours", "opendetr"), changed(), tmp_path / "detr.pth"
    official.write_text(pointer)
    for folder in (ours, theirs):
        (folder / "model.safetensors").write_text(pointer)
    for model in (ours, theirs, official):
        with pytest.raises(
            UserError, match=r"(model.safetensors|detr.pth) is a pointer of Git LFS, .*run `git lfs pull`"
        ):
            load_checkpoint(model)


CHOICES = {
    "eos_coefficient": 0.4, "class_cost": 2, "bbox_cost": 3, "giou_cost": 4, "bbox_loss_coefficient": 6,
    "giou_loss_coefficient": 3, "dropout": 0.2, "attention_dropout": 0.1, "activation_dropout": 0.05,
    "encoder_layerdrop": 0.2, "decoder_layerdrop": 0.3, "init_std": 0.03, "init_xavier_std": 2.0,
    "mask_loss_coefficient": 7, "dice_loss_coefficient": 8,
}  # fmt: skip


def test_a_fine_tuners_choices_come_back(changed, tmp_path, capsys):
    folder = changed(**CHOICES)
    native = api.convert(folder, tmp_path / "ours", "opendetr")  # nothing is lost on the way through our form
    loss = load_checkpoint(native).config.loss
    assert (loss.no_object_weight, loss.class_cost, loss.l1_cost, loss.giou_cost) == (0.4, 2, 3, 4)
    assert (loss.l1_weight, loss.giou_weight, loss.auxiliary) == (6, 3, False)
    config = transformers.DetrConfig.from_pretrained(api.convert(native, tmp_path / "back", "huggingface"))
    assert {name: getattr(config, name) for name in CHOICES} == CHOICES
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "attention_dropout = 0.1, activation_dropout = 0.05, encoder_layerdrop = 0.2, decoder_layerdrop = 0.3" in said
    )
    assert "training here has dropout = 0.2 in attention and feed-forward layers, and drops no layers" in said


def test_a_cost_that_transformers_does_not_take_is_kept_and_said(changed, tmp_path, capsys):
    folder = changed(bbox_cost=2.5, giou_cost=1)  # release 4 took any number
    written_there = api.convert(folder, tmp_path / "out", "huggingface")
    assert "transformers has no place for l1_cost = 2.5 of the loss" in " ".join(capsys.readouterr().out.split())
    assert transformers.DetrConfig.from_pretrained(written_there).giou_cost == 1
    loss = load_checkpoint(written_there).config.loss
    assert (loss.l1_cost, loss.giou_cost, loss.auxiliary) == (2.5, 1, False)


def test_no_remark_on_training_where_nothing_differs(small):
    assert not any("dropout" in remark for remark in load_checkpoint(small).origin.read)


# Table Transformer: a DETR with pre-norm


@pytest.fixture(scope="module")
def table():
    """A `TableTransformerForObjectDetection` for table detection that answers differently to every query."""
    torch.manual_seed(0)
    labels = {0: "table", 1: "table rotated"}
    config = transformers.TableTransformerConfig(
        d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=15, id2label=labels,
        label2id={name: index for index, name in labels.items()}, **BACKBONES["transformers"],
    )  # fmt: skip
    model = transformers.TableTransformerForObjectDetection(config).eval()
    spread(model, images())
    return model


def test_a_table_transformer_says_the_same_in_both_directions(table, tmp_path):
    reference = answers(table, images(), masks())
    for values in reference:
        assert torch.cdist(values, values, p=float("inf")).median(-1).values.min() > 1000 * TOLERANCE
    table.save_pretrained(tmp_path / "theirs")
    native = api.convert(tmp_path / "theirs", tmp_path / "ours", "opendetr")
    for source in (tmp_path / "theirs", native):
        checkpoint = load_checkpoint(source)
        assert checkpoint.config.model.pre_norm
        assert checkpoint.label_map.names == ("table", "table rotated")
        assert_same(checkpoint.model, reference)
    assert_same(opendetr.load_model(tmp_path / "theirs", state=table.state_dict()), reference)
    official = api.convert(native, tmp_path / "official", "official") / "checkpoint.pth"
    arguments = vars(torch.load(official, weights_only=False)["args"])
    assert (arguments["pre_norm"], arguments["aux_loss"], arguments["eos_coef"]) == (True, False, 0.1)
    assert "attention_dropout" not in arguments  # what the official code does not know stays out
    again = api.convert(native, tmp_path / "again", "huggingface")
    reread, info = transformers.TableTransformerForObjectDetection.from_pretrained(again, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for one, other in zip(answers(reread.eval(), images(), masks()), reference):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)


def test_a_table_transformer_with_learned_positions_and_a_network_of_timm(tmp_path):
    torch.manual_seed(0)
    config = transformers.TableTransformerConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=15, position_embedding_type="learned",
        backbone="test_resnet",
    )  # fmt: skip
    theirs = transformers.TableTransformerForObjectDetection(config).eval()
    spread(theirs, images())
    reference = answers(theirs, images(), masks())
    theirs.save_pretrained(tmp_path / "theirs")
    assert_same(opendetr.load_model(tmp_path / "theirs"), reference)
    again = api.convert(tmp_path / "theirs", tmp_path / "again", "huggingface")
    reread = transformers.TableTransformerForObjectDetection.from_pretrained(again).eval()
    for one, other in zip(answers(reread, images(), masks()), reference):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)


# Names of classes


def test_classes_called_label_i_take_the_names_of_the_data(changed, digits, tmp_path, capsys):
    theirs = changed(id2label={str(index): f"LABEL_{index}" for index in range(3)})
    ours = api.convert(theirs, tmp_path / "ours", "opendetr")
    again = api.convert(ours, tmp_path / "again", "huggingface")  # their names are still those of no one
    for folder in (theirs, ours, again):
        assert load_checkpoint(folder).origin.labels == "names assumed"
    found = api.val(theirs, digits, "val", classes=["0", "1", "2"], image_size=32)
    assert set(found.per_class) == {"0", "1", "2"}
    assert "does not name its classes: the names of" in " ".join(capsys.readouterr().out.split())


def test_two_classes_without_id2label_have_the_names_of_transformers(small, tmp_path):
    """transformers leaves id2label out where there are two classes."""
    theirs = build(use_timm_backbone=True, backbone="test_resnet")
    torch.manual_seed(1)
    theirs.class_labels_classifier = torch.nn.Linear(32, 3)
    theirs.config.id2label, theirs.config.label2id = None, None
    folder = written(theirs, tmp_path / "two", remove=("id2label", "label2id", "num_labels"))
    checkpoint = load_checkpoint(folder)
    assert checkpoint.label_map.names == ("LABEL_0", "LABEL_1")
    assert checkpoint.origin.labels == "names assumed"


def test_numbers_of_the_config_that_the_weights_contradict_are_refused(changed):
    with pytest.raises(UserError, match=r"num_queries = 1\d+, and the weights have \d+; get both anew"):
        load_checkpoint(changed(num_queries=10**30))


def test_ninety_one_classes_of_ones_own_are_not_cocos():
    names = {str(index): f"thing{index}" for index in range(91)} | {"1": "person"}
    labels = read_labels({"id2label": names}, 91, Path("folder"))
    assert labels.category_ids == tuple(range(91))
    names = {str(index): name for index, name in enumerate(COCO_CLASSES)}
    assert read_labels({"id2label": names}, 91, Path("folder")).category_ids[12] is None


def test_another_image_processor_is_refused_by_name(small, tmp_path):
    shutil.copytree(small, tmp_path / "folder")
    file = tmp_path / "folder" / "preprocessor_config.json"
    transformers.DetrImageProcessor().save_pretrained(tmp_path / "folder")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_processor_type": "YolosImageProcessor"}))
    with pytest.raises(UserError, match="image_processor_type = 'YolosImageProcessor' prepares pictures otherwise"):
        load_checkpoint(tmp_path / "folder")
