#include "beeline/ring/mailbox.h"

#include <new>

namespace beeline::ring {
namespace {

// Sets the channel's bit, then the summary's: collect() clears them in the opposite order, so that a bit set
// meanwhile leaves the summary set. All seq_cst: pairs with entrust(), which publishes the sleeper and then looks
// at the summary.
void set_bit(MailboxPage& page, std::uint32_t channel) {
  page.channels[channel / 64].fetch_or(std::uint64_t{1} << (channel % 64), std::memory_order_seq_cst);
  page.summary.fetch_or(std::uint64_t{1} << (channel / 64), std::memory_order_seq_cst);
}

std::atomic<std::uint32_t>& word_of(MailboxPage& page, Sleeper who) {
  return who == Sleeper::kWaiter ? page.waiter_word : page.helper_word;
}

void wake_word(MailboxPage& page, Sleeper who) {
  auto& word = word_of(page, who);
  word.fetch_add(1, std::memory_order_seq_cst);
  os::futex_wake(word, 1);
}

}  // namespace

Result<Doorbell> Doorbell::attach(const os::Fd& memory, std::uint32_t channel) {
  if (channel >= kMaxChannels) {
    return Status(Code::kCorrupt,
                  "a peer names channel " + std::to_string(channel) + " of " + std::to_string(kMaxChannels));
  }
  Doorbell doorbell;
  BEELINE_ASSIGN(doorbell.mapping_,
                 os::Mapping::map(memory.get(), 0, sizeof(MailboxPage), os::Access::kReadWrite, os::Sharing::kShared));
  doorbell.page_ = reinterpret_cast<MailboxPage*>(doorbell.mapping_.data());
  if (doorbell.page_->magic != MailboxPage::kMagic) return Status(Code::kCorrupt, "a peer's mailbox has no magic");
  doorbell.channel_ = channel;
  return doorbell;
}

void Doorbell::ring(Urgency urgency) const {
  set_bit(*page_, channel_);
  auto sleeper = page_->sleeper.load(std::memory_order_seq_cst);
  while (sleeper != static_cast<std::uint32_t>(Sleeper::kNobody)) {
    if (urgency == Urgency::kSoon && sleeper == static_cast<std::uint32_t>(Sleeper::kHelper) &&
        page_->watched.load(std::memory_order_seq_cst) != 0) {
      return;
    }
    // The one sender that takes the sleeper off the page wakes it.
    if (page_->sleeper.compare_exchange_weak(sleeper, static_cast<std::uint32_t>(Sleeper::kNobody),
                                             std::memory_order_seq_cst)) {
      return wake_word(*page_, static_cast<Sleeper>(sleeper));
    }
  }
}

Result<Mailbox> Mailbox::create() {
  Mailbox mailbox;
  BEELINE_ASSIGN(mailbox.memory_, os::make_memfd("beeline-mailbox", sizeof(MailboxPage)));
  BEELINE_ASSIGN(mailbox.mapping_, os::Mapping::map(mailbox.memory_.get(), 0, sizeof(MailboxPage),
                                                    os::Access::kReadWrite, os::Sharing::kShared));
  mailbox.page_ = new (mailbox.mapping_.data()) MailboxPage{};
  mailbox.page_->magic = MailboxPage::kMagic;
  return mailbox;
}

void Mailbox::mark(std::uint32_t channel) {
  set_bit(*page_, channel);
}

std::uint32_t Mailbox::ticket(Sleeper who) const {
  return word_of(*page_, who).load(std::memory_order_seq_cst);
}

os::FutexWait Mailbox::sleep_draining(std::uint32_t ticket, Deadline deadline) {
  if (entrust(Sleeper::kWaiter)) {
    take_back();
    return os::FutexWait::kWoken;
  }
  const auto outcome = os::futex_wait(page_->waiter_word, ticket, deadline);
  take_back();
  return outcome;
}

os::FutexWait Mailbox::sleep_helping(std::uint32_t ticket, Deadline deadline) {
  return os::futex_wait(page_->helper_word, ticket, deadline);
}

bool Mailbox::entrust(Sleeper who) {
  page_->sleeper.store(static_cast<std::uint32_t>(who), std::memory_order_seq_cst);
  return has_mail();
}

void Mailbox::wake(Sleeper who) {
  wake_word(*page_, who);
}

}  // namespace beeline::ring
