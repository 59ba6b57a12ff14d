"""What the page is made of."""

from typing import NamedTuple

from markupsafe import Markup


class Table(NamedTuple):
    caption: str
    rows: list[list[str]]
    folded: bool = False


class Panel(NamedTuple):
    """A part of the page.

    Attributes:
        points: (what, a sentence).
    """

    title: str
    points: list[tuple[str, str]] = []
    figures: list[Markup] = []
    tables: list[Table] = []


class Samples(NamedTuple):
    """Answers side by side.

    Attributes:
        rows: `prompt`, and `answers`: for each of `temperatures`, {model, text, gold} of each.
    """

    about: str
    temperatures: list[str]
    rows: list[dict]
