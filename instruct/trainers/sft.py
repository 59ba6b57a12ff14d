"""TRL's SFTTrainer, resuming exactly."""

from trl import SFTTrainer

from instruct.trainers.finite_run import FiniteRun
from instruct.trainers.resumable import Resumable


class ResumableSFTTrainer(FiniteRun, Resumable, SFTTrainer):
    """`trl.SFTTrainer`; a run cut off after any checkpoint ends as the unbroken one does; one
    whose loss or weights are no longer finite stops."""
