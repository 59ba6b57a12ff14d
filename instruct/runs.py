"""A run from start to end: whose folder is it, where does it resume, what is on disk before a push.

Every recipe run again with the same `--output_dir` continues from its last whole checkpoint.
A recipe asks `already_finished`, trains by `train_or_resume` and ends in `finish`.
"""

import atexit
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import transformers.trainer
from accelerate import PartialState
from huggingface_hub import HfApi
from transformers import Trainer, TrainingArguments

from instruct.errors import UserError
from instruct.files import write_json
from instruct.hub import ask_anew
from instruct.run.checkpoints import checkpoint_to_resume
from instruct.run.fingerprints import is_same, model_identity
from instruct.run.folders import MODEL_FILES, check_ours, claim
from instruct.run.run_record import (
    check_step,
    differences,
    on_main,
    other_versions,
    read_record,
    remove_written,
    would_be_overwritten,
    write_record,
)
from instruct.turns import end_token

FINISHED = "finished.json"
ADAPTER = "adapter_config.json"
PUSHED = "pushed.json"
# By one of these a folder is known as one of ours, where an older version wrote no run.json.
MARKS = (FINISHED, "trainer_state.json", "training_args.bin", ADAPTER)
LATER = ("hardware",)  # what earlier versions did not record
# Besides Trainer's own `_*` and checkpoints: notes of a run, rows with what people wrote (samples,
# scored rows), locks and files that a killed process left half-written.
NOT_PUSHED = (
    "run.json", PUSHED, "*.jsonl", "*.jsonl.gz", "*.parquet", "*.csv", "*.lock", "*.part", "*.old",
    ".*", "*/.*",
)  # fmt: skip

# what each step's result is for
NEXT = {
    "sft": "--model_name_or_path of data_prep.sample, recipes/reward.py and recipes/ppo.py",
    "reward": "--reward_model_path of recipes/ppo.py and --reward of recipes/evaluate.py",
    "ppo": "--models ppo=… of recipes/evaluate.py and recipes/chat.py",
}

################
# Start
################


def is_finished(output_dir: str | Path) -> bool:
    """Whether a recipe wrote everything it writes to this folder."""
    return (Path(output_dir) / FINISHED).is_file()


def already_finished(args: TrainingArguments, record: dict) -> bool:
    """Whether the run asked for is done. Pushes it where only that is left to do.

    With `--overwrite_output_dir` the earlier run is removed, and nothing is done.

    Raises:
        UserError: the folder holds another run than `record`, or what is no run; a push failed.
    """
    finished = on_main(lambda: _look_into(args, record))
    # asked of one process: it may note its push while the others still look
    if finished and args.push_to_hub and not on_main(lambda: _is_pushed(args)):
        push(args)
    return finished


def _look_into(args: TrainingArguments, record: dict) -> bool:
    folder = Path(args.output_dir)
    claim(folder)  # held until the command ends
    found = read_record(folder)
    if found is not None:
        check_step(folder, found, record["step"], [name for name in record if name not in LATER])
    base = record["base"]
    if base is not None and Path(base["name"]).is_dir() and folder.is_dir():
        if Path(base["name"]).samefile(folder):
            raise UserError(f"--output_dir {folder} is the base model; give a folder of its own")
    _check_checkpoint(args.resume_from_checkpoint, record)
    if found is None:
        _check_unrecorded(folder, args.overwrite_output_dir, record)
    elif args.overwrite_output_dir:
        remove_written(folder, found)
    else:
        _check_same(folder, found, record)
    if not is_finished(folder):
        # hours later, this would be refused when it is written
        check_ours(folder / "merged", MODEL_FILES)
        return False
    print(f"{folder} holds a finished run; --overwrite_output_dir True trains it again")
    return True


def _check_checkpoint(asked: str | None, record: dict) -> None:
    """A checkpoint of another folder by `--resume_from_checkpoint`: of the same step and base."""
    # the flag's other values are the words true and false
    found = read_record(Path(asked).parent) if asked and Path(asked).is_dir() else None
    if found is None:
        return
    check_step(Path(asked).parent, found, record["step"], ["base"])
    if not is_same(found["base"], record["base"]):
        was = (found["base"] or {}).get("name")
        raise UserError(
            f"--resume_from_checkpoint {asked} is of another base model, {was}; "
            "give that by --model_name_or_path, or another checkpoint"
        )
    # another run's weights on purpose: what else differs is said
    if changes := differences(found, record):
        print(f"{asked} is of another run: {'; '.join(changes)}")


def base_named_in(config: Path) -> dict | None:
    """The identity of the base that an adapter's configuration names; None where it is gone."""
    try:
        adapter = json.loads(config.read_text(encoding="utf-8"))
        base = model_identity(adapter["base_model_name_or_path"], adapter.get("revision"))
    # half-written by the kill that is being made up for
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return base if base and ("sha256" in base or base["commit"]) else None


def _check_unrecorded(folder: Path, overwrite: bool, record: dict) -> None:
    """A folder without `run.json`: empty, of an older version of this repo, or somebody's own."""
    there = would_be_overwritten(folder)
    if not there:
        return
    ours = [name for name in there if name in MARKS or name.startswith("checkpoint-")]
    if not ours:
        raise UserError(
            f"--output_dir {folder} holds {', '.join(there[:3])}, which no run of this repo wrote; "
            "give another folder"
        )
    if overwrite:
        raise UserError(
            f"{folder} has no run.json that says what its run wrote, so nothing is removed; "
            "delete it, or give another --output_dir"
        )
    # an adapter names its base: of another one its weights may even fit, and mean nothing
    for config in sorted([*folder.glob(ADAPTER), *folder.glob(f"checkpoint-*/{ADAPTER}")]):
        was = base_named_in(config)
        if was is not None and not is_same(was, record["base"]):
            raise UserError(
                f"{folder} holds a run on {was['name']} ({config.relative_to(folder)}); "
                "give that by --model_name_or_path, or another --output_dir"
            )
    print(f"{folder} has no run.json: nothing is recorded of its data and flags")


def _check_same(folder: Path, found: dict, record: dict) -> None:
    if changes := differences(found, record):
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise UserError(
            f"{folder} holds another run: {'; '.join(changes[:3])}{more}; to start over add "
            "--overwrite_output_dir True, or give another --output_dir"
        )
    if versions := other_versions(found, record):
        print(f"{folder} was begun with other versions: {'; '.join(versions)}")
    was, now = found.get("hardware"), record["hardware"]
    if was and was != now:
        print(f"{folder} was begun on {was}, and goes on on {now}: last digits may differ")


def check_end(checkpoint: str, end: str) -> None:
    """That a checkpoint's answers end in `end`: earlier versions took the eos of its tokenizer.

    Raises:
        UserError: they end in another token, and half a run would be trained on each.
    """
    file = Path(checkpoint) / "tokenizer_config.json"
    was = json.loads(file.read_text(encoding="utf-8")).get("eos_token") if file.is_file() else None
    # as saved by an earlier transformers
    was = was["content"] if isinstance(was, dict) else was
    if was not in (None, end):
        raise UserError(
            f"{checkpoint} was trained to end answers in {was}, and they end in {end} now; to "
            "start over add --overwrite_output_dir True, or give another --output_dir"
        )


def train_or_resume(trainer: Trainer, record: dict) -> None:
    """Writes `run.json`, then trains to the end, from the last whole checkpoint where one is.

    Raises:
        UserError: the checkpoint was trained to end answers in another token.
    """
    end = end_token(trainer.processing_class)
    record["end_of_turn"] = end

    def resume_from() -> str | None:
        checkpoint = checkpoint_to_resume(trainer.args, trainer.checkpoint_files)
        if checkpoint is not None:
            check_end(checkpoint, end)
        return checkpoint

    on_main(lambda: write_record(trainer.args.output_dir, record))
    pushes = trainer.args.push_to_hub  # with every checkpoint, unless --hub_strategy says else
    with private_files_kept() if pushes else contextlib.nullcontext():
        # one answer: it reads every file of a checkpoint, and all have to start at one step
        checkpoint = on_main(resume_from)
        trainer.train(resume_from_checkpoint=checkpoint)


################
# End
################


def mark_finished(output_dir: str | Path) -> None:
    """The last file of a run; run again, the recipe then has nothing to do."""
    write_json(Path(output_dir) / FINISHED, {"finished": True})


@contextlib.contextmanager
def _push_held_back(args: TrainingArguments) -> Iterator[None]:
    """`Trainer.save_model` pushes by itself where `--push_to_hub` is on; in this block it is off.

    Its `_internal_call=True` would do the same, but also says "this is a checkpoint" to ours.
    """
    asked, args.push_to_hub = args.push_to_hub, False
    try:
        yield
    finally:
        args.push_to_hub = asked


def finish(trainer: Trainer, save_extras: Callable[[Path], None] | None = None) -> None:
    """Writes everything a run leaves behind, then pushes it where `--push_to_hub` is on.

    The push comes last: a Hub that cannot be reached costs nothing that was trained, and the same
    command then only pushes.

    Args:
        save_extras: called with the output folder, on one process, for what only this recipe
            writes (a merged model, a reward head, metrics). What the processes compute together
            is computed before: here the others would not take part.
    """
    output_dir = Path(trainer.args.output_dir)
    with _push_held_back(trainer.args):
        # all processes: sharded weights are gathered here
        trainer.save_model()
    trainer.save_state()

    def save_the_rest() -> None:
        if save_extras is not None:
            save_extras(output_dir)
        trainer.create_model_card()  # after the extras: it shows their numbers
        mark_finished(output_dir)
        _say_what_for(output_dir)

    # on_main: what fails here must not leave the other processes waiting
    on_main(save_the_rest)
    if trainer.args.push_to_hub:
        push(trainer.args, trainer)


def _say_what_for(folder: Path) -> None:
    step = (read_record(folder) or {}).get("step")
    merged = folder / "merged"
    # an SFT of a base that is stored quantized has said that nothing follows
    if step in NEXT and (step != "sft" or merged.is_dir()):
        print(f"done: {merged if step == 'sft' else folder} is for {NEXT[step]}")


################
# Push
################


def _nothing(*args, **kwargs) -> None:
    """In the place of what Trainer writes before it pushes."""


class _PublicHub:
    """A client of the Hub that uploads no file of `NOT_PUSHED`."""

    def __init__(self, client):
        self.client = client

    def __getattr__(self, name: str):
        return getattr(self.client, name)

    def upload_folder(self, *args, ignore_patterns=None, **kwargs):
        patterns = [*(ignore_patterns or []), *NOT_PUSHED]
        return self.client.upload_folder(*args, ignore_patterns=patterns, **kwargs)


@contextlib.contextmanager
def private_files_kept() -> Iterator[None]:
    """In this block, none of Trainer's uploads (at a save, at the end) takes a private file along.

    Its list of what stays is written into two of its methods; both ask this function for a client.
    """
    client_of = transformers.trainer.hf_api
    transformers.trainer.hf_api = lambda: _PublicHub(client_of())
    try:
        yield
    finally:
        transformers.trainer.hf_api = client_of


def _upload(args: TrainingArguments) -> None:
    """Uploads the output folder as `Trainer.push_to_hub` does, which needs model and data."""
    hub = HfApi(token=args.hub_token)
    name = args.hub_model_id or Path(args.output_dir).absolute().name
    repo = hub.create_repo(name, private=args.hub_private_repo, exist_ok=True)
    _PublicHub(hub).upload_folder(
        repo_id=repo.repo_id,
        folder_path=args.output_dir,
        commit_message="End of training",
        ignore_patterns=["_*", "checkpoint-*"],  # Trainer's own
        revision=args.hub_revision,
    )


def _is_pushed(args: TrainingArguments) -> bool:
    try:
        found = json.loads((Path(args.output_dir) / PUSHED).read_text())
    except (OSError, ValueError):
        return False  # none, or a damaged one: pushed once more
    return found == {"hub_model_id": args.hub_model_id}


def not_pushed_yet(output_dir: str | Path) -> None:
    """After a change to a finished run: the next command with `--push_to_hub` pushes it again."""
    (Path(output_dir) / PUSHED).unlink(missing_ok=True)


def push(args: TrainingArguments, trainer: Trainer | None = None) -> None:
    """Pushes the output folder of a finished run as it is, and notes that it was.

    Args:
        trainer: the one that trained it, where this process has it.

    Raises:
        UserError: the Hub did not take it; the run stays finished.
    """

    def upload() -> None:
        ask_anew()
        try:
            if trainer is None:
                _upload(args)
            else:
                if trainer.hub_model_id is None:  # the Hub was away at the start
                    Trainer.init_hf_repo(trainer)
                # it would save again before it uploads: what is on disk is what was meant
                trainer.save_model = trainer.create_model_card = _nothing
                with private_files_kept():
                    trainer.push_to_hub()
        # the Hub client raises many unrelated types; all mean "not pushed"
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{args.output_dir} is finished and complete, but could not be pushed to the Hub "
                f"({reason}); the same command pushes it, without training again"
            ) from error
        write_json(Path(args.output_dir) / PUSHED, {"hub_model_id": args.hub_model_id})

    on_main(upload)


def end_process_group() -> None:
    """The end of a launched command: one of several processes ends here, once every rank is there.

    A rank that exits alone tears down gloo's or NCCL's threads mid-work and can die (SIGABRT). Some
    outlive the group, and die so when Python unloads their library: a run that has finished would
    be told as failed. So it is not unloaded; what was to run at exit (trackers end there) has run.
    """
    state = PartialState()
    several = state.num_processes > 1
    state.wait_for_everyone()
    state.destroy_process_group()
    if several:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
