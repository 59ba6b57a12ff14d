"""TRL's own `PPOTrainer` on this repo's data, models and flags: what `recipes/ppo.py --stock` and the benchmark run."""

import copy

from peft import LoraConfig, PeftModel, get_peft_model
from trl import get_peft_config
from trl.experimental.ppo import PPOTrainer

from instruct.files import UserError
from instruct.models import load_reward
from instruct.tokens import encode_prompt


def stock_trainer(
    model, tokenizer, rows, args, model_args, value: str = "lora", callbacks=None
) -> PPOTrainer:
    """A stock trainer with LoRA policy; its value network, a second model, starts as the reward model.

    Args:
        args: as for ours; a rollout has the same number of episodes (stock cuts gradient accumulation into mini-batches).
        value: "lora" trains adapters and head of the value network, "full" all its weights (TRL's default way).
    """
    if args.reward_model_path is None:
        raise UserError(
            "--stock needs --reward_model_path: TRL's PPOTrainer knows no reward functions"
        )
    reward = load_reward(args.reward_model_path).model
    reward = reward.merge_and_unload() if isinstance(reward, PeftModel) else reward
    reward.requires_grad_(False)
    value_model = copy.deepcopy(reward)
    if value == "full":
        value_model.requires_grad_(True)
    else:
        config = LoraConfig(
            task_type="SEQ_CLS",
            r=model_args.lora_r,
            lora_alpha=model_args.lora_alpha,
            target_modules="all-linear",
        )
        value_model = get_peft_model(value_model, config).get_base_model()
        value_model.score.requires_grad_(True)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "left"  # prompts end where responses start
    rows = rows.map(
        lambda row: {"input_ids": encode_prompt(tokenizer, row["prompt"])},
        remove_columns=rows.column_names,
    )
    rows = rows.filter(lambda row: len(row["input_ids"]) <= args.max_prompt_length)

    args.stop_token, args.gradient_accumulation_steps = (
        "eos",
        args.gradient_accumulation_steps * args.num_mini_batches,
    )
    args.num_sample_generations = 0
    return PPOTrainer(
        args=args,
        processing_class=tokenizer,
        model=model,
        ref_model=None,  # the adapter off
        reward_model=reward,
        value_model=value_model,
        train_dataset=rows,
        eval_dataset=rows.select(range(1)),
        peft_config=get_peft_config(model_args),
        callbacks=callbacks,
    )


def train_stock(model, tokenizer, rows, args, model_args, value: str) -> None:
    """Trains, and saves what stock can save: the policy's adapter and the trainer state."""
    trainer = stock_trainer(model, tokenizer, rows, args, model_args, value)
    trainer.train()
    trainer.save_model()
    trainer.save_state()
