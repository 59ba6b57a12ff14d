"""What comes out is what was put in and what was said of it, at any time, whole or not at all."""

import json
import threading
from datetime import datetime

import pytest
from conftest import write_jsonl
from labeling_tools import item, ranked, store_of

from data_prep import comparisons, demonstrations
from data_prep.formats.rankings import load_rankings
from data_prep.labeling import export as exporting
from data_prep.labeling.export import export, exported_rows
from data_prep.labeling.items import Item, read_items, read_screening
from data_prep.labeling.questions import DEFAULT_QUESTIONS
from data_prep.labeling.store import Store
from instruct.errors import UserError
from instruct.files import load_rows, read_jsonl, write_rows
from instruct.run.folders import record_beside


def label(store, name: str, answers: list[dict]) -> None:
    for answer in answers:
        store.answer(name, store.take(name).item, answer, 2.5)


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".parquet"])
def test_rankings_are_the_samples_rows_and_what_people_said(tmp_path, ending):
    path, output = tmp_path / "labels.sqlite", tmp_path / f"rankings{ending}"
    items = [item(i, 4) for i in range(3)]
    store = store_of(path, items=items)
    label(store, "ada", [ranked([1, 2, 2, 3], [7, 4, None, 1], [["opinion"], [], [], []])])
    store.skip("ada", store.take("ada").item, "no")
    label(store, "bob", [ranked([2, 1, 1, 1])])
    counts = export(path, output)
    assert counts == {"rows": 2, "labelers": {"ada": 1, "bob": 1}, "screening": 0}
    first, second = load_rows(output).to_list()
    assert datetime.fromisoformat(first.pop("timestamp")).tzinfo is not None
    said = {"ranks": [1, 2, 2, 3], "quality": [7, 4, None, 1], "flags": [["opinion"], [], [], []]}
    asked = {"questions": list(DEFAULT_QUESTIONS)}
    assert first == {**items[0].row, **said, **asked, "labeler": "ada", "seconds": 2.5}
    assert second["ranks"] == [2, 1, 1, 1] and second["prompt_id"] == "p1"
    # and the next command reads it
    assert load_rankings(str(output))["ranks"] == [[1, 2, 2, 3], [2, 1, 1, 1]]


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_ranks_alone_are_rankings_too(tmp_path, ending):
    path, output = tmp_path / "labels.sqlite", tmp_path / f"rankings{ending}"
    store = store_of(path, ranking_only=True)
    label(store, "ada", [{"ranks": [1, 2, 3]}, {"ranks": [2, 1, 1]}])
    export(path, output)
    rows = load_rows(output).to_list()
    assert rows[0]["quality"] == [None] * 3 and rows[0]["flags"] == [[], [], []]
    assert [row["questions"] for row in rows] == [[], []]
    comparisons.main(["--input", str(output), "--output_dir", str(tmp_path / "comparisons")])


def test_judgements_name_models_and_the_order_shown(tmp_path):
    path, output = tmp_path / "labels.sqlite", tmp_path / "judgements.jsonl"
    answers = [
        {"model": model, "prompt_id": "1", "user_id": "u", "prompt": "Hi", "completion": model}
        for model in ("sft", "ppo")
    ]
    items = read_items("judgements", write_jsonl(tmp_path / "answers.jsonl", answers))
    store = store_of(path, items=items, kind="judgements")
    task = store.take("ada")
    store.answer("ada", task.item, ranked([2, 1]), 1)
    export(path, output, "judgements")
    [row] = read_jsonl(output)
    assert list(row) == [
        "prompt_id", "user_id", "prompt", "models", "completions", "order", "ranks", "quality",
        "flags", "questions", "labeler", "timestamp",
    ]  # fmt: skip
    assert row["models"] == row["completions"] == ["sft", "ppo"] and row["ranks"] == [2, 1]
    assert row["order"] == list(task.order)


def test_demonstrations_are_rows_to_train_on(tmp_path):
    path, output = tmp_path / "labels.sqlite", tmp_path / "demonstrations.jsonl"
    prompt = [{"role": "user", "content": "Write a poem about rain, please."}]
    items = [Item({"prompt_id": str(i), "prompt": prompt, "user_id": "u"}) for i in range(2)]
    store = store_of(path, items=items, kind="demonstrations")
    written = {"prompt": prompt, "completion": "It rains and rains.", "request_form": "plain"}
    own = {"prompt": "What is tea?", "completion": "Leaves in hot water.", "request_form": "plain"}
    label(store, "ada", [written, {**own, "request_form": "user_based", "use_case": "Closed QA"}])
    export(path, output)
    first, second = read_jsonl(output)
    assert first["prompt_id"] == "0" and first["prompt"] == prompt
    assert first["completion"] == [{"role": "assistant", "content": "It rains and rains."}]
    assert (first["source"], first["category"]) == ("labeler", "generation")
    assert first["request_form"] == "direct"
    # a prompt of the labeler's own is of no user of the log
    assert "prompt_id" not in second and second["labeler"] == "ada"
    assert second["prompt"] == [{"role": "user", "content": "What is tea?"}]
    assert (second["category"], second["request_form"]) == ("closed_qa", "user_based")
    own_only = write_jsonl(tmp_path / "own.jsonl", [second] * 3)
    out = str(tmp_path / "out")
    demonstrations.main(["--input", own_only, "--output_dir", out, "--min_words", "1"])


def test_screening_items_are_left_out_unless_asked_for(tmp_path):
    path, output = tmp_path / "labels.sqlite", tmp_path / "rankings.jsonl"
    owner = {"ranks": [1, 2, 3], "flags": None}
    store = store_of(path, items=[item(0, owner=owner), item(1)])
    label(store, "ada", [ranked([1, 2, 3])])
    with pytest.raises(UserError, match="no answer in it yet but 1 to screening items"):
        export(path, output)
    assert not output.exists()
    label(store, "ada", [ranked([3, 2, 1])])
    assert export(path, output)["screening"] == 1
    assert [row["prompt_id"] for row in read_jsonl(output)] == ["p1"]
    # a column that only rows of both sorts need
    assert "is_screening" not in read_jsonl(output)[0]
    assert export(path, output, screening=True)["rows"] == 2
    told_apart = [(row["prompt_id"], row["is_screening"]) for row in read_jsonl(output)]
    assert told_apart == [("p0", True), ("p1", False)]
    # what rides along stops no reader
    assert load_rankings(str(output))["ranks"] == [[1, 2, 3], [3, 2, 1]]
    made = tmp_path / "made"
    run = ["--input", str(output), "--output_dir", str(made), "--validation", "0"]
    comparisons.main(run)
    assert [row["is_screening"] for row in load_rows(made / "train.jsonl")] == [True, False]
    owners = read_screening(output)
    assert all("is_screening" not in one.row for one in owners)
    assert len(list(exported_rows(store))) == 1
    assert all("owner" not in row for row in read_jsonl(output))


def test_what_is_no_export_of_this_database_is_not_replaced(tmp_path):
    path, output = tmp_path / "labels.sqlite", tmp_path / "rankings.jsonl"
    store = store_of(path)
    label(store, "ada", [ranked([1, 2, 3])])
    output.write_text('{"ranks": "somebody\'s"}\n')
    before = output.read_bytes()
    with pytest.raises(UserError, match="is there and is no export of"):
        export(path, output)
    assert output.read_bytes() == before
    output.unlink()
    export(path, output)
    # its own it replaces
    label(store, "ada", [ranked([3, 2, 1])])
    assert export(path, output)["rows"] == 2
    other = store_of(tmp_path / "other.sqlite")
    label(other, "bob", [ranked([1, 2, 3])])
    with pytest.raises(UserError, match="is no export of"):
        export(tmp_path / "other.sqlite", output)
    record = json.loads((tmp_path / "rankings.jsonl.run").read_text())
    assert record["step"] == "label" and record["labelers"] == ["ada"]
    assert record["database"] == store.database and record["flags"]["per_item"] == 1


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".parquet"])
def test_an_export_that_somebody_edited_is_not_replaced(tmp_path, ending):
    path, output = tmp_path / "labels.sqlite", tmp_path / f"rankings{ending}"
    store = store_of(path)
    label(store, "ada", [ranked([1, 2, 3])])
    export(path, output)
    # as it was written it is replaced, also by more rows
    label(store, "ada", [ranked([3, 2, 1])])
    assert export(path, output)["rows"] == 2
    rows = [{**row, "note": "mine"} for row in load_rows(output)]
    write_rows(output, rows)
    before = output.read_bytes()
    with pytest.raises(UserError, match="was changed by hand since .* --overwrite_output_dir"):
        export(path, output)
    assert output.read_bytes() == before
    assert export(path, output, changed=True)["rows"] == 2
    assert "note" not in load_rows(output).column_names
    # nothing else is replaced by that flag: another's rows stay
    output.unlink()
    record_beside(output).unlink()
    write_rows(output, rows)
    with pytest.raises(UserError, match="is no export of"):
        export(path, output, changed=True)


def test_an_export_that_was_killed_is_replaced(tmp_path, monkeypatch):
    path, output = tmp_path / "labels.sqlite", tmp_path / "rankings.jsonl"
    store = store_of(path)
    label(store, "ada", [ranked([1, 2, 3])])
    export(path, output)
    label(store, "ada", [ranked([3, 2, 1])])

    def killed_before(file, rows, before):
        def dies(written):
            before(written)
            raise KeyboardInterrupt

        write_rows(file, rows, dies)

    def killed_after(file, rows, before):
        write_rows(file, rows, before)
        raise KeyboardInterrupt

    for killed, rows in (killed_before, 1), (killed_after, 2):
        monkeypatch.setattr(exporting, "write_rows", killed)
        with pytest.raises(KeyboardInterrupt):
            export(path, output)
        monkeypatch.undo()
        # the file that stands there is known, and so is an edit of it
        whole = output.read_text()
        assert len(whole.splitlines()) == rows
        output.write_text(whole + "\n")
        with pytest.raises(UserError, match="changed by hand"):
            export(path, output)
        output.write_text(whole)
    assert export(path, output)["rows"] == 2
    # once it stands, the one before it is a file like any other
    output.write_text("{}\n")
    export(path, output, changed=True)
    output.write_text("{}\n")
    with pytest.raises(UserError, match="changed by hand"):
        export(path, output)


def test_another_kind_no_answer_or_no_database_is_told(tmp_path):
    path, output = tmp_path / "labels.sqlite", tmp_path / "rankings.jsonl"
    store_of(path)
    with pytest.raises(UserError, match="--kind judgements: .*holds rankings"):
        export(path, output, "judgements")
    with pytest.raises(UserError, match="no answer in it yet; nothing was written"):
        export(path, output)
    with pytest.raises(UserError, match="no such database"):
        export(tmp_path / "missing.sqlite", output)
    with pytest.raises(UserError, match="rows are written as"):
        export(path, tmp_path / "rankings.csv")
    assert not output.exists() and not (tmp_path / "missing.sqlite").exists()


def test_an_export_while_people_label_is_one_moment(tmp_path):
    path, output = tmp_path / "labels.sqlite", tmp_path / "rankings.jsonl"
    store = store_of(path, count=150)
    label(store, "ada", [ranked([1, 2, 3])])

    def work():
        while (task := store.take("ada")) is not None:
            store.answer("ada", task.item, ranked([1, 2, 3]), 1)

    thread = threading.Thread(target=work)
    thread.start()
    sizes = []
    while thread.is_alive():
        sizes.append(export(path, output)["rows"])
        rows = read_jsonl(output)
        # in the order of the file, without a gap: each moment is a beginning of it
        assert [row["prompt_id"] for row in rows] == [f"p{i}" for i in range(len(rows))]
    thread.join()
    assert export(path, output)["rows"] == 150
    assert len(sizes) > 2 and sizes == sorted(sizes)


def test_a_reader_changes_nothing(tmp_path):
    path = tmp_path / "labels.sqlite"
    store_of(path)
    reader = Store.read(path)
    for action in (lambda: reader.take("ada"), lambda: reader.skip("ada", 1, "no")):
        with pytest.raises(UserError, match="was opened to read"):
            action()
    assert reader.progress()["items"] == 4


def test_a_prompt_of_the_log_keeps_the_form_that_it_has_there(tmp_path):
    prompt = [{"role": "user", "content": "Write a poem."}]
    row = {"prompt_id": "p", "prompt": prompt, "request_form": "few_shot"}
    store = store_of(tmp_path / "w.sqlite", items=[Item(row)], kind="demonstrations")
    answer = {"prompt": prompt, "completion": "Roses.", "request_form": "plain"}
    store.answer("ada", store.take("ada").item, answer, 1)
    [found] = exported_rows(store)
    assert found["request_form"] == "few_shot"
