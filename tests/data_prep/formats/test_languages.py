"""What is written in another language than the rules read is told; English chat is left alone."""

import json

import pytest
from conftest import TESTS
from test_text_growth import growth

from data_prep.formats import languages
from data_prep.formats.forms import category, request_form
from data_prep.formats.languages import ENGLISH, FOREIGN, SHARED, is_foreign

REQUESTS = [
    json.loads(line)
    for line in (TESTS / "data" / "other_languages.jsonl").read_text(encoding="utf-8").splitlines()
]


def test_requests_in_other_languages_have_no_form_and_no_category():
    read = [row for row in REQUESTS if request_form(row["prompt"]) or category(row["prompt"])]
    assert len(REQUESTS) > 150 and len({row["language"] for row in REQUESTS}) > 30
    # stop words miss a few short ones; another script is never missed
    assert len(read) / len(REQUESTS) < 0.04, read
    assert not [row for row in read if not row["prompt"].isascii() and row["language"] == "Russian"]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "wat r u doin",
            "idk man",
            "u no me",
            "hi",
            "lol so good",
            "brrr",
            "best pizza in naples",
        ),
        *("la la la la la", "who was el greco", "los angeles or las vegas?", "die hard trailer"),
        *(
            "explain de facto",
            "Leonardo da Vinci",
            "Don Quixote de la Mancha summary",
            "vim vs emacs",
        ),
        *("Beyoncé vs Rihanna", "naïve café résumé", "São Paulo population", "Ångström unit"),
        *("write a haiku about tōkyō", "À la carte", "Name: Åsa Öberg\nCity: Malmö\nName:", "à"),
        *(
            "what does que sera sera mean",
            "Was ist das means what in english",
            "déjà vu",
            "si",
            "da",
        ),
        *(
            "¯\\_(ツ)_/¯",
            "ಠ_ಠ",
            "ʕ•ᴥ•ʔ",
            "ㅋㅋㅋㅋ",
            "ლ(ಠ益ಠლ)",
            "solve α + β = 2",
            "Σ x_i",
            "I love 你",
        ),
        *("", "?", "123", "🙂", "def f(x):\n    return x", "SELECT * FROM de WHERE la = 1"),
    ],
)
def test_english_and_what_is_no_language_is_not_foreign(text):
    assert not is_foreign(text)
    assert request_form(text) is not None and category(text) is not None


@pytest.mark.parametrize(
    ("text", "form", "use"),
    [
        # the language of the request decides, not that of its material
        ("Translate 'Wo ist der Bahnhof?' to English", "direct", "rewriting"),
        ("Translate: Wo ist der Bahnhof und wann fährt der Zug?", "direct", "rewriting"),
        ("Explain the Japanese word 木漏れ日", "direct", "open_qa"),
        (
            "El gato está en la casa.\n\nTranslate the text above into English.",
            "direct",
            "rewriting",
        ),
        ("Привет, как дела?\n\nTranslate to English", "direct", "rewriting"),
        ("English: dog\nSpanish: perro\nEnglish: cat\nSpanish:", "few_shot", "other"),
        ("Переведи на английский: The quick brown fox jumps over the", None, None),
        ("请翻译成中文：\nWhat is your name?", None, None),
        ("解释一下 Python 的 list comprehension 是什么", None, None),
        ("кошка => cat\nсобака => dog\nлиса =>", None, None),
        # a question is one in either language; what it is for is not known
        ("te gustan los huevos?", "direct", None),
    ],
)
def test_the_language_of_the_request_decides(text, form, use):
    assert request_form(text) == form and category(text) == use


def test_no_word_is_in_two_lists():
    assert not ENGLISH & FOREIGN and not SHARED & FOREIGN and not ENGLISH & SHARED
    assert all(word == word.lower() for word in ENGLISH | SHARED | FOREIGN)


def test_a_quick_yes_is_what_all_words_say(monkeypatch):
    texts = [row["prompt"] for row in REQUESTS] + ["what is la vida", "x" * 99 + " la de los"]
    texts += [f"{'please tell me ' * n}{text}" for n in (1, 7) for text in texts]
    quick = list(map(is_foreign, texts))
    monkeypatch.setattr("data_prep.formats.languages.is_plainly_english", lambda text: False)
    assert quick == list(map(is_foreign, texts))


@pytest.mark.parametrize("unit", ["a", "la ", "é", "я", "你", "ツ ", "la que ", "\n", "? "])
def test_languages_are_told_in_linear_time(unit):
    assert growth(is_foreign, unit) < 30
    assert growth(request_form, unit) < 30


def test_the_quick_look_counts_no_half_of_a_word():
    text = "of " + "q" * 41 + " theatre"
    assert text[: languages.START].endswith(" the")
    assert not languages.is_plainly_english(text) and languages.is_plainly_english("of the sea")
