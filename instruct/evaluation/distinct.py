"""Distinct-2: how much of what a model says it says once (Li et al. 2016, arXiv 1510.03055).

It falls when a policy answers everything alike, which no score of single answers shows.
"""

import re
from collections.abc import Iterable

# A word, with its apostrophe, or a character of a script that puts no blank between words.
_WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+(?:['’]\w+)*")
# the same, where a run of letters is not to run over such a character
_UNSPACED = re.compile(r"([\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])")


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return _WORD.findall(_UNSPACED.sub(r" \1 ", text.lower()))


def distinct2(texts: Iterable[str]) -> float:
    """Distinct pairs of neighbouring words / all such pairs, over all texts; 0 where there is none.

    Falls with the number of texts, so it is compared only between equal numbers of them.
    """
    pairs = [pair for text in texts for pair in _pairs(words(text))]
    # one word each is no variety either
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def _pairs(found: list[str]) -> Iterable[tuple[str, str]]:
    # within a text: the end of one and the beginning of the next are no neighbours
    return zip(found, found[1:], strict=False)
