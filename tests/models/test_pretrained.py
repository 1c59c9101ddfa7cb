"""Towers begin with real pre-trained weights or are refused, and a saved model needs neither package nor hub."""

import dataclasses
import importlib.util

import pytest
import timm
import torch
from huggingface_hub import constants

from lcl import storage
from lcl.config import LanguageConfig, LclError, ModelConfig, VisionConfig
from lcl.models import pretrained
from lcl.models.clip import Clip, load_model, save_model
from lcl.models.language import make_language
from lcl.models.vision import make_vision
from lcl.teachers.encoders import ImageEncoder

IMAGE, TEXT, TAGGED = "tf_efficientnet_lite0", "all-MiniLM-L6-v2", "tf_efficientnet_lite0.in1k"
WORDS = LanguageConfig(f"hf:{TEXT}", vocab_size=400)


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """The hub's cache, empty, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def pictures() -> torch.Tensor:
    return torch.randint(256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@torch.no_grad()
def test_a_timm_tower_sees_what_the_frozen_encoder_of_its_name_sees():
    tower, encoder = make_vision(VisionConfig(f"timm:{IMAGE}", pretrained=True)).eval(), ImageEncoder(IMAGE, size=64)
    pooled = torch.nn.functional.normalize(tower(pictures()).pooled, dim=1)
    torch.testing.assert_close(pooled, encoder(pictures()), rtol=1e-3, atol=1e-4)
    fresh = make_vision(VisionConfig(f"timm:{IMAGE}")).eval()
    assert (torch.nn.functional.normalize(fresh(pictures()).pooled, dim=1) - pooled).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("config", [VisionConfig(f"timm:{TAGGED}"), VisionConfig(f"timm:{TAGGED}", pretrained=True)])
def test_a_tag_names_weights_of_the_hub(hub, config):
    made = timm.create_model(IMAGE)
    real = dict(zip(made.state_dict(), pretrained.packaged_weights(IMAGE), strict=True))
    snapshot = hub / f"models--timm--{TAGGED}" / "snapshots" / "0"
    storage.write_tensors(snapshot / "model.safetensors", real)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0")
    packaged = make_vision(VisionConfig(f"timm:{IMAGE}", pretrained=True)).eval()
    assert torch.equal(make_vision(config).eval()(pictures()).pooled, packaged(pictures()).pooled)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (VisionConfig("timm:vit_tiny_patch16_224.augreg_in21k"), ["not in the hub's cache", "hf download timm/vit_tiny"]),
        (VisionConfig("timm:resnet18", pretrained=True), ["not in the hub's cache", "cannot be downloaded"]),
        (VisionConfig("timm:resnet18.augreg"), ["no weights called 'resnet18.augreg'"]),
        (VisionConfig("timm:test_convnext4", pretrained=True), ["test_convnext"]),
        (LanguageConfig("hf:bert", pretrained=True), ["architecture without weights", TEXT]),
        (LanguageConfig("hf:some/where"), ["'some/where'", "hf download"]),
    ],
)
def test_weights_that_are_not_there_are_refused_in_one_sentence(config, words):
    make = make_vision if isinstance(config, VisionConfig) else make_language
    with pytest.raises(LclError) as refusal:
        make(config)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 600
    assert all(word in str(refusal.value) for word in words), refusal.value


@pytest.mark.parametrize("make", [lambda: VisionConfig("vit", pretrained=True), lambda: LanguageConfig(pretrained=True)])
def test_towers_from_scratch_have_no_pretrained_weights(make):
    with pytest.raises(LclError, match="has no pre-trained weights"):
        make()


def test_a_text_tower_has_the_blocks_of_the_packaged_model():
    tower = make_language(WORDS)
    weights = storage.read_tensors(pretrained.in_package(*pretrained.PACKAGED_TEXT[TEXT]) / "model.safetensors")
    name = "encoder.layer.3.output.dense.weight"
    assert torch.equal(tower.body.state_dict()[name], weights[name])
    assert tower.tokens.num_embeddings == 400 and len(tower.blocks) == 6


def test_a_saved_model_opens_where_its_weights_are_not(tmp_path, tokenizer, monkeypatch):
    model = Clip(ModelConfig(VisionConfig(f"timm:{IMAGE}", pretrained=True), WORDS, 32)).eval()
    save_model(tmp_path / "saved", model, tokenizer)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LclError, match="not installed"):
        make_language(WORDS)
    opened, _ = load_model(tmp_path / "saved")
    assert opened.config == model.config and opened.config.vision.pretrained
    tokens = tokenizer.encode(["a cat", "two red cars"], 48)
    with torch.no_grad():
        assert torch.equal(opened.encode_text(tokens), model.encode_text(tokens))
        assert torch.equal(opened.encode_image(pictures()), model.encode_image(pictures()))


@pytest.mark.parametrize(
    ("tower", "change", "words"),
    [
        ("vision", {"width": 48}, "its vision.width is 32, not 48"),
        ("language", {"depth": 3, "heads": 4}, "its language.depth is 1, not 3; its language.heads is 2, not 4"),
        ("language", {"tower": "hf:bert"}, "its language.tower is 'transformer', not 'hf:bert'"),
    ],
)
def test_weights_of_another_shape_are_refused_with_the_difference(tmp_path, tokenizer, tower, change, words):
    model = Clip(ModelConfig(VisionConfig(width=32, depth=1), LanguageConfig(vocab_size=400, width=32, depth=1), 32))
    save_model(tmp_path, model, tokenizer)
    wanted = dataclasses.replace(model.config, **{tower: dataclasses.replace(getattr(model.config, tower), **change)})
    with pytest.raises(LclError, match=words):
        load_model(tmp_path, config=wanted)
