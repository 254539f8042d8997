"""Pictures and captions in one space: contrastive training, and what it gives for nothing (chapter 14)."""

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.config import ClipConfig
from minildm.information import expectation, kl_divergence
from minildm.text import TextEncoder, pooled

LARGEST_SCALE = 100.0  # by which cosines may be multiplied; Radford et al. 2021, section 2.5


class ImageEncoder(nn.Module):
    """The image tower: at each level a 3×3 convolution, GroupNorm and SiLU; from the second level on each halves the map.

    The last map is flattened, not averaged: where something stands is part of what a caption says.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config, before, levels = config, config.image_channels, []
        for level, width in enumerate(config.widths):
            convolution = nn.Conv2d(before, width, 3, stride=2 if level else 1, padding=1)
            levels.append(nn.Sequential(convolution, nn.GroupNorm(config.groups, width), nn.SiLU()))
            before = width
        self.levels = nn.ModuleList(levels)
        side = config.image_size // 2 ** (len(levels) - 1)
        self.project = nn.Linear(before * side**2, config.width, bias=False)

    def features(self, images: Tensor) -> list[Tensor]:
        """The maps of all levels, N×C_l×h_l×w_l, the largest first, of images N×C×H×W in [-1, 1] of any size."""
        maps = []
        for level in self.levels:
            images = level(images)
            maps.append(images)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Pictures N×C×H×W in [-1, 1] → vectors N×width, of any length. Raises ValueError for pictures of another size."""
        wanted = (self.config.image_channels, self.config.image_size, self.config.image_size)
        if images.shape[1:] != wanted:
            raise ValueError(f"pictures are {tuple(images.shape[1:])}, but the tower sees {wanted}: resize them")
        return self.project(self.features(images)[-1].flatten(1))


class Clip(nn.Module):
    """Two towers and the logarithm of a scale: a picture and its caption get nearly the same direction.

    Source: Radford et al. 2021 (arXiv:2103.00020), section 2 and Figure 3.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.image, self.text = ImageEncoder(config), TextEncoder(config.text)
        self.project_text = nn.Linear(config.text.width, config.width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied with, one over the temperature: at most 100."""
        return torch.exp(self.log_scale.clamp(max=math.log(LARGEST_SCALE)))

    def encode_images(self, images: Tensor) -> Tensor:
        """Pictures N×C×H×W in [-1, 1] → unit vectors N×width."""
        return F.normalize(self.image(images), dim=1)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """Captions N×L → unit vectors N×width, read where the caption ends: every row must have an end token."""
        end = int(tokens.max())  # the largest number, in `Tokenizer` as in CLIP's own
        return F.normalize(self.project_text(pooled(self.text(tokens), tokens, end)), dim=1)

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Every picture with every caption, Eq. (14.1): ℓ_ij = s u_i·w_j. N×C×H×W and M×L → logits N×M."""
        return self.scale * self.encode_images(images) @ self.encode_texts(tokens).T


def contrastive_loss(logits: Tensor, same: Tensor | None = None) -> Tensor:
    """Find the caption of a picture among N, and the picture of a caption, Eq. (14.2): the mean of two cross-entropies.

    Args:
        logits: N×N, row: picture, column: caption, the pairs on the diagonal.
        same: N×N, True where picture i and caption j belong together as well as a pair does; the right answers then share
            the target equally. None: only the diagonal.

    Returns: nats, one per pair, shape N.

    Source: Radford et al. 2021 (arXiv:2103.00020), Figure 3.
    """
    right = torch.eye(len(logits), device=logits.device) if same is None else same.to(logits)
    of_picture = -(right / right.sum(1, keepdim=True) * F.log_softmax(logits, 1)).sum(1)  # N: along its row
    of_caption = -(right / right.sum(0, keepdim=True) * F.log_softmax(logits, 0)).sum(0)  # N: down its column
    return (of_picture + of_caption) / 2


def train_clip(
    clip: Clip,
    images: Tensor,
    tokens: Tensor,
    steps: int,
    generator: torch.Generator,
    *,
    batch: int = 64,
    lr: float = 2e-3,
    loss: Callable[[Tensor], Tensor] = contrastive_loss,
) -> list[float]:
    """Train in place on pictures N×C×H×W and their captions N×L, with a learning rate that rises, then falls to 0.

    `generator` is on the CPU and draws the batches, without repeating a picture in one; `loss` is called like
    `contrastive_loss`. Returns the loss of every step, nats.
    """
    optimizer, losses = torch.optim.Adam(clip.parameters(), lr, betas=(0.9, 0.98), fused=True), []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(1, (step + 1) / 50) * (1 - step / steps)
        chosen = torch.randperm(len(images), generator=generator)[:batch]
        value = loss(clip(images[chosen], tokens[chosen])).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        with torch.no_grad():
            clip.log_scale.clamp_(max=math.log(LARGEST_SCALE))  # beyond it the gradient is 0, and it could not come back
        losses.append(value.item())
    return losses


def best_critic(joint: Tensor) -> Tensor:
    """The logits that no others beat, Eq. (14.3): log p(c | x) / p(c), the pointwise mutual information.

    Args:
        joint: p(x, c) of a world of finitely many pictures and captions, X×C, summing to 1.

    Returns: nats, X×C, −∞ for what never occurs together. A function of x may be added where captions compete, one of c
        where pictures do.

    Source: van den Oord et al. 2018 (arXiv:1807.03748), Eq. 5.
    """
    return torch.log(joint / (joint.sum(1, keepdim=True) * joint.sum(0)))


def mutual_information(joint: Tensor) -> Tensor:
    """What a picture tells of its caption, Eq. (14.4): I(x; c) = KL(p(x, c) ‖ p(x) p(c)), in nats, for p(x, c) X×C.

    Source: Cover and Thomas 2006 (Elements of Information Theory), Eq. 2.29.
    """
    alone = joint.sum(1, keepdim=True) * joint.sum(0)
    return math.log(2) * kl_divergence(joint.flatten(), alone.flatten())  # chapter 01's are bits


def lineup_loss(joint: Tensor, critic: Tensor, count: int) -> Tensor:
    """The expected loss of finding a picture's caption among `count`, Eq. (14.5), over all X·C^count line-ups.

    Args:
        joint: p(x, c), X×C, summing to 1.
        critic: logits, X×C.
        count: N, the right caption and N − 1 that are drawn from p(c).

    Source: van den Oord et al. 2018 (arXiv:1807.03748), Eq. 4.
    """
    total, caption = torch.zeros((), dtype=joint.dtype), joint.sum(0)
    for others in itertools.product(range(joint.shape[1]), repeat=count - 1):
        others = torch.tensor(others, dtype=torch.long)
        rivals = critic[:, others].exp().sum(1, keepdim=True)  # X×1
        surprise = torch.log(critic.exp() + rivals) - critic  # X×C
        total = total + caption[others].prod() * expectation(joint.flatten(), surprise.flatten())
    return total


def information_bound(loss: Tensor, count: int) -> Tensor:
    """What a loss among `count` proves, Eq. (14.6): I(x; c) ≥ log N − L, in nats, shaped like `loss`.

    Source: van den Oord et al. 2018 (arXiv:1807.03748), section 2.3; derived there with an approximation, here without.
    """
    return math.log(count) - loss


def duplicate_floor(same: Tensor) -> Tensor:
    """The loss that is left when everything is known, Eq. (14.7): the log of how many answers are equally right, shape N.

    same: N×N, True where picture i and caption j belong together; the diagonal is True.
    """
    return (torch.log(same.sum(1).double()) + torch.log(same.sum(0).double())) / 2


def least_loss(scale: Tensor, count: int) -> Tensor:
    """Below this no N pairs of unit vectors come, Eq. (14.8): log(1 + (N − 1) e^{−sN/(N − 1)}), shaped like `scale`."""
    return F.softplus(math.log(count - 1) - scale * count / (count - 1))


def scale_gradient(cosines: Tensor, log_scale: Tensor) -> Tensor:
    """The slope of the loss in log s, Eq. (14.9): the mean logit by the model's own belief, minus the pair's logit.

    cosines: u_i·w_j, N×N, the pairs on the diagonal. Returns nats, one per pair, shape N.
    """
    logits = torch.exp(log_scale) * cosines
    expected = (logits.softmax(1) * logits).sum(1) + (logits.softmax(0) * logits).sum(0)
    return expected / 2 - logits.diagonal()


def class_vectors(clip: Clip, tokens: Tensor) -> Tensor:
    """One unit vector per class: its captions' vectors averaged and brought back to length 1. K×P×L → K×width."""
    return F.normalize(clip.encode_texts(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2]).mean(1), dim=1)


def zero_shot(clip: Clip, images: Tensor, class_tokens: Tensor, log_prior: Tensor | float = 0.0) -> Tensor:
    """Which class a picture belongs to, by captions alone, Eq. (14.10): log softmax_k(s u·w_k + log π_k).

    Args:
        images: N×C×H×W in [-1, 1].
        class_tokens: the caption of each class, K×L, or P captions for each, K×P×L.
        log_prior: log π of the classes, shape K; by default all alike.

    Returns: log-probabilities, N×K.

    Source: Radford et al. 2021 (arXiv:2103.00020), sections 3.1.2 and 3.1.4.
    """
    captions = class_tokens if class_tokens.ndim == 3 else class_tokens[:, None]
    return F.log_softmax(clip.scale * clip.encode_images(images) @ class_vectors(clip, captions).T + log_prior, 1)


def recall_at(similarity: Tensor, k: int, same: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Whether a right answer is among the k most similar, Eq. (14.11): from picture to caption, from caption to picture.

    Args:
        similarity: N×N, row: picture, column: caption, the pairs on the diagonal.
        same: N×N, True where the answer is right; None: on the diagonal only.

    Returns: 1.0 or 0.0 for each picture and for each caption, N and N. A wrong answer that is as similar as the right one
        stands before it, so that a tower that says always the same finds nothing.
    """
    right = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device) if same is None else same
    answers = []
    for table, correct in ((similarity, right), (similarity.T, right.T)):
        best = table.masked_fill(~correct, -math.inf).amax(1, keepdim=True)
        answers.append(((~correct & (table >= best)).sum(1) < k).to(similarity))
    return answers[0], answers[1]


def clip_score(clip: Clip, images: Tensor, tokens: Tensor) -> Tensor:
    """How well each picture fits its caption, Eq. (14.12): 2.5 max(u·w, 0), shape N. Images N×C×H×W, tokens N×L.

    Source: Hessel et al. 2021 (arXiv:2104.08718), Eq. 1.
    """
    return 2.5 * (clip.encode_images(images) * clip.encode_texts(tokens)).sum(1).clamp(min=0)
