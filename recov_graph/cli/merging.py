"""`merge`: several stores into one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recov_graph.cli.options import StoreAddress, check_writable, json_option, plain_option

if TYPE_CHECKING:
    from recov_graph.merging import Shard
    from recov_graph.store.location import Address


@click.command()
@click.argument("shards", nargs=-1, required=True, metavar="STORE...", type=StoreAddress())
@click.option("--db", type=StoreAddress(), required=True, help="What is merged into.")
@json_option
@plain_option
def merge(shards: tuple[Address, ...], db: Address, json_out: str | None, bare: bool) -> None:
    """Join stores into one: every problem once. Of a damaged one, what can be read.

    The stores that are joined stay as they are; to merge again changes nothing.
    """
    from recov_graph.console.text import console, draws, plain, say
    from recov_graph.merging import merge as join
    from recov_graph.store.location import shown
    from recov_graph.words import count

    if json_out not in (None, "-"):
        check_writable(Path(str(json_out)), "--json", db, *shards)
    quiet = json_out == "-"

    def told(shard: Shard) -> None:
        if quiet:
            return
        if draws(bare):
            console().print(plain(_line(shard)), highlight=False, soft_wrap=True)
        else:
            say("shard", **_facts(shard))

    started = time.monotonic()
    merged = join(shards, db, told)
    seconds = time.monotonic() - started
    taken = sum(shard.new + shard.replaced for shard in merged.shards)
    figures = {
        "shards": [_facts(shard) for shard in merged.shards],
        "taken": taken,
        "problems": merged.problems,
        "salts": merged.salts,
        "seconds": round(seconds, 3),
        "db": shown(db),
    }
    if json_out == "-":
        click.echo(json.dumps(figures, indent=2))
    elif draws(bare):
        said = f"{count(merged.problems, 'problem')} in {shown(db)}, {taken:,} of them taken now"
        console().print(plain(f"{said}, {seconds:.1f} s"), highlight=False, soft_wrap=True)
    else:
        say("merged", **{name: figures[name] for name in figures if name != "shards"})
    if merged.salts > 1 and not quiet:
        click.echo(
            "ids that were hashed (--store-text hash) in one of these stores are not found by "
            "name: each has a salt of its own",
            err=True,
        )
    if json_out not in (None, "-"):
        Path(str(json_out)).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _facts(shard: Shard) -> dict[str, str | int]:
    facts: dict[str, str | int] = {
        "store": shard.source,
        "new": shard.new,
        "replaced": shard.replaced,
        "known": shard.known,
        "half_done": shard.half_done,
    }
    if shard.salvaged is not None:
        facts |= {"dropped": shard.salvaged.dropped, "unreadable": shard.salvaged.unreadable}
    return facts


def _line(shard: Shard) -> str:
    said = f"{shard.source}: {shard.new:,} new, {shard.replaced:,} replaced, "
    said += f"{shard.known:,} already there"
    if shard.half_done:
        said += f"; {shard.half_done:,} of these half done"
    if shard.salvaged is not None:
        said += (
            f"; it is damaged: {shard.salvaged.dropped:,} problems were left out as not all of "
            f"them could be read, and {shard.salvaged.unreadable:,} places not at all"
        )
    return said
