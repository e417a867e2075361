#!/bin/sh
# kernels-environment.sh PYTHON VENV: an environment for tests/kernels without a GPU.
set -eu
python=$1 venv=$2
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip="$venv/bin/python -m pip install --quiet --disable-pip-version-check"
index=https://download.pytorch.org/whl/cpu
# The CPU index keeps gigabytes of CUDA packages away; where it is out of reach, pip's own.
if "$venv/bin/python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=10)' \
    $index/ 2>/dev/null; then
    $pip --index-url $index torch==2.13.0
else
    $pip torch==2.13.0
fi
$pip triton==3.9.0 -r kernels/requirements.txt
