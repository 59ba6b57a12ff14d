"""TRL's SFTTrainer, resuming exactly, with a faster LoRA layer and loss where they are the same."""

from dataclasses import dataclass, field

import torch
import trl
from torch import Tensor
from trl import SFTTrainer

from instruct.prompt_cache import base_of
from instruct.run_defaults import RunDefaults
from instruct.trainers.finite_run import FiniteRun
from instruct.trainers.fused_lora import fuse_lora
from instruct.trainers.head_loss import HeadLoss, head_input, is_plain
from instruct.trainers.packing import check_keeps_apart
from instruct.trainers.progress import show_on_bar
from instruct.trainers.resumable import Resumable
from instruct.turns import save_ends


@dataclass
class SFTConfig(RunDefaults, trl.SFTConfig):
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


class ResumableSFTTrainer(FiniteRun, Resumable, SFTTrainer):
    """`trl.SFTTrainer`; a run cut off after any checkpoint ends as the unbroken one does; one
    whose loss or weights are no longer finite stops."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        show_on_bar(self, loss="loss", eval_loss="eval_loss")
        fuse_lora(self.model)
        model = self.accelerator.unwrap_model(self.model)
        # sharded weights cannot be tried out
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.padding_free and not sharded:
            check_keeps_apart(model, base_of(model))
        self._own_loss = self._takes_own_loss(sharded) and is_plain(model, base_of(model))

    def _takes_own_loss(self, sharded: bool) -> bool:
        """Whether `HeadLoss` may stand for TRL's loss; what is special is TRL's business."""
        args = self.args
        special = (
            sharded
            # by a flag, or by accelerate's own configuration
            or self.accelerator.mixed_precision != "no"
            or args.torch_compile
            or args.use_liger_kernel
            or self.label_smoother is not None
            or self.compute_loss_func is not None
            or args.n_gpu > 1  # nn.DataParallel: copies of the head
            or self.aux_loss_enabled
            or getattr(self.accelerator, "parallelism_config", None) is not None
        )
        # one is the other, by chunks; which is the default depends on TRL's version
        return args.loss_type in ("nll", "chunked_nll") and not special

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """TRL's loss and metrics; in training by `HeadLoss`, where that is the same."""
        if return_outputs or not (self._own_loss and self.model.training):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"][:, 1:]
        trained = labels != -100
        head = base_of(self.accelerator.unwrap_model(self.model)).get_output_embeddings()
        with head_input(head) as given:
            # the wrapped model: DDP syncs only what its forward ran
            model(**{k: v for k, v in inputs.items() if k != "labels"}, use_cache=False)
        hidden = given[0][:, :-1][trained]
        loss, found, entropy = HeadLoss.apply(hidden, head.weight, head.bias, labels[trained])
        self._note(inputs, torch.stack([trained.sum(), found, entropy]))
        # where Trainer divides by the number of micro-batches itself
        if num_items_in_batch is None or not self.model_accepts_loss_kwargs:
            return loss / max(len(hidden), 1)
        # clamped as TRL does: a step in which nothing is trained is 0, not 0 / 0
        loss = loss / torch.as_tensor(num_items_in_batch).clamp(min=1)
        # of all processes, over which gradients are averaged
        across = self.args.average_tokens_across_devices
        return loss * self.accelerator.num_processes if across else loss

    def _note(self, inputs: dict, sums: Tensor) -> None:
        """What TRL logs: numbers of trained tokens, of right guesses among them and their entropy;
        tokens seen."""
        seen = inputs.get("attention_mask")
        tokens = inputs["position_ids"].numel() if seen is None else seen.sum()
        tokens = torch.as_tensor(tokens, device=sums.device, dtype=sums.dtype)
        sums = self.accelerator.gather(torch.cat([sums, tokens[None]])[None]).sum(0).tolist()
        trained, found, entropy, tokens = sums
        metrics = self._metrics["train"]
        metrics["entropy"].append(entropy / trained if trained else 0.0)
        metrics["mean_token_accuracy"].append(found / trained if trained else 0.0)
        self._total_train_tokens += int(tokens)
        metrics["num_tokens"] = [self._total_train_tokens]

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        # PEFT leaves it out
        model = base_of(self.accelerator.unwrap_model(self.model))
        save_ends(model, output_dir or self.args.output_dir)
