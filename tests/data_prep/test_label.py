"""The scripted labeler: its taste, its ranks, the rankings contract."""

import json

import pytest
from command_tools import stops
from conftest import write_jsonl

from data_prep import comparisons, label
from instruct.evaluation import scripted
from instruct.evaluation.judges import judge_of
from instruct.files import load_rows


def test_scripted_labeler_prefers_cheerful_and_clean_text():
    good, plain, bad, rude = map(
        label.scripted_score, ["I love this, wonderful!", "It is a chair.", "I hate it.", "shit"]
    )
    assert good > plain > bad and rude < -1
    assert label.scripted_reward(prompts=["p"], completions=["It is a chair."], user_id=["u"]) == [
        plain
    ]


def test_near_equal_scores_are_one_rank_and_ranks_have_no_gaps():
    assert label.ranks_from_scores([0.1, 0.9, 0.7, -0.5, 0.65], tie=0.3) == [2, 1, 1, 3, 1]
    assert label.ranks_from_scores([0.5, 0.5], tie=0.3) == [1, 1]
    # a chain of small steps is no single tie: the best of a rank is what counts
    assert label.ranks_from_scores([0.0, 0.2, 0.4], tie=0.3) == [2, 1, 1]


def test_labels_hold_the_rankings_contract(tmp_path):
    rows = [
        {
            "prompt_id": "1",
            "prompt": [{"role": "user", "content": "Hi"}],
            "completions": ["I love you", "shit", "ok"],
        }
    ]
    label.main(
        [
            "--input",
            write_jsonl(tmp_path / "s.jsonl", rows),
            "--labeler",
            "scripted",
            "--output",
            str(tmp_path / "r.jsonl"),
        ]
    )
    row = load_rows(tmp_path / "r.jsonl")[0]
    assert (
        row["ranks"] == [1, 3, 2]
        and row["labeler"] == "scripted"
        and row["flags"] == [[], ["profanity"], []]
    )
    assert (
        all(1 <= q <= 7 for q in row["quality"])
        and row["quality"][0] > row["quality"][2] > row["quality"][1]
    )


def test_only_its_own_rankings_are_replaced(tmp_path, capsys):
    samples = write_jsonl(
        tmp_path / "samples.jsonl", [{"prompt": "Hi", "completions": ["I love it", "I hate it"]}]
    )
    run = ["--input", samples, "--labeler", "scripted", "--output"]
    people = [{"prompt": "Hi", "completions": ["a", "b"], "ranks": [2, 1], "labeler": "Ada"}]
    for name, rows in (("people.jsonl", people), ("log.jsonl", [{"prompt": "mine"}])):
        file = write_jsonl(tmp_path / name, rows)
        before = (tmp_path / name).read_bytes()
        with pytest.raises(SystemExit) as stop:
            label.main([*run, file])
        assert stop.value.code == 2 and name in capsys.readouterr().err
        assert (tmp_path / name).read_bytes() == before
    with pytest.raises(SystemExit):
        label.main([*run, samples])  # its own input
    label.main([*run, str(tmp_path / "rankings.jsonl")])
    label.main([*run, str(tmp_path / "rankings.jsonl")])
    assert load_rows(tmp_path / "rankings.jsonl")["ranks"] == [[1, 2]]


def test_a_score_that_is_not_finite_ranks_nothing(tmp_path, capsys, monkeypatch):
    rows = [{"prompt_id": "a", "prompt": "Hi", "completions": ["one", "two"]}]
    samples, out = write_jsonl(tmp_path / "samples.jsonl", rows), tmp_path / "rankings.jsonl"
    monkeypatch.setattr(scripted, "scripted_score", lambda text: float("nan" if "t" in text else 1))
    said = stops(label.main, ["--input", samples, "--labeler", "scripted", "--output", out], capsys)
    assert "the scripted labeler returned nan for the completion 'two' (row 2 of 2)" in said
    assert not out.exists()


def test_samples_of_other_columns_are_ranked(tmp_path):
    rows = [{"ask": "Hi", "outs": ["I hate it", "I love it"], "id": 3}]
    file, out = write_jsonl(tmp_path / "s.jsonl", rows), tmp_path / "r.jsonl"
    run = ["--input", file, "--labeler", "scripted", "--output", str(out)]
    label.main([*run, "--columns", "prompt=ask", "completions=outs"])
    row = load_rows(out)[0]
    assert row["ranks"] == [2, 1] and row["id"] == 3
    assert row["prompt"] == [{"role": "user", "content": "Hi"}]


def test_the_labeler_who_reads_the_prompt_ranks_and_is_named(tmp_path, tiny_model, capsys):
    texts = [["I love tea.", "I love tea", "shit"], ["Snow is good.", "I hate it, awful."]]
    rows = [
        {"prompt_id": str(i), "prompt": f"Tell me of {what}.", "completions": k}
        for i, (what, k) in enumerate(zip(("tea", "snow"), texts, strict=True))
    ]
    samples, out = write_jsonl(tmp_path / "s.jsonl", rows), tmp_path / "r.jsonl"
    run = ["--input", samples, "--output", str(out), "--tie", "0.1"]
    label.main([*run, "--labeler", f"scripted:{tiny_model}"])
    said = capsys.readouterr().out
    assert "2 rankings by the scripted labeler that reads the prompt, 2 with a preference" in said
    assert "100 % of 4 pairs strict (a tie: scores less than 0.1 apart)" in said
    ranked = load_rows(out).to_list()
    judge = judge_of(f"scripted:{tiny_model}", "--labeler")
    for row in ranked:
        asked = [row["prompt"]] * len(row["completions"])
        assert row["ranks"] == label.ranks_from_scores(judge(asked, row["completions"]), 0.1)
        assert row["labeler"] == "scripted that reads the prompt"
    assert ranked[0]["ranks"] == [1, 2, 3] and ranked[0]["quality"][2] < 3
    record = json.loads((tmp_path / "r.jsonl.run").read_text())
    assert record["labelers"] == ["scripted that reads the prompt"]
    assert record["models"]["labeler"]["sha256"]
    assert tiny_model not in out.read_text()
    # each of the two may replace what the other wrote, and its rankings are comparisons
    label.main([*run, "--labeler", "scripted"])
    label.main([*run, "--labeler", f"scripted:{tiny_model}"])
    made = tmp_path / "made"
    comparisons.main(["--input", str(out), "--output_dir", str(made), "--validation", "0"])
    assert "Ranked by: scripted that reads the prompt." in (made / "README.md").read_text()


def test_a_labeler_who_was_killed_reads_on_where_he_was(tmp_path, tiny_model, monkeypatch, capsys):
    rows = [
        {
            "prompt_id": str(i),
            "prompt": f"Tell me of {i}.",
            "completions": [f"It is {i}.", "I love"],
        }
        for i in range(6)
    ]
    samples = write_jsonl(tmp_path / "s.jsonl", rows)
    monkeypatch.setattr(label, "AT_ONCE", 2)
    calls, original = [], label._scores

    def dies_at_the_third(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    def run(out):
        argv = ["--input", samples, "--output", str(tmp_path / out)]
        label.main([*argv, "--labeler", f"scripted:{tiny_model}"])
        return [row["ranks"] for row in load_rows(tmp_path / out)]

    whole = run("whole.jsonl")
    monkeypatch.setattr(label, "_scores", dies_at_the_third)
    with pytest.raises(SystemExit):
        run("r.jsonl")
    partial = tmp_path / "r.jsonl.partial"
    assert not (tmp_path / "r.jsonl").exists() and len(partial.read_text().splitlines()) == 3
    # other rows are no continuation, but the width of a tie changes no score
    kept = partial.read_bytes()
    write_jsonl(tmp_path / "s.jsonl", rows[:4])
    assert "finished so far" in stops(lambda _: run("r.jsonl"), [], capsys)
    assert partial.read_bytes() == kept
    write_jsonl(tmp_path / "s.jsonl", rows)
    assert run("r.jsonl") == whole and len(calls) == 3 + 1 and not partial.exists()


def test_only_a_scripted_labeler_ranks(tmp_path, tiny_model, capsys):
    samples = write_jsonl(tmp_path / "s.jsonl", [{"prompt": "Hi", "completions": ["a", "b"]}])
    run = ["--input", samples, "--output", tmp_path / "r.jsonl", "--labeler"]
    for labeler, said in (
        ("people", "--labeler people: must be scripted, or scripted:MODEL"),
        (f"logprob:{tiny_model}", "must be scripted, or scripted:MODEL"),
        ("scripted:", "names no model"),
        ("scripted:/no/such", "--labeler scripted:/no/such: "),
        ("Scripted", "must be scripted"),
    ):
        assert said in stops(label.main, [*run, labeler], capsys)
        assert not (tmp_path / "r.jsonl").exists()
