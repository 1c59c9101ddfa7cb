"""Which pairs are the same: keys of captions, hashes of pictures, groups; and no picture lies on two sides of a split."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from lcl.config import LclError, get_profile
from lcl.data.base import draw
from lcl.data.collection import ShardDataset, open_dataset
from lcl.data.duplicates import caption_key, distinct, group_rows, near_duplicates, perceptual_hash, pixel_hash
from lcl.data.manifest import group_near_duplicates
from lcl.data.photos import decode_image
from lcl.data.shards import open_shards, scan_shards
from lcl.data.writing import Sample, write_shards


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A red cat.", "a red  cat"), ("café", "cafe\u0301"), ("ＡＢＣ", "abc"), ("Straße", "STRASSE"), ("a cat\t", "A CAT ."),
        ("一只猫。", "一只猫"), ("ﬁne", "fine"),
    ],
)  # fmt: skip
def test_captions_that_say_the_same_have_one_key(one, other):
    assert caption_key(one) == caption_key(other) != caption_key(other + " indeed")


@given(st.text())
def test_a_key_is_its_own_key(text):
    assert caption_key(caption_key(text)) == caption_key(text) == caption_key(f" {text} ")


def picture(seed: int, side: int = 96, lines: int = 14) -> Image.Image:
    """A drawing of its own, with outlines of several sizes."""
    numbers = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), tuple(numbers.integers(0, 255, 3).tolist()))
    canvas = ImageDraw.Draw(image)
    for _ in range(lines):
        left, top, width, height = (numbers.random(4) * side).tolist()
        canvas.rectangle((left, top, left + width / 2, top + height / 2), tuple(numbers.integers(0, 255, 3).tolist()))
    return image


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def look(data: bytes) -> int:
    return perceptual_hash(decode_image(data, 64))


def bits(one: int, other: int) -> int:
    return bin((one ^ other) & (2**64 - 1)).count("1")


def test_a_picture_that_is_saved_again_or_resized_looks_the_same_and_others_do_not():
    pictures = [picture(seed, 256) for seed in range(40)]
    hashes = [look(saved(image)) for image in pictures]
    again = [look(saved(image.resize((200, 200)), "JPEG", quality=60)) for image in pictures]
    assert sum(bits(a, b) <= 3 for a, b in zip(hashes, again, strict=True)) >= 36
    assert min(bits(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 6
    assert look(saved(Image.new("RGB", (64, 64), "red"))) == 0  # nothing to compare


BITS = st.integers(0, 63)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30), st.lists(st.tuples(BITS, BITS), max_size=9))
def test_near_duplicates_are_those_of_a_slow_loop(values, flips):
    for first, second in flips:  # some that differ in few bits
        if values:
            other = (values[first % len(values)] & (2**64 - 1)) ^ 1 << first ^ 1 << second
            values.append(other - 2**64 if other >= 2**63 else other)
    slow = {(a, b) for a in values for b in values if a < b and a and b and bits(a, b) <= 3}
    assert set(map(tuple, near_duplicates(torch.tensor(values, dtype=torch.int64)).tolist())) == slow


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=25))
def test_rows_are_grouped_as_a_slow_loop_groups_them(keys):
    groups = list(range(len(keys)))
    for _ in keys:  # as often as a chain may be long
        for i, one in enumerate(keys):
            for j, other in enumerate(keys):
                if any(a == b != 0 for a, b in zip(one, other, strict=True)):
                    groups[i] = groups[j] = min(groups[i], groups[j])
    found = group_rows([torch.tensor(column) for column in zip(*keys, strict=True)]).tolist()
    assert distinct(found)[1] == distinct(groups)[1] and set(found) == set(range(len(set(groups))))


@given(st.lists(st.one_of(st.integers(0, 4), st.text("ab", max_size=2))))
def test_every_key_is_numbered_by_the_first_that_equals_it(keys):
    firsts, which = distinct(iter(keys))
    assert firsts == [place for place, key in enumerate(keys) if key not in keys[:place]]
    assert [keys[firsts[number]] for number in which] == keys


def test_linked_keys_count_as_equal():
    found = group_rows([torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 8])], torch.tensor([[6, 8]]))
    assert found[1] == found[3] and len(set(found.tolist())) == 3


def sides(dataset: ShardDataset) -> dict[str, set[int]]:
    """The hashes of the pictures of every side, as a training and an evaluation read them."""
    views = {"train": dataset.train(len(dataset)), "validation": dataset.validation(9999), "test": dataset.test(9999)}
    return {name: {pixel_hash(image) for image in view.take(range(len(view))).images} for name, view in views.items()}


@pytest.mark.parametrize("several", [1, 5])
@pytest.mark.parametrize("copies", [0, 1, 40])
def test_no_picture_of_the_test_side_is_trained_on(tmp_path, several, copies):
    """With several captions a picture, with copies under other names, and with equal tars."""
    files = [saved(picture(seed, 32)) for seed in range(120)]
    captions = [tuple(f"picture {number}, view {view}" for view in range(several)) for number in range(120)]
    rows = [Sample(f"{n:04d}", files[n], "png", captions[n], {"image": f"{n}.png"}) for n in range(120)]
    rows += [Sample(f"{900 + n:04d}", files[n], "png", ("a copy",), {"image": f"copy{n}.png"}) for n in range(copies)]
    write_shards(tmp_path, iter(rows), {})
    (tmp_path / "pairs-00001.tar").write_bytes((tmp_path / "pairs-00000.tar").read_bytes())  # the same tar twice
    scan_shards(tmp_path, workers=0, accept=True)
    dataset = ShardDataset(open_shards(tmp_path, workers=0), 32)
    found = sides(dataset)
    assert len(found["test"]) >= 2 and len(found["validation"]) >= 1
    assert len(set.union(*found.values())) == 120 == sum(map(len, found.values()))


@given(data=st.data())
def test_any_grouping_is_split_without_dividing_a_group(data):
    from lcl.data.collection import TEST, TRAIN, VALIDATION, _sides

    groups = torch.tensor(data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=200)))
    groups = torch.unique(groups, return_inverse=True)[1]
    room = data.draw(st.tuples(st.integers(0, 40), st.integers(0, 20)))
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    side = _sides(groups, order, list(room))
    assert all(len(set(side[groups == group].tolist())) == 1 for group in groups.unique())
    held_out = [groups[side == which].unique() for which in (TEST, VALIDATION)]
    assert len(held_out[0]) <= room[0] and len(held_out[1]) <= room[1]
    assert all(groups.bincount()[number] <= max(room) for number in torch.cat(held_out))
    if groups.bincount().max() == 1:  # without copies the first of the order, as before
        wanted = torch.full((len(groups),), TRAIN)
        wanted[order[: room[0]]], wanted[order[room[0] : sum(room)]] = TEST, 1
        assert torch.equal(side, wanted)


def test_a_picture_that_is_there_a_thousand_times_leaves_the_others_to_learn_from(tmp_path):
    """As the web's "image not available": it is trained on, and is not what is held out."""
    file = saved(Image.new("RGB", (32, 32), "grey"))
    rows = [Sample(f"{n:04d}", saved(picture(n, 32)), "png", (f"picture {n}",)) for n in range(100)]
    rows += [Sample(f"{n:04d}", file, "png", ("not available",)) for n in range(1000, 2000)]
    write_shards(tmp_path, iter(rows), {})
    dataset = ShardDataset(open_shards(tmp_path, workers=0), 32)
    found = sides(dataset)
    assert len(found["test"]) == 5 and len(found["validation"]) == 2 and len(found["train"]) == 101 - 7


def test_with_copies_the_division_is_part_of_the_data_sets_name(tmp_path):
    """Before copies were kept on one side they were divided otherwise: a run of that time was of another data set."""
    plain, copied = write(tmp_path / "plain", range(100)), write(tmp_path / "copied", [*range(100), *range(900, 901)])
    rows = (Sample(f"{n:04d}", saved(picture(n % 100, 32)), "png", (f"picture {n}",)) for n in range(101))
    write_shards(tmp_path / "twice", rows, {})
    for folder, same in ((plain, True), (copied, True), (tmp_path / "twice", False)):
        shards = open_shards(folder, workers=0)
        assert (ShardDataset(shards, 32).fingerprint == shards.fingerprint) == same


def write(folder, numbers, side: int = 32, **options):
    rows = (Sample(f"{n:04d}", saved(picture(n, side), **options), "png", (f"picture {n}",)) for n in numbers)
    write_shards(folder, rows, {})
    return folder


def test_shards_of_their_own_for_validation_and_test_are_never_trained_on(tmp_path):
    train, other = write(tmp_path / "train", range(120)), write(tmp_path / "test", range(110, 200))
    smoke = get_profile("smoke")
    dataset = open_dataset(smoke, shards=train, test=other)
    assert dataset.left_out == 10 and len(dataset) == 110 - 3 and len(dataset.test(9999)) == 90
    found = sides(dataset)
    assert not found["train"] & found["test"] and len(found["test"]) == 90
    both = open_dataset(smoke, shards=train, validation=other, test=other)
    assert len(both) == 110 and sides(both)["validation"] == sides(both)["test"] == found["test"]
    assert len({each.fingerprint for each in (dataset, both, open_dataset(smoke, shards=train))}) == 3
    with pytest.raises(LclError, match="name them with --data"):
        open_dataset(smoke, test=other)


def test_near_duplicates_are_grouped_when_that_is_wanted(tmp_path):
    images = [picture(n, 128) for n in range(100)]
    rows = [Sample(f"{n:03d}a", saved(image), "png", ("one",)) for n, image in enumerate(images)]
    rows += [Sample(f"{n:03d}b", saved(image, "JPEG", quality=70), "jpg", ("two",)) for n, image in enumerate(images)]
    write_shards(tmp_path, iter(rows), {})
    plain = open_shards(tmp_path, workers=0)
    assert len(set(plain.groups().tolist())) == 200
    group_near_duplicates(tmp_path)
    near = open_shards(tmp_path, workers=0)
    groups = near.groups()
    assert near.fingerprint != plain.fingerprint and (groups[:100] == groups[100:]).sum() >= 95
    assert len(set(groups.tolist())) == 200 - int((groups[:100] == groups[100:]).sum())


def test_near_duplicates_of_separate_test_pictures_are_left_out_when_that_is_wanted(tmp_path):
    """Of a picture with one colour nothing is known: it is near to none."""
    plain, other = (Image.new("RGB", (64, 64), (grey,) * 3) for grey in (90, 91))
    ours = [*(saved(picture(n, 128)) for n in range(99)), saved(plain)]
    theirs = [*(saved(picture(n, 128), "JPEG", quality=70) for n in range(0, 99, 10)), saved(other)]  # ten of them, saved again
    for name, files, form in (("ours", ours, "png"), ("theirs", theirs, "jpg")):
        rows = (Sample(f"{n:03d}", file, form, (f"caption {n}",)) for n, file in enumerate(files))
        write_shards(tmp_path / name, rows, {})
    shards, test = (open_shards(tmp_path / name, workers=0) for name in ("ours", "theirs"))
    assert ShardDataset(shards, 64, test=test).left_out == 0
    group_near_duplicates(tmp_path / "ours")
    dataset = ShardDataset(near := open_shards(tmp_path / "ours", workers=0), 64, test=test)
    links = near_duplicates(torch.cat([near.index["look"], test.index["look"]])).tolist()
    looks = set(test.index["look"].tolist()) - {0}
    alike = [look in looks or any(look in pair and set(pair) & looks for pair in links) for look in near.index["look"].tolist()]
    assert dataset.left_out == sum(alike) >= 9 and not alike[99]


def test_a_list_of_captions_in_json_belongs_to_one_picture(tmp_path):
    """As others write it; equal captions once, and what is no caption is passed over."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(4):
            about = {"caption": [f"a {number}", f" b {number} ", f"a {number}", None, ""]}
            for extension, data in (("png", saved(picture(number, 32))), ("json", json.dumps(about).encode())):
                member = tarfile.TarInfo(f"{number}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    found = open_shards(tmp_path, workers=0)
    assert [found.captions(row) for row in range(4)] == [(f"a {number}", f"b {number}") for number in range(4)]
    assert found.index["captions"].tolist() == [2] * 4 and found.index["words"].tolist() == [2] * 8


def test_captions_take_turns_and_each_is_seen_once_in_so_many_epochs():
    captions = ("one", "two", "three")
    for row in range(20):
        assert {draw(captions, row, 0, epoch) for epoch in range(4, 7)} == set(captions)
    assert {draw(captions, row, 0, 0) for row in range(50)} == set(captions)
    assert draw(captions, 7, 3, 2) == draw(captions, 7, 3, 5)
