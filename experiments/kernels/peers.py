#!/usr/bin/env python3
"""Our kernels against mamba-ssm and causal-conv1d, on one GPU in one process, turn and turn about.

    experiments/kernels/peers.py --library build/libicd_kernels.so -o RESULTS.json
    experiments/kernels/peers.py --quick           # a case or two a kernel, few rounds
    experiments/kernels/peers.py --only ssd        # cases whose name has this in it

Ours are called through the C interface by ctypes. A peer is what `import` finds; one that is not
installed is a line that says so. Every case is first computed by both and compared, then timed: see
interleaved.py. Beside them runs a copy of as many bytes as the kernel has to read and write, and
ours a second time, whose ratio to the first is what no difference looks like.

Exit status: 0; 1 if a comparison is out of its tolerance or a case failed; 2 wrong call; 5 no
device or no library. A missed goal is a result.
"""
import argparse
import copy
import datetime
import gc
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

import torch

from cases import CASES, icd_kernels
from interleaved import ratio, samples_us

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = {  # name in cases.py: (module, function, distribution)
    "selective_scan": ("selective_scan_cuda", "fwd", "mamba-ssm"),
    "causal_conv1d": ("causal_conv1d", "causal_conv1d_fn", "causal-conv1d"),
    "ssd": ("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined", "mamba-ssm"),
    "state_update": ("mamba_ssm.ops.triton.selective_state_update", "selective_state_update",
                     "mamba-ssm"),
}
CLOCKS = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")


def find_peers():
    """({name: function}, {name: what was found, or why nothing was})."""
    functions, notes = {}, {}
    for name, (module, function, distribution) in PEERS.items():
        try:
            loaded = importlib.import_module(module)
            functions[name] = getattr(loaded, function)
            notes[name] = f"{distribution} {importlib.metadata.version(distribution)}"
            if loaded.__file__.endswith(".so"):
                digest = hashlib.sha256(pathlib.Path(loaded.__file__).read_bytes()).hexdigest()
                notes[name] += f", {module} sha256 {digest[:16]}"
        except Exception as error:  # an extension of another PyTorch fails in many ways
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            notes[name] = f"not here: {reason}"
    return functions, notes


def shell(*command):
    """What a command prints; empty where it is not installed or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def nvidia_smi(*fields):
    """Of the device in use; of the first where it is not told by that name."""
    query = ("nvidia-smi", "--query-gpu=" + ",".join(fields), "--format=csv,noheader")
    uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
    told = shell(*query, "-i", f"GPU-{uuid}") or shell(*query)
    return told.splitlines()[0] if told else ""


def machine():
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    triton = importlib.util.find_spec("triton") and importlib.metadata.version("triton")
    return {"device": device.name, "multiprocessors": device.multi_processor_count,
            "l2_bytes": device.L2_cache_size, "capability": f"{device.major}.{device.minor}",
            "driver": nvidia_smi("driver_version"),
            "cuda": torch.version.cuda, "torch": torch.__version__, "triton": triton,
            "python": platform.python_version(), "system": platform.platform()}


def relative_l2(ours, theirs):
    """|ours - theirs| / |theirs|; NaN where either has one."""
    ours, theirs = ours.double(), theirs.double()
    return ((ours - theirs).norm() / theirs.norm().clamp_min(1e-300)).item()


def run(case, functions, options):
    """The record of one case."""
    record = {"kernel": case.kernel, "case": case.name, "goal": case.goal,
              "copy_goal": case.copy_goal, "bytes_moved": case.bytes_moved()}
    case.build(functions.get(case.peer_name), options.seed)
    record["sets"] = len(case.sets)
    contenders = {"ours": case.ours, "copy": case.copy, "ours again": case.ours}
    for calls in (case.ours, case.peer or []):
        for call in calls[:1]:
            call()
    torch.cuda.synchronize()
    if case.peer:
        contenders["peer"] = case.peer
        record["relative_l2"] = {what: relative_l2(*pair) for what, pair in case.results().items()}
        record["agrees"] = all(error <= case.tolerance for error in record["relative_l2"].values())
        record["tolerance"] = case.tolerance
    record["clocks_before"] = nvidia_smi(*CLOCKS)
    samples = samples_us(contenders, options.rounds)
    record["clocks_after"] = nvidia_smi(*CLOCKS)
    record["median_us"] = {name: statistics.median(each) for name, each in samples.items()}
    record["same_again"] = ratio(samples["ours again"], samples["ours"])
    record["of_copy"] = ratio(samples["copy"], samples["ours"])
    record["copy_tb_s"] = case.bytes_moved() / record["median_us"]["copy"] / 1e6
    verdicts = []
    if case.copy_goal:
        verdicts.append(record["of_copy"][0] >= case.copy_goal)
    if case.peer:
        record["speedup"] = ratio(samples["peer"], samples["ours"])
        if case.goal:
            verdicts.append(record["speedup"][0] >= case.goal)
    elif case.goal:
        verdicts.append(None)  # no peer, no verdict
    if not record.get("agrees", True):
        verdicts = [False]  # whatever its speed
    record["met"] = None if not verdicts or None in verdicts else all(verdicts)
    record["samples_us"] = samples
    return record


def row(record):
    if "error" in record:
        return f"{record['case']:38} failed: {record['error']}"
    median = record["median_us"]
    of_copy, again = record["of_copy"], record["same_again"]
    peer = f"{median['peer']:9.2f}" if "peer" in median else f"{'-':>9}"
    speedup = "-"
    if "speedup" in record:
        speedup = "{:.2f} [{:.2f}, {:.2f}]".format(*record["speedup"])
    goals = [f"{record['goal']:.1f}x"] if record["goal"] else []
    goals += [f"{record['copy_goal']:.0%} copy"] if record["copy_goal"] else []
    verdict = {True: "met", False: "MISSED", None: "-"}[record["met"]]
    if not record.get("agrees", True):
        verdict += " DIFFERS"
    error = max(record["relative_l2"].values()) if "relative_l2" in record else None
    return (f"{record['case']:38} {median['ours']:9.2f} {peer} {speedup:>18} {of_copy[0]:7.1%} "
            f"{again[0]:6.3f} {'-' if error is None else f'{error:.1e}':>8} "
            f"{', '.join(goals) or '-':>14} {verdict}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=pathlib.Path,
                        help="libicd_kernels.so; left out: where icd_kernels.py looks")
    parser.add_argument("--rounds", type=int, help="samples of each (default 41, quick: 9)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--commit", default="", help="of the library, where git cannot tell")
    parser.add_argument("-o", "--output", type=pathlib.Path)
    options = parser.parse_args()
    options.rounds = options.rounds or (9 if options.quick else 41)
    if not torch.cuda.is_available():
        print("peers.py: PyTorch sees no CUDA device here, and times need one", file=sys.stderr)
        return 5
    torch.cuda.init()
    if options.library:
        os.environ["ICD_KERNELS"] = str(options.library.resolve())
    try:
        library = pathlib.Path(icd_kernels.library()._name)
    except icd_kernels.Error as error:
        print(f"peers.py: {error}", file=sys.stderr)
        return 5
    functions, notes = find_peers()
    cases = [case for case in CASES
             if options.only in case.name and (case.quick or not options.quick)]
    if not cases:
        print(f"peers.py: no case has '{options.only}' in its name", file=sys.stderr)
        return 2

    report = {"schema": "icd.experiments.peers/1", "machine": machine(), "peers": notes,
              "seed": options.seed, "rounds": options.rounds, "command": " ".join(sys.argv),
              "commit": options.commit or shell("git", "rev-parse", "HEAD"),
              "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
              "library_sha256": hashlib.sha256(library.read_bytes()).hexdigest()
              if library.exists() else None,
              "cases": []}
    print(f"{report['machine']['device']}, driver {report['machine']['driver']}, torch "
          f"{report['machine']['torch']}, triton {report['machine']['triton']}")
    for name, note in notes.items():
        print(f"peer {name}: {note}")
    print(f"{'medians in us':38} {'ours':>9} {'peer':>9} {'peer / ours':>18} {'of copy':>7} "
          f"{'again':>6} {'rel. L2':>8} {'goal':>14}")
    for case in cases:
        try:
            gc.collect()
            torch.cuda.empty_cache()
            with torch.no_grad():
                record = run(copy.copy(case), functions, options)  # its buffers go with it
        except Exception as error:  # one case's failure is its own
            record = {"case": case.name, "error": str(error).splitlines()[0] if str(error)
                      else type(error).__name__}
        report["cases"].append(record)
        print(row(record), flush=True)
        if options.output:  # after every case: what is measured is kept, whatever comes
            options.output.write_text(json.dumps(report, indent=1) + "\n")
    bad = [r["case"] for r in report["cases"] if "error" in r or not r.get("agrees", True)]
    if bad:
        print(f"peers.py: failed or differing: {'; '.join(bad)}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
