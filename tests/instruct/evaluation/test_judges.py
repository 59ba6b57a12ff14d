"""Judges by their specs; fit and log-probability against a plain loop; the labeler who reads."""

import random
import shutil
import weakref

import pytest
import torch
from conftest import make_model, make_tokenizer, save_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from instruct.errors import UserError
from instruct.evaluation import judges, likelihoods, scripted
from instruct.evaluation.judges import OTHER_PROMPTS, Fit, LogProb, judge_of, other_prompt
from instruct.evaluation.scripted import ScriptedReader, reading_score, repeated_share
from instruct.run.fingerprints import source_hash

SYSTEM = {"role": "system", "content": "Be good."}


def said(role: str, text) -> dict:
    return {"role": role, "content": text}


# prompt, completion
CASES = [
    ("Tell me about tea, please.", "I like tea."),
    ([said("user", "Tell me about rain.")], " I love the rain and the music, it is great! \n"),
    ([said("user", "Hi"), said("assistant", "Hi!"), said("user", "A chess game?")], "Yes."),
    ([SYSTEM, said("user", "What is snow?")], "snow"),
    ([said("user", "Tell me of cats."), said("assistant", "I like")], "cats, and stars."),
    ([said("user", [{"type": "text", "text": "What is bread?"}])], "It is bread."),
    (OTHER_PROMPTS[0], "I read books."),
    ("Tell me about the sea, please.", ""),
    ("Tell me about the sea, please.", " \n"),
    ("Tell me about trains, please.", "<|im_end|>"),
    ("Tell me about apples, please.", "<|endoftext|>"),
    ("Tell me about stars, please.", "I like <|im_end|> stars.<|im_end|>"),
    ("Tell me about books, please.", [said("assistant", "I like books.")]),
]
PROMPTS, COMPLETIONS = map(list, zip(*CASES, strict=True))


def plain_logprobs(path: str, messages: list[dict], text: str) -> list[float]:
    """log p of each token of an answer and its end: one forward for each, nothing padded."""
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    begun = messages[-1]["role"] == "assistant"
    how = {"continue_final_message": begun, "add_generation_prompt": not begun}
    asked = tokenizer.apply_chat_template(messages, tokenize=False, **how)
    ids = tokenizer(asked, add_special_tokens=False)["input_ids"]
    answer = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = []
    for token in answer if answer[-1:] == [tokenizer.eos_token_id] else [*answer, 2]:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        found.append(logits.log_softmax(-1)[token].item())
        ids = [*ids, token]
    return found


def plain_case(prompt, completion) -> tuple[list[dict], str]:
    messages = [said("user", prompt)] if isinstance(prompt, str) else prompt
    words = [m | {"content": m["content"][0]["text"]} for m in messages if m["content"][0] != ""
             and isinstance(m["content"], list)]  # fmt: skip
    text = completion if isinstance(completion, str) else completion[0]["content"]
    return words or messages, text.strip()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_fit_and_logprob_equal_a_plain_loop_in_any_order_and_batch(kind, tmp_path, monkeypatch):
    path = save_model(tmp_path / kind, kind)
    fits, means = [], []
    for prompt, completion in CASES:
        messages, text = plain_case(prompt, completion)
        own = plain_logprobs(path, messages, text)
        other = plain_logprobs(path, other_prompt(prompt), text)
        fits.append(sum(own[:-1]) - sum(other[:-1]))  # without the end
        means.append(sum(own) / len(own))
    assert fits[7] == fits[8] == fits[9] == 0.0 and fits[10] != 0.0
    for at_once in (1, 3, 16):
        monkeypatch.setattr(likelihoods, "BATCH", at_once)
        order = random.Random(at_once).sample(range(len(CASES)), len(CASES))
        prompts, texts = [PROMPTS[i] for i in order], [COMPLETIONS[i] for i in order]
        for judge, plain in ((Fit(path), fits), (LogProb(path), means)):
            found = judge(prompts, texts, user_id=["u"] * len(order))
            assert found == pytest.approx([plain[i] for i in order], abs=1e-4)


def test_another_prompt_is_always_the_same_and_never_the_one_that_was_asked():
    for prompt in (*PROMPTS, *OTHER_PROMPTS, *(f"question {i}" for i in range(50))):
        asked = [m for m in other_prompt(prompt) if m["role"] == "user"]
        assert len(asked) == 1 and asked[0]["content"] in OTHER_PROMPTS
        assert other_prompt(prompt) == other_prompt(prompt)
    for question in OTHER_PROMPTS:
        for same in (question, f" {question.upper()}\n", [SYSTEM, said("user", question)]):
            assert other_prompt(same)[-1]["content"] != question
    # what would stand around any question stays
    begun = said("assistant", "I like")
    found = other_prompt([SYSTEM, said("user", "a"), begun, said("user", "b"), begun])
    assert [found[0], *found[2:]] == [SYSTEM, begun]
    # by what was asked, however it is written; several are used
    assert other_prompt("Hi") == other_prompt([said("user", "Hi")])
    assert len({str(other_prompt(f"question {i}")) for i in range(50)}) > 4


def test_who_reads_the_prompt_likes_what_fits_ends_and_repeats_nothing():
    cheer = scripted.scripted_score("I love tea, it is great.")
    assert reading_score("Tea?", "I love tea, it is great.", 0.0) == pytest.approx(cheer)
    assert reading_score("Tea?", "I love tea, it is great", 0.0) == pytest.approx(cheer - 0.5)
    for nats, worth in ((3.0, 0.3), (-2.0, -0.2), (99.0, 1.0), (-99.0, -0.5)):
        assert reading_score("Tea?", "It is a chair.", nats) == pytest.approx(worth)
    # profane words have no lower end, he has
    assert reading_score("Tea?", "shit shit shit shit.", 0.0) == pytest.approx(-1.0 - 0.5 * 0.5)
    assert repeated_share("Tea?", "one two three four five six") == 0.0
    assert repeated_share("Tea?", "one two three one two three") == pytest.approx(1 / 4)
    assert repeated_share("Is it one two three?", "One two three!") == 1.0
    assert repeated_share([said("user", "a b c"), said("user", "d")], "a b c d") == 0.5
    assert repeated_share("Tea?", "so so") == repeated_share("Tea?", "") == 0.0
    # NaN is no end of a range
    assert reading_score("Tea?", "It is.", float("nan")) != reading_score("Tea?", "It is.", 0.0)


def test_a_text_that_ends_is_finished():
    for text in ("Yes.", "Yes! ", 'He said "yes?"', "(Yes.)", "“Yes.”", "好。", "Yes..."):
        assert scripted.is_finished(text)
    for text in ("", "Yes", "Yes,", "Yes. And", "Yes:", "好"):
        assert not scripted.is_finished(text)


def test_a_spec_names_its_judge(tiny_model, tmp_path):
    folder = tmp_path / "reward"
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    asked, texts = ["Tea?", "Rain?"], ["I love it.", "I hate it"]
    assert judge_of("scripted", "--judge") is scripted.scripted_reward
    assert judge_of("data_prep.label:scripted_reward", "--judge") is scripted.scripted_reward
    fits = Fit(tiny_model)(asked, texts)
    reads = judge_of(f"scripted:{tiny_model}", "--judge")
    assert reads(asked, texts) == list(map(reading_score, asked, texts, fits))
    likely = judge_of(f"logprob:{tiny_model}", "--judge")
    assert likely(asked, texts) == LogProb(tiny_model)(asked, texts)
    from instruct.models import load_reward

    learned = judge_of(f"reward:{folder}", "--judge")
    assert learned(asked, texts, user_id=["a", "b"]) == load_reward(str(folder)).score(asked, texts)


def test_a_wrong_spec_is_one_sentence_before_anything_is_scored(tiny_model, tmp_path, monkeypatch):
    classifier = tmp_path / "classifier"
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    model.save_pretrained(classifier)
    make_tokenizer().save_pretrained(classifier)
    for spec, why in (
        ("scripted:", "names no model: write it as scripted:MODEL"),
        ("reward", "names no model: write it as reward:MODEL"),
        ("logprob:", "names no model"),
        ("brevity", "write it as module:function"),
        ("no:no", "no such module:function"),
        ("logprob:/no/such", "/no/such"),
        (f"scripted:{tmp_path}", "no tokenizer could be loaded"),
        (f"reward:{tiny_model}", "without a trained reward head"),
    ):
        with pytest.raises(UserError, match=f"^--judge {spec}.*") as error:
            judge_of(spec, "--judge")
        assert why in str(error.value) and "\n" not in str(error.value)
    # a classifier's output layer would be drawn at random
    with pytest.raises(UserError, match="its weights hold no lm_head.weight"):
        judge_of(f"logprob:{classifier}", "--judge")(["Hi"], ["Hi"])
    # a function of ./reward.py, as before there were judges, or a model? not guessed
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reward.py").write_text("def score(**_): return []")
    with pytest.raises(UserError, match="a function of reward.py"):
        judge_of("reward:score", "--judge")


def test_a_model_is_loaded_once_for_its_judges_until_all_let_go_of_it(tmp_path, monkeypatch):
    from instruct import models

    # of its own, so that no other test holds it
    path = save_model(tmp_path, seed=7)
    loads, load = [], models.load_policy
    monkeypatch.setattr(models, "load_policy", lambda *a: loads.append(a) or load(*a))
    reads, likely = judge_of(f"scripted:{path}", "--judge"), LogProb(path)
    assert not loads  # not before it is asked
    first = reads(["Hi"], ["Yes."])
    likely(["Hi"], ["Yes."])
    assert len(loads) == 1 and reads.fit.loaded[0] is likely.loaded[0]
    reads.off()
    likely(["Hi"], ["Yes."])
    assert len(loads) == 1
    model = weakref.ref(likely.loaded[0])
    likely.off()
    assert model() is None
    assert reads(["Hi"], ["Yes."]) == first and len(loads) == 2


def test_what_one_judge_asked_is_known_to_the_others_of_its_model(tiny_model, monkeypatch):
    asked, original = [], judges.log_likelihoods

    def counted(model, pairs, what):
        asked.append(len(pairs))
        return original(model, pairs, what)

    monkeypatch.setattr(judges, "log_likelihoods", counted)
    labeler = judge_of(f"scripted:{tiny_model}", "--judge")
    fit = judges.Fit(tiny_model)
    prompts, answers = ["Hi", "Who?"], ["Hello there.", "It is me."]
    labeler(prompts, answers)
    fits = fit(prompts, answers)
    # two answers, each after its prompt and after another; then none
    assert asked == [4, 0] and fits == labeler.fit(prompts, answers)
    # with the end of an answer as without it
    alone, together = (judges.LogProb(tiny_model)(prompts, answers) for _ in range(2))
    assert set(asked[2:]) == {0} and alone == together
    labeler.off(), fit.off()
    assert judges.LogProb(tiny_model)(prompts, answers) == pytest.approx(alone, abs=1e-5)
    asked.clear()
    assert fit(prompts, answers) == fits and asked == [4]


def test_another_model_at_the_same_path_is_another_judge(tmp_path):
    path = tmp_path / "model"
    save_model(path)
    judge = judge_of(f"scripted:{path}", "--judge")
    known, score = source_hash(judge), judge.fit(["Tell me of tea."], ["I love it."])
    assert source_hash(judge_of(f"scripted:{path}", "--judge")) == known
    assert known not in (source_hash(Fit(str(path))), source_hash(scripted.scripted_reward))
    moved = tmp_path / "moved"
    shutil.copytree(path, moved)
    assert source_hash(judge_of(f"scripted:{moved}", "--judge")) == known
    make_model(seed=1).save_pretrained(path)
    again = judge_of(f"scripted:{path}", "--judge")
    assert source_hash(again) != known
    # also where the first one is still in memory
    assert again.fit(["Tell me of tea."], ["I love it."]) != score


def test_what_is_no_row_or_no_number_is_told(tiny_model, monkeypatch):
    judge = Fit(tiny_model)
    with pytest.raises(UserError, match="takes a list of prompts"):
        judge("Hi", "Yes")
    with pytest.raises(UserError, match="1 prompts and 2 completions"):
        judge(["Hi"], ["Yes", "No"])
    with pytest.raises(UserError, match="an empty prompt"):
        judge([""], ["Yes"])
    assert judge([], []) == []
    nothing = [likelihoods.LogLikelihood(float("-inf"), float("-inf"))]
    monkeypatch.setattr(judges, "log_likelihoods", lambda m, pairs, what: nothing * len(pairs))
    with pytest.raises(UserError, match=r"the fit by .* returned nan for the completion 'Yes'"):
        judge(["Hi"], ["Yes"])
    with pytest.raises(UserError, match="returned -inf"):
        LogProb(tiny_model)(["Hi"], ["Yes"])


def test_a_row_too_long_for_the_model_is_told(tmp_path):
    path = save_model(tmp_path / "gpt2", "gpt2")
    # by its place among all that are asked, the same one twice among them
    with pytest.raises(UserError, match="text 3: .*512 positions"):
        ScriptedReader(Fit(path))(["Hi", "Hi", "tea " * 600], ["Yes."] * 3)


def test_a_prompt_of_several_answers_is_computed_once_a_batch(tmp_path, monkeypatch):
    """The same numbers as each answer by itself, in fewer tokens, whatever the batches."""
    path = save_model(tmp_path / "model", seed=3, initializer_range=0.3)
    asked = [("Tell me about tea, please, and rain.", t) for t in ("Yes.", "", "I like tea.")]
    asked += [("Why?", "No."), ("And the sea, the music and the snow?", "I like the sea.")]
    asked += [("Why?", "I like rain and the sea."), ("Tea?", "Tea."), ("Why?", "<|endoftext|>")]
    prompts, texts = map(list, zip(*asked, strict=True))
    for kind in (Fit, LogProb):
        alone = [kind(path)([p], [t])[0] for p, t in asked]
        for at_once, block in ((1, 4096), (3, 4096), (16, 4096), (16, 1), (2, 60)):
            monkeypatch.setattr(likelihoods, "BATCH", at_once)
            monkeypatch.setattr(likelihoods, "BLOCK", block)
            assert kind(path)(prompts, texts) == pytest.approx(alone, abs=1e-4)
    blocks, after = [], likelihoods._after
    monkeypatch.setattr(likelihoods, "_after", lambda m, p: blocks.append(len(p)) or after(m, p))
    for block, held in ((4096, [2]), (1, [1, 1])):
        monkeypatch.setattr(likelihoods, "BLOCK", block)
        LogProb(path)(prompts, texts)
        assert blocks == held
        blocks.clear()
