"""What models and users wrote, made safe to show: text, whatever characters are in it."""

import contextlib
import html
import re
import sys
from collections.abc import Iterator
from typing import TextIO

from instruct.errors import UserError

# Characters that do something instead of being seen: terminal control (C0, C1), direction (bidi),
# invisible ones, surrogates. Joiners (U+200C, U+200D) stay: words and emoji are made with them.
ACTING = (
    "\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\\ud800-\\udfff\U000e0000-\U000e007f"
)
_ACTING = re.compile(f"[{ACTING}]")
LONGEST_LINE = 2000  # characters of one sentence; a row may be a megabyte
LONGEST_NAME = 100  # bytes; a file system takes 255, and endings come after it


def plain(text: str) -> str:
    """`text` with every character that acts written as its escape; newlines and tabs stay."""
    return _ACTING.sub(lambda found: ascii(found[0])[1:-1], text)


class _PlainStream:
    """A stream of text that is written `plain`, but for the carriage returns of progress bars."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write("\r".join(map(plain, text.split("\r"))))

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


@contextlib.contextmanager
def plain_stdout() -> Iterator[None]:
    """What is printed in this block is `plain`: names of files and columns are people's, too."""
    was, sys.stdout = sys.stdout, _PlainStream(sys.stdout)
    try:
        yield
    finally:
        sys.stdout = was


def one_line(text: str, longest: int = LONGEST_LINE) -> str:
    """`plain` text on one line, cut in the middle where it is longer than `longest` characters."""
    line = " ".join(plain(text).split())
    if len(line) > longest:
        half = longest // 2
        line = f"{line[:half]} … {line[-half:]}"
    return line


def markdown_text(text: str) -> str:
    """`text` on one line for Markdown, in a table too: no markup of its own, HTML neither."""
    # models write tables, links and HTML; shown as they wrote them, not rendered
    text = html.escape(one_line(text, longest=sys.maxsize), quote=False)
    return re.sub(r"[\\`*_{}\[\]|#!]|~(?=~)|(?<=~)~", r"\\\g<0>", text)


def markdown_code(text: str) -> str:
    """`one_line` text as inline code: nothing in it is markup, a backtick or a | neither."""
    line = one_line(text)
    # the fence is longer than any run of backticks inside; a table is cut at a bare |
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|") if line else ""


def check_name(name: str, flag: str) -> str:
    """A name that is shown, and that files are called by.

    Raises:
        UserError: empty, too long, with a character that acts, or a path.
    """
    shown = one_line(name, longest=60)
    if not name.strip() or name != name.strip():
        raise UserError(f"{flag} {shown!r}: a name needs a letter, and no blank before or after it")
    if len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise UserError(f"{flag} {shown}: a name has at most {LONGEST_NAME} bytes")
    if plain(name) != name or re.search(r"[\n\t/\\]", name) or name.startswith("."):
        raise UserError(
            f"{flag} {shown}: a name cannot begin with a dot or hold / \\ or control characters; "
            "files are called by it"
        )
    return name
