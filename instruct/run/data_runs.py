"""A command that makes data: its `run.json`, and what run again it may replace.

It is cheap, and its output whole or nothing. So in an output folder of its own it replaces what is
there at once, also by other rows or flags, and says what has changed; never what another command
or a person wrote. `run.json` is replaced with the rest.
"""

import argparse
import hmac
import json
from collections.abc import Iterable
from pathlib import Path

from instruct.hashes import hash_of
from instruct.run.fingerprints import content_of, data_identity, model_identity
from instruct.run.folders import check_ours
from instruct.run.run_record import check_step, differences, read_record, versions

VERSIONS_OF = ("datasets", "pyarrow", "ibis-framework", "duckdb", "transformers", "torch")
# Flags that do not change the result, and the place of a secret.
UNRECORDED = (
    "output_dir", "output", "overwrite_output_dir", "cache_dir", "num_proc", "memory_limit",
    "spark_master", "pii_key_file",
)  # fmt: skip


def add_overwrite(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `--overwrite_output_dir [True|False]`, as the recipes have it."""
    parser.add_argument(
        "--overwrite_output_dir", nargs="?", type=_bool, const=True, default=False, help=what
    )


CHANGED_TOO = "start over: also replace files of an earlier run that were changed by hand since"


def _bool(word: str) -> bool:
    if word.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{word!r} is neither True nor False")
    return word.lower() == "true"


def record_of_data(
    step: str,
    args: argparse.Namespace,
    data: dict[str, str | Path | Iterable[str] | None],
    models: dict[str, str | None] | None = None,
    labelers: list[str] | None = None,
) -> dict:
    """What `run.json` says of a command that makes data. No times: twice the same is the same.

    Args:
        args: its flags, as parsed.
        data: {flag: file, folder, Hub id or several} of what is read.
        models: {flag: folder or Hub id} of the models that it asks.
        labelers: who ranked, where that is known.
    """
    # a judge's spec says more than its model: what is asked of it
    plain = {flag for flag, name in (models or {}).items() if getattr(args, flag, name) == name}
    named = {*UNRECORDED, *data, *plain}
    flags = {flag: value for flag, value in vars(args).items() if flag not in named}
    return {
        "step": step,
        "models": {flag: model_identity(name) for flag, name in (models or {}).items()},
        "data": {flag: _identity(source) for flag, source in data.items()},
        "labelers": labelers,
        "seed": flags.get("seed"),
        "flags": json.loads(json.dumps(flags, default=str)),
        "versions": versions(VERSIONS_OF),
    }


def _identity(source: str | Path | Iterable[str] | None) -> dict | None:
    """`data_identity` of one or several sources, in their order."""
    if source is None or isinstance(source, str | Path):
        return data_identity(source)
    parts = [data_identity(part) for part in source]
    if len(parts) < 2:
        return parts[0] if parts else None
    names = " ".join(part["name"] for part in parts)
    return {"name": names, "sha256": hash_of([content_of(part) for part in parts])}


def under_secret(identity: dict | None, secret: bytes) -> dict | None:
    """An identity that shows nothing of what it is of.

    A plain hash of a file would show what was taken out of its rows to who tries all phone numbers.
    """
    if identity is None or "sha256" not in identity:
        return identity
    hidden = hmac.new(secret, identity["sha256"].encode(), "sha256").hexdigest()
    return {"name": identity["name"], "hmac_sha256": hidden}


def check_replaces(folder: str | Path, record: dict, overwrite: bool, **ours) -> None:
    """Asks, before the work, whether `folder` may be replaced; says what differs from what it has.

    Args:
        record: what is about to be made.
        overwrite: `--overwrite_output_dir`.
        ours: `names` and `report_keys` of `folders.check_ours`.

    Raises:
        UserError: it holds what another command or somebody else wrote.
    """
    found = read_record(folder)
    if found is not None:
        check_step(folder, found, record["step"], ("data", "flags"))
    check_ours(folder, **ours, changed=overwrite)
    if changes := differences(found, record) if found is not None else []:
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        print(f"{folder}: replaces an earlier output: {'; '.join(changes[:3])}{more}")
