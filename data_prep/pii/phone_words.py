"""Words that say that a number is a phone's, and of which countries; words that say it is not."""

import re

from data_prep.pii.letters import LETTER

# regions (none: those of the flag) -> nouns; "nummer", "number" and so on may follow each
NOUNS = {
    "": "phone|phones|telephone|tel|mobile|mob|cellphone|cell phone|whatsapp|viber|telegram|sms|fax"
    "|landline|hotline|helpline|voicemail|(?:my|his|her|our|their|your) number|ph|wa\\.me/",
    "DE AT CH": "telefon|tel|handy|ruf|rückruf|mobil|mobiltelefon|festnetz|durchwahl|tel nr|anruf"
    "|telefonisch|rufen|anrufen|erreichbar|fon|natel|telefax|diensthandy|meine nummer",
    "FR BE CH LU CA": "tél|téléphone|telephone|portable|fixe|mobile|appeler|appelez|appelle|gsm"
    "|joindre|joignable|rappeler|rappelez|télécopie|téléphonez|cellulaire|mon numéro",
    "ES MX AR CO CL PE": "teléfono|telefono|tfno|tlf|telf|móvil|movil|celular|fijo|llamar"
    "|llame|llámame|llámeme|teléfonos|cel|teléf|tlfno|llamen|llámanos|llamadme|llama|mi número",
    "IT CH": "telefono|cellulare|cell|tel|fisso|chiamare|chiama|chiamami|chiamate|recapito"
    "|telefonare|chiamatemi|telefonino|mio numero",
    "PT BR": "telefone|telefones|telemóvel|telemovel|celular|ligar|ligue|contacto|contato|tel|fone"
    "|tlm|telem|tlf|cel|zap|me liga|meu número",
    "NL BE": "telefoon|tel|mobiel|gsm|bel|bellen|belt|mobieltje|bereikbaar|bereiken"
    "|mobiele|mijn nummer",
    "DK NO SE": "telefon|tlf|mobil|mobiltelefon|mobilen|ringa|ringe|mob|tel|tfn|telefonen|mobilnr"
    "|(?:ring|ringe|ringa|nå) (?:meg|mig|oss|til|på)|(?:mitt|mit|min) (?:nummer|nr)",
    "FI EE": "puhelin|puh|matkapuhelin|soita|gsm|kännykkä|puhelinnumero|numeroni|telefon|mobiil"
    "|tel",
    "LT LV": "telefonas|telefono|tel|mob|mobilus|tālrunis|tālr|mobilais",
    "PL CZ SK": "telefon|tel|kom|komórka|komórkowy|mobil|zadzwoń|dzwoń|zavolejte|telefonu|dzwonić"
    "|telefonicznie|komórki|mobilní|mobilný|volejte|volajte|volat|telefón|telefónne|číslo",
    "TR": "telefon|cep|tel|arayın|gsm|telefonu|telefonum|numaram|numarası|numaramı",
    "RO HU GR CY": "telefon|tel|mobil|telefonszám|telefonszámom|hívjon|hívj|sunați|sunati|telefonul"
    "|τηλέφωνο|τηλέφωνό|τηλ|κινητό|κιν|φαξ",
    "HR RS SI BA ME MK BG": "telefon|tel|mob|mobitel|mobilni|gsm|nazovite|pokličite|телефон|тел|моб"
    "|мобилен|мобилни|джиесем",
    "RU UA KZ BY": "телефон|телефона|телефону|тел|моб|мобильный|сотовый|звони|звоните|позвони"
    "|позвоните|номер|факс|мобільний|телефоном|звонить|набери|наберите|сот|телефонуйте|дзвоніть"
    "|мобильного|вотсап|ватсап",
    "CN TW HK": "电话|手机|電話|手機|致电|拨打|联系|联系方式|聯絡|打给|微信|传真|手机号|电话号码"
    "|致電|撥打|手提|行動|座机|热线",
    "JP": "電話|電話番号|携帯|携帯番号|でんわ|ケータイ|ファックス|連絡先|お電話|スマホ",
    "KR": "전화|전화번호|휴대폰|핸드폰|연락처|번호|폰|팩스|휴대전화|문자|연락",
    "TH": "โทร|โทรศัพท์|เบอร์|มือถือ|เบอร์โทร|ติดต่อ|โทรหา|แฟกซ์",
    "VN": "điện thoại|sđt|sdt|đt|gọi|di động|dien thoai|zalo|liên hệ|số máy",
    "ID MY PH": "telepon|telp|nomor|ponsel|hubungi|no\\.? ?hp|nomor hp|no\\.? ?wa|nomor wa|telefon"
    "|tel|bimbit|selpon|wa",
    "IN BD": "phone|mobile|फोन|फ़ोन|मोबाइल|नंबर|contact no|ফোন|মোবাইল|ফোন নম্বর|தொலைபேசி|ఫోన్",
    "SA AE EG MA JO IQ": "هاتف|جوال|موبايل|الهاتف|رقم|الجوال|تلفون|واتساب|اتصل|محمول|المحمول"
    "|هاتفي|جوالي",
    "IR PK": "تلفن|موبایل|همراه|شماره|فون|نمبر",
    "IL": "טלפון|נייד|טל|פלאפון|סלולרי|הטלפון|הנייד|התקשרו|התקשר",
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


_SUFFIX = r"(?:[ _-]?(?:numbers?|nummern?|num|nr|no|n°|nº|s|szám(?:om)?))?"
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

ONLY_SIGNS = re.compile(r"[\x00-@\[-`{-\x7f]*")
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
    # a page of digits asks often
    if ONLY_SIGNS.fullmatch(text):
        return ()
    pairs = [*COUNTRY_WORDS, *SCRIPTS]
    return tuple(
        dict.fromkeys(region for found, of in pairs if found.search(text) for region in of)
    )
