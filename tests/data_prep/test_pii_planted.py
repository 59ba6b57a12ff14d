"""Personal information in planted texts: precision and recall by kind, at the issue's bars."""

import pytest

import tests.data_prep.pii_planted.scores as scores
from tests.data_prep.pii_planted.near_misses import near_misses
from tests.data_prep.pii_planted.second import second

pytest.importorskip("phonenumbers", reason="needs the pii extra")

# kind -> the least precision, the least recall
BARS = dict.fromkeys(
    ["email", "card", "iban", "national_id", "ipv4", "ipv6", "secret"], (0.99, 0.97)
)
BARS |= {"phone +": (0.97, 0.95), "phone at home": (0.97, 0.85)}


@pytest.mark.parametrize(("made", "seed"), [(scores.planted, 16), (second, 1717)])
def test_planted_information_is_found_and_near_misses_are_left(made, seed):
    found, lines = scores.score([*made(seed), *near_misses(seed)])
    assert found.keys() == BARS.keys()
    below = [
        name
        for name, (precision, recall) in BARS.items()
        if found[name].precision < precision or found[name].recall < recall
    ]
    assert not below, "\n".join([*lines, scores.table(found)])


def test_sets_are_large_and_hold_what_they_say():
    for planted in (scores.planted(), second(), near_misses()):
        assert len(planted) >= 500
        assert all(item.value in item.text for item in planted)
