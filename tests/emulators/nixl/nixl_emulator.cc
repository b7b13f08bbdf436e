// AN EMULATOR of NIXL's C interface for tests: moves bytes within one process, and shows what the library does when a
// peer is slow, gone, or its memory was registered anew. No part of it is a product.
#include "nixl_emulator.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "beeline/transport/nixl/capi.h"

namespace beeline::transport::nixl::capi {

struct Bounds {
  std::uintptr_t address = 0;
  std::size_t length = 0;
  [[nodiscard]] bool holds(const Bounds& other) const {
    return address <= other.address && other.address + other.length <= address + length;
  }
  auto operator<=>(const Bounds&) const = default;
};

struct Params {};
struct Backend {};
struct RegistrationList {
  std::vector<Bounds> all;
};
struct TransferList {
  std::vector<Bounds> all;
};
struct Agent {
  std::string name;
  std::multiset<Bounds> registered;
  std::map<std::string, std::vector<Bounds>> known;  // of peers, by their names
};
struct Move {
  Agent* agent = nullptr;
  int operation = kRead;
  std::vector<Bounds> local, remote;
  std::string peer;
  bool is_released = false;
};
struct Request {
  std::shared_ptr<Move> move;
  int looks = 0;
  int status = kInProgress;
};

}  // namespace beeline::transport::nixl::capi

using namespace beeline::transport::nixl::capi;
using nixl_emulator::Counts;
using nixl_emulator::Mode;

namespace {

struct World {
  std::mutex mutex;
  Mode mode = Mode::kPrompt;
  std::map<std::string, Agent*> agents;
  std::vector<std::shared_ptr<Move>> held;
  std::uint64_t late = 0;
};

World& world() {
  static World own;
  return own;
}

bool has(const std::multiset<Bounds>& all, const Bounds& wanted) {
  for (const Bounds& each : all) {
    if (each.holds(wanted)) return true;
  }
  return false;
}

// As a NIC would: what is not registered any more, or whose owner is gone, is not reached.
int move_bytes(const Move& move) {
  const auto owner = world().agents.find(move.peer);
  if (owner == world().agents.end()) return kFailed;
  for (std::size_t i = 0; i < move.local.size(); ++i) {
    if (!has(owner->second->registered, move.remote[i])) return kFailed;
    auto* const local = reinterpret_cast<void*>(move.local[i].address);
    auto* const remote = reinterpret_cast<void*>(move.remote[i].address);
    move.operation == kRead ? std::memcpy(local, remote, move.local[i].length)
                            : std::memcpy(remote, local, move.local[i].length);
  }
  return kSuccess;
}

}  // namespace

extern "C" {

void nixl_emulator_set_mode(Mode mode) {
  const std::lock_guard guard(world().mutex);
  world().mode = mode;
  if (mode != Mode::kPrompt) return;
  for (const auto& move : world().held) {
    if (!move->is_released) continue;
    world().late += 1;
    move_bytes(*move);
  }
  world().held.clear();
}

Counts nixl_emulator_counts() {
  const std::lock_guard guard(world().mutex);
  Counts counts;
  counts.agents = world().agents.size();
  for (const auto& [name, agent] : world().agents) counts.registered += agent->registered.size();
  counts.under_way = world().held.size();
  counts.late = world().late;
  return counts;
}

bool nixl_capi_is_stub() {
  return false;
}

int nixl_capi_create_configured_agent(const char* name, const AgentConfig* config, Agent** agent) {
  if (config->has_listening_thread) return kInvalidArgument;
  const std::lock_guard guard(world().mutex);
  *agent = new Agent{name, {}, {}};
  world().agents[name] = *agent;
  return kSuccess;
}

int nixl_capi_destroy_agent(Agent* agent) {
  const std::lock_guard guard(world().mutex);
  std::erase_if(world().held, [agent](const auto& move) { return move->agent == agent; });
  world().agents.erase(agent->name);
  delete agent;
  return kSuccess;
}

int nixl_capi_create_params(Params** params) {
  *params = new Params;
  return kSuccess;
}
int nixl_capi_params_add(Params* /*params*/, const char* /*key*/, const char* /*value*/) {
  return kSuccess;
}
int nixl_capi_destroy_params(Params* params) {
  delete params;
  return kSuccess;
}
int nixl_capi_create_backend(Agent* /*agent*/, const char* plugin, Params* /*params*/, Backend** backend) {
  if (std::strcmp(plugin, "UCX") != 0) return kFailed;
  *backend = new Backend;
  return kSuccess;
}
int nixl_capi_destroy_backend(Backend* backend) {
  delete backend;
  return kSuccess;
}

int nixl_capi_create_reg_dlist(int /*memory_type*/, RegistrationList** list) {
  *list = new RegistrationList;
  return kSuccess;
}
int nixl_capi_reg_dlist_add_desc(RegistrationList* list, std::uintptr_t address, std::size_t length,
                                 std::uint64_t /*device*/, const void* /*metadata*/, std::size_t /*length*/) {
  list->all.push_back({address, length});
  return kSuccess;
}
int nixl_capi_destroy_reg_dlist(RegistrationList* list) {
  delete list;
  return kSuccess;
}

int nixl_capi_register_mem(Agent* agent, RegistrationList* list, OptionalArgs* /*args*/) {
  const std::lock_guard guard(world().mutex);
  agent->registered.insert(list->all.begin(), list->all.end());
  return kSuccess;
}
int nixl_capi_deregister_mem(Agent* agent, RegistrationList* list, OptionalArgs* /*args*/) {
  const std::lock_guard guard(world().mutex);
  for (const Bounds& each : list->all) {
    const auto found = agent->registered.find(each);
    if (found == agent->registered.end()) return kFailed;
    agent->registered.erase(found);
  }
  return kSuccess;
}

// The agent's name, then address and length of each piece.
int nixl_capi_get_local_partial_md(Agent* agent, RegistrationList* list, void** data, std::size_t* length,
                                   OptionalArgs* /*args*/) {
  const std::lock_guard guard(world().mutex);
  std::ostringstream text;
  text << agent->name;
  for (const Bounds& each : list->all) {
    if (!agent->registered.contains(each)) return kFailed;
    text << ' ' << each.address << ' ' << each.length;
  }
  const std::string packed = text.str();
  *data = std::malloc(packed.size());
  *length = packed.size();
  std::memcpy(*data, packed.data(), packed.size());
  return kSuccess;
}

int nixl_capi_load_remote_md(Agent* agent, const void* data, std::size_t length, char** peer) {
  const std::lock_guard guard(world().mutex);
  std::istringstream text(std::string(static_cast<const char*>(data), length));
  std::string name;
  if (!(text >> name)) return kFailed;
  auto& known = agent->known[name];
  for (Bounds each; text >> each.address >> each.length;) {
    for (const Bounds& other : known) {
      const bool overlaps = each.address < other.address + other.length && other.address < each.address + each.length;
      if (overlaps && each != other) return kFailed;
    }
    known.push_back(each);
  }
  *peer = ::strdup(name.c_str());
  return kSuccess;
}

int nixl_capi_create_xfer_dlist(int /*memory_type*/, TransferList** list) {
  *list = new TransferList;
  return kSuccess;
}
int nixl_capi_xfer_dlist_add_desc(TransferList* list, std::uintptr_t address, std::size_t length,
                                  std::uint64_t /*device*/) {
  list->all.push_back({address, length});
  return kSuccess;
}
int nixl_capi_destroy_xfer_dlist(TransferList* list) {
  delete list;
  return kSuccess;
}

int nixl_capi_create_xfer_req(Agent* agent, int operation, TransferList* local, TransferList* remote, const char* peer,
                              Request** request, OptionalArgs* /*args*/) {
  const std::lock_guard guard(world().mutex);
  const auto known = agent->known.find(peer);
  if (known == agent->known.end()) return kNotFound;
  if (local->all.size() != remote->all.size() || local->all.empty()) return kInvalidArgument;
  const std::multiset<Bounds> reached(known->second.begin(), known->second.end());
  for (std::size_t i = 0; i < local->all.size(); ++i) {
    if (!has(agent->registered, local->all[i]) || !has(reached, remote->all[i])) return kNotFound;
  }
  const Move move{agent, operation, local->all, remote->all, peer, false};
  *request = new Request{std::make_shared<Move>(move), 0, kInProgress};
  return kSuccess;
}

int nixl_capi_post_xfer_req(Agent* /*agent*/, Request* request, OptionalArgs* /*args*/) {
  const std::lock_guard guard(world().mutex);
  world().held.push_back(request->move);
  return kInProgress;
}

int nixl_capi_get_xfer_status(Agent* /*agent*/, Request* request) {
  const std::lock_guard guard(world().mutex);
  if (request->status != kInProgress || world().mode == Mode::kHeld) return request->status;
  if (world().mode == Mode::kPrompt && ++request->looks < 3) return kInProgress;
  // One that failed may still have something under way.
  if (world().mode == Mode::kFailing) return request->status = kFailed;
  std::erase(world().held, request->move);
  return request->status = move_bytes(*request->move);
}

int nixl_capi_release_xfer_req(Agent* /*agent*/, Request* request) {
  const std::lock_guard guard(world().mutex);
  request->move->is_released = true;
  request->move.reset();
  return kSuccess;
}
int nixl_capi_destroy_xfer_req(Request* request) {
  delete request;
  return kSuccess;
}

}  // extern "C"
