#!/usr/bin/env bash
# pack.sh [BUILD [FOLDER]]: builds what gpu_all.sh runs and collects it, for a machine without the tree
#                           or without a compiler; default build-pack and carry/kernels
# pack.sh --targets         lists what that is
#
# The programs hold everything but libc, so that they start on a bare system as old as this one's libc.
# CUDAARCHS chooses the architectures, e.g. CUDAARCHS=90 for Hopper alone; JOBS the processes.
set -euo pipefail
targets=(device_test causal_conv1d_test gather_test mamba3_test rms_norm_test selective_scan_test
  skip_zero_gemv_test ssd_test state_update_test
  scan_bench stream_bench decode_bench ssd_bench gather_bench
  icd icd_kernels_c)
if [ "${1-}" = --targets ]; then
  echo "${targets[@]}"
  exit
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${1:-$root/build-pack}
folder=${2:-$root/carry/kernels}

cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DOPENSSL_USE_STATIC_LIBS=ON \
  -DCMAKE_EXE_LINKER_FLAGS='-Wl,--as-needed -static-libstdc++ -static-libgcc'
nice -n 5 cmake --build "$build" --parallel "${JOBS:-2}" --target "${targets[@]}"

mkdir -p "$folder"
for target in "${targets[@]}"; do
  [ "$target" = icd_kernels_c ] || cp "$build/$target" "$folder"
done
cp "$build/libicd_kernels.so" "$folder"
strip "$folder"/*
(cd "$folder" && sha256sum ./*) > "$build/packed.sha256"
du -sh "$folder"
ldd "$folder"/* 2>/dev/null | awk '/=>/ {print $1}' | sort | uniq -c  # what the other machine must have
