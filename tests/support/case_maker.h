#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace icd::testing {

/// Carries out one line of a command-line case that makes or damages a file, in `folder`:
///
///   make M [OPTION...]          a TinyCheckpoint in folder M. OPTION is one of
///                                 hf=0 n_layer=3 dtype=BF16 tied_head=0 ...  (TinyOptions)
///                                 drop=TENSOR  add=TENSOR:7,3  shape=TENSOR:16,4
///                                 dtype=TENSOR:I8  nan=TENSOR  shards=2
///                                 torch  or  torch=DEFECT, for pytorch_model.bin
///   make2 M [OPTION...]         a TinyMamba2: hf=0 bare=1 headdim=8 ... (TinyMamba2Options), or
///                                 torch=net.pt, for a PyTorch file of that name
///   text FILE TEXT              a file of that text
///   edit FILE s/OLD/NEW/        OLD, which has to be there, becomes NEW, once
///   header FILE s/OLD/NEW/      the same in a safetensors header; its length follows
///   length FILE N               the header of a safetensors file is stated to be N bytes long
///   cut FILE N                  without its last N bytes
///   pad FILE N                  with N more bytes of zeros
///   copy FROM TO    link TARGET NAME    remove PATH
///
/// TEXT, OLD and NEW may hold \n, \\ and \xHH; any character may stand for the slash.
/// Throws std::invalid_argument for a line that it cannot carry out.
void make_file(const std::filesystem::path& folder, const std::vector<std::string>& words);

/// Words between spaces; '...' and "..." keep theirs. No other character is special.
std::vector<std::string> words_of(std::string_view line);

}  // namespace icd::testing
