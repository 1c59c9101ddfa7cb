"""Diagrams of chapters 4 to 7: LightCLIP's three levels."""

from __future__ import annotations

import math

from diagrams.canvas import Diagram

COSTS = ((0.2, 0.6, 0.9, 0.8), (0.1, 0.3, 0.9, 0.7), (0.9, 0.8, 0.7, 0.9))  # of red, apple, of; as in chapter 5
UNMATCHED, CHOSEN = 0.6, {(0, 0), (1, 1)}


def labels() -> Diagram:
    """Chapter 4: one row of labels three ways, and alpha over the training."""
    sheet = Diagram(
        252,
        "One row of labels for five captions of a batch. One-hot: all on the own caption. Smoothed: every other "
        "caption has an equal share. Softened: similar captions get more. Below, the softened share alpha grows from "
        "0 to its maximum.",
    )
    rows = (
        ("one-hot (CLIP)", (1.0, 0.0, 0.0, 0.0, 0.0), "muted"),
        ("label smoothing", (0.6, 0.1, 0.1, 0.1, 0.1), "muted"),
        ("softened by similarity", (0.6, 0.28, 0.09, 0.02, 0.01), "loss"),
    )
    for number, (name, values, role) in enumerate(rows):
        x = 34 + number * 146
        sheet.bars(x, 108, values, 88, ["shared", *["loss"] * 4], 20)
        sheet.text(x + 57, 226, name, role if number == 2 else "ink", 12, weight="bold" if number == 2 else "normal")
        for place, words in enumerate(("own", "A", "B", "C", "D")):
            sheet.text(x + place * 24 + 10, 96, words, "muted", 11)
    words = "A shares an object with the picture, B the background;\nC and D share nothing. The bars of a row sum to 1."
    sheet.text(220, 66, words, "ink", 11)
    sheet.text(220, 28, r"label = $(1-\alpha)\cdot$ one-hot $+\ \alpha\cdot$ softmax of the other captions’ cosines", "ink", 12)
    sheet.area(470, 20, 164, 216, "α during training")
    points = [(490 + 128 * p, 60 + 120 * (1 - math.cos(math.pi * p)) / 2) for p in (step / 40 for step in range(41))]
    sheet.line(points, "loss", 2.4)
    sheet.line([(490, 184), (490, 60), (620, 60)], "muted", 1)
    sheet.text(484, 190, r"$\alpha_{\max}$", "muted", 12, ha="left")
    sheet.text(496, 48, "start", "muted", 11)
    sheet.text(612, 48, "end", "muted", 11)
    return sheet


def matching() -> Diagram:
    """Chapter 5: words and patches as a bipartite graph; a word may stay unmatched."""
    sheet = Diagram(
        262,
        "Words on the left, patches on the right. Each word takes at most one patch and each patch at most one word, "
        "at the smallest total cost. Red takes patch 0, apple takes patch 1, and the word of stays unmatched at a "
        "fixed cost.",
    )
    words = [sheet.box(112, y, name, "text", 84, 34, 13) for name, y in (("red", 204), ("apple", 138), ("of", 72))]
    patches = [sheet.box(372, y, f"patch {number}", "image", 92, 32, 12) for number, y in enumerate((214, 168, 122, 76))]
    for w, row in enumerate(COSTS):
        for p, cost in enumerate(row):
            (x0, y0), (x1, y1), chosen = words[w].right, patches[p].left, (w, p) in CHOSEN
            sheet.line([(x0, y0), (x1, y1)], "shared" if chosen else "edge", 3 if chosen else 1.2)
            if chosen:
                sheet.text((x0 + x1) / 2, (y0 + y1) / 2 + 11, f"cost {cost}", "shared", 12, weight="bold")
    out = sheet.box(372, 28, "unmatched", "frozen", 92, 32, dashed=True)
    sheet.line([words[2].right, out.left], "frozen", 2.4, dashed=True)
    sheet.text(232, 30, f"cost {UNMATCHED}", "frozen", 12)
    sheet.text(112, 246, "words", "text", 12, weight="bold")
    sheet.text(372, 246, "patches", "image", 12, weight="bold")
    sheet.text(536, 184, "One to one:\na patch that one word\ntook is taken.", "ink", 12)
    sheet.text(536, 116, "“Red” and “apple” both\nprefer patch 0. The sum\n0.2 + 0.3 is smaller\nthan 0.1 + 0.6.", "ink", 12)
    sheet.text(536, 48, "Relaxed: a word whose\nbest patch costs 0.6\nor more takes none.", "ink", 12)
    return sheet


def fusion() -> Diagram:
    """Chapter 6: two passes of a caption; the second has masked words and the image, and exists in training only."""
    sheet = Diagram(
        300,
        "The caption passes the text tower twice. The plain pass gives the embedding for CLIP's loss. In the second "
        "pass words are masked, and after every layer gated cross-attention adds what the image's features tell; a head"
        " predicts the masked words. The second pass, in a dashed frame, exists in training only.",
    )
    sheet.area(8, 8, 632, 180, "", dashed=True)
    sheet.text(628, 176, "in training only", "muted", 11, ha="right")
    picture = sheet.box(70, 262, "picture", "image", 92, 36)
    tower = sheet.box(206, 262, "image tower", "image", 108, 40, bold=True)
    caption = sheet.box(70, 214, "caption", "text", 92, 32)
    plain = sheet.box(360, 214, "text tower", "text", 108, 36, bold=True)
    sheet.box(566, 244, "contrastive loss", "loss", 128, 44)
    sheet.arrow(picture.right, tower.left)
    sheet.arrow(tower.right, (502, 252), "$v$", "image")
    sheet.arrow(caption.right, plain.left)
    sheet.arrow(plain.right, (502, 234), "$t$", "text", at=(0, -10))
    masked = sheet.box(76, 60, "a [MASK]\nbeside a dog", "text", 108, 46)
    sheet.arrow(caption.bottom, masked.top, "mask 15 %\nof the words", at=(42, 0))
    last = masked
    for x, name, out in ((188, "layer 1", 206), (322, "layer 2", 232)):
        layer = sheet.box(x, 60, name, "text", 66, 36)
        added = sheet.box(x + 62, 60, "+", "extra", 24, 24)
        gate = sheet.box(x + 62, 124, "cross-attention\n× tanh(gate)", "extra", 104, 42, 11)
        sheet.arrow(last.right, layer.left)
        sheet.arrow(layer.right, added.left)
        sheet.arrow(gate.bottom, added.top)
        sheet.arrow((out, 240), gate.top, role="image")
        last = added
    sheet.text(268, 170, "patch\nfeatures", "image", 11, ha="left")
    head = sheet.box(450, 60, "head", "extra", 60, 36)
    end = sheet.box(566, 60, "cross-entropy of\nthe masked words", "loss", 128, 46, 11)
    sheet.arrow(last.right, head.left)
    sheet.arrow(head.right, end.left)
    sheet.text(155, 26, "the same weights as above", "text", 11, ha="left")
    sheet.text(546, 130, "The gates begin at 0:\nthe tower starts as if there\nwere no picture.", "muted", 11)
    return sheet


def lightclip() -> Diagram:
    """Chapter 7: a batch, three losses, their weights over the training, and the sum."""
    sheet = Diagram(
        262,
        "A batch of pictures and captions gives three losses: soft labels on whole pairs, matching of patches and "
        "words, masked words. Each has a weight that may change during the training; the sum is the loss.",
    )
    batch = sheet.box(64, 130, "batch", "frozen", 84, 48, bold=True)
    towers = sheet.box(178, 130, "two\ntowers", "image", 84, 64, bold=True)
    sheet.arrow(batch.right, towers.left)
    total = sheet.box(596, 130, "loss", "loss", 72, 48, bold=True)
    curves = (
        ("whole pairs\nsoftened labels", 214, "$L_{soft}$", lambda p: 1.0, "1 throughout"),
        ("patches and words\nmatched one to one", 130, "$L_{match}$", lambda p: min(1, 2 * p), "rises to 1"),
        ("masked words\nwith the image", 46, "$L_{mlm}$", lambda p: 0.5, "0.5 throughout"),
    )
    for words, y, name, weight, how in curves:
        box = sheet.box(322, y, words, "text" if y == 46 else "shared", 138, 48)
        sheet.arrow(towers.right, box.left)
        sheet.cell(415, y - 20, 80, 42, "sheet", "muted")
        sheet.arrow(box.right, (413, y))
        sheet.line([(424 + 60 * p, y - 16 + 32 * weight(p)) for p in (0, 0.25, 0.5, 0.75, 1)], "loss", 2.2)
        sheet.line([(424, y + 18), (424, y - 16), (486, y - 16)], "muted", 1)
        sheet.text(455, y - 28, how, "muted", 11)
        sheet.arrow((497, y), (total.x - 36, 130 + (y - 130) * 0.16), name, at={214: (24, 8), 130: (0, 10), 46: (24, -8)}[y])
    sheet.text(178, 74, "kept after\nthe training", "image", 11)
    sheet.text(455, 248, "weight during the training", "muted", 11)
    return sheet
