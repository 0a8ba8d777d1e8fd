#!/usr/bin/env python3
"""Logits of icd against Hugging Face transformers, both in float32 on the CPU.

    experiments/conformance/forward.py --tool build/icd_logits [--shared ../shared]
    experiments/conformance/forward.py --golden tests/data/mamba-novels-2m-hf.logits.json

The first form prints max|difference| / max|logit| for each model and engine and fails above
1e-5. The second writes the logits that tests/core/language_model_test.cpp compares with.
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
from safetensors.torch import load_file
from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "experiments/models/mamba-novels-2m-hf"
TEXT = ROOT / "experiments/text/eltec-excerpt.txt"
LIMIT = 1e-5


def load_model(folder):
    """A transformers model in float32, from Hugging Face's or mamba-ssm's names."""
    config = json.loads((folder / "config.json").read_text())
    if "model_type" in config:
        return transformers.MambaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if (folder / "model.safetensors").exists():
        state = load_file(folder / "model.safetensors")
    else:
        state = torch.load(folder / "pytorch_model.bin", weights_only=True,
                           map_location="cpu")
    state = {name.replace("backbone.embedding.", "backbone.embeddings."): tensor.float()
             for name, tensor in state.items()}
    vocab, d_model = state["backbone.embeddings.weight"].shape
    mixer = "backbone.layers.0.mixer."
    model = transformers.MambaForCausalLM(transformers.MambaConfig(
        vocab_size=vocab,
        hidden_size=d_model,
        num_hidden_layers=config["n_layer"],
        state_size=state[mixer + "A_log"].shape[1],
        conv_kernel=state[mixer + "conv1d.weight"].shape[2],
        time_step_rank=state[mixer + "dt_proj.weight"].shape[1],
        expand=state[mixer + "A_log"].shape[0] // d_model,
        tie_word_embeddings=config.get("tie_embeddings", True)))
    left = model.load_state_dict(state, strict=False)
    assert not left.unexpected_keys and set(left.missing_keys) <= {"lm_head.weight"}, left
    model.tie_weights()
    return model.float().eval()


def token_ids(folder, count, vocab):
    """The start of the committed text; random ids for a model without a tokenizer."""
    if (folder / "tokenizer.json").exists():
        text = TEXT.read_text()
        return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids[:count]
    return np.random.default_rng(1).integers(0, vocab, count).tolist()


def transformers_logits(model, ids, length):
    with torch.inference_mode():
        return model(torch.tensor(ids).view(-1, length), use_cache=False).logits.view(
            len(ids), -1).numpy()


def icd_logits(tool, folder, ids, length, engine, vocab):
    with tempfile.TemporaryDirectory() as scratch:
        tokens, out = pathlib.Path(scratch, "tokens.txt"), pathlib.Path(scratch, "logits.f32")
        tokens.write_text(" ".join(map(str, ids)))
        subprocess.run([tool, folder, tokens, str(length), engine, out], check=True)
        return np.fromfile(out, dtype="<f4").reshape(len(ids), vocab)


def compare(tool, folders, sequences, length):
    worst = 0.0
    print(f"max|difference| / max|logit| against transformers {transformers.__version__}, "
          f"torch {torch.__version__}, float32, {sequences} x {length} tokens")
    for folder in folders:
        model = load_model(folder)
        vocab = model.config.vocab_size
        ids = token_ids(folder, sequences * length, vocab)
        expected = transformers_logits(model, ids, length)
        for engine in ("fast", "onednn", "reference"):
            found = icd_logits(tool, folder, ids, length, engine, vocab)
            error = float(np.abs(found - expected).max() / np.abs(expected).max())
            worst = max(worst, error)
            print(f"{folder.name:24} {engine:10} {error:.2e}", flush=True)
    return worst


def write_golden(path, count=64, columns=64):
    model = load_model(BUNDLED)
    ids = token_ids(BUNDLED, count, model.config.vocab_size)
    logits = transformers_logits(model, ids, count)
    step = logits.shape[1] // columns
    picked = list(range(step // 2, logits.shape[1], step))

    def short(values):
        """Decimal digits enough to give the same float32 back."""
        return [float(np.format_float_positional(v, unique=True)) for v in values]

    record = {
        "what": "logits of experiments/models/mamba-novels-2m-hf on one sequence of tokens",
        "made_by": f"experiments/conformance/forward.py --golden; torch {torch.__version__}, "
                   f"transformers {transformers.__version__}, float32, CPU",
        "tokens": ids,
        "columns": picked,
        "logits": [short(row[picked].astype(np.float32)) for row in logits],
        "row_norms": short(np.linalg.norm(logits.astype(np.float64), axis=1).astype(np.float32)),
        "max_abs": float(np.abs(logits).max()),
    }
    path.write_text(json.dumps(record, separators=(",", ":")) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tool", help="the built icd_logits")
    parser.add_argument("--shared", type=pathlib.Path, default=ROOT.parent / "shared")
    parser.add_argument("--golden", type=pathlib.Path)
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.golden:
        write_golden(options.golden)
        return 0
    names = ("mamba-novels-2m", "mamba-novels-24m", "protmamba-ssm")
    shared = [options.shared / "models" / name for name in names]
    folders = [BUNDLED] + [folder for folder in shared if folder.is_dir()]
    return int(compare(options.tool, folders, options.sequences, options.length) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
