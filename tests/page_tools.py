"""The rows of docs/formats.md: each format's name, rows as people have them, and its command."""

import json
import re
import shlex
from typing import NamedTuple

from conftest import REPO

ROW = re.compile(r"\| ([\w -]+) \| (`\{.*`) \| `python -m ([\w.]+) ([^`|]*)` \|")


class Shape(NamedTuple):
    """A row of the page."""

    kind: str
    name: str
    rows: list[dict]
    module: str
    flags: list[str]


def shapes() -> list[Shape]:
    found, kind = [], ""
    for line in (REPO / "docs" / "formats.md").read_text(encoding="utf-8").splitlines():
        kind = line[4:].lower() if line.startswith("### ") else kind
        if row := ROW.fullmatch(line):
            name, shape, module, flags = row.groups()
            rows = objects("".join(re.findall("`([^`]*)`", shape)))
            found.append(Shape(kind, name, rows, module, shlex.split(flags)))
    return found


def objects(text: str) -> list[dict]:
    """JSON objects one behind the other."""
    found, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        row, end = decoder.raw_decode(text)
        found.append(row)
        text = text[end:]
    return found


PAGE = shapes()
