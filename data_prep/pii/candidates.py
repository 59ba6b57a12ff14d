r"""The coarse filter that an engine runs over every row, before a finder looks at the few left.

Every pattern is a superset of what the finder of that kind accepts, in the dialect that RE2
(DuckDB), Java (Spark) and Python share; `\x{a0}` and its like have to be rewritten for Python.
"""

import re
from collections.abc import Callable, Iterable

from data_prep.pii import secrets
from data_prep.pii.found import KINDS

# an ASCII digit or a full-width one
_DIGIT = r"[0-9\x{ff10}-\x{ff19}]"
# what may stand between two digits of a number, in any of its forms (`letters.plain`)
_GAP = r"[ .\-/()\x{a0}\x{2000}-\x{2013}\x{202f}\x{205f}\x{2212}\x{3000}\x{ff08}-\x{ff0f}]{0,3}"
_DOT, _COLON = r"[.\x{ff0e}]", r"[:\x{ff1a}]"
_CAPITAL = r"[A-Za-z\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a}]"
_HEX = r"[0-9A-Fa-f\x{ff10}-\x{ff19}\x{ff21}-\x{ff26}\x{ff41}-\x{ff46}]"


# no look-around, which RE2 has not: so these are looser than the finders
CANDIDATES = {
    "email": r"[@\x{ff20}]|%40|&#64;|&#[xX]40;|&commat;|\\u0040",
    # seven digits, two or three signs between them at most: ") " or " - "
    "phone": rf"{_DIGIT}(?:{_GAP}{_DIGIT}){{6}}",
    "ipv4": rf"{_DIGIT}(?:{_DOT}{_DIGIT}{{1,3}}){{2}}{_DOT}{_DIGIT}",
    "ipv6": rf"{_COLON}{_HEX}{{0,4}}{_COLON}",
    # 12 digits, Maestro, are the fewest
    "card": rf"{_DIGIT}(?:{_GAP}{_DIGIT}){{11}}",
    "iban": rf"{_CAPITAL}{{2}}{_DIGIT}{{2}}(?:{_GAP}(?:{_DIGIT}|{_CAPITAL})){{3}}",
    "national_id": (
        # seven digits (Spain's NIE) are the fewest; Mexico's and Italy's begin with letters
        rf"{_DIGIT}(?:{_GAP}{_DIGIT}){{6}}"
        rf"|{_CAPITAL}{{4}}{_DIGIT}{{6}}{_CAPITAL}|{_CAPITAL}{{6}}{_DIGIT}{{2}}{_CAPITAL}{_DIGIT}{{2}}"
    ),
    # full-width forms stand in for none of its signs
    "secret": secrets.CANDIDATE,
}
# the same for Python: `find_pii` asks it before it runs a finder
GATES: dict[str, Callable[[str], object]] = {
    kind: re.compile(re.sub(r"\\x\{([0-9a-f]+)\}", lambda m: chr(int(m[1], 16)), pattern)).search
    for kind, pattern in CANDIDATES.items()
    if kind != "secret"
}
# here that pattern costs more than its finder
GATES["secret"] = secrets.may_hold_secret


def candidate_pattern(kinds: Iterable[str] = KINDS) -> str:
    """One regular expression that matches every text in which `find_pii` could find `kinds`."""
    return "|".join(CANDIDATES[kind] for kind in kinds)
