"""A real PostgreSQL server of the test's own, where one is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

DEBIAN = Path("/usr/lib/postgresql")
NUMBERS = count()


class Server:
    """A server on loopback; each database of it is new."""

    def __init__(self, programs: Path, folder: Path, port: int, user: str | None) -> None:
        self.port = port
        self._programs, self._folder, self._user = programs, folder, user
        self._provider = ""

    def start(self) -> None:
        """Begin to serve."""
        options = f"-p {self.port} -h 127.0.0.1 -k '' -c max_connections=60 -c fsync=off"
        self._run("pg_ctl", "start", "-w", "-o", options, "-l", str(self._folder / "log"))

    def stop(self, mode: str = "fast") -> None:
        """End; "immediate": as a crash."""
        self._run("pg_ctl", "stop", "-w", "-m", mode)

    def database(self, encoding: str | None = None) -> str:
        """The address of a new, empty database."""
        name, how = f"db{next(NUMBERS)}", ""
        if encoding is not None:
            how = f"TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C' {self._provider}"
        self.query("postgres", f"CREATE DATABASE {name} {how}")
        return f"postgresql://tester@127.0.0.1:{self.port}/{name}"

    def ask_for_password(self, user: str) -> None:
        """Let somebody in by password only."""
        rules = self._folder / "data" / "pg_hba.conf"
        rules.write_text(f"host all {user} all scram-sha-256\n{rules.read_text()}")
        self._run("pg_ctl", "reload")

    def query(self, database: str, sql: str) -> list[Any]:
        """The rows of a statement."""
        import psycopg

        address = f"postgresql://tester@127.0.0.1:{self.port}/{database}"
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def make(self) -> None:
        """Make its files."""
        said = ("-U", "tester", "-A", "trust", "-E", "UTF8", "--no-sync")
        # In a language that sorts otherwise than SQLite does, where it can be had.
        english = ("--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US")
        try:
            self._run("initdb", *said, *english)
            self._provider = "LOCALE_PROVIDER libc"
        except subprocess.CalledProcessError:
            self._run("initdb", *said, "--locale=C")

    def _run(self, program: str, *arguments: str) -> None:
        data = str(self._folder / "data")
        subprocess.run(
            [str(self._programs / program), "-D", data, *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self._user,
            cwd=self._folder,
        )


def programs() -> Path | None:
    """Where the server's programs are."""
    found = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    named = shutil.which("initdb")
    return Path(named).resolve().parent if named else None


def _other_user() -> str | None:
    """Whom the server runs as: it refuses to be root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


@contextmanager
def running() -> Iterator[Server]:
    """A server while the block lasts; the test is skipped where there can be none."""
    pytest.importorskip("psycopg", reason="needs the extra postgres")
    found = programs()
    if found is None:
        pytest.skip("needs a PostgreSQL server: apt-get install postgresql")
    user = _other_user()
    folder = Path(tempfile.mkdtemp(prefix="recov-graph-postgres-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = Server(found, folder, port, user)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
