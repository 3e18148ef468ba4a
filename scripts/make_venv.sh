#!/usr/bin/env bash
# make_venv.sh VENV EXTRAS: a virtual environment with longtail_tf and the extras, checked.
# Takes $PYTHON, or the newest Python from 3.9 to 3.11 that it finds.
set -euo pipefail
venv=$1
extras=$2

suitable() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' \
    >/dev/null 2>&1
}

if [ ! -x "$venv/bin/python" ]; then
  found=""
  # Absolute paths of a Python version manager come last: its shims may exist and yet not run.
  for candidate in ${PYTHON:-python3.11 python3.10 python3.9 python3 python \
    "$HOME"/.pyenv/versions/3.11*/bin/python "$HOME"/.pyenv/versions/3.10*/bin/python \
    "$HOME"/.pyenv/versions/3.9*/bin/python}; do
    if command -v "$candidate" >/dev/null && suitable "$candidate"; then
      found=$candidate
      break
    fi
  done
  if [ -z "$found" ]; then
    echo "longtail_tf needs Python 3.9, 3.10 or 3.11 with venv (TensorFlow 2.15 has no other)," >&2
    echo "and ${PYTHON:-none on this machine} is not one. Install it, for example with" >&2
    echo "'apt-get install python3.11 python3.11-venv' or 'pyenv install 3.11', and try again, or" >&2
    echo "name it: PYTHON=/path/to/python3.11 make demo" >&2
    exit 2
  fi
  echo "setting up $venv with $("$found" --version) (a minute or two, about 2 GB) ..."
  "$found" -m venv "$venv"
fi
# pip compiles what it installs; without that every start would take three times as long.
unset PYTHONDONTWRITEBYTECODE
export PIP_DISABLE_PIP_VERSION_CHECK=1
log=$venv/install.log
# The pip that old Pythons bring searches these requirements for many minutes; a newer one does not.
"$venv/bin/python" -m pip install -q --upgrade "pip>=24" >"$log" 2>&1 || true
if ! "$venv/bin/python" -m pip install -q -e ".[$extras]" >>"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "installation failed; the whole log is in $log" >&2
  exit 1
fi
"$venv/bin/python" -m pip check
