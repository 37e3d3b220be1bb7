#!/usr/bin/env bash
# Checks the lower bounds in setup.py: installs the lowest version of every dependency into a new virtual environment (in
# the folder given as argument, by default a temporary one), executes a small run and some tests. For example:
#   PYTHON=python3.11 bash launch/test_lower_bounds.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
show_help_if_asked "${BASH_SOURCE[0]}" "$@"

FOLDER="${1:-$(mktemp -d)}"
mkdir -p "$FOLDER"
cd "$REPO"
"${PYTHON:-python3}" -m venv "$FOLDER/venv"
BIN="$FOLDER/venv/bin"
sed -n '/^CORE = \[/,/^\]/s/^ *"\([^">]*\)>=\([^"]*\)",.*/\1==\2/p' setup.py >"$FOLDER/lowest.txt"
say "installing the lowest versions of $(wc -l <"$FOLDER/lowest.txt") packages into $FOLDER/venv"
"$BIN/pip" install --quiet --constraint "$FOLDER/lowest.txt" --editable . pytest hypothesis
# A whole run imports everything: incompatible binaries (of libstdc++, for example) fail at import.
JAX_PLATFORMS=cpu "$BIN/dreamprm" run --config=configs/embedded.py --workdir="$FOLDER/run" \
  --config.problems.train_count=3 --config.problems.meta_count=3 --config.problems.test_count=3 \
  --config.problems.private_tests=3 --config.generate.train_programs=2 --config.generate.test_programs=2 \
  --config.label.rollouts=3 --config.train.warmup_steps=2 --config.train.steps=2 --config.train.evaluate_every=2 \
  "--config.train.arms=('orm','label_table')" --config.model.remat=full --config.evaluate.bootstrap_samples=100
JAX_PLATFORMS=cpu "$BIN/python" -m pytest -q -m "not slow" tests/models tests/bilevel tests/training
say "the lower bounds hold"
