// The object table: single rules, then random histories of several processes against a simple model.
#include "beeline/store/object_table.h"

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <random>
#include <set>

#include "seed.h"
#include "short_form.h"

namespace beeline::store {
namespace {

PayloadPtr value_with(ThinVector<ObjectId> refs) {
  auto payload = std::make_shared<Payload>();
  payload->skeleton = "value";
  payload->refs = std::move(refs);
  return payload;
}

PayloadPtr placed_value(ProcessIndex holder, std::uint32_t slot) {
  auto payload = std::make_shared<Payload>();
  payload->placement = std::make_unique<Placement>();
  payload->placement->holder = holder;
  payload->placement->publication.slot = slot;
  return payload;
}

struct Recorder final : TableEvents {
  void send_borrow(const ObjectId& id) override { borrows.push_back(id); }
  void send_release(const ObjectId& id) override { releases.push_back(id); }
  void send_object(ProcessIndex to, const Entry& entry) override { objects.emplace_back(to, entry.id); }
  void free_placement(const Placement& placement) override { freed.push_back(placement.publication.slot); }
  void actor_unreferenced(const ObjectId& id) override { unreferenced.push_back(id); }
  void lineage_unneeded(Entry& entry) override { unneeded.push_back(entry.id); }
  std::vector<ObjectId> borrows, releases, unreferenced, unneeded;
  std::vector<std::pair<ProcessIndex, ObjectId>> objects;
  std::vector<std::uint32_t> freed;
};

struct Counter final : Watcher {
  void on_ready(Entry& entry) override {
    ++calls;
    last = entry.id;
  }
  int calls = 0;
  ObjectId last;
};

class ObjectTableTest : public ::testing::Test {
 protected:
  void SetUp() override { table_.set_self(1); }
  Entry& make(ThinVector<ObjectId> refs = {}) {
    Entry& entry = table_.create(ObjectKind::kValue, nullptr);
    table_.set_ready(entry, value_with(std::move(refs)));
    return entry;
  }
  static ObjectId foreign(std::uint64_t serial, ProcessIndex owner = 2) { return {owner, ObjectKind::kValue, serial}; }
  Recorder events_;
  ObjectTable table_{events_};
};

TEST_F(ObjectTableTest, AnObjectLivesWhileItIsHeldAndUntilTheNextReap) {
  Entry& entry = make();
  const ObjectId id = entry.id;
  table_.add_hold(entry);
  table_.drop_hold(entry);
  table_.reap();
  ASSERT_EQ(table_.find(id), &entry);
  table_.drop_hold(entry);
  EXPECT_NE(table_.find(id), nullptr) << "a borrow may still be under way";
  table_.reap();
  EXPECT_EQ(table_.find(id), nullptr);
  EXPECT_EQ(table_.stats().own, 0u);
}

TEST_F(ObjectTableTest, ASlotUsedAgainHasAnotherId) {
  Entry& first = make();
  const ObjectId old = first.id;
  table_.drop_hold(first);
  table_.reap();
  Entry& second = make();
  EXPECT_EQ(static_cast<std::uint32_t>(second.id.serial), static_cast<std::uint32_t>(old.serial));
  EXPECT_NE(second.id, old);
  EXPECT_EQ(table_.find(old), nullptr);
  EXPECT_EQ(table_.hold(old, true), nullptr);
}

TEST_F(ObjectTableTest, ABorrowBeforeTheReapSavesTheObject) {
  Entry& entry = make();
  const ObjectId id = entry.id;
  table_.drop_hold(entry);
  table_.add_borrower(id, 7);
  table_.reap();
  ASSERT_NE(table_.find(id), nullptr);
  table_.drop_borrower(id, 7);
  table_.reap();
  EXPECT_EQ(table_.find(id), nullptr);
  table_.add_borrower(id, 7);
  EXPECT_EQ(table_.stats().late_borrows, 1u);
}

TEST_F(ObjectTableTest, ABorrowerIsCountedAsOftenAsItBorrowed) {
  // A release and a new borrow of the same process may cross the reading of several rings.
  Entry& entry = make();
  const ObjectId id = entry.id;
  table_.add_borrower(id, 7);
  table_.add_borrower(id, 7);
  table_.drop_hold(entry);
  table_.drop_borrower(id, 7);
  table_.reap();
  EXPECT_NE(table_.find(id), nullptr);
  table_.drop_borrower(id, 7);
  table_.drop_borrower(id, 7);  // one too many is nothing
  table_.reap();
  EXPECT_EQ(table_.find(id), nullptr);
}

TEST_F(ObjectTableTest, AForeignObjectIsBorrowedOnceAndReleasedOnce) {
  Entry* entry = table_.hold(foreign(5), false);
  EXPECT_TRUE(events_.borrows.empty()) << "somebody else holds it meanwhile";
  EXPECT_EQ(table_.hold(foreign(5), true), entry);
  EXPECT_EQ(table_.hold(foreign(5), true), entry);
  EXPECT_EQ(events_.borrows.size(), 1u);
  for (int i = 0; i < 3; ++i) table_.drop_hold(*entry);
  table_.reap();
  EXPECT_EQ(events_.releases, std::vector<ObjectId>{foreign(5)});
  EXPECT_EQ(table_.stats().foreign, 0u);
  entry = table_.hold(foreign(6), false);
  table_.drop_hold(*entry);
  table_.reap();
  EXPECT_EQ(events_.releases.size(), 1u) << "never borrowed, never released";
}

TEST_F(ObjectTableTest, AValueHoldsTheReferencesInsideItAndFreesThemInAChain) {
  std::vector<ObjectId> chain;
  for (int i = 0; i < 1000; ++i) {
    Entry& entry = make({chain.empty() ? foreign(9) : chain.back()});
    chain.push_back(entry.id);
    if (chain.size() > 1) table_.drop_hold(*table_.find(chain[chain.size() - 2]));
  }
  table_.reap();
  EXPECT_EQ(table_.stats().own, 1000u);
  EXPECT_EQ(table_.stats().foreign, 1u);
  table_.drop_hold(*table_.find(chain.back()));
  table_.reap();
  EXPECT_EQ(table_.stats().own, 0u);
  EXPECT_EQ(table_.stats().foreign, 0u);
  EXPECT_EQ(events_.releases, std::vector<ObjectId>{foreign(9)});
}

TEST_F(ObjectTableTest, AReferenceInsideThatIsGoneIsNeitherHeldNorDropped) {
  Entry& inner = make();
  const ObjectId gone = inner.id;
  table_.drop_hold(inner);
  table_.reap();
  Entry& outer = table_.create(ObjectKind::kValue, nullptr);
  table_.set_ready(outer, value_with({gone}));
  // The slot is used again: the new object there must not lose a hold when the value goes.
  Entry& other = make();
  const ObjectId other_id = other.id;
  table_.drop_hold(outer);
  table_.reap();
  EXPECT_NE(table_.find(other_id), nullptr);
  EXPECT_EQ(table_.stats().own, 1u);
}

TEST_F(ObjectTableTest, WatchersAndSubscribersAreToldOnce) {
  Entry& entry = table_.create(ObjectKind::kValue, nullptr);
  Counter first, second;
  table_.watch(entry, first);
  table_.watch(entry, second);
  table_.unwatch(entry, second);
  entry.subscribers = {4, 5};
  table_.set_ready(entry, value_with({}));
  table_.set_ready(entry, value_with({foreign(1)}));
  EXPECT_EQ(first.calls, 1);
  EXPECT_EQ(first.last, entry.id);
  EXPECT_EQ(second.calls, 0);
  EXPECT_EQ(events_.objects.size(), 2u);
  EXPECT_TRUE(entry.payload->refs.empty()) << "the first value stays";
}

TEST_F(ObjectTableTest, ADeadOwnerFailsWhatIsPendingAndKeepsWhatIsThere) {
  Entry* pending = table_.hold(foreign(1), true);
  Entry* ready = table_.hold(foreign(2), true);
  Entry* others = table_.hold(foreign(3, 3), true);
  table_.set_ready(*ready, value_with({}));
  Counter counter;
  table_.watch(*pending, counter);
  table_.fail_owner(2, "it was killed");
  EXPECT_EQ(counter.calls, 1);
  ASSERT_TRUE(pending->ready() && pending->payload->is_error());
  EXPECT_EQ(pending->payload->failure->kind, ErrorKind::kOwnerDied);
  EXPECT_FALSE(ready->payload->is_error());
  EXPECT_FALSE(others->ready());
}

TEST_F(ObjectTableTest, ADeadProcessLosesAllItsHolds) {
  Entry& lent = make();
  Entry& kept = make();
  Entry& other = make();
  const ObjectId lent_id = lent.id, kept_id = kept.id, other_id = other.id;
  for (int i = 0; i < 2; ++i) table_.add_borrower(lent_id, 7);
  table_.add_borrower(kept_id, 7);
  table_.add_borrower(kept_id, 8);
  table_.add_borrower(other_id, 8);
  for (Entry* entry : {&lent, &kept, &other}) table_.drop_hold(*entry);
  table_.reap();
  table_.drop_process(7);
  table_.reap();
  EXPECT_EQ(table_.find(lent_id), nullptr);
  EXPECT_NE(table_.find(kept_id), nullptr);
  table_.drop_process(8);
  table_.drop_process(9);
  table_.reap();
  EXPECT_EQ(table_.stats().own, 0u);
  (void)other_id;
}

TEST_F(ObjectTableTest, AReplacedValueFreesItsBytesAndItsReferencesOnce) {
  Entry& entry = table_.create(ObjectKind::kValue, nullptr);
  auto payload = std::make_shared<Payload>();
  payload->placement = std::make_unique<Placement>();
  payload->placement->publication.slot = 42;
  payload->refs = {foreign(3)};
  table_.set_ready(entry, payload);
  table_.replace(entry, make_failure(ErrorKind::kMutated, "changed"));
  EXPECT_EQ(events_.freed, std::vector<std::uint32_t>{42});
  table_.drop_hold(entry);
  table_.reap();
  EXPECT_EQ(events_.freed.size(), 1u);
  EXPECT_EQ(events_.releases, std::vector<ObjectId>{foreign(3)});
}

TEST_F(ObjectTableTest, OnlyTheOwnerFreesTheBytesOfAValue) {
  Entry* entry = table_.hold(foreign(1), true);
  table_.set_ready(*entry, placed_value(2, 5));
  table_.drop_hold(*entry);
  Entry& own = table_.create(ObjectKind::kValue, nullptr);
  table_.set_ready(own, placed_value(1, 6));
  table_.drop_hold(own);
  table_.reap();
  EXPECT_EQ(events_.freed, std::vector<std::uint32_t>{6});
}

TEST_F(ObjectTableTest, TheLastHandleOfAnActorIsTold) {
  Entry& life = table_.create(ObjectKind::kActorLife, nullptr);
  const ObjectId id = life.id;
  table_.add_borrower(id, 3);
  table_.drop_hold(life);
  table_.reap();
  EXPECT_TRUE(events_.unreferenced.empty());
  table_.drop_borrower(id, 3);
  table_.reap();
  EXPECT_EQ(events_.unreferenced, std::vector<ObjectId>{id});
}

// ----- histories

// Several processes with a table each and a ring between any two. A step is what a process may do by itself; rings are
// read in any order, but an owner reaps only after it has looked at all of its rings, as Process does.
class World {
 public:
  explicit World(std::uint64_t seed, std::size_t processes) : random_(seed) {
    for (std::size_t i = 0; i < processes; ++i) nodes_.push_back(std::make_unique<Node>(*this, index_of(i)));
  }

  void step() {
    Node& node = any_node();
    switch (random_() % 12) {
      case 0:
        return create(node);
      case 1:
        return copy(node);
      case 2:
      case 3:
        return drop(node);
      case 4:
      case 5:
        return carry(node);
      case 6:
        return call(node);
      case 7:
        return end_call(node);
      case 8:
        return fetch(node);
      case 9:
        if (random_() % 200 == 0) kill(node);
        return;
      default:
        deliver_some(node);
        if (random_() % 3 == 0) reap(node);
    }
  }

  // Every object that somebody can still reach exists at its owner.
  void check() {
    std::set<std::pair<ProcessIndex, std::uint64_t>> seen;
    std::vector<ObjectId> todo;
    for (auto& node : nodes_) {
      if (node->dead) continue;
      for (const auto& [id, count] : node->user) {
        ASSERT_NE(node->table.find(*id_of(id)), nullptr);
        todo.push_back(*id_of(id));
      }
      for (const auto& [token, pin] : node->pins) todo.push_back(pin.id);
    }
    while (!todo.empty()) {
      const ObjectId id = todo.back();
      todo.pop_back();
      if (!seen.emplace(id.owner, id.serial).second) continue;
      Node& owner = node(id.owner);
      if (owner.dead) continue;
      ASSERT_NE(owner.table.find(id), nullptr) << "freed while it is held: object " << id.serial << " of " << id.owner;
      const auto& inside = contents_.at({id.owner, id.serial});
      todo.insert(todo.end(), inside.begin(), inside.end());
    }
  }

  // All users let go and all messages arrive: nothing may be left.
  void settle() {
    for (auto& node : nodes_) {
      while (!node->dead && !node->running.empty()) end_call(*node);
      while (!node->dead && !node->user.empty()) drop(*node);
    }
    for (bool any = true; any;) {
      any = false;
      for (auto& node : nodes_) {
        if (node->dead) continue;
        any |= deliver_all(*node);
        while (!node->running.empty()) end_call(*node);
        while (!node->user.empty()) drop(*node);
        any |= node->table.has_doomed();
        node->table.reap();
      }
    }
    for (auto& node : nodes_) {
      if (node->dead) continue;
      EXPECT_EQ(node->table.stats().own, 0u) << "process " << node->self;
      EXPECT_EQ(node->table.stats().foreign, 0u) << "process " << node->self;
      EXPECT_TRUE(node->pins.empty()) << "process " << node->self;
    }
  }

 private:
  struct Key {
    ProcessIndex owner;
    std::uint64_t serial;
    auto operator<=>(const Key&) const = default;
  };
  struct Message {
    enum Kind { kBorrow, kRelease, kObject, kSubscribe, kCarry, kTaken, kCall, kDone } kind;
    ObjectId id;
    std::uint64_t token = 0;
    PayloadPtr payload = nullptr;
  };
  struct Pin {
    ObjectId id;
    ProcessIndex receiver;
  };
  struct Running {
    ObjectId id;
    ProcessIndex caller;
    std::uint64_t token;
  };
  struct Node final : TableEvents {
    Node(World& w, ProcessIndex index) : world(w), self(index) { table.set_self(index); }
    void send_borrow(const ObjectId& id) override { world.send(self, id.owner, {Message::kBorrow, id}); }
    void send_release(const ObjectId& id) override { world.send(self, id.owner, {Message::kRelease, id}); }
    void send_object(ProcessIndex to, const Entry& entry) override {
      world.send(self, to, {Message::kObject, entry.id, 0, entry.payload});
    }
    void free_placement(const Placement&) override {}
    void actor_unreferenced(const ObjectId&) override {}
    void lineage_unneeded(Entry&) override {}
    World& world;
    ProcessIndex self;
    ObjectTable table{*this};
    std::map<Key, int> user;  // holds of the program
    std::map<std::uint64_t, Pin> pins;
    std::vector<Running> running;
    std::map<ProcessIndex, std::deque<Message>> in;
    bool dead = false;
  };

  static ProcessIndex index_of(std::size_t i) { return static_cast<ProcessIndex>(i + 1); }
  static std::optional<ObjectId> id_of(const Key& key) { return ObjectId{key.owner, ObjectKind::kValue, key.serial}; }
  Node& node(ProcessIndex index) { return *nodes_.at(index - 1); }
  Node& any_node() {
    for (;;) {
      Node& node = *nodes_[random_() % nodes_.size()];
      if (!node.dead) return node;
    }
  }
  // Something the node's program holds.
  std::optional<ObjectId> any_held(Node& node) {
    if (node.user.empty()) return std::nullopt;
    auto it = node.user.begin();
    std::advance(it, random_() % node.user.size());
    return id_of(it->first);
  }
  void send(ProcessIndex from, ProcessIndex to, Message message) {
    if (!node(to).dead) node(to).in[from].push_back(std::move(message));
  }

  void create(Node& node) {
    ThinVector<ObjectId> refs;
    for (auto left = random_() % 3; left > 0; --left) {
      if (const auto held = any_held(node)) refs.push_back(*held);
    }
    Entry& entry = node.table.create(ObjectKind::kValue, nullptr);
    contents_[{entry.id.owner, entry.id.serial}].assign(refs.begin(), refs.end());
    ++node.user[{entry.id.owner, entry.id.serial}];
    node.table.set_ready(entry, value_with(std::move(refs)));
  }
  void copy(Node& node) {
    const auto id = any_held(node);
    if (!id) return;
    node.table.add_hold(*node.table.find(*id));
    ++node.user[{id->owner, id->serial}];
  }
  void drop(Node& node) {
    const auto id = any_held(node);
    if (!id) return;
    const auto it = node.user.find({id->owner, id->serial});
    if (--it->second == 0) node.user.erase(it);
    node.table.drop_hold(*node.table.find(*id));
  }
  std::uint64_t pin(Node& node, const ObjectId& id, ProcessIndex receiver) {
    node.table.add_hold(*node.table.find(id));
    node.pins[++tokens_] = {id, receiver};
    return tokens_;
  }
  // A result that carries a reference.
  void carry(Node& node) {
    const auto id = any_held(node);
    Node& to = any_node();
    if (!id || &to == &node) return;
    send(node.self, to.self, {Message::kCarry, *id, pin(node, *id, to.self)});
  }
  // A call with an argument: the caller holds it until the call's end.
  void call(Node& node) {
    const auto id = any_held(node);
    Node& to = any_node();
    if (!id || &to == &node) return;
    send(node.self, to.self, {Message::kCall, *id, pin(node, *id, to.self)});
  }
  void end_call(Node& node) {
    if (node.running.empty()) return;
    const Running call = node.running.back();
    node.running.pop_back();
    // Its program may keep the argument.
    if (random_() % 2 == 0 && node.table.hold(call.id, true) != nullptr) ++node.user[{call.id.owner, call.id.serial}];
    node.table.drop_hold(*node.table.find(call.id));
    send(node.self, call.caller, {Message::kDone, call.id, call.token});
  }
  void fetch(Node& node) {
    const auto id = any_held(node);
    if (!id || id->owner == node.self) return;
    Entry* entry = node.table.find(*id);
    if (entry->ready() || entry->subscribed) return;
    entry->subscribed = true;
    send(node.self, id->owner, {Message::kSubscribe, *id});
  }

  void handle(Node& node, ProcessIndex from, const Message& message) {
    switch (message.kind) {
      case Message::kBorrow:
        return node.table.add_borrower(message.id, from);
      case Message::kRelease:
        return node.table.drop_borrower(message.id, from);
      case Message::kSubscribe: {
        Entry* entry = node.table.find(message.id);
        ASSERT_NE(entry, nullptr) << "a subscriber holds what it asks for";
        return node.send_object(from, *entry);
      }
      case Message::kObject:
        if (Entry* entry = node.table.find(message.id)) node.table.set_ready(*entry, message.payload);
        return;
      case Message::kCarry:
        if (node.table.hold(message.id, true) != nullptr) ++node.user[{message.id.owner, message.id.serial}];
        return send(node.self, from, {Message::kTaken, message.id, message.token});
      case Message::kCall:
        if (node.table.hold(message.id, false) != nullptr) {
          node.running.push_back({message.id, from, message.token});
        }
        return;
      case Message::kTaken:
      case Message::kDone:
        if (node.pins.erase(message.token) > 0) node.table.drop_hold(*node.table.find(message.id));
        return;
    }
  }
  bool deliver_one(Node& node, ProcessIndex from) {
    auto& ring = node.in[from];
    if (ring.empty()) return false;
    const Message message = std::move(ring.front());
    ring.pop_front();
    handle(node, from, message);
    return true;
  }
  void deliver_some(Node& node) {
    const auto from = index_of(random_() % nodes_.size());
    for (auto left = random_() % 4; left > 0; --left) deliver_one(node, from);
  }
  bool deliver_all(Node& node) {
    bool any = false;
    for (auto& other : nodes_) {
      while (deliver_one(node, other->self)) any = true;
    }
    return any;
  }
  void reap(Node& node) {
    deliver_all(node);
    node.table.reap();
  }
  // What it sent still counts; after that all its holds end everywhere.
  void kill(Node& victim) {
    std::size_t alive = 0;
    for (auto& node : nodes_) alive += node->dead ? 0 : 1;
    if (alive <= 2) return;
    for (auto& node : nodes_) {
      while (!node->dead && deliver_one(*node, victim.self)) {
      }
    }
    victim.dead = true;
    for (auto& node : nodes_) {
      if (node->dead) continue;
      node->table.drop_process(victim.self);
      node->table.fail_owner(victim.self, "killed");
      std::erase_if(node->pins, [&](const auto& item) {
        if (item.second.receiver != victim.self) return false;
        node->table.drop_hold(*node->table.find(item.second.id));
        return true;
      });
      // Calls of a caller that is gone run to their end, with arguments that nobody else may hold.
      std::erase_if(node->running, [&](const Running& call) {
        if (call.caller != victim.self) return false;
        node->table.drop_hold(*node->table.find(call.id));
        return true;
      });
    }
  }

  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::map<Key, std::vector<ObjectId>> contents_;
  std::uint64_t tokens_ = 0;
};

TEST(ObjectHistoryTest, NothingIsFreedWhileHeldAndEverythingAtTheEnd) {
  const std::uint64_t first = test_seed();
  const int rounds = std::getenv("BEELINE_TEST_SEED") != nullptr ? 1 : is_short() ? 20 : 100;
  for (int round = 0; round < rounds; ++round) {
    const std::uint64_t seed = first + static_cast<std::uint64_t>(round);
    SCOPED_TRACE("BEELINE_TEST_SEED=" + std::to_string(seed));
    World world(seed, 2 + seed % 4);
    for (int step = 0; step < 2000; ++step) {
      world.step();
      if (step % 16 == 0) world.check();
      if (::testing::Test::HasFailure()) return;
    }
    world.settle();
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace beeline::store
