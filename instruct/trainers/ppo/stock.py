"""TRL's own `PPOTrainer` on this repo's data, models and flags.

What `recipes/ppo.py --stock` and the benchmark run; it needs a TRL that has it (below 1.13).
"""

import contextlib
import copy
import sys
from collections.abc import Iterator
from dataclasses import fields

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from trl import get_peft_config

from instruct.checks.finite import check_weights
from instruct.errors import UserError
from instruct.models import load_reward
from instruct.prompt_cache import base_of
from instruct.reward_checks import tokenizer_differences
from instruct.tokens import encode_prompt_of
from instruct.trainers.ppo.batches import accumulation_steps
from instruct.trainers.ppo.config import SharedBasePPOConfig
from instruct.trl_ppo import stock_ppo
from instruct.turns import agree_on_end, turn_end


def stock_config(args: SharedBasePPOConfig):
    """Our flags as TRL's `PPOConfig`, with as many episodes in a rollout.

    TRL cuts its gradient accumulation into mini-batches, so it takes ours times their number.
    """
    config_class, _ = stock_ppo()
    # a batch size of its own is computed by TRL's trainer
    shared = {f.name for f in fields(config_class) if f.init} & {f.name for f in fields(args)}
    settings = {name: getattr(args, name) for name in shared}
    settings["gradient_accumulation_steps"] = accumulation_steps(args) * args.num_mini_batches
    # ours stop at eos; TRL's default goes on to the full length
    settings["stop_token"] = "eos"
    # it would print samples in the time that is compared
    settings["num_sample_generations"] = 0
    return config_class(**settings)


def value_network(reward, value: str, model_args):
    """A second model that starts as the reward model: all its weights trained, or adapters and
    head.
    """
    # stock scores with the reward model until the end: it may not train
    model = copy.deepcopy(reward)
    if value == "full":
        return model.requires_grad_(True)
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=model_args.lora_r,
        lora_alpha=model_args.lora_alpha,
        target_modules="all-linear",
    )
    # unwrapped, LoRA inside: stock reaches for `base_model_prefix` and `score`
    model = get_peft_model(model, config).get_base_model()
    model.score.requires_grad_(True)
    return model


def stock_trainer(model, tokenizer, rows, args, model_args, value: str = "lora", callbacks=None):
    """A stock trainer with LoRA policy; its value network, a second model, starts as the reward
    model.

    Args:
        args: as for ours (`SharedBasePPOConfig`).
        value: "lora" trains adapters and head of the value network, "full" all its weights (TRL's
            default way).

    Raises:
        UserError: this TRL has no PPOTrainer, there is no reward model, or one that it would score
            otherwise than `load_reward`.
    """
    _, trainer_class = stock_ppo()
    if args.reward_model_path is None:
        raise UserError(
            "--stock needs --reward_model_path: TRL's PPOTrainer knows no reward functions"
        )
    loaded = load_reward(args.reward_model_path, trust_remote_code=args.trust_remote_code)
    reward = loaded.model
    # it hands the policy's ids to the reward model
    if other := tokenizer_differences(loaded.tokenizer, tokenizer):
        raise UserError(
            f"--stock scores the policy's token ids, and {args.reward_model_path} has another "
            f"{' and '.join(other)} than the policy; run without --stock"
        )
    if not hasattr(base_of(reward), "score"):
        raise UserError(
            f"--stock reads a head called `score`, and {args.reward_model_path} has none; run "
            "without --stock"
        )
    # the same reach, and without adapter work the comparison is fair to stock
    reward = reward.merge_and_unload() if isinstance(reward, PeftModel) else reward
    reward.requires_grad_(False)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "left"  # prompts end where responses start

    def with_ids(row, index):
        where = f"training prompts, row {index + 1}"
        return {"input_ids": encode_prompt_of(tokenizer, row, where)}

    agree_on_end(model, tokenizer)
    rows = rows.map(with_ids, with_indices=True, remove_columns=rows.column_names)
    # the same prompts as ours
    rows = rows.filter(lambda row: len(row["input_ids"]) <= args.max_prompt_length)
    trainer = trainer_class(
        args=stock_config(args),
        processing_class=tokenizer,
        model=model,
        ref_model=None,  # the adapter off
        reward_model=reward,
        value_model=value_network(reward, value, model_args),
        train_dataset=rows,
        # never evaluated, but its __init__ wants one
        eval_dataset=rows.select(range(1)),
        peft_config=get_peft_config(model_args),
        callbacks=callbacks,
    )
    ends = turn_end(tokenizer).ids
    trainer.policy_model.generation_config.eos_token_id = list(ends)
    trainer.train = every_end_stops(ends)(trainer.train)
    return trainer


@contextlib.contextmanager
def every_end_stops(ends: tuple[int, ...]) -> Iterator[None]:
    """TRL's trainer stops at one token; in this block, a response that ended in another one has
    ended, too. Also a decorator.
    """
    _, trainer_class = stock_ppo()
    module = sys.modules[trainer_class.__module__]
    plain = module.truncate_response

    def truncate(stop_token_id: int, pad_token_id: int, responses: torch.Tensor) -> torch.Tensor:
        ended = torch.isin(responses, torch.tensor(ends, device=responses.device))
        return plain(stop_token_id, pad_token_id, responses.masked_fill(ended, stop_token_id))

    module.truncate_response = truncate
    try:
        yield
    finally:
        module.truncate_response = plain


def train_stock(model, tokenizer, rows, args, model_args, value: str) -> None:
    """Trains, and saves what stock can save: the policy's adapter and the trainer state."""
    trainer = stock_trainer(model, tokenizer, rows, args, model_args, value)
    trainer.train()
    # its loop is TRL's own, which looks at nothing
    check_weights(trainer.model, "the policy that TRL's PPOTrainer trained")
    trainer.save_model()
    trainer.save_state()
