// Python values to payloads and back: exact builtin scalars here, everything else through beeline.tensors.
#include "values.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <atomic>
#include <limits>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>

#include "trees.h"

namespace beeline::python {
namespace {

using store::Payload;
using store::PayloadPtr;

constexpr int kPickleProtocol = 5;
constexpr std::string_view kPickledNone("\x80\x05N.", 4);
// Up to this size a string is pickled here; beyond it the general path may publish it.
constexpr Py_ssize_t kPlainLimit = 64 * 1024;
constexpr int kPlainDepth = 4;
// As many references as a call's header can count.
constexpr std::size_t kMaxArguments = std::numeric_limits<decltype(runtime::CallHeader::dependency_count)>::max();
constexpr Py_ssize_t kPlainItems = 64;

PyObject* pickle_dumps() {
  static PyObject* function = nb::object(nb::module_::import_("pickle").attr("dumps")).release().ptr();
  return function;
}
PyObject* pickle_loads() {
  static PyObject* function = nb::object(nb::module_::import_("pickle").attr("loads")).release().ptr();
  return function;
}

// Whether plain pickle is exactly right for the value: exact builtin scalars and small containers of them.
bool is_plain(PyObject* value, int depth) {
  if (value == Py_None || PyBool_Check(value) || PyLong_CheckExact(value) || PyFloat_CheckExact(value)) return true;
  if (PyUnicode_CheckExact(value)) return PyUnicode_GET_LENGTH(value) <= kPlainLimit;
  if (PyBytes_CheckExact(value)) return PyBytes_GET_SIZE(value) <= kPlainLimit;
  if (depth == 0) return false;
  if (PyTuple_CheckExact(value) || PyList_CheckExact(value)) {
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(value);
    if (size > kPlainItems) return false;
    PyObject** items = PySequence_Fast_ITEMS(value);
    for (Py_ssize_t i = 0; i < size; ++i) {
      if (!is_plain(items[i], depth - 1)) return false;
    }
    return true;
  }
  if (PyDict_CheckExact(value)) {
    if (PyDict_GET_SIZE(value) > kPlainItems) return false;
    PyObject* key = nullptr;
    PyObject* item = nullptr;
    Py_ssize_t at = 0;
    while (PyDict_Next(value, &at, &key, &item)) {
      if (!is_plain(key, 0) || !is_plain(item, depth - 1)) return false;
    }
    return true;
  }
  return false;
}

std::string plain_pickle(PyObject* value) {
  PyObject* protocol = PyLong_FromLong(kPickleProtocol);
  PyObject* arguments[] = {value, protocol};
  nb::object pickled = nb::steal(PyObject_Vectorcall(pickle_dumps(), arguments, 2, nullptr));
  Py_DECREF(protocol);
  if (!pickled.is_valid()) throw nb::python_error();
  return {PyBytes_AS_STRING(pickled.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(pickled.ptr()))};
}

PayloadPtr none_payload() {
  static const PayloadPtr payload = [] {
    auto none = std::make_shared<Payload>();
    none->skeleton = kPickledNone;
    return none;
  }();
  return payload;
}

// A Python buffer, released at the end.
class SourceView {
 public:
  explicit SourceView(nb::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_ANY_CONTIGUOUS) != 0) throw nb::python_error();
  }
  SourceView(SourceView&& other) noexcept : view_(other.view_) { other.view_.obj = nullptr; }
  SourceView(const SourceView&) = delete;
  ~SourceView() {
    if (view_.obj != nullptr) PyBuffer_Release(&view_);
  }
  [[nodiscard]] const std::byte* data() const { return static_cast<const std::byte*>(view_.buf); }
  [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(view_.len); }

 private:
  Py_buffer view_{};
};

// Values that this process published directly: fetched here, they are the same objects.
struct Kept {
  struct Value {
    std::uint32_t generation = 0;
    PyObject* object = nullptr;  // null: not to be had here, but others read it in place
    bool in_place = false;
    bool shipped = false;  // by a registered transport: the object has the value as an attribute
  };
  std::mutex mutex;                                 // never held while Python code runs
  std::unordered_map<std::uint32_t, Value> values;  // by slot
  std::size_t in_place = 0;                         // how many of them others may read in place
  std::vector<PyObject*> retired;
  std::atomic<bool> any_retired{false};
};
Kept& kept() {
  static Kept* instance = new Kept;
  return *instance;
}

int drop_retired_pending(void*) {
  drop_retired_values();
  return 0;
}

void keep(const memory::PublicationId& id, nb::handle value, bool in_place, bool shipped) {
  const std::lock_guard guard(kept().mutex);
  kept().values[id.slot] = {id.generation, value.inc_ref().ptr(), in_place, shipped};
  if (in_place) ++kept().in_place;
}

nb::object kept_value(const memory::PublicationId& id) {
  nb::object object;
  bool shipped = false;
  {
    const std::lock_guard guard(kept().mutex);
    const auto it = kept().values.find(id.slot);
    if (it == kept().values.end() || it->second.generation != id.generation) return {};
    object = nb::borrow(it->second.object);
    shipped = it->second.shipped;
  }
  return shipped ? nb::object(object.attr("value")) : object;
}

// A pickled value before it is a payload; the bytes are others'.
struct Pickled {
  std::string_view skeleton;
  std::vector<runtime::SourceBuffer> buffers;
  std::vector<runtime::Extent> referred;  // the program's memory that a live value stands for
  ThinVector<store::ObjectId> refs;
};

// What the pickler says of a buffer.
enum BufferFlag : std::uint8_t { kWritable = 1, kReferred = 2 };

// What beeline.tensors made of a value: (skeleton, buffers, flags, refs, ranges).
class Dumped {
 public:
  explicit Dumped(nb::object dumped) : dumped_(std::move(dumped)) {
    nb::object buffers = dumped_[1];
    nb::object flags = dumped_[2];
    const auto* flag = reinterpret_cast<const std::uint8_t*>(PyBytes_AsString(flags.ptr()));
    views_.reserve(nb::len(buffers));
    for (nb::handle buffer : buffers) {
      const auto& view = views_.emplace_back(buffer);
      sources_.push_back({view.data(), view.size(), (*flag & kWritable) != 0});
      if ((*flag++ & kReferred) != 0) referred_.emplace_back(view.data(), view.size());
    }
    for (nb::handle range : nb::object(dumped_[4])) {
      const auto address = nb::cast<std::uintptr_t>(range[0]);
      referred_.emplace_back(reinterpret_cast<const std::byte*>(address), nb::cast<std::size_t>(range[1]));
    }
    for (nb::handle ref : nb::object(dumped_[3])) refs_.push_back(nb::cast<Ref&>(ref).id());
  }

  [[nodiscard]] Pickled pickled() {
    nb::object skeleton = dumped_[0];
    char* text = nullptr;
    Py_ssize_t size = 0;
    if (PyBytes_AsStringAndSize(skeleton.ptr(), &text, &size) != 0) throw nb::python_error();
    return {{text, static_cast<std::size_t>(size)}, std::move(sources_), std::move(referred_), std::move(refs_)};
  }

 private:
  nb::object dumped_;
  std::vector<SourceView> views_;
  std::vector<runtime::SourceBuffer> sources_;
  std::vector<runtime::Extent> referred_;
  ThinVector<store::ObjectId> refs_;
};

// Assembles a payload of what was pickled: small values inline, large ones published. `value` is what is kept of it.
void say_notices() {
  for (const auto& notice : process().take_notices()) {
    nb::module_::import_("logging").attr("getLogger")("beeline").attr("warning")(notice);
  }
}

PayloadPtr assemble(Pickled pickled, runtime::Mode mode, nb::handle value, const runtime::Transport& transport = {}) {
  const bool shipped = transport.way != store::Way::kArena;
  auto payload = std::make_shared<Payload>();
  payload->refs = std::move(pickled.refs);
  auto& sources = pickled.buffers;
  auto& referred = pickled.referred;
  std::size_t total = pickled.skeleton.size();
  for (const auto& source : sources) total += source.size;
  auto& running = process();
  // What is without tensors is a value like any other.
  const bool is_kept = mode == runtime::Mode::kLive && !referred.empty() && running.is_lasting();
  if (total <= store::kInlineLimit) {
    payload->skeleton = pickled.skeleton;
    for (const auto& source : sources) {
      payload->inline_buffers.push_back(
          {std::string(reinterpret_cast<const char*>(source.data), source.size), source.writable});
    }
    if (is_kept) payload->placement = running.publish_inline(std::move(referred), transport);
    if (payload->placement) keep(payload->placement->publication, value, false, shipped);
    return payload;
  }
  if (pickled.skeleton.size() > store::kInlineLimit) {
    payload->skeleton_in_buffer = true;
    sources.push_back({reinterpret_cast<const std::byte*>(pickled.skeleton.data()), pickled.skeleton.size(), false});
  } else {
    payload->skeleton = pickled.skeleton;
  }
  auto published = [&] {
    nb::gil_scoped_release released;
    return running.publish(sources, mode, std::move(referred), transport);
  }();
  if (!published) raise_status(published.status(), "store a value of " + std::to_string(total) + " bytes");
  payload->placement = std::move(published).value();
  try {
    say_notices();
    if (mode == runtime::Mode::kLive) {
      const auto& id = payload->placement->publication;
      keep(id, is_kept ? value : nb::handle(), true, shipped);
      if (!shipped) hook("published")(std::uint64_t{id.generation} << 32 | id.slot);
    }
  } catch (...) {
    running.discard({payload});  // an interrupt: the value goes nowhere
    throw;
  }
  return payload;
}

// What unpickling a value raised, as Ray reports it: an error of the system, caused by the value's own.
[[noreturn]] void raise_unpicklable(nb::python_error& error) {
  nb::object exceptions = nb::module_::import_("beeline.exceptions");
  const nb::object base = exceptions.attr("BeelineError");
  if (!error.matches(PyExc_Exception) || error.matches(base)) throw std::move(error);
  const nb::object core_error = exceptions.attr("CoreError");
  nb::raise_from(error, core_error, "the value cannot be unpickled here: %S", error.value().ptr());
  throw nb::python_error();
}

// By when the value that this thread is unpickling has to be there: parts of it may be fetched on the way.
thread_local Deadline loading_until = Deadline::never();

class LoadingUntil {
 public:
  explicit LoadingUntil(Deadline deadline) : before_(std::exchange(loading_until, deadline)) {}
  ~LoadingUntil() { loading_until = before_; }
  LoadingUntil(const LoadingUntil&) = delete;
  LoadingUntil& operator=(const LoadingUntil&) = delete;

 private:
  Deadline before_;
};

std::optional<double> seconds_left_to_load() {
  if (loading_until.is_never()) return std::nullopt;
  return std::chrono::duration<double>(loading_until.left()).count();
}

nb::object load(const PayloadPtr& payload, nb::handle targets, Deadline deadline) {
  const LoadingUntil loading(deadline);
  std::string_view skeleton = payload->skeleton;
  if (payload->placement && payload->placement->direct && !targets.is_valid() &&
      payload->placement->holder == process().self()) {
    if (nb::object same = kept_value(payload->placement->publication); same.is_valid()) return same;
  }
  if (payload->is_inline() && payload->inline_buffers.empty() && !targets.is_valid()) {
    if (nb::object value = unpickle_tree(skeleton, {}); value.is_valid()) return value;
    nb::object bytes = nb::steal(PyBytes_FromStringAndSize(skeleton.data(), static_cast<Py_ssize_t>(skeleton.size())));
    nb::object value = nb::steal(PyObject_CallOneArg(pickle_loads(), bytes.ptr()));
    if (!value.is_valid()) throw nb::python_error();
    return value;
  }
  std::vector<View> buffers;
  runtime::Opened opened;
  if (!payload->is_inline()) {
    auto& running = process();
    for (;;) {
      auto outcome = [&] {
        nb::gil_scoped_release released;
        return running.open(*payload->placement, deadline);
      }();
      if (outcome) {
        opened = std::move(outcome).value();
        break;
      }
      if (outcome.status().code() == Code::kInterrupted) {
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        continue;
      }
      raise_status(outcome.status(), "fetch a value of " + std::to_string(payload->size_bytes()) + " bytes",
                   Work::kTransfer);
    }
    auto count = opened.buffers.size();
    if (payload->skeleton_in_buffer) {
      --count;
      const auto& last = opened.buffers[count];
      skeleton = {reinterpret_cast<const char*>(last.data()), last.size()};
    }
    for (std::size_t i = 0; i < count; ++i) {
      buffers.push_back(
          {opened.lease, opened.buffers[i].data(), opened.buffers[i].size(), payload->placement->buffers[i].writable});
    }
  } else {
    for (const auto& buffer : payload->inline_buffers) buffers.push_back(copy_of(buffer.bytes, buffer.writable));
  }
  if (!targets.is_valid()) {
    if (nb::object value = unpickle_tree(skeleton, buffers); value.is_valid()) return value;
  }
  nb::list views;
  for (const View& buffer : buffers) {
    nb::object holder = nb::cast(new View(buffer), nb::rv_policy::take_ownership);
    views.append(nb::steal(PyMemoryView_FromObject(holder.ptr())));
  }
  nb::object bytes = nb::steal(PyBytes_FromStringAndSize(skeleton.data(), static_cast<Py_ssize_t>(skeleton.size())));
  if (targets.is_valid()) return hook("loads_into")(bytes, views, nb::borrow(targets));
  static PyObject* const names = Py_BuildValue("(s)", "buffers");
  PyObject* arguments[] = {bytes.ptr(), views.ptr()};
  nb::object value = nb::steal(PyObject_Vectorcall(pickle_loads(), arguments, 1, names));
  if (!value.is_valid()) throw nb::python_error();
  return value;
}

int view_get_buffer(PyObject* exporter, Py_buffer* out, int flags) {
  const View* view = nb::inst_ptr<View>(exporter);
  static std::byte empty{};
  void* data = view->size > 0 ? static_cast<void*>(view->data) : static_cast<void*>(&empty);
  return PyBuffer_FillInfo(out, exporter, data, static_cast<Py_ssize_t>(view->size), view->writable ? 0 : 1, flags);
}

PyType_Slot view_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(view_get_buffer)}, {0, nullptr}};

}  // namespace

View copy_of(std::string_view bytes, bool writable) {
  constexpr std::size_t kAlign = 64;
  const std::size_t size = std::max(kAlign, (bytes.size() + kAlign - 1) / kAlign * kAlign);
  auto memory = std::shared_ptr<void>(std::aligned_alloc(kAlign, size), std::free);
  std::memcpy(memory.get(), bytes.data(), bytes.size());
  auto* const data = static_cast<std::byte*>(memory.get());
  return {std::move(memory), data, bytes.size(), writable};
}

Ref::~Ref() {
  if (home_ != nullptr && home_ == process_or_null()) home_->drop_hold(*entry_);
}

// By a transport that the program registered: see beeline.tensors.shipments.
PayloadPtr ship(nb::handle value, runtime::Mode mode) {
  if (!process().is_lasting()) {
    raise_error(store::ErrorKind::kUnavailable,
                "a registered tensor transport keeps tensors where they were made: it serves actors and the driver");
  }
  nb::object parts = hook("dumps_registered")(value, static_cast<int>(mode));
  const nb::object shipment = parts[5];
  Dumped dumped(parts);
  if (shipment.is_none()) return assemble(dumped.pickled(), runtime::Mode::kStored, value);
  const bool stays_here = nb::cast<bool>(shipment.attr("stays_here"));
  const runtime::Transport transport{stays_here ? store::Way::kTransport : store::Way::kProgramTransport,
                                     nb::cast<std::string>(shipment.attr("transport"))};
  return assemble(dumped.pickled(), runtime::Mode::kLive, shipment, transport);
}

PayloadPtr to_payload(nb::handle value, runtime::Mode mode) {
  if (value.is_none()) return none_payload();
  if (is_plain(value.ptr(), kPlainDepth)) {
    auto payload = std::make_shared<Payload>();
    payload->skeleton = plain_pickle(value.ptr());
    if (payload->skeleton.size() <= store::kInlineLimit) return payload;
  }
  if (Tree tree; mode <= runtime::Mode::kSnapshot && pickle_tree(value, mode, tree)) {
    if (mode == runtime::Mode::kLive) hook("remember")(tree.counted);
    return assemble({tree.skeleton, std::move(tree.buffers), std::move(tree.referred), {}}, mode, value);
  }
  if (mode > runtime::Mode::kSnapshot) return ship(value, mode);
  Dumped dumped(hook("dumps")(value, static_cast<int>(mode)));
  return assemble(dumped.pickled(), mode, value);
}

PayloadPtr to_call_payload(nb::handle args, nb::handle kwargs, std::vector<store::Entry*>& dependencies) {
  const Py_ssize_t count = PyTuple_GET_SIZE(args.ptr());
  const bool has_kwargs = kwargs.is_valid() && PyDict_GET_SIZE(kwargs.ptr()) > 0;
  if (count == 0 && !has_kwargs) {
    static const PayloadPtr nothing = std::make_shared<Payload>();
    return nothing;
  }
  const std::size_t total = static_cast<std::size_t>(count) + (has_kwargs ? nb::len(kwargs) : 0);
  if (total > kMaxArguments) {
    throw nb::value_error(("a call takes at most " + std::to_string(kMaxArguments) + " arguments, got " +
                           std::to_string(total) + "; nothing was sent. Pass them as one list")
                              .c_str());
  }
  bool plain = !has_kwargs || is_plain(kwargs.ptr(), kPlainDepth);
  Py_ssize_t references = 0;
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* item = PyTuple_GET_ITEM(args.ptr(), i);
    if (nb::isinstance<Ref>(item)) {
      ++references;
    } else {
      plain = plain && is_plain(item, kPlainDepth);
    }
  }
  nb::object keywords = has_kwargs ? nb::object(nb::borrow(kwargs)) : nb::object(nb::dict());
  nb::object list = nb::steal(PyList_New(count));
  nb::object slots = nb::steal(PyTuple_New(references));
  Py_ssize_t slot = 0;
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* item = PyTuple_GET_ITEM(args.ptr(), i);
    if (references > 0 && nb::isinstance<Ref>(item)) {
      dependencies.push_back(&nb::cast<Ref&>(nb::handle(item)).entry());
      PyTuple_SET_ITEM(slots.ptr(), slot++, PyLong_FromSsize_t(i));
      item = Py_None;
    }
    PyList_SET_ITEM(list.ptr(), i, Py_NewRef(item));
  }
  nb::object whole = nb::steal(PyTuple_Pack(3, list.ptr(), keywords.ptr(), slots.ptr()));
  if (plain) {
    auto payload = std::make_shared<Payload>();
    payload->skeleton = plain_pickle(whole.ptr());
    if (payload->skeleton.size() <= store::kInlineLimit) return payload;
  } else if (Tree tree; pickle_tree(whole, runtime::Mode::kStored, tree)) {
    return assemble({tree.skeleton, std::move(tree.buffers), {}, {}}, runtime::Mode::kStored, nb::handle());
  }
  dependencies.clear();
  nb::object dumped = hook("dumps_call")(args, keywords);
  for (nb::handle ref : dumped[5]) dependencies.push_back(&nb::cast<Ref&>(ref).entry());
  return assemble(Dumped(dumped).pickled(), runtime::Mode::kStored, nb::handle());
}

PayloadPtr to_task_failure(nb::handle exception, const std::string& function, std::uint64_t actor) {
  auto payload = std::make_shared<Payload>();
  nb::object dumped = hook("dumps_error")(exception, function);
  payload->skeleton = std::string(PyBytes_AsString(dumped.ptr()), static_cast<std::size_t>(PyBytes_Size(dumped.ptr())));
  payload->failure =
      std::make_unique<store::Failure>(store::Failure{store::ErrorKind::kTask, function, actor, function});
  return payload;
}

nb::object from_payload(const PayloadPtr& payload, nb::handle targets, Deadline deadline) {
  if (payload->is_error()) {
    nb::object exception = make_exception(*payload);
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
    throw nb::python_error();
  }
  if (payload->skeleton == kPickledNone && !targets.is_valid()) return nb::none();
  try {
    return load(payload, targets, deadline);
  } catch (nb::python_error& error) {
    raise_unpicklable(error);
  }
}

namespace {

// Whether what was raised may say that the holder of a value is gone.
bool may_be_lost(const nb::python_error& error) {
  const nb::object exceptions = nb::module_::import_("beeline.exceptions");
  if (error.matches(exceptions.attr("ObjectLostError")) || error.matches(exceptions.attr("PeerLostError"))) return true;
  return error.type().is(exceptions.attr("DirectTransportError"));  // a transport of the program's own
}

// A transport may see before this process that the holder has gone.
bool is_lost(store::Entry& entry, const PayloadPtr& payload, Deadline deadline) {
  if (payload->placement->holder == process().self()) return false;
  const auto noticed = Deadline::after(std::chrono::milliseconds(500));
  const auto outcome = wait_with_signals(noticed.at() < deadline.at() ? noticed : deadline,
                                         [&](Deadline slice) { return process().wait_lost(entry, payload, slice); });
  return outcome == runtime::WaitOutcome::kDone;
}

bool is_same_place(const Payload& one, const Payload& other) {
  if (!one.placement || !other.placement) return false;
  return one.placement->holder == other.placement->holder && one.placement->publication == other.placement->publication;
}

}  // namespace

nb::object value_of(store::Entry& entry, nb::handle targets, Deadline deadline) {
  auto& running = process();
  say_notices();
  std::optional<nb::python_error> first;  // what was found at a place where nobody is any more
  Deadline told_by = Deadline::never();   // that the owner tells of another place
  for (;;) {
    const auto payload = running.payload(entry);
    if (!payload) {
      // Lost since it was ready: it is made again.
      store::Entry* const awaited = &entry;
      const auto outcome =
          wait_with_signals(deadline, [&](Deadline slice) { return running.wait({&awaited, 1}, 1, slice); });
      if (outcome == runtime::WaitOutcome::kDone) continue;
      raise_error(store::ErrorKind::kTimeout, "get timed out while " +
                                                  (entry.name != nullptr ? *entry.name : std::string("a call")) +
                                                  " ran again, whose value was lost with the process that held it");
    }
    try {
      return from_payload(payload, targets, deadline);
    } catch (nb::python_error& error) {
      if (payload->is_error() || !payload->needs_holder() || !may_be_lost(error)) throw;
      if (payload->placement->way != store::Way::kArena && !is_lost(entry, payload, deadline)) throw;
      const auto outcome =
          wait_with_signals(deadline, [&](Deadline slice) { return running.ask_again(entry, payload, slice); });
      if (outcome != runtime::WaitOutcome::kDone) throw;
      const auto now = running.payload(entry);
      if (now == payload) throw;
      if (!now || now->is_error() || payload->placement->way == store::Way::kArena || !is_same_place(*now, *payload)) {
        continue;
      }
      // The owner has heard nothing yet; of what a program's transport fetches it may have nothing else to say.
      if (first && told_by.passed()) throw *std::move(first);
      if (!first) {
        first.emplace(std::move(error));
        const bool may_stay = payload->placement->way == store::Way::kProgramTransport;
        told_by = Deadline::after(std::chrono::milliseconds(may_stay ? 50 : 1000));
      }
      nb::gil_scoped_release released;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }
}

nb::object from_call_payload(const PayloadPtr& payload, Deadline deadline) {
  if (payload->skeleton.empty() && !payload->placement) return {};
  return load(payload, nb::handle(), deadline);
}

void drop_retired_values() {
  if (!kept().any_retired.load(std::memory_order_acquire)) return;
  std::vector<PyObject*> dropped;
  {
    const std::lock_guard guard(kept().mutex);
    dropped.swap(kept().retired);
    kept().any_retired.store(false, std::memory_order_release);
  }
  for (PyObject* value : dropped) Py_XDECREF(value);
}

bool shares_in_place() {
  const std::lock_guard guard(kept().mutex);
  return kept().in_place > 0;
}

void watch_publications(runtime::Process& running) {
  running.on_retired = [&running](memory::PublicationId id) {
    bool first = false;
    {
      const std::lock_guard guard(kept().mutex);
      const auto it = kept().values.find(id.slot);
      if (it == kept().values.end() || it->second.generation != id.generation) return;
      if (it->second.in_place) --kept().in_place;
      kept().retired.push_back(it->second.object);
      kept().values.erase(it);
      first = !kept().any_retired.exchange(true);
    }
    if (!first) return;
    // Python drops the value itself, when its main thread next runs bytecode; no GIL is taken here. One that waits for
    // calls, or for events, is told.
    Py_AddPendingCall(&drop_retired_pending, nullptr);
    running.request_python();
    if (running.executor().on_runnable) running.executor().on_runnable();
  };
}

void bind_values(nb::module_& m) {
  m.def("seconds_left_to_load", &seconds_left_to_load);
  m.def("copied_view", [](nb::bytes bytes, bool writable) { return copy_of({bytes.c_str(), bytes.size()}, writable); });
  nb::class_<View>(m, "View", nb::type_slots(view_slots)).def_prop_ro("nbytes", [](const View& view) {
    return view.size;
  });
}

}  // namespace beeline::python
