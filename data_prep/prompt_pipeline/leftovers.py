"""What a killed run left beside an output folder."""

import os
import shutil
from pathlib import Path


def clear_leftovers(output: Path) -> None:
    """Of dead processes: work folders go, and a folder that was moved away comes back."""
    # the names that `instruct.files.atomic_folder` gives: .NAME.PID.part and .old
    for left in output.parent.glob(f".{output.name}.*.*"):
        pid, end = left.name.split(".")[-2:]
        if not pid.isdigit() or end not in ("part", "old") or _alive(int(pid)):
            continue
        # killed between two renames: the earlier output is only here
        if end == "old" and not output.exists():
            left.rename(output)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        # signal 0 only asks
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # someone else's process
    return True
