#!/usr/bin/env bash
# Gradescope runs this once, while it builds the image of the autograder. The grade needs Python 3.11, numpy and Pillow.
set -euo pipefail
base="${AUTOGRADER_BASE:-/autograder}"

new_enough() { command -v "$1" >/dev/null && "$1" -c 'import sys, venv, ensurepip; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; }
find_python() { for name in python3 python3.13 python3.12 python3.11; do if new_enough "$name"; then echo "$name"; return; fi; done; }

python="$(find_python)"
if [ -z "$python" ]; then
    apt-get update
    apt-get install -y python3 python3-venv || true
    new_enough python3 || apt-get install -y python3.11 python3.11-venv
    python="$(find_python)"
fi
"$python" -m venv "$base/venv"
"$base/venv/bin/pip" install --quiet "numpy>=1.26" "pillow>=10"

# Where the course chose that notebooks are run again: what their cells need, and what runs them as another user.
if [ -f "$base/source/requirements.txt" ]; then
    "$base/venv/bin/pip" install --quiet --extra-index-url https://download.pytorch.org/whl/cpu -r "$base/source/requirements.txt"
    if ! command -v unshare >/dev/null || ! command -v setpriv >/dev/null; then apt-get update && apt-get install -y util-linux; fi
    chmod -R go+rX "$base/venv"
fi
