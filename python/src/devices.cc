#include "devices.h"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <array>
#include <string>

#include "beeline/os/cuda_driver.h"
#include "bindings.h"
#include "dicts.h"
#include "local_tensors.h"

namespace beeline::python {
namespace {

// Opens the driver, and makes no context.
Result<nb::dict> describe_cuda() {
  namespace cuda = os::cuda;
  BEELINE_ASSIGN(const cuda::Driver* const driver, cuda::Driver::open());
  const auto& functions = driver->functions();
  nb::list names;
  for (cuda::Ordinal ordinal = 0; ordinal < driver->devices(); ++ordinal) {
    cuda::Ordinal device = 0;
    std::array<char, 256> name{};
    BEELINE_RETURN_IF_ERROR(driver->call(functions.device, &device, ordinal));
    BEELINE_RETURN_IF_ERROR(driver->call(functions.device_name, name.data(), static_cast<int>(name.size()), device));
    names.append(std::string(name.data()));
  }
  return dict_of("library", driver->library(), "version", driver->version(), "devices", names, "reason", std::string());
}

}  // namespace

std::vector<transport::Device> devices_of(const std::vector<transfer::Copy>& copies) {
  std::vector<transport::Device> devices;
  for (const auto& copy : copies) {
    const auto& device = copy.local.device;
    if (!device.is_host() && std::ranges::find(devices, device) == devices.end()) devices.push_back(device);
  }
  return devices;
}

void settle(const transfer::Agent& agent, const std::vector<transport::Device>& devices, const os::Wait& wait) {
  for (const auto& device : devices) {
    const std::uintptr_t stream = current_stream(device);
    Status status;
    {
      const nb::gil_scoped_release released;
      status = agent.settle(device, stream, wait);
    }
    if (!status) raise_status(status, "use memory of a device", Work::kAgent);
  }
}

void bind_devices(nb::module_& m) {
  // library, version (12040: CUDA 12.4), devices (names), reason; where CUDA cannot be used, the reason alone.
  m.def("cuda_status", [] {
    auto described = describe_cuda();
    return described ? std::move(*described) : dict_of("reason", described.status().message());
  });
}

}  // namespace beeline::python
