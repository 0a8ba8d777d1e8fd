#!/usr/bin/env python3
"""What an order takes off the error of group quantisation, on every model given.

    experiments/quantisation/run.py --icd build/icd [--out RESULT.json] MODEL...

`icd advise --objective quant` in each format, by weights alone and weighted by the inputs' mean
squares on the built-in text (scored on held-out tokens), and `--objective ranges` for static
scales of activations. Errors are relative: the share of the squared output that is lost.
"""
import argparse
import datetime
import json
import pathlib
import platform
import subprocess
import sys

# Format and weights a scale; 0 is the format's own.
FORMATS = [("int8", 128), ("int4", 128), ("int4-asym", 128), ("q8_0", 0), ("q4_0", 0), ("mxfp4", 0),
           ("nvfp4", 0)]
KINDS = {"mamba1": ["inner", "model"], "mamba2": ["channel", "head", "model"]}
RANGES = {"mamba1": ["inner", "state", "dt_rank"], "mamba2": ["channel", "head", "state"]}


def icd(program, *arguments):
    done = subprocess.run([program, "-q", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(done.args)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def told(score):
    return score.get("heldout", score["calibration"])


def assess(options, model, objective, kinds, *arguments):
    answer = icd(options.icd, "advise", "--model", model, "--objective", objective, "--group",
                 ",".join(kinds), "--seed", options.seed, *arguments, "--json")
    for row in answer["assessments"]:
        yield row | {"model": pathlib.Path(model).name, "measured_on": answer["measured_on"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--icd", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="+", default=[name for name, _ in FORMATS],
                        help="some of the formats")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("models", nargs="+")
    options = parser.parse_args()
    rows = []
    print("| model | objective | evidence | axis | present | random | solved | gap closed |")
    print("|---|---|---|---|---|---|---|---|")
    for model in options.models:
        layout = icd(options.icd, "inspect", model, "--json")["architecture"]
        runs = [(f"quant {name}" + (f" g{group}" if group else ""), "quant", KINDS[layout], data,
                 ["--quant-format", name] + (["--group-size", group] if group else []))
                for name, group in FORMATS if name in options.formats
                for data in ("weights", "activations")]
        runs += [(f"ranges of {block}", "ranges", RANGES[layout], "activations", ["--block", block])
                 for block in (4, 16, 64)]
        for label, objective, kinds, data, arguments in runs:
            if data == "weights":
                arguments = arguments + ["--data-free"]
            for row in assess(options, model, objective, kinds, *arguments):
                row |= {"label": label, "evidence": data}
                if data == "activations" and row["measured_on"] == "weights alone":
                    continue  # without a tokenizer there is no text to run on
                rows.append(row)
                if "solved" not in row:
                    continue
                print(f"| {row['model']} | {label} | {data} | {row['kind']} | "
                      f"{told(row['present']):.3e} | {told(row['random']):.3e} | "
                      f"{told(row['solved']):.3e} | {100 * row['gap_closed']:.1f} % |", flush=True)
    if options.out:
        version = subprocess.run([options.icd, "--version"], capture_output=True, text=True).stdout
        options.out.write_text(json.dumps({
            "schema": "icd.quantisation/1", "command": " ".join(sys.argv), "icd": version.strip(),
            "date": datetime.date.today().isoformat(),
            "machine": platform.processor() or platform.machine(),
            "seed": options.seed, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
