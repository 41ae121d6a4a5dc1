"""The verifier for programs: python_test, which runs an output's code against tests."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from recov_graph.errors import InvalidInputError
from recov_graph.problem import Problem
from recov_graph.verifiers.extract import fenced_block
from recov_graph.verifiers.verdict import (
    Check,
    UnscorableError,
    Verdict,
    Verifier,
    positive,
)
from recov_graph.words import short

PROGRAM = Path(__file__).with_name("run_tests.py")
FILE_BYTES = 10_000_000
TAIL_BYTES = 1000
# What an interpreter may need to start at all; everything else in the environment stays here.
KEPT = ("LD_LIBRARY_PATH", "SYSTEMROOT")


def python_test(
    *, tests: str | None = None, seconds: float = 10.0, memory_mb: float = 512
) -> Verifier:
    """A verifier: the output's Python code passes tests, in a process of its own.

    The code is the last block fenced as Python, else the whole output. It runs first, as a module
    (`__name__` is not "__main__"), then the test code in the same namespace, as "__main__"; last,
    the functions `test_*()` that the test code defines. Passed means that the end was reached, or
    that `unittest.main()` in the tests was content; ending early, by `sys.exit(0)` too, is failed.
    So are too much time and too much memory.
    Unscored are tests that are no Python, and a process that does not start.

    The process has an empty temporary folder, no input, no environment variables of ours, and may
    write files of at most 10 MB each, its output included. It and the processes of its group are
    killed at the end.

    This guards against accidents. It is no sandbox: the code runs as the same user, can read that
    user's files and, where the system lets it, the memory and environment of this process, can
    reach the network, fill the disk with many files, escape the kill by starting a session of its
    own, and find the proof of success in the memory of its process. The limits on memory and CPU
    time are for each process, and absent on Windows; on Linux there may be 2,000 processes more
    than the user has, unless that is root. Run hostile code in a container.

    Args:
        tests: the test code; by default the problem's answer.
        seconds: limit on wall-clock time, the start of the interpreter included.
        memory_mb: limit on address space, in megabytes; the interpreter itself needs about 50.

    Raises:
        InvalidInputError: for tests that are no Python, or a limit that is not positive.
    """
    limits = _Limits(positive("seconds", seconds), positive("memory_mb", memory_mb))
    if tests is not None:
        _refuse_broken(tests)

    def check(problem: Problem, text: str) -> Verdict:
        source = problem.answer if tests is None else tests
        if not isinstance(source, str) or not source.strip():
            raise UnscorableError(f"the problem's answer {short(source)} is not test code")
        code = fenced_block(text, ("python", "py", "python3"))
        code = text if code is None else code
        token = secrets.token_hex(16)
        try:
            ending = _run({"code": code, "tests": source, "token": token}, limits)
        except OSError as error:
            raise UnscorableError(f"the test process could not be started: {error}") from error
        fault = _fault(ending, token, limits)
        if fault is None:
            return Verdict("passed", answer=code, explanation="the tests passed")
        return Verdict("failed", answer=code, explanation=f"{fault}\n{ending.tail}".strip())

    return Check("python_test", check)


def _refuse_broken(tests: str) -> None:
    try:
        compile(tests, "<tests>", "exec", dont_inherit=True)
    except (SyntaxError, TypeError, ValueError) as error:
        raise InvalidInputError(f"tests={short(tests)} is not Python: {error}") from None


@dataclass(frozen=True)
class _Limits:
    seconds: float
    memory_mb: float

    def for_process(self) -> dict[str, int]:
        """The limits the process sets itself; the wall clock stops it before CPU time does."""
        memory = int(self.memory_mb * 1_000_000)
        return {"cpu": math.ceil(self.seconds) + 1, "memory": memory, "file": FILE_BYTES}


@dataclass(frozen=True)
class _Ending:
    exit_code: int | None  # None after a time-out
    reports: list[str]
    output_bytes: int
    tail: str


def _run(job: dict[str, str], limits: _Limits) -> _Ending:
    """Runs the job in a process and waits for its end.

    Raises:
        OSError: where the process cannot be started.
    """
    # Nameless files, unlike pipes, need nobody to drain them and obey the limit on file size.
    with (
        tempfile.TemporaryDirectory(prefix="recov-graph-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as order,
        tempfile.TemporaryFile() as channel,
        tempfile.TemporaryFile() as output,
    ):
        order.write(json.dumps(job | limits.for_process()).encode())
        order.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", str(PROGRAM)],
            stdin=order,
            stdout=channel,
            stderr=output,
            cwd=folder,
            env=_environment(folder),
            start_new_session=True,
        )
        exit_code = _wait(process, limits.seconds)
        channel.seek(0)
        reports = channel.read(10_000).decode(errors="replace").splitlines()
        return _Ending(exit_code, reports, *_size_and_tail(output))


def _environment(folder: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    # One thread: the arrays that BLAS reserves for each would count as memory used.
    own = {"OPENBLAS_NUM_THREADS": "1", "HOME": folder, "TMPDIR": folder, "PATH": os.defpath}
    return kept | own


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The exit code, None after a time-out; nothing of the process group is left either way."""
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if sys.platform == "win32":
            process.kill()
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _size_and_tail(output: BinaryIO) -> tuple[int, str]:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - TAIL_BYTES))
    return size, output.read(TAIL_BYTES).decode(errors="replace").strip()


def _fault(ending: _Ending, token: str, limits: _Limits) -> str | None:
    """Why the code failed, None where it passed.

    Raises:
        UnscorableError: where it did not come to run.
    """
    if not ending.reports:
        raise UnscorableError(
            f"the test process did not start (limit {limits.seconds:g} s): {ending.tail}"
        )
    if ending.reports[0].startswith("broken "):
        raise UnscorableError(f"the tests are not Python: {ending.reports[0][7:]}")
    if ending.exit_code is None:
        return f"out of time (limit {limits.seconds:g} s)"
    if f"{token} memory" in ending.reports:
        return f"out of memory (limit {limits.memory_mb:g} MB)"
    if ending.exit_code < 0:
        return f"killed by signal: {signal.strsignal(-ending.exit_code)}"
    if ending.exit_code == 0:
        proved = f"{token} passed" in ending.reports
        return None if proved else "ended with exit code 0 before the tests had finished"
    if ending.output_bytes >= FILE_BYTES:
        return f"more than {FILE_BYTES // 1_000_000} MB of output"
    return f"exit code {ending.exit_code}"
