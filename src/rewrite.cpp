#include "icd/rewrite.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <optional>

#include "file_pump.h"
#include "icd/error.h"
#include "icd/output_folder.h"
#include "icd/write_checkpoint.h"
#include "json.h"
#include "permute_tensor.h"

namespace icd {
namespace {

namespace fs = std::filesystem;

using Patches = std::map<std::int64_t, std::uint32_t>;  // CRC-32 by position in the file

/// Tensors whose bytes lie together: one, or several that share a stretch of a storage.
struct Region {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::vector<const StoredTensor*> tensors;
};

const TensorMove* moves_of(const StoredTensor& tensor, const TensorMoves& moves) {
  const auto found = moves.find(tensor.name);
  return found == moves.end() ? nullptr : &found->second;
}

bool is_moved(const Region& region, const TensorMoves& moves) {
  return std::any_of(region.tensors.begin(), region.tensors.end(),
                     [&](const StoredTensor* t) { return moves_of(*t, moves) != nullptr; });
}

/// The regions of file `file`, ascending and apart from each other.
std::vector<Region> regions_of(const Checkpoint& checkpoint, int file) {
  std::vector<Region> regions;
  for (const StoredTensor& tensor : checkpoint.tensors()) {
    if (tensor.file != file || tensor.span_bytes == 0) continue;
    const std::int64_t end = tensor.begin + tensor.span_bytes;
    if (!regions.empty() && tensor.begin < regions.back().end) {
      regions.back().tensors.push_back(&tensor);
      regions.back().end = std::max(regions.back().end, end);
    } else {
      regions.push_back({tensor.begin, end, {&tensor}});
    }
  }
  return regions;
}

bool same_move(const StoredTensor& a, const StoredTensor& b, const TensorMoves& moves) {
  const auto* of_a = moves_of(a, moves);
  const auto* of_b = moves_of(b, moves);
  if (of_a == nullptr || of_b == nullptr) return of_a == of_b;
  return *of_a == *of_b;
}

/// Where a tensor's new values are now: in itself, or in another one of its kind.
const StoredTensor& source_of(const StoredTensor& tensor, const TensorMove& move,
                              const Checkpoint& checkpoint) {
  if (move.from.empty()) return tensor;
  const StoredTensor& from = *checkpoint.find(move.from);
  if (from.shape == tensor.shape && from.dtype == tensor.dtype &&
      checkpoint.view(from).is_packed() && checkpoint.view(tensor).is_packed()) {
    return from;
  }
  throw Error(ErrorCode::unsupported,
              fmt::format("tensor '{}': is {} {}, expected {} {} in one piece, as '{}', with which "
                          "it changes places",
                          tensor.name, tensor.dtype_text, shape_text(tensor.shape), from.dtype_text,
                          shape_text(from.shape), from.name),
              "save the checkpoint again with all experts alike");
}

/// Can the region be moved as the one packed tensor it is, whatever names it has?
bool is_one_packed_tensor(const Region& region, const Checkpoint& checkpoint,
                          const TensorMoves& moves) {
  const StoredTensor& first = *region.tensors.front();
  return dtype_bytes(first.dtype) > 0 && checkpoint.view(first).is_packed() &&
         std::all_of(region.tensors.begin(), region.tensors.end(), [&](const StoredTensor* t) {
           return t->begin == first.begin && t->shape == first.shape &&
                  t->strides == first.strides && t->dtype == first.dtype &&
                  same_move(*t, first, moves);
         });
}

/// The region's bytes re-ordered, by the plain way that takes any views: where several of
/// them hold an element, all have to send it to the same place.
void move_plainly(const Region& region, const Checkpoint& checkpoint, const TensorMoves& moves,
                  std::byte* out) {
  const StoredTensor& first = *region.tensors.front();
  const WeightFile& file = *checkpoint.files()[static_cast<std::size_t>(first.file)];
  const std::byte* in = file.data + region.begin;
  const std::int64_t size = dtype_bytes(first.dtype);
  const auto refuse = [&](const StoredTensor& tensor, const std::string& reason) {
    throw Error(
        ErrorCode::unsupported,
        fmt::format("tensor '{}': shares bytes with '{}' {}", tensor.name, first.name, reason),
        "save the checkpoint again with each tensor contiguous and on its own");
  };
  std::memcpy(out, in, static_cast<std::size_t>(region.end - region.begin));
  std::vector<std::int64_t> source(static_cast<std::size_t>((region.end - region.begin) / size),
                                   -1);
  for (const StoredTensor* tensor : region.tensors) {
    const std::int64_t origin = tensor->begin - region.begin;
    if (dtype_bytes(tensor->dtype) != size || origin % size != 0) {
      refuse(*tensor, "that are of another type");
    }
    static const std::vector<AxisMove> kNone;
    const auto* own = moves_of(*tensor, moves);
    if (own != nullptr && !own->from.empty()) {
      refuse(*tensor, "but would change places with another tensor");
    }
    for_each_moved_element(checkpoint.view(*tensor), own == nullptr ? kNone : own->axes,
                           [&](std::int64_t to, std::int64_t from) {
                             auto& known = source[static_cast<std::size_t>((origin + to) / size)];
                             if (known >= 0 && known != origin + from)
                               refuse(*tensor, "but would move differently");
                             known = origin + from;
                             std::memcpy(out + origin + to, in + origin + from,
                                         static_cast<std::size_t>(size));
                           });
  }
}

/// Is any value NaN or infinite? Its exponent bits are then all ones, and adding the lowest of
/// them carries into the sign. Comparing instead took a third of a rewrite (experiments/rewrite).
template <typename Word>
bool any_with_bits(std::span<const std::byte> bytes, Word exponent) {
  const auto lowest = static_cast<Word>(exponent & (~exponent + 1));
  Word sums = 0;
  const std::size_t words = bytes.size() / sizeof(Word);
  for (std::size_t i = 0; i < words; ++i) {
    Word word;
    std::memcpy(&word, bytes.data() + i * sizeof word, sizeof word);
    sums = static_cast<Word>(sums | ((word & exponent) + lowest));
  }
  return sums >> (8 * sizeof sums - 1) != 0;
}

bool holds_non_finite(DType dtype, std::span<const std::byte> bytes) {
  switch (dtype) {
    case DType::bf16:
      return any_with_bits<std::uint16_t>(bytes, 0x7F80);
    case DType::f16:
      return any_with_bits<std::uint16_t>(bytes, 0x7C00);
    case DType::f32:
      return any_with_bits<std::uint32_t>(bytes, 0x7F800000);
    case DType::f64:
      return any_with_bits<std::uint64_t>(bytes, 0x7FF0000000000000);
    default:
      return false;
  }
}

std::uint32_t crc32_of(std::span<const std::byte> bytes) {
  return static_cast<std::uint32_t>(
      crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

/// Notes of the tensors of a region, kept while its bytes pass by.
class Watch {
 public:
  Watch(const Region& region, RewriteReport& report) : region_(region), report_(report) {}
  ~Watch() {
    if (found_) report_.non_finite.push_back(region_.tensors.front()->name);
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  void look(std::span<const std::byte> bytes) {
    found_ = found_ || holds_non_finite(region_.tensors.front()->dtype, bytes);
  }

 private:
  const Region& region_;
  RewriteReport& report_;
  bool found_ = false;
};

/// Rewrites one file in its own format.
class SameFormat {
 public:
  SameFormat(const Checkpoint& checkpoint, const TensorMoves& moves, int file, FilePump& pump,
             RewriteReport& report, Progress& progress)
      : checkpoint_(checkpoint),
        moves_(moves),
        file_(*checkpoint.files()[static_cast<std::size_t>(file)]),
        regions_(regions_of(checkpoint, file)),
        pump_(pump),
        report_(report),
        progress_(progress) {}

  void run() {
    std::size_t record = 0;
    for (std::size_t r = 0; r < regions_.size();) {
      while (record < file_.records.size() &&
             file_.records[record].begin + file_.records[record].bytes <= regions_[r].begin) {
        ++record;
      }
      const bool in_record = record < file_.records.size();
      const std::int64_t record_end =
          in_record ? file_.records[record].begin + file_.records[record].bytes : 0;
      std::size_t last = r + 1;
      while (in_record && last < regions_.size() && regions_[last].begin < record_end) ++last;
      const auto group = std::span(regions_).subspan(r, last - r);
      const bool moved = std::any_of(group.begin(), group.end(), [&](const Region& region) {
        return is_moved(region, moves_);
      });
      if (in_record && moved) {
        emit_record(file_.records[record], group);
      } else {
        for (const Region& region : group) emit(region);
      }
      r = last;
    }
    keep_until(file_.bytes);
  }

 private:
  std::span<const std::byte> input(std::int64_t begin, std::int64_t end) const {
    return {file_.data + begin, static_cast<std::size_t>(end - begin)};
  }

  /// Bytes of the input up to `position`, with the checksums that have changed.
  void keep_until(std::int64_t position) {
    assert(position >= position_);
    for (auto patch = patches_.lower_bound(position_);
         patch != patches_.end() && patch->first + 4 <= position; ++patch) {
      pump_.push_mapped(input(position_, patch->first));
      std::memcpy(pump_.reserve(4), &patch->second, 4);
      pump_.push_reserved(4);
      position_ = patch->first + 4;
    }
    pump_.push_mapped(input(position_, position));
    position_ = position;
  }

  void count(const Region& region) {
    for (const StoredTensor* tensor : region.tensors) {
      const bool moved = moves_of(*tensor, moves_) != nullptr;
      report_.moved_tensors += moved ? 1 : 0;
      report_.moved_bytes += moved ? tensor->span_bytes : 0;
    }
    progress_.advance(region.end - region.begin, region.tensors.front()->name);
  }

  /// A region outside any record: straight to the pump.
  void emit(const Region& region) {
    keep_until(region.begin);
    Watch watch(region, report_);
    if (!is_moved(region, moves_)) {
      for (std::int64_t at = region.begin; at < region.end;) {
        const std::int64_t end = std::min(region.end, at + FilePump::kPieceBytes);
        watch.look(input(at, end));
        keep_until(end);
        at = end;
      }
    } else if (is_one_packed_tensor(region, checkpoint_, moves_)) {
      const StoredTensor& tensor = *region.tensors.front();
      const TensorMove& move = *moves_of(tensor, moves_);
      const PackedPermuter permuter(checkpoint_.view(source_of(tensor, move, checkpoint_)),
                                    move.axes);
      const std::int64_t some =
          std::max<std::int64_t>(FilePump::kPieceBytes / permuter.row_bytes(), 1);
      for (std::int64_t row = 0; row < permuter.rows(); row += some) {
        const std::int64_t last = std::min(permuter.rows(), row + some);
        const std::int64_t bytes = (last - row) * permuter.row_bytes();
        std::byte* piece = pump_.reserve(bytes);
        permuter.write_rows(row, last, piece);
        watch.look({piece, static_cast<std::size_t>(bytes)});
        pump_.push_reserved(bytes);
      }
      position_ = region.end;
    } else {
      std::byte* piece = pump_.reserve(region.end - region.begin);
      move_plainly(region, checkpoint_, moves_, piece);
      watch.look({piece, static_cast<std::size_t>(region.end - region.begin)});
      pump_.push_reserved(region.end - region.begin);
      position_ = region.end;
    }
    pump_.input_done_to(region.end);
    count(region);
  }

  /// A storage of an archive, as a whole: its checksum may stand before it.
  void emit_record(const StorageRecord& record, std::span<const Region> regions) {
    const auto before = input(record.begin, record.begin + record.bytes);
    std::vector<std::byte> after(before.begin(), before.end());
    for (const Region& region : regions) {
      std::byte* out = after.data() + (region.begin - record.begin);
      Watch watch(region, report_);
      watch.look(input(region.begin, region.end));
      if (!is_moved(region, moves_)) continue;
      if (is_one_packed_tensor(region, checkpoint_, moves_)) {
        const StoredTensor& tensor = *region.tensors.front();
        const TensorMove& move = *moves_of(tensor, moves_);
        const PackedPermuter permuter(checkpoint_.view(source_of(tensor, move, checkpoint_)),
                                      move.axes);
        permuter.write_rows(0, permuter.rows(), out);
      } else {
        move_plainly(region, checkpoint_, moves_, out);
      }
    }
    if (crc32_of(before) == record.crc32) {
      for (const std::int64_t position : record.crc32_positions)
        patches_[position] = crc32_of(after);
    } else if (record.crc32 != 0) {  // torch can be told not to compute checksums: it writes 0
      progress_.warn(
          fmt::format("{}: storage of '{}': the archive's CRC-32 is not that of its bytes; "
                      "it is carried as it is",
                      file_.name, regions.front().tensors.front()->name));
    }
    keep_until(record.begin);
    for (std::size_t at = 0; at < after.size();) {
      const std::size_t bytes =
          std::min(after.size() - at, static_cast<std::size_t>(FilePump::kPieceBytes));
      std::memcpy(pump_.reserve(static_cast<std::int64_t>(bytes)), after.data() + at, bytes);
      pump_.push_reserved(static_cast<std::int64_t>(bytes));
      at += bytes;
    }
    position_ = record.begin + record.bytes;
    pump_.input_done_to(position_);
    for (const Region& region : regions) count(region);
  }

  const Checkpoint& checkpoint_;
  const TensorMoves& moves_;
  const WeightFile& file_;
  const std::vector<Region> regions_;
  FilePump& pump_;
  RewriteReport& report_;
  Progress& progress_;
  Patches patches_;
  std::int64_t position_ = 0;
};

/// Feeds a moved tensor, packed, to `write(bytes)` piece by piece.
void write_moved(const Checkpoint& checkpoint, const StoredTensor& tensor, const TensorMoves& moves,
                 const ByteSink& write) {
  static const std::vector<AxisMove> kNone;
  const auto* own = moves_of(tensor, moves);
  const auto& order = own == nullptr ? kNone : own->axes;
  const TensorView view =
      checkpoint.view(own == nullptr ? tensor : source_of(tensor, *own, checkpoint));
  if (view.elements() == 0) return;
  if (!view.is_packed()) {
    const std::int64_t size = dtype_bytes(view.dtype);
    std::vector<std::byte> packed(static_cast<std::size_t>(view.elements() * size));
    std::byte* to = packed.data();
    for_each_moved_element(view, order, [&](std::int64_t, std::int64_t from) {
      std::memcpy(to, view.data + from, static_cast<std::size_t>(size));
      to += size;
    });
    write(std::span<const std::byte>(packed));
    return;
  }
  const PackedPermuter permuter(view, order);
  const std::int64_t some = std::max<std::int64_t>(FilePump::kPieceBytes / permuter.row_bytes(), 1);
  std::vector<std::byte> piece;
  for (std::int64_t row = 0; row < permuter.rows(); row += some) {
    const std::int64_t last = std::min(permuter.rows(), row + some);
    piece.resize(static_cast<std::size_t>((last - row) * permuter.row_bytes()));
    permuter.write_rows(row, last, piece.data());
    write(std::span<const std::byte>(piece));
  }
}

/// "pytorch_model-00001-of-00002.bin" to "model-00001-of-00002.safetensors" and back.
std::string converted_name(std::string name, Container to) {
  const auto swap = [&](std::string_view from_stem, std::string_view from_end,
                        std::string_view to_stem, std::string_view to_end) {
    for (const auto end :
         {from_end, std::string_view(".pt"), std::string_view(".pth"), std::string_view(".ckpt")}) {
      if (name.ends_with(end)) name.resize(name.size() - end.size());
    }
    if (name.starts_with(from_stem)) name = std::string(to_stem) + name.substr(from_stem.size());
    return name + std::string(to_end);
  };
  return to == Container::safetensors ? swap("pytorch_model", ".bin", "model", ".safetensors")
                                      : swap("model", ".safetensors", "pytorch_model", ".bin");
}

/// What a file written anew holds: whole tensors in file order. In a PyTorch file names of one
/// storage share it; in safetensors every name has its own bytes.
std::vector<NewTensor> new_tensors(const Checkpoint& checkpoint, int file, const TensorMoves& moves,
                                   const RewriteOptions& options, RewriteReport& report,
                                   Progress& progress) {
  std::vector<NewTensor> tensors;
  const StoredTensor* before = nullptr;
  for (const StoredTensor& tensor : checkpoint.tensors()) {
    if (tensor.file != file || options.omitted.contains(tensor.name)) continue;
    if (dtype_bytes(tensor.dtype) == 0) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("tensor '{}': is of type {}, which cannot be written anew",
                              tensor.name, tensor.dtype_text),
                  "--format same carries it byte for byte");
    }
    const bool is_alias = options.container == Container::torch && before != nullptr &&
                          before->begin == tensor.begin && before->shape == tensor.shape &&
                          before->strides == tensor.strides && before->dtype == tensor.dtype &&
                          same_move(*before, tensor, moves);
    if (is_alias) {
      tensors.back().aliases.push_back(tensor.name);
    } else {
      before = &tensor;
      tensors.push_back(carried(checkpoint, tensor, tensor.name));
      tensors.back().produce = [&checkpoint, &tensor, &moves, &report,
                                &progress](const ByteSink& sink) {
        bool non_finite = false;
        write_moved(checkpoint, tensor, moves, [&](std::span<const std::byte> bytes) {
          non_finite = non_finite || holds_non_finite(tensor.dtype, bytes);
          sink(bytes);
        });
        if (non_finite) report.non_finite.push_back(tensor.name);
        if (moves_of(tensor, moves) != nullptr) {
          ++report.moved_tensors;
          report.moved_bytes += tensor.span_bytes;
        }
        progress.advance(tensor.span_bytes, tensor.name);
      };
    }
    if (options.container != Container::torch) continue;
    for (const auto& [alias, name] : options.aliases) {
      if (name == tensor.name && checkpoint.find(alias) == nullptr) {
        tensors.back().aliases.push_back(alias);
      }
    }
  }
  return tensors;
}

/// Writes one file anew in the other format; returns its name.
std::string convert(const Checkpoint& checkpoint, const TensorMoves& moves, int file,
                    const fs::path& folder, const RewriteOptions& options, RewriteReport& report,
                    Progress& progress, std::map<std::string, std::string>& weight_map) {
  std::string name =
      converted_name(checkpoint.files()[static_cast<std::size_t>(file)]->name, options.container);
  const auto tensors = new_tensors(checkpoint, file, moves, options, report, progress);
  for (const NewTensor& tensor : tensors) {
    weight_map[tensor.name] = name;
    for (const std::string& alias : tensor.aliases) weight_map[alias] = name;
  }
  write_weight_file(folder / name, options.container, tensors);
  return name;
}

/// A new index for converted shards.
std::string index_text(const Checkpoint& checkpoint,
                       const std::map<std::string, std::string>& weight_map) {
  std::int64_t total = 0;
  for (const StoredTensor& tensor : checkpoint.tensors()) total += tensor.span_bytes;
  return Json({{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}}).dump(2) + "\n";
}

FileDigest digest_of(const fs::path& file, bool digests) {
  return {.name = file.filename().string(),
          .bytes = static_cast<std::int64_t>(fs::file_size(file)),
          .sha256 = digests ? sha256_of_file(file) : std::string()};
}

}  // namespace

RewriteReport rewrite(const Checkpoint& checkpoint, const TensorMoves& moves,
                      const fs::path& folder, const RewriteOptions& options, Progress& progress) {
  RewriteReport report;
  report.tensors = static_cast<std::int64_t>(checkpoint.tensors().size());
  std::int64_t total = 0;
  for (const auto& file : checkpoint.files()) total += file->bytes;
  progress.start("rewriting", total, "B");

  const bool same = options.container == checkpoint.container();
  std::map<std::string, std::string> weight_map;
  for (int i = 0; i < static_cast<int>(checkpoint.files().size()); ++i) {
    const WeightFile& file = *checkpoint.files()[static_cast<std::size_t>(i)];
    if (same) {
      FilePump pump(file, folder / file.name, options.digests);
      SameFormat(checkpoint, moves, i, pump, report, progress).run();
      pump.finish();
      report.inputs.push_back({file.name, file.bytes, pump.input_sha256()});
      report.outputs.push_back({file.name, file.bytes, pump.output_sha256()});
    } else {
      const std::string name =
          convert(checkpoint, moves, i, folder, options, report, progress, weight_map);
      report.inputs.push_back(digest_of(file.path, options.digests));
      report.inputs.back().name = file.name;
      report.outputs.push_back(digest_of(folder / name, options.digests));
    }
  }
  if (const std::string& index = checkpoint.index_file(); !index.empty()) {
    const fs::path source = checkpoint.folder() / index;
    const std::string name = same ? index
                                  : std::string(options.container == Container::safetensors
                                                    ? "model.safetensors.index.json"
                                                    : "pytorch_model.bin.index.json");
    if (same) {
      fs::copy_file(source, folder / name);
    } else {
      write_atomically(folder / name, index_text(checkpoint, weight_map));
    }
    report.inputs.push_back(digest_of(source, options.digests));
    report.outputs.push_back(digest_of(folder / name, options.digests));
  }
  return report;
}

}  // namespace icd
