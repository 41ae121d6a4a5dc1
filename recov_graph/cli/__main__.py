"""So that ``python -m recov_graph.cli`` works without the script being installed."""

from recov_graph.cli import main

main()
