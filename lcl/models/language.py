"""Short text towers: a pre-norm transformer from scratch and any encoder of transformers, with the same outputs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from lcl.bpe import BEGIN, END, PAD, SPECIAL
from lcl.config import LanguageConfig, LclError, need, require
from lcl.models.layers import Block, pack, unpack
from lcl.models.pretrained import PACKAGED_TEXT, in_package, offline
from lcl.models.tokenizer import Tokens


class TextFeatures(NamedTuple):
    """The outputs of a text tower: token_features (B, L, d), and pooled (B, d), of the whole caption."""

    token_features: torch.Tensor
    pooled: torch.Tensor


Inject = Mapping[int, Callable[[torch.Tensor], torch.Tensor]]
"""Functions from tokens to tokens, (T, d) or (B, L, d), see `pack`, applied after a block, by its number from 1: how an image
enters the text."""


class TextTransformer(nn.Module):
    """Token and position embeddings, 1 to 12 pre-norm blocks; `pooled` is the mean over all tokens but padding.

    Attention is bidirectional and ignores padding: the same blocks predict masked words in chapter 6.
    """

    def __init__(self, vocab_size: int, context_length: int, width: int, depth: int, heads: int):
        super().__init__()
        self.width = width
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(torch.empty(context_length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)

    def forward(self, tokens: Tokens, inject: Inject | None = None) -> TextFeatures:
        x = self.tokens(tokens.ids) + self.positions[: tokens.ids.shape[1]]  # (B, L, d)
        x = pack(x, tokens.mask)  # (T, d) on a CPU: half of a batch is padding, which would be computed for nothing
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, tokens.mask)
            if inject and number in inject:
                x = inject[number](x)
        x = unpack(self.norm(x), tokens.mask)  # (B, L, d)
        return TextFeatures(x, mean_over(x, tokens.mask))


class HubTower(nn.Module):
    """Any encoder of transformers, by architecture name or local folder, with this library's tokens.

    The name of an architecture ("bert", "distilbert", "roberta", …) makes a new, small one of that kind; anything else is
    loaded, as safetensors only, from a package ("all-MiniLM-L6-v2"), a folder, or the hub's cache. Its blocks are pre-trained;
    its embedding table is learned anew, since our token ids have other meanings there.

    Args:
        name: of an architecture or a model.
        config: of the tower; a model by name brings its own width, depth and heads.
        settings: of a saved model by name, as `settings` gave them; it is then made without weights, and looked for nowhere.

    Raises:
        LclError: for a model that is not on this machine, does not take padded captions of `context_length` tokens, or needs
            a decoder; for an architecture with `config.pretrained`.
    """

    @offline()
    def __init__(self, name: str, config: LanguageConfig, settings: dict | None = None):
        super().__init__()
        transformers = need("transformers", "teachers")  # takes seconds
        transformers.utils.logging.disable_progress_bar()  # of a fifth of a second

        self._by_name = name not in transformers.CONFIG_MAPPING
        try:
            require(self._by_name or not config.pretrained, "it is an architecture without weights")
            if not self._by_name:
                settings = {
                    "vocab_size": config.vocab_size,
                    "hidden_size": config.width,
                    "num_hidden_layers": config.depth,
                    "num_attention_heads": config.heads,
                    "intermediate_size": 4 * config.width,
                    "max_position_embeddings": config.context_length + 2,  # some count from 2
                    **{
                        f"{name}_token_id": SPECIAL.index(token)
                        for name, token in (("pad", PAD), ("bos", BEGIN), ("eos", END))
                    },
                }
                known = transformers.CONFIG_MAPPING[name]()
                renamed = {known.attribute_map.get(key, key): value for key, value in settings.items()}
                if "hidden_dim" in known.to_dict():  # DistilBERT's name for the width of its MLP
                    renamed["hidden_dim"] = settings["intermediate_size"]
                self.body = transformers.AutoModel.from_config(type(known)(**renamed))
            elif settings is not None:
                require("model_type" in settings, "model.json does not hold its configuration")
                kind = transformers.CONFIG_MAPPING[settings["model_type"]]
                require(not kind.sub_configs, "it is made of several models")  # which could have weights on the hub
                known = kind().to_dict().keys()  # leaves out what names code: auto_map, kernels
                settings = {key: value for key, value in settings.items() if key in known}
                self.body = transformers.AutoModel.from_config(kind.from_dict(settings), trust_remote_code=False)
            else:
                where = in_package(*PACKAGED_TEXT[name]) if name in PACKAGED_TEXT else name
                self.body = transformers.AutoModel.from_pretrained(
                    where, local_files_only=True, use_safetensors=True, trust_remote_code=False
                )
                self.body.resize_token_embeddings(config.vocab_size)
            require(not self.body.config.is_encoder_decoder, "it is an encoder and a decoder")
            ids = torch.full((1, config.context_length), len(SPECIAL))  # some models fail only in their first forward pass
            self.width = self.body.config.hidden_size
            depth = self.body.config.num_hidden_layers
            lists = [module for module in self.body.modules() if isinstance(module, nn.ModuleList)]
            self._blocks = [next(iter(stack for stack in lists if len(stack) == depth), ())]  # in a list: not ours twice
            if not ids.is_meta:
                with torch.no_grad():
                    self.eval()(Tokens(ids, torch.ones_like(ids, dtype=torch.bool), ids, ((),)))
            self.train()
        except Exception as error:  # every model has its own
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise LclError(
                f"transformers cannot make the text tower {name!r} ({reason}); name an architecture such as bert, "
                f"or, for its weights, {' or '.join(PACKAGED_TEXT)}, a folder, or a model that `hf download` has fetched."
            ) from None

    @property
    def settings(self) -> dict | None:
        """The settings of a model by name, JSON-able, so that a saved one opens where the model is not; else None."""
        return json.loads(self.body.config.to_json_string(use_diff=False)) if self._by_name else None

    @property
    def tokens(self) -> nn.Module:
        """The table of token embeddings."""
        return self.body.get_input_embeddings()

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks in order; empty for an architecture that does not list them."""
        return self._blocks[0]

    def forward(self, tokens: Tokens, inject: Inject | None = None) -> TextFeatures:
        with contextlib.ExitStack() as hooks:  # the blocks are not ours: inject by hooks, for this call
            for number, change in (inject or {}).items():
                hooks.enter_context(_hooked(self.blocks[number - 1], change, tokens.mask))
            x = self.body(input_ids=tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state  # (B, L, d)
        return TextFeatures(x, mean_over(x, tokens.mask))


@contextlib.contextmanager
def _hooked(block: nn.Module, change: Callable[[torch.Tensor], torch.Tensor], mask: torch.Tensor) -> Iterator[None]:
    def after(module: nn.Module, inputs: tuple, output: torch.Tensor | tuple) -> torch.Tensor | tuple:
        x = output[0] if isinstance(output, tuple) else output  # (B, L, d)
        x = unpack(change(pack(x, mask)), mask)
        return (x, *output[1:]) if isinstance(output, tuple) else x

    handle = block.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def mean_over(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens that `mask` keeps: x (B, L, d), mask (B, L) bool → (B, d)."""
    weights = mask[..., None].to(x.dtype)
    return (x * weights).sum(1) / weights.sum(1).clamp(min=1)


def make_language(config: LanguageConfig, settings: dict | None = None) -> nn.Module:
    """Make the tower of a config: a module from Tokens to TextFeatures, with a `width` and `blocks`; settings: see `HubTower`."""
    if config.tower == "transformer":
        return TextTransformer(config.vocab_size, config.context_length, config.width, config.depth, config.heads)
    return HubTower(config.tower.removeprefix("hf:"), config, settings)
