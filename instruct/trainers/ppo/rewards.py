"""Rewards: named functions of prompt and text, and the one score that PPO makes of what they
say.
"""

from collections.abc import Iterable, Sequence

import torch

from instruct.checks.score_functions import (
    ScoreFunction,
    as_functions,
    checked_scores,
    name_of,
    scores_of,
)
from instruct.errors import UserError
from instruct.evaluation.judges import judge_model
from instruct.run.fingerprints import source_hash
from instruct.trainers.ppo.config import SharedBasePPOConfig


class Rewards:
    """Reward functions by name, in the order of `--reward_weights`.

    Args:
        functions: name -> function; the reward model, where there is one, comes first.
        args: the settings.

    Raises:
        UserError: not one weight for each.
    """

    def __init__(self, functions: dict[str, ScoreFunction], args: SharedBasePPOConfig):
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
            name: torch.tensor(
                self._call(name, prompts, texts, columns), dtype=torch.float32, device=self.device
            )
            for name in self.functions
        }

    def _call(self, name: str, prompts: list, texts: list[str], columns: dict) -> list[float]:
        function = self.functions[name]
        if name == "reward_model":
            # ours: an error in it is not the user's
            return checked_scores(function(prompts, texts, **columns), "the reward model", texts)
        return scores_of(function, f"reward function {name!r}", prompts, texts, **columns)

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
    reward_model: ScoreFunction | None, reward_funcs: ScoreFunction | Iterable[ScoreFunction]
) -> dict[str, ScoreFunction]:
    """The functions by name, `reward_model` first.

    Raises:
        UserError: two have one name, or one is no function.
    """
    named = {} if reward_model is None else {"reward_model": reward_model}
    for function in as_functions(reward_funcs):
        name = name_of(function)
        if name in named:
            raise UserError(
                f"two rewards are called {name!r}; rename one (a judge, which is called by its "
                "kind: ask it in a function of your own)"
            )
        named[name] = function
    return named


def models_of_rewards(specs: Sequence[str]) -> dict[str, str]:
    """{flag and kind: the model that a judge of `--reward_funcs` asks}, as a run records it."""
    return {
        f"reward_funcs {spec.partition(':')[0]}": judge_model(spec)
        for spec in filter(judge_model, specs)
    }


def versions_of(functions: dict[str, ScoreFunction]) -> dict[str, str]:
    """{spec: what tells a function's code from another's}, as a run records it."""
    return {spec: (source_hash(function) or "")[:12] for spec, function in functions.items()}
