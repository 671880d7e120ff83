// SPDX-License-Identifier: Apache-2.0
/* What the files of dmtool._stats share. */
#ifndef DMTOOL_STATS_H
#define DMTOOL_STATS_H

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <limits.h>
#include <pthread.h>
#include <stddef.h>

#include "areas.h"
#include "counting.h"

#define FAST(function) ((PyCFunction)(void (*)(void))(function))

typedef struct {
    PyObject_HEAD
    struct areas areas;
} Areas;

extern PyType_Spec areas_spec __attribute__((visibility("hidden")));

/* Held by who reads or writes counters, which may be a thread without the GIL: nothing of Python is
 * called meanwhile. */
extern pthread_mutex_t counters __attribute__((visibility("hidden")));

/* Unsigned 64-bit arguments, as many as `numbers` has room for; false with an exception set. */
static inline bool numbers_from(PyObject *const *args, Py_ssize_t count, uint64_t *numbers)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        /* PyLong_AsUnsignedLong is much the faster one */
        numbers[i] = ULONG_MAX == UINT64_MAX ? PyLong_AsUnsignedLong(args[i])
                                             : PyLong_AsUnsignedLongLong(args[i]);
        if (numbers[i] == UINT64_MAX && PyErr_Occurred())
            return false;
    }
    return true;
}

static inline bool check_count(const char *name, Py_ssize_t given, Py_ssize_t least, Py_ssize_t most)
{
    if (given >= least && given <= most)
        return true;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd to %zd arguments, not %zd", name, least, most,
                 given);
    return false;
}

#endif
