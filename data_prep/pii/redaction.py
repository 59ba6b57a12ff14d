"""From spans to text: several finders' spans made one list, and a text with its spans hidden."""

import itertools
from collections.abc import Iterable, Sequence

from data_prep.pii.found import Found


def merge(*lists: Iterable[Found]) -> list[Found]:
    """Spans of several finders, by position; where two overlap the earlier one of them holds."""
    merged: list[Found] = []
    # a byte per character: to hold each span against all others takes quadratic time
    taken = bytearray()
    for span in itertools.chain(*lists):
        # a model may give empty ones
        if span.end > span.start and taken.find(1, span.start, span.end) < 0:
            taken.extend(bytes(max(0, span.end - len(taken))))
            taken[span.start : span.end] = b"\1" * (span.end - span.start)
            merged.append(span)
    return sorted(merged, key=lambda span: span.start)


def redact(text: str, found: Sequence[Found]) -> str:
    """`text` with every span replaced by its kind: "mail <EMAIL> or call <PHONE>"."""
    parts, at = [], 0
    for span in found:
        parts += [text[at : span.start], f"<{span.kind.upper()}>"]
        at = span.end
    return "".join(parts) + text[at:]
