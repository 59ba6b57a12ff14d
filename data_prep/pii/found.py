"""What every finder answers with, and the kinds and regions that there are."""

from typing import NamedTuple

KINDS = ("email", "phone", "ipv4", "ipv6", "card", "iban", "national_id", "secret")
REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "IN", "AU")  # whose national phone formats are read


class Found(NamedTuple):
    """One piece of personal information: `text[start:end]` is of this kind."""

    kind: str
    start: int
    end: int
