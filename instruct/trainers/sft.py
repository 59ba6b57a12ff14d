"""TRL's SFTTrainer, resuming exactly."""

from trl import SFTTrainer

from instruct.trainers.resumable import Resumable


class ResumableSFTTrainer(Resumable, SFTTrainer):
    """`trl.SFTTrainer`; a run cut off after any checkpoint ends as the unbroken one does."""
