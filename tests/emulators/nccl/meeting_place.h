// AN EMULATOR'S ranks: where two of them meet, and the rings by which bytes go from one to the other.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>

namespace nccl_emulator {

// One direction: bytes that were written and not yet read.
struct Ring {
  static constexpr std::uint64_t kRoom = 1 << 15;
  std::atomic<std::uint64_t> written{0}, read{0};
  std::byte bytes[kRoom];
};

// In a file that both ranks have mapped. A new one is all zeroes, which is its first state.
struct Shared {
  std::atomic<std::int32_t> devices[2];  // one more than the physical device, once the rank has come
  Ring rings[2];                         // by the sender's rank
};

class MeetingPlace {
 public:
  static std::unique_ptr<MeetingPlace> open(const std::string& file, bool create) {
    const int fd = ::open(file.c_str(), O_RDWR | O_CLOEXEC | (create ? O_CREAT : 0), 0600);
    if (fd < 0) return nullptr;
    void* data = MAP_FAILED;
    if (!create || ::ftruncate(fd, sizeof(Shared)) == 0) {
      data = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    ::close(fd);
    if (data == MAP_FAILED) return nullptr;
    return std::unique_ptr<MeetingPlace>(new MeetingPlace(file, static_cast<Shared*>(data)));
  }
  ~MeetingPlace() { ::munmap(shared_, sizeof(Shared)); }
  MeetingPlace(const MeetingPlace&) = delete;

  // Before `shared()` is touched: memory that there is no room for is a signal then. 0, or an errno.
  [[nodiscard]] int reserve() const {
    const int fd = ::open(file_.c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) return errno;
    const int error = ::posix_fallocate(fd, 0, sizeof(Shared));
    ::close(fd);
    return error;
  }
  [[nodiscard]] Shared& shared() const { return *shared_; }
  [[nodiscard]] const std::string& file() const { return file_; }
  void remove() const { ::unlink(file_.c_str()); }

 private:
  MeetingPlace(std::string file, Shared* shared) : file_(std::move(file)), shared_(shared) {}
  const std::string file_;
  Shared* const shared_;
};

// Looks ever more rarely: what is waited for may never come. False once `is_aborted`.
template <typename IsThere>
bool wait_for(IsThere&& is_there, const std::atomic<bool>& is_aborted) {
  for (std::uint64_t us = 20; !is_there(); us = us < 2000 ? us * 5 / 4 : us) {
    if (is_aborted.load()) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(us));
  }
  return true;
}

// All bytes, as the other side makes room, or brings them; false once `is_aborted`.
inline bool write(Ring& ring, const std::byte* data, std::uint64_t bytes, const std::atomic<bool>& is_aborted) {
  for (std::uint64_t done = 0; done < bytes;) {
    const std::uint64_t at = ring.written.load();
    const auto has_room = [&] { return at - ring.read.load() < Ring::kRoom; };
    if (!wait_for(has_room, is_aborted)) return false;
    const std::uint64_t room = Ring::kRoom - (at - ring.read.load());
    const std::uint64_t part = std::min({bytes - done, room, Ring::kRoom - at % Ring::kRoom});
    std::memcpy(ring.bytes + at % Ring::kRoom, data + done, part);
    ring.written.store(at + part);
    done += part;
  }
  return true;
}

inline bool read(Ring& ring, std::byte* data, std::uint64_t bytes, const std::atomic<bool>& is_aborted) {
  for (std::uint64_t done = 0; done < bytes;) {
    const std::uint64_t at = ring.read.load();
    const auto has_bytes = [&] { return ring.written.load() > at; };
    if (!wait_for(has_bytes, is_aborted)) return false;
    const std::uint64_t there = ring.written.load() - at;
    const std::uint64_t part = std::min({bytes - done, there, Ring::kRoom - at % Ring::kRoom});
    std::memcpy(data + done, ring.bytes + at % Ring::kRoom, part);
    ring.read.store(at + part);
    done += part;
  }
  return true;
}

}  // namespace nccl_emulator
