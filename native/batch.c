// SPDX-License-Identifier: Apache-2.0
/* A batch: the small requests that have arrived are done, and answered with one call. */
#define _GNU_SOURCE /* SEEK_END */
#include "lane.h"

#include <sched.h>
#include <unistd.h>

#define ENOUGH 8    /* requests of a batch that does not wait for more */
#define GATHER 3000 /* nanoseconds that one with fewer does */

/* Whether its client waits for each answer. */
static bool is_lonely(const struct lane *self)
{
    return self->lonely >= MISSES;
}

/*
 * Look a moment for more of a batch that has so many requests, before it is answered: to send a
 * client one reply at a time has it wake up, and look, for each. What is in the buffer stays where
 * it is. A client that sends no more before it has its answers is not waited for again and again.
 */
static bool gather(struct lane *self, unsigned requests)
{
    size_t room = self->size - self->end;
    uint64_t until = 0;
    ssize_t got;

    if (!requests || requests >= ENOUGH || room < HEADER || self->cold.under_way ||
        (is_lonely(self) && self->receives & AGAIN_MASK))
        return false;
    if (self->spins)
        until = clock_now() + GATHER;
    else
        sched_yield();
    do
        got = recv(self->sock, self->buffer + self->end, room, MSG_DONTWAIT);
    while (got < 0 && errno == EAGAIN && until && clock_now() < until);
    if (got > 0) {
        self->end += (size_t)got;
        self->lonely = 0;
    } else if (requests == 1) {
        self->lonely++;
    }
    return got > 0;
}

bool lane_intact(struct lane *self, uint32_t number)
{
    const struct backing *backing = &self->plain->backings[number];

    if (self->seen[number] == self->batches)
        return true;
    if (lseek(backing->fd, 0, SEEK_END) < (off_t)backing->size)
        return false;
    self->seen[number] = self->batches;
    return true;
}

/* The bytes of the reply to a read, which is in the batch now; 0: it is not known. */
static size_t add_read(struct lane *self, const unsigned char *request, uint64_t length,
                       const struct place *place)
{
    const struct backing *backing = &self->plain->backings[place->backing];
    unsigned char *head = self->heads + (size_t)(self->count / 2) * CHUNK;
    struct iovec *iov = &self->iov[self->count];

    if (!backing->view.buf || !lane_intact(self, place->backing))
        return 0;
    iov[0] = (struct iovec){head, put_head(self, head, request, true)};
    iov[1] = (struct iovec){(char *)backing->view.buf + place->at, length};
    self->count += 2;
    self->reads++;
    return iov[0].iov_len + length;
}

static size_t do_write(struct lane *self, const unsigned char *request, uint64_t length,
                       const struct place *place)
{
    int fd = self->plain->backings[place->backing].fd;
    size_t acks = self->iov[0].iov_len;

    if (!place->writable ||
        pwrite(fd, request + HEADER, length, (off_t)place->at) != (ssize_t)length)
        return 0;
    put_ack(self->acks + acks, request + 8);
    self->iov[0].iov_len = acks + ACK;
    return ACK;
}

/* Do a small request, or begin it: false, it is not known. `total` is of the replies. */
static bool do_small(struct lane *self, const unsigned char *request, uint64_t length,
                     const struct place *place, size_t *total)
{
    size_t size = HEADER, reply;

    if (get64(request) == WRITE) {
        reply = do_write(self, request, length, place);
        size += length;
    } else if (!self->cold.wanted) {
        reply = add_read(self, request, length, place);
    } else {
        enum cold_try tried = cold_try(self, request, place, &self->iov[self->count]);

        if (tried == MISS) { /* it is counted when it has been read */
            lane_count(self, self->uncounted, self->pos);
            self->uncounted = self->pos += HEADER;
            return true;
        }
        reply = tried == HIT ? self->iov[self->count++].iov_len : 0;
    }
    if (!reply)
        return false;
    self->pos += size;
    *total += reply;
    return true;
}

/*
 * Do the requests that are in the buffer, as many as a batch takes; `total` is the bytes of their
 * replies. A large one is done alone: `large` is what it came to.
 */
static enum next collect(struct lane *self, size_t *total, enum reason *large)
{
    unsigned requests = 0;

    self->iov[0] = (struct iovec){self->acks, 0};
    self->count = 1;
    self->first = self->uncounted = self->pos;
    self->batches++;
    for (*total = 0;; requests++) {
        while (self->end - self->pos < HEADER)
            if (!gather(self, requests))
                return MORE;

        const unsigned char *request = self->buffer + self->pos;
        uint64_t word = get64(request), offset = get64(request + 16), length = get32(request + 24);
        uint64_t bound = word == READ ? self->readable : word == WRITE ? self->writable : 0;
        size_t left = self->end - self->pos - HEADER;
        struct place place;

        if (requests == REQUESTS_MOST || *total >= BATCH_BYTES || cold_full(&self->cold))
            return FULL;
        if (!length || length > bound || offset > bound - length)
            return UNKNOWN;
        for (; word == WRITE && left < length && length <= WHOLE;
             left = self->end - self->pos - HEADER)
            if (!gather(self, requests))
                return MORE;
        if (word == READ ? length >= LARGE : left < length) {
            if (word == READ && self->cold.wanted)
                return UNKNOWN;
            if (requests)
                return FULL;
            *large = word == READ ? lane_large_read(self) : lane_large_write(self);
            if (*large == OTHER)
                return UNKNOWN;
            return self->end - self->pos >= HEADER ? FULL : MORE;
        }
        if (!plain_find(self->plain, offset, length, &place) ||
            !do_small(self, request, length, &place, total))
            return UNKNOWN;
    }
}

/* Send the head of the only reply: a client that sleeps wakes up while its data is copied. */
static enum reason wake_up(struct lane *self, struct msghdr *message, size_t *left)
{
    size_t others = message->msg_iovlen - 1, size = message->msg_iov->iov_len, head = size;
    enum reason reason;

    message->msg_iovlen = 1;
    reason = lane_send(self, message, &head);
    message->msg_iovlen += others;
    *left -= size - head;
    return reason;
}

/* Send a batch's replies. */
static enum reason answer(struct lane *self, size_t total)
{
    struct msghdr message = {.msg_iov = self->iov, .msg_iovlen = self->count};
    enum reason reason;
    size_t left = total;

    step(&message, 0); /* without acks the first is empty */
    reason = is_lonely(self) && self->count == 3 ? wake_up(self, &message, &left) : GO_ON;
    if (reason == GO_ON)
        reason = lane_send(self, &message, &left);
    self->done = total - left;
    if (self->cold.wanted) {
        if (reason == ANSWERING) /* nothing of it lies in mappings */
            reason = cold_keep(&self->cold, &message) ? GO_ON : GONE;
        cold_sent(&self->cold);
    }
    return reason;
}

enum reason lane_batch(struct lane *self, enum next *next)
{
    enum reason reason = GO_ON;
    size_t total;

    if (self->meter)
        self->since = clock_now();
    *next = collect(self, &total, &reason);
    if (total) {
        lane_count(self, self->uncounted, self->pos);
        reason = answer(self, total);
    }
    cold_start(self);
    return reason;
}
