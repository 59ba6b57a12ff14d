"""`run.json`: what a run is, written into its output folder before anything else.

Resume, caches, report and cards ask it: which base model and data (by content, not by name), with
which flags, on how many processes, by which versions. A folder holds one run: the same command
continues it, another one is refused in one sentence that names the difference.
"""

import dataclasses
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable
from enum import Enum
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

from instruct.checks.flag_ranges import shown
from instruct.errors import UserError
from instruct.files import write_json
from instruct.run.fingerprints import data_identity, is_same, model_identity, template_identity

RECORD = "run.json"
VERSIONS_OF = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
# Flags that do not change the result, and those that stand in the record by what they name.
UNRECORDED = (
    # logging and tracking
    "logging_*", "log_level*", "log_on_each_node", "report_to", "run_name", "project", "trackio_*",
    "disable_tqdm", "include_num_input_tokens_seen", "skip_memory_metrics", "debug", "sample_every",
    "sample_rows",
    # saving and pushing
    "output_dir", "overwrite_output_dir", "save_*", "enable_jit_checkpoint", "push_to_hub", "hub_*",
    # workers and hardware
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
    "dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataset_num_proc",
    "use_cpu", "local_rank", "ddp_timeout",
    # how to go on, and what stops a run
    "resume_from_checkpoint", "restore_callback_states_from_checkpoint", "do_*", "watchdog*",
    "max_kl", "min_kl", "min_entropy", "min_distinct2_ratio", "min_length",
    "min_eos_rate", "max_clipfrac", "min_explained_variance",
    # asked of a finished run
    "select_*", "score", "score_output",
    # by what they name
    "model_name_or_path", "model_revision", "base_model", "reward_model_path", "dataset_name",
    "demonstrations", "eval_dataset", "ptx_dataset", "pretraining_dataset", "chat_template_path",
)  # fmt: skip
# What the recipes and Trainer write into an output folder; also in its sub-folders below.
WRITES_FILES = (
    "README.md", "run.json", "finished.json", "pushed.json", "metrics.json", "reward_head.json",
    "held_out_scores.jsonl", "selected_by_reward.json", "samples.jsonl", "trainer_state.json",
    "training_args.bin", "all_results.json", "train_results.json", "eval_results.json",
    "ppo_state.json", "adapter_config.json", "adapter_model*.safetensors",
    "value_head.safetensors", "model*.safetensors", "model.safetensors.index.json",
    "ema.safetensors", "config.json", "generation_config.json", "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "vocab.json", "vocab.txt", "merges.txt", "optimizer.pt",
    "optimizer.bin", "scheduler.pt", "rng_state*.pth", "scaler.pt", "latest", "zero_to_fp32.py",
    "pytorch_model*", "files.json", "carried.json",
    ".written",
)  # fmt: skip
WRITES_FOLDERS = ("checkpoint-*", "merged", "value")
# Among the data, where records of earlier versions have a flag that cannot be compared.
MOVED = ("chat_template_path",)
# Written by sharded training inside a checkpoint, whole.
SHARDS = ("global_step*", "pytorch_model_fsdp_*", "optimizer_*")

################
# One answer for all processes
################


def on_main(function: Callable):
    """What `function` returns on the main process, on every process.

    Raises:
        Exception: what was raised on the main process; on the others a `UserError` that says it.
    """
    # imported here: commands that read rows need no torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    answer, raised = {"value": None, "error": None}, None
    if PartialState().is_main_process:
        try:
            answer["value"] = function()
        # all: a process that raises alone leaves the others waiting
        except Exception as error:
            raised = error
            answer["error"] = str(error) or type(error).__name__
    # the list is what the others' answer is put into
    shared = [answer]
    broadcast_object_list(shared)
    (answer,) = shared
    if raised is not None:
        raise raised
    if answer["error"] is not None:
        raise UserError(answer["error"])
    return answer["value"]


def together(function: Callable):
    """What `function` returns on this process, once it has returned on every process.

    Raises:
        Exception: what was raised here; where it was raised elsewhere, a `UserError` that says it:
            without it the others would wait in their next collective.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object

    if PartialState().num_processes == 1:
        return function()
    value, raised = None, None
    try:
        value = function()
    except Exception as error:
        raised = error
    said = gather_object([None if raised is None else str(raised) or type(raised).__name__])
    if raised is not None:
        raise raised
    if any(said):
        raise UserError(next(filter(None, said)))
    return value


################
# What a run is
################


def _plain(value):
    """A flag's value as JSON has it."""
    if isinstance(value, Enum):
        return value.value
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return str(value)


def recorded_flags(*parsed) -> dict:
    """{flag: value in effect} of parsed dataclasses, less `UNRECORDED`.

    Whether a value was typed, came by YAML or is the default makes no difference. What the hardware
    decides where nothing is asked (`RunDefaults.asked`) stands in as it was asked.
    """
    flags = {
        field.name: getattr(arguments, "asked", {}).get(field.name, getattr(arguments, field.name))
        for arguments in parsed
        for field in dataclasses.fields(arguments)
        if not field.name.startswith("_")
        and not any(fnmatch(field.name, pattern) for pattern in UNRECORDED)
    }
    return json.loads(json.dumps(flags, default=_plain))


def versions(of: Iterable[str] = VERSIONS_OF) -> dict[str, str]:
    return {"python": platform.python_version(), **{n: metadata.version(n) for n in of}}


def _hardware(training_args) -> str:
    """What computes, and in which precision."""
    import torch

    device = training_args.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    precision = next((kind for kind in ("bf16", "fp16") if getattr(training_args, kind)), "fp32")
    return f"{name} in {precision}"


def _with_path(identity: dict | None, output_dir: Path) -> dict | None:
    """A local folder's identity with its path, seen from the output folder where they are near."""
    if identity is None or "sha256" not in identity:
        return identity
    here, there = output_dir.resolve(), Path(identity["name"]).resolve()
    # one tree: the folder around the output, or where the command was started
    for root in (here.parent, Path.cwd()):
        if here.is_relative_to(root) and there.is_relative_to(root):
            # one that is moved as a whole is still right
            return {**identity, "path": os.path.relpath(there, here)}
    return {**identity, "path": str(there)}


def record_of(
    step: str,
    parsed: tuple,
    data: dict[str, tuple[str | None, str | None]],
    adapters: dict[str, str | None] | None = None,
) -> dict:
    """The record of a training run, as its command asks for it. The same on every process.

    Args:
        step: sft, reward or ppo.
        parsed: the recipe's arguments, as parsed: script, training, model.
        data: {flag: (source, split)} of what is read; a source of None is recorded as such.
        adapters: {flag: folder or Hub id} of further models.
    """
    from accelerate import PartialState

    from instruct.run_defaults import RunDefaults

    _, training_args, model_args = parsed
    output_dir = Path(training_args.output_dir)
    template = getattr(training_args, "chat_template_path", None)  # PPO has none

    def look() -> dict:
        base = model_identity(model_args.model_name_or_path, model_args.model_revision)
        if base is not None:
            base["revision"] = model_args.model_revision
        models = {flag: model_identity(name) for flag, name in (adapters or {}).items()}
        flags = recorded_flags(*parsed)
        # of a config made in Python the rate is settled with the trainer, which comes later
        if isinstance(training_args, RunDefaults):
            flags["learning_rate"] = training_args.rate_for(lora=model_args.use_peft)
        # a split by its name is a flag; a file or folder is among the data, by its content
        if Path(str(flags.get("dataset_test_split"))).exists():
            del flags["dataset_test_split"]
        return {
            "step": step,
            "base": _with_path(base, output_dir),
            "adapters": {flag: _with_path(model, output_dir) for flag, model in models.items()},
            "data": {
                **{flag: data_identity(*place) for flag, place in data.items()},
                "chat_template_path": template_identity(template),
            },
            "labelers": None,  # known once the data are read
            "seed": training_args.seed,
            "world_size": PartialState().num_processes,
            "hardware": _hardware(training_args),
            "flags": flags,
            "versions": versions(),
            "writes": [*WRITES_FILES, *(f"{folder}/" for folder in WRITES_FOLDERS)],
        }

    return on_main(look)


def labelers_of(*datasets) -> list[str] | None:
    """Who ranked, by the rankings' `labeler` column; None where it is not recorded."""
    columns = [rows["labeler"] for rows in datasets if rows and "labeler" in rows.column_names]
    return sorted({str(name) for column in columns for name in column if name}) or None


################
# Comparing two
################


def _identity_change(flag: str, was: dict | None, now: dict | None) -> str:
    was, now = was or {"name": None}, now or {"name": None}
    if was["name"] != now["name"]:
        return f"--{flag} was {was['name']}, is {now['name']}"
    if was.get("commit") and now.get("commit"):
        return f"--{flag} {now['name']} was at commit {was['commit']}, is at {now['commit']}"
    return f"--{flag} {now['name']} holds other files than it did"


def _flags(record: dict) -> dict:
    """The flags that are compared by value."""
    flags = {**record["flags"], "num_processes": record.get("world_size")}
    if specs := flags.get("reward_funcs"):
        models = record.get("adapters") or {}
        kinds = [spec.partition(":")[0] for spec in specs]
        # a judge's model is compared by its content, above: it may have moved
        flags["reward_funcs"] = [
            kind if models.get(f"reward_funcs {kind}") else spec
            for kind, spec in zip(kinds, specs, strict=True)
        ]
    return flags


def differences(found: dict, now: dict) -> list[str]:
    """What tells two records apart, each as "--flag was X, is Y"; versions do not count.

    Both are of one step, see `check_step`.
    """
    changes = []
    groups = [
        ({"model_name_or_path": found.get("base")}, {"model_name_or_path": now.get("base")}),
        *((found.get(group, {}), now.get(group, {})) for group in ("models", "adapters", "data")),
    ]
    for old, new in groups:
        changes += [
            _identity_change(flag, old.get(flag), new.get(flag))
            for flag in {**old, **new}
            if not is_same(old.get(flag), new.get(flag)) and (flag in old or flag not in MOVED)
        ]
    old, new = _flags(found), _flags(now)
    # an earlier version recorded what the hardware had decided
    if "hardware" not in found:
        old = {flag: value for flag, value in old.items() if flag not in ("bf16", "fp16")}
    # a flag that only one version of the libraries has is a difference of versions
    changes += [
        f"--{flag} was {shown(old[flag])}, is {shown(new[flag])}"
        for flag in old
        if flag in new and old[flag] != new[flag]
    ]
    return changes


def other_versions(found: dict, now: dict) -> list[str]:
    """The libraries that have changed since, each as "name was X, is Y"."""
    old, new = found["versions"], now["versions"]
    return [
        f"{name} was {old.get(name)}, is {new[name]}" for name in new if old.get(name) != new[name]
    ]


################
# The file
################


def read_record(output_dir: str | Path) -> dict | None:
    """The record of a folder; None where it has none.

    Raises:
        UserError: it is there and cannot be read, or is something else.
    """
    file = Path(output_dir) / RECORD
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not a record")
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read ({error}), so nobody can say what run this folder holds; "
            "give another --output_dir, or delete that file if you know"
        ) from error


def check_step(folder: str | Path, found: dict, step: str, needed: Iterable[str] = ()) -> None:
    """Refuses the record of another command, and one that lacks what is compared.

    Args:
        folder: where it lies, for the message.
        needed: names that it must hold.

    Raises:
        UserError: one of the two.
    """
    if found.get("step") != step:
        raise UserError(
            f"{folder} is what {found.get('step') or 'something else'} wrote by its {RECORD}, "
            f"and nothing of {step}; give another folder"
        )
    of_names = ("data", "flags", "adapters", "versions")
    good = {name for name in found if name not in of_names or isinstance(found[name], dict)}
    if lacking := [name for name in needed if name not in good]:
        raise UserError(
            f"{Path(folder) / RECORD} lacks {', '.join(lacking)}, so nobody can say what run "
            "this folder holds; give another folder"
        )


def write_record(output_dir: str | Path, record: dict) -> None:
    """Writes `run.json`."""
    write_json(Path(output_dir) / RECORD, record)


def _is_one_of(name: str, patterns: Iterable[str]) -> bool:
    # Trainer's end in their step; `checkpoint-best`, `checkpoint-40-backup` are somebody's copies
    if name.startswith("checkpoint-") and not name.removeprefix("checkpoint-").isdigit():
        return False
    return any(fnmatch(name, pattern) for pattern in patterns)


def would_be_overwritten(output_dir: str | Path) -> list[str]:
    """What lies in a folder under the names a run writes."""
    folder = Path(output_dir)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(name for name in names if _is_one_of(name, WRITES_FILES + WRITES_FOLDERS))


def remove_written(output_dir: str | Path, record: dict) -> None:
    """Removes what a run wrote, by its record, which goes last; everything else stays."""
    folder = Path(output_dir)
    files = [name for name in record["writes"] if not name.endswith("/") and name != RECORD]
    folders = [name.rstrip("/") for name in record["writes"] if name.endswith("/")]
    # first: a run that is killed here must not look finished
    (folder / "finished.json").unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and _is_one_of(path.name, folders):
            _remove_files(path, files)
        elif not path.is_dir() and _is_one_of(path.name, files):
            path.unlink()
    (folder / RECORD).unlink()


def _remove_files(folder: Path, patterns: list[str]) -> None:
    """Removes files of these names, and the folder where nothing else is in it."""
    for path in folder.iterdir():
        if path.is_dir() and _is_one_of(path.name, SHARDS):
            shutil.rmtree(path)
        elif not path.is_dir() and _is_one_of(path.name, patterns):
            path.unlink()
        elif path.is_dir() and _is_one_of(path.name, ["value"]):
            _remove_files(path, patterns)
    if not any(folder.iterdir()):
        folder.rmdir()
