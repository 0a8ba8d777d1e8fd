#include "icd/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <set>

#include "icd/digest.h"
#include "icd/error.h"
#include "json.h"
#include "mapped_file.h"
#include "safetensors.h"
#include "torch_archive.h"
#include "weight_files.h"

namespace icd {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMaxTextBytes = 64 << 20;  // config.json and indices; real ones are < 10 MB

struct WeightName {
  std::string_view single;
  std::string_view index;
};

// What a folder is searched for, in transformers' order.
constexpr std::array kWeightNames = {
    WeightName{"model.safetensors", "model.safetensors.index.json"},
    WeightName{"pytorch_model.bin", "pytorch_model.bin.index.json"},
};

// What goes along with a single file: the folder may be anybody's home.
constexpr std::array<std::string_view, 10> kCompanions = {
    "config.json",    "generation_config.json",
    "tokenizer.json", "tokenizer_config.json",
    "vocab.json",     "special_tokens_map.json",
    "merges.txt",     "added_tokens.json",
    "LICENSE",        "README.md"};

template <typename List>
bool contains(const List& list, std::string_view name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

std::optional<Container> container_of(const fs::path& file) {
  const std::string extension = file.extension().string();
  if (extension == ".safetensors") return Container::safetensors;
  if (extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".ckpt") {
    return Container::torch;
  }
  return std::nullopt;
}

/// The names of the regular files in `folder`, sorted.
std::vector<std::string> files_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code failure;
  for (fs::directory_iterator at(folder, failure), end; !failure && at != end;
       at.increment(failure)) {
    if (at->is_regular_file(failure)) names.push_back(at->path().filename().string());
    failure.clear();
  }
  if (failure) {
    throw Error(ErrorCode::io,
                fmt::format("{}: cannot be listed: {}", folder.string(), failure.message()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

struct Weights {
  Container container = Container::safetensors;
  std::vector<std::string> files;
  std::string index;  ///< empty if there is one file
};

/// The shards that an index names, in order of first mention, and who is said to be where.
std::vector<std::pair<std::string, std::string>> weight_map_of(const fs::path& index) {
  const std::string name = index.filename().string();
  const Json document = parse_json(read_text(index, kMaxTextBytes), name);
  if (!document.is_object()) {
    throw Error(ErrorCode::input, fmt::format("{}: is not a JSON object", name));
  }
  std::vector<std::pair<std::string, std::string>> map;
  for (const auto& [tensor, shard] : object_at(document, "weight_map", name).items()) {
    if (!shard.is_string()) {
      throw Error(ErrorCode::input,
                  fmt::format("{}: weight_map '{}' is of type {}, expected a string", name, tensor,
                              shard.type_name()));
    }
    const auto file = shard.get<std::string>();
    // A shard is a neighbour of its index, whatever an index may say.
    if (file.empty() || file == "." || file == ".." || file.find('/') != std::string::npos ||
        file.find('\0') != std::string::npos) {
      throw Error(
          ErrorCode::input,
          fmt::format("{}: weight_map puts '{}' into '{}', expected the name of a file beside it",
                      name, tensor, file));
    }
    map.emplace_back(tensor, file);
  }
  if (map.empty()) throw Error(ErrorCode::input, fmt::format("{}: weight_map is empty", name));
  return map;
}

Weights weights_in(const fs::path& folder, const std::vector<std::string>& names) {
  for (const WeightName& known : kWeightNames) {
    if (contains(names, known.single)) {
      return {*container_of(fs::path(known.single)), {std::string(known.single)}, {}};
    }
    if (contains(names, known.index)) {
      Weights weights{*container_of(fs::path(known.single)), {}, std::string(known.index)};
      std::set<std::string> shards;
      for (const auto& [tensor, shard] : weight_map_of(folder / known.index)) shards.insert(shard);
      weights.files.assign(shards.begin(), shards.end());
      for (const std::string& shard : weights.files) {
        if (!contains(names, shard)) {
          throw Error(ErrorCode::input,
                      fmt::format("{}: shard '{}' is missing", known.index, shard),
                      "the download may be incomplete");
        }
        if (container_of(fs::path(shard)) != weights.container) {
          throw Error(ErrorCode::input, fmt::format("{}: shard '{}' is not a {} file", known.index,
                                                    shard, container_name(weights.container)));
        }
      }
      return weights;
    }
  }
  std::vector<std::string> candidates;
  for (const std::string& name : names) {
    if (container_of(fs::path(name))) candidates.push_back(name);
  }
  if (candidates.size() == 1) {
    return {*container_of(fs::path(candidates.front())), {candidates.front()}, {}};
  }
  const bool has_gguf = std::any_of(names.begin(), names.end(),
                                    [](const std::string& n) { return n.ends_with(".gguf"); });
  if (candidates.empty() && has_gguf) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: holds GGUF weights, expected safetensors or "
                            "PyTorch ones",
                            folder.string()),
                "re-order the checkpoint the GGUF file was converted from, then convert again");
  }
  throw Error(ErrorCode::input,
              fmt::format("{}: holds {} weight files and none is called model.safetensors or "
                          "pytorch_model.bin",
                          folder.string(), candidates.size()),
              candidates.empty()
                  ? "a model folder has config.json and its weights side by side"
                  : "name the file itself: --model " + (folder / candidates.front()).string());
}

}  // namespace

std::string_view container_name(Container container) noexcept {
  return container == Container::safetensors ? "safetensors" : "PyTorch";
}

Checkpoint Checkpoint::open(const fs::path& model, const OpenOptions& options) {
  Checkpoint checkpoint;
  std::error_code failure;
  const fs::file_status status = fs::status(model, failure);
  if (!fs::exists(status)) {
    throw Error(ErrorCode::input, fmt::format("{}: no such file or folder", model.string()));
  }

  Weights weights;
  if (fs::is_directory(status)) {
    checkpoint.folder_ = model;
    const auto names = files_in(model);
    weights = weights_in(model, names);
    for (const std::string& name : names) {
      if (is_weight_file(name)) {
        if (!contains(weights.files, name) && name != weights.index) {
          checkpoint.left_out_.push_back(name);
        }
      } else if (!is_own_file(name)) {
        checkpoint.side_files_.push_back(name);
      }
    }
  } else {
    const auto container = container_of(model);
    if (!container) {
      throw Error(
          ErrorCode::unsupported,
          fmt::format("{}: is called '{}', expected *.safetensors, *.bin, *.pt, *.pth or *.ckpt",
                      model.string(), model.extension().string()));
    }
    checkpoint.folder_ = model.has_parent_path() ? model.parent_path() : fs::path(".");
    weights = {*container, {model.filename().string()}, {}};
    for (const std::string_view name : kCompanions) {
      if (fs::is_regular_file(checkpoint.folder_ / name, failure)) {
        checkpoint.side_files_.emplace_back(name);
      }
    }
    std::sort(checkpoint.side_files_.begin(), checkpoint.side_files_.end());
  }

  checkpoint.container_ = weights.container;
  checkpoint.index_file_ = weights.index;
  for (const std::string& name : weights.files) {
    const int file = static_cast<int>(checkpoint.files_.size());
    auto& weight_file =
        *checkpoint.files_.emplace_back(std::make_unique<MappedFile>(checkpoint.folder_ / name));
    auto tensors = weights.container == Container::safetensors
                       ? read_safetensors(weight_file, file)
                       : read_torch_archive(weight_file, file);
    std::move(tensors.begin(), tensors.end(), std::back_inserter(checkpoint.tensors_));
  }

  const auto& tensors = checkpoint.tensors_;
  auto& by_name = checkpoint.by_name_;
  by_name.resize(tensors.size());
  std::iota(by_name.begin(), by_name.end(), std::size_t{0});
  std::sort(by_name.begin(), by_name.end(),
            [&](std::size_t a, std::size_t b) { return tensors[a].name < tensors[b].name; });
  for (std::size_t i = 1; i < by_name.size(); ++i) {
    const StoredTensor& a = tensors[by_name[i - 1]];
    const StoredTensor& b = tensors[by_name[i]];
    if (a.name == b.name) {
      throw Error(ErrorCode::input, fmt::format("tensor '{}': is in '{}' and in '{}'", a.name,
                                                weights.files[static_cast<std::size_t>(a.file)],
                                                weights.files[static_cast<std::size_t>(b.file)]));
    }
  }

  if (!weights.index.empty()) {
    const auto map = weight_map_of(checkpoint.folder_ / weights.index);
    for (const auto& [name, shard] : map) {
      const StoredTensor* tensor = checkpoint.find(name);
      const auto* where =
          tensor == nullptr ? nullptr : &weights.files[static_cast<std::size_t>(tensor->file)];
      if (where == nullptr || *where != shard) {
        throw Error(
            ErrorCode::input,
            fmt::format("{}: tensor '{}' is said to be in '{}', but is {}", weights.index, name,
                        shard, where == nullptr ? "in none of the shards" : "in '" + *where + "'"));
      }
    }
    if (map.size() != tensors.size()) {
      std::set<std::string_view> listed;
      for (const auto& entry : map) listed.insert(entry.first);
      for (const StoredTensor& tensor : tensors) {
        if (!listed.contains(tensor.name)) {
          throw Error(
              ErrorCode::input,
              fmt::format("{}: does not list tensor '{}' of '{}'", weights.index, tensor.name,
                          weights.files[static_cast<std::size_t>(tensor.file)]));
        }
      }
    }
  }

  checkpoint.config_path_ = options.config.value_or(checkpoint.folder_ / "config.json");
  if (!options.config && !fs::exists(checkpoint.config_path_, failure) &&
      fs::exists(checkpoint.folder_ / "params.json", failure)) {  // Mistral's name for it
    checkpoint.config_path_ = checkpoint.folder_ / "params.json";
  }
  if (options.config || fs::exists(checkpoint.config_path_, failure)) {
    checkpoint.config_text_ = read_text(checkpoint.config_path_, kMaxTextBytes);
  }
  return checkpoint;
}

const StoredTensor* Checkpoint::find(std::string_view name) const noexcept {
  const auto at = std::lower_bound(
      by_name_.begin(), by_name_.end(), name,
      [&](std::size_t i, std::string_view wanted) { return tensors_[i].name < wanted; });
  if (at == by_name_.end() || tensors_[*at].name != name) return nullptr;
  return &tensors_[*at];
}

TensorView Checkpoint::view(const StoredTensor& tensor) const noexcept {
  const WeightFile& file = *files_[static_cast<std::size_t>(tensor.file)];
  return {tensor.dtype, tensor.shape, tensor.strides, file.data + tensor.begin};
}

std::string Checkpoint::structure_digest() const {
  std::string text;
  std::map<std::pair<int, std::int64_t>, const StoredTensor*> at_place;
  for (const std::size_t i : by_name_) {
    const StoredTensor& tensor = tensors_[i];
    // A second name for the same bytes, a tied head in a .bin, adds nothing that could move:
    // a model is the same with and without it.
    const auto first =
        at_place.emplace(std::pair(tensor.file, tensor.begin), &tensor).first->second;
    if (first != &tensor && first->shape == tensor.shape && first->strides == tensor.strides) {
      continue;
    }
    text += fmt::format("{} {} {}\n", tensor.name, tensor.dtype_text, shape_text(tensor.shape));
  }
  return sha256_of_text(text);
}

}  // namespace icd
