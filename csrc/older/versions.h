// Included before every file but the kernels where CMake's MASKED_RNN_OLDER_SYSTEMS is on, see
// symbols.cc: functions that older libraries have as well, under an older version of their symbol.
#pragma once

#if defined(__x86_64__)
#define MASKED_RNN_GLIBC_BASE "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define MASKED_RNN_GLIBC_BASE "GLIBC_2.17"
#endif

// glibc 2.34 moved these into libc.so, from libpthread.so and libdl.so.
asm(".symver pthread_once,pthread_once@" MASKED_RNN_GLIBC_BASE);
asm(".symver dlopen,dlopen@" MASKED_RNN_GLIBC_BASE);
asm(".symver dlsym,dlsym@" MASKED_RNN_GLIBC_BASE);
asm(".symver dlerror,dlerror@" MASKED_RNN_GLIBC_BASE);

// libstdc++ 12 declared that waiting throws nothing.
asm(".symver _ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE,"
    "_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE@GLIBCXX_3.4.11");
