#include "normal_form.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <cstdlib>
#include <memory>
#include <new>

#include "icd/error.h"

namespace icd {
namespace {

utf8proc_option_t options_of(NormalForm form) {
  int options = UTF8PROC_STABLE;
  const bool is_composed = form == NormalForm::nfc || form == NormalForm::nfkc;
  options |= is_composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::nfkc || form == NormalForm::nfkd) options |= UTF8PROC_COMPAT;
  return static_cast<utf8proc_option_t>(options);
}

bool is_ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }

}  // namespace

std::string normalized(std::string_view text, NormalForm form) {
  const utf8proc_option_t options = options_of(form);
  std::string out;
  out.reserve(text.size());
  // No form changes ASCII, and nothing before an ASCII character composes or changes places
  // with it. So only runs of other characters have to be looked at, each with the ASCII
  // character before it, which what follows may compose with.
  std::size_t done = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (is_ascii(text[i])) continue;
    const std::size_t begin = i > done ? i - 1 : i;
    while (i < text.size() && !is_ascii(text[i])) ++i;
    out += text.substr(done, begin - done);
    utf8proc_uint8_t* mapped = nullptr;
    const utf8proc_ssize_t bytes =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + begin),
                     static_cast<utf8proc_ssize_t>(i - begin), &mapped, options);
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
    if (bytes == UTF8PROC_ERROR_NOMEM) throw std::bad_alloc();
    if (bytes < 0) {
      throw Error(ErrorCode::input, fmt::format("text: byte {}: cannot be normalised: {}", begin,
                                                utf8proc_errmsg(bytes)));
    }
    out.append(reinterpret_cast<const char*>(mapped), static_cast<std::size_t>(bytes));
    done = i;
  }
  out += text.substr(done);
  return out;
}

}  // namespace icd
