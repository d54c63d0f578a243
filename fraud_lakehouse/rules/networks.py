"""Whether an address is in one of some networks (`in_networks`): in Python, and as SQL of DuckDB and of Spark.

Addresses are texts as people write them: IPv4, IPv6 with or without `::`, IPv4 in IPv6 (`::ffff:192.0.2.1`, which
counts as the IPv4 address). Any other text is no address, and the answer null.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fraud_lakehouse.rules.sql import Dialect

_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_V4 = f"^{_OCTET}[.]{_OCTET}[.]{_OCTET}[.]{_OCTET}$"
_GROUPS = "([0-9a-f]{1,4}:)*[0-9a-f]{1,4}"
_WHOLE = "^([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}$"
_SHORTENED = f"^({_GROUPS})?::({_GROUPS})?$"
_MAPPED = "^::ffff:"
_SEPARATOR = re.compile(r"[\s,;]+")

Range = tuple[int, int]


@dataclass(frozen=True)
class Networks:
    """Networks as ranges of addresses, in order: first and last."""

    v4: tuple[Range, ...]
    v6: tuple[Range, ...]

    @staticmethod
    def of(text: str) -> Networks:
        """Networks in CIDR notation, separated by blanks or commas; a single address is a network too.

        Raises:
            ValueError: one is no network, or there is none; says which.
        """
        listed = [part for part in _SEPARATOR.split(text) if part]
        if not listed:
            raise ValueError("no network")
        v4 = [one for part in listed if isinstance(one := ipaddress.ip_network(part), ipaddress.IPv4Network)]
        v6 = [one for part in listed if isinstance(one := ipaddress.ip_network(part), ipaddress.IPv6Network)]
        return Networks(
            tuple((int(one[0]), int(one[-1])) for one in ipaddress.collapse_addresses(v4)),
            tuple((int(one[0]), int(one[-1])) for one in ipaddress.collapse_addresses(v6)),
        )


def contains(networks: Networks) -> Callable[[str], bool | None]:
    """A function that says whether an address is in one of the networks; None for a text that is no address."""

    @lru_cache(maxsize=10_000)
    def compute(text: str) -> bool | None:
        address = re.sub(_MAPPED, "", text.lower())
        if re.fullmatch(_V4, address):
            return _is_in(int(ipaddress.IPv4Address(address)), networks.v4)
        found = _hexadecimal(text.lower())
        return None if found is None else _is_in(int(found, 16), networks.v6)

    return compute


def networks_sql(address: str, networks: Networks, dialect: Dialect) -> str:
    """The same as SQL.

    Args:
        address: SQL of the text, repeated several times.
    """
    lower = f"lower({address})"
    v4 = _replaced(lower, _MAPPED, "", dialect)
    octets = [f"cast(split_part({v4}, '.', {place}) as bigint)" for place in (1, 2, 3, 4)]
    number = f"({octets[0]} * 16777216 + {octets[1]} * 65536 + {octets[2]} * 256 + {octets[3]})"
    padded = _replaced(_replaced(lower, "([0-9a-f]+)", r"000\1", dialect), "[0-9a-f]*([0-9a-f]{4})", r"\1", dialect)
    joined = f"replace(replace({padded}, '::', '*'), ':', '')"
    whole = f"replace({joined}, '*', repeat('0', cast(33 - length({joined}) as int)))"
    is_v6 = (
        f"({_matches(lower, _WHOLE, dialect)} or ({_matches(lower, _SHORTENED, dialect)} and length({joined}) <= 29))"
    )
    in_v6 = _between(whole, [(f"'{first:032x}'", f"'{last:032x}'") for first, last in networks.v6])
    in_v4 = _between(number, [(str(first), str(last)) for first, last in networks.v4])
    return f"(case when {_matches(v4, _V4, dialect)} then {in_v4} when {is_v6} then {in_v6} end)"


def _hexadecimal(text: str) -> str | None:
    """An IPv6 address as 32 digits; None if it is none."""
    is_whole = re.fullmatch(_WHOLE, text) is not None
    if not is_whole and not re.fullmatch(_SHORTENED, text):
        return None
    before, _, after = text.partition("::")
    first, last = ("".join(part.zfill(4) for part in side.split(":") if part) for side in (before, after))
    missing = 32 - len(first) - len(last)
    return first + "0" * missing + last if is_whole or missing >= 4 else None


def _is_in(number: int, ranges: Sequence[Range]) -> bool:
    return any(first <= number <= last for first, last in ranges)


def _between(value: str, ranges: Sequence[tuple[str, str]]) -> str:
    return " or ".join(f"{value} between {first} and {last}" for first, last in ranges) or "false"


def _matches(text: str, pattern: str, dialect: Dialect) -> str:
    return f"regexp_matches({text}, '{pattern}')" if dialect == "duckdb" else f"({text} rlike '{pattern}')"


def _replaced(text: str, pattern: str, by: str, dialect: Dialect) -> str:
    """All matches replaced."""
    if dialect == "duckdb":
        return f"regexp_replace({text}, '{pattern}', '{by}', 'g')"
    return f"regexp_replace({text}, '{pattern}', '{by.replace(chr(92), '$')}')"
