"""Ways to reach a person: e-mail addresses and phone numbers."""

import re
from collections.abc import Iterable, Iterator, Sequence

from data_prep.pii.found import REGIONS, Found
from data_prep.pii.libraries import library
from instruct.files import UserError

# --- e-mail ---------------------------------------------------------------------------------------

# 64 and 63 characters are the limits of local part and label; bounds keep the search linear
LOCAL_PART = re.compile(r"[\w.%+'!#$&*=?^{|}~-]{1,64}$")
DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-]*[^\W_])")


def find_emails(text: str) -> Iterator[Found]:
    """Addresses with a domain of two parts or more, sought outwards from every "@"."""
    # outwards from "@": a pattern that begins with the local part is quadratic on long runs
    at = text.find("@")
    while at >= 0:
        domain = DOMAIN.match(text, at + 1)
        local = domain and LOCAL_PART.search(text[max(0, at - 64) : at])
        if local:
            # quotes and list marks that may stand in an address, but seldom begin one
            name = local.group().lstrip("'.*=?!#&|{")
            # git@host:path is a repository address, not a person's
            if name and not (name == "git" and text[domain.end() : domain.end() + 1] == ":"):
                yield Found("email", at - len(name), domain.end())
        at = text.find("@", at + 1)


# --- phone ----------------------------------------------------------------------------------------

# at most ") " or " (" between two digits: more is two numbers
SEPARATOR = "(?:[ .\\-/\xa0]|\\)[ .-]?| \\()?"
PHONE = re.compile(
    r"(?<![\w@#$€£.,=*^/-])(?<![0-9]:)(?<!\w[-.])"  # not the tail of a price, a sum or a word
    # 7 to 15 digits: E.164 has no more
    rf"(?:\+ ?)?\(?[0-9](?:{SEPARATOR}[0-9]){{6,14}}"
    r"(?![\w]|[.,:/-][0-9]| ?[=*^])"  # nor the head of one
)
# North American shapes; the made-up "(555) 123-4567" has an exchange that no plan assigns, and
# people write it all the time
NANP_STRONG = re.compile(
    r"(?:\+?1[ .-]?)?\([2-9][0-9]{2}\) ?[0-9]{3}[ .-]?[0-9]{4}"
    r"|(?:1[ .-])?[2-9][0-9]{2}([.-])[2-9][0-9]{2}\1[0-9]{4}"
)
NANP_DIGITS = re.compile(r"1?[2-9][0-9]{9}")
PHONE_START = re.compile(r"[+(0-9]")  # a leading character set is what makes Python's search fast
# the dates and spans of years that have a phone number's shape
DATE = re.compile(
    r"(?:19|20)[0-9]{2}[-/. ][0-9]{1,2}[-/. ][0-9]{1,2}"
    r"|[0-9]{1,2}[-/.][0-9]{1,2}[-/.](?:19|20)[0-9]{2}"
    r"|(?:19|20)[0-9]{2} ?[-/] ?(?:19|20)[0-9]{2}\b"
)
PHONE_WORD = re.compile(
    r"\b(?:call|calls|called|calling|phone|phones|telephone|tel|mobile|mob|cell|cellphone|whatsapp"
    r"|viber|telegram|text|texted|sms|fax|reach|reached|contact|dial|ring|landline|hotline|handy"
    r"|telefon|tél|téléphone|teléfono|telefono|móvil|cellulare)\b",
    re.I,
)
OTHER_NUMBER_WORD = re.compile(
    r"\b(?:order|orders|invoice|isbn|issn|doi|ticket|tracking|serial|ref|reference|case|part|sku"
    r"|model|account|acct|flight|id|page|pages|version|zip|barcode|ean|upc|timestamp|epoch"
    r"|population|patent|booking|confirmation|policy|transaction|receipt|claim|permit|licen[cs]e"
    r"|arxiv|pmid|digits?|integer|multiply|divide|sum|add|plus|minus|times|prime)\b",
    re.I,
)
LOOK_BACK = 48  # characters before a number in which a word says what it is


def find_phones(text: str, regions: Sequence[str] = REGIONS) -> Iterator[Found]:
    """Phone numbers by shape, by the word before them and by the number plans of `regions`."""
    end = 0
    for start in PHONE_START.finditer(text):
        match = PHONE.match(text, start.start()) if start.start() >= end else None
        if match is None:
            continue
        shown, end = match.group(), match.end()
        if DATE.match(shown):
            continue
        before = text[max(0, match.start() - LOOK_BACK) : match.start()]
        # the nearer word decides: "my order, call 555…" is a phone number, "call, order 555…" none
        said, denied = _last(PHONE_WORD, before), _last(OTHER_NUMBER_WORD, before)
        if _is_phone(shown, said > denied, denied > said, regions):
            yield Found("phone", *match.span())


def _last(pattern: re.Pattern, text: str) -> int:
    """Where the last match ends; -1 without one."""
    return max((m.end() for m in pattern.finditer(text)), default=-1)


def _is_phone(shown: str, context: bool, denied: bool, regions: Sequence[str]) -> bool:
    """Decides by shape, context and number plan, cheapest first.

    Args:
        shown: the number as written.
        context: the nearest word before it speaks of phones.
        denied: the nearest word before it speaks of other numbers.
        regions: whose national formats count.
    """
    digits = re.sub("[^0-9]", "", shown)
    nanp = NANP_DIGITS.fullmatch(digits) is not None
    # 1. a prefix of a country
    if shown.startswith("+"):
        # made-up 555 numbers are in no plan: the shape is enough
        return _valid(shown, None) or (digits[0] == "1" and nanp)
    if shown.startswith("00") and _valid("+" + digits[2:], None):
        return context or not denied
    # 2. a shape that little else has
    if NANP_STRONG.fullmatch(shown):
        return "(" in shown or not denied
    # 3. what the words say
    if denied:
        return False
    if context:
        # seven digits, without area code: only a word can tell
        local = re.fullmatch(r"[2-9][0-9]{2}[ .-][0-9]{4}", shown) is not None
        return nanp or local or any(_valid(shown, region) for region in regions)
    # 4. no word: the number plans decide, where the grouping is a phone number's
    if re.fullmatch(r"[0-9]{3}[ .-][0-9]{3}[ .-][0-9]{4}", shown):
        return _valid(shown, "US")
    # a leading trunk zero, well grouped: few other numbers are written so
    return (
        shown[0] in "0("
        and len(digits) >= 10
        and len(re.findall("[0-9]+", shown)) >= 3
        and any(_valid(shown, region) for region in regions)
    )


def _valid(shown: str, region: str | None) -> bool:
    """Whether a number plan has it: of `region`, or of the country that a leading + names."""
    phonenumbers = library("phonenumbers")
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(shown, region))
    except phonenumbers.NumberParseException:
        return False


def check_regions(regions: Iterable[str]) -> list[str]:
    """Country codes in capitals; raises `UserError` on one that has no phone number plan."""
    codes = [region.upper() for region in regions]
    unknown = [code for code in codes if code not in library("phonenumbers").SUPPORTED_REGIONS]
    if unknown:
        raise UserError(
            f"--phone_regions {' '.join(unknown)}: no country code with two letters, as in US GB DE"
        )
    return codes
