#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace icd {

/// Element types, spelt as safetensors spells them. `unknown` is a type that some
/// file names and icd does not know: such a tensor can be carried, not moved or read.
enum class DType : std::uint8_t {
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64,
  unknown,
};

/// "BF16", "F32", ...; "?" for unknown.
std::string_view dtype_name(DType dtype) noexcept;

/// The type that safetensors calls `name`, if icd knows it.
std::optional<DType> dtype_from_name(std::string_view name) noexcept;

/// Bits of one element; 0 for unknown. Types below 8 bits are packed.
int dtype_bits(DType dtype) noexcept;

/// Bytes of one element of a type that fills whole bytes; 0 for the others.
int dtype_bytes(DType dtype) noexcept;

/// Can convert.h read it as a number? True for the floating types of 16 bits and more.
bool is_readable_float(DType dtype) noexcept;

}  // namespace icd
