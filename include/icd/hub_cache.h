#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace icd {

/// The environment, as a function so that tests can have their own: nullptr if not set.
using Environment = const char* (*)(const char* name);

/// A model that a name stands for.
struct ResolvedModel {
  std::filesystem::path path;  ///< a folder or a weight file
  std::string repository;      ///< "state-spaces/mamba-130m-hf"; empty for a path
  std::string revision;        ///< "main", ...; empty for a path
  std::string commit;          ///< 40 hexadecimal digits; empty for a path
};

/// Where the Hugging Face cache is: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, $HF_HOME/hub,
/// $XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub, the first that is set and not
/// empty; a leading ~ is the home folder.
std::filesystem::path hub_cache_root(Environment environment);

/// What `name` stands for, the first that fits:
///   an existing folder or file;
///   org/name[@revision] in the cache;
///   a published short name: mamba-130m-hf is state-spaces/mamba-130m-hf;
///   a name that exactly one repository in the cache ends with.
/// Reads the cache in place, never writes to it.
/// Throws Error{input} for a path that is not there or a name that fits several
/// repositories, Error{unavailable} for a repository or revision that is not in the cache.
ResolvedModel resolve_model(const std::string& name, Environment environment);

}  // namespace icd
