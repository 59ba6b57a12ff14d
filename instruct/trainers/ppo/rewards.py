"""Rewards: named functions of prompt and text, and the one score that PPO makes of what they
say.
"""

from collections.abc import Callable

import torch

from instruct.files import UserError
from instruct.trainers.ppo.config import SharedBasePPOConfig

# (prompts, completions, **columns) -> one number per completion, as in TRL's GRPO
RewardFunction = Callable[..., list[float]]


class Rewards:
    """Reward functions by name, in the order of `--reward_weights`.

    Args:
        functions: name -> function; the reward model, where there is one, comes first.
        args: the settings.

    Raises:
        UserError: not one weight for each.
    """

    def __init__(self, functions: dict[str, RewardFunction], args: SharedBasePPOConfig):
        # checked before anything is sampled
        weights = args.reward_weights or [1.0] * len(functions)
        if len(weights) != len(functions):
            raise UserError(
                f"--reward_weights has {len(weights)} numbers for {len(functions)} rewards "
                f"({', '.join(functions)})"
            )
        self.functions = functions
        self.weights = dict(zip(functions, weights, strict=True))
        self.score_clip = args.score_clip
        self.missing_eos_penalty = args.missing_eos_penalty
        self.device = args.device

    def scores(self, prompts: list, texts: list[str], columns: dict) -> dict[str, torch.Tensor]:
        """Every function's scores [B] of these texts.

        Args:
            prompts: as the dataset has them: texts or messages.
            columns: the dataset's other columns, name -> B values.

        Raises:
            UserError: a function raised, or did not return one finite number per text.
        """
        # all, weight 0 as well: such a one is there to be watched
        return {
            name: self._checked(name, self._call(name, prompts, texts, columns), texts)
            for name in self.functions
        }

    def _call(self, name: str, prompts: list, texts: list[str], columns: dict) -> list[float]:
        try:
            # lists of their own: a function that changes them changes nobody else's
            return self.functions[name](prompts=list(prompts), completions=list(texts), **columns)
        except Exception as error:
            if name == "reward_model":
                raise  # ours: whatever it is, it is not the user's function
            raise UserError(
                f"reward function {name!r} raised {type(error).__name__}: {error}"
            ) from error

    def _checked(self, name: str, scores: list, texts: list[str]) -> torch.Tensor:
        try:
            # float() takes numpy's and torch's numbers, too
            numbers = torch.tensor([float(score) for score in scores], dtype=torch.float32)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"reward function {name!r} must return one number per completion ({error})"
            ) from error
        if len(numbers) != len(texts):
            raise UserError(
                f"reward function {name!r} returned {len(numbers)} scores for {len(texts)} "
                "completions"
            )
        # one nan would spread by whitening to every advantage
        if not numbers.isfinite().all():
            bad = int((~numbers.isfinite()).nonzero()[0])
            raise UserError(
                f"reward function {name!r} returned {numbers[bad]} for the completion "
                f"{texts[bad]!r}"
            )
        return numbers.to(self.device)

    def total(self, scores: dict[str, torch.Tensor], ended: torch.Tensor) -> torch.Tensor:
        """[B]: weighted sum, clipped, less the penalty where eos is missing.

        Args:
            ended: bool [B], whether the response ends in eos.
        """
        total = sum(self.weights[name] * values for name, values in scores.items())
        if self.score_clip is not None:
            total = total.clamp(-self.score_clip, self.score_clip)
        # after clipping, which would else swallow it
        if self.missing_eos_penalty is not None:
            total = total - self.missing_eos_penalty * ~ended
        return total


def name_rewards(
    reward_model: RewardFunction | None, reward_funcs: tuple[RewardFunction, ...]
) -> dict[str, RewardFunction]:
    """The functions by name, `reward_model` first. Raises `UserError` where two have one name."""
    named = {} if reward_model is None else {"reward_model": reward_model}
    for function in reward_funcs:
        # an object with __call__ has no __name__
        name = getattr(function, "__name__", type(function).__name__)
        if name in named:
            raise UserError(f"two rewards are called {name!r}; rename one")
        named[name] = function
    return named
