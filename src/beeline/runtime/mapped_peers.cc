#include "beeline/runtime/mapped_peers.h"

#include <cstdio>
#include <utility>

#include "beeline/os/private_folder.h"
#include "beeline/transport/builtin.h"

namespace beeline::runtime {

void MappedPeers::count_in(std::string folder, std::string id, std::function<std::string()> name) {
  folder_ = std::move(folder);
  id_ = std::move(id);
  name_ = std::move(name);
}

MappedPeers::PathsPtr MappedPeers::find(ProcessIndex process) const {
  const auto found = paths_.find(process);
  return found == paths_.end() ? nullptr : found->second;
}

MappedPeers::PathsPtr MappedPeers::add(ProcessIndex process, std::shared_ptr<memory::PeerArena> arena) {
  if (transports_ == nullptr) {
    transports_ = std::make_shared<const transport::Transports>(transport::make_mapping());
    start_counting();
  }
  transport::PeerFacts facts;
  facts.name = "process " + std::to_string(process);
  facts.self_id = id_;
  facts.arena = std::move(arena);
  auto paths = std::make_shared<transfer::Paths>(transports_, std::move(facts), std::string());
  if (counters_ != nullptr) paths->count_in(counters_, "p" + std::to_string(process));
  paths_[process] = paths;
  count_peers();
  return paths;
}

void MappedPeers::forget(ProcessIndex process) {
  paths_.erase(process);
  count_peers();
}

void MappedPeers::count_peers() {
  if (counters_ != nullptr) counters_->numbers().peers.store(paths_.size(), std::memory_order_relaxed);
}

// Numbers are no reason to fail.
void MappedPeers::start_counting() {
  Status status = os::make_private_folder(folder_);
  if (status) {
    auto made = transfer::Counters::create(folder_, id_, name_());
    status = made ? (*made)->appear({}) : made.status();
    if (made) counters_ = std::move(*made);
  }
  if (!status) std::fprintf(stderr, "beeline: %s keeps no counters: %s\n", name_().c_str(), status.message().c_str());
}

void MappedPeers::close() {
  paths_.clear();
  if (counters_ != nullptr) counters_->remove();
  counters_.reset();
}

}  // namespace beeline::runtime
