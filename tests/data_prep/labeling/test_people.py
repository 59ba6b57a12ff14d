"""The command for people, from samples to comparisons and from answers to a report.

The page itself is tested in test_page_*.py: here somebody answers in its place.
"""

import contextlib
import json
import socket
import sqlite3
from pathlib import Path

import pytest
from command_tools import stops
from conftest import save_model, write_jsonl

from data_prep import comparisons, label
from data_prep.labeling import team
from data_prep.labeling.page import app
from data_prep.labeling.store import Store
from instruct.files import load_rows
from recipes import evaluate

pytest.importorskip("gradio", reason="the extra 'label' is not installed")

SAMPLES = [
    {"prompt_id": f"p{i}", "prompt": f"Tell me of {i}.", "completions": texts, "model": "m"}
    for i, texts in enumerate([["bad", "good"], ["good", "bad", "bad"], ["good", "good"]])
]


def by_taste(store: Store, labeler: str) -> None:
    """Answers all there is: "good" before the rest."""
    while (task := store.take(labeler)) is not None:
        good = ["good" in text for text in task.row["completions"]]
        ranks = [1 if g or not any(good) else 2 for g in good]
        asked = not store.project.ranking_only
        quality = [6 if g else 2 for g in good] if asked else [None] * len(good)
        flags = [["opinion"] if g and asked else [] for g in good]
        store.answer(labeler, task.item, {"ranks": ranks, "quality": quality, "flags": flags}, 3.0)


@pytest.fixture()
def page(monkeypatch):
    """Who sits before the page, [names]; what it was opened with is in `opened`."""
    opened, people = [], ["ada"]

    def serve(store, project, **more):
        opened.append((project, more))
        for name in people:
            by_taste(store, name)

    monkeypatch.setattr(app, "serve", serve)
    # somebody's own page may be open on this machine
    monkeypatch.setattr(app, "check_listens", lambda host, port: None)
    return opened, people


def test_from_samples_to_comparisons(tmp_path, page, capsys):
    opened, _ = page
    samples, database = write_jsonl(tmp_path / "s.jsonl", SAMPLES), tmp_path / "labels.sqlite"
    out = tmp_path / "rankings.jsonl"
    label.main(["--labeler", "people", "--input", samples, "--database", str(database)])
    project, more = opened[0]
    assert (project.kind, project.per_item, project.overlap) == ("rankings", 1, 0.1)
    assert more == {"passwords": None, "owner": None, "host": "127.0.0.1", "port": app.PORT}
    label.main(["--database", str(database), "--output", str(out)])
    assert f"{out}: 3 rows of {database} (ada 3)" in capsys.readouterr().out
    rows = load_rows(out).to_list()
    assert [row["ranks"] for row in rows] == [[2, 1], [1, 2, 2], [1, 1]]
    assert rows[0]["quality"] == [2, 6] and rows[0]["flags"] == [[], ["opinion"]]
    assert rows[0]["labeler"] == "ada" and rows[0]["model"] == "m" and rows[0]["seconds"] == 3.0
    # at any time, again
    label.main(["--database", str(database), "--output", str(out)])
    made = tmp_path / "made"
    comparisons.main(["--input", str(out), "--output_dir", str(made), "--validation", "0"])
    assert "Ranked by: ada." in (made / "README.md").read_text()
    # what people ranked is not replaced by a judge, nor by another database
    run = ["--input", samples, "--labeler", "scripted", "--output", out]
    assert "holds rows that no scripted labeler" in stops(label.main, run, capsys)
    other = tmp_path / "other.sqlite"
    label.main(["--labeler", "people", "--input", samples, "--database", str(other)])
    said = stops(label.main, ["--database", other, "--output", out], capsys)
    assert "is no export of" in said and load_rows(out).to_list() == rows


def test_a_database_goes_on_as_it_was_begun(tmp_path, page, capsys):
    opened, people = page
    samples, database = write_jsonl(tmp_path / "s.jsonl", SAMPLES[:1]), tmp_path / "l.sqlite"
    run = ["--labeler", "people", "--database", str(database)]
    first = ["--input", samples, "--ranking_only", "--per_item", "2", "--seed", "3"]
    label.main([*run, *first])
    notes = tmp_path / "notes.md"
    notes.write_text("# Ours")
    people[:] = ["bob"]
    # without another word, and with more rows
    label.main([*run, "--input", write_jsonl(tmp_path / "t.jsonl", SAMPLES)])
    label.main([*run, "--instructions", str(notes), "--port", "7861", "--owner", "eve"])
    (began, _), (went_on, _), (last, more) = opened
    assert began == went_on and (last.per_item, last.seed, last.ranking_only) == (2, 3, True)
    assert last.instructions == "# Ours" and last.questions == ()
    assert (more["port"], more["owner"]) == (7861, "eve")
    said = stops(label.main, [*run, "--per_item", "1"], capsys)
    assert "was begun with --per_item 2, not 1" in said
    said = stops(label.main, [*run, "--questions", "opinion"], capsys)
    assert "--ranking_only asks no questions" in said
    said = stops(label.main, [*run, "--kind", "judgements"], capsys)
    assert "was begun with --kind rankings" in said
    out = tmp_path / "r.jsonl"
    said = stops(
        label.main, ["--database", database, "--output", out, "--kind", "judgements"], capsys
    )
    assert "holds rankings" in said and not out.exists()
    label.main(["--database", str(database), "--output", str(out)])
    assert [row["labeler"] for row in load_rows(out)] == ["ada", "bob", "bob", "bob"]


def test_screening_items_are_left_out_unless_they_are_asked_for(tmp_path, page, capsys):
    samples, database = write_jsonl(tmp_path / "s.jsonl", SAMPLES[:2]), tmp_path / "l.sqlite"
    owners = [{**SAMPLES[2], "ranks": [1, 1], "quality": [6, 6], "flags": [[], []]}]
    screening, out = write_jsonl(tmp_path / "mine.jsonl", owners), tmp_path / "r.jsonl"
    run = ["--labeler", "people", "--database", str(database), "--input", samples]
    label.main([*run, "--screening", screening])
    label.main(["--database", str(database), "--output", str(out)])
    assert "1 answers to screening items left out" in capsys.readouterr().out
    assert len(load_rows(out)) == 2
    label.main(["--database", str(database), "--output", str(out), "--with_screening"])
    assert sorted(load_rows(out)["is_screening"]) == [False, False, True]
    # an edit is not lost without a word
    out.write_text(out.read_text() + "\n")
    again = ["--database", str(database), "--output", str(out)]
    assert "was changed by hand" in stops(label.main, again, capsys)
    label.main([*again, "--overwrite_output_dir"])
    assert len(load_rows(out)) == 2


def test_people_judge_what_evaluate_answered(tmp_path, page, tiny_model, capsys):
    _, people = page
    people.append("bob")
    other = save_model(tmp_path / "other", seed=1, initializer_range=0.5)
    rows = [{"id": f"p{i}", "prompt": f"Question {i}?", "user_id": f"u{i % 2}"} for i in range(4)]
    report = tmp_path / "report"
    asked = [
        "--models", f"sft={tiny_model}", f"ppo={other}", "--max_new_tokens", "5",
        "--input", write_jsonl(tmp_path / "p.jsonl", rows), "--output_dir", str(report),
    ]  # fmt: skip
    evaluate.main(asked)
    database, out = tmp_path / "judged.sqlite", tmp_path / "judgements.jsonl"
    label.main([
        "--labeler", "people", "--kind", "judgements", "--per_item", "2",
        "--input", str(report / "answers.jsonl"), "--database", str(database),
    ])  # fmt: skip
    label.main(["--database", str(database), "--output", str(out)])
    judged = load_rows(out).to_list()
    assert len(judged) == 8 and judged[0]["models"] == ["sft", "ppo"]
    evaluate.main([*asked, "--judgements", str(out)])
    found = json.loads((report / "report.json").read_text())["judgements"]
    assert (found["rows"], found["used"], found["left_out"]) == (8, 8, {})
    assert (found["labelers"], found["users"]) == (2, 2)
    # all equal to them: nothing here is "good"
    rate = found["win_rate"]["ppo_vs_sft"]
    assert rate == {"rate": 0.5, "low": 0.5, "high": 0.5, "n": 8, "ties": 8}
    assert found["quality"]["ppo"]["mean"] == 2 and found["agreement"] is None


def test_an_address_that_cannot_be_listened_on_makes_no_database(tmp_path, capsys):
    samples, database = write_jsonl(tmp_path / "s.jsonl", SAMPLES), tmp_path / "l" / "l.sqlite"
    run = ["--labeler", "people", "--input", samples, "--database", database]
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = stops(label.main, [*run, "--port", port], capsys)
    assert f"--port {port}: another program listens there" in said and "another --port" in said
    team.set_password(tmp_path / "team.txt", "ada", "long enough")
    run += ["--passwords", tmp_path / "team.txt"]
    # kept for documentation, and a name that nobody has: no machine's own
    for host in ("192.0.2.1", "no-such-machine.invalid"):
        said = stops(label.main, [*run, "--host", host], capsys)
        assert f"--host {host}: is no address of this machine" in said and "--port" not in said
    assert not database.parent.exists()


def test_a_folder_is_no_database(tmp_path, capsys):
    samples = write_jsonl(tmp_path / "s.jsonl", SAMPLES)
    page, out = ["--labeler", "people", "--database", tmp_path], tmp_path / "r.jsonl"
    for run in ([*page, "--input", samples], page, ["--database", tmp_path, "--output", out]):
        assert f"{tmp_path}: this is a folder; give" in stops(label.main, run, capsys)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc")
@pytest.mark.parametrize(
    "flags",
    [
        "--labeler scripted --output /proc/r.jsonl",
        "--labeler people --database /proc/l.sqlite",
    ],
)
def test_a_place_where_no_file_can_be_made_is_no_bug(tmp_path, page, capsys, flags):
    samples = write_jsonl(tmp_path / "s.jsonl", SAMPLES)
    said = stops(label.main, [*flags.split(), "--input", samples], capsys)
    assert "nothing can be written in its folder: no file can be made there" in said
    assert ".lock" not in said and "bug" not in said


def test_prompts_to_answer_are_nobodys_twice_unless_asked(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(app, "serve", lambda store, project, **more: opened.append(project))
    monkeypatch.setattr(app, "check_listens", lambda host, port: None)
    prompts = write_jsonl(tmp_path / "p.jsonl", [{"id": "a", "prompt": "Tell me of tea."}])
    page = ["--labeler", "people", "--kind", "demonstrations", "--input", prompts]
    for more in ([], ["--overlap", "0.5", "--lease_minutes", "5"]):
        label.main([*page, "--database", str(tmp_path / f"{len(opened)}.sqlite"), *more])
    assert [(p.overlap, p.lease_minutes) for p in opened] == [(0.0, 60), (0.5, 5.0)]
    with pytest.raises(SystemExit):
        label.main([*page, "--database", str(tmp_path / "n.sqlite"), "--lease_minutes", "0"])


def test_the_owner_is_remembered(tmp_path, page, capsys):
    opened, people = page
    database = tmp_path / "l.sqlite"
    run = ["--labeler", "people", "--database", str(database)]
    samples = write_jsonl(tmp_path / "s.jsonl", SAMPLES)
    label.main([*run, "--input", samples, "--owner", "Jose\u0301"])
    people[:] = []
    label.main(run)
    label.main([*run, "--owner", "eve"])
    label.main(run)
    assert [more["owner"] for _, more in opened] == ["José", "José", "eve", "eve"]
    for name, why in (("a/b", "cannot begin with a dot or hold"), ("reward:x", "no person")):
        assert why in stops(label.main, [*run, "--owner", name], capsys)
    assert len(opened) == 4


def test_a_page_that_was_killed_at_once_begins_anew(tmp_path, page, capsys):
    opened, _ = page
    database = tmp_path / "l.sqlite"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    run = ["--labeler", "people", "--database", str(database)]
    assert "nothing to label; give an --input" in stops(label.main, run, capsys)
    label.main([*run, "--input", write_jsonl(tmp_path / "s.jsonl", SAMPLES), "--ranking_only"])
    assert opened[-1][0].ranking_only
    assert len(list(Store.read(database).answers())) == 3


def test_a_team_is_told_where_agreement_will_not_be_known(tmp_path, page, capsys):
    samples, passwords = write_jsonl(tmp_path / "s.jsonl", SAMPLES), tmp_path / "team.txt"
    team.set_password(passwords, "ada", "correct horse")
    for number, (more, told) in enumerate([
        ([], True),
        (["--overlap", "1"], False),
        (["--overlap", "0"], False),
        (["--per_item", "2"], False),
    ]):  # fmt: skip
        database = str(tmp_path / f"{number}.sqlite")
        run = ["--labeler", "people", "--database", database, "--input", samples, "--seed", "1"]
        label.main([*run, "--passwords", str(passwords), *more])
        assert ("agreement cannot be told" in capsys.readouterr().out) is told
