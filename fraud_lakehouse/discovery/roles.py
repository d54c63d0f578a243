"""Which columns of a table or topic could be a payment's id, time, amount, entities and label, and why.

Based on names, types, keys and counts. A score estimates how much the rows look like payments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from fraud_lakehouse.discovery.facts import Column
from fraud_lakehouse.discovery.json_fields import words_of

IS_STREAM = 8
"""Minimum score of rows proposed as payments."""

IS_CANDIDATE = 6
"""Minimum score of rows proposed in a comment."""

_MOST_ENTITIES = 5
_UNIQUE = 0.95  # share of sampled records with a unique id; the others may have been sent twice
_PAYMENT = re.compile(
    r"(^|_)(payments?|transactions?|trans|txns?|tx|transfers?|wires?|orders?|purchases?|charges?|invoices?|sales?"
    r"|checkouts?|deposits?|withdrawals?|settlements?|refunds?|payouts?|bets?|topups?|history|ledger|postings?)(_|$)"
)
_STRONG_AMOUNT = re.compile(r"(^|_)(amount|amt|total|sum|paid)(_|$)|^value$")
_WEAK_AMOUNT = re.compile(r"(^|_)(price|cost|fee|value|delta|gross|net|charge)(_|$)")
_NO_AMOUNT = re.compile(
    r"(^|_)(balance|rate|percent|pct|ratio|quantity|qty|count|lat|long?|latitude|longitude|score|weight|discount|tax"
    r"|salary|limit|age|year|days|hours|minutes|seconds|version|zip|zipcode|number|no|num|id)(_|$)"
)
_EVENT_TIME = re.compile(
    r"(^|_)(created|paid|payment|transaction|trans|txn|transfer|order|ordered|placed|purchased?|received|occurred"
    r"|event|posted|booked|captured|authori[sz]ed|completed|processed|timestamp|mtime|ts|sent|executed)(_|$)"
    r"|^(time|date|datetime|at|when)$"
)
_NO_EVENT_TIME = re.compile(
    r"(^|_)(updated|modified|changed|last|deleted|expires?|expiry|expired|expiration|birth|birthday|birthdate|dob"
    r"|registered|registration|joined|due|valid|start|started|end|ended|until|from|to|shipped|delivered|returned)(_|$)"
)
_ENTITIES = (
    (6, re.compile(r"(^|_)(user|customer|client|member|cardholder|holder|buyer|person|owner)$")),
    (5, re.compile(r"(^|_)(account|acct|sender|payer|debtor|card|cc|pan|iban|wallet)$")),
    (3, re.compile(r"(^|_)(receiver|payee|beneficiary|creditor|recipient|merchant|seller|vendor|shop|store)$")),
    (2, re.compile(r"(^|_)(device|ip|ip_address|phone|email|terminal|bank)$")),
    (1, re.compile(r"(^|_)(category|mcc)$")),
)
"""By rank, suffixes of names without _id."""
_OTHER_SIDE = re.compile(r"(^|_)(receiver|payee|beneficiary|creditor|recipient|to)_")
_NAMED_AFTER_ID = re.compile(r"(^|_)(id|uuid|guid|num|number|no|nr|key|ref|reference|code|last4)$")
_NO_ENTITY = re.compile(r"(^|_)(status|state|type|kind|currency|note|comment|description|evaluation|message|version)$")
_ID = re.compile(r"(^|_)(id|uuid|guid|num|number|no|ref|reference|key)$")
_LABEL = re.compile(r"^(is_?)?(fraud|fraudulent|chargeback|charged_back|disputed)(_flag|_label)?$")
_CURRENCY = re.compile(r"(^|_)(currency|ccy|curr?)(_(code|iso))?$")
_OF_FEATURES = {"transaction_id", "event_time", "amount"}  # columns that a stream's features add


@dataclass(frozen=True)
class Choice:
    """A candidate column for a role, with the reason and a rank (the highest is proposed)."""

    column: Column
    why: str
    rank: int = 0


@dataclass(frozen=True)
class EntityChoice(Choice):
    """A column that could identify an entity, and the entity's name."""

    name: str = ""


@dataclass
class Roles:
    """Candidates for each role, best first.

    Args:
        missing: what the rows lack to be a stream.
    """

    id: list[Choice] = field(default_factory=list)
    time: list[Choice] = field(default_factory=list)
    amount: list[Choice] = field(default_factory=list)
    entities: list[EntityChoice] = field(default_factory=list)
    label: list[Choice] = field(default_factory=list)
    currency: list[Column] = field(default_factory=list)
    score: int = 0
    missing: list[str] = field(default_factory=list)

    @property
    def has_all(self) -> bool:
        """Whether there is a column for each required role."""
        return bool(self.id and self.time and self.amount and self.entities)


def roles_of_table(name: str, columns: Sequence[Column], key: Sequence[str]) -> Roles:
    """The roles of a table's columns.

    Args:
        key: the columns of its primary key.
    """
    roles = Roles()
    if len(key) == 1:
        found = [column for column in columns if column.name == key[0]]
        roles.id = [Choice(column, "the primary key") for column in found if column.is_bare]
        if not roles.id:
            roles.missing.append(f"its key {key[0]} needs quotes in SQL")
    elif len(key) > 1:
        roles.missing.append(f"its key has {len(key)} columns ({', '.join(key)}), and a stream needs a key of one")
    else:
        roles.missing.append("it has no primary key")
    return _completed(roles, name, columns)


def roles_of_topic(name: str, columns: Sequence[Column]) -> Roles:
    """The roles of a topic's fields; the id is guessed from names and counts."""
    roles = Roles()
    for column in columns:
        words = words_of(column.name)
        sample = column.sample
        if column.kind not in ("text", "number") or column.nullable or not _ID.search(words):
            continue
        if sample.distinct < _UNIQUE * sample.rows:
            continue
        rank = 4 * bool(_PAYMENT.search(words)) + 3 * (words in ("id", "uuid", "event_id", "message_id"))
        rank -= 4 * bool(_named(words))
        why = f"named like an id, with {sample.distinct} values in {sample.rows} sampled records"
        roles.id.append(Choice(column, why, rank))
    roles.id.sort(key=_best)
    if not roles.id:
        roles.missing.append("no field is named like an id and different in all sampled records")
    return _completed(roles, name, columns)


def _best(choice: Choice) -> int:
    return -choice.rank


def _completed(roles: Roles, name: str, columns: Sequence[Column]) -> Roles:
    usable = [column for column in columns if column.is_bare]
    own = roles.id[0].column.name if roles.id else ""
    roles.time = sorted(filter(None, map(_time, usable)), key=_best)
    roles.amount = sorted(filter(None, (_amount(column) for column in usable if column.name != own)), key=_best)
    used = {own, *(chosen[0].column.name for chosen in (roles.time, roles.amount) if chosen)}
    roles.entities = _entities([column for column in usable if column.name not in used])
    roles.label = [
        Choice(column, "named like a label" + (", 0 or 1 in the sample" if column.kind == "number" else ""))
        for column in usable
        if _LABEL.search(words_of(column.name))
        and (column.kind == "flag" or (column.kind == "number" and column.sample.are_flags))
    ]
    roles.currency = [one for one in usable if one.kind == "text" and _CURRENCY.search(words_of(one.name))]
    wanted = (("time", roles.time), ("amount", roles.amount), ("entity", roles.entities))
    roles.missing += [f"no column looks like its {role}" for role, found in wanted if not found]
    roles.score = _score(roles, name)
    return roles


def _score(roles: Roles, name: str) -> int:
    """How much the rows look like payments; 0 without an amount, a time and an entity."""
    if not (roles.time and roles.amount and roles.entities):
        return 0
    entity = max(choice.rank for choice in roles.entities)
    person = 3 if entity >= 50 else 2 if entity >= 30 else 1
    named = 3 * bool(_PAYMENT.search(words_of(name)))
    return min(4, roles.amount[0].rank // 10) + min(3, roles.time[0].rank // 10) + person + named


def _amount(column: Column) -> Choice | None:
    words = words_of(column.name)
    if column.kind not in ("money", "number") or column.reference is not None:
        return None
    is_strong, is_weak = bool(_STRONG_AMOUNT.search(words)), bool(_WEAK_AMOUNT.search(words))
    if _NO_AMOUNT.search(words) and not is_strong:
        return None
    if is_strong:
        rank = 40 + 3 * bool(re.search(r"amount|amt", words)) + bool(re.search("paid|grand|total", words))
        rank -= 5 * bool(_NO_AMOUNT.search(words))
    elif is_weak:
        rank = 30 if words == "delta" else 20
    elif column.kind == "money":
        rank = 10
    else:
        return None
    rank += (column.kind == "money") - column.nullable
    why = "named like an amount" if rank >= 20 else "a number with decimals, though not named like an amount"
    return Choice(column, f"{column.type}, {why}", rank)


def _time(column: Column) -> Choice | None:
    words = words_of(column.name)
    if column.kind not in ("time", "zoned"):
        return None
    if _NO_EVENT_TIME.search(words):
        return Choice(column, f"{column.type}, but named like a time of something else", 1 - column.nullable)
    is_named = bool(_EVENT_TIME.search(words))
    rank = (30 if is_named else 15) + 2 * bool(_PAYMENT.search(words)) + (column.kind == "zoned") - 4 * column.nullable
    if re.search("created|placed|occurred|event", words):
        rank += 1
    why = "named like the time of an event" if is_named else "a time"
    return Choice(column, f"{column.type}, {why}" + (", may be null" if column.nullable else ""), rank)


def _entities(columns: Sequence[Column]) -> list[EntityChoice]:
    found: list[EntityChoice] = []
    names: set[str] = set()
    for column in columns:
        words = words_of(column.name)
        if column.kind not in ("text", "number") or _NO_ENTITY.search(words) or _LABEL.search(words):
            continue
        if column.name.lower() in _OF_FEATURES:
            continue
        named = _named(words)
        pointed = _named(_singular(words_of(column.reference.table[1]))) if column.reference else 0
        is_id = bool(_NAMED_AFTER_ID.search(words))
        if not (column.reference or (named and (is_id or column.kind == "text")) or (is_id and _repeats(column))):
            continue
        rank = 10 * max(named, pointed, 1 if column.reference else 0) + 3 * bool(column.reference) + 2 * is_id
        rank -= 2 * column.nullable
        if column.unique or column.sample.is_unique or column.sample.is_constant:
            rank -= 70
        found.append(EntityChoice(column, _reason(column, named), rank, entity_name(column)))
    found.sort(key=_best)
    result = []
    for choice in found:
        name, number = choice.name, 2
        while name in names:
            name, number = f"{choice.name[:37]}_{number}", number + 1
        names.add(name)
        result.append(EntityChoice(choice.column, choice.why, choice.rank, name))
    return result


def split_entities(entities: Sequence[EntityChoice]) -> tuple[list[EntityChoice], list[EntityChoice]]:
    """The proposed ones, and the alternatives for comments; the first is always proposed."""
    good = [one for index, one in enumerate(entities) if index == 0 or one.rank > 0][:_MOST_ENTITIES]
    return good, [one for one in entities if one not in good]


def _named(words: str) -> int:
    """How likely a name is that of the payer; 0 if it is not."""
    stem = _NAMED_AFTER_ID.sub("", words)
    rank = next((rank for rank, pattern in _ENTITIES if pattern.search(stem)), 0)
    return min(rank, 3) if _OTHER_SIDE.search(words) else rank


def is_worth_sampling(column: Column) -> bool:
    """Whether the column could be an entity or a label, so that counts of its values matter."""
    words = words_of(column.name)
    is_named = bool(_NAMED_AFTER_ID.search(words) or _LABEL.search(words))
    is_named |= _named(words) > 0
    return column.is_bare and column.kind in ("number", "text", "flag") and (is_named or column.reference is not None)


def _repeats(column: Column) -> bool:
    return 0 < column.sample.distinct < column.sample.filled


def _reason(column: Column, named: int) -> str:
    parts = []
    if column.reference is not None:
        how = "refers to" if column.reference.enforced else "by its name, refers to"
        parts.append(f"{how} {'.'.join(column.reference.table).removeprefix('public.')}")
    elif named:
        parts.append("named like an entity")
    else:
        parts.append("named like an id of something else")
    sample = column.sample
    if sample.distinct:
        parts.append(f"{sample.distinct} values in {sample.filled} sampled rows")
    if column.unique or sample.is_unique:
        parts.append("always different, so there is no history to compare with")
    elif sample.is_constant:
        parts.append("always the same")
    if column.nullable:
        parts.append("may be missing")
    return "; ".join(parts)


def entity_name(column: Column) -> str:
    """The name of the entity that a column identifies: `user` for `user_id`, `account` for a key of `accounts`."""
    words = words_of(column.name)
    stem = _NAMED_AFTER_ID.sub("", words) or words
    if re.search(r"(^|_)(cc|pan)$", stem):
        stem = "card"
    elif stem == words and column.reference is not None:
        stem = _singular(words_of(column.reference.table[1]).rpartition("_")[2])
    stem = stem[:40].strip("_")
    return stem if re.match("[a-z]", stem) else f"entity_{stem}"[:40].strip("_")


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return word[:-3] + "y"
    if re.search("(ch|sh|x|ss)es$", word):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
