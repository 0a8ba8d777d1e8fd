"""Do transformers and icd agree on what `icd convert` wrote?

    /opt/py/v/bin/python experiments/conformance/convert.py build/icd ../shared/models

For each model: icd convert --to hf; transformers loads it and its logits are compared with those
of transformers' own model class fed the original tensors by hand; then converted back, and every
tensor compared with the original's bytes. For Mamba-2 with more than one group transformers' norm
is computed per group too, as mamba-ssm does, to show what the warning of `convert` is about.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.models.mamba2 import modeling_mamba2

ICD, MODELS = sys.argv[1], pathlib.Path(sys.argv[2])
TEXT = MODELS.parent / "text" / "eltec-heldout.txt"


def state_of(folder):
    for name in ("model.safetensors", "pytorch_model.bin"):
        file = pathlib.Path(folder) / name
        if file.exists():
            if name.endswith("safetensors"):
                return load_file(file)
            return torch.load(file, map_location="cpu", weights_only=True)


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def convert(model, to, out):
    run = subprocess.run([ICD, "convert", "--model", str(model), "--to", to, "-o", str(out)],
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stderr.strip()


def grouped(self, hidden_states, gate=None):
    """The gated norm per group, as mamba-ssm computes it."""
    dtype = hidden_states.dtype
    x = hidden_states.float() * torch.nn.functional.silu(gate.float())
    shape = x.shape
    x = x.view(*shape[:-1], self.groups, -1)
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
    return self.weight * x.view(shape).to(dtype)


def perplexity(model, ids):
    with torch.no_grad():
        logits = model(ids).logits.float()
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    return loss.exp().item()


def tokens(folder):
    from tokenizers import Tokenizer
    text = TEXT.read_text()[:20000]
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids[:2048]
    return torch.tensor(ids).view(4, 512)


def check(name):
    source = MODELS / name
    original = state_of(source)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        is_hf = "model_type" in json.loads((source / "config.json").read_text())
        hf = source if is_hf else scratch / "hf"
        notes = "" if is_hf else convert(source, "hf", hf)
        ssm, back = scratch / "ssm", scratch / "back"
        convert(hf, "mamba-ssm", ssm)
        convert(ssm, "hf", back)

        # Bytes: both conversions, under either name of the embedding.
        for folder in {hf, ssm, back}:
            state = state_of(folder)
            for key, tensor in original.items():
                names = {key, key.replace("embedding.", "embeddings."),
                         key.replace("embeddings.", "embedding.")}
                found = [n for n in names if n in state]
                assert found or key == "lm_head.weight", (folder, key)
                for n in found:
                    assert state[n].dtype == tensor.dtype, n
                    assert torch.equal(bits(state[n]), bits(tensor)), n
        ssm_state = torch.load(ssm / "pytorch_model.bin", weights_only=True)
        assert "lm_head.weight" in ssm_state  # mamba-ssm's loader is strict
        torch.testing.assert_close(ssm_state["lm_head.weight"], ssm_state["backbone.embedding.weight"],
                                   rtol=0, atol=0)

        model, info = AutoModelForCausalLM.from_pretrained(hf, output_loading_info=True,
                                                           dtype=torch.float32)
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        twin = AutoModelForCausalLM.from_pretrained(back, dtype=torch.float32)
        for key, value in model.config.to_dict().items():
            if key not in ("_name_or_path", "dtype", "transformers_version", "architectures"):
                assert twin.config.to_dict()[key] == value or is_hf, (key, value)

        # The same class, configured and filled by hand.
        by_hand = type(model)(model.config).eval()
        by_hand.load_state_dict({k.replace("embedding.", "embeddings."): v.float()
                                 for k, v in original.items()}, strict=False)
        by_hand.tie_weights()
        has_text = (source / "tokenizer.json").exists()
        random = torch.randint(0, 33, (2, 64), generator=torch.Generator().manual_seed(0))
        ids = tokens(source) if has_text else random
        with torch.no_grad():
            a, b, c = (m.eval()(ids[:2, :64]).logits for m in (model, by_hand, twin))
        assert torch.equal(a, b) and torch.equal(a, c)
        line = f"{name}: bytes equal there and back, logits equal"
        if has_text:
            line += f", perplexity {perplexity(model, ids):.1f}"
        groups = getattr(model.config, "n_groups", 1)
        if groups > 1:
            assert "transformers#40861" in notes
            for layer in model.backbone.layers:
                layer.mixer.norm.groups = groups
            modeling_mamba2.MambaRMSNormGated.forward = grouped
            line += f"; with the norm per group {perplexity(model, ids):.1f}"
        print(line)


for model in ("mamba-novels-2m", "mamba-novels-2m-hf", "mamba-novels-24m", "protmamba-ssm",
              "mamba2-novels-16m", "mamba2-novels-2m"):
    check(model)
