"""A form is believed in nothing: what is no answer is refused in a sentence."""

import pytest
from labeling_tools import ranked

from data_prep.labeling.answers import check, check_reason, check_seconds
from data_prep.labeling.questions import DEFAULT_QUESTIONS, QUESTIONS
from instruct.errors import UserError

ROW = {"prompt": [{"role": "user", "content": "Hi"}], "completions": ["a", "b", "c"]}
WRITTEN = {"prompt": "Say hi.", "completion": "Hi!", "request_form": "plain"}


def test_the_paper_asks_eleven_questions():
    assert len(QUESTIONS) == 11 and DEFAULT_QUESTIONS == tuple(QUESTIONS)


@pytest.mark.parametrize("kind", ["rankings", "judgements"])
@pytest.mark.parametrize("ranks", [[1, 2, 3], [1, 1, 1], [2, 1, 1], [3, 1, 2], [2, 2, 1]])
def test_ranks_with_ties_are_an_answer(kind, ranks):
    assert check(kind, ROW, ranked(ranks)) == ranked(ranks)


@pytest.mark.parametrize(
    "ranks",
    [
        [1, 2], [1, 2, 3, 4], [], None, "123", {"0": 1}, [1, 3, 3], [0, 1, 2], [2, 2, 2],
        [1, 2, -1], [1.0, 2, 3], [True, 2, 3], ["1", 2, 3], [1, 2, None], [1, 2, [3]],
        [1, 2, 10**400], [1, 2, float("nan")],
    ],
)  # fmt: skip
def test_ranks_that_are_none_are_refused(ranks):
    with pytest.raises(UserError, match="ranks") as error:
        check("rankings", ROW, {**ranked([1, 2, 3]), "ranks": ranks})
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("value", [0, 8, -1, 4.0, True, "4", [4], {}, 10**400])
def test_quality_is_a_whole_number_from_1_to_7_or_null(value):
    assert check("rankings", ROW, ranked([1, 2, 3], [1, 7, None]))["quality"] == [1, 7, None]
    with pytest.raises(UserError, match="quality"):
        check("rankings", ROW, ranked([1, 2, 3], [4, 4, value]))


@pytest.mark.parametrize(
    "flags",
    [
        [["opinion"], [], ["nice"]], [["opinion", "opinion"], [], []], ["opinion", [], []],
        [[], []], [[1], [], []], [[["opinion"]], [], []], [{}, [], []], "opinion",
        [["x" * 5_000_000], [], []],
    ],
)  # fmt: skip
def test_flags_are_questions_that_were_asked(flags):
    with pytest.raises(UserError, match="flags") as error:
        check("rankings", ROW, ranked([1, 2, 3], flags=flags))
    assert len(str(error.value)) < 400


def test_flags_are_kept_in_the_order_of_the_questions():
    flags = [["opinion", "hallucination"], [], ["inappropriate"]]
    kept = check("rankings", ROW, ranked([1, 2, 3], flags=flags))["flags"]
    assert kept == [["hallucination", "opinion"], [], ["inappropriate"]]
    with pytest.raises(UserError, match="'hallucination' is no question that is asked"):
        check("rankings", ROW, ranked([1, 2, 3], flags=flags), questions=("opinion",))


def test_where_outputs_are_only_ranked_nothing_else_is_taken():
    only = {"ranks": [1, 2, 2]}
    kept = check("rankings", ROW, only, (), True)
    assert kept == {"ranks": [1, 2, 2], "quality": [None] * 3, "flags": [[], [], []]}
    for more in ({"quality": [1, 1, 1]}, {"flags": [["opinion"], [], []]}):
        with pytest.raises(UserError):
            check("rankings", ROW, {**only, **more}, DEFAULT_QUESTIONS, True)


@pytest.mark.parametrize("kind", ["rankings", "judgements", "demonstrations"])
@pytest.mark.parametrize("answer", [None, [], "1 2 3", 5, [[1, 2, 3]]])
def test_what_is_no_object_is_no_answer(kind, answer):
    with pytest.raises(UserError, match="an answer is an object"):
        check(kind, ROW, answer)


@pytest.mark.parametrize(
    "kind, answer", [("rankings", ranked([1, 2, 3])), ("demonstrations", WRITTEN)]
)
def test_a_form_with_more_in_it_is_refused(kind, answer):
    check(kind, ROW, answer)
    for more in ("labeler", "timestamp", "<script>", "\u202e"):
        with pytest.raises(UserError, match="in an answer"):
            check(kind, ROW, {**answer, more: 1})


################
# Demonstrations
################


def test_a_prompt_is_the_items_own_or_the_labelers():
    own = {
        "prompt": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    }
    for prompt in ("Say hi.", own["prompt"], ROW["prompt"]):
        kept = check("demonstrations", ROW, {**WRITTEN, "prompt": prompt})
        assert kept == {**WRITTEN, "prompt": prompt, "use_case": None}
    # what a log holds is taken as it is
    tool = {"prompt": [{"role": "user", "content": "Hi", "name": "Ann"}]}
    assert check("demonstrations", tool, {**WRITTEN, "prompt": tool["prompt"]})
    with pytest.raises(UserError, match="'name'"):
        check("demonstrations", ROW, {**WRITTEN, "prompt": tool["prompt"]})
    # nobody could shorten it
    long = [{"role": "user", "content": "x" * (2**20 + 1)}]
    assert check("demonstrations", {"prompt": long}, {**WRITTEN, "prompt": long})


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"prompt": "  "}, "the prompt is empty"),
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": None}, "the prompt is null"),
        ({"prompt": 5}, "the prompt is a number"),
        ({"prompt": [{"role": "user"}]}, "no content"),
        ({"prompt": [{"role": "admin", "content": "Hi"}]}, "a message of 'admin'"),
        ({"prompt": [{"role": "assistant", "content": "Hi"}]}, "must end with what the user"),
        ({"completion": ""}, "the answer is empty"),
        ({"completion": " \n"}, "the answer is empty"),
        ({"completion": ["Hi"]}, "the answer is empty"),
        ({"completion": "x" * (2**20 + 1)}, "the answer has 1,048,577 characters"),
        ({"prompt": "x" * (2**20 + 1)}, "the prompt has 1,048,577 characters"),
        ({"completion": "\udfff"}, "half a character"),
        ({"prompt": [{"role": "user", "content": "\ud83d"}]}, "half a character"),
        ({"request_form": "direct"}, "plain, few_shot, user_based"),
        ({"request_form": ["plain"]}, "plain, few_shot, user_based"),
        ({"use_case": " "}, "use case"),
        ({"use_case": 3}, "use case"),
    ],
)
def test_a_demonstration_that_is_none_is_refused(changed, told):
    with pytest.raises(UserError) as error:
        check("demonstrations", ROW, {**WRITTEN, **changed})
    assert told in str(error.value) and len(str(error.value)) < 400


def test_a_use_case_is_kept():
    kept = check(
        "demonstrations", ROW, {**WRITTEN, "request_form": "user_based", "use_case": " chat "}
    )
    assert kept["use_case"] == "chat"


@pytest.mark.parametrize("reason", ["", " ", None, 5, "x" * 2001, "\ud800"])
def test_a_reason_is_a_short_text(reason):
    assert check_reason(" no ") == "no"
    with pytest.raises(UserError):
        check_reason(reason)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), None, "1", True, 10**10, [1]])
def test_seconds_are_a_number(seconds):
    assert check_seconds(0) == 0.0 and check_seconds(59.96) == 60.0
    with pytest.raises(UserError, match="seconds"):
        check_seconds(seconds)
