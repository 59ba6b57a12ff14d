"""The secret under which personal information is hashed, beside the output folder, never in it.

A bare hash of a phone number is found by trying all numbers, and so is one under a key that the
published folder gives away. With the same key file the same values have the same hashes.
"""

import os
import secrets
import sys
from pathlib import Path

from instruct.errors import UserError
from instruct.files import sync, sync_folder
from instruct.run.folders import clear_leftovers, real

FEWEST_BYTES = 16  # shorter ones can be tried out
MAKE_ONE = "(umask 077; openssl rand -hex 32 > FILE) makes one"


class PiiKey:
    """The content of `--pii_key_file`, else of `OUTPUT_DIR.key`, else a new secret.

    Args:
        given: `--pii_key_file`.
        output: the output folder.

    Raises:
        UserError: no file where one is named, or one that is no secret.
    """

    def __init__(self, given: Path | None, output: Path):
        output = real(output)
        self.path = given or output.with_name(f"{output.name}.key")
        if given and output in (real(given), *real(given).parents):
            raise UserError(f"--pii_key_file {given}: it lies in --output_dir, which is published")
        self.is_new = not given and not os.path.lexists(self.path)
        self.secret = secrets.token_hex(32).encode() if self.is_new else _read(self.path)
        if not self.is_new:
            _check_private(self.path, named=given is not None)

    def keep(self) -> None:
        """Writes a new secret to its file, whole or not at all; a run that needs none writes none.

        Raises:
            UserError: another run has made the file in the meantime.
        """
        # also where the file is there: killed between link and unlink, a run leaves both names
        clear_leftovers(self.path)
        if not self.is_new:
            return
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        beside.unlink(missing_ok=True)
        try:
            # for its owner alone from the first byte on; O_EXCL: nobody else's file or link
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                out.write(self.secret + b"\n")
            sync(beside)
            _link(beside, self.path)
            sync_folder(self.path.parent)
        finally:
            beside.unlink(missing_ok=True)
        self.is_new = False
        _check_private(self.path, named=False)


def _link(beside: Path, path: Path) -> None:
    """Gives the file its name, unless that is taken."""
    taken = f"{path}: another run has made it; run this again, with its key"
    try:
        # a rename would replace what another run has made
        os.link(beside, path)
    except FileExistsError as error:
        raise UserError(taken) from error
    except OSError as error:
        # no hard links on this disk (FAT, some network drives)
        if os.path.lexists(path):
            raise UserError(taken) from error
        os.rename(beside, path)


def _read(path: Path) -> bytes:
    try:
        secret = path.read_bytes().strip()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such key file; {MAKE_ONE}") from error
    except OSError as error:
        raise UserError(f"{path}: the key cannot be read ({error.strerror})") from error
    if len(secret) < FEWEST_BYTES:
        what = f"has {len(secret)} bytes, a key needs {FEWEST_BYTES}" if secret else "is empty"
        raise UserError(f"{path}: the key file {what}; {MAKE_ONE}")
    return secret


def _check_private(path: Path, named: bool) -> None:
    """Closes our own file to others, and tells where the disk has no modes; refuses a named one.

    Raises:
        UserError: others may read a file that was named by its flag.
    """
    # Windows has no such bits
    if os.name != "posix" or not path.stat().st_mode & 0o077:
        return
    if named:
        raise UserError(
            f"{path}: others may read the key; chmod 600 it, or name another by --pii_key_file"
        )
    try:
        path.chmod(0o600)
        is_open = bool(path.stat().st_mode & 0o077)
    except OSError:
        # not ours, or a disk that takes no modes
        is_open = True
    if is_open:
        print(
            f"warning: {path}: others may read the key, and this disk keeps no modes; move it to "
            "one that does and name it by --pii_key_file",
            file=sys.stderr,
        )
