"""Verifiers: functions of a problem and an output that say passed, failed or unscored.

    verifier = as_verifier("numeric:0.01")
    verdict = judge(verifier, problem, "The answer is 3.14")
    verdict.passed

"Unscored" means that the outcome could not be judged: no reference, a broken reference, a crashed
or too slow check. It is never the output's fault and never counts as a failure.
"""

from recov_graph.verifiers.answers import exact, numeric, regex
from recov_graph.verifiers.functions import function
from recov_graph.verifiers.names import VERIFIERS, as_verifier
from recov_graph.verifiers.programs import python_test
from recov_graph.verifiers.schema import json_schema
from recov_graph.verifiers.verdict import Verdict, Verifier, judge

__all__ = [
    "VERIFIERS",
    "Verdict",
    "Verifier",
    "as_verifier",
    "exact",
    "function",
    "json_schema",
    "judge",
    "numeric",
    "python_test",
    "regex",
]
