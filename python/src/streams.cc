// Streams as their callers see them: the references of what a generator yields, as it yields them.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>

#include "bindings.h"

namespace beeline::python {
namespace {

using runtime::WaitOutcome;

// False where there is no value: that of an item may have been lost.
bool is_end(const store::PayloadPtr& payload) {
  return payload && payload->is_error() && payload->failure->kind == store::ErrorKind::kEndOfStream;
}

// Any number of threads may take items: each gets another one.
class Stream {
 public:
  explicit Stream(nb::object completed) : home_(&process()), completed_(std::move(completed)) {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {
    if (home_ == process_or_null()) home_->drop_stream(entry());
  }

  // The reference to the next item, or, as the last one, to what the call failed with. Raises StopIteration after
  // that. None where the timeout has passed.
  nb::object next(std::optional<double> timeout_s) {
    const auto deadline = Deadline::after_seconds(timeout_s);
    for (;;) {
      // At once where it has come: a value that was lost since is made again for whoever asks for it.
      if (store::Entry* taken = process().take_item(entry())) {
        return nb::cast(new Ref(*taken), nb::rv_policy::take_ownership);
      }
      const Ref item = peek();
      store::Entry* waited = &item.entry();
      const auto outcome =
          wait_with_signals(deadline, [&](Deadline slice) { return process().wait({&waited, 1}, 1, slice); });
      if (outcome == WaitOutcome::kTimedOut) return nb::none();
      if (is_end(process().payload(*waited))) return last();
    }
  }

  // The object of the next item, or of the end.
  [[nodiscard]] Ref peek() const { return Ref(*process().next_item(entry())); }
  [[nodiscard]] const nb::object& completed() const { return completed_; }

  [[nodiscard]] bool is_finished() const {
    const Ref item = peek();
    auto& running = process();
    return running.ready(item.entry()) && is_end(running.payload(item.entry())) &&
           (failure_given_ || !running.payload(entry())->is_error());
  }
  [[nodiscard]] bool next_ready() const {
    const Ref item = peek();
    return process().ready(item.entry()) && !is_finished();
  }

 private:
  [[nodiscard]] store::Entry& entry() const { return nb::cast<Ref&>(completed_).entry(); }

  nb::object last() {
    if (failure_given_ || !process().payload(entry())->is_error()) throw nb::stop_iteration();
    failure_given_ = true;
    return completed_;
  }

  runtime::Process* home_;
  nb::object completed_;  // the call's one return, an ObjectRef
  bool failure_given_ = false;
};

}  // namespace

nb::object make_stream(store::Entry& stream) {
  nb::object completed = nb::cast(new Ref(stream), nb::rv_policy::take_ownership);
  return nb::cast(new Stream(std::move(completed)), nb::rv_policy::take_ownership);
}

// A pickle, by hand: a call of beeline.api.streams.collection with the ids.
store::PayloadPtr collection_of(std::vector<store::ObjectId> items) {
  auto payload = std::make_shared<store::Payload>();
  auto& text = payload->skeleton;
  text =
      "\x80\x03"
      "cbeeline.api.streams\ncollection\n(";
  for (const auto& item : items) {
    const auto binary = binary_of(item);
    text += 'C';  // SHORT_BINBYTES
    text += static_cast<char>(binary.size());
    text += binary;
  }
  text += "tR.";
  payload->refs.assign(items.begin(), items.end());
  return payload;
}

void bind_streams(nb::module_& m) {
  nb::class_<Stream>(m, "ObjectRefGenerator", nb::dynamic_attr(), nb::is_weak_referenceable())
      .def("__iter__", [](nb::object self) { return self; })
      .def("__next__", [](Stream& stream) { return stream.next(std::nullopt); })
      .def("next_within", &Stream::next, nb::arg("timeout_s").none())
      .def("peek",
           [](const Stream& stream) {
             store::Entry& next = *process().next_item(nb::cast<Ref&>(stream.completed()).entry());
             return nb::cast(new Ref(next), nb::rv_policy::take_ownership);
           })
      .def("completed", &Stream::completed)
      .def("next_ready", &Stream::next_ready)
      .def("is_finished", &Stream::is_finished);
}

}  // namespace beeline::python
