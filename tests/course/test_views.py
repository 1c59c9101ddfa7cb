"""What exhibits show, against slow and trusted ways to the same."""

import pytest
import torch
from conftest import untrained
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

from lcl.config import LclError
from lcl.course import views
from lcl.eval.grounding import align
from lcl.eval.metrics import embed
from lcl.eval.retrieval import recall_at_k
from lcl.losses.masked_lm import FusedMlm
from lcl.models.tokenizer import MASK, SPECIAL


@pytest.fixture(scope="module")
def pairs(few_world):
    return few_world.pairs("new_scenes", range(12))


def test_a_contender_answers_as_its_recall_says(pairs, tokenizer):
    model = untrained(0)
    found = views.contender(model, tokenizer, pairs, [], {})
    v, t = embed(model, tokenizer, pairs)
    for way, similarity in (("image to text", v @ t.T), ("text to image", t @ v.T)):
        right = [answer == row for row, answer in enumerate(found.answers[way])]
        assert sum(right) / len(right) == pytest.approx(recall_at_k(similarity, 1))
        assert all(similarity[row, answer] == similarity[row].max() for row, answer in enumerate(found.answers[way]))


@pytest.mark.parametrize("solver", ["exact", "max"])
def test_words_take_the_patches_that_the_evaluation_finds(pairs, tokenizer, solver):
    model = untrained(0)
    found = views.aligned(model, tokenizer, pairs, solver, unmatched_cost=torch.inf)
    for one, patch, scene in zip(found, align(model, tokenizer, pairs, solver), pairs.scenes, strict=True):
        assert one.plan.argmax(1).tolist() == patch.tolist()
        assert "".join(one.words) == "".join(filter(str.isalnum, scene.caption))


def test_the_boxes_of_a_word_are_those_of_what_it_names(pairs, tokenizer):
    for one, scene in zip(views.aligned(untrained(0), tokenizer, pairs), pairs.scenes, strict=True):
        assert {box for boxes in one.boxes for box in boxes} == {obj.box for obj in scene.objects}
        for word, boxes in zip(one.words, one.boxes, strict=True):
            named = {obj.box for obj in scene.objects if word in scene.caption[slice(*obj.span)]}
            assert set(boxes) <= named


def test_a_guess_is_what_the_model_says_of_one_caption_alone(pairs, tokenizer):
    model = untrained(0).eval()
    torch.manual_seed(1)
    mlm = FusedMlm(model.config, model.language, model.vision.width).eval()
    found = views.blanks(model, mlm, tokenizer, pairs, k=3)
    for row in (0, 7):
        tokens = tokenizer.encode([pairs.captions[row]], 48)
        for word, blank in enumerate(found[row]):
            hidden = tokens.words == word
            ids = tokens.ids.masked_fill(hidden, SPECIAL.index(MASK))
            masked = type(tokens)(ids, tokens.mask, tokens.words, tokens.spans)
            for image, told in zip((row, None, blank.wrong), blank.guesses, strict=True):
                with torch.no_grad():
                    seen = None if image is None else model.vision(pairs.images[[image]])
                    best = mlm(model.language, masked, seen, hidden)[0].softmax(-1).topk(3)
                assert tokenizer.decode(best.indices.tolist()) == [name for name, _ in told]
                torch.testing.assert_close(best.values, torch.tensor([share for _, share in told]), rtol=1e-3, atol=1e-6)


def test_the_wrong_image_shows_none_of_the_things(pairs, tokenizer):
    model = untrained(0)
    mlm = FusedMlm(model.config, model.language, model.vision.width)
    for scene, words in zip(pairs.scenes, views.blanks(model, mlm, tokenizer, pairs), strict=True):
        assert not scene.concepts & pairs.scenes[words[0].wrong].concepts


def test_pca_is_scikit_learns_but_for_signs():
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    theirs = torch.from_numpy(PCA(2).fit_transform(features)).float()
    torch.testing.assert_close(views.pca(features).abs(), theirs.abs(), rtol=1e-3, atol=1e-4)
    mirrored = views.pca(-features)  # the directions' signs do not follow the data's
    torch.testing.assert_close(mirrored, -views.pca(features), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_umap_keeps_who_is_near_whom_and_repeats():
    centres = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)) * 4
    features = centres.repeat_interleave(40, 0) + torch.randn(200, 16, generator=torch.Generator().manual_seed(1))
    points = views.umap(features)
    assert trustworthiness(features, points, metric="cosine") > 0.85
    assert torch.equal(points, views.umap(features))


def test_few_points_make_no_map():
    with pytest.raises(LclError, match="more than 15 points"):
        views.umap(torch.rand(9, 4))


def test_a_map_is_worked_out_once(monkeypatch, tmp_path):
    monkeypatch.setenv("LCL_DATA", str(tmp_path))
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    first = views.coordinates(features, ["PCA"], "key")
    assert torch.equal(views.coordinates(torch.zeros(30, 4), ["PCA"], "key")["PCA"], first["PCA"])
    assert not torch.equal(views.coordinates(features.flip(0), ["PCA"], "other")["PCA"], first["PCA"])
    assert first["PCA"].min() >= 0 and first["PCA"].max() <= 1 and first["PCA"].shape == (30, 2)


def test_the_key_of_a_map_names_the_weights_and_the_pairs():
    model, other = untrained(0), untrained(1)
    keys = {views.map_key(model, ["a"]), views.map_key(model, ["b"]), views.map_key(other, ["a"])}
    assert len(keys) == 3 and views.map_key(untrained(0), ["a"]) in keys


def test_errors_are_told_by_rank():
    similarity = torch.eye(40)
    similarity[0] = torch.arange(40).float()  # image 0: 39 captions before its own
    similarity[1, 2:5] = 2.0  # image 1: three before its own
    errors = views.retrieval_errors(similarity, torch.eye(40))
    assert errors[:3].tolist() == [2, 1, 0] and len(errors) == 80
