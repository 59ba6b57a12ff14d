"""Text files -> their rows, each with its place.

Read here and not by `datasets`, which names neither file nor line of a bad row, and takes "NA" or
"None" in a CSV cell for a missing one.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from instruct.errors import UserError
from instruct.rows.json_documents import document_rows
from instruct.rows.raw_files import RawFile, sniff, told

LONGEST_CELL = 2**31 - 1  # characters of a CSV cell; 128 KB by default, and prompts are longer
DELIMITERS = ",;\t|"
CUT = 1 << 20  # characters of a text's head that may not be its whole


def placed_rows(path: str | Path | RawFile) -> Iterator[tuple[str, dict]]:
    """(place, row) of every row of a text file, packed or not.

    The place is `line 3`, on which the row begins, or `item 3` of a JSON document. A `.txt` file is
    a text a line, under `text`.

    Raises:
        UserError: no such file, a broken one, or (with file and place) a row that is none.
    """
    file = path if isinstance(path, RawFile) else sniff(path)
    read = READERS.get(file.kind)
    if read is None:
        raise UserError(f"{file.path}: this is {file.kind.title()}, expected text")
    place = "line 0"
    try:
        with told(file.path), file.open() as raw:
            for place, row in read(raw, file):
                yield place, row
    # decoded in blocks, so the line is not known, only how far it came
    except UserError as error:
        cause = error.__cause__
        if not isinstance(cause, UnicodeDecodeError):
            raise
        raise UserError(
            f"{file.path}, after {place}: not {cause.encoding.upper()} text ({cause.reason}); "
            "write it anew as UTF-8"
        ) from cause


def _text_of(raw: IO[bytes], newline: str) -> IO[str]:
    # UTF-8 said: the default is the machine's
    return io.TextIOWrapper(raw, encoding="utf-8", newline=newline)


def _json_lines(raw: IO[bytes], file: RawFile) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(_text_of(raw, "\n"), 1):
        if line.strip():
            place = f"line {number}"
            where = f"{file.path}, {place}"
            yield place, _object(_value(line, where), where)


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


def _document(raw: IO[bytes], file: RawFile) -> Iterator[tuple[str, dict]]:
    try:
        for number, row, _ in document_rows(raw, file.path, LONGEST_CELL):
            yield f"item {number}", _object(row, f"{file.path}, item {number}")
    except (UserError, UnicodeDecodeError):
        raise
    except ValueError as error:
        raise UserError(f"{file.path}: not valid JSON ({error})") from error
    except RecursionError as error:
        raise UserError(f"{file.path}: not readable JSON (nested too deeply)") from error


def _texts(raw: IO[bytes], file: RawFile) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(_text_of(raw, "\n"), 1):
        if line.strip():
            yield f"line {number}", {"text": line.rstrip("\r\n")}


class Dialect(NamedTuple):
    """How a table is written."""

    delimiter: str
    says_so: bool  # a first line does, Excel's `sep=;`
    quoting: int  # csv.QUOTE_NONE where a quote is a letter as any other


def csv_dialect(file: RawFile) -> Dialect:
    """What stands between a table's cells, and whether quotes stand around them."""
    first = file.head.lstrip("\r\n").splitlines()[:1]
    first = first[0] if first else ""
    if len(first) == 5 and first.lower().startswith("sep="):
        return Dialect(first[4], True, csv.QUOTE_MINIMAL)
    # outside quotes
    bare = "".join(first.split('"')[::2])
    # a tie goes to the comma, and in `.tsv` a tab to everything
    counts = {mark: bare.count(mark) for mark in DELIMITERS}
    if ".tsv" in Path(file.path).name.lower() and counts["\t"]:
        counts["\t"] = len(first)
    delimiter = max(DELIMITERS, key=counts.__getitem__)
    plain = delimiter == "\t" and _quotes_are_letters(file.head)
    return Dialect(delimiter, False, csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL)


def _quotes_are_letters(text: str) -> bool:
    """Whether cells between tabs are no quoted ones: where nothing needs quotes, few write them."""
    try:
        for _ in csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True):
            pass
    except csv.Error as error:
        # a quoted cell may be cut where the first part of a long file ends
        return len(text) < CUT or "end of data" not in str(error)
    return False


def _csv(raw: IO[bytes], file: RawFile) -> Iterator[tuple[str, dict]]:
    """Cells by their columns, all of them text; an empty cell is missing (None)."""
    csv.field_size_limit(LONGEST_CELL)
    dialect = csv_dialect(file)
    # in a quoted cell a line break is a part of the text
    text = _text_of(raw, "")
    # strict: an open quote would take the rest of the file for one cell
    lines = csv.reader(text, strict=True, delimiter=dialect.delimiter, quoting=dialect.quoting)
    begins = 1
    try:
        filled = (cells for cells in lines if cells)
        if dialect.says_so:
            next(filled, [])
        header = next(filled, [])
        twice = [name for name in header if header.count(name) > 1]
        if twice:
            raise UserError(f"{file.path}: two columns have one name ({twice[0]!r})")
        begins = lines.line_num + 1
        for cells in lines:
            # a blank line has no cells
            if cells and len(cells) != len(header):
                raise UserError(
                    f"{file.path}, line {begins}: {len(cells)} cells, the header has {len(header)}"
                )
            if cells:
                named = zip(header, cells, strict=True)
                yield f"line {begins}", {name: cell or None for name, cell in named}
            begins = lines.line_num + 1
    except csv.Error as error:
        raise UserError(f"{file.path}, line {begins}: not valid CSV ({error})") from error


READERS = {"lines": _json_lines, "document": _document, "csv": _csv, "text": _texts}
