"""One planted text, and how its value is drawn."""

import random
import string
from typing import NamedTuple

ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"


class Item(NamedTuple):
    """One text. `kind` is what `value` in it is, None for a near miss; `group` names the idea."""

    group: str
    text: str
    kind: str | None
    value: str


def draw(rng: random.Random, letters: str, count: int) -> str:
    return "".join(rng.choice(letters) for _ in range(count))


def digits(rng: random.Random, count: int) -> str:
    return draw(rng, string.digits, count)
