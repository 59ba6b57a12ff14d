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
from pathlib import Path

from data_prep.formats.flags import add_shape_flags, shape_of
from data_prep.formats.forms import category, request_form
from data_prep.formats.identifiers import identifier_of
from data_prep.formats.reader import read
from instruct.checks.flag_ranges import DTYPES
from instruct.command.commands import Parser, command
from instruct.errors import UserError
from instruct.evaluation.answers import Model, all_answers
from instruct.evaluation.breakdown import GROUPS
from instruct.evaluation.comparison import compare
from instruct.evaluation.folder import check_folder, write_run_record
from instruct.evaluation.judgements import judged_by_people, read_judgements
from instruct.evaluation.modes import (
    FEW_SHOT,
    Asked,
    draw_examples,
    is_held_out,
    parse_asked,
    question_of,
)
from instruct.evaluation.panel import add_scores, fit_judge, panel_of, reward_judge
from instruct.evaluation.report import write_report
from instruct.evaluation.report_text import SHOWN_ANSWERS
from instruct.run.data_runs import add_overwrite
from instruct.run.folders import claim
from instruct.tokens import FOR_TEMPLATE

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
    add("--input", required=True, help="held-out prompts: file, folder or Hub id")
    add("--output_dir", type=Path, required=True)
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
            **groups_of(row),
            **{key: row[key] for key in FOR_TEMPLATE if key in row},
        }
        for i, row in enumerate(rows)
    ]


def groups_of(row: dict) -> dict[str, str | None]:
    """What win rates are also told by; of rows that do not say, as the prompt reads."""
    asked = question_of(row["prompt"])
    read_as = {"request_form": request_form(asked), "category": category(asked)}
    return {**read_as, **{key: row[key] for key in GROUPS if row.get(key) is not None}}


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


def examples_of(asked: Asked, prompts: list[dict], seed: int) -> list[list[str]]:
    """The pairs of question and answer that a model is shown first: none but for `few_shot`."""
    if asked.mode != FEW_SHOT:
        return []
    rows = read(asked.file, "demonstrations", "train").to_list()
    return draw_examples(rows, prompts, asked.file, seed)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    # what cannot work is told before anything is answered
    models, judges = models_of(args), panel_of(args.judge, args.judge_name, args.judge_prompt)
    judged = read_judgements(args.judgements, models) if args.judgements else []
    fit = fit_judge(args.fit_model) if args.fit_model else None
    started = time.monotonic()
    claim(args.output_dir)
    check_folder(args.output_dir)
    reward = reward_judge(args.reward) if args.reward else None

    # 1. The same prompts for every model
    prompts = held_out_prompts(args.input, args.limit, args.seed, **shape_of(args))
    asked = [Model(n, m, examples_of(m, prompts, args.seed)) for n, m in models.items()]
    write_run_record(models, args)
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
    result["shown"] = {
        "rows": shown,
        "seed": args.seed,
        "temperature": args.show_temperature,
        "measured_at": args.temperature,
    }
    result["seconds"] = {"evaluate": round(time.monotonic() - started, 1)}

    write_report(args.output_dir, result, answers, args.run_dir, args.reward)


if __name__ == "__main__":
    main()
