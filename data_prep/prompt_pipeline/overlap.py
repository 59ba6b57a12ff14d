"""Step 4: prompts that share a long n-gram with evaluation sets (GPT-3, appendix C)."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from data_prep.formats.log_files import log_files, parse, read_chunks
from data_prep.prompt_pipeline.engine import batches

WORD = re.compile(r"\w+")
# an n-gram of 9 words or more holds one block of 5 words that begins at a multiple of 5
ALIGNED = 5


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case, without punctuation."""
    return WORD.findall(text.lower())


class Ngrams:
    """Word n-grams of evaluation texts. Texts shorter than that match whole.

    Args:
        texts: of the evaluation sets.
        n: words; GPT-3 takes 13, fewer than 9 are not exact (see `ALIGNED`).
    """

    def __init__(self, texts: Iterable[str], n: int):
        self.n = n
        # hashes keep the sets small; Python's differ by process, so one does it all
        self.grams: set[int] = set()  # hashes of all n-grams
        self.blocks: set[int] = set()  # hashes of their blocks of `ALIGNED` words: a quick no
        self.short: set[int] = set()  # hashes of whole texts of fewer than n words
        for text in texts:
            words = words_of(text)
            if len(words) >= n:
                self.grams |= set(_hashes(words, n))
                # blocks at every word here, at every fifth in prompts: one side is enough
                self.blocks |= set(_hashes(words, ALIGNED))
            # under five words, a match proves nothing
            elif len(words) >= ALIGNED:
                self.short.add(hash(tuple(words)))

    def hit(self, text: str) -> bool:
        """Whether the text shares an n-gram with one of the evaluation texts."""
        words = words_of(text)
        # too short for an n-gram: it may still be a short question, whole
        if len(words) < self.n:
            return len(words) >= ALIGNED and hash(tuple(words)) in self.short
        # a fifth of the work, and all of it for nearly every prompt
        if not any(block in self.blocks for block in _hashes(words, ALIGNED, step=ALIGNED)):
            return False
        return any(gram in self.grams for gram in _hashes(words, self.n))


def _hashes(words: list[str], n: int, step: int = 1) -> Iterator[int]:
    """Hashes of the runs of n words that begin at every `step`-th word."""
    return (hash(tuple(words[i : i + n])) for i in range(0, len(words) - n + 1, step))


def strings_in(value: Any) -> Iterator[str]:
    """Every text in a row, however deep: an evaluation set may keep its question anywhere."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings_in(inner)


def texts_of(sources: list[str]) -> Iterator[str]:
    """Every text in evaluation sets: files, folders, globs or Hub ids."""
    for file in log_files(sources):
        for chunk in read_chunks(file):
            for _, row in parse(chunk):
                # answers and choices too: they leak as much as questions
                yield from strings_in(row)


def find_contaminated(
    folder: Path, ngrams: Ngrams, progress: Callable[[int], None]
) -> Iterator[int]:
    """The rows in `folder` whose prompt shares an n-gram with the evaluation sets."""
    for batch in batches(folder, ["row", "prompt"]):
        for line in batch.to_pylist():
            if ngrams.hit(line["prompt"]):
                yield line["row"]
        progress(len(batch))
