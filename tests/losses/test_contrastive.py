"""InfoNCE and softened labels: against open_clip, lightly and PyTorch, slow double loops of the formulas, and by symmetries."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lcl.config import LclError
from lcl.losses.contrastive import (
    SCHEDULES,
    Sigmoid,
    info_nce,
    negatives_share,
    ramp,
    sigmoid_loss,
    soft_info_nce,
    soft_targets,
)

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
seeds, sizes, widths = st.integers(0, 2**31), st.integers(2, 24), st.integers(1, 48)


def batch(seed: int, size: int, width: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Unit vectors v and t, and a logit scale from 1 to 100."""
    generator = torch.Generator().manual_seed(seed)
    v, t = F.normalize(torch.randn(2, size, width, generator=generator, dtype=torch.float64), dim=-1).to(dtype)
    scale = torch.exp(math.log(100) * torch.rand((), generator=generator, dtype=torch.float64)).to(dtype)
    return [tensor.clone().requires_grad_() for tensor in (v, t, scale)]


def loss_of(v: torch.Tensor, t: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return info_nce(v, t, scale)["info_nce"]


def slow(v: list, t: list, scale: float) -> float:
    """The formula, one term at a time."""
    size, total = len(v), 0.0
    for i in range(size):
        own = math.exp(scale * sum(a * b for a, b in zip(v[i], t[i], strict=True)))
        captions = images = 0.0
        for j in range(size):
            captions += math.exp(scale * sum(a * b for a, b in zip(v[i], t[j], strict=True)))
            images += math.exp(scale * sum(a * b for a, b in zip(v[j], t[i], strict=True)))
        total += -math.log(own / captions) - math.log(own / images)
    return total / (2 * size)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("seed", "size", "width"), [(0, 2, 1), (1, 3, 8), (2, 16, 64), (3, 64, 128), (4, 7, 512)])
def test_value_and_gradients_are_those_of_open_clip(dtype, seed, size, width):
    import open_clip  # takes a second

    ours, peers = (batch(seed, size, width, dtype) for _ in range(2))
    loss, peer = loss_of(*ours), open_clip.ClipLoss()(*peers)
    loss.backward()
    peer.backward()
    torch.testing.assert_close(loss, peer, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    for rows, theirs in zip(ours, peers, strict=True):
        torch.testing.assert_close(rows.grad, theirs.grad, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize(("seed", "size", "width"), [(0, 2, 4), (1, 5, 8), (2, 12, 16)])
def test_a_query_is_asked_what_lightly_asks_when_the_others_lie_in_its_memory(seed, size, width):
    """NT-Xent with a memory bank compares a query with its own and with the bank, which holds the other captions, or images."""
    loss_modules = pytest.importorskip("lightly.loss", reason="not installed; `make tools` does")
    v, t, scale = (tensor.detach() for tensor in batch(seed, size, width))
    rows = []
    for asking, asked in ((v, t), (t, v)):
        for i in range(size):
            others = torch.cat([asked[:i], asked[i + 1 :]])
            peer = loss_modules.NTXentLoss(1 / scale.item(), memory_bank_size=(size - 1, width))
            peer.memory_bank.bank = others
            rows.append(peer(asking[i : i + 1], asked[i : i + 1]))
    torch.testing.assert_close(loss_of(v, t, scale), torch.stack(rows).mean(), rtol=1e-9, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(2, 8), st.integers(1, 8))
def test_it_is_the_formula_summed_by_a_slow_double_loop(seed, size, width):
    v, t, scale = batch(seed, size, width)
    assert loss_of(v, t, scale).item() == pytest.approx(slow(v.tolist(), t.tolist(), scale.item()), rel=1e-9, abs=1e-12)


def test_gradients_are_those_of_finite_differences():
    v, t, _ = batch(0, 5, 4)
    assert torch.autograd.gradcheck(loss_of, (v, t, torch.tensor(3.0, dtype=torch.float64, requires_grad=True)))


@settings(max_examples=25, deadline=None)
@given(seeds, sizes, widths)
def test_images_and_captions_may_change_places(seed, size, width):
    v, t, scale = batch(seed, size, width)
    torch.testing.assert_close(loss_of(v, t, scale), loss_of(t, v, scale), rtol=1e-12, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seeds, sizes, widths)
def test_the_order_of_the_pairs_does_not_matter(seed, size, width):
    v, t, scale = batch(seed, size, width)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(loss_of(v, t, scale), loss_of(v[order], t[order], scale), rtol=1e-12, atol=1e-12)


def test_who_belongs_to_whom_matters():
    v, _, scale = batch(0, 8, 32)
    assert loss_of(v, v, scale) < loss_of(v, v.roll(1, 0), scale)


@settings(max_examples=25, deadline=None)
@given(seeds, sizes, widths)
def test_the_loss_lies_between_zero_and_what_wrong_pairs_cost(seed, size, width):
    v, t, scale = batch(seed, size, width)
    assert 0 <= loss_of(v, t, scale) <= math.log(size) + 2 * scale + 1e-9


@pytest.mark.parametrize("size", [2, 16, 256])
def test_identical_embeddings_cost_the_logarithm_of_the_batch(size):
    same = F.normalize(torch.ones(size, 8, dtype=torch.float64), dim=-1)
    assert loss_of(same, same, torch.tensor(20.0)).item() == pytest.approx(math.log(size), rel=1e-12)


@pytest.mark.parametrize("size", [0, 1])
def test_a_batch_without_negatives_is_refused(size):
    with pytest.raises(LclError, match="no negatives"):
        info_nce(torch.ones(size, 4), torch.ones(size, 4), torch.tensor(10.0))


# --- softened labels

alphas, temperatures = st.floats(0, 1), st.floats(0.02, 10)


def soft_loss_of(v, t, scale, alpha: float, temperature: float) -> torch.Tensor:
    return soft_info_nce(v, t, scale, alpha, temperature)["soft_info_nce"]


def slow_targets(s: list, alpha: float, temperature: float) -> list:
    """y_ij = (1 - α)·[i = j] + α·w_ij with w_i = softmax over j ≠ i of s_ij / T, one number at a time."""
    size, y = len(s), []
    for i in range(size):
        others = sum(math.exp((s[i][j] - max(s[i])) / temperature) for j in range(size) if j != i)
        y.append([
            1 - alpha if j == i else alpha * math.exp((s[i][j] - max(s[i])) / temperature) / others for j in range(size)
        ])  # fmt: skip
    return y


def slow_soft(v: list, t: list, scale: float, alpha: float, temperature: float) -> float:
    """The cross-entropy of these targets: rows for image to text, columns for text to image."""
    s = [[sum(a * b for a, b in zip(image, text, strict=True)) for text in t] for image in v]
    columns, total = [list(column) for column in zip(*s, strict=True)], 0.0
    for asked in (s, columns):
        y = slow_targets(asked, alpha, temperature)
        for i, row in enumerate(asked):
            most = max(row)
            log_sum = scale * most + math.log(sum(math.exp(scale * (other - most)) for other in row))
            total -= sum(y[i][j] * (scale * row[j] - log_sum) for j in range(len(row)))
    return total / (2 * len(s))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", [2, 5, 64])
def test_without_softening_it_is_info_nce_to_the_bit_gradients_included(dtype, size):
    soft, hard = (batch(size, size, 16, dtype) for _ in range(2))
    loss, peer = soft_loss_of(*soft, 0.0, 0.1), loss_of(*hard)
    loss.backward()
    peer.backward()
    assert torch.equal(loss, peer)
    assert all(torch.equal(rows.grad, theirs.grad) for rows, theirs in zip(soft, hard, strict=True))


def test_without_softening_the_labels_are_those_of_clip():
    s = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(soft_targets(s, 0.0, 0.1), torch.eye(6))


@settings(max_examples=25)
@given(seeds, st.integers(2, 24), st.floats(0, 0.9))
def test_a_temperature_without_bound_is_label_smoothing(seed, size, alpha):
    v, t, scale = batch(seed, size, 8)
    alpha *= (size - 1) / size  # PyTorch spreads its share over all, the right one included, and has at most 1
    s, own = scale * v @ t.T, torch.arange(size)
    smoothing = alpha * size / (size - 1)
    peer = sum(F.cross_entropy(logits, own, label_smoothing=smoothing) for logits in (s, s.T)) / 2
    torch.testing.assert_close(soft_loss_of(v, t, scale, alpha, math.inf), peer, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(soft_loss_of(v, t, scale, alpha, 1e9), peer, rtol=1e-6, atol=1e-6)


@settings(max_examples=40)
@given(seeds, sizes, alphas, temperatures)
def test_rows_of_the_labels_sum_to_one_and_the_pair_keeps_its_part(seed, size, alpha, temperature):
    s = 2 * torch.rand(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    y, w = soft_targets(s, alpha, temperature), negatives_share(s, temperature)
    torch.testing.assert_close(y.sum(1), torch.ones(size, dtype=torch.float64))
    torch.testing.assert_close(w.sum(1), torch.ones(size, dtype=torch.float64))
    torch.testing.assert_close(y.diagonal(), torch.full((size,), 1 - alpha, dtype=torch.float64))
    assert (w.diagonal() == 0).all() and (y >= 0).all()
    torch.testing.assert_close(y, torch.tensor(slow_targets(s.tolist(), alpha, temperature), dtype=torch.float64))


@settings(max_examples=25)
@given(seeds, st.integers(2, 8), st.integers(1, 8), alphas, temperatures)
def test_softened_it_is_the_formula_summed_by_a_slow_double_loop(seed, size, width, alpha, temperature):
    v, t, scale = batch(seed, size, width)
    slow_one = slow_soft(v.tolist(), t.tolist(), scale.item(), alpha, temperature)
    assert soft_loss_of(v, t, scale, alpha, temperature).item() == pytest.approx(slow_one, rel=1e-9, abs=1e-11)


@settings(max_examples=25)
@given(seeds, sizes, widths, alphas, temperatures)
def test_it_is_the_cross_entropy_of_the_labels_rows_for_images_columns_for_captions(seed, size, width, alpha, temp):
    v, t, scale = batch(seed, size, width)
    s = v @ t.T
    rows = F.cross_entropy(scale * s, soft_targets(s, alpha, temp))
    columns = F.cross_entropy(scale * s.T, soft_targets(s.T, alpha, temp))
    torch.testing.assert_close(soft_loss_of(v, t, scale, alpha, temp), (rows + columns) / 2, rtol=1e-10, atol=1e-10)


def test_the_labels_of_captions_are_not_those_of_images_turned_around():
    v, t, _ = batch(3, 6, 4)
    s = v @ t.T
    assert not torch.allclose(soft_targets(s, 0.5, 0.1).T, soft_targets(s.T, 0.5, 0.1), atol=1e-3)


def test_no_gradient_passes_through_the_labels():
    v, t, _ = batch(4, 5, 6)
    s = v @ t.T
    assert s.requires_grad
    assert not soft_targets(s, 0.3, 0.1).requires_grad and not negatives_share(s, 0.1).requires_grad


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_gradients_with_the_labels_held_are_those_of_finite_differences(alpha):
    v, t, _ = batch(0, 5, 4)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    s = (v @ t.T).detach()
    rows, columns = soft_targets(s, alpha, 0.2), soft_targets(s.T, alpha, 0.2)

    def held(v, t, scale):
        return (F.cross_entropy(scale * v @ t.T, rows) + F.cross_entropy(scale * t @ v.T, columns)) / 2

    assert torch.autograd.gradcheck(held, (v, t, scale))
    wanted = torch.autograd.grad(held(v, t, scale), (v, t, scale))
    found = torch.autograd.grad(soft_loss_of(v, t, scale, alpha, 0.2), (v, t, scale))
    for rows, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(rows, theirs, rtol=1e-10, atol=1e-12)


def test_the_gradient_of_the_logits_is_the_guess_minus_the_label():
    v, t, scale = batch(1, 6, 3)
    s = v @ t.T
    guess = (scale * s).softmax(1) - soft_targets(s, 0.4, 0.1), (scale * s.T).softmax(1) - soft_targets(s.T, 0.4, 0.1)
    wanted = scale * (guess[0] + guess[1].T) @ t / (2 * 6)
    torch.testing.assert_close(torch.autograd.grad(soft_loss_of(v, t, scale, 0.4, 0.1), v)[0], wanted)


@settings(max_examples=25)
@given(seeds, sizes, widths, alphas, temperatures)
def test_softened_images_and_captions_may_change_places_and_pairs_their_order(seed, size, width, alpha, temperature):
    v, t, scale = batch(seed, size, width)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    loss = soft_loss_of(v, t, scale, alpha, temperature)
    torch.testing.assert_close(loss, soft_loss_of(t, v, scale, alpha, temperature), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loss, soft_loss_of(v[order], t[order], scale, alpha, temperature), rtol=1e-9, atol=1e-9)


def test_what_looks_alike_gets_the_larger_share():
    s = torch.tensor([[1.0, 0.9, -0.5], [0.2, 1.0, 0.1], [0.0, 0.3, 1.0]])
    w = negatives_share(s, 0.1)
    assert w[0, 1] > 0.99 and w[1, 0] > w[1, 2] and w[2, 1] > w[2, 0]


@pytest.mark.parametrize("alpha", [-0.01, 1.01, math.nan, math.inf])
def test_a_share_outside_zero_to_one_is_refused(alpha):
    v, t, scale = batch(0, 4, 4)
    for refused in (lambda: soft_targets(v @ t.T, alpha, 0.1), lambda: soft_info_nce(v, t, scale, alpha, 0.1)):
        with pytest.raises(LclError, match=f"0 to 1, not {alpha}"):
            refused()


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    v, t, scale = batch(0, 4, 4)
    for refused in (
        lambda: soft_targets(v @ t.T, 0.1, temperature), lambda: negatives_share(v @ t.T, temperature),
        lambda: soft_info_nce(v, t, scale, 0.1, temperature),
    ):  # fmt: skip
        with pytest.raises(LclError, match="must be more than 0"):
            refused()


@pytest.mark.parametrize("size", [0, 1])
def test_softening_a_batch_without_negatives_is_refused(size):
    one, scale = torch.ones(size, 4), torch.tensor(1.0)
    for refused in (lambda: soft_targets(one @ one.T, 0.1, 0.1), lambda: soft_info_nce(one, one, scale, 0.0, 0.1)):
        with pytest.raises(LclError, match="no negatives"):
            refused()


# --- schedules


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_ramp_never_falls_and_ends_at_its_largest_value(schedule):
    values = [ramp(schedule, 0.3, progress / 100) for progress in range(101)]
    assert values == sorted(values) and values[-1] == pytest.approx(0.3) and max(values) <= 0.3
    assert values[0] == (0.3 if schedule == "constant" else 0)


def test_ramps_are_what_they_are_called():
    for progress in (0.0, 0.25, 0.5, 0.8, 1.0):
        assert ramp("constant", 0.2, progress) == 0.2
        assert ramp("linear", 0.2, progress) == pytest.approx(0.2 * progress)
        assert ramp("cosine", 0.2, progress) == pytest.approx(0.2 * math.sin(math.pi * progress / 2) ** 2)


@pytest.mark.parametrize("progress", [-0.1, 1.1, math.nan])
def test_progress_that_is_no_share_of_the_training_is_refused(progress):
    with pytest.raises(LclError, match="0 to 1"):
        ramp("linear", 0.2, progress)


def test_an_unknown_schedule_is_refused_with_the_near_name():
    with pytest.raises(LclError, match="no schedule 'cosin'; did you mean cosine"):
        ramp("cosin", 0.2, 0.5)


@pytest.mark.parametrize("within", [False, True])
def test_softened_pieces_of_the_rows_make_the_whole(within):
    v, t, scale = batch(0, 6, 4)
    whole = soft_info_nce(v, t, scale, 0.3, 0.1, None, within)["soft_info_nce"]
    pieces = [soft_info_nce(v, t, scale, 0.3, 0.1, slice(row, row + 2), within)["soft_info_nce"] for row in (0, 2, 4)]
    torch.testing.assert_close(sum(pieces) / 3, whole)


# --- the likeness within a modality


@settings(max_examples=25)
@given(seeds, st.integers(2, 8), st.integers(1, 8), alphas, temperatures)
def test_within_a_modality_images_are_labelled_by_images_and_captions_by_captions(seed, size, width, alpha, temperature):
    v, t, scale = batch(seed, size, width)
    found = soft_info_nce(v, t, scale, alpha, temperature, within_modality=True)["soft_info_nce"]
    wanted = 0.0
    for one, other in ((v, t), (t, v)):
        y = slow_targets((one @ one.T).tolist(), alpha, temperature)
        p = (scale * one @ other.T).softmax(1).tolist()
        wanted -= sum(y[i][j] * math.log(p[i][j]) for i in range(size) for j in range(size) if y[i][j]) / (2 * size)
    assert found.item() == pytest.approx(wanted, rel=1e-9)


# --- pairs one by one


def sigmoid_of(v, t, scale, bias, rows=None) -> torch.Tensor:
    return sigmoid_loss(v, t, scale, bias, rows)["sigmoid"]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("seed", "size", "width"), [(0, 2, 1), (1, 3, 8), (2, 16, 64), (3, 64, 128)])
def test_value_and_gradients_of_the_sigmoid_loss_are_those_of_open_clip(dtype, seed, size, width):
    from open_clip.loss import SigLipLoss

    (ours, peers), biases = (batch(seed, size, width, dtype) for _ in range(2)), []
    for tensors in (ours, peers):
        biases.append(torch.tensor(-10.0, dtype=dtype, requires_grad=True))
        tensors.append(biases[-1])
    loss, peer = sigmoid_of(*ours), SigLipLoss()(*peers)
    loss.backward()
    peer.backward()
    torch.testing.assert_close(loss, peer, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    for own, theirs in zip(ours, peers, strict=True):
        torch.testing.assert_close(own.grad, theirs.grad, rtol=10 * TOLERANCE[dtype], atol=10 * TOLERANCE[dtype])


@settings(max_examples=25)
@given(seeds, st.integers(2, 8), st.integers(1, 8), st.floats(-12, 3))
def test_the_sigmoid_loss_is_its_formula_summed_by_a_slow_double_loop(seed, size, width, bias):
    v, t, scale = batch(seed, size, width)
    total = 0.0
    for i in range(size):
        for j in range(size):
            z = 1 if i == j else -1
            logit = z * (scale.item() * sum(a * b for a, b in zip(v[i].tolist(), t[j].tolist(), strict=True)) + bias)
            total += math.log1p(math.exp(-logit)) if logit > -30 else -logit
    bias = torch.tensor(bias, dtype=torch.float64)
    whole = sigmoid_of(v, t, scale, bias)
    assert whole.item() == pytest.approx(total / size, rel=1e-9)
    pieces = [sigmoid_of(v, t, scale, bias, slice(row, row + 1)) for row in range(size)]
    torch.testing.assert_close(sum(pieces) / size, whole)


def test_the_sigmoid_loss_begins_with_siglips_bias_and_refuses_a_batch_of_one():
    assert Sigmoid().bias.item() == -10.0
    with pytest.raises(LclError, match="batch of one has no negatives"):
        sigmoid_of(torch.ones(1, 4), torch.ones(1, 4), torch.tensor(10.0), torch.tensor(-10.0))
