// AN EMULATOR'S streams and events: each stream is a thread that runs behind its callers.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

namespace cuda_emulator {

inline void pause_for(std::uint64_t us) {
  std::this_thread::sleep_for(std::chrono::microseconds(us));
}
// Looks ever more rarely: what is waited for may never come, as when another process was killed.
template <typename IsThere>
void wait_until(IsThere&& is_there) {
  for (std::uint64_t us = 20; !is_there(); us = us < 2000 ? us * 5 / 4 : us) pause_for(us);
}

// Counts records, and how far streams have come; in a page that processes share if need be.
class Event {
 public:
  Event() : own_(new Words()), words_(own_.get()) {}
  // In a mapping of its own; `id` is 0 for one that another process has made.
  Event(std::byte* page, unsigned long long id)
      : page_(page), id_(id), words_(id != 0 ? new (page) Words() : reinterpret_cast<Words*>(page)) {}
  ~Event() {
    if (page_ != nullptr) ::munmap(page_, 4096);
  }
  Event(const Event&) = delete;

  [[nodiscard]] unsigned long long id() const { return id_; }
  std::uint64_t record() { return words_->recorded.fetch_add(1) + 1; }
  // Records of one event may be in several streams, and a later one may be reached first.
  void reach(std::uint64_t record) { words_->reached[record % kRemembered].store(record); }
  [[nodiscard]] std::uint64_t recorded() const { return words_->recorded.load(); }
  [[nodiscard]] bool has_reached(std::uint64_t record) const {
    return words_->reached[record % kRemembered].load() >= record;
  }
  [[nodiscard]] bool has_happened() const { return has_reached(recorded()); }

 private:
  static constexpr std::size_t kRemembered = 256;
  struct Words {
    std::atomic<std::uint64_t> recorded{0};
    std::atomic<std::uint64_t> reached[kRemembered]{};
  };
  static_assert(sizeof(Words) <= 4096);
  std::unique_ptr<Words> own_;
  std::byte* page_ = nullptr;
  unsigned long long id_ = 0;
  Words* words_;
};

// What it holds is done in order, by a thread that begins with the first of it.
class Stream : public std::enable_shared_from_this<Stream> {
 public:
  explicit Stream(bool is_blocking) : is_blocking_(is_blocking) {}

  std::atomic<bool> captures{false};

  [[nodiscard]] bool is_blocking() const { return is_blocking_; }
  [[nodiscard]] std::uint64_t put() const { return put_.load(); }
  [[nodiscard]] bool has_done(std::uint64_t count) const { return done_.load() >= count; }

  void put(std::function<void()> work) {
    const std::lock_guard guard(mutex_);
    works_.push_back(std::move(work));
    put_.fetch_add(1);
    if (!std::exchange(runs_, true)) std::thread([self = shared_from_this()] { self->run(); }).detach();
    changed_.notify_all();
  }
  void finish() const {
    wait_until([this, until = put()] { return has_done(until); });
  }
  void end() {
    const std::lock_guard guard(mutex_);
    is_ended_ = true;
    changed_.notify_all();
  }

 private:
  void run() {
    for (;;) {
      std::function<void()> work;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return !works_.empty() || is_ended_; });
        if (works_.empty()) return;
        work = std::move(works_.front());
        works_.pop_front();
      }
      work();
      work = nullptr;
      done_.fetch_add(1);
    }
  }

  const bool is_blocking_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> works_;
  std::atomic<std::uint64_t> put_{0}, done_{0};
  bool runs_ = false, is_ended_ = false;
};

// Those of a context. The legacy default stream comes after all blocking ones, and they after it.
class Streams {
 public:
  std::shared_ptr<Stream> legacy() const { return legacy_; }
  std::shared_ptr<Stream> make(bool is_non_blocking) {
    auto made = std::make_shared<Stream>(!is_non_blocking);
    const std::lock_guard guard(mutex_);
    if (made->is_blocking()) blocking_.push_back(made);
    return made;
  }
  void end(const std::shared_ptr<Stream>& stream) {
    const std::lock_guard guard(mutex_);
    std::erase(blocking_, stream);
    stream->end();
  }

  void put(const std::shared_ptr<Stream>& stream, std::function<void()> work) {
    const std::lock_guard guard(mutex_);
    if (stream == legacy_) {
      for (const auto& other : blocking_) put_wait(stream, other);
    } else if (stream->is_blocking()) {
      put_wait(stream, legacy_);
    }
    stream->put(std::move(work));
  }
  void record(const std::shared_ptr<Stream>& stream, std::shared_ptr<Event> event) {
    const std::uint64_t record = event->record();
    put(stream, [event = std::move(event), record] { event->reach(record); });
  }
  // As the event was recorded last before this call.
  void wait(const std::shared_ptr<Stream>& stream, std::shared_ptr<Event> event) {
    const std::uint64_t record = event->recorded();
    put(stream, [event = std::move(event), record] { wait_until([&] { return event->has_reached(record); }); });
  }

 private:
  static void put_wait(const std::shared_ptr<Stream>& stream, const std::shared_ptr<Stream>& other) {
    const std::uint64_t until = other->put();
    if (other->has_done(until)) return;
    stream->put([other, until] { wait_until([&] { return other->has_done(until); }); });
  }

  const std::shared_ptr<Stream> legacy_ = std::make_shared<Stream>(false);
  std::mutex mutex_;
  std::vector<std::shared_ptr<Stream>> blocking_;
};

}  // namespace cuda_emulator
