#include "beeline/runtime/streams.h"

namespace beeline::runtime {

using store::Entry;
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

bool Streams::receive(std::uint64_t task, std::uint64_t index, const PayloadPtr& value) {
  Stream* stream = find(task);
  if (stream == nullptr || index != stream->received) return false;
  ++stream->received;
  Entry* arrived = stream->items.back();
  // The one to wait for now is there before anybody hears of this one.
  stream->items.push_back(&objects_.create(store::ObjectKind::kValue, stream->name));
  objects_.set_ready(*arrived, value);
  return true;
}

void Streams::end(std::uint64_t task) {
  Stream* stream = find(task);
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
