// beelined as its clients see it: a real daemon process, a fake zygote.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>

#include <set>

#include "runtime/node_client.h"

namespace beeline::runtime::node {
namespace {

using control::ActorState;
using control::DeathCause;
using control::Type;

class NodeTest : public NodeFixture {};

control::LeaseGranted lease(Client& client, LeaseId number, const Resources& resources) {
  control::RequestLease request;
  request.lease = number;
  request.resources = resources;
  request.function_name = "work";
  client.send(Type::kRequestLease, request);
  return client.expect<control::LeaseGranted>(
      Type::kLeaseGranted, [=](const control::LeaseGranted& granted) { return granted.lease == number; });
}

TEST_F(NodeTest, TheDriverIsTheFirstProcessAndGetsTheConfigBack) {
  auto driver = start();
  EXPECT_EQ(driver.index(), 1u);
  EXPECT_TRUE(std::filesystem::exists(driver.dir() + "/daemon.sock"));
  EXPECT_EQ(std::filesystem::status(driver.dir()).permissions(), std::filesystem::perms::owner_all);
  auto tool = join_session(driver.dir(), control::ProcessKind::kTool);
  ASSERT_TRUE(tool.is_ok()) << tool.status().message();
  EXPECT_EQ(tool->registered.index, 2u);
  EXPECT_EQ(tool->registered.config, Client::bytes_of("opaque"));
}

TEST_F(NodeTest, AnActorStartsBecomesAliveAndIsKilled) {
  auto driver = start();
  const ActorId actor = driver.create("ready");
  EXPECT_EQ(driver.expect<control::Reply>(Type::kReply).code, 0);
  const auto starting = driver.expect_state(actor, ActorState::kStarting);
  EXPECT_NE(starting.process, 0u);
  EXPECT_GT(starting.pid, 0);
  const auto alive = driver.expect_state(actor, ActorState::kAlive);
  EXPECT_EQ(alive.process, starting.process);
  driver.send(Type::kKillActor, control::KillActor{actor, true, static_cast<std::uint8_t>(DeathCause::kKilled)});
  const auto dead = driver.expect_state(actor, ActorState::kDead);
  EXPECT_EQ(static_cast<DeathCause>(dead.cause), DeathCause::kKilled);
  // Its worker has ended with it.
  driver.state_when([](const control::State& state) {
    return std::none_of(state.processes.begin(), state.processes.end(),
                        [](const control::ProcessRow& row) { return row.what == "actor Fake"; });
  });
}

TEST_F(NodeTest, AnActorThatDiesIsRestartedAsOftenAsItMayBe) {
  auto driver = start();
  const ActorId actor = driver.create("ready", [](control::CreateActor& create) { create.max_restarts = 2; });
  for (std::uint32_t incarnation = 0; incarnation <= 2; ++incarnation) {
    const auto alive = driver.expect_state(actor, ActorState::kAlive);
    EXPECT_EQ(alive.incarnation, incarnation);
    EXPECT_EQ(alive.restarts_left, static_cast<std::int32_t>(2 - incarnation));
    ASSERT_EQ(::kill(alive.pid, SIGKILL), 0);
    if (incarnation < 2) {
      EXPECT_NE(driver.expect_state(actor, ActorState::kRestarting).message.find("killed by signal 9 (SIGKILL)"),
                std::string::npos);
    }
  }
  const auto dead = driver.expect_state(actor, ActorState::kDead);
  EXPECT_EQ(static_cast<DeathCause>(dead.cause), DeathCause::kWorkerDied);
  EXPECT_NE(dead.message.find("killed by signal 9 (SIGKILL)"), std::string::npos) << dead.message;
  EXPECT_NE(dead.message.find("max_restarts=2"), std::string::npos) << dead.message;
}

TEST_F(NodeTest, KillWithRestartRestarts) {
  auto driver = start();
  const ActorId actor = driver.create("ready", [](control::CreateActor& create) { create.max_restarts = -1; });
  driver.expect_state(actor, ActorState::kAlive);
  driver.send(Type::kKillActor, control::KillActor{actor, false, static_cast<std::uint8_t>(DeathCause::kKilled)});
  EXPECT_EQ(driver.expect_state(actor, ActorState::kAlive).incarnation, 1u);
}

TEST_F(NodeTest, TheEndOfAnActorSaysWhy) {
  auto driver = start();
  const auto dead_of = [&](const std::string& spec) {
    return driver.expect_state(driver.create(spec), ActorState::kDead);
  };
  const auto exited = dead_of("ready exit:5");
  EXPECT_EQ(static_cast<DeathCause>(exited.cause), DeathCause::kWorkerDied);
  EXPECT_EQ(exited.message, "exit code 5");
  const auto failed = dead_of("fail");
  EXPECT_EQ(static_cast<DeathCause>(failed.cause), DeathCause::kInitFailed);
  EXPECT_EQ(failed.error, Client::bytes_of("pickled"));
  EXPECT_EQ(static_cast<DeathCause>(dead_of("ready leave").cause), DeathCause::kExited);
}

TEST_F(NodeTest, NamesAreUniqueWithinANamespaceAndFreedAtDeath) {
  auto driver = start();
  const auto named = [](const std::string& name_space) {
    return [=](control::CreateActor& create) {
      create.name = "counter";
      create.name_space = name_space;
      create.handle_meta = Client::bytes_of("meta");
    };
  };
  const ActorId first = driver.create("ready", named("a"));
  EXPECT_EQ(driver.expect<control::Reply>(Type::kReply).code, 0);
  const ActorId second = driver.create("ready", named("a"));
  EXPECT_EQ(static_cast<Code>(driver.expect<control::Reply>(Type::kReply).code), Code::kAlreadyExists);
  driver.expect_state(second, ActorState::kDead);
  driver.create("ready", named("b"));
  EXPECT_EQ(driver.expect<control::Reply>(Type::kReply).code, 0);
  driver.send(Type::kLookupActor, control::LookupActor{7, "counter", "a"});
  const auto info = driver.expect<control::ActorInfo>(Type::kActorInfo);
  EXPECT_EQ(info.actor, first);
  EXPECT_EQ(info.handle_meta, Client::bytes_of("meta"));
  driver.send(Type::kKillActor, control::KillActor{first, true, static_cast<std::uint8_t>(DeathCause::kKilled)});
  driver.create("ready", named("a"));
  EXPECT_EQ(driver.expect<control::Reply>(Type::kReply).code, 0);
}

TEST_F(NodeTest, ImpossibleRequestsFailAtOnceAndSayWhatToDo) {
  auto driver = start();
  const ActorId actor = driver.create("ready", [](control::CreateActor& create) { create.resources = {{"GPU", 8}}; });
  const auto reply = driver.expect<control::Reply>(Type::kReply);
  EXPECT_EQ(static_cast<Code>(reply.code), Code::kResourceExhausted);
  EXPECT_NE(reply.message.find("{GPU: 8}"), std::string::npos) << reply.message;
  EXPECT_NE(reply.message.find("num_gpus=8"), std::string::npos) << reply.message;
  EXPECT_EQ(static_cast<DeathCause>(driver.expect_state(actor, ActorState::kDead).cause), DeathCause::kUnschedulable);
  control::RequestLease request;
  request.lease = 1;
  request.resources = {{"nothing", 1}};
  driver.send(Type::kRequestLease, request);
  EXPECT_EQ(static_cast<Code>(driver.expect<control::LeaseFailed>(Type::kLeaseFailed).code), Code::kResourceExhausted);
}

TEST_F(NodeTest, LeasesHoldResourcesAndWorkersAreUsedAgain) {
  auto driver = start();
  const auto first = lease(driver, 1, {{"custom", 1}});
  control::RequestLease request;
  request.lease = 2;
  request.resources = {{"custom", 1}};
  driver.send(Type::kRequestLease, request);
  // The holder is asked to give back what it does not use.
  driver.expect<control::Empty>(Type::kRecallLeases);
  EXPECT_EQ(driver.state().pending_leases, 1u);
  EXPECT_EQ(driver.state().available.at("custom"), 0);
  driver.send(Type::kReturnLease, control::ReturnLease{1, false});
  const auto second = driver.expect<control::LeaseGranted>(Type::kLeaseGranted);
  EXPECT_EQ(second.lease, 2u);
  EXPECT_EQ(second.process, first.process);
  driver.send(Type::kReturnLease, control::ReturnLease{2, true});
  driver.state_when([&](const control::State& state) { return state.available.at("custom") == 1; });
  EXPECT_NE(lease(driver, 3, {{"custom", 1}}).process, first.process) << "an unusable worker was used again";
}

TEST_F(NodeTest, AWorkerThatDiesGivesItsResourcesBack) {
  auto driver = start();
  const auto granted = lease(driver, 1, {{"CPU", 4}, {"GPU", 0.5}});
  ::kill(granted.pid, SIGKILL);
  const auto failed = driver.expect<control::LeaseFailed>(Type::kLeaseFailed);
  EXPECT_EQ(static_cast<Code>(failed.code), Code::kPeerLost);
  EXPECT_NE(failed.message.find("SIGKILL"), std::string::npos);
  const auto state = driver.state();
  EXPECT_EQ(state.available.at("CPU"), 4);
  EXPECT_EQ(state.available.at("GPU"), 2);
}

TEST_F(NodeTest, ABlockedWorkerLendsItsCpus) {
  auto options = fake_options();
  options.resources = {{"CPU", 1}};
  auto driver = start(options);
  // The fake worker of this actor says that it waits, as soon as it runs.
  const ActorId holder =
      driver.create("ready blocked", [](control::CreateActor& create) { create.resources = {{"CPU", 1}}; });
  driver.expect_state(holder, ActorState::kAlive);
  lease(driver, 1, {{"CPU", 1}});
  EXPECT_EQ(driver.state().available.at("CPU"), 0);
}

TEST_F(NodeTest, AcceleratorsAreHandedToWorkers) {
  auto driver = start();
  lease(driver, 1, {{"GPU", 0.5}});
  lease(driver, 2, {{"GPU", 1}});
  std::string text;
  while (text.find("[1]") == std::string::npos || text.find("[0]") == std::string::npos) {
    text += driver.expect<control::LogLines>(Type::kLogLines).text;
  }
  EXPECT_NE(text.find("('GPU', [1])"), std::string::npos) << text;
}

TEST_F(NodeTest, OutputComesByWholeLinesWithItsOrigin) {
  auto driver = start();
  const ActorId actor = driver.create("print:hello error:oops ready");
  const auto alive = driver.expect_state(actor, ActorState::kAlive);
  const auto out =
      driver.expect<control::LogLines>(Type::kLogLines, [](const auto& lines) { return !lines.is_stderr; });
  EXPECT_EQ(out.text, "hello\n");
  EXPECT_EQ(out.who, "Fake");
  EXPECT_EQ(out.pid, alive.pid);
  EXPECT_EQ(driver.expect<control::LogLines>(Type::kLogLines).text, "oops\n");
  EXPECT_EQ(os::file_tail(driver.dir() + "/logs/worker-" + std::to_string(alive.pid) + ".out", 100), "hello\n");
}

TEST_F(NodeTest, OutputComesBeforeTheNewsOfTheEnd) {
  auto driver = start();
  const ActorId actor = driver.create("ready print:last die");
  for (bool printed = false;;) {
    os::Frame frame;
    ASSERT_TRUE(driver.socket().receive_within(frame, Deadline::after(kPatience)).is_ok());
    if (*control::type_of(frame.bytes) == Type::kLogLines) printed = true;
    if (*control::type_of(frame.bytes) != Type::kActorUpdate) continue;
    const auto update = control::decode<control::ActorUpdate>(frame.bytes);
    if (update.value().actor == actor && update.value().state == static_cast<std::uint8_t>(ActorState::kDead)) {
      EXPECT_TRUE(printed);
      return;
    }
  }
}

TEST_F(NodeTest, EnvironmentReachesTheWorker) {
  auto driver = start();
  driver.create("env:NODE_TEST", [](control::CreateActor& create) { create.env = {{"NODE_TEST", "forked"}}; });
  EXPECT_EQ(driver.expect<control::LogLines>(Type::kLogLines).text, "NODE_TEST=forked\n");
  // Variables that are read when a process starts need an interpreter of its own.
  driver.create("env:LD_BIND_NOW", [](control::CreateActor& create) { create.env = {{"LD_BIND_NOW", "1"}}; });
  EXPECT_EQ(driver.expect<control::LogLines>(Type::kLogLines).text, "LD_BIND_NOW=1\n");
}

TEST_F(NodeTest, AZygoteThatDiesIsStartedAgain) {
  auto driver = start();
  driver.expect_state(driver.create("ready"), ActorState::kAlive);
  const auto state = driver.state();
  for (const auto& row : state.processes) {
    if (row.what == "zygote") ::kill(row.pid, SIGKILL);
  }
  driver.state_when([](const control::State& now) { return now.counters.at("zygote_restarts") == 1; });
  driver.expect_state(driver.create("ready"), ActorState::kAlive);
}

TEST_F(NodeTest, WorkersThatHaveEndedAreRemembered) {
  auto driver = start();
  const ActorId killed = driver.create("ready");
  const ActorId crashed = driver.create("ready");
  driver.expect_state(killed, ActorState::kAlive);
  const auto alive = driver.expect_state(crashed, ActorState::kAlive);
  ::kill(alive.pid, SIGKILL);
  driver.expect_state(crashed, ActorState::kDead);
  driver.send(Type::kKillActor, control::KillActor{killed, true, static_cast<std::uint8_t>(DeathCause::kKilled)});
  const auto state = driver.state_when([](const control::State& now) { return now.ended.size() == 2; });
  const auto& row = state.ended.front();
  EXPECT_EQ(row.pid, alive.pid);
  EXPECT_EQ(row.index, alive.process);
  EXPECT_EQ(row.what, "actor Fake");
  EXPECT_NE(row.how.find("signal 9"), std::string::npos) << row.how;
  EXPECT_FALSE(row.intended);
  EXPECT_TRUE(state.ended.back().intended);
}

TEST_F(NodeTest, TorchWorkersComeFromASecondZygote) {
  auto driver = start();
  const ActorId actor = driver.create("ready", [](control::CreateActor& create) { create.wants_torch = true; });
  driver.expect_state(actor, ActorState::kAlive);
  const auto state = driver.state();
  EXPECT_TRUE(std::any_of(state.processes.begin(), state.processes.end(),
                          [](const control::ProcessRow& row) { return row.what == "torch zygote"; }));
}

TEST_F(NodeTest, WorkersThatDoNotStartAreReportedWithWhatTheySay) {
  auto driver = start();
  const ActorId actor =
      driver.create("ready", [](control::CreateActor& create) { create.env = {{"FAKE_WORKER", "broken"}}; });
  const auto dead = driver.expect_state(actor, ActorState::kDead);
  EXPECT_NE(dead.message.find("exit code 7"), std::string::npos) << dead.message;
  EXPECT_NE(dead.message.find("the worker is broken"), std::string::npos) << dead.message;
  driver.expect_state(driver.create("ready"), ActorState::kAlive);
}

TEST_F(NodeTest, AZygoteThatCannotStartFailsActorsWithWhatItSays) {
  auto options = fake_options();
  options.zygote_env = {{"FAKE_ZYGOTE", "broken"}};
  auto driver = start(options);
  const auto dead = driver.expect_state(driver.create("ready"), ActorState::kDead);
  EXPECT_NE(dead.message.find("the zygote is broken"), std::string::npos) << dead.message;
}

TEST_F(NodeTest, WorkersAreStartedAheadAndIdleOnesRetire) {
  auto options = fake_options();
  options.prestart = 1;
  options.idle_workers = 1;
  auto driver = start(options);
  const auto idle = [](const control::State& state) {
    return std::count_if(state.processes.begin(), state.processes.end(),
                         [](const control::ProcessRow& row) { return row.what == "idle"; });
  };
  driver.state_when([&](const control::State& state) { return idle(state) == 1; });
  for (LeaseId number = 1; number <= 3; ++number) lease(driver, number, {});
  for (LeaseId number = 1; number <= 3; ++number) driver.send(Type::kReturnLease, control::ReturnLease{number, false});
  EXPECT_EQ(idle(driver.state()), 3);
  driver.state_when([&](const control::State& state) { return idle(state) == 1; });
}

TEST_F(NodeTest, AnActorWatchedBeforeItsCreationIsAnnounced) {
  auto driver = start();
  auto other = join_session(driver.dir(), control::ProcessKind::kTool);
  ASSERT_TRUE(other.is_ok());
  Client watcher(std::move(other).value());
  const ActorId actor = (static_cast<ActorId>(driver.index()) << 32) | 1;
  watcher.send(Type::kWatchActor, control::WatchActor{actor});
  watcher.state();  // it has been handled
  ASSERT_EQ(driver.create("ready"), actor);
  watcher.expect_state(actor, ActorState::kAlive);
  // One whose creator does not exist will never be.
  watcher.send(Type::kWatchActor, control::WatchActor{(ActorId{77} << 32) | 1});
  watcher.expect_state((ActorId{77} << 32) | 1, ActorState::kDead);
}

TEST_F(NodeTest, HostileFramesCloseOnlyTheirConnection) {
  auto driver = start();
  const auto send_raw = [&](const std::string& bytes) {
    auto socket = os::connect_unix(driver.dir() + "/daemon.sock", Deadline::after(kPatience));
    ASSERT_TRUE(socket.is_ok());
    ASSERT_EQ(::write(socket->get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    os::FrameSocket connection(std::move(socket).value());
    os::Frame frame;
    EXPECT_EQ(connection.receive_within(frame, Deadline::after(kPatience)).code(), Code::kPeerLost);
  };
  const auto framed = [](const std::string& body) {
    const auto size = static_cast<std::uint32_t>(body.size());
    return std::string(reinterpret_cast<const char*>(&size), 4) + std::string(4, '\0') + body;
  };
  send_raw(std::string(64, '\xff'));
  send_raw(framed("\x01"));
  send_raw(framed(std::string("\x01\x00", 2)));
  send_raw(framed(std::string("\x01\x00\xdd\xff\xff\xff\xff", 7)));  // an array of 4 Gi elements
  send_raw(framed(std::string("\x01\x00\x93\x01\x01\x05", 6)));      // a worker with a made-up token
  send_raw(framed(std::string("\x02\x00\x90", 3)));                  // a request before registration
  {
    auto socket = os::connect_unix(driver.dir() + "/daemon.sock", Deadline::after(kPatience));  // a frame cut short
    ASSERT_TRUE(socket.is_ok());
    ASSERT_EQ(::write(socket->get(), "\x40\x00\x00", 3), 3);
  }
  driver.expect_state(driver.create("ready"), ActorState::kAlive);
}

TEST_F(NodeTest, NothingIsLeftAfterShutdown) {
  auto driver = start();
  driver.expect_state(driver.create("child ready"), ActorState::kAlive);
  const ActorId stopped = driver.create("ready stop");
  driver.expect_state(stopped, ActorState::kAlive);
  lease(driver, 1, {{"CPU", 1}});
  ASSERT_GE(processes_of(driver.dir()).size(), 5u);
  driver.send(Type::kShutdown, control::Empty{});
  const auto start_of_end = Clock::now();
  ASSERT_TRUE(wait_session_end(driver.daemon(), Deadline::after(kPatience)).is_ok());
  EXPECT_LT(Clock::now() - start_of_end, std::chrono::seconds(2));
  EXPECT_FALSE(std::filesystem::exists(driver.dir()));
  EXPECT_TRUE(processes_of(driver.dir()).empty());
}

// Runs `body` in a process of its own that is killed afterwards; returns the session's directory.
std::string kill_driver_after(const std::function<void(Client&)>& body) {
  int fds[2];
  if (::pipe(fds) != 0) throw std::runtime_error("pipe");
  const pid_t pid = ::fork();
  if (pid == 0) {
    auto driver = launch();
    body(driver);
    [[maybe_unused]] const auto written = ::write(fds[1], driver.dir().data(), driver.dir().size());
    ::close(fds[1]);
    for (;;) ::pause();
  }
  ::close(fds[1]);
  std::string dir;
  char buffer[256];
  for (ssize_t got; (got = ::read(fds[0], buffer, sizeof buffer)) > 0;)
    dir.append(buffer, static_cast<std::size_t>(got));
  ::close(fds[0]);
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  return dir;
}

TEST_F(NodeTest, NothingIsLeftTwoSecondsAfterTheDriverIsKilled) {
  const auto dir = kill_driver_after([](Client& driver) {
    driver.expect_state(driver.create("child ready"), ActorState::kAlive);
    driver.expect_state(driver.create("ready stop"), ActorState::kAlive);
  });
  ASSERT_FALSE(dir.empty());
  EXPECT_LT(time_until_nothing_is_left(dir), std::chrono::seconds(2));
}

TEST_F(NodeTest, ADetachedActorOutlivesItsDriver) {
  const auto dir = kill_driver_after([](Client& driver) {
    const ActorId kept = driver.create("ready", [](control::CreateActor& create) {
      create.detached = true;
      create.name = "kept";
    });
    driver.expect_state(kept, ActorState::kAlive);
    driver.expect_state(driver.create("ready"), ActorState::kAlive);
  });
  dirs_.push_back(dir);
  auto joined = join_session(dir, control::ProcessKind::kTool);
  ASSERT_TRUE(joined.is_ok()) << joined.status().message();
  Client tool(std::move(joined).value());
  tool.state_when([](const control::State& state) {
    return std::count_if(state.actors.begin(), state.actors.end(), [](const control::ActorRow& row) {
             return row.state != static_cast<std::uint8_t>(ActorState::kDead);
           }) == 1;
  });
  tool.send(Type::kLookupActor, control::LookupActor{1, "kept", ""});
  const ActorId kept = tool.expect<control::ActorInfo>(Type::kActorInfo).actor;
  ASSERT_NE(kept, 0u);
  // The session ends with it.
  tool.send(Type::kKillActor, control::KillActor{kept, true, static_cast<std::uint8_t>(DeathCause::kKilled)});
  EXPECT_LT(time_until_nothing_is_left(dir), std::chrono::seconds(2));
}

class LostSessionTest : public NodeTest {
 protected:
  // The directory of a session whose daemon was killed and whose processes are stopped.
  std::string lost_session() {
    auto driver = launch();
    driver.expect_state(driver.create("ready stop child"), ActorState::kAlive);
    for (const pid_t pid : processes_of(driver.dir())) {
      if (pid != driver.daemon()) ::kill(pid, SIGSTOP);
    }
    ::kill(driver.daemon(), SIGKILL);
    EXPECT_TRUE(wait_session_end(driver.daemon(), Deadline::after(kPatience)).is_ok());
    EXPECT_FALSE(processes_of(driver.dir()).empty());
    return driver.dir();
  }
};

TEST_F(LostSessionTest, ItIsRemovedWithItsProcessesByTheNextOne) {
  const std::string dir = lost_session();
  auto next = start();
  EXPECT_FALSE(std::filesystem::exists(dir));
  EXPECT_LT(time_until_nothing_is_left(dir), kPatience);
  // The one that lives was not touched.
  next.expect_state(next.create("ready"), ActorState::kAlive);
  const auto removed = remove_stale_sessions();
  ASSERT_TRUE(removed.is_ok());
  EXPECT_EQ(removed.value().directories, 0u);
}

TEST_F(LostSessionTest, OneAtATimeEndsIt) {
  const std::string dir = lost_session();
  const auto processes = processes_of(dir);
  {
    // As another process does that ends it, or that starts another daemon.
    const os::Fd lock(::open((dir + "/lock").c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_EQ(::flock(lock.get(), LOCK_EX | LOCK_NB), 0);
    const auto ended = end_lost_session(dir);
    ASSERT_TRUE(ended.is_ok()) << ended.status().message();
    EXPECT_FALSE(*ended);
    EXPECT_EQ(processes_of(dir), processes);
  }
  std::uint32_t killed = 0;
  const auto ended = end_lost_session(dir, &killed);
  ASSERT_TRUE(ended.is_ok()) << ended.status().message();
  EXPECT_TRUE(*ended);
  EXPECT_EQ(killed, processes.size());
  EXPECT_FALSE(std::filesystem::exists(dir));
  EXPECT_LT(time_until_nothing_is_left(dir), kPatience);
}

TEST_F(NodeTest, ASessionThatLivesIsNoLostOne) {
  auto driver = start();
  const auto ended = end_lost_session(driver.dir());
  ASSERT_TRUE(ended.is_ok()) << ended.status().message();
  EXPECT_FALSE(*ended);
  driver.expect_state(driver.create("ready"), ActorState::kAlive);
}

}  // namespace
}  // namespace beeline::runtime::node
