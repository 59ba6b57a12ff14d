"""What a model or a data set is, by its content: what stands at the same path may change."""

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from instruct.bases import hub_folder, model_parts, places_of_base
from instruct.checks.model_files import json_object
from instruct.errors import UserError
from instruct.files import data_files
from instruct.hashes import file_hash, files_hash, hash_of
from instruct.hub import ask_hub
from instruct.rows.splits import is_path


def hub_commit(repo_id: str, revision: str | None = None, repo_type: str = "model") -> str | None:
    """The commit that a revision of a Hub repository stands for; None where nobody can say.

    Asked of the Hub, else of what lies in its cache here.
    """
    # imported here: commands that read local files need no Hub client
    from huggingface_hub import HfApi, constants

    ask_hub(repo_id)
    revision = revision or "main"
    try:
        return HfApi().repo_info(repo_id, revision=revision, repo_type=repo_type, timeout=10).sha
    # many unrelated types; all mean "no answer", and the cache below may have one
    except Exception:
        name = "--".join([f"{repo_type}s", *repo_id.split("/")])
        folder = Path(constants.HF_HUB_CACHE) / name
    reference = folder / "refs" / revision
    if reference.is_file():
        return reference.read_text().strip()
    return revision if (folder / "snapshots" / revision).is_dir() else None


def model_identity(name: str | None, revision: str | None = None) -> dict | None:
    """What identifies a model or adapter: its `commit` on the Hub or a `sha256` of its files.

    An adapter's base belongs to it. None of None.

    Raises:
        UserError: an adapter whose configuration cannot be read.
    """
    if not name:
        return None
    folder = Path(hub_folder(name, revision))
    if not folder.is_dir():
        return {"name": name, "commit": hub_commit(name, revision)}
    parts, config = model_parts(folder), folder / "adapter_config.json"
    if config.is_file():
        parts["base"] = content_of(_base_identity(name, json_object(config, "adapter")))
    return {"name": name, "sha256": hash_of(parts)}


def _base_identity(folder: str, adapter: dict) -> dict | None:
    """What identifies the base of an adapter, wherever it is found."""
    named, revision = adapter.get("base_model_name_or_path"), adapter.get("revision")
    for place in places_of_base(folder, named, revision).found:
        # one that cannot be had is told by who loads it
        with suppress(UserError):
            found = model_identity(place.name, place.revision)
            if "sha256" in found or found["commit"]:
                return found
    # nobody can say: by its name
    return {"name": named, "commit": None} if named else None


# What of a tokenizer's folder decides how messages are rendered.
TEMPLATE_FILES = ("chat_template*", "additional_chat_templates/*", "tokenizer_config.json")
JINJA = (".jinja", ".jinja2", ".j2")


def template_identity(source: str | None) -> dict | None:
    """What identifies a chat template: of a Jinja file, a tokenizer's folder or Hub id.

    None of None.

    Raises:
        UserError: a folder without a template.
    """
    if not source:
        return None
    path = Path(source)
    if path.is_file():
        return {"name": source, "sha256": files_hash([path])}
    if not path.is_dir():
        # a file that is not there is told by who reads it
        asked = not source.endswith(JINJA)
        return {"name": source, "commit": hub_commit(source) if asked else None}
    files = sorted({f for pattern in TEMPLATE_FILES for f in path.glob(pattern) if f.is_file()})
    if not files:
        raise UserError(f"--chat_template_path {source}: no tokenizer in this folder")
    return {"name": source, "sha256": files_hash(files)}


def data_identity(source: str | Path | None, split: str | None = None) -> dict | None:
    """What identifies a split of data: its `commit` on the Hub or a `sha256` of its files.

    None of None.

    Raises:
        UserError: a folder without a data file.
    """
    if not source:
        return None
    name, path = str(source), Path(source)
    if path.is_file():
        return {"name": name, "sha256": files_hash([path])}
    if path.is_dir():
        return {"name": name, "sha256": files_hash(data_files(path, split))}
    if name.startswith("hf://"):
        return {"name": name, "commit": _commit_behind(name)}
    # a file that is not there is told by who reads it
    asked = not is_path(name)
    return {"name": name, "commit": hub_commit(name, repo_type="dataset") if asked else None}


def _commit_behind(path: str) -> str | None:
    """The commit of `hf://datasets/owner/name[@revision]/…`; None of buckets and of other kinds."""
    match = re.match(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?", path)
    if not match:
        return None
    repo, revision = match.groups()
    return hub_commit(repo, revision and unquote(revision), repo_type="dataset")


def source_hash(function: Callable) -> str | None:
    """The hash of the module that a function is written in; None where it has no source.

    With the model that it asks, where it has one (a method `model_identity`, as the judges of
    `instruct/evaluation/judges.py` have): with another one it is another function.
    """
    file = getattr(sys.modules.get(function.__module__), "__file__", None)
    source = file and file_hash(file)
    asks = getattr(function, "model_identity", None)
    return source if asks is None else hash_of([source, content_of(asks())])


# how an identity says what a thing holds; by its name alone where it has none of them
KNOWN_BY = ("sha256", "commit", "hmac_sha256")


def content_of(identity: dict | None) -> str | None:
    """What a cache is keyed by: hash or commit, and the name where neither is known."""
    if identity is None:
        return None
    return identity.get("sha256") or identity.get("commit") or identity["name"]


def is_same(one: dict | None, other: dict | None) -> bool:
    """Whether two identities are one thing; by name only where one of them is not known better."""
    if one is None or other is None:
        return one is other
    for key in KNOWN_BY:
        if one.get(key) and other.get(key):
            return one[key] == other[key]
    known = [any(identity.get(key) for key in KNOWN_BY) for identity in (one, other)]
    # two kinds of identity, a folder and a Hub id, cannot be compared
    return not all(known) and one["name"] == other["name"]
