"""The model as a graph that other programs run: its inputs, its outputs, and how it is traced."""

import copy
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.nn import functional as F

from opendetr.boxes import cxcywh_to_xyxy
from opendetr.checkpoints.native import Checkpoint
from opendetr.errors import UserError, first_line
from opendetr.model.attention import MultiheadAttention
from opendetr.model.detr import DETR
from opendetr.model.folding import fold_frozen_norms, merge_folded_norms
from opendetr.model.postprocess import answers
from opendetr.structures import DetrOutput

STRIDE = 32  # of the coarsest map


class ExportError(UserError):
    """The model cannot be exported, or its export differs too much; trying again will not help."""


class ExportableModel(nn.Module):
    """A copy of a DETR with its post-processing, as one function of tensors.

    With preprocessing it takes uint8 RGB pictures, already resized, and scales and normalises them; with attention the
    last layer's cross-attention is an output too.
    """

    def __init__(self, checkpoint: Checkpoint, *, with_preprocessing: bool, with_attention: bool) -> None:
        super().__init__()
        self.model = easy_to_trace(copy.deepcopy(checkpoint.model).cpu().eval())
        last: Any = self.model.transformer.decoder.layers[-1]
        self.last_attention: MultiheadAttention = last.multihead_attn
        self.scoring = checkpoint.model.scoring
        self.with_preprocessing, self.with_attention = with_preprocessing, with_attention
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(checkpoint.preprocessing.mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(checkpoint.preprocessing.std) * 255, persistent=False)

    def forward(
        self, images: Float[Tensor, "B 3 H W"] | UInt8[Tensor, "B H W 3"], padding_mask: Bool[Tensor, "B H W"]
    ) -> tuple[Tensor, ...]:
        """The outputs of `answered`, and with attention that of the last layer [B, heads, Q, S]."""
        if self.with_preprocessing:
            images = (images.float() - self.mean) / self.std
            images = images.masked_fill(padding_mask[..., None], 0.0).permute(0, 3, 1, 2)
        attention: list[Tensor] = []
        hook = None
        if self.with_attention:
            hook = self.last_attention.register_forward_hook(_weights_into(attention), with_kwargs=True)
        output = self.model(images, padding_mask)
        if hook is not None:
            hook.remove()
        return (*self.answered(output), *attention)

    def answered(self, output: DetrOutput) -> tuple[Tensor, ...]:
        """The outputs that `OUTPUTS` names, from those of the model.

        Returns:
            logits [B, Q, K] and boxes_cxcywh [B, Q, 4] of the last decoder layer; and of every answer its score [B, N],
            class index [B, N] and boxes_xyxy [B, N, 4]. Boxes are fractions of the unpadded picture.
        """
        scores, labels, boxes = answers(output, self.scoring)
        return (output.logits[-1], output.boxes_cxcywh[-1], scores, labels, cxcywh_to_xyxy(boxes))


def _weights_into(attention: list[Tensor]) -> Callable[..., None]:
    def hook(module: MultiheadAttention, inputs: tuple[Any, ...], others: dict[str, Any], _: Tensor) -> None:
        query, key, _, *blocked = inputs
        attention.append(module.weights(query, key, *blocked, **others))

    return hook


def export_program(
    checkpoint: Checkpoint, *, with_preprocessing: bool = False, with_attention: bool = False
) -> ExportedProgram:
    """Trace the model with `torch.export`, for any batch, height and width.

    Raises:
        UserError: the model cannot be traced for any size.
    """
    model = ExportableModel(checkpoint, with_preprocessing=with_preprocessing, with_attention=with_attention)
    return traced(model, checkpoint, from_pixels=with_preprocessing)


def traced(model: ExportableModel, checkpoint: Checkpoint, *, from_pixels: bool = False) -> ExportedProgram:
    """Trace a module that takes pictures and their padding mask, for any batch, height and width.

    Args:
        model: it holds a copy of the checkpoint's model.
        checkpoint: says which sides the model's input has.
        from_pixels: pictures are uint8 [B, H, W, 3] instead of float32 [B, 3, H, W].

    Raises:
        UserError: the model cannot be traced for any size.
    """
    require_exportable(checkpoint)
    multiple = checkpoint.preprocessing.multiple_of
    height, width = 7 * STRIDE, 9 * STRIDE  # different, so that torch takes none for another
    mask = torch.zeros(2, height, width, dtype=torch.bool)
    mask[-1, :, -STRIDE:] = True
    shape = (len(mask), height, width, 3) if from_pixels else (len(mask), 3, height, width)
    images = torch.zeros(shape, dtype=torch.uint8 if from_pixels else torch.float32)
    sides: list[Any] = [Dim.DYNAMIC, Dim.DYNAMIC]
    if multiple % STRIDE == 0:
        sides = [STRIDE * Dim("rows", min=1), STRIDE * Dim("columns", min=1)]
    of_images = {1: sides[0], 2: sides[1]} if from_pixels else {2: sides[0], 3: sides[1]}
    of_batch = {0: Dim.DYNAMIC}
    shapes = {"images": of_batch | of_images, "padding_mask": of_batch | {1: sides[0], 2: sides[1]}}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of torch about its own code
        try:
            program = torch.export.export(model, (images, mask), dynamic_shapes=shapes, strict=False)
        except Exception as error:  # torch has many classes of exceptions
            raise ExportError(f"torch cannot trace this model for any size ({first_line(error)})") from error
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, GraphModule)]
    for node in itertools.chain.from_iterable(graph.nodes for graph in graphs):
        node.meta.pop("stack_trace", None)  # every file of the graph would name the folders of this machine
    return program


def require_exportable(checkpoint: Checkpoint) -> None:
    """Check that the graph will be right for every size of the model's input.

    Raises:
        UserError: it will not.
    """
    same = [module for module in checkpoint.model.backbone.modules() if is_same_convolution(module)]
    if same and checkpoint.preprocessing.multiple_of % STRIDE:
        raise ExportError(
            f"the backbone {checkpoint.config.model.backbone} pads as TensorFlow does, by the size of its input, and "
            f"can be exported only where both sides are multiples of {STRIDE}; this model's are multiples of "
            f"{checkpoint.preprocessing.multiple_of}: train it with --set data.multiple_of={STRIDE}"
        )


class FixedPadding(nn.Module):
    """TensorFlow's `same` convolution for sides that its stride divides, whose padding does not depend on them."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        sizes = zip(convolution.kernel_size, convolution.dilation, convolution.stride)
        vertical, horizontal = (max((kernel - 1) * dilation + 1 - stride, 0) for kernel, dilation, stride in sizes)
        self.padding = (horizontal // 2, horizontal - horizontal // 2, vertical // 2, vertical - vertical // 2)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution."""
        c = self.convolution
        return F.conv2d(F.pad(x, self.padding), c.weight, c.bias, c.stride, 0, c.dilation, c.groups)


def is_same_convolution(module: nn.Module) -> bool:
    """Whether it pads by the size of its input."""
    from timm.layers import Conv2dSame  # type: ignore[attr-defined]

    return issubclass(getattr(module, "unfolded", type(module)), Conv2dSame)


def easy_to_trace(model: DETR) -> DETR:
    """The model, changed where tracing takes long or fails: it computes the same, and can no longer be trained."""
    from timm.layers import freeze_batch_norm_2d  # type: ignore[attr-defined]

    model.backbone.body = freeze_batch_norm_2d(model.backbone.body)  # type: ignore[no-untyped-call] # as in evaluation
    fold_frozen_norms(model.backbone.body)
    merge_folded_norms(model.backbone.body)
    for name, module in list(model.named_modules()):
        if is_same_convolution(module):  # its arithmetic on sizes cannot be traced in reasonable time
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, FixedPadding(module))
        elif hasattr(module, "inplace"):
            module.inplace = False
    return model
