// AN EMULATOR of libnccl.so.2: the calls. meeting_place.h has how bytes go from one rank to the other.
#include "nccl_emulator.h"

#include <dlfcn.h>
#include <sys/random.h>

#include <climits>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#include "../cuda/cuda_emulator.h"
#include "meeting_place.h"

namespace nccl_emulator {
namespace {

constexpr ncclResult_t kSuccess = 0, kUnhandledCudaError = 1, kSystemError = 2, kInvalidArgument = 4, kInvalidUsage = 5,
                       kRemoteError = 6, kInProgress = 7;
constexpr int kUint8 = 1;
constexpr std::size_t kOldestConfig = 48;  // of 2.18

std::string setting(const char* variable) {
  const char* const text = std::getenv(variable);
  return text != nullptr ? text : "";
}
bool stalls(const char* where) {
  return setting("NCCL_EMULATOR_STALL") == where;
}
bool errs(const char* where) {
  return setting("NCCL_EMULATOR_ERROR") == where;
}
long number(const char* variable, long otherwise) {
  const std::string text = setting(variable);
  return text.empty() ? otherwise : std::atol(text.c_str());
}

// The driver's emulator, which this process has opened before.
template <typename Function>
Function* driver(const char* name) {
  static void* const library = ::dlopen(setting("BEELINE_CUDA_LIBRARY").c_str(), RTLD_NOW | RTLD_LOCAL);
  return library != nullptr ? reinterpret_cast<Function*>(::dlsym(library, name)) : nullptr;
}
#define DRIVER(function) nccl_emulator::driver<decltype(function)>(#function)

struct Piece {
  bool is_send = false;
  std::byte* data = nullptr;
  std::size_t bytes = 0;
};

}  // namespace
}  // namespace nccl_emulator

using namespace nccl_emulator;

struct ncclComm {
  int rank = 0;
  CUcontext context = nullptr;
  std::unique_ptr<MeetingPlace> place;
  std::atomic<ncclResult_t> state{kInProgress};
  std::atomic<bool> is_aborted{false};
  std::thread thread;           // of what is in progress, or was last
  std::atomic<int> running{0};  // pieces of work that are in streams
  std::string last_error;       // before `state` says that there is one
};

namespace {

std::atomic<int> comms{0}, aborts{0};
thread_local std::string last_error;

struct Group {
  int depth = 0;
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
  std::vector<Piece> pieces;
};
thread_local Group group;

struct Work {
  ncclComm_t comm;
  std::vector<Piece> pieces;
};

std::string place_of(const std::string& name) {
  const std::string memory = setting("NCCL_EMULATOR_SHM");
  return (memory.empty() ? setting("CUDA_EMULATOR_FOLDER") : memory) + "/" + name;
}

void fail(ncclComm_t comm, ncclResult_t code, const char* why) {
  comm->last_error = why;
  comm->state.store(code);
}

// A thread of a communicator, which has its GPU's context. The one before has nothing left to do.
template <typename Body>
void start(ncclComm_t comm, Body&& body) {
  if (comm->thread.joinable()) comm->thread.join();
  comm->thread = std::thread([comm, body = std::forward<Body>(body)]() mutable {
    if (DRIVER(cuCtxSetCurrent)(comm->context) == 0) body();
  });
}

void meet(ncclComm_t comm, int device) {
  const int error = comm->place->reserve();
  // The other rank was there, and has given up.
  if (error == ENOENT) return fail(comm, kRemoteError, "emulated: the other rank is gone");
  if (error != 0) {
    const std::string why = "Error: failed to extend " + comm->place->file() + " to " + std::to_string(sizeof(Shared)) +
                            " bytes, error: " + std::strerror(error) + " (" + std::to_string(error) + ")";
    return fail(comm, kSystemError, why.c_str());
  }
  Shared& shared = comm->place->shared();
  shared.devices[comm->rank].store(device + 1);
  const auto has_met = [&] { return !stalls("init") && shared.devices[1 - comm->rank].load() != 0; };
  if (errs("init")) return fail(comm, kRemoteError, "emulated: the other rank is gone");
  if (!wait_for(has_met, comm->is_aborted)) return;
  comm->place->remove();
  if (shared.devices[0].load() == shared.devices[1].load()) {
    return fail(comm, kInvalidUsage, "Duplicate GPU detected : rank 0 and rank 1 both on one CUDA device");
  }
  comm->state.store(kSuccess);
}

// In a stream, once all that came before is done.
void run(Work& work) {
  ncclComm_t const comm = work.comm;
  if (errs("move")) fail(comm, kRemoteError, "emulated: the other rank is gone");
  const auto never = [&] { return !stalls("move") && !errs("move"); };
  if (!wait_for(never, comm->is_aborted)) return;
  Shared& shared = comm->place->shared();
  for (const Piece& piece : work.pieces) {
    void* data = nullptr;
    DRIVER(cuEmulatorTouch)(reinterpret_cast<CUdeviceptr>(piece.data), piece.bytes, &data);
    if (data == nullptr) return fail(comm, kUnhandledCudaError, "emulated: memory that is no GPU's");
    auto* const bytes = static_cast<std::byte*>(data);
    const int sender = piece.is_send ? comm->rank : 1 - comm->rank;
    const auto move = [&](std::byte* from, std::uint64_t size) {
      Ring& ring = shared.rings[sender];
      return piece.is_send ? write(ring, from, size, comm->is_aborted) : read(ring, from, size, comm->is_aborted);
    };
    // Both sides mean the same number of bytes: NCCL would hang, or write beyond.
    std::uint64_t size = piece.bytes;
    if (!move(reinterpret_cast<std::byte*>(&size), sizeof size)) return;
    if (size != piece.bytes) return fail(comm, kInvalidUsage, "emulated: a send and a receive of unequal sizes");
    const std::uint64_t half = stalls("half") ? size / 2 : size;
    if (!move(bytes, half)) return;
    if (half < size && !wait_for([] { return !stalls("half"); }, comm->is_aborted)) return;
    if (!move(bytes + half, size - half)) return;
  }
}

void run_and_end(void* argument) {
  const std::unique_ptr<Work> work(static_cast<Work*>(argument));
  run(*work);
  --work->comm->running;
}

// What a group's thread does while the communicator is in progress.
void launch(ncclComm_t comm, cudaStream_t stream, std::vector<Piece> pieces) {
  if (errs("launch")) return fail(comm, kRemoteError, "emulated: the other rank is gone");
  std::this_thread::sleep_for(std::chrono::microseconds(number("NCCL_EMULATOR_LAUNCH_US", 300)));
  if (!wait_for([] { return !stalls("launch"); }, comm->is_aborted)) return;
  ++comm->running;
  auto work = std::make_unique<Work>(Work{comm, std::move(pieces)});
  if (DRIVER(cuLaunchHostFunc)(reinterpret_cast<CUstream>(stream), run_and_end, work.get()) != 0) {
    --comm->running;
    return fail(comm, kUnhandledCudaError, "emulated: no stream");
  }
  (void)work.release();
  ncclResult_t in_progress = kInProgress;  // else the stream was quicker, and has failed
  comm->state.compare_exchange_strong(in_progress, kSuccess);
}

ncclResult_t add(const Piece& piece, int type, int peer, ncclComm_t comm, cudaStream_t stream) {
  if (comm == nullptr || type != kUint8 || peer != 1 - comm->rank) return kInvalidArgument;
  if (comm->state.load() == kInProgress) {
    last_error = "emulated: a communicator that is in progress";
    return kInvalidArgument;
  }
  // Beeline makes groups alone, each of one communicator and stream.
  if (group.depth == 0 || (group.comm != nullptr && (group.comm != comm || group.stream != stream))) {
    return kInvalidUsage;
  }
  group.comm = comm;
  group.stream = stream;
  group.pieces.push_back(piece);
  return kSuccess;
}

}  // namespace

NCCL_EMULATED ncclGetVersion(int* version) {
  *version = static_cast<int>(number("NCCL_EMULATOR_VERSION", 22703));
  return kSuccess;
}

extern "C" __attribute__((visibility("default"))) const char* ncclGetErrorString(ncclResult_t code) {
  switch (code) {
    case kSuccess:
      return "no error";
    case kUnhandledCudaError:
      return "unhandled cuda error";
    case kSystemError:
      return "unhandled system error";
    case kInvalidArgument:
      return "invalid argument";
    case kInvalidUsage:
      return "invalid usage";
    case kRemoteError:
      return "remote process exited or there was a network error";
    case kInProgress:
      return "NCCL operation in progress";
    default:
      return "unknown result code";
  }
}

extern "C" __attribute__((visibility("default"))) const char* ncclGetLastError(ncclComm_t comm) {
  return comm != nullptr && comm->state.load() != kSuccess ? comm->last_error.c_str() : last_error.c_str();
}

NCCL_EMULATED ncclGetUniqueId(ncclUniqueId* id) {
  unsigned long long words[2];
  if (::getrandom(words, sizeof words, 0) != sizeof words) return kSystemError;
  std::memset(id, 0, sizeof *id);
  const std::string name = "nccl-" + std::to_string(words[0]) + "-" + std::to_string(words[1]);
  std::memcpy(id->internal, name.c_str(), name.size() + 1);
  // Who gives an id out listens from then on.
  return MeetingPlace::open(place_of(name), true) != nullptr ? kSuccess : kSystemError;
}

NCCL_EMULATED ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  if (comm == nullptr || ranks != 2 || rank < 0 || rank > 1 || config == nullptr) return kInvalidArgument;
  if (config->magic != 0xcafebeef || config->size < kOldestConfig || config->version < 21800) {
    last_error = "ncclConfig_t argument not initialized via NCCL_CONFIG_INITIALIZER";
    return kInvalidArgument;
  }
  if (config->blocking != 0) return kInvalidUsage;  // not emulated
  int device = 0;
  CUcontext context = nullptr;
  if (DRIVER(cuEmulatorDevice)(&device) != 0) return kUnhandledCudaError;  // no context is current
  if (DRIVER(cuEmulatorContext)(&context) != 0) return kUnhandledCudaError;
  id.internal[sizeof id.internal - 1] = 0;
  const std::string name = id.internal;
  if (name.find('/') != std::string::npos) return kInvalidArgument;
  auto made = std::make_unique<ncclComm>();
  made->rank = rank;
  made->context = context;
  made->place = MeetingPlace::open(place_of(name), false);
  if (made->place == nullptr) return kSystemError;
  ++comms;
  *comm = made.release();
  start(*comm, [own = *comm, device] { meet(own, device); });
  return kInProgress;
}

NCCL_EMULATED ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  if (comm == nullptr || state == nullptr) return kInvalidArgument;
  *state = comm->state.load();
  return kSuccess;
}

// Waits for what it cuts off, as NCCL does.
NCCL_EMULATED ncclCommAbort(ncclComm_t comm) {
  if (comm == nullptr) return kSuccess;
  comm->is_aborted.store(true);
  comm->thread.join();
  comm->place->remove();
  while (comm->running.load() > 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
  delete comm;
  --comms;
  ++aborts;
  return kSuccess;
}

NCCL_EMULATED ncclGroupStart() {
  ++group.depth;
  return kSuccess;
}

NCCL_EMULATED ncclGroupEnd() {
  if (group.depth == 0) return kInvalidUsage;
  if (--group.depth > 0) return kSuccess;
  const Group ended = std::exchange(group, {});
  if (ended.comm == nullptr) return kSuccess;
  if (const ncclResult_t state = ended.comm->state.load(); state != kSuccess) return state;
  ended.comm->state.store(kInProgress);
  start(ended.comm, [ended] { launch(ended.comm, ended.stream, ended.pieces); });
  return kInProgress;
}

NCCL_EMULATED ncclSend(const void* data, std::size_t count, int type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return add({true, static_cast<std::byte*>(const_cast<void*>(data)), count}, type, peer, comm, stream);
}

NCCL_EMULATED ncclRecv(void* data, std::size_t count, int type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return add({false, static_cast<std::byte*>(data), count}, type, peer, comm, stream);
}

NCCL_EMULATED ncclEmulatorComms() {
  return comms.load();
}

NCCL_EMULATED ncclEmulatorAborts() {
  return aborts.load();
}
