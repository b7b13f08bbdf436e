// Notifications between agents, as Python sends and takes them.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include "beeline/transfer/notifications.h"
#include "beeline/transfer/peer.h"
#include "bindings.h"

namespace beeline::python {

// (the sender's id, its name, payload)
using NotificationRow = std::tuple<std::string, std::string, nb::bytes>;

class PyNotifications {
 public:
  explicit PyNotifications(std::shared_ptr<transfer::Notifications> own) : own_(std::move(own)) {}

  [[nodiscard]] NotificationRow next(std::optional<double> timeout_s) const;
  [[nodiscard]] std::optional<NotificationRow> poll() const;
  // For event loops: readable when one may have come.
  [[nodiscard]] int fileno() const { return own_->fd(); }
  void drain() const;
  [[nodiscard]] nb::dict stats() const;

 private:
  std::shared_ptr<transfer::Notifications> own_;
};

// Raises NotificationRefusedError where the peer does not take it.
void tell(transfer::Peer& peer, const std::string& topic, const nb::bytes& payload, const os::Wait& wait);

void bind_notifications(nb::module_& m);

}  // namespace beeline::python
