"""Where a model lies: an adapter's base, wherever its run was moved, and what a folder holds.

The base of an adapter is looked for beside it, by the path in its run's `run.json`; then where its
`adapter_config.json` says; then where `--base_model` says. A name is a folder, a Hub id, or the
`merged/` of one (`me/my-sft/merged`).
"""

import argparse
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from instruct.errors import UserError
from instruct.hashes import file_hashes, hash_of
from instruct.hub import ask_hub

# The files of a folder that decide what its model answers; none of them is a run's own note.
MODEL_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "reward_head.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.py",
)
HELP = "Base of adapters that name one which is neither beside them nor where it was: folder or id."
# In a run's folder, an adapter of the same base.
WITHIN = re.compile(r"checkpoint-\d+|value")
# What a recipe pushed as a folder of its repository.
ON_HUB = re.compile(r"([\w.-]+/[\w.-]+)/(merged)")
CACHED = re.compile(r".*/models--([\w.-]+?)--([\w.-]+)/snapshots/(\w+)((?:/merged)?)")
SHOWN = 3  # folders in "did you mean"

################
# --base_model
################

_given: list[str] = []  # of the command that runs


def add_base_model(parser: argparse.ArgumentParser) -> None:
    """Adds the flag to a command that is no recipe; those have it in their `ModelConfig`."""
    parser.add_argument("--base_model", metavar="MODEL", help=HELP)


def use_base(name: str | None) -> None:
    """Takes `--base_model` for whatever this command loads; None: none was given."""
    found = there(name, "model")
    _given[:] = [found] if found else []


################
# The base of an adapter
################


@dataclass(frozen=True)
class Place:
    """A model by its folder or Hub id, and its revision."""

    name: str
    revision: str | None = None


@dataclass
class Places:
    """Where an adapter's base is, as far as folders tell: the first that loads is taken.

    Attributes:
        found: folders that hold it, and Hub ids, which nobody has asked for yet.
        tried: what was looked for, in words.
    """

    found: list[Place]
    tried: list[str]

    def missing(self, adapter: str) -> UserError:
        """What to say where none of them loads."""
        return UserError(
            f"{adapter}: the base model of this adapter is not to be found: {', '.join(self.tried)}"
            "; give its folder or Hub id by --base_model"
        )


def model_parts(folder: Path) -> dict[str, str]:
    """{name: SHA-256} of the files that decide what a folder's model answers."""
    # "tokenizer*" and "*.model" may find one file twice
    files = sorted({f for pattern in MODEL_FILES for f in folder.glob(pattern) if f.is_file()})
    return dict(zip((file.name for file in files), file_hashes(files), strict=True))


def places_of_base(adapter: str, named: str | None, revision: str | None = None) -> Places:
    """Where the base of the adapter in a folder (or on the Hub) is, in the order to try.

    A folder is taken where it holds what the adapter was trained on, so far as `run.json` knows:
    weights of the same shape would load, and answer something else.

    Args:
        named: the base by the adapter's own configuration.
        revision: of `named`.
    """
    named = named if isinstance(named, str) and named else None
    folder, record = _recorded_base(Path(adapter))
    known, found, tried, places = record.get("sha256"), [], [], []
    if isinstance(record.get("path"), str):
        # the path of a base that is far from its run is absolute, and stays so when joined
        places.append((_plain(folder / record["path"]), "beside it at"))
    elif not record.get("commit"):
        tried.append("not beside it (no run.json there says where)")
    was_folder = named is not None and (known is not None or _is_folder_name(named))
    if was_folder:
        places.append((Path(named), "where it was at"))
    if places and all(p.is_dir() and p.samefile(places[0][0]) for p, _ in places):
        # not moved: by the name it always had
        places = [(Path(named) if named else places[0][0], "where it was at")]
    places += [(Path(name), "by --base_model") for name in _given if Path(name).is_dir()]
    for place, where in places:
        why = _why_not_base(place, known)
        found += [] if why else [Place(str(place))]
        tried += [f"not {where} {place}{why}"] if why else []
    if named and not was_folder:
        found.append(Place(named, revision))
    elif named and (cached := CACHED.fullmatch(named)):
        owner, repo, commit, sub = cached.groups()
        found.append(Place(f"{owner}/{repo}{sub}", commit))
    found += [Place(name) for name in _given if not Path(name).is_dir()]
    if not _given:
        tried.append("not by --base_model, which is not given")
    return Places(found, tried)


def _why_not_base(place: Path, known: str | None) -> str | None:
    """Why a folder is not the base that was recorded, in words that follow its name; None: it is.

    Reading a large one takes minutes, once: its hash is kept.
    """
    if not place.is_dir():
        return " (no such folder)"
    if known and hash_of(model_parts(place)) != known:
        return " (it holds other files than the adapter was trained on)"
    return None


def _recorded_base(folder: Path) -> tuple[Path, dict]:
    """The folder whose `run.json` says what an adapter's base is, and that."""
    while True:
        with suppress(OSError, ValueError):
            record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            base = record.get("base") if isinstance(record, dict) else None
            return folder, base if isinstance(base, dict) else {}
        if not WITHIN.fullmatch(folder.name):
            return folder, {}
        folder = folder.parent


def _plain(path: Path) -> Path:
    """A path without its `..`, as a person would write it; through links as it is."""
    parts: list[str] = []
    for part in path.parts:
        up = part == ".." and parts and parts[-1] not in ("..", path.anchor)
        parts = parts[:-1] if up else [*parts, part]
    plain = Path(*parts)
    return plain if not path.exists() or plain.exists() and plain.samefile(path) else path


def _is_folder_name(name: str) -> bool:
    """Whether a name can be no Hub id, or is a folder here."""
    if Path(name).is_dir():
        return True
    return name.startswith((".", "~", "/")) or name.count("/") > 1 and not ON_HUB.fullmatch(name)


################
# The Hub
################


def hub_folder(name: str, revision: str | None = None) -> str:
    """The folder of what `owner/repo/merged` names, downloaded; any other name as it is."""
    on_hub = ON_HUB.fullmatch(name)
    # a folder of this name that is not there is a typing error, and no repository
    if on_hub is None or Path(name).exists() or Path(name).parent.parent.exists():
        return name
    repo, sub = on_hub.groups()
    folder = Path(_snapshot(repo, revision, allow=f"{sub}/*")) / sub
    if not (folder / "config.json").is_file():
        raise UserError(f"{name}: {repo} on the Hub holds no {sub}/; give a model folder or Hub id")
    return str(folder)


def adapter_folder(name: str) -> str:
    """The folder of an adapter on the Hub, downloaded."""
    return _snapshot(name, None, ignore=["merged/*", "checkpoint-*/*", "value/*"])


def _snapshot(repo: str, revision: str | None, allow=None, ignore=None) -> str:
    from huggingface_hub import snapshot_download

    ask_hub(repo)
    try:
        return snapshot_download(
            repo, revision=revision, allow_patterns=allow, ignore_patterns=ignore
        )
    # the client raises many unrelated types; all mean that it is not to be had
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{repo}: cannot be read from the Hub ({said})") from error


################
# Did you mean
################


def there(name: str | None, wanted: str) -> str | None:
    """A model as a flag names it, by the folder or Hub id that libraries load.

    Args:
        wanted: "model", a whole one; "policy", that or an adapter of one; "reward".

    Raises:
        UserError: a folder that holds none, with what it holds one level down.
    """
    if not name:
        return name
    if said := why_not(name, wanted):
        raise UserError(f"{name}: {said}")
    found = hub_folder(name)
    # what is no reward model has a sentence of its own
    gone = _is_folder_name(name) and not Path(name).expanduser().exists()
    if found == name and gone and wanted != "reward":
        raise UserError(f"{name}: no such folder; has the step that writes it been run?")
    return found


def why_not(name: str | Path, wanted: str) -> str | None:
    """What to say of a folder that does not hold what was wanted; None: it does, or it is none."""
    folder = Path(name)
    if not folder.is_dir() or _holds(folder, wanted):
        return None
    meant = list(dict.fromkeys(map(str, _meant(folder, wanted))))[:SHOWN]
    if (folder / "adapter_config.json").is_file():
        return f"an adapter and no model to start from{_mean(meant)}" if meant else None
    checkpoints = [path.name for path in folder.glob("checkpoint-*") if path.is_dir()]
    if not meant and checkpoints:
        begun = f"the run in it has not finished ({max(checkpoints, key=_step)})"
        return f"no model there: {begun}; run its command again"
    return f"no model there{_mean(meant)}" if meant else None


def _mean(meant: list[str]) -> str:
    return f"; did you mean {' or '.join(meant)}?"


def _step(name: str) -> int:
    last = name.rpartition("-")[2]
    return int(last) if last.isdigit() else -1


def _holds(folder: Path, wanted: str) -> bool:
    whole = (folder / "config.json").is_file()
    return whole or wanted != "model" and (folder / "adapter_config.json").is_file()


def _meant(folder: Path, wanted: str) -> Iterable[Path]:
    """Folders near this one that hold what was wanted, the likeliest first."""
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    if wanted == "reward":
        yield from (path for path in below if _scores(path))
        return
    near = [folder, *([folder.parent] if WITHIN.fullmatch(folder.name) else []), *below]
    for place in near:
        merged = place / "merged"
        if _holds(merged, "model"):
            yield merged
        elif place != folder and _is_policy(place, wanted):
            yield place
    if wanted == "policy":
        # an unfinished run's last one
        yield from sorted(
            (p for p in below if WITHIN.fullmatch(p.name) and _holds(p, wanted)),
            key=lambda path: _step(path.name),
        )[-1:]


def _is_policy(folder: Path, wanted: str) -> bool:
    """Whether a folder is a run's or a model's own, and speaks: no reward, no checkpoint."""
    return _holds(folder, wanted) and not WITHIN.fullmatch(folder.name) and not _scores(folder)


def _scores(folder: Path) -> bool:
    """Whether a folder holds a reward model: ours, or a whole classifier."""
    if (folder / "reward_head.json").is_file():
        return True
    with suppress(OSError, ValueError):
        return "ForSequenceClassification" in (folder / "config.json").read_text(encoding="utf-8")
    return False
