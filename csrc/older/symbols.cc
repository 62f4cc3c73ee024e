// What the compiler takes from newer systems' libraries, for binaries that run on older ones too.
//
// Part of each library where CMake's MASKED_RNN_OLDER_SYSTEMS is on, as for a published wheel.
// Everything here is hidden: it serves the library that it is linked into, and no other. The names
// of assembler are used where the headers' own declarations would make the definition visible.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <new>

#define OWN __attribute__((visibility("hidden"), used))

extern "C" {

// glibc 2.32. Asked by shared_ptr; "no" makes it count with atomic instructions.
OWN char __libc_single_threaded = 0;

// glibc 2.33. Before, its headers made them calls of functions that are no longer linked against.
OWN int get_status(const char* path, void* status) asm("stat");
int get_status(const char* path, void* status) {
  return static_cast<int>(syscall(SYS_newfstatat, AT_FDCWD, path, status, 0));
}

OWN int get_status_of_link(const char* path, void* status) asm("lstat");
int get_status_of_link(const char* path, void* status) {
  return static_cast<int>(syscall(SYS_newfstatat, AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW));
}

// libstdc++ 11. Ends a `new T[n]` of too many bytes.
[[noreturn]] OWN void bad_array_new_length() asm("_ZSt28__throw_bad_array_new_lengthv");
void bad_array_new_length() { throw std::bad_array_new_length(); }

// libstdc++ 11 made these two public, as copying and destroying an exception_ptr became inline.
// Before, both were functions; they are in every libstdc++.
void copy_exception(void* to, const void* pointer)
    asm("_ZNSt15__exception_ptr13exception_ptrC1ERKS0_");
void destroy_exception(void* pointer) asm("_ZNSt15__exception_ptr13exception_ptrD1Ev");

OWN void add_reference(void* pointer) asm("_ZNSt15__exception_ptr13exception_ptr9_M_addrefEv");
void add_reference(void* pointer) {
  void* never_destroyed;
  copy_exception(&never_destroyed, pointer);
}

OWN void release(void* pointer) asm("_ZNSt15__exception_ptr13exception_ptr10_M_releaseEv");
void release(void* pointer) { destroy_exception(pointer); }

}  // extern "C"
