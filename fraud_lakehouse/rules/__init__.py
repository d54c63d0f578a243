"""Rules as data: the files `pipeline/rules/*.yml`, one a rule, checked at load and rendered for every engine.

What belongs here: the files, their expressions, which names they may use, and which rules fire on a row of values. What
does not: where the values come from (features/engine, transform), the lake, and what is done with firings.

    scopes = scopes_of(catalogue, settings.max_amount)    # what rules see of each declared stream
    rules = load_rules(pipeline_folder, scopes)           # rules.mistakes: of the files that cannot be used
    rules.requests("card_payments")                       # the features that the engine must compute
    fired_sql(rules.of_stream("card_payments"))           # one SQL expression for all live and shadow rules
    fires_sql(rules.of_stream("card_payments"))           # a condition: whether any of them fires on a row
    evaluator(rules.of_stream("card_payments"))           # the same as a Python function of a row
    run_examples(rules)                                   # what the files' examples get wrong
"""

from fraud_lakehouse.features.requested import FeatureRequest
from fraud_lakehouse.rules.binding import StreamRule, bind
from fraud_lakehouse.rules.examples import run_examples
from fraud_lakehouse.rules.firing import evaluator, fired_sql, fires_sql
from fraud_lakehouse.rules.loading import FOLDER, Rules, load_rules, rules_folder
from fraud_lakehouse.rules.rule import Rule
from fraud_lakehouse.rules.scope import Scope
from fraud_lakehouse.rules.scopes import scopes_of

__all__ = [
    "FOLDER",
    "FeatureRequest",
    "Rule",
    "Rules",
    "Scope",
    "StreamRule",
    "bind",
    "evaluator",
    "fired_sql",
    "fires_sql",
    "load_rules",
    "rules_folder",
    "run_examples",
    "scopes_of",
]
