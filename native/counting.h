// SPDX-License-Identifier: Apache-2.0
/* What dmtool._stats has for other modules in C, in the capsule dmtool._stats.counting; and the
 * clock of both. */
#ifndef DMTOOL_COUNTING_H
#define DMTOOL_COUNTING_H

#include <Python.h>

#include <stdint.h>
#include <time.h>

#define COUNTING "dmtool._stats.counting"

struct counting {
    PyTypeObject *meter;
    /* Meter.count of the requests from byte `at` to `end`, none of them apart. Without the GIL, too. */
    void (*count)(PyObject *meter, const unsigned char *requests, uint64_t at, uint64_t end,
                  uint64_t since);
};

/* Nanoseconds, as Python's monotonic_ns. */
static inline uint64_t clock_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

#endif
