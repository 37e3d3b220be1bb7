#!/usr/bin/env bash
# Builds the wheel and checks it on several versions of Python, those of the classifiers in setup.py by default: installs
# it into a fresh virtual environment, outside the repository, and runs `dreamprm --help`, the judge, a small run and the
# README's Python lines. An interpreter that is not installed is named, and makes the status 1. For example:
#   bash launch/test_pythons.sh
#   bash launch/test_pythons.sh python3.12 /opt/python3.13/bin/python3
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
show_help_if_asked "${BASH_SOURCE[0]}" "$@"

if [ $# = 0 ]; then
  mapfile -t versions < <(sed -n 's/.*"Programming Language :: Python :: \(3\.[0-9]*\)",.*/\1/p' "$REPO/setup.py")
  set -- "${versions[@]/#/python}"
fi
FOLDER="$(mktemp -d)"
trap 'rm -rf "$FOLDER"' EXIT
export JAX_PLATFORMS=cpu
wheel="" missing=()
for python in "$@"; do
  if ! "$python" -c "" 2>/dev/null; then
    missing+=("$python")
    continue
  fi
  venv="$FOLDER/$(basename "$python")"
  "$python" -m venv "$venv"
  if [ -z "$wheel" ]; then
    (cd "$REPO" && "$venv/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$FOLDER" .)
    wheel="$(echo "$FOLDER"/*.whl)"
  fi
  say "$("$python" --version): installing $(basename "$wheel")"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${wheel}[serve]"
  work="$FOLDER/work"
  rm -rf "$work"
  mkdir "$work"
  cp -r "$REPO/configs" "$work"
  (
    cd "$work"
    "$venv/bin/dreamprm" --help >/dev/null
    "$venv/bin/dreamprm" judge --problems=configs/data/own_problems.jsonl \
      --candidates=configs/data/own_candidates.jsonl --output=verdicts.jsonl
    "$venv/bin/dreamprm" run --config=configs/embedded.py --config.problems.train_count=3 \
      --config.problems.meta_count=3 --config.problems.test_count=3 --config.problems.private_tests=3 \
      --config.generate.train_programs=2 --config.generate.test_programs=2 --config.label.rollouts=2 \
      --config.train.warmup_steps=2 --config.train.steps=2 --config.train.evaluate_every=0 \
      --config.train.arms="('corrected',)" --config.model.num_layers=1 --config.model.hidden_size=32 \
      --config.evaluate.bootstrap_samples=100 >run.log || { cat run.log && exit 1; }
    cat >readme.py <<'LINES'
statement = "Print twice the number that you read."
answer = "def twice(n):\n    return 2 * n\n\n\nprint(twice(int(input())))\n"
other = "print(3)\n"
LINES
    awk '/^```/ {inside = ($0 == "```python"); next} inside' "$REPO/README.md" >>readme.py
    "$venv/bin/python" -P readme.py
  )
  say "$("$python" --version): the installed wheel works"
done
[ ${#missing[@]} = 0 ] || fail "not installed here, so not checked: ${missing[*]}"
