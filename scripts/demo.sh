#!/usr/bin/env bash
# demo.sh PYTHON RUN_DIR: the main job on real images, from training to one classified image.
set -euo pipefail
python=$1
run=$2
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

if [ -e "$run" ]; then
  say "removing the last demo run ($run)"
  rm -rf "$run"
fi
say "1. Train one network with two streams on a long-tailed cut of handwritten digits"
"$python" -m longtail_tf.train --flagfile=experiments/digits_lt.flags --run_dir="$run"
say "2. Classify one image file"
"$python" experiments/save_test_image.py --run_dir="$run" --out="$run/example.png"
"$python" -m longtail_tf.classify --run_dir="$run" "$run/example.png"
say "3. What to type next"
cat <<EOF
  . .venv/bin/activate
  python -m longtail_tf.inspect --data=folder:YOUR_IMAGES     # look before you train
  python -m longtail_tf.train --data=folder:YOUR_IMAGES --run_dir=runs/mine
  python -m longtail_tf.export --run_dir=$run                 # TF Serving and TFLite files
  open $run/report.html                                       # what this run learned
EOF
