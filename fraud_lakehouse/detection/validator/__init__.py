"""The validator of bank transfers: an HTTP service that says of unidentified transfers whether they are fraudulent.

`client.py` is one request, `breaker.py` when to send none, `pending.py` which transfers wait. `judging.py` sends
requests and records answers; `background.py` does so in the live cycle's background worker.
"""

from fraud_lakehouse.detection.validator.background import ValidatorWorker
from fraud_lakehouse.detection.validator.judging import TABLE, Judging, judge_pending
from fraud_lakehouse.detection.validator.state import transfers_status

__all__ = ["TABLE", "Judging", "ValidatorWorker", "judge_pending", "transfers_status"]
