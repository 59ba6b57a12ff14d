"""A ranking, as the reward model learns it: one prompt, its K completions and their ranks.

Plain chosen/rejected rows (TRL's preference format, and the shapes of `instruct/pairs.py`) are
rankings of K = 2.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from instruct.errors import UserError
from instruct.pairs import PROMPT_COLUMNS, pair_of, turns_of
from instruct.rows.row_checks import fault_of, kind_of
from instruct.tokens import answer_text, named

# why a ranking says nothing -> as a sentence about several of them
WHY_NONE = {
    "one_completion": "with one completion",
    "equal_texts": "whose completions are all one text",
    "all_tied": "whose completions are all tied",
}


def as_ranking(row: Mapping[str, Any], where: str = "a row") -> dict:
    """One row as {prompt: [messages], completions: [K texts], ranks: [K ints]}.

    Ranks are 1 = best, equal = tie, without gaps; a chosen/rejected pair has ranks 1 and 2. Equal
    texts share a rank, so they form no pair. A row without `prompt` whose prompt is in another
    column (`question`, `instruction` …) says so in `read_as`.

    Raises:
        UserError: names `where`; missing columns, an empty prompt, ranks that are no whole numbers
            or not one per completion, conversations that do not share all but their last turn.
    """
    with named(where):
        return ranking_of(row)


def ranking_of(row: Mapping[str, Any]) -> dict:
    """`as_ranking`, whose sentences do not say where the row is."""
    completions, ranks = row.get("completions"), row.get("ranks")
    # 1. A pair is a ranking of two
    if completions is None and row.get("chosen") is not None and row.get("rejected") is not None:
        prompt, texts, used = pair_of(row)
        found = ranked(prompt, texts, [1, 2])
        instead = [name for name in used if name in PROMPT_COLUMNS and name != "prompt"]
        if instead:
            found["read_as"] = f"no `prompt`; {' and '.join(instead)} taken for it"
        return found
    # 2. What would fail later, or teach something wrong, is told with its row
    if completions is None or ranks is None or row.get("prompt") is None:
        raise UserError(
            "a ranking needs `prompt`, `completions` and `ranks` (or `chosen` and `rejected`)"
        )
    prompt, texts, ranks = asked_of(row["prompt"]), answers_in(completions), listed(ranks)
    if fault := fault_of("ranks", ranks):
        raise UserError(f"'ranks' {fault}")
    return ranked(prompt, texts, ranks)


def asked_of(prompt: Any) -> list[dict]:
    """The column `prompt` as messages; a text is what the user says, whatever stands in it.

    Raises:
        UserError: it is blank, or no conversation.
    """
    text = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    try:
        messages = turns_of(text, "user")
    except UserError as error:
        raise UserError(f"'prompt' {error}") from error
    if fault := fault_of("prompt", messages):
        raise UserError(f"'prompt' {fault}")
    return messages


def answers_in(completions: Any) -> list[str]:
    """The column `completions` as texts; each is a text or the assistant's message.

    Raises:
        UserError: names the number of one that is neither.
    """
    completions = listed(completions)
    if not isinstance(completions, list):
        raise UserError(f"'completions' is {kind_of(completions)}, expected a list of texts")
    texts = []
    for number, completion in enumerate(completions, 1):
        try:
            # text as it is: a token of it may be what was sampled
            is_text = isinstance(completion, str)
            texts.append(completion if is_text else answer_text(turns_of(completion, "assistant")))
        except UserError as error:
            raise UserError(f"'completions' number {number} {error}") from error
    return texts


def listed(value: Any) -> Any:
    """A JSON list as text, as CSV files hold it -> the list; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def ranked(prompt: list[dict], completions: list[str], ranks: Sequence[float]) -> dict:
    """A ranking of these texts; `ranks` are any numbers, the smallest is the best.

    Raises:
        UserError: a blank prompt, not one rank for each completion.
    """
    if fault := fault_of("prompt", prompt):
        raise UserError(f"the prompt {fault}")
    if len(ranks) != len(completions):
        raise UserError(
            f"{len(ranks)} ranks for {len(completions)} completions; one rank each is needed"
        )
    return {
        "prompt": prompt,
        "completions": completions,
        "ranks": dense_ranks(_of_texts(completions, ranks)),
    }


def dense_ranks(values: Sequence[float]) -> list[int]:
    """Ranks 1, 2, 3 … of numbers, the smallest first; equal numbers share one."""
    places = {value: place for place, value in enumerate(sorted(set(values)), 1)}
    return [places[value] for value in values]


def _of_texts(completions: list[str], ranks: Sequence[float]) -> list[float]:
    """The rank of each text: the mean of all it was given, as no model can tell equal ones apart.

    A pair of equal texts would push one score up and down.
    """
    given: dict[str, list[float]] = {}
    for text, rank in zip(completions, ranks, strict=True):
        given.setdefault(text, []).append(rank)
    return [sum(given[text]) / len(given[text]) for text in completions]


def equal_text_pairs(completions: Sequence[str]) -> int:
    """How many pairs of a ranking are one text twice."""
    counts = [list(completions).count(text) for text in set(completions)]
    return sum(n * (n - 1) // 2 for n in counts)


def why_no_preference(row: Mapping[str, Any]) -> str | None:
    """None for a usable ranking, else why it carries no preference: a key of `WHY_NONE`."""
    completions, ranks = row["completions"], row["ranks"]
    if len(completions) < 2:
        return "one_completion"
    if len(set(ranks)) > 1:
        return None
    return "equal_texts" if len(set(completions)) == 1 else "all_tied"


def key_of(value) -> int:
    """A stable 56-bit key of any JSON value, small enough to ride in an int64 tensor."""
    # not `hash`: Python salts it, so processes would disagree
    text = json.dumps(value, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
