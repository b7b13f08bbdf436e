// Processes of a session whose daemon and user code are the test: it decides what each is told, and when.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "beeline/runtime/process.h"
#include "patience.h"
#include "session/behaviour.h"

namespace beeline::runtime::session {

class ScriptedTest : public ::testing::Test {
 protected:
  using Entry = store::Entry;

  void SetUp() override {
    char place[] = "/tmp/bsessXXXXXX";
    ASSERT_NE(::mkdtemp(place), nullptr);
    dir_ = place;
    auto listener = os::listen_unix(dir_ + "/daemon.sock");
    ASSERT_TRUE(listener.is_ok()) << listener.status().message();
    listener_ = std::move(*listener);
  }
  void TearDown() override {
    // Before their connections: a worker that loses its daemon ends its process.
    for (auto& [index, member] : members_) member.process->stop();
    members_.clear();
    ended_.clear();
    std::error_code ignored;
    std::filesystem::remove_all(dir_, ignored);
  }

  // Another process of the session.
  Process& join() {
    auto joining = std::async(std::launch::async, [this] {
      return Process::join_as_worker(dir_, 1, [](BytesView) {
        memory::Arena::Options options;
        options.capacity_bytes = 64u << 20;
        return options;
      });
    });
    pollfd caller{listener_.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&caller, 1, 20'000), 1) << "nobody connects";
    os::FrameSocket socket(std::move(*os::accept_unix(listener_.get())));
    os::Frame frame;
    EXPECT_TRUE(socket.receive_within(frame, Deadline::after(kPatience)).is_ok());
    const auto index = static_cast<ProcessIndex>(members_.size() + 1);
    auto links = os::listen_unix(control::link_socket(dir_, index));
    EXPECT_TRUE(
        socket
            .send(control::encode(control::Type::kRegistered, control::Registered{index, "test", dir_, {}, 0, {}, 0}),
                  {links->get()})
            .is_ok());
    auto& member = members_[index];
    member.daemon = std::move(socket);
    member.process = std::move(*joining.get());
    return *member.process;
  }
  // Its end, as others see it. A process that exits retires nothing: what it stored stays for its owners to copy.
  void end(Process& process) {
    ended_.push_back(std::move(members_.extract(process.self()).mapped()));
    ::unlink(control::link_socket(dir_, process.self()).c_str());
    process.stop();
  }

  template <typename Message>
  void tell(Process& process, control::Type type, const Message& message) {
    EXPECT_TRUE(members_.at(process.self()).daemon.send(control::encode(type, message)).is_ok());
  }
  // The next message of this type that the process sends to its daemon.
  template <typename Message>
  Message hear(Process& process, control::Type type) {
    for (;;) {
      os::Frame frame;
      const auto status = members_.at(process.self()).daemon.receive_within(frame, Deadline::after(kPatience));
      if (!status.is_ok()) {
        ADD_FAILURE() << "no message of type " << static_cast<int>(type) << ": " << status.message();
        return {};
      }
      if (*control::type_of(frame.bytes) == type) return *control::decode<Message>(frame.bytes);
    }
  }

  // A function; its worker is told by the test what to make of it.
  static Entry* call(Process& caller, store::PayloadPtr args, const std::vector<Entry*>& dependencies = {},
                     std::int32_t retries = 0) {
    CallOptions options;
    options.name = caller.intern("scripted");
    options.retries = retries;
    auto& shape = caller.shape({{"CPU", 1}}, false, {}, {}, "scripted");
    return caller.call_function(shape, options, std::move(args), dependencies).at(0);
  }
  // Answers the next request of the lessee, and lets the worker know or not.
  LeaseId grant(Process& lessee, Process& worker, bool assign = true) {
    const auto request = hear<control::RequestLease>(lessee, control::Type::kRequestLease);
    if (assign) this->assign(lessee, worker, request.lease);
    tell(lessee, control::Type::kLeaseGranted, control::LeaseGranted{request.lease, worker.self(), ::getpid()});
    return request.lease;
  }
  void assign(Process& lessee, Process& worker, LeaseId lease) {
    tell(worker, control::Type::kAssignLease, control::AssignLease{lessee.self(), lease, {}, {}, {}});
  }
  // The next call that the process may run; nullptr (and a failure) if there is none.
  IncomingCall* take(Process& worker) {
    for (;;) {
      IncomingCall* call = nullptr;
      switch (worker.next_call(worker.assignment().version, call, Deadline::after(kPatience))) {
        case Process::Next::kCall:
          return call;
        case Process::Next::kAssigned:
          continue;
        default:
          ADD_FAILURE() << "process " << worker.self() << " has nothing to run";
          return nullptr;
      }
    }
  }
  // The lessee's next request goes to that worker, which answers the call that comes with it.
  void serve(Process& lessee, Process& worker, Entry* result, std::int64_t value) {
    grant(lessee, worker);
    IncomingCall* running = take(worker);
    ASSERT_NE(running, nullptr);
    EXPECT_EQ(running->header.attempt, 0u) << "it had been sent to nobody";
    worker.finish(*running, {numbers({value})}, false);
    EXPECT_EQ(numbers_of(*get(lessee, result)).at(0), value);
  }
  store::PayloadPtr get(Process& process, Entry* entry) {
    Entry* const one[] = {entry};
    EXPECT_EQ(process.wait(one, 1, Deadline::after(kPatience)), WaitOutcome::kDone);
    return process.payload(*entry);
  }
  store::ErrorKind error(Process& process, Entry* entry) {
    const auto payload = get(process, entry);
    return payload->is_error() ? payload->failure->kind : store::ErrorKind::kNone;
  }
  // Waits for what comes without telling; `holds` is asked with the state lock held.
  template <typename Holds>
  bool eventually(Process& process, Holds&& holds) {
    const auto deadline = Deadline::after(kPatience);
    for (;;) {
      {
        const Locked locked(process.lock());
        if (holds()) return true;
      }
      if (deadline.passed()) return false;
      ::usleep(200);
    }
  }

  struct Member {
    os::FrameSocket daemon;  // outlives the process
    std::unique_ptr<Process> process;
  };
  std::string dir_;
  os::Fd listener_;
  std::map<ProcessIndex, Member> members_;
  std::vector<Member> ended_;
};

}  // namespace beeline::runtime::session
