"""Step 2: a reward model from ranked outputs (InstructGPT, 3.5), over TRL's `RewardTrainer`.

    accelerate launch recipes/reward.py --config recipes/configs/demo/reward.yaml

Takes rankings (`prompt`, `completions` [K], `ranks` [K], 1 = best, equal = tie; file, folder or Hub
id) or preferences in any shape that `data_prep/formats/registry.py` knows, puts a scalar head on
the SFT model, and learns each ranking as one batch element. Writes the LoRA adapter with its head,
`reward_head.json` (the bias that makes `--demonstrations` score 0 on average), `metrics.json`
(held-out rankings) and `held_out_scores.jsonl` (for the evaluation) to `--output_dir`;
`instruct.models.load_reward` reads it. Run again it continues from its last checkpoint.
With `--score FILE` the model in `--output_dir` scores prompt-completion rows instead:

    python -m recipes.reward --output_dir outputs/demo/reward --score rows.jsonl \\
        --score_output scored.jsonl
"""

import instruct.command.ctrl_c  # noqa: F401  # isort: skip  (first: imports take seconds)

from dataclasses import dataclass, field

import trl
from accelerate import PartialState
from transformers import EarlyStoppingCallback, set_seed

from data_prep.formats.flags import ShapeArguments, shape_of
from data_prep.formats.rankings import load_train_and_eval
from data_prep.formats.reader import read
from instruct.arguments import ModelConfig, check_given, lora_config, parse
from instruct.bases import there
from instruct.cards import use_our_card
from instruct.command.commands import command
from instruct.errors import UserError
from instruct.files import held_out_place, write_rows
from instruct.models import load_reward, load_sequence_classifier
from instruct.processes import end_with_parent
from instruct.reward_files import END, has_model
from instruct.reward_heads import base_of_head, init_head, save_head
from instruct.run.run_record import labelers_of, on_main, read_record, record_of
from instruct.runs import (
    already_finished,
    end_process_group,
    finish,
    is_finished,
    train_or_resume,
)
from instruct.tokens import template_columns, tokenizer_to_train
from instruct.trainers.held_out import held_out_metrics
from instruct.trainers.ranked_reward import RankedRewardConfig, RankedRewardTrainer
from instruct.turns import end_token


@dataclass
class ScriptArguments(ShapeArguments, trl.ScriptArguments):
    """TRL's data flags and ours."""

    dataset_test_split: str | None = field(
        default=None,
        metadata={
            "help": "Held-out rankings: a split of the data, or a file or folder of their own. "
            "Default: 'validation', where the data has it."
        },
    )
    eval_fraction: float = field(
        default=0.1,
        metadata={
            "help": "Share of prompts to hold out, and at least one, where the data has no such "
            "split; 0 = none."
        },
    )
    demonstrations: str | None = field(
        default=None,
        metadata={"help": "Prompt-completion rows that shall score 0 on average (sets the bias)."},
    )
    score: str | None = field(
        default=None,
        metadata={
            "help": "Score these prompt-completion rows with the model in --output_dir, and stop."
        },
    )
    score_output: str = field(
        default="scored.jsonl", metadata={"help": "Where the scored rows go."}
    )

    def __post_init__(self):
        # no field: what is recorded of a run is the split
        self.names_held_out = self.dataset_test_split is not None
        self.dataset_test_split = self.dataset_test_split or "validation"


def score_file(script_args: ScriptArguments, training_args: RankedRewardConfig) -> None:
    """Writes the rows of `--score` with a `score` each."""
    output_dir, scored = training_args.output_dir, script_args.score_output
    there(output_dir, "reward")
    # the bias comes last: before, scores would be off by it. Other people's models have no record
    is_theirs = read_record(output_dir) is None and has_model(output_dir)
    if not is_finished(output_dir) and not is_theirs:
        raise UserError(f"--output_dir {output_dir}: no trained reward model there to score with")
    rows = read(script_args.score, "demonstrations", **shape_of(script_args))
    reward = load_reward(
        output_dir,
        trust_remote_code=training_args.trust_remote_code,
        device=str(PartialState().device),
    )
    batch_size, columns = training_args.per_device_eval_batch_size, template_columns(rows)
    scores = reward.score(rows["prompt"], rows["completion"], batch_size, **columns)
    write_rows(scored, ({**row, "score": s} for row, s in zip(rows, scores, strict=True)))
    print(f"{scored}: {len(scores)} rows, mean score {sum(scores) / len(scores):.4f}")


def data_of(script_args: ScriptArguments, training_args: RankedRewardConfig) -> dict:
    """{flag: (source, split)} of what a training run reads."""
    source = script_args.dataset_name
    return {
        "dataset_name": (source, script_args.dataset_train_split),
        "dataset_test_split": held_out_place(source, script_args.dataset_test_split)
        or (None, script_args.dataset_test_split),
        "demonstrations": (script_args.demonstrations, "train"),
    }


def main(
    script_args: ScriptArguments, training_args: RankedRewardConfig, model_args: ModelConfig
) -> None:
    if script_args.score:
        return score_file(script_args, training_args)
    check_given(script_args, model_args, "rankings")
    parsed = (script_args, training_args, model_args)
    record = record_of("reward", parsed, data_of(script_args, training_args))
    if already_finished(training_args, record):
        return

    ################
    # Data
    ################
    tokenizer = tokenizer_to_train(model_args, training_args)
    train_dataset, eval_dataset = load_train_and_eval(
        script_args.dataset_name,
        script_args.dataset_train_split,
        script_args.dataset_test_split,
        script_args.eval_fraction,
        training_args.seed,
        script_args.dataset_config,
        required=script_args.names_held_out,
        **shape_of(script_args),
    )
    if eval_dataset is None and training_args.eval_strategy != "no":
        raise UserError(
            "--eval_strategy needs held-out rankings: "
            "give --dataset_test_split or an --eval_fraction above 0"
        )
    demonstrations = None
    if script_args.demonstrations:
        demonstrations = read(script_args.demonstrations, "demonstrations")

    ################
    # Model
    ################
    set_seed(training_args.seed)  # the head is random
    base = on_main(lambda: base_of_head(model_args, record))
    model = load_sequence_classifier(model_args, training_args.trust_remote_code)
    init_head(model)
    model_args.lora_task_type = "SEQ_CLS"  # also keeps the head `score` with the adapter
    if model.untrained.modules:
        model_args.lora_modules_to_save = [
            *(model_args.lora_modules_to_save or []),
            *model.untrained.modules,
        ]

    ################
    # Train
    ################
    patience = training_args.early_stopping_patience
    trainer = RankedRewardTrainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        peft_config=lora_config(model_args, model),
        callbacks=[] if patience is None else [EarlyStoppingCallback(patience)],
    )
    sources = [script_args.dataset_name, script_args.demonstrations]
    use_our_card(trainer, "reward", model_args.model_name_or_path, sources)
    record["labelers"] = labelers_of(train_dataset, eval_dataset)
    train_or_resume(trainer, record)

    ################
    # Evaluate and save
    ################
    # by all processes together, so before `finish`, whose extras are written by one
    metrics, scored = ({}, None) if eval_dataset is None else held_out_metrics(trainer)
    bias = 0.0
    if demonstrations is not None:
        columns = template_columns(demonstrations)
        bias = -trainer.mean_score(
            demonstrations["prompt"], demonstrations["completion"], **columns
        )

    ids = {"pad_token_id": tokenizer.pad_token_id, END: end_token(tokenizer)}
    head = {"bias": bias, **ids, **base}
    finish(trainer, lambda output_dir: save_head(output_dir, head, metrics, scored))


@command
def cli(argv: list[str] | None = None) -> None:
    end_with_parent()
    main(*parse((ScriptArguments, RankedRewardConfig, ModelConfig), argv))


if __name__ == "__main__":
    cli()
    end_process_group()
