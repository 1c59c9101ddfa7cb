"""nanoclip: CLIP in one file, to read from top to bottom. It needs torch, and the drawn scenes of `lcl` to train on.

    python nanoclip.py                # the full training run: 4.5 minutes on two CPU cores
    python nanoclip.py --steps 100    # a first look, in about a minute

CLIP (Radford et al. 2021, arXiv 2103.00020) trains two networks, called towers: one for images and one for texts. Both end in
the same space. An image and its own caption learn to point in the same direction, an image and any other caption do not:

    image   →             image tower → projection → v ┐
                                                       ├→ logit_scale · v·t → InfoNCE loss
    caption → tokenizer → text tower  → projection → t ┘

This one rule suffices to search images by words, and to classify images into classes that are given as words (zero-shot).
Comments at the end of a line are shapes: B pairs in a batch, L tokens in a caption, n patches in an image, d features.
"""

import argparse
import math
import re
import time
from collections import Counter

import torch
import torch.nn.functional as F
from torch import nn

from lcl.config import get_profile
from lcl.data.drawn.captions import one
from lcl.data.scenes import open_scenes

PAIRS, VALIDATION, TEST, VIEWS = 16_384, 256, 1000, 4  # training, validation and test pairs; zero-shot images of every class
WIDTH, EMBED_DIM, CONTEXT_LENGTH = 128, 128, 24  # features in the towers; dimensions of the shared space; tokens in a caption
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 2e-3, 0.1, 0.1  # peak learning rate; warm-up as a share of all steps

# ---- 1. Data: images with captions. A program draws the scenes and writes what they show, so nothing is downloaded. --------
def draw(dataset, what, chunk=512):
    """Draw all scenes of a dataset view. Returns images (N, 3, 64, 64) uint8 and N captions, such as "a cat above a red bus"."""
    images, captions = [], []
    for rows in torch.arange(len(dataset)).split(chunk):
        pairs = dataset.take(rows.tolist())
        images.append(pairs.images)
        captions += pairs.captions
        print(f"\rdrawing {what} pairs: {len(captions):,} of {len(dataset):,} ", end="", flush=True)
    print()
    return torch.cat(images), captions


# ---- 2. Tokenizer: a network computes with numbers, so each word gets one. -------------------------------------------------

PAD, UNKNOWN = 0, 1  # PAD fills captions up to equal length; UNKNOWN stands for words that training has not shown


class Tokenizer:
    """One token a word. The captions of our scenes have about 580 words; a tokenizer for the web must split rare words."""

    def __init__(self, captions):
        counts = Counter(word for caption in captions for word in self.words(caption))
        frequent = [word for word, count in counts.most_common() if count > 1]  # the others train UNKNOWN
        self.ids = {word: number for number, word in enumerate(frequent, start=2)}
        self.vocab_size = len(frequent) + 2

    @staticmethod
    def words(caption):
        return re.findall(r"\w+", caption.lower())

    def encode(self, captions):
        """N captions → token ids (N, L) int64. L is the longest caption's length, at most CONTEXT_LENGTH."""
        rows = [[self.ids.get(word, UNKNOWN) for word in self.words(c)][:CONTEXT_LENGTH] for c in captions]
        length = max(len(row) for row in rows)
        return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])


# ---- 3. Image tower: a small convolutional network. ------------------------------------------------------------------------
def conv(inputs, outputs, kernel, stride=1, padding=1):
    """A convolution, then batch norm, which keeps its outputs in a range that trains fast."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs))


class ConvBlock(nn.Module):
    """x + conv(conv(x)): the block learns a change to x. Gradients pass through the sum unhindered."""

    def __init__(self, d):
        super().__init__()
        self.first, self.second = conv(d, d, 3), conv(d, d, 3)

    def forward(self, x):
        return F.relu(x + self.second(F.relu(self.first(x))))  # (B, d, h, w), as x


class ImageTower(nn.Module):
    """Shrink 64 × 64 pixels to 8 × 8 patch tokens, then take the maximum over all patches, feature by feature."""

    def __init__(self, d):
        super().__init__()
        self.layers = nn.Sequential(
            conv(3, d // 2, kernel=4, stride=4, padding=0),  # (B, d/2, 16, 16): every 4 × 4 pixels become one vector
            nn.ReLU(),
            ConvBlock(d // 2),  # (B, d/2, 16, 16)
            conv(d // 2, d, kernel=4, stride=2),  # (B, d, 8, 8)
            nn.ReLU(),
            ConvBlock(d),  # (B, d, 8, 8)
        )
        self.norm = nn.LayerNorm(d)

    def forward(self, images):
        x = images.float() / 127.5 - 1  # (B, 3, 64, 64): bytes become numbers from -1 to 1
        x = self.layers(x.contiguous(memory_format=torch.channels_last))  # the layout that CPUs convolve fastest
        patch_tokens = x.flatten(2).transpose(1, 2)  # (B, n, d), n = 64
        # The maximum, not the mean: a scene shows a cat if any patch does, however small the cat is.
        return self.norm(patch_tokens.amax(dim=1))  # (B, d)


# ---- 4. Text tower: a short transformer (Vaswani et al. 2017, arXiv 1706.03762). -------------------------------------------
class Block(nn.Module):
    """Attention lets tokens read one another ("red" finds its "bus"); then the MLP processes each token alone."""

    def __init__(self, d, heads=2):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(d), nn.LayerNorm(d)
        self.queries_keys_values, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x, mask):
        qkv = self.queries_keys_values(self.norm_attention(x))  # (B, L, 3d)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, L, d / heads) each
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])  # softmax(q·k / √d) · v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))  # (B, L, d)
        return x + self.mlp(self.norm_mlp(x))  # (B, L, d)


class TextTower(nn.Module):
    """Embed words and positions, apply two blocks, take the mean over the caption's tokens."""

    def __init__(self, vocab_size, d, depth=2):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, d)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.positions = nn.Parameter(0.01 * torch.randn(CONTEXT_LENGTH, d))  # word order: who is above whom?
        self.blocks = nn.ModuleList(Block(d) for _ in range(depth))
        self.norm = nn.LayerNorm(d)

    def forward(self, ids):
        mask = ids != PAD  # (B, L): no token reads padding, and the mean leaves it out
        x = self.tokens(ids) + self.positions[: ids.shape[1]]  # (B, L, d)
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x) * mask[:, :, None]
        return x.sum(1) / mask.sum(1, keepdim=True)  # (B, d)


# ---- 5. CLIP: two towers, two projections, one temperature. ----------------------------------------------------------------
class Clip(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.image_tower, self.text_tower = ImageTower(WIDTH), TextTower(vocab_size, WIDTH)
        self.image_projection = nn.Linear(WIDTH, EMBED_DIM, bias=False)
        self.text_projection = nn.Linear(WIDTH, EMBED_DIM, bias=False)
        self.tau = nn.Parameter(torch.tensor(math.log(10.0)))  # lcl starts at 3, and moves τ ten times as fast (chapter 3)

    @property
    def logit_scale(self):
        """Cosines from -1 to 1 are too close for a sharp softmax: a learned scale, exp(τ) and at most 100, stretches them."""
        return self.tau.exp().clamp(max=100)

    def encode_image(self, images):
        return F.normalize(self.image_projection(self.image_tower(images)), dim=-1)  # (B, EMBED_DIM), of length one

    def encode_text(self, ids):
        return F.normalize(self.text_projection(self.text_tower(ids)), dim=-1)  # (B, EMBED_DIM), of length one


# ---- 6. The loss: InfoNCE (van den Oord et al. 2018, arXiv 1807.03748), in both directions. --------------------------------
def info_nce(v, t, logit_scale):
    """Which of the B captions belongs to this image? Which of the B images to this caption? Two classifications, averaged.

    v, t: (B, EMBED_DIM), of length one. Row i of v and row i of t are a pair; all other rows serve as wrong answers (negatives).
    At chance level the loss is ln B. If your first loss is far from that, look for the reason before you train.
    """
    s = (logit_scale * v) @ t.T  # (B, B): row i compares image i with all captions
    own = torch.arange(len(s), device=s.device)  # the right answers are on the diagonal
    return (F.cross_entropy(s, own) + F.cross_entropy(s.T, own)) / 2


# ---- 7. Training: AdamW, warm-up, cosine decay. ----------------------------------------------------------------------------
def make_optimizer(model):
    """AdamW. Weight decay keeps matrices small; biases, norms and τ do not decay, since zero is no good value for them."""
    matrices, others = ([p for p in model.parameters() if (p.ndim >= 2) == big] for big in (True, False))
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6)


def learning_rate(step, steps):
    """Rise in a line while Adam's averages are still rough, then fall along half a cosine, almost to zero. step: 1 to steps."""
    if step <= (warmup := max(1, round(WARMUP * steps))):
        return LEARNING_RATE * step / warmup
    return LEARNING_RATE * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup + 1))) / 2


def batches(count, batch_size, seed):
    """Row numbers (B,), batch after batch, without end. Each epoch shows all rows in a new order."""
    generator = torch.Generator().manual_seed(seed)
    while True:  # a last, smaller batch is left out: fewer negatives would make its loss smaller
        whole = torch.randperm(count, generator=generator)[: count // batch_size * batch_size]
        yield from whole.split(batch_size)


def train(model, tokenizer, images, captions, validation, steps, batch_size, seed):
    """Train the model. validation: images and captions that are not trained on. Returns the loss of every step."""
    ids, optimizer, order = tokenizer.encode(captions), make_optimizer(model), batches(len(images), batch_size, seed)
    losses, started = [], time.time()
    for step in range(1, steps + 1):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        rows = next(order)  # (B,)
        v, t = model.encode_image(images[rows]), model.encode_text(ids[rows])  # (B, EMBED_DIM) each
        loss = info_nce(v, t, model.logit_scale)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)  # one odd batch must not throw the model off
        optimizer.step()
        losses.append(loss.item())

        if step == 1 or step % 64 == 0 or step == steps:
            v, t = embed(model, tokenizer, *validation)
            left = (time.time() - started) / step * (steps - step) / 60
            report = f"loss {losses[-1]:.2f} (chance {math.log(batch_size):.2f}), logit_scale {model.logit_scale.item():.1f}"
            report += f", validation recall@1 {recall_at_1(v @ t.T):.0%}, {left:.1f} min left"
            print(f"step {step:4} of {steps}: {report}", flush=True)
    return losses


# ---- 8. Evaluation: what has the model learned? A metric says little without its chance level. -----------------------------
@torch.no_grad()
def embed(model, tokenizer, images, captions):
    """Embed images and captions: (N, EMBED_DIM) and (M, EMBED_DIM)."""
    model.eval()  # batch norm now uses the averages of training, so an image's embedding does not depend on its batch
    v = torch.cat([model.encode_image(part) for part in images.split(256)])
    return v, torch.cat([model.encode_text(part) for part in tokenizer.encode(captions).split(256)])


def recall_at_1(s):
    """Retrieval: for how many rows of the similarities s (N, N) is the own column, the one on the diagonal, the largest?"""
    return (s.argmax(dim=1) == torch.arange(len(s))).float().mean().item()


def zero_shot(model, tokenizer, scenes):
    """Classify images of one object: the answer is the class whose prompts, embedded as texts, lie nearest to the image."""
    names = [one(scenes.pictures.concepts[concept]) for concept in scenes.known]  # "a cat", "an owl", …
    templates = ("{}", "a picture of {}", "an image of {}", "a drawing of {}")  # the mean of several prompts is steadier
    pairs = scenes.pairs("new_scenes", range(VIEWS * len(names)), single=True)  # each class in turn
    v, t = embed(model, tokenizer, pairs.images, [template.format(name) for name in names for template in templates])
    classes = F.normalize(t.unflatten(0, (len(names), -1)).mean(1), dim=-1)  # (C, EMBED_DIM)
    own = torch.tensor([scenes.known.index(scene.objects[0].concept) for scene in pairs.scenes])  # (N,)
    return ((v @ classes.T).argmax(dim=1) == own).float().mean().item()


def evaluate(model, tokenizer, scenes):
    """Metrics on new scenes, {name: (value, chance level)}, each 0 to 1."""
    v, t = embed(model, tokenizer, *draw(scenes.test(TEST), "test"))
    return {
        "image→text recall@1": (recall_at_1(v @ t.T), 1 / TEST),
        "text→image recall@1": (recall_at_1(t @ v.T), 1 / TEST),
        "zero-shot top-1": (zero_shot(model, tokenizer, scenes), 1 / len(scenes.known)),
    }


# ---- 9. All of it. ---------------------------------------------------------------------------------------------------------
def run(scenes, steps, batch_size, seed):
    """Draw, train, evaluate. Returns the loss of every step, and the metrics."""
    started = time.time()
    images, captions = draw(scenes.train(min(PAIRS, steps * batch_size)), "training")
    validation = draw(scenes.validation(VALIDATION), "validation")
    tokenizer = Tokenizer(captions)
    torch.manual_seed(seed)
    model = Clip(tokenizer.vocab_size)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters")
    losses = train(model, tokenizer, images, captions, validation, steps, batch_size, seed)
    metrics = evaluate(model, tokenizer, scenes)
    for name, (value, chance) in metrics.items():
        print(f"{name:20} {value:6.1%}   (chance {chance:.1%})")
    print(f"in all {(time.time() - started) / 60:.1f} minutes")
    return losses, metrics


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Train and evaluate a small CLIP on drawn scenes.")
    parser.add_argument("--steps", type=int, default=1024, help="optimiser steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help=f"pairs in a batch, 2 to {PAIRS} (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.steps < 1 or not 2 <= options.batch_size <= PAIRS:
        parser.error(f"--steps must be 1 or more, and --batch-size 2 to {PAIRS}.")
    run(open_scenes(get_profile("laptop").scenes), options.steps, options.batch_size, options.seed)


if __name__ == "__main__":
    main()
