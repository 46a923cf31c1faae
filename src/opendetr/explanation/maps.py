"""From attention over cells to maps over the picture: of one layer, by rollout over layers, and by gradient."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from opendetr.boxes import cxcywh_to_xyxy
from opendetr.model.capture import AttentionLayer, Captured, output_gradients
from opendetr.model.tokens import Tokens


def on_picture(attention: Float[Tensor, "*rows S"], memory: Tokens, picture: int = 0) -> Float[Tensor, "*rows h w"]:
    """Attention over the cells of one picture as a map of the finest cells, without padding; it keeps the sum.

    Where the transformer reads several feature maps, a coarse cell's weight is spread evenly over the fine cells in it
    that are not padding. `picture` is the index in the batch.
    """
    sides = memory.shapes[0]
    if memory.padding_mask is not None:
        inside = ~memory.padding_mask[picture, : math.prod(sides)].view(sides)
        sides = int(inside[:, 0].sum()), int(inside[0].sum())
    rows, columns = (torch.arange(side, device=attention.device) for side in sides)
    found, finer = attention.new_zeros(*attention.shape[:-1], *sides), memory.shapes[0]
    for part, shape in zip(torch.split(attention, [h * w for h, w in memory.shapes], -1), memory.shapes):
        rows, columns = (_parents(*sizes) for sizes in zip((rows, columns), finer, shape))
        down, across = (_spread(*sizes).to(attention.dtype) for sizes in zip((rows, columns), shape))
        found, finer = found + down @ part.reshape(*part.shape[:-1], *shape) @ across.T, shape
    return found


def at_cells(values: Float[Tensor, "*rows S"], memory: Tokens) -> Float[Tensor, "*rows h w"]:
    """Values of the cells of one picture without padding, as a map of the finest cells.

    Where the transformer reads several feature maps, a fine cell gets the mean of its own value and of those of the
    coarse cells that it lies in. `on_picture` is for shares of a sum, this for values of which each stands by itself.
    """
    layers, start = [], 0
    for height, width in memory.shapes:
        of_map = torch.zeros_like(values[..., :1]).expand_as(values).clone()
        of_map[..., start : start + height * width] = 1
        layers.append(on_picture(values * of_map, memory) / on_picture(of_map, memory))
        start += height * width
    return torch.stack(layers).mean(0)


def _parents(cells: Tensor, fine: int, coarse: int) -> Tensor:
    """The cells of the next map, `coarse` cells along a side, that cells of a map with `fine` lie in.

    Backbones halve sides once or more, and round up or down: from 9 come 5 or 4, from 5 come 3 or 2.
    """
    factor = 1
    while fine // factor > coarse:
        factor *= 2
    return (cells // factor).clamp(max=coarse - 1)


def _spread(parents: Tensor, coarse: int) -> Float[Tensor, "fine coarse"]:
    """The shares in which coarse cells go to the fine ones along a side; those without a fine cell go to the last."""
    shares = F.one_hot(parents, coarse).float()
    shares[-1] += shares.sum(0) == 0
    return shares / shares.sum(0)


def cell_at(x: float, y: float, memory: Tokens, picture: int = 0) -> int:
    """The index in `memory` of the finest cell at a point, which is in fractions of the area that the maps cover."""
    finest = memory.shapes[0][0] * memory.shapes[0][1]
    distance = (memory.cells[picture, :finest, :2] - torch.tensor([x, y], device=memory.cells.device)).abs()
    if memory.padding_mask is not None:
        distance = distance.masked_fill(memory.padding_mask[picture, :finest, None], float("inf"))
    return int((distance / memory.cells[picture, :finest, 2:]).amax(-1).argmin())


def rollout(captured: Captured, queries: Sequence[int], picture: int = 0) -> Float[Tensor, "K S"]:
    """Attention rollout: the share of every cell in some queries through all layers (Abnar and Zuidema 2020).

    Every layer's output is half its input and half its attention, averaged over heads. Queries begin at zero: the
    features that a selected query has from its own cell are not counted.

    From the last layer to the first only the wanted rows of the layers' product are carried along, O(K S^2) a layer.
    """

    def mixing(layer: AttentionLayer) -> Tensor:
        return layer.weights()[picture].mean(0)

    own = _identity(captured.decoder_cross[0].query)[list(queries)]
    reached = own.new_zeros(len(own), captured.decoder_cross[0].key.shape[1])
    for among, at in reversed(list(zip(captured.decoder_self, captured.decoder_cross))):
        reached = reached + 0.5 * own @ mixing(at)
        own = 0.25 * (own + own @ mixing(among))
    for layer in reversed(captured.encoder):
        reached = 0.5 * (reached + reached @ mixing(layer))
    return reached / reached.sum(-1, keepdim=True)


def gradient_relevance(
    captured: Captured, scores: Sequence[Float[Tensor, ""]], queries: Sequence[int]
) -> Float[Tensor, "K S"]:
    """Relevance of cells for scores: attention weighted by its positive gradient (Chefer et al. 2021, section 3).

    The scores are logits of the queries in a captured pass of one picture with gradients. Each row of the result has
    the sum 1, or is all 0 where no cell is relevant.
    """
    return torch.stack([_relevance(captured, score, query) for score, query in zip(scores, queries)])


def _relevance(captured: Captured, score: Tensor, query: int) -> Float[Tensor, " S"]:
    """Relevance for one score. The paper multiplies matrices; the row of one query needs vectors, O(S^2) a layer."""
    gradients = output_gradients(captured, score)
    with torch.no_grad():
        layers = [layer.relevance(of_output)[0] for layer, of_output in zip(captured.layers(), gradients)]
        first = len(captured.encoder)
        encoder, decoder = layers[:first], list(zip(layers[first::2], layers[first + 1 :: 2]))
        identity = _identity(captured.decoder_self[0].query)
        mixed, normalised = identity, []
        for between, _ in decoder:
            mixed = mixed + between @ mixed
            normalised.append(F.normalize(mixed - identity, p=1, dim=-1) + identity)  # equations 8 and 9
        own, reached = identity[query], layers[-1].new_zeros(layers[-1].shape[1])
        for (between, looked), of in reversed(list(zip(decoder, normalised))):
            reached = reached + of @ own @ looked
            own = own + own @ between
        # The encoder's R = (1 + A_L) ... (1 + A_1), normalised as above: R - 1 is computed by itself,
        # because beside 1 a small gradient would be lost to rounding.
        added = torch.zeros_like(reached)  # the sums of R - 1 along its rows
        for passed in encoder:
            added = added + passed @ (1 + added)
        begun, gathered = reached / added.clamp(min=1e-20), torch.zeros_like(reached)
        for passed in reversed(encoder):
            gathered = gathered + (begun + gathered) @ passed
        return F.normalize(reached + gathered, p=1, dim=0)


def _identity(tokens: Tensor) -> Tensor:
    return torch.eye(tokens.shape[1], device=tokens.device)


def concentration(attention_map: Float[Tensor, "h w"], box_cxcywh: Float[Tensor, "4"]) -> float:
    """The density of attention around a box, relative to evenly spread attention, which has 1.

    The share of attention (a map of sum 1) inside the box widened by one cell on every side, over the share of cells in
    it. The box is in fractions of the area that the map covers.
    """
    rows, columns = _widened(attention_map.shape, box_cxcywh)
    return float(float(attention_map[rows, columns].mean()) * attention_map.numel())


def widening(shape: Sequence[int], box_cxcywh: Float[Tensor, "4"]) -> float:
    """The area of the widened box of `concentration` over the box's own area, in a map of that shape.

    Concentration times this is the attention around the box over the box's own share of the area.
    """
    height, width = shape
    rows, columns = _widened(shape, box_cxcywh)
    cells = (rows.stop - rows.start) * (columns.stop - columns.start)
    left, top, right, bottom = cxcywh_to_xyxy(box_cxcywh).clamp(0, 1).tolist()
    return float(cells / max(1e-6, (right - left) * (bottom - top) * height * width))


def _widened(shape: Sequence[int], box_cxcywh: Tensor) -> tuple[slice, slice]:
    """The rows and columns of a box with one cell more on every side, within the map."""
    height, width = shape
    x, y, w, h = box_cxcywh.clamp(0, 1).tolist()
    hair = 1e-4  # of a cell, so that a box that ends with a cell does not include the next one by rounding
    left, right = math.floor((x - w / 2) * width + hair) - 1, math.ceil((x + w / 2) * width - hair) + 1
    top, bottom = math.floor((y - h / 2) * height + hair) - 1, math.ceil((y + h / 2) * height - hair) + 1
    return slice(max(0, top), min(height, bottom)), slice(max(0, left), min(width, right))
