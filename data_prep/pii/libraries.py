"""The libraries of the extra `pii` (checksums, number plans), loaded on first use."""

import functools
import importlib
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
            "pip install 'instruct-recipes[pii]' (or keep PII: --pii keep)"
        ) from error
