"""What a task asked of a model, kept step by step: killed and run again, nothing is asked twice."""

import json
from pathlib import Path

from instruct.files import atomic_file


class KeptSteps:
    """The steps that were done, on disk: a line each, after a first line that says of what.

    What lies there of something else (another model, other prompts or flags) is replaced, and so is
    a last line that a kill has torn.

    Args:
        path: the file.
        key: what is asked of whom, by content.
        anew: whether to begin anew in any case.

    Attributes:
        done: {step: its rows}.
    """

    def __init__(self, path: Path, key: str, anew: bool = False):
        self.path = path
        first = json.dumps({"asked": key}).encode()
        lines = path.read_bytes().split(b"\n") if path.is_file() and not anew else []
        # every whole line ends in a newline: what follows the last one is torn
        whole = lines[1:-1] if lines[:1] == [first] else []
        entries = [json.loads(line) for line in whole]
        self.done: dict[str, list] = {entry["step"]: entry["rows"] for entry in entries}
        with atomic_file(path) as beside:
            beside.write_bytes(b"".join(line + b"\n" for line in [first, *whole]))

    def add(self, step: str, rows: list) -> None:
        """Keeps what a step came to: JSON values."""
        self.done[step] = rows
        line = json.dumps({"step": step, "rows": rows}, ensure_ascii=False)
        with self.path.open("ab") as log:
            # half a character, which a tokenizer may give, is no UTF-8
            log.write(line.encode("utf-8", "backslashreplace") + b"\n")
