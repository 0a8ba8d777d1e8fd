// Logits of a model, for experiments/conformance/forward.py and experiments/forward:
//   icd_logits MODEL TOKENS LENGTH ENGINE OUT [SIZE=VALUE...]
//     TOKENS  a text file of ids, apart by white space; cut into sequences of LENGTH
//     ENGINE  fast, onednn or reference
//     OUT     the logits, (ids, vocab), as raw little-endian float32
//     SIZE    one that the model's files do not tell, ngroups=2
//   icd_logits MODEL SEQUENCES LENGTH THREADS REPEATS --bench
//     the samples of bench_forward, as JSON on stdout
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "icd/bench_forward.h"
#include "icd/error.h"
#include "icd/language_model.h"
#include "icd/layout.h"

namespace {

std::vector<float> logits(const icd::Checkpoint& checkpoint, const icd::Layout& layout,
                          const std::vector<icd::TokenId>& tokens, icd::BatchShape shape,
                          const std::string& engine) {
  if (engine == "reference") {
    const std::vector<double> exact =
        icd::reference_model(checkpoint, layout)->logits(tokens, shape);
    return {exact.begin(), exact.end()};
  }
  const auto gemm = engine == "onednn" ? icd::GemmEngine::onednn : icd::GemmEngine::fixed_order;
  return icd::fast_model(checkpoint, layout, {.gemm = gemm})->logits(tokens, shape);
}

void write_logits(const icd::Checkpoint& checkpoint, const icd::Layout& layout, char** argument) {
  std::ifstream file(argument[2]);
  const std::vector<icd::TokenId> tokens{std::istream_iterator<icd::TokenId>(file), {}};
  const int length = std::stoi(argument[3]);
  const icd::BatchShape shape = {.sequences = static_cast<icd::Index>(tokens.size()) / length,
                                 .length = length};
  const std::vector<float> values = logits(checkpoint, layout, tokens, shape, argument[4]);
  std::ofstream out(argument[5], std::ios::binary);
  out.write(reinterpret_cast<const char*>(values.data()),
            static_cast<std::streamsize>(values.size() * sizeof(float)));
  if (!out.flush()) throw icd::Error(icd::ErrorCode::io, "output: cannot be written");
}

void bench(const icd::Checkpoint& checkpoint, const icd::ModelSpec& spec, char** argument) {
  const icd::BatchShape shape = {.sequences = std::stoi(argument[2]),
                                 .length = std::stoi(argument[3])};
  const icd::ForwardBench samples =
      icd::bench_forward(checkpoint, spec, shape, std::stoi(argument[4]), std::stoi(argument[5]));
  const nlohmann::json record = {{"tokens", samples.tokens},
                                 {"fixed_order", samples.fixed_order},
                                 {"onednn", samples.onednn},
                                 {"gemms_fixed_order", samples.gemms_fixed_order},
                                 {"gemms_onednn", samples.gemms_onednn}};
  std::puts(record.dump().c_str());
}

/// "ngroups=2" from the sixth argument on.
icd::LayoutRequest request(int arguments, char** argument) {
  icd::LayoutRequest request;
  for (int i = 6; i < arguments; ++i) {
    const std::string setting = argument[i];
    const std::size_t equals = setting.find('=');
    if (equals == std::string::npos) {
      throw icd::Error(icd::ErrorCode::usage, "'" + setting + "': expected SIZE=VALUE");
    }
    request.settings[setting.substr(0, equals)] = std::stoi(setting.substr(equals + 1));
  }
  return request;
}

}  // namespace

int main(int arguments, char** argument) try {
  const bool is_bench = arguments == 7 && std::string(argument[6]) == "--bench";
  if (arguments < 6) {
    std::fputs("usage: icd_logits MODEL TOKENS LENGTH fast|onednn|reference OUT [SIZE=VALUE...]\n",
               stderr);
    return 2;
  }
  const icd::Checkpoint checkpoint = icd::Checkpoint::open(argument[1]);
  if (is_bench) {
    bench(checkpoint, icd::ModelSpec::of(checkpoint), argument);
  } else {
    write_logits(checkpoint, icd::layout_of(checkpoint, request(arguments, argument)), argument);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "icd_logits: %s\n", error.what());
  return 1;
}
