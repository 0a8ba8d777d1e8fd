// Runs the program as a user does. A case is a text file in tests/cli/cases:
//
//   # What it is about: for a bad file, its one defect.
//   make   m                       files, see support/case_maker.h
//   $      icd inspect m           a call; of several the last is the one under test, those
//                                  before it have to end with status 0
//   exit   4
//   stdout
//   stderr
//   icd: error: ...
//
// Between `exit` and `stdout` there may be
//   same A B             afterwards the files A and B are equal byte for byte, or the folders
//   unchanged PATH       the call leaves it as it was
//   absent PATH          afterwards it is not there
//   json                 standard output is one JSON document
//   filesize-limit N     the call may not write files of more than N bytes
//   disk FOLDER SIZE     FOLDER is a file system of its own, of that size ("64k")
//   stdout-to PATH       where standard output goes
//   interrupt PREFIX     Ctrl-C as soon as there is a file whose name begins so
//
// In what is expected "..." stands for any text in a line, and a line of it for any lines.
// {here} is the folder the case runs in, {model} the bundled checkpoint. After any call that
// does not end with 0 the folder has to hold exactly what it held before, and a refusal has to
// be one line, with one line of hint at most: nobody has to ask for that.
//
// ICD_REBASE=1 writes what was printed into the cases that fail; the diff is to be read.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "support/case_maker.h"
#include "support/files.h"

namespace icd {
namespace {

namespace fs = std::filesystem;
using testing::make_file;
using testing::read_file;
using testing::ScratchFolder;
using testing::words_of;
using testing::write_file;

constexpr unsigned kLongestSeconds = 60;  // a call; the slowest case takes two
constexpr int kNoFileSystem = 77;         // of the child: it may not mount one

/// What surrounds a call.
struct Surroundings {
  std::optional<rlim_t> filesize_limit;
  std::string disk_folder;
  std::string disk_size;
  std::string stdout_to;
  std::string interrupt_prefix;
};

struct Case {
  std::string head;  ///< everything before the streams, as it stands
  std::vector<std::string> steps;
  int status = 0;
  Surroundings surroundings;
  std::vector<std::vector<std::string>> checks;
  std::string out;
  std::string err;
};

fs::path cases_folder() { return fs::path(ICD_SOURCE_DIR) / "tests/cli/cases"; }

Case read_case(const fs::path& file) {
  Case result;
  std::istringstream lines(read_file(file));
  std::string line;
  std::string* stream = nullptr;
  while (std::getline(lines, line)) {
    if (line == "stdout" || line == "stderr") {
      stream = line == "stdout" ? &result.out : &result.err;
      continue;
    }
    if (stream != nullptr) {
      *stream += line + "\n";
      continue;
    }
    result.head += line + "\n";
    if (line.empty() || line.front() == '#') continue;
    const std::vector<std::string> words = words_of(line);
    const std::string& key = words.front();
    if (key == "exit") {
      result.status = std::stoi(words.at(1));
    } else if (key == "filesize-limit") {
      result.surroundings.filesize_limit = std::stoul(words.at(1));
    } else if (key == "disk") {
      result.surroundings.disk_folder = words.at(1);
      result.surroundings.disk_size = words.at(2);
    } else if (key == "stdout-to") {
      result.surroundings.stdout_to = words.at(1);
    } else if (key == "interrupt") {
      result.surroundings.interrupt_prefix = words.at(1);
    } else if (key == "same" || key == "unchanged" || key == "absent" || key == "json") {
      result.checks.push_back(words);
    } else {
      result.steps.push_back(line);
    }
  }
  if (!result.head.starts_with("# ")) {
    throw std::invalid_argument("the first line has to say what the case is about");
  }
  if (result.steps.empty() || !result.steps.back().starts_with("$ ")) {
    throw std::invalid_argument("the last step has to be the call under test");
  }
  return result;
}

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(cases_folder())) {
    if (entry.path().extension() == ".case") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string replaced(std::string text, const std::string& old, const std::string& with) {
  for (std::size_t at = 0; (at = text.find(old, at)) != std::string::npos; at += with.size()) {
    text.replace(at, old.size(), with);
  }
  return text;
}

// --- comparing

/// Is `line` the pattern, with any text for each "..."?
bool line_matches(std::string_view pattern, std::string_view line) {
  const std::size_t dots = pattern.find("...");
  if (dots == std::string_view::npos) return pattern == line;
  if (line.substr(0, dots) != pattern.substr(0, dots)) return false;
  pattern.remove_prefix(dots + 3);
  for (std::size_t at = dots; at <= line.size(); ++at) {
    if (line_matches(pattern, line.substr(at))) return true;
  }
  return false;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

bool lines_match(std::span<const std::string> patterns, std::span<const std::string> lines) {
  if (patterns.empty()) return lines.empty();
  if (patterns.front() == "...") {
    for (std::size_t skipped = 0; skipped <= lines.size(); ++skipped) {
      if (lines_match(patterns.subspan(1), lines.subspan(skipped))) return true;
    }
    return false;
  }
  return !lines.empty() && line_matches(patterns.front(), lines.front()) &&
         lines_match(patterns.subspan(1), lines.subspan(1));
}

bool matches(const std::string& expected, const std::string& actual) {
  return lines_match(lines_of(expected), lines_of(actual));
}

/// Every path below `folder`, with what is there.
std::map<std::string, std::string> content_of(const fs::path& folder) {
  std::map<std::string, std::string> content;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    std::string& what = content[entry.path().lexically_relative(folder).string()];
    if (entry.is_symlink()) {
      what = "a link to " + fs::read_symlink(entry.path()).string();
    } else if (entry.is_directory()) {
      what = "a folder";
    } else {
      what = "a file: " + read_file(entry.path());
    }
  }
  return content;
}

std::string difference(const std::map<std::string, std::string>& before,
                       const std::map<std::string, std::string>& after) {
  for (const auto& [path, what] : after) {
    const auto old = before.find(path);
    if (old == before.end()) return path + " is new";
    if (old->second != what) return path + " has changed";
  }
  for (const auto& [path, what] : before) {
    if (!after.contains(path)) return path + " is gone";
  }
  return "";
}

std::map<std::string, std::string> content_of_either(const fs::path& path) {
  if (fs::is_directory(path)) return content_of(path);
  return {{"", read_file(path)}};
}

// --- running

struct Outcome {
  int status = 0;
  bool was_run = true;
  std::string out;
  std::string err;
};

/// Gives the calling process a file system of its own at `folder`; false if it may not.
bool mount_disk(const std::string& folder, const std::string& size) {
  const uid_t user = geteuid();
  const gid_t group = getegid();
  if (unshare(user == 0 ? CLONE_NEWNS : CLONE_NEWNS | CLONE_NEWUSER) != 0) return false;
  if (user != 0) {  // who is nobody in the new name space could not make a file
    std::ofstream("/proc/self/setgroups") << "deny";
    std::ofstream("/proc/self/uid_map") << "0 " << user << " 1";
    std::ofstream("/proc/self/gid_map") << "0 " << group << " 1";
  }
  if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return false;
  return mount("tmpfs", folder.c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0;
}

void redirect(const std::string& file, int stream) {
  const int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  if (fd < 0 || dup2(fd, stream) < 0) _exit(kNoFileSystem);
}

[[noreturn]] void become_icd(const std::vector<std::string>& words, const fs::path& here,
                             const Surroundings& surroundings) {
  // Nothing of the user's settings or of the Hugging Face cache may decide a case.
  std::vector<std::string> environment = {"LC_ALL=C", "OMP_NUM_THREADS=2",
                                          "CUDA_VISIBLE_DEVICES=", "HOME=" + here.string()};
  for (const char* kept : {"PATH", "LD_LIBRARY_PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS"}) {
    if (const char* value = std::getenv(kept))
      environment.push_back(fmt::format("{}={}", kept, value));
  }
  std::vector<char*> variables;
  for (std::string& variable : environment) variables.push_back(variable.data());
  variables.push_back(nullptr);
  std::vector<std::string> strings = words;
  std::vector<char*> arguments;
  for (std::string& string : strings) arguments.push_back(string.data());
  arguments.push_back(nullptr);

  if (!surroundings.disk_folder.empty() &&
      !mount_disk(here / surroundings.disk_folder, surroundings.disk_size)) {
    _exit(kNoFileSystem);
  }
  if (chdir(here.c_str()) != 0) _exit(kNoFileSystem);
  if (surroundings.filesize_limit) {
    signal(SIGXFSZ, SIG_IGN);  // so that write() fails instead
    const rlimit limit{*surroundings.filesize_limit, *surroundings.filesize_limit};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  alarm(kLongestSeconds);
  execve(ICD_PROGRAM, arguments.data(), variables.data());
  _exit(kNoFileSystem);
}

bool has_file_with(const fs::path& folder, const std::string& prefix) {
  return std::any_of(fs::directory_iterator(folder), {}, [&](const fs::directory_entry& entry) {
    return entry.path().filename().string().starts_with(prefix);
  });
}

Outcome run(std::vector<std::string> words, const fs::path& here,
            const Surroundings& surroundings) {
  for (std::string& word : words) {
    word = replaced(replaced(word, "{here}", here), "{model}", testing::bundled_model());
  }
  const ScratchFolder streams;
  const pid_t child = fork();
  if (child == 0) {
    redirect(surroundings.stdout_to.empty() ? streams / "out" : fs::path(surroundings.stdout_to),
             STDOUT_FILENO);
    redirect(streams / "err", STDERR_FILENO);
    become_icd(words, here, surroundings);
  }
  int status = 0;
  bool is_running = true;
  while (!surroundings.interrupt_prefix.empty() && is_running) {
    if (has_file_with(here, surroundings.interrupt_prefix)) {
      kill(child, SIGINT);
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    is_running = waitpid(child, &status, WNOHANG) == 0;
  }
  if (is_running) waitpid(child, &status, 0);

  Outcome result;
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.was_run = result.status != kNoFileSystem;
  if (surroundings.stdout_to.empty()) result.out = read_file(streams / "out");
  result.err = read_file(streams / "err");
  for (std::string* stream : {&result.out, &result.err}) {
    *stream = replaced(replaced(*stream, here, "{here}"), testing::bundled_model(), "{model}");
  }
  return result;
}

/// A refusal is "icd: error: ", and then "icd: hint: " or nothing.
void expect_one_line(const std::string& err) {
  const std::vector<std::string> lines = lines_of(err);
  const auto begins = [&](std::size_t from_end, std::string_view how) {
    return lines.size() >= from_end && lines[lines.size() - from_end].starts_with(how);
  };
  EXPECT_EQ(1, std::count_if(lines.begin(), lines.end(), [](const std::string& line) {
              return line.starts_with("icd: error: ");
            }));
  EXPECT_TRUE(begins(1, "icd: error: ") || (begins(1, "icd: hint: ") && begins(2, "icd: error: ")))
      << err;
}

void expect_check(const std::vector<std::string>& check, const fs::path& here,
                  const std::map<std::string, std::string>& before, const Outcome& result) {
  const std::string& key = check[0];
  if (key == "json") {
    EXPECT_TRUE(nlohmann::json::accept(result.out)) << result.out;
  } else if (key == "absent") {
    EXPECT_FALSE(fs::exists(here / check.at(1))) << check.at(1);
  } else if (key == "same") {
    EXPECT_EQ("", difference(content_of_either(here / check.at(1)),
                             content_of_either(here / check.at(2))));
  } else if (key == "unchanged") {
    std::map<std::string, std::string> old;
    std::map<std::string, std::string> now;
    const auto is_below = [&](const std::string& path) {
      return path == check.at(1) || path.starts_with(check.at(1) + "/");
    };
    for (const auto& entry : before) {
      if (is_below(entry.first)) old.insert(entry);
    }
    for (const auto& entry : content_of(here)) {
      if (is_below(entry.first)) now.insert(entry);
    }
    EXPECT_FALSE(old.empty()) << check.at(1) << " was not there";
    EXPECT_EQ("", difference(old, now));
  }
}

class CommandLine : public ::testing::TestWithParam<std::string> {};

TEST_P(CommandLine, Behaves) {
  const fs::path file = cases_folder() / (GetParam() + ".case");
  const Case expected = read_case(file);
  const ScratchFolder scratch;
  const fs::path here = fs::canonical(scratch.path());
  for (const std::string& step : std::span(expected.steps).first(expected.steps.size() - 1)) {
    std::vector<std::string> words = words_of(step);
    if (words.front() != "$") {
      ASSERT_NO_THROW(make_file(here, words)) << step;
      continue;
    }
    const Outcome before = run({words.begin() + 1, words.end()}, here, {});
    ASSERT_EQ(0, before.status) << step << "\n" << before.err;
  }
  const auto before = content_of(here);
  const std::vector<std::string> call = words_of(expected.steps.back());
  const Outcome result = run({call.begin() + 1, call.end()}, here, expected.surroundings);
  if (!result.was_run) GTEST_SKIP() << "no file system may be mounted here";

  EXPECT_EQ(expected.status, result.status);
  const bool streams_match = matches(expected.out, result.out) && matches(expected.err, result.err);
  if (!streams_match && std::getenv("ICD_REBASE") != nullptr) {
    write_file(file, expected.head + "stdout\n" + result.out + "stderr\n" + result.err);
  } else if (!streams_match) {
    EXPECT_EQ(expected.out, result.out);
    EXPECT_EQ(expected.err, result.err);
  }
  if (expected.status != 0) {
    EXPECT_EQ("", difference(before, content_of(here)));
  }
  if (expected.status != 0 && expected.status != 3) expect_one_line(result.err);
  for (const auto& check : expected.checks) expect_check(check, here, before, result);
}

INSTANTIATE_TEST_SUITE_P(Case, CommandLine, ::testing::ValuesIn(case_names()),
                         [](const auto& name) { return name.param; });

TEST(Help, OfEveryCommandFitsAScreenAndEndsWithAnExample) {
  const ScratchFolder here;
  for (const char* command : {"", "permute", "advise", "objectives", "calibrate", "graph", "solve",
                              "plan merge", "apply", "verify", "inspect", "bench", "bench rewrite",
                              "bench forward", "bench kernels", "bench compare", "doctor"}) {
    const Outcome help = run(words_of(fmt::format("icd {} --help", command)), here.path(), {});
    EXPECT_EQ(0, help.status) << command;
    EXPECT_EQ("", help.err) << command;
    const std::vector<std::string> lines = lines_of(help.out);
    EXPECT_LE(lines.size(), 50u) << command;
    for (const std::string& line : lines) EXPECT_LE(line.size(), 100u) << line;
    ASSERT_FALSE(lines.empty()) << command;
    EXPECT_THAT(lines.back(), ::testing::StartsWith(fmt::format("Example: icd {}", command)));
  }
}

}  // namespace
}  // namespace icd
