// Python values to payloads and back.
#pragma once

#include "session.h"

namespace beeline::python {

// A reference as Python holds it: one hold on the entry. It may outlive its session, and is of no use then.
class Ref {
 public:
  // Takes over a hold.
  explicit Ref(store::Entry& entry) : home_(process_or_null()), entry_(&entry), id_(entry.id), name_(entry.name) {}
  Ref(const Ref&) = delete;
  Ref& operator=(const Ref&) = delete;
  ~Ref();

  // Raises when the session that it belongs to has ended.
  [[nodiscard]] store::Entry& entry() const {
    require_session(home_, "the object reference");
    return *entry_;
  }
  [[nodiscard]] const store::ObjectId& id() const { return id_; }
  [[nodiscard]] std::string name() const { return name_ != nullptr ? *name_ : std::string(); }

 private:
  runtime::Process* home_;
  store::Entry* entry_;
  store::ObjectId id_;
  const std::string* name_;
};

// An id as Python sees it: 28 bytes, as Ray's; the first 24 are those of the task.
inline constexpr std::size_t kTaskIdSize = 24;
std::string binary_of(const store::ObjectId& id);
// Likewise of another session.
std::string binary_of(const store::ObjectId& id, const std::string& session_name);
std::string hex(std::string_view bytes);

// Bytes of a fetched value; exports the buffer protocol and keeps its lease (or its memory) alive.
struct View {
  std::shared_ptr<void> keep_alive;
  std::byte* data = nullptr;
  std::size_t size = 0;
  bool writable = false;
};

// A copy of the bytes, 64-byte aligned.
View copy_of(std::string_view bytes, bool writable);

// What the caller of a call that streams gets: its items, one after the other. Takes over a hold.
nb::object make_stream(store::Entry& stream);
// The value of a collection of objects, without Python.
store::PayloadPtr collection_of(std::vector<store::ObjectId> items);

// Pickles a value; large arrays are published. In live mode drivers and actors keep one with tensors until its object
// is freed: fetched here, it is the same.
store::PayloadPtr to_payload(nb::handle value, runtime::Mode mode);
// The arguments of a call; `dependencies` gets the top-level references.
store::PayloadPtr to_call_payload(nb::handle args, nb::handle kwargs, std::vector<store::Entry*>& dependencies);
// A failure made of the exception that user code raised.
store::PayloadPtr to_task_failure(nb::handle exception, const std::string& function, std::uint64_t actor);

// The value; raises if the payload is a failure, or cannot be fetched within the deadline.
nb::object from_payload(const store::PayloadPtr& payload, nb::handle targets, Deadline deadline);
// The value of an object that is ready. Where it cannot be opened any more, its owner is asked for another place.
nb::object value_of(store::Entry& entry, nb::handle targets, Deadline deadline);
// The arguments of a call: (args list, kwargs dict, slots tuple); null object for "no arguments".
nb::object from_call_payload(const store::PayloadPtr& payload, Deadline deadline);

// Drops Python values of publications that have ended. Needs the GIL; cheap when there is none.
void drop_retired_values();
// Whether tensors of this process are published in place, and not retired.
bool shares_in_place();
void watch_publications(runtime::Process& process);

void bind_values(nb::module_& m);

}  // namespace beeline::python
