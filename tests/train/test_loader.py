"""The order of a training: every pair once, the same from any step on, and shared out among processes without a rest."""

import pytest
import torch

from lcl.config import LclError, TrainConfig
from lcl.data.base import Samples
from lcl.data.scenes import SceneView
from lcl.models.tokenizer import Tokenizer
from lcl.train import loader
from lcl.train.distributed import Ranks
from lcl.train.loader import batches


def drawn(world, tokenizer, seed=0, ranks=None, first=0, **changes):
    """The indices of every batch, in the order of training."""
    config = TrainConfig(**changes)
    return [batch.indices.tolist() for batch in batches(world, tokenizer, config, 48, seed, "cpu", ranks, first)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA", str(tmp_path))  # plans go there


def joined(lists):
    return [index for one in lists for index in one]


def test_a_batch_holds_the_pictures_and_captions_of_its_indices(few_world, tokenizer):
    config = TrainConfig(pairs=24, epochs=1, batch_size=8)
    for batch in batches(few_world, tokenizer, config, 48, 0, "cpu"):
        pairs = few_world.pairs("train", batch.indices.tolist())
        assert torch.equal(batch.images, pairs.images)
        assert torch.equal(batch.tokens.ids, tokenizer.encode(pairs.captions, 48).ids)


@pytest.mark.parametrize("chunk", [10_000, 32, 40])
@pytest.mark.parametrize("pairs", [96, 100])
def test_every_epoch_shows_each_pair_at_most_once_in_as_many_steps_as_planned(
    few_world, tokenizer, monkeypatch, chunk, pairs
):
    monkeypatch.setattr(loader, "CHUNK", chunk)
    changes = {"pairs": pairs, "epochs": 2, "batch_size": 16}
    seen = drawn(few_world, tokenizer, **changes)
    assert [len(batch) for batch in seen] == [16] * len(seen)
    assert len(seen) == TrainConfig(**changes).steps == 12
    for epoch in (joined(seen[:6]), joined(seen[6:])):
        assert len(set(epoch)) == 96 and set(epoch) <= set(range(pairs))


def test_chunks_that_batches_fill_show_what_one_piece_shows(few_world, tokenizer, monkeypatch):
    whole = joined(drawn(few_world, tokenizer, pairs=96, epochs=1, batch_size=16))
    monkeypatch.setattr(loader, "CHUNK", 32)
    chunked = joined(drawn(few_world, tokenizer, pairs=96, epochs=1, batch_size=16))
    assert sorted(chunked) == sorted(whole) == list(range(96))
    assert [sorted({index // 32 for index in chunked[start : start + 32]}) for start in (0, 32, 64)] != [[0], [1], [2]]
    assert all(len({index // 32 for index in chunked[start : start + 32]}) == 1 for start in (0, 32, 64))


def test_the_order_is_a_function_of_seed_and_epoch_alone(few_world, tokenizer):
    common = {"pairs": 64, "batch_size": 16}
    three = drawn(few_world, tokenizer, **common, epochs=3)
    assert three[:4] == drawn(few_world, tokenizer, **common, epochs=1)
    torch.rand(5)
    assert three == drawn(few_world, tokenizer, **common, epochs=3)
    assert joined(three) == joined(drawn(few_world, tokenizer, pairs=64, batch_size=8, epochs=3))
    first, second, third = three[:4], three[4:8], three[8:]
    assert first != second != third != first
    assert first != drawn(few_world, tokenizer, **common, epochs=1, seed=1)


@pytest.mark.parametrize("chunk", [10_000, 32])
def test_from_any_step_on_the_batches_are_those_that_were_still_to_come(few_world, tokenizer, monkeypatch, chunk):
    monkeypatch.setattr(loader, "CHUNK", chunk)
    changes = {"pairs": 70, "epochs": 2, "batch_size": 16}
    whole = drawn(few_world, tokenizer, **changes)
    for first in range(len(whole) + 1):
        assert drawn(few_world, tokenizer, first=first, **changes) == whole[first:]


@pytest.mark.parametrize("chunk", [10_000, 32])
@pytest.mark.parametrize("size", [2, 4])
def test_processes_share_every_batch_out_among_them(few_world, tokenizer, monkeypatch, chunk, size):
    monkeypatch.setattr(loader, "CHUNK", chunk)
    config = TrainConfig(pairs=70, epochs=2, batch_size=16)
    group = [Ranks(rank, size) for rank in range(size)]
    shares = [list(batches(few_world, tokenizer, config, 48, 0, "cpu", ranks, 1)) for ranks in group]
    for whole, *parts in zip(batches(few_world, tokenizer, config, 48, 0, "cpu", first=1), *shares, strict=True):
        assert torch.equal(torch.cat([part.indices for part in parts]), whole.indices)
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        for part, rows in zip(parts, range(0, 16, 16 // size), strict=True):
            length = min(part.tokens.ids.shape[1], whole.tokens.ids.shape[1])  # the rest is padding
            assert torch.equal(part.tokens.ids[:, :length], whole.tokens.ids[rows : rows + 16 // size, :length])


class TwoCaptions(SceneView):
    """Scenes with two captions each, as shards may have."""

    from_files = True  # not that a data set of one chunk is worth workers

    def take(self, rows, device="cpu"):
        taken = super().take(rows, device)
        return Samples(taken.images, [(caption, f"again, {caption}") for caption in taken.captions], taken.rows)


@pytest.fixture
def calls(monkeypatch):
    """How often images were drawn, and captions encoded."""
    counts = {"take": 0, "encode": 0}

    def counting(name, real):
        def counted(*arguments):
            counts[name] += 1
            return real(*arguments)

        return counted

    monkeypatch.setattr(SceneView, "take", counting("take", SceneView.take))
    monkeypatch.setattr(Tokenizer, "encode", counting("encode", Tokenizer.encode))
    return counts


@pytest.mark.parametrize(("chunk", "takes"), [(33, 1), (32, 1), (31, 6), (16, 6)])
def test_what_fits_is_drawn_and_encoded_once_and_a_chunk_once_an_epoch(
    few_world, tokenizer, monkeypatch, calls, chunk, takes
):
    monkeypatch.setattr(loader, "CHUNK", chunk)
    monkeypatch.setattr(loader, "SceneView", type(None))  # as data sets of others are read: chunk by chunk
    drawn(few_world, tokenizer, pairs=32, epochs=3, batch_size=16)
    assert calls == {"take": takes, "encode": takes}


def test_of_two_captions_each_has_its_turn_and_only_captions_are_encoded_anew(few_world, tokenizer, monkeypatch, calls):
    monkeypatch.setattr(type(few_world), "train", lambda self, count: TwoCaptions(self, count))
    config = TrainConfig(pairs=32, epochs=2, batch_size=16)
    seen = {}
    for batch in batches(few_world, tokenizer, config, 48, 0, "cpu"):
        for row, ids in zip(batch.indices.tolist(), batch.tokens.ids.tolist(), strict=True):
            seen.setdefault(row, []).append(ids[:12])
    assert sorted(seen) == list(range(32)) and all(first != second for first, second in seen.values())
    assert len({first[1] for first, _ in seen.values()}) > 1  # they do not begin alike
    assert calls == {"take": 1, "encode": 2}


def test_without_torchrun_all_processors_are_those_of_this_process(monkeypatch):
    monkeypatch.setattr(loader, "processors", lambda: 6)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert loader._processors() == 6


@pytest.mark.parametrize(("rows", "allowed"), [(1000, 50), (10, 50), (2000, 100)])  # before 1,000 rows, 5 % of 1,000
def test_exactly_five_percent_of_unreadable_rows_are_allowed_and_no_more(rows, allowed):
    count = loader._Count(1000)
    assert count.add(rows, {"image: missing": allowed}) == allowed
    with pytest.raises(LclError, match=f"{allowed + 1} of .* rows could not be read"):
        count.add(0, {"image: missing": 1})
