// SPDX-License-Identifier: Apache-2.0
/*
 * One plain line of a mapping table, to and from its fields: `scan` of dmtool/table/columns.py
 * says what is plain. Part of table.c; nothing of Python is used here.
 */
#ifndef DMTOOL_ROW_H
#define DMTOOL_ROW_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define DIGITS_MOST 19 /* so that no number can pass 2^64 */
#define TYPE_MOST 15

struct row {
    uint64_t begin, length, start;
    const char *type, *device; /* device: NULL where there are no arguments */
    size_t type_size, device_size;
};

static inline bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* isspace() of C, less the newline */
static inline bool is_white(char c)
{
    return is_blank(c) || c == '\v' || c == '\f' || c == '\r';
}

static inline const char *skip_white(const char *at, const char *end)
{
    while (at < end && is_white(*at))
        at++;
    return at;
}

/* Behind a number of up to DIGITS_MOST digits; NULL where there is none. */
static inline const char *take_number(const char *at, const char *end, uint64_t *number)
{
    const char *from = at;
    uint64_t value = 0;

    for (; at < end && *at >= '0' && *at <= '9'; at++)
        if (at - from < DIGITS_MOST)
            value = value * 10 + (uint64_t)(*at - '0');
    *number = value;
    return at > from && at - from <= DIGITS_MOST ? at : NULL;
}

/* The same and the blanks behind it, of which there must be one. */
static inline const char *take_field(const char *at, const char *end, uint64_t *number)
{
    at = take_number(at, end, number);
    if (!at || at == end || !is_blank(*at))
        return NULL;
    while (at < end && is_blank(*at))
        at++;
    return at;
}

static inline bool take_type(struct row *row, const char *at, const char *end)
{
    row->type = at;
    for (; at < end && *at > ' ' && *at < '\x7f' && *at != '#' && *at != '\\'; at++)
        ;
    row->type_size = (size_t)(at - row->type);
    return row->type_size && row->type_size <= TYPE_MOST && (at == end || is_white(*at));
}

/* Reads the line from `at` to `end`; false if it is not plain. */
static bool take_row(struct row *row, const char *at, const char *end)
{
    while (at < end && is_blank(*at))
        at++;
    at = take_field(at, end, &row->begin);
    at = at ? take_field(at, end, &row->length) : NULL;
    if (!at || !take_type(row, at, end))
        return false;
    at = skip_white(row->type + row->type_size, end);
    row->device = NULL;
    row->device_size = 0;
    row->start = 0;
    if (at == end)
        return true;
    row->device = at;
    for (; at < end && !is_white(*at); at++)
        if (*at == '#' || *at == '\\' || *at == '\0')
            return false;
    row->device_size = (size_t)(at - row->device);
    at = take_number(skip_white(at, end), end, &row->start);
    return at && skip_white(at, end) == end;
}

static bool same_words(const struct row *row, const struct row *other)
{
    return row->type_size == other->type_size && row->device_size == other->device_size &&
           !memcmp(row->type, other->type, row->type_size) &&
           !memcmp(row->device ? row->device : row->type,
                   other->device ? other->device : other->type, row->device_size);
}

static inline char *put_number(char *to, uint64_t number)
{
    char digits[DIGITS_MOST + 1];
    int size = 0;

    do {
        digits[size++] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    while (size)
        *to++ = digits[--size];
    return to;
}

#endif
