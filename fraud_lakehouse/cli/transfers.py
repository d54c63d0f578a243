"""fraud-lakehouse validate: transfers that wait for the validator."""

from __future__ import annotations

import typer


def validate() -> None:
    """Send the transfers that wait to the validator (FRAUD_VALIDATOR_URL) and record its judgements.

    A live cycle does so by itself. Ends with exit code 3 if transfers still wait because the validator gave no answer.
    """
    from fraud_lakehouse.cli.attention import counted
    from fraud_lakehouse.detection.validator import judge_pending
    from fraud_lakehouse.errors import SettingsError, SourceError
    from fraud_lakehouse.failpoints import arm_from
    from fraud_lakehouse.settings import load_settings
    from fraud_lakehouse.storage.lake import Lake

    settings = load_settings()
    if settings.validator_url is None:
        raise SettingsError("FRAUD_VALIDATOR_URL is not set, so there is no validator", "set it (see .env.example)")
    if settings.failpoint:
        arm_from(settings.failpoint)
    judged = judge_pending(settings, Lake.at(settings.lake))
    typer.echo(f"{counted(judged.recorded, 'judgement')} recorded, {counted(judged.waiting, 'transfer')} wait")
    if judged.waiting and judged.problem is not None:
        raise SourceError(judged.problem, "check the validator and FRAUD_VALIDATOR_URL, then run this command again")
