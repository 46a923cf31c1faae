"""Attention captured by hooks, which store inputs and outputs; the weights are computed again on request.

So capturing changes neither the model's attention nor its results.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from opendetr.model.attention import MultiheadAttention
from opendetr.model.detr import DETR
from opendetr.model.queries import Queries
from opendetr.model.tokens import Tokens


@dataclass(frozen=True)
class AttentionLayer:
    """Inputs and output of one attention module: N queries attend to M keys."""

    attention: MultiheadAttention
    query: Float[Tensor, "B N D"]
    key: Float[Tensor, "B M D"]
    value: Float[Tensor, "B M D"]
    blocked: Tensor | None  # [B, M] or [B, N, M]
    focus: Tensor | None  # [B, 1, N, M]
    output: Float[Tensor, "B N D"]

    def weights(self, rows: Sequence[int] | None = None) -> Float[Tensor, "B heads N M"]:
        """The attention weights (section A.1, equation 8); every row sums to 1. `rows` selects some of the N."""
        chosen = slice(None) if rows is None else list(rows)
        blocked = self.blocked
        if blocked is not None and blocked.ndim == 3:
            blocked = blocked[:, chosen]
        focus = None if self.focus is None else self.focus[:, :, chosen]
        return self.attention.weights(self.query[:, chosen], self.key, blocked, focus)

    def gradient(self, of_output: Float[Tensor, "B N D"]) -> Float[Tensor, "B heads N M"]:
        """The gradient of the attention weights, computed from that of the module's output."""
        batch, queries, _ = of_output.shape
        value = self.attention.project(self.query, self.key, self.value)[2]
        of_mixed = (of_output @ self.attention.out_proj.weight).view(batch, queries, self.attention.num_heads, -1)
        return of_mixed.transpose(1, 2) @ value.transpose(-2, -1)

    @torch.no_grad()
    def relevance(self, of_output: Float[Tensor, "B N D"]) -> Float[Tensor, "B N M"]:
        """The weights times their gradient where that is positive, mean of the heads (Chefer et al. 2021, eq. 5)."""
        return self.weights().mul_(self.gradient(of_output)).clamp_(min=0).mean(1)


@dataclass
class Captured:
    """The attention of one forward pass, layer by layer."""

    encoder: list[AttentionLayer] = field(default_factory=list)
    decoder_self: list[AttentionLayer] = field(default_factory=list)
    decoder_cross: list[AttentionLayer] = field(default_factory=list)
    memory: Tokens | None = None  # the cells to which encoder and decoder attend
    queries: Queries | None = None  # the decoder's input

    def layers(self) -> list[AttentionLayer]:
        """All of them, in the order in which they ran."""
        pairs = zip(self.decoder_self, self.decoder_cross)
        return [*self.encoder, *(layer for pair in pairs for layer in pair)]


@contextmanager
def capture_attention(model: DETR) -> Iterator[Captured]:
    """A context in which every forward pass of the model stores its attention in the yielded object.

    Example:
        >>> with torch.no_grad(), capture_attention(model) as captured:
        ...     output = model(images)
        >>> captured.decoder_cross[-1].weights()  # [B, heads, Q, S]
    """
    captured = Captured()

    def begin(module: nn.Module, args: Any) -> None:
        for layers in (captured.encoder, captured.decoder_self, captured.decoder_cross):
            layers.clear()

    def note_inputs(module: nn.Module, args: Any) -> None:
        captured.queries, captured.memory = args[0], args[1]

    def note_into(layers: list[AttentionLayer]) -> Any:
        def note(module: MultiheadAttention, args: Any, kwargs: dict[str, Any], output: Tensor) -> None:
            given = {"blocked": None, "focus": None} | dict(zip(("query", "key", "value", "blocked"), args)) | kwargs
            layers.append(AttentionLayer(module, **given, output=output))

        return note

    transformer = model.transformer
    handles = [
        model.register_forward_pre_hook(begin),
        transformer.decoder.register_forward_pre_hook(note_inputs),
    ]
    for layers, stack, name in (
        (captured.encoder, transformer.encoder.layers, "self_attn"),
        (captured.decoder_self, transformer.decoder.layers, "self_attn"),
        (captured.decoder_cross, transformer.decoder.layers, "multihead_attn"),
    ):
        handles += [
            layer.get_submodule(name).register_forward_hook(note_into(layers), with_kwargs=True) for layer in stack
        ]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def output_gradients(captured: Captured, score: Float[Tensor, ""]) -> list[Tensor]:
    """The gradient of a score with respect to the output of every layer, in their order; zeros where it has none."""
    outputs = [layer.output for layer in captured.layers()]
    gradients = torch.autograd.grad(score, outputs, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(output) if gradient is None else gradient for output, gradient in zip(outputs, gradients)]
