"""Tokens, passwords and keys, in sentences; put together when the module runs."""

import base64
import json
import random
import string

from tests.data_prep.pii_planted.items import ALNUM, HEX, Item, digits, draw


def encoded(what: bytes) -> str:
    return base64.urlsafe_b64encode(what).decode().rstrip("=")


def tokens(rng: random.Random) -> dict[str, str]:
    """One fresh token of every provider, by its published shape."""

    def an(count):
        return draw(rng, ALNUM, count)

    def hx(count):
        return draw(rng, HEX, count)

    url = ALNUM + "-_"
    up = string.ascii_uppercase + string.digits
    head = encoded(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    body = encoded(json.dumps({"sub": digits(rng, 9), "iat": 1700000000}).encode())
    return {
        "AWS": "AKIA" + draw(rng, string.ascii_uppercase + "234567", 16),
        "AWS session": "ASIA" + draw(rng, string.ascii_uppercase + "234567", 16),
        "GitHub": rng.choice(["ghp_", "gho_", "ghs_", "ghu_", "ghr_"]) + an(36),
        "GitHub fine": "github_pat_" + an(22) + "_" + an(59),
        "GitLab": "glpat-" + draw(rng, url[:-2], 20),
        "Slack bot": f"xoxb-{digits(rng, 12)}-{digits(rng, 13)}-{an(24)}",
        "Slack user": f"xoxp-{digits(rng, 12)}-{digits(rng, 12)}-{digits(rng, 12)}-{hx(32)}",
        "Slack app": f"xapp-1-A{draw(rng, up, 10)}-{digits(rng, 13)}-{hx(64)}",
        # https:// before it may stay
        "Slack hook": "hooks.slack.com/services/"
        + f"T{draw(rng, up, 8)}/B{draw(rng, up, 10)}/{an(24)}",
        "Stripe": rng.choice(["sk_live_", "sk_test_", "rk_live_"]) + an(rng.choice([24, 99])),
        "Stripe hook": "whsec_" + an(32),
        "OpenAI": "sk-" + an(20) + "T3BlbkFJ" + an(20),
        "OpenAI project": "sk-proj-" + draw(rng, url, 74) + "T3BlbkFJ" + an(74),
        "Anthropic": "sk-ant-api03-" + draw(rng, url, 93) + "AA",
        "Hugging Face": "hf_" + draw(rng, string.ascii_letters, 34),
        "Google": "AIza" + draw(rng, url[:-2], 35),
        "Google client": "GOCSPX-" + an(28),
        "SendGrid": f"SG.{an(22)}.{an(43)}",
        "Twilio": "SK" + hx(32),
        "npm": "npm_" + an(36),
        "PyPI": "pypi-AgEIcHlwaS5vcmc" + an(120),
        "JWT": f"{head}.{body}.{an(43)}",
        "Groq": "gsk_" + an(52),
        "xAI": "xai-" + an(80),
        "Perplexity": "pplx-" + an(48),
        "Replicate": "r8_" + an(37),
        "DigitalOcean": "dop_v1_" + hx(64),
        "Shopify": "shpat_" + hx(32),
        "Docker": "dckr_pat_" + an(27),
        "Telegram": digits(rng, 10) + ":AA" + draw(rng, url[:-2], 33),
        "Linear": "lin_api_" + an(40),
        "Grafana": "glsa_" + an(32) + "_" + hx(8),
        "Postman": f"PMAK-{hx(24)}-{hx(34)}",
        "Vault": "hvs." + an(95),
    }


TOKEN_SENTENCES = [
    "my key is {} please keep it safe",
    'client = Client("{}")',
    "export KEY={}",
    '{{"a": 1, "t": "{}"}}',
    "Why does {} not work?",
    "curl -u {}: https://api.acme-tools.io/v1",
    "我的密钥是{}，不要泄露",
    "log: using {}, retry in 5 s",
    "`{}`",
]


def block(rng: random.Random, name: str) -> str:
    body = "\n".join(draw(rng, ALNUM + "+/", 64) for _ in range(4))
    return f"-----BEGIN {name}-----\n{body}\n-----END {name}-----"


def password(rng: random.Random) -> str:
    words = ["sunny", "Kater", "tr0ub", "Elbe", "horse", "Qz", "Lima", "w1nter"]
    return rng.choice(words) + draw(rng, ALNUM, 5) + rng.choice(["!", "#", "7", "x", "_9"])


def assignments(rng: random.Random) -> list[tuple[str, str, str]]:
    """(group, text, value) of passwords in settings, headers, URLs and connection strings."""
    made = []
    for name in ["PASSWORD", "DB_PASSWORD", "MYSQL_ROOT_PASSWORD", "SMTP_PASS", "SECRET_KEY"]:
        word = password(rng)
        form = rng.choice(["{}={}", "export {}={}", '{}="{}"', "{}: {}", "{} = '{}'"])
        made.append(("password =", form.format(name, word), word))
    for name in ["password", "passwd", "pwd", "client_secret", "api_key", "auth_token"]:
        word = password(rng)
        form = rng.choice(['"{}": "{}"', "{}: {}", "{} = '{}'", "conf.{}={};", '{}="{}"'])
        made.append(("password =", f"x = {form.format(name, word)}\n", word))
    for scheme in ["postgres", "postgresql", "mysql", "mongodb+srv", "redis", "amqp", "https"]:
        word = password(rng).replace("#", "9").replace("!", "%21")
        text = f"DSN {scheme}://app:{word}@db.acme-tools.io:5432/main is down"
        made.append(("URL with password", text, word))
    word = password(rng)
    text = f"Server=db1.acme-tools.io;Database=shop;User Id=sa;Password={word};Encrypt=yes"
    made.append(("connection string", text, word))
    word = draw(rng, ALNUM + "+/", 86) + "=="
    text = f"DefaultEndpointsProtocol=https;AccountName=shop;AccountKey={word};Suffix=x"
    made.append(("connection string", text, word))
    word = draw(rng, ALNUM, 40)
    made.append(("Bearer", f'curl -H "Authorization: Bearer {word}" https://acme-tools.io', word))
    word = draw(rng, ALNUM + "-_.", 30) + "x"
    made.append(("Bearer", f"headers = {{'Authorization': 'Bearer {word}'}}", word))
    word = base64.b64encode(f"admin:{password(rng)}".encode()).decode()
    made.append(("Basic", f"Authorization: Basic {word}\nHost: acme-tools.io", word))
    word = draw(rng, ALNUM + "/+", 40)
    made.append(("password =", f"aws_secret_access_key = {word}\nregion = eu-west-1", word))
    return made


def secrets(rng: random.Random, rounds: int) -> list[Item]:
    found = []
    for turn in range(rounds):
        for place, (name, value) in enumerate(tokens(rng).items()):
            sentence = TOKEN_SENTENCES[(turn * 4 + place) % len(TOKEN_SENTENCES)]
            found.append(Item(f"secret {name}", sentence.format(value), "secret", value))
        for group, text, value in assignments(rng):
            found.append(Item(f"secret {group}", text, "secret", value))
    for kind in ["RSA ", "EC ", "OPENSSH ", ""]:
        value = block(rng, kind + "PRIVATE KEY")
        found.append(Item("secret key block", f"here it is:\n{value}\nbye", "secret", value))
    return found
