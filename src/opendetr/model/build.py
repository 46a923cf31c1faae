"""From a config to a DETR: the one place where a name in the config becomes a part of the model."""

from torch import nn

from opendetr.config import LossConfig, ModelConfig
from opendetr.model.backbone import Backbone
from opendetr.model.decoder import Decoder, DecoderLayer
from opendetr.model.detr import DETR
from opendetr.model.encoder import Encoder, EncoderLayer
from opendetr.model.position import BoxPosition, build_position_encoding, focus_on
from opendetr.model.pyramid import InputProjection, Merge, PyramidEncoder, PyramidProjection
from opendetr.model.queries import LearnedQueries
from opendetr.model.selection import Precedence, SelectedQueries
from opendetr.model.transformer import Transformer
from opendetr.scoring import FocalScoring, Scoring, SoftmaxScoring


def build_model(model: ModelConfig, loss: LossConfig, num_classes: int) -> DETR:
    """The DETR of a config, with random weights; UserError if the backbone is unknown or lacks this stride."""
    strides = (*model.proposal_strides, *model.encoder_strides)
    backbone = Backbone(
        model.backbone,
        model.output_stride,
        strides,
        pretrained=model.backbone_weights != "none",
        freeze_depthwise=model.freeze_depthwise,
        batch_norm=model.batch_norm,
    )
    scoring: Scoring = (
        FocalScoring(loss.iou_power) if model.scoring == "focal" else SoftmaxScoring(loss.no_object_weight)
    )
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
            proposal_maps=len(model.proposal_strides),
        ),
        SelectedQueries(model.num_queries, model.embed_dim, num_classes, scoring, denoises=loss.denoising_queries > 0)
        if selects
        else LearnedQueries(model.num_queries, model.embed_dim, model.query_placement),
        scoring,
        num_classes,
    )
