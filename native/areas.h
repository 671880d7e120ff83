// SPDX-License-Identifier: Apache-2.0
/*
 * The counters of one region, cut into areas: the twin of the class Areas in
 * dmtool/device/meter.py, which is the specification and says what the numbers mean.
 *
 * Whoever calls anything here has the turn, which keeps the numbers together (`counters` in
 * stats.h, which includes this, and Python.h first: memory is Python's, PyMem_Malloc).
 */
#ifndef DMTOOL_AREAS_H
#define DMTOOL_AREAS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct area {
    /* what `clear` sets to zero; [0] is for reads, [1] for writes */
    uint64_t ios[2], merges[2], sectors[2], ticks[2], busy[2];
    uint64_t busy_any, queue;
    /* what it does not */
    uint64_t in_flight[2], stamp[2], stamp_any;
    uint64_t histogram[];
};

struct areas {
    uint64_t start, end, step; /* sectors; end is the first behind the region */
    size_t len;                /* areas */
    size_t size;               /* bytes of one */
    size_t bounds, bins;       /* numbers of them; both 0 without a histogram */
    uint64_t *bound;           /* ascending */
    char *block;
};

/* A request, as all regions see it. */
struct request {
    uint64_t first, end; /* sectors; end is the first behind it */
    unsigned write;
    uint64_t merged;
    uint64_t since, now;
};

typedef void area_function(struct area *area, const struct request *request);

static inline struct area *area_at(const struct areas *areas, size_t number)
{
    return (struct area *)(areas->block + number * areas->size);
}

/* Room for the counters of a region whose other fields are set; false when there is no memory. */
static inline bool areas_allocate(struct areas *areas)
{
    uint64_t len = (areas->end - areas->start - 1) / areas->step + 1;

    areas->bins = areas->bounds ? areas->bounds + 1 : 0;
    areas->size = sizeof(struct area) + areas->bins * sizeof(uint64_t);
    if (len > PY_SSIZE_T_MAX / areas->size)
        return false;
    areas->len = (size_t)len;
    areas->block = PyMem_Calloc(areas->len, areas->size);
    return areas->block;
}

/* ---- time ---------------------------------------------------------------------------------- */

static inline void advance(struct area *area, unsigned write, uint64_t now)
{
    if (now <= area->stamp[write])
        return;
    if (area->in_flight[write])
        area->busy[write] += now - area->stamp[write];
    area->stamp[write] = now;
}

static inline void advance_any(struct area *area, uint64_t now)
{
    uint64_t in_flight = area->in_flight[0] + area->in_flight[1];

    if (now <= area->stamp_any)
        return;
    if (in_flight) {
        area->busy_any += now - area->stamp_any;
        area->queue += in_flight * (now - area->stamp_any);
    }
    area->stamp_any = now;
}

/* ---- requests ------------------------------------------------------------------------------ */

static inline void area_begin(struct area *area, const struct request *request)
{
    advance(area, request->write, request->now);
    advance_any(area, request->now);
    area->in_flight[request->write]++;
}

static inline void area_end(struct area *area, const struct request *request)
{
    advance(area, request->write, request->now);
    advance_any(area, request->now);
    area->in_flight[request->write]--;
}

/* For a request that was in flight all along, and that nobody had announced. */
static inline void area_was_busy(struct area *area, const struct request *request)
{
    unsigned write = request->write;
    uint64_t since = request->since, now = request->now;

    advance(area, write, since);
    if (now > area->stamp[write]) {
        area->busy[write] += now - area->stamp[write];
        area->stamp[write] = now;
    }
    advance_any(area, since);
    if (now > area->stamp_any) {
        uint64_t passed = now - area->stamp_any;

        area->busy_any += passed;
        area->queue += passed * (area->in_flight[0] + area->in_flight[1]);
        area->stamp_any = now;
    }
    area->queue += now - since;
}

/* The bin for a duration: the number of bounds that are not above it. */
static inline size_t areas_bin(const struct areas *areas, uint64_t duration)
{
    size_t low = 0, high = areas->bounds;

    while (low < high) {
        size_t middle = (low + high) / 2;

        if (areas->bound[middle] <= duration)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Calls `what` for each area that has sectors of the request; done: and counts it there. */
static inline void areas_each(const struct areas *areas, const struct request *request,
                              area_function *what, bool done)
{
    uint64_t first = request->first > areas->start ? request->first : areas->start;
    uint64_t end = request->end < areas->end ? request->end : areas->end;
    uint64_t duration = request->now - request->since;
    unsigned write = request->write;
    size_t number, bin;
    uint64_t left; /* sectors to the end of the area */

    if (first >= end)
        return;
    number = (size_t)((first - areas->start) / areas->step);
    left = areas->step - (first - areas->start) % areas->step;
    bin = done && areas->bins ? areas_bin(areas, duration) : 0;
    while (first < end) {
        struct area *area = area_at(areas, number++);
        uint64_t sectors = end - first < left ? end - first : left;

        what(area, request);
        if (done) {
            area->ios[write]++;
            area->merges[write] += request->merged;
            area->sectors[write] += sectors;
            area->ticks[write] += duration;
            if (areas->bins)
                area->histogram[bin]++;
        }
        first += sectors;
        left = areas->step;
    }
}

static inline void area_clear(const struct areas *areas, struct area *area)
{
    memset(area, 0, offsetof(struct area, in_flight));
    memset(area->histogram, 0, areas->bins * sizeof(uint64_t));
}

#endif
