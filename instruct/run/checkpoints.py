"""Checkpoints of a run: which are whole, which one it continues from, how they are deleted.

A checkpoint is whole where every file is there as it was written. `seal` writes that down last, in
`files.json`: name, size and SHA-256 of each file (of 64 MiB and more: the size alone). A checkpoint
of an earlier version has neither that nor `carried.json`, its first file; its parts are looked for
and opened instead.
"""

import hashlib
import json
import re
import shutil
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from transformers import TrainerState, TrainingArguments

from instruct.errors import UserError
from instruct.files import sync, sync_folder, write_json

CHECKPOINT = "checkpoint-"  # then the optimiser step, as Trainer names its folders
MANIFEST = "files.json"
STATE = "trainer_state.json"
CARRIED = (
    "carried.json"  # what Trainer itself does not save; written first, by `trainers/resumable`
)
# Reading gigabytes back at each save costs minutes; a LoRA checkpoint is all below this.
HASHED_BELOW = 64 * 2**20
# What reading JSON of any shape can raise: not JSON, not UTF-8, another shape, nested too deep.
DAMAGED = (ValueError, KeyError, TypeError, AttributeError, RuntimeError)

# What continues a run, each by the names that Trainer, FSDP and DeepSpeed give it.
WEIGHTS = {"weights": ("*.safetensors", "pytorch_model_fsdp*", "global_step*")}
PROGRESS = {
    "optimizer state": ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*"),
    "scheduler state": ("scheduler.pt",),
    "RNG state": ("rng_state*.pth",),
}

################
# Written to its end
################


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def seal(checkpoint: Path) -> None:
    """Writes `files.json`, after which the checkpoint counts as whole."""
    paths = sorted(checkpoint.rglob("*"))
    files = {}
    for path in paths:
        if path.is_dir():
            sync_folder(path)
        else:
            sync(path)
            size = path.stat().st_size
            known = {"size": size} | ({"sha256": _sha256(path)} if size < HASHED_BELOW else {})
            files[path.relative_to(checkpoint).as_posix()] = known
    # after all it lists: seen on the disk, it vouches for them
    write_json(checkpoint / MANIFEST, {"files": files})
    sync_folder(checkpoint)
    sync_folder(checkpoint.parent)


################
# Whole or not
################


def _unlike(file: Path, name: str, known: dict) -> str | None:
    """How a file differs from its line of `files.json`; None: not at all."""
    if not file.is_file():
        return f"{name} is missing"
    size = file.stat().st_size
    if size != known["size"]:
        return f"{name} has {size:,} bytes, {known['size']:,} were written"
    if "sha256" in known and _sha256(file) != known["sha256"]:
        return f"{name} does not hold what was written"
    return None


def _unreadable(file: Path) -> str | None:
    """What is wrong with a file that no `files.json` lists, as far as it tells by itself."""
    try:
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix == ".safetensors":
            # checks its header against its size
            with safe_open(file, "pt"):
                return None
        elif file.suffix in (".pt", ".pth"):
            # what `torch.save` writes is a zip file, with a checksum of every part
            with zipfile.ZipFile(file) as parts:
                return None if parts.testzip() is None else f"{file.name} is damaged"
    except (SafetensorError, zipfile.BadZipFile, EOFError, struct.error, *DAMAGED):
        return f"{file.name} is damaged"
    return None


def _absent(checkpoint: Path, parts: dict[str, tuple[str, ...]]) -> list[str]:
    # the folders of FSDP and DeepSpeed have no ending
    return [
        part
        for part, patterns in parts.items()
        if not any(
            path.is_file() or not path.suffix
            for pattern in patterns
            for path in checkpoint.glob(pattern)
        )
    ]


def _wrong_by_manifest(checkpoint: Path) -> str | None:
    try:
        text = (checkpoint / MANIFEST).read_text(encoding="utf-8")
        files = {name: dict(known) for name, known in json.loads(text)["files"].items()}
        sizes = [known["size"] for known in files.values()]
    # anything but what `seal` writes
    except (OSError, *DAMAGED):
        return f"{MANIFEST} is damaged"
    if not sizes:
        return f"{MANIFEST} lists no file"
    # the first that differs is enough to say
    found = (_unlike(checkpoint / name, name, known) for name, known in files.items())
    return next(filter(None, found), None)


def _wrong_by_itself(checkpoint: Path, needed: Iterable[str]) -> str | None:
    """For a checkpoint of an earlier version: Trainer wrote `trainer_state.json` last."""
    if not _state(checkpoint):
        return f"no readable {STATE}, so it was not written to its end"
    for part in _absent(checkpoint, WEIGHTS | PROGRESS):
        return f"no {part} there"
    for name in needed:
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    return next(filter(None, map(_unreadable, files)), None)


def _state(checkpoint: Path) -> dict:
    """Trainer's state; empty where it cannot be read, or is something else."""
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        TrainerState(**state)
    except (OSError, *DAMAGED):
        return {}
    return state if isinstance(state.get("global_step"), int) else {}


def what_is_wrong(checkpoint: Path, needed: Iterable[str] = ()) -> str | None:
    """Why a checkpoint is not whole, in a few words; None: it is.

    Args:
        needed: files that a checkpoint without `files.json` must have beside Trainer's own.
    """
    try:
        if not checkpoint.is_dir():
            return "no such folder"
        if (checkpoint / MANIFEST).exists():
            wrong = _wrong_by_manifest(checkpoint)
        elif (checkpoint / CARRIED).exists():
            wrong = f"{MANIFEST} is missing, which is written last"
        else:
            wrong = _wrong_by_itself(checkpoint, needed)
        return wrong if wrong or _state(checkpoint) else f"no readable {STATE}"
    except OSError as error:
        return f"{error.filename or checkpoint} cannot be read ({error.strerror})"


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there as it was written."""
    return what_is_wrong(checkpoint) is None


def step_of(checkpoint: str | Path) -> int:
    """The optimizer step after which a whole checkpoint was written."""
    return _state(Path(checkpoint))["global_step"]


def had_stopped(checkpoint: Path, max_steps: int) -> bool:
    """Whether nothing was left to train after a checkpoint, of `max_steps` asked for now."""
    state = _state(checkpoint)
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    # stopped by its end, a run goes on where the end has been moved; stopped early, it does not
    early = control.get("should_training_stop") and state["global_step"] < state["max_steps"]
    return bool(early) or state["global_step"] >= max_steps


def _checkpoints(output_dir: str | Path) -> dict[int, Path]:
    """{step: folder} of a run, oldest first, whole or not."""
    found = {folder.name: folder for folder in Path(output_dir).glob(f"{CHECKPOINT}*")}
    matches = [re.fullmatch(f"{CHECKPOINT}([0-9]+)", name) for name in found]
    # by number: names sort 100 before 20, and times change with a copy
    return dict(sorted((int(match[1]), found[match[0]]) for match in matches if match))


def whole_checkpoints(output_dir: str | Path) -> list[Path]:
    """Checkpoints of a run that are whole, oldest first."""
    return [folder for folder in _checkpoints(output_dir).values() if is_whole(folder)]


################
# Where to continue
################


def _say(line: str) -> None:
    if PartialState().is_main_process:
        print(line)


def best_beside(checkpoint: Path) -> Path | None:
    """The best checkpoint so far as `checkpoint` names it, looked for beside it."""
    # by name: the folder of the run may have been moved since
    best = _state(checkpoint).get("best_model_checkpoint")
    return checkpoint.parent / Path(best).name if isinstance(best, str) else None


def _why_not(checkpoint: Path, args: TrainingArguments, needed: Iterable[str]) -> str | None:
    wrong = what_is_wrong(checkpoint, needed)
    if wrong is None and args.load_best_model_at_end:
        # without it the run would end in another model than it should
        best = best_beside(checkpoint)
        if best is not None and best != checkpoint:
            wrong = what_is_wrong(best, needed)
            wrong = wrong and f"its best checkpoint, {best.name}, is not whole: {wrong}"
    return wrong


def _announce(checkpoint: Path) -> None:
    total = _state(checkpoint).get("max_steps")
    _say(f"continuing from {checkpoint.name}" + (f" of {total}" if total else ""))
    absent = _absent(checkpoint, PROGRESS)
    if absent:
        _say(f"{checkpoint.name} has no {', no '.join(absent)}: these start anew")


def checkpoint_to_resume(args: TrainingArguments, needed: Iterable[str] = ()) -> str | None:
    """The checkpoint to continue from, or None to start at step 0; says which, and what it skipped.

    `--resume_from_checkpoint PATH` where given, else the newest whole one of `--output_dir`.

    Args:
        needed: as for `what_is_wrong`.

    Raises:
        UserError: the path given holds no whole checkpoint.
    """
    asked = args.resume_from_checkpoint
    # the flag is TRL's: a path, or the words true and false
    if isinstance(asked, str) and asked.lower() not in ("true", "false"):
        wrong = what_is_wrong(Path(asked), needed)
        if wrong:
            raise UserError(f"--resume_from_checkpoint {asked}: no whole checkpoint there: {wrong}")
        _announce(Path(asked))
        return asked
    if isinstance(asked, str) and asked.lower() == "false":
        return None
    found = _checkpoints(args.output_dir)
    for checkpoint in reversed(found.values()):
        wrong = _why_not(checkpoint, args, needed)
        if wrong is None:
            _announce(checkpoint)
            return str(checkpoint)
        _say(f"skipping {checkpoint.name}: {wrong}")
    if found:
        _say(f"{args.output_dir} has no whole checkpoint: starting at step 0")
    return None


################
# Deletion
################


def discard(checkpoint: Path) -> None:
    """Deletes a checkpoint; a kill at any point leaves it as it was or out of sight."""
    if not checkpoint.is_dir():
        return
    # file by file under its own name, it would look whole for a while
    gone = checkpoint.with_name(f".{checkpoint.name}.delete")
    shutil.rmtree(gone, ignore_errors=True)
    checkpoint.rename(gone)
    shutil.rmtree(gone)


def finish_deletions(output_dir: str | Path) -> None:
    """Deletes what a killed `discard` left."""
    for gone in Path(output_dir).glob(f".{CHECKPOINT}*.delete"):
        shutil.rmtree(gone)


def rotate(
    output_dir: str | Path, limit: int | None, newest: int, best: str | Path | None = None
) -> None:
    """Discards the oldest checkpoints until `limit` are left, as `--save_total_limit` asks.

    Args:
        limit: None or 0: all stay.
        newest: the step of the one just written, which stays.
        best: the best checkpoint, which stays.
    """
    # Above `newest` lies what an earlier attempt left: written over when this one comes there.
    found = {step: f for step, f in _checkpoints(output_dir).items() if step <= newest}
    kept = {step for step, folder in found.items() if step == newest or same(folder, best)}
    extra = len(found) - max(limit, len(kept)) if limit else 0
    # by step, where Trainer goes by modification time: a copied folder has another
    for step in [step for step in found if step not in kept][: max(extra, 0)]:
        discard(found[step])


def keep_only(output_dir: str | Path, best: str) -> None:
    """Discards every checkpoint but the best one."""
    for checkpoint in _checkpoints(output_dir).values():
        if not same(checkpoint, best):
            discard(checkpoint)


def same(folder: Path, other: str | Path | None) -> bool:
    """Whether two paths lead to one folder; None leads nowhere."""
    return other is not None and folder.resolve() == Path(other).resolve()
