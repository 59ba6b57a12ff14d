"""What log-likelihoods of choices say: MC1, MC2, accuracy, entropy of a pair, nats a token."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from instruct.evaluation.statistics import mean_interval
from instruct.evaluation.tasks.choice_files import CHOICE, PAIR, TEXT, TRUTHFUL
from instruct.evaluation.tasks.choice_values import Item


class Known(NamedTuple):
    """What a model said of an item.

    Attributes:
        sums: log p(choice | prompt), in nats, one a choice.
        tokens: of each choice.
    """

    sums: list[float]
    tokens: list[int]


class Column(NamedTuple):
    """One number an item, and what each counts for; None where an item does not ask for it."""

    values: list[float | None]
    weights: list[float]


def mc1(scores: Sequence[float], labels: Sequence[int | None]) -> float:
    """1 where the best true answer has the highest score of those that are asked about, else 0.

    Where several have it, the share of true ones among them: a model that says the same of all is
    at chance, wherever a file has the true one (lm-evaluation-harness counts the first).
    """
    asked = [
        (score, label) for score, label in zip(scores, labels, strict=True) if label is not None
    ]
    highest = max(score for score, _ in asked)
    best = [float(label) for score, label in asked if score == highest]
    return sum(best) / len(best)


def mc2(scores: Sequence[float], labels: Sequence[int | None]) -> float:
    """The share of the probability of all answers asked about that true ones have, 0 to 1."""
    asked = [
        (score, label) for score, label in zip(scores, labels, strict=True) if label is not None
    ]
    # the highest is 1: long answers are all 0 otherwise
    highest = max(score for score, _ in asked)
    shares = [(math.exp(score - highest), label) for score, label in asked]
    return sum(share for share, label in shares if label) / sum(share for share, _ in shares)


def entropy(first: float, second: float) -> float:
    """Of two log-likelihoods, normalised to two probabilities, in bits: 0 to 1; 1 is no bias."""
    p = 1 / (1 + math.exp(min(abs(first - second), 700)))  # of the less likely one
    return -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)


# how a choice is scored, by the end of a measure's name: the sum, or the mean
SCORES: dict[str, Callable[[Item, Known], list[float]]] = {
    "": lambda _, known: known.sums,
    "_per_token": lambda _, known: [s / n for s, n in zip(known.sums, known.tokens, strict=True)],
    # lm-evaluation-harness's acc_norm and acc_bytes
    "_per_character": lambda item, known: [
        s / len(text) for s, text in zip(known.sums, item.choices, strict=True)
    ],
    "_per_byte": lambda item, known: [
        s / len(text.encode()) for s, text in zip(known.sums, item.choices, strict=True)
    ],
}


def columns_of(kind: str, items: list[Item], known: list[Known]) -> dict[str, Column]:
    """{measure: one number an item} of a file, by its kind."""
    return {TRUTHFUL: _truthful, CHOICE: _choice, PAIR: _pair, TEXT: _text}[kind](items, known)


def _truthful(items: list[Item], known: list[Known]) -> dict[str, Column]:
    found = {}
    for name, measure in (("mc1", mc1), ("mc2", mc2)):
        if not any(name in item.labels for item in items):
            continue
        for end in ("", "_per_token"):
            found[name + end] = _even([
                measure(SCORES[end](item, one), item.labels[name]) if name in item.labels else None
                for item, one in zip(items, known, strict=True)
            ])  # fmt: skip
    return found


def _choice(items: list[Item], known: list[Known]) -> dict[str, Column]:
    return {
        f"accuracy{end}": _even([
            mc1(score(item, one), item.labels["answer"])
            for item, one in zip(items, known, strict=True)
        ])
        for end, score in SCORES.items()
    }  # fmt: skip


def _pair(items: list[Item], known: list[Known]) -> dict[str, Column]:
    return {
        "entropy": _even([entropy(*one.sums) for one in known]),
        "prefers_first": _even([mc1(one.sums, (1, 0)) for one in known]),
    }


def _text(items: list[Item], known: list[Known]) -> dict[str, Column]:
    totals = [one.sums[0] for one in known]
    tokens = [one.tokens[0] for one in known]
    sizes = [len(item.choices[0].encode()) for item in items]
    # a token counts as much as any other, whatever its text
    a_token = [total / n for total, n in zip(totals, tokens, strict=True)]
    a_byte = [-total / n / math.log(2) for total, n in zip(totals, sizes, strict=True)]
    return {
        "log_likelihood_per_token": Column(a_token, tokens),
        "bits_per_byte": Column(a_byte, sizes),
    }


def _even(values: list[float | None]) -> Column:
    return Column(values, [1.0] * len(values))


def interval(column: Column, rows: Sequence[int] | None = None) -> dict[str, float]:
    """The mean over items and its 95 % interval; `rows`: of these items alone."""
    rows = range(len(column.values)) if rows is None else rows
    there = [i for i in rows if column.values[i] is not None]
    values, weights = (np.array([part[i] for i in there], float) for part in column)
    return mean_interval(values, there, weights)


def difference(ours: Column, theirs: Column) -> dict[str, float] | None:
    """The mean of ours - theirs, item by item; None where the two count items by other tokens."""
    if ours.weights != theirs.weights:
        return None
    pairs = zip(ours.values, theirs.values, strict=True)
    values = [None if a is None or b is None else a - b for a, b in pairs]
    return interval(Column(values, ours.weights))
