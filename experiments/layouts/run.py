#!/usr/bin/env python3
"""Every family icd knows, through the program: inspect, permute all groups, verify, undo.

    experiments/layouts/run.py --icd build/icd --tool build/icd_families [--out RESULT.json]

Small random models (tests/support/families_*.cpp), every group in a random order from seed 0. The
error is the largest that `icd verify --double` reports: max|difference| / max|output| of the whole
model, or of the worst of its blocks on random inputs. Ends with 1 if anything is not as it was.
"""
import argparse
import datetime
import json
import pathlib
import platform
import subprocess
import sys
import tempfile


def icd(program, *arguments):
    """Standard output as JSON, if it is; exit status."""
    done = subprocess.run([program, "-q", *map(str, arguments)], capture_output=True, text=True)
    text = done.stdout.strip()
    return (json.loads(text) if text.startswith("{") else text), done.returncode, done.stderr


def pass_through(program, folder):
    about = json.loads((folder / "expected.json").read_text())
    told = [f"{name}={size}" for name, size in about["settings"].items()]
    layout = (["--set", ",".join(told)] if told else []) + (
        ["--config", folder / about["config"]] if about["config"] else [])
    row = {"family": about["name"], "settings": about["settings"]}
    out, back = (folder.parent / f"{folder.name}-{end}" for end in ("out", "back"))

    inspected, status, error = icd(program, "inspect", folder, *layout, "--json")
    if status:
        return row | {"failed": f"inspect: {error}"}
    kinds = []
    for group in inspected["groups"]:
        if group["kind"] not in kinds:
            kinds.append(group["kind"])
    row |= {"layout": inspected["architecture"], "kinds": kinds, "groups": len(inspected["groups"])}

    permuted, status, error = icd(program, "permute", "--model", folder, *layout, "--group", "all",
                                  "--solver", "random", "--double", "-o", out, "--json")
    if status:
        return row | {"failed": f"permute: {error or permuted}"}
    moved = permuted["moved_tensors"]
    config = ["--config", folder / about["config"]] if about["config"] else []
    verified, status, error = icd(program, "verify", folder, out, *config, "--plan",
                                  out / "plan.json", "--double", "--json")
    if status:
        return row | {"failed": f"verify: {error or verified}"}
    results = verified["logits"] + verified.get("blocks", [])
    row |= {"moved_tensors": moved, "proof": verified["proof"],
            "bytes": verified["undoing_gives_back_every_byte"]}
    for arithmetic in ("f32", "f64"):
        found = [r["relative"] for r in results if r["arithmetic"] == arithmetic]
        row[arithmetic] = max(found) if found else None
    _, status, error = icd(program, "apply", "--model", out, *config, "--plan", out / "plan.json",
                           "--inverse", "-o", back)
    if status:
        return row | {"failed": f"apply --inverse: {error}"}
    row["inverse"] = ((back / "model.safetensors").read_bytes()
                      == (folder / "model.safetensors").read_bytes())
    return row if row["inverse"] else row | {"failed": "apply --inverse: other bytes"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--icd", required=True)
    parser.add_argument("--tool", required=True, help="icd_families of a build")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([options.tool, folder], check=True)
        for family in sorted(pathlib.Path(folder).iterdir(), key=lambda path: int(path.name)):
            row = pass_through(options.icd, family)
            rows.append(row)
            error = "" if row.get("f64") is None else f"{row['f32']:.1e} {row['f64']:.1e}"
            print(f"| {row['family']} | {row.get('layout', '')} | {', '.join(row.get('kinds', []))} | "
                  f"{row.get('failed', row.get('proof'))} | {error} |", flush=True)
    if options.out:
        version = subprocess.run([options.icd, "--version"], capture_output=True, text=True).stdout
        options.out.write_text(json.dumps({
            "schema": "icd.layouts/1", "command": " ".join(sys.argv), "icd": version.strip(),
            "date": datetime.date.today().isoformat(), "machine": platform.processor() or platform.machine(),
            "seed": 0, "families": rows}, indent=1) + "\n")
    sys.exit(1 if any("failed" in row for row in rows) else 0)


if __name__ == "__main__":
    main()
