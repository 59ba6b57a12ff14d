"""The report escapes what models wrote."""

from instruct.evaluation import report


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
