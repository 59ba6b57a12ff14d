"""A prompt log with planted cases, for `prompts.py`: families that share a prefix, users over the
cap, prompts without a user, personal information of every kind, and near misses that must stay.
"""

import ipaddress
import json
import random
import string
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from stdnum import iban, luhn, verhoeff

WORDS = """
    the a of to and in that is for on with as it was be by this from at or an are which you have not
    but we they can will one all about time people water work world country company system garden
    music history market river winter summer doctor teacher student project software model engine
    recipe kitchen window morning evening friend family letter question answer example language
    science energy health travel budget customer product design process report meeting village
    mountain café naïve quickly slowly often never usually better larger smaller early late small
    great quiet bright simple careful modern ancient write read build make find give keep learn
    change follow explain describe compare suggest improve support create
""".split()
OPENERS = (
    "Tell me about",
    "Explain",
    "Write a short story on",
    "What is the best way to describe",
    "Give me ideas for",
    "Summarize",
)
DOMAINS = "gmail.com example.co.uk mail.acme-corp.de uni.edu posteo.net firma.io".split()
AREA_CODES = "212 213 305 312 404 415 503 512 602 617 646 702 713 718 808 917 949 972".split()


def digits(rng: random.Random, n: int) -> str:
    return "".join(rng.choices(string.digits, k=n))


def email(rng):
    name = rng.choice(["{}.{}", "{}_{}", "{}{}", "{}+{}"]).format(
        rng.choice(WORDS[30:60]), digits(rng, 2)
    )
    return f"{name}@{rng.choice(DOMAINS)}"


def phone(rng):
    """Ways people write phone numbers, the hard ones (no grouping, no "call") included."""
    area, exchange, line = (
        rng.choice(AREA_CODES),
        f"{rng.randint(2, 9)}{digits(rng, 2)}",
        digits(rng, 4),
    )
    return rng.choice(
        [
            f"({area}) {exchange}-{line}",
            f"{area}-{exchange}-{line}",
            f"{area}.{exchange}.{line}",
            f"+1 {area} {exchange} {line}",
            f"+1-{area}-{exchange}-{line}",
            f"1-{area}-{exchange}-{line}",
            f"{area} {exchange} {line}",
            f"{area}{exchange}{line}",
            f"+44 20 7946 0{digits(rng, 3)}",
            f"07700 900{digits(rng, 3)}",
            f"+44 7911 {digits(rng, 3)}{digits(rng, 3)}",
            f"+49 30 {rng.randint(2, 9)}{digits(rng, 7)}",
            f"06 {' '.join(f'{rng.randint(10, 99)}' for _ in range(4))}",
            f"+33 6 {' '.join(f'{rng.randint(10, 99)}' for _ in range(4))}",
            f"+91 98{digits(rng, 3)} {digits(rng, 5)}",
        ]
    )


def card(rng):
    head, length = rng.choice(
        [("4", 16), ("51", 16), ("55", 16), ("37", 15), ("6011", 16), ("4", 16)]
    )
    number = head + digits(rng, length - len(head) - 1)
    number += luhn.calc_check_digit(number)
    cut = (4, 10) if length == 15 else (4, 8, 12)
    parts = [number[a:b] for a, b in zip((0, *cut), (*cut, length), strict=True)]
    return rng.choice([number, " ".join(parts), "-".join(parts)])


def bank_account(rng):
    country, body = rng.choice(
        [
            ("DE", digits(rng, 18)),
            ("GB", "NWBK" + digits(rng, 14)),
            ("NL", "ABNA" + digits(rng, 10)),
            ("FR", digits(rng, 23)),
            ("CH", digits(rng, 17)),
        ]
    )
    number = country + iban.calc_check_digits(f"{country}00{body}") + body
    return rng.choice([number, " ".join(number[i : i + 4] for i in range(0, len(number), 4))])


def ssn(rng):
    area = rng.choice([a for a in (rng.randint(1, 899) for _ in range(5)) if a != 666])
    return f"{area:03d}-{rng.randint(1, 99):02d}-{rng.randint(1, 9999):04d}"


def national_id(rng):
    number = rng.randint(0, 99_999_999)
    cpf = [rng.randint(0, 9) for _ in range(9)]
    for n in (10, 11):
        rest = sum(d * (n - i) for i, d in enumerate(cpf)) * 10 % 11 % 10
        cpf.append(rest)
    written = "".join(map(str, cpf))
    aadhaar = f"{rng.randint(2, 9)}{digits(rng, 10)}"
    aadhaar += verhoeff.calc_check_digit(aadhaar)
    return rng.choice(
        [
            f"DNI {number:08d}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}",
            f"CPF {written[:3]}.{written[3:6]}.{written[6:9]}-{written[9:]}",
            f"Aadhaar {aadhaar[:4]} {aadhaar[4:8]} {aadhaar[8:]}",
        ]
    )


def secret(rng):
    letters = string.ascii_letters + string.digits
    return rng.choice(
        [
            "AKIA" + "".join(rng.choices(string.ascii_uppercase + string.digits, k=16)),
            "ghp_" + "".join(rng.choices(letters, k=36)),
            "sk-proj-" + "7" + "".join(rng.choices(letters, k=40)),
            "hf_" + "".join(rng.choices(letters, k=34)),
            f"api_key = 'a1{''.join(rng.choices(letters, k=30))}'",
            "-----BEGIN RSA PRIVATE KEY-----\n"
            + "".join(rng.choices(letters, k=60))
            + "\n-----END RSA PRIVATE KEY-----",
        ]
    )


def ipv4(rng):
    address = ipaddress.IPv4Address(0)
    # private and documentation addresses are nobody's
    while not address.is_global:
        address = ipaddress.IPv4Address(rng.randint(11 << 24, (223 << 24) - 1))
    return str(address)


def ipv6(rng):
    address = ipaddress.IPv6Address(
        (0x2001 << 112) | (rng.getrandbits(32) << 80) | rng.getrandbits(rng.choice([16, 64]))
    )
    return rng.choice([str(address), address.exploded])


SENTENCES = {
    "email": (
        "Please write a reply to {} for me.",
        "my address is {}, can you draft an invitation",
        "Contact: {}",
    ),
    "phone": (
        "Call me at {} tomorrow.",
        "my number is {}, write a polite text asking for it back",
        "You can reach her on {} after six.",
        "Tel: {}",
        "Write an ad that ends with {}.",
    ),
    "ipv4": (
        "Why does the server at {} refuse connections?",
        "ssh to {} fails",
        "Requests from {} were blocked.",
    ),
    "ipv6": ("My router has {} as address.", "ping {} gives no answer", "Who owns {}?"),
    "card": (
        "My card {} was declined, write a complaint.",
        "Charge {} please",
        "the number on it is {}.",
    ),
    "iban": (
        "Send the rent to {} and write a note.",
        "IBAN: {}",
        "my account is {}, explain the fees",
    ),
    "ssn": (
        "My SSN is {} and I lost the letter.",
        "social security number {}",
        "fill in the form, {} is mine",
    ),
    "national_id": ("Fill in the form with {} please.", "My {} was rejected, why?", "{}"),
    "secret": (
        "Why does this key fail: {}",
        "I use {} in the script below.",
        "{}\nwhat is wrong with it?",
    ),
}
MAKERS = {
    "email": email,
    "phone": phone,
    "ipv4": ipv4,
    "ipv6": ipv6,
    "card": card,
    "iban": bank_account,
    "ssn": ssn,
    "national_id": national_id,
    "secret": secret,
}


def near_miss(rng):
    """Numbers and shapes that are nobody's: orders, versions, ISBNs, dates, arithmetic, code."""
    between = rng.randint
    a, b = between(100, 10**7), between(100, 10**7)
    isbn = "978" + digits(rng, 9)
    isbn += str(-sum(int(d) * (1, 3)[i % 2] for i, d in enumerate(isbn)) % 10)
    bad_card = "4" + digits(rng, 14)
    bad_card += str((int(luhn.calc_check_digit(bad_card)) + rng.randint(1, 9)) % 10)
    return rng.choice(
        [
            f"Where is my order {digits(rng, 10)}?",
            f"order 10293{digits(rng, 5)} has not arrived",
            f"I run version {between(1, 20)}.{between(0, 60)}.{between(0, 99)}"
            f".{between(0, 99)} of it.",
            f"Python 3.{between(6, 13)}.{between(0, 9)} on Windows 10.0.{between(10000, 22000)}",
            f"ISBN {isbn[:3]}-{isbn[3]}-{isbn[4:6]}-{isbn[6:12]}-{isbn[12]}",
            f"the book with ISBN {isbn}",
            f"It happened on {between(1990, 2025)}-{between(1, 12):02d}-{between(1, 28):02d} "
            f"at {between(0, 23):02d}:{between(0, 59):02d}:{between(0, 59):02d}.",
            f"What is {a} + {b}?",
            f"{a} * {b} = {a * b}",
            f"Compute {a}-{b}.",
            f"std::vector<int> v; a::b({rng.randint(0, 99)});",
            f"my card {bad_card} is made up",
            f"@user{rng.randint(1, 99)} said hello",
            f"invoice 2024-{digits(rng, 4)}-{digits(rng, 4)}",
            f"from 1914-1918 to 1939-1945 and {digits(rng, 4)}",
            f"MAC 00:1a:2b:{rng.randint(10, 99)}:{rng.randint(10, 99)}:{rng.randint(10, 99)}",
            f"tracking number 9400{digits(rng, 18)}",
            f"population {rng.randint(1, 9)},{digits(rng, 3)},{digits(rng, 3)}",
            f"see section {between(1, 9)}.{between(1, 9)}.{between(1, 9)}.{between(1, 9)}",
            f"the timestamp 17{digits(rng, 8)} in seconds",
            f"coordinates 48.{digits(rng, 6)}, 2.{digits(rng, 6)}",
            "use {{name}}@{{host}} in the template",
            f"pi is 3.14159265358{digits(rng, 4)}",
            f"commit {rng.getrandbits(160):040x}",
        ]
    )


def word_for(number: int) -> str:
    letters = ""
    while number:
        number, rest = divmod(number, 20)
        letters += "bcdfghjklmnpqrstvwxz"[rest]
    return letters or "b"


class Generator:
    """Rows of a log. `planted` rides along and says what is in the prompt."""

    def __init__(self, seed: int, start: int = 0):
        self.rng, self.number = random.Random(seed), start
        text = " ".join(self.rng.choices(WORDS, k=200_000))
        self.text = text.replace(" the ", ", the ").replace(" one ", ". One ")
        self.family: list[str] = []

    def body(self, length: int) -> str:
        at = self.text.index(" ", self.rng.randrange(len(self.text) - length - 50)) + 1
        return self.text[at : at + length].rstrip()

    def prompt(self) -> tuple[str, str]:
        rng = self.rng
        opener = f"{rng.choice(OPENERS)} {word_for(self.number)}: "
        kind = rng.random()
        if kind < 0.05:
            name = rng.choice(list(MAKERS))
            sentence = rng.choice(SENTENCES[name]).format(MAKERS[name](rng))
            return f"{opener}{self.body(rng.randint(20, 300))}. {sentence}", name
        if kind < 0.10:
            return f"{opener}{self.body(rng.randint(20, 300))}. {near_miss(rng)}", "near_miss"
        if kind < 0.20 and self.family:
            base = rng.choice(self.family)
            length = rng.randint(150, 250)
            shared = (
                base[:length] + word_for(self.number)[::-1] + " " + self.body(rng.randint(10, 200))
            )
            style = rng.random()
            if style < 0.2:
                shared = shared.replace(" ", "  \n", 3)
            elif style < 0.4:
                shared = unicodedata.normalize("NFD", f" \t{shared}\u00a0")
            return shared, "family"
        if kind < 0.23:
            return rng.choice(
                ["hi", "hello there", "thanks!", f"Tell me a joke about {rng.choice(WORDS)}"]
            ), "short"
        prompt = opener + self.body(rng.randint(40, 420))
        if len(self.family) < 2_000 or rng.random() < 0.01:
            base = opener + self.body(400)
            self.family = [*self.family[-1_999:], base]
            return base, "family"
        return prompt, "plain"

    def rows(self, count: int) -> Iterator[dict]:
        users = max(count // 12, 5)
        for _ in range(count):
            self.number += 1
            prompt, planted = self.prompt()
            heavy = self.rng.random() < 0.02
            user = (
                None
                if self.rng.random() < 0.01
                else f"heavy-{self.rng.randint(1, max(count // 40_000, 2))}"
                if heavy
                else f"user-{self.rng.randint(1, users)}"
            )
            row = {
                "id": self.number,
                "prompt": prompt,
                "timestamp": 1_600_000_000 + self.rng.randint(0, 10**7),
                "planted": planted,
            }
            yield row | ({"user_id": user} if user else {})


def write_log(path: Path, generator: Generator, count: int) -> None:
    with open(path, "w", encoding="utf-8") as out:
        for row in generator.rows(count):
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
