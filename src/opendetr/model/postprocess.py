"""From the model's output to detections in pixels of the original picture (section 3.1; official PostProcess)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from opendetr.boxes import cxcywh_to_xyxy
from opendetr.labels import LabelMap
from opendetr.scoring import Scoring
from opendetr.structures import Batch, Detections, DetrOutput


def answers(
    output: DetrOutput, scoring: Scoring
) -> tuple[Float[Tensor, "B N"], Int[Tensor, "B N"], Float[Tensor, "B N 4"]]:
    """Score, class index and box (cxcywh, 0..1) of every answer of the last decoder layer."""
    scores, labels, queries = scoring.answers(output.logits[-1].float())
    boxes = output.boxes_cxcywh[-1].float()
    return scores, labels, boxes.gather(1, queries[..., None].expand(-1, -1, 4))


def postprocess(output: DetrOutput, batch: Batch, scoring: Scoring, label_map: LabelMap) -> list[Detections]:
    """Every answer, nothing thresholded or suppressed; one `Detections` per picture of the batch."""
    scores, labels, boxes_cxcywh = (tensor.cpu() for tensor in answers(output, scoring))
    sizes = batch.original_sizes.cpu()
    height, width = sizes.float().unbind(1)
    boxes_xyxy = cxcywh_to_xyxy(boxes_cxcywh) * torch.stack([width, height, width, height], dim=1)[:, None]
    return [
        Detections(boxes, score, label, label_map, (int(size[0]), int(size[1])), image_id)
        for boxes, score, label, size, image_id in zip(boxes_xyxy, scores, labels, sizes, batch.image_ids)
    ]
