"""Diagrams of the course's map and of chapters 1 to 3: scenes, towers, the contrast."""

from __future__ import annotations

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
    side = (WIDTH - 30) / 8
    for low, parts in ((98, PARTS[:2]), (10, PARTS[2:])):
        left = 11.0
        for name, kind, chapters in parts:
            width = side * len(chapters)
            sheet.area(left, low, width, 78)
            sheet.text(left + 8, low + 65, name, kind, 12, weight="bold", ha="left")
            for place, (number, title) in enumerate(chapters):
                here, x = number == current, left + side * (place + 0.5)
                sheet.box(x, low + 30, f"{number}\n{title}", kind if here else "frozen", side - 3, 44, 11, bold=here)
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
    for word, width, fill in (("a", 18, "empty"), ("red", 34, "empty"), ("car", 34, "loss fill"), ("next", 40, "empty"),
                              ("to", 24, "empty"), ("a", 18, "empty"), ("key", 36, "shared fill")):  # fmt: skip
        sheet.cell(x, 46, width, 28, fill, "muted")
        sheet.text(x + width / 2, 60, word, size=12)
        x += width + 4
    sheet.text(444, 32, "caption", "text", 11)
    sheet.arrow((409, 78), (368, 144), role="loss", both=True)
    sheet.arrow((542, 78), (438, 140), role="shared", both=True)
    sheet.text(562, 148, "ground truth:\nwhich words name\nwhich box", "muted", 11)
    return sheet


def block() -> Diagram:
    """Chapter 2: from a picture to patch tokens and one embedding, with shapes."""
    sheet = Diagram(
        286,
        "The image tower: the picture is cut into patches, each becomes a vector, transformer blocks mix them, and "
        "the mean is projected to the embedding. Inside a block: norm, attention, add; norm, MLP, add.",
    )
    tones = ("image fill", "shared fill", "text fill", "loss fill")
    cells = [[tones[(row + 2 * column) % 4] for column in range(4)] for row in range(4)]
    picture = sheet.grid(20, 164, cells, 22)
    sheet.text(picture.x, 150, "picture\n(3, 64, 64)", "image", 11, va="top")
    patches = sheet.box(178, 208, "patches\n(16, 768)", "image", 84, 52)
    vectors = sheet.box(290, 208, "linear\n+ position", "image", 92, 52)
    blocks = sheet.box(412, 208, "transformer\nblocks", "image", 104, 52, bold=True)
    pool = sheet.box(518, 208, "mean", "image", 60, 52)
    out = sheet.box(602, 208, "project\nlength 1", "shared", 74, 52)
    for start, end, words in ((picture, patches, ""), (patches, vectors, ""), (vectors, blocks, ""), (blocks, pool, ""),
                              (pool, out, "")):  # fmt: skip
        sheet.arrow(start.right, end.left, words)
    sheet.text(290, 250, "(16, d)", "muted", 11)
    sheet.text(412, 250, "(16, d): patch_tokens", "muted", 11)
    sheet.text(518, 168, "(d,)", "muted", 11)
    sheet.text(602, 168, "embedding", "muted", 11)
    sheet.area(150, 16, 482, 96, "one block")
    places = [("norm", 60), ("attention", 84), ("+", 30), ("norm", 60), ("MLP", 60), ("+", 30)]
    x, last, before = 172, None, None
    for words, width in places:
        box = sheet.box(x + width / 2, 44, words, "shared" if words == "+" else "image", width, 32)
        if last:
            sheet.arrow(last.right, box.left)
        if words == "+":
            sheet.arrow((before - 6, 44), box.top, bend=-0.3, role="shared")
            before = x + width + 10
        before = x if before is None else before
        last, x = box, x + width + 22
    sheet.arrow(last.right, (last.x + 40, 44))
    sheet.arrow(blocks.bottom, (412, 114), dashed=True)
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
