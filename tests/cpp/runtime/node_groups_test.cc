// Placement groups and virtual nodes as beelined's clients see them.
#include <sys/socket.h>

#include <algorithm>

#include "beeline/runtime/node/group_table.h"
#include "runtime/node_client.h"

namespace beeline::runtime::node {
namespace {

using control::ActorState;
using control::DeathCause;
using control::GroupState;
using control::Type;

class NodeGroupsTest : public NodeFixture {
 protected:
  GroupId create(Client& client, const std::vector<Resources>& bundles, GroupStrategy strategy = GroupStrategy::kPack,
                 const std::string& name = {}) {
    control::CreateGroup create;
    create.request = name.empty() ? 0 : 77;
    create.group = (static_cast<GroupId>(client.index()) << 32) | ++groups_;
    for (const auto& resources : bundles) create.bundles.push_back({resources, {}});
    create.strategy = static_cast<std::uint8_t>(strategy);
    create.name = name;
    client.send(Type::kCreateGroup, create);
    return create.group;
  }
  static control::GroupUpdate expect_state(Client& client, GroupId group, GroupState state) {
    return client.expect<control::GroupUpdate>(Type::kGroupUpdate, [=](const control::GroupUpdate& update) {
      return update.group == group && update.state == static_cast<std::uint8_t>(state);
    });
  }
  static control::GroupRow row_of(Client& client, GroupId group) {
    client.send(Type::kGetGroups, control::GetGroups{5, group, {}, {}});
    return client.expect<control::Groups>(Type::kGroups).groups.at(0);
  }
  static void request(Client& client, LeaseId lease, const Resources& resources, const Scheduling& scheduling) {
    control::RequestLease request;
    request.lease = lease;
    request.resources = resources;
    request.scheduling = scheduling;
    client.send(Type::kRequestLease, request);
  }
  static Scheduling in(GroupId group) {
    Scheduling scheduling;
    scheduling.group = group;
    return scheduling;
  }
  static LaunchOptions with_virtual_nodes() {
    auto options = fake_options();
    options.virtual_nodes = true;
    return options;
  }
  static NodeIndex add_node(Client& client, const Resources& resources) {
    static std::uint64_t request = 1000;  // one that is asked again is answered as before
    client.send(Type::kAddNode, control::AddNode{++request, resources, {}});
    return client.expect<control::NodeAdded>(Type::kNodeAdded).node;
  }

  std::uint32_t groups_ = 0;
};

TEST_F(NodeGroupsTest, AGroupIsCreatedUsedAndRemoved) {
  auto driver = start();
  const GroupId group = create(driver, {{{"CPU", 1}, {"GPU", 1}}, {{"CPU", 1}}});
  expect_state(driver, group, GroupState::kCreated);
  EXPECT_EQ(driver.state().available.at("CPU"), 2);
  request(driver, 1, {{"CPU", 1}, {"GPU", 1}}, in(group));
  const auto granted = driver.expect<control::LeaseGranted>(Type::kLeaseGranted);
  EXPECT_EQ(driver.state().available.at("CPU"), 2) << "it is in a bundle";
  request(driver, 2, {{"GPU", 1}}, in(group));
  driver.send(Type::kRemoveGroup, control::RemoveGroup{group});
  expect_state(driver, group, GroupState::kRemoved);
  const auto failed = [&](LeaseId lease) {
    return driver.expect<control::LeaseFailed>(
        Type::kLeaseFailed, [=](const control::LeaseFailed& message) { return message.lease == lease; });
  };
  EXPECT_EQ(static_cast<Code>(failed(2).code), Code::kNotFound);
  const auto killed = failed(1);
  EXPECT_EQ(static_cast<Code>(killed.code), Code::kPeerLost);
  EXPECT_NE(killed.message.find("placement group was removed"), std::string::npos) << killed.message;
  const auto now = driver.state_when([](const control::State& state) { return state.available == state.total; });
  EXPECT_TRUE(std::none_of(now.processes.begin(), now.processes.end(),
                           [&](const control::ProcessRow& row) { return row.index == granted.process; }));
  EXPECT_EQ(row_of(driver, group).state, static_cast<std::uint8_t>(GroupState::kRemoved));
  request(driver, 3, {{"CPU", 1}}, in(group));
  EXPECT_EQ(static_cast<Code>(failed(3).code), Code::kNotFound);
}

TEST_F(NodeGroupsTest, ActorsOfARemovedGroupDie) {
  auto driver = start();
  const GroupId group = create(driver, {{{"CPU", 1}}});
  const auto inside = [&](control::CreateActor& create) {
    create.resources = {{"CPU", 1}};
    create.max_restarts = -1;
    create.scheduling = in(group);
  };
  const ActorId placed = driver.create("ready", inside);
  driver.expect_state(placed, ActorState::kAlive);
  const ActorId waits = driver.create("ready", inside);
  driver.send(Type::kRemoveGroup, control::RemoveGroup{group});
  EXPECT_EQ(static_cast<DeathCause>(driver.expect_state(placed, ActorState::kDead).cause), DeathCause::kWorkerDied);
  EXPECT_EQ(static_cast<DeathCause>(driver.expect_state(waits, ActorState::kDead).cause), DeathCause::kGroupRemoved);
  const ActorId late = driver.create("ready", inside);
  EXPECT_EQ(static_cast<DeathCause>(driver.expect_state(late, ActorState::kDead).cause), DeathCause::kGroupRemoved);
}

TEST_F(NodeGroupsTest, NonsenseIsRefusedAndSaidSo) {
  auto driver = start();
  const GroupId group = create(driver, {{{"GPU", 1.5}}});
  EXPECT_NE(expect_state(driver, group, GroupState::kRemoved).message.find("whole number"), std::string::npos);
  const GroupId named = create(driver, {{{"CPU", 1}}}, GroupStrategy::kPack, "name");
  EXPECT_EQ(driver.expect<control::Reply>(Type::kReply).code, 0);
  create(driver, {{{"CPU", 1}}}, GroupStrategy::kPack, "name");
  EXPECT_EQ(static_cast<Code>(driver.expect<control::Reply>(Type::kReply).code), Code::kAlreadyExists);
  driver.send(Type::kRemoveGroup, control::RemoveGroup{named});
  create(driver, {{{"CPU", 1}}}, GroupStrategy::kPack, "name");
  EXPECT_EQ(driver.expect<control::Reply>(Type::kReply).code, 0);
}

TEST_F(NodeGroupsTest, IdleLeasesAreRecalledForAGroup) {
  auto driver = start();
  request(driver, 1, {{"CPU", 4}}, {});
  driver.expect<control::LeaseGranted>(Type::kLeaseGranted);
  const GroupId group = create(driver, {{{"CPU", 4}}});
  driver.expect<control::Empty>(Type::kRecallLeases);
  driver.send(Type::kReturnLease, control::ReturnLease{1, 0});
  expect_state(driver, group, GroupState::kCreated);
}

TEST_F(NodeGroupsTest, AWatcherMayComeBeforeTheGroup) {
  auto driver = start();
  auto session = join_session(driver.dir(), control::ProcessKind::kDriver);
  ASSERT_TRUE(session.is_ok());
  Client other(std::move(session).value());
  const GroupId group = (static_cast<GroupId>(driver.index()) << 32) | 1;
  other.send(Type::kWatchGroup, control::WatchGroup{group});
  other.state();  // so that the daemon has read it
  EXPECT_EQ(create(driver, {{{"CPU", 1}}}), group);
  expect_state(other, group, GroupState::kCreated);
  // Its driver ends, and with it the group.
  driver.socket().close();
  expect_state(other, group, GroupState::kRemoved);
  other.send(Type::kWatchGroup, control::WatchGroup{group + 1});
  expect_state(other, group + 1, GroupState::kRemoved);
}

TEST_F(NodeGroupsTest, AWorkerThatWasKilledIsNotHandedOutAgain) {
  auto driver = start();
  for (LeaseId lease = 1; lease <= 20; ++lease) {
    const GroupId group = create(driver, {{{"CPU", 1}}});
    request(driver, lease, {{"CPU", 1}}, in(group));
    const auto granted = driver.expect<control::LeaseGranted>(Type::kLeaseGranted);
    driver.send(Type::kRemoveGroup, control::RemoveGroup{group});
    driver.send(Type::kReturnLease, control::ReturnLease{lease, 0});
    const ActorId actor = driver.create("ready", [](control::CreateActor& create) { create.resources = {{"CPU", 1}}; });
    const auto alive = driver.expect_state(actor, ActorState::kAlive);
    EXPECT_NE(alive.process, granted.process);
    driver.send(Type::kKillActor, control::KillActor{actor, true, 0});
  }
  driver.state_when([](const control::State& state) { return state.available == state.total; });
}

TEST_F(NodeGroupsTest, AGroupThatItsCreatorHasNotYetBeenHeardOfIsWaitedForBehindAllItHasSent) {
  auto driver = start();
  auto session = join_session(driver.dir(), control::ProcessKind::kDriver);
  ASSERT_TRUE(session.is_ok());
  Client other(std::move(session).value());
  other.state();
  // The daemon stands still, and finds more frames of the driver than it reads at once before it reads the other's.
  ::kill(driver.daemon(), SIGSTOP);
  const int room = 4 << 20;
  if (::setsockopt(driver.socket().fd(), SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) != 0) {
    GTEST_SKIP() << "a socket of that size is for root";
  }
  for (int i = 0; i < 600; ++i) driver.send(Type::kWatchGroup, control::WatchGroup{(GroupId{77} << 32) | 1});
  const GroupId group = create(driver, {{{"CPU", 1}}});
  ASSERT_FALSE(driver.socket().wants_write()) << "all lies in the daemon's socket";
  request(other, 1, {{"CPU", 1}}, in(group));
  ::kill(driver.daemon(), SIGCONT);
  other.expect<control::LeaseGranted>(Type::kLeaseGranted);
}

TEST_F(NodeGroupsTest, AnActorThatIsKilledWhileItsGroupIsWaitedForIsDead) {
  auto driver = start();
  auto session = join_session(driver.dir(), control::ProcessKind::kDriver);
  ASSERT_TRUE(session.is_ok());
  Client other(std::move(session).value());
  other.state();
  ::kill(driver.daemon(), SIGSTOP);
  const GroupId group = (static_cast<GroupId>(driver.index()) << 32) | 1;
  const ActorId actor = other.create("ready", [&](control::CreateActor& create) {
    create.resources = {{"CPU", 1}};
    create.scheduling = in(group);
  });
  EXPECT_EQ(create(driver, {{{"CPU", 1}}}), group);
  driver.send(Type::kKillActor, control::KillActor{actor, true, 0});
  ::kill(driver.daemon(), SIGCONT);
  other.expect_state(actor, ActorState::kDead);
  expect_state(driver, group, GroupState::kCreated);
  request(driver, 1, {{"CPU", 1}}, in(group));
  driver.expect<control::LeaseGranted>(Type::kLeaseGranted);
}

TEST_F(NodeGroupsTest, AGroupThatWasForgottenIsRemoved) {
  auto driver = start();
  const GroupId first = create(driver, {{{"CPU", 1}}});
  driver.send(Type::kRemoveGroup, control::RemoveGroup{first});
  for (std::size_t i = 0; i < GroupTable::kRememberedRemoved + 1; ++i) {
    driver.send(Type::kRemoveGroup, control::RemoveGroup{create(driver, {{{"CPU", 1}}})});
    ASSERT_TRUE(driver.socket().flush_all(Deadline::after(kPatience)));
  }
  auto session = join_session(driver.dir(), control::ProcessKind::kDriver);
  ASSERT_TRUE(session.is_ok());
  Client other(std::move(session).value());
  driver.state();
  other.send(Type::kWatchGroup, control::WatchGroup{first});
  expect_state(other, first, GroupState::kRemoved);
}

TEST_F(NodeGroupsTest, NodesAreAddedToVirtualClustersAlone) {
  auto driver = start();
  EXPECT_EQ(add_node(driver, {{"CPU", 1}}), kNoNode);
  EXPECT_EQ(driver.state().nodes.size(), 1u);
}

TEST_F(NodeGroupsTest, NoNodeHasMoreAcceleratorsThanFitIntoMemory) {
  auto driver = start(with_virtual_nodes());
  EXPECT_EQ(add_node(driver, {{"GPU", 1e10}}), kNoNode);
  EXPECT_NE(add_node(driver, {{"GPU", 1000}}), kNoNode);
}

TEST_F(NodeGroupsTest, NodesComeAndGo) {
  auto driver = start(with_virtual_nodes());
  const GroupId group = create(driver, {{{"CPU", 4}}, {{"CPU", 4}}}, GroupStrategy::kStrictSpread);
  EXPECT_EQ(row_of(driver, group).state, static_cast<std::uint8_t>(GroupState::kPending));
  const NodeIndex first = add_node(driver, {{"CPU", 4}});
  expect_state(driver, group, GroupState::kCreated);
  EXPECT_EQ(row_of(driver, group).nodes, (std::vector<NodeIndex>{0, first}));
  EXPECT_EQ(driver.state().nodes.at(first).available.at("CPU"), 0);
  auto scheduling = in(group);
  scheduling.bundle = 1;
  const ActorId actor = driver.create("ready", [&](control::CreateActor& create) {
    create.resources = {{"CPU", 1}};
    create.max_restarts = 1;
    create.scheduling = scheduling;
  });
  driver.expect_state(actor, ActorState::kAlive);
  driver.send(Type::kRemoveNode, control::RemoveNode{10, first});
  expect_state(driver, group, GroupState::kRescheduling);
  driver.expect_state(actor, ActorState::kRestarting);
  EXPECT_FALSE(driver.state().nodes.at(first).alive);
  const NodeIndex second = add_node(driver, {{"CPU", 4}});
  expect_state(driver, group, GroupState::kCreated);
  EXPECT_EQ(row_of(driver, group).nodes, (std::vector<NodeIndex>{0, second}));
  EXPECT_EQ(driver.expect_state(actor, ActorState::kAlive).incarnation, 1u);
  for (const NodeIndex node : {NodeIndex{0}, first, NodeIndex{99}}) {
    driver.send(Type::kRemoveNode, control::RemoveNode{11 + node, node});
    const auto reply = driver.expect<control::Reply>(
        Type::kReply, [=](const control::Reply& message) { return message.request == 11 + node; });
    EXPECT_EQ(static_cast<Code>(reply.code), Code::kInvalidArgument) << node;
  }
  EXPECT_EQ(add_node(driver, {{"GPU", 0.5}}), kNoNode);
}

TEST_F(NodeGroupsTest, WhatNoNodeHasWaitsWhereNodesMayCome) {
  auto driver = start(with_virtual_nodes());
  request(driver, 1, {{"rare", 1}}, {});
  EXPECT_EQ(driver.state().pending_leases, 1u);
  add_node(driver, {{"rare", 1}});
  driver.expect<control::LeaseGranted>(Type::kLeaseGranted);
}

TEST(GroupTableTest, OnlyTheLastRemovedAreRemembered) {
  GroupTable table;
  const auto first = GroupId{1} << 32;
  for (GroupId group = first; group < first + GroupTable::kRememberedRemoved + 1; ++group) {
    control::CreateGroup create;
    create.group = group;
    ASSERT_TRUE(table.create(create, 1).is_ok());
    ASSERT_TRUE(table.remove(group, "why", {}));
    ASSERT_FALSE(table.remove(group, "again", {}));
  }
  EXPECT_EQ(table.find(first), nullptr);
  EXPECT_EQ(table.find(first + 1)->message, "why");
}

}  // namespace
}  // namespace beeline::runtime::node
