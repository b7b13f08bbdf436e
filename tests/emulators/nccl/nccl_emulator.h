// AN EMULATOR of libnccl.so.2 for tests: what Beeline uses of NCCL, between two processes of one machine, over the
// emulator of NVIDIA's driver (tests/emulators/cuda), for machines without a GPU. Names, types and codes are those of
// nccl.h; no part of it is a product, or fast.
//
// What it keeps of NCCL: communicators that do not block, and put their work into streams only once they are in
// progress no longer; two ranks that meet by an id that one of them gave out; no two of them on one GPU; sends and
// receives that move when both sides have come, in the order of their streams, and never otherwise; a peer that is gone
// is waited for until the communicator is aborted; an abort tells the other side nothing, and what it cuts off counts
// as done in its stream.
//
// Environment: CUDA_EMULATOR_FOLDER (where ranks meet), NCCL_EMULATOR_SHM (where the memory lies by which bytes go from
// one to the other: NCCL's is in /dev/shm; by default where they meet), NCCL_EMULATOR_VERSION (22703),
// NCCL_EMULATOR_LAUNCH_US that a group is in progress (300), NCCL_EMULATOR_STALL: "init" (ranks never meet), "launch"
// (groups stay in progress), "move" (nothing moves), "half" (half of a group's first piece moves), NCCL_EMULATOR_ERROR:
// "init", "launch", "move" (there an asynchronous error, ncclRemoteError). The last two are looked at whenever they
// matter.
#pragma once

#include <cstddef>

using ncclResult_t = int;
using ncclComm_t = struct ncclComm*;
using cudaStream_t = struct CUstream_st*;
struct ncclUniqueId {
  char internal[128];
};
// Of NCCL 2.27: callers may have been built against an older one, which is shorter.
struct ncclConfig_t {
  std::size_t size;
  unsigned magic;
  unsigned version;
  int blocking;
  int cgaClusterSize;
  int minCTAs;
  int maxCTAs;
  const char* netName;
  int splitShare;
  int trafficClass;
  const char* commName;
  int collnetEnable;
  int CTAPolicy;
  int shrinkShare;
  int nvlsCTAs;
};

#define NCCL_EMULATED extern "C" __attribute__((visibility("default"))) ncclResult_t

NCCL_EMULATED ncclGetVersion(int* version);
NCCL_EMULATED ncclGetUniqueId(ncclUniqueId* id);
NCCL_EMULATED ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config);
NCCL_EMULATED ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state);
NCCL_EMULATED ncclCommAbort(ncclComm_t comm);
NCCL_EMULATED ncclGroupStart();
NCCL_EMULATED ncclGroupEnd();
NCCL_EMULATED ncclSend(const void* data, std::size_t count, int type, int peer, ncclComm_t comm, cudaStream_t stream);
NCCL_EMULATED ncclRecv(void* data, std::size_t count, int type, int peer, ncclComm_t comm, cudaStream_t stream);

// What no NCCL has: how many communicators this process has now, and how often one was aborted in it.
NCCL_EMULATED ncclEmulatorComms();
NCCL_EMULATED ncclEmulatorAborts();
