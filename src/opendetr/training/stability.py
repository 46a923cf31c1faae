"""Matched-query stability: whether the objects of val keep the query that they are matched with.

Li et al. 2022 (DN-DETR, arXiv 2203.01305, section 3) count in a training picture the queries that are matched with
another object, or with none, than an epoch before; they call this instability, and blame it for the slow start of DETR.
Here it is the share of objects whose query stayed, on val, from one evaluation to the next, so that it does not depend
on how many objects a picture has.
"""

from contextlib import suppress
from typing import Any

import torch
from torch.nn import functional as F

from opendetr.loss.matcher import CostWeights, match
from opendetr.scoring import Scoring
from opendetr.structures import DetrOutput, Targets

Origins = list[list[int]]  # per picture: how many origins queries can have, then the origin of each object's query


def origins_of_matches(output: DetrOutput, targets: Targets, scoring: Scoring, costs: CostWeights) -> Origins:
    """Where the query comes from that each object is matched with in the last decoder layer; -1: no query is left.

    The origin of a learned query is the query itself. Selected queries are numbered by their rank, which changes from
    step to step; their origin is the cell of the memory that they were selected from.
    """
    pairs = match(output.last_layer(), targets, scoring, costs)
    num_queries = output.logits.shape[2]
    origins, possible = torch.arange(num_queries).expand(len(targets.counts), -1), num_queries
    if output.proposals is not None:
        promise = output.proposals.logits[0].amax(-1)  # [B, S]
        possible = promise.shape[1]
        cells = promise.topk(min(num_queries, possible), dim=1).indices.cpu()
        origins = F.pad(cells, (0, num_queries - cells.shape[1]), value=-1)
    images, queries, objects = pairs.images.cpu(), pairs.queries.cpu(), pairs.targets.cpu()
    found = torch.full(targets.labels.shape, -1)
    found[images, objects] = origins[images, queries]
    return [[possible, *row[:count]] for row, count in zip(found.tolist(), targets.counts.tolist())]


def share_kept(before: Any, now: Origins) -> float | None:
    """The share of objects whose query has the origin that it had before; None where nothing can be compared.

    Pictures are compared where they had as many objects, and cells. `before` was read from a file: what is something
    else counts as nothing.
    """
    pairs: list[tuple[int, int]] = []
    with suppress(TypeError, IndexError):
        for earlier, later in zip(before, now):
            if len(earlier) == len(later) and earlier and earlier[0] == later[0]:
                pairs += [pair for pair in zip(earlier[1:], later[1:]) if max(pair) >= 0]
    return round(sum(one == other for one, other in pairs) / len(pairs), 6) if pairs else None
