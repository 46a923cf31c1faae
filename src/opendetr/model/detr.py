"""DETR: the page to read first. `DETR.forward` is figure 2 of the paper; `build.py` composes one from a config."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from opendetr.model.backbone import Backbone
from opendetr.model.heads import BoxHead
from opendetr.model.pyramid import InputProjection, PyramidProjection
from opendetr.model.queries import LearnedQueries
from opendetr.model.selection import SelectedQueries
from opendetr.model.tokens import flatten
from opendetr.model.transformer import Transformer
from opendetr.scoring import Scoring
from opendetr.structures import Denoising, DetrOutput


class DETR(nn.Module):
    """A set of boxes with classes from an image: backbone, transformer, one answer per object query."""

    def __init__(
        self,
        backbone: Backbone,
        input_proj: InputProjection | PyramidProjection,
        position_encoding: nn.Module | None,
        transformer: Transformer,
        query_embed: LearnedQueries | SelectedQueries,
        scoring: Scoring,
        num_classes: int,
    ) -> None:
        super().__init__()
        embed_dim = query_embed.embed_dim
        self.backbone = backbone
        self.input_proj = input_proj  # projects feature maps to the transformer's width
        self.position_encoding = position_encoding  # of the cells; None leaves it out (table 3)
        self.transformer = transformer
        self.query_embed = query_embed  # makes the object queries
        self.class_embed = nn.Linear(embed_dim, scoring.num_logits(num_classes))
        self.bbox_embed = BoxHead(embed_dim, refines=isinstance(query_embed, SelectedQueries))
        self.scoring: Scoring = scoring
        self.num_classes = num_classes
        scoring.initialise(self.class_embed)

    def forward(
        self,
        images: Float[Tensor, "B 3 H W"],
        padding_mask: Bool[Tensor, "B H W"] | None = None,
        denoising: Denoising | None = None,
    ) -> DetrOutput:
        """The output of every decoder layer for every query.

        Args:
            images: normalised with the backbone's mean and standard deviation; of different sizes: top-left aligned.
            padding_mask: True where an image was padded; None where none was.
            denoising: extra queries of a training step; they do not change the output of the ordinary queries.
        """
        features = self.input_proj(self.backbone(images, padding_mask))
        memory = self.transformer.encode(flatten(features, self.position_encoding))
        queries = self.query_embed(memory, denoising)
        hidden, boxes_cxcywh = self.transformer.decode(queries, memory, self.bbox_embed)
        return queries.output(self.class_embed(hidden), boxes_cxcywh)
