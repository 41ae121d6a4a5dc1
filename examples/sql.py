"""A question answered in SQL: every answer is executed on a small database, and its rows compared.

With a real model: RECOV_GRAPH_CHAT=gpt-5-mini OPENAI_API_KEY=... python examples/sql.py
"""

import re
import sqlite3
import time

from _chat import chat_model

from recov_graph import Budget, create_recovery_graph
from recov_graph.verifiers import Verdict

READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}
ORDERS = [("Oslo", 40, 1), ("Oslo", 25, 0), ("Rome", 90, 1), ("Bern", 10, 1), ("Oslo", 30, 1)]


def allow_reading(action, *_):
    """What the model writes may read the tables and do nothing else."""
    return sqlite3.SQLITE_OK if action in READING else sqlite3.SQLITE_DENY


def rows_of(query):
    """The first rows of a query, in a database of its own; two seconds at most."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE orders (city, euros, paid)")
    database.executemany("INSERT INTO orders VALUES (?, ?, ?)", ORDERS)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
    database.set_authorizer(allow_reading)
    deadline = time.monotonic() + 2
    database.set_progress_handler(lambda: time.monotonic() > deadline, 1000)
    try:
        return database.execute(query).fetchmany(100)
    finally:
        database.close()


def same_rows(problem, text):
    """The verifier."""
    fenced = re.search(r"```(?:sql)?\n(.*?)```", text, re.DOTALL)
    query = (fenced.group(1) if fenced else text).strip()
    try:
        rows = rows_of(query)
    except (sqlite3.Error, sqlite3.Warning) as error:
        return Verdict("failed", answer=query, explanation=f"SQLite says: {error}")
    right = [list(row) for row in rows] == problem.answer
    return Verdict("passed" if right else "failed", answer=query, explanation=f"rows {rows}")


model = chat_model(
    [
        "SELECT city, SUM(euros) FROM orders GROUP BY city",
        "SELECT city, SUM(euros) FROM orders WHERE payed GROUP BY city",
        "```sql\nSELECT city, SUM(euros) AS total FROM orders WHERE paid = 1\n"
        "GROUP BY city ORDER BY total DESC\n```",
    ]
)
graph = create_recovery_graph(
    model,
    same_rows,
    samples=1,
    budget=Budget(max_attempts=6),
    max_new_tokens=4000,  # enough for a model that reasons
    seed=0,
)
prompt = (
    "SQLite has the table orders(city, euros, paid), where paid is 0 or 1. Write one query, no "
    "more: the sum of paid euros for each city, largest first."
)
problem = {"prompt": prompt, "answer": [["Rome", 90], ["Oslo", 70], ["Bern", 10]]}
result = graph.invoke({"problem": problem})

for attempt in result["attempts"]:
    verdict = attempt["verdict"]
    print(f"{attempt['operator']:10} {verdict['value']:7} {verdict['explanation']}")
if result["error"]:
    print(result["error"])
print(f"{result['stop_reason']}; best so far:\n{result['answer']}")
