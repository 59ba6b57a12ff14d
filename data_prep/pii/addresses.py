"""Network addresses: IPv4 and IPv6. Postal addresses are left to the optional model."""

import ipaddress
import re
from collections.abc import Iterator

from data_prep.pii.found import Found
from data_prep.pii.letters import WORD

# --- IPv4 -----------------------------------------------------------------------------------------

# not a part of a longer dotted number, which is a version or an OID
IPV4 = re.compile(
    rf"(?=[0-9])(?<!{WORD})(?<!\.)(?:[0-9]{{1,3}}\.){{3}}[0-9]{{1,3}}(?!{WORD}|\.[0-9])"
)
VERSION_WORD = re.compile(
    r"(?:\b(?:v|ver|version|release|build|firmware|driver|section|chapter|clause|sdk)"
    # "nginx/1.18.0.1": as user agents write versions
    r"[. :]{0,2}|\w/)$",
    re.I,
)
ADDRESS_WORD = re.compile(
    rf"(?<!{WORD})(?:ip|ipv4|address|server|host|ping|ssh|dns|subnet|gateway|router|proxy|login|logged"
    rf"|adresse|dirección|адрес|сервер)(?!{WORD})|服务器|地址|サーバー|アドレス|서버|주소",
    re.I,
)


# of nobody: private and shared networks, link-local, documentation, tests, multicast (RFC 6890)
RESERVED = [
    ipaddress.ip_network(network)
    for network in """
        10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 169.254.0.0/16 192.0.0.0/24
        192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 198.18.0.0/15 224.0.0.0/3
        fc00::/7 fe80::/10 2001:db8::/32 3fff::/20 ff00::/8
    """.split()
]


def is_reserved(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether nobody can be reached there from outside: a private or documentation address."""
    return any(address in network for network in RESERVED if network.version == address.version)


def find_ipv4(text: str, reserved: bool = False) -> Iterator[Found]:
    """Dotted quads that are an address of somebody's, not a version, a netmask or this machine.

    Args:
        reserved: also private and documentation addresses.
    """
    for match in IPV4.finditer(text):
        parts = match.group().split(".")
        before = text[max(0, match.start() - 40) : match.start()]
        impossible = any(int(p) > 255 or (len(p) > 1 and p[0] == "0") for p in parts)
        if impossible or VERSION_WORD.search(before):
            continue
        address = ipaddress.IPv4Address(match.group())
        if address.is_loopback or address.is_unspecified or parts[:2] == ["255", "255"]:
            continue  # this machine, "any", and netmasks: nobody's address
        if is_reserved(address) and not reserved:
            continue
        # four small numbers are more often a version or a section than an address
        if max(map(int, parts)) < 30 and not ADDRESS_WORD.search(before):
            continue
        yield Found("ipv4", *match.span())


# --- IPv6 -----------------------------------------------------------------------------------------

# only a run: the grammar is `ipaddress`'s, as an expression for it would fill a screen
IN_WORD = re.compile(WORD)
IPV6_RUN = re.compile(r"[0-9A-Fa-f:.]{3,}")


def find_ipv6(text: str, reserved: bool = False) -> Iterator[Found]:
    """Runs of hexadecimal digits and colons that are an address, cut free of what touches them.

    Args:
        reserved: also private and documentation addresses.
    """
    for match in IPV6_RUN.finditer(text):
        run, start = match.group(), match.start()
        # 45 characters are the longest address
        if run.count(":") < 2 or len(run) > 60:
            continue
        if start and IN_WORD.match(
            text[start - 1]
        ):  # "node:2001:db8::1": the run began inside a word
            start += run.index(":")
            run = run[run.index(":") :]
        if run.startswith(":") and not run.startswith("::"):
            start, run = start + 1, run[1:]
        # the end of a sentence
        run = run.rstrip(".") if run.endswith(".") else run
        if run.endswith(":") and not run.endswith("::"):
            run = run[:-1]
        end = start + len(run)
        # the run broke off inside a word
        if end < len(text) and IN_WORD.match(text[end]):
            continue
        if _is_ipv6(run) and (reserved or not is_reserved(ipaddress.IPv6Address(run))):
            yield Found("ipv6", start, end)


def _is_ipv6(run: str) -> bool:
    """Whether it parses and looks like an address in use: "a::b" is C++ more often than one."""
    try:
        address = ipaddress.IPv6Address(run)
    except ipaddress.AddressValueError:
        return False
    if address.is_loopback or not any(c.isdigit() for c in run):
        return False
    groups = [g.lower() for g in run.split(":") if g]
    # a short form must lie in a block that is in use: 2000::/3, or fe80, fc and fd (local)
    used = groups and (groups[0][0] in "23" or groups[0][:2] in ("fe", "fc", "fd"))
    return bool(len(groups) >= 5 or (used and len(groups) >= 2))
