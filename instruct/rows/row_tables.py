"""Rows -> one Arrow table: the columns of all rows, and what is no column by its row."""

from collections.abc import Callable

import pyarrow as pa

from instruct.errors import UserError
from instruct.rows.row_checks import kind_of

# levels of lists and objects in a column: Arrow and `datasets` walk them by recursion
DEEPEST = 32
# what `pa.array` raises for values that are no column
NO_COLUMN = (pa.ArrowException, OverflowError, UnicodeEncodeError, RecursionError)


def as_table(rows: list[dict], place: Callable[[int], str]) -> pa.Table:
    """A table of all columns that any row has; what a row has not is null.

    Args:
        place: of the row at an index, for the sentence.

    Raises:
        UserError: values of several types in one column, or one that a table cannot hold.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _column(name, [row.get(name) for row in rows], place) for name in names}
    try:
        return pa.table(columns)
    except UnicodeEncodeError as error:
        raise UserError(f"{place(0)}: a column's name holds half a character") from error


def _column(name: str, values: list, place: Callable[[int], str]) -> pa.Array | pa.ChunkedArray:
    try:
        column = pa.array(values)
    except NO_COLUMN as error:
        bad = _first_bad(values)
        raise UserError(f"{place(bad)}: {name!r} {_reason(error, values[bad])}") from error
    if _depth(column.type) > DEEPEST:
        raise UserError(
            f"{place(0)}: {name!r} is nested deeper than {DEEPEST} levels in this row or below"
        )
    return column


def _first_bad(values: list) -> int:
    """The index of the first value that makes no column with those before it."""
    good, bad = 0, len(values)
    while good + 1 < bad:
        middle = (good + bad) // 2
        try:
            pa.array(values[:middle])
            good = middle
        except NO_COLUMN:
            bad = middle
    return bad - 1


def _reason(error: Exception, value) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "holds half a character (a lone surrogate); write the text as UTF-8 anew"
    if isinstance(error, OverflowError):
        return "holds a whole number beyond 64 bits; write it as text"
    if isinstance(error, RecursionError):
        return f"is nested deeper than {DEEPEST} levels"
    return f"is {kind_of(value)}, which does not go with the rows before; give it one type"


def _depth(kind: pa.DataType) -> int:
    # not by recursion: it is what is too deep that is asked for
    depth, level = 0, [kind]
    while level := [t.field(i).type for t in level for i in range(t.num_fields)]:
        depth += 1
    return depth
