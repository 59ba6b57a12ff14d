"""Who may label: names and their hashed passwords in a file.

    python -m data_prep.labeling.team --passwords team.txt --name ada

asks for ada's password (twice) and puts a line into the file; of a name that is there, the new one
replaces it. The file holds no password: scrypt's hash of it, with a salt of its own.
"""

import getpass
import hashlib
import hmac
import os
import re
import secrets
import sys
import unicodedata
from pathlib import Path

from instruct.command.commands import Parser, command
from instruct.errors import UserError
from instruct.files import atomic_file
from instruct.plain_text import check_name, one_line
from instruct.rows.encodings import read_text
from instruct.run.folders import claim

SCREENING_CUTOFF = 0.75  # appendix B.1: agreement with the owner's answers; soft: only told
# OWASP's second choice for scrypt: 16 MiB, five times; about 0.2 s
COST = {"n": 2**14, "r": 8, "p": 5}
SHORTEST = 8  # characters of a password
LINE = re.compile(r"scrypt\$([0-9a-f]{32})\$([0-9a-f]{64})")


class Team:
    """Names with their salts and hashes.

    Attributes:
        names: who may log in, in the order of the file.
    """

    def __init__(self, hashes: dict[str, tuple[bytes, bytes]]):
        self._hashes = hashes
        # a name that is unknown takes as long as one that is known
        self._nobody = (secrets.token_bytes(16), secrets.token_bytes(32))

    @classmethod
    def read(cls, path: Path) -> "Team":
        """The team of a file, a line each: `NAME:scrypt$SALT$HASH`; `#` begins a remark.

        Raises:
            UserError: no such file, nobody in it, a line of another form, a name twice.
        """
        hashes = _hashes_of(Path(path))
        if not hashes:
            raise UserError(f"--passwords {path}: names nobody; {_how_to(path)}")
        return cls(hashes)

    @property
    def names(self) -> list[str]:
        return list(self._hashes)

    def check(self, name: str, password: str) -> bool:
        """Whether this is the password of that name, in the same time for every name."""
        name = composed(name)
        salt, known = self._hashes.get(name, self._nobody)
        found = _hash(password, salt)
        return hmac.compare_digest(found, known) and name in self._hashes


def set_password(path: Path, name: str, password: str) -> None:
    """Puts a name with its password into a file, or replaces it there.

    Raises:
        UserError: a name that cannot be shown, a password too short, a file of another form.
    """
    name = composed(name)
    check_name(name, "--name")
    # the colon ends a name in the file, and # begins a remark
    if ":" in name or name.startswith("#"):
        raise UserError(f"--name {name}: a name holds no colon and begins with no #")
    if len(password) < SHORTEST:
        raise UserError(f"a password has at least {SHORTEST} characters")
    if not _is_text(password):
        raise UserError("the password holds bytes that are no text (UTF-8); give another")
    path = Path(path)
    lines = _lines_of(path) if path.is_file() else []
    salt = secrets.token_bytes(16)
    line = f"{name}:scrypt${salt.hex()}${_hash(password, salt).hex()}"
    # in its place; remarks stay where they are
    at = next((i for i, (known, *_) in enumerate(lines) if known == name), len(lines))
    lines[at : at + 1] = [(name, None, line)]
    with atomic_file(path) as beside:
        # before it holds anything; a hash can be guessed at by who reads it
        os.close(os.open(beside, os.O_CREAT | os.O_WRONLY, 0o600))
        beside.write_text("".join(f"{line}\n" for *_, line in lines), encoding="utf-8")


def _hashes_of(path: Path) -> dict[str, tuple[bytes, bytes]]:
    return {name: secret for name, secret, _ in _lines_of(path) if name is not None}


def _lines_of(path: Path) -> list[tuple[str | None, tuple[bytes, bytes] | None, str]]:
    """(name, (salt, hash), line) of each line of a file; of a remark the line alone."""
    try:
        text = read_text(path, f"--passwords {path}")
    except UserError as error:
        raise UserError(f"{error}; {_how_to(path)}") from error
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            lines.append((None, None, line))
            continue
        name, _, rest = line.strip().rpartition(":")
        name, found = composed(name), LINE.fullmatch(rest)
        if not name or not found:
            # never the line itself: it may hold a password as it was typed
            raise UserError(
                f"--passwords {path}, line {number}: is not NAME:scrypt$SALT$HASH; {_how_to(path)}"
            )
        check_name(name, f"--passwords {path}, line {number}:")
        if any(name == known for known, *_ in lines):
            raise UserError(f"--passwords {path}, line {number}: {one_line(name)} is there twice")
        lines.append((name, (bytes.fromhex(found[1]), bytes.fromhex(found[2])), line.strip()))
    return lines


def _how_to(path: Path) -> str:
    return f"a line is made by python -m data_prep.labeling.team --passwords {path} --name NAME"


def composed(text: str) -> str:
    """Names and passwords by what is read: é is one letter or two, by keyboard (RFC 8265)."""
    return unicodedata.normalize("NFC", str(text))


def _is_text(password: str) -> bool:
    try:
        password.encode()
    except UnicodeEncodeError:
        return False
    return True


def _hash(password: str, salt: bytes) -> bytes:
    # half a character has no bytes in UTF-8, and is no reason to fail: no password holds one
    secret = composed(password).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(secret, salt=salt, dklen=32, **COST)


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    file = "names and hashed passwords; made where there is none"
    parser.add_argument("--passwords", type=Path, required=True, metavar="FILE", help=file)
    parser.add_argument("--name", required=True, help="who may log in")
    args = parser.parse_args(argv)
    claim(args.passwords)
    if sys.stdin.isatty():
        password = getpass.getpass(f"Password of {one_line(args.name)}: ")
        if password != getpass.getpass("Once more: "):
            raise UserError("two different passwords were typed; nothing was changed")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    set_password(args.passwords, args.name, password)
    print(f"{args.passwords}: {args.name} may log in; give the page --passwords {args.passwords}")


if __name__ == "__main__":
    main()
