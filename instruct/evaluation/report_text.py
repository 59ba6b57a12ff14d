"""`report.md`: what a run did, for a person to read."""

from instruct.evaluation.diagnosis.diagnose import lines as diagnosis_lines
from instruct.evaluation.judgements import WHY
from instruct.evaluation.tables import (
    HOW_COMPARED,
    counted,
    models_table,
    people_tables,
    prompts_asked,
    rates_table,
    table_lines,
    time_table,
)
from instruct.evaluation.tasks.task_list import TASKS
from instruct.evaluation.verdict import checks, figure_one, headline, independent, percent
from instruct.plain_text import markdown_code, markdown_text

SHOWN_ANSWERS = 12  # prompts in the tables of answers side by side


def _named(rows: list[list[str]]) -> list[str]:
    """A table whose header and first column hold names, and whose other cells are numbers."""
    header, *rows = rows
    return table_lines(
        [[*map(markdown_text, header)], *([markdown_text(r[0]), *r[1:]] for r in rows)]
    )


def _verdict_section(report: dict) -> list[str]:
    """Does the policy win, and is that to be believed."""
    line = headline(report)
    if line is None:
        return []
    found = [f"- {markdown_text(check.sentence())}" for check in checks(report)]
    return [f"**{markdown_text(line)}**", "", *found, f"- {markdown_text(independent(report))}", ""]


def _figure_section(report: dict) -> list[str]:
    table = figure_one(report)
    if not table:
        return []
    header, *rows = table
    lines = [
        "## The paper's figure 1",
        "",
        f"How often each model's answer is preferred by {markdown_text(report['judge'])}; "
        "intervals are 95 % bootstrap over users.",
        "",
        *table_lines([[markdown_text(cell) for cell in row] for row in [header, *rows]]),
        "",
    ]
    for name, model in report["models"].items():
        if examples := model.get("examples"):
            lines += [
                f"{markdown_text(name)} answers after {len(examples['pairs'])} questions with "
                f"answers of {markdown_code(examples['file'])}.",
                "",
            ]
    return lines


def _steps_section(report: dict) -> list[str]:
    """What each step of the run did; a step that was not run has no paragraph."""
    lines = []
    for key, title in (("data", "Prompts"), ("demonstrations", "Demonstrations")):
        if counts := report.get(key):
            lines += [f"## {title}", "", counted(counts), ""]
    if sft := report.get("sft"):
        change = f"{sft['eval_loss_before']:.3f} → {sft['eval_loss_after']:.3f}"
        lines += ["## Step 1: SFT", "", f"Evaluation loss {change} (held-out demonstrations).", ""]
    if "accuracy" in (reward := report.get("reward") or {}):
        # a share means little without its interval: held-out rankings are few
        accuracy, low, high = (
            100 * reward[key] for key in ("accuracy", "accuracy_low", "accuracy_high")
        )
        ranked_by = markdown_text(report.get("ranked_by") or "labelers that were not recorded")
        of_file = f" of {markdown_code(reward['rankings'])}" if "rankings" in reward else ""
        lines += [
            "## Step 2: reward model",
            "",
            f"Held-out accuracy {accuracy:.1f} % [{low:.1f}, {high:.1f}] "
            f"on {reward['n_pairs']} pairs{of_file} ranked by {ranked_by}.",
            "",
        ]
    if steps := report.get("ppo", {}).get("steps"):
        kl = f"Last step: KL {steps[-1]['kl']:.2f} nats per response."
        lines += ["## Step 3: PPO", "", "![PPO curves](ppo.png)", "", kl, ""]
    return lines


def _comparison_section(report: dict) -> list[str]:
    """Models and their win rates, by each judge."""
    asked = report.get("asked")
    return [
        "## Comparison on users never seen in training",
        "",
        *([f"Asked: {prompts_asked(asked)}.", ""] if asked else []),
        f"Gold: {markdown_text(report['judge'])}. {HOW_COMPARED}",
        "",
        *_named(models_table(report)),
        "",
        *_named(rates_table(report)),
    ]


def _compared_lines(report: dict) -> list[str]:
    """Of judges that compare: what their replies came to."""
    lines = []
    for name, judge in report.get("judges", {}).items():
        if found := judge.get("compared"):
            lines += [
                "",
                f"{markdown_text(name)} compares answers two by two, in both orders: its score is "
                f"the share of comparisons that an answer wins; {found['disagreed']} of "
                f"{found['pairs']} pairs are ties as the two orders disagree, and "
                f"{found['unreadable']} of {found['replies']} replies could not be read.",
            ]
    return lines


def _people_section(report: dict) -> list[str]:
    """What people say of the answers, beside the first judge."""
    found = report.get("judgements")
    if not found:
        return []
    left_out = ", ".join(f"{n} {WHY[why]}" for why, n in found["left_out"].items())
    alike = found["agreement"]
    agree = "No two labelers order the same two answers."
    if alike:
        agree = f"Two labelers order two answers alike: {percent(alike)}, n = {alike['n_pairs']}."
    lines = [
        "",
        "## Judged by people",
        "",
        f"{found['used']} of {found['rows']} judgements are on these answers, by "
        f"{found['labelers']} labelers, of prompts of {found['users']} users"
        f"{f' (left out: {left_out})' if left_out else ''}. Intervals are 95 % bootstrap over "
        f"users and over labelers (Owen 2007); a tie counts half. {agree}",
        "",
    ]
    for table in people_tables(report):
        lines += [*_named(table), ""]
    return lines[:-1]


def _answers_section(report: dict, answers: dict[str, list[dict]]) -> list[str]:
    """Some prompts and each model's answers: as they are measured, and at a low temperature."""
    if not answers:
        return []
    shown = report.get("shown", {})
    count = len(next(iter(answers.values())))
    # drawn, not the best: nobody has picked them
    chosen = shown.get("rows", range(min(SHOWN_ANSWERS, count)))
    lines = ["", "## Side by side", ""]
    if shown:
        lines += [f"{len(chosen)} of {count} prompts, drawn with seed {shown['seed']}.", ""]
    if shown.get("temperature") is not None:
        cells = [[markdown_text(rows[i]["shown"]) for rows in answers.values()] for i in chosen]
        lines += [f"At temperature {shown['temperature']:g}, easier to read:", ""]
        lines += [*_answers_table(answers, chosen, cells), ""]
    cells = [[_scored(rows[i]) for rows in answers.values()] for i in chosen]
    if shown:
        lines += [
            f"As they are measured, at temperature {shown['measured_at']:g}, with gold scores:",
            "",
        ]
    return lines + _answers_table(answers, chosen, cells)


def _scored(row: dict) -> str:
    return f"{markdown_text(row['completion'])} ({row['gold']:+.2f})"


def _answers_table(
    answers: dict[str, list[dict]], chosen: list[int], cells: list[list[str]]
) -> list[str]:
    prompts = next(iter(answers.values()))
    rows = [
        [markdown_text(prompts[i]["prompt"][-1]["content"]), *row]
        for i, row in zip(chosen, cells, strict=True)
    ]
    return table_lines([["prompt", *map(markdown_text, answers)], *rows])


def markdown(report: dict, answers: dict[str, list[dict]], base: str | None) -> str:
    """The report as Markdown; what models and users wrote is escaped.

    Args:
        base: what is said of the base model, see `run_files.base_of_run`.
    """
    lines = ["# From prompt log to PPO: what this run did", ""]
    # first: a win that is not to be believed is no win
    lines += _verdict_section(report)
    # before the steps: what such a model can do is not their work
    if base:
        lines += [f"Base model: {base}.", ""]
    lines += _figure_section(report)
    if "diagnosis" in report:
        lines += diagnosis_lines(report["diagnosis"], report["diagnosis_rules"])
    lines += _steps_section(report)
    if "win_rate" in report:
        lines += _comparison_section(report) + _compared_lines(report) + _people_section(report)
    for name in report.get("tasks", []):
        if name in TASKS:
            lines += ["", *TASKS[name].lines(report[name])]
    lines += _answers_section(report, answers)
    if report.get("seconds"):
        lines += ["", "## Time", "", *_named(time_table(report))]
    return "\n".join(lines) + "\n"
