"""The held-out prompts of a training run, by its flags."""

from pathlib import Path

import trl
from datasets import Dataset

from data_prep.formats.flags import shape_of
from data_prep.formats.reader import read
from instruct.files import held_out_needed, held_out_place


def held_out_in(script_args: trl.ScriptArguments) -> tuple[str, str]:
    """(source, split) of the held-out prompts.

    `--eval_dataset`, else what `--dataset_test_split` names: a file, a split of `--dataset_name`,
    or of the folder around it where that is a single file.
    """
    source, split = script_args.eval_dataset, script_args.dataset_test_split
    if source is None:
        source = script_args.dataset_name
        if place := held_out_place(source, split):
            return place
        if Path(source).is_file():
            source = str(Path(source).parent)
    return (source, split) if Path(source).is_file() else held_out_needed(source, split)


def held_out_prompts(script_args: trl.ScriptArguments) -> Dataset:
    """The first `--eval_prompts` held-out rows."""
    (source, split), shape = held_out_in(script_args), shape_of(script_args)
    name = script_args.dataset_config
    rows = read(source, "prompts", split, name=name, keep_text=True, **shape)
    # the same at every evaluation: curves show the policy, not the draw
    return rows.select(range(min(len(rows), script_args.eval_prompts)))
