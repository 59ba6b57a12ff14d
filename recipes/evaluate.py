"""Step 4: measure on users never seen in training: win rates against a baseline (paper, 3.6).

    python recipes/evaluate.py --models base=… sft=… ppo=… --input prompts/test.parquet \\
        --output_dir DIR

Every model answers the same prompts, of users never seen in training; judges score the answers.
The first judge is the gold standard (`--judge`, the scripted labeler by default); other judges, the
reward model and the answers' length stand beside it, and what people said of the very same answers
(`--judgements`, docs/labeling.md). The paper's baselines are models asked without
a chat template: `gpt=PATH:raw` on the bare prompt, `prompted=PATH:few_shot=FILE` after some
demonstrations. A win rate of `--policy` counts only where its answers are near those of
`--reference`, differ from each other and fit their prompts: the report's first lines say so.
Writes `answers.jsonl`, and with `--run_dir` (a folder with prompts/ sft/ reward/ ppo/ inside) the
whole run's `report.html`, `report.md` and `report.json`.
Killed and run again, models that have answered are not asked again.
"""

import instruct.command.ctrl_c  # noqa: F401  # isort: skip  (first: imports take seconds)

import argparse
import random
import time
from functools import partial
from pathlib import Path

from data_prep.formats.evaluation_rows import examples_of, held_out_prompts, rankings_in
from data_prep.formats.flags import add_shape_flags, shape_of
from instruct.bases import add_base_model, there
from instruct.checks.flag_ranges import DTYPES
from instruct.command.commands import Parser, command
from instruct.errors import UserError
from instruct.evaluation.answers import Model, all_answers
from instruct.evaluation.comparison import compare
from instruct.evaluation.folder import check_folder, write_run_record
from instruct.evaluation.judgements import (
    Judgement,
    check_prompts,
    judged_by_people,
    read_judgements,
)
from instruct.evaluation.modes import Asked, described, parse_asked
from instruct.evaluation.panel import Judge, add_scores, fit_judge, panel_of, reward_judge
from instruct.evaluation.report import write_report
from instruct.evaluation.report_text import SHOWN_ANSWERS
from instruct.evaluation.scripted import SCRIPTED_TIE
from instruct.evaluation.tasks.task_list import (
    HELPFUL,
    add_tasks,
    check_tasks,
    measure_tasks,
    parse_tasks,
)
from instruct.evaluation.trackers import check_trackers, track
from instruct.run.data_runs import add_overwrite
from instruct.run.folders import claim

STEPS = ("prompts", "sft", "reward", "ppo")  # folders of a run


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
    add("--input", help="held-out prompts: file, folder or Hub id")
    add("--output_dir", type=Path, required=True, help="where the report is written")
    add = parser.add_argument_group("judges, and what is compared").add_argument
    add("--reward", help="reward model, as second judge")
    add(
        "--judge",
        nargs="+",
        default=["scripted"],
        metavar="JUDGE",
        help="scripted, scripted:MODEL, reward:PATH, logprob:MODEL, llm:MODEL@URL or "
        "module:function, one or several; the first is the gold standard",
    )
    add("--judge_name", nargs="+", metavar="NAME", help="what the report calls each judge")
    add("--judge_prompt", type=Path, help="a file: what an LLM is asked, in place of ours")
    people = "what people said of these answers, by data_prep.label --kind judgements"
    add("--judgements", metavar="FILE", help=people)
    add("--fit_model", help="the model that says how well answers fit their prompts")
    tie = (
        f"gold scores closer than this are a tie; default {SCRIPTED_TIE} of the scripted labeler, "
    )
    add("--tie", type=float, help=tie + "0 of others, whose points are other ones")
    add("--reference", help="the model that others are measured from; default sft")
    win = "the model whose win against --reference is to be proven; default ppo"
    add("--policy", help=win)
    add("--run_dir", type=Path, help="the run to report on (prompts/ sft/ reward/ ppo/ inside)")
    add = parser.add_argument_group("answers").add_argument
    add("--limit", type=int, default=200, help="this many prompts, drawn with --seed")
    add("--max_new_tokens", type=int, default=64, help="longest answer")
    add("--temperature", type=float, default=1.0, help="of the answers that are measured")
    shown = "of the answers beside them in the report, easier to read; off: none"
    add("--show_temperature", type=temperature, default=0.5, help=shown)
    add("--batch_size", type=int, default=64, help="answers drawn or scored at once")
    add("--dtype", default="float32", choices=DTYPES, help="of the models' weights")
    add("--seed", type=int, default=0, help="of answers, and of what is drawn")
    add = parser.add_argument_group("trackers").add_argument
    to = "trackers that get the figures and the answers shown: tensorboard, trackio, wandb"
    add("--report_to", nargs="+", default=[], metavar="NAME", help=to)
    add("--project", default="huggingface", help="of trackio and wandb")
    add_base_model(parser)
    add_shape_flags(parser)
    add_overwrite(parser, "start over: ask every model anew")
    add_tasks(parser)
    return parser.parse_args(argv)


def temperature(word: str) -> float | None:
    return None if word.lower() in ("off", "none") else float(word)


def models_of(args: argparse.Namespace) -> dict[str, Asked]:
    """`--models`, and that what is measured is there to be measured.

    Raises:
        UserError: a mode or a task that there is not, or held-out rows as examples.
    """
    models = parse_asked(args.models)
    for asked in models.values():
        there(asked.path, "policy")
    there(args.reward, "reward")
    for flag, usual in (("reference", "sft"), ("policy", "ppo")):
        name = getattr(args, flag)
        if name is not None and name not in models:
            raise UserError(f"--{flag} {name}: is none of --models ({', '.join(models)})")
        setattr(args, flag, name or usual)
    if args.tie is None:
        args.tie = SCRIPTED_TIE if args.judge[0].partition(":")[0] == "scripted" else 0.0
    args.task_models = parse_tasks(args.tasks, models)
    args.tasks = list(args.task_models)
    if HELPFUL in args.tasks and not args.input:
        raise UserError("--input is missing: the held-out prompts that every model answers")
    if HELPFUL not in args.tasks and args.judgements:
        raise UserError(f"--judgements is on the answers of --tasks {HELPFUL}; add that task")
    run = args.run_dir
    if run is not None and not any((run / step).is_dir() for step in STEPS):
        raise UserError(f"--run_dir {run}: no such run; it has to hold {', '.join(STEPS)}")
    return models


def helpful(
    models: dict[str, Asked],
    judges: list[Judge],
    fit: Judge | None,
    reward: Judge | None,
    judged: list[Judgement],
    args: argparse.Namespace,
) -> tuple[dict, dict[str, list[dict]]]:
    """What judges say of every model's answers to the same prompts, and {model: its answers}."""
    # 1. The same prompts for every model
    prompts = args.prompts
    asked = [Model(n, m, examples_of(m, prompts, args.seed)) for n, m in models.items()]
    # drawn, so that nobody has picked them
    count = min(SHOWN_ANSWERS, len(prompts))
    shown = sorted(random.Random(args.seed).sample(range(len(prompts)), count))
    answers = all_answers(asked, prompts, shown, args)
    # 2. Judges; the learned reward beside the gold one: a gap is over-optimisation
    add_scores(answers, judges, fit, reward, args.output_dir)
    # 3. Win rates, intervals, and whether a win is one
    users = [row["user_id"] for row in prompts]
    result = compare(asked, answers, judges, users, args)
    if judged:
        result["judgements"] = judged_by_people(args.judgements, judged, answers, users)
    result["asked"] = args.asked
    result["shown"] = {
        "rows": shown,
        "seed": args.seed,
        "temperature": args.show_temperature,
        "measured_at": args.temperature,
    }
    return result, answers


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    # what cannot work is told before anything is asked
    models, judges = models_of(args), panel_of(args.judge, args.judge_name, args.judge_prompt)
    judged = read_judgements(args.judgements, models) if args.judgements else []
    fit = fit_judge(args.fit_model) if args.fit_model else None
    check_trackers(args.report_to)
    started = time.monotonic()
    claim(args.output_dir)
    check_folder(args.output_dir)
    reward = reward_judge(args.reward) if args.reward else None
    # what tasks need of the same prompts, and of rankings and examples in any shape
    if args.input:
        shape = shape_of(args)
        args.prompts, args.asked = held_out_prompts(args.input, args.limit, args.seed, **shape)
    if judged:
        check_prompts(args.judgements, judged, args.prompts)
    args.read_rankings = partial(rankings_in, **shape_of(args))
    args.examples_of = examples_of
    check_tasks(models, args)
    write_run_record(models, [*judges, fit, reward], args)

    result, answers = {"models": described(models)}, {}
    if HELPFUL in args.tasks:
        result, answers = helpful(models, judges, fit, reward, judged, args)
    seconds = {"evaluate": round(time.monotonic() - started, 1)}
    found, of_tasks = measure_tasks(models, args)
    result |= {**found, "tasks": args.tasks, "seconds": seconds | of_tasks}
    report = write_report(args.output_dir, result, answers, args.run_dir, args.reward)
    track(report, answers, args.report_to, args.output_dir, args.project)


if __name__ == "__main__":
    main()
