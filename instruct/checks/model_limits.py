"""What a model can take, asked before it is trained or sampled: positions and token ids."""

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from instruct.errors import UserError
from instruct.processes import is_main_process

# What models call their table of absolute positions, an embedding or a buffer. Relative positions
# have other names, and none of RoPE, ALiBi and recurrent models has a table.
TABLE = re.compile(r"(wpe|positions?_embed\w*|embed_positions?|pos_embed\w*|pos_encoding)")
# numbers of trained positions that were told of
_told: set[int] = set()


@dataclass(frozen=True)
class Limits:
    """A model's limits.

    Attributes:
        positions: rows of its table of absolute positions, the most tokens of a row; None where it
            has no table.
        vocabulary: rows of the embedding.
        trained: tokens of the rows that a model with RoPE was made for; longer ones work, worse.
    """

    positions: int | None
    vocabulary: int
    trained: int | None = None

    def check(self, ids: list[int], where: str, new: int = 0, shorter: str = "") -> None:
        """Refuses a row that the model cannot take; tells once of one it was not trained for.

        Args:
            ids: the row's tokens.
            where: what the row is called.
            new: tokens that will be sampled after it.
            shorter: the flag that makes rows shorter.

        Raises:
            UserError: too long for the positions, or a token beyond the embedding.
        """
        if self.positions is not None and len(ids) + new > self.positions:
            more = f" and {new} new ones" if new else ""
            raise UserError(
                f"{where}: {len(ids)} tokens{more}, but the model has {self.positions} positions"
                f"{f'; {shorter}' if shorter else ''}"
            )
        if self.trained is not None and len(ids) + new > self.trained not in _told:
            _told.add(self.trained)
            if is_main_process():
                print(
                    f"{where}: {len(ids) + new} tokens, and the model was trained on rows of up to "
                    f"{self.trained}; it takes longer ones, and may be worse at them"
                )
        if ids and max(ids) >= self.vocabulary:
            raise UserError(
                f"{where}: its token {max(ids)} is beyond the model's embedding of "
                f"{self.vocabulary} rows; this tokenizer has more tokens than the model"
            )


def limits_of(config: PretrainedConfig) -> Limits:
    """The limits of the model that a configuration describes.

    Model code from the Hub is not asked for its positions.
    """
    # of several modalities, the text's: an image has positions of its own
    text = config.get_text_config()
    return Limits(_table_rows(text), text.vocab_size, _trained_rows(text))


def _table_rows(config: PretrainedConfig) -> int | None:
    """The tokens that the table of absolute positions has rows for; None without a table."""
    mappings = (MODEL_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING)
    found = next((m[type(config)] for m in mappings if type(config) in m), None)
    if found is None:
        return None
    model_class = found[0] if isinstance(found, tuple) else found
    # asked of the model itself: no field of the configuration says whether there is a table
    with torch.device("meta"):  # no memory, no random numbers
        model = model_class(copy.deepcopy(config))
    tables, looked_up = [], []
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and TABLE.fullmatch(_last(name)):
            # RoBERTa's first position is one after pad, OPT's table has two rows more
            after_pad = 0 if module.padding_idx is None else module.padding_idx + 1
            tables.append(module.num_embeddings - getattr(module, "offset", after_pad))
    for name, buffer in model.named_buffers():
        if TABLE.fullmatch(_last(name)):
            tables.append(buffer.shape[0])  # sines, computed once
        elif _last(name) == "position_ids":
            looked_up.append(buffer.shape[-1])
    return min(tables + looked_up) if tables else None


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _trained_rows(config: PretrainedConfig) -> int | None:
    """The longest rows that a model with RoPE was made for; None of any other."""
    rope = getattr(config, "rope_parameters", None)
    stated = getattr(config, "max_position_embeddings", None)
    if not rope or not stated:
        return None
    # one for all layers, or one for each kind of layer
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    # stated is what YaRN began with (Qwen2.5), or what it was stretched to (Llama 3)
    rows = [stated]
    for part in parts:
        begun = part.get("original_max_position_embeddings") or stated
        rows.append(int(begun * (part.get("factor") or 1)))
    return max(rows)


def check_special_tokens(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    """Refuses a tokenizer that pads or ends with a token the model has no embedding for.

    Raises:
        UserError: names the token, its id and the flag.
    """
    vocabulary = config.get_text_config().vocab_size
    for kind in ("pad", "eos", "bos"):
        token, number = (getattr(tokenizer, f"{kind}_token{end}") for end in ("", "_id"))
        if number is not None and number >= vocabulary:
            raise UserError(
                f"{name}: its {kind} token {token!r} has id {number}, beyond the model's embedding "
                f"of {vocabulary} rows; in tokenizer_config.json name one of the tokens it has"
            )


def check_prompts(
    config: PretrainedConfig, prompts: Iterable[tuple[str, list[int]]], new: int
) -> None:
    """`Limits.check` of every (name, ids), before the first of them is sampled from."""
    limits = limits_of(config)
    for where, ids in prompts:
        limits.check(ids, where, new, "lower --max_new_tokens, or leave that prompt out")
