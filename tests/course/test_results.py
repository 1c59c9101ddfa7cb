"""What the saved runs say, which pages and chapters repeat in words."""

import dataclasses
import sys
from pathlib import Path
from statistics import mean

import pytest

import memory
import prices
from benchmarks.run import load_bench
from lcl.config import get_profile
from lcl.course import plots
from lcl.course.metrics import level
from lcl.course.study import saved_runs
from lcl.models.language import make_language
from lcl.models.vision import make_vision
from lcl.storage import read_json

ROOT = Path(__file__).resolve().parents[2]


def test_the_baseline_reaches_what_the_course_promises():
    for run in saved_runs("clip"):
        found = {name: metric["value"] for name, metric in run["metrics"]["new_scenes"].items()}
        assert found["image_to_text_recall@1"] >= 0.65 and found["text_to_image_recall@1"] >= 0.65
        assert found["zero_shot_top1"] >= 0.55


def test_words_find_their_things_and_guesses_need_the_image():
    assert level(saved_runs("lightclip"), "alignment").mean >= 80
    for arm in ("clip+mlm", "lightclip"):
        true, none, wrong = (
            level(saved_runs(arm), f"masked_word_{image}").mean
            for image in ("true_image", "no_image", "wrong_image")
        )
        assert true - none >= 40 and true - wrong >= 40


def test_towers_have_as_many_parameters_as_is_said():
    def millions(tower) -> str:
        return f"{sum(weights.numel() for weights in tower.parameters()) / 1e6:.2f} million"

    model = get_profile("laptop").model
    (words,) = {run["profile"]["model"]["language"]["vocab_size"] for run in saved_runs("clip")}  # the tokenizer found fewer
    language = dataclasses.replace(model.language, vocab_size=words)
    conv, text = millions(make_vision(model.vision)), millions(make_language(language))
    said = f"conv tower of {conv} and a text transformer of {text}"
    for path in ("README.md", "docs/results.md", "docs/model-card.md"):
        assert said in " ".join((ROOT / path).read_text(encoding="utf-8").split())


def test_a_wrong_image_makes_guesses_no_better_than_chance():
    for arm in ("clip+mlm", "lightclip"):
        for run in saved_runs(arm):
            found = run["metrics"]["new_scenes"]["masked_word_wrong_image"]
            assert found["value"] <= found["chance"]


def test_what_clip_ping_costs_is_the_banks_and_what_lightclip_costs_its_steps():
    """Of the minutes of a first training."""
    bench = load_bench(ROOT / "results" / "bench.json")
    once, steps = prices.bank_minutes(bench).middle, prices.clip_minutes(bench)
    longer = {name: bench.races[f"recipe-{name}"].longer.middle for name in ("clip-ping", "lightclip", "lightclip-ping")}
    assert once > 4 * steps * abs(longer["clip-ping"] - 1) and longer["clip-ping"] < 1.15
    assert min(longer["lightclip"], longer["lightclip-ping"]) > 1.2


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
