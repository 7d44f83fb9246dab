#!/usr/bin/env bash
# Runs the generated messages on both ends of the range of protobuf that the wheel allows.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
runtimes=$(mktemp -d)
trap 'rm -rf "$runtimes"' EXIT

for lock in oldest.lock newest.lock; do
    python -m pip install --quiet --no-deps --require-hashes --only-binary :all: --target "$runtimes/$lock" -r "$lock"
    version=$(sed -n 's/^protobuf==\([0-9.]*\).*/\1/p' "$lock")
    # A warning would be the runtime saying that the generated code is about to be too old for it.
    PYTHONPATH=$runtimes/$lock python -W error roundtrip.py "$version"
done
