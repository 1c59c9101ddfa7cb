"""Guidance against slow loops: the two objectives, the projections, and both teachers; and whom a teacher refuses."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import PixelEncoder, WordEncoder
from hypothesis import given, settings
from hypothesis import strategies as st

from lcl.config import LclError
from lcl.data.scenes import SceneView
from lcl.losses.neighbours import (
    CaptionQueue,
    NeighbourFeatures,
    Projections,
    image_teacher,
    nn_contrast,
    other_xnn,
    text_teacher,
    xnn_contrast,
)
from lcl.teachers import banks
from lcl.teachers.banks import Bank, build_bank
from lcl.teachers.search import Neighbours, nearest_neighbours
from lcl.teachers.teacher import BankTeacher, LiveTeacher, by_objects, open_bank_teacher, shuffled

OBJECTIVES = {
    "nn_contrast": (nn_contrast, "u_a", "z_b"),
    "xnn_contrast": (xnn_contrast, "z_a", "u_b"),
    "other_xnn": (other_xnn, "z_b", "u_a"),
}
"""What an image, and what a caption is told to know."""


def unit(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def near_of(rows: int, width: int, seed: int) -> NeighbourFeatures:
    return NeighbourFeatures(*unit(4, rows, width, seed=seed))


def pictures(rows: int, seed: int, side: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (rows, 3, side, side), generator=generator, dtype=torch.uint8)


def dot(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


# --- the objectives


def slow_info_nce(x: list[list[float]], y: list[list[float]], scale: float) -> float:
    """Every x asks which y is its own, and every y which x; the mean of all answers' -log p."""
    losses = []
    for asking, asked in ((x, y), (y, x)):
        for number, query in enumerate(asking):
            shares = [math.exp(scale * dot(query, one)) for one in asked]
            losses.append(-math.log(shares[number] / sum(shares)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("name", OBJECTIVES)
@settings(max_examples=25)
@given(st.integers(2, 7), st.integers(1, 6), st.floats(0.1, 30), st.integers(0, 2**31))
def test_an_objective_is_its_formula_summed_term_by_term(name, rows, width, scale, seed):
    objective, for_image, for_caption = OBJECTIVES[name]
    (v, t), near = unit(2, rows, width, seed=seed), near_of(rows, width, seed + 1)
    found = objective(v, t, near, torch.tensor(scale, dtype=torch.float64))
    wanted = [
        slow_info_nce(x.tolist(), getattr(near, target).tolist(), scale)
        for x, target in ((v, for_image), (t, for_caption))
    ]
    assert list(found) == [name] and found[name].ndim == 0
    assert found[name].item() == pytest.approx(sum(wanted) / 2, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_its_gradient_is_the_numerical_one(name):
    x = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)

    def loss(x, scale):
        v, t, *near = F.normalize(x, dim=-1)
        return OBJECTIVES[name][0](v, t, NeighbourFeatures(*near), scale)[name]

    assert torch.autograd.gradcheck(loss, (x, scale))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_its_gradient_reaches_both_embeddings_the_temperature_both_projections_and_its_own_neighbours_alone(name):
    v, t = unit(2, 5, 4, seed=0).float()
    scale, given_near = torch.tensor(3.0), NeighbourFeatures(*(unit(5, width, seed=width).float() for width in (6, 7, 7, 6)))
    for tensor in (v, t, scale, *given_near):
        tensor.requires_grad_()
    projections = Projections(6, 7, 4)
    objective, *its_own = OBJECTIVES[name]
    objective(v, t, projections(given_near), scale)[name].backward()
    for reached in (v, t, scale, *projections.parameters()):
        assert reached.grad.isfinite().all() and reached.grad.abs().sum() > 0
    assert {field for field in NeighbourFeatures._fields if getattr(given_near, field).grad is not None} == set(its_own)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batch_of_one_is_refused(name):
    with pytest.raises(LclError, match="batch of one has no negatives"):
        OBJECTIVES[name][0](*unit(2, 1, 4, seed=0), near_of(1, 4, 1), torch.tensor(3.0))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_who_knows_his_neighbours_loses_less_than_who_knows_another_rows_and_who_knows_nobody_guesses(name):
    objective, for_image, for_caption = OBJECTIVES[name]
    near, scale = near_of(8, 16, 0), torch.tensor(5.0)
    v, t = getattr(near, for_image), getattr(near, for_caption)
    knowing = objective(v, t, near, scale)[name]
    assert knowing < objective(v.roll(1, 0), t, near, scale)[name]
    assert knowing < objective(v, t.roll(1, 0), near, scale)[name]
    same = F.normalize(torch.ones(8, 16, dtype=torch.float64), dim=1)
    assert objective(same, same, NeighbourFeatures(same, same, same, same), scale)[name].item() == pytest.approx(math.log(8))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_order_of_the_rows_and_which_modality_is_called_image_do_not_matter(name):
    objective, scale = OBJECTIVES[name][0], torch.tensor(5.0)
    (v, t), near = unit(2, 6, 4, seed=0), near_of(6, 4, 1)
    loss = objective(v, t, near, scale)[name]
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    torch.testing.assert_close(objective(v[order], t[order], NeighbourFeatures(*(x[order] for x in near)), scale)[name], loss)
    torch.testing.assert_close(objective(t, v, NeighbourFeatures(near.z_b, near.u_a, near.u_b, near.z_a), scale)[name], loss)


@settings(max_examples=25)
@given(st.integers(2, 7), st.integers(1, 6), st.integers(0, 2**31))
def test_one_teacher_alone_is_its_half_of_both_objectives(rows, width, seed):
    (v, t), near, scale = unit(2, rows, width, seed=seed), near_of(rows, width, seed + 1), torch.tensor(3.0, dtype=torch.float64)
    alone = {}
    for objective, for_image, for_caption in ((image_teacher, "u_a", "u_b"), (text_teacher, "z_a", "z_b")):
        ((name, found),) = objective(v, t, near, scale).items()
        pairs = ((v, getattr(near, for_image)), (t, getattr(near, for_caption)))
        assert found.item() == pytest.approx(sum(slow_info_nce(x.tolist(), y.tolist(), 3.0) for x, y in pairs) / 2, abs=1e-9)
        alone[name] = found
    both = nn_contrast(v, t, near, scale)["nn_contrast"] + xnn_contrast(v, t, near, scale)["xnn_contrast"]
    torch.testing.assert_close(sum(alone.values()), both)


def test_a_queue_gives_the_nearest_earlier_caption_as_a_slow_list_does():
    """Captions of the batch itself count, a caption is never its own neighbour, and the oldest leave first."""
    queue, kept = CaptionQueue(9, 3).train(), []
    for step in range(5):
        t = unit(4, 3, seed=step).float().requires_grad_()
        known = [*t.tolist(), *kept]
        near = queue(t)
        for row, found in enumerate(near.tolist()):
            best = max((other for other in range(len(known)) if other != row), key=lambda other: dot(known[other], known[row]))
            assert found == pytest.approx(known[best])
        assert not near.requires_grad
        kept = known[:9]
    before = queue.captions.clone()
    queue.eval()(unit(4, 3, seed=9).float())
    assert torch.equal(queue.captions, before)  # who only looks changes nothing
    again = CaptionQueue(9, 3)
    again.load_state_dict(queue.state_dict())
    assert torch.equal(again(t), queue.train()(t))


def test_a_new_queue_is_empty_so_no_row_of_zeros_is_anyones_neighbour():
    t = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # each is less alike to the other, -1, than to zeros, 0
    assert torch.equal(CaptionQueue(5, 2).train()(t), t.flip(0))


# --- the projections


def test_images_go_through_q_u_and_captions_through_q_z_and_arrive_with_length_one():
    torch.manual_seed(0)
    projections = Projections(6, 7, 4)
    assert {name: tuple(p.shape) for name, p in projections.named_parameters()} == {
        "image.weight": (4, 6), "text.weight": (4, 7)
    }  # fmt: skip
    before = NeighbourFeatures(*(torch.randn(5, width) for width in (6, 7, 7, 6)))
    after = projections(before)
    for field, q in (("u_a", "image"), ("z_b", "text"), ("z_a", "text"), ("u_b", "image")):
        weights = getattr(projections, q).weight.tolist()
        for row, found in zip(getattr(before, field).tolist(), getattr(after, field).tolist(), strict=True):
            wanted = [dot(weight, row) for weight in weights]
            length = math.sqrt(dot(wanted, wanted))
            assert found == pytest.approx([value / length for value in wanted], abs=1e-6)
            assert dot(found, found) == pytest.approx(1, abs=1e-5)


# --- the guide


def brute_nearest(features: torch.Tensor, row: int) -> int:
    """The row, other than this one, with the largest cosine; of equals the first."""
    rows = features.double().tolist()
    return max((other for other in range(len(rows)) if other != row), key=lambda other: dot(rows[row], rows[other]))


def random_bank(rows: int, width: int, seed: int, step: int = 10_000, name: str = "") -> Bank:
    """A bank of random directions, none like another."""
    features = unit(rows, width, seed=seed).half()
    described = {"rows": {"data": "random", "rows": rows}, "width": width}
    return Bank(Path("nowhere"), described, name or f"{width}-{seed}", features.split(step))


def guide_of(images: Bank, captions: Bank) -> BankTeacher:
    return BankTeacher(images, captions, nearest_neighbours(images), nearest_neighbours(captions))


def assert_rows(near: NeighbourFeatures, images: torch.Tensor, captions: torch.Tensor, pairs: list[tuple[int, int]]) -> None:
    """Is near what the banks say of every row's a and b?"""
    for row, (a, b) in enumerate(pairs):
        for found, wanted in zip(near, (images[a], captions[b], captions[a], images[b]), strict=True):
            assert torch.equal(found[row], wanted)


def test_a_guide_tells_the_banks_own_rows_of_the_nearest_image_and_the_nearest_caption():
    images, captions = random_bank(40, 6, 0), random_bank(40, 5, 1)
    guide, batch = guide_of(images, captions), torch.tensor([7, 39, 0, 7, 20])
    near = guide(batch, pictures(5, 0))
    u, z = images[:], captions[:]
    assert_rows(near, u, z, [(brute_nearest(u, row), brute_nearest(z, row)) for row in batch.tolist()])
    assert [x.shape for x in near] == [(5, 6), (5, 5), (5, 5), (5, 6)] and {x.dtype for x in near} == {torch.float32}


def test_a_guide_of_real_scenes_tells_other_scenes_whatever_the_pictures_are(small_banks):
    images, captions = small_banks
    guide, batch = guide_of(images, captions), torch.arange(256)
    near = guide(batch, pictures(256, 0))
    assert all(torch.equal(*both) for both in zip(near, guide(batch, pictures(256, 1)), strict=True))
    for row in range(0, 256, 8):
        u, z, nearest = images[:], captions[:], (int(guide.a[row]), int(guide.b[row]))
        assert row not in nearest
        assert_rows(NeighbourFeatures(*(x[row : row + 1] for x in near)), u, z, [nearest])
        for features, other in zip((u, z), nearest, strict=True):  # equal captions are equally near
            best = brute_nearest(features, row)
            found, largest = features[[other, best]] @ features[row]
            assert found.item() == pytest.approx(largest.item(), abs=1e-6)


def guide_with(own: float) -> BankTeacher:
    images, captions = random_bank(40, 6, 0), random_bank(40, 5, 1)
    return BankTeacher(images, captions, nearest_neighbours(images), nearest_neighbours(captions), own=own)


def test_a_row_that_is_its_own_neighbour_gets_its_own_features():
    guide, batch = guide_with(1.0), torch.tensor([7, 39, 0, 7, 20])
    assert_rows(guide(batch, pictures(5, 0)), guide.images[:], guide.captions[:], [(row, row) for row in batch.tolist()])


def test_own_and_neighbours_features_are_mixed_by_their_share_anew_in_every_step_and_each_bank_apart():
    guide, batch, counts = guide_with(0.25), torch.arange(40), torch.zeros(2, 2)
    u, z, steps = guide.images[:], guide.captions[:], 200
    for step in range(steps):
        near, again = (guide(batch, pictures(40, 0), generator=torch.Generator().manual_seed(step)) for _ in range(2))
        assert all(torch.equal(*both) for both in zip(near, again, strict=True))
        own = torch.stack([(near.u_a == u).all(1), (near.z_b == z).all(1)])  # (2, B)
        a, b = batch.where(own[0], guide.a), batch.where(own[1], guide.b)
        assert_rows(near, u, z, list(zip(a.tolist(), b.tolist(), strict=True)))
        counts += torch.stack([torch.tensor([(x & y).sum(), (x & ~y).sum()]) for x, y in (own, own.flip(0))])
    shares = counts / (40 * steps)
    torch.testing.assert_close(shares, torch.tensor([[1 / 16, 3 / 16]] * 2), atol=0.02, rtol=0)


def test_shuffled_neighbours_are_those_of_other_rows():
    found = nearest_neighbours(random_bank(40, 6, 0))
    other = shuffled(None, found)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        assert torch.equal(shuffled(None, found).indices, other.indices)  # the same in every run
    assert sorted(other.indices[:, 0].tolist()) == sorted(found.indices[:, 0].tolist()) and other.bank == found.bank
    assert (other.indices[:, 0] == found.indices[:, 0]).float().mean() < 0.2


def test_the_oracle_finds_a_scene_with_the_most_alike_objects(small_world, small_banks):
    rows, found = SceneView(small_world, 256), nearest_neighbours(small_banks[0])
    chosen = by_objects(rows, found).indices[:, 0].tolist()
    sets = [scene.concepts for scene in rows.scenes(range(256))]
    alike = lambda one, other: len(one & other) / math.sqrt(len(one) * len(other))  # noqa: E731
    for row in range(0, 256, 5):
        best = max(alike(sets[row], sets[other]) for other in range(256) if other != row)
        assert chosen[row] != row and alike(sets[row], sets[chosen[row]]) == pytest.approx(best)
    with pytest.raises(LclError, match="known of scenes only"):
        by_objects(object(), found)


@pytest.mark.parametrize("step", [1, 7, 39])
def test_borders_of_shards_do_not_matter(step):
    whole, parts = (guide_of(random_bank(40, 6, 0, n), random_bank(40, 5, 1, n)) for n in (40, step))
    batch, views = torch.randperm(40, generator=torch.Generator().manual_seed(0)), pictures(40, 0)
    assert len(parts.images.shards) > 1
    assert all(torch.equal(*both) for both in zip(whole(batch, views), parts(batch, views), strict=True))


def test_built_shard_by_shard_a_bank_guides_as_one_that_was_built_at_once(
    small_world, small_banks, tmp_path, monkeypatch
):
    monkeypatch.setattr(banks, "SHARD_ROWS", 60)
    rows = SceneView(small_world, 256)
    parts = [build_bank(rows, encoder, tmp_path / encoder.kind) for encoder in (PixelEncoder(), WordEncoder())]
    assert [len(bank.shards) for bank in parts] == [5, 5]
    batch = torch.tensor([0, 59, 60, 119, 120, 239, 240, 255])
    both = [guide_of(*made)(batch, pictures(8, 0)) for made in (small_banks, parts)]
    for whole, part in zip(*both, strict=True):
        torch.testing.assert_close(whole, part, rtol=0, atol=1e-3)  # batches of another size may round another way


def test_what_a_teacher_tells_is_where_the_pictures_are():
    guide = guide_of(random_bank(40, 6, 0), random_bank(40, 5, 1))
    assert {x.device.type for x in guide(torch.arange(3), torch.empty(3, 3, 8, 8, device="meta"))} == {"meta"}


def test_a_teacher_says_what_it_was_made_of():
    images, captions = random_bank(40, 6, 0), random_bank(40, 5, 1)
    for teacher in (guide_of(images, captions), LiveTeacher(PixelEncoder(), captions, 9)):
        assert json.loads(json.dumps(teacher.description)) == teacher.description
        assert teacher.description["widths"] == list(teacher.dims) == [teacher.dims[0], 5]
        assert teacher.description["rows"] == captions.description["rows"]
        assert teacher.description["captions"] == captions.fingerprint
    assert teacher.description["live"] == PixelEncoder.description and teacher.description["queue"] == 9
    assert teacher.dims == (24, 5) and guide_of(images, captions).description["images"] == images.fingerprint


def test_what_does_not_belong_together_is_refused():
    images, captions = random_bank(40, 6, 0, name="i"), random_bank(40, 5, 1, name="c")
    a, b = nearest_neighbours(images), nearest_neighbours(captions)
    other = dataclasses.replace(captions, description={"rows": {"data": "other", "rows": 40}})
    with pytest.raises(LclError, match="different rows"):
        BankTeacher(images, other, a, b)
    short = dataclasses.replace(a, indices=a.indices[:39], similarities=a.similarities[:39])
    for wrong in ((b, b), (a, a), (b, a), (dataclasses.replace(a, bank=""), b), (short, b)):
        with pytest.raises(LclError, match="not found in the bank in nowhere; `lcl neighbours` finds them anew"):
            BankTeacher(images, captions, *wrong)


def test_a_row_for_which_an_approximate_search_found_nobody_is_refused_and_gets_no_strangers_features():
    images, captions = random_bank(40, 6, 0), random_bank(40, 5, 1)
    a, b = nearest_neighbours(images), nearest_neighbours(captions)
    indices = a.indices.clone()
    indices[3] = -1  # as `approximate_neighbours` says it
    with pytest.raises(LclError):
        BankTeacher(images, captions, Neighbours(indices, a.similarities, a.bank), b)


def test_opening_a_guide_again_neither_encodes_nor_searches(small_world, small_banks, tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA", str(tmp_path))
    rows, told = SceneView(small_world, 256), []
    encoders = PixelEncoder(), WordEncoder()
    first = open_bank_teacher(rows, *encoders, told.append)
    calls = [encoder.calls for encoder in encoders]
    assert sum(told) == 512 and min(calls) >= 1
    assert all(bank.folder.is_relative_to(tmp_path) for bank in (first.images, first.captions))
    monkeypatch.setattr("lcl.teachers.search.nearest_neighbours", None)  # a search would fail
    again = open_bank_teacher(rows, *encoders)
    assert [encoder.calls for encoder in encoders] == calls
    assert again.description == first.description == guide_of(*small_banks).description
    assert torch.equal(again.a, first.a) and torch.equal(again.b, first.b)


def test_plain_distillation_searches_for_no_neighbour(small_world, small_banks, tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA", str(tmp_path))
    rows, batch, encoders = SceneView(small_world, 256), torch.arange(5), (PixelEncoder(), WordEncoder())
    searched = open_bank_teacher(rows, *encoders)
    searched = BankTeacher(searched.images, searched.captions, *map(nearest_neighbours, small_banks), own=1.0)
    monkeypatch.setattr("lcl.teachers.teacher.find_neighbours", None)  # a search would fail
    found = open_bank_teacher(rows, *encoders, own=1.0)
    assert found.description == searched.description
    for features, other in zip(found(batch, pictures(5, 0)), searched(batch, pictures(5, 0)), strict=True):
        assert torch.equal(features, other)
    before, after = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    found(batch, pictures(5, 0), generator=before), searched(batch, pictures(5, 0), generator=after)
    assert torch.equal(before.get_state(), after.get_state())  # what a step draws next does not change


def test_a_teacher_with_approximate_neighbours_says_so_in_its_description(small_banks):
    a, b = map(nearest_neighbours, small_banks)
    exact, rough = BankTeacher(*small_banks, a, b), BankTeacher(*small_banks, a, dataclasses.replace(b, recall=0.9))
    assert rough.description == exact.description | {"recall": {small_banks[1].fingerprint: 0.9}}


# --- the live guide


class SlowQueue:
    """What a live guide should tell, entry by entry. An entry: its row, what the encoder says of its view, its caption."""

    def __init__(self, captions: Bank, length: int):
        self.captions, self.length, self.queue = captions[:].tolist(), length, []

    def __call__(self, rows: list[int], views: list[list[float]]):
        """For every row its nearest entry by image, and all that are nearest by caption: one row in several views."""
        batch = [(row, view, self.captions[row]) for row, view in zip(rows, views, strict=True)]
        known, told = batch + self.queue, []
        for row, view, caption in batch:
            others = [entry for entry in known if entry[0] != row]
            if not others:
                return None
            a = max(others, key=lambda entry: dot(view, entry[1]))  # noqa: B023
            b = max(others, key=lambda entry: dot(caption, entry[2]))  # noqa: B023
            told.append((a, [entry for entry in others if entry[0] == b[0]]))
        self.queue = known[: self.length]
        return told


@settings(max_examples=60)
@given(
    st.integers(1, 20), st.lists(st.lists(st.integers(0, 11), min_size=2, max_size=5), min_size=1, max_size=6),
    st.integers(0, 2**31),
)  # fmt: skip
def test_a_live_guide_is_a_queue_of_views_first_in_first_out_where_no_row_is_its_own_neighbour(length, batches, seed):
    captions = random_bank(12, 5, 1)
    guide, slow, encoder = LiveTeacher(PixelEncoder(), captions, length), SlowQueue(captions, length), PixelEncoder()
    for number, rows in enumerate(batches):
        views = pictures(len(rows), seed + number)
        u, kept = encoder(views), guide.rows.tolist()
        told = slow(rows, u.tolist())
        if told is None:
            with pytest.raises(LclError, match="there is no neighbour"):
                guide(torch.tensor(rows), views)
            assert guide.rows.tolist() == kept
            continue
        near = guide(torch.tensor(rows), views)
        for place, ((_, u_a, z_a), nearest) in enumerate(told):
            assert (near.u_a[place].tolist(), near.z_a[place].tolist()) == (u_a, z_a)
            assert (near.u_b[place].tolist(), near.z_b[place].tolist()) in [(entry[1], entry[2]) for entry in nearest]
        assert len(guide.rows) == len(guide.u) == len(guide.z) <= length
        assert guide.rows.tolist() == [entry[0] for entry in slow.queue]
        assert guide.u.tolist() == [entry[1] for entry in slow.queue]


def test_a_live_guide_looks_at_the_very_views_and_says_the_same_to_the_same():
    captions = random_bank(30, 5, 1)

    def told(seed: int) -> list[NeighbourFeatures]:
        guide = LiveTeacher(PixelEncoder(), captions, 12)
        steps = torch.arange(30).split(6)
        return [guide(rows, pictures(6, seed + number)) for number, rows in enumerate(steps)]

    first, again, other = (torch.cat([near.u_a for near in told(seed)]) for seed in (0, 0, 100))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_live_guide_with_room_for_all_finds_the_neighbours_that_a_guide_finds(small_world, small_banks):
    images, captions = small_banks
    pairs, live = small_world.pairs("train", range(256)), LiveTeacher(PixelEncoder(), captions)
    guide = guide_of(images, captions)
    near, wanted = live(torch.arange(256), pairs.images), guide(torch.arange(256), pairs.images)
    for found, right in ((near.u_a, wanted.u_a), (near.z_b, wanted.z_b)):
        own = (images if found.shape[1] == 24 else captions)[:]
        torch.testing.assert_close((own * found).sum(1), (own * right).sum(1), rtol=0, atol=2e-3)


def test_a_batch_that_is_one_row_over_and_over_is_refused_and_a_queue_without_room_too():
    captions = random_bank(12, 5, 1)
    guide = LiveTeacher(PixelEncoder(), captions, 4)
    for rows in ([3, 3, 3], [3]):
        with pytest.raises(LclError, match="same one; there is no neighbour"):
            guide(torch.tensor(rows), pictures(len(rows), 0))
    guide(torch.tensor([3, 5]), pictures(2, 0))
    guide(torch.tensor([3, 3]), pictures(2, 1))  # now it knows somebody else
    with pytest.raises(LclError, match="1 row or more, not 0"):
        LiveTeacher(PixelEncoder(), captions, 0)


@pytest.mark.gpu
@pytest.mark.parametrize("live", [False, True])
def test_teachers_answer_pictures_on_a_gpu_there(small_banks, live):
    images, captions = small_banks
    teacher = LiveTeacher(PixelEncoder(), captions) if live else guide_of(images, captions)
    near = teacher(torch.arange(4), pictures(4, 0).cuda())
    assert {x.device.type for x in near} == {"cuda"}
    here = LiveTeacher(PixelEncoder(), captions) if live else teacher
    for there, wanted in zip(near, here(torch.arange(4), pictures(4, 0)), strict=True):
        torch.testing.assert_close(there.cpu(), wanted)
