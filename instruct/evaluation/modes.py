"""How a model is asked: by its chat template, or as the paper's baselines are (section 3.5).

    NAME=PATH                   by the chat template, as every step of this repo does
    NAME=PATH:raw               the prompt alone, as plain text: the paper's GPT
    NAME=PATH:few_shot=FILE     after some pairs of FILE, as plain text: the paper's GPT (prompted)

Plain text has no turns, so there an answer ends with its first line that is not blank, or where the
model begins to ask the next question itself.
"""

import random
import re
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from instruct.arguments import parse_models
from instruct.errors import UserError
from instruct.plain_text import one_line
from instruct.rows.splits import stem_of
from instruct.tokens import as_messages, as_text, encode_prompt_of
from instruct.turns import turn_end

CHAT, RAW, FEW_SHOT = "chat", "raw", "few_shot"
WAYS = ":raw for the bare prompt, :few_shot=FILE for examples before it"
EXAMPLES = 4  # pairs of question and answer before a question
# words in the name of a file of rows that nothing is trained on
HELD_OUT = frozenset("validation valid val dev test eval evaluation heldout holdout".split())
LONGEST_EXAMPLE = 400  # characters of a pair: it is read again before every question
QUESTION, ANSWER = "Question:", "Answer:"
_NEW_LINE = re.compile(r"[\n\r\u2028\u2029]")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")  # of Windows


class Asked(NamedTuple):
    """A model and how it is asked.

    Attributes:
        file: of `few_shot`, where the examples come from.
    """

    path: str
    mode: str = CHAT
    file: str | None = None

    @property
    def is_chat(self) -> bool:
        return self.mode == CHAT


################
# As it is typed
################


def parse_asked(pairs: list[str]) -> dict[str, Asked]:
    """The values of `--models`, `name=path` or `name=path:mode`, in the order they were typed.

    Raises:
        UserError: as `parse_models`, a mode that there is not, held-out rows as examples, or names
            whose pairs read alike.
    """
    models = {name: _asked(name, value) for name, value in parse_models(pairs).items()}
    for name, (_, mode, file) in models.items():
        if mode == FEW_SHOT and is_held_out(file):
            raise UserError(
                f"--models {name}=…:{FEW_SHOT}={file}: held-out rows are no examples; give the "
                "training rows, or the folder that holds them"
            )
    pairs_named: dict[str, tuple[str, str]] = {}
    for pair in permutations(models, 2):
        key = "_vs_".join(pair)  # what a report calls them
        other = pairs_named.setdefault(key, pair)
        if other != pair:
            raise UserError(
                f"--models: {' and '.join(pair)}, {' and '.join(other)} are both the pair {key} "
                "in a report; give one of them another name"
            )
    return models


def described(models: dict[str, Asked]) -> dict[str, dict]:
    """`path` and `mode` of each model, as a report holds them."""
    return {name: {"path": asked.path, "mode": asked.mode} for name, asked in models.items()}


def _asked(name: str, value: str) -> Asked:
    # what is there is meant, however it is called
    if Path(value).exists():
        return Asked(value)
    path, given, file = value.rpartition(f":{FEW_SHOT}=")
    if not given:
        path, given, mode = value.rpartition(":")
        # a drive's colon and one within a path are no mode
        if not given or _DRIVE.fullmatch(value[: len(path) + 2]) or _is_path(mode):
            return Asked(value)
        if mode != RAW:
            raise UserError(_no_mode(name, value, mode))
        found = Asked(path, RAW)
    else:
        found = Asked(path, FEW_SHOT, file)
        if not file:
            raise UserError(_no_mode(name, value, FEW_SHOT))
    if not path:
        raise UserError(f"--models {name}={value}: a model's path is missing before its mode")
    return found


def _is_path(mode: str) -> bool:
    return re.search(r"[\\/]", mode.partition("=")[0]) is not None


def _no_mode(name: str, value: str, mode: str) -> str:
    word = mode.partition("=")[0]
    why = f"no such mode as {word!r}"
    if word in (RAW, FEW_SHOT):
        why = f"{word} takes no value" if word == RAW else f"{word} needs a file"
    return one_line(f"--models {name}={value}: {why}; after a model's path stands {WAYS}")


################
# Examples
################


def is_held_out(file: str) -> bool:
    """Whether a file is, by its name, of another split than the training rows."""
    words = re.split(r"[^a-z]+", stem_of(Path(file)).lower())
    return Path(file).is_file() and not set(words).isdisjoint(HELD_OUT)


def draw_examples(rows: list[dict], asked: list[dict], file: str, seed: int) -> list[list[str]]:
    """Pairs of question and answer for `few_shot`, drawn with `seed`, none of what is asked.

    Args:
        rows: demonstrations: `prompt`, `completion`, and `prompt_id`, `user_id` where known.
        asked: the prompts that are evaluated on.

    Raises:
        UserError: no row is of use.
    """
    known = {key: {str(row[key]) for row in asked} for key in ("prompt_id", "user_id")}
    questions = {question_of(row["prompt"]) for row in asked}
    pairs = []
    for row in rows:
        question, answer = question_of(row["prompt"]), " ".join(as_text(row["completion"]).split())
        held_out = question in questions or any(
            row.get(key) is not None and str(row[key]) in ids for key, ids in known.items()
        )
        if answer and not held_out and len(question) + len(answer) <= LONGEST_EXAMPLE:
            pairs.append([question, answer])
    if not pairs:
        raise UserError(
            f"--models …:{FEW_SHOT}={file}: none of its {len(rows)} rows can be an example: an "
            f"answer, at most {LONGEST_EXAMPLE} characters, and no prompt or user of --input"
        )
    return random.Random(seed).sample(pairs, min(EXAMPLES, len(pairs)))


################
# Plain text
################


def question_of(prompt: str | list[dict]) -> str:
    """A prompt's words as plain text, a message after the other."""
    return "\n".join(as_text([message]) for message in as_messages(prompt)).strip()


def plain_prompt(question: str, mode: str, examples: Sequence[Sequence[str]] = ()) -> str:
    """The text that a model goes on from."""
    if mode == RAW:
        # a line of its own: else a bare sentence is gone on with, or ended
        return f"{question}\n"
    shown = "".join(f"{QUESTION} {asked}\n{ANSWER} {answer}\n\n" for asked, answer in examples)
    return f"{shown}{QUESTION} {question}\n{ANSWER}"


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    row: dict,
    where: str,
    mode: str = CHAT,
    examples: Sequence[Sequence[str]] = (),
) -> list[int]:
    """The ids that a model is given for a row."""
    if mode == CHAT:
        return encode_prompt_of(tokenizer, row, where)
    # as plain text is encoded: a bos where the tokenizer has one, and nothing that would end it
    ids = tokenizer(plain_prompt(question_of(row["prompt"]), mode, examples))["input_ids"]
    return ids[:-1] if len(ids) > 1 and ids[-1] in turn_end(tokenizer).ids else ids


################
# Where an answer in plain text ends
################


def first_line(text: str) -> str:
    """The answer in what was sampled after a plain prompt."""
    line = _NEW_LINE.split(text.lstrip(), maxsplit=1)[0]
    return line.partition(QUESTION)[0].strip()


def is_over(text: str) -> bool:
    """Whether more would be no part of the answer."""
    # blank lines before it are none of it
    text = text.lstrip()
    return _NEW_LINE.search(text) is not None or QUESTION in text


def over_after(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> int | None:
    """How many of the ids make a whole answer; None while it may go on."""

    def over(count: int) -> bool:
        return is_over(tokenizer.decode(ids[:count], skip_special_tokens=True))

    if not over(len(ids)):
        return None
    return next(count for count in range(1, len(ids) + 1) if over(count))
