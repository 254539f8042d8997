"""From tokens to vectors: a transformer text encoder, shaped like CLIP's (chapter 13)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.attention import Attention
from minildm.config import TextConfig


class TextBlock(nn.Module):
    """Self-attention, then a feed-forward network, each on normalised input and added to it (pre-norm)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1, self.attend = nn.LayerNorm(width), Attention(width, config.heads, bias=True)
        self.norm2, self.wide, self.narrow = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.quick_gelu = config.quick_gelu

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attend(self.norm1(x), mask=mask)
        h = self.wide(self.norm2(x))
        h = h * torch.sigmoid(1.702 * h) if self.quick_gelu else F.gelu(h)
        return x + self.narrow(h)


class TextEncoder(nn.Module):
    """Tokens to vectors, one per token, each knowing what stands before it (and after it, unless causal).

    Source: Radford et al. 2021 (arXiv:2103.00020), section 2.4, with the sizes of `TextConfig`.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.length, config.width)
        self.blocks = nn.ModuleList(TextBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        nn.init.normal_(self.tokens.weight, std=1.0)
        nn.init.normal_(self.positions.weight, std=0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens N×L (L up to `config.length`) → states N×L×width.

        Raises:
            ValueError: more tokens than positions.
        """
        length = tokens.shape[1]
        if length > self.config.length:
            raise ValueError(f"{length} tokens, but the encoder has {self.config.length} positions: cut the prompt")
        x = self.tokens(tokens) + self.positions.weight[:length]
        mask = torch.ones(length, length, dtype=torch.bool, device=x.device).tril() if self.config.causal else None
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


def pooled(states: Tensor, tokens: Tensor, end: int) -> Tensor:
    """One vector per prompt: the state at the first end token, N×L×width → N×width."""
    return states[torch.arange(len(states)), (tokens == end).int().argmax(1)]
