"""Request form and use case: accuracy on a hand-labelled set; what coverage asks labelers for."""

import json
import time
from collections import Counter

import pytest
from conftest import TESTS

from data_prep.formats.forms import CATEGORIES, FORMS, PAPER_SHARE, category, coverage, request_form

LABELLED = [
    json.loads(line) for line in (TESTS / "data" / "request_forms.jsonl").read_text().splitlines()
]


def test_the_labelled_set_is_large_and_covers_everything():
    assert len(LABELLED) >= 60
    assert {row["form"] for row in LABELLED} == set(FORMS)
    assert {row["category"] for row in LABELLED} == set(CATEGORIES)
    assert len({row["prompt"] for row in LABELLED}) == len(LABELLED)


@pytest.mark.parametrize(
    ("function", "label", "bar"), [(request_form, "form", 0.9), (category, "category", 0.8)]
)
def test_accuracy_on_the_labelled_set(function, label, bar, capsys):
    wrong = [
        (row[label], function(row["prompt"]), row["prompt"][:60])
        for row in LABELLED
        if function(row["prompt"]) != row[label]
    ]
    accuracy = 1 - len(wrong) / len(LABELLED)
    with capsys.disabled():
        print(f"\n{label}: accuracy {accuracy:.3f} on {len(LABELLED)} hand-labelled prompts")
    assert accuracy >= bar, wrong


def test_every_text_has_a_form_and_a_category():
    for text in (
        "",
        " ",
        "\0",
        "?",
        "a" * 10_000,
        "Q:\n" * 5_000,
        "x -> y\n" * 5_000,
        ": :\n" * 5_000,
        "é" * 100,
        "\n" * 10_000,
    ):
        assert request_form(text) in FORMS and category(text) in CATEGORIES


@pytest.mark.parametrize(
    "unit", ["a", "a ", "a:\n", "1.", "Q: a\n", "->", "write ", "? ", "\n", "(", "= ", "the text "]
)
def test_long_prompts_cost_milliseconds(unit):
    text = unit * (1_000_000 // len(unit))
    start = time.perf_counter()
    request_form(text), category(text)
    assert time.perf_counter() - start < 3


CODE = {
    "Python": "import os\nfor x in y:\n    a = b\n    c = d\nprint(a)",
    "numbers": "x = 1\ny = 2\nz = x + y",
    "signatures": "def f(x: int) -> int:\n    return x\ndef g(y: int) -> int:\n    return y",
    "dataclasses": "class A:\n    name: str\n    age: int\nclass B:\n    name: str\n    age: int",
    "JavaScript": "const f = (x) => x + 1;\nconst g = (y) => y * 2;\nconsole.log(f(g(1)));",
    "TypeScript": "interface A {\n a: int;\n b: any;\n}\ninterface B {\n a: int;\n b: any;\n}",
    "Rust": "match x {\n    Some(a) => a,\n    None => 0,\n}",
    "PHP": "$a = [\n  'x' => 1,\n  'y' => 2,\n];",
    "Haskell": "f :: Int -> Int\nf x = x + 1\ng :: Int -> Int\ng x = x * 2",
    "Java": "list.stream()\n  .map(x -> x.trim())\n  .filter(x -> !x.isEmpty());",
    "C": "switch (x) {\ncase 1: a;\ndefault: c;\n}\nswitch (y) {\ncase 1: b->a;\ndefault: d;\n}",
    "CSS": "a {\n  color: red;\n  margin: 0;\n}\nb {\n  color: blue;\n  margin: 1;\n}",
    "YAML": "services:\n  - name: a\n    image: b\n  - name: c\n    image: d\n",
    "Kubernetes": "kind: Pod\nmetadata:\n  name: a\n---\nkind: Service\nmetadata:\n  name: b",
    "fenced": "Fix this:\n```\nname: a\nimage: b\nname: c\nimage: d\n```\n",
    "environment": "FOO=bar\nBAZ=qux\nHOST=localhost",
    "SQL": "SELECT a FROM t\nWHERE x = 1\nAND y = 2",
    "a log": "ERROR: disk full\nINFO: retry\nERROR: disk full\nINFO: retry\nWhat is wrong?",
    "HTTP": "GET / HTTP/1.1\nHost: a\nAccept: b\n\nGET /x HTTP/1.1\nHost: a\nAccept: b",
}


@pytest.mark.parametrize("name", CODE)
def test_code_is_not_few_shot(name):
    assert request_form(CODE[name]) in ("direct", "continuation")
    assert request_form(f"What does this do?\n\n{CODE[name]}") == "direct"


@pytest.mark.parametrize(
    "prompt",
    [
        "Input: print(1)\nOutput: 1\nInput: print(2)\nOutput:",
        "Code: for i in x:\nBug: no body\nCode: if x\nBug: no colon\nCode: whle\nBug:",
        "Request: list users\nSQL: SELECT * FROM users;\nRequest: count them\nSQL:",
        "def f(x): -> doubles\ndef g(x): -> halves\ndef h(x): ->",
        "happy = sad\nbig = small\nhot = ?",
        "a => b\nc => d\ne => f",
    ],
)
def test_examples_of_code_are_few_shot(prompt):
    assert request_form(prompt) == "few_shot"


def test_paper_shares_add_up():
    assert sum(PAPER_SHARE.values()) == pytest.approx(1, abs=0.01)


def test_coverage_names_the_gaps():
    rows = [
        {
            "prompt": [{"role": "user", "content": "Write a poem about the sea"}],
            "category": "generation",
        }
    ] * 12
    rows += [{"prompt": "Q: a\nA: b\nQ: c\nA: d\nQ: e\nA:", "category": "open_qa"}] * 12
    table = {row["category"]: row for row in coverage(rows)}
    assert list(table) == list(CATEGORIES)
    assert table["generation"]["demonstrations"] == 12 and table["generation"]["direct"] == 12
    assert table["generation"]["write"] == ["few-shot"]  # plenty of rows, none shows examples first
    assert table["open_qa"]["few_shot"] == 12 and table["open_qa"]["write"] == []
    assert table["chat"]["write"] == ["user-based", "few-shot", "plain"]
    assert sum(row["demonstrations"] for row in table.values()) == 24


def test_coverage_counts_what_it_cannot_know():
    russian = "Напиши стихотворение о море"
    rows = [{"prompt": "Write a poem about the sea"}] * 3 + [{"prompt": russian}] * 2
    rows += [{"prompt": russian, "category": "generation"}]
    *known, last = coverage(rows, ["Write a story about a fox", russian, russian])
    table = {row["category"]: row for row in known}
    assert list(table) == list(CATEGORIES) and last["category"] is None
    assert last == dict.fromkeys(last) | {
        **{"demonstrations": 2, "direct": 0, "few_shot": 0, "continuation": 0, "no_form": 2},
        "write": [],
    }
    # shares are of what is known, on both sides
    generation = table["generation"]
    assert (generation["demonstrations"], generation["share"]) == (4, 1.0)
    assert (generation["direct"], generation["no_form"]) == (3, 1)
    assert generation["wanted_share"] == 1.0


def test_coverage_follows_what_users_ask_for():
    rows = [{"prompt": "Write a poem about the sea", "category": "generation"}] * 90
    rows += [{"prompt": "Summarize this: a b c", "category": "summarisation"}] * 10
    log = ["Summarize this: the council met on Monday"] * 50 + ["Write a story about a fox"] * 50
    table = {row["category"]: row for row in coverage(rows, log)}
    assert (
        table["summarisation"]["wanted_share"] == 0.5
        and "user-based" in table["summarisation"]["write"]
    )
    assert "user-based" not in table["generation"]["write"]
    assert table["chat"]["wanted_share"] == 0 and "user-based" not in table["chat"]["write"]


def test_coverage_takes_unknown_categories_and_no_rows():
    counted = Counter(
        {
            row["category"]: row["demonstrations"]
            for row in coverage([{"prompt": "Who is it?", "category": "made up"}])
        }
    )
    assert counted["open_qa"] == 1 and counted.total() == 1
    assert all(row["share"] == 0 for row in coverage([]))
