"""A second set: other sentences, countries, notations and issuers, made after the first was met."""

import base64
import random

import phonenumbers
from phonenumbers import PhoneNumberFormat

from tests.data_prep.pii_planted.contacts import valid_number
from tests.data_prep.pii_planted.items import ALNUM, HEX, Item, draw
from tests.data_prep.pii_planted.numbers import CARDS, IBAN_FORMS, card, grouped, iban
from tests.data_prep.pii_planted.secrets import password, tokens

MAIL = [
    "{}\tactive",
    "('{}',)",
    "User <{}> wrote:",
    "请发邮件至{}咨询",
    "連絡先：{}（平日）",
    "ส่งมาที่{}นะ",
]
MAIL += ["E-Mail:{}", "https://acme-tools.io/unsubscribe?m={}&k=1", "{}, {{}} and more", "# {}"]
MAIL += ['author = ["Jo <{}>"]', "SELECT * FROM u WHERE mail='{}';", "메일 {}로 보내주세요"]
ANY_PHONE = [
    "Notruf Oma: {}!",
    "x|{}|y",
    "sms:{}",
    "who called me from {} last night?",
    "拨打{}即可",
]
ANY_PHONE += [
    "to={}&text=hi",
    "<b>{}</b>",
    "- {}\n- none",
    "('Ann', '{}')",
    "お客様({})です",
    "T: {} M: -",
]
ANY_PHONE += ['numbers=["{}"]', "Signal/{}", "user;{};active", "โทรมาที่ {} ได้เลย", "p. {}, room 4"]
HOME = {
    "DE": ["ruf mich an: {}", "Rückfragen unter Tel. {}", "Festnetz {}", "telefonisch {}"],
    "FR": ["mobile : {}", "Joignable au {}", "N° de téléphone : {}", "fixe {}"],
    "ES": ["Tfno: {}", "mi número de teléfono es {}", "llama al {}", "Fijo: {}"],
    "IT": ["tel. {}", "numero di cellulare {}", "recapito: {}", "Cell: {}"],
    "PT": ["contacto: {}", "ligue para {}", "nº de telefone {}"],
    "BR": ["Cel.: {}", "ligar {}", "telefone para contato {}"],
    "NL": ["tel {}", "mobiele nummer {}", "te bereiken op {}", "gsm: {}"],
    "BE": ["gsm {}", "Tél.: {}", "telefoon: {}"],
    "PL": ["kom. {}", "zadzwoń: {}", "nr tel. {}"],
    "SE": ["tel: {}", "ring {}", "mobilnummer {}"],
    "NO": ["telefon {}", "mob. {}", "mobilnummer: {}"],
    "DK": ["ring til {}", "telefon: {}", "mobilnr. {}"],
    "FI": ["puhelinnumero {}", "gsm {}", "soita {}"],
    "CZ": ["tel. číslo {}", "volejte {}", "mobilní telefon: {}"],
    "SK": ["tel.: {}", "mobil {}", "zavolajte na {}"],
    "HU": ["tel.: {}", "hívjon: {}", "mobilszám {}"],
    "RO": ["tel. {}", "sunați la {}", "număr de telefon: {}"],
    "TR": ["telefon numaram {}", "cep: {}", "gsm {}"],
    "GR": ["Τηλ: {}", "κιν. {}", "τηλέφωνο επικοινωνίας: {}"],
    "RU": ["звоните {}", "моб. тел.: {}", "номер телефона {}", "тел:{}"],
    "UA": ["дзвоніть {}", "мобільний: {}", "номер {}"],
    "BG": ["тел. {}", "мобилен: {}"],
    "HR": ["mob: {}", "telefon {}", "mobitel {}"],
    "RS": ["telefon: {}", "mob. {}"],
    "LT": ["tel. {}", "mob. {}"],
    "JP": ["お電話は{}まで", "携帯番号 {}", "連絡先：{}", "TEL：{}"],
    "CN": ["请致电{}", "手机号码：{}", "微信同号{}", "联系方式：{}"],
    "KR": ["핸드폰 {}", "전화번호: {}", "연락처는 {}"],
    "TH": ["เบอร์ {}", "โทร. {}", "ติดต่อ {}"],
    "VN": ["số điện thoại {}", "gọi {}", "Zalo: {}"],
    "ID": ["telp: {}", "nomor HP {}", "WA {}"],
    "MY": ["telefon {}", "hubungi {}", "tel: {}"],
    "US": ["Cell: {}", "ph. {}", "give me a ring at {}", "Call {} today", "Fax {}"],
    "GB": ["Call us on {}", "my number is {}", "M: mobile {}", "landline {}"],
    "IN": ["whatsapp {}", "contact no. {}", "मोबाइल नंबर {}", "ph: {}"],
    "AU": ["mobile: {}", "ring {}", "tel {}"],
    "MX": ["tel. {}", "cel. {}", "marca al celular {}"],
    "CO": ["celular {}", "teléfono: {}"],
    "CL": ["celular {}", "fono/tel {}"],
    "IL": ["טל: {}", "הטלפון שלי {}"],
    "SA": ["رقم الجوال {}", "اتصل {}"],
    "IR": ["تلفن: {}", "شماره موبایل {}"],
}
CARD = [
    "use {} exp 09/26 cvv 123",
    "CC#{}",
    'card_number: "{}"',
    "他的信用卡是{}。",
    "{}|12|2027|123",
]
CARD += [
    "numéro de carte {}",
    "tarjeta {}",
    "pay by {} or cash",
    "\n{}\n",
    "クレジット：{}、期限切れ",
    "No.{}",
]
ACCOUNT = [
    "acct {}",
    "{}\n",
    "Konto {}, BIC unbekannt",
    "to={};",
    "'iban': '{}'",
    "银行账号：{}。",
    "({})",
]
SSN = [
    "SS# {}",
    "{} is my social",
    "ssn: '{}'",
    "name,{},dob",
    "tax form with {} on it",
    "(SSN {})",
]
HOST = [
    "connect to {} failed",
    "{},GET,200",
    'remote_addr="{}"',
    "从{}登录",
    "ssh root@{}",
    "<{}>",
    "A {}\n",
]
HOST += ["http://{}/x", "{} > 10.0.0.2", "allow {};", "peer {} (unknown)"]
HOST6 = [sentence.replace("http://{}/x", "http://[{}]/x") for sentence in HOST]
TOKEN = [
    "KEY: {}",
    "os.environ['K'] = '{}'",
    "--token={}",
    't="{}";',
    "I leaked {}, what now?",
    "{}",
]
TOKEN += [
    "- name: k\n  value: {}",
    "密钥：{}。",
    "headers={{'X-Key': '{}'}}",
    "https://acme-tools.io/?k={}",
    "|{}|",
]


def contacts(rng: random.Random) -> list[Item]:
    found = []
    for number in range(130):
        name = rng.choice("a.b mkrause info88 n_sato zoe-x k.o'brien хан 王小明x q".split())
        name = name if name.isascii() else draw(rng, ALNUM, 7)
        host = rng.choice(
            "yandex.ru gmx.net icloud.com nifty.ne.jp ust.hk sapo.pt bbb.io ufl.edu".split()
        )
        sign = ["@", "@", "@", "@", "%40", "＠", "&commat;", "@"][number % 8]
        sentence = MAIL[number % len(MAIL)].replace("{{}}", "")
        value = f"{name}{sign}{host}"
        found.append(Item("email", sentence.format(value), "email", value))
    regions = "US GB DE FR IT ES NL SE PL RU TR BR MX IN CN JP KR TH VN AE EG ZA NG PK BD".split()
    for number in range(150):
        made = valid_number(rng, regions[number % len(regions)])
        code, plain = made.country_code, phonenumbers.national_significant_number(made)
        spaced = phonenumbers.format_number(made, PhoneNumberFormat.INTERNATIONAL)
        groups = spaced.split(" ", 1)[1]
        forms = [
            spaced,
            f"+{code}{plain}",
            f"+{code} {plain}",
            f"+{code}.{plain}",
            f"+{code}-{groups}",
        ]
        forms += [f"00{code}-{groups}", f"+{code}({plain[:2]}){plain[2:]}", f"(+{code}) {plain}"]
        forms += [f"00 {code} {groups}", f"+ {code} {groups}", f"+{code}/{plain[:3]}/{plain[3:]}"]
        value = forms[(number * 3 + number // 11) % len(forms)]
        sentence = ANY_PHONE[number % len(ANY_PHONE)]
        found.append(Item("phone +", sentence.format(value), "phone", value))
    for region, sentences in HOME.items():
        for turn in range(5):
            value = phonenumbers.format_number(
                valid_number(rng, region), PhoneNumberFormat.NATIONAL
            )
            if turn == 1:
                value = "".join(sign for sign in value if sign.isdigit())
            elif turn == 3:
                value = value.replace("-", " ").replace("(", "").replace(")", "")
            text = sentences[turn % len(sentences)].format(value) + rng.choice(
                ["", "!", "; x", "\n"]
            )
            found.append(Item(f"phone {region}", text, "phone", value))
    return found


def numbers(rng: random.Random) -> list[Item]:
    found = []
    for name in CARDS:
        for turn in range(14):
            value = grouped(card(rng, name), ["", "-", " ", "  ", "", "\u00a0", "‑"][turn % 7])
            found.append(Item(f"card {name}", rng.choice(CARD).format(value), "card", value))
    for number, (country, form) in enumerate(4 * list(IBAN_FORMS.items())):
        letters = {"9": "0123456789", "A": "ABCDEFGHKLMNPRSTUVWXYZ", "0": "0"}
        value = iban(country, "".join(rng.choice(letters[sign]) for sign in form))
        if number % 2:
            mark = rng.choice([" ", "-", " "])
            value = mark.join(value[at : at + 4] for at in range(0, len(value), 4))
        value = value.lower() if number % 5 == 0 else value
        text = ACCOUNT[number % len(ACCOUNT)].format(value)
        found.append(Item("iban", text, "iban", value))
    for number in range(42):
        area = rng.choice([at for at in range(1, 900) if at != 666])
        value = f"{area:03d}-{rng.randint(1, 99):02d}-{rng.randint(1, 9999):04d}"
        found.append(Item("ssn", SSN[number % len(SSN)].format(value), "national_id", value))
    for number in range(50):
        first = rng.choice([13, 31, 51, 66, 84, 99, 102, 124, 147, 159, 163, 178, 190, 200, 216])
        value = ".".join(map(str, [first, *(rng.randint(0, 255) for _ in range(3))]))
        found.append(Item("ipv4", HOST[number % len(HOST)].format(value), "ipv4", value))
        words = [f"{rng.randint(1, 0xFFFF):x}" for _ in range(4)]
        head = rng.choice(["2a01:4f8", "2001:41d0", "2607:f8b0", "2409:8a00", "2003:e5"])
        value = (
            head
            + [f"::{words[0]}", f":{words[0]}:{words[1]}::{words[2]}", f"::{':'.join(words)}"][
                number % 3
            ]
        )
        found.append(Item("ipv6", HOST6[number % len(HOST6)].format(value), "ipv6", value))
    return found


def secrets(rng: random.Random) -> list[Item]:
    found = []
    for turn in range(3):
        for place, (name, value) in enumerate(tokens(rng).items()):
            text = TOKEN[(turn * 5 + place) % len(TOKEN)].format(value)
            found.append(Item(f"secret {name}", text, "secret", value))
        word, safe = password(rng), password(rng).rstrip("!#") + "8"
        key, mixed = draw(rng, HEX, 32) + "a1", draw(rng, ALNUM, 39) + "7"
        basic = base64.b64encode(f"svc:{word}".encode()).decode()
        for text, value in [
            (f"POSTGRES_PASSWORD={word}\n", word),
            (f"      - MYSQL_PASSWORD={word}", word),
            (f"docker run -e REDIS_PASSWORD={safe} redis", safe),
            (f"spring.datasource.password={word}", word),
            (f'$password = "{word}";', word),
            (f"{{'user': 'bo', 'passwd': '{word}'}}", word),
            (f"<password>{word}</password>", word),
            (f"user: admin, pass: {word}", word),
            (f"das Passwort ist {word}", word),
            (f"contraseña: {word}", word),
            (f"密码是：{word}", word),
            (f"redis://:{safe}@cache.acme-tools.io:6379/0", safe),
            (f"git clone https://bot:{mixed}@git.acme-tools.io/a.git", mixed),
            (f"amqps://svc:{safe}@mq.acme-tools.io/%2f", safe),
            (f"mysql+pymysql://root:{safe}@10.0.0.3/shop", safe),
            (f"jdbc:sqlserver://db;user=sa;password={safe};encrypt=true", safe),
            (f"host=pg port=5432 user=app password={safe} sslmode=require", safe),
            (f"Endpoint=sb://x.net/;SharedAccessKeyName=R;SharedAccessKey={mixed}=", mixed),
            (f"authorization: bearer {mixed}", mixed),
            (f"-H 'Authorization: Basic {basic}'", basic),
            (f"Authorization: Token {key}", key),
            (f"x-api-key: {key}", key),
            (f"webhook_secret: {key}", key),
            (f"API_TOKEN = '{mixed}'", mixed),
        ]:
            found.append(Item("secret assigned", text, "secret", value))
    return found


def second(seed: int = 1717) -> list[Item]:
    """Some 900 other texts, each with one thing to find."""
    rng = random.Random(seed)
    return [*contacts(rng), *numbers(rng), *secrets(rng)]
