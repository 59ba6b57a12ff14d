"""The types of what rides along: found part by part, widened where a log changes its mind."""

import datetime
import json
from typing import Any

import pyarrow as pa

ARROW = {
    "null": pa.null(),
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "time": pa.timestamp("us", "UTC"),
    "text": pa.string(),
}


def kind_of(value: Any) -> str:
    """The kind (a key of `ARROW`) that holds this value."""
    if value is None:
        return "null"
    if isinstance(value, bool):  # before int, which it is as well
        return "bool"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float"
    return "time" if isinstance(value, datetime.datetime) else "text"


def wider(a: str, b: str) -> str:
    """The kind that holds both: a log may change a column's type on the way."""
    if a == b or b == "null":
        return a
    if a == "null":
        return b
    # everything can be written as text: no row is lost over a type
    return "float" if {a, b} == {"int", "float"} else "text"


def as_text(value: Any) -> str | None:
    """What has no column type of its own rides along as text: nested values as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def column_of(values: list) -> tuple[str, pa.Array]:
    """Values of one column in one part, as the narrowest kind that holds them."""
    kind = "null"
    # one value per Python type: asking every value is slow, types are few
    for sample in {type(v): v for v in values}.values():
        kind = wider(kind, kind_of(sample))
    # Python's integers have no end, Arrow's have 64 bits
    if kind == "int" and not all(v is None or -(2**63) <= v < 2**63 for v in values):
        kind = "text"
    if kind == "text":
        values = [as_text(v) for v in values]
    elif kind == "time":
        # UTC, as in `as_microseconds`
        values = [v if v is None or v.tzinfo else v.replace(tzinfo=datetime.UTC) for v in values]
    elif kind == "float":
        values = [v if v is None else float(v) for v in values]
    return kind, pa.array(values, ARROW[kind])
