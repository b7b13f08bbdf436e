#include "beeline/runtime/streams.h"

#include <iterator>

namespace beeline::runtime {

using store::Entry;
using store::ErrorKind;
using store::PayloadPtr;

void Streams::open(std::uint64_t task, const std::string* name) {
  Stream& stream = streams_[task];
  stream.name = name;
  stream.items.push_back(&objects_.create(store::ObjectKind::kValue, name));
}

Streams::Stream* Streams::find(std::uint64_t task) {
  const auto it = streams_.find(task);
  return it == streams_.end() ? nullptr : &it->second;
}

bool Streams::receive(OutgoingCall& call, std::uint64_t index, const PayloadPtr& value) {
  call.yielded = index + 1;
  if (value->is_error()) {
    // What the generator raised is its last item: it stands for those that it does not come to any more.
    call.items.for_each(objects_, [&](std::uint64_t lost, Entry& item) {
      if (lost > index) objects_.set_ready(item, value);
    });
  }
  Stream* stream = find(call.task);
  const bool is_next = stream != nullptr && !stream->ended && index == stream->received;
  Entry* item = call.items.find(index, objects_);
  if (item == nullptr && !is_next) return false;
  if (item == nullptr) {
    add(*stream, call, value);
    return true;
  }
  if (is_next) {
    // The collection of the items is made again: those that somebody has are the same in it.
    ++stream->received;
    objects_.add_hold(*item);
    stream->items.insert(std::prev(stream->items.end()), item);
  }
  if (item->ready() || !item->held()) return false;
  objects_.set_ready(*item, value);
  return true;
}

void Streams::add(Stream& stream, OutgoingCall& call, const PayloadPtr& value) {
  Entry& arrived = *stream.items.back();
  if (call.retries_left != 0) {
    arrived.producer = &call;
    call.items.set(stream.received, arrived, objects_);
  } else {
    arrived.remaking = call.remaking();
  }
  ++stream.received;
  // The one to wait for now is there before anybody hears of this one.
  stream.items.push_back(&objects_.create(store::ObjectKind::kValue, stream.name));
  objects_.set_ready(arrived, value);
}

void Streams::end(OutgoingCall& call, const PayloadPtr& failure) {
  call.items.for_each(objects_, [&](std::uint64_t index, Entry& item) {
    item.producer = nullptr;
    if (failure) {
      objects_.set_ready(item, failure);
    } else if (index >= call.yielded) {
      objects_.set_ready(
          item, store::make_failure(ErrorKind::kReconstruction,
                                    *call.options.name + ": the value of item " + std::to_string(index) +
                                        " is lost, and the generator has given only " + std::to_string(call.yielded) +
                                        " items when it ran again; it must give the same ones"));
    }
  });
  Stream* stream = find(call.task);
  if (stream == nullptr || stream->ended) return;
  stream->ended = true;
  set_end(*stream);
}

void Streams::set_end(const Stream& stream) {
  objects_.set_ready(*stream.items.back(),
                     store::make_failure(store::ErrorKind::kEndOfStream,
                                         "the stream of " + *stream.name + " has ended: there is no such item"));
}

Entry* Streams::next(std::uint64_t task) {
  Stream* stream = find(task);
  return stream == nullptr ? nullptr : stream->items.front();
}

Entry* Streams::take(std::uint64_t task) {
  Stream* stream = find(task);
  if (stream == nullptr || stream->items.size() == 1) return nullptr;
  Entry* item = stream->items.front();
  stream->items.pop_front();
  ++stream->taken;
  return item;
}

std::uint64_t Streams::taken(std::uint64_t task) const {
  const auto it = streams_.find(task);
  return it == streams_.end() ? 0 : it->second.taken;
}

std::vector<store::ObjectId> Streams::items(std::uint64_t task) const {
  std::vector<store::ObjectId> ids;
  const auto it = streams_.find(task);
  if (it == streams_.end()) return ids;
  for (std::size_t i = 0; i + 1 < it->second.items.size(); ++i) ids.push_back(it->second.items[i]->id);
  return ids;
}

void Streams::drop(std::uint64_t task) {
  const auto it = streams_.find(task);
  if (it == streams_.end()) return;
  const Stream stream = std::move(it->second);
  streams_.erase(it);
  if (!stream.ended) set_end(stream);  // for who waits for it yet
  for (Entry* item : stream.items) objects_.drop_hold(*item);
}

}  // namespace beeline::runtime
