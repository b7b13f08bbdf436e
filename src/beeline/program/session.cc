#include "beeline/program/session.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "beeline/os/process_limits.h"
#include "beeline/program/pickle.h"
#include "beeline/program/state.h"

namespace beeline::program {

struct Reference::Impl {
  std::shared_ptr<State> home;
  store::Entry* entry = nullptr;
  Impl(std::shared_ptr<State> state, store::Entry* held) : home(std::move(state)), entry(held) {}
  ~Impl() { home->process->drop_hold(*entry); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
};

namespace {

constexpr const char* kQuotaVariable = "BEELINE_ARENA_QUOTA_BYTES";
constexpr auto kEndWithin = std::chrono::seconds(3);

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

Result<std::string> own_program() {
  std::error_code error;
  const auto path = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return Status::from_errno("read /proc/self/exe", error.value());
  return path.string();
}

// Beside this library, where the package or the wheel has put it.
Result<std::string> find_daemon() {
  if (const auto given = variable("BEELINE_DAEMON"); !given.empty()) return given;
  Dl_info info{};
  static const char here = 0;
  std::vector<std::filesystem::path> tried;
  if (::dladdr(&here, &info) != 0 && info.dli_fname != nullptr) {
    std::error_code error;
    const auto folder = std::filesystem::canonical(info.dli_fname, error).parent_path();
    // PREFIX/lib, PREFIX/lib/<architecture>, and beeline/cpp/lib of the wheel.
    tried = {folder / ".." / "libexec" / "beeline" / "beelined",
             folder / ".." / ".." / "libexec" / "beeline" / "beelined", folder / ".." / ".." / "bin" / "beelined"};
    for (const auto& path : tried) {
      if (::access(path.c_str(), X_OK) == 0) return path.lexically_normal().string();
    }
  }
  std::string where;
  for (const auto& path : tried) where += (where.empty() ? "" : ", ") + path.lexically_normal().string();
  return Status(Code::kNotFound,
                "beelined, the node daemon, is not beside libbeeline.so (" + where + "); name it in BEELINE_DAEMON");
}

std::string random_name() {
  std::random_device random;
  char text[33];
  std::snprintf(text, sizeof text, "%08x%08x%08x%08x", random(), random(), random(), random());
  return text;
}

Value text(std::string value) {
  return Value(std::move(value));
}

// What the workers of Python must know of their driver, as beeline.api.session has it.
Result<Bytes> config_of(const std::string& name_space) {
  std::error_code error;
  const auto folder = std::filesystem::current_path(error);
  Dict config;
  config.emplace_back(text("cwd"), text(error ? "/" : folder.string()));
  config.emplace_back(text("sys_path"), Value());  // None: as the interpreter has it
  config.emplace_back(text("namespace"), text(name_space));
  config.emplace_back(text("own_folders"), Value(List{}));
  config.emplace_back(text("prefixes"), Value(List{}));
  config.emplace_back(text("labels"), Value(Dict{}));
  config.emplace_back(text("log_level"), Value(std::int64_t{20}));
  config.emplace_back(text("logging"), Value());
  config.emplace_back(text("driver_pid"), Value(static_cast<std::int64_t>(::getpid())));
  BEELINE_ASSIGN(const auto pickled, pickle(Value(std::move(config))));
  const auto bytes = as_bytes(pickled.skeleton);
  return Bytes(bytes.begin(), bytes.end());
}

Result<std::string> name_space_in(BytesView config) {
  BEELINE_ASSIGN(const auto value, unpickle(as_text(config), {}));
  if (const auto* dict = value.as<Dict>()) {
    for (const auto& [key, item] : *dict) {
      if (key.as<std::string>() != nullptr && *key.as<std::string>() == "namespace") {
        return Convert<std::string>::from(item);
      }
    }
  }
  return Status(Code::kCorrupt, "the session's configuration has no namespace");
}

Result<std::shared_ptr<State>> start(const Options& options) {
  auto state = std::make_shared<State>();
  BEELINE_ASSIGN(state->program, own_program());
  state->name_space = options.name_space.empty() ? random_name() : options.name_space;
  memory::Arena::Options arena;
  arena.quota_bytes = options.object_store_memory != 0 ? options.object_store_memory : runtime::default_quota_bytes();
  runtime::LaunchOptions launch;
  BEELINE_ASSIGN(launch.daemon_path, find_daemon());
  launch.resources = options.resources;
  launch.resources["CPU"] = options.num_cpus.value_or(os::usable_cpus());
  if (options.num_gpus > 0) launch.resources["GPU"] = options.num_gpus;
  launch.resources["memory"] = static_cast<double>(runtime::default_memory_resource());
  launch.resources["node:127.0.0.1"] = 1;
  std::string python = options.python.empty() ? variable("BEELINE_PYTHON") : options.python;
  if (python.empty()) python = "python3";
  launch.zygote_command = {std::move(python), "-P", "-m", "beeline._zygote"};
  launch.zygote_env[kQuotaVariable] = std::to_string(arena.quota_bytes);
  BEELINE_ASSIGN(launch.config, config_of(state->name_space));
  launch.log_to_driver = options.log_to_driver;
  BEELINE_ASSIGN(state->process, runtime::Process::launch(std::move(launch), arena));
  state->attach();
  return state;
}

// In a worker: serves, and ends the process.
Status serve(const std::string& token) {
  ::unsetenv(runtime::kWorkerTokenVariable);  // what this worker starts is no worker
  const auto session = variable(runtime::kSessionVariable);
  const auto quota = std::strtoull(variable(kQuotaVariable).c_str(), nullptr, 10);
  auto state = std::make_shared<State>();
  BEELINE_ASSIGN(state->program, own_program());
  BEELINE_ASSIGN(state->process,
                 runtime::Process::join_as_worker(session, std::strtoull(token.c_str(), nullptr, 10), [&](BytesView) {
                   memory::Arena::Options arena;
                   arena.quota_bytes = quota;
                   return arena;
                 }));
  // A driver in Python may have put more there than plain values: get_actor() wants a namespace then.
  if (auto found = name_space_in(state->process->registered().config)) state->name_space = std::move(*found);
  state->attach();
  State::set_current(state);
  state->serve();
  state->process->stop();
  State::set_current(nullptr);
  std::fflush(nullptr);
  std::_Exit(0);  // destructors of the program's own statics do not know of a session that has ended
}

}  // namespace

Status init(Options options) {
  if (const auto token = variable(runtime::kWorkerTokenVariable); !token.empty()) {
    const auto status = serve(token);
    std::fprintf(stderr, "beeline: a worker cannot join its session: %s\n", status.message().c_str());
    std::_Exit(1);
  }
  if (State::current()) return {Code::kAlreadyExists, "a session runs already: call beeline::shutdown() first"};
  auto state = start(options);
  if (!state) return state.status().with_context("init");
  State::set_current(std::move(*state));
  return {};
}

void shutdown() {
  const auto state = State::current();
  if (!state) return;
  State::set_current(nullptr);
  (*state)->process->stop();
  if ((*state)->process->is_driver()) {
    (void)runtime::wait_session_end((*state)->process->daemon_pid(), Deadline::after(kEndWithin));
  }
}

bool is_initialized() {
  const auto state = State::current();
  return state && !(*state)->process->session_error();
}

bool Reference::is_ready() const {
  return impl_ != nullptr && impl_->home->process->ready(*impl_->entry);
}

Reference State::adopt(store::Entry& held) {
  return Reference(std::make_shared<Reference::Impl>(shared_from_this(), &held));
}
store::Entry* State::entry_of(const Reference& reference) {
  return reference.impl_->entry;
}
std::shared_ptr<State> State::home_of(const Reference& reference) {
  return reference.impl_->home;
}

Result<api::Tensor> empty(std::vector<std::int64_t> shape, api::DType dtype) {
  BEELINE_ASSIGN(const auto state, State::current());
  api::Tensor tensor{nullptr, dtype, std::move(shape), {}, nullptr};
  std::shared_ptr<memory::Arena> arena;
  {
    const runtime::Locked locked(state->process->lock());
    arena = state->process->arena();
  }
  if (!arena) return Status(Code::kShutdown, "the session has ended");
  BEELINE_ASSIGN(tensor.data, arena->allocate(std::max<std::size_t>(tensor.bytes(), 1)));
  tensor.memory =
      std::shared_ptr<void>(tensor.data, [arena](void* block) { arena->release(static_cast<std::byte*>(block)); });
  return tensor;
}

Result<Reference> put_value(const Value& value) {
  BEELINE_ASSIGN(const auto state, State::current());
  BEELINE_ASSIGN(auto payload, state->to_payload(value, runtime::Mode::kStored));
  return state->adopt(*state->process->put(std::move(payload), nullptr));
}

Result<Value> get_value(const Reference& reference, api::Timeout timeout) {
  if (reference.is_nil()) return Status(Code::kInvalidArgument, "get: a nil reference");
  const auto deadline = timeout ? Deadline::after(*timeout) : Deadline::never();
  return State::home_of(reference)->value_of(*State::entry_of(reference), deadline);
}

Result<std::vector<bool>> wait_for(const std::vector<Reference>& references, std::size_t count, api::Timeout timeout) {
  BEELINE_ASSIGN(const auto state, State::current());
  std::vector<store::Entry*> entries;
  for (const auto& reference : references) {
    if (reference.is_nil()) return Status(Code::kInvalidArgument, "wait: a nil reference");
    entries.push_back(State::entry_of(reference));
  }
  if (count > entries.size()) {
    return Status(Code::kInvalidArgument, "wait: " + std::to_string(count) + " of " + std::to_string(entries.size()) +
                                              " references cannot become ready");
  }
  const auto deadline = timeout ? Deadline::after(*timeout) : Deadline::never();
  while (state->process->wait(entries, count, deadline) == runtime::WaitOutcome::kInterrupted) {
  }
  std::vector<bool> ready;
  for (store::Entry* entry : entries) ready.push_back(state->process->ready(*entry));
  return ready;
}

}  // namespace beeline::program
