"""`--format` and `--columns`, the same two flags of every command that reads rows."""

import argparse
from dataclasses import dataclass, field

FORMAT = "Shape of the rows, by its name in docs/formats.md. Default: as the columns look."
COLUMNS = "Names of columns, OURS=THEIRS each: prompt=question chosen=good rejected=bad."


def add_shape_flags(parser: argparse.ArgumentParser) -> None:
    """Adds both flags to a command of `data_prep`."""
    parser.add_argument("--format", metavar="NAME", help=FORMAT)
    parser.add_argument("--columns", nargs="+", metavar="OURS=THEIRS", help=COLUMNS)


@dataclass
class ShapeArguments:
    """Both flags of a recipe, beside TRL's own `ScriptArguments`."""

    format: str | None = field(default=None, metadata={"help": FORMAT})
    columns: list[str] | None = field(default=None, metadata={"help": COLUMNS})


def shape_of(args: argparse.Namespace | ShapeArguments) -> dict:
    """Both flags as `data_prep.formats.reader.read` takes them."""
    return {"format": args.format, "columns": args.columns}
