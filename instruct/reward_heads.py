"""The head of a reward model: how a new one starts, and what is written of a trained one."""

import math
from pathlib import Path

from accelerate import PartialState
from torch import nn
from transformers import PreTrainedModel

from instruct.arguments import ModelConfig
from instruct.evaluation.scores_beside import Scored, leave_scores
from instruct.files import write_json
from instruct.reward_checks import weights_hash


def init_head(model: PreTrainedModel) -> None:
    """A new head's weights ~ N(0, 1/(d+1)), as in Stiennon et al. 2020 (arXiv 2009.01325).

    A trained head is kept, and one of several labels is replaced, which is said.
    """
    if model.untrained.replaced_labels and PartialState().is_main_process:
        print(
            f"{model.name_or_path}: its head of {model.untrained.replaced_labels} labels is left "
            "out; a new one of one score is trained"
        )
    # small: scores start near 0, so every pair starts at a loss of log 2
    if "score.weight" in model.untrained.weights:
        nn.init.normal_(model.score.weight, std=1 / math.sqrt(model.score.in_features + 1))


def base_of_head(model_args: ModelConfig, record: dict) -> dict:
    """What `reward_head.json` says of the base: an adapter scores on these weights alone."""
    revision = model_args.model_revision
    known = {
        "base_revision": revision if revision != "main" else None,
        "base_commit": record["base"].get("commit"),
        "base_weights": weights_hash(model_args.model_name_or_path),
    }
    return {
        "base": model_args.model_name_or_path,
        **{name: value for name, value in known.items() if value},
    }


def save_head(output_dir: Path, head: dict, metrics: dict, scored: Scored | None = None) -> None:
    """Writes `reward_head.json` and, where rankings were held out, `metrics.json` and scores."""
    write_json(output_dir / "reward_head.json", head)
    if metrics:
        write_json(output_dir / "metrics.json", metrics)
        print(
            f"held-out accuracy {metrics['accuracy']:.3f} [{metrics['accuracy_low']:.3f}, "
            f"{metrics['accuracy_high']:.3f}], {metrics['n_pairs']} pairs"
        )
    # last: they are known by what was written
    if scored is not None:
        leave_scores(output_dir, scored.rows, [score + head["bias"] for score in scored.scores])
