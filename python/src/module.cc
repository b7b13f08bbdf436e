// beeline._core: the C++ core as beeline.api sees it (python/beeline/_core.pyi). Importing it starts nothing.
#include "bindings.h"
#include "interpreter_end.h"

NB_MODULE(_core, m) {
  using beeline::store::ErrorKind;
  nb::set_leak_warnings(false);
  const auto error = [&](const char* name, ErrorKind kind) { m.attr(name) = static_cast<int>(kind); };
  error("ERROR_TASK", ErrorKind::kTask);
  error("ERROR_ACTOR_DIED", ErrorKind::kActorDied);
  error("ERROR_ACTOR_UNAVAILABLE", ErrorKind::kActorUnavailable);
  error("ERROR_WORKER_CRASHED", ErrorKind::kWorkerCrashed);
  error("ERROR_OBJECT_LOST", ErrorKind::kObjectLost);
  error("ERROR_OWNER_DIED", ErrorKind::kOwnerDied);
  error("ERROR_CANCELLED", ErrorKind::kCancelled);
  error("ERROR_INFEASIBLE", ErrorKind::kInfeasible);
  error("ERROR_SESSION_LOST", ErrorKind::kSessionLost);
  error("ERROR_TRANSPORT", ErrorKind::kTransport);
  error("ERROR_MUTATED", ErrorKind::kMutated);
  error("ERROR_PENDING_CALLS", ErrorKind::kPendingCalls);
  error("ERROR_ACTOR_INIT_FAILED", ErrorKind::kActorInitFailed);
  error("ERROR_OUT_OF_MEMORY", ErrorKind::kOutOfMemory);
  error("ERROR_TIMEOUT", ErrorKind::kTimeout);
  error("ERROR_INVALID", ErrorKind::kInvalid);
  error("ERROR_SYSTEM", ErrorKind::kSystem);
  error("ERROR_PEER_LOST", ErrorKind::kPeerLost);
  error("ERROR_STALE_REFERENCE", ErrorKind::kStaleReference);
  error("ERROR_UNAVAILABLE", ErrorKind::kUnavailable);
  error("ERROR_TRANSFER_TIMEOUT", ErrorKind::kTransferTimeout);
  error("ERROR_TRANSFER_CANCELLED", ErrorKind::kTransferCancelled);
  error("ERROR_TORN", ErrorKind::kTorn);
  error("ERROR_REFUSED", ErrorKind::kRefused);
  error("ERROR_END_OF_STREAM", ErrorKind::kEndOfStream);
  error("ERROR_RECONSTRUCTION", ErrorKind::kReconstruction);
  error("ERROR_GROUP_REMOVED", ErrorKind::kGroupRemoved);
  error("ERROR_NO_ENVIRONMENT", ErrorKind::kNoEnvironment);
  beeline::python::outlive_interpreter();
  beeline::python::bind_session(m);
  beeline::python::bind_values(m);
  beeline::python::bind_trees(m);
  beeline::python::bind_objects(m);
  beeline::python::bind_calls(m);
  beeline::python::bind_streams(m);
  beeline::python::bind_worker(m);
  beeline::python::bind_groups(m);
  beeline::python::bind_transfer(m);
  beeline::python::bind_transfer_counters(m);
  beeline::python::bind_metrics(m);
  beeline::python::bind_state(m);
  beeline::python::bind_devices(m);
  beeline::python::bind_installed_engines(m);
  beeline::python::bind_python_transports(m);
}
