"""Diagrams of the course's map and of chapters 1 to 3: scenes, towers, the contrast."""

from __future__ import annotations

from itertools import pairwise

from diagrams.canvas import WIDTH, Diagram

PARTS = (
    ("Basics", "text", ((0, "preflight"), (1, "scenes"), (2, "encoders"), (3, "contrast"))),
    ("LightCLIP", "image", ((4, "soft labels"), (5, "matching"), (6, "masking"), (7, "all three"))),
    ("CLIP-PING", "shared", ((8, "mining"), (9, "CLIP-PING"), (10, "controls"))),
    ("In practice", "extra", ((11, "scale"), (12, "failures"), (13, "use it"), (14, "your run"))),
)
TITLES = {number: title for _, _, chapters in PARTS for number, title in chapters}


def course_map(current: int) -> Diagram:
    """The 15 chapters in four parts, one of them highlighted."""
    part = next(name for name, _, chapters in PARTS if current in dict(chapters))
    sheet = Diagram(184, f"Map of the course: four parts (basics, LightCLIP, CLIP-PING, in practice) with 15 chapters. "
                         f"You are in chapter {current}, {TITLES[current]}, of the part {part}.")  # fmt: skip
    for low, parts in ((98, PARTS[:2]), (10, PARTS[2:])):
        left, side = 11.0, (WIDTH - 30) / sum(len(chapters) for *_, chapters in parts)
        for name, kind, chapters in parts:
            width = side * len(chapters)
            sheet.area(left, low, width, 78)
            sheet.text(left + 8, low + 65, name, kind, 12, weight="bold", ha="left")
            step = (width - 10) / len(chapters)
            for place, (number, title) in enumerate(chapters):
                here, x = number == current, left + 5 + step * (place + 0.5)
                sheet.box(x, low + 30, f"{number}\n{title}", kind if here else "frozen", step - 3, 44, 11, bold=here)
            left += width + 8
    return sheet


def scene() -> Diagram:
    """Chapter 1: one description gives a picture, a caption, and what is true of both."""
    sheet = Diagram(
        232,
        "A scene is computed from a seed, a split and an index. It gives a picture, a caption and the ground truth "
        "that joins them: the box of every object and the words that name it.",
    )
    source = sheet.box(84, 116, "seed, split,\nindex", "frozen", 116, 56)
    plan = sheet.box(226, 116, "objects, places,\nbackground", "shared", 124, 56)
    sheet.arrow(source.right, plan.left)
    for x, y, width, height, fill in (
        (330, 122, 120, 92, "image fill"),
        (348, 146, 40, 40, "loss"),
        (402, 138, 34, 34, "shared"),
    ):
        sheet.cell(x, y, width, height, fill, "image", 1.4)
    sheet.text(368, 166, "car", "sheet", 11, weight="bold")
    sheet.text(419, 155, "key", "sheet", 11, weight="bold")
    sheet.arrow(plan.right, (328, 160))
    sheet.arrow(plan.right, (328, 60))
    sheet.text(352, 204, "picture", "image", 11)
    x = 332
    for word, width, fill in (("a", 18, "empty"), ("car", 34, "loss fill"), ("next", 40, "empty"), ("to", 24, "empty"),
                              ("a", 18, "empty"), ("key", 36, "shared fill")):  # fmt: skip
        sheet.cell(x, 46, width, 28, fill, "muted")
        sheet.text(x + width / 2, 60, word, size=12)
        x += width + 4
    sheet.text(427, 32, "caption", "text", 11)
    sheet.arrow((371, 78), (368, 144), role="loss", both=True)
    sheet.arrow((504, 78), (430, 136), role="shared", both=True)
    sheet.text(562, 128, "ground truth:\nwhich words name\nwhich box", "muted", 11)
    return sheet


def block() -> Diagram:
    """Chapter 2: from a picture to patch tokens and one embedding, with shapes."""
    sheet = Diagram(
        286,
        "The image tower: the picture is cut into patches, each becomes a vector, transformer blocks mix them, "
        "a norm and the mean follow, and a projection gives the embedding. Inside a block: norm, attention, add; norm, MLP, add.",
    )
    tones = ("image fill", "shared fill", "text fill", "loss fill")
    cells = [[tones[(row + 2 * column) % 4] for column in range(4)] for row in range(4)]
    picture = sheet.grid(20, 164, cells, 22)
    sheet.text(picture.x, 150, "picture\n(3, 64, 64)", "image", 11, va="top")
    patches = sheet.box(166, 208, "patches\n(16, 768)", "image", 76, 52)
    vectors = sheet.box(264, 208, "linear\n+ position", "image", 82, 52)
    blocks = sheet.box(370, 208, "transformer\nblocks", "image", 94, 52, bold=True)
    norm = sheet.box(458, 208, "norm", "image", 46, 52)
    pool = sheet.box(528, 208, "mean", "image", 46, 52)
    out = sheet.box(605, 208, "project\nlength 1", "shared", 66, 52)
    for start, end in pairwise((picture, patches, vectors, blocks, norm, pool, out)):
        sheet.arrow(start.right, end.left)
    sheet.text(264, 250, "(16, d)", "muted", 11)
    sheet.text(370, 250, "(16, d)", "muted", 11)
    sheet.text(470, 250, "(16, d): patch_tokens", "muted", 11)
    sheet.text(528, 168, "(d,)", "muted", 11)
    sheet.text(605, 168, "embedding", "muted", 11)
    sheet.area(150, 16, 482, 96, "one block")
    start = (156.0, 44.0)
    for first, second in (("attention", 78), ("MLP", 54)):
        branch, x = start[0] + 12, start[0] + 28  # what is added leaves the line at `branch`
        for words, width in (("norm", 50), (first, second), ("+", 28)):
            box = sheet.box(x + width / 2, 44, words, "shared" if words == "+" else "image", width, 32)
            sheet.arrow(start, box.left)
            start, x = box.right, x + width + 18
        sheet.line([(branch, 44), (branch, 80), (box.x, 80)], "shared")
        sheet.arrow((box.x, 82), box.top, role="shared")
    sheet.arrow(start, (start[0] + 30, 44))
    sheet.arrow(blocks.bottom, (blocks.x, 114), dashed=True)
    return sheet


def clip() -> Diagram:
    """Chapter 3: a batch of pairs, two towers, and the matrix of similarities with its two softmaxes."""
    sheet = Diagram(
        318,
        "CLIP: pictures pass the image tower, captions pass the text tower. The cosines of all pairs make a matrix. A"
        " softmax over each row asks for the right caption, one over each column for the right picture. The diagonal "
        "holds the true pairs.",
    )
    pictures = sheet.box(66, 236, "B pictures", "image", 98, 40)
    captions = sheet.box(66, 84, "B captions", "text", 98, 40)
    image = sheet.box(196, 236, "image\ntower", "image", 92, 56, bold=True)
    text = sheet.box(196, 84, "text\ntower", "text", 92, 56, bold=True)
    sheet.arrow(pictures.right, image.left)
    sheet.arrow(captions.right, text.left)
    side = 34
    cells = [["shared" if row == column else "empty" for column in range(4)] for row in range(4)]
    words = {(row, column): f"$s_{{{row + 1}{column + 1}}}$" for row in range(4) for column in range(4) if row != column}
    matrix = sheet.grid(356, 100, cells, side, words)
    for number in range(4):
        y, x = 100 + (3.5 - number) * side, 356 + (number + 0.5) * side
        sheet.text(x, y, f"$s_{{{number + 1}{number + 1}}}$", "sheet", 12)
        sheet.cell(322, y - 11, 26, 22, "image fill", "image")
        sheet.text(335, y, f"$v_{number + 1}$", size=12)
        sheet.cell(x - 13, 68, 26, 22, "text fill", "text")
        sheet.text(x, 79, f"$t_{number + 1}$", size=12)
    sheet.arrow(image.right, (318, 206))
    sheet.arrow(text.right, (352, 79))
    sheet.arrow((494, 219), (518, 219), role="loss")
    sheet.text(522, 212, "softmax over a row:\nwhich caption is\npicture 1’s?", "loss", 11, ha="left")
    sheet.arrow((373, 238), (373, 258), role="loss")
    sheet.text(373, 283, "softmax over a column: which picture is caption 1’s?", "loss", 11)
    sheet.text(522, 130, "cross-entropy\nwith the diagonal;\nthe loss is the mean\nof both directions", "ink", 11, ha="left")
    sheet.text(matrix.x, 40, r"$s_{ij} = v_i \cdot t_j$, times the learned scale $e^{\tau}$", "muted", 12)
    return sheet
