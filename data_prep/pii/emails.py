"""E-mail addresses."""

import re
from collections.abc import Iterator

from data_prep.pii.found import Found
from data_prep.pii.letters import ALNUM, LETTER, WORD

# as it is, in a URL, in HTML, in JSON
AT = re.compile(r"@|%40|&#(?:64|x40);|&commat;|\\u0040", re.I)
# 64 and 63 characters are the limits of local part and label; bounds keep the search linear
LOCAL_PART = re.compile(rf"(?:{WORD}|[.%+'~-]){{1,64}}\Z")
LABEL = rf"{ALNUM}(?:(?:{WORD}|-){{0,61}}{ALNUM})?"
DOMAIN = re.compile(rf"(?:{LABEL}\.){{1,8}}{LETTER}{{2,24}}(?!(?:{WORD}|-)*{ALNUM})")

# Countries, and the generic ends that people have addresses under. The list of IANA has 1,400: most
# are brands, or the names of attributes in code ("W@x.data").
TOP_DOMAINS = frozenset(
    """
    ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt
    bw by bz ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er
    es et eu fi fj fk fm fo fr ga gb gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr
    ht hu id ie il im in io iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk
    lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf
    ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs ru rw sa sb sc
    sd se sg sh si sj sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt
    tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw

    com org net edu gov mil int info biz name pro mobi aero asia cat coop jobs museum post tel
    travel academy accountant agency ai app art associates attorney audio auto bank bar berlin
    best bike blog boutique brussels build builders business cafe camp capital care careers casa
    cash center charity chat church city clinic cloud club coach codes coffee college community
    company computer consulting contact contractors cooking cool country credit dance degree
    delivery dental design dev dentist digital direct directory doctor domains earth education
    email energy engineer engineering enterprises equipment estate events exchange expert
    express family farm fashion finance financial fit fitness florist foundation fun fund
    gallery game games garden gift global gmbh gold graphics green group guide guru hamburg
    health healthcare help holdings homes hospital host hosting house immo inc industries ink
    institute insurance international investments istanbul kitchen koeln land law lawyer legal
    life limited live llc loan london love ltd luxury madrid maison management market marketing
    mba media melbourne memorial menu miami money moscow movie music network news ngo nyc one
    ong online page paris partners parts party pet photo photography photos physio pizza place
    plus press productions properties property pub quebec realestate recipes repair report rest
    restaurant review reviews rio rocks ruhr run school science scot security services sexy shop
    shopping show site ski soccer social software solar solutions space sport store stream
    studio style supply support surf swiss systems tax taxi team tech technology tennis theater
    tips tirol today tokyo tools top tours town toys trade training tube university
    uno vacations ventures vet video villas vin vip vision vote wales wang watch website wedding
    wien wiki win wine work works world wtf xyz yachts yoga zone
    """.split()
)
# what a call in code may end in, besides: "W@x.to(device)"
METHODS = frozenset("to is do at id name run show top all plus parts post".split())

# RFC 2606 and 6761, and what people write where an address should go
RESERVED = re.compile(
    r"(?:.*\.)?(?:example\.(?:com|net|org|edu)|example|test|invalid|localhost|local|internal)"
)
PLACEHOLDER = re.compile(
    r"(?:your|the|some|my)?[._-]?(?:you|me|user|username|name|email|e-mail|mail|someone|somebody"
    r"|address|firstname\.lastname|first\.last)(?:[._-]?(?:name|mail|email|here|address))?"
    r"@(?:(?:your|my|some)?-?(?:domain|company|email|mail|site|website|organi[sz]ation|org|host"
    r"|server|provider|business)(?:name)?)\.(?:com|net|org|tld|io)"
)


def find_emails(text: str, reserved: bool = False) -> Iterator[Found]:
    """Addresses under a known top-level domain, sought outwards from every "@".

    Args:
        reserved: also addresses of nobody: example.com, name@domain.com.
    """
    # outwards from "@": a pattern that begins with the local part is quadratic on long runs
    for at in AT.finditer(text):
        domain = _domain(text, at.end())
        local = domain and LOCAL_PART.search(text[max(0, at.start() - 64) : at.start()])
        if not local:
            continue
        # quotes and list marks that may stand in an address, but seldom begin one
        name = local.group().lstrip("'.-%~")
        # git@host is a repository's address, not a person's
        if not name or name == "git":
            continue
        if reserved or not is_reserved(name, domain):
            yield Found("email", at.start() - len(name), at.end() + len(domain))


def _domain(text: str, start: int) -> str | None:
    """The domain at `start`; None where there is none or it is code ("W@x.reshape(3)")."""
    match = DOMAIN.match(text, start)
    if match is None:
        return None
    labels = match.group().split(".")
    # "jo@acme.com.Thanks": the next sentence
    if len(labels) > 2 and labels[-1].istitle() and not _is_top(labels[-1]):
        labels.pop()
    top, domain = labels[-1].lower(), ".".join(labels)
    is_call = text.startswith("(", start + len(domain)) and (len(top) > 3 or top in METHODS)
    return domain if _is_top(top) and not is_call else None


def _is_top(label: str) -> bool:
    # in other scripts: all of them were made for addresses; "local" and its like are reserved
    known = label.lower() in TOP_DOMAINS or not label.isascii()
    return known or RESERVED.fullmatch(label.lower()) is not None


def is_reserved(name: str, domain: str) -> bool:
    """Whether nobody can have the address, or it stands for one."""
    domain = domain.lower()
    return bool(RESERVED.fullmatch(domain) or PLACEHOLDER.fullmatch(f"{name.lower()}@{domain}"))
