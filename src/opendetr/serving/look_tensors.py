"""What the page shows of a picture inside the model, as plain tensors: of the server, or of an exported graph.

Of attention they hold queries and keys instead of weights: those of an encoder layer take [heads, S, S] numbers, while
queries and keys take [heads, S, d], and the page computes only the rows that are looked at.
"""

import torch
from torch import Tensor

from opendetr.explanation.maps import rollout
from opendetr.model.capture import AttentionLayer, Captured
from opendetr.structures import DetrOutput


def look_tensors(output: DetrOutput, captured: Captured) -> dict[str, Tensor]:
    """The look tensors of the first picture of a batch, which has no padding, all float32 and contiguous.

    The weights of a layer are `softmax(query @ key^T + focus)`: queries are scaled by d^-0.5 already.

    Returns:
        logits [L, Q, K] and boxes_cxcywh [L, Q, 4] after every decoder layer; starts_cxcywh [Q, 4], where queries start
        at a box; encoder_query and encoder_key [Le, heads, S, d], where there is an encoder; cross_query
        [L, heads, Q, d] and cross_key [L, heads, S, d]; focus [L, Q, S], where the model has that prior; and
        rollout [Q, S], whose rows sum to 1.
    """
    found = {"logits": output.logits[:, 0], "boxes_cxcywh": output.boxes_cxcywh[:, 0]}
    queries = captured.queries
    if queries is not None and queries.reference_boxes is not None:
        found["starts_cxcywh"] = queries.reference_boxes[0]
    if captured.encoder:
        found["encoder_query"], found["encoder_key"] = _projected(captured.encoder)
    found["cross_query"], found["cross_key"] = _projected(captured.decoder_cross)
    if captured.decoder_cross[0].focus is not None:
        found["focus"] = torch.stack([layer.focus[0, 0] for layer in captured.decoder_cross if layer.focus is not None])
    found["rollout"] = rollout(captured, range(output.logits.shape[2]))
    return {name: tensor.detach().float().contiguous() for name, tensor in found.items()}


def _projected(layers: list[AttentionLayer]) -> tuple[Tensor, Tensor]:
    """Queries and keys of every layer and head, the queries scaled by d^-0.5."""
    both = [layer.attention.project(layer.query, layer.key) for layer in layers]
    queries, keys = (torch.stack([pair[part][0] for pair in both]) for part in (0, 1))
    return queries * queries.shape[-1] ** -0.5, keys
