"""What the page shows: the result, a panel for each step, and everything that was measured."""

from collections.abc import Callable

from instruct.evaluation.comparison import rate_against
from instruct.evaluation.diagnosis.diagnose import SPOKEN
from instruct.evaluation.html import figures, step_panels
from instruct.evaluation.html.parts import Panel, Samples, Table
from instruct.evaluation.report_text import SHOWN_ANSWERS
from instruct.evaluation.tables import (
    HOW_COMPARED,
    interval,
    models_table,
    of_all,
    people_tables,
    prompts_asked,
    rates_table,
    time_table,
)
from instruct.evaluation.verdict import figure_one, percent


def panels_of(report: dict) -> list[Panel]:
    """The parts of the page for which this report has something."""
    parts: list[Callable[[dict], Panel | None]] = [
        _figure_one,
        _diagnosis,
        step_panels.prompts,
        step_panels.demonstrations,
        step_panels.sft,
        step_panels.reward,
        step_panels.ppo,
        step_panels.overoptimisation,
        _comparison,
        _people,
        _harmless,
        *(_choices(name, title) for name, title in CHOICES.items()),
        _made_by,
    ]
    return [panel for part in parts if (panel := part(report)) is not None]


################
# The result
################


def _figure_one(report: dict) -> Panel | None:
    table = figure_one(report)
    if not table:
        return None
    names = list(report["models"])
    reference = report.get("reference")
    reference = reference if reference in names else names[0]
    rows = [
        (name, entry)
        for name in names
        if name != reference and (entry := rate_against(report["win_rate"], name, reference))
    ]
    title = f"Answers preferred to those of {reference}"
    return Panel(
        "The paper's figure 1",
        [("Preferred by", f"{report['judge']}, on prompts of users never seen in training")],
        [figures.win_rates(title, rows)],
        [Table("How often each model's answer is preferred", table)],
    )


def _diagnosis(report: dict) -> Panel | None:
    if "diagnosis" not in report:
        return None
    found, rules = report["diagnosis"], report.get("diagnosis_rules", {})
    points = [
        (SPOKEN[one["step"]], f"{one['found']}. Remedy: {one['remedy']}.".replace("..", "."))
        for one in found
    ]
    if not found:
        checked = ", ".join(name.replace("_", " ") for name in rules.get("checked", []))
        points = [("Nothing wrong was found", f"Rules that could be checked: {checked or 'none'}.")]
    missing = [["rule", "what it lacks"]] + [
        [name.replace("_", " "), why] for name, why in rules.get("not_checked", {}).items()
    ]
    evidence = [["rule", "step", "evidence"]] + [
        [
            one["rule"].replace("_", " "),
            one["step"],
            ", ".join(f"{key} {_number(value)}" for key, value in one["evidence"].items()),
        ]
        for one in found
    ]
    tables = [Table("Evidence", evidence)] if found else []
    tables += [Table("Not checked", missing, folded=True)] if len(missing) > 1 else []
    return Panel("Which step failed?", points, [], tables)


def _number(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


################
# The evaluation
################


def _comparison(report: dict) -> Panel | None:
    if "win_rate" not in report:
        return None
    tables = [
        Table("What each judge gives each model's answers", models_table(report)),
        Table("Win rates", rates_table(report)),
    ]
    if controlled := report.get("win_rate_length_controlled"):
        header = ["pair", f"by {report['judge']}", "at equal length", "effect of length"]
        rows = [
            [
                pair.replace("_vs_", " against "),
                percent(report["win_rate"][pair]),
                percent(entry),
                f"{entry['length_effect']:+.2f}",
            ]
            for pair, entry in controlled.items()
        ]
        tables.append(Table("Length-controlled, as AlpacaEval 2", [header, *rows]))
    for key, groups in (report.get("win_rate_by") or {}).items():
        pairs = list(next(iter(groups.values()))["win_rate"])
        header = [key.replace("_", " "), "prompts", *(p.replace("_vs_", " : ") for p in pairs)]
        rows = [
            [name, str(group["n"]), *(percent(group["win_rate"][pair]) for pair in pairs)]
            for name, group in groups.items()
        ]
        tables.append(Table(f"By {header[0]}", [header, *rows], folded=True))
    points = [("How", HOW_COMPARED)]
    if asked := report.get("asked"):
        points.insert(0, ("Asked", f"{prompts_asked(asked)}."))
    return Panel("Comparison on users never seen in training", points, [], tables)


def _people(report: dict) -> Panel | None:
    found = report.get("judgements")
    if not found:
        return None
    who = f"{found['used']} judgements by {found['labelers']} labelers"
    captions = ("Preferred by people", "Quality, and questions answered with yes")
    tables = [Table(*both) for both in zip(captions, people_tables(report), strict=False)]
    return Panel("Judged by people", [("Who", f"{who}, of {found['users']} users.")], [], tables)


def _harmless(report: dict) -> Panel | None:
    found = report.get("harmless")
    if not found:
        return None
    header = ["model", "told", "mean", "worst of its samples", "above 0.5"]
    rows = [
        [name, told, *(interval(entry.get(key)) for key in ("mean", "worst", "above_half"))]
        for name, model in found["models"].items()
        for told, entry in model.items()
        if isinstance(entry, dict) and "mean" in entry
    ]
    points = [
        ("How", f"{found['samples']} samples of each, scored by {found['scorer']}; 0 is harmless, "
         "1 toxic."),
        ("Asked", f"{prompts_asked(found, 'n_prompts')}.")
    ]  # fmt: skip
    return Panel("Harmless", points, [], [Table("Toxicity", [header, *rows])])


CHOICES = {"truthful": "Truthful", "tax": "What was forgotten (alignment tax)"}


def _choices(name: str, title: str) -> Callable[[dict], Panel | None]:
    def panel(report: dict) -> Panel | None:
        found = report.get(name)
        if not found:
            return None
        tables = []
        for file, one in found["files"].items():
            keys = list(dict.fromkeys(
                key for model in one["models"].values() for key, value in model.items()
                if isinstance(value, dict) and "mean" in value
            ))  # fmt: skip
            rows = [
                [model, *(interval(values.get(key)) for key in keys)]
                for model, values in one["models"].items()
            ]
            header = ["model", *(key.replace("_", " ") for key in keys)]
            asked = of_all(one["n"], one.get("of"), "items", found.get("seed"))
            tables.append(Table(f"{file} ({asked})", [header, *rows]))
        return Panel(title, [], [], tables)

    return panel


################
# How it was made
################


def _made_by(report: dict) -> Panel | None:
    tables = []
    made = report.get("made_by") or {}
    if made:
        keys = ("base", "seed", "hardware")
        rows = [
            [step, *("–" if one.get(key) is None else str(one[key]) for key in keys)]
            for step, one in made.items()
        ]
        tables.append(Table("Steps", [["step", *keys], *rows]))
        names = list(dict.fromkeys(name for one in made.values() for name in one["versions"]))
        rows = [[n, *(str(o["versions"].get(n, "–")) for o in made.values())] for n in names]
        tables.append(Table("Versions", [["package", *made], *rows], folded=True))
        for step, one in made.items():
            rows = [[name, str(value)] for name, value in one["flags"].items()]
            tables.append(Table(f"Settings of {step}", [["flag", "value"], *rows], folded=True))
    if report.get("seconds"):
        tables.append(Table("Time", time_table(report)))
    return Panel("How it was made", [], [], tables) if tables else None


################
# Answers
################


def samples_of(report: dict, answers: dict[str, list[dict]]) -> Samples | None:
    """Prompts that were drawn, with every model's answers; None without answers."""
    if not answers:
        return None
    shown = report.get("shown", {})
    rows = next(iter(answers.values()))
    chosen = shown.get("rows", range(min(SHOWN_ANSWERS, len(rows))))
    about = f"{len(chosen)} of {len(rows)} prompts"
    about += f", drawn with seed {shown['seed']}: nobody picked them." if shown else "."
    ways = []
    if shown.get("temperature") is not None:
        ways.append((f"temperature {shown['temperature']:g}, easier to read", "shown"))
    measured = f"temperature {shown['measured_at']:g}" if shown else "the temperature asked for"
    ways.append((f"{measured}, as they are measured", "completion"))
    found = [
        {
            "prompt": rows[i]["prompt"][-1]["content"],
            "answers": [
                [
                    {
                        "model": name,
                        "text": of[i][key],
                        # the score is that of what was measured
                        "gold": of[i].get("gold") if key == "completion" else None,
                    }
                    for name, of in answers.items()
                ]
                for _, key in ways
            ],
        }
        for i in chosen
    ]
    return Samples(about, [title for title, _ in ways], found)
