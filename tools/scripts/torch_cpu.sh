#!/usr/bin/env bash
# Installs the CPU build of torch, and torchdata, which the tests of the loaders use, into .venv: 200 MB fetched, 800 MB
# laid out.
# The lock file cannot bring it: what it knows of torch is the build with several GB of CUDA.
# It never fails the build: a test that misses torch skips and says so.
set -euo pipefail

python=.venv/bin/python
wanted=(torch==2.13.0+cpu torchdata==0.11.0)
if "$python" -c 'from importlib.util import find_spec as find; raise SystemExit(None in map(find, ("torch", "torchdata")))'; then
    exit 0
fi

echo "torch_cpu: installing ${wanted[*]}"
install=("$python" -m pip install --quiet --disable-pip-version-check --only-binary :all: "${wanted[@]}")
# The indexes and folders that pip is set up with may have the build; torch's own index does.
"${install[@]}" >/dev/null 2>&1 ||
    "${install[@]}" --extra-index-url https://download.pytorch.org/whl/cpu --timeout 10 --retries 1 >/dev/null 2>&1 ||
    echo "torch_cpu: not installed: ${wanted[*]} (no index in reach has it). The tests that need it will be skipped." >&2
