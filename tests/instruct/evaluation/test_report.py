"""The report: what it counts and names, and that it escapes what models wrote."""

import json

from instruct.evaluation import report, report_text


def test_markdown_escapes_what_models_wrote():
    entry = {"rate": 0.5, "low": 0.4, "high": 0.6, "n": 1}
    row = {
        "prompt": [{"role": "user", "content": "a|b"}],
        "completion": "<script>x</script>\n| ![i](http://x)",
        "gold": 0.0,
    }
    text = report.markdown(
        {
            "judge": "j",
            "models": {},
            "win_rate": {"a_vs_b": entry},
            "win_rate_by_reward_model": {},
            "win_rate_shorter": {"a_vs_b": entry},
        },
        {"m": [row]},
        None,
    )
    line = text.splitlines()[-1]
    assert "<" not in line and "[i]" not in line and line.replace("\\|", "").count("|") == 3


def test_the_report_counts_the_demonstrations_that_a_judge_left_out(tmp_path):
    counts = {
        "in": 9,
        "kept": {"train": 4, "validation": 1},
        "removed": {"below_min_score": 3, "length": 1},
        "coverage": [],
    }
    (tmp_path / "demonstrations").mkdir()
    (tmp_path / "demonstrations" / "report.json").write_text(json.dumps(counts))
    found = report.collect_run(tmp_path)
    assert "coverage" not in found["demonstrations"]
    lines = report_text._steps_section(found)
    assert lines[:1] == ["## Demonstrations"] and (
        "9 in = 5 kept (4 train, 1 validation) + 4 removed (3 below_min_score, 1 length)." in lines
    )


def test_the_gold_curve_is_called_what_was_logged(tmp_path):
    (tmp_path / "ppo").mkdir()
    log = [
        {"step": n, "objective/kl": 0.1, "objective/scores": 0.2, "rewards/scripted_reward": n / 2}
        for n in (1, 2)
    ]
    (tmp_path / "ppo" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    ppo = report.collect_run(tmp_path)["ppo"]
    assert [step["gold"] for step in ppo["steps"]] == [0.5, 1.0]
    assert "reads" not in report.GOLD_KEYS[ppo["gold_by"]]
    report.plot_ppo(ppo["steps"], tmp_path / "ppo.png", ppo["gold_by"])
    assert (tmp_path / "ppo.png").read_bytes().startswith(b"\x89PNG")
