"""Interventions: bounded ways to make another attempt at a failed problem."""

from recov_graph.interventions.base import Attempt, Failure, Intervention, Lengths
from recov_graph.interventions.dense_steer import DenseSteer
from recov_graph.interventions.local_temp import LocalTemp
from recov_graph.interventions.registry import register, registered, resolve, unregister
from recov_graph.interventions.retry import Retry
from recov_graph.interventions.sparse_steer import SparseSteer
from recov_graph.interventions.sparse_steer_random import SparseSteerRandom

__all__ = [
    "Attempt",
    "DenseSteer",
    "Failure",
    "Intervention",
    "Lengths",
    "LocalTemp",
    "Retry",
    "SparseSteer",
    "SparseSteerRandom",
    "register",
    "registered",
    "resolve",
    "unregister",
]
