"""All finders behind one function."""

from collections.abc import Iterable, Iterator, Sequence

from data_prep.pii.addresses import find_ipv4, find_ipv6
from data_prep.pii.candidates import GATES
from data_prep.pii.checked_numbers import find_cards, find_ibans, find_national_ids
from data_prep.pii.contacts import find_emails, find_phones
from data_prep.pii.found import KINDS, REGIONS, Found
from data_prep.pii.redaction import merge
from data_prep.pii.secrets import find_secrets

# in order of trust: where two spans overlap, the earlier kind holds
FINDERS = {
    "secret": find_secrets,
    "email": find_emails,
    "iban": find_ibans,
    "card": find_cards,
    "national_id": find_national_ids,
    "ipv6": find_ipv6,
    "ipv4": find_ipv4,
    "phone": find_phones,
}


def find_pii(
    text: str, kinds: Iterable[str] = KINDS, regions: Sequence[str] = REGIONS
) -> list[Found]:
    """Spans of personal information in `text`, by position, without overlaps; empty without any.

    Args:
        text: a prompt, an answer, a turn.
        kinds: which of `KINDS` to look for.
        regions: countries whose national phone formats are read.

    Raises:
        UserError: a library that a kind needs is not installed.
    """
    kinds = frozenset(kinds)
    # the gate costs a hundredth of the finder
    looked_for = [kind for kind in FINDERS if kind in kinds and GATES[kind].search(text)]
    # a card's digits may pass for a phone number as well
    return merge(*(_spans(kind, text, regions) for kind in looked_for))


def _spans(kind: str, text: str, regions: Sequence[str]) -> Iterator[Found]:
    return find_phones(text, regions) if kind == "phone" else FINDERS[kind](text)
