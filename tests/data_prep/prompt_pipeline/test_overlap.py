"""Prompts that are in evaluation sets, or share long n-grams with them."""

import json
import random
import time

import pytest
from prompt_tools import adds_up, fails, rows_of, run, write_lines

from data_prep.prompt_pipeline.overlap import Ngrams
from data_prep.prompt_pipeline.units import size_of, units_of, whole_text

QUESTION = (
    "Natalia sold clips to forty eight of her friends in April "
    "and then she sold half as many clips in May"
)
APPLES = "小明有五个苹果，他给了小红两个，请问小明现在还剩下几个苹果？"


def test_exclude_drops_copies_and_long_shared_ngrams(tmp_path):
    sets = [
        {
            "question": QUESTION + ".",
            "choices": ["yes, of course", {"text": "Name the largest planet there is"}],
        },
        {"messages": json.dumps([{"role": "user", "content": "Why?"}]), "frage": APPLES},
    ]
    log = [
        {"id": "same", "prompt": f"please solve: {QUESTION.upper()}?"},
        {"id": "part", "prompt": " ".join(QUESTION.split()[3:17])},
        {"id": "too short", "prompt": " ".join(QUESTION.split()[3:15])},
        {"id": "whole short item", "prompt": "name the largest planet, there is!"},
        {"id": "one word of a conversation as text", "prompt": "why"},
        {"id": "Chinese", "prompt": f"请回答下面的问题：{APPLES} 谢谢"},
        {"id": "Chinese, 12 characters", "prompt": "小明有五个苹果，他给了小红。谁还有？"},
        {
            "id": "other",
            "prompt": "Natalia likes clips of her friends and sold half of them "
            "in some other month of the year, not May",
        },
    ]
    exclude = write_lines(tmp_path / "eval.jsonl", sets)
    source = write_lines(tmp_path / "log.jsonl", log)
    report = run(source, tmp_path / "out", "--exclude", str(exclude))
    kept = [row["id"] for name in report["splits"] for row in rows_of(tmp_path / "out", name)]
    assert sorted(kept) == ["Chinese, 12 characters", "other", "too short"]
    assert report["removed"] == {"contaminated": 5}
    adds_up(tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    [
        *("Hi", "ok?", "Explain.", "What is AI?", "你好", "谢谢", "こんにちは", "สวัสดีครับ", "안녕"),
        *(
            "नमस्ते",
            "привет",
            "مرحبا",
            "?",
            "…",
            "🙂",
            "🙂🙂 ok",
            "1 + 1 = ?",
            "2−1",
            "C++",
            "e\u0301",
        ),
        *(
            "日本の首都はどこですか",
            "𠮷野家",
            "ﾊﾝｶｸ",
            "你好 world",
            "ဘယ်လိုလဲ",
            "x" * 200_000,
            APPLES * 9,
        ),
    ],
)
def test_an_exact_copy_is_found(text):
    ngrams = Ngrams(["something else", text, "and more"], 13)
    assert ngrams.hit(text) and ngrams.hit(f"  {text}\n") and ngrams.hit(text.upper())
    assert not Ngrams(["something else", "and more"], 13).hit(text)


@pytest.mark.parametrize(
    ("kept", "evaluation"),
    [
        ("What is C++?", "What is C?"),
        ("What is C#?", "What is C?"),
        ("5 % of it", "5 of it"),
        ("1 - 1 = ?", "1 + 1 = ?"),
        ("🙂", "🙁"),
        ("?", "!"),
        ("你好吗", "你好"),
        ("Hello there", "Hello"),
        # the last thirteen words and characters of a request are many people's
        ("明日の天気について詳しく教えてください", "江戸時代の経済について詳しく教えてください"),
        ("กรุณาอธิบายเกี่ยวกับแมวให้ฟังหน่อย", "กรุณาอธิบายเกี่ยวกับดวงจันทร์ให้ละเอียด"),
    ],
)
def test_a_near_miss_stays(kept, evaluation):
    assert not Ngrams([evaluation], 13).hit(kept)


def test_thirteen_words_are_twenty_characters():
    characters = "".join(map(chr, range(0x4E00, 0x4E40)))
    words = [f"w{i}" for i in range(30)]
    ngrams = Ngrams([characters, " ".join(words), f"{characters[:30]} {' '.join(words)}"], 13)
    for start in range(20):
        assert ngrams.hit(f"看{characters[start : start + 20]}呢")
        assert not ngrams.hit(f"看{characters[start : start + 19]}呢")
    for n, hit in ((12, False), (13, True)):
        assert ngrams.hit(f"so {' '.join(words[5 : 5 + n])} then") is hit
    # a mixture: seven words and nine characters come to 39, as 13 words do
    assert ngrams.hit(f"看{characters[21:30]} {' '.join(words[:7])}")
    assert not ngrams.hit(f"看{characters[22:30]} {' '.join(words[:7])}")


def test_a_word_keeps_its_marks_and_a_character_is_a_unit():
    assert units_of("हिन्दी में") == ["हिन्दी", "में"]
    assert units_of("我的Python代码 ที่นี่") == ["我", "的", "python", "代", "码", "ที่", "นี่"]
    assert units_of("Cafe\u0301!") == units_of("café") == ["café"]
    assert whole_text("Name it, please!") == whole_text("name it  please")


def test_ngram_filter_equals_a_plain_search():
    rng = random.Random(0)
    # words and characters of Chinese: an n-gram of 9 words is one of 13.5 characters
    for pool in ([f"w{i}" for i in range(12)], [*"天地玄黄宇宙洪荒", "w1", "w2", "w3"]):
        texts = [rng.choices(pool, k=rng.randint(1, 40)) for _ in range(60)]
        ngrams = Ngrams((" ".join(t) for t in texts), 9)
        grams = {tuple(g) for t in texts for g in runs(t, 27)}
        whole = {tuple(t) for t in texts if sum(map(size_of, t)) < 27}
        hits = 0
        for _ in range(800):
            base, at = rng.choice(texts), rng.randint(0, 20)
            probe = (
                rng.choices(pool, k=rng.randint(0, 9))
                + base[at : at + rng.randint(0, 20)]
                + rng.choices(pool, k=rng.randint(0, 9))
            )
            expected = any(tuple(g) in grams for g in runs(probe, 27)) or (tuple(probe) in whole)
            assert ngrams.hit(" ".join(probe)) == expected
            hits += expected
        assert 100 < hits < 700


def runs(units: list[str], size: int) -> list[list[str]]:
    """From every unit on the shortest run of at least this size, by adding up anew each time."""
    found = []
    for start in range(len(units)):
        ends = range(start + 1, len(units) + 1)
        ends = [end for end in ends if sum(map(size_of, units[start:end])) >= size]
        found += [units[start : ends[0]]] if ends else []
    return found


@pytest.mark.parametrize("unit", ["a ", "你", "สวั", "🙂", "a\u0301", "*", "x", "! "])
def test_overlap_is_linear(unit):
    seconds = []
    for size in (10_000, 100_000):
        text = (unit * size)[:size]
        times = []
        for _ in range(3):
            start = time.process_time()
            Ngrams([text, text[:100]], 13).hit(text)
            times.append(time.process_time() - start)
        # 10 ms: below it noise decides
        seconds.append(max(min(times), 1e-2))
    assert seconds[1] / seconds[0] < 30


@pytest.mark.parametrize(
    ("lines", "said"),
    [(['{"question": "Who'], "line 1: "), ([{"n": 1}, {"n": ""}], "no text in it")],
)
def test_an_evaluation_set_that_cannot_be_read_is_told(tmp_path, capsys, lines, said):
    log = write_lines(tmp_path / "log.jsonl", [{"prompt": "Who is it?"}])
    exclude = write_lines(tmp_path / "eval.jsonl", lines)
    argv = ["--input", log, "--output_dir", tmp_path / "out", "--num_proc", "1"]
    sentence = fails(capsys, *map(str, argv), "--exclude", str(exclude))
    assert "--exclude" in sentence and "eval.jsonl" in sentence and said in sentence
