"""The chat model of the examples: a scripted one, or the real one that RECOV_GRAPH_CHAT names.

    RECOV_GRAPH_CHAT=gpt-5-mini OPENAI_API_KEY=... python examples/agent.py

OPENAI_BASE_URL leads to any other OpenAI-compatible server.
"""

import os

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool


def chat_model(replies):
    """A model that says these replies in order, unless RECOV_GRAPH_CHAT names a real one."""
    name = os.environ.get("RECOV_GRAPH_CHAT")
    if name:
        from langchain_openai import ChatOpenAI

        return ChatOpenAI(model=name)
    return Scripted(replies=[AIMessage(one) if isinstance(one, str) else one for one in replies])


def calls(tool, **arguments):
    """A reply that calls a tool and says nothing."""
    call = {"name": tool, "args": arguments, "id": f"call-{tool}", "type": "tool_call"}
    return AIMessage("", tool_calls=[call])


class Scripted(BaseChatModel):
    """Says its replies in order, and the last one for ever."""

    replies: list[AIMessage]
    temperature: float | None = None  # so that there is one to vary

    @property
    def _llm_type(self):
        return "scripted"

    def bind_tools(self, tools, **options):
        """As real ones do: a reply may call one of these."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools])

    def _generate(self, messages, stop=None, run_manager=None, **options):
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        read = sum(len(message.text.split()) for message in messages)
        written = len((reply.text or str(reply.tool_calls)).split())
        usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
        reply = reply.model_copy(update={"usage_metadata": usage})
        return ChatResult(generations=[ChatGeneration(message=reply)])
