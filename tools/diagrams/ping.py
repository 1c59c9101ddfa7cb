"""Diagrams of chapters 8 to 14: neighbours, CLIP-PING, its controls, scale, failures, use."""

from __future__ import annotations

from diagrams.canvas import Diagram


def banks() -> Diagram:
    """Chapter 8: frozen encoders fill two banks once; an exact search in blocks finds each row's nearest other row."""
    sheet = Diagram(
        250,
        "Frozen encoders turn all pictures and all captions into two banks of features, once. An exact search "
        "compares blocks of rows and keeps, for every row, the nearest other row.",
    )
    for y, name, kind, letter, found in ((186, "all pictures", "image", "U", "a(i)"), (76, "all captions", "text", "Z", "b(i)")):
        source = sheet.box(68, y, name, kind, 100, 40)
        encoder = sheet.box(192, y, "frozen\nencoder", "frozen", 84, 50)
        bank = sheet.grid(268, y - 33, [[f"{kind} fill"] * 4 for _ in range(4)], 16)
        sheet.text(bank.x, y + 46, f"bank ${letter}$: one row a pair", kind, 11)
        blocks = sheet.grid(396, y - 33, [["empty" if r != c else "frozen" for c in range(4)] for r in range(4)], 16)
        sheet.arrow(source.right, encoder.left)
        sheet.arrow(encoder.right, bank.left)
        sheet.arrow(bank.right, blocks.left)
        result = sheet.box(560, y, f"${found}$: nearest\nother row", "shared", 128, 48)
        sheet.arrow(blocks.right, result.left)
    sheet.text(428, 232, "similarities,\nblock by block", "muted", 11)
    sheet.text(324, 18, "The diagonal is left out: no row is its own neighbour. Memory holds one block at a time.", "ink", 11)
    return sheet


def ping() -> Diagram:
    """Chapter 9: pair i, its nearest picture and nearest caption, and the four extra contrasts."""
    sheet = Diagram(
        286,
        "Pair i has a picture and a caption. Its nearest picture a(i) and nearest caption b(i) come from frozen "
        "banks. NN pulls the picture to the feature of its nearest picture, the caption to that of its nearest "
        "caption. XNN pulls the picture to the caption of its nearest picture, the caption to the picture of its "
        "nearest caption.",
    )
    v = sheet.box(116, 196, "picture $i$\nembedding $v_i$", "image", 134, 50)
    t = sheet.box(116, 84, "caption $i$\nembedding $t_i$", "text", 134, 50)
    sheet.arrow(v.bottom, t.top, "CLIP", "ink", both=True, at=(-24, 0))
    sheet.area(306, 22, 330, 244, "frozen banks, through learned projections")
    ua = sheet.box(390, 196, "$U_{a(i)}$", "image", 92, 44, 15)
    za = sheet.box(556, 196, "$Z_{a(i)}$", "text", 92, 44, 15)
    zb = sheet.box(390, 84, "$Z_{b(i)}$", "text", 92, 44, 15)
    ub = sheet.box(556, 84, "$U_{b(i)}$", "image", 92, 44, 15)
    sheet.arrow(v.right, ua.left, "NN", "shared", at=(0, -9))
    sheet.arrow(t.right, zb.left, "NN", "shared")
    sheet.arrow((184, 208), (556, 220), "XNN", "loss", bend=-0.12, at=(-118, 22))
    sheet.arrow((184, 72), (556, 60), "XNN", "loss", bend=0.12, at=(-118, -22))
    sheet.line([ua.right, za.left], "muted", 1.4)
    sheet.line([zb.right, ub.left], "muted", 1.4)
    sheet.text(474, 140, "one line: picture and caption of the same pair\n$a(i)$: nearest picture to picture $i$\n"
                         "$b(i)$: nearest caption to caption $i$", "muted", 11)  # fmt: skip
    return sheet


def controls() -> Diagram:
    """Chapter 10: what each control replaces: whose feature is the target, how its weight runs, and the loss of the pairs."""
    sheet = Diagram(
        306,
        "What each control replaces. The target of pair i is its own teacher feature (distillation), that of its nearest "
        "neighbour (CLIP-PING), of another row's neighbour (shuffled) or of the scene with the most similar objects (oracle). "
        "The weight of the targets falls or stays constant. The loss of the pairs is a softmax over rows and columns, or a "
        "sigmoid for every cell.",
    )
    sheet.area(10, 12, 396, 284, "1: whose teacher feature is the target of pair $i$?")
    pair = sheet.box(52, 142, "pair $i$", "image", 64, 44, bold=True)
    for y, words, kind, name, question in (
        (242, "itself, $i$", "frozen", "distillation", "Is a neighbour needed?"),
        (176, "nearest, $a(i)$, $b(i)$", "shared", "CLIP-PING", "The method."),
        (110, "another row’s nearest", "loss", "shuffled", "Does any target help?"),
        (44, "most similar objects", "extra", "oracle", "Are better ones better?"),
    ):
        target = sheet.box(182, y, words, kind, 138, 36, 11)
        sheet.arrow(pair.right, target.left, role=kind)
        sheet.text(262, y + 8, name, kind, 11, weight="bold", ha="left")
        sheet.text(262, y - 8, question, "ink", 11, ha="left")
    sheet.area(414, 162, 224, 134, "2: how does its weight run?")
    sheet.line([(436, 266), (436, 188), (566, 188)], "muted", 1.2)
    sheet.line([(436, 254), (566, 254)], "loss", 2.2, dashed=True)
    sheet.line([(436 + 130 * p / 20, 188 + 66 * (1 - p / 20) ** 2) for p in range(21)], "shared", 2.2)
    sheet.text(572, 254, "constant", "loss", 11, ha="left")
    sheet.text(506, 222, "falls", "shared", 11, ha="left")
    sheet.text(501, 175, "progress of the training", "muted", 11)
    sheet.area(414, 12, 224, 142, "3: which loss compares the pairs?")
    row = [["shared fill"] * 4, *[["empty"] * 4 for _ in range(3)]]
    sheet.grid(436, 46, row, 18, {(0, 0): "1"})
    each = [["shared fill" if r == c else "loss fill" for c in range(4)] for r in range(4)]
    sheet.grid(546, 46, each, 18, {(r, c): "+" if r == c else "−" for r in range(4) for c in range(4)})
    sheet.text(472, 32, "softmax: a row", "ink", 11)
    sheet.text(582, 32, "sigmoid: a cell", "ink", 11)
    return sheet


def scale() -> Diagram:
    """Chapter 11: shards, an index, an order that a step number determines, checkpoints; a killed run goes on."""
    sheet = Diagram(
        252,
        "Pairs lie in tars, with an index that finds any row. The step number determines which rows a batch holds. "
        "Each process reads its share. Checkpoints let a killed run continue at its step.",
    )
    for number in range(3):
        sheet.box(68, 196 - 44 * number, f"pairs-{number:05d}.tar", "image", 108, 34, 11)
    index = sheet.box(200, 152, "index:\nrow → tar, place", "frozen", 118, 48, 11)
    order = sheet.box(330, 152, "order of rows,\nfrom seed and step", "shared", 128, 48, 11)
    sheet.arrow((122, 152), index.left)
    sheet.arrow(index.right, order.left)
    ranks = [sheet.box(478, y, f"process {n}\nits part of the batch", "text", 140, 44, 11) for n, y in ((0, 192), (1, 112))]
    for rank in ranks:
        sheet.arrow(order.right, rank.left)
    model = sheet.box(602, 152, "one\nstep", "loss", 62, 52)
    for rank in ranks:
        sheet.arrow(rank.right, model.left)
    sheet.text(478, 152, "all negatives are shared", "muted", 11)
    sheet.line([(60, 46), (620, 46)], "muted", 1.6)
    for x, words in ((60, "step 0"), (200, "checkpoint"), (340, "checkpoint")):
        sheet.cell(x - 5, 41, 10, 10, "shared", "shared")
        sheet.text(x, 26, words, "muted", 11)
    sheet.text(430, 46, "×", "loss", 20, weight="bold")
    sheet.text(430, 24, "killed", "loss", 11)
    sheet.arrow((428, 56), (342, 56), "resumes here, same batches", "shared", bend=0.3, at=(40, 22))
    sheet.text(600, 26, "end", "muted", 11)
    return sheet


def failures() -> Diagram:
    """Chapter 12: which question to ask first when a training run disappoints."""
    sheet = Diagram(
        252,
        "A path of questions for a training that disappoints: Is the first loss near ln B? Does it fall? Does it fall"
        " on validation pairs, too? Is recall above chance? Each no leads to what to check.",
    )
    questions = (
        ("Is the first loss\nnear ln B?", "check labels, scale,\nnormalisation, copies"),
        ("Does the loss\nfall?", "check the learning rate,\ngradients, frozen parts"),
        ("Does validation\nloss fall, too?", "check leaks, dropout,\nnumber of pairs"),
        ("Is recall far\nabove chance?", "check pairing, tokenizer,\npreprocessing"),
    )
    last = None
    for number, (question, check) in enumerate(questions):
        x = 88 + number * 157
        box = sheet.box(x, 190, question, "shared", 128, 56)
        cause = sheet.box(x, 76, check, "loss", 150, 56, 11)
        sheet.arrow(box.bottom, cause.top, "no", "loss", at=(14, 0))
        if last:
            sheet.arrow(last.right, box.left)
            sheet.text((last.x + box.x) / 2, 202, "yes", "muted", 11)
        last = box
    sheet.text(324, 24, "lcl.diagnose asks all of these, and says what to do where the answer is no.", "ink", 12)
    return sheet


def use() -> Diagram:
    """Chapter 13: what is computed once, and what is computed for each query."""
    sheet = Diagram(
        232,
        "Once: your pictures pass the image tower and fill an index of embeddings. For each query: the text passes "
        "the text tower, and its embedding is compared with the index. Both towers can be exported to ONNX and int8.",
    )
    sheet.area(10, 124, 628, 98, "once")
    sheet.area(10, 14, 628, 98, "for each query")
    pictures = sheet.box(80, 164, "your pictures", "image", 108, 40)
    image = sheet.box(246, 164, "image tower\ntorch · ONNX · int8", "image", 140, 48, 11)
    index = sheet.box(438, 164, "index\n(N, d) embeddings", "shared", 136, 48, 11)
    query = sheet.box(80, 54, "“a red apple”", "text", 108, 40)
    text = sheet.box(246, 54, "text tower\ntorch · ONNX · int8", "text", 140, 48, 11)
    scores = sheet.box(438, 54, "N cosines,\nlargest first", "loss", 136, 48, 11)
    hits = sheet.box(582, 54, "pictures", "image", 84, 40)
    for start, end in ((pictures, image), (image, index), (query, text), (text, scores), (scores, hits)):
        sheet.arrow(start.right, end.left)
    sheet.arrow(index.bottom, scores.top)
    return sheet


def capstone() -> Diagram:
    """Chapter 14: how a recipe becomes a claim."""
    sheet = Diagram(
        212,
        "A recipe is trained with several seeds, and another recipe with the same seeds. Each pair of runs gives a "
        "difference; their mean and its 95 % interval tell whether the gain is more than luck.",
    )
    for y, name, kind in ((150, "your recipe", "shared"), (62, "clip", "frozen")):
        recipe = sheet.box(74, y, name, kind, 104, 40, bold=True)
        for number in range(3):
            run = sheet.box(212 + number * 74, y, f"seed {number}", kind, 62, 34)
            if number == 0:
                sheet.arrow(recipe.right, run.left)
    for number in range(3):
        x = 212 + number * 74
        sheet.arrow((x, 132), (x, 80), both=True, role="loss")
    sheet.text(286, 190, "same first weights and same batches for equal seeds", "muted", 11)
    sheet.text(286, 22, "three differences", "loss", 11)
    sheet.arrow((402, 106), (446, 106), role="loss")
    sheet.line([(456, 106), (620, 106)], "muted", 1)
    sheet.line([(500, 106), (606, 106)], "loss", 4)
    sheet.cell(548, 100, 10, 12, "loss", "loss")
    sheet.line([(470, 84), (470, 128)], "ink", 1.4)
    sheet.text(460, 92, "0", size=12)
    sheet.text(553, 132, "mean gain, 95 % interval", "loss", 11)
    sheet.text(540, 54, "An interval above 0: a gain.\nOne that holds 0: undecided.", "ink", 11)
    return sheet
