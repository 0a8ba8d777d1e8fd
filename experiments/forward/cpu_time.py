#!/usr/bin/env python3
"""Processor seconds of one thread: transformers against icd, for machines that others load too.

    experiments/forward/cpu_time.py --tool build/icd_logits --model ../shared/models/mamba-novels-24m \\
        -o experiments/forward/results/NAME.json

icd's sample is its whole process: reading the model, arranging the weights, the forward pass,
writing the logits. transformers' sample is the forward pass alone.
"""
import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import tempfile
import time

import torch
from run import load_model, machine


def icd_seconds(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tool", required=True, help="the built icd_logits")
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(options.model)
    ids = torch.randint(0, model.config.vocab_size, (4, 512),
                        generator=torch.Generator().manual_seed(1))
    samples = {"transformers": [], "fast": [], "onednn": []}
    loads = []
    with torch.inference_mode(), tempfile.TemporaryDirectory() as scratch:
        tokens, out = pathlib.Path(scratch, "tokens.txt"), pathlib.Path(scratch, "logits")
        tokens.write_text(" ".join(map(str, ids.flatten().tolist())))
        model(ids[:1, :16], use_cache=False)
        for _ in range(options.rounds):
            loads.append(os.getloadavg()[0])
            for engine in ("fast", "onednn"):
                samples[engine].append(
                    icd_seconds([options.tool, options.model, tokens, "512", engine, out]))
            start = time.process_time()
            model(ids, use_cache=False)
            samples["transformers"].append(time.process_time() - start)
    record = {"machine": machine(), "model": options.model.name, "sequences": 4, "length": 512,
              "threads": 1, "seed": 1, "load_average": loads, "cpu_seconds": samples}
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    for name, seconds in samples.items():
        print(f"{name:14} median {statistics.median(seconds):7.2f} s of one core, "
              f"from {min(seconds):.2f} to {max(seconds):.2f}")


if __name__ == "__main__":
    main()
