"""Runs that were trained once more: equal only if every number is, and what differs or does not count is said."""

import pytest
from made_plan import PLAN, keep, made_run

import study
from again import trained_again
from lcl import storage
from lcl.config import LclError
from lcl.course.planned import file_of, standing
from lcl.eval.queries import QueryRanks, read_ranks, write_ranks

NAME = file_of(PLAN, "clip", 0)


@pytest.fixture
def results(tmp_path):
    """Two saved runs, one of which was trained again with the same numbers."""
    for folder, seeds in (("planned", (0, 1)), ("again", (0,))):
        for seed in seeds:
            keep(tmp_path / folder, "clip", made_run("clip", seed, 0.7) | {"curve": "5ha"})
    return tmp_path


def found(results):
    return trained_again(standing(PLAN, results / "planned"), results)


def change(results, part, value):
    run = storage.read_json(results / "again" / NAME)
    storage.write_json(results / "again" / NAME, run | {part: value})


def test_a_run_with_the_same_numbers_is_equal(results):
    (row,), left_out = found(results)
    assert row == {
        "arm": "`clip`", "seed": "0", "first": "unknown", "again": "unknown", "commit": "`01234567`", "difference": ""
    }  # fmt: skip
    assert left_out == []


def test_a_single_loss_that_differs_is_no_equal_run(results):
    change(results, "curve", "0ther")
    assert found(results)[0][0]["difference"] == "recall@1 +0.0, nDCG@10 +0.0, zero-shot top-1 +0.0, foils +0.0"


def test_points_are_those_of_the_second_run_less_the_first(results):
    keep(results / "again", "clip", made_run("clip", 0, 0.66, zero_shot=0.6) | {"curve": "0ther"})
    assert found(results)[0][0]["difference"] == "recall@1 -4.0, nDCG@10 +0.0, zero-shot top-1 +10.0, foils +0.0"


def test_ranks_of_queries_that_changed_places_are_a_difference(results):
    path = (results / "again" / NAME).with_suffix(".safetensors")
    ranks = read_ranks(path)
    write_ranks(path, QueryRanks(ranks.queries, ranks.image_to_text.flip(0), ranks.text_to_image))
    assert found(results)[0][0]["difference"] != ""


@pytest.mark.parametrize(("part", "value"), [("seed", 3), ("steps", 5), ("metrics", {}), ("told", [])])
def test_a_damaged_second_run_is_named_and_left_out(results, part, value):
    change(results, part, value)
    rows, left_out = found(results)
    assert rows == [] and len(left_out) == 1 and f"`{NAME}`" in left_out[0]


def test_runs_of_other_data_are_named_and_not_compared(results):
    change(results, "data", "another world")
    rows, left_out = found(results)
    assert rows == [] and left_out == [f"`{NAME}`: it was made with other data another world, not d"]


def test_a_second_run_without_a_saved_one_is_no_row(results):
    (results / "planned" / NAME).unlink()
    assert found(results) == ([], [])


def test_a_run_is_trained_again_into_a_folder_of_its_own(results, monkeypatch):
    """And the saved one is neither the reason to skip it, nor touched."""
    (results / "again" / NAME).unlink()
    seen, before = [], (results / "planned" / NAME).read_bytes()
    monkeypatch.setattr(study, "FOLDER", results)
    monkeypatch.setattr(study, "RUNS", results / "runs")
    monkeypatch.setattr(study, "circumstance", lambda _: study.Circumstance("c", "d", "2.11.0"))
    done = results / "runs" / "done"
    done.mkdir(parents=True)

    def trained(name, options, here, runs, folder, threads):
        seen.append((name, runs, folder))
        return done

    monkeypatch.setattr(study, "train", trained)
    study.train_arm(PLAN, "clip", 0)
    assert seen == []
    study.train_arm(PLAN, "clip", 0, into=study.AGAIN)
    with pytest.raises(LclError, match="no saved run of 'clip', seed 3, to compare with; train without --again"):
        study.train_arm(PLAN, "clip", 3, into=study.AGAIN)
    assert seen == [(NAME, results / "runs" / "again", results / "again")]
    assert (results / "planned" / NAME).read_bytes() == before
    assert not done.exists(), "a third time, once the second is deleted, would be a copy of it"


def test_the_small_run_is_trained_alone(capsys):
    with pytest.raises(SystemExit):
        study.main(["--check", "--only", "clip", "--again"])
    assert "--check trains the small run alone: leave out --only, or --check." in capsys.readouterr().err


def test_without_an_arm_nothing_is_trained_again(capsys):
    with pytest.raises(SystemExit):
        study.main(["--again"])
    assert "--again trains one run: name it with --only ARM --seed N." in capsys.readouterr().err
