"""Plain functions from asynchronous code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any, TypeVar

Result = TypeVar("Result")


async def in_own_thread(
    context: Context, function: Callable[..., Result], *arguments: Any
) -> Result:
    """What a function gives that waits for calls on this event loop.

    It has a thread of its own: one of the event loop's pool would wait for calls that may need
    another of that pool, and enough of these at a time wait for ever.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="recov-graph")
    try:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(thread, context.run, function, *arguments)
    finally:
        thread.shutdown(wait=False)
