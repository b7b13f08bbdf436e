// A driver and workers as tests play them against a real beelined. The workers are Python processes of a fake zygote
// (node_fake_zygote.py) that answer by a small protocol of their own; see there.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "beeline/os/process.h"
#include "beeline/runtime/launch.h"
#include "patience.h"

namespace beeline::runtime::node {

// A place of its own for the sessions of one test, so that "nothing is left" can be checked.
class SessionPlace {
 public:
  SessionPlace() {
    char path[] = "/tmp/bnodeXXXXXX";
    path_ = ::mkdtemp(path);
    ::setenv("BEELINE_TMPDIR", path, 1);
  }
  ~SessionPlace() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  SessionPlace(const SessionPlace&) = delete;
  SessionPlace& operator=(const SessionPlace&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// One registered connection: sends messages, waits for those of one type and keeps the others for later.
class Client {
 public:
  explicit Client(Session session) : session_(std::move(session)) {}

  template <typename Message>
  void send(control::Type type, const Message& message) {
    const auto status = session_.socket.send(control::encode(type, message));
    if (!status.is_ok()) throw std::runtime_error(status.message());
  }

  // The next message of this type that `matches`; throws when none comes.
  template <typename Message>
  Message expect(control::Type type, const std::function<bool(const Message&)>& matches = nullptr) {
    const auto deadline = Deadline::after(kPatience);
    for (std::size_t at = 0;; ++at) {
      while (at >= inbox_.size()) {
        os::Frame frame;
        const auto status = session_.socket.receive_within(frame, deadline);
        if (!status.is_ok()) {
          throw std::runtime_error("waiting for message type " + std::to_string(static_cast<int>(type)) + ": " +
                                   status.message());
        }
        inbox_.push_back(std::move(frame.bytes));
      }
      if (*control::type_of(inbox_[at]) != type) continue;
      auto message = control::decode<Message>(inbox_[at]);
      if (!message.is_ok()) throw std::runtime_error(message.status().message());
      if (matches && !matches(message.value())) continue;
      inbox_.erase(inbox_.begin() + static_cast<std::ptrdiff_t>(at));
      return std::move(message).value();
    }
  }

  control::ActorUpdate expect_state(ActorId actor, control::ActorState state) {
    return expect<control::ActorUpdate>(control::Type::kActorUpdate, [=](const control::ActorUpdate& update) {
      return update.actor == actor && update.state == static_cast<std::uint8_t>(state);
    });
  }

  control::State state() {
    send(control::Type::kGetState, control::GetState{++requests_, 0, 0, 0});
    return expect<control::State>(control::Type::kState);
  }
  // Asks until `holds`: for what the daemon does without telling.
  control::State state_when(const std::function<bool(const control::State&)>& holds) {
    const auto deadline = Deadline::after(kPatience);
    for (;;) {
      auto now = state();
      if (holds(now)) return now;
      if (deadline.passed()) throw std::runtime_error("the daemon does not come to the expected state");
      ::usleep(2000);
    }
  }

  ActorId new_actor() { return (static_cast<ActorId>(index()) << 32) | ++actors_; }
  // Creates an actor whose fake worker does what `spec` says.
  ActorId create(const std::string& spec, const std::function<void(control::CreateActor&)>& change = nullptr) {
    control::CreateActor create;
    create.request = ++requests_;
    create.actor = new_actor();
    create.class_name = "Fake";
    create.spec = bytes_of(spec);
    if (change) change(create);
    send(control::Type::kCreateActor, create);
    return create.actor;
  }

  static Bytes bytes_of(const std::string& text) {
    const auto view = as_bytes(text);
    return {view.begin(), view.end()};
  }

  [[nodiscard]] ProcessIndex index() const { return session_.registered.index; }
  [[nodiscard]] const std::string& dir() const { return session_.registered.session_dir; }
  [[nodiscard]] pid_t daemon() const { return session_.daemon_pid; }
  [[nodiscard]] os::FrameSocket& socket() { return session_.socket; }

 private:
  Session session_;
  std::vector<Bytes> inbox_;
  std::uint64_t requests_ = 0;
  std::uint64_t actors_ = 0;
};

inline LaunchOptions fake_options() {
  LaunchOptions options;
  options.daemon_path = BEELINE_NODE_PATH;
  options.resources = {{"CPU", 4}, {"GPU", 2}, {"custom", 1}};
  options.zygote_command = {"python3", BEELINE_SOURCE_FOLDER "/tests/cpp/runtime/node_fake_zygote.py"};
  options.config = Client::bytes_of("opaque");
  return options;
}

inline Client launch(LaunchOptions options = fake_options()) {
  auto session = launch_session(std::move(options));
  if (!session.is_ok()) throw std::runtime_error(session.status().message());
  return Client(std::move(session).value());
}

// Living processes that were started in the session (not those that only wait to be reaped).
inline std::vector<pid_t> processes_of(const std::string& session_dir) {
  std::vector<pid_t> found;
  for (const auto& process : os::list_processes()) {
    if (process.state == 'Z') continue;
    if (os::environment_of(process.pid, kSessionVariable) == session_dir) found.push_back(process.pid);
  }
  return found;
}

// How long until nothing of the session is left; more than kPatience when something stays.
inline Nanos time_until_nothing_is_left(const std::string& session_dir) {
  const auto start = Clock::now();
  while (Clock::now() - start < kPatience) {
    if (!std::filesystem::exists(session_dir) && processes_of(session_dir).empty()) break;
    ::usleep(5000);
  }
  return Clock::now() - start;
}

// A session to itself for each test; at its end nothing may be left of it.
class NodeFixture : public ::testing::Test {
 protected:
  void TearDown() override {
    for (const auto& dir : dirs_) EXPECT_LT(time_until_nothing_is_left(dir), kPatience) << "left over: " << dir;
  }
  Client start(LaunchOptions options = fake_options()) {
    auto client = launch(std::move(options));
    dirs_.push_back(client.dir());
    return client;
  }
  SessionPlace place_;
  std::vector<std::string> dirs_;
};

}  // namespace beeline::runtime::node
