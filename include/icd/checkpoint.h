#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "icd/tensor_view.h"

namespace icd {

/// The two kinds of weight file.
enum class Container {
  safetensors,  ///< *.safetensors
  torch,        ///< PyTorch zip archives: *.bin, *.pt, *.pth, *.ckpt
};

std::string_view container_name(Container container) noexcept;

/// A tensor where it lies: a strided view of a stretch of one weight file.
/// safetensors are always packed; PyTorch state dicts may hold transposed or sliced
/// views, and several names for one storage.
struct StoredTensor {
  std::string name;  ///< dictionary keys joined by '.', as the file nests them
  DType dtype = DType::unknown;
  std::string dtype_text;  ///< as the file spells it, for messages
  Shape shape;
  std::vector<std::int64_t> strides;  ///< in elements
  int file = 0;                       ///< index into Checkpoint::files()
  std::int64_t begin = 0;             ///< byte in the file where element (0, ..., 0) stands
  std::int64_t span_bytes = 0;        ///< bytes from there to the end of the last element
};

/// A storage record of a PyTorch archive: its bytes, and where their CRC-32 is written.
struct StorageRecord {
  std::int64_t begin = 0;
  std::int64_t bytes = 0;
  std::uint32_t crc32 = 0;                    ///< as the archive states it
  std::vector<std::int64_t> crc32_positions;  ///< bytes in the file that hold it, little-endian
};

/// One weight file, mapped read-only.
class WeightFile {
 public:
  virtual ~WeightFile() = default;
  std::filesystem::path path;  ///< where it is
  std::string name;            ///< its name inside the model folder
  const std::byte* data = nullptr;
  std::int64_t bytes = 0;
  std::vector<StorageRecord> records;  ///< ascending; empty for safetensors
};

struct OpenOptions {
  /// A config.json that does not stand beside the weights.
  std::optional<std::filesystem::path> config = {};
};

/// A model on disk: weight files under one name space, config.json and side files.
/// Everything has been checked when open() returns: sizes, offsets, overlaps, holes,
/// duplicate names, views against storages. Nothing in a pickle is executed.
class Checkpoint {
 public:
  /// Opens a folder or one weight file. In a folder the weights are, first that is there:
  /// model.safetensors, model.safetensors.index.json, pytorch_model.bin,
  /// pytorch_model.bin.index.json, else the only weight file.
  /// Throws Error{input} for the first fault in file order, Error{unsupported} for
  /// well-formed files of a kind icd does not read, Error{io} if reading fails.
  static Checkpoint open(const std::filesystem::path& model, const OpenOptions& options = {});

  Container container() const noexcept { return container_; }

  /// The folder, also when a single file was opened.
  const std::filesystem::path& folder() const noexcept { return folder_; }

  const std::vector<std::unique_ptr<WeightFile>>& files() const noexcept { return files_; }

  /// In the order of the files, and in each file by position.
  const std::vector<StoredTensor>& tensors() const noexcept { return tensors_; }

  /// nullptr if there is none of that name.
  const StoredTensor* find(std::string_view name) const noexcept;

  /// The index of a sharded checkpoint (*.index.json), by name; empty if there is none.
  const std::string& index_file() const noexcept { return index_file_; }

  /// config.json as text; empty if there is none.
  const std::string& config_text() const noexcept { return config_text_; }
  const std::filesystem::path& config_path() const noexcept { return config_path_; }

  /// Files that go along unchanged (config, tokenizer, README, ...), by name, sorted.
  const std::vector<std::string>& side_files() const noexcept { return side_files_; }

  /// Other weight files of the folder (another framework's, a second copy), sorted: neither
  /// read nor carried, since they would be in the old order.
  const std::vector<std::string>& left_out() const noexcept { return left_out_; }

  TensorView view(const StoredTensor& tensor) const noexcept;

  /// SHA-256 over the sorted names, dtypes and shapes: the same for every container and
  /// for every order of the values. A second name for the same bytes (a tied head in a
  /// PyTorch file) does not count.
  std::string structure_digest() const;

 private:
  Container container_ = Container::safetensors;
  std::filesystem::path folder_;
  std::filesystem::path config_path_;
  std::string config_text_;
  std::string index_file_;
  std::vector<std::string> side_files_;
  std::vector<std::string> left_out_;
  std::vector<std::unique_ptr<WeightFile>> files_;
  std::vector<StoredTensor> tensors_;
  std::vector<std::size_t> by_name_;  // indices into tensors_, sorted by name
};

}  // namespace icd
