"""A Python function written by a model: every answer runs against tests, in a process of its own.

With a real model: RECOV_GRAPH_CHAT=gpt-5-mini OPENAI_API_KEY=... python examples/python_code.py
"""

from _chat import chat_model

from recov_graph import Budget, create_recovery_graph

FIRST = """```python
def median(numbers):
    return sorted(numbers)[len(numbers) // 2]
```"""
RIGHT = """```python
def median(numbers):
    ordered, middle = sorted(numbers), len(numbers) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
```"""
TESTS = """
def test_odd():
    assert median([9, 1, 5]) == 5

def test_even():
    assert median([4, 1, 2, 3]) == 2.5, median([4, 1, 2, 3])
"""

graph = create_recovery_graph(
    chat_model([FIRST, RIGHT]),
    "python_test:10",  # seconds; a guard against accidents, not a sandbox
    samples=1,
    budget=Budget(max_attempts=6),
    max_new_tokens=4000,  # enough for a model that reasons
    seed=0,
)
prompt = "Write a Python function median(numbers) without imports. Nothing but one code block."
result = graph.invoke({"problem": {"prompt": prompt, "answer": TESTS}})

for attempt in result["attempts"]:
    verdict = attempt["verdict"]
    last_line = verdict["explanation"].splitlines()[-1]
    print(f"{attempt['operator']:10} {verdict['value']:7} {last_line}")
if result["error"]:
    print(result["error"])
print(f"{result['stop_reason']}; best so far:\n{result['answer']}")
