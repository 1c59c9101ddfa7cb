"""A model from elsewhere is opened or refused in one sentence: it runs nothing, asks nobody, and takes little memory and time."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lcl import storage
from lcl.bpe import read_engine
from lcl.config import LclError
from lcl.deploy.load import load, open_sessions
from lcl.deploy.onnx import load_onnx
from lcl.models.language import make_language
from lcl.models.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
OLD = ROOT / "tests" / "fixtures" / "v01"
TOWERS = json.loads((OLD / "towers" / "model.json").read_text())
ENGINE = json.loads(TOWERS["tokenizer"]["engine"])
HUB_SETTINGS = {"model_type": "bert", "hidden_size": 48, "num_hidden_layers": 1}


def refusal(function: Callable, *arguments: object) -> str:
    with pytest.raises(LclError) as error:
        function(*arguments)
    said = str(error.value)
    assert "\n" not in said and len(said) < 1000, said
    return said


def edited(folder: Path, description: dict) -> Path:
    """A copy of the saved towers that is described otherwise."""
    shutil.copytree(OLD / "towers", folder)
    (folder / "model.json").write_text(json.dumps(description))
    return folder


def described(changes: dict[str, object], description: dict = TOWERS) -> dict:
    """The description with other values: {"model.vision.width": 4096}."""
    description = copy.deepcopy(description)
    for path, value in changes.items():
        *above, last = path.split(".")
        place = description
        for name in above:
            place = place[name]
        place[last] = value
    return description


def with_engine(**changes: object) -> dict:
    return described({"tokenizer.engine": json.dumps(ENGINE | changes)})


# What runs, asks, hangs or aborts, in a process with limits


def malicious(folder: Path) -> Path:
    """A model for transformers whose code leaves a file behind."""
    folder.mkdir()
    named = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": named}))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    return folder


def by_name(name: str, **settings: object) -> dict:
    return described({"model.language.tower": f"hf:{name}", "text_tower": HUB_SETTINGS | settings})


FIXED = {"Fixed": 10**9}
PADDING = {"strategy": FIXED, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
SPLIT = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}

ATTACKS = {
    "a name alone": (described({"model.language.tower": "hf:bert-base-uncased"}), "does not hold its configuration"),
    "a kernel of the hub": (by_name("x", attn_implementation="kernels-community/flash-attn"), "exactly the tensors"),
    "a model of several": (by_name("x", model_type="clip"), "several models"),
    "endless layers": (by_name("x", num_hidden_layers=10**7), "more than 10000 tensors"),
    "a huge layer": (by_name("x", hidden_size=12 * 10**5), "exactly the tensors"),
    "large towers": (
        described({"model.language": {"width": 4096, "depth": 12, "vocab_size": 250_000}, "model.vision.width": 4096}),
        "exactly the tensors",
    ),
    "a large model of timm": (described({"model.vision.tower": "timm:vit_7b_patch16_dinov3"}), "exactly the tensors"),
    "many tokens": (described({"model.language.context_length": 10**10}), "8 to 1024 tokens"),
    "many patches": (described({"model.vision": {"tower": "vit", "image_size": 1024, "patch_size": 1}}), "more than 64 × 64"),
    "a wide space": (described({"model.embed_dim": 8192}), "image_projection.weight in"),
    "padding": (with_engine(padding=PADDING), "writes another padding"),
    "replacements": (with_engine(normalizer={"type": "Sequence", "normalizers": [REPLACE] * 10}), "writes another normalizer"),
    "a regular expression": (
        with_engine(pre_tokenizer={"type": "Sequence", "pretokenizers": [SPLIT, SPLIT]}), "writes another pre_tokenizer",
    ),
}  # fmt: skip

CHILD = """
import json, re, sys, time
import lcl
import lcl.models.clip
from lcl.config import LclError

def refuse(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn")):
        print("ASKED", event, arguments, flush=True)
        raise OSError("blocked")

sys.addaudithook(refuse)
for folder in sys.argv[1:]:
    start = time.process_time()  # other processes may keep the machine busy
    try:
        lcl.load(folder)
        said = "opened"
    except LclError as error:
        said = str(error)
    took, status = time.process_time() - start, open("/proc/self/status").read()
    most = int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 2**20  # ru_maxrss begins with that of the parent
    print(json.dumps([said, took, most]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux counts it")
def test_a_hostile_description_runs_nothing_asks_nobody_and_takes_little(tmp_path):
    evil = malicious(tmp_path / "evil")
    attacks = {"many lists": (TOWERS, "its data or its words are no text")} | ATTACKS | {
        "a folder with code": (described({"model.language.tower": f"hf:{evil}"}), "does not hold its configuration"),
        "code in the configuration": (by_name(str(evil), auto_map={"AutoModel": f"{evil}--evil.Evil"}), "exactly the tensors"),
    }
    folders = [edited(tmp_path / name, description) for name, (description, _) in attacks.items()]
    whole = json.dumps(described({"tokenizer.data": 1}))
    (folders[0] / "model.json").write_text(whole[:-1] + f', "more": [{"[]," * 7_800_000}1]}}')
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, input="y\n" * 99, timeout=300)
    assert done.returncode == 0 and "ASKED" not in done.stdout, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for (name, (_, words)), (said, seconds, gigabytes) in zip(attacks.items(), lines, strict=True):
        assert words in said and "\n" not in said, (name, said)
        assert seconds < 10 and gigabytes < 2, (name, seconds, gigabytes)
    assert not (evil / "ran").exists()


@pytest.mark.slow
def test_a_folder_with_code_is_refused_also_where_the_user_names_it(tmp_path, monkeypatch):
    evil, asked = malicious(tmp_path / "evil"), []
    monkeypatch.setattr("builtins.input", lambda *_: asked.append(1) or "y")  # transformers asks whether it may run it
    monkeypatch.setattr("signal.alarm", lambda *_: None)
    language = load(OLD / "towers").config.language
    object.__setattr__(language, "tower", f"hf:{evil}")
    assert "cannot make the text tower" in refusal(make_language, language)
    assert not asked and not (evil / "ran").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes on this system")
@pytest.mark.parametrize("kind", ["towers", "onnx"])
@pytest.mark.parametrize("device", [False, True])
def test_a_pipe_or_a_device_in_the_place_of_a_file_is_refused(tmp_path, kind, device):
    for path in sorted((OLD / kind).iterdir()):
        folder = shutil.copytree(OLD / kind, tmp_path / path.name)
        (folder / path.name).unlink()
        if device:
            (folder / path.name).symlink_to("/dev/zero")
        else:
            os.mkfifo(folder / path.name)
        assert f"{folder / path.name} is a folder, a pipe or a device" in refusal(load, folder)


# Weights


def rewritten(tmp_path: Path, change: Callable[[dict], dict]) -> Path:
    """The saved towers with other weights, which the description agrees to."""
    folder = edited(tmp_path / "towers", TOWERS)
    storage.write_tensors(folder / "model.safetensors", change(storage.read_tensors(OLD / "towers" / "model.safetensors")))
    (folder / "model.json").write_text(json.dumps(TOWERS | {"weights": storage.file_sha256(folder / "model.safetensors")}))
    return folder


NAME = "text_projection.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.double(), "torch.float64, but this model's is torch.float32"),
        (lambda x: x.half(), "torch.float16, but this model's is torch.float32"),
        (lambda x: x.int(), "torch.int32, but this model's is torch.float32"),
        (lambda x: x[:1].expand_as(x).clone().fill_(float("nan")), "holds NaN or infinity"),
        (lambda x: torch.where(torch.arange(x.numel()).view_as(x) == 7, -torch.inf, x), "holds NaN or infinity"),
        (lambda x: x[:-1].clone(), "is [127, 64], but this model's is [128, 64]"),
        (lambda x: x.flatten(), "is [8192], but this model's is [128, 64]"),
    ],
)
def test_a_tensor_of_another_kind_is_refused_by_name(tmp_path, change, words):
    folder = rewritten(tmp_path, lambda tensors: tensors | {NAME: change(tensors[NAME])})
    said = refusal(load, folder)
    assert words in said and f"{NAME} in {folder / 'model.safetensors'}" in said


def test_missing_and_extra_tensors_are_refused_by_name(tmp_path):
    name = f"{NAME}.2"
    more = rewritten(tmp_path / "more", lambda tensors: tensors | {name: torch.zeros(1)})
    fewer = rewritten(tmp_path / "fewer", lambda tensors: {other: x for other, x in tensors.items() if other != NAME})
    for folder, wrong in ((more, name), (fewer, NAME)):
        said = refusal(load, folder)
        assert wrong in said and "does not hold exactly the tensors of this model" in said


# Tokenizers


def vocabulary(change: Callable[[dict, list], tuple]) -> str:
    vocab, merges = change(dict(ENGINE["model"]["vocab"]), [list(merge) for merge in ENGINE["model"]["merges"]])
    return json.dumps(ENGINE | {"model": ENGINE["model"] | {"vocab": vocab, "merges": merges}})


LAST = max(ENGINE["model"]["vocab"], key=ENGINE["model"]["vocab"].get)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (vocabulary(lambda vocab, merges: (vocab | {LAST: 2**31}, merges)), "the ids in its vocabulary"),
        (vocabulary(lambda vocab, merges: (vocab | {LAST: -1}, merges)), "the ids in its vocabulary"),
        (vocabulary(lambda vocab, merges: (vocab | {LAST: 5}, merges)), "the ids in its vocabulary"),
        (vocabulary(lambda vocab, merges: (vocab | {"[PAD]": 1, "[BEGIN]": 0}, merges)), "its first tokens are not"),
        (vocabulary(lambda vocab, _: ({"xyz" if k == "a" else k: v for k, v in vocab.items()}, [])), "some of the 256 bytes"),
        (vocabulary(lambda vocab, merges: (vocab, [*merges, ["qq", "qq"]])), "out of vocabulary"),
        (vocabulary(lambda vocab, merges: (vocab, [*merges, ["a"]])), "not enough values"),
        (vocabulary(lambda vocab, merges: (vocab, 9)), "is damaged"),
        ("[" * 100_000, "recursion"),
        (json.dumps(ENGINE | {"decoder": {"type": "Fuse"}, "more": 1}), "writes another decoder"),
        (json.dumps(ENGINE | {"model": ENGINE["model"] | {"dropout": 0.5}}), "writes another model"),
    ],
)
def test_a_tokenizer_is_a_vocabulary_and_merges_and_nothing_else(text, words):
    said = refusal(Tokenizer.from_dict, TOWERS["tokenizer"] | {"engine": text}, "x/model.json")
    assert words in said and "x/model.json" in said


def test_a_field_that_another_version_of_the_engine_writes_is_no_difference():
    newer = ENGINE | {"model": ENGINE["model"] | {"ignore_more": False}, "more": 1}
    read = Tokenizer.from_dict(TOWERS["tokenizer"] | {"engine": json.dumps(newer)}, "x/model.json")
    assert read.to_dict() == Tokenizer.from_dict(TOWERS["tokenizer"]).to_dict()


def test_the_tokenizer_is_the_same_as_the_one_that_the_engine_reads():
    from tokenizers import Tokenizer as Engine

    for captions in (["a cat", "a catfish"], ["猫がいます", "two cats"]):
        trained = Tokenizer.train(captions, 280, "data").to_dict()["engine"]
        assert read_engine(trained, "here").to_str() == Engine.from_str(trained).to_str() == trained


# ONNX


def described_onnx(folder: Path, **changes: object) -> Path:
    shutil.copytree(OLD / "onnx", folder)
    about = json.loads((folder / "towers.json").read_text()) | changes
    about["files"] = {name: storage.file_sha256(folder / name) for name in about["files"]}
    (folder / "towers.json").write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize("scale", [True, "3", -1, 0, float("nan"), float("inf"), [3], 10**400])
def test_a_scale_that_is_no_positive_number_is_refused(tmp_path, scale):
    folder = described_onnx(tmp_path / "onnx", format="lcl-onnx-2", logit_scale=scale)
    (folder / "tokenizer.json").write_text(json.dumps(ENGINE))
    about = json.loads((folder / "towers.json").read_text())
    about["files"]["tokenizer.json"] = storage.file_sha256(folder / "tokenizer.json")
    (folder / "towers.json").write_text(json.dumps(about))
    assert "logit_scale is no positive number" in refusal(load, folder)


def test_towers_of_other_inputs_than_their_description_are_refused(tmp_path):
    folder = described_onnx(tmp_path / "onnx")
    shutil.copy(folder / "image.onnx", folder / "text.onnx")
    about = json.loads((folder / "towers.json").read_text())
    about["files"]["text.onnx"] = storage.file_sha256(folder / "text.onnx")
    (folder / "towers.json").write_text(json.dumps(about))
    for opener in (load, load_onnx):  # to use them, and to search and embed with them
        assert "describes other towers" in refusal(opener, folder)


def test_a_tokenizer_of_more_tokens_than_the_text_tower_is_refused(tmp_path):
    about = json.loads((OLD / "onnx" / "towers.json").read_text())
    about["model"]["language"]["vocab_size"] = 300
    folder = described_onnx(tmp_path / "onnx", model=about["model"])
    assert "more tokens than" in refusal(load, folder) and "more tokens than" in refusal(load_onnx, folder)


@pytest.mark.parametrize("place", ["above", "absolute", "link"])
def test_towers_read_no_files_outside_their_folder(tmp_path, place):
    onnx = pytest.importorskip("onnx")
    secret = tmp_path / "secret"
    secret.write_bytes(np.ones(4, np.float32).tobytes())
    folder = described_onnx(tmp_path / "onnx")
    (folder / "link").symlink_to(secret)
    outside = {"above": "../secret", "absolute": str(secret), "link": "link"}[place]
    weights = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", outside), ("offset", "0"), ("length", "16")):
        weights.external_data.add(key=key, value=value)
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    (folder / "image.onnx").write_bytes(model.SerializeToString())
    assert "cannot be opened" in refusal(open_sessions, folder)


# Whatever else


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.text(max_size=8)
    | st.floats()
    | st.sampled_from([0, -1, 1, 7, 2**31, 2**63, 10**30, 10**400, "hf:x", "hf:../x", "timm:x", "vit", "\ud800", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The paths of all values in a JSON value, of long lists and objects only the first ones."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in list(inner)[:12] for found in places(item, (*path, key)))]


def mutated(data: st.DataObject, value: object) -> object:
    """The value with one to three places changed, added or removed."""
    value = copy.deepcopy(value)
    for _ in range(data.draw(st.integers(1, 3))):
        *above, last = data.draw(st.sampled_from(places(value)[1:] or [("x",)]))
        place = value
        for key in above:
            place = place[key]
        action = data.draw(st.sampled_from(["change", "add", "remove", "nest"]))
        if action == "change":
            place[last] = data.draw(JSON)
        elif action == "nest":
            place[last] = [place[last]]
        elif action == "remove":
            del place[last]
        elif isinstance(place, dict):
            place[data.draw(st.text(max_size=6))] = data.draw(JSON)
    return value


def opens_or_is_refused(function: Callable, *arguments: object) -> None:
    try:
        function(*arguments)
    except LclError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000


@settings(max_examples=150)
@given(st.data())
def test_any_description_opens_or_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "mutated"
    shutil.copytree(OLD / "towers", folder, dirs_exist_ok=True)
    (folder / "model.json").write_text(json.dumps(mutated(data, TOWERS)))
    opens_or_is_refused(load, folder)


@settings(max_examples=150)
@given(st.data())
def test_any_tokenizer_opens_or_is_refused(data):
    value = TOWERS["tokenizer"] | {"engine": json.dumps(mutated(data, ENGINE))}
    opens_or_is_refused(Tokenizer.from_dict, value, "x")
    opens_or_is_refused(Tokenizer.from_dict, mutated(data, TOWERS["tokenizer"]), "x")


@settings(max_examples=60)
@given(st.data())
def test_any_description_of_onnx_towers_opens_or_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "mutated-onnx"
    shutil.copytree(OLD / "onnx", folder, dirs_exist_ok=True)
    about = json.loads((OLD / "onnx" / "towers.json").read_text())
    (folder / "towers.json").write_text(json.dumps(mutated(data, about)))
    opens_or_is_refused(load, folder)
