"""The scripted labeler: its taste, its ranks, the rankings contract."""

import json

import pytest
from command_tools import stops
from conftest import make_tokenizer, save_model, write_jsonl
from transformers import AutoModelForSequenceClassification

from data_prep import comparisons, label
from data_prep.labeling import judges
from data_prep.labeling.judges import ByScore, _outcomes, ranks_from_scores
from data_prep.labeling.questions import QUESTIONS
from instruct.evaluation import scripted
from instruct.evaluation.judges import judge_of
from instruct.files import load_rows
from instruct.models import load_reward


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
    monkeypatch.setattr(judges, "AT_ONCE", 2)
    calls, original = [], judges._scores

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
    monkeypatch.setattr(judges, "_scores", dies_at_the_third)
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


def test_a_labeler_that_is_none_is_told(tmp_path, tiny_model, capsys):
    samples = write_jsonl(tmp_path / "s.jsonl", [{"prompt": "Hi", "completions": ["a", "b"]}])
    run = ["--input", samples, "--output", tmp_path / "r.jsonl", "--labeler"]
    known = "must be people, scripted, scripted:MODEL, reward:PATH or llm:MODEL@URL"
    for labeler, said in (
        ("nobody", f"--labeler nobody: {known}"),
        (f"logprob:{tiny_model}", known),
        ("scripted:", "names no model"),
        ("scripted:/no/such", "--labeler scripted:/no/such: "),
        ("Scripted", known),
        ("reward", known),
        ("reward:", "names no model"),
        (f"reward:{tiny_model}", "without a trained reward head"),
        ("llm:m", "write it as llm:MODEL@URL"),
    ):
        assert said in stops(label.main, [*run, labeler], capsys)
        assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("", "--labeler says who ranks: people, scripted"),
        ("--input S --output R", "--labeler says who ranks: people, scripted"),
        ("--labeler scripted --input S", "--labeler scripted needs --output"),
        ("--labeler scripted", "--labeler scripted needs --input and --output"),
        ("--labeler people --input S", "--labeler people needs --database"),
        ("--labeler people --database D", "D is not there yet: --input says what to label"),
        ("--labeler people --input S --database D --ranking_only --questions opinion", "asks no"),
        (
            "--labeler people --input S --database D --kind demonstrations --ranking_only",
            "has none",
        ),
        ("--labeler people --input S --database D --kind judgements --screening R", "with none"),
        ("--labeler people --input S --database D --questions taste", "taste: no such question"),
        ("--labeler people --input S --database D --instructions I", "--instructions I: no such"),
        ("--labeler people --input S --database D --instructions .", "this is a folder, not a"),
        ("--labeler people --input S --database D --passwords P", "--passwords P: no such file"),
        ("--labeler people --input S --database D --host 0.0.0.0", "give --passwords FILE"),
        ("--labeler people --input S --database D --owner scripted", "scripted: rows of a judge"),
        ("--labeler people --input ./S --database D", "./S: no such file or folder"),
        ("--database D --output R.jsonl", "D: no such database"),
        ("--labeler people --input S --database D --output R", "a command of its own"),
        ("--labeler people --input S --database D --tie 1", "people has no use for --tie"),
        (
            "--database D",
            "--database without --labeler, which writes what is in it, needs --output",
        ),
        ("--database D --input S --output R", "has no use for --input; leave it out"),
        ("--database D --output R --overlap 0", "has no use for --overlap"),
        ("--labeler scripted --input S --output R --database D", "has no use for --database"),
        ("--labeler scripted --input S --output R --judge_prompt P", "an LLM is asked; --labeler"),
        (
            "--labeler llm:m@http://h --input S --output R --tie 1",
            "--tie is for labelers who score",
        ),
        ("--labeler people --input S --database D --per_item 0", "--per_item 0: must be 1 or more"),
        ("--labeler people --input S --database D --overlap 2", "--overlap 2: must be 0 or more"),
        ("--labeler people --input S --database D --port 70000", "--port 70000: must be"),
        ("--database D --output R --kind essays", "invalid choice: 'essays'"),
    ],
)
def test_flags_that_do_not_go_together_are_one_sentence(tmp_path, capsys, monkeypatch, flags, said):
    monkeypatch.chdir(tmp_path)
    error = stops(label.main, flags.split(), capsys)
    assert said in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_what_can_be_asked_stands_in_the_help():
    shown = label.make_parser().format_help()
    assert all(key in shown for key in QUESTIONS)


################
# Reward models
################


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory) -> str:
    """A classifier of one label with a head that is there."""
    folder = tmp_path_factory.mktemp("judges") / "taste"
    base = save_model(folder.parent / "base", seed=5, initializer_range=0.5)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_reward_model_ranks_by_its_scores(tmp_path, reward_model, capsys):
    texts = [["I love tea.", "It is.", "I love tea."], ["Snow.", "Rain and the sea."]]
    rows = [{"prompt": f"Tell me of {i}.", "completions": k} for i, k in enumerate(texts)]
    samples, out = write_jsonl(tmp_path / "s.jsonl", rows), tmp_path / "r.jsonl"
    run = ["--input", samples, "--output", str(out), "--labeler", f"reward:{reward_model}"]
    label.main(run)
    said = capsys.readouterr().out
    assert "2 rankings by the reward model taste, 2 with a preference; 75 % of 4 pairs" in said
    assert "a tie: equal scores; --tie widens it, in the reward model's points" in said
    score = load_reward(reward_model).score
    for row in load_rows(out):
        scores = score([row["prompt"]] * len(row["completions"]), row["completions"])
        places = sorted({round(s, 4) for s in scores}, reverse=True)
        assert row["ranks"] == [places.index(round(s, 4)) + 1 for s in scores]
        assert row["labeler"] == "reward:taste" and reward_model not in str(row)
        # a reward model has no scale from 1 to 7, and is asked no questions
        assert set(row["quality"]) == {None} and not any(row["flags"])
    record = json.loads((tmp_path / "r.jsonl.run").read_text())
    assert record["labelers"] == ["reward:taste"] and record["models"]["labeler"]["sha256"]
    # wide enough, all is a tie; and its own rankings are replaced
    label.main([*run, "--tie", "1e6"])
    assert [set(row["ranks"]) for row in load_rows(out)] == [{1}, {1}]
    assert (
        "scores less than 1e+06 of the reward model's own points apart" in capsys.readouterr().out
    )


def test_its_rankings_are_comparisons(tmp_path, reward_model):
    rows = [{"prompt": f"{i}?", "completions": ["Yes, I love it.", "No."]} for i in range(4)]
    samples, out = write_jsonl(tmp_path / "s.jsonl", rows), tmp_path / "r.parquet"
    label.main(["--input", samples, "--output", str(out), "--labeler", f"reward:{reward_model}"])
    made = tmp_path / "made"
    comparisons.main(["--input", str(out), "--output_dir", str(made), "--validation", "0"])
    assert "Ranked by: reward:taste." in (made / "README.md").read_text()


def test_equal_scores_are_a_tie_of_any_width():
    assert label.ranks_from_scores([0.5, 0.7, 0.5], tie=0.0) == [2, 1, 2]


def test_one_text_twice_has_one_rank():
    """In another batch a score may differ in its last bits; an LLM is asked of both copies."""
    labeler = ByScore.__new__(ByScore)
    labeler.name, labeler.tie = "reward:taste", 0.0
    assert labeler._ranked(["x", "y", "x"], [1.0, 0.5, 1.0 + 1e-7])["ranks"] == [1, 2, 1]
    # x beats y, x ties x, and the copy of x loses to y: what is said of the first counts
    won, tie, lost = [1.0, 1.0], [0.5, 0.5], [0.0, 0.0]
    found = list(_outcomes(["x", "y", "x"], [won, [], won]))
    assert found == [(0, 1, 1.0), (0, 2, 0.5), (1, 2, 0.0)]
    assert list(_outcomes(["a", "b", "c"], [won, tie, lost])) == [
        (0, 1, 1.0), (0, 2, 0.5), (1, 2, 0.0)
    ]  # fmt: skip


def test_a_tie_is_closer_than_its_width():
    assert ranks_from_scores([0.5, 0.25, 0.0], 0.25) == [1, 2, 3]
    assert ranks_from_scores([0.5, 0.26], 0.25) == [1, 1]
