#include "pickle.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "icd/error.h"
#include "quote.h"

// Source: CPython's Lib/pickletools.py (opcodes), torch/_weights_only_unpickler.py (globals).

namespace icd {
namespace {

static_assert(std::endian::native == std::endian::little);

/// What a global does when it is called.
enum class Role {
  ordered_dict,     // () -> dict
  default_dict,     // (factory) -> dict
  tensor_v1,        // (storage, offset, size, stride) -> tensor
  tensor_v2,        // (..., requires_grad, hooks[, metadata]) -> tensor
  tensor_v3,        // (..., requires_grad, hooks, dtype[, metadata]) -> tensor
  parameter,        // (tensor, requires_grad, hooks) -> that tensor
  parameter_state,  // (tensor, requires_grad, hooks, state) -> that tensor
  size,             // (tuple) -> that tuple
  opaque,           // anything -> opaque
  element,          // a storage class or a dtype: not called
  unsupported,      // refused where it is named
};

struct KnownGlobal {
  std::string_view module;
  std::string_view name;
  Role role;
};

constexpr KnownGlobal kGlobals[] = {
    {"collections", "OrderedDict", Role::ordered_dict},
    {"collections", "defaultdict", Role::default_dict},
    {"collections", "Counter", Role::opaque},
    {"torch._utils", "_rebuild_tensor", Role::tensor_v1},
    {"torch._utils", "_rebuild_tensor_v2", Role::tensor_v2},
    {"torch._utils", "_rebuild_tensor_v3", Role::tensor_v3},
    {"torch._utils", "_rebuild_parameter", Role::parameter},
    {"torch._utils", "_rebuild_parameter_with_state", Role::parameter_state},
    {"torch", "Size", Role::size},
    {"torch", "device", Role::opaque},
    {"torch.serialization", "_get_layout", Role::opaque},
    {"torch.storage", "TypedStorage", Role::opaque},
    {"argparse", "Namespace", Role::opaque},
    {"numpy", "dtype", Role::opaque},
    {"numpy.core.multiarray", "scalar", Role::opaque},
    {"numpy._core.multiarray", "scalar", Role::opaque},
    {"_codecs", "encode", Role::opaque},
    // What a defaultdict is filled with, and plain values of hyper-parameters.
    {"builtins", "bool", Role::opaque},
    {"builtins", "bytearray", Role::opaque},
    {"builtins", "complex", Role::opaque},
    {"builtins", "dict", Role::opaque},
    {"builtins", "float", Role::opaque},
    {"builtins", "int", Role::opaque},
    {"builtins", "list", Role::opaque},
    {"builtins", "set", Role::opaque},
    {"builtins", "str", Role::opaque},
    {"builtins", "tuple", Role::opaque},
    // Tensors without a plain storage.
    {"torch._utils", "_rebuild_sparse_tensor", Role::unsupported},
    {"torch._utils", "_rebuild_sparse_csr_tensor", Role::unsupported},
    {"torch._utils", "_rebuild_nested_tensor", Role::unsupported},
    {"torch._utils", "_rebuild_qtensor", Role::unsupported},
    {"torch._utils", "_rebuild_meta_tensor_no_storage", Role::unsupported},
    {"torch._utils", "_rebuild_wrapper_subclass", Role::unsupported},
    {"torch._utils", "_rebuild_device_tensor_from_numpy", Role::unsupported},
    {"torch._utils", "_rebuild_device_tensor_from_cpu_tensor", Role::unsupported},
    {"torch._tensor", "_rebuild_from_type_v2", Role::unsupported},
    {"torch", "QInt8Storage", Role::unsupported},
    {"torch", "QInt32Storage", Role::unsupported},
    {"torch", "QUInt8Storage", Role::unsupported},
    {"torch", "QUInt4x2Storage", Role::unsupported},
    {"torch", "QUInt2x4Storage", Role::unsupported},
};

/// The storage classes; elements of an untyped storage are bytes.
constexpr TorchElement kStorages[] = {
    {"FloatStorage", DType::f32, 4},        {"HalfStorage", DType::f16, 2},
    {"BFloat16Storage", DType::bf16, 2},    {"DoubleStorage", DType::f64, 8},
    {"LongStorage", DType::i64, 8},         {"IntStorage", DType::i32, 4},
    {"ShortStorage", DType::i16, 2},        {"CharStorage", DType::i8, 1},
    {"ByteStorage", DType::u8, 1},          {"BoolStorage", DType::boolean, 1},
    {"ComplexFloatStorage", DType::c64, 8}, {"ComplexDoubleStorage", DType::unknown, 16},
    {"UntypedStorage", DType::u8, 1},
};

/// The dtypes, for _rebuild_tensor_v3 and as plain values.
constexpr TorchElement kDTypes[] = {
    {"float32", DType::f32, 4},
    {"float16", DType::f16, 2},
    {"bfloat16", DType::bf16, 2},
    {"float64", DType::f64, 8},
    {"int64", DType::i64, 8},
    {"int32", DType::i32, 4},
    {"int16", DType::i16, 2},
    {"int8", DType::i8, 1},
    {"uint64", DType::u64, 8},
    {"uint32", DType::u32, 4},
    {"uint16", DType::u16, 2},
    {"uint8", DType::u8, 1},
    {"bool", DType::boolean, 1},
    {"complex32", DType::unknown, 4},
    {"complex64", DType::c64, 8},
    {"complex128", DType::unknown, 16},
    {"float8_e5m2", DType::f8_e5m2, 1},
    {"float8_e5m2fnuz", DType::f8_e5m2fnuz, 1},
    {"float8_e4m3fn", DType::f8_e4m3, 1},
    {"float8_e4m3fnuz", DType::f8_e4m3fnuz, 1},
    {"float8_e8m0fnu", DType::f8_e8m0, 1},
};

/// Under the names of pickletools.
namespace op {
enum : std::uint8_t {
  kProto = 0x80,
  kFrame = 0x95,
  kMark = '(',
  kPop = '0',
  kPopMark = '1',
  kNone = 'N',
  kBinfloat = 'G',
  kNewtrue = 0x88,
  kNewfalse = 0x89,
  kBinint = 'J',
  kBinint1 = 'K',
  kBinint2 = 'M',
  kLong1 = 0x8a,
  kLong4 = 0x8b,
  kBinunicode = 'X',
  kShortBinunicode = 0x8c,
  kBinunicode8 = 0x8d,
  kBinstring = 'T',
  kShortBinstring = 'U',
  kBinbytes = 'B',
  kShortBinbytes = 'C',
  kBinbytes8 = 0x8e,
  kBytearray8 = 0x96,
  kEmptyDict = '}',
  kEmptyList = ']',
  kEmptyTuple = ')',
  kEmptySet = 0x8f,
  kTuple = 't',
  kFrozenset = 0x91,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kAppend = 'a',
  kAppends = 'e',
  kSetitem = 's',
  kSetitems = 'u',
  kAdditems = 0x90,
  kGlobal = 'c',
  kStackGlobal = 0x93,
  kReduce = 'R',
  kNewobj = 0x81,
  kBuild = 'b',
  kBinpersid = 'Q',
  kBinput = 'q',
  kLongBinput = 'r',
  kMemoize = 0x94,
  kBinget = 'h',
  kLongBinget = 'j',
  kStop = '.',
};
}  // namespace op

constexpr std::size_t kLongestGlobal = 256;
constexpr std::size_t kMostAxes = 64;  // PyTorch's own limit
constexpr PickleRef kNoValue = 0xffffffff;

std::string_view kind_name(PickleKind kind) {
  switch (kind) {
    case PickleKind::constant:
      return "a constant";
    case PickleKind::boolean:
      return "a truth value";
    case PickleKind::integer:
      return "an integer";
    case PickleKind::text:
      return "a text";
    case PickleKind::bytes:
      return "bytes";
    case PickleKind::tuple:
      return "a tuple";
    case PickleKind::list:
      return "a list";
    case PickleKind::dict:
      return "a dictionary";
    case PickleKind::global:
      return "a global";
    case PickleKind::storage:
      return "a storage";
    case PickleKind::tensor:
      return "a tensor";
    case PickleKind::opaque:
      return "an object";
  }
  return "nothing";
}

/// The pickle machine: a stack with marks, and a memo.
class Machine {
 public:
  Machine(std::span<const std::byte> bytes, std::string_view name, const PickleLimits& limits)
      : bytes_(bytes), name_(name), limits_(limits) {}

  Pickle run() {
    if (bytes_.size() > limits_.bytes) {
      throw Error(ErrorCode::input, fmt::format("{}: has {} bytes, expected at most {}", name_,
                                                bytes_.size(), limits_.bytes));
    }
    for (std::size_t opcodes = 0;; ++opcodes) {
      if (opcodes == limits_.opcodes) {
        refuse(fmt::format("has more than {} opcodes", limits_.opcodes));
      }
      opcode_at_ = at_;
      const auto opcode = number<std::uint8_t>();
      if (opcode == op::kStop) {
        if (stack_.size() != 1 || !marks_.empty()) {
          refuse(fmt::format("stops with {} values on its stack, expected 1", stack_.size()));
        }
        out_.root = stack_.back();
        return std::move(out_);
      }
      step(opcode);
    }
  }

 private:
  struct Global {
    Role role;
    TorchElement element;
    std::string_view name;
  };

  [[noreturn]] void refuse(const std::string& found) const {
    throw Error(ErrorCode::input, fmt::format("{}: byte {}: {}", name_, opcode_at_, found));
  }

  void step(std::uint8_t opcode) {
    switch (opcode) {
      case op::kProto:
        return check_protocol();
      case op::kFrame:
        return check_frame();
      case op::kMark:
        marks_.push_back(stack_.size());
        return;
      case op::kPop:
        return discard();
      case op::kPopMark:
        since_mark();
        return;
      case op::kNone:
        push(PickleKind::constant);
        return;
      case op::kBinfloat:
        take(8);
        push(PickleKind::constant);
        return;
      case op::kNewtrue:
        push(PickleKind::boolean).integer = 1;
        return;
      case op::kNewfalse:
        push(PickleKind::boolean).integer = 0;
        return;
      case op::kBinint:
        return push_integer(number<std::int32_t>());
      case op::kBinint1:
        return push_integer(number<std::uint8_t>());
      case op::kBinint2:
        return push_integer(number<std::uint16_t>());
      case op::kLong1:
        return push_long(number<std::uint8_t>());
      case op::kLong4:
        return push_long(number<std::uint32_t>());
      case op::kBinunicode:
        return push_text(PickleKind::text, number<std::uint32_t>());
      case op::kShortBinunicode:
        return push_text(PickleKind::text, number<std::uint8_t>());
      case op::kBinunicode8:
        return push_text(PickleKind::text, number<std::uint64_t>());
      case op::kBinstring:
        return push_text(PickleKind::bytes, number<std::uint32_t>());
      case op::kShortBinstring:
        return push_text(PickleKind::bytes, number<std::uint8_t>());
      case op::kBinbytes:
        return push_text(PickleKind::bytes, number<std::uint32_t>());
      case op::kShortBinbytes:
        return push_text(PickleKind::bytes, number<std::uint8_t>());
      case op::kBinbytes8:
        return push_text(PickleKind::bytes, number<std::uint64_t>());
      case op::kBytearray8:
        return push_text(PickleKind::bytes, number<std::uint64_t>());
      case op::kEmptyDict:
        push(PickleKind::dict);
        return;
      case op::kEmptyList:
        push(PickleKind::list);
        return;
      case op::kEmptyTuple:
        push(PickleKind::tuple);
        return;
      case op::kEmptySet:
        push(PickleKind::opaque);
        return;
      case op::kTuple:
        return push_items(PickleKind::tuple, since_mark());
      case op::kFrozenset:
        return push_items(PickleKind::opaque, since_mark());
      case op::kTuple1:
        return push_items(PickleKind::tuple, last(1));
      case op::kTuple2:
        return push_items(PickleKind::tuple, last(2));
      case op::kTuple3:
        return push_items(PickleKind::tuple, last(3));
      case op::kAppend:
        return extend(PickleKind::list, last(1));
      case op::kAppends:
        return extend(PickleKind::list, since_mark());
      case op::kSetitem:
        return extend(PickleKind::dict, last(2));
      case op::kSetitems:
        return extend(PickleKind::dict, since_mark());
      case op::kAdditems:
        return extend(PickleKind::opaque, since_mark());
      case op::kGlobal:
        return push_named_global();
      case op::kStackGlobal:
        return push_stacked_global();
      case op::kReduce:
        return call();
      case op::kNewobj:
        return call();
      case op::kBuild:
        return build();
      case op::kBinpersid:
        return push_storage();
      case op::kBinput:
        return memoise(number<std::uint8_t>());
      case op::kLongBinput:
        return memoise(number<std::uint32_t>());
      case op::kMemoize:
        return memoise(memoised_);
      case op::kBinget:
        return recall(number<std::uint8_t>());
      case op::kLongBinget:
        return recall(number<std::uint32_t>());
      default:
        refuse(fmt::format("opcode {:#04x} has no place in a state dict", opcode));
    }
  }

  // --- bytes

  std::string_view take(std::uint64_t count) {
    if (count > bytes_.size() - at_) {
      refuse(fmt::format("needs {} bytes, expected at most the {} that are left", count,
                         bytes_.size() - at_));
    }
    const char* begin = reinterpret_cast<const char*>(bytes_.data()) + at_;
    at_ += static_cast<std::size_t>(count);
    return {begin, static_cast<std::size_t>(count)};
  }

  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  std::string_view line() {
    const std::string_view rest(reinterpret_cast<const char*>(bytes_.data()) + at_,
                                bytes_.size() - at_);
    const std::size_t end = rest.substr(0, kLongestGlobal + 1).find('\n');
    if (end == std::string_view::npos) {
      refuse(
          fmt::format("a global's name does not end, expected at most {} bytes", kLongestGlobal));
    }
    return take(end + 1).substr(0, end);
  }

  void check_protocol() {
    const int protocol = number<std::uint8_t>();
    if (protocol < 2 || protocol > 5) {
      refuse(fmt::format("pickle protocol is {}, expected 2 to 5", protocol));
    }
  }

  void check_frame() {
    const auto length = number<std::uint64_t>();
    if (length > bytes_.size() - at_) {
      refuse(fmt::format("a frame has {} bytes, expected at most the {} that are left", length,
                         bytes_.size() - at_));
    }
  }

  // --- values and stack

  PickleValue& push(PickleKind kind) {
    out_.values.push_back({.kind = kind, .integer = 0, .text = {}, .items = {}});
    push_ref(static_cast<PickleRef>(out_.values.size() - 1));
    return out_.values.back();
  }

  void push_ref(PickleRef ref) {
    if (stack_.size() == limits_.stack) {
      refuse(fmt::format("its stack holds more than {} values", limits_.stack));
    }
    stack_.push_back(ref);
  }

  void push_integer(std::int64_t value) { push(PickleKind::integer).integer = value; }

  /// Two's complement, little-endian.
  void push_long(std::uint64_t length) {
    if (length > limits_.text) {
      refuse(fmt::format("an integer has {} bytes, expected at most {}", length, limits_.text));
    }
    const std::string_view digits = take(length);
    if (digits.size() > 8) {
      push(PickleKind::constant);
      return;
    }
    const bool negative = !digits.empty() && (digits.back() & 0x80) != 0;
    std::int64_t value = negative ? -1 : 0;
    std::memcpy(&value, digits.data(), digits.size());
    push_integer(value);
  }

  void push_text(PickleKind kind, std::uint64_t length) {
    if (length > limits_.text) {
      refuse(fmt::format("{} of {} bytes, expected at most {}", kind_name(kind), length,
                         limits_.text));
    }
    const std::string_view text = take(length);
    push(kind).text = text;
  }

  void push_items(PickleKind kind, std::vector<PickleRef> items) {
    push(kind).items = std::move(items);
  }

  /// Values above the last mark; those below it are out of reach.
  std::size_t reachable() const { return stack_.size() - (marks_.empty() ? 0 : marks_.back()); }

  std::vector<PickleRef> last(std::size_t count) {
    if (reachable() < count) {
      refuse(fmt::format("takes {} values from a stack of {}", count, reachable()));
    }
    std::vector<PickleRef> values(stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end());
    stack_.resize(stack_.size() - count);
    return values;
  }

  PickleRef pop() { return last(1).front(); }

  std::vector<PickleRef> since_mark() {
    if (marks_.empty()) refuse("there is no mark on the stack, expected one");
    std::vector<PickleRef> values = last(reachable());
    marks_.pop_back();
    return values;
  }

  void discard() {
    if (reachable() == 0 && !marks_.empty()) {
      marks_.pop_back();
    } else {
      pop();
    }
  }

  PickleValue& top() {
    if (reachable() == 0) refuse("the stack is empty, expected a value");
    return out_.values[stack_.back()];
  }

  void memoise(std::size_t index) {
    top();
    if (index >= limits_.memo) {
      refuse(fmt::format("memo entry {}, expected at most {}", index, limits_.memo - 1));
    }
    if (index >= memo_.size()) memo_.resize(index + 1, kNoValue);
    if (memo_[index] == kNoValue) ++memoised_;
    memo_[index] = stack_.back();
  }

  void recall(std::size_t index) {
    if (index >= memo_.size() || memo_[index] == kNoValue) {
      refuse(fmt::format("memo entry {} was never made", index));
    }
    push_ref(memo_[index]);
  }

  void extend(PickleKind kind, const std::vector<PickleRef>& items) {
    PickleValue& target = top();
    if (target.kind != kind && target.kind != PickleKind::opaque) {
      refuse(
          fmt::format("adds elements to {}, expected {}", kind_name(target.kind), kind_name(kind)));
    }
    if (kind == PickleKind::dict && items.size() % 2 != 0) {
      refuse(fmt::format("adds {} values to a dictionary, expected pairs", items.size()));
    }
    target.items.insert(target.items.end(), items.begin(), items.end());
  }

  // --- globals and what they make

  void push_named_global() {
    const std::string_view module = line();
    push_global(module, line());
  }

  void push_stacked_global() {
    const std::vector<PickleRef> names = last(2);
    const PickleValue& module = out_.values[names[0]];
    const PickleValue& name = out_.values[names[1]];
    if (module.kind != PickleKind::text || name.kind != PickleKind::text) {
      refuse("a global is not named by two texts");
    }
    push_global(module.text, name.text);
  }

  void push_global(std::string_view module, std::string_view name) {
    if (module == "__builtin__") module = "builtins";  // what protocol 2 calls it
    globals_.push_back(find_global(module, name));
    push(PickleKind::global).integer = static_cast<std::int64_t>(globals_.size() - 1);
  }

  Global find_global(std::string_view module, std::string_view name) const {
    const auto named = [name](const TorchElement& element) { return element.name == name; };
    if (module == "torch" || (module == "torch.storage" && name == "UntypedStorage")) {
      const auto* storage = std::find_if(std::begin(kStorages), std::end(kStorages), named);
      if (storage != std::end(kStorages)) return {Role::element, *storage, storage->name};
      const auto* dtype = std::find_if(std::begin(kDTypes), std::end(kDTypes), named);
      if (dtype != std::end(kDTypes)) return {Role::element, *dtype, dtype->name};
    }
    const auto* known = std::find_if(
        std::begin(kGlobals), std::end(kGlobals),
        [&](const KnownGlobal& global) { return global.module == module && global.name == name; });
    const std::string full = std::string(module) + "." + std::string(name);
    if (known == std::end(kGlobals)) {
      throw Error(ErrorCode::input,
                  fmt::format("{} asks for the global {}, which a state dict has no need of", name_,
                              quote(full)),
                  "icd does not execute pickles; save the state_dict() alone, or as safetensors");
    }
    if (known->role == Role::unsupported) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("{} asks for {}: a tensor without a plain storage, which icd does "
                              "not read",
                              name_, quote(full)),
                  "save dense tensors: .to_dense(), .dequantize()");
    }
    return {known->role, {}, known->name};
  }

  const Global* global(PickleRef ref) const {
    const PickleValue& value = out_.values[ref];
    return value.kind == PickleKind::global ? &globals_[static_cast<std::size_t>(value.integer)]
                                            : nullptr;
  }

  const PickleValue& value(PickleRef ref, PickleKind kind, std::string_view what) const {
    const PickleValue& found = out_.values[ref];
    if (found.kind != kind) {
      refuse(fmt::format("{} is {}, expected {}", what, kind_name(found.kind), kind_name(kind)));
    }
    return found;
  }

  /// ('storage', class, key, location, elements); where it lived before is of no interest.
  void push_storage() {
    const std::vector<PickleRef>& id = value(pop(), PickleKind::tuple, "a persistent id").items;
    if (id.size() != 5 ||
        value(id[0], PickleKind::text, "a persistent id's kind").text != "storage") {
      refuse("a persistent id does not read ('storage', class, key, location, elements)");
    }
    const Global* type = global(id[1]);
    if (type == nullptr || type->role != Role::element || !type->name.ends_with("Storage")) {
      refuse("a storage has no storage class");
    }
    const std::string_view key = value(id[2], PickleKind::text, "a storage's key").text;
    value(id[3], PickleKind::text, "a storage's location");
    const std::int64_t elements = value(id[4], PickleKind::integer, "a storage's size").integer;
    out_.storages.push_back({key, type->element, elements});
    push(PickleKind::storage).integer = static_cast<std::int64_t>(out_.storages.size() - 1);
  }

  void call() {
    const std::vector<PickleRef> parts = last(2);
    const PickleRef arguments = parts[1];
    const std::vector<PickleRef>& items =
        value(arguments, PickleKind::tuple, "what a global is called with").items;
    const Global* callee = global(parts[0]);
    if (callee == nullptr) {
      refuse(fmt::format("calls {}, expected a global", kind_name(out_.values[parts[0]].kind)));
    }
    const auto takes = [&](std::size_t least, std::size_t most) {
      if (items.size() < least || items.size() > most) {
        refuse(fmt::format("{} has {} arguments, expected {} to {}", quote(callee->name),
                           items.size(), least, most));
      }
    };
    switch (callee->role) {
      case Role::ordered_dict:
        takes(0, 0);
        push(PickleKind::dict);
        return;
      case Role::default_dict:
        takes(0, 1);
        push(PickleKind::dict);
        return;
      case Role::tensor_v1:
        takes(4, 4);
        return push_tensor(items, nullptr);
      case Role::tensor_v2:
        takes(6, 7);
        if (items.size() == 7) check_metadata(items[6]);
        return push_tensor(items, nullptr);
      case Role::tensor_v3: {
        takes(7, 8);
        if (items.size() == 8) check_metadata(items[7]);
        const Global* dtype = global(items[6]);
        if (dtype == nullptr || dtype->role != Role::element || dtype->name.ends_with("Storage")) {
          refuse("a tensor's dtype is not a dtype");
        }
        return push_tensor(items, &dtype->element);
      }
      case Role::parameter:
      case Role::parameter_state:
        takes(3, callee->role == Role::parameter ? 3 : 4);
        value(items[0], PickleKind::tensor, "a parameter's data");
        return push_ref(items[0]);
      case Role::size:
        takes(1, 1);
        value(items[0], PickleKind::tuple, "a torch.Size");
        return push_ref(items[0]);
      case Role::opaque:
        return push_items(PickleKind::opaque, {arguments});
      case Role::element:
      case Role::unsupported:
        refuse(fmt::format("calls {}, which is not a function", quote(callee->name)));
    }
  }

  /// PyTorch records lazy negation and conjugation here: then the bytes are not the values.
  void check_metadata(PickleRef ref) const {
    const PickleValue& metadata = out_.values[ref];
    if (metadata.kind == PickleKind::constant) return;
    if (metadata.kind == PickleKind::dict && metadata.items.empty()) return;
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: byte {}: a tensor carries metadata (lazily conjugated or "
                            "negated?), expected none",
                            name_, opcode_at_),
                "save it after .resolve_conj().resolve_neg()");
  }

  std::vector<std::int64_t> integers(PickleRef ref, std::string_view what) const {
    const std::vector<PickleRef>& items = value(ref, PickleKind::tuple, what).items;
    // Also keeps a pickle that repeats one long tuple from growing here without bound.
    if (items.size() > kMostAxes) {
      refuse(fmt::format("{} has {} axes, expected at most {}", what, items.size(), kMostAxes));
    }
    std::vector<std::int64_t> numbers;
    numbers.reserve(items.size());
    for (const PickleRef item : items) {
      numbers.push_back(value(item, PickleKind::integer, what).integer);
    }
    return numbers;
  }

  /// `dtype` is null where the storage's class tells the type.
  void push_tensor(const std::vector<PickleRef>& arguments, const TorchElement* dtype) {
    const PickleValue& storage = value(arguments[0], PickleKind::storage, "a tensor's storage");
    PickledTensor tensor;
    tensor.storage = static_cast<std::size_t>(storage.integer);
    tensor.element = dtype != nullptr ? *dtype : out_.storages[tensor.storage].element;
    tensor.offset = value(arguments[1], PickleKind::integer, "a tensor's storage offset").integer;
    tensor.shape = integers(arguments[2], "a tensor's shape");
    tensor.strides = integers(arguments[3], "a tensor's strides");
    if (tensor.shape.size() != tensor.strides.size()) {
      refuse(fmt::format("a tensor of {} axes has {} strides, expected as many",
                         tensor.shape.size(), tensor.strides.size()));
    }
    out_.tensors.push_back(std::move(tensor));
    push(PickleKind::tensor).integer = static_cast<std::int64_t>(out_.tensors.size() - 1);
  }

  /// The attributes of an object. A state dict is an OrderedDict with one attribute,
  /// _metadata: version numbers of modules, of no interest here.
  void build() {
    const PickleRef state = pop();
    PickleValue& target = top();
    if (target.kind == PickleKind::dict) return;
    if (target.kind != PickleKind::opaque) {
      refuse(fmt::format("sets attributes of {}, expected an object", kind_name(target.kind)));
    }
    target.items.push_back(state);
  }

  std::span<const std::byte> bytes_;
  std::string_view name_;
  PickleLimits limits_;
  Pickle out_;
  std::vector<Global> globals_;
  std::vector<PickleRef> stack_;
  std::vector<std::size_t> marks_;
  std::vector<PickleRef> memo_;
  std::size_t memoised_ = 0;
  std::size_t at_ = 0;
  std::size_t opcode_at_ = 0;
};

}  // namespace

Pickle read_pickle(std::span<const std::byte> pickle, std::string_view name,
                   const PickleLimits& limits) {
  return Machine(pickle, name, limits).run();
}

}  // namespace icd
