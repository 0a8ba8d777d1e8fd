#include "icd/graph_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "icd/error.h"
#include "icd/random.h"
#include "support/files.h"
#include "support/tiny_checkpoint.h"

namespace icd {
namespace {

using ::testing::HasSubstr;
using testing::read_file;
using testing::ScratchFolder;
using testing::TinyTensor;
using testing::write_file;

/// A share of all pairs, of weights over many magnitudes.
Graph random_graph(Index n, double share, std::uint64_t seed) {
  Random random(seed);
  std::vector<Graph::Edge> edges;
  for (Index u = 0; u < n; ++u) {
    for (Index v = 0; v < u; ++v) {
      if (random.uniform() >= share) continue;
      const int exponent = static_cast<int>(random.below(60)) - 30;
      edges.push_back({u, v, static_cast<float>(std::ldexp(1 + random.uniform(), exponent))});
    }
  }
  return Graph::from_edges(n, std::move(edges));
}

void expect_same(const Graph& a, const Graph& b) {
  ASSERT_EQ(a.size(), b.size());
  EXPECT_EQ(a.edges(), b.edges());
  EXPECT_EQ(a.total_weight(), b.total_weight());
  for (Index u = 0; u < a.size(); ++u) {
    for (Index v = 0; v < a.size(); ++v) {
      EXPECT_EQ(a.weight(u, v), b.weight(u, v)) << u << ", " << v;
    }
  }
}

RC_GTEST_PROP(GraphFile, GivesBackEveryBitOfWhatWasWritten, ()) {
  const ScratchFolder folder;
  const auto n = *rc::gen::inRange<Index>(0, 25);
  const double share = *rc::gen::element(0.0, 0.2, 1.0);
  const Graph graph = random_graph(n, share, *rc::gen::arbitrary<std::uint64_t>());
  for (const char* name : {"g.mtx", "g.safetensors"}) {
    write_graph(graph, folder / name);
    expect_same(read_graph(folder / name), graph);
  }
}

RC_GTEST_PROP(GraphFile, OfMetisHasRoundedWeights, ()) {
  const ScratchFolder folder;
  const auto n = *rc::gen::inRange<Index>(0, 25);
  const Graph graph = random_graph(n, 0.4, *rc::gen::arbitrary<std::uint64_t>());
  write_graph(graph, folder / "g.graph");
  const Graph found = read_graph(folder / "g.graph");
  RC_ASSERT(found.size() == n);
  RC_ASSERT(found.edges() == graph.edges());
  float heaviest = 0;
  for (Index u = 0; u < n; ++u) {
    for (const Neighbour& next : graph.neighbours(u)) heaviest = std::max(heaviest, next.weight);
  }
  const double scale = heaviest == 0 ? 1 : std::exp2(19 - std::floor(std::log2(heaviest)));
  for (Index u = 0; u < n; ++u) {
    for (const Neighbour& next : graph.neighbours(u)) {
      const double scaled = std::max(1.0, std::floor(double{next.weight} * scale + 0.5));
      RC_ASSERT(double{found.weight(u, next.vertex)} == scaled);
      RC_ASSERT(scaled < std::exp2(20) + 0.5);
    }
  }
}

TEST(GraphFile, IsWrittenAsTheOtherProgramsWantIt) {
  const ScratchFolder folder;
  const Graph graph = Graph::from_edges(4, {{0, 1, 0.75F}, {3, 1, 0.5F}});  // 2 is alone
  write_graph(graph, folder / "g.graph");
  EXPECT_EQ(read_file(folder / "g.graph"),
            "% icd: weights times 1048576, rounded, at least 1\n"
            "4 2 001\n2 786432\n1 786432 4 524288\n\n2 524288\n");
  write_graph(graph, folder / "g.mtx");
  EXPECT_EQ(read_file(folder / "g.mtx"),
            "%%MatrixMarket matrix coordinate real symmetric\n4 4 2\n2 1 0.75\n4 2 0.5\n");
}

/// The graph of a text, read.
Graph graph_of(const std::string& name, const std::string& text) {
  const ScratchFolder folder;
  write_file(folder / name, text);
  return read_graph(folder / name);
}

/// What a text is refused for.
std::string refusal(const std::string& name, const std::string& text) {
  try {
    graph_of(name, text);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::input);
    const std::string what = error.what();
    EXPECT_EQ(what.find('\n'), std::string::npos);
    return what.substr(what.find(name) + name.size() + 2);
  }
  return "nothing";
}

TEST(GraphFile, OfMetisMayHaveNoWeightsOrThoseOfVerticesToo) {
  const Graph plain = graph_of("g.graph", "% of the manual\n3 2\n2\n1 3\n% a comment\n2\n");
  EXPECT_EQ(plain.weight(0, 1), 1);
  EXPECT_EQ(plain.edges(), 2);
  // Sizes, two weights a vertex, and weights of edges.
  const Graph all = graph_of("g.graph", "3 2 111 2\n9 1 1 2 5\n9 1 1 1 5 3 6\n9 1 1 2 6\n\n");
  EXPECT_EQ(all.weight(0, 1), 5);
  EXPECT_EQ(all.weight(2, 1), 6);
  const Graph weighted = graph_of("g.graph", "2 1 10\r\n7 2\r\n7 1\r\n");
  EXPECT_EQ(weighted.weight(0, 1), 1);
}

TEST(GraphFile, OfMetisIsRefusedForItsFirstFault) {
  const auto metis = [](const std::string& text) { return refusal("g.graph", text); };
  EXPECT_EQ(metis(""), "has no header, expected 'vertices edges'");
  EXPECT_EQ(metis("2 x\n"), "line 1: number of edges is 'x', expected a whole number from 0 to 1");
  EXPECT_EQ(metis("2\n"),
            "line 1: number of edges is missing, expected a whole number from 0 to 0");
  EXPECT_THAT(metis("99999999999 1\n2\n1\n"),
              HasSubstr("line 1: number of vertices is '99999999999', expected a whole number"));
  EXPECT_THAT(metis("2 900000000000\n2\n1\n"), HasSubstr("line 1: number of edges is"));
  EXPECT_EQ(metis("2 1 002\n2\n1\n"),
            "line 1: format is '002', expected up to three digits 0 or 1");
  EXPECT_EQ(metis("2 1 0 1 1\n2\n1\n"), "line 1: '1' is too much, expected the end of the line");
  EXPECT_EQ(metis("2 1\n3\n1\n"), "line 2: neighbour is '3', expected a whole number from 1 to 2");
  EXPECT_EQ(metis("2 1\n0\n1\n"), "line 2: neighbour is '0', expected a whole number from 1 to 2");
  EXPECT_EQ(metis("% c\n2 1\n2\n2\n"), "line 4: vertex 2 is its own neighbour, expected no loops");
  EXPECT_THAT(metis("2 1 1\n2 0\n1 0\n"), HasSubstr("line 2: weight is '0', expected"));
  EXPECT_THAT(metis("2 1 1\n2 -3\n1 -3\n"), HasSubstr("line 2: weight is '-3', expected"));
  EXPECT_THAT(metis("2 1 1\n2 1.5\n1 1.5\n"), HasSubstr("line 2: weight is '1.5', expected"));
  EXPECT_THAT(metis("2 1 1\n2\n1 1\n"), HasSubstr("line 2: weight is missing, expected"));
  EXPECT_EQ(metis("3 1\n2\n1\n"), "has 2 rows, expected 3, one a vertex");
  EXPECT_EQ(metis("2 1\n2\n1\n1\n"), "line 4: is row 3, expected 2");
  EXPECT_EQ(metis("3 1\n2\n1 3\n2\n"), "line 3: there are more than the header's 1 edges");
  EXPECT_EQ(metis("3 2\n2\n1\n\n"),
            "has 2 neighbours in its rows, expected twice the header's 2 edges");
  EXPECT_EQ(metis("3 2\n2 2\n1 1\n\n"), "the edge from 1 to 2 is there twice, expected once");
  EXPECT_EQ(metis("3 1\n2\n3\n\n"),
            "the weight from 1 to 2 is 1, but 0 from 2 to 1; expected a symmetric graph");
  EXPECT_EQ(metis("2 1 1\n2 5\n1 6\n"),
            "the weight from 1 to 2 is 5, but 6 from 2 to 1; expected a symmetric graph");
}

TEST(GraphFile, OfMatrixMarketMayBeGeneralOrAPatternOrOfWholeNumbers) {
  const Graph general = graph_of("g.mtx",
                                 "%%MatrixMarket MATRIX Coordinate real General\n% a comment\n\n"
                                 "3 3 4\n1 2 0.5\n2 1 5e-1\n3 1 0\n1 3 0.0\n");
  EXPECT_EQ(general.weight(0, 1), 0.5F);
  EXPECT_EQ(general.edges(), 1);
  const Graph pattern = graph_of(
      "g.mtx", "%%MatrixMarket matrix coordinate pattern symmetric\r\n3 3 2\r\n1 3\r\n3 2\r\n");
  EXPECT_EQ(pattern.weight(0, 2), 1);
  EXPECT_EQ(pattern.weight(1, 2), 1);
  const Graph whole =
      graph_of("g.mtx", "%%MatrixMarket matrix coordinate integer symmetric\n2 2 1\n2 1 7\n");
  EXPECT_EQ(whole.weight(0, 1), 7);
}

TEST(GraphFile, OfMatrixMarketIsRefusedForItsFirstFault) {
  const auto whole = [](const std::string& text) { return refusal("g.mtx", text); };
  EXPECT_EQ(whole(""), "is empty, expected '%%MatrixMarket'");
  EXPECT_EQ(whole("3 3 1\n1 2 1\n"), "line 1: banner is '3', expected %%matrixmarket");
  EXPECT_EQ(whole("%%MatrixMarket matrix array real general\n"),
            "line 1: format is 'array', expected coordinate");
  EXPECT_EQ(whole("%%MatrixMarket matrix coordinate complex general\n"),
            "line 1: field is 'complex', expected real or integer or pattern");
  EXPECT_EQ(whole("%%MatrixMarket matrix coordinate real skew-symmetric\n"),
            "line 1: symmetry is 'skew-symmetric', expected symmetric or general");
  EXPECT_EQ(whole("%%MatrixMarket matrix coordinate real general\n% only comments\n"),
            "has no sizes, expected 'rows columns entries'");

  const auto body = [&](const std::string& lines) {
    return whole("%%MatrixMarket matrix coordinate real general\n" + lines);
  };
  EXPECT_EQ(body("3 4 1\n"), "line 2: the matrix is (3, 4), expected a square one");
  EXPECT_THAT(body("3000000000 3000000000 0\n"), HasSubstr("line 2: number of rows is"));
  EXPECT_THAT(body("3 3 4000000000000\n"), HasSubstr("line 2: number of entries is"));
  EXPECT_EQ(body("3 3 1\n1 4 1\n"), "line 3: column is '4', expected a whole number from 1 to 3");
  EXPECT_EQ(body("3 3 1\n0 1 1\n"), "line 3: row is '0', expected a whole number from 1 to 3");
  EXPECT_EQ(body("3 3 1\n\n2 2 1\n"), "line 4: (2, 2) is a loop, expected none");
  for (const char* bad : {"nan", "-1", "inf", "1e300", "0x1", "1,5"}) {
    EXPECT_EQ(body(std::string("3 3 1\n1 2 ") + bad + "\n"),
              std::string("line 3: weight is '") + bad +
                  "', expected a finite number that is not negative");
  }
  EXPECT_THAT(body("3 3 1\n1 2\n"), HasSubstr("line 3: weight is missing, expected"));
  EXPECT_EQ(body("3 3 1\n1 2 1 1\n"), "line 3: '1' is too much, expected the end of the line");
  EXPECT_EQ(body("3 3 1\n1 2 1\n2 1 1\n"), "line 4: is entry 2, expected 1");
  EXPECT_EQ(body("3 3 2\n1 2 1\n"), "has 1 entries, expected 2");
  EXPECT_EQ(body("3 3 1\n1 2 1\n"),
            "the weight from 1 to 2 is 1, but 0 from 2 to 1; expected a symmetric graph");
  EXPECT_EQ(body("3 3 3\n1 2 1\n2 1 1\n1 2 1\n"),
            "the edge from 1 to 2 is there twice, expected once");
  EXPECT_EQ(whole("%%MatrixMarket matrix coordinate real symmetric\n3 3 2\n2 1 1\n1 2 1\n"),
            "the edge from 1 to 2 is there twice, expected once");
}

template <typename T>
TinyTensor tensor(const std::string& name, const std::string& dtype, Shape shape,
                  const std::vector<T>& values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return {name, dtype, std::move(shape), std::move(bytes)};
}

TinyTensor whole_numbers(const std::string& name, const std::vector<std::int64_t>& values) {
  return tensor(name, "I64", {std::ssize(values)}, values);
}

TinyTensor numbers(const std::string& name, const std::vector<float>& values) {
  return tensor(name, "F32", {std::ssize(values)}, values);
}

TEST(GraphFile, OfTensorsMayBeRowsInAnyOrderOrAWholeMatrix) {
  const Graph rows = graph_of(
      "g.safetensors",
      testing::safetensors_bytes({tensor<std::int32_t>("indptr", "I32", {4}, {0, 2, 3, 4}),
                                  whole_numbers("indices", {2, 1, 0, 0}),
                                  tensor<double>("weights", "F64", {4}, {0.25, 0, 0, 0.25})}));
  EXPECT_EQ(rows.weight(2, 0), 0.25F);
  EXPECT_EQ(rows.edges(), 1);
  const Graph matrix =
      graph_of("g.safetensors",
               testing::safetensors_bytes({tensor<float>("weights", "F32", {2, 2}, {1, 3, 3, 1})}));
  EXPECT_EQ(matrix.weight(0, 1), 3);
}

TEST(GraphFile, OfTensorsIsRefusedForItsFirstFault) {
  const auto tensors = [](const std::vector<TinyTensor>& all) {
    return refusal("g.safetensors", testing::safetensors_bytes(all));
  };
  const auto rows = [&](const std::vector<std::int64_t>& begin,
                        const std::vector<std::int64_t>& indices,
                        const std::vector<float>& weights) {
    return tensors({whole_numbers("indptr", begin), whole_numbers("indices", indices),
                    numbers("weights", weights)});
  };
  EXPECT_EQ(rows({0, 1, 2}, {1, 0}, {1, 1}), "nothing");
  EXPECT_EQ(tensors({}), "tensor 'weights': is missing");
  EXPECT_EQ(tensors({whole_numbers("indptr", {0})}), "tensor 'indices': is missing");
  EXPECT_EQ(tensors({whole_numbers("indptr", {0}), numbers("indices", {})}),
            "tensor 'indices': dtype is F32, expected I32 or I64");
  EXPECT_EQ(tensors({tensor<float>("weights", "F32", {1, 2}, {0, 0})}),
            "tensor 'weights': shape is (1, 2), expected (n, n)");
  EXPECT_EQ(tensors({numbers("weights", {0})}), "tensor 'weights': shape is (1,), expected (n, n)");
  EXPECT_EQ(tensors({tensor<std::int32_t>("weights", "I32", {1, 1}, {0})}),
            "tensor 'weights': dtype is I32, expected a floating type");
  EXPECT_THAT(tensors({tensor<float>("weights", "F32", {2, 2}, {0, 1, 2, 0})}),
              HasSubstr("the weight between 0 and 1 is 1, but 2 between 1 and 0"));
  EXPECT_THAT(tensors({tensor<float>("weights", "F32", {2, 2}, {0, -1, -1, 0})}),
              HasSubstr("the weight between 0 and 1 is -1"));
  for (const std::vector<std::int64_t>& begin :
       std::vector<std::vector<std::int64_t>>{{}, {1, 2}, {0, 2, 1, 2}, {0, 3}}) {
    EXPECT_EQ(rows(begin, {1, 0}, {1, 1}),
              "tensor 'indptr': expected numbers that rise from 0 to 2, the size of indices");
  }
  EXPECT_EQ(rows({0, 1, 2}, {1, 0}, {1}),
            "tensor 'weights': has 1 entries, expected 2, the size of indices");
  for (const std::int64_t bad : {-1, 2, 0}) {
    EXPECT_EQ(rows({0, 1, 2}, {bad, 0}, {1, 1}), "tensor 'indices': entry 0 is " +
                                                     std::to_string(bad) +
                                                     " in row 0, expected another vertex below 2");
  }
  EXPECT_EQ(rows({0, 1, 2}, {1, 0}, {1, std::numeric_limits<float>::quiet_NaN()}),
            "tensor 'weights': entry 1 is nan, expected a finite number that is not negative");
  EXPECT_EQ(rows({0, 1, 1}, {1}, {1}),
            "the weight from 0 to 1 is 1, but 0 from 1 to 0; expected a symmetric graph");
}

TEST(GraphFile, HasAnEndingThatIcdKnows) {
  const ScratchFolder folder;
  write_file(folder / "g.txt", "");
  for (const auto& call :
       {std::function<void()>([&] { read_graph(folder / "g.txt"); }),
        std::function<void()>([&] { write_graph(Graph(), folder / "g.txt"); })}) {
    try {
      call();
      FAIL() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::usage);
      EXPECT_THAT(error.what(), HasSubstr("ends in '.txt', expected .mtx, .graph or .safetensors"));
    }
  }
}

TEST(GraphFile, LeavesNothingWhereItCannotBeWritten) {
  const ScratchFolder folder;
  std::filesystem::create_directory(folder / "g.mtx");
  write_file(folder / "g.mtx/inside", "");
  try {
    write_graph(Graph(), folder / "g.mtx");
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::io);
    EXPECT_THAT(error.what(), HasSubstr("g.mtx: cannot be put in place"));
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

}  // namespace
}  // namespace icd
