// AN EMULATOR of libcuda.so.1 for tests: what Beeline uses of NVIDIA's driver API, over shared files, for machines
// without a GPU. Names, types and codes are those of cuda.h; no part of it is a product, or fast.
//
// What it keeps of a GPU: memory that the processor cannot touch (a stray access is a SIGSEGV), addresses that are
// given out anew, streams that run behind their callers, copies to pageable memory that only return when they are done,
// events and handles of memory between processes, contexts that must be current, and refusals.
//
// Environment: CUDA_EMULATOR_FOLDER (where memory lies; without it there is no device), CUDA_EMULATOR_DEVICES (2),
// CUDA_EMULATOR_DELAY_US of each operation of a stream (50), CUDA_EMULATOR_PEER=0 (no access between devices),
// CUDA_VISIBLE_DEVICES (numbers, as the driver has it).
#pragma once

#include <cstddef>
#include <cstdint>

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct CUctx_st*;
using CUstream = struct CUstream_st*;
using CUevent = struct CUevent_st*;
struct CUuuid {
  unsigned char bytes[16];
};
struct CUipcMemHandle {
  char reserved[64];
};
struct CUipcEventHandle {
  char reserved[64];
};
struct CUDA_MEMCPY2D {
  std::size_t srcXInBytes, srcY;
  std::uint32_t srcMemoryType;
  const void* srcHost;
  CUdeviceptr srcDevice;
  void* srcArray;
  std::size_t srcPitch;
  std::size_t dstXInBytes, dstY;
  std::uint32_t dstMemoryType;
  void* dstHost;
  CUdeviceptr dstDevice;
  void* dstArray;
  std::size_t dstPitch;
  std::size_t WidthInBytes, Height;
};

#define CU_EMULATED extern "C" __attribute__((visibility("default"))) CUresult

// What tests use beside what is under test, as the driver has it.
CU_EMULATED cuInit(unsigned flags);
CU_EMULATED cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device);
CU_EMULATED cuCtxSetCurrent(CUcontext context);
CU_EMULATED cuMemAlloc_v2(CUdeviceptr* address, std::size_t bytes);
CU_EMULATED cuMemFree_v2(CUdeviceptr address);
CU_EMULATED cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, std::size_t bytes);
CU_EMULATED cuMemcpyDtoH_v2(void* to, CUdeviceptr from, std::size_t bytes);
CU_EMULATED cuStreamCreate(CUstream* stream, unsigned flags);
CU_EMULATED cuStreamSynchronize(CUstream stream);
CU_EMULATED cuLaunchHostFunc(CUstream stream, void (*function)(void*), void* argument);

// What no driver has. A kernel that runs for a while and then fills memory; one that only runs.
CU_EMULATED cuEmulatorFill(CUdeviceptr address, int value, std::size_t bytes, std::uint64_t run_us, CUstream stream);
CU_EMULATED cuEmulatorRun(std::uint64_t run_us, CUstream stream);
// Memory as pools and expandable segments have it: without a handle for other processes.
CU_EMULATED cuEmulatorAllocPooled(CUdeviceptr* address, std::size_t bytes);
// The next `times` calls of that name return the code.
CU_EMULATED cuEmulatorFail(const char* function, CUresult code, int times);
// The stream captures a graph from now on, or does so no longer.
CU_EMULATED cuEmulatorCapture(CUstream stream, int captures);
// For what emulates libraries that stand on the driver: where the processor reaches bytes of a device, null if it is
// none of its memory; the current context, and its physical device.
CU_EMULATED cuEmulatorTouch(CUdeviceptr address, std::size_t bytes, void** data);
CU_EMULATED cuEmulatorContext(CUcontext* context);
CU_EMULATED cuEmulatorDevice(int* device);
// How often a function was called in this process; how many allocations of others are open in it.
CU_EMULATED cuEmulatorCalls(const char* function);
CU_EMULATED cuEmulatorOpened();
