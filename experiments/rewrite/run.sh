#!/bin/bash
# run.sh ICD SHAPE ROUNDS WORK RESULT
#
# Re-ordering against copying and hashing, by the programs that a user would have at hand. ICD is
# the built program, SHAPE one of mamba-130m ... mamba-2.8b, WORK a new folder on the disk to
# measure (three times the checkpoint; removed at the end), RESULT the record to write. Every
# sample is kept; the contenders take turns, and take turns in being first.
set -euo pipefail
icd=$(realpath "$1") shape=$2 rounds=$3 work=$4 result=$5
mkdir "$work"
trap 'rm -rf "$work"' EXIT
model=$work/model weights=$work/model/model.safetensors copy=$work/copy out=$work/out
plan=$work/plan.json samples=$work/samples
export model weights copy out plan icd

"$icd" -q bench model --shape "$shape" -o "$model"
"$icd" -q solve --model "$model" --data-free --solver random -o "$plan" > "$work/log"

# sample NAME COMMAND: one line of NAME, wall, user and system seconds, and peak RSS in kB. What
# is dirty when it starts is not its own, so it is on the disk before.
sample() {
  sync
  /usr/bin/time -o "$work/time" -f '%e %U %S %M' bash -c "$2" > "$work/log" || { cat "$work/log"; exit 1; }
  echo "$1 $(cat "$work/time")" | tee -a "$samples" >&2
}
copy_and_hash() {
  rm -f "$copy"
  sample copy 'cp "$weights" "$copy" && sync "$copy"'
  sample hash 'openssl dgst -sha256 "$weights" && openssl dgst -sha256 "$copy"'
}
rewrite() {
  rm -rf "$out"
  sample rewrite '"$icd" -q apply --model "$model" --plan "$plan" -o "$out" --no-digests'
}
rewrite_with_digests() {
  rm -rf "$out"
  sample rewrite_with_digests '"$icd" -q apply --model "$model" --plan "$plan" -o "$out"'
}
contenders=(copy_and_hash rewrite rewrite_with_digests)
for ((round = 0; round < rounds; ++round)); do
  for ((turn = 0; turn < 3; ++turn)); do
    ${contenders[(round + turn) % 3]}
  done
done

# What was timed is right: undone, it is the input.
"$icd" -q apply --model "$out" --plan "$plan" --inverse -o "$work/back" > "$work/log"
cmp "$work/back/model.safetensors" "$weights"

mkdir -p "$(dirname "$result")"
awk -v shape="$shape" -v rounds="$rounds" -v bytes="$(stat -c %s "$weights")" \
    -v commit="$(git -C "$(dirname "$0")" rev-parse --short HEAD)" \
    -v icd_sha256="$(sha256sum "$icd" | cut -d' ' -f1)" \
    -v input_sha256="$(sha256sum "$weights" | cut -d' ' -f1)" \
    -v cpu="$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)" -v cores="$(nproc)" \
    -v memory_kb="$(awk '/^MemTotal/ {print $2}' /proc/meminfo)" \
    -v disk="$(df --output=fstype,source "$work" | tail -1 | tr -s ' ')" '
  function median(name,   n, i, j, t, v) {
    n = count[name]
    for (i = 1; i <= n; ++i) v[i] = wall[name, i]
    for (i = 2; i <= n; ++i)
      for (j = i; j > 1 && v[j - 1] > v[j]; --j) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
    return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
  }
  {
    if (!($1 in count)) names[++kinds] = $1
    wall[$1, ++count[$1]] = $2 + 0
    list[$1] = list[$1] (count[$1] > 1 ? "," : "") "\n        " \
      "{\"wall_s\": " $2 ", \"user_s\": " $3 ", \"system_s\": " $4 ", \"peak_rss_kb\": " $5 "}"
    if ($5 + 0 > rss[$1]) rss[$1] = $5 + 0
  }
  END {
    plain = median("rewrite") / median("copy")
    digests = median("rewrite_with_digests") / (median("copy") + median("hash"))
    peak = rss["rewrite"] > rss["rewrite_with_digests"] ? rss["rewrite"] : rss["rewrite_with_digests"]
    printf "{\n  \"shape\": \"%s\",\n  \"bytes\": %s,\n  \"rounds\": %d,\n", shape, bytes, rounds
    printf "  \"commit\": \"%s\",\n  \"icd_sha256\": \"%s\",\n", commit, icd_sha256
    printf "  \"input_sha256\": \"%s\",\n", input_sha256
    printf "  \"cpu\": \"%s\",\n  \"cores\": %d,\n  \"memory_kb\": %d,\n", cpu, cores, memory_kb
    printf "  \"disk\": \"%s\",\n  \"contenders\": {\n", disk
    for (i = 1; i <= kinds; ++i)
      printf "    \"%s\": {\n      \"median_s\": %.2f,\n      \"samples\": [%s\n      ]\n    }%s\n",
        names[i], median(names[i]), list[names[i]], i < kinds ? "," : ""
    printf "  },\n  \"rewrite_to_copy\": %.3f,\n", plain
    printf "  \"rewrite_with_digests_to_copy_and_hash\": %.3f,\n", digests
    printf "  \"peak_rss_kb\": %d\n}\n", peak
    printf "rewrite / copy = %.2f (goal 1.15), with digests / (copy + hash) = %.2f (goal 0.5), " \
      "peak RSS %.0f MB\n", plain, digests, peak / 1000 > "/dev/stderr"
  }' "$samples" > "$result"
