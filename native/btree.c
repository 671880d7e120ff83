// SPDX-License-Identifier: Apache-2.0
/*
 * dmtool._btree: the sector index in C, the twin of the class BTree in dmtool/btree.py.
 *
 * The tree itself is in tree.h; here is what Python sees of it. Instances never change, so that
 * any thread may use one; long work lets go of the GIL.
 */
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <limits.h>

#include "tree.h"

#define WITHOUT_GIL 4096 /* lookups, or keys to build from: less is over before the GIL is */

typedef struct {
    PyObject_HEAD
    struct tree tree;
    size_t (*find)(const struct tree *, int64_t);
    void (*find_many)(const struct tree *, const char *, char *, size_t);
} BTree;

typedef struct {
    PyObject *zero; /* array('Q', [0]), to make arrays of */
} ModuleState;

/* For what is no int, or out of range. */
static __attribute__((noinline)) bool key_slowly(PyObject *object, Py_ssize_t position,
                                                 uint64_t *key)
{
    PyObject *number;

    PyErr_Clear();
    number = PyNumber_Index(object);
    if (!number)
        return false;
    *key = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    if (*key != UINT64_MAX || !PyErr_Occurred())
        return true;
    PyErr_Clear();
    if (position < 0)
        PyErr_SetString(PyExc_OverflowError, "key does not fit 64 bits unsigned");
    else
        PyErr_Format(PyExc_OverflowError, "keys[%zd] does not fit 64 bits unsigned", position);
    return false;
}

/* position: in the keys of a new tree, for the error; -1: the key of a lookup */
static inline bool key_from(PyObject *object, Py_ssize_t position, uint64_t *key)
{
    /* with Python 3.11 PyLong_AsUnsignedLong is much the faster one */
    *key = ULONG_MAX == UINT64_MAX ? PyLong_AsUnsignedLong(object)
                                   : PyLong_AsUnsignedLongLong(object);
    if (*key == UINT64_MAX && PyErr_Occurred())
        return key_slowly(object, position, key);
    return true;
}

/* A buffer of native uint64, or of raw bytes that hold such. `name` is for the error. */
static bool get_uint64s(PyObject *object, const char *name, int flags, Py_buffer *view)
{
    const size_t width = sizeof(uint64_t);
    const char *format;
    bool fits;

    if (PyObject_GetBuffer(object, view, flags | PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0)
        return false;
    format = view->format ? view->format : "B";
    if (*format == '@')
        format++;
    fits = !strcmp(format, "B") || !strcmp(format, "Q") ||
           (!strcmp(format, "L") && (size_t)view->itemsize == width);
    if (!fits || view->ndim != 1)
        PyErr_Format(PyExc_TypeError, "%s: not a plain buffer of uint64 or of bytes", name);
    else if ((size_t)view->len % width)
        PyErr_Format(PyExc_ValueError, "%s: %zd bytes are not a whole number of uint64", name,
                     view->len);
    else
        return true;
    PyBuffer_Release(view);
    return false;
}

/* Fills the tree from a buffer; -1 with an exception set, or the result of tree_index. */
static Py_ssize_t fill_from_buffer(struct tree *tree, PyObject *keys)
{
    Py_buffer view;
    size_t end = 0;
    bool allocated;

    if (!get_uint64s(keys, "keys", 0, &view))
        return -1;
    allocated = tree_allocate(tree, (size_t)view.len / sizeof(uint64_t));
    if (allocated) {
        PyThreadState *thread = tree->len >= WITHOUT_GIL ? PyEval_SaveThread() : NULL;

        tree_copy(tree, view.buf);
        end = tree_index(tree);
        if (thread)
            PyEval_RestoreThread(thread);
    } else {
        PyErr_NoMemory();
    }
    PyBuffer_Release(&view);
    return allocated ? (Py_ssize_t)end : -1;
}

/* The same from any iterable of ints. */
static Py_ssize_t fill_from_ints(struct tree *tree, PyObject *keys)
{
    /* a tuple of our own: an __index__ among the keys may change the list that it is in */
    PyObject *tuple = PySequence_Tuple(keys);
    Py_ssize_t end = -1;

    if (!tuple)
        return -1;
    if (!tree_allocate(tree, (size_t)PyTuple_Size(tuple))) {
        PyErr_NoMemory();
        goto out;
    }
    for (size_t i = 0; i < tree->len; i++) {
        uint64_t key;

        if (!key_from(PyTuple_GetItem(tuple, (Py_ssize_t)i), (Py_ssize_t)i, &key))
            goto out;
        leaves(tree)[i] = (int64_t)(key ^ TOP_BIT);
    }
    end = (Py_ssize_t)tree_index(tree);
out:
    Py_DECREF(tuple);
    return end;
}

static PyObject *btree_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"keys", "simd", NULL};
    PyObject *keys;
    int simd = 1;
    Py_ssize_t end;
    BTree *self;
    allocfunc allocate;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$p:BTree", names, &keys, &simd))
        return NULL;
    allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    self = (BTree *)allocate(type, 0);
    if (!self)
        return NULL;
    simd = simd && simd_available();
    self->find = simd ? find_avx2 : find_scalar;
    self->find_many = simd ? find_many_avx2 : find_many_scalar;
    end = PyObject_CheckBuffer(keys) ? fill_from_buffer(&self->tree, keys)
                                     : fill_from_ints(&self->tree, keys);
    if (end >= 0 && (size_t)end == self->tree.len)
        return (PyObject *)self;
    if (end >= 0)
        PyErr_Format(PyExc_ValueError, "keys[%zd] is %llu, not above the %llu before it", end,
                     (unsigned long long)tree_key(&self->tree, (size_t)end),
                     (unsigned long long)tree_key(&self->tree, (size_t)end - 1));
    Py_DECREF(self);
    return NULL;
}

static void btree_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    PyMem_Free(((BTree *)object)->tree.block);
    release(object);
    Py_DECREF(type);
}

static PyObject *btree_find(PyObject *object, PyObject *key_object)
{
    const BTree *self = (const BTree *)object;
    uint64_t key;
    size_t entry;

    if (!key_from(key_object, -1, &key))
        return NULL;
    entry = self->find(&self->tree, (int64_t)(key ^ TOP_BIT));
    /* PyLong_FromLong is the faster of the two */
    return entry <= LONG_MAX ? PyLong_FromLong((long)entry) : PyLong_FromSize_t(entry);
}

static PyObject *btree_find_many(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"keys", "out", NULL};
    const BTree *self = (const BTree *)object;
    PyObject *keys, *out = Py_None, *result = NULL;
    Py_buffer from, to;
    size_t count;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:find_many", names, &keys, &out))
        return NULL;
    if (!get_uint64s(keys, "keys", 0, &from))
        return NULL;
    count = (size_t)from.len / sizeof(uint64_t);
    if (out == Py_None) {
        const ModuleState *state = PyModule_GetState(PyType_GetModule(Py_TYPE(object)));

        result = PySequence_Repeat(state->zero, (Py_ssize_t)count);
    } else {
        Py_INCREF(out);
        result = out;
    }
    if (!result)
        goto release_keys;
    if (!get_uint64s(result, "out", PyBUF_WRITABLE, &to)) {
        Py_CLEAR(result);
        goto release_keys;
    }
    if (to.len == from.len) {
        PyThreadState *thread = count >= WITHOUT_GIL ? PyEval_SaveThread() : NULL;

        self->find_many(&self->tree, from.buf, to.buf, count);
        if (thread)
            PyEval_RestoreThread(thread);
    } else {
        PyErr_Format(PyExc_ValueError, "out: room for %zd indexes, not %zd",
                     to.len / (Py_ssize_t)sizeof(uint64_t), (Py_ssize_t)count);
        Py_CLEAR(result);
    }
    PyBuffer_Release(&to);
release_keys:
    PyBuffer_Release(&from);
    return result;
}

static Py_ssize_t btree_len(PyObject *object)
{
    return (Py_ssize_t)((BTree *)object)->tree.len;
}

static PyObject *btree_item(PyObject *object, Py_ssize_t entry)
{
    const struct tree *tree = &((BTree *)object)->tree;

    if (entry < 0 || (size_t)entry >= tree->len) {
        PyErr_SetString(PyExc_IndexError, "entry out of range");
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(tree_key(tree, (size_t)entry));
}

static PyObject *btree_sizeof(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSize_t(sizeof(BTree) + ((BTree *)object)->tree.nodes * NODE_BYTES +
                             NODE_BYTES - 1);
}

static PyObject *btree_get_depth(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(((BTree *)object)->tree.depth);
}

static PyObject *btree_get_simd(PyObject *object, void *Py_UNUSED(closure))
{
    bool scalar = ((BTree *)object)->find == find_scalar;

    return PyUnicode_FromString(scalar ? "scalar" : "avx2");
}

static PyObject *module_simd_available(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(simd_available());
}

static PyMethodDef btree_methods[] = {
    {"find", btree_find, METH_O,
     "find($self, key, /)\n--\n\nThe number of the first entry that is >= key; len(self) if none."},
    {"find_many", (PyCFunction)(void (*)(void))btree_find_many, METH_VARARGS | METH_KEYWORDS,
     "find_many($self, keys, out=None)\n--\n\n"
     "find for each of a buffer of uint64: into `out`, or as a new array('Q')."},
    {"__sizeof__", btree_sizeof, METH_NOARGS, "__sizeof__($self, /)\n--\n\nBytes in memory."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef btree_attributes[] = {
    {"depth", btree_get_depth, NULL, "Levels of nodes, the leaves counted.", NULL},
    {"simd", btree_get_simd, NULL, "How nodes are compared: 'avx2' or 'scalar'.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot btree_slots[] = {
    {Py_tp_doc, "BTree(keys, *, simd=True)\n--\n\n"
                "dmtool.btree.BTree in C. simd=False leaves the processor's AVX2 alone."},
    {Py_tp_new, btree_new},
    {Py_tp_dealloc, btree_dealloc},
    {Py_tp_methods, btree_methods},
    {Py_tp_getset, btree_attributes},
    {Py_sq_length, btree_len},
    {Py_sq_item, btree_item},
    {0, NULL},
};

static PyType_Spec btree_spec = {
    .name = "dmtool._btree.BTree",
    .basicsize = sizeof(BTree),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = btree_slots,
};

static int module_exec(PyObject *module)
{
    ModuleState *state = PyModule_GetState(module);
    PyObject *type, *array;
    int failed;

    array = PyImport_ImportModule("array");
    if (!array)
        return -1;
    state->zero = PyObject_CallMethod(array, "array", "s[i]", "Q", 0);
    Py_DECREF(array);
    if (!state->zero)
        return -1;
    type = PyType_FromModuleAndSpec(module, &btree_spec, NULL);
    if (!type)
        return -1;
    failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed;
}

static int module_clear(PyObject *module)
{
    ModuleState *state = PyModule_GetState(module);

    Py_CLEAR(state->zero);
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    ModuleState *state = PyModule_GetState(module);

    Py_VISIT(state->zero);
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static PyMethodDef module_methods[] = {
    {"simd_available", module_simd_available, METH_NOARGS,
     "simd_available()\n--\n\nWhether this processor, and this build, can do AVX2."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "dmtool._btree",
    .m_doc = "The sector index in C; dmtool.btree chooses between this and its own.",
    .m_size = sizeof(ModuleState),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__btree(void)
{
    return PyModuleDef_Init(&module_definition);
}
