#!/usr/bin/env python3
"""Forward pass on the CPU: icd, its matrix products alone, and transformers, interleaved.

    experiments/forward/run.py --tool build/icd_logits --model ../shared/models/mamba-novels-24m \\
        -o experiments/forward/results/NAME.json

Each round takes one sample of everything, in turn. Keeps every sample, in seconds.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "conformance"))
import torch
import transformers
from forward import ROOT, load_model


def machine():
    cpu = next(line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").open()
               if line.startswith("model name"))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {"cpu": cpu, "cpus": os.cpu_count(), "system": platform.platform(),
            "torch": torch.__version__, "transformers": transformers.__version__,
            "commit": commit.stdout.strip()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tool", required=True, help="the built icd_logits")
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    model = load_model(options.model)
    shape = (options.sequences, options.length)
    ids = torch.randint(0, model.config.vocab_size, shape,
                        generator=torch.Generator().manual_seed(1))
    command = [options.tool, options.model, *map(str, shape), str(options.threads), "1", "--bench"]
    samples = {"transformers": []}
    loads = []
    with torch.inference_mode():
        model(ids[:1, :16], use_cache=False)
        for _ in range(options.rounds):
            loads.append(os.getloadavg()[0])
            record = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            record.pop("tokens")
            for name, seconds in record.items():
                samples.setdefault(name, []).extend(seconds)
            start = time.perf_counter()
            model(ids, use_cache=False)
            samples["transformers"].append(time.perf_counter() - start)

    tokens = options.sequences * options.length
    record = {"machine": machine(), "model": options.model.name, "sequences": options.sequences,
              "length": options.length, "threads": options.threads, "seed": 1,
              "command": " ".join(map(str, sys.argv)), "load_average": loads, "seconds": samples}
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    for name, seconds in samples.items():
        rates = sorted(tokens / second for second in seconds)
        if rates:
            print(f"{name:18} median {statistics.median(rates):8.0f} tokens/s   "
                  f"from {rates[0]:.0f} to {rates[-1]:.0f}")


if __name__ == "__main__":
    main()
