#!/usr/bin/env python3
"""Are the ids of icd's tokenizer those of the Hugging Face tokenizers library?

    tokenizer.py --program build/icd_tokenize --tokenizer tokenizer.json... --text file...
    tokenizer.py --golden tests/data/tokenizer_golden.json --tokenizer ... --text ...

The first compares, for every tokenizer: each text as a whole, strings made to be awkward,
strings drawn at random (from a seed), with --points every code point outside the largest
blocks, and the variants of the bundled tokenizer below. It prints what was compared and what
differs, and ends with status 1 if anything does but single code points, on which the
libraries' versions of Unicode disagree.
The second writes what tests/core/tokenizer_test.cpp compares with. Needs the Python package
tokenizers, and nothing else.
"""
import argparse
import array
import hashlib
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

import tokenizers

HOME = pathlib.Path(__file__).resolve().parents[2]
BUNDLED = HOME / "experiments/models/mamba-novels-2m-hf/tokenizer.json"

AWKWARD = [
    "", " ", "  ", "\n", "a", "Hello, world!", " Hello  world   !    ", "I'm you're he'd we'll I've isn't 'S 'T",
    "x'\u017f y'll'd''m", "caf\u00e9 cafe\u0301 \u0065\u0301\u0323\u0301", "\u0301\u0323 lone marks \u0301",
    "\u1e9b\u0323 \ufb01\ufb03\ufb06 \u00df\u1e9e", "\u1100\u1161\u11a8\u1100\u1161 \uac00\u11a8 \ud55c\uae00",
    "\u0378\u0379\U000e0080\U0010fffd\ufffe\uffff", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 "
    "\U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1e9\U0001f1ea", "\U0001d518\U0001d52b\U0001d526 \U00020000\U0002f800",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u200f\u202eabc\u202c", "\u65e5\u672c\u8a9e\u3068\u4e2d\u6587 \u0e44\u0e17\u0e22",
    "\t\v\f\r\x1c\x1d\x1e\x1f\x85\u00a0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000|",
    "a\u180eb \u180e \u200b\u2060\ufeff", "line\r\nline\r\n\r\n\rline\n\n\n  end\n", "a" + " " * 100 + "b" + " " * 7,
    " " * 23, " " * 24, " " * 25, " " * 49 + "x", "\n" * 40 + "x", "\t  \t x \t", "\x00\x01\x02 a\x00b \x00 \x7f\x1b[0m",
    "<|endoftext|>", "a<|endoftext|>b <|endoftext|> <|endoftext|><|endoftext|>c", "<|endoftext|", "<|<|endoftext|>|>",
    "<|padding|> <|endoftext|>\n", "1234567890 3.14 \u00b2\u00bd\u2167\u0663\u09ea x1y2 1st", "$5 + 3 = 8; a_b __init__ #tag @x.y",
    "\u212b\u2126\uf900 \u0340\u0341\u0343\u0374", "\u0f71\u0f72\u0f74\u0f80 \u0c46\u0c56 \u1b06\u1b35",
    "QQ aQQb QQ. _QQ QQ\u0301 (QQ)  QQ  end", "\u00c5ngstrom A\u030angstrom \u212bngstrom xA\u030ay",
    "\u24b6\u24d0 \u2160 \u203f \u200d\u200c x\u200dQQ \u24b6QQ QQ\u2160", "abc123def  456\tghi...?! --- '''",
    "def f(x):\n    return  x ** 2  # \u03b1\u03b2\n\n\n\tpass\n", "http://example.org/a?b=c&d=%20e#f",
]
LONG = [("a", 100000), ("antidisestablishmentarianism", 4000), (" ", 100000), ("\u65e5", 30000), ("!", 100001),
        ("e\u0301", 30000), ("zq", 50000), ("\r\n", 30000)]


def token(content, number, **flags):
    return dict({"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
                 "normalized": False, "special": False}, **flags)


def split(pattern, behavior, invert=False):
    kind = "String" if isinstance(pattern, tuple) else "Regex"
    return {"type": "Split", "pattern": {kind: pattern[0] if kind == "String" else pattern},
            "behavior": behavior, "invert": invert}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2 = dict(BYTES, use_regex=True)
GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+")
END = token("<|endoftext|>", 0, special=True)

# JSON merge patches of the bundled tokenizer.
VARIANTS = [{}] + [
    {"normalizer": {"type": form}} for form in ("NFC", "NFD", "NFKC", "NFKD")
] + [
    {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "NFC"}]}},
    {"pre_tokenizer": {"add_prefix_space": True}},
    {"pre_tokenizer": sequence(split(GPT4, "Isolated"), BYTES)},
    {"pre_tokenizer": sequence(split(GPT4, "Removed", True), BYTES)},
    {"pre_tokenizer": sequence(split(GPT4, "Isolated"), dict(BYTES, add_prefix_space=True))},
] + [
    {"pre_tokenizer": sequence(split(pattern, behavior, invert), BYTES)}
    for pattern in (r"\s+", r"\w+|[^\w\s]+", (" ",), r"[a-e]*", r"\d|\D$|^l")
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
    for invert in (False, True)
] + [
    # As in Falcon Mamba: what follows ByteLevel sees symbols.
    {"pre_tokenizer": sequence({"type": "Punctuation", "behavior": "Contiguous"}, GPT2,
                               {"type": "Digits", "individual_digits": False},
                               split("[0-9][0-9][0-9]", "Isolated"))},
    {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, GPT2)},
    {"added_tokens": [END, token("QQ", 2048, single_word=True)]},
    {"added_tokens": [END, token("QQ", 2048, lstrip=True), token("b", 66, rstrip=True)]},
    {"added_tokens": [END, token("QQ", 2048, lstrip=True, rstrip=True), token("  ", 2049)]},
    {"added_tokens": [END, token("  ", 2048), token("   ", 2049), token("    x", 2050, special=True)]},
    {"added_tokens": [END, token("\u00c5n", 2048, normalized=True), token("\u212bngs", 2049, normalized=True)],
     "normalizer": {"type": "NFD"}},
    {"added_tokens": [END, token("\u00c5n", 2048, normalized=False)], "normalizer": {"type": "NFD"}},
    {"model": {"ignore_merges": True}},
    {"model": {"merges": None, "vocab": {"a": None}}},  # filled in by variant()
    {"model": {"unk_token": "<|endoftext|>", "fuse_unk": False, "vocab": {"a": None}}},
    {"model": {"unk_token": "<|endoftext|>", "fuse_unk": True, "vocab": {"a": None}}},
]


def merge(target, patch):
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge(target.get(key), value)
    return target


def variants(bundled):
    """Patches in full: without the letter a no merge may make or use a token with it."""
    for patch in VARIANTS:
        if "a" in patch.get("model", {}).get("vocab", {}):
            merges = [pair for pair in bundled["model"]["merges"] if "a" not in "".join(pair)][:200]
            patch = merge(patch, {"model": {"merges": merges}})
            patch["model"]["vocab"] = {"a": None}
        yield patch


def strings(seed, count):
    """Random mixtures of awkward alphabets; of code points those that Unicode 3.2 assigns,
    because icd and tokenizers read later versions of Unicode, and not the same."""
    draw = random.Random(seed)
    alphabets = ["abcdefghij", " ", " \t\n\r", "0123456789", ".,;!?'\"-", "\u0300\u0301\u0323\u0345", "\u1100\u1161\u11a8",
                 "'s't're've'm'll'd", "<|endoftext|>"]
    for _ in range(count):
        out = []
        for _ in range(draw.randrange(1, 30)):
            kind = draw.randrange(len(alphabets) + 3)
            if kind < len(alphabets):
                out += draw.choices(alphabets[kind], k=draw.randrange(1, 6))
            elif kind == len(alphabets):
                out.append("<|endoftext|>")
            else:
                point = draw.randrange(0x10ffff if kind == len(alphabets) + 1 else 0x3100)
                category = unicodedata.ucd_3_2_0.category(chr(point))
                out.append(chr(point) if category not in ("Cn", "Cs") else "\ufffd")
        yield "".join(out)


def digest(ids):
    values = array.array("i", ids)
    if sys.byteorder == "big":
        values.byteswap()
    return hashlib.sha256(values.tobytes()).hexdigest()


class Program:
    def __init__(self, path):
        self.path = str(path)

    def run(self, arguments, text=None):
        out = subprocess.run([self.path] + [str(a) for a in arguments], input=text, check=True,
                             stdout=subprocess.PIPE, encoding="ascii").stdout
        return [[int(i) for i in line.split()] for line in out.split("\n")[:-1]]

    def strings(self, tokenizer, texts):
        return self.run([tokenizer], "".join(json.dumps(t) + "\n" for t in texts))

    def file(self, tokenizer, path):
        return self.run(["--whole", tokenizer, path])[0]


def ids_of(reference, texts):
    return [e.ids for e in reference.encode_batch(list(texts), add_special_tokens=False)]


def compare(name, texts, expected, found):
    count = sum(map(len, expected))
    wrong = [i for i in range(len(texts)) if expected[i] != found[i]]
    print(f"  {name}: {len(texts)} strings, {count} ids, {len(wrong)} strings differ")
    for i in wrong[:5]:
        print(f"    {texts[i][:60]!r}: tokenizers {expected[i][:20]}, icd {found[i][:20]}")
    return len(wrong)


def compare_all(options):
    program = Program(options.program)
    wrong = 0
    awkward = AWKWARD + [unit * times for unit, times in LONG]
    drawn = list(strings(options.seed, options.strings))
    points = [p for p in range(0x110000)
              if not 0xd800 <= p < 0xe000 and not 0x4e00 <= p < 0x9f00 and not 0xac00 <= p < 0xd7a0
              and not 0xe000 <= p < 0xf900 and not 0x40000 <= p < 0xe0000 and p < 0xf0000]
    for path in options.tokenizer:
        reference = tokenizers.Tokenizer.from_file(str(path))
        print(path)
        for file in options.text:
            text = file.read_bytes().decode()
            wrong += compare(file.name, [text], ids_of(reference, [text]), [program.file(path, file)])
        wrong += compare("awkward", awkward, ids_of(reference, awkward), program.strings(path, awkward))
        wrong += compare("drawn", drawn, ids_of(reference, drawn), program.strings(path, drawn))
        if not options.points:
            continue
        # A contraction is one token after a letter, a digit, a space, not after other characters.
        each = [f"{chr(p)}'t {chr(p)}\u0323\u0301" for p in points]
        expected, found = ids_of(reference, each), program.strings(path, each)
        differ = [p for p, e, f in zip(points, expected, found) if e != f]
        print(f"  code points: {len(points)} strings, {sum(map(len, expected))} ids, "
              f"{len(differ)} code points differ")
        for begin, end in runs(differ)[:options.show]:
            print(f"    U+{begin:04X}..U+{end:04X} "
                  f"{unicodedata.category(chr(begin))} in Unicode {unicodedata.unidata_version}")
    bundled = json.loads(BUNDLED.read_text())
    texts = AWKWARD + drawn[:300]
    print(f"variants of {BUNDLED}")
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "tokenizer.json"
        for number, patch in enumerate(variants(bundled)):
            file.write_text(json.dumps(merge(bundled, patch)))
            reference = tokenizers.Tokenizer.from_file(str(file))
            name = f"{number} {json.dumps(patch)[:150]}"
            wrong += compare(name, texts, ids_of(reference, texts), program.strings(file, texts))
    print("the same" if wrong == 0 else f"{wrong} strings differ")
    return 1 if wrong else 0


def runs(points):
    out = []
    for p in points:
        if out and out[-1][1] == p - 1:
            out[-1][1] = p
        else:
            out.append([p, p])
    return out


def write_golden(options):
    bundled = json.loads(BUNDLED.read_text())
    cases = []
    for patch in variants(bundled):
        reference = tokenizers.Tokenizer.from_str(json.dumps(merge(bundled, patch)))
        cases.append({"patch": patch, "ids": ids_of(reference, AWKWARD)})
    reference = tokenizers.Tokenizer.from_file(str(BUNDLED))
    long = []
    for unit, times in LONG:
        ids = ids_of(reference, [unit * times])[0]
        long.append({"unit": unit, "times": times, "count": len(ids), "sha256": digest(ids)})
    files = []
    for path in options.tokenizer:
        reference = tokenizers.Tokenizer.from_file(str(path))
        for file in options.text:
            ids = ids_of(reference, [file.read_bytes().decode()])[0]
            files.append({"tokenizer": below_shared(path), "text": below_shared(file), "count": len(ids),
                          "sha256": digest(ids)})
    golden = {
        "provenance": {"library": f"tokenizers {tokenizers.__version__}",
                       "command": "experiments/conformance/tokenizer.py " + " ".join(sys.argv[1:]),
                       "digest": "SHA-256 of the ids as little-endian 32-bit integers",
                       "patch": "RFC 7396, on experiments/models/mamba-novels-2m-hf/tokenizer.json"},
        "texts": AWKWARD, "cases": cases, "long": long, "shared": files,
    }
    lines = json.dumps(golden, ensure_ascii=True, separators=(",", ":"))
    for mark in ('{"patch"', '{"unit"', '{"tokenizer"', '"texts"', '"cases"', '"long"', '"shared"'):
        lines = lines.replace(mark, "\n" + mark)
    options.golden.write_text(lines + "\n")
    return 0


def below_shared(path):
    path = path.resolve()
    parts = path.parts
    return "/".join(parts[parts.index("shared") + 1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, help="icd_tokenize, from the build folder")
    parser.add_argument("--tokenizer", type=pathlib.Path, nargs="+", default=[BUNDLED])
    parser.add_argument("--text", type=pathlib.Path, nargs="*", default=[])
    parser.add_argument("--golden", type=pathlib.Path, help="write this file instead of comparing")
    parser.add_argument("--points", action="store_true", help="compare code points one by one (minutes)")
    parser.add_argument("--strings", type=int, default=3000, help="strings to draw")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=12, help="runs of differing code points to print")
    options = parser.parse_args()
    if options.golden:
        return write_golden(options)
    if not options.program:
        parser.error("--program is needed")
    return compare_all(options)


if __name__ == "__main__":
    sys.exit(main())
