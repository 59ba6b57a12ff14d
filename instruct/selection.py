"""The checkpoint of SFT whose answers a reward model likes best (InstructGPT, 3.5)."""

import shutil
from pathlib import Path

import torch
import trl
from datasets import Dataset

from instruct.bases import places_of_base
from instruct.checks.model_limits import check_prompts
from instruct.errors import UserError
from instruct.files import atomic_file, write_json
from instruct.generation import generate_ids
from instruct.models import RewardModel, load_policy, save_merged
from instruct.reward_checks import check_base
from instruct.reward_files import adapter_config, reward_head
from instruct.run.checkpoints import whole_checkpoints
from instruct.run.folders import claim
from instruct.run.run_record import check_step, read_record
from instruct.runs import is_finished, not_pushed_yet, push
from instruct.tokens import decode_completion, encode_prompts, template_columns

# What a checkpoint and the output folder both hold: a model, or the adapter of one.
WEIGHTS = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
)


def mean_rewards(
    checkpoints: list[Path],
    reward: RewardModel,
    rows: Dataset,
    where: str,
    max_new_tokens: int,
    training_args: trl.SFTConfig,
) -> dict[str, float]:
    """{checkpoint: mean reward of its answers to the prompts of `rows`, from `where`}.

    Args:
        reward: the model that PPO will learn from.
        max_new_tokens: the longest answer.
    """
    prompts, columns = rows["prompt"][:], template_columns(rows)
    means = {}
    for checkpoint in checkpoints:
        model, tokenizer = load_policy(
            str(checkpoint), trust_remote_code=training_args.trust_remote_code
        )
        torch.manual_seed(training_args.seed)  # the same luck for every checkpoint
        ids = encode_prompts(tokenizer, prompts, columns, where)
        names = [f"{where}, row {number}" for number in range(1, len(ids) + 1)]
        check_prompts(model.config, zip(names, ids, strict=True), max_new_tokens)
        # sampled, not greedy: PPO starts from the distribution, not its mode
        answers = generate_ids(model, tokenizer, ids, max_new_tokens)
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
            places = places_of_base(reward, config.base_model_name_or_path).found
            named = places[0].name if places else config.base_model_name_or_path
            check_base(reward, reward_head(reward), named)
    except UserError as error:
        print(error)


def saved_checkpoints(output_dir: str) -> list[Path]:
    """The whole checkpoints of an SFT run, whose folder is this process's from now on.

    Raises:
        UserError: the folder holds another step's run, or no whole checkpoint.
    """
    folder = Path(output_dir)
    claim(folder)
    found = read_record(folder)
    if found is not None:
        check_step(folder, found, "sft")
    # a run killed while saving leaves half a one
    checkpoints = whole_checkpoints(folder)
    if not checkpoints:
        raise UserError(
            f"{folder}: no whole checkpoint to select from; train with --save_strategy epoch"
        )
    return checkpoints


def keep(means: dict[str, float], reward_model: str, training_args: trl.SFTConfig) -> None:
    """Makes the best checkpoint's adapter and merged model those of the output folder.

    Args:
        means: {checkpoint: mean reward}.
        reward_model: folder or Hub id of the one that scored.
    """
    output_dir, best = Path(training_args.output_dir), max(means, key=means.get)
    # copied: the checkpoints stay, to select again by another reward model
    for pattern in WEIGHTS:
        for chosen in sorted((output_dir / best).glob(pattern)):
            # whole or not at all: the folder holds a model at every moment
            with atomic_file(output_dir / chosen.name) as beside:
                shutil.copyfile(chosen, beside)
    save_merged(str(output_dir / best), training_args.output_dir, training_args.trust_remote_code)
    tell_if_base_is_gone(reward_model)
    write_json(output_dir / "selected_by_reward.json", {"checkpoint": best, "mean_reward": means})
    not_pushed_yet(output_dir)
    if training_args.push_to_hub and is_finished(output_dir):
        push(training_args)
