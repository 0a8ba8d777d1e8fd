#!/usr/bin/env python3
"""The naive forwards of tests/support/families_*.cpp against Hugging Face transformers.

    experiments/conformance/families.py --tool build/icd_families

Each family with a transformers model is loaded from the files that the tool writes, with
config.json as it stands there: no tensor may be missing or left over. Prints max|difference| /
max|logit| of the logits and fails above 1e-5 (transformers takes norms and softmax in float32
whatever the type of the weights). Needs torch, transformers and safetensors; neither build nor
tests need this.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers

LIMIT = 1e-5


def compare(folder):
    expected = json.loads((folder / "expected.json").read_text())
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager",
        experts_implementation="eager", output_loading_info=True)
    strangers = {kind: sorted(loading[kind]) for kind in
                 ("missing_keys", "unexpected_keys", "mismatched_keys") if loading[kind]}
    if strangers:
        return expected["name"], None, strangers
    with torch.no_grad():
        logits = model.eval()(torch.tensor(expected["ids"]), use_cache=False).logits
    naive = torch.tensor(expected["logits"], dtype=torch.float64).reshape(logits.shape)
    return expected["name"], float((logits - naive).abs().max() / naive.abs().max()), {}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tool", required=True, help="icd_families of a build")
    tool = parser.parse_args().tool
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([tool, folder], check=True)
        for family in sorted(pathlib.Path(folder).iterdir(), key=lambda path: int(path.name)):
            if "logits" not in json.loads((family / "expected.json").read_text()):
                continue  # not a model of transformers
            name, difference, strangers = compare(family)
            failed |= difference is None or not difference < LIMIT
            print(f"{name:45} {'%.1e' % difference if difference is not None else strangers}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
