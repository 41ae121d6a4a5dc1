"""A product that the embedded pair fails at first: watch it be measured, routed and rescued."""

from recov_graph import Budget, create_recovery_graph

graph = create_recovery_graph("embedded", "numeric", budget=Budget(max_attempts=12), seed=0)
problem = {"id": "product-3-026", "prompt": "68*26?", "answer": 1768, "task": "product"}

for mode, event in graph.stream({"problem": problem}, stream_mode=["custom", "values"]):
    if mode == "values":
        result = event
    elif event["type"] == "attempt":
        print(f"{event['operator']:20} {event['verdict']['value']:9} {event['text']}")
    elif event["type"] == "decision":
        print(f"  {event['reason']}")

print(f"{result['stop_reason']}: {result['answer']} for {result['usage']['tokens']} tokens")
