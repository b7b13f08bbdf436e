// An agent's UCX: what it shows of its memory, and what its channels to peers stand on.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "beeline/os/fork_count.h"
#include "beeline/transport/exposures.h"
#include "beeline/transport/ucx/library.h"
#include "beeline/transport/ucx/selection.h"

namespace beeline::transport::ucx {

// Looks for the library when something asks first, opens it when something moves first. Thread-safe. Its owner's side
// is a worker that nobody ever progresses: what peers do to its memory, the kernel or a NIC does, and what UCX would
// emulate in software, looking at no key, finds nobody who does it.
class Engine final : public Exporter {
 public:
  // `library`: as Library::open() takes it.
  explicit Engine(std::string library) : wanted_(std::move(library)), selection_(select(Machine::look())) {}

  // kOk where peers of this host, or of others, can be reached; else why not.
  Status check(bool same_host);
  // The library and its transports.
  Result<std::string> describe();
  // For one thread at a time. The engine outlives it.
  Result<std::shared_ptr<UcpWorker>> make_worker();
  // Once make_worker() has succeeded.
  [[nodiscard]] const Library& library() const { return **library_; }
  [[nodiscard]] const Functions& functions() const { return library().functions(); }
  // In a child of fork() all of it is the parent's.
  [[nodiscard]] bool is_own() const { return fork_count_ == os::fork_count(); }

  Result<Bytes> contact() override;
  // Of each extent: its address in this process, then what UCX packs.
  Result<Bytes> key(memory::PublicationId id, const RegionSource::Held& held, Access access) override;
  void withdraw(memory::PublicationId id) override { exposures_.withdraw(id); }

 private:
  Status find();
  Status open();
  Result<UcpContext*> make_context();
  Result<Exposures::Exposed> expose(std::byte* data, std::uint64_t length);

  const std::string wanted_;
  const Selection selection_;
  const std::uint64_t fork_count_ = os::fork_count();
  std::once_flag looked_;
  Result<std::shared_ptr<const Library>> library_ = Status(Code::kUnsupported, "not looked for");  // after looked_
  std::mutex mutex_;
  std::shared_ptr<UcpContext> context_;  // needs mutex_ until it is set
  std::shared_ptr<UcpWorker> shown_;     // needs mutex_; ends before the context does
  Bytes address_;                        // needs mutex_; of `shown_`
  Exposures exposures_;                  // likewise
};

}  // namespace beeline::transport::ucx
