"""Presets: model sections by name."""

from dataclasses import replace

from opendetr.config import ModelConfig

_R50 = ModelConfig()
_SMALL = replace(
    _R50, backbone="tf_efficientnet_lite0", embed_dim=128, num_heads=4, num_encoder_layers=3, num_decoder_layers=3,
    feedforward_dim=512,
)  # fmt: skip
PRESETS: dict[str, ModelConfig] = {
    "detr-r50": _R50,
    "detr-r101": replace(_R50, backbone="resnet101.tv_in1k"),
    "detr-r50-dc5": replace(_R50, output_stride=16),
    "detr-r101-dc5": replace(_R50, backbone="resnet101.tv_in1k", output_stride=16),
    "detr-small": _SMALL,  # the paper's architecture made small, for a laptop
    "detr-tiny": replace(  # for tests: no pretrained weights, a second per epoch
        _SMALL, backbone="test_resnet", backbone_weights="none", output_stride=16, embed_dim=32, num_encoder_layers=1,
        num_decoder_layers=2, feedforward_dim=64, num_queries=10,
    ),
}  # fmt: skip
