"""Ids and names of a row as text, whatever type its file gave them.

JSONL may hold a number where Parquet or CSV hold text: compared as they are, one id would be two.
"""

from data_prep.formats.prompt_log import Malformed, as_identifier
from instruct.errors import UserError


def identifier_of(row: dict, column: str, where: str) -> str | None:
    """An id of the row as text; None where it has none. 0 is one.

    Raises:
        UserError: names `where`; neither text nor a whole number.
    """
    try:
        value = as_identifier(row.get(column), column)
    except Malformed as error:
        raise UserError(f"{where}: {error}") from error
    return None if value is None else str(value)


def text_of(row: dict, column: str, where: str) -> str | None:
    """A text of the row, None where it has none or an empty one.

    Raises:
        UserError: names `where`; something else.
    """
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: {column} is {type(value).__name__}, expected text")
    return value or None
