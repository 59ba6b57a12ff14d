"""Shapes of multiple-choice files: what is asked of each, and what is refused."""

import csv
import json
from pathlib import Path

import pytest
from conftest import write_jsonl

from instruct.errors import UserError
from instruct.evaluation.tasks.choice_files import SHAPES, read_items
from instruct.evaluation.tasks.choice_rows import PRIMER
from instruct.files import write_rows

FILES = Path(__file__).parent / "files"
TARGETS = {"choices": ["A star.", "A lamp.", "A cake."], "labels": [1, 0, 0]}
TRUTHFUL = {"question": "What is the Sun?", "mc1_targets": TARGETS}
HELLASWAG = {
    "activity_label": "Making tea",
    "ctx_a": "[header] A man fills a pot.",
    "ctx_b": "he",
    "ctx": "[header] A man fills a pot. he",
    "endings": ["waits [step] for it.", "eats it."],
    "label": "1",
}
RTE = {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0}
WSC = {
    "text": "Mark told Pete a lie . He was sorry .",
    "span1_text": "Mark",
    "span2_text": "He",
    "span2_index": 6,
    "label": 1,
}
MMLU = {"question": "2 + 2?", "choices": ["three", "four"], "answer": 1, "subject": "high_school"}
ARC = {
    "question": "Up?",
    "choices": {"text": ["sky", "soil"], "label": ["A", "B"]},
    "answerKey": "A",
}
BIGBENCH = {"input": "Hello?", "target_scores": {"Hi.": 1, "No.": 0}}
CROWS = {"sent_more": "She cries.", "sent_less": "He cries.", "bias_type": "gender"}
PAIR = {"prompt": "Hi", "chosen": "Hello!", "rejected": "Go."}


def read(tmp_path, *rows):
    return read_items(write_jsonl(tmp_path / "f.jsonl", list(rows)))


def item(tmp_path, row, shape):
    found, items = read(tmp_path, row)
    assert found.name == shape
    return items[0]


def test_our_own_files_are_read():
    for name, shape in (("truthful", "TruthfulQA"), ("hhh", "BIG-bench"), ("crows", "CrowS-Pairs")):
        found, items = read_items(FILES / f"{name}.jsonl")
        assert (found.name, len(items)) == (shape, 40)


def test_truthfulqa_asks_both_questions_of_every_answer_once(tmp_path):
    both = {"choices": ["A star.", "A ball of gas.", "A lamp."], "labels": [1, 1, 0]}
    found = item(tmp_path, {**TRUTHFUL, "mc2_targets": both}, "TruthfulQA")
    assert found.prompt == f"{PRIMER}\n\nQ: What is the Sun?\nA:"
    assert found.choices == ["A star.", "A lamp.", "A cake.", "A ball of gas."]
    assert found.labels == {"mc1": [1, 0, 0, None], "mc2": [1, 0, None, 1]}
    # the authors' own file
    own = item(tmp_path, {**TRUTHFUL, "mc1_targets": {"A star.": 1, "A lamp.": 0}}, "TruthfulQA")
    assert own.labels == {"mc1": [1, 0]}


def test_truthfulqas_csv_is_split_at_semicolons(tmp_path):
    columns = ["Type", "Question", "Best Answer", "Correct Answers", "Incorrect Answers"]
    cells = ["x", "What is the Sun?", "A star", "A star.; A ball of gas;", "A lamp; A cake"]
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, cells])
    shape, (found,) = read_items(tmp_path / "t.csv")
    assert shape.name == "TruthfulQA's answers"
    assert found.choices == ["A star.", "A lamp.", "A cake.", "A ball of gas."]
    assert found.labels == {"mc1": [1, 0, 0, None], "mc2": [1, 0, 0, 1]}


def test_the_words_of_the_harness(tmp_path):
    found = item(tmp_path, HELLASWAG, "HellaSwag")
    assert found.prompt == "Making tea: A man fills a pot. He"
    assert found.choices == ["waits for it.", "eats it."]
    assert found.labels == {"answer": [0, 1]}
    found = item(tmp_path, RTE, "RTE")
    assert found.prompt == "It rains.\nQuestion: It is wet. True or False?\nAnswer:"
    assert (found.choices, found.labels["answer"]) == (["True", "False"], [1, 0])
    found = item(tmp_path, WSC, "WSC")
    assert found.prompt == (
        "Passage: Mark told Pete a lie. *He* was sorry.\nQuestion: In the passage above, does the "
        'pronoun "*He*" refer to "*Mark*"?\nAnswer:'
    )
    assert found.labels["answer"] == [0, 1]
    found = item(tmp_path, MMLU, "MMLU")
    assert found.prompt == "2 + 2?\nA. three\nB. four\nAnswer:"
    assert found.system.endswith("about high school.\n\n")
    assert (found.choices, found.labels["answer"]) == (["A", "B"], [0, 1])
    found = item(tmp_path, ARC, "ARC")
    assert (found.prompt, found.choices) == ("Question: Up?\nAnswer:", ["sky", "soil"])


TWICE = {"choices": ["A star.", "A lamp.", "A star.", "A lamp.", "A cake."]}
LISTED = [
    # equal ones of one label are one answer
    ({**TRUTHFUL, "mc1_targets": {**TARGETS, "choices": ["A star.", "A cake.", "A cake."]}},
     ["A star.", "A cake."], {"mc1": [1, 0]}),
    ({**TRUTHFUL, "mc1_targets": {**TWICE, "labels": [1, 0, 1, 0, 0]}},
     ["A star.", "A lamp.", "A cake."], {"mc1": [1, 0, 0]}),
    ({**TRUTHFUL, "mc2_targets": {**TWICE, "labels": [1, 0, 1, 0, 1]}, "mc1_targets": None},
     ["A star.", "A lamp.", "A cake."], {"mc2": [1, 0, 1]}),
    ({**HELLASWAG, "endings": ["eats it.", "eats [x]it.", "waits."], "label": 2},
     ["eats it.", "waits."], {"answer": [0, 1]}),
    ({**ARC, "choices": {"text": ["soil", "soil", "sky"], "label": ["A", "B", "C"]},
      "answerKey": "C"}, ["soil", "sky"], {"answer": [0, 1]}),
    ({"input": "Hello?", "targets": {"choices": ["Hi.", "Hi.", "No."], "labels": [1, 1, 0]}},
     ["Hi.", "No."], {"answer": [1, 0]}),
    # of letters each is asked for
    ({**MMLU, "choices": ["three", "three", "four"], "answer": "C"},
     ["A", "B", "C"], {"answer": [0, 0, 1]}),
]  # fmt: skip


@pytest.mark.parametrize(("row", "choices", "labels"), LISTED)
def test_equal_choices_of_one_label_are_one_answer(tmp_path, row, choices, labels):
    (found,) = read(tmp_path, row)[1]
    assert (found.choices, found.labels) == (choices, labels)


APART = [
    ({**TRUTHFUL, "mc1_targets": {**TARGETS, "choices": ["A star.", "A lamp.", "A star."]}},
     "'mc1_targets', numbers 1 and 3"),
    ({**HELLASWAG, "endings": ["a", "b", "b"]}, "'endings', numbers 2 and 3"),
    ({**ARC, "choices": {"text": ["sky", "sky"], "label": ["A", "B"]}}, "'choices', numbers 1"),
    ({**MMLU, "choices": ["four", "four"]}, "'choices', numbers 1 and 2"),
    ({"input": "Hello?", "targets": {"choices": ["Hi.", "No.", "Hi."], "labels": [1, 0, 0]}},
     "the answers, numbers 1 and 3"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "where"), APART)
def test_a_right_and_a_wrong_choice_of_one_text_are_refused(tmp_path, row, where):
    with pytest.raises(UserError, match=r"f\.jsonl, line 1: .*different answers; leave") as error:
        read(tmp_path, row)
    assert f"{where}" in str(error.value)


@pytest.mark.parametrize(
    ("label", "right"),
    [("entailment", 0), ("not_entailment", 1), (True, 0), (False, 1), ("1", 1), (0, 0)],
)
def test_labels_of_two_choices(tmp_path, label, right):
    premise = {"premise": "It rains.", "hypothesis": "It is wet.", "label": label}
    assert item(tmp_path, premise, "RTE").labels["answer"].index(1) == right


def test_what_a_number_says_is_told_by_the_name(tmp_path):
    """WNLI and MRPC have these columns and mean the opposite."""
    glue = {"sentence1": "It rains.", "sentence2": "It is wet.", "label": 1}
    for named in ("rte.jsonl", "glue_rte_validation.jsonl"):
        write_jsonl(tmp_path / named, [glue])
        assert read_items(tmp_path / named)[1][0].labels["answer"] == [0, 1]
    words = {**glue, "label": "not_entailment"}
    (tmp_path / "rte").mkdir()
    write_jsonl(tmp_path / "rte" / "validation-00000.jsonl", [glue])
    assert read_items(tmp_path / "rte")[1][0].labels["answer"] == [0, 1]
    assert read_items(tmp_path / "rte" / "validation-00000.jsonl")[1][0].labels["answer"] == [0, 1]
    for named in (
        "val.jsonl",
        "train.part-0.jsonl",
        "test_00000.jsonl",
        "validation-00000-of-00001-0f1e2d3c4b5a6978.jsonl",
    ):
        write_jsonl(tmp_path / "rte" / named, [glue])
        assert read_items(tmp_path / "rte" / named)[1][0].labels["answer"] == [0, 1]
    write_jsonl(tmp_path / "test_rte.jsonl", [glue])
    assert read_items(tmp_path / "test_rte.jsonl")[1][0].labels["answer"] == [0, 1]
    for named in ("wnli.jsonl", "sorted.jsonl", "rte/mrpc.jsonl", "rte/test-wnli.jsonl"):
        write_jsonl(tmp_path / named, [words])
        assert read_items(tmp_path / named)[1][0].labels["answer"] == [0, 1]
        write_jsonl(tmp_path / named, [words, glue])
        with pytest.raises(UserError, match=rf"{named}, line 2: the label 1 .* call .* rte\.jsonl"):
            read_items(tmp_path / named)


@pytest.mark.parametrize("answer", [1, 1.0, "B", "b", "1", "four"])
def test_an_answer_is_a_letter_a_number_or_a_text(tmp_path, answer):
    assert item(tmp_path, {**MMLU, "answer": answer}, "MMLU").labels["answer"] == [0, 1]


def test_better_and_worse_answers(tmp_path):
    found = item(tmp_path, BIGBENCH, "BIG-bench")
    assert (found.prompt, found.choices) == ("Hello?", ["Hi.", "No."])
    hub = {"input": "Hello?", "targets": {"choices": ["Hi.", "No."], "labels": [1, 0]}}
    assert item(tmp_path, hub, "BIG-bench")[1:] == found[1:]
    found = item(tmp_path, PAIR, "preference pairs")
    assert found.prompt == "Human: Hi\n\nAssistant:"
    assert found.turns == [{"role": "user", "content": "Hi"}]
    assert found.choices == ["Hello!", "Go."]
    dialogs = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Go.",
    }
    assert item(tmp_path, dialogs, "preference pairs")[1:] == found[1:]


def test_pairs_of_sentences(tmp_path):
    found = item(tmp_path, CROWS, "CrowS-Pairs")
    assert (found.prompt, found.delimiter, found.group) == ("", "", "gender")
    rows = [
        {"sentid": f"clerk.guest.1.{gender}.txt", "sentence": f"The clerk met {word} guest."}
        for gender, word in (("female", "her"), ("neutral", "their"), ("male", "his"))
    ]
    shape, items = read(tmp_path, *rows)
    assert shape.name == "Winogender"
    assert [i.choices for i in items] == [["The clerk met his guest.", "The clerk met her guest."]]
    with pytest.raises(UserError, match=r"line 1: 'clerk.guest.1' has no male sentence"):
        read(tmp_path, *rows[:2])


def test_csv_and_parquet_hold_the_same_items(tmp_path):
    rows = [BIGBENCH, {"input": "Bye?", "target_scores": {"Bye.": 1, "Stay.": 0}}]
    _, wanted = read(tmp_path, *rows)
    write_rows(tmp_path / "f.parquet", rows)
    with open(tmp_path / "f.csv", "w", newline="") as file:
        cells = [[row["input"], json.dumps(row["target_scores"])] for row in rows]
        csv.writer(file).writerows([["input", "target_scores"], *cells])
    for name in ("f.parquet", "f.csv"):
        _, found = read_items(tmp_path / name)
        assert [i[1:] for i in found] == [i[1:] for i in wanted]


def test_a_file_of_no_shape_is_told_all_shapes(tmp_path):
    with pytest.raises(UserError) as error:
        read(tmp_path, {"a": 1, "b": 2})
    assert "f.jsonl: columns 'a', 'b'" in str(error.value)
    for shape in SHAPES:
        assert shape.name in str(error.value)


TWO_BEST = {"choices": ["a", "b"], "labels": [1, 1]}
MALFORMED = [
    ({**TRUTHFUL, "mc1_targets": {**TARGETS, "labels": [0, 0, 0]}}, "no choice is true"),
    ({**TRUTHFUL, "mc1_targets": {**TARGETS, "labels": [1, 1, 0]}}, "marks 2 choices as the best"),
    ({**TRUTHFUL, "mc1_targets": {**TARGETS, "labels": [1, 0]}}, "a list of 3 labels"),
    ({**TRUTHFUL, "mc1_targets": {**TARGETS, "labels": [2, 0, 0]}}, "a label is 1"),
    ({**TRUTHFUL, "mc1_targets": TWO_BEST}, "every choice is true"),
    ({**TRUTHFUL, "question": " "}, "'question' is empty"),
    ({**HELLASWAG, "label": 2}, "'label' is 2; it must be 0 to 1"),
    ({**HELLASWAG, "label": ""}, "'label' is ''"),
    ({**HELLASWAG, "endings": ["same", "same"]}, "numbers 1 and 2 are equal"),
    ({**HELLASWAG, "endings": ["[step]", "b"]}, "number 1, is empty"),
    ({**HELLASWAG, "endings": ["one"]}, "holds 1 choices"),
    ({**HELLASWAG, "endings": ["one", 2]}, "number 2, is a number"),
    ({**RTE, "label": 2}, "'label' is 2; it must be 0 to 1"),
    ({**RTE, "label": None}, "no 'label'"),
    ({**WSC, "span2_index": 99}, "it must be 0 to 9"),
    ({**MMLU, "answer": "E"}, "is none of the choices"),
    ({**MMLU, "answer": 2}, "it must be 0 to 1"),
    ({**MMLU, "choices": ["1", "0"], "answer": "1"}, "may be two of the choices"),
    ({**ARC, "answerKey": "C"}, "must be one of the labels"),
    ({**ARC, "choices": ["sky", "soil"], "answerKey": "1"}, "may count from 0 or from 1"),
    ({**BIGBENCH, "target_scores": {"Hi.": 0, "No.": 0}}, "no choice is true"),
    ({**BIGBENCH, "target_scores": {"Hi.": 1}}, "holds 1 choices"),
    ({**CROWS, "sent_less": CROWS["sent_more"]}, "are equal"),
    ({**CROWS, "sent_less": None}, "no 'sent_less'"),
    ({**PAIR, "rejected": "Hello!"}, "are equal"),
    ({"text": "  "}, "'text' is empty"),
]


@pytest.mark.parametrize(("row", "why"), MALFORMED)
def test_a_row_that_is_not_whole_is_refused_by_file_and_row(tmp_path, row, why):
    good = next(
        g
        for g in (TRUTHFUL, HELLASWAG, RTE, WSC, MMLU, ARC, BIGBENCH, CROWS, PAIR, {"text": "x"})
        if set(g) == set(row)
    )
    with pytest.raises(UserError, match=r"f\.jsonl, line 2: ") as error:
        read(tmp_path, good, row)
    assert why in str(error.value)


def test_a_folder_without_the_split_names_the_flag(tmp_path):
    write_jsonl(tmp_path / "test.jsonl", [CROWS])
    with pytest.raises(UserError, match=r"no split 'validation'.*--task_split"):
        read_items(tmp_path)
    assert len(read_items(tmp_path, "test")[1]) == 1
