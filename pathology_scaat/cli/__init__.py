"""The ``scaat`` command: parse, call, print. What it calls is imported when it is called."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

import typer

from pathology_scaat.cli import (  # noqa: F401  (importing registers)
    evaluate,
    finetune,
    import_model,
    look,
    output,
    report,
    review,
    run,
    settings,
    stages,
    tables,
)
from pathology_scaat.cli.app import app
from pathology_scaat.cli.output import stderr
from pathology_scaat.errors import ScaatError
from pathology_scaat.system.disk_errors import disk_error
from pathology_scaat.system.locks import describe_os_error
from pathology_scaat.system.memory import REMEDY, is_out_of_memory
from pathology_scaat.system.signals import forget_raised, raise_on

INTERRUPTED = 130
TERMINATED = 143
INTERNAL_ERROR = 70
OUT_OF_MEMORY = 2
UNWRITABLE = 2


class Terminated(BaseException):
    """A job queue asks the command to end: as Ctrl-C, with its own exit code."""


def listen() -> None:
    """Have Ctrl-C and a job queue's SIGTERM end the command politely."""
    raise_on(signal.SIGTERM, Terminated)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not for a background job
        raise_on(signal.SIGINT, KeyboardInterrupt)


def run_command(command: Callable[[], Any], arguments: Sequence[str] = ()) -> int:
    """Call a command; turn what it raises into one sentence and an exit code.

    ``arguments`` are those of the command line, where the caller has them: so that even one that
    cannot be parsed is answered in JSON where JSON is asked for.
    """
    output.begin(arguments)
    try:
        code = _run(command)
    except MemoryError:  # to print nicely may need memory that is not there
        sys.stderr.write(f"scaat: ran out of memory; {REMEDY}.\n")
        output.fail("scaat", "ran out of memory", REMEDY)
        code = OUT_OF_MEMORY
    output.end(code)
    return code


def _run(command: Callable[[], Any]) -> int:
    try:
        # The parser turns Exit and Ctrl-C into a returned exit code.
        returned = command()
    except ScaatError as error:
        output.fail_with(error)
        stderr.print(f"scaat: {error}", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        returned = INTERRUPTED
    except Terminated:
        returned = TERMINATED
    except Exception as error:  # the last line of defence: never a traceback at the user
        show = getattr(error, "show", None)  # a wrong option, as the parser reports it
        if callable(show) and hasattr(error, "exit_code"):
            show()
            worded = getattr(error, "format_message", None)
            words = str(worded() if callable(worded) else error)
            output.fail("command line", " ".join(words.split()), "see scaat --help")
            return int(error.exit_code)
        if is_out_of_memory(error):
            raise MemoryError from None
        found = disk_error(error)
        if found is not None:
            problem = f"could not be read or written ({describe_os_error(found)})"
            remedy = "check free disk space and permissions, then run the same command again"
            output.fail(_file_of(found), problem, remedy)
            stderr.print(
                f"scaat: {_file_of(found)} {problem}; {remedy}.",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
            return UNWRITABLE
        from pathology_scaat.artifacts.redaction import redact

        logging.getLogger(__name__).debug("internal error", exc_info=True)
        words = redact(f"{type(error).__name__}: {error}")
        output.fail("scaat", f"internal error ({words})", "report it, with the command you gave")
        stderr.print(
            f"scaat: internal error ({words}); please report it, with the command that you gave.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return INTERNAL_ERROR
    if returned in (INTERRUPTED, TERMINATED):
        from pathology_scaat.artifacts.atomic import remove_unfinished
        from pathology_scaat.artifacts.leases import release_all

        # A second Ctrl-C or SIGTERM must not break off the cleaning up that the first began.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        remove_unfinished()
        release_all()
        forget_raised()
        output.fail("scaat", "interrupted", "run the same command again to go on")
        stderr.print("scaat: interrupted; run the same command again to go on.", markup=False)
    return returned if isinstance(returned, int) else 0


def _file_of(error: OSError) -> str:
    """The file that the system was asked for, without its folders and marks of unfinished work."""
    name = error.filename
    if not isinstance(name, str):
        return "a file"
    shown = PurePath(name).name.partition(".partial-")[0]
    return "".join(c if c.isprintable() else " " for c in shown) or "a file"


def main() -> None:
    """Entry point of the ``scaat`` command."""
    listen()
    sys.exit(run_command(lambda: app(standalone_mode=False), sys.argv[1:]))
