// SPDX-License-Identifier: Apache-2.0
/* The loop of a lane, and small requests: a batch of them is answered with one call. */
#define _GNU_SOURCE /* RUSAGE_THREAD */
#include "lane.h"

#include <sched.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define LOOK_EVERY 32 /* reads; whether one of them had to wait for a disk */
#define MISSES 4      /* spins for nothing in a row; then only one in 64 waits begins with one */
#define AGAIN_MASK 63
#define ENOUGH 16     /* requests of a batch that does not wait for more */
#define GATHER 6000   /* nanoseconds that one with fewer does */

/* What a batch has come to: the end of what was received, of what it takes, or of what is known. */
enum next { MORE, FULL, UNKNOWN };

static _Atomic(struct lane *) latest; /* who, of all lanes, was last to receive */

/* ---- receiving ----------------------------------------------------------------------------- */

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static bool may_spin(struct lane *self)
{
    /* where several connections are busy, a core that spins is one that does no work */
    bool alone = atomic_exchange_explicit(&latest, self, memory_order_relaxed) == self;

    self->receives++;
    self->spins = alone && self->spin;
    return self->spins && (self->misses < MISSES || !(self->receives & AGAIN_MASK));
}

bool lane_spins(const struct lane *self, uint64_t *until)
{
    if (!*until)
        *until = now() + self->spin;
    else
        return now() < *until;
    return self->spin;
}

bool lane_wait(struct lane *self, short events)
{
    struct pollfd fds[] = {{.fd = self->sock, .events = events},
                           {.fd = self->closed_fd, .events = POLLIN}};

    while (poll(fds, 2, -1) < 0 && errno == EINTR)
        ;
    return !fds[1].revents;
}

/* Look for more until it is there or the time is over: recv's answer. */
static ssize_t spin(struct lane *self, unsigned char *to, size_t room)
{
    uint64_t until = 0;
    ssize_t got;

    do
        got = recv(self->sock, to, room, MSG_DONTWAIT);
    while (got < 0 && errno == EAGAIN && lane_spins(self, &until));
    self->misses = got >= 0 ? 0 : self->misses + 1;
    return got;
}

/* Make room for more; the bytes. */
static size_t make_room(struct lane *self)
{
    size_t have = self->end - self->pos;

    if (!have || self->size - self->end <= WHOLE) {
        memmove(self->buffer, self->buffer + self->pos, have);
        self->pos = 0;
        self->end = have;
    }
    return self->size - self->end;
}

/* Wait for more. False: the client is gone. */
static bool receive(struct lane *self)
{
    size_t most = self->end > self->pos ? SIZE_MAX : self->most, room = make_room(self);
    ssize_t got = -1;

    if (room > most)
        room = most;
    self->most = SIZE_MAX;
    errno = EAGAIN;
    if (may_spin(self))
        got = spin(self, self->buffer + self->end, room);
    while (got < 0 && (errno == EAGAIN || errno == EINTR))
        got = recv(self->sock, self->buffer + self->end, room, 0);
    if (got <= 0)
        return false;
    self->end += (size_t)got;
    return true;
}

/* Receive what is there. False: the client is gone. */
static bool receive_now(struct lane *self, bool *more)
{
    size_t room = make_room(self);
    ssize_t got = recv(self->sock, self->buffer + self->end, room, MSG_DONTWAIT);

    *more = got > 0;
    if (*more)
        self->end += (size_t)got;
    return *more || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

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
        until = now() + GATHER;
    else
        sched_yield();
    do
        got = recv(self->sock, self->buffer + self->end, room, MSG_DONTWAIT);
    while (got < 0 && errno == EAGAIN && until && now() < until);
    if (got > 0) {
        self->end += (size_t)got;
        self->lonely = 0;
    } else if (requests == 1) {
        self->lonely++;
    }
    return got > 0;
}

/* ---- a batch ------------------------------------------------------------------------------- */

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

        if (tried == MISS) {
            self->pos += HEADER;
            return true; /* it is counted when it has been read */
        }
        reply = tried == HIT ? self->iov[self->count++].iov_len : 0;
    }
    if (!reply)
        return false;
    if (self->cold.wanted)
        lane_count(self, self->pos, self->pos + size);
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
    self->first = self->pos;
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

enum reason lane_send(struct lane *self, struct msghdr *message, size_t *left)
{
    while (*left) {
        ssize_t sent = sendmsg(self->sock, message, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (sent > 0) {
            *left -= (size_t)sent;
            step(message, (size_t)sent);
        } else if (client_has_gone(errno)) {
            return GONE;
        } else if (errno != EAGAIN || !lane_wait(self, POLLOUT)) {
            return ANSWERING;
        }
    }
    return GO_ON;
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

/* Do, count and answer what is in the buffer. */
static enum reason do_batch(struct lane *self, enum next *next)
{
    enum reason reason = GO_ON;
    size_t total;

    if (self->meter)
        self->since = now();
    *next = collect(self, &total, &reason);
    if (total) {
        if (!self->cold.wanted)
            lane_count(self, self->first, self->pos);
        reason = answer(self, total);
    }
    cold_start(self);
    return reason;
}

/* ---- the loop ------------------------------------------------------------------------------ */

long lane_waits(void)
{
    struct rusage usage;

    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_majflt + usage.ru_inblock;
}

static bool has_waited(struct lane *self)
{
    long before = self->waits;

    if (self->reads < LOOK_EVERY)
        return false;
    self->reads = 0;
    self->waits = lane_waits();
    return self->waits != before;
}

/* Whether the gate has not been closed, or opened again, since the lane was prepared. */
static bool still_open(struct lane *self)
{
    return atomic_load(self->turn) == self->prepared_for;
}

static bool enter(struct lane *self)
{
    atomic_store(&self->inside, 1);
    return still_open(self);
}

static bool leave(struct lane *self)
{
    atomic_store(&self->inside, 0);
    return still_open(self);
}

/* Go on, inside, until no read is under way any more. */
static enum reason finish_cold(struct lane *self, enum reason reason, enum next *next)
{
    while (self->cold.under_way) {
        bool more = reason == GO_ON && *next != UNKNOWN && !cold_stops(&self->cold) &&
                    !cold_full(&self->cold) && still_open(self);
        bool received = more && *next == FULL;
        int answered;

        if (more && *next == MORE && !receive_now(self, &received))
            reason = GONE;
        else if (received)
            reason = do_batch(self, next);
        answered = cold_answer(self);
        if (answered < 0)
            reason = GONE;
        if (!answered && !received)
            cold_wait(self, more && reason != GONE);
    }
    return reason;
}

enum reason lane_run(struct lane *self, bool receive_first)
{
    enum next next = receive_first ? MORE : FULL;

    for (;;) {
        enum reason reason;

        if (next == MORE && !receive(self))
            return GONE;
        if (!enter(self)) {
            leave(self);
            return CLOSED;
        }
        reason = finish_cold(self, do_batch(self, &next), &next);
        if (reason == ANSWERING || reason == READING || reason == WRITING)
            return reason; /* inside: what is left lies in mappings */
        if (!leave(self))
            return reason == GONE ? GONE : CLOSED;
        if (reason == GONE || next == UNKNOWN)
            return reason == GONE ? GONE : OTHER;
        if (cold_stops(&self->cold))
            return OTHER;
        if (self->cold.wanted && self->cold.hits >= self->cold.wanted)
            return WARM;
        if (has_waited(self))
            return WAITED;
    }
}
