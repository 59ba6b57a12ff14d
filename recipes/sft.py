"""Step 1: supervised fine-tuning on demonstrations (InstructGPT, 3.5), over TRL's `SFTTrainer`.

    accelerate launch recipes/sft.py --config recipes/configs/demo/sft.yaml

Takes demonstrations (`prompt`, `completion`: text or messages, or any shape of docs/formats.md;
file, folder or Hub id), trains on the completion and its end, and writes to `--output_dir` the LoRA
adapter and, in `merged/`, the merged model that the reward model and PPO start from (of a base that
is stored quantized the adapter alone, which is said). Run again it continues from its last
checkpoint.

The paper: cosine schedule, 16 epochs, residual dropout 0.2 (`--residual_dropout`, where the
architecture has it; today's have none: LoRA dropout stands in), and the checkpoint picked by
reward-model score on validation prompts (`--select_by_reward`); for PPO 2 epochs with a tenth of
pretraining rows (`--pretraining_dataset`). YAML of both: recipes/configs/paper/.
"""

import instruct.command.ctrl_c  # noqa: F401  # isort: skip  (first: imports take seconds)

from dataclasses import dataclass, field
from pathlib import Path

import trl
from datasets import Dataset
from transformers import set_seed

from data_prep.formats.flags import ShapeArguments, shape_of
from data_prep.formats.reader import read
from instruct.arguments import ModelConfig, check_given, lora_config, parse
from instruct.cards import use_our_card
from instruct.command.commands import command
from instruct.errors import UserError
from instruct.files import held_out_needed, held_out_place, load_rows
from instruct.models import load_causal_lm, load_limits, load_reward, save_merged, why_not_merged
from instruct.processes import end_with_parent, is_main_process
from instruct.run.run_record import record_of
from instruct.runs import already_finished, end_process_group, finish, train_or_resume
from instruct.selection import keep, mean_rewards, saved_checkpoints
from instruct.tokens import tokenizer_to_train
from instruct.trainers.demonstrations import tokenize
from instruct.trainers.pretraining import mix_in
from instruct.trainers.sft import ResumableSFTTrainer as SFTTrainer
from instruct.trainers.sft import SFTConfig
from instruct.turns import agree_on_end


@dataclass
class ScriptArguments(ShapeArguments, trl.ScriptArguments):
    """TRL's data flags and the paper's choice of checkpoint."""

    dataset_test_split: str = field(
        default="validation",
        metadata={"help": "What to evaluate on: a split of --dataset_name, or a file or folder."},
    )
    pretraining_dataset: str | None = field(
        default=None,
        metadata={"help": "Rows with `text`, trained whole among the demonstrations (C.3)."},
    )
    pretraining_share: float = field(
        default=0.1,
        metadata={"help": "Share of the training rows that is pretraining text (paper: 0.1)."},
    )
    select_by_reward: str | None = field(
        default=None,
        metadata={
            "help": "Reward model (folder or Hub id). Instead of training, pick among the saved "
            "checkpoints the one whose answers to the validation prompts score highest, as the "
            "paper did, and write its adapter and merged model."
        },
    )
    select_prompts: int = field(
        default=64, metadata={"help": "Validation prompts to answer for --select_by_reward."}
    )
    select_max_new_tokens: int = field(
        default=64, metadata={"help": "Longest answer for --select_by_reward."}
    )


def prompts_to_answer(script_args: ScriptArguments) -> tuple[Dataset, str]:
    """The first `--select_prompts` validation prompts, and where they are from."""
    where, split = script_args.dataset_name, script_args.dataset_test_split
    if Path(where).is_file() and held_out_place(where, split) is None:
        # nothing is trained here: one file can only mean the prompts to answer
        print(f"{where}: its prompts are answered; they should not be those of the training")
    else:
        where, split = held_out_needed(where, split)
    # a shape that was named is one of demonstrations
    kind = "demonstrations" if script_args.format else "prompts"
    rows = read(where, kind, split, name=script_args.dataset_config, **shape_of(script_args))
    return rows.select(range(min(len(rows), script_args.select_prompts))), where


def select_by_reward(script_args: ScriptArguments, training_args: SFTConfig) -> None:
    """Keeps the saved checkpoint whose answers the reward model likes best, as the paper did."""
    checkpoints = saved_checkpoints(training_args.output_dir)
    rows, where = prompts_to_answer(script_args)
    name, longest = script_args.select_by_reward, script_args.select_max_new_tokens
    reward = load_reward(name, trust_remote_code=training_args.trust_remote_code)
    means = mean_rewards(checkpoints, reward, rows, where, longest, training_args)
    keep(means, name, training_args)


def data_of(script_args: ScriptArguments, training_args: SFTConfig) -> dict:
    """{flag: (source, split)} of what a training run reads."""
    source, held_out = script_args.dataset_name, (None, script_args.dataset_test_split)
    texts = script_args.pretraining_dataset
    if training_args.eval_strategy != "no":
        held_out = held_out_needed(source, script_args.dataset_test_split)
    return {
        "dataset_name": (source, script_args.dataset_train_split),
        "dataset_test_split": held_out,
        # left out where there is none: records of earlier versions have no such data
        **({"pretraining_dataset": (texts, "train")} if texts else {}),
    }


def main(script_args: ScriptArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    # before `already_finished`: it comes after training, in the same folder
    if script_args.select_by_reward:
        if not script_args.dataset_name:
            raise UserError("--dataset_name is missing: the prompts that the checkpoints answer")
        return select_by_reward(script_args, training_args)
    check_given(script_args, model_args, "demonstrations")
    parsed = (script_args, training_args, model_args)
    record = record_of("sft", parsed, data_of(script_args, training_args))
    if already_finished(training_args, record):
        return
    unmerged = None
    if model_args.use_peft:
        unmerged = why_not_merged(model_args, training_args.trust_remote_code)
    if unmerged and is_main_process():
        print(f"only the adapter will be written, without merged/: {unmerged}")

    ################
    # Data
    ################
    tokenizer = tokenizer_to_train(model_args, training_args)
    limits = load_limits(model_args, tokenizer, training_args.trust_remote_code)

    def load_demonstrations(source: str, split: str):
        name, shape = script_args.dataset_config, shape_of(script_args)
        rows = read(source, "demonstrations", split, name=name, **shape)
        longest, workers = training_args.max_length, training_args.dataset_num_proc
        return tokenize(rows, tokenizer, longest, f"{source} {split}", limits, workers)

    source = script_args.dataset_name
    train_dataset = load_demonstrations(source, script_args.dataset_train_split)
    # no split is asked for where nothing evaluates on it
    eval_dataset = None
    if training_args.eval_strategy != "no":
        held_out = held_out_needed(source, script_args.dataset_test_split)
        eval_dataset = load_demonstrations(*held_out)
    if script_args.pretraining_dataset:
        mixed = mix_in(
            train_dataset,
            load_rows(script_args.pretraining_dataset, columns=["text"])["text"][:],
            script_args.pretraining_share,
            tokenizer,
            training_args.seed,
            longest=training_args.max_length,
            limits=limits,
            where=f"--pretraining_dataset {script_args.pretraining_dataset}",
        )
        train_dataset = mixed.rows
        record["rows"] = {"demonstrations": mixed.demonstrations, "pretraining": mixed.pretraining}
        if is_main_process():
            print(mixed)
    if training_args.padding_free and not training_args.packing:
        training_args.max_length = None  # TRL wants no row cut; longer ones are left out by now

    ################
    # Train
    ################
    model_args.lora_task_type = "CAUSAL_LM"
    # LoRA's first weights are random, and drawn before Trainer sets its seed
    set_seed(training_args.seed)
    model = load_causal_lm(
        model_args, training_args.trust_remote_code, training_args.residual_dropout
    )
    agree_on_end(model, tokenizer)
    trainer = SFTTrainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        peft_config=lora_config(model_args, model),
    )
    sources = [script_args.dataset_name, script_args.pretraining_dataset]
    use_our_card(trainer, "sft", model_args.model_name_or_path, sources, unmerged is None)
    train_or_resume(trainer, record)

    ################
    # Save
    ################
    def save_extras(output_dir: Path) -> None:
        if unmerged:
            print(f"{output_dir} holds the adapter alone, nothing for the next steps: {unmerged}")
        else:
            save_merged(str(output_dir), str(output_dir), training_args.trust_remote_code)

    finish(trainer, save_extras)


@command
def cli(argv: list[str] | None = None) -> None:
    end_with_parent()
    main(*parse((ScriptArguments, SFTConfig, ModelConfig), argv))


if __name__ == "__main__":
    cli()
    end_process_group()
