"""A rollout -> the micro-batches of all its epochs."""

from collections.abc import Callable

import torch

from instruct.trainers.ppo.batches import BatchPlan, MicroBatch, PretrainingRows, token_batch
from instruct.trainers.ppo.config import SharedBasePPOConfig
from instruct.trainers.ppo.rollout import Rollout


def cut_into_micro_batches(
    rollout: Rollout,
    batches: BatchPlan,
    args: SharedBasePPOConfig,
    pad_id: int,
    ptx: PretrainingRows | None,
    reduce: Callable[[torch.Tensor], torch.Tensor],
) -> list[MicroBatch]:
    """Each epoch is a fresh shuffle, cut into mini-batches, these into micro-batches of similar
    length.

    Args:
        ptx: pretraining rows, drawn anew for each mini-batch; None without PPO-ptx.
        reduce: sums a tensor over processes.
    """
    # 1. Mini-batches of all epochs, as row numbers
    minis = []
    for _ in range(batches.num_ppo_epochs):
        # shuffled within this process: rows never travel
        order, size = torch.randperm(len(rollout.responses)).tolist(), batches.local_mini_batch_size
        minis += [order[i : i + size] for i in range(0, len(order), size)]

    # 2. Their pretraining rows
    ptx_per_micro = args.ptx_batch_size or batches.local_micro_batch_size
    ptx_per_mini = ptx_per_micro * batches.gradient_accumulation_steps
    ptx_rows = [ptx.draw(ptx_per_mini) if ptx else [] for _ in minis]

    # 3. What every mini-batch's sums are divided by: its tokens on all processes
    tokens = [sum(len(rollout.responses[i]) for i in mini) for mini in minis]
    ptx_tokens = [sum(len(row) - 1 for row in rows) for rows in ptx_rows]
    local = torch.tensor([tokens, ptx_tokens], dtype=torch.float32, device=args.device)
    # for all epochs in one message, before training: none in between
    totals, ptx_totals = reduce(local).tolist()

    # 4. Micro-batches
    out = []
    lengths, size = rollout.lengths, batches.local_micro_batch_size
    for n, mini in enumerate(minis):
        # sorted within the mini-batch, which is one step: its gradient is the same sum
        mini = sorted(mini, key=lengths.__getitem__)
        for k in range(batches.gradient_accumulation_steps):
            rows = mini[k * size : (k + 1) * size]
            # drawn in order of length, so these are of similar length, too
            mine = ptx_rows[n][k * ptx_per_micro : (k + 1) * ptx_per_micro]
            micro_batch = micro_batch_of(rollout, rows, batches.processes / totals[n], pad_id)
            if mine:
                micro_batch.ptx = ptx_batch(mine, pad_id, args.device)
                micro_batch.ptx_share = batches.processes / ptx_totals[n]
            out.append(micro_batch)
    return out


def micro_batch_of(rollout: Rollout, rows: list[int], share: float, pad_id: int) -> MicroBatch:
    """These rows of a rollout, their real tokens one after the other."""
    # flat: padding takes no part in losses, nor in their number
    real = rollout.mask[rows]
    return MicroBatch(
        tokens=token_batch(
            [rollout.prompts[i] for i in rows],
            [rollout.responses[i] for i in rows],
            pad_id,
            rollout.mask.device,
        ),
        old_logprobs=rollout.logprobs[rows][real],
        old_values=rollout.values[rows][real],
        advantages=rollout.advantages[rows][real],
        returns=rollout.returns[rows][real],
        share=share,
    )


def ptx_batch(rows: list[list[int]], pad_id: int, device) -> dict[str, torch.Tensor]:
    """Pretraining rows as `token_batch`: a prompt of one token, and the rest as its response."""
    # the first token has nothing to be predicted from
    return token_batch([row[:1] for row in rows], [row[1:] for row in rows], pad_id, device)
