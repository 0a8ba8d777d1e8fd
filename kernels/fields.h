#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include "kernels/args.h"

// The fields of every struct of arguments, once, for whoever has to look at all of them: why_not()
// checks them, the C interface asks where they lie. A visitor has
//   size(name, value, least, most)           a number of things
//   type(name, value)                        an element type
//   expect(holds, name, value, expected...)  anything else; what is expected, in pieces of a line
//   tensor(name, tensor, type, need, axes)   strided
//   array(name, pointer, bytes, need, shape) packed, elements of so many bytes
// and sees sizes ahead of the shapes that are made of them.
namespace icd::fields {

struct Axis {
  const char* name;  ///< nullptr: no axis of the tensor, its stride is not used
  std::int64_t size;
};
using Axes = std::array<Axis, 3>;  ///< batch, token, channel
using Shape = std::initializer_list<Axis>;

/// What is required is so only where there is work: where no axis is 0.
enum class Need { input, output, optional };

constexpr std::int64_t kAnySize = std::numeric_limits<std::int64_t>::max();

/// a * b, or the largest number there is.
inline std::int64_t product(std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  return __builtin_mul_overflow(a, b, &result) ? kAnySize : result;
}

/// Tokens of sequences side by side, or with starts one behind the other.
inline Axes tokens(std::int64_t batch, std::int64_t length, Axis channel,
                   const std::int32_t* starts) {
  const Axis first =
      starts == nullptr ? Axis{"batch", batch} : Axis{nullptr, std::int64_t{batch > 0}};
  return {first, {"length", length}, channel};
}

/// One token of every sequence.
inline Axes rows(std::int64_t batch, Axis channel) {
  return {{{"batch", batch}, {nullptr, 1}, channel}};
}

inline bool divides(std::int64_t part, std::int64_t whole) { return part > 0 && whole % part == 0; }

/// Of a power of two; any address is one of 0, the size of an unknown type.
inline bool is_multiple(const void* address, std::int64_t of) {
  return of == 0 ||
         (reinterpret_cast<std::uintptr_t>(address) & static_cast<std::uintptr_t>(of - 1)) == 0;
}

/// `size` rows that are `stride` elements apart, whichever way; of an output `apart` at least.
template <typename Visitor>
void visit_stride(const char* name, std::int64_t stride, std::int64_t size, std::int64_t apart,
                  const char* apart_name, Visitor& v) {
  if (size <= 1) return;
  const double distance = std::fabs(static_cast<double>(stride));
  v.expect(distance * static_cast<double>(size) <= 0x1p60, name, stride,
           "fewer than 2^60 elements");
  v.expect(distance >= static_cast<double>(apart), name, stride, "at least ", apart_name, " = ",
           apart);
}

template <typename Visitor>
void visit_starts(const std::int32_t* starts, std::int64_t batch, std::int64_t length, Visitor& v) {
  v.array("starts", starts, 4, Need::optional, {{"batch + 1", batch}});
  v.expect(starts == nullptr || length <= std::numeric_limits<std::int32_t>::max(), "length",
           length, "at most 2147483647 where starts is given");
}

template <typename Visitor>
void visit_workspace(const void* workspace, Visitor& v) {
  v.array("workspace", workspace, 1, Need::optional, {});
  v.expect(is_multiple(workspace, 256), "workspace", workspace, "a multiple of 256");
}

template <typename Visitor>
void visit_apart(const Strided& y, const char* name, const Strided& other, Visitor& v) {
  v.expect(y.data == nullptr || y.data != other.data, "y.data", y.data, "another place than ", name,
           ".data");
}

template <typename Visitor>
void visit(const SelectiveScan& a, Visitor& v) {
  v.size("batch", a.batch);
  v.size("length", a.length);
  v.size("channels", a.channels);
  v.size("states", a.states, 1, 256);
  v.type("type", a.type);
  const Axes channels = tokens(a.batch, a.length, {"channels", a.channels}, a.starts);
  // Without channels nothing is read of B and C.
  const Axes states =
      tokens(a.batch, a.length, {"states", a.channels > 0 ? a.states : 0}, a.starts);
  v.tensor("u", a.u, a.type, Need::input, channels);
  v.tensor("dt", a.dt, a.type, Need::input, channels);
  v.tensor("z", a.z, a.type, Need::optional, channels);
  v.tensor("B", a.B, a.type, Need::input, states);
  v.tensor("C", a.C, a.type, Need::input, states);
  v.tensor("y", a.y, a.type, Need::output, channels);
  const Need parameters = a.batch > 0 && a.length > 0 ? Need::input : Need::optional;
  v.array("A", a.A, 4, parameters, {{"channels", a.channels}, {"states", a.states}});
  v.array("D", a.D, 4, Need::optional, {{"channels", a.channels}});
  v.array("dt_bias", a.dt_bias, 4, Need::optional, {{"channels", a.channels}});
  const Shape state = {{"batch", a.batch}, {"channels", a.channels}, {"states", a.states}};
  v.array("initial_state", a.initial_state, 4, Need::optional, state);
  v.array("final_state", a.final_state, 4, Need::optional, state);
  visit_starts(a.starts, a.batch, a.length, v);
  visit_workspace(a.workspace, v);
}

template <typename Visitor>
void visit(const CausalConv1d& a, Visitor& v) {
  v.size("batch", a.batch);
  v.size("length", a.length);
  v.size("channels", a.channels);
  v.size("width", a.width, 1, 8);
  v.type("type", a.type);
  const Axes channels = tokens(a.batch, a.length, {"channels", a.channels}, a.starts);
  v.tensor("x", a.x, a.type, Need::input, channels);
  v.tensor("y", a.y, a.type, Need::output, channels);
  visit_apart(a.y, "x", a.x, v);
  const std::int64_t bytes = element_bytes(a.type);
  const Need parameters = a.batch > 0 && a.length > 0 ? Need::input : Need::optional;
  v.array("weight", a.weight, bytes, parameters, {{"channels", a.channels}, {"width", a.width}});
  v.array("bias", a.bias, bytes, Need::optional, {{"channels", a.channels}});
  const Shape state = {{"batch", a.batch}, {"channels", a.channels}, {"width - 1", a.width - 1}};
  v.array("initial_state", a.initial_state, bytes, Need::optional, state);
  v.array("final_state", a.final_state, bytes, Need::optional, state);
  visit_starts(a.starts, a.batch, a.length, v);
}

template <typename Visitor>
void visit(const CausalConv1dUpdate& a, Visitor& v) {
  v.size("batch", a.batch);
  v.size("channels", a.channels);
  v.size("width", a.width, 1, 8);
  v.size("kept", a.kept, a.width - 1);
  v.type("type", a.type);
  const Axes channels = rows(a.batch, {"channels", a.channels});
  v.tensor("x", a.x, a.type, Need::input, channels);
  v.tensor("y", a.y, a.type, Need::output, channels);
  const std::int64_t bytes = element_bytes(a.type);
  const Need parameters = a.batch > 0 ? Need::input : Need::optional;
  v.array("weight", a.weight, bytes, parameters, {{"channels", a.channels}, {"width", a.width}});
  v.array("bias", a.bias, bytes, Need::optional, {{"channels", a.channels}});
  v.array("state", a.state, bytes, parameters,
          {{"batch", a.batch}, {"channels", a.channels}, {"kept", a.kept}});
  visit_stride("state_slot", a.state_slot, a.state != nullptr ? a.batch : 0, a.kept, "kept", v);
  visit_stride("state_channel", a.state_channel, a.state != nullptr ? a.channels : 0, a.kept,
               "kept", v);
  v.array("slots", a.slots, 4, Need::optional, {{"batch", a.batch}});
}

template <typename Visitor>
void visit(const StateUpdate& a, Visitor& v) {
  v.size("batch", a.batch);
  v.size("channels", a.channels);
  v.size("states", a.states, 1, 256);
  v.type("type", a.type);
  v.type("state_type", a.state_type);
  v.size("state_layout", a.state_layout, ICD_STATE_DN, ICD_STATE_ND);
  v.size("active_count", a.active_count, 0, a.channels);
  v.expect(a.active != nullptr || a.active_count == 0, "active_count", a.active_count,
           "0 where active is NULL");
  const bool has_work = a.batch > 0 && (a.active == nullptr || a.active_count > 0);
  const std::int64_t sequences = has_work ? a.batch : 0;
  const Axes channels = rows(sequences, {"channels", a.channels});
  const Axes states = rows(sequences, {"states", a.channels > 0 ? a.states : 0});
  v.tensor("u", a.u, a.type, Need::input, channels);
  v.tensor("dt", a.dt, a.type, Need::input, channels);
  v.tensor("z", a.z, a.type, Need::optional, channels);
  v.tensor("B", a.B, a.type, Need::input, states);
  v.tensor("C", a.C, a.type, Need::input, states);
  v.tensor("y", a.y, a.type, Need::output, channels);
  const Need parameters = has_work ? Need::input : Need::optional;
  v.array("A", a.A, 4, parameters, {{"channels", a.channels}, {"states", a.states}});
  v.array("D", a.D, 4, Need::optional, {{"channels", a.channels}});
  v.array("dt_bias", a.dt_bias, 4, Need::optional, {{"channels", a.channels}});
  v.array("state", a.state, element_bytes(a.state_type), parameters,
          {{"batch", a.batch}, {"channels", a.channels}, {"states", a.states}});
  v.array("slots", a.slots, 4, Need::optional, {{"batch", a.batch}});
  v.array("active", a.active, 4, Need::optional, {{"active_count", a.active_count}});
}

template <typename Visitor>
void visit(const HeadStateUpdate& a, Visitor& v) {
  v.size("batch", a.batch);
  v.size("heads", a.heads);
  v.size("head_dim", a.head_dim);
  v.size("groups", a.groups, 1);
  v.expect(divides(a.groups, a.heads), "groups", a.groups, "a divisor of heads = ", a.heads);
  v.size("states", a.states, 1, 256);
  v.type("type", a.type);
  v.type("state_type", a.state_type);
  const std::int64_t all = product(a.heads, a.head_dim);
  const std::int64_t sequences = all > 0 ? a.batch : 0;
  const Axes channels = rows(sequences, {"heads head_dim", all});
  const Axes heads = rows(sequences, {"heads", a.heads});
  const Axes states = rows(sequences, {"groups states", product(a.groups, a.states)});
  v.tensor("x", a.x, a.type, Need::input, channels);
  v.tensor("dt", a.dt, a.type, Need::input, heads);
  v.tensor("z", a.z, a.type, Need::optional, channels);
  v.tensor("B", a.B, a.type, Need::input, states);
  v.tensor("C", a.C, a.type, Need::input, states);
  v.tensor("y", a.y, a.type, Need::output, channels);
  const Need parameters = sequences > 0 ? Need::input : Need::optional;
  v.array("A", a.A, 4, parameters, {{"heads", a.heads}});
  v.array("D", a.D, 4, Need::optional, {{"heads", a.heads}});
  v.array("dt_bias", a.dt_bias, 4, Need::optional, {{"heads", a.heads}});
  v.array("state", a.state, element_bytes(a.state_type), parameters,
          {{"batch", a.batch}, {"heads", a.heads}, {"head_dim", a.head_dim}, {"states", a.states}});
  v.array("slots", a.slots, 4, Need::optional, {{"batch", a.batch}});
}

template <typename Visitor>
void visit(const Ssd& a, Visitor& v) {
  v.size("batch", a.batch);
  v.size("length", a.length);
  v.size("heads", a.heads);
  v.size("head_dim", a.head_dim, 1, 256);
  v.size("groups", a.groups, 1);
  v.expect(divides(a.groups, a.heads), "groups", a.groups, "a divisor of heads = ", a.heads);
  v.size("states", a.states, 1, 256);
  v.type("type", a.type);
  v.expect(a.dt_min <= a.dt_max, "dt_max", a.dt_max, "at least dt_min = ", a.dt_min);
  const std::int64_t sequences = a.heads > 0 ? a.batch : 0;
  const Axes channels =
      tokens(sequences, a.length, {"heads head_dim", product(a.heads, a.head_dim)}, a.starts);
  const Axes states =
      tokens(sequences, a.length, {"groups states", product(a.groups, a.states)}, a.starts);
  v.tensor("x", a.x, a.type, Need::input, channels);
  v.tensor("dt", a.dt, a.type, Need::input,
           tokens(sequences, a.length, {"heads", a.heads}, a.starts));
  v.tensor("z", a.z, a.type, Need::optional, channels);
  v.tensor("B", a.B, a.type, Need::input, states);
  v.tensor("C", a.C, a.type, Need::input, states);
  v.tensor("y", a.y, a.type, Need::output, channels);
  visit_apart(a.y, "x", a.x, v);
  visit_apart(a.y, "dt", a.dt, v);
  visit_apart(a.y, "z", a.z, v);
  visit_apart(a.y, "B", a.B, v);
  visit_apart(a.y, "C", a.C, v);
  const Need parameters = a.batch > 0 && a.length > 0 ? Need::input : Need::optional;
  v.array("A", a.A, 4, parameters, {{"heads", a.heads}});
  v.array("D", a.D, 4, Need::optional, {{"heads", a.heads}});
  v.array("dt_bias", a.dt_bias, 4, Need::optional, {{"heads", a.heads}});
  const Shape state = {
      {"batch", a.batch}, {"heads", a.heads}, {"head_dim", a.head_dim}, {"states", a.states}};
  v.array("initial_state", a.initial_state, 4, Need::optional, state);
  v.array("final_state", a.final_state, 4, Need::optional, state);
  visit_starts(a.starts, a.batch, a.length, v);
  visit_workspace(a.workspace, v);
}

template <typename Visitor>
void visit(const Mamba3Scan& a, Visitor& v) {
  v.size("batch", a.batch);
  v.size("length", a.length);
  v.size("heads", a.heads);
  v.size("head_dim", a.head_dim, 1, 256);
  v.size("groups", a.groups, 1);
  v.expect(divides(a.groups, a.heads), "groups", a.groups, "a divisor of heads = ", a.heads);
  v.size("states", a.states, 1, 256);
  v.size("rank", a.rank, 1, a.is_mimo != 0 ? 8 : 1);
  v.size("angles", a.angles, 0, a.states / 2);
  v.type("type", a.type);
  const std::int64_t sequences = a.heads > 0 ? a.batch : 0;
  const Axes channels =
      tokens(sequences, a.length, {"heads head_dim", product(a.heads, a.head_dim)}, nullptr);
  const Axes states =
      tokens(sequences, a.length,
             {"rank groups states", product(a.rank, product(a.groups, a.states))}, nullptr);
  const Axes heads = tokens(sequences, a.length, {"heads", a.heads}, nullptr);
  v.tensor("x", a.x, a.type, Need::input, channels);
  v.tensor("z", a.z, a.type, Need::optional, channels);
  v.tensor("B", a.B, a.type, Need::input, states);
  v.tensor("C", a.C, a.type, Need::input, states);
  v.tensor("y", a.y, a.type, Need::output, channels);
  visit_apart(a.y, "x", a.x, v);
  visit_apart(a.y, "z", a.z, v);
  visit_apart(a.y, "B", a.B, v);
  visit_apart(a.y, "C", a.C, v);
  v.tensor("dt", a.dt, ICD_F32, Need::input, heads);
  v.tensor("decay", a.decay, ICD_F32, Need::input, heads);
  v.tensor("trap", a.trap, ICD_F32, Need::input, heads);
  v.tensor("turn", a.turn, ICD_F32, Need::input,
           tokens(sequences, a.length, {"angles", a.angles}, nullptr));
  const Need parameters = a.batch > 0 && a.length > 0 ? Need::input : Need::optional;
  const Shape bias = {{"heads", a.heads}, {"rank", a.rank}, {"states", a.states}};
  v.array("B_bias", a.B_bias, 4, parameters, bias);
  v.array("C_bias", a.C_bias, 4, parameters, bias);
  v.array("D", a.D, 4, Need::optional, {{"heads", a.heads}});
  const Shape mimo = {{"heads", a.heads}, {"rank", a.rank}, {"head_dim", a.head_dim}};
  const Need with_mimo = a.is_mimo != 0 ? parameters : Need::optional;
  v.array("mimo_x", a.mimo_x, 4, with_mimo, mimo);
  v.array("mimo_z", a.mimo_z, 4, with_mimo, mimo);
  v.array("mimo_o", a.mimo_o, 4, with_mimo, mimo);
  const bool has_mimo = a.mimo_x != nullptr || a.mimo_z != nullptr || a.mimo_o != nullptr;
  v.expect(a.is_mimo != 0 || !has_mimo, "is_mimo", a.is_mimo,
           "1 where mimo_x, mimo_z or mimo_o is given");
  v.array("norm", a.norm, 4, Need::optional, {{"heads", a.heads}, {"head_dim", a.head_dim}});
  v.expect(a.norm == nullptr || a.norm_eps >= 0, "norm_eps", a.norm_eps, "at least 0");
  const Need with_state = a.state != nullptr ? Need::input : Need::optional;
  v.array("state", a.state, 4, Need::optional,
          {{"batch", a.batch}, {"heads", a.heads}, {"head_dim", a.head_dim}, {"states", a.states}});
  v.array("last_k", a.last_k, 4, with_state,
          {{"batch", a.batch}, {"heads", a.heads}, {"rank", a.rank}, {"states", a.states}});
  v.array("last_v", a.last_v, 4, with_state,
          {{"batch", a.batch}, {"heads", a.heads}, {"rank", a.rank}, {"head_dim", a.head_dim}});
  v.array("phase", a.phase, 4, with_state,
          {{"batch", a.batch}, {"heads", a.heads}, {"angles", a.angles}});
  const bool has_memory = a.last_k != nullptr || a.last_v != nullptr || a.phase != nullptr;
  v.expect(a.state != nullptr || !has_memory, "state", a.state,
           "it to be given with last_k, last_v and phase");
}

template <typename Visitor>
void visit(const RmsNorm& a, Visitor& v) {
  v.size("rows", a.rows);
  v.size("columns", a.columns);
  v.size("group", a.group, 0, a.columns);
  v.expect(a.group == 0 || divides(a.group, a.columns), "group", a.group,
           "0 or a divisor of columns = ", a.columns);
  v.type("type", a.type);
  v.type("residual_type", a.residual_type);
  v.expect(a.eps >= 0, "eps", a.eps, "at least 0");
  const Shape shape = {{"rows", a.rows}, {"columns", a.columns}};
  const std::int64_t bytes = element_bytes(a.type);
  v.array("x", a.x, bytes, Need::input, shape);
  visit_stride("x_row", a.x_row, a.rows, 0, "", v);
  v.array("z", a.z, bytes, Need::optional, shape);
  visit_stride("z_row", a.z_row, a.z != nullptr ? a.rows : 0, 0, "", v);
  const std::int64_t residual_bytes = element_bytes(a.residual_type);
  v.array("residual", a.residual, residual_bytes, Need::optional, shape);
  v.array("residual_out", a.residual_out, residual_bytes, Need::optional, shape);
  v.array("y", a.y, bytes, Need::output, shape);
  visit_stride("y_row", a.y_row, a.rows, a.columns, "columns", v);
  v.array("weight", a.weight, 4, Need::optional, {{"columns", a.columns}});
  v.array("order", a.order, 4, Need::optional, {{"columns", a.columns}});
}

template <typename Visitor>
void visit(const SkipZeroGemv& a, Visitor& v) {
  v.size("rows", a.rows);
  v.size("columns", a.columns);
  v.type("type", a.type);
  const std::int64_t bytes = element_bytes(a.type);
  v.array("W", a.W, bytes, Need::input, {{"rows", a.rows}, {"columns", a.columns}});
  v.expect(is_multiple(a.W, 16), "W", a.W, "a multiple of 16");
  const Need with_rows = a.rows > 0 ? Need::input : Need::optional;
  v.array("x", a.x, bytes, with_rows, {{"columns", a.columns}});
  v.array("y", a.y, bytes, Need::output, {{"rows", a.rows}});
  visit_workspace(a.workspace, v);
}

}  // namespace icd::fields
