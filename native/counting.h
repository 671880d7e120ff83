// SPDX-License-Identifier: Apache-2.0
/* What dmtool._stats has for other modules in C, in the capsule dmtool._stats.counting. */
#ifndef DMTOOL_COUNTING_H
#define DMTOOL_COUNTING_H

#include <Python.h>

#include <stdint.h>

#define COUNTING "dmtool._stats.counting"

struct counting {
    PyTypeObject *meter;
    /* Meter.count of the requests from byte `at` to `end`, none of them apart. Without the GIL, too. */
    void (*count)(PyObject *meter, const unsigned char *requests, uint64_t at, uint64_t end,
                  uint64_t since);
};

#endif
