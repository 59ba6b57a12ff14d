r"""The coarse filter that an engine runs over every row, before a finder looks at the few left.

Every pattern is a superset of what the finder of that kind accepts, in the dialect that RE2
(DuckDB), Java (Spark) and Python share; `\x{a0}` alone has to be rewritten for Python.
"""

import re
from collections.abc import Iterable

from data_prep.pii.found import KINDS

# no look-around, which RE2 has not: so these are looser than the finders
CANDIDATES = {
    "email": "@",
    # seven digits, two separators between them at most: ") " or " ("
    "phone": r"[0-9](?:[ .\-/()\x{a0}]{0,2}[0-9]){6}",
    "ipv4": r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
    "ipv6": r":[0-9A-Fa-f]{0,4}:",
    # 13 digits, old Visa cards, are the fewest
    "card": r"[0-9](?:[ .\-]?[0-9]){12}",
    "iban": r"[A-Z]{2}[0-9]{2}[ \-]?[A-Z0-9]{3}",
    "national_id": (
        # seven digits (Spain's NIE) are the fewest; Mexico's and Italy's begin with letters
        r"[0-9](?:[ .\-]?[0-9]){6}|[A-Z]{4}[0-9]{6}[A-Z]|[A-Z]{6}[0-9]{2}[A-Z][0-9]{2}"
    ),
    "secret": (
        r"sk-|A[KS]IA|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AIza|hf_|[srp]k_(?:live|test)_"
        r"|npm_|pypi-|eyJ|SG\.|PRIVATE KEY|(?i:key|secret|token)[\"']?[ \t]{0,3}[:=]"
    ),
}
# the same for Python: `find_pii` asks it before it runs a finder
GATES = {
    kind: re.compile(pattern.replace(r"\x{a0}", "\xa0")) for kind, pattern in CANDIDATES.items()
}


def candidate_pattern(kinds: Iterable[str] = KINDS) -> str:
    """One regular expression that matches every text in which `find_pii` could find `kinds`."""
    return "|".join(CANDIDATES[kind] for kind in kinds)
