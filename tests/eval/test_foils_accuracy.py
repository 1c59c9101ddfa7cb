"""Accuracy on foils: against a slow loop, and what it says of embeddings that know, guess, or read only the sentences."""

import pytest
import torch
import torch.nn.functional as F

from lcl.data.drawn.foils import KINDS
from lcl.eval.foils import foil_accuracy

NUMBER = 60


@pytest.fixture(scope="module")
def scenes(small_world):
    return [small_world.scene("new_scenes", index) for index in range(NUMBER)]


class Sentences:
    """Gives every sentence a random direction, always the same."""

    def __init__(self, width: int = 8):
        self.width, self.known = width, {}

    def __call__(self, texts: list[str]) -> torch.Tensor:
        for text in texts:
            generator = torch.Generator().manual_seed(len(self.known))
            self.known.setdefault(text, F.normalize(torch.randn(self.width, generator=generator), dim=0))
        return torch.stack([self.known[text] for text in texts])


def test_it_is_what_a_slow_loop_counts(small_world, scenes):
    v, embed = F.normalize(torch.randn(NUMBER, 8, generator=torch.Generator().manual_seed(0)), dim=1), Sentences()
    v[3] = 0.0  # equally near to both
    found = foil_accuracy(small_world, scenes, v, embed)
    assert found.keys() == {f"foil_{kind}{tail}" for kind in KINDS for tail in ("", "_no_image")}
    for kind in KINDS:
        for tail, pictures in (("", v), ("_no_image", v.mean(0, keepdim=True).expand_as(v))):
            right = []
            for scene, picture in zip(scenes, pictures, strict=True):
                if foil := small_world.foils(scene).get(kind):
                    true, false = (float((embed([text])[0] * picture).sum()) for text in foil)
                    right.append(1.0 if true > false else 0.5 if true == false else 0.0)
            figure = found[f"foil_{kind}{tail}"]
            assert (figure["queries"], figure["chance"], figure["candidates"]) == (len(right), 0.5, 2)
            assert figure["value"] == pytest.approx(sum(right) / len(right))


def test_who_knows_is_always_right_and_who_reads_only_the_sentences_is_found_out(small_world, scenes):
    """One direction says "true" of each kind; a picture that points there is always right, and so is the mean picture."""
    texts = {text: number for scene in scenes for foil in small_world.foils(scene).values() for number, text in enumerate(foil)}
    direction = torch.tensor([1.0, 0.0])
    embed = lambda some: torch.stack([direction if not texts[text] else direction.flip(0) for text in some])  # noqa: E731
    found = foil_accuracy(small_world, scenes, direction.expand(NUMBER, 2), embed)
    for kind in KINDS:
        assert found[f"foil_{kind}"] == found[f"foil_{kind}_no_image"]
    pictures = direction.repeat(NUMBER, 1)
    pictures[::2] = direction.flip(0)  # half of the pictures say the opposite: the mean knows nothing
    mean = foil_accuracy(small_world, scenes, pictures, embed)
    assert {figure["value"] for name, figure in mean.items() if name.endswith("_no_image")} == {0.5}


def test_scenes_without_a_fact_are_no_queries(small_world, scenes):
    alone = [scene for scene in scenes if len(scene.objects) == 1]
    found = foil_accuracy(small_world, alone, torch.ones(len(alone), 8), Sentences())
    assert "foil_relation" not in found and found["foil_object"]["queries"] <= len(alone)
