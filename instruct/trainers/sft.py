"""TRL's SFTTrainer, resuming exactly."""

from trl import SFTTrainer

from instruct.generation import base_of
from instruct.trainers.finite_run import FiniteRun
from instruct.trainers.resumable import Resumable
from instruct.turns import save_ends


class ResumableSFTTrainer(FiniteRun, Resumable, SFTTrainer):
    """`trl.SFTTrainer`; a run cut off after any checkpoint ends as the unbroken one does; one
    whose loss or weights are no longer finite stops."""

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        # PEFT leaves it out
        model = base_of(self.accelerator.unwrap_model(self.model))
        save_ends(model, output_dir or self.args.output_dir)
