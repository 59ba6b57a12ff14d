"""The report: what it counts and names, and that it escapes what models wrote."""

import json

from instruct.evaluation import report, report_text, run_files


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
    found = run_files.collect_run(tmp_path)
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
    ppo = run_files.collect_run(tmp_path)["ppo"]
    assert [step["gold"] for step in ppo["steps"]] == [0.5, 1.0]
    assert "reads" not in run_files.GOLD_KEYS[ppo["gold_by"]]
    report.plot_ppo(ppo["steps"], tmp_path / "ppo.png", ppo["gold_by"])
    assert (tmp_path / "ppo.png").read_bytes().startswith(b"\x89PNG")


def test_only_steps_that_made_what_is_evaluated_are_told(tmp_path):
    """Curves of a policy that nobody asked would be read as those of the one that was."""
    merged, adapter, other = (
        str(tmp_path / place) for place in ("sft/merged", "ppo/checkpoint-4", "elsewhere")
    )
    for models, reward, steps in (
        ([merged], None, ["sft", "reward"]),
        ([other, adapter], None, ["sft", "reward", "ppo"]),
        ([other, adapter], other, ["sft", "ppo"]),
        ([other], str(tmp_path / "reward"), ["reward"]),
        ([other], None, []),
        (["HuggingFaceTB/SmolLM2-135M"], None, []),
    ):
        assert run_files.evaluated_steps(tmp_path, models, reward) == steps
    (tmp_path / "ppo").mkdir()
    log = [{"step": 1, "objective/kl": 0.1}]
    (tmp_path / "ppo" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    assert run_files.collect_run(tmp_path, ["sft"])["ppo"]["steps"] == []
    assert len(run_files.collect_run(tmp_path, ["ppo"])["ppo"]["steps"]) == 1


def test_the_report_has_the_curve_of_sft_and_how_it_was_made(tmp_path):
    (tmp_path / "sft").mkdir()
    log = [
        {"step": 0, "eval_loss": 4.0, "eval_runtime": 1.0},
        {"step": 5, "loss": 3.5, "grad_norm": 1.0},
        {"step": 5, "eval_loss": 3.0},
        {"step": 5, "train_runtime": 9.0},
    ]
    (tmp_path / "sft" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    record = {"base": {"name": "b"}, "seed": 3, "hardware": "cpu", "versions": {"trl": "1.12"},
              "flags": {"learning_rate": 0.1, "optim_args": None}}  # fmt: skip
    (tmp_path / "sft" / "run.json").write_text(json.dumps({"step": "sft", **record}))
    found = run_files.collect_run(tmp_path)
    assert found["sft"] == {
        "eval_loss_before": 4.0,
        "eval_loss_after": 3.0,
        "steps": [{"step": 0, "eval_loss": 4.0}, {"step": 5, "loss": 3.5},
                  {"step": 5, "eval_loss": 3.0}],
    }  # fmt: skip
    made = {**record, "base": "b", "flags": {"learning_rate": 0.1}}
    assert found["made_by"] == {"sft": made}
