"""From attention over cells to maps over the picture: where weights are, and what they add up to over the layers."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from opendetr.explanation.capture import AttentionLayer, Captured, output_gradients
from opendetr.model.tokens import Tokens


def on_picture(attention: Float[Tensor, "*rows S"], memory: Tokens, picture: int = 0) -> Float[Tensor, "*rows h w"]:
    """Attention over the cells of one picture as a map of the finest cells, without padding; whole cells keep the sum.

    Where the transformer reads several feature maps, a coarse cell's weight is spread evenly over the fine cells in it.

    Args:
        attention: over the S cells of `memory`.
        memory: what was attended to.
        picture: of the batch, whose padding is left out.
    """
    finest = memory.shapes[0]
    found = attention.new_zeros(*attention.shape[:-1], *finest)
    for part, shape in zip(torch.split(attention, [h * w for h, w in memory.shapes], -1), memory.shapes):
        rows, columns = (_parents(fine, coarse, part.device) for fine, coarse in zip(finest, shape))
        children = torch.bincount(rows)[rows][:, None] * torch.bincount(columns)[columns]
        found = found + part.view(*part.shape[:-1], *shape)[..., rows[:, None], columns] / children
    if memory.padding_mask is None:
        return found
    inside = ~memory.padding_mask[picture, : finest[0] * finest[1]].view(finest)
    return found[..., : int(inside[:, 0].sum()), : int(inside[0].sum())]


def _parents(fine: int, coarse: int, device: torch.device) -> Tensor:
    """For every cell along a side of the finest map, the coarse cell it lies in."""
    return torch.arange(fine, device=device) // -(-fine // coarse)


def cell_at(x: float, y: float, memory: Tokens, picture: int = 0) -> int:
    """The index among the cells of `memory` of the finest cell at a point, in fractions of what the maps cover."""
    finest = memory.shapes[0][0] * memory.shapes[0][1]
    distance = (memory.cells[picture, :finest, :2] - torch.tensor([x, y], device=memory.cells.device)).abs()
    if memory.padding_mask is not None:
        distance = distance.masked_fill(memory.padding_mask[picture, :finest, None], float("inf"))
    return int((distance / memory.cells[picture, :finest, 2:]).amax(-1).argmin())


def rollout(captured: Captured, picture: int = 0) -> Float[Tensor, "Q S"]:
    """How much of every cell reached every query through all layers (attention rollout, Abnar and Zuidema 2020).

    Every layer passes on half of what it had and half of what it attended to, averaged over heads. Queries begin with
    nothing: what a selected query has from its own cell is not counted.
    """

    def mixing(layer: AttentionLayer) -> Tensor:
        return layer.weights()[picture].mean(0)

    cells = _identity(captured.decoder_cross[0].key)
    for layer in captured.encoder:
        cells = 0.5 * (cells + mixing(layer) @ cells)
    reached = cells.new_zeros(captured.decoder_cross[0].query.shape[1], len(cells))
    for among, at in zip(captured.decoder_self, captured.decoder_cross):
        reached = 0.5 * (reached + mixing(among) @ reached)
        reached = 0.5 * (reached + mixing(at) @ cells)
    return reached / reached.sum(-1, keepdim=True)


def gradient_relevance(
    captured: Captured, scores: Sequence[Float[Tensor, ""]], queries: Sequence[int]
) -> Float[Tensor, "K S"]:
    """Which cells scores came from: attention weighted by its positive gradient (Chefer et al. 2021, section 3).

    Args:
        captured: a forward pass of one picture with gradients.
        scores: logits of that pass.
        queries: whose score each is.

    Returns:
        For each score the relevance of the cells, of sum 1 (or all 0 where nothing speaks for it).
    """
    gradients = [output_gradients(captured, score) for score in scores]  # per score and layer
    layers = iter(enumerate(captured.layers()))

    def relevant() -> list[Tensor]:
        """Of the next layer, for every score; its weights are computed once."""
        number, layer = next(layers)
        weights = layer.weights()
        return [(layer.gradient(of_score[number]) * weights)[0].clamp(min=0).mean(0) for of_score in gradients]

    with torch.no_grad():
        cells = [_identity(captured.decoder_cross[0].key) for _ in scores]
        for _ in captured.encoder:
            cells = [own + passed @ own for own, passed in zip(cells, relevant())]
        among = [_identity(captured.decoder_self[0].query) for _ in scores]
        found = [own.new_zeros(len(own), len(of)) for own, of in zip(among, cells)]
        for _ in captured.decoder_self:
            passed = relevant()
            among = [own + between @ own for own, between in zip(among, passed)]
            found = [own + between @ own for own, between in zip(found, passed)]
            found = [
                own + _normalised(queried).T @ looked @ _normalised(of)
                for own, queried, looked, of in zip(found, among, relevant(), cells)
            ]
        return torch.stack([F.normalize(own[query], p=1, dim=0) for own, query in zip(found, queries)])


def _identity(tokens: Tensor) -> Tensor:
    return torch.eye(tokens.shape[1], device=tokens.device)


def _normalised(relevance: Tensor) -> Tensor:
    """Rows of what was added to the identity brought to the sum 1 (Chefer et al. 2021, equations 8 and 9)."""
    identity = torch.eye(len(relevance), device=relevance.device)
    return F.normalize(relevance - identity, p=1, dim=-1) + identity


def concentration(attention_map: Float[Tensor, "h w"], box_cxcywh: Float[Tensor, "4"]) -> float:
    """How much denser attention is around a box than spread evenly: 1 is by chance.

    The share of attention inside the box widened by one cell on every side, over the share of the map's cells there.

    Args:
        attention_map: of sum 1.
        box_cxcywh: fractions of what the map covers.
    """
    height, width = attention_map.shape
    x, y, w, h = box_cxcywh.clamp(0, 1).tolist()
    hair = 1e-4  # of a cell: a box that ends where a cell does shall not take the next one for rounding
    left, right = math.floor((x - w / 2) * width + hair) - 1, math.ceil((x + w / 2) * width - hair) + 1
    top, bottom = math.floor((y - h / 2) * height + hair) - 1, math.ceil((y + h / 2) * height - hair) + 1
    inside = attention_map[max(0, top) : bottom, max(0, left) : right]
    share: float = float(inside.mean()) * attention_map.numel()
    return share
