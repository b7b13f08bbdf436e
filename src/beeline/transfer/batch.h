// Transfers that are made again and again between the same tensors: all but the moving of bytes is done once.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "beeline/transfer/fetch.h"
#include "beeline/transfer/peer.h"

namespace beeline::transfer {

// Holds its leases as long as it lives, and borrows the local memory. Thread-compatible: one run at a time.
class Batch {
 public:
  // Chooses the paths and connects them; see Paths::read() for what may fail.
  static Result<std::unique_ptr<Batch>> prepare(std::shared_ptr<Peer> peer, std::span<const Copy> copies,
                                                const Requirement& requirement, const os::Wait& wait);

  ~Batch();

  // Fills local memory; see Peer::read().
  Status run(const os::Wait& wait);
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  struct Part {
    std::shared_ptr<const Descriptor> descriptor;  // keeps the region that the portion points to
    Portion portion;
    Paths::Chosen chosen;
  };

  Batch() = default;

  std::shared_ptr<Peer> peer_;
  Requirement requirement_;
  std::vector<Part> parts_;
  std::vector<memory::Lease> leases_;
  std::uint64_t bytes_ = 0;
};

}  // namespace beeline::transfer
