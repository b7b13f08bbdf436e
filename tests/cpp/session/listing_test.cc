// What processes tell of their calls and objects to who asks, from inside a session and outside.
#include <algorithm>

#include "session/driver.h"

namespace beeline::runtime::session {
namespace {

using control::TaskState;

constexpr std::uint8_t kAll = control::kPartTasks | control::kPartObjects;

class ListingTest : public SessionTest {
 protected:
  control::State state(std::uint32_t limit = 1000) {
    control::GetState request;
    request.parts = kAll;
    request.limit = limit;
    request.within_ms = 20'000;
    auto state = process_->node_state(request);
    EXPECT_TRUE(state.is_ok()) << state.status().message();
    return state.is_ok() ? *state : control::State{};
  }
  const control::Listing& own(const control::State& state) {
    const auto row = std::find_if(state.processes.begin(), state.processes.end(),
                                  [&](const auto& process) { return process.index == process_->self(); });
    return row->listing;
  }
  static std::vector<control::TaskRow> tasks(const control::Listing& listing, const std::string& name) {
    std::vector<control::TaskRow> found;
    std::copy_if(listing.tasks.begin(), listing.tasks.end(), std::back_inserter(found),
                 [&](const auto& row) { return row.name == name; });
    return found;
  }
};

TEST_F(ListingTest, ACallIsToldByItsCallerAndItsExecutor) {
  const Actor actor = create();
  EXPECT_EQ(number(call(actor, "sum", numbers({1}))), 1);
  const auto now = state();
  const auto rows = tasks(own(now), "sum");
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].state, static_cast<std::uint8_t>(TaskState::kFinished));
  EXPECT_EQ(rows[0].actor, actor.id);
  EXPECT_FALSE(rows[0].of_executor);
  std::size_t executed = 0;
  for (const auto& process : now.processes) {
    for (const auto& row : process.listing.tasks) {
      if (!row.of_executor || row.task != rows[0].task) continue;
      ++executed;
      EXPECT_EQ(row.caller, process_->self());
      EXPECT_EQ(row.worker, rows[0].worker);
      EXPECT_EQ(process.index, row.worker);
      EXPECT_GT(row.started_ns, 0);
      EXPECT_GE(row.ended_ns, row.started_ns);
    }
  }
  EXPECT_EQ(executed, 1u);
}

TEST_F(ListingTest, TheLimitIsOfEachProcess) {
  const Actor actor = create();
  for (int i = 0; i < 10; ++i) number(call(actor, "sum", numbers({i})));
  const auto listing = own(state(3));
  EXPECT_EQ(listing.tasks.size(), 3u);
  EXPECT_GE(listing.tasks_left_out, 7u);
  EXPECT_EQ(listing.tasks_forgotten, 0u);
  EXPECT_LE(listing.objects.size(), 3u);
}

TEST_F(ListingTest, ObjectsSayWhyTheyAreHeld) {
  Entry* value = put(7);
  const auto now = state();
  const auto& objects = own(now).objects;
  const auto row = std::find_if(objects.begin(), objects.end(),
                                [&](const auto& object) { return object.serial == value->id.serial; });
  ASSERT_NE(row, objects.end());
  EXPECT_EQ(row->owner, process_->self());
  EXPECT_EQ(row->reference, static_cast<std::uint8_t>(control::Reference::kLocal));
  EXPECT_EQ(row->holds, 1u);
  EXPECT_GT(row->size_bytes, 0);
}

TEST_F(ListingTest, AToolIsToldTheSame) {
  const Actor actor = create();
  number(call(actor, "sum", numbers({1})));
  control::GetState request;
  request.parts = kAll;
  request.limit = 1000;
  request.within_ms = 20'000;
  const auto told = session_state(process_->registered().session_dir, request, Deadline::after(kPatience));
  ASSERT_TRUE(told.is_ok()) << told.status().message();
  EXPECT_EQ(tasks(own(*told), "sum").size(), 1u);
  for (const auto& process : told->processes) EXPECT_FALSE(process.unanswered);
}

}  // namespace
}  // namespace beeline::runtime::session
