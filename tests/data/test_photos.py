"""Pictures and captions from outside: what is accepted, how it becomes pixels, and what is refused by which name."""

import concurrent.futures
import io
import struct
import sys
import types
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from lcl.data.photos import MAX_ASPECT, MAX_CAPTION_BYTES, BadSample, decode_image, read_caption


def picture(mode="RGB", size=(40, 30), form="PNG", seed=0, **options) -> bytes:
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (4, 4, 4), dtype=np.uint8), "RGBA").resize(size, Image.BICUBIC)
    image = smooth.convert("RGB").convert(mode) if mode != "RGBA" else smooth
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pixels(data: bytes, size: int = 16) -> torch.Tensor:
    found = decode_image(data, size)
    assert found.shape == (3, size, size) and found.dtype == torch.uint8
    return found


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP"])
def test_a_picture_becomes_its_middle_square(form):
    data = picture(size=(48, 16), form=form, **({"lossless": True} if form == "WEBP" else {}))
    whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(pixels(data).permute(1, 2, 0).numpy(), whole[:, 16:32])  # no pixel is resampled
    tall = pixels(picture(size=(16, 48)))
    assert torch.equal(tall, torch.from_numpy(np.array(Image.open(io.BytesIO(picture(size=(16, 48))))))[16:32].permute(2, 0, 1))


@pytest.mark.parametrize("size", [16, 64, 100, 128])
def test_a_jpeg_decoded_small_looks_as_if_it_were_decoded_whole(size):
    data = picture(size=(300, 260), form="JPEG", quality=95)
    whole = Image.open(io.BytesIO(data)).convert("RGB").crop((20, 0, 280, 260)).resize((size, size), Image.BICUBIC)
    difference = pixels(data, size).permute(1, 2, 0).int() - torch.from_numpy(np.array(whole)).int()
    assert difference.abs().float().mean() < 4  # of 255


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA"])
def test_other_colours_become_rgb(mode):
    data = picture(mode)
    assert torch.equal(pixels(data), pixels(data)) and pixels(data).float().std() > 0


def test_cmyk_keeps_its_colours():
    red = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 30, 30)).convert("CMYK").save(red, "JPEG", quality=95)
    assert (pixels(red.getvalue()).float().mean((1, 2)) - torch.tensor([200.0, 30, 30])).abs().max() < 12


def test_sixteen_bits_keep_their_range():
    ramp = np.linspace(0, 65_535, 32 * 32).reshape(32, 32).astype(np.uint16)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "PNG")
    found = pixels(file.getvalue(), 32)[0].float()
    assert (found - torch.from_numpy(ramp / 257.0).float()).abs().max() <= 1


def sixteen_bits(most: int, form: str = "PNG") -> bytes:
    """A ramp from 0 to `most` in 16 bits a pixel."""
    file = io.BytesIO()
    Image.fromarray(np.linspace(0, most, 32 * 32).reshape(32, 32).astype(np.uint16)).save(file, form)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("most", [200, 4095, 65_535])
def test_sixteen_bit_images_are_scaled_alike_whatever_they_hold(form, most):
    assert pixels(sixteen_bits(most, form), 32).max() == round(most / 257)


@pytest.mark.parametrize("form", ["TIFF", "AVIF"])
def test_formats_of_scanners_and_browsers_are_read(form):
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    data = picture(size=(48, 32), form=form, **({"quality": 95} if form == "AVIF" else {}))
    expected = pixels(picture(size=(48, 32)), 32).float()
    assert (pixels(data, 32).float() - expected).abs().mean() < 4


def test_heic_is_read_where_its_plug_in_is_installed(monkeypatch):
    def register():
        Image.register_open("HEIF", lambda file, name: Image.new("RGB", (20, 20), "red"), lambda prefix: prefix[4:8] == b"ftyp")

    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    assert pixels(b"\0\0\0\x18ftypheic" + b"\0" * 50)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("size", "options"), [((9000, 6750), {}), ((16_400, 8200), {}), ((8000, 6000), {"progressive": True})])
def test_a_phones_large_jpeg_is_scaled_down_before_its_size_counts(size, options):
    file = io.BytesIO()
    Image.new("RGB", size, (200, 60, 40)).save(file, "JPEG", quality=60, **options)
    assert (pixels(file.getvalue(), 64).float().mean((1, 2)) - torch.tensor([200.0, 60, 40])).abs().max() < 3


def test_decoding_in_threads_leaves_the_filters_of_warnings_as_they_were():
    before = list(warnings.filters)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(lambda data: decode_image(data, 16), [JPEG] * 200))) == 200
    assert warnings.filters == before


def test_what_is_transparent_is_white_and_a_moving_picture_shows_its_first_frame():
    file = io.BytesIO()
    Image.new("RGBA", (20, 20), (10, 20, 30, 0)).save(file, "PNG")
    assert bool((pixels(file.getvalue()) == 255).all())
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert pixels(file.getvalue())[:, 8, 8].tolist() == [255, 0, 0]


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
QUARTER_TURN = {
    "JPEG": {"exif": exif_of(6), "quality": 95},
    "PNG": {"exif": exif_of(6)},
    "WEBP": {"exif": exif_of(6), "lossless": True},
    "TIFF": {"exif": exif_of(6)},
    "JPEG with XMP": {"xmp": XMP, "quality": 95},
    "WEBP with XMP": {"xmp": XMP, "lossless": True},
}


@pytest.mark.parametrize("name", QUARTER_TURN)
def test_a_photo_stands_as_the_camera_was_held(name):
    half = Image.new("RGB", (48, 32), "black")
    half.paste("white", (0, 0, 24, 32))  # the left is white; turned, the top is
    file = io.BytesIO()
    half.save(file, name.split()[0], **QUARTER_TURN[name])
    found = pixels(file.getvalue())[0].float()
    assert found[:6].mean() > 240 and found[-6:].mean() < 15


def test_damaged_metadata_do_not_cost_the_image():
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "JPEG", exif=b"Exif\0\0no TIFF header at all")
    assert pixels(file.getvalue())[0].float().mean() > 240


def bomb() -> bytes:
    """A PNG of a few kilobytes that says it is 30,000 pixels a side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100_000)) + chunk(b"IEND", b"")


def header(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header states another size than its pixels have."""
    at = next(at for marker in (b"\xff\xc0", b"\xff\xc2") if (at := jpeg.find(marker)) >= 0)
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


JPEG = picture(form="JPEG", size=(64, 64), quality=95)
PROGRESSIVE = picture(form="JPEG", size=(64, 64), quality=95, progressive=True)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a picture"), (b"<html>404</html>", "not a picture"), (b"%!PS-Adobe-3.0 EPSF", "not a picture"),
        (JPEG[:-100], "not whole"), (JPEG[:100], "not a picture|not whole"), (picture()[:-40], "not whole"),
        (picture(size=(1, 1)), "too small"), (picture(size=(7, 100)), "too small"), (bomb(), "too large"),
        (picture(size=(16_400, 1100)), "too large"), (picture(size=(8 * MAX_ASPECT + 1, 8)), "long and thin"),
        (JPEG + b"\0" * 33 * 2**20, "file too large"), (picture(form="TGA"), "not a picture"),
        (header(JPEG, 20_000, 14_000), "too large"), (header(PROGRESSIVE, 9_000, 9_000), "too large"),
        (picture("F", form="TIFF"), "32-bit values"), (picture("I", form="TIFF"), "32-bit values"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 50, "HEIC .pip install pillow-heif"), (b"\0\0\0\x18ftypmif1" + b"\0" * 50, "HEIC"),
        (b"\0\0\0\x18ftypmp42" + b"\0" * 50, "not a picture"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_no_good_picture_is_refused_by_its_name(data, reason):
    with pytest.raises(BadSample, match=reason):
        decode_image(data, 32)


@settings(max_examples=200)
@given(st.sampled_from([JPEG, picture(), picture(form="GIF"), picture(form="WEBP")]), st.data())
def test_damage_is_refused_or_decoded_and_nothing_else_happens(data, draw):
    damaged = bytearray(data)
    for at in draw.draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=20)):
        damaged[at] ^= draw.draw(st.integers(1, 255))
    try:
        assert decode_image(bytes(damaged), 16).shape == (3, 16, 16)
    except BadSample as reason:
        assert str(reason).startswith("image: ")


@pytest.mark.parametrize(
    ("given", "expected"),
    [(b"a cat", "a cat"), ("  a\n cat\t", "a cat"), ("Zwölf Äpfel 🍎".encode(), "Zwölf Äpfel 🍎"), ("nankeen", "nankeen"),
     (b"\x1b[31mred", "[31mred"), ("two\x0blines\x85three", "two lines three"), (b"\xef\xbb\xbfa cat", "a cat")],
)
def test_a_caption_is_read_and_tidied(given, expected):
    assert read_caption(given) == expected


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, "missing"), (b"", "empty"), (b"  \n ", "empty"), (b"NaN", "empty"), ("none", "empty"),
        (b"\xff\xfe\x00", "not text"), (b"a\0cat", "not text"), ("\ud800", "not text"), ("a cat\0", "not text"),
        ("a" * (MAX_CAPTION_BYTES + 1), "too long"), ("a " * 1001, "too long"),
    ],
)  # fmt: skip
def test_what_is_no_caption_is_refused_by_its_name(given, reason):
    with pytest.raises(BadSample, match=f"caption: {reason}"):
        read_caption(given)
