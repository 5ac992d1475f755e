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
from typing import (
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
)

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
# In: `-i` pairs or the text of --json, and the OpenAPI document of a model. Out: the prediction's input, with a
# LocalFile wherever the model gets a file. Only a Reader touches the disk, and only once the names are known to be
# right. Every fault is found in one go: the user gets one list, in the words that the field uses.

TEXT_LIMIT = 100 << 20  # bytes of a file that is read as text
BASE64_SLICE = 48 << 10  # bytes that are encoded at a time; a multiple of three
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

    def _full(self, path: str) -> str:
        if path == "~" or path.startswith("~/"):
            path = self._home + path[1:]
        return os.path.join(self._cwd, os.path.expanduser(path))

    def file(self, path: str) -> LocalFile:
        """The file, checked to be readable, its size known."""
        import stat

        if path == "-":
            return self._spool(self._stdin, "stdin")
        full = self._full(path)
        with open(full, "rb") as source:
            status = os.fstat(source.fileno())
            if not stat.S_ISREG(status.st_mode):
                return self._spool(source, os.path.basename(full))
        name = os.path.basename(full)
        return LocalFile(name, path, status.st_size, mime_of(name), lambda: open(full, "rb"))

    def text(self, path: str) -> bytes:
        """What the file holds, if that is no more than TEXT_LIMIT."""
        if path == "-":
            data = self._stdin.read(TEXT_LIMIT + 1)
        else:
            with open(self._full(path), "rb") as source:
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
    """The data URL of a file, piece by piece. Raises InputError: it cannot be read any more."""
    from binascii import b2a_base64

    yield f"data:{file.mime};base64,".encode()
    try:
        with file.open() as source:
            while True:
                data = source.read(BASE64_SLICE)
                if not data:
                    return
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

    if is_file(fragment) and "://" not in value and not value.startswith("data:"):
        yield Fault(f'invalid input "{name}": "{value[:100]}" is not a URL; a file is given as @PATH',
                    hint=f"-i {name.partition('.')[0]}=@{value[:100]}")
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
    unknown = [name for name in names if schema is not None and name not in schema.properties]
    if not unknown or schema is None:
        return []
    import difflib

    known = sorted(schema.properties)
    pairs = [(name, difflib.get_close_matches(name, known, 1)) for name in unknown]
    text = "unknown input" + "s" * (len(unknown) > 1) + " " + ", ".join(f'"{name}"' for name in unknown)
    text += f"; valid inputs are: {', '.join(known)}" if known else "; model does not accept inputs"
    return [Fault(text, "; ".join(f'did you mean "{close[0]}" for "{name}"?' for name, close in pairs if close))]


def find_value_faults(values: JSON, schema: InputSchema | None, skipped: Collection[str] = ()) -> list[Fault]:
    """What the schema has against the inputs that it knows, in its order, and what is missing."""
    faults: list[Fault] = []
    for name, fragment in schema.properties.items() if schema is not None else ():
        if name in skipped or schema is None:
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
        return json.loads(text, parse_constant=refuse, parse_float=finite_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


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
        if self._schema is None:
            return {}
        return self._schema.properties.get(name)

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
            return [self._with_files(name, item, array_items(fragment)) for item in value]
        if isinstance(value, dict):
            return {key: self._with_files(name, item, property_of(fragment, key)) for key, item in value.items()}
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
            raise_faults(self._faults + find_value_faults(values, self._schema, self._skipped))
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


def describe_inputs(values: JSON, schema: InputSchema | None) -> JSON:
    """The inputs as they may be shown: files by name and size, secrets not at all."""
    def describe(file: LocalFile) -> str:
        return f"<{file.path or file.name}, {file.mime}, {file.size} bytes>"

    secret = {name for name, fragment in schema.properties.items() if is_secret(fragment)} if schema else set()
    return {name: "***" if name in secret else render_inputs(value, describe) for name, value in values.items()}


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
        except (ValueError, RecursionError) as error:
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
        backslashes = 0  # an odd number: the quote is escaped, this is inside a string
        while self._skeleton[-1 - backslashes:][:1] == b"\\" and backslashes < len(self._skeleton):
            backslashes += 1
        head = None if backslashes & 1 else self._head_form.match(buffer, start, start + DATA_HEAD)
        if head:
            self._head, self._position, self._size = head[0], head.end(), 0
            self._mime = head[1].replace(b"\\/", b"/").decode("utf-8", "replace")
            self._file = self._open_file(self._mime)
        elif not ended and not backslashes & 1 and len(buffer) - start < DATA_HEAD and buffer.find(b'"', start + 1) < 0:
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
