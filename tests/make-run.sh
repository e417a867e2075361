#!/bin/sh
# make-run.sh ORCHESTRATE RUNS_DIR: the whole way through on the embedded pod.
#
# `orchestrate run` exits with 4 when something is not verified. Without a GPU that is as it should
# be, so exit 4 is accepted here when, and only when, "no CUDA device" is the one reason.
set -u
orchestrate=$1 runs_dir=$2
line=$(mktemp) || exit 1
trap 'rm -f "$line"' EXIT
"$orchestrate" run --phase 0-5 --runs-dir "$runs_dir" --json >"$line"
code=$?
if [ $code -eq 4 ] && python3 - "$line" <<'PY'
import json, sys
last = json.loads(open(sys.argv[1]).read().splitlines()[-1])
reasons = {reason["reason"] for reason in last["reasons"]}
sys.exit(reasons != {"no-cuda-device"})
PY
then
    echo "as expected without a GPU: the one thing that is not verified is timing (no CUDA device)"
    exit 0
fi
exit $code
