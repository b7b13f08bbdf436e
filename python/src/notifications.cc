#include "notifications.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <string_view>
#include <utility>

#include "dicts.h"
#include "waits.h"

namespace beeline::python {
namespace {

NotificationRow notification_row(const transfer::Notification& notification) {
  const auto& [id, name, payload] = notification;
  return {id, name, nb::bytes(payload.data(), payload.size())};
}

}  // namespace

NotificationRow PyNotifications::next(std::optional<double> timeout_s) const {
  const auto wait = wait_for(timeout_s);
  const auto first = without_gil([&] { return own_->next(wait); });
  require(first.status(), "wait for a notification");
  return notification_row(*first);
}

std::optional<NotificationRow> PyNotifications::poll() const {
  if (const auto first = own_->poll()) return notification_row(*first);
  require(own_->ended(), "look for a notification");
  return std::nullopt;
}

void PyNotifications::drain() const {
  os::drain_eventfd(own_->fd());
}

nb::dict PyNotifications::stats() const {
  const auto [waiting, refused, dropped] = own_->stats();
  return dict_of("waiting", waiting, "refused", refused, "dropped", dropped);
}

void tell(transfer::Peer& peer, const std::string& topic, const nb::bytes& payload, const os::Wait& wait) {
  const auto bytes = as_bytes(std::string_view(payload.c_str(), payload.size()));
  const Status status = without_gil([&] { return peer.notify(topic, bytes, wait); });
  if (status) return;
  const std::string what = "notify agent \"" + peer.address().name + "\"";
  const bool is_refused = status.code() == Code::kNotFound || status.code() == Code::kResourceExhausted;
  if (is_refused) raise_error(store::ErrorKind::kRefused, what + ": " + status.message());
  require(status, what);
}

void bind_notifications(nb::module_& m) {
  nb::class_<PyNotifications>(m, "Notifications")
      .def("next", &PyNotifications::next, nb::arg("timeout_s").none())
      .def("poll", &PyNotifications::poll)
      .def("fileno", &PyNotifications::fileno)
      .def("drain", &PyNotifications::drain)
      .def("stats", &PyNotifications::stats);
}

}  // namespace beeline::python
