"""An output or a database that one run at a time writes, claimed under the name that it was given.

`folders.claim` names its lock file where that cannot be made, which nobody has asked for.
"""

from pathlib import Path

from instruct.errors import UserError
from instruct.files import DISK
from instruct.run.folders import claim


def claim_file(path: Path) -> None:
    """Makes this process the only one that writes this file, see `folders.claim`.

    Raises:
        UserError: another living process has it, or nothing can be written beside it.
    """
    try:
        claim(path)
    except OSError as error:
        # /proc says that there is no such file
        why = DISK.get(error.errno, "no file can be made there; give another path")
        raise UserError(f"{path}: nothing can be written in its folder: {why}") from error
