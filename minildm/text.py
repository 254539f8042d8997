"""From tokens to vectors: a transformer text encoder, shaped like CLIP's; and language models, which it grows from (chapter 13).

Rows of tokens are N×L as `Tokenizer.batch` makes them: start, the text, end, and more ends to fill. What comes after the first
end is padding, and no part of the text.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.attention import Attention
from minildm.config import TextConfig


def quick_gelu(h: Tensor) -> Tensor:
    """A gate that is nearly the GELU's, Eq. (13.5): h · s(1.702 h), with s the logistic function. Same shape as h.

    Source: Hendrycks and Gimpel 2016 (arXiv:1606.08415), section 2.
    """
    return h * torch.sigmoid(1.702 * h)


class TextBlock(nn.Module):
    """Self-attention, then a feed-forward network, each on normalised input and added to it (pre-norm), Eq. (13.6).

    Source: Radford et al. 2019 (GPT-2), section 2.3; why the norm stands there: Xiong et al. 2020 (arXiv:2002.04745).
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1, self.attend = nn.LayerNorm(width), Attention(width, config.heads, bias=True)
        inner = config.feed_forward or 4 * width
        self.norm2, self.wide, self.narrow = nn.LayerNorm(width), nn.Linear(width, inner), nn.Linear(inner, width)
        self.gate = quick_gelu if config.quick_gelu else F.gelu

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: N×L×width; mask: L×L, True where row i may look at column j, or None for everywhere. Returns N×L×width."""
        x = x + self.attend(self.norm1(x), mask=mask)
        return x + self.narrow(self.gate(self.wide(self.norm2(x))))


class TextEncoder(nn.Module):
    """Tokens to vectors, one per token, each knowing what stands before it (and after it, unless causal), Eq. (13.7).

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

    def embed(self, tokens: Tensor) -> Tensor:
        """What each token is and where it stands, added, Eq. (13.4): x_i = E[w_i] + P[i]. N×L → N×L×width.

        Raises:
            ValueError: more tokens than positions.
        """
        length = tokens.shape[1]
        if length > self.config.length:
            raise ValueError(f"{length} tokens, but the encoder has {self.config.length} positions: cut the prompt")
        return self.tokens(tokens) + self.positions.weight[:length]

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens N×L (L up to `config.length`) → states N×L×width. Raises ValueError for more tokens than positions."""
        x = self.embed(tokens)
        mask = causal_mask(tokens.shape[1], x.device) if self.config.causal else None
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


def causal_mask(length: int, device: torch.device | str = "cpu") -> Tensor:
    """L×L, True where position i (the row) may look at j (the column): at itself and at what stands before it, j ≤ i."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def pooled(states: Tensor, tokens: Tensor, end: int) -> Tensor:
    """One vector per prompt: the state at the first end token, Eq. (13.8). N×L×width → N×width.

    Source: Radford et al. 2021 (arXiv:2103.00020), section 2.4.
    """
    return states[torch.arange(len(states)), (tokens == end).int().argmax(1)]


class LanguageModel(nn.Module):
    """A text encoder with a guess at a token in every place: logits N×L×vocabulary.

    Its head starts at zero, so that a fresh model holds all tokens for equally likely and its first loss is log V.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.encoder, self.head = TextEncoder(config), nn.Linear(config.width, config.vocabulary)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(tokens))


def in_text(tokens: Tensor, end: int) -> Tensor:
    """Which tokens belong to the text, its first end token included, and not to the padding. N×L, True or False."""
    ends = (tokens == end).int()
    return ends.cumsum(1) - ends == 0


def next_token_log_probs(logits: Tensor, tokens: Tensor, end: int) -> Tensor:
    """How well each token is foreseen from those before it, Eq. (13.9): log p(w_{i+1} | w_1 … w_i), in nats.

    Args:
        logits: N×L×V; those at position i are about the token at i + 1. The last position's are not needed.
        tokens: N×L.
        end: the number of the end token. Padding is no part of the text and counts 0.

    Returns: N×(L−1), at most 0. A row's sum is log p(text | start), by the chain rule.
    """
    log_probs = logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    return log_probs * in_text(tokens, end)[:, 1:]


def prefix_groups(rows: Tensor) -> Tensor:
    """Numbers for the beginnings of rows: entry (n, i) tells the first i tokens of row n from all others. N×L → N×(L+1)."""
    groups = [torch.zeros_like(rows[:, 0])]
    for column in rows.T:
        groups.append(torch.unique(groups[-1] * (rows.max() + 1) + column, return_inverse=True)[1])
    return torch.stack(groups, 1)


def group_totals(groups: Tensor, p: Tensor) -> Tensor:
    """For each row the probability of its whole group. groups, p: shape N."""
    return p.new_zeros(int(groups.max()) + 1).index_add(0, groups, p)[groups]


def ideal_log_probs(rows: Tensor, p: Tensor) -> Tensor:
    """What a perfect causal model would say, in a world of N texts, Eq. (13.10): log P(w_1 … w_{i+1}) − log P(w_1 … w_i).

    P of a beginning is the sum of the probabilities of all texts that begin so. Nothing is learned: it is counted.

    Args:
        rows: every text of the world once, N×L.
        p: the probability of each, float64, shape N.

    Returns: log p(w_{i+1} | w_1 … w_i) in nats, N×(L−1); 0 where the next token is certain, as in padding.
    """
    groups = prefix_groups(rows)[:, 1:]
    log_p = torch.stack([group_totals(column, p) for column in groups.T], 1).log()  # N×L: of each row's beginnings
    return log_p.diff(dim=1)


def ideal_masked_log_probs(rows: Tensor, p: Tensor) -> Tensor:
    """What a perfect masked model would say of one hidden token, Eq. (13.13): log P(w) − log Σ P(w′), over w′ equal elsewhere.

    Args: as for `ideal_log_probs`.

    Returns: log p(w_i | all other tokens) in nats, N×L.
    """
    before, after = prefix_groups(rows)[:, :-1], prefix_groups(rows.flip(1)).flip(1)[:, 1:]  # of what is left and right of i
    elsewhere = before * len(rows) + after
    totals = [group_totals(torch.unique(column, return_inverse=True)[1], p) for column in elsewhere.T]
    return p.log()[:, None] - torch.stack(totals, 1).log()


def perplexity(log_probs: Tensor, count: Tensor | int) -> Tensor:
    """Among how many equally likely tokens the model seems to choose, Eq. (13.11): exp of the mean nats per token.

    Args:
        log_probs: log-probabilities of texts or tokens, any shape; they are summed.
        count: of how many tokens they speak.

    Returns: a single number, at least 1.
    """
    return torch.exp(-log_probs.sum() / count)


def masked_loss(model: nn.Module, tokens: Tensor, hidden: Tensor, mask: int) -> Tensor:
    """The mean surprise at tokens that were hidden, Eq. (13.12): −Σ_{i ∈ M} log p(w_i | w with M hidden) / |M|.

    Args:
        model: tokens N×L → logits N×L×V; it should look both ways.
        hidden: M, N×L, True where the mask's number takes the token's place.
        mask: a number that stands for no token.

    Returns: nats, a single number.

    Source: Devlin et al. 2018 (arXiv:1810.04805), section 3.1, without the tokens that are kept or drawn at random.
    """
    logits = model(tokens.masked_fill(hidden, mask))
    return F.cross_entropy(logits[hidden], tokens[hidden])


def causal_loss(model: nn.Module, tokens: Tensor, end: int) -> Tensor:
    """The mean surprise at the next token, padding left out: minus (13.9), averaged. Nats, a single number."""
    return -next_token_log_probs(model(tokens), tokens, end).sum() / in_text(tokens, end)[:, 1:].sum()


def train_language_model(
    model: nn.Module, loss_of: Callable[[nn.Module, int], Tensor], steps: int, lr: float = 3e-3
) -> list[float]:
    """Train in place: Adam, with a learning rate that rises, then falls to 0. Returns the loss of every step.

    loss_of: (model, step) → the loss on some batch.
    """
    optimizer, losses = torch.optim.Adam(model.parameters(), lr, fused=True), []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(1, (step + 1) / 50) * (1 - step / steps)
        loss = loss_of(model, step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def write_texts(model: nn.Module, start: int, end: int, count: int, length: int, generator: torch.Generator) -> Tensor:
    """Let a causal model write: draw each token from p(· | those before it). Rows of tokens, count×length.

    After the first end a row is filled with ends. `generator` is on the CPU.
    """
    rows = torch.full((count, 1), start, device=next(model.parameters()).device)
    while rows.shape[1] < length:
        drawn = torch.multinomial(model(rows)[:, -1].softmax(-1).cpu(), 1, generator=generator).to(rows)
        rows = torch.cat([rows, drawn.masked_fill((rows == end).any(1, keepdim=True), end)], 1)
    return rows
