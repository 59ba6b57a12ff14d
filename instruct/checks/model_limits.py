"""What a model can take, asked before it is trained or sampled: positions and token ids."""

from dataclasses import dataclass

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from instruct.files import UserError

# Their first position is one after pad, so a table of 514 holds 512.
AFTER_PAD = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm")


@dataclass(frozen=True)
class Limits:
    """A model's limits.

    Attributes:
        positions: tokens of a row; None where there is no limit (ALiBi, Mamba, growing RoPE).
        vocabulary: rows of the embedding.
    """

    positions: int | None
    vocabulary: int

    def check(self, ids: list[int], where: str, new: int = 0, shorter: str = "") -> None:
        """Refuses a row that the model cannot take.

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
        if ids and max(ids) >= self.vocabulary:
            raise UserError(
                f"{where}: its token {max(ids)} is beyond the model's embedding of "
                f"{self.vocabulary} rows; this tokenizer has more tokens than the model"
            )


def limits_of(config: PretrainedConfig) -> Limits:
    """The limits of the model that a configuration describes."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if "dynamic" in (rope.get("rope_type"), rope.get("type")):
        positions = None  # stretched to whatever comes
    if positions is not None and text.model_type in AFTER_PAD:
        positions -= (text.pad_token_id or 0) + 1
    if not isinstance(positions, int) or positions <= 0:
        positions = None
    return Limits(positions, text.vocab_size)


def check_special_tokens(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    """Refuses a tokenizer that pads or ends with a token the model has no embedding for.

    Raises:
        UserError: names the token, its id and the flag.
    """
    vocabulary = limits_of(config).vocabulary
    for kind in ("pad", "eos", "bos"):
        token, number = (getattr(tokenizer, f"{kind}_token{end}") for end in ("", "_id"))
        if number is not None and number >= vocabulary:
            raise UserError(
                f"{name}: its {kind} token {token!r} has id {number}, beyond the model's embedding "
                f"of {vocabulary} rows; in tokenizer_config.json name one of the tokens it has"
            )


def check_prompts(
    config: PretrainedConfig, prompts: list[list[int]], source: str, new: int
) -> None:
    """`Limits.check` of every prompt, before the first of them is sampled from."""
    limits = limits_of(config)
    for number, ids in enumerate(prompts, 1):
        limits.check(ids, f"{source}, row {number}", new, "lower --max_new_tokens")
