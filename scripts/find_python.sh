#!/usr/bin/env bash
# find_python.sh [2.15|2.21]: prints a Python that can run that TensorFlow, or fails.
# Without an argument: $PYTHON, or else one for 2.15 (3.11, 3.10, 3.9), or else for 2.21 (3.12, 3.13).
set -euo pipefail
case ${1:-any} in
  2.15) range="(3, 9) <= v <= (3, 11)" ;;
  2.21) range="(3, 12) <= v <= (3, 13)" ;;
  any) range="(3, 9) <= v <= (3, 13)" ;;
  *) echo "$0: '$1' is no TensorFlow known here: give 2.15 or 2.21" >&2; exit 2 ;;
esac
if [ $# -eq 0 ] && [ -z "${PYTHON:-}" ]; then
  "$0" 2.15 || "$0" 2.21
  exit
fi
# Absolute paths of a Python version manager come last: its shims may exist and yet not run.
candidates=(python3.11 python3.10 python3.9 python3.12 python3.13 python3 python
  "$HOME"/.pyenv/versions/3.{11,10,9,12,13}.*/bin/python)
[ $# -eq 0 ] && candidates=("$PYTHON")
for candidate in "${candidates[@]}"; do
  if command -v "$candidate" >/dev/null && "$candidate" -c \
    "import sys, venv, ensurepip; v = sys.version_info[:2]; sys.exit(not $range)" 2>/dev/null; then
    command -v "$candidate"
    exit 0
  fi
done
exit 1
