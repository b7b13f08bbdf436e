// AN EMULATOR'S HEADER: the one-sided engine of Ascend's HiXL as its public documentation describes it (names, states
// and codes), for machines without NPUs. Programs that are written for it compile against the vendor's header, too.
// Its memory of devices is described in hixl_emulator.cc. docs/transports.md tells what was tested with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace hixl {

using AscendString = std::string;
using Status = std::uint32_t;
using MemHandle = void*;
using TransferReq = void*;

constexpr Status SUCCESS = 0U;
constexpr Status PARAM_INVALID = 103900U;
constexpr Status TIMEOUT = 103901U;
constexpr Status NOT_CONNECTED = 103902U;
constexpr Status ALREADY_CONNECTED = 103903U;
constexpr Status NOTIFY_FAILED = 103904U;
constexpr Status UNSUPPORTED = 103905U;
constexpr Status RESOURCE_EXHAUSTED = 203900U;
constexpr Status FAILED = 503900U;

enum MemType { MEM_DEVICE, MEM_HOST };
enum TransferOp { READ, WRITE };
enum class TransferStatus { WAITING, COMPLETED, TIMEOUT, FAILED };

struct MemDesc {
  std::uintptr_t addr;
  std::size_t len;
};

struct TransferOpDesc {
  std::uintptr_t local_addr;
  std::uintptr_t remote_addr;
  std::size_t len;
};

struct TransferArgs {
  const void* user_data = nullptr;
};

struct NotifyDesc {
  AscendString name;
  AscendString notify_msg;
};

class __attribute__((visibility("default"))) Hixl {
 public:
  Hixl();
  ~Hixl();

  // "host:port" listens there; "host" only connects to others.
  Status Initialize(const AscendString& local_engine, const std::map<AscendString, AscendString>& options);
  void Finalize();

  Status RegisterMem(const MemDesc& mem, MemType type, MemHandle& mem_handle);
  Status DeregisterMem(MemHandle mem_handle);

  Status Connect(const AscendString& remote_engine, std::int32_t timeout_in_millis = 1000);
  Status Disconnect(const AscendString& remote_engine, std::int32_t timeout_in_millis = 1000);

  // Both sides' memory must be registered. After TIMEOUT and FAILED the link is gone: NOT_CONNECTED until Connect.
  Status TransferSync(const AscendString& remote_engine, TransferOp operation,
                      const std::vector<TransferOpDesc>& op_descs, std::int32_t timeout_in_millis = 1000);
  Status TransferAsync(const AscendString& remote_engine, TransferOp operation,
                       const std::vector<TransferOpDesc>& op_descs, const TransferArgs& optional_args,
                       TransferReq& req);
  // A request that is not WAITING any more is forgotten once it was told.
  Status GetTransferStatus(const TransferReq& req, TransferStatus& status);

  Status SendNotify(const AscendString& remote_engine, const NotifyDesc& notify, std::int32_t timeout_in_millis = 1000);
  // Those that came since the last call.
  Status GetNotifies(std::vector<NotifyDesc>& notifies);

 private:
  class HixlImpl;
  std::unique_ptr<HixlImpl> impl_;
};

}  // namespace hixl
