"""Encoders that are not ours: health is health, every fault is named, in embeddings, losses and pairs; open_clip among them."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import lcl
from lcl.config import LclError, get_profile
from lcl.data.scenes import open_scenes
from lcl.train import diagnosis, outside

N = 64


class Oracle:
    """Encoders that know every pair: an image is its pixels in random directions, and a caption is its image, nearly."""

    def __init__(self, pairs):
        generator = torch.Generator().manual_seed(0)
        self.directions = torch.randn(3 * 16 * 16, 32, generator=generator)
        pixels = self.features(pairs.images)
        self.mean = pixels.mean(0)
        noise = 0.1 * torch.randn(len(pixels), 32, generator=generator)
        self.known = dict(zip(pairs.captions, F.normalize(F.normalize(pixels - self.mean, dim=1) + noise, dim=1), strict=True))

    def features(self, images):
        return F.interpolate(images.float(), (16, 16), mode="area").flatten(1) @ self.directions

    def images(self, images):
        return F.normalize(self.features(images) - self.mean, dim=1)

    def texts(self, captions):
        return torch.stack([self.known[caption] for caption in captions])


@pytest.fixture(scope="module")
def pairs(small_world):
    rows = small_world.train(4 * N)
    found = rows.take(range(4 * N))
    firsts = list({caption: row for row, caption in enumerate(found.captions)}.values())[:N]  # no caption twice
    return rows.take(firsts)


@pytest.fixture(scope="module")
def oracle(pairs):
    return Oracle(pairs)


@pytest.fixture(scope="module")
def held_out(small_world, pairs):
    rows = small_world.validation(N)
    taken = rows.take(range(N))
    new = [row for row, caption in enumerate(taken.captions) if caption not in pairs.captions]
    taken = rows.take(new)
    return taken.images, taken.captions


def losses_of(oracle, pairs, scale=20.0):
    """From chance level down to what the embeddings give."""
    s = scale * oracle.images(pairs.images) @ oracle.texts(pairs.captions).T
    own = torch.arange(len(s))
    last = ((F.cross_entropy(s, own) + F.cross_entropy(s.T, own)) / 2).item()
    return [math.log(N), 2.0, *[last] * 10]


def diagnose(oracle, pairs, **changes):
    """A diagnosis without the frozen encoders, with some arguments changed."""
    given = dict(
        encode_images=oracle.images, encode_texts=oracle.texts, images=pairs.images, captions=pairs.captions, frozen=False
    )
    return lcl.diagnose_encoders(**given | changes)


def finding(diagnosed, check):
    (found,) = (each for each in diagnosed if each.check == check)
    return found


def test_healthy_encoders_pass_every_check(oracle, pairs, held_out):
    found = diagnose(oracle, pairs, losses=losses_of(oracle, pairs), logit_scale=20.0, validation=held_out)
    assert found.failed == [], found
    assert [each.check for each in found] == [
        "embeddings of length one", "spread", "independence", "own captions", "both directions", "no peeking", "negatives",
        "equal captions", "equal pictures", "held-out pictures", "held-out captions",
    ]  # fmt: skip


def test_what_was_not_handed_over_is_not_judged(oracle, pairs):
    checks = {each.check for each in diagnose(oracle, pairs)}
    assert checks.isdisjoint({"both directions", "no peeking", "negatives", "pairing", "held-out pictures", "held-out captions"})
    assert "no peeking" not in {each.check for each in diagnose(oracle, pairs, losses=losses_of(oracle, pairs))}


def test_encoders_that_do_not_normalise_are_named(oracle, pairs):
    assert diagnose(oracle, pairs, encode_images=lambda x: 3 * oracle.images(x)).failed == ["embeddings of length one"]


def test_collapsed_encoders_are_named(oracle, pairs):
    far = torch.eye(32)[0] * 4
    found = diagnose(oracle, pairs, encode_images=lambda x: F.normalize(oracle.images(x) + far, dim=1))
    assert found.failed == ["spread"]


def test_pairs_of_another_order_are_named(oracle, pairs):
    found = diagnose(oracle, pairs, captions=pairs.captions[1:] + pairs.captions[:1])
    assert found.failed == ["own captions"] and "not in the same order" in finding(found, "own captions").fix


def test_an_encoder_that_depends_on_its_batch_is_named(oracle, pairs):
    def as_batch_norm_in_training_mode(images):
        features = oracle.features(images)
        return F.normalize(features - features.mean(0) + 1e-3, dim=1)

    assert "independence" in diagnose(oracle, pairs, encode_images=as_batch_norm_in_training_mode).failed

    def padded(captions):
        return F.normalize(oracle.texts(captions) + 0.1 * max(map(len, captions)) / 48, dim=1)

    found = diagnose(oracle, pairs, encode_texts=padded)
    assert "independence" in found.failed and "of an image 1.0000" in finding(found, "independence").measured


def test_a_first_loss_below_chance_level_and_a_leak_are_named(oracle, pairs):
    losses = losses_of(oracle, pairs)
    found = diagnose(oracle, pairs, losses=[math.log(8), *losses[1:]], logit_scale=20.0)
    assert found.failed == ["negatives"] and "chance level among 8" in finding(found, "negatives").fix
    untrained = diagnose(oracle, pairs, losses=[losses[0], 1.0, *[0.01] * 10], logit_scale=1.0)
    assert untrained.failed == ["no peeking"]


def test_a_loss_of_one_direction_is_named(oracle, pairs):
    s = 20 * oracle.images(pairs.images) @ oracle.texts(pairs.captions).T
    rows = F.cross_entropy(s, torch.arange(N)).item()
    assert diagnose(oracle, pairs, losses=[rows] * 10, logit_scale=20.0).failed == ["both directions", "negatives"]


@pytest.mark.parametrize(("equal", "ill"), [(2, False), (4, True)])
def test_equal_captions_of_a_batch_are_counted(oracle, pairs, equal, ill):
    """Case, a full stop and white space do not count. 2 of 64 pairs are few, 4 are more than one in twenty."""
    captions = list(pairs.captions)
    for row in range(1, equal):
        captions[row] = f" {captions[0].upper()}. "
    oracle.known |= {caption: oracle.known[captions[0]] for caption in captions[1:equal]}
    found = diagnose(oracle, pairs, captions=captions)
    assert finding(found, "equal captions").measured == f"{equal / N:.1%} of the captions have an equal in their batch of {N}"
    assert ("equal captions" in found.failed) == ill


def test_equal_captions_of_different_batches_are_no_false_negatives(oracle, pairs):
    images, captions = torch.cat([pairs.images] * 2), [*pairs.captions] * 2
    found = diagnose(oracle, pairs, images=images, captions=captions, batch_size=N)
    assert found.failed == []
    assert diagnose(oracle, pairs, images=images, captions=captions).failed == ["equal captions", "equal pictures"]


def test_a_picture_that_is_held_out_and_trained_on_is_a_leak_also_if_it_was_saved_again(oracle, pairs, held_out):
    images, captions = held_out
    again = F.interpolate(F.interpolate(pairs.images[:1].float(), (96, 96), mode="bicubic"), (64, 64), mode="bicubic")
    assert not again.clamp(0, 255).byte().equal(pairs.images[:1])
    leaked = torch.cat([again.clamp(0, 255).byte(), images[1:]])
    found = diagnose(oracle, pairs, validation=(leaked, captions))
    assert found.failed == ["held-out pictures"] and "measures memory" in finding(found, "held-out pictures").fix
    scaled = [(each.float() / 255 - 0.48) / 0.27 for each in (pairs.images, leaked)]  # as an encoder may want them
    found = diagnose(oracle, pairs, images=scaled[0], encode_images=lambda x: oracle.images((x * 0.27 + 0.48) * 255),
                     validation=(scaled[1], captions))  # fmt: skip
    assert found.failed == ["held-out pictures"]


def test_of_cropped_pictures_as_many_are_found_as_chapter_12_says():
    pixels = open_scenes(get_profile("laptop").scenes).train(256).take(range(256)).images
    cropped = F.interpolate(pixels[:64, :, 2:-2, 2:-2].float(), (64, 64), mode="bilinear").byte()
    known, held_out = outside._groups(pixels, cropped)
    found = sum(group in set(known) for group in held_out)
    text = (Path(__file__).parents[2] / "notebooks" / "12_what_goes_wrong.ipynb").read_text(encoding="utf-8")
    assert f"with two of 64 pixels cut off at each side, it found {found} of 64" in text


def test_captions_that_are_held_out_and_trained_on_are_counted(oracle, pairs, held_out):
    images, captions = held_out
    found = diagnose(oracle, pairs, validation=(images, [*pairs.captions[:10], *captions[10:]]))
    assert found.failed == ["held-out captions"]
    assert f"{10 / len(captions):.1%} of {len(captions)} held-out captions" in finding(found, "held-out captions").measured


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": torch.zeros(4, 64, 64, 3)}, r"images must be a tensor \(N, 3, H, W\), not \(4, 64, 64, 3\)"),
        ({"images": [torch.zeros(3, 8, 8)] * N}, "not list; stack single images"),
        ({"captions": ["one"] * 5}, "64 images and 5 captions; hand over one caption an image"),
        ({"captions": "a bear"}, "captions must be a list of strings, not 'a bear'"),
        ({"batch_size": 0}, "1 or more, not 0"),
        ({"encode_images": lambda x: torch.full((len(x), 4), math.nan)}, "64 of 64 image embeddings hold NaN or infinity"),
        ({"encode_images": lambda x: torch.ones(2, 2)}, r"the image encoder made \(2, 2\) of 64; \(N, d\) is needed"),
        ({"encode_texts": lambda x: torch.ones(len(x), 2)}, r"of images are \(64, 32\), of captions \(64, 2\)"),
        ({"validation": (torch.zeros(0, 3, 8, 8), [])}, "there are 0 held-out images and 0 captions"),
    ],
)
def test_bad_input_is_named(oracle, pairs, changes, words):
    with pytest.raises(LclError, match=words):
        diagnose(oracle, pairs, **changes)


@pytest.mark.slow
def test_frozen_encoders_say_if_captions_belong_whatever_the_encoders_know(oracle, pairs, monkeypatch):
    found = diagnose(oracle, pairs, frozen=True)
    assert "pairing" not in found.failed and "standard errors more alike" in finding(found, "pairing").measured
    moved = diagnose(oracle, pairs, captions=pairs.captions[1:] + pairs.captions[:1], frozen=True)
    assert moved.failed == ["own captions", "pairing"]


def test_a_tiny_open_clip_is_told_to_learn_and_learns():
    """Untrained, it does not know its pairs; after some steps on 32 of them it does."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip, of the extra 'bench', is not installed")
    torch.manual_seed(0)
    model = open_clip.model.CLIP(
        16, open_clip.CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=8, image_size=32),
        open_clip.CLIPTextCfg(context_length=16, vocab_size=300, width=32, heads=2, layers=1),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(32, 3, 4, 4, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)
    captions = [f"picture {number * 37 % 101}" for number in range(32)]

    def tokens(captions):
        return torch.tensor([[298, *caption.encode(), 299, *[0] * 14][:15] + [0] for caption in captions])

    def look():
        model.eval()
        return lcl.diagnose_encoders(
            lambda x: model.encode_image(x, normalize=True), lambda x: model.encode_text(tokens(x), normalize=True),
            images, captions, losses=losses, logit_scale=model.logit_scale.exp().item(), frozen=False,
        )  # fmt: skip

    losses = []
    assert "own captions" in look().failed
    loss_of, optimiser = open_clip.ClipLoss(), torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(150):
        model.train()
        v, t, scale = model(images, tokens(captions))
        loss = loss_of(v, t, scale)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    found = look()
    assert found.failed == [], found


def test_the_checks_are_those_of_diagnose_where_they_have_the_same_name(oracle, pairs):
    found = {each.check: each.measured for each in diagnose(oracle, pairs)}
    v, t = oracle.images(pairs.images), oracle.texts(pairs.captions)
    spread = f"cosine of two images {diagnosis.mean_cosine(v):.2f}, of two captions {diagnosis.mean_cosine(t):.2f}"
    assert found["spread"] == spread
