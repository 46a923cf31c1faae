"""Weights of other detectors and backbones, told by the names of their tensors, so that a refusal can name them."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

# Name, and what all have to be found among the names of tensors, each at the beginning of a part. The order decides:
# a later one is a part or an ancestor of an earlier one.
ARCHITECTURES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("an adapter of PEFT (LoRA), to be merged into its model by merge_and_unload()",
     (r"lora_(?:embedding_)?[AB]\b",)),
    ("RF-DETR", (r"backbone\.0\.encoder\.encoder\.",)),
    ("LW-DETR", (r"backbone\.0\.projector\.",)),
    ("LW-DETR or RF-DETR", (r"reference_point_embed\.weight",)),
    ("D-FINE or DEIM", (r"lqe_layers\.|pre_bbox_head\.",)),
    ("RT-DETR", (r"(?:dec|enc)_score_head\.|denoising_class_embed\.weight",)),
    ("YOLOS", (r"detection_tokens$|det_token$",)),
    ("OWL-ViT", (r"owlvit\.|owlv2\.",)),
    ("Grounding DINO", (r"sampling_offsets\.", r"bert\.|text_backbone\.")),
    ("OneFormer", (r"task_encoder\.",)),
    ("Mask2Former", (r"pixel_level_module\.|sem_seg_head\.", r"sampling_offsets\.")),
    ("MaskFormer", (r"pixel_level_module\.|sem_seg_head\.",)),
    ("DINO", (r"label_enc\.weight", r"sampling_offsets\.", r"enc_output\.")),
    ("DN-DETR with deformable attention", (r"label_enc\.weight", r"sampling_offsets\.")),
    ("DN-DETR", (r"label_enc\.weight",)),
    ("Deformable DETR", (r"sampling_offsets\.",)),
    ("DAB-DETR", (r"refpoint_embed\.|query_refpoint_embeddings\.|ref_anchor_head\.",)),
    ("Conditional DETR", (r"[sc]a_qcontent_proj\.|q_content_proj\.|ref_point_head\.",)),
    ("Anchor DETR", (r"adapt_pos2d\.|pattern\.weight",)),
    ("Mask R-CNN", (r"roi_heads?\.", r"(?:rpn|proposal_generator|rpn_head)\.", r"mask_(?:predictor|head)\.")),
    ("Faster R-CNN", (r"roi_heads?\.", r"(?:rpn|proposal_generator|rpn_head)\.")),
    ("RetinaNet, FCOS or SSD", (r"head\.(?:classification_head|cls_logits|module_list)\.",)),
    ("YOLO (of ultralytics)", (r"model\.\d+\.(?:conv|cv\d|m|dfl)\.",)),
    ("a DETR of MMDetection or detrex", (r"bbox_head\.(?:fc_cls|fc_reg|transformer)\.|layers\.\d+\.attentions\.",)),
)  # fmt: skip
# Backbones, by names of tensors below them.
BACKBONES = (
    ("Swin", r"relative_position_bias_table$"),
    ("EfficientNet or MobileNet", r"conv_pwl?\.|_depthwise_conv\.|_project_conv\."),
    ("ConvNeXt", r"conv_dw\.|dwconv\."),
    ("vision transformer (ViT, DINO)", r"attn\.qkv\.|attention\.attention\.query\."),
    ("ResNet with another stem (ResNet-C or -D)", r"conv1\.0\.weight$"),
    ("ResNeSt or SE-ResNet", r"(?:layer\d\.\d+\.)(?:se|conv2\.conv)\."),
    ("VGG, MobileNet or DenseNet of torchvision", r"features\."),
)


def other_architecture(names: Iterable[str]) -> tuple[str, str] | None:
    """The architecture that the names of tensors tell, and the name that tells it; None of a DETR or unknown ones."""
    lines = "\n".join(names)
    for architecture, patterns in ARCHITECTURES:
        found = [re.search(rf"^(?:.*\.)?(?:{pattern}).*$", lines, re.MULTILINE) for pattern in patterns]
        if found[0] and all(found):
            return architecture, found[0][0]
    return None


def backbone_by_names(state: Mapping[str, Tensor], prefix: str) -> str:
    """A backbone that is not one of the five ResNets of the paper's code, in words, by its tensors below `prefix`."""
    below = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
    for kind, pattern in BACKBONES:
        if any(re.search(rf"(?:^|\.|_){pattern}", name) for name in below):
            return kind
    inner = state.get(f"{prefix}layer1.0.conv2.weight")
    if inner is not None and f"{prefix}layer1.0.conv3.weight" in state and len(inner) != 64:
        return "Wide ResNet" if inner.shape[1] == len(inner) else "ResNeXt"
    return ""


def is_backbone_alone(names: Iterable[str]) -> bool:
    """Whether tensors are those of a network for classification, as torchvision, timm and transformers name them."""
    names, stage = list(names), re.compile(r"(?:\w+\.)*(?:layer4|blocks|stages|features|encoder\.layer)\.\d")
    return any(stage.match(name) for name in names) and not any("decoder" in name for name in names)
