"""The LLM judge: its replies and ranks by hand, and a real server that it asks."""

import json
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations

import pytest
from llm_tools import judge_server  # noqa: F401  (a fixture)

from instruct.errors import UserError
from instruct.evaluation import llm_judge
from instruct.evaluation.judges import judge_of
from instruct.evaluation.llm_judge import (
    PROMPT,
    Pair,
    check_prompt_flag,
    llm_judge_of,
    outcome,
    ranks_from_wins,
    verdict_in,
)

HERE = "llm:m@http://localhost:8000/v1"


################
# What is read in a reply, and what is made of it
################


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("B says more. [[B]]", "B"),
        ("[[A]] It is true.\n[[A]]", "A"),
        ("[[ C ]]", "C"),
        ("a", "A"),
        (" **B**.\n", "B"),
        ("<think>[[A]] or [[B]]?</think> Hm. [[B]]", "B"),
        # the question said back, and no verdict at all
        ("[[A]] where answer A is better, [[B]] where answer B is", None),
        ("Answer A is better", None),
        ("<think>[[A]] or", None),
        ("Hm.</think>So:\n <think>[[A]]", None),
        # what is quoted is no thought
        ("A writes `<think>` into its answer. [[B]]", "B"),
        ("[[D]]", None),
        ("", None),
        (None, None),
    ],
)
def test_a_reply_has_one_verdict_or_none(reply, verdict):
    assert verdict_in(reply) == verdict


def test_a_pair_is_won_in_both_orders_or_tied():
    said = (1.0, 0.5, 0.0, None)
    won = {(a, b): outcome((a, b)) for a in said for b in said}
    assert won.pop((1.0, 1.0)) == 1.0 and won.pop((0.0, 0.0)) == 0.0
    assert set(won.values()) == {0.5}


def test_ranks_are_those_of_a_plain_count_of_wins():
    assert ranks_from_wins(3, [(0, 1, 1.0), (0, 2, 1.0), (1, 2, 0.0)]) == [1, 3, 2]
    # a circle, and nothing but ties
    assert ranks_from_wins(3, [(0, 1, 1.0), (1, 2, 1.0), (0, 2, 0.0)]) == [1, 1, 1]
    assert ranks_from_wins(2, [(0, 1, 0.5)]) == [1, 1] and ranks_from_wins(1, []) == [1]
    draw = random.Random(0)
    for count in range(2, 10):
        pairs = [(i, j, draw.choice([0.0, 0.5, 1.0])) for i, j in combinations(range(count), 2)]
        score = {
            i: sum(w for a, _, w in pairs if a == i) + sum(1 - w for _, b, w in pairs if b == i)
            for i in range(count)
        }
        ranks = ranks_from_wins(count, pairs)
        for i in range(count):
            assert ranks[i] == 1 + len({s for s in score.values() if s > score[i]})


################
# By a spec
################


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("llm:", "write it as llm:MODEL@URL"),
        ("llm:m", "write it as llm:MODEL@URL"),
        ("llm:m@localhost:8000", "write it as llm:MODEL@URL"),
        ("llm:@http://localhost", "write it as llm:MODEL@URL"),
        ("llm:m@http://localhost:port", "the URL of llm:m is none"),
        ("llm:m@http://me:sesame@localhost/v1", "the environment variable OPENAI_API_KEY"),
        ("llm:m@http://localhost/v1?key=sesame", "the environment variable OPENAI_API_KEY"),
    ],
)
def test_a_wrong_spec_is_one_sentence_without_a_key(spec, why):
    with pytest.raises(UserError) as error:
        llm_judge_of(spec, "--judge")
    assert why in str(error.value) and "sesame" not in str(error.value)


def test_a_spec_names_model_and_server():
    pytest.importorskip("openai")
    for url in ("http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/chat/completions"):
        judge = llm_judge_of(f"llm:org/m@{url}", "--judge")
        assert (judge.model, judge.url, judge.name) == ("org/m", "http://h:1/v1", "org/m")
    # no path of a machine in what is written
    assert llm_judge_of("llm:/home/me/m7@http://h", "--judge").name == "m7"
    assert llm_judge_of("llm:m@main@http://h", "--judge").model == "m@main"
    with pytest.raises(UserError, match="compares answers"):
        judge_of(HERE, "--reward_funcs")


def test_a_prompt_file_has_its_places_and_asks_for_what_is_read(tmp_path):
    pytest.importorskip("openai")
    file = tmp_path / "p.md"
    for text, why in (
        ("{prompt} {answer_a} [[A]] [[B]] [[C]]", "has no {answer_b}"),
        ("{prompt} {answer_a} {answer_b} A or B?", "has to ask for [[A]], [[B]] or [[C]]"),
    ):
        file.write_text(text)
        with pytest.raises(UserError) as error:
            llm_judge_of(HERE, "--judge", file)
        assert why in str(error.value)
    with pytest.raises(UserError, match="no such file"):
        llm_judge_of(HERE, "--judge", tmp_path / "gone.md")
    with pytest.raises(UserError, match="give one, llm:MODEL@URL, too"):
        check_prompt_flag(file, ["scripted"])
    # another text is another judge
    file.write_text("{prompt} {answer_a} {answer_b} [[A]] [[B]] [[C]]")
    ours, theirs = llm_judge_of(HERE, "--judge"), llm_judge_of(HERE, "--judge", file)
    assert ours.identity() != theirs.identity() and ours.template == PROMPT.read_text()


def test_texts_stand_in_their_places_as_they_are(tmp_path):
    pytest.importorskip("openai")
    file = tmp_path / "p.md"
    file.write_text("{prompt}|{answer_a}|{answer_b} {x} [[A]] [[B]] [[C]]")
    judge = llm_judge_of(HERE, "--judge", file)
    asked = judge._text(Pair("Hi {answer_a}", r"\1 {answer_b}", "{prompt} $"))
    assert asked == r"Hi {answer_a}|\1 {answer_b}|{prompt} $ {x} [[A]] [[B]] [[C]]"
    turns = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"))]
    assert judge._text(Pair(turns, "1", "2")).startswith("user: a\n\nassistant: b|1|2")


################
# A real server
################

PAIRS = [
    Pair("Hi", "great", "bad"),
    Pair([{"role": "user", "content": "Hi"}], "bad", "great and great"),
    Pair("Hi", "one", "other"),
    Pair("Hi", "first, great", "first"),
    Pair("Hi", "mumble", "x"),
    Pair("Hi", "same", "same"),
]
SAID = [[1, 1], [0, 0], [0.5, 0.5], [1, 0], [None, None], []]


def test_both_orders_are_asked_and_counted(judge_server):  # noqa: F811
    judge = llm_judge_of(judge_server.spec, "--judge")
    before = judge_server.answered()
    found = judge.verdicts(PAIRS)
    assert found == SAID and list(map(outcome, found)) == [1, 0, 0.5, 0.5, 0.5, 0.5]
    # equal texts are not asked
    assert judge_server.answered() - before == 10
    judge.add(found)
    assert judge.tally.sentence() == (
        "1 of 6 pairs tied as the two orders disagree, 2 of 10 replies unreadable"
    )


def test_too_many_unreadable_replies_are_no_ties(judge_server):  # noqa: F811
    judge = llm_judge_of(judge_server.spec, "--judge")
    verdicts = judge.verdicts([Pair("Hi", "mumble", "x")])
    with pytest.raises(UserError) as error:
        judge.add(verdicts, is_last=True)
    assert "2 of 2 replies hold no verdict" in str(error.value) and "'perhaps'" in str(error.value)
    patient = llm_judge_of(judge_server.spec, "--judge")
    # one of ten is let pass, and nothing is said of the first few
    patient.add(verdicts)
    patient.add([[1, 1]] * 9, is_last=True)
    patient.add([[1, 1]] * 9)
    with pytest.raises(UserError, match="6 of 42 replies"):
        patient.add([[None, None]] * 2)
    # equal texts, which nobody was asked about, do not make it readable
    alike = judge.verdicts([Pair("Hi", "same", "same")] * 20)
    with pytest.raises(UserError, match="2 of 2 replies"):
        llm_judge_of(judge_server.spec, "--judge").add([*verdicts, *alike], is_last=True)


def test_a_server_that_is_killed_and_comes_back_is_asked_again(judge_server):  # noqa: F811
    judge = llm_judge_of(judge_server.spec, "--judge")
    pairs, found = PAIRS[:4] * 30, []
    before = judge_server.answered()
    asking = threading.Thread(target=lambda: found.extend(judge.verdicts(pairs)))
    asking.start()
    while judge_server.answered() < before + 20:
        time.sleep(0.01)
    judge_server.kill()
    assert not found
    judge_server.start()
    asking.join(timeout=120)
    assert found == SAID[:4] * 30


def test_a_server_that_is_not_there_is_told_at_once():
    pytest.importorskip("openai")
    judge = llm_judge_of("llm:m@http://127.0.0.1:9", "--judge")
    started = time.monotonic()
    with pytest.raises(UserError, match="does not answer; start the server") as error:
        judge.verdicts(PAIRS)
    assert time.monotonic() - started < 15 and "\n" not in str(error.value)


################
# What a tiny model's server never does: refusals and overload
################


@pytest.fixture()
def moody(monkeypatch):
    """A server that answers by the status codes of a list, then well."""
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-sesame")
    seen, codes = [], []

    class Moody(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((body, self.headers["Authorization"]))
            code, said = codes.pop(0) if codes else (200, "")
            reply = {"error": {"message": said}}
            if code == 200:
                message = {"role": "assistant", "content": "[[C]]"}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                reply = {"id": "1", "object": "chat.completion", "model": "m", "created": 1}
                reply["choices"] = [choice]
                reply = json.loads(said) if said else reply
            payload = json.dumps(reply).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Retry-After", "0.01")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    judge = llm_judge_of(f"llm:m@http://127.0.0.1:{server.server_port}", "--judge")
    yield judge, codes, seen
    server.shutdown()


def test_overload_and_errors_of_a_server_are_waited_for(moody):
    judge, codes, seen = moody
    codes += [(429, "slow down"), (503, "starting")]
    assert judge.verdicts(PAIRS[:1]) == [[0.5, 0.5]] and len(seen) == 4
    codes += [(500, "oops")] * 5
    assert judge.verdicts(PAIRS[:1]) == [[0.5, 0.5]]
    body, key = seen[-1]
    assert key == "Bearer sk-sesame" and body["temperature"] == 0 and body["model"] == "m"
    assert "sesame" not in json.dumps(judge.identity())


def test_a_server_that_has_answered_is_asked_all_at_once(moody, monkeypatch):
    judge, codes, seen = moody
    under_way, seen_at_once, real = [], [], judge._completion

    async def counted(*args):
        under_way.append(args)
        seen_at_once.append(len(under_way))
        try:
            return await real(*args)
        finally:
            under_way.remove(args)

    monkeypatch.setattr(judge, "_completion", counted)
    judge.verdicts(PAIRS[:2])
    # the first alone: a wrong URL is told before all the others are sent there
    assert seen_at_once == [1, 1, 2, 3]
    seen_at_once.clear()
    judge.verdicts(PAIRS[:2])
    assert seen_at_once == [1, 2, 3, 4]


def test_a_model_without_a_temperature_is_asked_without(moody):
    judge, codes, seen = moody
    codes.append((400, "Unsupported value: 'temperature' does not support 0 with this model"))
    assert judge.verdicts(PAIRS[:2]) == [[0.5, 0.5]] * 2
    assert ["temperature" in body for body, _ in seen] == [True] + [False] * 4


@pytest.mark.parametrize(
    ("code", "said", "why"),
    [
        (401, "Incorrect API key provided: sk-sesame", "refuses the key; set the environment"),
        (404, "The model `m` does not exist", "look at the model's name and the URL"),
        (400, "maximum context length is 512", "refuses what it is asked of the prompt 'Hi'"),
        (422, "no such role", "leave that row out"),
        (429, "quota", "(Error code: 429"),
        (200, '{"hello": 1}', "is no server of chat completions"),
        (200, '{"choices": [{}]}', "is no server of chat completions"),
        (200, '{"choices": ["x"]}', "is no server of chat completions"),
        (200, '{"choices": [{"message": null}]}', "is no server of chat completions"),
        (200, '{"choices": [{"message": {"content": [1]}}]}', "is no server of chat completions"),
        (200, '{"choices": []}', None),
        (200, '{"choices": [{"message": {"role": "assistant"}}]}', None),
    ],
)
def test_a_refusal_is_one_sentence_without_the_key(moody, code, said, why):
    judge, codes, _ = moody
    codes += [(code, said)] * 30
    if why is None:
        assert judge.verdicts(PAIRS[:1]) == [[None, None]]
        return
    with pytest.raises(UserError) as error:
        judge.verdicts(PAIRS[:2])
    assert why in str(error.value) and "\n" not in str(error.value)
    assert "sesame" not in str(error.value)


def test_constants_are_what_the_page_says():
    # docs/labeling.md
    assert (llm_judge.UNREADABLE, llm_judge.AT_A_TIME, llm_judge.RETRIES) == (0.1, 8, 8)
