"""All finders behind one function."""

from collections.abc import Iterable, Sequence

from data_prep.pii.addresses import find_ipv4, find_ipv6
from data_prep.pii.candidates import GATES
from data_prep.pii.checked_numbers import find_cards, find_ibans, find_national_ids
from data_prep.pii.emails import find_emails
from data_prep.pii.found import KINDS, REGIONS, Found
from data_prep.pii.letters import plain, without_uuids
from data_prep.pii.phones import find_phones
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
# in which UUIDs are not looked at
OF_DIGITS = ("card", "national_id", "ipv6", "ipv4", "phone")


def find_pii(
    text: str,
    kinds: Iterable[str] = KINDS,
    regions: Sequence[str] = REGIONS,
    reserved: bool = True,
) -> list[Found]:
    """Spans of personal information in `text`, by position, without overlaps; empty without any.

    Args:
        text: a prompt, an answer, a turn.
        kinds: which of `KINDS` to look for.
        regions: countries whose national phone formats are read.
        reserved: also addresses of nobody: private and documentation IPs, example.com and its like.
            The commands leave those out unless `--pii_reserved` is given.

    Raises:
        UserError: a library that a kind needs is not installed.
    """
    # the gates cost a hundredth of the finders
    suspected = [kind for kind in kinds if GATES[kind](text)]
    return find_suspected(text, suspected, regions, reserved) if suspected else []


def find_suspected(
    text: str, kinds: Iterable[str], regions: Sequence[str] = REGIONS, reserved: bool = True
) -> list[Found]:
    """`find_pii` of kinds whose candidate pattern an engine has found in this very text."""
    kinds = frozenset(kinds)
    # as long as the text, so that spans hold in both
    text = plain(text)
    numbers = without_uuids(text)
    flags = {
        "phone": {"regions": regions},
        **{kind: {"reserved": reserved} for kind in ("email", "ipv4", "ipv6")},
    }
    # a card's digits may pass for a phone number as well
    return merge(
        *(
            FINDERS[kind](numbers if kind in OF_DIGITS else text, **flags.get(kind, {}))
            for kind in FINDERS
            if kind in kinds
        )
    )
