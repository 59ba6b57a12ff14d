"""Whether this TRL has a PPO of its own, in one place: it left TRL in 1.13 (trl pull 7020)."""

import warnings

from transformers import Trainer
from trl.trainer.base_trainer import _BaseTrainer

from instruct.errors import UserError

try:
    with warnings.catch_warnings():
        # TRL's notice that `trl.experimental` may change is for us, not for whoever runs a recipe
        warnings.filterwarnings("ignore", message="You are importing from 'trl.experimental'")
        from trl.experimental.ppo import PPOConfig, PPOTrainer
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("trl"):
        raise  # TRL has it, and something it needs is missing
    PPOConfig = PPOTrainer = None


class PlainPPOParent(PPOTrainer or _BaseTrainer):
    """What `SharedBasePPOTrainer` subclasses: TRL's trainer by name, Trainer's own loop.

    Its callers may ask `isinstance(trainer, PPOTrainer)`.
    """

    def train(self, **kwargs):
        return Trainer.train(self, **kwargs)

    def _save_checkpoint(self, model, trial) -> None:
        # PPOTrainer's own would also write a model card with every checkpoint
        Trainer._save_checkpoint(self, model, trial)


def stock_ppo() -> tuple[type, type]:
    """TRL's own `PPOConfig` and `PPOTrainer`.

    Raises:
        UserError: this TRL has none.
    """
    if PPOTrainer is None:
        raise UserError("TRL's own PPOTrainer was removed in 1.13; this needs 'trl>=1.12,<1.13'")
    return PPOConfig, PPOTrainer
