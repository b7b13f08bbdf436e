// What must hold whatever overtakes what: orders of events that a whole session shows only now and then.
#include "session/scripted.h"

namespace beeline::runtime::session {
namespace {

using store::ErrorKind;

TEST_F(ScriptedTest, AFunctionStartsOnlyOnceItsWorkerKnowsOfTheLease) {
  Process& lessee = join();
  Process& worker = join();
  Entry* result = call(lessee, numbers({1}));
  const LeaseId lease = grant(lessee, worker, false);
  const auto is_runnable = [&] { return worker.executor().has_runnable(); };
  ASSERT_TRUE(eventually(worker, [&] { return !worker.executor().idle(); }));
  {
    const Locked locked(worker.lock());
    EXPECT_FALSE(is_runnable());
    EXPECT_FALSE(worker.executor().awaits_arguments());
  }
  // Another lessee's lease may have the same number.
  tell(worker, control::Type::kAssignLease, control::AssignLease{lessee.self() + 7, lease, {}, {}});
  IncomingCall* call = nullptr;
  EXPECT_EQ(worker.next_call(0, call, Deadline::after(kPatience)), Process::Next::kAssigned);
  {
    const Locked locked(worker.lock());
    EXPECT_FALSE(is_runnable());
  }
  assign(lessee, worker, lease);
  EXPECT_EQ(worker.next_call(1, call, Deadline::after(kPatience)), Process::Next::kAssigned) << "before any call";
  EXPECT_EQ(worker.assignment().lease->lease, lease);
  ASSERT_EQ(worker.next_call(2, call, Deadline::after(kPatience)), Process::Next::kCall);
  worker.finish(*call, {numbers({2})}, false);
  EXPECT_EQ(numbers_of(*get(lessee, result)).at(0), 2);
}

}  // namespace
}  // namespace beeline::runtime::session
