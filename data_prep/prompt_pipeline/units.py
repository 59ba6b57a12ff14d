"""A text as the units that n-grams are made of: words, or characters where no spaces are written.

To `\\w+` a Chinese, Japanese or Thai clause is one word, which hardly any two texts share. There
every character is a unit of its own.
"""

import functools
import re
import unicodedata

from data_prep.formats.prompt_log import normalise

WORD = re.compile(r"\w+")
# scripts that put no space between words
UNSPACED = (
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana, and signs that repeat
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Chinese characters
    "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf"  # Thai, Lao, Burmese, Khmer
)
CHARACTER = re.compile(f"[{UNSPACED}]")
# 13 words of running Chinese are some 20 characters
SIZE_OF_CHARACTER, SIZE_OF_WORD = 2, 3  # what a unit adds to the size of an n-gram


def units_of(text: str) -> list[str]:
    """The units of a text, in lower case, without punctuation."""
    # most are, and need none of the rest
    if text.isascii():
        return WORD.findall(text.lower())
    return _unit().findall(normalise(text).lower())


def size_of(unit: str) -> int:
    """What it adds to the size of an n-gram; n words have the size `n * SIZE_OF_WORD`."""
    # compared first: nearly all are words
    return SIZE_OF_CHARACTER if unit > "\u0e00" and CHARACTER.match(unit) else SIZE_OF_WORD


def whole_text(text: str) -> tuple[str, ...]:
    """Equal for texts that are the same but for case, white space and punctuation.

    Signs count: "What is C++?" is no copy of "What is C?".
    """
    units = units_of(text)
    signs = [sign for sign in map(_sign, normalise(text)) if sign]
    # a text of punctuation alone is still the same text
    return (*units, "", *signs) if units or signs else (normalise(text),)


def _sign(character: str) -> str:
    kind = unicodedata.category(character)
    # as many dashes as there are keyboards
    if kind == "Pd":
        return "-"
    return character if kind[0] == "S" or character in "#%&*@/\\" else ""


@functools.cache
def _unit() -> re.Pattern:
    """A character of `UNSPACED` or a word of others, each with its marks, which `\\w` leaves out.

    Without them a word of Hindi would be three, and its vowels lost.
    """
    # of the first plane: a set that reaches beyond it is searched mark by mark
    marks = (chr(c) for c in range(0x300, 0x10000) if unicodedata.category(chr(c))[0] == "M")
    marks = re.escape("".join(marks))
    word = rf"[^\W{UNSPACED}]"
    return re.compile(rf"[{UNSPACED}][{marks}]*|{word}+(?:[{marks}]+{word}*)*")
