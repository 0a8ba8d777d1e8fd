#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/digest.h"

namespace icd {

/// Writes one file from pieces that the caller makes, while other threads write, hash what
/// is written and hash what is read. Pages of the input that nobody needs any more are
/// given back, so that a mapped file does not count as memory in use.
class FilePump {
 public:
  /// Memory of one piece on its way to the disk. Small enough to be in a cache still when it
  /// is hashed and written.
  static constexpr std::int64_t kPieceBytes = 1 << 20;

  /// Throws Error{io} if the file cannot be made.
  FilePump(const WeightFile& input, const std::filesystem::path& output, bool digests);
  ~FilePump();
  FilePump(const FilePump&) = delete;
  FilePump& operator=(const FilePump&) = delete;

  /// Memory for the next piece: kPieceBytes, or `bytes` if that is more. Waits while too
  /// many pieces are under way.
  std::byte* reserve(std::int64_t bytes);

  /// Queues the first `bytes` of what reserve() gave.
  void push_reserved(std::int64_t bytes);

  /// Queues bytes that stay where they are until finish(): a stretch of the input.
  void push_mapped(std::span<const std::byte> bytes);

  /// The caller will not read the input before byte `position` again.
  void input_done_to(std::int64_t position);

  /// Waits for all threads, flushes nothing. Throws Error{io} with the first failure.
  void finish();

  /// After finish(); empty without digests.
  std::string input_sha256();
  std::string output_sha256();

 private:
  struct Buffer {
    std::unique_ptr<std::byte[]> data;
    std::int64_t bytes = 0;
  };
  struct Piece {
    Buffer owned;  // empty for a stretch of the input
    std::span<const std::byte> bytes;
  };
  using SharedPiece = std::shared_ptr<Piece>;

  void push(SharedPiece piece);
  void take_back(Buffer buffer);
  void mapped_is_done();
  void run_writer();
  void run_output_hash();
  void run_input_hash();
  template <typename Work>
  void guarded(Work work);
  SharedPiece pop(std::deque<SharedPiece>& queue);
  void release_input(std::unique_lock<std::mutex>& lock);
  void rethrow_failure();

  const WeightFile& input_;
  const std::filesystem::path output_;
  const bool digests_;
  int fd_ = -1;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Before the queues: a piece that goes away with its queue still reports here.
  std::vector<Buffer> spare_;         // of kPieceBytes; fresh memory would fault in page by page
  std::int64_t owned_under_way_ = 0;  // bytes
  std::deque<std::int64_t> mapped_under_way_;  // where stretches of the input begin, ascending
  std::deque<SharedPiece> to_write_;
  std::deque<SharedPiece> to_hash_;
  Buffer reserved_;
  std::int64_t caller_position_ = 0;  // bytes of the input that the caller is done with
  std::int64_t hashed_position_ = 0;  // ... that the input's hash is done with
  std::int64_t released_ = 0;
  bool ended_ = false;
  std::exception_ptr failure_;

  Sha256 input_hash_;
  Sha256 output_hash_;
  std::vector<std::thread> threads_;
};

}  // namespace icd
