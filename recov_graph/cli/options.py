"""Options that several commands share, and what they check before any work is done."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from recov_graph.models import Model
    from recov_graph.store.location import Address

BESIDE = ("", "-wal", "-shm", "-journal")  # what SQLite calls the files of a database
DB_HELP = "Trace store; default: $RECOV_GRAPH_DB, storage/traces.db in a checkout, else user data."


class StoreAddress(click.ParamType[Any]):
    """A file as a path, or the address of a PostgreSQL database as it was given."""

    name = "store"

    def convert(self, value: Any, param: Any, ctx: Any) -> Address:
        if isinstance(value, Path):
            return value
        from recov_graph.store.location import is_server

        if is_server(value):
            return str(value)
        if re.match(r"\w{2,}:/", value):  # a disk of Windows has one letter
            scheme = value.partition(":")[0]
            self.fail(f"{scheme}: is not known; name a file, or postgresql://...", param, ctx)
        return Path(value)


db_option = click.option("--db", type=StoreAddress(), metavar="FILE|postgresql://...", help=DB_HELP)
json_option = click.option(
    "--json", "json_out", metavar="OUT|-", help="Write the figures as JSON to a file or stdout."
)
seed_option = click.option(
    "--seed", type=click.IntRange(-(2**63), 2**63 - 1), default=0, show_default=True
)
plain_option = click.option(
    "--plain",
    "bare",
    is_flag=True,
    help="One fact a line, as name=value in ASCII: for logs. No colours, no bar, no tables.",
)
store_text_option = click.option(
    "--store-text",
    type=click.Choice(["full", "hash", "none"]),
    default="full",
    show_default=True,
    help="Whether prompts, answers and outputs reach the trace store.",
)


problems_argument = click.argument(
    "problems", type=click.Path(path_type=Path), metavar="PROBLEMS.jsonl"
)
verifier_option = click.option(
    "--verifier",
    required=True,
    help="exact, numeric[:TOLERANCE], regex, json_schema[:FILE], python_test[:SECONDS] "
    "or python:MODULE:FUNCTION.",
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name a model and its ancestor; `chosen_model` takes them."""
    options = (
        click.option(
            "--model",
            default="embedded",
            show_default=True,
            help="The model: 'embedded', or 'openai:NAME' behind an OpenAI-compatible server.",
        ),
        click.option("--base-url", help="Where 'openai:NAME' is; default: $OPENAI_BASE_URL."),
        click.option("--ancestor", help="The base model it was trained from, as 'openai:NAME'."),
        click.option("--ancestor-base-url", help="Where the ancestor is; default: --base-url."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def chosen_model(
    model: str,
    base_url: str | None,
    ancestor: str | None,
    ancestor_base_url: str | None,
    **options: Any,
) -> Model:
    """The model that the options name; `options` are only for one behind a server."""
    from recov_graph.models import as_model

    servers = {
        "base_url": base_url,
        "ancestor": ancestor,
        "ancestor_base_url": ancestor_base_url,
    }
    return as_model(model, **servers, **(options if model.startswith("openai:") else {}))


def check_writable(path: Path, option: str = "--json", *inputs: Address | None) -> None:
    """Refuse an output file before any work is done for it, and one that is an input or a store."""
    try:
        target = path if path.exists() else path.parent
        legal = not path.is_dir() and path.parent.is_dir() and os.access(target, os.W_OK)
        files = [other for other in inputs if isinstance(other, Path)]
        taken = [Path(f"{other}{end}").resolve() for other in files for end in BESIDE]
        meant = path.resolve()
    except (OSError, RuntimeError):  # a name that is too long, links that lead to one another
        legal = False
    if not legal:
        raise click.BadParameter(f"{path} cannot be written", param_hint=option)
    if meant in taken:
        raise click.BadParameter(
            f"{path} is the problem file or the store, which it would replace; name another",
            param_hint=option,
        )
    if path.is_file():
        from recov_graph.tape import DATABASE

        with path.open("rb") as file:
            if file.read(len(DATABASE)) == DATABASE:
                raise click.BadParameter(f"{path} is a database; name another", param_hint=option)


def write_whole(path: Path, content: bytes, option: str) -> None:
    """Write a file that takes its name once all of it is there."""
    from recov_graph.exporting import whole_file

    try:
        with whole_file(path) as file:
            file.write(content)
    except OSError as error:
        raise unwritable(path, error, option) from None


def unwritable(path: Path | str, error: OSError, option: str) -> click.BadParameter:
    """What to raise where an output turns out not to be writable."""
    why = error.strerror or str(error)
    return click.BadParameter(f"{path} cannot be written: {why}", param_hint=option)


def number(low: float, high: float, *, strict: bool = False) -> click.FloatRange:
    """A number within bounds; unlike click's own it refuses NaN."""
    return _Number(low, high, min_open=strict, max_open=strict)


class _Number(click.FloatRange):
    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        converted = float(super().convert(value, param, ctx))
        if math.isnan(converted):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return converted


interventions_option = click.option(
    "--interventions",
    metavar="NAME,NAME",
    help="What to try; default: what suits what the model can do (see `recov-graph doctor`).",
)


def decoding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How rollouts are drawn."""
    options = (
        click.option("--samples", type=int, default=4, show_default=True, help="First samples."),
        click.option("--temperature", type=number(0.001, 1e6), default=0.6, show_default=True),
        click.option(
            "--max-new-tokens",
            type=int,
            default=160,
            show_default=True,
            help="Longest completion; a model that reasons needs thousands.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def chosen_interventions(
    names: str | None,
    model: Model,
    escalate: str | None = None,
    escalate_base_url: str | None = None,
    escalate_price: float = 1.0,
) -> list[Any] | None:
    """What to choose from, by name, and a stronger model where one is named; None: the default."""
    chosen: list[Any] | None = None
    if names is not None:
        chosen = [name.strip() for name in names.split(",")]
    if escalate is None:
        if escalate_base_url is not None:
            raise click.BadParameter("needs --escalate", param_hint="--escalate-base-url")
        return chosen
    from recov_graph.interventions import Escalate, resolve

    stronger = chosen_model(escalate, escalate_base_url, None, None)
    others = resolve(chosen, model.capabilities).values()
    return [*others, Escalate(stronger, price=escalate_price)]


policy_option = click.option(
    "--policy",
    metavar="REF",
    help="What failures are compared with: a policy's file, hash or name, or 'shipped'; default: "
    "the active policy.",
)


def existing_store(db: Address | None) -> Address:
    """The trace store that is meant, where there is one.

    Raises:
        StoreError: there is none.
    """
    from recov_graph.errors import StoreError
    from recov_graph.store import default_path
    from recov_graph.store.location import is_server

    path = db or default_path()
    try:
        found = is_server(path) or Path(path).is_file()
    except OSError:  # a name that is too long
        found = False
    if not found:
        raise StoreError(f"no trace store at {path}; run `recov-graph demo` first or name one")
    return path
