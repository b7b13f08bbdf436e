// The publisher's side of a fan-out: what visitors ask and offer, and what they are told.
#include <algorithm>
#include <utility>

#include "beeline/transfer/agent.h"
#include "beeline/transfer/messages.h"

namespace beeline::transfer {

using messages::Step;
using messages::Type;

// A visitor offers only itself: its address is the one that it greeted with, and that is of the id it was admitted as.
Status Agent::read_address(Visitor& visitor, const messages::Hello& hello) const {
  if (hello.address.empty()) return Status::ok();
  BEELINE_ASSIGN(const Address address, Address::parse(hello.address));
  if (address.id != visitor.id) {
    return {Code::kInvalidArgument, "a caller with the address of another agent"};
  }
  visitor.address = address.text();
  if (!address.unix_path.empty()) visitor.traits.host = address.boot_id;
  visitor.traits.listens = !address.tcp.empty();
  return Status::ok();
}

Agent::Kept* Agent::find_kept(const std::string& name, std::uint64_t number) {
  const auto topic = topics_.find(name);
  if (topic == topics_.end()) return nullptr;
  const auto kept = std::ranges::find(topic->second.kept, number, &Kept::number);
  return kept != topic->second.kept.end() ? &*kept : nullptr;
}

void Agent::on_seek(Visitor& visitor, const messages::Seek& seek) {
  const int fd = visitor.socket.fd();
  const auto step = static_cast<Step>(seek.step);
  Kept* const kept = find_kept(seek.name, seek.number);
  if (kept == nullptr) {
    if (step == Step::kGaveUp || step == Step::kGetsOn) return;
    const std::string version = "version " + std::to_string(seek.number) + " of \"" + seek.name + "\"";
    return tell_parent(seek, fd, {Code::kStale, version + " is not kept by its publisher any more"});
  }
  // Who cannot be a parent takes no place of one that can.
  if (!topics_.at(seek.name).subscribers.contains(fd) || (!visitor.traits.listens && visitor.traits.host.empty())) {
    count_refusal();
    return tell_parent(seek, fd, {Code::kInvalidArgument, "only subscribers that others reach may relay"});
  }
  if (step == Step::kFailed) ++reparented_;
  kept->fan_out.seek(fd, visitor.traits, step, seek.serial);
  tell_parents(seek.name, *kept);
}

Status Agent::on_offer(Visitor& visitor, const messages::Offer& offer) {
  const int fd = visitor.socket.fd();
  const transport::Region copy = offer.copy.region();
  BEELINE_RETURN_IF_ERROR(check_region(copy));
  Kept* const kept = find_kept(offer.name, offer.number);
  const bool is_whole = kept != nullptr && copy.length == kept->registration->regions().front().length;
  if (is_whole && kept->fan_out.offer(fd, copy)) {
    tell_parents(offer.name, *kept);
    return Status::ok();
  }
  // A version that was dropped meanwhile is nobody's fault.
  if (kept != nullptr) count_refusal();
  tell(visitor, messages::encode(Type::kRecall, messages::Recall{offer.name, offer.number}));
  return Status::ok();
}

void Agent::tell_parents(const std::string& name, Kept& kept) {
  for (const FanOut::Decision& decision : kept.fan_out.decide()) {
    if (decision.is_beyond) ++overdue_;
    messages::Parent told{name, kept.number, decision.serial, 0, {}, {}, {}};
    if (decision.parent != FanOut::kPublisher) {
      told.owner = visitors_.at(decision.parent).address;
      told.copy = messages::CopiedRegion::of(kept.fan_out.copy_of(decision.parent));
    }
    tell(visitors_.at(decision.reader), messages::encode(Type::kParent, told));
  }
}

// That there is none.
void Agent::tell_parent(const messages::Seek& seek, int fd, const Status& status) {
  const auto code = static_cast<std::uint8_t>(status.code());
  const messages::Parent none{seek.name, seek.number, seek.serial, code, status.message(), {}, {}};
  tell(visitors_.at(fd), messages::encode(Type::kParent, none));
}

void Agent::leave_fan_outs(const std::string& name, Topic& topic, int fd) {
  for (Kept& kept : topic.kept) {
    kept.fan_out.leave(fd);
    tell_parents(name, kept);
  }
}

// Readers are told that there is nothing to read and to offer any more; what they have by then stays theirs.
void Agent::end_fan_out(const std::string& name, const Kept& kept) {
  for (const int fd : kept.fan_out.offering()) {
    tell(visitors_.at(fd), messages::encode(Type::kRecall, messages::Recall{name, kept.number}));
  }
  for (const FanOut::Decision& waiting : kept.fan_out.waiting()) {
    tell_parent({name, kept.number, 0, waiting.serial}, waiting.reader,
                {Code::kStale, "version " + std::to_string(kept.number) + " of \"" + name + "\" was replaced"});
  }
}

}  // namespace beeline::transfer
