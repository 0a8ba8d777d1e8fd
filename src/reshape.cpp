#include "icd/reshape.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>

#include "icd/block_forward.h"
#include "icd/digest.h"
#include "icd/error.h"
#include "icd/output_folder.h"
#include "icd/random.h"
#include "icd/text_file.h"
#include "icd/write_checkpoint.h"
#include "json.h"
#include "json_edit.h"
#include "torch_archive.h"

namespace icd {
namespace {

namespace fs = std::filesystem;

/// A tensor's bytes, row-major and packed: in place, or copied if they are not so stored.
class PackedBytes {
 public:
  explicit PackedBytes(const TensorView& view) : data_(view.data) {
    if (view.is_packed()) return;
    write_packed(view, [&](std::span<const std::byte> piece) {
      copy_.insert(copy_.end(), piece.begin(), piece.end());
    });
    data_ = copy_.data();
  }
  const std::byte* data() const noexcept { return data_; }

 private:
  const std::byte* data_;
  std::vector<std::byte> copy_;
};

std::int64_t row_bytes(const StoredTensor& tensor) {
  std::int64_t bytes = dtype_bytes(tensor.dtype);
  for (std::size_t a = 1; a < tensor.shape.size(); ++a) bytes *= tensor.shape[a];
  return bytes;
}

// --- what changes

/// Heads of one block before and after.
struct HeadCut {
  Index heads_before = 0;
  Index headdim_before = 0;
  Index heads = 0;
  Index headdim = 0;

  /// The old head that new head `h` was, or begins with.
  Index source(Index h) const {
    return static_cast<Index>(std::int64_t{h} * headdim / headdim_before);
  }
  /// The first new head that has to do with old head `h`.
  Index target(Index h) const {
    return static_cast<Index>(std::int64_t{h} * headdim_before / headdim);
  }
  bool merges() const { return headdim > headdim_before; }
};

Index size_of(const Block& block, std::string_view name) {
  const auto found = block.sizes.find(name);
  if (found == block.sizes.end()) {
    throw Error(ErrorCode::unsupported,
                fmt::format("block '{}': its {} is not known", block.prefix, name));
  }
  return found->second;
}

HeadCut cut_of(const Block& block, Index headdim) {
  const Index before = size_of(block, "headdim");
  const Index ngroups = size_of(block, "ngroups");
  const Index per_group = size_of(block, "heads_per_group");
  if (before % headdim != 0 && headdim % before != 0) {
    throw Error(ErrorCode::usage,
                fmt::format("--headdim: is {}, expected a divisor or a multiple of {}, the headdim "
                            "of '{}'",
                            headdim, before, block.prefix),
                "heads are only cut or joined whole");
  }
  const std::int64_t channels = std::int64_t{per_group} * before;
  if (channels % headdim != 0) {
    throw Error(ErrorCode::usage,
                fmt::format("--headdim: is {}, expected a divisor of {}, the {} heads of {} "
                            "channels in a group of '{}'",
                            headdim, channels, per_group, before, block.prefix),
                "heads of two groups read different B and C and cannot be joined");
  }
  return {.heads_before = ngroups * per_group,
          .headdim_before = before,
          .heads = static_cast<Index>(ngroups * (channels / headdim)),
          .headdim = headdim};
}

/// Rows that stay, then a row a head: `fixed` + heads of them.
RowGather gather_of(const StoredTensor& tensor, Index fixed, Index heads, const auto& source) {
  RowGather gather;
  gather.rows.resize(static_cast<std::size_t>(fixed) + static_cast<std::size_t>(heads));
  std::iota(gather.rows.begin(), gather.rows.begin() + fixed, 0);
  for (Index h = 0; h < heads; ++h) {
    gather.rows[static_cast<std::size_t>(fixed + h)] = fixed + source(h);
  }
  gather.shape = tensor.shape;
  gather.shape.front() = fixed + heads;
  return gather;
}

/// Heads that are joined have to be copies.
void check_copies(const Checkpoint& checkpoint, const StoredTensor& tensor, Index fixed,
                  const HeadCut& cut) {
  const PackedBytes bytes(checkpoint.view(tensor));
  const std::int64_t row = row_bytes(tensor);
  const auto head = [&](Index h) { return bytes.data() + (fixed + h) * row; };
  for (Index h = 0; h < cut.heads_before; ++h) {
    const Index first = cut.source(cut.target(h));
    if (std::memcmp(head(h), head(first), static_cast<std::size_t>(row)) == 0) continue;
    throw Error(ErrorCode::input,
                fmt::format("tensor '{}': head {} differs from head {}, expected copies, to be one "
                            "head of {} channels",
                            tensor.name, h, first, cut.headdim),
                "only heads that were once split, or are alike by chance, can be joined exactly");
  }
}

class Reshaper {
 public:
  Reshaper(const Checkpoint& checkpoint, Index headdim) : checkpoint_(checkpoint) {
    out_.headdim = headdim;
  }

  void add(const Block& block) {
    const HeadCut cut = cut_of(block, out_.headdim);
    if (cut.headdim == cut.headdim_before) return;
    if (out_.blocks.empty()) {
      out_.headdim_before = cut.headdim_before;
      out_.heads_before = cut.heads_before;
      out_.heads = cut.heads;
    }
    out_.blocks.push_back(block.prefix);
    for (const auto& [role, name] : block.tensors) {
      const StoredTensor& tensor = *checkpoint_.find(name);
      if (role == "in_proj.weight" || role == "in_proj.bias") {
        add_rows(tensor, static_cast<Index>(tensor.shape.front()) - cut.heads_before, cut);
      } else if (role == "dt_bias" || role == "A_log") {
        add_rows(tensor, 0, cut);
      } else if (role == "D" && tensor.shape.front() == cut.heads_before) {
        add_rows(tensor, 0, cut);  // one a channel stays as it is
      } else if (role == "init_states") {
        // (nheads, headdim, d_state): the same bytes, cut differently.
        const auto itself = [](Index h) { return h; };
        RowGather gather = gather_of(tensor, 0, cut.heads_before, itself);
        gather.shape = {cut.heads, cut.headdim, tensor.shape.at(2)};
        RowGather back = gather_of(tensor, 0, cut.heads, itself);
        back.shape = tensor.shape;
        out_.tensors[name] = std::move(gather);
        out_.back[name] = std::move(back);
      }
    }
  }

  Reshaping take() { return std::move(out_); }

 private:
  void add_rows(const StoredTensor& tensor, Index fixed, const HeadCut& cut) {
    if (cut.merges()) check_copies(checkpoint_, tensor, fixed, cut);
    out_.tensors[tensor.name] =
        gather_of(tensor, fixed, cut.heads, [&](Index h) { return cut.source(h); });
    out_.back[tensor.name] =
        gather_of(tensor, fixed, cut.heads_before, [&](Index h) { return cut.target(h); });
  }

  const Checkpoint& checkpoint_;
  Reshaping out_;
};

// --- config.json

/// How a family's config.json says how its heads are cut.
struct HeadKeys {
  std::string_view model_types;  ///< with a space before and after each; empty: any, if it is there
  std::string_view heads;
  std::string_view headdim;
};

constexpr std::array kHeadKeys = {
    HeadKeys{" mamba2 ", "num_heads", "head_dim"},
    HeadKeys{" bamba granitemoehybrid falcon_h1 ", "mamba_n_heads", "mamba_d_head"},
    HeadKeys{" nemotron_h ", "mamba_num_heads", "mamba_head_dim"},
    HeadKeys{" zamba2 ", "n_mamba_heads", "mamba_headdim"},
    HeadKeys{"", "mamba2_num_heads", "mamba2_head_dim"},  // Oxidizr
    HeadKeys{"", "nheads", "headdim"},                    // a bare module's arguments
};

void set_number(std::string& config, std::initializer_list<std::string_view> path, Index value) {
  config = with_json_value(config, std::span(path.begin(), path.size()), std::to_string(value));
}

void update_config(const Checkpoint& checkpoint, Reshaping& reshaping) {
  reshaping.config = checkpoint.config_text();
  if (reshaping.config.empty()) return;
  const std::string name = checkpoint.config_path().filename().string();
  const Json config = parse_json(reshaping.config, name);
  if (!config.is_object()) return;
  if (const auto ssm = config.find("ssm_cfg"); ssm != config.end() && ssm->is_object()) {
    set_number(reshaping.config, {"ssm_cfg", "headdim"}, reshaping.headdim);
    reshaping.config_says_so = true;
    return;
  }
  const auto type = config.find("model_type");
  const std::string model_type =
      type != config.end() && type->is_string() ? " " + type->get<std::string>() + " " : "";
  for (const HeadKeys& keys : kHeadKeys) {
    const bool of_type =
        !model_type.empty() && keys.model_types.find(model_type) != std::string::npos;
    if (!keys.model_types.empty() && !of_type) continue;
    const auto update = [&](std::string_view key, Index value) {
      const auto found = config.find(std::string(key));
      const bool is_there = found != config.end() && !found->is_null();
      if (is_there ? !found->is_number() : !of_type) return;  // "auto" stays true
      set_number(reshaping.config, {key}, value);
      reshaping.config_says_so = true;
    };
    update(keys.heads, reshaping.heads);
    update(keys.headdim, reshaping.headdim);
  }
}

// --- files

/// The rows of `gather`, in runs of neighbours.
void write_gathered(const Checkpoint& checkpoint, const StoredTensor& tensor,
                    const RowGather& gather, const ByteSink& sink) {
  const PackedBytes bytes(checkpoint.view(tensor));
  const std::int64_t row = row_bytes(tensor);
  for (std::size_t i = 0; i < gather.rows.size();) {
    std::size_t end = i + 1;
    while (end < gather.rows.size() && gather.rows[end] == gather.rows[end - 1] + 1) ++end;
    sink({bytes.data() + gather.rows[i] * row, static_cast<std::size_t>(row) * (end - i)});
    i = end;
  }
}

const RowGather* gather_for(const std::map<std::string, RowGather>& gathers,
                            const std::string& name) {
  const auto found = gathers.find(name);
  return found == gathers.end() ? nullptr : &found->second;
}

bool is_same_place(const StoredTensor& a, const StoredTensor& b) {
  return a.file == b.file && a.begin == b.begin && a.shape == b.shape && a.strides == b.strides &&
         a.dtype == b.dtype && a.span_bytes > 0;
}

std::vector<NewTensor> tensors_of_file(const Checkpoint& checkpoint, int file,
                                       const Reshaping& reshaping, Progress& progress) {
  std::vector<NewTensor> tensors;
  const StoredTensor* before = nullptr;
  for (const StoredTensor& tensor : checkpoint.tensors()) {
    if (tensor.file != file) continue;
    const RowGather* gather = gather_for(reshaping.tensors, tensor.name);
    if (before != nullptr && checkpoint.container() == Container::torch &&
        is_same_place(*before, tensor)) {
      const RowGather* of_before = gather_for(reshaping.tensors, before->name);
      const bool same =
          gather == nullptr || of_before == nullptr ? gather == of_before : *gather == *of_before;
      if (!same) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("tensor '{}': shares bytes with '{}' but would change differently",
                                tensor.name, before->name));
      }
      tensors.back().aliases.push_back(tensor.name);
      continue;
    }
    before = &tensor;
    NewTensor made = carried(checkpoint, tensor, tensor.name);
    if (gather != nullptr) {
      made.shape = gather->shape;
      made.produce = [&checkpoint, &tensor, gather](const ByteSink& sink) {
        write_gathered(checkpoint, tensor, *gather, sink);
      };
    }
    made.produce = [produce = std::move(made.produce), &tensor, &progress](const ByteSink& sink) {
      produce(sink);
      progress.advance(tensor.span_bytes, tensor.name);
    };
    tensors.push_back(std::move(made));
  }
  return tensors;
}

FileDigest digest_of(const fs::path& file, std::string name) {
  return {.name = std::move(name),
          .bytes = static_cast<std::int64_t>(fs::file_size(file)),
          .sha256 = sha256_of_file(file)};
}

/// The index of shards, with the bytes they now hold.
std::string index_text(const Checkpoint& checkpoint, const Reshaping& reshaping) {
  std::int64_t total = 0;
  for (const StoredTensor& tensor : checkpoint.tensors()) {
    const RowGather* gather = gather_for(reshaping.tensors, tensor.name);
    std::int64_t elements = 1;
    for (const std::int64_t extent : gather == nullptr ? tensor.shape : gather->shape) {
      elements *= extent;
    }
    total += elements * dtype_bytes(tensor.dtype);
  }
  Json index = parse_json(read_text(checkpoint.folder() / checkpoint.index_file(), 64 << 20),
                          checkpoint.index_file());
  index["metadata"]["total_size"] = total;
  return index.dump(2) + "\n";
}

/// The first row of `to` that is not the row of `from` that `gather` says; -1 if all are.
std::int64_t wrong_row(const Checkpoint& from_in, const StoredTensor& from, const Checkpoint& to_in,
                       const StoredTensor& to, const RowGather* gather) {
  const PackedBytes source(from_in.view(from));
  const PackedBytes target(to_in.view(to));
  const std::int64_t row = from.shape.empty() ? dtype_bytes(from.dtype) : row_bytes(from);
  const std::int64_t rows = gather != nullptr    ? static_cast<std::int64_t>(gather->rows.size())
                            : from.shape.empty() ? 1
                                                 : from.shape.front();
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t j = gather == nullptr ? i : gather->rows[static_cast<std::size_t>(i)];
    if (std::memcmp(target.data() + i * row, source.data() + j * row,
                    static_cast<std::size_t>(row)) != 0) {
      return i;
    }
  }
  return -1;
}

/// One direction of the proof.
std::string fault_between(const Checkpoint& from, const Checkpoint& to,
                          const std::map<std::string, RowGather>& gathers) {
  for (const StoredTensor& tensor : from.tensors()) {
    const StoredTensor* other = to.find(tensor.name);
    if (other == nullptr) return fmt::format("tensor '{}': is missing", tensor.name);
    const RowGather* gather = gather_for(gathers, tensor.name);
    const Shape& expected = gather == nullptr ? tensor.shape : gather->shape;
    if (other->dtype != tensor.dtype || other->shape != expected) {
      return fmt::format("tensor '{}': is {} {}, expected {} {}", tensor.name, other->dtype_text,
                         shape_text(other->shape), tensor.dtype_text, shape_text(expected));
    }
    if (const std::int64_t row = wrong_row(from, tensor, to, *other, gather); row >= 0) {
      return fmt::format("tensor '{}': row {} differs", tensor.name, row);
    }
  }
  return "";
}

}  // namespace

Reshaping reshape_heads(const Checkpoint& checkpoint, const Layout& layout, Index headdim) {
  if (headdim < 1) {
    throw Error(ErrorCode::usage, fmt::format("--headdim: is {}, expected 1 or more", headdim));
  }
  for (const auto& file : checkpoint.files()) {
    if (checkpoint.container() != Container::torch || is_plain_state_dict(*file)) continue;
    throw Error(
        ErrorCode::unsupported,
        fmt::format("{}: holds more than a state dict, which a new file would lose", file->name),
        "save the state dict alone: torch.save(torch.load(FILE)[KEY], NEW)");
  }
  Reshaper reshaper(checkpoint, headdim);
  Index found = 0;
  for (const Block& block : layout.blocks) {
    if (block.type != "mamba2") continue;
    ++found;
    reshaper.add(block);
  }
  if (found == 0) {
    throw Error(
        ErrorCode::unsupported,
        fmt::format("layout {}: has no Mamba-2 blocks, whose heads could be cut", layout.name));
  }
  Reshaping reshaping = reshaper.take();
  if (!reshaping.blocks.empty()) update_config(checkpoint, reshaping);
  return reshaping;
}

Block reshaped_block(Block block, Index headdim) {
  Index& before = block.sizes["headdim"];
  Index& per_group = block.sizes["heads_per_group"];
  per_group = static_cast<Index>(std::int64_t{per_group} * before / headdim);
  block.sizes["nheads"] = per_group * block.sizes["ngroups"];
  before = headdim;
  return block;
}

RewriteReport write_reshaped(const Checkpoint& checkpoint, const Reshaping& reshaping,
                             const fs::path& folder, Progress& progress) {
  RewriteReport report;
  report.tensors = static_cast<std::int64_t>(checkpoint.tensors().size());
  std::int64_t total = 0;
  for (const StoredTensor& tensor : checkpoint.tensors()) total += tensor.span_bytes;
  progress.start("reshaping", total, "B");
  for (int f = 0; f < static_cast<int>(checkpoint.files().size()); ++f) {
    const WeightFile& file = *checkpoint.files()[static_cast<std::size_t>(f)];
    write_weight_file(folder / file.name, checkpoint.container(),
                      tensors_of_file(checkpoint, f, reshaping, progress));
    report.inputs.push_back(digest_of(file.path, file.name));
    report.outputs.push_back(digest_of(folder / file.name, file.name));
  }
  if (const std::string& index = checkpoint.index_file(); !index.empty()) {
    write_atomically(folder / index, index_text(checkpoint, reshaping));
    report.inputs.push_back(digest_of(checkpoint.folder() / index, index));
    report.outputs.push_back(digest_of(folder / index, index));
  }
  for (const auto& [name, gather] : reshaping.tensors) {
    ++report.moved_tensors;
    report.moved_bytes += checkpoint.find(name)->span_bytes;
  }
  return report;
}

std::string reshaping_fault(const Checkpoint& original, const Checkpoint& reshaped,
                            const Reshaping& reshaping) {
  if (auto fault = fault_between(original, reshaped, reshaping.tensors); !fault.empty()) {
    return fault;
  }
  for (const StoredTensor& tensor : reshaped.tensors()) {
    if (original.find(tensor.name) == nullptr) {
      return fmt::format("tensor '{}': the original has none", tensor.name);
    }
  }
  const std::string fault = fault_between(reshaped, original, reshaping.back);
  return fault.empty() ? "" : "undone, " + fault;
}

double reshaping_difference(const Checkpoint& original, const Checkpoint& reshaped,
                            const Layout& layout, const Reshaping& reshaping, Progress& progress) {
  progress.start("running blocks", static_cast<std::int64_t>(reshaping.blocks.size()), "blocks");
  const BatchShape shape{.sequences = 1, .length = kReshapeTokens};
  Random random(0);
  double largest = 0;
  for (const Block& block : layout.blocks) {
    const auto& changed = reshaping.blocks;
    if (std::find(changed.begin(), changed.end(), block.prefix) == changed.end()) continue;
    const auto before = fast_block(original, block);
    const auto after = fast_block(reshaped, reshaped_block(block, reshaping.headdim));
    const auto rows = static_cast<std::size_t>(shape.rows());
    std::vector<float> input(rows * static_cast<std::size_t>(before->inputs()));
    for (float& value : input) value = static_cast<float>(random.normal());
    std::vector<float> expected(rows * static_cast<std::size_t>(before->outputs()));
    std::vector<float> found(expected.size());
    before->run(shape, input, expected);
    after->run(shape, input, found);
    double output = 0;
    double difference = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      if (std::isnan(expected[i]) && std::isnan(found[i])) continue;  // NaN weights
      output = std::max(output, std::abs(static_cast<double>(expected[i])));
      difference = std::isnan(expected[i]) != std::isnan(found[i])
                       ? INFINITY
                       : std::max(difference, std::abs(double{expected[i]} - double{found[i]}));
    }
    largest = std::max(largest, output > 0 ? difference / output : difference);
    progress.advance(1, block.prefix);
  }
  return largest;
}

}  // namespace icd
