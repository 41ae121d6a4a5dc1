"""Interventions: bounded ways to make another attempt at a failed problem."""

from recov_graph.interventions.base import (
    Attempt,
    Failure,
    Intervention,
    Lengths,
    Metered,
    applies,
    fits_all,
)
from recov_graph.interventions.dense_steer import DenseSteer
from recov_graph.interventions.escalate import Escalate
from recov_graph.interventions.extend import Extend
from recov_graph.interventions.local_temp import LocalTemp
from recov_graph.interventions.registry import (
    default_interventions,
    register,
    registered,
    resolve,
    unregister,
)
from recov_graph.interventions.replan import Replan
from recov_graph.interventions.retry import Retry
from recov_graph.interventions.sparse_steer import SparseSteer
from recov_graph.interventions.sparse_steer_random import SparseSteerRandom
from recov_graph.interventions.temp_lift import TempLift

__all__ = [
    "Attempt",
    "DenseSteer",
    "Escalate",
    "Extend",
    "Failure",
    "Intervention",
    "Lengths",
    "LocalTemp",
    "Metered",
    "Replan",
    "Retry",
    "SparseSteer",
    "SparseSteerRandom",
    "TempLift",
    "applies",
    "default_interventions",
    "fits_all",
    "register",
    "registered",
    "resolve",
    "unregister",
]
