"""Latents from a finite list: vector quantisation, its gradient that is not one, and codes that nobody uses (chapter 15)."""

import torch
from torch import Tensor, nn

from minildm.information import entropy


def quantise(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Each vector's nearest code, Eq. (15.6): z_q = e_k with k = argmin_j ‖z − e_j‖.

    Args:
        z: N×C×…, a vector of C channels at every position.
        codebook: e, K×C.

    Returns: z_q, shaped like z, differentiable in the codebook alone; and the codes' numbers k, int64, N×….

    Raises:
        ValueError: codes of another width than z has channels.

    Source: van den Oord et al. 2017 (arXiv:1711.00937), Eq. 1 and 2.
    """
    if z.shape[1] != codebook.shape[1]:
        raise ValueError(f"codes of {codebook.shape[1]} numbers for vectors of {z.shape[1]} channels: make them equal")
    vectors = z.movedim(1, -1)  # N×…×C
    with torch.no_grad():  # ‖z‖² is the same for every code
        codes = (codebook.square().sum(1) - 2 * vectors @ codebook.T).argmin(-1)
    return codebook[codes].movedim(-1, 1), codes


def straight_through(z: Tensor, z_q: Tensor) -> Tensor:
    """Forwards z_q, backwards as if nothing had happened, Eq. (15.8): z + sg[z_q − z], of one shape, where sg stops the gradient.

    The true gradient with respect to z is zero almost everywhere; this one is not, and is not the gradient of the mean loss.

    Source: Bengio et al. 2013 (arXiv:1308.3432), section 2.3; van den Oord et al. 2017 (arXiv:1711.00937), section 3.2.
    """
    return z + (z_q - z).detach()


def vq_terms(z: Tensor, z_q: Tensor) -> tuple[Tensor, Tensor]:
    """The two pulls between vectors and their codes, Eq. (15.9): mean (sg[z] − z_q)² and mean (z − sg[z_q])².

    The first moves the codes, the second, the commitment, moves the encoder. Equal in value, and not at all in gradient.

    Args:
        z, z_q: vectors and their codes, one shape.

    Returns: the codebook's term and the commitment, single numbers, averaged over everything.

    Source: van den Oord et al. 2017 (arXiv:1711.00937), Eq. 3.
    """
    return (z.detach() - z_q).square().mean(), (z - z_q.detach()).square().mean()


def cell_means(points: Tensor, codebook: Tensor) -> Tensor:
    """One step of Lloyd's algorithm, Eq. (15.7): every code moves to the mean of the points whose nearest code it is.

    Args:
        points: N×C.
        codebook: K×C. A code that no point is nearest to stays where it is.

    Returns: the new codebook, K×C. The mean squared distance to the nearest code never rises.

    Source: Lloyd 1982, IEEE Transactions on Information Theory 28:129.
    """
    codes = quantise(points, codebook)[1]
    counts = codes.bincount(minlength=len(codebook)).to(points)[:, None]
    sums = torch.zeros_like(codebook).index_add_(0, codes, points)
    return torch.where(counts > 0, sums / counts.clamp(min=1), codebook)


def perplexity(counts: Tensor) -> Tensor:
    """How many codes are in use, as it were, Eq. (15.10): 2^H with H the entropy in bits of how often each is chosen.

    K equally frequent codes have perplexity K; one that is always chosen, 1.

    Args:
        counts: how often each code was chosen, …×K, whole numbers or not, of which some are above 0.

    Returns: shape …, from 1 to K.
    """
    counts = counts.double()
    return 2 ** entropy(counts / counts.sum(-1, keepdim=True))


class Quantizer(nn.Module):
    """A codebook that learns.

    Args:
        size: K, how many codes.
        channels: C, numbers in each.

    Attributes:
        codebook: K×C.
        counts: how often each code was chosen since `revive` looked last, float32, shape K. Saved with the weights.
    """

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        if min(size, channels) < 1:
            raise ValueError(f"size={size} and channels={channels} must be at least 1")
        self.codebook = nn.Parameter(torch.randn(size, channels))
        self.register_buffer("counts", torch.zeros(size))

    def forward(self, z: Tensor, commitment: float = 0.25) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise, straight through.

        Args:
            z: N×C×….
            commitment: β, what the encoder's pull weighs against the codebook's, which weighs 1.

        Returns: z_q like z, with a gradient to z; the codes, N×…; and the loss (15.9), codebook's term + β commitment.

        In training mode the choices are added to `counts`.
        """
        z_q, codes = quantise(z, self.codebook)
        if self.training:
            self.counts += codes.flatten().bincount(minlength=len(self.codebook))
        pull, commit = vq_terms(z, z_q)
        return straight_through(z, z_q), codes, pull + commitment * commit

    @torch.no_grad()
    def revive(self, z: Tensor, generator: torch.Generator) -> int:
        """Put every code that was not chosen since the last call onto a vector of z, N×C×…, drawn at random.

        Called before the first step, when none has been chosen, this starts the whole codebook among the data. Returns how many
        codes were dead. `generator` lives on the CPU.

        Source: Dhariwal et al. 2020 (arXiv:2005.00341), section 3.1 (random restarts).
        """
        dead = self.counts == 0
        vectors = z.movedim(1, -1).flatten(0, -2)  # (N·positions)×C
        chosen = torch.randint(len(vectors), (len(dead),), generator=generator).to(z.device)
        self.codebook[dead] = vectors[chosen].to(self.codebook)[dead]
        self.counts.zero_()
        return int(dead.sum())
