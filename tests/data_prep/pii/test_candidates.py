"""The engine's filter is a superset of what the finders find."""

import random

import duckdb
from pii_examples import REAL
from pii_tools import HARMLESS, PERSONAL, bench

from data_prep.pii import KINDS, candidate_pattern, find_pii
from data_prep.pii.secrets import PASSWORD_WORDS, find_secrets, may_hold_secret
from tests.data_prep.pii_planted.near_misses import near_misses
from tests.data_prep.pii_planted.scores import planted
from tests.data_prep.pii_planted.second import second


def test_engine_filter_lets_every_finding_through():
    """RE2 (DuckDB) and Python's expressions both pass whatever `find_pii` finds, kind by kind."""
    rng = random.Random(3)
    texts = [t for t, _ in PERSONAL] + HARMLESS + [t for kind in REAL for t in REAL[kind]]
    texts += [
        rng.choice(bench.SENTENCES[k]).format(bench.MAKERS[k](rng))
        for k in bench.MAKERS
        for _ in range(200)
    ]
    texts += ["".join(rng.choices("+(1 2)3-4.5@a:F\u00a0/", k=24)) for _ in range(2_000)]
    for kind in KINDS:
        pattern = candidate_pattern([kind])
        passed = duckdb.execute(
            "select regexp_matches(t, $2) from (select unnest($1) t)", [texts, pattern]
        ).fetchall()
        found = [bool(find_pii(t, [kind])) for t in texts]
        assert any(found)
        assert not [t for t, f, (p,) in zip(texts, found, passed, strict=True) if f and not p]


def test_the_first_look_for_secrets_lets_every_one_through():
    texts = [item.text for item in [*planted(), *second(), *near_misses()]]
    texts += [text for text, _ in PERSONAL] + HARMLESS
    # too short to be told by its length: the word alone says it
    named = [*PASSWORD_WORDS.split("|"), "client secret", "api key", "access token"]
    named = [f"{word}: Zx9!kQ2w" for word in named] + ["Authorization: bearer a1b2c3d4"]
    assert all(list(find_secrets(text)) for text in named)
    texts += named
    holds = [text for text in texts if list(find_secrets(text))]
    assert len(holds) > 100 and all(map(may_hold_secret, holds))
    # and spares most others the expressions
    assert not may_hold_secret("Tell me about the mountains of the north, please.")
