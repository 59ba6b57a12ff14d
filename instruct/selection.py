"""The checkpoint of SFT whose answers a reward model likes best (InstructGPT, 3.5)."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import trl
from datasets import Dataset

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
    """{checkpoint: mean reward of its answers to the prompts of `rows`, from `where`}."""
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
            check_base(reward, reward_head(reward), config.base_model_name_or_path)
    except UserError as error:
        print(error)


def select_by_reward(
    training_args: trl.SFTConfig,
    reward_model: str,
    reward: Callable[[], RewardModel],
    prompts: Callable[[], tuple[Dataset, str]],
    max_new_tokens: int,
) -> None:
    """Keeps the saved checkpoint whose answers the reward model likes best, as the paper did.

    Its adapter and merged model become those of the output folder; the checkpoints stay.

    Args:
        reward_model: folder or Hub id of the one that PPO will learn from.
        reward: () -> that model, loaded.
        prompts: () -> rows with the prompts to answer, and where they are from.
        max_new_tokens: the longest answer.

    Raises:
        UserError: the folder holds another step's run, or no whole checkpoint.
    """
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
    rows, where = prompts()
    means = mean_rewards(checkpoints, reward(), rows, where, max_new_tokens, training_args)
    best = max(means, key=means.get)
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
