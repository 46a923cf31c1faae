"""The transformer: the encoder makes the memory of the image, the decoder reads it with the queries (figure 10)."""

from jaxtyping import Float
from torch import Tensor, nn

from opendetr.model.attention import add_position
from opendetr.model.decoder import Decoder
from opendetr.model.encoder import Encoder
from opendetr.model.queries import Queries
from opendetr.model.tokens import Tokens


class Transformer(nn.Module):
    """Encoder and decoder, and where positions are added.

    Args:
        encoder: makes the memory.
        decoder: reads it.
        position_at_input: add the spatial encoding once to the tokens, instead of to the queries and keys of every
            attention (table 3).
        encoder_position: False: only the decoder uses positions (table 3).
        proposal_maps: number of finest maps that only serve to select queries; the decoder does not read them.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        *,
        position_at_input: bool,
        encoder_position: bool,
        proposal_maps: int = 0,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.position_at_input, self.encoder_position = position_at_input, encoder_position
        self.proposal_maps = proposal_maps

    def encode(self, tokens: Tokens) -> Tokens:
        """The memory: the tokens after the encoder."""
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
        return self.decoder(queries, memory.without_finest(self.proposal_maps), box_head)
