// Streams: the items of calls that yield, and those that are made again.
#include "beeline/runtime/caller.h"
#include "beeline/runtime/process.h"

namespace beeline::runtime {

using store::Entry;
using store::PayloadPtr;

Status Caller::on_item(ProcessIndex from, Reader& reader) {
  const auto header = reader.read<ItemHeader>();
  BEELINE_ASSIGN(PayloadPtr value, store::decode_payload(reader));
  if (!reader.ok()) return {Code::kCorrupt, "an item that ends early"};
  OutgoingCall* call = find_call(from, header.task, header.attempt);
  if (call == nullptr || !streams_.receive(*call, header.index, value)) {
    // Received from an earlier attempt, or given up by this one, or wanted by nobody any more.
    refuse_values(from, {value}, header.refs_token);
    return Status::ok();
  }
  if (header.refs_token != 0) process_.peers().send(from, Message::kRefsTaken, view_of(header.refs_token));
  return Status::ok();
}

Entry* Caller::take_item(Entry& stream) {
  Entry* item = streams_.take(stream.id.serial);
  if (const auto* call = static_cast<const OutgoingCall*>(stream.producer); item != nullptr && call != nullptr) {
    say_taken(*call, streams_.taken(call->task));
  }
  return item;
}

// The call goes on to its end, as on Ray, and what it yields is dropped.
void Caller::drop_stream(const store::ObjectId& stream) {
  streams_.drop(stream.serial);
  const Entry* entry = process_.objects().find(stream);
  const auto* call = entry != nullptr ? static_cast<const OutgoingCall*>(entry->producer) : nullptr;
  if (call != nullptr) say_taken(*call, TakenRecord::kAll);
}

void Caller::say_taken(const OutgoingCall& call, std::uint64_t count) {
  if (call.options.window == 0 || call.sent_to == 0) return;
  process_.peers().send(call.sent_to, Message::kTaken, view_of(TakenRecord{call.task, count}));
}

// A run for the sake of a collection gathers its items as the first one did. Any other goes on without pausing, to its
// end: nobody takes from it.
void Caller::reopen_stream(const OutgoingCall& call) {
  if (call.options.collects() && !call.returns.front()->ready()) streams_.open(call.task, call.options.name);
}

// Of an item that was lost, or let go of and is needed after all, when the last attempt had given it already.
Entry* Caller::item_awaited_in_vain(const OutgoingCall& call) {
  Entry* awaited = nullptr;
  call.items.for_each(process_.objects(), [&](std::uint64_t, Entry& item) {
    if (!item.ready() && item.awaited()) awaited = &item;
  });
  return awaited;
}

}  // namespace beeline::runtime
