"""`longtail COMMAND`, or `python -m longtail_tf COMMAND`: every entry point under one name.

`longtail train --help` is `python -m longtail_tf.train --help`. Only the module of the command is
imported, so the list of commands and a mistyped one are answered at once.
"""

from __future__ import annotations

import difflib
import importlib
import sys

from longtail_tf import __version__

COMMANDS = {
    "inspect": "how long the tail of a data set is, and what each head setting would cost",
    "train": "trains a network and leaves a complete run folder",
    "evaluate": "evaluates a trained run again, on its own test set or another",
    "classify": "names the class of image files",
    "report": "writes a run's report as one HTML file",
    "compare": "puts runs side by side, with paired differences and intervals",
    "export": "exports a run for TensorFlow Serving and for devices",
    "serve": "serves exported models over gRPC",
    "enroll": "adds, replaces, removes or renames a class of a run, without training",
    "convert": "converts a data set into shards, for fast random reading",
    "convert_beam": "the same as an Apache Beam pipeline, for many machines",
}
BAD_INPUT_EXIT_CODE = 2  # as of every entry point


def main() -> None:
    """Command line of `longtail`."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("--help", "-h", "-help", "help"):
        print(help_text())
    elif command == "--version":
        print(f"longtail_tf {__version__}")
    elif command in COMMANDS:
        # The name that stands before the sentence about a mistake.
        sys.argv = [f"longtail {command}", *arguments]
        importlib.import_module(f"longtail_tf.{command}").main()
    else:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}."
        print(f"longtail: there is no command {command!r}: {hint}", file=sys.stderr)
        sys.exit(BAD_INPUT_EXIT_CODE)


def help_text() -> str:
    """The commands, one a line."""
    lines = ["longtail COMMAND --setting=value ...", ""]
    lines += [f"  {name:<14}{what}" for name, what in COMMANDS.items()]
    return "\n".join([*lines, "", "longtail COMMAND --help lists the settings of a command."])


if __name__ == "__main__":
    main()
