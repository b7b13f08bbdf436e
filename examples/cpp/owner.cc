// One end of a hand-over: has tensors, and says where they are. owner.py is the same in Python.
//
//   owner: prints a line of JSON, for reader.cc or beeline.transfer.TensorRefs.from_json(); ends when its stdin ends.
//
// Try it:  (sleep 60 | ./owner) > refs &   sleep 1; ./reader < refs
#include <beeline/transfer.h>

#include <iostream>
#include <numeric>
#include <string>
#include <vector>

namespace transfer = beeline::transfer;

int main() {
  // An agent is one end of every transfer. By default it is reached by processes of this user on this host; with
  // .tcp = "0.0.0.0:0", .advertise and .token also by others.
  auto agent = transfer::Agent::open({.name = "owner"});
  if (!agent) {
    std::cerr << agent.status().message() << "\n";
    return 1;
  }

  // Memory of the agent's arena: a reader on this host maps it, and copies from it without asking anybody.
  auto weights = agent->empty({1024, 256}, transfer::kFloat32);
  if (!weights) {
    std::cerr << weights.status().message() << "\n";
    return 1;
  }
  std::iota(weights->values<float>().begin(), weights->values<float>().end(), 0.0F);

  // Memory of the program's own does as well; it must stay until the references and the agent are gone. Here the order
  // of declarations would be wrong for that, so the tensor is given what keeps it.
  auto steps = std::make_shared<std::vector<std::int64_t>>(std::vector<std::int64_t>{1, 2, 3});
  auto history = transfer::Tensor::borrow(steps->data(), {3});
  history.memory = steps;

  // Nothing is copied: who fetches sees the tensors as they are then. The registration ends with `refs`.
  const std::vector<transfer::Tensor> tensors = {*weights, history};
  auto refs = agent->register_tensors(tensors, {.names = {"weights", "history"}});
  if (!refs) {
    std::cerr << refs.status().message() << "\n";
    return 1;
  }

  // A value without a secret: it may travel by whatever means. to_bytes() is shorter.
  std::cout << refs->to_json() << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
  }
}
