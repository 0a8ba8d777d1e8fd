// Ids of texts, for experiments/conformance/tokenizer.py:
//   icd_tokenize tokenizer.json < lines.jsonl      each line a JSON string; its ids, on a line
//   icd_tokenize --whole tokenizer.json file...    each file as one text; its ids, on a line
#include <cstdio>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "icd/error.h"
#include "icd/tokenizer.h"
#include "support/files.h"

namespace {

void print(const std::vector<icd::TokenId>& ids) {
  std::string line;
  for (const icd::TokenId id : ids) line += std::to_string(id) + ' ';
  if (!line.empty()) line.pop_back();
  std::puts(line.c_str());
}

}  // namespace

int main(int arguments, char** argument) try {
  const bool is_whole = arguments > 1 && std::string_view(argument[1]) == "--whole";
  const int first = is_whole ? 2 : 1;
  if (arguments <= first) {
    std::fputs("usage: icd_tokenize [--whole] tokenizer.json [file...]\n", stderr);
    return 2;
  }
  const icd::Tokenizer tokenizer = icd::Tokenizer::open(argument[first]);
  if (is_whole) {
    for (int i = first + 1; i < arguments; ++i) {
      print(tokenizer.encode(icd::testing::read_file(argument[i])));
    }
  } else {
    for (std::string line; std::getline(std::cin, line);) {
      print(tokenizer.encode(nlohmann::json::parse(line).get<std::string>()));
    }
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "icd_tokenize: %s\n", error.what());
  return 1;
}
