"""Step 4: measure on users never seen in training: win rates against a baseline (paper, 3.6).

    python recipes/evaluate.py --models base=… sft=… ppo=… --input prompts/test.parquet \\
        --output_dir DIR

Every model answers the same prompts, of users never seen in training; judges score the answers.
The first judge is the gold standard (`--judge`, the scripted labeler by default); other judges, the
reward model and the answers' length stand beside it. The paper's baselines are models asked without
a chat template: `gpt=PATH:raw` on the bare prompt, `prompted=PATH:few_shot=FILE` after some
demonstrations. A win rate of `--policy` counts only where its answers are near those of
`--reference`, differ from each other and fit their prompts: the report's first lines say so.
Writes `answers.jsonl`, and with `--run_dir` (a folder with prompts/ sft/ reward/ ppo/ inside) the
whole run's `report.json`, `report.md` and curves.
Killed and run again, models that have answered are not asked again.
"""

import instruct.command.ctrl_c  # noqa: F401  # isort: skip  (first: imports take seconds)

import argparse
import json
import random
import re
import time
from pathlib import Path

from accelerate import PartialState

from data_prep.formats.flags import add_shape_flags, shape_of
from data_prep.formats.identifiers import identifier_of
from data_prep.formats.reader import read
from instruct.checks.flag_ranges import DTYPES
from instruct.command.commands import Parser, command
from instruct.errors import UserError
from instruct.evaluation.answers import Model, all_answers
from instruct.evaluation.collapse import checks_of, collapse_of, is_believed, rankings_of
from instruct.evaluation.comparison import rate_against, summarize, win_rates
from instruct.evaluation.modes import CHAT, FEW_SHOT, Asked, draw_examples, parse_asked
from instruct.evaluation.panel import Judge, add_scores, fit_judge, panel_of
from instruct.evaluation.report import base_of_run, write_report
from instruct.evaluation.report_text import SHOWN_ANSWERS
from instruct.models import RewardModel, load_reward
from instruct.rows.splits import stem_of
from instruct.run.data_runs import add_overwrite
from instruct.run.fingerprints import data_identity, model_identity
from instruct.run.folders import claim, report_in
from instruct.run.run_record import check_step, read_record, versions, write_record
from instruct.tokens import FOR_TEMPLATE

# words in the name of a file of rows that nothing is trained on
HELD_OUT = frozenset("validation valid val dev test eval evaluation heldout holdout".split())
STEPS = ("prompts", "sft", "reward", "ppo")  # folders of a run
REPORT = ("report.json", "report.md", "answers.jsonl")  # what it replaces in its output folder


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        required=True,
        metavar="NAME=PATH[:raw|:few_shot=FILE]",
        help="models or adapters to compare; :raw asks the bare prompt, :few_shot=FILE after some "
        "demonstrations of FILE, both without a chat template",
    )
    add("--input", required=True, help="held-out prompts: file, folder or Hub id")
    add("--output_dir", type=Path, required=True)
    add("--reward", help="reward model, as second judge")
    add(
        "--judge",
        nargs="+",
        default=["scripted"],
        metavar="JUDGE",
        help="scripted, scripted:MODEL, reward:PATH, logprob:MODEL or module:function, one or "
        "several; the first is the gold standard",
    )
    add("--judge_name", nargs="+", metavar="NAME", help="what the report calls each judge")
    add("--fit_model", help="the model that says how well answers fit their prompts")
    add("--tie", type=float, default=0.3, help="gold scores closer than this are a tie")
    add("--reference", help="the model that others are measured from; default sft")
    win = "the model whose win against --reference is to be proven; default ppo"
    add("--policy", help=win)
    add("--run_dir", type=Path, help="the run to report on (prompts/ sft/ reward/ ppo/ inside)")
    add("--limit", type=int, default=200, help="this many prompts, drawn with --seed")
    add("--max_new_tokens", type=int, default=64)
    add("--temperature", type=float, default=1.0, help="of the answers that are measured")
    shown = "of the answers beside them in the report, easier to read; off: none"
    add("--show_temperature", type=_temperature, default=0.5, help=shown)
    add("--batch_size", type=int, default=64)
    add("--dtype", default="float32", choices=DTYPES)
    add("--seed", type=int, default=0)
    add_shape_flags(parser)
    add_overwrite(parser, "start over: ask every model anew")
    return parser.parse_args(argv)


def _temperature(word: str) -> float | None:
    return None if word.lower() in ("off", "none") else float(word)


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


def models_of(args: argparse.Namespace) -> dict[str, Asked]:
    """`--models`, and that what is measured is there to be measured.

    Raises:
        UserError: a mode that there is not, or held-out rows as examples.
    """
    models = parse_asked(args.models)
    for name, (_, mode, file) in models.items():
        if mode == FEW_SHOT and is_held_out(file):
            raise UserError(
                f"--models {name}=…:{FEW_SHOT}={file}: held-out rows are no examples; give the "
                "training rows, or the folder that holds them"
            )
    for flag, usual in (("reference", "sft"), ("policy", "ppo")):
        name = getattr(args, flag)
        if name is not None and name not in models:
            raise UserError(f"--{flag} {name}: is none of --models ({', '.join(models)})")
        setattr(args, flag, name or usual)
    run = args.run_dir
    if run is not None and not any((run / step).is_dir() for step in STEPS):
        raise UserError(f"--run_dir {run}: no such run; it has to hold {', '.join(STEPS)}")
    return models


def is_held_out(file: str) -> bool:
    """Whether a file is, by its name, of another split than the training rows."""
    words = re.split(r"[^a-z]+", stem_of(Path(file)).lower())
    return Path(file).is_file() and not set(words).isdisjoint(HELD_OUT)


def examples_of(asked: Asked, prompts: list[dict], seed: int) -> list[list[str]]:
    """The pairs of question and answer that a model is shown first: none but for `few_shot`."""
    if asked.mode != FEW_SHOT:
        return []
    rows = read(asked.file, "demonstrations", "train").to_list()
    return draw_examples(rows, prompts, asked.file, seed)


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


def write_run_record(models: dict[str, Asked], args: argparse.Namespace) -> None:
    """`run.json`: which models, on which prompts, with which flags."""
    examples = {m.file: data_identity(m.file, "train") for m in models.values() if m.file}
    left_out = ("models", "input", "output_dir", "overwrite_output_dir")
    flags = {name: value for name, value in vars(args).items() if name not in left_out}
    record = {
        "step": "evaluate",
        "models": {
            name: {**model_identity(asked.path), "mode": asked.mode}
            for name, asked in models.items()
        },
        "reward": model_identity(args.reward),
        "data": {"input": data_identity(args.input, "test"), **examples},
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


################
# What they say of the models
################


def compare(
    models: list[Model],
    answers: dict[str, list[dict]],
    judges: list[Judge],
    users: list[str],
    args: argparse.Namespace,
) -> dict:
    """Means, win rates by each judge, and whether the policy's is to be believed."""

    def by(judge: Judge, tie: float) -> dict[str, dict]:
        return win_rates(answers, users, lambda row: row["scores"][judge.name], tie)

    modes = {model.name: model.asked.mode for model in models}
    reference = args.reference if modes.get(args.reference) == CHAT else None
    # the width of a tie is in the gold judge's own points
    rates = {judge.name: by(judge, 0.0 if n else args.tie) for n, judge in enumerate(judges)}
    result = {
        "judge": judges[0].name,
        "judges": {
            judge.name: {
                "spec": judge.spec,
                "independent": judge.is_independent,
                "win_rate": rates[judge.name],
            }
            for judge in judges
        },
        "reference": reference,
        "models": {m.name: summarize(m, answers[m.name], users, reference) for m in models},
        "win_rate": rates[judges[0].name],
        "win_rate_by_reward_model": {},
        # shorter wins, to see a judge that only likes brevity
        "win_rate_shorter": win_rates(answers, users, lambda row: -row["tokens"]),
    }
    if args.reward:
        result["win_rate_by_reward_model"] = win_rates(answers, users, lambda row: row["reward"])
    if reference is not None and modes.get(args.policy) == CHAT:
        collapse = collapse_of(result["models"], args.policy, reference, rankings_of(args.run_dir))
        if collapse is not None:
            holds = {check.key: check.holds for check in checks_of(collapse)}
            result["collapse"] = {**collapse, "holds": holds, "believed": is_believed(collapse)}
    result["baselines"] = baselines(models, result, args)
    return result


def baselines(models: list[Model], result: dict, args: argparse.Namespace) -> dict[str, dict]:
    """The models that were not trained here, each with what the policy and SFT win against it.

    Those asked without a template, and the same model asked by its own.
    """
    plain = {model.asked.path for model in models if model.asked.mode != CHAT}
    return {
        model.name: {
            "mode": model.asked.mode,
            "path": model.asked.path,
            **{
                f"{ours}_wins": rate_against(result["win_rate"], ours, model.name)
                for ours in (args.reference, args.policy)
                if ours in result["models"] and ours != model.name
            },
        }
        for model in models
        if model.asked.path in plain or model.name in ("base", "instruct")
    }


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    # what cannot work is told before anything is answered
    models, judges = models_of(args), panel_of(args.judge, args.judge_name)
    fit = fit_judge(args.fit_model) if args.fit_model else None
    started = time.monotonic()
    claim(args.output_dir)
    check_folder(args.output_dir)
    reward = load_reward(args.reward) if args.reward else None

    # 1. The same prompts for every model
    prompts = held_out_prompts(args.input, args.limit, args.seed, **shape_of(args))
    asked = [Model(n, m, examples_of(m, prompts, args.seed)) for n, m in models.items()]
    write_run_record(models, args)
    # drawn, so that nobody has picked them
    count = min(SHOWN_ANSWERS, len(prompts))
    shown = sorted(random.Random(args.seed).sample(range(len(prompts)), count))
    answers = all_answers(asked, prompts, shown, args)
    # 2. Judges; the learned reward beside the gold one: a gap is over-optimisation
    add_scores(answers, judges, fit, args.output_dir)
    if reward is not None:
        add_reward_scores(answers, reward)

    # 3. Win rates, intervals, and whether a win is one
    users = [row["user_id"] for row in prompts]
    result = compare(asked, answers, judges, users, args)
    result["shown"] = {
        "rows": shown,
        "seed": args.seed,
        "temperature": args.show_temperature,
        "measured_at": args.temperature,
    }
    result["seconds"] = {"evaluate": round(time.monotonic() - started, 1)}

    base = base_of_run(args.run_dir) if args.run_dir is not None else None
    write_report(args.output_dir, result, answers, args.run_dir, base)


if __name__ == "__main__":
    main()
