"""Cards, IBANs, social security numbers and IP addresses, in sentences."""

import random
import string

from tests.data_prep.pii_planted.items import HEX, Item, digits, draw

# --- cards, IBANs and SSNs ------------------------------------------------------------------------


def luhn_digit(body: str) -> str:
    total = 0
    for place, sign in enumerate(reversed(body)):
        doubled = int(sign) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return str(-total % 10)


CARDS = {  # name -> prefixes and lengths
    "Visa": (["4"], [13, 16, 16, 16, 19]),
    "Mastercard": (["51", "53", "55", "2221", "2456", "2720"], [16]),
    "Amex": (["34", "37"], [15]),
    "JCB": (["3528", "3566", "3589"], [16]),
    "JCB 15": (["2131", "1800"], [15]),
    "Maestro": (["5018", "5020", "5038", "6304", "6759", "6761", "6763"], list(range(12, 20))),
    "Diners": (["300", "305", "36", "38", "39"], [14]),
    "Discover": (["6011", "644", "649", "65"], [16]),
    "UnionPay": (["62"], [16, 17, 18, 19]),
}
CARD_SENTENCES = [
    "My card is {}, valid until 08/27.",
    "card={}",
    '{{"pan": "{}"}}',
    "Please charge {} for the room.",
    "kartennummer:{};",
    "I paid with {} yesterday",
    "卡号{}已冻结",
    "カード番号は{}です",
    "POST /pay?cc={}&amount=12",
    "Visa/Mastercard ({})",
    "name,{},cvv",
]


def card(rng: random.Random, name: str) -> str:
    prefixes, lengths = CARDS[name]
    prefix = rng.choice(prefixes)
    body = prefix + digits(rng, rng.choice(lengths) - len(prefix) - 1)
    return body + luhn_digit(body)


def grouped(number: str, mark: str) -> str:
    sizes = {15: [4, 6, 5], 14: [4, 6, 4]}.get(len(number), [4] * (len(number) // 4 + 1))
    parts = []
    for size in sizes:
        parts, number = [*parts, number[:size]], number[size:]
    return mark.join(part for part in parts if part)


def cards(rng: random.Random, rounds: int) -> list[Item]:
    found = []
    for name in CARDS:
        for turn in range(rounds):
            value = grouped(card(rng, name), ["", " ", "-", "", "  "][turn % 5])
            sentence = rng.choice(CARD_SENTENCES)
            found.append(Item(f"card {name}", sentence.format(value), "card", value))
    return found


def iban(country: str, account: str) -> str:
    as_number = "".join(str(int(sign, 36)) for sign in account + country + "00")
    return f"{country}{98 - int(as_number) % 97:02d}{account}"


IBAN_FORMS = {  # 9: digit, A: letter; countries without a check of their own inside
    "DE": "9" * 18,
    "GB": "AAAA" + "9" * 14,
    "NL": "AAAA" + "9" * 10,
    "CH": "9" * 17,
    "AT": "9" * 16,
    "SE": "9" * 20,
    "DK": "9" * 14,
    "IE": "AAAA" + "9" * 14,
    "GR": "9" * 23,
    "LU": "9" * 16,
    "RO": "AAAA" + "9" * 16,
    "TR": "9" * 5 + "0" + "9" * 16,
    "LT": "9" * 16,
    "LV": "AAAA" + "9" * 13,
    "CY": "9" * 24,
}
KNOWN_IBANS = [  # the registry's own examples: a check digit inside
    "FR1420041010050500013M02606",
    "IT60X0542811101000000123456",
    "ES9121000418450200051332",
    "BE68539007547034",
    "NO9386011117947",
    "PT50000201231234567890154",
    "PL61109010140000071219812874",
    "FI2112345600000785",
]
IBAN_SENTENCES = [
    "Bitte überweisen Sie auf {} bis Montag.",
    "IBAN: {}",
    "iban={}&amount=5",
    '{{"account": "{}"}}',
    "Transfer it to {}, please",
    "Mon compte est {}.",
    "账户{}请付款",
    "({}) is the account of the club",
]


def ibans(rng: random.Random, count: int) -> list[Item]:
    found = []
    countries = list(IBAN_FORMS)
    for number in range(count):
        if number % 5 == 4:
            value = KNOWN_IBANS[number // 5 % len(KNOWN_IBANS)]
        else:
            country = countries[number % len(countries)]
            letters = {"9": string.digits, "A": string.ascii_uppercase, "0": "0"}
            account = "".join(rng.choice(letters[sign]) for sign in IBAN_FORMS[country])
            value = iban(country, account)
        if number % 3 == 1:
            value = " ".join(value[start : start + 4] for start in range(0, len(value), 4))
        if number % 4 == 2:
            value = value.lower()
        sentence = IBAN_SENTENCES[number % len(IBAN_SENTENCES)]
        found.append(Item("iban", sentence.format(value), "iban", value))
    return found


SSN_SENTENCES = [
    "My SSN is {}.",
    "social security number: {}",
    '{{"ssn": "{}"}}',
    "Employee Jane Roe, {}, hired 2019",
    "ssn={}",
    "Social Security # {} on file",
    "Her number was {} and she signed",
]


def ssns(rng: random.Random, count: int) -> list[Item]:
    found = []
    for number in range(count):
        area = rng.choice([n for n in range(1, 900) if n != 666])
        value = f"{area:03d}-{rng.randint(1, 99):02d}-{rng.randint(1, 9999):04d}"
        sentence = SSN_SENTENCES[number % len(SSN_SENTENCES)]
        if number % 6 == 1:
            value = value.replace("-", " ")
        found.append(Item("ssn", sentence.format(value), "national_id", value))
    return found


# --- IP addresses ---------------------------------------------------------------------------------

IP_SENTENCES = [
    "The server is {} and it is slow.",
    "sshd[812]: Failed password for root from {} port 52144 ssh2",
    "{} - - [10/Oct/2023:13:55:36 +0000] GET /index.html 200 2326",
    '{{"client_ip": "{}"}}',
    "ping {}",
    "ip={};",
    "from ({}), twice",
    "服务器{}挂了",
    "X-Forwarded-For: {}, 10.0.0.1",
    "banned {}.",
]
IPV6_HEADS = "2a00:1450 2a02:8108 2001:4860 2606:4700 2400:cb00 2600:1f18 2804:14d".split()


def addresses(rng: random.Random, count: int) -> list[Item]:
    found = []
    heads = [5, 23, 46, 62, 77, 81, 93, 109, 133, 151, 176, 185, 194, 212, 217]
    for number in range(count):
        value = ".".join(map(str, [rng.choice(heads), *(rng.randint(1, 254) for _ in range(3))]))
        tail = ["", "", "", ":8080", ""][number % 5]
        text = IP_SENTENCES[number % len(IP_SENTENCES)].format(value + tail)
        found.append(Item("ipv4", text, "ipv4", value))
        words = [draw(rng, HEX, 4).lstrip("0") or "1" for _ in range(6)]
        head = rng.choice(IPV6_HEADS)
        value = [f"{head}:{':'.join(words)}", f"{head}::{words[0]}", f"{head}:{words[0]}::1"][
            number % 3
        ]
        value = value.upper() if number % 7 == 0 else value
        text = IP_SENTENCES[(number + 3) % len(IP_SENTENCES)].format(value)
        found.append(Item("ipv6", text, "ipv6", value))
    return found
