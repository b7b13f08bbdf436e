// A daemon that follows a killed one, by what raw clients say to both. What programs see of it is in
// session/fuzz_test.cc and tests/system/test_daemon_restart.py.
#include "beeline/os/unix_socket.h"
#include "node_client.h"

namespace beeline::runtime::node {
namespace {

using control::Type;

class NodeResumeTest : public NodeFixture {
 protected:
  // Kills the daemon of the session and starts another one.
  static pid_t follow(const Client& client) {
    ::kill(client.daemon(), SIGKILL);
    EXPECT_TRUE(wait_session_end(client.daemon(), Deadline::after(kPatience)).is_ok());
    const auto pid = restart_daemon(client.dir(), BEELINE_NODE_PATH);
    EXPECT_TRUE(pid.is_ok() && *pid > 0);
    return pid.is_ok() ? *pid : 0;
  }
  // The client's process is back at the daemon of that pid, which has handled so many of its frames.
  static Client back(const Client& client, pid_t daemon, std::uint64_t handled) {
    const auto path = client.dir() + "/daemon.sock";
    const auto deadline = Deadline::after(kPatience);
    for (;;) {
      auto socket = os::connect_unix(path, deadline);
      if (socket.is_ok()) {
        Session session;
        session.socket = os::FrameSocket(std::move(*socket));
        session.registered.index = client.index();
        session.registered.session_dir = client.dir();
        session.daemon_pid = daemon;
        Client again(std::move(session));
        again.send(Type::kResume, control::Resume{client.index()});
        const auto resumed = again.expect<control::Resumed>(Type::kResumed);
        EXPECT_EQ(resumed.refused, "");
        EXPECT_EQ(resumed.handled, handled);
        return again;
      }
      if (deadline.passed()) throw std::runtime_error("no daemon listens at " + path);
      ::usleep(2000);
    }
  }
  static Client joined_to(const Client& driver) {
    auto session = join_session(driver.dir(), control::ProcessKind::kDriver);
    if (!session.is_ok()) throw std::runtime_error(session.status().message());
    return Client(std::move(*session));
  }
};

TEST_F(NodeResumeTest, WhatOneHasMadeIsThereBeforeAnotherNamesIt) {
  auto maker = start();
  auto user = joined_to(maker);
  (void)maker.state();
  (void)user.state();
  const pid_t daemon = follow(maker);
  // The one that names the group is back first.
  auto user_again = back(user, daemon, 1);
  const GroupId group = (static_cast<GroupId>(maker.index()) << 32) | 1;
  control::RequestLease request;
  request.lease = 1;
  request.resources = {{"CPU", 1}};
  request.scheduling.group = group;
  user_again.send(Type::kRequestLease, request);
  user_again.send(Type::kReconcile, control::Reconcile{{1}, {}, {group}});
  ::usleep(50'000);
  auto maker_again = back(maker, daemon, 1);
  control::CreateGroup create;
  create.group = group;
  create.bundles.push_back({{{"CPU", 1}}, {}});
  maker_again.send(Type::kCreateGroup, create);
  maker_again.send(Type::kReconcile, control::Reconcile{});
  EXPECT_EQ(user_again.expect<control::LeaseGranted>(Type::kLeaseGranted).lease, 1u);
  user_again.send(Type::kShutdown, control::Empty{});
  maker_again.send(Type::kShutdown, control::Empty{});
  EXPECT_TRUE(wait_session_end(daemon, Deadline::after(kPatience)).is_ok());
}

TEST_F(NodeResumeTest, WhoDoesNotComeBackHoldsNobodyUpForLong) {
  auto options = fake_options();
  options.daemon_wait_ms = 1500;
  auto stays_away = start(options);
  auto driver = joined_to(stays_away);
  (void)stays_away.state();
  (void)driver.state();
  auto again = back(driver, follow(stays_away), 1);
  again.send(Type::kReconcile, control::Reconcile{});
  const auto since = Clock::now();
  EXPECT_EQ(again.state().counters.at("daemon_restarts"), 1u);
  EXPECT_LT(Clock::now() - since, std::chrono::seconds(1));
  // The session ends once it is not waited for any more.
  again.send(Type::kShutdown, control::Empty{});
  EXPECT_TRUE(wait_session_end(again.daemon(), Deadline::after(kPatience)).is_ok());
}

TEST_F(NodeResumeTest, WhatWasHandledIsNotDoneTwiceAndWhatWasNotIsDone) {
  auto driver = start();
  const ActorId actor = driver.create("ready", [](control::CreateActor& create) { create.name = "one"; });
  driver.expect_state(actor, control::ActorState::kAlive);
  auto again = back(driver, follow(driver), 1);
  control::CreateActor more;
  more.request = 9;
  more.actor = actor;  // it was not told that this is done
  more.name = "one";
  again.send(Type::kCreateActor, more);
  EXPECT_EQ(again.expect<control::Reply>(Type::kReply).code, 0);
  again.send(Type::kReconcile, control::Reconcile{{7}, {actor}, {}});
  EXPECT_EQ(again.expect<control::LeaseFailed>(Type::kLeaseFailed).code, static_cast<std::uint8_t>(Code::kPeerLost));
  const auto state = again.state_when([](const control::State& now) { return now.actors.size() == 1; });
  EXPECT_EQ(state.actors.front().name, "one");
  again.send(Type::kShutdown, control::Empty{});
  EXPECT_TRUE(wait_session_end(again.daemon(), Deadline::after(kPatience)).is_ok());
}

TEST_F(NodeResumeTest, AStrangerIsRefused) {
  auto driver = start();
  auto session = Session();
  (void)driver.state();
  const pid_t daemon = follow(driver);
  auto again = back(driver, daemon, 1);
  auto socket = os::connect_unix(driver.dir() + "/daemon.sock", Deadline::after(kPatience));
  ASSERT_TRUE(socket.is_ok());
  session.socket = os::FrameSocket(std::move(*socket));
  Client stranger(std::move(session));
  stranger.send(Type::kResume, control::Resume{12345});
  EXPECT_NE(stranger.expect<control::Resumed>(Type::kResumed).refused, "");
  again.send(Type::kShutdown, control::Empty{});
  EXPECT_TRUE(wait_session_end(again.daemon(), Deadline::after(kPatience)).is_ok());
}

}  // namespace
}  // namespace beeline::runtime::node
