#pragma once

#include <filesystem>

#include "icd/graph.h"

namespace icd {

// The graph files of other programs, by their endings. Reading numbers vertices from 0, as all of
// icd does; the two text formats from 1.
//
//   .graph        METIS. Weights of edges are whole numbers there: written are all weights times
//                 one power of two, which puts the heaviest between 2^19 and 2^20, rounded, and at
//                 least 1; a comment names the factor. Weights and sizes of vertices are skipped.
//                 Source: G. Karypis, "METIS manual", 5.1.0, section 4.1.1.
//   .mtx          Matrix Market, coordinate: real, integer or pattern (weights 1), symmetric or
//                 general; written as real and symmetric, with every digit.
//                 Source: R. Boisvert et al., "The Matrix Market exchange formats", NISTIR 5935.
//   .safetensors  compressed rows: indptr (n + 1) and indices (2 edges), I32 or I64, and weights
//                 (2 edges), of a floating type; or weights (n, n), whose diagonal is ignored.
//                 Written as compressed rows in I64, I32 and F32.
//
// Whatever the format, both entries of a pair are equal, no pair stands in a file twice, and there
// are no loops. Weights are finite and not negative; those of 0 are no edges. Vertices: at most
// 2^24.

/// Throws Error{usage} for another ending, Error{input} for the first fault, with its line where
/// there are lines, Error{io} if the file cannot be read.
Graph read_graph(const std::filesystem::path& file);

/// Through a sibling temporary: whole or not at all. Throws Error{usage} for another ending,
/// Error{io}.
void write_graph(const Graph& graph, const std::filesystem::path& file);

}  // namespace icd
