// Follows what an agent publishes under a name, in C++ or in Python: agent.publish("weights", tensors).
//
//   follower ADDRESS NAME: says each version that it has mapped, until the publisher is gone.
#include <beeline/transfer.h>

#include <iostream>

namespace transfer = beeline::transfer;

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: follower ADDRESS NAME\n";
    return 2;
  }
  auto agent = transfer::Agent::open({.name = "follower"});
  if (!agent) {
    std::cerr << agent.status().message() << "\n";
    return 1;
  }
  auto versions = agent->subscribe(argv[1], argv[2]);
  if (!versions) {
    std::cerr << versions.status().message() << "\n";
    return 1;
  }
  // The newest one each time: those that come and go meanwhile are passed over.
  for (std::uint64_t number = 0;;) {
    auto version = versions->newer_than(number, {.timeout = std::nullopt});
    if (!version) {
      std::cout << beeline::code_name(version.status().code()) << std::endl;
      return version.status().code() == beeline::Code::kPeerLost ? 0 : 1;
    }
    number = version->number;
    auto tensor = agent->map(*version->tensors.at(std::size_t{0}));
    if (tensor) {
      std::cout << "version " << number << ", first byte " << static_cast<int>(*tensor->data) << std::endl;
    } else if (tensor.status().code() != beeline::Code::kStale) {  // else a newer one is there already
      std::cerr << tensor.status().message() << "\n";
      return 1;
    }
  }
}
