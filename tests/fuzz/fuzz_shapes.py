"""Rows in every shape of docs/formats.md, half right, for every command that reads rows."""

import copy
from typing import Any

import fuzz_files as files
from fuzz_calls import flags
from fuzz_data import DATA_PREP, DEMONSTRATION_FLAGS, PROMPT_FLAGS
from fuzz_recipes import RECIPES
from hypothesis import strategies as st
from page_tools import PAGE

# what people's files have in the place of a right value, besides what is in nobody's format
LIKELY = st.sampled_from(
    [
        *("1", "1.0", "first", "A", "b", "model_c", "tie", "True", 0.5, 1.5, 3, 7, -3, 1e308),
        *("human", "gpt", "critic", "User ", "ASSISTANT", "tool", "system", "", "[]", "[1]", "{}"),
        *("\n\nHuman: Hi\n\nAssistant:", "\n\nHuman: Hi\n\nHuman: Hi", "Assistant: Hi", "Hi"),
        *(["Hi"], ["Hi", "Hello."], [["Hi"]], [1, 2], [2.0, 1.0], [0, 0], ["1", "2"], [None, 1]),
        *({"role": "user", "content": "Hi"}, {"from": "gpt", "value": "Hello."}, {"text": "Hi"}),
        [{"role": "assistant", "content": "Hi"}, {"role": "assistant", "content": "Hello."}],
        [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Hello."}],
        [{"role": "system", "content": "Hi"}],
    ]
)
RIDES = ("id", "prompt_id", "user_id", "source", "system", "history", "label", "model", "tools")


def places(value: Any) -> list[tuple]:
    """The paths to everything in a row."""
    inner = enumerate(value) if isinstance(value, list) else ()
    inner = value.items() if isinstance(value, dict) else inner
    return [path for key, v in inner for path in [(key,), *((key, *p) for p in places(v))]]


@st.composite
def changed(draw, row: dict, others: dict) -> dict:
    """A row with one thing in it replaced, gone, twice, or under another's name."""
    row = copy.deepcopy(row)
    path = draw(st.sampled_from(places(row)))
    above = row
    for key in path[:-1]:
        above = above[key]
    key, change = path[-1], draw(st.sampled_from(["value", "value", "value", "drop", "more"]))
    if change == "value":
        above[key] = draw(files.WRONG | LIKELY | LIKELY | st.sampled_from([*others.values()]))
    elif change == "drop":
        del above[key]
    elif isinstance(above, list):
        above.append(copy.deepcopy(above[key]))
    else:
        name = draw(st.sampled_from([*RIDES, *others]))
        above[name] = draw(files.WRONG | LIKELY | st.just(others.get(name)))
    return row


@st.composite
def half_right(draw, *kinds: str, stem: str = "rows") -> files.Source:
    """A file of one shape, some of its rows not quite; of these kinds, seldom of another."""
    of_kind = [shape for shape in PAGE if shape.kind in kinds]
    shape = draw(st.sampled_from(of_kind * 5 + PAGE))
    other = draw(st.sampled_from(of_kind)).rows[0]
    found = [row for _ in range(draw(st.integers(1, 3))) for row in shape.rows]
    for i in draw(st.lists(st.integers(0, len(found) - 1), max_size=3)):
        found[i] = draw(changed(found[i], other)) or dict(found[i])
    # mixed: a row of another shape among them
    if draw(st.integers(0, 4)) == 0:
        found.insert(draw(st.integers(0, len(found))), other)
    return draw(files.written(found, stem))


def given(command: str, **drawn: st.SearchStrategy) -> tuple:
    """The check of a command with other inputs than its own."""
    check, strategies = {**DATA_PREP, **RECIPES}[command]
    return check, {**strategies, **drawn}


NO_FLAGS = st.just([])
SHAPES = {
    "prompts": {"source": half_right("prompts", stem="log"), "argv": flags(PROMPT_FLAGS)},
    "demonstrations": {
        "source": half_right("demonstrations"),
        "split": st.none(),
        "argv": flags(DEMONSTRATION_FLAGS),
    },
    "comparisons": {"source": half_right("rankings"), "argv": flags({"validation": ("0", "0.5")})},
    "label": {"source": half_right("samples"), "argv": NO_FLAGS},
    "sample": {
        "source": half_right("prompts"),
        "answers": st.none() | half_right("answers", stem="answers"),
        "argv": NO_FLAGS,
    },
    "sft": {"source": half_right("demonstrations"), "argv": NO_FLAGS},
    "reward": {
        "source": half_right("rankings"),
        "demonstrations": st.none() | half_right("demonstrations", stem="demonstrations"),
        "argv": NO_FLAGS,
    },
    "score": {"source": half_right("demonstrations")},
    "ppo": {
        "source": half_right("prompts"),
        "ptx": st.none(),
        "judged_by": st.just("model"),
        "argv": NO_FLAGS,
    },
    "evaluate": {
        "source": half_right("prompts"),
        "models": st.just(["a=MODEL"]),
        "argv": NO_FLAGS,
    },
}
OTHERS_SHAPES = {f"{name}, others' shapes": given(name, **new) for name, new in SHAPES.items()}
