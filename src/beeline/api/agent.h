// Agents: the two ends of every transfer.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "beeline/api/fault.h"
#include "beeline/api/references.h"
#include "beeline/api/started.h"
#include "beeline/api/target.h"
#include "beeline/api/tensor.h"
#include "beeline/api/wait.h"
#include "beeline/base/export.h"
#include "beeline/base/status.h"

namespace beeline::api {

// What a program may leave out has an initializer, or GCC's -Wextra would ask for it.

// What a transfer insists on. Nothing: the best path there is.
struct Requirement {
  std::string path = {};  // by name: "shm", "cma", "ucx", "nixl", "object_store", "tcp"; empty: any
  double min_gbps = 0;    // refuses paths that are slower, in 10^9 bytes per second
  // Of a fetch: compares what arrived with the checksums that the owner took (RegisterOptions, PublishOptions): kTorn
  // where one differs. Of whole tensors that are not converted; kInvalidArgument for others, and where there is none.
  bool verify = false;
};

// How tensors are registered.
struct RegisterOptions {
  std::vector<std::string> names = {};  // none, or one for each
  bool checksum = false;  // takes one of each now, for who verifies: of tensors that do not change afterwards
};

// How tensors are published.
struct PublishOptions {
  std::vector<std::string> names = {};  // none, or one for each
  std::uint64_t number = 0;             // of the version, larger than those before; 0 takes the next one
  std::size_t keep = 2;     // so many of the newest versions stay readable, older ones for those who have mapped them
  std::size_t fan_out = 3;  // so many of those that relay get the version from here, and from each that has it
  // Takes one of each, for who verifies, and for those who relay: they compare what they got before they give it on.
  bool checksum = false;
};

// How a name is subscribed to.
struct SubscribeOptions {
  // Get versions from other subscribers that have them, and give them on. kInvalidArgument where no other agent reaches
  // this one: it needs `tcp`, or shares memory.
  bool relay = false;
};

// Which path a fetch would take, and why.
struct Explanation {
  struct Candidate {
    std::string path;
    bool usable = false;
    std::string reason;     // why not, or why it is (not) taken
    double gbps = 0;        // estimate, in 10^9 bytes per second
    bool measured = false;  // by transfers of about this size to this peer, not assumed
  };
  std::vector<Candidate> candidates;  // in order of preference
  std::string chosen;                 // empty: none will do
  std::uint64_t failovers = 0;        // transfers to this peer that changed paths
};

// A fetch that is made again and again, see Agent::prepare(). One thread at a time.
class BEELINE_API Batch {
 public:
  Batch(Batch&&) noexcept;
  Batch& operator=(Batch&&) noexcept;
  ~Batch();

  // Fills the targets; fails as Agent::fetch().
  Status run(const Wait& wait = {});
  // That one run moves.
  [[nodiscard]] std::size_t bytes() const;

 private:
  friend struct Access;
  struct Impl;
  explicit Batch(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// One version of what is published under a name.
struct Version {
  std::uint64_t number = 0;
  TensorRefs tensors;
};

// What another agent publishes under a name. Ends with its last copy. Thread-safe.
//
// A reader takes the newest version; those that came and went meanwhile are passed over. A fetch of one that newer ones
// have replaced fails with kStale: its successor is there already.
//
// One that relays has each version brought near before it gives it: as the publisher has it, where that shares memory
// with this agent; as another subscriber on this host has it; or as a copy of this agent's own, got from the publisher
// or from a subscriber, which others then get from here. The references are of that copy, and keep it if it is this
// agent's own. Where a fetch from another subscriber's copy fails with kPeerLost or kStale, newer_than() the number
// before brings another one.
class BEELINE_API Subscription {
 public:
  // The newest version if there is one, and it was not withdrawn: of those that were brought near, if it relays. Does
  // not wait.
  [[nodiscard]] std::optional<Version> latest() const;
  // Waits for a version after `number`. kDeadlineExceeded, kCancelled; kPeerLost when the publisher is gone or the
  // agent of this side was closed. If it relays, also kTorn when it came with another checksum than the publisher took,
  // kResourceExhausted when there is no memory for a copy.
  [[nodiscard]] Result<Version> newer_than(std::uint64_t number, const Wait& wait = {}) const;

 private:
  friend struct Access;
  struct Impl;
  explicit Subscription(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
};

// What an agent shows and asks for in TLS, as PEM files. Nothing: it makes a certificate of its own, and whoever knows
// its address knows the certificate. Needs OpenSSL 3 (libssl.so.3) at run time.
struct Tls {
  std::string certificate = {};  // with what leads from it to its CA
  std::string key = {};          // of the certificate, without a passphrase
  // Agents at the other end must show a certificate that one of these has signed, those that it connects to for the
  // host of their address.
  std::string ca = {};
};

// How far the path "nixl" may go. Whoever gets at the network that is allowed can read and write this process's memory,
// token or not: docs/transports.md.
enum class NixlReach : std::uint8_t {
  kHost,  // shared memory
  kRdma,  // the network, too, but not by TCP
  kAny,
};

// A short message from another agent.
struct Notification {
  std::string sender_id;  // the id in its address
  std::string sender;     // its name, as it says it
  std::vector<std::byte> payload;
};

// What other agents send under a topic, until its last copy goes. Each is taken once; those of one sender come in the
// order in which it sent them. Thread-safe.
class BEELINE_API Notifications {
 public:
  // What becomes of one more than the limit.
  enum class WhenFull : std::uint8_t {
    kRefuse,      // its sender is told: kResourceExhausted
    kDropOldest,  // the one that has waited longest goes, and is counted
  };
  // The one that has waited longest; waits for it. kDeadlineExceeded, kCancelled; kPeerLost when the agent of this side
  // was closed and none is left.
  [[nodiscard]] Result<Notification> next(const Wait& wait = {}) const;
  // The same at once, if there is one.
  [[nodiscard]] std::optional<Notification> poll() const;
  struct Stats {
    std::uint64_t waiting = 0;  // now
    std::uint64_t refused = 0, dropped = 0;
  };
  [[nodiscard]] Stats stats() const;

 private:
  friend struct Access;
  struct Impl;
  explicit Notifications(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
};

// Writes in place that readers are told of, from Agent::writing() until its end.
class BEELINE_API [[nodiscard]] Writing {
 public:
  Writing(Writing&&) noexcept = default;
  Writing& operator=(Writing&&) noexcept = default;
  ~Writing() = default;

 private:
  friend struct Access;
  explicit Writing(std::shared_ptr<void> until_it_ends) : until_it_ends_(std::move(until_it_ends)) {}
  std::shared_ptr<void> until_it_ends_;
};

// Registers tensors of this process for others to reach, and reaches theirs.
//
// Letting go of it ends it: peers get kPeerLost, and what they have mapped stays. As of any object, no call of it may
// be under way then. Thread-safe otherwise. In a child of fork() it is the parent's: every operation fails there, and
// nothing is undone; open another one.
class BEELINE_API Agent {
 public:
  struct Options {
    std::string name = {};  // for people; need not be unique
    // "host:port" to listen on for agents of other hosts; port 0 takes a free one. Empty: none. Needs `token`, and
    // `advertise` where the host is a wildcard.
    std::string tcp = {};
    std::string advertise = {};  // the host by which others reach this one; empty: the one it listens on
    std::string token = {};      // by TCP both sides prove to each other that they have it; it does not travel
    // Speaks TLS where it listens, and to those that it connects to by TCP, or does not speak to them by TCP. Without
    // it an agent speaks TLS to those whose address says so.
    std::optional<Tls> tls = {};
    bool share_memory = true;  // whether agents of this user on this host may reach registered memory directly
    // Where agents on this host find its socket; empty: <BEELINE_TMPDIR or /tmp>/beeline-<uid>/agents.
    std::string folder = {};
    std::uint64_t quota_bytes = 0;  // of memory that empty() and publish() may take; 0: the machine's memory
    // Transports of others, beside those that BEELINE_TRANSPORT_PLUGINS lists: paths of shared libraries with the ABI
    // of <beeline/transport_plugin.h>.
    std::vector<std::string> plugins = {};
    NixlReach nixl = NixlReach::kHost;
    std::vector<Fault> faults = {};  // that its paths are to make, in tests of programs that must bear them
    // Told what somebody ought to know of though the call that met it went well: that a transfer went on by another
    // path, that a subscriber which relays was given another parent. On any thread. Empty: writes to stderr.
    std::function<void(const std::string& message)> warn = {};
  };
  // Starts its threads. kInvalidArgument for options that do not go together; kSystem when the folder cannot be used or
  // the port is taken.
  static Result<Agent> open(const Options& options);
  Agent(Agent&&) noexcept;
  Agent& operator=(Agent&&) noexcept;
  ~Agent();

  // Where others find it: a URL that may travel anywhere. No secret is in it.
  [[nodiscard]] const std::string& address() const;

  // A row-major tensor in memory that agents on this host can map and read directly once it is registered. Its content
  // is undefined. kResourceExhausted when the quota is used up; kInvalidArgument for a shape or dtype that is none.
  [[nodiscard]] Result<Tensor> empty(std::vector<std::int64_t> shape, DType dtype) const;

  // Lets other agents reach tensors where they are: nothing is copied, and what is written to them later shows. What
  // the references hold keeps `memory` of the tensors, until they are let go of and nobody reads any more; it may be
  // dropped on a thread of the agent. Borrowed memory outside empty()'s must be kept as long by the caller: end with
  // the references, then with the agent, then with the memory.
  // kInvalidArgument for names or layouts that are none; kResourceExhausted when too much is registered.
  [[nodiscard]] Result<TensorRefs> register_tensors(std::span<const Tensor> tensors,
                                                    RegisterOptions options = {}) const;
  [[nodiscard]] Result<TensorRefs> register_tensor(const Tensor& tensor, RegisterOptions options = {}) const {
    return register_tensors({&tensor, 1}, std::move(options));
  }
  // Around writes to registered tensors in place: who fetches one of them meanwhile gets kTorn, whatever the path,
  // instead of a mixture of old and new. What is mapped shows the writes as they come. Of another agent's tensors,
  // which it must have granted to this one (else kInvalidArgument), around push(): it is asked, and the end does not
  // wait. kStale, and as connect().
  [[nodiscard]] Result<Writing> writing(const TensorRefs& refs, const Wait& wait = {}) const;
  // Lets the agent of that address write to registered tensors with push(). kInvalidArgument for what is no address;
  // kStale when they are not registered here any more.
  Status grant(const TensorRefs& refs, const std::string& to) const;

  // Connects ahead of use. kPeerLost: nobody is there. kNotFound: another agent has taken its place. kInvalidArgument:
  // the address is none, or the token was refused. kDeadlineExceeded, kCancelled.
  Status connect(const std::string& address, const Wait& wait = {}) const;

  // Copies tensors of another agent to memory of this process: `targets` in the order of `refs`, of the same shapes and
  // dtypes, with any strides; or converted on the way, as a Target says. All of one agent, to which it connects if need
  // be.
  //   kInvalidArgument  a target does not fit, or references of several agents; nothing was written
  //   kUnsupported      no path meets the requirement; the message lists each with its reason
  //   kStale            the registration was undone
  //   kTorn             the owner wrote to them meanwhile (writing()), or a checksum differs
  //   kPeerLost         the other agent is gone
  //   kNotFound         another agent has taken its place
  //   kDeadlineExceeded, kCancelled
  // After any other failure than the first the content of the targets is undefined. Nothing writes to them any more.
  Status fetch(std::span<const TensorRef> refs, std::span<const Tensor> targets, const Requirement& requirement = {},
               const Wait& wait = {}) const;
  Status fetch(const TensorRef& ref, const Tensor& target, const Requirement& requirement = {},
               const Wait& wait = {}) const {
    return fetch(std::span(&ref, 1), std::span(&target, 1), requirement, wait);
  }
  Status fetch(std::span<const TensorRef> refs, std::span<const Target> targets, const Requirement& requirement = {},
               const Wait& wait = {}) const;
  Status fetch(const TensorRef& ref, const Target& target, const Requirement& requirement = {},
               const Wait& wait = {}) const {
    return fetch(std::span(&ref, 1), std::span(&target, 1), requirement, wait);
  }

  // Fills tensors of another agent, which it must have granted to this one (else kInvalidArgument). As fetch()
  // otherwise. By TCP, what was on its way when a push failed may still arrive.
  Status push(std::span<const TensorRef> refs, std::span<const Tensor> sources, const Requirement& requirement = {},
              const Wait& wait = {}) const;
  Status push(const TensorRef& ref, const Tensor& source, const Requirement& requirement = {},
              const Wait& wait = {}) const {
    return push(std::span(&ref, 1), std::span(&source, 1), requirement, wait);
  }

  // As fetch() and push(), on a thread of the agent: they return at once. Of those that were started at most four run
  // at a time with one other agent; others wait for them, within `timeout`, which runs from here on. References are
  // kept until it has ended, and `memory` of tensors; what is borrowed must be kept as long by the caller. What does
  // not fit is refused here: kInvalidArgument. kSystem where the process may have no thread or descriptor. The end of
  // the agent waits for those that were started.
  [[nodiscard]] Result<Transfer> fetch_async(std::span<const TensorRef> refs, std::span<const Tensor> targets,
                                             const Requirement& requirement = {}, Timeout timeout = kTimeout) const;
  [[nodiscard]] Result<Transfer> fetch_async(std::span<const TensorRef> refs, std::span<const Target> targets,
                                             const Requirement& requirement = {}, Timeout timeout = kTimeout) const;
  [[nodiscard]] Result<Transfer> push_async(std::span<const TensorRef> refs, std::span<const Tensor> sources,
                                            const Requirement& requirement = {}, Timeout timeout = kTimeout) const;

  // Sends a short message to the agent at that address; kOk once it waits there to be taken. Sent after a push() to the
  // same agent it says that the tensors are there: who takes it finds them filled.
  // kNotFound: it takes none of that topic. kResourceExhausted: as many as it lets wait are waiting. kInvalidArgument:
  // more than 64 KiB, or 1024 bytes of topic. kDeadlineExceeded, kPeerLost, kCancelled: it may have arrived.
  Status notify(const std::string& address, const std::string& topic, std::span<const std::byte> payload,
                const Wait& wait = {}) const;
  // What others send under the topic from here on; at most `limit` wait to be taken. kInvalidArgument for a limit of 0;
  // kAlreadyExists for another limit than the topic has already.
  [[nodiscard]] Result<Notifications> notifications(
      const std::string& topic, std::size_t limit = 1024,
      Notifications::WhenFull when_full = Notifications::WhenFull::kRefuse) const;

  // A fetch that is made again and again: all but the moving of bytes is done here. Fails as fetch(). While the batch
  // lives, registered memory in the owner's arena is not reused, and `memory` of the targets is kept.
  [[nodiscard]] Result<Batch> prepare(std::span<const TensorRef> refs, std::span<const Tensor> targets,
                                      const Requirement& requirement = {}, const Wait& wait = {}) const;
  [[nodiscard]] Result<Batch> prepare(std::span<const TensorRef> refs, std::span<const Target> targets,
                                      const Requirement& requirement = {}, const Wait& wait = {}) const;

  // The tensor over the memory of an agent on this host: no copy, whatever the size, with the strides that it has
  // there. What the owner writes later shows, in pages that this process has not written to; what this process writes
  // stays its own. The memory is not reused until `memory` of the tensor is dropped.
  // kUnsupported unless it lies in the arena of an agent on this host; otherwise as fetch().
  [[nodiscard]] Result<Tensor> map(const TensorRef& ref, const Wait& wait = {}) const;

  // The same, but its pages cannot be written to: who does gets SIGSEGV. For who only reads: nothing has to be looked
  // at before the memory can be mapped again, so that the time is the same for any size.
  [[nodiscard]] Result<Tensor> view(const TensorRef& ref, const Wait& wait = {}) const;

  // Which path a fetch of the tensor would take. Fails as connect().
  [[nodiscard]] Result<Explanation> explain(const TensorRef& ref, const Requirement& requirement = {},
                                            const Wait& wait = {}) const;

  // Copies tensors as they are now, and makes the copy the newest version of `name` for its subscribers: the caller may
  // write to them at once, and never waits for readers. Returns the version's number.
  // kInvalidArgument for a number that is not larger, or as register_tensors(); kResourceExhausted when the quota is
  // used up. The version before stays the newest then.
  Result<std::uint64_t> publish(const std::string& name, std::span<const Tensor> tensors,
                                PublishOptions options = {}) const;
  // No version of the name can be fetched any more; what is mapped stays with those who have it. Subscribers are told.
  void withdraw(const std::string& name) const;
  // What the agent at that address publishes under a name, now or later. Fails as connect().
  [[nodiscard]] Result<Subscription> subscribe(const std::string& address, const std::string& name,
                                               const SubscribeOptions& options = {}, const Wait& wait = {}) const;

  struct Stats {
    std::uint64_t peers = 0;     // connections that this agent made; now
    std::uint64_t visitors = 0;  // connections that others made; now
    std::uint64_t refused = 0;   // who was not let in
    std::uint64_t faults = 0;    // made on purpose
    // Of versions that it publishes: copies that subscribers offer, now; how often one of them was given another
    // parent; how often one was sent here beyond the fan-out, since nobody else had room in time.
    std::uint64_t relays = 0, reparented = 0, overdue = 0;
    std::uint64_t parents_lost = 0;           // that failed it as a subscriber
    std::uint64_t registrations = 0;          // now
    std::uint64_t registrations_reused = 0;   // found instead of made
    std::uint64_t registrations_waiting = 0;  // undone, held by a reader yet
  };
  [[nodiscard]] Stats stats() const;

 private:
  struct Impl;
  explicit Agent(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace beeline::api
