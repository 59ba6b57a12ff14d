"""Words that say that a number is a phone's, and of which countries; words that say it is not."""

import re

from data_prep.pii.letters import LETTER

# regions (none: those of the flag) -> nouns; "nummer", "number" and so on may follow each
NOUNS = {
    "": "phone|phones|telephone|tel|mobile|mob|cellphone|cell phone|whatsapp|viber|telegram|sms|fax"
    "|landline|hotline|helpline|voicemail|(?:my|his|her|our|their) number|ph|wa\\.me/",
    "DE AT CH": "telefon|tel|handy|ruf|rückruf|mobil|mobiltelefon|festnetz|durchwahl|tel nr|anruf"
    "|telefonisch|rufen|anrufen|erreichbar",
    "FR BE CH LU": "tél|téléphone|telephone|portable|fixe|mobile|appeler|appelez|appelle|gsm"
    "|joindre|joignable",
    "ES MX AR CO CL PE": "teléfono|telefono|tfno|tlf|telf|móvil|movil|celular|fijo|llamar"
    "|llame|llámame|llámeme|teléfonos|cel",
    "IT CH": "telefono|cellulare|cell|tel|fisso|chiamare|chiama|chiamami|chiamate|recapito",
    "PT BR": "telefone|telemóvel|celular|ligar|ligue|contacto|contato|tel",
    "NL BE": "telefoon|tel|mobiel|gsm|bel|bellen|belt",
    "DK NO SE": "telefon|tlf|mobil|mobiltelefon|mobilen|ringa|ringe|mob|tel",
    "FI": "puhelin|puh|matkapuhelin|soita|gsm",
    "PL CZ SK": "telefon|tel|kom|komórka|komórkowy|mobil|zadzwoń|dzwoń|zavolejte|telefonu",
    "TR": "telefon|cep|tel|arayın|gsm|telefonu",
    "RO HU GR": "telefon|tel|mobil|telefonszám|τηλέφωνο|τηλ|κινητό",
    "RU UA KZ BY": "телефон|телефона|телефону|тел|моб|мобильный|сотовый|звони|звоните|позвони"
    "|позвоните|номер|факс|мобільний|телефоном",
    "CN TW HK": "电话|手机|電話|手機|致电|拨打|联系|联系方式|聯絡|打给|微信|传真|手机号|电话号码",
    "JP": "電話|電話番号|携帯|携帯番号|でんわ|ケータイ|ファックス|連絡先",
    "KR": "전화|전화번호|휴대폰|핸드폰|연락처|번호|폰|팩스",
    "TH": "โทร|โทรศัพท์|เบอร์|มือถือ|เบอร์โทร|ติดต่อ",
    "VN ID": "điện thoại|sđt|gọi|telepon|telp|nomor",
    "IN": "phone|mobile|फोन|फ़ोन|मोबाइल|नंबर|contact no",
    "SA AE EG": "هاتف|جوال|موبايل|الهاتف|رقم",
    "IL": "טלפון|נייד|טל",
}
# verbs, which stand before many other things: only close before a number
VERBS = (
    "call|calls|called|calling|phone|phoning|text|texted|texting|reach|reached|contact|dial|dialed"
    "|ring|cell|message|sms|ping|fax|at home|at work"
)
# the words that may stand between a verb and a number
BETWEEN = (
    "me|us|him|her|them|you|back|on|at|to|via|by|or|and|the|this|that|number|my|our|his|their|now"
    "|please|today|tonight|tomorrow|directly|again|office|home|work|mom|dad|sister|brother|wife"
    "|husband|boss|no|anytime|after|before|from|with|info|support|is|for|details|line"
)
OTHER_NUMBERS = (
    "order|orders|invoice|isbn|issn|doi|ticket|tracking|serial|ref|reference|case|part|sku|model"
    "|account|acct|flight|id|ids|page|pages|version|zip|barcode|ean|upc|timestamp|epoch|population"
    "|patent|booking|confirmation|policy|transaction|receipt|claim|permit|licen[cs]e|arxiv|pmid"
    "|digits?|integer|int|float|multiply|divide|sum|add|plus|minus|times|prime|function|method"
    "|value|values|array|list|lists|row|rows|column|index|seed|hash|commit|port|pid|uid|gid|bytes"
    "|size|offset|length|score|salary|price|cost|usd|eur|equals?|compute|calculate|subtract"
    "|bestell[a-zäöü]*|kunden[a-zäöü]*|rechnung[a-zäöü]*|auftrag[a-zäöü]*|artikel[a-zäöü]*"
    "|commande|facture|dossier|pedido|factura|ordine|fattura|заказ[а-я]*|订单|编号|单号|发票|注文"
)


def _before(words: str, after: str = "") -> re.Pattern:
    # for texts in small letters: to ignore case costs ten times as much
    return re.compile(f"(?<!{LETTER})(?:{words}){after}(?!{LETTER})")


_SUFFIX = r"(?:[ _-]?(?:numbers?|nummern?|num|nr|no|n°|nº|s))?"
# each with what it means
COUNTRY_WORDS = [(_before(words, _SUFFIX), tuple(of.split())) for of, words in NOUNS.items()]
ANY_NOUN = _before("|".join(NOUNS.values()), _SUFFIX)
VERB_BEFORE = re.compile(
    rf"(?<!{LETTER})(?:{VERBS})(?:[ ,:-]+(?:{BETWEEN})(?!{LETTER})){{0,5}}[ :.,-]*[(]?\Z"
)
VERB = _before(VERBS)
OTHER_NUMBER = _before(OTHER_NUMBERS, r"(?:_?(?:number|nummer|num|no|nr))?")
# {"text": "91480041"}, x = 5: what is assigned is named by its key
KEY = re.compile(
    r"(?:[\"']([\w .-]{1,40})[\"'] ?[:=]|([\w-]{1,40}) ?=|[&?]([\w-]{1,40})=) ?[\"'(]?\Z"
)
KEY_OF_PHONE = re.compile(
    r"phone|mobile?|tel(?:efon|_|$)|\btel|whatsapp|fax|handynr|handynum|cell_?n|contact_?n", re.I
)

SCRIPTS = [
    (re.compile("[\u3040-\u30ff]"), ("JP",)),
    (re.compile("[\u4e00-\u9fff]"), ("CN", "TW", "HK", "JP")),
    (re.compile("[\uac00-\ud7af]"), ("KR",)),
    (re.compile("[\u0e00-\u0e7f]"), ("TH",)),
    (re.compile("[\u0400-\u04ff]"), ("RU", "UA", "KZ")),
]


def last(pattern: re.Pattern, text: str) -> int:
    """Where the last match ends; -1 without one."""
    return max((match.end() for match in pattern.finditer(text)), default=-1)


def regions_of_words(text: str) -> tuple[str, ...]:
    """Countries whose words for phones, or whose script, stand in `text`."""
    pairs = [*COUNTRY_WORDS, *SCRIPTS]
    return tuple(
        dict.fromkeys(region for found, of in pairs if found.search(text) for region in of)
    )
