"""JSON over several lines -> its rows: a list of them, an object that holds them, or objects.

A list is read block by block, so that only the value at hand is in memory.
"""

import io
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from instruct.errors import UserError

BLOCK = 1 << 20
_WHITE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()

# members that hold the rows of an object, as people and tools call them
HOLDERS = frozenset(
    "data rows instances examples items records results samples entries dataset prompts questions "
    "demonstrations rankings comparisons annotations documents train validation test".split()
)
# members that an object has which is a row itself
OF_A_ROW = frozenset(
    "prompt completion completions messages conversation conversations chosen rejected instruction "
    "question response output answer text ranks".split()
)
SPEAKERS = ("role", "from", "speaker")  # keys of a message, which is no row


def document_rows(
    raw: IO[bytes], path: str, longest: int, largest: int | None = None, block: int = BLOCK
) -> Iterator[tuple[int, Any, int]]:
    """(number, row, length in characters) of every row; a row may be another value than an object.

    Args:
        raw: UTF-8.
        longest: characters of a row.
        largest: characters of an object that holds them all; as long as a row where not given.

    Raises:
        UserError: one object that holds no single list of rows.
        ValueError: no JSON to its end, or a value that is too long.
    """
    blocks = _Blocks(raw, longest, block)
    if blocks.peek() == "[":
        yield from _items(blocks)
        return
    blocks.longest = largest or longest
    number, first, size = 1, *_numbered(blocks, 1)
    blocks.longest = longest
    if not blocks.peek():
        rows = rows_of_object(first, path)
        yield from ((number, row, size // len(rows)) for number, row in enumerate(rows, 1))
        return
    # one behind the other, as `jq` writes them
    yield number, first, size
    while blocks.peek():
        number += 1
        yield number, *_numbered(blocks, number)


def _numbered(blocks: "_Blocks", number: int) -> tuple[Any, int]:
    try:
        return blocks.value()
    except json.JSONDecodeError as error:
        # its place is one in the block
        raise ValueError(f"item {number}: {error.msg}") from error
    except ValueError as error:
        raise ValueError(f"item {number}: {error}") from error


def _items(blocks: "_Blocks") -> Iterator[tuple[int, Any, int]]:
    blocks.mark()
    number = 1
    if blocks.peek() == "]":
        blocks.mark()
    else:
        yield number, *_numbered(blocks, number)
        while (mark := blocks.mark()) == ",":
            number += 1
            yield number, *_numbered(blocks, number)
        if mark != "]":
            raise ValueError(f"item {number}: neither a comma nor the list's end behind it")
    if blocks.peek():
        raise ValueError(f"item {number}: something behind the list's end")


class _Blocks:
    """A JSON text, of which only the value at hand is in memory."""

    def __init__(self, raw: IO[bytes], longest: int, block: int):
        # surrogates as in `json.loads` of bytes
        self.text = io.TextIOWrapper(raw, "utf-8", errors="surrogatepass")
        self.longest, self.block = longest, block
        self.buffer, self.at, self.ended = "", 0, False

    def _more(self) -> None:
        # twice as much: a long value is tried a few times only
        block = self.text.read(max(self.block, len(self.buffer) - self.at))
        self.buffer, self.at, self.ended = self.buffer[self.at :] + block, 0, not block

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            self.at = _WHITE.match(self.buffer, self.at).end()
            if self.at < len(self.buffer) or self.ended:
                return self.buffer[self.at : self.at + 1]
            self._more()

    def mark(self) -> str:
        """Takes that character."""
        mark = self.peek()
        self.at += 1
        return mark

    def value(self) -> tuple[Any, int]:
        """Takes a value; also how many characters long it is."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.buffer, self.at)
            except json.JSONDecodeError:
                if self.ended:
                    raise
            else:
                size = end - self.at
                # a number may go on in the next block: only what follows tells its end
                follows = self.buffer[end : end + 1]
                closed = isinstance(value, dict | list | str)
                whole = self.ended or closed or (follows and follows in ",]} \t\r\n")
                if whole and size <= self.longest:
                    self.at = end
                    return value, size
            if len(self.buffer) - self.at > self.longest:
                raise ValueError(f"broken, or longer than {self.longest >> 20} MiB")
            self._more()


# --- one object -----------------------------------------------------------------------------------


def rows_of_object(value: Any, path: str) -> list:
    """The rows in an object that is a file's only value; itself where it is one.

    Raises:
        UserError: it holds several lists of rows.
    """
    if not isinstance(value, dict) or not value:
        return [value]
    if (table := _table_of_pandas(value)) is not None:
        return table
    holders = [key for key, rows in value.items() if _is_rows(rows) and _holds(key, value)]
    if len(holders) > 1 and "rows" in holders:
        # the Hub's own: `features` and `rows`
        holders = ["rows"]
    if len(holders) > 1:
        raise UserError(
            f"{path}: one object with several lists of rows ({', '.join(map(repr, holders))}); "
            f"write one of them as a file of its own: jq '.{holders[0]}' FILE > {holders[0]}.json"
        )
    if holders:
        return [_of_the_hub(row) for row in value[holders[0]]]
    columns = list(value.values())
    if _are_columns(columns):
        return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return [value]


def _is_rows(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(row, dict) for row in value)
        and not any(key in value[0] for key in SPEAKERS)
    )


def _holds(key: str, value: dict) -> bool:
    if OF_A_ROW.intersection(value):
        return False
    return key.lower() in HOLDERS or len(value) == 1


def _of_the_hub(row: dict) -> dict:
    """A row as the Hub's server of data sets wraps it: `{"row_idx": 0, "row": {…}}`."""
    inner = row.get("row")
    return inner if "row_idx" in row and isinstance(inner, dict) else row


def _are_columns(columns: list) -> bool:
    """Whether all are lists of one length, and none of them a conversation."""
    return (
        all(isinstance(cells, list) and cells for cells in columns)
        and len({len(cells) for cells in columns}) == 1
        and not any(
            isinstance(cell, dict) and any(key in cell for key in SPEAKERS)
            for cells in columns
            for cell in cells[:1]
        )
    )


def _table_of_pandas(value: dict) -> list[dict] | None:
    """The rows of `DataFrame.to_json`: by columns (its default), by index, or split."""
    inner = list(value.values())
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        names, data = value["columns"], value["data"]
        if all(isinstance(cells, list) and len(cells) == len(names) for cells in data):
            return [dict(zip(names, cells, strict=True)) for cells in data]
    if not all(isinstance(cells, dict) and cells for cells in inner):
        return None
    if all(key.isdecimal() for key in value):
        return inner
    index = list(inner[0])
    if all(key.isdecimal() for key in index) and all(list(cells) == index for cells in inner):
        return [{name: cells[key] for name, cells in value.items()} for key in index]
    return None
