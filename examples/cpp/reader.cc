// The other end of a hand-over: fetches what references name, whoever registered it.
//
//   reader [FILE]: takes a line of JSON for each hand-over from stdin, until that ends. Says what arrived, and by which
//   path; writes the bytes of all tensors to FILE, one after the other. A hand-over that fails is told in a line that
//   begins with "failed"; the exit status is 1 if there was one.
#include <beeline/transfer.h>

#include <fstream>
#include <iostream>
#include <string>
#include <vector>

namespace transfer = beeline::transfer;
using namespace std::chrono_literals;

namespace {

beeline::Status fetch_all(const transfer::Agent& agent, const std::string& line, const char* file) {
  // Text from outside: it is checked, and refused if it is no references.
  auto refs = transfer::TensorRefs::from_json(line);
  if (!refs) return refs.status();
  const std::vector<transfer::TensorRef> all = refs->all();

  // Memory to fill: here of this agent's arena, so that it could be registered in turn. Any memory does.
  std::vector<transfer::Tensor> targets;
  for (const auto& ref : all) {
    auto target = agent.empty(ref.shape(), ref.dtype());
    if (!target) return target.status();
    targets.push_back(std::move(*target));
  }

  // One call for all of one owner. The first one connects. Without a path named, the best is taken.
  auto status = agent.fetch(all, targets, {}, {.timeout = 10s});
  if (!status) return status;
  for (std::size_t i = 0; i < all.size(); ++i) {
    auto explained = agent.explain(all[i]);
    if (!explained) return explained.status();
    std::cout << (refs->names().empty() ? "tensor" : refs->names()[i]) << ": " << all[i].bytes() << " bytes by "
              << explained->chosen << "\n";
  }
  if (file != nullptr) {
    std::ofstream out(file, std::ios::binary);
    for (const auto& target : targets) {
      out.write(reinterpret_cast<const char*>(target.data), static_cast<std::streamsize>(target.bytes()));
    }
  }

  // A part of a tensor: nothing else moves. The last row of a matrix of floats:
  const auto& first = all.front();
  if (first.shape().size() != 2 || !(first.dtype() == transfer::kFloat32)) return {};
  auto row = first.select(0, first.shape()[0] - 1);
  if (!row) return row.status();
  std::vector<float> values(static_cast<std::size_t>(row->shape()[0]));
  status = agent.fetch(*row, transfer::Tensor::borrow(values.data(), row->shape()));
  if (!status) return status;
  std::cout << "last value fetched: " << values.back() << "\n";

  // On one host no copy is needed, if the owner has it in its arena. The memory stays the owner's, and is not reused
  // as long as `mapped.memory` lives.
  auto mapped = agent.map(*row);
  if (mapped) {
    std::cout << "last value mapped: " << mapped->values<float>().back() << "\n";
  } else if (mapped.status().code() != beeline::Code::kUnsupported) {
    return mapped.status();
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  auto agent = transfer::Agent::open({.name = "reader"});
  if (!agent) {
    std::cerr << agent.status().message() << "\n";
    return 1;
  }
  int exit_status = 0;
  for (std::string line; std::getline(std::cin, line);) {
    const auto status = fetch_all(*agent, line, argc > 1 ? argv[1] : nullptr);
    if (status) {
      std::cout << "done" << std::endl;
    } else {
      // The code says what to do about it; the message is for people.
      std::cout << "failed: " << beeline::code_name(status.code()) << ": " << status.message() << std::endl;
      exit_status = 1;
    }
  }
  return exit_status;
}
