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

import os
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
        self._held = b""  # an unfinished log line (elsewhere than on a terminal), or a cut escape sequence
        self._column = False  # the model left the terminal's cursor in the middle of a line
        self._drawn = 0  # lines of the live region on the screen
        self._phase, self._status, self._begun, self._redraw = "", "", 0.0, 0.0

    @staticmethod
    def _is_terminal(descriptor: int) -> bool:
        try:
            return os.isatty(descriptor)
        except OSError:
            return False

    def info(self, text: str) -> None:
        """Show one of our own lines, unless --quiet."""
        if not self._quiet:
            self._line(text)

    def warn(self, text: str) -> None:
        """Show a warning, unless --quiet."""
        if not self._quiet:
            self._line(self._paint("33", "warning: ") + text)

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
            self._line(text)

    def status(self, text: str) -> None:
        """Set what the live line says behind its phase."""
        self._status = text
        self.tick()

    def tick(self) -> None:
        """Draw the live line again if it is due."""
        now = time.monotonic()
        if self.live and self._phase and not self._column and now >= self._redraw:
            self._redraw = now + REDRAW
            detail = f"  {self._status}" if self._status else ""
            self._draw([f"{self._phase} {now - self._begun:.1f}s{detail}"])

    def region(self, lines: list[str]) -> None:
        """Replace the live region by these lines; none wipes it. Terminals only."""
        if self.live and not self._column:
            self._draw(lines)

    def done(self) -> None:
        """End the phase: the live line disappears, an unfinished log line is finished."""
        self._phase = ""
        self._wipe()
        if self._held or self._column:
            self._write(self._err, self._sanitise(collapse_returns(self._held.rstrip(b"\r"))) + b"\n")
            self._held, self._column = b"", False

    def log(self, data: bytes) -> None:
        """Show the model's own output as it comes."""
        self._wipe()
        if self._err_tty:
            data = self._uncut(data)
            self._column = (data[-1:] != b"\n") if data else self._column
            self._write(self._err, strip_controls(data))
        else:
            whole = len(data) if len(self._held) > PARTIAL_LINE else data.rfind(b"\n") + 1
            if whole:
                self._write(self._err, collapse_returns(self._held + data[:whole]))
                self._held = b""
            self._held += data[whole:]
        self._redraw = 0.0

    def result(self, data: bytes) -> None:
        """Write bytes of the result to stdout, at once. Raises OutputError, BrokenPipeError."""
        self._wipe()
        try:
            self._write_all(self._out, strip_controls(data) if self._out_tty else data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"the result could not be written to stdout: {error.strerror}") from error

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._color else text

    def _sanitise(self, data: bytes) -> bytes:
        return strip_controls(data) if self._err_tty else data

    def _line(self, text: str) -> None:
        self._wipe()
        newline = b"\n" if self._column else b""
        self._column = False
        self._write(self._err, newline + self._sanitise(text.encode("utf-8", "replace")) + b"\n")
        self._redraw = 0.0

    def _uncut(self, data: bytes) -> bytes:
        """The data without an escape sequence that is cut at its end; that waits for the rest."""
        data, self._held = self._held + data, b""
        escape = data.rfind(b"\x1b", max(0, len(data) - 24))
        if escape >= 0 and not data[escape + 2:].strip(b"0123456789;") and data[escape + 1:escape + 2] in (b"", b"["):
            data, self._held = data[:escape], data[escape:]
        return data

    def _draw(self, lines: list[str]) -> None:
        import shutil

        width = max(20, shutil.get_terminal_size().columns) - 1
        self._wipe()
        shown = [strip_controls(line.encode("utf-8", "replace").replace(b"\r", b"")) for line in lines]
        text = b"\n".join(line.decode("utf-8", "ignore")[:width].encode("utf-8") for line in shown)
        if text:
            self._write(self._err, text)
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


class World(NamedTuple):
    """Everything with an effect that a command may touch. Tests hand in their own."""

    console: Console
    environ: Mapping[str, str]
    cwd: str
    stdin: BinaryIO
    clock: Callable[[], float] = time.monotonic


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
    progress: str = "auto"
    debug: bool = False
    no_color: bool = False
    quiet: bool = False


def parse_seconds(text: str) -> float:
    """Seconds, 0 or more.

    >>> parse_seconds("1.5")
    1.5
    """
    seconds = float(text)
    if not 0 <= seconds < 1e9:
        raise ValueError(text)
    return seconds


def parse_size(text: str) -> int:
    """A number of bytes, written as docker writes it.

    >>> parse_size("64m"), parse_size("1.5g"), parse_size("1024")
    (67108864, 1610612736, 1024)
    """
    digits = text.lower().rstrip("b").rstrip("i")
    power = " kmgt".find(digits[-1:]) if digits[-1:] in "kmgt" and digits[-1:] else 0
    size = int(float(digits[:-1] if power else digits) * 1024 ** power)
    if size < 0:
        raise ValueError(text)
    return size


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


# flags, metavar, kind (flag, text, list, seconds, size, or a tuple of choices), help
FLAGS: dict[str, tuple[str, str, Any, str]] = {
    "inputs": ("-i --input", "NAME=VALUE", "list", "an input; @FILE reads a file, repeats make a list"),
    "json": ("--json", "JSON", "text", "all inputs as a JSON object: text, @FILE, or - for stdin"),
    "output": ("-o --output", "PATH", "text", "where the result is saved; - is stdout"),
    "env": ("-e --env", "NAME[=VALUE]", "list", "an environment variable for the model"),
    "env_file": ("--env-file", "FILE", "list", "environment variables, one NAME=VALUE a line"),
    "file": ("-f --file", "FILE", "text", "the config file (default cog.yaml)"),
    "gpus": ("--gpus", "GPUS", "text", "GPUs as docker run takes them: all, 2, 'device=0,1', CDI names"),
    "cpu": ("--cpu", "", "flag", "use no GPU, whatever the model asks for"),
    "setup_timeout": ("--setup-timeout", "SECONDS", "seconds", "limit for the model's setup (default 300, 0: none)"),
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
    "progress": ("--progress", "MODE", ("auto", "tty", "plain", "quiet"), "how progress is shown (default auto)"),
    "debug": ("--debug", "", "flag", "show each call to the engine and the model"),
    "no_color": ("--no-color", "", "flag", "no colours"),
    "quiet": ("-q --quiet", "", "flag", "none of our own lines but errors"),
}

PREDICT_ABOUT = "Run a prediction on a Cog model: IMAGE, or a tar made by docker save (- for stdin)."

COMMAND_FLAGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "predict": (PREDICT_ABOUT, tuple(FLAGS)),
    "run": (PREDICT_ABOUT, tuple(FLAGS)),
}

ELSEWHERE = {  # commands of the field that are not here, and what does the job today
    "push": "docker push", "login": "docker login", "doctor": "cog doctor", "playground": "cog playground",
    "weights": "cog weights",
}
NICKNAMES = {"http": "serve", "infer": "predict", "new": "init", "start": "init"}


def usage_text() -> str:
    """What `cog.pyz` and `cog.pyz --help` print."""
    lines = ["usage: cog.pyz COMMAND [flags]", "", "commands:"]
    lines += [f"  {name:<10} {about}" for name, (about, _) in COMMAND_FLAGS.items()]
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
    if argument in ELSEWHERE:
        raise UsageError(f"'{argument}' is not there yet", hint=f"use `{ELSEWHERE[argument]}`")
    if argument not in COMMAND_FLAGS:
        import difflib

        close = NICKNAMES.get(argument) or "".join(difflib.get_close_matches(argument, COMMAND_FLAGS, 1))
        known = close if close in COMMAND_FLAGS else ""
        raise UsageError(f'unknown command "{argument}" for "cog.pyz"',
                         hint=f"did you mean `{known}`?" if known else "cog.pyz --help lists the commands")
    return argument, rest


def flag_parser(command: str) -> Any:
    """The argparse parser of one command, made from FLAGS. Its errors are UsageErrors."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise UsageError(message, hint=f"cog.pyz {command} --help")

    about, names = COMMAND_FLAGS[command]
    parser = Parser(prog=f"cog.pyz {command}", description=about, allow_abbrev=False)
    parser.add_argument("image", nargs="*", metavar="IMAGE", help="an image, pulled when absent")
    for name in names:
        flags, metavar, kind, about = FLAGS[name]
        how: dict[str, Any] = {"dest": name, "help": about, "default": None}
        if kind == "flag":
            how["action"] = "store_true"
        elif kind == "list":
            how.update(action="append", metavar=metavar)
        else:
            how.update(metavar=metavar, choices=kind if isinstance(kind, tuple) else None,
                       type={"seconds": parse_seconds, "size": parse_size}.get(kind, str) if kind else str)
        parser.add_argument(*flags.split(), **how)
    return parser


def parse_argv(argv: list[str]) -> Options:
    """Options of a command line. Raises UsageError; `--help` prints and raises SystemExit."""
    command, rest = split_command(argv)
    raw = vars(flag_parser(command).parse_intermixed_args(rest))
    images = raw.pop("image")
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                             for name, value in raw.items() if value is not None}
    given["inputs"] = tuple(split_input(pair) for pair in given.get("inputs", ()))
    if images and "=" in images[0] and not images[0].startswith((".", "/")):
        raise UsageError(f"Invalid image name '{images[0]}'. Did you forget `-i`?",
                         hint=f"cog.pyz {command} -i {images[0]}")
    if len(images) > 1:
        raise UsageError(f"one IMAGE at most, got {', '.join(images)}", hint=f"cog.pyz {command} --help")
    return check_options(Options(command=command, image="".join(images), **given))


def check_options(options: Options) -> Options:
    """The same options, when their flags go together. Raises UsageError."""
    if options.json is not None and options.inputs:
        raise UsageError("Must use one of --json or --input to provide model inputs")
    if options.cpu and options.gpus:
        raise UsageError("--cpu and --gpus exclude each other")
    readers = [name for name, reads in (
        ("IMAGE -", options.image == "-"), ("--json -", options.json in ("-", "@-")),
        *((f"-i {name}=@-", value == "@-") for name, value in options.inputs)) if reads]
    if len(readers) > 1:
        raise UsageError(f"stdin can be read only once, not by {' and '.join(readers)}")
    return options


# == 4. Config ================================================================


# == 5. Schema ================================================================


# == 6. Inputs ================================================================


# == 7. Dockerfile ============================================================


# == 8. Context ===============================================================


# == 9. Plan ==================================================================
# In: Options, the image's inspect document, what the engine is. Out: the body of the create call and what
# the host must know beside it. Pure: ports and names are chosen by the caller and handed in.

MODEL_PORT = 5000  # where a model listens in a network of its own
RUN_LABEL = "cog.pyz.run"  # the label of every container of ours; its value is the run's name
SERVER = ["-m", "cog.server.http"]


class Ports(NamedTuple):
    """TCP ports inside the model's network namespace."""

    model: int
    lane: int


class Plan(NamedTuple):
    """What will be run: everything that the container host needs, and nothing that it must decide."""

    name: str  # of the container, and of the run
    image: str
    body: JSON  # of POST /containers/create
    ports: Ports
    interpreters: tuple[str, ...]  # for the helper, the likeliest first
    uploads: bool  # the server was given --upload-url
    gpus_by_label: bool  # GPUs were asked for by the model's label only: go on without, if need be
    platform: str


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
    if not (count in ("", "all") or count.isdigit()) or (count and devices) or not (count or devices or driver):
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
    lines = [line for path in options.env_file for line in read(path).splitlines()
             if line.strip() and not line.lstrip().startswith("#")]
    for line in [*lines, *options.env]:
        name, equals, value = line.strip().partition("=") if line in lines else line.partition("=")
        if not name or " " in name:
            raise UsageError(f"-e {line.partition('=')[0]!r} is not NAME=VALUE", hint="for example: -e TOKEN=abc")
        if equals:
            variables[name] = value
        elif name in environ:
            variables[name] = environ[name]
    return variables


def server_environment(image: Mapping[str, str], user: Mapping[str, str], environ: Mapping[str, str], port: int,
                       *, debug: bool) -> dict[str, str]:
    """The container's variables: the user's, what the server reads, and 127.0.0.1 kept off every proxy.

    >>> made = server_environment({"NO_PROXY": "corp"}, {"A": "1"}, {}, 5000, debug=False)
    >>> made["A"], made["NO_PROXY"], made["PORT"]
    ('1', 'corp,127.0.0.1,localhost', '5000')
    """
    variables = {"LOG_FORMAT": "console", "COG_LOG_LEVEL": "debug" if debug else "warning", "COG_MAX_CONCURRENCY": "1"}
    if "RUST_LOG" in environ:
        variables["RUST_LOG"] = environ["RUST_LOG"]
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


def model_command(config: JSON) -> list[str]:
    """The whole command of an image's Config: entrypoint and Cmd."""
    return list(config.get("Entrypoint") or []) + list(config.get("Cmd") or [])


def helper_interpreters(config: JSON) -> tuple[str, ...]:
    """Pythons to try for the helper: the one that the image's command names, then the usual names.

    >>> helper_interpreters({"Cmd": ["/opt/env/bin/python3.9", "-m", "cog.server.http"]})
    ('/opt/env/bin/python3.9', 'python', 'python3')
    """
    named = [word for word in model_command(config) if os.path.basename(word).startswith("python")]
    return tuple(dict.fromkeys([*named[:1], "python", "python3"]))


def takes_uploads(config: JSON) -> bool:
    """Whether the image's Cmd ends in `-m cog.server.http`, so that --upload-url can be appended."""
    return (config.get("Cmd") or [])[-2:] == SERVER


def model_label(config: JSON) -> JSON:
    """The image's run.cog.config label as an object. Raises UsageError: not a Cog model."""
    import json

    labels = config.get("Labels") or {}
    text = labels.get("run.cog.config") or labels.get("org.cogmodel.config")
    if not text:
        raise UsageError("image is not a Cog model: it has no label run.cog.config",
                         hint="name an image that was built by `cog build` or cog.pyz")
    try:
        label = json.loads(text)
    except ValueError:
        return {}
    return label if isinstance(label, dict) else {}


def shares_network(network: str) -> bool:
    """Whether the container shares a network namespace, so that fixed ports may be taken.

    >>> shares_network("host"), shares_network("container:abc"), shares_network("none")
    (True, True, False)
    """
    return network == "host" or network.startswith("container:")


def plan_container(options: Options, image: JSON, *, name: str, token: str, ports: Ports, variables: Mapping[str, str],
                   environ: Mapping[str, str], cwd: str, podman: bool) -> Plan:
    """What will be run for one prediction on an image.

    `image` is its inspect document, `token` the lane's secret, `variables` the user's for the model.
    Raises UsageError: no Cog model, a bad --gpus or -v.
    """
    config = image.get("Config") or {}
    label = model_label(config)
    by_label = not options.gpus and not options.cpu and bool((label.get("build") or {}).get("gpu"))
    inherited = dict(entry.partition("=")[::2] for entry in config.get("Env") or [])
    env = server_environment(inherited, variables, environ, ports.model, debug=options.debug)
    uploads = takes_uploads(config)
    body: JSON = {
        "Image": image.get("Id") or options.image,
        "Env": [f"{key}={value}" for key, value in env.items()],
        "Labels": {RUN_LABEL: name},
        "HostConfig": {
            "AutoRemove": True,
            "Init": True,
            "ShmSize": options.shm_size,
            "Binds": [parse_volume(volume, cwd) for volume in options.volume],
            "DeviceRequests": parse_gpus("all" if by_label else options.gpus, cdi=podman),
        },
    }
    if uploads:
        body["Cmd"] = [*config["Cmd"], "--upload-url", f"http://127.0.0.1:{ports.lane}/{token}/up"]
    if options.user:
        body["User"] = options.user
    if options.network:
        body["HostConfig"]["NetworkMode"] = options.network
    return Plan(name, options.image, body, ports, helper_interpreters(config), uploads, by_label, options.platform)


def render_plan(plan: Plan, engine: str, variables: Mapping[str, str], values: JSON) -> str:
    """What --dry-run prints: a JSON object with the values of the user's variables left out."""
    import json

    shown = [entry if entry.partition("=")[0] not in variables else entry.partition("=")[0] + "=***"
             for entry in plan.body["Env"]]
    token = "".join(word.split("/")[3] for word in plan.body.get("Cmd", []) if word.startswith("http://127.0.0.1"))
    command = [word.replace(token, "***") if token else word for word in plan.body.get("Cmd", [])]
    body = {**plan.body, "Env": shown, **({"Cmd": command} if command else {})}
    document = {"engine": engine, "image": plan.image, "container": body, "input": values}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


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
