#include "beeline/transfer/writing.h"

#include <utility>
#include <vector>

namespace beeline::transfer {
namespace {

struct OwnWrite {
  explicit OwnWrite(std::shared_ptr<Registration> own) : registration(std::move(own)) { registration->begin_write(); }
  ~OwnWrite() { registration->end_write(); }
  OwnWrite(const OwnWrite&) = delete;
  OwnWrite& operator=(const OwnWrite&) = delete;

  const std::shared_ptr<Registration> registration;
};

}  // namespace

Result<std::shared_ptr<void>> begin_write(Agent& agent, const Descriptor& descriptor, std::shared_ptr<Registration> own,
                                          const os::Wait& wait) {
  if (own != nullptr) return std::shared_ptr<void>(std::make_shared<OwnWrite>(std::move(own)));
  BEELINE_ASSIGN(const auto peer, agent.peer(descriptor.owner, wait));
  auto writes = std::make_shared<std::vector<std::shared_ptr<void>>>();
  for (const auto& region : descriptor.regions) {
    BEELINE_ASSIGN(auto write, peer->begin_write(region, wait));
    writes->push_back(std::move(write));
  }
  return std::shared_ptr<void>(std::move(writes));
}

}  // namespace beeline::transfer
