"""DETR: the page to read first. `DETR.forward` is figure 2 of the paper, `build_model` its composition."""

from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from opendetr.config import LossConfig, ModelConfig
from opendetr.devices import without_autocast
from opendetr.model.attention import add_position
from opendetr.model.backbone import Backbone, load_imagenet_weights
from opendetr.model.decoder import Decoder, DecoderLayer
from opendetr.model.encoder import Encoder, EncoderLayer
from opendetr.model.position import build_position_encoding
from opendetr.model.queries import LearnedQueries, Queries
from opendetr.scoring import Scoring, SoftmaxScoring
from opendetr.structures import DetrOutput


class Tokens(NamedTuple):
    """A feature map as a sequence of its cells, row by row; S = h * w."""

    content: Float[Tensor, "B S D"]
    position: Float[Tensor, "B S D"] | None
    padding_mask: Bool[Tensor, "B S"] | None


class DETR(nn.Module):
    """A set of boxes with classes from an image: backbone, transformer, one answer per object query."""

    def __init__(
        self,
        backbone: Backbone,
        position_encoding: nn.Module | None,
        transformer: "Transformer",
        query_embed: LearnedQueries,
        scoring: Scoring,
        num_classes: int,
    ) -> None:
        super().__init__()
        embed_dim = query_embed.embedding_dim
        self.backbone = backbone
        self.input_proj = nn.Conv2d(backbone.num_channels, embed_dim, kernel_size=1)
        self.position_encoding = position_encoding
        self.transformer = transformer
        self.query_embed = query_embed
        self.class_embed = nn.Linear(embed_dim, scoring.num_logits(num_classes))
        self.bbox_embed = MLP(embed_dim, 4, num_layers=3)
        self.scoring: Scoring = scoring
        self.num_classes = num_classes

    def forward(
        self, images: Float[Tensor, "B 3 H W"], padding_mask: Bool[Tensor, "B H W"] | None = None
    ) -> DetrOutput:
        """What every decoder layer says about every query.

        Args:
            images: normalised with the backbone's mean and standard deviation; of different sizes: top-left aligned.
            padding_mask: True where an image was padded; None where none was.
        """
        tokens = self.tokens(images, padding_mask)
        hidden = self.transformer(tokens, self.query_embed)  # [L, B, Q, D]
        logits = self.class_embed(hidden)
        with without_autocast(hidden.device):  # a box in bf16 is off by up to 1/256 of the picture
            boxes_cxcywh = self.bbox_embed(hidden.to(self.bbox_embed.dtype)).sigmoid()
        return DetrOutput(logits, boxes_cxcywh)

    def tokens(self, images: Tensor, padding_mask: Tensor | None) -> Tokens:
        """The backbone's last feature map, projected and flattened."""
        features, padding_mask = self.backbone(images, padding_mask)[-1]
        projected = self.input_proj(features)
        position = None
        if self.position_encoding is not None:
            batch, _, height, width = projected.shape
            mask = (
                padding_mask
                if padding_mask is not None
                else projected.new_zeros(batch, height, width, dtype=torch.bool)
            )
            position = self.position_encoding(mask).to(projected.dtype).flatten(1, 2)
        return Tokens(
            projected.flatten(2).transpose(1, 2), position, None if padding_mask is None else padding_mask.flatten(1)
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

    def forward(self, tokens: Tokens, query_source: nn.Module) -> Float[Tensor, "L B Q D"]:
        """The decoder's output after each of its layers."""
        x, position, padding_mask = tokens
        in_attention = None if self.position_at_input else position
        if self.position_at_input and self.encoder_position:
            x = add_position(x, position)
        memory = self.encoder(x, in_attention if self.encoder_position else None, padding_mask)
        if self.position_at_input and not self.encoder_position:
            memory = add_position(memory, position)
        queries: Queries = query_source(memory)
        hidden: Tensor = self.decoder(queries.content, queries.position, memory, in_attention, padding_mask)
        return hidden


class MLP(nn.Module):
    """Linear layers with ReLUs between them."""

    def __init__(self, embed_dim: int, out_dim: int, num_layers: int) -> None:
        super().__init__()
        widths = [embed_dim] * num_layers + [out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.layers[0].weight.dtype  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """The last layer is linear."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        return last(x)  # type: ignore[no-any-return]


def build_model(model: ModelConfig, loss: LossConfig, num_classes: int) -> DETR:
    """The DETR a config describes, with random weights everywhere.

    Raises:
        UserError: the backbone is unknown or cannot be used at this stride.
    """
    backbone = Backbone(model.backbone, model.output_stride, pretrained=model.backbone_weights != "none")
    width = (model.embed_dim, model.num_heads, model.feedforward_dim, model.dropout, model.pre_norm)
    encoder = Encoder(
        [EncoderLayer(*width) for _ in range(model.num_encoder_layers)],
        nn.LayerNorm(model.embed_dim) if model.pre_norm and model.num_encoder_layers else None,
    )
    decoder = Decoder([DecoderLayer(*width) for _ in range(model.num_decoder_layers)], nn.LayerNorm(model.embed_dim))
    return DETR(
        backbone,
        build_position_encoding(model.position_encoding, model.embed_dim),
        Transformer(
            encoder,
            decoder,
            position_at_input=model.position_placement == "input",
            encoder_position=model.encoder_position,
        ),
        LearnedQueries(model.num_queries, model.embed_dim, model.query_placement),
        build_scoring(loss),
        num_classes,
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


def build_scoring(loss: LossConfig) -> Scoring:
    """How the classes of this config are scored."""
    return SoftmaxScoring(loss.no_object_weight)
