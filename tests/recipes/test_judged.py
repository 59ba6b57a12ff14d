"""recipes/evaluate.py with people's judgements, and with an LLM judge on a real server."""

import json

import pytest
from command_tools import stops
from conftest import save_model, write_jsonl
from llm_tools import judge_server  # noqa: F401  (a fixture)

from instruct.evaluation import answers as answers_module
from instruct.evaluation import llm_judge, pairwise
from instruct.files import load_rows
from recipes import evaluate

FLAGS = ["--max_new_tokens", "5", "--limit", "6", "--show_temperature", "off"]


@pytest.fixture()
def arguments(tiny_model, tmp_path):
    other = save_model(tmp_path / "other", seed=1, initializer_range=0.5)
    rows = [{"id": f"p{i}", "prompt": f"Question {i}?", "user_id": f"u{i % 4}"} for i in range(8)]
    prompts = write_jsonl(tmp_path / "prompts.jsonl", rows)
    return [
        "--models", f"sft={tiny_model}", f"ppo={other}", "--input", prompts,
        "--output_dir", str(tmp_path / "report"), *FLAGS,
    ]  # fmt: skip


def report_of(tmp_path) -> tuple[dict, str]:
    folder = tmp_path / "report"
    return json.loads((folder / "report.json").read_text()), (folder / "report.md").read_text()


def judge_all(folder, labelers=("Ada", "Bob")) -> list[dict]:
    """Judgements as data_prep.label writes them: ppo wins for Ada, every other time for Bob."""
    answers: dict[str, dict[str, dict]] = {}
    for row in load_rows(folder / "answers.jsonl"):
        answers.setdefault(row["prompt_id"], {})[row["model"]] = row
    return [
        {
            "prompt_id": prompt_id,
            "user_id": by["sft"]["user_id"],
            "prompt": by["sft"]["prompt"],
            "models": ["sft", "ppo"],
            "completions": [by["sft"]["completion"], by["ppo"]["completion"]],
            "order": [1, 0],
            "ranks": [2, 1] if labeler == "Ada" or number % 2 else [1, 1],
            "quality": [3, 6],
            "flags": [["opinion"] if number < 3 else [], []],
            "labeler": labeler,
            "timestamp": "2024-01-01T00:00:00+00:00",
        }
        for number, (prompt_id, by) in enumerate(answers.items())
        for labeler in labelers
    ]


def test_judgements_stand_beside_the_scripted_judge(arguments, tmp_path, capsys):
    evaluate.main(arguments)
    before, text_before = report_of(tmp_path)
    file = write_jsonl(tmp_path / "judgements.jsonl", judge_all(tmp_path / "report"))
    capsys.readouterr()
    evaluate.main([*arguments, "--judgements", file])
    said = capsys.readouterr().out
    report, text = report_of(tmp_path)
    found = report.pop("judgements")
    # nothing else has changed
    assert {**report, "seconds": 0} == {**before, "seconds": 0}
    assert [line for line in text_before.splitlines() if "| evaluate" not in line][:30] == [
        line for line in text.splitlines() if "| evaluate" not in line
    ][:30]
    rate = found["win_rate"]["ppo_vs_sft"]
    assert rate["rate"] == pytest.approx((6 + 3 + 1.5) / 12) and rate["n"] == 12
    assert found["quality"]["ppo"]["mean"] == 6 and found["labelers"] == 2
    assert found["flags"]["sft"]["opinion"]["rate"] == 0.5
    assert found["agreement"] == {"rate": 1.0, "low": 1.0, "high": 1.0, "n_pairs": 3}
    shown = f"87.5 % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
    assert f"judged by people         ppo against sft {shown}, n = 12" in said
    assert "## Judged by people" in text and f"| ppo against sft | {shown} | 12 |" in text
    assert "| ppo | 6.000 [6.000, 6.000] | 0.0 % [0.0, 0.0] |" in text
    assert "12 of 12 judgements are on these answers, by 2 labelers" in text
    run = json.loads((tmp_path / "report" / "run.json").read_text())
    assert run["data"]["judgements"]["sha256"]


def test_judgements_of_other_answers_are_told(arguments, tmp_path, capsys):
    evaluate.main(arguments)
    rows = judge_all(tmp_path / "report")
    for row in rows[:3]:
        row["completions"] = ["<script>alert(1)</script>", row["completions"][1]]
    file = write_jsonl(tmp_path / "judgements.jsonl", rows)
    evaluate.main([*arguments, "--judgements", file])
    assert "9 of 12 judgements are on these answers; left out: 3 on another answer" in (
        capsys.readouterr().out
    )
    report, text = report_of(tmp_path)
    assert report["judgements"]["left_out"] == {"another_answer": 3}
    assert "left out: 3 on another answer" in text
    # with another seed none of them is: and the report that is there stays
    said = stops(evaluate.main, [*arguments, "--judgements", file, "--seed", "1"], capsys)
    assert "no judgement is on these answers" in said
    # nor where nothing is answered that could be judged
    tax = ["--tasks", "tax"]
    said = stops(evaluate.main, [*arguments, "--judgements", file, *tax], capsys)
    assert "--judgements is on the answers of --tasks helpful" in said


def test_a_file_that_is_none_is_told_before_a_model_is_asked(arguments, tmp_path, capsys):
    file = write_jsonl(tmp_path / "rankings.jsonl", [{"prompt": "Hi", "completions": ["a", "b"]}])
    for given, why in ((file, "no 'prompt_id'"), (tmp_path / "gone.jsonl", "no such file")):
        assert why in stops(evaluate.main, [*arguments, "--judgements", given], capsys)
    assert not (tmp_path / "report").exists()


################
# An LLM
################


@pytest.fixture()
def three(arguments, tmp_path, monkeypatch):
    """Three models whose answers the judge of tests/llm_tools.py can tell apart."""
    texts = {
        "sft": ["bad", "great", "x", "first", "x", "same"],
        "ppo": ["great", "x", "great", "first y", "y", "same"],
        "old": ["great great", "y", "great", "z", "first", "other"],
    }

    def answer(model, loaded, rows, shown, args):
        some = zip(rows, texts[model.name], strict=True)
        made = {"ended": True, "tokens": 2, "completion_ids": [5, 2], "logprob": -1.0}
        return [{"model": model.name, **row, "completion": text, **made} for row, text in some]

    monkeypatch.setattr(answers_module, "answer", answer)
    at = arguments.index("--input")
    path = arguments[at - 1].partition("=")[2]
    return [*arguments[:at], f"old={path}", *arguments[at:]]


# ppo against sft: won, lost, won, a tie as each likes its place, a tie, equal texts
WON = {
    ("ppo", "sft"): [1, 0, 1, 0.5, 0.5, 0.5],
    ("old", "sft"): [1, 0, 1, 0.5, 0.5, 0.5],
    ("old", "ppo"): [1, 0.5, 0.5, 0.5, 0.5, 0.5],
}


def test_an_llm_compares_models_by_their_pairs(three, tmp_path, judge_server, capsys):  # noqa: F811
    run = [*three, "--judge", "scripted", judge_server.spec]
    before = judge_server.answered()
    evaluate.main(run)
    # 18 pairs, two of them equal texts
    assert judge_server.answered() - before == 2 * (18 - 2)
    report, text = report_of(tmp_path)
    judge = report["judges"]["the LLM judge model"]
    for (ours, theirs), won in WON.items():
        entry = judge["win_rate"][f"{ours}_vs_{theirs}"]
        assert entry["rate"] == pytest.approx(sum(won) / 6)
        assert (entry["n"], entry["ties"]) == (6, won.count(0.5))
    assert judge["compared"] == {"replies": 32, "unreadable": 0, "pairs": 18, "disagreed": 1}
    assert "the LLM judge model compares answers two by two, in both orders" in text
    assert "1 of 18 pairs are ties as the two orders disagree, and 0 of 32 replies" in text
    rows = load_rows(tmp_path / "report" / "answers.jsonl").to_list()
    first = next(row for row in rows if row["model"] == "old")
    assert first["wins"]["the LLM judge model"] == {"sft": 1.0, "ppo": 1.0, "old": None}
    assert first["scores"]["the LLM judge model"] == 1.0 and "against" not in first
    # run again nothing is asked, also as the gold judge
    before = judge_server.answered()
    evaluate.main([*three, "--judge", judge_server.spec])
    assert judge_server.answered() == before
    assert report_of(tmp_path)[0]["win_rate"] == judge["win_rate"]
    # and what it said is gone where it is not asked
    evaluate.main(three)
    report, text = report_of(tmp_path)
    assert "LLM" not in text + json.dumps(report)
    assert "wins" not in load_rows(tmp_path / "report" / "answers.jsonl").column_names


def test_an_llm_that_is_cut_off_goes_on(three, tmp_path, judge_server, monkeypatch, capsys):  # noqa: F811
    run = [*three, "--judge", judge_server.spec]
    monkeypatch.setattr(pairwise, "ROWS_AT_ONCE", 2)
    asked, original = [], llm_judge.LLMJudge.verdicts

    def dies(self, pairs):
        asked.extend(pairs)
        if len(asked) > 8:
            raise KeyboardInterrupt
        return original(self, pairs)

    monkeypatch.setattr(llm_judge.LLMJudge, "verdicts", dies)
    with pytest.raises(SystemExit):
        evaluate.main(run)
    assert len(asked) == 10
    monkeypatch.setattr(
        llm_judge.LLMJudge, "verdicts", lambda *a: asked.extend(a[1]) or original(*a)
    )
    evaluate.main(run)
    # the two that were under way are asked again
    assert len(asked) == 18 + 2
    # another prompt asks all of them anew
    prompt = tmp_path / "p.md"
    prompt.write_text(llm_judge.PROMPT.read_text() + "Be strict.")
    evaluate.main([*run, "--judge_prompt", str(prompt)])
    assert len(asked) == 18 + 2 + 18


def test_what_an_llm_cannot_do_is_told(three, arguments, tmp_path, capsys):
    pytest.importorskip("openai")
    spec = "llm:m@http://127.0.0.1:9"
    at = arguments.index("--input")
    one = [arguments[0], arguments[1], *arguments[at:]]
    assert "give two models or more" in stops(evaluate.main, [*one, "--judge", spec], capsys)
    said = stops(evaluate.main, [*arguments, "--judge_prompt", "x.md"], capsys)
    assert "--judge_prompt is what an LLM is asked" in said
    said = stops(evaluate.main, [*three, "--judge", "llm:m"], capsys)
    assert "write it as llm:MODEL@URL" in said
    said = stops(evaluate.main, [*three, "--judge", spec, "--overwrite_output_dir"], capsys)
    assert "m at http://127.0.0.1:9/v1 does not answer; start the server" in said
