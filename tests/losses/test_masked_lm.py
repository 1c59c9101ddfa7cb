"""Fusion: gates that start shut, attention by slow loops, guesses that hear their own image, and towers left alone."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from lcl.config import LanguageConfig, LclError, ModelConfig, VisionConfig
from lcl.losses.masked_lm import FusedMlm, FusionBlock, masked_language
from lcl.models.clip import Clip
from lcl.models.tokenizer import NOT_MASKED, Tokenizer, mask_words
from lcl.models.vision import ImageFeatures

CAPTIONS = ["a red apple", "two dogs left of a cat, on a blue ground", "a small house", "a cat"]
LANGUAGE = LanguageConfig(vocab_size=300, context_length=32, width=32, depth=2, heads=2)
CONFIGS = {
    "scratch": ModelConfig(VisionConfig("conv", width=48, depth=1), LANGUAGE, 16),
    "vit": ModelConfig(VisionConfig("vit", width=48, depth=2), LANGUAGE, 16),
    "hf:bert": ModelConfig(
        VisionConfig("conv", width=48, depth=1), dataclasses.replace(LANGUAGE, tower="hf:bert"), 16
    ),
    "hf:distilbert": ModelConfig(
        VisionConfig("conv", width=48, depth=1), dataclasses.replace(LANGUAGE, tower="hf:distilbert"), 16
    ),
}
IMAGES = torch.randint(256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def tokens():
    return Tokenizer.train(CAPTIONS, 300, "a data set").encode(CAPTIONS, 32)


@pytest.fixture(scope="module")
def masked(tokens):
    """Captions with half of their words masked, and what was there."""
    return mask_words(tokens, torch.Generator().manual_seed(0), 300, 0.5)


@pytest.fixture(params=CONFIGS)
def pair(request) -> tuple[Clip, FusedMlm]:
    """A model and what masked language modelling adds to it, ready to evaluate."""
    return make(CONFIGS[request.param])


def make(config: ModelConfig, layers: tuple[int, ...] = ()) -> tuple[Clip, FusedMlm]:
    torch.manual_seed(0)
    model = Clip(config).eval()
    return model, FusedMlm(config, model.language, model.vision.width, layers).eval()


def open_gates(mlm: FusedMlm, width: float = 1.0) -> FusedMlm:
    for block in mlm.blocks.values():
        block.gate.data.fill_(width)
    return mlm


# --- one block


def slow_block(block: FusionBlock, x: torch.Tensor, owners: list[int], patches: torch.Tensor) -> torch.Tensor:
    """The block, one caption, head and token at a time. x: (T, d), owners: the caption of each token."""
    size, rows = patches.shape[-1], []
    for token, owner in zip(x, owners, strict=True):
        seen = F.layer_norm(patches[owner], (size,), block.norm_image.weight, block.norm_image.bias)
        text = F.layer_norm(token, token.shape, block.norm_text.weight, block.norm_text.bias)
        query = block.queries.weight @ text + block.queries.bias
        mixed = []
        for head in range(block.heads):
            asks = query[head * size : (head + 1) * size].tolist()
            logits = [sum(a * b for a, b in zip(asks, patch, strict=True)) / math.sqrt(size) for patch in seen.tolist()]
            weights = [math.exp(logit - max(logits)) for logit in logits]
            mixed += [sum(w * patch for w, patch in zip(weights, seen, strict=True)) / sum(weights)]
        most = torch.stack([max(patches[owner, :, feature]) for feature in range(size)])
        most = F.layer_norm(most, (size,), block.norm_image.weight, block.norm_image.bias)
        told = block.whole.weight @ most + block.whole.bias
        found = block.out.weight @ torch.cat(mixed) + block.out.bias
        rows.append(token + math.tanh(block.gate.item()) * (found + told))
    return torch.stack(rows)


@pytest.mark.parametrize("heads", [1, 3])
def test_a_fusion_block_is_attention_worked_out_token_by_token(heads):
    torch.manual_seed(heads)
    block = FusionBlock(6, 5, heads).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    x, patches = torch.randn(7, 6, dtype=torch.float64), torch.randn(3, 4, 5, dtype=torch.float64)
    wanted = slow_block(block, x, [0, 0, 0, 0, 1, 2, 2], patches)
    torch.testing.assert_close(block(x, mask, patches), wanted, rtol=1e-10, atol=1e-10)


def test_gradients_of_a_block_are_those_of_finite_differences():
    torch.manual_seed(0)
    block, mask = FusionBlock(4, 3, 2).double(), torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    block.gate.data.fill_(0.7)
    x, patches = torch.randn(4, 4, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)
    leaves = (x.requires_grad_(), patches.requires_grad_(), *block.parameters())
    assert torch.autograd.gradcheck(lambda x, patches, *_: block(x, mask, patches), leaves)


def test_a_fresh_block_is_the_identity_to_the_bit_and_its_gate_alone_learns_first():
    block, mask = FusionBlock(8, 6, 2), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    x = torch.randn(5, 8)
    out = block(x, mask, torch.randn(2, 4, 6))
    assert torch.equal(out, x)
    out.pow(2).sum().backward()
    moving = {name for name, parameter in block.named_parameters() if parameter.grad.abs().max() > 0}
    assert moving == {"gate"}


def test_the_order_of_the_patches_does_not_matter_to_a_block():
    block, mask = FusionBlock(8, 6, 2), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    block.gate.data.fill_(1.0)
    x, patches = torch.randn(5, 8), torch.randn(2, 4, 6)
    torch.testing.assert_close(block(x, mask, patches), block(x, mask, patches[:, [2, 0, 3, 1]]))


# --- the whole


@torch.no_grad()
def test_with_fresh_gates_an_image_changes_no_guess_by_a_bit(pair, masked):
    model, mlm = pair
    some, targets = masked
    where = targets != NOT_MASKED
    image, blind = model.vision(IMAGES), mlm(model.language, some, None, where)
    assert blind.shape == (int(where.sum()), 300)
    assert set(mlm.gates.values()) == {0.0}
    if model.config.language.tower == "transformer":  # a tower of transformers computes at padding, too
        assert torch.equal(mlm(model.language, some, image, where), blind)
    torch.testing.assert_close(mlm(model.language, some, image, where), blind, rtol=0, atol=1e-6)


@torch.no_grad()
def test_an_open_gate_lets_each_caption_see_its_own_image_and_no_other(pair, masked):
    model, mlm = pair
    some, targets = masked
    where = targets != NOT_MASKED
    owner = where.nonzero()[:, 0]
    open_gates(mlm)
    image, changed = model.vision(IMAGES), IMAGES.clone()
    changed[1] ^= 255
    before, after = mlm(model.language, some, image, where), mlm(model.language, some, model.vision(changed), where)
    moved = (before - after).abs().amax(1)
    assert (moved[owner == 1] > 1e-5).all() and (moved[owner != 1] < 1e-6).all()
    assert (before - mlm(model.language, some, None, where)).abs().max() > 1e-4


def test_gates_open_in_training_and_all_that_is_fused_learns(masked):
    model, mlm = make(CONFIGS["vit"])
    some, targets = masked
    learner = torch.nn.ModuleList([model, mlm]).train()
    before = {name: parameter.clone() for name, parameter in mlm.named_parameters()}
    optimizer, losses = torch.optim.AdamW(learner.parameters(), lr=3e-3), []
    for _ in range(12):
        logits = mlm(model.language, some, model.vision(IMAGES), targets != NOT_MASKED)
        loss = masked_language(logits, targets)["masked_language"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(abs(gate) > 1e-4 for gate in mlm.gates.values())
    assert [name for name, parameter in mlm.named_parameters() if torch.equal(parameter, before[name])] == []
    assert losses[-1] < losses[0] - 1
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.vision.parameters())


def test_no_gradient_flows_to_the_token_embeddings_that_guesses_are_compared_with(masked):
    model, mlm = make(CONFIGS["scratch"])
    some, targets = masked
    logits = mlm(model.language, some, model.vision(IMAGES), targets != NOT_MASKED)
    masked_language(logits, targets)["masked_language"].backward()
    read = torch.zeros(300, dtype=torch.bool).index_fill(0, some.ids.flatten(), True)  # these learn as the tower's input
    gradient = model.language.tokens.weight.grad
    assert (gradient[read] != 0).any() and not (gradient[~read] != 0).any() and not read.all()


@torch.no_grad()
def test_the_contrastive_path_is_the_same_bits_with_and_without_fusion(pair, tokens, masked):
    model, mlm = pair
    torch.manual_seed(0)
    alone = Clip(model.config).eval()
    first = alone(IMAGES, tokens)
    open_gates(mlm)
    some, targets = masked
    before = model(IMAGES, tokens)
    mlm(model.language, some, before.image, targets != NOT_MASKED)
    after = model(IMAGES, tokens)
    for seen in (before, after):
        assert torch.equal(seen.v, first.v) and torch.equal(seen.t, first.t)
    assert model.state_dict().keys() == alone.state_dict().keys()
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in model.state_dict().items())


def test_what_is_added_holds_nothing_of_the_towers(pair):
    model, mlm = pair
    assert not {id(p) for p in model.parameters()} & {id(p) for p in mlm.parameters()}
    assert len(mlm.state_dict()) == len(list(mlm.parameters()))


@pytest.mark.parametrize(
    ("depth", "layers", "stages", "read"),
    [
        (4, (), 2, {1: 0, 2: 0, 3: 1, 4: 1}),
        (2, (), 4, {1: 1, 2: 3}),
        (3, (2,), 3, {2: 1}),
        (4, (4, 1), 1, {1: 0, 4: 0}),
        (1, (1, 1), 2, {1: 1}),
    ],
)
def test_a_layer_reads_the_stage_at_its_own_height_of_the_image_tower(depth, layers, stages, read):
    config = dataclasses.replace(CONFIGS["scratch"], language=dataclasses.replace(LANGUAGE, depth=depth))
    _, mlm = make(config, layers)
    open_gates(mlm)
    shown = [torch.randn(1, 4, 48, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in range(stages)]
    mask, x = torch.ones(1, 3, dtype=torch.bool), torch.randn(3, 32)
    inject = mlm.inject(ImageFeatures(shown[-1], shown[-1].mean(1), tuple(shown)), mask)
    assert inject.keys() == read.keys() == mlm.gates.keys()
    for layer, stage in read.items():
        gradients = torch.autograd.grad(inject[layer](x).pow(2).sum(), shown, allow_unused=True)
        assert [number for number, gradient in enumerate(gradients) if gradient is not None] == [stage]
        assert (gradients[stage].abs().amax(2) > 0).all()  # every patch of it


@torch.no_grad()
def test_only_the_chosen_layers_see_the_image(masked):
    model, mlm = make(CONFIGS["vit"], layers=(2,))
    assert list(open_gates(mlm).gates) == [2]
    some, _ = masked
    entered = []
    inject = mlm.inject(model.vision(IMAGES), some.mask)
    model.language(some, {2: lambda x: entered.append(x) or inject[2](x)})
    by_hand = model.language(some, None)
    model.language.blocks = model.language.blocks[:1]  # up to the first block nothing has entered
    first = model.language(some, {1: lambda x: entered.append(x) or x})
    assert len(entered) == 2 and first.pooled.shape == by_hand.pooled.shape
    model.language.blocks.append(make(CONFIGS["vit"])[0].language.blocks[1])
    torch.testing.assert_close(entered[0], model.language.blocks[1](entered[1], some.mask))


@pytest.mark.parametrize("tower", ["transformer", "hf:bert"])
@pytest.mark.parametrize("layers", [(3,), (0,), (-1,), (1, 2, 9)], ids=str)
def test_a_layer_that_does_not_exist_is_refused_in_one_sentence(layers, tower):
    config = dataclasses.replace(CONFIGS["scratch"], language=dataclasses.replace(LANGUAGE, tower=tower))
    with pytest.raises(LclError, match=r"no layer (3|0|-1|9) .* has the layers 1 to 2\.$") as refusal:
        make(config, layers)
    assert "\n" not in str(refusal.value)


def test_a_text_tower_without_blocks_to_enter_after_is_refused():
    config = dataclasses.replace(CONFIGS["scratch"], language=dataclasses.replace(LANGUAGE, tower="hf:albert"))
    model = Clip(config)
    assert len(model.language.blocks) == 0  # one block, used again and again
    with pytest.raises(LclError, match="'hf:albert' shows no blocks"):
        FusedMlm(config, model.language, 48)


# --- the objective


def test_masked_language_is_the_cross_entropy_of_what_was_masked():
    logits = torch.randn(3, 5, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (3, 5), generator=torch.Generator().manual_seed(1))
    targets[torch.rand(3, 5, generator=torch.Generator().manual_seed(2)) < 0.5] = NOT_MASKED
    found = masked_language(logits[targets != NOT_MASKED], targets)
    wanted = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NOT_MASKED)
    assert list(found) == ["masked_language"]
    torch.testing.assert_close(found["masked_language"], wanted)
    mine, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (found["masked_language"], wanted))
    torch.testing.assert_close(mine, theirs)


def test_where_nothing_is_masked_the_loss_is_zero_and_its_gradients_too(tokens):
    model, mlm = make(CONFIGS["scratch"])
    open_gates(mlm)
    nothing = torch.full_like(tokens.ids, NOT_MASKED)
    logits = mlm(model.language, tokens, model.vision(IMAGES), nothing != NOT_MASKED)
    loss = masked_language(logits, nothing)["masked_language"]
    assert logits.shape == (0, 300) and loss.item() == 0
    loss.backward()
    assert all(p.grad is None or (p.grad == 0).all() for p in [*model.parameters(), *mlm.parameters()])


@torch.no_grad()
def test_the_first_loss_is_near_chance(masked):
    model, mlm = make(CONFIGS["scratch"])
    assert mlm.sharpness.exp().item() == pytest.approx(5) and not mlm.bias.any()  # it prefers no token
    some, targets = masked
    with torch.no_grad():
        logits = mlm(model.language, some, model.vision(IMAGES), targets != NOT_MASKED)
    assert (logits.logsumexp(1) - logits.mean(1)).mean().item() == pytest.approx(math.log(300), abs=0.7)


def test_all_words_masked_are_no_trouble(tokens):
    model, mlm = make(CONFIGS["scratch"])
    some, targets = mask_words(tokens, torch.Generator().manual_seed(0), 300, 1.0)
    logits = mlm(open_gates(mlm) and model.language, some, model.vision(IMAGES), targets != NOT_MASKED)
    assert logits.shape == (int((tokens.words >= 0).sum()), 300)
    assert masked_language(logits, targets)["masked_language"].isfinite()


@torch.no_grad()
def test_guesses_stand_in_the_order_of_the_masked_places(tokens):
    model, mlm = make(CONFIGS["scratch"])
    where = tokens.words == 1
    features = model.language(tokens).token_features
    mlm.bias.copy_(torch.linspace(-1, 1, 300))
    wanted = []
    for row, column in where.nonzero().tolist():  # its cosine with every token's embedding, sharpened
        guess = mlm.head.weight @ features[row, column] + mlm.head.bias
        cosines = [torch.dot(guess, token) / guess.norm() / token.norm() for token in model.language.tokens.weight]
        wanted.append(mlm.sharpness.exp() * torch.stack(cosines) + mlm.bias)
    found = mlm(model.language, tokens, None, where)
    assert found.shape == (int(where.sum()), 300)
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_every_text_tower_lends_the_table_that_it_reads_tokens_with(pair, tokens):
    model, _ = pair
    table = model.language.tokens.weight
    assert table.shape == (300, 32) and any(table is parameter for parameter in model.language.parameters())
    before = model.language(tokens).pooled
    table[tokens.ids[0, 1]] += torch.arange(32.0).sin()
    assert (model.language(tokens).pooled[0] - before[0]).abs().max() > 1e-4


@pytest.mark.parametrize("tower", ["hf:roberta", "hf:mpnet", "hf:electra"])
@torch.no_grad()
def test_text_towers_of_any_kind_guess_also_those_whose_token_table_is_narrower_or_wider(tower, masked):
    model, mlm = make(
        dataclasses.replace(CONFIGS["scratch"], language=dataclasses.replace(LANGUAGE, tower=tower))
    )
    some, targets = masked
    logits = open_gates(mlm)(model.language, some, model.vision(IMAGES), targets != NOT_MASKED)
    assert logits.shape == (int((targets != NOT_MASKED).sum()), 300) and logits.isfinite().all()


def test_a_gradient_is_the_same_bits_every_time():
    """Several threads share the work, and none may add to what another adds to: a sum would depend on who comes first."""
    torch.manual_seed(0)
    batch, length, width = 128, 24, 128
    block = FusionBlock(width=width, image_width=width, heads=2)
    block.gate.data.fill_(0.5)
    mask = torch.arange(length) < torch.randint(8, length, (batch, 1))
    x, patches = torch.randn(int(mask.sum()), width), torch.randn(batch, 64, width)

    def gradient() -> torch.Tensor:
        block.zero_grad()
        block(x, mask, patches).square().sum().backward()
        return block.whole.weight.grad.clone()

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first = gradient()
        assert all(torch.equal(gradient(), first) for _ in range(50))
    finally:
        torch.set_num_threads(threads)
