#include "icd/verify.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "icd/block_forward.h"
#include "icd/error.h"
#include "icd/expand.h"
#include "icd/random.h"
#include "permute_tensor.h"

namespace icd {
namespace {

/// Where undoing the plan does not give back the original tensor; empty if it does. Both are
/// read in place: element i of the original has to be element p^-1[i] of the permuted one.
std::string tensor_fault(const Checkpoint& original, const Checkpoint& permuted,
                         const StoredTensor& tensor, const TensorMove& move) {
  const std::string& name = move.from.empty() ? tensor.name : move.from;
  const std::span<const AxisMove> undo = move.axes;
  const StoredTensor* other = permuted.find(name);
  if (other == nullptr) return fmt::format("tensor '{}': is missing", name);
  if (other->shape != tensor.shape || other->dtype_text != tensor.dtype_text) {
    return fmt::format("tensor '{}': is {} {}, the original is {} {}", tensor.name,
                       other->dtype_text, shape_text(other->shape), tensor.dtype_text,
                       shape_text(tensor.shape));
  }
  const TensorView before = original.view(tensor);
  const TensorView after = permuted.view(*other);
  const auto size = static_cast<std::size_t>(dtype_bytes(tensor.dtype));
  if (size == 0) {  // sub-byte or unknown: never moved, so the stretch of bytes is the tensor
    const bool same = tensor.span_bytes == other->span_bytes &&
                      std::equal(before.data, before.data + tensor.span_bytes, after.data);
    return same ? "" : fmt::format("tensor '{}': differs", tensor.name);
  }
  if (before.is_packed() && after.is_packed()) {
    const PackedPermuter permuter(after, undo);
    std::vector<std::byte> row(static_cast<std::size_t>(permuter.row_bytes()));
    const std::byte* expected = before.data;
    for (std::int64_t r = 0; r < permuter.rows() && !row.empty(); ++r, expected += row.size()) {
      permuter.write_rows(r, r + 1, row.data());
      const auto at = std::mismatch(row.begin(), row.end(), expected).first;
      if (at != row.end()) {
        return fmt::format("tensor '{}': row {}, element {} differs", tensor.name, r,
                           (at - row.begin()) / static_cast<std::ptrdiff_t>(size));
      }
    }
    return "";
  }
  // Views of different strides: walk the permuted one, look the original up by logical index.
  std::vector<std::byte> packed;
  packed.reserve(static_cast<std::size_t>(before.elements()) * size);
  for_each_moved_element(before, {}, [&](std::int64_t, std::int64_t from) {
    packed.insert(packed.end(), before.data + from, before.data + from + size);
  });
  std::size_t at = 0;
  std::string fault;
  for_each_moved_element(after, undo, [&](std::int64_t, std::int64_t from) {
    if (fault.empty() && std::memcmp(packed.data() + at, after.data + from, size) != 0) {
      fault = fmt::format("tensor '{}': element {} differs", tensor.name, at / size);
    }
    at += size;
  });
  return fault;
}

/// Bytes outside every tensor (headers, pickles, directories) of files of one kind have to
/// be equal, but for the checksums of storages.
std::string frame_fault(const Checkpoint& original, const Checkpoint& permuted) {
  if (original.container() != permuted.container()) return "";
  if (original.files().size() != permuted.files().size()) {
    return fmt::format("there are {} weight files, the original has {}", permuted.files().size(),
                       original.files().size());
  }
  for (std::size_t f = 0; f < original.files().size(); ++f) {
    const WeightFile& before = *original.files()[f];
    const WeightFile& after = *permuted.files()[f];
    if (before.bytes != after.bytes) {
      return fmt::format("{}: is {} bytes long, the original {}", after.name, after.bytes,
                         before.bytes);
    }
    std::vector<std::pair<std::int64_t, std::int64_t>> skipped;
    for (const StoredTensor& tensor : original.tensors()) {
      if (tensor.file == static_cast<int>(f)) {
        skipped.emplace_back(tensor.begin, tensor.begin + tensor.span_bytes);
      }
    }
    for (const StorageRecord& record : before.records) {
      for (const std::int64_t at : record.crc32_positions) skipped.emplace_back(at, at + 4);
    }
    skipped.emplace_back(before.bytes, before.bytes);
    std::sort(skipped.begin(), skipped.end());
    std::int64_t position = 0;
    for (const auto& [begin, end] : skipped) {
      if (begin > position) {
        const auto* stop = before.data + begin;
        const auto* at = std::mismatch(before.data + position, stop, after.data + position).first;
        if (at != stop) {
          return fmt::format("{}: byte {}, outside every tensor, differs", after.name,
                             at - before.data);
        }
      }
      position = std::max(position, end);
    }
  }
  return "";
}

std::string byte_fault(const Checkpoint& original, const Checkpoint& permuted, const Layout& layout,
                       const TensorMoves& moves, Progress& progress) {
  const ModelSpec& spec = layout.spec;
  std::int64_t total = 0;
  for (const auto& file : original.files()) total += file->bytes;
  progress.start("comparing bytes", total, "B");
  const TensorMoves undo = inverse(moves);
  static const TensorMove kNone;
  const bool converted = original.container() != permuted.container();
  for (const StoredTensor& tensor : original.tensors()) {
    // A tied head is a name of the embedding: a conversion may drop it, or add it.
    const bool is_tied_head = spec.tied_head && tensor.name == spec.head();
    if (converted && is_tied_head && permuted.find(tensor.name) == nullptr) continue;
    const auto own = undo.find(tensor.name);
    if (auto fault =
            tensor_fault(original, permuted, tensor, own == undo.end() ? kNone : own->second);
        !fault.empty()) {
      return fault;
    }
    progress.advance(tensor.span_bytes, tensor.name);
  }
  for (const StoredTensor& tensor : permuted.tensors()) {
    if (original.find(tensor.name) == nullptr && !(converted && tensor.name == spec.head())) {
      return fmt::format("tensor '{}': the original has none", tensor.name);
    }
  }
  return frame_fault(original, permuted);
}

/// Two rows of hidden values, made comparable: by the plan's order of the residual stream,
/// or, without one, by sorting both, which no order can change.
class RowAligner {
 public:
  explicit RowAligner(const Permutation* model) : model_(model) {}

  template <typename Real>
  double largest_difference(std::span<const Real> before, std::span<const Real> after,
                            std::int64_t channels, double& largest) {
    double difference = 0;
    std::vector<Real> a(static_cast<std::size_t>(channels));
    std::vector<Real> b(a.size());
    for (std::size_t row = 0; row < before.size(); row += a.size()) {
      for (std::size_t c = 0; c < a.size(); ++c) {
        const bool moves = model_ != nullptr && model_->size() > 0;
        a[c] =
            before[row + (moves ? static_cast<std::size_t>((*model_)[static_cast<Index>(c)]) : c)];
        b[c] = after[row + c];
      }
      if (model_ == nullptr) {
        std::sort(a.begin(), a.end());
        std::sort(b.begin(), b.end());
      }
      for (std::size_t c = 0; c < a.size(); ++c) {
        if (!std::isfinite(a[c]) && !std::isfinite(b[c])) continue;
        largest = std::max(largest, std::abs(static_cast<double>(a[c])));
        const double gap = std::abs(static_cast<double>(a[c]) - static_cast<double>(b[c]));
        // NaN on one side only is as far apart as it gets.
        difference = std::isnan(gap) ? HUGE_VAL : std::max(difference, gap);
      }
    }
    return difference;
  }

 private:
  const Permutation* model_;  // nullptr: unknown
};

template <typename Real>
void compare_row(std::span<const Real> before, std::span<const Real> after, LogitDifference& total,
                 double& squares, double& squared_gaps) {
  const auto best = [](std::span<const Real> row) {
    return std::max_element(row.begin(), row.end());
  };
  const double top_before = *best(before);
  const double top_after = *best(after);
  double sum_before = 0;
  double sum_after = 0;
  for (std::size_t v = 0; v < before.size(); ++v) {
    const auto a = static_cast<double>(before[v]);
    const auto b = static_cast<double>(after[v]);
    if (!std::isfinite(a) && !std::isfinite(b)) {
      ++total.non_finite;
      continue;
    }
    const double gap = std::abs(a - b);
    total.max_abs = std::isfinite(gap) ? std::max(total.max_abs, gap) : HUGE_VAL;
    total.largest_logit = std::max(total.largest_logit, std::abs(a));
    squares += a * a;
    squared_gaps += gap * gap;
    sum_before += std::exp(a - top_before);
    sum_after += std::exp(b - top_after);
  }
  const double log_before = top_before + std::log(sum_before);
  const double log_after = top_after + std::log(sum_after);
  double kl = 0;
  for (std::size_t v = 0; v < before.size(); ++v) {
    const double p = static_cast<double>(before[v]) - log_before;
    const double q = static_cast<double>(after[v]) - log_after;
    if (std::isfinite(p) && std::isfinite(q)) kl += std::exp(p) * (p - q);
  }
  total.mean_kl += kl;
  const auto index_before = best(before) - before.begin();
  const auto index_after = best(after) - after.begin();
  total.top1_agreement += index_before == index_after ? 1 : 0;
}

/// Runs both models a layer at a time. Notes in `apart` where the hidden states first part.
template <typename Real>
LogitDifference compare_models(const LanguageModel<Real>& original,
                               const LanguageModel<Real>& permuted, const VerifyOptions& options,
                               const Permutation* model_order, double tolerance,
                               std::string arithmetic, std::string& apart, Progress& progress) {
  const ModelSpec& spec = original.spec();
  LogitDifference total;
  total.arithmetic = std::move(arithmetic);
  total.rows = options.shape.rows();
  total.tolerance = tolerance;
  total.top1_agreement = 0;
  progress.start(fmt::format("running both models in {}", total.arithmetic), spec.n_layer + 1,
                 "layers");

  RowAligner aligner(model_order);
  std::vector<Real> before(options.tokens.size() * static_cast<std::size_t>(spec.d_model));
  std::vector<Real> after(before.size());
  const auto note = [&](const std::string& where) {
    double largest = 0;
    const double gap = aligner.largest_difference(
        std::span<const Real>(before), std::span<const Real>(after), spec.d_model, largest);
    if (apart.empty() && gap > tolerance * std::max(largest, 1e-30)) apart = where;
  };
  original.embed(options.tokens, before);
  permuted.embed(options.tokens, after);
  note("the embedding");
  for (Index i = 0; i < spec.n_layer; ++i) {
    original.layer(i, options.shape, std::span<Real>(before));
    permuted.layer(i, options.shape, std::span<Real>(after));
    note(fmt::format("layer {}", i));
    progress.advance(1);
  }

  // The head a few rows at a time: a vocabulary of 50,000 makes 200 kB of logits a row.
  const auto d_model = static_cast<std::size_t>(spec.d_model);
  const auto vocab = static_cast<std::size_t>(spec.vocab);
  constexpr std::size_t kRows = 64;
  std::vector<Real> logits_before(kRows * vocab);
  std::vector<Real> logits_after(kRows * vocab);
  double squares = 0;
  double squared_gaps = 0;
  for (std::size_t row = 0; row < options.tokens.size(); row += kRows) {
    const std::size_t rows = std::min(kRows, options.tokens.size() - row);
    const auto part = [&](const std::vector<Real>& hidden) {
      return std::span<const Real>(hidden).subspan(row * d_model, rows * d_model);
    };
    original.head(part(before), std::span(logits_before).first(rows * vocab));
    permuted.head(part(after), std::span(logits_after).first(rows * vocab));
    for (std::size_t r = 0; r < rows; ++r) {
      compare_row<Real>(std::span(logits_before).subspan(r * vocab, vocab),
                        std::span(logits_after).subspan(r * vocab, vocab), total, squares,
                        squared_gaps);
    }
  }
  progress.advance(1);
  total.relative_l2 = squares > 0 ? std::sqrt(squared_gaps / squares) : std::sqrt(squared_gaps);
  total.mean_kl /= static_cast<double>(total.rows);
  total.top1_agreement /= static_cast<double>(total.rows);
  if (!total.within() && apart.empty()) apart = "the head";
  return total;
}

/// The order of an axis after the moves; nullptr: as it was.
const Permutation* order_of(const TensorMoves& moves, const TensorAxis& axis) {
  const auto tensor = moves.find(axis.tensor);
  if (tensor == moves.end()) return nullptr;
  for (const AxisMove& move : tensor->second.axes) {
    if (move.dim == axis.dim && move.span == 1) return &move.order;
  }
  return nullptr;
}

/// Rows of channels in another order.
template <typename Real>
std::vector<Real> reordered(const std::vector<Real>& rows, const Permutation* order) {
  if (order == nullptr) return rows;
  std::vector<Real> out(rows.size());
  const auto width = static_cast<std::size_t>(order->size());
  for (std::size_t row = 0; row < rows.size(); row += width) {
    for (std::size_t c = 0; c < width; ++c) {
      out[row + c] = rows[row + static_cast<std::size_t>((*order)[static_cast<Index>(c)])];
    }
  }
  return out;
}

/// Compares channel by channel; what is NaN or infinite in both alike is equal.
template <typename Real>
void compare_outputs(const std::vector<Real>& before, const std::vector<Real>& after,
                     BlockDifference& total) {
  for (std::size_t i = 0; i < before.size(); ++i) {
    if (!std::isfinite(before[i]) && !std::isfinite(after[i])) continue;
    const auto a = static_cast<double>(before[i]);
    const double gap = std::abs(a - static_cast<double>(after[i]));
    if (std::isfinite(a)) total.largest = std::max(total.largest, std::abs(a));
    total.max_abs = std::isfinite(gap) ? std::max(total.max_abs, gap) : HUGE_VAL;
  }
}

BlockDifference blank_difference(const std::string& arithmetic, double tolerance) {
  BlockDifference difference;
  difference.arithmetic = arithmetic;
  difference.tolerance = tolerance;
  return difference;
}

/// Runs the blocks of two layouts side by side, each on random inputs of its own.
template <typename Real, typename MakeBlock>
void compare_blocks(const Checkpoint& original, const Layout& layout, const Checkpoint& permuted,
                    const Layout& permuted_layout, const TensorMoves& moves,
                    const VerifyOptions& options, const BlockDifference& blank,
                    MakeBlock make_block, VerifyReport& report, Progress& progress) {
  progress.start(fmt::format("running blocks in {}", blank.arithmetic), std::ssize(layout.blocks),
                 "blocks");
  for (std::size_t i = 0; i < layout.blocks.size(); ++i) {
    const Block& block = layout.blocks[i];
    progress.advance(1, block.prefix);
    if (!has_forward(block.type)) continue;
    const BlockPorts ports = block_ports(block);
    const auto run = [&](const BlockForward<Real>& forward, const std::vector<Real>& x) {
      std::vector<Real> y(static_cast<std::size_t>(options.block_shape.rows() * forward.outputs()));
      forward.run(options.block_shape, x, y);
      return y;
    };
    const auto before = make_block(original, block);
    Random random = Random::derived(options.seed, i);
    std::vector<Real> x(static_cast<std::size_t>(options.block_shape.rows() * before->inputs()));
    for (Real& value : x) value = static_cast<Real>(random.normal());
    const auto expected = reordered(run(*before, x), order_of(moves, ports.out));
    const auto found = run(*make_block(permuted, permuted_layout.blocks[i]),
                           reordered(x, order_of(moves, ports.in)));
    BlockDifference difference = blank;
    difference.block = block.prefix;
    difference.type = block.type;
    difference.rows = options.block_shape.rows();
    compare_outputs(expected, found, difference);
    if (!difference.within() && report.first_apart.empty()) {
      report.first_apart = fmt::format("block '{}'", block.prefix);
    }
    report.blocks.push_back(std::move(difference));
  }
}

void expect_one_model(const Layout& layout, const Checkpoint& permuted, const Layout& other) {
  const std::string hint = "only re-orderings of one model can be compared";
  const std::string folder = permuted.folder().string();
  const ModelSpec& spec = layout.spec;
  if (spec.dimensions() != other.spec.dimensions() || spec.n_layer != other.spec.n_layer) {
    throw Error(
        ErrorCode::input,
        fmt::format(
            "{}: has {} layers of d_model {} and d_inner {}, the original has {} of {} and {}",
            folder, other.spec.n_layer, other.spec.d_model, other.spec.d_inner, spec.n_layer,
            spec.d_model, spec.d_inner),
        hint);
  }
  if (layout.name != other.name || layout.blocks.size() != other.blocks.size()) {
    throw Error(ErrorCode::input,
                fmt::format("{}: is a {} of {} blocks, the original is a {} of {}", folder,
                            other.name, other.blocks.size(), layout.name, layout.blocks.size()),
                hint);
  }
  for (std::size_t i = 0; i < layout.blocks.size(); ++i) {
    const Block& a = layout.blocks[i];
    const Block& b = other.blocks[i];
    if (a.type != b.type || a.prefix != b.prefix || a.sizes != b.sizes) {
      throw Error(
          ErrorCode::input,
          fmt::format("{}: block '{}' is a {}, the original's '{}' is a {}{}", folder, b.prefix,
                      b.type, a.prefix, a.type, a.type == b.type ? " of other sizes" : ""),
          hint);
    }
  }
}

}  // namespace

bool VerifyReport::equivalent() const noexcept {
  const auto within = [](const auto& difference) { return difference.within(); };
  return bytes_equal.value_or(true) && std::ranges::all_of(logits, within) &&
         std::ranges::all_of(blocks, within);
}

VerifyReport verify(const Checkpoint& original, const Layout& layout, const Checkpoint& permuted,
                    const Layout& permuted_layout, const Plan* plan, const VerifyOptions& options,
                    Progress& progress) {
  VerifyReport report;
  report.proof = "bytes only";
  expect_one_model(layout, permuted, permuted_layout);

  // What is known of the residual stream's order: nothing without a plan, "as it was"
  // (an empty permutation) if the plan does not order it.
  const Permutation kept;
  const Permutation* model_order = plan == nullptr ? nullptr : &kept;
  TensorMoves moves;
  if (plan != nullptr) {
    check_plan(*plan, original, layout);
    moves = expand(original, layout, plan->groups);
    report.first_byte_fault = byte_fault(original, permuted, layout, moves, progress);
    report.bytes_equal = report.first_byte_fault.empty();
    if (const auto model = plan->groups.find("model"); model != plan->groups.end()) {
      model_order = &model->second;
    }
  }

  const FastModelOptions fast{.gemm = options.gemm, .threads = options.threads};
  if (has_model(layout)) {
    if (options.tokens.empty()) return report;
    report.proof = "whole model";
    const auto make = [&](const Checkpoint& checkpoint, const Layout& of) {
      return options.make_model ? options.make_model(checkpoint, of)
                                : fast_model(checkpoint, of, fast);
    };
    report.logits.push_back(
        compare_models<float>(*make(original, layout), *make(permuted, permuted_layout), options,
                              model_order, kToleranceF32, "f32", report.first_apart, progress));
    if (options.in_double) {
      report.logits.push_back(compare_models<double>(
          *reference_model(original, layout), *reference_model(permuted, permuted_layout), options,
          model_order, kToleranceF64, "f64", report.first_apart, progress));
    }
    return report;
  }

  for (const Block& block : layout.blocks) {
    if (!has_forward(block.type)) report.not_run.push_back(block.prefix);
  }
  const std::size_t run = layout.blocks.size() - report.not_run.size();
  if (run == 0) {
    if (plan != nullptr) return report;
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: icd can run no block of layout {}, so only bytes can be compared",
                            original.folder().string(), layout.name),
                "with --plan PLAN.json they are");
  }
  report.proof = run == 1 ? std::string("1 block on random inputs")
                          : fmt::format("{} blocks, each on random inputs", run);
  const auto in_float = [&](const Checkpoint& checkpoint, const Block& block) {
    return fast_block(checkpoint, block, fast);
  };
  compare_blocks<float>(original, layout, permuted, permuted_layout, moves, options,
                        blank_difference("f32", kToleranceF32), in_float, report, progress);
  if (options.in_double) {
    compare_blocks<double>(original, layout, permuted, permuted_layout, moves, options,
                           blank_difference("f64", kToleranceF64), &reference_block, report,
                           progress);
  }
  return report;
}

}  // namespace icd
