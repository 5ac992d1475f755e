#!/usr/bin/env python3
"""cog.pyz -- runs any Cog model anywhere a container engine answers, and where none does.

A run reads top to bottom, and so does this file:

    argv -> Options -> Config + schema -> inputs -> Plan -> host -> prediction -> outputs

     1. Errors        what can go wrong, and the exit code that each one means
     2. Console       the only printing: stderr lines, progress, logs, the result on stdout
     3. Command line  argv to frozen Options
     4. Config        cog.yaml to a frozen Config; versions and requirement lines
     5. Schema        predictor source to an OpenAPI document, by ast; never imports it
     6. Inputs        -i and --json, with the schema, to the prediction's input
     7. Dockerfile    Config to Dockerfile text
     8. Context       a project folder, with its ignore rules, to a tar stream
     9. Plan          Options, Config and schema to what will be run
    10. Streams       bytes to frames, channels, messages, events, spilled JSON; no I/O
    11. Engine        finding it, its credentials, its API: one method per call
    12. Session       BuildKit's way back to us for secrets and credentials
    13. Helper        the far end of the one stream: sent along as source, Python 3.7 and newer
    14. Hosts         container, process, URL: where a model runs; the stream's near end
    15. Prediction    wait for setup, POST /predictions, stream, cancel
    16. Outputs       a response to stdout and files
    17. Commands      one function per subcommand: read, plan, do, write; and main
"""
from __future__ import annotations

import sys
import time
from typing import Any, BinaryIO, Callable, ClassVar, Dict, Mapping, NamedTuple

__version__ = "0.1.0"

JSON = Dict[str, Any]  # a JSON object exactly as its other side sends or takes it


# == 1. Errors ================================================================
# One family. A class fixes the exit code; the message says what happened, in the
# engine's own words where it has any; the hint says what to do about it.


class CogError(Exception):
    """A failure that the user can act on. Only main prints one or turns it into an exit code.

    >>> UsageError("no IMAGE", hint="cog.pyz predict IMAGE").exit_code
    2
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class PredictionFailed(CogError):
    """The prediction failed, was refused or timed out."""

    exit_code = 1


class UsageError(CogError):
    """The command line, the config or an input is wrong; or the image is no Cog model."""

    exit_code = 2


class ConfigError(UsageError):
    """cog.yaml cannot be used. The message may hold several lines, one per fault."""


class SchemaError(UsageError):
    """The predictor's source cannot be turned into a schema."""


class InputError(UsageError):
    """Inputs that the schema does not allow. All faults at once."""


class EngineError(CogError):
    """The engine answered, and the answer was not the one hoped for.

    `status` is the HTTP status (0: an error line inside a 200 stream), `message` the engine's own words.
    """

    exit_code = 3

    def __init__(self, call: str, status: int, message: str, *, hint: str = "") -> None:
        super().__init__(f"{call}: {message}" if not status else f"{call}: {status}: {message}", hint=hint)
        self.call, self.status, self.message = call, status, message


class EngineUnreachable(CogError):
    """No engine was found, or it cannot be opened."""

    exit_code = 3


class BuildFailed(CogError):
    """A build step failed; its log was shown."""

    exit_code = 4


class SetupFailed(CogError):
    """The model's setup failed, timed out or ended its container."""

    exit_code = 5


class ModelGone(CogError):
    """The model vanished, or cannot be reached any more."""

    exit_code = 6


class StreamError(ModelGone):
    """A peer broke its own protocol: a cut frame, an unknown stream, a body that ends early."""


class OutputError(CogError):
    """An output could not be written where it was asked for."""

    exit_code = 7


class Interrupted(CogError):
    """SIGINT or SIGTERM. main cleans up and then dies by the signal itself."""

    def __init__(self, signal_number: int) -> None:
        super().__init__("interrupted")
        self.signal_number = signal_number


# == 2. Console ===============================================================


class Console:
    """PLACEHOLDER: being written by the lead; the methods here are the contract.

    info(text)     one of our own plain lines on stderr; left out by --quiet
    warn(text)     a warning line on stderr
    error(err)     a CogError: one line, then its hint
    debug(text)    only with --debug
    phase(text)    begins a phase: a live line with elapsed time on a terminal, one plain line elsewhere
    status(text)   the detail behind the live line (terminal only; elsewhere nothing)
    done()         the live line disappears
    region(lines)  replaces a live region of several lines (terminal only)
    log(data)      the model's own output, raw bytes, to stderr
    result(data)   bytes of the result to stdout, flushed
    live           True when stderr is a terminal and progress is shown live
    """

    def __init__(self, *, live: bool = False, quiet: bool = False, debug: bool = False) -> None:
        self.live, self._quiet, self._debug = live, quiet, debug

    def info(self, text: str) -> None:
        if not self._quiet:
            sys.stderr.write(text + "\n")

    def warn(self, text: str) -> None:
        sys.stderr.write("warning: " + text + "\n")

    def error(self, error: CogError) -> None:
        sys.stderr.write(f"error: {error}\n" + (f"hint: {error.hint}\n" if error.hint else ""))

    def debug(self, text: str) -> None:
        if self._debug:
            sys.stderr.write(text + "\n")

    def phase(self, text: str) -> None:
        self.info(text)

    def status(self, text: str) -> None:
        pass

    def done(self) -> None:
        pass

    def region(self, lines: list[str]) -> None:
        pass

    def log(self, data: bytes) -> None:
        sys.stderr.buffer.write(data)

    def result(self, data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


class World(NamedTuple):
    """Everything with an effect that a command may touch. Tests hand in their own."""

    console: Console
    environ: Mapping[str, str]
    cwd: str
    stdin: BinaryIO
    clock: Callable[[], float] = time.monotonic


# == 3. Command line ==========================================================


# == 4. Config ================================================================


# == 5. Schema ================================================================


# == 6. Inputs ================================================================


# == 7. Dockerfile ============================================================


# == 8. Context ===============================================================


# == 9. Plan ==================================================================


# == 10. Streams ==============================================================


# -- frames: attach streams, the helper's channels, HTTP heads, server-sent events


# -- JSON: documents with data URLs in them, spilled to files as they come


# -- build: what a builder says while it works


# == 11. Engine ===============================================================


# == 12. Session ==============================================================


# == 13. Helper ===============================================================


# == 14. Hosts ================================================================


# == 15. Prediction ===========================================================


# == 16. Outputs ==============================================================


# == 17. Commands =============================================================


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code. The only place that prints a CogError."""
    del argv
    return 2


if __name__ == "__main__":
    sys.exit(main())
