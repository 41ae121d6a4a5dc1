"""An agent books a table, but its answer leaves out the confirmation code: the answer is made
anew, the booking is not.

Needs `pip install 'recov-graph[agents]'`. With a real model: RECOV_GRAPH_CHAT=gpt-5-mini
OPENAI_API_KEY=... python examples/agent.py
"""

from _chat import calls, chat_model
from langchain.agents import create_agent

from recov_graph import Budget, RecoveryMiddleware

BOOKED = []  # what happened to the world


def book_table(restaurant: str, people: int) -> str:
    """Book a table for tonight."""
    BOOKED.append(f"T-{4821 + len(BOOKED)}")
    print(f"the tool runs: {restaurant}, {people} people, {BOOKED[-1]}")
    return f"Booked. The confirmation code is {BOOKED[-1]}."


def tells_the_code(text):
    """The verifier: the guest is told the code of the last booking."""
    return bool(BOOKED) and BOOKED[-1] in text


recovery = RecoveryMiddleware(
    tells_the_code,
    budget=Budget(max_attempts=4),
    seed=0,
)
model = chat_model(
    [
        calls("book_table", restaurant="Luigi", people=4),
        "Your table is booked, enjoy your evening!",
        "Luigi expects the four of you tonight. Your code is T-4821.",
    ]
)
agent = create_agent(model, [book_table], middleware=[recovery])
question = "Book a table for 4 at Luigi tonight, and tell me the confirmation code."
result = agent.invoke({"messages": [("user", question)]})

for attempt in result["recovery"]["attempts"]:
    print(f"{attempt['operator']:10} {attempt['verdict']['value']:7} {attempt['text']}")
print("in the conversation:", *(message.type for message in result["messages"]))
print(f"bookings made: {len(BOOKED)}")
print(f"{result['recovery']['stop_reason']}: {result['messages'][-1].text}")
