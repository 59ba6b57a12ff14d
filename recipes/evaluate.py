"""Step 4: measure on users never seen in training: win rates against a baseline (paper, 3.6).

    python recipes/evaluate.py --models base=… sft=… ppo=… --input prompts/test.parquet \\
        --output_dir DIR

Every model answers the same prompts, of users never seen in training; judges score the answers.
The first judge is the gold standard (`--judge`, the scripted labeler by default); the reward model
and the answers' length stand beside it. Writes `answers.jsonl`, and with `--run_dir` (a folder with
prompts/ sft/ reward/ ppo/ inside) the whole run's `report.json`, `report.md` and curves.
Killed and run again, models that have answered are not asked again.
"""

import instruct.command.ctrl_c  # noqa: F401  # isort: skip  (first: imports take seconds)

import argparse
import json
import random
import time
from pathlib import Path

from accelerate import PartialState

from data_prep.formats.flags import add_shape_flags, shape_of
from data_prep.formats.identifiers import identifier_of
from data_prep.formats.reader import read
from instruct.arguments import load_function, parse_models
from instruct.checks.flag_ranges import DTYPES
from instruct.command.commands import Parser, command
from instruct.errors import UserError
from instruct.evaluation.answers import kept_or_new_answers
from instruct.evaluation.comparison import summarize, win_rates
from instruct.evaluation.report import base_of_run, write_report
from instruct.models import RewardModel, load_reward
from instruct.plain_text import check_name
from instruct.run.data_runs import add_overwrite
from instruct.run.fingerprints import data_identity, model_identity
from instruct.run.folders import claim, report_in
from instruct.run.run_record import check_step, read_record, versions, write_record
from instruct.tokens import FOR_TEMPLATE

REPORT = ("report.json", "report.md", "answers.jsonl")  # what it replaces in its output folder


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        required=True,
        metavar="NAME=PATH",
        help="models or adapters to compare",
    )
    add("--input", required=True, help="held-out prompts: file, folder or Hub id")
    add("--output_dir", type=Path, required=True)
    add("--reward", help="reward model, as second judge")
    add("--judge", default="data_prep.label:scripted_reward", help="gold judge, module:function")
    add("--judge_name", default="the scripted labeler", help="what the report calls that judge")
    add("--tie", type=float, default=0.3, help="gold scores closer than this are a tie")
    add("--reference", default="sft", help="the model that KL is measured from")
    add("--run_dir", type=Path, help="the run to report on (prompts/ sft/ reward/ ppo/ inside)")
    add("--limit", type=int, default=200, help="this many prompts, drawn with --seed")
    add("--max_new_tokens", type=int, default=64)
    add("--temperature", type=float, default=1.0)
    add("--batch_size", type=int, default=64)
    add("--dtype", default="float32", choices=DTYPES)
    add("--seed", type=int, default=0)
    add_shape_flags(parser)
    add_overwrite(parser, "start over: ask every model anew")
    return parser.parse_args(argv)


################
# The same prompts for every model
################


def held_out_prompts(source: str, limit: int, seed: int, **shape) -> list[dict]:
    """`limit` rows of `source`, drawn with `seed`: prompt_id, user_id, prompt [messages].

    Args:
        shape: `format` and `columns` of the rows, see `data_prep.formats.reader.read`.
    """
    rows = read(source, "prompts", "test", **shape).to_list()
    # drawn, not the first: files are often sorted by user
    rows = random.Random(seed).sample(rows, min(limit, len(rows)))
    return [
        {
            "prompt_id": identifier_of(row, "id", source) or str(i),
            # without users every prompt is a cluster of its own
            "user_id": identifier_of(row, "user_id", source) or f"prompt {i}",
            "prompt": row["prompt"],
            **{key: row[key] for key in FOR_TEMPLATE if key in row},
        }
        for i, row in enumerate(rows)
    ]


################
# The output folder
################


def check_folder(output_dir: Path) -> None:
    """That nothing in the output folder is replaced but an earlier evaluation.

    Raises:
        UserError: it holds another command's run, or a report that this one did not write.
    """
    found = read_record(output_dir)
    if found is not None:
        return check_step(output_dir, found, "evaluate")
    there = [name for name in REPORT if (output_dir / name).exists()]
    # earlier versions of this repo wrote no run.json
    is_ours = "answers.jsonl" in there and "win_rate" in report_in(output_dir)
    if there and not is_ours:
        raise UserError(
            f"--output_dir {output_dir} holds {', '.join(there)}, which no evaluation wrote; "
            "give another folder"
        )


def write_run_record(models: dict[str, str], args: argparse.Namespace) -> None:
    """`run.json`: which models, on which prompts, with which flags."""
    left_out = ("models", "input", "output_dir", "overwrite_output_dir")
    flags = {name: value for name, value in vars(args).items() if name not in left_out}
    record = {
        "step": "evaluate",
        "models": {name: model_identity(path) for name, path in models.items()},
        "reward": model_identity(args.reward),
        "data": {"input": data_identity(args.input, "test")},
        "flags": json.loads(json.dumps(flags, default=str)),
        "versions": versions(),
    }
    write_record(args.output_dir, record)


def add_reward_scores(answers: dict[str, list[dict]], reward: RewardModel) -> None:
    """Adds `reward`, the reward model's score, to every row."""
    # only now: until here the device was for those who answer
    reward.model.to(PartialState().device)
    for found in answers.values():
        columns = {key: [r[key] for r in found] for key in FOR_TEMPLATE if key in found[0]}
        prompts, completions = ([r[key] for r in found] for key in ("prompt", "completion"))
        scores = reward.score(prompts, completions, **columns)
        for row, score in zip(found, scores, strict=True):
            row["reward"] = score


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    check_name(args.judge_name, "--judge_name")
    models, judge = parse_models(args.models), load_function(args.judge, "--judge")
    started = time.monotonic()
    claim(args.output_dir)
    check_folder(args.output_dir)

    # what is no reward model is told before anything is answered
    reward = load_reward(args.reward) if args.reward else None

    # 1. The same prompts for every model
    prompts = held_out_prompts(args.input, args.limit, args.seed, **shape_of(args))
    write_run_record(models, args)
    answers = {
        name: kept_or_new_answers(name, path, prompts, judge, args) for name, path in models.items()
    }
    # 2. The learned reward beside the gold one: a gap is over-optimisation
    if reward is not None:
        add_reward_scores(answers, reward)

    # 3. Win rates and intervals; shorter wins, to see a judge that only likes brevity
    users = [row["user_id"] for row in prompts]
    result = {
        "judge": args.judge_name,
        "models": {name: summarize(name, models, answers[name], users, args) for name in models},
        "win_rate": win_rates(answers, users, lambda row: row["gold"], args.tie),
        "win_rate_by_reward_model": {},
        "win_rate_shorter": win_rates(answers, users, lambda row: -row["tokens"]),
    }
    if args.reward:
        result["win_rate_by_reward_model"] = win_rates(answers, users, lambda row: row["reward"])
    result["seconds"] = {"evaluate": round(time.monotonic() - started, 1)}

    base = base_of_run(args.run_dir) if args.run_dir is not None else None
    write_report(args.output_dir, result, answers, args.run_dir, base)


if __name__ == "__main__":
    main()
