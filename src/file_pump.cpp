#include "file_pump.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "icd/error.h"

namespace icd {
namespace {

// Pieces made but not yet written and hashed. Enough to ride out a slow write; more would
// only be memory.
constexpr std::int64_t kMaxUnderWayBytes = 16 << 20;

// How far the caller may be ahead of the input's hash, in bytes: mapped pages in between
// cannot be given back.
constexpr std::int64_t kMaxHashLagBytes = 64 << 20;

// The kernel starts writing a stretch as soon as it is complete, so that the flush at the
// end finds little left to do.
constexpr std::int64_t kWritebackBytes = 16 << 20;

// Pages of the input are given back so many bytes at a time: each time interrupts every core
// that runs one of our threads.
constexpr std::int64_t kReleaseBytes = 8 << 20;

constexpr std::int64_t kPageBytes = 4096;

}  // namespace

FilePump::FilePump(const WeightFile& input, const std::filesystem::path& output, bool digests)
    : input_(input), output_(output), digests_(digests) {
  fd_ = open(output.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd_ < 0) {
    throw Error(ErrorCode::io,
                fmt::format("{}: cannot be made: {}", output.string(), std::strerror(errno)));
  }
  if (input.data != nullptr) {
    madvise(const_cast<std::byte*>(input.data), static_cast<std::size_t>(input.bytes),
            MADV_SEQUENTIAL);
  }
  threads_.emplace_back([this] { guarded([this] { run_writer(); }); });
  if (digests_) {
    threads_.emplace_back([this] { guarded([this] { run_output_hash(); }); });
    threads_.emplace_back([this] { guarded([this] { run_input_hash(); }); });
  }
}

FilePump::~FilePump() {
  {
    const std::lock_guard lock(mutex_);
    if (!ended_ && !failure_)
      failure_ = std::make_exception_ptr(0);  // never seen: stops the threads
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
  if (fd_ >= 0) close(fd_);
}

template <typename Work>
void FilePump::guarded(Work work) {
  try {
    work();
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::current_exception();
  }
  changed_.notify_all();
}

void FilePump::rethrow_failure() {
  if (failure_) std::rethrow_exception(failure_);
}

std::byte* FilePump::reserve(std::int64_t bytes) {
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return failure_ || owned_under_way_ < kMaxUnderWayBytes; });
    rethrow_failure();
    if (bytes <= kPieceBytes && !spare_.empty()) {
      reserved_ = std::move(spare_.back());
      spare_.pop_back();
      return reserved_.data.get();
    }
  }
  const std::int64_t size = std::max(bytes, kPieceBytes);
  reserved_ = {std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(size)), size};
  return reserved_.data.get();
}

void FilePump::push_reserved(std::int64_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    owned_under_way_ += reserved_.bytes;
  }
  // Whoever lets go of the piece last, writer or hash, makes room for another.
  auto piece = SharedPiece(new Piece{std::move(reserved_), {}}, [this](Piece* done) {
    take_back(std::move(done->owned));
    delete done;
  });
  piece->bytes = {piece->owned.data.get(), static_cast<std::size_t>(bytes)};
  push(std::move(piece));
}

void FilePump::take_back(Buffer buffer) {
  {
    const std::lock_guard lock(mutex_);
    owned_under_way_ -= buffer.bytes;
    if (buffer.bytes == kPieceBytes) spare_.push_back(std::move(buffer));
  }
  changed_.notify_all();
}

void FilePump::push_mapped(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto piece = bytes.first(std::min(bytes.size(), static_cast<std::size_t>(kPieceBytes)));
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return failure_ || to_write_.size() + to_hash_.size() < 8; });
      rethrow_failure();
      mapped_under_way_.push_back(piece.data() - input_.data);
    }
    push(SharedPiece(new Piece{{}, piece}, [this](Piece* done) {
      delete done;
      mapped_is_done();
    }));
    bytes = bytes.subspan(piece.size());
    input_done_to(piece.data() + piece.size() - input_.data);
  }
}

/// The writer and the hash both take pieces in order, so they let go of them in order too.
void FilePump::mapped_is_done() {
  std::unique_lock lock(mutex_);
  mapped_under_way_.pop_front();
  release_input(lock);
}

void FilePump::push(SharedPiece piece) {
  {
    const std::lock_guard lock(mutex_);
    if (digests_) to_hash_.push_back(piece);
    to_write_.push_back(std::move(piece));
  }
  changed_.notify_all();
}

void FilePump::input_done_to(std::int64_t position) {
  std::unique_lock lock(mutex_);
  caller_position_ = std::max(caller_position_, position);
  release_input(lock);
  changed_.notify_all();
  if (digests_) {
    changed_.wait(
        lock, [&] { return failure_ || caller_position_ - hashed_position_ <= kMaxHashLagBytes; });
    rethrow_failure();
  }
}

/// Gives back the pages that nobody needs any more: not the caller, not the input's hash, and
/// no stretch that is still to be written, since the writer would map its pages again for good.
void FilePump::release_input(std::unique_lock<std::mutex>& lock) {
  std::int64_t done = caller_position_;
  if (digests_) done = std::min(done, hashed_position_);
  if (!mapped_under_way_.empty()) done = std::min(done, mapped_under_way_.front());
  const std::int64_t begin = released_;
  const std::int64_t end = done / kPageBytes * kPageBytes;
  if (end - begin < kReleaseBytes) return;
  released_ = end;
  lock.unlock();
  madvise(const_cast<std::byte*>(input_.data) + begin, static_cast<std::size_t>(end - begin),
          MADV_DONTNEED);
  lock.lock();
}

FilePump::SharedPiece FilePump::pop(std::deque<SharedPiece>& queue) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failure_ || ended_ || !queue.empty(); });
  if (failure_ || queue.empty()) return nullptr;
  SharedPiece piece = std::move(queue.front());
  queue.pop_front();
  changed_.notify_all();
  return piece;
}

void FilePump::run_writer() {
  std::int64_t written = 0;
  std::int64_t started = 0;
  while (const SharedPiece piece = pop(to_write_)) {
    auto bytes = piece->bytes;
    while (!bytes.empty()) {
      const ssize_t done = write(fd_, bytes.data(), bytes.size());
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) {
        const int reason = errno;
        throw Error(ErrorCode::io,
                    fmt::format("{}: writing stopped after {} bytes: {}", output_.string(), written,
                                std::strerror(reason)),
                    reason == ENOSPC ? "free some space, or name another place with -o" : "");
      }
      bytes = bytes.subspan(static_cast<std::size_t>(done));
      written += done;
    }
    if (written - started >= kWritebackBytes) {
      sync_file_range(fd_, started, written - started, SYNC_FILE_RANGE_WRITE);
      started = written;
    }
  }
}

void FilePump::run_output_hash() {
  while (const SharedPiece piece = pop(to_hash_)) output_hash_.update(piece->bytes);
}

void FilePump::run_input_hash() {
  std::int64_t position = 0;
  while (position < input_.bytes) {
    const std::int64_t bytes = std::min(kPieceBytes, input_.bytes - position);
    input_hash_.update({input_.data + position, static_cast<std::size_t>(bytes)});
    position += bytes;
    std::unique_lock lock(mutex_);
    hashed_position_ = position;
    release_input(lock);
    changed_.notify_all();
    // Not further ahead of the caller than it may be behind.
    changed_.wait(lock, [&] {
      return failure_ || ended_ || position - caller_position_ <= kMaxHashLagBytes;
    });
    if (failure_) return;
  }
}

void FilePump::finish() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  rethrow_failure();
  const int fd = std::exchange(fd_, -1);
  if (close(fd) != 0) {
    throw Error(ErrorCode::io,
                fmt::format("{}: cannot be closed: {}", output_.string(), std::strerror(errno)));
  }
}

std::string FilePump::input_sha256() { return digests_ ? input_hash_.hex() : std::string(); }
std::string FilePump::output_sha256() { return digests_ ? output_hash_.hex() : std::string(); }

}  // namespace icd
