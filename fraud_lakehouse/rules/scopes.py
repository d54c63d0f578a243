"""Scopes of the streams that the pipeline folder declares."""

from __future__ import annotations

from fraud_lakehouse.features.arrival import ARRIVAL
from fraud_lakehouse.features.catalogue import Catalogue
from fraud_lakehouse.features.measured import amount_measure
from fraud_lakehouse.features.requested import LARGEST_EXACT_AMOUNT
from fraud_lakehouse.features.streams import PaymentStream
from fraud_lakehouse.rules.scope import FACTS, Scope


def scopes_of(catalogue: Catalogue | None, max_amount: float) -> dict[str, Scope]:
    """What rules see of each declared stream, by name.

    Args:
        catalogue: the features; None: there is no stream.
        max_amount: the limit of amounts for streams without one of their own (FRAUD_MAX_AMOUNT).
    """
    streams = catalogue.streams if catalogue is not None else {}
    return {
        name: _scope(stream, catalogue, max_amount)
        for name, stream in streams.items()
        if stream.is_declared and catalogue is not None
    }


def _scope(stream: PaymentStream, catalogue: Catalogue, max_amount: float) -> Scope:
    features = catalogue.of_table(stream.vectors)
    delayed = {one.name for one in features if one.delay is not None}
    delayed |= {one.name for one in features if delayed & {*catalogue.needed(one)["uses"]}}
    arrival = [one for one in catalogue.of_table(stream.features) if one.past in ARRIVAL]
    return Scope(
        name=stream.name,
        kind=stream.kind,
        entities={
            name: tuple(entity.key)
            for name, entity in sorted(stream.entities.items(), key=lambda item: item[0] != stream.entity)
        },
        columns=own_columns(stream, stream.max_amount if stream.max_amount is not None else max_amount),
        features={one.name: one.data_type for one in [*arrival, *features] if one.name not in delayed},
        vectors={one.name: one.data_type for one in features},
        delayed=frozenset(delayed),
        measures={name: one.decimals is not None for name, one in stream.measures.items()},
        delayed_measures=frozenset(name for name, one in stream.measures.items() if one.delay is not None),
        amount=amount_measure(stream),
        label=stream.label,
    )


def own_columns(stream: PaymentStream, max_amount: float) -> dict[str, str]:
    """The columns of a stream's payments that rules see, with their types; an empty text where it is not known yet.

    Those of a database's table are the captured ones, or before it is captured those that streams.yml names. `user_id`
    is there whatever the stream: null where it has none. `max_amount` is a whole number where the limit is one.
    """
    keys = [column for entity in stream.entities.values() for column in entity.key]
    label = [stream.label] if stream.label is not None else []
    named = {"user_id": "bigint"} | dict.fromkeys([stream.id, *keys, *label], "") | stream.fields
    limit = min(float(max_amount), LARGEST_EXACT_AMOUNT)
    return {
        **named,
        stream.time: "timestamp",
        stream.amount: "double",
        **FACTS,
        "max_amount": "bigint" if limit.is_integer() else "double",
        "amount": "double",
        "event_time": "timestamp",
    }
