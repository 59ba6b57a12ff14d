"""Personally identifiable information in prompts (paper, appendix A.1: prompts with PII are filtered from training).

Regular expressions find the shape, checksums and number plans decide (`python-stdnum`, `phonenumbers`). Precise by
default: a shape that many harmless numbers share (ten bare digits, say) counts only beside a word such as "call".
Names, postal addresses, birth dates and spelled-out contacts ("john at example dot com") are not looked for; a token
classification model (`ModelFinder`, flag `--pii_model`) finds names and addresses.

`candidate_pattern` is the coarse filter that an engine runs over every row (RE2 on DuckDB, Java on Spark); only rows
that match it reach `find_pii`, which costs tens of microseconds a row.
"""

import functools
import importlib
import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from instruct.files import UserError

KINDS = ("email", "phone", "ipv4", "ipv6", "card", "iban", "national_id", "secret")
REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "IN", "AU")  # whose national phone formats are read


class Found(NamedTuple):
    kind: str
    start: int
    end: int


# Every pattern below is a superset of what the finder of that kind accepts, in the dialect that RE2, Java and Python share.
CANDIDATES = {
    "email": "@",
    "phone": r"[0-9](?:[ .\-/()\x{a0}]{0,2}[0-9]){6}",
    "ipv4": r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
    "ipv6": r":[0-9A-Fa-f]{0,4}:",
    "card": r"[0-9](?:[ .\-]?[0-9]){12}",
    "iban": r"[A-Z]{2}[0-9]{2}[ \-]?[A-Z0-9]{3}",
    "national_id": r"[0-9](?:[ .\-]?[0-9]){6}|[A-Z]{4}[0-9]{6}[A-Z]|[A-Z]{6}[0-9]{2}[A-Z][0-9]{2}",
    "secret": r"sk-|A[KS]IA|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AIza|hf_|[srp]k_(?:live|test)_|npm_|pypi-|eyJ"
    r"|SG\.|PRIVATE KEY|(?i:key|secret|token)[\"']?[ \t]{0,3}[:=]",
}


def candidate_pattern(kinds: Iterable[str] = KINDS) -> str:
    """One regular expression that matches every text in which `find_pii` could find one of `kinds`."""
    return "|".join(CANDIDATES[kind] for kind in kinds)


@functools.cache
def _library(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"finding PII needs {name.split('.')[0]}: pip install 'instruct-recipes[pii]' (or keep PII: --pii keep)"
        ) from error


# --- the finders: text -> spans -------------------------------------------------------------------------------------

LOCAL_PART = re.compile(r"[\w.%+'!#$&*=?^{|}~-]{1,64}$")
DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-]*[^\W_])")


def _emails(text: str):
    at = text.find("@")
    while at >= 0:
        domain = DOMAIN.match(text, at + 1)
        local = domain and LOCAL_PART.search(text[max(0, at - 64) : at])
        if local:
            name = local.group().lstrip("'.*=?!#&|{")
            # git@host:path is a repository address, not a person's
            if name and not (name == "git" and text[domain.end() : domain.end() + 1] == ":"):
                yield Found("email", at - len(name), domain.end())
        at = text.find("@", at + 1)


IPV4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")
VERSION_WORD = re.compile(
    r"(?:\b(?:v|ver|version|release|build|firmware|driver|section|chapter|clause|sdk)[. :]{0,2}|\w/)$",
    re.I,
)
ADDRESS_WORD = re.compile(
    r"\b(?:ip|ipv4|address|server|host|ping|ssh|dns|subnet|gateway|router|proxy|login|logged)\b",
    re.I,
)


def _ipv4(text: str):
    for match in IPV4.finditer(text):
        parts = match.group().split(".")
        before = text[max(0, match.start() - 40) : match.start()]
        if any(int(p) > 255 or (len(p) > 1 and p[0] == "0") for p in parts) or VERSION_WORD.search(
            before
        ):
            continue
        address = ipaddress.IPv4Address(match.group())
        if address.is_loopback or address.is_unspecified or parts[:2] == ["255", "255"]:
            continue  # this machine, "any", and netmasks: nobody's address
        # four small numbers are more often a version or a section than an address
        if max(map(int, parts)) < 30 and not ADDRESS_WORD.search(before):
            continue
        yield Found("ipv4", *match.span())


IPV6_RUN = re.compile(r"[0-9A-Fa-f:.]{3,}")


def _ipv6(text: str):
    for match in IPV6_RUN.finditer(text):
        run, start = match.group(), match.start()
        if run.count(":") < 2 or len(run) > 60:
            continue
        if start and text[start - 1].isalpha():  # "node:2001:db8::1": the run began inside a word
            start += run.index(":")
            run = run[run.index(":") :]
        if run.startswith(":") and not run.startswith("::"):
            start, run = start + 1, run[1:]
        run = run.rstrip(".") if run.endswith(".") else run
        if run.endswith(":") and not run.endswith("::"):
            run = run[:-1]
        end = start + len(run)
        if end < len(text) and (text[end].isalnum() or text[end] == "_"):
            continue
        try:
            address = ipaddress.IPv6Address(run)
        except ipaddress.AddressValueError:
            continue
        groups = [g for g in run.split(":") if g]
        # "a::b" is C++ more often than an address: short forms must lie in a block that is in use
        used = groups and (
            groups[0][0].lower() in "23" or groups[0][:2].lower() in ("fe", "fc", "fd")
        )
        if (
            not address.is_loopback
            and any(c.isdigit() for c in run)
            and (len(groups) >= 5 or (used and len(groups) >= 2))
        ):
            yield Found("ipv6", start, end)


DIGIT_GROUPS = re.compile(r"(?<![\w.])[0-9]+(?:[ .-][0-9]+)*(?!\w)")
CARD_GROUPS = {(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3), (4, 4, 4, 1)}
# issuers' prefixes with the lengths they use: Visa, Mastercard (two), American Express, Discover, Diners, JCB, UnionPay
ISSUER = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"
    r"|3[47][0-9]{13}|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12,15}|3(?:0[0-5]|[689][0-9])[0-9]{11}|35(?:2[89]|[3-8][0-9])[0-9]{12}"
    r"|62[0-9]{14,17}"
)


def _cards(text: str):
    luhn = _library("stdnum.luhn")
    for match in DIGIT_GROUPS.finditer(text):
        if match.end() - match.start() < 13:
            continue
        groups = [(m.start(), m.end()) for m in re.finditer("[0-9]+", match.group())]
        first = 0
        while first < len(groups):
            if groups[first][1] - groups[first][0] < 4:  # no card is grouped that way
                first += 1
                continue
            for count in (1, 3, 4, 5):
                window = groups[first : first + count]
                shape = tuple(end - start for start, end in window)
                if len(window) < count or (count > 1 and shape not in CARD_GROUPS):
                    continue
                digits = "".join(match.group()[start:end] for start, end in window)
                if ISSUER.fullmatch(digits) and luhn.is_valid(digits):
                    yield Found("card", match.start() + window[0][0], match.start() + window[-1][1])
                    first += count - 1
                    break
            first += 1


IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]){11,30}")


def _ibans(text: str):
    iban = _library("stdnum.iban")
    for match in IBAN.finditer(text):
        run = match.group()
        # the pattern may run on into the next words ("... 32 AND"): try every place where a group ends, longest first
        ends = [i for i in range(len(run), 14, -1) if i == len(run) or run[i] in " -"]
        for end in ends:
            after = text[match.start() + end : match.start() + end + 1]
            if not after.isalnum() and iban.is_valid(run[:end], check_country=False):
                yield Found("iban", match.start(), match.start() + end)
                break


class NationalId(NamedTuple):
    checker: str  # module of python-stdnum
    shape: re.Pattern
    context: re.Pattern | None = (
        None  # a word that must stand before it, where the shape alone says too little
    )


BEFORE, AFTER = r"(?<![\w.-])", r"(?![\w-])"


def _number(shape: str) -> re.Pattern:
    return re.compile(f"{BEFORE}(?:{shape}){AFTER}")


def _words(words: str) -> re.Pattern:
    return re.compile(rf"\b(?:{words})\b", re.I)


NATIONAL_IDS = (
    NationalId("us.ssn", _number(r"[0-9]{3}([- ])[0-9]{2}\1[0-9]{4}")),
    NationalId("us.ssn", _number(r"[0-9]{9}"), _words("ssn|social security|social")),
    NationalId("it.codicefiscale", _number(r"[A-Z]{6}[0-9]{2}[A-Z][0-9]{2}[A-Z][0-9]{3}[A-Z]")),
    NationalId("mx.curp", _number(r"[A-Z]{4}[0-9]{6}[A-Z]{6}[0-9A-Z][0-9]")),
    NationalId("cn.ric", _number(r"[1-9][0-9]{5}(?:19|20)[0-9]{9}[0-9X]")),
    NationalId("fr.nir", _number(r"[12] ?[0-9]{2} ?[0-9]{2} ?[0-9AB]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}")),
    NationalId("es.dni", _number(r"[0-9]{8}-?[A-Z]")),
    NationalId("es.nie", _number(r"[XYZ]-?[0-9]{7}-?[A-Z]")),
    NationalId("br.cpf", _number(r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}")),
    NationalId("br.cpf", _number(r"[0-9]{11}"), _words("cpf")),
    NationalId("in_.aadhaar", _number(r"[2-9][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}"), _words("aadhaar|aadhar|uidai|uid")),
    NationalId("ca.sin", _number(r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3}"), _words("sin|social insurance")),
    NationalId("au.tfn", _number(r"[0-9]{3} ?[0-9]{3} ?[0-9]{2,3}"), _words("tfn|tax file")),
    NationalId("nl.bsn", _number(r"[0-9]{9}"), _words("bsn|burgerservicenummer|sofinummer")),
    NationalId("pl.pesel", _number(r"[0-9]{11}"), _words("pesel")),
    NationalId("de.idnr", _number(r"[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}"), _words("steuer-?id|idnr|tin|steueridentifikationsnummer")),
    NationalId("se.personnummer", _number(r"(?:[0-9]{2})?[0-9]{6}[-+]?[0-9]{4}"), _words("personnummer|personal number")),
    NationalId("gb.nhs", _number(r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{4}"), _words("nhs")),
)  # fmt: skip
SSN_WORD = _words("ssn|social security")
SSN_DENIED = _words("isbn|order|part|sku|invoice|ticket|serial|model|zip")


ALONE = [rule for rule in NATIONAL_IDS if not rule.context]
BESIDE_A_WORD = [rule for rule in NATIONAL_IDS if rule.context]
ANY_WORD = re.compile("|".join(rule.context.pattern for rule in BESIDE_A_WORD), re.I)
ANY_NUMBER = re.compile(r"[0-9](?:[ .+-]?[0-9]){7,}")
_SHAPES = "|".join(
    rule.shape.pattern.removeprefix(BEFORE).removesuffix(AFTER).replace(r"\1", "[- ]")
    for rule in ALONE
)
ANY_SHAPE = re.compile(
    f"{BEFORE}(?=[0-9A-Z][0-9A-Z .-]{{7}})(?:{_SHAPES}){AFTER}"
)  # one look behind for all shapes


def _national_ids(text: str):
    rules = ALONE if ANY_SHAPE.search(text) else []
    if any(
        ANY_WORD.search(text, max(0, number.start() - 60), number.start())
        for number in ANY_NUMBER.finditer(text)
    ):
        rules = rules + BESIDE_A_WORD
    for rule in rules:
        for match in rule.shape.finditer(text):
            before = text[max(0, match.start() - 60) : match.start()]
            if rule.context and not rule.context.search(before):
                continue
            written = match.group()
            if rule.checker == "us.ssn":
                # an SSN has no check digit: what names it decides, then the numbers that were never given out
                if SSN_DENIED.search(before[-20:]):
                    continue
                if SSN_WORD.search(before):
                    yield Found("national_id", *match.span())
                    continue
                written = written.replace(" ", "-")
            if _library(f"stdnum.{rule.checker}").is_valid(written):
                yield Found("national_id", *match.span())


SECRETS = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----|\Z)"
    r"|\b(?:sk-[A-Za-z0-9_-]{20,250}|A[KS]IA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,250}|github_pat_[A-Za-z0-9_]{22,250}"
    r"|glpat-[A-Za-z0-9_-]{20,64}|xox[abprs]-[A-Za-z0-9-]{10,250}|AIza[0-9A-Za-z_-]{30,60}|hf_[A-Za-z0-9]{30,64}"
    r"|[srp]k_(?:live|test)_[0-9A-Za-z]{16,250}|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,250}"
    r"|eyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{8,2000}"
    r"|SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,64})(?![A-Za-z0-9])"
)
ASSIGNED = re.compile(
    r"(?i:key|secret|token)[\"']?[ \t]{0,3}[:=][ \t]{0,3}[\"']?((?=[A-Za-z+/_-]{0,200}[0-9])(?=[0-9+/_-]{0,200}[A-Za-z])[A-Za-z0-9+/_-]{20,250}={0,2})(?![A-Za-z0-9])"
)


def _secrets(text: str):
    for match in SECRETS.finditer(text):
        # "sk-learn-style-slugs-of-many-words" are prose: a key mixes digits in
        if not match.group().startswith("sk-") or any(c.isdigit() for c in match.group()):
            yield Found("secret", *match.span())
    for match in ASSIGNED.finditer(text):
        yield Found("secret", *match.span(1))


SEPARATOR = "(?:[ .\\-/\xa0]|\\)[ .-]?| \\()?"
PHONE = re.compile(
    rf"(?<![\w@#$€£.,=*^/-])(?<![0-9]:)(?<!\w[-.])(?:\+ ?)?\(?[0-9](?:{SEPARATOR}[0-9]){{6,14}}(?![\w]|[.,:/-][0-9]| ?[=*^])"
)
# North American shapes; the made-up "(555) 123-4567" has an exchange that no plan assigns, and people write it all the time
NANP_STRONG = re.compile(
    r"(?:\+?1[ .-]?)?\([2-9][0-9]{2}\) ?[0-9]{3}[ .-]?[0-9]{4}|(?:1[ .-])?[2-9][0-9]{2}([.-])[2-9][0-9]{2}\1[0-9]{4}"
)
NANP_DIGITS = re.compile(r"1?[2-9][0-9]{9}")
PHONE_START = re.compile(r"[+(0-9]")  # a leading character set is what makes Python's search fast
DATE = re.compile(
    r"(?:19|20)[0-9]{2}[-/. ][0-9]{1,2}[-/. ][0-9]{1,2}|[0-9]{1,2}[-/.][0-9]{1,2}[-/.](?:19|20)[0-9]{2}|(?:19|20)[0-9]{2} ?[-/] ?(?:19|20)[0-9]{2}\b"
)
PHONE_WORD = re.compile(
    r"\b(?:call|calls|called|calling|phone|phones|telephone|tel|mobile|mob|cell|cellphone|whatsapp|viber|telegram|text|texted|sms|fax"
    r"|reach|reached|contact|dial|ring|landline|hotline|handy|telefon|tél|téléphone|teléfono|telefono|móvil|cellulare)\b", re.I,
)  # fmt: skip
OTHER_NUMBER_WORD = re.compile(
    r"\b(?:order|orders|invoice|isbn|issn|doi|ticket|tracking|serial|ref|reference|case|part|sku|model|account|acct|flight|id|page|pages"
    r"|version|zip|barcode|ean|upc|timestamp|epoch|population|patent|booking|confirmation|policy|transaction|receipt|claim|permit|licen[cs]e"
    r"|arxiv|pmid|digits?|integer|multiply|divide|sum|add|plus|minus|times|prime)\b", re.I,
)  # fmt: skip


def _last(pattern: re.Pattern, text: str) -> int:
    return max((m.end() for m in pattern.finditer(text)), default=-1)


def _phones(text: str, regions: Sequence[str] = REGIONS):
    end = 0
    for start in PHONE_START.finditer(text):
        match = PHONE.match(text, start.start()) if start.start() >= end else None
        if match is None:
            continue
        shown, end = match.group(), match.end()
        if DATE.match(shown):
            continue
        before = text[max(0, match.start() - 48) : match.start()]
        said, denied = _last(PHONE_WORD, before), _last(OTHER_NUMBER_WORD, before)
        context = said > denied
        if _is_phone(shown, context, denied > said, regions):
            yield Found("phone", *match.span())


def _is_phone(shown: str, context: bool, denied: bool, regions: Sequence[str]) -> bool:
    """Decides by shape, context and number plan, cheapest first."""
    digits = re.sub("[^0-9]", "", shown)
    nanp = NANP_DIGITS.fullmatch(digits) is not None
    if shown.startswith("+"):
        return _valid(shown, None) or (digits[0] == "1" and nanp)
    if shown.startswith("00") and _valid("+" + digits[2:], None):
        return context or not denied
    if NANP_STRONG.fullmatch(shown):
        return "(" in shown or not denied
    if denied:
        return False
    grouped = not shown.isdigit()
    if context:
        local = re.fullmatch(r"[2-9][0-9]{2}[ .-][0-9]{4}", shown) is not None
        return nanp or local or any(_valid(shown, region) for region in regions)
    if grouped and len(digits) == 10 and re.fullmatch(r"[0-9]{3}[ .-][0-9]{3}[ .-][0-9]{4}", shown):
        return _valid(shown, "US")
    # a leading trunk zero, well grouped: few other numbers are written so
    return (
        shown[0] in "0("
        and len(digits) >= 10
        and len(re.findall("[0-9]+", shown)) >= 3
        and any(_valid(shown, region) for region in regions)
    )


def _valid(shown: str, region: str | None) -> bool:
    phonenumbers = _library("phonenumbers")
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(shown, region))
    except phonenumbers.NumberParseException:
        return False


def check_regions(regions: Iterable[str]) -> list[str]:
    """Country codes in capitals; raises `UserError` on one that has no phone number plan."""
    codes = [region.upper() for region in regions]
    unknown = [code for code in codes if code not in _library("phonenumbers").SUPPORTED_REGIONS]
    if unknown:
        raise UserError(
            f"--phone_regions {' '.join(unknown)}: no country code with two letters, as in US GB DE"
        )
    return codes


FINDERS = {
    # in order of trust: where two spans overlap, the earlier kind holds
    "secret": _secrets, "email": _emails, "iban": _ibans, "card": _cards, "national_id": _national_ids,
    "ipv6": _ipv6, "ipv4": _ipv4, "phone": _phones,
}  # fmt: skip
GATES = {
    kind: re.compile(pattern.replace(r"\x{a0}", "\xa0")) for kind, pattern in CANDIDATES.items()
}


def find_pii(
    text: str, kinds: Iterable[str] = KINDS, regions: Sequence[str] = REGIONS
) -> list[Found]:
    """Spans of personal information in `text`, by position, without overlaps. Empty when there is none."""
    kinds, found = frozenset(kinds), []
    for kind, finder in FINDERS.items():
        if kind not in kinds or not GATES[kind].search(text):
            continue
        for span in finder(text, regions) if kind == "phone" else finder(text):
            if all(span.end <= other.start or span.start >= other.end for other in found):
                found.append(span)
    return sorted(found, key=lambda span: span.start)


def redact(text: str, found: Sequence[Found]) -> str:
    """`text` with every span replaced by its kind: "mail <EMAIL> or call <PHONE>"."""
    parts, at = [], 0
    for span in found:
        parts += [text[at : span.start], f"<{span.kind.upper()}>"]
        at = span.end
    return "".join(parts) + text[at:]


class ModelFinder:
    """Names and addresses by any Hub token-classification model, on top of `find_pii` (`--pii_model ID`).

    Texts are batched and run on the GPU where there is one; windows overlap where a text is longer than the model reads.
    """

    def __init__(
        self, model: str, labels: Sequence[str] = (), min_score: float = 0.5, batch_size: int = 32
    ):
        import torch
        from transformers import pipeline

        try:
            self.pipeline = pipeline(
                "token-classification", model=model, aggregation_strategy="simple", batch_size=batch_size,
                device=0 if torch.cuda.is_available() else -1,
            )  # fmt: skip
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"--pii_model {model}: cannot be loaded as a token classifier: {str(error).splitlines()[0]}"
            ) from error
        self.min_score, self.labels = min_score, {label.lower() for label in labels}
        size = getattr(self.pipeline.model.config, "max_position_embeddings", 512)
        self.window = (
            min(size, self.pipeline.tokenizer.model_max_length, 512) * 2
        )  # characters: 2 a token at the least

    def __call__(self, texts: Sequence[str]) -> list[list[Found]]:
        step = self.window // 2
        windows = [
            (i, at)
            for i, text in enumerate(texts)
            for at in range(0, max(len(text) - step, 1), step)
        ]
        found: list[list[Found]] = [[] for _ in texts]
        windows = [(i, at) for i, at in windows if texts[i][at : at + self.window].strip()]
        answers = (
            self.pipeline([texts[i][at : at + self.window] for i, at in windows]) if windows else []
        )
        for (i, at), entities in zip(windows, answers, strict=True):
            for entity in entities:
                label = entity["entity_group"]
                if entity["score"] < self.min_score or (
                    self.labels and label.lower() not in self.labels
                ):
                    continue
                kind = re.sub(r"\W+", "_", label).lower()
                found[i].append(Found(kind, at + entity["start"], at + entity["end"]))
        return found


def merge(*lists: Sequence[Found]) -> list[Found]:
    """Spans of several finders, by position; where two overlap the one of the earlier list holds."""
    merged: list[Found] = []
    for found in lists:
        merged += [
            s
            for s in found
            if s.end > s.start and all(s.end <= o.start or s.start >= o.end for o in merged)
        ]
    return sorted(merged, key=lambda span: span.start)
