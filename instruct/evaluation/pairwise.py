"""A judge that compares: every two models' answers to each prompt, and who wins.

Win rates come from the pairs themselves. An answer's score, which stands beside those of other
judges, is the share of its comparisons that it wins.
"""

from pathlib import Path

from instruct.errors import UserError
from instruct.evaluation.answers import keep
from instruct.evaluation.llm_judge import LLMJudge, Pair, Tally, outcome
from instruct.evaluation.statistics import win_rate
from instruct.hashes import hash_of

ROWS_AT_ONCE = 16  # pairs between two notes on disk
NOTE = "against"  # column of the kept answers: {judge: {other model: what was said}}


def add_wins(
    answers: dict[str, list[dict]], judge: LLMJudge, name: str, key: str, output_dir: Path
) -> None:
    """Adds `wins` {judge: {other model: 1, 0.5 or 0}} and the score of `name` to each answer.

    What the judge says is kept with the answers as it comes: nothing readable is asked twice.

    Args:
        name, key: of the judge, and what it is by content.

    Raises:
        UserError: one model alone, too many replies unreadable, or what the server's errors come
            to.
    """
    names = list(answers)
    if len(names) < 2:
        raise UserError(f"--judge {name}: compares answers; give two models or more (--models)")
    judge.tally = Tally()
    pairs = [(ours, theirs) for i, ours in enumerate(names) for theirs in names[:i]]
    found = {pair: _compared(answers, pair, judge, name, key, output_dir) for pair in pairs}
    judge.add([], is_last=True)
    for rows in answers.values():
        for row in rows:
            row.setdefault("wins", {})[name] = {}
    for (ours, theirs), verdicts in found.items():
        for one, other, verdict in zip(answers[ours], answers[theirs], verdicts, strict=True):
            won = outcome(verdict)
            one["wins"][name][theirs], other["wins"][name][ours] = won, 1 - won
    for rows in answers.values():
        for row in rows:
            won = row["wins"][name].values()
            row.setdefault("scores", {})[name] = sum(won) / len(won)


def _compared(
    answers: dict[str, list[dict]],
    pair: tuple[str, str],
    judge: LLMJudge,
    name: str,
    key: str,
    output_dir: Path,
) -> list[list]:
    """The verdict on each prompt's pair of answers, those of an earlier run among them."""
    ours, theirs = pair
    rows = answers[ours]
    asked = [
        Pair(row["prompt"], row["completion"], other["completion"])
        for row, other in zip(rows, answers[theirs], strict=True)
    ]
    keys = [hash_of([key, *pair]) for pair in asked]
    notes = [row.setdefault(NOTE, {}).setdefault(name, {}) for row in rows]
    kept = [note.get(theirs, {}) for note in notes]
    verdicts = [
        found["verdict"] if found.get("key") == key and None not in found["verdict"] else None
        for found, key in zip(kept, keys, strict=True)
    ]
    judge.add([verdict for verdict in verdicts if verdict is not None])
    new = [i for i, verdict in enumerate(verdicts) if verdict is None]
    for start in range(0, len(new), ROWS_AT_ONCE):
        some = new[start : start + ROWS_AT_ONCE]
        for i, verdict in zip(some, judge.verdicts([asked[i] for i in some]), strict=True):
            verdicts[i] = verdict
            notes[i][theirs] = {"key": keys[i], "verdict": verdict}
        keep(output_dir, rows)
        judge.add([verdicts[i] for i in some])
    return verdicts


def pair_win_rates(answers: dict[str, list[dict]], users: list[str], name: str) -> dict[str, dict]:
    """`win_rate` of every model against each one named before it, by what a judge compared."""
    rates, names = {}, list(answers)
    for i, ours in enumerate(names):
        for theirs in names[:i]:
            won = [row["wins"][name][theirs] for row in answers[ours]]
            # a share won is above, at or below the half of a tie
            rates[f"{ours}_vs_{theirs}"] = win_rate(won, [0.5] * len(won), users)
    return rates
