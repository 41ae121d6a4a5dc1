"""The command line. Heavy imports happen inside the commands, so that --help is quick."""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

import click

from recov_graph.cli.bring import import_
from recov_graph.cli.doctoring import doctor
from recov_graph.cli.exporting import export
from recov_graph.cli.learn import evaluate
from recov_graph.cli.merging import merge
from recov_graph.cli.plotting import plot
from recov_graph.cli.policy import policy
from recov_graph.cli.recording import record
from recov_graph.cli.refitting import refit
from recov_graph.cli.reporting import report
from recov_graph.cli.running import demo, run
from recov_graph.cli.showing import features, show
from recov_graph.cli.watching import watch
from recov_graph.errors import RecovGraphError
from recov_graph.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="recov-graph")
def cli() -> None:
    """Route failed LLM attempts to the intervention that can rescue them, or stop."""


for _command in (
    demo,
    run,
    doctor,
    show,
    watch,
    report,
    plot,
    export,
    merge,
    features,
    record,
    evaluate,
    refit,
    policy,
    import_,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line; our own errors end it with one line and exit code 2."""
    # The embedded pair's matrices are small: more threads only wait for one another. To be set
    # before numpy is imported, which only commands do.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if sys.stdout is None:  # closed by who started us
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    try:
        sys.exit(cli(standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        click.echo("Aborted.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        _complain(error.format_message())
    except RecovGraphError as error:
        _complain(str(error))
    except BrokenPipeError:  # whoever read has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)
    except OSError as error:
        _complain(str(error))
    except Exception:  # a fault of ours; what a traceback quotes may hold terminal escapes
        click.echo(_printable(traceback.format_exc()), err=True, nl=False)
        sys.exit(1)


def _complain(message: str) -> NoReturn:
    """End with one line; what it quotes may hold terminal escapes."""
    line = " ".join(message.split())
    click.echo(f"Error: {_printable(line)}", err=True)
    sys.exit(2)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
