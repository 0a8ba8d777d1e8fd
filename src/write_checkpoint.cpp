#include "icd/write_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "icd/error.h"
#include "permute_tensor.h"
#include "quote.h"
#include "safetensors.h"
#include "torch_writer.h"

namespace icd {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPieceBytes = std::size_t{1} << 20;

void check_dtype(const NewTensor& tensor) {
  if (dtype_bytes(tensor.dtype) != 0) return;
  throw Error(ErrorCode::unsupported,
              fmt::format("tensor {}: is of type {}, expected one whose elements fill bytes",
                          quote(tensor.name), dtype_name(tensor.dtype)));
}

void write_torch(const fs::path& file, const std::vector<NewTensor>& tensors) {
  std::vector<TorchWriter::Entry> entries;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const NewTensor& tensor = tensors[i];
    entries.push_back({tensor.name, tensor.dtype, tensor.shape, static_cast<int>(i)});
    for (const std::string& alias : tensor.aliases) {
      entries.push_back({alias, tensor.dtype, tensor.shape, static_cast<int>(i)});
    }
  }
  TorchWriter writer(file, "pytorch_model", std::move(entries));
  for (const NewTensor& tensor : tensors) {
    tensor.produce([&](std::span<const std::byte> bytes) { writer.write(bytes); });
  }
  writer.finish();
}

void write_safetensors(const fs::path& file, const std::vector<NewTensor>& tensors) {
  std::vector<SafetensorsEntry> entries;
  for (const NewTensor& tensor : tensors) {
    if (!tensor.aliases.empty()) {
      throw Error(ErrorCode::usage,
                  fmt::format("tensor {}: is also called {}, safetensors give a tensor one name",
                              quote(tensor.name), quote(tensor.aliases.front())));
    }
    entries.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  std::ofstream out(file, std::ios::binary);
  const std::string header = safetensors_header(entries);
  out.write(header.data(), static_cast<std::streamsize>(header.size()));
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    std::int64_t written = 0;
    tensors[i].produce([&](std::span<const std::byte> bytes) {
      written += static_cast<std::int64_t>(bytes.size());
      out.write(reinterpret_cast<const char*>(bytes.data()),
                static_cast<std::streamsize>(bytes.size()));
    });
    if (const std::int64_t expected = entry_bytes(entries[i]); written != expected) {
      throw Error(ErrorCode::usage, fmt::format("tensor {}: {} bytes were written, expected {}",
                                                quote(tensors[i].name), written, expected));
    }
  }
  if (!out.flush()) {
    throw Error(ErrorCode::io, fmt::format("{}: cannot be written", file.string()));
  }
}

}  // namespace

void write_weight_file(const fs::path& file, Container container,
                       const std::vector<NewTensor>& tensors) {
  for (const NewTensor& tensor : tensors) check_dtype(tensor);
  if (container == Container::torch) {
    write_torch(file, tensors);
  } else {
    write_safetensors(file, tensors);
  }
}

void write_packed(const TensorView& view, const ByteSink& sink) {
  const auto size = static_cast<std::size_t>(dtype_bytes(view.dtype));
  const std::size_t total = static_cast<std::size_t>(view.elements()) * size;
  if (total == 0) return;
  if (view.is_packed()) {
    for (std::size_t at = 0; at < total; at += kPieceBytes) {
      sink({view.data + at, std::min(kPieceBytes, total - at)});
    }
    return;
  }
  std::vector<std::byte> piece;
  piece.reserve(kPieceBytes + size);
  for_each_moved_element(view, {}, [&](std::int64_t, std::int64_t from) {
    piece.insert(piece.end(), view.data + from, view.data + from + size);
    if (piece.size() < kPieceBytes) return;
    sink(piece);
    piece.clear();
  });
  if (!piece.empty()) sink(piece);
}

NewTensor carried(const Checkpoint& checkpoint, const StoredTensor& tensor, std::string name) {
  return {.name = std::move(name),
          .dtype = tensor.dtype,
          .shape = tensor.shape,
          .produce = [&checkpoint, &tensor](const ByteSink& sink) {
            write_packed(checkpoint.view(tensor), sink);
          }};
}

}  // namespace icd
