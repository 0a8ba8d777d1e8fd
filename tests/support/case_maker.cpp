#include "support/case_maker.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "support/files.h"
#include "support/tiny_checkpoint.h"
#include "support/tiny_mamba2.h"
#include "support/torch_archive_builder.h"

namespace icd::testing {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLengthBytes = 8;  // of a safetensors header's length

[[noreturn]] void refuse(const std::string& reason) { throw std::invalid_argument(reason); }

std::int64_t number_of(std::string_view text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) {
    refuse(fmt::format("'{}' is not a number", text));
  }
  return number;
}

std::vector<std::string> split(std::string_view text, char at) {
  std::vector<std::string> parts;
  for (;;) {
    const std::size_t end = text.find(at);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::string unescaped(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      plain += text[i];
    } else if (text.substr(i, 2) == "\\n" || text.substr(i, 2) == "\\\\") {
      plain += text[++i] == 'n' ? '\n' : '\\';
    } else if (text.substr(i, 2) == "\\x" && i + 3 < text.size()) {
      plain += static_cast<char>(std::stoi(std::string(text.substr(i + 2, 2)), nullptr, 16));
      i += 3;
    } else {
      refuse(fmt::format("'{}': expected \\n, \\\\ or \\xHH", text.substr(i)));
    }
  }
  return plain;
}

/// `text` after "s/OLD/NEW/".
std::string edited(std::string text, std::string_view edit) {
  if (edit.size() < 4 || edit[0] != 's') refuse(fmt::format("'{}' is not s/OLD/NEW/", edit));
  const auto parts = split(edit.substr(2), edit[1]);
  if (parts.size() != 3 || !parts[2].empty()) refuse(fmt::format("'{}' is not s/OLD/NEW/", edit));
  const std::string old = unescaped(parts[0]);
  const std::size_t at = text.find(old);
  if (at == std::string::npos) refuse(fmt::format("'{}' is not there to be edited", old));
  return text.replace(at, old.size(), unescaped(parts[1]));
}

std::uint64_t header_length(const std::string& bytes) {
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  return length;
}

void set_header_length(std::string& bytes, std::uint64_t length) {
  std::memcpy(bytes.data(), &length, sizeof length);
}

// --- checkpoints

/// Sets the member of TinyOptions called `key`; false if there is none.
bool set_option(TinyOptions& options, std::string_view key, const std::string& value) {
  struct Number {
    std::string_view key;
    std::int64_t TinyOptions::*member;
  };
  struct Flag {
    std::string_view key;
    bool TinyOptions::*member;
  };
  constexpr std::array kNumbers = {
      Number{"n_layer", &TinyOptions::n_layer}, Number{"vocab", &TinyOptions::vocab},
      Number{"d_model", &TinyOptions::d_model}, Number{"d_inner", &TinyOptions::d_inner},
      Number{"d_state", &TinyOptions::d_state}, Number{"d_conv", &TinyOptions::d_conv},
      Number{"dt_rank", &TinyOptions::dt_rank}};
  constexpr std::array kFlags = {Flag{"hf", &TinyOptions::hf},
                                 Flag{"conv_bias", &TinyOptions::conv_bias},
                                 Flag{"proj_bias", &TinyOptions::proj_bias},
                                 Flag{"layer_norm", &TinyOptions::layer_norm},
                                 Flag{"tied_head", &TinyOptions::tied_head},
                                 Flag{"stored_tied_head", &TinyOptions::stored_tied_head}};
  for (const Number& number : kNumbers) {
    if (number.key == key) return options.*number.member = number_of(value), true;
  }
  for (const Flag& flag : kFlags) {
    if (flag.key == key) return options.*flag.member = number_of(value) != 0, true;
  }
  if (key == "seed") return options.seed = static_cast<std::uint64_t>(number_of(value)), true;
  if (key == "prefix") return options.prefix = value, true;
  if (key == "dtype" && value.find(':') == std::string::npos) return options.dtype = value, true;
  return false;
}

void reshape(TinyTensor& tensor, const std::string& shape) {
  tensor.shape.clear();
  std::int64_t count = 1;
  for (const std::string& extent : split(shape, ',')) {
    tensor.shape.push_back(number_of(extent));
    count *= tensor.shape.back();
  }
  tensor.bytes = random_bytes("F32", count, 1, 0, 7);
}

/// Makes one change to the tensors: drop=NAME, shape=NAME:16,4, ...
void change(TinyCheckpoint& tiny, std::string_view key, const std::string& value) {
  const std::size_t colon = value.find(':');
  const std::string name = value.substr(0, colon);
  const std::string rest = colon == std::string::npos ? "" : value.substr(colon + 1);
  if (key == "add") {
    tiny.tensors.push_back({name, "F32", {}, {}});
    reshape(tiny.tensors.back(), rest);
    return;
  }
  TinyTensor& tensor = tiny.tensor(name);
  if (key == "drop") {
    tiny.tensors.erase(tiny.tensors.begin() + (&tensor - tiny.tensors.data()));
  } else if (key == "shape") {
    reshape(tensor, rest);
  } else if (key == "dtype") {
    tensor.dtype = rest;
  } else if (key == "nan") {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(tensor.bytes.data(), &nan, sizeof nan);
  } else {
    refuse(fmt::format("make: there is no option '{}'", key));
  }
}

std::string storage_class(const std::string& dtype) {
  if (dtype == "BF16") return "BFloat16Storage";
  if (dtype == "F16") return "HalfStorage";
  if (dtype == "F64") return "DoubleStorage";
  return "FloatStorage";
}

/// The pickle of a state dict that asks the reader to run a command.
std::string pickle_of_a_command() {
  return PickleDraft().global("os", "system").raw("(").text("touch owned").raw("tR").stop();
}

/// Lists that hold the one before ten times: 10^30 values on 500 bytes.
std::string pickle_of_a_billion_laughs() {
  std::string opcodes = "](Ne";
  for (char level = 0; level < 30; ++level) {
    (opcodes += 'q') += level;
    opcodes += "0](";
    for (int i = 0; i < 10; ++i) (opcodes += 'h') += level;
    opcodes += 'e';
  }
  return PickleDraft().raw(opcodes).stop();
}

/// pytorch_model.bin as torch.save writes it, with one defect if `defect` names one.
std::string torch_bytes(const TinyCheckpoint& tiny, const std::string& defect) {
  constexpr std::array<std::string_view, 9> kDefects = {
      "",           "view-beyond-storage", "os.system",           "billion-laughs",
      "big-endian", "deflated-record",     "overlapping-records", "damaged-pickle",
      "script"};
  if (std::find(kDefects.begin(), kDefects.end(), defect) == kDefects.end()) {
    refuse(fmt::format("torch: there is no defect '{}'", defect));
  }
  std::vector<std::pair<std::string, PickleDraft::View>> views;
  std::vector<std::string> storages;
  for (const TinyTensor& tensor : tiny.tensors) {
    // What is equal is one tensor under two names: PyTorch stores it once.
    const auto same = std::find(storages.begin(), storages.end(), tensor.bytes);
    const auto key = static_cast<std::size_t>(same - storages.begin());
    if (same == storages.end()) storages.push_back(tensor.bytes);
    std::int64_t elements = 1;
    std::vector<std::int64_t> strides(tensor.shape.size());
    for (std::size_t axis = tensor.shape.size(); axis-- > 0;) {
      strides[axis] = elements;
      elements *= tensor.shape[axis];
    }
    views.push_back({tensor.name,
                     {.storage_class = storage_class(tensor.dtype),
                      .key = std::to_string(key),
                      .storage_elements = elements,
                      .shape = tensor.shape,
                      .strides = strides}});
  }
  if (defect == "view-beyond-storage") views.front().second.offset = 1;
  ZipDraft draft = archive_of(pickle_of(views), storages);
  RecordDraft& pickle = draft.records[0];
  RecordDraft& byte_order = draft.records[1];
  RecordDraft& storage = draft.records[2];
  if (defect == "os.system") pickle.bytes = pickle_of_a_command();
  if (defect == "billion-laughs") pickle.bytes = pickle_of_a_billion_laughs();
  if (defect == "big-endian") byte_order.bytes = "big";
  if (defect == "deflated-record") storage.method = 8;
  if (defect == "overlapping-records") {
    storage.local_bytes = storage.central_bytes =
        static_cast<std::uint32_t>(storage.bytes.size() + 64);
  }
  if (defect == "damaged-pickle") pickle.local_crc = pickle.central_crc = 1;
  if (defect == "script")
    draft.records.push_back({.name = "pytorch_model/code/m.py", .bytes = "pass"});
  return zip_bytes(draft);
}

void make_checkpoint(const fs::path& folder, const std::vector<std::string>& words) {
  TinyOptions options;
  std::vector<std::pair<std::string, std::string>> changes;
  std::int64_t shards = 0;
  std::optional<std::string> torch;
  for (std::size_t i = 2; i < words.size(); ++i) {
    const std::size_t equals = words[i].find('=');
    const std::string key = words[i].substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : words[i].substr(equals + 1);
    if (key == "torch") {
      torch = value;
    } else if (key == "shards") {
      shards = number_of(value);
    } else if (!set_option(options, key, value)) {
      changes.emplace_back(key, value);
    }
  }
  TinyCheckpoint tiny(options);
  for (const auto& [key, value] : changes) change(tiny, key, value);
  const fs::path target = folder / words[1];
  if (torch) {
    fs::create_directories(target);
    write_file(target / "config.json", tiny.config);
    write_file(target / "pytorch_model.bin", torch_bytes(tiny, *torch));
  } else if (shards != 0) {
    tiny.write_sharded(target, static_cast<int>(shards));
  } else {
    tiny.write(target);
  }
}

/// make2 M [OPTION...]
void make_mamba2(const fs::path& folder, const std::vector<std::string>& words) {
  struct Number {
    std::string_view key;
    std::int64_t TinyMamba2Options::*member;
  };
  struct Flag {
    std::string_view key;
    bool TinyMamba2Options::*member;
  };
  constexpr std::array kNumbers = {Number{"n_layer", &TinyMamba2Options::n_layer},
                                   Number{"vocab", &TinyMamba2Options::vocab},
                                   Number{"d_model", &TinyMamba2Options::d_model},
                                   Number{"ngroups", &TinyMamba2Options::ngroups},
                                   Number{"heads_per_group", &TinyMamba2Options::heads_per_group},
                                   Number{"headdim", &TinyMamba2Options::headdim},
                                   Number{"d_state", &TinyMamba2Options::d_state},
                                   Number{"d_mlp", &TinyMamba2Options::d_mlp},
                                   Number{"d_conv", &TinyMamba2Options::d_conv}};
  constexpr std::array kFlags = {Flag{"hf", &TinyMamba2Options::hf},
                                 Flag{"bare", &TinyMamba2Options::bare},
                                 Flag{"conv_bias", &TinyMamba2Options::conv_bias},
                                 Flag{"proj_bias", &TinyMamba2Options::proj_bias},
                                 Flag{"d_per_channel", &TinyMamba2Options::d_per_channel},
                                 Flag{"tied_head", &TinyMamba2Options::tied_head}};
  TinyMamba2Options options;
  std::string torch_file;
  for (std::size_t i = 2; i < words.size(); ++i) {
    const auto parts = split(words[i], '=');
    if (parts.size() != 2) refuse(fmt::format("make2: '{}' is not KEY=VALUE", words[i]));
    const auto number = std::find_if(kNumbers.begin(), kNumbers.end(),
                                     [&](const Number& each) { return each.key == parts[0]; });
    const auto flag = std::find_if(kFlags.begin(), kFlags.end(),
                                   [&](const Flag& each) { return each.key == parts[0]; });
    if (number != kNumbers.end()) {
      options.*number->member = number_of(parts[1]);
    } else if (flag != kFlags.end()) {
      options.*flag->member = number_of(parts[1]) != 0;
    } else if (parts[0] == "torch") {
      torch_file = parts[1];
    } else if (parts[0] == "seed") {
      options.seed = static_cast<std::uint64_t>(number_of(parts[1]));
    } else {
      refuse(fmt::format("make2: there is no option '{}'", parts[0]));
    }
  }
  const TinyMamba2 tiny(options);
  if (torch_file.empty()) {
    tiny.write(folder / words[1]);
  } else {
    tiny.write_torch(folder / words[1], torch_file);
  }
}

// --- files

void make_text(const fs::path& folder, const std::vector<std::string>& words) {
  fs::create_directories((folder / words[1]).parent_path());
  write_file(folder / words[1], unescaped(words[2]));
}

void edit_file(const fs::path& folder, const std::vector<std::string>& words) {
  write_file(folder / words[1], edited(read_file(folder / words[1]), words[2]));
}

void edit_header(const fs::path& folder, const std::vector<std::string>& words) {
  std::string bytes = read_file(folder / words[1]);
  const auto length = static_cast<std::size_t>(header_length(bytes));
  const std::string header = edited(bytes.substr(kLengthBytes, length), words[2]);
  bytes.replace(kLengthBytes, length, header);
  set_header_length(bytes, header.size());
  write_file(folder / words[1], bytes);
}

void state_length(const fs::path& folder, const std::vector<std::string>& words) {
  std::string bytes = read_file(folder / words[1]);
  set_header_length(bytes, static_cast<std::uint64_t>(number_of(words[2])));
  write_file(folder / words[1], bytes);
}

void cut_file(const fs::path& folder, const std::vector<std::string>& words) {
  const auto bytes = fs::file_size(folder / words[1]);
  fs::resize_file(folder / words[1], bytes - static_cast<std::uintmax_t>(number_of(words[2])));
}

void pad_file(const fs::path& folder, const std::vector<std::string>& words) {
  const auto bytes = fs::file_size(folder / words[1]);
  fs::resize_file(folder / words[1], bytes + static_cast<std::uintmax_t>(number_of(words[2])));
}

void copy_path(const fs::path& folder, const std::vector<std::string>& words) {
  fs::copy(folder / words[1], folder / words[2], fs::copy_options::recursive);
}

void link_path(const fs::path& folder, const std::vector<std::string>& words) {
  fs::create_symlink(words[1], folder / words[2]);
}

void remove_path(const fs::path& folder, const std::vector<std::string>& words) {
  if (fs::remove_all(folder / words[1]) == 0) refuse("there is no " + words[1]);
}

struct Verb {
  std::string_view name;
  std::size_t operands;  ///< at least; `make` takes more
  void (*act)(const fs::path& folder, const std::vector<std::string>& words);
};

constexpr std::array kVerbs = {Verb{"make", 1, make_checkpoint}, Verb{"make2", 1, make_mamba2},
                               Verb{"text", 2, make_text},       Verb{"edit", 2, edit_file},
                               Verb{"header", 2, edit_header},   Verb{"length", 2, state_length},
                               Verb{"cut", 2, cut_file},         Verb{"pad", 2, pad_file},
                               Verb{"copy", 2, copy_path},       Verb{"link", 2, link_path},
                               Verb{"remove", 1, remove_path}};

}  // namespace

void make_file(const fs::path& folder, const std::vector<std::string>& words) {
  const auto verb = std::find_if(kVerbs.begin(), kVerbs.end(),
                                 [&](const Verb& each) { return each.name == words.front(); });
  if (verb == kVerbs.end()) refuse(fmt::format("there is no verb '{}'", words.front()));
  const std::size_t operands = words.size() - 1;
  if (operands < verb->operands || (operands > verb->operands && !verb->name.starts_with("make"))) {
    refuse(fmt::format("{}: {} operands, expected {}", verb->name, operands, verb->operands));
  }
  verb->act(folder, words);
}

std::vector<std::string> words_of(std::string_view line) {
  std::vector<std::string> words;
  bool in_word = false;
  char quote = 0;
  for (const char c : line) {
    if (quote != 0 ? c == quote : c == '\'' || c == '"') {
      quote = quote != 0 ? 0 : c;
      if (!in_word) words.emplace_back();
      in_word = true;
    } else if (c == ' ' && quote == 0) {
      in_word = false;
    } else {
      if (!in_word) words.emplace_back();
      in_word = true;
      words.back() += c;
    }
  }
  if (quote != 0) refuse(fmt::format("{}: a quote is not closed", line));
  return words;
}

}  // namespace icd::testing
