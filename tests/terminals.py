"""Commands run as their users run them: on a terminal of a size, or into a pipe."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import pytest

from recov_graph.cli import main

COMMAND = Path(sys.executable).with_name("recov-graph")
LOOKS = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class OnTerminal:
    """A command of ours on a terminal of its own."""

    def __init__(self, *arguments: Any, columns: int = 80, lines: int = 60, **env: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        given = {**LOOKS, **env}
        kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**kept, **given},
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def until(self, *words: str, seconds: float = 30.0) -> str:
        """All that was seen, once all the words are among it."""
        deadline = time.monotonic() + seconds
        while not all(word in self.text for word in words):
            assert time.monotonic() < deadline, f"no {words} in {self.text!r}"
            if not self._read():
                break
        missing = [word for word in words if word not in self.text]
        assert not missing, f"no {missing} in {self.text!r}"
        return self.text

    def end(self) -> str:
        """All that was seen once it has ended."""
        while self._read():
            pass
        self.process.wait(30)
        os.close(self._ours)
        return self.seen

    @property
    def text(self) -> str:
        """What was seen without its colours."""
        return ESCAPE.sub("", self.seen)

    def _read(self) -> bool:
        try:
            chunk = os.read(self._ours, 65536).decode(errors="replace")
        except OSError:  # Linux says so when the other side is closed
            return False
        self.seen += chunk
        return bool(chunk)


def on_terminal(*arguments: Any, columns: int = 80, **env: str) -> str:
    """What a command prints on a terminal; it runs in this process, which is quicker."""
    ours, theirs = pty.openpty()
    seen: list[bytes] = []
    reader = threading.Thread(target=_drain, args=(ours, seen))
    reader.start()
    size = {"COLUMNS": str(columns), "LINES": "60"}
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        _in_process(terminal, arguments, {**LOOKS, **size, **env})
    reader.join()
    os.close(ours)
    return b"".join(seen).decode()


def into_pipe(*arguments: Any, **env: str) -> str:
    """What a command prints into a pipe; it runs in this process."""
    ours, theirs = os.pipe()
    seen: list[bytes] = []
    reader = threading.Thread(target=_drain, args=(ours, seen))
    reader.start()
    encoding = env.get("PYTHONIOENCODING", "utf-8")
    with os.fdopen(theirs, "w", encoding=encoding) as pipe:
        _in_process(pipe, arguments, {**LOOKS, **env})
    reader.join()
    os.close(ours)
    return b"".join(seen).decode()


def _in_process(stdout: TextIO, arguments: Sequence[Any], env: Mapping[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            patch.delenv(name, raising=False)
        for name, value in env.items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "argv", ["recov-graph", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code


def _drain(descriptor: int, seen: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # Linux says so when the other side is closed
        while chunk := os.read(descriptor, 65536):
            seen.append(chunk)


def bare(text: str) -> str:
    """What was seen, without its colours."""
    return ESCAPE.sub("", text)
