#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "icd/dtype.h"

namespace icd {

/// An element type of PyTorch: "FloatStorage", or "float8_e4m3fn" where torch.save names the
/// dtype instead of a storage class.
struct TorchElement {
  std::string_view name;
  DType dtype = DType::unknown;
  int bytes = 0;  ///< of one element
};

/// A storage that a pickle refers to: the record data/<key> of the archive.
struct PickledStorage {
  std::string_view key;
  TorchElement element;
  std::int64_t elements = 0;
};

/// A strided view of a storage, as the pickle states it: nothing has been checked but that
/// shape and strides have one rank of at most 64.
struct PickledTensor {
  std::size_t storage = 0;  ///< index into Pickle::storages
  TorchElement element;
  std::int64_t offset = 0;  ///< in elements
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;  ///< in elements
};

enum class PickleKind : std::uint8_t {
  constant,  ///< None, a float, an integer of more than 64 bits: of no interest to a state dict
  boolean,
  integer,
  text,
  bytes,
  tuple,
  list,
  dict,
  global,
  storage,
  tensor,
  opaque,  ///< an object that stays as it was described: a device, a numpy scalar, a Namespace
};

/// Index of a value in Pickle::values.
using PickleRef = std::uint32_t;

struct PickleValue {
  PickleKind kind = PickleKind::constant;
  std::int64_t integer = 0;      ///< boolean, integer; storage, tensor, global: index in its table
  std::string_view text;         ///< text, bytes: a part of the pickle
  std::vector<PickleRef> items;  ///< tuple, list: elements; dict: key, value, key, ...;
                                 ///< opaque: what it was made from
};

/// What a pickle describes. Values refer to each other by index, so that a pickle may describe
/// any graph, cycles included, without recursion here. Texts lie in the bytes that were read.
struct Pickle {
  std::vector<PickleValue> values;
  std::vector<PickledStorage> storages;
  std::vector<PickledTensor> tensors;
  PickleRef root = 0;
};

/// About 180,000 tensors take the default number of opcodes.
struct PickleLimits {
  std::size_t bytes = std::size_t{256} << 20;
  std::size_t opcodes = std::size_t{1} << 23;
  std::size_t memo = std::size_t{1} << 23;
  std::size_t stack = std::size_t{1} << 20;
  std::size_t text = std::size_t{1} << 24;  ///< bytes of one text or byte string
};

/// Reads the pickle of a state dict: the binary opcodes of the protocols 2 to 5, and the globals
/// that torch.save writes for tensors and plain hyper-parameters. Nothing is imported, called or
/// executed: a global is an entry of a table or it is refused.
/// `name` is the pickle's in messages. Memory is proportional to the number of opcodes.
/// Throws Error{input} for malformed pickles, other globals (by name) and excess over the limits,
/// Error{unsupported} for kinds of tensor that have no plain storage (sparse, quantized, ...).
Pickle read_pickle(std::span<const std::byte> pickle, std::string_view name,
                   const PickleLimits& limits = {});

}  // namespace icd
