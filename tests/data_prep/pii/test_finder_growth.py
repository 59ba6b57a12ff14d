"""Finders take time and memory in proportion to a text, whatever is in it."""

import time
import tracemalloc

import pytest

from data_prep.pii import Found, find_pii, merge, redact
from data_prep.pii.finding import FINDERS

UNITS = {
    "secret": [
        "eyJ-",
        "eyJaaaaaaaa.",
        "sk-",
        "sk-a1",
        "token=",
        "key=a1",
        "-----BEGIN ",
        "://",
        "://a:",
        "password:",
        "api_key is a1",
        "host=a password=",
        "A_PASSWORD=a",
        "bearer a",
        "1",
        "a",
        " ",
        ".",
        "+",
    ],
    "email": [
        "@",
        "a@",
        "a.",
        "a@b.co ",
        "@a.bb-",
        "@a.a.a.a.a.a.a.a.aa_",
        "é",
        "%40",
        "漢@",
        "1",
        ":",
    ],
    "iban": ["A1", "AA00", "GB82 WEST 1234 ", "ab12 "],
    "card": ["1", "1 ", "1-", "1.", "1111-", "4111 1111 1111 1111 ", "4111  "],
    "national_id": ["1", "1 ", "ssn 123456789 ", "536-90-4399 ", "12345678A ", "ssn 1-"],
    "ipv6": [":", "a:", "1:", "abcdef:", "2a01:db8::1 "],
    "ipv4": ["1.1.", "8.8.8.8 ", "server 93.184.216.34 "],
    "phone": [
        "+1 ",
        "(1",
        "1) ",
        "(",
        "1/",
        "call 212-555-0147 ",
        "call 1234567 ",
        "12 ",
        "+12 ",
        "0060 3 ",
        "0044 20 7946 ",
        "011 44 20 ",
        "06 12 ",
    ],
}


def test_every_finder_is_here():
    assert UNITS.keys() == FINDERS.keys()


@pytest.mark.parametrize(
    ("kind", "unit"), [(kind, unit) for kind, units in UNITS.items() for unit in units]
)
def test_time_is_linear(kind, unit):
    # the finder alone, and with what is made of its finds
    for function in (lambda text: list(FINDERS[kind](text)), find_pii):
        seconds = []
        for size in (10_000, 100_000):
            text = (unit * (size // len(unit) + 1))[:size]
            runs = []
            for _ in range(2):
                start = time.process_time()
                function(text)
                runs.append(time.process_time() - start)
            # 10 ms: below it noise decides
            seconds.append(max(min(runs), 1e-2))
        # ten times as much text: 10 where it is linear, 100 where quadratic
        assert seconds[1] < 30 * seconds[0]


@pytest.mark.parametrize("unit", ["0060 3 ", "011 44 20 ", "06 12 ", "00971 4 "])
def test_a_page_of_digits_takes_no_seconds(unit):
    text = (unit * 100_000)[:100_000]
    start = time.process_time()
    assert not any(FINDERS["phone"](text))
    # a third of it; 2 to 4 s where every group of digits is asked for the words before it
    assert time.process_time() - start < 1


@pytest.mark.parametrize("unit", ["1", "1 ", "1-", "12.", "4111 ", "1a"])
def test_memory_is_some_bytes_a_character(unit):
    text = unit * (200_000 // len(unit))
    find_pii("1")  # what is loaded once
    tracemalloc.start()
    find_pii(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * len(text)


def test_of_spans_that_overlap_the_first_holds():
    first = [Found("a", 10, 20), Found("a", 0, 5)]
    second = [Found("b", 19, 25), Found("b", 5, 10), Found("b", 3, 4), Found("b", 20, 21)]
    merged = merge(first, [*second, Found("b", 30, 30)])
    assert [(span.kind, span.start) for span in merged] == [
        ("a", 0),
        ("b", 5),
        ("a", 10),
        ("b", 20),
    ]
    assert redact("0123456789" * 3, merged) == "<A><B><A><B>123456789"


def test_many_spans_are_merged_in_linear_time():
    spans = [Found("a", i, i + 1) for i in range(0, 400_000, 2)]
    start = time.process_time()
    assert len(merge(spans, spans)) == len(spans)
    assert time.process_time() - start < 5
