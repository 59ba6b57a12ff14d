"""The scripted labeler: its taste, its ranks, the rankings contract."""

import pytest
from command_tools import stops
from conftest import write_jsonl

from data_prep import label
from instruct.evaluation import scripted
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
