"""The libraries of the extra `pii` (checksums, number plans), loaded on first use."""

import functools
import importlib
from collections.abc import Iterable
from types import ModuleType

from instruct.errors import UserError


# on first use: number plans take a moment to load, and most texts pass no gate
@functools.cache
def library(name: str) -> ModuleType:
    """The module `name`; raises `UserError` with what to install where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"finding PII needs {name.split('.')[0]}: "
            "pip install -e '.[pii]' (or keep PII: --pii keep)"
        ) from error


@functools.lru_cache(maxsize=1 << 12)
def is_valid(shown: str, region: str | None) -> bool:
    """Whether a number plan has it: of `region`, or of the country that a leading + names."""
    phonenumbers = library("phonenumbers")
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(shown, region))
    except phonenumbers.NumberParseException:
        return False


def is_possible(shown: str) -> bool:
    """Whether a number with a plus has as many digits as its country's do."""
    phonenumbers = library("phonenumbers")
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(shown, None))
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
