// One function per decoder of bytes from outside. Each takes any bytes and must neither crash nor read outside them;
// the engine (libFuzzer) or the plain main of replay_main.cc feeds it.
#pragma once

#include "beeline/base/bytes.h"

namespace beeline::fuzz {

void ring_records(BytesView input);     // ring/ring.h: positions, then the data of a ring
void payload(BytesView input);          // store/payload.h
void control_frame(BytesView input);    // runtime/control.h: every message type
void frame_socket(BytesView input);     // os/unix_socket.h: a stream in pieces
void hello(BytesView input);            // runtime/messages.h: the greeting of a link and the tables that come with it
void descriptor(BytesView input);       // transfer/descriptor.h
void descriptor_json(BytesView input);  // likewise
void agent(BytesView input);            // transfer/address.h and messages.h
void counters(BytesView input);         // transfer/counters.h: a file of counters
void metrics(BytesView input);          // runtime/metrics.h: a file of metrics
void opening(BytesView input);          // transport/tcp/opening.h: either side of one
void keys(BytesView input);             // what back ends tell peers of their engines, and of memory
void nccl(BytesView input);             // transport/nccl/opening.h and messages.h
void spans(BytesView input);            // transfer/spans.h: a file of spans, and copies of it that changed

struct Target {
  const char* name;
  void (*run)(BytesView input);
};
inline constexpr Target kTargets[] = {{"ring_records", ring_records},
                                      {"payload", payload},
                                      {"control_frame", control_frame},
                                      {"frame_socket", frame_socket},
                                      {"hello", hello},
                                      {"descriptor", descriptor},
                                      {"descriptor_json", descriptor_json},
                                      {"agent", agent},
                                      {"counters", counters},
                                      {"metrics", metrics},
                                      {"opening", opening},
                                      {"keys", keys},
                                      {"nccl", nccl},
                                      {"spans", spans}};

}  // namespace beeline::fuzz
