// Which of UCX's transports are used. UCX has more, but most of them let a program on the other side do what their keys
// do not allow: tcp and ud put bytes wherever a peer says, and reads that the owner emulates look at no key.
#pragma once

#include <string>
#include <vector>

namespace beeline::transport::ucx {

// What this machine has, and what its user says.
struct Machine {
  const char* tls = nullptr;  // UCX_TLS: may leave out more, adds nothing
  bool has_xpmem = false;
  bool has_rdma = false;     // a NIC that has UCX's dc
  bool allows_rdma = false;  // BEELINE_UCX_RDMA=1

  static Machine look();
};

struct Selection {
  std::vector<std::string> names;  // as UCX_TLS takes them
  // Why peers of this host, and of others, are not reached; empty if they are.
  std::string not_here;
  std::string not_across;
  bool has_rdma = false;

  [[nodiscard]] std::string list(const char* separator) const;
};

Selection select(const Machine& machine);

}  // namespace beeline::transport::ucx
