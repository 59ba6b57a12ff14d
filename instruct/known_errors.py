"""Errors of libraries, told as one sentence that says what a user can change."""

import errno
import os
import re

from instruct.files import DISK

# libraries that write by themselves tell it in words alone: Rust's and DuckDB's
IN_WORDS = re.compile(r"os error (\d+)|errno (\d+)", re.IGNORECASE)
FULL = ("no space left on device", "inline_container.cc")  # the second: torch.save


def disk_sentence(error: BaseException) -> str | None:
    """What is wrong with the disk, from an error or what caused it; None for any other error."""
    seen: BaseException | None = error
    caused = True
    while seen is not None:
        code = _errno(seen)
        # what only happened before says nothing, unless nothing can be written any more
        if code in DISK and (caused or code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)):
            names = (getattr(seen, "filename2", None), getattr(seen, "filename", None))
            # a descriptor's number is no name
            where = next((os.fsdecode(n) for n in names if isinstance(n, str | bytes)), None)
            return f"{where}: {DISK[code]}" if where else DISK[code]
        caused = seen.__cause__ is not None
        seen = seen.__cause__ or seen.__context__
    return None


def _errno(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    said = str(error)
    if any(words in said.lower() for words in FULL):
        return errno.ENOSPC
    found = IN_WORDS.search(said)
    return int(found[1] or found[2]) if found else None
