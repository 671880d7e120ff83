// SPDX-License-Identifier: Apache-2.0
/*
 * dmtool._nbd: the plain requests of NBD connections in C. docs/adr/0006-nbd-lane.md says why;
 * dmtool/export/nbd/lane.py is the only user. Here is the module and its type Lane; what a lane does
 * is in lane.c and large.c, the type Plain in plain.c.
 */
#include "lane.h"

#include <stdlib.h>

typedef struct {
    PyObject_HEAD
    struct lane lane;
    PyObject *plain;
    Py_buffer buffer, turn;
} Lane;

typedef struct {
    PyTypeObject *plain;
} ModuleState;

static PyObject *lane_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *buffer, *turn;
    unsigned long spin;
    int sock, structured;
    Lane *self;

    if (kwargs && PyDict_Size(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Lane() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "iOpOk:Lane", &sock, &buffer, &structured, &turn, &spin))
        return NULL;
    self = (Lane *)allocate(type, 0);
    if (!self)
        return NULL;
    if (PyObject_GetBuffer(buffer, &self->buffer, PyBUF_WRITABLE) < 0 ||
        PyObject_GetBuffer(turn, &self->turn, PyBUF_SIMPLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    if (self->turn.len != sizeof(uint64_t) || self->buffer.len < 2 * (WHOLE + HEADER)) {
        PyErr_SetString(PyExc_ValueError, "Lane: a turn is one uint64, a buffer 128 KiB and more");
        Py_DECREF(self);
        return NULL;
    }
    self->lane.sock = sock;
    self->lane.structured = structured;
    self->lane.spin = (uint64_t)spin * 1000;
    self->lane.buffer = self->buffer.buf;
    self->lane.size = (size_t)self->buffer.len;
    self->lane.turn = self->turn.buf;
    self->lane.most = SIZE_MAX;
    if (!cold_init(&self->lane.cold)) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void lane_dealloc(PyObject *object)
{
    Lane *self = (Lane *)object;
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    if (self->buffer.obj)
        PyBuffer_Release(&self->buffer);
    if (self->turn.obj)
        PyBuffer_Release(&self->turn);
    Py_XDECREF(self->plain);
    Py_XDECREF(self->lane.meter);
    PyMem_Free(self->lane.seen);
    cold_free(&self->lane.cold);
    release(object);
    Py_DECREF(type);
}

/* Have the requests counted by a Meter of dmtool._stats, or not, by None; false: an exception is set. */
static bool take_meter(struct lane *lane, PyObject *meter)
{
    PyObject *before = lane->meter;

    if (meter == Py_None) {
        lane->meter = NULL;
    } else {
        const struct counting *counting = PyCapsule_Import(COUNTING, 0);

        if (!counting)
            return false;
        if (Py_TYPE(meter) != counting->meter) {
            PyErr_SetString(PyExc_TypeError, "prepare: not a Meter of dmtool._stats");
            return false;
        }
        Py_INCREF(meter);
        lane->counting = counting;
        lane->meter = meter;
    }
    Py_XDECREF(before);
    return true;
}

static PyObject *lane_prepare(PyObject *object, PyObject *args)
{
    const ModuleState *state = PyModule_GetState(PyType_GetModule(Py_TYPE(object)));
    PyObject *plain_object, *meter, *before = ((Lane *)object)->plain;
    struct lane *lane = &((Lane *)object)->lane;
    unsigned long long turn, readable, writable;
    unsigned wanted;
    int closed_fd;
    const Plain *plain;
    uint64_t *seen, size;

    if (!PyArg_ParseTuple(args, "O!iKKKIO:prepare", state->plain, &plain_object, &closed_fd, &turn,
                          &readable, &writable, &wanted, &meter) ||
        !take_meter(lane, meter))
        return NULL;
    plain = (const Plain *)plain_object;
    seen = PyMem_Calloc(plain->backing_count + 1, sizeof(*seen));
    if (!seen)
        return PyErr_NoMemory();
    PyMem_Free(lane->seen);
    lane->seen = seen;
    lane->batches = 0;
    lane->prepared_for = turn;
    lane->cold.wanted = wanted;
    lane->cold.hits = 0;
    lane->closed_fd = closed_fd;
    size = plain->lines[plain->line_count - 1].end;
    lane->readable = readable < size ? readable : size;
    lane->writable = writable < size ? writable : size;
    lane->plain = plain;
    Py_INCREF(plain_object);
    ((Lane *)object)->plain = plain_object;
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

/* What a run has left to Python besides: unsent replies, and the requests of failed reads. */
static PyObject *take_left(struct cold *cold)
{
    size_t size = cold_failed(cold, NULL) * HEADER;
    PyObject *failed = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    PyObject *unsent =
        PyBytes_FromStringAndSize((const char *)cold->unsent, (Py_ssize_t)cold->unsent_size);

    if (failed && unsent) {
        cold_failed(cold, (unsigned char *)PyBytes_AsString(failed));
        free(cold->unsent);
        cold->unsent = NULL;
        cold->unsent_size = 0;
    }
    return Py_BuildValue("(NN)", unsent, failed);
}

static PyObject *lane_run_one(PyObject *object, PyObject *args)
{
    struct lane *lane = &((Lane *)object)->lane;
    Py_ssize_t pos, end;
    enum reason reason;
    PyObject *left;
    int receive;

    if (!PyArg_ParseTuple(args, "nnp:run", &pos, &end, &receive))
        return NULL;
    if (!lane->plain || pos < 0 || pos > end || (size_t)end > lane->size) {
        PyErr_SetString(PyExc_ValueError, "run: not prepared, or not within the buffer");
        return NULL;
    }
    lane->pos = lane->first = (size_t)pos;
    lane->end = (size_t)end;
    lane->done = 0;
    lane->waits = lane_waits();
    Py_BEGIN_ALLOW_THREADS
    reason = lane_run(lane, receive);
    Py_END_ALLOW_THREADS
    left = cold_stops(&lane->cold) ? take_left(&lane->cold) : Py_BuildValue("");
    return Py_BuildValue("(innnnN)", (int)reason, (Py_ssize_t)lane->pos, (Py_ssize_t)lane->end,
                         (Py_ssize_t)lane->first, (Py_ssize_t)lane->done, left);
}

static PyObject *lane_left(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    atomic_store(&((Lane *)object)->lane.inside, 0);
    Py_RETURN_NONE;
}

static PyObject *lane_get_inside(PyObject *object, void *Py_UNUSED(closure))
{
    atomic_thread_fence(memory_order_seq_cst); /* after the store to `turn`, which was Python's */
    return PyBool_FromLong(atomic_load(&((Lane *)object)->lane.inside));
}

static PyMethodDef lane_methods[] = {
    {"prepare", lane_prepare, METH_VARARGS,
     "prepare($self, plain, closed_fd, turn, readable, writable, wanted, meter, /)\n--\n\n"
     "What the next runs are for; bytes up to which may be read, and written; after how many reads in\n"
     "a row that were cached it is warm, 0: it is; what counts them."},
    {"run", lane_run_one, METH_VARARGS,
     "run($self, pos, end, receive, /)\n--\n\n"
     "Receive, do and answer; (why it ended, pos, end, first, bytes done, what is left besides:\n"
     "unsent replies and requests of reads that failed, or None)."},
    {"left", lane_left, METH_NOARGS, "left($self, /)\n--\n\nIt is not inside the gate any more."},
    {NULL, NULL, 0, NULL},
};

static PyObject *lane_get_since(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((Lane *)object)->lane.since);
}

static PyGetSetDef lane_attributes[] = {
    {"since", lane_get_since, NULL, "When it last went in, in nanoseconds, if it counts.", NULL},
    {"inside", lane_get_inside, NULL, "Whether it is inside the gate.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot lane_slots[] = {
    {Py_tp_doc, "Lane(sock, buffer, structured, turn, spin, /)\n--\n\n"
                "The plain requests of one connection, without the GIL; spin in microseconds."},
    {Py_tp_new, lane_new},
    {Py_tp_dealloc, lane_dealloc},
    {Py_tp_methods, lane_methods},
    {Py_tp_getset, lane_attributes},
    {0, NULL},
};

static PyType_Spec lane_spec = {
    .name = "dmtool._nbd.Lane",
    .basicsize = sizeof(Lane),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lane_slots,
};

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **kept)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    int failed = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;

    if (kept && !failed)
        *kept = (PyTypeObject *)type;
    else
        Py_XDECREF(type);
    return failed;
}

static int module_exec(PyObject *module)
{
    ModuleState *state = PyModule_GetState(module);

    return add_type(module, &plain_spec, &state->plain) || add_type(module, &lane_spec, NULL)
               ? -1
               : 0;
}

static int module_clear(PyObject *module)
{
    ModuleState *state = PyModule_GetState(module);

    Py_CLEAR(state->plain);
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    ModuleState *state = PyModule_GetState(module);

    Py_VISIT(state->plain);
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
    .m_name = "dmtool._nbd",
    .m_doc = "Plain NBD requests in C; dmtool.export.nbd.lane is the only user.",
    .m_size = sizeof(ModuleState),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__nbd(void)
{
    return PyModuleDef_Init(&module_definition);
}
