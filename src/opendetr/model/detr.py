"""DETR: the page to read first. `DETR.forward` is figure 2 of the paper, `build_model` its composition."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from opendetr.config import LossConfig, ModelConfig
from opendetr.model.attention import add_position
from opendetr.model.backbone import Backbone, load_imagenet_weights
from opendetr.model.decoder import Decoder, DecoderLayer
from opendetr.model.encoder import Encoder, EncoderLayer
from opendetr.model.heads import BoxHead
from opendetr.model.position import BoxPosition, build_position_encoding, focus_on
from opendetr.model.pyramid import InputProjection, Merge, PyramidEncoder, PyramidProjection
from opendetr.model.queries import SILENT, LearnedQueries, Precedence, SelectedQueries
from opendetr.model.tokens import Tokens, cell_boxes
from opendetr.scoring import FocalScoring, Scoring, SoftmaxScoring
from opendetr.structures import Denoising, DetrOutput


class DETR(nn.Module):
    """A set of boxes with classes from an image: backbone, transformer, one answer per object query."""

    def __init__(
        self,
        backbone: Backbone,
        input_proj: InputProjection | PyramidProjection,
        position_encoding: nn.Module | None,
        transformer: "Transformer",
        query_embed: LearnedQueries | SelectedQueries,
        scoring: Scoring,
        num_classes: int,
        proposal_maps: int = 0,
    ) -> None:
        """Compose.

        Args:
            backbone: gives the feature maps.
            input_proj: brings them to the transformer's width.
            position_encoding: says where a cell is; None leaves it out (table 3).
            transformer: encoder and decoder.
            query_embed: where object queries come from.
            scoring: how classes are scored.
            num_classes: C.
            proposal_maps: how many of the finest maps only serve to select queries.
        """
        super().__init__()
        embed_dim = query_embed.embedding_dim
        self.backbone = backbone
        self.input_proj = input_proj
        self.position_encoding = position_encoding
        self.transformer = transformer
        self.query_embed = query_embed
        self.class_embed = nn.Linear(embed_dim, scoring.num_logits(num_classes))
        self.bbox_embed = BoxHead(embed_dim, refines=isinstance(query_embed, SelectedQueries))
        self.scoring: Scoring = scoring
        self.num_classes, self.proposal_maps = num_classes, proposal_maps
        scoring.initialise(self.class_embed)

    def forward(
        self,
        images: Float[Tensor, "B 3 H W"],
        padding_mask: Bool[Tensor, "B H W"] | None = None,
        denoising: Denoising | None = None,
    ) -> DetrOutput:
        """What every decoder layer says about every query.

        Args:
            images: normalised with the backbone's mean and standard deviation; of different sizes: top-left aligned.
            padding_mask: True where an image was padded; None where none was.
            denoising: extra queries of a training step; they change nothing in what the others say.
        """
        memory = self.transformer.encode(self.tokens(images, padding_mask))
        queries = self.query_embed(memory)
        num_queries = queries.content.shape[1]
        if denoising is not None:
            queries = self.query_embed.with_denoising(queries, denoising)  # type: ignore[operator]
        seen = memory.without_finest(self.proposal_maps)
        hidden, boxes_cxcywh = self.transformer.decoder(queries, seen, self.bbox_embed)  # [L, B, Q, D], [L, B, Q, 4]
        logits = self.class_embed(hidden)
        answers = logits[:, :, :num_queries]
        if queries.missing is not None:
            answers = answers.masked_fill(queries.missing[..., None], SILENT)
        ordinary = DetrOutput(answers, boxes_cxcywh[:, :, :num_queries], queries.proposals)
        if denoising is None:
            return ordinary
        return replace(ordinary, denoising=DetrOutput(logits[:, :, num_queries:], boxes_cxcywh[:, :, num_queries:]))

    def tokens(self, images: Tensor, padding_mask: Tensor | None) -> Tokens:
        """The backbone's feature maps, projected and flattened."""
        content, position, masks, cells, shapes = [], [], [], [], []
        for projected, level_mask in self.input_proj(self.backbone(images, padding_mask)):
            batch, _, height, width = projected.shape
            mask = level_mask if level_mask is not None else projected.new_zeros(batch, height, width, dtype=torch.bool)
            content.append(projected.flatten(2).transpose(1, 2))
            masks.append(mask.flatten(1))
            cells.append(cell_boxes(mask).flatten(1, 2))
            shapes.append((height, width))
            if self.position_encoding is not None:
                position.append(self.position_encoding(mask).to(projected.dtype).flatten(1, 2))
        return Tokens(
            torch.cat(content, 1),
            torch.cat(position, 1) if position else None,
            None if padding_mask is None else torch.cat(masks, 1),
            torch.cat(cells, 1),
            tuple(shapes),
        )


class Transformer(nn.Module):
    """Encoder and decoder, and where between them positions are added."""

    def __init__(self, encoder: Encoder, decoder: Decoder, *, position_at_input: bool, encoder_position: bool) -> None:
        """Compose.

        Args:
            encoder: reads the image.
            decoder: answers the queries.
            position_at_input: add the spatial encoding once to the tokens, instead of to the queries and keys of every
                attention (table 3).
            encoder_position: off: the encoder sees no positions, only the decoder does (table 3).
        """
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.position_at_input, self.encoder_position = position_at_input, encoder_position

    def encode(self, tokens: Tokens) -> Tokens:
        """The memory: the tokens, each now knowing the others."""
        x, position = tokens.content, tokens.position
        in_attention = None if self.position_at_input else position
        if self.position_at_input and self.encoder_position:
            x = add_position(x, position)
        encoder_sees = in_attention if self.encoder_position else None
        memory = self.encoder(tokens._replace(content=x, position=encoder_sees))
        if self.position_at_input and not self.encoder_position:
            memory = add_position(memory, position)
        return tokens._replace(content=memory, position=in_attention)


def build_model(model: ModelConfig, loss: LossConfig, num_classes: int) -> DETR:
    """The DETR a config describes, with random weights everywhere.

    Raises:
        UserError: the backbone is unknown or cannot be used at this stride.
    """
    strides = (*model.proposal_strides, *model.encoder_strides)
    pretrained = model.backbone_weights != "none"
    backbone = Backbone(
        model.backbone,
        model.output_stride,
        strides,
        pretrained=pretrained,
        freeze_depthwise=model.freeze_depthwise,
        batch_norm=model.batch_norm,
    )
    scoring = build_scoring(model, loss)
    selects = model.query_source == "selected"
    width = (model.embed_dim, model.num_heads, model.feedforward_dim, model.dropout, model.pre_norm)
    encoder_layers = [EncoderLayer(*width) for _ in range(model.num_encoder_layers)]
    encoder_norm = nn.LayerNorm(model.embed_dim) if model.pre_norm and model.num_encoder_layers else None
    encoder = (
        PyramidEncoder(encoder_layers, encoder_norm, [Merge(model.embed_dim) for _ in model.proposal_strides])
        if strides
        else Encoder(encoder_layers, encoder_norm)
    )
    decoder = Decoder(
        [DecoderLayer(*width) for _ in range(model.num_decoder_layers)],
        nn.LayerNorm(model.embed_dim),
        BoxPosition(model.embed_dim) if selects else None,
        Precedence(model.embed_dim) if model.precedence else None,
        focus_on if model.focus else None,
    )
    return DETR(
        backbone,
        (PyramidProjection if strides else InputProjection)(backbone.channels, model.embed_dim),
        build_position_encoding(model.position_encoding, model.embed_dim),
        Transformer(
            encoder,
            decoder,
            position_at_input=model.position_placement == "input",
            encoder_position=model.encoder_position,
        ),
        SelectedQueries(model.num_queries, model.embed_dim, num_classes, scoring, denoises=loss.denoising_queries > 0)
        if selects
        else LearnedQueries(model.num_queries, model.embed_dim, model.query_placement),
        scoring,
        num_classes,
        len(model.proposal_strides),
    )


def build_pretrained_model(model: ModelConfig, loss: LossConfig, num_classes: int) -> tuple[DETR, str]:
    """The DETR a config describes, its backbone pretrained; and where those weights came from, in words.

    Raises:
        UserError: as `build_model`; or the ImageNet weights were asked for and not found.
    """
    detr = build_model(model, loss, num_classes)
    if model.backbone_weights == "none":
        return detr, "random weights, as asked; nothing is frozen"
    return detr, load_imagenet_weights(detr.backbone.body, model.backbone, model.backbone_weights)


def build_scoring(model: ModelConfig, loss: LossConfig) -> Scoring:
    """How the classes of this config are scored."""
    return FocalScoring(loss.iou_power) if model.scoring == "focal" else SoftmaxScoring(loss.no_object_weight)
