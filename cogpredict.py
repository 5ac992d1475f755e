#!/usr/bin/env python3
"""cog.pyz -- runs any Cog model anywhere a container engine answers, and where none does.

A run reads top to bottom, and so does this file:

    argv -> Options -> Config + schema -> inputs -> Plan -> host -> prediction -> outputs

     1. Errors        what can go wrong, and the exit code that each one means
     2. Console       the only printing: stderr lines, progress, logs, the result on stdout
     3. Command line  argv to frozen Options
     4. Config        cog.yaml to a frozen Config; versions and requirement lines
     5. Source        a model's Python files, by ast: what names and expressions are; never imports them
     6. Schema        a predictor's signature to an OpenAPI document
     7. Inputs        -i and --json, with the schema, to the prediction's input
     8. Dockerfile    Config to Dockerfile text
     9. Context       a project folder, with its ignore rules, to a tar stream
    10. Plan          Options, Config and schema to what will be run
    11. Streams       bytes to frames, channels, messages, events, spilled JSON; no I/O
    12. Engine        finding it, its credentials, its API: one method per call
    13. Session       what BuildKit asks back for: secrets and credentials (HTTP/2, HPACK)
    14. Build         an image, built or pulled: what a model runs in
    15. Environment   the same without an engine: a virtual environment
    16. Helper        the far end of the one stream: sent along as source, Python 3.7 and newer
    17. Link          the near end of the one stream: channels, requests, the file lane
    18. Hosts         container, process, URL: where a model runs
    19. Prediction    wait for setup, POST /predictions, stream, cancel
    20. Outputs       a response to stdout and files
    21. Commands      one function per subcommand: read, plan, do, write; and main
"""
from __future__ import annotations

import errno
import os
import sys
import time
from typing import (
    TYPE_CHECKING,
    Any,
    BinaryIO,
    Callable,
    ClassVar,
    Collection,
    Dict,
    Iterable,
    Iterator,
    Mapping,
    NamedTuple,
    Protocol,
    Sequence,
    Union,
)

if TYPE_CHECKING:
    import ast
    import subprocess

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

    `status` is the HTTP status (0: an error line inside a 200 stream), `message` the engine's own words. Shown are the
    first twelve digits of an id.

    >>> str(EngineError(f"POST /containers/{64 * 'a'}/start", 404, "network x not found"))
    'POST /containers/aaaaaaaaaaaa/start: 404: network x not found'
    """

    exit_code = 3

    def __init__(self, call: str, status: int, message: str, *, hint: str = "") -> None:
        import re

        what = f"{call}: {message}" if not status else f"{call}: {status}: {message}"
        super().__init__(re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", what), hint=hint)
        self.call, self.status, self.message = call, status, message


class EngineUnreachable(CogError):
    """No engine was found, or it cannot be opened."""

    exit_code = 3


class BuildFailed(CogError):
    """A build step failed; its log was shown."""

    exit_code = 4


class BuildDisturbed(BuildFailed):
    """A build failed as another one, that it shares a step with, came to an end."""


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


class ExecFailed(CogError):
    """A command could not be run in the model's environment; codes below this are the command's own."""

    exit_code = 125


class NotExecutable(ExecFailed):
    """The command that exec was given may not be run."""

    exit_code = 126


class CommandMissing(ExecFailed):
    """The command that exec was given is not there."""

    exit_code = 127


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP: no CogError, lest one who makes do without something passes over it.

    main cleans up and then dies by the signal itself.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__("interrupted")
        self.signal_number = signal_number


# == 2. Console ===============================================================
# Everything that a user sees passes here: our own lines and the model's logs to stderr, the result to
# stdout. A live line stands at the bottom of a terminal and is wiped before anything else is written.
# What a model, an image or a server sent is stripped of control sequences before it reaches a terminal.

PARTIAL_LINE = 1 << 20  # bytes of an unfinished log line that are held at most
REDRAW = 0.1  # seconds between two drawings of the live line


def strip_controls(data: bytes) -> bytes:
    """Text that cannot steer a terminal: colours, tabs, returns and backspaces stay, the rest goes.

    >>> strip_controls(b"\\x1b[31mred\\x1b[0m \\x1b[2Jwiped \\x1b]0;title\\x07")
    b'\\x1b[31mred\\x1b[0m [2Jwiped ]0;title'
    """
    import re

    if not re.search(rb"[\x00-\x07\x0b-\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]", data):
        return data
    return re.sub(rb"\x1b(?!\[[0-9;]{0,20}m)|[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]|\xc2[\x80-\x9f]", b"", data)


def collapse_returns(data: bytes) -> bytes:
    r"""Whole lines as a terminal would leave them: what a carriage return overwrote is gone.

    >>> collapse_returns(b"0%\r50%\r100%\nnext\r\n")
    b'100%\nnext\n'
    """
    if b"\r" not in data:
        return data
    import re

    return re.sub(rb"[^\n]*\r", b"", re.sub(rb"\r+\n", b"\n", data))


def last_line(data: bytes) -> str:
    """The last line with anything on it, without control characters, for a status line or an error."""
    for line in reversed(strip_controls(collapse_returns(data[-4096:])).replace(b"\x1b", b"").split(b"\n")):
        if line.strip():
            return line.decode("utf-8", "replace").strip()
    return ""


def render_size(count: int) -> str:
    """A number of bytes for people.

    >>> render_size(999), render_size(1_500_000), render_size(12_345_678_901)
    ('999 B', '1.5 MB', '12.3 GB')
    """
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


class Console:
    """The user's side: stderr for what happens, stdout for the result.

    `progress` is auto, tty, plain or quiet: a live line on a terminal, a line per phase elsewhere, neither.
    Nothing here fails when stderr is closed or full; a closed stdout raises BrokenPipeError, a full one OutputError.
    """

    def __init__(self, environ: Mapping[str, str], *, progress: str = "auto", quiet: bool = False,
                 debug: bool = False, color: bool = True, out: int = 1, err: int = 2) -> None:
        self._out, self._err, self._debug, self._quiet = out, err, debug, quiet
        self._err_tty, self._out_tty = self._is_terminal(err), self._is_terminal(out)
        self._phases = not quiet and progress != "quiet"
        dumb = environ.get("TERM") == "dumb"
        self.live = self._phases and (progress == "tty" or (progress == "auto" and self._err_tty and not dumb))
        plain = any(environ.get(name) for name in ("NO_COLOR", "COG_NO_COLOR"))
        self._color = color and self._err_tty and not plain and not dumb
        self._held: dict[int, bytes] = {}  # by stream: an unfinished line, or on a terminal a cut escape
        self._column = False  # the model left the terminal's cursor in the middle of a line
        self._in_text = False  # so did the result, whose next piece may follow
        self._drawn = 0  # lines of the live region on the screen
        self._phase, self._status, self._begun, self._redraw = "", "", 0.0, 0.0
        self._told: list[str] = []  # warnings and phases, as lines: what is tried twice is told once

    @staticmethod
    def _is_terminal(descriptor: int) -> bool:
        try:
            return os.isatty(descriptor)
        except OSError:
            return False

    @property
    def width(self) -> int:
        """Columns of a live line."""
        try:
            return max(20, os.get_terminal_size(self._err).columns or 80) - 1
        except OSError:  # --progress tty on a pipe
            return 79

    def info(self, text: str) -> None:
        """Show one of our own lines, unless --quiet."""
        if not self._quiet:
            self._line(text)

    def warn(self, text: str) -> None:
        """Show a warning, unless --quiet."""
        if not self._quiet:
            self._tell(self._paint("33", "warning: ") + text)

    def _tell(self, line: str) -> None:
        if line not in self._told:
            self._told.append(line)
            self._line(line)

    def error(self, error: CogError) -> None:
        """Show an error and its hint."""
        self.done()
        self._line(self._paint("31", "error: ") + str(error))
        if error.hint:
            self._line(self._paint("36", "hint: ") + error.hint)

    def debug(self, text: str) -> None:
        """Show a line of the trace, with --debug only."""
        if self._debug:
            self._line(text)

    def phase(self, text: str) -> None:
        """Begin a phase: a live line with the time it takes, or a plain line."""
        self._phase, self._status, self._begun, self._redraw = text, "", time.monotonic(), 0.0
        if self.live:
            self.tick()
        elif self._phases:
            self._tell(text)

    def status(self, text: str) -> None:
        """Set what the live line says behind its phase."""
        self._status = text
        self.tick()

    def tick(self) -> None:
        """Draw the live line again if it is due."""
        now = time.monotonic()
        if self.live and self._phase and not (self._column or self._in_text) and now >= self._redraw:
            self._redraw = now + REDRAW
            detail = f"  {self._status}" if self._status else ""
            self._draw([f"{self._phase} {now - self._begun:.1f}s{detail}"])

    def region(self, lines: list[str]) -> None:
        """Replace the live region by these lines; none wipes it. Terminals only."""
        if self.live and not (self._column or self._in_text):
            self._draw(lines)

    def done(self) -> None:
        """End the phase: the live line disappears, an unfinished log line is finished."""
        self._phase = ""
        self._wipe()
        unfinished = [held.rstrip(b"\r") for held in self._held.values() if held]
        if unfinished or self._column:
            self._write(self._err, self._sanitise(collapse_returns(b"\n".join(unfinished))) + b"\n")
        self._held, self._column = {}, False

    def log(self, data: bytes, stream: int = 2) -> None:
        """Show the model's own output as it comes; lines that come in pieces on two streams are not mixed."""
        self._wipe()
        if self._err_tty:
            data, self._held[stream] = self._uncut(b"\n" * self._in_text + self._held.get(stream, b"") + data)
            self._in_text = False
            self._column = (data[-1:] != b"\n") if data else self._column
            self._write(self._err, strip_controls(data))
        else:
            held = self._held.get(stream, b"")
            whole = len(data) if len(held) > PARTIAL_LINE else data.rfind(b"\n") + 1
            if whole:
                self._write(self._err, collapse_returns(held + data[:whole]))
                held = b""
            self._held[stream] = held + data[whole:]
        self._redraw = 0.0

    def pass_on(self, data: bytes, stream: int) -> None:
        """Write what a served model printed to the same stream of ours, as it comes; what cannot be kept is dropped.

        Raises BrokenPipeError: nobody reads stdout any more.
        """
        if stream != 1:
            self.log(data, stream)
            return
        try:
            self.result(data)
        except OutputError:
            pass  # full, or closed from the start: a server goes on
        self._column, self._in_text = self._out_tty and self._err_tty and data[-1:] != b"\n", False

    def result(self, data: bytes, *, stream: int = 1, raw: bool = False) -> None:
        """Write bytes of the result to stdout, at once; or to stderr, 2. Raises OutputError, BrokenPipeError.

        With `raw` it may steer the terminal: the user works in it.
        """
        self._wipe()
        goal, is_terminal = (self._out, self._out_tty) if stream == 1 else (self._err, self._err_tty)
        try:
            self._write_all(goal, strip_controls(data) if is_terminal and not raw else data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"the result could not be written to stdout: {error.strerror}") from error
        self._in_text = is_terminal and self._err_tty and not raw and data[-1:] not in (b"\n", b"")

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._color else text

    def _sanitise(self, data: bytes) -> bytes:
        return strip_controls(data) if self._err_tty else data

    def _line(self, text: str) -> None:
        self._wipe()
        newline = b"\n" if self._column or self._in_text else b""
        self._column = self._in_text = False
        self._write(self._err, newline + self._sanitise(text.encode("utf-8", "replace")) + b"\n")
        self._redraw = 0.0

    @staticmethod
    def _uncut(data: bytes) -> tuple[bytes, bytes]:
        """The data, and apart from it an escape sequence that is cut at its end."""
        escape = data.rfind(b"\x1b", max(0, len(data) - 24))
        if escape >= 0 and not data[escape + 2:].strip(b"0123456789;") and data[escape + 1:escape + 2] in (b"", b"["):
            return data[:escape], data[escape:]
        return data, b""

    def _draw(self, lines: list[str]) -> None:
        width = self.width
        self._wipe()
        shown = [strip_controls(line.encode("utf-8", "replace").replace(b"\r", b"")) for line in lines]
        text = b"\n".join(line.decode("utf-8", "ignore")[:width].encode("utf-8") for line in shown)
        if text:
            self._write(self._err, b"\x1b[?7l" + text + b"\x1b[?7h")  # wide characters must not begin a new line
            self._drawn = len(lines)

    def _wipe(self) -> None:
        if self._drawn:
            self._write(self._err, b"\r" + b"\x1b[A" * (self._drawn - 1) + b"\x1b[J")
            self._drawn = 0

    def _write(self, descriptor: int, data: bytes) -> None:
        try:
            self._write_all(descriptor, data)
        except OSError:
            pass  # nobody is there to read it

    @staticmethod
    def _write_all(descriptor: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(descriptor, view):]
            except BlockingIOError:  # somebody made the terminal non-blocking
                time.sleep(0.005)


# == 3. Command line ==========================================================
# In: argv without the program's name. Out: Options, frozen and complete. Flags are a table; a command is a
# set of flags. Nothing is read from disk here but what --env-file names.


class Options(NamedTuple):
    """One command line. Times are seconds, 0 for no limit; sizes are bytes."""

    command: str = "predict"
    image: str = ""
    file: str = "cog.yaml"
    inputs: tuple[tuple[str, str], ...] = ()
    json: str | None = None
    output: str = ""
    env: tuple[str, ...] = ()
    env_file: tuple[str, ...] = ()
    gpus: str = ""
    cpu: bool = False
    setup_timeout: float = 300.0
    timeout: float = 0.0
    use_replicate_token: bool = False
    engine: str = ""
    network: str = ""
    platform: str = ""
    volume: tuple[str, ...] = ()
    user: str = ""
    shm_size: int = 6 << 30
    pull: str = "missing"
    dry_run: bool = False
    base_image: str = ""
    use_cog_base_image: str = ""
    use_cuda_base_image: str = "auto"
    registry: str = ""
    no_cache: bool = False
    openapi_schema: str = ""
    progress: str = ""
    as_json: bool = False
    words: tuple[str, ...] = ()
    as_run: bool = False  # the command of `exec` was typed behind `run`
    publish: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    secret: tuple[str, ...] = ()
    dockerfile: str = ""
    image_name: str = ""
    build_arg: tuple[str, ...] = ()
    timestamp: int = -1
    strip: bool = False
    precompile: bool = False
    separate_weights: bool = False
    url: str = ""
    token_env: str = ""
    port: int = 8393
    host: str = "127.0.0.1"
    upload_url: str = ""
    debug: bool = False
    no_color: bool = False
    quiet: bool = False


def parse_seconds(text: str) -> float:
    """Seconds, 0 or more.

    >>> parse_seconds("1.5")
    1.5
    """
    import argparse

    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def parse_size(text: str) -> int:
    """A number of bytes, written as docker writes it.

    >>> parse_size("64m"), parse_size("1.5g"), parse_size("1024")
    (67108864, 1610612736, 1024)
    """
    import argparse

    digits = text.lower().rstrip("b").rstrip("i")
    power = " kmgt".find(digits[-1:]) if digits[-1:] in "kmgt" and digits[-1:] else 0
    try:
        size = int(float(digits[:-1] if power else digits) * 1024 ** power)
    except (ValueError, OverflowError):
        size = -1
    if not 0 <= size < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, such as 64m or 6g")
    return size


def parse_port(text: str) -> int:
    """A TCP port, 0 for any that is free.

    >>> parse_port("8393")
    8393
    """
    import argparse

    if not (text.isascii() and text.isdigit() and int(text[:9]) < 1 << 16):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a number up to 65535")
    return int(text)


def parse_bind_address(text: str) -> str:
    """An IP address of this machine to listen on.

    >>> parse_bind_address("localhost"), parse_bind_address("[::1]")
    ('127.0.0.1', '::1')
    """
    import argparse
    import ipaddress

    try:
        return str(ipaddress.ip_address("127.0.0.1" if text == "localhost" else text.strip("[]")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IP address, such as 0.0.0.0") from None


def parse_http_url(text: str) -> str:
    """A URL with http or https.

    >>> parse_http_url("http://host.docker.internal:8000/up")
    'http://host.docker.internal:8000/up'
    """
    import argparse
    from urllib.parse import urlsplit

    try:
        is_url = urlsplit(text).scheme in ("http", "https") and bool(urlsplit(text).hostname)
    except ValueError:
        is_url = False
    if not is_url:
        raise argparse.ArgumentTypeError(f"{text!r} is not an http or https URL")
    return text


def is_utf8(text: str) -> bool:
    """Whether a text can be told to others: no byte of a command line that is no UTF-8 is in it.

    >>> is_utf8("é"), is_utf8(os.fsdecode(b"\\xff"))
    (True, False)
    """
    return text.encode("utf-8", "replace") == text.encode("utf-8", "surrogatepass")


def split_input(argument: str) -> tuple[str, str]:
    """One `-i NAME=VALUE`, split at its first `=`, one pair of quotes around the value removed.

    >>> split_input('prompt="a=b"')
    ('prompt', 'a=b')
    """
    name, equals, value = argument.partition("=")
    if not (name and equals):
        raise UsageError(f"Failed to parse input '{argument}', expected format is 'name=value'",
                         hint="for example: -i prompt=\"a cat\"")
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    return name, value


# flags, metavar, kind (flag, list, a tuple of choices, or one of READERS), help
FLAGS: dict[str, tuple[str, str, Any, str]] = {
    "inputs": ("-i --input", "NAME=VALUE", "list", "an input; @FILE reads a file, repeats make a list"),
    "json": ("--json", "JSON", "text", "all inputs as a JSON object: text, @FILE, or - for stdin"),
    "output": ("-o --output", "PATH", "text", "where the result is saved; - is stdout"),
    "env": ("-e --env", "NAME[=VALUE]", "list", "an environment variable for the model"),
    "env_file": ("--env-file", "FILE", "list", "environment variables, one NAME=VALUE a line"),
    "file": ("-f --file", "FILE", "text", "the config file (default cog.yaml)"),
    "gpus": ("--gpus", "GPUS", "text", "GPUs as docker run takes them: all, 2, 'device=0,1', CDI names"),
    "cpu": ("--cpu", "", "flag", "use no GPU, whatever the model asks for"),
    "setup_timeout": ("--setup-timeout", "SECONDS", "seconds", "limit for setup (default 300, serve: none; 0: none)"),
    "timeout": ("--timeout", "SECONDS", "seconds", "limit for the prediction itself (default: none)"),
    "use_replicate_token": ("--use-replicate-token", "", "flag", "hand REPLICATE_API_TOKEN to the model's context"),
    "engine": ("--engine", "ADDRESS", "text", "unix://PATH, tcp://HOST:PORT, ssh://HOST, or none"),
    "network": ("--network", "NAME", "text", "the container's network: bridge, none, host, NAME"),
    "platform": ("--platform", "OS/ARCH", "text", "the image's platform, such as linux/amd64"),
    "volume": ("-v --volume", "SOURCE:TARGET[:ro]", "list", "a bind mount or a named volume"),
    "user": ("--user", "USER[:GROUP]", "text", "the user to run the model as"),
    "shm_size": ("--shm-size", "SIZE", "size", "size of /dev/shm (default 6g)"),
    "pull": ("--pull", "WHEN", ("missing", "always", "never"), "when to pull the image (default missing)"),
    "dry_run": ("--dry-run", "", "flag", "print what would be run, and run nothing"),
    "url": ("--url", "URL", "text", "a model that runs somewhere already, at http(s)://HOST:PORT"),
    "token_env": ("--token-env", "NAME", "text", "the environment variable with a bearer token for --url"),
    "base_image": ("--base-image", "IMAGE", "text", "build on this image (default: by cog.yaml, or COG_BASE_IMAGE)"),
    "use_cog_base_image": ("--use-cog-base-image", "", ("true", "false", "auto"),
                           "build on Cog's base image (auto: if the engine has it)"),
    "use_cuda_base_image": ("--use-cuda-base-image", "WHEN", ("true", "false", "auto"), "build on NVIDIA's CUDA image"),
    "registry": ("--registry", "HOST", "text", "where Cog's base images are (default: COG_REGISTRY_HOST or Cog's own)"),
    "no_cache": ("--no-cache", "", "flag", "build again, whatever has been built"),
    "openapi_schema": ("--openapi-schema", "FILE", "text", "the model's schema, instead of reading its source"),
    "progress": ("--progress", "MODE", ("auto", "tty", "plain", "quiet"), "how progress is shown (default auto)"),
    "as_json": ("--json", "", "flag", "inspect: all that is known, as one JSON object"),
    "publish": ("-p --publish", "[[IP:]PORT:]PORT", "list", "exec: a port of the command's on this machine"),
    "tag": ("-t --tag", "NAME[:TAG]", "list", "build: the image's name (default: by cog.yaml or the folder)"),
    "secret": ("--secret", "id=ID[,src=FILE]", "list", "build: a secret for the steps that mount it; or env=NAME"),
    "dockerfile": ("--dockerfile", "FILE", "text", "build: this Dockerfile, instead of one made from cog.yaml"),
    "image_name": ("--image-name", "NAME", "text", "debug: does nothing, as weights are no image of their own"),
    "build_arg": ("--build-arg", "NAME[=VALUE]", "list", "build: an argument, such as a proxy"),
    "timestamp": ("--timestamp", "SECONDS", "integer", "build: does nothing yet"),
    "strip": ("--strip", "", "flag", "build: does nothing yet"),
    "precompile": ("--precompile", "", "flag", "build: does nothing yet"),
    "separate_weights": ("--separate-weights", "", "flag", "build: files of weights get a layer of their own"),
    "port": ("-p --port", "PORT", "port", "serve: the port to listen on (default 8393, 0: a free one)"),
    "host": ("--host", "ADDRESS", "address", "serve: the address to listen on (default 127.0.0.1)"),
    "upload_url": ("--upload-url", "URL", "url", "serve: where the model uploads its output files"),
    "debug": ("--debug", "", "flag", "show each call to the engine and the model"),
    "no_color": ("--no-color", "", "flag", "no colours"),
    "quiet": ("-q --quiet", "", "flag", "none of our own lines but errors"),
}

PREDICT_ABOUT = ("Run a prediction on a Cog model: IMAGE, a tar made by docker save (- for stdin), or, without one, "
                 "the model in this folder. `cog.pyz inspect` shows what inputs it takes.")

TRAIN_ABOUT = ("Train a model: IMAGE, a tar made by docker save (- for stdin), or, without one, the model in this "
               "folder. The result is saved as `weights`, with an extension if it is a file, or as -o says.")

EXEC_ABOUT = ("Run a command in the environment of the model in this folder, which it sees as /src. Its flags stand "
              "before CMD; all that follows is the command's.")

ALWAYS = ("debug", "no_color", "quiet")
DOCKERFILE_FLAGS = ("file", "base_image", "use_cog_base_image", "use_cuda_base_image", "registry")
OF_OLD = ("--skip-schema-validation", "--x-fast", "--x-localimage")  # of other builds, without a meaning here
NOT_YET = ("timestamp", "strip", "precompile")
BUILD_FLAGS = ("tag", "secret", "dockerfile", "build_arg", "separate_weights", *NOT_YET)
URL_FLAGS = ("url", "token_env")
SERVE_FLAGS = ("port", "host", "upload_url")
PREDICT_FLAGS = tuple(flag for flag in FLAGS
                      if flag not in ("as_json", "publish", "image_name", *BUILD_FLAGS, *SERVE_FLAGS))
TRAIN_FLAGS = tuple(flag for flag in PREDICT_FLAGS if flag not in URL_FLAGS)
PREDICTION_FLAGS = ("inputs", "json", "output", "timeout", "use_replicate_token")
WITH_URL = ("inputs", "json", "as_json", "output", "setup_timeout", "timeout", "use_replicate_token", "dry_run",
            "progress", *URL_FLAGS, *ALWAYS)  # what means something for a model that runs already
TAKES_IMAGE = ("predict", "run", "train", "serve", "inspect")
COMMAND_DEFAULTS: dict[str, dict[str, Any]] = {"serve": {"setup_timeout": 0.0}}  # where Options has another
READERS: dict[str, Callable[[str], Any]] = {"text": str, "integer": int, "seconds": parse_seconds, "size": parse_size,
                                            "port": parse_port, "address": parse_bind_address, "url": parse_http_url}

COMMAND_FLAGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "predict": (PREDICT_ABOUT, PREDICT_FLAGS),
    "run": (PREDICT_ABOUT, PREDICT_FLAGS),
    "train": (TRAIN_ABOUT, TRAIN_FLAGS),
    "exec": (EXEC_ABOUT,
             ("env", "env_file", "publish", "volume", "gpus", "cpu", "user", "network", "shm_size", "platform",
              "engine", *DOCKERFILE_FLAGS, "no_cache", "progress", *ALWAYS)),
    "build": ("Build the image of the model in this folder.",
              (*BUILD_FLAGS, *DOCKERFILE_FLAGS, "no_cache", "openapi_schema", "engine", "platform", "progress",
               *ALWAYS)),
    "debug": ("Print the Dockerfile of the model in this folder.",
              (*DOCKERFILE_FLAGS, "separate_weights", "image_name", *ALWAYS)),
    "inspect": ("Show the inputs and the output of IMAGE, or of the model in this folder.",
                ("as_json", *DOCKERFILE_FLAGS, "openapi_schema", "engine", "platform", "pull", "progress", *URL_FLAGS,
                 *ALWAYS)),
    "serve": ("Serve IMAGE, or the model in this folder, over HTTP until it is told to stop.",
              (*SERVE_FLAGS, *(flag for flag in TRAIN_FLAGS if flag not in PREDICTION_FLAGS))),
    "init": ("Make a first model in this folder, of files that are not there yet.", ALWAYS),
}

GROUPS = {  # the flags in a command's help, by what they are about
    "input and output": ("inputs", "json", "as_json", "output", "upload_url", "dry_run"),
    "where the model runs": ("engine", "url", "token_env", "port", "host", "publish", "gpus", "cpu", "platform", "pull",
                             "network", "volume", "user", "shm_size", "env", "env_file", "use_replicate_token",
                             "setup_timeout", "timeout"),
    "how it is built": ("file", "tag", "secret", "dockerfile", "image_name", "build_arg", "base_image",
                        "use_cog_base_image", "use_cuda_base_image", "registry", "no_cache", "openapi_schema",
                        "separate_weights", *NOT_YET),
    "what is shown": ("progress", *ALWAYS),
}
PREDICT_EXAMPLES = (
    'cog.pyz predict -i prompt="a cat"',
    "cog.pyz predict IMAGE -i image=@photo.jpg -o result.png",
    "cog.pyz predict IMAGE --json @inputs.json | jq -r .output",
    'cog.pyz predict --url http://localhost:8393 -i prompt="a cat"',
)
EXAMPLES = {
    "predict": PREDICT_EXAMPLES,
    "run": PREDICT_EXAMPLES,
    "train": ("cog.pyz train -i data=@data.zip", "cog.pyz train IMAGE -i steps=100 -o tuned.safetensors"),
    "exec": ("cog.pyz exec python -V", "cog.pyz exec -p 8888 jupyter notebook --ip 0.0.0.0",
             "cog.pyz exec -e DEBUG=1 python - < script.py"),
    "build": ("cog.pyz build", "cog.pyz build -t me/model:1 -t me/model:latest",
              "cog.pyz build --secret id=token,src=token.txt"),
    "debug": ("cog.pyz debug", "cog.pyz debug -f cog.gpu.yaml > Dockerfile"),
    "inspect": ("cog.pyz inspect", "cog.pyz inspect IMAGE", "cog.pyz inspect --json | jq .schema"),
    "serve": ("cog.pyz serve", "cog.pyz serve IMAGE -p 5000 --host 0.0.0.0"),
    "init": ("mkdir hello && cd hello && cog.pyz init",),
}

ELSEWHERE = {  # commands of the field that are not here, and what does the job today
    "push": "docker push", "login": "docker login", "doctor": "cog doctor", "playground": "cog playground",
    "weights": "cog weights",
}
NICKNAMES = {
    "http": "serve", "infer": "predict", "new": "init", "start": "init", "ui": "playground", "gui": "playground",
    "auth": "login", "authenticate": "login", "authorize": "login",
}


def usage_text() -> str:
    """What `cog.pyz` and `cog.pyz --help` print."""
    lines = ["usage: cog.pyz COMMAND [flags]", "", "commands:"]
    abouts = {name: about.partition(": ")[0].partition(".")[0] for name, (about, _) in COMMAND_FLAGS.items()}
    lines += [f"  {name:<10} {about}" for name, about in abouts.items()]
    return "\n".join([*lines, "", "cog.pyz COMMAND --help shows a command's flags; cog.pyz --version the version.", ""])


def split_command(argv: list[str]) -> tuple[str, list[str]]:
    """The command and the rest of argv; global flags may stand before it. Raises UsageError.

    >>> split_command(["--debug", "predict", "-i", "a=b"])
    ('predict', ['--debug', '-i', 'a=b'])
    """
    position = next((at for at, word in enumerate(argv) if not word.startswith("-")), len(argv))
    for argument in argv[:position]:
        if argument not in ("--debug", "--no-color", "-q", "--quiet", "-h", "--help"):
            raise UsageError(f"unknown flag {argument} before a command", hint="cog.pyz --help")
    if position == len(argv):
        return "", argv
    argument, rest = argv[position], argv[:position] + argv[position + 1:]
    if argument == "help":
        return split_command([*rest, "--help"])
    if argument in ELSEWHERE:
        raise UsageError(f"'{argument}' is not there yet", hint=f"use `{ELSEWHERE[argument]}`")
    if argument not in COMMAND_FLAGS:
        import difflib

        close = NICKNAMES.get(argument) or "".join(difflib.get_close_matches(argument, (*COMMAND_FLAGS, *ELSEWHERE), 1))
        instead = f" It is not there yet: use `{ELSEWHERE[close]}`" if close in ELSEWHERE else ""
        raise UsageError(f'unknown command "{argument}" for "cog.pyz"',
                         hint=f"did you mean `{close}`?{instead}" if close else "cog.pyz --help lists the commands")
    return argument, rest


def terminal_width() -> int:
    """The columns of the user's terminal; 80 without one. As shutil has it, whose import takes longer than the rest."""
    try:
        return int(os.environ.get("COLUMNS", "")) or os.get_terminal_size(1).columns or 80
    except (ValueError, OSError):
        return 80


def suggest_flag(command: str, message: str) -> str:
    """The hint for what argparse says of a flag that a command does not have; empty if none comes close.

    >>> suggest_flag("predict", "unrecognized arguments: --gpu=all x"), suggest_flag("predict", "expected one argument")
    ('did you mean --gpus?', '')
    """
    import difflib

    kind, _, words = message.partition(": ")
    unknown = words.partition(" ")[0].partition("=")[0] if kind == "unrecognized arguments" else ""
    known = [flag for name in COMMAND_FLAGS[command][1] for flag in FLAGS[name][0].split() if flag.startswith("--")]
    close = difflib.get_close_matches(unknown, known, 1, 0.7) if unknown.startswith("--") else []
    if command == "run" and unknown and not close:
        return "cog.pyz exec CMD ARG... runs a command in the model's environment"
    return f"did you mean {close[0]}?" if close else ""


def flag_parser(command: str) -> Any:
    """The argparse parser of one command, made from FLAGS. Its errors are UsageErrors, its help is grouped."""
    import argparse

    about, names = COMMAND_FLAGS[command]

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise UsageError(message, hint=suggest_flag(command, message) or f"cog.pyz {command} --help")

        def format_help(self) -> str:
            import textwrap

            examples = [f"  {example}" for example in EXAMPLES[command]]
            self.description = "\n".join(["examples:", *examples, "", textwrap.fill(about, terminal_width() - 2)])
            return super().format_help()

    def formatter(prog: str) -> argparse.HelpFormatter:
        return argparse.RawDescriptionHelpFormatter(prog, width=terminal_width() - 2)

    prog, takes = f"cog.pyz {command}", " [IMAGE]" if command in TAKES_IMAGE else ""
    parser = Parser(prog=prog, usage=f"{prog}{takes} [flags]{' CMD [ARG ...]' if command == 'exec' else ''}",
                    allow_abbrev=False, add_help=False, formatter_class=formatter)
    if takes:
        parser.add_argument("image", nargs="*", help=argparse.SUPPRESS)
    if command == "exec":
        parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    for heading, members in GROUPS.items():
        group = parser.add_argument_group(heading)
        for name in members:
            if name in names:
                add_flag(group, name)
    group.add_argument("-h", "--help", action="help", help="show this help")
    return parser


def add_flag(group: Any, name: str) -> None:
    """Add a flag of FLAGS to an argparse group."""
    flags, metavar, kind, about = FLAGS[name]
    how: dict[str, Any] = {"dest": name, "help": about, "default": None}
    if kind == "flag":
        how["action"] = "store_true"
    elif kind == "list":
        how.update(action="append", metavar=metavar)
    elif isinstance(kind, tuple):
        how["choices"] = kind
    else:
        how.update(metavar=metavar, type=READERS[kind])
    group.add_argument(*flags.split(), **how)


def split_words(words: list[str], names: Collection[str]) -> tuple[list[str], list[str]]:
    """The flags that a line begins with, and what follows them; a `--` between the two is dropped.

    >>> split_words(["-e", "A=1", "--gpus=all", "ls", "-e"], ["env", "gpus"])
    (['-e', 'A=1', '--gpus=all'], ['ls', '-e'])
    """
    takes_value = {flag for name in names if FLAGS[name][2] != "flag" for flag in FLAGS[name][0].split()}
    takes_value.discard("--use-cog-base-image")  # only behind a =
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] not in ("-", "--"):
        parts = [words[at]] if words[at].startswith("--") else [f"-{letter}" for letter in words[at][1:]]
        first = next((part for part in parts if part in takes_value), None)
        at += 2 if first is not None and parts.index(first) == len(parts) - 1 else 1
    return words[:at], words[at + (words[at:at + 1] == ["--"]):]


def parse_argv(argv: list[str]) -> Options:
    """Options of a command line. Raises UsageError; `--help` prints and raises SystemExit."""
    command, rest = split_command(argv)
    words: list[str] = []
    if command == "exec":
        rest, words = split_words(rest, COMMAND_FLAGS[command][1])
    rest = [f"{word}=true" if word == "--use-cog-base-image" else word for word in rest
            if command != "build" or word not in OF_OLD]
    for word in rest:
        if word.startswith("-") and word.partition("=")[2] == "--":  # argparse takes it for no value at all
            raise UsageError(f"{word} has no value", hint=f"cog.pyz {command} --help")
    raw = vars(flag_parser(command).parse_intermixed_args(rest))
    images = raw.pop("image", ())
    given: dict[str, Any] = {**COMMAND_DEFAULTS.get(command, {}), **{
        name: tuple(value) if isinstance(value, list) else value for name, value in raw.items() if value is not None}}
    if "inputs" in given:
        given["inputs"] = tuple(split_input(pair) for pair in given["inputs"])
    if images and "=" in images[0] and not images[0].startswith((".", "/")):
        raise UsageError(f"Invalid image name '{images[0]}'. Did you forget `-i`?",
                         hint=f"cog.pyz {command} -i {images[0]}")
    if len(images) > 1 and command == "run":
        return parse_argv(["exec", *rest])._replace(as_run=True)
    if len(images) > 1:
        forgot = f"{images[0]} -i {images[1]}" if "=" in images[1] else "--help"
        raise UsageError(f"one IMAGE at most, got {', '.join(images)}", hint=f"cog.pyz {command} {forgot}")
    if command == "exec" and not words:
        raise UsageError("exec needs a command", hint="for example: cog.pyz exec python -V")
    check_url_flags(given, images)
    return check_options(Options(command=command, image="".join(images), **{**given, "words": tuple(words)}))


def check_url_flags(given: Collection[str], images: Sequence[str]) -> None:
    """Nothing, when what was given goes with --url, or without it. Raises UsageError."""
    if "url" not in given:
        if "token_env" in given:
            raise UsageError("--token-env goes with --url only")
        return
    odd = [FLAGS[name][0].split()[-1] for name in FLAGS if name in given and name not in WITH_URL]
    odd = (["IMAGE"] if images else []) + odd
    if odd:
        raise UsageError(f"{', '.join(odd)} cannot go with --url", hint="the model there runs already")


def check_options(options: Options) -> Options:
    """The same options, when their flags go together and can be read. Raises UsageError."""
    import re

    if options.json is not None and options.inputs:
        raise UsageError("Must use one of --json or --input to provide model inputs")
    if options.cpu and options.gpus:
        raise UsageError("--cpu and --gpus exclude each other")
    if options.use_cog_base_image == options.use_cuda_base_image == "true":
        raise UsageError("--use-cog-base-image and --use-cuda-base-image exclude each other")
    odd = [FLAGS[name][0] for name in ("base_image", "use_cog_base_image", "use_cuda_base_image", "separate_weights")
           if getattr(options, name) != Options._field_defaults[name]]
    if options.dockerfile and odd:
        raise UsageError(f"--dockerfile and {odd[0]} exclude each other")
    if options.platform and not re.fullmatch(r"[\w-]+(/[\w-]+(/[\w.-]+)?)?", options.platform, re.ASCII):
        raise UsageError(f"{options.platform!r} is not a platform", hint="for example: --platform linux/amd64")
    for argument in options.build_arg:
        if not re.match("[^= ]+(=|$)", argument):
            raise UsageError(f"--build-arg {argument!r} is not NAME=VALUE", hint="for example: --build-arg PROXY=abc")
    if options.command == "serve" and options.network.partition(":")[0] in ("none", "host", "container"):
        raise UsageError(f"--network {options.network} has no port that could be published",
                         hint="leave it out, or name a network of the engine's")
    readers = [name for name, reads in (
        ("IMAGE -", options.image == "-"), ("--json -", options.json in ("-", "@-")),
        *((f"-i {name}=@-", value == "@-") for name, value in options.inputs)) if reads]
    if len(readers) > 1:
        raise UsageError(f"stdin can be read only once, not by {' and '.join(readers)}")
    return options


# == 4. Config ================================================================
# In: the text of cog.yaml and of the requirement files that it names. Out: a frozen Config; complete_config fills in
# what the file leaves open (Python, CUDA, cuDNN, torch, TensorFlow) by the compatibility table. Every fault is reported
# at once, as FILE:LINE: what was found; what is accepted. Warnings are collected in the Config; the caller shows them.
# Pure but for find_config and read_config: files are read by the reader that parse_config is handed.

DEFAULT_PYTHON, OLDEST_PYTHON, NEWEST_PYTHON, CONCURRENT_PYTHON = "3.13", (3, 7), (3, 14), (3, 11)
OLDEST_SDK = (0, 8, 0)
DEFAULT_CUDA = "11.8"
TORCH_INDEX = "https://download.pytorch.org/whl/{}/"

# nvidia/cuda images (devel, with cuDNN) by the newest Ubuntu that each CUDA has one for.
CUDA_IMAGES = {
    "20.04": "11.0.3 11.1.1 11.2.2 11.3.1 11.4.3 11.5.2 11.6.1 11.6.2",
    "22.04": "11.7.1 11.8.0 12.0.0 12.0.1 12.1.0 12.1.1 12.2.2 12.3.2 12.4.1 12.5.1",
    "24.04": "12.6.0 12.6.1 12.6.2 12.6.3 12.8.0 12.8.1 12.9.0 12.9.1 13.0.0 13.0.1 13.0.2 13.0.3 13.1.1 13.1.2 "
             "13.2.0 13.2.1",
}
# torch, torchvision, Pythons, builds. cpu and cuXYZ have their own index; pypi:X.Y is on the usual one.
TORCH_ROWS = """
1.7.0 0.8.1 3.7-3.8 cpu cu110 | 1.7.1 0.8.2 3.7-3.9 cpu cu110 | 1.8.0 0.9.0 3.7-3.9 cpu cu111 |
1.8.1 0.9.1 3.7-3.9 cpu cu111 | 1.9.0 0.10.0 3.7-3.9 cpu cu111 | 1.9.1 0.10.1 3.7-3.9 cpu cu111 |
1.10.0 0.11.1 3.7-3.9 cpu cu111 cu113 | 1.10.1 0.11.2 3.7-3.9 cpu cu111 cu113 | 1.10.2 0.11.3 3.7-3.10 cpu cu111 cu113 |
1.11.0 0.12.0 3.7-3.10 cpu cu113 | 1.12.0 0.13.0 3.7-3.10 cpu cu113 cu116 | 1.12.1 0.13.1 3.7-3.10 cpu cu113 cu116 |
1.13.0 0.14.0 3.7-3.11 cpu cu116 cu117 | 1.13.1 0.14.1 3.7-3.11 cpu cu116 cu117 |
2.0.0 0.15.1 3.8-3.11 cpu cu118 pypi:11.7 | 2.0.1 0.15.2 3.8-3.11 cpu cu118 pypi:11.7 |
2.1.0 0.16.0 3.8-3.11 cpu cu118 cu121 | 2.1.1 0.16.1 3.8-3.11 cpu cu118 cu121 | 2.1.2 0.16.2 3.8-3.11 cpu cu118 cu121 |
2.2.0 0.17.0 3.8-3.12 cpu cu118 cu121 | 2.2.1 0.17.1 3.8-3.12 cpu cu118 cu121 | 2.2.2 0.17.2 3.8-3.12 cpu cu118 cu121 |
2.3.0 0.18.0 3.8-3.12 cpu cu118 cu121 | 2.3.1 0.18.1 3.8-3.12 cpu cu118 cu121 |
2.4.0 0.19.0 3.8-3.12 cpu cu118 cu121 cu124 | 2.4.1 0.19.1 3.8-3.12 cpu cu118 cu121 cu124 |
2.5.0 0.20.0 3.9-3.12 cpu cu118 cu121 cu124 | 2.5.1 0.20.1 3.9-3.12 cpu cu118 cu121 cu124 |
2.6.0 0.21.0 3.9-3.13 cpu cu118 cu124 cu126 | 2.7.0 0.22.0 3.9-3.13 cpu cu118 cu126 cu128 |
2.7.1 0.22.1 3.9-3.13 cpu cu118 cu126 cu128 | 2.8.0 0.23.0 3.9-3.13 cpu cu126 cu128 cu129 |
2.9.0 0.24.0 3.10-3.14 cpu cu126 cu128 cu130 | 2.9.1 0.24.1 3.10-3.14 cpu cu126 cu128 cu130 |
2.10.0 0.25.0 3.10-3.14 cpu cu126 cu128 cu130 | 2.11.0 0.26.0 3.10-3.14 cpu cu126 cu128 cu129 cu130"""
# tensorflow, CUDA, cuDNN, Pythons
TENSORFLOW_ROWS = """
2.4.0 11.0 8 3.7-3.8 | 2.5.0 11.2 8 3.7-3.9 | 2.6.0 11.2 8 3.7-3.9 | 2.7.0 11.2 8 3.7-3.9 | 2.8.0 11.2 8 3.7-3.10 |
2.9.0 11.2 8 3.7-3.10 | 2.10.0 11.2 8 3.7-3.10 | 2.11.0 11.2 8 3.7-3.10 | 2.12.0 11.8 8 3.8-3.11 |
2.13.0 11.8 8 3.8-3.11 | 2.14.0 11.8 8 3.9-3.11 | 2.15.0 12.2 8 3.9-3.11 | 2.16.1 12.3 8 3.9-3.12 |
2.17.0 12.3 8 3.9-3.12 | 2.18.0 12.5 9 3.9-3.12 | 2.19.0 12.5 9 3.9-3.12 | 2.20.0 12.5 9 3.9-3.13 |
2.21.0 12.5 9 3.10-3.13"""
# apt names that newer distributions dropped, and what every supported one has in their place.
APT_SUCCESSORS = {
    "ffprobe": "ffmpeg", "libegl1-mesa": "libegl1", "libgl1-mesa-glx": "libgl1", "libgles2-mesa": "libgles2",
    "libjpeg8-dev": "libjpeg-dev", "libncurses5-dev": "libncurses-dev", "libpng12-dev": "libpng-dev",
    "libtiff5-dev": "libtiff-dev", "netcat": "netcat-openbsd", "python-dev": "python3-dev",
    "python-pip": "python3-pip", "ttf-dejavu": "fonts-dejavu",
}
# the same for names whose successor depends on the distribution: the build tries the first, then the second
APT_MOVED = {
    "chromium-browser": "chromium", "chromium-chromedriver": "chromium-driver", "freeglut3": "libglut3.12",
    "libappindicator1": "libayatana-appindicator1", "libasound2": "libasound2t64",
    "libatlas-base-dev": "libopenblas-dev", "libavcodec58": "ffmpeg", "libavformat58": "ffmpeg",
    "libavutil56": "ffmpeg", "libdc1394-22-dev": "libdc1394-dev", "libegl1-mesa-dev": "libegl-dev",
    "libffi6": "libffi8", "libffi7": "libffi8", "libfftw3-3": "libfftw3-double3",
    "libgdk-pixbuf2.0-0": "libgdk-pixbuf-2.0-0", "libgdk-pixbuf2.0-dev": "libgdk-pixbuf-2.0-dev",
    "libgles2-mesa-dev": "libgles-dev", "libglew2.1": "libglew2.2", "libjpeg-turbo8": "libjpeg62-turbo",
    "libjpeg-turbo8-dev": "libjpeg-dev", "libjpeg8": "libjpeg62-turbo",
    "libmysqlclient-dev": "default-libmysqlclient-dev", "libncurses5": "libncurses6",
    "libopenblas-base": "libopenblas0", "libpango1.0-0": "libpango-1.0-0", "libpng12-0": "libpng16-16",
    "libssl1.1": "libssl3", "libswscale5": "ffmpeg", "libtbb2": "libtbb12", "libtiff5": "libtiff6",
    "libtinfo5": "libtinfo6", "libwebp6": "libwebp7", "lsb-core": "lsb-release", "lzma-dev": "liblzma-dev",
    "openjdk-11-jdk": "default-jdk", "openjdk-11-jre": "default-jre",
    "openjdk-11-jre-headless": "default-jre-headless", "openjdk-17-jdk": "default-jdk",
    "openjdk-17-jre": "default-jre", "openjdk-17-jre-headless": "default-jre-headless",
    "openjdk-8-jdk": "default-jdk", "openjdk-8-jre": "default-jre", "python3-distutils": "python3-setuptools",
    "unrar": "unrar-free", "youtube-dl": "yt-dlp",
}
TOP_KEYS = ("build", "image", "model", "run", "predict", "train", "concurrency", "environment", "observability",
            "weights")
BUILD_KEYS = ("python_version", "gpu", "cuda", "cudnn", "python_requirements", "python_packages", "system_packages",
              "run", "pre_install", "sdk_version")
RESERVED_NAMES = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "PYTHONUNBUFFERED", "LIBRARY_PATH",
                  "HF_ENDPOINT", "HF_HUB_ENABLE_HF_TRANSFER")
RESERVED_PREFIXES = ("R8_", "REPLICATE_", "CUDA_", "NVIDIA_", "NV_", "PGET_", "KUBERNETES_")
FOLDER_REMEDY = "code of the project is imported from /src: leave it out, or name a wheel of it"
ARTIFACT_SUFFIXES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
INDEX_OPTIONS = {"-f": "--find-links", "-i": "--index-url", "--find-links": "", "--index-url": "",
                 "--extra-index-url": "", "--trusted-host": ""}
NUMPY_2_TORCH = (2, 3)  # the first torch that was built for numpy 2
TRACING_SDK, TRACING_PYTHON = (0, 23), (3, 10)  # the oldest that trace
SAMPLERS = ("always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off",
            "parentbased_traceidratio")
TRACE_KEYS = ("enabled", "sampler", "sampler_arg", "trace_header", "trace_header_format")
TAKEN_HEADERS = ("authorization", "cookie", "host", "traceparent", "tracestate")
GLOBAL_OPTIONS = ("--pre", "--no-index", "--prefer-binary", "--require-hashes")


class SecretMount(NamedTuple):
    """A secret of the build that one run step sees as a file."""

    id: str
    target: str


class RunStep(NamedTuple):
    """One command of `build.run` or `build.pre_install`."""

    command: str
    mounts: tuple[SecretMount, ...] = ()


class Tracing(NamedTuple):
    """`observability` with its traces enabled."""

    sampler: str = "parentbased_always_off"
    sampler_arg: str = ""  # the share of a ratio sampler, 0 to 1
    header: str = ""  # one more HTTP header that brings a trace
    header_format: str = "w3c"
    file: str = ""  # FILE.py that makes the tracer provider of the model's Python, relative to the project


class Config(NamedTuple):
    """What cog.yaml says. Texts are as written; empty means absent. References are FILE.py:NAME, NAME may be empty."""

    project: str = ""  # the folder that is seen at /src
    file_name: str = "cog.yaml"  # the config's name inside it
    python_version: str = ""
    gpu: bool = False
    cuda: str = ""
    cudnn: str = ""
    torch: str = ""
    torch_limit: str = ""  # the newest that an open torch may come to, as the CUDA has no newer one
    tensorflow: str = ""
    python_requirements: str = ""  # the requirements file, as named
    python_packages: tuple[str, ...] = ()  # as named
    requirements: tuple[str, ...] = ()  # lines for pip, from either; options first
    artifacts: tuple[str, ...] = ()  # local files that those lines name, relative to the project
    system_packages: tuple[str, ...] = ()
    run: tuple[RunStep, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    image: str = ""
    model: str = ""
    predict: str = ""
    train: str = ""
    places: tuple[tuple[str, str], ...] = ()  # FILE:LINE of some keys, such as predict; of "", the file
    sdk_version: str = ""
    concurrency_max: int = 0
    tracing: Tracing | None = None
    warnings: tuple[str, ...] = ()

    def warned(self, *texts: str, **changes: Any) -> Config:
        """The config with these warnings as well, each once, and other values changed."""
        return self._replace(warnings=tuple(dict.fromkeys((*self.warnings, *texts))), **changes)


# -- versions


def version_numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version; what follows them does not count.

    >>> version_numbers("2.10.0+cu118"), version_numbers("2.1rc1"), version_numbers("x")
    ((2, 10, 0), (2, 1), ())
    """
    import re

    found = re.match(r"\s*v?(\d+(?:\.\d+)*)", text)
    return tuple(int(number) for number in found[1].split(".")) if found else ()


def versions_match(one: str, other: str) -> bool:
    """Whether two versions have the same major.minor, and the same patch where both have one.

    >>> versions_match("2.3", "2.3.1"), versions_match("2.3.0", "2.3.1"), versions_match("2", "2.3")
    (True, False, True)
    """
    a, b = version_numbers(one), version_numbers(other)
    return bool(a and b) and all(x == y for x, y in zip(a[:3], b[:3]))


def satisfies(version: str, specifier: str) -> bool:
    """Whether a release satisfies a comma-separated specifier; what follows the numbers of a version is ignored.

    >>> satisfies("2.1.2", ">=2.0,<2.2"), satisfies("2.2.0", "~=2.1"), satisfies("2.2.0", "~=2.1.0")
    (True, True, False)
    >>> satisfies("2.1.2", "==2.1.*"), satisfies("2.1.2", "!=2.1.2")
    (True, False)
    """
    import re

    have = (*version_numbers(version), 0, 0, 0)[:4]
    for operator, wanted in re.findall(r"(===|==|~=|!=|<=|>=|<|>)\s*([^\s,]+)", specifier):
        numbers = version_numbers(wanted)
        want = (*numbers, 0, 0, 0)[:4]
        same = have[:len(numbers)] == numbers if wanted.endswith(".*") else have == want
        fine = {"==": same, "===": same, "!=": not same, "<=": have <= want, ">=": have >= want, "<": have < want,
                ">": have > want, "~=": have >= want and have[:max(1, len(numbers) - 1)] == numbers[:-1]}
        if not fine[operator]:
            return False
    return True


def python_fits(python_version: str, span: str) -> bool:
    """Whether a Python lies in a span of the table, such as 3.8-3.11.

    >>> python_fits("3.10.4", "3.8-3.11"), python_fits("3.12", "3.8-3.11")
    (True, False)
    """
    low, _, high = span.partition("-")
    return version_numbers(low) <= version_numbers(python_version)[:2] <= version_numbers(high)


class CudaImage(NamedTuple):
    """One base image of the table."""

    cuda: str
    cudnn: str
    ubuntu: str

    @property
    def name(self) -> str:
        tag = "cudnn" if version_numbers(self.cuda) >= (12, 4) else f"cudnn{self.cudnn}"
        return f"nvidia/cuda:{self.cuda}-{tag}-devel-ubuntu{self.ubuntu}"


class TorchRow(NamedTuple):
    """One build of torch: `cuda` is empty for CPU, `index_url` is empty where the default index has it."""

    torch: str
    torchvision: str
    pythons: str
    cuda: str
    index_url: str


class TensorflowRow(NamedTuple):
    """One release of TensorFlow."""

    tensorflow: str
    cuda: str
    cudnn: str
    pythons: str


def list_cuda_images() -> list[CudaImage]:
    """The table of CUDA images, oldest first."""
    return [CudaImage(cuda, "8" if version_numbers(cuda) < (12, 3) else "9", ubuntu)
            for ubuntu, versions in CUDA_IMAGES.items() for cuda in versions.split()]


def list_torch_rows() -> list[TorchRow]:
    """The table of torch builds, oldest first, lowest CUDA first."""
    rows = []
    for line in TORCH_ROWS.split("|"):
        torch, vision, pythons, *builds = line.split()
        for build in builds:
            cuda = build[5:] if build.startswith("pypi:") else f"{build[2:4]}.{build[4:]}" if build != "cpu" else ""
            index = "" if build.startswith("pypi:") else TORCH_INDEX.format(build)
            rows.append(TorchRow(torch, vision, pythons, cuda, index))
    return sorted(rows, key=lambda row: (version_numbers(row.torch), version_numbers(row.cuda)))


def list_tensorflow_rows() -> list[TensorflowRow]:
    """The table of TensorFlow releases, oldest first."""
    return [TensorflowRow(*line.split()) for line in TENSORFLOW_ROWS.split("|")]


def find_cuda_image(cuda: str, cudnn: str = "") -> CudaImage:
    """The newest image for a CUDA, else the nearest one: of the same major below it, else the lowest above it.

    >>> find_cuda_image("11.6", "8").name
    'nvidia/cuda:11.6.2-cudnn8-devel-ubuntu20.04'
    >>> find_cuda_image("11.5.1").cuda, find_cuda_image("12.7").cuda, find_cuda_image("10.2").cuda
    ('11.5.2', '12.6.3', '11.0.3')
    """
    images = list_cuda_images()
    wanted = version_numbers(cuda)
    numbered = [(version_numbers(image.cuda), image) for image in images]
    for choice in (
        [image for image in images if versions_match(image.cuda, cuda) and cudnn in ("", image.cudnn)],
        [image for image in images if versions_match(image.cuda, cuda)],
        [image for numbers, image in numbered if numbers[:2] == wanted[:2]],
        [image for numbers, image in numbered if numbers[0] == wanted[0] and numbers <= wanted],
        [image for numbers, image in numbered if numbers > wanted][:1],
    ):
        if choice:
            return choice[-1]
    return images[-1]


# -- requirement lines


class Requirement(NamedTuple):
    """One line for pip: a requirement (PEP 508) with its options, or options alone (no name, no url)."""

    name: str = ""
    extras: str = ""  # with its brackets
    specifier: str = ""
    marker: str = ""
    url: str = ""  # also a local path
    options: tuple[str, ...] = ()
    comment: str = ""

    @property
    def key(self) -> str:
        """The name as indexes compare it; for a bare URL what follows egg= in it."""
        import re

        egg = re.search(r"[#&]egg=([A-Za-z0-9._-]+)", self.url)
        return re.sub(r"[-_.]+", "-", self.name or (egg[1] if egg else "")).lower()

    @property
    def version(self) -> str:
        """The version of the first specifier of any kind, without a +local part and a trailing .*"""
        import re

        found = re.search(r"[=~<>!]=?=?\s*([^\s,;)]+)", self.specifier)
        return found[1].partition("+")[0].replace(".*", "") if found else ""

    @property
    def local(self) -> str:
        """The +local part of the version, such as cu118."""
        return self.specifier.partition("+")[2].partition(",")[0].strip()


def parse_options(text: str) -> tuple[str, ...]:
    """pip's options, each with its value, the short names of index options written out.

    >>> parse_options("-f https://a --hash=sha256:1 --pre")
    ('--find-links https://a', '--hash=sha256:1', '--pre')
    """
    found: list[str] = []
    for word in text.split():
        name, equals, value = word.partition("=")
        if word.startswith("-"):
            name = INDEX_OPTIONS.get(name) or name
            found.append(f"{name} {value}" if equals and name in INDEX_OPTIONS else name + equals + value)
        elif found:
            found[-1] += f" {word}"
    return tuple(found)


def parse_requirement(line: str) -> Requirement:
    """One logical line of a requirements file. Raises ValueError: neither an option, a URL, a path nor PEP 508.

    >>> parse_requirement("ruamel.yaml==1 ; python_version<'3.9'  # why")._asdict()
    ... # doctest: +NORMALIZE_WHITESPACE
    {'name': 'ruamel.yaml', 'extras': '', 'specifier': '==1', 'marker': "python_version<'3.9'", 'url': '',
     'options': (), 'comment': 'why'}
    >>> parse_requirement("git+https://h/r@main#subdirectory=x").url
    'git+https://h/r@main#subdirectory=x'
    >>> parse_requirement("./x.whl; python_version<'3'")[3:5]
    ("python_version<'3'", './x.whl')
    >>> parse_requirement("torch[a, b] >= 2.0, < 3 -f https://x")[:3]
    ('torch', '[a, b]', '>= 2.0, < 3')
    >>> [parse_requirement(line).options for line in ("a -i https://x", "-i https://x")]
    [('--extra-index-url https://x',), ('--index-url https://x',)]
    """
    import re

    text, _, comment = re.sub(r"(^|\s+)#", "\n", line.strip(), count=1).partition("\n")
    if text.startswith("-"):
        return Requirement(options=parse_options(text), comment=comment.strip())
    body, *rest = re.split(r"\s+(?=--?[A-Za-z])", text, maxsplit=1)
    options = tuple("--extra" + option[1:] if option.startswith("--index-url ") else option  # others stay found
                    for option in parse_options("".join(rest)))
    comment = comment.strip()
    name = r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(\[[^\]]*\])?\s*"
    found = re.match(rf"{name}@\s*(\S+)\s*(?:;\s*(.*))?$", body)
    if found:
        return Requirement(found[1], found[2] or "", "", found[4] or "", found[3], options, comment)
    place, _, marker = re.sub(r"\s;\s*|;\s+", "\n", body, count=1).partition("\n")
    if "://" in place or place.startswith((".", "/", "file:")) or place.lower().endswith(ARTIFACT_SUFFIXES):
        return Requirement("", "", "", marker, place, options, comment)
    versions = r"\(?\s*((?:(?:===|==|~=|!=|<=|>=|<|>)\s*[^\s,;()]+\s*,?\s*)*)\)?"
    found = re.match(rf"{name}{versions}\s*(?:;\s*(.*))?$", body)
    if not found:
        raise ValueError(body)
    return Requirement(found[1], found[2] or "", found[3].strip().rstrip(","), found[4] or "", "", options, comment)


def render_requirement(requirement: Requirement) -> str:
    """The line that pip reads, without its comment.

    >>> render_requirement(parse_requirement("a [x]==1; python_version<'3.9' --hash=sha256:1 # why"))
    "a[x]==1 ; python_version<'3.9' --hash=sha256:1"
    """
    named = requirement.name + requirement.extras
    if requirement.url:
        body = f"{named} @ {requirement.url}" if named else requirement.url
    else:
        body = named + requirement.specifier
    marker = f"; {requirement.marker}" if requirement.marker else ""
    return " ".join(word for word in (body, marker, *requirement.options) if word)


def hoists(option: str) -> bool:
    """Whether an option speaks for the whole file, so that it belongs on a line of its own."""
    return option.split()[0] in INDEX_OPTIONS or option in GLOBAL_OPTIONS


# -- cog.yaml


class Reading:
    """The reading of one cog.yaml: gathers faults and warnings, and turns YAML nodes into values."""

    def __init__(self, file_name: str, read: Callable[[str], str]) -> None:
        self.file_name, self.read = file_name, read
        self.faults: list[str] = []
        self.warnings: list[str] = []

    def fault(self, where: Any, found: str, accepted: str) -> None:
        """Note a fault; `where` is a node, or FILE:LINE."""
        self.faults.append(f"{where if isinstance(where, str) else self.place(where)}: {found}; {accepted}")

    def warn(self, where: Any, text: str) -> None:
        self.warnings.append(f"{where if isinstance(where, str) else self.place(where)}: {text}")

    def place(self, node: Any) -> str:
        return f"{self.file_name}:{node.start_mark.line + 1}"

    def mapping(self, node: Any, path: str, keys: tuple[str, ...]) -> dict[str, Any]:
        """The values of a mapping node by key, without nulls; unknown keys warn, with the nearest known one."""
        if is_null(node):
            return {}
        if node.id != "mapping":
            self.fault(node, f"{path or 'the file'} is {describe_node(node)}",
                       f"it takes keys, such as {keys[0]}, each with a colon")
            return {}
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            name = str(key.value) if key.id == "scalar" else ""
            if key.tag.endswith(":merge") and value.id == "mapping":
                for inner, merged in value.value:
                    values.setdefault(str(inner.value), merged)
            elif name in lines and value.id == "scalar" and value.value == values[name].value:
                self.warn(key, f'the key "{name}" stands here and in line {lines[name]}, with the same value')
            elif name in lines:
                self.fault(key, f'the key "{name}" stands here and in line {lines[name]}', "each key can be given once")
            elif name in keys:
                lines[name], values[name] = key.start_mark.line + 1, value
            else:
                self.warn(key, unknown_key(name, path, keys))
        return {name: value for name, value in values.items() if not is_null(value) and name in keys}

    def text(self, node: Any, path: str, takes: str = 'it takes one text, in quotes if it has ": " in it') -> str:
        """A scalar's own text, stripped."""
        if not is_null(node) and node.id != "scalar":
            self.fault(node, f"{path} is {describe_node(node)}", takes)
        return str(node.value).strip() if not is_null(node) and node.id == "scalar" else ""

    def flag(self, node: Any, path: str) -> bool:
        """True or false, in any of YAML's words."""
        text = self.text(node, path).lower()
        if text not in ("", "true", "yes", "on", "y", "false", "no", "off", "n"):
            self.fault(node, f'{path} is "{text}"', "it takes true or false")
        return text in ("true", "yes", "on", "y")

    def items(self, node: Any, path: str) -> list[Any]:
        """The nodes of a list, without nulls."""
        if not is_null(node) and node.id != "sequence":
            self.fault(node, f"{path} is {describe_node(node)}", "it takes a list, one `- item` a line")
        return [item for item in node.value if not is_null(item)] if getattr(node, "id", "") == "sequence" else []

    def texts(self, node: Any, path: str) -> list[tuple[str, str]]:
        """The items of a list of texts, each with its FILE:LINE."""
        found = [(self.place(item), self.text(item, f"an item of {path}")) for item in self.items(node, path)]
        return [(place, text) for place, text in found if text]


def is_null(node: Any) -> bool:
    """Whether a YAML node says nothing: absent, empty, null or ~."""
    return node is None or bool(node.tag.endswith(":null"))


def describe_node(node: Any) -> str:
    """What a YAML node is, in the words of someone who wrote it."""
    if node.id == "scalar":
        return f'the text "{node.value}"'
    if node.id == "sequence":
        return "a list"
    return f"a mapping with the keys {', '.join(str(key.value) for key, _ in node.value)}"


def unknown_key(name: str, path: str, keys: tuple[str, ...]) -> str:
    """A warning that names a key and the nearest one that is known.

    >>> unknown_key("python_verison", "build", BUILD_KEYS)
    'unknown key "python_verison" in build is ignored; did you mean "python_version"?'
    """
    import difflib

    close = [key for key in keys if name.startswith(f"{key}_")] or difflib.get_close_matches(name, keys, 1)
    elsewhere = '; it belongs under "build:"' if not path and name in BUILD_KEYS else ""
    elsewhere = "; it belongs at the left margin" if path and name in TOP_KEYS else elsewhere
    more = f'; did you mean "{close[0]}"?' if close else elsewhere
    return f'unknown key "{name}"{f" in {path}" if path else ""} is ignored{more}'


def read_yaml_nodes(text: str) -> Any:
    """The root node of a YAML text, by the part of PyYAML that reads nodes: cog.pyz holds no more of it."""
    from yaml.composer import Composer
    from yaml.parser import Parser
    from yaml.reader import Reader as TextReader
    from yaml.resolver import Resolver
    from yaml.scanner import Scanner

    class NodeReader(TextReader, Scanner, Parser, Composer, Resolver):
        def __init__(self, text: str) -> None:
            TextReader.__init__(self, text)
            for part in (Scanner, Parser, Composer, Resolver):
                part.__init__(self)

    return NodeReader(text).get_single_node()


def compose_yaml(text: str, file_name: str) -> Any:
    """The root node of a YAML text, None when it is empty. Raises ConfigError: not YAML, or not one document."""
    import re

    try:
        from yaml.error import MarkedYAMLError, YAMLError
    except ImportError as error:
        raise CogError("cogpredict.py needs PyYAML to read a cog.yaml",
                       hint="python3 -m pip install PyYAML; cog.pyz has it inside") from error
    try:
        return read_yaml_nodes(text.lstrip("\ufeff"))
    except RecursionError as error:
        raise ConfigError(f"{file_name}:1: nested too deeply; cog.yaml has three levels") from error
    except MarkedYAMLError as error:
        spaced = re.sub(r"(?m)(?<=\S)[ \t]*\t[ \t]*", " ", text)  # other readers of YAML take a tab between words
        if "\\t" in str(error.problem) and spaced != text:
            return compose_yaml(spaced, file_name)
        mark = error.context_mark if "simple key" in str(error.context) else error.problem_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{file_name}:{line}: {explain_yaml(text, line, str(error.problem))}") from error
    except YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        raise ConfigError(f"{file_name}:{line}: invalid YAML: a character that YAML does not allow; "
                          "save the file as plain UTF-8 text") from error


def explain_yaml(text: str, line: int, problem: str) -> str:
    """A YAML parser's complaint about a line, in terms of cog.yaml."""
    here = [*text.splitlines(), "", ""][line - 1]
    at = f"invalid YAML: {problem}"
    if "\t" in here[: len(here) - len(here.lstrip())] or "\\t" in problem:
        return f"{at}; the line is indented with a tab: use spaces"
    if "could not find expected ':'" in problem or "expected <block end>" in problem:
        if not here.lstrip().startswith("- ") and ": " not in f"{here} ":
            return f"{at}; a list item without its dash? write `- {here.strip()}`, indented as its neighbours"
        return f"{at}; write `key: value`, list items as `- item`, and indent what belongs together alike"
    if "mapping values are not allowed" in problem:
        above = ([text for text in text.splitlines()[:line - 1] if text.split("#")[0].strip()] or [""])[-1].strip()
        if above.partition(":")[0] in (*TOP_KEYS, *BUILD_KEYS) and ": " not in f"{above} ":
            return f"{at}; the line above, `{above}`, needs a space behind its colon"
        return f"{at}; one colon too many, or an indentation unlike the line above: put texts with `: ` in quotes"
    if "alias" in problem or "cannot start any token" in problem or "expected alphabetic" in problem:
        return f"{at}; put texts that start with * & % @ ` ! in quotes"
    if "single document" in problem or "document" in problem:
        return f"{at}; cog.yaml is one document: remove the `---` lines"
    return f"{at}; check the quotes, brackets and indentation of this line and the one above"


def read_python_version(reading: Reading, node: Any) -> str:
    """`build.python_version`, checked: 3.7 or newer, with or without a patch."""
    import re

    text = reading.text(node, "build.python_version")
    found = f'build.python_version is "{text}"'
    numbers = version_numbers(text)
    if text and re.fullmatch(r"\d+", text):
        reading.fault(node, found, 'must include major and minor version, for example python_version: "3.12"')
    elif text and not re.fullmatch(r"\d+\.\d+(\.\d+\w*)?", text):
        reading.fault(node, found, 'invalid version number; write it like python_version: "3.12"')
    elif text and not (3, 7) <= numbers[:2] < (4,):
        reading.fault(node, found, 'minimum supported Python version is 3.7; write python_version: "3.12"')
    elif numbers[:2] > NEWEST_PYTHON:
        reading.warn(node, f"{found}, newer than any that is known here ({NEWEST_PYTHON[0]}.{NEWEST_PYTHON[1]})")
    return text


def read_cuda(reading: Reading, build: dict[str, Any]) -> tuple[str, str]:
    """`build.cuda` and `build.cudnn`, checked against the table; an unlisted CUDA warns and becomes the nearest one,
    and one older than all of them is left to the model's packages."""
    cuda, cudnn = reading.text(build.get("cuda"), "build.cuda"), reading.text(build.get("cudnn"), "build.cudnn")
    listed = sorted({version_numbers(image.cuda)[:2] for image in list_cuda_images()})
    accepted = f"it takes one of {', '.join(f'{major}.{minor}' for major, minor in listed)}"
    numbers = version_numbers(cuda)
    minors = [version for version in listed if version[:1] == numbers]
    if minors:
        numbers, text = minors[-1], cuda
        cuda = ".".join(map(str, numbers))
        reading.warn(build["cuda"], f'build.cuda is "{text}", without a minor version; the newest is taken: {cuda}')
    if cuda and (not numbers or ".".join(map(str, numbers)) != cuda):
        reading.fault(build["cuda"], f'build.cuda is "{cuda}"', accepted)
        return "", cudnn
    if cuda and numbers[:2] < listed[0]:
        reading.warn(build["cuda"], f"there is no base image for CUDA {cuda}; the one that the model's torch or "
                                    f"TensorFlow is built for is taken, else {DEFAULT_CUDA}")
        cuda = ""
    elif cuda and not any(versions_match(image.cuda, cuda) for image in list_cuda_images()):
        nearest = find_cuda_image(cuda).cuda
        nearest = nearest if numbers[:2] == version_numbers(nearest)[:2] else ".".join(nearest.split(".")[:2])
        reading.warn(build["cuda"], f"there is no base image for CUDA {cuda}; the nearest one is taken: {nearest}")
        cuda = nearest
    fitting = sorted({image.cudnn for image in list_cuda_images() if not cuda or versions_match(image.cuda, cuda)})
    if cudnn and cudnn.split(".")[0] not in fitting:
        for_cuda = f" for CUDA {cuda}" if cuda else ""
        reading.fault(build["cudnn"], f'build.cudnn is "{cudnn}"',
                      f"compatible CuDNN versions{for_cuda} are: {', '.join(fitting)}")
    return cuda, cudnn.split(".")[0]


def read_run_steps(reading: Reading, node: Any, path: str) -> tuple[RunStep, ...]:
    """The commands of `build.run` or `build.pre_install`: texts, or mappings with mounts."""
    steps = []
    for item in reading.items(node, path):
        entry = {"command": item}
        if item.id == "mapping":
            entry = reading.mapping(item, f"an item of {path}", ("command", "mounts"))
        text = reading.text(entry.get("command"), f"the command of {path}")
        command = "\n".join(line.rstrip() for line in text.splitlines())
        if item.start_mark.line < item.end_mark.line and " \\ " in command:  # YAML made a space of its line end
            command = command.replace(" \\ ", " ")
        if not command and item.id == "mapping":
            reading.fault(item, f"an item of {path} has no command",
                          'write command: and the shell command, or the command alone, in quotes if it has ": " in it')
        if any(not line.endswith("\\") for line in command.splitlines()[:-1]):
            reading.fault(item, f'{path} has a command of several lines, "{command.splitlines()[0]}" and more',
                          "it takes one command an item: make an item of each, or join them with &&")
        if command.rstrip("\\ "):
            mounts = read_mounts(reading, entry.get("mounts"), f"the mounts of {path}")
            steps.append(RunStep(command.rstrip("\\ "), mounts))
    return tuple(steps)


def read_mounts(reading: Reading, node: Any, path: str) -> tuple[SecretMount, ...]:
    """The secrets of one run step."""
    mounts = []
    for item in reading.items(node, path):
        entry = reading.mapping(item, path, ("type", "id", "target"))
        kind, name, target = (reading.text(entry.get(key), f"{key} in {path}") for key in ("type", "id", "target"))
        if kind != "secret" or not name or not target or any(c in name + target for c in ', "\n'):
            reading.fault(item, f'{path} has type "{kind}", id "{name}", target "{target}"',
                          "each takes type: secret, an id and a target path")
        mounts.append(SecretMount(name, target))
    return tuple(mounts)


def read_environment(reading: Reading, node: Any) -> tuple[tuple[str, str], ...]:
    """`environment` as pairs, in order; names that the build or the runtime owns are faults."""
    import re

    values: dict[str, str] = {}
    if getattr(node, "id", "") == "mapping" and any(key.value in BUILD_KEYS for key, _ in node.value):
        reading.fault(node, f"environment is {describe_node(node)}", "today these stand under build:")
        return ()
    for place, text in reading.texts(node, "environment"):
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\n" in value:
            reading.fault(place, f'environment has "{text.splitlines()[0]}", which is not in the KEY=VALUE format',
                          "write it like - NAME=value, on one line, NAME of letters, digits and _")
        elif name in values:
            reading.fault(place, f"environment variable {name} is already defined", "each can be given once")
        elif name in RESERVED_NAMES or name.startswith(RESERVED_PREFIXES):
            reading.fault(place, f"environment variable {name} is not allowed: reserved for internal use",
                          "set it in setup(), or for one run with -e")
        values.setdefault(name, value)
    return tuple(values.items())


def read_reference(reading: Reading, node: Any, key: str) -> str:
    """FILE.py:NAME of `run`, `predict` or `train`; NAME is empty where the file alone is given."""
    example = {"run": "run.py:Runner", "train": "train.py:Trainer"}.get(key, "predict.py:Predictor")
    if node is not None and node.id != "scalar":
        reading.fault(node, f"{key} is {describe_node(node)}", f'write it as {key}: "{example}"')
        return ""
    text = reading.text(node, key)
    if text.startswith("/src/"):  # where the project lies in the image
        text = text[len("/src/"):]
        reading.warn(node, f"{key} is taken as {text}, from the folder of cog.yaml, which the image has as /src")
    file, dot, name = text.partition(".py:")
    if text.endswith(".py") and " " not in text:  # a command that runs a file names none
        file, dot, name = text[:-3], ".py:", ""
    parts = file.split("/")
    if text and (not dot or not file or ".py:" in name or not (name.isidentifier() or not name)):
        reading.fault(node, f'invalid {key} "{text}"', f"it must be in the form '{example}'")
    elif text and (text.startswith("/") or ".." in parts):
        reading.fault(node, f'{key} "{text}" lies outside the project', "it takes a path inside the folder of cog.yaml")
    return f"{file}.py:{name}" if text else ""


def read_concurrency(reading: Reading, node: Any, python_version: str) -> int:
    """`concurrency.max`, or the number that stands in its place; 0 when absent."""
    if is_null(node):
        return 0
    if node.id == "mapping":
        entry = reading.mapping(node, "concurrency", ("max", "default_target"))
        if "max" not in entry:
            reading.fault(node, "concurrency has no max", "write max: and a number, 1 or more")
            return 0
        node = entry["max"]
    text = reading.text(node, "concurrency.max")
    if not text.isdecimal() or not 1 <= int(text[:9]) < 10**6:
        reading.fault(node, f'concurrency.max is "{text}"', "it takes a number, 1 or more")
        return 0
    if int(text) > 1 and version_numbers(python_version or DEFAULT_PYTHON)[:2] < CONCURRENT_PYTHON:
        reading.warn(node, f"concurrency requires Python 3.11 or higher, python_version is {python_version}; "
                           "predictions run one at a time")
        return 1
    return int(text)


def read_tracing(reading: Reading, node: Any) -> Tracing | None:
    """`observability`, where its traces are enabled."""
    top = reading.mapping(node, "observability", ("config", "traces"))
    traces = reading.mapping(top.get("traces"), "observability.traces", TRACE_KEYS)
    texts = {key: reading.text(traces.get(key), f"observability.traces.{key}") for key in TRACE_KEYS[1:]}
    found = Tracing(texts["sampler"] or Tracing().sampler, texts["sampler_arg"], texts["trace_header"],
                    texts["trace_header_format"] or Tracing().header_format, read_tracing_file(reading, top))
    is_enabled = reading.flag(traces.get("enabled"), "observability.traces.enabled")
    if "traces" in top and "enabled" not in traces:
        reading.fault(top["traces"], "observability.traces has no enabled", "write enabled: true")
    elif found.file and not is_enabled:
        reading.fault(top["config"], "observability.config stands there without traces",
                      "it takes traces: with enabled: true beside it")
    for key, problem, takes in list_tracing_faults(found):
        reading.fault(traces.get(key, top.get("traces")), f"observability.traces.{key} {problem}", takes)
    return found if is_enabled else None


def list_tracing_faults(tracing: Tracing) -> list[tuple[str, str, str]]:
    """What is wrong with the settings of traces: the key, what was found, what is accepted."""
    import re

    faults = []
    takes_ratio = tracing.sampler.endswith("ratio")
    if tracing.sampler not in SAMPLERS:
        faults.append(("sampler", f'is "{tracing.sampler}"', f"it takes one of {', '.join(SAMPLERS)}"))
    elif takes_ratio and not re.fullmatch(r"0*(\.\d+|[01](\.0*)?)", tracing.sampler_arg):
        faults.append(("sampler_arg", f'is "{tracing.sampler_arg}"', f"{tracing.sampler} takes a number from 0 to 1"))
    elif tracing.sampler_arg and not takes_ratio:
        faults.append(("sampler_arg", f"stands beside {tracing.sampler}", "only ratio samplers take it: leave it out"))
    if tracing.header and (tracing.header.lower() in TAKEN_HEADERS
                           or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", tracing.header)):
        faults.append(("trace_header", f'is "{tracing.header}"', "it takes the name of an HTTP header of its own"))
    if tracing.header_format not in ("w3c", "jaeger"):
        faults.append(("trace_header_format", f'is "{tracing.header_format}"', "it takes w3c or jaeger"))
    return faults


def read_tracing_file(reading: Reading, top: dict[str, Any]) -> str:
    """`observability.config`: a Python file of the project, as a path without detours."""
    text = reading.text(top.get("config"), "observability.config")
    path = os.path.normpath(text) if text else ""
    if not path:
        return ""
    if path.startswith(("/", "../")) or not path.endswith(".py"):
        reading.fault(top["config"], f'observability.config is "{text}"', "it takes a .py file inside the project")
        return ""
    try:
        reading.read(path)
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", "") or error
        reading.fault(top["config"], f'observability.config "{text}" cannot be read: {problem}',
                      "it takes a .py file, relative to the folder of cog.yaml")
    return path


def read_sdk_version(reading: Reading, node: Any) -> str:
    """`build.sdk_version`: a version of the cog package, or `prerelease`."""
    import re

    text = reading.text(node, "build.sdk_version")
    if text and text != "prerelease" and not re.fullmatch(r"\d+(\.\d+)*[-._]?[A-Za-z0-9.+-]*", text):
        reading.fault(node, f'build.sdk_version is "{text}"', "it takes a version, such as 0.16.12, or prerelease")
    elif text and text != "prerelease" and version_numbers(text) < OLDEST_SDK:
        oldest = ".".join(map(str, OLDEST_SDK))
        reading.fault(node, f"cog version {text} is below the minimum required version {oldest}",
                      "leave sdk_version out for the newest")
    return re.sub(r"-?(alpha|beta)[.]?(\d+)", lambda found: found[1][0] + found[2], text)


def read_names(reading: Reading, top: dict[str, Any]) -> tuple[str, str]:
    """`image` and `model`, of which one can be set; `weights` is refused."""
    image, model = reading.text(top.get("image"), "image"), reading.text(top.get("model"), "model")
    if image and model:
        reading.fault(top["model"], "both image and model are set", "only one of them can be set")
    if ".py:" in model:
        reading.fault(top["model"], f'model is "{model}"', f'today that is predict: "{model}"')
    elif model and ("@" in model or ":" in model.rpartition("/")[2]):
        reading.fault(top["model"], f'model is "{model}"', "it must be a bare repository, without a tag or digest")
    if "weights" in top:
        reading.fault(top["weights"], "weights: is not there yet", "`cog weights` does it today")
    return image, model


# -- the requirement lines of a config


def logical_lines(text: str, name: str) -> list[tuple[str, str]]:
    """The lines of a requirements file with their FILE:LINE: continued lines joined, blank and comment lines left out.

    >>> logical_lines("a==1 \\\\\\n  --hash=x\\n# no\\n\\nb", "r.txt")
    [('r.txt:1', 'a==1 --hash=x'), ('r.txt:5', 'b')]
    """
    found: list[tuple[str, str]] = []
    pending, started = "", 0
    for number, line in enumerate([*text.lstrip("\ufeff").splitlines(), ""], 1):
        started = started if pending else number
        if line.rstrip().endswith("\\") and not line.lstrip().startswith("#"):
            pending += line.rstrip()[:-1].strip() + " "
            continue
        whole, pending = (pending + line.strip()).strip(), ""
        if whole and not whole.startswith("#"):
            found.append((f"{name}:{started}", whole))
    return found


def read_requirements(reading: Reading, lines: list[tuple[str, str]], folder: str, seen: tuple[str, ...]) -> list[str]:
    """Requirement lines without comments: files that -r names are put in their place, local artifacts are named
    relative to the project as ./PATH."""
    kept: list[str] = []
    for place, text in lines:
        try:
            requirement = parse_requirement(text)
        except ValueError:
            name, _, version = (part.strip(" =") for part in text.partition("="))
            better = f", such as {name}=={version}" if version and name.replace("-", "_").isidentifier() else ""
            reading.fault(place, f'requirement "{text}" cannot be read', f"it takes what pip takes{better}")
            continue
        if not requirement.name + requirement.url:
            kept += [line for option in requirement.options
                     for line in read_option_line(reading, place, option, folder, seen)]
        elif not requirement.url:
            kept.append(render_requirement(requirement))
        else:
            kept += read_place(reading, place, requirement, folder)
    return kept


def read_option_line(reading: Reading, place: str, option: str, folder: str, seen: tuple[str, ...]) -> list[str]:
    """The lines that an option stands for: those of the file that -r names, nothing for -e ., else itself."""
    import re

    found = re.match(r"(-r|-e|-c|--\w+(?:-\w+)*)[\s=]*(.*)", option)
    name, value = (found[1], found[2].strip()) if found else (option, "")
    if "://" in value:
        return [option]
    if name in ("-r", "--requirement"):
        return read_requirements_file(reading, place, os.path.normpath(os.path.join(folder, value)), seen)
    if name in ("-c", "--constraint", "--find-links"):
        remedy = "name each wheel in it: ./a.whl" if name == "--find-links" else "write its lines here"
        reading.fault(place, f'requirement "{option}" names a local file', remedy)
        return []
    if name in ("-e", "--editable"):
        if value.rstrip("/") not in (".", ""):
            reading.fault(place, f'requirement "{option}" is a folder', FOLDER_REMEDY)
        return []
    return [option]


def read_requirements_file(reading: Reading, place: Any, path: str, seen: tuple[str, ...] = ()) -> list[str]:
    """The lines of a requirements file, relative to the project or absolute."""
    if path in seen:
        reading.fault(place, f'requirements file "{path}" includes itself', "remove one of the -r lines")
        return []
    if path.endswith((".toml", "poetry.lock", "uv.lock", "Pipfile.lock", ".yaml", ".yml")):
        reading.fault(place, f'requirements file "{path}" is of another tool',
                      "it takes what pip install -r takes: requirements.txt with one package a line")
        return []
    try:
        text = reading.read(path)
    except FileNotFoundError:
        reading.fault(place, f'requirements file "{path}" does not exist',
                      "it takes a file, relative to the folder of cog.yaml")
        return []
    except (OSError, ValueError) as error:
        reading.fault(place, f'requirements file "{path}" cannot be read: {error}', "it takes a text file in UTF-8")
        return []
    return read_requirements(reading, logical_lines(text, path), os.path.dirname(path), (*seen, path))


def read_place(reading: Reading, place: str, requirement: Requirement, folder: str) -> list[str]:
    """The line of a requirement that is a URL or a path. Faults: local folders, paths outside the project."""
    import re

    url = requirement.url
    if url.startswith("git+git://github.com/"):
        reading.warn(place, "GitHub does not answer git:// any more; https:// is taken instead")
        requirement = requirement._replace(url="git+https" + url[len("git+git"):])
    if "://" in url and not url.startswith("file:"):
        return [render_requirement(requirement)]
    path = os.path.normpath(os.path.join(folder, re.sub("^file:(//(?!/))?", "", url)))
    if path.startswith(("/", "../")):
        reading.fault(place, f'requirement "{url}" lies outside the project', "it takes a path inside it: ./a.whl")
    elif not url.lower().endswith(ARTIFACT_SUFFIXES):
        if path != ".":
            reading.fault(place, f'requirement "{url}" is a folder', FOLDER_REMEDY)
    elif requirement.extras or requirement.marker or requirement.options:
        reading.fault(place, f'requirement "{url}" is a local file with more beside it', "it takes the path alone")
    else:
        return [f"./{path}"]
    return []


def read_packages(reading: Reading, build: dict[str, Any]) -> tuple[tuple[str, ...], str, list[str]]:
    """`build.python_packages` and `build.python_requirements` as written, and the lines for pip of what is set."""
    packages = reading.texts(build.get("python_packages"), "build.python_packages")
    file = reading.text(build.get("python_requirements"), "build.python_requirements",
                        "it takes the name of a requirements file; a list of packages stands under python_packages")
    if packages and file:
        reading.fault(build["python_requirements"], "both python_packages and python_requirements are set",
                      "only one of python_packages or python_requirements can be set")
    listed = [(place, line) for place, item in packages for _, line in logical_lines(item, place)]
    lines = read_requirements(reading, listed, "", ())
    if file:
        lines += read_requirements_file(reading, build["python_requirements"], os.path.normpath(file))
    return tuple(item for _, item in packages), file, lines


def by_line(texts: list[str]) -> list[str]:
    """Texts that begin with FILE:LINE: in the order of the lines, each once."""
    import re

    return sorted(dict.fromkeys(texts), key=lambda text: int((re.findall(r":(\d+): ", text) or ["0"])[0]))


def parse_config(text: str, file_name: str, read: Callable[[str], str], project: str = "") -> Config:
    """A cog.yaml's text as a Config, as written. `read` gives the text of a requirements file, by a path relative to
    the project or absolute. Raises ConfigError: all faults, one a line."""
    reading = Reading(file_name, read)
    top = reading.mapping(compose_yaml(text, file_name), "", TOP_KEYS)
    build = reading.mapping(top.get("build"), "build", BUILD_KEYS)
    python_version = read_python_version(reading, build.get("python_version"))
    cuda, cudnn = read_cuda(reading, build)
    called = "predict" if "predict" in top else "run"
    if "run" in top and called == "predict" and top["run"].id == "sequence":
        reading.fault(top["run"], "run is a list", "build steps stand under build:, as build.run")
    elif "run" in top and called == "predict":
        reading.fault(top["run"], "both run and predict are set", "only one of run or predict can be set")
    packages, requirements_file, lines = read_packages(reading, build)
    image, model = read_names(reading, top)
    config = Config(
        project, file_name, python_version, reading.flag(build.get("gpu"), "build.gpu"), cuda, cudnn,
        python_requirements=requirements_file, python_packages=packages, requirements=tuple(lines),
        artifacts=tuple(dict.fromkeys(line[2:] for line in lines if line.startswith("./"))),
        system_packages=read_system_packages(reading, build.get("system_packages")),
        run=(*read_run_steps(reading, build.get("run"), "build.run"),
             *read_run_steps(reading, build.get("pre_install"), "build.pre_install")),
        environment=read_environment(reading, top.get("environment")), image=image, model=model,
        predict=read_reference(reading, top.get(called), called),
        train=read_reference(reading, top.get("train"), "train"),
        places=(("", f"{file_name}:1"), *((key, reading.place(top[name])) for key, name in
                                          (("predict", called), ("train", "train"), ("concurrency", "concurrency"),
                                           ("image", "image"), ("model", "model")) if name in top)),
        sdk_version=read_sdk_version(reading, build.get("sdk_version")),
        concurrency_max=read_concurrency(reading, top.get("concurrency"), python_version),
        tracing=read_tracing(reading, top.get("observability")),
    )
    if reading.faults:
        raise ConfigError("\n".join(by_line(reading.faults)))
    return config._replace(warnings=tuple(by_line(reading.warnings)))


def read_system_packages(reading: Reading, node: Any) -> tuple[str, ...]:
    """apt names of `build.system_packages`; an item may hold several, options of `apt-get install` among them, and
    a name a version or release after = or /. A range of versions, as pip has them, is dropped."""
    import re

    names: list[str] = []
    for place, text in reading.texts(node, "build.system_packages"):
        plain = re.sub(r"[\s,]*(?:[<>~]=|[<>])\s*[\w.+:~-]+", "", text)
        if plain != text:
            reading.warn(place, f'system package "{text}": apt takes no range of versions; {plain} is installed')
        for name in plain.split():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+:~-]*([=/][A-Za-z0-9.+:~*-]+)?|-[a-z]|--[a-z-]+", name):
                reading.fault(place, f'build.system_packages has "{name}"', "it takes names of apt packages")
            names.append(name)
    return tuple(dict.fromkeys(names))


def find_config(cwd: str, file: str) -> str:
    """The path of the config named by -f (cog.yaml): in the folder, else in the nearest parent that has it.
    Raises ConfigError: none is found."""
    folder = os.path.abspath(cwd)
    while True:
        path = os.path.join(folder, file)
        if os.path.isfile(path):
            return os.path.normpath(path)
        if folder == os.path.dirname(folder) or os.path.isabs(file):
            break
        folder = os.path.dirname(folder)
    hint = "go to the model's folder, name the file with -f, or name an image: cog.pyz predict IMAGE"
    if file == "cog.yaml" and os.path.isfile(os.path.join(cwd, "cog.yml")):
        hint = "this folder has a cog.yml: rename it to cog.yaml, or name it with -f cog.yml"
    raise ConfigError(f"{file} not found in {cwd} (or in any parent directories)", hint=hint)


def read_config(path: str, *, without_gpu: bool = False) -> Config:
    """The completed Config of a file; its folder is the project. `without_gpu`: as if it said `gpu: false`.
    Raises ConfigError: all faults, one a line."""
    project, file_name = os.path.split(os.path.abspath(path))

    def read(name: str) -> str:
        with open(os.path.join(project, name), "rb") as file:
            data = file.read()
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))  # as some shells write `pip freeze > requirements.txt`
        return data.decode("utf-16" if wide else "utf-8-sig").replace("\r\n", "\n")

    try:
        text = read(file_name)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", hint="it must be a text file in UTF-8") from error
    config = parse_config(text, file_name, read, project)
    return complete_config(config._replace(gpu=False, cuda="", cudnn="") if without_gpu else config)


# -- completion


def complete_config(config: Config) -> Config:
    """The config with Python, CUDA, cuDNN and the requirement lines settled by the table."""
    requirements = [parse_requirement(line) for line in config.requirements]
    if not config.python_version:
        config = config._replace(python_version=default_python(requirements))
        if requirements or config.system_packages or config.run or config.gpu:
            config = config.warned(f"cog.yaml has no python_version; Python {config.python_version} is taken")
    if config.gpu:
        config = complete_tensorflow(config, requirements)
    row, config = complete_torch(config, requirements)
    if config.gpu:
        config = complete_cuda(config, row)
    return complete_tracing(complete_packages(complete_requirements(config, requirements, row)))


def complete_tracing(config: Config) -> Config:
    """The config without `observability`, and a warning, where the runtime that it gets does not trace."""
    sdk = version_numbers(config.sdk_version)
    if config.tracing and (sdk and sdk < TRACING_SDK or version_numbers(config.python_version) < TRACING_PYTHON):
        needed, python = (".".join(map(str, numbers)) for numbers in (TRACING_SDK, TRACING_PYTHON))
        return config.warned(f"observability is left out: it needs Cog {needed} and Python {python} or newer",
                             tracing=None)
    return config


def complete_packages(config: Config) -> Config:
    """The config with apt names that are gone replaced by their successors, and a warning for each."""
    successors = {**APT_SUCCESSORS, **{name: f"where it is, {successor}" for name, successor in APT_MOVED.items()}}
    warnings = [f"system package {name} is gone from newer distributions; {successors[name]} takes its place"
                for name in config.system_packages if name in successors]
    packages = dict.fromkeys(APT_SUCCESSORS.get(name, name) for name in config.system_packages)
    return config.warned(*warnings, system_packages=tuple(packages))


def is_pin(requirement: Requirement) -> bool:
    """Whether a requirement names one version, or one series of patches."""
    return requirement.specifier.startswith("==") and "," not in requirement.specifier


def is_release(version: str) -> bool:
    """Whether a version is numbers alone: neither a nightly nor a candidate.

    >>> is_release("2.1.0"), is_release("2.1.0.dev20230801"), is_release("2.1rc1")
    (True, False, False)
    """
    return version.replace(".", "").isdecimal()


def default_python(requirements: list[Requirement]) -> str:
    """The Python of a config that names none: the default, or the newest that its pinned torch or TensorFlow has, or
    the newest torch that it lets in.

    >>> [default_python([parse_requirement(f"torch{limit}")]) for limit in ("==2.0.1", ">=2.0,<2.4", ">=2.0")]
    ['3.11', '3.12', '3.13']
    """
    torch = ",".join(item.specifier for item in requirements if item.key == "torch")
    open_to = [row.pythons.partition("-")[2] for row in list_torch_rows() if satisfies(row.torch, torch)]
    newest = max(open_to, key=version_numbers, default=DEFAULT_PYTHON)
    pinned = {item.key: item.version for item in requirements if is_pin(item)}
    spans = [row.pythons for row in list_torch_rows() if versions_match(row.torch, pinned.get("torch", ""))]
    spans += [row.pythons for row in list_tensorflow_rows()
              if versions_match(row.tensorflow, pinned.get("tensorflow", ""))]
    return min([DEFAULT_PYTHON, newest, *(span.partition("-")[2] for span in spans)], key=version_numbers)


def counts(requirement: Requirement, python: str) -> bool:
    """Whether a marker lets the requirement count on Linux and on a version of Python.

    >>> [counts(parse_requirement(f"a; python_version {limit}"), "3.11.4") for limit in ("< '3.11'", ">= '3.9'")]
    [False, True]
    >>> counts(parse_requirement("a; python_version < '3.9' or os_name == 'posix'"), "3.11")
    True
    """
    import re

    other = r"==\s*['\"](darwin|win32|Darwin|Windows|nt)['\"]|!=\s*['\"](linux|Linux|posix)['\"]"
    limits = re.findall(r"python_version\s*([<>=!~]=?)\s*['\"]([\d.*]+)", requirement.marker)
    minor = ".".join(python.split(".")[:2])
    fits = " or " in requirement.marker or all(satisfies(minor, "".join(limit)) for limit in limits)
    return fits and not re.search(other, requirement.marker)


def find_requirement(requirements: list[Requirement], python: str, *names: str) -> Requirement:
    """The first requirement of these names that counts and comes from an index; an empty one without it."""
    fitting = (item for item in requirements if item.key in names and not item.url and counts(item, python))
    return next(fitting, Requirement())


def complete_torch(config: Config, requirements: list[Requirement]) -> tuple[TorchRow | None, Config]:
    """The build of torch that the model gets, if the table knows it, and the config with what is to be said of it."""
    import re

    torch, vision, audio = (find_requirement(requirements, config.python_version, name)
                            for name in ("torch", "torchvision", "torchaudio"))
    rows = [row for row in list_torch_rows() if bool(row.cuda) == config.gpu]
    if not config.gpu:
        same = [row for row in rows if is_pin(torch) and row.torch == torch.version]
        return (same[0] if same else None), config._replace(torch=torch.version)
    asked = torch if torch.version or not vision.version else vision
    if not asked.name:
        return None, config
    built = rows  # a pinned torchvision or torchaudio needs the torch that it was built with, to the patch
    if is_pin(vision):
        built = [row for row in built if versions_match(row.torchvision, vision.version)] or built
    if is_pin(audio):
        built = [row for row in built if versions_match(row.torch, torch_of_torchaudio(audio.version))] or built
    of_torch = re.sub(r"\d[\d.]*", lambda found: torch_of_torchaudio(found[0]), audio.specifier)
    for other, number, open_to in ((vision, "torchvision", vision.specifier), (audio, "torch", of_torch)):
        if not is_pin(other):  # an open one still rules out what is older
            built = [row for row in built if satisfies(getattr(row, number), open_to)] or built
    python = config.python_version
    named = torch_candidates(built, asked, python) or torch_candidates(rows, asked, python)
    if torch.version and not named:
        return None, assume_cuda(config, torch.version, rows)
    if not (torch.version or config.cuda):  # an index of torch's that is named tells the CUDA that is meant
        indexes = " ".join(option for item in requirements for option in item.options)
        named = [row for row in named if row.index_url and row.index_url.rstrip("/") in indexes] or named
    if torch.version and not is_pin(torch):
        found = complete_open_torch(config, torch, rows, built)
        if found:
            return found
    row = choose_build(named, config, asked)
    warnings = explain_torch(config, torch, row, named) if torch.name else []
    return row, config.warned(*warnings, torch=row.torch if row and torch.name else torch.version)


def complete_open_torch(config: Config, torch: Requirement, rows: list[TorchRow],
                        built: list[TorchRow]) -> tuple[TorchRow, Config] | None:
    """The newest build that a torch with a range may come to, and the config: its CUDA is that of the first version
    that is named, where the range has a build for it. None: nothing in the table is in the range."""
    version = torch.version if "." in torch.version else f"{torch.version}.0"
    allowed = [row for row in built if python_fits(config.python_version, row.pythons)
               and satisfies(row.torch, torch.specifier)]
    first = choose_build([row for row in rows if versions_match(row.torch, version)], config, torch)
    cuda = config.cuda or (first.cuda if first else "")
    reach = cuda and max(cuda, DEFAULT_CUDA, key=version_numbers)  # builds for an older one know no GPU of today
    newest = choose_build(allowed, config._replace(cuda=reach), torch)
    if not newest:
        cuda, newest = config.cuda, choose_build(allowed, config, torch)
    if not newest:
        return None
    oldest = first if first in allowed else newest
    return newest, config.warned(*explain_torch(config, torch, newest, []), torch=oldest.torch,
                                 torch_limit="" if torch.options else newest.torch,
                                 cuda=config.cuda or cuda or newest.cuda)


def torch_of_torchaudio(version: str) -> str:
    """The torch that a torchaudio was built with: it has its number, but for two early series.

    >>> torch_of_torchaudio("2.4.0"), torch_of_torchaudio("0.13.1"), torch_of_torchaudio("2.0.1")
    ('2.4.0', '1.13.1', '2.0.0')
    """
    odd = {"2.0.1": "2.0.0", "2.0.2": "2.0.1", "0.7.2": "1.7.1"}
    return odd.get(version) or (f"1{version[1:]}" if version.startswith("0.") else version)


def torch_candidates(rows: list[TorchRow], asked: Requirement, python_version: str) -> list[TorchRow]:
    """The builds that a torch or torchvision may mean: a pin's own; else those of the first version that it names;
    else all that satisfy it and have wheels for the Python."""
    fitting = [row for row in rows if python_fits(python_version, row.pythons)]
    if asked.key == "torchvision":
        return [row for row in rows if versions_match(row.torchvision, asked.version)]
    named = [row for row in rows if versions_match(row.torch, asked.version)]
    if is_pin(asked):
        return named if is_release(asked.version) else []
    fitting = [row for row in fitting if satisfies(row.torch, asked.specifier)]
    return [row for row in named if row in fitting] or fitting


def choose_build(rows: list[TorchRow], config: Config, asked: Requirement) -> TorchRow | None:
    """The build to take: with a CUDA in force the nearest that is not newer, else the one that +cuXYZ names, else the
    newest CUDA of the version, else the newest torch."""
    if config.cuda:
        rows = [row for row in rows if version_numbers(row.cuda) <= version_numbers(config.cuda)[:2]]
    elif not asked.version:
        return rows[-1] if rows else None
    else:
        rows = [row for row in rows if asked.local and row.index_url == TORCH_INDEX.format(asked.local)] or rows
    return max(rows, key=lambda row: (version_numbers(row.cuda), version_numbers(row.torch)), default=None)


def explain_torch(config: Config, torch: Requirement, row: TorchRow | None, named: list[TorchRow]) -> list[str]:
    """Warnings about a torch: an open version that was settled, a CUDA or a Python that it has no build for."""
    if not row:
        known = ", ".join(sorted({build.cuda for build in named}, key=version_numbers))
        return [f"torch {torch.version} is not known for CUDA {config.cuda}; it is built for {known}"] if known else []
    warnings = []
    if not torch.version:
        warnings.append(f"torch has no version; the newest that fits is taken: torch=={row.torch} for CUDA {row.cuda}")
    elif not (is_pin(torch) or torch.options):
        warnings.append(f"torch{torch.specifier} is open; for CUDA {row.cuda} it is {row.torch} at most")
    low, _, high = row.pythons.partition("-")
    if version_numbers(config.python_version)[:2] > version_numbers(high):
        warnings.append(f"torch {row.torch} has wheels for Python {low} to {high}; "
                        f"python_version is {config.python_version}")
    return warnings


def assume_cuda(config: Config, version: str, rows: list[TorchRow]) -> Config:
    """The config for a torch that the table lacks: where none is set, the CUDA of the nearest torch, with a warning."""
    if config.cuda:
        return config._replace(torch=version)
    near = ([row for row in rows if version_numbers(row.torch) <= version_numbers(version)] or rows[:1])[-1]
    return config.warned(f"torch {version} is not in the table of CUDA versions for Python {config.python_version}; "
                         f"CUDA {near.cuda} is taken, as for torch {near.torch}", torch=version, cuda=near.cuda)


def choose_tensorflow(wanted: Requirement, python_version: str) -> tuple[TensorflowRow, bool]:
    """The row for a TensorFlow, and whether it is its own: of the same major.minor, else the nearest below it."""
    rows = list_tensorflow_rows()
    if not wanted.version:
        return ([row for row in rows if python_fits(python_version, row.pythons)] or rows)[-1], False
    same = [row for row in rows if version_numbers(row.tensorflow)[:2] == version_numbers(wanted.version)[:2]]
    below = [row for row in rows if version_numbers(row.tensorflow) <= version_numbers(wanted.version)]
    return (same or below or rows[:1])[-1], bool(same)


def complete_tensorflow(config: Config, requirements: list[Requirement]) -> Config:
    """The config with the CUDA and cuDNN that its TensorFlow wants, where none are set, and what is to be said."""
    wanted = find_requirement(requirements, config.python_version, "tensorflow", "tensorflow-gpu")
    if not wanted.name:
        return config
    row, known = choose_tensorflow(wanted, config.python_version)
    cuda = config.cuda or row.cuda
    if not known and not config.cuda:
        missing = f"{wanted.version} is not in the table of CUDA versions" if wanted.version else "has no version"
        config = config.warned(f"tensorflow {missing}; CUDA {cuda} is taken, as for tensorflow {row.tensorflow}")
    elif known and not versions_match(cuda, row.cuda):
        config = config.warned(f"tensorflow {wanted.version} is built for CUDA {row.cuda}; cuda is {cuda}")
    cudnn = config.cudnn or (row.cudnn if versions_match(cuda, row.cuda) else "")
    return config._replace(tensorflow=wanted.version, cuda=cuda, cudnn=cudnn)


def complete_cuda(config: Config, row: TorchRow | None) -> Config:
    """The config of a GPU model with CUDA and cuDNN of an image: as set, else as torch or the default wants them."""
    cuda = config.cuda or (row.cuda if row else DEFAULT_CUDA)
    cudnn = find_cuda_image(cuda, config.cudnn).cudnn
    if config.cudnn not in ("", cudnn):
        config = config.warned(f"there is no base image for CUDA {cuda} with cuDNN {config.cudnn}; "
                               f"cuDNN {cudnn} is taken")
    return config._replace(cuda=cuda, cudnn=cudnn)


def complete_requirements(config: Config, requirements: list[Requirement], row: TorchRow | None) -> Config:
    """The config with its lines as pip gets them: options first, torch from the right index, no line for cog."""
    options: list[str] = []
    lines: list[str] = []
    for item in requirements:
        options += [option for option in item.options if hoists(option) or not item.name + item.url]
        if not item.name + item.url:
            continue
        if item.key in ("cog", "coglet"):
            version = config.sdk_version
            runtime = f"cog {version}" if version else f"the newest cog for Python {config.python_version}"
            config = config.warned(f"requirement {render_requirement(item)} is left out; the build installs {runtime}: "
                                   "build.sdk_version, COG_SDK_WHEEL and COGLET_WHEEL choose another")
        else:
            line, index = settle_requirement(item, config, row)
            lines.append(line)
            options += [f"--extra-index-url {index}"] if index else []
    unique: dict[str, str] = {}
    for option in options:
        unique.setdefault(option.rstrip("/"), option)
    return config._replace(requirements=(*unique.values(), *dict.fromkeys(lines)))


def settle_requirement(item: Requirement, config: Config, row: TorchRow | None) -> tuple[str, str]:
    """One line, and the index that it needs. Only a pinned torch or torchvision changes, unless hashes or an index
    forbid it, and a torch without a version, beside an extra index too."""
    own = tuple(option for option in item.options if not hoists(option))
    unchanged = render_requirement(item._replace(options=own)), ""
    bound = item.version or any(not option.startswith("--extra-index-url") for option in item.options)
    if item.url or (item.options and bound) or not counts(item, config.python_version):
        return unchanged
    other = row and is_pin(item) and not versions_match(row.torch, item.version)
    if item.key == "torch" and row and not other and (item.version or config.gpu):
        index = "" if item.options else row.index_url
        if config.torch_limit:
            return unchanged[0], index
        return render_requirement(item._replace(specifier=f"=={row.torch}", options=())), index
    if item.key != "torchvision" or not is_pin(item):
        return unchanged
    rows = [build for build in list_torch_rows()
            if build.torchvision == item.version and bool(build.cuda) == config.gpu]
    chosen = choose_build(rows, config if config.gpu else Config(), item)
    if not chosen:
        return unchanged
    suffix = "+cpu" if not config.gpu and version_numbers(chosen.torch) < (2,) else ""
    return render_requirement(item._replace(specifier=f"=={chosen.torchvision}{suffix}")), chosen.index_url


def list_constraints(config: Config) -> list[str]:
    """What pip is held to beside the requirement lines. An open torch goes no further than its CUDA does. Beside one
    built before numpy 2 came, which does not work with it, numpy is older: hardly a model names its numpy. An open
    torchaudio ends with the series of the torch, since 2.11 no longer requires the one that it loads.

    >>> list_constraints(Config(requirements=("torch==2.0.1", "numpy>=1.24", "torchaudio")))
    ['numpy<2', 'torchaudio<2.1']
    >>> [list_constraints(Config(requirements=(torch, "numpy>=2"))) for torch in ("torch==2.0.1", "torch>=2.0")]
    [[], []]
    >>> [list_constraints(Config(requirements=(torch, "torchaudio"))) for torch in ("torch>=2.0,<2.2", "torch>=2.0")]
    [['numpy<2'], []]
    >>> list_constraints(Config(requirements=("torch>=2.0", "torchaudio"), torch="2.0.1", torch_limit="2.7.1"))
    ['torch<=2.7.1', 'numpy<2', 'torchaudio<2.8']
    """
    items = list(map(parse_requirement, config.requirements))
    pin, limit = find_requirement(items, config.python_version, "torch"), config.torch_limit
    lets_in = [row.torch for row in list_torch_rows() if satisfies(row.torch, pin.specifier)]
    newest = version_numbers(limit or (pin.version if is_pin(pin) else ""))
    oldest = version_numbers(config.torch) if limit else newest or version_numbers("".join(lets_in[-1:]))
    is_old = len(oldest) > 1 and oldest < NUMPY_2_TORCH
    numpy_is_open = all(not item.url and satisfies("1.26.4", item.specifier) for item in items if item.key == "numpy")
    audio = [item for item in items if item.key == "torchaudio" and not item.url and not is_pin(item)]
    return [*([f"torch<={limit}"] if limit else []), *(["numpy<2"] if is_old and numpy_is_open else []),
            *([f"torchaudio<{newest[0]}.{newest[1] + 1}"] if audio and len(newest) > 1 else [])]


def run_step_json(step: RunStep) -> JSON:
    """One run step as the label has it."""
    mounts = [{"type": "secret", "id": mount.id, "target": mount.target} for mount in step.mounts]
    return {"command": step.command, **({"mounts": mounts} if mounts else {})}


def tracing_json(tracing: Tracing) -> JSON:
    """`observability` as the label has it."""
    traces = {"enabled": True, **dict(zip(TRACE_KEYS[1:], tracing))}
    if not tracing.header:
        del traces["trace_header_format"]
    return {**({"config": tracing.file} if tracing.file else {}),
            "traces": {key: value for key, value in traces.items() if value}}


def config_json(config: Config) -> JSON:
    """The object of the label run.cog.config: the completed config in cog.yaml's keys, empty ones left out."""
    build: JSON = {
        "gpu": config.gpu, "python_version": config.python_version, "python_requirements": config.python_requirements,
        "python_packages": list(config.python_packages), "run": [run_step_json(step) for step in config.run],
        "system_packages": list(config.system_packages), "cuda": config.cuda, "cudnn": config.cudnn,
        "sdk_version": config.sdk_version,
    }
    document: JSON = {
        "build": {key: value for key, value in build.items() if value}, "image": config.image, "model": config.model,
        "predict": config.predict, "train": config.train,
        "concurrency": {"max": config.concurrency_max} if config.concurrency_max else None,
        "environment": [f"{name}={value}" for name, value in config.environment],
        "observability": tracing_json(config.tracing) if config.tracing else None,
    }
    return {key: value for key, value in document.items() if value}


# == 5. Source ================================================================
# A model's Python files: which names they bind to what, and what an expression is; nothing of them is ever run.
# In: the text of the predictor's file and of the project files that it imports. Out: values.
# Rules: only `ast`. Expressions are evaluated by Evaluator, which knows literals, names, a few operators and
# functions, and has a budget: what is not known or too large is Unreadable.


class GrammarError(SchemaError):
    """A source file that this Python cannot parse. `newer_grammar`: another Python may."""

    newer_grammar = True


def placed(error: SchemaError, prefix: str) -> SchemaError:
    """The error with its place in front; a grammar error has its own."""
    return error if isinstance(error, GrammarError) else SchemaError(f"{prefix}{error}", hint=error.hint)


class Unreadable(Exception):
    """Never leaves this section: an expression whose value the source does not tell. The text says why."""


# -- names: which file binds a name, to what

Node = Any  # of ast; told apart by the name of its class, so that only what makes nodes imports ast


class Imported(NamedTuple):
    """One imported name: `from MODULE import ATTRIBUTE`, or `import MODULE` where the attribute is empty."""

    module: str
    attribute: str
    level: int
    is_typing_only: bool = False


class Scope(NamedTuple):
    """The names that a file or a class body (`owner`) binds: to an ast node, an Imported or REBOUND."""

    path: str
    names: dict[str, object]
    stars: list[Imported]
    readers: dict[str, list[Node]]  # the places in bound expressions where a name is read
    parent: Scope | None = None
    owner: Found | None = None
    is_typing_only: bool = False  # of the statements that are bound just now

    def assigned(self, name: str) -> Node:
        """The expression that a name is bound to; None where it is bound to something else, or not at all."""
        bound = self.names.get(name)
        return None if isinstance(bound, (Imported, str)) or node_kind(bound) in DEFINITIONS else bound


class Found(NamedTuple):
    """What a name means: kind is class, function, value, module, external (`dotted`) or rebound."""

    kind: str
    scope: Scope
    node: Node = None
    dotted: str = ""
    is_typing_only: bool = False

    @property
    def last(self) -> str:
        return self.dotted.rpartition(".")[2]


FUNCTION_KINDS = ("FunctionDef", "AsyncFunctionDef")
DEFINITIONS = ("ClassDef", *FUNCTION_KINDS)
REBOUND = "a loop or an unpacking binds it: nobody knows its value before the program runs"
NEVER_IN_PROJECT = frozenset(("cog", "dataclasses", "enum", "pydantic", "typing", "typing_extensions"))
SOURCE_LIMIT = 8 << 20  # characters of one source file
IMPORT_DEPTH = 40
READING_METHODS = frozenset(("keys", "values", "items", "get", "copy", "index", "count", "join", "format"))
HOLDERS = ("List", "Tuple", "Set", "Dict", "IfExp", "BoolOp", "keyword")  # of what names mean, not of copies


def node_kind(node: object) -> str:
    """The name of a node's class."""
    return type(node).__name__


def read_source(path: str) -> str:
    """The text of a Python file, decoded as Python would decode it.
    Raises OSError: it cannot be read; ValueError: it is not text."""
    with open(path, "rb") as file:
        data = file.read(SOURCE_LIMIT + 1)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        import io
        import tokenize

        try:
            return data.decode(tokenize.detect_encoding(io.BytesIO(data).readline)[0])
        except (SyntaxError, LookupError) as error:
            raise ValueError(str(error)) from error


def parse_source(path: str, text: str) -> list[ast.stmt]:
    """The statements of a source text. Raises GrammarError: this Python cannot parse it."""
    import ast

    if len(text) > SOURCE_LIMIT:
        raise SchemaError(f"{path}: larger than {SOURCE_LIMIT >> 20} MiB: not a predictor's source")
    try:
        return ast.parse(text).body
    except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError) as error:
        line, reason = getattr(error, "lineno", 0) or 1, getattr(error, "msg", str(error)) or "nested too deeply"
        here = "Python {}.{}".format(*sys.version_info)
        hint = f"mend that line; or, if {here} is too old for its grammar, run cog.pyz with a newer Python"
        raise GrammarError(f"{path}:{line}: not valid Python: {reason}", hint=hint) from error


def bind_names(body: Sequence[Node], scope: Scope) -> None:
    """Enter the names that statements bind into a scope; the last binding of a name stands."""
    for node in body:
        kind = node_kind(node)
        if kind in DEFINITIONS:
            bind_definition(node, scope)
        elif kind in ("Import", "ImportFrom"):
            bind_imports(node, scope)
        elif kind in ("Assign", "AnnAssign", "TypeAlias"):
            for target in getattr(node, "targets", None) or [getattr(node, "target", None) or node.name]:
                if node.value is not None:
                    bind_target(target, node.value, scope)
        elif kind in ("AugAssign", "Expr"):
            bind_change(node, scope)
        elif kind == "If":
            bind_if(node, scope)
        elif kind in ("For", "While", "Match"):
            bind_loop(node, scope)
        elif kind == "Delete":
            for target in node.targets:
                lose(scope, getattr(target, "value", None))
        elif kind in ("Try", "TryStar", "With"):  # names of a handler stand where no other block binds them
            for item in getattr(node, "items", ()):
                if item.optional_vars is not None:
                    bind_target(item.optional_vars, item.context_expr, scope)
            blocks = [handler.body for handler in getattr(node, "handlers", ())]
            for block in (*blocks, *(getattr(node, part, ()) for part in ("body", "orelse", "finalbody"))):
                bind_names(block, scope)


def bind_definition(node: Node, scope: Scope) -> None:
    """Enter a class or a function. The names in its bases, decorators and defaults, and in its methods' defaults, mean
    what they mean here: `class A(A)` descends from the A before it."""
    import ast

    head: list[Node] = [*node.decorator_list, *getattr(node, "bases", ())]
    members = node.body if node_kind(node) == "ClassDef" else ()
    parts = [part for member in members if node_kind(member) not in DEFINITIONS for part in ast.walk(member)]
    own = {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    for function in (part for part in (node, *members) if node_kind(part) in FUNCTION_KINDS):
        defaults = [default for _, default in arguments_of(function.args) if default is not None]
        head += [d for d in defaults if own.isdisjoint(getattr(part, "id", "") for part in ast.walk(d))]
    rebind(scope, node.name, node, ast.Tuple(head, ast.Load()), is_assigned=True)


def bind_imports(node: Node, scope: Scope) -> None:
    for alias in node.names:
        if node_kind(node) == "Import":
            module = alias.name if alias.asname else alias.name.partition(".")[0]
            scope.names[alias.asname or module] = Imported(module, "", 0, scope.is_typing_only)
            continue
        imported = Imported(node.module or "", alias.name, node.level, scope.is_typing_only)
        if alias.name == "*":
            scope.stars.append(imported)
        else:
            scope.names[alias.asname or alias.name] = imported


def keep_bound(scope: Scope, name: str, bound: object, places: Sequence[Node]) -> None:
    """Let the places that read a name mean what it is bound to now, whatever comes later: under a name of its own."""
    if places and bound is not None:
        for place in places:
            place.__dict__["id" if node_kind(place) == "Name" else "arg"] = f"\0{id(bound)}\0{name}"
        scope.names[f"\0{id(bound)}\0{name}"] = bound


def rebind(scope: Scope, name: str, made: object, read: Node, *, is_assigned: bool = False) -> None:
    """Bind a name to what was made of it. Where the expression `read` holds the name, it keeps what that was bound to
    until now; so do all that read it before. Where it is changed and not assigned, its other names go along, and what
    holds it is unknown."""
    import ast

    mine, old = scope.readers.pop(name, []), scope.assigned(name)
    if not is_assigned:
        scope.readers[name] = [place for place in mine if place in scope.names.values()]
        keep_bound(scope, name, REBOUND, [place for place in mine if hasattr(place, "is_held")])
        mine = [place for place in mine if place not in scope.readers[name] and not hasattr(place, "is_held")]
    for part in ast.walk(read):
        for child in ast.iter_child_nodes(part) if node_kind(part) in HOLDERS else ():
            child.__dict__["is_held"] = True
        if node_kind(part) in ("Name", "arg"):
            inner = getattr(part, "id", getattr(part, "arg", ""))
            (mine if inner == name else scope.readers.setdefault(inner, [])).append(part)
    keep_bound(scope, name, scope.names.get(name), mine)
    scope.names[name] = made
    if not is_assigned and made is not REBOUND:
        lose(scope, old)


def lose(scope: Scope, changed: Node) -> None:
    """Forget a value that is changed, and what it is another name or a part of; where a part is, all that it holds."""
    import ast

    for node in (pending := [changed]):
        root = node
        while node_kind(root) in ("Subscript", "Attribute") and node_kind(getattr(root, "slice", None)) != "Slice":
            root = root.value
        bound = scope.assigned(getattr(root, "id", ""))
        if bound is not None and node_kind(bound) != "Constant":
            rebind(scope, root.id, REBOUND, ast.Constant(None))
            parts: list[Node] = list(ast.walk(bound)) if root is not node else []
            pending += [bound, *(ast.Attribute(part, "", ast.Load()) for part in parts if node_kind(part) == "Name")]


def bind_target(target: Node, value: Node, scope: Scope) -> None:
    """Enter one target of an assignment. `D[k] = v` makes a dict with one more entry; `f = wrap(f)` decorates f."""
    import ast

    kind = node_kind(target)
    if kind == "Name":
        arguments = value.args if node_kind(value) == "Call" else ()
        is_wrapped = any(getattr(part, "id", "") == target.id for part in arguments)
        if not (is_wrapped and node_kind(scope.names.get(target.id)) in FUNCTION_KINDS):
            rebind(scope, target.id, value, value, is_assigned=True)
    elif kind in ("Tuple", "List"):
        if any(node_kind(part) == "Starred" for part in target.elts):
            bind_loop(target, scope)
            return
        for index, part in enumerate(target.elts):
            bind_target(part, ast.Subscript(value, ast.Constant(index), ast.Load()), scope)
    elif kind == "Subscript":
        old = scope.assigned(getattr(target.value, "id", ""))
        if old is None:
            lose(scope, target.value)
        else:
            rebind(scope, target.value.id, ast.Dict([None, target.slice], [old, value]), ast.Tuple([value], ast.Load()))


def bind_change(node: Node, scope: Scope) -> None:
    """`NAME op= x` is `NAME op x`; `NAME.append(x)`, `.extend(xs)` and `.update(d)` are `[*NAME, x]` and so on; what
    else may change the value hides it."""
    import ast

    call = node.value
    is_operator, is_method = node_kind(node) == "AugAssign", node_kind(getattr(call, "func", None)) == "Attribute"
    holder = node.target if is_operator else call.func.value if is_method else None
    name = getattr(holder, "id", "")
    old = scope.assigned(name)
    if old is None:
        lose(scope, holder if is_operator or (is_method and call.func.attr not in READING_METHODS) else None)
        return
    if is_operator:
        is_list = "List" in node_kind(old) + node_kind(node.value)
        rebind(scope, name, ast.BinOp(old, node.op, node.value), node.value, is_assigned=not is_list)
        return
    method, one = call.func.attr, call.args[0] if len(call.args) == 1 and not call.keywords else None
    if method in ("append", "add", "extend") and one is not None:
        more = ast.Starred(one, ast.Load()) if method == "extend" else one
        rebind(scope, name, ast.List([ast.Starred(old, ast.Load()), more], ast.Load()), ast.Tuple([more], ast.Load()))
    elif method == "update" and one is not None:
        rebind(scope, name, ast.Dict([None, None], [old, one]), one)
    elif method not in READING_METHODS:
        lose(scope, holder)


def bind_if(node: Node, scope: Scope) -> None:
    """Both branches; a name that both leave with a value gets `A if TEST else B`, and a function stays itself where one
    branch puts something else in its place. The main guard's body never runs."""
    import ast

    if getattr(node.test, "attr", getattr(node.test, "id", "")) == "TYPE_CHECKING":
        bind_names(node.orelse, scope)
        bind_names(node.body, scope._replace(is_typing_only=True))
        return
    yes, no = (scope._replace(names=dict(scope.names), readers={}) for _ in "yn")
    if getattr(getattr(node.test, "left", None), "id", "") != "__name__":
        bind_names(node.body, yes)
    bind_names(node.orelse, no)
    for branch in (yes, no):
        for name, places in branch.readers.items():
            if branch.names.get(name) is scope.names.get(name):
                scope.readers.setdefault(name, []).extend(places)
            else:
                keep_bound(branch, name, branch.names[name], places)
    for name in {**yes.names, **no.names}:
        first, second = yes.names.get(name), no.names.get(name)
        values = [branch.assigned(name) for branch in (yes, no)]
        if first is second:
            scope.names[name] = first
        if first is second or (node_kind(scope.names.get(name)) in FUNCTION_KINDS and any(values)):
            continue
        chosen = (second if first is scope.names.get(name) else first) or first or second
        if all(values):
            chosen = ast.IfExp(node.test, *values)
        elif REBOUND in (first, second):
            chosen = REBOUND
        rebind(scope, name, chosen, node.test, is_assigned=True)


def bind_loop(node: Node, scope: Scope) -> None:
    """Every name that a loop binds or changes is unknown afterwards."""
    import ast

    for inner in ast.walk(node):
        changed: Node = inner
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
            changed = inner.func.value
        elif isinstance(inner, (ast.AugAssign, ast.Expr)):
            bind_change(inner, scope)
        elif isinstance(inner, ast.Subscript) and not isinstance(inner.ctx, ast.Load):
            changed = inner.value
            lose(scope, changed)
        elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load):
            continue
        if node_kind(changed) == "Name" and not isinstance(scope.names.get(changed.id), Imported):
            scope.names[changed.id] = REBOUND


class Sources:
    """The project's files, each read and parsed once, and what the names in them mean."""

    def __init__(self, project: str, read: Callable[[str], str]) -> None:
        self.project, self.read = project, read
        self.files: dict[str, Scope | None] = {}
        self.reasons: dict[str, str] = {}
        self.bodies: dict[int, Scope] = {}

    def file(self, path: str) -> Scope | None:
        """The names of one file of the project (its path inside the project); None if there is no such file."""
        if path not in self.files:
            scope = None
            try:
                text = self.read(os.path.join(self.project, path))
            except (OSError, ValueError) as error:
                is_missing = isinstance(error, FileNotFoundError)
                self.reasons[path] = "no such file" if is_missing else getattr(error, "strerror", None) or str(error)
            else:
                scope = Scope(path, {}, [], {})
                bind_names(parse_source(path, text), scope)
            self.files[path] = scope
        return self.files[path]

    def module(self, dotted: str, level: int, importer: str) -> Found | None:
        """The project's module of that name, as seen from the importing file; None where it is not the project's."""
        import posixpath as paths

        here = paths.dirname(importer)
        folders = [paths.join(here, *[".."] * (level - 1))] if level else ["", here]
        parts = [part for part in dotted.split(".") if part]
        if level == 0 and (not parts or parts[0] in NEVER_IN_PROJECT):
            return None
        for stem in (paths.normpath(paths.join(folder, *parts)) for folder in folders):
            for path in (stem + ".py", paths.normpath(paths.join(stem, "__init__.py"))):
                scope = None if path.startswith(("..", "/")) or "\0" in path else self.file(path)
                if scope:
                    return Found("module", scope)
        return None

    def body(self, found: Found) -> Scope:
        """The names that a class body binds."""
        if id(found.node) not in self.bodies:
            import ast

            anything: dict[str, object] = {
                part.name: ast.Name("object", ast.Load()) for part in getattr(found.node, "type_params", ())}
            self.bodies[id(found.node)] = Scope(found.scope.path, anything, [], {}, found.scope, found)
            bind_names(found.node.body, self.bodies[id(found.node)])
        return self.bodies[id(found.node)]

    def lineage(self, found: Found) -> list[Found]:
        """A class and what it descends from, depth first, each where it comes last, as Python looks in a diamond;
        bases that cannot be found are external."""
        classes: dict[object, Found] = {}
        pending, turns = [found], 0
        while pending and turns < 200:
            current, turns = pending.pop(0), turns + 1
            key = id(current.node) if current.kind == "class" else current.dotted
            classes.pop(key, None)
            classes[key], scope = current, current.scope
            bases = current.node.bases if current.kind == "class" else ()
            nodes = [base.value if node_kind(base) == "Subscript" else base for base in bases]
            pending[:0] = [self.find(scope, n) or Found("external", scope, n, expression(n)) for n in nodes]
        return list(classes.values())

    def find(self, scope: Scope, node: Node, depth: int = 0) -> Found | None:
        """What a name or a dotted name means where it stands; None if nothing binds it."""
        if depth > IMPORT_DEPTH:
            return None
        if node_kind(node) == "Name":
            return self.named(scope, node.id, depth)
        base = self.find(scope, node.value, depth + 1) if node_kind(node) == "Attribute" else None
        return self.attribute(base, node.attr, depth) if base else None

    def attribute(self, base: Found, name: str, depth: int = 0) -> Found | None:
        if base.kind == "module":
            return self.member(base.scope, name, depth) or self.module(name, 1, base.scope.path)
        if base.kind == "external":
            dotted = f"{base.dotted}.{name}"
            return (self.module(dotted, 0, base.scope.path) or base)._replace(dotted=dotted)
        if base.kind == "class":
            for parent in self.lineage(base):
                if parent.kind == "class" and name in self.body(parent).names:
                    return self.follow(self.body(parent), name, depth)
        if base.kind == "value" and node_kind(base.node) == "Call":
            return self.field(base, name, depth)
        return None

    def field(self, base: Found, name: str, depth: int) -> Found | None:
        """What an attribute of `Class(...)` is: the argument of that name, else the class's own."""
        call, owner = base.node, self.find(base.scope, base.node.func, depth + 1)
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if not owner or owner.kind != "class" or call.args or None in given or "__init__" in self.body(owner).names:
            return None
        if name in given:
            return Found("value", base.scope, given[name], name)
        return self.attribute(owner, name, depth + 1)

    def named(self, scope: Scope, name: str, depth: int) -> Found | None:
        """What a bare name means: the class body, the file, star imports, builtins; in this order."""
        import builtins

        if name == "cls" and scope.owner:
            return scope.owner
        found = self.member(scope, name, depth)
        while not found and scope.parent:
            scope = scope.parent
            found = self.member(scope, name, depth)
        if found:
            return found
        if hasattr(builtins, name):
            return Found("external", scope, dotted="builtins." + name)
        outside = [star for star in scope.stars if not self.module(star.module, star.level, scope.path)]
        return Found("external", scope, dotted=f"{outside[-1].module}.{name}") if outside else None

    def member(self, scope: Scope, name: str, depth: int = 0) -> Found | None:
        """What a file or class body itself binds to a name, its star imports included."""
        pending, seen = [scope] if depth <= IMPORT_DEPTH else [], {scope.path}
        while pending:
            current = pending.pop()
            if name in current.names:
                return self.follow(current, name, depth)
            for star in current.stars:
                module = self.module(star.module, star.level, current.path)
                if module and module.scope.path not in seen:
                    seen.add(module.scope.path)
                    pending.append(module.scope)
        return None

    def follow(self, scope: Scope, name: str, depth: int = 0) -> Found | None:
        """What a binding stands for, through imports and plain aliases."""
        bound: Node = scope.names[name]
        if isinstance(bound, Imported):
            return self.imported(scope, bound, depth + 1)
        if bound is REBOUND:
            return Found("rebound", scope)
        kind = node_kind(bound)
        alias = self.find(scope, bound, depth + 1) if kind in ("Name", "Attribute") else None
        if alias and alias.kind != "value":
            return alias
        kinds = {"ClassDef": "class", **dict.fromkeys(FUNCTION_KINDS, "function")}
        return Found(kinds.get(kind, "value"), scope, bound, name.rpartition("\0")[2])

    def imported(self, scope: Scope, entry: Imported, depth: int) -> Found | None:
        found = self.module(entry.module, entry.level, scope.path)
        dotted = ".".join(filter(None, (entry.module, entry.attribute)))
        if found and entry.attribute:
            found = self.member(found.scope, entry.attribute, depth)
        if not found and entry.attribute:
            found = self.module(dotted, entry.level, scope.path)
        found = found or Found("external", scope, dotted="." * entry.level + dotted)
        return found._replace(is_typing_only=found.is_typing_only or entry.is_typing_only)


def expression(node: Node, limit: int = 80) -> str:
    """An expression's source on one line, cut to a limit."""
    import ast

    try:
        text = " ".join(ast.unparse(node).split()) if node is not None else ""
    except (RecursionError, ValueError, MemoryError):
        text = "…"
    text = "".join(text.split("\0")[::2])  # without what rebind adds to names
    return text if len(text) <= limit else text[: limit - 1] + "…"


def arguments_of(spec: ast.arguments) -> list[tuple[ast.arg, ast.expr | None]]:
    """The named arguments of a function, each with its default or None."""
    positional = spec.posonlyargs + spec.args
    defaults = [None] * (len(positional) - len(spec.defaults)) + spec.defaults
    return [*zip(positional, defaults), *zip(spec.kwonlyargs, spec.kw_defaults)]


# -- values: what an expression is, without running it

ENUM_BASES = frozenset(("Enum", "IntEnum", "StrEnum"))


def unknown(node: Node) -> Unreadable:
    return Unreadable(f"`{expression(node, 40)}` is only known when the model runs")


class Hole(NamedTuple):
    """The place of a value that could not be evaluated, inside a list or a dict."""

    why: str


class EnumMember(NamedTuple):
    """A member of an Enum."""

    name: str
    value: object


class Env(NamedTuple):
    """Where an expression stands: its file or class, the variables around it, how deep we are."""

    scope: Scope
    local: Mapping[str, object]
    depth: int = 0


BUDGET = 500_000  # steps, characters and elements that one expression may cost; a whole schema ten times that
DEPTH = 90
INT_BITS = 4096
CANNOT = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError, MemoryError)
SCALAR = (type(None), bool, int, float, str)
OPERATORS = {  # the classes of ast, and the functions of Python's module operator
    "Add": "add", "Sub": "sub", "Mult": "mul", "Div": "truediv", "FloorDiv": "floordiv", "Mod": "mod", "Pow": "pow",
    "LShift": "lshift", "RShift": "rshift", "BitAnd": "and_", "BitOr": "or_", "Eq": "eq", "NotEq": "ne", "Lt": "lt",
    "LtE": "le", "Gt": "gt", "GtE": "ge", "Is": "is_", "IsNot": "is_not", "USub": "neg", "UAdd": "pos",
    "Invert": "invert",
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "list": list, "tuple": tuple, "dict": dict, "int": int, "float": float, "len": len, "sorted": sorted, "min": min,
    "max": max, "abs": abs, "round": round, "str": lambda value="": format(value),
    **dict.fromkeys(("set", "frozenset"), lambda items=(): list(dict.fromkeys(items))),
    "range": lambda *args: list(range(*args)),
    "sum": lambda items, start=0: sum((item + 0 for item in items), start + 0),
    "zip": lambda *many: list(zip(*many)),
    "enumerate": lambda items, start=0: list(enumerate(items, start)),
    "reversed": lambda items: list(reversed(items)),
    "map": lambda function, *many: list(map(function, *many)),
    **dict.fromkeys(("typing.get_args", "typing_extensions.get_args"), lambda values: values),
}
METHODS: dict[type, tuple[str, ...]] = {
    str: ("strip", "lstrip", "rstrip", "upper", "lower", "title", "capitalize", "casefold", "swapcase", "replace",
          "split", "rsplit", "splitlines", "partition", "rpartition", "join", "format", "startswith", "endswith",
          "removeprefix", "removesuffix", "zfill", "ljust", "rjust", "center", "index", "find"),
    dict: ("keys", "values", "items", "get", "copy"),
    list: ("copy", "index", "count"),
}
CONSTANTS: dict[str, object] = {
    "sys.maxsize": (1 << 63) - 1, "math.pi": 3.141592653589793, "math.e": 2.718281828459045,
    "math.tau": 6.283185307179586, "math.inf": float("inf"), "os.sep": "/", "os.linesep": "\n",
}
LIBRARY = {"textwrap.dedent": "textwrap", "inspect.cleandoc": "inspect", "os.path.join": "posixpath"}


def operate(name: str, *values: Any) -> Any:
    """The result of an operator, by the name of its ast class."""
    import operator

    if name in ("In", "NotIn"):
        return (values[0] in values[1]) is (name == "In")
    return getattr(operator, OPERATORS[name])(*values)


class Meter:
    """The budget of one reading: what values weigh, what an operation will cost, what has a JSON form."""

    def __init__(self, sources: Sources) -> None:
        self.sources, self.left, self.spare = sources, BUDGET, 9 * BUDGET
        self.known: dict[int, object] = {}

    def refill(self) -> None:
        """Give the next expression its budget, out of what the schema has left."""
        self.spare += self.left
        self.left = min(BUDGET, self.spare)
        self.spare -= self.left

    def charge(self, amount: int) -> None:
        if amount > self.left:
            raise Unreadable("too large to evaluate")
        self.left -= amount

    def weigh(self, value: object) -> int:
        """How many elements and characters a value holds, all levels counted; the count itself is charged."""
        total, pending = 0, [value]
        while pending:
            item = pending.pop()
            size = 1
            if isinstance(item, str):
                size += len(item)
            elif isinstance(item, int):
                size += item.bit_length() >> 5
            elif isinstance(item, dict):
                pending.extend(item)
                pending.extend(item.values())
            elif isinstance(item, (list, tuple)) and not isinstance(item, Found):
                pending.extend(item)
            total += size
            self.charge(size)
        return total

    def truth(self, value: object) -> bool:
        if not isinstance(value, (*SCALAR, list, dict)) and type(value) is not tuple:
            raise Unreadable("a condition that depends on the running program")
        return bool(value)

    def describe(self, value: object) -> str:
        if isinstance(value, Found):
            return f"{value.kind} {value.dotted}"
        return f"the number {value}" if isinstance(value, float) else f"a value of type {type(value).__name__}"

    def as_json(self, value: object, depth: int = 0) -> Any:
        self.charge(1)
        if isinstance(value, Hole):
            raise Unreadable(value.why)
        if isinstance(value, EnumMember):
            return self.as_json(value.value, depth + 1)
        if isinstance(value, (list, tuple)) and not isinstance(value, Found) and depth < DEPTH:
            return [self.as_json(item, depth + 1) for item in value]
        if isinstance(value, dict) and depth < DEPTH:
            if not all(isinstance(key, str) for key in value):
                raise Unreadable("a dict with keys that are not text")
            return {self.as_json(key): self.as_json(item, depth + 1) for key, item in value.items()}
        if isinstance(value, str) and all(not "\ud800" <= char <= "\udfff" for char in value):
            return value
        if value is None or isinstance(value, bool) or (isinstance(value, int) and -(1 << 63) <= value < 1 << 64):
            return value
        if isinstance(value, float) and abs(value) < float("inf"):
            return value
        raise Unreadable(f"{self.describe(value)} has no JSON form")

    def foresee(self, name: str, left: Any, right: Any) -> None:
        """Charge what an operation is about to make, before it makes it."""
        if isinstance(left, str) and name == "Mod":
            check_format("%", left)
        elif name == "Mult" and not isinstance(left, (int, float)) and isinstance(right, int):
            self.charge(self.weigh(left) * max(0, min(right, BUDGET)))
        elif name == "Mult" and not isinstance(right, (int, float)) and isinstance(left, int):
            self.foresee(name, right, left)
        elif isinstance(left, int) and isinstance(right, int) and name in ("Mult", "Pow", "LShift"):
            power = min(abs(right), BUDGET)
            bits = left.bit_length()
            bits = {"Mult": bits + right.bit_length(), "Pow": bits * power, "LShift": bits + power}[name]
            if bits > INT_BITS:
                raise Unreadable("a number too large to evaluate")


class Names(Meter):
    """What names and calls stand for; Evaluator has one method for each kind of expression."""

    def value(self, env: Env, node: Node) -> Any:
        """The value of an expression. Raises Unreadable."""
        if env.depth == 0:
            self.refill()
        method = getattr(self, "eval_" + node_kind(node), None)
        if env.depth > DEPTH:
            raise Unreadable("nested too deeply")
        if method is None:
            raise Unreadable(f"`{expression(node, 40)}` is not evaluated from source")
        try:
            result = method(env._replace(depth=env.depth + 1), node)
        except CANNOT as error:
            raise Unreadable(f"`{expression(node, 40)}` cannot be evaluated: {str(error)[:80]}") from error
        self.charge(1)
        if node_kind(node) not in ("Name", "Attribute"):
            self.weigh(result)
        return result

    def lenient(self, env: Env, node: Node) -> Any:
        try:
            return self.value(env, node)
        except Unreadable as error:
            return Hole(str(error))

    def json(self, env: Env, node: Node) -> Any:
        """The JSON value of an expression; tuples and sets are lists, Enum members their values.
        Raises Unreadable: it has none, or it cannot be told from the source."""
        return self.as_json(self.value(env, node))

    def constant(self, env: Env, found: Found) -> Any:
        """The value that a name of the project is bound to, evaluated once."""
        key = id(found.node)
        if key not in self.known:
            self.known[key] = Hole(f"'{found.dotted}' refers to itself")
            self.known[key] = self.lenient(Env(found.scope, {}, env.depth), found.node)
        value = self.known[key]
        if isinstance(value, Hole):
            raise Unreadable(value.why)
        return value

    def members(self, env: Env, found: Found) -> dict[str, EnumMember]:
        """The members of an Enum class; empty for any other class."""
        lineage = [base.last for base in self.sources.lineage(found) if base.kind == "external"]
        if not any(name in ENUM_BASES for name in lineage):
            return {}
        body = self.sources.body(found)
        members: dict[str, EnumMember] = {}
        for name in body.names:
            node = body.assigned(name)
            if node is not None and name[0] not in "_\0":
                value: object = Hole("")
                if node_kind(node) == "Call" and expression(node.func).rpartition(".")[2] == "auto":
                    value = name.lower() if "StrEnum" in lineage else len(members) + 1
                else:
                    value = self.lenient(env._replace(scope=body, local={}), node)
                members[name] = EnumMember(name, value)
        return members

    def items(self, env: Env, value: object) -> list[Any]:
        """What iterating over a value gives."""
        if isinstance(value, Found) and value.kind == "class":
            members = self.members(env, value)
            if members:
                return list(members.values())
        if isinstance(value, (list, str, dict)) or type(value) is tuple:
            return list(value)
        raise Unreadable(value.why if isinstance(value, Hole) else f"{self.describe(value)} cannot be listed")

    def meaning(self, env: Env, node: Node, found: Found | None) -> Any:
        """The value behind a resolved name."""
        if found is None:
            raise Unreadable(f"'{expression(node, 40)}' is not defined in {env.scope.path}")
        if found.kind == "value":
            return self.constant(env, found)
        if found.kind == "class":
            return found
        if found.dotted in CONSTANTS:
            return CONSTANTS[found.dotted]
        name = found.dotted.replace("builtins.", "")
        if found.kind == "external" and name in FUNCTIONS:
            return lambda *args, **named: self.call_function(env, name, FUNCTIONS[name], args, named)
        if found.kind == "external":
            home = self.sources.module(name.rpartition(".")[0], 0, found.scope.path) if name[0] != "." else None
            if home and not home.scope.stars:
                raise Unreadable(f"'{name}' is not defined in {home.scope.path}")
            raise Unreadable(f"'{name}' comes from outside the project")
        raise Unreadable(f"'{expression(node, 40)}' is only known when the model runs")

    def arguments(self, env: Env, node: Node, read: Callable[[Env, ast.expr], Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call, each read by `read`."""
        positional = self.elements(env, node.args, read)
        named: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                named.update(self.value(env, keyword.value))
            else:
                named[keyword.arg] = read(env, keyword.value)
        return positional, named

    def elements(self, env: Env, nodes: Sequence[Node], read: Callable[[Env, ast.expr], Any]) -> list[Any]:
        """The values of a row of expressions, `*spread` ones included."""
        result: list[Any] = []
        for node in nodes:
            if node_kind(node) == "Starred":
                result.extend(self.items(env, self.value(env, node.value)))
            else:
                result.append(read(env, node))
        return result

    def bind_arguments(self, found: Found, positional: list[Any], named: dict[str, Any], depth: int) -> dict[str, Any]:
        """The local variables with which a call enters a function of the project."""
        spec = found.node.args
        pairs, count = arguments_of(spec), len(spec.posonlyargs + spec.args)
        decorators = [expression(decorator) for decorator in found.node.decorator_list]
        if count and (pairs[0][0].arg in ("self", "cls") or "classmethod" in decorators):
            pairs, count = pairs[1:], count - 1
        names, env = [argument.arg for argument, _ in pairs], Env(found.scope, {}, depth)
        local = {argument.arg: self.lenient(env, default) for argument, default in pairs if default is not None}
        local.update(zip(names[:count], positional))
        local.update({name: value for name, value in named.items() if name in names})
        if spec.vararg:
            local[spec.vararg.arg] = tuple(positional[count:])
        if spec.kwarg:
            local[spec.kwarg.arg] = {name: value for name, value in named.items() if name not in names}
        return local

    def call_project(self, env: Env, found: Found, positional: list[Any], named: dict[str, Any]) -> Any:
        """The value of a project's function whose whole body is one return statement."""
        body = [s for s in found.node.body if not (node_kind(s) == "Expr" and node_kind(s.value) == "Constant")]
        if len(body) != 1 or node_kind(body[0]) != "Return" or body[0].value is None:
            raise Unreadable(f"{found.node.name}() does more than return a value")
        local = self.bind_arguments(found, positional, named, env.depth)
        return self.value(Env(found.scope, local, env.depth), body[0].value)

    def call_function(self, env: Env, name: str, function: Callable[..., Any], args: Any, named: Any) -> Any:
        args = [self.items(env, arg) if isinstance(arg, Found) else arg for arg in args]
        if any(isinstance(arg, (Hole, EnumMember)) for arg in args):
            raise Unreadable(f"{name}() of something that is only known when the model runs")
        if name == "str" and not all(isinstance(arg, SCALAR) for arg in args):
            raise Unreadable("str() of something that is no plain value")
        if name == "range":
            self.charge(min(len(range(*args)), BUDGET + 1))
        elif name == "int" and isinstance(args[0], str) and len(args[0]) > 1000:
            raise Unreadable("a number too large to evaluate")
        elif name == "round" and any(abs(digits) > 300 for digits in args[1:]):
            raise Unreadable("round() to so many digits")
        elif name == "dict":
            args = [dict(arg) for arg in args]
        return function(*args, **named)

    def call_method(self, env: Env, base: Any, name: str, args: list[Any], named: dict[str, Any]) -> Any:
        if isinstance(base, str):
            if name == "format":
                check_format("format", base)
                if not all(isinstance(value, SCALAR) for value in (*args, *named.values())):
                    raise Unreadable("format() of something that is no plain value")
            elif name in ("zfill", "ljust", "rjust", "center"):
                self.charge(max(0, min(args[0], BUDGET + 1)))
            elif name == "replace":
                self.charge((base.count(args[0]) + 1) * len(args[1]))
            elif name == "join":
                args = [self.items(env, args[0])]
                self.charge(len(base) * len(args[0]) + 1)
        result = getattr(base, name)(*args, **named)
        return list(result) if name in ("keys", "values", "items") else result


class Evaluator(Names):
    """Values of expressions, found without executing anything and within a budget."""

    def eval_Constant(self, env: Env, node: Node) -> Any:
        return node.value

    def eval_Name(self, env: Env, node: Node) -> Any:
        if node.id in env.local:
            return env.local[node.id]
        return self.meaning(env, node, self.sources.find(env.scope, node))

    def eval_Attribute(self, env: Env, node: Node) -> Any:
        root = node
        while node_kind(root) == "Attribute":
            root = root.value
        if node_kind(root) == "Name" and root.id not in env.local:
            owner = self.sources.find(env.scope, node.value)
            if owner and owner.kind == "class":
                members = self.members(env, owner)
                if node.attr in members:
                    return members[node.attr]
                if members and node.attr == "__members__":
                    return members
            member = self.sources.attribute(owner, node.attr, 0) if owner else None
            if member or (owner and owner.kind != "value"):
                return self.meaning(env, node, member)
        limit = self.integer_limit(env, node)
        if limit is not None:
            return limit
        base = self.value(env, node.value)
        if isinstance(base, EnumMember) and node.attr in ("name", "value"):
            return getattr(base, node.attr)
        raise unknown(node)

    def integer_limit(self, env: Env, node: Node) -> int | None:
        """The value of `np.iinfo(np.int32).max` and the like, a seed's usual limit; None for anything else."""
        import re

        call = node.value
        if node_kind(call) != "Call" or len(call.args) != 1:
            return None
        function, kind = self.sources.find(env.scope, call.func), self.sources.find(env.scope, call.args[0])
        text = f"{function.dotted}({kind.dotted}).{node.attr}" if function and kind else ""
        form = re.fullmatch(r"(numpy|torch)\.iinfo\(\1\.(u?)int(8|16|32|64)\)\.(max|min)", text)
        if form is None:
            return None
        top = 1 << int(form[3]) - (not form[2])
        return top - 1 if form[4] == "max" else 0 if form[2] else -top

    def eval_List(self, env: Env, node: Any) -> Any:
        return self.elements(env, node.elts, self.lenient)

    def eval_Tuple(self, env: Env, node: Node) -> Any:
        return tuple(self.eval_List(env, node))

    def eval_Set(self, env: Env, node: Node) -> Any:
        return list(dict.fromkeys(self.eval_List(env, node)))

    def eval_Dict(self, env: Env, node: Node) -> Any:
        result: dict[Any, Any] = {}
        for key, item in zip(node.keys, node.values):
            if key is None:
                result.update(self.value(env, item))
            else:
                result[self.value(env, key)] = self.lenient(env, item)
        return result

    def eval_UnaryOp(self, env: Env, node: Node) -> Any:
        operand, name = self.value(env, node.operand), node_kind(node.op)
        return not self.truth(operand) if name == "Not" else operate(name, operand)

    def eval_BinOp(self, env: Env, node: Node) -> Any:
        name, left, right = node_kind(node.op), self.value(env, node.left), self.value(env, node.right)
        for value in (left, right):
            if isinstance(value, (Hole, EnumMember, Found)):
                raise unknown(node)
        self.foresee(name, left, right)
        return operate(name, left, right)

    def eval_BoolOp(self, env: Env, node: Node) -> Any:
        is_or, value = node_kind(node.op) == "Or", None
        for part in node.values:
            value = self.value(env, part)
            if self.truth(value) is is_or:
                break
        return value

    def eval_Compare(self, env: Env, node: Node) -> Any:
        left = self.value(env, node.left)
        for operator, comparator in zip(node.ops, node.comparators):
            right = self.value(env, comparator)
            is_identity = node_kind(operator).startswith("Is") and None not in (left, right)
            if is_identity or isinstance(left, (Hole, Found)) or isinstance(right, (Hole, Found)):
                raise unknown(node)
            if not operate(node_kind(operator), left, right):
                return False
            left = right
        return True

    def eval_IfExp(self, env: Env, node: Node) -> Any:
        return self.value(env, node.body if self.truth(self.value(env, node.test)) else node.orelse)

    def eval_Subscript(self, env: Env, node: Node) -> Any:
        if expression(node.value).endswith("Literal"):
            values = self.value(env, node.slice)
            return values if type(values) is tuple else (values,)
        base = self.value(env, node.value)
        if isinstance(base, Found):
            base = self.members(env, base)
        if not isinstance(base, (str, list, dict)) and type(base) is not tuple:
            raise unknown(node)
        if node_kind(node.slice) == "Slice":
            bounds: list[Any] = [node.slice.lower, node.slice.upper, node.slice.step]
            return base[slice(*(bound and self.value(env, bound) for bound in bounds))]
        return base[self.value(env, node.slice)]

    def eval_JoinedStr(self, env: Env, node: Node) -> Any:
        return "".join(self.value(env, part) for part in node.values)

    def eval_FormattedValue(self, env: Env, node: Node) -> Any:
        value = self.value(env, node.value)
        spec = self.value(env, node.format_spec) if node.format_spec else ""
        check_format("spec", spec)
        if not isinstance(value, SCALAR):
            raise Unreadable(f"`{expression(node.value, 40)}` in an f-string")
        converters: dict[int, Callable[[object], str]] = {115: str, 114: repr, 97: ascii}
        convert = converters.get(node.conversion)
        return format(convert(value) if convert else value, spec)

    def eval_ListComp(self, env: Env, node: Any) -> Any:
        return [self.value(inner, node.elt) for inner in self.loops(env, node.generators)]

    eval_GeneratorExp = eval_ListComp

    def eval_SetComp(self, env: Env, node: Node) -> Any:
        return list(dict.fromkeys(self.eval_ListComp(env, node)))

    def eval_DictComp(self, env: Env, node: Node) -> Any:
        return {self.value(i, node.key): self.lenient(i, node.value) for i in self.loops(env, node.generators)}

    def loops(self, env: Env, generators: Sequence[Node]) -> Iterator[Env]:
        """One Env for each turn of a comprehension's loops."""
        if not generators:
            yield env
            return
        first = generators[0]
        for item in self.items(env, self.value(env, first.iter)):
            inner = env._replace(local={**env.local, **self.unpack(first.target, item)})
            if all(self.truth(self.value(inner, test)) for test in first.ifs):
                yield from self.loops(inner, generators[1:])

    def unpack(self, target: Node, item: Any) -> dict[str, object]:
        if node_kind(target) == "Name":
            return {target.id: item}
        if node_kind(target) in ("Tuple", "List") and type(item) in (tuple, list) and len(item) == len(target.elts):
            return {k: v for part, piece in zip(target.elts, item) for k, v in self.unpack(part, piece).items()}
        raise Unreadable("an unpacking that does not fit")

    def eval_Lambda(self, env: Env, node: Node) -> Any:
        names = [argument.arg for argument in node.args.args]
        return lambda *args: self.value(env._replace(local={**env.local, **dict(zip(names, args))}), node.body)

    def eval_Call(self, env: Env, node: Node) -> Any:
        from importlib import import_module

        function = node.func
        is_local = node_kind(function) == "Name" and function.id in env.local
        found = None if is_local else self.sources.find(env.scope, function)
        name = found.dotted.replace("builtins.", "") if found else ""
        if found and found.kind == "external" and name.startswith(("os.getenv", "os.environ")):
            raise Unreadable("it reads the environment when the model starts")
        name = "dict" if name == "collections.OrderedDict" else name
        owner = self.sources.find(env.scope, node.args[0]) if name == "getattr" and len(node.args) > 1 else None
        if owner and owner.kind in ("module", "class"):
            member = self.sources.attribute(owner, str(self.value(env, node.args[1])))
            if member or (owner.kind == "module" and len(node.args) > 2):
                return self.meaning(env, node, member) if member else self.value(env, node.args[2])
        positional, named = self.arguments(env, node, self.lenient if name == "dict" else self.value)
        if found and found.kind == "function":
            return self.call_project(env, found, positional, named)
        if found and found.kind == "external" and (name in FUNCTIONS or name in LIBRARY):
            called = FUNCTIONS.get(name) or getattr(import_module(LIBRARY[name]), name.rpartition(".")[2])
            return self.call_function(env, name, called, positional, named)
        if node_kind(function) == "Attribute":
            base = self.value(env, function.value)
            if function.attr in METHODS.get(type(base), ()):
                return self.call_method(env, base, function.attr, positional, named)
        raise unknown(node)


FORMATS = {  # what makes a format's result huge, or lets it look inside its arguments
    "spec": r"\d{4}",
    "%": r"%(\([^)]*\))?[-+ #0]*(\d{4}|\*|\d*\.(\d{4}|\*))",
    "format": r"\{[^{}]*(\d{4}|\{)|\{[^{}:!]*[.\[]",
}


def check_format(style: str, text: str) -> None:
    """Refuse a format whose result could be huge, or that looks inside its arguments. Raises Unreadable."""
    import re

    if re.search(FORMATS[style], text.replace("{{", "") if style == "format" else text):
        raise Unreadable(f"a format like {text[:40]!r} is not evaluated from source")


# == 6. Schema ================================================================
# In: what the sections before it make of the predictor's source. Out: a SchemaResult: the OpenAPI document, and
# what was noticed on the way. What is Unreadable becomes a warning and an entry in `unresolved`, not an error.
# SchemaError is for models that cannot work; it names file, line and parameter.
# Errors, Source and Schema together run alone, so that an image's own Python can read what ours cannot parse.


class Unresolved(NamedTuple):
    """What the source alone does not tell: the expression `parameter.keyword`, and why."""

    parameter: str
    expression: str
    why: str


class SchemaResult(NamedTuple):
    """A model's schema. `python_needed`: the model's own Python would know more than its source tells."""

    document: JSON
    warnings: tuple[str, ...]
    unresolved: tuple[Unresolved, ...]
    concurrency: int
    is_streaming: bool
    python_needed: bool


# -- types: what an annotation says


class TypeInfo(NamedTuple):
    """An annotation, understood. kind: see KINDS; also none, union, either, choices, opaque, model, class, external…"""

    kind: str
    text: str
    args: tuple[TypeInfo, ...] = ()
    values: tuple[Any, ...] = ()
    found: Found | None = None


SAME_KINDS = (
    "str", "int", "float", "bool", "Path", "File", "Secret", "Any", "dict", "list", "tuple", "set", "datetime", "date",
    "Iterator", "AsyncIterator", "ConcatenateIterator", "AsyncConcatenateIterator", "Generator", "AsyncGenerator",
    "Iterable", "AsyncIterable")
KINDS: dict[str, str] = {
    **{name: name for name in SAME_KINDS},
    **dict.fromkeys(("Text", "LiteralString"), "str"),
    **dict.fromkeys(("object", "TypeVar"), "Any"),
    **dict.fromkeys(("Dict", "Mapping", "MutableMapping", "OrderedDict", "TypedDict"), "dict"),
    **dict.fromkeys(("List", "Sequence", "MutableSequence"), "list"),
    **dict.fromkeys(("Tuple", "NamedTuple", "namedtuple"), "tuple"),
    **dict.fromkeys(("Set", "FrozenSet", "frozenset", "AbstractSet"), "set"),
    **dict.fromkeys(("IO", "BinaryIO", "TextIO", "BytesIO", "IOBase", "BufferedReader"), "IO"),
    "NoneType": "none",
}
QUALIFIERS = frozenset(("Required", "NotRequired", "ReadOnly", "ClassVar", "InitVar", "Final"))
TYPE_DEPTH = 30


class TypeReader:
    """Annotations of the project's files."""

    def __init__(self, sources: Sources, evaluator: Evaluator) -> None:
        self.sources, self.evaluator = sources, evaluator
        self.doubts: dict[str, str] = {}  # of names in annotations

    def read(self, scope: Scope, node: Node, depth: int = 0) -> TypeInfo:
        """What an annotation says; kind `undefined` where it says nothing that a type could be."""
        kind, text = node_kind(node), expression(node)
        if depth > TYPE_DEPTH:
            return TypeInfo("Any", text)
        if kind == "Constant":
            if node.value is None:
                return TypeInfo("none", text)
            return self.quoted(scope, node.value, depth) if isinstance(node.value, str) else TypeInfo("undefined", text)
        if kind in ("Name", "Attribute"):
            return self.named(scope, node, depth)
        if kind == "Subscript":
            return self.generic(scope, node, depth)
        if kind == "BinOp" and node_kind(node.op) == "BitOr":
            parts: list[Node] = []
            left = node
            while node_kind(left) == "BinOp" and node_kind(left.op) == "BitOr":
                parts.insert(0, left.right)
                left = left.left
            return self.union(scope, [left, *parts], text, depth)
        if kind == "IfExp":
            return self.conditional(scope, node, depth)
        return self.called(scope, node, depth) if kind == "Call" else TypeInfo("undefined", text)

    def quoted(self, scope: Scope, text: str, depth: int) -> TypeInfo:
        import ast

        try:
            return self.read(scope, ast.parse(text.strip(), mode="eval").body, depth + 1)
        except (SyntaxError, ValueError, MemoryError):
            return TypeInfo("undefined", text)

    def union(self, scope: Scope, nodes: Sequence[Node], text: str, depth: int) -> TypeInfo:
        members = tuple(self.read(scope, node, depth + 1) for node in nodes)
        return members[0] if len(members) == 1 else TypeInfo("union", text, members)

    def conditional(self, scope: Scope, node: Node, depth: int) -> TypeInfo:
        try:
            chosen = node.body if self.evaluator.truth(self.evaluator.value(Env(scope, {}), node.test)) else node.orelse
        except Unreadable:
            sides = tuple(self.read(scope, side, depth + 1) for side in (node.body, node.orelse))
            return TypeInfo("either", expression(node), sides)
        return self.read(scope, chosen, depth + 1)

    def meaning(self, scope: Scope, node: Node) -> Found | None:
        """What a name in an annotation means."""
        found = self.sources.find(scope, node)
        if found is None:
            self.doubts[expression(node)] = f"is neither imported nor defined in {scope.path}; import it"
        return found

    def named(self, scope: Scope, node: Node, depth: int) -> TypeInfo:
        text, found = expression(node), self.meaning(scope, node)
        if found is None:
            return TypeInfo(KINDS.get(text.rpartition(".")[2], "undefined"), text)
        if found.is_typing_only:
            what = "is imported for type checking only: at run time no input is converted; import it always"
            self.doubts[text] = what
        if found.kind == "class":
            return self.of_class(found, text)
        if found.kind == "value":
            return self.read(found.scope, found.node, depth + 1)._replace(text=text)
        if found.kind != "external":
            return TypeInfo("undefined", text)
        return TypeInfo(KINDS.get(found.last, "external"), text, found=found)

    def of_class(self, found: Found, text: str) -> TypeInfo:
        """A class of the project: an Enum, a model, or nothing that JSON could hold."""
        members = self.evaluator.members(Env(found.scope, {}), found)
        if members:
            try:
                return TypeInfo("choices", text, values=tuple(self.evaluator.as_json(m) for m in members.values()))
            except Unreadable:
                return TypeInfo("external", text, found=found)
        lineage = self.sources.lineage(found)
        bases = {base.last for base in lineage if base.kind == "external"}
        for base, kind in (("BaseModel", "model"), ("TypedDict", "typeddict"), ("NamedTuple", "tuple")):
            if base in bases:
                return TypeInfo(kind, text, found=found)
        decorators = [d for base in lineage for d in getattr(base.node, "decorator_list", ())]
        names = {expression(getattr(decorator, "func", decorator)).rpartition(".")[2] for decorator in decorators}
        return TypeInfo("dataclass" if "dataclass" in names else "class", text, found=found)

    def generic(self, scope: Scope, node: Node, depth: int) -> TypeInfo:
        text, found = expression(node), self.meaning(scope, node.value)
        nodes = list(node.slice.elts) if node_kind(node.slice) == "Tuple" else [node.slice]
        name = found.last if found else expression(node.value).rpartition(".")[2]
        if found and found.kind in ("class", "value"):
            return self.read(scope, node.value, depth + 1)
        if not nodes or name == "Literal":
            return self.literal(scope, nodes, text)
        if name in ("Optional", "Union"):
            base = self.union(scope, nodes, text, depth)
            if name == "Union":
                return base
            inner = base.args if base.kind == "union" else (base,)
            return TypeInfo("union", text, (*inner, TypeInfo("none", "None")))
        if name == "Annotated":
            marks = [self.sources.find(scope, getattr(mark, "func", mark)) for mark in nodes[1:]]
            inner_type = self.read(scope, nodes[0], depth + 1)
            is_opaque = any(mark and mark.last == "Opaque" for mark in marks)
            return TypeInfo("opaque", text, (inner_type,)) if is_opaque else inner_type
        kind = name if name in QUALIFIERS else KINDS.get(name, "external" if found else "undefined")
        return TypeInfo(kind, text, tuple(self.read(scope, argument, depth + 1) for argument in nodes), found=found)

    def literal(self, scope: Scope, nodes: Sequence[Node], text: str) -> TypeInfo:
        try:
            values = [self.evaluator.json(Env(scope, {}), node) for node in nodes]
        except Unreadable:
            return TypeInfo("undefined", text)
        choices = TypeInfo("choices", text, values=tuple(value for value in values if value is not None))
        return TypeInfo("union", text, (choices, TypeInfo("none", "None"))) if None in values else choices

    def called(self, scope: Scope, node: Node, depth: int) -> TypeInfo:
        found = self.sources.find(scope, node.func)
        name = found.last if found else ""
        if name == "NewType" and len(node.args) == 2:
            return self.read(scope, node.args[1], depth + 1)
        return TypeInfo(KINDS[name] if name in ("TypeVar", "TypedDict", "namedtuple", "NamedTuple") else "undefined",
                        expression(node))


def split_optional(info: TypeInfo) -> tuple[TypeInfo, bool]:
    """A type without its None, and whether it had one."""
    if info.kind != "union":
        return info, False
    rest = tuple(member for member in info.args if member.kind != "none")
    if len(rest) == 1:
        return rest[0], len(info.args) > 1
    return info._replace(args=rest), len(rest) < len(info.args)


def unresolved_type(info: TypeInfo) -> str:
    """What to say of a type that the project's files do not define."""
    module = info.found.dotted.rpartition(".")[0] if info.found else ""
    if info.kind == "undefined" or not module:
        return f"cannot resolve type '{info.text}': the project does not define it"
    what = f"cannot resolve type '{info.text}' (imported from '{module}')"
    return what + " - external types cannot be statically analyzed."


# -- inputs: one parameter to one property

SCALARS: dict[str, JSON] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "Path": {"type": "string", "format": "uri"},
    "File": {"type": "string", "format": "uri"},
    "Secret": {"type": "string", "format": "password", "writeOnly": True, "x-cog-secret": True},
}
OBJECTS = ("dict", "typeddict", "opaque")
UNION_MEMBERS = ("str", "int", "float", "bool", "Any", "list", "choices", *OBJECTS)
ACCEPTED_INPUTS = (
    "accepted: str, int, float, bool, cog.Path, cog.File, cog.Secret, dict, Any, a list of these, "
    "Optional[...] or a union of them, Literal, Enum; Annotated[X, cog.Opaque] for anything else"
)
INPUT_KEYWORDS = ("default", "description", "ge", "le", "min_length", "max_length", "regex", "choices", "deprecated")
NUMBERS, TEXTS = ("int", "float"), ("str", "Path", "File", "Secret")
CONSTRAINTS: dict[str, tuple[str, tuple[str, ...], type | tuple[type, ...], str]] = {
    "ge": ("minimum", NUMBERS, (int, float), "a number"),
    "le": ("maximum", NUMBERS, (int, float), "a number"),
    "min_length": ("minLength", TEXTS, int, "a whole number"),
    "max_length": ("maxLength", TEXTS, int, "a whole number"),
    "regex": ("pattern", TEXTS, str, "text"),
}
NOT_WORTH_ASKING = ("default", "description", "deprecated")  # their loss does not change what a model accepts


class InputCall(NamedTuple):
    """An `Input(...)` and where its arguments' names are looked up."""

    env: Env
    node: Node


class Property(NamedTuple):
    """One input: its schema, whether it must be given, and its choices."""

    schema: JSON
    is_required: bool
    choices: tuple[Any, ...] = ()


Ask = Callable[[str, "ast.expr"], Any]  # the value of an expression of a file, from Python itself; Raises Unreadable


class SchemaReader:
    """What the reading of one document shares: sources, values, types, and the notes taken."""

    def __init__(self, project: str, read: Callable[[str], str], ask: Ask | None, places: Mapping[str, str]) -> None:
        self.sources, self.ask, self.places = Sources(project, read), ask, places
        self.evaluator = Evaluator(self.sources)
        self.types = TypeReader(self.sources, self.evaluator)
        self.warnings: dict[str, None] = {}
        self.unresolved: list[Unresolved] = []
        self.outside: dict[str, str] = {}
        self.python_needed = False

    def warn(self, where: str, text: str) -> None:
        self.warnings[f"{where}: {text}"] = None

    def give_up(self, where: str, name: str, keyword: str, text: str, why: str) -> None:
        """Note an expression that only the model's own Python can tell."""
        outcome = {
            "default": f"default `{text}` cannot be statically resolved ({why}); the model applies its own",
            "choices": f"choices expression cannot be statically resolved ({why}); any value is let through",
        }
        self.warn(where, f"parameter '{name}': " + outcome.get(keyword, f"{keyword} `{text}` is left out ({why})"))
        self.unresolved.append(Unresolved(name, text, why))
        self.python_needed = self.python_needed or keyword not in NOT_WORTH_ASKING

    def find_input(self, env: Env, node: Node) -> InputCall | None:
        """The `Input(...)` that a default stands for: itself, a name for one, or a helper that returns one."""
        if env.depth > IMPORT_DEPTH or node is None:
            return None
        found = self.sources.find(env.scope, node.func if node_kind(node) == "Call" else node)
        if node_kind(node) == "Call":
            name = found.last if found else expression(node.func).rpartition(".")[2]
            if name == "Input" and (not found or found.kind == "external"):
                return InputCall(env, node)
            if found and found.kind == "function":
                return self.find_helper(env, found, node)
        elif found and found.kind == "value":
            return self.find_input(Env(found.scope, {}, env.depth + 1), found.node)
        return None

    def find_helper(self, env: Env, found: Found, call: Node) -> InputCall | None:
        import ast

        nodes: list[Node] = list(ast.walk(found.node or call))
        for value in (node.value for node in nodes if node_kind(node) == "Return"):
            if self.find_input(Env(found.scope, {}, env.depth + 1), value):
                try:
                    positional, named = self.evaluator.arguments(env, call, self.evaluator.lenient)
                except (Unreadable, *CANNOT):
                    positional, named = [], {}
                local = self.evaluator.bind_arguments(found, positional, named, env.depth + 1)
                return self.find_input(Env(found.scope, local, env.depth + 1), value)
        return None

    def keywords(self, where: str, call: InputCall) -> dict[str, tuple[Env, ast.expr]]:
        """The arguments of an `Input(...)` by name, and where each is to be evaluated.
        Raises SchemaError, without a position: one is given twice."""
        import ast

        result: dict[str, tuple[Env, ast.expr]] = {}
        for name, argument in zip(INPUT_KEYWORDS, call.node.args):
            result[name] = (call.env, argument)
        given: set[str] = set()
        for keyword in call.node.keywords:
            if keyword.arg in given:
                raise SchemaError(f"{keyword.arg} is given twice, which Python does not run", hint="keep one of them")
            if keyword.arg is not None:
                given.add(keyword.arg)
                result[keyword.arg] = (call.env, keyword.value)
                continue
            try:
                spread = self.evaluator.value(call.env, keyword.value)
            except Unreadable as error:
                self.warn(where, f"`**{expression(keyword.value)}` is left out ({error})")
                spread = {}
            for name, value in spread.items() if isinstance(spread, dict) else ():
                if isinstance(name, str):
                    result[name] = (call.env._replace(local={"it": value}), ast.Name(id="it", ctx=ast.Load()))
        return result

    def plain(self, env: Env, keyword: str, value: object) -> Any:
        """The JSON form of what a keyword of `Input` is given: choices that are a dict stand for its keys, and those
        that are an Enum for its members."""
        if keyword == "choices" and isinstance(value, (dict, Found)):
            value = self.evaluator.items(env, value)
        return self.evaluator.as_json(value)

    def values(self, where: str, name: str, default: Node, scope: Scope) -> JSON:
        """What is said of a parameter, by keyword. A default that is there but unknown is in `default` as a Hole."""
        env, result = Env(scope, {}), {}
        call = self.find_input(env, default)
        given = self.keywords(where, call) if call else {"default": (env, default)} if default is not None else {}
        for keyword, (place, node) in given.items():
            self.evaluator.refill()
            try:
                value = self.evaluator.value(place, node)
                if value is ...:
                    continue
                value = self.plain(place, keyword, value)
                if keyword == "choices" and value == [] and node_kind(node) != "List":
                    raise Unreadable("nothing is in it before the program runs")
                result[keyword] = value
            except Unreadable as error:
                if keyword not in (*INPUT_KEYWORDS, "accept"):  # it is refused or warned about for its name alone
                    result[keyword] = True
                    continue
                why = str(error)
                if self.ask and keyword not in NOT_WORTH_ASKING:
                    try:
                        result[keyword] = self.plain(place, keyword, self.ask(place.scope.path, node))
                        continue
                    except Unreadable as answer:
                        why = str(answer)
                self.give_up(where, name, keyword, expression(node), why)
                if keyword == "default":
                    result[keyword] = Hole(why)
        return {key: value for key, value in result.items() if value is not None or key == "default"}


def foreign_types(info: TypeInfo) -> list[TypeInfo]:
    """Those in a type that other packages define, whose source is not there to be read."""
    if info.kind == "external" and info.found and not info.found.dotted.startswith(("builtins.", "typing.")):
        return [info]
    return [found for part in info.args for found in foreign_types(part)] if info.kind in ("list", "union") else []


def input_fragment(info: TypeInfo, in_union: bool = False) -> JSON:
    """The schema of a type without its None. Raises SchemaError, without a position: no input can be of that type."""
    if info.kind in SCALARS:
        return dict(SCALARS[info.kind])
    if info.kind in ("Any", "either") or foreign_types(info) == [info]:
        return {}
    if info.kind in OBJECTS:
        is_list = info.kind == "opaque" and split_optional(info.args[0])[0].kind == "list"
        return {"type": "array", "items": {"type": "object"}} if is_list else {"type": "object"}
    if info.kind == "choices":
        return {"type": choice_type(info), **({"enum": list(info.values)} if in_union else {})}
    if info.kind == "list":
        return {"type": "array", "items": item_fragment(info.args[0]) if info.args else {}}
    if info.kind == "union":
        return {"anyOf": [union_fragment(member) for member in info.args]}
    raise SchemaError("unsupported type: " + unsupported_input(info), hint=ACCEPTED_INPUTS)


def unsupported_input(info: TypeInfo) -> str:
    """Why no input can be of that type."""
    if info.kind == "none":
        return "union inputs must include at least one non-None type"
    if info.kind in ("external", "undefined") or (info.kind == "set" and not info.args):
        return unresolved_type(info)
    if info.args:
        return f"{info.text.partition('[')[0]}[...] is not a supported input type"
    return info.text


def item_fragment(item: TypeInfo) -> JSON:
    if item.kind in ("list", "union"):
        what = "nested generics like List[Optional[X]] are not supported"
        raise SchemaError(f"unsupported type: {what}", hint=ACCEPTED_INPUTS)
    return input_fragment(item)


def union_fragment(member: TypeInfo) -> JSON:
    reason = ""
    if member.kind == "union":
        is_nullable = any(inner.kind == "none" for inner in member.args)
        reason = f"nested {'nullable variants' if is_nullable else 'union inputs'} are not supported"
        reason += " in union inputs" if is_nullable else ""
    elif member.kind not in UNION_MEMBERS:
        reason = f"{member.text} is not supported in union inputs"
    if reason:
        raise SchemaError("unsupported type: " + reason, hint=ACCEPTED_INPUTS)
    return input_fragment(member, in_union=True)


def choice_type(info: TypeInfo) -> str:
    """The JSON type that all values of a Literal or an Enum share."""
    types = {json_type(value) for value in info.values}
    if types == {"integer", "number"}:
        types = {"number"}
    if len(types) != 1 or not types <= {"string", "integer", "number"}:
        raise SchemaError(f"{info.text}: the choices must all be text or all be numbers")
    return types.pop()


def json_type(value: object) -> str:
    """The JSON type of a value.

    >>> json_type(True), json_type(1), json_type(None)
    ('boolean', 'integer', 'null')
    """
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def mismatch(schema: JSON, value: Any) -> str:
    """Why a schema does not allow a value; empty if it does.

    >>> mismatch({"type": "integer", "minimum": 2}, 1)
    'number must be at least 2 (the minimum)'
    """
    if value is None and schema.get("nullable"):
        return ""
    if "anyOf" in schema:
        return "" if any(not mismatch(member, value) for member in schema["anyOf"]) else "it fits no type of the union"
    wanted, got = schema.get("type"), json_type(value)
    is_whole = wanted == "integer" and isinstance(value, float) and value.is_integer()
    if wanted and wanted != got and not (wanted == "number" and got == "integer") and not is_whole:
        return f"expected {wanted}, got {got}"
    if value not in schema.get("enum", [value]):
        return "must be one of: " + ", ".join(map(str, schema["enum"]))
    for key, fails, text in (
        ("minimum", lambda limit: value < limit, "number must be at least {} (the minimum)"),
        ("maximum", lambda limit: value > limit, "number must be at most {} (the maximum)"),
        ("minLength", lambda limit: len(value) < limit, "minimum string length is {}"),
        ("maxLength", lambda limit: len(value) > limit, "maximum string length is {}"),
        ("pattern", lambda limit: not may_match(limit, value), "string doesn't match the regular expression {!r}"),
    ):
        if key in schema and fails(schema[key]):
            return text.format(schema[key])
    if isinstance(value, list) and "items" in schema:
        return next(filter(None, (mismatch(schema["items"], item) for item in value)), "")
    return ""


def may_match(pattern: str, text: str) -> bool:
    """Whether a pattern is found in a text; True where finding out could take for ever."""
    import re

    if len(text) > 100 or re.search(r"\)[*+{?]", pattern) or len(re.findall(r"[*+{]", pattern)) > 3:
        return True
    return re.search(pattern, text) is not None


class Parameter(NamedTuple):
    """One parameter: its type without None, and what is said of it, by keyword."""

    reader: SchemaReader
    where: str
    name: str
    info: TypeInfo
    said: JSON

    @property
    def element(self) -> TypeInfo:
        """What choices and limits are about: a list's items, else the input itself."""
        return self.info.args[0] if self.info.kind == "list" and self.info.args else self.info

    def warn(self, text: str) -> None:
        self.reader.warn(self.where, f"parameter '{self.name}': {text}")


def read_property(at: Parameter, is_optional: bool) -> Property:
    """One parameter's property, without title and order. Raises SchemaError, without a position."""
    schema, said = input_fragment(at.info), at.said
    is_union, has_default, default = at.info.kind == "union", "default" in said, said.get("default")
    if "default_factory" in said:
        raise SchemaError("default_factory is not supported in static schema generation", hint="give a default")
    if at.info.kind == "either":
        at.reader.give_up(at.where, at.name, "type", at.info.text, "it depends on the running program")
    for foreign in foreign_types(at.info):
        at.warn(f"type '{foreign.text}' is not in the project; any value is let through")
    if is_union and {*CONSTRAINTS, "choices"} & set(said):
        raise SchemaError("constraints and choices are not supported on union inputs")
    nullable = is_optional or (has_default and default is None)
    for target in (schema, *schema.get("anyOf", ())) if nullable else ():
        target["nullable"] = True
    choices = read_choices(at)
    apply_constraints(at, schema, bool(choices))
    apply_texts(at, schema)
    if has_default and not isinstance(default, Hole):
        allowed = {"enum": choices} if choices else {}
        is_list = at.element is not at.info
        checked = {**schema, "items": {**schema["items"], **allowed}} if is_list else {**schema, **allowed}
        reason = mismatch(checked, default)
        if reason:
            hint = "give a default that the input accepts"
            raise SchemaError(f"invalid default {default!r}: {reason}"[:300], hint=hint)
        schema["default"] = default
    return Property(schema, not has_default and (is_union or not nullable), choices)


def apply_texts(at: Parameter, schema: JSON) -> None:
    """Description, deprecated and accept, and a warning for a keyword that `Input` does not have."""
    if isinstance(at.said.get("description"), str):
        schema["description"] = at.said["description"]
    if at.said.get("deprecated") is True:
        schema["deprecated"] = True
    if "accept" in at.said:
        if at.element.kind not in ("Path", "File"):
            raise SchemaError(f"accept is only valid on Path or File inputs (parameter '{at.name}')")
        schema["x-cog-accept"] = at.said["accept"]
    for unknown in sorted(set(at.said) - {*INPUT_KEYWORDS, "accept"}):
        at.warn(f"Input() has no '{unknown}'; it has {', '.join(INPUT_KEYWORDS)}")


def read_choices(at: Parameter) -> tuple[Any, ...]:
    """The choices of a parameter: those of its `Input`, else of its Literal or Enum; empty if it has none.
    Raises SchemaError: they are not of the parameter's type."""
    target, values = at.element, at.said.get("choices")
    if values is None:
        return target.values if target.kind == "choices" else ()
    if not isinstance(values, list) or not values:
        raise SchemaError("choices must be a list with at least one value")
    wanted: Any = {"str": str, "int": int, "float": (int, float), "choices": (str, int, float)}.get(target.kind)
    if wanted is None:
        at.warn("choices work on str, int and float; here they are left out")
        return ()
    wrong = [value for value in values if not isinstance(value, wanted) or isinstance(value, bool)]
    if wrong:
        raise SchemaError(f"choices must all be {target.text}, and {wrong[0]!r} is not"[:300])
    if len(values) == 1:
        at.warn("has one choice only")
    return tuple(dict.fromkeys(values))


def apply_constraints(at: Parameter, schema: JSON, has_choices: bool) -> None:
    """Enter ge, le, lengths and regex, on a list's items where the input is a list.
    Raises SchemaError: a limit is of the wrong type, or a pattern is none."""
    import re

    target = schema if at.element is at.info else schema["items"]
    for keyword, (key, kinds, types, what) in CONSTRAINTS.items():
        if keyword not in at.said:
            continue
        limit = at.said[keyword]
        if not isinstance(limit, types) or isinstance(limit, bool):
            raise SchemaError(f"{keyword} must be {what}, not {limit!r}"[:300])
        if has_choices or at.element.kind not in kinds:
            reason = "an input with choices" if has_choices else at.info.text
            at.warn(f"{keyword} does nothing on {reason}; it is left out")
            continue
        target[key] = int(limit) if isinstance(limit, float) and limit.is_integer() else limit
    if "pattern" in target:
        try:
            re.compile(target["pattern"])
        except (re.error, RecursionError, OverflowError) as error:
            raise SchemaError(f"invalid regex {target['pattern']!r}: {error}"[:300]) from error


def title_of(name: str) -> str:
    """A parameter's title.

    >>> title_of("TTS_model")
    'TTS Model'
    """
    return " ".join(part[:1].upper() + part[1:] for part in name.split("_") if part)


def component_name(name: str, taken: Mapping[str, object]) -> str:
    """A name for a parameter's enum among the components.

    >>> component_name("Status", {"Status": 1})
    'Status_choices'
    """
    import re

    clean = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    while clean in taken or clean in FIXED_COMPONENTS:
        clean += "_choices"
    return clean


def finish_property(name: str, order: int, done: Property, enums: dict[str, JSON], taken: JSON) -> JSON:
    """The property as it stands in the document; its choices become a component of their own. `taken` are those of
    an earlier signature of the document."""
    schema = {**done.schema, "x-order": order}
    if not done.choices:
        return {**schema, "title": title_of(name)}
    holder = schema["items"] if schema.get("type") == "array" else schema
    kind = holder["type"] if "type" in holder else choice_type(TypeInfo("choices", name, values=done.choices))
    enum = {"description": "An enumeration.", "enum": list(done.choices), "title": name, "type": kind}
    component = component_name(name, enums)
    if taken.get(component, enum) != enum:
        component = component_name(component + "_training", {**taken, **enums})
    enums[component] = enum
    reference = reference_to(component)
    if holder is not schema:
        return {**schema, "items": reference}
    return {**{key: value for key, value in schema.items() if key != "type"}, "allOf": [reference]}


# -- outputs: a return annotation to a schema

OUTPUTS: dict[str, JSON] = {
    **SCALARS,
    "Any": {"type": "object"},
    "IO": {"type": "string", "format": "uri"},
    "datetime": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
    "tuple": {},
}
ITERATORS: dict[str, JSON] = {
    **dict.fromkeys(("Iterator", "AsyncIterator"), {"x-cog-array-type": "iterator"}),
    **dict.fromkeys(("ConcatenateIterator", "AsyncConcatenateIterator"),
                    {"x-cog-array-type": "iterator", "x-cog-array-display": "concatenate"}),
}
ACCEPTED_OUTPUTS = (
    "accepted: str, int, float, bool, Path, File, dict, list, Any, a BaseModel, TypedDict or dataclass, "
    "Iterator[...] and ConcatenateIterator[str], also async"
)


def return_schema(reader: SchemaReader, info: TypeInfo, seen: tuple[object, ...] = ()) -> JSON:
    """The schema of a returned type, models inlined. Raises SchemaError, without a position."""
    if info.kind in OUTPUTS:
        return dict(OUTPUTS[info.kind])
    if info.kind == "opaque":
        return input_fragment(info)
    if info.kind in ITERATORS:
        return iterator_schema(reader, info, seen)
    if info.kind == "dict":
        values = {"additionalProperties": return_schema(reader, info.args[1], seen)} if len(info.args) == 2 else {}
        return {"type": "object", **values}
    if info.kind == "list":
        items = return_schema(reader, info.args[0], seen) if info.args else {"type": "object"}
        return {"type": "array", "items": items}
    if info.kind == "choices":
        return {"enum": list(info.values), "type": choice_type(info)}
    if info.kind in ("union", "either"):
        return union_output(reader, info, seen)
    if info.kind in QUALIFIERS:
        return return_schema(reader, info.args[0], seen)
    if info.kind in ("model", "typeddict", "dataclass") and info.found:
        return model_schema(reader, info.found, info.kind, seen)
    if info.found and foreign_types(info) == [info]:
        reader.outside[info.text] = info.found.dotted
        return {}
    raise SchemaError("unsupported type: " + unsupported_output(info), hint=ACCEPTED_OUTPUTS)


def unsupported_output(info: TypeInfo) -> str:
    """Why nothing of that type can be returned."""
    if info.kind == "none":
        return "cannot resolve type 'None': a model returns something"
    if info.args:
        return f"{info.text.partition('[')[0]}[...] is not a supported output type"
    if info.kind in ("undefined", "class"):
        what = f"cannot resolve type '{info.text}' - it is not a primitive type (str, int, float, bool, Path)"
        return what + " and no BaseModel definition was found in the predict file"
    return unresolved_type(info)


def iterator_schema(reader: SchemaReader, info: TypeInfo, seen: tuple[object, ...]) -> JSON:
    is_text = info.kind.endswith("ConcatenateIterator")
    if is_text and info.args and info.args[0].kind != "str":
        raise SchemaError(f"ConcatenateIterator element type must be str, got {info.args[0].text}")
    if not is_text and not info.args:
        raise SchemaError(f"{unresolved_type(info)}", hint=f"say what it yields: {info.text}[str]")
    items = return_schema(reader, info.args[0], seen) if info.args else dict(SCALARS["str"])
    return {"type": "array", "items": items, **ITERATORS[info.kind]}


def union_output(reader: SchemaReader, info: TypeInfo, seen: tuple[object, ...]) -> JSON:
    flat = tuple(part for member in info.args for part in (member.args if member.kind == "union" else (member,)))
    inner, nullable = split_optional(info._replace(args=flat))
    members = inner.args if inner.kind in ("union", "either") else (inner,)
    if nullable and not seen:
        names = ", ".join(member.text for member in members)
        alone = f"Union[{names}]" if len(members) > 1 else names
        hint = f"name the type alone: -> {alone}, and raise an error where there is no output"
        raise SchemaError("unsupported output type: Optional is not allowed as a return type", hint=hint)
    schemas: list[JSON] = []
    for schema in (return_schema(reader, member, seen) for member in members):
        if schema not in schemas:
            schemas.append(schema)
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {**schema, "nullable": True} if nullable else schema


def model_schema(reader: SchemaReader, found: Found, kind: str, seen: tuple[object, ...]) -> JSON:
    """The schema of a class with fields; one that holds itself is any object from there on."""
    if id(found.node) in seen:
        return {"type": "object"}
    properties: JSON = {}
    required: dict[str, None] = {}
    for parent in reversed(reader.sources.lineage(found)):
        for name, info, has_default, is_total in model_fields(reader, parent):
            inner = info.args[0] if info.kind in QUALIFIERS and info.args else info
            required.pop(name, None)
            properties[name] = {**return_schema(reader, inner, (*seen, id(found.node))), "title": title_of(name)}
            is_optional = properties[name].get("nullable", False) or has_default
            if kind == "typeddict":
                is_optional = info.kind == "NotRequired" or (not is_total and info.kind != "Required")
            if not is_optional:
                required[name] = None
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def model_fields(reader: SchemaReader, found: Found) -> Iterator[tuple[str, TypeInfo, bool, bool]]:
    """The fields that one class itself declares: name, type, whether it has a default, whether the class is total."""
    if found.kind != "class":
        return
    scope = reader.sources.body(found)
    is_total = not any(k.arg == "total" and getattr(k.value, "value", True) is False for k in found.node.keywords)
    for node in found.node.body:
        if node_kind(node) == "AnnAssign" and node_kind(node.target) == "Name" and node.target.id[0] != "_":
            info = reader.types.read(scope, node.annotation)
            if info.kind not in ("ClassVar", "InitVar"):
                yield node.target.id, info, field_has_default(node.value), is_total


def field_has_default(value: Node) -> bool:
    """Whether a field's right-hand side is a default: a value, or `Field(...)` that holds one."""
    defaults = [] if value is None else [value]
    if node_kind(value) == "Call" and expression(value.func).rpartition(".")[2].lower() == "field":
        defaults = value.args[:1] + [k.value for k in value.keywords if k.arg in ("default", "default_factory")]
    return any(getattr(node, "value", None) is not ... for node in defaults)


# -- the callable: which function of the file is the model


class Target(NamedTuple):
    """The method or function whose signature is the schema, and the file or class body where its names live."""

    node: Any  # ast.FunctionDef or ast.AsyncFunctionDef; None where only the model's own Python knows it
    scope: Scope
    is_method: bool


MODEL_METHODS = {"train": ("train",), "predict": ("run", "predict")}
KNOWN_BASES = (*NEVER_IN_PROJECT, "abc", "builtins")  # none of them has such a method


def split_reference(reference: str, mode: str) -> tuple[str, str]:
    """The file and the name of a `FILE.py:NAME`; `FILE.py` alone has an empty name.

    Raises SchemaError: it is neither, or outside the project.

    >>> split_reference("src/predict.py:Predictor", "predict")
    ('src/predict.py', 'Predictor')
    """
    import posixpath as paths

    parts = reference.split(".py:")
    if reference.endswith(".py") and len(parts) == 1:
        parts = [reference[:-3], ""]
    if len(parts) != 2 or not parts[0]:
        example = "train.py:Trainer" if mode == "train" else "predict.py:Predictor"
        raise SchemaError(f"invalid {mode} \"{reference}\": must be in the form '{example}'")
    path = paths.normpath(parts[0] + ".py")
    if path.startswith(("/", "../")) or "\0" in path:
        raise SchemaError(f'predictor source path "{parts[0]}.py" is outside source directory')
    return path, parts[1]


def find_target(reader: SchemaReader, reference: str, mode: str) -> Target:
    """The callable that a reference names. Raises SchemaError: there is none; says what is there instead."""
    path, name = split_reference(reference, mode)
    place = f"{reader.places[mode]}: " if mode in reader.places else ""
    scope = reader.sources.file(path)
    if scope is None:
        reason = reader.sources.reasons[path]
        raise SchemaError(f"{place}failed to read predictor source {path}: {reason}", hint=python_files(reader, path))
    found = reader.sources.member(scope, name, 0) if name else single_class(reader, scope, mode)
    if found and found.kind == "class":
        return find_method(reader, found, mode)
    fallback = reader.sources.member(scope, mode, 0)
    for function in (found, fallback):
        if function and function.kind == "function":
            return Target(function.node, function.scope, False)
    if found:
        return ask_target(reader, scope, f"{path}:1: {name}", name, mode)
    defined = [key for key, node in scope.names.items() if node_kind(node).endswith("Def") and key[0] not in "_\0"]
    what = f"{place}predictor {name} not found in {path}" if name else f"{path}:1: no class with a {mode}() method"
    likely = sorted(defined, key=lambda key: node_kind(scope.names[key]) != "ClassDef")
    hint = f"name the one that is meant, as in \"{path}:{likely[0]}\"" if name and defined else ""
    raise SchemaError(f"{what}, which defines {', '.join(defined[:12]) or 'no class and no function'}", hint=hint)


def python_files(reader: SchemaReader, path: str) -> str:
    """A hint that lists the Python files beside a missing one."""
    folder = os.path.join(reader.sources.project, os.path.dirname(path))
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".py"))
    except OSError:
        names = []
    return "its folder holds " + (", ".join(names[:12]) or "no Python file") + "; cog.yaml names the file"


def single_class(reader: SchemaReader, scope: Scope, mode: str) -> Found | None:
    """The one class of a file that has the method. Raises SchemaError: there are several."""
    classes = [reader.sources.follow(scope, name, 0) for name, node in scope.names.items()
               if node_kind(node) == "ClassDef" and name[0] != "\0"]
    fitting = [c for c in classes if c and any(reader.sources.attribute(c, method) for method in MODEL_METHODS[mode])]
    if len(fitting) > 1:
        names = ", ".join(found.dotted for found in fitting)
        hint = f"name one: {scope.path}:{fitting[0].dotted}"
        raise SchemaError(f"{scope.path}:1: holds several classes that could be meant: {names}", hint=hint)
    return fitting[0] if fitting else None


def full_reference(reference: str, project: str, mode: str) -> str:
    """A `FILE.py:` with the name of the one model in that file, which the runtime wants; any other as it is."""
    if not reference.endswith(".py:"):
        return reference
    reader = SchemaReader(project, read_source, None, {})
    try:
        scope = reader.sources.file(split_reference(reference, mode)[0])
        found = scope and (single_class(reader, scope, mode) or reader.sources.member(scope, mode, 0))
    except SchemaError:  # read_schema says more
        found = None
    return reference + (found.dotted if found else "")


def find_method(reader: SchemaReader, found: Found, mode: str) -> Target:
    """The method of a class, or of what it descends from, that is the model."""
    where = f"{found.scope.path}:{getattr(found.node, 'lineno', 1)}"
    lineage = reader.sources.lineage(found)
    bodies = [reader.sources.body(parent) for parent in lineage if parent.kind == "class"]
    if mode == "predict" and {"run", "predict"} <= set(bodies[0].names):
        hint = "rename the one that is not the model's: Cog's runtimes refuse a class with both"
        raise SchemaError(f"{where}: {found.dotted} must define either run() or predict(), not both", hint=hint)
    for name in MODEL_METHODS[mode]:
        for body in bodies:
            method = reader.sources.follow(body, name, 0) if name in body.names else None
            if method and method.kind == "function":
                return Target(method.node, method.scope, True)
    is_made = any(name in body.names for name in MODEL_METHODS[mode] for body in bodies)
    foreign = [base.dotted for base in lineage if base.kind != "class" and "." in base.dotted]
    if is_made or any(dotted.partition(".")[0] not in KNOWN_BASES for dotted in foreign):
        return ask_target(reader, found.scope, f"{where}: {found.dotted}", found.dotted, mode)
    fault = ".train not found" if mode == "train" else " must define run() or predict()"
    raise SchemaError(f"{where}: {found.dotted}{fault}")


def ask_target(reader: SchemaReader, scope: Scope, where: str, name: str, mode: str) -> Target:
    """The callable behind a name that a file binds to what the project's source does not hold: the model's own Python
    tells the file and the name of its code. Where it is not asked, or that cannot be read, nothing is known of it.
    Raises SchemaError: there is none."""
    import ast

    if reader.ask:
        tried = ", ".join([*(f"getattr({name}, '{method}', 0)" for method in MODEL_METHODS[mode]), name])
        code = ("next(([f.__code__.co_filename, f.__qualname__] for f in map(__import__('inspect').unwrap, "
                f"[{tried}]) if hasattr(f, '__code__') and f.__module__.partition('.')[0] != 'cog'), 0)")
        try:
            found = reader.ask(scope.path, ast.parse(code, mode="eval").body)
        except Unreadable as error:
            raise SchemaError(f"{where} cannot be read: {error}") from error
        if not isinstance(found, list):
            raise SchemaError(f"{where} has no {' or '.join(MODEL_METHODS[mode])}()")
        file = reader.sources.file(os.path.relpath(found[0], reader.sources.project))
        meant = Found("module", file) if file else None
        for part in found[1].split("."):
            meant = reader.sources.attribute(meant, part) if meant else None
        if meant and meant.kind == "function":
            return Target(meant.node, meant.scope, "." in found[1])
    reader.warn(where, f"its {mode}() is not in the project's source; any inputs are let through")
    reader.python_needed = True
    return Target(None, scope, False)


class Traits(NamedTuple):
    """What cog's decorators say of a callable."""

    is_streaming: bool = False
    concurrency: int = 1  # 0: it is no coroutine, and can never overlap


def read_decorators(reader: SchemaReader, target: Target) -> Traits:
    """What cog's decorators say. Raises SchemaError: they are those of 2021, or wrong."""
    import ast

    is_plain = node_kind(target.node) == "FunctionDef" and not target.node.decorator_list
    traits, old = Traits(concurrency=0 if is_plain else 1), []
    for decorator in target.node.decorator_list:
        found = reader.sources.find(target.scope, getattr(decorator, "func", decorator))
        if not found or found.kind != "external" or found.dotted.partition(".")[0] != "cog":
            continue
        if found.last == "input":
            old.append(decorator)
        elif found.last == "streaming":
            traits = traits._replace(is_streaming=True)
        elif found.last == "concurrent":
            where = f"{target.scope.path}:{decorator.lineno}"
            traits = traits._replace(concurrency=concurrency_of(reader, target, decorator, where))
    if old:
        lines = ", ".join(todays_parameter(decorator) for decorator in old)
        what = f"`@{expression(old[0])}` is Cog's API of 2021; today it is a parameter: {todays_parameter(old[0])}"
        is_iterator = any(node_kind(part) == "Yield" for part in ast.walk(target.node))
        returns = expression(target.node.returns) or ("Iterator[Path]" if is_iterator else "Path")
        imports = "`from cog import BasePredictor, Input, Path`" + " and `from typing import Iterator`" * is_iterator
        hint = f"with {imports}: def {target.node.name}(self, {lines}) -> {returns}:"
        raise SchemaError(f"{target.scope.path}:{old[0].lineno}: {what}", hint=hint)
    return traits


def todays_parameter(decorator: Node) -> str:
    """An `@cog.input(...)` of 2021 as a parameter of today."""
    names = {"help": "description", "default": "default", "min": "ge", "max": "le", "options": "choices"}
    if node_kind(decorator) != "Call":
        return "x: str = Input()"
    given = {keyword.arg or "": expression(keyword.value, 1000) for keyword in decorator.keywords}
    name = str(getattr(decorator.args[0], "value", "x")) if decorator.args else "x"
    arguments = ", ".join(f"{names[key]}={text}" for key, text in given.items() if key in names)
    return f"{name}: {given.get('type', 'str')} = Input({arguments})"


def concurrency_of(reader: SchemaReader, target: Target, decorator: Node, where: str) -> int:
    """The number in `@concurrent(max=N)`."""
    given = [k.value for k in getattr(decorator, "keywords", ()) if k.arg == "max"] + getattr(decorator, "args", [])
    try:
        number = reader.evaluator.json(Env(target.scope, {}), given[0]) if given else None
    except Unreadable:
        number = None
    if not isinstance(number, int) or isinstance(number, bool):
        raise SchemaError(f"{where}: @concurrent max must be an integer literal")
    if number < 1:
        raise SchemaError(f"{where}: @concurrent max must be at least 1")
    if number > 1 and node_kind(target.node) != "AsyncFunctionDef":
        raise SchemaError(f"{where}: @concurrent(max > 1) requires an async run() or predict() method")
    return number


# -- the document


class Signature(NamedTuple):
    """One callable's part of the document; `inputs` is None where nobody knows them."""

    inputs: JSON | None
    required: tuple[str, ...]
    output: JSON
    enums: dict[str, JSON]
    traits: Traits


def parameters(target: Target) -> list[tuple[Any, Any]]:
    """The arguments of a signature, each with its default or None; `self` is left out.
    Raises SchemaError: `*args` or `**kwargs`, or a parameter before a `/`: inputs are given by their names."""
    spec = target.node.args
    where = f"{target.scope.path}:{target.node.lineno}"
    is_static = any(expression(decorator) == "staticmethod" for decorator in target.node.decorator_list)
    first = 1 if target.is_method and not is_static else 0
    for extra, mark in ((spec.vararg, "*"), (spec.kwarg, "**"), *((part, "") for part in spec.posonlyargs[first:])):
        if extra:
            what = f"parameter '{mark}{extra.arg}' on {target.node.name} cannot be given by its name, as an input is"
            hint = "name each input as a parameter of its own" if mark else "take the `/` out of the parameters"
            raise SchemaError(f"{where}: {what}", hint=hint)
    return arguments_of(spec)[first:]


def input_name(target: Target, name: str) -> str:
    """What a parameter is called by its callers: Python puts the class's name before a private one."""
    owner = target.scope.owner.node.name.lstrip("_") if target.scope.owner else ""
    return f"_{owner}{name}" if owner and name.startswith("__") and not name.endswith("__") else name


def read_signature(reader: SchemaReader, reference: str, mode: str, taken: JSON) -> Signature:
    """A callable's inputs and output; `taken` are the enums of another signature.
    Raises SchemaError: all faulty parameters at once, each with its position."""
    target = find_target(reader, reference, mode)
    if target.node is None:
        return Signature(None, (), {"title": "Output"}, {}, Traits())
    traits = read_decorators(reader, target)
    inputs: JSON = {}
    required: list[str] = []
    enums: dict[str, JSON] = {}
    faults: list[SchemaError] = []
    for order, (argument, default) in enumerate(parameters(target)):
        where, name = f"{target.scope.path}:{argument.lineno}", input_name(target, argument.arg)
        try:
            done = read_parameter(reader, target, where, argument, default)
            inputs[name] = finish_property(name, order, done, enums, taken)
        except GrammarError:
            raise
        except SchemaError as error:
            faults.append(error)
            continue
        if done.is_required:
            required.append(name)
    if faults:
        raise SchemaError("\n".join(map(str, faults)), hint=faults[0].hint)
    output = read_output(reader, target, traits)
    for name, doubt in reader.types.doubts.items():
        reader.warn(f"{target.scope.path}:{target.node.lineno}", f"'{name}' {doubt}")
    return Signature(inputs, tuple(required), output, enums, traits)


def read_parameter(reader: SchemaReader, target: Target, where: str, argument: Node, default: Any) -> Property:
    """One parameter's property. Raises SchemaError, with position and name."""
    name = argument.arg
    if argument.annotation is None:
        what = f"parameter '{name}' on {target.node.name} has no type annotation"
        raise SchemaError(f"{where}: {what}", hint=ACCEPTED_INPUTS)
    if reader.find_input(Env(target.scope, {}), argument.annotation):
        what = f"parameter '{name}': Input(...) stands where its type belongs"
        raise SchemaError(f"{where}: {what}", hint=f"{name}: str = Input(...)")
    info = reader.types.read(target.scope, argument.annotation)
    inner, is_optional = split_optional(info)
    for part in (info, *info.args):
        if part.kind == "Path" and part.found and part.found.dotted == "pathlib.Path":
            text = "pathlib's Path reaches the model as text; use `from cog import Path`"
            reader.warn(where, f"parameter '{name}': {text}")
    try:
        said = reader.values(where, name, default, target.scope)
        return read_property(Parameter(reader, where, name, inner, said), is_optional)
    except SchemaError as error:
        prefix = "" if f"parameter '{name}'" in str(error) else f"parameter '{name}': "
        raise placed(error, f"{where}: {prefix}") from error


def read_output(reader: SchemaReader, target: Target, traits: Traits) -> JSON:
    """The Output component of a callable. Raises SchemaError, with a position."""
    where, name = f"{target.scope.path}:{target.node.lineno}", target.node.name
    if target.node.returns is None:
        hint = f"say what it returns, as in `def {name}(...) -> Path:`; {ACCEPTED_OUTPUTS}"
        raise SchemaError(f"{where}: {name} has no return type annotation", hint=hint)
    info = reader.types.read(target.scope, target.node.returns)
    if traits.is_streaming and info.kind not in ITERATORS:
        kinds = "Iterator[...], AsyncIterator[...], ConcatenateIterator[...] or AsyncConcatenateIterator[...]"
        raise SchemaError(f"{where}: @streaming requires {kinds} return type")
    try:
        schema = return_schema(reader, info)
    except SchemaError as error:
        raise placed(error, f"{where}: return type of {name}: ") from error
    for text, dotted in reader.outside.items():
        reader.warn(where, f"return type of {name}: {dotted} is not in the project; its outputs are not described")
        reader.unresolved.append(Unresolved("return", text, f"'{dotted}' comes from outside the project"))
    return {**schema, "title": "Output"}


def read_schema(reference: str, project: str, *, train: str = "", read: Callable[[str], str] = read_source,
                version: str = __version__, ask: Ask | None = None,
                places: Mapping[str, str] | None = None) -> SchemaResult:
    """The schema of the model that `reference` and `train` name (FILE.py:NAME, either may be empty), in `places`.
    `read` gives the text of a file; `version` goes into the document's info; `ask` tells what the source does not.
    Raises SchemaError: the model can never work, or its file cannot be parsed (GrammarError)."""
    import warnings

    if not reference and not train:
        hint = """'run' is required: add `run: "run.py:Runner"`, or `predict: "predict.py:Predictor"`"""
        place = (places or {}).get("", "cog.yaml:1")
        raise SchemaError(f"{place}: no predict or train reference found in cog.yaml", hint=hint)
    reader = SchemaReader(project, read, ask, places or {})
    modes = [(name, mode) for name, mode in ((reference, "predict"), (train, "train")) if name]
    signatures: dict[str, Signature] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, mode in modes:
                taken = signatures["predict"].enums if signatures else {}
                signatures[mode] = read_signature(reader, name, mode, taken)
    except RecursionError as error:
        raise SchemaError(f"{modes[0][0].partition(':')[0]}:1: nested too deeply to read") from error
    traits = signatures[modes[0][1]].traits
    return SchemaResult(schema_document(signatures, version), tuple(reader.warnings), tuple(reader.unresolved),
                        traits.concurrency, traits.is_streaming, reader.python_needed)


def schema_document(signatures: Mapping[str, Signature], version: str) -> JSON:
    """The OpenAPI document of a model that predicts, trains or both."""
    merged: JSON = {"components": {}, "paths": {}}
    for mode, signature in signatures.items():
        for part, entries in mode_document(mode, signature).items():
            merged[part] = {**entries, **merged[part]} if merged[part] else entries
    document: JSON = arranged({
        "components": {"schemas": merged["components"]}, "info": {"title": "Cog", "version": version},
        "openapi": "3.0.2", "paths": merged["paths"],
    })
    return document


def arranged(value: Any, keeps_order: bool = False) -> Any:
    """A document with its keys in order: alphabetical, but components, properties and paths as they came."""
    if isinstance(value, list):
        return [arranged(item) for item in value]
    if not isinstance(value, dict):
        return value
    keys = value if keeps_order else sorted(value)
    named = ("properties", "schemas", "paths")
    return {key: arranged(value[key], not keeps_order and key in named) for key in keys}


def render_schema(document: JSON) -> str:
    """A document's text: compact; one that holds both predictions and trainings sorted and indented."""
    import json

    if {"Input", "TrainingInput"} <= set(document["components"]["schemas"]):
        return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def titled(title: str, **more: Any) -> JSON:
    """A string schema with a title."""
    return {"title": title, "type": "string", **more}


def reference_to(component: str) -> JSON:
    return {"$ref": f"#/components/schemas/{component}"}


def response(description: str, schema: JSON) -> JSON:
    return {"content": {"application/json": {"schema": schema}}, "description": description}


def object_with(title: str, properties: JSON, required: Sequence[str] = ()) -> JSON:
    return {"properties": properties, "title": title, "type": "object",
            **({"required": list(required)} if required else {})}


COMMON_COMPONENTS: JSON = {
    "Status": {"description": "An enumeration.", **titled("Status"),
               "enum": ["starting", "processing", "succeeded", "canceled", "failed"]},
    "HTTPValidationError": object_with("HTTPValidationError", {
        "detail": {"items": reference_to("ValidationError"), "title": "Detail", "type": "array"}}),
    "ValidationError": object_with("ValidationError", {
        "loc": {"items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "title": "Location", "type": "array"},
        "msg": titled("Message"), "type": titled("Error Type")}, ("loc", "msg", "type")),
}
RESPONSE_FIELDS = ("completed_at", "created_at", "error", "id", "input", "logs", "metrics", "output", "started_at",
                   "status", "version")
FIXED_COMPONENTS = frozenset((
    "Input", "Output", "PredictionRequest", "PredictionResponse", "TrainingInput", "TrainingOutput",
    "TrainingRequest", "TrainingResponse", *COMMON_COMPONENTS))


def mode_document(mode: str, signature: Signature) -> JSON:
    """The components and paths of one mode."""
    prefix, noun = ("Training", "Training") if mode == "train" else ("", "Prediction")
    fields = {name: titled(title_of(name), **({"format": "date-time"} if name.endswith("_at") else {}))
              for name in RESPONSE_FIELDS}
    fields.update(metrics={"title": "Metrics", "type": "object"}, input=reference_to(prefix + "Input"),
                  output=reference_to(prefix + "Output"))
    inputs = signature.inputs
    if inputs is None:
        fields["input"] = {"title": "Input", "type": "object"}
    asked = {"id": fields["id"], "input": fields["input"]}
    components = {
        **({prefix + "Input": object_with(prefix + "Input", inputs, signature.required)} if inputs is not None else {}),
        prefix + "Output": signature.output,
        **signature.enums,
        noun + "Request": object_with(noun + "Request", asked),
        noun + "Response": object_with(noun + "Response", fields),
        **COMMON_COMPONENTS,
    }
    return {"components": components, "paths": mode_paths(mode, noun, signature.traits.is_streaming)}


def mode_paths(mode: str, noun: str, is_streaming: bool) -> JSON:
    """The paths of one mode."""
    word = noun.lower()
    invalid = response("Validation Error", reference_to("HTTPValidationError"))
    anything = response("Successful Response", {})
    start = {
        "description": f"Run a single {word} on the model",
        "operationId": f"{mode}_{word}s_post",
        "requestBody": {"content": {"application/json": {"schema": reference_to(noun + "Request")}}},
        "responses": {"200": response("Successful Response", reference_to(noun + "Response")), "422": invalid},
        "summary": mode.title(),
        **({"x-cog-streaming": True} if is_streaming else {}),
    }
    cancel = {
        "operationId": f"cancel_{word}s__{word}_id__cancel_post",
        "parameters": [{"in": "path", "name": f"{word}_id", "required": True, "schema": titled(f"{noun} Id")}],
        "responses": {"200": anything, "422": invalid},
        "summary": "Cancel",
    }
    fixed = {path: {"get": {"operationId": operation, "responses": {"200": anything}, "summary": title}}
             for path, operation, title in (("/", "root__get", "Root"),
                                            ("/health-check", "healthcheck_health_check_get", "Healthcheck"))}
    return {**fixed, f"/{word}s": {"post": start}, f"/{word}s/{{{word}_id}}/cancel": {"post": cancel}}


# -- on the model's own Python, where this section runs with Errors and Source alone


def ask_import(project: str) -> Ask:
    """What gives the value of an expression by importing the file that it stands in, each once."""
    import ast
    import importlib.util

    modules: dict[str, Any] = {}

    def ask(path: str, node: ast.expr) -> Any:
        name, file = path[:-3].replace("/", "."), os.path.normpath(os.path.join(project, path))
        if path not in modules:
            modules[path] = next((m for m in [*sys.modules.values()] if getattr(m, "__file__", "") == file), None)
        if modules[path] is None:
            spec = importlib.util.spec_from_file_location(name, file)
            if spec is None or spec.loader is None:
                raise Unreadable(f"{path} cannot be imported")
            modules[path] = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(modules[path])
        for part in ast.walk(node):
            if isinstance(part, ast.Name):
                part.id = part.id.rpartition("\0")[2]  # without what rebind adds to names
        code = compile(ast.fix_missing_locations(ast.Expression(node)), path, "eval")
        try:
            value = eval(code, vars(modules[path]))
            return value if isinstance(value, (dict, *SCALAR)) else list(value)
        except (NameError, *CANNOT) as error:
            raise Unreadable(f"{type(error).__name__}: {error}") from error

    return ask


def describe_model(order: JSON, ask: Ask | None) -> JSON:
    """What this Python makes of a model: its schema and what goes with it, or the error."""
    try:
        found = read_schema(order["predict"], order["project"], train=order["train"], version=order["version"], ask=ask)
    except SchemaError as error:
        return {"error": str(error), "hint": error.hint}
    return {"document": found.document, "warnings": found.warnings, "concurrency": found.concurrency,
            "needs_more": found.python_needed}


def reader_main() -> None:
    """Write what this Python makes of a model, a line of JSON: at first by reading alone, then by an import as well.

    What the model prints goes to stderr. That the order's file is as its digest says shows that this is the project.
    """
    import hashlib
    import json

    order = json.loads(sys.argv[1])
    os.chdir(order["project"])
    sys.path.insert(0, order["project"])
    sys.dont_write_bytecode = True
    with open(order["file"], "rb") as file:
        same = hashlib.sha256(file.read()).hexdigest() == order["digest"]
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        for ask in (None, ask_import(order["project"])):
            answer: JSON = describe_model(order, ask) if same else {}
            out.write(json.dumps(answer).encode() + b"\n")
            out.flush()
            if not answer.get("needs_more"):
                break


# == 7. Inputs ================================================================
# In: `-i` pairs or the text of --json, and the OpenAPI document of a model. Out: the prediction's input, with a
# LocalFile wherever the model gets a file. Only a Reader touches the disk, and only once the names are known to be
# right. Every fault is found in one go: the user gets one list, in the words that the field uses.

TEXT_LIMIT = 100 << 20  # bytes of a file that is read as text
BASE64_SLICE = 48 << 10  # bytes that are encoded at a time; a multiple of three
DEPTH_LIMIT = 200  # levels of nesting in a JSON document
FRAGMENT_LIMIT = 20000  # fragments of a schema that are looked at
Value = Any  # any JSON value, or a LocalFile or Blob that stands in for one

MIME_TABLE = """
image/ png gif webp bmp tiff jpg=jpeg jpeg svg=svg+xml ico=vnd.microsoft.icon
audio/ aac opus wav mp3=mpeg oga=ogg weba=webm mid=midi midi
video/ mp4 mpeg webm 3gp=3gpp ts=mp2t ogv=ogg avi=x-msvideo
text/ css csv html htm=html txt=plain md=markdown js=javascript ics=calendar
font/ otf ttf woff woff2
model/ obj mtl glb=gltf-binary
application/ json jsonl pdf rtf zip xml bin=octet-stream jsonld=ld+json ndjson=x-ndjson gz=gzip tar=x-tar bz=x-bzip
application/ bz2=x-bzip2 7z=x-7z-compressed rar=vnd.rar jar=java-archive epub=epub+zip doc=msword xls=vnd.ms-excel
application/ ppt=vnd.ms-powerpoint docx=vnd.openxmlformats-officedocument.wordprocessingml.document
application/ pptx=vnd.openxmlformats-officedocument.presentationml.presentation
application/ xlsx=vnd.openxmlformats-officedocument.spreadsheetml.sheet odt=vnd.oasis.opendocument.text
application/ ods=vnd.oasis.opendocument.spreadsheet odp=vnd.oasis.opendocument.presentation ogx=ogg sh=x-sh csh=x-csh
application/ php=x-httpd-php swf=x-shockwave-flash xhtml=xhtml+xml eot=vnd.ms-fontobject azw=vnd.amazon.ebook
application/ abw=x-abiword arc=x-freearc cda=x-cdf vsd=vnd.visio mpkg=vnd.apple.installer+xml
"""


def list_mime_types() -> list[tuple[str, str]]:
    """(extension with its dot, MIME type) of every type that we know ourselves, the usual extension of a type first."""
    table = []
    for line in MIME_TABLE.split("\n"):
        family, _, entries = line.partition(" ")
        for entry in entries.split():
            extension, _, name = entry.partition("=")
            table.append(("." + extension, family + (name or extension)))
    return sorted(table, key=lambda row: row[0] in (".jpeg", ".htm", ".midi"))


def mime_of(name: str) -> str:
    """MIME type of a file, by the extension of its name.

    >>> mime_of("Photo.JPG"), mime_of("weights")
    ('image/jpeg', 'application/octet-stream')
    """
    extension = os.path.splitext(name)[1].lower()
    known = dict(list_mime_types()).get(extension)
    if known or not extension:
        return known or "application/octet-stream"
    import mimetypes

    mime, encoding = mimetypes.guess_type("x" + extension, strict=False)
    return mime if mime and not encoding else "application/octet-stream"


def extension_of(mime: str) -> str:
    """The extension, dot included, of files of a MIME type; empty when there is none.

    >>> extension_of("image/jpeg"), extension_of("text/plain; charset=utf-8"), extension_of("x/y")
    ('.jpg', '.txt', '')
    """
    mime = mime.partition(";")[0].strip().lower()
    for extension, known in list_mime_types():
        if known == mime:
            return extension
    import mimetypes

    return mimetypes.guess_extension(mime, strict=False) or ""


# A model's schema, whatever runtime wrote it.


class InputSchema(NamedTuple):
    """What a model takes: properties in their order, each free of references, allOf and pydantic's forms of null."""

    properties: JSON
    required: tuple[str, ...]
    strict_null: bool  # the runtime refuses an explicit null, even for what may be left out


SCHEMA_KEYWORDS: dict[str, Any] = {
    "type": str, "format": str, "enum": list, "minimum": (int, float), "maximum": (int, float), "minLength": int,
    "maxLength": int, "pattern": str, "nullable": bool, "x-order": int, "x-cog-array-type": str,
    "x-cog-array-display": str, "x-cog-secret": bool,
}


class SchemaResolver:
    """Fragments of an OpenAPI document made plain: no $ref, no allOf, null as `nullable`; nonsense is left out."""

    def __init__(self, schemas: JSON) -> None:
        self._schemas, self._left = schemas, FRAGMENT_LIMIT

    def resolve(self, fragment: Value, depth: int = 0) -> JSON:
        """The plain form of a fragment; {} stands for what cannot be read, and beyond any sane depth."""
        self._left -= 1
        if not isinstance(fragment, dict) or depth > 32 or self._left < 0:
            return {}
        plain: JSON = {}
        for part in fragment["allOf"] if isinstance(fragment.get("allOf"), list) else []:
            plain.update(self.resolve(part, depth + 1))
        if isinstance(fragment.get("$ref"), str):
            plain.update(self.resolve(self._schemas.get(fragment["$ref"].rpartition("/")[2]), depth + 1))
        plain.update({key: fragment[key] for key, kind in SCHEMA_KEYWORDS.items()
                      if isinstance(fragment.get(key), kind)})
        if "const" in fragment:
            plain["enum"] = [fragment["const"]]
        self._add_children(plain, fragment, depth + 1)
        return self._add_members(plain, fragment, depth + 1)

    def _add_children(self, plain: JSON, fragment: JSON, depth: int) -> None:
        for key in ("items", "additionalProperties"):
            if isinstance(fragment.get(key), dict):
                plain[key] = self.resolve(fragment[key], depth)
        if isinstance(fragment.get("properties"), dict):
            plain["properties"] = {name: self.resolve(part, depth) for name, part in fragment["properties"].items()}
        if isinstance(fragment.get("required"), list):
            plain["required"] = [name for name in fragment["required"] if isinstance(name, str)]

    def _add_members(self, plain: JSON, fragment: JSON, depth: int) -> JSON:
        """Take anyOf, oneOf and a list of types, with null apart."""
        members: list[JSON] = []
        for key in ("anyOf", "oneOf"):
            if isinstance(fragment.get(key), list):
                members += [self.resolve(part, depth) for part in fragment[key]]
        if isinstance(fragment.get("type"), list):
            members += [{"type": kind} for kind in fragment["type"] if isinstance(kind, str)]
        real = [member for member in members if member.get("type") != "null"]
        if len(real) < len(members):
            plain["nullable"] = True
        if len(real) == 1:
            return {**real[0], **plain}
        return {**plain, "anyOf": real} if real else plain


def find_schemas(document: Value) -> JSON:
    """components.schemas of an OpenAPI document, {} if it has none."""
    for key in ("components", "schemas"):
        document = document.get(key) if isinstance(document, dict) else None
    return document if isinstance(document, dict) else {}


def input_schema(document: Value, *, training: bool = False) -> InputSchema | None:
    """The inputs that an OpenAPI document of any runtime describes; None when it describes none.

    >>> input_schema({"components": {"schemas": {"Input": {"properties": {"n": {"type": "integer"}}}}}})
    InputSchema(properties={'n': {'type': 'integer'}}, required=(), strict_null=True)
    """
    schemas = find_schemas(document)
    resolver = SchemaResolver(schemas)
    names = ("TrainingInput", "Input") if training else ("Input",)
    found = next((schemas[name] for name in names if isinstance(schemas.get(name), dict)), None)
    if found is None or not isinstance(found.get("properties"), dict):
        return None
    plain = resolver.resolve(found)
    properties = list(plain["properties"].items())
    if all("x-order" in fragment for _, fragment in properties):
        properties.sort(key=lambda item: item[1]["x-order"])
    required = tuple(name for name in plain.get("required", ()) if name in plain["properties"])
    return InputSchema(dict(properties), required, strict_null="WebhookEvent" not in schemas)


def allowed_kinds(fragment: JSON) -> set[str]:
    """JSON kinds that a fragment allows, by its types; empty when it says nothing.

    >>> sorted(allowed_kinds({"anyOf": [{"type": "string"}, {"enum": [1]}]}))
    ['number', 'string']
    """
    if "anyOf" in fragment:
        return {kind for member in fragment["anyOf"] for kind in allowed_kinds(member)}
    if "type" in fragment:
        return {fragment["type"]}
    return {kind_of(value) for value in fragment.get("enum", ())}


def array_items(fragment: JSON) -> JSON:
    """The fragment of an array's elements."""
    for member in [fragment, *fragment.get("anyOf", ())]:
        if member.get("type") == "array":
            return dict(member.get("items", {}))
    return {}


def property_of(fragment: JSON, name: str) -> JSON:
    """The fragment of an object's value."""
    for member in [fragment, *fragment.get("anyOf", ())]:
        if name in member.get("properties", {}):
            return dict(member["properties"][name])
        if "additionalProperties" in member:
            return dict(member["additionalProperties"])
    return {}


def is_file(fragment: JSON) -> bool:
    """Whether the schema says that this is a file."""
    return any(member.get("format") == "uri" and member.get("type", "string") == "string"
               for member in [fragment, *fragment.get("anyOf", ())])


def is_secret(fragment: JSON) -> bool:
    """Whether this, or an element of it, must never be shown."""
    return any(member.get("format") == "password" or member.get("x-cog-secret") is True or
               ("items" in member and is_secret(member["items"])) for member in [fragment, *fragment.get("anyOf", ())])


# Files.


class LocalFile(NamedTuple):
    """A file of the user's: stands in the input where the model gets a file."""

    name: str
    path: str  # as given; empty for stdin and for what has no size of its own
    size: int  # bytes
    mime: str
    open: Callable[[], BinaryIO]


class Reader:
    """What `@PATH` names: a file below `cwd`, or stdin for `-`. Its methods raise OSError or ValueError.

    stdin and pipes are copied into a temporary file without a name, which lives as long as the Reader is open.
    """

    def __init__(self, stdin: BinaryIO, cwd: str, home: str) -> None:
        self._stdin, self._cwd, self._home = stdin, cwd, home
        self._spools: list[int] = []
        self._stdin_file: LocalFile | None = None

    def _full(self, path: str) -> str:
        if path == "~" or path.startswith("~/"):
            path = self._home + path[1:]
        return os.path.join(self._cwd, os.path.expanduser(path))

    def file(self, path: str) -> LocalFile:
        """The file, checked to be readable, its size known."""
        import stat

        if path == "-":
            self._stdin_file = self._stdin_file or self._spool(self._stdin, "stdin")
            return self._stdin_file
        full = self._full(path)
        with open(full, "rb") as source:
            status = os.fstat(source.fileno())
            if not stat.S_ISREG(status.st_mode) or not status.st_size:  # files in /proc claim to be empty
                return self._spool(source, os.path.basename(full))
        name = os.path.basename(full)
        return LocalFile(name, path, status.st_size, mime_of(name), lambda: open(full, "rb"))

    def text(self, path: str) -> bytes:
        """What the file holds, if that is no more than TEXT_LIMIT."""
        with self.file("-").open() if path == "-" else open(self._full(path), "rb") as source:
            data = source.read(TEXT_LIMIT + 1)
        if len(data) > TEXT_LIMIT:
            raise ValueError(f"holds more than {TEXT_LIMIT >> 20} MiB, too much for text")
        return data

    def _spool(self, source: BinaryIO, name: str) -> LocalFile:
        import shutil
        import tempfile

        with tempfile.TemporaryFile() as spool:
            shutil.copyfileobj(source, spool, 1 << 18)
            size = spool.tell()
            descriptor = os.dup(spool.fileno())
        self._spools.append(descriptor)
        return LocalFile(name, "", size, mime_of(name), lambda: open_again(descriptor))

    def close(self) -> None:
        """Give up the temporary files."""
        while self._spools:
            os.close(self._spools.pop())


def open_again(descriptor: int) -> BinaryIO:
    """The file behind a descriptor, from its beginning."""
    try:
        return open(f"/proc/self/fd/{descriptor}", "rb")
    except OSError:
        again = os.fdopen(os.dup(descriptor), "rb")
        again.seek(0)
        return again


def read_fault(path: str, error: Exception) -> str:
    """Why a file could not be read, in the system's words.

    >>> read_fault("x.jpg", FileNotFoundError(2, "No such file or directory"))
    'open x.jpg: no such file or directory'
    """
    said = (error.strerror or "") if isinstance(error, OSError) else str(error)
    return f"open {path}: {said[:1].lower()}{said[1:]}"


def data_url_chunks(file: LocalFile) -> Iterator[bytes]:
    """The data URL of a file, piece by piece. Raises InputError: it cannot be read any more, or got shorter."""
    from binascii import b2a_base64

    yield f"data:{file.mime};base64,".encode()
    left = file.size
    try:
        with file.open() as source:
            while left:
                data = source.read(min(BASE64_SLICE, left))
                if not data:
                    raise InputError(f"{file.path or file.name} got shorter while it was being sent")
                left -= len(data)
                yield b2a_base64(data, newline=False)
    except OSError as error:
        raise InputError(read_fault(file.path or file.name, error)) from error


# Checks.


class Fault(NamedTuple):
    """One thing that is wrong with the inputs, and what to do about it."""

    text: str
    hint: str = ""


def kind_of(value: Value) -> str:
    """The JSON kind of a value: null, boolean, number, string, array or object.

    >>> kind_of(True), kind_of(1.5), kind_of([])
    ('boolean', 'number', 'array')
    """
    if value is None:
        return "null"
    for kind, types in (("boolean", bool), ("number", (int, float)), ("array", list), ("object", dict)):
        if isinstance(value, types):
            return kind
    return "string"  # a LocalFile, too


def is_of_type(value: Value, kind: str) -> bool:
    """Whether a value has a JSON Schema type; types that nobody knows fit everything."""
    actual = kind_of(value)
    if kind == "integer":
        return actual == "number" and value == value // 1
    return actual == kind or kind not in ("null", "boolean", "number", "string", "array", "object")


def find_faults(name: str, value: Value, fragment: JSON, strict_null: bool) -> Iterator[Fault]:
    """What a fragment has against a value. `name` is the whole way to it, such as opts.scale."""
    if value is None:
        if strict_null and (fragment.keys() & {"type", "enum", "anyOf"}) and "null" not in allowed_kinds(fragment):
            yield Fault(f'invalid input "{name}": must not be null (omit the input to use its default)')
        return
    if "anyOf" in fragment and all(any(find_faults(name, value, member, strict_null)) for member in fragment["anyOf"]):
        yield Fault(f'invalid input "{name}": doesn\'t match any schema from "anyOf"')
        return
    kind = fragment.get("type")
    if kind and not is_of_type(value, kind):
        yield Fault(f'invalid input "{name}": expected {kind}, got {kind_of(value)}')
        return
    if isinstance(value, LocalFile):
        return
    if "enum" in fragment and not any(value == option and kind_of(value) == kind_of(option)
                                      for option in fragment["enum"]):
        yield Fault(f'invalid input "{name}": must be one of: {", ".join(map(str, fragment["enum"]))}')
    elif isinstance(value, str):
        yield from find_text_faults(name, value, fragment)
    elif isinstance(value, dict):
        yield from find_object_faults(name, value, fragment, strict_null)
    elif isinstance(value, list):
        items = array_items(fragment)
        for number, item in enumerate(value):
            yield from find_faults(f"{name}.{number}", item, items, strict_null)
    elif kind_of(value) == "number":
        for key, words, sign in (("minimum", "at least", 1), ("maximum", "at most", -1)):
            if key in fragment and value * sign < fragment[key] * sign:
                bound = fragment[key]
                bound = int(bound) if isinstance(bound, float) and bound.is_integer() else bound
                yield Fault(f'invalid input "{name}": number must be {words} {bound}')


def find_object_faults(name: str, value: JSON, fragment: JSON, strict_null: bool) -> Iterator[Fault]:
    """What a fragment has against an object."""
    for key in fragment.get("required", ()):
        if key not in value:
            yield Fault(f'missing required input "{name}.{key}"')
    for key, item in value.items():
        yield from find_faults(f"{name}.{key}", item, property_of(fragment, key), strict_null)


def find_text_faults(name: str, value: str, fragment: JSON) -> Iterator[Fault]:
    """What a fragment has against a string."""
    import re

    if is_file(fragment) and not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|data:", value):
        top, _, rest = name.partition(".")
        yield Fault(f'invalid input "{name}": "{value[:100]}" is not a URL; a file is given as @PATH',
                    hint=f"-i {top}=@{value[:100]}" if not rest or rest.isdigit() else "")
    if not is_utf8(value):
        yield Fault(f'invalid input "{name}": its text is not UTF-8', hint="a file is given as @PATH")
    if len(value) > fragment.get("maxLength", len(value)):
        yield Fault(f'invalid input "{name}": maximum string length is {fragment["maxLength"]}')
    if len(value) < fragment.get("minLength", 0):
        yield Fault(f'invalid input "{name}": minimum string length is {fragment["minLength"]}')
    try:
        fits = re.search(fragment.get("pattern", ""), value)
    except (re.error, OverflowError, RecursionError):
        return  # a pattern of another dialect: the model itself will judge
    if not fits:
        yield Fault(f'invalid input "{name}": string doesn\'t match the regular expression "{fragment["pattern"]}"')


def find_name_faults(names: Iterable[str], schema: InputSchema | None) -> list[Fault]:
    """One fault for all names that the model does not know."""
    if schema is None or not (unknown := [name for name in names if name not in schema.properties]):
        return []
    import difflib

    known = sorted(schema.properties)
    pairs = [(name, difflib.get_close_matches(name, known, 1)) for name in unknown]
    text = "unknown input" + "s" * (len(unknown) > 1) + " " + ", ".join(f'"{name}"' for name in unknown)
    text += f"; valid inputs are: {', '.join(known)}" if known else "; model does not accept inputs"
    return [Fault(text, "; ".join(f'did you mean "{close[0]}" for "{name}"?' for name, close in pairs if close))]


def find_value_faults(values: JSON, schema: InputSchema | None, skipped: Collection[str] = ()) -> list[Fault]:
    """What the schema has against the inputs that it knows, in its order, and what is missing."""
    if schema is None:
        return []
    faults: list[Fault] = []
    for name, fragment in schema.properties.items():
        if name in skipped:
            continue
        if name in values:
            faults += find_faults(name, values[name], fragment, schema.strict_null)
        elif name in schema.required:
            faults.append(Fault(f'missing required input "{name}"', hint=f"-i {name}=VALUE"))
    return faults


def raise_faults(faults: list[Fault]) -> None:
    """Nothing, when there are no faults. Raises InputError: with all of them."""
    if faults:
        texts = [fault.text for fault in faults]
        several = "\n- ".join(["input validation failed:", *texts])
        hints = list(dict.fromkeys(fault.hint for fault in faults if fault.hint))
        raise InputError(several if len(texts) > 1 else texts[0], hint="; ".join(hints))


def check_inputs(values: JSON, schema: InputSchema | None) -> None:
    """Nothing, when the schema allows the inputs. Raises InputError: all that is wrong with them."""
    raise_faults(find_name_faults(values, schema) + find_value_faults(values, schema))


# From text to values.


def finite_number(text: str) -> float:
    """A double. Raises ValueError: JSON cannot say it."""
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def load_json(text: str | bytearray) -> Value:
    """The value of a JSON text. Raises ValueError."""
    import json

    def refuse(name: str) -> float:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(text, parse_constant=refuse, parse_float=finite_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(DEPTH_LIMIT):
        level = [child for parent in level if isinstance(parent, (list, dict))
                 for child in (parent.values() if isinstance(parent, dict) else parent)]
        if not level:
            return value
    raise ValueError("nested too deeply")


def parse_document(data: bytes | str) -> JSON | None:
    """The JSON object that a text is; None if it is none."""
    import json

    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def list_candidates(text: str, fragment: JSON) -> Iterator[Value]:
    """Values that a text on the command line may mean, the likeliest first, the text itself last."""
    import re

    kinds = allowed_kinds(fragment)
    bare = text if "string" in kinds or not kinds else text.strip()
    if text.lstrip()[:1] in ("{", "["):
        try:
            parsed = load_json(text)
            if not kinds or kind_of(parsed) in kinds:
                yield parsed
        except ValueError:
            pass
    if "boolean" in kinds and (bare in ("true", "false") or (kinds == {"boolean"} and bare in ("True", "False"))):
        yield bare in ("true", "True")
    if kinds & {"integer", "number"} and re.fullmatch(r"[+-]?[0-9]{1,4000}", bare):
        yield int(bare)
    elif "number" in kinds and re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", bare):
        number = float(bare)
        if abs(number) != float("inf"):
            yield number
    if "array" in kinds:
        yield [coerce_text(text, array_items(fragment))]
    yield text


def coerce_text(text: str, fragment: JSON) -> Value:
    """The value that a text on the command line means, by the schema: the first candidate that it allows.

    >>> coerce_text("3000000000", {"type": "integer"}), coerce_text("7", {"type": "string"})
    (3000000000, '7')
    >>> coerce_text("1.5", {"anyOf": [{"type": "string"}, {"type": "integer"}]})
    '1.5'
    >>> coerce_text("7", {"type": "array", "items": {"type": "integer"}})
    [7]
    """
    candidates = list(list_candidates(text, fragment))
    for candidate in candidates:
        if not any(find_faults("", candidate, fragment, True)):
            return candidate
    return candidates[0]


class InputParser:
    """Takes inputs one after the other and remembers what is wrong with each. No file is read for a wrong name."""

    def __init__(self, names: Collection[str], schema: InputSchema | None, read: Reader) -> None:
        self._schema, self._read = schema, read
        self._faults = find_name_faults(names, schema)
        self._reading = not self._faults
        self._skipped: set[str] = set()

    def fragment(self, name: str) -> JSON | None:
        """The schema of an input; {} when there is no schema, None when there is no such input."""
        return self._schema.properties.get(name) if self._schema is not None else {}

    def from_text(self, name: str, text: str, fragment: JSON) -> Value:
        """The value of one `-i NAME=TEXT`."""
        if text.startswith("@"):
            return self._from_file(name, text[1:], fragment)
        if text.startswith("\\@"):
            return coerce_text(text[1:], fragment)
        value = coerce_text(text, fragment)
        return value if isinstance(value, str) else self._with_files(name, value, fragment)

    def from_json(self, name: str, value: Value, fragment: JSON) -> Value:
        """The value of one member of --json."""
        if not isinstance(value, str):
            return self._with_files(name, value, fragment)
        if value.startswith("@"):
            return self._from_file(name, value[1:], fragment)
        return value[1:] if value.startswith("\\@") else value

    def _with_files(self, name: str, value: Value, fragment: JSON) -> Value:
        """The same value, with files where the schema has files and the value @PATH."""
        if isinstance(value, str) and is_file(fragment):
            return self.from_json(name, value, fragment)
        if isinstance(value, list):
            items = array_items(fragment)
            return [self._with_files(f"{name}.{number}", item, items) for number, item in enumerate(value)]
        if isinstance(value, dict):
            return {key: self._with_files(f"{name}.{key}", item, property_of(fragment, key))
                    for key, item in value.items()}
        return value

    def _from_file(self, name: str, path: str, fragment: JSON) -> Value:
        """What `@PATH` means for an input: a file, or what the file says."""
        if not self._reading:
            self._skipped.add(name)
            return ""
        try:
            if is_file(fragment) or not allowed_kinds(fragment):
                return self._read.file(path)
            if is_file(array_items(fragment)):
                return [self._read.file(path)]
            data = self._read.text(path)
        except (OSError, ValueError) as error:
            self._skipped.add(name)
            self._faults.append(Fault(f'input "{name}": {read_fault(path, error)}',
                                      hint="a value that begins with @ names a file; \\@ stands for a literal @"))
            return ""
        try:
            return coerce_text(data.decode(), fragment)
        except UnicodeDecodeError:
            from binascii import b2a_base64

            return f"data:{mime_of(path)};base64,{b2a_base64(data, newline=False).decode()}"

    def finish(self, values: JSON) -> JSON:
        """The values. Raises InputError: something was wrong with them, and the schema's complaints go along."""
        if self._faults:
            skipped = {name.partition(".")[0] for name in self._skipped}
            raise_faults(self._faults + find_value_faults(values, self._schema, skipped))
        return values


def parse_named_inputs(pairs: Sequence[tuple[str, str]], schema: InputSchema | None, read: Reader) -> JSON:
    """The input that `-i NAME=TEXT` pairs give; a name that is repeated gives a list.

    Raises InputError: an unknown name, a file that cannot be read; check_inputs does the rest.
    """
    texts: dict[str, list[str]] = {}
    for name, text in pairs:
        texts.setdefault(name, []).append(text)
    parser = InputParser(texts, schema, read)
    values: JSON = {}
    for name, given in texts.items():
        fragment = parser.fragment(name)
        if fragment is None:
            continue
        if len(given) == 1:
            values[name] = parser.from_text(name, given[0], fragment)
        else:
            items = array_items(fragment) if "array" in allowed_kinds(fragment) else fragment
            values[name] = [parser.from_text(name, text, items) for text in given]
    return parser.finish(values)


def parse_json_inputs(text: str, schema: InputSchema | None, read: Reader) -> JSON:
    """The input that --json gives: a JSON object, @PATH, or - or @- for stdin. Raises InputError."""
    if text == "-" or text.startswith("@"):
        path = text[1:] if text.startswith("@") else text
        try:
            data = read.text(path)
        except (OSError, ValueError) as error:
            raise InputError(f'Failed to read JSON from file "{path}": {read_fault(path, error)}') from error
        text = data.decode("utf-8-sig", "replace")
    try:
        given = load_json(text)
    except ValueError as error:
        raise InputError(f"Failed to parse JSON: {error}", hint="an object: '{\"prompt\": \"a cat\"}'") from error
    if not isinstance(given, dict):
        raise InputError(f"Failed to parse JSON: expected object, got {kind_of(given)}")
    parser = InputParser(given, schema, read)
    fragments = {name: parser.fragment(name) for name in given}
    return parser.finish({name: parser.from_json(name, given[name], fragment)
                          for name, fragment in fragments.items() if fragment is not None})


def render_inputs(values: Value, place: Callable[[LocalFile], str]) -> Value:
    """The inputs as they are sent: for each file the URL or data URL that `place` gives it."""
    if isinstance(values, LocalFile):
        return place(values)
    if isinstance(values, dict):
        return {name: render_inputs(value, place) for name, value in values.items()}
    if isinstance(values, list):
        return [render_inputs(value, place) for value in values]
    return values


class InlineBody(NamedTuple):
    """A JSON document in pieces: its text, and the files whose data URLs stand in it."""

    parts: tuple[bytes | LocalFile, ...]

    @property
    def length(self) -> int:
        """Bytes of the whole.

        >>> InlineBody((b"{}", LocalFile("a", "a", 4, "text/plain", open))).length - len("{}data:text/plain;base64,")
        8
        """
        heads = sum(len(f"data:{part.mime};base64,") for part in self.parts if not isinstance(part, bytes))
        return heads + sum(len(part) if isinstance(part, bytes) else (part.size + 2) // 3 * 4 for part in self.parts)

    def chunks(self) -> Iterator[bytes]:
        """The whole, piece by piece; the files are read meanwhile. Raises InputError."""
        for part in self.parts:
            if isinstance(part, bytes):
                yield part
            else:
                yield from data_url_chunks(part)


def render_body(document: JSON) -> InlineBody:
    """A request's JSON, with the files in it."""
    import json
    import re

    files: list[LocalFile] = []
    tag = os.urandom(8).hex()

    def place(file: LocalFile) -> str:
        files.append(file)
        return f"{tag}{len(files) - 1}:"

    text = json.dumps(render_inputs(document, place)).encode()
    pieces = re.split(rf"{tag}(\d+):".encode(), text)
    return InlineBody(tuple(files[int(piece)] if at % 2 else piece for at, piece in enumerate(pieces)))


def describe_inputs(values: JSON, schema: InputSchema | None) -> JSON:
    """The inputs as they may be shown: files by name and size, secrets not at all."""
    def describe(file: LocalFile) -> str:
        return f"<{file.path or file.name}, {file.mime}, {file.size} bytes>"

    secret = {name for name, fragment in schema.properties.items() if is_secret(fragment)} if schema else set()
    return {name: "***" if name in secret else render_inputs(value, describe) for name, value in values.items()}


# == 8. Dockerfile ============================================================
# In: a completed Config and BuildSettings (flags, and what this machine's pip, certificates and wheels say). Out: the
# text of a Dockerfile that Docker 20.10's own frontend and Podman's builder take, and the files that it copies, which
# travel in the one context under .cog/build/. Nothing is fetched but the base, and what apt and pip are asked for.
# A CUDA base has no Python of its own: it is copied from the official image of the same C library, its shared
# libraries come from the distribution. Pure but for read_build_settings.

WEIGHTS_FOLDER, PROJECT_FOLDER = ".cog/weights/", ".cog/project/"  # in a context that keeps weights apart
BUILD_FOLDER = ".cog/build"  # in the context, with the Dockerfile in it; never on disk
COPIED = "/tmp/cog"  # where the image holds those files
PIP_MOUNTS = "--mount=type=cache,target=/root/.cache/pip"
PIP_SECRET = "pip.conf"  # the secret's id
CERTIFICATES = "/usr/local/share/ca-certificates"
CERTIFICATE_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
TRACING_FILE = "/.cog/telemetry.py"  # where the runtime looks for it
TRACING_PACKAGES = ("opentelemetry-exporter-otlp-proto-http==1.44.0", "opentelemetry-exporter-otlp-proto-grpc==1.44.0")
APT_MOUNT = "--mount=type=cache,target=/var/cache/apt,sharing=locked"
PIP_SETTINGS = ("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy", "timeout", "retries")
# What a CUDA base lacks: the shared libraries of Python's own modules, and tools that build steps there rely on
CUDA_PACKAGES = ("ca-certificates", "curl", "git", "libexpat1", "libpython3-stdlib", "wget", "xz-utils", "zlib1g")
# What Cog's base images have and the plain ones lack, by the command that a build step calls
STEP_TOOLS = {"bzip2": "bzip2", "cmake": "cmake", "ffmpeg": "ffmpeg", "g++": "build-essential",
              "gcc": "build-essential", "make": "build-essential", "sox": "sox", "unzip": "unzip", "xz": "xz-utils",
              "zip": "zip", "zstd": "zstd"}
# and what OpenCV loads there, also when one of these brings it along
OPENCV_LIBRARIES = ("libgl1", "libglib2.0-0")
OPENCV_REQUIREMENTS = ("opencv[-_](contrib[-_])?python|basicsr|facexlib|gfpgan|invisible[-_]watermark|mediapipe|"
                       "realesrgan|ultralytics")
COG_BASE_PACKAGES = (
    "build-essential", "cmake", "curl", "ffmpeg", "findutils", "g++", "gcc", "git", "libavcodec-dev", "libcairo2-dev",
    "libfontconfig1", "libgirepository1.0-dev", "libgl1", "libglx-mesa0", "libglib2.0-0", "libopencv-dev", "libsm6",
    "libsndfile1", "libssl-dev", "libunistring-dev", "libxext6", "libxrender1", "sox", "unzip", "wget", "zip", "zstd",
)


class BuildSettings(NamedTuple):
    """What decides a build beside the config. Texts are empty and tuples are empty where nothing was said."""

    base_image: str = ""  # --base-image
    use_cog_base_image: bool = False
    use_cuda_base_image: bool = True
    registry: str = "r8.im"  # where cog-base images live
    ca_certificates: tuple[str, ...] = ()  # PEM texts
    pip_conf: str = ""  # the machine's pip settings; the caller offers it as the secret pip.conf
    runtime: tuple[str, ...] = ()  # words for pip; a local wheel by its file name
    wheels: tuple[tuple[str, bytes], ...] = ()  # those local wheels
    dockerfile: str = ""  # the text of one that stands in for ours
    for_development: bool = False  # the project is mounted at /src, so it is not copied
    weights: frozenset[str] = frozenset()  # paths of the project that get a layer of their own, before all else


# -- images


def base_image(config: Config, settings: BuildSettings) -> str:
    """The image that the model's image starts from.

    >>> base_image(Config(python_version="3.11.4"), BuildSettings())
    'python:3.11.4-slim'
    >>> base_image(Config(python_version="3.11", gpu=True, cuda="11.8", cudnn="8"), BuildSettings())
    'nvidia/cuda:11.8.0-cudnn8-devel-ubuntu22.04'
    """
    if settings.base_image:
        return settings.base_image
    cog_base = cog_base_image(config, settings.registry) if settings.use_cog_base_image else ""
    if cog_base:
        return cog_base
    if config.gpu and settings.use_cuda_base_image:
        return find_cuda_image(config.cuda, config.cudnn).name
    return f"python:{config.python_version}-slim"


def python_image(config: Config, settings: BuildSettings) -> str:
    """The image that Python is copied from onto a CUDA base: one built for the same C library; empty for other bases.

    >>> python_image(Config(python_version="3.10.4", gpu=True, cuda="11.6"), BuildSettings())
    'python:3.10-slim-bullseye'
    """
    import re

    found = re.search(r"(?:^|/)nvidia/cuda:\S*ubuntu(\d+)\.04$", base_image(config, settings))
    if not found:
        return ""
    minor = ".".join(config.python_version.split(".")[:2])
    return f"python:{minor}-slim-{'bullseye' if int(found[1]) < 22 else 'bookworm'}"


def list_base_images(config: Config, settings: BuildSettings) -> tuple[str, ...]:
    """Every image that the build starts from or copies from; of a Dockerfile that was given, those that it names."""
    import re

    if settings.dockerfile:
        stages = re.findall(r"(?im)^[ \t]*FROM[ \t]+(?:--\S+[ \t]+)*(\S+)(?:[ \t]+AS[ \t]+(\S+))?", settings.dockerfile)
        own = {"scratch", *(name.lower() for image, name in stages if name.lower() != image.lower())}
        return tuple(dict.fromkeys(image for image, _ in stages if image.lower() not in own and "$" not in image))
    return tuple(image for image in (base_image(config, settings), python_image(config, settings)) if image)


def cog_base_image(config: Config, registry: str = "r8.im") -> str:
    """The cog-base image for a config, empty when there can be none.

    >>> cog_base_image(Config(python_version="3.11.4", gpu=True, cuda="12.1", torch="2.3"))
    'r8.im/cog-base:cuda12.1-python3.11-torch2.3.1'
    >>> cog_base_image(Config(python_version="3.9"))
    ''
    """
    minor = ".".join(config.python_version.split(".")[:2])
    if not (3, 10) <= version_numbers(minor) <= NEWEST_PYTHON:
        return ""
    cuda = ".".join(config.cuda.split(".")[:2])
    if cuda and (version_numbers(cuda) < (11, 6) or not any(versions_match(i.cuda, cuda) for i in list_cuda_images())):
        return ""
    rows = [row for row in list_torch_rows() if versions_match(row.torch, config.torch) and row.cuda == cuda
            and version_numbers(row.torch) >= (2,) and python_fits(minor, row.pythons)]
    torch = f"-torch{rows[-1].torch}" if rows else ""
    return f"{registry}/cog-base:{f'cuda{cuda}-' if cuda else ''}python{minor}{torch}"


# -- the runtime


def runtime_requirements(config: Config, settings: BuildSettings, folder: str = "") -> tuple[str, ...]:
    """The words that make pip install Cog's runtime. Without a version the index's own metadata finds the newest one
    for the Python at hand. Local wheels lie in `folder`.

    >>> runtime_requirements(Config(sdk_version="0.16.12"), BuildSettings())
    ('cog==0.16.12',)
    """
    if settings.runtime:
        local = {name for name, _ in settings.wheels}
        return tuple(f"{folder}/{word}" if word in local else word for word in settings.runtime)
    return sdk_words(config.sdk_version)


def sdk_words(version: str, coglet: str = "") -> tuple[str, ...]:
    """The words for pip of a version of cog, `prerelease`, or nothing for the newest; `coglet` is what was asked for.
    From 0.17 on a version has a coglet of its own: newer ones, which it would take as well, do not run it.

    >>> sdk_words("0.18.0"), sdk_words("0.18.0", "coglet==0.19.0"), sdk_words("0.16.12")
    (('cog==0.18.0', 'coglet==0.18.0'), ('cog==0.18.0',), ('cog==0.16.12',))
    """
    import re

    if version == "prerelease":
        return ("--pre", "cog")
    pre = ("--pre",) if re.search(r"\d\.?(a|b|rc|dev)", version) else ()
    own = not coglet and re.fullmatch(r"\d+\.\d+\.\d+", version) and version_numbers(version) >= (0, 17)
    return (*pre, f"cog=={version}", *((f"coglet=={version}",) if own else ())) if version else ("cog",)


def runtime_environment(config: Config) -> dict[str, str]:
    """The variables by which the runtime finds the model. An image for development gets them at its start instead."""
    values = {"COG_PREDICT_TYPE_STUB": config.predict, "COG_TRAIN_TYPE_STUB": config.train,
              "COG_MAX_CONCURRENCY": str(config.concurrency_max or "")}
    return {name: value for name, value in values.items() if value}


# -- rendering


def render_dockerfile(config: Config, settings: BuildSettings) -> str:
    """The Dockerfile of a completed config, or the one that was given, with what the runtime is to know."""
    if settings.dockerfile:
        return "\n".join([settings.dockerfile.rstrip(), *render_environment(runtime_environment(config)), ""])
    lines = [
        *render_base(config, settings), *render_certificates(settings), *render_user_environment(config.environment),
        *render_apt(config, settings), *render_python(config, settings), *render_packages(config, settings),
        *render_runtime(config, settings), *render_tracing(config.tracing, settings),
        *render_run_steps(config, settings), "WORKDIR /src", "EXPOSE 5000",
    ]
    if not settings.for_development:
        lines += render_environment(runtime_environment(config))
    lines.append('CMD ["python","-m","cog.server.http"]')
    if not settings.for_development:
        renamed = f" && cp {quote_shell(f'/src/{config.file_name}')} /src/cog.yaml"
        lines += ([f"COPY {folder} /src/" for folder in (WEIGHTS_FOLDER, PROJECT_FOLDER)] if settings.weights else
                  ["COPY . /src"])
        lines += [f"RUN rm -rf /src/{BUILD_FOLDER} && {{ rmdir /src/.cog 2>/dev/null || true; }}"
                  f"{renamed if config.file_name != 'cog.yaml' else ''}"]
    return "\n".join(lines) + "\n"


def quote_shell(text: str) -> str:
    """A text as one word of a shell."""
    import shlex

    return shlex.quote(text)


def quote_value(value: str) -> str:
    """The value of an ENV line, quoted if need be: $NAME and ${NAME} expand, everything else stands for itself.

    >>> print(quote_value('a "b" $HOME 5$ \\\\'))
    "a \\"b\\" $HOME 5\\$ \\\\"
    """
    import re

    if re.fullmatch(r"[\w.-]+", value):
        return value
    return '"' + re.sub(r'["\\]|\$(?![A-Za-z_{])', r"\\\g<0>", value) + '"'


def render_environment(values: Mapping[str, str]) -> list[str]:
    """One ENV line for some variables, none for none."""
    return ["ENV " + " ".join(f"{name}={quote_value(value)}" for name, value in values.items())] if values else []


def render_user_environment(environment: tuple[tuple[str, str], ...]) -> list[str]:
    """One ENV line of cog.yaml's own variables, sorted by name; a line for each where one refers to another, since
    ENV expands what earlier lines have set.

    >>> render_user_environment((("B", "1"), ("A", "2"))), render_user_environment((("B", "1"), ("A", "$B")))
    (['ENV A=2 B=1'], ['ENV B=1', 'ENV A="$B"'])
    """
    import re

    names = {name for name, _ in environment}
    if any(names & set(re.findall(r"\$\{?(\w+)", value)) for _, value in environment):
        return [line for name, value in environment for line in render_environment({name: value})]
    return render_environment(dict(sorted(environment)))


def render_base(config: Config, settings: BuildSettings) -> list[str]:
    """FROM, and the variables that every build and every model gets."""
    python, base = python_image(config, settings), base_image(config, settings)
    lines = [f"FROM {python} AS python"] if python else []
    lines.append(f"FROM {base}")
    values = {"PIP_BREAK_SYSTEM_PACKAGES": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore",
              "PIP_SRC": "/usr/local/src"}  # `-e git+URL` is cloned here: /src would be covered by the project
    if "/cog-base:" not in base:
        values = {
            "DEBIAN_FRONTEND": "noninteractive", "PYTHONUNBUFFERED": "1", "NVIDIA_DRIVER_CAPABILITIES": "all",
            "LD_LIBRARY_PATH": "${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/usr/lib/x86_64-linux-gnu"
                               ":/usr/local/nvidia/lib64:/usr/local/nvidia/bin",
            **({"LANG": "C.UTF-8"} if python else {}), **values,
        }
    return lines + render_environment(values)


def render_certificates(settings: BuildSettings) -> list[str]:
    """The steps that make the image trust the authorities of COG_CA_CERT, before anything is downloaded."""
    if not settings.ca_certificates:
        return []
    files = f"{CERTIFICATES}/cog-ca-cert*.crt"
    return [
        f"COPY {BUILD_FOLDER}/certificates/ {CERTIFICATES}/",
        f"RUN if command -v update-ca-certificates >/dev/null; then old=$(cat {CERTIFICATE_BUNDLE}); "
        f"update-ca-certificates; printf '%s\\n' \"$old\" >> {CERTIFICATE_BUNDLE}; "  # what was just put in there
        f"else mkdir -p /etc/ssl/certs && cat {files} >> {CERTIFICATE_BUNDLE}; fi",
        *render_environment({"SSL_CERT_FILE": CERTIFICATE_BUNDLE, "REQUESTS_CA_BUNDLE": CERTIFICATE_BUNDLE,
                             "PIP_CERT": CERTIFICATE_BUNDLE}),
    ]


def called_commands(config: Config) -> list[str]:
    """The commands that the build steps call by their bare names.

    >>> called_commands(Config(run=(RunStep("cd x && UV_LINK_MODE=copy uv pip install y"), RunStep("if a; then make"))))
    ['cd', 'uv', 'if', 'make']
    """
    import re

    steps = "\n".join(step.command for step in config.run)
    return re.findall(r"(?:^|[;&|(])\s*(?:(?:sudo|then|else|do)\s+|\w+=\S*\s+)*([\w+]+)(?=[\s;&|)]|$)", steps, re.M)


def apt_packages(config: Config, settings: BuildSettings) -> list[str]:
    """The apt packages of the image: those of cog.yaml, and what its build steps and requirements call or load.

    >>> apt_packages(Config(run=(RunStep("curl -o x y"),), requirements=("git+https://h/r",)), BuildSettings())
    ['curl', 'git']
    """
    import re

    asked = list(config.system_packages)
    steps = "\n".join(step.command for step in config.run)
    tools = [tool for tool in ("curl", "git", "wget") if re.search(rf"(?<![\w./-]){tool}(?![\w./-])", steps)]
    tools += ["git"] if any("git+" in line for line in config.requirements) else []
    tools += ["curl"] if asked else []  # images built by Cog have it, and some models call it while they run
    if python_image(config, settings):
        tools = list(CUDA_PACKAGES)
    if not settings.base_image:
        tools += [STEP_TOOLS[name] for name in called_commands(config) if name in STEP_TOOLS]
        if re.search(rf"(?im)^({OPENCV_REQUIREMENTS})(?![\w.-])", "\n".join(config.requirements)):
            asked += OPENCV_LIBRARIES
    present = COG_BASE_PACKAGES if "/cog-base:" in base_image(config, settings) else ()
    return [name for name in dict.fromkeys([*sorted(tools), *asked]) if name not in present]


def render_apt(config: Config, settings: BuildSettings) -> list[str]:
    """The step that installs the apt packages; a name that newer distributions dropped is tried, then its successor."""
    names = apt_packages(config, settings)
    if not names:
        return []
    words = [f"$(first {name} {APT_MOVED[name]})" if name in APT_MOVED else name for name in names]
    first = ('first() { for name; do if apt-get install -qqs "$name" >/dev/null 2>&1; then echo "$name"; return; fi; '
             'done; echo "$1"; } && ') if any(name in APT_MOVED for name in names) else ""
    return [f"RUN {APT_MOUNT} apt-get update -qq && {first}apt-get install -qqy {' '.join(words)}"
            " && rm -rf /var/lib/apt/lists/*"]


def render_python(config: Config, settings: BuildSettings) -> list[str]:
    """The steps that give a base its Python, or its usual name."""
    if python_image(config, settings):
        return ["COPY --from=python /usr/local/ /usr/local/",
                'RUN ldconfig && python -c "import bz2, ctypes, lzma, sqlite3, ssl, zlib"']
    if settings.base_image:
        return ['RUN command -v python >/dev/null || ln -s "$(command -v python3)" /usr/local/bin/python']
    return []


def pip_install(settings: BuildSettings, words: str) -> str:
    """One step that runs pip install, with the machine's settings where there are any."""
    return f"RUN {PIP_MOUNTS}{pip_secret(settings)} python -m pip install --cache-dir /root/.cache/pip {words}"


def pip_secret(settings: BuildSettings) -> str:
    """The mount by which pip in a build step reads the machine's settings."""
    return f" --mount=type=secret,id={PIP_SECRET},target=/etc/pip.conf" if settings.pip_conf else ""


def render_packages(config: Config, settings: BuildSettings) -> list[str]:
    """The steps that install the requirement lines, and tell the linker where their libraries are."""
    if not config.requirements:
        return []
    names = ("requirements.txt", *(("constraints.txt",) if list_constraints(config) else ()))
    copies = [f"COPY {BUILD_FOLDER}/{name} {COPIED}/{name}" for name in names]
    if config.artifacts:
        copies.append(f"COPY {BUILD_FOLDER}/artifacts/ {COPIED}/artifacts/")
    return [
        *copies, pip_install(settings, f"-r {COPIED}/requirements.txt"),
        'RUN find / -xdev -type f -name "*python*.so" -printf "%h\\n" | sort -u > /etc/ld.so.conf.d/cog.conf'
        " && ldconfig",
    ]


def render_runtime(config: Config, settings: BuildSettings) -> list[str]:
    """The step that installs Cog's runtime."""
    words = " ".join(quote_shell(word) for word in runtime_requirements(config, settings, f"{COPIED}/runtime"))
    copy = [f"COPY {BUILD_FOLDER}/runtime/ {COPIED}/runtime/"] if settings.wheels else []
    return [*copy, pip_install(settings, words)]


def render_tracing(tracing: Tracing | None, settings: BuildSettings) -> list[str]:
    """The steps that make the runtime trace: what sends the traces, the model's own file, and the variables."""
    if not tracing:
        return []
    values = {"COG_TRACE_CONFIGURED": "true", "COG_TRACE_ENABLED": "true", "COG_TRACE_SAMPLER": tracing.sampler,
              "COG_TRACE_SAMPLER_ARG": tracing.sampler_arg, "COG_TRACE_HEADER": tracing.header,
              "COG_TRACE_HEADER_FORMAT": tracing.header and tracing.header_format,
              "COG_OBSERVABILITY_CONFIG": tracing.file and TRACING_FILE}
    return [pip_install(settings, " ".join(TRACING_PACKAGES)),
            *([f"COPY {BUILD_FOLDER}/telemetry.py {TRACING_FILE}"] if tracing.file else []),
            *render_environment({name: value for name, value in values.items() if value})]


def render_run_steps(config: Config, settings: BuildSettings) -> list[str]:
    """The commands of cog.yaml, each a step, with its secrets. Python is where some look for it: in Cog's own images it
    is pyenv's, or has uv beside it."""
    import re

    homes = re.findall(r"/root/\.pyenv/versions/[\w.]+", "\n".join(step.command for step in config.run))
    lines = [f"RUN mkdir -p /root/.pyenv/versions && ln -s /usr/local {home}" for home in dict.fromkeys(homes)]
    lines = [] if settings.base_image or "/cog-base:" in base_image(config, settings) else lines
    if "uv" in called_commands(config) and not settings.base_image:
        lines += ["ENV UV_SYSTEM_PYTHON=true", pip_install(settings, "uv")]
    for step in config.run:
        mounts = "".join(f"--mount=type=secret,id={mount.id},target={mount.target} " for mount in step.mounts)
        lines.append(f"RUN {pip_secret(settings).lstrip()}{' ' if settings.pip_conf else ''}{mounts}{step.command}")
    return lines


def requirement_files(config: Config, place: Callable[[str], str]) -> dict[str, bytes]:
    """The requirements file for pip, and the file of constraints that it names; `place` says where an artifact lies."""
    held = list_constraints(config)
    lines = [place(line[2:]) if line.startswith("./") and line[2:] in config.artifacts else line
             for line in config.requirements]
    texts = {"requirements.txt": [*(["-c constraints.txt"] if held else []), *lines], "constraints.txt": held}
    return {name: "".join(f"{line}\n" for line in found).encode() for name, found in texts.items() if found}


def build_files(config: Config, settings: BuildSettings, find: Callable[[str], Contents]) -> dict[str, Contents]:
    """The Dockerfile and the files that it copies, by their path in the context. `find` gives a file of the project.
    Raises ConfigError: an artifact is missing, or two have the same name."""

    def take(path: str, what: str) -> Contents:
        try:
            return find(path)
        except OSError as error:
            raise ConfigError(f"{what} cannot be read: {error.strerror}",
                              hint="it takes a file inside the project") from error

    files: dict[str, Contents] = {"Dockerfile": render_dockerfile(config, settings).encode()}
    if settings.dockerfile:
        return {f"{BUILD_FOLDER}/Dockerfile": files["Dockerfile"]}
    if config.requirements:
        files.update(requirement_files(config, lambda path: f"{COPIED}/artifacts/{os.path.basename(path)}"))
    for path in config.artifacts:
        name = f"artifacts/{os.path.basename(path)}"
        if name in files:
            raise ConfigError(f"requirements name two files called {os.path.basename(path)}", hint="rename one of them")
        files[name] = take(path, f"requirement ./{path}")
    if config.tracing and config.tracing.file:
        files["telemetry.py"] = take(config.tracing.file, f"observability.config {config.tracing.file}")
    for number, text in enumerate(settings.ca_certificates):
        files[f"certificates/cog-ca-cert{f'-{number + 1}' if number else ''}.crt"] = text.encode()
    files.update((f"runtime/{name}", data) for name, data in settings.wheels)
    return {f"{BUILD_FOLDER}/{name}": data for name, data in files.items()}


# -- what this machine says


def read_build_settings(config: Config, environ: Mapping[str, str], cwd: str, machine: str = "x86_64") -> BuildSettings:
    """The settings of this machine for a build: its wheels of Cog, certificates and pip settings. Flags are the
    caller's to fill in. `machine` is the engine's. Raises UsageError: a variable names what is not there."""
    sdk, coglet = environ.get("COG_SDK_WHEEL", ""), environ.get("COGLET_WHEEL", "")
    words: tuple[str, ...] = ()
    wheels: list[tuple[str, bytes]] = []
    for variable, package, value in (("COGLET_WHEEL", "coglet", coglet), ("COG_SDK_WHEEL", "cog", sdk)):
        if value == "pypi" or value.startswith("pypi:"):
            own = (f"coglet=={value[5:]}" if value[5:] else "coglet",)
            words += sdk_words(value[5:], coglet) if package == "cog" else own
        elif value.startswith(("http://", "https://")):
            if "@" in value.split("/")[2]:
                raise UsageError(f"{variable}: the password in this URL would stay in the image's history",
                                 hint="download the wheel, and name the file")
            words += (value,)
        elif value:
            path = find_wheel(variable, package, os.path.join(cwd, os.path.expanduser(value)), machine)
            with open(path, "rb") as file:
                wheels.append((os.path.basename(path), file.read()))
            words += (os.path.basename(path),)
    if coglet and not sdk:
        words += sdk_words(config.sdk_version, coglet)
    certificates = read_certificates(environ.get("COG_CA_CERT", ""), cwd)
    return BuildSettings(base_image=environ.get("COG_BASE_IMAGE", ""),
                         registry=environ.get("COG_REGISTRY_HOST") or BuildSettings().registry,
                         ca_certificates=certificates, pip_conf=read_pip_conf(environ), runtime=words,
                         wheels=tuple(wheels))


def find_wheel(variable: str, package: str, path: str, machine: str) -> str:
    """The wheel that a variable names: a file, or the one in a folder that fits. Raises UsageError: none or several."""
    import glob

    if os.path.isfile(path):
        return path
    if not os.path.isdir(path):
        raise UsageError(f"{variable}: path not found: {path}",
                         hint="name a wheel, a folder with one, a URL, or pypi:VERSION")
    found = sorted(glob.glob(os.path.join(glob.escape(path), f"{package}-*.whl")))
    names = {"amd64": "x86_64", "arm64": "aarch64"}
    fitting = [wheel for wheel in found if wheel.endswith(("-any.whl", f"_{names.get(machine, machine)}.whl"))
               and "macosx" not in wheel]
    if len(fitting) != 1:
        what = "several wheels" if fitting else "no wheel for the platform" if found else "no wheel"
        raise UsageError(f"{variable}: {what} of {package} in {path}", hint="name the wheel itself")
    return fitting[0]


def read_certificates(value: str, cwd: str) -> tuple[str, ...]:
    """The PEM texts of COG_CA_CERT: a file, a folder of .crt and .pem files, PEM itself, or PEM in base64.
    Raises UsageError: it is none of these."""
    import base64
    import re

    if not value:
        return ()
    path = os.path.join(cwd, os.path.expanduser(value))
    texts = [value]
    if "-----BEGIN" not in value and len(value) < 4096 and os.path.isdir(path):
        names = sorted(name for name in os.listdir(path) if name.endswith((".crt", ".pem")))
        texts = [read_text(os.path.join(path, name)) for name in names]
    elif "-----BEGIN" not in value and len(value) < 4096 and os.path.isfile(path):
        texts = [read_text(path)]
    elif "-----BEGIN" not in value:
        try:
            texts = [base64.b64decode("".join(value.split()), validate=True).decode("ascii")]
        except ValueError:
            texts = []
    pattern = r"-----BEGIN (?:TRUSTED )?CERTIFICATE-----.*?-----END (?:TRUSTED )?CERTIFICATE-----"
    found = [found + "\n" for text in texts for found in re.findall(pattern, text, re.S)]
    if not found:
        raise UsageError("COG_CA_CERT holds no certificate",
                         hint="it takes a PEM file, a folder of .crt and .pem files, PEM text, or PEM text in base64")
    return tuple(dict.fromkeys(found))


def read_text(path: str) -> str:
    """A file's text; bytes that are not UTF-8 are replaced."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def read_bytes(path: str) -> bytes:
    """A file's contents. Raises OSError."""
    with open(path, "rb") as file:
        return file.read()


def read_pip_conf(environ: Mapping[str, str]) -> str:
    """A pip.conf with the indexes and proxies that this machine's pip (else uv) uses, from its files and variables;
    empty where it uses the usual ones. Paths of this machine are left out: the build does not see them."""
    import configparser

    home = environ.get("HOME", "")
    files = ["/etc/pip.conf", f"{home}/.pip/pip.conf", f"{home}/Library/Application Support/pip/pip.conf",
             f"{environ.get('XDG_CONFIG_HOME') or home + '/.config'}/pip/pip.conf", environ.get("PIP_CONFIG_FILE", "")]
    parser = configparser.RawConfigParser()
    for path in files if files[-1] != os.devnull else ():  # which makes pip read none
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, ValueError):
            continue
    values = {key: value for section in ("global", "install") if parser.has_section(section)
              for key, value in ((key.replace("_", "-"), value) for key, value in parser.items(section))}
    for key, uv in (("index-url", "UV_DEFAULT_INDEX UV_INDEX_URL"), ("extra-index-url", "UV_INDEX UV_EXTRA_INDEX_URL")):
        found = [environ[name] for name in uv.split() if environ.get(name)]
        if found and key not in values:
            values[key] = " ".join(uv_index(word, environ) for word in found[0].split())
    values.update({key: environ[name] for key in PIP_SETTINGS for name in [f"PIP_{key.upper().replace('-', '_')}"]
                   if environ.get(name)})
    kept = {key: " ".join(word for word in value.split() if key != "find-links" or "://" in word)
            for key, value in values.items() if key in PIP_SETTINGS}
    kept = {key: value for key, value in kept.items() if value and (key != "no-index" or kept.get("find-links"))}
    if not set(kept) - {"timeout", "retries"}:
        return ""
    return "[global]\n" + "".join(f"{key} = {value}\n" for key, value in sorted(kept.items()))


def uv_index(word: str, environ: Mapping[str, str]) -> str:
    """The URL of an index as uv takes it: it may have a name, by which variables give it a user and a password.

    >>> uv_index("my-own=https://a.example/x", {"UV_INDEX_MY_OWN_USERNAME": "me", "UV_INDEX_MY_OWN_PASSWORD": "a@b"})
    'https://me:a%40b@a.example/x'
    """
    import re
    from urllib.parse import quote

    found = re.fullmatch(r"([\w.-]+)=(\w+://)(.+)", word)
    if not found:
        return word
    name = f"UV_INDEX_{re.sub(r'[^A-Z0-9]', '_', found[1].upper())}"
    user = [quote(environ.get(f"{name}_{part}", ""), safe="") for part in ("USERNAME", "PASSWORD")]
    return found[2] + (f"{':'.join(user)}@" if any(user) else "") + found[3]


def lies_inside(project: str, path: str) -> bool:
    """Whether a path of a project leads to something inside it, by links too."""
    root = os.path.realpath(project)
    return os.path.realpath(os.path.join(root, path)).startswith(os.path.join(root, ""))


class OwnFile(NamedTuple):
    """A file that may be too large to be held, in the place of its contents."""

    path: str

    def pieces(self) -> Iterator[bytes]:
        """Its contents. Raises OSError."""
        with open(self.path, "rb") as file:
            while data := file.read(1 << 18):
                yield data


Contents = Union[bytes, OwnFile]


def find_own(project: str, path: str) -> OwnFile:
    """A file of a project. Raises OSError: it is none, a link out of the project, or not for us to read."""
    whole = os.path.join(project, path)
    if not (os.path.isfile(whole) and lies_inside(project, path)):
        os.stat(whole)  # which says so where nothing is there
        raise OSError(errno.EINVAL, "it is no file inside the project")
    with open(whole, "rb"):
        return OwnFile(whole)


# == 9. Context ===============================================================
# In: a folder, its .dockerignore, files of our own making. Out: a tar stream in pieces, ready to be sent.
# The rules are Docker's, its corners included: they are applied here, since no builder applies them to a tar.
# Entries come sorted, owned by root, with whole seconds; the stream depends on nothing else of this machine.
# Nothing is held in memory but the piece that is being made. What changes while it is read never breaks the tar.

TAR_PIECE = 1 << 18  # bytes of the stream that are gathered before they are sent; larger files go by such pieces
TAR_END = bytes(1024)
TAR_MAGIC = b"ustar\x0000" + bytes(64) + b"0000000\x000000000\x00"  # then no names of user and group, no device
TAR_FIXED_SUM = sum(TAR_MAGIC) + sum(b"        ")  # what every checksum holds; its own field counts as spaces
GENERATED_TIME = 315532800  # 1980-01-01, the time of every file of our own making: the oldest that a zip can hold
BIG_SIZE = 1 << 33  # the first size that eleven octal digits cannot say

Matcher = Callable[[str], Any]  # a compiled pattern's fullmatch
Parents = tuple[bool, ...]  # for a directory: which groups of rules matched it or one of its own parents


class IgnoreRules(NamedTuple):
    """What .dockerignore says: groups of neighbouring rules of one sign, each one alternation; the last match counts.

    `holds` matches a directory in which an exception may match something, so that it must be walked though ignored.
    """

    groups: tuple[tuple[bool, Matcher], ...] = ()
    holds: Matcher | None = None

    def judge(self, path: str, parents: Parents) -> tuple[bool, Parents]:
        """Whether a path is ignored, given what matched its parents; and what its own children are to be given.

        A rule that could change nothing is not tried, and so is not handed down: this is how Docker's own walk does it.

        >>> rules = parse_ignore("docs\\n!docs/keep.txt")
        >>> ignored, docs = rules.judge("docs", ())
        >>> ignored, rules.judge("docs/a", docs)[0], rules.judge("docs/keep.txt", docs)[0]
        (True, True, False)
        """
        ignored, found = False, []
        for number, (ignores, matches) in enumerate(self.groups):
            hit = bool(parents) and parents[number]
            if not hit and ignores is not ignored:
                hit = matches(path) is not None
            if hit:
                ignored = ignores
            found.append(hit)
        return ignored, tuple(found)


def parse_ignore(text: str) -> IgnoreRules:
    """The rules in a .dockerignore. Raises UsageError: a line is no pattern.

    >>> parse_ignore("*.pyc").judge("a.pyc", ())[0], parse_ignore("*.pyc").judge("sub/a.pyc", ())[0]
    (True, False)
    """
    import re

    groups: list[tuple[bool, list[str]]] = []
    holds: list[str] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        ignores, pattern = clean_pattern(line)
        if not pattern and ignores:
            continue
        try:
            if not pattern:
                raise ValueError("an exception to nothing")
            regex = pattern_regex(pattern)
        except ValueError as error:
            raise UsageError(f".dockerignore:{number}: {line.strip()!r} is no pattern: {error}",
                             hint="escape a literal *, ?, [ or \\ with a backslash") from error
        if not groups or groups[-1][0] is not ignores:
            groups.append((ignores, []))
        groups[-1][1].append(regex)
        if not ignores:
            holds.append(holding_regex(pattern))
    compiled = tuple((ignores, re.compile("|".join(rules)).fullmatch) for ignores, rules in groups)
    return IgnoreRules(compiled, re.compile("|".join(holds)).fullmatch if holds else None)


def clean_pattern(line: str) -> tuple[bool, str]:
    """A line of .dockerignore as (ignores, pattern); the pattern is empty where the line holds none.

    >>> clean_pattern(" ! /a//b/../c/ "), clean_pattern("# note"), clean_pattern("!")
    ((False, 'a/c'), (True, ''), (False, ''))
    """
    text = "" if line.startswith("#") else line.strip()
    ignores = not text.startswith("!")
    text = text if ignores else text[1:].strip()
    if not text:
        return ignores, ""
    clean = os.path.normpath(text)
    clean = clean.lstrip("/") or "/"
    return ignores, "" if clean == "/" and not ignores else clean


def pattern_regex(pattern: str) -> str:
    r"""A pattern as a regular expression for whole paths. Raises ValueError: a class or an escape is not closed.

    `**` stands for any number of folders, `*` and `?` stay within one. A pattern that is literal but for its leading
    `**` matches any path that ends so: `**/x` and `x` in any folder, yet `**x` also `ax`.

    >>> pattern_regex("a*/[^b]?.txt")
    'a[^/]*/[^b][^/]\\.txt'
    """
    tokens = list(split_pattern(pattern))
    literal = [kind for kind, _ in tokens].count("literal")
    rest = pattern[2:]
    if tokens[0][0] == "deep" and literal == len(tokens) - 1:
        anywhere = "(?s:.*)" + escape_literal(rest)
        return f"(?:{anywhere}|{escape_literal(rest[1:])})" if rest.startswith("/") else anywhere
    if tokens[-1][0] == "deep" and literal == len(tokens) - 1:
        return escape_literal(pattern[:-2]) + "(?s:.*)"
    if tokens[-1][0] == "deep":
        tokens[-1] = ("deep", ".*")
    return "".join(text for _, text in tokens)


def split_pattern(pattern: str) -> Iterator[tuple[str, str]]:
    """The parts of a pattern, as (literal, other or deep; regular expression). Raises ValueError: it is malformed."""
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**", at):
            at += 3 if pattern.startswith("**/", at) else 2
            yield "deep", "(?:.*/)?"
            continue
        if char == "[":
            text, at = class_regex(pattern, at)
            yield "other", text
            continue
        if char == "\\":
            at += 1
            if at == len(pattern):
                raise ValueError("nothing follows the backslash")
            yield "other", escape_literal(pattern[at])
        elif char in "*?":
            yield "other", "[^/]*" if char == "*" else "[^/]"
        else:
            yield "other" if char == "]" else "literal", escape_literal(char)
        at += 1


def escape_literal(text: str) -> str:
    """Text as a regular expression that matches just it."""
    return "".join(char if char.isalnum() or char in "_/" or char > "\x7f" else "\\" + char for char in text)


def class_regex(pattern: str, at: int) -> tuple[str, int]:
    """The character class that begins at a bracket, as a regular expression, and where it ends. Raises ValueError.

    >>> class_regex("a[^b-d\\\\]]e", 1)
    ('[^b-d\\\\]]', 9)
    """
    def take() -> str:
        nonlocal at
        escaped = pattern.startswith("\\", at)
        char = pattern[at + escaped:at + escaped + 1]
        if not char or (char in "-]" and not escaped):
            raise ValueError("its character class is malformed")
        at += 1 + escaped
        return char

    at += 1
    text = "["
    if pattern.startswith("^", at):
        text, at = "[^", at + 1
    first = True
    while first or not pattern.startswith("]", at):
        low = high = take()
        if pattern.startswith("-", at):
            at += 1
            high = take()
        if high < low:
            raise ValueError(f"its range {low}-{high} is empty")
        text += escape_literal(low) + ("-" + escape_literal(high) if high != low else "")
        first = False
    return text + "]", at + 1


def holding_regex(pattern: str) -> str:
    r"""A regular expression for the directories below which a pattern may match.

    >>> holding_regex("a/*/c"), holding_regex("a/**/c"), holding_regex("**/c")
    ('a(?:/[^/]*)?', 'a(?:/(?s:.*))?', '(?s:.*)')
    """
    parts = pattern.split("/")
    text = closing = ""
    for depth, part in enumerate(parts):
        slash = "(?:/" if depth else ""
        if any(mark in part for mark in ("**", "[", "\\")):
            return text + slash + "(?s:.*)" + (")?" if slash else "") + closing
        if depth + 1 < len(parts):
            text, closing = text + slash + pattern_regex(part), (")?" if slash else "") + closing
    return text + closing or "(?!)"


class Member(NamedTuple):
    """Something to be sent: its path below the folder, and what the folder says of it."""

    path: str
    entry: os.DirEntry[str]
    folder: str = ""  # of the context, that it goes to


class OpenFolder:
    """A folder that is being walked: what is left of it, and itself while it is ignored and nothing in it was kept."""

    def __init__(self, entries: Iterator[os.DirEntry[str]], prefix: str, parents: Parents,
                 waiting: Member | None) -> None:
        self.entries, self.prefix, self.parents, self.waiting = entries, prefix, parents, waiting


def walk_context(folder: str, rules: IgnoreRules, omit: Collection[str]) -> Iterator[Member]:
    """What a folder holds and the rules let through, sorted, folders before what is in them. Links are not followed.

    An ignored folder comes along if an exception keeps something in it. Raises UsageError: a folder cannot be read.
    """
    stack = [OpenFolder(list_folder(folder, ""), "", (), None)]
    while stack:
        here = stack[-1]
        for entry in here.entries:
            path = here.prefix + entry.name
            if path in omit:
                continue
            ignored, matched = rules.judge(path, here.parents) if rules.groups else (False, ())
            if not ignored:
                if rules.holds:
                    yield from stop_waiting(stack)
                yield Member(path, entry)
            if entry.is_dir(follow_symlinks=False) and (not ignored or (rules.holds and rules.holds(path))):
                entries = list_folder(entry.path, path, lenient=ignored)
                stack.append(OpenFolder(entries, path + "/", matched, Member(path, entry) if ignored else None))
                break
        else:
            stack.pop()


def stop_waiting(stack: list[OpenFolder]) -> Iterator[Member]:
    """The ignored folders that something kept was found in, each once."""
    for folder in stack:
        if folder.waiting:
            yield folder.waiting
            folder.waiting = None


def list_folder(folder: str, path: str, *, lenient: bool = False) -> Iterator[os.DirEntry[str]]:
    """What stands at a path of the folder, by name; nothing if it has vanished.

    Raises UsageError: it cannot be read, unless nobody asked for it (lenient).
    """
    try:
        with os.scandir(folder) as entries:
            return iter(sorted(entries, key=lambda entry: entry.name))
    except OSError as error:
        if lenient or (path and isinstance(error, FileNotFoundError)):
            return iter(())
        raise unreadable(path or folder, error) from error


def show_path(path: str) -> str:
    """A path as it can be shown: what is no text in it as escapes."""
    return path.encode("utf-8", "backslashreplace" if path.isprintable() else "surrogateescape").decode(
        "utf-8", "backslashreplace")


def unreadable(path: str, error: OSError) -> UsageError:
    """The error that says which file of the project cannot be read."""
    return UsageError(f"{show_path(path)} cannot be read: {error.strerror}",
                      hint="make it readable, or name it in .dockerignore")


def read_context(folder: str, rules: IgnoreRules, *, extra_files: Mapping[str, Contents] | None = None,
                 omit: Collection[str] = (".cog",), weights: Collection[str] = (), prefix: str = "",
                 warn: Callable[[str], None] = lambda text: None,
                 note: Callable[[bytes], object] | None = None) -> Iterator[bytes]:
    """A folder as a tar stream, in pieces of some 256 KiB.

    First the extra files, which stand in for the folder's own of the same path; then what the rules let through but for
    the paths in `omit`, all below `prefix`. Where there are `weights`, these go to WEIGHTS_FOLDER and the rest to
    PROJECT_FOLDER. Sockets and devices are left out with a warning; so is what vanishes. `note` gets all of it but the
    files' times, which a builder does not look at either.
    Raises UsageError: a file cannot be read.
    """
    prefix, own = PROJECT_FOLDER if weights else prefix, dict(extra_files or {})
    extra = {name if name.startswith(BUILD_FOLDER) else prefix + name: data for name, data in own.items()}
    for piece in render_extra_files(extra):
        if note:
            note(piece)
        yield piece
    parts, size = [], 0
    for member in walk_context(folder, rules, {*omit, *own}):
        if prefix:
            member = member._replace(folder=WEIGHTS_FOLDER if member.path in weights else prefix)
        for number, piece in enumerate(read_member(member, warn)):
            if note:
                note(piece if number else untimed(piece))
            parts.append(piece)
            size += len(piece)
            if size >= TAR_PIECE:
                yield b"".join(parts)
                parts.clear()
                size = 0
    yield b"".join([*parts, TAR_END])


def read_rules(project: str) -> IgnoreRules:
    """The rules of a project's .dockerignore. Raises UsageError: it cannot be read."""
    path = os.path.join(project, ".dockerignore")
    return parse_ignore(read_text(path)) if os.path.isfile(path) else IgnoreRules()


def check_ignore(project: str) -> None:
    """Nothing, when .dockerignore does not name .cog, where an image has its schema. Raises UsageError: it does."""
    path = os.path.join(project, ".dockerignore")
    lines = read_text(path).splitlines() if os.path.isfile(path) else []
    if any(line.strip().strip("/") == ".cog" for line in lines):
        raise UsageError("The .cog tmp path cannot be ignored by docker in .dockerignore",
                         hint="leave the line out; all else in .cog stays out of the image anyway")


def is_weight(path: str, size: int) -> bool:
    """Whether a file is taken for weights: 10 MiB or more, and by its name no code, text, picture, sound or wheel.

    >>> is_weight("model.bin", 1 << 24), is_weight("model.bin", 1), is_weight("cat.mp4", 1 << 24)
    (True, False, False)
    """
    name = os.path.basename(path)
    family = mime_of(name).partition("/")[0]
    code = name.endswith((".py", ".pyc", ".ipynb", ".so", ".whl", ".log", ".ts"))
    return size >= 10 << 20 and not code and family not in ("image", "video", "audio", "text")


def find_weights(folder: str, rules: IgnoreRules) -> frozenset[str]:
    """The paths of a folder's weights, as far as the rules let them through. Raises UsageError: it cannot be read."""
    return frozenset(path for path, entry, _ in walk_context(folder, rules, (".cog", ".git"))
                     if entry.is_file(follow_symlinks=False) and is_weight(path, entry.stat().st_size))


def copy_project(folder: str, *, extra_files: Mapping[str, bytes] | None = None,
                 warn: Callable[[str], None] = lambda text: None) -> Iterator[bytes]:
    """A whole project as a tar stream, for the / of a container that cannot see its folder; without .git and .cog.

    Below its /src an engine before Docker 23 would refuse a link that leads out of it.
    """
    return read_context(folder, IgnoreRules(), extra_files=extra_files, omit=(".cog", ".git"), prefix="src/", warn=warn)


def render_extra_files(files: Mapping[str, Contents]) -> Iterator[bytes]:
    """Files of our own making and the folders that they are in, as part of a tar. Raises UsageError: one is gone."""
    folders = {name[:at] for name in files for at, char in enumerate(name) if char == "/"}
    small = [tar_header(os.fsencode(name) + b"/", 0o755, 0, GENERATED_TIME, b"5") for name in sorted(folders)]
    small += [tar_file(name, data) for name, data in sorted(files.items()) if isinstance(data, bytes)]
    if small:
        yield b"".join(small)
    for name, data in sorted(files.items()):
        if isinstance(data, OwnFile):
            try:
                descriptor = os.open(data.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise unreadable(name, error) from error
            size = os.fstat(descriptor).st_size
            header = tar_header(os.fsencode(name), 0o644, size, GENERATED_TIME)
            yield from read_large_file(name, descriptor, header, size, lambda text: None)


def read_member(member: Member, warn: Callable[[str], None]) -> Iterable[bytes]:
    """One file, folder or link as pieces of a tar. Raises UsageError: it cannot be read."""
    from stat import S_ISDIR, S_ISLNK, S_ISREG

    path, entry, _ = member
    name = os.fsencode(member.folder + path)
    try:
        info = entry.stat(follow_symlinks=False)
        kind, mode, mtime = info.st_mode, info.st_mode & 0o7777, int(info.st_mtime)
        if S_ISREG(kind):
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            header = tar_header(name, mode, info.st_size, mtime)
            return read_file(path, descriptor, header, info.st_size, warn)
        if S_ISDIR(kind):
            return (tar_header(name + b"/", mode, 0, mtime, b"5"),)
        if S_ISLNK(kind):
            return (tar_header(name, 0o777, 0, mtime, b"2", os.fsencode(os.readlink(entry.path))),)
        warn(f"{show_path(path)} is neither a file nor a folder and is left out")
    except FileNotFoundError:
        warn(f"{show_path(path)} vanished while it was read")
    except OSError as error:
        raise unreadable(path, error) from error
    return ()


def read_file(path: str, descriptor: int, header: bytes, size: int, warn: Callable[[str], None]) -> Iterable[bytes]:
    """A file behind its header: as many bytes as that says, whatever happens to the file meanwhile. Closes it.

    A small file is read at once, so that most files cost no iterator of their own.
    """
    padding = bytes(-size % 512)
    if size > TAR_PIECE:
        return read_large_file(path, descriptor, header, size, warn)
    try:
        data = os.read(descriptor, size)
        while len(data) < size:
            more = os.read(descriptor, size - len(data))
            if not more:
                warn(f"{show_path(path)} shrank while it was read")
                break
            data += more
    finally:
        os.close(descriptor)
    return (header, data.ljust(size, b"\0"), padding)


def read_large_file(path: str, descriptor: int, header: bytes, size: int,
                    warn: Callable[[str], None]) -> Iterator[bytes]:
    """A large file behind its header, piece by piece. Raises UsageError: reading fails."""
    left, ended = size, False
    try:
        yield header
        while left:
            data = b"" if ended else os.read(descriptor, min(left, TAR_PIECE))
            if not data:
                if not ended:
                    warn(f"{show_path(path)} shrank while it was read")
                ended, data = True, bytes(min(left, TAR_PIECE))
            left -= len(data)
            yield data
        yield bytes(-size % 512)
    except OSError as error:
        raise unreadable(path, error) from error
    finally:
        os.close(descriptor)


def tar_file(name: str, data: bytes, mode: int = 0o644) -> bytes:
    """A file as part of a tar; TAR_END behind the last one makes it whole."""
    return tar_header(os.fsencode(name), mode, len(data), GENERATED_TIME) + data + bytes(-len(data) % 512)


def tar_header(name: bytes, mode: int, size: int, mtime: int, kind: bytes = b"0", link: bytes = b"") -> bytes:
    """The header of one tar entry, owned by root; with a PAX header before it where the classic one is too small.

    Source: POSIX.1-2017, pax, ustar and pax interchange formats.
    """
    records, prefix = [], b""
    if len(name) > 100:
        cut = name.rfind(b"/", 1, min(156, len(name) - 1))
        if cut > 0 and len(name) - cut - 1 <= 100:
            prefix, name = name[:cut], name[cut + 1:]
        else:
            records.append((b"path", name))
            name = name[:100]
    if len(link) > 100:
        records.append((b"linkpath", link))
        link = link[:100]
    if size >= BIG_SIZE:
        records.append((b"size", b"%d" % size))
        size = 0
    before = pax_header(records) if records else b""
    numbers = b"%07o\x000000000\x000000000\x00%011o\x00%011o\x00" % (mode, size, min(max(mtime, 0), BIG_SIZE - 1))
    checksum = sum(name) + sum(numbers) + sum(kind) + sum(link) + sum(prefix) + TAR_FIXED_SUM
    return b"".join((before, name.ljust(100, b"\0"), numbers, b"%06o\0 " % checksum, kind, link.ljust(100, b"\0"),
                     TAR_MAGIC, prefix.ljust(167, b"\0")))


def untimed(header: bytes) -> bytes:
    """A tar header without its time and its checksum.

    >>> untimed(tar_header(b"a", 0o644, 1, 1)) == untimed(tar_header(b"a", 0o644, 1, 2))
    True
    """
    return header[:-376] + header[-356:]


def pax_header(records: list[tuple[bytes, bytes]]) -> bytes:
    """Records for the entry behind it, as a tar entry of its own; marked where they are no UTF-8."""
    try:
        for _, value in records:
            value.decode()
    except UnicodeDecodeError:
        records = [(b"hdrcharset", b"BINARY"), *records]
    data = b""
    for key, value in records:
        bare = length = len(key) + len(value) + 3  # a space, an equals sign, a newline
        while length != bare + len(str(length)):
            length = bare + len(str(length))
        data += b"%d %b=%b\n" % (length, key, value)
    return tar_header(b"././@PaxHeader", 0o644, len(data), 0, b"x") + data + bytes(-len(data) % 512)


# == 10. Plan =================================================================
# In: Options, the image's inspect document, what the engine is. Out: the body of the create call and what
# the host must know beside it. Ports and names are chosen by the caller and handed in; but for the config of a
# project, which is sent along, nothing is read.

MODEL_PORT = 5000  # where a model listens in a network of its own
RUN_LABEL = "cog.pyz.run"  # the label of every container of ours; its value is the run's name
SERVER = ["-m", "cog.server.http"]


def is_training(options: Options) -> bool:
    """Whether a model is to be trained, not to predict."""
    return options.command == "train"


def is_serving(options: Options) -> bool:
    """Whether a model is to be served, not to do one job."""
    return options.command == "serve"


def server_mode(options: Options) -> list[str]:
    """What the server's command is told of what it is to do; a served one lives on after a failed setup."""
    if is_serving(options):
        return ["--await-explicit-shutdown", "true"]
    return ["--x-mode", "train"] if is_training(options) else []


def upload_flag(options: Options, lane: str) -> list[str]:
    """What the server's command is told of where files go: into our lane, or where the user of a served one says."""
    url = options.upload_url if is_serving(options) else lane
    return ["--upload-url", url] if url else []


def check_task(options: Options, predict: str, train: str) -> None:
    """Nothing, when a model with these references can do what is asked. Raises UsageError."""
    if is_training(options) and predict and not train:
        raise UsageError("the model cannot be trained: its cog.yaml has no `train`",
                         hint='`train: "train.py:train"` names the function')
    if not is_training(options) and train and not predict:
        raise UsageError("the model can only be trained: its cog.yaml has no `predict`", hint="cog.pyz train")


class Ports(NamedTuple):
    """TCP ports inside the model's network namespace."""

    model: int
    lane: int


def pick_ports(network: str, number: int) -> Ports:
    """Ports for a run, from a random `number`; a namespace of its own has the usual one for the model.

    Below the ephemeral range, so that no outgoing connection holds them.

    >>> pick_ports("", 0), pick_ports("host", 1)
    (Ports(model=5000, lane=20000), Ports(model=26002, lane=20002))
    """
    lane = 20000 + 2 * number % 6000
    return Ports(lane + 6000 if shares_network(network) else MODEL_PORT, lane)


class Run(NamedTuple):
    """What sets one run apart from every other."""

    name: str  # of its container, too
    token: str  # the lane's secret
    ports: Ports


class Project(NamedTuple):
    """A model's folder, to be seen at /src."""

    folder: str
    environment: dict[str, str]  # what tells the runtime where the model is
    schema: bytes  # for .cog/openapi_schema.json
    files: dict[str, bytes]  # what a copy of the folder holds beside its own files, by path
    copied: bool  # into the container, because the engine does not see the folder or may not write to it


class Runnable(NamedTuple):
    """A model that is to run in a container: an image, or a project in the image that was built for it."""

    name: str  # of the image, as the user knows it; empty for a project's
    image: JSON  # its inspect document
    label: JSON  # the model's config, as in run.cog.config
    variables: dict[str, str]  # the user's, for the model
    project: Project | None = None

    @property
    def config(self) -> JSON:
        """The image's own settings."""
        return self.image.get("Config") or {}

    @property
    def environment(self) -> dict[str, str]:
        """The variables that it is given: those that say where a project's model is, and the user's."""
        return {**(self.project.environment if self.project else {}), **self.variables}


def wants_old_runtime(config: Config) -> bool:
    """Whether a config's Python or its sdk_version means a runtime before 0.17."""
    return version_numbers(config.python_version)[:2] < (3, 10) or (0,) < version_numbers(config.sdk_version) < (0, 17)


def plan_project(config: Config, document: JSON | None, *, is_local: bool) -> Project:
    """How the container gets the project. Raises ConfigError: the config cannot be read again."""
    schema = render_schema(document).encode() if document is not None else b""
    try:
        own = read_bytes(os.path.join(config.project, config.file_name))
    except OSError as error:
        raise ConfigError(f"{config.file_name} cannot be read any more: {error.strerror}") from error
    renamed = wants_old_runtime(config) and config.file_name != "cog.yaml"
    files = {config.file_name: own, **({".cog/openapi_schema.json": schema} if schema else {}),
             **({"cog.yaml": own} if renamed else {})}
    copied = renamed or not is_local or not os.access(config.project, os.W_OK)
    variables = {"PYTHONDONTWRITEBYTECODE": "1", **runtime_environment(config)}  # no files of root's in the project
    return Project(config.project, variables, schema, files, copied)


class Plan(NamedTuple):
    """What will be run: everything that the container host needs, and nothing that it must decide."""

    name: str  # of the container, and of the run
    token: str  # the lane's secret
    image: str
    body: JSON  # of POST /containers/create
    ports: Ports
    interpreters: tuple[str, ...]  # for the helper, the likeliest first
    gpus_by_label: bool  # GPUs were asked for by the model's label only: go on without, if need be
    platform: str
    project: Project | None = None


def parse_gpus(text: str, *, cdi: bool) -> list[JSON]:
    """HostConfig.DeviceRequests for a --gpus value. Raises UsageError.

    `cdi` asks for NVIDIA's devices by their CDI names, as Podman wants it.
    Source: Engine API v1.41, definition DeviceRequest.

    >>> parse_gpus("all", cdi=False)
    [{'Driver': '', 'Count': -1, 'Capabilities': [['gpu']]}]
    >>> parse_gpus('"device=0,1",capabilities=utility', cdi=False)
    [{'Driver': '', 'DeviceIDs': ['0', '1'], 'Capabilities': [['gpu', 'utility']]}]
    >>> parse_gpus("all", cdi=True)
    [{'Driver': 'cdi', 'DeviceIDs': ['nvidia.com/gpu=all']}]
    >>> parse_gpus("nvidia.com/gpu=0", cdi=False)
    [{'Driver': 'cdi', 'DeviceIDs': ['nvidia.com/gpu=0']}]
    """
    hint = "as docker run takes it: all, 2, 'device=0,1', nvidia.com/gpu=0"
    if not text:
        return []
    import csv

    try:
        fields = [field.strip() for field in next(csv.reader([text], strict=True))]
    except (csv.Error, StopIteration) as error:
        raise UsageError(f"invalid GPU specification: {text!r}: {error}", hint=hint) from error
    return [gpu_request(text, fields, cdi=cdi, hint=hint)]


def gpu_request(text: str, fields: list[str], *, cdi: bool, hint: str) -> JSON:
    """One device request from the fields of a --gpus value. Raises UsageError."""
    driver, count, devices, capabilities = "", "", [], ["gpu"]
    for field in fields:
        key, equals, value = field.partition("=")
        if equals and "/" in key:
            devices.append(field)
        elif key == "driver":
            driver = value
        elif key == "device":
            devices += value.split(",")
        elif key == "capabilities":
            capabilities += [name for name in value.split(",") if name != "gpu"]
        elif key == "count" or not equals:
            if devices and not equals:
                devices.append(key)  # device=0,1 without inner quotes
            else:
                count = value if equals else key
        else:
            raise UsageError(f"invalid GPU specification: {text!r}: unknown key {key!r}", hint=hint)
    is_count = count in ("", "all") or (count.isascii() and count.isdigit() and len(count) < 6)
    if not is_count or "" in devices or (count and devices) or not (count or devices or driver):
        raise UsageError(f"invalid GPU specification: {text!r}", hint=hint)
    if all("/" in device for device in devices) and devices:
        return {"Driver": "cdi", "DeviceIDs": devices}
    if cdi:
        named = devices or (["all"] if count in ("", "all") else [str(n) for n in range(int(count))])
        return {"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={device}" for device in named]}
    which: JSON = {"DeviceIDs": devices} if devices else {"Count": -1 if count in ("", "all") else int(count)}
    return {"Driver": driver, **which, "Capabilities": [capabilities]}


def parse_environment(options: Options, environ: Mapping[str, str], read: Callable[[str], str]) -> dict[str, str]:
    """The model's variables from --env-file and -e; NAME alone takes the value from our environment.

    Raises UsageError: a file cannot be read, a line has no name.
    """
    variables: dict[str, str] = {}
    lines = [line.strip() for path in options.env_file for line in read(path).splitlines()]
    for line in [*(line for line in lines if line and not line.startswith("#")), *options.env]:
        name, equals, value = line.partition("=")
        if not name or " " in name:
            raise UsageError(f"-e {name!r} is not NAME=VALUE", hint="for example: -e TOKEN=abc")
        if equals:
            variables[name] = value
        elif name in environ:
            variables[name] = environ[name]
    return variables


# What a 0.17 or newer runtime's own log has: warnings, what the model prints, and which files it gives. Fields of a
# line tell the latter two apart.
RUNTIME_FILTER = ("coglet=warn,coglet::setup=info,coglet::user=info,coglet_worker=warn,coglet_worker::schema=off,"
                  "coglet_worker::protocol=off,coglet::prediction[{source}]=info")
FILE_NOTICES = "coglet::orchestrator[{filename}]=debug"


def server_environment(image: Mapping[str, str], user: Mapping[str, str], environ: Mapping[str, str], port: int,
                       *, debug: bool, serving: bool = False) -> dict[str, str]:
    """The container's variables: the user's, what the server reads, and 127.0.0.1 kept off every proxy.

    A served model logs, and runs predictions at once, as it does by itself; one that makes our prediction is quiet,
    and idle when it says so.

    >>> made = server_environment({"NO_PROXY": "corp"}, {"A": "1"}, {}, 5000, debug=False)
    >>> made["A"], made["NO_PROXY"], made["PORT"]
    ('1', 'corp,127.0.0.1,localhost', '5000')
    """
    variables = {"LOG_FORMAT": "console"}
    if not serving:
        variables.update(COG_LOG_LEVEL="warning", COG_MAX_CONCURRENCY="1")
    if debug:
        variables["COG_LOG_LEVEL"] = "debug"
    if "RUST_LOG" in environ or not (debug or serving):
        log = environ.get("RUST_LOG", RUNTIME_FILTER)
        variables["RUST_LOG"] = log if serving else f"{log},{FILE_NOTICES}"
    variables.update(user)
    variables["PORT"] = str(port)
    for name in ("NO_PROXY", "no_proxy"):
        listed = user.get(name, image.get(name, ""))
        kept = [host.strip() for host in listed.split(",") if host.strip()]
        variables[name] = ",".join(kept + [host for host in ("127.0.0.1", "localhost") if host not in kept])
    return variables


def parse_volume(text: str, cwd: str) -> str:
    """One of HostConfig.Binds from a -v value; a relative source starts with a dot. Raises UsageError.

    >>> parse_volume("./data:/data:ro", "/home/me")
    '/home/me/data:/data:ro'
    """
    source, _, target = text.partition(":")
    if not source or not target.startswith("/"):
        raise UsageError(f"-v {text!r} is not SOURCE:TARGET with an absolute TARGET",
                         hint="for example: -v ./data:/data")
    if source.startswith((".", "~")):
        source = os.path.normpath(os.path.join(cwd, os.path.expanduser(source)))
    return f"{source}:{target}"


def is_address(text: str) -> bool:
    """Whether a text is an IP address, a v6 one perhaps in brackets."""
    import ipaddress

    try:
        ipaddress.ip_address(text[1:-1] if text[:1] + text[-1:] == "[]" else text)
    except ValueError:
        return False
    return True


PUBLISH_HINT = "-p 8000, -p 8000:80, -p 127.0.0.1:8000:80, -p 8000-8009:8000-8009, -p 5000:53/udp"


def parse_port_range(text: str, flag: str, *, least: int = 1) -> tuple[int, int]:
    """The first and the last of some ports, as `8000` or `8000-8010` names them. Raises UsageError."""
    first, dash, last = text.partition("-")
    numbers = [int(part) if part.isascii() and part.isdigit() and len(part) < 6 else -1
               for part in ((first, last) if dash else (first, first))]
    if not least <= numbers[0] <= numbers[1] < 1 << 16:
        raise UsageError(f'invalid port "{flag}": {text!r} is not a port between 1 and 65535' if text else
                         f'invalid port "{flag}": a port is missing', hint=PUBLISH_HINT)
    return numbers[0], numbers[1]


def parse_publish(text: str) -> list[tuple[str, JSON]]:
    """The container's ports of a -p value, each with its place on the host. Raises UsageError.

    As docker takes it, but on 127.0.0.1 where no address is named, and at the same number where no port of the host is.
    An empty port of the host is any free one.

    >>> parse_publish("8000")
    [('8000/tcp', {'HostIp': '127.0.0.1', 'HostPort': '8000'})]
    >>> parse_publish("0.0.0.0:7000-7001:53-54/udp")[1]
    ('54/udp', {'HostIp': '0.0.0.0', 'HostPort': '7001'})
    """
    place, slash, protocol = text.partition("/")
    if slash and protocol.lower() not in ("tcp", "udp", "sctp"):
        raise UsageError(f'invalid port "{text}": {protocol!r} is not tcp, udp or sctp', hint=PUBLISH_HINT)
    head, colon, inner = place.rpartition(":")
    if not colon or is_address(head):
        address, outer = head, inner
    else:
        address, colon, outer = head.rpartition(":")
    if (colon and not address) or (address and not is_address(address)):
        raise UsageError(f'invalid port "{text}": {address!r} is not an IP address', hint=PUBLISH_HINT)
    host = address.strip("[]") or "127.0.0.1"
    first, last = parse_port_range(inner, text)
    low, high = parse_port_range(outer, text, least=0) if outer or not address else (0, 0)
    if first == last and low < high:
        return [(f"{first}/{protocol.lower() or 'tcp'}", {"HostIp": host, "HostPort": outer})]
    if high and high - low != last - first:
        raise UsageError(f'invalid port "{text}": the two ranges differ in length', hint=PUBLISH_HINT)
    return [(f"{first + step}/{protocol.lower() or 'tcp'}", {"HostIp": host, "HostPort": str(low and low + step)})
            for step in range(last - first + 1)]


def check_flags(options: Options, cwd: str) -> None:
    """Nothing, when what --gpus, -v and -p say can be read. Raises UsageError."""
    parse_gpus(options.gpus, cdi=False)
    for volume in options.volume:
        parse_volume(volume, cwd)
    for port in options.publish:
        parse_publish(port)


def helper_interpreters(config: JSON) -> tuple[str, ...]:
    """Pythons to try for the helper: the one that the image's command names, then the usual names.

    >>> helper_interpreters({"Cmd": ["/opt/env/bin/python3.9", "-m", "cog.server.http"]})
    ('/opt/env/bin/python3.9', 'python', 'python3')
    """
    command = [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])]
    named = [word for word in command if os.path.basename(word).startswith("python")]
    return tuple(dict.fromkeys([*named[:1], "python", "python3"]))


def read_label(image: JSON, name: str) -> JSON | None:
    """The object in one of Cog's labels of an image, by its inspect document; {} for nonsense, None without it."""
    labels = (image.get("Config") or {}).get("Labels") or {}
    text = labels.get(f"run.cog.{name}") or labels.get(f"org.cogmodel.{name}")
    return (parse_document(text) or {}) if text else None


def model_label(name: str, image: JSON) -> JSON:
    """The config of the model in a named image, as far as its label can be read. Raises UsageError: no Cog model."""
    label = read_label(image, "config")
    if label is None:
        raise UsageError(f"image {name}: image is not a Cog model: it has no label run.cog.config",
                         hint="name an image that was built by `cog build` or cog.pyz")
    return label


def image_document(image: JSON) -> JSON | None:
    """The OpenAPI document in an image's label; None without a usable one."""
    document = read_label(image, "openapi_schema")
    return document if input_schema(document, training=True) is not None else None


def shares_network(network: str) -> bool:
    """Whether the container shares a network namespace, so that fixed ports may be taken.

    >>> shares_network("host"), shares_network("container:abc"), shares_network("none")
    (True, True, False)
    """
    return network == "host" or network.startswith("container:")


def plan_container(options: Options, runnable: Runnable, run: Run, *, environ: Mapping[str, str], cwd: str,
                   podman: bool) -> Plan:
    """What will be run for one prediction or training on a model, or to serve it.

    Raises UsageError: a bad --gpus or -v, an --upload-url for another server.
    """
    config, ports = runnable.config, run.ports
    inherited = dict(entry.partition("=")[::2] for entry in config.get("Env") or [])
    env = server_environment(inherited, runnable.environment, environ, ports.model, debug=options.debug,
                             serving=is_serving(options))
    plan = plan_bare(options, runnable, run, env, cwd=cwd, podman=podman)
    command = config.get("Cmd") or []
    is_server = command[-2:] == SERVER  # which takes flags
    if is_server or is_training(options):
        server = command if is_server else ["python", *SERVER]
        lane = f"http://127.0.0.1:{ports.lane}/{run.token}/up"
        plan.body["Cmd"] = [*server, *server_mode(options), *upload_flag(options, lane)]
    elif options.upload_url:
        raise UsageError("--upload-url: the image's command is not Cog's server", hint="leave it out")
    if is_serving(options):
        publish_ports(plan.body, [(f"{ports.model}/tcp", {"HostIp": options.host, "HostPort": str(options.port)})])
        plan.body["HostConfig"]["ExtraHosts"] = ["host.docker.internal:host-gateway"]
    return plan


def plan_bare(options: Options, runnable: Runnable, run: Run, env: Mapping[str, str], *, cwd: str,
              podman: bool) -> Plan:
    """The plan for whatever runs in a model's image, but for its command. Raises UsageError: a bad --gpus or -v."""
    project = runnable.project
    mounts = [{"Type": "bind", "Source": project.folder, "Target": "/src"}] if project and not project.copied else []
    by_label = not options.gpus and not options.cpu and bool((runnable.label.get("build") or {}).get("gpu"))
    body: JSON = {
        "Image": runnable.image.get("Id") or runnable.name,
        "Env": [f"{key}={value}" for key, value in env.items()],
        "Labels": {RUN_LABEL: run.name},
        "HostConfig": {
            "AutoRemove": True,
            "Init": True,
            "ShmSize": options.shm_size,
            "Binds": [parse_volume(volume, cwd) for volume in options.volume],
            "Mounts": mounts,
            "SecurityOpt": ["label=disable"] if project else [],
            "DeviceRequests": parse_gpus("all" if by_label else options.gpus, cdi=podman),
        },
    }
    if options.user:
        body["User"] = options.user
    if options.network:
        body["HostConfig"]["NetworkMode"] = options.network
    return Plan(run.name, run.token, runnable.name, body, run.ports, helper_interpreters(runnable.config), by_label,
                options.platform, project)


def command_environment(options: Options, user: Mapping[str, str], environ: Mapping[str, str], *,
                        terminal: bool) -> dict[str, str]:
    """The variables of a command in the model's environment: the user's, and ours that concern it."""
    ours = {"TERM": environ.get("TERM") or "xterm"} if terminal else {}
    log = {name: environ[name] for name in ("RUST_LOG",) if name in environ}
    return {"LOG_FORMAT": "console", **({"COG_LOG_LEVEL": "debug"} if options.debug else {}), **log, **ours, **user}


def plan_exec(options: Options, runnable: Runnable, run: Run, *, environ: Mapping[str, str], cwd: str, podman: bool,
              terminal: tuple[int, int] | None) -> Plan:
    """What will be run for a command in a model's image. Raises UsageError: a bad flag.

    `terminal`: the lines and columns of the user's, if the command gets one.
    """
    env = command_environment(options, runnable.environment, environ, terminal=terminal is not None)
    plan = plan_bare(options, runnable, run, env, cwd=cwd, podman=podman)
    plan.body.update({"Entrypoint": list(options.words), "Cmd": [], "Tty": terminal is not None, "OpenStdin": True,
                      "StdinOnce": True, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True})
    if terminal:
        plan.body["HostConfig"]["ConsoleSize"] = list(terminal)  # from Docker 23 on right from the start
    publish_ports(plan.body, [pair for text in options.publish for pair in parse_publish(text)])
    return plan


def publish_ports(body: JSON, ports: Iterable[tuple[str, JSON]]) -> None:
    """Add to the body of a create call: ports of the container, each with its place on the engine's machine."""
    bindings: dict[str, list[JSON]] = {}
    for port, place in ports:
        bindings.setdefault(port, []).append(place)
    body["ExposedPorts"] = {port: {} for port in bindings}
    body["HostConfig"]["PortBindings"] = bindings


def render_url(host: str, port: int) -> str:
    """Where a served model is found, for people.

    >>> render_url("127.0.0.1", 8393), render_url("::1", 1), render_url("0.0.0.0", 80)
    ('http://localhost:8393', 'http://[::1]:1', 'http://0.0.0.0:80 (here: http://localhost:80)')
    """
    local = f"http://localhost:{port}"
    if host == "127.0.0.1":
        return local
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return f"{url} (here: {local})" if host in ("0.0.0.0", "::") else url


def without_init(plan: Plan) -> Plan:
    """The same plan with no init program of the engine's in the container."""
    host = {key: value for key, value in plan.body["HostConfig"].items() if key != "Init"}
    return plan._replace(body={**plan.body, "HostConfig": host})


def copied_instead(plan: Plan) -> Plan:
    """The same plan with the project copied into the container, not mounted."""
    host = {**plan.body["HostConfig"], "Mounts": []}
    project = plan.project._replace(copied=True) if plan.project else None
    return plan._replace(body={**plan.body, "HostConfig": host}, project=project)


def development_image(project: str, digest: str) -> str:
    """The name of the image that is built for a project's folder, by the hash of what it is built from.

    >>> development_image("/home/me/My Model_2", "0123456789abcdef")
    'cog-my-model2:dev-0123456789ab'
    """
    name = os.path.basename(project).lower().replace(" ", "-")
    name = "".join(char for char in name if char in "abcdefghijklmnopqrstuvwxyz0123456789-")[:26].strip("-")
    name = name[4:] if name.startswith("cog-") else name
    return f"cog-{name or 'model'}:dev-{digest[:12]}"


def render_compact(document: JSON) -> str:
    """A JSON object as text without spaces, as labels and queries have it."""
    import json

    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def is_quiet(options: Options) -> bool:
    """Whether a build shows nothing but its failure."""
    return options.quiet or options.progress == "quiet"


def build_query(options: Options, environ: Mapping[str, str]) -> dict[str, str]:
    """The query of a build that its flags and this machine's proxies decide."""
    arguments = {key: environ[key] for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
                 for key in (name, name.upper()) if environ.get(key)}
    for argument in options.build_arg:
        name, equals, value = argument.partition("=")
        if equals or name in environ:
            arguments[name] = value if equals else environ[name]
    query = {"dockerfile": f"{BUILD_FOLDER}/Dockerfile", "buildargs": render_compact(arguments)}
    if options.platform:
        query["platform"] = options.platform
    if options.no_cache:
        query["nocache"] = "1"
    return query


def add_labels(labels: Mapping[str, str], query: Mapping[str, str], dockerfile: bytes, *,
               podman: bool) -> tuple[dict[str, str], bytes]:
    r"""The query of a build and its Dockerfile, with labels for the image.

    Podman's builder takes a $ in a label of the query for a variable, and loses line ends; in an argument it does not.
    What it has built with other arguments it takes for the same, which is why their names tell their values.

    >>> add_labels({"a": "$1"}, {"t": "x"}, b"FROM y\n", podman=True)[1]
    b'FROM y\nARG COG_LABEL_c1b43b36df09\nLABEL a="$COG_LABEL_c1b43b36df09"\n'
    """
    if not podman:
        return {**query, "labels": render_compact(dict(labels))}, dockerfile
    import hashlib
    import json

    arguments, line = json.loads(query.get("buildargs", "{}")), ""
    for name, value in labels.items():
        argument = f"COG_LABEL_{hashlib.sha256(value.encode()).hexdigest()[:12]}"
        arguments[argument] = value
        dockerfile += f"ARG {argument}\n".encode()
        line += f' {name}="${argument}"'
    dockerfile += f"LABEL{line}\n".encode()
    return {**query, "buildargs": render_compact(arguments)}, dockerfile


def build_digest(files: Mapping[str, Contents], *words: str) -> str:
    """The hash of all that decides an image: the files of its context, and words such as the platform."""
    import hashlib

    found = hashlib.sha256()
    for part in (*words, *(part for name in sorted(files) for part in (name, files[name]))):
        if isinstance(part, OwnFile):
            found.update(b"%d:" % os.path.getsize(part.path))
            for piece in part.pieces():
                found.update(piece)
        else:
            data = part if isinstance(part, bytes) else part.encode()
            found.update(b"%d:%b" % (len(data), data))
    return found.hexdigest()


def describe_plan(plan: Plan, engine: str, variables: Mapping[str, str]) -> JSON:
    """What --dry-run shows of a plan, the values of the user's variables left out."""
    names = [entry.partition("=")[0] for entry in plan.body["Env"]]
    shown = [f"{name}=***" if name in variables else entry for name, entry in zip(names, plan.body["Env"])]
    command = [word.replace(plan.token, "***") for word in plan.body.get("Cmd", [])]
    body = {**plan.body, "Env": shown, **({"Cmd": command} if command else {})}
    return {"engine": engine, "image": plan.image, "container": body}


# == 11. Streams ==============================================================


# -- frames: attach streams, the helper's channels, HTTP heads, server-sent events

# In: bytes as they come, cut anywhere. Out: values. Every parser has feed(data) and close(); close() tells a
# stream that ended in the middle of something, and only what the parser cannot yet tell is kept.

LINK_HEADER = 9  # bytes before a frame of the helper's stream: kind, channel, length of the payload
LINK_HELLO, LINK_OPEN, LINK_DATA, LINK_EOF, LINK_RESET, LINK_CREDIT, LINK_EVENT, LINK_CONTROL = range(1, 9)
LINK_MESSAGE_LIMIT = 16 << 20  # bytes of a frame that is no DATA, which alone is handed out in parts
HEAD_LIMIT = 1 << 16  # bytes of an HTTP head, or of a line between chunks
EVENT_LIMIT = 256 << 20  # bytes of one server-sent event


class Framed:
    """What is common to streams of frames, each a header of a fixed size before its payload."""

    header_size = 0
    whose = ""

    def __init__(self) -> None:
        self._header = bytearray()
        self._left, self._inside = 0, False  # bytes of the payload that are to come; whether its header is here

    def _begin(self, header: bytes) -> int:
        """The length of the payload behind a header. Raises StreamError: it is none."""
        raise NotImplementedError

    def _split(self, data: bytes | memoryview) -> Iterator[tuple[bytes | memoryview, bool]]:
        """The payloads in parts, with whether a part ends its frame; an empty one is one empty part."""
        at = 0
        while at < len(data):
            if self._inside:
                part = data[at:at + self._left]
                self._left -= len(part)
            else:
                part = data[at:at + self.header_size - len(self._header)]
                self._header += part
            at += len(part)
            if self._inside:
                self._inside = self._left > 0
                yield part, not self._inside
            elif len(self._header) == self.header_size:
                self._left = self._begin(bytes(self._header))
                self._header.clear()
                self._inside = self._left > 0
                if not self._inside:
                    yield b"", True

    def close(self) -> None:
        """The stream has ended. Raises StreamError: in the middle of a frame."""
        if self._header or self._inside:
            raise StreamError(f"{self.whose} stream was cut in the middle of a frame")


class FrameParser(Framed):
    """Attach streams: frames of an 8-byte header (stream, length) to (stream, payload), 1 stdout, 2 stderr.

    Neighbours of one stream come joined, a big frame in parts.
    Source: Docker Engine API 1.41, ContainerAttach, "Stream format".
    """

    header_size, whose = 8, "the engine's"

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """What these bytes complete. Raises StreamError: not such a stream, or the engine reports its failure.

        >>> FrameParser().feed(bytes([1, 0, 0, 0, 0, 0, 0, 2]) + b"hi")
        [(1, b'hi')]
        """
        import itertools

        parts = ((self._stream, part) for part, _ in self._split(memoryview(data)) if part)
        found = []
        for stream, group in itertools.groupby(parts, lambda pair: pair[0]):
            payload = b"".join([part for _, part in group])
            if stream == 3:
                raise StreamError(f"the engine broke the stream off: {payload[:1000].decode('utf-8', 'replace')}")
            found.append((stream, payload))
        return found

    def _begin(self, header: bytes) -> int:
        self._stream = header[0]
        if self._stream > 3 or header[1:4] != b"\0\0\0":
            raise StreamError(f"the engine's stream holds no frame header: {header!r}")
        return int.from_bytes(header[4:], "big")


def link_frame(kind: int, channel: int, payload: bytes = b"") -> bytes:
    """One frame of the helper's stream.

    >>> link_frame(LINK_EOF, 258)
    b'\\x04\\x00\\x00\\x01\\x02\\x00\\x00\\x00\\x00'
    """
    return bytes((kind,)) + channel.to_bytes(4, "big") + len(payload).to_bytes(4, "big") + payload


class LinkParser(Framed):
    """The helper's stream to (kind, channel, payload); the payload of DATA comes in parts, any other whole."""

    header_size, whose = LINK_HEADER, "the helper's"

    def __init__(self, *, limit: int = LINK_MESSAGE_LIMIT) -> None:
        super().__init__()
        self._limit = limit
        self._kind, self._channel = 0, 0
        self._message = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """What these bytes complete. Raises StreamError: not such a stream."""
        found: list[tuple[int, int, bytes]] = []
        for part, is_last in self._split(data):
            if self._kind == LINK_DATA:
                if part:
                    found.append((self._kind, self._channel, bytes(part)))
                continue
            self._message += part
            if is_last:
                found.append((self._kind, self._channel, bytes(self._message)))
                self._message.clear()
        return found

    def _begin(self, header: bytes) -> int:
        self._kind, self._channel = header[0], int.from_bytes(header[1:5], "big")
        length = int.from_bytes(header[5:], "big")
        if not LINK_HELLO <= self._kind <= LINK_CONTROL or (self._kind != LINK_DATA and length > self._limit):
            raise StreamError(f"the helper's stream holds no frame header: {header!r}")
        return length


class Head(NamedTuple):
    """An HTTP message's start line, in its three parts, and headers by lower-case name (repeated ones joined)."""

    start: tuple[str, str, str]
    headers: dict[str, str]


class Body(NamedTuple):
    """Some of a message's body, freed of chunk marks."""

    data: bytes


class End(NamedTuple):
    """A message is complete."""


def parse_head(text: bytes) -> Head:
    """The lines before a message's body as a Head. Raises StreamError: not HTTP/1.x.

    >>> parse_head(b"GET / HTTP/1.1\\r\\nHost: model").headers
    {'host': 'model'}
    """
    first, *lines = text.decode("iso-8859-1").replace("\r\n", "\n").split("\n")
    start = first.split(" ", 2)
    if len(start) == 2:
        start.append("")
    if len(start) != 3 or not (start[0].startswith("HTTP/1.") or start[2].startswith("HTTP/1.")):
        raise StreamError(f"no HTTP message begins with {first[:80]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip() or not name:
            raise StreamError(f"no HTTP header: {line[:80]!r}")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Head((start[0], start[1], start[2]), headers)


def render_head(start: str, headers: Iterable[tuple[str, str]]) -> bytes:
    r"""The head of an HTTP message, its end included. Raises UsageError: a value cannot be sent in one.

    >>> render_head("GET / HTTP/1.1", [("Host", "model")])
    b'GET / HTTP/1.1\r\nHost: model\r\n\r\n'
    """
    lines = [start, *(f"{name}: {value}" for name, value in headers), "", ""]
    text = "\r\n".join(lines)
    if text.count("\r") + text.count("\n") != 2 * (len(lines) - 1) or not text.isascii():
        raise UsageError(f"{start.partition('?')[0]}: a value cannot be sent in an HTTP header")
    return text.encode()


def chunk_body(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Pieces in HTTP's chunked coding.

    >>> b"".join(chunk_body([b"hi", b""]))
    b'2\\r\\nhi\\r\\n0\\r\\n\\r\\n'
    """
    for piece in pieces:
        if piece:
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def parse_length(text: str) -> int:
    """A Content-Length in bytes. Raises StreamError: no number, or several that differ.

    >>> parse_length("5, 5")
    5
    """
    found = {part.strip() for part in text.split(",")}
    length = found.pop()
    if found or not (length.isascii() and length.isdigit()) or len(length) > 18:
        raise StreamError(f"no Content-Length: {text[:80]!r}")
    return int(length)


class MessageParser:
    """HTTP/1.x messages of one connection to Head, Body... and End, one message after another.

    `_framing` says what comes next: "head", "length" (of a body), "size" (of a chunk), "chunk", "gap" (after a chunk),
    "trailer", or "rest" (a body that only the connection's end ends).
    """

    unframed = "length"  # the framing of a body with neither chunks nor a length: one of 0, or "rest"

    def __init__(self, *, limit: int = HEAD_LIMIT) -> None:
        self._limit = limit
        self._framing, self._left = "head", 0
        self._line = bytearray()

    def feed(self, data: bytes) -> list[Head | Body | End]:
        """What these bytes complete. Raises StreamError: not HTTP/1.x, or a head that is too long."""
        found: list[Head | Body | End] = []
        while data:
            if self._framing in ("length", "chunk", "rest"):
                data = self._feed_body(data, found)
            else:
                data = self._feed_line(data, found)
        return found

    def _feed_body(self, data: bytes, found: list[Head | Body | End]) -> bytes:
        if self._framing == "rest" or len(data) < self._left:
            self._left -= len(data)
            found.append(Body(data))
            return b""
        part, data = (data, b"") if len(data) == self._left else (data[:self._left], data[self._left:])
        found.append(Body(part))
        if self._framing == "length":
            found.append(End())
        self._framing = "head" if self._framing == "length" else "gap"
        return data

    def _feed_line(self, data: bytes, found: list[Head | Body | End]) -> bytes:
        """Take up to the end of a head or a line of the chunked coding; what is left of the data."""
        kept = len(self._line)
        self._line += data
        end = self._find_end(max(0, kept - 3))
        if (end < 0 and len(self._line) > self._limit) or end > self._limit:
            raise StreamError(f"an HTTP head of more than {self._limit} bytes")
        if end < 0:
            return b""
        text, data = bytes(self._line[:end]), bytes(self._line[end:])
        self._line.clear()
        if self._framing == "head":
            if text.strip():
                found += self.begin(parse_head(text.rstrip(b"\r\n")))
        else:
            self._feed_chunk_line(text.strip(), found)
        return data

    def _find_end(self, start: int) -> int:
        """The index behind a head, or behind a line of the chunked coding; -1 while it is not complete."""
        if self._framing != "head" or self._line.startswith((b"\n", b"\r\n")):
            return self._line.find(b"\n") + 1 or -1
        ends = [self._line.find(mark, start) + len(mark) for mark in (b"\n\r\n", b"\n\n") if mark in self._line[start:]]
        return min(ends, default=-1)

    def begin(self, head: Head) -> list[Head | Body | End]:
        """What a head means; what is fed then is its body."""
        if "chunked" in head.headers.get("transfer-encoding", "").lower():
            self._framing = "size"
        elif "content-length" in head.headers:
            self._framing, self._left = "length", parse_length(head.headers["content-length"])
        else:
            self._framing, self._left = self.unframed, 0
        if self._framing == "length" and not self._left:
            self._framing = "head"
            return [head, End()]
        return [head]

    def _feed_chunk_line(self, line: bytes, found: list[Head | Body | End]) -> None:
        if self._framing == "gap":
            if line:
                raise StreamError("an HTTP chunk is longer than it says")
            self._framing = "size"
        elif self._framing == "size":
            size = line.split(b";")[0].strip()
            if not size or len(size) > 15 or size.strip(b"0123456789abcdefABCDEF"):
                raise StreamError(f"no size of an HTTP chunk: {line[:80]!r}")
            self._left = int(size, 16)
            self._framing = "chunk" if self._left else "trailer"
        elif not line:
            self._framing = "head"
            found.append(End())

    def close(self) -> list[Head | Body | End]:
        """The connection has ended: the End that this means, if any. Raises StreamError: in the middle of a message."""
        if self._framing == "rest":
            self._framing = "head"
            return [End()]
        if self._framing != "head" or self._line.strip():
            raise StreamError("an HTTP message was cut short")
        return []


class RequestParser(MessageParser):
    """Requests as a server sees them.

    >>> RequestParser().feed(b"PUT /x HTTP/1.1\\r\\nContent-Length: 2\\r\\n\\r\\nhi")[1:]
    [Body(data=b'hi'), End()]
    """


class ReplyParser(MessageParser):
    """Replies as a client sees them; `method` is the request's. Interim ones (1xx) are left out.

    >>> ReplyParser("GET").feed(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")[0].start[1]
    '204'
    """

    unframed = "rest"

    def __init__(self, method: str, *, limit: int = HEAD_LIMIT) -> None:
        super().__init__(limit=limit)
        self._method = method

    def _find_end(self, start: int) -> int:
        """As for any message. Raises StreamError: no reply begins so, and who sent it may wait for an answer."""
        if self._framing == "head" and not b"HTTP/".startswith(self._line.lstrip()[:5]):
            raise StreamError(f"no HTTP message begins with {bytes(self._line[:80])!r}")
        return super()._find_end(start)

    def begin(self, head: Head) -> list[Head | Body | End]:
        """What a head means; what is fed then is its body. Raises StreamError: it has no status."""
        status = head.start[1]
        if len(status) != 3 or not (status.isascii() and status.isdigit()):
            raise StreamError(f"no HTTP status: {status[:80]!r}")
        if self._method == "HEAD" or status in ("204", "304"):
            return [head, End()]
        return super().begin(head) if not status.startswith("1") else []


class ServerEvent(NamedTuple):
    """A server-sent event."""

    name: str
    data: str


class EventParser:
    """Server-sent events, cut anywhere, to ServerEvent values.

    Source: HTML standard, 9.2.6 "Interpreting an event stream"; ids and retry times mean nothing here.
    """

    def __init__(self, *, limit: int = EVENT_LIMIT) -> None:
        self._limit = limit
        self._line = bytearray()
        self._after_return = False  # the last byte was a CR: a LF that follows belongs to it
        self._begun = False  # something was seen: a byte order mark would be data
        self._name, self._size = "", 0
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[ServerEvent]:
        """The events that these bytes complete. Raises StreamError: one is too long.

        >>> EventParser().feed(b"event: output\\ndata: a\\ndata: b\\n\\n")
        [ServerEvent(name='output', data='a\\nb')]
        """
        if self._after_return and data[:1] == b"\n":
            data = data[1:]
            self._after_return = False
        if not data:
            return []
        self._after_return = data.endswith(b"\r")
        *lines, rest = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        found: list[ServerEvent] = []
        for line in lines:
            self._line += line
            whole = bytes(self._line)
            self._line.clear()
            self._take(whole, found)
        self._line += rest
        if self._size + len(self._line) > self._limit:
            raise StreamError(f"a server-sent event of more than {self._limit} bytes")
        return found

    def _take(self, line: bytes, found: list[ServerEvent]) -> None:
        text = line.decode("utf-8", "replace")
        if not self._begun and text.startswith("\ufeff"):
            text = text[1:]
        self._begun = True
        field, _, value = text.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if field == "data":
            self._data.append(value)
            self._size += len(value)
        elif field == "event":
            self._name = value
        elif not text:
            if self._data:
                found.append(ServerEvent(self._name or "message", "\n".join(self._data)))
            self._name, self._data, self._size = "", [], 0

    @property
    def begun(self) -> str:
        """The name of the event whose data is coming."""
        return self._name

    def close(self) -> None:
        """The stream has ended. Raises StreamError: in the middle of an event."""
        if self._line or self._data:
            raise StreamError("the model's event stream was cut in the middle of an event")


RUNTIME_HEAD = (rb"\x1b\[2m[-\d:.TZ]{20,40}\x1b\[0m \x1b\[\d+m *(\w+)\x1b\[0m "
                rb"\x1b\[2m(coglet[\w:]*)\x1b\[0m\x1b\[2m:\x1b\[0m ")
RUNTIME_LINE = RUNTIME_HEAD + rb"([^\n]*?)( \x1b\[3m\w+\x1b\[0m\x1b\[2m=\x1b\[0m[^\n]*)?\n"
RUNTIME_FILE = rb"\x1b\[3mfilename\x1b\[0m\x1b\[2m=\x1b\[0m([^\x1b]+?)(?: \x1b|\Z)"  # an output file, in its notice
FILES_KNOWN = 1 << 16  # so many output files are kept in mind
RUNTIME_MARK = b"\x1b[2m2"  # begins a line of the runtime's own log
RUNTIME_NAGS = (b"is deprecated; use run() instead", b"is deprecated; use BaseRunner instead",
                b"  import coglet; coglet.server._run_worker()")  # as Python from 3.13 on ends such a warning
SPOKEN_LINE = RUNTIME_HEAD + (rb"([^\x1b]*)\x1b\[3mprediction_id\x1b\[0m\x1b\[2m=\x1b\[0m\S+ \x1b\[3msource\x1b"
                              rb"[^\n]*\n")
SPOKEN_HELD = 1 << 16  # bytes of what a model printed at once that are held until its line in that log is whole
WHITE = b" \t\n\r\x0b\x0c"


class RuntimeLog:
    r"""What a 0.17 or newer runtime prints, freed of time stamps: the model's own lines as it printed them.

    >>> RuntimeLog().feed(b"\x1b[2m2026-11-24T16:19:23.714352Z\x1b[0m \x1b[32m INFO\x1b[0m \x1b[2mcoglet::setup\x1b[0m"
    ...                   b"\x1b[2m:\x1b[0m loading \x1b[3msource\x1b[0m\x1b[2m=\x1b[0mStdout\n")
    b'loading\n'
    """

    def __init__(self) -> None:
        self.files: list[str] = []  # the names of the output files, in the model's order
        self._held = b""
        self._speaking = False  # in the middle of what a model printed during a prediction

    def feed(self, data: bytes, keep: Callable[[bytes], None] | None = None) -> bytes:
        """The next bytes to show; a line of the runtime's is held until it is whole.

        With `keep` given, that gets what the model prints during a prediction, and it is not shown.
        """
        data, self._held = self._held + data, b""
        if keep is not None and (self._speaking or b"coglet::prediction\x1b" in data):
            data = self._take_spoken(data, keep)
        if b"\x1b" not in data:
            return data
        import re

        start = data.rfind(b"\n") + 1
        last = data[start:]
        if (last[:5] == RUNTIME_MARK or RUNTIME_MARK.startswith(last)) and len(last) < 1 << 16:
            data, self._held = data[:start], last + self._held
        return re.sub(RUNTIME_LINE, self._render, data)

    def _take_spoken(self, data: bytes, keep: Callable[[bytes], None]) -> bytes:
        """The rest of the data. The runtime writes no escape character of the model's: the first one ends its text."""
        import re

        spoken: list[bytes] = []

        def take(line: Any) -> bytes:
            if line[1] != b"INFO" or line[2] != b"coglet::prediction":
                return bytes(line[0])
            spoken.append(line[3].removesuffix(b" "))
            return b""

        if self._speaking:
            text, escape, fields = data.partition(b"\x1b")
            keep(text)
            _, newline, data = fields.partition(b"\n")
            self._speaking = not newline
            self._held = escape + fields if escape and not newline else b""
        data = re.sub(SPOKEN_LINE, take, data)
        if spoken:
            keep(unescape_controls(b"\n".join([*spoken, b""])))
        open_line = re.search(RUNTIME_HEAD + rb"([^\x1b]*)(\x1b[^\n]*)?\Z", data)
        if open_line and open_line[2] == b"coglet::prediction" and open_line[1] == b"INFO":
            data, self._held = data[:open_line.start()], open_line[0]
            if len(self._held) > SPOKEN_HELD and not open_line[4]:
                keep(unescape_controls(open_line[3]))
                self._held, self._speaking = b"", True
        return data

    def _render(self, line: Any) -> bytes:
        level, target, text, fields = line.groups()
        if text.endswith(RUNTIME_NAGS):
            return b""
        if text == b"FileOutput received":
            self._note_file(fields or b"")
            return b""
        own = target in (b"coglet::setup", b"coglet::user", b"coglet::prediction")
        return bytes(text + b"\n" if own else level.lower() + b": " + text + b"\n")

    def _note_file(self, fields: bytes) -> None:
        import re

        found = re.search(RUNTIME_FILE, fields)
        if found and len(self.files) < FILES_KNOWN:
            self.files.append(found[1].rpartition(b"/")[2].decode("utf-8", "replace"))


def unescape_controls(text: bytes) -> bytes:
    r"""The text with the control characters that the runtime's own log spells out.

    >>> unescape_controls(b"\\x1b[1mbold")
    b'\x1b[1mbold'
    """
    import re

    return re.sub(rb"\\x([01][0-9a-f]|7f)", lambda found: bytes([int(found[1], 16)]), text) if b"\\x" in text else text


class Spoken:
    """The last of what a model printed in a prediction, as the runtime's own log has it: with no white space around.

    `count` is how many bytes that are no white space there were in all.
    """

    def __init__(self) -> None:
        self.count = 0
        self._older, self._newer = self._new_file(), self._new_file()

    @staticmethod
    def _new_file() -> Any:
        import tempfile

        return tempfile.SpooledTemporaryFile(max_size=1 << 20)

    def add(self, text: bytes) -> None:
        """Keep some more."""
        self.count += count_black(text)
        if not self._newer.closed:
            self._newer.write(text)

    def turn(self) -> None:
        """Forget what came before the last turn."""
        self._older.close()
        self._older, self._newer = self._newer, self._new_file()

    def last(self, count: int) -> bytes:
        """The end of it, from so many bytes on that are no white space."""
        self._older.seek(0)
        self._newer.seek(0)
        text = bytes(self._older.read() + self._newer.read())
        start = len(text)
        while start and count > 0:
            size = min(start, 1 << 12)
            black = count_black(text[start - size:start])
            if black > count and size > 1:
                size = max(1, min(size // 2, count))
                black = count_black(text[start - size:start])
            start, count = start - size, count - black
        return text[start:]

    def close(self) -> None:
        """Remove it."""
        self._older.close()
        self._newer.close()


def count_black(text: bytes) -> int:
    """How many bytes are no white space.

    >>> count_black(b" a b\\n")
    2
    """
    return len(text.translate(None, WHITE))


# -- JSON: documents with data URLs in them, spilled to files as they come
# A model's answer may hold gigabytes of files as base64 text. An unescaped `"data:` can only open a string, so no
# tokenizer is needed: what is no base64 data URL is copied into a skeleton, each base64 data URL is decoded into a
# file as it comes and leaves a short placeholder, and the skeleton is parsed when all is there.

JSON_LIMIT = 256 << 20  # bytes of a document that are held in memory at most
DATA_HEAD = 256  # the longest `"data:...;base64,` that is looked for
DATA_SLICE = 1 << 17  # characters of base64 that are decoded at a time


class SpillFile(Protocol):
    """What a data URL is decoded into: an open binary file, or something like one."""

    def write(self, data: bytes, /) -> object: ...
    def read(self, size: int = -1, /) -> bytes: ...
    def seek(self, position: int, /) -> object: ...
    def close(self) -> object: ...


class Blob(NamedTuple):
    """A decoded base64 data URL: it stands in the document where the text stood."""

    mime: str
    file: SpillFile
    size: int  # bytes


def blob_text(blob: Blob) -> str:
    """The data URL that a Blob was read from."""
    from binascii import b2a_base64

    blob.file.seek(0)
    return f"data:{blob.mime};base64,{b2a_base64(blob.file.read(), newline=False).decode()}"


class SpillReader:
    """A JSON object in pieces, its base64 data URLs decoded into files: feed every piece, then close.

    `open_file` makes the file for a data URL of a MIME type. A data URL that turns out to be no base64, or that is a
    key, stays text. Text beyond `limit` bytes, a cut document and what is no JSON object are StreamErrors.
    """

    def __init__(self, open_file: Callable[[str], SpillFile], limit: int = JSON_LIMIT) -> None:
        import re

        self._open_file, self._limit = open_file, limit
        self._head_form = re.compile(rb'"data:((?:[^",;\\]|\\/|;(?!base64,))*);base64,')
        self._buffer, self._position = bytearray(), 0
        self._skeleton = bytearray()
        self._tag = os.urandom(8).hex() + ":"
        self._blobs: list[Blob] = []
        self._file: SpillFile | None = None
        self._mime, self._head, self._size = "", b"", 0

    def feed(self, data: bytes) -> None:
        """Take the next piece. Raises StreamError: more text than the limit."""
        self._buffer += data
        self._advance(ended=False)

    def close(self) -> JSON:
        """The document, with a Blob for each data URL. Raises StreamError: cut, or not a JSON object."""
        self._advance(ended=True)
        if self._file is not None:
            raise self._failure("the model's answer ends inside a file")
        try:
            document = self._restore(load_json(self._skeleton))
        except ValueError as error:
            raise self._failure(f"the model's answer is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise self._failure("the model's answer is not a JSON object")
        return document

    def _failure(self, message: str) -> StreamError:
        """The error to raise, once the files are closed."""
        for file in [blob.file for blob in self._blobs] + ([self._file] if self._file is not None else []):
            file.close()
        self._blobs, self._file = [], None
        return StreamError(message)

    def _advance(self, *, ended: bool) -> None:
        while self._decode(ended) if self._file is not None else self._copy(ended):
            pass
        del self._buffer[:self._position]
        self._position = 0

    def _keep(self, text: bytes) -> None:
        self._skeleton += text
        if len(self._skeleton) > self._limit:
            raise self._failure(f"the model's answer holds more than {self._limit >> 20} MiB of text")

    def _copy(self, ended: bool) -> bool:
        """Copy text up to the next data URL; False when more bytes are needed."""
        buffer, position = self._buffer, self._position
        start = buffer.find(b'"data:', position)
        if start < 0:
            start = len(buffer) if ended else max(position, len(buffer) - 5)  # '"data' may be cut
        self._keep(bytes(buffer[position:start]))
        self._position = start
        if len(buffer) - start < 6:
            return False
        escaped = count_slashes(self._skeleton, len(self._skeleton)) % 2 == 1  # this is inside a string
        head = None if escaped else self._head_form.match(buffer, start, start + DATA_HEAD)
        if head:
            self._head, self._position, self._size = head[0], head.end(), 0
            self._mime = head[1].replace(b"\\/", b"/").decode("utf-8", "replace")
            self._file = self._open_file(self._mime)
        elif not ended and not escaped and len(buffer) - start < DATA_HEAD and buffer.find(b'"', start + 1) < 0:
            return False
        else:
            self._keep(b'"data:')
            self._position = start + 6
        return True

    def _decode(self, ended: bool) -> bool:
        """Decode base64 up to the closing quote; False when more bytes are needed."""
        position, quote = self._position, self._buffer.find(b'"', self._position)
        limit = len(self._buffer) if quote < 0 else quote
        if self._buffer.find(b"\\", position, limit) >= 0:
            limit = self._unescape(limit, whole=quote >= 0 or ended)
            if limit < 0:
                return self._give_back()
        count = limit - self._position
        if quote < 0:
            self._spill(self._position + (max(count - 4, 0) & ~3))  # the last four may be padding
            return self._file is None
        if count & 3 == 0:
            tail = bytes(self._buffer[max(self._position, limit - 2):limit])
            self._spill(limit, padding=len(tail) - len(tail.rstrip(b"=")))
        elif self._file is not None:
            self._give_back()
        if self._file is not None:
            self._keep(f'"{self._tag}{len(self._blobs)}"'.encode())
            self._blobs.append(Blob(self._mime, self._file, self._size))
            self._file, self._position = None, quote + 1
        return True

    def _unescape(self, limit: int, *, whole: bool) -> int:
        r"""Undo `\/` and `\u002B` in place, up to `limit`; the new end of what can be decoded, -1: not base64."""
        import re

        buffer, position = self._buffer, self._position
        cut = limit if whole else buffer.find(b"\\", max(position, limit - 5), limit)
        cut = limit if cut < 0 else cut  # else the last escape may be cut: it waits
        text = bytes(buffer[position:cut]).replace(b"\\/", b"/")
        text = re.sub(rb"\\u00([2-7][0-9a-fA-F])", lambda found: bytes([int(found[1], 16)]), text)
        if b"\\" in text or b'"' in text:
            return -1
        self._position = cut - len(text)
        buffer[self._position:cut] = text
        return cut

    def _spill(self, stop: int, padding: int = 0) -> None:
        """Decode up to `stop`, of which so many characters are padding; give the text back if it is no base64."""
        from binascii import Error, a2b_base64

        while self._position < stop and self._file is not None:
            cut = min(self._position + DATA_SLICE, stop)
            try:
                with memoryview(self._buffer) as view, view[self._position:cut] as piece:
                    data = a2b_base64(piece)
            except Error:
                data = b""
            if len(data) != (cut - self._position) // 4 * 3 - (padding if cut == stop else 0):  # bad ones are skipped
                self._give_back()
            else:
                self._file.write(data)
                self._size += len(data)
                self._position = cut

    def _give_back(self) -> bool:
        """Text after all: what was decoded gives its text back."""
        from binascii import b2a_base64

        assert self._file is not None
        self._file.seek(0)
        self._keep(self._head)
        while True:
            data = self._file.read(49152)
            if not data:
                break
            self._keep(b2a_base64(data, newline=False))
        self._file.close()
        self._file = None
        return True

    def _restore(self, value: Any) -> Any:
        """The parsed skeleton with a Blob for each placeholder."""
        if isinstance(value, str):
            return self._blobs[int(value[len(self._tag):])] if value.startswith(self._tag) else value
        if isinstance(value, list):
            return [self._restore(item) for item in value]
        if isinstance(value, dict):
            return {self._restore_key(key): self._restore(item) for key, item in value.items()}
        return value

    def _restore_key(self, key: str) -> str:
        return blob_text(self._restore(key)) if key.startswith(self._tag) else key


class LogTail:
    """The log inside a run of responses, each with all of it so far: only what is new goes to `show`.

    What comes is the text of a JSON string as it stands in the response, escapes and all. Nothing is shown unless it is
    `wanted`: the log of an older runtime has come already, on the container's streams.
    """

    def __init__(self, show: Callable[[bytes], None]) -> None:
        self.show, self.wanted = show, False
        self.count = 0  # bytes of what was shown that are no white space
        self._shown = 0  # bytes of the JSON text that were dealt with
        self._rest = b""  # the beginning of a character or an escape

    def feed(self, text: bytes, at: int) -> None:
        """Take some bytes of the string, which begin at a place in it. Responses may come side by side."""
        new = text[max(0, self._shown - at):]
        if new and self.wanted:
            self._shown = at + len(text)
            text = self._rest + new
            end = find_whole_text(text)
            self._rest = text[end:]
            text = decode_json_text(text[:end])
            self.count += count_black(text)
            self.show(text)


def count_slashes(text: bytes | bytearray, end: int, first: int = 0) -> int:
    """How many backslashes stand directly before a place in the text, none before the `first` byte looked at.

    >>> count_slashes(bytes([65, 92, 92, 34]), 3)
    2
    """
    start = end
    while start > first and text[start - 1] == 92:
        start -= 1
    return end - start


def find_whole_text(text: bytes) -> int:
    """How many bytes of a JSON string's text end with a whole character and a whole escape.

    >>> find_whole_text(b"ab" + bytes([92]) + b"u00"), find_whole_text(b"abc"), find_whole_text(bytes([65, 0xC3]))
    (2, 3, 1)
    """
    slash = text.rfind(bytes([92]), max(0, len(text) - 6))
    length = 6 if text[slash + 1:slash + 2] == b"u" else 2
    if slash >= 0 and count_slashes(text, slash) % 2 == 0 and len(text) - slash < length:
        return slash
    for back in range(1, min(4, len(text)) + 1):
        lead = text[-back]
        if lead >= 0xC0:
            return len(text) - back if back < (2 if lead < 0xE0 else 3 if lead < 0xF0 else 4) else len(text)
        if lead < 0x80:
            break
    return len(text)


def decode_json_text(text: bytes) -> bytes:
    """The bytes that the text between the quotes of a JSON string stands for; itself, if it is no such text.

    >>> decode_json_text(b"a" + bytes([92]) + b"tb")
    b'a\\tb'
    """
    import json

    try:
        decoded: str = json.loads(b'"' + text + b'"', strict=False)
    except ValueError:
        return text
    return decoded.encode("utf-8", "replace")


class JSONReader(Protocol):
    """What a response is fed to."""

    def feed(self, data: bytes, /) -> None:
        """Take the next piece."""

    def close(self) -> JSON:
        """The document. Raises StreamError."""


class HookReader:
    """Reads one response as `reader` does, but its log, of whatever length, goes to `logs` and is left out.

    The log is the string under the key `logs` of the object itself, wherever that stands.
    """

    def __init__(self, reader: JSONReader, logs: LogTail) -> None:
        self._reader, self._logs = reader, logs
        self._depth = 0  # brackets that are open
        self._quoted = self._escaped = self._inside = False  # in a string; behind a backslash in it; it is the log
        self._string = self._key = b""  # the beginning of the object's last string, and of its last key
        self._at = 0  # bytes of the string that went to `logs`
        self._over = False  # the log has been read: nothing more is looked at

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises StreamError."""
        kept, start, position = bytearray(), 0, 0
        while position < len(data) and not self._over:
            if not self._quoted:
                position = self._find_string(data, position)
                if self._inside:
                    kept += data[start:position]
                    start = position
                continue
            end = self._find_quote(data, position)
            text, position = data[position:end], end
            if self._inside:
                self._logs.feed(text, self._at)
                self._at, start = self._at + len(text), end
            elif self._depth == 1:
                self._string = (self._string + text)[:8]
            if end < len(data):
                self._over, self._quoted = self._inside, False
                position += 1
        self._reader.feed(bytes(kept) + data[start:] if kept or start else data)

    def _find_string(self, data: bytes, position: int) -> int:
        """The place behind the quote that opens the next string, or the end."""
        import re

        while True:
            found = re.compile(rb'["{}\[\]:,]' if self._depth == 1 else rb'["{}\[\]]').search(data, position)
            if not found:
                return len(data)
            position, token = found.end(), found[0]
            if token == b'"':
                self._quoted, self._inside = True, self._depth == 1 and self._key == b"logs"
                self._string = b""
                return position
            if token in b"{}[]":
                self._depth += 1 if token in b"{[" else -1
            else:
                self._key = self._string if token == b":" else b""

    def _find_quote(self, data: bytes, position: int) -> int:
        """The place of the quote that closes the string, or the end."""
        first = position + self._escaped
        quote = data.find(b'"', first)
        while quote >= 0 and count_slashes(data, quote, first) % 2:
            quote = data.find(b'"', quote + 1)
        self._escaped = quote < 0 and bool(count_slashes(data, len(data), first) % 2)
        return len(data) if quote < 0 else quote

    def close(self) -> JSON:
        """The document without its log. Raises StreamError."""
        return self._reader.close()


class Skipped:
    """A JSONReader of what nobody needs."""

    def feed(self, data: bytes) -> None:
        """Take no notice of them."""

    def close(self) -> JSON:
        """Nothing."""
        return {}


# == 12. Engine ===============================================================
# In: where an engine is (flag, environment, docker contexts) and what it is asked, as the API's own JSON.
# Out: that API's answers; one method per call, named as the call. Streams come back as Transports, unread.
# Nothing here prints or decides: errors carry the engine's own words, the caller knows what they mean.
# One plain connection is kept between calls. Every hijacked stream, upload and waiting call has its own.

if TYPE_CHECKING:
    import socket

OLDEST_API, NEWEST_API = (1, 41), (1, 51)  # Docker 20.10; the newest whose replies were looked at
DIAL_TIMEOUT, CALL_TIMEOUT = 15.0, 300.0  # seconds: to open a connection; between two pieces of an ordinary answer
TUNNEL_TIMEOUT = 30.0  # seconds that ssh may take until the engine's socket is forwarded
EXPORT_LIMIT, STEP_LIMIT = 60.0, 8.0  # seconds in which an engine ends an export, and Podman a step, of nobody's
KEPT_IDLE = 5.0  # seconds after which a kept connection is not trusted any more
BLOCK = 1 << 16  # bytes that are read or sent at once
ANSWER_LIMIT = 64 << 20  # bytes of one JSON answer, or of one line of a stream
SSH_OPTIONS = ("-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-o", "StreamLocalBindUnlink=yes",
               "-o", "ControlPath=none", "-o", "ServerAliveInterval=15", "-o", "ConnectTimeout=15")
NO_ENGINE_HINT = "a model's directory also runs without an engine: --engine none"


# -- finding it


class Address(NamedTuple):
    """Where an engine listens: scheme is unix, tcp, tls or ssh. An ssh path is the socket at the far end."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True
    user: str = ""

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        scheme, port = ("tcp" if self.scheme == "tls" else self.scheme), (f":{self.port}" if self.port else "")
        return f"{scheme}://{user}{host}{port}"


class EngineAbsent(EngineUnreachable):
    """No engine was named and no socket of one exists (or none is wanted): a model may run without."""


def parse_address(text: str, *, tls: bool = False, cert_path: str = "", verify: bool = True) -> Address:
    """The Address that a DOCKER_HOST-like text names. Raises UsageError: it names none.

    >>> parse_address("unix:///run/docker.sock").path
    '/run/docker.sock'
    >>> str(parse_address("tcp://[::1]:99")), parse_address("tcp://a").port, parse_address("tcp://a", tls=True).port
    ('tcp://[::1]:99', 2375, 2376)
    >>> parse_address("ssh://me@gpu1/run/podman/podman.sock")[:4]
    ('ssh', 'gpu1', 0, '/run/podman/podman.sock')
    """
    if text.startswith("/"):
        return Address("unix", path=text)
    scheme, separator, rest = text.partition("://")
    if scheme == "unix" and rest.startswith("/"):
        return Address("unix", path=rest)
    place, _, path = rest.partition("/")
    user, _, place = place.rpartition("@")
    host, port = split_port(place)
    if not separator or scheme not in ("tcp", "http", "https", "tls", "ssh") or not host or port < 0:
        raise UsageError(f"{text!r} is not the address of an engine",
                         hint="unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST")
    if scheme == "ssh":
        if host.startswith("-") or user.startswith("-"):
            raise UsageError(f"{text!r} is not the address of an engine", hint="ssh://USER@HOST")
        return Address("ssh", host, port, "/" + path if path else "/var/run/docker.sock", user=user)
    if not (tls or scheme in ("https", "tls")):
        return Address("tcp", host, port or 2375)
    ca, cert, key = (find_certificate(cert_path, name) for name in ("ca.pem", "cert.pem", "key.pem"))
    return Address("tls", host, port or 2376, "", ca, cert, key, verify)


def split_port(place: str) -> tuple[str, int]:
    """Host and port of `HOST[:PORT]`; port 0 when there is none, -1 when it is no port.

    >>> split_port("[::1]:80"), split_port("gpu1"), split_port("gpu1:x")
    (('::1', 80), ('gpu1', 0), ('gpu1', -1))
    """
    host, colon, port = place.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = place, "0"
    if not (port.isdecimal() and port.isascii() and int(port) < 65536):
        return host, -1
    return (host[1:-1] if host.startswith("[") and host.endswith("]") else host), int(port)


def find_certificate(folder: str, name: str) -> str:
    """The path of a certificate or key in a folder, or empty when there is none."""
    path = os.path.join(folder, name)
    return path if folder and os.path.exists(path) else ""


def is_socket(path: str) -> bool:
    """Whether a socket is at a path, as far as we may look."""
    import stat

    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def read_json_file(path: str) -> JSON:
    """The JSON object in a file; empty where there is none for us, such as another user's. Raises UsageError: it is not
    JSON, or cannot be read."""
    import json

    try:
        with open(path, "rb") as file:
            found = json.loads(file.read() or b"{}")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be used: {error}", hint="repair it, or move it away") from error
    return found if isinstance(found, dict) else {}


def docker_folder(environ: Mapping[str, str], home: str) -> str:
    """The folder of docker's own configuration."""
    return environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker")


def find_address(engine_flag: str, environ: Mapping[str, str], home: str) -> Address:
    """The engine's Address: from the flag, DOCKER_HOST, the docker context, or the first usual socket that exists.

    Raises EngineAbsent: none is named and none exists, or `none` is asked for. Raises EngineUnreachable, UsageError:
    what is named cannot be used.
    """
    if engine_flag == "none":
        raise EngineAbsent("no engine is used, as asked for with --engine none",
                           hint="only a model in a folder runs without one: leave --engine none out")
    named = engine_flag or environ.get("DOCKER_HOST", "")
    if named:
        verify, certs = environ.get("DOCKER_TLS_VERIFY", ""), environ.get("DOCKER_CERT_PATH", "")
        tls = bool(verify or certs or environ.get("DOCKER_TLS"))
        return parse_address(named, tls=tls, cert_path=certs or docker_folder(environ, home),
                             verify=bool(verify or not environ.get("DOCKER_TLS")))
    in_context = find_context(environ, home)
    if in_context:
        return in_context
    candidates = usual_sockets(environ, home)
    for path in candidates:
        if is_socket(path):
            return Address("unix", path=path)
    tried = "".join(f"\n  {path}: not there" for path in candidates)
    raise EngineAbsent(f"no container engine was found; DOCKER_HOST is not set, and no socket exists:{tried}",
                       hint=how_to_start(environ))


def usual_sockets(environ: Mapping[str, str], home: str) -> list[str]:
    """The paths at which engines usually listen, in the order in which they are tried."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    rootless = [os.path.join(runtime, "docker.sock")] if runtime else []
    podman = [os.path.join(runtime, "podman", "podman.sock")] if runtime else []
    desktop = os.path.join(home, ".docker", "run", "docker.sock")
    return ["/var/run/docker.sock", *rootless, desktop, *podman, "/run/podman/podman.sock"]


def find_context(environ: Mapping[str, str], home: str) -> Address | None:
    """The Address in the current docker context; None for the default one. Raises EngineUnreachable: not there."""
    import hashlib

    folder = docker_folder(environ, home)
    name = environ.get("DOCKER_CONTEXT") or read_json_file(os.path.join(folder, "config.json")).get("currentContext")
    if not name or name == "default":
        return None
    digest = hashlib.sha256(str(name).encode()).hexdigest()
    meta = read_json_file(os.path.join(folder, "contexts", "meta", digest, "meta.json"))
    endpoints = meta.get("Endpoints")
    endpoint = endpoints.get("docker") if isinstance(endpoints, dict) else None
    if not isinstance(endpoint, dict) or not endpoint.get("Host"):
        raise EngineUnreachable(f"the docker context {name!r} does not exist or names no engine",
                                hint="`docker context ls` lists them; DOCKER_CONTEXT=default uses none")
    certs = os.path.join(folder, "contexts", "tls", digest, "docker")
    skip = bool(endpoint.get("SkipTLSVerify"))
    return parse_address(str(endpoint["Host"]), tls=skip or os.path.isdir(certs), cert_path=certs, verify=not skip)


def how_to_start(environ: Mapping[str, str]) -> str:
    """What to do where no engine runs: start the one that is installed, else install one."""
    import shutil

    path = environ.get("PATH")
    if sys.platform == "darwin":
        start = "start Docker Desktop (or `podman machine start`)"
    elif shutil.which("dockerd", path=path) or shutil.which("docker", path=path):
        start = "docker is installed but not running: `sudo systemctl start docker`"
    elif shutil.which("podman", path=path):
        start = "podman is installed but not listening: `systemctl --user start podman.socket`"
    else:
        start = "neither docker nor podman is installed; install one, or name a remote one with --engine ssh://HOST"
    return f"{start}. {NO_ENGINE_HINT[0].upper()}{NO_ENGINE_HINT[1:]}"


def explain_dial(address: Address, error: OSError, environ: Mapping[str, str]) -> EngineUnreachable:
    """Why an engine's address could not be opened, and what to do about it."""
    what = f"cannot reach the engine at {address}: {error.strerror or error}"
    if isinstance(error, PermissionError) and address.scheme == "unix":
        return EngineUnreachable(what, hint=f"{who_may_open(address.path)}; {NO_ENGINE_HINT}")
    if "has expired" in str(error):
        return EngineUnreachable(what, hint="the engine needs a new certificate, or this machine's clock is wrong")
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        authorities = address.ca or "ca.pem in DOCKER_CERT_PATH"
        return EngineUnreachable(what, hint=f"{authorities} must hold the authority that signed its certificate")
    if address.scheme == "tls" and type(error).__name__.startswith("SSL"):
        return EngineUnreachable(what, hint="does it speak TLS, and do the files in DOCKER_CERT_PATH fit it?")
    if address.scheme == "unix":
        return EngineUnreachable(what, hint=how_to_start(environ))
    return EngineUnreachable(what, hint="is it running, and does it listen there? DOCKER_HOST, the docker context or "
                                        f"--engine names it; {NO_ENGINE_HINT}")


def who_may_open(path: str) -> str:
    """What lets this user open a socket: the group that owns it, from the file and the group database."""
    import grp
    import pwd

    try:
        group = grp.getgrgid(os.stat(path).st_gid)
        user = pwd.getpwuid(os.getuid()).pw_name
    except (OSError, KeyError):
        group = None
    if group is None or not group.gr_gid:  # nobody should join the group of root
        return f"`sudo` may open {path}, this user may not"
    if user in group.gr_mem:
        return f"{user} has joined its group after logging in: log in again, or `newgrp {group.gr_name}`"
    return f"it belongs to the group {group.gr_name}: `sudo usermod -aG {group.gr_name} {user}`, then log in again"


# -- its streams


class Transport:
    """A stream to the engine, both ways and non-blocking, for a loop that selects on `fileno`.

    Whoever selects asks `pending` first: bytes that came with the HTTP head, or inside TLS, do not show in select.
    """

    peer = "the engine"

    def __init__(self, connection: socket.socket, left: bytes = b"") -> None:
        self._socket: Any = connection  # a socket.socket or an ssl.SSLSocket
        self._left = left
        connection.setblocking(False)

    def fileno(self) -> int:
        """The descriptor to select on."""
        return int(self._socket.fileno())

    def pending(self) -> bool:
        """Whether bytes are here that select cannot see."""
        return bool(self._left) or bool(getattr(self._socket, "pending", int)())

    def recv(self, limit: int) -> bytes:
        """At most `limit` bytes; none when the peer ended. Raises BlockingIOError: nothing is here now; StreamError."""
        import socket

        if self._left:
            data, self._left = self._left[:limit], self._left[limit:]
            return data
        try:
            return bytes(self._socket.recv(limit))
        except BlockingIOError:
            raise
        except OSError as error:
            if isinstance(error, ConnectionResetError) and self._socket.family == socket.AF_UNIX:
                return b""  # Podman ended with bytes of ours unread; what it had said before is here
            raise self._explain(error) from error

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """How many bytes were taken. Raises BlockingIOError: none now; BrokenPipeError: the peer is gone."""
        try:
            return int(self._socket.send(data))
        except (BlockingIOError, BrokenPipeError):
            raise
        except OSError as error:
            explained = self._explain(error)
            raise explained if isinstance(explained, BlockingIOError) else BrokenPipeError(str(error)) from error

    def half_close(self) -> None:
        """Say that no more bytes will come from us.

        Inside TLS too by the end of TCP's stream, which Go's TLS takes as an end: the ssl module cannot send TLS's own
        without losing what is on its way to us.
        """
        import socket

        try:
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
        except OSError:
            pass  # the peer is gone

    def close(self) -> None:
        """Close both ways. A second call does nothing."""
        self._socket.close()

    def _explain(self, error: OSError) -> Exception:
        name = type(error).__name__
        if name in ("SSLWantReadError", "SSLWantWriteError"):
            return BlockingIOError(error.errno, "not ready")
        if name in ("SSLZeroReturnError", "SSLEOFError"):
            return StreamError(f"the connection to {self.peer} was cut")
        return StreamError(f"the connection to {self.peer} broke: {error.strerror or error}")


class PendingJSON(Transport):
    """One JSON answer that is still to come. The loop reads it as any Transport and hands the bytes to `feed`."""

    def __init__(self, reply: EngineReply) -> None:
        super().__init__(reply.connection, reply.rest)
        self._reply, self._body = reply, b""

    def feed(self, data: bytes) -> JSON | None:
        """Take the next bytes; return the answer once it is whole. Raises StreamError: it was cut or is no JSON."""
        if not data:
            raise StreamError(f"{self._reply.call}: the engine ended before it answered")
        self._body += self._reply.parse(data)
        if len(self._body) > ANSWER_LIMIT:
            raise StreamError(f"{self._reply.call}: the answer is too long")
        whole = self._reply.complete or self._body.rstrip().endswith(b"}")  # or a brace in the middle
        try:
            return parse_answer(self._reply.call, self._body) if whole else None
        except StreamError:
            if self._reply.complete:
                raise
            return None


class Tunnel:
    """One ssh that forwards a socket of ours, in a folder of ours, to the engine's on another machine.

    It ends when its stdin does: with us, however we end. Whoever must outlive us keeps `descriptor` open.
    """

    def __init__(self, address: Address, environ: Mapping[str, str]) -> None:
        import subprocess
        import tempfile

        self._folder = tempfile.mkdtemp(prefix="cog-ssh-")
        self.path = os.path.join(self._folder, "engine.sock")
        user, port = (["-l", address.user] if address.user else []), (["-p", str(address.port)] if address.port else [])
        argv = ["ssh", *SSH_OPTIONS, "-T", *user, *port, "-L", f"{self.path}:{address.path}", "--", address.host, "cat"]
        self._log = os.path.join(self._folder, "log")
        try:
            with open(self._log, "wb") as log:
                self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log,
                                                 start_new_session=True, env=dict(environ))
        except OSError as error:
            self._remove_folder()
            raise EngineUnreachable(f"ssh cannot be run: {error.strerror}", hint="install OpenSSH") from error
        assert self._process.stdin is not None
        self.descriptor = self._process.stdin.fileno()
        try:
            self._wait_for_socket(address)
        except BaseException:
            self.close()
            raise

    def _wait_for_socket(self, address: Address) -> None:
        deadline = time.monotonic() + TUNNEL_TIMEOUT
        while not self._is_open():
            status = self._process.poll()
            if status is not None or time.monotonic() > deadline:
                host = f"{address.user}@{address.host}" if address.user else address.host
                words = self.last_words() or f"it ended with status {status}"
                raise EngineUnreachable(f"ssh to {host}: {'no answer in time' if status is None else words}",
                                        hint=f"it must work without a question: ssh -o BatchMode=yes {host} true")
            time.sleep(0.01)

    def _is_open(self) -> bool:
        if not is_socket(self.path):
            return False
        try:
            dial(Address("unix", path=self.path), DIAL_TIMEOUT).close()
        except ConnectionRefusedError:
            return False  # ssh has made the socket and does not listen yet
        return True

    def last_words(self) -> str:
        """The last line that ssh has said; empty when it has said nothing."""
        with open(self._log, "rb") as log:
            return last_line(log.read(BLOCK))

    def close(self) -> None:
        """End ssh and remove the socket. Also for the process that outlives us, where ssh is no child."""
        import subprocess

        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._remove_folder()

    def _remove_folder(self) -> None:
        import shutil

        shutil.rmtree(self._folder, ignore_errors=True)


def dial(address: Address, timeout: float) -> socket.socket:
    """A connected socket, inside TLS where the address says so. Raises OSError."""
    import socket

    if address.scheme == "unix":
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(address.path)
        except BaseException:
            connection.close()
            raise
        return connection
    connection = socket.create_connection((address.host, address.port), timeout)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return wrap_tls(address, connection) if address.scheme == "tls" else connection
    except BaseException:
        connection.close()
        raise


def wrap_tls(address: Address, connection: socket.socket, authorities: str = "") -> socket.socket:
    """The same connection inside TLS, with the address's certificates; PEM text has more authorities to trust.

    Raises OSError (ssl.SSLError).
    """
    import ssl

    context = ssl.create_default_context(cafile=address.ca or None)
    if authorities:
        context.load_verify_locations(cadata=authorities)
    if not address.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if address.cert:
        context.load_cert_chain(address.cert, address.key or None)
    return context.wrap_socket(connection, server_hostname=address.host)


# -- its API


class EngineReply:
    """One answer, its head read and its body not, on a connection that is its own or the kept one.

    `rest` is what came with the head; `complete` says that all of the body has been parsed.
    """

    def __init__(self, call: str, connection: socket.socket, head: Head, rest: bytes) -> None:
        self.call, self.connection, self.head, self.rest = call, connection, head, rest
        self._parser = ReplyParser(call.partition(" ")[0])
        self.complete = End() in self._parser.begin(head)
        self.status = int(head.start[1])

    @property
    def closes(self) -> bool:
        """Whether nothing more can be asked on its connection."""
        last = "close" in self.head.headers.get("connection", "").lower() or self.head.start[0] == "HTTP/1.0"
        return last or not self.complete

    def parse(self, data: bytes) -> bytes:
        """What these bytes hold of the body. Raises StreamError: it is not chunked as announced."""
        try:
            events = self._parser.feed(data)
        except StreamError as error:
            raise StreamError(f"{self.call}: the answer is not chunked as announced: {error}") from error
        self.complete = self.complete or End() in events
        return b"".join([event.data for event in events if isinstance(event, Body)])

    def read(self, limit: int = ANSWER_LIMIT) -> bytes:
        """The whole body. Raises StreamError: it was cut, or is longer than the limit."""
        return b"".join(self.pieces(limit))

    def pieces(self, limit: int = 0) -> Iterator[bytes]:
        """The body, piece by piece. Raises StreamError: it was cut, or is longer than the limit (0: none)."""
        total, data = 0, self.rest
        while True:
            piece = self.parse(data)
            total += len(piece)
            if limit and total > limit:
                raise StreamError(f"{self.call}: the answer is longer than {limit} bytes")
            if piece:
                yield piece
            data = b"" if self.complete else self._receive()
            if not data:
                return

    def _receive(self) -> bytes:
        try:
            data = self.connection.recv(BLOCK)
            if not data:
                self._parser.close()
            return data
        except (OSError, StreamError) as error:
            raise StreamError(f"{self.call}: the engine's answer was cut: {error}") from error

    def lines(self) -> Iterator[JSON]:
        """The body as one JSON object per line; the connection ends with it. Raises StreamError: it was cut, or a line
        is no JSON object."""
        held = b""
        try:
            for piece in self.pieces():
                *whole, held = (held + piece).split(b"\n")
                for line in whole:
                    if line.strip():
                        yield parse_answer(self.call, line)
                if len(held) > ANSWER_LIMIT:
                    raise StreamError(f"{self.call}: a line is longer than {ANSWER_LIMIT} bytes")
            if held.strip():
                yield parse_answer(self.call, held)
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection, read or not."""
        self.connection.close()


def read_head(connection: socket.socket, data: bytes = b"") -> tuple[Head, bytes]:
    """The head of an answer, of which some has come already, and what came with it. Raises StreamError: it is none;
    OSError; ConnectionError: the peer ended."""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(BLOCK)
        if not piece:
            raise ConnectionError(f"no more came than {data[:80]!r}" if data else "nothing came")
        data += piece
        if len(data) > HEAD_LIMIT:
            raise StreamError(f"an HTTP head of more than {HEAD_LIMIT} bytes")
    head, _, rest = data.partition(b"\r\n\r\n")
    return parse_head(head), rest


def parse_answer(call: str, data: bytes) -> JSON:
    """The JSON object in an answer. Raises StreamError: it is none.

    >>> parse_answer("GET /info", b'{"ID": "x"}')
    {'ID': 'x'}
    """
    found = parse_document(data)
    if found is None:
        raise StreamError(f"{call}: the answer is no JSON object: {data[:100]!r}")
    return found


def error_words(data: bytes, reason: str = "") -> str:
    """The engine's own words in the body of a refusal: a JSON message, else its text, else the reason given.

    >>> error_words(b'{"message": "No such image: x"}'), error_words(b"Not Found\\n"), error_words(b"", "Bad Gateway")
    ('No such image: x', 'Not Found', 'Bad Gateway')
    """
    import json

    text = data.decode("utf-8", "replace").strip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text[:2000] or reason or "no message"
    if isinstance(found, dict) and isinstance(found.get("message"), str):
        return found["message"].strip() or reason or "no message"
    return text[:2000]


def stream_failure(event: JSON) -> str:
    """The engine's words in a line that reports a failure inside a stream; empty for any other line.

    >>> stream_failure({"errorDetail": {"message": "no space left on device"}, "error": "no space"})
    'no space left on device'
    """
    detail = event.get("errorDetail")
    if isinstance(detail, dict) and detail.get("message"):
        return str(detail["message"])
    return str(event.get("error") or "")


def send_body(connection: socket.socket, pieces: Iterable[bytes]) -> bytes:
    """Send a body in chunks; return what the engine said meanwhile.

    It stops where the engine has already refused, or takes no more: its answer tells why. Reading beside the sending
    keeps an engine that talks during the upload from waiting for us while we wait for it.
    """
    connection.setblocking(False)
    heard = bytearray()
    try:
        for chunk in chunk_body(pieces):
            if not send_chunk(connection, chunk, heard):
                break
        return bytes(heard)
    finally:
        connection.settimeout(None)


def send_chunk(connection: socket.socket, data: bytes, heard: bytearray) -> bool:
    """Whether all of it was sent. What comes in meanwhile is added to `heard`; a refusal there ends the sending."""
    import select

    view = memoryview(data)
    while view:
        try:
            view = view[connection.send(view):]
            continue
        except OSError as error:
            if type(error).__name__ not in ("BlockingIOError", "SSLWantReadError", "SSLWantWriteError"):
                return False
        readable, _, _ = select.select([connection], [connection], [])
        if readable:
            try:
                piece = connection.recv(BLOCK)
            except OSError:
                continue  # TLS had no more than half a record
            if not piece:
                return False
            heard += piece
            if heard.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")):
                return False
    return True


class Wire:
    """How an engine is asked: one funnel for every request and every error."""

    def __init__(self, address: Address, console: Console, environ: Mapping[str, str],
                 tunnel: Tunnel | None = None) -> None:
        self.address, self._console, self._environ, self._tunnel = address, console, environ, tunnel
        self.api_version, self.is_podman = "", False
        self._kept: tuple[socket.socket, float] | None = None

    @property
    def host_is_local(self) -> bool:
        """Whether the engine runs on this machine, as far as its address tells."""
        return self.address.scheme == "unix" or self.address.host in ("localhost", "127.0.0.1", "::1")

    def descriptors(self) -> list[int]:
        """Descriptors that a process must keep open if it is to reach the engine after this one has died."""
        return [self._tunnel.descriptor] if self._tunnel else []

    def close(self) -> None:
        """Close what is kept open, the ssh tunnel included. Streams that were handed out are their holder's."""
        if self._kept:
            self._kept[0].close()
            self._kept = None
        if self._tunnel:
            self._tunnel.close()
            self._tunnel = None

    def _dial(self) -> socket.socket:
        """A new connection. Raises EngineUnreachable: why, and what to do."""
        where = self.address if self._tunnel is None else Address("unix", path=self._tunnel.path)
        try:
            return dial(where, DIAL_TIMEOUT)
        except OSError as error:
            raise explain_dial(self.address, error, self._environ) from error

    def _take_kept(self) -> socket.socket | None:
        """The kept connection, if the engine has not ended it and it has not been idle for long."""
        import select

        if self._kept is None:
            return None
        (connection, since), self._kept = self._kept, None
        if time.monotonic() - since > KEPT_IDLE or select.select([connection], [], [], 0)[0]:
            connection.close()
            return None
        return connection

    def _open(self, method: str, path: str, query: Mapping[str, str] | None = None, body: JSON | None = None, *,
              pieces: Iterable[bytes] | None = None, headers: Iterable[tuple[str, str]] = (),
              also: tuple[int, ...] = (), keep: bool = False, timeout: float | None = None) -> EngineReply:
        """Ask, and return the answer, unread. Raises EngineError: its status is neither 2xx nor one of `also`."""
        call = f"{method} {path}"
        began = time.monotonic()
        head, data = self._render(method, path, query, body, headers, pieces is not None)
        connection = (self._take_kept() if keep else None) or self._dial()
        try:
            reply = self._ask(call, connection, head + data, pieces, timeout)
        except BaseException:
            connection.close()
            raise
        try:
            self._console.debug(f"engine: {call} {reply.status} {1000 * (time.monotonic() - began):.0f} ms")
            if not 200 <= reply.status < 300 and reply.status not in also:
                raise EngineError(call, reply.status, error_words(reply.read(1 << 20), reply.head.start[2]))
            return reply
        except BaseException:
            reply.close()
            raise

    def _render(self, method: str, path: str, query: Mapping[str, str] | None, body: JSON | None,
                headers: Iterable[tuple[str, str]], chunked: bool) -> tuple[bytes, bytes]:
        """Head and body of one request."""
        import json
        import urllib.parse

        data = b"" if body is None else json.dumps(body).encode()
        target = (f"/v{self.api_version}" if self.api_version else "") + urllib.parse.quote(path, safe="/:@")
        if query:
            target += "?" + urllib.parse.urlencode(query)
        sent = [("Host", "engine"), ("User-Agent", f"cog.pyz/{__version__}"), *headers]
        if body is not None:
            sent.append(("Content-Type", "application/json"))
        if chunked:
            sent.append(("Transfer-Encoding", "chunked"))
        elif method != "GET":
            sent.append(("Content-Length", str(len(data))))
        return render_head(f"{method} {target} HTTP/1.1", sent), data

    @staticmethod
    def _ask(call: str, connection: socket.socket, data: bytes, pieces: Iterable[bytes] | None,
             timeout: float | None) -> EngineReply:
        """Send the request and read the answer's head; an engine that answers before all is sent is heard."""
        connection.settimeout(timeout)
        heard = b""
        try:
            try:
                connection.sendall(data)
                heard = send_body(connection, pieces) if pieces is not None else b""
            except (BrokenPipeError, ConnectionResetError):
                pass  # its answer tells why
            return EngineReply(call, connection, *read_head(connection, heard))
        except (StreamError, ConnectionError) as error:
            raise StreamError(f"{call}: the engine ended before it answered: {error}") from error
        except OSError as error:
            hint = "it may have refused cert.pem in DOCKER_CERT_PATH: is it there, not expired, and of its authority?"
            raise EngineUnreachable(f"{call}: the engine does not answer: {error}",
                                    hint=hint if type(error).__name__.startswith("SSL") else "") from error

    def _read(self, method: str, path: str, query: Mapping[str, str] | None = None, body: JSON | None = None,
              **how: Any) -> bytes:
        """Ask on the kept connection, and return the whole answer."""
        reply = self._open(method, path, query, body, keep=True, timeout=CALL_TIMEOUT, **how)
        try:
            data = reply.read()
        except BaseException:
            reply.close()
            raise
        if reply.closes or self._kept:
            reply.close()
        else:
            self._kept = (reply.connection, time.monotonic())
        return data

    def _call(self, method: str, path: str, query: Mapping[str, str] | None = None, body: JSON | None = None,
              **how: Any) -> JSON:
        """Ask, and return the answer's JSON object."""
        return parse_answer(f"{method} {path}", self._read(method, path, query, body, **how))

    def _find(self, path: str) -> JSON | None:
        """The object at a path; None when there is none."""
        try:
            return self._call("GET", path)
        except EngineError as error:
            if error.status != 404:
                raise
            return None

    def _list(self, path: str, labels: Iterable[str], **query: str) -> list[JSON]:
        """The objects that carry all the labels (NAME or NAME=VALUE)."""
        import json

        query["filters"] = json.dumps({"label": list(labels)})
        found = parse_answer(f"GET {path}", b'{"items": %b}' % self._read("GET", path, query))["items"]
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise StreamError(f"GET {path}: the engine's answer is not a list of objects")
        return found

    def _hijack(self, path: str, query: Mapping[str, str] | None = None, body: JSON | None = None,
                headers: Iterable[tuple[str, str]] = (), protocol: str = "tcp") -> Transport:
        """The connection itself, after the engine agreed to use it as a plain stream."""
        upgrade = [("Connection", "Upgrade"), ("Upgrade", protocol), *headers]
        reply = self._open("POST", path, query, body, headers=upgrade, also=(101,), timeout=CALL_TIMEOUT)
        return Transport(reply.connection, reply.rest)

    def _stream(self, method: str, path: str, query: Mapping[str, str], **how: Any) -> Iterator[JSON]:
        """The lines of a streamed answer. The request is sent at once; the connection ends with the iterator."""
        return self._open(method, path, query, **how).lines()


class Engine(Wire):
    """One engine, one method per API call. Every method may raise EngineError, EngineUnreachable and StreamError.

    Source: Docker Engine API 1.41 to 1.51; Podman's service for the same.
    """

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ping(self) -> dict[str, str]:
        """GET /_ping: the answer's headers, their names in lower case."""
        reply = self._open("GET", "/_ping", timeout=CALL_TIMEOUT)
        try:
            reply.read(BLOCK)
            return reply.head.headers
        finally:
            reply.close()

    def info(self) -> JSON:
        """GET /info."""
        return self._call("GET", "/info")

    def image_inspect(self, image: str) -> JSON | None:
        """GET /images/{name}/json; None when there is no such image."""
        return self._find(f"/images/{image}/json")

    def image_list(self, *labels: str) -> list[JSON]:
        """GET /images/json: the images that carry all the labels."""
        return self._list("/images/json", labels)

    def image_pull(self, image: str, *, platform: str = "", auth: str = "",
                   on_event: Callable[[JSON], None] = lambda event: None) -> None:
        """POST /images/create: pull one image. `auth` is what registry_auth returns; events are its progress.

        Raises EngineError, also for a failure in the middle (status 0); its hint says what may help.
        """
        reference = parse_reference(image)
        query = {"fromImage": reference.familiar(), "tag": reference.digest or reference.tag}
        headers = [("X-Registry-Auth", auth)] if auth else []
        if platform:
            query["platform"] = platform
        try:
            self._follow("POST", "/images/create", query, on_event, headers=headers)
        except EngineError as error:
            raise EngineError(f"pull {image}", error.status, error.message, hint=pull_hint(error, reference)) from error

    def image_load(self, source: BinaryIO, *, on_event: Callable[[JSON], None] = lambda event: None) -> list[str]:
        """POST /images/load: the names (or ids) of the images in a tar. Raises EngineError: it is none."""
        names: list[str] = []

        def note(event: JSON) -> None:
            names.extend(loaded_names(str(event.get("stream", ""))))
            on_event(event)

        pieces = iter(lambda: source.read(BLOCK), b"")
        self._follow("POST", "/images/load", {"quiet": "0"}, note, pieces=pieces,
                     headers=[("Content-Type", "application/x-tar")])
        return names

    def image_build(self, query: Mapping[str, str], body: Iterable[bytes]) -> Iterator[JSON]:
        """POST /build: the builder's lines, the failing one included (see stream_failure). The context is sent first.

        Closing the iterator ends the build. Raises EngineError: refused before it began.
        """
        return self._stream("POST", "/build", query, pieces=body, headers=[("Content-Type", "application/x-tar")])

    def image_remove(self, image: str, *, prune: bool = True) -> None:
        """DELETE /images/{name}. One that is gone is success; raises EngineError: 409, a container uses it.
        Without `prune` what it was built on stays, which is Podman's cache for the next build."""
        self._read("DELETE", f"/images/{image}", {} if prune else {"noprune": "1"}, also=(404,))

    def image_tag(self, image: str, repository: str, tag: str) -> None:
        """POST /images/{name}/tag."""
        self._read("POST", f"/images/{image}/tag", {"repo": repository, "tag": tag})

    def container_create(self, body: JSON, *, name: str = "", platform: str = "") -> str:
        """POST /containers/create: its id. Raises EngineError: 404 no such image, 409 the name is taken."""
        query = {key: value for key, value in (("name", name), ("platform", platform)) if value}
        made = self._call("POST", "/containers/create", query, body)
        for warning in made.get("Warnings") or ():
            self._console.debug(f"engine: {warning}")
        if not isinstance(made.get("Id"), str):
            raise StreamError("POST /containers/create: the engine names no container")
        return str(made["Id"])

    def container_start(self, container: str) -> None:
        """POST /containers/{id}/start. One that is started is success."""
        self._read("POST", f"/containers/{container}/start", also=(304,))

    def container_attach(self, container: str, *, stdin: bool = False) -> Transport:
        """POST /containers/{id}/attach: its output from now on, in frames unless it has a terminal; and its stdin.

        The keys that leave a terminal, which can be moved but not be taken away, are four times what nobody types.
        """
        given = {"stdin": "1", "detachKeys": "ctrl-@,ctrl-@,ctrl-@,ctrl-@"} if stdin else {}
        query = {"stream": "1", "stdout": "1", "stderr": "1", **given}
        return self._hijack(f"/containers/{container}/attach", query)

    def container_wait(self, container: str) -> PendingJSON:
        """POST /containers/{id}/wait, until it is removed: `{"StatusCode": int}`, to come. Asked before start, it
        misses nothing."""
        path = f"/containers/{container}/wait"
        reply = self._open("POST", path, {"condition": "removed"}, timeout=CALL_TIMEOUT)
        return PendingJSON(reply)

    def container_kill(self, container: str, *, signal: str = "KILL", forget: bool = False) -> None:
        """POST /containers/{id}/kill. One that is gone or ended is success. `forget`: the answer is not waited for."""
        path, query = f"/containers/{container}/kill", {"signal": signal}
        if forget and self._tunnel is None:  # ssh would be ended before it had passed the request on
            self._forget("POST", path, query)
            return
        try:
            self._read("POST", path, query, also=(404, 409))
        except EngineError as error:
            if "can only kill running containers" not in error.message:  # Podman 4
                raise

    def _forget(self, method: str, path: str, query: Mapping[str, str]) -> None:
        """Send a request, and do not wait for what becomes of it."""
        head, _ = self._render(method, path, query, None, (), False)
        connection = self._take_kept() or self._dial()
        try:
            connection.settimeout(DIAL_TIMEOUT)
            connection.sendall(head)
            self._console.debug(f"engine: {method} {path} sent")
        except OSError as error:
            raise EngineUnreachable(f"{method} {path}: the engine does not answer: {error}") from error
        finally:
            connection.close()

    def container_remove(self, container: str) -> bool:
        """DELETE /containers/{id}, its anonymous volumes too; whether it was there, and is not going already."""
        if self.is_podman:  # it would give a SIGTERM ten seconds to work
            self.container_kill(container)
        try:
            self._read("DELETE", f"/containers/{container}", {"v": "1", "force": "1"})
            return True
        except EngineError as error:
            if error.status != 404 and not (error.status == 409 and "already in progress" in error.message):
                raise
            return False

    def detached_remove(self, name: str, image: str = "", *, exporting: bool = False) -> bool:
        """Whether a container and an image are surely gone, asked and removed by a process that outlives ours.

        Nothing of this process is used but `descriptors`. One that is not there may still be in the making, so that
        it is asked for during a while.
        """
        address = self.address if self._tunnel is None else Address("unix", path=self._tunnel.path)
        fresh = Engine(address, self._console, self._environ)
        fresh.api_version, fresh.is_podman = self.api_version, self.is_podman
        deadline = time.monotonic() + (1.5 if image else 6.0)
        try:
            while time.monotonic() < deadline and not fresh.container_remove(name):
                time.sleep(0.1)
            if self.is_podman:  # of one still in the making it removes half, which ends every list of containers
                time.sleep(0.5)
                fresh.container_remove(name)
            if image:
                deadline = time.monotonic() + (EXPORT_LIMIT if exporting else STEP_LIMIT * self.is_podman)
                while time.monotonic() < deadline and fresh.image_inspect(image) is None:
                    time.sleep(0.2)
                fresh.image_remove(image, prune=False)
        except CogError:
            return False
        finally:
            fresh.close()
        if self._tunnel:
            self._tunnel.close()
        return True

    def container_inspect(self, container: str) -> JSON | None:
        """GET /containers/{id}/json; None when there is no such container."""
        return self._find(f"/containers/{container}/json")

    def container_list(self, *labels: str) -> list[JSON]:
        """GET /containers/json: the containers that carry all the labels, whether they run or not."""
        return self._list("/containers/json", labels, all="1")

    def container_put_archive(self, container: str, path: str, tar: Iterable[bytes]) -> None:
        """PUT /containers/{id}/archive: unpack a tar into a folder of it. Raises EngineError: 404 no folder."""
        self._open("PUT", f"/containers/{container}/archive", {"path": path}, pieces=tar, timeout=CALL_TIMEOUT,
                   headers=[("Content-Type", "application/x-tar")]).close()

    def container_get_archive(self, container: str, path: str) -> bytes | None:
        """GET /containers/{id}/archive: a tar of a file, mounts included, started or not; None without one."""
        reply = self._open("GET", f"/containers/{container}/archive", {"path": path}, also=(404,), timeout=CALL_TIMEOUT)
        try:
            return reply.read() if reply.status == 200 else None
        finally:
            reply.close()

    def container_resize(self, container: str, height: int, width: int) -> None:
        """POST /containers/{id}/resize: tell its terminal its size."""
        self._read("POST", f"/containers/{container}/resize", {"h": str(height), "w": str(width)})

    def exec_create(self, container: str, command: Sequence[str]) -> str:
        """POST /containers/{id}/exec: the id of a command to run in it. Raises EngineError: 409 it does not run."""
        body: JSON = {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "Cmd": list(command)}
        return str(self._call("POST", f"/containers/{container}/exec", None, body).get("Id", ""))

    def exec_start(self, exec_id: str) -> Transport:
        """POST /exec/{id}/start: the command's stdin, and its output in frames."""
        return self._hijack(f"/exec/{exec_id}/start", None, {"Detach": False, "Tty": False})

    def session_open(self, headers: Iterable[tuple[str, str]]) -> Transport:
        """POST /session: a stream on which the builder is the HTTP/2 client. Raises EngineError: 404 on Podman."""
        return self._hijack("/session", headers=headers, protocol="h2c")

    def was_oom_killed(self, container: str) -> bool:
        """Whether it ran out of memory: from its state, or from GET /events when it is removed already, or runs on
        without one of its processes."""
        import json

        filters = json.dumps({"container": [container], "event": ["oom"]})
        query = {"since": "1", "until": f"{time.time():.6f}", "filters": filters}
        try:
            state = (self.container_inspect(container) or {}).get("State") or {}
            if state.get("OOMKilled") or self.is_podman:  # which reports no such event
                return bool(state.get("OOMKilled"))
            return any(True for _ in self._stream("GET", "/events", query, timeout=2.0))
        except CogError:
            return False  # an engine whose clock is behind ours, or that is gone

    def _follow(self, method: str, path: str, query: Mapping[str, str], on_event: Callable[[JSON], None],
                **how: Any) -> None:
        """Hand every line of a streamed answer on. Raises EngineError: one reports a failure."""
        for event in self._stream(method, path, query, **how):
            failure = stream_failure(event)
            if failure:
                raise EngineError(f"{method} {path}", 0, failure)
            on_event(event)


def connect_engine(address: Address, console: Console, environ: Mapping[str, str]) -> Engine:
    """The engine at an address, once it has answered and the API's version is agreed on. Raises EngineUnreachable."""
    tunnel = Tunnel(address, environ) if address.scheme == "ssh" else None
    engine = Engine(address, console, environ, tunnel)
    try:
        headers = engine.ping()
        engine.is_podman = "libpod-api-version" in headers or "libpod" in headers.get("server", "").lower()
        engine.api_version = negotiate_version(headers.get("api-version", ""), address, engine.is_podman)
        return engine
    except (EngineError, StreamError) as error:
        words = tunnel.last_words() if tunnel else ""
        engine.close()
        if words:
            raise EngineUnreachable(f"no engine answers at {address.path} on {address.host}: {words}",
                                    hint="does it run there, and may your user open its socket?") from error
        tls = "HTTPS" in str(error)
        raise EngineUnreachable(f"what answers at {address} is not a container engine: {error}",
                                hint="it wants TLS: set DOCKER_TLS_VERIFY and DOCKER_CERT_PATH" if tls else
                                     "DOCKER_HOST, the docker context or --engine names it") from error
    except BaseException:
        engine.close()
        raise


def negotiate_version(offered: str, address: Address, is_podman: bool) -> str:
    """The API version to use with an engine that offers up to `offered`. Raises EngineUnreachable: too old, or none.

    >>> negotiate_version("1.41", Address("unix"), False), negotiate_version("1.99", Address("unix"), False)
    ('1.41', '1.51')
    """
    major, _, minor = offered.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise EngineUnreachable(f"what answers at {address} is not a container engine: it names no API version",
                                hint="DOCKER_HOST, the docker context or --engine names it")
    version = min((int(major), int(minor)), NEWEST_API)
    if version < OLDEST_API and not is_podman:
        raise EngineUnreachable(f"the engine at {address} is too old: it speaks API {offered}",
                                hint="Docker 20.10 or newer is needed")
    return f"{version[0]}.{version[1]}"


# -- what outlives us


class Guardian:
    """A child process that cleans up when this one dies before dismissing it, by kill -9 included.

    Forked before any thread and while few descriptors are open; it holds none but a pipe, lives in a session of its
    own and calls `clean` until that returns True, for ten seconds at most.
    """

    def __init__(self, clean: Callable[[], bool], keep: Collection[int] = ()) -> None:
        import signal

        watched, self._pipe = os.pipe()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        try:
            self._pid = os.fork()
            if self._pid == 0:  # the terminal's Ctrl-C is not its
                self._watch(watched, clean, {watched, *keep})
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(watched)

    @staticmethod
    def _watch(watched: int, clean: Callable[[], bool], keep: set[int]) -> None:
        try:
            os.setsid()
            folder = next((path for path in ("/proc/self/fd", "/dev/fd") if os.path.isdir(path)), "")
            for descriptor in [int(name) for name in os.listdir(folder)] if folder else range(256):
                if descriptor not in keep:
                    try:
                        os.close(descriptor)
                    except OSError:
                        pass
            if not os.read(watched, 1):
                deadline = time.monotonic() + 10
                while not clean() and time.monotonic() < deadline:
                    time.sleep(0.2)
        finally:
            os._exit(0)

    def dismiss(self, *, clean: bool = False) -> None:
        """End the guardian: nothing is left to guard, or it is to `clean` now. A second call does nothing."""
        if self._pipe >= 0:
            pipe, self._pipe = self._pipe, -1
            if clean:
                os.close(pipe)
                return
            try:
                os.write(pipe, b"x")
            except BrokenPipeError:
                pass  # somebody killed it
            os.close(pipe)
            os.waitpid(self._pid, 0)


# -- what its refusals mean


def is_missing_gpu(error: EngineError) -> bool:
    """Whether an engine refused because it has no GPU, no driver for one, or no such device.

    >>> is_missing_gpu(EngineError("start", 500, 'could not select device driver "" with capabilities: [[gpu]]'))
    True
    """
    said = error.message.lower()
    return any(words in said for words in (
        "could not select device driver", "failed to discover gpu vendor", "cdi spec not found",
        "cdi device injection failed", "unresolvable cdi devices", "runtime name: nvidia", "runtime specified nvidia",
        "nvidia-container-cli: initialization error", "nvidia-container-cli: detection error",
        "nvidia-container-cli: device error", "nvml error", "nvidia-container-runtime-hook",
    )) and "requirement error" not in said


def is_missing_init(error: EngineError) -> bool:
    """Whether an engine refused because it has no init program to put into a container.

    >>> is_missing_init(EngineError("start", 400, 'exec: "docker-init": executable file not found in $PATH'))
    True
    """
    said = error.message
    named = any(name in said for name in ("catatonit", "docker-init", "init binary", "container-init"))
    return named and any(words in said for words in ("not find", "not found", "no such file", "not exist"))


def is_init_refused(data: bytes) -> bool:
    """Whether the first that a container prints is that it may not run its init program.

    >>> is_init_refused(b"\\2\\0\\0\\0\\0\\0\\0\\x2aexec /sbin/docker-init: permission denied\\n")
    True
    """
    said = data[8:].removeprefix(b'{"msg":"').lower()
    return said.startswith((b"exec /sbin/docker-init: permission denied",
                            b"exec container process `/run/podman-init`: permission denied"))


def is_platform_mismatch(error: EngineError) -> bool:
    """Whether an image exists, but not for the platform that was asked for.

    >>> is_platform_mismatch(EngineError("create", 404, "image with reference x was found but does not match the "
    ...                                                 "specified platform: wanted linux/arm64, actual: linux/amd64"))
    True
    """
    said = error.message
    return any(words in said for words in (
        "does not match the specified platform", "no matching manifest for", "no match for platform in manifest",
        "does not provide the specified platform", "cannot find a matching manifest", "no image found in manifest list",
        "no image found in image index", "exec format error",
    ))


def pull_hint(error: EngineError, reference: Reference) -> str:
    """What may help against a failed pull; empty when the engine's own words are all there is."""
    said = error.message.lower()
    host = "" if reference.registry == "docker.io" else f" {reference.registry}"
    if is_platform_mismatch(error):
        return "--platform names another one"
    if any(words in said for words in ("unauthorized", "authentication required", "no basic auth", "401")):
        return f"`docker login{host}` with an account that may pull it"
    if any(words in said for words in ("connection refused", "no such host", "timeout", "dial tcp", "lookup ")):
        return ("the engine cannot reach the registry; without a network carry the image in: `docker save IMAGE` "
                "elsewhere, and give the tar in place of IMAGE")
    if any(words in said for words in ("denied", "does not exist", "manifest unknown", "not found")):
        return f"check the name and the tag; a private one needs `docker login{host}` first"
    return ""


# -- images by name, and the credentials for them


class Reference(NamedTuple):
    """An image's full name. The tag is empty when there is a digest and no tag."""

    registry: str
    repository: str
    tag: str
    digest: str

    def familiar(self) -> str:
        """The name without tag and digest, as docker shows it."""
        if self.registry != "docker.io":
            return f"{self.registry}/{self.repository}"
        return self.repository[len("library/"):] if self.repository.startswith("library/") else self.repository


def parse_reference(text: str) -> Reference:
    """The parts of an image's name, docker's defaults filled in. Raises UsageError: it is no name.

    >>> parse_reference("python:3.11-slim")
    Reference(registry='docker.io', repository='library/python', tag='3.11-slim', digest='')
    >>> parse_reference("host:5000/a/b:tag@sha256:" + "0" * 64)[:3]
    ('host:5000', 'a/b', 'tag')
    >>> parse_reference("r8.im/me/model").tag
    'latest'
    """
    import re

    name, _, digest = text.partition("@")
    head, slash, rest = name.partition("/")
    has_registry = bool(slash) and ("." in head or ":" in head or head == "localhost" or head != head.lower())
    registry, path = (head, rest) if has_registry else ("docker.io", name)
    repository, colon, tag = path.partition(":")
    if registry == "index.docker.io":
        registry = "docker.io"
    if registry == "docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    part = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
    if repository != repository.lower():
        raise UsageError(f"{text!r} is not an image: its name must be lower case")
    if not (re.fullmatch(rf"{part}(?:/{part})*", repository) and re.fullmatch(r"[A-Za-z0-9.\-\[\]:]+", registry)
            and (re.fullmatch(r"\w[\w.\-]{0,127}", tag, re.ASCII) if colon else True)
            and (re.fullmatch(r"[a-z0-9+._-]+:[0-9a-fA-F]{32,}", digest) if "@" in text else True)):
        raise UsageError(f"{text!r} is not the name of an image", hint="for example: registry.example.com/name:tag")
    return Reference(registry, repository, tag if colon or digest else "latest", digest)


def loaded_names(line: str) -> list[str]:
    """The images that a line of POST /images/load names.

    >>> loaded_names("Loaded image: localhost/a:1,localhost/b:1\\n"), loaded_names("Loaded image ID: sha256:12\\n")
    (['localhost/a:1', 'localhost/b:1'], ['sha256:12'])
    """
    for prefix in ("Loaded image: ", "Loaded image ID: ", "Loaded image(s): "):
        if line.startswith(prefix):
            return [name.strip() for name in line[len(prefix):].split(",") if name.strip()]
    return []


HUB_SERVER = "https://index.docker.io/v1/"


def run_program(argv: Sequence[str], data: bytes, environ: Mapping[str, str]) -> tuple[int, bytes, bytes]:
    """Exit code, stdout and stderr of a program in a session of its own. Raises OSError: missing, or too slow."""
    import subprocess

    try:
        done = subprocess.run(argv, input=data, capture_output=True, timeout=60, start_new_session=True,
                              env=dict(environ))
    except subprocess.TimeoutExpired as error:
        raise TimeoutError("it does not answer") from error
    return done.returncode, done.stdout, done.stderr


def registry_auth(reference: Reference, environ: Mapping[str, str], home: str) -> str:
    """The X-Registry-Auth value for an image's registry; empty when nothing is known for it.

    Looked up in $REGISTRY_AUTH_FILE, docker's configuration and Podman's, in this order.
    Raises EngineError: a credential helper failed; UsageError: a file is not JSON.
    """
    import base64
    import json

    for path in credential_files(environ, home):
        found = find_credentials(read_json_file(path), reference, environ)
        if found:
            server = HUB_SERVER if reference.registry == "docker.io" else reference.registry
            return base64.urlsafe_b64encode(json.dumps({**found, "serveraddress": server}).encode()).decode()
    return ""


def credential_files(environ: Mapping[str, str], home: str) -> list[str]:
    """The files that may hold credentials, the most explicit first."""
    explicit, runtime = environ.get("REGISTRY_AUTH_FILE", ""), environ.get("XDG_RUNTIME_DIR", "")
    config = environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    return [*([explicit] if explicit else []), os.path.join(docker_folder(environ, home), "config.json"),
            *([os.path.join(runtime, "containers", "auth.json")] if runtime else []),
            os.path.join(config, "containers", "auth.json")]


def with_docker_proxies(environ: Mapping[str, str], home: str) -> dict[str, str]:
    """The environment, and the proxies that docker's config.json has for builds, unless it names such a one itself.

    Source: docker's manual, "Use a proxy server with the Docker CLI".
    """
    named = read_json_file(os.path.join(docker_folder(environ, home), "config.json")).get("proxies")
    found = named.get("default") if isinstance(named, dict) else None
    proxies = {name.replace("Proxy", "_proxy"): value for name, value in found.items()
               if isinstance(value, str)} if isinstance(found, dict) else {}
    return {**{key: value for name, value in proxies.items() if not (environ.get(name) or environ.get(name.upper()))
               for key in (name, name.upper())}, **environ}


def registry_keys(reference: Reference) -> list[str]:
    """The keys under which credentials for an image may stand, the narrowest first.

    >>> registry_keys(parse_reference("r.example.com/a/b"))
    ['r.example.com/a/b', 'r.example.com/a', 'r.example.com']
    """
    parts = [reference.registry, *reference.repository.split("/")]
    keys = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return [*keys, "index.docker.io", "registry-1.docker.io"] if reference.registry == "docker.io" else keys


def find_credentials(config: JSON, reference: Reference, environ: Mapping[str, str]) -> JSON:
    """What one configuration file knows for an image: username and password, or an identity token; or nothing."""
    helpers = config.get("credHelpers") if isinstance(config.get("credHelpers"), dict) else {}
    auths = config.get("auths") if isinstance(config.get("auths"), dict) else {}
    server = HUB_SERVER if reference.registry == "docker.io" else reference.registry
    helper = pick_key(helpers, reference) or config.get("credsStore")
    if helper:
        found = ask_credential_helper(str(helper), server, environ)
        if found:
            return found
    entry = pick_key(auths, reference)
    return decode_credentials(entry) if isinstance(entry, dict) else {}


def pick_key(table: Any, reference: Reference) -> Any:
    """The entry of a table whose keys name registries, with or without scheme and API path; None when there is none.

    >>> pick_key({"https://index.docker.io/v1/": 1}, parse_reference("me/model"))
    1
    """
    plain = {}
    for key, value in table.items():
        name = str(key).partition("://")[2] or str(key)
        name = name.rstrip("/")
        plain[name[:-3] if name.endswith(("/v1", "/v2")) else name] = value
    return next((plain[key] for key in registry_keys(reference) if key in plain), None)


def decode_credentials(entry: JSON) -> JSON:
    """The credentials in one entry of `auths`; nothing when it holds none.

    >>> decode_credentials({"auth": "bWU6c2VjOnJldA=="})
    {'username': 'me', 'password': 'sec:ret'}
    """
    import base64

    if entry.get("identitytoken"):
        return {"identitytoken": str(entry["identitytoken"])}
    try:
        user, colon, password = base64.b64decode(str(entry.get("auth") or "")).decode().partition(":")
    except ValueError:
        user, colon, password = "", "", ""
    if colon:
        return {"username": user, "password": password.strip("\0")}
    if entry.get("username") and entry.get("password"):
        return {"username": str(entry["username"]), "password": str(entry["password"])}
    return {"registrytoken": str(entry["registrytoken"])} if entry.get("registrytoken") else {}


def ask_credential_helper(name: str, server: str, environ: Mapping[str, str]) -> JSON:
    """What `docker-credential-NAME get` knows for a server, or nothing. Raises EngineError: it failed otherwise."""
    program = f"docker-credential-{name}"
    hint = f"install or repair {program}, or take it out of docker's config.json"
    try:
        status, out, err = run_program([program, "get"], server.encode(), environ)
    except OSError as error:
        raise EngineError(program, 0, f"the credential helper cannot be run: {error.strerror or error}",
                          hint=hint) from error
    said = (out.strip() or err.strip()).decode("utf-8", "replace")
    if status and any(words in said.lower() for words in ("credentials not found", "no credentials", "not found in")):
        return {}
    if status:
        raise EngineError(program, 0, f"the credential helper failed: {said[:200] or f'exit code {status}'}", hint=hint)
    found = parse_document(out)
    if found is None:
        raise EngineError(program, 0, "the credential helper did not answer in JSON", hint=hint)
    user, secret = str(found.get("Username") or ""), str(found.get("Secret") or "")
    if not secret:
        return {}
    return {"identitytoken": secret} if user == "<token>" else {"username": user, "password": secret}


# == 13. Session ==============================================================
# In: the bytes of the stream on which BuildKit asks for what a build needs: secrets, registry credentials, a sign of
# life. Out: our answers. It is gRPC on HTTP/2 with the builder as the client; Session is that as a pure machine, bytes
# to bytes, and SessionPump is what carries the bytes, in a thread, since the build's own answer is read meanwhile.
# What we do not offer is answered "unimplemented" and an unknown secret "not found"; BuildKit lives with both.

# The Huffman code of RFC 7541 is canonical: for each length in bits its symbols, in order.
HUFFMAN_SYMBOLS = {
    5: b"012aceiost", 6: b" %-./3456789=A_bdfghlmnpru", 7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz", 8: b"&*,;XZ",
    10: b"!\"()?", 11: b"'+|", 12: b"#>", 13: b"\0$@[]~", 14: b"^}", 15: b"<`{", 19: b"\\\xc3\xd0",
    20: b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2", 21: b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6",
    22: b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4\xc6\xe4\xe8\xe9",
    23: b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6\xb7\xbc\xbf\xc5"
        b"\xe7\xef",
    24: b"\t\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed", 25: b"\xc7\xcf\xea\xeb",
    26: b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff",
    27: b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe",
    28: b"\2\3\4\5\6\7\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f\xdc\xf9",
    30: b"\n\r\x16",
}
STATIC_HEADERS = """:authority|:method GET|:method POST|:path /|:path /index.html|:scheme http|:scheme https|
:status 200|:status 204|:status 206|:status 304|:status 400|:status 404|:status 500|accept-charset|
accept-encoding gzip, deflate|accept-language|accept-ranges|accept|access-control-allow-origin|age|allow|
authorization|cache-control|content-disposition|content-encoding|content-language|content-length|content-location|
content-range|content-type|cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|
if-range|if-unmodified-since|last-modified|link|location|max-forwards|proxy-authenticate|proxy-authorization|range|
referer|refresh|retry-after|server|set-cookie|strict-transport-security|transfer-encoding|user-agent|vary|via|
www-authenticate""".replace("\n", "").split("|")

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32  # flags of those frames
FRAME_LIMIT = 1 << 14  # bytes of a frame that we take, as HTTP/2 has it unless told otherwise
REQUEST_LIMIT = 1 << 20  # bytes of a request, of its headers too; real ones have a few dozen
STREAM_LIMIT = 1000  # requests that are open at once

HEALTH = "/grpc.health.v1.Health/Check"
GET_SECRET = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
CREDENTIALS = "/moby.filesync.v1.Auth/Credentials"
NOT_FOUND, UNKNOWN, UNIMPLEMENTED, INTERNAL = 5, 2, 12, 13  # gRPC's own numbers


class Protobuf:
    """A protobuf message without its description: what each field number holds, in order. Raises StreamError.

    >>> message = Protobuf(b"\\x08\\x96\\x01\\x12\\x02hi")
    >>> message.number(1), message.text(2), message.number(3), message.text(4)
    (150, 'hi', 0, '')
    """

    def __init__(self, data: bytes) -> None:
        self._numbers: dict[int, int] = {}
        self._bytes: dict[int, list[bytes]] = {}
        at = 0
        while at < len(data):
            key, at = parse_varint(data, at)
            field, kind = key >> 3, key & 7
            if kind == 0:
                self._numbers[field], at = parse_varint(data, at)
                continue
            if kind == 2:
                size, at = parse_varint(data, at)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise StreamError(f"a protobuf field of the unknown kind {kind}")
            if at + size > len(data):
                raise StreamError("a protobuf message is cut")
            self._bytes.setdefault(field, []).append(data[at:at + size])
            at += size

    def __contains__(self, field: int) -> bool:
        return field in self._numbers or field in self._bytes

    def number(self, field: int) -> int:
        """A number; 0 when absent."""
        return self._numbers.get(field, 0)

    def all(self, field: int) -> list[bytes]:
        """Every value of a repeated field of bytes, text or messages."""
        return self._bytes.get(field, [])

    def data(self, field: int) -> bytes:
        """Bytes, or a message; empty when absent."""
        return self.all(field)[-1] if field in self._bytes else b""

    def text(self, field: int) -> str:
        """Text; empty when absent."""
        return self.data(field).decode("utf-8", "replace")

    def time(self, field: int) -> float:
        """A timestamp in seconds; 0 when absent."""
        stamp = Protobuf(self.data(field))
        return stamp.number(1) + stamp.number(2) / 1e9


def parse_varint(data: bytes, at: int) -> tuple[int, int]:
    """A protobuf number and where it ends. Raises StreamError: it is cut or too long.

    >>> parse_varint(b"\\xac\\x02", 0)
    (300, 2)
    """
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise StreamError("a protobuf number is cut")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise StreamError("a protobuf number is too long")


def render_field(field: int, data: bytes) -> bytes:
    """One field of bytes, text or a message, as protobuf.

    >>> render_field(1, b"hi")
    b'\\n\\x02hi'
    """
    return render_varint(field << 3 | 2) + render_varint(len(data)) + data


def render_varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


class HpackDecoder:
    """The header blocks of one HTTP/2 connection to headers, in order. Source: RFC 7541.

    >>> HpackDecoder().decode(bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff"))[-1]
    (':authority', 'www.example.com')
    """

    def __init__(self, limit: int = 4096) -> None:
        self._limit = self._allowed = limit
        self._table: list[tuple[str, str]] = []
        self._codes: dict[tuple[int, int], int] = {}
        code = last = 0
        for length, symbols in HUFFMAN_SYMBOLS.items():
            code, last = code << (length - last), length
            for symbol in symbols:
                self._codes[length, code] = symbol
                code += 1

    def decode(self, block: bytes) -> list[tuple[str, str]]:
        """The headers in a whole block. Raises StreamError: it breaks the format."""
        headers, at = [], 0
        while at < len(block):
            first = block[at]
            if first & 0x80:
                index, at = self._read_number(block, at, 7)
                headers.append(self._look_up(index))
            elif first & 0xE0 == 0x20:
                size, at = self._read_number(block, at, 5)
                if size > self._allowed or headers:
                    raise StreamError("a header table is resized against the rules")
                self._limit = size
                self._evict()
            else:
                index, at = self._read_number(block, at, 6 if first & 0x40 else 4)
                if index:
                    name = self._look_up(index)[0]
                else:
                    name, at = self._read_text(block, at)
                value, at = self._read_text(block, at)
                headers.append((name, value))
                if first & 0x40:
                    self._table.insert(0, (name, value))
                    self._evict()
        return headers

    def _evict(self) -> None:
        while sum(len(name) + len(value) + 32 for name, value in self._table) > self._limit:
            self._table.pop()

    def _look_up(self, index: int) -> tuple[str, str]:
        if 0 < index <= len(STATIC_HEADERS):
            name, _, value = STATIC_HEADERS[index - 1].partition(" ")
            return name, value
        index -= len(STATIC_HEADERS) + 1
        if not 0 <= index < len(self._table):
            raise StreamError("a header refers to none")
        return self._table[index]

    @staticmethod
    def _read_number(block: bytes, at: int, bits: int) -> tuple[int, int]:
        mask = (1 << bits) - 1
        if at >= len(block):
            raise StreamError("a header is cut")
        value, at = block[at] & mask, at + 1
        if value < mask:
            return value, at
        for shift in range(0, 35, 7):
            if at >= len(block):
                raise StreamError("a header is cut")
            byte, at = block[at], at + 1
            value += (byte & 127) << shift
            if byte < 128:
                return value, at
        raise StreamError("a number in a header is too long")

    def _read_text(self, block: bytes, at: int) -> tuple[str, int]:
        packed = at < len(block) and block[at] & 0x80
        size, at = self._read_number(block, at, 7)
        data = block[at:at + size]
        if len(data) < size:
            raise StreamError("a header is cut")
        return (self._unpack(data) if packed else data).decode("latin-1"), at + size

    def _unpack(self, data: bytes) -> bytes:
        out, code, length = bytearray(), 0, 0
        for byte in data:
            for bit in range(7, -1, -1):
                code, length = code << 1 | byte >> bit & 1, length + 1
                symbol = self._codes.get((length, code))
                if symbol is not None:
                    out.append(symbol)
                    code = length = 0
        if length > 7 or code != (1 << length) - 1:
            raise StreamError("a header's Huffman code is broken")
        return bytes(out)


def render_headers(headers: Iterable[tuple[str, str]]) -> bytes:
    """Headers as a block that needs no table and no Huffman code.

    >>> HpackDecoder().decode(render_headers([("grpc-status", "0"), ("x", "y" * 300)]))[1] == ("x", "y" * 300)
    True
    """
    out = bytearray()
    for header in headers:
        out.append(0)
        for text in header:
            data = text.encode("latin-1")
            if len(data) < 127:
                out.append(len(data))
            else:
                out += b"\x7f" + render_varint(len(data) - 127)
            out += data
    return bytes(out)


class RpcReply(NamedTuple):
    """What a method answers: a message, or a gRPC status other than 0 and why."""

    data: bytes = b""
    status: int = 0
    why: str = ""


Method = Callable[[bytes], RpcReply]


def session_methods(secrets: Mapping[str, bytes]) -> dict[str, Method]:
    """The methods that a build may call, by path. Source: moby/buildkit, session/secrets and session/auth, *.proto.

    There are no credentials: what a build starts from was pulled before it.
    """
    def get_secret(request: bytes) -> RpcReply:
        name = Protobuf(request).text(1)
        if name not in secrets:
            return RpcReply(status=NOT_FOUND, why=f"secret {name}: not found")
        return RpcReply(render_field(1, secrets[name]))

    return {HEALTH: lambda request: RpcReply(b"\x08\x01"), GET_SECRET: get_secret,
            CREDENTIALS: lambda request: RpcReply()}


def session_headers(uuid: str, methods: Iterable[str]) -> list[tuple[str, str]]:
    """The headers that announce a session to the engine."""
    return [("X-Docker-Expose-Session-Uuid", uuid), ("X-Docker-Expose-Session-Name", "cog"),
            ("X-Docker-Expose-Session-Sharedkey", ""),
            *(("X-Docker-Expose-Session-Grpc-Method", method) for method in methods)]


class _Request:
    """One request on its own HTTP/2 stream, and the answer as far as it is not sent."""

    def __init__(self, window: int) -> None:
        self.window = window  # bytes that the peer still takes on this stream
        self.block, self.path, self.body = b"", "", b""
        self.whole = False  # the headers are there
        self.ended = False  # and so is all else
        self.answer, self.trailer = b"", b""


class Session:
    """BuildKit's session as a machine: `feed` takes what it sent and returns what to send back. No I/O.

    Source: RFC 9113 and grpc/grpc, doc/PROTOCOL-HTTP2.md.
    """

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        self._hpack = HpackDecoder()
        self._held, self._out = b"", bytearray()
        self._greeted, self._open_headers = False, 0  # the stream whose headers still go on
        self._requests: dict[int, _Request] = {}
        self._last = 0
        self._window, self._first_window, self._frame_limit = 65535, 65535, FRAME_LIMIT
        self.calls: list[tuple[str, int]] = []  # what was asked since the caller last looked, and the answer's status
        self.ended = False  # the peer said that it is going

    def feed(self, data: bytes) -> bytes:
        """The bytes to send in answer to these. Raises StreamError: the peer breaks the protocol."""
        self._held += data
        if not self._greeted:
            start = self._held[:len(HTTP2_PREFACE)]
            if not HTTP2_PREFACE.startswith(start):
                raise StreamError("the builder's session does not speak HTTP/2")
            if len(start) < len(HTTP2_PREFACE):
                return b""
            self._greeted, self._held = True, self._held[len(start):]
            self._send(SETTINGS, 0, 0)
        at = 0
        while len(self._held) - at >= 9:
            size = int.from_bytes(self._held[at:at + 3], "big")
            if size > FRAME_LIMIT:
                raise StreamError("the builder's session sends a frame that is too large")
            if len(self._held) - at - 9 < size:
                break
            kind, flags = self._held[at + 3], self._held[at + 4]
            stream = int.from_bytes(self._held[at + 5:at + 9], "big") & 0x7FFFFFFF
            self._take(kind, flags, stream, self._held[at + 9:at + 9 + size])
            at += 9 + size
        self._held = self._held[at:]
        self._flush()
        out, self._out = bytes(self._out), bytearray()
        return out

    def _send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self._out += len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """One frame."""
        if self._open_headers and (kind != CONTINUATION or stream != self._open_headers):
            raise StreamError("the builder's session breaks off its headers")
        if kind == SETTINGS and not flags & ACK:
            self._take_settings(payload)
        elif kind == PING and not flags & ACK:
            self._send(PING, ACK, 0, payload)
        elif kind == GOAWAY:
            self.ended = True
        elif kind == WINDOW_UPDATE:
            self._take_window(stream, payload)
        elif kind == RST_STREAM:
            self._requests.pop(stream, None)
        elif kind in (HEADERS, CONTINUATION):
            self._take_headers(kind, flags, stream, payload)
        elif kind == DATA:
            self._take_data(flags, stream, payload)

    def _take_settings(self, payload: bytes) -> None:
        if len(payload) % 6:
            raise StreamError("the builder's session sends settings that are cut")
        for at in range(0, len(payload), 6):
            name, value = int.from_bytes(payload[at:at + 2], "big"), int.from_bytes(payload[at + 2:at + 6], "big")
            if name == 4:
                for request in self._requests.values():
                    request.window += value - self._first_window
                self._first_window = value
            elif name == 5:
                self._frame_limit = max(value, FRAME_LIMIT)
        self._send(SETTINGS, ACK, 0)

    def _take_window(self, stream: int, payload: bytes) -> None:
        more = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if stream == 0:
            self._window += more
        elif stream in self._requests:
            self._requests[stream].window += more

    def _take_headers(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HEADERS:
            payload = unpad(flags, payload)
            payload = payload[5:] if flags & PRIORITY else payload
            if stream % 2 == 0 or (stream <= self._last and stream not in self._requests):
                raise StreamError("the builder's session opens a stream against the rules")
            self._last = max(self._last, stream)
            request = self._requests.setdefault(stream, _Request(self._first_window))
            request.ended = request.ended or bool(flags & END_STREAM)
        elif not self._open_headers:
            raise StreamError("the builder's session goes on with headers that it never began")
        request = self._requests[stream]
        request.block += payload
        if len(request.block) > REQUEST_LIMIT or len(self._requests) > STREAM_LIMIT:
            raise StreamError("the builder's session asks for too much")
        self._open_headers = 0 if flags & END_HEADERS else stream
        if flags & END_HEADERS:
            headers = dict(self._hpack.decode(request.block))
            request.path = request.path or headers.get(":path", "")
            request.block, request.whole = b"", True
            self._answer_if_whole(stream, request)

    def _take_data(self, flags: int, stream: int, payload: bytes) -> None:
        if payload:  # padding counts as well
            self._send(WINDOW_UPDATE, 0, 0, len(payload).to_bytes(4, "big"))
        request = self._requests.get(stream)
        if request is None:
            return
        if payload and not flags & END_STREAM:
            self._send(WINDOW_UPDATE, 0, stream, len(payload).to_bytes(4, "big"))
        request.body += unpad(flags, payload)
        if len(request.body) > REQUEST_LIMIT:
            raise StreamError("the builder's session asks for too much")
        request.ended = bool(flags & END_STREAM)
        self._answer_if_whole(stream, request)

    def _answer_if_whole(self, stream: int, request: _Request) -> None:
        if not (request.whole and request.ended) or request.trailer:
            return
        reply = self._call(request.path, request.body)
        self.calls.append((request.path, reply.status))
        head = [(":status", "200"), ("content-type", "application/grpc")]
        tail = [("grpc-status", str(reply.status))]
        tail += [("grpc-message", quote_message(reply.why))] if reply.why else []
        if reply.status:
            self._send(HEADERS, END_HEADERS | END_STREAM, stream, render_headers(head + tail))
            del self._requests[stream]
            return
        self._send(HEADERS, END_HEADERS, stream, render_headers(head))
        request.answer = b"\0" + len(reply.data).to_bytes(4, "big") + reply.data
        request.trailer = render_headers(tail)

    def _call(self, path: str, body: bytes) -> RpcReply:
        method = self._methods.get(path)
        if method is None:
            return RpcReply(status=UNIMPLEMENTED, why=f"unknown method {path}")
        if len(body) < 5 or body[0] or int.from_bytes(body[1:5], "big") != len(body) - 5:
            return RpcReply(status=INTERNAL, why="not one plain message")
        try:
            return method(body[5:])
        except StreamError as error:
            return RpcReply(status=UNKNOWN, why=str(error))

    def _flush(self) -> None:
        """Send what the peer's windows let through."""
        for stream, request in list(self._requests.items()):
            while request.answer:
                size = min(len(request.answer), self._frame_limit, self._window, request.window)
                if size <= 0:
                    break
                self._send(DATA, 0, stream, request.answer[:size])
                request.answer = request.answer[size:]
                self._window -= size
                request.window -= size
            if request.trailer and not request.answer:
                self._send(HEADERS, END_HEADERS | END_STREAM, stream, request.trailer)
                del self._requests[stream]


def unpad(flags: int, payload: bytes) -> bytes:
    """A frame's payload without its padding. Raises StreamError: there is more padding than payload."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] > len(payload) - 1:
        raise StreamError("the builder's session pads a frame beyond its end")
    return payload[1:len(payload) - payload[0]]


def quote_message(text: str) -> str:
    """A message as a gRPC header carries it: printable ASCII, the rest percent-encoded.

    >>> quote_message("100% für\\n")
    '100%25 f%C3%BCr%0A'
    """
    return "".join(chr(byte) if 32 <= byte < 127 and byte != 37 else f"%{byte:02X}"
                   for byte in text.encode("utf-8", "replace"))


class SessionPump:
    """A session that is being served, in a thread of its own, from `with` to the end of its block."""

    def __init__(self, session: Session, transport: Transport,
                 debug: Callable[[str], None] = lambda text: None) -> None:
        import threading

        self._session, self._transport, self._debug = session, transport, debug
        self._wake_read, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name="build session", daemon=True)

    def __enter__(self) -> SessionPump:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._wake)
        self._thread.join(2)  # longer only where a credential helper hangs
        os.close(self._wake_read)
        self._transport.close()

    def _run(self) -> None:
        try:
            self._serve()
        except (CogError, OSError) as error:  # the build itself will say that it lost its session
            self._debug(f"build session: {error}")

    def _serve(self) -> None:
        import select

        out = b""
        while not self._session.ended or out:
            if not self._transport.pending():
                peer, wake = self._transport.fileno(), self._wake_read
                readable, _, _ = select.select([peer, wake], [peer] if out else [], [])
                if wake in readable:
                    return
            try:
                data = self._transport.recv(1 << 16)
                if not data:
                    return
                out += self._session.feed(data)
            except BlockingIOError:
                pass
            for path, status in self._session.calls:
                self._debug(f"build session: {path}: {status}")
            self._session.calls.clear()
            if out:
                try:
                    out = out[self._transport.send(out):]
                except BlockingIOError:
                    pass


# == 14. Build ================================================================
# What a model runs in, made or fetched: an image, by the engine.
# In: the query and the context of a build; what a builder says and asks for meanwhile. Out: an image's id; on the way
# what a person reads of it. What ends us ends the build and removes what is half made.


# -- what a builder says while it works
# In: the lines of a build's answer, from BuildKit (a protobuf trace), the classic builder or Podman (their text).
# Out: the same few events from all of them, and from those what a person reads: plain lines, or a live region.

LOG_LINE = 1 << 16  # bytes of a log line without an end that are held
LOG_KEPT = 1 << 20  # bytes of a step's log that are kept, in case it fails
NOISE = (r"failed to solve: |failed to solve with frontend [\w.]+: |rpc error: code = \w+ desc = |"
         r"failed to create LLB definition: ")  # what BuildKit puts before the cause
BUILDER_NOTE = (r" ?-{2,3}> (Running in |Using cache|Pushing cache|Removed intermediate container )?[0-9a-f]{6,64}$|"
                r"Removing intermediate container [0-9a-f]+$")  # lines in a step's output that are the builder's own


class StepsKnown(NamedTuple):
    """How many steps the build has, as far as the builder knows."""

    total: int


class StepStarted(NamedTuple):
    """A step began."""

    step: int
    name: str


class StepCached(NamedTuple):
    """A step need not run: its result was there."""

    step: int


class StepDone(NamedTuple):
    """A step ended well, after so many seconds."""

    step: int
    seconds: float


class StepFailed(NamedTuple):
    """A step failed, or was called off since another one failed."""

    step: int
    message: str

    @property
    def canceled(self) -> bool:
        """Whether the failure is another step's."""
        return self.message.endswith("context canceled")


class StepLog(NamedTuple):
    """A line of a step's own output, so many seconds after the step began."""

    step: int
    line: bytes
    seconds: float


class Transfer(NamedTuple):
    """How far a download or an upload inside a step is, in bytes; the total is 0 while nobody knows it."""

    step: int
    what: str
    current: int
    total: int
    done: bool


class BuildWarning(NamedTuple):
    """What the builder finds questionable in the Dockerfile."""

    text: str


class ImageId(NamedTuple):
    """The image that came out."""

    id: str


class BuildError(NamedTuple):
    """Why there is no image, in the builder's words."""

    message: str


BuildEvent = Union[StepsKnown, StepStarted, StepCached, StepDone, StepFailed, StepLog, Transfer, BuildWarning, ImageId,
                   BuildError]


class TraceParser:
    """The lines of a build's answer to events, whichever builder sends them.

    Source: moby/buildkit, api/services/control/control.proto, StatusResponse; the text of the classic builder and of
    buildah, whose seconds are counted here with `clock`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._trace = _VertexReader()
        self._text = _TextReader(clock)
        self._traced = False

    def feed(self, line: JSON) -> list[BuildEvent]:
        """What one line says. Raises StreamError: its trace is broken."""
        import binascii

        if line.get("id") == "moby.buildkit.trace":
            self._traced = True
            try:
                data = binascii.a2b_base64(line.get("aux") or "")
            except (binascii.Error, TypeError, ValueError) as error:
                raise StreamError("the builder's trace is not base64") from error
            return self._trace.read(data)
        aux, detail = line.get("aux"), line.get("errorDetail")
        if isinstance(aux, dict) and isinstance(aux.get("ID"), str):
            return [ImageId(aux["ID"])]
        if line.get("error") or isinstance(detail, dict):
            message = str((isinstance(detail, dict) and detail.get("message")) or line.get("error"))
            return self._fail(message)
        if self._traced:
            return []
        if isinstance(line.get("stream"), str):
            return self._text.read(line["stream"].encode("utf-8", "surrogateescape"))
        return self._text.read_status(line)

    def _fail(self, message: str) -> list[BuildEvent]:
        import re

        events = [] if self._traced else self._text.fail(message)
        return [*events, BuildError(re.sub(f"^(?:{NOISE})+", "", message.strip()))]


class _Vertex:
    """A step of BuildKit's, as far as it was told."""

    def __init__(self) -> None:
        self.number, self.begun, self.ended = 0, 0.0, False
        self.partial: dict[int, bytes] = {}  # of each of its two streams, the line that has no end yet


class _VertexReader:
    """BuildKit's trace to events. Steps are numbered as they start; what is told again changes nothing."""

    def __init__(self) -> None:
        self._vertices: dict[bytes, _Vertex] = {}
        self._started = 0

    def read(self, data: bytes) -> list[BuildEvent]:
        """The events in one StatusResponse."""
        response, known = Protobuf(data), len(self._vertices)
        events: list[BuildEvent] = []
        for raw in response.all(1):
            events += self._read_vertex(Protobuf(raw))
        for raw in response.all(2):
            events += self._read_status(Protobuf(raw))
        for raw in response.all(3):
            events += self._read_log(Protobuf(raw))
        for raw in response.all(4):
            events += self._read_warning(Protobuf(raw))
        if len(self._vertices) != known:
            events.insert(0, StepsKnown(len(self._vertices)))
        return events

    def _read_vertex(self, told: Protobuf) -> Iterator[BuildEvent]:
        vertex = self._vertices.setdefault(told.data(1), _Vertex())
        if (5 in told or 6 in told) and not vertex.number:
            self._started += 1
            vertex.number, vertex.begun = self._started, told.time(5)
            yield StepStarted(vertex.number, told.text(3))
        if 6 not in told or vertex.ended:
            return
        vertex.ended = True
        for stream, line in vertex.partial.items():
            if line:
                yield StepLog(vertex.number, line, max(0.0, told.time(6) - vertex.begun))
            vertex.partial[stream] = b""
        if 7 in told:
            yield StepFailed(vertex.number, told.text(7))
        elif told.number(4):
            yield StepCached(vertex.number)
        else:
            yield StepDone(vertex.number, max(0.0, told.time(6) - vertex.begun) if vertex.begun else 0.0)

    def _read_status(self, told: Protobuf) -> Iterator[BuildEvent]:
        vertex = self._vertices.get(told.data(2))
        if vertex and vertex.number and told.number(4):
            yield Transfer(vertex.number, told.text(1), told.number(4), told.number(5), 8 in told)

    def _read_log(self, told: Protobuf) -> Iterator[BuildEvent]:
        vertex = self._vertices.get(told.data(1))
        if not vertex or not vertex.number:
            return
        seconds = max(0.0, told.time(2) - vertex.begun)
        *lines, rest = (vertex.partial.get(told.number(3), b"") + told.data(4)).split(b"\n")
        if len(rest) > LOG_LINE:
            lines, rest = [*lines, rest], b""
        vertex.partial[told.number(3)] = rest
        for line in lines:
            yield StepLog(vertex.number, line, seconds)

    @staticmethod
    def _read_warning(told: Protobuf) -> Iterator[BuildEvent]:
        line = Protobuf(Protobuf(told.data(7)).data(1)).number(1)
        yield BuildWarning((f"line {line}: " if line else "") + told.text(3))


class _TextReader:
    """What the classic builder and buildah print, to events: one step after the other."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held = b""
        self._step, self._total, self._begun, self._over = 0, 0, 0.0, True
        self._committing = False  # nothing but image ids is printed any more

    def read(self, data: bytes) -> list[BuildEvent]:
        """The events in a piece of text, which may end anywhere."""
        import re

        if self._held and re.match(BUILDER_NOTE, data.decode("utf-8", "replace")):
            self._held += b"\n"  # the step's own output did not end its last line
        *lines, self._held = (self._held + data).split(b"\n")
        if len(self._held) > LOG_LINE:
            lines, self._held = [*lines, self._held], b""
        return [event for line in lines for event in self._read_line(line)]

    def read_status(self, line: JSON) -> list[BuildEvent]:
        """The events in a line of a pull, which the classic builder passes on."""
        detail, what = line.get("progressDetail"), f"{line.get('id') or ''} {line.get('status') or ''}".strip()
        if not self._step or not what:
            return []
        if isinstance(detail, dict) and isinstance(detail.get("current"), int):
            total = detail.get("total")
            return [Transfer(self._step, what, detail["current"], total if isinstance(total, int) else 0, False)]
        return []

    def fail(self, message: str) -> list[BuildEvent]:
        """The step that runs has failed."""
        events = [StepLog(self._step, self._held, self._clock() - self._begun)] if self._held and self._step else []
        if self._over:
            return [*events]
        self._over, self._held = True, b""
        return [*events, StepFailed(self._step, message)]

    def _read_line(self, line: bytes) -> list[BuildEvent]:
        import re

        text = line.decode("utf-8", "replace").rstrip("\r")
        found = re.fullmatch(r"(?:\[(\d+/\d+)\] )?S(?:TEP|tep) (\d+)/(\d+) ?: (.*)", text)
        if found:
            stage = f"{found[1]} " if found[1] else ""
            return self._start(f"[{stage}{found[2]}/{found[3]}] {found[4]}", max(self._total, int(found[3])))
        if re.fullmatch(r"COMMIT( .*)?", text) and self._step:
            self._committing = True
            return self._start("exporting to image", self._total)
        if re.match(r"Successfully (built|tagged) ", text):
            return self._end(StepDone(self._step, self._clock() - self._begun))
        if re.match(r" ?-{2,3}> Using cache\b", text):
            return self._end(StepCached(self._step))
        if self._committing or re.match(BUILDER_NOTE, text) or (not text and self._over):
            return []
        return [StepLog(self._step, line.rstrip(b"\r"), self._clock() - self._begun)] if self._step else []

    def _start(self, name: str, total: int) -> list[BuildEvent]:
        events = self._end(StepDone(self._step, self._clock() - self._begun))
        if total != self._total:
            self._total = total
            events.append(StepsKnown(total))
        self._step, self._begun, self._over = self._step + 1, self._clock(), False
        return [*events, StepStarted(self._step, name)]

    def _end(self, event: BuildEvent) -> list[BuildEvent]:
        if self._over:
            return []
        self._over = True
        return [event]


class _Step:
    """A step as it is shown."""

    def __init__(self, name: str, begun: float) -> None:
        from collections import deque

        self.name, self.begun, self.state, self.seconds = name, begun, "", -1.0  # no seconds yet: it runs
        self.log: deque[bytes] = deque()
        self.size, self.cut = 0, False
        self.transfers: dict[str, Transfer] = {}

    def keep(self, line: bytes) -> None:
        """Remember a log line, and forget the oldest beyond LOG_KEPT bytes."""
        self.log.append(line)
        self.size += len(line) + 1
        while self.size > LOG_KEPT and len(self.log) > 1:
            self.size -= len(self.log.popleft()) + 1
            self.cut = True

    def end(self, state: str, seconds: float) -> None:
        """Note how it ended; what only matters while it runs is dropped."""
        self.state, self.seconds = state, seconds
        self.transfers = {}


class BuildProgress:
    """The events of a build to what a person reads, in the manner of BuildKit's own client."""

    def __init__(self, now: float, *, lines: int = 16, tail: int = 5) -> None:
        self._begun, self._lines, self._tail = now, lines, tail
        self._steps: dict[int, _Step] = {}
        self._total, self._shown, self._failed = 0, 0, 0
        self.sent = 0  # bytes of the context that were sent; the caller counts

    def add(self, event: BuildEvent, now: float) -> list[str]:
        """Take an event in; return the plain lines that tell it."""
        if isinstance(event, StepsKnown):
            self._total = event.total
        elif isinstance(event, StepStarted):
            self._steps[event.step] = _Step(event.name, now)
            return self._plain(event.step)
        elif isinstance(event, (StepCached, StepDone, StepFailed, StepLog, Transfer)) and event.step in self._steps:
            return self._add_to_step(event, self._steps[event.step], now)
        return []

    def _add_to_step(self, event: StepCached | StepDone | StepFailed | StepLog | Transfer, step: _Step,
                     now: float) -> list[str]:
        if isinstance(event, StepLog):
            step.keep(event.line)
            return self._plain(event.step, f"{event.seconds:.3f} {plain_text(event.line)}".rstrip())
        if isinstance(event, Transfer):
            told = step.transfers.get(event.what)
            step.transfers[event.what] = event
            return self._plain(event.step, transfer_text(event)) if event.done and not (told and told.done) else []
        if isinstance(event, StepFailed):
            step.end("CANCELED" if event.canceled else "ERROR", now - step.begun)
            if event.canceled:
                return self._plain(event.step, "CANCELED")
            self._failed = event.step
            return self._plain(event.step, f"ERROR: {plain_text(event.message.encode())}")
        if isinstance(event, StepCached):
            step.end("CACHED", 0.0)
            text = "CACHED"
        else:
            step.end("", event.seconds)
            text = f"DONE {event.seconds:.1f}s"
        step.log.clear()
        return self._plain(event.step, text)

    def _plain(self, number: int, *texts: str) -> list[str]:
        """Lines about one step, under its name when the last lines were another one's."""
        lines = []
        if self._shown != number:
            if self._shown:
                running = self._steps[self._shown].seconds < 0
                lines = [f"#{self._shown} ...", ""] if running else [""]
            self._shown = number
            lines.append(f"#{number} {plain_text(self._steps[number].name.encode())}")
        return lines + [f"#{number} {text}" for text in texts]

    def region(self, width: int, now: float) -> list[str]:
        """The state of the build as a few lines for a terminal so many columns wide."""
        running = [step for step in self._steps.values() if step.seconds < 0]
        details = {id(step): self._details(step) for step in running}
        done = len(self._steps) - len(running)
        count = f" ({done}/{max(self._total, len(self._steps))})" if self._steps else ""
        sent = f" sent {render_size(self.sent)}" if self.sent and not self._steps else ""
        room = self._lines - 1 - len(running) - sum(map(len, details.values()))
        ended = [step for step in self._steps.values() if step.seconds >= 0]
        kept = {id(step) for step in ended[max(0, len(ended) - room):]} if room > 0 else set()
        lines = []
        for step in self._steps.values():
            if step.seconds < 0 or id(step) in kept:
                seconds = now - step.begun if step.seconds < 0 else step.seconds
                name = f"{step.state} {step.name}".strip()
                lines.append(fill_line(f" => {name}", f" {max(0.0, seconds):.1f}s", width))
                lines += [fill_line(f" => => {text}", "", width) for text in details.get(id(step), ())]
        head = fill_line(f"[+] Building {max(0.0, now - self._begun):.1f}s{count}{sent}", "", width)
        return [head, *lines[-(self._lines - 1):]]

    def _details(self, step: _Step) -> list[str]:
        moving = [transfer_text(transfer) for transfer in step.transfers.values() if not transfer.done]
        tail = list(step.log)[-self._tail:] if step.log else []
        return moving[-self._tail:] or [f"# {plain_text(line)}" for line in tail]

    def failure(self) -> list[str]:
        """The step that failed and its whole log, as far as it was kept; empty when none did."""
        if not self._failed:
            return []
        step = self._steps[self._failed]
        cut = ["[earlier output was left out]"] if step.cut else []
        log = [plain_text(line) for line in step.log]
        return ["------", f" > {plain_text(step.name.encode())}:", *cut, *log, "------"]


def transfer_text(transfer: Transfer) -> str:
    """How far a transfer is, for people.

    >>> transfer_text(Transfer(1, "sha256:" + "0123456789abcdef" * 4, 1_500_000, 3_000_000, False))
    'sha256:0123456789ab 1.5 MB / 3.0 MB'
    """
    what = transfer.what[:19] if transfer.what.startswith("sha256:") else transfer.what
    total = f" / {render_size(transfer.total)}" if transfer.total else ""
    return f"{plain_text(what.encode())} {render_size(transfer.current)}{total}{' done' if transfer.done else ''}"


def plain_text(line: bytes) -> str:
    r"""A log line as text: colours and other control characters gone, and what a carriage return overwrote.

    >>> plain_text(b"\x1b[91m10%\r\x1b[2Kwarn\x07ing\tdone\x1b[0m\r")
    'warning done'
    """
    import re

    text = re.sub(rb"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])", b"", line).rstrip(b"\r")
    whole = text[text.rfind(b"\r") + 1:].decode("utf-8", "replace").expandtabs(1)
    return "".join(char for char in whole if char.isprintable())


def fill_line(left: str, right: str, width: int) -> str:
    """Both texts on one line of that width, the left one cut or filled up; wide characters count twice.

    >>> fill_line(" => [1/2] RUN something long", " 1.2s", 20), fill_line(" => \u5bb6", "1s", 10)
    (' => [1/2] RUN s 1.2s', ' => \u5bb6  1s')
    """
    room = max(0, width - len(right))
    left = plain_text(left.encode("utf-8", "replace"))
    if left.isascii():
        return left[:room].ljust(room if right else 0) + right
    kept, used = "", 0
    for char in left:
        used += columns(char)
        if used > room:
            used -= columns(char)
            break
        kept += char
    return kept + (" " * (room - used) + right if right else "")


def columns(char: str) -> int:
    """How many columns of a terminal a character takes."""
    import unicodedata

    return 0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1


# -- an image, built or pulled

CONTEXT_TOLD = 5.0  # seconds between two plain lines about a context that is being sent


class BuildView:
    """What a user sees of a build: a live region that keeps time, or plain lines, or only the log of a failure."""

    def __init__(self, console: Console, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic,
                 on_export: Callable[[], object] = lambda: None) -> None:
        import threading

        self._console, self._quiet, self._clock, self._on_export = console, quiet, clock, on_export
        self._live = console.live and not quiet
        self._progress, self._parser = BuildProgress(clock()), TraceParser(clock)
        self._over, self._lock = threading.Event(), threading.Lock()
        self._ticker = threading.Thread(target=self._tick, name="build progress", daemon=True)
        self._drawn = 0.0
        self.image, self.error = "", ""

    def __enter__(self) -> BuildView:
        if self._live:
            self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._live:
            self._ticker.join()
            self._console.region([])

    def count(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The context as it is sent, counted; plain lines say every few seconds how far it is."""
        told = self._clock()
        for piece in pieces:
            yield piece
            self._progress.sent += len(piece)
            if self._clock() - told >= CONTEXT_TOLD and not self._live and not self._quiet:
                told = self._clock()
                self._console.info(f"sending the build context: {render_size(self._progress.sent)}")

    def take(self, line: JSON) -> None:
        """Show one line of the builder's. Raises StreamError: it is broken."""
        for event in self._parser.feed(line):
            with self._lock:
                lines = self._progress.add(event, self._clock())
                if self._live:
                    self._draw(due=0.05)
                elif not self._quiet:
                    for text in lines:
                        self._console.info(text)
            if isinstance(event, StepStarted) and event.name.startswith("exporting"):
                self._on_export()
            if isinstance(event, ImageId):
                self.image = event.id
            elif isinstance(event, BuildError):
                self.error = event.message
            elif isinstance(event, BuildWarning):
                self._console.debug(f"build: {event.text}")

    def failure(self) -> list[str]:
        """The step that failed, and its log."""
        return self._progress.failure()

    def show_failure(self) -> None:
        """Show the log of the step that failed, where it was not shown while it came."""
        if self._live or self._quiet:
            for text in self.failure():
                self._console.log(text.encode("utf-8", "replace") + b"\n")

    def _tick(self) -> None:
        while not self._over.wait(0.1):
            with self._lock:
                self._draw()

    def _draw(self, due: float = 0.0) -> None:
        now = self._clock()
        if now - self._drawn >= due:
            self._drawn = now
            self._console.region(self._progress.region(self._console.width, now))


def build_image(engine: Engine, console: Console, *, query: Mapping[str, str], context: Iterable[bytes],
                secrets: Mapping[str, bytes] | None = None, quiet: bool = False,
                on_export: Callable[[], object] = lambda: None) -> str:
    """The id of the image that a context builds, shown as it comes about; with `quiet` only a failure is shown.
    `on_export` is called when all steps are done, and the engine makes the image.

    A session is opened where secrets are given, none included: without one a step that mounts any fails, with one it
    does without. Podman, which has no sessions, gets them as files beside the context. Whatever ends this function ends
    the build.
    Raises BuildFailed: a step failed, its log was shown; EngineError; StreamError: the answer was cut.
    """
    import contextlib
    import re

    wanted = {"version": "2", "rm": "1", "forcerm": "1", **query}
    with contextlib.ExitStack() as stack:
        view = stack.enter_context(BuildView(console, quiet=quiet, on_export=on_export))
        pieces = view.count(context)
        if engine.is_podman:
            pieces, more = podman_secrets(pieces, secrets or {})
            wanted.update(more)
        elif secrets is not None:
            methods = session_methods(secrets)
            wanted["session"] = os.urandom(16).hex()
            transport = engine.session_open(session_headers(wanted["session"], methods))
            stack.enter_context(SessionPump(Session(methods), transport, console.debug))
        try:
            lines = engine.image_build(wanted, pieces)
        except EngineError as error:
            raise BuildFailed(f"the build could not begin: {error.message}", hint=build_hint(error.message)) from error
        with contextlib.closing(lines):  # type: ignore[type-var]
            for line in lines:
                view.take(line)
    if view.error:
        view.show_failure()
        kind = BuildDisturbed if re.search(DISTURBED, view.error) else BuildFailed
        raise kind(f"the build failed: {view.error}", hint=build_hint(view.error, view.failure()))
    if not view.image:
        raise StreamError("the build ended without an image and without an error")
    return view.image


def build_again(build: Callable[[], str], console: Console) -> str:
    """What `build` returns; it is begun once more where the end of another build broke it. Raises BuildFailed."""
    try:
        return build()
    except BuildDisturbed as error:
        console.info(f"{error}; as another build may have been interrupted, once more")
        return build()


def podman_secrets(context: Iterable[bytes], secrets: Mapping[str, bytes]) -> tuple[Iterator[bytes], dict[str, str]]:
    """The context with the secrets in front of it, and the query that keeps them out of the image."""
    import itertools
    import json

    if not secrets:
        return iter(context), {}
    places = {name: f"podman-build-secret{number}" for number, name in enumerate(sorted(secrets))}
    files = (tar_file(place, secrets[name], 0o600) for name, place in places.items())
    given = [f"id={name},src={place}" for name, place in places.items()]
    return itertools.chain(files, context), {"secrets": json.dumps(given)}


def build_from_files(engine: Engine, files: Mapping[str, Contents], query: Mapping[str, str], labels: Mapping[str, str],
                     console: Console, *, secrets: Mapping[str, bytes] | None = None, quiet: bool = True) -> str:
    """The id of an image with labels that is built from nothing but files of our making. Raises BuildFailed."""
    import itertools

    text = files[query["dockerfile"]]
    assert isinstance(text, bytes)
    query, text = add_labels(labels, query, text, podman=engine.is_podman)
    files = {**files, query["dockerfile"]: text}
    return build_again(lambda: build_image(engine, console, query=query, secrets=secrets, quiet=quiet,
                                           context=itertools.chain(render_extra_files(files), [TAR_END])), console)


def image_tags(image: JSON) -> list[str]:
    """The names of an image, listed or inspected.

    >>> image_tags({"RepoTags": ["<none>:<none>"]})
    []
    """
    return [tag for tag in image.get("RepoTags") or () if tag != "<none>:<none>"]


def remove_image(engine: Engine, name: str, console: Console, *, prune: bool = True) -> None:
    """Take a name from an image, and remove the image with its last one; where that fails, it stays."""
    try:
        engine.image_remove(name, prune=prune)
    except EngineError as error:
        console.debug(f"{name} stays: {error}")


def remove_nameless(engine: Engine, image: str, console: Console) -> None:
    """Remove an image whose name another one has got; one that has a name still, or that a container uses, stays."""
    if not image_tags(engine.image_inspect(image) or {}):
        remove_image(engine, image, console)


DISTURBED = r"context canceled|/overlay2/\S+: no such file"  # what Docker 20.10 says then
BASE_HINT = "--base-image NAME takes one that the engine has; all but build run without an image too: --engine none"


# What the last lines of a step that failed have, and what to do about it; {} is the regex's group. What pip and apt say
# they cannot find may be due to what cut them off, which comes first
STEP_HINTS = (
    (r"certificate.verif\w+.failed|self.signed certificate|local issuer certificate|invalid peer certificate",
     "where a proxy signs connections anew, COG_CA_CERT names its certificate authority"),
    (r"failure in name resolution|failure resolving|name or service not known|could not resolve (?:host|')|"
     "could not connect to|failed to establish a new connection|network is unreachable",
     "the step has no network: a proxy is taken from HTTPS_PROXY, a package index from pip's configuration"),
    (r"no matching distribution|no solution found",
     "the package index has none for this Python: look at the requirement, and at python_version in cog.yaml"),
    (r"\b(?:gcc|g\+\+|cc|c\+\+|make)'?(?:(?: failed)?: no such file|: (?:command )?not found)|"
     r"unable to execute '\S*gcc",
     "something there is built from its source, which takes a compiler: build.system_packages: [build-essential]; "
     "without an engine, this machine's own"),
    (r"unable to locate package (\S+)", "the distribution has no apt package {}; it may have another name there"),
    (r"(?:^|: )([\w.+-]+): (?-i:(?:command )?not found)$",
     "there is no {} there: name its apt package under build.system_packages; without an engine, install it"),
)


def step_hint(log: Iterable[str]) -> str:
    """What to do about a step that failed, judged by the last lines of its log; empty where they do not tell.

    >>> step_hint(["/bin/sh: 1: node: not found"])
    'there is no node there: name its apt package under build.system_packages; without an engine, install it'
    """
    import re

    text = "\n".join(list(log)[-40:])
    for pattern, hint in STEP_HINTS:
        found = re.search(pattern, text, re.I | re.M)
        if found:
            return hint.format(*found.groups())
    return ""


def build_hint(message: str, log: Iterable[str] = ()) -> str:
    """What to do about a failed build, judged by the builder's words and the failed step's log; empty where they do
    not tell.

    >>> build_hint("exit code: 1", ["OSError: [Errno 28] No space left on device"])
    'the engine has no room left; remove what it keeps for builds (docker builder prune) or unused images'
    >>> build_hint("executor failed running [/bin/sh -c x]: stat /var/lib/docker/overlay2/a: no such file or directory")
    'another build that shares a step with this one may have been interrupted; build once more'
    """
    import re

    log = list(log)[-40:]
    if "no space left on device" in "\n".join([message, *log]).lower():
        return "the engine has no room left; remove what it keeps for builds (docker builder prune) or unused images"
    no_base = (r"failed to resolve source metadata|failed to load metadata|/v2/\S*manifests/|pull access denied|"
               r"no such image|manifest unknown|failed to copy|initializing source docker://|no active sessions")
    if re.search(no_base, message, re.I):
        return f"the base image cannot be had: {BASE_HINT}"
    if re.search(DISTURBED, message):
        return "another build that shares a step with this one may have been interrupted; build once more"
    return step_hint(log)


class PullProgress:
    """What the events of a pull (or a load) come to: one status line, and a line for each layer that is finished."""

    def __init__(self) -> None:
        self._bytes: dict[str, tuple[int, int]] = {}  # layer: bytes that are here, bytes in all
        self._layers: dict[str, bool] = {}  # layer: whether it is finished
        self._began = 0.0

    def feed(self, event: JSON, now: float) -> list[str]:
        """Take one event at a time in seconds; return the lines to print."""
        layer, status = str(event.get("id") or ""), str(event.get("status") or "")
        detail = event.get("progressDetail") if isinstance(event.get("progressDetail"), dict) else {}
        assert isinstance(detail, dict)
        if not layer or status.startswith("Pulling from"):
            return []
        if status in ("Downloading", "Loading layer", "Copying blob"):
            self._began = self._began or now
            current, total = detail.get("current"), detail.get("total")
            if isinstance(current, int):
                self._bytes[layer] = (current, total if isinstance(total, int) and total > 0 else current)
        if status in ("Download complete", "Pull complete") and layer in self._bytes:
            self._bytes[layer] = (self._bytes[layer][1],) * 2
        finished = status in ("Pull complete", "Already exists", "Download complete")
        is_new = finished and not self._layers.get(layer)
        self._layers[layer] = finished or self._layers.get(layer, False)
        return [f"{layer}: {status.lower()}{self._size_of(layer)}"] if is_new and layer in self._bytes else []

    def _size_of(self, layer: str) -> str:
        return f", {render_size(self._bytes[layer][1])}"

    def status(self, now: float) -> str:
        """Bytes, speed and layers so far."""
        here, total = (sum(pair[at] for pair in self._bytes.values()) for at in (0, 1))
        seconds = now - self._began if self._began else 0.0
        texts = [f"{render_size(here)} of {render_size(total)}"] if total else []
        if total and seconds >= 0.5:
            texts.append(f"{render_size(int(here / seconds))}/s")
        if self._layers:
            texts.append(f"{sum(self._layers.values())} of {len(self._layers)} layers")
        return ", ".join(texts)


def pull_image(engine: Engine, image: str, console: Console, environ: Mapping[str, str], home: str,
               *, platform: str = "") -> None:
    """Pull an image with the user's credentials, showing how far it is. Raises EngineError; UsageError: no such name.

    A credential helper that fails is a warning: the image may be public.
    """
    try:
        auth = registry_auth(parse_reference(image), environ, home)
    except EngineError as error:
        console.warn(f"{error}; pulling without credentials")
        auth = ""
    progress = PullProgress()

    def show(event: JSON) -> None:
        now = time.monotonic()
        lines = progress.feed(event, now)
        if console.live:
            console.status(progress.status(now))
        else:
            for line in lines:
                console.info(line)

    console.phase(f"Pulling {image}...")
    engine.image_pull(image, platform=platform, auth=auth, on_event=show)
    console.done()


# == 15. Environment ==========================================================
# Without an engine: a virtual environment that has what a model's image would have, by pip or uv on this machine.
# In: a config. Out: an Environment, made whole or not at all; what ends us ends its making.

PYTHON_PROBE = """
import sys, json
from importlib.util import find_spec
try:
    import pip
    pip = pip.__version__
except Exception:
    pip = ""
print(json.dumps([sys.implementation.name, sys.executable, ".".join(map(str, sys.version_info[:3])),
                  bool(find_spec("venv")), bool(find_spec("ensurepip")), pip]))
"""
LEFTOVERS = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__", "VIRTUAL_ENV",
             "VIRTUAL_ENV_PROMPT", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV")
UV_INDEXES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS")
PIP_PYTHON = (22, 3)  # the first pip that installs into another Python's environment
STEP_LOG = 1 << 22  # bytes of an installation's log that are kept for a failure


class Interpreter(NamedTuple):
    """A Python of this machine, as it describes itself. `path` is no shim."""

    path: str
    version: str
    has_venv: bool
    has_ensurepip: bool
    pip: str  # its version, empty without one


class Environment(NamedTuple):
    """A virtual environment with a model's requirements and the runtime in it. Nobody changes it while `lock`, a
    descriptor, is open."""

    python: str
    folder: str
    version: str  # Python's
    runtime: str  # the version of cog
    lock: int


class EnvironmentJob(NamedTuple):
    """What an environment is made from."""

    folder: str
    config: Config
    settings: BuildSettings
    environ: Mapping[str, str]


def without_leftovers(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables but those that bend one Python or one pip to the ways of another.

    >>> without_leftovers({"PYTHONPATH": "/x", "HOME": "/me"})
    {'HOME': '/me'}
    """
    return {name: value for name, value in environ.items() if name not in LEFTOVERS}


def probe_python(path: str, environ: Mapping[str, str]) -> Interpreter | None:
    """What a Python says of itself; None if it is none, such as a shim with nothing behind it."""
    import json

    try:
        code, out, _ = run_program([path, "-Ic", PYTHON_PROBE], b"", without_leftovers(environ))
        name, *rest = json.loads(out.splitlines()[-1])
        found = Interpreter(*rest)
    except (OSError, ValueError, IndexError, TypeError):
        return None
    return found if code == 0 and name == "cpython" and found.path else None


def list_python_paths(minor: str, environ: Mapping[str, str]) -> Iterator[str]:
    """Where a Python of a minor version may lie on this machine, the likeliest first."""
    import glob

    home = environ.get("HOME", "")
    if sys.version_info[:2] == version_numbers(minor) and sys.executable:
        yield sys.executable
    path = [folder for folder in environ.get("PATH", "").split(os.pathsep) if folder]
    usual = ["/usr/local/bin", "/usr/bin", "/opt/homebrew/bin", f"/opt/homebrew/opt/python@{minor}/bin",
             f"/Library/Frameworks/Python.framework/Versions/{minor}/bin"]
    yield from (os.path.join(folder, f"python{minor}") for folder in [*path, *usual])
    pyenv = environ.get("PYENV_ROOT") or os.path.join(home, ".pyenv")
    uv = environ.get("UV_PYTHON_INSTALL_DIR") or os.path.join(
        environ.get("XDG_DATA_HOME") or os.path.join(home, ".local", "share"), "uv", "python")
    for found in (glob.glob(os.path.join(glob.escape(pyenv), "versions", f"{minor}.*", "bin", "python")),
                  glob.glob(os.path.join(glob.escape(uv), f"cpython-{minor}.*", "bin", f"python{minor}"))):
        yield from sorted(found, key=lambda name: version_numbers(name.split(os.sep)[-3].partition("-")[2] or
                                                                  name.split(os.sep)[-3]), reverse=True)
    yield from (os.path.join(folder, name) for folder in path for name in ("python3", "python"))


def is_script(path: str) -> bool:
    """Whether a program is text: a version manager's shim, slow to answer, and not always with a Python behind it."""
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def find_python(version: str, environ: Mapping[str, str], *, shims: bool = True) -> Interpreter | None:
    """A Python of this machine with this minor version, and this patch if there is one; None without any."""
    minor = ".".join(version.split(".")[:2])
    best: Interpreter | None = None
    paths = [path for path in dict.fromkeys(list_python_paths(minor, environ))
             if os.path.isfile(path) and os.access(path, os.X_OK)]
    scripts = [path for path in paths if is_script(path)]
    for path in [path for path in paths if path not in scripts] + (scripts if shims else []):
        found = None if best is not None and path in scripts else probe_python(path, environ)
        if found is None or not versions_match(found.version, minor):
            continue
        if versions_match(found.version, version) and found.has_venv:
            return found
        best = found if best is None or (found.has_venv and not best.has_venv) else best
    return best


def near_versions(version: str, named: bool) -> list[str]:
    """The minor versions that may stand in for one: the next and the previous, or all where cog.yaml names none.

    >>> near_versions("3.11.4", True), near_versions("3.13", False)
    (['3.12', '3.10'], ['3.14', '3.12', '3.11', '3.10', '3.9'])
    """
    wanted = (*version_numbers(version), 0)[1]
    every = sorted(range(9, NEWEST_PYTHON[1] + 1), key=lambda minor: (abs(minor - wanted), -minor))
    minors = [wanted + 1, wanted - 1] if named else every
    return [f"3.{minor}" for minor in minors if minor != wanted and OLDEST_PYTHON <= (3, minor) <= NEWEST_PYTHON]


def names_python(text: str) -> bool:
    """Whether the text of a cog.yaml sets python_version.

    >>> names_python('build: {"python_version": "3.9"}'), names_python("build:\\n  # python_version: 3.9")
    (True, False)
    """
    import re

    return re.search(r"""^[^#\n]*\bpython_version["']?\s*:""", text, re.M) is not None


def choose_pythons(config: Config, environ: Mapping[str, str]) -> list[Interpreter]:
    """The Python that cog.yaml asks for, else those that may do. Raises BuildFailed: this machine has none of them."""
    exact = find_python(config.python_version, environ)
    if exact is not None:
        return [exact]
    minor = ".".join(config.python_version.split(".")[:2])
    named = names_python(read_text(os.path.join(config.project, config.file_name)))
    found = [python for python in (find_python(near, environ) for near in near_versions(minor, named)) if python]
    if not found:
        others = [other for other in near_versions(minor, False) if find_python(other, environ)]
        there = f"; or try the Python that is here: python_version: \"{others[0]}\" in cog.yaml" if others else ""
        raise BuildFailed(f"the model needs Python {minor}, which this machine does not have",
                          hint=f"install it (apt-get install python{minor}-venv, brew install python@{minor}, "
                               f"uv python install {minor}, pyenv install {minor}), or use a container engine{there}")
    return found


def environment_folder(config: Config, environ: Mapping[str, str]) -> str:
    """The folder of a project's environment: in its .cog, or in the user's cache where nothing can be written there, or
    no library loaded from there, or PATH would split its name."""
    import hashlib

    stem = config.file_name.rpartition(".")[0] or config.file_name
    name = "venv" if stem == "cog" else f"venv-{stem}"
    own = os.path.join(config.project, ".cog")
    try:
        keep_private(own)
        if os.pathsep not in own and not os.statvfs(own).f_flag & getattr(os, "ST_NOEXEC", 0):
            return os.path.join(own, name)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BuildFailed(f"{own} cannot be written: {error.strerror}") from error
    cache = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".cache")
    folder = os.path.join(cache, "cog", hashlib.sha256(os.path.realpath(config.project).encode()).hexdigest()[:16])
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise BuildFailed(f"neither {own} nor {folder} can be used: {error.strerror}",
                          hint="XDG_CACHE_HOME names another folder for the environment") from error
    return os.path.join(folder, name)


def keep_private(folder: str) -> None:
    """Make a project's .cog, of which no git takes notice. Raises OSError."""
    os.makedirs(folder, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
    if not os.path.exists(os.path.join(folder, ".gitignore")):
        with open(os.path.join(folder, ".gitignore"), "w", encoding="utf-8") as file:
            file.write("*\n")


def digest_environment(job: EnvironmentJob) -> str:
    """What tells two environments apart: what they are made from, the contents of local files included, and where."""
    import hashlib
    import json

    config, settings = job.config, job.settings
    found = hashlib.sha256(json.dumps([
        job.folder, config.python_version, [*config.requirements, *list_constraints(config)],
        runtime_requirements(config, settings), settings.ca_certificates]).encode())
    for path in config.artifacts:
        try:
            found.update(build_digest({path: find_own(config.project, path)}).encode())
        except OSError as error:
            raise ConfigError(f"requirement ./{path} cannot be read: {error.strerror}",
                              hint="it takes a file inside the project") from error
    for _, data in settings.wheels:
        found.update(hashlib.sha256(data).digest())
    return found.hexdigest()


def identify(path: str) -> list[int]:
    """What changes when a file is replaced; empty without one."""
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def find_environment(job: EnvironmentJob, digest: str, lock: int) -> tuple[Environment, str] | None:
    """The environment that is there, and what there is to say of it; None if it is not whole or not what is wanted."""
    import json

    try:
        with open(os.path.join(job.folder, "cog.json"), encoding="utf-8") as file:
            mark = json.load(file)
        python = os.path.join(job.folder, "bin", "python")
        if mark["inputs"] != digest or not identify(python) or identify(mark["base"]) != mark["identity"]:
            return None
        if mark["note"] and find_python(job.config.python_version, job.environ, shims=False):
            return None  # the Python that was missing is there now
        return Environment(python, job.folder, mark["version"], mark["runtime"], lock), mark["note"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_mark(job: EnvironmentJob, digest: str, python: Interpreter, note: str) -> None:
    """Say that an environment is whole; the last thing that is done to it."""
    import glob
    import json

    pattern = os.path.join(glob.escape(job.folder), "lib", "python*", "site-packages", "cog-*.dist-info")
    runtime = "".join(os.path.basename(path)[4:-10] for path in glob.glob(pattern)[:1])
    mark = {"inputs": digest, "base": python.path, "identity": identify(python.path), "version": python.version,
            "runtime": runtime, "note": note}
    path = os.path.join(job.folder, "cog.json")
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(mark, file)
    os.replace(f"{path}.new", path)


def take_lock(lock: int, exclusive: bool, console: Console, waiting: str) -> None:
    """Lock a file, for oneself or together with other readers, as soon as nobody stands against it."""
    import fcntl

    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if waiting:
                console.phase(waiting)
                waiting = ""
            console.tick()
            time.sleep(0.1)
        except OSError as error:
            console.debug(f"lock: {error}")  # a file system without locks
            return


def prepare_environment(config: Config, settings: BuildSettings, console: Console,
                        environ: Mapping[str, str]) -> Environment:
    """The environment of a completed config, made if need be. Raises BuildFailed, ConfigError.

    It is shared by the runs of its project; one that must change it waits until the others are done.
    """
    job = EnvironmentJob(environment_folder(config, environ), config, settings, environ)
    digest = digest_environment(job)
    try:
        lock = os.open(f"{job.folder}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise BuildFailed(f"{job.folder}.lock cannot be opened: {error.strerror}") from error
    try:
        while True:
            take_lock(lock, False, console, "Waiting for another run to prepare the environment...")
            found = find_environment(job, digest, lock)
            if found is not None:
                break
            take_lock(lock, True, console, "Waiting for another run that uses the environment...")
            if find_environment(job, digest, lock) is None:
                make_environment(job, digest, console, lock)
    except BaseException:
        os.close(lock)
        raise
    if found[1]:
        console.warn(found[1])
    return found[0]


def make_environment(job: EnvironmentJob, digest: str, console: Console, lock: int) -> None:
    """Make an environment with the first Python that can. Raises BuildFailed."""
    pythons = choose_pythons(job.config, job.environ)
    for number, python in enumerate(pythons, 1):
        try:
            fill_environment(job, digest, python, console, lock)
            return
        except OSError as error:
            raise BuildFailed(f"the environment cannot be written: {error}") from error
        except BuildFailed as error:
            if number == len(pythons):
                raise
            console.warn(f"{error}; once more with Python {pythons[number].version}")


def fill_environment(job: EnvironmentJob, digest: str, python: Interpreter, console: Console, lock: int) -> None:
    """Make an environment with one Python. Raises BuildFailed, OSError; then, and when ended early, nothing is left."""
    minor = ".".join(job.config.python_version.split(".")[:2])
    fits = versions_match(python.version, minor)
    note = "" if fits else f"this machine has no Python {minor}: the model runs on Python {python.version}"
    guardian, settled = Guardian(lambda: remove_tree(job.folder), [lock]), False
    try:
        remove_tree(job.folder)
        console.phase(f"Preparing an environment on Python {python.version}...")
        steps = plan_environment(job, python)
        write_environment_files(job)
        for step in steps:
            run_step(step, job, console, lock)
        write_mark(job, digest, python, note)
        console.done()
        settled = True
    except (BuildFailed, OSError):
        remove_tree(job.folder)
        settled = True
        raise
    finally:
        guardian.dismiss(clean=not settled)


def remove_tree(folder: str) -> bool:
    """Whether a folder is gone, removed with all that is in it."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    return not os.path.lexists(folder)


def find_uv(environ: Mapping[str, str]) -> str:
    """The path of uv, if it would ask the indexes that pip would ask; empty else."""
    import shutil

    found = shutil.which("uv", path=environ.get("PATH", "")) or ""
    own = any(environ.get(name) for name in UV_INDEXES)
    return found if own or not (read_pip_conf(environ) or environ.get("PIP_FIND_LINKS")) else ""


def plan_environment(job: EnvironmentJob, python: Interpreter) -> list[list[str]]:
    """The programs that make an environment, one after the other. Raises BuildFailed: nothing here can."""
    folder, config, settings = job.folder, job.config, job.settings
    inside = os.path.join(folder, "bin", "python")
    uv = find_uv(job.environ)
    if uv:
        create = [[uv, "venv", "--no-project", "--allow-existing", "--python", python.path, folder]]
        install = [uv, "pip", "install", "--python", inside, "--compile-bytecode", "--index-strategy",
                   "unsafe-best-match"]
    elif python.has_venv and python.has_ensurepip:
        create = [[python.path, "-Im", "venv", "--without-pip", folder], [inside, "-Im", "ensurepip", "--default-pip"]]
        install = [inside, "-Im", "pip", "install"]
    elif python.has_venv:
        create = [[python.path, "-Im", "venv", "--without-pip", folder]]
        install = [*find_pip(job, python), "install"]
    else:
        raise lacks_tools(python)
    words = runtime_requirements(config, settings, os.path.join(folder, "runtime"))
    steps = [[*install, "-r", os.path.join(folder, "requirements.txt")]] if config.requirements else []
    return [*create, *steps, [*install, *words]]


def lacks_tools(python: Interpreter) -> BuildFailed:
    """The error for a Python that can make no environment."""
    minor = ".".join(python.version.split(".")[:2])
    return BuildFailed(f"{python.path} can make no environment: it lacks venv or pip",
                       hint=f"apt-get install python{minor}-venv (as root), or install uv")


def find_pip(job: EnvironmentJob, python: Interpreter) -> list[str]:
    """The command of a pip that installs into an environment without one. Raises BuildFailed: there is none."""
    import glob

    inside = os.path.join(job.folder, "bin", "python")
    ours = probe_python(sys.executable, job.environ) if sys.executable else None
    for other in (python, ours):
        if other is not None and version_numbers(other.pip) >= PIP_PYTHON:
            return [other.path, "-Im", "pip", "--python", inside]
    bundled = os.path.join(glob.escape(sys.base_prefix), "lib", "python3*", "ensurepip", "_bundled", "pip-*.whl")
    for wheel in [*glob.glob("/usr/share/python-wheels/pip-*.whl"), *glob.glob(bundled)]:
        return [inside, "-I", os.path.join(wheel, "pip")]
    raise lacks_tools(python)


def write_environment_files(job: EnvironmentJob) -> None:
    """Write what the installation reads: the requirements, local wheels of Cog, certificates. Raises OSError."""
    import functools

    config, settings = job.config, job.settings
    files = requirement_files(config, functools.partial(os.path.join, config.project))
    files.update((os.path.join("runtime", name), data) for name, data in settings.wheels)
    if settings.ca_certificates:
        files["certificates.pem"] = "\n".join([read_system_certificates(), *settings.ca_certificates]).encode()
    for name, data in files.items():
        path = os.path.join(job.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)


def read_system_certificates() -> str:
    """The PEM text of the authorities that this machine trusts, as far as one file holds them."""
    import ssl

    path = ssl.get_default_verify_paths().cafile
    return read_text(path) if path and os.path.isfile(path) else ""


def certificate_variables(folder: str) -> dict[str, str]:
    """The variables that make pip, requests and OpenSSL trust the authorities of an environment, if it has its own."""
    path = os.path.join(folder, "certificates.pem")
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT")
    return dict.fromkeys(names, path) if os.path.exists(path) else {}


def run_step(argv: Sequence[str], job: EnvironmentJob, console: Console, lock: int) -> None:
    """Run one program that makes the environment; its last line is the status. Raises BuildFailed, its log shown.

    Its temporary files are in the environment's folder, for what ends it halfway to remove them too. No signal of ours
    comes between its start and the guardian's.
    """
    import select
    import signal
    import subprocess

    scratch = os.path.join(job.folder, "tmp")
    os.makedirs(scratch, exist_ok=True)
    variables = {**without_leftovers(job.environ), **certificate_variables(job.folder), "PIP_NO_INPUT": "1",
                 "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_PROGRESS_BAR": "off", "PIP_ROOT_USER_ACTION": "ignore",
                 "PYTHONUNBUFFERED": "1", "TMPDIR": scratch}
    log = bytearray()
    console.debug(" ".join(argv))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        process = subprocess.Popen(argv, cwd=job.config.project, env=variables, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                                   preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, mask))
        guardian = Guardian(lambda: kill_group(process.pid) and remove_tree(job.folder), [lock])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    with process:
        assert process.stdout is not None
        try:
            while True:
                if select.select([process.stdout], [], [], REDRAW)[0]:
                    data = os.read(process.stdout.fileno(), BLOCK)
                    if not data:
                        break
                    log += data
                    del log[:-STEP_LOG]
                    console.status(last_line(bytes(log[-4096:])))
                console.tick()
        except BaseException:
            kill_group(process.pid)
            raise
        finally:
            guardian.dismiss()
    remove_tree(scratch)
    if process.returncode:
        console.log(bytes(log))
        raise step_failure(argv, bytes(log))


def step_failure(argv: Sequence[str], log: bytes) -> BuildFailed:
    """The error for a program that failed, with the line that says why."""
    lines = [line.strip() for line in log.decode("utf-8", "replace").splitlines()]
    errors = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("error:")]
    said = (errors or [line for line in lines if line] or [""])[-1]
    what = "installing the model's requirements" if "-r" in argv else "installing Cog's runtime"
    what = what if "install" in argv else "making the environment"
    hint = "" if "install" in argv else "apt-get install python3-venv (as root), or install uv"
    if "no space left on device" in said.lower():
        hint = "make room on the disk where the environment is made"
    hint = hint or step_hint(lines)
    return BuildFailed(f"{what} failed" + (f": {said}" if said else ""), hint=hint)


def kill_group(leader: int) -> bool:
    """True, after a process group was killed or found gone."""
    import signal

    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        pass
    return True


def has_nvidia() -> bool:
    """Whether this machine shows a device of NVIDIA's, be it through WSL or on a Jetson."""
    return any(map(os.path.exists, ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/nvhost-gpu", "/dev/nvgpu")))


def without_cuda(config: Config) -> Config:
    """The config of a GPU model as it is installed where there is no GPU: its torch from the index of builds for the
    CPU. Raises ConfigError: the file has changed meanwhile."""
    plain = read_config(os.path.join(config.project, config.file_name), without_gpu=True)
    index = f"--extra-index-url {TORCH_INDEX.format('cpu')}"
    has_torch = any(parse_requirement(line).key == "torch" for line in plain.requirements if line[:1] != "-")
    lines = plain.requirements if not has_torch or index in plain.requirements else (index, *plain.requirements)
    return config._replace(requirements=lines, torch=plain.torch, torch_limit="")


# == 16. Helper ===============================================================
# In: frames on stdin, settings first. Out: frames on stdout, the same kinds as in Streams. Sent along as source and
# started as `python -ISc SOURCE` beside the model, so it is for Python 3.7 and newer and names nothing from outside.
# One thread: a select over the two pipes, the model's health, the lane's listener and one socket per channel.
# Neither pipe can dead-lock the other: what comes in on a channel is bounded by the credit that we gave, and a socket
# is read only while its channel has credit of the near end's and our own queue is short.
# Settings: {"port": the model's, "lane": port to listen on or 0, "window": bytes of first credit, both ways,
#            "address": the model's, 127.0.0.1 if absent,
#            "poll": seconds between health checks, "spool": seconds that an upload has before it may go to a file,
#            "leash": "container", "group:PGID", "spawned" or "" (what dies with us), "spawn": a program to start first,
#            "scratch": folders that are made for it, and removed in the end}

MYPY = False  # a type checker takes this for true: annotations need the names, and nothing else looks at them
if MYPY:
    import typing as helper_typing

    HelperAny = helper_typing.Any
    HelperJSON = helper_typing.Dict[str, HelperAny]


def helper_kill(leash: str, spawned: HelperAny, seconds: float = 5.0) -> None:
    """Kill everything on the leash, trying for at most so many seconds to see a container's end."""
    import os
    import signal
    import time

    group = int(leash[6:]) if leash.startswith("group:") else spawned.pid if spawned and leash == "spawned" else 0
    if group:
        helper_spare_tracker(group)
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            pass
        return
    deadline = time.monotonic() + seconds
    while leash == "container" and helper_is_guest() and time.monotonic() < deadline:
        helper_kill_container()
        time.sleep(0.01)


def helper_spare_tracker(group: int, seconds: float = 1.0) -> None:
    """Kill a process group but for multiprocessing's tracker, which then removes the semaphores of the others from
    /dev/shm; it gets so many seconds for that."""
    import os
    import signal
    import time

    deadline = time.monotonic() + seconds
    tracked = os.path.isdir("/proc")
    while tracked and time.monotonic() < deadline:
        tracked = False
        for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
            try:
                if os.getpgid(pid) == group and (helper_stat(pid) or "Z")[0] != "Z":
                    with open(f"/proc/{pid}/cmdline", "rb") as file:
                        is_tracker = b"multiprocessing.resource_tracker" in file.read()
                    tracked = tracked or is_tracker
                    if not is_tracker:
                        os.kill(pid, signal.SIGKILL)
            except OSError:
                pass  # gone, or not ours
        time.sleep(0.005 if tracked else 0)


def helper_clear(folder: str) -> None:
    """Kill what was started with a folder's name in its environment, whichever group it is in now, and remove it."""
    import os
    import shutil
    import signal
    import time

    deadline, found = time.monotonic() + 1, os.path.isdir("/proc")
    while found and time.monotonic() < deadline:
        found = False
        for pid in [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]:
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    is_user = os.fsencode(folder) in file.read()
                if is_user:
                    os.kill(pid, signal.SIGKILL)
                    found = True
            except OSError:
                pass  # gone, or not ours
    shutil.rmtree(folder, ignore_errors=True)


def helper_is_guest() -> bool:
    """Whether an engine put this process into a container: nobody in there is the parent of the first of its line."""
    import os

    pid, parent = os.getpid(), os.getppid()
    while parent > 1:
        pid, parent = parent, (helper_stat(parent) or ("", 1))[1]
    return parent == 0 and pid != 1


def helper_kill_container(number: int = 9) -> None:
    """Send a signal to every other process of this container.

    An init at 1 ends by itself when the model does, and we with it. A model at 1 cannot be killed from inside: when all
    others are dead it is asked to end.
    """
    import os
    import signal

    found = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    others = [pid for pid in found if pid not in (1, os.getpid()) and (helper_stat(pid) or "Z")[0] != "Z"]
    last = [(1, signal.SIGTERM), (1, signal.SIGINT)] if number == signal.SIGKILL else []
    for pid, sent in [(pid, number) for pid in others] or last:
        try:
            os.kill(pid, sent)
        except OSError:
            pass  # gone, or not ours


def helper_wake() -> None:
    """Let what an init at 1 has started go on, where a terminal's Ctrl-Z stopped it: no shell would."""
    import os
    import signal

    for name in os.listdir("/proc"):
        if name.isdigit() and helper_stat(int(name)) == ("T", 1):
            try:
                os.kill(int(name), signal.SIGCONT)
            except OSError:
                pass  # gone, or not ours


def helper_connect(address: str, port: int) -> tuple[HelperAny, int]:
    """A socket that connects by and by, and why it cannot: an error number, else 0."""
    import errno
    import socket

    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.setblocking(False)
    code = sock.connect_ex((address, port))
    return sock, 0 if code == errno.EINPROGRESS else code


def helper_stat(pid: int) -> tuple[str, int] | None:
    """A process's state and parent, or None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return fields[0].decode(), int(fields[1])
    except (OSError, IndexError, ValueError):
        return None


class HelperHealth:
    """The model's /health-check, asked again and again, one request at a time; `report` gets each change."""

    LIMIT = 8 << 20  # bytes of a reply
    PATIENCE = 60.0  # seconds; runtime 0.9 answers nothing while it predicts
    LONG = 1 << 18  # bytes of a body from which its setup's log is cut down to the end

    def __init__(self, address: str, port: int, pace: float, report: HelperAny) -> None:
        self.address, self.port, self.pace, self.report = address, port, pace, report
        self.sock: HelperAny = None
        self.reply, self.sent = bytearray(), False
        self.length: int | None = None  # bytes of the whole reply, as soon as its head says so
        self.begun = self.asked = self.due = 0.0
        self.known: tuple[str, int] | None = None
        self.fixed: float | None = None  # the pace that the near end asked for
        self.fresh = self.wanted = False  # the next reply, and the one that is being waited for, changed or not

    def start(self, now: float) -> None:
        """Ask, if it is time to."""
        self.begun = self.begun or now
        if self.sock is not None or now < self.due or self.pace <= 0:
            if self.sock is not None and now - self.asked > self.PATIENCE:
                self.finish(now, None)
            return
        self.asked, self.sent = now, False
        self.wanted, self.fresh = self.wanted or self.fresh, False
        self.reply.clear()
        self.length = None
        self.sock, code = helper_connect(self.address, self.port)
        if code:
            self.finish(now, None)

    def go_on(self, now: float) -> None:
        """Send the request or read some of the reply."""
        try:
            if not self.sent:
                host = b"Host: 127.0.0.1:%d\r\n" % self.port
                self.sock.send(b"GET /health-check HTTP/1.1\r\n" + host + b"Connection: close\r\n\r\n")
                self.sent = True
                return
            data = self.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            self.finish(now, None)
            return
        self.reply += data
        end = self.reply.find(b"\r\n\r\n") + 4 if self.length is None and len(self.reply) < 2 << 16 else 0
        if end > 3:
            length = helper_length(bytes(self.reply[:end]))
            self.length = None if length is None else end + length
        if not data or len(self.reply) >= (self.LIMIT if self.length is None else self.length):
            head, gap, body = bytes(self.reply).partition(b"\r\n\r\n")
            self.finish(now, (head, body) if gap else None)

    def finish(self, now: float, answer: tuple[bytes, bytes] | None) -> None:
        """Report what was learnt and set the time of the next question."""
        import json

        self.sock.close()
        self.sock = None
        event: HelperJSON = {"health": "", "code": 0}
        if answer:
            first = answer[0].split(b" ", 2)
            event["code"] = int(first[1]) if len(first) > 1 and first[1].isdigit() else 0
            try:
                event["body"] = body = json.loads(answer[1].decode("utf-8", "replace"))
                event["health"] = str(body.get("status", ""))
                if len(answer[1]) > self.LONG:
                    event["body"] = {"status": body.get("status"), "setup": self.shorten(body.get("setup"))}
            except (ValueError, AttributeError, RecursionError):
                event["body"] = {"text": answer[1][:2000].decode("utf-8", "replace")}
        known = (event["health"], event["code"])
        if (known != self.known and (event["code"] or self.known)) or (self.wanted and event["code"]):
            self.known, self.wanted = known, False
            self.report(event)
        self.due = now + (0 if self.fresh else self.wait(now, event["health"]))

    def wait(self, now: float, health: str) -> float:
        """Seconds until the next question."""
        if self.fixed is not None:
            return self.fixed
        if health in ("READY", "BUSY"):
            return max(self.pace, 1.0)
        return self.pace if now - self.begun < 10 else max(self.pace, 0.05)

    def shorten(self, setup: HelperAny) -> HelperJSON:
        """A long setup's report with only the end of its log."""
        if not isinstance(setup, dict):
            return {}
        return {key: value[-(self.LONG // 8):] if isinstance(value, str) else value
                for key, value in setup.items() if isinstance(value, (str, int, float, bool))}


def helper_length(head: bytes) -> int | None:
    """The Content-Length of an HTTP head, None if it has none."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit() and len(value) < 20:
            return int(value)
    return None


class HelperChannel:
    """One connection: a socket at this end, a number in the stream.

    A connection to the lane is `held`: no byte of the answer reaches its client before the request's declared body has
    been taken in, from which on it may wait in a spool file for the near end's credit.
    """

    HEAD = 1 << 16  # bytes of a head that is looked into
    PIECE = 1 << 16  # bytes that are read at once

    def __init__(self, number: int, sock: HelperAny, window: int, lane: bool, now: float) -> None:
        import socket

        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number, self.held, self.since = number, lane, now
        self.sock: HelperAny = sock
        self.credit, self.owed, self.window = window, 0, window
        self.out = bytearray()  # from the near end, for the socket
        self.head = bytearray()  # of the request, so far
        self.taken = 0  # bytes of the request
        self.left: int | None = None  # bytes of its body that are still to come
        self.spool: HelperAny = None
        self.spool_start, self.spool_end, self.rest = 0, 0, b""
        self.can_spool, self.full = True, False
        self.near_ended = self.sock_ended = self.eof_sent = self.shut = False
        self.connecting = not lane

    def watch(self, data: bytes) -> bytes:
        """Follow the request so far that its end is noticed; what to send to its client at once."""
        answer = b""
        self.taken += len(data)
        if self.left is None:
            self.head += data
            head, gap, body = bytes(self.head).partition(b"\r\n\r\n")
            if gap:
                self.left = (helper_length(head) or 0) - len(body)
                if b"\r\nexpect:" in head.lower() and self.left > 0:
                    answer = b"HTTP/1.1 100 Continue\r\n\r\n"
            elif len(self.head) > self.HEAD:
                self.left = 0
        else:
            self.left -= len(data)
        if self.left is not None and self.left <= 0:
            self.held = False
        return answer

    def is_late(self, now: float, patience: float) -> bool:
        """Whether an upload that is longer under way than this will, at its pace, take more than four times as long."""
        age = now - self.since
        return age >= patience and (not self.left or age + age * self.left / self.taken >= 4 * patience)

    def waiting(self) -> bool:
        """Whether bytes from the socket still wait here."""
        return bool(self.rest) or self.spool_start < self.spool_end

    def store(self, data: bytes) -> None:
        """Append to the spool file; what does not fit is kept until the rest has gone."""
        import tempfile

        try:
            if self.spool is None:
                self.spool = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            self.spool.seek(self.spool_end)
            while data:
                count = self.spool.write(data)
                self.spool_end += count
                data = data[count:]
        except OSError:
            self.can_spool = self.spool is not None
            self.rest, self.full = data, True

    def fetch(self) -> bytes:
        """The next bytes for the stream that wait here, within the credit."""
        limit = min(self.credit, self.PIECE)
        if self.spool_start < self.spool_end:
            self.spool.seek(self.spool_start)
            data: bytes = self.spool.read(min(limit, self.spool_end - self.spool_start))
            self.spool_start += len(data)
            if self.spool_start == self.spool_end:
                self.spool_start = self.spool_end = 0
                self.spool.truncate(0)
            return data
        data, self.rest = self.rest[:limit], self.rest[limit:]
        self.full = bool(self.rest)
        return data

    def close(self) -> None:
        """Close what is open."""
        if self.sock is not None:
            self.sock.close()
        if self.spool is not None:
            self.spool.close()


class HelperStream:
    """The two pipes to the near end: frames in and out. `alive` until one of them ends."""

    HELLO, OPEN, DATA, EOF, RESET, CREDIT, EVENT, CONTROL = range(1, 9)
    HEADER = 9  # bytes before a frame's payload: kind, channel, length
    FULL = 1 << 19  # bytes on their way out from which on no socket is read
    READ = 1 << 18  # bytes that are read or written at once
    PIPE = 1 << 20  # bytes that each pipe holds, where that can be had

    def __init__(self, stdin: int, stdout: int) -> None:
        self.stdin, self.stdout, self.alive = stdin, stdout, True
        self.queue, self.inbox = bytearray(), bytearray()
        self.partial: tuple[int, int] = (0, 0)  # channel and bytes of a DATA frame that are still coming in

    def prepare(self) -> None:
        """Make neither pipe block, and both as big as anyone may: a third of the time is saved behind an engine."""
        import fcntl
        import os

        for pipe in (self.stdin, self.stdout):
            os.set_blocking(pipe, False)
            try:
                fcntl.fcntl(pipe, 1031, self.PIPE)  # F_SETPIPE_SZ, which Linux has and Python before 3.10 does not name
            except OSError:
                pass

    def send(self, kind: int, channel: int, payload: bytes = b"") -> None:
        """Queue one frame."""
        self.queue += b"%c%b%b" % (kind, channel.to_bytes(4, "big"), len(payload).to_bytes(4, "big"))
        self.queue += payload

    def tell(self, event: HelperJSON, kind: int = EVENT) -> None:
        """Queue an event."""
        import json

        self.send(kind, 0, json.dumps(event).encode())

    def read(self) -> list[tuple[int, int, memoryview]]:
        """The frames that came: kind, channel, payload, that of DATA perhaps in parts."""
        import os

        try:
            data = os.read(self.stdin, self.READ)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.alive = False
        return self.parse(memoryview(bytes(self.inbox) + data if self.inbox else data))

    def parse(self, view: memoryview) -> list[tuple[int, int, memoryview]]:
        """The frames in these bytes; what is left of them is kept for the next time."""
        at, found = 0, []
        self.inbox = bytearray()
        while at < len(view):
            channel, left = self.partial
            if left:
                part = view[at:at + left]
                at += len(part)
                self.partial = (channel, left - len(part))
                found.append((self.DATA, channel, part))
                continue
            kind, start = view[at], at + self.HEADER
            channel, length = (int.from_bytes(view[at + skip:at + skip + 4], "big") for skip in (1, 5))
            if len(view) < start or (kind != self.DATA and len(view) < start + length):
                self.inbox += view[at:]
                break
            at = start
            if kind == self.DATA:
                self.partial = (channel, length)
            else:
                found.append((kind, channel, view[at:at + length]))
                at += length
        return found

    def write(self) -> None:
        """Write some of the queue."""
        import os

        try:
            with memoryview(self.queue) as view:
                count = os.write(self.stdout, view[:self.READ])
            del self.queue[:count]
        except BlockingIOError:
            pass
        except OSError:
            self.alive = False


class HelperChannels:
    """All connections, and the moves of their bytes between sockets and stream."""

    MOST = 64  # connections at one time; more to the lane wait to be accepted

    def __init__(self, stream: HelperStream, settings: HelperJSON) -> None:
        self.stream, self.port, self.address = stream, settings.get("port", 0), settings.get("address", "127.0.0.1")
        self.window, self.patience = settings.get("window", 1 << 20), settings.get("spool", 5.0)
        self.known: dict[int, HelperChannel] = {}
        self.next_number = 2  # the near end's are odd

    def take(self, kind: int, number: int, payload: memoryview, now: float) -> None:
        """Act on a frame for a channel. One for a channel that is no more means nothing."""
        channel = self.known.get(number)
        if kind == self.stream.OPEN:
            self.open(number, now)
        elif channel is None:
            pass
        elif kind == self.stream.DATA:
            if not channel.out and not channel.held and not channel.connecting:
                payload = payload[self.write(channel, payload):]
            channel.out += payload
        elif kind == self.stream.CREDIT:
            channel.credit += int.from_bytes(payload, "big")
        elif kind == self.stream.EOF:
            channel.near_ended = True
        elif kind == self.stream.RESET:
            self.drop(channel)

    def open(self, number: int, now: float) -> None:
        """Connect to the model for a channel of the near end's."""
        import os

        sock, code = helper_connect(self.address, self.port)
        channel = self.known[number] = HelperChannel(number, sock, self.window, False, now)
        if code:
            self.drop(channel, os.strerror(code))

    def accept(self, listener: HelperAny, now: float) -> None:
        """Make a connection to the lane a channel."""
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        self.known[self.next_number] = HelperChannel(self.next_number, sock, self.window, True, now)
        self.stream.send(self.stream.OPEN, self.next_number)
        self.next_number += 2

    def drop(self, channel: HelperChannel, reason: str | None = None) -> None:
        """Forget a channel, telling the near end if there is a reason."""
        self.known.pop(channel.number, None)
        channel.close()
        channel.sock = None
        if reason is not None:
            self.stream.send(self.stream.RESET, channel.number, reason.encode("utf-8", "replace"))

    def is_blocked(self, channel: HelperChannel) -> bool:
        """Whether nothing can be sent on this channel now."""
        return channel.credit <= 0 or len(self.stream.queue) >= self.stream.FULL

    def wants_bytes(self, channel: HelperChannel, now: float) -> bool:
        """Whether the channel's socket is to be read: for the stream, or for the spool file."""
        if channel.sock is None or channel.sock_ended or channel.connecting or channel.full:
            return False
        if not self.is_blocked(channel):
            return True
        return channel.held and channel.can_spool and channel.is_late(now, self.patience)

    def read(self, channel: HelperChannel, now: float) -> None:
        """Take bytes from a channel's socket, if they are still wanted."""
        if not self.wants_bytes(channel, now):
            return
        spooling = channel.waiting() or self.is_blocked(channel)
        try:
            data = channel.sock.recv(channel.PIECE if spooling else min(channel.PIECE, channel.credit))
        except BlockingIOError:
            return
        except OSError as error:
            self.drop(channel, str(error))
            return
        if not data:
            channel.sock_ended, channel.held = True, False
        elif channel.held:
            self.write(channel, channel.watch(data))
        if data and spooling:
            channel.store(data)
        elif data:
            channel.credit -= len(data)
            self.stream.send(self.stream.DATA, channel.number, data)

    def write(self, channel: HelperChannel, data: bytes | memoryview) -> int:
        """Write bytes to a channel's socket, giving the credit for them back; how many it took."""
        import os
        import socket

        if channel.connecting:
            code = channel.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.drop(channel, os.strerror(code))
                return 0
            channel.connecting = False
        try:
            count: int = channel.sock.send(data) if data else 0
        except BlockingIOError:
            return 0
        except OSError as error:
            self.drop(channel, str(error))
            return 0
        channel.owed += count
        if channel.owed >= channel.window // 4:
            self.stream.send(self.stream.CREDIT, channel.number, channel.owed.to_bytes(4, "big"))
            channel.owed = 0
        return count

    def go_on(self, channel: HelperChannel) -> None:
        """Move what can be moved without waiting, and end what has ended."""
        import socket

        while channel.waiting() and not self.is_blocked(channel):
            data = channel.fetch()
            channel.credit -= len(data)
            self.stream.send(self.stream.DATA, channel.number, data)
        if channel.near_ended and not channel.out and not channel.shut and not channel.held and not channel.connecting:
            channel.shut = True
            try:
                channel.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            if channel.number % 2 == 0:  # an answer of the lane's was written in full
                channel.sock_ended = True
        if channel.sock_ended and not channel.eof_sent and not channel.waiting():
            channel.eof_sent = True
            self.stream.send(self.stream.EOF, channel.number)
        if channel.eof_sent and channel.shut:
            self.drop(channel)

    def watched(self, now: float) -> tuple[dict[HelperAny, HelperAny], dict[HelperAny, HelperAny]]:
        """The sockets to wait for, to read from and to write to, with their channels."""
        reading = {c.sock: c for c in self.known.values() if self.wants_bytes(c, now)}
        writing = {c.sock: c for c in self.known.values() if c.connecting or (c.out and not c.held)}
        return reading, writing

    def flush(self, channel: HelperChannel) -> None:
        """Write what waits for a channel's socket."""
        with memoryview(channel.out) as view:
            count = self.write(channel, view[:channel.PIECE * 4])
        del channel.out[:count]


class Helper:
    """The far end: `run` returns when the near end is gone."""

    IDLE = 0.25  # seconds without anything to wait for

    def __init__(self, stdin: int, stdout: int) -> None:
        self.stream = HelperStream(stdin, stdout)
        self.channels = HelperChannels(self.stream, {})
        self.settings: HelperJSON = {}
        self.health: HelperHealth | None = None
        self.listener: HelperAny = None
        self.spawned: HelperAny = None
        self.marks: list[tuple[float, str, set[int], list[int]]] = []

    def control(self, payload: memoryview, now: float) -> None:
        """Obey a command; the first one holds the settings."""
        import json

        command = json.loads(bytes(payload).decode())
        if not self.settings:
            self.begin(command)
        elif "poll" in command and self.health:
            self.health.fixed, self.health.due = command["poll"], 0.0
        if command.get("fresh") and self.health:
            self.health.fresh, self.health.due = True, 0.0
        if "mark" in command:
            self.marks.append((now + 2, command["mark"], {1, 2}, []))
        if "signal" in command:
            helper_kill_container(command["signal"])
        if command.get("wake"):
            helper_wake()
        if "digest" in command:
            self.stream.tell(self.digest(command["digest"]))
        if "closed" in command:
            self.stream.tell({"closed": command["closed"], "fds": self.closed()})
        if command.get("kill"):
            self.stream.alive = False

    def begin(self, settings: HelperJSON) -> None:
        """Start as the settings say, and say hello."""
        import os
        import socket
        import sys

        self.settings = settings
        self.channels = HelperChannels(self.stream, settings)
        hello = {"lane": settings.get("lane", 0), "pid": os.getpid(), "uid": os.getuid(),
                 "python": ".".join(map(str, sys.version_info[:3]))}
        if hello["lane"]:
            try:
                self.listener = socket.socket()
                self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self.listener.bind(("127.0.0.1", hello["lane"]))
                self.listener.listen(128)
                self.listener.setblocking(False)
            except OSError as error:
                self.listener.close()
                self.listener = None
                hello.update(lane=0, error=str(error))
        if settings.get("spawn"):
            self.spawn(settings["spawn"], hello)
        self.stream.tell(hello, self.stream.HELLO)
        if settings.get("port"):
            self.health = HelperHealth(self.channels.address, settings["port"], settings.get("poll", 0.003),
                                       self.stream.tell)

    def spawn(self, program: HelperJSON, hello: HelperJSON) -> None:
        """Start {"argv", "cwd", "env"} as the leader of a group of its own.

        What it prints goes to our stderr, but its stdout to the descriptor "stdout".
        """
        import os
        import subprocess

        try:
            for folder in self.settings.get("scratch", []):
                os.mkdir(folder, 0o700)
            self.spawned = subprocess.Popen(
                program["argv"], cwd=program.get("cwd"), env=program.get("env"), stdin=subprocess.DEVNULL,
                stdout=program.get("stdout", 2), stderr=2, start_new_session=True)
            hello["spawned"] = self.spawned.pid
        except OSError as error:
            hello.update(spawned=0, error=str(error))

    def digest(self, path: str) -> HelperJSON:
        """What a file holds, as a SHA-256."""
        import hashlib

        found = hashlib.sha256()
        try:
            with open(path, "rb") as file:
                for part in iter(lambda: file.read(1 << 16), b""):
                    found.update(part)
        except (OSError, ValueError) as error:
            return {"digest": path, "error": str(error)}
        return {"digest": path, "sha256": found.hexdigest()}

    def closed(self) -> list[int]:
        """Which of its two output streams the worker of a runtime before 0.17 no longer has."""
        import os

        for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    line = file.read()
                found = helper_stat(int(name)) if b"spawn_main(" in line else None
                if found is None or (self.spawned and found[1] != self.spawned.pid):
                    continue
                with open(f"/proc/{found[1]}/cmdline", "rb") as file:
                    if b"cog.server.http" in file.read():
                        streams = os.listdir(f"/proc/{name}/fd")
                        return [number for number in (1, 2) if str(number) not in streams]
            except (OSError, ValueError):
                continue
        return []

    def write_marks(self, now: float) -> None:
        """Print marks among what the container's first process prints; tell which streams took them."""
        import os

        waiting, self.marks = self.marks, []
        for deadline, text, left, done in waiting:
            for number in sorted(left):
                try:
                    stream = os.open(f"/proc/1/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
                    try:
                        os.write(stream, text.encode() + b"\n")
                    finally:
                        os.close(stream)
                    done.append(number)
                    left.discard(number)
                except BlockingIOError:
                    pass  # full just now
                except OSError:
                    left.discard(number)
            if left and now < deadline:
                self.marks.append((deadline, text, left, done))
            else:
                self.stream.tell({"mark": text, "fds": done})

    def turn(self) -> None:
        """Wait for something and act on it."""
        import select
        import time

        now, stream = time.monotonic(), self.stream
        reading, writing = self.channels.watched(now)
        reading[stream.stdin] = None
        if stream.queue:
            writing[stream.stdout] = None
        if self.health:
            self.health.start(now)
            if self.health.sock is not None:
                (reading if self.health.sent else writing)[self.health.sock] = self.health
        if self.listener is not None and len(self.channels.known) < self.channels.MOST:
            reading[self.listener] = None
        readable, writable, _ = select.select(list(reading), list(writing), [], self.timeout(now))
        now = time.monotonic()
        if self.listener in readable:
            self.channels.accept(self.listener, now)
        for what in [reading[source] for source in readable] + [writing[source] for source in writable]:
            if isinstance(what, HelperHealth):
                what.go_on(now)
        for source in writable:
            if isinstance(writing[source], HelperChannel):
                self.channels.flush(writing[source])
        for source in readable:
            if isinstance(reading[source], HelperChannel):
                self.channels.read(reading[source], now)
        if stream.stdin in readable:
            self.take(now)
        self.finish(now)

    def take(self, now: float) -> None:
        """Act on what the near end sent."""
        for kind, number, payload in self.stream.read():
            if kind == self.stream.CONTROL:
                self.control(payload, now)
            else:
                self.channels.take(kind, number, payload, now)

    def finish(self, now: float) -> None:
        """Do what needs no waiting."""
        for channel in list(self.channels.known.values()):
            self.channels.go_on(channel)
        if self.spawned and self.spawned.returncode is None and self.spawned.poll() is not None:
            self.stream.tell({"exited": self.spawned.returncode})
        if self.marks:
            self.write_marks(now)
        if self.stream.queue:
            self.stream.write()

    def timeout(self, now: float) -> float:
        """Seconds that nothing needs to be looked at."""
        wait = 0.01 if self.marks else self.IDLE
        if self.health and self.health.pace > 0 and self.health.sock is None:
            wait = min(wait, max(0.0, self.health.due - now))
        return wait

    def run(self) -> None:
        """Serve until the near end is gone, then kill what is on the leash."""
        self.stream.prepare()
        try:
            while self.stream.alive:
                self.turn()
        finally:
            helper_kill(self.settings.get("leash", ""), self.spawned)
            for folder in self.settings.get("scratch", []):
                helper_clear(folder)


def helper_main(stdin: int = 0, stdout: int = 1) -> None:
    """Run the helper on two descriptors. Signals that would end it do so by way of the leash."""
    import signal

    helper = Helper(stdin, stdout)

    def end(*_: object) -> None:
        helper.stream.alive = False

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, end)
    helper.run()


# == 17. Link =================================================================
# The near end of the helper's stream. In: the stream. Out: Answers to requests, and what the lane is given and asked.
# One thread, no locks: Loop waits for everything there is to wait for, a callback never runs the loop, and an
# interruption is raised only where nothing is half done.


# -- the loop

PIECE = 1 << 16  # bytes of a file that are read, and of a DATA frame that are sent, at once
READ_SIZE = 1 << 18  # bytes that are taken from a stream at once
LINK_QUEUE = 1 << 18  # bytes on their way to the helper from which on no channel adds any
STUCK_AFTER = 1.0  # seconds after which an interruption that waits for its turn means that a second one must not wait


class PipeStream:
    """A child's stdout and stdin as one stream, which a Loop can wait for as for a Transport; the second may be -1.

    Owns both descriptors.
    """

    def __init__(self, reading: int, writing: int = -1) -> None:
        self._reading, self._writing = reading, writing
        os.set_blocking(reading, False)
        if writing >= 0:
            os.set_blocking(writing, False)

    def fileno(self) -> int:
        """The descriptor that is read."""
        return self._reading

    def write_fileno(self) -> int:
        """The descriptor that is written."""
        return self._writing

    def pending(self) -> bool:
        """Never: a pipe hides nothing."""
        return False

    def recv(self, limit: int, /) -> bytes:
        """At most so many bytes, none at the end. Raises BlockingIOError: nothing is here."""
        return os.read(self._reading, limit)

    def send(self, data: memoryview, /) -> int:
        """How many bytes were taken. Raises BlockingIOError: none."""
        return os.write(self._writing, data)

    def close(self) -> None:
        """Close both."""
        for descriptor in {self._reading, self._writing} - {-1}:
            os.close(descriptor)
        self._reading = self._writing = -1


class BorrowedStream(PipeStream):
    """A descriptor to read that others have a part in: it stays open, and as it is."""

    def __init__(self, reading: int) -> None:
        self._reading, self._writing = reading, -1

    def close(self) -> None:
        """Leave it to its owner."""


Stream = Union[Transport, PipeStream]


class Source:
    """A stream in a Loop, with what waits to be written to it. `queued` is how many bytes that is."""

    def __init__(self, stream: Stream, on_data: Callable[[bytes], None], on_end: Callable[[], None],
                 on_room: Callable[[], None] | None) -> None:
        from collections import deque

        self.stream, self.on_data, self.on_end, self.on_room = stream, on_data, on_end, on_room
        self.queue: deque[memoryview] = deque()
        self.queued = 0
        self.open, self.broken = True, False  # broken: nothing more can be written, what the peer said last can be read

    def send(self, data: bytes) -> None:
        """Queue bytes; the loop writes them."""
        if self.open and not self.broken and data:
            self.queue.append(memoryview(data))
            self.queued += len(data)

    def write(self) -> None:
        """Write what the stream takes."""
        while self.queue:
            try:
                count = self.stream.send(self.queue[0])
            except BlockingIOError:
                return
            except (OSError, StreamError):
                self.broken, self.queued = True, 0
                self.queue.clear()
                return
            self.queued -= count
            if count < len(self.queue[0]):
                self.queue[0] = self.queue[0][count:]
                return
            self.queue.popleft()

    def write_fileno(self) -> int:
        """The descriptor to wait for before writing."""
        return int(getattr(self.stream, "write_fileno", self.stream.fileno)())


class Loop:
    """Waits for any number of streams and calls back, in one thread.

    A callback may add and remove sources. A CogError that it raises comes out of `run` when everything that was ready
    has been dealt with. So does what a signal handler gives to `interrupt`, and at once while `run` merely waits: after
    either, the loop goes on as if nothing had happened when `run` is called again.
    """

    def __init__(self) -> None:
        self._sources: list[Source] = []
        self._error: CogError | Interrupted | None = None
        self._held_since = 0.0  # when the error came, monotonic
        self._busy = False

    @property
    def is_stuck(self) -> bool:
        """Whether an interruption has been waiting for long, since a callback does not come back."""
        return self._error is not None and time.monotonic() - self._held_since > STUCK_AFTER

    def add(self, stream: Stream, on_data: Callable[[bytes], None], on_end: Callable[[], None] = lambda: None,
            on_room: Callable[[], None] | None = None) -> Source:
        """Wait for this too. `on_end` is called once, when it ends or breaks; `on_room` when its queue is short."""
        source = Source(stream, on_data, on_end, on_room)
        self._sources.append(source)
        return source

    def remove(self, source: Source) -> None:
        """Wait for it no more and close it."""
        if source.open:
            source.open = False
            self._sources.remove(source)
            source.queue.clear()
            source.queued = 0
            source.stream.close()

    def close(self) -> None:
        """Close every stream."""
        for source in list(self._sources):
            self.remove(source)

    def interrupt(self, error: CogError | Interrupted, *, now: bool = True) -> None:
        """Have `run` raise this where nothing is half done; outside of it, or while it waits, raise it at once.

        Without `now` only `run` does, as soon as it is called; or `resume`.
        """
        if self._error is None:
            self._error, self._held_since = error, time.monotonic()
        if now:
            self.resume()

    def resume(self) -> None:
        """Raise what is to be raised, unless `run` will, when nothing is half done."""
        if not self._busy:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def run(self, until: Callable[[], bool], deadline: float | None = None) -> bool:
        """True as soon as the condition holds; False at the deadline (monotonic), or with no source and no deadline."""
        if self._busy:
            raise RuntimeError("a callback runs the loop that called it")
        late = False
        self._raise()
        while not until():
            if late or (deadline is None and not self._sources):
                return False
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            late = wait == 0
            ready = self._wait(wait)
            self._busy = True
            try:
                for source, readable, writable in ready:
                    self._serve(source, readable, writable)
            finally:
                self._busy = False
            self._raise()
        return True

    def _wait(self, seconds: float | None) -> list[tuple[Source, bool, bool]]:
        """The sources that can go on: which, whether it can be read, whether it can be written."""
        import select

        poll = select.poll()
        watched = [(source, source.stream.fileno(), source.write_fileno() if source.queue else -1)
                   for source in self._sources]
        events: dict[int, int] = {}
        for source, reading, _ in watched:
            events[reading] = select.POLLIN
            if source.stream.pending():
                seconds = 0
        for _, _, writing in watched:
            if writing >= 0:
                events[writing] = events.get(writing, 0) | select.POLLOUT
        for descriptor, wanted in events.items():
            poll.register(descriptor, wanted)
        found = dict(poll.poll(None if seconds is None else seconds * 1000))
        bad = select.POLLHUP | select.POLLERR | select.POLLNVAL
        states = [(source, bool(found.get(reading, 0) & (select.POLLIN | bad)) or bool(source.stream.pending()),
                   bool(found.get(writing, 0) & (select.POLLOUT | bad))) for source, reading, writing in watched]
        return [state for state in states if state[1] or state[2]]

    def _serve(self, source: Source, readable: bool, writable: bool) -> None:
        try:
            if writable and source.open:
                source.write()
                if source.on_room is not None and source.queued < LINK_QUEUE // 2:
                    source.on_room()
            if readable and source.open:
                data = source.stream.recv(READ_SIZE)
                if data:
                    source.on_data(data)
                else:
                    self._end(source)
        except BlockingIOError:
            pass
        except OSError:
            self._end(source)
        except CogError as error:
            self._error = self._error or error
            if isinstance(error, StreamError):
                self._end(source)

    def _end(self, source: Source) -> None:
        if source.open:
            self.remove(source)
            source.on_end()


# -- the link to the helper, and what is asked through it

LINK_WINDOW = 1 << 20  # bytes that either end may send on a channel before the other has used them
CHANNEL_LIMIT = 1 << 10  # channels at one time
TROUBLE_LIMIT = 1 << 13  # bytes of what the helper says on its stderr that are kept


class Channel:
    """One connection inside the helper's stream, at our end."""

    def __init__(self, link: Link, number: int, window: int) -> None:
        self._link, self.number = link, number
        self.credit, self._granted, self._owed, self._window = window, window, 0, window
        self._chunks: Iterator[bytes] = iter(())
        self._rest = memoryview(b"")
        self._finish = False
        self.has_turn = False  # stands in the link's queue of writers
        self.sent_end = self.got_end = False
        self.on_data: Callable[[bytes], object] = len  # whoever uses the channel sets these two at once
        self.on_end: Callable[[str | None], object] = bool

    def write(self, chunks: Iterable[bytes], *, finish: bool) -> None:
        """Send these as credit and room allow; with `finish` end our direction after them."""
        self._chunks, self._finish = iter(chunks), finish
        self._link.schedule(self)

    def next_frame(self) -> bytes:
        """The next frame to send; empty if there is none or no credit. Raises OSError, CogError of the chunks."""
        if not self._rest and not self.sent_end:
            self._rest = memoryview(next((chunk for chunk in self._chunks if chunk), b""))
            if not self._rest and self._finish:
                self.sent_end = True
                return link_frame(LINK_EOF, self.number)
        part = self._rest[:min(self.credit, PIECE)]
        self._rest = self._rest[len(part):]
        self.credit -= len(part)
        return link_frame(LINK_DATA, self.number, bytes(part)) if part else b""

    def take(self, data: bytes) -> None:
        """Pass bytes on to `on_data`. Raises StreamError: the helper had no credit for them."""
        self._granted -= len(data)
        if self._granted < 0:
            raise StreamError("the helper sends more than it may")
        self.on_data(data)

    def use(self, count: int) -> None:
        """Give the helper credit for bytes that were dealt with."""
        self._owed += count
        if self._owed >= self._window // 4:
            self._link.send_frame(LINK_CREDIT, self.number, self._owed.to_bytes(4, "big"))
            self._granted += self._owed
            self._owed = 0

    def close(self) -> None:
        """End both directions now."""
        self._link.forget(self, reset=True)

    def stop(self) -> None:
        """Let go of what the chunks hold open."""
        chunks, self._chunks, self._rest = self._chunks, iter(()), memoryview(b"")
        getattr(chunks, "close", bool)()


class Link:
    """The near end of the helper's stream. `framed`: it is an engine's, with the helper's stderr mixed in.

    `health` is the model's last status ("" before there is one), `health_body` what it said with it; `exited` the exit
    status of a spawned model; `hello` what the helper said of itself, `trouble` the end of what it wrote to its stderr.
    `ended` is True when the stream is gone, `end_reason` says why.
    """

    def __init__(self, loop: Loop, stream: Stream, lane: Lane | None, settings: JSON, *, framed: bool) -> None:
        from collections import deque

        self._loop, self._lane = loop, lane
        self._frames = FrameParser() if framed else None
        self._parser = LinkParser()
        self._window = int(settings.get("window", LINK_WINDOW))
        self._channels: dict[int, Channel] = {}
        self._writers: deque[Channel] = deque()
        self._next_number = 1
        self._answers: list[JSON] = []
        self._settings = settings
        self.hello: JSON = {}
        self.health = ""
        self.health_body: JSON | None = None
        self.exited: int | None = None
        self._heard = False  # a byte of the helper's was here
        self.trouble = bytearray()
        self.ended, self.end_reason = False, ""
        self._source = loop.add(stream, self._on_data, self._on_end, self._pump)
        self.control({"window": self._window, **settings})

    def send_frame(self, kind: int, channel: int, payload: bytes = b"") -> None:
        """Queue one frame."""
        self._source.send(link_frame(kind, channel, payload))

    def control(self, command: JSON) -> None:
        """Give the helper a command: {"poll": SECONDS}, {"fresh": True}, {"signal": NUMBER to all processes but an
        init}, {"wake": True}, {"kill": True}, or what `mark` asks."""
        import json

        self.send_frame(LINK_CONTROL, 0, json.dumps(command).encode())

    def mark(self, text: str, deadline: float | None = None) -> int:
        """On how many of its two streams the container's first process now seems to have printed this line."""
        return len((self._ask({"mark": text}, deadline) or {}).get("fds", []))

    def digest(self, path: str, deadline: float | None = None) -> str:
        """The SHA-256 of a file at the far end; empty if there is none."""
        return str((self._ask({"digest": path}, deadline) or {}).get("sha256", ""))

    def closed(self, deadline: float | None = None) -> list[int]:
        """Which of its two output streams the worker of a runtime before 0.17 no longer has."""
        return list((self._ask({"closed": True}, deadline) or {}).get("fds", []))

    def _ask(self, command: JSON, deadline: float | None) -> JSON | None:
        self.control(command)
        found: list[JSON] = []

        def is_answered() -> bool:
            found[:] = [event for event in self._answers if command.items() <= event.items()]
            return bool(found) or self.ended

        self._loop.run(is_answered, deadline)
        self._answers[:] = [event for event in self._answers if event not in found]
        return found[0] if found else None

    def close(self) -> None:
        """Close the stream, which ends the helper and what is on its leash."""
        self._loop.remove(self._source)
        self._end("closed")

    # -- what comes

    def _on_data(self, data: bytes) -> None:
        for stream, payload in [(1, data)] if self._frames is None else self._frames.feed(data):
            if stream == 1 and self._is_helper(payload):
                for kind, number, part in self._parser.feed(payload):
                    self._take(kind, number, part)
            else:
                self.trouble += payload
                del self.trouble[:-TROUBLE_LIMIT]

    def _is_helper(self, payload: bytes) -> bool:
        """Whether the helper speaks: an engine says on the same stream why a program could not be run."""
        self._heard = self._heard or self._frames is None or payload[0] <= LINK_CONTROL
        return self._heard

    def _on_end(self) -> None:
        said = bytes(self.trouble).decode("utf-8", "replace").strip().rpartition("\n")[2]
        self._end(f"the way to the model was cut{': ' + said if said else ''}")

    def _end(self, reason: str) -> None:
        if not self.ended:
            self.ended, self.end_reason = True, reason
            for channel in list(self._channels.values()):
                self._drop(channel, reason)

    def _take(self, kind: int, number: int, payload: bytes) -> None:
        """Act on one frame. What a callback raises comes out of the loop later; the other frames do not suffer."""
        try:
            channel = self._channels.get(number)
            if kind in (LINK_HELLO, LINK_EVENT):
                self._take_event(kind, payload)
            elif kind == LINK_OPEN and self._lane is not None:
                if channel is not None or number % 2 or len(self._channels) > CHANNEL_LIMIT:
                    raise StreamError("the helper opens a channel that it may not")
                self._channels[number] = channel = Channel(self, number, self._window)
                self._lane.serve(channel)
            elif channel is not None:
                self._take_for(channel, kind, payload)
        except StreamError:
            raise
        except CogError as error:
            self._loop.interrupt(error)

    def _take_for(self, channel: Channel, kind: int, payload: bytes) -> None:
        if kind == LINK_DATA:
            channel.take(payload)
        elif kind == LINK_CREDIT:
            channel.credit += int.from_bytes(payload, "big")
            self.schedule(channel)
        elif kind == LINK_EOF:
            channel.got_end = True
            if channel.sent_end:
                self.forget(channel)
            channel.on_end(None)
        elif kind == LINK_RESET:
            self._drop(channel, payload.decode("utf-8", "replace"))

    def _take_event(self, kind: int, payload: bytes) -> None:
        import json

        try:
            event = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise StreamError("the helper's event is not JSON") from error
        if not isinstance(event, dict):
            raise StreamError("the helper's event is no object")
        if kind == LINK_HELLO:
            self.hello = event
        elif "health" in event:
            body = event.get("body")
            self.health, self.health_body = str(event["health"]), body if isinstance(body, dict) else None
        elif isinstance(event.get("exited"), int):
            self.exited = event["exited"]
        else:
            self._answers = [*self._answers[-CHANNEL_LIMIT:], event]

    # -- what goes

    def schedule(self, channel: Channel) -> None:
        """Let a channel write when its turn comes."""
        if not channel.has_turn:
            channel.has_turn = True
            self._writers.append(channel)
        self._pump()

    def _pump(self) -> None:
        while self._writers and self._source.queued < LINK_QUEUE:
            channel = self._writers.popleft()
            channel.has_turn = False
            try:
                frame = channel.next_frame() if channel.number in self._channels else b""
            except (OSError, CogError) as error:
                self._drop(channel, str(error), reset=True)
                read = InputError(f"an input cannot be read: {error}")
                self._loop.interrupt(error if isinstance(error, CogError) else read)
                continue
            self._source.send(frame)
            if channel.sent_end and channel.got_end:
                self.forget(channel)
            elif frame:
                channel.has_turn = True
                self._writers.append(channel)

    def forget(self, channel: Channel, *, reset: bool = False) -> None:
        """Let go of a channel; with `reset` tell the helper to as well."""
        if self._channels.pop(channel.number, None) is not None:
            channel.stop()
            if reset:
                self.send_frame(LINK_RESET, channel.number)

    def _drop(self, channel: Channel, reason: str, *, reset: bool = False) -> None:
        self.forget(channel, reset=reset)
        channel.on_end(reason)

    def open(self, method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """The reply to come; nothing is waited for. Raises ModelGone."""
        if self.ended:
            raise ModelGone(self.end_reason)
        fields = {"host": f"127.0.0.1:{self._settings.get('port', 0)}", "connection": "close", **(headers or {})}
        if body or method != "GET":
            fields["content-length"] = str(len(body))
        channel = self._channels[self._next_number] = Channel(self, self._next_number, self._window)
        self._next_number += 2
        self.send_frame(LINK_OPEN, channel.number)
        reply = Answer(self._loop, channel, method)
        channel.write([render_head(f"{method} {path} HTTP/1.1", fields.items()), body], finish=False)
        return reply


def chain_bytes(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    """The first, then the rest; closing it closes the rest."""
    yield first
    yield from rest


class Carrier(Protocol):
    """What a request goes out on and its Answer comes in by."""

    on_data: Callable[[bytes], object]
    on_end: Callable[[str | None], object]

    def use(self, count: int, /) -> None:
        """So many bytes were dealt with."""

    def close(self) -> None:
        """End both directions now."""


class Answer:
    """The model's reply to one request. `status` and `headers` (lower-case names) are there once `ready`.

    Reading runs the loop, so it may not be done from a callback. `timeout`, in seconds, bounds every single wait.
    """

    timeout: float | None = None

    def __init__(self, loop: Loop, channel: Carrier, method: str) -> None:
        from collections import deque

        self._loop, self._channel = loop, channel
        self._parser = ReplyParser(method)
        self._parts: deque[bytes] = deque()
        self._failure: CogError | None = None
        self.status = 0
        self.headers: dict[str, str] = {}
        self.heard = self.complete = False  # heard: a byte of it was here
        channel.on_data, channel.on_end = self._on_data, self._on_end

    @property
    def ready(self) -> bool:
        """Whether nothing has to be waited for before `status` can be looked at, or the failure is known."""
        return bool(self.status) or self._failure is not None

    @property
    def readable(self) -> bool:
        """Whether `read` returns at once."""
        return bool(self._parts) or self.complete or self._failure is not None

    def _on_data(self, data: bytes) -> None:
        kept, self.heard = 0, True
        try:
            kept = self._take(self._parser.feed(data))
        except StreamError as error:
            self._fail(error)
        self._channel.use(len(data) - kept)

    def _on_end(self, reason: str | None) -> None:
        if reason is not None:
            self._fail(ModelGone(f"the model cannot be reached: {reason}"))
            return
        try:
            self._take(self._parser.close())
            if not self.complete:
                raise StreamError("the model closed the connection without an answer")
        except StreamError as error:
            self._fail(error)

    def _take(self, events: list[Head | Body | End]) -> int:
        """How many bytes of the body they hold, which are kept."""
        kept = 0
        for event in events:
            if self.complete:
                break
            if isinstance(event, Head):
                self.status, self.headers = int(event.start[1]), event.headers
            elif isinstance(event, Body):
                self._parts.append(event.data)
                kept += len(event.data)
            else:
                self.complete = True
        return kept

    def _fail(self, error: CogError) -> None:
        if not self.complete:
            self._failure = self._failure or error

    def _wait(self, until: Callable[[], bool]) -> None:
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        if not self._loop.run(until, deadline):
            self.close()
            raise ModelGone(f"the model said nothing for {self.timeout or 0:g} seconds")

    def wait(self) -> None:
        """Wait for the head. Raises ModelGone."""
        self._wait(lambda: self.ready)
        if self._failure is not None and not self.status:
            self.close()
            raise self._failure

    def read(self, limit: int = -1) -> bytes:
        """At least one byte and at most `limit`, nothing at the end; without a limit all the rest. Raises ModelGone;
        StreamError: more than anybody wants to hold."""
        if limit < 0:
            whole = bytearray()
            for part in self:
                whole += part
                if len(whole) > ANSWER_LIMIT:
                    self.close()
                    raise StreamError(f"the model's answer is longer than {ANSWER_LIMIT >> 20} MiB")
            return bytes(whole)
        self._wait(lambda: self.readable)
        if not self._parts:
            self.close()
            if self._failure is not None:
                raise self._failure
            return b""
        part = self._parts.popleft()
        if len(part) > limit:
            self._parts.appendleft(part[limit:])
            part = part[:limit]
        self._channel.use(len(part))
        return part

    def __iter__(self) -> Iterator[bytes]:
        """The rest of the body in pieces, as they come."""
        return iter(lambda: self.read(READ_SIZE), b"")

    def close(self) -> None:
        """Let go of the connection."""
        self._channel.close()


# -- the lane: the model's file inputs, uploads and webhooks, through the same link


class Sink(Protocol):
    """Where an upload goes. Exactly one of `close` and `abort` ends it."""

    def write(self, data: bytes, /) -> object:
        """Take the next piece."""

    def close(self) -> None:
        """All of it has come."""

    def abort(self) -> None:
        """The rest will not come."""


Stage = Callable[[str, str, "int | None"], Sink]  # the sink for a file's name, MIME type and length
Fetch = Callable[[str, Stage], None]  # puts what a URL leads to into what the Stage gives


def parse_index(text: str, count: int) -> int | None:
    """A number below the count, as its digits in a URL say.

    >>> parse_index("2", 3), parse_index("3", 3), parse_index("-1", 3)
    (2, None, None)
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 and int(text) < count else None


class Lane:
    """The HTTP server behind the helper's listener: file inputs out, uploads and webhooks in.

    `on_upload` (number, name, content type, length or None) returns the sink for an upload; `on_webhook` gets documents
    read by a `json_reader`. `token` keeps out what else can connect to the port. What fails at our end (a full disk, an
    input that went away) is refused to the model and comes out of the loop.
    """

    def __init__(self, token: str, port: int, *, on_upload: Callable[[int, str, str, int | None], Sink],
                 on_webhook: Callable[[JSON], None], json_reader: Callable[[], JSONReader]) -> None:
        self.token, self.port = token, port
        self.on_upload, self.on_webhook, self.json_reader = on_upload, on_webhook, json_reader
        self.files: list[tuple[Callable[[], BinaryIO], int | None]] = []
        self.uploads = 0  # numbers that were given out
        self.open_uploads = 0  # those that have not ended
        self.received = 0  # bytes that came

    def url(self, path: str) -> str:
        """A path of the lane's as the model can ask for it."""
        return f"http://127.0.0.1:{self.port}/{self.token}/{path}"

    def add_file(self, open_file: Callable[[], BinaryIO], name: str, size: int | None) -> str:
        """The URL of an input file, opened anew for each time it is asked for. `size` in bytes, None: until its end."""
        self.files.append((open_file, size))
        return self.url(f"in/{len(self.files) - 1}/{quote_name(name)}")

    def serve(self, channel: Channel) -> None:
        """Answer what comes on a channel."""
        LaneConnection(self, channel)


class LaneConnection:
    """One request to the lane. Answered at its head, except where its body is chunked: see the helper's channels."""

    def __init__(self, lane: Lane, channel: Channel) -> None:
        self._lane, self._channel = lane, channel
        self._parser = RequestParser()
        self._sink: Sink | None = None
        self._reader: JSONReader | None = None
        self._answer: Iterable[bytes] | None = None
        self._answered = self._done = False
        channel.on_data, channel.on_end = self._on_data, self._on_end

    def _on_data(self, data: bytes) -> None:
        self._lane.received += len(data)
        try:
            for event in self._parser.feed(data) if not self._done else []:
                self._take(event)
        except StreamError:
            self._abort()
            self._respond("400 Bad Request")
            self._send()
        except (OSError, CogError) as error:
            self._abort()
            self._send()
            if isinstance(error, CogError):
                raise
            raise OutputError(f"an output cannot be written: {error}") from error
        finally:
            self._channel.use(len(data))

    def _on_end(self, reason: str | None) -> None:
        self._abort()
        if reason is None and not self._answered:
            self._respond("400 Bad Request")
            self._send()

    def _take(self, event: Head | Body | End) -> None:
        if self._done:
            return
        if isinstance(event, Head):
            self._begin(event)
            if "transfer-encoding" not in event.headers:
                self._send()
        elif isinstance(event, Body):
            if self._sink is not None:
                self._sink.write(event.data)
            elif self._reader is not None:
                self._reader.feed(event.data)
        else:
            self._done = True
            self._end()
            self._send()

    def _begin(self, head: Head) -> None:
        """Decide on the answer and on where the body goes."""
        method, target, _ = head.start
        token, _, path = target.partition("?")[0].lstrip("/").partition("/")
        kind, _, rest = path.partition("/")
        self._respond("404 Not Found")
        if token != self._lane.token:
            return
        if kind == "in" and method in ("GET", "HEAD"):
            self._begin_file(method, rest.partition("/")[0])
        elif kind == "up" and method in ("PUT", "POST"):
            self._begin_upload(rest, head)
        elif kind == "hook" and method == "POST":
            self._reader = self._lane.json_reader()
            self._respond("200 OK")

    def _begin_file(self, method: str, number: str) -> None:
        index = parse_index(number, len(self._lane.files))
        if index is None:
            return
        open_file, size = self._lane.files[index]
        headers = {"Content-Type": "application/octet-stream"}
        if size is not None:
            headers["Content-Length"] = str(size)
        self._respond("200 OK", headers, read_pieces(open_file, size) if method == "GET" else ())

    def _begin_upload(self, name: str, head: Head) -> None:
        from urllib.parse import unquote

        length = parse_length(head.headers["content-length"]) if "content-length" in head.headers else None
        lane, name = self._lane, unquote(name).replace("\\", "/").rpartition("/")[2]
        number = lane.uploads
        lane.uploads += 1
        self._respond("500 Internal Server Error")
        self._sink = lane.on_upload(number, name, head.headers.get("content-type", ""), length)
        lane.open_uploads += 1
        self._respond("200 OK", {"Location": lane.url(f"out/{number}/{quote_name(name)}"), "Content-Length": "0"})

    def _end(self) -> None:
        """The whole body is here."""
        sink, self._sink = self._sink, None
        reader, self._reader = self._reader, None
        if sink is not None:
            self._lane.open_uploads -= 1
            sink.close()
        elif reader is not None:
            self._lane.on_webhook(reader.close())

    def _abort(self) -> None:
        self._done = True
        sink, self._sink, self._reader = self._sink, None, None
        if sink is not None:
            self._lane.open_uploads -= 1
            sink.abort()

    def _respond(self, status: str, headers: dict[str, str] | None = None, chunks: Iterable[bytes] = ()) -> None:
        fields = {"Connection": "close", **(headers or {"Content-Length": "0"})}
        self._answer = chain_bytes(render_head(f"HTTP/1.1 {status}", fields.items()), chunks)

    def _send(self) -> None:
        """Send the answer that was decided on, once."""
        if self._answer is not None and not self._answered:
            self._answered = True
            self._channel.write(self._answer, finish=True)


def quote_name(name: str) -> str:
    """A file's name as the last part of a URL's path.

    >>> quote_name("a cat/?.png")
    'a%20cat%2F%3F.png'
    """
    from urllib.parse import quote

    return quote(name, safe="", errors="replace")


def read_pieces(open_file: Callable[[], BinaryIO], size: int | None) -> Iterator[bytes]:
    """A file's bytes in pieces, exactly `size` of them if that is known. Raises OSError; InputError: it got shorter."""
    with open_file() as file:
        while size is None or size > 0:
            piece = file.read(PIECE if size is None else min(size, PIECE))
            if not piece:
                if size:
                    raise InputError("an input file got shorter while it was being sent")
                return
            if size is not None:
                size -= len(piece)
            yield piece


# == 18. Hosts ================================================================
# Where a model runs, and the way to it. In: a plan, or the address of a model that runs. Out: a Host, whose log is
# shown and whose HTTP server is asked.


# -- what is sent along


def read_own_source() -> str:
    """The text of this module, from the file or the archive that it was loaded from."""
    loader = globals()["__loader__"]
    archive = getattr(loader, "archive", "")
    path = os.path.join(archive, "src", "cogpredict.py") if archive else os.path.abspath(__file__)
    return str(loader.get_data(path).decode())


def find_section(text: str, name: str) -> int:
    """Where a section of this module's text begins: at its banner."""
    return text.rindex("\n", 0, text.index(f". {name} ==")) + 1


def helper_source() -> str:
    """The program that is sent along: the section Helper and a call of it."""
    text = read_own_source()
    section = text[find_section(text, "Helper"):find_section(text, "Link")]
    return f"from __future__ import annotations\n\n{section.rstrip()}\n\n\nhelper_main()\n"


def reader_program() -> str:
    """The program that reads a model's schema on another Python: Errors, Source and Schema, and a call of them. It says
    nothing on one before 3.9, which has no ast.unparse; the runtimes for those read their model themselves."""
    import base64
    import zlib

    text = read_own_source()
    errors = text[:find_section(text, "Console")]
    reader = text[find_section(text, "Source"):find_section(text, "Inputs")]
    program = f"{errors}{reader}\n\nreader_main()\n"
    packed = base64.b64encode(zlib.compress(program.encode(), 9)).decode()
    start = "import base64, sys, zlib; sys.version_info < (3, 9) and sys.exit(); "
    return f"{start}exec(zlib.decompress(base64.b64decode({packed!r})).decode())"


# -- a host, and a container as one

DRAIN_LIMIT = 10.0  # seconds for which the last log lines are waited for at most
EXIT_GRACE = 2.0  # seconds in which the engine tells of a container that it no longer lets in
DRAIN_QUIET = 0.02  # seconds of silence after which nothing more is expected
HELPER_TRIES = 6  # an engine may refuse the first ones, while the container is coming up
ORPHAN_AGE = 60  # seconds after which a container of ours that does not run belongs to a dead run
LOG_TAIL = 1 << 16  # bytes of the model's last output that are kept for an error


CLIENT_LABEL = "cog.pyz.client"  # the label of a container of ours that says which process it is for


def describe_process(pid: str = "self") -> str:
    """A process as others on this machine know it again: boot, namespace, number, start; empty if there is none."""
    try:
        boot = read_text("/proc/sys/kernel/random/boot_id").strip()
        number, _, rest = read_text(f"/proc/{pid}/stat").partition(" ")
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {number} {rest.rpartition(')')[2].split()[19]}"
    except OSError:
        return ""


def is_dead(description: str) -> bool:
    """Whether a process surely was of this machine, and is no more.

    >>> is_dead(describe_process()), is_dead("another-machine pid:[1] 1 1"), is_dead("")
    (False, False, False)
    """
    words, own = description.split(), describe_process().split()
    return len(words) == 4 and words[:2] == own[:2] and describe_process(words[2]) != description


def first_file(tar: bytes) -> bytes | None:
    """What the first file of a tar holds; None without one."""
    import io
    import tarfile

    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
            return next((archive.extractfile(member) or io.BytesIO()).read() for member in archive if member.isfile())
    except (tarfile.TarError, StopIteration):
        return None


GPU_HINT = ("the engine has no GPU for a container: it needs the NVIDIA driver and the NVIDIA Container Toolkit "
            "(on Podman a CDI specification: nvidia-ctk cdi generate); --cpu runs without a GPU")


class ProjectUnseen(ModelGone):
    """The engine's /src is not the project's folder: it runs elsewhere, or we do."""


class LanePortTaken(ModelGone):
    """Somebody else listens on the port that was chosen for the lane."""


class InitRefused(CogError):
    """The engine's init program may not run in the container, as by some policies of SELinux."""


class Host:
    """A running model, wherever it runs: its log, its link, and the waiting for it.

    Subclasses start the model and set `link`; `gone` says that it has ended, `ended` what became of it.
    Whoever made it closes it, which ends the model. The log of one that is `served` is passed on as it is.
    """

    starting = "Starting Docker image and running setup()..."
    patience = 0.02  # seconds after which a busy model is asked again
    inline = False  # files travel inside the JSON, and what the prediction prints in its answer

    def __init__(self, loop: Loop, console: Console) -> None:
        self.loop, self._console, self.served = loop, console, False
        self.fetch: Fetch | None = None
        self.link: Link | None = None
        self.log_tail = bytearray()
        self._logs: list[Source] = []  # what the model prints comes through these
        self._log_time = 0.0  # when it last did, monotonic
        self._plain: dict[int, RuntimeLog] = {}
        self.spoken: Spoken | None = None  # gets what the model prints in a prediction, if that comes another way too

    @property
    def health(self) -> str:
        """The model's last status, empty before there is one."""
        return self.link.health if self.link is not None else ""

    @property
    def health_body(self) -> JSON | None:
        """What the model said with its last status."""
        return self.link.health_body if self.link is not None else None

    @property
    def hello(self) -> JSON:
        """What the helper said of itself; empty before it has."""
        return self.link.hello if self.link is not None else {}

    @property
    def speaks_coglet(self) -> bool:
        """Whether the runtime is 0.17 or newer: what a prediction prints is in its responses only."""
        return "version" in (self.health_body or {})

    @property
    def gone(self) -> bool:
        """Whether the model has ended, or can no longer be reached."""
        return self.link is not None and self.link.ended

    @property
    def exit_status(self) -> int | None:
        """The status with which the model has ended by itself, as far as that is known. To be asked after `ended`."""
        return self.link.exited if self.link is not None else None

    @property
    def lost(self) -> bool:
        """Whether it is gone, and for all that is known has not ended by itself. To be asked after `ended`."""
        return self.gone and self.exit_status is None

    @property
    def files_given(self) -> list[str]:
        """The names of the output files in the order in which the model gave them, as far as that was told."""
        return [name for log in self._plain.values() for name in log.files]

    @property
    def logs_ended(self) -> bool:
        """Whether nothing more can be printed."""
        return not any(source.open for source in self._logs)

    def ended(self) -> str:
        """What became of the model, in words."""
        return self.link.end_reason if self.link is not None else "it was never started"

    def shortage(self) -> str:
        """That memory ran out, if it did and somebody knows."""
        return ""

    def start(self) -> None:
        """Start the model and the helper beside it."""
        raise NotImplementedError

    def drain(self) -> None:
        """Wait, within bounds, until what the model printed has been shown."""

    def await_silence(self, since: float, seconds: float, deadline: float) -> None:
        """Wait until the model has printed nothing for so long from then on, or cannot, or until the deadline."""
        while not self.logs_ended:
            due = min(deadline, max(since, self._log_time) + seconds)
            if time.monotonic() >= due:
                return
            self.loop.run(lambda: self.logs_ended, due)

    def stop(self, seconds: float) -> None:
        """Ask a model that has been set up to end, and wait until it has, for so long at most.

        `close` is still to be called.
        """
        if self.health not in ("", "STARTING") and not self.gone:
            self.open("POST", "/shutdown")
            if self.wait(lambda: self.gone, time.monotonic() + seconds):
                self.drain()

    def close(self) -> None:
        """End the model, and everything that was opened for it."""
        self.loop.close()

    def show_log(self, stream: int, data: bytes) -> None:
        """Show what the model printed on one of its streams, 1 or 2."""
        self._log_time = time.monotonic()
        shown = self._plain.setdefault(stream, RuntimeLog()).feed(data, self.spoken.add if self.spoken else None)
        self.log_tail += shown[-LOG_TAIL:]
        del self.log_tail[:-LOG_TAIL]
        if self.served:
            self._pass_on(data, stream)
        elif shown:
            self._console.log(shown, stream)

    def _pass_on(self, data: bytes, stream: int) -> None:
        """Show a served model's log; a reader of our stdout that goes away interrupts, as it would a program."""
        import signal

        try:
            self._console.pass_on(data, stream)
        except BrokenPipeError:
            self.loop.interrupt(Interrupted(signal.SIGPIPE))

    def wait(self, until: Callable[[], bool], deadline: float | None = None) -> bool:
        """Pump everything until the condition holds, True, or the deadline (monotonic seconds) has passed, False."""
        while not until():
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return False
            turn = now + REDRAW
            if not self.loop.run(lambda: until() or self.is_due(), min(turn, deadline or turn)):
                self._console.status(last_line(bytes(self.log_tail)) if self._console.live else "")
            self.keep_up()
        return True

    def is_due(self) -> bool:
        """Whether `keep_up` has something to do at once."""
        return False

    def keep_up(self) -> None:
        """What a kind of host has to do between two turns of the loop."""

    def request(self, method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """The model's reply, its body unread. Raises ModelGone."""
        answer = self.open(method, path, body=body, headers=headers)
        self.wait(lambda: answer.ready)
        answer.wait()
        return answer

    def open(self, method: str, path: str, *, body: bytes | InlineBody = b"",
             headers: Mapping[str, str] | None = None) -> Answer:
        """The reply to come; nothing is waited for. Raises ModelGone; InputError: a file cannot be read."""
        if self.link is None:
            raise ModelGone("the model cannot be reached yet")
        whole = b"".join(body.chunks()) if isinstance(body, InlineBody) else body
        return self.link.open(method, path, body=whole, headers=headers)

    def warn(self, text: str) -> None:
        """Show a warning."""
        self._console.warn(text)

    def explain(self, path: str, answer: Answer) -> CogError | None:
        """What an answer that is no success says of how the model is reached, if it does."""
        del path, answer
        return None


class ContainerHost(Host):
    """A model in a container of its own: created, followed, reached through the helper, and removed.

    `exit_code` is None while the container runs.
    """

    looks_first = False  # for the project, before the container starts

    def __init__(self, engine: Engine, plan: Plan, lane: Lane | None, loop: Loop, console: Console) -> None:
        super().__init__(loop, console)
        self._engine, self._plan, self._lane = engine, plan, lane
        self.exit_code: int | None = None
        self._container, self._is_starting, self._has_init = "", False, False
        self._output: Source | None = None  # its stdin, stdout and stderr
        self._end: Source | None = None  # what tells its exit code
        self._interpreters = list(plan.interpreters)
        self._frames = FrameParser()
        self._marks = 0
        self._cut: dict[int, bytes] = {}  # the beginning of a mark, by stream
        self._guardian: Guardian | None = None
        self._tries = 0  # to run a helper
        self._unseen = plan.project if plan.project and not plan.project.copied else None  # to be looked for in there

    @property
    def gone(self) -> bool:
        """Whether the container has ended, or can no longer be reached."""
        return self.exit_code is not None or (super().gone and (bool(self.hello) or self._is_cut))

    @property
    def _is_cut(self) -> bool:
        """Whether the engine broke off before it told the container's exit code."""
        return self._end is not None and not self._end.open and self.exit_code is None

    def start(self) -> None:
        """Create and start the container and bring up the helper in it. Raises EngineError."""
        engine, name, settings = self._engine, self._plan.name, self._plan.body["HostConfig"]
        self._guardian = Guardian(lambda: engine.detached_remove(name), engine.descriptors())
        while not self._container:
            try:
                self._start_container(settings)
            except EngineError as error:
                settings = self._spare(settings, error)
        self._start_helper()
        self._remove_orphans()

    def _spare(self, settings: JSON, error: EngineError) -> JSON:
        """A HostConfig without what the engine lacks. Raises EngineError: nothing in it, or nothing to do without."""
        if is_missing_init(error) and "Init" in settings:
            return {key: value for key, value in settings.items() if key != "Init"}
        if not (is_missing_gpu(error) and settings["DeviceRequests"]):
            raise error
        if not self._plan.gpus_by_label:
            raise EngineError(error.call, error.status, error.message, hint=GPU_HINT) from error
        self._console.warn("Missing device driver, re-trying without GPU")
        return {**settings, "DeviceRequests": []}

    def _start_container(self, settings: JSON) -> None:
        """Create, attach, wait and start, in this order, so that no log line and no exit code is lost."""
        engine, plan, self._is_starting = self._engine, self._plan, True
        labels = {**plan.body["Labels"], CLIENT_LABEL: describe_process()}
        try:
            self._container = engine.container_create({**plan.body, "Labels": labels, "HostConfig": settings},
                                                      name=plan.name, platform=plan.platform)
            self._fill()
            attach = engine.container_attach(self._container, stdin="OpenStdin" in plan.body)
            ended = engine.container_wait(self._container)
            engine.container_start(self._container)
        except (EngineError, ProjectUnseen):
            if self._container:
                engine.container_remove(self._container)
            self._container, self._is_starting = "", False
            raise
        self._is_starting, self._has_init = False, bool(settings.get("Init"))
        self._output = self.loop.add(attach, self._on_log, on_room=self._on_room)
        self._logs = [self._output]
        self._end = self.loop.add(ended, lambda data: self._on_exit(ended.feed(data)))

    def _fill(self) -> None:
        """Give the container, before it starts, what it does not get by a mount. Raises ProjectUnseen."""
        project = self._plan.project
        if project is not None and project.copied:
            tar = copy_project(project.folder, extra_files=project.files, warn=self._console.warn)
            self._engine.container_put_archive(self._container, "/", tar)
        elif self._unseen is not None and (self.looks_first or self.served):  # once it runs, its port is taken a while
            name, data = next(iter(self._unseen.files.items()))
            found = self._engine.container_get_archive(self._container, f"/src/{name}")
            self._note_seen(found is not None and first_file(found) == data)

    def _note_seen(self, is_same: bool) -> None:
        """Look no more for the project. Raises ProjectUnseen: it is not the folder at /src."""
        project, self._unseen = self._unseen, None
        if project is not None and not is_same:
            raise ProjectUnseen(f"the engine does not see {project.folder}")

    def _start_helper(self) -> None:
        """Run the helper, with the next interpreter if the image lacks the last. Raises ModelGone: none is left."""
        said = bytes(self.link.trouble).decode("utf-8", "replace") if self.link is not None else ""
        self._console.debug(f"helper: {said.strip()}")
        if any(words in said for words in ("not found", "no such file", "No such file", "ermission denied")):
            self._interpreters.pop(0)
        self._tries += 1
        if not self._interpreters or self._tries > HELPER_TRIES:
            if self.loop.run(lambda: self.exit_code is not None, time.monotonic() + EXIT_GRACE):
                return  # that the container has ended says more
            raise ModelGone("no Python was found in the image to reach the model with" if not self._interpreters else
                            f"no helper could be run beside the model: {said.strip()}",
                            hint="the image's command must be a python on its PATH")
        command = [self._interpreters[0], "-ISc", helper_source()]
        try:
            stream = self._engine.exec_start(self._engine.exec_create(self._container, command))
        except EngineError as error:  # a program that is missing, or a container that has ended
            if not self.loop.run(lambda: self.exit_code is not None, time.monotonic() + 0.1 * self._tries):
                self._interpreters = self._interpreters[1:] if "not found" in error.message else self._interpreters
                self._start_helper()
            return
        lane = self._plan.ports.lane if self._lane is not None else 0
        settings: JSON = {"port": self._plan.ports.model, "lane": lane, "leash": "container"}
        self.link = Link(self.loop, stream, self._lane, settings, framed=True)

    def _remove_orphans(self) -> None:
        """Remove what runs left that could not clean up: old containers that do not run, or whose client is dead."""
        try:
            for found in self._engine.container_list(RUN_LABEL):
                client = str((found.get("Labels") or {}).get(CLIENT_LABEL, ""))
                left = found.get("State") != "running" or is_dead(client)
                if left and time.time() - int(found.get("Created") or 0) > ORPHAN_AGE:
                    self._console.debug(f"removing {found.get('Id')}, which a run left that is gone")
                    self._engine.container_remove(str(found.get("Id")))
        except EngineError as error:  # Podman lists none while it has one that is half removed
            self._console.debug(f"what runs left stays: {error}")

    def _on_log(self, data: bytes) -> None:
        if self._has_init and not self._log_time and is_init_refused(data):
            raise InitRefused("the engine's init program may not run in the container")
        for stream, shown in self._frames.feed(data):
            shown, self._cut[stream] = self._take_marks(self._cut.get(stream, b"") + shown)
            self.show_log(stream, shown)

    def _take_marks(self, shown: bytes) -> tuple[bytes, bytes]:
        """What is left to show without the marks in it, and the beginning of one that is cut at the end."""
        mark = f"{self._plan.name}-mark\n".encode()
        if mark in shown:
            self._marks += shown.count(mark)
            shown = shown.replace(mark, b"")
        cut = next((size for size in range(len(mark) - 1, 0, -1) if shown.endswith(mark[:size])), 0)
        return shown[:len(shown) - cut], shown[len(shown) - cut:]

    def _on_exit(self, reply: JSON | None) -> None:
        if reply is not None:
            self.exit_code = int(reply.get("StatusCode", -1))

    def _on_room(self) -> None:
        """Go on with what the container's stdin is to get."""

    def is_due(self) -> bool:
        """Whether the helper turned out to be none, while the container lives."""
        return super().gone and not self.gone and not self.logs_ended

    def keep_up(self) -> None:
        """Try the next interpreter, if the last was none. Raises LanePortTaken."""
        if self.is_due():
            self._start_helper()
        if self.hello and self._unseen is not None:
            self._check_project(self._unseen)
        if self.hello and self._lane is not None and not self.hello.get("lane"):
            said = self.hello.get("error", "")
            raise LanePortTaken(f"port {self._plan.ports.lane} is taken beside the model: {said}")

    def _check_project(self, project: Project) -> None:
        """Compare a file of the project at both ends. Raises ProjectUnseen."""
        import hashlib

        assert self.link is not None
        name, data = next(iter(project.files.items()))
        told = self.link.digest(f"/src/{name}", time.monotonic() + 5)
        self._note_seen(self.link.ended or told == hashlib.sha256(data).hexdigest())

    @property
    def exit_status(self) -> int | None:
        """The exit code of the container. To be asked after `ended`."""
        return self.exit_code

    def ended(self) -> str:
        """What became of the container, in words."""
        self.wait(lambda: self.exit_code is not None, time.monotonic() + 2)
        if self.exit_code is None:
            return self.link.end_reason if self.link is not None else "the way to the model was cut"
        killed = "the container was killed from outside (exit code 137), as it is when it runs out of memory"
        return self.shortage() or (killed if self.exit_code == 137 else  # Podman forgets why when it is removed
                                   f"the container ended with exit code {self.exit_code}")

    def shortage(self) -> str:
        """That memory ran out, if it did; the server may have lived on, and know nothing of it."""
        is_short = self._engine.was_oom_killed(self._container)
        return "OOMKilled: the container ran out of memory" if is_short else ""

    def drain(self) -> None:
        """Wait, within bounds, until what the model printed has been shown."""
        deadline, wanted = time.monotonic() + DRAIN_LIMIT, 0
        if self.link is not None and not self.link.ended:
            wanted = self._marks + self.link.mark(f"{self._plan.name}-mark", time.monotonic() + 2)
            self.wait(lambda: self._marks >= wanted or self.logs_ended, deadline)
        if wanted:
            self.await_silence(0.0, DRAIN_QUIET, deadline)
        else:
            self.await_silence(time.monotonic(), 10 * DRAIN_QUIET, deadline)

    def close(self) -> None:
        """Kill the container and forget it. The engine removes it; the leash sees to it, or else the guardian."""
        runs, has_leash = bool(self._container) and self.exit_code is None, bool(self.hello)
        if runs and not self._is_starting:
            try:
                self._engine.container_kill(self._container, forget=True)
            except CogError as error:
                self._console.debug(f"kill: {error}")
                has_leash = False
        self.loop.close()
        if self._guardian is not None:
            self._guardian.dismiss(clean=self._is_starting or (runs and not has_leash))


def run_in_image(engine: Engine, body: JSON, loop: Loop, *, files: Iterable[bytes] | None = None,
                 limit: float | None = None) -> tuple[int | None, bytes, bytes]:
    """Exit code, stdout and stderr of a container that is removed at its end; the code is None after `limit` seconds.

    `body` is the create call's, `files` a tar for its /. Raises EngineError.
    """
    name = f"cog-{os.urandom(6).hex()}"
    guardian = Guardian(lambda: engine.detached_remove(name), engine.descriptors())
    frames, text, codes, sources = FrameParser(), {1: b"", 2: b""}, list[int](), list[Source]()

    def on_text(data: bytes) -> None:
        for stream, part in frames.feed(data):
            text[stream] = text.get(stream, b"") + part

    def on_exit(data: bytes) -> None:
        answer = ended.feed(data)
        if answer is not None:
            codes.append(int(answer["StatusCode"]))

    try:
        host = {**body.get("HostConfig", {}), "AutoRemove": True}
        labels = {RUN_LABEL: name, CLIENT_LABEL: describe_process()}
        container = engine.container_create({**body, "Labels": labels, "HostConfig": host}, name=name)
        if files is not None:
            engine.container_put_archive(container, "/", files)
        attach, ended = engine.container_attach(container), engine.container_wait(container)
        sources += [loop.add(attach, on_text), loop.add(ended, on_exit)]
        engine.container_start(container)
        loop.run(lambda: not any(source.open for source in sources[:1 if codes else 2]),
                 None if limit is None else time.monotonic() + limit)
    finally:
        for source in sources:
            loop.remove(source)
        guardian.dismiss(clean=not codes)
    return codes[0] if codes else None, text[1], text[2]


# -- a command in a container

EXEC_GRACE = 10.0  # seconds that a command gets to end after a signal, as docker stop gives it
SIGNALS = {1: "HUP", 2: "INT", 15: "TERM"}


class Terminal:
    """The user's terminal, on a descriptor: raw between `enter` and `leave`, or our death."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved: list[Any] = []
        self._guardian: Guardian | None = None

    def size(self) -> tuple[int, int]:
        """Its lines and columns, 0 where they are not known."""
        try:
            columns, lines = os.get_terminal_size(self._descriptor)
        except OSError:
            return 0, 0
        return lines, columns

    def enter(self) -> None:
        """Pass every key on as it is pressed; what was typed before is kept."""
        import termios
        import tty

        try:
            self._saved = termios.tcgetattr(self._descriptor)
            tty.setraw(self._descriptor, termios.TCSANOW)
            raw = termios.tcgetattr(self._descriptor)
        except termios.error:
            return  # it is gone
        self._guardian = Guardian(lambda: termios.tcgetattr(self._descriptor) != raw or self._restore(),
                                  [self._descriptor])

    def leave(self) -> None:
        """Make it what it was."""
        if self._saved:
            self._restore()
            self._saved = []
        if self._guardian is not None:
            self._guardian.dismiss()

    def _restore(self) -> bool:
        import termios

        try:
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._saved)
        except termios.error:
            pass  # it is gone
        return True


class ExecHost(ContainerHost):
    """A command in a container of its own, on our stdin, stdout and stderr; with `terminal` it works in that."""

    looks_first = True  # the command may do anything

    def __init__(self, engine: Engine, plan: Plan, loop: Loop, console: Console, stdin: int,
                 terminal: Terminal | None) -> None:
        super().__init__(engine, plan, None, loop, console)
        self._terminal, self._stdin = terminal, stdin
        self._input: Source | None = None
        self._input_ended = self._is_alone = self._closed_pipe = False
        self._size = (0, 0)
        self._refusal = b""  # what the container's init says of a command that it cannot run

    def _start_helper(self) -> None:
        """Bring up the leash, once the command has what it reads; without a leash the guardian remains."""
        if self._input is None and not self._input_ended:
            self._tell_ports()
            if self._terminal is not None:
                self._terminal.enter()
                self._resize()
            self._on_room()
        try:
            super()._start_helper()
        except ModelGone as error:
            self._console.debug(f"no helper: {error}")
            self._is_alone = True

    def _tell_ports(self) -> None:
        """Say which ports the engine chose, where it had the choice."""
        wanted = [place["HostPort"] for places in self._plan.body["HostConfig"]["PortBindings"].values()
                  for place in places]
        if all(port.isdigit() and int(port) for port in wanted):
            return
        found = self._engine.container_inspect(self._container) or {}
        for inside, places in ((found.get("NetworkSettings") or {}).get("Ports") or {}).items():
            for place in places or ():
                self._console.info(f"port {inside} is at {place.get('HostIp')}:{place.get('HostPort')}")

    def is_due(self) -> bool:
        """Whether the helper turned out to be none, and another may be tried."""
        return not self._is_alone and super().is_due()

    def keep_up(self) -> None:
        """Try the next interpreter, if the last was none; follow the terminal's size."""
        super().keep_up()
        self._resize()

    def _resize(self) -> None:
        size = self._terminal.size() if self._terminal is not None else (0, 0)
        if size != self._size and self.exit_code is None:
            try:
                self._engine.container_resize(self._container, *size)
                self._size = size
            except CogError as error:
                self._console.debug(f"resize: {error}")

    def _on_room(self) -> None:
        output = self._output
        if output is None or output.broken or not output.open:
            return
        if self._input_ended:
            if not output.queued:
                getattr(output.stream, "half_close", bool)()
        elif self._input is None:
            self._input = self.loop.add(BorrowedStream(self._stdin), self._on_input, self._on_input_end)

    def _on_input(self, data: bytes) -> None:
        if b"\3" in data and self._terminal is not None and self.hello and self.link and not self.link.ended:
            self.link.control({"wake": True})  # what Ctrl-Z stopped is to hear this Ctrl-C
        if self._output is not None:
            self._output.send(data)
            if (self._output.queued >= LINK_QUEUE or self._output.broken) and self._input is not None:
                self.loop.remove(self._input)
                self._input = None

    def _on_input_end(self) -> None:
        self._input, self._input_ended = None, True
        self._on_room()

    def _on_log(self, data: bytes) -> None:
        for stream, part in [(1, data)] if self._terminal is not None else self._frames.feed(data):
            begins = not self._log_time and part.startswith((b"[FATAL tini", b"ERROR (catatonit"))
            may_be = stream == 2 or self._terminal is not None
            if may_be and (begins or (self._refusal and not self._refusal.endswith(b"\n"))):
                self._refusal += part  # it comes in pieces
                continue
            try:
                self._console.result(part, stream=stream, raw=self._terminal is not None)
            except BrokenPipeError:
                self._closed_pipe = True
            self._log_time = time.monotonic()

    def follow(self) -> int:
        """The command's exit code, once all that it printed has been passed on.

        A signal is the command's, and ours if it ends by it. A second one, or its staying, ends it; so does one that it
        is too young to hear. Raises ExecFailed, Interrupted, ModelGone, BrokenPipeError.
        """
        interruption: Interrupted | None = None
        deadline = None
        while not self._is_over() and (deadline is None or time.monotonic() < deadline):
            try:
                self.wait(self._is_over, deadline)
            except Interrupted as error:
                is_up = self._is_alone or self._log_time or self.hello
                if interruption is not None or not is_up:
                    raise
                interruption, deadline = error, time.monotonic() + EXEC_GRACE
                self._forward(error.signal_number)
        if self._closed_pipe:
            raise BrokenPipeError
        if interruption is not None and self.exit_code in (None, 128 + interruption.signal_number):
            raise interruption
        if self.exit_code is None:
            raise ModelGone("the way to the container was cut")
        self._refuse()
        return self.exit_code

    def _forward(self, number: int) -> None:
        """Give the command a signal; the one of Ctrl-C to all of its processes, as a terminal does."""
        if SIGNALS[number] == "INT" and self._has_init and self.hello and self.link is not None and not self.link.ended:
            self.link.control({"signal": number})
        else:
            self._engine.container_kill(self._container, signal=SIGNALS[number])

    def _is_over(self) -> bool:
        """Whether nothing more is to be expected, be it that nothing came for long after the end."""
        if self._closed_pipe or self._is_cut:
            return True
        if self.exit_code is None:
            return False
        self._log_time = self._log_time or time.monotonic()
        return self.logs_ended or time.monotonic() - self._log_time > DRAIN_LIMIT

    def _refuse(self) -> None:
        """Nothing, unless the command could not be run. Raises CommandMissing, NotExecutable."""
        word = self._plan.body["Entrypoint"][0]
        if self.exit_code not in (1, 126, 127):  # catatonit ends with 1
            self._console.result(self._refusal, stream=2)
        elif b"o such file" in self._refusal:
            raise command_missing(word)
        elif self._refusal:
            raise NotExecutable(f"{word} cannot be run: {last_line(self._refusal).rpartition(': ')[2]}")

    def close(self) -> None:
        """Give the terminal back, and end the command."""
        if self._terminal is not None:
            self._terminal.leave()
        super().close()


def command_missing(word: str) -> CommandMissing:
    """The error for a command that is not in the model's environment."""
    return CommandMissing(f"{word}: command not found in the model's environment",
                          hint="what cog.yaml installs is there, and the files of the folder")


# -- a model in a process


COGLET_SCRATCH = "/tmp/coglet/predictions"  # where runtimes from 0.17 on make a folder for each prediction, by its id
UPLOAD_VARIABLE = "COG_PYZ_UPLOAD_URL"
SERVER_PROGRAM = f"""# python -m cog.server.http, with an --upload-url that other users do not see
import os, runpy, sys
sys.path[0] = os.getcwd()
upload_url = os.environ.pop("{UPLOAD_VARIABLE}")
sys.argv += ["--upload-url", upload_url] if upload_url else []
runpy.run_module("cog.server.http", run_name="__main__", alter_sys=True)
"""


class ProcessPlan(NamedTuple):
    """What will be run without an engine: everything that the process host needs."""

    python: str  # the helper's
    argv: list[str]  # the server's
    cwd: str  # where .cog/openapi_schema.json is to lie, too
    env: dict[str, str]
    address: str  # where the server is reached
    ports: Ports
    links: str  # the project whose files `cwd` is to have as links, empty where it is the project
    config_name: str  # the config's name in there
    lock: int  # closed when the model has ended
    scratch: list[str]  # folders that are there as long as the model runs


def process_notice(config: Config) -> str:
    """The line that says what running a model in a process means, and what of its config does not apply."""
    source = config.predict.partition(":")[0]
    try:
        reads_src = "/src/" in read_text(os.path.join(config.project, source)) if source else False
    except OSError:
        reads_src = False
    steps = f"{len(config.run)} command{'s' * (len(config.run) > 1)}"
    lost = [text for text, is_lost in (
        (f"system_packages ({', '.join(config.system_packages)})", config.system_packages),
        (f"run ({steps})", config.run), (f"the image with CUDA {config.cuda}", config.gpu and config.cuda),
        ("observability", config.tracing), (f"/src/, which {source} names", reads_src)) if is_lost]
    without = f"; without {', '.join(lost)}" if lost else ""
    return f"not isolated: the model runs as you, in a virtual environment{without}"


def try_port(host: str, port: int) -> int:
    """The port, which an address of this machine has free now; for 0 one that it has. Raises OSError."""
    import socket

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind((host, port))
        return int(trial.getsockname()[1])


def pick_free_ports(number: int) -> Ports:
    """Two ports of this machine that nobody listens on now, from a random `number`. Raises ModelGone: none is free."""
    for attempt in range(100):
        ports = pick_ports("host", number + 7 * attempt)
        try:
            for port in ports:
                try_port("127.0.0.1", port)
            return ports
        except OSError:
            continue
    raise ModelGone("no free port was found on 127.0.0.1")


PORT_HINT = "-p PORT names another one, -p 0 takes a free one"


def claim_port(host: str, port: int) -> int:
    """The port, if an address of this machine has it free now; for 0 one that is. Raises UsageError."""
    try:
        return try_port(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise port_taken(host, port) from error
        raise UsageError(f"port {port} cannot be opened at {host}: {error.strerror}", hint=PORT_HINT) from error


def port_taken(host: str, port: int) -> UsageError:
    """The error for a port that somebody else has."""
    return UsageError(f"port {port} is taken at {host}", hint=PORT_HINT)


def expand_variables(text: str, known: Mapping[str, str]) -> str:
    """A value of cog.yaml's environment with $NAME and ${NAME} filled in, as a Dockerfile does it.

    >>> expand_variables("${A}:$B/x 5$ ${C:-d}", {"A": "1", "B": "2"})
    '1:2/x 5$ d'
    """
    import re

    def fill(found: re.Match[str]) -> str:
        value = known.get(found[1] or found[2], "")
        if found[3] == ":-":
            return value or found[4]
        return (found[4] if value else "") if found[3] == ":+" else value

    return re.sub(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?:(:[-+])([^}]*))?\})", fill, text)


def visible_gpus(options: Options) -> dict[str, str]:
    """The variable that shows a process only the GPUs that the flags name. Raises UsageError.

    >>> visible_gpus(Options(gpus="device=0,2")), visible_gpus(Options(gpus="all")), visible_gpus(Options(cpu=True))
    ({'CUDA_VISIBLE_DEVICES': '0,2'}, {}, {'CUDA_VISIBLE_DEVICES': ''})
    """
    if options.cpu:
        return {"CUDA_VISIBLE_DEVICES": ""}
    for request in parse_gpus(options.gpus, cdi=False):
        ids = [device.rpartition("=")[2] for device in request.get("DeviceIDs", [])]
        ids = ids or [str(number) for number in range(request.get("Count", -1))]
        return {"CUDA_VISIBLE_DEVICES": ",".join(ids)} if ids and ids != ["all"] else {}
    return {}


def share_coglet_scratch() -> None:
    """Let every user of this machine have folders where runtimes from 0.17 on want theirs; root takes them over.

    Raises SetupFailed: those of another user, or a link, are in the way.
    """
    import contextlib

    for folder in (os.path.dirname(COGLET_SCRATCH), COGLET_SCRATCH):
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(handle).st_uid and not os.geteuid():
                    os.fchown(handle, 0, -1)
                if os.fstat(handle).st_uid == os.geteuid():
                    os.fchmod(handle, 0o1777)
            finally:
                os.close(handle)
            usable = os.access(folder, os.W_OK | os.X_OK)
        except OSError:
            usable = False
        if not usable:
            raise SetupFailed(f"Cog's runtime keeps its files in {folder}, which cannot be written",
                              hint=f"remove it, or chmod 1777 {folder}, as the user whose it is or as root")


def plan_process(options: Options, config: Config, environment: Environment, run: Run, variables: Mapping[str, str],
                 environ: Mapping[str, str]) -> ProcessPlan:
    """What will be run for one job without an engine. Raises UsageError: a flag that needs a container.

    `variables` are the user's for the model.
    """
    import tempfile

    ports = run.ports
    base, asked = process_variables(options, config, environment, environ)
    scratch = [os.path.join(tempfile.gettempdir(), run.name)]
    base["TMPDIR"] = scratch[0]
    user = {**asked, **runtime_environment(config), **variables}
    env = {**base, **server_environment(base, user, environ, ports.model, debug=options.debug,
                                         serving=is_serving(options))}
    env[UPLOAD_VARIABLE] = "".join(upload_flag(options, f"http://127.0.0.1:{ports.lane}/{run.token}/up")[1:])
    coglet = version_numbers(environment.runtime) >= (0, 17)
    if coglet and not is_serving(options):
        scratch.append(os.path.join(COGLET_SCRATCH, run.name))
    bound = f"[{options.host}]" if ":" in options.host and coglet else options.host
    argv = [environment.python, "-c", SERVER_PROGRAM, "--host", bound, *server_mode(options)]
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.host, options.host)
    renamed = config.file_name != "cog.yaml" and not coglet
    read_only = os.path.dirname(environment.folder) != os.path.join(config.project, ".cog")
    links = config.project if renamed or read_only else ""
    cwd = os.path.join(environment.folder, "project") if links else config.project
    return ProcessPlan(environment.python, argv, cwd, env, address, ports, links, config.file_name, environment.lock,
                       scratch)


def process_variables(options: Options, config: Config, environment: Environment,
                      environ: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The variables of a program in an environment, and those that cog.yaml gives the model."""
    bin_folder = os.path.dirname(environment.python)
    base = {**without_leftovers(environ), **certificate_variables(environment.folder), "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1", "VIRTUAL_ENV": environment.folder, **visible_gpus(options)}
    base["PATH"] = os.pathsep.join([bin_folder, environ.get("PATH") or os.defpath])
    asked: dict[str, str] = {}
    for name, value in config.environment:
        asked[name] = expand_variables(value, {**base, **asked})
    return base, asked


def link_project(project: str, folder: str, file_name: str) -> None:
    """Fill a folder with links to all that a project has, but with a .cog of its own, and the config under the name
    that old runtimes read."""
    os.makedirs(folder, exist_ok=True)
    wanted = {name: os.path.join(project, name) for name in os.listdir(project) if name not in (".cog", "cog.yaml")}
    wanted["cog.yaml"] = os.path.join(project, file_name)
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.islink(path) and os.readlink(path) != wanted.get(name):
            os.unlink(path)
    for name, target in wanted.items():
        try:
            os.symlink(target, os.path.join(folder, name))
        except FileExistsError:
            pass  # another run's, or what the model wrote


class ProcessHost(Host):
    """A model in a process of this machine, which the helper, a child of ours, starts and holds on its leash.

    `plan.lock` belongs to it.
    """

    starting = "Starting the model and running setup()..."

    def __init__(self, plan: ProcessPlan, lane: Lane | None, loop: Loop, console: Console) -> None:
        super().__init__(loop, console)
        self._plan, self._lane = plan, lane
        self._helper: subprocess.Popen[bytes] | None = None
        self._lock = plan.lock

    @property
    def gone(self) -> bool:
        """Whether the model has ended, or can no longer be reached."""
        return self.link is not None and (self.link.ended or self.link.exited is not None)

    def start(self) -> None:
        """Start the helper, and with it the model; a served one has a stdout of its own. Raises ModelGone."""
        import subprocess

        plan = self._plan
        pairs = [os.pipe() for _ in range(4 if self.served else 3)]
        child = [pairs[0][0], *(writing for _, writing in pairs[1:])]
        control = PipeStream(pairs[1][0], pairs[0][1])
        self._add_log(2, pairs[2][0])
        for reading, _ in pairs[3:]:
            self._add_log(1, reading)
        settings: JSON = {"address": plan.address, "port": plan.ports.model, "lane": plan.ports.lane,
                          "leash": "spawned", "scratch": plan.scratch,
                          "spawn": {"argv": plan.argv, "cwd": plan.cwd, "env": plan.env,
                                    "stdout": child[3] if self.served else 2}}
        try:
            if plan.links:
                link_project(plan.links, plan.cwd, plan.config_name)
            self._helper = subprocess.Popen([plan.python, "-ISc", helper_source()], stdin=child[0], stdout=child[1],
                                            stderr=child[2], cwd="/", env=plan.env, start_new_session=True,
                                            pass_fds=child[3:])
        except OSError as error:
            control.close()
            raise ModelGone(f"the model's Python cannot be started: {error}") from error
        finally:
            for descriptor in child:
                os.close(descriptor)
        self.link = Link(self.loop, control, self._lane, settings, framed=False)

    def _add_log(self, stream: int, reading: int) -> None:
        self._logs.append(self.loop.add(PipeStream(reading), lambda data: self.show_log(stream, data)))

    def keep_up(self) -> None:
        """Look at how the model was started. Raises LanePortTaken, ModelGone."""
        if self.hello and not self.hello.get("lane") and self._lane is not None:
            raise LanePortTaken(f"port {self._plan.ports.lane} is taken: {self.hello.get('error', '')}")
        if self.hello and not self.hello.get("spawned"):
            raise ModelGone(f"the model's Python cannot be started: {self.hello.get('error', '')}")

    def ended(self) -> str:
        """What became of the model, in words."""
        link = self.link
        if link is not None and link.exited is None:
            self.wait(lambda: link.exited is not None or link.ended, time.monotonic() + 2)
        if link is None or link.exited is None:
            return super().ended()
        if link.exited == -9:
            return "the model's process was killed, as a machine does that runs out of memory"
        if link.exited < 0:
            return f"the model's process was ended by signal {-link.exited}"
        return f"the model's process ended with exit code {link.exited}"

    def drain(self) -> None:
        """Wait, within bounds, until what the model printed has been shown."""
        now = time.monotonic()
        self.await_silence(now, DRAIN_QUIET, now + DRAIN_LIMIT)

    def close(self) -> None:
        """End the model and the helper."""
        import subprocess

        self.loop.close()
        helper, self._helper = self._helper, None
        if helper is not None:
            try:
                helper.wait(5)
            except subprocess.TimeoutExpired:
                helper.kill()
                helper.wait()
            spawned = self.hello.get("spawned")
            if helper.returncode < 0 and spawned and self.exit_status is None:
                kill_group(spawned)
            for folder in self._plan.scratch if helper.returncode < 0 else []:
                remove_tree(folder)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


# -- a model that runs somewhere already
# Each request has a connection of its own, through the proxies and with the certificate authorities that this machine
# is configured for. Files travel inside the JSON. The token goes to the model's own server and nowhere else.

BODY_LIMIT = 100 << 20  # bytes of a request that runtimes from 0.17 on take
COMING_UP = 30.0  # seconds for which a server may end connections unanswered, or have a gateway answer for it
PEEK_LIMIT = 5.0  # seconds for which the schema of a model that may not be ready is waited for
STALL_LIMIT = 60.0  # seconds between two pieces of a file that is fetched, or until a model's schema comes
SCHEME_HINT = "is it http:// or https://, and the right port?"
POLL_PAUSES = (0.1, 1.0)  # seconds between two questions whether the model is ready: at first, and at most
REDIRECT_LIMIT = 5


class Endpoint(NamedTuple):
    """The address of a server, and a path there without a slash at its end."""

    scheme: str  # http or https
    host: str
    port: int
    path: str = ""

    @property
    def place(self) -> str:
        """Host and port, as a Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}{self.path}"


def split_url(url: str) -> tuple[Endpoint, str]:
    """The endpoint of a URL, and its query with the question mark. Raises ValueError: not http or https, or malformed.

    >>> split_url("https://a.example/b/c%20d?e=1")
    (Endpoint(scheme='https', host='a.example', port=443, path='/b/c%20d'), '?e=1')
    """
    import re
    from urllib.parse import quote, urlsplit

    parts = urlsplit(url)
    host = parts.hostname or ""
    host = host if ":" in host else host.encode("idna").decode()
    known = parts.scheme in ("http", "https") and re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:.]+(%[a-z0-9]+)?", host)
    if not known or any(char < " " for char in url):
        raise ValueError("no http or https URL")
    port = parts.port if parts.port is not None else 443 if parts.scheme == "https" else 80
    safe = "/%:@!$&'()*+,;=~?"
    query = "?" + quote(parts.query, safe=safe) if parts.query else ""
    return Endpoint(parts.scheme, host, port, quote(parts.path, safe=safe)), query


def parse_endpoint(text: str) -> Endpoint:
    """The server that --url names. Raises UsageError, which shows no password.

    >>> str(parse_endpoint("http://localhost:8393/")), str(parse_endpoint("https://[::1]/models/a"))
    ('http://localhost:8393', 'https://[::1]/models/a')
    """
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise UsageError("--url takes no user and no password",
                         hint="--token-env NAME names the variable that holds a bearer token")
    try:
        endpoint, query = split_url(text)
    except ValueError:
        query, endpoint = "?", Endpoint("", "", 0)
    if query or "#" in text or " " in text:
        raise UsageError(f"--url {text!r} is not the address of a model", hint="--url http://HOST:PORT, or https://HOST")
    return endpoint._replace(path=endpoint.path.rstrip("/"))


def read_token(name: str, environ: Mapping[str, str]) -> str:
    """The token in a variable. Raises UsageError, which does not show it."""
    token = environ.get(name, "").strip()
    if not token:
        raise UsageError(f"--token-env {name}: the variable is not set", hint=f"export {name}=...")
    if not token.isascii() or any(char <= " " for char in token):
        raise UsageError(f"--token-env {name}: the variable holds no token: a space, or what is not ASCII")
    return token


def is_loopback(host: str) -> bool:
    """Whether a host is this machine.

    >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("gpu1")
    (True, True, False)
    """
    return host in ("localhost", "::1") or host.startswith("127.") or host.endswith(".localhost")


def find_proxy(endpoint: Endpoint, environ: Mapping[str, str]) -> tuple[Endpoint, str] | None:
    """The proxy on the way to a server, and the credentials for it; None without one. Raises UsageError: unusable.

    Read are http_proxy, https_proxy, all_proxy and no_proxy, in small letters or capitals; this machine needs none.

    >>> find_proxy(Endpoint("https", "a.example", 443), {"HTTPS_PROXY": "me:x@proxy:3128"})
    (Endpoint(scheme='http', host='proxy', port=3128, path=''), 'Basic bWU6eA==')
    >>> find_proxy(Endpoint("https", "a.example", 443), {"https_proxy": "http://proxy", "no_proxy": "b.com,.example"})
    """
    def read(name: str) -> str:
        return environ.get(name) or environ.get(name.upper(), "")

    name = next((name for name in (f"{endpoint.scheme}_proxy", "all_proxy") if read(name)), "")
    if not name or is_loopback(endpoint.host):
        return None
    import base64
    from urllib.parse import unquote
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

    if proxy_bypass_environment(f"{endpoint.host}:{endpoint.port}", {"no": read("no_proxy")}):
        return None
    text = read(name) if "://" in read(name) else f"http://{read(name)}"
    user, _, place = text.partition("://")[2].rpartition("@")
    try:
        proxy, _ = split_url(f"{text.partition('://')[0]}://{place}")
    except ValueError:
        proxy = Endpoint("", "", 0)
    if proxy.scheme != "http":
        raise UsageError(f"{name} is not the address of an HTTP proxy",
                         hint=f"unset {name}, or no_proxy={endpoint.host} goes around it")
    return proxy._replace(path=""), "Basic " + base64.b64encode(unquote(user).encode()).decode() if user else ""


def explain_connect(endpoint: Endpoint, error: OSError) -> ModelGone:
    """Why a server could not be connected to, and what to do about it."""
    name, said = type(error).__name__, str(error.strerror or error)
    if name == "gaierror":
        return ModelGone(f"{endpoint.host} cannot be found: {said}", hint="is the name right, and is there a network?")
    if isinstance(error, ConnectionRefusedError):
        return ModelGone(f"nothing listens at {endpoint.place}: {said.lower()}", hint="is it started?")
    if name == "SSLCertVerificationError":
        why = getattr(error, "verify_message", "") or said
        return ModelGone(f"the certificate of {endpoint.place} is not trusted: {why}",
                         hint="--url is to have a name that the certificate is for" if "mismatch" in why else
                         "COG_CA_CERT=FILE names the authority that signed it")
    if name.startswith("SSL") or (endpoint.scheme == "https" and isinstance(error, ConnectionError)):
        return ModelGone(f"{endpoint.place} does not speak TLS with us: {getattr(error, 'reason', '') or said}",
                         hint="does it speak http:// only?")
    if isinstance(error, TimeoutError):
        return ModelGone(f"{endpoint.place} does not answer within {DIAL_TIMEOUT:g} seconds")
    return ModelGone(f"cannot reach {endpoint.place}: {said}")


class WebStream(Transport):
    """A connection to a server; one that breaks ends, and `broken` says how."""

    peer = "the server"
    broken = ""

    def recv(self, limit: int) -> bytes:
        """At most so many bytes, none at the end. Raises BlockingIOError: nothing is here."""
        try:
            return super().recv(limit)
        except StreamError as error:
            self.broken = str(error)
            return b""


class Exchange:
    """A request on a connection of its own: sends its pieces and brings the reply to an Answer."""

    def __init__(self, loop: Loop, stream: WebStream, pieces: Iterator[bytes]) -> None:
        self.on_data: Callable[[bytes], object] = len  # an Answer sets these two at once
        self.on_end: Callable[[str | None], object] = bool
        self._loop, self._stream, self._pieces = loop, stream, pieces
        self._source = loop.add(stream, self._take, self._end, self.send)

    def _take(self, data: bytes) -> None:
        self.on_data(data)

    def send(self) -> None:
        """Queue what there is room for. Raises InputError: a file cannot be read."""
        while self._source.queued < LINK_QUEUE and self._source.open and not self._source.broken:
            piece = next((piece for piece in self._pieces if piece), b"")
            if not piece:
                return
            self._source.send(piece)

    def _end(self) -> None:
        getattr(self._pieces, "close", bool)()
        self.on_end(self._stream.broken or None)

    def use(self, count: int, /) -> None:
        """Nothing: what has come is read before the loop takes more."""

    def close(self) -> None:
        """Close the connection."""
        self._loop.remove(self._source)
        getattr(self._pieces, "close", bool)()


class Web:
    """Servers, as this machine is configured to reach them."""

    def __init__(self, loop: Loop, console: Console, environ: Mapping[str, str], cwd: str) -> None:
        self.loop, self.console, self._environ = loop, console, environ
        self._authorities = "".join(read_certificates(environ.get("COG_CA_CERT", ""), cwd))

    def ask(self, endpoint: Endpoint, method: str, query: str = "", *, body: InlineBody | None = None,
            headers: Mapping[str, str] | None = None) -> Answer:
        """The reply to come, for the endpoint's path; only the connection is waited for. Raises ModelGone."""
        proxy = find_proxy(endpoint, self._environ)
        self.console.debug(f"web: {method} {endpoint}" + (f" through {proxy[0].place}" if proxy else ""))
        fields = {"host": endpoint.place, "user-agent": f"cog.pyz/{__version__}", "accept-encoding": "identity",
                  "connection": "close", **{name.lower(): value for name, value in (headers or {}).items()}}
        target = endpoint.path or "/"
        if proxy and endpoint.scheme == "http":
            target = str(endpoint._replace(path="")) + target
            fields.update({"proxy-authorization": proxy[1]} if proxy[1] else {})
        if method != "GET":
            fields["content-length"] = str(body.length if body is not None else 0)
        head = render_head(f"{method} {target}{query} HTTP/1.1", fields.items())
        exchange = Exchange(self.loop, WebStream(self._connect(endpoint, proxy)),
                            chain_bytes(head, body.chunks() if body is not None else ()))
        answer = Answer(self.loop, exchange, method)
        exchange.send()
        return answer

    def _connect(self, endpoint: Endpoint, proxy: tuple[Endpoint, str] | None) -> socket.socket:
        """A connection on which a request can be sent. Raises ModelGone."""
        first = proxy[0] if proxy else endpoint
        try:
            connection = dial(Address("tcp", first.host, first.port), DIAL_TIMEOUT)
        except OSError as error:
            failure = explain_connect(first, error)
            if proxy:
                failure = ModelGone(f"the proxy: {failure}", hint=f"no_proxy={endpoint.host} goes around it")
            raise failure from error
        try:
            if endpoint.scheme == "https" and proxy:
                self._open_tunnel(connection, endpoint, *proxy)
            if endpoint.scheme == "https":
                connection = wrap_tls(Address("tls", endpoint.host, endpoint.port), connection, self._authorities)
            return connection
        except OSError as error:
            connection.close()
            raise explain_connect(endpoint, error) from error
        except BaseException:
            connection.close()
            raise

    @staticmethod
    def _open_tunnel(connection: socket.socket, endpoint: Endpoint, proxy: Endpoint, credentials: str) -> None:
        """Have a proxy pass on to the server what is sent from now on. Raises ModelGone, OSError."""
        goal = f"[{endpoint.host}]:{endpoint.port}" if ":" in endpoint.host else f"{endpoint.host}:{endpoint.port}"
        sent = {"host": goal, **({"proxy-authorization": credentials} if credentials else {})}
        connection.sendall(render_head(f"CONNECT {goal} HTTP/1.1", sent.items()))
        try:
            status = read_head(connection)[0].start[1:]
        except (ConnectionError, StreamError) as error:
            raise ModelGone(f"the proxy {proxy.place} makes no connection to {goal}: {error}") from error
        if not status[0].startswith("2"):
            raise ModelGone(f"the proxy {proxy.place} refuses a connection to {goal}: {' '.join(status)}",
                            hint="its variable may need a user: https_proxy=http://USER:PASSWORD@HOST:PORT"
                            if status[0] == "407" else f"no_proxy={endpoint.host} goes around it")

    def fetch(self, url: str, stage: Stage, endpoint: Endpoint, token: str) -> None:
        """Put what a URL leads to into the sink that `stage` makes of its name, type and length.

        The token is for what the endpoint's own server has. Raises ModelGone: it cannot be had.
        """
        from urllib.parse import unquote, urljoin

        for _ in range(REDIRECT_LIMIT):
            try:
                place, query = split_url(url)
            except ValueError as error:
                raise ModelGone("it is at no http or https URL") from error
            own = place._replace(path="") == endpoint._replace(path="")
            given = {"authorization": f"Bearer {token}"} if token and own else {}
            answer = self.ask(place, "GET", query, headers=given)
            answer.timeout = STALL_LIMIT
            answer.wait()
            if answer.status not in (301, 302, 303, 307, 308):
                break
            url = urljoin(url, answer.headers.get("location", ""))
            answer.close()
        if answer.status != 200:
            answer.close()
            raise ModelGone(f"status {answer.status}")
        length = answer.headers.get("content-length")
        sink = stage(unquote(place.path.rpartition("/")[2]), answer.headers.get("content-type", ""),
                     parse_length(length) if length is not None else None)
        for data in answer:
            sink.write(data)
        sink.close()


class UrlHost(Host):
    """A model that somebody else started, behind a URL; nothing is started and nothing is ended."""

    inline = True
    patience = 0.5

    def __init__(self, endpoint: Endpoint, token: str, web: Web) -> None:
        super().__init__(web.loop, web.console)
        self.endpoint, self._token, self._web = endpoint, token, web
        self.starting = f"Waiting for the model at {endpoint}..."
        self.fetch = lambda url, stage: web.fetch(url, stage, endpoint, token)
        self._health = ""
        self._body: JSON | None = None
        self._began = self._due = float("inf")
        self._poll: Answer | None = None

    @property
    def health(self) -> str:
        """The model's last status, empty before there is one."""
        return self._health

    @property
    def health_body(self) -> JSON | None:
        """What the model said with its last status."""
        return self._body

    @property
    def gone(self) -> bool:
        """Never: a request that fails says so itself."""
        return False

    def ended(self) -> str:
        """What became of the model, in words."""
        return f"{self.endpoint} answered without a final status"

    def start(self) -> None:
        """Begin to ask whether the model is ready. Raises ModelGone."""
        self._began = self._due = time.monotonic()
        self.keep_up()

    def is_due(self) -> bool:
        """Whether the model has said how it is."""
        return self._poll is not None and self._poll.ready

    def keep_up(self) -> None:
        """Ask how the model is, until it is ready or has failed. Raises UsageError, ModelGone."""
        now = time.monotonic()
        if self._poll is None and self._health in ("", "STARTING") and now >= self._due:
            self._poll = self.open("GET", "/health-check")
        if self._poll is not None and self._poll.ready:
            answer, self._poll = self._poll, None
            self._due = now + min(max((now - self._began) / 10, POLL_PAUSES[0]), POLL_PAUSES[1])
            self._take_health(answer, late=now - self._began > COMING_UP)

    def _take_health(self, answer: Answer, *, late: bool) -> None:
        garbled = answer.heard and not answer.status
        if answer.status in (0, 502, 503, 504) and not late and not garbled:
            answer.close()
            return
        error = self.explain("/health-check", answer)
        if error is not None:
            raise error
        body = parse_document(answer.read())
        if body is None or not isinstance(body.get("status"), str):
            raise self._stranger("/health-check", answer.status)
        self._health, self._body = body["status"], body

    def _stranger(self, path: str, status: int) -> UsageError:
        return UsageError(f"no Cog model answers at {self.endpoint}: {path} returned status {status}",
                          hint=SCHEME_HINT if status == 400 else
                          "--url is the address below which the model's /health-check and /predictions are")

    def peek_document(self) -> JSON | None:
        """The model's OpenAPI document, if its server gives one without making us wait. Raises ModelGone."""
        answer = self.open("GET", "/openapi.json")
        self.wait(lambda: answer.ready, time.monotonic() + PEEK_LIMIT)
        if answer.status == 200:
            return parse_document(answer.read())
        answer.close()
        return None

    def open(self, method: str, path: str, *, body: bytes | InlineBody = b"",
             headers: Mapping[str, str] | None = None) -> Answer:
        """The reply to come; only the connection is waited for. Raises ModelGone; InputError: it would be refused."""
        body = InlineBody((body,)) if isinstance(body, bytes) else body
        if body.length > BODY_LIMIT and self.speaks_coglet:
            raise self._too_large(f"the server of this model takes requests of at most {BODY_LIMIT >> 20} MiB, and "
                                  f"with its files this one has {body.length / (1 << 20):.1f} MiB")
        token = {"authorization": f"Bearer {self._token}"} if self._token else {}
        place = self.endpoint._replace(path=self.endpoint.path + path)
        return self._web.ask(place, method, body=body, headers={**token, **(headers or {})})

    @staticmethod
    def _too_large(what: str) -> InputError:
        return InputError(what, hint="-i NAME=https://... has the model fetch a file itself; with IMAGE in place of "
                                     "--url files may be of any size")

    def explain(self, path: str, answer: Answer) -> CogError | None:
        """What an answer says of how the model is reached, if it says anything. Closes the answer then."""
        status, url, is_first = answer.status, self.endpoint, path in ("/health-check", "/openapi.json")
        error: CogError | None = None
        if not status:
            said = "ends the connection without an answer" if answer.ready else "says nothing"
            error = ModelGone(f"{url} " + ("answers, but not in HTTP" if answer.heard else said), hint=SCHEME_HINT)
        elif status in (401, 403):
            what = "does not accept the token" if self._token else "wants a token"
            error = UsageError(f"{url} {what}: {path} returned status {status}",
                               hint="--token-env NAME names the variable that holds one")
        elif 300 <= status < 400:
            from urllib.parse import urljoin

            goal = urljoin(f"{url}{path}", answer.headers.get("location", ""))
            goal = goal[:-len(path)] if goal.endswith(path) else goal
            error = UsageError(f"{url} sends us elsewhere: {path} returned status {status}", hint=f"--url {goal}")
        elif (status in (404, 405) and path != "/openapi.json") or (status == 400 and is_first):
            error = self._stranger(path, status)
        elif status >= 500 and is_first:
            error = ModelGone(f"{url} does not work: {path} returned status {status}")
        elif status == 407:
            error = ModelGone(f"the proxy on the way to {url} wants a user: status 407",
                              hint="http_proxy=http://USER:PASSWORD@HOST:PORT")
        elif status == 409:
            error = PredictionFailed(f"the model at {url} is busy with another prediction", hint="try again later")
        elif status == 413:
            error = self._too_large(f"{url} does not take so large a request: {path} returned status 413")
        if error is not None:
            answer.close()
        return error


# == 19. Prediction ===========================================================
# In: a started host and a request. Out: the runtime's final response. Up to 0.16 that comes through a webhook into the
# lane, and what the model prints on the container's streams. From 0.17 on a webhook of whatever kind makes the runtime
# copy the whole log for each line: there the request stays open until its answer, which has the log, and a second one
# beside it asks what there is so far: as server-sent events where the model offers them, else every now and then. Only
# for text without such events there is a webhook still, as the answer to a failure has nothing of what came before it.

SETTLED = ("READY", "BUSY", "SETUP_FAILED", "DEFUNCT", "UNHEALTHY")
FINAL = ("succeeded", "failed", "canceled")
BUSY_LIMIT = 10.0  # seconds for which "busy" and "not ready" are answered with another try
STOP_GRACE = 2.0  # seconds that a cancelled prediction gets before the kill
REFUSAL_HINT = "-i NAME=VALUE gives an input, -i NAME=@FILE a file"
NEVER = 1e9  # seconds
SILENCE_LIMIT = 10.0  # seconds that a model may be READY again without having said how the prediction ended
GLANCE_FIRST, GLANCE_PACE = 0.1, 0.2  # seconds from the request to the first look at what there is; between two
GLANCE_LAST = 1.0  # seconds that events may come after the answer
STUCK_LIMIT, STUCK_AGAIN = 10.0, 3.0  # seconds between two looks at a runtime before 0.17, and before the last one
# What the server or the worker of such a runtime says as it stops working, while it stays busy for ever.
STUCK_SIGN = rb"unhandled error in _consume_events|(?:^|\n)Process _?ChildWorker-\d+:\r?\n"
LOSS_LIMIT = 5.0  # seconds after a lost connection in which the model may be seen to end, which says more
GLANCE_SHARE = 10  # how many times as long as the last look took nobody looks again: each has all of the log


class Request(NamedTuple):
    """One prediction or training as it will be posted."""

    id: str
    path: str  # /predictions or /trainings
    body: JSON  # {"input": {...}} and the context; the files in it travel inside the JSON
    hook: str  # where the runtime's webhooks go, if they can
    streamed: bool = False  # ask for server-sent events
    live: bool = False  # the output is wanted as it grows
    logged: bool = False  # the model's log comes through webhooks (0.17 and newer), not on the container's streams
    timeout: float = 0.0  # seconds, 0 for none
    watched: bool = True  # READY without an end is a broken protocol; not where several run at once
    noun: str = "prediction"  # or training


class Progress:
    """What the runtime has said about a prediction so far.

    `final` is the last response once there is one; growing list outputs go to `show`, each element once, and the log
    inside responses to `logs`.
    """

    def __init__(self, log: Callable[[bytes], None]) -> None:
        self.final: JSON | None = None
        self.show: Callable[[list[Any]], None] | None = None
        self.logs = LogTail(log)
        self._shown = 0

    def is_over(self) -> bool:
        """Whether the last response is here."""
        return self.final is not None

    def hook(self, event: JSON) -> None:
        """Take one webhook, or the answer to the request."""
        self.grow(event.get("output"))
        if event.get("status") in FINAL:
            # runtimes up to 0.16 let an output file that is not there fail, and then succeed
            failed = event["status"] == "succeeded" and event.get("error")
            self.final = {**event, "status": "failed"} if failed else event

    def grow(self, output: object) -> None:
        """Take the output so far."""
        if isinstance(output, list) and len(output) > self._shown:
            self._shown, fresh = len(output), output[self._shown:]
            if self.show is not None:
                self.show(fresh)

    def grow_by(self, chunk: object, index: object) -> None:
        """Take one element of the output, if it is the next."""
        if index == self._shown:
            self._shown += 1
            if self.show is not None:
                self.show([chunk])


MODULE_HINT = "what the model imports is listed in the file that cog.yaml names under python_requirements"


def wait_for_setup(host: Host, limit: float, console: Console) -> None:
    """Wait until the model is ready. Raises SetupFailed, ModelGone.

    `limit` is in seconds, 0 for none.
    """
    console.phase(host.starting)
    deadline = time.monotonic() + limit if limit else None
    if not host.wait(lambda: host.gone or host.health in SETTLED, deadline):
        said = last_line(bytes(host.log_tail))
        after = f"; last log line: {said}" if said else ""
        raise SetupFailed(f"Timed out: setup took longer than {limit:g} seconds{after}",
                          hint="--setup-timeout SECONDS gives it longer, 0 for ever")
    if host.gone:
        host.drain()
        said, ended = last_line(bytes(host.log_tail)), host.ended()
        if host.lost:
            raise ModelGone(f"the model was lost during its setup: {ended}")
        hint = ""
        if "exec format error" in said.lower():
            hint = "the image is for another platform than this engine; --platform names the one to pull"
        elif b"in extract_class_sources" in host.log_tail:  # of runtimes before 0.17
            hint = "the predictor's base must be a plain name: from cog import BasePredictor; class NAME(BasePredictor)"
        elif b"No module named" in host.log_tail:
            hint = MODULE_HINT
        raise SetupFailed(f"setup failed: {ended}" + (f"; last log line: {said}" if said else ""), hint=hint)
    if host.health == "SETUP_FAILED":
        raise setup_failure(host, console)
    if host.health not in ("READY", "BUSY"):
        raise ModelGone(f"Container healthcheck returned unexpected status: {host.health}")


def setup_failure(host: Host, console: Console) -> SetupFailed:
    """The error for a setup that failed while its server lives; shows its log if nothing has, as a served one's is."""
    setup = (host.health_body or {}).get("setup") or {}
    logs = str(setup.get("logs") or "").encode()
    lines = [line.strip() for line in logs.splitlines() if line.strip() and not host.served]
    host.drain()
    host.wait(lambda: host.gone or all(line in host.log_tail for line in lines), time.monotonic() + 0.5)
    missing = [line for line in lines if line not in host.log_tail]
    if missing:
        console.log(b"\n".join(missing) + b"\n")
    said = last_line(logs) or last_line(bytes(host.log_tail))
    return SetupFailed("Model setup failed" + (f": {said}" if said else ""),
                       hint=host.shortage() or (MODULE_HINT if "No module named" in said else ""))


def post_prediction(host: Host, request: Request, progress: Progress) -> None:
    """Post the prediction; its end comes to `progress` through a webhook. Raises InputError, ModelGone."""
    import json

    events = ["output"] * (request.live and not request.logged) + ["completed"]
    body = {"id": request.id, **request.body, "webhook": request.hook, "webhook_events_filter": events}
    give_up = time.monotonic() + BUSY_LIMIT
    while True:
        reply = host.request("POST", request.path, body=json.dumps(body).encode(),
                             headers={"Content-Type": "application/json", "Prefer": "respond-async"})
        answer = reply.read()
        if reply.status not in (409, 503) or time.monotonic() >= give_up or host.gone:
            break
        host.wait(lambda: host.gone, time.monotonic() + host.patience)
    if reply.status not in (200, 201, 202):
        raise refusal(request, reply.status, answer)
    if reply.status == 200:
        progress.hook(parse_response(answer))


def refusal(request: Request, status: int, answer: bytes) -> CogError:
    """The error for an answer of the model that refuses the request."""
    if status == 422:
        return InputError(refusal_text(answer), hint=REFUSAL_HINT)
    said = " ".join(answer[:300].decode("utf-8", "replace").split())
    said = "" if not said or said.startswith("<") else f": {said}"  # a page for browsers
    return ModelGone(f"Failed to run {request.noun}: {request.path} call returned status {status}{said}")


def parse_response(answer: bytes) -> JSON:
    """A response body as the object that it must be. Raises StreamError."""
    document = parse_document(answer)
    if document is None:
        raise StreamError(f"the model answered with something that is no JSON object: {answer[:80]!r}")
    return document


def refusal_text(answer: bytes) -> str:
    """A runtime's 422 in words, whatever form its `detail` has.

    >>> print(refusal_text(b'{"detail":[{"loc":["body","input","n",1],"msg":"too small"}]}'))
    The inputs you passed could not be validated:
    - n.1: too small
    """
    import json

    try:
        detail = json.loads(answer)["detail"]
        faults = [(item["loc"], item["msg"]) for item in detail]
        lines = ["- " + ".".join(str(part) for part in loc if part not in ("body", "input")) + f": {message}"
                 for loc, message in faults]
    except (ValueError, KeyError, TypeError, RecursionError):
        lines = ["- " + answer[:1000].decode("utf-8", "replace").strip()]
    return "\n".join(["The inputs you passed could not be validated:", *lines])


class EventReader:
    """Reads the events of a prediction into `progress`. With the last one, which repeats them all, it is `over`."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._parser = progress, EventParser()
        self._at = 0  # bytes of the log's JSON text
        self.over = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises StreamError: some events were left out."""
        import json

        for event in self._parser.feed(data):
            document = parse_response(event.data.encode())
            if event.name == "output":
                self._progress.grow_by(document.get("chunk"), document.get("index"))
            elif event.name == "log":
                text = json.dumps(str(document.get("data", "")), ensure_ascii=False)[1:-1].encode("utf-8", "replace")
                self._progress.logs.feed(text, self._at)
                self._at += len(text)
            elif event.name == "error":
                raise StreamError(str(document.get("error")))
            self.over = self.over or event.name == "completed"
        self.over = self.over or self._parser.begun == "completed"

    def close(self) -> JSON:
        """Nothing."""
        return {}


class Glance:
    """Looks at what a running prediction has said so far, beside the request that waits for its answer.

    A PUT with the id of a running prediction gives its state or its events, and starts nothing. Should the prediction
    have ended just now, then the input sent with it, which is none, is refused. What fails here shows in the answer.
    """

    def __init__(self, host: Host, request: Request, progress: Progress, lane: Lane) -> None:
        self._host, self._request, self._progress, self._lane = host, request, progress, lane
        self._answer: Answer | None = None
        self._reader: JSONReader | None = None
        self._events = request.streamed  # they are worth asking for
        self._began, self._complete = 0.0, False
        self._soon = 0.0  # when to look next if something was printed, and when to look anyway
        self._due = time.monotonic() + GLANCE_FIRST if request.logged else float("inf")

    def go_on(self) -> bool:
        """Ask if it is time to, or read what has come. False while events are coming."""
        try:
            if self._answer is not None:
                if self._answer.ready:
                    self._read(self._answer)
            elif time.monotonic() >= (self._soon if self._has_news() else self._due):
                self._ask()
        except (ModelGone, StreamError):
            self._events = False
            self._end()
        return not isinstance(self._reader, EventReader)

    def _has_news(self) -> bool:
        spoken = self._host.spoken
        return spoken is not None and spoken.count > self._progress.logs.count

    def _ask(self) -> None:
        if self._complete and self._host.spoken is not None:
            self._host.spoken.turn()
        self._began, self._complete = time.monotonic(), False
        headers = {"Content-Type": "application/json",
                   "Accept": "text/event-stream" if self._events else "application/json"}
        self._answer = self._host.open("PUT", f"{self._request.path}/{self._request.id}", body=b'{"input":""}',
                                       headers=headers)

    def _read(self, answer: Answer) -> None:
        if answer.status == 200 and answer.headers.get("content-type", "").startswith("text/event-stream"):
            self._reader = self._reader or EventReader(self._progress)
        elif answer.status == 202:
            self._reader = self._reader or (self._lane.json_reader() if self._request.live
                                            else HookReader(Skipped(), self._progress.logs))
        else:
            self._end()
            return
        while answer.readable:
            data = answer.read(READ_SIZE)
            if not data:
                self._progress.grow(self._reader.close().get("output"))
                self._complete = True
                self._end()
                return
            self._reader.feed(data)
            if isinstance(self._reader, EventReader) and self._reader.over:
                self._end()
                self._soon = self._due = float("inf")
                return

    def _end(self) -> None:
        now = time.monotonic()
        if self._answer is not None:
            self._answer.close()
        self._answer, self._reader = None, None
        self._soon = now + GLANCE_SHARE * (now - self._began)
        self._due = max(self._soon, now + GLANCE_PACE)


class Call:
    """A request that stays open until its answer, and glances at it meanwhile if the runtime is 0.17 or newer."""

    def __init__(self, host: Host, request: Request, progress: Progress, lane: Lane) -> None:
        self.received = 0  # bytes of the answer
        self._host, self._request, self._progress, self._lane = host, request, progress, lane
        self.glance = Glance(host, request, progress, lane)
        self._give_up, self._retry = time.monotonic() + BUSY_LIMIT, 0.0
        self._failure: tuple[float, CogError] | None = None
        self._post()

    def _post(self) -> None:
        self._reader, self._refusal = self._lane.json_reader(), bytearray()
        body = render_body({"id": self._request.id, **self._request.body})
        self._answer: Answer | None = self._host.open("POST", self._request.path, body=body,
                                                      headers={"Content-Type": "application/json"})

    def stop_trying(self) -> None:
        """Do not ask a busy model again."""
        self._retry = float("inf")

    def turn(self) -> bool:
        """Read what has come: whether that was the answer.

        Raises InputError, ModelGone, StreamError: no answer, and the model is not seen to end either.
        """
        if self._progress.final is not None:
            return True
        if self._failure is not None:
            if time.monotonic() > self._failure[0] + LOSS_LIMIT or self._host.inline:
                raise self._failure[1]
            return False
        try:
            return self._read()
        except (ModelGone, StreamError) as error:
            self._failure = time.monotonic(), error
            return False

    def _read(self) -> bool:
        answer = self._answer
        if answer is None:
            if time.monotonic() >= self._retry:
                self._post()
            return False
        self.glance.go_on()
        while answer.readable:
            data = answer.read(READ_SIZE)
            if not data:
                return self._end(answer)
            self.received += len(data)
            if answer.status == 200:
                self._reader.feed(data)
            elif len(self._refusal) < HEAD_LIMIT:
                self._refusal += data
        return False

    def _end(self, answer: Answer) -> bool:
        answer.close()
        if answer.status == 200:
            self._progress.hook(self._reader.close())
            return True
        if answer.status not in (409, 503) or time.monotonic() > self._give_up or self._host.gone:
            raise (self._host.explain(self._request.path, answer)
                   or refusal(self._request, answer.status, bytes(self._refusal)))
        self._answer, self._retry = None, max(self._retry, time.monotonic() + self._host.patience)
        return False


def run_prediction(host: Host, request: Request, progress: Progress, lane: Lane) -> JSON:
    """The runtime's final response, once everything that it sent beside it is here.

    Raises PredictionFailed: out of time; InputError: refused; ModelGone, StreamError. Interrupted passes through after
    the prediction was cancelled.
    """
    progress.logs.wanted = request.logged or host.inline
    call: Call | None = None
    host.spoken = Spoken() if request.logged and not host.inline else None
    ended = progress.is_over
    try:
        if host.inline or (request.logged and (request.streamed or not request.live)):
            call = made = Call(host, request, progress, lane)
            ended = made.turn
            await_end(host, request, ended, lambda: lane.received + made.received)
            host.wait(lambda: made.glance.go_on() or host.gone, time.monotonic() + GLANCE_LAST)
        else:
            post_prediction(host, request, progress)
            glance = Glance(host, request, progress, lane)
            await_end(host, request, lambda: glance.go_on() and progress.is_over(), lambda: lane.received)
        if progress.final is not None:
            host.wait(lambda: not lane.open_uploads or host.gone)
        host.drain()
    except (Interrupted, PredictionFailed):
        if call is not None:
            call.stop_trying()
        if call is None or not call.received:  # else it has ended, and its answer is on the way
            cancel_prediction(host, request, ended)
        raise
    finally:
        show_rest(host, progress, complete=progress.final is not None and call is None)
    if progress.final is None:
        raise ModelGone(f"the {request.noun} has no end: {host.ended()}")
    return without_lost_file(progress.final, bytes(host.log_tail))


def without_lost_file(final: JSON, log: bytes) -> JSON:
    r"""The last response, a failure where an output is missing and only the runtime's log says that it was a file.

    >>> without_lost_file({"status": "succeeded", "output": None}, b"error: Failed to read FileOutput\n")["status"]
    'failed'
    """
    output, signs = final.get("output"), (b"Failed to read FileOutput", b"server.errors.FileUploadError: ")
    if final["status"] != "succeeded" or output is not None or not any(sign in log for sign in signs):
        return final
    return {**final, "status": "failed", "error": "the runtime could not read the file that the model returned"}


def show_rest(host: Host, progress: Progress, *, complete: bool) -> None:
    """Show what the model printed and no response had: from 0.17 on the answer that tells a failure has no log.

    `complete`: the last response had it all.
    """
    if host.spoken is not None:
        missing = host.spoken.count - progress.logs.count
        if missing > 0 and not complete and (progress.final or {}).get("status") != "succeeded":
            progress.logs.show(host.spoken.last(missing))
        host.spoken.close()


def await_end(host: Host, request: Request, ended: Callable[[], bool], received: Callable[[], int]) -> None:
    """Pump until the prediction has ended or its model is gone. `received` tells how many bytes have come.

    Raises PredictionFailed: out of time; StreamError: the model is idle again and has not said how it went.
    """
    began = quiet = time.monotonic()
    size, deadline = 0, began + request.timeout if request.timeout else None
    look, stuck = began + 1, ""
    while not host.wait(lambda: ended() or host.gone, min(time.monotonic() + 0.5, deadline or float("inf"))):
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            raise PredictionFailed(f"Timed out: the {request.noun} took longer than {request.timeout:g} seconds",
                                   hint="--timeout SECONDS gives it longer")
        if host.health != "READY" or received() != size:
            quiet, size = now, received()
        elif now - quiet > SILENCE_LIMIT and request.watched:
            said = last_exception(bytes(host.log_tail))
            raise StreamError(f"the model is ready again, but never said how the {request.noun} ended{said}")
        if not request.logged and now > look:
            stuck = check_worker(host, stuck)
            look = now + (STUCK_AGAIN if stuck else STUCK_LIMIT)


def check_worker(host: Host, known: str) -> str:
    """What keeps the worker of a runtime before 0.17 from ever ending its prediction, empty if nothing does.

    Raises StreamError: that was `known` already, a look before.
    """
    import re

    tail = bytes(host.log_tail)
    found = ""
    if re.search(STUCK_SIGN, tail):
        found = "the model's runtime broke down at the end of the prediction" + last_exception(tail)
    elif host.link is not None:
        closed = host.link.closed(time.monotonic() + 2)
        names = " and ".join(("stdout", "stderr")[number - 1] for number in closed)
        found = f"the model has closed its {names}: its runtime cannot end the prediction any more" if closed else ""
    if found and found == known:
        raise StreamError(found, hint="mend the model, or build it with cog 0.17 or newer, which tells what is wrong")
    return found


def last_exception(log: bytes) -> str:
    r"""The last exception that a log tells of, behind a colon; empty if there is none.

    >>> last_exception(b'{"exception": "Traceback\\n  x\\nrequests.InvalidJSONError: not JSON"}\n')
    ': InvalidJSONError: not JSON'
    """
    import re

    form = rb'(?:^|\\n)(?:\w+\.)*(\w*(?:Error|Exception): [^"\\\r\n]+)'
    found = [first for first in (re.search(form, line) for line in log.splitlines()) if first]
    return ": " + found[-1][1].decode("utf-8", "replace").strip() if found else ""


def cancel_prediction(host: Host, request: Request, ended: Callable[[], bool]) -> None:
    """Ask the model to end the prediction, and give it a moment; a second interruption passes through."""
    import contextlib

    with contextlib.suppress(ModelGone, StreamError, InputError):
        if not host.gone and not ended():
            host.open("POST", f"{request.path}/{request.id}/cancel")
            if host.wait(lambda: ended() or host.gone, time.monotonic() + STOP_GRACE):
                host.drain()
            elif host.inline:
                host.warn(f"the model may go on with the {request.noun}: its server did not cancel it in time")


# == 20. Outputs ==============================================================
# In: the runtime's final response, and the files that came beside it. Out: the result on stdout, files where they
# were asked for. Where things go is settled before anything starts. A file has no name until it is whole. Names,
# extensions and MIME types that a model sends never become more than a few letters of a file name.


class OutputPlan(NamedTuple):
    """Where a result goes."""

    folder: str  # absolute; files are staged and appear here
    prefix: str  # how the folder is shown: what the user typed of it, with its slash
    stem: str  # names of files begin with this
    extension: str  # of the file or files, from -o; empty: by the MIME type
    name: str = ""  # file for text and JSON, below the folder; empty: stdout
    special: str = ""  # a device or pipe that -o names: written to, never replaced
    raw: bool = False  # -o -: the bytes of a file go to stdout
    as_json: bool = False
    live: bool = False  # a text that is shown as it grows
    warning: str = ""
    noun: str = "prediction"  # or training: what it is the result of
    schema: JSON | None = None  # the plain output schema, when it is known


def output_schema(document: Value, *, training: bool = False) -> JSON | None:
    """The plain schema of a model's output, from the OpenAPI document of any runtime; None when it says nothing."""
    schemas = find_schemas(document)
    kind = ("Training", "Training") if training else ("Prediction", "")
    response = schemas.get(f"{kind[0]}Response")
    properties = response.get("properties") if isinstance(response, dict) else None
    found = properties.get("output") if isinstance(properties, dict) else None
    if found is None:
        found = schemas.get(f"{kind[1]}Output")
    return SchemaResolver(schemas).resolve(found) if isinstance(found, dict) else None


def holds_files(schema: JSON) -> bool:
    """Whether the schema has a file anywhere."""
    children = [schema[key] for key in ("items", "additionalProperties") if key in schema]
    children += [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    return is_file(schema) or any(holds_files(child) for child in children)


def is_text_stream(schema: JSON | None) -> bool:
    """Whether the output is text that comes in pieces."""
    return schema is not None and schema.get("x-cog-array-display") == "concatenate"


def split_extension(name: str) -> tuple[str, str]:
    """Stem and extension of a file name; a number is no extension.

    >>> split_extension("a.png"), split_extension("v1.5"), split_extension("output")
    (('a', '.png'), ('v1.5', ''), ('output', ''))
    """
    stem, extension = os.path.splitext(name)
    return (name, "") if extension in ("", ".") or extension[1:].isdigit() else (stem, extension)


def plan_output(output_flag: str, *, as_json: bool, schema: JSON | None, cwd: str, home: str) -> OutputPlan:
    """Where the result will go. `schema` is the plain output schema, None when it is not known yet.

    Raises OutputError: no such folder, not writable; UsageError: several files for stdout.
    """
    flag = output_flag[1:] if output_flag.startswith("@") else output_flag
    if flag in ("", "-"):
        raw = flag == "-" and not as_json and (schema is None or is_file(schema))
        if schema is not None and holds_files(schema) and not raw:
            if flag == "-" and not as_json:
                raise UsageError("the model returns several files, and -o - has room for one",
                                 hint="-o NAME, or --json")
            if os.path.isdir(os.path.join(cwd, "output")):
                raise OutputError('Default output name "output" conflicts with directory, provide --output',
                                  hint="-o output/ writes into it")
            check_folder(cwd, cwd)
        return OutputPlan(cwd, "", "output", "", raw=raw, as_json=as_json, live=is_text_stream(schema) and not as_json,
                          schema=schema)
    if flag == "~" or flag.startswith("~/"):
        flag = home + flag[1:]
    path = os.path.join(cwd, flag)
    if os.path.isdir(path):
        check_folder(path, flag)
        return OutputPlan(path, os.path.join(flag, ""), "output", "", "output.json" if as_json else "", as_json=as_json,
                          schema=schema)
    if os.path.exists(path) and not os.path.isfile(path):
        if not os.access(path, os.W_OK):
            raise OutputError(f"Output path is not writable: {path}")
        return OutputPlan(cwd, "", "output", "", path, special=path, as_json=as_json, schema=schema)
    folder, name = os.path.split(path)
    check_folder(folder, os.path.dirname(flag) or ".")
    stem, extension = split_extension(name)
    odd = as_json and extension != ".json"
    return OutputPlan(folder, flag[:len(flag) - len(name)], stem, "" if as_json else extension, name, as_json=as_json,
                      schema=schema, warning=f"--output value does not have a .json suffix: {name}" if odd else "")


def check_folder(folder: str, shown: str) -> None:
    """Nothing, when files can be made in a folder. Raises OutputError."""
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        missing = not os.path.exists(folder)
        raise OutputError(f"Output path is not writable: Output directory is not writable: {shown.rstrip('/') or '/'}",
                          hint="the folder does not exist; make it first" if missing else "-o PATH names another place")


# Files on their way.


def write_fault(name: str, error: OSError) -> OutputError:
    """The error for a file that cannot be written."""
    said = error.strerror or str(error)
    hint = "make room there, or -o PATH names another place" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return OutputError(f"cannot write {name}: {said[:1].lower()}{said[1:]}", hint=hint)


class StagedFile:
    """An output file that is being written: without a name where the system can do that, else under a hidden one.

    It appears, whole, at `publish`; until then `abort`, or the end of the process, leaves nothing of an unnamed one.
    `shown` is the name for errors, `part` the hidden name. All but `abort` raise OutputError.
    """

    def __init__(self, folder: str, part: str, shown: str, *, name: str = "", mime: str = "",
                 length: int | None = None) -> None:
        self.name, self.mime, self.size, self.whole = name, mime, 0, False
        self.hidden = ""  # path of the hidden name, while there is one
        self._part, self._shown, self._length = part, shown, length
        try:
            self._descriptor = with_more_descriptors(lambda: self._open(folder))
        except OSError as error:
            raise write_fault(shown, error) from error

    def _open(self, folder: str) -> int:
        unnamed = open_unnamed(folder)
        if unnamed is not None:
            return unnamed
        path = os.path.join(folder, self._part)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
        self.hidden = path
        return descriptor

    def write(self, data: bytes, /) -> int:
        """Append bytes; their number."""
        try:
            write_all(self._descriptor, data)
        except OSError as error:
            raise write_fault(self._shown, error) from error
        self.size += len(data)
        return len(data)

    def read(self, size: int = -1, /) -> bytes:
        """Bytes from the current position on."""
        return os.read(self._descriptor, self.size if size < 0 else size)

    def seek(self, position: int, /) -> None:
        """Go to a position, in bytes."""
        os.lseek(self._descriptor, position, os.SEEK_SET)

    def close(self) -> None:
        """Say that everything was written. Raises StreamError: it is not what was announced."""
        if self._length is not None and self._length != self.size:
            self.abort()
            raise StreamError(f"the model announced an output file of {self._length} bytes and sent {self.size}")
        self.whole = True

    def abort(self) -> None:
        """Give the file up. What was published stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor, self.whole = -1, False
        if self.hidden:
            remove_quietly(self.hidden)
            self.hidden = ""

    def copy_to(self, write: Callable[[bytes], object]) -> None:
        """Hand over the contents, piece by piece."""
        self.seek(0)
        while True:
            data = self.read(1 << 18)
            if not data:
                return
            write(data)

    def publish(self, path: str, shown: str) -> None:
        """Let the file appear under a path, in place of a file that is there."""
        try:
            if self.hidden or not self._link(path):
                spare = os.path.join(os.path.dirname(path), self._part)
                if self.hidden != spare and not self._link(spare):
                    self._copy(spare)
                os.replace(self.hidden, path)
                self.hidden = ""
        except OSError as error:
            raise write_fault(shown, error) from error

    def _link(self, goal: str) -> bool:
        """Give the open file another name; False where that cannot be done."""
        try:  # any src_dir_fd makes Python follow the link in /proc, and an absolute source ignores it
            os.link(f"/proc/self/fd/{self._descriptor}", goal, src_dir_fd=self._descriptor, follow_symlinks=True)
        except (OSError, NotImplementedError):
            return False
        if os.path.basename(goal) == self._part:
            self._rehide(goal)
        return True

    def _copy(self, goal: str) -> None:
        descriptor = os.open(goal, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        self._rehide(goal)
        try:
            self.copy_to(lambda data: write_all(descriptor, data))
        finally:
            os.close(descriptor)

    def _rehide(self, path: str) -> None:
        if self.hidden:
            remove_quietly(self.hidden)
        self.hidden = path


def open_unnamed(folder: str) -> int | None:
    """The descriptor of a new file without a name; None where the folder's filesystem has no such thing."""
    if not hasattr(os, "O_TMPFILE") or not os.path.isdir("/proc/self/fd"):
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        return None


def has_unnamed(folder: str) -> bool:
    """Whether files in a folder can be written without a name; a folder that takes no file counts as one."""
    try:
        unnamed = open_unnamed(folder)
    except OSError:
        return True
    if unnamed is not None:
        os.close(unnamed)
    return unnamed is not None


def with_more_descriptors(open_one: Callable[[], int]) -> int:
    """What `open_one` returns; where this process may open no more files, it is first allowed as many as it can."""
    try:
        return open_one()
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(soft, 10240) if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return open_one()


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes to a descriptor. Raises OSError."""
    with memoryview(data) as view:
        written = 0
        while written < len(view):
            written += os.write(descriptor, view[written:])


def remove_quietly(path: str) -> None:
    """Remove a file that may be gone already."""
    try:
        os.unlink(path)
    except OSError:
        pass


def write_own_file(project: str, name: str, data: bytes) -> None:
    """Put a file into the project's .cog, only when it differs, and whole. Raises OutputError."""
    path = os.path.join(project, ".cog", name)
    try:
        if read_bytes(path) == data:
            return
    except OSError:
        pass  # there is none yet
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except OSError as error:
        raise write_fault(path, error) from error
    write_whole(path, data)


def write_whole(path: str, data: bytes) -> None:
    """Let a file with this appear under a path, whole or not at all. Raises OutputError."""
    folder, name = os.path.split(path)
    staged = StagedFile(folder, f"{name}.{os.urandom(4).hex()}.part", path)
    try:
        staged.write(data)
        staged.publish(path, path)
    except OutputError as error:
        raise OutputError(str(error), hint="make room there" if error.hint else "") from error
    finally:
        staged.abort()


# What a model sends becomes names and text.


def safe_extension(mime: str, name: str) -> str:
    """The extension for an output file, dot included: by its MIME type, else by the name that the model gave it.

    >>> safe_extension("image/png", "x.dat"), safe_extension("application/octet-stream", "w.safetensors")
    ('.png', '.safetensors')
    >>> safe_extension("None", ""), safe_extension("x/unknown", "a.b/../c"), safe_extension("", "x.1")
    ('.bin', '', '.bin')
    """
    import re

    own = split_extension(os.path.basename(name))[1]
    own = own if re.fullmatch(r"\.[A-Za-z0-9_]{1,16}", own) else ""
    vague = mime.partition(";")[0].strip().lower() in ("", "none", "application/octet-stream")
    found = own or ".bin" if vague else extension_of(mime) or own
    return found if re.fullmatch(r"\.[A-Za-z0-9_]{1,16}", found) else ""


def safe_part(text: str) -> str:
    """A field's name, or an index, as part of a file name.

    >>> safe_part("weights"), safe_part("../etc/passwd"), safe_part("")
    ('weights', '_etc_passwd', '_')
    """
    import re

    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:40] or "_"


def decode_data_url(text: str) -> tuple[str, bytes] | None:
    """MIME type and bytes of a data URL; None if it is none.

    >>> decode_data_url("data:text/plain;base64,aGk="), decode_data_url("data:,a%20b"), decode_data_url("http://x")
    (('text/plain', b'hi'), ('', b'a b'), None)
    """
    head, comma, rest = text.partition(",")
    if not comma or head[:5].lower() != "data:":
        return None
    if head.lower().endswith(";base64"):
        from binascii import Error, a2b_base64

        try:
            data = a2b_base64(rest.encode("ascii"))
        except (Error, UnicodeError):
            return None
        whole = len(data) * 4 == len(rest) * 3 - rest[-2:].count("=") * 4  # what is no base64 was skipped
        return (head[5:-7], data) if whole else None
    from urllib.parse import unquote_to_bytes

    return head[5:], unquote_to_bytes(rest)


def render_json(value: Value) -> bytes:
    """JSON as it is shown: two spaces, the model's order, every character as it is.

    >>> render_json({"b": "<é>", "a": 2**64}).decode()
    '{\\n  "b": "<é>",\\n  "a": 18446744073709551616\\n}\\n'
    """
    import json

    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def join_text(pieces: Iterable[Value]) -> str:
    """A text that came in pieces; what is no text among them is shown as JSON."""
    return "".join(piece if isinstance(piece, str) else render_json(piece).decode() for piece in pieces)


class LiveText:
    """A text that is shown while the model writes it; one newline ends it."""

    def __init__(self, console: Console) -> None:
        self._console, self.count, self._ended = console, 0, False

    def feed(self, pieces: Sequence[Value]) -> None:
        """Show the next pieces."""
        self.count += len(pieces)
        text = join_text(pieces)
        if text:
            self._console.result(text.encode("utf-8", "replace"))

    def end(self) -> None:
        """End the line, once."""
        if not self._ended:
            self._ended = True
            self._console.result(b"\n")


# A model's inputs and output, for people.


def describe_type(fragment: JSON) -> str:
    """The type of an input or output, for people.

    >>> describe_type({"type": "array", "items": {"type": "string", "format": "uri"}})
    'list of file'
    """
    if is_text_stream(fragment):
        return "string, in pieces"
    if "anyOf" in fragment:
        return " or ".join(dict.fromkeys(describe_type(member) for member in fragment["anyOf"]))
    if fragment.get("type") == "array":
        return f"list of {describe_type(array_items(fragment))}"
    if fragment.get("type") == "object" and fragment.get("properties"):
        parts = [f"{name}: {describe_type(part)}" for name, part in fragment["properties"].items()]
        return "{" + ", ".join(parts) + "}"
    return "secret" if is_secret(fragment) else "file" if is_file(fragment) else str(fragment.get("type") or "any")


def describe_limits(fragment: JSON) -> str:
    """What a schema asks of a value beside its type and choices, for people.

    >>> describe_limits({"minimum": 1, "maximum": 10}), describe_limits({"maxLength": 5, "pattern": "^a"})
    ('1 to 10', 'at most 5 characters, matches ^a')
    """
    parts = []
    for low, high, unit in (("minimum", "maximum", ""), ("minLength", "maxLength", " characters")):
        ends = [fragment[key] for key in (low, high) if key in fragment]
        shown = [str(int(end) if isinstance(end, float) and end.is_integer() else end) for end in ends]
        words = "" if len(shown) == 2 else "at least " if low in fragment else "at most "
        parts += [words + " to ".join(shown) + unit] if shown else []
    return ", ".join([*parts, *([f"matches {fragment['pattern']}"] if "pattern" in fragment else [])])


WIDE_CELL = 48


def render_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text in columns, without the columns that are empty; each cell on one line. A long cell
    moves what follows it in its row, not the whole column.

    >>> print(render_table(("A", "B", "C"), [("one", "", "x"), ("three", "", "y")]), end="")
    A      C
    one    x
    three  y
    """
    plain = [[" ".join(cell.split()) for cell in row] for row in rows]
    kept = [at for at in range(len(head)) if any(row[at] for row in plain)]
    lines = [[head[at] for at in kept], *([row[at] for at in kept] for row in plain)]
    widths = [max(len(cell) for cell in column if len(cell) <= WIDE_CELL) for column in zip(*lines)]
    return "".join("  ".join(map(str.ljust, line, widths)).rstrip() + "\n" for line in lines)


def render_signature(document: JSON) -> str:
    """A model's inputs as a table, and its output."""
    import json

    schema = input_schema(document)
    training = schema is None
    schema, output = schema or input_schema(document, training=True), output_schema(document, training=training)
    if schema is None:
        raise UsageError("the schema has no inputs", hint="--json shows the whole of it")
    raw = find_schemas(document)["TrainingInput" if training else "Input"]["properties"]
    rows = []
    for name, fragment in schema.properties.items():
        given = raw[name] if isinstance(raw[name], dict) else {}
        default = json.dumps(given["default"], ensure_ascii=False) if given.get("default") is not None else ""
        choices = ", ".join(str(choice) or '""' for choice in fragment.get("enum", ()))
        rows.append((name, describe_type(fragment), "(required)" if name in schema.required else default,
                     describe_limits(fragment), choices, str(given.get("description") or "")))
    head = ("INPUT", "TYPE", "DEFAULT", "LIMITS", "CHOICES", "DESCRIPTION")
    table = render_table(head, rows) if rows else "The model takes no inputs.\n"
    return f"{table}\nOUTPUT  {describe_type(output or {})}\n"


# The result.


class OutputFile(NamedTuple):
    """A file in the output, until it has its name."""

    staged: StagedFile
    way: tuple[str, ...]  # fields and indices that lead to it


class OutputStore:
    """Takes a model's files while it runs, and its response at the end. Use as a context manager.

    `run` names the run; hidden names, where there must be any, are .cog-RUN-NUMBER.part, and a guardian removes
    them should this process be killed.
    """

    def __init__(self, plan: OutputPlan, console: Console, run: str) -> None:
        self._plan, self._console, self._run = plan, console, run
        self._staged: list[StagedFile] = []
        self._uploads: dict[int, StagedFile] = {}
        self._taken = {plan.name.lower()} if plan.name else set()
        self._succeeded, self._uploads_at = True, ""
        self.fetch: Fetch | None = None
        self._guardian = None if has_unnamed(self._staging_folder()) else Guardian(self._sweep)
        if plan.warning:
            console.warn(plan.warning)

    def __enter__(self) -> OutputStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what was not published."""
        while self._staged:
            self._staged.pop().abort()
        if self._guardian is not None:
            self._guardian.dismiss()

    def _sweep(self) -> bool:
        """Remove every hidden file of this run; True, for nothing more can be done."""
        folder = self._staging_folder()
        for name in os.listdir(folder):
            if name.startswith(f".cog-{self._run}-") and name.endswith(".part"):
                remove_quietly(os.path.join(folder, name))
        return True

    def _staging_folder(self) -> str:
        plan, folder = self._plan, self._plan.folder
        if plan.raw or plan.special or (os.path.isdir(folder) and not os.access(folder, os.W_OK)):
            import contextlib
            import tempfile

            with contextlib.suppress(OSError):  # where there is none, the first file that is needed will say so
                return tempfile.gettempdir()
        return folder

    def _stage(self, name: str, mime: str, length: int | None = None) -> StagedFile:
        plan, folder = self._plan, self._staging_folder()
        shown = f"{plan.prefix}{plan.stem}{plan.extension or safe_extension(mime, name)}"
        part = f".cog-{self._run}-{len(self._staged)}.part"
        staged = StagedFile(folder, part, shown, name=name, mime=mime, length=length)
        self._staged.append(staged)
        return staged

    def open_upload(self, number: int, name: str, content_type: str, length: int | None) -> StagedFile:
        """The file for an upload, which `close` makes part of the result. Raises OutputError."""
        self._uploads[number] = staged = self._stage(name, content_type, length)
        return staged

    def open_blob(self, mime: str) -> StagedFile:
        """The file for a data URL in a response. Raises OutputError."""
        return self._stage("", mime)

    def finish(self, response: JSON, *, uploads_at: str = "", live: LiveText | None = None,
               given: Sequence[str] = ()) -> None:
        """Print and save the result.

        `uploads_at` begins the URL of each upload, its number follows; `live` has shown the text so far; `given` are
        the names of the files in the model's order: runtimes from 0.17 on list them in that in which uploads end.
        Raises PredictionFailed, OutputError, and StreamError: a file of the output never came.
        """
        self._uploads_at = uploads_at
        try:
            self._finish({**response, "output": self._put_in_order(response.get("output"), given)}, live)
        except RecursionError:
            raise StreamError("the model's output is nested too deeply") from None

    def _finish(self, response: JSON, live: LiveText | None) -> None:
        output, status, error = response.get("output"), response.get("status"), response.get("error")
        self._succeeded = status == "succeeded"
        if live is not None and isinstance(output, list):
            live.feed(output[live.count:])
        if live is not None and (live.count or (self._succeeded and output is not None)):
            live.end()
        if self._plan.as_json:
            report = {"status": status, "output": self._save(self._collect(output)), "error": error}
            metrics = response.get("metrics")
            self._write(render_json(report if metrics is None else {**report, "metrics": metrics}))
        elif self._succeeded and (live is None or (output is None and not live.count)):
            self._write_output(output)
        if not self._succeeded:
            what = f'{self._plan.noun.capitalize()} failed with status "{status}"'
            raise PredictionFailed(what + (f": {error}" if error else ""))

    def _put_in_order(self, output: Value, given: Sequence[str]) -> Value:
        """The output; if it is a list of just the files of these names, in their order. Of one name: as they came."""
        import re

        items = output if isinstance(output, list) else []
        found = sorted((number, item) for item in items for number in [self._upload_number(item)]
                       if number is not None)
        names = [re.split(r"[?#]", name)[0] for name in given]  # an upload's URL ends there
        if len(found) < len(items) or sorted(names) != sorted(self._uploads[number].name for number, _ in found):
            return output
        came: dict[str, list[Value]] = {}
        for number, item in found:
            came.setdefault(self._uploads[number].name, []).append(item)
        return [came[name].pop(0) for name in names] or output

    def _upload_number(self, value: Value) -> int | None:
        """Which upload a value stands for, if it does; runtimes before 0.9 name the place that they sent it to."""
        from urllib.parse import unquote

        if not (self._uploads_at and isinstance(value, str)):
            return None
        sent_to = self._uploads_at[:-len("out/")] + "up/"
        if value.startswith(sent_to):
            named = [number for number, staged in self._uploads.items() if staged.name == unquote(value[len(sent_to):])]
            return named[-1] if named else None
        number = value[len(self._uploads_at):].lstrip("/").partition("/")[0]
        known = value.startswith(self._uploads_at) and number.isdecimal() and len(number) < 10
        return int(number) if known and int(number) in self._uploads else None

    def _collect(self, value: Value) -> Value:
        """The output with an OutputFile for every file in it."""
        def collect(value: Value, schema: JSON, way: tuple[str, ...]) -> Value:
            if isinstance(value, list):
                return [collect(item, array_items(schema), (*way, str(number))) for number, item in enumerate(value)]
            if isinstance(value, dict):
                return {key: collect(item, property_of(schema, key), (*way, key)) for key, item in value.items()}
            staged = self._find_file(value, schema)
            if staged is not None:
                return OutputFile(staged, way)
            return blob_text(value) if isinstance(value, Blob) else value

        return collect(value, self._plan.schema or {}, ())

    def _find_file(self, value: Value, schema: JSON) -> StagedFile | None:
        """The file that a value stands for, if it does: not where the schema has a mere string."""
        is_place = is_file(schema) or "string" not in allowed_kinds(schema)
        if isinstance(value, Blob) and is_place:
            return value.file if isinstance(value.file, StagedFile) else self._stage_copy(blob_text(value))
        if not isinstance(value, str):
            return None
        number = self._upload_number(value)
        if number is not None or (self._uploads_at and value.startswith(self._uploads_at)):
            staged = None if number is None else self._uploads[number]
            if self._succeeded and (staged is None or not staged.whole):
                raise StreamError("the model named an output file that it did not send")
            return staged if staged is not None and staged.whole else None
        if self.fetch is not None and self._succeeded and is_file(schema) and value[:8].lower().startswith(
                ("http://", "https://")):
            try:
                self.fetch(value, self._stage)
            except ModelGone as error:
                what = f"the output file {value.partition('?')[0]} cannot be fetched: {error}"
                raise ModelGone(what, hint=error.hint) from error
            return self._staged[-1]
        sure = is_file(schema) or (is_place and ";base64," in value[:256])  # elsewhere, text may begin like a data URL
        return self._stage_copy(value) if sure else None

    def _stage_copy(self, text: str) -> StagedFile | None:
        decoded = decode_data_url(text)
        if decoded is None:
            return None
        staged = self._stage("", decoded[0])
        staged.write(decoded[1])
        return staged

    def _write_output(self, output: Value) -> None:
        """Print or save the output of a prediction that succeeded."""
        plan, schema = self._plan, self._plan.schema
        if output is None or (output == [] and is_file(array_items(schema or {}))):
            self._console.warn("No output generated")
            return
        value = self._collect(output)
        files = value if isinstance(value, list) else [value]
        if files and all(isinstance(file, OutputFile) for file in files):
            if (plan.raw and isinstance(value, OutputFile)) or plan.special:
                for file in files:
                    self._pour(file.staged)
            else:
                self._taken.clear()
                self._save(value, plan.extension)
            return
        value = self._save(value)
        if is_text_stream(schema) and isinstance(value, list):
            value = join_text(value)
        kinds = allowed_kinds(schema or {})
        if isinstance(value, str) and (is_text_stream(schema) or not kinds or "string" in kinds):
            self._write(value.encode("utf-8", "replace") + b"\n" * (not plan.name))
        else:
            self._write(render_json(value))

    def _save(self, value: Value, extension: str = "") -> Value:
        """The output with its files published, and their paths in their places."""
        if isinstance(value, OutputFile):
            staged = value.staged
            name = self._pick_name(value.way, extension or safe_extension(staged.mime, staged.name))
            self._publish(staged, name)
            return self._plan.prefix + name
        if isinstance(value, list):
            return [self._save(item, extension) for item in value]
        if isinstance(value, dict):
            return {key: self._save(item, extension) for key, item in value.items()}
        return value

    def _pick_name(self, way: tuple[str, ...], extension: str) -> str:
        """A file name that no other file of this run has."""
        stem = ".".join([self._plan.stem, *map(safe_part, way[:6])])
        name, number = stem + extension, 1
        while name.lower() in self._taken:
            number += 1
            name = f"{stem}-{number}{extension}"
        self._taken.add(name.lower())
        return name

    def _publish(self, staged: StagedFile, name: str) -> None:
        shown = self._plan.prefix + name
        staged.publish(os.path.join(self._plan.folder, name), shown)
        self._console.info(f"Written output to: {shown}")

    def _write(self, data: bytes) -> None:
        """Write text or JSON where it was asked for."""
        if not self._plan.name:
            self._console.result(data)
            return
        staged = self._stage("", "text/plain")
        staged.write(data)
        if self._plan.special:
            self._pour(staged)
        else:
            self._publish(staged, self._plan.name)

    def _pour(self, staged: StagedFile) -> None:
        """Write a file to stdout, or to the device or pipe that -o names."""
        special = self._plan.special
        if not special:
            staged.copy_to(self._console.result)
            return
        try:
            with open(special, "wb", buffering=0) as goal:
                staged.copy_to(lambda data: write_all(goal.fileno(), data))
        except OSError as error:
            raise write_fault(special, error) from error


# == 21. Commands =============================================================
# One function per subcommand: read, plan, do, write. main is the only place that prints an error, that
# decides an exit code and that ends the process.


class World(NamedTuple):
    """Everything with an effect that a command may touch. Tests hand in their own."""

    console: Console
    environ: Mapping[str, str]
    cwd: str
    home: str
    stdin: BinaryIO
    loop: Loop


def open_engine(options: Options, world: World) -> Engine:
    """The engine that a flag names, or this machine. Raises EngineAbsent: none; EngineUnreachable, UsageError."""
    return connect_engine(find_address(options.engine, world.environ, world.home), world.console, world.environ)


def read_text_file(path: str, flag: str) -> str:
    """A file's text. Raises UsageError, in the name of the flag that named it."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"{flag} {path}: {reason}") from error


def is_archive(image: str) -> bool:
    """Whether IMAGE is a tar on disk or on stdin, not the name of an image.

    >>> is_archive("-"), is_archive("/carried/model.tar.gz"), is_archive("r8.im/me/model")
    (True, True, False)
    """
    path = os.path.expanduser(image)
    return image == "-" or image.startswith(("/", "./", "../", "~")) or (".tar" in image and os.path.isfile(path))


def load_image(engine: Engine, path: str, world: World) -> str:
    """The name of the image in a tar, which the engine has loaded. Raises EngineError, UsageError."""
    console = world.console
    hint = "IMAGE must be a tar that `docker save` made, plain or compressed (Docker 20.10 reads no zstd)"
    if path == "-" and world.stdin.isatty():
        raise UsageError("IMAGE -: stdin is a terminal", hint="docker save IMAGE | cog.pyz predict -")
    console.phase(f"Loading {path if path != '-' else 'the image on stdin'}...")
    try:
        with world.stdin if path == "-" else open(os.path.expanduser(path), "rb") as source:
            names = engine.image_load(source, on_event=lambda event: console.tick())
    except EngineError as error:
        raise EngineError(f"loading {path}", error.status, error.message, hint=hint) from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint=hint) from error
    if not names:
        raise EngineError("load", 0, f"no image was found in {path}", hint=hint)
    console.done()
    console.info(f"Loaded {', '.join(names)}")
    return names[0]


def is_for(image: JSON, architecture: str) -> bool:
    """Whether an image is for an architecture, as far as that is known.

    >>> is_for({"Architecture": "amd64"}, "arm64"), is_for({"Architecture": "amd64"}, "")
    (False, True)
    """
    return architecture in ("", image.get("Architecture") or architecture)


def find_image(engine: Engine, name: str, options: Options, world: World) -> JSON:
    """An image's inspect document; pulled, if it is absent and may be. Raises EngineError, UsageError."""
    if not name.startswith("sha256:"):
        parse_reference(name)
    found = None if options.pull == "always" else engine.image_inspect(name)
    wanted = (options.platform.split("/") + ["", ""])[1]
    if options.pull != "never" and not (found and is_for(found, wanted)):
        if found:
            world.console.info(f"The image that is here is for {found.get('Architecture')}, not for {options.platform}")
        pull_image(engine, name, world.console, world.environ, world.home, platform=options.platform)
        found = engine.image_inspect(name)
    if found and is_for(found, wanted):
        return found
    other = f" for {options.platform}; the one that is here is for {found.get('Architecture')}" if found else ""
    raise EngineError(f"image {name}", 0, f"image not found{other}",
                      hint="without --pull never it is pulled; a tar of it can be given in its place"
                      if options.pull == "never" else "")


def open_image(engine: Engine, options: Options, world: World) -> tuple[str, JSON]:
    """The name of an image and its inspect document; one in a tar is loaded. Raises CogError."""
    if not is_archive(options.image):
        return options.image, find_image(engine, options.image, options, world)
    name = load_image(engine, options.image, world)
    return name, find_image(engine, name, options._replace(pull="never"), world)


# -- the model in this folder


def read_project(options: Options, world: World) -> Config:
    """The config of the model in this folder. Raises ConfigError."""
    config = read_config(find_config(world.cwd, options.file))
    if not is_utf8(config.project):
        raise ConfigError(f"{config.project}: the folder's name is not UTF-8", hint="rename it")
    for text in config.warnings:
        world.console.warn(text)
    predict, train = (full_reference(getattr(config, mode), config.project, mode) for mode in ("predict", "train"))
    if not (predict or train or options.command == "exec" or wants_old_runtime(config)):  # which reads cog.yaml itself
        likely = (full_reference(f"{name}.py:", config.project, "predict") for name in ("run", "predict"))
        predict = next((reference for reference in likely if not reference.endswith(":")), "")
        if predict:
            world.console.warn(f'{config.file_name} names no predictor; it is taken as predict: "{predict}"')
    return config._replace(predict=predict, train=train)


class Model(NamedTuple):
    """A model as its source tells it. Where the source does not tell all, its own Python is to be asked."""

    config: Config
    document: JSON | None  # None: this Python cannot parse the source
    warnings: tuple[str, ...] = ()
    trouble: SchemaError | None = None  # why there is no document
    needs_python: bool = False


def model_references(options: Options, config: Config) -> tuple[str, str]:
    """What is to be read for a command: the reference of the predictor, and that of the trainer."""
    predict = "" if is_training(options) else config.predict
    return predict, config.train if options.command in ("inspect", "build", "serve") or not predict else ""


def read_model_source(options: Options, config: Config, world: World) -> Model:
    """The model of a config, as its source or a file in its place tells it. Raises SchemaError, UsageError."""
    import json

    predict, train = model_references(options, config)
    given = options.openapi_schema or world.environ.get("COG_OPENAPI_SCHEMA", "")
    if given:
        try:
            document = json.loads(read_text_file(os.path.join(world.cwd, given), "--openapi-schema"))
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{given} is not JSON: {error}") from error
        if input_schema(document, training=bool(train)) is None:
            raise UsageError(f"{given} is no schema of a model: it has no components.schemas.Input")
        return Model(config, document)
    try:
        found = read_schema(predict, config.project, train=train, places=dict(config.places))
    except GrammarError as error:
        return Model(config, None, (), error, needs_python=True)
    except SchemaError as error:
        if not (predict and train) or wants_old_runtime(config):  # which loads both, whatever it is to do
            raise
        config = config._replace(train="")
        found = read_schema(predict, config.project, places=dict(config.places))
        world.console.warn(f"{error}; predictions work, trainings do not")
    if config.concurrency_max > 1 and not found.concurrency:
        place = dict(config.places)["concurrency"]
        world.console.warn(f"{place}: concurrency requires an async run() or predict() method; "
                           "predictions run one at a time")
    return Model(with_concurrency(config, found.concurrency), found.document, found.warnings,
                 needs_python=found.python_needed)


def with_concurrency(config: Config, concurrency: int) -> Config:
    """A config with what the source says of predictions at once: its own word goes first, if the model can do so."""
    if concurrency > 1 and not config.concurrency_max:
        return config._replace(concurrency_max=concurrency)
    return config if concurrency else config._replace(concurrency_max=min(config.concurrency_max, 1))


def settle_model(model: Model, world: World, *, asked: bool = True) -> tuple[Config, JSON]:
    """The config and the schema of a model, after all that could be asked. Raises SchemaError: it has none."""
    if model.document is None:
        raise model.trouble or SchemaError("the model has no schema")
    for text in model.warnings:
        world.console.warn(text)
    if model.needs_python and not asked:
        world.console.warn("a run will ask the model's own Python, which may tell more of its inputs")
    return model.config, model.document


def reader_order(options: Options, config: Config, project: str) -> str:
    """What the reader on a model's own Python is told; `project` is the folder there. Raises ConfigError."""
    import hashlib

    predict, train = model_references(options, config)
    own = next(iter(plan_project(config, None, is_local=True).files.values()))
    return render_compact({"project": project, "predict": predict, "train": train, "version": __version__,
                           "file": config.file_name, "digest": hashlib.sha256(own).hexdigest()})


def take_answer(model: Model, out: bytes, trouble: str, console: Console) -> Model:
    """The model as its own Python tells it: its last whole word; the model as it was, if that has said nothing of use.
    Raises SchemaError: it cannot parse the source either."""
    import json

    answer: Any = None
    for line in out.splitlines():
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            break
    if isinstance(answer, dict) and isinstance(answer.get("error"), str):
        raise SchemaError(answer["error"], hint=str(answer.get("hint") or ""))
    document = answer.get("document") if isinstance(answer, dict) else None
    if not isinstance(document, dict) or input_schema(document, training=True) is None:
        console.debug(f"the model's own Python tells no schema: {trouble or 'it said nothing'}")
        return model
    if trouble and answer.get("needs_more"):
        console.warn(f"the model cannot be imported to read its inputs: {trouble}")
    warnings = tuple(str(text) for text in answer.get("warnings") or ())
    return Model(with_concurrency(model.config, int(answer.get("concurrency", 1))), document, warnings)


def project_key(project: str, *words: str) -> str:
    """What changes when a file of a project does, by names, sizes and times; but for outputs and what Python keeps."""
    import hashlib

    found = hashlib.sha256(repr((__version__, *words)).encode())
    for member in walk_context(project, IgnoreRules(), (".cog", ".git")):
        if "__pycache__" not in member.path and not member.entry.name.startswith("output"):
            found.update(repr((member.path, identify(member.entry.path))).encode())
    return found.hexdigest()


def ask_once(model: Model, options: Options, words: Sequence[str], world: World,
             ask: Callable[[], tuple[int | None, bytes, bytes]]) -> Model:
    """The model as its own Python tells it, asked anew only when the project or one of the words has changed.
    Raises SchemaError."""
    import json

    project = model.config.project
    key = project_key(project, options.command, model.config.file_name, *words)
    try:
        known = json.loads(read_bytes(os.path.join(project, ".cog", "asked.json")))
        if known["key"] == key:
            return take_answer(model, str(known["answer"]).encode(), "", world.console)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass  # it was never asked
    world.console.phase("Reading the model's inputs with its own Python...")
    code, out, err = ask()
    found = take_answer(model, out, "" if code == 0 else last_line(err) or "it took too long", world.console)
    if code == 0 and os.access(project, os.W_OK):
        answer = {"key": key, "answer": out.decode("utf-8", "replace")}
        write_own_file(project, "asked.json", render_compact(answer).encode())
    return found


def ask_image(engine: Engine, model: Model, image: JSON, options: Options,
              world: World) -> tuple[int | None, bytes, bytes]:
    """What the reader says on the Python of an image, with the project at /src: exit code, answer, what went wrong."""
    project = plan_project(model.config, None, is_local=engine.host_is_local)
    order, python = reader_order(options, model.config, "/src"), helper_interpreters(image.get("Config") or {})[0]
    body: JSON = {"Image": image["Id"], "Entrypoint": [python, "-c", reader_program(), order], "Cmd": [],
                  "WorkingDir": "/src"}
    mounted: JSON = {"Mounts": [{"Type": "bind", "Source": project.folder, "Target": "/src"}],
                     "SecurityOpt": ["label=disable"]}
    network: JSON = {"NetworkMode": options.network} if options.network else {}
    said: tuple[int | None, bytes, bytes] = (None, b"", b"")
    for copied in (True,) if project.copied else (False, True):
        files = copy_project(project.folder, extra_files=project.files) if copied else None
        try:
            said = run_in_image(engine, {**body, "HostConfig": {**network, **({} if copied else mounted)}},
                                world.loop, files=files, limit=options.setup_timeout or None)
        except EngineError as error:
            said = None, b"", str(error).encode()
        if said[1].strip() not in (b"", b"{}"):
            break
    return said


def ask_environment(model: Model, options: Options, world: World) -> Model:
    """The model as the Python of its environment on this machine tells it. Raises BuildFailed, SchemaError."""
    config = model.config
    settings = read_build_settings(config, world.environ, world.cwd)
    environment = prepare_environment(config, settings, world.console, world.environ)

    def ask() -> tuple[int | None, bytes, bytes]:
        argv = [environment.python, "-c", reader_program(), reader_order(options, config, config.project)]
        try:
            return run_program(argv, b"", without_leftovers(world.environ))
        except OSError as error:
            return None, b"", str(error).encode()

    try:
        return ask_once(model, options, (environment.folder, str(identify(environment.folder))), world, ask)
    finally:
        os.close(environment.lock)


# -- its image, and its environment


PROJECT_LABEL = "cog.pyz.project"  # the label of an image for development; its value is the project's folder
CONFIG_LABEL = "cog.pyz.config"  # another one: the name of its config there


def read_settings(config: Config, options: Options, world: World, *, for_development: bool = False) -> BuildSettings:
    """What decides the build of a project beside its config: this machine, and the flags. Raises UsageError."""
    settings = read_build_settings(config, world.environ, world.cwd, os.uname().machine)
    for name, _ in settings.wheels:
        world.console.info(f"Using local {name.partition('-')[0]} wheel: {name}")
    weights = find_weights(config.project, read_rules(config.project)) if options.separate_weights else frozenset()
    if options.separate_weights and not weights:
        world.console.info("No files of weights of 10 MiB or more: there is no layer of their own")
    base, registry = options.base_image or settings.base_image, options.registry or settings.registry
    for name in (*((base,) if base else ()), f"{registry}/cog-base"):
        parse_reference(name)
    own = ""
    if options.dockerfile and not for_development:
        own = read_text_file(os.path.join(world.cwd, options.dockerfile), "--dockerfile") or "\n"
    return settings._replace(
        dockerfile=own, weights=weights, base_image=base, registry=registry,
        use_cog_base_image=options.use_cog_base_image == "true",
        use_cuda_base_image=options.use_cuda_base_image != "false", for_development=for_development)


def warn_of_patch(config: Config, settings: BuildSettings, console: Console) -> None:
    """Say so, where the base image has another patch of Python than the one that is asked for."""
    minor, _, patch = config.python_version.rpartition(".")
    own = settings.dockerfile or settings.base_image
    if "." in minor and not own and not base_image(config, settings).startswith("python:"):
        console.warn(f"the base image comes with the newest Python {minor}, whatever its patch; "
                     f"python_version is {minor}.{patch}")


def with_cog_base(engine: Engine, config: Config, settings: BuildSettings, options: Options) -> BuildSettings:
    """The settings, with Cog's base image where the engine has it and nothing was said of the base."""
    flags = {options.use_cog_base_image, options.use_cuda_base_image}
    asked = settings.base_image or settings.dockerfile or flags - {"", "auto"}
    base = "" if asked else cog_base_image(config, settings.registry)
    return settings._replace(use_cog_base_image=True) if base and engine.image_inspect(base) else settings


def without_cuda_base(config: Config, settings: BuildSettings, options: Options) -> BuildSettings | None:
    """The settings for where the CUDA base cannot be had; None if that is no base of this build, or was asked for."""
    plain = settings._replace(use_cuda_base_image=False)
    asked = settings.dockerfile or options.use_cuda_base_image == "true"
    return None if asked or base_image(config, plain) == base_image(config, settings) else plain


def begin_build(engine: Engine, config: Config, settings: BuildSettings, options: Options, world: World,
                name: str) -> tuple[BuildSettings, list[str]]:
    """What the build goes by, and the ids of its base images, all here; on the way a word on what begins.
    Raises BuildFailed."""
    world.console.info(f"Building Docker image from environment in {name}...")
    warn_of_patch(config, settings, world.console)
    try:
        return settings, [pull_base(engine, base, options, world) for base in list_base_images(config, settings)]
    except BuildFailed as error:
        plain = without_cuda_base(config, settings, options)
        if plain is None:
            raise
        world.console.warn(f"{error}; the model is built on {base_image(config, plain)}, without NVIDIA's libraries")
        return plain, [pull_base(engine, base, options, world) for base in list_base_images(config, plain)]


def plan_development(config: Config, settings: BuildSettings, options: Options) -> tuple[dict[str, Contents], str]:
    """The files that a build for development takes beside the project, and the name of its image."""
    files = build_files(config, settings, lambda name: find_own(config.project, name))
    return files, development_image(config.project, build_digest(files, config.project, options.platform))


def build_secrets(config: Config, settings: BuildSettings, options: Options,
                  world: World) -> Mapping[str, bytes] | None:
    """What the steps of a build may mount, by id; None where no step mounts anything. Raises UsageError."""
    found = {PIP_SECRET: settings.pip_conf.encode()} if settings.pip_conf else {}
    found.update(read_secret(text, config.project, world.environ) for text in options.secret)
    mounted = [mount.id for step in config.run for mount in step.mounts]
    for name in mounted:
        if name not in found:
            world.console.warn(f"build.run mounts the secret {name} and goes without it: "
                               f"`cog.pyz build --secret id={name},src=FILE` gives it")
    return found if found or mounted else None


def find_development_image(engine: Engine, config: Config, options: Options, world: World) -> JSON:
    """The image for a project, inspected; built, unless nothing changed. Raises BuildFailed, EngineError."""
    settings = with_cog_base(engine, config, read_settings(config, options, world, for_development=True), options)
    files, name = plan_development(config, settings, options)
    plain = without_cuda_base(config, settings, options)
    found = None if options.no_cache else engine.image_inspect(name)
    if not (found or options.no_cache or plain is None or engine.image_inspect(base_image(config, settings))):
        found = engine.image_inspect(plan_development(config, plain, options)[1])
        if found:
            world.console.info(f"The image is without NVIDIA's libraries, as {base_image(config, settings)} is not "
                               "here; --no-cache tries to have it")
    if found is not None:
        return found
    if options.dry_run:
        return {"Id": name, "Config": {"Cmd": ["python", *SERVER]}}  # as it would be
    settings, _ = begin_build(engine, config, settings, options, world, config.file_name)
    files, name = plan_development(config, settings, options)
    environ = with_docker_proxies(world.environ, world.home)
    build_from_files(engine, files, {**build_query(options, environ), "t": name},
                     {PROJECT_LABEL: config.project, CONFIG_LABEL: config.file_name}, world.console,
                     quiet=is_quiet(options), secrets=build_secrets(config, settings, options, world))
    for image in engine.image_list(f"{PROJECT_LABEL}={config.project}", f"{CONFIG_LABEL}={config.file_name}"):
        for tag in image_tags(image) or [str(image["Id"])]:
            if tag != name and not tag.endswith(f"/{name}"):
                remove_image(engine, tag, world.console)
    found = engine.image_inspect(name)
    if found is None:
        raise EngineError("image", 0, f"{name} is gone as soon as it was built")
    return found


def pull_base(engine: Engine, base: str, options: Options, world: World) -> str:
    """The id of a base image, pulled if it is not here. Raises BuildFailed."""
    found = engine.image_inspect(base)
    if found is not None:
        return str(found.get("Id"))
    try:
        pull_image(engine, base, world.console, world.environ, world.home, platform=options.platform)
    except EngineError as error:
        login = f"{error.hint}; " if "docker login" in error.hint else ""
        raise BuildFailed(f"the base image {base} cannot be had: {error.message}",
                          hint=f"{login}{BASE_HINT}") from error
    return str((engine.image_inspect(base) or {}).get("Id"))


def open_project(engine: Engine, model: Model, options: Options, world: World) -> tuple[JSON, Model]:
    """The image for a model in a folder, built if need be, and the model with what that image tells of it.
    Raises CogError."""
    image = find_development_image(engine, model.config, options, world)
    if model.needs_python and not options.dry_run:
        model = ask_once(model, options, (str(image["Id"]),), world,
                         lambda: ask_image(engine, model, image, options, world))
    return image, model


def check_inside(config: Config) -> None:
    """Nothing, where a container sees the files of a model. Raises ConfigError: one is a link out of the project."""
    for mode in ("predict", "train"):
        name = getattr(config, mode).partition(":")[0]
        if name and not lies_inside(config.project, name):
            path = os.path.realpath(os.path.join(config.project, name))
            raise ConfigError(f"{name} is a link to {path}, outside the project, where no container sees it",
                              hint="put the file itself there; --engine none goes by such links")


def open_runnable(engine: Engine, model: Model | None, options: Options, variables: dict[str, str],
                  world: World) -> tuple[Runnable, JSON | None]:
    """What is to run in a container, and its schema: a model in a folder, or without one an image. Raises CogError."""
    if model is None:
        name, image = open_image(engine, options, world)
        return Runnable(name, image, model_label(name, image), variables), image_document(image)
    check_inside(model.config)
    image, model = open_project(engine, model, options, world)
    config, document = settle_model(model, world, asked=not options.dry_run)
    project = plan_project(config, document, is_local=engine.host_is_local)
    if not (project.copied or options.dry_run):
        write_own_file(config.project, "openapi_schema.json", project.schema)
    return Runnable("", image, config_json(config), variables, project), document


def prepare_process(options: Options, config: Config, document: JSON, run: Run, variables: Mapping[str, str],
                    world: World) -> ProcessPlan:
    """What will be run without an engine, when all that it needs is there. Raises BuildFailed, ConfigError."""
    settings = read_build_settings(config, world.environ, world.cwd)
    environment = prepare_environment(config, settings, world.console, world.environ)
    plan = plan_process(options, config, environment, run, variables, world.environ)
    if version_numbers(environment.runtime) >= (0, 17):
        share_coglet_scratch()
    write_own_file(plan.cwd, "openapi_schema.json", render_schema(document).encode())
    return plan


def model_here(model: Model, options: Options, world: World) -> tuple[Config, JSON]:
    """A model for this machine and its schema, with a word on what running it here means. Raises CogError."""
    model = model._replace(config=note_process(options, model.config, world))
    if model.needs_python and not options.dry_run:
        model = ask_environment(model, options, world)
    return settle_model(model, world, asked=not options.dry_run)


def note_process(options: Options, config: Config, world: World) -> Config:
    """The config as it is installed on this machine, with a word on what running it here means.

    With --no-cache its environment is forgotten. Raises EngineUnreachable: there is no GPU; UsageError: a flag needs a
    container.
    """
    for flag, value in (("--volume", options.volume), ("--network", options.network), ("--user", options.user),
                        ("--platform", options.platform), ("--publish", options.publish)):
        if value:
            raise UsageError(f"{flag} needs a container engine", hint="leave it out, or name an engine with --engine")
    if options.gpus and not options.cpu and not has_nvidia():
        raise EngineUnreachable("--gpus: this machine has no NVIDIA device", hint="leave it out, or --cpu")
    if options.no_cache and not options.dry_run:
        remove_quietly(os.path.join(environment_folder(config, world.environ), "cog.json"))
    found = config if not config.gpu or has_nvidia() else without_cuda(config)
    lost = "" if found.requirements == config.requirements else "; no NVIDIA device is here: torch comes without CUDA"
    world.console.warn(process_notice(config) + lost)
    return found


def plan_maker(engine: Engine, options: Options, runnable: Runnable, world: World,
               plan: Callable[..., Plan] = plan_container) -> Callable[[], Plan]:
    """What makes a plan with a name, a token and ports of its own: what an earlier try left may not be gone yet."""
    def make() -> Plan:
        run = make_run(pick_ports(options.network, int.from_bytes(os.urandom(2), "big")))
        return plan(options, runnable, run, environ=world.environ, cwd=world.cwd, podman=engine.is_podman)

    return make


def make_run(ports: Ports) -> Run:
    """A run with a name and a token that no other has."""
    return Run(f"cog-{os.urandom(6).hex()}", os.urandom(16).hex(), ports)


def run_planned(make: Callable[[], Plan], run: Callable[[Plan], int], console: Console) -> int:
    """What `run` returns for a plan; or for another, where the engine does not see the project, may not run its init
    in the container, or a port is taken."""
    plan = make()
    try:
        return run(plan)
    except InitRefused as error:
        why, change = f"{error}; it is started without an init", without_init
    except ProjectUnseen as error:
        why, change = f"{error}; it is copied into the container", copied_instead
    except EngineError as error:
        project = plan.project
        if project is None or project.copied or 'mount config for type "bind"' not in error.message:
            raise
        why, change = f"{error.message}; it is copied into the container", copied_instead
    except LanePortTaken as error:
        console.debug(str(error))
        return run(make())
    console.debug(why)
    return run_planned(lambda: change(make()), run, console)


def warn_of_copy(plan: Plan, console: Console) -> None:
    """Say so, where what is written to /src will not be in the project's folder."""
    if plan.project and plan.project.copied:
        console.warn(f"/src is a copy of {plan.project.folder}: what is written there is lost at the end")


# -- one prediction or training


def replicate_context(options: Options, environ: Mapping[str, str]) -> JSON:
    """The part of a request that hands the token over, if it is to be. Raises UsageError."""
    if not options.use_replicate_token:
        return {}
    token = environ.get("REPLICATE_API_TOKEN")
    if not token:
        raise UsageError("--use-replicate-token: REPLICATE_API_TOKEN is not set",
                         hint="export REPLICATE_API_TOKEN=r8_...")
    return {"context": {"replicate_api_token": token}}


def read_variables(options: Options, world: World) -> dict[str, str]:
    """The user's variables for what will run, when its other flags can be read as well. Raises UsageError."""
    check_flags(options, world.cwd)
    return parse_environment(options, world.environ, lambda path: read_text_file(path, "--env-file"))


def job_schema(options: Options, document: JSON | None) -> InputSchema | None:
    """What a prediction or a training takes; None if nothing says so."""
    return input_schema(document, training=is_training(options))


def plan_result(options: Options, document: JSON | None, world: World) -> OutputPlan:
    """Where the result will go. Raises OutputError, UsageError."""
    training, as_json = is_training(options), options.json is not None
    schema = output_schema(document, training=training)
    default = "weights" if training and not as_json else ""
    plan = plan_output(options.output or default, as_json=as_json, schema=schema, cwd=world.cwd, home=world.home)
    return plan._replace(noun="training" if training else "prediction")


class Job(NamedTuple):
    """One prediction or training, all read and checked, before anything is started."""

    options: Options
    reader: Reader
    context: JSON  # what the request has beside the input
    result: OutputPlan
    document: JSON | None  # the model's OpenAPI document, if it has a usable one
    values: JSON  # the input


def fill_job(job: Job, document: JSON | None, world: World) -> Job:
    """The job with its inputs read and checked, and the place of its result, by the model's schema. Raises CogError."""
    options, schema = job.options, job_schema(job.options, document)
    if options.json is not None:
        values = parse_json_inputs(options.json, schema, job.reader)
    else:
        values = parse_named_inputs(options.inputs, schema, job.reader)
    check_inputs(values, schema)
    return job._replace(document=document, values=values, result=plan_result(options, document, world))


def show_plan(document: JSON, world: World) -> int:
    """Print what --dry-run shows; return 0."""
    world.console.result(render_json(document))
    return 0


def show_inputs(job: Job) -> JSON:
    """The job's inputs as --dry-run shows them."""
    return describe_inputs(job.values, job_schema(job.options, job.document))


def cmd_predict(options: Options, world: World) -> int:
    """Run one prediction or training; return the exit code."""
    import contextlib

    context = replicate_context(options, world.environ)
    variables = read_variables(options, world)
    result = plan_result(options, None, world)
    with contextlib.closing(Reader(world.stdin, world.cwd, world.home)) as reader:
        job = Job(options, reader, context, result, None, {})
        return predict_url(job, world) if options.url else predict_model(job, variables, world)


def predict_url(job: Job, world: World) -> int:
    """Run a job on a model that runs already; return the exit code."""
    host = make_url_host(job.options, world)
    if job.options.dry_run:
        return show_plan({"url": str(host.endpoint), "input": show_inputs(ask_schema(host, job, world))}, world)
    job = fill_job(job, host.peek_document(), world)
    return run_job(job, lambda lane: host, make_run(Ports(0, 0)), world, overlapping=True)


def predict_model(job: Job, variables: dict[str, str], world: World) -> int:
    """Run a job on an image, or on the model in this folder; return the exit code."""
    options, model = job.options, None
    if not options.image:
        config = read_project(options, world)
        check_task(options, config.predict, config.train)
        model = read_model_source(options, config, world)
        if model.document is not None:
            job = fill_job(job, model.document, world)
    try:
        engine = open_engine(options, world)
    except EngineAbsent:
        if model is None:
            raise
        return predict_in_process(job, model, variables, world)
    with engine:
        runnable, document = open_runnable(engine, model, options, variables, world)
        label = runnable.label
        check_task(options, label.get("predict") or label.get("run") or "", label.get("train") or "")
        if model is None or document != model.document:
            job = fill_job(job, document, world)
        return predict_in_container(engine, job, runnable, world)


def predict_in_container(engine: Engine, job: Job, runnable: Runnable, world: World) -> int:
    """Run a job in a container, once more where that needs another plan; return the exit code."""
    make = plan_maker(engine, job.options, runnable, world)
    if job.options.dry_run:
        return show_plan({**describe_plan(make(), str(engine.address), runnable.variables), "input": show_inputs(job)},
                         world)
    overlapping = int((runnable.label.get("concurrency") or {}).get("max") or 1) > 1

    def run(plan: Plan) -> int:
        if is_training(job.options):
            warn_of_copy(plan, world.console)
        return run_job(job, lambda lane: ContainerHost(engine, plan, lane, world.loop, world.console),
                       Run(plan.name, plan.token, plan.ports), world, overlapping=overlapping)

    return run_planned(make, run, world.console)


def predict_in_process(job: Job, model: Model, variables: Mapping[str, str], world: World) -> int:
    """Run a job in a virtual environment on this machine, once more with other ports if need be; the exit code."""
    options, console = job.options, world.console
    config, document = model_here(model, options, world)
    if document != model.document:
        job = fill_job(job, document, world)
    if options.dry_run:
        return show_plan({"engine": "none", "folder": config.project, "python": config.python_version,
                          "input": show_inputs(job)}, world)

    def attempt() -> int:
        run = make_run(pick_free_ports(int.from_bytes(os.urandom(2), "big")))
        plan = prepare_process(options, config, document, run, variables, world)
        return run_job(job, lambda lane: ProcessHost(plan, lane, world.loop, console), run, world,
                       overlapping=config.concurrency_max > 1)

    try:
        return attempt()
    except LanePortTaken as error:
        console.debug(str(error))
        return attempt()


def make_url_host(options: Options, world: World) -> UrlHost:
    """The host for --url and --token-env. Raises UsageError."""
    endpoint = parse_endpoint(options.url)
    token = read_token(options.token_env, world.environ) if options.token_env else ""
    if token and endpoint.scheme == "http" and not is_loopback(endpoint.host):
        world.console.warn(f"the token is sent to {endpoint.host} without TLS, for all on the way to read")
    return UrlHost(endpoint, token, Web(world.loop, world.console, world.environ, world.cwd))


def run_job(job: Job, make_host: Callable[[Lane], Host], run: Run, world: World, *, overlapping: bool) -> int:
    """Start the model, run the job, write its result; return the exit code.

    `overlapping`: the model may be ready while a prediction runs.
    """
    import contextlib

    console = world.console
    with contextlib.ExitStack() as stack:
        progress = Progress(console.log)
        store = stack.enter_context(OutputStore(job.result, console, run.name))
        lane = Lane(run.token, run.ports.lane, on_upload=lambda *upload: store.open_upload(*upload),
                    on_webhook=progress.hook,
                    json_reader=lambda: HookReader(SpillReader(lambda mime: store.open_blob(mime)), progress.logs))
        host = make_host(lane)
        stack.callback(host.close)
        host.start()
        wait_for_setup(host, job.options.setup_timeout, console)
        if job_schema(job.options, job.document) is None:
            job = ask_schema(host, job, world)
            store = stack.enter_context(OutputStore(job.result, console, run.name))
        store.fetch = host.fetch
        live = LiveText(console) if job.result.live else None
        progress.show = live.feed if live is not None else None
        console.phase(f"Running {job.result.noun}...")
        try:
            response = run_prediction(host, make_request(host, job, lane, run.name, overlapping), progress, lane)
        except (CogError, Interrupted):
            if live is not None and live.count:
                live.end()
            raise
        host.close()
        console.done()
        try:
            store.finish(response, uploads_at=lane.url("out/"), live=live, given=host.files_given)
        except PredictionFailed as failure:
            failure.hint = host.shortage()
            raise
    return 0


def read_document(host: Host) -> JSON | None:
    """The OpenAPI document of a running model, if it has one. Raises ModelGone, UsageError: it cannot be asked."""
    answer = host.open("GET", "/openapi.json")
    host.wait(lambda: answer.ready, time.monotonic() + STALL_LIMIT)
    error = host.explain("/openapi.json", answer)
    if error is not None:
        raise error
    document = parse_document(answer.read())
    return document if answer.status == 200 else None


def ask_schema(host: Host, job: Job, world: World) -> Job:
    """The job, read again with the schema of the running model, if it has one. Raises InputError."""
    document = read_document(host)
    if document is None:
        world.console.debug("the model has no schema: its inputs are not checked")
        return job
    return fill_job(job, document, world)


def training_path(host: Host) -> str:
    """Where a training is posted. Runtimes before 0.14 fail at /trainings; in their mode for it /predictions trains."""
    works = host.speaks_coglet or "trainings_url" in parse_response(host.request("GET", "/").read())
    return "/trainings" if works else "/predictions"


def make_request(host: Host, job: Job, lane: Lane, name: str, overlapping: bool) -> Request:
    """The request as it is posted, under the run's name; files are in the lane."""
    values = job.values if host.inline else render_inputs(
        job.values, lambda file: lane.add_file(file.open, file.name, file.size))
    path = training_path(host) if is_training(job.options) else "/predictions"
    operation = ((job.document or {}).get("paths") or {}).get(path, {}).get("post", {})
    return Request(name, path, {"input": values, **job.context},
                   "" if host.inline else lane.url("hook"),
                   streamed=job.result.live and bool(operation.get("x-cog-streaming")), live=job.result.live,
                   logged=host.speaks_coglet, timeout=job.options.timeout, watched=not overlapping,
                   noun=job.result.noun)


def cmd_exec(options: Options, world: World) -> int:
    """Run a command in the environment of the model in this folder; return its exit code."""
    if options.as_run:
        world.console.warn('"cog run <command>" is deprecated, use "cog exec <command>"')
    variables = read_variables(options, world)
    config = read_project(options, world)
    try:
        try:
            engine = open_engine(options, world)
        except EngineAbsent:
            return exec_in_process(options, config, variables, world)
        with engine:
            return exec_in_container(engine, options, config, variables, world)
    except (UsageError, ExecFailed):
        raise
    except CogError as error:
        raise ExecFailed(str(error), hint=error.hint) from error


def is_foreground(terminal: int) -> bool:
    """Whether the keys of a terminal are for us, and not for the shell that started us in the background."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return True  # not our controlling terminal, so that it stops nobody


def check_addresses(engine: Engine, options: Options) -> None:
    """Nothing, where the engine publishes at the addresses asked for. Raises UsageError: Podman as root listens at one
    of IPv6, and passes nothing on to what listens at IPv4 only, as Cog's server does, and from ::1 to nothing."""
    hosts = [options.host, *(place["HostIp"] for text in options.publish for _, place in parse_publish(text))]
    deaf = [host for host in hosts if ":" in host and (host in ("::1", options.host) or not options.network)]
    if deaf and engine.is_podman and engine.info().get("Rootless") is False:
        raise UsageError(f"Podman as root passes nothing on from {deaf[0]} to a container",
                         hint="127.0.0.1 in its place, or 0.0.0.0 for every address")


def exec_in_container(engine: Engine, options: Options, config: Config, variables: dict[str, str],
                      world: World) -> int:
    """Run a command in the image of the model in this folder; return its exit code."""
    import contextlib
    import functools

    check_addresses(engine, options)
    console, stdin = world.console, world.stdin.fileno()
    image = find_development_image(engine, config, options, world)
    project = plan_project(config, None, is_local=engine.host_is_local)
    if os.isatty(stdin) and not is_foreground(stdin):
        stdin = os.open(os.devnull, os.O_RDONLY)  # the terminal is somebody else's, who would stop us at a read
    terminal = Terminal(stdin) if os.isatty(stdin) and os.isatty(1) else None
    make = plan_maker(engine, options, Runnable("", image, config_json(config), variables, project), world,
                      functools.partial(plan_exec, terminal=terminal.size() if terminal else None))

    def run(plan: Plan) -> int:
        warn_of_copy(plan, console)
        with contextlib.closing(ExecHost(engine, plan, world.loop, console, stdin, terminal)) as host:
            host.start()
            return host.follow()

    shown = " ".join(map(quote_shell, options.words))
    console.done()
    console.info(f"Running {shown} in Docker with the current directory mounted as a volume...")
    return run_planned(make, run, console)


def exec_in_process(options: Options, config: Config, variables: Mapping[str, str], world: World) -> int:
    """Become a command in the virtual environment of the model in this folder. Raises CommandMissing, NotExecutable."""
    import shutil
    import signal

    console, word = world.console, options.words[0]
    config = note_process(options, config, world)
    settings = read_build_settings(config, world.environ, world.cwd)
    environment = prepare_environment(config, settings, console, world.environ)
    base, asked = process_variables(options, config, environment, world.environ)
    user = {**asked, **runtime_environment(config), **variables}
    env = {**base, **command_environment(options, user, world.environ, terminal=False)}
    console.done()
    os.chdir(config.project)
    program = shutil.which(word, path=env["PATH"])
    if program is None and not os.path.exists(word):
        raise command_missing(word)
    os.set_inheritable(environment.lock, True)  # nobody changes the environment while the command runs
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # what Python ignores, others would too
    try:
        os.execve(program or word, options.words, env)
    except OSError as error:
        raise NotExecutable(f"{word} cannot be run: {error.strerror}") from error


def cmd_serve(options: Options, world: World) -> int:
    """Serve an image, or the model in this folder, until it ends; return the exit code."""
    variables = read_variables(options, world)
    model = None if options.image else read_model_source(options, read_project(options, world), world)
    try:
        engine = open_engine(options, world)
    except EngineAbsent:
        if model is None:
            raise
        return serve_in_process(options, model, variables, world)
    with engine:
        check_addresses(engine, options)
        if is_engine_here(engine):
            options = options._replace(port=claim_port(options.host, options.port))
        elif not engine.host_is_local:
            world.console.warn(f"the port is published on {engine.address.host}, where the engine runs")
        runnable, _ = open_runnable(engine, model, options, variables, world)
        return serve_in_container(engine, options, runnable, world)


def is_engine_here(engine: Engine) -> bool:
    """Whether a port that the engine publishes is one of this machine's, and not of another beside our container."""
    return engine.host_is_local and (sys.platform == "darwin" or engine.info().get("Name") == os.uname().nodename)


def serve_in_process(options: Options, model: Model, variables: Mapping[str, str], world: World) -> int:
    """Serve the model of a folder in a virtual environment on this machine; return the exit code."""
    config, document = model_here(model, options, world)
    options = options._replace(port=claim_port(options.host, options.port))
    if options.dry_run:
        return show_plan({"engine": "none", "folder": config.project, "python": config.python_version,
                          "url": render_url(options.host, options.port)}, world)
    plan = prepare_process(options, config, document, make_run(Ports(options.port, 0)), variables, world)
    return serve_model(ProcessHost(plan, None, world.loop, world.console), options, world)


def serve_in_container(engine: Engine, options: Options, runnable: Runnable, world: World) -> int:
    """Serve a model in a container; return the exit code. Raises UsageError: the port is taken."""
    make = plan_maker(engine, options, runnable, world)
    if options.dry_run:
        return show_plan(describe_plan(make(), str(engine.address), runnable.variables), world)

    def run(plan: Plan) -> int:
        return serve_model(ContainerHost(engine, plan, None, world.loop, world.console), options, world)

    try:
        return run_planned(make, run, world.console)
    except EngineError as error:
        if "port is already allocated" in error.message or "address already in use" in error.message:
            raise port_taken(options.host, options.port) from error
        raise


def serve_model(host: Host, options: Options, world: World) -> int:
    """Start a model and serve it until it ends; return 0 if it was told to by its own API.

    Raises SetupFailed; ModelGone: it ended by itself; Interrupted, when it has ended.
    """
    console, url = world.console, render_url(options.host, options.port)
    failure: SetupFailed | None = None
    host.served = True
    try:
        host.start()
        try:
            wait_for_setup(host, options.setup_timeout, console)
        except (SetupFailed, ModelGone) as error:
            if host.gone or host.health not in SETTLED:
                raise
            console.warn(str(error))
            failure = error if isinstance(error, SetupFailed) else None
        console.done()
        console.info(f"Serving at {url}")
        if host.link is not None:
            host.link.control({"poll": NEVER})
        world.loop.run(lambda: host.gone)
        host.drain()
        ended = host.ended()
    except Interrupted:
        host.stop(STOP_GRACE)
        raise
    finally:
        host.close()
        console.done()
    if failure is not None:
        raise failure
    if host.exit_status != 0:
        raise ModelGone(f"the model is gone: {ended}")
    return 0


# -- building


def cmd_debug(options: Options, world: World) -> int:
    """Print the Dockerfile of the model in this folder, without asking an engine or a registry; return 0."""
    config = read_project(options, world)
    if config.predict and not config.concurrency_max:
        try:
            config = with_concurrency(config, read_schema(config.predict, config.project).concurrency)
        except SchemaError as error:
            world.console.warn(str(error))
    settings = read_settings(config, options, world)
    warn_of_patch(config, settings, world.console)
    world.console.result(render_dockerfile(config, settings).encode())
    return 0


def read_secret(text: str, project: str, environ: Mapping[str, str]) -> tuple[str, bytes]:
    """The id and the value of one --secret, from a variable or a file of the project. Raises UsageError."""
    import csv

    hint = "--secret id=ID,src=FILE or --secret id=ID,env=NAME"
    values: dict[str, str] = {}
    try:
        fields = next(csv.reader([text]), [])
    except csv.Error as error:
        raise UsageError(f"--secret {text}: {error}", hint=hint) from error
    for field in fields:
        key, equals, value = field.strip().partition("=")
        key = {"source": "src"}.get(key.lower(), key.lower())
        if not equals:
            raise UsageError(f"--secret {text}: {field!r} is no key=value", hint=hint)
        if key not in ("id", "src", "env", "type"):
            raise UsageError(f"--secret {text}: unexpected key {key!r}", hint=hint)
        values[key] = value
    name, kind = values.get("id", ""), values.get("type", "")
    if not name:
        raise UsageError(f"--secret {text}: it has no id", hint=hint)
    if kind not in ("", "file", "env"):
        raise UsageError(f"--secret {text}: unsupported type {kind!r}", hint="type=file or type=env")
    variable = values.get("env") or (values.get("src") or name if kind == "env" else "")
    if not variable and kind != "file" and "src" not in values and name in environ:
        variable = name
    if variable and variable not in environ:
        raise UsageError(f"--secret {text}: the variable {variable} is not set", hint=hint)
    if variable:
        return name, environ[variable].encode()
    try:
        return name, read_bytes(os.path.join(project, os.path.expanduser(values.get("src") or name)))
    except OSError as error:
        raise UsageError(f"--secret {text}: {values.get('src') or name}: {error.strerror}", hint=hint) from error


def image_names(options: Options, config: Config) -> tuple[str, ...]:
    """The names that a build gives its image, the first from -t, cog.yaml or the folder. Raises UsageError: no name."""
    names = options.tag or (config.image or config.model or development_image(config.project, "").partition(":")[0],)
    place = dict(config.places).get("image" if config.image else "model", "-t") if not options.tag else "-t"
    for name in names:
        try:
            digest = parse_reference(name).digest
        except UsageError as error:
            raise UsageError(f"{place}: {error}", hint=error.hint) from error
        if digest:
            raise UsageError(f"{place}: {name}: a name with a digest cannot be given", hint="give it as NAME:TAG")
    return names


def git_labels(project: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The labels that say which commit a project is at; those that git does not know are left out."""
    found: dict[str, str] = {}
    for label, variable, words in (("revision", "GITHUB_SHA", ("rev-parse", "HEAD")),
                                   ("version", "GITHUB_REF_NAME", ("describe", "--tags", "--dirty"))):
        value = environ.get(variable, "")
        if not value:
            try:
                code, out, _ = run_program(["git", "-C", project, *words], b"", environ)
            except OSError:
                return found
            value = out.decode("utf-8", "replace").strip() if not code else ""
        if value:
            found[f"org.opencontainers.image.{label}"] = value
    return found


def run_pip_freeze(engine: Engine, image: str, world: World) -> str:
    """What `pip freeze` prints in an image. Raises BuildFailed, EngineError."""
    body: JSON = {"Image": image, "Entrypoint": ["python", "-m", "pip", "freeze"], "Cmd": [], "NetworkDisabled": True}
    code, out, err = run_in_image(engine, body, world.loop)
    if code:
        raise BuildFailed(f"pip freeze failed in the image: {last_line(err) or 'it said nothing'}")
    return out.decode("utf-8", "replace").strip()


def image_layers(image: JSON | None) -> list[str]:
    """The digests of an image's layers, the base's first."""
    return list(((image or {}).get("RootFS") or {}).get("Layers") or ())


def model_labels(engine: Engine, config: Config, schema: str, base: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The labels that make an image a model's, all but run.cog.pip_freeze."""
    labels = {"run.cog.version": __version__, "run.cog.config": render_compact(config_json(config)),
              "run.cog.openapi_schema": schema, "run.cog.has_init": "true", **git_labels(config.project, environ)}
    layers = image_layers(engine.image_inspect(base)) if "/cog-base:" in base else []
    if layers:
        labels.update({"run.cog.cog-base-image-name": base, "run.cog.cog-base-image-last-layer-sha": layers[-1],
                       "run.cog.cog-base-image-last-layer-idx": str(len(layers) - 1)})
    return labels


def label_image(engine: Engine, base: str, name: str, labels: dict[str, str], options: Options, world: World) -> str:
    """The id of an image like `base` with labels, under a name. Nothing but the labels differs; where the name's own
    image is the same already, it stays. Raises BuildFailed."""
    built, before = engine.image_inspect(base) or {}, engine.image_inspect(name) or {}
    old, new = dict(before.get("Config") or {}), dict(built.get("Config") or {})
    old_labels, new_labels = old.pop("Labels", None) or {}, new.pop("Labels", None) or {}
    old["Hostname"] = new["Hostname"] = ""  # which Podman makes from the image's id
    same = image_layers(before) == image_layers(built)
    known = old_labels.get("run.cog.pip_freeze") if same else None
    labels = {**labels, "run.cog.pip_freeze": run_pip_freeze(engine, base, world) if known is None else known}
    if same and old == new and old_labels == {**new_labels, **labels}:
        return str(before["Id"])
    query = {"t": name, "dockerfile": "Dockerfile", **({"platform": options.platform} if options.platform else {})}
    return build_from_files(engine, {"Dockerfile": f"FROM {base}\n".encode()}, query, labels, world.console)


DIGEST_LABEL = "cog.pyz.build"  # the label whose value is the hash of all that decided an image
OWNER_LABEL = "cog.pyz.owner"  # another one: the hash of the project's folder, which others need not know


class Build(NamedTuple):
    """The image of a project with its source, as it is to be built."""

    name: str
    config: Config
    weights: Collection[str]  # files that get a layer of their own
    files: Mapping[str, Contents]  # of our making
    labels: dict[str, str]  # all that are known before
    words: Sequence[str]  # what decides the image beside its context and its labels
    secrets: Mapping[str, bytes] | None

    def context(self, warn: Callable[[str], None], note: Callable[[bytes], object]) -> Iterator[bytes]:
        """The project as its image gets it, as a tar. Raises UsageError: a file cannot be read."""
        folder = self.config.project
        return read_context(folder, read_rules(folder), extra_files=self.files, weights=self.weights, warn=warn,
                            note=note)


def find_built(engine: Engine, build: Build) -> str:
    """The id of the image of that name, if it was built from just this and has these labels; empty else."""
    import hashlib

    found = engine.image_inspect(build.name) or {}
    known = (found.get("Config") or {}).get("Labels") or {}
    if DIGEST_LABEL not in known or not build.labels.items() <= known.items():
        return ""
    digest = hashlib.sha256(repr(build.words).encode())
    for _ in build.context(lambda text: None, digest.update):
        pass
    return str(found["Id"]) if digest.hexdigest() == known[DIGEST_LABEL] else ""


def build_labelled(engine: Engine, build: Build, options: Options, world: World) -> str:
    """The id of the image of a project with its source, built and labelled under its name. Raises BuildFailed."""
    import hashlib
    import mmap

    run = f"cog-{os.urandom(6).hex()}"
    unlabelled = f"{run}:unlabelled"
    exporting = mmap.mmap(-1, 1)  # shared with the guardian
    guardian = Guardian(lambda: engine.detached_remove(run, unlabelled, exporting=bool(exporting[0])),
                        engine.descriptors())
    # With one label, so that removing it takes no step that changes files out of Podman's cache.
    query = {**build_query(options, with_docker_proxies(world.environ, world.home)), "t": unlabelled,
             "labels": '{"run.cog.has_init":"true"}'}

    def send() -> str:
        digest = hashlib.sha256(repr(build.words).encode())
        build_image(engine, world.console, query=query, secrets=build.secrets, quiet=is_quiet(options),
                    context=build.context(world.console.warn, digest.update),
                    on_export=lambda: exporting.__setitem__(0, 1))
        return digest.hexdigest()

    try:
        owner = build_digest({}, build.config.project)[:12]
        labels = {**build.labels, OWNER_LABEL: owner, DIGEST_LABEL: build_again(send, world.console)}
        world.console.info("Adding labels to image...")
        before = engine.image_inspect(build.name) or {}
        image = label_image(engine, unlabelled, build.name, labels, options, world)
        if engine.is_podman:  # what the image was made from is to lose its name, but to stay as Podman's cache
            engine.image_tag(image, run, "unlabelled")
        if ((before.get("Config") or {}).get("Labels") or {}).get(OWNER_LABEL) == owner:
            remove_nameless(engine, str(before["Id"]), world.console)
    except (Interrupted, StreamError):
        guardian.dismiss(clean=True)
        raise
    finally:
        remove_image(engine, unlabelled, world.console, prune=False)
        guardian.dismiss()
    return image


def cmd_build(options: Options, world: World) -> int:
    """Build the image of the model in this folder, which runs anywhere without the folder; return 0."""
    model = read_model_source(options, read_project(options, world), world)
    config = model.config
    check_inside(config)
    check_ignore(config.project)
    names, settings = image_names(options, config), read_settings(config, options, world)
    secrets = build_secrets(config, settings, options, world)
    for flag in NOT_YET:
        if getattr(options, flag) != Options._field_defaults[flag]:
            world.console.warn(f"{FLAGS[flag][0]} does nothing yet")
    given = [text if "=" in text else f"{text}={world.environ.get(text)}" for text in options.build_arg]
    with open_engine(options, world) as engine:
        settings = with_cog_base(engine, config, settings, options)
        settings, bases = begin_build(engine, config, settings, options, world, f"{config.file_name} as {names[0]}")
        if model.needs_python:
            _, model = open_project(engine, model, options._replace(no_cache=False), world)
        config, document = settle_model(model, world)
        schema = render_compact(document)
        files = build_files(config, settings, lambda name: find_own(config.project, name))
        files[".cog/openapi_schema.json"] = schema.encode()
        labels = model_labels(engine, config, schema, base_image(config, settings), world.environ)
        build = Build(names[0], config, settings.weights, files, labels, [options.platform, *bases, *given], secrets)
        image = "" if options.no_cache else find_built(engine, build)
        if image:
            world.console.info("Nothing has changed since it was built")
        else:
            image = build_labelled(engine, build, options, world)
        for name in names[1:]:
            reference = parse_reference(name)
            engine.image_tag(names[0], reference.familiar(), reference.tag)
    for name in names:
        world.console.info(f"Image built as {name}")
    if options.quiet:
        world.console.result(f"{image}\n".encode())
    return 0


FIRST_MODEL = {  # what `init` makes, by file name
    "cog.yaml": """\
# How this model is built. Every key: https://github.com/replicate/cog/blob/main/docs/yaml.md

build:
  python_version: "3.13"

  # The packages that pip installs
  python_requirements: requirements.txt

  # The packages that apt installs
  # system_packages:
  #   - ffmpeg

  # Commands that end the build, such as those that fetch weights
  # run:
  #   - curl -fsSL -o /weights.bin https://example.com/weights.bin

  # Whether it wants a GPU
  # gpu: true

# The class that makes predictions
run: "run.py:Runner"
""",
    "run.py": """\
from cog import BaseRunner, Input


class Runner(BaseRunner):
    def setup(self) -> None:
        \"\"\"Get ready, once: load the weights here.\"\"\"
        self.greeting = "hello"

    def run(
        self,
        name: str = Input(description="Whom to greet", default="world"),
        times: int = Input(description="How often", default=1, ge=1, le=10),
    ) -> str:
        \"\"\"Make one prediction.\"\"\"
        return " ".join([f"{self.greeting} {name}"] * times)
""",
    "requirements.txt": """\
# What pip installs for the model, one requirement a line, such as:
# numpy==2.3.1
""",
    ".dockerignore": """\
# What stays out of the image
.git
.venv
venv
**/__pycache__
**/*.pyc
**/.pytest_cache
**/.mypy_cache
**/.DS_Store
""",
}


def cmd_init(options: Options, world: World) -> int:
    """Make the files of a first model that the current folder lacks; return 0. Raises OutputError."""
    del options
    world.console.info("Setting up the current directory for use with Cog...")
    first = "cog.pyz predict -i name=you"
    for name, text in FIRST_MODEL.items():
        path = os.path.join(world.cwd, name)
        if os.path.lexists(path):
            world.console.info(f"Skipped existing {name}")
            first = "cog.pyz inspect"
        else:
            write_whole(path, text.encode())
            world.console.info(f"Creating {name}")
    world.console.info(f"Try it: {first}")
    return 0


def inspect_source(options: Options, world: World) -> JSON:
    """What we make of the model in this folder, without any engine. Raises CogError."""
    model = read_model_source(options, read_project(options, world), world)
    config, document = settle_model(model, world, asked=False)
    settings = read_settings(config, options, world)
    return {
        "image": None, "schema": document, "config": config_json(config), "base_image": base_image(config, settings),
        "system_packages": apt_packages(config, settings), "requirements": list(config.requirements),
        "runtime": list(runtime_requirements(config, settings)), "run": [run_step_json(step) for step in config.run],
        "environment": dict(config.environment), "pip_freeze": None,
    }


def inspect_image(options: Options, world: World) -> JSON:
    """What the labels of an image say; null stands for what they do not. Raises CogError."""
    with open_engine(options, world) as engine:
        name, image = open_image(engine, options, world)
    config = model_label(name, image)
    labels, build = image["Config"]["Labels"], config.get("build") or {}
    freeze = labels.get("run.cog.pip_freeze")
    return {
        "image": name, "schema": image_document(image), "config": config,
        "base_image": labels.get("run.cog.cog-base-image-name"), "system_packages": build.get("system_packages") or [],
        "requirements": build.get("python_packages") or (None if build.get("python_requirements") else []),
        "runtime": None, "run": build.get("run") or [],
        "environment": dict(str(entry).partition("=")[::2] for entry in config.get("environment") or ()),
        "pip_freeze": None if freeze is None else freeze.splitlines(),
    }


def inspect_url(options: Options, world: World) -> JSON:
    """What a model that runs already says of itself; null stands for what it does not. Raises CogError."""
    import contextlib

    with contextlib.closing(make_url_host(options, world)) as host:
        document = read_document(host)
    keys = ("image", "config", "base_image", "system_packages", "requirements", "runtime", "run", "environment",
            "pip_freeze")
    return {"url": str(host.endpoint), "schema": document, **dict.fromkeys(keys)}


def cmd_inspect(options: Options, world: World) -> int:
    """Show the inputs and output of an image, of the model in this folder, or of one that runs; return 0."""
    if options.url:
        found = inspect_url(options, world)
    else:
        found = inspect_image(options, world) if options.image else inspect_source(options, world)
    if options.as_json:
        world.console.result(render_json(found))
        return 0
    if found["schema"] is None:
        if options.url:
            raise UsageError(f"{options.url} offers no schema of a model at /openapi.json")
        raise UsageError(f"{options.image} has no label with a schema", hint="--json shows what its labels say")
    world.console.result(render_signature(found["schema"]).encode())
    return 0


COMMANDS: dict[str, Callable[[Options, World], int]] = {
    "predict": cmd_predict, "run": cmd_predict, "train": cmd_predict, "serve": cmd_serve, "build": cmd_build,
    "debug": cmd_debug, "init": cmd_init, "inspect": cmd_inspect, "exec": cmd_exec,
}


def die_by(number: int) -> int:
    """End this process by the signal itself, so that a shell sees what happened; never returns a success."""
    import signal

    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


def hold_descriptors() -> None:
    """Open what stands for stdin, stdout and stderr where the caller closed one, so that no socket of ours does.

    Reading gives nothing; what is written to stdout is an error, as it would be without this.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)


def catch_signals(loop: Loop) -> None:
    """From now on SIGINT, SIGTERM and SIGHUP raise Interrupted, where nothing in the loop is half done.

    Python drops what is raised inside a finalizer or its own bookkeeping of imports: it is raised again a moment later.
    """
    import signal

    def find(dropped: Any) -> None:
        if isinstance(dropped.exc_value, Interrupted):
            loop.interrupt(dropped.exc_value, now=False)
            signal.signal(signal.SIGALRM, lambda number, frame: loop.resume())
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            sys.__unraisablehook__(dropped)

    sys.unraisablehook = find

    def interrupt(number: int, frame: Any) -> None:
        del frame
        if loop.is_stuck:  # such as in a write that nobody reads; what runs is ended as after a kill -9
            die_by(number)
        loop.interrupt(Interrupted(number))

    set_signals(interrupt)


def set_signals(handler: Any) -> None:
    """What SIGINT, SIGTERM and SIGHUP do from now on, unless they were to be ignored from the start, as by nohup."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def run_command(options: Options, console: Console) -> int:
    """Run one command in the real world. Raises CogError."""
    import signal

    try:
        cwd = os.getcwd()
    except OSError as error:
        raise UsageError(f"the current folder cannot be used: {error.strerror}", hint="cd into another one") from error
    stdin = sys.stdin.buffer if sys.stdin else open(os.devnull, "rb")  # noqa: SIM115
    loop = Loop()
    catch_signals(loop)
    world = World(console, os.environ, cwd, os.path.expanduser("~"), stdin, loop)
    try:
        return COMMANDS[options.command](options, world)
    finally:
        set_signals(signal.SIG_DFL)  # nothing is left to clean up


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code. The only place that prints a CogError."""
    arguments = sys.argv[1:] if argv is None else argv
    hold_descriptors()
    console = Console(os.environ)
    debug = "--debug" in arguments
    if arguments[:1] == ["--version"]:
        console.result(f"cog.pyz {__version__}\n".encode())
        return 0
    import signal

    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing has begun
    try:
        if not split_command(arguments)[0]:
            console.result(usage_text().encode())
            return 0
        options = parse_argv(arguments)
        console = Console(os.environ, progress=options.progress or os.environ.get("BUILDKIT_PROGRESS", "auto"),
                          quiet=options.quiet, debug=options.debug, color=not options.no_color)
        return run_command(options, console)
    except Interrupted as interruption:
        console.done()
        return die_by(interruption.signal_number)
    except BrokenPipeError:
        return die_by(signal.SIGPIPE)
    except CogError as error:
        console.error(error)
        return error.exit_code
    except Exception as bug:
        console.error(CogError(f"a bug in cog.pyz: {type(bug).__name__}: {bug}",
                               hint="please report it with what --debug prints"))
        if debug:
            import traceback

            console.debug(traceback.format_exc())
        return 70


if __name__ == "__main__":
    sys.exit(main())
