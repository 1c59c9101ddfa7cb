"""What the course's trainings learned: small, checked against its description, and as good as it was."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lcl import storage
from lcl.config import LclError, get_profile
from lcl.course import saved
from lcl.eval.metrics import embed
from lcl.eval.retrieval import recall_at_k
from lcl.models.clip import Clip
from lcl.train.loop import Step, Training, Validation
from lcl.train.recipes import get_recipe
from lcl.train.runs import load_run, save_run

KEPT = sorted((saved.data_folder() / "checkpoints").glob("*/about.json"))


@given(st.integers(1, 6), st.integers(1, 20), st.floats(1e-6, 1e4), st.integers(0, 2**31))
def test_a_weight_is_wrong_by_at_most_half_a_factor(rows, columns, size, seed):
    weights = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size
    whole, scale = saved.to_int8(weights)
    assert whole.dtype == torch.int8 and whole.shape == weights.shape and scale.shape == (rows,)
    assert ((saved.from_int8(whole, scale) - weights).abs() <= scale[:, None] * 0.5001).all()
    assert (whole.abs().amax(1) == 127).all() or not weights.any()


def test_a_matrix_of_zeros_comes_back():
    assert torch.equal(saved.from_int8(*saved.to_int8(torch.zeros(2, 3, 1, 1))), torch.zeros(2, 3, 1, 1))


def test_vectors_and_whole_numbers_stay_as_they_are():
    state = {"norm": torch.rand(4), "tau": torch.tensor(1.5), "count": torch.tensor([[3]]), "w": torch.rand(3, 4)}
    back = saved.unpack(saved.pack(state))
    assert list(back) == list(state) and all(torch.equal(back[name], state[name]) for name in ("norm", "tau", "count"))


@pytest.fixture(scope="module")
def learned(small_world):
    profile = get_profile("smoke")
    profile = dataclasses.replace(profile, training=dataclasses.replace(profile.training, pairs=256, epochs=1))
    training = Training(profile, small_world)
    return training, list(training)


@pytest.fixture
def trained(learned, monkeypatch, tmp_path):
    monkeypatch.setenv("LCL_DATA", str(tmp_path))
    saved.save_training("mine", *learned, {"note": [1, 2]})
    return learned


def test_what_is_kept_takes_the_place_of_training(trained, small_world):
    training, curve = trained
    fresh = Training(training.profile, small_world)
    told, notes = saved.load_saved("mine", fresh)
    assert notes == {"note": [1, 2]} and list(fresh) == []  # nothing is left to train
    steps = [[event.step for event in each if isinstance(event, Validation)] for each in (told, curve)]
    assert steps[0] == steps[1]
    losses = [[event.loss for event in events if isinstance(event, Step)] for events in (told, curve)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    pairs = small_world.pairs("new_scenes", range(8))
    embedded = [embed(each.model, each.tokenizer, pairs) for each in (fresh, training)]
    for mine, theirs in zip(*embedded, strict=True):
        assert (mine * theirs).sum(1).min() > 0.99


def test_metrics_that_other_code_measured_are_left_out(trained, small_world, monkeypatch):
    training, curve = trained
    saved.save_training("mine", training, curve, {"metrics": {"new_scenes": {}}, "note": 1})
    assert saved.load_saved("mine", Training(training.profile, small_world))[1].keys() == {"metrics", "note"}
    monkeypatch.setattr(saved, "code_key", lambda: "of tomorrow")
    assert saved.load_saved("mine", Training(training.profile, small_world))[1].keys() == {"note"}


def test_a_table_with_rows_of_no_token_is_loaded_without_them(trained, small_world):
    """Earlier versions made the table as large as a vocabulary may be at most."""
    training, curve = trained
    large = dataclasses.replace(training.profile.model.language, vocab_size=4096)
    profile = dataclasses.replace(training.profile, model=dataclasses.replace(training.profile.model, language=large))
    made = Training(profile, small_world)
    older = Training(profile, small_world, start=(Clip(profile.model), made.tokenizer))
    assert older.model.language.tokens.weight.shape[0] == 4096 > made.tokenizer.vocab_size
    saved.save_training("old", older, curve)
    saved.load_saved("old", made)
    tokens = made.tokenizer.encode(small_world.pairs("new_scenes", range(8)).captions, 48)
    with torch.no_grad():
        assert (made.model.encode_text(tokens) * older.model.eval().encode_text(tokens)).sum(1).min() > 0.99


def test_another_training_is_refused_and_told_why(trained, small_world):
    training, _ = trained
    with pytest.raises(LclError, match=r"has another seed than this training; train here"):
        saved.load_saved("mine", Training(training.profile, small_world, seed=1))
    with pytest.raises(LclError, match="there is no saved checkpoint in"):
        saved.load_saved("yours", training)


def test_damage_is_noticed(trained, small_world):
    training, _ = trained
    path = saved.folder_of("mine") / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(LclError, match="not the file that about.json describes"):
        saved.load_saved("mine", Training(training.profile, small_world))
    storage.write_json(saved.folder_of("mine") / "about.json", [])
    with pytest.raises(LclError, match="not written by this library"):
        saved.load_saved("mine", Training(training.profile, small_world))


@pytest.fixture
def finished(learned, small_world, tmp_path):
    training, curve = learned
    save_run(tmp_path / "run", training, curve, {"new_scenes": {}}, {"training": 1.0})
    return load_run(tmp_path / "run")


def test_towers_come_back_without_their_data(finished, monkeypatch, tmp_path, small_world):
    monkeypatch.setenv("LCL_DATA", str(tmp_path))
    assert saved.save_towers("large", finished) == saved.folder_of("large", "towers")
    model, tokenizer, looks = saved.load_towers("large")
    assert not model.training and model.config == finished.model.config
    assert tokenizer.to_dict(words=True) == finished.tokenizer.to_dict(words=True)
    assert [look.step for look in looks] == [event.step for event in finished.curve if isinstance(event, Validation)]
    pairs = small_world.pairs("new_scenes", range(32))
    for ours, theirs in zip(embed(model, tokenizer, pairs), embed(finished.model, finished.tokenizer, pairs), strict=True):
        assert (ours * theirs).sum(1).min() > 0.99  # 8 bits


def narrow(about):
    """The model of a file that says less of its width than its weights have."""
    return {"profile": about["profile"] | {"model": about["profile"]["model"] | {"embed_dim": 64}}}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda about: {"format": saved.FORMAT}, "about.json was not written by `save_towers`"),
        (lambda about: {"weights": "0"}, "is not the file that about.json describes"),
        (lambda about: {"tokenizer": {}}, "is no tokenizer of this library"),
        (lambda about: {"looks": None}, "are damaged .*; save them again"),
        (lambda about: {"looks": [{"step": 1}]}, "cannot be read"),
        (narrow, "cannot be read: .* but this model's is"),
    ],
)
def test_damaged_towers_are_refused(finished, monkeypatch, tmp_path, damage, words):
    monkeypatch.setenv("LCL_DATA", str(tmp_path))
    path = saved.save_towers("large", finished) / "about.json"
    about = storage.read_json(path)
    storage.write_json(path, about | damage(about))
    with pytest.raises(LclError, match=f"the towers in .*large .*{words}"):
        saved.load_towers("large")


def test_towers_are_refused_that_are_missing_or_would_unpack_to_more_than_they_are(finished, monkeypatch, tmp_path):
    monkeypatch.setenv("LCL_DATA", str(tmp_path))
    with pytest.raises(LclError, match="the towers in .*other cannot be read: .* does not exist"):
        saved.load_towers("other")
    folder = saved.save_towers("large", finished)
    weights = storage.read_tensors(folder / "weights.safetensors")
    name = next(name for name in weights if name.endswith(saved.SCALE))
    storage.write_tensors(folder / "weights.safetensors", weights | {name: torch.ones(10**6)})
    with pytest.raises(LclError, match="but this model's is"):
        saved.load_towers("large")


def test_every_chapter_that_trains_for_long_has_something_kept():
    names = {path.parent.name for path in KEPT}
    assert names == {
        "03-clip", "04-clip+soft", "05-clip", "05-clip+match", "06-clip+mlm", "07-lightclip", "09-clip-ping", "10-clip+distil",
        "14-lightclip-ping",
    }  # fmt: skip
    assert sum(path.stat().st_size for about in KEPT for path in about.parent.iterdir()) < 20 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("about", KEPT, ids=lambda about: about.parent.name)
def test_it_is_as_good_as_its_curve_says(about, world):
    """In the laptop's world, on the scenes that the last look was at."""
    found = storage.read_json(about)
    profile = get_profile("laptop")
    settings = {name: found["of"]["profile"]["training"][name] for name in ("recipe", "epochs", "evaluate_every")}
    chosen = dataclasses.replace(profile, training=dataclasses.replace(profile.training, **settings))
    ping = get_recipe(settings["recipe"]).ping
    described = {"rows": world.train(16_384).description, "choice": ping.choice, "own": ping.own}
    teacher = StandIn(found["of"]["teacher"], described) if found["of"]["teacher"] else None
    training = Training(chosen, world, teacher=teacher)
    curve, _ = saved.load_saved(about.parent.name, training)
    look = [event for event in curve if isinstance(event, Validation)][-1]
    watched = world.validation(256).take(range(256))
    v, t = embed(training.model, training.tokenizer, watched)
    assert recall_at_k(v @ t.T, 1) == pytest.approx(look.image_to_text, abs=0.03)
    assert recall_at_k(t @ v.T, 1) == pytest.approx(look.text_to_image, abs=0.03)


@pytest.mark.slow
def test_the_towers_of_chapter_11_are_as_good_as_their_last_look_says(world):
    model, tokenizer, looks = saved.load_towers("11-clip")
    v, t = embed(model, tokenizer, world.validation(256).take(range(256)))
    assert recall_at_k(v @ t.T, 1) == pytest.approx(looks[-1].image_to_text, abs=0.03)
    assert recall_at_k(t @ v.T, 1) == pytest.approx(looks[-1].text_to_image, abs=0.03)


class StandIn:
    """A teacher that is only described: what is kept of a guided training is looked at without its banks."""

    def __init__(self, dims, rows):
        self.description = rows | {"images": "of another machine"}
        self.dims = tuple(dims)
