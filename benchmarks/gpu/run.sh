#!/usr/bin/env bash
# Every GPU check, in order: is it right, then what it costs. Results go to OUT (default: results).
#
#     benchmarks/gpu/run.sh [OUT]
#
# Without FlashInfer in the environment it unpacks build/gpu/site.zip, which carry.py makes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${1:-$here/results}
mkdir -p "$out"
python=${PYTHON:-python3}

if ! "$python" -c 'import flashinfer' 2>/dev/null; then
    site=$(mktemp -d)
    "$python" -m zipfile -e "$root/build/gpu/site.zip" "$site"
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
# Linking a kernel asks for libcuda.so, which drivers may install under its versioned name alone.
stub=$(mktemp -d)
echo | cc -shared -x c - -o "$stub/libcuda.so"
export LIBRARY_PATH=$stub${LIBRARY_PATH:+:$LIBRARY_PATH}
export PYTHONUNBUFFERED=1

nvidia-smi --query-gpu=name,driver_version,memory.used --format=csv
failed=0
"$python" "$here/numerics.py" --json "$out/numerics.json" || failed=$?
for part in extend decode flex; do
    "$python" "$here/speed.py" --only $part --json "$out/speed-$part.json" || failed=$?
done
"$python" "$here/model.py" --json "$out/model.json" || failed=$?
exit $failed
