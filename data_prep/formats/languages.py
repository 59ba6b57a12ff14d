"""Whether a text asks in a language other than English, by script and stop words.

`forms.py` reads English, and code, whose words are English. To what is written in another language
it would give a form by chance, so it must know. A text need not show anything to count as English:
chat in lower case with few stop words does, until it shows words of another language.
"""

import re

from data_prep.formats import stop_words

# who asks says how at the start
HEAD = 2_000
START = 48  # in which most English texts show two words of it
# a word in another script has two letters of it: "ಠ_ಠ", "(ツ)" and a formula's "α" are none
SCRIPTS = [
    *("\u0370-\u03ff\u1f00-\u1fff", "\u0400-\u052f", "\u0530-\u058f", "\u0590-\u05ff"),
    *("\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufefc", "\u0700-\u07bf"),
    *(f"{chr(block)}-{chr(block + 0x7F)}" for block in range(0x900, 0xE00, 0x80)),  # of India
    *("\u0e00-\u0e7f", "\u0e80-\u0eff", "\u0f00-\u0fff", "\u1000-\u109f", "\u10a0-\u10ff"),
    *("\u1100-\u11ff\u3130-\u318f\uac00-\ud7af", "\u1200-\u139f", "\u1780-\u17ff", "\u1800-\u18af"),
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af",
]
OTHER_SCRIPT = re.compile("|".join(f"[{letters}]{{2,}}" for letters in SCRIPTS))
LATIN = "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0300-\u036f\u1e00-\u1eff"
# one class for all other scripts: thirty would be tried at every blank
WORD = re.compile(rf"([{LATIN}]+)|[{''.join(SCRIPTS)}]{{2,}}")

ENGLISH, SHARED = frozenset(stop_words.ENGLISH.split()), frozenset(stop_words.SHARED.split())
LANGUAGES_OF: dict[str, list[str]] = {}  # {word: the languages that have it}
for _language, _words in stop_words.OF_LANGUAGE.items():
    for _word in _words.split():
        LANGUAGES_OF.setdefault(_word, []).append(_language)
FOREIGN = frozenset(LANGUAGES_OF)


def is_foreign(text: str, sure: bool = False) -> bool:
    """Whether the text begins in another language than English, as far as its words tell.

    The language that a text begins in is the one in which it asks; what follows may be material in
    any. Two words of English decide for English; three short words of one other language against
    it, or fewer that are long or have letters that English lacks. Where no word of English is in
    sight two short ones do, if they are a third of all.

    Args:
        sure: short words do not count; English holds some by chance ("Los Angeles", "de facto").
    """
    if is_plainly_english(text):
        return False
    english = words = foreign = unknown = 0
    found: dict[str, int] = {}  # by language
    seen = set()
    for match in WORD.finditer(text[:HEAD]):
        word = match.group().lower()
        words += 1
        if word in ENGLISH:
            # "Summarise:" is a request, whatever follows
            english += 2 if text.startswith(":", match.end()) else 1
        elif word not in seen and word not in SHARED:
            seen.add(word)
            if match.lastindex is None:
                run = OTHER_SCRIPT.search(word)
                # the same letter again and again is a laugh; the long ones are clauses
                if run and len(set(run.group())) > 1:
                    unknown += max(2, len(run.group()) // 2)
            # unknown, with letters that English lacks, and no name
            elif word not in FOREIGN and not word.isascii():
                unknown += match.group()[0].islower()
            weight = 2 - _is_short(word) * (1 + sure)
            for language in LANGUAGES_OF.get(word, ()):
                found[language] = found.get(language, 0) + weight
            foreign = unknown + max(found.values(), default=0)
        if english > 1 or foreign > 2:
            break
    return foreign > 2 or (foreign > 1 and not english and foreign * 3 >= words)


def _is_short(word: str) -> bool:
    return len(word) < 5 and word.isascii() or len(word) == 1


def is_plainly_english(text: str) -> bool:
    """A quick yes for most English texts, where going through all words would say the same."""
    # without the word that the cut runs through
    start = text if len(text) <= START else text[:START].rpartition(" ")[0]
    # by blanks alone: faster by half, and a word with a comma is just not seen
    words = start.lower().split()
    return start.isascii() and len(ENGLISH.intersection(words)) > 1 and FOREIGN.isdisjoint(words)


def begins_in_english(text: str) -> bool:
    """Whether words of English, and none of others, are among its first ones."""
    words = (match.group() for match in WORD.finditer(text[:200].lower()))
    return any(word in ENGLISH for word in words) and not is_foreign(text)
