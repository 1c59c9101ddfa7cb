"""LCL, the Lightweight CLIP Lab: a small library behind a course on lightweight vision-language models.

The names in `__all__` are the public interface. Each is imported when it is first used, so that `import lcl` does not load
torch. The rooms, from the bottom up: `lcl.models`, `lcl.losses`, `lcl.data`, `lcl.teachers`, `lcl.eval`, `lcl.train`,
`lcl.deploy`, `lcl.course`, `lcl.cli`; a module imports only from rooms below its own.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "Model": "lcl.deploy.load",
    "Training": "lcl.train.loop",
    "diagnose": "lcl.train.diagnosis",
    "diagnose_encoders": "lcl.train.outside",
    "get_recipe": "lcl.train.recipes",
    "info_nce": "lcl.losses.contrastive",
    "load": "lcl.deploy.load",
}

__all__ = ["Model", "Training", "__version__", "diagnose", "diagnose_encoders", "get_recipe", "info_nce", "load"]


def __getattr__(name: str):
    """Import a public name from its module at first use (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lcl' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Public names too, though they are not imported yet."""
    return sorted({*globals(), *__all__})
