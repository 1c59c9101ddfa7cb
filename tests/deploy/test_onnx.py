"""Towers without torch: the same answers for any batch and length, in int8 in less than half the size; damage is noticed."""

from types import SimpleNamespace

import pytest
import torch
from conftest import untrained
from PIL import Image

from lcl import storage
from lcl.config import LclError, ModelConfig, VisionConfig, get_profile
from lcl.deploy import onnx
from lcl.deploy.gallery import open_gallery
from lcl.deploy.query import check_query
from lcl.eval.metrics import embed, embed_texts
from lcl.eval.retrieval import recall_at_k
from lcl.models.clip import Clip
from lcl.models.tokenizer import Tokenizer
from lcl.models.vision import LIGHT_TOWERS

PAIRS = range(24)


@pytest.fixture(scope="module")
def exported(small_world, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    model, pairs = untrained(0).eval(), small_world.pairs("train", PAIRS)
    furthest = onnx.export_onnx(folder, model, tokenizer, pairs.images, pairs.captions)
    return folder, model, furthest


def test_an_export_leaves_the_model_as_it_was(small_world, tokenizer, tmp_path):
    """The one export of the quick tests."""
    model, pairs = untrained(0).train(), small_world.pairs("train", range(3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert onnx.export_onnx(tmp_path, model, tokenizer, pairs.images, pairs.captions) < 1e-5
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 17])
def test_onnx_answers_as_torch_does_for_any_batch_and_length(exported, small_world, tokenizer, number):
    folder, model, _ = exported
    pairs = small_world.pairs("new_scenes", range(5, 5 + number))
    tokens = tokenizer.encode(pairs.captions, 48)
    v, t = onnx.open_towers(folder).run(pairs.images, tokens)
    with torch.no_grad():
        torch.testing.assert_close(v, model.encode_image(pairs.images), rtol=0, atol=1e-4)
        torch.testing.assert_close(t, model.encode_text(tokens), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIGHT_TOWERS)
def test_the_towers_of_lightclip_are_exported(name, small_world, tokenizer, tmp_path):
    torch.manual_seed(0)
    model = Clip(ModelConfig(VisionConfig(name), get_profile("smoke").model.language)).eval()
    pairs = small_world.pairs("train", range(3))
    assert onnx.export_onnx(tmp_path, model, tokenizer, pairs.images, pairs.captions) < 1e-4


@pytest.mark.slow
def test_an_export_takes_the_place_of_its_model_in_a_search(exported, small_world, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA", str(tmp_path / "data"))
    for number, image in enumerate(small_world.pairs("new_scenes", range(5)).images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
    towers, own = onnx.load_onnx(exported[0])
    texts = ["a cat", "a qwzx boat " * 20]
    torch.testing.assert_close(
        embed_texts(towers, own, texts), embed_texts(exported[1], tokenizer, texts), rtol=0, atol=1e-5
    )
    assert own.fingerprint == tokenizer.fingerprint and own.decode(range(300)) == tokenizer.decode(range(300))
    gallery, expected = (open_gallery(tmp_path, model) for model in (towers, exported[1]))
    assert gallery.fresh == expected.fresh == 5 and open_gallery(tmp_path, towers).fresh == 0
    torch.testing.assert_close(gallery.v, expected.v, rtol=0, atol=1e-5)
    found = check_query(gallery, towers, own, "a qwzx red")
    wanted = check_query(expected, exported[1], Tokenizer.from_dict(tokenizer.to_dict()), "a qwzx red")
    assert "qwzx" in found.unseen == wanted.unseen and found.above == pytest.approx(wanted.above, abs=0.01)


@pytest.mark.slow
def test_padding_changes_nothing(exported, tokenizer):
    towers = onnx.open_towers(exported[0])
    short, long = "a cat", "a cat above a red apple, with two dogs on a striped blue background"
    alone = towers.encode_text(tokenizer.encode([short], 48))
    torch.testing.assert_close(towers.encode_text(tokenizer.encode([short, long], 48))[:1], alone, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_longest_and_the_shortest_caption_pass(exported, tokenizer):
    towers = onnx.open_towers(exported[0])
    tokens = tokenizer.encode(["a " * 200, "a"], 48)
    assert tokens.ids.shape[1] == 48 and towers.encode_text(tokens).norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.slow
def test_the_export_tells_how_far_it_is_from_torch(exported):
    assert 0 <= exported[2] < 1e-5


@pytest.mark.slow
def test_what_differs_is_not_written(tokenizer, small_world, monkeypatch, tmp_path):
    pairs = small_world.pairs("train", PAIRS)
    monkeypatch.setattr(onnx, "MAX_DIFFERENCE", -1.0)
    with pytest.raises(LclError, match="ONNX differs from torch by"):
        onnx.export_onnx(tmp_path, untrained(0), tokenizer, pairs.images, pairs.captions)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_int8_takes_less_than_half_and_points_the_same_way(exported, small_world, tokenizer, tmp_path):
    folder, model, _ = exported
    onnx.to_int8(folder, tmp_path, small_world.pairs("train", PAIRS).images)
    pairs = small_world.pairs("new_scenes", range(8))
    tokens = tokenizer.encode(pairs.captions, 48)
    small, large = (sum((at / name).stat().st_size for name in (onnx.IMAGE, onnx.TEXT)) for at in (tmp_path, folder))
    assert small < large / 2
    answers = [onnx.open_towers(at).run(pairs.images, tokens) for at in (tmp_path, folder)]
    for mine, theirs in zip(*answers, strict=True):
        assert (mine * theirs).sum(1).min() > 0.99 and not torch.equal(mine, theirs)
    assert not list(tmp_path.glob(".*"))


@pytest.fixture(scope="module")
def rounded(exported, small_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    onnx.to_int8(exported[0], folder, small_world.pairs("train", PAIRS).images)
    return folder


@pytest.mark.slow
def test_the_drop_in_recall_is_that_of_the_embeddings(exported, rounded, small_world, tokenizer):
    folder, model, _ = exported
    rows = small_world.validation(70)  # more than one batch
    pairs = rows.take(range(70))
    drop = onnx.recall_drop(folder, rounded, tokenizer, rows)
    v, t = embed(model, tokenizer, pairs)
    assert drop.pairs == 70 and drop.before == pytest.approx((recall_at_k(v @ t.T, 1) + recall_at_k(t @ v.T, 1)) / 2, abs=0.03)
    v, t = onnx.open_towers(rounded).run(pairs.images, tokenizer.encode(pairs.captions, 48))
    assert drop.after == pytest.approx((recall_at_k(v @ t.T, 1) + recall_at_k(t @ v.T, 1)) / 2, abs=0.03)
    same = onnx.recall_drop(folder, folder, tokenizer, rows)  # control: nothing was rounded
    assert (same.before, same.after, same.margin) == (drop.before, drop.before, 0)


@pytest.mark.slow
def test_a_tower_that_was_destroyed_drops(exported, small_world, tokenizer, monkeypatch):
    """Float towers that match every pair, and int8 towers that match pair 0 alone."""
    rows, eye = small_world.validation(16), torch.eye(16)
    answers = iter([(eye, eye), (torch.zeros(16, 16), eye)])
    monkeypatch.setattr(onnx, "open_towers", lambda folder: SimpleNamespace(run=lambda *_: next(answers)))
    drop = onnx.recall_drop(exported[0], exported[0], tokenizer, rows)
    assert (drop.pairs, drop.before, drop.after) == (16, 1.0, pytest.approx(1 / 16))
    assert str(drop).startswith("recall@1 on 16 held-out pairs: 100.0% in float32, 6.2% in int8 (-93.8 points, 95 % CI -10")
    assert drop.margin == pytest.approx(1.96 * 0.25 / 4, abs=1e-6)  # 15 differences of -1 and one of 0


@pytest.mark.slow
def test_the_drop_is_told_or_why_it_is_not(exported, rounded, small_world, tokenizer):
    told = onnx.describe_recall_drop(exported[0], rounded, tokenizer, small_world.validation(16))
    assert told == str(onnx.recall_drop(exported[0], rounded, tokenizer, small_world.validation(16)))
    other = Tokenizer.from_dict(tokenizer.to_dict() | {"data": "other"})
    assert "another data set" in onnx.describe_recall_drop(exported[0], rounded, other, small_world.validation(16))
    few = onnx.describe_recall_drop(exported[0], rounded, tokenizer, small_world.validation(1))
    assert "was not measured (1 held-out pairs are too few" in few and few.endswith("export again.") and "%" not in few


@pytest.mark.slow
def test_damaged_and_missing_towers_are_refused(exported, tmp_path):
    with pytest.raises(LclError):
        onnx.open_towers(tmp_path)
    for path in exported[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / onnx.IMAGE).write_bytes(b"not a tower")
    with pytest.raises(LclError, match="not the file that towers.json describes"):
        onnx.open_towers(tmp_path)
    about = storage.read_json(tmp_path / onnx.DESCRIPTION)
    about["files"][onnx.IMAGE] = storage.file_sha256(tmp_path / onnx.IMAGE)
    storage.write_json(tmp_path / onnx.DESCRIPTION, about)
    with pytest.raises(LclError, match="cannot be opened"):
        onnx.open_towers(tmp_path)
