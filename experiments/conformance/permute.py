#!/usr/bin/env python3
"""End-to-end conformance of `icd permute` and `icd apply` with PyTorch and transformers.

    experiments/conformance/permute.py --icd build/icd [--shared ../shared]

For each model, `icd permute` as it is called by default and with every group in random order:

    bytes    all tensors are, bit for bit, what the plan says: gathered by numpy in the code
             below, which was written from a list of the symmetries of Mamba-1 and shares nothing
             with icd; names, dtypes and side files are kept; icd.json names the files' SHA-256
    f32      max|difference| / max|logit| of transformers on model and result, at most 1e-5
    f64      the same in double precision, at most 1e-12, of the forward pass below in numpy:
             transformers keeps float32 inside its norms and its scan. Both agree within 1e-5
    inverse  `icd apply --inverse` restores the SHA-256 of the weight file
    threads  one and three threads give the same plan.json and the same weights
    format   the other container (bin for safetensors, safetensors for bin) loads with the same
             tensors by torch.load(weights_only=True) or safetensors, and in transformers
    identity `--solver identity` gives the input's bytes (once a model)

Prints a table in Markdown; exits with 1 if anything fails. Needs torch, transformers,
tokenizers, safetensors and numpy; neither build nor tests need this.
"""
import argparse
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

from forward import BUNDLED, ROOT, load_model, token_ids, transformers_logits

MODELS = ("mamba-novels-2m", "mamba-novels-24m", "protmamba-ssm")
RUNS = {"default": [], "all, random": ["--group", "all", "--solver", "random", "--seed", "7"]}
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
LENGTH = 128
LIMIT_F32 = 1e-5
LIMIT_F64 = 1e-12


class Failure(Exception):
    """One check that did not hold; the table says which."""


def require(holds, what):
    if not holds:
        raise Failure(what)


def call(icd, *arguments):
    done = subprocess.run([icd, "-q", *map(str, arguments)], capture_output=True, text=True)
    require(done.returncode == 0, f"{' '.join(map(str, arguments))}: exit {done.returncode}, "
                                  f"{done.stderr.strip()}")


def weight_file(folder):
    found = [folder / name for name in WEIGHTS if (folder / name).exists()]
    require(len(found) == 1, f"{folder}: weight files are {found}")
    return found[0]


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def tensors_of(file):
    if file.suffix == ".safetensors":
        return load_file(file)
    return torch.load(file, weights_only=True, map_location="cpu")


def words(tensor):
    """The bits of a tensor as integers, so that numpy compares them and NaN equals itself."""
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(integer[tensor.element_size()]).numpy()


class Expected:
    """The plan applied by hand: what each tensor of a Mamba-1 checkpoint has to become."""

    def __init__(self, groups, state):
        self.groups, self.state, self.used = groups, state, set()

    def order(self, group, extent):
        if group not in self.groups:
            return np.arange(extent)
        self.used.add(group)
        order = np.array(self.groups[group])
        require(np.array_equal(np.sort(order), np.arange(extent)),
                f"{group}: is no permutation of {extent}")
        return order

    def axes(self, name, shape):
        """The gather order of each axis of tensor `name`; None where it stays."""
        if name in ("backbone.embedding.weight", "backbone.embeddings.weight", "lm_head.weight"):
            return [None, self.order("model", shape[1])]
        if name == "backbone.norm_f.weight":
            return [self.order("model", shape[0])]
        layer, part = re.fullmatch(r"backbone\.layers\.(\d+)\.(.+)", name).groups()
        if part == "norm.weight":
            return [self.order("model", shape[0])]
        d_inner, d_state = self.state[f"backbone.layers.{layer}.mixer.A_log"].shape
        rank = self.state[f"backbone.layers.{layer}.mixer.dt_proj.weight"].shape[1]
        inner = self.order(f"layers.{layer}/inner", d_inner)
        state = self.order(f"layers.{layer}/state", d_state)
        dt = self.order(f"layers.{layer}/dt_rank", rank)
        return {
            # Rows of in_proj are x, then z; those of x_proj are dt, then B, then C.
            "mixer.in_proj.weight": lambda: [np.concatenate([inner, d_inner + inner]),
                                             self.order("model", shape[1])],
            "mixer.conv1d.weight": lambda: [inner, None, None],
            "mixer.conv1d.bias": lambda: [inner],
            "mixer.x_proj.weight": lambda: [
                np.concatenate([dt, rank + state, rank + d_state + state]), inner],
            "mixer.dt_proj.weight": lambda: [inner, dt],
            "mixer.dt_proj.bias": lambda: [inner],
            "mixer.A_log": lambda: [inner, state],
            "mixer.D": lambda: [inner],
            "mixer.out_proj.weight": lambda: [self.order("model", shape[0]), inner],
        }[part]()

    def tensor(self, name):
        values = words(self.state[name])
        for axis, order in enumerate(self.axes(name, values.shape)):
            if order is not None:
                values = np.take(values, order, axis=axis)
        return values


def check_bytes(source, out):
    """Every tensor of `out` against the plan, names and dtypes too; returns how many differ
    from the source."""
    before, after = tensors_of(weight_file(source)), tensors_of(weight_file(out))
    groups = json.loads((out / "plan.json").read_text())["groups"]
    expected = Expected(groups, before)
    require(list(before) == list(after), "names or their order have changed")
    for name, tensor in after.items():
        require(tensor.dtype == before[name].dtype, f"{name}: dtype has changed")
        require(np.array_equal(words(tensor), expected.tensor(name)), f"{name}: other bits")
    require(expected.used == set(groups), f"groups without tensors: {set(groups) - expected.used}")
    for file in source.iterdir():
        if file.name in ("config.json", "tokenizer.json"):
            require(sha256(out / file.name) == sha256(file), f"{file.name}: has changed")
    for record in json.loads((out / "icd.json").read_text())["outputs"]:
        require(sha256(out / record["name"]) == record["sha256"],
                f"icd.json: SHA-256 of {record['name']}")
    return sum(not np.array_equal(words(after[name]), words(before[name])) for name in before)


def rms_norm(x, weight):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-5) * weight


def silu(x):
    return x / (1 + np.exp(-x))


def double_logits(file, ids):
    """Mamba-1 on one sequence, in double precision throughout."""
    state = {name.replace("backbone.embedding.", "backbone.embeddings."): tensor.double().numpy()
             for name, tensor in tensors_of(file).items()}
    x = state["backbone.embeddings.weight"][ids]
    layers = 1 + max(int(name.split(".")[2]) for name in state if ".layers." in name)
    for i in range(layers):
        layer = f"backbone.layers.{i}."
        w = {name.removeprefix(layer + "mixer."): state[name] for name in state
             if name.startswith(layer + "mixer.")}
        u, z = np.split(rms_norm(x, state[layer + "norm.weight"]) @ w["in_proj.weight"].T, 2, 1)
        taps = w["conv1d.weight"].shape[2]
        padded = np.pad(u, ((taps - 1, 0), (0, 0)))
        u = silu(w["conv1d.bias"] + sum(w["conv1d.weight"][:, 0, k] * padded[k:k + len(u)]
                                        for k in range(taps)))
        rank, d_state = w["dt_proj.weight"].shape[1], w["A_log"].shape[1]
        dt, b, c = np.split(u @ w["x_proj.weight"].T, [rank, rank + d_state], 1)
        dt = np.logaddexp(0, dt @ w["dt_proj.weight"].T + w["dt_proj.bias"])
        a, h, y = -np.exp(w["A_log"]), np.zeros(w["A_log"].shape), np.empty(u.shape)
        for t in range(len(u)):
            h = np.exp(dt[t, :, None] * a) * h + (dt[t] * u[t])[:, None] * b[t]
            y[t] = h @ c[t]
        x = x + ((y + w["D"] * u) * silu(z)) @ w["out_proj.weight"].T
    head = state.get("lm_head.weight", state["backbone.embeddings.weight"])
    return rms_norm(x, state["backbone.norm_f.weight"]) @ head.T


def relative(expected, found, limit, what):
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    require(error <= limit, f"{what}: {error:.1e} of the largest logit, expected {limit:.0e}")
    return f"{error:.1e}"


def compare_f32(source, out):
    model = load_model(source)
    ids = token_ids(source, 2 * LENGTH, model.config.vocab_size)
    return relative(transformers_logits(model, ids, LENGTH),
                    transformers_logits(load_model(out), ids, LENGTH), LIMIT_F32, "transformers")


def compare_f64(source, out):
    model = load_model(source)
    ids = token_ids(source, LENGTH, model.config.vocab_size)
    before = double_logits(weight_file(source), ids)
    relative(before, transformers_logits(model, ids, LENGTH), LIMIT_F32,
             "numpy against transformers")
    return relative(before, double_logits(weight_file(out), ids), LIMIT_F64, "double precision")


def check_other_format(icd, source, options, same, scratch):
    other = "bin" if weight_file(source).suffix == ".safetensors" else "safetensors"
    out = scratch / "other"
    call(icd, "permute", "--model", source, "-o", out, "--format", other, *options)
    require(weight_file(out).suffix == "." + other, f"--format {other} wrote {weight_file(out)}")
    expected, found = tensors_of(weight_file(same)), tensors_of(weight_file(out))
    # Safetensors of tied weights need one name only; transformers and mamba-ssm tie the other.
    missing = set(expected) - set(found)
    require(missing <= {"lm_head.weight"}, f"--format {other}: no {missing}")
    require(set(found) - set(expected) <= {"lm_head.weight"}, f"--format {other}: new names")
    for name, tensor in found.items():
        twin = expected.get(name)
        if twin is None:
            twin = next(expected[n] for n in expected if ".embedding" in n)
        require(tensor.dtype == twin.dtype and np.array_equal(words(tensor), words(twin)),
                f"--format {other}: {name} has other bits")
    compare_f32(same, out)
    return other


def check_run(icd, source, name, options, scratch):
    row = {"model": source.name, "run": name}
    out, again, back = scratch / "out", scratch / "again", scratch / "back"
    call(icd, "permute", "--model", source, "-o", out, "--threads", 1, *options)
    row["moved"] = str(check_bytes(source, out))
    row["bytes"] = "equal"
    row["f32"] = compare_f32(source, out)
    row["f64"] = compare_f64(source, out)
    call(icd, "apply", "--model", out, "--plan", out / "plan.json", "--inverse", "-o", back)
    require(sha256(weight_file(back)) == sha256(weight_file(source)), "the inverse is not the input")
    row["inverse"] = "restored"
    call(icd, "permute", "--model", source, "-o", again, "--threads", 3, "--no-verify", *options)
    for file in (weight_file(out).name, "plan.json"):
        require(sha256(out / file) == sha256(again / file), f"{file}: depends on --threads")
    row["threads"] = "same"
    row["format"] = check_other_format(icd, source, options, out, scratch) + " loads"
    return row


def check_identity(icd, source, scratch):
    out = scratch / "out"
    call(icd, "permute", "--model", source, "-o", out, "--group", "all", "--solver", "identity",
         "--no-verify")
    require(sha256(weight_file(out)) == sha256(weight_file(source)), "identity changes bytes")
    return {"model": source.name, "run": "identity", "moved": "0", "bytes": "the input's"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--icd", required=True, type=pathlib.Path, help="the built program")
    parser.add_argument("--shared", type=pathlib.Path, default=ROOT.parent / "shared")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    shared = [options.shared / "models" / name for name in MODELS]
    sources = [BUNDLED] + [folder for folder in shared if folder.is_dir()]
    for folder in set(shared) - set(sources):
        print(f"absent, not checked: {folder}", file=sys.stderr)

    icd = options.icd.resolve()
    columns = ("model", "run", "moved", "bytes", "f32", "f64", "inverse", "threads", "format")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}\n")
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns), flush=True)
    failures = 0
    for source in sources:
        checks = [(name, lambda scratch, name=name: check_run(icd, source, name, RUNS[name], scratch))
                  for name in RUNS]
        checks.append(("identity", lambda scratch: check_identity(icd, source, scratch)))
        for name, check in checks:
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    row = check(pathlib.Path(scratch))
                except Failure as failure:
                    failures += 1
                    row = {"model": source.name, "run": name, "bytes": f"FAILED: {failure}"}
            print("| " + " | ".join(row.get(c, "") for c in columns) + " |", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
