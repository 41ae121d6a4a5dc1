"""Several processes on one store: no row lost, none doubled, and nobody hears of a busy file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from recov_graph.store.checkup import check_up
from tests.postgres import Server, running
from tests.writers import check_all_there, write_side_by_side

PROCESSES = 8


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "traces.db")
    server: Server = request.getfixturevalue("server")
    return server.database()


@pytest.mark.parametrize(
    ("address", "seconds"),
    [
        ("sqlite", 2),
        pytest.param("postgres", 2, marks=pytest.mark.slow),
        pytest.param("sqlite", 60, marks=pytest.mark.long),
        pytest.param("postgres", 60, marks=pytest.mark.long),
    ],
    indirect=["address"],
)
def test_eight_processes_lose_and_double_nothing(address: str, seconds: int) -> None:
    written = write_side_by_side(address, PROCESSES, seconds)
    assert written.problems > PROCESSES
    check_all_there(address, written)
    assert check_up(address).healthy
    print(
        f"{written.transactions:,} transactions of {PROCESSES} processes in {seconds} s, "
        f"longest problem {written.longest:.2f} s"
    )
