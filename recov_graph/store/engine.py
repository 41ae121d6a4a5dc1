"""What a trace store needs of a database: SQLite is the one that ships, PostgreSQL an extra."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from recov_graph.errors import InvalidInputError
from recov_graph.store.location import is_server, shown
from recov_graph.store.sqlite import SqliteFile


class Engine(Protocol):
    """A database, opened. SQL is that of SQLite; whoever calls holds the store's lock.

    Attributes:
        errors: what it raises; told to users as a `StoreError`, with advice.
        passing: of these, the ones that may pass when all of a transaction is done again.
    """

    errors: tuple[type[Exception], ...]
    passing: tuple[type[Exception], ...]

    @staticmethod
    def advice(error: Exception) -> str: ...

    def close(self) -> None: ...

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> tuple[list[str], list[Any]]: ...

    def stream(
        self, sql: str, parameters: Sequence[Any] = ()
    ) -> AbstractContextManager[Iterator[Any]]: ...

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> None: ...

    def upsert(
        self, table: str, columns: tuple[str, ...], rows: Iterable[Sequence[Any]]
    ) -> None: ...

    def transaction(self, *, durable: bool = False) -> AbstractContextManager[None]: ...

    def recover(self) -> None: ...

    def snapshot(self) -> AbstractContextManager[None]: ...

    def hold(self, name: str) -> AbstractContextManager[bool]: ...

    def version(self) -> int: ...

    def unsettled(self) -> bool: ...

    def schema(self) -> str: ...


def engine_of(address: str) -> type[SqliteFile] | Any:
    """The engine of an address.

    Raises:
        InvalidInputError: it was the address of a server before it was made a path.
        MissingExtraError: it is PostgreSQL, and its driver is not installed.
    """
    if is_server(address):
        from recov_graph.store.postgres import PostgresDatabase

        return PostgresDatabase
    if re.match(r"postgres(ql)?:[/\\]", address):
        raise InvalidInputError(
            f"the store's address is {shown(address)}, as of a path; give it as text, with //"
        )
    return SqliteFile
