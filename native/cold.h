// SPDX-License-Identifier: Apache-2.0
/*
 * Reads of a lane that have to wait for a disk.
 *
 * While a lane is cold every read is tried without waiting. One that would wait is told to the disk
 * and handed to a thread, so that it holds up no other request of its connection, and many are under
 * way together. The lane sends what the threads have read: nobody else writes to the socket. It
 * stays inside the gate for as long as a read is under way.
 *
 * Threads: the lane's own, for all that is declared here. The threads that read are of the process,
 * started when there is work and ended when there is none. Of a lane they touch what it has handed
 * to them, and, under a lock, `done` and `wake_fd`.
 */
#ifndef DMTOOL_COLD_H
#define DMTOOL_COLD_H

#include "plain.h"

#include <stddef.h>
#include <sys/socket.h>

#define UNDER_WAY_MOST 64 /* reads of a lane that threads have in their hands */

struct lane;

struct cold_reads { /* a list; `end` is where the next one goes */
    struct cold_read *first, **end;
};

struct cold {
    unsigned wanted;          /* reads in a row that must be cached for it to be warm; 0: it is */
    unsigned hits;            /* of these so far */
    unsigned under_way;
    struct cold_reads missed; /* of the batch, to be handed over */
    struct cold_reads hit;    /* of the batch, to be sent */
    struct cold_reads failed; /* for Python to do again */
    struct cold_reads done;   /* by the threads */
    bool waits;               /* for `done`: `wake_fd` is to be made readable */
    int wake_fd;
    unsigned char *unsent;    /* replies that the client did not take before the gate was to close */
    size_t unsent_size;
};

HIDDEN bool cold_init(struct cold *cold); /* false: errno says why */
HIDDEN void cold_free(struct cold *cold);

/* What came of a read: it was cached, it was not, or nobody can tell without waiting. */
enum cold_try { HIT, MISS, UNASKED };

/* Try the read at `request`; `reply` is what to send after a HIT, until cold_sent. */
HIDDEN enum cold_try cold_try(struct lane *lane, const unsigned char *request,
                              const struct place *place, struct iovec *reply);
HIDDEN void cold_sent(struct cold *cold);

/* Hand over what the batch has missed. */
HIDDEN void cold_start(struct lane *lane);

/* Wait until a read is done, or the client sends more, if that is `wanted`. */
HIDDEN void cold_wait(struct lane *lane, bool wanted);

/* Answer what is done: how many reads were; -1: the client is gone. */
HIDDEN int cold_answer(struct lane *lane);

/* Keep what is left of a message. Nothing may be sent after it before Python has sent that. */
HIDDEN bool cold_keep(struct cold *cold, const struct msghdr *message);

/* Take the requests of what has failed, HEADER bytes each; their number. Without room: only that. */
HIDDEN size_t cold_failed(struct cold *cold, unsigned char *requests);

/* Whether Python has something to do before this can go on. */
static inline bool cold_stops(const struct cold *cold)
{
    return cold->unsent || cold->failed.first;
}

static inline bool cold_full(const struct cold *cold)
{
    return cold->under_way >= UNDER_WAY_MOST;
}

#endif
