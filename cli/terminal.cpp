#include "terminal.h"

#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>

namespace icd::cli {
namespace {

volatile std::sig_atomic_t interrupted = 0;

void note_interrupt(int) { interrupted = 1; }

constexpr auto kRedrawEvery = std::chrono::milliseconds(100);

}  // namespace

void watch_for_interrupts() {
  struct sigaction action {};
  action.sa_handler = note_interrupt;
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // the second one is the system's
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

std::string bytes_text(std::int64_t bytes) {
  constexpr std::array kUnits = {"B", "kB", "MB", "GB", "TB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1000 && unit + 1 < kUnits.size(); ++unit) value /= 1000;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

Terminal::Terminal() : is_terminal_(isatty(STDERR_FILENO) != 0) {}

Terminal::~Terminal() { clear_line(); }

void Terminal::start(std::string_view task, std::int64_t total, std::string_view unit) {
  clear_line();
  task_ = task;
  unit_ = unit;
  total_ = total;
  done_ = 0;
  started_ = std::chrono::steady_clock::now();
  drawn_ = {};
}

void Terminal::advance(std::int64_t amount, std::string_view item) {
  if (interrupted != 0) {
    throw Error(ErrorCode::interrupted, "interrupted; nothing was left half-written");
  }
  done_ += amount;
  if (verbose_ && !item.empty()) {
    clear_line();
    fmt::print(stderr, "{}: {}\n", task_, item);
  }
  if (!is_terminal_ || quiet_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - drawn_ < kRedrawEvery) return;
  drawn_ = now;
  draw();
}

void Terminal::draw() {
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
  const bool is_bytes = unit_ == "B";
  const auto amount = [&](std::int64_t value) {
    return is_bytes ? bytes_text(value) : fmt::format("{} {}", value, unit_);
  };
  std::string line = fmt::format("{}: {}", task_, amount(done_));
  if (total_ > 0) {
    const double share = static_cast<double>(done_) / static_cast<double>(total_);
    line =
        fmt::format("{}: {:3.0f} %  {} of {}", task_, 100 * share, amount(done_), amount(total_));
    if (share > 0 && seconds > 1) line += fmt::format(", {:.0f} s left", seconds / share - seconds);
  }
  fmt::print(stderr, "\r\x1b[K{}", line);
  std::fflush(stderr);
  line_is_drawn_ = true;
}

void Terminal::clear_line() {
  if (!line_is_drawn_) return;
  fmt::print(stderr, "\r\x1b[K");
  line_is_drawn_ = false;
}

void Terminal::warn(std::string_view message) {
  if (quiet_) return;
  clear_line();
  fmt::print(stderr, "icd: warning: {}\n", message);
}

void Terminal::print_json(const nlohmann::ordered_json& result) {
  write_result(result.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

void Terminal::write_result(const std::string& text) {
  clear_line();
  std::fwrite(text.data(), 1, text.size(), stdout);
}

void Terminal::show(const Error& error) {
  clear_line();
  fmt::print(stderr, "icd: error: {}\n", error.what());
  if (!error.hint().empty()) fmt::print(stderr, "icd: hint: {}\n", error.hint());
}

}  // namespace icd::cli
