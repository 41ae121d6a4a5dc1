"""What nobody should be able to do with a text: hostile texts, a server that says them, and checks.

A command is run in this process, into a pipe or on a pseudo-terminal, with both of its streams.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

from recov_graph.cli import main

# Each does something, where something takes it for more than a text.
SCRIPTS = (
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=2</script>",
    '"><img src=x onerror="window.hacked=3">',
    "<svg onload=window.hacked=4>",
    '<a href="javascript:window.hacked=5">x</a> [x](javascript:window.hacked=5)',
    "{{constructor.constructor('window.hacked=6')()}} ${7*7} <!-- ]]>",
)
ESCAPES = (
    "\x1b[2J\x1b[31;5;77mred",
    "\x1b]8;;http://evil.invalid\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]52;c;aGFja2Vk\x07",
    "\x9b31;5;77m \x9d52;c;aGFja2Vk\x9c \x7f\x7f",
    "a\rb\x08\x08c\x07\x0e\x1bc",
    "\u202egnp.exe\u202c \u2066x\u2069 \u200b\u2028\u2029",
    "nul \x00 nul",
)
FORMULAS = ('=HYPERLINK("http://evil.invalid")', "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1")
SQL = ("'; DROP TABLE problems; --", '"); DROP TABLE runs; --', "%s %n {0} ?1 $1")
HALF = "half \ud800 of a letter"
LONG = "l" + "o" * 30_000 + "ng"
TEXTS = (*SCRIPTS, *ESCAPES, *FORMULAS, *SQL, LONG)
# What a command of ours may send to a terminal: colours, and moving about for a picture.
OURS = re.compile(r"\x1b\[(\??[0-9]*[hlABCDGHJK]|[0-9;]*m)")
RAW = re.compile("\x1b\\[2J|\x1b\\[31;5;77m|\x1b\\]|\x1bc|[\x9b\x9c\x9d]")


class Said(NamedTuple):
    """How a command ended, and all that it wrote."""

    code: int
    out: str
    err: str


def command(*arguments: Any, terminal: bool = False) -> Said:
    """Run a command in this process; anything but an exit, as an error of ours, is raised."""
    pairs = [pty.openpty() if terminal else os.pipe() for _ in range(2)]
    seen: list[list[bytes]] = [[], []]
    readers = [
        threading.Thread(target=_drain, args=(ours, into))
        for (ours, _), into in zip(pairs, seen, strict=True)
    ]
    for reader in readers:
        reader.start()
    try:
        with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
            for name, (_, theirs) in zip(("stdout", "stderr"), pairs, strict=True):
                stream = stack.enter_context(os.fdopen(theirs, "w", encoding="utf-8"))
                patch.setattr(sys, name, stream)
            for name, value in {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "50"}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["recov-graph", *map(str, arguments)])
            with pytest.raises(SystemExit) as end:
                main()
    finally:
        for reader in readers:
            reader.join(20)
        for ours, _ in pairs:
            os.close(ours)
    out, err = (b"".join(each).decode("utf-8", "surrogateescape") for each in seen)
    return Said(int(end.value.code or 0), out, err)


def _drain(descriptor: int, into: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # Linux says so when the other side is closed
        while chunk := os.read(descriptor, 65536):
            into.append(chunk)


def assert_harmless(said: Said, *, terminal: bool = False) -> None:
    """Nothing was written that a terminal acts on, but for what we draw ourselves."""
    for text in (said.out, said.err):
        found = RAW.search(text)
        assert found is None, text[max(0, found.start() - 80) : found.end() + 40].encode()
        bare = OURS.sub("", text) if terminal else text
        odd = {c for c in bare if not c.isprintable() and c not in ("\n\r" if terminal else "\n")}
        assert not odd, (sorted(odd), text[:2000].encode())
    if said.code == 2:  # refused: one line, whatever it quotes
        lines = [line for line in said.err.splitlines() if "Error: " in line]
        assert len(lines) == 1, said.err
        assert len(lines[0]) < 3000


class Page(HTMLParser):
    """What a browser would take a page for: its elements, and the links and handlers in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


class SayingServer:
    """A chat API on this machine that says texts one after the other, over and over.

    Args:
        texts: of its answers.
        error: with which status each request is refused; None to answer. Can be set later.
        message: the words of a refusal.
        seconds: how long it takes over an answer.
    """

    def __init__(
        self,
        texts: Sequence[str] = ("no",),
        *,
        error: int | None = None,
        message: str = "",
        seconds: float = 0.0,
    ) -> None:
        self.asked: list[dict[str, Any]] = []
        self._texts, self.error, self._message = texts, error, message
        self._seconds = seconds
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(404, {"error": {"message": "there is no such path"}})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self.path.endswith("/chat/completions"):
                    self._send(404, {"error": {"message": "there is no such path"}})
                else:
                    self._send(*outer.answer(body))

            def _send(self, status: int, data: dict[str, Any]) -> None:
                raw = json.dumps(data).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and reply to a request."""
        with self._lock:
            self.asked.append(body)
            place = len(self.asked)
        time.sleep(self._seconds)
        if self.error is not None:
            return self.error, {"error": {"message": self._message, "type": self._message}}
        choices = [
            {
                "index": i,
                "finish_reason": "stop",
                "message": {
                    "role": "assistant",
                    "content": self._texts[(place + i) % len(self._texts)],
                },
            }
            for i in range(body.get("n") or 1)
        ]
        usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        named = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
        return 200, {**named, "choices": choices, "usage": usage}


@contextlib.contextmanager
def saying(*texts: str, **how: Any) -> Iterator[SayingServer]:
    """A `SayingServer` that serves."""
    server = SayingServer(texts or ("no",), **how)
    thread = threading.Thread(target=server._server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server._server.shutdown()
        server._server.server_close()
        thread.join(5)
