"""What the command line prints: on a terminal in colours, into a pipe in full, or bare facts."""

from recov_graph.console.batch import print_next, print_summary, progress
from recov_graph.console.problem import print_problem
from recov_graph.console.runs import print_run, print_runs
from recov_graph.console.text import console, number, plain
from recov_graph.console.watch import watch

__all__ = [
    "console",
    "number",
    "plain",
    "print_next",
    "print_problem",
    "print_run",
    "print_runs",
    "print_summary",
    "progress",
    "watch",
]
