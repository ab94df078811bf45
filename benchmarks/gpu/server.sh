#!/usr/bin/env bash
# A whole SGLang server with the plugin on this machine's GPU, checked and timed: server.py, with what
# carry_server.py packed. Results go to OUT (default: results).
#
#     benchmarks/gpu/server.sh [OUT] [arguments of server.py]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${1:-$here/results}
shift || true
mkdir -p "$out"
python=${PYTHON:-python3}
site=${SITE:-$(mktemp -d)}

if [ ! -d "$site/sglang" ]; then
    "$python" -m zipfile -e "$root/build/gpu/server.zip" "$site"
    "$python" -m compileall -q -j 0 "$site" >"$out/compileall.log" 2>&1 || true
fi
# The package as setup.py maps it, without an installation.
mkdir -p "$site/sglang_multiverse"
ln -sfn "$root"/sglang_multiverse/* "$root"/{patches,training,data_pipeline} "$site/sglang_multiverse/"
export PYTHONPATH=$site:$here/standin${PYTHONPATH:+:$PYTHONPATH}
# Linking a kernel asks for libcuda.so, which drivers may install under its versioned name alone.
mkdir -p "$site/stub"
echo | cc -shared -x c - -o "$site/stub/libcuda.so"
export LIBRARY_PATH=$site/stub${LIBRARY_PATH:+:$LIBRARY_PATH}
# Norms by FlashInfer's CUDA kernels: its others need the CuTe DSL, which is not carried.
export FLASHINFER_USE_CUDA_NORM=1
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
# SGLang's own tree of prefixes in Rust is built for torch 2.14; its Python one serves any.
export SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND=python
echo "ready after $SECONDS s"
"$python" "$here/server.py" --out "$out" "$@"
