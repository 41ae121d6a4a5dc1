"""Problems from a file go through the graph into a trace store, and a policy is learned from them.

The same on the command line: `recov-graph run FILE --verifier numeric`, then `recov-graph refit`.
With another model: give its name, or a ChatOpenAI, in the place of "embedded".
"""

import json
import tempfile
from pathlib import Path

from recov_graph import TraceStore, create_recovery_graph
from recov_graph.models.embedded import bundled_problems
from recov_graph.problem import read_problems
from recov_graph.refit import refit
from recov_graph.routing import default_policy


def expected(rescue):
    """How often an operator is expected to rescue a failure."""
    return rescue.alpha / (rescue.alpha + rescue.beta)


shipped = default_policy()
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "problems.jsonl")
    with file.open("w", encoding="utf-8") as lines:
        for one in bundled_problems()[:24]:
            fields = {"id": one.id, "prompt": one.prompt, "answer": one.answer, "task": one.task}
            lines.write(json.dumps(fields) + "\n")

    with TraceStore(Path(folder, "traces.db")) as store:
        graph = create_recovery_graph("embedded", "numeric", router=shipped, store=store, seed=0)
        results = [graph.invoke({"problem": dict(one)}) for one in read_problems(file)]
        made = refit(store, shipped)

    failed = [result for result in results if result["route"]]
    rescued = sum(result["solved"] for result in failed)
    print(f"{len(results)} problems, {len(failed)} failed at first, {rescued} rescued")
    for cell, (problems, attempts, rescues) in made.cells.items():
        print(f"{cell}: {problems} failures, {attempts:.0f} attempts, {rescues:.0f} rescues")
    for operator, learned in made.policy.rescue.items():
        before = shipped.rescue[operator]
        if learned != before:
            change = f"{expected(before):.0%} -> {expected(learned):.0%}"
            print(f"{operator}: {change}, tried on {learned.problems} failures")

    made.policy.save(Path(folder, "policy.json"))  # router="policy.json" would use it
    print(f"gate {'passed' if made.verdict.passed else 'not passed'}: {made.verdict.why}")
