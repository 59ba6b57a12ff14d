"""From spans to text: several finders' spans made one list, and a text with its spans hidden."""

from collections.abc import Sequence

from data_prep.pii.found import Found


def merge(*lists: Sequence[Found]) -> list[Found]:
    """Spans of several finders, by position; where two overlap that of the earlier list holds."""
    merged: list[Found] = []
    for found in lists:
        merged += [
            span
            for span in found
            # a model may give empty ones
            if span.end > span.start
            and all(span.end <= other.start or span.start >= other.end for other in merged)
        ]
    return sorted(merged, key=lambda span: span.start)


def redact(text: str, found: Sequence[Found]) -> str:
    """`text` with every span replaced by its kind: "mail <EMAIL> or call <PHONE>"."""
    parts, at = [], 0
    for span in found:
        parts += [text[at : span.start], f"<{span.kind.upper()}>"]
        at = span.end
    return "".join(parts) + text[at:]
