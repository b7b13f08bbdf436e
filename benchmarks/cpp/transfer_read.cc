// What the `transfer` benchmarks measure, without Python: seconds per call, one mean per block of calls.
//
//   transfer_read CALLS BLOCKS: takes a line of JSON, references to one tensor, and prints a line of JSON: lists for
//   "fetch" (prepared, by shm, into existing memory), "map" (a new tensor each time) and "copy" (memcpy of as many
//   bytes within this process). The three are interleaved.
#include <beeline/transfer.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

namespace transfer = beeline::transfer;

namespace {

template <typename T>
T need(beeline::Result<T> result) {
  if (result) return std::move(*result);
  std::cerr << result.status().message() << "\n";
  std::exit(1);
}

void need(const beeline::Status& status) {
  if (status) return;
  std::cerr << status.message() << "\n";
  std::exit(1);
}

template <typename Call>
double per_call(int calls, Call&& call) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / calls;
}

void print(const char* name, const std::vector<double>& samples, const char* end) {
  std::printf("\"%s\": [", name);
  for (std::size_t i = 0; i < samples.size(); ++i) std::printf("%s%.4e", i > 0 ? ", " : "", samples[i]);
  std::printf("]%s", end);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: transfer_read CALLS BLOCKS\n";
    return 2;
  }
  const int calls = std::atoi(argv[1]);
  const int blocks = std::atoi(argv[2]);
  std::string line;
  std::getline(std::cin, line);
  const auto agent = need(transfer::Agent::open({.name = "reader", .token = "bench"}));
  const auto refs = need(transfer::TensorRefs::from_json(line)).all();
  const std::vector<transfer::Tensor> targets = {need(agent.empty(refs[0].shape(), refs[0].dtype()))};
  const std::vector<transfer::Tensor> sources = {need(agent.empty(refs[0].shape(), refs[0].dtype()))};
  const std::size_t size = refs[0].bytes();
  std::memset(targets[0].data, 0, size);
  std::memset(sources[0].data, 1, size);
  auto batch = need(agent.prepare(refs, targets, {.path = "shm"}));

  std::vector<double> fetch, map, copy;
  for (int block = -1; block < blocks; ++block) {
    const double fetched = per_call(calls, [&] { need(batch.run()); });
    if (targets[0].data[0] != std::byte{1} || targets[0].data[size - 1] != std::byte{1}) {
      std::cerr << "wrong bytes arrived\n";
      return 1;
    }
    const double mapped = per_call(calls, [&] {
      if (*need(agent.map(refs[0])).data != std::byte{1}) std::exit(1);
    });
    const double copied = per_call(calls, [&] {
      std::memcpy(targets[0].data, sources[0].data, size);
      asm volatile("" : : "r"(targets[0].data) : "memory");
    });
    if (block < 0) continue;  // warms up
    fetch.push_back(fetched);
    map.push_back(mapped);
    copy.push_back(copied);
  }
  std::printf("{");
  print("fetch", fetch, ", ");
  print("map", map, ", ");
  print("copy", copy, "}\n");
}
