#include "icd/graph_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "graph_builder.h"
#include "icd/error.h"
#include "icd/output_folder.h"
#include "icd/tensor_view.h"
#include "mapped_file.h"
#include "quote.h"
#include "safetensors.h"

namespace icd {
namespace {

namespace fs = std::filesystem;

// Far beyond any axis, and small enough that a row of pointers is no harm.
constexpr std::int64_t kMostVertices = std::int64_t{1} << 24;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

[[noreturn]] void refuse(const fs::path& file, const std::string& fault) {
  throw Error(ErrorCode::input, fmt::format("{}: {}", file.string(), fault));
}

bool is_weight(double weight) {
  return weight >= 0 && weight <= static_cast<double>(std::numeric_limits<float>::max());
}

/// Rows as a file has them: in any order, and not known to be symmetric.
struct LooseRows {
  std::vector<std::int64_t> begin;    ///< (n + 1)
  std::vector<Neighbour> neighbours;  ///< zeros and loops have been dealt with
  int first_number = 0;               ///< what the file calls vertex 0
};

const Neighbour* find_neighbour(const LooseRows& rows, Index u, Index v) {
  const auto* first = rows.neighbours.data() + rows.begin[at(u)];
  const auto* last = rows.neighbours.data() + rows.begin[at(u) + 1];
  const auto* found = std::lower_bound(
      first, last, v, [](const Neighbour& next, Index vertex) { return next.vertex < vertex; });
  return found != last && found->vertex == v ? found : nullptr;
}

/// Sorts rows, and refuses pairs that stand in the file twice or whose entries differ.
Graph graph_of(const fs::path& file, LooseRows rows) {
  const auto n = static_cast<Index>(rows.begin.size() - 1);
  const auto number = [&](Index v) { return std::int64_t{v} + rows.first_number; };
  for (Index u = 0; u < n; ++u) {
    const auto first = rows.neighbours.begin() + rows.begin[at(u)];
    const auto last = rows.neighbours.begin() + rows.begin[at(u) + 1];
    const auto by_vertex = [](const Neighbour& a, const Neighbour& b) {
      return a.vertex < b.vertex;
    };
    if (!std::is_sorted(first, last, by_vertex)) std::sort(first, last, by_vertex);
    const auto twice = std::adjacent_find(
        first, last, [](const Neighbour& a, const Neighbour& b) { return a.vertex == b.vertex; });
    if (twice != last) {
      refuse(file, fmt::format("the edge from {} to {} is there twice, expected once", number(u),
                               number(twice->vertex)));
    }
  }
  for (Index u = 0; u < n; ++u) {
    for (std::int64_t i = rows.begin[at(u)]; i < rows.begin[at(u) + 1]; ++i) {
      const Neighbour& edge = rows.neighbours[at(i)];
      const Neighbour* back = find_neighbour(rows, edge.vertex, u);
      if (back != nullptr && back->weight == edge.weight) continue;
      refuse(file,
             fmt::format("the weight from {0} to {1} is {2}, but {3} from {1} to {0}; expected "
                         "a symmetric graph",
                         number(u), number(edge.vertex), edge.weight,
                         back == nullptr ? 0.0F : back->weight));
    }
  }
  return GraphBuilder::of_rows(std::move(rows.begin), std::move(rows.neighbours));
}

struct Entry {
  Index u;
  Index v;
  float weight;
};

LooseRows rows_of(Index n, const std::vector<Entry>& entries, bool is_each_both) {
  LooseRows rows{
      .begin = std::vector<std::int64_t>(at(n) + 1), .neighbours = {}, .first_number = 1};
  for (const Entry& entry : entries) {
    ++rows.begin[at(entry.u) + 1];
    if (is_each_both) ++rows.begin[at(entry.v) + 1];
  }
  for (std::size_t u = 0; u < at(n); ++u) rows.begin[u + 1] += rows.begin[u];
  std::vector<std::int64_t> next(rows.begin.begin(), rows.begin.end() - 1);
  rows.neighbours.resize(at(rows.begin.back()));
  for (const Entry& entry : entries) {
    rows.neighbours[at(next[at(entry.u)]++)] = {entry.v, entry.weight};
    if (is_each_both) rows.neighbours[at(next[at(entry.v)]++)] = {entry.u, entry.weight};
  }
  return rows;
}

/// The lines of a text file, and the words of each.
class Lines {
 public:
  explicit Lines(const fs::path& file) : map_(file) {
    if (map_.bytes > 0) rest_ = {reinterpret_cast<const char*>(map_.data), at(map_.bytes)};
  }

  std::int64_t bytes() const noexcept { return map_.bytes; }

  /// Goes to the next line; false at the end of the file.
  bool next() {
    if (rest_.empty()) return false;
    const std::size_t end = std::min(rest_.find('\n'), rest_.size());
    line_ = rest_.substr(0, end);
    rest_.remove_prefix(std::min(end + 1, rest_.size()));
    if (line_.ends_with('\r')) line_.remove_suffix(1);
    ++number_;
    return true;
  }

  /// The same, past comments.
  bool next_without_comments() {
    while (next()) {
      if (!line_.starts_with('%')) return true;
    }
    return false;
  }

  std::string_view line() const noexcept { return line_; }

  /// The next word of the line; empty at its end.
  std::string_view word() {
    const std::size_t begin = line_.find_first_not_of(" \t");
    if (begin == std::string_view::npos) {
      line_ = {};
      return {};
    }
    line_.remove_prefix(begin);
    const std::string_view word = line_.substr(0, line_.find_first_of(" \t"));
    line_.remove_prefix(word.size());
    return word;
  }

  bool is_at_end_of_line() const noexcept {
    return line_.find_first_not_of(" \t") == std::string_view::npos;
  }

  /// The next word as a whole number from `least` to `most`.
  std::int64_t whole(std::string_view what, std::int64_t least, std::int64_t most) {
    const std::string_view text = word();
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < least || value > most) {
      refuse_word(what, text, fmt::format("a whole number from {} to {}", least, most));
    }
    return value;
  }

  /// The next word as a weight.
  float weight() {
    const std::string_view text = word();
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || !is_weight(value)) {
      refuse_word("weight", text, "a finite number that is not negative");
    }
    return static_cast<float>(value);
  }

  void expect_end_of_line() {
    if (const std::string_view text = word(); !text.empty()) {
      fail(fmt::format("{} is too much, expected the end of the line", quote(text)));
    }
  }

  [[noreturn]] void fail(const std::string& fault) const {
    refuse(map_.path, fmt::format("line {}: {}", number_, fault));
  }

 private:
  [[noreturn]] void refuse_word(std::string_view what, std::string_view text,
                                const std::string& expected) const {
    if (text.empty()) fail(fmt::format("{} is missing, expected {}", what, expected));
    fail(fmt::format("{} is {}, expected {}", what, quote(text), expected));
  }

  MappedFile map_;
  std::string_view rest_;
  std::string_view line_;
  std::int64_t number_ = 0;
};

// ---- METIS ----

Graph read_metis(const fs::path& file) {
  Lines lines(file);
  if (!lines.next_without_comments()) refuse(file, "has no header, expected 'vertices edges'");
  const std::int64_t n = lines.whole("number of vertices", 0, kMostVertices);
  // Every edge stands in two rows, with a blank or a line's end after it.
  const std::int64_t edges = lines.whole("number of edges", 0, lines.bytes() / 4);
  const std::string_view format = lines.word();
  if (format.size() > 3 || format.find_first_not_of("01") != std::string_view::npos) {
    lines.fail(fmt::format("format is {}, expected up to three digits 0 or 1", quote(format)));
  }
  const auto has = [&](std::size_t from_right) {
    return format.size() > from_right && format[format.size() - 1 - from_right] == '1';
  };
  const bool has_edge_weights = has(0);
  std::int64_t vertex_weights = has(1) ? 1 : 0;
  if (!lines.is_at_end_of_line()) {
    const std::int64_t constraints = lines.whole("weights a vertex", 0, 1 << 10);
    if (has(1)) vertex_weights = constraints;
  }
  lines.expect_end_of_line();
  const std::int64_t skipped = vertex_weights + (has(2) ? 1 : 0);

  LooseRows rows{.begin = {0}, .neighbours = {}, .first_number = 1};
  rows.begin.reserve(at(n) + 1);
  rows.neighbours.reserve(at(2 * edges));
  for (std::int64_t u = 1; u <= n; ++u) {
    if (!lines.next_without_comments()) {
      refuse(file, fmt::format("has {} rows, expected {}, one a vertex", u - 1, n));
    }
    for (std::int64_t i = 0; i < skipped; ++i) {
      lines.whole("weight of a vertex", 0, std::numeric_limits<std::int64_t>::max());
    }
    while (!lines.is_at_end_of_line()) {
      const std::int64_t v = lines.whole("neighbour", 1, n);
      if (v == u) lines.fail(fmt::format("vertex {} is its own neighbour, expected no loops", u));
      const std::int64_t weight =
          has_edge_weights ? lines.whole("weight", 1, std::numeric_limits<std::int64_t>::max()) : 1;
      if (std::ssize(rows.neighbours) == 2 * edges) {
        lines.fail(fmt::format("there are more than the header's {} edges", edges));
      }
      rows.neighbours.push_back({static_cast<Index>(v - 1), static_cast<float>(weight)});
    }
    rows.begin.push_back(std::ssize(rows.neighbours));
  }
  while (lines.next_without_comments()) {
    if (!lines.is_at_end_of_line()) lines.fail(fmt::format("is row {}, expected {}", n + 1, n));
  }
  if (std::ssize(rows.neighbours) != 2 * edges) {
    refuse(file, fmt::format("has {} neighbours in its rows, expected twice the header's {} edges",
                             rows.neighbours.size(), edges));
  }
  return graph_of(file, std::move(rows));
}

/// A power of two.
double metis_scale(const Graph& graph) {
  constexpr int kBits = 20;
  float heaviest = 0;
  for (Index u = 0; u < graph.size(); ++u) {
    for (const Neighbour& next : graph.neighbours(u)) heaviest = std::max(heaviest, next.weight);
  }
  return heaviest == 0 ? 1 : std::ldexp(1.0, kBits - 1 - std::ilogb(heaviest));
}

template <typename Write>
void write_metis(const Graph& graph, const Write& write) {
  const double scale = metis_scale(graph);
  write(fmt::format("% icd: weights times {}, rounded, at least 1\n{} {} 001\n", scale,
                    graph.size(), graph.edges()));
  for (Index u = 0; u < graph.size(); ++u) {
    fmt::memory_buffer row;
    for (const Neighbour& next : graph.neighbours(u)) {
      const auto weight = static_cast<std::int64_t>(
          std::max(1.0, std::floor(static_cast<double>(next.weight) * scale + 0.5)));
      fmt::format_to(std::back_inserter(row), "{}{} {}", row.size() == 0 ? "" : " ",
                     next.vertex + 1, weight);
    }
    row.push_back('\n');
    write(std::string_view(row.data(), row.size()));
  }
}

// ---- Matrix Market ----

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

/// The next word of the banner, which is one of those expected.
std::string banner_word(Lines& lines, std::string_view what,
                        std::initializer_list<std::string_view> expected) {
  const std::string_view word = lines.word();
  std::string lower = lower_case(word);
  if (std::find(expected.begin(), expected.end(), lower) == expected.end()) {
    lines.fail(
        fmt::format("{} is {}, expected {}", what, quote(word), fmt::join(expected, " or ")));
  }
  return lower;
}

Graph read_matrix_market(const fs::path& file) {
  Lines lines(file);
  if (!lines.next()) refuse(file, "is empty, expected '%%MatrixMarket'");
  banner_word(lines, "banner", {"%%matrixmarket"});
  banner_word(lines, "object", {"matrix"});
  banner_word(lines, "format", {"coordinate"});
  const bool has_weights = banner_word(lines, "field", {"real", "integer", "pattern"}) != "pattern";
  const bool is_symmetric = banner_word(lines, "symmetry", {"symmetric", "general"}) == "symmetric";
  lines.expect_end_of_line();

  const auto next_filled = [&] {
    while (lines.next_without_comments()) {
      if (!lines.is_at_end_of_line()) return true;
    }
    return false;
  };
  if (!next_filled()) refuse(file, "has no sizes, expected 'rows columns entries'");
  const std::int64_t n = lines.whole("number of rows", 0, kMostVertices);
  const std::int64_t columns = lines.whole("number of columns", 0, kMostVertices);
  if (columns != n) {
    lines.fail(fmt::format("the matrix is ({}, {}), expected a square one", n, columns));
  }
  const std::int64_t count = lines.whole("number of entries", 0, lines.bytes() / 4);
  lines.expect_end_of_line();

  std::vector<Entry> entries;
  entries.reserve(at(count));
  std::int64_t read = 0;
  for (; next_filled(); ++read) {
    if (read == count) lines.fail(fmt::format("is entry {}, expected {}", read + 1, count));
    const std::int64_t u = lines.whole("row", 1, n);
    const std::int64_t v = lines.whole("column", 1, n);
    const float weight = has_weights ? lines.weight() : 1;
    lines.expect_end_of_line();
    if (u == v) lines.fail(fmt::format("({}, {}) is a loop, expected none", u, v));
    if (weight == 0) continue;
    entries.push_back({static_cast<Index>(u - 1), static_cast<Index>(v - 1), weight});
  }
  if (read != count) refuse(file, fmt::format("has {} entries, expected {}", read, count));
  return graph_of(file, rows_of(static_cast<Index>(n), entries, is_symmetric));
}

template <typename Write>
void write_matrix_market(const Graph& graph, const Write& write) {
  write(fmt::format("%%MatrixMarket matrix coordinate real symmetric\n{0} {0} {1}\n", graph.size(),
                    graph.edges()));
  for (Index u = 0; u < graph.size(); ++u) {
    fmt::memory_buffer rows;
    for (const Neighbour& next : graph.neighbours(u)) {
      if (next.vertex >= u) break;  // the lower triangle, as the format wants it
      fmt::format_to(std::back_inserter(rows), "{} {} {}\n", u + 1, next.vertex + 1, next.weight);
    }
    write(std::string_view(rows.data(), rows.size()));
  }
}

// ---- safetensors ----

class TensorFile {
 public:
  explicit TensorFile(const fs::path& file) : map_(file) {
    for (StoredTensor& tensor : read_safetensors(map_, 0)) {
      std::string name = tensor.name;
      tensors_.emplace(std::move(name), std::move(tensor));
    }
  }

  const StoredTensor* find(const char* name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
  }

  const StoredTensor& tensor(const char* name, std::size_t rank) const {
    const StoredTensor* found = find(name);
    if (found == nullptr) refuse(map_.path, fmt::format("tensor '{}': is missing", name));
    if (found->shape.size() != rank) {
      fail(*found, fmt::format("shape is {}, expected {}", shape_text(found->shape),
                               rank == 1 ? "one axis" : "(n, n)"));
    }
    return *found;
  }

  std::vector<std::int64_t> whole_numbers(const char* name) const {
    const StoredTensor& stored = tensor(name, 1);
    std::vector<std::int64_t> values(at(stored.shape[0]));
    const std::byte* from = map_.data + stored.begin;
    if (stored.dtype == DType::i64) {
      if (!values.empty()) std::memcpy(values.data(), from, values.size() * sizeof(std::int64_t));
    } else if (stored.dtype == DType::i32) {
      for (std::size_t i = 0; i < values.size(); ++i) {
        std::int32_t value = 0;
        std::memcpy(&value, from + i * sizeof(value), sizeof(value));
        values[i] = value;
      }
    } else {
      fail(stored, fmt::format("dtype is {}, expected I32 or I64", stored.dtype_text));
    }
    return values;
  }

  std::vector<float> weights(std::size_t rank) const {
    const StoredTensor& stored = tensor("weights", rank);
    if (!is_readable_float(stored.dtype)) {
      fail(stored, fmt::format("dtype is {}, expected a floating type", stored.dtype_text));
    }
    const TensorView view{stored.dtype, stored.shape, stored.strides, map_.data + stored.begin};
    std::vector<float> values(at(view.elements()));
    read_as(view, values);
    return values;
  }

  [[noreturn]] void fail(const StoredTensor& tensor, const std::string& fault) const {
    refuse(map_.path, fmt::format("tensor '{}': {}", tensor.name, fault));
  }

 private:
  MappedFile map_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
};

Graph read_matrix(const fs::path& file, const TensorFile& tensors) {
  const StoredTensor& stored = tensors.tensor("weights", 2);
  if (stored.shape[0] != stored.shape[1] || stored.shape[0] > kMostVertices) {
    tensors.fail(stored, fmt::format("shape is {}, expected (n, n)", shape_text(stored.shape)));
  }
  const std::vector<float> weights = tensors.weights(2);
  try {
    return Graph::from_matrix(weights, static_cast<Index>(stored.shape[0]));
  } catch (const Error& error) {
    refuse(file, error.what());  // the file's fault, not the caller's
  }
}

Graph read_compressed(const fs::path& file, const TensorFile& tensors) {
  const auto begin = tensors.whole_numbers("indptr");
  const auto indices = tensors.whole_numbers("indices");
  const auto weights = tensors.weights(1);
  const StoredTensor& indptr = tensors.tensor("indptr", 1);
  if (begin.empty() || std::ssize(begin) > kMostVertices + 1 || begin.front() != 0 ||
      begin.back() != std::ssize(indices) || !std::is_sorted(begin.begin(), begin.end())) {
    tensors.fail(indptr, fmt::format("expected numbers that rise from 0 to {}, the size of indices",
                                     indices.size()));
  }
  if (weights.size() != indices.size()) {
    tensors.fail(tensors.tensor("weights", 1),
                 fmt::format("has {} entries, expected {}, the size of indices", weights.size(),
                             indices.size()));
  }
  const std::int64_t n = std::ssize(begin) - 1;
  LooseRows rows{.begin = {0}, .neighbours = {}, .first_number = 0};
  rows.begin.reserve(begin.size());
  rows.neighbours.reserve(indices.size());
  for (std::int64_t u = 0; u < n; ++u) {
    for (std::int64_t i = begin[at(u)]; i < begin[at(u) + 1]; ++i) {
      const std::int64_t v = indices[at(i)];
      if (v < 0 || v >= n || v == u) {
        tensors.fail(
            tensors.tensor("indices", 1),
            fmt::format("entry {} is {} in row {}, expected another vertex below {}", i, v, u, n));
      }
      const float weight = weights[at(i)];
      if (!is_weight(static_cast<double>(weight))) {
        tensors.fail(tensors.tensor("weights", 1),
                     fmt::format("entry {} is {}, expected a finite number that is not negative", i,
                                 weight));
      }
      if (weight != 0) rows.neighbours.push_back({static_cast<Index>(v), weight});
    }
    rows.begin.push_back(std::ssize(rows.neighbours));
  }
  return graph_of(file, std::move(rows));
}

Graph read_tensors(const fs::path& file) {
  const TensorFile tensors(file);
  return tensors.find("indptr") != nullptr ? read_compressed(file, tensors)
                                           : read_matrix(file, tensors);
}

template <typename T>
std::string_view bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

template <typename Write>
void write_tensors(const Graph& graph, const Write& write) {
  std::vector<std::int64_t> begin = {0};
  for (Index u = 0; u < graph.size(); ++u) begin.push_back(begin.back() + graph.degree(u));
  const std::vector<SafetensorsEntry> entries = {{"indptr", DType::i64, {std::ssize(begin)}},
                                                 {"indices", DType::i32, {begin.back()}},
                                                 {"weights", DType::f32, {begin.back()}}};
  write(safetensors_header(entries));
  write(bytes_of(begin));
  std::vector<Index> vertices;
  std::vector<float> weights;
  for (Index u = 0; u < graph.size(); ++u) {
    vertices.clear();
    for (const Neighbour& next : graph.neighbours(u)) vertices.push_back(next.vertex);
    write(bytes_of(vertices));
  }
  for (Index u = 0; u < graph.size(); ++u) {
    weights.clear();
    for (const Neighbour& next : graph.neighbours(u)) weights.push_back(next.weight);
    write(bytes_of(weights));
  }
}

// ---- any of them ----

/// A new file that appears in its place when it is whole.
class NewFile {
 public:
  explicit NewFile(const fs::path& file)
      : file_(file), temporary_(sibling_of(file)), out_(temporary_, std::ios::binary) {
    if (!out_) fail("created", errno);
  }
  ~NewFile() {
    if (!is_finished_) ::unlink(temporary_.c_str());
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write(std::string_view bytes) {
    out_.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    if (!out_) fail("written", errno);
  }

  void finish() {
    out_.close();
    if (!out_) fail("written", errno);
    flush_to_disk(temporary_);
    if (::rename(temporary_.c_str(), file_.c_str()) != 0) fail("put in place", errno);
    is_finished_ = true;
  }

 private:
  static fs::path sibling_of(const fs::path& file) {
    fs::path sibling = file;
    return sibling += fmt::format(".icd-{}.tmp", ::getpid());
  }

  [[noreturn]] void fail(std::string_view step, int reason) const {
    throw Error(ErrorCode::io, fmt::format("{}: cannot be {}: {}", file_.string(), step,
                                           std::generic_category().message(reason)));
  }

  fs::path file_;
  fs::path temporary_;
  std::ofstream out_;
  bool is_finished_ = false;
};

[[noreturn]] void refuse_ending(const fs::path& file) {
  throw Error(ErrorCode::usage, fmt::format("{}: ends in {}, expected .mtx, .graph or .safetensors",
                                            file.string(), quote(file.extension().string())));
}

}  // namespace

Graph read_graph(const fs::path& file) {
  const fs::path ending = file.extension();
  if (ending == ".mtx") return read_matrix_market(file);
  if (ending == ".graph") return read_metis(file);
  if (ending == ".safetensors") return read_tensors(file);
  refuse_ending(file);
}

void write_graph(const Graph& graph, const fs::path& file) {
  const fs::path ending = file.extension();
  if (ending != ".mtx" && ending != ".graph" && ending != ".safetensors") refuse_ending(file);
  NewFile out(file);
  const auto write = [&](std::string_view bytes) { out.write(bytes); };
  if (ending == ".mtx") write_matrix_market(graph, write);
  if (ending == ".graph") write_metis(graph, write);
  if (ending == ".safetensors") write_tensors(graph, write);
  out.finish();
}

}  // namespace icd
