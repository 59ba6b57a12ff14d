"""A ranking, as the reward model learns it: one prompt, its K completions and their ranks.

Plain chosen/rejected rows (TRL's preference format, with an explicit or an implicit prompt, text or
conversational) are rankings of K = 2.
"""

import hashlib
import json

from trl import extract_prompt

from instruct.errors import UserError
from instruct.rows.row_checks import fault_of
from instruct.tokens import RENDERED, answer_text, as_messages, for_template, named


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
        _check_pair(pair, where)
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
    values = {"prompt": prompt, "completions": completions, "ranks": ranks}
    for name, value in values.items():
        if fault := fault_of(name, value):
            raise UserError(f"{where}: {name!r} {fault}")
    if len(ranks) != len(completions):
        raise UserError(
            f"{where}: {len(ranks)} ranks for {len(completions)} completions; "
            "one rank each is needed"
        )
    # 3. What a template renders, no more: other keys would make one prompt look like two
    with named(where):
        messages = [
            {key: m[key] for key in RENDERED if key in m}
            for m in map(for_template, as_messages(prompt))
        ]
        texts = [answer_text(c) for c in completions]
    return {
        "prompt": messages,
        "completions": texts,
        "ranks": [int(r) for r in ranks],
    }


def _check_pair(pair: dict, where: str) -> None:
    """That `chosen` and `rejected` are two texts or two lists of messages."""
    for name, value in pair.items():
        # "" has no beginning to share
        fault = fault_of("completion", value) or ("is empty" if value == "" else None)
        if fault:
            raise UserError(f"{where}: {name!r} {fault}")
    if type(pair["chosen"]) is not type(pair["rejected"]):
        raise UserError(f"{where}: one of `chosen` and `rejected` is text, the other messages")


def key_of(value) -> int:
    """A stable 56-bit key of any JSON value, small enough to ride in an int64 tensor."""
    # not `hash`: Python salts it, so processes would disagree
    text = json.dumps(value, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
