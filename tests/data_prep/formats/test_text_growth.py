"""What every text goes through takes time in proportion to its length."""

import hashlib
import random
import time
import unicodedata

import pytest

from data_prep.formats.forms import category, request_form
from data_prep.formats.prompt_log import normalise, prefix_key

MARKS = [*map(chr, range(0x300, 0x370)), "\u0f71", "\u0f73", "\u0f81", "\u05b0"]


def growth(function, unit: str) -> float:
    """Time for 100 kB of `unit` over that for 10 kB: 10 where it is linear, 100 where quadratic."""
    seconds = []
    for size in (10_000, 100_000):
        text = (unit * (size // len(unit) + 1))[:size]
        runs = []
        for _ in range(3):
            start = time.process_time()
            function(text)
            runs.append(time.process_time() - start)
        # 10 ms: below it noise decides
        seconds.append(max(min(runs), 1e-2))
    # `request_form` reads 20 kB at most: what is quadratic there is slow with both
    assert seconds[1] < 1.5
    return seconds[1] / seconds[0]


@pytest.mark.parametrize(
    "unit", ["\u0301\u0316", "a\u0301", "\u0f73", "é\u0316\u0301", "日本", " ", "a ", "\u00a0\n"]
)
def test_normalise_is_linear(unit):
    assert growth(normalise, unit) < 30
    assert growth(lambda text: prefix_key(text, text, 200), unit) < 30


@pytest.mark.parametrize(
    "unit",
    [
        *("\n", "a\n", "a: b\n", " a", "please ", "-", " \n", "1.\n", "= ", ". ", "* ", "\t", "1"),
        *("human:", "Example 1\n", "context: ", "write the ", "find all names "),
        # lines of code
        *(
            "; ",
            " ,",
            "```\n",
            "~",
            "  a: ",
            "x[",
            "a.b(",
            ") ",
            "x: a, ",
            "  ->",
            "if :",
            "def ",
            "+=",
        ),
        # a label with blanks and no colon behind it
        "\na" + " " * 30_000,
    ],
)
def test_forms_are_linear(unit):
    assert growth(request_form, unit) < 30
    assert growth(category, unit) < 30


def test_normalised_as_unicodedata_does():
    rng = random.Random(1)
    stems = ["a", "é", "ᾂ", "日", " ", "\u00a0", "각", "\u1100\u1161", "  \n"]
    for _ in range(1_000):
        text = "".join(
            "".join(rng.choices(stems, k=rng.randint(1, 6)))
            + "".join(rng.choices(MARKS, k=rng.choice([0, 1, 2, 31, 33, 80])))
            for _ in range(rng.randint(1, 8))
        )
        expected = " ".join(unicodedata.normalize("NFC", text).split())
        assert normalise(text) == expected
        chars = rng.choice([1, 3, 10, 200])
        key = hashlib.md5(expected[:chars].encode()).hexdigest()
        assert prefix_key(text, None, chars) == key
