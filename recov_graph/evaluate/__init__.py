"""Equal-budget comparison of policies on recorded outcomes.

A bench holds failed problems with what every operator did on them. Each policy plans its attempts
for problems that it has not learned from, the plans are carried out on the recorded outcomes
within equal budgets, and `evaluate` tells how much each rescues, how sure that is, what is left
of it when operator names are shuffled, and what stopping in time saves.
"""

from recov_graph.evaluate.bench import Bench, bench_of_profiles, bench_of_tape
from recov_graph.evaluate.report import evaluate

__all__ = ["Bench", "bench_of_profiles", "bench_of_tape", "evaluate"]
