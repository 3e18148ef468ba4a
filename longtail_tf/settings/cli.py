"""How every entry point starts: parse flags, run, and turn bad input into a sentence.

    def main() -> None:
        cli.launch(run, TrainConfig, __doc__)

Exit codes: 0 done; 2 bad input, settings or machine (one sentence on stderr); 1 a defect
(traceback); 128 + N ended early by signal N: 130 by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging as python_logging
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Optional

from absl import flags as absl_flags
from absl import logging

from longtail_tf.compat import quiet
from longtail_tf.errors import UserError
from longtail_tf.settings import flags
from longtail_tf.settings.flagfiles import expanded, unknown_flag
from longtail_tf.settings.retired import RETIRED
from longtail_tf.settings.terminal import plain, plain_name

BAD_INPUT_EXIT_CODE = 2
INTERRUPT_EXIT_CODE = 130
_LONGEST_SENTENCE = 4000
_REMEDIES = {
    errno.ENOSPC: "free some space on that disk and give the same command again",
    errno.EDQUOT: "free some of your quota and give the same command again",
    errno.EFBIG: "name a smaller file, or raise the limit on file sizes (ulimit -f)",
    errno.EACCES: "look at its permissions and those of the folders above, or name another",
    errno.EPERM: "look at its permissions and those of the folders above, or name another",
    errno.EROFS: "name a place that is not read-only",
    errno.ENOENT: "check the path",
    errno.ENXIO: "name a file, or a pipe that somebody reads",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}
_LESS = "use a machine with more, or ask for less: smaller batches, images or files."


def launch(
    run: Callable[[Any], Any],
    settings_class: type,
    description: Optional[str],
    *,
    positional: Optional[str] = None,
    complete: Optional[Callable[[dict[str, Any]], dict[str, Any]]] = None,
    argv: Optional[Sequence[str]] = None,
) -> Any:
    """Parses the command line into `settings_class` and calls `run` with it.

    Args:
      run: the entry point's story.
      settings_class: frozen dataclass of `settings.setting` fields.
      description: the entry module's docstring, printed above the flags by `--help`.
      positional: name of the field that takes positional arguments (files to classify, ...).
      complete: given settings by name -> those and others, before they are checked together.
      argv: the command line, `sys.argv` when None.

    Returns:
      What `run` returns; None after `--help`.

    Raises:
      SystemExit: with code 2 after one sentence on stderr when the input is bad, or the machine
        refuses: a full disk, a missing permission, too little memory.
    """
    program, *arguments = sys.argv if argv is None else argv
    program = os.path.splitext(os.path.basename(program))[0]
    # TensorFlow reads this when it is first imported, which is after this line: its start-up lines
    # about CPU features and absent GPUs are not for the user. Errors come back as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    quiet.quiet_import()
    _write_anything()
    try:
        if any(argument in ("--help", "-h", "-help", "--helpfull") for argument in arguments):
            print(help_text(settings_class, description, positional=positional), flush=True)
            return None
        values = parse_values(settings_class, arguments, positional=positional)
        settings = settings_class(**(complete(values) if complete else values))
        _log_plainly()
        result = run(settings)
        sys.stdout.flush()  # here, so that a full disk is told like any other
        return result
    except (UserError, absl_flags.Error) as error:
        _stop(program, str(error))
    except BrokenPipeError:  # the reader has seen enough: `... | head`
        _forget_output()
    except OSError as error:
        _stop(program, system_sentence(error))
    except MemoryError as error:
        _stop(program, f"there is not enough memory ({error or 'an allocation failed'}): {_LESS}")
    except KeyboardInterrupt:
        _stop(program, "stopped by the keyboard.", code=INTERRUPT_EXIT_CODE)
    return None


def system_sentence(error: OSError) -> str:
    """What the system refused, with the path, and what to do about it."""
    reason = error.strerror or str(error) or type(error).__name__
    if isinstance(error.filename, (str, bytes)) and error.filename:
        reason = f"{plain_name(os.fsdecode(error.filename))}: {reason}"
    return f"{reason}; {_REMEDIES.get(error.errno or 0, 'name another')}."


def _stop(program: str, sentence: str, *, code: int = BAD_INPUT_EXIT_CODE) -> None:
    """Ends the process after one sentence on stderr."""
    if len(sentence) > _LONGEST_SENTENCE:
        half = _LONGEST_SENTENCE // 2
        sentence = f"{sentence[:half]} ... {sentence[-half:]}"
    with contextlib.suppress(OSError):  # stderr itself may be on the full disk
        print(f"{program}: {plain(sentence)}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.exit(code)
    _forget_output()
    sys.exit(code)


def _forget_output() -> None:
    """Lets the process end although what it printed last cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write_anything() -> None:
    """Makes standard output and error take any name, escaped where the locale lacks a letter."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # a stand-in, as tests have
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def parse(
    settings_class: type, arguments: Sequence[str], *, positional: Optional[str] = None
) -> Any:
    """Settings from command-line arguments, as `parse_values` reads them."""
    return settings_class(**parse_values(settings_class, arguments, positional=positional))


def parse_values(
    settings_class: type, arguments: Sequence[str], *, positional: Optional[str] = None
) -> dict[str, Any]:
    """The settings that are given, by name; what stands on the line beats every flagfile.

    Raises:
      UserError: an unknown flag (with the nearest name), or stray positional arguments.
      absl.flags.Error: a value of the wrong type.
      OSError: a flagfile that cannot be read.
    """
    flag_values = absl_flags.FlagValues()
    flags.define_flags(settings_class, flag_values, positional=positional)
    names = [field.name for field in dataclasses.fields(settings_class) if field.name != positional]
    try:
        known = [*names, *(name for name in RETIRED if name not in names)]
        rest = flag_values(["program", *expanded(arguments, known)])[1:]
    except absl_flags.UnrecognizedFlagError as error:
        raise UserError(unknown_flag(error.flagname, names)) from error
    return flags.given_values(settings_class, flag_values, positional=positional, arguments=rest)


def help_text(
    settings_class: type, description: Optional[str], *, positional: Optional[str] = None
) -> str:
    """Every flag with its default, unit, choices and help."""
    lines = [(description or "").strip(), "", "flags (--flagfile=FILE reads them from a file):"]
    for field in dataclasses.fields(settings_class):
        if field.name == positional:
            continue
        default, unit = field.default, field.metadata["unit"]
        if isinstance(default, bool):
            default = str(default).lower()
        shown = "not set" if default is None or default == "" else f"{default}"
        if unit:
            shown += f" {unit}" if shown != "not set" else f", {unit}"
        lines.append(f"  --{field.name}  ({shown})")
        text = field.metadata["help"]
        if field.metadata["choices"]:
            text += " One of: " + ", ".join(field.metadata["choices"]) + "."
        lines += textwrap.wrap(text, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _log_plainly() -> None:
    """absl log lines without the glog prefix: they are written for the user."""
    absl_flags.FLAGS.mark_as_parsed()  # absl's own flags; or it warns at the first line
    logging.use_absl_handler()
    logging.get_absl_handler().setFormatter(_Plain("%(message)s"))
    logging.set_verbosity(logging.INFO)


class _Plain(python_logging.Formatter):
    def format(self, record: python_logging.LogRecord) -> str:
        return plain(super().format(record))
