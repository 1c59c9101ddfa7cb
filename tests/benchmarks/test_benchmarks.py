"""The benchmarks race what they say they race, grow as they should where that is known, and can be read again."""

import dataclasses
import json
import math
import random
import shutil
import sys

import pytest
import torch

from benchmarks import baselines, run, scaling, timing
from benchmarks.run import Bench, load_bench, save_bench
from benchmarks.scaling import Scaling, grow, slope
from benchmarks.timing import Benchmark, Spread, benchmark
from lcl.config import LanguageConfig, LclError, ModelConfig, VisionConfig, get_profile
from lcl.losses.matching import SOLVERS, sinkhorn
from lcl.models.tokenizer import Tokens
from lcl.train.recipes import RECIPES, get_recipe

THREE = Benchmark("a", "ours", "theirs", "things/s", 10, (1.0, 2.0, 4.0), (2.0, 3.0, 16.0), "so much")


@pytest.fixture
def small(monkeypatch):
    laptop = get_profile("laptop")
    laptop = dataclasses.replace(laptop, training=dataclasses.replace(laptop.training, batch_size=16))
    monkeypatch.setattr(baselines, "BATCH", 4)
    monkeypatch.setattr(baselines, "get_profile", lambda name: {"laptop": laptop}[name])


def test_ratios_are_those_of_laps_side_by_side():
    assert THREE.faster == Spread(2.0, 1.5, 4.0) and THREE.longer == Spread(0.5, 0.25, 1 / 1.5)
    assert str(THREE) == (
        "ours, beside theirs: 2.00 (1.50 to 4.00) times as fast, 3 repeats; 5 and 3 things/s; so much"
    )


def test_a_small_ratio_keeps_its_digits():
    assert str(Spread(0.00721, 0.0069, 0.25)) == "0.0072 (0.0069 to 0.25)"


def test_they_take_turns_after_a_round_that_does_not_count():
    order = []
    found = benchmark("k", "w", "b", "u", 1, lambda: order.append("ours"), lambda: order.append("peer"), repeats=2, times=3)
    rounds = [order[start : start + 2] for start in range(0, len(order), 2)]
    assert len(rounds) == 1 + 2 * 3 and all(sorted(each) == ["ours", "peer"] for each in rounds)
    assert len({tuple(each) for each in rounds[1:]}) == 2  # now one goes first, now the other
    assert len(found.ours) == len(found.peer) == 2


def test_of_a_repeat_the_median_turn_of_each_counts(monkeypatch):
    """A machine that is slow for a while is slow for both: the ratio stays."""
    laps = {"a": iter([1.0, 9.0, 1.2]), "b": iter([2.0, 18.0, 2.4])}
    monkeypatch.setattr(timing, "seconds", lambda work: next(laps[work]))
    assert timing.turns(["a", "b"], 3, random.Random(0)) == [1.2, 2.4]


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_a_power_law_has_its_slope_and_fixed_costs_hide_it_less_in_the_larger_half(power):
    x = (16, 32, 64, 128, 256, 512, 1024, 2048)
    assert slope(x, [3e-4 * size**power for size in x]) == pytest.approx(power)
    fixed = 1e-9 * x[0] ** power  # as much as the smallest size itself costs
    laps = tuple((1e-9 * size**power + fixed, 2e-9 * size**power + fixed) for size in x)
    found = Scaling("k", "w", "v", x, laps, power, "because")
    of_all = slope(x, [1.5e-9 * size**power + fixed for size in x])
    assert of_all < found.slope < power and power - found.slope < 0.7 * (power - of_all)
    assert len(found.slopes) == 2 and found.slopes[0] < found.slopes[1]  # the second repeat's cost is twice the first's
    assert f"grows as x^{found.slope:.2f}" in str(found)


def test_what_does_more_takes_longer():
    """A real work of known growth: products of matrices, n by n, grow as n³."""
    found = grow("mm", "products", "n", [256, 512, 1024], lambda n: lambda: torch.ones(n, n) @ torch.ones(n, n), 3, "…", 2)
    assert len(found.laps) == 3 and all(len(laps) == 2 for laps in found.laps)
    assert 1.5 < found.slope < 6  # a busy machine may slow the largest most; what does not grow has 0


def test_every_component_can_be_timed_at_its_smallest(monkeypatch):
    smallest = []

    def once(key, what, variable, x, make, theory, why, repeats, times=3):
        make(x[0])()
        smallest.append(key)
        assert list(x) == sorted(x) and len(x) >= 5 and theory in (1, 2)

    monkeypatch.setattr(scaling, "grow", once)
    list(scaling.growths(1))
    assert smallest == [
        "info_nce", "matched_contrast", "exact-patches", "exact-words", "sinkhorn-patches", "sinkhorn-words",
        "vit", "text", "layers", "neighbours",
    ]  # fmt: skip


@pytest.mark.parametrize("make", [baselines.our_step, baselines.open_clip_step, baselines.transformers_step])
def test_a_step_of_every_peer_learns(make):
    """All three are trainings: a few steps on one batch lower the loss, which starts near that of a guess."""
    torch.manual_seed(0)
    text = LanguageConfig(vocab_size=512, context_length=16, width=64, depth=1, heads=2)
    config = ModelConfig(VisionConfig("vit", width=64, depth=1, heads=2), text)
    images, ids = torch.randint(256, (8, 3, 64, 64), dtype=torch.uint8), torch.randint(5, 500, (8, 16))
    ids[:, -1] = 2  # every caption ends
    tokens = Tokens(ids, torch.ones(8, 16, dtype=torch.bool), torch.arange(16).expand(8, 16), [])
    told = []
    keep = baselines.step_of

    def listen(model, loss):
        def heard():
            told.append(loss())
            return told[-1]

        return keep(model, heard)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "step_of", listen)
        step = make(config, images, tokens)
        for _ in range(25):
            step()
    assert told[0].item() == pytest.approx(math.log(8), rel=0.5)
    assert told[-1] < 0.7 * told[0]


def test_the_exact_solver_finds_what_torch_linear_assignment_finds():
    peer = pytest.importorskip("torch_linear_assignment", reason="not installed; `make tools` does")
    from lcl.losses.matching import exact

    cost = torch.rand(32, 6, 9, dtype=torch.float64)
    found = exact(cost, torch.ones(32, 6, dtype=torch.bool))
    assert torch.equal(found.patch, peer.batch_linear_assignment(cost))


def test_pot_finds_the_entropic_matching_that_ours_finds():
    pytest.importorskip("ot", reason="not installed; `make tools` does")
    cost = torch.rand(8, 5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = baselines.entropic_by_pot(cost, 0.15)
    ours = sinkhorn(cost, torch.ones(8, 5, dtype=torch.bool), 0.15).plan
    assert (theirs.sum(2) < 0.5).any() and (theirs.sum(2) > 0.5).any()  # some words stay unmatched
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)


def test_ours_stops_before_the_rounds_of_its_note():
    settings = get_recipe("lightclip").match
    few = baselines.drawn_costs(baselines.BATCH * (1 + 2 * settings.negatives))[: baselines.EASY]
    words = torch.ones(few.shape[:2], dtype=torch.bool)
    early, late = (sinkhorn(few, words, settings.unmatched_cost, rounds=rounds).plan for rounds in (1000, 3000))
    assert torch.equal(early, late)


def test_every_solver_has_its_race(small, monkeypatch):
    for peer in ("torch_linear_assignment", "ot"):
        pytest.importorskip(peer, reason="not installed; `make tools` does")
    monkeypatch.setattr(baselines, "EASY", 4)
    found = [each.key for each in baselines.matching(1)]
    assert found == [*(f"matching-{name}" for name in SOLVERS), "matching-torch-linear-assignment", "matching-pot"]


def test_every_loss_has_its_race_and_both_sides_of_siglips_multiply_alike():
    pytest.importorskip("lightly", reason="not installed; `make tools` does")
    found = {each.key: each for each in baselines.losses(1, number=16, width=8)}
    assert [*found] == ["loss-open_clip", "loss-lightly", "loss-siglip"]
    assert [each.beside for each in found.values()] == ["open_clip", "lightly", "open_clip"]
    once = 2 * 16 * 16 * 8
    assert found["loss-siglip"].operations == (3 * once, 3 * once)  # forward, and a gradient of each side
    assert found["loss-open_clip"].operations == (3 * once, 6 * once)


def test_the_limit_of_the_machine_is_that_of_a_product():
    facts = {}
    baselines.plain_product(2, facts, number=256)
    assert len(facts[baselines.LIMIT]) == 2 and all(1e8 < each < 1e14 for each in facts[baselines.LIMIT])


@pytest.mark.slow
def test_every_recipe_has_its_race(small, world):
    steps = list(baselines.recipe_steps(world, 1, steps=1))
    assert [each.key for each in steps] == [f"recipe-{name}" for name in (*RECIPES, *baselines.TIMED_CONTROLS)]
    assert steps[0].longer == Spread(1.0, 1.0, 1.0) and all(lap > 0 for each in steps for lap in each.ours)


@pytest.mark.slow
def test_who_compares_steps_pads_alike_or_not_at_all(small, world, monkeypatch):
    """Every race of a step at its smallest; the even captions are rows of one length, with pictures of their own."""
    seen = {}

    def noted(name):
        make = getattr(baselines, name)

        def made(config, images, tokens):
            seen.setdefault(name, []).append((len(images), tokens.ids.shape, bool(tokens.mask.all())))
            return make(config, images, tokens)

        return made

    for name in ("our_step", "open_clip_step", "transformers_step"):
        monkeypatch.setattr(baselines, name, noted(name))
    found = {each.key: each for each in baselines.training_step(world, 1)}
    assert [*found] == [
        "step-open_clip", "step-open_clip-alike", "step-open_clip-even", "step-transformers-alike", "step-transformers-even",
    ]  # fmt: skip
    ours, theirs = seen["our_step"], seen["open_clip_step"] + seen["transformers_step"]
    assert theirs[0][1] == (4, 48) and ours[1:] == theirs[1:]  # each as it pads; then the same of both
    assert ours[2][2] and ours[4][2] and not ours[1][2]
    assert all(lap > 0 for each in found.values() for lap in (*each.ours, *each.peer))
    assert found["step-open_clip-even"].operations[0] == pytest.approx(found["step-open_clip-even"].operations[1], rel=0.1)


@pytest.mark.slow
def test_streams_are_raced_over_the_same_number_of_pairs(small, world, monkeypatch):
    monkeypatch.setattr(baselines, "open_scenes", lambda scenes: world)  # whose pictures are drawn already
    facts = {}
    found = {each.key: each for each in baselines.streaming(1, facts, number=170)}
    assert [*found] == ["stream-64", "stream-128", "reading"]
    assert found["stream-64"].amount == found["stream-128"].amount == 128  # of 170, some are set aside
    assert 0 <= facts[baselines.WAITS][0] < 1 and len(facts[baselines.WAITS]) == 1
    monkeypatch.setattr(baselines, "plain_stream", lambda *arguments: iter([64]))
    with pytest.raises(AssertionError, match="64 pairs of 128"):
        list(baselines.streaming(1, {}, number=170))


def test_attention_counts_among_the_operations():
    q = torch.randn(1, 2, 16, 8, requires_grad=True)
    product = 2 * 2 * 16 * 16 * 8
    work = lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q).sum().backward()  # noqa: E731
    assert timing.operations_of(work) == 6 * product  # two products, and two for the gradients of each


@pytest.mark.slow
def test_banks_renderers_and_neighbours_have_their_races(small, world, monkeypatch):
    monkeypatch.setattr(baselines, "multiplies_bfloat16_fast", lambda: False)
    assert [each.key for each in baselines.rendering(world, 1)] == ["render"]
    banks = list(baselines.bank_building(world, 1, number=8))
    names = ("images", "captions", "captions-encode", "captions-alike")
    assert [each.key for each in banks] == [*(f"bank-{name}" for name in names), "banks"]
    assert all(each.amount == 8 for each in banks)
    facts = {}
    near = list(baselines.neighbour_search(1, facts, number=500, width=16))
    assert [each.key for each in near] == ["neighbours-faiss", "neighbours-product"]
    assert facts[baselines.SAME][0] > 0.999 and facts[baselines.HELD][0] > 0
    assert "FAISS multiplies by OpenBLAS's code for" in near[0].note or sys.platform != "linux"
    assert near[1].operations == (500 * 500 * 16, 2 * 500 * 500 * 16)  # ours computes half


def test_nobody_races_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(LclError, match="hide the accelerator"):
        run.run(1)


@pytest.mark.slow
def test_memory_is_that_of_the_search_alone():
    """A search of 20,000 rows takes some blocks, not the matrix of all similarities, which would be 1,526 MiB."""
    assert 1 < baselines.peak_memory(20_000, 64) < 300


def test_what_was_measured_can_be_read_again(tmp_path):
    found = Scaling("g", "what", "x", (1, 2, 3), ((1.0, 1.0), (2.0, 2.1), (4.0, 4.2)), 1, "so it is")
    counted = dataclasses.replace(THREE, operations=(1.0, 2.0))
    kept = Bench({"a": THREE, "b": counted}, {"g": found}, {"waits": [0.1, 0.2]}, 3, 1.5, {"commit": None})
    save_bench(tmp_path / "bench.json", kept)
    assert load_bench(tmp_path / "bench.json") == kept
    shutil.copy(tmp_path / "bench.json", tmp_path / "whole.json")
    (tmp_path / "bench.json").write_text('{"format": "other"}')
    with pytest.raises(LclError, match="holds no benchmark"):
        load_bench(tmp_path / "bench.json")
    whole = json.loads((tmp_path / "whole.json").read_text())
    for damaged in (whole | {"races": {"a": {"key": "a"}}}, whole | {"races": []}, {"format": whole["format"]}):
        (tmp_path / "bench.json").write_text(json.dumps(damaged))
        with pytest.raises(LclError, match="is damaged .*; measure again: `make bench`"):
            load_bench(tmp_path / "bench.json")


@pytest.fixture
def made_up(monkeypatch):
    """Every race and growth is over at once."""
    for name in ("training_step", "rendering", "recipe_steps", "bank_building"):
        monkeypatch.setattr(baselines, name, lambda world, repeats, name=name: [dataclasses.replace(THREE, key=name)])
    for name in ("losses", "matching"):
        monkeypatch.setattr(baselines, name, lambda repeats, name=name: [dataclasses.replace(THREE, key=name)])
    for name in ("streaming", "neighbour_search"):
        monkeypatch.setattr(
            baselines, name, lambda repeats, facts, name=name: facts.update(share=[0.5]) or [dataclasses.replace(THREE, key=name)]
        )
    for name in ("huge_pages", "history"):
        monkeypatch.setattr(run, name, lambda repeats, tell, name=name: [dataclasses.replace(THREE, key=name)])
    monkeypatch.setattr(run, "growths", lambda repeats: [Scaling("g", "w", "v", (1, 2, 4), ((1.0,), (2.0,), (4.0,)), 1, "so")])
    monkeypatch.setattr(run, "open_scenes", lambda scenes: None)
    monkeypatch.setattr(baselines, "plain_product", lambda repeats, facts: facts.update({baselines.LIMIT: [3e11]}))


def test_everything_is_run_and_told(made_up, monkeypatch):
    told = []
    monkeypatch.setattr(baselines, "PACKAGES", ("scipy",))
    found = run.run(1, told.append)
    assert len(found.races) == 10 and [*found.growths] == ["g"] and found.facts == {baselines.LIMIT: [3e11], "share": [0.5]}
    assert len(told) == 1 + 10 + 1 + 2 and told[-1] == "share: 0.5" and found.provenance["code"]
    assert found.provenance["packages"].keys() >= {"torch", "scipy"} and found.provenance["packages"]["scipy"]


def test_a_peer_that_is_missing_is_named_before_the_races(made_up, monkeypatch):
    told = []
    monkeypatch.setattr(baselines, "PACKAGES", ("scipy", "no_such_peer"))
    found = run.run(1, told.append)
    assert told[1] == "not installed, so without its races: no_such_peer; `make tools` installs what the races need"
    assert found.provenance["packages"]["no_such_peer"] is None


def test_some_parts_are_measured_once_more_and_the_rest_stays(made_up, monkeypatch, tmp_path):
    kept = run.run(3, lambda _: None)
    kept = dataclasses.replace(kept, minutes=30.0, races={"losses": dataclasses.replace(THREE, key="losses", note="before")})
    kept.provenance["packages"]["lightly"] = None  # was missing; and the races may have needed it
    save_bench(tmp_path / "bench.json", kept)
    assert tuple(run.parts(1, {}, print)) == run.PARTS
    run.main(["--part", "losses", "--part", "matching", "--out", str(tmp_path / "bench.json")])
    found = load_bench(tmp_path / "bench.json")
    assert [*found.races] == ["losses", "matching"] and found.races["losses"].note == THREE.note
    assert found.growths == kept.growths and found.facts[baselines.LIMIT] == [3e11] and found.repeats == 3
    assert [*found.later] == ["losses", "matching"] and found.later["losses"]["made"] and found.minutes >= 30
    assert found.provenance["made"] == kept.provenance["made"]


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [("code", "0" * 16, "another code"), ("machine", {"cores": 512}, "another machine"),
     ("packages", {"scipy": "0.1"}, "other versions of scipy than are installed")],
)  # fmt: skip
def test_parts_of_another_circumstance_are_not_mixed(made_up, monkeypatch, tmp_path, capsys, part, value, message):
    kept = run.run(3, lambda _: None)
    save_bench(tmp_path / "bench.json", dataclasses.replace(kept, provenance=kept.provenance | {part: value}))
    before = (tmp_path / "bench.json").read_bytes()
    monkeypatch.setattr(run, "run", lambda *_: pytest.fail("the refusal comes after half an hour of races"))
    with pytest.raises(SystemExit):
        run.main(["--part", "losses", "--out", str(tmp_path / "bench.json")])
    assert message in (error := capsys.readouterr().err) and "measure all of it" in error
    assert (tmp_path / "bench.json").read_bytes() == before


@pytest.mark.parametrize("out", ["", "file/bench.json"])
def test_a_benchmark_that_could_not_be_written_is_not_begun(out, tmp_path, capsys):
    (tmp_path / "file").write_text("so much work")
    with pytest.raises(SystemExit) as stop:
        run.main(["--out", str(tmp_path / out)])
    assert stop.value.code == 2 and "name another file with --out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "so much work"
