// A driver's side of a whole session: launches it, calls workers of behaviour.h, waits for what comes.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "beeline/runtime/process.h"
#include "patience.h"
#include "session/behaviour.h"
#include "short_form.h"

namespace beeline::runtime::session {

class SessionTest : public ::testing::Test {
 protected:
  using Entry = store::Entry;
  struct Actor {
    ActorTarget* target = nullptr;
    ActorId id = 0;
    Entry* life = nullptr;
  };

  void SetUp() override {
    char place[] = "/tmp/bsessXXXXXX";
    ASSERT_NE(::mkdtemp(place), nullptr);
    place_ = place;
    ::setenv("BEELINE_TMPDIR", place, 1);
    LaunchOptions options;
    options.daemon_path = BEELINE_NODE_PATH;
    options.resources = {{"CPU", 3}};
    options.zygote_command = {SESSION_ZYGOTE_PATH};
    options.log_to_driver = true;
    memory::Arena::Options arena;
    arena.capacity_bytes = 256u << 20;
    auto process = Process::launch(options, arena);
    ASSERT_TRUE(process.is_ok()) << process.status().message();
    process_ = std::move(*process);
    define_functions(*process_);
  }
  void TearDown() override {
    if (process_) {
      const pid_t daemon = process_->daemon_pid();
      process_->stop();
      EXPECT_TRUE(wait_session_end(daemon, Deadline::after(kPatience)).is_ok());
    }
    std::error_code ignored;
    std::filesystem::remove_all(place_, ignored);
  }

  Actor create(std::int32_t max_restarts = 0) {
    control::CreateActor request;
    request.class_name = "Tested";
    request.max_restarts = max_restarts;
    auto made = process_->create_actor(std::move(request), numbers({}), {}, "", {}, false);
    EXPECT_TRUE(made.is_ok()) << made.status().message();
    return {&process_->actor(made->id), made->id, made->life};
  }
  Entry* call(const Actor& actor, const std::string& method, store::PayloadPtr args,
              const std::vector<Entry*>& dependencies = {}, std::int32_t retries = 0, std::uint8_t flags = 0) {
    CallOptions options;
    options.name = process_->intern(method);
    options.method = options.name;
    options.retries = retries;
    options.flags = flags;
    return process_->call_actor(*actor.target, options, std::move(args), dependencies).at(0);
  }
  Entry* call(const std::string& function, store::PayloadPtr args, const std::vector<Entry*>& dependencies = {},
              std::int32_t retries = 0) {
    CallOptions options;
    options.name = process_->intern(function);
    options.function = key_of(function);
    options.retries = retries;
    options.flags = kCallRetryExceptions;
    return process_
        ->call_function(process_->shape({{"CPU", 1}}, false, {}, {}, function), options, std::move(args), dependencies)
        .at(0);
  }
  Entry* put(std::int64_t value) { return process_->put(numbers({value}), nullptr); }

  // Waits for the entry's value, and fails the test when none comes.
  store::PayloadPtr get(Entry* entry) {
    Entry* const one[] = {entry};
    const auto deadline = Deadline::after(kPatience);
    store::PayloadPtr payload;
    do {  // again if it is lost in between
      EXPECT_EQ(process_->wait(one, 1, deadline), WaitOutcome::kDone) << pending();
      payload = process_->payload(*entry);
    } while (!payload && !deadline.passed());
    EXPECT_NE(payload, nullptr) << "no end of " << (entry->name != nullptr ? *entry->name : "an object") << "\n"
                                << pending();
    return payload;
  }
  std::int64_t number(Entry* entry) {
    const auto payload = get(entry);
    if (!payload) return -1;
    if (payload->is_error()) {
      ADD_FAILURE() << payload->failure->message;
      return -1;
    }
    return numbers_of(*payload).at(0);
  }
  store::ErrorKind error(Entry* entry) {
    const auto payload = get(entry);
    return payload && payload->is_error() ? payload->failure->kind : store::ErrorKind::kNone;
  }
  // What this process waits for, a line each.
  std::string pending() {
    std::ostringstream out;
    const auto write_id = [&](const store::ObjectId& id) {
      out << " " << id.owner << "/" << std::hex << id.serial << std::dec;
    };
    const Locked locked(process_->lock());
    process_->objects().for_each([&](Entry& entry) {
      if (entry.ready() || entry.id.kind != store::ObjectKind::kValue) return;
      write_id(entry.id);
      out << " " << (entry.name != nullptr ? *entry.name : "foreign") << (entry.subscribed ? " subscribed" : "");
      if (const auto* made_by = static_cast<OutgoingCall*>(entry.producer)) {
        out << " sent to " << made_by->sent_to << " attempt " << made_by->attempt << " forwards "
            << made_by->forwards.size();
        if (made_by->shape != nullptr) {
          out << " queued " << made_by->shape->queued.size() << " leases " << made_by->shape->leases.size() << " asked "
              << made_by->shape->requested.size();
        }
        for (const auto* dependency : made_by->dependencies) {
          out << (dependency->ready() ? " has" : " needs");
          write_id(dependency->id);
        }
        for (const auto& ref : made_by->args->refs) {
          out << " inside";
          write_id(ref);
        }
      }
      out << "\n";
    });
    return out.str();
  }
  void drop(Entry* entry) { process_->drop_hold(*entry); }
  pid_t pid_of(const Actor& actor) { return process_->actor_state(actor.id).pid; }

  // Own and foreign objects of this process once messages that are under way have arrived.
  store::ObjectTable::Stats counts() {
    const Locked locked(process_->lock());
    return process_->objects().stats();
  }
  template <typename Holds>
  bool eventually(Holds&& holds) {
    const auto deadline = Deadline::after(kPatience);
    while (!holds()) {
      if (deadline.passed()) return false;
      ::usleep(500);
    }
    return true;
  }

  std::string place_;
  std::unique_ptr<Process> process_;
};

}  // namespace beeline::runtime::session
