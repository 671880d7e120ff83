// SPDX-License-Identifier: Apache-2.0
/*
 * dmtool._table: lines of a mapping table to and from columns, in C; the twins of the functions
 * `scan`, `check` and `lines` in dmtool/table/columns.py, which are the specification.
 *
 * The columns are buffers of the caller: uint64 for sectors, uint32 for kinds. Nothing here lets
 * go of the GIL: a call is about a megabyte of text, or as many rows, and takes milliseconds.
 */
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "row.h"

#define FAST(function) ((PyCFunction)(void (*)(void))(function))
#define LARGEST_DEVICE (((UINT64_C(1) << 63) - 1) >> 9) /* sectors */
#define LINE_MOST (3 * (DIGITS_MOST + 2)) /* what `lines` writes of a line besides its name */

enum { BEGINS, LENGTHS, STARTS, KINDS, COLUMNS };

/* ---- columns ------------------------------------------------------------------------------- */

static const char *const column_names[COLUMNS] = {"begins", "lengths", "starts", "kinds"};

static void release_columns(Py_buffer *views, int count)
{
    while (count--)
        PyBuffer_Release(&views[count]);
}

/* The columns of `count` arguments; the number of rows that all of them have, or -1. */
static Py_ssize_t get_columns(PyObject *const *args, int flags, Py_buffer *views)
{
    Py_ssize_t rows = PY_SSIZE_T_MAX;

    for (int i = 0; i < COLUMNS; i++) {
        Py_ssize_t width = i == KINDS ? sizeof(uint32_t) : sizeof(uint64_t);

        if (PyObject_GetBuffer(args[i], &views[i], flags | PyBUF_ND) < 0) {
            release_columns(views, i);
            return -1;
        }
        if (views[i].itemsize != width) {
            PyErr_Format(PyExc_TypeError, "%s: not %zd bytes an entry", column_names[i], width);
            release_columns(views, i + 1);
            return -1;
        }
        if (views[i].len / width < rows)
            rows = views[i].len / width;
    }
    return rows;
}

static bool check_count(const char *name, Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted)
        return true;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, not %zd", name, wanted, given);
    return false;
}

/* A number that is not negative; -1 with an exception set. */
static Py_ssize_t index_from(PyObject *object)
{
    Py_ssize_t index = PyLong_AsSsize_t(object);

    if (index < 0 && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "a number is negative");
    return index < 0 ? -1 : index;
}

/* ---- text to columns ----------------------------------------------------------------------- */

/* words[b"type device"], which may be a call; false with an exception set. */
static bool kind_of(const struct row *row, PyObject *words, uint32_t *kind)
{
    size_t size = row->type_size + (row->device ? row->device_size + 1 : 0);
    PyObject *key = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size), *number;
    unsigned long value;
    char *text;

    if (!key)
        return false;
    text = PyBytes_AsString(key);
    memcpy(text, row->type, row->type_size);
    if (row->device) {
        text[row->type_size] = ' ';
        memcpy(text + row->type_size + 1, row->device, row->device_size);
    }
    number = PyObject_GetItem(words, key);
    Py_DECREF(key);
    if (!number)
        return false;
    value = PyLong_AsUnsignedLong(number);
    Py_DECREF(number);
    if (value > UINT32_MAX) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_OverflowError, "words: a number of more than 32 bits");
        return false;
    }
    *kind = (uint32_t)value;
    return true;
}

/* Fills rows from *row on from the text at *at on; false with an exception set. */
static bool scan_lines(const Py_buffer *text, PyObject *words, Py_buffer *views, Py_ssize_t rows,
                       Py_ssize_t *at, Py_ssize_t *row_number)
{
    const char *begin = text->buf, *end = begin + text->len;
    struct row row, last = {0};
    uint32_t kind = 0;

    while (*at < text->len && *row_number < rows) {
        const char *line = begin + *at;
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        Py_ssize_t n = *row_number;

        if (!take_row(&row, line, newline ? newline : end))
            return true;
        if (!last.type || !same_words(&row, &last)) {
            if (!kind_of(&row, words, &kind))
                return false;
            last = row;
        }
        ((uint64_t *)views[BEGINS].buf)[n] = row.begin;
        ((uint64_t *)views[LENGTHS].buf)[n] = row.length;
        ((uint64_t *)views[STARTS].buf)[n] = row.start;
        ((uint32_t *)views[KINDS].buf)[n] = kind;
        *row_number = n + 1;
        *at = newline ? newline + 1 - begin : text->len;
    }
    return true;
}

static PyObject *table_scan(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Py_buffer text, views[COLUMNS];
    Py_ssize_t at, row, rows;
    bool done;

    if (!check_count("scan", count, 4 + COLUMNS))
        return NULL;
    at = index_from(args[1]);
    row = at < 0 ? -1 : index_from(args[2]);
    if (row < 0 || PyObject_GetBuffer(args[0], &text, PyBUF_SIMPLE) < 0)
        return NULL;
    rows = get_columns(args + 4, PyBUF_WRITABLE, views);
    done = rows >= 0 && scan_lines(&text, args[3], views, rows, &at, &row);
    if (rows >= 0)
        release_columns(views, COLUMNS);
    PyBuffer_Release(&text);
    return done ? Py_BuildValue("nn", at, row) : NULL;
}

/* ---- what is wrong with rows --------------------------------------------------------------- */

static Py_ssize_t check_rows(const Py_buffer *views, const Py_buffer *limits, Py_ssize_t row,
                             Py_ssize_t rows, uint64_t *expected)
{
    const uint64_t *begins = views[BEGINS].buf, *lengths = views[LENGTHS].buf;
    const uint64_t *starts = views[STARTS].buf, *limit = limits->buf;
    const uint32_t *kinds = views[KINDS].buf;
    uint64_t most = (uint64_t)limits->len / sizeof(*limit);

    for (; row < rows; row++) {
        uint64_t length = lengths[row], room;

        if (kinds[row] >= most || begins[row] != *expected || !length ||
            *expected > LARGEST_DEVICE || length > LARGEST_DEVICE - *expected)
            break;
        room = limit[kinds[row]];
        if (length > room || starts[row] > room - length)
            break;
        *expected += length;
    }
    return row;
}

static PyObject *table_check(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Py_buffer views[COLUMNS], limits;
    Py_ssize_t row, rows, end;
    uint64_t expected;

    if (!check_count("check", count, COLUMNS + 4))
        return NULL;
    row = index_from(args[COLUMNS + 1]);
    end = row < 0 ? -1 : index_from(args[COLUMNS + 2]);
    if (end < 0)
        return NULL;
    expected = PyLong_AsUnsignedLongLong(args[COLUMNS + 3]);
    if (expected == UINT64_MAX && PyErr_Occurred())
        return NULL;
    rows = get_columns(args, PyBUF_SIMPLE, views);
    if (rows < 0)
        return NULL;
    if (PyObject_GetBuffer(args[COLUMNS], &limits, PyBUF_ND) < 0) {
        release_columns(views, COLUMNS);
        return NULL;
    }
    if (limits.itemsize == sizeof(uint64_t))
        row = check_rows(views, &limits, row, end < rows ? end : rows, &expected);
    else
        PyErr_SetString(PyExc_TypeError, "limits: not 8 bytes an entry");
    PyBuffer_Release(&limits);
    release_columns(views, COLUMNS);
    return PyErr_Occurred() ? NULL : Py_BuildValue("nK", row, (unsigned long long)expected);
}

/* ---- columns to text ----------------------------------------------------------------------- */

/* What `lines` writes behind the two numbers. NULL: such a row is not written. */
struct name {
    const char *text;
    size_t size;
};

/* A new array, whose texts are those of `list`; NULL with an exception set. */
static struct name *names_from(PyObject *list, Py_ssize_t *count)
{
    struct name *names;

    *count = PyList_Size(list);
    if (*count < 0)
        return NULL;
    names = PyMem_Calloc((size_t)*count + 1, sizeof(*names));
    if (!names) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < *count; i++) {
        PyObject *name = PyList_GetItem(list, i);
        Py_ssize_t size;
        char *text;

        if (name == Py_None)
            continue;
        if (PyBytes_AsStringAndSize(name, &text, &size) < 0) {
            PyMem_Free(names);
            return NULL;
        }
        names[i].text = text;
        names[i].size = (size_t)size;
    }
    return names;
}

static PyObject *put_lines(const Py_buffer *begin_view, const Py_buffer *start_view,
                           const Py_buffer *kind_view, const struct name *names,
                           Py_ssize_t count, Py_ssize_t row, Py_ssize_t end)
{
    const uint64_t *begins = begin_view->buf, *starts = start_view->buf;
    const uint32_t *kinds = kind_view->buf;
    PyObject *result;
    size_t size = 0;
    char *text, *to;

    for (Py_ssize_t i = row; i < end; i++) {
        if (kinds[i] >= (size_t)count || !names[kinds[i]].text)
            end = i;
        else
            size += names[kinds[i]].size + LINE_MOST;
    }
    text = PyMem_Malloc(size + 1);
    if (!text)
        return PyErr_NoMemory();
    to = text;
    for (Py_ssize_t i = row; i < end; i++) {
        const struct name *name = &names[kinds[i]];

        to = put_number(to, begins[i]);
        *to++ = ' ';
        to = put_number(to, begins[i + 1] - begins[i]);
        *to++ = ' ';
        memcpy(to, name->text, name->size);
        to += name->size;
        /* "zero " is all there is; "linear <device> " goes on */
        if (memchr(name->text, ' ', name->size) != name->text + name->size - 1)
            to = put_number(to, starts[i]);
        *to++ = '\n';
    }
    result = Py_BuildValue("y#n", text, (Py_ssize_t)(to - text), end);
    PyMem_Free(text);
    return result;
}

static PyObject *table_lines(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    static const Py_ssize_t widths[] = {sizeof(uint64_t), sizeof(uint64_t), sizeof(uint32_t)};
    PyObject *result = NULL;
    Py_ssize_t row, end, names_count;
    struct name *names;
    Py_buffer views[3];
    int held = 0;

    if (!check_count("lines", count, 6))
        return NULL;
    row = index_from(args[4]);
    end = row < 0 ? -1 : index_from(args[5]);
    if (end < 0)
        return NULL;
    for (; held < 3; held++) {
        Py_ssize_t rows;

        if (PyObject_GetBuffer(args[held], &views[held], PyBUF_ND) < 0)
            goto release;
        rows = views[held].len / widths[held] - (held == 0);
        if (end > rows)
            end = rows;
        if (views[held].itemsize != widths[held]) {
            PyErr_SetString(PyExc_TypeError, "lines(): a column has entries of another size");
            held++;
            goto release;
        }
    }
    names = names_from(args[3], &names_count);
    if (names)
        result = put_lines(&views[0], &views[1], &views[2], names, names_count, row, end);
    PyMem_Free(names);
release:
    release_columns(views, held);
    return result;
}

/* ---- the module ---------------------------------------------------------------------------- */

static PyMethodDef module_methods[] = {
    {"scan", FAST(table_scan), METH_FASTCALL,
     "scan(text, at, row, words, begins, lengths, starts, kinds, /)\n--\n\n"
     "Read plain lines into columns: where it stopped, and the next row."},
    {"check", FAST(table_check), METH_FASTCALL,
     "check(begins, lengths, starts, kinds, limits, row, end, expected, /)\n--\n\n"
     "The first row that is not good, and the sector at which it should begin."},
    {"lines", FAST(table_lines), METH_FASTCALL,
     "lines(begins, starts, kinds, names, row, end, /)\n--\n\n"
     "Rows as text, and the first that is not in it."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {0, NULL},
};

static PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "dmtool._table",
    .m_doc = "Tables as columns in C; dmtool.table.columns chooses between this and its own.",
    .m_size = 0,
    .m_methods = module_methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__table(void)
{
    return PyModuleDef_Init(&module_definition);
}
