#include "icd/output_folder.h"

#include <gtest/gtest.h>

#include "icd/error.h"
#include "support/files.h"

namespace icd {
namespace {

namespace fs = std::filesystem;
using Existing = OutputFolder::Existing;
using testing::read_file;
using testing::ScratchFolder;
using testing::write_file;

std::size_t entries_in(const fs::path& folder) {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

ErrorCode refusal(const fs::path& target, Existing existing, const std::vector<fs::path>& inputs) {
  try {
    const OutputFolder folder(target, existing, inputs);
  } catch (const Error& error) {
    return error.code();
  }
  return ErrorCode::interrupted;  // not refused
}

TEST(OutputFolder, AppearsWhenPublishedAndNotBefore) {
  const ScratchFolder scratch;
  OutputFolder folder(scratch / "out", Existing::refuse, {});
  folder.write("a.txt", "hello");
  EXPECT_FALSE(fs::exists(scratch / "out"));
  folder.publish();
  EXPECT_EQ(read_file(scratch / "out/a.txt"), "hello");
  EXPECT_EQ(entries_in(scratch.path()), 1u);
}

TEST(OutputFolder, LeavesNothingWhenItIsNotPublished) {
  const ScratchFolder scratch;
  {
    OutputFolder folder(scratch / "deep/out", Existing::refuse, {});
    folder.write("a.txt", "hello");
  }
  EXPECT_EQ(entries_in(scratch.path()), 0u) << "a folder made on the way to it goes too";
}

TEST(OutputFolder, KeepsWhatIsThereUnlessToldToReplaceIt) {
  const ScratchFolder scratch;
  fs::create_directories(scratch / "out");
  EXPECT_NE(refusal(scratch / "out", Existing::refuse, {}), ErrorCode::usage);  // empty: fine
  write_file(scratch / "out/model.safetensors", "old");
  EXPECT_EQ(refusal(scratch / "out", Existing::refuse, {}), ErrorCode::usage);
  EXPECT_EQ(read_file(scratch / "out/model.safetensors"), "old");
}

TEST(OutputFolder, ReplacesWeightsAndItsOwnFilesAndKeepsTheRest) {
  const ScratchFolder scratch;
  fs::create_directories(scratch / "out/notes");
  write_file(scratch / "out/model-00001-of-00002.safetensors", "stale");
  write_file(scratch / "out/plan.json", "stale");
  write_file(scratch / "out/diary.txt", "mine");
  write_file(scratch / "out/notes/x", "mine too");
  OutputFolder folder(scratch / "out", Existing::replace, {});
  folder.write("model.safetensors", "new");
  folder.publish();
  EXPECT_EQ(read_file(scratch / "out/model.safetensors"), "new");
  EXPECT_FALSE(fs::exists(scratch / "out/model-00001-of-00002.safetensors"));
  EXPECT_FALSE(fs::exists(scratch / "out/plan.json"));
  EXPECT_EQ(read_file(scratch / "out/diary.txt"), "mine");
  EXPECT_EQ(read_file(scratch / "out/notes/x"), "mine too");
  EXPECT_EQ(entries_in(scratch.path()), 1u);
}

TEST(OutputFolder, IsNeverTheInputNorInsideIt) {
  const ScratchFolder scratch;
  fs::create_directories(scratch / "in");
  fs::create_directory_symlink(scratch / "in", scratch / "link");
  for (const auto existing : {Existing::refuse, Existing::replace}) {
    EXPECT_EQ(refusal(scratch / "in", existing, {scratch / "in"}), ErrorCode::usage);
    EXPECT_EQ(refusal(scratch / "in/", existing, {scratch / "in"}), ErrorCode::usage);
    EXPECT_EQ(refusal(scratch / "in/out", existing, {scratch / "in/"}), ErrorCode::usage);
    EXPECT_EQ(refusal(scratch / "link", existing, {scratch / "in"}), ErrorCode::usage);
    EXPECT_EQ(refusal(scratch / "in", existing, {scratch / "link"}), ErrorCode::usage);
    EXPECT_EQ(refusal(scratch / "in-other", existing, {scratch / "in"}), ErrorCode::interrupted);
  }
}

TEST(WriteAtomically, ReplacesAFileAsAWhole) {
  const ScratchFolder scratch;
  write_atomically(scratch / "f", "one");
  write_atomically(scratch / "f", "two");
  EXPECT_EQ(read_file(scratch / "f"), "two");
  EXPECT_EQ(entries_in(scratch.path()), 1u);
  EXPECT_THROW(write_atomically(scratch / "none/f", "x"), Error);
}

}  // namespace
}  // namespace icd
