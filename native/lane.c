// SPDX-License-Identifier: Apache-2.0
/* The loop of a lane, and its socket. */
#define _GNU_SOURCE /* RUSAGE_THREAD */
#include "lane.h"

#include <sys/resource.h>
#include <unistd.h>

#define LOOK_EVERY 32 /* reads; whether one of them had to wait for a disk */

static _Atomic(struct lane *) latest; /* who, of all lanes, was last to receive */

/* ---- the socket ---------------------------------------------------------------------------- */

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
        *until = clock_now() + self->spin;
    else
        return clock_now() < *until;
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
            reason = lane_batch(self, next);
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
        reason = finish_cold(self, lane_batch(self, &next), &next);
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
