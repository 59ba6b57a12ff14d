"""E-mail addresses and phone numbers, in sentences: planted for the finders."""

import random

import phonenumbers
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from tests.data_prep.pii_planted.items import Item, digits

# --- emails ---------------------------------------------------------------------------------------

PEOPLE = (
    "anna.keller j.dupont maria_lopez olga-petrova tom99 k.yamada li.wei m.rossi pnowak".split()
)
HOSTS = "gmail.com web.de mail.ru qq.com orange.fr uni-koeln.de kvarken.fi btinternet.co.uk".split()
HOSTS += "softbank.jp libero.it acme-tools.io proton.me outlook.com.br naver.com".split()
EMAIL_SENTENCES = [
    "Please write to {} before Friday.",
    "My address is {}, thanks!",
    "From: Someone <{}>",
    '{{"user": "u1", "mail": "{}"}}',
    "contact=({})",
    "2024-03-01 12:00:01 INFO login ok user={} in 13 ms",
    "git config user.email {}",
    "[mail me](mailto:{})",
    "Send the draft to {}.",
    "cc:{};bcc:none",
    "我的邮箱是{}请联系我",
    "メールは{}までお願いします",
    "อีเมลของผมคือ{}ครับ",
    "发到{}，谢谢。",
    "제 이메일은 {}입니다",
    "Пишите на {} в любое время",
    "row,{},7,ok",
    "Is '{}' still in use?",
]


def emails(rng: random.Random, count: int) -> list[Item]:
    found = []
    signs = ["@"] * 12 + ["＠", "%40", "&#64;", "\\u0040", "&#x40;"]
    for number in range(count):
        name = rng.choice(PEOPLE) + rng.choice(["", "", "+news", str(rng.randint(1, 99))])
        sign = signs[number % len(signs)]
        value = name + sign + rng.choice(HOSTS)
        if number % 11 == 0:
            value = value.upper() if sign == "@" else value
        sentence = EMAIL_SENTENCES[number % len(EMAIL_SENTENCES)]
        group = "email" if sign == "@" else f"email {sign}"
        found.append(Item(group, sentence.format(value), "email", value))
    return found


# --- phones ---------------------------------------------------------------------------------------


def valid_number(rng: random.Random, region: str) -> phonenumbers.PhoneNumber:
    """A random number that the numbering plan of `region` has."""
    kinds = [PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE]
    example = phonenumbers.example_number_for_type(region, rng.choice(kinds))
    for _ in range(200):
        national = phonenumbers.national_significant_number(example)
        made = national[:-5] + digits(rng, 5)
        number = phonenumbers.parse(f"+{example.country_code}{made}")
        if phonenumbers.is_valid_number_for_region(number, region):
            return number
    return example


ABROAD = "US GB DE FR ES IT NL BE CH AT PL SE NO DK FI PT IE GR TR RU UA CZ HU RO".split()
ABROAD += "IN CN JP KR TH VN ID MY SG AU NZ ZA NG KE EG IL AE SA BR MX AR CL CO".split()
PHONE_SENTENCES = [
    "Reach me at {} after six.",
    "Anna,{},Berlin",
    "phone={}",
    "contact ({})",
    "home/{}",
    '{{"tel": "{}"}}',
    "My number: {}.",
    "WhatsApp {} or write",
    "<a href='tel:{}'>us</a>",
    "我的号码是{}，请联系",
    "番号は{}です",
    "เบอร์ผม{}ครับ",
    "[{}] is where she lives",
    "2024-05-01T10:00:00Z sms sent to {} status=200",
    "Fax\t{}\tRoom 12",
    "If you get lost: {} (any time), or ask at the desk.",
]


def abroad_notations(number: phonenumbers.PhoneNumber) -> list[str]:
    code = str(number.country_code)
    plain = phonenumbers.national_significant_number(number)
    spaced = phonenumbers.format_number(number, PhoneNumberFormat.INTERNATIONAL)
    groups = spaced.split(" ", 1)[1]
    area, rest = plain[:3], plain[3:]
    return [
        spaced,
        "+" + code + plain,
        spaced.replace(" ", "-"),
        spaced.replace(" ", "."),
        f"+{code}({area}){rest[:3]}-{rest[3:]}",
        f"+{code} ({area}) {rest[:3]} {rest[3:]}",
        f"(+{code}) {groups}",
        f"00{code} {groups}",
        f"00{code}{plain}",
        spaced.replace(" ", "\u00a0"),
        f"＋{code} {groups}",
        spaced.replace(" ", "  ", 1),
        spaced.replace(" ", "/", 2).replace("/", " ", 1),
        f"+{code}-{plain}",
        spaced.replace("-", "‑").replace(" ", "‑"),
    ]


def phones_abroad(rng: random.Random, count: int) -> list[Item]:
    found = []
    for number in range(count):
        region = ABROAD[number % len(ABROAD)]
        notations = abroad_notations(valid_number(rng, region))
        which = (number * 7 + number // len(ABROAD)) % len(notations)
        value = notations[which]
        sentence = PHONE_SENTENCES[number % len(PHONE_SENTENCES)]
        found.append(Item(f"phone +, {which}", sentence.format(value), "phone", value))
    for text, value in [
        ("Tel. +44 20 7946 0958/59, ask for Jo", "+44 20 7946 0958"),
        ("звоните +7(912)345-67-89 вечером", "+7(912)345-67-89"),
        ("Büro: +49 (0)30 2093-1234, Frau Ott", "+49 (0)30 2093-1234"),
        ("office +1 (212) 736-5000 ext. 12", "+1 (212) 736-5000"),
        ("dial 011 44 20 7946 0958 from the US", "011 44 20 7946 0958"),
        ("+41/44/668 18 00 ist die Zentrale", "+41/44/668 18 00"),
    ]:
        found.append(Item("phone +, other", text, "phone", value))
    return found


NATIONAL = {  # region -> sentences that people of that country write around a number
    "DE": ["Telefon: {}", "Mein Handy ist {}, ruf an", "Tel. {} (abends)", "Mobil {}", "Fax: {}"],
    "AT": ["Telefonnummer {}", "Handynummer: {}", "Rufnummer {}"],
    "CH": ["Tel {}", "Natel {}", "Handy: {}"],
    "FR": ["tél. {}", "Mon portable est le {}", "Téléphone : {}", "appelez-moi au {}"],
    "ES": ["móvil {}", "Mi teléfono es el {}", "Tlf.: {}", "llámame al {}"],
    "IT": ["cellulare {}", "Il mio telefono: {}", "cell. {}", "chiamami al {}"],
    "PT": ["telemóvel {}", "Telefone: {}", "Tlm. {}"],
    "BR": ["celular {}", "meu telefone é {}", "Fone: {}"],
    "NL": ["telefoon {}", "Mobiel: {}", "bel me op {}", "Telefoonnummer {}"],
    "PL": ["telefon {}", "tel. kom. {}", "numer telefonu: {}", "komórka {}"],
    "SE": ["mobil {}", "Telefon: {}", "mitt telefonnummer är {}"],
    "NO": ["Tlf. {}", "mobil: {}", "ring meg på {}"],
    "DK": ["tlf {}", "mobil: {}", "Telefonnummer: {}"],
    "FI": ["puhelin {}", "puh. {}", "matkapuhelin: {}"],
    "CZ": ["telefon {}", "mobil: {}", "tel.: {}"],
    "HU": ["telefon: {}", "telefonszám {}", "mobil {}"],
    "RO": ["telefon {}", "mobil: {}", "nr. de telefon {}"],
    "TR": ["cep telefonu {}", "Telefon: {}", "tel: {}"],
    "GR": ["τηλέφωνο {}", "κινητό: {}", "τηλ. {}"],
    "RU": ["телефон {}", "тел. {}", "мобильный: {}", "мой номер {}", "сотовый {}"],
    "UA": ["телефон {}", "тел.: {}", "моб. {}"],
    "JP": ["電話 {}", "携帯は{}です", "電話番号：{}", "TEL {}"],
    "CN": ["电话{}", "手机：{}", "我的手机号是{}", "联系电话 {}"],
    "TW": ["電話：{}", "手機 {}"],
    "KR": ["전화 {}", "휴대폰: {}", "전화번호는 {}입니다", "연락처 {}"],
    "TH": ["โทร {}", "โทรศัพท์: {}", "เบอร์โทร{}ครับ", "มือถือ {}"],
    "VN": ["điện thoại {}", "SĐT: {}", "ĐT {}"],
    "ID": ["telepon {}", "No. HP: {}", "telp. {}"],
    "US": ["phone {}", "call me at {}", "My cell is {}", "Phone number: {}", "text me on {}"],
    "GB": ["mobile {}", "Tel: {}", "ring me on {}", "Telephone {}"],
    "IN": ["mobile no. {}", "Call {} now", "Phone: {}", "फ़ोन {}"],
    "AU": ["Mob: {}", "phone {}", "call me on {}"],
    "MX": ["celular: {}", "teléfono {}", "mi cel es {}"],
    "AR": ["teléfono {}", "celular {}"],
    "IL": ["טלפון {}", "נייד: {}", "phone {}"],
    "EG": ["هاتف {}", "موبايل: {}"],
    "SA": ["جوال {}", "رقم الهاتف: {}"],
}


def phones_at_home(rng: random.Random, rounds: int) -> list[Item]:
    found = []
    for region, sentences in NATIONAL.items():
        for turn in range(rounds):
            sentence = sentences[turn % len(sentences)]
            number = valid_number(rng, region)
            value = phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL)
            style = rng.randrange(5)
            if style == 1:
                value = value.replace(" ", "").replace("(", "").replace(")", "").replace("-", "")
            elif style == 2:
                value = value.replace(" ", "-").replace(")-", ")")
            elif style == 3:
                value = value.replace("(", "").replace(")", "")
            tail = rng.choice(["", ".", ", danke", " ok?", "\nregards"])
            found.append(Item(f"phone {region}", sentence.format(value) + tail, "phone", value))
    return found
