"""Does a query mean something to a model? Its best cosine against those of random texts, and the words it does not know."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from lcl.deploy.gallery import Gallery
from lcl.eval.metrics import embed_texts
from lcl.models.clip import Clip
from lcl.models.tokenizer import SPECIAL, Tokenizer

RANDOM_TEXTS = 200
USUAL = 0.9  # share of random texts that a query should exceed; `check_query` says how often captions and nonsense do


@dataclass(frozen=True)
class QueryCheck:
    """How a text query stands out in a gallery.

    Attributes:
        best: cosine of the nearest picture.
        words: number of words of the query, at least 1, and of every random text.
        above: share of the random texts whose own best cosine is lower, 0 to 1.
        z: how many standard deviations `best` lies above the mean of the random texts.
        unseen: words of the query that the training captions lacked.
        certain: whether `unseen` comes from a list of the training words, and not from how words split into tokens.
    """

    best: float
    words: int
    above: float
    z: float
    unseen: tuple[str, ...]
    certain: bool

    def __str__(self) -> str:
        texts = f"{RANDOM_TEXTS} texts of {self.words} random word{'s' * (self.words != 1)}"
        return f"the best cosine is higher than that of {self.above:.0%} of {texts} (z = {self.z:+.1f})"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what makes the results doubtful."""
        found = []
        if self.unseen:
            how = "were not in the captions that its tokenizer was trained on"
            if not self.certain:
                guess = "a guess from their tokens, since the model has no list of its training words; exports leave it out"
                how = f"were rare or missing in its training ({guess})"
            found.append(f"the model may not know these words: {', '.join(self.unseen)}; they {how}.")
        if self.above < USUAL:
            found.append(
                "random words get about as near, so the folder may show nothing of the kind, or the query may mean nothing to "
                "this model; use words of its training captions."
            )
        return tuple(found)


def check_query(gallery: Gallery, model: Clip, tokenizer: Tokenizer, words: str, seed: int = 0) -> QueryCheck:
    """Compare a query's best cosine with those of random texts with as many words, in the same gallery (our reading).

    A cosine says little by itself: a text always has a nearest picture. We measured with chapter 3's model. In a gallery of
    20 scenes, all of their captions exceeded 90 % of the random texts, and 1 of 20 nonsense texts did. In a gallery of 200,
    77 % of 60 captions did, and 1 of 20 nonsense texts. We chose the limit of 90 % by these two galleries and one model, and did
    not test it on others. So a query below it is doubtful, and no more than that.

    Args:
        words: the query.
        seed: of the random texts, which are made of whole-word tokens of the vocabulary.
    """
    number = max(1, len(tokenizer.encode([words], model.config.language.context_length).spans[0]))  # "?!" has no word
    tokens, rng = _vocabulary(tokenizer), random.Random(seed)
    texts = [" ".join(rng.choices(tokens, k=number)) for _ in range(RANDOM_TEXTS)]
    cosines = embed_texts(model, tokenizer, [words, *texts]) @ gallery.v.T  # (1 + R, N)
    best, *others = cosines.amax(1).double().tolist()
    others = torch.tensor(others, dtype=torch.float64)
    z = (best - others.mean()) / others.std().clamp(min=1e-12)
    above, certain = (others < best).double().mean().item(), tokenizer.training_words is not None
    return QueryCheck(best, number, above, z.item(), tuple(tokenizer.unseen(words)), certain)


def _vocabulary(tokenizer: Tokenizer) -> list[str]:
    """The tokens that can be words: letters only, two or more in the Latin alphabet. All letters if there is none."""
    tokens = tokenizer.decode(range(len(SPECIAL), tokenizer.vocab_size))
    return [token for token in tokens if token.isalpha() and len(token.encode()) > 1] or [t for t in tokens if t.isalpha()]
