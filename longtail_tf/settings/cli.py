"""How every entry point starts: parse flags, run, and turn bad input into a sentence.

    def main() -> None:
        cli.launch(run, TrainConfig, __doc__)

Exit codes: 0 done, 2 bad input or settings (one sentence on stderr), 1 a defect (traceback).
"""

from __future__ import annotations

import dataclasses
import difflib
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

BAD_INPUT_EXIT_CODE = 2
INTERRUPT_EXIT_CODE = 130


def launch(
    run: Callable[[Any], Any],
    settings_class: type,
    description: Optional[str],
    *,
    positional: Optional[str] = None,
    complete: Optional[Callable[[dict[str, Any]], dict[str, Any]]] = None,
    argv: Optional[Sequence[str]] = None,
) -> None:
    """Parses the command line into `settings_class` and calls `run` with it.

    Args:
      run: the entry point's story; its return value is not used here.
      settings_class: frozen dataclass of `settings.setting` fields.
      description: the entry module's docstring, printed above the flags by `--help`.
      positional: name of the field that takes positional arguments (files to classify, ...).
      complete: given settings by name -> those and others, before they are checked together.
      argv: the command line, `sys.argv` when None.

    Raises:
      SystemExit: with code 2 after one sentence on stderr when the input is bad; with code 0 after
        `--help`.
    """
    program, *arguments = sys.argv if argv is None else argv
    program = os.path.splitext(os.path.basename(program))[0]
    # TensorFlow reads this when it is first imported, which is after this line: its start-up lines
    # about CPU features and absent GPUs are not for the user. Errors come back as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    quiet.quiet_import()
    try:
        if any(argument in ("--help", "-h", "-help", "--helpfull") for argument in arguments):
            print(help_text(settings_class, description, positional=positional))
            return
        values = parse_values(settings_class, arguments, positional=positional)
        settings = settings_class(**(complete(values) if complete else values))
        _log_plainly()
        run(settings)
    except (UserError, absl_flags.Error) as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT_EXIT_CODE)
    except BrokenPipeError:  # the reader has seen enough: `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or exit would flush again
    except KeyboardInterrupt:
        print(f"{program}: stopped by the keyboard.", file=sys.stderr)
        sys.exit(INTERRUPT_EXIT_CODE)


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
      absl.flags.Error: a value of the wrong type, or a flagfile that cannot be read.
    """
    flag_values = absl_flags.FlagValues()
    flags.define_flags(settings_class, flag_values, positional=positional)
    try:
        rest = flag_values(["program", *_flagfiles_first(arguments)])[1:]
    except absl_flags.UnrecognizedFlagError as error:
        names = [field.name for field in dataclasses.fields(settings_class)]
        near = difflib.get_close_matches(error.flagname, names, n=1)
        hint = f"did you mean --{near[0]}?" if near else "--help lists every flag."
        raise UserError(f"there is no flag --{error.flagname}: {hint}") from error
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


def _flagfiles_first(arguments: Sequence[str]) -> list[str]:
    """Moves flagfiles before the other arguments: absl lets the later value win."""
    files, others = [], []
    remaining = iter(arguments)
    for argument in remaining:
        if argument in ("--flagfile", "-flagfile"):
            files.append(f"--flagfile={next(remaining, '')}")
        elif argument.startswith(("--flagfile=", "-flagfile=")):
            files.append(argument)
        else:
            others.append(argument)
    return files + others


def _log_plainly() -> None:
    """absl log lines without the glog prefix: they are written for the user."""
    absl_flags.FLAGS.mark_as_parsed()  # absl's own flags; or it warns at the first line
    logging.use_absl_handler()
    logging.get_absl_handler().setFormatter(python_logging.Formatter("%(message)s"))
    logging.set_verbosity(logging.INFO)
