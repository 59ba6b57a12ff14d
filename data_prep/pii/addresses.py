"""Network addresses: IPv4 and IPv6. Postal addresses are left to the optional model."""

import ipaddress
import re
from collections.abc import Iterator

from data_prep.pii.found import Found

# --- IPv4 -----------------------------------------------------------------------------------------

# not a part of a longer dotted number, which is a version or an OID
IPV4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")
VERSION_WORD = re.compile(
    r"(?:\b(?:v|ver|version|release|build|firmware|driver|section|chapter|clause|sdk)"
    # "nginx/1.18.0.1": as user agents write versions
    r"[. :]{0,2}|\w/)$",
    re.I,
)
ADDRESS_WORD = re.compile(
    r"\b(?:ip|ipv4|address|server|host|ping|ssh|dns|subnet|gateway|router|proxy|login|logged)\b",
    re.I,
)


def find_ipv4(text: str) -> Iterator[Found]:
    """Dotted quads that are an address of somebody's, not a version, a netmask or this machine."""
    for match in IPV4.finditer(text):
        parts = match.group().split(".")
        before = text[max(0, match.start() - 40) : match.start()]
        impossible = any(int(p) > 255 or (len(p) > 1 and p[0] == "0") for p in parts)
        if impossible or VERSION_WORD.search(before):
            continue
        address = ipaddress.IPv4Address(match.group())
        if address.is_loopback or address.is_unspecified or parts[:2] == ["255", "255"]:
            continue  # this machine, "any", and netmasks: nobody's address
        # four small numbers are more often a version or a section than an address
        if max(map(int, parts)) < 30 and not ADDRESS_WORD.search(before):
            continue
        yield Found("ipv4", *match.span())


# --- IPv6 -----------------------------------------------------------------------------------------

# only a run: the grammar is `ipaddress`'s, as an expression for it would fill a screen
IPV6_RUN = re.compile(r"[0-9A-Fa-f:.]{3,}")


def find_ipv6(text: str) -> Iterator[Found]:
    """Runs of hexadecimal digits and colons that are an address, cut free of what touches them."""
    for match in IPV6_RUN.finditer(text):
        run, start = match.group(), match.start()
        # 45 characters are the longest address
        if run.count(":") < 2 or len(run) > 60:
            continue
        if start and text[start - 1].isalpha():  # "node:2001:db8::1": the run began inside a word
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
        if end < len(text) and (text[end].isalnum() or text[end] == "_"):
            continue
        if _is_ipv6(run):
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
