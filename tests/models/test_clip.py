"""The pair of towers: unit embeddings, a temperature within bounds, and weights that come back bit for bit."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F

from lcl import storage
from lcl.config import LanguageConfig, LclError, ModelConfig, VisionConfig
from lcl.models.clip import FIRST_LOGIT_SCALE, MAX_LOGIT_SCALE, Clip, load_model, save_model
from lcl.models.tokenizer import Tokenizer, Tokens

CAPTIONS = ["a red apple", "two dogs left of a cat, on a blue ground", "a small house"]
LANGUAGE = LanguageConfig(vocab_size=300, width=32, depth=1, heads=2)
CONFIGS = {
    "conv": ModelConfig(VisionConfig("conv", width=32, depth=1), LANGUAGE, 16),
    "vit": ModelConfig(VisionConfig("vit", width=48, depth=1), LANGUAGE, 24),
    "timm and hf": ModelConfig(VisionConfig("timm:resnet18"), dataclasses.replace(LANGUAGE, tower="hf:distilbert"), 16),
}
IMAGES = torch.randint(256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(CAPTIONS, 300, "a data set")


def make(config: ModelConfig, seed: int = 0) -> Clip:
    torch.manual_seed(seed)
    return Clip(config).eval()


@pytest.fixture
def saved(tmp_path, tokenizer):
    """A folder with a small model."""
    save_model(tmp_path, make(CONFIGS["conv"]), tokenizer)
    return tmp_path


def edit(folder, change) -> None:
    """Change what model.json says."""
    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    change(description)
    (folder / "model.json").write_text(json.dumps(description), encoding="utf-8")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_embeddings_have_length_one_in_a_space_of_the_given_dimensions(config, tokenizer):
    model, tokens = make(config), tokenizer.encode(CAPTIONS, 48)
    seen = model(IMAGES, tokens)
    for embeddings in (seen.v, seen.t):
        assert embeddings.shape == (3, config.embed_dim)
        torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(3))
    assert torch.equal(seen.v, model.encode_image(IMAGES)) and torch.equal(seen.t, model.encode_text(tokens))
    assert seen.image.pooled.shape == (3, model.vision.width) and seen.text.pooled.shape == (3, model.language.width)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_patches_and_words_live_in_the_same_space_with_length_one(config, tokenizer):
    model, tokens = make(config), tokenizer.encode(CAPTIONS, 48)
    seen = model(IMAGES, tokens)
    patches, (words, real) = model.embed_patches(seen.image), model.embed_words(seen.text, tokens)
    assert patches.shape == (3, seen.image.patch_tokens.shape[1], config.embed_dim)
    assert words.shape == (3, 10, config.embed_dim) and real.dtype == torch.bool  # a comma is no word
    torch.testing.assert_close(patches.norm(dim=-1), torch.ones(patches.shape[:2]))
    torch.testing.assert_close(words.norm(dim=-1), real.float())
    assert real.sum(1).tolist() == [len(spans) for spans in tokens.spans] == [3, 10, 3]


@torch.no_grad()
def test_a_patch_goes_through_the_projection_of_the_whole_image():
    model = make(CONFIGS["vit"])
    features = model.vision(IMAGES)
    patches = model.embed_patches(features)
    for row, number in ((0, 0), (1, 7), (2, 15)):
        alone = model.image_projection.weight @ features.patch_tokens[row, number]
        torch.testing.assert_close(patches[row, number], alone / alone.norm())


@torch.no_grad()
def test_a_word_is_the_mean_of_its_tokens_through_the_projection_of_the_caption():
    basic = Tokenizer.train(["x"], 260, "a data set")  # several tokens a word
    long = dataclasses.replace(LANGUAGE, context_length=100)
    model, tokens = make(dataclasses.replace(CONFIGS["conv"], language=long)), basic.encode(CAPTIONS, 100)
    features = model.language(tokens)
    words, real = model.embed_words(features, tokens)
    for row, spans in enumerate(tokens.spans):
        for word in range(words.shape[1]):
            assert real[row, word] == (word < len(spans))
            mine = [place for place, number in enumerate(tokens.words[row].tolist()) if number == word]
            mean = sum(features.token_features[row, place] for place in mine) / len(mine) if mine else torch.zeros(32)
            wanted = F.normalize(model.text_projection(mean), dim=-1)
            torch.testing.assert_close(words[row, word], wanted, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_a_word_is_the_same_in_every_batch(tokenizer):
    model, together = make(CONFIGS["conv"]), tokenizer.encode(CAPTIONS, 48)
    words, real = model.embed_words(model.language(together), together)
    for row, caption in enumerate(CAPTIONS):
        tokens = tokenizer.encode([caption], 48)
        alone, all_real = model.embed_words(model.language(tokens), tokens)
        assert all_real.all()
        torch.testing.assert_close(words[row, real[row]], alone[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_captions_without_words_embed_none(tokenizer):
    model, tokens = make(CONFIGS["conv"]), tokenizer.encode(CAPTIONS, 48)
    bare = Tokens(tokens.ids, tokens.mask, torch.full_like(tokens.words, -1), tokens.spans)
    words, real = model.embed_words(model.language(bare), bare)
    assert words.shape == (3, 1, 16) and not real.any() and (words == 0).all()


def test_gradients_reach_both_towers_through_patches_and_words(tokenizer):
    model, tokens = make(CONFIGS["conv"]), tokenizer.encode(CAPTIONS, 48)
    seen = model(IMAGES, tokens)
    words, _ = model.embed_words(seen.text, tokens)
    (model.embed_patches(seen.image) @ words.mT)[:, :, 0].sum().backward()
    for tower in (model.vision, model.language, model.image_projection, model.text_projection):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in tower.parameters())


def test_the_logit_scale_starts_where_it_says_whatever_the_seed():
    assert 1 <= FIRST_LOGIT_SCALE < MAX_LOGIT_SCALE
    for seed in (0, 1):
        scale = make(CONFIGS["conv"], seed).logit_scale
        assert scale.ndim == 0 and scale.item() == pytest.approx(FIRST_LOGIT_SCALE)


def test_the_logit_scale_never_exceeds_100():
    model = make(CONFIGS["conv"])
    assert MAX_LOGIT_SCALE == 100
    for tau in (4.7, 50.0):
        model.tau.data.fill_(tau)
        assert model.logit_scale == MAX_LOGIT_SCALE
    model.tau.data.fill_(3.0)
    assert model.logit_scale.item() == pytest.approx(20.0855, abs=1e-3)


def test_gradients_reach_both_towers_the_projections_and_the_temperature(tokenizer):
    model = make(CONFIGS["conv"])
    seen = model(IMAGES, tokenizer.encode(CAPTIONS, 48))
    (seen.logit_scale * seen.v @ seen.t.T).log_softmax(-1).diagonal().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_a_saved_model_comes_back_bit_for_bit(config, tokenizer, tmp_path):
    model = make(config)
    model.train()(IMAGES, tokenizer.encode(CAPTIONS, 48))  # the running means of batch norm are part of it
    model.eval()
    model.tau.data.fill_(1.25)
    save_model(tmp_path, model, tokenizer)
    torch.manual_seed(123)
    loaded, read = load_model(tmp_path, data="a data set")
    assert not loaded.training
    assert loaded.config == config and read.fingerprint == tokenizer.fingerprint
    before, after = model(IMAGES, tokenizer.encode(CAPTIONS, 48)), loaded(IMAGES, read.encode(CAPTIONS, 48))
    assert torch.equal(before.v, after.v) and torch.equal(before.t, after.t)
    assert torch.equal(before.logit_scale, after.logit_scale)


@pytest.mark.parametrize("change", [{"embed_dim": 24}, {"vision": VisionConfig("conv", width=32, depth=2)}], ids=str)
def test_weights_of_another_model_size_are_refused(saved, change):
    other = make(dataclasses.replace(CONFIGS["conv"], **change))
    storage.write_tensors(saved / "model.safetensors", other.state_dict())
    with pytest.raises(LclError, match="of this model: |this model's is"):
        load_model(saved)


def test_weights_of_another_training_are_refused_though_they_fit(saved):
    storage.write_tensors(saved / "model.safetensors", make(CONFIGS["conv"], seed=1).state_dict())
    with pytest.raises(LclError, match="not those that its model.json describes"):
        load_model(saved)


def test_a_tokenizer_with_a_number_beyond_the_model_is_refused(saved):
    def far(description):
        engine = json.loads(description["tokenizer"]["engine"])
        vocab = engine["model"]["vocab"]
        vocab |= {f"zz{number}": number for number in range(len(vocab), 1000)}
        description["tokenizer"]["engine"] = json.dumps(engine)

    edit(saved, far)
    with pytest.raises(LclError, match="has 1000 tokens, the model only"):
        load_model(saved)


def test_a_model_of_another_data_set_is_refused(saved):
    assert load_model(saved, data="a data set")
    with pytest.raises(LclError, match="another data set"):
        load_model(saved, data="another")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(saved):
    edit(saved, lambda description: description["model"]["language"].update(vocab_size=270))
    with pytest.raises(LclError, match="tokens"):
        load_model(saved)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved, name, kept):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(LclError, match=name):
        load_model(saved)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_refused(saved, name):
    (saved / name).unlink()
    with pytest.raises(LclError, match=f"{name} does not exist"):
        load_model(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(format="lcl-model-0"),
        lambda d: d.pop("model"),
        lambda d: d.pop("tokenizer"),
        lambda d: d["tokenizer"].update(engine="{}"),
        lambda d: d["tokenizer"].pop("data"),
        lambda d: d["model"].pop("vision") and d["model"].update(vision="conv"),
        lambda d: d["model"]["vision"].update(colour="red"),
        lambda d: d["model"]["vision"].update(width="wide"),
        lambda d: d["model"].update(embed_dim=-1),
        lambda d: d["model"]["vision"].update(width=-32),
        lambda d: d["model"]["language"].update(vocab_size=-1),
    ],
    ids=["format", "no model", "no tokenizer", "engine", "no data", "no object", "field", "type", "dimension", "width",
         "vocabulary"],
)  # fmt: skip
def test_a_description_that_makes_no_sense_is_refused(saved, change):
    edit(saved, change)
    with pytest.raises(LclError):
        load_model(saved)


def test_a_description_that_is_no_object_is_refused(saved):
    (saved / "model.json").write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(LclError, match="no model of this library"):
        load_model(saved)
