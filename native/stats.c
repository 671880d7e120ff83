// SPDX-License-Identifier: Apache-2.0
/*
 * dmtool._stats: the counters of I/O in C, the twins of the classes in dmtool/device/meter.py.
 *
 * Here is the module and its type Meter; the counting is in areas.h, the type Areas in areas.c. No
 * call lets go of the GIL: that is all that any thread needs to count, and to read what was counted.
 */
#include "stats.h"

#define SECTOR_SHIFT 9
#define HEADER 28 /* bytes of an NBD request */

enum { CMD_READ = 0, CMD_WRITE = 1, CMD_TRIM = 4, CMD_WRITE_ZEROES = 6 };

typedef struct {
    PyObject_HEAD
    PyObject *regions; /* a tuple of Areas */
    Py_ssize_t len;
    uint64_t next; /* a merged request begins at this sector */
    unsigned next_write;
} Meter;

typedef struct {
    PyTypeObject *areas;
} ModuleState;

/* ---- Meter --------------------------------------------------------------------------------- */

static PyObject *meter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    const ModuleState *state = PyModule_GetState(PyType_GetModule(type));
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *regions;
    Meter *self;

    if (kwargs && PyDict_Size(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Meter() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O:Meter", &regions))
        return NULL;
    self = (Meter *)allocate(type, 0);
    if (!self)
        return NULL;
    self->next = UINT64_MAX;
    self->regions = PySequence_Tuple(regions);
    if (self->regions)
        self->len = PyTuple_Size(self->regions);
    for (Py_ssize_t i = 0; i < self->len; i++)
        if (Py_TYPE(PyTuple_GetItem(self->regions, i)) != state->areas)
            PyErr_SetString(PyExc_TypeError, "regions: not all of them are Areas");
    if (PyErr_Occurred()) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void meter_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    Py_XDECREF(((Meter *)object)->regions);
    release(object);
    Py_DECREF(type);
}

static void take_range(struct request *request, uint64_t offset, uint64_t length)
{
    request->first = offset >> SECTOR_SHIFT;
    request->end = (offset + length + (1 << SECTOR_SHIFT) - 1) >> SECTOR_SHIFT;
}

static uint64_t follows(Meter *self, const struct request *request)
{
    bool merged = self->next == request->first && self->next_write == request->write;

    self->next = request->end;
    self->next_write = request->write;
    return merged;
}

static inline void each_region(const Meter *self, const struct request *request,
                               area_function *what, bool done)
{
    for (Py_ssize_t i = 0; i < self->len; i++)
        areas_each(&((Areas *)PyTuple_GetItem(self->regions, i))->areas, request, what, done);
}

static inline uint64_t big_endian(const unsigned char *bytes, unsigned count)
{
    uint64_t number = 0;

    for (unsigned i = 0; i < count; i++)
        number = number << 8 | bytes[i];
    return number;
}

/* The numbers in `apart`, as far as they are asked for. */
struct apart {
    PyObject *tuple;
    Py_ssize_t next;
    uint64_t at; /* UINT64_MAX behind the last */
};

static bool apart_step(struct apart *apart)
{
    PyObject *item;

    apart->at = UINT64_MAX;
    if (apart->next == PyTuple_Size(apart->tuple))
        return true;
    item = PyTuple_GetItem(apart->tuple, apart->next++);
    return numbers_from(&item, 1, &apart->at);
}

static bool count_requests(Meter *self, const unsigned char *buffer, uint64_t at, uint64_t end,
                           struct apart *apart, uint64_t place, struct request *request)
{
    while (at < end && end - at >= HEADER) {
        const unsigned char *header = buffer + at;
        unsigned command = (unsigned)big_endian(header + 6, 2);
        uint64_t length = big_endian(header + 24, 4);
        bool counts = length && (command == CMD_READ || command == CMD_WRITE ||
                                 command == CMD_TRIM || command == CMD_WRITE_ZEROES);

        if (at == apart->at) {
            counts = false;
            if (!apart_step(apart))
                return false;
        }
        at += HEADER + (command == CMD_WRITE ? length : 0);
        if (!counts)
            continue;
        take_range(request, big_endian(header + 16, 8) + place, length);
        request->write = command != CMD_READ;
        request->merged = follows(self, request);
        each_region(self, request, area_was_busy, true);
    }
    return true;
}

static PyObject *meter_count(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct request request = {0};
    struct apart apart = {0};
    uint64_t range[2], place = 0;
    Py_buffer view;
    bool done;

    if (!check_count("count", count, 5, 7) || !numbers_from(args + 1, 2, range) ||
        !numbers_from(args + 4, 1, &request.since) ||
        (count > 5 && !numbers_from(args + 5, 1, &request.now)) ||
        (count > 6 && !numbers_from(args + 6, 1, &place)))
        return NULL;
    apart.tuple = PySequence_Tuple(args[3]);
    if (!apart.tuple)
        return NULL;
    if (!apart_step(&apart) || PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0) {
        Py_DECREF(apart.tuple);
        return NULL;
    }
    if (!request.now)
        request.now = clock_now();
    if (request.now < request.since)
        request.now = request.since;
    if (range[1] > (uint64_t)view.len)
        range[1] = (uint64_t)view.len;
    done = count_requests((Meter *)object, view.buf, range[0], range[1], &apart, place, &request);
    PyBuffer_Release(&view);
    Py_DECREF(apart.tuple);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

/* write, offset, length and then `more` numbers at least, of which the last may be left out. */
static bool take_request(const char *name, PyObject *const *args, Py_ssize_t count,
                         Py_ssize_t more, struct request *request, uint64_t *numbers)
{
    uint64_t range[2];
    int write;

    if (!check_count(name, count, 3 + more - 1, 3 + more))
        return false;
    write = PyObject_IsTrue(args[0]);
    if (write < 0 || !numbers_from(args + 1, 2, range) ||
        !numbers_from(args + 3, count - 3, numbers))
        return false;
    take_range(request, range[0], range[1]);
    request->write = (unsigned)write;
    return true;
}

static PyObject *meter_begin(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct request request = {0};

    if (!take_request("begin", args, count, 1, &request, &request.now))
        return NULL;
    if (!request.now)
        request.now = clock_now();
    each_region((Meter *)object, &request, area_begin, false);
    return PyLong_FromUnsignedLongLong(request.now << 1 | follows((Meter *)object, &request));
}

static PyObject *meter_end(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct request request = {0};
    uint64_t numbers[2] = {0}; /* begun, now */

    if (!take_request("end", args, count, 2, &request, numbers))
        return NULL;
    request.since = numbers[0] >> 1;
    request.merged = numbers[0] & 1;
    request.now = numbers[1] ? numbers[1] : clock_now();
    if (request.now < request.since)
        request.now = request.since;
    each_region((Meter *)object, &request, area_end, true);
    Py_RETURN_NONE;
}

/* ---- the module ---------------------------------------------------------------------------- */

static PyMethodDef meter_methods[] = {
    {"count", FAST(meter_count), METH_FASTCALL,
     "count($self, requests, first, end, apart, since, now=0, place=0, /)\n--\n\n"
     "Count the NBD requests of a batch that is done."},
    {"begin", FAST(meter_begin), METH_FASTCALL,
     "begin($self, write, offset, length, now=0, /)\n--\n\nA request is under way."},
    {"end", FAST(meter_end), METH_FASTCALL,
     "end($self, write, offset, length, begun, now=0, /)\n--\n\nThat request is done."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot meter_slots[] = {
    {Py_tp_doc, "Meter(regions, /)\n--\n\ndmtool.device.meter.Meter in C."},
    {Py_tp_new, meter_new},
    {Py_tp_dealloc, meter_dealloc},
    {Py_tp_methods, meter_methods},
    {0, NULL},
};

static PyType_Spec meter_spec = {
    .name = "dmtool._stats.Meter",
    .basicsize = sizeof(Meter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = meter_slots,
};

static int module_exec(PyObject *module)
{
    ModuleState *state = PyModule_GetState(module);
    PyObject *meter;
    int failed;

    state->areas = (PyTypeObject *)PyType_FromModuleAndSpec(module, &areas_spec, NULL);
    if (!state->areas || PyModule_AddType(module, state->areas) < 0)
        return -1;
    meter = PyType_FromModuleAndSpec(module, &meter_spec, NULL);
    if (!meter)
        return -1;
    failed = PyModule_AddType(module, (PyTypeObject *)meter);
    Py_DECREF(meter);
    return failed;
}

static int module_clear(PyObject *module)
{
    ModuleState *state = PyModule_GetState(module);

    Py_CLEAR(state->areas);
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    ModuleState *state = PyModule_GetState(module);

    Py_VISIT(state->areas);
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "dmtool._stats",
    .m_doc = "The counters of I/O in C; dmtool.device.meter chooses between these and its own.",
    .m_size = sizeof(ModuleState),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__stats(void)
{
    return PyModuleDef_Init(&module_definition);
}
