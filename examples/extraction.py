"""Structured extraction: an invoice as JSON has to fit a schema, and its lines to add up.

With a real model: RECOV_GRAPH_CHAT=gpt-5-mini OPENAI_API_KEY=... python examples/extraction.py
"""

import json
import math

from _chat import calls, chat_model
from langchain_core.exceptions import OutputParserException
from langchain_core.prompts import ChatPromptTemplate

from recov_graph import Budget, with_recovery
from recov_graph.verifiers import Verdict, json_schema

LINE = {
    "type": "object",
    "properties": {"what": {"type": "string"}, "euros": {"type": "number", "minimum": 0}},
    "required": ["what", "euros"],
}
INVOICE = {
    "title": "invoice",
    "description": "An invoice.",
    "type": "object",
    "properties": {
        "lines": {"type": "array", "items": LINE, "minItems": 1},
        "total": {"type": "number"},
    },
    "required": ["lines", "total"],
}
fits = json_schema(schema=INVOICE)


def fits_and_adds_up(problem, text):
    """The verifier; text is what the chain put out, as JSON."""
    verdict = fits(problem, text)
    if not verdict.passed:
        return verdict
    invoice = json.loads(text)
    total = sum(line["euros"] for line in invoice["lines"])
    if math.isclose(total, invoice["total"]):
        return verdict
    return Verdict("failed", answer=text, explanation=f"the lines add up to {total}")


desk, lamp = {"what": "desk", "euros": 210}, {"what": "lamp", "euros": 35}
model = chat_model(
    [
        calls("invoice", lines=[desk, {"what": "lamp", "euros": "35,-"}], total=245),
        calls("invoice", lines=[desk, lamp], total=254),
        calls("invoice", lines=[desk, lamp], total=245),
    ]
)
prompt = ChatPromptTemplate.from_template("Extract the invoice.\n\n{mail}")
chain = prompt | model.with_structured_output(INVOICE)
chain = with_recovery(chain, fits_and_adds_up, budget=Budget(max_attempts=5), seed=0)

try:  # chain.invoke(...) would give the output alone
    output, result = chain.recover(
        {"mail": "One desk 210,- and a lamp 35,-. Please pay 245 euros."}
    )
except OutputParserException as error:
    print(f"stopped; best so far, but no JSON: {error.llm_output}")
else:
    for attempt in result["attempts"]:
        verdict = attempt["verdict"]
        print(f"{attempt['operator']:10} {verdict['value']:7} {verdict['explanation']}")
    print(f"{result['stop_reason']}; best so far: {output}")
