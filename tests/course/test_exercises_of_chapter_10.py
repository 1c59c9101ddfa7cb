"""The exercises of chapter 10: their right answers are what `lcl` does, and typical mistakes hear their sentence."""

import pytest
import torch

from lcl.course.exercises import controls as exercises
from lcl.course.study import gain, values
from lcl.losses.neighbours import NeighbourFeatures
from lcl.teachers.search import nearest_neighbours
from lcl.teachers.teacher import by_objects
from lcl.train.recipes import get_recipe

I2T = "image_to_text_recall@1"


@pytest.fixture(scope="module")
def shows(small_world, teacher_of):
    rows = small_world.train(len(teacher_of(get_recipe("clip-ping")).a))
    sets = [scene.concepts for scene in rows.scenes(range(len(rows)))]
    found = torch.zeros(len(sets), 1 + max(map(max, sets)))
    for row, each in enumerate(sets):
        found[row, list(each)] = 1
    return found


@pytest.mark.parametrize(
    ("kind", "recipe"), [("own", "clip+distil"), ("nearest", "clip-ping"), ("shuffled", "clip-ping+shuffled")]
)
def test_the_partners_of_the_build_are_those_of_the_recipes(kind, recipe, teacher_of, shows):
    near, theirs = teacher_of(get_recipe("clip-ping")), teacher_of(get_recipe(recipe))
    rows, images = torch.tensor([3, 0, 7, 11]), torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    order = torch.randperm(len(near.a), generator=torch.Generator().manual_seed(0))
    i, j = exercises.lcl_partners(kind, rows, near.a, near.b, order, shows)
    U, Z = near.images, near.captions
    found = theirs(rows, images, generator=torch.Generator().manual_seed(0))
    for ours, other in zip(NeighbourFeatures(U[i], Z[j], Z[i], U[j]), found, strict=True):
        torch.testing.assert_close(ours, other)


def test_the_partner_by_objects_is_as_similar_as_that_of_the_oracle(small_world, teacher_of, shows):
    near = teacher_of(get_recipe("clip-ping"))
    rows = torch.arange(20)
    i, j = exercises.lcl_partners("objects", rows, near.a, near.b, rows, shows)
    assert torch.equal(i, j) and not (i == rows).any()
    sets = torch.nn.functional.normalize(shows, dim=1)

    class Rows:
        def scenes(self, indices):
            return small_world.train(len(shows)).scenes(indices)

    theirs = by_objects(Rows(), nearest_neighbours(sets, 1)).indices[:20, 0]
    torch.testing.assert_close((sets[rows] * sets[i]).sum(1), (sets[rows] * sets[theirs]).sum(1))


def test_the_half_width_is_that_of_the_study_and_about_three_points():
    ours, theirs = values(["clip-ping", "clip"], I2T)
    found = gain("clip-ping", "clip", I2T)
    half = (found.high - found.low) / 2
    assert found.seeds == len(ours) == 5 and exercises.half_width(half, ours, theirs) == "Right."
    assert half == pytest.approx(3, abs=0.5)  # "about three points"
    assert exercises.half_width(2 * half, ours, theirs).endswith("its half on each side is asked for.")


@pytest.mark.parametrize("answer", ["bdac", "BDAC", "b d a c", "b, d, a, c", " bdac\n"])
def test_letters_may_be_written_with_capitals_commas_and_spaces(answer):
    assert exercises.which(answer) == "Right."


def test_wrong_letters_hear_their_mistake_and_none_a_reminder():
    assert exercises.which("abcd").endswith("read what each control replaces.")
    assert exercises.which(...).startswith("Not answered yet")
