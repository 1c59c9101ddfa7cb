"""What the kept runs say, which the pages repeat: who is above whom, and by more than luck; and tables made of runs."""

import re
import sys
from pathlib import Path
from statistics import mean

import pytest

import memory
from benchmarks.run import load_bench
from lcl.config import LclError, VisionConfig, get_profile
from lcl.course import plots, study
from lcl.course.study import Gain, as_text, comparison, gain, level, saved_runs
from lcl.data.scenes import open_scenes
from lcl.models.language import make_language
from lcl.models.vision import make_vision
from lcl.storage import read_json
from tables import as_markdown
from verdicts import I2T, NDCG, PAPER, PROBES, T2I, ZERO, bank_minutes, clip_minutes

ROOT = Path(__file__).resolve().parents[2]


def above(name: str, figure: str, over: str = "clip") -> Gain:
    return gain(f"{name}-laptop", f"{over}-laptop", figure)


@pytest.mark.parametrize("figure", PAPER)
def test_clip_ping_gains_what_the_paper_gains_or_it_is_said(figure):
    """The page says, with the figure, whether the interval leaves the paper's gain below, holds it, or lies below it."""
    here, paper = above("clip-ping", figure), PAPER[figure]
    assert here.sign == 1
    page = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    places = ("The whole interval lies above", "The paper's gain lies within", "The whole interval lies **below")
    told = re.split(f"({'|'.join(map(re.escape, places))})", page)
    mine = f"({here.mean:+.1f} to the paper's {paper:+.1f})"
    named = [words for words, after in zip(told[1::2], told[2::2], strict=True) if mine in after]
    assert named == [places[0] if here.low > paper else places[2] if here.high < paper else places[1]]


@pytest.mark.parametrize("figure", [I2T, T2I, *NDCG, ZERO, "alignment"])
def test_lightclip_is_above_clip_with_intervals_above_zero(figure):
    assert above("lightclip", figure).sign == 1


@pytest.mark.parametrize("name", ["clip+nn", "clip+xnn", "clip-ping", "lightclip-ping"])
@pytest.mark.parametrize("figure", [I2T, T2I, NDCG[0], ZERO])
def test_neighbours_lift_with_intervals_above_zero(name, figure):
    assert above(name, figure).sign == 1


@pytest.mark.parametrize("figure", [I2T, T2I])
def test_both_papers_at_once_are_no_worse_than_the_better_of_each(figure):
    for other in ("lightclip", "clip-ping"):
        assert above("lightclip-ping", figure, other).sign == 1  # as the ledger says


def test_the_depth_sweep_falls_as_it_is_said():
    for figure in (I2T, T2I, ZERO):
        assert gain("clip-laptop-depth12", "clip-laptop-depth1", figure).high < 0


def test_the_baseline_reaches_what_the_course_promises():
    for run in saved_runs("clip-laptop"):
        found = {name: figure["value"] for name, figure in run["metrics"]["new_scenes"].items()}
        assert found["image_to_text_recall@1"] >= 0.65 and found["text_to_image_recall@1"] >= 0.65
        assert found["zero_shot_top1"] >= 0.60


def test_words_find_their_things_and_guesses_need_the_image():
    assert level(saved_runs("lightclip-laptop"), "new_scenes", "alignment").mean >= 80
    for stem in ("clip+mlm-laptop", "lightclip-laptop"):
        true, none, wrong = (
            level(saved_runs(stem), "new_scenes", f"masked_word_{image}").mean
            for image in ("true_image", "no_image", "wrong_image")
        )
        assert true - none >= 40 and true - wrong >= 40


# --- what the page on results says without a figure


def test_of_lightclips_levels_the_token_level_buys_most_on_new_scenes():
    for figure in (I2T, T2I, "alignment"):
        assert above("clip+match", figure).mean > max(above(name, figure).mean for name in ("clip+soft", "clip+mlm"))


def test_towers_have_as_many_parameters_as_is_said():
    def millions(tower) -> str:
        return f"{sum(weights.numel() for weights in tower.parameters()) / 1e6:.2f} million"

    model = get_profile("laptop").model
    conv, text = millions(make_vision(model.vision)), millions(make_language(model.language))
    said = f"conv tower of {conv} and a text transformer of {text}"
    for path in ("README.md", "docs/results.md"):
        assert said in " ".join((ROOT / path).read_text(encoding="utf-8").split())
    vit = make_vision(VisionConfig(tower="vit", image_size=64, width=192, depth=4, heads=3, patch_size=16))
    assert f"ViT of {millions(vit)}" in (ROOT / "tools" / "pages" / "results.md.jinja").read_text(encoding="utf-8")


def test_captions_that_several_scenes_have_bound_recall_as_is_said():
    """Of scenes with one caption at most one is found by it."""
    laptop = get_profile("laptop")
    world, number = open_scenes(laptop.scenes), laptop.evaluation.retrieval
    page = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    for split in saved_runs("clip-laptop")[0]["metrics"]:
        captions = {world.scene(split, row).caption for row in range(number)}
        assert f"{100 * len(captions) / number:.1f} % on `{split}`" in page


def test_neighbours_lift_zero_shot_most():
    others = (I2T, T2I, *NDCG, *PROBES, "alignment")
    measured = [figure for figure in others if level(saved_runs("clip-ping-laptop"), "new_scenes", figure)]
    assert len(measured) >= 6 and above("clip-ping", ZERO).mean > max(above("clip-ping", figure).mean for figure in measured)


def test_a_wrong_image_makes_guesses_no_better_than_chance():
    for stem in ("clip+mlm-laptop", "lightclip-laptop"):
        for run in saved_runs(stem):
            found = run["metrics"]["new_scenes"]["masked_word_wrong_image"]
            assert found["value"] <= found["chance"]


def test_what_clip_ping_costs_is_the_banks_and_what_lightclip_costs_its_steps():
    """Of the minutes of a first training."""
    bench = load_bench(ROOT / "results" / "bench.json")
    once, steps = bank_minutes(bench).middle, clip_minutes(bench)
    longer = {name: bench.races[f"recipe-{name}"].longer.middle for name in ("clip-ping", "lightclip", "lightclip-ping")}
    assert once > 4 * steps * abs(longer["clip-ping"] - 1) and longer["clip-ping"] < 1.15
    assert min(longer["lightclip"], longer["lightclip-ping"]) > 1.2


def test_a_comparison_says_what_was_not_measured(monkeypatch):
    def run_of(**figures: float) -> dict:
        return {"seed": 0, "metrics": {"new_scenes": {name: {"value": value, "chance": 0.1} for name, value in figures.items()}}}

    kept = {
        "clip-laptop": [run_of(zero_shot_top5=0.5)],
        "lightclip-laptop": [run_of(zero_shot_top5=0.6, alignment=0.8)],
    }
    monkeypatch.setattr(study, "whole", lambda stems: {stem: kept[stem] for stem in stems})
    rows = comparison([*kept], ["zero_shot_top5", "alignment"])
    assert rows == [
        ["new_scenes, seed 0", "clip", "lightclip", "chance"],
        ["zero-shot top-5", "50.0", "60.0", "10.0"],
        ["alignment", "–", "80.0", "10.0"],
    ]
    assert len({len(line) for line in as_text(rows).splitlines()}) == 1
    assert as_markdown(rows).splitlines()[1] == "|---|---:|---:|---:|"
    with pytest.raises(LclError, match="none of these runs measured zero_shot_top1 on new_scenes"):
        comparison([*kept], ["zero_shot_top1"])


def test_the_memory_of_a_long_training_is_flat():
    """The last third holds no more than the third before it, but for a hundredth: what grows step by step would."""
    kept = read_json(ROOT / "results" / "memory.json")
    third = kept["steps"] // 3  # two epochs
    for column in (1, 2):  # trainer, readers
        before, last = (
            mean(row[column] for row in kept["rows"] if start <= row[0] < start + third) for start in (third, 2 * third)
        )
        assert last < 1.01 * before


@pytest.mark.skipif(sys.platform != "linux", reason="another kind of machine smooths edges in other ways")
def test_the_figure_of_memory_is_that_of_its_numbers():
    kept = read_json(ROOT / "results" / "memory.json")
    assert plots.to_png(memory.draw(kept)) == (ROOT / "docs" / "memory.png").read_bytes(), "draw it again: tools/memory.py"
