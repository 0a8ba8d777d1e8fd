#!/usr/bin/env python3
"""Modularity of icd's Leiden and Louvain against igraph's, on the same graphs.

    run.py PROGRAM OUT.json [--seeds 5]

PROGRAM is build/leiden_runs. Needs numpy and igraph. Graphs are made from a seed and
written as Matrix Market files that both sides read; igraph computes every modularity.
"""
import argparse
import json
import platform
import random
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import igraph
import numpy


def planted(n, rng):
    """As experiments/planted: blocks of 64, weights up to 1 inside and 0.5 outside."""
    member = rng.permutation(n) // 64
    upper_i, upper_j = numpy.triu_indices(n, 1)
    inside = member[upper_i] == member[upper_j]
    kept = rng.random(len(upper_i)) < numpy.where(inside, 0.5, 0.025)
    u, v, inside = upper_i[kept], upper_j[kept], inside[kept]
    noise = rng.random(len(u))
    return u, v, numpy.where(inside, 0.5 + 0.5 * noise, 0.5 * noise)


def correlations(n, rng):
    """As experiments/equal_blocks: |r| of latent factors, every pair an edge."""
    community = numpy.repeat(numpy.arange(n), rng.integers(16, 161, n))[:n]
    factors = rng.standard_normal((1500, community.max() + 1))
    own = 0.2 + 0.8 * rng.random(n)
    rows = own * factors[:, community] + rng.random(n) * rng.standard_normal((1500, 1))
    rows += rng.standard_normal((1500, n))
    r = numpy.abs(numpy.corrcoef(rows[:, rng.permutation(n)], rowvar=False))
    u, v = numpy.triu_indices(n, 1)
    return u, v, r[u, v]


def write(path, n, u, v, weight):
    with open(path, "w", encoding="ascii") as file:
        file.write("%%MatrixMarket matrix coordinate real symmetric\n")
        file.write(f"{n} {n} {len(u)}\n")
        for i, j, w in zip(u, v, weight):
            file.write(f"{j + 1} {i + 1} {w:.9g}\n")


def timed(solve):
    begin = time.process_time()
    community = solve()
    return {"community": community, "cpu_seconds": time.process_time() - begin}


def theirs(graph, weights, seeds):
    runs = {"igraph leiden": [], "igraph louvain": []}
    for seed in range(seeds):
        random.seed(seed)
        runs["igraph leiden"].append(timed(lambda: graph.community_leiden(
            objective_function="modularity", weights=weights, n_iterations=10).membership))
        runs["igraph louvain"].append(timed(lambda: graph.community_multilevel(
            weights=weights).membership))
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("out")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    rng = numpy.random.default_rng(1)
    record = {"experiment": "leiden", "machine": platform.platform(),
              "igraph": igraph.__version__, "graphs": []}
    print("| graph | edges | method | Q median | Q least | Q most | communities | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    for name, n, make in [("planted", 768, planted), ("planted", 5120, planted),
                          ("correlations", 768, correlations),
                          ("correlations", 1536, correlations)]:
        u, v, weight = make(n, rng)
        weight = weight.astype(numpy.float32).astype(float)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.mtx"
            write(path, n, u, v, weight)
            ours = json.loads(subprocess.run([args.program, path, str(args.seeds)], check=True,
                                             capture_output=True).stdout)
        graph = igraph.Graph(n=n, edges=numpy.stack([u, v], 1).tolist())
        runs = {"icd leiden": ours["leiden"], "icd louvain": ours["louvain"]}
        runs.update(theirs(graph, weight.tolist(), args.seeds))
        rows = {}
        for method, samples in runs.items():
            q = [graph.modularity(s["community"], weights=weight.tolist()) for s in samples]
            sizes = [len(set(s["community"])) for s in samples]
            seconds = [s["cpu_seconds"] for s in samples]
            rows[method] = {"modularity": q, "communities": sizes, "cpu_seconds": seconds}
            print(f"| {name} {n} | {len(u)} | {method} | {statistics.median(q):.6f} | {min(q):.6f} "
                  f"| {max(q):.6f} | {statistics.median(sizes)} "
                  f"| {statistics.median(seconds):.3f} |", flush=True)
        record["graphs"].append({"graph": name, "n": n, "edges": len(u), "rows": rows})
    Path(args.out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
