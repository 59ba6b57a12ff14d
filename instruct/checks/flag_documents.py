"""Flags that name a settings file, or hold a JSON document: read once before anybody needs them, so
that an error has the flag's name.
"""

import json
from dataclasses import fields
from pathlib import Path

from transformers.trainer_pt_utils import AcceleratorConfig
from yaml import YAMLError, safe_load

from instruct.errors import UserError
from instruct.plain_text import one_line
from instruct.rows.encodings import read_text

# a JSON object, or a file with one
FILES = ("accelerator_config", "fsdp_config", "deepspeed")
# a JSON object
CHECKPOINTING = ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")
OBJECTS = ("lr_scheduler_kwargs", *CHECKPOINTING)
# of torch.utils.checkpoint, which asks for them in the first step
CHECKPOINT_KEYS = (
    "use_reentrant", "preserve_rng_state", "context_fn", "determinism_check", "debug", "early_stop",
)  # fmt: skip


def with_config_apart(words: list[str]) -> list[str]:
    """A command line in which `--config=FILE` is two words, and the file is one that can be read.

    Raises:
        UserError: no such file, or no YAML mapping in it.
    """
    found = []
    for word in words:
        flag, equals, value = word.partition("=")
        found += ["--config", value] if flag == "--config" and equals else [word]
    if "--config" in found:
        given = found[found.index("--config") + 1 :][:1]
        if not given or given[0].startswith("--"):
            raise UserError("--config is given without its file")
        if not isinstance(_read(f"--config {given[0]}", Path(given[0]), safe_load), dict):
            raise UserError(
                f"--config {given[0]}: holds no settings; write flag: value, one a line"
            )
    return found


def check_documents(values: dict) -> None:
    """Refuses a flag whose JSON cannot be read, or whose file is not there.

    Args:
        values: flag -> what was given; a YAML file may give an object itself.

    Raises:
        UserError: names the flag.
    """
    for flag in (*FILES, *OBJECTS):
        given = values.get(flag)
        shown = f"--{flag} {one_line(str(given), 200)}"
        if isinstance(given, str):
            given = _object(flag, shown, given)
        known = CHECKPOINT_KEYS if flag in CHECKPOINTING else ()
        if flag == "accelerator_config":
            known = [field.name for field in fields(AcceleratorConfig)]
        unknown = [name for name in given or () if known and name not in known]
        if unknown:
            raise UserError(f"{shown}: there is no {unknown[0]!r}; there is {', '.join(known)}")


def _object(flag: str, shown: str, given: str) -> dict | None:
    """What a flag's text says; None of what is no JSON, and may be."""
    if given.startswith("{"):
        return _loaded(shown, given, json.loads)
    if flag in OBJECTS:
        raise UserError(f'{shown}: must be a JSON object, such as {{"num_cycles": 2}}')
    # it takes a document in base 64 as well
    if flag == "deepspeed" and not given.endswith(".json") and not Path(given).exists():
        return None
    found = _read(shown, Path(given), json.loads)
    if not isinstance(found, dict):
        raise UserError(f"{shown}: holds no JSON object")
    return found


def _read(shown: str, path: Path, load):
    return _loaded(shown, read_text(path, shown), load)


def _loaded(shown: str, text: str, load):
    kind = "JSON" if load is json.loads else "YAML"
    try:
        return load(text)
    except (ValueError, YAMLError, RecursionError) as error:
        raise UserError(f"{shown}: not valid {kind} ({one_line(str(error), 200)})") from error
