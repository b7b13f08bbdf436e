// Environments and jobs as the clients of beelined see them: a real daemon, fake zygotes, and something that makes no
// virtual environments (node_fake_venv.py).
#include <gtest/gtest.h>

#include <fstream>

#include "runtime/node_client.h"

namespace beeline::runtime::node {
namespace {

using control::ActorState;
using control::DeathCause;
using control::Type;

class NodeEnvironmentTest : public NodeFixture {
 protected:
  LaunchOptions options() {
    auto options = fake_options();
    options.venv_command = {"python3", BEELINE_SOURCE_FOLDER "/tests/cpp/runtime/node_fake_venv.py"};
    return options;
  }
  Variables env(const std::string& what, const std::string& name = "one", int seconds = 600) const {
    return {{"FAKE_VENV", what}, {"FAKE_VENV_LOG", log_}, {kVenvVariable, name + " " + std::to_string(seconds)}};
  }
  std::vector<std::string> started() const {
    std::vector<std::string> lines;
    std::ifstream file(log_);
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
  }
  static ActorId create(Client& client, const Variables& env) {
    return client.create("ready", [&](control::CreateActor& create) { create.env = env; });
  }
  static std::vector<std::string> zygotes(Client& client) {
    std::vector<std::string> found;
    for (const auto& row : client.state().processes) {
      if (row.what.find("zygote") != std::string::npos) found.push_back(row.what);
    }
    return found;
  }

  std::string log_ = place_.path() + "/started";
};

TEST_F(NodeEnvironmentTest, OneIsMadeForAllWhoWait) {
  auto driver = start(options());
  std::vector<ActorId> actors;
  for (int i = 0; i < 3; ++i) actors.push_back(create(driver, env("made")));
  for (const ActorId actor : actors) driver.expect_state(actor, ActorState::kAlive);
  driver.expect_state(create(driver, env("made")), ActorState::kAlive);
  EXPECT_EQ(started(), std::vector<std::string>{"one 600"});
  EXPECT_EQ(zygotes(driver), (std::vector<std::string>{"zygote", "zygote of one"}));
  driver.expect_state(create(driver, env("made", "two")), ActorState::kAlive);
  EXPECT_EQ(started().size(), 2u);
  EXPECT_EQ(driver.state().counters.at("environments_made"), 2u);
}

TEST_F(NodeEnvironmentTest, WhoeverWaitsForOneThatCannotBeMadeIsToldWhy) {
  auto driver = start(options());
  const auto dead = driver.expect_state(create(driver, env("fail")), ActorState::kDead);
  EXPECT_EQ(static_cast<DeathCause>(dead.cause), DeathCause::kNoEnvironment);
  EXPECT_NE(dead.message.find("there is no such package"), std::string::npos) << dead.message;
  control::RequestLease request;
  request.lease = 1;
  request.resources = {{"CPU", 1}};
  request.env = env("fail");
  driver.send(Type::kRequestLease, request);
  const auto failed = driver.expect<control::LeaseFailed>(Type::kLeaseFailed);
  EXPECT_EQ(static_cast<Code>(failed.code), Code::kUnsupported);
  EXPECT_EQ(started().size(), 2u);  // each who asks later has it tried again
  EXPECT_EQ(driver.state().counters.at("environment_failures"), 2u);
  driver.expect_state(driver.create("ready"), ActorState::kAlive);  // others are not concerned
}

TEST_F(NodeEnvironmentTest, WhatMakesOneIsKilledAndTheNextTriesAgain) {
  auto driver = start(options());
  const auto dead = driver.expect_state(create(driver, env("die")), ActorState::kDead);
  EXPECT_EQ(static_cast<DeathCause>(dead.cause), DeathCause::kNoEnvironment);
  EXPECT_NE(dead.message.find("signal 9"), std::string::npos) << dead.message;
  EXPECT_NE(dead.message.find("about to die"), std::string::npos) << dead.message;
  driver.expect_state(create(driver, env("made")), ActorState::kAlive);
}

TEST_F(NodeEnvironmentTest, ASessionThatEndsMeanwhileEndsWhatMakesOne) {
  auto driver = start(options());
  create(driver, env("wait"));
  driver.expect<control::LogLines>(Type::kLogLines, [](const auto& lines) { return lines.text == "waits\n"; });
  driver.send(Type::kShutdown, control::Empty{});  // TearDown: nothing is left
}

TEST_F(NodeEnvironmentTest, ASessionThatMakesNoneSaysSo) {
  auto driver = start();
  const auto dead = driver.expect_state(create(driver, env("made")), ActorState::kDead);
  EXPECT_EQ(static_cast<DeathCause>(dead.cause), DeathCause::kNoEnvironment);
}

TEST_F(NodeEnvironmentTest, ACommandOfItsOwnStartsTheWorker) {
  auto driver = start();
  const auto pid_of = [&](const std::string& command) {
    return driver.expect_state(create(driver, {{kPyExecutableVariable, command}}), ActorState::kAlive).pid;
  };
  EXPECT_GT(pid_of("python3"), 0);
  // One that runs the interpreter in a process of its own: the worker is that process.
  const auto pid = pid_of("sh\n-c\npython3 \"$@\"; exit $?\nsh");
  std::ifstream command("/proc/" + std::to_string(pid) + "/comm");
  std::string name;
  std::getline(command, name);
  EXPECT_EQ(name.substr(0, 6), "python");
  const auto dead =
      driver.expect_state(create(driver, {{kPyExecutableVariable, "/no/such/python"}}), ActorState::kDead);
  EXPECT_EQ(static_cast<DeathCause>(dead.cause), DeathCause::kNoEnvironment);
  EXPECT_NE(dead.message.find("/no/such/python"), std::string::npos) << dead.message;
}

TEST_F(NodeEnvironmentTest, AWorkerIsReadyBeforeAnybodyAsks) {
  auto driver = start(options());
  driver.send(Type::kPrestart, control::Prestart{env("made")});
  driver.state_when([](const control::State& state) {
    return std::any_of(state.processes.begin(), state.processes.end(),
                       [](const control::ProcessRow& row) { return row.what == "idle"; });
  });
  driver.send(Type::kPrestart, control::Prestart{env("fail", "two")});
  driver.state_when([](const control::State& state) { return state.counters.at("environment_failures") == 1; });
}

class NodeJobTest : public NodeFixture {
 protected:
  Client join(const std::string& dir, const std::string& config) {
    auto session = join_session(dir, control::ProcessKind::kDriver, {Client::bytes_of(config), true});
    if (!session.is_ok()) throw std::runtime_error(session.status().message());
    return Client(std::move(session).value());
  }
};

TEST_F(NodeJobTest, EachDriverHasAJobAndItsWorkersAreItsOwn) {
  auto first = start();
  auto session = join_session(first.dir(), control::ProcessKind::kDriver, {Client::bytes_of("second"), true});
  ASSERT_TRUE(session.is_ok());
  EXPECT_EQ(session->registered.job, 2u);
  EXPECT_EQ(session->registered.config, Client::bytes_of("second"));
  EXPECT_EQ(session->daemon_pid, first.daemon());
  Client second(std::move(session).value());
  first.expect_state(first.create("ready print:of-the-first"), ActorState::kAlive);
  second.expect_state(second.create("ready print:of-the-second"), ActorState::kAlive);
  EXPECT_EQ(second.expect<control::LogLines>(Type::kLogLines).text, "of-the-second\n");
  EXPECT_EQ(first.expect<control::LogLines>(Type::kLogLines).text, "of-the-first\n");
}

TEST_F(NodeJobTest, TheEndOfADriverEndsWhatIsItsOwn) {
  auto first = start();
  const ActorId of_first = first.create("ready");
  first.expect_state(of_first, ActorState::kAlive);
  ActorId detached = 0;
  {
    auto second = join(first.dir(), "second");
    second.expect_state(second.create("ready"), ActorState::kAlive);
    detached = second.create("ready", [](control::CreateActor& create) {
      create.detached = true;
      create.max_restarts = 1;
    });
    second.expect_state(detached, ActorState::kAlive);
  }
  first.state_when([](const control::State& state) {
    return std::count_if(state.actors.begin(), state.actors.end(), [](const control::ActorRow& row) {
             return row.state == static_cast<std::uint8_t>(ActorState::kAlive);
           }) == 2;
  });
  // What stays of its job is restarted as part of it.
  first.send(Type::kWatchActor, control::WatchActor{detached});
  const auto alive = first.expect_state(detached, ActorState::kAlive);
  ASSERT_EQ(::kill(alive.pid, SIGKILL), 0);
  EXPECT_EQ(first
                .expect<control::ActorUpdate>(Type::kActorUpdate,
                                              [&](const control::ActorUpdate& update) {
                                                return update.actor == detached && update.incarnation == 1 &&
                                                       update.state == static_cast<std::uint8_t>(ActorState::kAlive);
                                              })
                .restarts_left,
            0);
  first.send(Type::kKillActor, control::KillActor{detached, true, static_cast<std::uint8_t>(DeathCause::kKilled)});
}

TEST_F(NodeJobTest, ALastingSessionWaitsForDriversUntilAToolEndsIt) {
  auto options = fake_options();
  options.lasting = true;
  auto launched = launch_session(std::move(options));
  ASSERT_TRUE(launched.is_ok()) << launched.status().message();
  const std::string dir = launched->registered.session_dir;
  dirs_.push_back(dir);
  EXPECT_TRUE(std::filesystem::exists(dir + "/" + kLastingFile));
  launched->socket.close();
  for (const char* config : {"one", "two"}) {
    auto driver = join(dir, config);
    driver.expect_state(driver.create("ready"), ActorState::kAlive);
  }
  EXPECT_TRUE(stop_session(dir, Deadline::after(kPatience)).is_ok());
  EXPECT_TRUE(wait_session_end(launched->daemon_pid, Deadline::after(kPatience)).is_ok());
}

}  // namespace
}  // namespace beeline::runtime::node
