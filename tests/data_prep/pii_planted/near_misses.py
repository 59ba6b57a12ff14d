"""Texts that look like personal information and hold none: synthetic, with a fixed seed.

Written from the issue's words alone, before the patterns were read. Each group is a few sentences
and a way to fill them.
"""

import random
import uuid
from collections.abc import Callable

from tests.data_prep.pii_planted.items import Item, digits, draw
from tests.data_prep.pii_planted.numbers import CARDS, card, grouped


def isbn13(rng: random.Random) -> str:
    body = rng.choice(["978", "979"]) + digits(rng, 9)
    total = sum(int(sign) * (3 if place % 2 else 1) for place, sign in enumerate(body))
    return body + str(-total % 10)


def isbn10(rng: random.Random) -> str:
    body = digits(rng, 9)
    rest = -sum(int(sign) * (10 - place) for place, sign in enumerate(body)) % 11
    number = body + ("X" if rest == 10 else str(rest))
    return f"{number[0]}-{number[1:4]}-{number[4:9]}-{number[9]}"


def wrong_card(rng: random.Random) -> str:
    right = card(rng, rng.choice(list(CARDS)))
    return grouped(right[:-1] + str((int(right[-1]) + rng.randint(1, 9)) % 10), rng.choice(" -"))


def floats(rng: random.Random) -> str:
    return " ".join(
        f"{rng.uniform(-9, 99):.{rng.randint(2, 6)}f}" for _ in range(rng.randint(3, 8))
    )


def small_numbers(rng: random.Random) -> str:
    mark = rng.choice([", ", " ", ",", "; "])
    return mark.join(str(rng.randint(0, 300)) for _ in range(rng.randint(5, 14)))


def total(rng: random.Random) -> str:
    parts = [rng.randint(10, 9999) for _ in range(rng.randint(2, 5))]
    return rng.choice([" + ", "+"]).join(map(str, parts)) + f" = {sum(parts)}"


def number_keys(rng: random.Random) -> str:
    start = rng.randint(100, 40000)
    rows = (f'"{start + step}": {rng.randint(1, 99999)}' for step in range(5))
    return "{" + ", ".join(rows) + "}"


def years(rng: random.Random) -> str:
    first = rng.randint(1850, 2015)
    mark = rng.choice(["-", "–", " - ", "/"])
    return f"{first}{mark}{first + rng.randint(1, 9)}"


def date_time(rng: random.Random) -> str:
    year, month, day = rng.randint(1970, 2030), rng.randint(1, 12), rng.randint(1, 28)
    hour, minute = rng.randint(0, 23), rng.randint(0, 59)
    forms = [
        f"{year}-{month:02d}-{day:02d} {hour:02d}:{minute:02d}:07",
        f"{day:02d}.{month:02d}.{year} {hour:02d}:{minute:02d}",
        f"{month:02d}/{day:02d}/{year}",
        f"{year}{month:02d}{day:02d}{hour:02d}{minute:02d}30",
        f"{year}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:00.123456+02:00",
        f"{day:02d}-{month:02d}-{year} to {day + 1:02d}-{month:02d}-{year}",
    ]
    return rng.choice(forms)


def moment(rng: random.Random) -> str:
    seconds = rng.randint(1_000_000_000, 1_790_000_000)
    return rng.choice([str(seconds), f"{seconds}{digits(rng, 3)}", f"{seconds}.{digits(rng, 6)}"])


def limits(rng: random.Random) -> str:
    known = "2147483647 -2147483648 4294967295 9223372036854775807 18446744073709551615 0x7fffffff"
    known += " 1000000007 999999999 1234567890 0123456789 3.402823466e+38 1e-10 6.02214076e23"
    return rng.choice(known.split())


def git_hash(rng: random.Random) -> str:
    return draw(rng, "0123456789abcdef", rng.choice([7, 40, 40, 64]))


def order(rng: random.Random) -> str:
    year, number = rng.randint(2015, 2026), digits(rng, rng.choice([5, 6, 7]))
    forms = [f"PO-{year}-{number}", f"A{number}", f"#{number}", f"INV/{year}/{number}"]
    return rng.choice([*forms, f"{digits(rng, 3)}-{digits(rng, 7)}-{digits(rng, 7)}"])


def version(rng: random.Random) -> str:
    a, b, c, d = (rng.randint(0, 30) for _ in range(4))
    forms = [
        f"{a}.{b}.{c}",
        f"v{a}.{b}.{c}.{d}",
        f"{a}.{b}.{c}-rc{d}",
        f"Chrome/{91 + a}.0.4472.{d}",
    ]
    return rng.choice([*forms, f"version {a}.{b}.{c}.{d}", f"1.3.6.1.4.1.{a}.{b}.{c}"])


def code_with_at(rng: random.Random) -> str:
    a, b = rng.choice("xuvwq"), rng.choice(["weights", "kernel", "phi", "matrix"])
    forms = [
        f"@app.route('/{b}')\ndef {b}(): ...",
        f"{a} = {b} @ {b}.T",
        f"return {a}@{b}.T",
        f"y = ({a}\n     @{b}.mean(0))",
        f"class A:\n    {a} = 1\n    @property.setter\n    def {b}(self): ...",
        f"x_{a}@{b}.reshape(-1)",
        f"def f():\n    return {a}\n@functools.wraps({b})\ndef g(): ...",
        f"out = {a}.T@{b}.sum + 1",
        f"{a}.foo\n@pytest.mark.parametrize('{b}', [1])",
    ]
    return rng.choice(forms)


def package(rng: random.Random) -> str:
    name = rng.choice(["lodash", "left-pad", "@babel/core", "typescript", "vite", "@types/node"])
    at = rng.choice(["latest", "next", "18.2.0", "^1.0.3", "beta.2", "5.x"])
    tool = rng.choice(["npm install", "pnpm add", "npx", "yarn add"])
    return rng.choice([f"{tool} {name}@{at}", f"brew install {name}@3.11", f"actions/{name}@v4"])


def mention(rng: random.Random) -> str:
    name = rng.choice(["torvalds", "jane_doe", "openai", "data.team", "梅子"])
    return rng.choice([f"thanks @{name}!", f"cc @{name}", f"RT @{name}: hi", f"meet me @ {name}"])


def no_password(rng: random.Random) -> str:
    forms = [
        "password=get_password()",
        "password = os.environ['DB_PASSWORD']",
        "password: string;",
        "def login(user, password=None):",
        "PASSWORD=$DB_PASSWORD",
        "password=${DB_PASSWORD}",
        'api_key = os.getenv("OPENAI_API_KEY")',
        'password = "<your password>"',
        "api_key=YOUR_API_KEY",
        "PASSWORD=********",
        "PASSWORD_MIN_LENGTH = 12",
        "token = tokenizer.next_token()",
        "secret = config.get('secret')",
        "I forgot my password: what should I do?",
        "self.password = password",
        "if password == confirm_password:",
        "password=args.password",
        "the password: it must have 12 characters",
        "<input type='password' name='password' id='password'>",
        "postgres://user:${PASSWORD}@localhost:5432/db",
        "https://user:password@example.com/",
        "Authorization: Bearer <token>",
        "Authorization: Bearer ${TOKEN}",
        "Basic knowledge of Python is enough",
        "the bearer of this letter",
        "max_tokens=4096",
        "token: int = 0",
        "sk-learn and sk-image are packages",
        "hf_transformers_cache = None",
        "password: {{ vault_password }}",
        "process.env.SECRET_KEY",
        "pad_token = eos_token",
    ]
    return rng.choice(forms)


def nobodys_address(rng: random.Random) -> str:
    a, b = rng.randint(0, 254), rng.randint(1, 254)
    known = f"10.{a}.{b}.7 172.{rng.randint(16, 31)}.{a}.{b} 192.168.{a}.{b} 127.0.0.1 0.0.0.0"
    known += f" 169.254.{a}.{b} 192.0.2.{b} 198.51.100.{a} 203.0.113.{b} 255.255.255.0 224.0.0.251"
    known += f" 100.64.{a}.{b} ::1 fe80::1ff:fe23:4567:{a:x} fd00:{b:x}::{a:x} 2001:db8::{b:x} ::"
    known += f" 192.168.{a}.0/24 fc00:1:2::{b:x} ff02::1 2001:db8:{a:x}::1 00:1A:2B:3C:4D:5E"
    return rng.choice(known.split(" "))


def nobodys_email(rng: random.Random) -> str:
    name = rng.choice(["user", "jane.doe", "admin", "test"])
    host = "example.com example.org example.net mail.example.com shop.test a.invalid localhost"
    return f"{name}@{rng.choice(host.split())}"


def price(rng: random.Random) -> str:
    much = rng.randint(1000, 99_999_999)
    forms = [f"${much:,}.99", f"{much:,} EUR", f"€ {much}", f"{much // 100}.{much % 100:02d} USD"]
    return rng.choice([*forms, f"{much:,}".replace(",", ".") + ",00 €", f"¥{much}"])


def place(rng: random.Random) -> str:
    north, east = rng.uniform(-89, 89), rng.uniform(-179, 179)
    forms = [
        f"{north:.6f}, {east:.6f}",
        f"({north:.4f},{east:.4f})",
        f"lat={north:.7f}&lon={east:.7f}",
    ]
    return rng.choice([*forms, f"{abs(north):.0f}°{27}'{13}\"N {abs(east):.0f}°12'5\"E"])


def part_number(rng: random.Random) -> str:
    forms = [
        f"part {digits(rng, 3)}-{digits(rng, 5)}-{digits(rng, 2)}",
        f"SKU {digits(rng, 4)}-{digits(rng, 4)}-A",
        f"bearing {digits(rng, 4)}-2RS/C{rng.randint(1, 5)}",
        f"model XT-{digits(rng, 3)}-{digits(rng, 4)}",
        f"CAS {digits(rng, 5)}-{digits(rng, 2)}-{rng.randint(0, 9)}",
        f"item no. {digits(rng, 3)} {digits(rng, 3)} {digits(rng, 2)}",
        f"doi:10.{digits(rng, 4)}/{digits(rng, 3)}-{digits(rng, 4)}-{digits(rng, 5)}",
        f"ticket {digits(rng, 9)}",
        f"EAN {rng.randint(40, 49)}{digits(rng, 11)}",
    ]
    return rng.choice(forms)


def not_ssn(rng: random.Random) -> str:
    forms = [f"000-{digits(rng, 2)}-{digits(rng, 4)}", f"666-12-{digits(rng, 4)}"]
    forms += [
        f"9{digits(rng, 2)}-12-{digits(rng, 4)}",
        f"{digits(rng, 3)}-{digits(rng, 2)}-{digits(rng, 5)}",
    ]
    return rng.choice([*forms, f"{digits(rng, 3)}-00-1234", f"12{digits(rng, 2)}-34-5678"])


def wrong_iban(rng: random.Random) -> str:
    forms = [f"DE00{digits(rng, 18)}", f"GB99ABCD{digits(rng, 14)}", f"XX12{digits(rng, 16)}"]
    return rng.choice([*forms, f"DE12 {digits(rng, 4)} {digits(rng, 4)}", f"AB{digits(rng, 12)}"])


def operators(rng: random.Random) -> str:
    forms = "std::vector<int>::iterator a[1::2] Foo::bar::baz 12:34:56 ratio=1:2:3:4 c::d x[::-1]"
    forms += " 10:20:30:40:50 dead::method abc::def::face::bad 1:23:45.678 fe::add ::ffff"
    return rng.choice(forms.split(" "))


GROUPS: dict[str, tuple[Callable[[random.Random], str], list[str]]] = {
    "decimals": (floats, ["loss: {}", "[{}]", "The weights are {} now.", "\n{}\n"]),
    "small numbers": (small_numbers, ["bins = [{}]", "Sort {} please", "({})", "call me {}"]),
    "sums": (total, ["What is {}?", "{}", "check that {}, ok"]),
    "number keys": (number_keys, ["vocab = {}", "{}", "ids: {} end"]),
    "years": (years, ["the war of {}", "({})", "seasons {}, all of them", "from {} on"]),
    "dates": (date_time, ["at {}", "[{}] start", "due {}.", '{{"when": "{}"}}', "logs/{}.txt"]),
    "epochs": (moment, ["ts={}", '{{"created": {}}}', "since {} s", "{} INFO ready"]),
    "limits": (limits, ["INT_MAX is {}", "x = {};", "at most {} rows", "({})"]),
    "uuids": (lambda rng: str(uuid.UUID(int=rng.getrandbits(128))), ["id {}", "/v1/{}/x", '"{}"']),
    "hashes": (git_hash, ["commit {}", "sha256:{}", "checkout {}.", "at {}, fixed"]),
    "ISBN": (isbn13, ["ISBN {}", "isbn: {}", "the book ({})", "ISBN-13: {}."]),
    "ISBN 10": (isbn10, ["ISBN {}", "see {}, page 4"]),
    "orders": (order, ["my order {}", "Where is {}?", "invoice: {}", "order no. {} came"]),
    "versions": (version, ["upgrade to {}", "needs {} or later", "{} is out", "uses {}, sadly"]),
    "@ in code": (code_with_at, ["{}", "```python\n{}\n```", "import a\n{}\n"]),
    "packages": (package, ["{}", "run `{}` first", "$ {}\n"]),
    "mentions": (mention, ["{}", "Great talk, {}"]),
    "no password": (no_password, ["{}", "    {}\n", "Explain: {}"]),
    "nobody's IP": (nobodys_address, ["host {}", "ping {}", "bind({})", '{{"ip": "{}"}}']),
    "nobody's email": (nobodys_email, ["write to {}", "<{}>", "user={};", "我的邮箱是{}。"]),
    "prices": (price, ["It costs {}", "({})", "paid {} in cash", "budget: {}"]),
    "places": (place, ["We are at {}", "{}", "point({})", "geo: {}"]),
    "parts": (part_number, ["{}", "Do you have {}?", "replace {}, please"]),
    "wrong cards": (wrong_card, ["number {}", "is {} a valid card?", "id={}"]),
    "not SSN": (not_ssn, ["code {}", "see {}.", "({})"]),
    "not IBAN": (wrong_iban, ["ref {}", "is {} an IBAN?", "id={}"]),
    "colons": (operators, ["{}", "use {} here", "({})"]),
}


def near_misses(seed: int = 16, each: int = 22) -> list[Item]:
    """`each` texts of every group, with nothing to find."""
    rng = random.Random(seed)
    found = []
    for group, (fill, sentences) in GROUPS.items():
        for turn in range(each):
            value = fill(rng)
            text = sentences[turn % len(sentences)].format(value)
            found.append(Item(group, text, None, value))
    return found
