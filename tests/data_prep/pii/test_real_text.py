"""What people and programs write: each kind that counts, and what only looks like it."""

import pytest
from pii_examples import LOOK_ALIKES, NOBODYS, REAL

from data_prep.pii import KINDS, find_pii, redact


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind in REAL for text in REAL[kind]])
def test_found(kind, text):
    assert kind in {span.kind for span in find_pii(text)}


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_look_alikes_stay(text):
    assert find_pii(text, reserved=False) == []


@pytest.mark.parametrize("text", NOBODYS)
def test_addresses_of_nobody_count_by_a_flag_only(text):
    assert find_pii(text, reserved=False) == []
    assert find_pii(text) != []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("请写信到jo@acme.com谢谢你的帮助", "请写信到<EMAIL>谢谢你的帮助"),
        ("参会人员是jo@acme.com和al@acme.com。", "参会人员是<EMAIL>和<EMAIL>。"),
        ("อีเมลsomchai@acme.co.thครับ", "อีเมล<EMAIL>ครับ"),
        ("email=jo@acme.com&x=1", "email=<EMAIL>&x=1"),
        ("postgres://admin:S3cretPw@localhost/x", "postgres://admin:<SECRET>@localhost/x"),
        ("redis://:p4ssw0rd@acme.com:6379/0", "redis://:<SECRET>@acme.com:6379/0"),
        ("Server=db;Password=Sup3rS3cret!;", "Server=db;Password=<SECRET>;"),
        ("Authorization: Basic dXNlcjpwYXNzd29yZDEyMw==", "Authorization: Basic <SECRET>"),
        ("+44 20 7946 0958/59", "<PHONE>/59"),
        ("phone: 4155552671/4155552672", "phone: <PHONE>/<PHONE>"),
        ("room 12 415-555-2671 2024", "room 12 <PHONE> 2024"),
        ("4111111111111111,123", "<CARD>,123"),
        ("pg13 in de89370400440532013000", "pg13 in <IBAN>"),
        ("ｔｅｌ：０３－１２３４－５６７８", "ｔｅｌ：<PHONE>"),
    ],
)
def test_no_more_than_it_goes(text, expected):
    assert redact(text, find_pii(text)) == expected


def test_a_word_of_a_country_adds_its_number_plan():
    assert find_pii("móvil 612 345 678", regions=["US"]) != []
    assert find_pii("thing 612 345 678", regions=["US"]) == []


def test_every_kind_is_planted():
    assert REAL.keys() == set(KINDS)
