"""Keys, tokens and passwords: by their issuer's prefix, or by what stands before them."""

import base64
import binascii
import re
from collections.abc import Iterator

from data_prep.pii import token_shapes
from data_prep.pii.found import Found
from data_prep.pii.letters import LETTER, UUID

# --- what is assigned -----------------------------------------------------------------------------

_IS = r"[\"'`]?\]?[ \t]{0,3}(?::=|=>|[:=])[ \t]{0,3}[\"'`]?"
ASSIGNED_KEY = re.compile(
    rf"(?i:key|secret|token|credential|auth|signature|sig|cookie){_IS}"
    # 16 characters: shorter ones are placeholders and names
    r"([A-Za-z0-9+/_.~-]{16,250}={0,2})(?![A-Za-z0-9+/=])"
)
PASSWORD_WORDS = (
    "password|passwd|passphrase|passcode|pwd|pass|pw|passwort|kennwort|contraseña|contrasena|senha"
    "|mot de passe|mdp|wachtwoord|hasło|пароль|密码|密碼|口令|パスワード|비밀번호|รหัสผ่าน"
)
# names of nothing but keys: what they are given is one however short
KEY_NAMES = (
    "(?:client|app|api|consumer|shared|signing|webhook)[_ -]?secret"
    "|secret[_ -]?(?:access[_ -]?)?key"
    "|(?:api|access|private|account|auth|master|encryption|signing|license)[_ -]?key"
    "|(?:auth|access|refresh|api|bearer|bot|session|deploy)[_ -]?token"
)
FEWEST_OF_KEY = 8
# "my password is hunter2", <password>hunter2
_TOLD = r"[\"'>]{0,2}(?:[ \t]{1,3}(?:is|was|ist|est|es|:)[ \t]{1,3}|>|[:=：]"
# Chinese, Japanese, Korean and Thai "is"
_TOLD += r"|[ \t]?(?:是|为|為|は|는|은|คือ)[:：]?[ \t]?)[\"'`]?"
PASSWORD = re.compile(
    # DB_PASSWORD and PGPASSWORD as well
    rf"(?i:(?:({KEY_NAMES})|{PASSWORD_WORDS})(?!{LETTER})(?:{_IS}|{_TOLD}))"
    r"([^\s\"'`<>{}()\[\],;]{6,128})(?![^\s\"'`<>},;)\]])"
)
QUERY = re.compile(r"&[a-zA-Z_]{1,30}=")
# "Server=db1;User Id=sa;Password=" and "host=db1 user=app password=": what follows is no variable
CONNECTION = re.compile(
    r"(?i:\b(?:server|data source|host|uid|user id|dbname|database|initial catalog)) ?="
    r"[^\n]*[^\n,][; ]\Z"
)
# as a shell or a .env file has it: PASSWORD=sunshine
ENVIRONMENT = re.compile(r"[A-Z_]{0,40}(?:PASSWORD|PASSWD|PASSPHRASE|PASS)=[\"']?\Z")
PLACEHOLDERS = frozenset(
    """
    password passwd pass pwd pw secret token key user username name mypassword yourpassword pass123
    your_password my_password your-password changeme change_me placeholder example required string
    none null true false undefined redacted hidden xxxx root admin test postgres password123
    """.split()
)

# --- what a URL or a header holds -----------------------------------------------------------------

URL = re.compile(r"://([^\s:/@\"'<>]{0,128}):([^\s/@\"'<>]{1,256})@(?=\S)")
HEADER = re.compile(
    r"(?i:\b(bearer|basic|token)[ \t]{1,3}[\"']?)"
    r"([A-Za-z0-9+/_.~-]{8,4000}={0,2})(?![A-Za-z0-9+/=])"
)

CANDIDATE = (
    token_shapes.CANDIDATE + r"|(?i:key|secret|token|credential|auth|signature|sig|cookie)"
    r"[\"'`]?\]?[ \t]{0,3}(?::=|=>|[:=])"
    # every one of KEY_NAMES ends in one of three words
    r"|(?i:(?:secret|key|token)[ \t]{1,3}(?:is|was|ist|est|es)[ \t])"
    rf"|(?i:{PASSWORD_WORDS})[^A-Za-z]"
    r"|://[^\s/:@]*:[^\s/]*@"
    r"|(?i:bearer|basic|token)[ \t]{1,3}[\"']?[A-Za-z0-9+/_.~\-]{8}"
)


RUN = re.compile(token_shapes.RUN)
# one stands before whatever is a secret by its place
WORDS = (
    "key", "secret", "token", "credential", "auth", "sig", "cook", "bearer", "basic", "://",
    *(word.lower() for word in PASSWORD_WORDS.split("|")),
)  # fmt: skip


def may_hold_secret(text: str) -> bool:
    """A first look, for texts that no engine has looked at: `CANDIDATE` costs 20 times as much.

    False only where `find_secrets` finds none.
    """
    lowered = text.lower()
    return any(word in lowered for word in WORDS) or RUN.search(text) is not None


def find_secrets(text: str) -> Iterator[Found]:
    """Private keys, tokens by shape, passwords in URLs, headers and assignments.

    May find the same twice: `find_pii` keeps one of two that overlap.
    """
    # to look for a plain word costs a thousandth of an expression that ignores case
    lowered = text.lower()
    names_key = any(word in lowered for word in ("key", "secret", "token"))
    if "-----BEGIN " in text:
        for match in token_shapes.PRIVATE_KEY.finditer(text):
            yield Found("secret", *match.span())
    for match in token_shapes.TOKEN.finditer(text):
        if _is_random(match.group()):
            yield Found("secret", *match.span())
    for match in URL.finditer(text) if "://" in text else ():
        if not _is_placeholder(match.group(2)):
            yield Found("secret", *match.span(2))
    is_header = any(word in lowered for word in ("bearer", "basic", "token"))
    for match in HEADER.finditer(text) if is_header else ():
        scheme, value = match.group(1).lower(), match.group(2)
        if _is_basic(value) if scheme == "basic" else _is_bearer(match):
            yield Found("secret", *match.span(2))
    is_assigned = names_key or any(
        word in lowered for word in ("credential", "auth", "sig", "cook")
    )
    for match in ASSIGNED_KEY.finditer(text) if is_assigned else ():
        if _is_key(match.group(1)) and not _is_plain_id(match):
            yield Found("secret", *match.span(1))
    is_told = names_key or any(word in lowered for word in PASSWORD_WORDS.split("|"))
    for match in PASSWORD.finditer(text) if is_told else ():
        # of a URL's query only this value
        value = QUERY.split(match.group(2), maxsplit=1)[0].rstrip(".:?")
        fewest = FEWEST_OF_KEY if match.group(1) else 6
        if len(value) >= fewest and (_is_password(value) or _is_literal(match, value)):
            yield Found("secret", match.start(2), match.start(2) + len(value))


def _is_random(token: str) -> bool:
    """Whether it is no prose ("sk-learn-style-slugs-of-many-words") and no "ghp_xxxxxxxx"."""
    body = token[4:]
    if token.startswith("sk-") and not any(c.isdigit() for c in token):
        return False
    return len(set(body)) > 4 and not _is_name(token)


def _is_key(value: str) -> bool:
    """Whether it mixes letters and digits as keys do, and names do not."""
    value = value.rstrip(".-~")
    digits = sum(c.isdigit() for c in value)
    if not digits or digits == len(value) or not re.search("[A-Za-z]", value) or len(value) < 16:
        return False
    # dates, versions, paths, file names
    if value.startswith(("/", "./", "~/", "http")) or re.match(r"[0-9]{4}-[0-9]{2}", value):
        return False
    # "a.b.c": attributes in code; tokens with dots are known by their shape
    return "." not in value and not _is_name(value)


def _is_bearer(match: re.Match) -> bool:
    """Whether a header's value is a token, not the next words ("the bearer of …")."""
    value = match.group(2)
    before = match.string[max(0, match.start() - 24) : match.start()].lower()
    fewest = FEWEST_OF_KEY if "authorization" in before else 16
    if len(value) < fewest or _is_placeholder(value):
        return False
    # parts between dots are usual in tokens, and in file names after the word "token"
    value = value.replace(".", "") if match.group(1).lower() == "bearer" else value
    return _is_key(value.ljust(16, "x") if fewest < 16 else value)


def _is_literal(match: re.Match, value: str) -> bool:
    """Whether a mere word is a password by its place: a connection string, a line of .env."""
    if not value.isalpha() or value.isupper() or _is_placeholder(value):
        return False
    line = match.string[max(0, match.start() - 160) : match.start()]
    name = match.string[max(0, match.start() - 40) : match.start(2)]
    return CONNECTION.search(line) is not None or ENVIRONMENT.search(name) is not None


def _is_plain_id(match: re.Match) -> bool:
    """Whether it is a UUID of a mere key: those name rows of a database."""
    if not UUID.fullmatch(match.group(1)):
        return False
    named = match.string[max(0, match.start() - 12) : match.start(1)].lower()
    return (
        re.search(r"(?:api|access|auth|secret|private|account)[_ -]?key|secret|token", named)
        is None
    )


NAME_PIECE = re.compile(r"[A-Za-z]+|[A-Za-z]{0,3}[0-9]{1,4}[A-Za-z]{0,4}")
CAMEL = re.compile(r"[A-Za-z]?[a-z]*(?:[A-Z]+[a-z]{2,}|[0-9]{1,2}(?![0-9]))*")


def _is_name(value: str) -> bool:
    """Whether it is a name in code: "s3_bucket_secret_key", "userAccountTokenV2", "us-east-1"."""
    pieces = [piece for piece in re.split(r"[_\-./+~]", value) if piece]
    if len(pieces) > 1:
        words = sum(bool(re.fullmatch("[A-Za-z][a-z]{2,}|[A-Z]{3,}", piece)) for piece in pieces)
        named = all(
            NAME_PIECE.fullmatch(piece)
            and (len(piece) <= 5 or CAMEL.fullmatch(piece) or piece.isupper())
            for piece in pieces
        )
        return named and 3 * words >= len(pieces)
    return bool(CAMEL.fullmatch(value)) and len(re.findall("[a-z]{3,}", value)) > 1


def _is_placeholder(value: str) -> bool:
    lowered = value.lower()
    return bool(
        lowered in PLACEHOLDERS
        # ${PASSWORD}, <password>, {{ password }}, %s, ****
        or re.fullmatch("(?:pass|password|passwd|secret|token|pwd)[0-9_]{0,3}", lowered)
        or value[0] in "$<{%["
        or len(set(lowered)) < 3
        or re.match(r"(?:your|my|the|some)[_-]?[a-z_-]*\Z|.*(?:placeholder|redacted)", lowered)
    )


def _is_password(value: str) -> bool:
    """Whether a value beside "password" is one: no word, no variable, no call."""
    if _is_placeholder(value) or _is_name(value):
        return False
    letters = any(c.isalpha() for c in value)
    digits = any(c.isdigit() for c in value)
    signs = re.search(r"[!@#$%^&*?+=~|\\]", value) is not None
    # "os.environ", "self.password2", "/etc/passwd1", "https://…", "min_length=8"
    if re.match(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+\Z|/|\w+://|\w+=\w*\Z|[a-z_]+\Z", value):
        return False
    return (letters and (digits or signs)) or (digits and signs)


def _is_basic(value: str) -> bool:
    """Whether it is Base64 of "name:password"."""
    try:
        decoded = base64.b64decode(value + "=" * (-len(value) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return False
    return ":" in decoded and decoded.isprintable()
