"""TRL's SFTTrainer, resuming exactly."""

from trl import SFTTrainer

from instruct.generation import base_of
from instruct.trainers.finite_run import FiniteRun
from instruct.trainers.packing import check_keeps_apart
from instruct.trainers.resumable import Resumable
from instruct.turns import save_ends


class ResumableSFTTrainer(FiniteRun, Resumable, SFTTrainer):
    """`trl.SFTTrainer`; a run cut off after any checkpoint ends as the unbroken one does; one
    whose loss or weights are no longer finite stops."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # sharded weights cannot be tried out
        if self.padding_free and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            model = self.accelerator.unwrap_model(self.model)
            check_keeps_apart(model, base_of(model))

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        # PEFT leaves it out
        model = base_of(self.accelerator.unwrap_model(self.model))
        save_ends(model, output_dir or self.args.output_dir)
