"""How a file writes its letters, and any of it as UTF-8.

UTF-8 and, by their first bytes, UTF-16 and UTF-32 are certain. Windows-1252 (of which Latin-1 is a
part) is likely where single accented letters stand among ASCII; who reads such a file is told.
"""

import codecs
import io
import re
from pathlib import Path

from instruct.errors import UserError

# the longer first: UTF-32's begins as UTF-16's does
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WINDOWS = "cp1252"
# letters and signs that people type in western Europe: of ³, ¹, þ and ÿ there are few, and in a
# file of another code page many
TYPED = frozenset(
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüŒœŠšŽžŸ€£§©®°«»¿¡·ªº\xa0‚„…†‘’“”•–—™"
)
BEYOND_ASCII = re.compile(rb"[\x80-\xff]+")
BLOCK = 1 << 16


def encoding_of(head: bytes, whole: bool) -> str:
    """The encoding of a text that begins with `head`; "utf-8" also where nothing fits.

    Args:
        whole: whether the text ends there.
    """
    for mark, name in MARKS:
        if head.startswith(mark):
            return name
    if wide := _without_mark(head):
        return wide
    try:
        # a letter may be cut at the end of what was read
        codecs.getincrementaldecoder("utf-8")().decode(head, final=whole)
    except UnicodeDecodeError:
        return WINDOWS if _looks_western(head) else "utf-8"
    return "utf-8"


def _without_mark(head: bytes) -> str | None:
    """UTF-16 or UTF-32 by where the zeros of its ASCII letters stand."""
    if len(head) < 4 or b"\0" not in head[:4]:
        return None
    quarter = [head[i::4].count(0) / len(head[i::4]) for i in range(4)]
    for name, zeros in (
        ("utf-32-le", (1, 2, 3)),
        ("utf-32-be", (0, 1, 2)),
        ("utf-16-le", (1, 3)),
        ("utf-16-be", (0, 2)),
    ):
        others = [quarter[i] for i in range(4) if i not in zeros]
        if min(quarter[i] for i in zeros) > 0.3 and max(others) < 0.1:
            return name
    return None


def _looks_western(head: bytes) -> bool:
    runs = BEYOND_ASCII.findall(head)
    try:
        letters = b"".join(runs).decode(WINDOWS)
    # five bytes stand for nothing in it
    except UnicodeDecodeError:
        return False
    # words of Greek, Cyrillic, Chinese or Japanese code pages are long runs
    long = sum(len(run) > 2 for run in runs)
    return long <= 0.1 * len(runs) and sum(c in TYPED for c in letters) >= 0.95 * len(letters)


def read_text(file: Path, shown: str) -> str:
    """The text of a file that a flag names, whatever mark an editor put first; lines end in \\n.

    Args:
        shown: the flag and what it was given, for messages.

    Raises:
        UserError: no such file, a folder, or neither UTF-8 nor, by its marks, UTF-16 or UTF-32.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{shown}: no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{shown}: this is a folder, not a file") from error
    found = encoding_of(content, whole=True)
    try:
        # a guess is good enough for rows, of which it is told, not for what people are asked
        encoding = "utf-8" if found == WINDOWS else found
        return io.TextIOWrapper(io.BytesIO(content), encoding).read()
    except UnicodeError as error:
        raise UserError(f"{shown}: not UTF-8 text; write it anew as such") from error


class AsUtf8(io.RawIOBase):
    """A stream of text in another encoding, as bytes of UTF-8; a byte that is no letter stays."""

    def __init__(self, raw, encoding: str):
        self.raw = raw
        # what is half a character is found with its row, as in a file of UTF-8
        self.errors = "surrogateescape" if encoding == WINDOWS else "surrogatepass"
        self.decoder = codecs.getincrementaldecoder(encoding)(self.errors)
        self.ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self.ready:
            block = self.raw.read(BLOCK)
            # a text that ends within a letter raises here
            self.ready = self.decoder.decode(block, final=not block).encode("utf-8", self.errors)
            if not block:
                break
        size = min(len(buffer), len(self.ready))
        buffer[:size], self.ready = self.ready[:size], self.ready[size:]
        return size

    def close(self) -> None:
        self.raw.close()
        super().close()
