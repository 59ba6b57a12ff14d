"""The engine of multiple choice: ids, log-likelihoods, what is kept, what is reported."""

import argparse
import json
import math
from pathlib import Path

import pytest
import torch
from conftest import write_jsonl

from instruct.errors import UserError
from instruct.evaluation.modes import Asked
from instruct.evaluation.tasks import multiple_choice, tax, truthful
from instruct.evaluation.tasks.choice_files import read_items
from instruct.evaluation.tasks.choice_values import Item
from instruct.evaluation.tasks.multiple_choice import encode_item
from instruct.models import load_policy

FILES = Path(__file__).parent / "files"
TASKS = {"truthful": truthful, "tax": tax}


def arguments(out, *typed, **changes):
    parser = argparse.ArgumentParser()
    truthful.add_flags(parser)
    tax.add_flags(parser)
    args = parser.parse_args(list(map(str, typed)))
    given = {"output_dir": out, "dtype": "float32", "seed": 0, "limit": 200, "reference": None}
    vars(args).update({**given, "overwrite_output_dir": False, **changes})
    return args


def first_rows(tmp_path, name, count):
    rows = (FILES / f"{name}.jsonl").read_text().splitlines()[:count]
    return write_jsonl(tmp_path / f"{name}.jsonl", [json.loads(row) for row in rows])


def plain_forward(model, prompt, completion):
    """log p of a completion, token by token."""
    with torch.no_grad():
        logprobs = model(torch.tensor([prompt + completion])).logits[0].double().log_softmax(-1)
    return sum(logprobs[len(prompt) + i - 1, t].item() for i, t in enumerate(completion))


################
# Ids
################


def test_a_prompt_and_a_choice_are_cut_into_tokens_together(tokenizer):
    item = Item("f", "Tell me about it, please. ", ["great", "bad"], {}, delimiter="")
    found = encode_item(tokenizer, item, is_chat=False)
    for choice, ((prompt, completion),) in zip(item.choices, found.choices, strict=True):
        assert tokenizer.decode(prompt) == "Tell me about it, please."
        # the blank goes with the word, as it does where both are one text
        assert tokenizer.decode(completion) == f" {choice}"
        assert prompt + completion == tokenizer(item.prompt + choice)["input_ids"]
    assert found.apart == 0


def test_where_a_token_spans_the_seam_they_are_cut_apart(tokenizer):
    whole = next(w for w in ("please", "great", "music") if len(tokenizer(w)["input_ids"]) < len(w))
    item = Item("f", whole[:-1], [whole[-1] + " it", " it"], {}, delimiter="")
    found = encode_item(tokenizer, item, is_chat=False)
    for choice, ((prompt, completion),) in zip(item.choices, found.choices, strict=True):
        assert tokenizer.decode(prompt) == item.prompt
        # no letter is lost, which the harness loses here
        assert tokenizer.decode(completion) == choice
    assert found.apart == 1


def test_what_has_no_prompt_follows_bos_and_long_texts_are_read_in_windows(tokenizer):
    text = "I love this, it is great and good! " * 4
    item = Item("f", "", [text], {}, delimiter="")
    (windows,) = encode_item(tokenizer, item, is_chat=True, window=7).choices
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [t for _, c in windows for t in c] == ids
    assert [p for p, _ in windows] == [[tokenizer.bos_token_id]] + [[i] for i in ids[6:-1:7]]


def test_by_the_template_an_answer_follows_the_generation_prompt(tokenizer):
    item = Item("f", "Hi", ["Yes", "No"], {}, system="About tea.\n\n")
    ((prompt, completion),) = encode_item(tokenizer, item, is_chat=True).choices[0]
    turns = [("system", "About tea.\n\n"), ("user", "Hi")]
    messages = [{"role": role, "content": content} for role, content in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(prompt + completion) == text + "Yes"
    plain = encode_item(tokenizer, item, is_chat=False).choices[0][0]
    assert tokenizer.decode(plain[0] + plain[1]) == "About tea.\n\nHi Yes"


################
# Asking
################


def test_log_likelihoods_equal_a_plain_forward(tiny_model, tmp_path):
    model, tokenizer = load_policy(tiny_model)
    text = write_jsonl(tmp_path / "texts.jsonl", [{"text": "I love the sea. " * 90}, {"text": "x"}])
    sources = [first_rows(tmp_path, name, 6) for name in ("truthful", "hhh", "crows")] + [text]
    args = arguments(tmp_path / "out", "--task_file", *sources)
    asked = {"m": Asked(tiny_model)}
    tax.check(asked, args)
    found = tax.measure(asked, args)
    rows = {}
    for line in (tmp_path / "out" / "tax" / "m.jsonl").read_text().splitlines()[1:]:
        step = json.loads(line)
        rows.setdefault(step["step"].split()[0], {}).update({r[0]: r[1] for r in step["rows"]})
    window = 511  # the model was made for 512 tokens
    for source, kept in zip(sources, rows.values(), strict=True):
        for i, item in enumerate(read_items(source)[1]):
            pairs = encode_item(tokenizer, item, False, window).choices
            wanted = [sum(plain_forward(model, *pair) for pair in choice) for choice in pairs]
            assert kept[i] == pytest.approx(wanted, abs=1e-3)
    files = found["files"]
    assert [f["kind"] for f in files.values()] == ["truthful", "choice", "pair", "text"]
    assert set(files["crows"]["groups"]) == {"gender"}
    json.dumps(found, allow_nan=False)


def test_killed_and_run_again_nothing_is_asked_twice(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(multiple_choice, "ITEMS_AT_ONCE", 4)
    sources = [first_rows(tmp_path, name, 10) for name in ("hhh", "crows")]
    models = {"a": Asked(tiny_model), "b": Asked(tiny_model, "raw")}
    whole = tax.measure(models, arguments(tmp_path / "whole", "--task_file", *sources))
    asked, real = [], multiple_choice.log_likelihoods

    def counted(model, pairs, what):
        if len(asked) == 4:
            raise KeyboardInterrupt
        asked.append(len(pairs))
        return real(model, pairs, what)

    monkeypatch.setattr(multiple_choice, "log_likelihoods", counted)
    args = arguments(tmp_path / "cut", "--task_file", *sources)
    with pytest.raises(KeyboardInterrupt):
        tax.measure(models, args)
    # torn, too, as by a full disk
    with (tmp_path / "cut" / "tax" / "a.jsonl").open("ab") as file:
        file.write(b'{"step": "1')
    before, asked[:] = sum(asked), []
    assert tax.measure(models, args) == whole
    # both models are one, asked alike: 20 items of two choices, once
    assert before + sum(asked) == 40
    asked.clear()
    assert tax.measure(models, args) == whole and not asked


def test_another_file_of_the_same_name_is_asked_anew(tiny_model, tmp_path):
    models, source = {"m": Asked(tiny_model)}, first_rows(tmp_path, "crows", 4)
    args = arguments(tmp_path / "out", "--task_file", source)
    first = tax.measure(models, args)
    assert tax.measure(models, args) == first
    rows = [json.loads(row) for row in Path(source).read_text().splitlines()]
    write_jsonl(Path(source), rows[::-1])
    second = tax.measure(models, args)
    assert second["files"]["crows"]["models"]["m"]["entropy"]["mean"] == pytest.approx(
        first["files"]["crows"]["models"]["m"]["entropy"]["mean"]
    )
    write_jsonl(Path(source), [*rows[:3], {**rows[3], "sent_less": "Rain, rain, rain."}])
    assert tax.measure(models, args)["files"] != second["files"]


@pytest.mark.parametrize("changes", [{"task_chat": True}, {"dtype": "bfloat16"}])
def test_asked_in_another_way_in_the_same_folder_it_is_asked_anew(tiny_model, tmp_path, changes):
    models, source = {"m": Asked(tiny_model)}, first_rows(tmp_path, "hhh", 4)

    def asked(folder, **more):
        args = arguments(tmp_path / folder, "--task_file", source, **more)
        tax.measure(models, args)
        steps = (tmp_path / folder / "tax" / "m.jsonl").read_text().splitlines()[1:]
        return json.loads(steps[-1])["rows"]

    first = asked("out")
    again = asked("out", **changes)
    assert again == asked("other", **changes) and again != first


def test_what_is_not_finite_names_model_task_and_row(tiny_model, tmp_path, monkeypatch):
    from instruct.evaluation.likelihoods import LogLikelihood

    def nan(model, pairs, what):
        return [LogLikelihood(math.nan, math.nan)] * len(pairs)

    monkeypatch.setattr(multiple_choice, "log_likelihoods", nan)
    args = arguments(tmp_path / "out", "--task_file", first_rows(tmp_path, "crows", 1))
    with pytest.raises(UserError, match=r"--tasks tax, model m: .*crows\.jsonl, line 1: .* is nan"):
        tax.measure({"m": Asked(tiny_model)}, args)


################
# Tasks
################


def test_what_cannot_work_is_told_first(tiny_model, tmp_path):
    models = {"m": Asked(tiny_model)}
    with pytest.raises(UserError, match="--tasks truthful needs --truthful_file"):
        truthful.check(models, arguments(tmp_path))
    with pytest.raises(UserError, match="--tasks tax needs --task_file"):
        tax.check(models, arguments(tmp_path))
    crows = FILES / "crows.jsonl"
    with pytest.raises(UserError, match=r"has the columns of CrowS-Pairs.*--task_file"):
        truthful.check(models, arguments(tmp_path, "--truthful_file", crows))
    with pytest.raises(UserError, match="is given twice"):
        tax.check(models, arguments(tmp_path, "--task_file", crows, crows))
    nobody = {"no": Asked(str(tmp_path / "nothing"))}
    with pytest.raises(UserError, match="--tasks tax, model no: "):
        tax.check(nobody, arguments(tmp_path, "--task_file", crows))


def test_a_file_is_told_as_it_is_read_and_limited(tiny_model, tmp_path, capsys):
    args = arguments(tmp_path, "--task_file", FILES / "crows.jsonl", limit=7)
    tax.check({"m": Asked(tiny_model)}, args)
    assert "crows.jsonl: read as CrowS-Pairs, 7 of 40 (--limit) items" in capsys.readouterr().out
    (file,) = multiple_choice.read_files(args.task_file, args)
    assert (len(file.items), file.total) == (7, 40)
    again = multiple_choice.read_files(args.task_file, args)[0]
    assert again == file
    # drawn with the seed, and the report says so
    args.seed = 1
    assert multiple_choice.read_files(args.task_file, args)[0].items != file.items
    found = tax.measure({"m": Asked(tiny_model)}, args)
    assert "7 of 40 items, drawn with seed 1." in "\n".join(tax.lines(found))
    args.limit = 40
    found = tax.measure({"m": Asked(tiny_model)}, args)
    assert "CrowS-Pairs: all 40 items." in "\n".join(tax.lines(found))


def test_a_report_shows_models_side_by_side(tiny_model, tmp_path):
    models = {"a|b": Asked(tiny_model), "sft": Asked(tiny_model)}
    source = first_rows(tmp_path, "truthful", 3)
    args = arguments(tmp_path / "out", "--truthful_file", source, reference="sft")
    found = truthful.measure(models, args)
    assert found["reference"] == "sft"
    file = found["files"]["truthful"]
    assert set(file["models"]["sft"]) == {"mc1", "mc2", "mc1_per_token", "mc2_per_token"}
    # the same model is as good as itself
    assert file["difference"]["a|b"]["mc2"] == {"mean": 0, "low": 0, "high": 0}
    text = "\n".join(truthful.lines(found))
    header = "| model | MC1 | MC1 by the mean of a token | MC2 | MC2 by the mean of a token |"
    assert header in text
    assert "a\\|b" in text and "against sft" in text and "3 items" in text


def test_models_asked_by_chat_template_are_told(tiny_model, tmp_path):
    source = first_rows(tmp_path, "hhh", 3)
    args = arguments(tmp_path / "out", "--task_file", source, "--task_chat")
    found = tax.measure({"m": Asked(tiny_model), "r": Asked(tiny_model, "raw")}, args)
    assert found["chat"] == ["m"]
    assert "m by chat template, others as plain text" in "\n".join(tax.lines(found))
