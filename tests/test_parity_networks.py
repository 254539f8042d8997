"""Our networks are Stable Diffusion's: with the same weights they compute what diffusers' and transformers' compute."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from reference_weights import copy_weights, fill_at_random
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from minildm.attention import SHORT, Attention
from minildm.autoencoder import Autoencoder
from minildm.config import AutoencoderConfig, TextConfig, UNetConfig
from minildm.engine.presets import PRESETS
from minildm.names import TEXT, UNET, autoencoder_rules
from minildm.text import TextEncoder, pooled
from minildm.unet import UNet

TOLERANCE = 1e-5  # float32, on outputs of size about 1
L = 5  # tokens of context
START, END = 60, 61  # of the text encoder's 62 tokens

UNETS = {
    "conv projection (SD 1)": UNetConfig(4, 4, (16, 32), 1, (True, True), (4, 4), context_width=24, groups=8),
    "linear projection, heads by level (SD 2)": UNetConfig(
        4, 4, (16, 32), 1, (True, True), (2, 4), context_width=24, groups=8, linear_projection=True
    ),
    "attention on the small maps only": UNetConfig(4, 4, (16, 32), 1, (False, True), (2, 4), context_width=24, groups=8),
    "attention on the large maps only": UNetConfig(3, 6, (16, 32), 1, (True, False), (2, 8), context_width=12, groups=4),
    "extra embedding": UNetConfig(4, 4, (16, 32), 1, (False, True), (2, 4), context_width=24, extra_width=7, groups=8),
    "three levels, two blocks": UNetConfig(4, 4, (16, 24, 32), 2, (True, False, True), (2, 3, 4), context_width=24, groups=8),
    "two transformer blocks": UNetConfig(4, 4, (16, 32), 1, (True, True), (2, 4), depth=2, context_width=24, groups=8),
    "channels-last": UNetConfig(4, 4, (16, 32), 1, (True, True), (4, 4), context_width=24, groups=1),
    "one level": UNetConfig(4, 4, (16,), 2, (True,), (2,), context_width=24, groups=8),
}
AUTOENCODERS = {
    "with middle attention": AutoencoderConfig(3, 4, (8, 16), 1, groups=4),
    "without middle attention": AutoencoderConfig(3, 4, (8, 16), 1, groups=4, middle_attention=False),
    "channels-last": AutoencoderConfig(3, 4, (16, 32), 1, groups=1),
    "three levels, two blocks": AutoencoderConfig(1, 3, (8, 12, 16), 2, groups=4),
}


@pytest.fixture(autouse=True)
def fixed_threads() -> None:
    """These networks are so small that a second thread only waits."""
    torch.set_num_threads(1)


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def reference_unet(config: UNetConfig, size: float) -> UNet2DConditionModel:
    """diffusers' U-Net of these sizes, random all over. Its `attention_head_dim` is the number of heads."""
    down = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in config.attention]
    up = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(config.attention)]
    model = UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=config.widths,
        layers_per_block=config.blocks,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        attention_head_dim=config.heads,
        transformer_layers_per_block=config.depth,
        cross_attention_dim=config.context_width,
        norm_num_groups=config.groups,
        use_linear_projection=config.linear_projection,
        class_embed_type="projection" if config.extra_width else None,
        projection_class_embeddings_input_dim=config.extra_width,
    )
    return fill_at_random(model, size)


def pair_of_unets(config: UNetConfig, size: float = 1.0) -> tuple[UNet, UNet2DConditionModel]:
    ours, reference = UNet(config).eval(), reference_unet(config, size)
    assert count(ours) == count(reference)
    copy_weights(ours, reference, UNET)
    return ours, reference


def assert_same(ours: Tensor, reference: Tensor) -> None:
    """Equal within TOLERANCE, and not because both are constant."""
    assert ours.shape == reference.shape
    assert reference.std() > 0.1, "the reference says nothing"
    difference = (ours - reference).abs().max().item()
    print(f"largest difference {difference:.1e} at standard deviation {reference.std():.2f}")
    assert difference <= TOLERANCE


@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("config", UNETS.values(), ids=UNETS)
@torch.no_grad()
def test_unet_equals_diffusers(config: UNetConfig, masked: bool) -> None:
    """Same parameters, same prediction, at whole and real times, on maps that are not square."""
    ours, reference = pair_of_unets(config)
    x_t, t = random(3, config.in_channels, 8, 12), torch.tensor([1.0, 500.0, 987.5])
    context = random(3, L, config.context_width, seed=2)
    mask = torch.arange(L) < torch.tensor([[1], [3], [L]]) if masked else None
    extra = random(3, config.extra_width, seed=3) if config.extra_width else None
    expected = reference(x_t, t, context, class_labels=extra, encoder_attention_mask=mask).sample
    assert_same(ours(x_t, t, context, context_mask=mask, extra=extra), expected)


@torch.no_grad()
def test_unet_equals_diffusers_on_long_sequences() -> None:
    """Maps of more than SHORT positions go through the fused kernel; the prediction is still diffusers'."""
    ours, reference = pair_of_unets(UNETS["conv projection (SD 1)"])
    x_t, t, context = random(2, 4, 16, 32), torch.tensor([3, 700]), random(2, L, 24, seed=2)
    assert x_t.shape[2] * x_t.shape[3] > SHORT
    mask = torch.arange(L) < torch.tensor([[2], [4]])
    expected = reference(x_t, t, context, encoder_attention_mask=mask).sample
    assert_same(ours(x_t, t, context, context_mask=mask), expected)


@pytest.mark.parametrize("config", UNETS.values(), ids=UNETS)
@torch.no_grad()
def test_every_weight_of_the_unet_is_used(config: UNetConfig) -> None:
    """Without any one of its weights the prediction is another, so parity says something about each of them."""
    ours, _ = pair_of_unets(config)
    x_t, t, context = random(1, config.in_channels, 8, 8), torch.tensor([500]), random(1, L, config.context_width)
    extra = random(1, config.extra_width, seed=3) if config.extra_width else None
    with torch.enable_grad():
        ours(x_t, t, context, extra=extra).square().sum().backward()
    unused = [name for name, parameter in ours.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not unused


@torch.no_grad()
def test_masked_tokens_are_not_read() -> None:
    """What stands where the mask is False changes nothing; what stands where it is True does."""
    ours, _ = pair_of_unets(UNETS["conv projection (SD 1)"])
    x_t, t, context = random(1, 4, 8, 8), torch.tensor([500]), random(1, L, 24)
    mask = torch.tensor([[True, True, False, False, True]])
    hidden, shown = context.clone(), context.clone()
    hidden[:, 2:4], shown[:, 4] = 7.0, 7.0
    expected = ours(x_t, t, context, context_mask=mask)
    assert torch.equal(ours(x_t, t, hidden, context_mask=mask), expected)
    assert (ours(x_t, t, shown, context_mask=mask) - expected).abs().max() > 0.01


@pytest.mark.parametrize("name", ["conv projection (SD 1)", "three levels, two blocks", "two transformer blocks"])
@torch.no_grad()
def test_keys_and_values_can_be_computed_once(name: str) -> None:
    """`keys_values(context)` in place of the context gives the same prediction, again and again, at any time."""
    config = UNETS[name]
    ours, _ = pair_of_unets(config)
    x_t, context = random(2, 4, 8, 8), random(2, L, config.context_width)
    keys_values = ours.keys_values(context)
    for t in (torch.tensor([1, 2]), torch.tensor([900, 30])):
        assert torch.equal(ours(x_t, t, keys_values), ours(x_t, t, context))
    assert not torch.equal(ours(x_t, t, ours.keys_values(context + 1)), ours(x_t, t, context))


@torch.no_grad()
def test_recorded_attention_maps_are_probabilities_and_change_nothing() -> None:
    """Recording gives one map per call, N×heads×queries×keys, rows that sum to 1, and the prediction of before."""
    config = UNETS["linear projection, heads by level (SD 2)"]
    ours, _ = pair_of_unets(config)
    x_t, t, context = random(2, 4, 8, 12), torch.tensor([100, 900]), random(2, L, 24)
    mask = torch.arange(L) < torch.tensor([[2], [4]])
    before = ours(x_t, t, context, context_mask=mask)
    attentions = {name: part for name, part in ours.named_modules() if isinstance(part, Attention)}
    for part in attentions.values():
        part.maps = []
    assert (ours(x_t, t, context, context_mask=mask) - before).abs().max() <= TOLERANCE
    assert len(attentions) == 2 * 7  # self and context; one transformer at each of 2 + 1 + 4 places
    for name, part in attentions.items():
        (weight,) = part.maps
        assert weight.shape[:2] == (2, part.heads), name
        assert (weight >= 0).all() and (weight.sum(-1) - 1).abs().max() <= TOLERANCE, name
        if name.endswith("context"):
            assert weight.shape[-1] == L and not weight[~mask[:, None, None, :].expand_as(weight)].any(), name
        else:
            assert weight.shape[-1] == weight.shape[-2] in (8 * 12, 4 * 6), name


@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("length", [7, SHORT, SHORT + 44])
@torch.no_grad()
def test_attention_equals_its_formula_on_either_path(length: int, masked: bool) -> None:
    """softmax(QKᵀ/√d) V, head by head in float64, is what both the plain and the fused path compute."""
    heads, width = 3, 12
    layer = fill_at_random(Attention(width, heads, 5, bias=True))
    x, context = random(2, 6, width), random(2, length, 5, seed=2)
    mask = torch.rand(2, 1, 1, length, generator=torch.Generator().manual_seed(3)) < 0.5 if masked else None
    double = {name: parameter.double() for name, parameter in layer.named_parameters()}
    query, key, value = (
        (of.double() @ double[f"{name}.weight"].T + double[f"{name}.bias"]).chunk(heads, -1)
        for name, of in (("query", x), ("key", context), ("value", context))
    )
    mixed = []
    for q, k, v in zip(query, key, value, strict=True):
        weight = torch.exp(q @ k.transpose(1, 2) / (width / heads) ** 0.5)  # N×6×length
        weight = weight if mask is None else weight * mask[:, 0]
        mixed.append(weight @ v / weight.sum(-1, keepdim=True))
    expected = (torch.cat(mixed, -1) @ double["out.weight"].T + double["out.bias"]).float()
    as_chosen = layer(x, layer.keys_values(context), mask)
    layer.maps = []  # recording forces the plain path
    plain = layer(x, layer.keys_values(context), mask)
    assert len(layer.maps) == 1
    assert (as_chosen - expected).abs().max() <= TOLERANCE
    assert (plain - expected).abs().max() <= TOLERANCE


def pair_of_autoencoders(config: AutoencoderConfig, size: float = 1.0) -> tuple[Autoencoder, AutoencoderKL]:
    reference = AutoencoderKL(
        in_channels=config.image_channels,
        out_channels=config.image_channels,
        block_out_channels=config.widths,
        layers_per_block=config.blocks,
        latent_channels=config.latent_channels,
        norm_num_groups=config.groups,
        down_block_types=("DownEncoderBlock2D",) * len(config.widths),
        up_block_types=("UpDecoderBlock2D",) * len(config.widths),
        mid_block_add_attention=config.middle_attention,
    )
    ours, reference = Autoencoder(config).eval(), fill_at_random(reference, size)
    assert count(ours) == count(reference)
    copy_weights(ours, reference, autoencoder_rules(config))
    return ours, reference


@pytest.mark.parametrize("scale", [1.0, 0.18215])
@pytest.mark.parametrize("config", AUTOENCODERS.values(), ids=AUTOENCODERS)
@torch.no_grad()
def test_autoencoder_equals_diffusers(config: AutoencoderConfig, scale: float) -> None:
    """Same parameters, same mean and log-variance of the latents (theirs still unscaled), same decoded images."""
    ours, reference = pair_of_autoencoders(config)
    ours.scale.fill_(scale)
    images = random(2, config.image_channels, 8, 12)
    got, expected = ours.encode(images), reference.encode(images).latent_dist
    assert_same(got.mean / scale, expected.mean)
    assert_same(got.log_var, expected.logvar + 2 * torch.log(torch.tensor(scale)))
    assert_same(ours.decode(scale * expected.mean), reference.decode(expected.mean).sample)


@torch.no_grad()
def test_autoencoder_clamps_log_variance_like_diffusers() -> None:
    """Log-variances far outside [-30, 20] come out at the ends of it, so that their exponentials stay finite."""
    config = AUTOENCODERS["with middle attention"]
    ours, reference = pair_of_autoencoders(config)
    shift = torch.tensor([0.0] * 4 + [100.0, -100.0, 20.0, -30.0])
    reference.quant_conv.bias.add_(shift)
    ours.quant.bias.add_(shift)
    images = random(2, 3, 8, 8)
    log_var = ours.encode(images).log_var
    assert_same(log_var, reference.encode(images).latent_dist.logvar)
    assert (log_var[:, 0] == 20).all() and (log_var[:, 1] == -30).all()


def pair_of_text_encoders(config: TextConfig, size: float = 1.0) -> tuple[TextEncoder, CLIPTextModel]:
    reference = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.length,
            hidden_act="quick_gelu" if config.quick_gelu else "gelu",
            bos_token_id=START,
            eos_token_id=END,
            pad_token_id=END,
        )
    )
    ours, reference = TextEncoder(config).eval(), fill_at_random(reference, size)
    assert count(ours) == count(reference)
    copy_weights(ours, reference, TEXT)
    return ours, reference


@pytest.mark.parametrize("length", [12, 7])
@pytest.mark.parametrize("quick_gelu", [True, False], ids=["quick GELU", "GELU"])
@torch.no_grad()
def test_text_encoder_equals_transformers(quick_gelu: bool, length: int) -> None:
    """Same parameters, same states for prompts as long as the encoder allows or shorter, same vector at the first end."""
    ours, reference = pair_of_text_encoders(TextConfig(62, 12, 16, 3, 4, quick_gelu=quick_gelu))
    tokens = torch.randint(0, START, (4, length), generator=torch.Generator().manual_seed(5))
    tokens[:, 0] = START
    for row, words in enumerate((0, 2, 4, length - 2)):
        tokens[row, 1 + words :] = END
    states, expected = ours(tokens), reference(tokens)
    assert_same(states, expected.last_hidden_state)
    assert_same(pooled(states, tokens, END), expected.pooler_output)


@torch.no_grad()
def test_small_signals_meet_the_same_epsilon_in_every_norm() -> None:
    """With weights a tenth as large, the ε beside a variance counts: 1e-5 for 1e-6 anywhere would show."""
    size, context = 0.1, random(2, L, 24, seed=2)
    unet, unet_reference = pair_of_unets(UNETS["conv projection (SD 1)"], size)
    autoencoder, autoencoder_reference = pair_of_autoencoders(AUTOENCODERS["with middle attention"], size)
    text, text_reference = pair_of_text_encoders(TextConfig(62, 12, 16, 2, 4), size)
    x_t, images, tokens = size * random(2, 4, 8, 8), size * random(2, 3, 8, 8), torch.arange(12)[None]
    t, z = torch.tensor([3, 700]), size * random(2, 4, 4, 4)
    pairs = {
        "U-Net": (unet(x_t, t, context), unet_reference(x_t, t, context).sample),
        "encoder": (autoencoder.encode(images).mean, autoencoder_reference.encode(images).latent_dist.mean),
        "decoder": (autoencoder.decode(z), autoencoder_reference.decode(z).sample),
        "text": (text(tokens), text_reference(tokens).last_hidden_state),
    }
    relative = {name: ((got - expected).abs().max() / expected.std()).item() for name, (got, expected) in pairs.items()}
    print({name: f"{value:.1e}" for name, value in relative.items()})
    assert all(value < TOLERANCE for value in relative.values()), relative


class Pair(nn.Module):
    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.zeros(2)))


@pytest.mark.parametrize(("ours", "theirs"), [("ab", "a"), ("a", "ab"), ("ac", "ab")])
def test_copying_leaves_no_parameter_over(ours: str, theirs: str) -> None:
    """A parameter without a partner, on either side, stops the copy; so would two that want the same one."""
    copy_weights(Pair(*theirs), Pair(*theirs), ())
    with pytest.raises(ValueError, match="left over|does not exist"):
        copy_weights(Pair(*ours), Pair(*theirs), ())
    with pytest.raises(ValueError, match="already taken"):
        copy_weights(Pair("a", "b"), Pair("a", "b"), [("b", "a")])


def layout_of(network: nn.Module) -> str:
    """Where the 3×3 kernels of a network keep their channels."""
    kernels = [part.weight for part in network.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)]
    inner = [kernel.stride(1) == 1 for kernel in kernels if kernel.shape[1] > 1]  # a single channel lies either way
    assert all(inner) or not any(inner)
    return "channels-last" if inner[0] else "maps"


@pytest.mark.parametrize(
    ("widths", "groups", "layout"),
    [((16, 32), 1, "channels-last"), ((64, 128), 4, "channels-last"), ((64, 128), 8, "maps"), ((16, 16), 2, "maps")],
)
def test_channels_lie_side_by_side_where_every_group_holds_sixteen(widths: tuple, groups: int, layout: str) -> None:
    assert layout_of(UNet(UNetConfig(widths=widths, heads=(1, 1), context_width=8, groups=groups))) == layout
    assert layout_of(Autoencoder(AutoencoderConfig(widths=widths, groups=groups))) == layout


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_laid_out_for_speed(name: str) -> None:
    model = PRESETS[name][1].model
    with torch.device("meta"):
        assert layout_of(UNet(model.unet)) == layout_of(Autoencoder(model.autoencoder)) == "channels-last"


def test_the_layout_changes_no_number() -> None:
    config = UNETS["channels-last"]
    ours, maps = fill_at_random(UNet(config)), fill_at_random(UNet(config)).to(memory_format=torch.contiguous_format)
    assert layout_of(maps) == "maps"
    x, t, context = random(2, 4, 8, 8), torch.tensor([3, 700]), random(2, L, 24)
    assert_same(ours(x, t, context), maps(x, t, context))
