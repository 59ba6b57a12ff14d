"""How prompts become rollouts, mini-batches and micro-batches: the arithmetic, the sampler, the
tensors.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from accelerate import PartialState
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import SaveStrategy

from instruct.errors import UserError
from instruct.tokens import encode_prompts, template_columns
from instruct.trainers.ppo.config import SharedBasePPOConfig
from instruct.trainers.pretraining import text_ids

# what a reward function is called with besides the columns, and what is made of a prompt here
RESERVED = ("prompts", "prompt_ids")


def print_once(text: str) -> None:
    """Prints on the main process only."""
    if PartialState().is_main_process:
        print(text)


# ---- arithmetic ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class BatchPlan:
    """All batch arithmetic, in one place. Episodes where no unit is given; `local` is per process.

    micro-batch    one forward and backward pass
    mini-batch     x gradient_accumulation_steps: one optimizer step
    rollout        x num_mini_batches: sampled and scored together
    """

    local_micro_batch_size: int
    processes: int
    gradient_accumulation_steps: int
    num_mini_batches: int
    num_ppo_epochs: int
    num_rollouts: int

    @property
    def local_mini_batch_size(self) -> int:
        return self.local_micro_batch_size * self.gradient_accumulation_steps

    @property
    def mini_batch_size(self) -> int:
        return self.local_mini_batch_size * self.processes

    @property
    def local_rollout_size(self) -> int:
        return self.local_mini_batch_size * self.num_mini_batches

    @property
    def rollout_size(self) -> int:
        return self.mini_batch_size * self.num_mini_batches

    @property
    def total_episodes(self) -> int:
        return self.num_rollouts * self.rollout_size

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps."""
        return self.num_ppo_epochs * self.num_mini_batches

    @property
    def max_steps(self) -> int:
        """Optimizer steps."""
        return self.num_rollouts * self.steps_per_rollout

    @property
    def passes_per_rollout(self) -> int:
        """Micro-steps: how often a process's share of a rollout goes through training."""
        return self.steps_per_rollout * self.gradient_accumulation_steps


def accumulation_steps(args: SharedBasePPOConfig) -> int:
    """`--gradient_accumulation_steps`, or what `--rollout_batch_size` makes of it."""
    if args.rollout_batch_size is None:
        return args.gradient_accumulation_steps
    # from the rollout down: the paper gives rollout sizes, hardware the micro-batch
    rollout, parts, processes = args.rollout_batch_size, args.num_mini_batches, args.world_size
    # rounded, a run would train on other batches than its flags say
    if rollout % parts:
        raise UserError(
            f"--rollout_batch_size {rollout}: must be a multiple of --num_mini_batches {parts}"
        )
    mini_batch, at_once = rollout // parts, args.per_device_train_batch_size
    if mini_batch % (at_once * processes):
        raise UserError(_no_whole_micro_batches(rollout, parts, processes, at_once))
    return mini_batch // (at_once * processes)


def _no_whole_micro_batches(rollout: int, parts: int, processes: int, at_once: int) -> str:
    mini_batch = rollout // parts
    fitting = [n for n in range(1, at_once) if mini_batch % (n * processes) == 0]
    remedy = (
        f"give --per_device_train_batch_size {fitting[-1]}"
        if fitting
        else f"give a multiple of {parts * processes}, mini-batches x processes"
    )
    each = f" x {processes} processes" if processes > 1 else ""
    return (
        f"--rollout_batch_size {rollout}: its mini-batches of {mini_batch} episodes "
        f"(--num_mini_batches {parts}) are no multiple of --per_device_train_batch_size "
        f"{at_once}{each}; {remedy}"
    )


def plan_batches(args: SharedBasePPOConfig, num_prompts: int) -> BatchPlan:
    """The plan of a run over `num_prompts` prompts. Its length is --max_steps where given, else the
    episodes.
    """
    accumulation = accumulation_steps(args)
    rollout_size = (
        args.per_device_train_batch_size * args.world_size * accumulation * args.num_mini_batches
    )
    # whole rollouts: one begun is trained on to its end
    if args.max_steps > 0:
        rollouts = math.ceil(args.max_steps / (args.num_ppo_epochs * args.num_mini_batches))
    else:
        episodes = args.total_episodes
        if episodes is None:
            episodes = int(args.num_train_epochs * num_prompts)
        rollouts = max(1, math.ceil(episodes / rollout_size))
    return BatchPlan(
        local_micro_batch_size=args.per_device_train_batch_size,
        processes=args.world_size,
        gradient_accumulation_steps=accumulation,
        num_mini_batches=args.num_mini_batches,
        num_ppo_epochs=args.num_ppo_epochs,
        num_rollouts=rollouts,
    )


def follow_plan(args: SharedBasePPOConfig, plan: BatchPlan) -> None:
    """Makes Trainer's own settings follow the plan: logging, saving and evaluation fall on the end
    of a rollout.
    """
    # Trainer's loop is bounded by steps: it knows no rollouts
    args.gradient_accumulation_steps = plan.gradient_accumulation_steps
    asked = args.total_episodes
    if asked not in (None, plan.total_episodes) and args.max_steps <= 0:
        print_once(
            f"--total_episodes {asked}: rounded up to {plan.total_episodes}, whole rollouts of "
            f"{plan.rollout_size}"
        )
    args.total_episodes = plan.total_episodes
    args.max_steps, args.num_train_epochs = plan.max_steps, 1

    per_rollout = plan.steps_per_rollout
    # a checkpoint amid a rollout would have to hold the rollout, too
    for name in ("save_steps", "eval_steps"):
        asked = getattr(args, name)
        if asked is None:
            continue
        steps = asked * plan.max_steps if asked < 1 else asked  # below 1: a share of the run
        whole = max(1, math.ceil(steps / per_rollout)) * per_rollout
        if whole != asked and asked >= 1:
            print_once(
                f"--{name} {asked:g}: rounded up to {whole}, the end of a rollout "
                f"({per_rollout} steps)"
            )
        setattr(args, name, whole)
    if args.load_best_model_at_end and args.save_strategy == SaveStrategy.STEPS:
        # every checkpoint has its evaluation
        args.save_steps = math.ceil(args.save_steps / args.eval_steps) * args.eval_steps
    # before the end of a rollout its metrics are not whole
    args.logging_strategy, args.logging_steps = "steps", per_rollout
    args.logging_first_step = False


# ---- prompts and pretraining rows ----------------------------------------------------------------


def with_prompt_ids(
    rows: Dataset | None,
    tokenizer: PreTrainedTokenizerBase,
    longest: int,
    name: str,
    check: Callable[[list[int], str], None] | None = None,
) -> Dataset | None:
    """Rows with a column `prompt_ids`; those of more than `longest` tokens are left out, and
    counted.

    Args:
        check: called with the ids of each prompt that stays and its row: what the model takes.
    """
    if rows is None:
        return None  # no evaluation
    if taken := [column for column in RESERVED if column in rows.column_names]:
        raise UserError(
            f"{name}: rename the column {taken[0]!r}; that name is taken (columns are handed to "
            "reward functions by their names)"
        )
    # once here: a prompt is sampled from in many rollouts
    ids = encode_prompts(tokenizer, rows["prompt"], template_columns(rows), name)
    rows = rows.add_column("prompt_ids", ids)
    # left out, not cut: half a question is another question
    kept = [i for i, row in enumerate(ids) if len(row) <= longest]
    for i in kept if check else ():
        check(ids[i], f"{name}, row {i + 1}")
    short = rows.select(kept)
    if len(short) < len(rows):
        print_once(
            f"{name}: {len(rows) - len(short)} prompts longer than --max_prompt_length {longest} "
            "tokens left out"
        )
    if not len(short):
        raise UserError(f"{name}: every prompt is longer than --max_prompt_length {longest} tokens")
    return short


class PretrainingRows:
    """PPO-ptx: rows of text and its end, cut to `longest` tokens, drawn with replacement."""

    def __init__(self, texts: list[str], tokenizer: PreTrainedTokenizerBase, longest: int):
        self.ids = text_ids(texts, tokenizer, longest, "--ptx_dataset")

    def draw(self, count: int) -> list[list[int]]:
        """`count` rows, sorted by length."""
        # torch's own generator: Trainer saves its state with a checkpoint
        drawn = torch.randint(len(self.ids), (count,)).tolist()
        return sorted((self.ids[i] for i in drawn), key=len)


def pretraining_rows(
    dataset: Dataset | None, tokenizer: PreTrainedTokenizerBase, args: SharedBasePPOConfig
) -> PretrainingRows | None:
    """The rows of PPO-ptx, where it is on. Raises `UserError` where it is on by half."""
    if bool(args.ptx_coef) != (dataset is not None):
        raise UserError("PPO-ptx needs both --ptx_dataset and a --ptx_coef above 0")
    if dataset is None:
        return None
    return PretrainingRows(dataset["text"], tokenizer, args.ptx_max_length)


class RolloutSampler(Sampler):
    """Prompt indices for every rollout: shuffled passes over the prompts, end to end.

    A rollout's indices are repeated for each of its `repeats` micro-steps: Trainer asks for a batch
    at every one of them.
    """

    def __init__(self, prompts: int, rollout: int, rollouts: int, repeats: int, seed: int):
        self.prompts = prompts
        self.rollout = rollout
        self.rollouts = rollouts
        self.repeats = repeats
        self.seed = seed

    def __iter__(self) -> Iterator[int]:
        # its own generator: a resumed run skips to the same prompts
        generator, queue = torch.Generator().manual_seed(self.seed), []
        for _ in range(self.rollouts):
            # end to end: a remainder of a pass opens the next rollout, none is dropped
            while len(queue) < self.rollout:
                queue += torch.randperm(self.prompts, generator=generator).tolist()
            chunk, queue = queue[: self.rollout], queue[self.rollout :]
            for _ in range(self.repeats):
                yield from chunk

    def __len__(self) -> int:
        return self.rollouts * self.rollout * self.repeats


def index_batch(indices: list[int]) -> dict[str, torch.Tensor]:
    """Collates prompt indices, in the form that Trainer's loop hands on."""
    return {"index": torch.tensor(indices)}


def index_loader(prompts: int, plan: BatchPlan, seed: int) -> DataLoader:
    """Batches of prompt indices: a process's share of a rollout, once for each micro-step."""
    sampler = RolloutSampler(
        prompts=prompts,
        rollout=plan.rollout_size,
        rollouts=plan.num_rollouts,
        repeats=plan.passes_per_rollout,
        seed=seed,
    )
    return DataLoader(
        range(prompts),
        batch_size=plan.local_rollout_size,
        sampler=sampler,
        collate_fn=index_batch,
    )


# ---- tensors -------------------------------------------------------------------------------------


def by_length(lengths: list[int], size: int, even: bool) -> list[list[int]]:
    """Row numbers in batches of at most `size`, sorted by length; `even`: no row is padded by more
    than a tenth.
    """
    batches: list[list[int]] = [[]]
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        # A tenth: much narrower and the batches get small, much wider and padding eats the gain.
        # Only without gradient: a micro-batch of training has its size fixed.
        too_long = even and batches[-1] and lengths[i] > 1.1 * lengths[batches[-1][0]]
        if too_long or len(batches[-1]) == size:
            batches.append([])
        batches[-1].append(i)
    return batches


def token_batch(
    prompts: list[list[int]], responses: list[list[int]], pad_id: int, device
) -> dict[str, torch.Tensor]:
    """Right-padded rows and, for each response token in order, where it is predicted from.

    A row's last token predicts nothing that is asked for, so it is no input.

    Returns:
        What `SharedBase.forward` takes: input_ids [B, L]; rows, cols [N] positions; tokens [N],
        each the token after its position. N is the number of response tokens.
    """
    longest = max(len(p) + len(r) - 1 for p, r in zip(prompts, responses, strict=True))
    ids, rows, cols, tokens = [], [], [], []
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        inputs = (prompt + response)[:-1]
        ids.append(inputs + [pad_id] * (longest - len(inputs)))
        rows += [i] * len(response)
        # a token is predicted one place before it: the first from the prompt's last token
        cols += range(len(prompt) - 1, len(prompt) + len(response) - 1)
        tokens += response
    lists = {"input_ids": ids, "rows": rows, "cols": cols, "tokens": tokens}
    return {name: torch.tensor(values, device=device) for name, values in lists.items()}


@dataclass
class MicroBatch:
    """One forward and backward pass. N response tokens, in the order of `tokens`.

    `share` turns a sum over tokens into this process's share of the mini-batch mean. DDP averages
    gradients over processes, so it is processes / tokens of the mini-batch on all processes;
    `ptx_share` likewise.
    """

    tokens: dict[str, torch.Tensor]  # as `token_batch` returns them
    old_logprobs: torch.Tensor  # [N], and so are the next three
    old_values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    share: float
    ptx: dict[str, torch.Tensor] | None = None
    ptx_share: float = 0.0
