"""An intervention of your own in a class: where 80*68 fails, ask for 68*80."""

from recov_graph import create_recovery_graph
from recov_graph.interventions import Attempt
from recov_graph.models import Capability


class Swap:
    name = "swap"
    needs = frozenset({Capability.SAMPLE})

    def expected_cost(self, lengths):
        return lengths.prompt + lengths.completion

    def apply(self, failure, model):
        left, right = failure.problem.prompt.rstrip("?").split("*")
        decoding = {"temperature": failure.temperature, "max_tokens": failure.max_tokens}
        drawn = model.sample(f"{right}*{left}?", seed=failure.seed, **decoding)
        return Attempt(drawn.rollouts[0], {"asked": f"{right}*{left}"})


graph = create_recovery_graph("embedded", "numeric", interventions=["retry", Swap()], seed=0)
result = graph.invoke({"problem": {"prompt": "80*68?", "answer": 5440, "task": "product"}})
for attempt in result["attempts"]:
    print(attempt["operator"], attempt["verdict"]["value"], attempt["text"], attempt["details"])
print(f"{result['stop_reason']}: {result['answer']}")
