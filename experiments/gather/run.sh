#!/bin/sh
# run.sh PROGRAMS RESULTS COMMIT
#
# Runs on the machine with the device. PROGRAMS holds gather_test, device_test and gather_bench;
# RESULTS receives the logs and the record. Stops at the first program that fails.
set -eu
programs=$1 results=$2 commit=$3
mkdir -p "$results"
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,temperature.gpu --format=csv
sha256sum "$programs"/* > "$results/programs.sha256"
export ICD_REQUIRE_DEVICE=1
"$programs/device_test" --gtest_brief=1
"$programs/gather_test" > "$results/gather_test.log" 2>&1 || { tail -40 "$results/gather_test.log"; exit 1; }
tail -3 "$results/gather_test.log"
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -1)
"$programs/gather_bench" --seed 7 --samples 50 --commit "$commit" --driver "$driver" \
  > "$results/h200.json"
