"""Attention: every position asks, every other may answer (chapter 09).

The U-Net looks with it at its own map and at the text, the text encoder and the autoencoder at themselves.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeysValues = tuple[Tensor, Tensor]  # of one cross-attention: each N×heads×L×(width/heads)
SHORT = 256  # on a CPU, up to this many positions, plain matrix products beat the fused kernel (forward and backward)


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """How much each query looks at each key, Eq. (09.6): softmax over the keys of q·k/√d.

    Args:
        query: …×Q×d.
        key: …×L×d.
        mask: broadcasts to …×Q×L, True where to look; by default everywhere.

    Returns: …×Q×L, float32 whatever the inputs are; rows that sum to 1.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), Eq. 1.
    """
    score = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # N×heads×Q×L
    score = score if mask is None else score.masked_fill(~mask, -torch.inf)
    return score.softmax(-1, dtype=torch.float32)  # in bf16 it is less exact, and slower


class Attention(nn.Module):
    """Multi-head attention of `width`-wide queries to `context_width`-wide keys and values, Eq. (09.7).

    Each head has its own d = width/heads channels of queries, keys and values, weighs the values by (09.6), and `out` mixes what
    the heads bring. The fused kernel computes the same.

    Set `maps` to a list to have the weights of each call appended to it, N×heads×queries×keys.
    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.2.
    """

    def __init__(self, width: int, heads: int, context_width: int | None = None, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias)
        self.key = nn.Linear(context_width or width, width, bias)
        self.value = nn.Linear(context_width or width, width, bias)
        self.out = nn.Linear(width, width)
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)  # variance is kept, so text is heard early in training
        self.maps: list[Tensor] | None = None

    def keys_values(self, context: Tensor) -> KeysValues:
        """What the queries will look up in the context, N×L×context_width. Constant while the context is."""
        return self._split(self.key(context)), self._split(self.value(context))

    def forward(self, x: Tensor, keys_values: KeysValues | None = None, mask: Tensor | None = None) -> Tensor:
        """x: N×Q×width; keys and values by default x's own; mask: broadcasts to N×heads×Q×L, True where to look."""
        query, (key, value) = self._split(self.query(x)), keys_values or self.keys_values(x)
        if self.maps is None and (x.device.type != "cpu" or max(query.shape[2], key.shape[2]) > SHORT):
            mixed = F.scaled_dot_product_attention(query, key, value, mask)
        else:
            weight = attention_weights(query, key, mask).to(value.dtype)  # N×heads×Q×L
            mixed = weight @ value
            if self.maps is not None:
                self.maps.append(weight.detach())
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # N×heads×L×(width/heads)


class GEGLU(nn.Module):
    """The feed-forward half, Eq. (09.8): twice as many features as needed, one part gating the other through a GELU.

    Source: Shazeer 2020 (arXiv:2002.05202).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gated, self.out = nn.Linear(width, 8 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.gated(x).chunk(2, -1)
        return self.out(value * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Positions look at each other, then at the text, then think, Eq. (09.9): each time normalise, compute, add.

    Source: Rombach et al. 2022 (arXiv:2112.10752), section 3.3; the feed-forward half: Shazeer 2020 (arXiv:2002.05202).
    """

    def __init__(self, width: int, heads: int, context_width: int | None) -> None:
        super().__init__()
        self.norm1, self.attend_self = nn.LayerNorm(width), Attention(width, heads)
        if context_width:
            self.norm2, self.attend_context = nn.LayerNorm(width), Attention(width, heads, context_width)
        self.norm3, self.feed_forward = nn.LayerNorm(width), GEGLU(width)

    def forward(self, x: Tensor, keys_values: KeysValues | None, mask: Tensor | None) -> Tensor:
        x = x + self.attend_self(self.norm1(x))
        if keys_values:
            x = x + self.attend_context(self.norm2(x), keys_values, mask)
        return x + self.feed_forward(self.norm3(x))
