"""Demonstrations as SFT trains on them: tokens, and which of them are the answer's."""

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from instruct.checks.model_limits import Limits
from instruct.errors import UserError
from instruct.plain_text import plain
from instruct.tokens import encode_answers_of


def tokenize(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    name: str,
    limits: Limits | None = None,
    num_proc: int | None = None,
) -> Dataset:
    """Demonstrations -> what SFTTrainer takes as tokenised: `input_ids` and `completion_mask`.

    By the token contract (`instruct/tokens.py`): as TRL does it, up to the end of the answer.
    Rows longer than `max_length` are left out and counted; a cut one would teach not to end.

    Args:
        name: what the rows are called in a message.
        limits: of the model; a row that it cannot take is an error.
        num_proc: processes that tokenize.

    Raises:
        UserError: no row is left, or one has more tokens than the model has positions.
    """

    def encode(row, index):
        where = f"{name}, row {index + 1}"
        prompt, (completion,) = encode_answers_of(tokenizer, row, [row["completion"]], where)
        row_is_kept = max_length is None or len(prompt + completion) <= max_length
        if limits is not None and row_is_kept:
            shorter = f"--max_length {limits.positions} leaves such rows out"
            limits.check(prompt + completion, where, shorter=shorter)
        return {
            "input_ids": prompt + completion,
            "completion_mask": [0] * len(prompt) + [1] * len(completion),
        }

    # TRL trains on tokenised rows as they are
    encoded = rows.map(
        encode,
        with_indices=True,
        num_proc=num_proc,
        remove_columns=rows.column_names,
        desc=f"tokenizing {plain(name)}",
    )
    short = encoded.filter(lambda row: max_length is None or len(row["input_ids"]) <= max_length)
    if len(short) < len(encoded):
        too_long = len(encoded) - len(short)
        print(f"{name}: {too_long} rows longer than --max_length {max_length} tokens left out")
    if not len(short):
        raise UserError(f"{name}: every row is longer than --max_length {max_length} tokens")
    return short
