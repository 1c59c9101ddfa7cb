"""Image towers: the same outputs from every one, each image on its own, and blocks like PyTorch's. And other views of
an image: what they show, and what they never do."""

import pytest
import torch
from torch import nn

from lcl.config import LclError, VisionConfig
from lcl.models.layers import Block, pack
from lcl.models.vision import LIGHT_TOWERS, ImageFeatures, augment, make_vision

SMALL = {"width": 48, "depth": 1, "heads": 3}
TOWERS = {
    "conv": VisionConfig("conv", **SMALL),
    "vit": VisionConfig("vit", **SMALL),
    **{
        f"timm:{name}": VisionConfig(f"timm:{name}") for name in ("resnet18", "mobilenetv2_100", "vit_tiny_patch16_224")
    },
    **{name: VisionConfig(name) for name in LIGHT_TOWERS},
}
AWKWARD = ("deit_tiny_patch16_224", "mobilenetv3_small_050", "efficientvit_b0", "pit_ti_224", "levit_128s")
"""Models of timm that take a size, whose head widens the features, whose size is fixed, or whose name misleads."""


@pytest.fixture(scope="module", params=TOWERS)
def tower(request):
    """Every tower, ready to evaluate, its weights moved a little so that none is zero at the start."""
    torch.manual_seed(0)
    made = make_vision(TOWERS[request.param]).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return made


def parts(seen: ImageFeatures) -> list[torch.Tensor]:
    """Everything that a tower gives, its stages one by one."""
    return [seen.patch_tokens, seen.pooled, *seen.stages]


def pictures(number: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (number, 3, 64, 64), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@torch.no_grad()
def test_every_tower_gives_patches_and_one_pooled_vector(tower):
    seen = tower(pictures(2))
    assert seen.patch_tokens.shape == (2, seen.patch_tokens.shape[1], tower.width)
    assert seen.patch_tokens.shape[1] >= 4
    assert seen.pooled.shape == (2, tower.width)
    assert seen.patch_tokens.isfinite().all() and seen.pooled.isfinite().all()


@pytest.mark.parametrize(("name", "millions"), [("resnet18", 11.18), ("mobilenetv2", 2.22), ("swin-nano", 5.11)])
@torch.no_grad()
def test_a_tower_of_lightclip_has_as_many_patches_as_the_vit_and_its_own_parameters(name, millions):
    made = make_vision(VisionConfig(name)).eval()
    assert made(pictures(1)).patch_tokens.shape[1] == (64 // VisionConfig().patch_size) ** 2 == 16
    assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@torch.no_grad()
def test_bytes_and_numbers_from_0_to_1_are_the_same_picture(tower):
    images = pictures(2)
    for from_bytes, from_floats in zip(parts(tower(images)), parts(tower(images.float() / 255)), strict=True):
        torch.testing.assert_close(from_bytes, from_floats)


@torch.no_grad()
def test_an_image_is_seen_the_same_in_any_company(tower):
    images, other = pictures(2), pictures(2, seed=1)
    other[1] = images[1]
    alone, together, elsewhere = tower(images[1:2]), tower(images), tower(other)
    for a, b, c in zip(parts(alone), parts(together), parts(elsewhere), strict=True):
        torch.testing.assert_close(a[0], b[1], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(b[1], c[1], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_every_tower_shows_its_stages_as_patches_the_last_of_which_are_its_patch_tokens(tower):
    seen = tower(pictures(2))
    blocks = getattr(tower, "blocks", (None,))  # a tower of timm has one stage
    assert len(seen.stages) == len(blocks)
    assert all(stage.shape == seen.patch_tokens.shape for stage in seen.stages)
    last = tower.norm(seen.stages[-1]) if hasattr(tower, "norm") else seen.stages[-1]
    assert torch.equal(last, seen.patch_tokens)


@pytest.mark.parametrize("kind", ["conv", "vit"])
@torch.no_grad()
def test_a_stage_is_what_a_tower_of_fewer_blocks_would_see(kind):
    torch.manual_seed(0)
    deep = make_vision(VisionConfig(kind, width=48, depth=3, heads=3)).eval()
    seen = deep(pictures(2))
    for depth in (2, 1):
        deep.blocks = deep.blocks[:depth]
        torch.testing.assert_close(deep(pictures(2)).stages[-1], seen.stages[depth - 1])
    assert not torch.allclose(seen.stages[0], seen.stages[1], atol=1e-3)


@torch.no_grad()
def test_different_images_look_different(tower):
    pooled = tower(pictures(2)).pooled
    assert (pooled[0] - pooled[1]).abs().max() > 1e-3


def test_gradients_reach_every_parameter(tower):
    seen = tower(pictures(2))
    loss = sum((out * torch.randn(out.shape, generator=torch.Generator().manual_seed(2))).sum() for out in seen[:2])
    names, parameters = zip(*tower.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    assert [name for name, g in zip(names, gradients, strict=True) if g is None or not g.abs().sum() > 0] == []


@pytest.mark.parametrize("name", AWKWARD)
def test_a_model_of_timm_works_or_is_refused_in_a_sentence(name):
    try:
        made = make_vision(VisionConfig(f"timm:{name}")).eval()
    except LclError as error:
        assert name in str(error)
        return
    with torch.no_grad():
        seen = made(pictures(2))
    assert seen.pooled.shape == (2, made.width)
    assert seen.patch_tokens.ndim == 3 and seen.patch_tokens.shape[::2] == (2, made.width)


@pytest.mark.parametrize("heads", [1, 4])
def test_a_block_is_pytorchs_pre_norm_encoder_layer(heads):
    torch.manual_seed(heads)
    ours = Block(32, heads)
    peer = nn.TransformerEncoderLayer(32, heads, 128, dropout=0, activation="gelu", batch_first=True, norm_first=True)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for to, source in (
            (peer.norm1, ours.norm_attention), (peer.norm2, ours.norm_mlp), (peer.self_attn.out_proj, ours.out),
            (peer.linear1, ours.mlp[0]), (peer.linear2, ours.mlp[2]),
        ):  # fmt: skip
            to.load_state_dict(source.state_dict())
        peer.self_attn.in_proj_weight.copy_(ours.queries_keys_values.weight)
        peer.self_attn.in_proj_bias.copy_(ours.queries_keys_values.bias)
    x, mask = torch.randn(3, 7, 32), torch.arange(7) < torch.tensor([[7], [4], [1]])
    torch.testing.assert_close(ours(x), peer(x), rtol=1e-5, atol=1e-5)
    masked = peer(x, src_key_padding_mask=~mask)
    packed = ours(pack(x, mask), mask)  # (7 + 4 + 1, 32)
    torch.testing.assert_close(packed, masked[mask], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours(x)[1, :4], packed[7:11], atol=1e-3)


@torch.no_grad()
def test_without_blocks_a_patch_token_of_the_vit_depends_on_its_own_patch_alone():
    tower = make_vision(TOWERS["vit"]).eval()
    tower.blocks = nn.ModuleList()
    images = pictures(1)
    for row, column in ((0, 0), (0, 3), (2, 1), (3, 3)):
        changed = images.clone()
        changed[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] ^= 255
        moved = (tower(images).patch_tokens - tower(changed).patch_tokens).abs().amax((0, 2)) > 0
        assert moved.nonzero().flatten().tolist() == [4 * row + column]


@torch.no_grad()
def test_patch_tokens_of_the_conv_tower_run_row_by_row():
    tower = make_vision(TOWERS["conv"]).eval()
    images = pictures(1)
    side = round(tower(images).patch_tokens.shape[1] ** 0.5)
    changed = images.clone()
    changed[:, :, :8, -8:] ^= 255  # the corner at the top right
    moved = (tower(images).patch_tokens - tower(changed).patch_tokens).abs().amax((0, 2))
    assert moved[side - 1] > 0
    assert moved[side * (side - 1)] == 0  # the corner at the bottom left


@pytest.mark.parametrize(
    ("tower", "near"), [("vitt", "vit"), ("cnov", "conv"), ("timm:resnet81", "resnet18"), ("timm:qqqq", "qqqq")]
)
def test_an_unknown_tower_is_refused_with_the_near_names(tower, near):
    with pytest.raises(LclError, match=near) as refusal:
        make_vision(VisionConfig(tower))
    assert len(str(refusal.value)) < 600 and "\n" not in str(refusal.value)


@pytest.mark.parametrize("patch", [(12, 12), (11, 13)])
def test_the_conv_towers_tokens_look_out_from_the_middle_of_their_patch(patch):
    """With all kernels positive and alike, what a token depends on lies evenly around the middle of its 8 × 8 pixels."""
    tower = make_vision(VisionConfig("conv", width=16, depth=1)).eval()
    for module in tower.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 1.0)
    images = torch.full((1, 3, 192, 192), 0.6, requires_grad=True)  # so large that no token sees an edge
    tower(images).stages[-1].unflatten(1, (24, 24))[0, *patch].sum().backward()
    felt = images.grad.abs().sum((0, 1))  # (H, W)
    steps = torch.arange(192.0)
    middle = [(felt.sum(axis) * steps).sum() / felt.sum() for axis in (1, 0)]
    assert middle == pytest.approx([8 * number + 3.5 for number in patch], abs=0.05)


# --- views


def view(images: torch.Tensor, seed: int = 0, **least: float) -> torch.Tensor:
    return augment(images, torch.Generator().manual_seed(seed), **least)


def ramps(number: int, side: int = 64) -> torch.Tensor:
    """Images that say where one looks: red grows to the right, green to the bottom, and blue tells the brightness."""
    steps = (20 + 160 * (torch.arange(side) + 0.5) / side).round().to(torch.uint8)
    image = torch.stack([steps.expand(side, side), steps[:, None].expand(side, side), torch.full((side, side), 200)])
    return image.to(torch.uint8).expand(number, -1, -1, -1).clone()


def test_a_view_is_an_image_like_the_other_and_a_function_of_the_generator_alone():
    images = pictures(6)
    before = images.clone()
    first, again, other = view(images, 0), view(images, 0), view(images, 1)
    assert first.shape == images.shape and first.dtype == torch.uint8 and torch.equal(images, before)
    assert torch.equal(first, again) and not torch.equal(first, other)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(augment(images, generator), first) and not torch.equal(augment(images, generator), first)


def test_every_image_of_a_batch_has_a_view_of_its_own():
    views = view(ramps(8))
    assert not any(torch.equal(views[i], views[j]) for i in range(8) for j in range(i))


@pytest.mark.parametrize("least", [0.3, 0.6, 0.9])
def test_a_view_is_an_upright_square_piece_of_the_image_neither_mirrored_nor_beyond_its_edges(least):
    views = view(ramps(64), least=least).float()
    brightness = views[:, 2:].mean((1, 2, 3), keepdim=True) / 200
    right, down = ((views[:, channel] / brightness[:, 0] - 20) / 160 for channel in (0, 1))  # 0 to 1; (B, H, W)
    sides = []
    for place, axis in ((right, 2), (down, 1)):
        line = place.mean(3 - axis)  # (B, 64)
        assert (place - line.unsqueeze(3 - axis)).abs().max() < 0.01  # the same in every row: nothing is turned
        sides.append((line[:, 48] - line[:, 16]) * 2)  # positive: nothing is mirrored
        expected = line[:, 32:33] + (torch.arange(64) - 32) / 64 * sides[-1][:, None]
        assert (line - expected).abs()[:, 2:-2].max() < 0.02  # all parts are magnified alike
        assert line.min() > -0.01 and line.max() < 1.01
        centre = (line[:, 31] + line[:, 32]) / 2
        assert (centre - sides[-1] / 2).min() > -0.02 and (centre + sides[-1] / 2).max() < 1.02
        assert centre.min() < 0.5 < centre.max()
    assert (sides[0] - sides[1]).abs().max() < 0.04  # square
    for side in sides:
        assert least - 0.02 < side.min() < least + 0.2 * (1 - least) and 1 - 0.2 * (1 - least) < side.max() < 1.02


def test_the_dark_side_of_an_image_stays_where_it_is():
    images = torch.full((64, 3, 64, 64), 200, dtype=torch.uint8)
    images[:32, :, :, :32] = 40  # dark on the left …
    images[32:, :, :32] = 40  # … and above
    views = view(images).float()
    assert (views[:32, :, :, :32].mean((1, 2, 3)) < views[:32, :, :, 32:].mean((1, 2, 3))).all()
    assert (views[32:, :, :32].mean((1, 2, 3)) < views[32:, :, 32:].mean((1, 2, 3))).all()


def test_the_whole_image_comes_back_but_for_its_brightness_when_nothing_may_be_cut_off():
    images = pictures(16) // 4 * 3  # so dark that nothing is cut off at 255
    views, before = view(images, least=1.0).double(), images.double()
    factor = views.sum((1, 2, 3), keepdim=True) / before.sum((1, 2, 3), keepdim=True)
    assert (views - factor * before).abs().max() < 0.6  # rounding
    assert factor.min() > 0.79 and factor.max() < 1.21


@pytest.mark.parametrize("shade", [0, 10, 100, 200, 255])
def test_of_a_plain_image_only_the_brightness_changes_by_a_fifth_at_most(shade):
    views = view(torch.full((64, 3, 32, 32), shade, dtype=torch.uint8)).double()
    assert (views.amax((1, 2, 3)) == views.amin((1, 2, 3))).all()
    found = views[:, 0, 0, 0]
    assert found.min() >= 0.8 * shade - 0.5 and found.max() <= min(255, 1.2 * shade + 0.5)
    if shade >= 100:
        assert found.min() < 0.84 * shade and found.max() > min(254, 1.16 * shade)
