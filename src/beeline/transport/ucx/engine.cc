#include "beeline/transport/ucx/engine.h"

#include <utility>
#include <vector>

namespace beeline::transport::ucx {

Status Engine::find() {
  std::call_once(looked_, [this] { library_ = Library::open(wanted_); });
  return library_.status();
}

Status Engine::check(bool same_host) {
  const std::string& why_not = same_host ? selection_.not_here : selection_.not_across;
  if (!why_not.empty()) return {Code::kUnsupported, why_not};
  BEELINE_RETURN_IF_ERROR(find());
  return Library::check_use();
}

Result<std::string> Engine::describe() {
  BEELINE_RETURN_IF_ERROR(find());
  if (selection_.names.empty()) return Status(Code::kUnsupported, library().description() + ": " + selection_.not_here);
  return library().description() + ", by " + selection_.list(", ");
}

Status Engine::open() {
  BEELINE_RETURN_IF_ERROR(find());
  const std::lock_guard guard(mutex_);
  if (context_ != nullptr) return Status::ok();
  BEELINE_ASSIGN(UcpContext* const context, make_context());
  context_ = {context, [this](UcpContext* own) {
                if (is_own()) functions().cleanup(own);
              }};
  return Status::ok();
}

Result<UcpContext*> Engine::make_context() {
  BEELINE_RETURN_IF_ERROR(Library::note_use());
  const Words words;
  UcpConfig* config = nullptr;
  BEELINE_RETURN_IF_ERROR(
      library().status(functions().config_read(nullptr, nullptr, &config), "reading UCX's configuration", words));
  const std::unique_ptr<UcpConfig, void (*)(UcpConfig*)> held(config, functions().config_release);
  const std::string names = selection_.list(",");
  // Nothing is asked that nobody at the owner would answer: UCX's newer protocols can do without emulations, and
  // endpoints without greetings, which would fill up the owner's queue.
  std::vector<std::pair<std::string, std::string>> settings{
      {"TLS", names}, {"PROTO_ENABLE", "y"}, {"PROTO_EMULATION_ENABLE", "n"}, {"RESOLVE_REMOTE_EP_ID", "n"}};
  // A cache of registrations patches the C library, to hear of memory that is unmapped: only where a NIC has some.
  if (!selection_.has_rdma) settings.emplace_back("RCACHE_ENABLE", "n");
  for (const auto& [name, value] : settings) {
    BEELINE_RETURN_IF_ERROR(library().status(functions().config_modify(config, name.c_str(), value.c_str()),
                                             "setting UCX_" + name + "=" + value, words));
  }
  UcpContextParams params{};
  params.field_mask = UcpContextParams::kFeatures | UcpContextParams::kSharedByThreads;
  params.features = UcpContextParams::kRemoteMemory | UcpContextParams::kWakeUp;
  params.shared_by_threads = 1;
  UcpContext* context = nullptr;
  BEELINE_RETURN_IF_ERROR(
      library().status(functions().init_version(Library::kMajor, Library::kMinor, &params, config, &context),
                       "opening UCX with the transports " + names, words));
  return context;
}

Result<std::shared_ptr<UcpWorker>> Engine::make_worker() {
  BEELINE_RETURN_IF_ERROR(open());
  const Words words;
  UcpWorkerParams params{};
  params.field_mask = UcpWorkerParams::kThreadMode;
  params.thread_mode = UcpWorkerParams::kSerialized;
  UcpWorker* worker = nullptr;
  BEELINE_RETURN_IF_ERROR(
      library().status(functions().worker_create(context_.get(), &params, &worker), "making a worker", words));
  return std::shared_ptr<UcpWorker>(worker, [this](UcpWorker* own) {
    if (is_own()) functions().worker_destroy(own);
  });
}

Result<Bytes> Engine::contact() {
  {
    const std::lock_guard guard(mutex_);
    if (shown_ != nullptr) return address_;
  }
  BEELINE_ASSIGN(auto worker, make_worker());
  const Words words;
  UcpAddress* address = nullptr;
  std::size_t size = 0;
  BEELINE_RETURN_IF_ERROR(library().status(functions().worker_get_address(worker.get(), &address, &size),
                                           "asking a worker for its address", words));
  const auto* const bytes = reinterpret_cast<const std::byte*>(address);
  const Bytes copy(bytes, bytes + size);
  functions().worker_release_address(worker.get(), address);
  const std::lock_guard guard(mutex_);
  if (shown_ == nullptr) {  // else another thread was quicker
    shown_ = std::move(worker);
    address_ = copy;
  }
  return address_;
}

Result<Bytes> Engine::key(memory::PublicationId id, const RegionSource::Held& held, Access access) {
  if (!held.device.is_host()) return Status(Code::kUnsupported, "the memory is not the host's");
  BEELINE_RETURN_IF_ERROR(open());
  return exposures_.key(id, held, access,
                        [this](std::byte* data, std::uint64_t length) { return expose(data, length); });
}

Result<Exposures::Exposed> Engine::expose(std::byte* data, std::uint64_t length) {
  const Words words;
  const std::string what = "registering " + std::to_string(length) + " bytes";
  UcpMemoryParams params{};
  params.field_mask = UcpMemoryParams::kAddress | UcpMemoryParams::kLength | UcpMemoryParams::kMemoryType;
  params.address = data;
  params.length = length;
  params.memory_type = kHostMemoryType;
  UcpMemory* memory = nullptr;
  BEELINE_RETURN_IF_ERROR(library().status(functions().mem_map(context_.get(), &params, &memory), what, words));
  Exposures::Exposed exposed;
  exposed.handle = {memory, [this](UcpMemory* own) {
                      if (is_own()) (void)functions().mem_unmap(context_.get(), own);
                    }};
  void* packed = nullptr;
  std::size_t size = 0;
  BEELINE_RETURN_IF_ERROR(library().status(functions().rkey_pack(context_.get(), memory, &packed, &size), what, words));
  Writer writer(exposed.key);
  writer.write(reinterpret_cast<std::uintptr_t>(data));
  const auto* const bytes = static_cast<const std::byte*>(packed);
  writer.append({bytes, size});
  functions().rkey_buffer_release(packed);
  return exposed;
}

}  // namespace beeline::transport::ucx
