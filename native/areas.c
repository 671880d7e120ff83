// SPDX-License-Identifier: Apache-2.0
/* dmtool._stats.Areas: the counters of one region, as Python sees them. */
#include "stats.h"

#define COUNTERS 13 /* of an area, besides its histogram */

static bool take_bounds(struct areas *areas, PyObject *bounds)
{
    PyObject *tuple = PySequence_Tuple(bounds);
    bool done = false;

    if (!tuple)
        return false;
    areas->bounds = (size_t)PyTuple_Size(tuple);
    areas->bound = PyMem_Malloc(areas->bounds * sizeof(uint64_t));
    if (!areas->bound) {
        PyErr_NoMemory();
        goto out;
    }
    for (size_t i = 0; i < areas->bounds; i++) {
        PyObject *bound = PyTuple_GetItem(tuple, (Py_ssize_t)i);

        if (!numbers_from(&bound, 1, &areas->bound[i]))
            goto out;
    }
    done = true;
out:
    Py_DECREF(tuple);
    return done;
}

static PyObject *areas_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *number[3], *bounds = NULL;
    uint64_t value[3];
    Areas *self;

    if (kwargs && PyDict_Size(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Areas() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OOO|O:Areas", &number[0], &number[1], &number[2], &bounds))
        return NULL;
    if (!numbers_from(number, 3, value))
        return NULL;
    if (value[0] >= value[1] || !value[2]) {
        PyErr_SetString(PyExc_ValueError, "a region has sectors, and its areas too");
        return NULL;
    }
    self = (Areas *)allocate(type, 0);
    if (!self)
        return NULL;
    self->areas.start = value[0];
    self->areas.end = value[1];
    self->areas.step = value[2];
    if (bounds && !take_bounds(&self->areas, bounds)) {
        Py_DECREF(self);
        return NULL;
    }
    if (!areas_allocate(&self->areas)) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void areas_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    PyMem_Free(((Areas *)object)->areas.bound);
    PyMem_Free(((Areas *)object)->areas.block);
    release(object);
    Py_DECREF(type);
}

static Py_ssize_t areas_len(PyObject *object)
{
    return (Py_ssize_t)((Areas *)object)->areas.len;
}

/* The counters of an area, which `now` finds as they are, and no more where it is to be cleared. */
static void take_area(const struct areas *areas, size_t number, uint64_t now, bool clear,
                      struct area *taken)
{
    struct area *area = area_at(areas, number);

    pthread_mutex_lock(&counters);
    advance(area, 0, now);
    advance(area, 1, now);
    advance_any(area, now);
    memcpy(taken, area, areas->size);
    if (clear)
        area_clear(areas, area);
    pthread_mutex_unlock(&counters);
}

static PyObject *row_of(const struct areas *areas, const struct area *area)
{
    PyObject *row = PyTuple_New((Py_ssize_t)(COUNTERS + areas->bins));
    uint64_t value[COUNTERS];

    if (!row)
        return NULL;
    for (unsigned write = 0; write < 2; write++) {
        uint64_t *half = value + write * 4;

        half[0] = area->ios[write];
        half[1] = area->merges[write];
        half[2] = area->sectors[write];
        half[3] = area->ticks[write];
        value[11 + write] = area->busy[write];
    }
    value[8] = area->in_flight[0] + area->in_flight[1];
    value[9] = area->busy_any;
    value[10] = area->queue;
    for (size_t i = 0; i < COUNTERS + areas->bins; i++) {
        uint64_t number = i < COUNTERS ? value[i] : area->histogram[i - COUNTERS];
        PyObject *item = PyLong_FromUnsignedLongLong(number);

        if (!item || PyTuple_SetItem(row, (Py_ssize_t)i, item) < 0) {
            Py_DECREF(row);
            return NULL;
        }
    }
    return row;
}

static PyObject *areas_rows(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    const struct areas *areas = &((Areas *)object)->areas;
    uint64_t range[2], now = 0;
    int clear = 0;
    struct area *taken;
    PyObject *rows;

    if (!check_count("rows", count, 2, 4) || !numbers_from(args, 2, range))
        return NULL;
    if (count > 2 && (clear = PyObject_IsTrue(args[2])) < 0)
        return NULL;
    if (count > 3 && !numbers_from(args + 3, 1, &now))
        return NULL;
    taken = PyMem_Malloc(areas->size);
    if (!taken)
        return PyErr_NoMemory();
    rows = PyList_New(0);
    now = now ? now : clock_now();
    for (uint64_t i = range[0]; rows && i < range[1] && i < areas->len; i++) {
        PyObject *row;

        take_area(areas, (size_t)i, now, clear, taken);
        row = row_of(areas, taken);
        if (!row || PyList_Append(rows, row) < 0)
            Py_CLEAR(rows);
        Py_XDECREF(row);
    }
    PyMem_Free(taken);
    return rows;
}

static PyMethodDef areas_methods[] = {
    {"rows", FAST(areas_rows), METH_FASTCALL,
     "rows($self, first, last, clear=False, now=0, /)\n--\n\n"
     "The counters of areas; see dmtool.device.meter."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot areas_slots[] = {
    {Py_tp_doc, "Areas(start, end, step, bounds=(), /)\n--\n\ndmtool.device.meter.Areas in C."},
    {Py_tp_new, areas_new},
    {Py_tp_dealloc, areas_dealloc},
    {Py_tp_methods, areas_methods},
    {Py_sq_length, areas_len},
    {0, NULL},
};

PyType_Spec areas_spec = {
    .name = "dmtool._stats.Areas",
    .basicsize = sizeof(Areas),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = areas_slots,
};
