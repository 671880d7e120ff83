// SPDX-License-Identifier: Apache-2.0
/* The type Plain of dmtool._nbd; plain.h has what it is. */
#include "plain.h"

/* A copy of a buffer of uint64 as records of `width` bytes; NULL with an exception set. */
static void *records(PyObject *object, const char *name, size_t width, size_t *count)
{
    Py_buffer view;
    void *copy = NULL;

    if (PyObject_GetBuffer(object, &view, PyBUF_C_CONTIGUOUS) < 0)
        return NULL;
    *count = (size_t)view.len / width;
    if ((size_t)view.len % width || !view.len)
        PyErr_Format(PyExc_ValueError, "%s: %zd bytes are no whole number of records, or none",
                     name, view.len);
    else if (!(copy = PyMem_Malloc((size_t)view.len)))
        PyErr_NoMemory();
    else
        memcpy(copy, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return copy;
}

/* (fd, size, view or None, in_memory) of each */
static bool take_backings(Plain *self, PyObject *tuple)
{
    size_t count = (size_t)PyTuple_Size(tuple);

    self->backings = PyMem_Calloc(count ? count : 1, sizeof(struct backing));
    if (!self->backings) {
        PyErr_NoMemory();
        return false;
    }
    for (; self->backing_count < count; self->backing_count++) {
        struct backing *backing = &self->backings[self->backing_count];
        PyObject *view;
        unsigned long long size;

        if (!PyArg_ParseTuple(PyTuple_GetItem(tuple, (Py_ssize_t)self->backing_count), "iKOp",
                              &backing->fd, &size, &view, &backing->in_memory))
            return false;
        backing->size = size;
        if (view == Py_None)
            continue;
        if (PyObject_GetBuffer(view, &backing->view, PyBUF_C_CONTIGUOUS) < 0)
            return false;
        if ((uint64_t)backing->view.len < backing->size) {
            PyBuffer_Release(&backing->view);
            PyErr_SetString(PyExc_ValueError, "backings: a view is shorter than its backing");
            return false;
        }
    }
    return true;
}

/* So that no number in them leads out of what is there. */
static bool check(const Plain *self)
{
    uint64_t before = 0;

    for (size_t i = 0; i < self->line_count; i++) {
        const struct line *line = &self->lines[i];

        if (line->end <= before || line->end > INT64_MAX) {
            PyErr_Format(PyExc_ValueError, "lines[%zu]: ends are not in order", i);
            return false;
        }
        if (line->first > self->leg_count || line->legs > self->leg_count - line->first) {
            PyErr_Format(PyExc_ValueError, "lines[%zu]: it has legs that there are not", i);
            return false;
        }
        before = line->end;
    }
    for (size_t i = 0; i < self->leg_count; i++)
        if (self->legs[i].backing >= self->backing_count || self->legs[i].start > INT64_MAX) {
            PyErr_Format(PyExc_ValueError, "legs[%zu]: no such backing, or place", i);
            return false;
        }
    return true;
}

static PyObject *plain_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *lines, *legs, *backings;
    Plain *self;

    if (kwargs && PyDict_Size(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Plain() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OOO!:Plain", &lines, &legs, &PyTuple_Type, &backings))
        return NULL;
    self = (Plain *)allocate(type, 0);
    if (!self)
        return NULL;
    self->lines = records(lines, "lines", sizeof(struct line), &self->line_count);
    if (self->lines)
        self->legs = records(legs, "legs", sizeof(struct leg), &self->leg_count);
    if (self->legs && take_backings(self, backings) && check(self))
        return (PyObject *)self;
    Py_DECREF(self);
    return NULL;
}

static void close_views(Plain *self)
{
    for (size_t i = 0; i < self->backing_count; i++)
        if (self->backings[i].view.obj)
            PyBuffer_Release(&self->backings[i].view);
}

static void plain_dealloc(PyObject *object)
{
    Plain *self = (Plain *)object;
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    close_views(self);
    PyMem_Free(self->lines);
    PyMem_Free(self->legs);
    PyMem_Free(self->backings);
    release(object);
    Py_DECREF(type);
}

static PyObject *plain_close(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    close_views((Plain *)object);
    Py_RETURN_NONE;
}

static PyObject *plain_find_one(PyObject *object, PyObject *args)
{
    const Plain *self = (const Plain *)object;
    unsigned long long offset, length, size = self->lines[self->line_count - 1].end;
    struct place place;

    if (!PyArg_ParseTuple(args, "KK:find", &offset, &length))
        return NULL;
    if (!length || length > size || offset > size - length) {
        PyErr_SetString(PyExc_ValueError, "find: not within the table");
        return NULL;
    }
    if (!plain_find(self, offset, length, &place))
        Py_RETURN_NONE;
    return Py_BuildValue("(kKN)", (unsigned long)place.backing, (unsigned long long)place.at,
                         PyBool_FromLong(place.writable));
}

static PyMethodDef plain_methods[] = {
    {"close", plain_close, METH_NOARGS,
     "close($self, /)\n--\n\nGive up the mappings; nobody may be inside the gate."},
    {"find", plain_find_one, METH_VARARGS,
     "find($self, offset, length, /)\n--\n\n"
     "(number of the backing, byte there, whether it may be written), or None."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot plain_slots[] = {
    {Py_tp_doc, "Plain(lines, legs, backings, /)\n--\n\n"
                "Where bytes are. lines: uint64 end, chunk, first leg, legs, writable of each; legs:"
                " uint64 backing, start; backings: (fd, size, view or None, whether no disk is below)."},
    {Py_tp_new, plain_new},
    {Py_tp_dealloc, plain_dealloc},
    {Py_tp_methods, plain_methods},
    {0, NULL},
};

PyType_Spec plain_spec = {
    .name = "dmtool._nbd.Plain",
    .basicsize = sizeof(Plain),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = plain_slots,
};
