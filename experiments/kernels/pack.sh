#!/usr/bin/env bash
# pack.sh [BUILD [FOLDER]]: builds what gpu_all.sh runs and collects it, for a machine that cannot
#                           build; default build-pack and carry/kernels
# pack.sh --targets         lists what that is
#
# The programs need nothing that FOLDER does not hold, but a libc no older than this machine's. They
# are built without oneDNN, whose 38 MB only the forward pass on the CPU uses. CUDAARCHS chooses the
# architectures, e.g. CUDAARCHS=90 for Hopper alone; JOBS how many compilers run at once.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# The tests that CTest labels gpu, the timing programs, the tool and the shared library.
mapfile -t targets < <(
  sed -n '/icd_test(gpu/,/)/s/^ *kernels\/\(\w*\).*/\1/p' "$root/tests/CMakeLists.txt"
  sed -nE 's/.*add_executable\((\w+_bench)\b.*/\1/p' "$root/kernels/CMakeLists.txt" \
    "$root"/experiments/kernels/CMakeLists.txt 2> /dev/null)
targets+=(device_test icd icd_kernels_c)
if [ "${1-}" = --targets ]; then
  echo "${targets[@]}"
  exit
fi
build=${1:-$root/build-pack}
folder=${2:-$root/carry/kernels}

cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DOPENSSL_USE_STATIC_LIBS=ON \
  -DCMAKE_DISABLE_FIND_PACKAGE_dnnl=ON -DICD_CUDA=ON -DICD_EXPERIMENTS=ON \
  -DCMAKE_BUILD_RPATH="\$ORIGIN/lib" \
  -DCMAKE_EXE_LINKER_FLAGS='-Wl,--as-needed -static-libstdc++ -static-libgcc'
cmake --build "$build" --parallel "${JOBS:-2}" --target "${targets[@]}"

mkdir -p "$folder/lib"
for target in "${targets[@]}"; do
  [ "$target" = icd_kernels_c ] || cp "$build/$target" "$folder"
done
cp "$build/libicd_kernels.so" "$folder"
ldd "$folder"/* 2> /dev/null | awk '/=> \// {print $3}' | sort -u |
  grep -vE '/(libc|libm|libdl|librt|libpthread)\.so' | xargs -r cp -L -t "$folder/lib"
find "$folder" -type f -exec strip --strip-unneeded {} +
du -sh "$folder"
ls "$folder" "$folder/lib"
