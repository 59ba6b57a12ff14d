"""Step 4: prompts that share a long n-gram with evaluation sets (GPT-3, appendix C)."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from data_prep.formats.log_files import log_files, parse, read_chunks
from data_prep.prompt_pipeline.engine import batches
from data_prep.prompt_pipeline.units import SIZE_OF_WORD, size_of, units_of, whole_text
from instruct.errors import UserError

# an n-gram has 9 units or more: so it holds a block of 5 that begins at a multiple of 5
ALIGNED = 5


class Ngrams:
    """N-grams of evaluation texts. Texts shorter than that match whole, however short they are.

    An n-gram is as many units (see `units.py`) as have the size of n words: 13 words, or 20
    characters of a script without spaces, or what comes to as much of both.

    Args:
        texts: of the evaluation sets.
        n: words; GPT-3 takes 13, fewer than 9 are not exact (see `ALIGNED`).
    """

    def __init__(self, texts: Iterable[str], n: int):
        self.n, self.size = n, n * SIZE_OF_WORD
        # hashes keep the sets small; Python's differ by process, so one does it all
        self.grams: set[int] = set()  # hashes of all n-grams
        self.blocks: set[int] = set()  # hashes of their blocks of `ALIGNED` units: a quick no
        self.short: set[int] = set()  # hashes of whole texts shorter than an n-gram
        for text in texts:
            units = units_of(text)
            if self._is_short(units):
                self.short.add(hash(whole_text(text)))
            else:
                self.grams.update(self._grams(units))
                # blocks at every unit here, at every fifth in prompts: one side is enough
                self.blocks.update(_blocks(units))

    def hit(self, text: str) -> bool:
        """Whether it shares an n-gram with an evaluation text, or is a copy of a shorter one."""
        units = units_of(text)
        if self._is_short(units):
            return hash(whole_text(text)) in self.short
        # a fifth of the work, and all of it for nearly every prompt
        if not any(block in self.blocks for block in _blocks(units, step=ALIGNED)):
            return False
        return any(gram in self.grams for gram in self._grams(units))

    def _is_short(self, units: list[str]) -> bool:
        # twice n: units are never smaller than half a word
        return sum(map(size_of, units[: 2 * self.n])) < self.size

    def _grams(self, units: list[str]) -> Iterator[int]:
        """Hashes of the n-grams, one from every unit on that has enough behind it."""
        size = end = 0
        for start, unit in enumerate(units):
            while size < self.size:
                if end == len(units):
                    return
                size += size_of(units[end])
                end += 1
            yield hash(tuple(units[start:end]))
            size -= size_of(unit)


def _blocks(units: list[str], step: int = 1) -> Iterator[int]:
    """Hashes of the runs of `ALIGNED` units that begin at every `step`-th one."""
    return (hash(tuple(units[i : i + ALIGNED])) for i in range(0, len(units) - ALIGNED + 1, step))


def strings_in(value: Any) -> Iterator[str]:
    """Every text in a row, however deep: an evaluation set may keep its question anywhere."""
    if isinstance(value, str):
        yield value
        # a conversation as JSON text, as CSV files have them
        if value.lstrip()[:1] in ("[", "{"):
            yield from strings_in(_parsed(value))
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings_in(inner)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def texts_of(sources: list[str]) -> Iterator[str]:
    """Every text in evaluation sets: files, folders, globs or Hub ids.

    Raises:
        UserError: a row cannot be read, so that its texts could not be sought; or there is none.
    """
    empty = True
    for file in log_files(sources):
        for chunk in read_chunks(file):
            for line, row in parse(chunk):
                if isinstance(row, str):
                    raise UserError(f"--exclude {file}, line {line}: {row}")
                # answers and choices too: they leak as much as questions
                for text in strings_in(row):
                    if text.strip():
                        empty = False
                        yield text
    if empty:
        raise UserError(f"--exclude {' '.join(sources)}: no text in it")


def find_contaminated(
    folder: Path, ngrams: Ngrams, progress: Callable[[int], None]
) -> Iterator[int]:
    """The rows in `folder` whose prompt shares an n-gram with the evaluation sets."""
    for batch in batches(folder, ["row", "prompt"]):
        for line in batch.to_pylist():
            if ngrams.hit(line["prompt"]):
                yield line["row"]
        progress(len(batch))
