"""Multiple choice beside lm-evaluation-harness: the same files, by the harness's own tasks.

    pip install lm_eval
    python -m pytest -s tests/instruct/evaluation/tasks/test_against_harness.py

`HARNESS_MODEL=PATH` asks that model, too. Each choice's log-likelihood within 1e-3 nats, the same
choice on every item, the same accuracy.
"""

import argparse
import json
import os
from pathlib import Path

import pytest
from conftest import save_model, write_jsonl

from instruct.evaluation.modes import Asked
from instruct.evaluation.tasks import tax
from instruct.evaluation.tasks.choice_files import read_items

FILES = Path(__file__).parent / "files"
SAME = 1e-3  # nats
HELLASWAG = [
    {
        "ind": n,
        "activity_label": label,
        "ctx_a": first,
        "ctx_b": second,
        "endings": endings,
        "label": str(n % 2),
    }
    for n, (label, first, second, endings) in enumerate([
        (
            "Making tea",
            "[header] How to make tea [title] Fill a pot.",
            "the water",
            ["boils.", "flies  off.", "is a man [step] with a hat.", "sings a song to the cat."],
        ),
        (
            "Playing chess",
            "Two women sit at a board.",
            "one of them",
            ["moves a pawn.", "paints the sea.", "eats it all up in the rain.", "is."],
        ),
    ])
]  # fmt: skip
RTE = [
    {"sentence1": "All of the trains were late.", "sentence2": "No train was on time.", "label": 0},
    {"sentence1": "The cat is asleep.", "sentence2": "The cat eats bread.", "label": 1},
]
WSC = [
    {
        "text": "The man could not lift his son because he was so weak .",
        "span1_index": 1,
        "span1_text": "The man",
        "span2_index": 8,
        "span2_text": "he",
        "label": 1,
    }
]
ARC = [
    {
        "question": "What falls?",
        "choices": {"text": ["rain", "up"], "label": ["A", "B"]},
        "answerKey": "A",
    }
]
MMLU = [
    {
        "question": " 2 + 2? ",
        "choices": ["3", "4", "5", "6"],
        "answer": 1,
        "subject": "abstract_algebra",
    }
]
TEXTS = [{"text": "The rain fell on the sea. " * 9}, {"text": "Bread, apples and tea."}]
# how the harness is asked about a file: a task of its own, or a few lines where it has none
TASKS = {
    "truthfulqa_mc1": "truthfulqa/truthfulqa_mc1",
    "truthfulqa_mc2": "truthfulqa/truthfulqa_mc2",
    "hellaswag": "hellaswag/hellaswag",
    "rte": "glue/rte/default",
    "wsc": "super_glue/wsc/default",
    "arc": "arc/arc_easy",
    "mmlu": "mmlu/default/mmlu_abstract_algebra",
    "crows": "crows_pairs/crows_pairs_english",
    "hhh": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{input}}",
        # the file's rows hold each answer's text as a key
        "doc_to_choice": lambda doc: [a for a, s in doc["target_scores"].items() if s is not None],
        "doc_to_target": lambda doc: [
            s for s in doc["target_scores"].values() if s is not None
        ].index(1),
        "metric_list": [{"metric": m} for m in ("acc", "acc_norm", "acc_bytes")],
    },
    "texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
}
# its measures, and ours
MEASURES = {
    "bits_per_byte": "bits_per_byte",
    "acc": "accuracy",
    "acc_norm": "accuracy_per_character",
    "acc_bytes": "accuracy_per_byte",
    "pct_stereotype": "prefers_stereotype",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    own = {"texts": TEXTS, "hellaswag": HELLASWAG, "rte": RTE, "wsc": WSC, "arc": ARC, "mmlu": MMLU}
    written = {name: write_jsonl(folder / f"{name}.jsonl", rows) for name, rows in own.items()}
    return {name: str(FILES / f"{name}.jsonl") for name in ("truthful", "hhh", "crows")} | written


def task_of(name, file, folder):
    """What the harness takes for a task: a YAML file that changes one of its own, or a dict."""
    import lm_eval.tasks

    # in place of the Hub's data, and of its splits
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": file}},
        "training_split": None,
        "validation_split": None,
        "fewshot_split": None,
        "test_split": "test",
        "num_fewshot": 0,
    }
    task = TASKS[name]
    if not isinstance(task, str):
        return {**task, **config}
    own = Path(lm_eval.tasks.__file__).parent / f"{task}.yaml"
    written = folder / f"{name}.yaml"
    # JSON is YAML
    written.write_text(json.dumps({"include": str(own), **config}))
    return str(written)


def by_harness(model, files, is_chat, folder):
    """{task: what the harness kept of each row, in their order}, and what it makes of each task."""
    import lm_eval.tasks

    found = lm_eval.simple_evaluate(
        model=model,
        tasks=[task_of(name, file, folder) for name, file in files.items()],
        # without a list of all that it has, which takes a minute to read
        task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
        apply_chat_template=is_chat,
        bootstrap_iters=0,
    )
    samples = {
        name: sorted(rows, key=lambda row: row["doc_id"]) for name, rows in found["samples"].items()
    }
    return samples, found["results"]


def by_us(path, files, out, is_chat):
    """{file: log-likelihoods of each item's choices}, and what we make of them."""
    parser = argparse.ArgumentParser()
    tax.add_flags(parser)
    args = parser.parse_args(["--task_file", *files.values()] + ["--task_chat"] * is_chat)
    given = {"output_dir": out, "dtype": "float32", "seed": 0, "limit": None, "reference": None}
    vars(args).update({**given, "overwrite_output_dir": False})
    found = tax.measure({"m": Asked(path)}, args)
    sums = {}
    for line in (out / "tax" / "m.jsonl").read_text().splitlines()[1:]:
        step = json.loads(line)
        of_file = sums.setdefault(step["step"].split()[0], {})
        of_file.update({row[0]: row[1] for row in step["rows"]})
    return dict(zip(files, sums.values(), strict=True)), found["files"]


@pytest.mark.slow
@pytest.mark.parametrize("is_chat", [False, True])
@pytest.mark.parametrize("which", ["tiny", "HARNESS_MODEL"])
def test_the_same_numbers_as_the_harness(which, is_chat, files, tmp_path):
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    path = os.environ.get(which)
    if which == "tiny":
        path = save_model(tmp_path / "tiny", max_position_embeddings=4096)
    if path is None:
        pytest.skip("no HARNESS_MODEL")
    sums, ours = by_us(path, files, tmp_path / "out", is_chat)
    model = huggingface.HFLM(pretrained=path, dtype="float32", device="cpu", batch_size=8)
    # what has no prompt is read as plain text here
    left_out = ("crows", "texts") if is_chat else ()
    asked = {name: files.get(name, files["truthful"]) for name in TASKS if name not in left_out}
    samples, results = by_harness(model, asked, is_chat, tmp_path)
    for name, file in asked.items():
        items, worst = read_items(file)[1], 0.0
        for i, (item, sample) in enumerate(zip(items, samples[name], strict=True)):
            theirs = [r[0] if isinstance(r, tuple | list) else r for r in sample["filtered_resps"]]
            texts = item.choices
            if name in ("truthfulqa_mc1", "truthfulqa_mc2"):
                texts = sample["doc"][f"{name[-3:]}_targets"]["choices"]
            known = [sums[Path(file).stem][i][item.choices.index(text)] for text in texts]
            worst = max(worst, *(abs(a - b) for a, b in zip(known, theirs, strict=True)))
            assert known.index(max(known)) == theirs.index(max(theirs)), item.place
        print(f"{name}: {len(items)} items, log-likelihoods within {worst:.1e} nats")
        assert worst < SAME
        found = ours[Path(file).stem]["models"]["m"]
        for theirs, key in MEASURES.items():
            key = name[-3:] if name in ("truthfulqa_mc1", "truthfulqa_mc2") else key
            if f"{theirs},none" in results[name]:
                # means of numbers that are up to SAME apart; one item of 40 is 0.025
                wanted = pytest.approx(results[name][f"{theirs},none"], abs=SAME)
                assert found[key]["mean"] == wanted, theirs
