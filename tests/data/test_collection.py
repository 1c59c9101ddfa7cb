"""Shards as a data set: nothing set aside is trained on, and what cannot be read is replaced, counted, and in the end said."""

import copy
import dataclasses
import errno
import io
import itertools
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from test_shards import samples

from lcl.config import LclError, TrainConfig, get_profile
from lcl.data import collection, shards
from lcl.data.collection import ShardDataset, open_dataset
from lcl.data.photos import decode_image
from lcl.data.scenes import SceneDataset
from lcl.data.shards import open_shards
from lcl.data.writing import Sample, scene_samples, write_shards
from lcl.eval.metrics import evaluate
from lcl.models.tokenizer import Tokenizer
from lcl.train import loader
from lcl.train.checkpoints import resume, save_checkpoint
from lcl.train.distributed import Ranks
from lcl.train.loader import batches
from lcl.train.loop import Step, Training, Validation

SIZE, COUNT = 32, 200


def picture(number: int) -> bytes:
    file = io.BytesIO()
    colour = tuple(int(x) for x in np.random.default_rng(number).integers(0, 256, 3))
    Image.new("RGB", (SIZE, SIZE), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "pairs"
    made = (Sample(f"{number:06d}", picture(number), "png", (f"number {number} of many",)) for number in range(COUNT))
    write_shards(folder, made, {"made of": "colours"}, rows=20)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """Two hundred pairs, each of a colour of its own, in ten tars, which a test may damage."""
    return shutil.copytree(written, tmp_path / "pairs")


@pytest.fixture
def pairs(folder):
    return ShardDataset(open_shards(folder), SIZE)


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return Tokenizer.train([f"number {number} of many" for number in range(COUNT)], 300, "x")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def break_tar(folder, number: int) -> None:
    """A tar goes to pieces after it was looked at: as long as before, but every byte is another."""
    path = sorted(folder.glob("*.tar"))[number]
    path.write_bytes(bytes(255 - byte for byte in path.read_bytes()))


def number_of(caption: str) -> int:
    return int(caption.split()[1])


def read(pairs, tokenizer, config=None, **options) -> list[tuple[list[int], torch.Tensor, list, int]]:
    config = config or TrainConfig(pairs=len(pairs), epochs=2, batch_size=16)
    made = batches(pairs, tokenizer, config, 48, 0, "cpu", **options)
    return [(batch.indices.tolist(), batch.images, batch.tokens.ids.tolist(), batch.replaced) for batch in made]


def equal(one, other) -> bool:
    return len(one) == len(other) and all(
        a[0] == b[0] and torch.equal(a[1], b[1]) and a[2] == b[2] for a, b in zip(one, other, strict=True)
    )


def test_pairs_are_divided_and_none_is_in_two_parts(pairs):
    parts = [pairs.train(len(pairs)), pairs.validation(10_000), pairs.test(10_000)]
    numbers = [{number_of(caption) for caption in rows.captions(range(len(rows)))} for rows in parts]
    assert [len(part) for part in numbers] == [185, 5, 10]
    assert set.union(*numbers) == set(range(COUNT))


def test_the_division_is_always_the_same_and_a_part_of_the_training_is_drawn_evenly(folder, pairs):
    again = ShardDataset(open_shards(folder), SIZE)
    for part in ("train", "validation", "test"):
        one, other = (getattr(whose, part)(5) for whose in (pairs, again))
        assert one.captions(range(5)) == other.captions(range(5)) and one.description == other.description
    rows = torch.randperm(COUNT, generator=seeded()).tolist()  # or saved runs would lose their splits
    for part, numbers in ((pairs.test(20), rows[:10]), (pairs.validation(20), rows[10:15])):
        assert [number_of(caption) for caption in part.captions(range(len(part)))] == numbers
    some = [number_of(caption) for caption in pairs.train(60).captions(range(60))]
    assert some == sorted(some) and some[0] < 20 and some[-1] > 180  # in order of the tars, and out of all of them
    assert set(some) < {number_of(caption) for caption in pairs.train(185).captions(range(185))}


def colours(folder, numbers):
    made = (Sample(f"{number:06d}", picture(number), "png", (f"number {number} of many",)) for number in numbers)
    write_shards(folder, made, {}, rows=20)
    return open_shards(folder)


def test_a_transfer_leaves_out_pictures_that_were_trained_on(tmp_path):
    """Which others are taken, if there are too many, is always the same."""
    trained, other = colours(tmp_path / "trained", range(90)), colours(tmp_path / "other", range(70, 130))
    for count in (100, 15):
        view, left_out = collection.transfer_view(other, SIZE, count, trained)
        found = [number_of(caption) for caption in view.captions(range(len(view)))]
        assert left_out == 20 and len(set(found)) == len(view) == min(count, 40) and set(found) <= set(range(90, 130))
        assert found == [number for number in (torch.randperm(60, generator=seeded()) + 70).tolist() if number >= 90][:count]
    view, left_out = collection.transfer_view(other, SIZE, 100)
    assert (len(view), left_out) == (60, 0)
    with pytest.raises(LclError, match="was trained on every picture in .*other; name another data set"):
        collection.transfer_view(other, SIZE, 100, other)


def test_with_shards_of_their_own_for_both_other_splits_all_pairs_are_trained_on(tmp_path):
    ours, one, two = (colours(tmp_path / str(n), range(start, n)) for n, start in ((90, 0), (120, 95), (140, 120)))
    dataset = ShardDataset(ours, SIZE, validation=one, test=two)
    assert len(dataset) == len(ours) == 90 and dataset.left_out == 0
    for rows, numbers in ((dataset.validation(999), range(95, 120)), (dataset.test(999), range(120, 140))):
        assert sorted(map(number_of, rows.captions(range(len(rows))))) == list(numbers)
    assert len(dataset.validation(7)) == len(dataset.test(7)) == 7
    prints = {dataset.fingerprint, ShardDataset(ours, SIZE, one).fingerprint, ShardDataset(ours, SIZE, None, one).fingerprint}
    assert ShardDataset(ours, SIZE).fingerprint == ours.fingerprint and len(prints | {ours.fingerprint}) == 4


def test_a_row_is_its_picture_and_its_caption(pairs):
    rows = pairs.train(50)
    taken = rows.take([3, 40, 3])
    assert taken.rows == [3, 40, 3] and taken.faults == {} and taken.captions == rows.captions([3, 40, 3])
    for image, caption in zip(taken.images, taken.captions, strict=True):
        assert torch.equal(image, decode_image(picture(number_of(caption)), SIZE))


def test_many_rows_are_read_by_several_threads_to_the_same_result(folder, monkeypatch):
    rows = ShardDataset(open_shards(folder), SIZE).train(150)
    wanted = [row % 150 for row in range(0, 7 * 600, 7)]
    taken = rows.take(wanted)
    assert taken.captions == [rows.captions([row])[0] for row in wanted] and taken.rows == wanted
    assert torch.equal(taken.images[599], rows.take([wanted[599]]).images[0])


@pytest.mark.parametrize(("count", "reason"), [(186, "have 185 training pairs, not 186"), (10**9, "ask for fewer")])
def test_more_pairs_than_there_are_are_refused(pairs, count, reason):
    with pytest.raises(LclError, match=reason):
        pairs.train(count)


def test_a_handful_of_pairs_is_refused(tmp_path):
    write_shards(tmp_path, samples(79), {})
    with pytest.raises(LclError, match="79 pairs .* show 8 distinct pictures, too few to learn from; there must be 80 or more"):
        ShardDataset(open_shards(tmp_path), 64)


def test_scenes_and_shards_are_opened_by_the_same_words(folder, tmp_path):
    profile = get_profile("smoke")
    assert isinstance(open_dataset(profile, shards=folder), ShardDataset)
    assert isinstance(open_dataset(profile), SceneDataset)
    with pytest.raises(LclError, match="shards bring their own pictures"):
        open_dataset(profile, tmp_path, folder)


# --- what cannot be read any more


def test_a_row_that_cannot_be_read_is_replaced_by_the_same_one_each_time_and_counted(folder, pairs):
    rows = pairs.train(len(pairs))
    whole = rows.take(range(len(rows)))
    break_tar(folder, 4)
    rows = ShardDataset(open_shards(folder), SIZE).train(len(pairs))
    taken, again = (rows.take(range(len(rows))) for _ in range(2))
    lost = [row for row, caption in enumerate(whole.captions) if 80 <= number_of(caption) < 100]
    assert [row for row, used in enumerate(taken.rows) if used != row] == lost
    assert sum(taken.faults.values()) == len(lost) and taken.rows == again.rows
    assert taken.captions == [whole.captions[used] for used in taken.rows]  # a row says whose picture and caption it has
    assert torch.equal(taken.images, whole.images[taken.rows])
    assert rows.captions(range(len(rows))) == taken.captions


@pytest.mark.parametrize("count", range(1, 20))
def test_every_other_row_is_tried_in_a_rows_place(pairs, count):
    rows = pairs.train(count)
    tried, place = set(), 0
    for _ in range(count):
        tried.add(place)
        place = (place + rows._stride) % count
    assert tried == set(range(count))


def test_a_disk_that_fails_costs_rows_and_too_many_open_files_are_said_as_such(pairs, monkeypatch):
    rows, read = pairs.train(50), shards.read_row

    def failing(number):
        def fail(file, place, size):
            if file.name.endswith("00003.tar"):
                raise OSError(number, "no")
            return read(file, place, size)

        return fail

    monkeypatch.setattr(shards, "read_row", failing(errno.EIO))
    assert list(rows.take(range(50)).faults) == ["tar: not readable"]
    monkeypatch.setattr(shards, "read_row", failing(errno.EMFILE))
    with pytest.raises(LclError, match="too many files open"):
        rows.take(range(50))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not limit open files so")
@pytest.mark.slow
def test_readers_of_many_tars_keep_few_files_open(tmp_path):
    """More tars than a system lets a process open at once; in a process of its own, which is limited to 200."""
    made = (Sample(f"{number:06d}", picture(number), "png", (f"number {number} of many",)) for number in range(1200))
    write_shards(tmp_path, made, {}, rows=4)
    code = f"""
import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
from pathlib import Path
from lcl.data.collection import ShardDataset
from lcl.data.shards import open_shards
rows = ShardDataset(open_shards(Path({str(tmp_path)!r}), workers=0), {SIZE}).train(1000)
taken = rows.take([row * 7 % 1000 for row in range(2000)])
print(taken.faults, taken.rows == [row * 7 % 1000 for row in range(2000)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "{} True", done.stderr


def test_pairs_that_cannot_be_read_any_more_are_not_evaluated_on(scene_pairs, caplog):
    made = Training(short(), scene_pairs, device="cpu")
    rows = scene_pairs.test(100)
    lost = int(rows.numbers[3])
    broken = copy.copy(scene_pairs.shards)
    broken.index = broken.index | {"places": broken.index["places"].clone()}
    broken.index["places"][lost, 1] = 3  # so many bytes are no picture
    figures = evaluate(made.model, made.tokenizer, ShardDataset(broken, 64), made.profile.evaluation)["held_out"]
    assert figures["image_to_text_recall@1"]["chance"] == 1 / 14
    assert "1 of 15 pairs to evaluate on cannot be read any more" in caplog.text


def test_where_nothing_can_be_read_it_stops_and_never_hangs(folder, words, monkeypatch):
    opened = open_shards(folder)
    for tar in folder.glob("*.tar"):
        tar.unlink()
    for workers in (0, 2):
        with pytest.raises(LclError, match=r"cannot be read any more \(tar: missing\), nor can 63 others"):
            read(ShardDataset(opened, SIZE), words, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_above_a_share_of_bad_rows_a_training_stops_and_says_why_and_below_it_goes_on(folder, pairs, words, monkeypatch, workers):
    monkeypatch.setattr(loader, "MIN_ROWS", 16)
    monkeypatch.setattr(loader, "MAX_BAD", 0.2)
    break_tar(folder, 4)
    seen = read(pairs, words, workers=workers)
    assert len(seen) == 22 and 10 < seen[-1][3] <= 20 * 2
    for number in (5, 7, 8):
        break_tar(folder, number)
    with pytest.raises(LclError, match=r"\d+ of \d+ rows could not be read, more than 20% \(.* \d+×.*\)"):
        read(pairs, words, workers=workers)


# --- reading by processes of their own


def test_workers_read_what_one_reads_alone_from_any_step_on(pairs, words):
    alone = read(pairs, words)
    assert len(alone) == 22
    for workers, first in ((1, 0), (2, 0), (2, 7), (2, 21), (2, 22)):
        assert equal(read(pairs, words, workers=workers, first=first), alone[first:])


def test_forked_workers_do_not_read_from_one_open_file(pairs, words):
    """They would move each other's place in it; before this was so, one batch in some twenty had a wrong row."""
    config, rows = TrainConfig(pairs=len(pairs), epochs=10, batch_size=16), pairs.train(len(pairs))
    rows.take(range(len(rows)))  # opens the tars here
    for batch in batches(pairs, words, config, 48, 0, "cpu", workers=2):
        assert batch.replaced == 0 and torch.equal(batch.images, rows.take(batch.indices.tolist()).images)


def test_workers_of_several_processes_share_every_batch_out(pairs, words):
    whole = read(pairs, words, workers=1)
    halves = [read(pairs, words, workers=1, ranks=Ranks(rank, 2)) for rank in range(2)]
    for one, *parts in zip(whole, *halves, strict=True):
        assert one[0] == [row for part in parts for row in part[0]]
        assert torch.equal(one[1], torch.cat([part[1] for part in parts]))


def test_chunks_shuffle_within_themselves_and_are_read_alike(pairs, words, monkeypatch):
    monkeypatch.setattr(loader, "CHUNK", 48)
    alone, workers = read(pairs, words, workers=0), read(pairs, words, workers=2)
    assert equal(alone, workers)
    epoch = [set(row // 48 for row in indices) for indices, *_ in alone[:11]]
    assert all(len(chunks) == 1 for chunks in epoch) and len(set.union(*epoch)) == 4
    assert len({row for indices, *_ in alone[:11] for row in indices}) == 11 * 16


def test_what_a_worker_reads_with_may_be_sent_to_it(pairs, words):
    """As systems do that start workers anew, instead of forking."""
    reading = loader._WorkerDataset(pairs.train(20), words, 48, 0)
    pairs.train(20).take(range(20))  # files are open
    sent = pickle.loads(pickle.dumps(reading))
    (images, tokens, numbers, _), (again, other, same, _) = reading[0, [3, 1]], sent[0, [3, 1]]
    assert torch.equal(images, again) and torch.equal(tokens.ids, other.ids) and torch.equal(numbers, same)


def test_a_mistake_in_a_worker_is_told_with_its_traceback_and_not_tried_again(pairs, words, monkeypatch, caplog):
    monkeypatch.setattr(collection.ShardView, "take", lambda *_: [][0])
    with pytest.raises(RuntimeError, match="(?s)in a data loader worker:.*IndexError: list index out of range"):
        read(pairs, words, workers=2)
    assert "restarting at step" not in caplog.text


def test_reading_by_workers_takes_nothing_from_what_is_random_in_the_training(pairs, words):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    read(pairs, words, workers=2)
    assert torch.equal(torch.get_rng_state(), before)


def kill_readers(most: int) -> int:
    """Kill -9 processes that read for this one; by the end they are dead, and the system has told this one so."""
    readers = multiprocessing.active_children()[:most]
    for reader in readers:
        reader.kill()
    for reader in readers:
        reader.join()
    return len(readers)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_worker_that_is_killed_is_started_again_where_it_was(pairs, words, caplog, monkeypatch):
    """Here they die while this process is busy with what they gave it, as a step of training would be: that goes on."""
    monkeypatch.setattr(loader, "POLL_SECONDS", 1)
    config = TrainConfig(pairs=len(pairs), epochs=4, batch_size=16)
    whole, seen, kills = read(pairs, words, config), [], 0
    for batch in batches(pairs, words, config, 48, 0, "cpu", workers=2):
        seen.append((batch.indices.tolist(), batch.images, batch.tokens.ids.tolist(), 0))
        if len(seen) in (5, 30):
            kills += kill_readers(2 if len(seen) == 5 else 1)  # the other one lives, and must not be waited for
    assert kills == 3 and equal(seen, whole)
    assert "a data loader worker died" in caplog.text and "restarting at step" in caplog.text


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.slow
def test_workers_that_die_again_and_again_stop_the_training(pairs, words, monkeypatch):
    monkeypatch.setattr(collection.ShardView, "take", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(LclError, match="the data loader's workers died 4 times"):
        read(pairs, words, workers=1)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.slow
def test_a_worker_that_hangs_is_taken_for_dead(pairs, words, monkeypatch):
    monkeypatch.setattr(loader, "STALL_SECONDS", 3)
    monkeypatch.setattr(loader, "POLL_SECONDS", 1)
    monkeypatch.setattr(loader, "RESTARTS", 0)
    monkeypatch.setattr(collection.ShardView, "take", lambda *_: signal.pause())
    with pytest.raises(LclError, match="died 1 times .nothing was read for 3 seconds"):
        read(pairs, words, workers=1)


# --- trained on


@pytest.fixture(scope="module")
def scene_pairs(tmp_path_factory, small_world):
    """Scenes as shards, as many as a very short training needs."""
    folder = tmp_path_factory.mktemp("scenes")
    write_shards(folder, scene_samples(small_world, range(300)), {}, rows=50)
    return ShardDataset(open_shards(folder), 64)


def short(**changes):
    smoke = get_profile("smoke")
    training = dataclasses.replace(smoke.training, pairs=256, epochs=2, batch_size=32, evaluate_every=8, **changes)
    return dataclasses.replace(smoke, training=training)


def test_a_training_on_shards_learns_is_watched_and_measured_and_workers_change_nothing(scene_pairs):
    alone, read_ahead = (Training(short(), scene_pairs, device="cpu", workers=workers) for workers in (0, 2))
    one, other = list(alone), list(read_ahead)
    assert [event.loss for event in one] == [event.loss for event in other]
    steps, looks = ([event for event in one if isinstance(event, kind)] for kind in (Step, Validation))
    assert len(steps) == 16 and len(looks) == 2 and steps[-1].loss < steps[0].loss
    assert all(0 <= step.waited < 1 and step.memory > 0.05 and step.replaced == 0 for step in steps)
    figures = evaluate(alone.model, alone.tokenizer, scene_pairs, alone.profile.evaluation)
    assert list(figures) == ["held_out"]
    assert figures["held_out"]["image_to_text_recall@1"]["chance"] == 1 / 15
    assert set(figures["held_out"]) == {
        f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)
    }


def test_a_training_on_shards_that_was_stopped_goes_on_bit_for_bit_whoever_reads(scene_pairs, tmp_path):
    unbroken = [event for event in Training(short(), scene_pairs, device="cpu", workers=2) if isinstance(event, Step)]
    stopped = Training(short(), scene_pairs, device="cpu", workers=2)
    before = list(itertools.islice((event for event in stopped if isinstance(event, Step)), 5))  # within an epoch
    save_checkpoint(tmp_path, stopped)
    again = Training(short(), scene_pairs, device="cpu", workers=0)
    assert resume(tmp_path, again) == 5
    after = [event for event in again if isinstance(event, Step)]
    assert [event.losses for event in (*before, *after)] == [event.losses for event in unbroken]


def test_pictures_of_another_size_than_the_model_sees_are_refused(scene_pairs):
    other = ShardDataset(scene_pairs.shards, 128)
    with pytest.raises(LclError, match="the model takes 64 pixels a side, the data set has 128"):
        Training(short(), other, device="cpu")
