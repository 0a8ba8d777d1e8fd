#!/usr/bin/env bash
# gpu_all.sh [--results DIR] [--programs DIR] [--peers DIR] [--stages LIST] [--commit C] [--quick]
#            [--jobs N]
#
# Everything that needs a GPU, in one command, on a bare machine with a driver (RunPod, Lambda, a
# Slurm node):
#
#   build     with CMake and nvcc, in build-gpu; left out where --programs names a folder that
#             pack.sh made elsewhere
#   tests     every kernel against its reference on the CPU; a skipped test is a failure
#   sanitize  the same programs without their large cases under compute-sanitizer, where it is
#   bench     every *_bench that kernels/CMakeLists.txt lists: what the designs reach
#   matrix    icd bench kernels: kernels x layouts x orders, with counters and controls
#   peers     peers.py: mamba-ssm and causal-conv1d beside ours, where PyTorch is; --peers is a
#             folder whose env.sh makes them importable
#
# --stages takes some of these, by name, with commas. A step that fails or runs out of time does not
# stop the rest. DIR (default results) receives a log and a record for each step and summary.txt;
# the table is printed at the end, and the exit status is 1 if anything in it failed.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
command="gpu_all.sh $*"
results=results programs='' peers='' commit='' stages=build,tests,sanitize,bench,matrix,peers
quick='' jobs=4
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=--quick; shift; continue ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
  esac
  [ $# -ge 2 ] || { echo "gpu_all.sh: $1 needs a value, or is unknown; try --help" >&2; exit 2; }
  case $1 in
    --results) results=$2 ;;
    --programs) programs=$2 ;;
    --peers) peers=$2 ;;
    --stages) stages=$2 ;;
    --commit) commit=$2 ;;
    --jobs) jobs=$2 ;;
    *) echo "gpu_all.sh: unknown option $1; try --help" >&2; exit 2 ;;
  esac
  shift 2
done
for stage in ${stages//,/ }; do
  case $stage in
    build | tests | sanitize | bench | matrix | peers) ;;
    *) echo "gpu_all.sh: unknown stage $stage; try --help" >&2; exit 2 ;;
  esac
done
wants() { [[ ",$stages," == *",$1,"* ]]; }

mkdir -p "$results/logs"
results=$(cd "$results" && pwd)
rm -f "$results"/logs/*.status
[ -n "$commit" ] || commit=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)

# note NAME STATUS SECONDS: a line of the summary.
note() { printf '%-34s %-9s %5s s\n' "$1" "$2" "$3" > "$results/logs/$1.status"; }

# step NAME SECONDS COMMAND...: runs it, standard output and errors in logs/NAME.log. The last lines
# are shown if it fails.
step() {
  local name=$1 limit=$2 start=$SECONDS status=0
  shift 2
  for word in "$@"; do  # the program itself may stand behind env, a tool or an interpreter
    if [[ $word == "$programs"/* && ! -e $word ]]; then note "$name" MISSING 0; return 1; fi
  done
  timeout --kill-after=10 "$limit" "$@" > "$results/logs/$name.log" 2>&1 || status=$?
  case $status in
    0) note "$name" ok $((SECONDS - start)) ;;
    124 | 137) note "$name" TIMEOUT $((SECONDS - start)) ;;
    *) note "$name" "FAILED:$status" $((SECONDS - start)) ;;
  esac
  if [ $status -ne 0 ]; then
    echo "--- $name: status $status"
    tail -n 40 "$results/logs/$name.log"
  fi
  return $status
}

# record NAME SECONDS FILE COMMAND...: a step whose standard output is a record of its own.
record() {
  local name=$1 limit=$2 file=$3
  shift 3
  # shellcheck disable=SC2016
  step "$name" "$limit" bash -c 'file=$1; shift; exec "$@" > "$file"' - "$results/$file" "$@"
}

# at_once COMMAND...: in the background, at most $jobs of them.
at_once() {
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
  "$@" &
}

if wants build && [ -z "$programs" ]; then
  programs=$root/build-gpu
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
  step build 3600 bash -ec "cmake -S '$root' -B '$programs' -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_CUDA_ARCHITECTURES=$capability -DICD_CUDA=ON -DICD_EXPERIMENTS=ON
    cmake --build '$programs' --parallel --target $("$here/pack.sh" --targets)"
fi
programs=${programs:-$root/build-gpu}
[ -d "$programs" ] || { echo "gpu_all.sh: no folder $programs with programs" >&2; exit 2; }
programs=$(cd "$programs" && pwd)
tests=() # what pack.sh lists, not whatever lies in the folder
for target in $("$here/pack.sh" --targets); do
  [[ $target == *_test ]] && tests+=("$target")
done
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)

{
  echo "command    $command"
  echo "date       $(date -u +%FT%TZ)"
  echo "commit     $commit"
  echo "device     $(nvidia-smi --query-gpu=name,memory.total,clocks.max.sm,power.limit \
    --format=csv,noheader 2>/dev/null || echo 'nvidia-smi is not here')"
  echo "driver     ${driver:-unknown}"
  echo "nvcc       $(nvcc --version 2>/dev/null | tail -n 1 || true)"
  echo "processor  $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores"
  echo "system     $(uname -srm)"
} > "$results/machine.txt"
(cd "$programs" && find . -maxdepth 1 -type f -size +8k \( -perm -u+x -o -name '*.so*' \) -print0 |
  sort -z | xargs -0r sha256sum) > "$results/programs.sha256"
cat "$results/machine.txt"

if wants tests; then
  for test in "${tests[@]}"; do
    at_once step "test.$test" 300 env ICD_REQUIRE_DEVICE=1 "$programs/$test" --gtest_brief=1
  done
  wait
fi

if wants sanitize; then
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
  # What fills a device or takes gigabytes would take a tool that slows it down tenfold too long.
  small='*OnDevice.*:Gather*:-*FillsTheDevice*:*BeyondFourGigabytes*:*ManyShortRows*'
  small+=':*KeepsSlowChannels*:*RemembersForLong*:*GivesTheSameBitsTwice*'
  if [ -z "$sanitizer" ]; then
    note sanitize absent 0
  else
    for test in "${tests[@]}"; do
      at_once step "memcheck.$test" 240 env ICD_REQUIRE_DEVICE=1 "$sanitizer" --tool memcheck \
        --error-exitcode 9 "$programs/$test" --gtest_brief=1 "--gtest_filter=$small"
    done
    wait
  fi
fi

if wants bench; then
  for bench in $("$here/pack.sh" --targets); do
    [[ $bench == *_bench ]] || continue
    run=("$programs/$bench" --commit "$commit" --driver "$driver")
    # Their records: --json FILE, or --json for standard output, or standard output as it is.
    case $("$programs/$bench" --help 2> /dev/null) in
      *"--json TEXT"*) step "$bench" 240 "${run[@]}" --json "$results/$bench.json" ;;
      *--json*) record "$bench" 240 "$bench.json" "${run[@]}" --json ;;
      *) record "$bench" 240 "$bench.json" "${run[@]}" ;;
    esac
  done
fi

if wants matrix; then
  record matrix 600 matrix.json "$programs/icd" bench kernels --json --commit "$commit" \
    --markdown "$results/matrix.md"
fi

if wants peers; then
  library=$programs/libicd_kernels.so
  # shellcheck disable=SC1091
  [ -z "$peers" ] || . "$peers/env.sh" || note peers "no env.sh" 0
  python=$(command -v python3 || command -v python)
  if ! "$python" -c 'from torch import cuda' 2>/dev/null; then
    note peers "no torch" 0
  else
    # A process a kernel: what one leaves of the device after a fault is not the next one's.
    for kernel in selective_scan causal_conv1d state_update ssd; do
      step "peers.$kernel" 300 "$python" "$here/peers.py" --library "$library" --only "$kernel" \
        --commit "$commit" ${quick:+"$quick"} -o "$results/peers.$kernel.json"
    done
    cat "$results"/logs/peers.*.log > "$results/peers.txt" 2> /dev/null
  fi
fi

cat "$results"/logs/*.status > "$results/summary.txt" 2>/dev/null
rm -f "$results"/logs/*.status
echo
if wants peers && [ -f "$results/peers.txt" ]; then cat "$results/peers.txt"; fi
echo
cat "$results/summary.txt"
! grep -qE ' (FAILED|TIMEOUT|MISSING)' "$results/summary.txt"
