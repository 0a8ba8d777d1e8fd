// What is on the disk after `icd permute` was killed at any moment, and what the next run makes
// of it. Tests the program, as another process.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "icd/digest.h"
#include "icd/random.h"
#include "icd/synthetic.h"
#include "support/files.h"

namespace icd {
namespace {

namespace fs = std::filesystem;
using testing::read_file;
using testing::ScratchFolder;
using testing::write_file;
using Seconds = std::chrono::duration<double>;

/// `icd permute` of `in` to `out` with every group in random order, started in the background.
pid_t start_permute(const fs::path& in, const fs::path& out, int seed) {
  std::vector<std::string> words = {
      ICD_PROGRAM,          "permute",  "--quiet",     "--model",     in.string(), "-o",
      out.string(),         "--solver", "random",      "--group",     "all",       "--seed",
      std::to_string(seed), "--force",  "--data-free", "--no-verify", "--threads", "1"};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t process = -1;
  const int failure = posix_spawn(&process, ICD_PROGRAM, &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failure != 0) throw std::runtime_error("cannot start " ICD_PROGRAM);
  return process;
}

/// The wait status once the process is gone.
int end_of(pid_t process) {
  int status = 0;
  if (waitpid(process, &status, 0) != process) throw std::runtime_error("waitpid failed");
  return status;
}

void permute(const fs::path& in, const fs::path& out, int seed) {
  const int status = end_of(start_permute(in, out, seed));
  ASSERT_TRUE(WIFEXITED(status));
  ASSERT_EQ(WEXITSTATUS(status), 0);
}

/// Names and SHA-256 of the files of a folder.
std::map<std::string, std::string> digests_of(const fs::path& folder) {
  std::map<std::string, std::string> digests;
  for (const auto& entry : fs::directory_iterator(folder)) {
    digests[entry.path().filename().string()] = sha256_of_file(entry.path());
  }
  return digests;
}

/// Is every file that icd.json names there, with the bytes that it had when it was written?
void expect_whole(const fs::path& out) {
  const auto found = digests_of(out);
  ASSERT_TRUE(found.contains("icd.json")) << "an output without its record";
  const auto record = nlohmann::json::parse(read_file(out / "icd.json"));
  ASSERT_GE(record["outputs"].size(), 3u);  // weights, config.json, plan.json
  for (const auto& file : record["outputs"]) {
    const auto at = found.find(file["name"]);
    ASSERT_NE(at, found.end()) << file["name"];
    EXPECT_EQ(at->second, file["sha256"]) << file["name"];
  }
}

std::vector<fs::path> leftovers_in(const fs::path& folder) {
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename().string().starts_with(".out.icd-tmp-")) {
      leftovers.push_back(entry.path());
    }
  }
  return leftovers;
}

class Kill : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(in_);
    Progress silent;
    // 6 MB in two files: long enough on the disk to be killed there.
    write_synthetic({.name = "small", .n_layer = 4, .d_model = 256, .vocab = 2048}, 2, 1, in_,
                    silent);
    input_ = digests_of(in_);
    const auto start = std::chrono::steady_clock::now();
    permute(in_, out_, 0);
    takes_ = std::chrono::steady_clock::now() - start;
    expect_whole(out_);
  }

  /// Starts a run and kills it at a random moment of the time that a whole one takes; is it
  /// killed before its end?
  bool permute_and_kill(int seed) {
    const double share = 1.1 * random_.uniform();
    const pid_t process = start_permute(in_, out_, seed);
    std::this_thread::sleep_for(share * takes_);
    kill(process, SIGKILL);
    return WIFSIGNALED(end_of(process));
  }

  const ScratchFolder scratch_;
  const fs::path in_ = scratch_ / "in";
  const fs::path out_ = scratch_ / "out";
  std::map<std::string, std::string> input_;
  Seconds takes_{};
  Random random_{20261122};
};

TEST_F(Kill, LeavesNoOutputOrAWholeOne) {
  int killed = 0;
  int interrupted_work = 0;
  for (int i = 0; i < 40; ++i) {
    fs::remove_all(out_);
    killed += permute_and_kill(i) ? 1 : 0;
    if (fs::exists(out_)) {
      ASSERT_NO_FATAL_FAILURE(expect_whole(out_)) << "run " << i;
    }
    const auto leftovers = leftovers_in(scratch_.path());
    ASSERT_LE(leftovers.size(), 1u) << "run " << i << " kept what the runs before it left";
    interrupted_work += leftovers.empty() ? 0 : 1;
  }
  // Otherwise nothing was tested.
  EXPECT_GE(killed, 10);
  EXPECT_GE(interrupted_work, 5);
  EXPECT_EQ(digests_of(in_), input_);
  ASSERT_NO_FATAL_FAILURE(permute(in_, out_, 0));
  expect_whole(out_);
  EXPECT_TRUE(leftovers_in(scratch_.path()).empty());
}

TEST_F(Kill, OfAReplacementLeavesTheOldOutputOrTheNewOne) {
  write_file(out_ / "diary.txt", "mine");
  for (int i = 1; i <= 30; ++i) {
    permute_and_kill(i);
    ASSERT_TRUE(fs::exists(out_)) << "run " << i;
    ASSERT_NO_FATAL_FAILURE(expect_whole(out_)) << "run " << i;
    ASSERT_EQ(read_file(out_ / "diary.txt"), "mine") << "run " << i;
  }
  EXPECT_EQ(digests_of(in_), input_);
}

TEST_F(Kill, IsNotPresumedOfProcessesThatLive) {
  const std::vector<std::string> others = {"1", std::to_string(getpid()), "x", ""};
  for (const std::string& name : others) {
    fs::create_directories(scratch_ / (".out.icd-tmp-" + name));
  }
  ASSERT_NO_FATAL_FAILURE(permute(in_, out_, 0));
  EXPECT_EQ(leftovers_in(scratch_.path()).size(), others.size());
}

}  // namespace
}  // namespace icd
