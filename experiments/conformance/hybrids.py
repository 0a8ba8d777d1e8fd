#!/usr/bin/env python3
"""Logits of icd's wired models against Hugging Face transformers, and a perplexity of Mamba-2.

    experiments/conformance/hybrids.py --families build/icd_families --logits build/icd_logits
                                       [--shared ../shared]

Every test family with a transformers model (Mamba-2 of one group and of two, FalconMamba, Jamba,
Bamba, GraniteMoeHybrid with and without positions, ...) is run from the same files by both: prints
max|difference| / max|logit| of icd's double and float models and fails above 1e-5, or says why icd
does not run the model. With --shared, the perplexity of the Mamba-2 checkpoints there on the first
2,048 tokens of the held-out text; mamba2-novels-2m has two groups, whose norm transformers' CPU
path does not group, so its figure is held against the record in ../shared/models/README.md.
Needs torch, transformers, tokenizers and safetensors; neither build nor tests need this.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer

LIMIT = 1e-5
PERPLEXITY = {"mamba2-novels-2m": 30.1, "mamba2-novels-16m": 43.3}


def icd_logits(tool, folder, ids, length, engine, settings=()):
    """(len(ids), vocab) in float32, or the reason that there are none."""
    with tempfile.TemporaryDirectory() as scratch:
        tokens, out = pathlib.Path(scratch, "tokens.txt"), pathlib.Path(scratch, "logits.f32")
        tokens.write_text(" ".join(map(str, ids)))
        done = subprocess.run([tool, folder, tokens, str(length), engine, out, *settings],
                              capture_output=True, text=True)
        if done.returncode != 0:
            return None, done.stderr.strip()
        return np.fromfile(out, dtype="<f4").reshape(len(ids), -1).astype(np.float64), ""


def transformers_logits(folder, ids):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager")
    with torch.inference_mode():
        logits = model.eval()(torch.tensor(ids), use_cache=False).logits
    return logits.reshape(-1, logits.shape[-1]).double().numpy()


def compare_families(families_tool, logits_tool):
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([families_tool, scratch], check=True)
        for folder in sorted(pathlib.Path(scratch).iterdir(), key=lambda path: int(path.name)):
            expected = json.loads((folder / "expected.json").read_text())
            if "ids" not in expected:
                continue  # not a model of transformers
            ids = expected["ids"]
            flat = [token for sequence in ids for token in sequence]
            theirs = transformers_logits(folder, ids)
            words = []
            for engine in ("reference", "fast"):
                ours, why = icd_logits(logits_tool, folder, flat, len(ids[0]), engine)
                if ours is None:
                    words = [why]
                    break
                difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
                failed |= not difference < LIMIT
                words.append(f"{engine} {difference:.1e}")
            print(f"{expected['name']:45} {'  '.join(words)}")
    return failed


def compare_perplexities(shared, logits_tool):
    failed = False
    text = (shared / "text/eltec-heldout.txt").read_text()
    for name, known in PERPLEXITY.items():
        folder = shared / "models" / name
        ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids[:2048]
        logits, why = icd_logits(logits_tool, folder, ids, 512, "fast")
        if logits is None:
            sys.exit(why)
        logits -= logits.max(axis=1, keepdims=True)
        log_p = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).reshape(4, 512, -1)
        targets = np.array(ids).reshape(4, 512)[:, 1:, None]
        perplexity = np.exp(-np.take_along_axis(log_p[:, :-1], targets, axis=2).mean())
        failed |= not abs(perplexity - known) < 0.05
        print(f"{name:45} perplexity {perplexity:.2f}, on record {known}")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", required=True, help="icd_families of a build")
    parser.add_argument("--logits", required=True, help="icd_logits of a build")
    parser.add_argument("--shared", type=pathlib.Path, help="the workshop's shared material")
    options = parser.parse_args()
    failed = compare_families(options.families, options.logits)
    if options.shared:
        failed |= compare_perplexities(options.shared, options.logits)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    main()
