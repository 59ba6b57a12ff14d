"""`--labeler llm:MODEL@URL`: rankings by a real server of chat completions, killed and resumed."""

import json

import pytest
from command_tools import stops
from conftest import write_jsonl
from llm_tools import judge_server  # noqa: F401  (a fixture)

from data_prep import label
from data_prep.labeling import judges
from instruct.evaluation import llm_judge
from instruct.files import load_rows

# more of "great" is better; "first" likes what stands first (tests/llm_tools.py)
ROWS = [
    {"prompt_id": "a", "prompt": "Hi", "completions": ["great", "bad", "great great", "so"]},
    {"prompt_id": "b", "prompt": "Hi", "completions": ["first", "first great", "bad"]},
    {"prompt_id": "c", "prompt": "Hi", "completions": ["one"]},
    {"prompt_id": "d", "prompt": "Hi", "completions": [f"great {'great ' * i}" for i in range(9)]},
]
# "first" against "first great" is a tie, as each likes its own place; a tie is half a point
RANKS = [[2, 3, 1, 3], [2, 1, 3], [1], [9, 8, 7, 6, 5, 4, 3, 2, 1]]


def test_an_llm_ranks_by_all_pairs_in_both_orders(tmp_path, judge_server, capsys):  # noqa: F811
    samples, out = write_jsonl(tmp_path / "s.jsonl", ROWS), tmp_path / "r.jsonl"
    run = ["--input", samples, "--output", str(out), "--labeler", judge_server.spec]
    before = judge_server.answered()
    label.main(run)
    said = capsys.readouterr().out
    assert judge_server.answered() - before == 2 * (6 + 3 + 36)
    assert "4 rankings by the LLM judge model, 3 with a preference" in said
    assert "1 of 45 pairs tied as the two orders disagree, 0 of 90 replies unreadable" in said
    rows = load_rows(out).to_list()
    assert [row["ranks"] for row in rows] == RANKS
    for row in rows:
        assert row["labeler"] == "llm:model" and set(row["quality"]) == {None}
    record = json.loads((tmp_path / "r.jsonl.run").read_text())
    assert record["labelers"] == ["llm:model"] and record["judge"]["replies"] == 90
    assert record["judge"]["prompt"] and "tie" not in record["flags"]
    # its own rankings are replaced
    label.main(run)


def test_an_llm_whose_server_dies_goes_on_where_it_was(
    tmp_path,
    judge_server,  # noqa: F811
    monkeypatch,
    capsys,
):
    samples, out = write_jsonl(tmp_path / "s.jsonl", ROWS * 3), tmp_path / "r.jsonl"
    run = ["--input", samples, "--output", str(out), "--labeler", judge_server.spec]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-sesame")
    monkeypatch.setattr(judges, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(llm_judge, "RETRIES", 1)
    calls, original = [], llm_judge.LLMJudge.verdicts

    def dies(self, pairs):
        calls.append(len(pairs))
        if len(calls) == 3:
            judge_server.kill()
        return original(self, pairs)

    monkeypatch.setattr(llm_judge.LLMJudge, "verdicts", dies)
    said = stops(label.main, run, capsys)
    assert "does not answer; start the server" in said and "run this again to go on" in said
    partial = tmp_path / "r.jsonl.partial"
    assert not out.exists() and len(partial.read_text().splitlines()) == 1 + 2
    assert "sesame" not in partial.read_text() + said
    # another prompt is no continuation
    other = tmp_path / "p.md"
    other.write_text(llm_judge.PROMPT.read_text() + "Be strict.")
    assert "finished so far" in stops(label.main, [*run, "--judge_prompt", other], capsys)
    judge_server.start()
    label.main(run)
    assert calls[3:] == [calls[2], *calls[3:][1:]] and len(calls) == 3 + 4
    assert not partial.exists()
    assert [row["ranks"] for row in load_rows(out)] == RANKS * 3
    assert "sesame" not in out.read_text() + (tmp_path / "r.jsonl.run").read_text()


def test_an_llm_that_gives_no_verdict_is_an_error(tmp_path, judge_server, capsys):  # noqa: F811
    rows = [{"prompt": "Hi", "completions": ["mumble", "x"]}] + ROWS[:1] * 3
    samples, out = write_jsonl(tmp_path / "s.jsonl", rows), tmp_path / "r.jsonl"
    run = ["--input", samples, "--output", str(out), "--labeler", judge_server.spec]
    # one pair of nineteen
    label.main(run)
    assert "2 of 38 replies unreadable" in capsys.readouterr().out
    assert load_rows(out)["ranks"][0] == [1, 1]
    write_jsonl(tmp_path / "s.jsonl", rows[:2])
    said = stops(label.main, [*run, "--overwrite_output_dir"], capsys)
    assert "2 of 14 replies hold no verdict" in said and "write --judge_prompt" in said


def test_an_llm_ranks_at_most_nine(tmp_path, capsys):
    pytest.importorskip("openai")
    rows = [ROWS[0], {"prompt": "Hi", "completions": list("abcdefghij")}]
    run = ["--input", write_jsonl(tmp_path / "s.jsonl", rows), "--output", tmp_path / "r.jsonl"]
    said = stops(label.main, [*run, "--labeler", "llm:m@http://127.0.0.1:9"], capsys)
    assert "row 2 of the samples has 10 completions; an LLM compares at most 9" in said
