// SPDX-License-Identifier: Apache-2.0
/*
 * dmtool._stats: the counters of I/O in C, the twins of the classes in dmtool/device/meter.py.
 *
 * Here is the module and its type Meter; the counting is in areas.h, the type Areas in areas.c. Who
 * counts, or reads what was counted, has `counters`; a thread need not have the GIL to count.
 */
#include "stats.h"

#define SECTOR_SHIFT 9
#define HEADER 28 /* bytes of an NBD request */

enum { CMD_READ = 0, CMD_WRITE = 1, CMD_TRIM = 4, CMD_WRITE_ZEROES = 6 };

typedef struct {
    PyObject_HEAD
    PyObject *regions; /* a tuple of Areas */
    struct areas **areas; /* theirs */
    Py_ssize_t len;
    uint64_t next; /* a merged request begins at this sector */
    unsigned next_write;
} Meter;

typedef struct {
    PyTypeObject *areas;
    struct counting counting;
} ModuleState;

pthread_mutex_t counters = PTHREAD_MUTEX_INITIALIZER;

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
    if (self->regions) {
        self->len = PyTuple_Size(self->regions);
        self->areas = PyMem_Calloc((size_t)self->len + 1, sizeof(*self->areas));
        if (!self->areas)
            PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; self->areas && i < self->len; i++) {
        PyObject *areas = PyTuple_GetItem(self->regions, i);

        if (Py_TYPE(areas) != state->areas)
            PyErr_SetString(PyExc_TypeError, "regions: not all of them are Areas");
        self->areas[i] = &((Areas *)areas)->areas;
    }
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

    PyMem_Free(((Meter *)object)->areas);
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
        areas_each(self->areas[i], request, what, done);
}

static inline uint64_t big_endian(const unsigned char *bytes, unsigned count)
{
    uint64_t number = 0;

    for (unsigned i = 0; i < count; i++)
        number = number << 8 | bytes[i];
    return number;
}

/* `apart`: bytes at which requests begin that are not counted, ascending, then UINT64_MAX. */
static void count_requests(Meter *self, const unsigned char *buffer, uint64_t at, uint64_t end,
                           const uint64_t *apart, uint64_t place, struct request *request)
{
    pthread_mutex_lock(&counters);
    while (at < end && end - at >= HEADER) {
        const unsigned char *header = buffer + at;
        unsigned command = (unsigned)big_endian(header + 6, 2);
        uint64_t length = big_endian(header + 24, 4);
        bool counts = length && (command == CMD_READ || command == CMD_WRITE ||
                                 command == CMD_TRIM || command == CMD_WRITE_ZEROES);

        if (at == *apart) {
            counts = false;
            apart++;
        }
        at += HEADER + (command == CMD_WRITE ? length : 0);
        if (!counts)
            continue;
        take_range(request, big_endian(header + 16, 8) + place, length);
        request->write = command != CMD_READ;
        request->merged = follows(self, request);
        each_region(self, request, area_was_busy, true);
    }
    pthread_mutex_unlock(&counters);
}

static void count_plain(PyObject *meter, const unsigned char *requests, uint64_t at, uint64_t end,
                        uint64_t since)
{
    struct request request = {.since = since, .now = clock_now()};
    const uint64_t none = UINT64_MAX;

    if (request.now < since)
        request.now = since;
    count_requests((Meter *)meter, requests, at, end, &none, 0, &request);
}

/* The numbers of a sequence as count_requests has them; NULL with an exception set. */
static uint64_t *apart_from(PyObject *sequence)
{
    PyObject *tuple = PySequence_Tuple(sequence);
    Py_ssize_t count = tuple ? PyTuple_Size(tuple) : 0;
    uint64_t *apart = NULL;

    if (tuple)
        apart = PyMem_Malloc(((size_t)count + 1) * sizeof(*apart));
    if (tuple && !apart)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; apart && i < count; i++) {
        PyObject *item = PyTuple_GetItem(tuple, i);

        if (!numbers_from(&item, 1, &apart[i])) {
            PyMem_Free(apart);
            apart = NULL;
        }
    }
    if (apart)
        apart[count] = UINT64_MAX;
    Py_XDECREF(tuple);
    return apart;
}

static PyObject *meter_count(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct request request = {0};
    uint64_t range[2], place = 0, *apart;
    Py_buffer view;

    if (!check_count("count", count, 5, 7) || !numbers_from(args + 1, 2, range) ||
        !numbers_from(args + 4, 1, &request.since) ||
        (count > 5 && !numbers_from(args + 5, 1, &request.now)) ||
        (count > 6 && !numbers_from(args + 6, 1, &place)))
        return NULL;
    apart = apart_from(args[3]);
    if (!apart || PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0) {
        PyMem_Free(apart);
        return NULL;
    }
    if (!request.now)
        request.now = clock_now();
    if (request.now < request.since)
        request.now = request.since;
    if (range[1] > (uint64_t)view.len)
        range[1] = (uint64_t)view.len;
    count_requests((Meter *)object, view.buf, range[0], range[1], apart, place, &request);
    PyBuffer_Release(&view);
    PyMem_Free(apart);
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
    uint64_t merged;

    if (!take_request("begin", args, count, 1, &request, &request.now))
        return NULL;
    if (!request.now)
        request.now = clock_now();
    pthread_mutex_lock(&counters);
    each_region((Meter *)object, &request, area_begin, false);
    merged = follows((Meter *)object, &request);
    pthread_mutex_unlock(&counters);
    return PyLong_FromUnsignedLongLong(request.now << 1 | merged);
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
    pthread_mutex_lock(&counters);
    each_region((Meter *)object, &request, area_end, true);
    pthread_mutex_unlock(&counters);
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
    PyObject *meter, *capsule;

    state->areas = (PyTypeObject *)PyType_FromModuleAndSpec(module, &areas_spec, NULL);
    if (!state->areas || PyModule_AddType(module, state->areas) < 0)
        return -1;
    meter = PyType_FromModuleAndSpec(module, &meter_spec, NULL);
    if (!meter)
        return -1;
    state->counting = (struct counting){(PyTypeObject *)meter, count_plain};
    capsule = PyCapsule_New(&state->counting, COUNTING, NULL);
    if (!capsule || PyModule_AddObjectRef(module, "counting", capsule) < 0) {
        Py_XDECREF(capsule);
        return -1;
    }
    Py_DECREF(capsule);
    return PyModule_AddType(module, (PyTypeObject *)meter);
}

static int module_clear(PyObject *module)
{
    ModuleState *state = PyModule_GetState(module);

    Py_CLEAR(state->areas);
    Py_CLEAR(state->counting.meter);
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    ModuleState *state = PyModule_GetState(module);

    Py_VISIT(state->areas);
    Py_VISIT(state->counting.meter);
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
