#!/bin/bash
# link.sh OUT: builds scan_bench by hand for another machine, which then needs libc and a driver.
set -euo pipefail
out=$1
objects=$(mktemp -d)
trap 'rm -r "$objects"' EXIT
cuda=${CUDA_PATH:-/usr/local/cuda}
flags=(-std=c++20 -O2 -Wall -Wextra -Wshadow -ffp-contract=off -Iinclude -Isrc -I. -I"$cuda/include"
       -DFMT_HEADER_ONLY)
for source in experiments/scan/bench.cpp kernels/args.cpp kernels/reference_selective_scan.cpp \
              src/random.cpp src/permutation.cpp; do
  g++ "${flags[@]}" -c "$source" -o "$objects/$(basename "$source").o"
done
for source in kernels/device.cu kernels/selective_scan.cu; do
  "$cuda/bin/nvcc" -O3 -std=c++17 -gencode=arch=compute_90,code=sm_90 -Iinclude -I. \
    -DICD_CUDA_ARCHITECTURES='"90-real"' -Xcompiler=-ffp-contract=off -c "$source" \
    -o "$objects/$(basename "$source").o"
done
g++ -static-libstdc++ -static-libgcc -o "$out" "$objects"/*.o -L"$cuda/lib64" -L"$cuda/lib" \
  -lcudart_static -lrt -ldl -lpthread
