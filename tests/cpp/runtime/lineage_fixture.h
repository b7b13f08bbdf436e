// Calls that have ended and values that are lost, without processes.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "beeline/runtime/lineage.h"
#include "beeline/runtime/streams.h"

namespace beeline::runtime {

struct LineageEvents final : store::TableEvents {
  using Entry = store::Entry;
  using ObjectId = store::ObjectId;
  void send_borrow(const ObjectId& id) override { borrows.push_back(id); }
  void send_release(const ObjectId& id) override { releases.push_back(id); }
  void send_object(store::ProcessIndex, const Entry&) override {}
  void free_placement(const store::Placement& placement) override {
    EXPECT_TRUE(live.erase(placement.publication.slot) == 1) << "freed twice: " << placement.publication.slot;
  }
  void actor_unreferenced(const ObjectId&) override {}
  void lineage_unneeded(Entry& entry) override { lineage->forget(entry); }
  Lineage* lineage = nullptr;
  std::vector<ObjectId> borrows, releases;
  std::set<std::uint32_t> live;  // publications
};

class LineageTest : public ::testing::Test {
 protected:
  using Entry = store::Entry;
  using ObjectId = store::ObjectId;
  using PayloadPtr = store::PayloadPtr;

  void SetUp() override {
    table_.set_self(1);
    events_.lineage = &lineage_;
  }

  PayloadPtr placed() {
    auto payload = std::make_shared<store::Payload>();
    payload->placement = std::make_unique<store::Placement>();
    payload->placement->holder = 2;
    payload->placement->publication.slot = next_slot_++;
    events_.live.insert(payload->placement->publication.slot);
    return payload;
  }
  static PayloadPtr small(ThinVector<ObjectId> refs = {}) {
    auto payload = std::make_shared<store::Payload>();
    payload->skeleton = "small";
    payload->refs = std::move(refs);
    return payload;
  }
  Entry& put(PayloadPtr value) {
    Entry& entry = table_.create(store::ObjectKind::kValue, &name_);
    table_.set_ready(entry, std::move(value));
    return entry;
  }

  // A call that was made, with what it holds; its returns are held once more for the test.
  std::unique_ptr<OutgoingCall> make(const std::vector<Entry*>& dependencies, PayloadPtr args,
                                     std::uint32_t returns = 1, std::int32_t retries = 3) {
    auto call = std::make_unique<OutgoingCall>();
    call->options.name = &name_;
    call->options.retries = call->retries_left = retries;
    call->args = std::move(args);
    for (const auto& ref : call->args->refs) table_.hold(ref, true);
    for (Entry* dependency : dependencies) table_.add_hold(*dependency);
    call->dependencies.assign(dependencies.begin(), dependencies.end());
    for (std::uint32_t i = 0; i < returns; ++i) {
      Entry& made = table_.create(store::ObjectKind::kValue, &name_);
      table_.add_hold(made);
      made.producer = call.get();
      call->returns.push_back(&made);
    }
    return call;
  }
  // As the end of a call.
  void end(std::unique_ptr<OutgoingCall> call, std::vector<PayloadPtr> values) {
    const bool failed = values.front()->is_error();
    if (call->options.collects() && !failed) {
      const auto items = streams_.items(call->task);
      values = {small({items.begin(), items.end()})};
    }
    for (std::size_t i = 0; i < call->returns.size(); ++i) {
      Entry& made = *call->returns[i];
      made.producer = nullptr;
      if (!made.ready()) {
        table_.set_ready(made, values[i]);
      } else if (values[i]->placement) {
        events_.free_placement(*values[i]->placement);
      }
    }
    if (call->options.streams()) streams_.end(*call, failed ? values.front() : nullptr);
    lineage_.keep(*call, failed);
    if (call->options.collects()) streams_.drop(call->task);
    for (Entry* dependency : call->dependencies) table_.drop_hold(*dependency);
    for (const auto& ref : call->args->refs) table_.drop_hold(*table_.find(ref));
    for (Entry* made : call->returns) table_.drop_hold(*made);
  }
  // Of a call with one return.
  Entry& result(const std::vector<Entry*>& dependencies, PayloadPtr args = small(), std::int32_t retries = 3) {
    auto call = make(dependencies, std::move(args), 1, retries);
    Entry& made = *call->returns.front();
    end(std::move(call), {placed()});
    return made;
  }
  void drop(Entry& entry) {
    table_.drop_hold(entry);
    table_.reap();
  }

  // A call whose items come by give(), and its next run.
  std::unique_ptr<OutgoingCall> make_stream(std::int32_t retries = 3, std::uint8_t flags = kCallStreams,
                                            const std::vector<Entry*>& dependencies = {}) {
    auto call = make(dependencies, small(), 1, retries);
    call->options.flags = flags;
    call->task = call->returns.front()->id.serial;
    streams_.open(call->task, &name_);
    return call;
  }
  std::unique_ptr<OutgoingCall> restart(Entry& lost) {
    auto call = lineage_.restart(lost);
    if (call->options.collects() && !call->returns.front()->ready()) streams_.open(call->task, &name_);
    return call;
  }
  bool give(OutgoingCall& call, std::uint64_t index, const PayloadPtr& value) {
    const bool is_taken = streams_.receive(call, index, value);
    if (!is_taken && value->placement) events_.free_placement(*value->placement);
    return is_taken;
  }
  // A stream that has ended, whose items the test has taken; its generator is gone.
  std::vector<Entry*> items(std::uint64_t count, std::int32_t retries = 3) {
    auto call = make_stream(retries);
    const std::uint64_t task = call->task;
    Entry& completed = *call->returns.front();
    std::vector<Entry*> taken;
    for (std::uint64_t i = 0; i < count; ++i) {
      EXPECT_TRUE(give(*call, i, placed()));
      taken.push_back(streams_.take(task));
    }
    end(std::move(call), {small()});
    streams_.drop(task);
    drop(completed);
    return taken;
  }
  void expect_nothing_left() {
    table_.reap();
    EXPECT_EQ(table_.stats().own, 0u);
    EXPECT_EQ(lineage_.stats().records, 0u);
    EXPECT_EQ(lineage_.stats().bytes, 0u);
    EXPECT_TRUE(events_.live.empty());
  }

  const std::string name_ = "f";
  std::uint32_t next_slot_ = 1;
  LineageEvents events_;
  store::ObjectTable table_{events_};
  Lineage lineage_{table_, 1u << 20};
  Streams streams_{table_};
};

}  // namespace beeline::runtime
