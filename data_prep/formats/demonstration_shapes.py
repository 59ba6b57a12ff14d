"""A prompt and a person's answer to it, in any shape -> messages."""

from data_prep.formats.misfit import Misfit
from data_prep.formats.preference_shapes import misfits
from instruct.pairs import prompt_of, turns_of


@misfits
def prompt_completion(row: dict) -> dict:
    """A row with `prompt` and `completion`."""
    messages, _ = prompt_of(row)
    if not messages or row.get("completion") is None:
        raise Misfit("no prompt" if not messages else "no completion")
    return {"prompt": messages, "completion": turns_of(row["completion"], "assistant")}
