#!/usr/bin/env bash
# NVIDIA's perf_analyzer, with the two libraries that its binary misses outside of NVIDIA's container:
#   benchmarks/perf_analyzer.sh -m llm -i grpc -u 127.0.0.1:8001 --async --streaming --input-data benchmarks/perf_analyzer_llm.json
# The binary is that of tritonclient 2.51.0 (the newest that runs on glibc 2.35), libcudart that of nvidia-pytriton,
# libb64 the distribution's (Debian or Ubuntu), unpacked and not installed.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
venv=${TRIMODAL_VENV:-$root/.venv}
folder=$root/.cache/perf_analyzer

if [ ! -e "$folder/libb64.so.0d" ]; then
    mkdir -p "$folder"
    packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    ln -sf "$packages"/nvidia_pytriton.libs/libcudart-*.so.* "$folder/libcudart.so.12"
    (cd "$folder" && apt-get download libb64-0d >/dev/null && dpkg -x libb64-0d_*.deb unpacked)
    ln -sf "$(find "$folder/unpacked" -name 'libb64.so.0d' | head -1)" "$folder/libb64.so.0d"
fi

LD_LIBRARY_PATH=$folder exec "$venv/bin/perf_analyzer" "$@"
