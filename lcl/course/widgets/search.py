"""A box that searches one's own pictures by words: those of a folder, and those that are dropped on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from lcl.config import LclError, require
from lcl.course import plots
from lcl.course.widgets.base import Exhibit, script, to_picture, traitlets
from lcl.data.photos import BadSample, decode_image
from lcl.deploy.gallery import open_gallery
from lcl.deploy.inputs import find_pictures
from lcl.deploy.load import nearest
from lcl.eval.metrics import embed_images, embed_texts
from lcl.models.clip import Clip
from lcl.models.tokenizer import Tokenizer

MAX_PICTURES = 2000  # in all; `lcl search` takes any number
MAX_DROPPED_BYTES = 8 * 2**20  # of a dropped file: Jupyter ends the connection at a message of 10 MiB
SHOWN = 6  # nearest pictures
THUMBNAIL = 96  # pixels a side


class Pictures:
    """Pictures that were collected from folders and from single files, with their embeddings."""

    def __init__(self, model: Clip, tokenizer: Tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.names: list[str] = []
        self._v: list[torch.Tensor] = []  # (d,) each
        self._thumbnails: list[torch.Tensor] = []  # (3, THUMBNAIL, THUMBNAIL) uint8 each

    def __len__(self) -> int:
        return len(self.names)

    def open_folder(self, folder: str | Path) -> str:
        """Take the pictures of a folder in place of all others. Returns a sentence. Raises LclError, and keeps what was there."""
        require(bool(str(folder).strip()), "the path of the folder is empty; type one, or drop pictures here.")
        folder = Path(str(folder).strip()).expanduser()
        count = len(find_pictures(folder))
        most = f"this box takes {MAX_PICTURES:,}; use `lcl search`"
        require(count <= MAX_PICTURES, f"{folder} holds {count:,} pictures, but {most}.")
        gallery = open_gallery(folder, self.model)
        self._thumbnails = list(gallery.images(gallery.names, THUMBNAIL))
        self.names, self._v = list(gallery.names), list(gallery.v)
        faults = "; ".join(f"{number} left out ({reason})" for reason, number in gallery.faults.items())
        return f"{len(self)} pictures of {folder}{'; ' + faults if faults else ''}."

    def add(self, name: str, data: bytes) -> str:
        """Add a picture's file. Returns a sentence. Raises LclError for a file that is too large, or no picture."""
        require(len(self) < MAX_PICTURES, f"{name} was not added: this box takes {MAX_PICTURES:,} pictures.")
        most = f"{MAX_DROPPED_BYTES // 2**20} MiB"
        require(len(data) <= MAX_DROPPED_BYTES, f"{name} was not added: it is larger than {most}; type the path of its folder.")
        try:
            image = decode_image(data, self.model.config.vision.image_size)
            thumbnail = decode_image(data, THUMBNAIL)
        except BadSample as reason:
            raise LclError(f"{name} was not added ({reason}); drop whole pictures.") from None
        v = embed_images(self.model, image[None])[0]
        self.names.append(name)
        self._v.append(v)
        self._thumbnails.append(thumbnail)
        return f"{len(self)} picture{'s'[: len(self) > 1]}; the last is {name}."

    def search(self, words: str, k: int = SHOWN) -> list[tuple[int, float]]:
        """The k nearest pictures to a text, as their numbers and cosines. Raises LclError without pictures or words."""
        require(bool(self.names), "there are no pictures yet: type the path of a folder, or drop pictures here.")
        require(bool(words.strip()), "say what to look for, in a few words.")
        t = embed_texts(self.model, self.tokenizer, [words])[0].numpy()
        numbers = tuple(range(len(self)))  # names may be equal
        return [(number, cosine) for number, cosine in nearest(numbers, torch.stack(self._v).numpy(), t, k)]

    def images(self, numbers: Sequence[int]) -> torch.Tensor:
        """Some of the pictures, to show: (n, 3, THUMBNAIL, THUMBNAIL) uint8."""
        return torch.stack([self._thumbnails[number] for number in numbers])


class FolderSearch(Exhibit):
    """A box to search pictures: type a folder's path or drop pictures, then type a sentence.

    Unlike other interactive figures it asks the kernel, which embeds pictures and sentences. No picture leaves this machine.

    Args:
        model, tokenizer: embed pictures and words.
        folder: to begin with; its pictures are searched for `words` at once.
        words: to begin with.

    Raises:
        LclError: for a folder without pictures, or with more than MAX_PICTURES.
    """

    _esm = script("search")
    answer = traitlets.Dict().tag(sync=True)

    def __init__(self, model: Clip, tokenizer: Tokenizer, folder: str | Path = "", words: str = ""):
        self.pictures = Pictures(model, tokenizer)
        told = self.pictures.open_folder(folder) if str(folder) else "There are no pictures yet."
        still = plots.Chart(5, 1.4, "A box to search pictures. It has none yet, and needs a running kernel.")
        answer = {"told": told, "found": [], "problem": "", "count": len(self.pictures)}
        if self.pictures.names and words:
            answer = self._search(words)
            found = self.pictures.search(words)
            titles = [f"{self.pictures.names[number]}: {cosine:.2f}" for number, cosine in found]
            still = plots.grid(self.pictures.images([number for number, _ in found]), titles, columns=SHOWN)
        data = {"folder": str(folder), "words": words, "limit": MAX_DROPPED_BYTES, "most": MAX_PICTURES}
        super().__init__("Picture search: type a folder or drop pictures, then type a sentence.", data, still)
        self.answer = answer
        self.on_msg(self._receive)

    def _search(self, words: str) -> dict:
        found = self.pictures.search(words)
        images = self.pictures.images([number for number, _ in found])
        shown = [
            {"name": self.pictures.names[number], "cosine": cosine, "src": to_picture(image)}
            for (number, cosine), image in zip(found, images, strict=True)
        ]
        said = f"“{words}”: the nearest of {len(self.pictures)} pictures. Every sentence has a nearest picture."
        return {"told": said, "found": shown, "problem": "", "count": len(self.pictures)}

    def reply(self, content: dict, buffers: Sequence[bytes] = ()) -> dict:
        """What the box shows after a message: {"folder": path}, {"picture": name} with its bytes, or {"words": sentence}."""
        try:
            if "words" in content:
                return self._search(str(content["words"])[:1000])
            if "folder" in content:
                told = self.pictures.open_folder(str(content["folder"]))
            else:
                told = self.pictures.add(str(content.get("picture", "a file"))[:200], bytes(buffers[0]) if buffers else b"")
            return {"told": told, "found": [], "problem": "", "count": len(self.pictures)}
        except (LclError, OSError) as error:
            return {"told": "", "found": [], "problem": f"{error}", "count": len(self.pictures)}

    def _receive(self, _, content: dict, buffers: Sequence[bytes]) -> None:
        self.answer = self.reply(content, buffers) | {"turn": self.answer.get("turn", 0) + 1}  # so that equal replies are seen
