"""What a file is, by its bytes and its name, and its bytes unpacked and as UTF-8.

Bytes go before the name: Parquet under `.jsonl`, gzip under `.json` and JSON under `.csv` are read
as what they are. What holds no rows (a Git-LFS pointer, a web page, a ZIP archive) is refused with
what to do.
"""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from instruct.errors import UserError
from instruct.processes import is_main_process
from instruct.rows.encodings import WINDOWS, AsUtf8, encoding_of

# File ending -> what its rows are written in.
ENDINGS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
# Ending of a packed file -> how it begins, and its name in a sentence.
PACKED = {
    ".gz": (b"\x1f\x8b", "gzip"),
    ".zst": (b"\x28\xb5\x2f\xfd", "zstd"),
    ".bz2": (b"BZh", "bzip2"),
    ".xz": (b"\xfd7zXZ\0", "xz"),
}
SNIFFED = 4 << 20  # unpacked bytes that decide encoding and shape: most first rows are shorter
TABLES = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
# How a file begins that holds no rows -> what it is and what to do.
NO_ROWS = {
    b"version https://git-lfs.github.com/spec/": (
        "a Git-LFS pointer, not the file itself; run `git lfs pull` in its folder"
    ),
    b"PK\x03\x04": "a ZIP archive; unpack it and give the file inside",
    b"%PDF-": "a PDF; write its texts one row a line",
    b"SQLite format 3\0": "an SQLite database; export its table as CSV",
    b"\xd0\xcf\x11\xe0": "an old Office file; save it as CSV (UTF-8)",
    b"\x89HDF": "an HDF5 file; write its rows as Parquet",
    b"\x93NUMPY": "a NumPy array; write its rows as JSONL",
    b"Obj\x01": "an Avro file; write its rows as Parquet",
    b"ORC": "an ORC file; write its rows as Parquet",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it and give the file inside",
    b"Rar!": "a RAR archive; unpack it and give the file inside",
}
PICKLE = re.compile(rb"\x80[\x02-\x05](?:\x95|[\]})(cK])")
HTML = re.compile(rb"\s*(?:<!doctype html|<html[\s>])", re.I)
XML = re.compile(rb"\s*<\?xml")
# where lines of JSON would have ended, an object goes on
GOES_ON = re.compile(r"[^\n]*\[\s*\n|[^\n]*\n\s*[\"},\]:]")
# an object whose first member of size is a list, or a table as pandas writes it
HOLDS_ROWS = re.compile(
    r'\{\s*(?:"[^"]{0,99}"\s*:\s*(?:"[^"]{0,999}"|[^"\[{,]{1,40})\s*,\s*){0,20}'
    r'"[^"]{0,99}"\s*:\s*(?:\[|\{\s*"0"\s*:)'
)


def without_packing(path: str | Path) -> str:
    """The file's name in lower case, without `.gz` and its like."""
    name = Path(path).name.lower()
    return next((name.removesuffix(end) for end in PACKED if name.endswith(end)), name)


def format_of(path: str | Path) -> str | None:
    """What a file's name says that its rows are written in; None where it says nothing."""
    name = without_packing(path)
    # by the ending of the name: `Path.suffix` of .jsonl.gz is .gz
    return next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)


@dataclass(frozen=True)
class RawFile:
    """A file and what its first bytes say of it.

    Its `kind` is "lines" (JSON, a row a line), "document" (JSON over several lines), "csv", "text"
    (a text a line), "parquet" or "arrow".
    """

    path: str
    kind: str
    packing: str | None
    encoding: str
    head: str  # the beginning of its text, empty of a table
    opener: Callable[[], IO[bytes]]

    def open(self) -> IO[bytes]:
        """Its bytes, unpacked; text as UTF-8 without a byte order mark."""
        raw = _unpacked(self.opener(), self.packing)
        if self.encoding == "utf-8-sig":
            raw.read(3)
        elif self.encoding != "utf-8":
            raw = io.BufferedReader(AsUtf8(raw, self.encoding), 1 << 16)
        return raw


def sniff(path: str | Path, opener: Callable[[], IO[bytes]] | None = None) -> RawFile:
    """What a file is.

    Args:
        opener: opens it for reading bytes, where it is none of this machine's files.

    Raises:
        UserError: no such file, a broken archive, or a file that holds no rows.
    """
    opener = opener or (lambda: open(path, "rb"))
    with told(path):
        with opener() as raw:
            head = raw.read(512)
        packing = next((name for begins, name in PACKED.values() if head.startswith(begins)), None)
        with _unpacked(opener(), packing) as raw:
            head = raw.read(512)
            _refuse(path, head)
            table = next((kind for begins, kind in TABLES.items() if head.startswith(begins)), None)
            if not table:
                head += raw.read(SNIFFED - 512)
    if table and packing:
        raise UserError(f"{path}: {table.title()} inside {packing}; unpack it")
    named = format_of(path) or "json"
    if table:
        return RawFile(str(path), table, None, "utf-8", "", opener)
    whole = len(head) < SNIFFED
    encoding = encoding_of(head, whole)
    text = head.decode(encoding, "replace")
    kind = _kind_of(text, named, without_packing(path).endswith(".json"), whole)
    if kind in TABLES.values() and (kind == "parquet" or packing):
        # its library would be handed text, or a stream that it cannot go back in
        raise UserError(
            f"{path}: cannot be read as {kind}: it does not begin as one; copy it anew, or give it "
            "the ending of what it is"
        )
    if kind == "arrow":
        # the oldest streams have no mark
        return RawFile(str(path), kind, None, "utf-8", "", opener)
    if encoding == WINDOWS:
        _tell_once(
            f"{path}: not UTF-8 text; read as Windows-1252 (Latin-1). "
            "Where letters come out wrong, write it anew as UTF-8"
        )
    return RawFile(str(path), kind, packing, encoding, text, opener)


def _kind_of(text: str, named: str, one_document: bool, whole: bool) -> str:
    """What a text is written in, by its beginning and by what its file's name says."""
    begins = text.lstrip()
    first, _, rest = begins.partition("\n")
    if named == "json":
        return _lines_or_document(begins, first, rest, one_document, whole)
    # a header or a text of this shape is rarer than a wrong ending
    if begins[:1] == "{" and _is_object(first):
        return "lines"
    if named in ("parquet", "arrow") and begins[:1] in ("{", "["):
        return _lines_or_document(begins, first, rest, one_document, whole)
    return named


def _lines_or_document(begins: str, first: str, rest: str, one_document: bool, whole: bool) -> str:
    if begins[:1] == "[":
        # no row is a list: a list of rows, whatever it is called
        of_rows = begins[1:].lstrip()[:1] in ("{", "]", "")
        return "document" if of_rows or one_document else "lines"
    if begins[:1] != "{":
        return "lines"
    if not rest.strip():
        # one line, or the first part of a long one; in `.jsonl` a line is a row
        one = _is_object(first) if whole else HOLDS_ROWS.match(begins)
        return "document" if one and one_document else "lines"
    return "document" if GOES_ON.match(begins) and not _is_object(first) else "lines"


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _refuse(path: str | Path, head: bytes) -> None:
    """Raises for bytes that are known to hold no rows."""
    what = next((said for begins, said in NO_ROWS.items() if head.startswith(begins)), None)
    if head.startswith(b"PK\x03\x04") and b"[Content_Types].xml" in head:
        what = "an Excel or Office file; save it as CSV (UTF-8)"
    if head[257:262] == b"ustar":
        what = "a tar archive; unpack it and give the file inside"
    if PICKLE.match(head):
        what = "a pickle, which can run code; write its rows as JSONL or Parquet"
    if HTML.match(head):
        what = (
            "a web page, not data; download the file itself "
            "(on the Hub its address has /resolve/ where the page's has /blob/)"
        )
    if XML.match(head):
        what = "XML, an answer of a server perhaps; download the file anew or write a row a line"
    if what:
        raise UserError(f"{path}: this is {what}")


def _unpacked(raw: IO[bytes], packing: str | None) -> IO[bytes]:
    if packing == "gzip":
        return gzip.GzipFile(fileobj=raw)
    if packing == "bzip2":
        return bz2.BZ2File(raw)
    if packing == "xz":
        return lzma.LZMAFile(raw)
    if packing == "zstd":
        # imported here: it takes a quarter of a second, and Arrow brings what Python 3.14 has
        import pyarrow as pa

        source = pa.PythonFile(raw, mode="r")
        return io.BufferedReader(pa.CompressedInputStream(source, "zstd"), 1 << 16)
    return raw


@contextlib.contextmanager
def told(path: str | Path) -> Iterator[None]:
    """What goes wrong in reading a file's bytes, as a UserError with its name."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        name = error.encoding.upper()
        raise UserError(f"{path}: not {name} text to its end ({error.reason})") from error
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        # bzip2's and Arrow's own have no number, and no class either
        of_the_disk = isinstance(error, OSError) and (
            error.errno or type(error) not in (OSError, gzip.BadGzipFile)
        )
        if of_the_disk:
            raise
        packed = next((end for end in PACKED if str(path).lower().endswith(end)), None)
        kind = PACKED[packed][1] if packed else "compressed"
        raise UserError(f"{path}: broken {kind} file ({error}); copy it anew") from error


_told: set[str] = set()


def _tell_once(sentence: str) -> None:
    if sentence not in _told and is_main_process():
        print(sentence, file=sys.stderr)
    _told.add(sentence)
