"""JSONL, JSON and CSV files -> their rows, each with its place.

Read here and not by `datasets`, which names neither file nor line of a bad row, and takes "NA" or
"None" in a CSV cell for a missing one.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from instruct.errors import UserError

LONGEST_CELL = 2**31 - 1  # characters of a CSV cell; 128 KB by default, and prompts are longer


def placed_rows(path: str | Path) -> Iterator[tuple[str, dict]]:
    """(place, row) of every row of a file, plain or gzip, by its ending.

    The place is `line 3`, on which the row begins, or `item 3` of a `.json` list.

    Raises:
        UserError: no such file, a broken one, or (with file and place) a row that is none.
    """
    name = str(path).lower().removesuffix(".gz")
    opener = gzip.open if str(path).lower().endswith(".gz") else open
    read = _json if name.endswith(".json") else _csv if name.endswith(".csv") else _json_lines
    # in a quoted cell a line break is a part of the text
    newline = "" if read is _csv else "\n"
    place = "line 0"
    try:
        # UTF-8 said: the default is the machine's. Windows begins it with a byte order mark
        with opener(path, "rt", encoding="utf-8-sig", newline=newline) as text:
            for place, row in read(text, str(path)):
                yield place, row
    # decoded in blocks, so the line is not known, only how far it came
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, after {place}: not UTF-8 text ({error.reason})") from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: broken gzip file ({error}); copy it anew") from error


def _json_lines(text: IO[str], path: str) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(text, 1):
        if line.strip():
            place = f"line {number}"
            yield place, _object(_value(line, f"{path}, {place}"), f"{path}, {place}")


def _json(text: IO[str], path: str) -> Iterator[tuple[str, dict]]:
    """One list of objects, or one object a line."""
    content = text.read()
    if content.lstrip().startswith("["):
        for number, row in enumerate(_value(content, path), 1):
            yield f"item {number}", _object(row, f"{path}, item {number}")
    elif _is_one_document(content):
        raise UserError(
            f"{path}: one JSON object over several lines; expected a list of rows, or a row a line"
        )
    else:
        yield from _json_lines(io.StringIO(content), path)


def _is_one_document(content: str) -> bool:
    """Whether it is a JSON value that runs over several lines."""
    try:
        json.loads(content)
    # ends at the second row, which is "extra data"
    except (ValueError, RecursionError):
        return False
    return "\n" in content.strip()


def _value(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error.msg}, column {error.colno})") from error
    # an integer of thousands of digits
    except ValueError as error:
        raise UserError(f"{where}: not readable JSON (a number is too long)") from error
    except RecursionError as error:
        raise UserError(f"{where}: not readable JSON (nested too deeply)") from error


def _object(row: Any, where: str) -> dict:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def _csv(text: IO[str], path: str) -> Iterator[tuple[str, dict]]:
    """Cells by their columns, all of them text; an empty cell is missing (None)."""
    csv.field_size_limit(LONGEST_CELL)
    # strict: an open quote would take the rest of the file for one cell
    lines = csv.reader(text, strict=True)
    begins = 1
    try:
        header = next(lines, [])
        twice = [name for name in header if header.count(name) > 1]
        if twice:
            raise UserError(f"{path}: two columns have one name ({twice[0]!r})")
        begins = lines.line_num + 1
        for cells in lines:
            # a blank line has no cells
            if cells and len(cells) != len(header):
                raise UserError(
                    f"{path}, line {begins}: {len(cells)} cells, the header has {len(header)}"
                )
            if cells:
                named = zip(header, cells, strict=True)
                yield f"line {begins}", {name: cell or None for name, cell in named}
            begins = lines.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {begins}: not valid CSV ({error})") from error
