"""A ranking, as the reward model learns it: one prompt, its K completions and their ranks.

Plain chosen/rejected rows (TRL's preference format, with an explicit or an implicit prompt, text or
conversational) are rankings of K = 2.
"""

import hashlib
import json

from trl import extract_prompt

from instruct.files import UserError
from instruct.tokens import as_messages, as_text


def as_ranking(row: dict, where: str = "a row") -> dict:
    """One row as {prompt: [messages], completions: [K texts], ranks: [K ints]}.

    Ranks are 1 = best, equal = tie; a chosen/rejected pair has ranks 1 and 2.

    Raises:
        UserError: names `where`; missing columns, an empty prompt, ranks that are no integers or
            not one per completion.
    """
    prompt = row.get("prompt")
    completions, ranks = row.get("completions"), row.get("ranks")
    # 1. A pair is a ranking of two
    if completions is None and row.get("chosen") is not None and row.get("rejected") is not None:
        pair = {"chosen": row["chosen"], "rejected": row["rejected"]}
        if prompt is None:
            # TRL's implicit prompt: what both texts begin with
            pair = extract_prompt(pair)
            prompt = pair["prompt"]
        completions, ranks = [pair["chosen"], pair["rejected"]], [1, 2]
    # 2. What would fail later, or teach something wrong, is told with its row
    if completions is None or ranks is None or prompt is None:
        raise UserError(
            f"{where}: a ranking needs `prompt`, `completions` and `ranks` "
            "(or `chosen` and `rejected`)"
        )
    if any(not isinstance(c, str | list) for c in completions):
        raise UserError(f"{where}: every completion must be text or a list of messages")
    if len(ranks) != len(completions):
        raise UserError(
            f"{where}: {len(ranks)} ranks for {len(completions)} completions; "
            "one rank each is needed"
        )
    # a score in the place of a rank would turn the order around
    if not all(map(_is_integer, ranks)):
        raise UserError(
            f"{where}: ranks must be integers (1 = best, equal = tie), found {list(ranks)}"
        )
    # 3. Role and content only: other keys would make one prompt look like two
    messages = [{"role": m["role"], "content": m["content"]} for m in as_messages(prompt)]
    if not messages or not (messages[-1]["content"] or "").strip():
        raise UserError(f"{where}: an empty prompt")
    return {
        "prompt": messages,
        "completions": [as_text(c) for c in completions],
        "ranks": [int(r) for r in ranks],
    }


def _is_integer(rank) -> bool:
    """2 and 2.0 are (Parquet files of other tools hold floats), True and 2.5 are not."""
    return isinstance(rank, int | float) and not isinstance(rank, bool) and rank == int(rank)


def key_of(value) -> int:
    """A stable 56-bit key of any JSON value, small enough to ride in an int64 tensor."""
    # not `hash`: Python salts it, so processes would disagree
    text = json.dumps(value, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
