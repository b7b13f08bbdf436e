// Without libFuzzer: a target over the files given, or over a fixed sequence of generated inputs.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

#include "beeline/runtime/control.h"
#include "beeline/runtime/messages.h"
#include "beeline/runtime/metrics.h"
#include "beeline/store/payload.h"
#include "beeline/transfer/counters.h"
#include "beeline/transfer/descriptor.h"
#include "beeline/transfer/messages.h"
#include "beeline/transfer/spans.h"
#include "beeline/transport/cuda_ipc/keys.h"
#include "beeline/transport/nccl/messages.h"
#include "beeline/transport/nixl/engine.h"
#include "beeline/transport/tcp/opening.h"
#include "targets.h"

namespace {

using beeline::Bytes;
using beeline::Writer;

// Well-formed inputs of every target, to be changed at random.
std::vector<Bytes> seeds() {
  std::vector<Bytes> inputs;
  {
    beeline::store::Payload payload;
    payload.skeleton = "skeleton";
    payload.inline_buffers.push_back({"bytes", true});
    payload.refs.push_back({1, beeline::store::ObjectKind::kValue, 2});
    Writer writer(inputs.emplace_back());
    encode_payload(payload, writer);
  }
  {
    Writer writer(inputs.emplace_back());
    encode_payload(*beeline::store::make_failure(beeline::store::ErrorKind::kTask, "failed", 3, "name"), writer);
  }
  beeline::runtime::control::CreateActor create;
  create.class_name = "Counter";
  create.resources = {{"CPU", 1}};
  inputs.push_back(encode(beeline::runtime::control::Type::kCreateActor, create));
  inputs.push_back(encode(beeline::runtime::control::Type::kState, beeline::runtime::control::State{}));
  {
    Writer writer(inputs.emplace_back());
    writer.write(beeline::runtime::kMetricsMagic);
    writer.write(beeline::runtime::kMetricsVersion);
    for (int i = 0; i < 3; ++i) writer.write(std::uint32_t{1});
    writer.write(std::int64_t{1});
    for (const std::uint64_t number : {136, 0, 0, 0}) writer.write(number);  // 64 bytes, and one series
    writer.write(beeline::runtime::SeriesHeader{72, 24, 1, 2, {}});
    for (int i = 0; i < 4; ++i) writer.write(1.0);  // a bound, two counters, the sum
    for (const char* text : {"name", "", "a", "b"}) writer.write_string(text);
    writer.append(beeline::as_bytes({"\0\0", 2}));
  }
  {
    Writer writer(inputs.emplace_back());
    writer.write(beeline::runtime::Hello{});
    for (int i = 0; i < 64; ++i) writer.write(std::uint64_t{0x31786f626d4c4542});
  }
  {
    Writer writer(inputs.emplace_back());
    writer.write(std::uint32_t{48 << 16});  // head 0, 48 bytes
    for (std::uint32_t i = 0; i < 3; ++i) {
      writer.write(std::uint32_t{8});
      writer.write(std::uint32_t{1});
      writer.write(std::uint64_t{i});
    }
  }
  {
    Writer writer(inputs.emplace_back());
    writer.write(std::uint8_t{5});
    for (std::uint32_t i = 0; i < 3; ++i) {
      writer.write(std::uint32_t{4});
      writer.write(std::uint32_t{0});
      writer.write(i);
    }
  }
  {
    auto schema = std::make_shared<beeline::transfer::Schema>();
    beeline::transfer::Descriptor descriptor;
    descriptor.owner = "beeline://a?id=0123456789abcdef0123456789abcdef&tcp=h:1";
    descriptor.regions.push_back({{1, 2}, 1 << 20, 4096, 0, {}});
    for (std::uint64_t i = 0; i < 4; ++i) {
      schema->tensors.push_back({{2, 32, 1}, {3, static_cast<std::int64_t>(i)}, {}});
      descriptor.places.push_back({0, i * 4096});
    }
    descriptor.schema = std::move(schema);
    inputs.push_back(descriptor.encode());
    const auto text = beeline::as_bytes(descriptor.owner);
    inputs.emplace_back(text.begin(), text.end());
    const std::string json = descriptor.to_json();
    const auto json_bytes = beeline::as_bytes(json);
    inputs.emplace_back(json_bytes.begin(), json_bytes.end());
  }
  {
    namespace messages = beeline::transfer::messages;
    inputs.push_back(encode(messages::Type::kAsk, messages::Ask{}));
    inputs.push_back(encode(messages::Type::kAnswer, messages::Answer{}));
    inputs.push_back(encode(messages::Type::kWithdrawn, messages::Topic{"weights"}));
    inputs.push_back(encode(messages::Type::kPublished, messages::Published{"weights", 1, inputs[inputs.size() - 6]}));
    inputs.push_back(encode(messages::Type::kWritten, messages::Written{7}));
    inputs.push_back(encode(messages::Type::kSeek, messages::Seek{"weights", 1, 0, 5}));
    inputs.push_back(beeline::pack(beeline::transport::cuda_ipc::Contact{{Bytes(16)}}));
    inputs.push_back(beeline::pack(beeline::transport::cuda_ipc::MemoryKey{0, 0, 4096, Bytes(64), Bytes(64), 0, 0}));
    inputs.push_back(beeline::pack(beeline::transport::nixl::ExtentContact{4096, Bytes(100)}));
  }
  {
    beeline::transport::tcp::Opening opening;
    opening.id_bytes = 6;
    opening.has_token = 1;
    Writer writer(inputs.emplace_back());
    writer.write(opening);
    writer.append(beeline::as_bytes("caller"));
    writer.write(beeline::transport::tcp::Proof{});
  }
  {
    namespace nccl = beeline::transport::nccl;
    Writer opening(inputs.emplace_back());
    opening.write(nccl::Opening{});
    opening.write(nccl::Proof{});
    Writer request(inputs.emplace_back());
    request.write(nccl::Request{nccl::Op::kRead, 1});
    request.write(beeline::transport::RunRecord{});
    inputs.push_back(beeline::pack(nccl::Contact{"@beeline", 1, Bytes(nccl::kSecretBytes), {Bytes(16)}}));
  }
  {
    beeline::transport::tcp::Challenge challenge;
    challenge.id_bytes = 8;
    Writer writer(inputs.emplace_back());
    writer.write(beeline::transport::tcp::Answer{});
    writer.write(challenge);
    writer.append(beeline::as_bytes("listener"));
    writer.write(beeline::transport::tcp::Answer{});
    writer.write(beeline::transport::tcp::Proof{});
  }
  {
    using beeline::transfer::CountersFile;
    Bytes& bytes = inputs.emplace_back(offsetof(CountersFile, rows) + 3 * sizeof(beeline::transfer::CounterRow));
    auto& header = *reinterpret_cast<beeline::transfer::CountersHeader*>(bytes.data());
    header.magic = beeline::transfer::kCountersMagic;
    header.version = beeline::transfer::kCountersVersion;
    header.row_bytes = sizeof(beeline::transfer::CounterRow);
    header.max_rows = beeline::transfer::kMaxCounterRows;
    header.pid = 1;
    header.numbers.rows = 3;
    header.address_bytes = 10;
  }
  {
    using beeline::transfer::SpansHeader;
    Bytes& bytes = inputs.emplace_back(sizeof(SpansHeader));
    auto& header = *reinterpret_cast<SpansHeader*>(bytes.data());
    header.magic = beeline::transfer::kSpansMagic;
    header.version = beeline::transfer::kSpansVersion;
    header.slot_bytes = sizeof(beeline::transfer::SpanSlot);
    header.slots_of_ring = beeline::transfer::kSpansOfRing;
    header.pid = 1;
    header.rings[0].next = 2;
    Writer writer(bytes);
    for (std::uint64_t i = 0; i < 2; ++i) {
      writer.write(static_cast<std::uint16_t>(i));
      writer.write(2 * i + 2);
      for (int word = 0; word < 7; ++word) writer.write(std::uint64_t{1});
    }
  }
  return inputs;
}

Bytes changed(Bytes input, std::mt19937_64& random) {
  for (auto left = random() % 6; left > 0 && !input.empty(); --left) {
    const auto at = random() % input.size();
    switch (random() % 4) {
      case 0:
        input[at] = static_cast<std::byte>(random());
        break;
      case 1:
        input[at] = std::byte{0xff};
        break;
      case 2:
        input.resize(at);
        break;
      default:
        input.insert(input.begin() + static_cast<std::ptrdiff_t>(at), random() % 16, static_cast<std::byte>(random()));
    }
  }
  return input;
}

}  // namespace

int main(int argc, char** argv) {
  const beeline::fuzz::Target* target = nullptr;
  for (const auto& candidate : beeline::fuzz::kTargets) {
    if (argc > 1 && std::strcmp(candidate.name, argv[1]) == 0) target = &candidate;
  }
  if (target == nullptr) {
    std::fprintf(stderr, "usage: fuzz_replay TARGET [FILE...]; targets:");
    for (const auto& candidate : beeline::fuzz::kTargets) std::fprintf(stderr, " %s", candidate.name);
    std::fprintf(stderr, "\n");
    return 2;
  }
  for (int i = 2; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    target->run(beeline::as_bytes(text));
  }
  if (argc > 2) return 0;
  std::mt19937_64 random(20240229);  // the same inputs every time
  const auto inputs = seeds();
  for (int round = 0; round < 20'000; ++round) target->run(changed(inputs[random() % inputs.size()], random));
  return 0;
}
