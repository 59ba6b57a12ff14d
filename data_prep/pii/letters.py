"""Where a word ends, in every script, and how a text reads in plain ASCII signs.

Chinese, Japanese, Korean, Thai, Lao, Burmese and Khmer put no space between a number and a word, so
their letters end a number as a space does.
"""

import re
from collections import deque
from collections.abc import Iterator
from itertools import islice

# Thai and Lao, Burmese, Khmer, all of CJK, Hangul; half-width katakana; rarer ideographs
_SPACELESS = (
    r"\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\ud7ff\uf900-\ufaff"
    r"\uff66-\uffdc\U00020000-\U0003ffff"
)
# classes for regular expressions: letter, digit or "_"; letter or digit; letter
WORD = rf"[^\W{_SPACELESS}]"
ALNUM = rf"[^\W_{_SPACELESS}]"
# from Latin to Sinhala; a short list, as "what is left of all" takes long to compile
LETTER = r"[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u0dff\u1e00-\u1fff]"

# full-width signs, the spaces and the hyphens that people's keyboards and pages have
_PLAIN = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_PLAIN |= dict.fromkeys([0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000], " ")
_PLAIN |= dict.fromkeys([*range(0x2010, 0x2014), 0x2212], "-")
_NOT_PLAIN = re.compile("[" + "".join(map(chr, _PLAIN)) + "]")

UUID = re.compile(r"(?i)(?<![0-9a-z])[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}(?![0-9a-z])")
GROUP = re.compile("[0-9]+")


def plain(text: str) -> str:
    """The same text, as long, with ASCII signs: "ｊｏ＠ａ．ｉｏ" as "jo@a.io"."""
    if text.isascii() or not _NOT_PLAIN.search(text):
        return text
    return text.translate(_PLAIN)


def without_uuids(text: str) -> str:
    """The same text, as long, with letters in place of UUIDs, whose digits are nobody's."""
    if text.count("-") < 4:
        return text
    return UUID.sub(lambda match: "x" * len(match.group()), text)


def windows(text: str, start: int, end: int, most: int) -> Iterator[deque[tuple[int, int]]]:
    """For each group of digits its span and those of the next ones, `most` in all.

    One deque that moves on: a list of all groups costs many times the memory of the text.
    """
    groups = (group.span() for group in GROUP.finditer(text, start, end))
    window = deque(islice(groups, most))
    while window:
        yield window
        window.popleft()
        window.extend(islice(groups, 1))
