// Source  huggingface_hub, "Manage your cache": models--ORG--NAME/{refs,snapshots,blobs}.
#include "icd/hub_cache.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "icd/error.h"
#include "mapped_file.h"

namespace icd {
namespace {

namespace fs = std::filesystem;

struct Alias {
  std::string_view name;
  std::string_view repository;
};

// The published sizes. Short names are nobody's rule, so the table is explicit.
constexpr std::array kAliases = {
    Alias{"mamba-130m", "state-spaces/mamba-130m"},
    Alias{"mamba-370m", "state-spaces/mamba-370m"},
    Alias{"mamba-790m", "state-spaces/mamba-790m"},
    Alias{"mamba-1.4b", "state-spaces/mamba-1.4b"},
    Alias{"mamba-2.8b", "state-spaces/mamba-2.8b"},
    Alias{"mamba-2.8b-slimpj", "state-spaces/mamba-2.8b-slimpj"},
    Alias{"mamba-130m-hf", "state-spaces/mamba-130m-hf"},
    Alias{"mamba-370m-hf", "state-spaces/mamba-370m-hf"},
    Alias{"mamba-790m-hf", "state-spaces/mamba-790m-hf"},
    Alias{"mamba-1.4b-hf", "state-spaces/mamba-1.4b-hf"},
    Alias{"mamba-2.8b-hf", "state-spaces/mamba-2.8b-hf"},
};

/// Letters, digits, '-', '_', '.', not starting with '.': what the Hub allows, and nothing
/// that could leave the cache's folder.
bool is_plain_name(std::string_view name) {
  return !name.empty() && name.front() != '.' && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  });
}

bool is_commit(std::string_view text) {
  return text.size() == 40 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

fs::path expanded(std::string value, Environment environment) {
  if (value.starts_with('~')) {
    const char* home = environment("HOME");
    if (home != nullptr) value.replace(0, 1, home);
  }
  return value;
}

std::string folder_of(std::string_view repository) {
  std::string folder = "models--" + std::string(repository);
  if (const auto slash = folder.find('/'); slash != std::string::npos)
    folder.replace(slash, 1, "--");
  return folder;
}

/// Repositories in the cache that are called `name`, whoever's they are; sorted.
std::vector<std::string> repositories_called(const std::string& name, const fs::path& root) {
  std::vector<std::string> found;
  std::error_code failure;
  for (fs::directory_iterator at(root, failure), end; !failure && at != end;
       at.increment(failure)) {
    const std::string folder = at->path().filename().string();
    if (!folder.starts_with("models--")) continue;
    const std::string repository = folder.substr(8);
    const auto dashes = repository.find("--");
    if (dashes != std::string::npos && repository.substr(dashes + 2) == name) {
      found.push_back(repository.substr(0, dashes) + "/" + name);
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

ResolvedModel in_cache(const std::string& repository, const std::string& revision,
                       const fs::path& root) {
  const fs::path folder = root / folder_of(repository);
  std::error_code failure;
  if (!fs::is_directory(folder, failure)) {
    throw Error(
        ErrorCode::unavailable,
        fmt::format("{}: is not in the Hugging Face cache ({})", repository, root.string()),
        fmt::format("`hf download {}` fetches it; icd itself does not download yet", repository));
  }
  std::string commit = revision;
  if (!is_commit(commit)) {
    const fs::path reference = folder / "refs" / revision;
    // A revision may hold '/' (refs/pr/1), but may not lead out of the folder of references.
    const bool leads_out =
        revision.empty() || revision.front() == '/' || revision.find("..") != std::string::npos;
    if (leads_out || !fs::is_regular_file(reference, failure)) {
      throw Error(ErrorCode::unavailable,
                  fmt::format("{}@{}: the cache has no such revision", repository, revision),
                  fmt::format("`hf download {} --revision REVISION` fetches one", repository));
    }
    commit = read_text(reference, 4096);
    while (!commit.empty() && (commit.back() == '\n' || commit.back() == ' ')) commit.pop_back();
  }
  const fs::path snapshot = folder / "snapshots" / commit;
  if (!is_commit(commit) || !fs::is_directory(snapshot, failure)) {
    throw Error(ErrorCode::unavailable,
                fmt::format("{}@{}: the cache has no snapshot of it", repository, revision),
                fmt::format("`hf download {}` fetches it again", repository));
  }
  return {snapshot, repository, revision, commit};
}

}  // namespace

fs::path hub_cache_root(Environment environment) {
  struct Place {
    const char* variable;
    const char* below;
  };
  constexpr std::array kPlaces = {Place{"HF_HUB_CACHE", ""}, Place{"HUGGINGFACE_HUB_CACHE", ""},
                                  Place{"HF_HOME", "hub"},
                                  Place{"XDG_CACHE_HOME", "huggingface/hub"}};
  for (const Place& place : kPlaces) {
    const char* value = environment(place.variable);
    if (value == nullptr || *value == '\0') continue;
    const fs::path root = expanded(value, environment);
    return *place.below == '\0' ? root : root / place.below;
  }
  return expanded("~/.cache/huggingface/hub", environment);
}

ResolvedModel resolve_model(const std::string& name, Environment environment) {
  std::error_code failure;
  if (name.empty()) throw Error(ErrorCode::usage, "--model: is empty");
  if (fs::exists(name, failure)) return {name, "", "", ""};

  const auto at = name.find('@');
  std::string repository = name.substr(0, at);
  const std::string revision = at == std::string::npos ? "main" : name.substr(at + 1);
  const auto slash = repository.find('/');
  const bool is_repository = slash != std::string::npos &&
                             is_plain_name(repository.substr(0, slash)) &&
                             is_plain_name(repository.substr(slash + 1));
  if (!is_repository && !is_plain_name(repository)) {
    throw Error(ErrorCode::input, fmt::format("{}: no such file or folder", name));
  }
  const fs::path root = hub_cache_root(environment);
  if (!is_repository) {
    const auto alias = std::find_if(kAliases.begin(), kAliases.end(),
                                    [&](const Alias& a) { return a.name == repository; });
    if (alias != kAliases.end()) {
      repository = alias->repository;
    } else {
      const auto found = repositories_called(repository, root);
      if (found.empty()) {
        throw Error(
            ErrorCode::input,
            fmt::format("{}: no such file or folder, and no model of that name in the Hugging "
                        "Face cache ({})",
                        name, root.string()));
      }
      if (found.size() > 1) {
        throw Error(ErrorCode::input,
                    fmt::format("{}: is the name of several models in the cache: {}", name,
                                fmt::join(found, ", ")),
                    "give the full name, org/name");
      }
      repository = found.front();
    }
  }
  return in_cache(repository, revision, root);
}

}  // namespace icd
