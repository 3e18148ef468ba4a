#!/usr/bin/env bash
# make_venv.sh VENV EXTRAS: a virtual environment with longtail_tf and the extras (may be empty),
# checked.
# Takes $PYTHON, or the first Python of find_python.sh, and says which stack that gives.
set -euo pipefail
venv=$1
extras=$2

if [ ! -x "$venv/bin/python" ]; then
  if ! found=$("$(dirname "$0")/find_python.sh"); then
    echo "longtail_tf needs Python 3.9 to 3.13 with venv (TensorFlow has no other here), and" >&2
    echo "${PYTHON:-none on this machine} is not one. Install it, for example with" >&2
    echo "'apt-get install python3.11 python3.11-venv' or 'pyenv install 3.11', and try again, or" >&2
    echo "name it: PYTHON=/path/to/python3.11 make demo" >&2
    exit 2
  fi
  "$found" -m venv "$venv"
fi
stack=$("$venv/bin/python" -c 'import sys
print("TensorFlow 2.15 with Keras 2.15" if sys.version_info < (3, 12) else
      "TensorFlow 2.21 with Keras 3 (no tensorflow-addons)")')
echo "$venv: $("$venv/bin/python" --version), so $stack"
echo "setting it up (a minute or two, about 2 GB) ..."
# pip compiles what it installs; without that every start would take three times as long.
unset PYTHONDONTWRITEBYTECODE
export PIP_DISABLE_PIP_VERSION_CHECK=1
log=$venv/install.log
# The pip that old Pythons bring searches these requirements for many minutes; a newer one does not.
"$venv/bin/python" -m pip install -q --upgrade "pip>=24" >"$log" 2>&1 || true
if ! "$venv/bin/python" -m pip install -q -e ".${extras:+[$extras]}" >>"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "installation failed; the whole log is in $log" >&2
  exit 1
fi
"$venv/bin/python" -m pip check
