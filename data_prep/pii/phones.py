"""Phone numbers: by shape, by the words before them and by number plans."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from data_prep.pii.found import REGIONS, Found
from data_prep.pii.letters import GROUP, WORD, windows
from data_prep.pii.libraries import is_possible, is_valid
from data_prep.pii.phone_words import (
    ANY_NOUN,
    KEY,
    KEY_OF_PHONE,
    OTHER_NUMBER,
    VERB,
    VERB_BEFORE,
    last,
    regions_of_words,
)

# what may stand between two digits; more is two numbers
SEPARATOR = r"(?:\)[ ./-]?|[ -]?\(| ?[/-] ?| {1,2}|\.)"
# possessive: a step of a long run that may be taken back costs memory until its end
RUN = re.compile(rf"[0-9]++(?:{SEPARATOR}[0-9]++)*+")
MARK = re.compile(r"[./-]| {1,2}(?=[0-9])")
MOST_GROUPS = 8
ABROAD = ("00", "011")  # dialled before a country's prefix
FEWEST_DIGITS, MOST_DIGITS = 7, 15  # E.164 has no more
LOOK_BACK = 48  # characters before a number in which a word says what it is

# North American shapes; the made-up "(555) 123-4567" has an exchange that no plan assigns, and
# people write it all the time
NANP_STRONG = re.compile(
    r"(?:1[ .-]?)?\([2-9][0-9]{2}\)[ -]? ?[0-9]{3}[ .-]?[0-9]{4}"
    r"|(?:1[ .-])?[2-9][0-9]{2}([.-])[2-9][0-9]{2}\1[0-9]{4}"
)
NANP_DIGITS = re.compile(r"1?[2-9][0-9]{9}")
NANP_SPACED = re.compile(r"[0-9]{3}([ .-])[0-9]{3}[ .-][0-9]{4}")
LOCAL = re.compile(r"[2-9][0-9]{2}[ .-][0-9]{4}")  # seven digits, without area code
RUSSIAN = re.compile(r"[78][ -]?\([0-9]{3,5}\)[ -]?[0-9]{1,3}[ -][0-9]{2}[ -][0-9]{2}")
# the dates and spans of years that have a phone number's shape
DATE = re.compile(
    r"\(?(?:(?:19|20)[0-9]{2}[-/. ][0-9]{1,2}[-/. ][0-9]{1,2}(?![0-9])"
    r"|[0-9]{1,2}[-/.][0-9]{1,2}[-/.](?:19|20)[0-9]{2}(?![0-9])"
    r"|(?:1[0-9]|20)[0-9]{2} ?[-/] ?(?:1[0-9]|20)[0-9]{2}(?![0-9]))"
)
# an IP address, whatever is said before it ("ping 10.0.0.1")
QUAD = re.compile(r"(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})(?![0-9]|\.[0-9])")
# seconds or milliseconds since 1970, the largest integers
NOT_BARE = re.compile(r"1[0-9]{9}|1[0-9]{12}|214748364[78]|429496729[56]|1234567890?")

BETWEEN = re.compile(r"[ ,;/|+(&\n]*(?:and|or|und|et|y|e)?[ +(\n]*")  # two numbers of a list
BLOCKED_BEFORE = re.compile(rf"(?:{WORD}|[@#$€£¥^*~\\%<]|[0-9][.:,])\Z")
LETTERS = re.compile(r"[^\W0-9_]")  # or what else may be one of a word
# what is counted is no phone number
UNITS = "char|byte|time|user|people|item|row|token|step|line|word|file|record|entr|year|dollar|euro"
BLOCKED_AFTER = re.compile(
    rf" (?:{UNITS}|[KMG]B|ms|%)|(?!x[0-9]|ext)(?:{WORD})|[.:-][0-9]|\.{WORD}| ?[=*^%×÷€£]"
    rf"|[\"'] ?:| [+] ?[0-9(]|@|-{WORD}"
)


class Candidate(NamedTuple):
    """Groups of digits that may be a phone number, with what stands around them."""

    shown: str  # as written, with its plus or bracket
    lengths: tuple[int, ...]  # of its groups
    digits: str
    noun: bool  # a word for phones is the nearest before it
    verb: bool  # "call me at" stands right before it
    denied: bool  # the nearest word before it speaks of other numbers
    regions: tuple[str, ...]  # whose national formats count

    @property
    def said(self) -> bool:
        """Whether the words before say that it is a phone number."""
        return self.noun or self.verb


class Words(NamedTuple):
    """What stands before a number."""

    before: str  # in small letters
    noun: bool
    verb: bool
    denied: bool


def find_phones(text: str, regions: Sequence[str] = REGIONS) -> Iterator[Found]:
    """Phone numbers by shape, by the words before them and by number plans.

    Args:
        regions: whose national formats count; beside a word of a country, its own count as well.
    """
    known, done = None, 0  # the last phone number and where it ends
    for run in RUN.finditer(text):
        if run.end() - run.start() < FEWEST_DIGITS:
            continue
        for window in windows(text, run.start(), run.end(), MOST_GROUPS):
            first = window[0][0]
            if first < done:
                continue
            other = DATE.match(text, first) or QUAD.match(text, first)
            # +82-10-2009-0784
            if other and text[first - 1 : first] != "+":
                done = other.end()
                continue
            if not _may_begin(text, window, run.start()):
                continue
            follows = known is not None and _is_list(text, known.end, first)
            found = _phone_at(text, window, run, regions, follows)
            if found:
                known, done = found, found.end
                yield found


def _is_list(text: str, end: int, start: int) -> bool:
    """Whether what stands between two numbers makes them a list: "555-0100, 555-0101 or …"."""
    # the length first: what is between may be the whole text
    return start - end <= 7 and BETWEEN.fullmatch(text, end, start) is not None


def _may_begin(text: str, window: Sequence[tuple[int, int]], run_start: int) -> bool:
    """Cheap questions that spare most groups of digits the rest."""
    (start, end), *others = window
    total = 0
    for a, b in window:
        total += b - a
    if total < FEWEST_DIGITS or end - start > MOST_DIGITS:
        return False
    # a list of digits: no phone number begins with two groups of one
    if end - start == 1 and others and others[0][1] - others[0][0] == 1:
        return text[start - 1 : start] in ("+", "(")
    # inside a run: behind a space, a bracket or a slash
    return start == run_start or text[start - 1] in " (/"


def _phone_at(
    text: str,
    window: Sequence[tuple[int, int]],
    run: re.Match,
    regions: Sequence[str],
    follows: bool,
) -> Found | None:
    """The longest phone number that begins with the first group of digits."""
    first = window[0][0]
    start, plus = _start(text, first)
    inside = first > run.start()
    # a page of digits takes milliseconds so
    quiet = not (plus or follows or LETTERS.search(text, max(0, start - LOOK_BACK), start))
    if quiet and window[-1][1] < run.end() and not _may_be_one_alone(text, start, first):
        return None
    words, added = None, False
    for end, lengths in _ends(window):
        begin, shown = _without_bracket(text, start, end)
        strong = (NANP_STRONG.fullmatch(shown) or RUSSIAN.fullmatch(shown)) is not None
        # groups follow, and nothing says that it is one
        if quiet and end < run.end() and not strong and not shown.startswith("00"):
            continue
        # cheapest first: most numbers are grouped as no phone number is
        if not plus and not _is_grouped_well(shown, lengths):
            continue
        if _is_blocked(text, begin, end, run, inside):
            continue
        if words is None:
            words = _words(text, start, follows)
            added = plus and not words.noun and _is_sum(text, start, first)
        # nothing that is added to a name is written in four groups
        if added and (len(lengths) < 4 or not text[start - 2 : start - 1].isalpha()):
            return None
        if not plus and not words.noun and NOT_BARE.fullmatch(shown.strip("()")):
            continue
        digits = "".join(text[a:b] for a, b in itertools.islice(window, len(lengths)))
        abroad = shown.startswith("00") and not words.denied and _is_abroad(digits)
        free = plus or strong or words.noun or words.verb or abroad
        well = _begins_well(text, begin, words, free, inside)
        if not well or not _ends_well(text, end, run.end(), free):
            continue
        national = not plus and (words.noun or words.verb or shown[0] in "0(")
        candidate = Candidate(
            shown=shown,
            lengths=lengths,
            digits=digits,
            noun=words.noun,
            verb=words.verb,
            denied=words.denied,
            regions=_regions(text, window, start, words, regions) if national else (),
        )
        is_phone = _is_international if plus else _is_national
        if is_phone(candidate):
            return Found("phone", begin, end)
    return None


def _may_be_one_alone(text: str, start: int, first: int) -> bool:
    """Whether digits may be a number though more follow and no word says so."""
    abroad = text.startswith("00", first)
    return abroad or "(" in text[start : start + 3] or NANP_STRONG.match(text, start) is not None


def _ends(window: Sequence[tuple[int, int]]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Where a number of the first groups may end, and their lengths; the longest first."""
    lengths = tuple(b - a for a, b in window)
    total = sum(lengths)
    for count in range(len(lengths), 0, -1):
        if FEWEST_DIGITS <= total <= MOST_DIGITS + 2:
            yield window[count - 1][1], lengths[:count]
        total -= lengths[count - 1]


def _without_bracket(text: str, start: int, end: int) -> tuple[int, str]:
    """The number and where it begins, without a bracket around it, which is no part of it."""
    shown = text[start:end]
    if "(" not in shown[:3] or ")" in shown:
        return start, shown
    cut = shown.index("(") + 1
    return start + cut, shown[cut:]


def _regions(
    text: str, window: Sequence[tuple[int, int]], start: int, words: Words, regions: Sequence[str]
) -> tuple[str, ...]:
    """Whose national formats count: those asked for, and those of the words around."""
    for end, lengths in _ends(window):
        shown = _without_bracket(text, start, end)[1]
        if _is_grouped_well(shown, lengths):
            return (*regions, *regions_of_words(words.before + text[end : end + 8]))
    return ()


def _start(text: str, first: int) -> tuple[int, bool]:
    """Where the number begins, with bracket and plus, and whether it has a plus."""
    match = re.search(r"(?:\(?\+ ?\(?|\()\Z", text[max(0, first - 4) : first])
    if match is None:
        return first, False
    return first - len(match.group()), "+" in match.group()


def _is_sum(text: str, start: int, first: int) -> bool:
    """Whether the plus adds: "12 + 34", "a+34", "12345 +6789012345"."""
    left = text[max(0, start - 8) : start]
    if re.search(rf"(?:{WORD}|[)\]])\Z", left):
        return True
    spaced = text[first - 1] == " "
    return re.search(r"[\w)\]] \Z" if spaced else r"[0-9]{5} \Z", left) is not None


def _words(text: str, start: int, follows: bool) -> Words:
    """What the words before a number say; the nearer word decides."""
    before = text[max(0, start - LOOK_BACK) : start].lower()
    # its sign is among the last three characters
    near = before[-3:]
    key = KEY.search(before) if "=" in near or ":" in near else None
    if key:
        name = next(filter(None, key.groups()))
        # a cell is one of a table first
        noun = ANY_NOUN.search(name) is not None and name != "cell"
        named = noun or KEY_OF_PHONE.search(name) is not None
        # no other number is assigned with a plus, whatever its name
        plus = text.startswith("+", start)
        denied = OTHER_NUMBER.search(name) is not None if plus else not named
        return Words(before, noun=named, verb=False, denied=denied)
    if not LETTERS.search(before):
        return Words(before, noun=follows, verb=False, denied=False)
    # "my order, call 555…" is a phone number, "call, order 555…" none
    noun, denied = last(ANY_NOUN, before), last(OTHER_NUMBER, before)
    verb = VERB_BEFORE.search(before) is not None
    spoken = max(noun, last(VERB, before) if verb else -1)
    return Words(
        before,
        noun=noun > denied or follows,
        verb=verb and spoken > denied,
        denied=denied > spoken and not follows,
    )


def _is_blocked(text: str, start: int, end: int, run: re.Match, inside: bool) -> bool:
    """Whether what touches it rules a number out, whatever the words say, which take longer to ask.

    It is no part of a word, a price, a sum or a longer number.
    """
    # groups follow: only behind a gap
    if text[end] not in " /)" if end < run.end() else BLOCKED_AFTER.match(text, end, end + 8):
        return True
    before = text[max(0, start - 2) : start]
    mark = before[-1:]
    # "1,415-555-2671" is a row of a table
    open_mark = mark == "," or (inside and mark in (" ", "/"))
    return not open_mark and BLOCKED_BEFORE.search(before) is not None


def _begins_well(text: str, start: int, words: Words, free: bool, inside: bool) -> bool:
    """Whether a number that is not blocked can begin there: not in a path."""
    before = text[max(0, start - 2) : start]
    mark = before[-1:]
    if inside and mark in (" ", "/"):
        return free
    if mark == "," and BLOCKED_BEFORE.search(before):
        return free and not words.denied
    # "Nr.+49 …"
    if mark == "." and before[:1].isalpha() and text[start] == "+":
        return True
    if mark == "." or mark == "-":
        # "Tel.030 …", "phone-415…"
        said = ANY_NOUN.search(words.before, max(0, len(words.before) - 14))
        return (said is not None and said.end() == len(words.before) - 1) or before in (" .", "\n.")
    if mark in ("=", "/"):
        token = re.search(r"\S*\Z", words.before).group()
        in_path = mark == "/" and ("://" in token or "www." in token)
        return free and (not in_path or words.noun) and not (mark == "=" and words.denied)
    return mark != "," or free


def _ends_well(text: str, end: int, run_end: int, free: bool) -> bool:
    """Whether a number that is not blocked can end there: no part of a longer one."""
    # groups follow: only what needs no grouping to be known
    return free or not (end < run_end or re.match(",[0-9]", text[end : end + 2]))


def _is_international(candidate: Candidate) -> bool:
    shown, digits = "+" + candidate.shown.lstrip("(+ "), candidate.digits
    if is_valid(shown, None):
        return True
    # made-up 555 numbers are in no plan: the shape is enough
    if digits[0] == "1" and NANP_DIGITS.fullmatch(digits) and len(digits) == 11:
        return True
    # a plus before as many digits as that country has, grouped: nothing else is written so
    grouped = len(candidate.lengths) > 2 or candidate.said
    return grouped and len(digits) >= 9 and is_possible(shown)


def _is_abroad(digits: str) -> bool:
    """Whether it is a country's number behind the two zeros that are dialled for a plus."""
    return is_valid("+" + digits.removeprefix("00"), None)


def _is_national(candidate: Candidate) -> bool:
    """Decides by shape, words and number plan, cheapest first."""
    shown, digits, lengths = candidate.shown, candidate.digits, candidate.lengths
    # an operator with spaces around it, or more than one space: only where words say so
    if re.search(r"  | [/-] ", shown) and not candidate.said:
        return False
    # a dot among other marks, or one alone: decimals, IP addresses
    dotted = "." in shown and (len(set(MARK.findall(shown))) > 1 or shown.count(".") == 1)
    if dotted and "(" not in shown and not (candidate.said and re.match("0[0-9]", shown)):
        return False
    # 1. a country's prefix after the sign to dial abroad
    for abroad in ABROAD:
        if shown.startswith(abroad) and is_valid("+" + digits.removeprefix(abroad), None):
            return candidate.said or (not candidate.denied and abroad == "00")
    # Argentina's, with trunk 0 and 15, are the longest
    if len(digits) > (13 if candidate.said else 12):
        return False
    # 2. a shape that little else has
    if NANP_STRONG.fullmatch(shown):
        return "(" in shown or not candidate.denied
    # 3. what the words say
    if candidate.denied:
        return False
    if RUSSIAN.fullmatch(shown):
        return is_valid(shown, "RU")
    if candidate.noun or candidate.verb:
        return _is_named_phone(candidate)
    # 4. no word: the number plans decide, where the grouping is a phone number's
    if NANP_SPACED.fullmatch(shown):
        return is_valid(shown, "US")
    # a leading trunk zero, well grouped: few other numbers are written so
    return (
        shown[0] in "0("
        and len(digits) >= 10
        and len(lengths) >= 3
        and 1 not in lengths[1:]
        and set(lengths) != {4}
        and any(is_valid(shown, region) for region in candidate.regions)
    )


def _is_named_phone(candidate: Candidate) -> bool:
    """Of a number beside a word for phones: whether it is one."""
    shown, digits = candidate.shown, candidate.digits
    nanp = NANP_DIGITS.fullmatch(digits) is not None
    if LOCAL.fullmatch(shown):
        return True
    if not candidate.noun and shown[0] not in "0(":
        # after a verb alone numbers without trunk zero must be American, Indian, or well grouped
        if len(candidate.lengths) == 1:
            return nanp and (
                is_valid(shown, "US") or "IN" in candidate.regions and is_valid(shown, "IN")
            )
        return nanp or len(digits) >= 9 and any(is_valid(shown, r) for r in candidate.regions)
    # seven in a row: anything's
    long = len(candidate.lengths) > 1 or len(digits) > 7
    return nanp or (long and any(is_valid(shown, region) for region in candidate.regions))


def _is_grouped_well(shown: str, lengths: tuple[int, ...]) -> bool:
    """Whether the digits are grouped as in phone numbers, not as in tables, decimals and sums."""
    if len(lengths) == 1:
        return True
    # one digit: the trunk prefix at most, or an area behind a prefix: "06 1 235 4115", "0060 3 …",
    # "00 971 2 234 4771"
    trunk = shown.lstrip("(")
    prefixes = 2 if trunk.startswith("00") and lengths[0] == 2 else int(trunk[0] == "0")
    # an area without prefix: "2 2128 2268" in Santiago, where a word says so
    area = len(lengths) == 3 and min(lengths[1:]) > 2
    if 1 in lengths[1 + prefixes :] or (lengths[0] == 1 and trunk[0] not in "01789" and not area):
        return False
    # more than two kinds of marks: a list
    if len(set(MARK.findall(shown))) > 2:
        return False
    groups = GROUP.findall(shown)
    # years side by side
    if all(len(group) == 4 and group[:2] in ("19", "20") for group in groups):
        return False
    # 01 02 03 04 05
    steps = {int(b) - int(a) for a, b in itertools.pairwise(groups)}
    return len(groups) < 4 or steps not in ({0}, {1})
