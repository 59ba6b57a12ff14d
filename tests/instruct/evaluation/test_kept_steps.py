"""Steps of a task on disk: torn lines, other keys."""

from instruct.evaluation.kept_steps import KeptSteps


def test_steps_are_there_again_by_their_key_and_a_torn_line_goes(tmp_path):
    file = tmp_path / "of" / "sft.jsonl"
    kept = KeptSteps(file, "one")
    assert kept.done == {}
    kept.add("a", [{"text": "tea \ud800 \u2028"}])
    kept.add("b", [1, None])
    done = {"a": [{"text": "tea \ud800 \u2028"}], "b": [1, None]}
    assert kept.done == done and KeptSteps(file, "one").done == done
    whole = file.read_bytes()
    # killed at any byte: what was whole is there, and goes on
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        again = KeptSteps(file, "one")
        assert again.done == {step: done[step] for step in again.done}
        assert len(again.done) == max(0, whole[:size].count(b"\n") - 1)
        for step in done.keys() - again.done.keys():
            again.add(step, done[step])
        assert KeptSteps(file, "one").done == done


def test_what_was_asked_of_something_else_is_replaced(tmp_path):
    file = tmp_path / "sft.jsonl"
    KeptSteps(file, "one").add("a", [1])
    assert KeptSteps(file, "one", anew=True).done == {}
    assert KeptSteps(file, "one").done == {}
    KeptSteps(file, "one").add("a", [1])
    assert KeptSteps(file, "other").done == {}
    assert KeptSteps(file, "one").done == {}
