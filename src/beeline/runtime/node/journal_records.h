// The records of the daemon's journal, by Journal::Kind. What can be told from others is not in them: queues from
// demands without a worker, watchers from what processes ask when they come back.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "beeline/base/msgpack.h"
#include "beeline/runtime/launch.h"
#include "beeline/runtime/node/scheduler.h"

namespace beeline::runtime::node {

struct HeaderRecord {
  LaunchOptions options;
  std::vector<std::string> environment;  // NAME=value, and the folder: of the first daemon, for what later ones start
  std::string folder;
  std::int64_t started_ns = 0;  // since 1970
  MSGPACK_DEFINE_ARRAY(options, environment, folder, started_ns)
};

struct StateRecord {
  ProcessIndex next_index = 1;
  JobId next_job = 1;
  std::uint64_t generation = 0;                    // how many daemons the session had before
  std::int32_t base_zygote = 0, torch_zygote = 0;  // of the session's own interpreter
  bool ending = false;
  std::vector<std::int64_t> restarts_ns;  // since 1970: the last of them
  MSGPACK_DEFINE_ARRAY(next_index, next_job, generation, base_zygote, torch_zygote, ending, restarts_ns)
  bool operator==(const StateRecord&) const = default;
};

// Whose request it was: asked again, it gets the same answer.
struct NodeRequest {
  ProcessIndex from = 0;
  std::uint64_t request = 0;
  MSGPACK_DEFINE_ARRAY(from, request)
  auto operator<=>(const NodeRequest&) const = default;
};

struct NodeRecord {
  Resources total;
  Labels labels;
  bool is_alive = true;
  std::vector<NodeRequest> requests;  // that made or removed it
  MSGPACK_DEFINE_ARRAY(total, labels, is_alive, requests)
};

struct JobRecord {
  Bytes config;
  bool is_over = false;
  MSGPACK_DEFINE_ARRAY(config, is_over)
};

struct ProcessRecord {
  std::uint8_t kind = 0;
  std::int32_t pid = 0;
  std::uint64_t start_ticks = 0;
  std::uint64_t worker = 0;
  JobId job = 0;
  bool wants_logs = false;
  std::uint64_t handled = 0;  // frames of it that have had their effect
  MSGPACK_DEFINE_ARRAY(kind, pid, start_ticks, worker, job, wants_logs, handled)
};

struct WorkerRecord {
  bool torch = false;
  Variables env;
  JobId job = 0;
  std::int32_t pid = 0;
  std::int32_t launcher = 0;
  ProcessIndex index = 0;
  bool fresh = false;
  bool leaving = false;
  MSGPACK_DEFINE_ARRAY(torch, env, job, pid, launcher, index, fresh, leaving)
};

struct ActorStateRecord {
  ProcessIndex owner = 0;
  JobId job = 0;
  std::uint8_t state = 0;
  ProcessIndex process = 0;
  std::int32_t pid = 0;
  std::uint32_t incarnation = 0;
  std::int32_t restarts_left = 0;
  std::uint8_t cause = 0;
  std::string message;
  Bytes error;
  std::uint8_t leaving = 0;
  MSGPACK_DEFINE_ARRAY(owner, job, state, process, pid, incarnation, restarts_left, cause, message, error, leaving)
};

struct ShareRecord {
  Amounts amounts;
  Accelerators accelerators;
  MSGPACK_DEFINE_ARRAY(amounts, accelerators)
};

struct GroupStateRecord {
  ProcessIndex owner = 0;
  std::uint8_t state = 0;
  std::string message;
  std::vector<NodeIndex> nodes;     // of its bundles; of a removed one: where they were
  std::vector<ShareRecord> shares;  // of the bundles that have a place
  MSGPACK_DEFINE_ARRAY(owner, state, message, nodes, shares)
};

struct AllocationRecord {
  ShareRecord share;
  bool cpu_given_back = false;
  NodeIndex node = 0;
  GroupId group = 0;
  std::int32_t bundle = -1;
  MSGPACK_DEFINE_ARRAY(share, cpu_given_back, node, group, bundle)
};

struct DemandRecord {
  ActorId actor = 0;
  ProcessIndex lessee = 0;
  control::RequestLease request;
  std::vector<AllocationRecord> allocation;  // one or none
  std::uint64_t worker = 0;
  JobId job = 0;
  std::int32_t blocked = 0;
  MSGPACK_DEFINE_ARRAY(actor, lessee, request, allocation, worker, job, blocked)
};

}  // namespace beeline::runtime::node
