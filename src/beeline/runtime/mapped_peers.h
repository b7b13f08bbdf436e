// How this process reads what others of its session have published: the transfer engine's paths to each of them, and
// its counters, which lie where `beeline top` finds them.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "beeline/memory/peer_arena.h"
#include "beeline/runtime/messages.h"
#include "beeline/transfer/paths.h"

namespace beeline::runtime {

// Not thread-safe: the process's state lock is held in every call. The paths that it gives out are.
class MappedPeers {
 public:
  using PathsPtr = std::shared_ptr<transfer::Paths>;

  // Counts in that folder, under that id, once there is something to count; `name` says then what people call this
  // process. Whoever kills it removes the file: transfer::remove_left_behind().
  void count_in(std::string folder, std::string id, std::function<std::string()> name);

  // Null for one that was not added, or was forgotten.
  [[nodiscard]] PathsPtr find(ProcessIndex process) const;
  PathsPtr add(ProcessIndex process, std::shared_ptr<memory::PeerArena> arena);
  // Leases keep what they need of its memory.
  void forget(ProcessIndex process);
  void close();

  [[nodiscard]] const std::unordered_map<ProcessIndex, PathsPtr>& all() const { return paths_; }

 private:
  void start_counting();
  void count_peers();

  std::string folder_, id_;
  std::function<std::string()> name_;
  std::shared_ptr<const transport::Transports> transports_;
  std::shared_ptr<transfer::Counters> counters_;
  std::unordered_map<ProcessIndex, PathsPtr> paths_;
};

}  // namespace beeline::runtime
