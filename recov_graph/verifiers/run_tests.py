"""The program that `python_test` starts for each output; it is never imported.

It imports nothing of this package, for it runs under `python -I` in an empty folder.

Standard input: a JSON object with the candidate's `code`, the `tests`, a secret `token` and the
limits `cpu` (seconds), `memory` and `file` (bytes). Standard error: what the code prints, on
either stream. Standard output, in lines: `ready` before the candidate runs, or `broken` and why
where the tests are no Python; then the token and `passed` or `memory` once that is known.
"""

from __future__ import annotations

import ast
import json
import linecache
import os
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path

CANDIDATE, TESTS = "<candidate>", "<tests>"
MORE_TASKS = 2000  # processes and threads, beside those that the user has


def main() -> None:
    """Runs candidate and tests, and ends the process with code 0 only if all tests passed."""
    job = json.load(sys.stdin)
    report = take_over_streams()
    limit(job["cpu"], job["memory"], job["file"])
    try:
        tests = compile(job["tests"], TESTS, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        report(f"broken {type(error).__name__}: {error}")
        return
    report("ready")
    code = 1
    try:
        run(job["code"], tests, job["tests"])
        report(job["token"] + " passed")
        code = 0
    except MemoryError:
        report(job["token"] + " memory")
    except BaseException as error:
        print_failure(error)
    finally:
        end(code)


def take_over_streams() -> Callable[[str], int]:
    """Leaves the candidate no input and one output; returns what writes a line to the parent."""
    channel = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return lambda line: os.write(channel, line.encode(errors="replace") + b"\n")


def limit(cpu: int, memory: int, file: int) -> None:
    """Sets the limits of this process and its children, where the platform has them."""
    try:
        import resource
    except ImportError:
        return
    wanted = {
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: file,
        resource.RLIMIT_CORE: 0,
    }
    # Counted over all that the user runs, so it leaves room beside that. It stops a fork bomb
    # before the machine has no number left for a process; root is not bound by it.
    tasks = most_tasks()
    if tasks is not None:
        wanted[resource.RLIMIT_NPROC] = tasks
    for kind, value in wanted.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def most_tasks() -> int | None:
    """Processes and threads that this user may have; None where it is untold how many there are."""
    here = Path("/proc/self/task").is_dir()
    tasks = Path("/proc").glob("[0-9]*/task/*") if here else ()
    own = os.getuid()
    return sum(owner(task) == own for task in tasks) + MORE_TASKS if here else None


def owner(path: Path) -> int | None:
    """The user that a file is of, None where it is gone."""
    try:
        return path.stat().st_uid
    except OSError:
        return None


def run(code: str, tests: types.CodeType, tests_source: str) -> None:
    """Runs both in one module, then the test functions; raises what they raise."""
    module = types.ModuleType("candidate")
    # Tests that end in `unittest.main()` look for their cases in `__main__`.
    sys.modules["candidate"] = sys.modules["__main__"] = module
    for name, source in ((CANDIDATE, code), (TESTS, tests_source)):
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    try:
        exec(compile(code, CANDIDATE, "exec", dont_inherit=True), module.__dict__)
        module.__name__ = "__main__"
        exec(tests, module.__dict__)
        for name in test_functions(tests_source):
            getattr(module, name)()
    except SystemExit as stop:
        if stop.code or not from_unittest(stop):
            raise


def test_functions(source: str) -> list[str]:
    """The functions `test_*()` that the tests define, in order; unlike pytest, no fixtures."""
    names = [
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and not node.args.args
    ]
    return [name for name in names if name.startswith("test_")]


def from_unittest(stop: SystemExit) -> bool:
    """Whether `unittest.main()` in the tests ended the process; in the candidate it may not."""
    frames = [frame for frame, _ in traceback.walk_tb(stop.__traceback__)]
    if any(frame.f_code.co_filename == CANDIDATE for frame in frames):
        return False
    return frames[-1].f_globals.get("__name__") == "unittest.main"


def print_failure(error: BaseException) -> None:
    """Prints the traceback without the frames of this program."""
    if isinstance(error, SystemExit):
        print(f"stopped by SystemExit({error.code!r})", file=sys.stderr)
        return
    frames = error.__traceback__
    while frames and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    traceback.print_exception(type(error), error, frames)


def end(code: int) -> None:
    """Ends at once, without waiting for threads the candidate left behind."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
