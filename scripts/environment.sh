#!/usr/bin/env bash
# Make .venv with everything the suite needs. Safe to run again: it does nothing when the requirements have not changed.
# With LOWEST=1 make .venv-lowest with the lowest versions that requirements.txt and requirements-dev.txt allow.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv${LOWEST:+-lowest}
stamp=$venv/requirements.cksum
wanted=$(cat requirements.txt requirements-dev.txt scripts/environment.sh | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    exit 0
fi

as_root() {  # run a command as root where that needs no password, else print it and fail
    if [ "$(id -u)" = 0 ]; then "$@"
    elif sudo -n true 2>/dev/null; then sudo "$@"
    else echo "please run: sudo $*" >&2; return 1
    fi
}

python=
for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "Python 3.11 or newer is needed; on Debian or Ubuntu: sudo apt-get install python3 python3-venv" >&2
    exit 1
fi

echo "making $venv with $($python --version)"
rm -rf "$venv"
if ! "$python" -m venv "$venv" 2>/dev/null; then  # Debian keeps venv in a package of its own
    rm -rf "$venv"
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    as_root apt-get update -qq
    as_root apt-get install -y -qq "python$version-venv" || as_root apt-get install -y -qq python3-venv
    "$python" -m venv "$venv"
fi

pip="$venv/bin/python -m pip --disable-pip-version-check --quiet"
install="$pip install --no-compile"  # what is imported is compiled then; compiling all the rest takes a minute
if [ -n "${LOWEST:-}" ]; then
    mkdir -p build
    cat requirements.txt requirements-dev.txt | grep -v '^-r' | sed 's/>=/==/' > build/lowest.txt
    versions=("torch$(sed -n 's/^torch>=\([0-9.]*\).*/==\1/p' requirements.txt)"
              "torchvision$(sed -n 's/^torchvision>=\([0-9.]*\).*/==\1/p' requirements.txt)")
else
    versions=(torch torchvision)
fi
if ! command -v nvidia-smi >/dev/null && [ "$(uname -s)" = Linux ]; then
    # Without a GPU the CPU build does, and is a tenth of the size. Where its index is out of reach the usual build serves.
    # Isolated from other configured indexes, which could add a torchvision of the other build: the two do not mix.
    cpu_index=https://download.pytorch.org/whl/cpu
    if ! timeout 300 $pip --isolated --retries 0 --timeout 15 install --no-compile --index-url "$cpu_index" "${versions[@]}" 2>/dev/null \
            || ! "$venv/bin/python" -c 'import torchvision' 2>/dev/null; then
        echo "the CPU build of PyTorch is out of reach: installing the usual one"
        $pip uninstall -y torch torchvision 2>/dev/null || true
    fi
fi
if [ -n "${LOWEST:-}" ]; then $install -r build/lowest.txt; else $install -r requirements-dev.txt; fi
"$venv/bin/python" -c 'import torch, torchvision; print("torch", torch.__version__, "torchvision", torchvision.__version__)'
echo "$wanted" > "$stamp"
