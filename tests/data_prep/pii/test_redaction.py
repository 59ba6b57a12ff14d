"""Spans of several finders in one list."""

from data_prep.pii import Found, merge


def test_merge_keeps_the_earlier_list():
    first, second = (
        [Found("email", 5, 10)],
        [Found("per", 8, 12), Found("loc", 0, 5), Found("x", 20, 20)],
    )
    assert merge(first, second) == [Found("loc", 0, 5), Found("email", 5, 10)]
