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

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
import trl
from transformers import set_seed

from data_prep.formats.flags import ShapeArguments, shape_of
from data_prep.formats.reader import read
from instruct.arguments import HardwareDefaults, ModelConfig, check_given, lora_config, parse
from instruct.cards import use_our_card
from instruct.checks.model_limits import Limits, check_prompts
from instruct.command.commands import command
from instruct.errors import UserError
from instruct.files import atomic_file, held_out_needed, held_out_place, load_rows, write_json
from instruct.generation import generate_ids
from instruct.models import (
    load_causal_lm,
    load_limits,
    load_policy,
    load_reward,
    save_merged,
    why_not_merged,
)
from instruct.plain_text import plain
from instruct.processes import end_with_parent, is_main_process
from instruct.reward_checks import check_base
from instruct.reward_files import adapter_config, reward_head
from instruct.run.checkpoints import whole_checkpoints
from instruct.run.folders import claim
from instruct.run.run_record import check_step, read_record, record_of
from instruct.runs import (
    already_finished,
    end_process_group,
    finish,
    is_finished,
    not_pushed_yet,
    push,
    train_or_resume,
)
from instruct.tokens import (
    decode_completion,
    encode_answers_of,
    encode_prompts,
    load_tokenizer,
    template_columns,
)
from instruct.trainers.pretraining import mix_in
from instruct.trainers.sft import ResumableSFTTrainer as SFTTrainer
from instruct.turns import agree_on_end

# What a checkpoint and the output folder both hold: a model, or the adapter of one.
WEIGHTS = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
)


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


@dataclass
class SFTConfig(HardwareDefaults, trl.SFTConfig):
    """TRL's SFT flags; the loss is on the completion, and only its tokens reach the LM head."""

    completion_only_loss: bool | None = field(
        default=True, metadata={"help": "Loss on the completion only."}
    )
    residual_dropout: float | None = field(
        default=None,
        metadata={
            "help": "Dropout between the layers (paper: 0.2), of models that have it (GPT-2, "
            "GPT-NeoX, OPT, Phi, ...); with others give --lora_dropout."
        },
    )
    eval_on_start: bool = field(
        default=True, metadata={"help": "Evaluate once before training, if at all."}
    )

    def __post_init__(self):
        if self.completion_only_loss is None:
            # TRL would look for the columns, which are tokens by then
            self.completion_only_loss = True
        super().__post_init__()
        self.eval_on_start = self.eval_on_start and self.eval_strategy != "no"


def tokenize(
    rows,
    tokenizer,
    max_length: int | None,
    name: str,
    limits: Limits | None = None,
    num_proc: int | None = None,
):
    """Demonstrations -> what SFTTrainer takes as tokenised: `input_ids` and `completion_mask`.

    By the token contract (`instruct/tokens.py`): as TRL does it, up to the end of the answer.
    Rows longer than `max_length` are left out and counted; a cut one would teach not to end.
    """

    def encode(row, index):
        where = f"{name}, row {index + 1}"
        prompt, (completion,) = encode_answers_of(tokenizer, row, [row["completion"]], where)
        row_is_kept = max_length is None or len(prompt + completion) <= max_length
        if limits is not None and row_is_kept:
            shorter = f"--max_length {limits.positions} leaves such rows out"
            limits.check(prompt + completion, where, shorter=shorter)
        return {
            "input_ids": prompt + completion,
            "completion_mask": [0] * len(prompt) + [1] * len(completion),
        }

    # TRL trains on tokenised rows as they are
    encoded = rows.map(
        encode,
        with_indices=True,
        num_proc=num_proc,
        remove_columns=rows.column_names,
        desc=f"tokenizing {plain(name)}",
    )
    short = encoded.filter(lambda row: max_length is None or len(row["input_ids"]) <= max_length)
    if len(short) < len(encoded):
        too_long = len(encoded) - len(short)
        print(f"{name}: {too_long} rows longer than --max_length {max_length} tokens left out")
    if not len(short):
        raise UserError(f"{name}: every row is longer than --max_length {max_length} tokens")
    return short


def mean_rewards(
    checkpoints: list[Path], script_args: ScriptArguments, training_args: SFTConfig
) -> dict[str, float]:
    """{checkpoint: mean reward of its answers to the first `--select_prompts` prompts}."""
    where, split = script_args.dataset_name, script_args.dataset_test_split
    if Path(where).is_file() and held_out_place(where, split) is None:
        # nothing is trained here: one file can only mean the prompts to answer
        print(f"{where}: its prompts are answered; they should not be those of the training")
    else:
        where, split = held_out_needed(where, split)
    name, shape = script_args.dataset_config, shape_of(script_args)
    # a shape that was named is one of demonstrations
    kind = "demonstrations" if script_args.format else "prompts"
    rows = read(where, kind, split, name=name, **shape)
    rows = rows.select(range(min(len(rows), script_args.select_prompts)))
    prompts, columns = rows["prompt"][:], template_columns(rows)
    # scored by the model that PPO will learn from
    reward = load_reward(
        script_args.select_by_reward, trust_remote_code=training_args.trust_remote_code
    )
    means = {}
    for checkpoint in checkpoints:
        model, tokenizer = load_policy(
            str(checkpoint), trust_remote_code=training_args.trust_remote_code
        )
        torch.manual_seed(training_args.seed)  # the same luck for every checkpoint
        ids = encode_prompts(tokenizer, prompts, columns, where)
        names = [f"{where}, row {number}" for number in range(1, len(ids) + 1)]
        new = script_args.select_max_new_tokens
        check_prompts(model.config, zip(names, ids, strict=True), new)
        # sampled, not greedy: PPO starts from the distribution, not its mode
        answers = generate_ids(model, tokenizer, ids, new)
        texts = [decode_completion(tokenizer, *pair) for pair in zip(answers, ids, strict=True)]
        scores = reward.score(prompts, texts, **columns)
        means[checkpoint.name] = sum(scores) / len(scores)
        print(
            f"{checkpoint.name}: mean reward {means[checkpoint.name]:.4f} "
            f"on {len(prompts)} validation prompts"
        )
    return means


def tell_if_base_is_gone(reward: str) -> None:
    """Says that a reward model trained on what `merged/` held before fits no more."""
    config = adapter_config(reward)
    try:
        if config is not None:
            check_base(reward, reward_head(reward), config.base_model_name_or_path)
    except UserError as error:
        print(error)


def select_by_reward(script_args: ScriptArguments, training_args: SFTConfig) -> None:
    """Keeps the saved checkpoint whose answers the reward model likes best, as the paper did."""
    output_dir = Path(training_args.output_dir)
    claim(output_dir)
    found = read_record(output_dir)
    if found is not None:
        check_step(output_dir, found, "sft")
    # a run killed while saving leaves half a one
    checkpoints = whole_checkpoints(output_dir)
    if not checkpoints:
        raise UserError(
            f"{output_dir}: no whole checkpoint to select from; train with --save_strategy epoch"
        )
    means = mean_rewards(checkpoints, script_args, training_args)
    best = max(means, key=means.get)
    # copied: the checkpoints stay, to select again by another reward model
    for pattern in WEIGHTS:
        for chosen in sorted((output_dir / best).glob(pattern)):
            # whole or not at all: the folder holds a model at every moment
            with atomic_file(output_dir / chosen.name) as beside:
                shutil.copyfile(chosen, beside)
    save_merged(str(output_dir / best), training_args.output_dir, training_args.trust_remote_code)
    tell_if_base_is_gone(script_args.select_by_reward)
    write_json(output_dir / "selected_by_reward.json", {"checkpoint": best, "mean_reward": means})
    not_pushed_yet(output_dir)
    if training_args.push_to_hub and is_finished(output_dir):
        push(training_args)


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
    tokenizer = load_tokenizer(
        model_args.model_name_or_path,
        model_args.model_revision,
        training_args.trust_remote_code,
        training_args.chat_template_path,
        training_args.eos_token,
    )
    # settled here, for every later step
    training_args.chat_template_path = training_args.eos_token = None
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
        counts = {"demonstrations": mixed.demonstrations, "pretraining": mixed.pretraining}
        record["rows"] = counts
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
    merged = unmerged is None
    use_our_card(trainer, "sft", model_args.model_name_or_path, sources, merged)
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
