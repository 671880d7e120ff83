// SPDX-License-Identifier: Apache-2.0
/*
 * Where the bytes of a table are, for native/nbd.c: lines in their order, each on one backing or
 * dealt out in chunks to several legs. What is none of these has a line without legs.
 *
 * Nothing here changes after it is made, but that `plain_close` gives up the mappings, when nobody
 * is inside the device's gate any more.
 */
#ifndef DMTOOL_PLAIN_H
#define DMTOOL_PLAIN_H

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <endian.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define HIDDEN __attribute__((visibility("hidden")))

struct line {
    uint64_t end;      /* bytes of the device: the first behind it */
    uint64_t chunk;    /* bytes, or 0: all on the first leg */
    uint64_t first;    /* of its legs */
    uint64_t legs;     /* how many; 0: none of what is known here */
    uint64_t writable;
};

struct leg {
    uint64_t backing, start; /* bytes */
};

struct backing {
    int fd;
    int in_memory;  /* its file system has no disk below it */
    uint64_t size;
    Py_buffer view; /* all of it mapped; without `buf`: not */
};

typedef struct {
    PyObject_HEAD
    struct line *lines;
    struct leg *legs;
    struct backing *backings;
    size_t line_count, leg_count, backing_count;
} Plain;

struct place {
    uint32_t backing;
    bool writable;
    uint64_t at;
};

extern PyType_Spec plain_spec HIDDEN;

/* The line that has a byte of the device. */
static inline const struct line *plain_line(const Plain *plain, uint64_t offset)
{
    const struct line *lines = plain->lines;
    size_t low = 0, high = plain->line_count - 1;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (lines[middle].end > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return &lines[low];
}

/* The first piece of a range within the table: its length, and where it is; 0: not known here. */
static inline uint64_t plain_piece(const Plain *plain, uint64_t offset, uint64_t length,
                                   struct place *place)
{
    const struct line *line = plain_line(plain, offset);
    uint64_t within = line == plain->lines ? offset : offset - line[-1].end;
    const struct leg *leg;

    if (!line->legs)
        return 0;
    if (length > line->end - offset)
        length = line->end - offset;
    leg = &plain->legs[line->first];
    if (line->chunk) {
        uint64_t number = within / line->chunk, skip = within % line->chunk;

        if (length > line->chunk - skip)
            length = line->chunk - skip;
        leg += number % line->legs;
        within = number / line->legs * line->chunk + skip;
    }
    *place = (struct place){(uint32_t)leg->backing, line->writable, leg->start + within};
    return place->at + length <= plain->backings[leg->backing].size ? length : 0;
}

/* Where a range within the table is; false: not in one piece of what is known. */
static inline bool plain_find(const Plain *plain, uint64_t offset, uint64_t length,
                              struct place *place)
{
    return plain_piece(plain, offset, length, place) == length;
}

#endif
