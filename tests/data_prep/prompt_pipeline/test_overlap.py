"""Prompts that share a long n-gram with evaluation sets."""

import random

from prompt_tools import adds_up, rows_of, run, write_lines

from data_prep.prompt_pipeline.overlap import Ngrams


def test_exclude_drops_long_shared_ngrams(tmp_path):
    question = (
        "Natalia sold clips to forty eight of her friends in April "
        "and then she sold half as many clips in May"
    )
    write_lines(
        tmp_path / "eval.jsonl",
        [
            {
                "question": question + ".",
                "choices": ["yes, of course", {"text": "Name the largest planet there is"}],
            }
        ],
    )
    log = [
        {"id": "same", "prompt": f"please solve: {question.upper()}?"},
        {"id": "part", "prompt": " ".join(question.split()[3:17])},
        {"id": "too short", "prompt": " ".join(question.split()[3:15])},
        {"id": "whole short item", "prompt": "name the largest planet, there is!"},
        {
            "id": "other",
            "prompt": "Natalia likes clips of her friends and sold half of them "
            "in some other month of the year, not May",
        },
    ]
    report = run(
        write_lines(tmp_path / "log.jsonl", log),
        tmp_path / "out",
        "--exclude",
        str(tmp_path / "eval.jsonl"),
    )
    assert {r["id"] for r in rows_of(tmp_path / "out", "removed")} == {
        "same",
        "part",
        "whole short item",
    }
    assert report["removed"] == {"contaminated": 3}
    adds_up(tmp_path / "out")


def test_ngram_filter_equals_a_plain_search():
    rng = random.Random(0)
    words = [f"w{i}" for i in range(12)]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 40))) for _ in range(60)]
    ngrams = Ngrams(iter(texts), 9)
    grams = {tuple(t.split()[i : i + 9]) for t in texts for i in range(len(t.split()) - 8)}
    whole = {tuple(t.split()) for t in texts if 5 <= len(t.split()) < 9}
    hits = 0
    for _ in range(800):
        base, at = rng.choice(texts).split(), rng.randint(0, 20)
        probe = (
            rng.choices(words, k=rng.randint(0, 9))
            + base[at : at + rng.randint(0, 14)]
            + rng.choices(words, k=rng.randint(0, 9))
        )
        expected = any(tuple(probe[i : i + 9]) in grams for i in range(len(probe) - 8)) or (
            len(probe) < 9 and tuple(probe) in whole
        )
        assert ngrams.hit(" ".join(probe)) == expected
        hits += expected
    assert 100 < hits < 700
