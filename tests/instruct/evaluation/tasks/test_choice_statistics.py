"""What log-likelihoods of choices say, each measure beside a plain loop on random data."""

import math
import random

import pytest

from instruct.evaluation.statistics import cluster_bootstrap
from instruct.evaluation.tasks.choice_files import CHOICE, PAIR, TEXT, TRUTHFUL
from instruct.evaluation.tasks.choice_statistics import (
    Column,
    Known,
    columns_of,
    difference,
    entropy,
    interval,
    mc1,
    mc2,
)
from instruct.evaluation.tasks.choice_values import Item, each_once


def random_items(random, count, labelled, prompt="q"):
    items, known = [], []
    for _ in range(count):
        n = random.randint(2, 6)
        sums = [random.uniform(-30, -1) for _ in range(n)]
        choices = ["ä" * random.randint(1, 9) + str(i) for i in range(n)]
        items.append(Item("f, line 1", prompt, choices, labelled(random, n)))
        known.append(Known(sums, [random.randint(1, 9) for _ in range(n)]))
    return items, known


def one_true(random, n):
    right = random.randrange(n)
    return [int(i == right) for i in range(n)]


def test_truthful_measures_equal_a_plain_loop():
    def labelled(random, n):
        # the second question asks about all but one of the choices
        some = [1, 0, *(random.choice([0, 1]) for _ in range(n - 2))]
        return {"mc1": one_true(random, n), "mc2": [*some[: n - 1], None] if n > 2 else some}

    items, known = random_items(random.Random(0), 200, labelled)
    found = columns_of(TRUTHFUL, items, known)
    assert list(found) == ["mc1", "mc1_per_token", "mc2", "mc2_per_token"]
    for end in ("", "_per_token"):
        for i, (item, one) in enumerate(zip(items, known, strict=True)):
            scores = list(one.sums)
            if end:
                scores = [scores[k] / one.tokens[k] for k in range(len(scores))]
            best = 0
            for k in range(len(scores)):
                if scores[k] > scores[best]:
                    best = k
            assert found["mc1" + end].values[i] == item.labels["mc1"][best]
            true = total = 0.0
            for score, label in zip(scores, item.labels["mc2"], strict=True):
                if label is not None:
                    total += math.exp(score)
                    true += label * math.exp(score)
            assert found["mc2" + end].values[i] == pytest.approx(true / total, rel=1e-9)


def test_accuracy_equals_a_plain_loop_by_each_length():
    items, known = random_items(random.Random(1), 200, lambda r, n: {"answer": one_true(r, n)})
    found = columns_of(CHOICE, items, known)
    lengths = {
        "accuracy": lambda item, one, k: 1,
        "accuracy_per_token": lambda item, one, k: one.tokens[k],
        "accuracy_per_character": lambda item, one, k: len(item.choices[k]),
        "accuracy_per_byte": lambda item, one, k: len(item.choices[k].encode()),
    }
    assert set(found) == set(lengths)
    for name, length in lengths.items():
        for i, (item, one) in enumerate(zip(items, known, strict=True)):
            best = 0
            for k in range(len(one.sums)):
                ours, theirs = (one.sums[j] / length(item, one, j) for j in (k, best))
                if ours > theirs:
                    best = k
            assert found[name].values[i] == item.labels["answer"][best]
    # not the same measure four times
    assert len({tuple(column.values) for column in found.values()}) == 4


def test_pairs_and_texts_equal_a_plain_loop():
    draw = random.Random(2)
    items = [Item("p", "", ["a", "b"], {}) for _ in range(100)]
    known = [Known([draw.uniform(-9, 0), draw.uniform(-9, 0)], [1, 1]) for _ in items]
    found = columns_of(PAIR, items, known)
    for i, one in enumerate(known):
        a, b = (math.exp(score) for score in one.sums)
        bits = 0.0
        for p in (a / (a + b), b / (a + b)):
            bits -= p * math.log2(p)
        assert found["entropy"].values[i] == pytest.approx(bits, rel=1e-9)
        assert found["prefers_first"].values[i] == (a > b)
    texts = [Item("t", "", ["é" * draw.randint(1, 50)], {}) for _ in range(100)]
    known = [Known([draw.uniform(-90, -1)], [draw.randint(1, 30)]) for _ in texts]
    found = columns_of(TEXT, texts, known)
    nats = sum(one.sums[0] for one in known)
    tokens = sum(one.tokens[0] for one in known)
    assert interval(found["log_likelihood_per_token"])["mean"] == pytest.approx(nats / tokens)
    size = sum(len(item.choices[0].encode()) for item in texts)
    assert interval(found["bits_per_byte"])["mean"] == pytest.approx(-nats / math.log(2) / size)


def test_entropy_is_one_bit_of_equal_sentences_and_none_of_far_ones():
    assert entropy(-40.0, -40.0) == 1
    assert entropy(-4000.0, -40.0) == entropy(-40.0, -4000.0) == pytest.approx(0, abs=1e-12)


def test_answers_that_are_too_unlikely_for_a_float_still_have_shares():
    # lm-evaluation-harness divides 0 by 0 here
    assert mc2([-2000.0, -2001.0], [1, 0]) == pytest.approx(1 / (1 + math.exp(-1)))


def test_an_answer_that_is_listed_twice_counts_once():
    """The likeliest is the same; in MC2 its probability would count twice."""
    rng = random.Random(0)
    for _ in range(200):
        count = rng.randint(2, 6)
        texts = [f"answer {i}" for i in range(count)]
        label_of = dict(zip(texts, [1, 0, *(rng.randint(0, 1) for _ in texts[2:])], strict=True))
        score_of = {text: rng.uniform(-5, 0) for text in texts}
        listed = [*texts, *rng.choices(texts, k=3)]
        choices, labels = each_once(listed, [label_of[text] for text in listed], "x", "y")
        assert choices == texts and labels == [label_of[text] for text in texts]
        scores = [score_of[text] for text in choices]
        whole = [score_of[text] for text in listed]
        assert mc1(scores, labels) == mc1(whole, [label_of[text] for text in listed])
        probability = {text: math.exp(score) for text, score in score_of.items()}
        true = sum(p for text, p in probability.items() if label_of[text])
        assert mc2(scores, labels) == pytest.approx(true / sum(probability.values()))


def test_equal_scores_share():
    # who says the same of all is at chance, wherever the right one stands
    assert mc1([-1.0, -1.0], [1, 0]) == mc1([-1.0, -1.0], [0, 1]) == 0.5
    assert mc1([-1.0, -2.0, -1.0, -1.0], [0, 1, 1, None]) == 0.5


def test_a_difference_is_of_the_same_items():
    draw = random.Random(3)
    ours = [float(draw.random() < 0.6) for _ in range(300)]
    # all but a few are answered alike, so the difference is known far better than either
    theirs = [1 - v if i % 30 == 0 else v for i, v in enumerate(ours)]
    a, b = Column(ours, [1.0] * 300), Column(theirs, [1.0] * 300)
    found = difference(a, b)
    mean, low, high = cluster_bootstrap(
        [x - y for x, y in zip(ours, theirs, strict=True)], range(300)
    )
    assert found == {"mean": mean, "low": low, "high": high}
    width = interval(a)["high"] - interval(a)["low"]
    assert found["high"] - found["low"] < width / 2
    # other tokens: nats a token of the two are of other units
    assert difference(a, Column(theirs, [2.0] * 300)) is None


def test_an_item_that_is_not_asked_counts_for_nothing():
    column = Column([1.0, None, 0.0], [1.0, 1.0, 1.0])
    assert interval(column)["mean"] == 0.5
    assert difference(column, column)["mean"] == 0
