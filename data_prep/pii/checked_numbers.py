"""Numbers that a checksum tells from any other: payment cards, bank accounts, national ids."""

import functools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from data_prep.pii.found import Found
from data_prep.pii.letters import ALNUM, LETTER, WORD, windows
from data_prep.pii.libraries import library
from data_prep.pii.phone_words import last

# --- payment cards --------------------------------------------------------------------------------

# possessive, here and below: a step of a long run that may be taken back costs memory until its end
DIGIT_GROUPS = re.compile(
    # "No.4111 …" is none of a float's
    rf"(?=[0-9])(?<!{WORD})(?:(?<!\.)|(?<=[A-Za-z]\.))[0-9]++(?!{WORD})"
    rf"(?:(?: {{1,2}}| ?[.-] ?)[0-9]++(?!{WORD}))*+"
)
# as embossed: Visa and Mastercard, American Express, Diners, 19 digits, Visa's old 13, JCB's old
# 15, Maestro's 12 and 18, UnionPay
CARD_GROUPS = {
    (4, 4, 4, 4),
    (4, 6, 5),
    (4, 6, 4),
    (4, 4, 4, 4, 3),
    (4, 4, 4, 4, 2),
    (4, 4, 4, 4, 1),
    (4, 4, 4, 3),
    (4, 4, 4, 2),
    (4, 4, 4, 1),
    (4, 4, 5),
    (4, 4, 4),
    (6, 13),
    (6, 10),
}
MOST_GROUPS = max(map(len, CARD_GROUPS))
FEWEST_DIGITS = 12
# Luhn alone passes one number in ten
ISSUER = re.compile(  # issuers' prefixes with the lengths they use
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"  # Visa
    r"|5[1-5][0-9]{14}"  # Mastercard
    r"|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"  # Mastercard, newer
    r"|3[47][0-9]{13}"  # American Express
    r"|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12,15}"  # Discover, RuPay
    r"|3(?:0[0-59]|[689][0-9])[0-9]{11}"  # Diners
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12,15}|(?:2131|1800)[0-9]{11}"  # JCB, and its old 15 digits
    r"|62[0-9]{14,17}|81[0-9]{14,17}"  # UnionPay
    # Maestro
    r"|(?:5018|5020|5038|5[68][0-9]{2}|57[0-9]{2}|5893|6304|6390|67[0-9]{2}|0604)[0-9]{8,15}"
    r"|220[0-4][0-9]{12,15}"  # Mir
    r"|(?:5019|4571)[0-9]{12}|9792[0-9]{12}"  # Dankort, Troy
    r"|(?:508[0-9]|6521|6522|8[12][0-9]{2})[0-9]{12}"  # RuPay
    r"|(?:506[01]|6500)[0-9]{12,15}|63[6-9][0-9]{13,16}"  # Verve, InterPayment, InstaPayment
)
# what two numbers come to: "664955 * 6434021 = 4278334434055"; "card1=" is a name
RESULT = re.compile(r"[0-9](?: ?[*×] ?| [x/+–-] )[0-9.,]+ ?= ?\Z")
MAESTRO = ("56", "57", "58")
CARD_WORD = re.compile(
    r"card|visa|master|maestro|amex|express|diners|discover|jcb|kart|tarjeta|carte|carta|cartão|cc"
    r"|卡|カード|카드|บัตร|карт",
    re.I,
)
OTHER_NUMBER = re.compile(
    rf"(?<!{LETTER})(?i:imei|isbn|tracking|order|invoice|serial|sku|upc|ean|gtin|barcode|timestamp"
    rf"|epoch|milliseconds|nanoseconds|id|hash|seed|population|iccid|vin|account"
    rf"|parcel|shipment|batch|lot|aadhaar|aadhar|uidai)(?!{LETTER})"
)


def find_cards(text: str) -> Iterator[Found]:
    """Numbers of a known issuer that pass Luhn, in one piece or grouped as cards are."""
    for run in DIGIT_GROUPS.finditer(text):
        if run.end() - run.start() < FEWEST_DIGITS:
            continue
        done = 0
        # any window of groups may be the card: a date or a CVC often stands next to it
        for window in windows(text, run.start(), run.end(), MOST_GROUPS):
            # a card is no part of another
            count = _groups_of_card(text, window) if window[0][0] >= done else 0
            if count:
                done = window[count - 1][1]
                yield Found("card", window[0][0], done)


def _groups_of_card(text: str, window: Sequence[tuple[int, int]]) -> int:
    """How many of the first groups of digits are a card; 0 for none."""
    lengths = tuple(end - start for start, end in window)
    # no card is grouped that way
    if lengths[0] < 4:
        return 0
    # the lengths of CARD_GROUPS, and a card in one piece; the longest first
    for count in (5, 4, 3, 2, 1):
        if count > len(window) or (count > 1 and lengths[:count] not in CARD_GROUPS):
            continue
        groups = [window[i] for i in range(count)]
        digits = "".join(text[start:end] for start, end in groups)
        # the digits first: what stands around them takes longer to tell
        is_one = ISSUER.fullmatch(digits) and library("stdnum.luhn").is_valid(digits)
        if is_one and _is_named(text, groups[0][0], groups[-1][1], lengths[:count]):
            return count
    return 0


def _is_named(text: str, start: int, end: int, lengths: tuple[int, ...]) -> bool:
    """Whether what stands around digits lets them be a card's; in one piece they may be any."""
    # in three groups of four India's Aadhaar is written as well
    if len(lengths) > 1 and lengths != (4, 4, 4):
        return True
    # the head of a float, or a tail: "-" joins it to what is before
    if re.match(r"\.[0-9]", text[end : end + 2]) or re.search(
        r"[0-9]-\Z", text[max(0, start - 2) : start]
    ):
        return False
    before = text[max(0, start - 40) : start]
    if RESULT.search(before):
        return False
    others, named = last(OTHER_NUMBER, before), last(CARD_WORD, before)
    # Maestro's wide prefixes with few digits are many other numbers' as well
    if len(lengths) == 1 and named < 0 and end - start < 16 and text[start : start + 2] in MAESTRO:
        return False
    return others < 0 or named > others


# --- bank accounts --------------------------------------------------------------------------------

IN_NUMBER = re.compile(ALNUM)
IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?=[ -]{0,2}[A-Za-z0-9])")
# 15 characters (Norway) to 34
IBAN = re.compile(r"[A-Za-z]{2}[0-9]{2}(?:[ -]{0,2}[A-Za-z0-9]){11,30}")


def find_ibans(text: str) -> Iterator[Found]:
    """International bank account numbers with right check digits, in capitals or not."""
    iban = library("stdnum.iban")
    done = 0
    for start in IBAN_START.finditer(text):
        match = IBAN.match(text, start.start()) if start.start() >= done else None
        if match is None:
            continue
        run = match.group()
        # the pattern may run on into the next words ("... 32 AND"): try every place where a group
        # ends, longest first
        ends = [
            i
            for i in range(len(run), 14, -1)
            if (i == len(run) or run[i] in " -") and run[i - 1] not in " -"
        ]
        for end in ends:
            after = text[match.start() + end : match.start() + end + 1]
            # check_country=False: national check digits are not known for all; mod 97 is for all
            if not IN_NUMBER.match(after) and iban.is_valid(run[:end], check_country=False):
                done = match.start() + end
                yield Found("iban", match.start(), done)
                break


# --- national ids ---------------------------------------------------------------------------------

# `-` and `.` as well: parts of longer numbers are none
WORD_BEFORE, WORD_AFTER = f"(?<!{LETTER})", f"(?!{LETTER})"
BEFORE, AFTER = rf"(?<!{WORD})(?<![.-])", rf"(?!{WORD}|-)"


# on first use: each takes 3 ms, which is half of the import
@functools.cache
def _number(shape: str) -> re.Pattern:
    # what is cheap to tell first
    return re.compile(f"(?=[0-9A-Z]){BEFORE}(?:{shape}){AFTER}")


@functools.cache
def _words(words: str) -> re.Pattern:
    return re.compile(f"{WORD_BEFORE}(?i:{words}){WORD_AFTER}")


class NationalId(NamedTuple):
    """One country's number: its checker in python-stdnum, its shape, and the words it needs."""

    checker: str
    shape: str
    words: str | None = None  # one must stand before it, where the shape says too little


# a shape that little else has: no word needed
ALONE = (
    NationalId("us.ssn", r"[0-9]{3}(-| {1,2})[0-9]{2}\1[0-9]{4}"),
    NationalId("it.codicefiscale", r"[A-Z]{6}[0-9]{2}[A-Z][0-9]{2}[A-Z][0-9]{3}[A-Z]"),
    NationalId("mx.curp", r"[A-Z]{4}[0-9]{6}[A-Z]{6}[0-9A-Z][0-9]"),
    NationalId("cn.ric", r"[1-9][0-9]{5}(?:19|20)[0-9]{9}[0-9X]"),
    NationalId("fr.nir", r"[12] ?[0-9]{2} ?[0-9]{2} ?[0-9AB]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}"),
    NationalId("es.dni", r"[0-9]{8}-?[A-Z]"),
    NationalId("es.nie", r"[XYZ]-?[0-9]{7}-?[A-Z]"),
    NationalId("br.cpf", r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}"),
)
# bare digits: a check digit still passes one number in ten, so a word must stand by
BESIDE_A_WORD = (
    NationalId("us.ssn", r"[0-9]{9}", "ssn|social security|social"),
    NationalId("br.cpf", r"[0-9]{11}", "cpf"),
    NationalId(
        "in_.aadhaar", r"[2-9][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}", "aadhaar|aadhar|uidai|uid"
    ),
    NationalId("ca.sin", r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3}", "sin|social insurance"),
    NationalId("au.tfn", r"[0-9]{3} ?[0-9]{3} ?[0-9]{2,3}", "tfn|tax file"),
    NationalId("nl.bsn", r"[0-9]{9}", "bsn|burgerservicenummer|sofinummer"),
    NationalId("pl.pesel", r"[0-9]{11}", "pesel"),
    NationalId(
        "de.idnr",
        r"[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}",
        "steuer-?id|idnr|tin|steueridentifikationsnummer",
    ),
    NationalId(
        "se.personnummer", r"(?:[0-9]{2})?[0-9]{6}[-+]?[0-9]{4}", "personnummer|personal number"
    ),
    NationalId("gb.nhs", r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{4}", "nhs"),
)
SSN_WORD = _words("ssn|social security")
SSN_DENIED = _words(
    "isbn|order|part|sku|invoice|ticket|serial|model|zip|case|ref|reference|batch|lot|catalog|item"
    "|product|tracking|policy|flight|code"
)
LOOK_BACK = 60  # characters before a number in which its word is sought

# Two quick questions that spare most texts the eighteen rules.
_WORDS = "|".join(rule.words for rule in BESIDE_A_WORD)
ANY_WORD = re.compile(rf"(?<![A-Za-z])(?:{_WORDS})(?![A-Za-z])", re.I)
ANY_NUMBER = re.compile(r"[0-9](?:[ .+-]?[0-9]){7}(?:[ .+-]?[0-9])*+")
# `\1` would mean another group inside the alternation
_SHAPES = "|".join(rule.shape.replace(r"\1", "(?:-| {1,2})") for rule in ALONE)
# one look behind for all shapes
ANY_SHAPE = re.compile(f"(?=[0-9A-Z][0-9A-Z .-]{{7}}){BEFORE}(?:{_SHAPES}){AFTER}")


def find_national_ids(text: str) -> Iterator[Found]:
    """Numbers of the two tables above, by checksum, or by the word before where they have none."""
    rules = ALONE if ANY_SHAPE.search(text) else ()
    if any(
        ANY_WORD.search(text, max(0, number.start() - LOOK_BACK), number.start())
        for number in ANY_NUMBER.finditer(text)
    ):
        rules += BESIDE_A_WORD
    for rule in rules:
        for match in _number(rule.shape).finditer(text):
            before = text[max(0, match.start() - LOOK_BACK) : match.start()]
            if rule.words and not _words(rule.words).search(before):
                continue
            written = match.group()
            if rule.checker == "us.ssn":
                # an SSN has no check digit: what names it decides, then the numbers that were never
                # given out
                named, denied = last(SSN_WORD, before), last(SSN_DENIED, before)
                # the nearer word: "a new model. My SSN is …", "SSN no, order number …"
                if denied > max(named, len(before) - 20):
                    continue
                # named so, it is private even where the number cannot be
                if named >= 0:
                    yield Found("national_id", *match.span())
                    continue
                # stdnum knows hyphens only
                written = re.sub(" +", "-", written)
            if library(f"stdnum.{rule.checker}").is_valid(written):
                yield Found("national_id", *match.span())
