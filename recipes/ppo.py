"""Step 3: PPO against the reward model (InstructGPT, section 3.5).

    accelerate launch recipes/ppo.py --config recipes/configs/demo/ppo.yaml

Policy, reference, reward and value share one base model: `--model_name_or_path`, the merged SFT
model, which is the reference itself while adapters are off.

Takes prompts (`prompt`: text or messages; file, folder or Hub id) and a reward:
`--reward_model_path` (folder by recipes/reward.py), Python functions and judges (`--reward_funcs
module:function scripted:MODEL ...`), or both, weighted by `--reward_weights`. Writes to
`--output_dir` the policy's adapter, `value/`, the tokenizer, `trainer_state.json` (metrics of each
rollout) and `samples.jsonl`; with `--save_merged` also `merged/`. Run again it continues from its
last whole checkpoint.

PPO-ptx: `--ptx_dataset` (rows with `text`) and `--ptx_coef` (paper: 27.8) add a language-model loss
on pretraining text to every step, against the "alignment tax". Off by default.

`--stock` runs TRL's own `PPOTrainer` on the same data: LoRA policy, `--stock_value lora|full` as
value network, no resume. It needs TRL below 1.13.
"""

import instruct.command.ctrl_c  # noqa: F401  # isort: skip  (first: imports take seconds)

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trl

from data_prep.formats.flags import ShapeArguments, shape_of
from data_prep.formats.held_out_prompts import held_out_in, held_out_prompts
from data_prep.formats.reader import read
from instruct.arguments import ModelConfig, check_given, lora_config, parse
from instruct.cards import use_our_card
from instruct.command.commands import command
from instruct.errors import UserError
from instruct.evaluation.judges import judge_of
from instruct.files import load_rows
from instruct.models import check_stored_for_merging, load_causal_lm, load_limits, save_merged
from instruct.processes import end_with_parent
from instruct.reward_files import model_folder
from instruct.run.run_record import on_main, read_record, record_of, write_record
from instruct.runs import (
    already_finished,
    end_process_group,
    finish,
    not_pushed_yet,
    push,
    train_or_resume,
)
from instruct.tokens import load_tokenizer
from instruct.trainers.ppo.batches import with_prompt_ids
from instruct.trainers.ppo.config import SharedBasePPOConfig
from instruct.trainers.ppo.rewards import models_of_rewards, versions_of
from instruct.trainers.ppo.stock import train_stock
from instruct.trainers.ppo.trainer import SharedBasePPOTrainer
from instruct.trl_ppo import stock_ppo

SHORTER = "lower --response_length, or leave long prompts out by --max_prompt_length"


@dataclass
class ScriptArguments(ShapeArguments, trl.ScriptArguments):
    """TRL's data flags and where rewards and held-out prompts come from."""

    eval_dataset: str | None = field(
        default=None,
        metadata={"help": "Held-out prompts; default the validation split beside --dataset_name."},
    )
    dataset_test_split: str = field(
        default="validation",
        metadata={"help": "Split of the held-out prompts, or a file or folder of them."},
    )
    eval_prompts: int = field(
        default=64, metadata={"help": "Held-out prompts to answer at each evaluation."}
    )
    reward_funcs: list[str] | None = field(
        default=None,
        metadata={
            "help": "Reward functions as module:function, called as in TRL's GRPO, or judges: "
            "scripted, scripted:MODEL, reward:PATH, logprob:MODEL."
        },
    )
    ptx_dataset: str | None = field(default=None, metadata={"help": "PPO-ptx: rows with `text`."})
    save_merged: bool = field(
        default=False, metadata={"help": "Also write merged/: base and policy as one plain model."}
    )
    stock: bool = field(
        default=False, metadata={"help": "Run TRL's own PPOTrainer instead, for comparison."}
    )
    stock_value: str = field(
        default="lora",
        metadata={"help": "Value network of --stock: lora or full.", "choices": ["lora", "full"]},
    )


def data_of(script_args: ScriptArguments, training_args: SharedBasePPOConfig) -> dict:
    """{flag: (source, split)} of what a training run reads."""
    held_out = (None, script_args.dataset_test_split)
    if training_args.eval_strategy != "no":
        held_out = held_out_in(script_args)
    return {
        "dataset_name": (script_args.dataset_name, script_args.dataset_train_split),
        "eval_dataset": held_out,
        "ptx_dataset": (script_args.ptx_dataset, "train"),
    }


def merge(training_args: SharedBasePPOConfig) -> None:
    """Writes `merged/` from what lies in the output folder."""
    folder = training_args.output_dir
    save_merged(folder, folder, training_args.trust_remote_code)
    not_pushed_yet(folder)


def main(
    script_args: ScriptArguments, training_args: SharedBasePPOConfig, model_args: ModelConfig
) -> None:
    check_given(script_args, model_args, "prompts")
    if not (training_args.reward_model_path or script_args.reward_funcs or script_args.stock):
        raise UserError("nothing to learn from: give --reward_model_path or --reward_funcs")
    reward_model = model_folder(training_args.reward_model_path, "reward")
    parsed = (script_args, training_args, model_args)
    names = script_args.reward_funcs or ()
    # models by content: with another one it is another run
    models = {"reward_model_path": training_args.reward_model_path, **models_of_rewards(names)}
    record = record_of("ppo", parsed, data_of(script_args, training_args), models)
    # a wrong name is told before anything is loaded; corrected code goes on, and it is said
    reward_funcs = {name: judge_of(name, "--reward_funcs") for name in names}
    record["versions"] |= versions_of(reward_funcs)
    if already_finished(training_args, record):
        # asked for later: it needs no training
        if script_args.save_merged and not (Path(training_args.output_dir) / "merged").is_dir():
            on_main(lambda: merge(training_args))
            if training_args.push_to_hub:
                push(training_args)
        return
    if script_args.save_merged and model_args.use_peft:
        check_stored_for_merging(model_args, training_args.trust_remote_code)
    if script_args.stock:
        stock_ppo()  # says at once where this TRL has none

    ################
    # Data
    ################
    source, split = script_args.dataset_name, script_args.dataset_train_split
    name, shape = script_args.dataset_config, shape_of(script_args)
    rows = read(source, "prompts", split, name=name, keep_text=True, **shape)
    # before models are loaded: a wrong path is told in seconds
    eval_rows = held_out_prompts(script_args) if training_args.eval_strategy != "no" else None
    ptx = script_args.ptx_dataset
    ptx_rows = load_rows(ptx, columns=["text"]) if ptx else None

    ################
    # Models
    ################
    tokenizer = load_tokenizer(
        model_args.model_name_or_path, model_args.model_revision, training_args.trust_remote_code
    )
    if not script_args.stock:
        # here, where the files can be named
        longest, eval_source = training_args.max_prompt_length, source
        if eval_rows is not None:
            eval_source, _ = held_out_in(script_args)
        limits = load_limits(model_args, tokenizer, training_args.trust_remote_code)
        takes = partial(limits.check, new=training_args.response_length, shorter=SHORTER)
        rows = with_prompt_ids(rows, tokenizer, longest, source, takes)
        eval_rows = with_prompt_ids(eval_rows, tokenizer, longest, eval_source, takes)
    model_args.lora_task_type = "CAUSAL_LM"
    # with dropout, the probability ratio of PPO would not start at 1
    model_args.lora_dropout = 0.0
    model = load_causal_lm(model_args, training_args.trust_remote_code)
    if script_args.stock:
        on_main(lambda: write_record(training_args.output_dir, record))
        return train_stock(
            model, tokenizer, rows, training_args, model_args, script_args.stock_value
        )

    ################
    # Train
    ################
    trainer = SharedBasePPOTrainer(
        model=model,
        args=training_args,
        processing_class=tokenizer,
        train_dataset=rows,
        eval_dataset=eval_rows,
        reward_model=reward_model,
        reward_funcs=tuple(reward_funcs.values()),
        ptx_dataset=ptx_rows,
        peft_config=lora_config(model_args, model),
        encoded=True,
    )
    sources = [source, training_args.reward_model_path, ptx]
    use_our_card(trainer, "ppo", model_args.model_name_or_path, sources)
    if training_args.reward_model_path:
        # who ranked what this reward model learned from
        learned = read_record(training_args.reward_model_path) or {}
        record["labelers"] = learned.get("labelers")
    train_or_resume(trainer, record)

    ################
    # Save
    ################
    def save_extras(output_dir: Path) -> None:
        if script_args.save_merged:
            merge(training_args)

    finish(trainer, save_extras)


@command
def cli(argv: list[str] | None = None) -> None:
    end_with_parent()
    main(*parse((ScriptArguments, SharedBasePPOConfig, ModelConfig), argv))


if __name__ == "__main__":
    cli()
    end_process_group()
