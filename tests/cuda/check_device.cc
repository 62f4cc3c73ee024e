// DriverDevice on the fake driver, one subject a run: check_device FOLDERS SUBJECT. Prints what
// tests/test_cuda_device.py looks at.
#include <dlfcn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "core/cuda/driver_device.h"
#include "core/cuda/shared_library.h"
#include "core/error.h"

using namespace masked_rnn;
using namespace masked_rnn::cuda;

namespace {

const std::vector<Source> kSources = {
    {"kernels.cu", R"(#include "scale.cuh")"},
    {"scale.cuh", R"(#pragma once
namespace masked_rnn { struct Twice { static constexpr int factor = 2; }; }
namespace masked_rnn::cuda {
template <class T, int N> __global__ void scale(long long size, float* array) {
  for (int i = 0; i < N; ++i) if (i < size) array[i] *= T::factor;
}
template <class T> __global__ void wrong() { T::no_such_thing(); }
})"}};
constexpr const char* kScale = "scale<Twice, 8>";

void* fake(const char* name) { return dlsym(dlopen("libcuda.so.1", RTLD_NOW), name); }
std::string fake_log() { return reinterpret_cast<const char* (*)()>(fake("fake_log"))(); }
void fail(const char* function, int result) {
  reinterpret_cast<void (*)(const char*, int)>(fake("fake_fail"))(function, result);
}

DriverDevice make_device() {
  return DriverDevice(reinterpret_cast<void*>(0x1000), 0, kSources,
                      DiskCache(DiskCache::default_folder()));
}

void launch(const DriverDevice& device, const Launch& how = {}) {
  long long size = 5;
  float* array = nullptr;
  void* arguments[] = {&size, &array};
  device.launch(kScale, how, arguments, reinterpret_cast<Stream>(0x20));
}

void launches() {
  const DriverDevice device = make_device();
  std::printf("%s %d %d %lld\n", device.info().name.c_str(), device.info().capability,
              device.info().multiprocessors,
              static_cast<long long>(device.info().shared_bytes_per_block));
  launch(device);
  Launch how;
  how.grid = {6, 2, 1};
  how.block = {128, 1, 1};
  how.shared_bytes = 100000;
  how.cluster = 2;
  launch(device, how);
  std::printf("resident %d\n", device.resident(kScale, how));
  how.cluster = 1;
  how.cooperative = true;
  launch(device, how);
  std::printf("resident %d\n", device.resident(kScale, how));
  fail("cuLaunchKernelEx", 701);
  try {
    launch(device, how);
  } catch (const ResourceExhausted& error) {
    std::printf("ResourceExhausted %s\n", error.what());
  }
  fail("cuLaunchKernelEx", 719);
  try {
    launch(device, how);
  } catch (const DeviceError& error) {
    std::printf("DeviceError %s\n", error.what());
  }
  std::fputs(fake_log().c_str(), stdout);
}

void compile_error() {
  const DriverDevice device = make_device();
  device.launch("wrong<Twice>", {}, nullptr, nullptr);
}

// Every product that a Product can ask for, against plain loops.
template <class T>
double worst_product(DType dtype) {
  const DriverDevice device = make_device();
  std::mt19937 random(1);
  std::uniform_real_distribution<double> uniform(-1, 1);
  auto numbers = [&](size_t n) {
    std::vector<T> array(n);
    for (T& x : array) x = T(uniform(random));
    return array;
  };
  double worst = 0;
  for (int flags = 0; flags < 16; ++flags) {
    Product p;
    p.dtype = p.result = dtype;
    p.transpose_a = flags & 1;
    p.transpose_b = flags & 2;
    p.count = flags & 4 ? 3 : 1;
    p.beta = flags & 8 ? 0.5 : 0;
    p.alpha = 1.5;
    p.m = 5, p.n = 7, p.k = 4;
    p.a_row = (p.transpose_a ? p.m : p.k) + 2;
    p.b_row = (p.transpose_b ? p.k : p.n) + 1;
    p.c_row = p.n + 3;
    p.a_stride = 60, p.b_stride = 70, p.c_stride = 80;
    const std::vector<T> a = numbers(180), b = numbers(210);
    std::vector<T> c = numbers(240), expected = c;
    p.a = a.data(), p.b = b.data(), p.c = c.data();
    for (int64_t x = 0; x < p.count; ++x) {
      for (int64_t i = 0; i < p.m; ++i) {
        for (int64_t j = 0; j < p.n; ++j) {
          double sum = 0;
          for (int64_t k = 0; k < p.k; ++k) {
            sum += double(a[x * 60 + (p.transpose_a ? k * p.a_row + i : i * p.a_row + k)]) *
                   double(b[x * 70 + (p.transpose_b ? j * p.b_row + k : k * p.b_row + j)]);
          }
          T& e = expected[x * 80 + i * p.c_row + j];
          e = T(p.alpha * sum + p.beta * double(e));
        }
      }
    }
    if (!device.multiply(p, reinterpret_cast<Stream>(size_t(flags + 1)))) return 1e9;
    for (size_t i = 0; i < c.size(); ++i) {
      worst = std::max(worst, std::abs(double(c[i]) - double(expected[i])));
    }
  }
  return worst;
}

void products() {
  std::printf("%g %g\n", worst_product<float>(DType::kFloat32),
              worst_product<double>(DType::kFloat64));
  const DriverDevice device = make_device();
  Product p;
  p.m = p.n = 4;
  p.k = int64_t{1} << 31;
  std::printf("too large %d\n", device.multiply(p, nullptr));
  p.k = 3, p.m = 0;
  std::printf("no rows %d\n", device.multiply(p, nullptr));
}

void cache() {
  DiskCache kept(DiskCache::default_folder());
  std::printf("folder %s\n", kept.folder().c_str());
  kept.put("key", "value");
  const auto value = kept.get("key");
  std::printf("%s %s\n", value ? value->c_str() : "nothing", kept.get("other") ? "other" : "none");
  struct stat status;
  if (!stat(kept.folder().c_str(), &status)) std::printf("mode %o\n", status.st_mode & 0777);
}

void small_cache() {
  const DiskCache kept(DiskCache::default_folder(), 1000);
  for (int i = 0; i < 20; ++i) kept.put("key " + std::to_string(i), std::string(100, 'x'));
  int found = 0;
  for (int i = 0; i < 20; ++i) found += kept.get("key " + std::to_string(i)).has_value();
  std::printf("%d of 20\n", found);
}

// Writes and reads the same few keys until it is killed; a value that is not whole ends it.
void hammer() {
  const DiskCache kept(DiskCache::default_folder());
  for (int i = 0;; ++i) {
    const std::string key = "key " + std::to_string(i % 3);
    const std::string value(200000 + i % 3, char('a' + i % 3));
    kept.put(key, value);
    const auto found = kept.get(key);
    if (found && *found != value) {
      std::printf("damaged\n");
      std::exit(1);
    }
  }
}

void threads() {
  const DriverDevice device = make_device();
  std::vector<std::thread> all;
  for (int i = 0; i < 8; ++i) all.emplace_back([&] { launch(device); });
  for (std::thread& t : all) t.join();
  std::fputs(fake_log().c_str(), stdout);
}

void forks() {
  const auto device_in = [](const char* process) {
    try {
      std::printf("%s: %s\n", process, DriverDevice::of_ordinal(0).info().name.c_str());
    } catch (const DeviceError& error) {
      std::printf("%s: %s\n", process, error.what());
    }
    std::fflush(stdout);
  };
  const auto in_child = [&](const char* process) {
    const pid_t child = ::fork();
    if (child == 0) {
      device_in(process);
      _exit(0);
    }
    waitpid(child, nullptr, 0);
  };
  in_child("child before use");
  device_in("parent");
  in_child("child");
  device_in("parent");
}

void targets() {
  const std::vector<int> known = {75, 80, 86, 90, 100, 103, 120};
  for (const int capability : {70, 75, 80, 86, 89, 90, 100, 103, 110, 121}) {
    try {
      std::printf("%d %s\n", capability, target_for(capability, known).architecture.c_str());
    } catch (const DeviceError& error) {
      std::printf("%d none\n", capability);
    }
  }
}

// Compiles kernels of the library itself: check_device FOLDERS embedded CAPABILITY NAME... What
// comes out is written into the folder IMAGES, where that is set: 1, 2...
void embedded(int count, char** arguments) {
  const Compiler compiler(embedded_sources());
  const char* images = std::getenv("IMAGES");
  for (int i = 1; i < count; ++i) {
    const Compiled compiled = compiler.compile(arguments[i], std::atoi(arguments[0]));
    if (images) std::ofstream(images + ("/" + std::to_string(i))) << compiled.image;
    std::printf("%s\t%zu\n", compiled.entry.c_str(), compiled.image.size());
  }
}

}  // namespace

int main(int count, char** arguments) {
  std::vector<std::string> folders;
  std::istringstream list(arguments[1]);
  for (std::string folder; std::getline(list, folder, ':');) folders.push_back(folder);
  set_library_folders(folders);
  const std::string subject = arguments[2];
  try {
    if (subject == "launches") launches();
    if (subject == "compile error") compile_error();
    if (subject == "products") products();
    if (subject == "cache") cache();
    if (subject == "small cache") small_cache();
    if (subject == "hammer") hammer();
    if (subject == "threads") threads();
    if (subject == "forks") forks();
    if (subject == "targets") targets();
    if (subject == "missing") std::printf("%s\n", unusable_because().c_str());
    if (subject == "embedded") embedded(count - 3, arguments + 3);
  } catch (const std::exception& error) {
    std::printf("error: %s\n", error.what());
  }
}
