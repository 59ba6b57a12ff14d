"""Hashes of files by their bytes; those of large files are kept, not computed twice.

They are kept in a small file under the user's cache folder.
"""

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from instruct.processes import is_main_process

KEPT_FROM = 2**20  # bytes; hashing a smaller file takes no longer than looking its hash up
TOLD_FROM = 2**30  # bytes; reading more takes long enough to be told before
KEPT_FILES = 5000  # hashes, the newest
SETTLED = 2_000_000_000  # ns; a file changed less long ago may change again at the same time stamp

_seen: dict[str, str] = {}  # {a file's stat: its hash} of this process


def cache_folder() -> Path:
    """This project's folder under the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "instruct-recipes"


def _kept_hashes() -> dict[str, str]:
    # a cache: unreadable, damaged or not there, its hashes are computed anew
    try:
        kept = json.loads((cache_folder() / "hashes.json").read_text())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _keep_hash(key: str, digest: str) -> None:
    kept = {**_kept_hashes(), key: digest}
    newest = dict(list(kept.items())[-KEPT_FILES:])
    file = cache_folder() / "hashes.json"
    beside = file.with_name(f".{file.name}.{os.getpid()}.part")
    # a read-only home or a full disk costs time at the next command, nothing else
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(newest))
        os.replace(beside, file)


def _key_of(path: str | Path) -> str:
    found = os.stat(path)
    # ctime as well: bytes written in place with the old mtime set again do not hide
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


def _known(path: str | Path) -> str | None:
    key = _key_of(path)
    return _seen.get(key) or _kept_hashes().get(key)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return file_hashes([path])[0]


def file_hashes(paths: Iterable[str | Path]) -> list[str]:
    """SHA-256 of each file, in hex. Before more than 1 GiB is read, a line on stderr says so."""
    paths = list(paths)
    large = [path for path in paths if os.stat(path).st_size >= KEPT_FROM]
    unread = sum(os.stat(path).st_size for path in large if not _known(path))
    if unread > TOLD_FROM and is_main_process():
        told = f"reading {unread / 1e9:.1f} GB of files once, to know them again"
        print(told, file=sys.stderr, flush=True)
    return [_hash(path) for path in paths]


def _hash(path: str | Path) -> str:
    found, key = os.stat(path), _key_of(path)
    large = found.st_size >= KEPT_FROM
    if large and (known := _known(path)):
        return known
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if large and time.time_ns() - found.st_ctime_ns > SETTLED:
        # also here: a home may be read-only
        _seen[key] = digest
        _keep_hash(key, digest)
    return digest


def hash_of(value) -> str:
    """SHA-256 of a JSON value, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def files_hash(files: Iterable[Path]) -> str:
    """One hash for several files in their order, whatever their names."""
    return hash_of(file_hashes(files))
