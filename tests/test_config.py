"""Configs: they travel as JSON unharmed, and refuse what cannot work with a sentence that helps."""

import dataclasses
import json
import math
from dataclasses import dataclass, field

import pytest

from lcl.config import (
    PROFILES,
    EvalConfig,
    LanguageConfig,
    LclError,
    ModelConfig,
    Profile,
    SceneConfig,
    TrainConfig,
    VisionConfig,
    choose,
    data_folder,
    from_dict,
    get_profile,
    to_dict,
)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_profile_survives_json(profile):
    assert from_dict(Profile, to_dict(profile)) == profile
    assert from_dict(Profile, json.loads(json.dumps(to_dict(profile)))) == profile


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_profile_fits_together(profile):
    assert profile.model.vision.image_size == profile.scenes.size
    assert profile.training.steps == profile.training.epochs * math.floor(
        profile.training.pairs / profile.training.batch_size
    )
    assert 0 < profile.training.evaluate_every <= profile.training.steps


def test_profiles_grow_from_smoke_to_gpu():
    work = [PROFILES[name].training.epochs * PROFILES[name].training.pairs for name in ("smoke", "laptop", "gpu")]
    assert work == sorted(work) and len(set(work)) == 3


def test_configs_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROFILES["laptop"].training.epochs = 1


def test_choose_returns_what_is_there_and_names_what_is_near():
    assert choose("fruit", "pear", ["apple", "pear"]) == "pear"
    with pytest.raises(LclError, match="no fruit 'paer'; did you mean pear"):
        choose("fruit", "paer", ["apple", "pear"])
    with pytest.raises(LclError, match="choose one of: apple, pear"):
        choose("fruit", "zzz", ["apple", "pear"])


@pytest.mark.parametrize(
    ("make", "near"),
    [
        (lambda: get_profile("labtop"), "laptop"),
        (lambda: VisionConfig(tower="cnov"), "conv"),
        (lambda: LanguageConfig(tower="transfomer"), "transformer"),
        (lambda: from_dict(TrainConfig, {"batchsize": 64}), "batch_size"),
        (lambda: from_dict(Profile, to_dict(PROFILES["smoke"]) | {"scene": {}}), "scenes"),
    ],
)
def test_an_unknown_name_is_refused_with_its_neighbours(make, near):
    with pytest.raises(LclError, match=rf"did you mean .*\b{near}\b"):
        make()


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:efficientnet_lite0"])
def test_towers_of_other_libraries_are_named_freely(name):
    assert VisionConfig(tower=name).tower == name
    assert LanguageConfig(tower=name.replace("timm", "hf")).tower.startswith("hf:")


def test_a_batch_of_one_is_refused_and_the_reason_said():
    with pytest.raises(LclError, match="batch of 1 has no negatives"):
        TrainConfig(batch_size=1)
    assert TrainConfig(batch_size=2).batch_size == 2


def test_fewer_pairs_than_a_batch_are_refused():
    with pytest.raises(LclError, match="63 pairs do not fill a single batch of 64"):
        TrainConfig(pairs=63, batch_size=64)
    assert TrainConfig(pairs=64, batch_size=64, epochs=3).steps == 3


INVALID = [
    (SceneConfig, {"size": 16}),
    (SceneConfig, {"size": 1024}),
    (SceneConfig, {"known": 7}),
    (SceneConfig, {"unseen": -1}),
    (VisionConfig, {"tower": "vit", "width": 100, "heads": 3}),
    (VisionConfig, {"tower": "vit", "image_size": 60}),
    (VisionConfig, {"tower": "vit", "heads": 0}),
    (VisionConfig, {"tower": "vit", "patch_size": 0}),
    (VisionConfig, {"width": 190}),
    (VisionConfig, {"width": 0}),
    (VisionConfig, {"depth": 0}),
    (LanguageConfig, {"width": 100, "heads": 3}),
    (LanguageConfig, {"width": 0}),
    (LanguageConfig, {"heads": 0}),
    (LanguageConfig, {"depth": 0}),
    (LanguageConfig, {"depth": 13}),
    (LanguageConfig, {"context_length": 4}),
    (LanguageConfig, {"vocab_size": 10}),
    (ModelConfig, {"embed_dim": 0}),
    (TrainConfig, {"epochs": 0}),
    (TrainConfig, {"batch_size": 0}),
    (TrainConfig, {"learning_rate": 0.0}),
    (TrainConfig, {"learning_rate": -1.0}),
    (TrainConfig, {"learning_rate": math.nan}),
    (TrainConfig, {"learning_rate": math.inf}),
    (TrainConfig, {"clip_norm": 0.0}),
    (TrainConfig, {"warmup": 1.0}),
    (TrainConfig, {"warmup": -0.1}),
    (TrainConfig, {"warmup": math.nan}),
    (TrainConfig, {"weight_decay": math.nan}),
    (TrainConfig, {"weight_decay": -0.1}),
    (TrainConfig, {"beta2": 1.0}),
    (TrainConfig, {"evaluate_every": 0}),
    (EvalConfig, {"retrieval": 0}),
    (EvalConfig, {"views": 0}),
    (EvalConfig, {"gallery": 0}),
]


@pytest.mark.parametrize(("kind", "values"), INVALID, ids=lambda part: getattr(part, "__name__", str(part)))
def test_a_number_that_cannot_work_is_refused(kind, values):
    with pytest.raises(LclError) as error:
        kind(**values)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (TrainConfig, {"batch_size": "64"}, "batch_size cannot be '64'"),
        (TrainConfig, {"epochs": 1.5}, "epochs cannot be 1.5"),
        (TrainConfig, {"epochs": True}, "epochs cannot be True"),
        (TrainConfig, {"epochs": None}, "epochs cannot be None"),
        (ModelConfig, {"vision": "vit"}, "VisionConfig should be a JSON object"),
        (Profile, {"name": "mine"}, "Profile is incomplete"),
        (Profile, [], "Profile should be a JSON object"),
    ],
)
def test_json_of_the_wrong_shape_is_refused(kind, values, said):
    with pytest.raises(LclError, match=said):
        from_dict(kind, values)


def test_whole_numbers_serve_where_fractions_may_stand():
    assert from_dict(TrainConfig, {"learning_rate": 1, "warmup": 0}).learning_rate == 1


def test_the_profile_is_the_named_one_then_the_environments_then_laptop(monkeypatch):
    monkeypatch.setenv("LCL_PROFILE", "smoke")
    assert get_profile().name == "smoke"
    assert get_profile("gpu").name == "gpu"
    monkeypatch.setenv("LCL_PROFILE", "smokey")
    with pytest.raises(LclError, match="did you mean smoke"):
        get_profile()
    monkeypatch.delenv("LCL_PROFILE")
    assert get_profile().name == "laptop"


def test_the_data_folder_is_the_environments_if_it_names_one(monkeypatch, tmp_path):
    monkeypatch.setenv("LCL_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.delenv("LCL_DATA")
    assert data_folder().name == "data"


# --- tuples and dicts


@dataclass(frozen=True)
class Nested:
    """A config with the kinds of fields that JSON has no types for."""

    layers: tuple[int, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    limit: float | None = None


@pytest.mark.parametrize(
    "config", [Nested(), Nested((1, 3), {"a": 0.5, "b": 2.0}, 1.5), Nested(weights={"a": 1})], ids=str
)
def test_tuples_and_dicts_survive_json(config):
    read = from_dict(Nested, json.loads(json.dumps(to_dict(config))))
    assert read == config and isinstance(read.layers, tuple)
    assert from_dict(Nested, to_dict(config)) == config


@pytest.mark.parametrize(
    "values",
    [
        {"layers": 3},
        {"layers": "12"},
        {"layers": [1, "2"]},
        {"layers": [1.5]},
        {"layers": [True]},
        {"layers": None},
        {"layers": {"1": 1}},
        {"weights": [1.0]},
        {"weights": {"a": "1"}},
        {"weights": {"a": None}},
        {"weights": {1: 1.0}},
        {"weights": {"a": True}},
        {"limit": "none"},
    ],
    ids=str,
)
def test_tuples_and_dicts_of_the_wrong_kind_are_refused(values):
    (name,) = values
    with pytest.raises(LclError, match=rf"Nested\.{name} cannot be "):
        from_dict(Nested, values)
