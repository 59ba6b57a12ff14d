"""`report.html`: it holds what the report holds, loads nothing, and what models wrote is text."""

import re
import sys
from html.parser import HTMLParser

import pytest
from browser_tools import SIZES, launched, needs_browser

from instruct.evaluation.html.page import html
from instruct.evaluation.statistics import win_rate

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }} \u202e \x00 $x_1$ </svg>"
NAMES = ("sft", "ppo")


def interval(mean: float) -> dict:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}


def report(said: str = "fine", judge: str = "labeler") -> tuple[dict, dict]:
    """A report of two models with every part, and their answers."""
    answers = {
        name: [
            {
                "prompt": [{"role": "user", "content": f"question {i} {said}"}],
                "completion": f"answer {i} of {name} {said}",
                "shown": f"calm answer {i} of {name} {said}",
                "gold": float(i % 3 + shift),
            }
            for i in range(9)
        ]
        for shift, name in enumerate(NAMES)
    }
    users = [str(i % 5) for i in range(9)]
    rates = {
        "ppo_vs_sft": win_rate(
            *([row["gold"] for row in answers[name]] for name in ("ppo", "sft")), users
        )
    }
    model = {
        "mode": "chat", "gold": interval(0.3), "tokens": interval(12.0), "ended": interval(0.9),
        "scores": {judge: interval(0.3)}, "distinct2": 0.8, "kl_from_sft": 2.97,
    }  # fmt: skip
    missing = {f"{key}_missing": "" for key in ("kl", "distinct2", "fit", "strict")}
    found = {
        "judge": judge,
        "judges": {judge: {"independent": True, "win_rate": rates}},
        "reference": "sft",
        "users": 5,
        "models": {name: {"path": name, **model} for name in NAMES},
        "win_rate": rates,
        "win_rate_by_reward_model": {},
        "win_rate_shorter": rates,
        "collapse": {
            "policy": "ppo", "reference": "sft", "kl": 2.97, "distinct2_ratio": 0.4,
            "fit_ratio": 0.97, "strict_share": None, "tie": 0.5, **missing,
        },
        "shown": {"rows": [1, 4], "seed": 3, "temperature": 0.5, "measured_at": 1.0},
        "data": {"in": 9, "kept": {"train": 7}, "removed": {"pii": 2}},
        "demonstrations": {"in": 5, "kept": {"train": 5}, "removed": {}},
        "sft": {
            "eval_loss_before": 4.043,
            "eval_loss_after": 3.239,
            "steps": [{"step": 0, "eval_loss": 4.043}, {"step": 5, "loss": 3.8},
                      {"step": 10, "loss": 3.5, "eval_loss": 3.239}],
        },
        "ranked_by": said,
        "reward": {
            "accuracy": 0.758, "accuracy_low": 0.716, "accuracy_high": 0.797, "n_pairs": 812,
            "n_rankings": 99, "n_rows": 104,
            "by_rank_distance": {"1": {"accuracy": 0.68, "n_pairs": 400}},
            "calibration": {
                "bins": [{"predicted": 0.3, "observed": 0.35, "n": 4},
                         {"predicted": None, "observed": None, "n": 0}],
                "ece": 0.031, "ece_by_chance": 0.02, "slope": 1.1,
            },
        },
        "reward_steps": [{"step": 10, "loss": 0.69}],
        "ppo": {
            "steps": [{"step": n, "gold": n / 10, "reward": n / 5, "kl": n / 3, "entropy": 9.0,
                       "length": 12.0, "eos_rate": None} for n in range(1, 6)],
            "gold_by": None,
        },
        "overoptimisation": {
            "ppo": [{"sqrt_kl": n / 3, "reward": n / 5, "gold": n / 9} for n in range(5)],
            "best_of_n": [{"sqrt_kl": n / 9, "reward": n / 5, "gold": n / 9} for n in range(5)],
            "n_prompts": 7, "n_outputs": 6, "of": 30,
        },
        "diagnosis": [
            {"rule": "one_phrase", "step": "ppo", "found": f"one phrase {said}",
             "evidence": {"distinct2_ratio": 0.4}, "remedy": "raise --kl_coef"}
        ],
        "diagnosis_rules": {"checked": ["one_phrase"], "not_checked": {"kl_ran_away": "no log"}},
        "made_by": {"sft": {"base": said, "seed": 0, "hardware": "cpu", "versions": {"trl": "1.12"},
                            "flags": {"learning_rate": 3e-4}}},
        "asked": {"n": 9, "of": 30, "seed": 3},
        "seconds": {"sft": 447.0},
    }  # fmt: skip
    return found, answers


class Parsed(HTMLParser):
    """Tags and attributes of a page, and the words between them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


def test_it_says_what_the_report_says():
    text = html(*report(), "Tiny, so already tuned")
    words = " ".join(" ".join(Parsed(text).words).split())
    for wanted in (
        "Tiny, so already tuned",
        "is not to be believed",  # distinct-2 of 0.4: first of all
        "100.0 % [100.0, 100.0]",  # each of its answers is one point better
        "9 in = 7 kept (7 train) + 2 removed (2 pii).",
        "4.043 → 3.239",
        "75.8 % [71.6, 79.7] of 812 held-out pairs of 99 of 104 rankings.",
        "6 outputs for each of 7 of 30 prompts.",
        "calibration error 0.031",
        "KL 1.67 nats per response at the last step",
        "one phrase fine. Remedy: raise --kl_coef.",
        "kl ran away",
        "9 of 30 prompts, drawn with seed 3.",
        "2 of 9 prompts, drawn with seed 3",
        "temperature 0.5, easier to read",
        "calm answer 4 of ppo fine",
        "answer 1 of sft fine",
        "learning_rate",
        "447",
    ):
        assert wanted in words, wanted
    assert "calm answer 0" not in words  # not drawn


def test_what_models_and_users_wrote_is_text():
    found, answers = report(HOSTILE, judge=HOSTILE)
    text = html(found, answers, HOSTILE)
    page = Parsed(text)
    assert page.tags.count("script") == 1 and "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "{{ 7*7 }}" in text and "\u202e" not in text and "\x00" not in text
    assert "\\u202e" in text


def test_it_loads_nothing():
    page = Parsed(html(*report(), None))
    names = {name for name, _ in page.attributes}
    assert not names & {"src", "srcset", "data", "action"}
    # parts of the page itself
    links = [value for name, value in page.attributes if name in ("href", "xlink:href")]
    assert links and all(value.startswith("#") for value in links)


def test_figures_take_the_pages_colour():
    text = html(*report(), None)
    assert "#010203" not in text and text.count("currentColor") > 20
    assert text.count("<svg role=") == text.count("<svg")  # each is named


def test_a_report_of_models_alone_has_no_empty_parts():
    found, answers = report()
    keys = ("judge", "judges", "reference", "users", "models", "win_rate",
            "win_rate_by_reward_model", "win_rate_shorter")  # fmt: skip
    text = html({key: found[key] for key in keys}, answers, None)
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == [
        "The paper&#39;s figure 1", "Comparison on users never seen in training", "Side by side",
    ]  # fmt: skip


def test_without_matplotlib_the_numbers_are_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = html(*report(), None)
    assert "figures need matplotlib" in text and "<svg" not in text and "4.043 → 3.239" in text


@needs_browser
@pytest.mark.parametrize("size", SIZES)
def test_in_a_browser(tmp_path, size):
    found, answers = report(HOSTILE)
    file = tmp_path / "report.html"
    file.write_text(html(found, answers, None), encoding="utf-8")
    with launched() as browser:
        page = browser.new_context(viewport=SIZES[size], color_scheme="dark").new_page()
        wrong, asked = [], []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        shown = page.locator(".sample:visible")
        assert shown.count() == 2
        page.fill("#words", "QUESTION 4")
        assert shown.count() == 1 and "of ppo" in shown.inner_text()
        assert page.inner_text("#found") == "1 of 2"
        # one temperature at a time
        assert "calm" in shown.inner_text() and "gold score" not in shown.inner_text()
        page.select_option("#temperature", "1")
        assert "calm" not in shown.inner_text() and "gold score" in shown.inner_text()
    assert wrong == [] and asked == [file.as_uri()]
