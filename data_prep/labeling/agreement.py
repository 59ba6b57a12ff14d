"""How well labelers agree: with each other, and with the owner's answers to screening items.

The paper's labelers ordered two outputs alike 72.6 ± 1.5 % of the time, those held out 77.3 ± 1.3 %
(section 3.4). A pair counts where both people prefer one of the two, as in
`instruct.evaluation.ranking_metrics.labeler_agreement`; alpha looks at ties as well.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from data_prep.labeling.questions import DEFAULT_QUESTIONS, SENSITIVE
from data_prep.labeling.team import SCREENING_CUTOFF
from instruct.errors import UserError
from instruct.evaluation.ranking_metrics import rank_of_texts
from instruct.evaluation.statistics import cluster_bootstrap

MOST_SHOWN = 50  # items of which people think differently, the most different first


class Compared(NamedTuple):
    """Two people's ranks of one item: `alike` of `pairs` outputs that both order."""

    item: int
    people: tuple[str, str]
    alike: int
    pairs: int


def report(
    answers: Iterable[dict],
    questions: Sequence[str] = DEFAULT_QUESTIONS,
    most: int = MOST_SHOWN,
) -> dict:
    """What there is to say of rankings or judgements.

    Args:
        answers: of `Store.answers`.
        questions: those that labelers were asked, `Project.questions`.
        most: disagreements that are told.

    Returns:
        pairwise: see `rate_of`; screening items count as all others.
        by_pair: [{"labelers": [a, b], "rate", "n_pairs"}], those who have items in common.
        by_labeler: {name: {"others": `rate_of` with all others, **`screening_of`}}.
        alpha: {"ranks", "quality"}: Krippendorff's, of ordinal data; see `alpha_of`.
        disagreements: [{"item", "prompt_id", "prompt", "completions", "answers":
            {labeler: answer}, "opposed", "pairs"}], of `pairs` comparisons `opposed` go against
            each other.
        cutoff: what `below_cutoff` means.

    Raises:
        UserError: the package of alpha is not installed.
    """
    found = [one for one in answers if "ranks" in one["answer"]]
    by_item: dict[int, list[dict]] = defaultdict(list)
    for one in found:
        by_item[one["item"]].append(one)
    compared = [c for group in by_item.values() for c in _compared(group)]
    names = sorted({one["labeler"] for one in found})
    return {
        "pairwise": rate_of(compared),
        "by_pair": _by_pair(compared),
        "by_labeler": {
            name: {
                "others": rate_of([c for c in compared if name in c.people]),
                **screening_of([one for one in found if one["labeler"] == name], questions),
            }
            for name in names
        },
        "alpha": {key: alpha_of(by_item.values(), key) for key in ("ranks", "quality")},
        "disagreements": _disagreements(by_item, compared, most),
        "cutoff": SCREENING_CUTOFF,
    }


def rate_of(compared: list[Compared]) -> dict | None:
    """How often two people order two outputs alike.

    Returns {rate, low, high, n_pairs, n_items}: the 95 % bootstrap interval draws whole items, as
    pairs of one item hang together; None for both ends where there is one item alone. None where
    nothing could be compared.
    """
    compared = [c for c in compared if c.pairs]
    if not compared:
        return None
    pairs = [c.pairs for c in compared]
    items = [c.item for c in compared]
    rates = [c.alike / c.pairs for c in compared]
    rate, low, high = cluster_bootstrap(rates, items, weights=pairs)
    n_items = len(set(items))
    # one cluster drawn again and again is no interval
    low, high = (low, high) if n_items > 1 else (None, None)
    return {"rate": rate, "low": low, "high": high, "n_pairs": sum(pairs), "n_items": n_items}


def screening_of(answers: list[dict], questions: Sequence[str] = DEFAULT_QUESTIONS) -> dict:
    """How one labeler answers the items that the owner has answered (appendix B.1).

    Returns:
        screening: `rate_of` with the owner's ranks.
        screening_flags: {rate, n}: of the questions about sensitive speech that both were asked,
            one for each output, how many have the same yes or no; None where there are none.
        below_cutoff: whether either rate is below the cut-off, or he ordered nothing that the
            owner orders; None where there is nothing to compare.
    """
    screened = [one for one in answers if one["is_screening"] and one["owner"]]
    ranks = rate_of([_with_owner(one) for one in screened])
    asked = [key for key in SENSITIVE if key in questions]
    flags = [same for one in screened for same in _same_flags(one, asked)]
    alike = {"rate": sum(flags) / len(flags), "n": len(flags)} if flags else None
    rates = [part["rate"] for part in (ranks, alike) if part]
    below = any(rate < SCREENING_CUTOFF for rate in rates) if rates else None
    # who ties all that the owner orders agrees with nothing
    if ranks is None and any(
        _preferences(one["row"], one["owner"]["ranks"]).any() for one in screened
    ):
        below = True
    return {"screening": ranks, "screening_flags": alike, "below_cutoff": below}


def alpha_of(groups: Iterable[list[dict]], key: str) -> float | None:
    """Krippendorff's alpha of `ranks` or `quality`, ordinal: 1 is agreement, 0 is chance.

    A unit is one output of an item; numbers of items with other K are taken as the same scale.
    None where no output was looked at by two people, or all gave one and the same number.

    Raises:
        UserError: the package is not installed.
    """
    units = [
        {one["labeler"]: one["answer"][key][place] for one in group}
        for group in groups
        for place in range(len(group[0]["answer"][key]))
    ]
    # others say nothing of agreement; without them the table is small
    units = [{n: v for n, v in unit.items() if v is not None} for unit in units]
    units = [unit for unit in units if len(unit) > 1]
    if len({value for unit in units for value in unit.values()}) < 2:
        return None
    names = sorted({name for unit in units for name in unit})
    table = np.array([[unit.get(name, np.nan) for unit in units] for name in names])
    return float(_krippendorff().alpha(table, level_of_measurement="ordinal"))


def _krippendorff():
    try:
        import krippendorff
    except ModuleNotFoundError as error:
        raise UserError("agreement needs krippendorff: pip install -e '.[label]'") from error
    return krippendorff


def _compared(group: list[dict]) -> list[Compared]:
    signs = np.array([_preferences(one["row"], one["answer"]["ranks"]) for one in group])
    pairs, alike = _counts(signs)
    names = [one["labeler"] for one in group]
    return [
        Compared(group[0]["item"], (names[a], names[b]), int(alike[a, b]), int(pairs[a, b]))
        for a, b in combinations(range(len(group)), 2)
    ]


def _preferences(row: dict, ranks: list[int]) -> np.ndarray:
    """[pairs of texts]: -1 where the first is better, 1 where the second is, 0 for a tie."""
    values = np.array(list(rank_of_texts(row["completions"], ranks).values()))
    first, second = np.triu_indices(len(values), 1)
    return np.sign(values[first] - values[second]).astype(int)


def _counts(signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[people, pairs of texts] -> [people, people]: pairs that both order, those ordered alike."""
    strict = np.abs(signs)
    pairs = strict @ strict.T
    # alike less opposed, and both together
    return pairs, (pairs + signs @ signs.T) // 2


def _with_owner(one: dict) -> Compared:
    ranks = (one["answer"]["ranks"], one["owner"]["ranks"])
    pairs, alike = _counts(np.array([_preferences(one["row"], given) for given in ranks]))
    return Compared(one["item"], (one["labeler"], ""), int(alike[0, 1]), int(pairs[0, 1]))


def _same_flags(one: dict, asked: list[str]) -> list[bool]:
    owners, questions = (one["owner"].get(key) for key in ("flags", "questions"))
    if owners is None:
        return []
    # one that the owner was not asked has no answer; a row that does not say was asked all
    asked = [key for key in asked if questions is None or key in questions]
    return [
        (key in given) == (key in of_owner)
        for given, of_owner in zip(one["answer"]["flags"], owners, strict=True)
        for key in asked
    ]


def _by_pair(compared: list[Compared]) -> list[dict]:
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for c in compared:
        people = tuple(sorted(c.people))
        sums[people][0] += c.alike
        sums[people][1] += c.pairs
    return [
        {"labelers": list(people), "rate": alike / pairs, "n_pairs": pairs}
        for people, (alike, pairs) in sorted(sums.items())
        if pairs
    ]


def _disagreements(
    by_item: dict[int, list[dict]], compared: list[Compared], most: int
) -> list[dict]:
    pairs: dict[int, int] = defaultdict(int)
    opposed: dict[int, int] = defaultdict(int)
    for c in compared:
        pairs[c.item] += c.pairs
        opposed[c.item] += c.pairs - c.alike
    worst = sorted((i for i in opposed if opposed[i]), key=lambda i: (-opposed[i] / pairs[i], i))
    return [
        {
            "item": item,
            "prompt_id": by_item[item][0]["row"].get("prompt_id"),
            "prompt": by_item[item][0]["row"]["prompt"],
            "completions": by_item[item][0]["row"]["completions"],
            "answers": {one["labeler"]: one["answer"] for one in by_item[item]},
            "opposed": opposed[item],
            "pairs": pairs[item],
        }
        for item in worst[:most]
    ]
