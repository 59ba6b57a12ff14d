"""Prompts in any shape -> messages."""

from data_prep.formats.misfit import Misfit
from data_prep.formats.preference_shapes import misfits
from instruct.pairs import prompt_of


@misfits
def prompt(row: dict) -> dict:
    """The prompt of a row, from whichever column holds it."""
    messages, _ = prompt_of(row)
    if not messages:
        raise Misfit("no prompt")
    return {"prompt": messages}
