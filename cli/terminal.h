#pragma once

#include <fmt/format.h>

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "icd/error.h"
#include "icd/progress.h"

namespace icd::cli {

/// Standard output for results, standard error for everything else: progress on a terminal
/// only, warnings, errors. Also where Ctrl-C is noticed.
class Terminal final : public Progress {
 public:
  Terminal();
  ~Terminal() override;
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  void set_quiet() { quiet_ = true; }
  void set_verbose() { verbose_ = true; }

  void start(std::string_view task, std::int64_t total, std::string_view unit) override;
  /// Throws Error{interrupted} after Ctrl-C.
  void advance(std::int64_t amount, std::string_view item = {}) override;
  void warn(std::string_view message) override;

  /// A line of the result.
  template <typename... Values>
  void print(fmt::format_string<Values...> format, Values&&... values) {
    write_result(fmt::format(format, std::forward<Values>(values)...) + "\n");
  }

  /// The whole result, for scripts.
  void print_json(const nlohmann::ordered_json& result);

  void show(const Error& error);

 private:
  void write_result(const std::string& text);
  void draw();
  void clear_line();

  bool quiet_ = false;
  bool verbose_ = false;
  const bool is_terminal_;
  bool line_is_drawn_ = false;
  std::string task_;
  std::string unit_;
  std::int64_t total_ = 0;
  std::int64_t done_ = 0;
  std::chrono::steady_clock::time_point started_;
  std::chrono::steady_clock::time_point drawn_;
};

/// "1.9 kB", "3.8 MB", "5.5 GB": powers of 1000, as the Hub counts.
std::string bytes_text(std::int64_t bytes);

/// From now on Ctrl-C and SIGTERM end the current step cleanly; a second one ends the program.
void watch_for_interrupts();

}  // namespace icd::cli
