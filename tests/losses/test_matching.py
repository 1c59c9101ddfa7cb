"""Matching: the exact solver against scipy and brute force, Sinkhorn against that, the objective by slow loops."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from lcl.config import LclError
from lcl.losses.matching import (
    FORBIDDEN,
    SOLVERS,
    exact,
    exact_lockstep,
    hardest,
    matched_contrast,
    max_match,
    sinkhorn,
    token_similarity,
    total_cost,
)

seeds = st.integers(0, 2**31)
prices = st.sampled_from([FORBIDDEN, 0.25, 0.5, 0.3, 0.7, 1.0, 0.0, -0.25])


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problems(seed: int, number: int, words: int, patches: int, grid: int | None = 4) -> tuple:
    """Costs (N, m, n) float64 in steps of 1 / grid (None: all unlike) and a mask of words, from none to all of them."""
    cost = torch.rand(number, words, patches, generator=random(seed), dtype=torch.float64)
    cost = cost if grid is None else (cost * grid).round() / grid
    counts = torch.randint(0, words + 1, (number,), generator=random(seed + 1))
    counts[0] = words
    return cost, torch.arange(words) < counts[:, None]


def optimum(cost: torch.Tensor, unmatched_cost: float) -> float:
    """The cheapest way to place words (m, n), by scipy, where every word has a dustbin of its own at a price."""
    m, n = cost.shape
    if m == 0:
        return 0.0
    if not math.isinf(unmatched_cost):  # (m, n + m)
        private = torch.where(torch.eye(m, dtype=torch.bool), unmatched_cost, 1e6).double()
        cost = torch.cat([cost, private], dim=1)
    rows, columns = linear_sum_assignment(cost.numpy())
    return float(cost[torch.from_numpy(rows), torch.from_numpy(columns)].sum())


def brute_force(cost: list, unmatched_cost: float) -> float:
    """The same by trying every way there is."""
    m, n = len(cost), len(cost[0])
    best = math.inf
    for places in itertools.product(range(-1, n), repeat=m):
        taken = [place for place in places if place >= 0]
        if len(set(taken)) < len(taken) or (math.isinf(unmatched_cost) and len(taken) < min(m, n)):
            continue
        dustbin = 0.0 if math.isinf(unmatched_cost) else unmatched_cost
        best = min(best, sum(dustbin if place < 0 else cost[word][place] for word, place in enumerate(places)))
    return best


def assert_one_to_one(matching, words: torch.Tensor, patches: int) -> None:
    """Every word at most one patch, every patch at most one word, padding nothing."""
    patch = matching.patch
    assert patch.shape == words.shape and patch.dtype == torch.int64
    assert ((patch >= -1) & (patch < patches)).all() and (patch[~words] == -1).all()
    assert torch.equal(matching.plan.sum(2), (patch >= 0).float()) and (matching.plan.sum(1) <= 1).all()
    assert torch.equal(matching.matched, (patch >= 0).float())


# --- the exact solver

SHAPES = [
    (1, 1), (1, 2), (1, 9), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3), (3, 8), (4, 4), (5, 3), (5, 5), (5, 7), (6, 2),
    (7, 7), (7, 12), (8, 5), (9, 9), (12, 16), (12, 64),
]  # fmt: skip
"""Twenty; 20 shapes × 5 prices × 100 problems are the ten thousand."""


@pytest.mark.parametrize("unmatched_cost", [FORBIDDEN, 0.25, 0.5, 0.75, 1.0], ids=str)
def test_ten_thousand_random_matchings_with_ties_cost_what_scipy_says(unmatched_cost):
    for number, (m, n) in enumerate(SHAPES):
        cost, words = problems(1000 * number, 100, m, n)
        matching = exact(cost, words, unmatched_cost)
        assert_one_to_one(matching, words, n)
        found = total_cost(matching, cost, words, unmatched_cost).tolist()
        wanted = [optimum(one[some], unmatched_cost) for one, some in zip(cost, words, strict=True)]
        assert found == pytest.approx(wanted, abs=1e-9), (m, n)


@settings(max_examples=60)
@given(seeds, st.integers(1, 4), st.integers(1, 4), prices, st.sampled_from([2, 4, None]))
def test_a_tiny_matching_is_the_best_of_all_ways(seed, m, n, unmatched_cost, grid):
    cost, _ = problems(seed, 1, m, n, grid)
    words = torch.ones(1, m, dtype=torch.bool)
    matching = exact(cost, words, unmatched_cost)
    assert_one_to_one(matching, words, n)
    best = brute_force(cost[0].tolist(), unmatched_cost)
    assert total_cost(matching, cost, words, unmatched_cost).item() == pytest.approx(best)


LIMITS = [FORBIDDEN, 1.0, 0.4, -0.3]


@settings(max_examples=150)
@given(st.integers(0, 10**6), st.tuples(st.integers(1, 6), st.integers(1, 13), st.integers(1, 11)), st.sampled_from(LIMITS))
def test_all_problems_at_once_are_matched_as_scipy_matches_one_by_one(seed, shape, unmatched_cost):
    size, m, n = shape
    draw = torch.Generator().manual_seed(seed)
    words = torch.rand(size, m, generator=draw) < 0.8
    cost = torch.randn(size, m, n, generator=draw)
    assert torch.equal(exact_lockstep(cost, words, unmatched_cost).patch, exact(cost, words, unmatched_cost).patch)
    tied = torch.randint(0, 4, (size, m, n), generator=draw).float()  # many matchings are cheapest
    one, other = (solve(tied, words, unmatched_cost) for solve in (exact, exact_lockstep))
    costs = [total_cost(found, tied, words, unmatched_cost) for found in (one, other)]
    torch.testing.assert_close(*costs)
    if math.isinf(unmatched_cost):
        assert torch.equal(one.matched.sum(1), other.matched.sum(1))  # as many as can be


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("unmatched_cost", [0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_a_word_dearer_than_the_price_lies_in_the_dustbin_and_a_cheaper_one_does_not(solve, dtype, unmatched_cost):
    cost = torch.full((1, 3, 4), 5.0, dtype=dtype)
    cost[0, 0, 2], cost[0, 1, 1], cost[0, 2, 3] = unmatched_cost - 0.05, unmatched_cost + 0.05, unmatched_cost + 1.0
    assert solve(cost, torch.ones(1, 3, dtype=torch.bool), unmatched_cost).patch.tolist() == [[2, -1, -1]]


@settings(max_examples=40)
@given(seeds, st.integers(1, 6), st.integers(1, 6), prices)
def test_single_precision_costs_no_more_than_double(seed, m, n, unmatched_cost):
    cost, words = problems(seed, 8, m, n, None)
    single = exact(cost.float(), words, unmatched_cost)
    assert_one_to_one(single, words, n)
    best = total_cost(exact(cost, words, unmatched_cost), cost, words, unmatched_cost)
    torch.testing.assert_close(total_cost(single, cost, words, unmatched_cost), best, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_matched_as_the_same_numbers_in_double(dtype):
    """numpy knows no bfloat16; and what is solved leaves the caller's costs as they were."""
    cost, words = problems(0, 50, 6, 8, None)
    half = cost.to(dtype)
    before = half.clone()
    assert torch.equal(exact(half, words, 0.5).patch, exact(half.double(), words, 0.5).patch)
    assert torch.equal(half, before)


def test_with_more_words_than_patches_the_dearest_are_left_over():
    cost = torch.tensor([[[0.1], [0.3], [0.2]]])
    matching = exact(cost, torch.ones(1, 3, dtype=torch.bool))
    assert matching.patch.tolist() == [[0, -1, -1]]
    assert total_cost(matching, cost, torch.ones(1, 3, dtype=torch.bool)).item() == pytest.approx(0.1)


def test_a_word_gives_way_to_one_that_has_no_other_place():
    cost = torch.tensor([[[0.0, 0.1], [0.0, 0.9]]])  # both want the first patch
    words = torch.ones(1, 2, dtype=torch.bool)
    assert exact(cost, words).patch.tolist() == [[1, 0]]
    assert max_match(cost, words).patch.tolist() == [[0, 0]]


@pytest.mark.parametrize("unmatched_cost", [FORBIDDEN, 0.4], ids=str)
def test_max_takes_every_words_cheapest_patch(unmatched_cost):
    cost, words = problems(3, 50, 6, 5, None)
    patch = max_match(cost, words, unmatched_cost).patch
    for row, column in itertools.product(range(50), range(6)):
        costs = cost[row, column].tolist()
        takes = words[row, column] and min(costs) < unmatched_cost
        assert patch[row, column] == (costs.index(min(costs)) if takes else -1)


@settings(max_examples=25)
@given(seeds, st.integers(1, 8), st.integers(1, 8), prices)
def test_no_other_one_to_one_matching_is_cheaper_than_the_exact_one(seed, m, n, unmatched_cost):
    cost, words = problems(seed, 4, m, n, None)
    best = total_cost(exact(cost, words, unmatched_cost), cost, words, unmatched_cost)
    order = torch.rand(4, m, generator=random(seed)).masked_fill(~words, 2.0).argsort(1)
    greedy = torch.full((4, m), -1)
    for row in range(4):  # each word in some order takes the cheapest patch that is left
        free = set(range(n))
        for word in order[row, : int(words[row].sum())].tolist():
            patch = min(free, key=lambda p: float(cost[row, word, p]), default=None)  # noqa: B023
            if patch is not None and cost[row, word, patch] < unmatched_cost:
                greedy[row, word] = patch
                free.remove(patch)
    other = type(exact(cost, words))(greedy, None, n)
    assert (total_cost(other, cost, words, unmatched_cost) >= best - 1e-9).all()
    if not math.isinf(unmatched_cost):  # a relaxation can only be cheaper
        assert (total_cost(max_match(cost, words, unmatched_cost), cost, words, unmatched_cost) <= best + 1e-9).all()


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("unmatched_cost", [FORBIDDEN, 0.5], ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_padding_may_hold_anything(solve, unmatched_cost, bad):
    cost, words = problems(5, 6, 4, 5, None)
    broken = cost.masked_fill(~words[..., None], bad)
    clean, found = solve(cost, words, unmatched_cost), solve(broken, words, unmatched_cost)
    assert (~words).any() and torch.equal(found.patch, clean.patch)
    assert torch.equal(found.plan, clean.plan) and (found.plan[~words] == 0).all()
    torch.testing.assert_close(total_cost(found, broken, words, unmatched_cost), total_cost(clean, cost, words, unmatched_cost))


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
def test_problems_without_words_are_solved_by_doing_nothing(solve):
    matching = solve(torch.rand(3, 2, 4), torch.zeros(3, 2, dtype=torch.bool), 0.5)
    assert (matching.patch == -1).all() and (matching.plan == 0).all() and (matching.matched == 0).all()


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("shape", [(0, 2, 4), (3, 0, 4)], ids=str)
def test_no_problems_and_no_rows_are_no_trouble(solve, shape):
    assert solve(torch.rand(shape), torch.ones(shape[:2], dtype=torch.bool)).patch.shape == shape[:2]


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_costs_that_are_no_numbers_are_refused_with_the_problems_numbers(solve, bad):
    cost, words = torch.rand(6, 3, 4), torch.ones(6, 3, dtype=torch.bool)
    words[5, 2] = False
    cost[1, 0, 0] = cost[4, 2, 3] = cost[5, 2, 1] = bad  # the last is padding
    with pytest.raises(LclError, match=r"problems \[1, 4\] are not finite"):
        solve(cost, words, 1.0)


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize(
    ("cost", "words"),
    [((3, 4), (3,)), ((2, 3, 4), (2, 4)), ((2, 3, 4), (3,)), ((2, 3, 0), (2, 3)), ((1, 2, 3, 4), (1, 2))],
    ids=str,
)
def test_shapes_that_do_not_fit_are_refused(solve, cost, words):
    with pytest.raises(LclError, match=r"costs are \(problems, words, patches\)"):
        solve(torch.zeros(cost), torch.ones(words, dtype=torch.bool), 1.0)


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
def test_words_that_are_not_yes_or_no_and_a_price_that_is_no_number_are_refused(solve):
    with pytest.raises(LclError, match="int64"):
        solve(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.int64), 1.0)
    for no_price in (math.nan, -math.inf):
        with pytest.raises(LclError, match=f"the unmatched cost must be a number.*not {no_price}"):
            solve(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool), no_price)


# --- Sinkhorn


def vectors(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


def clustered(generator: torch.Generator, shape: tuple[int, int], noise: float) -> torch.Tensor:
    """Words and patches of four things, every word of one of them."""
    centres = torch.randn(8, 4, 16, generator=generator)
    near = [
        centres[:, torch.randint(4, (some,), generator=generator)]
        + noise * torch.randn(8, some, 16, generator=generator)
        for some in shape
    ]
    words, patches = F.normalize(near[0], dim=-1), F.normalize(near[1], dim=-1)
    return 1 - words @ patches.mT


KINDS = {
    "uniform": lambda generator, shape: torch.rand(8, *shape, generator=generator),
    "cosine": lambda generator, shape: (
        1 - vectors(generator, 8, shape[0], 16) @ vectors(generator, 8, shape[1], 16).mT
    ),
    "clustered": lambda generator, shape: clustered(generator, shape, 0.6),
}


@pytest.mark.parametrize("unmatched_cost", [FORBIDDEN, 0.5], ids=str)
@pytest.mark.parametrize("shape", [(12, 64), (12, 12), (20, 12), (1, 5), (5, 1)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_sinkhorn_comes_within_a_hundredth_of_the_optimum_and_keeps_its_margins(kind, shape, unmatched_cost):
    cost = KINDS[kind](random(sum(shape)), shape)
    words = torch.ones(8, shape[0], dtype=torch.bool)
    words[1, shape[0] // 2 + 1 :] = False
    matching = sinkhorn(cost, words, unmatched_cost)
    best = total_cost(exact(cost, words, unmatched_cost), cost, words, unmatched_cost)
    torch.testing.assert_close(total_cost(matching, cost, words, unmatched_cost), best, rtol=0.01, atol=1e-6)
    plan = matching.plan
    assert (plan >= 0).all() and plan.sum(2).max() <= 1 + 1e-3 and plan.sum(1).max() <= 1 + 1e-3
    assert (plan[~words] == 0).all() and (matching.patch[~words] == -1).all()
    if math.isinf(unmatched_cost) and shape[0] <= shape[1]:  # where there is room, all words are placed
        torch.testing.assert_close(plan.sum(2)[words], torch.ones(int(words.sum())), rtol=0, atol=1e-3)


def slow_sinkhorn(cost: list[list[float]], unmatched_cost: float, epsilon: float, rounds: int) -> list[list[float]]:
    """The rounds of one problem, worked out one number at a time; annealed for 300, then over-relaxed by 1.8."""
    least, most = min(itertools.chain(*cost)), max(itertools.chain(*cost))
    spread = max(most - least, 1e-30)
    scaled = [[(one - least) / spread for one in row] for row in cost]
    unmatched = min(max((unmatched_cost - least) / spread, -1), 2)
    prices, plan = [0.0] * len(cost[0]), []
    for number in range(rounds):
        e, plan = epsilon ** min(1, number / 300), []
        for row in scaled:
            dear = [*(one + price for one, price in zip(row, prices, strict=True)), unmatched]
            weights = [math.exp((min(dear) - one) / e) for one in dear]
            plan.append([weight / sum(weights) for weight in weights[:-1]])
        asked = [sum(column) for column in zip(*plan, strict=True)]
        if number >= 300 and number % 10 == 0 and max(asked) <= 1.001:
            break
        step = 1.8 * e if number >= 300 else e
        prices = [max(price + step * math.log(max(some, 1e-30)), 0.0) for price, some in zip(prices, asked, strict=True)]
    return plan


@pytest.mark.parametrize("unmatched_cost", [FORBIDDEN, 0.6, -0.2], ids=str)
@pytest.mark.parametrize("rounds", [1, 2, 60, 301, 305, 340])
def test_sinkhorn_is_its_rounds_worked_out_number_by_number(rounds, unmatched_cost):
    cost, words = problems(9, 4, 5, 4, None)[0], torch.arange(5) < torch.tensor([5, 1, 3, 4])[:, None]
    for rows, real in zip(cost, words, strict=True):  # one at a time, since a batch goes on until all of it has settled
        found = sinkhorn(rows[None], real[None], unmatched_cost, epsilon=0.05, rounds=rounds)
        slow = slow_sinkhorn(rows[real].tolist(), unmatched_cost, 0.05, rounds)
        torch.testing.assert_close(found.plan[0, real], torch.tensor(slow, dtype=torch.float64), rtol=1e-6, atol=1e-9)
        assert torch.equal(found.matched, found.plan.sum(2))
        patches = [max(range(4), key=row.__getitem__) if max(row) > 1 - sum(row) else -1 for row in slow]
        assert found.patch[0, real].tolist() == patches


@pytest.mark.parametrize("noise", [0.05, 0.1, 0.3])
def test_among_near_equals_a_word_still_loses_less_than_a_two_hundredth_of_the_spread(noise):
    cost, words = clustered(random(1), (12, 64), noise), torch.ones(8, 12, dtype=torch.bool)
    lost = total_cost(sinkhorn(cost, words), cost, words) - total_cost(exact(cost, words), cost, words)
    assert (lost / 12 < 0.005 * (cost.amax((1, 2)) - cost.amin((1, 2)))).all()


@pytest.mark.parametrize("unmatched_cost", [FORBIDDEN, 0.5], ids=str)
@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1e3, 1e6])
def test_the_unit_of_the_costs_does_not_matter_to_sinkhorn(unit, unmatched_cost):
    cost, words = torch.rand(6, 7, 12, generator=random(2)), torch.ones(6, 7, dtype=torch.bool)
    plain, scaled = sinkhorn(cost, words, unmatched_cost), sinkhorn(cost * unit, words, unmatched_cost * unit)
    assert scaled.plan.isfinite().all()
    torch.testing.assert_close(scaled.plan, plain.plan, rtol=0, atol=2e-3)
    assert torch.equal(scaled.patch, plain.patch)


def test_sinkhorn_bears_costs_from_a_millionth_to_a_million_in_one_problem():
    cost = 10 ** (12 * torch.rand(8, 6, 10, generator=random(3)) - 6)
    matching = sinkhorn(cost, torch.ones(8, 6, dtype=torch.bool))
    assert matching.plan.isfinite().all() and matching.plan.sum(1).max() <= 1 + 1e-3


@pytest.mark.parametrize("unmatched_cost", [FORBIDDEN, 0.5, 1.0, 1.5], ids=str)
def test_equal_costs_divide_or_fall_but_stay_finite(unmatched_cost):
    cost, words = torch.ones(2, 3, 5), torch.ones(2, 3, dtype=torch.bool)
    matching = sinkhorn(cost, words, unmatched_cost)
    assert matching.plan.isfinite().all() and matching.plan.sum(1).max() <= 1 + 1e-3
    assert (matching.plan.sum(2) > 0.99).all() == (unmatched_cost > 1)


def test_half_precision_is_solved_as_single():
    cost, words = torch.rand(2, 4, 6, generator=random(4)).half(), torch.ones(2, 4, dtype=torch.bool)
    found = sinkhorn(cost, words)
    assert found.plan.dtype == torch.half
    torch.testing.assert_close(found.plan.float(), sinkhorn(cost.float(), words).plan, rtol=0, atol=1e-3)


@pytest.mark.parametrize("unmatched_cost", [FORBIDDEN, 0.6], ids=str)
def test_gradients_of_sinkhorn_are_those_of_finite_differences_while_the_spread_stays(unmatched_cost):
    inner = 0.2 + 0.6 * torch.rand(3, 4, generator=random(5), dtype=torch.float64)
    words = torch.tensor([[True, True, True, False]])

    def plan(inner):  # the last word, which is padding for a while, holds the least and the largest cost
        edge = torch.tensor([[0.0, 1.0, 0.5, 0.5]], dtype=torch.float64)
        return sinkhorn(torch.cat([inner[:1], edge, inner[1:]])[None], words, unmatched_cost, epsilon=0.3, rounds=40).plan

    assert torch.autograd.gradcheck(plan, inner.requires_grad_(), atol=1e-6)
    gradient = torch.autograd.grad((plan(inner) ** 2).sum(), inner)[0]
    assert gradient[:2].abs().max() > 1e-3 and (gradient[2] == 0).all()  # nothing comes from padding


def test_gradients_of_sinkhorn_at_its_default_are_finite():
    cost = torch.rand(2, 4, 6, generator=random(6)).requires_grad_()
    matching = sinkhorn(cost, torch.ones(2, 4, dtype=torch.bool), 0.5)
    (matching.plan * cost).sum().backward()
    assert cost.grad.isfinite().all() and cost.grad.abs().max() > 0.5


# --- token similarity


def tokens_of(seed: int, size: int, n: int, m: int, width: int, counts: list[int] | None = None) -> tuple:
    """Patches (B, n, d), words (B, m, d), and which are words; float64 unit vectors, padding zero."""
    patches, words = (
        F.normalize(torch.randn(size, some, width, generator=random(seed + some), dtype=torch.float64), dim=-1)
        for some in (n, m)
    )
    if counts is None:
        counts = torch.randint(1, m + 1, (size,), generator=random(seed)).tolist()
    real = torch.arange(m) < torch.tensor(counts)[:, None]
    return patches, words * real[..., None], real


def slow_similarity(patches: torch.Tensor, words: torch.Tensor, unmatched_cost: float) -> float:
    """1 - the mean cost of a word, by scipy and loops. patches (n, d), words (m, d), no padding."""
    m, n = len(words), len(patches)
    cosines = [[sum(a * b for a, b in zip(w, p, strict=True)) for p in patches.tolist()] for w in words.tolist()]
    cost = torch.tensor([[1 - cosine for cosine in row] for row in cosines], dtype=torch.float64)
    if math.isinf(unmatched_cost):
        rows, columns = linear_sum_assignment(cost.numpy())
        return sum(cosines[i][j] for i, j in zip(rows, columns, strict=True)) / m  # one left over counts as zero
    private = torch.where(torch.eye(m, dtype=torch.bool), unmatched_cost, 1e6).double()
    total = 0.0
    for i, j in zip(*linear_sum_assignment(torch.cat([cost, private], 1).numpy()), strict=True):
        total += cosines[i][j] if j < n else 1 - unmatched_cost
    return total / m


@pytest.mark.parametrize("unmatched_cost", [FORBIDDEN, 1.0, 0.7], ids=str)
@pytest.mark.parametrize("shape", [(9, 4), (4, 4), (3, 6)], ids=str)
def test_token_similarity_is_the_formula_worked_out_word_by_word(shape, unmatched_cost):
    patches, words, real = tokens_of(0, 5, *shape, 4)
    images, captions = torch.tensor([0, 1, 2, 3, 4, 0, 3]), torch.tensor([0, 1, 2, 3, 4, 4, 1])
    found, matching = token_similarity(patches, words, real, images, captions, unmatched_cost, exact)
    for number, (i, j) in enumerate(zip(images.tolist(), captions.tolist(), strict=True)):
        assert found[number].item() == pytest.approx(slow_similarity(patches[i], words[j][real[j]], unmatched_cost), abs=1e-9)
    assert matching.patch.shape == (7, shape[1])


@pytest.mark.parametrize("unmatched_cost", [FORBIDDEN, 1.0, 0.7], ids=str)
@pytest.mark.parametrize("solver", SOLVERS)
def test_gradients_of_token_similarity_are_those_of_finite_differences(solver, unmatched_cost):
    patches, words, real = tokens_of(1, 3, 5, 3, 4)
    images, captions = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 2, 2])

    fixed = token_similarity(patches, words, real, images, captions, unmatched_cost, SOLVERS[solver])[1]

    def similarity(patches, words):  # an assignment stays where it is in the gradient; Sinkhorn's shares are held, too
        return token_similarity(patches, words, real, images, captions, unmatched_cost, lambda *_: fixed)[0]

    assert torch.autograd.gradcheck(similarity, (patches.requires_grad_(), words.requires_grad_()))
    if solver != "sinkhorn":  # and the whole, assignment included, has the same gradient at a generic point
        whole = lambda p, w: token_similarity(p, w, real, images, captions, unmatched_cost, SOLVERS[solver])[0]  # noqa: E731
        assert torch.autograd.gradcheck(whole, (patches, words))


def test_where_words_and_patches_are_clear_all_solvers_agree():
    words = F.normalize(torch.eye(4, 8, dtype=torch.float64) + 0.02, dim=-1)[None]
    patches = torch.cat([words[0, [2, 0, 3, 1]], -words[0]])[None]
    real, zero = torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    for unmatched_cost in (FORBIDDEN, 1.0):
        for solve in SOLVERS.values():
            similarity, matching = token_similarity(patches, words, real, zero, zero, unmatched_cost, solve)
            assert matching.patch.tolist() == [[1, 3, 0, 2]]
            assert similarity.item() == pytest.approx(1.0, abs=1e-6)


def test_a_caption_without_words_has_similarity_zero_and_no_gradient():
    patches, words, real = tokens_of(2, 2, 4, 3, 4, [3, 0])
    both = torch.tensor([0, 1])
    similarity, _ = token_similarity(patches.requires_grad_(), words, real, both, both, 1.0, exact)
    assert similarity[1] == 0
    assert (torch.autograd.grad(similarity.sum(), patches)[0][1] == 0).all()


# --- the objective


def slow_contrast(patches, words, real, s, scale: float, negatives: int, unmatched_cost: float, content=None) -> float:
    """The objective by loops: token similarities by scipy, cross-entropies by hand; captions without words left out.

    content: what each caption says; rows that say the same are no negatives of each other (default: all differ).
    """
    size, asks = len(s), [bool(row.any()) for row in real]
    content = content or list(range(size))
    token = lambda i, j: slow_similarity(patches[i], words[j][real[j]], unmatched_cost)  # noqa: E731
    terms: dict[str, list[float]] = {"by image": [], "by caption": []}
    for i in range(size):
        if not asks[i]:
            continue
        others = sorted((j for j in range(size) if content[j] != content[i]), key=lambda j: -s[i, j])[:negatives]
        wrong = [scale * token(i, j) for j in others if asks[j]]
        terms["by image"].append(entropy(scale * token(i, i), wrong))
        others = sorted((j for j in range(size) if content[j] != content[i]), key=lambda j: -s[j, i])[:negatives]
        terms["by caption"].append(entropy(scale * token(i, i), [scale * token(j, i) for j in others]))
    return sum(sum(some) / len(some) for some in terms.values()) / 2


def entropy(right: float, wrong: list[float]) -> float:
    return -math.log(math.exp(right) / (math.exp(right) + sum(math.exp(logit) for logit in wrong)))


def similarities(seed: int, size: int) -> torch.Tensor:
    return 2 * torch.rand(size, size, generator=random(seed), dtype=torch.float64) - 1


@pytest.mark.parametrize("unmatched_cost", [FORBIDDEN, 1.0, 0.7], ids=str)
@pytest.mark.parametrize(("size", "negatives"), [(2, 1), (5, 2), (6, 4), (4, 9)])
def test_the_objective_is_what_loops_and_scipy_make_of_it(size, negatives, unmatched_cost):
    patches, words, real = tokens_of(size, size, 7, 4, 4)
    s = similarities(size, size)
    found = matched_contrast(patches, words, real, s, 3.0, negatives, unmatched_cost, "exact")
    assert list(found) == ["matched_contrast"]
    wanted = slow_contrast(patches, words, real, s, 3.0, negatives, unmatched_cost)
    assert found["matched_contrast"].item() == pytest.approx(wanted, rel=1e-7)


def equal(content: list) -> torch.Tensor:
    return torch.tensor([[one == other for other in content] for one in content])


@settings(max_examples=25)
@given(seeds, st.lists(st.integers(0, 3), min_size=2, max_size=7), st.integers(1, 7), st.sampled_from([FORBIDDEN, 0.9]))
@example(0, [0, 0, 0, 0], 2, 0.9)
@example(1, [0, 0, 0, 1], 2, 0.9)
def test_rows_of_the_same_content_are_no_negatives_of_each_other(seed, content, negatives, unmatched_cost):
    size = len(content)
    patches, words, real = tokens_of(seed, size, 6, 3, 4)
    s, same = similarities(seed, size), equal(content)
    patches.requires_grad_(), words.requires_grad_()
    found = matched_contrast(patches, words, real, s, 3.0, negatives, unmatched_cost, "exact", same)["matched_contrast"]
    wanted = slow_contrast(patches.detach(), words.detach(), real, s, 3.0, negatives, unmatched_cost, content)
    assert found.item() == pytest.approx(wanted, rel=1e-7, abs=1e-12)
    without = matched_contrast(patches, words, real, s, 3.0, negatives, unmatched_cost, "exact", same & ~torch.eye(size).bool())
    assert found == without["matched_contrast"]  # a row is never its own negative, whether `same` says so or not
    found.backward()
    assert patches.grad.isfinite().all() and words.grad.isfinite().all()
    if len(set(content)) == 1:
        assert found == 0 and (patches.grad == 0).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_batch_of_equal_captions_teaches_nothing(solver):
    patches, words, real = tokens_of(3, 4, 5, 3, 4)
    patches.requires_grad_()
    found = matched_contrast(patches, words, real, similarities(3, 4), 10.0, 2, 1.0, solver, equal(["a cat"] * 4))
    found["matched_contrast"].backward()
    assert found["matched_contrast"] == 0 and (patches.grad == 0).all()


@pytest.mark.parametrize("counts", [[3, 0, 2, 1], [0, 4, 0, 1]], ids=str)
@pytest.mark.parametrize("scale", [0.5, 10.0])
def test_captions_without_words_neither_ask_nor_answer(counts, scale):
    patches, words, real = tokens_of(7, 4, 6, 4, 4, counts)
    s = similarities(7, 4)
    found = matched_contrast(patches, words, real, s, scale, 3, 1.0, "exact")["matched_contrast"]
    assert found.item() == pytest.approx(slow_contrast(patches, words, real, s, scale, 3, 1.0), rel=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_batch_whose_captions_have_no_words_at_all_teaches_nothing(solver):
    patches, words, real = tokens_of(8, 3, 5, 4, 4, [0, 0, 0])
    patches.requires_grad_()
    found = matched_contrast(patches, words, real, similarities(8, 3), 10.0, 2, 1.0, solver)["matched_contrast"]
    assert found.item() == 0
    found.backward()
    assert patches.grad is None or (patches.grad == 0).all()


@pytest.mark.parametrize("solver", ["exact", "max"])
def test_gradients_of_the_objective_are_those_of_finite_differences(solver):
    patches, words, real = tokens_of(9, 4, 5, 3, 4, [3, 1, 2, 3])
    s, scale = similarities(9, 4), torch.tensor(4.0, dtype=torch.float64, requires_grad=True)

    def loss(patches, words, scale):
        return matched_contrast(patches, words, real, s, scale, 2, 0.9, solver)["matched_contrast"]

    assert torch.autograd.gradcheck(loss, (patches.requires_grad_(), words.requires_grad_(), scale))


def test_global_similarities_choose_the_negatives_and_learn_nothing_from_it():
    patches, words, real = tokens_of(10, 5, 6, 3, 4)
    s = similarities(10, 5).requires_grad_()
    patches.requires_grad_()
    matched_contrast(patches, words, real, s, 10.0, 2, 1.0, "exact")["matched_contrast"].backward()
    assert s.grad is None and patches.grad.abs().max() > 0


def test_more_words_than_patches_are_no_trouble():
    patches, words, real = tokens_of(11, 3, 2, 6, 4, [6, 3, 1])
    for solver in SOLVERS:
        found = matched_contrast(patches.requires_grad_(), words, real, similarities(11, 3), 10.0, 2, 1.0, solver)
        found["matched_contrast"].backward()
        assert patches.grad.isfinite().all()


def test_sinkhorn_teaches_what_the_exact_solver_teaches_where_the_matching_is_clear():
    words = F.normalize(torch.randn(4, 3, 12, generator=random(12), dtype=torch.float64), dim=-1)
    patches = F.normalize(
        torch.cat([words + 0.05, torch.randn(4, 2, 12, generator=random(13), dtype=torch.float64)], dim=1), dim=-1
    )
    real, s = torch.ones(4, 3, dtype=torch.bool), similarities(12, 4)
    losses = [
        matched_contrast(patches, words, real, s, 5.0, 3, FORBIDDEN, solver)["matched_contrast"].item()
        for solver in ("exact", "sinkhorn")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_a_guess_costs_the_logarithm_of_the_candidates_and_the_truth_next_to_nothing():
    same = F.normalize(torch.ones(5, 4, 8), dim=-1)
    real = torch.ones(5, 4, dtype=torch.bool)
    found = matched_contrast(same, same, real, torch.eye(5), 10.0, 3, 1.0, "exact")["matched_contrast"]
    assert found.item() == pytest.approx(math.log(4), rel=1e-5)
    own = torch.eye(5)[:, None].expand(-1, 4, -1)
    assert matched_contrast(own, own, real, torch.eye(5), 50.0, 3, 1.0, "exact")["matched_contrast"] < 1e-6


@settings(max_examples=30)
@given(seeds, st.integers(2, 9), st.integers(1, 12))
def test_the_hardest_are_the_most_similar_others(seed, size, negatives):
    s = torch.rand(size, size, generator=random(seed))
    found = hardest(s, negatives)
    assert found.shape == (size, min(negatives, size - 1))
    for row in range(size):
        order = sorted((j for j in range(size) if j != row), key=lambda j: -s[row, j])
        assert found[row].tolist() == order[:negatives]


@settings(max_examples=30)
@given(seeds, st.lists(st.integers(0, 3), min_size=2, max_size=9), st.integers(1, 12))
def test_the_hardest_of_another_content_come_first(seed, content, negatives):
    size, same = len(content), equal(content)
    s = torch.rand(size, size, generator=random(seed))
    found = hardest(s, negatives, same)
    assert found.shape == (size, min(negatives, size - 1))
    for row in range(size):
        order = sorted((j for j in range(size) if not same[row, j]), key=lambda j: -s[row, j])
        assert found[row, : len(order)].tolist() == order[:negatives]


def test_more_negatives_than_there_are_means_all_of_them():
    patches, words, real = tokens_of(14, 4, 5, 3, 4)
    s = similarities(14, 4)
    three, many = (matched_contrast(patches, words, real, s, 10.0, k, 1.0, "exact") for k in (3, 1000))
    assert three["matched_contrast"] == pytest.approx(many["matched_contrast"].item())


def contrast(s=None, size=4, **changes):
    patches, words, real = tokens_of(15, size, 5, 3, 4)
    settings_ = {"scale": 10.0, "negatives": 2, "unmatched_cost": 1.0, "solver": "exact"} | changes
    return matched_contrast(patches, words, real, similarities(15, size) if s is None else s, **settings_)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_similarities_that_are_no_numbers_are_refused_with_their_rows(bad):
    s = similarities(16, 4)
    s[1, 0] = s[3, 3] = bad
    with pytest.raises(LclError, match=r"batch's rows \[1, 3\] are not finite"):
        contrast(s)


@pytest.mark.parametrize("size", [0, 1])
def test_a_batch_of_one_is_refused(size):
    with pytest.raises(LclError, match="no negatives"):
        contrast(torch.zeros(size, size), size=max(size, 1))


@pytest.mark.parametrize("negatives", [0, -1])
def test_no_negatives_are_refused(negatives):
    with pytest.raises(LclError, match=f"1 or more, not {negatives}"):
        contrast(negatives=negatives)


def test_an_unknown_solver_is_refused_with_the_near_names():
    with pytest.raises(LclError, match="no solver 'sinkhron'; did you mean sinkhorn"):
        contrast(solver="sinkhron")
