// What the `transfer` benchmarks measure, without Python: seconds per call, one mean per block of calls.
//
//   transfer_read CALLS BLOCKS [maps]: takes a line of JSON, references to one tensor, and prints a line of JSON: lists
//   for "map" and "view" (a new tensor each time, writable and not) and, without `maps`, "fetch" (prepared, by shm,
//   into existing memory) and "copy" (memcpy of as many bytes within this process). They are interleaved.
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
  const bool only_maps = argc == 4 && std::string(argv[3]) == "maps";
  if (argc != 3 && !only_maps) {
    std::cerr << "usage: transfer_read CALLS BLOCKS [maps]\n";
    return 2;
  }
  const int calls = std::atoi(argv[1]);
  const int blocks = std::atoi(argv[2]);
  std::string line;
  std::getline(std::cin, line);
  const auto agent = need(transfer::Agent::open({.name = "reader", .token = "bench"}));
  const auto refs = need(transfer::TensorRefs::from_json(line)).all();
  std::vector<double> fetch, map, view, copy;
  const auto note = [](std::vector<double>& samples, int block, double seconds) {
    if (block >= 0) samples.push_back(seconds);  // the one before warms up
  };
  const auto time_maps = [&](int block) {
    note(map, block, per_call(calls, [&] {
           if (*need(agent.map(refs[0])).data != std::byte{1}) std::exit(1);
         }));
    note(view, block, per_call(calls, [&] {
           if (*need(agent.view(refs[0])).data != std::byte{1}) std::exit(1);
         }));
  };
  std::printf("{");
  if (only_maps) {
    for (int block = -1; block < blocks; ++block) time_maps(block);
  } else {
    const std::vector<transfer::Tensor> targets = {need(agent.empty(refs[0].shape(), refs[0].dtype()))};
    const std::vector<transfer::Tensor> sources = {need(agent.empty(refs[0].shape(), refs[0].dtype()))};
    const std::size_t size = refs[0].bytes();
    std::memset(targets[0].data, 0, size);
    std::memset(sources[0].data, 1, size);
    auto batch = need(agent.prepare(refs, targets, {.path = "shm"}));
    for (int block = -1; block < blocks; ++block) {
      note(fetch, block, per_call(calls, [&] { need(batch.run()); }));
      if (targets[0].data[0] != std::byte{1} || targets[0].data[size - 1] != std::byte{1}) {
        std::cerr << "wrong bytes arrived\n";
        return 1;
      }
      time_maps(block);
      note(copy, block, per_call(calls, [&] {
             std::memcpy(targets[0].data, sources[0].data, size);
             asm volatile("" : : "r"(targets[0].data) : "memory");
           }));
    }
    print("fetch", fetch, ", ");
    print("copy", copy, ", ");
  }
  print("map", map, ", ");
  print("view", view, "}\n");
}
