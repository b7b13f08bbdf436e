// What must hold whatever overtakes what: orders of events that a whole session shows only now and then.
#include "session/scripted.h"

#include <algorithm>
#include <latch>
#include <thread>

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
  tell(worker, control::Type::kAssignLease, control::AssignLease{lessee.self() + 7, lease, {}, {}, {}});
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

// Else the daemon would place another one on its CPU, before it has begun.
TEST_F(ScriptedTest, AFunctionWhoseDefinitionIsOnItsWayLendsNoCpu) {
  Process& lessee = join();
  Process& worker = join();
  Shape& shape = lessee.shape({{"CPU", 1}}, false, {}, {}, "scripted");
  CallOptions options;
  options.name = lessee.intern("scripted");
  options.function = 42;
  lessee.define_function(options.function, "definition");
  lessee.call_function(shape, options, numbers({1}), {});
  // The worker reads nothing until the lessee answers nothing.
  Locked worker_is_held(worker.lock());
  grant(lessee, worker);
  ASSERT_TRUE(eventually(lessee, [&] { return shape.queued.empty(); }));
  std::latch lessee_is_held(1), done(1);
  std::jthread holder([&] {
    const Locked locked(lessee.lock());
    lessee_is_held.count_down();
    done.wait();
  });
  lessee_is_held.wait();
  worker_is_held.unlock();
  IncomingCall* call = nullptr;
  EXPECT_EQ(worker.next_call(0, call, Deadline::after(kPatience)), Process::Next::kAssigned);
  EXPECT_TRUE(eventually(worker, [&] { return !worker.executor().idle(); }));
  {
    const Locked locked(worker.lock());
    EXPECT_FALSE(worker.executor().has_runnable());
    EXPECT_FALSE(worker.executor().awaits_arguments());
  }
  done.count_down();
}

// Two calls on one lease, the first being executed, the second sent ahead.
class CancelTest : public ScriptedTest {
 protected:
  void SetUp() override {
    ScriptedTest::SetUp();
    lessee_ = &join();
    worker_ = &join();
    Shape& shape = lessee_->shape({{"CPU", 1}}, false, {}, {}, "scripted");
    {
      const Locked locked(lessee_->lock());
      shape.mean_ns = 1;
    }
    first_ = call(*lessee_, numbers({1}), {}, 3);
    second_ = call(*lessee_, numbers({2}), {}, 3);
    grant(*lessee_, *worker_);
    running_ = take(*worker_);
    ASSERT_TRUE(eventually(*worker_, [&] { return worker_->executor().has_runnable(); }));
  }

  Process* lessee_ = nullptr;
  Process* worker_ = nullptr;
  Entry* first_ = nullptr;
  Entry* second_ = nullptr;
  IncomingCall* running_ = nullptr;
};

TEST_F(CancelTest, ACallThatComesBackUnstartedIsOver) {
  {
    const Locked locked(worker_->lock());
    EXPECT_TRUE(lessee_->cancel(*second_, false, false));
    worker_->executor().set_blocked(true);  // gives it back before it hears of the cancellation
  }
  EXPECT_EQ(error(*lessee_, second_), ErrorKind::kCancelled);
  {
    const Locked locked(worker_->lock());
    worker_->executor().set_blocked(false);
  }
  worker_->finish(*running_, {numbers({1})}, false);
  EXPECT_EQ(numbers_of(*get(*lessee_, first_)).at(0), 1);
}

TEST_F(CancelTest, ACallWhoseWorkerEndsBeforeItStartedIsOver) {
  {
    const Locked locked(worker_->lock());
    EXPECT_TRUE(lessee_->cancel(*second_, false, false));
    worker_->peers().send(lessee_->self(), static_cast<Message>(99), {});  // ends the link
    ASSERT_TRUE(eventually(*lessee_, [&] { return lessee_->peers().is_gone(worker_->self()); }));
  }
  EXPECT_EQ(error(*lessee_, second_), ErrorKind::kCancelled);
  EXPECT_TRUE(lessee_->cancel(*first_, false, false)) << "it is to run again";
  EXPECT_EQ(error(*lessee_, first_), ErrorKind::kCancelled);
}

TEST_F(ScriptedTest, ALeaseOnAWorkerThatIsKnownToBeGoneIsTradedForAnother) {
  Process& lessee = join();
  Process& worker = join();
  Process& successor = join();
  Entry* first = call(lessee, numbers({1}));
  const LeaseId idle = grant(lessee, worker);
  IncomingCall* met = take(worker);
  ASSERT_NE(met, nullptr);
  worker.finish(*met, {numbers({1})}, false);
  EXPECT_EQ(numbers_of(*get(lessee, first)).at(0), 1);
  EXPECT_EQ(hear<control::ReturnLease>(lessee, control::Type::kReturnLease).lease, idle);
  // The worker ends as it is granted anew, and its own link tells of that first.
  Entry* second = call(lessee, numbers({2}));
  const auto request = hear<control::RequestLease>(lessee, control::Type::kRequestLease);
  const auto gone = worker.self();
  end(worker);
  ASSERT_TRUE(eventually(lessee, [&] { return lessee.peers().is_gone(gone); }));
  tell(lessee, control::Type::kLeaseGranted, control::LeaseGranted{request.lease, gone, ::getpid()});
  const auto returned = hear<control::ReturnLease>(lessee, control::Type::kReturnLease);
  EXPECT_EQ(returned.lease, request.lease);
  EXPECT_EQ(static_cast<control::WorkerAfter>(returned.worker), control::WorkerAfter::kBroken);
  serve(lessee, successor, second, 3);
}

TEST_F(ScriptedTest, TheDaemonsWordOfAWorkersEndFailsOnlyWhatItHadBegun) {
  Process& lessee = join();
  Process& worker = join();
  Process& successor = join();
  Entry* begun = call(lessee, numbers({1}));
  Entry* waiting = call(lessee, numbers({2}));
  const LeaseId lease = grant(lessee, worker);
  ASSERT_NE(take(worker), nullptr);
  tell(lessee, control::Type::kLeaseFailed,
       control::LeaseFailed{lease, static_cast<std::uint8_t>(Code::kPeerLost), "killed by SIGKILL"});
  EXPECT_EQ(error(lessee, begun), ErrorKind::kWorkerCrashed);
  EXPECT_FALSE(lessee.ready(*waiting)) << "it was sent to nobody";
  serve(lessee, successor, waiting, 3);
}

TEST_F(ScriptedTest, TheLastAnswerOfAWorkerThatHasEndedBringsItNoCall) {
  Process& lessee = join();
  Process& worker = join();
  Process& successor = join();
  Entry* answered = call(lessee, numbers({1}));
  Entry* waiting = call(lessee, numbers({2}));
  grant(lessee, worker);
  IncomingCall* running = take(worker);
  ASSERT_NE(running, nullptr);
  {
    const Locked locked(lessee.lock());
    static_cast<PeerEvents&>(lessee).on_peer_ending(worker.self());
  }
  worker.finish(*running, {numbers({1})}, false);
  EXPECT_EQ(numbers_of(*get(lessee, answered)).at(0), 1);
  serve(lessee, successor, waiting, 3);
}

TEST_F(ScriptedTest, AWaitThatNamesAnObjectOfADeadOwnerTwiceEnds) {
  Process& owner = join();
  Process& reader = join();
  const auto gone = owner.self();
  {
    const Locked locked(reader.lock());
    reader.peers().connect(gone);
  }
  ASSERT_TRUE(eventually(reader, [&] { return reader.peers().has_link(gone); }));
  end(owner);
  ASSERT_TRUE(eventually(reader, [&] { return reader.peers().is_gone(gone); }));
  Entry* lost = reader.restore({gone, store::ObjectKind::kValue, 7});
  Entry* const twice[] = {lost, lost};
  EXPECT_EQ(reader.wait(twice, 2, Deadline::after(kPatience)), WaitOutcome::kDone);
  EXPECT_EQ(error(reader, lost), ErrorKind::kOwnerDied);
}

TEST_F(ScriptedTest, AConsumerOfAnAttemptThatItsOwnerNeverSawGetsTheNext) {
  Process& owner = join();
  Process& producer = join();
  Process& consumer = join();
  Process& successor = join();
  Process& last = join();
  Entry* produced = call(owner, numbers({1}), {}, 1);
  grant(owner, producer);
  ASSERT_NE(take(producer), nullptr);
  Entry* consumed = call(owner, numbers({1}), {produced});
  grant(owner, consumer);
  ASSERT_TRUE(eventually(consumer, [&] { return !consumer.executor().idle(); }));
  // It tells the consumer, and ends before it tells the owner.
  const std::vector<std::byte> bytes(1000, std::byte{1});
  const SourceBuffer source{bytes.data(), bytes.size(), false};
  auto placement = producer.publish({&source, 1}, Mode::kStored);
  ASSERT_TRUE(placement.is_ok()) << placement.status().message();
  store::Payload value;
  value.skeleton = "4";
  value.placement = std::move(*placement);
  {
    const Locked locked(producer.lock());
    Bytes message;
    Writer writer(message);
    writer.write(produced->id);
    store::encode_payload(value, writer);
    producer.peers().send(consumer.self(), Message::kObject, message);
  }
  IncomingCall* consuming = take(consumer);
  ASSERT_NE(consuming, nullptr);
  Entry* argument = consuming->dependencies.at(0);
  EXPECT_EQ(numbers_of(*consumer.payload(*argument)).at(0), 4);
  const auto gone = producer.self();
  end(producer);
  ASSERT_TRUE(eventually(consumer, [&] { return consumer.peers().is_gone(gone); }));
  // What it passes on meanwhile comes from the owner.
  Entry* passed = call(consumer, numbers({1}), {argument});
  grant(consumer, last);
  // The next attempt.
  grant(owner, successor);
  IncomingCall* again = take(successor);
  ASSERT_NE(again, nullptr);
  EXPECT_EQ(again->header.attempt, 1u);
  successor.finish(*again, {numbers({5})}, false);
  EXPECT_EQ(numbers_of(*get(owner, produced)).at(0), 5);
  EXPECT_TRUE(eventually(consumer, [&] { return argument->payload->is_inline(); }));
  EXPECT_EQ(numbers_of(*consumer.payload(*argument)).at(0), 5);
  IncomingCall* passing = take(last);
  ASSERT_NE(passing, nullptr);
  EXPECT_EQ(numbers_of(*last.payload(*passing->dependencies.at(0))).at(0), 5);
  last.finish(*passing, {numbers({6})}, false);
  EXPECT_EQ(numbers_of(*get(consumer, passed)).at(0), 6);
  consumer.finish(*consuming, {numbers({7})}, false);
  EXPECT_EQ(numbers_of(*get(owner, consumed)).at(0), 7);
}

TEST_F(ScriptedTest, AProducerTellsTheConsumerWhileTheOwnerDoesNothing) {
  Process& owner = join();
  Process& producer = join();
  Process& consumer = join();
  Entry* produced = call(owner, numbers({1}));
  grant(owner, producer);
  IncomingCall* producing = take(producer);
  ASSERT_NE(producing, nullptr);
  {
    const Locked locked(owner.lock());
    owner.peers().connect(consumer.self());
  }
  ASSERT_TRUE(eventually(owner, [&] { return owner.peers().is_delivered(consumer.self()); }));
  Entry* consumed = call(owner, numbers({1}), {produced});
  grant(owner, consumer);
  ASSERT_TRUE(eventually(producer, [&] { return !producing->forwards.empty(); })) << "the owner asked it to tell";
  ASSERT_EQ(producing->forwards.size(), 1u);
  EXPECT_EQ(producing->forwards.front().consumer, consumer.self());
  {
    const Locked locked(owner.lock());  // as long as it is held, the owner takes no message
    producer.finish(*producing, {numbers({4})}, false);
    IncomingCall* consuming = take(consumer);
    ASSERT_NE(consuming, nullptr);
    EXPECT_EQ(produced->payload, nullptr) << "the owner knows of it";
    EXPECT_EQ(numbers_of(*consumer.payload(*consuming->dependencies.at(0))).at(0), 4);
    consumer.finish(*consuming, {numbers({5})}, false);
  }
  EXPECT_EQ(numbers_of(*get(owner, consumed)).at(0), 5);
  EXPECT_EQ(numbers_of(*get(owner, produced)).at(0), 4);
}

// Else it could come, be used by another call and be gone, before the call that waits for it is there.
TEST_F(ScriptedTest, AValueDoesNotOvertakeTheCallThatWaitsForIt) {
  Process& owner = join();
  Process& producer = join();
  Process& consumer = join();
  Entry* produced = call(owner, numbers({1}));
  grant(owner, producer);
  IncomingCall* producing = take(producer);
  ASSERT_NE(producing, nullptr);
  Entry* consumed = nullptr;
  {
    // As long as it is held, the consumer does not take the owner's link: the call waits in its ring.
    const Locked locked(consumer.lock());
    consumed = call(owner, numbers({1}), {produced});
    grant(owner, consumer);
    const auto is_sent = [&] { return static_cast<OutgoingCall*>(consumed->producer)->sent_to == consumer.self(); };
    ASSERT_TRUE(eventually(owner, is_sent));
    const Locked looking(owner.lock());
    EXPECT_TRUE(static_cast<OutgoingCall*>(produced->producer)->forwards.empty()) << "the producer was asked to tell";
    EXPECT_EQ(produced->subscribers, std::vector<ProcessIndex>{consumer.self()});
  }
  producer.finish(*producing, {numbers({4})}, false);
  IncomingCall* consuming = take(consumer);
  ASSERT_NE(consuming, nullptr);
  EXPECT_EQ(numbers_of(*consumer.payload(*consuming->dependencies.at(0))).at(0), 4);
  consumer.finish(*consuming, {numbers({5})}, false);
  EXPECT_EQ(numbers_of(*get(owner, consumed)).at(0), 5);
}

TEST_F(ScriptedTest, AnObjectThatNobodyHoldsAnyMoreTakesNoValue) {
  Process& owner = join();
  Process& consumer = join();
  Entry* inner = owner.put(numbers({1}), nullptr);
  const store::ObjectId id{owner.self(), store::ObjectKind::kValue, 12345};
  store::Payload value;
  value.skeleton = "4";
  value.refs.push_back(inner->id);
  Bytes message;
  Writer writer(message);
  writer.write(id);
  store::encode_payload(value, writer);
  {
    // A call that waited for it was cancelled, and its owner was told so; then its producer's word comes.
    const Locked locked(consumer.lock());
    auto& objects = consumer.objects();
    Entry* const entry = objects.hold(id, false);
    entry->subscribed = true;
    objects.drop_hold(*entry);
    EXPECT_TRUE(static_cast<PeerEvents&>(consumer).on_message(owner.self(), Message::kObject, message).is_ok());
    EXPECT_EQ(objects.find(inner->id), nullptr) << "it took hold of what the owner may have freed";
    EXPECT_FALSE(entry->subscribed) << "who holds it again would wait for an answer that came already";
    objects.reap();
    EXPECT_EQ(objects.find(id), nullptr);
  }
  owner.drop_hold(*inner);
}

TEST_F(ScriptedTest, AValueWhoseHolderEndedIsToldOnceItIsCopied) {
  constexpr std::size_t kSize = 8u << 20;
  Process& owner = join();
  Process& producer = join();
  Process& consumer = join();
  Entry* produced = call(owner, numbers({1}));
  grant(owner, producer);
  IncomingCall* producing = take(producer);
  ASSERT_NE(producing, nullptr);
  const std::vector<std::byte> bytes(kSize, std::byte{7});
  const SourceBuffer source{bytes.data(), bytes.size(), false};
  auto placement = producer.publish({&source, 1}, Mode::kStored);
  ASSERT_TRUE(placement.is_ok()) << placement.status().message();
  auto value = std::make_shared<store::Payload>();
  value->skeleton = "7";
  value->placement = std::move(*placement);
  producer.finish(*producing, {value}, false);
  EXPECT_EQ(get(owner, produced)->placement->holder, producer.self());
  const auto gone = producer.self();
  end(producer);
  ASSERT_TRUE(eventually(owner, [&] { return owner.peers().is_gone(gone); }));
  Entry* consumed = call(owner, numbers({1}), {produced});
  grant(owner, consumer);
  IncomingCall* consuming = take(consumer);
  ASSERT_NE(consuming, nullptr);
  const auto given = consumer.payload(*consuming->dependencies.at(0));
  ASSERT_TRUE(!given->is_error()) << given->failure->message;
  EXPECT_EQ(given->placement->holder, owner.self());
  auto opened = consumer.open(*given->placement, Deadline::after(kPatience));
  ASSERT_TRUE(opened.is_ok()) << opened.status().message();
  ASSERT_EQ(opened->buffers.at(0).size(), kSize);
  EXPECT_TRUE(std::all_of(opened->buffers.at(0).begin(), opened->buffers.at(0).end(),
                          [](std::byte byte) { return byte == std::byte{7}; }));
  EXPECT_EQ(owner.transfer_stats().rehomed_objects, 1u);
  consumer.finish(*consuming, {numbers({2})}, false);
  EXPECT_EQ(numbers_of(*get(owner, consumed)).at(0), 2);
}

}  // namespace
}  // namespace beeline::runtime::session
