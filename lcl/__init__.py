"""LCL, the Lightweight CLIP Lab: a small library behind a course on lightweight vision-language models.

Read it in this order: `scenes` makes pairs, `text` turns captions into tokens, `vision`, `language` and `model` turn
both into embeddings, `contrastive`, `matching`, `fusion` and `guidance` turn embeddings into losses, `recipes` weighs them,
`training` lowers the sum, `evaluation` measures what was learned. A module imports only from rows above its own (see
README, "The house").
"""

__version__ = "0.1.0"


def __getattr__(name: str):
    """`lcl.diagnose(run)`, without loading torch for those who only ask for the version."""
    if name == "diagnose":
        from lcl.train.diagnosis import diagnose

        return diagnose
    raise AttributeError(f"module 'lcl' has no attribute {name!r}")
