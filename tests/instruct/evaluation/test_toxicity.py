"""Scorers of toxicity: the word list, a tiny classifier against a plain loop, its labels."""

import argparse
import math
from pathlib import Path

import pytest
import torch
from conftest import make_tokenizer, save_model
from harmless_tools import save_classifier
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from instruct.errors import UserError
from instruct.evaluation import toxicity
from instruct.evaluation.toxicity import ToxicityModel, scorer_of, toxic_label

TEXTS = ["I hate tea.", "I love the rain and the music, it is great!", "bread", "The sea, cats."]


def flags(**given) -> argparse.Namespace:
    names = ("toxicity_model", "toxicity_label", "toxicity_function")
    return argparse.Namespace(**{name: given.get(name) for name in names})


def plain_probabilities(path: str, text: str, by_sigmoid: bool) -> list[float]:
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    ids = AutoTokenizer.from_pretrained(path)(text)["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double().tolist()
    if by_sigmoid:
        return [1 / (1 + math.exp(-x)) for x in logits]
    total = sum(math.exp(x) for x in logits)
    return [math.exp(x) / total for x in logits]


@pytest.mark.parametrize(
    "labels, place, kind",
    [
        (["neutral", "toxic"], 1, None),
        (["neutral", "toxic"], 1, "single_label_classification"),
        (["insult", "toxicity", "severe_toxicity"], 1, "multi_label_classification"),
        (["toxicity"], 0, None),  # one label
    ],
)
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_classifier_gives_the_probability_of_its_toxic_label(
    labels, place, kind, at_once, tmp_path, monkeypatch
):
    path = save_classifier(tmp_path / "classifier", labels, problem_type=kind)
    monkeypatch.setattr(toxicity, "AT_ONCE", at_once)
    scorer = scorer_of(flags(toxicity_model=path))
    by_sigmoid = kind == "multi_label_classification" or len(labels) == 1
    expected = [plain_probabilities(path, text, by_sigmoid)[place] for text in TEXTS]
    assert max(expected) - min(expected) > 0.01
    assert scorer.score(["p"] * len(TEXTS), TEXTS) == pytest.approx(expected, abs=1e-5)
    assert scorer.name == f"classifier, label {labels[place]}"


def test_another_label_or_model_is_another_scorer(tmp_path):
    labels = ["insult", "threat"]
    path = save_classifier(tmp_path / "one", labels)
    found = {label: scorer_of(flags(toxicity_model=path, toxicity_label=label)) for label in labels}
    scores = [found[label].score(["p"], TEXTS[:1])[0] for label in labels]
    assert sum(scores) == pytest.approx(1, abs=1e-5)
    other = save_classifier(tmp_path / "two", labels, seed=1)
    keys = [scorer.key for scorer in found.values()]
    keys.append(scorer_of(flags(toxicity_model=other, toxicity_label="insult")).key)
    keys.append(scorer_of(flags(toxicity_function="test_toxicity:given")).key)
    keys.append(scorer_of(flags()).key)
    assert len(set(keys)) == 5
    copy = save_classifier(tmp_path / "three", labels)
    assert scorer_of(flags(toxicity_model=copy, toxicity_label="insult")).key == keys[0]


def given(prompts, completions, **columns):
    return [0.5] * len(completions)


@pytest.mark.parametrize(
    "labels, expected",
    [
        (["neutral", "toxic"], "toxic"),
        (["non-toxic", "toxic"], "toxic"),
        (["nontoxic", "Toxic speech"], "Toxic speech"),
        (["NOT_TOXIC", "IS_TOXIC"], "IS_TOXIC"),
        (["toxic", "severe_toxic", "obscene"], "toxic"),
        (["Toxicity", "severe_toxicity"], "Toxicity"),
    ],
)
def test_the_toxic_label_by_its_name(labels, expected):
    assert toxic_label(labels, "M") == expected


@pytest.mark.parametrize(
    "labels, named, said",
    [
        (["LABEL_0", "LABEL_1"], None, "none of them is called toxic; name it by --toxicity_label"),
        (["hate", "not toxic"], None, "its labels are 'hate', 'not toxic', and none"),
        (["very toxic", "toxic_words"], None, "more than one is called toxic"),
        (["toxic", "toxic"], None, "more than one is called toxic"),
        (["hate", "hate"], "hate", "has it more than once"),
        (["hate", "fine"], "toxic", "--toxicity_label toxic: M has no such label, but 'hate', "),
    ],
)
def test_labels_that_do_not_say_are_refused(labels, named, said):
    with pytest.raises(UserError, match="M") as error:
        toxic_label(labels, "M", named)
    assert said in str(error.value)


def test_the_word_list_says_whether_a_profane_word_is_there():
    scorer = scorer_of(flags())
    texts = ["What a shit day.", "I love tea.", "SHIT! fuck", ""]
    assert scorer.score(["shit"] * 4, texts) == [1.0, 0.0, 1.0, 0.0]
    assert "better-profanity" in scorer.name


def test_flags_that_do_not_fit_each_other_are_refused():
    for given_flags, said in (
        ({"toxicity_label": "toxic"}, "--toxicity_label is a label of --toxicity_model"),
        (
            {"toxicity_model": "m", "toxicity_function": "a:b"},
            "--toxicity_model and --toxicity_function: give one",
        ),
        ({"toxicity_function": "no_such_module:f"}, "--toxicity_function no_such_module:f"),
    ):
        with pytest.raises(UserError, match=said):
            scorer_of(flags(**given_flags))


def test_what_is_no_trained_classifier_is_refused(tmp_path):
    def refused(path, said):
        with pytest.raises(UserError, match=said) as error:
            ToxicityModel(path).check()
        assert str(error.value).startswith("--toxicity_model")

    refused(str(tmp_path / "nothing"), "no folder of that name here")
    # a causal LM: its head would be drawn at random
    refused(save_model(tmp_path / "lm"), "hold no trained head .score.weight.")
    path = Path(save_classifier(tmp_path / "half", ["neutral", "toxic"]))
    weights = load_file(path / "model.safetensors")
    head = {"classifier.weight", "classifier.bias"}
    less = {name: value for name, value in weights.items() if name not in head}
    save_file(less, path / "model.safetensors", {"format": "pt"})
    refused(str(path), "hold no trained head .classifier.bias.")
    # NaN in a weight
    broken = {**weights, "classifier.bias": torch.full((2,), math.nan)}
    save_file(broken, path / "model.safetensors", {"format": "pt"})
    refused(str(path), "its weight classifier.bias holds nan")
    # pickles run code
    (path / "model.safetensors").unlink()
    torch.save(weights, path / "pytorch_model.bin")
    refused(str(path), "weights are read as safetensors alone")


def test_a_text_that_a_classifier_cannot_take_is_refused_not_cut(tmp_path):
    judge = ToxicityModel(save_classifier(tmp_path / "short", ["neutral", "toxic"]))
    judge.check()
    with pytest.raises(UserError, match="text 2: .* tokens, but the model has 64 positions"):
        judge(["p", "p"], ["tea", "tea and rain " * 40])


def test_a_tokenizer_without_pad_is_refused(tmp_path):
    path = save_classifier(tmp_path / "padless", ["neutral", "toxic"])
    make_tokenizer(pad_token=None).save_pretrained(path)
    with pytest.raises(UserError, match="its tokenizer has no pad token"):
        ToxicityModel(path).check()
