"""The transformer: the encoder makes the memory of the image, the decoder answers the queries from it (figure 10)."""

from jaxtyping import Float
from torch import Tensor, nn

from opendetr.model.attention import add_position
from opendetr.model.decoder import Decoder
from opendetr.model.encoder import Encoder
from opendetr.model.queries import Queries
from opendetr.model.tokens import Tokens


class Transformer(nn.Module):
    """Encoder and decoder, and where between them positions are added."""

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        *,
        position_at_input: bool,
        encoder_position: bool,
        proposal_maps: int = 0,
    ) -> None:
        """Compose.

        Args:
            encoder: reads the image.
            decoder: answers the queries.
            position_at_input: add the spatial encoding once to the tokens, instead of to the queries and keys of every
                attention (table 3).
            encoder_position: off: the encoder sees no positions, only the decoder does (table 3).
            proposal_maps: so many of the finest maps only serve to select queries; the decoder does not read them.
        """
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.position_at_input, self.encoder_position = position_at_input, encoder_position
        self.proposal_maps = proposal_maps

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

    def decode(
        self, queries: Queries, memory: Tokens, box_head: nn.Module
    ) -> tuple[Float[Tensor, "L B Q D"], Float[Tensor, "L B Q 4"]]:
        """The queries after every decoder layer, normalised, and their boxes (cxcywh)."""
        hidden, boxes_cxcywh = self.decoder(queries, memory.without_finest(self.proposal_maps), box_head)
        return hidden, boxes_cxcywh
