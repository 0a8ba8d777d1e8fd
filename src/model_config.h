#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "json.h"

namespace icd {

/// config.json, asked by dotted keys: "ssm_cfg.headdim", "time_step_limit.1".
class ModelConfig {
 public:
  /// Without a file: every key is absent.
  ModelConfig() = default;

  /// Takes Python's Infinity and NaN too. Throws Error{input} if it is not a JSON object.
  ModelConfig(std::string_view text, std::string name);

  bool is_there() const noexcept { return !name_.empty(); }
  const std::string& name() const noexcept { return name_; }

  /// nullptr if it is absent or null.
  const Json* find(std::string_view key) const;

  /// A scalar as text: "granite", "true", "16". Empty if it is absent or no scalar.
  std::string text(std::string_view key) const;

  /// A number, true as 1; nothing if it is absent or something else.
  std::optional<double> number(std::string_view key) const;

 private:
  Json document_ = Json::object();
  std::string name_;
};

}  // namespace icd
