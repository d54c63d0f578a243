"""Addresses in networks: Python and DuckDB say the same as the standard library, for any text."""

from __future__ import annotations

import ipaddress

import duckdb
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fraud_lakehouse.rules.expression import Node, column
from fraud_lakehouse.rules.networks import Networks, contains, networks_sql
from fraud_lakehouse.rules.syntax import Problem, parse, typed

LISTED = "10.0.0.0/8, 192.0.2.7\n2001:db8::/33 ::1 2001:db8:8000::/33 0.0.0.0/30 ffff:ffff::/32"
NETWORKS = Networks.of(LISTED)
ODD = ["", "::", "1::", "::1", "1.2.3", "01.2.3.4", "256.1.1.1", "1:2:3:4:5:6:7::", "1::2::3", "::ffff:10.1.2.3"]
ODD += ["1:2:3:4:5:6:7:8:9", "12345::", "fe80::1%eth0", "::ffff:300.1.1.1", "2001:DB8::A", "10.0.0.1 ", "a:b", ":", "*"]
ODD += ["0:0:0:0:0:ffff:10.1.2.3", "::10.1.2.3", "1:2:3:4:5:6:7:8", "::ffff:a01:203"]
addresses = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda one: one.exploded.upper()),
    st.ip_addresses(network="2001:db8::/31").map(str),
    st.ip_addresses(network="8.0.0.0/6").map(str),
    st.text("0123456789abcF:.*", max_size=20),
    st.sampled_from(ODD),
)


def expected(text: str) -> bool | None:
    """By the standard library; IPv4 in IPv6 only as ::ffff:a.b.c.d."""
    lower = text.lower()
    if lower.startswith("::ffff:") and "." in lower:
        lower = lower.removeprefix("::ffff:")
    if ("." in lower and ":" in lower) or "%" in lower:
        return None
    try:
        address = ipaddress.ip_address(lower)
    except ValueError:
        return None
    listed = [ipaddress.ip_network(one) for one in LISTED.replace(",", " ").split()]
    return any(address in one for one in listed if one.version == address.version)


@settings(deadline=None)
@given(st.lists(addresses, min_size=1, max_size=40))
@example(ODD)
def test_python_and_duckdb_agree_with_the_standard_library(texts: list[str]) -> None:
    wanted = [expected(text) for text in texts]
    assert [contains(NETWORKS)(text) for text in texts] == wanted
    with duckdb.connect() as connection:
        connection.execute("create table t (n integer, a varchar)")
        connection.executemany("insert into t values (?, ?)", list(enumerate(texts)))
        found = connection.execute(f"select {networks_sql('a', NETWORKS, 'duckdb')} from t order by n").fetchall()
    assert [value for (value,) in found] == wanted


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("in_networks(address, '10.0.0.0/33')", "'10.0.0.0/33' does not appear to be an IPv4 or IPv6 network"),
        ("in_networks(address, '10.0.0.1/8')", "10.0.0.1/8 has host bits set"),
        ("in_networks(address, ' ')", "no network, expected in_networks"),
        ("in_networks(address)", "has 1 arguments"),
        ("in_networks(lower(address), '10.0.0.0/8')", "is not of a column and a constant"),
        ("in_networks('10.0.0.1', '10.0.0.0/8')", "is not of a column and a constant"),
    ],
)
def test_mistakes_say_what_is_expected(text: str, problem: str) -> None:
    tree = parse(text)
    assert not isinstance(tree, Problem)
    _, found = typed(tree, resolve)
    assert len(found) == 1
    assert problem in found[0].text


def resolve(name: str) -> Node:
    return column(name, "varchar")
