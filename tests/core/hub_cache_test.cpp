#include "icd/hub_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "icd/error.h"
#include "support/files.h"

namespace icd {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::ScratchFolder;
using testing::write_file;

std::map<std::string, std::string> variables;

const char* environment(const char* name) {
  const auto found = variables.find(name);
  return found == variables.end() ? nullptr : found->second.c_str();
}

const std::string kCommit(40, 'a');

class HubCache : public ::testing::Test {
 protected:
  HubCache() { variables = {{"HF_HUB_CACHE", (scratch_ / "hub").string()}}; }

  fs::path add(const std::string& folder, const std::string& commit = kCommit) {
    const fs::path repository = scratch_ / "hub" / folder;
    fs::create_directories(repository / "snapshots" / commit);
    fs::create_directories(repository / "refs");
    write_file(repository / "refs/main", commit);
    return repository / "snapshots" / commit;
  }

  std::string refusal(const std::string& name, ErrorCode code) {
    try {
      resolve_model(name, environment);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    return "accepted";
  }

  ScratchFolder scratch_;
};

TEST_F(HubCache, RootIsWhereTheHubLibraryPutsIt) {
  variables = {{"HOME", "/home/me"}};
  EXPECT_EQ(hub_cache_root(environment), "/home/me/.cache/huggingface/hub");
  variables["XDG_CACHE_HOME"] = "/xdg";
  EXPECT_EQ(hub_cache_root(environment), "/xdg/huggingface/hub");
  variables["HF_HOME"] = "~/hf";
  EXPECT_EQ(hub_cache_root(environment), "/home/me/hf/hub");
  variables["HUGGINGFACE_HUB_CACHE"] = "/old";
  EXPECT_EQ(hub_cache_root(environment), "/old");
  variables["HF_HUB_CACHE"] = "";  // set but empty: as if not set
  EXPECT_EQ(hub_cache_root(environment), "/old");
  variables["HF_HUB_CACHE"] = "/new";
  EXPECT_EQ(hub_cache_root(environment), "/new");
}

TEST_F(HubCache, ResolvesARepositoryAndItsRevisions) {
  const fs::path snapshot = add("models--state-spaces--mamba-130m-hf");
  const ResolvedModel model = resolve_model("state-spaces/mamba-130m-hf", environment);
  EXPECT_EQ(model.path, snapshot);
  EXPECT_EQ(model.commit, kCommit);
  EXPECT_EQ(model.revision, "main");
  EXPECT_EQ(resolve_model("state-spaces/mamba-130m-hf@" + kCommit, environment).path, snapshot);
  EXPECT_EQ(resolve_model("mamba-130m-hf", environment).repository, "state-spaces/mamba-130m-hf");
}

TEST_F(HubCache, TakesAReferenceWithANewline) {
  add("models--o--n");
  write_file(scratch_ / "hub/models--o--n/refs/main", kCommit + "\n");
  EXPECT_EQ(resolve_model("o/n", environment).commit, kCommit);
}

TEST_F(HubCache, FindsAUniqueShortName) {
  add("models--someone--my-mamba");
  EXPECT_EQ(resolve_model("my-mamba", environment).repository, "someone/my-mamba");
  add("models--another--my-mamba");
  EXPECT_THAT(refusal("my-mamba", ErrorCode::input),
              HasSubstr("another/my-mamba, someone/my-mamba"));
}

TEST_F(HubCache, PrefersAPath) {
  add("models--someone--x");
  fs::create_directories(scratch_ / "x");
  EXPECT_EQ(resolve_model((scratch_ / "x").string(), environment).repository, "");
}

TEST_F(HubCache, SaysWhatIsMissing) {
  EXPECT_THAT(refusal("o/n", ErrorCode::unavailable),
              HasSubstr("is not in the Hugging Face cache"));
  add("models--o--n");
  EXPECT_THAT(refusal("o/n@v2", ErrorCode::unavailable), HasSubstr("no such revision"));
  EXPECT_THAT(refusal("o/n@" + std::string(40, 'b'), ErrorCode::unavailable),
              HasSubstr("no snapshot"));
  EXPECT_THAT(refusal("./nowhere", ErrorCode::input), HasSubstr("no such file or folder"));
  EXPECT_THAT(refusal("mamba-130m-hff", ErrorCode::input), HasSubstr("no model of that name"));
}

TEST_F(HubCache, NeverLeavesTheCache) {
  add("models--o--n");
  write_file(scratch_ / "secret", kCommit);
  refusal("o/n@../../../secret", ErrorCode::unavailable);
  refusal("o/n@/etc/passwd", ErrorCode::unavailable);
  refusal("o/..", ErrorCode::input);
  write_file(scratch_ / "hub/models--o--n/refs/main", "../../../..");
  EXPECT_THAT(refusal("o/n", ErrorCode::unavailable), HasSubstr("no snapshot"));
}

}  // namespace
}  // namespace icd
