import copy

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d

from opendetr.model.folding import FoldedConv2d, fold_frozen_norms


def network(name):
    torch.manual_seed(0)
    body = timm.create_model(name, features_only=True, out_indices=(-1,)).eval()
    body = freeze_batch_norm_2d(body)
    for name, buffer in body.named_buffers():
        buffer.copy_(
            torch.rand_like(buffer) + 0.5 if name.endswith(("weight", "var")) else torch.randn_like(buffer) / 5
        )
    return body


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "tf_efficientnet_lite0", "resnet18"])
def test_folding_changes_no_number_and_no_name(name):
    plain = network(name).double().train()  # in float64 a ReLU has no near misses
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    assert sum(isinstance(module, FoldedConv2d) for module in folded.modules()) > 5
    assert folded.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(2, 3, 70, 90, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    outputs = [body(images)[-1] for body in (plain, folded)]
    scale = outputs[0].abs().max()
    torch.testing.assert_close(outputs[1] / scale, outputs[0] / scale, rtol=0, atol=1e-12)
    gradients = []
    for body, output in zip((plain, folded), outputs):
        output.square().sum().backward()
        gradients.append(next(body.parameters()).grad)
    scale = gradients[0].abs().max()
    torch.testing.assert_close(gradients[1] / scale, gradients[0] / scale, rtol=0, atol=1e-11)
    assert torch.equal(folded.eval()(images)[-1], plain.eval()(images)[-1])
    before = images.clone()
    with torch.no_grad():  # in place
        assert torch.equal(folded(images)[-1], plain(images)[-1])
    assert torch.equal(images, before)


def test_bf16_folds_in_evaluation_too():
    body = network("test_resnet")
    fold_frozen_norms(body)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network("test_resnet").eval()(images)[-1]
        with torch.autocast("cpu", torch.bfloat16):
            folded = body.eval()(images)[-1]
            assert torch.equal(folded, body.train()(images)[-1])
    assert (folded - expected).abs().max() < 0.02 * expected.abs().max()  # bf16 has 8 bits


def test_a_copy_folds_its_own_norm():
    body = network("test_resnet").train()
    fold_frozen_norms(body)
    twin = copy.deepcopy(body)
    images = torch.randn(1, 3, 64, 64)
    before = body(images)[-1].clone()
    for name, buffer in twin.named_buffers():
        if name.endswith("bias"):
            buffer.add_(1)
    assert torch.equal(body(images)[-1], before)
    assert not torch.allclose(twin(images)[-1], before)


def test_strided_depthwise_convolutions_learn_in_fp32_and_answer_in_bf16():
    body = network("tf_efficientnet_lite0").train()
    fold_frozen_norms(body)
    learned = [m for m in body.modules() if isinstance(m, FoldedConv2d) and m.groups > 1 and max(m.stride) > 1]
    assert learned
    for module in learned:
        x = torch.randn(2, module.in_channels, 11, 14).bfloat16().requires_grad_()
        exact = module(x.float())
        with torch.autocast("cpu", torch.bfloat16):
            found = module(x)
            assert not torch.equal(module(x.detach()), exact.bfloat16())  # without a gradient bf16 is as fast
        assert torch.equal(found, exact.bfloat16())
        gradient, expected = (torch.autograd.grad(output.float().sum(), x)[0] for output in (found, exact))
        torch.testing.assert_close(gradient, expected)
