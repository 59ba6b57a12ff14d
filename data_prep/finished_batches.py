"""Batches that an unfinished output has so far, kept on disk, so that a killed run goes on."""

import json
from pathlib import Path

from instruct.errors import UserError


class FinishedBatches:
    """What was made of each batch, on disk: a killed run with the same settings goes on after it.

    The file's first line is the settings, every other one batch.

    Args:
        what: what a batch holds, a key of its line.
    """

    def __init__(self, path: Path, settings: dict, what: str):
        self.path, self.what = path, what
        path.parent.mkdir(parents=True, exist_ok=True)
        self.done = read_partial(path, settings, what)
        if not path.is_file():
            path.write_text(json.dumps(settings) + "\n")

    def add(self, batch: str, found: list) -> None:
        self.done[batch] = found
        # a batch a line: a kill costs one batch at most
        with self.path.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"batch": batch, self.what: found}) + "\n")


def partial_of(output: Path) -> Path:
    """Where the batches of an unfinished output lie."""
    return output.with_name(output.name + ".partial")


def read_partial(path: Path, settings: dict, what: str) -> dict[str, list]:
    """Batches that an earlier run with the same settings finished; an unfinished last line goes.

    Raises:
        UserError: they were drawn with other settings; hours of work are not thrown away unasked.
    """
    if not path.is_file():
        return {}
    lines = path.read_bytes().split(b"\n")
    own = json.dumps(settings).encode()
    # killed, or out of disk, while it wrote its first line: there is no batch yet
    if len(lines) == 1 and own.startswith(lines[0]):
        path.unlink()
        return {}
    # other settings put other prompts into a batch of the same name
    if lines[0] != own:
        raise UserError(
            f"{path} holds what a run with another model, other data or other flags (or of an "
            "earlier version) has finished so far; give those again, delete it to start over (or "
            "add --overwrite_output_dir), or give another --output"
        )
    # every whole line ends in a newline, so what follows the last one is unfinished
    entries = map(json.loads, lines[1:-1])
    done = {entry["batch"]: entry[what] for entry in entries}
    # without the torn end, or the next batch would be appended to it
    path.write_bytes(b"".join(line + b"\n" for line in lines[:-1]))
    return done
