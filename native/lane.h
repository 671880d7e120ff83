// SPDX-License-Identifier: Apache-2.0
/*
 * The plain requests of an NBD connection, from the socket to the socket, without the GIL.
 *
 * A lane is a connection's way through a Plain: it receives, does the reads and writes that it
 * knows, answers, and goes on until something comes that it does not know. That is left where it
 * was, for Python.
 *
 * Bytes of mappings are only ever handed to system calls: past the end of a truncated file those
 * answer EFAULT.
 *
 * The suspend gate: `turn` is the number of its closings. A lane says that it is inside, then looks
 * whether the number is still the one that it was prepared for; who closes the gate raises the
 * number, then looks who is inside. One of the two sees the other: both are sequentially consistent.
 */
#ifndef DMTOOL_LANE_H
#define DMTOOL_LANE_H

#include "cold.h"
#include "counting.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#define READ (UINT64_C(0x25609513) << 32 | 0) /* magic, no flags, command */
#define WRITE (UINT64_C(0x25609513) << 32 | 1)
enum { HEADER = 28, ACK = 16, CHUNK = 28, END = 20 };
#define REQUESTS_MOST 480 /* of a batch: two buffers each, and IOV_MAX is 1024 */
#define BATCH_BYTES (512 << 10)
#define LARGE (256 << 10) /* reads from here on are for sendfile */
#define WHOLE (64 << 10)  /* payloads up to here are received into the buffer */
#define LARGEST (32 << 20)
#define MISSES 4          /* looks for nothing in a row; then only one in 64 is taken */
#define AGAIN_MASK 63

/* Why a run has ended, or how one request has; lane.py has the same numbers. WAITED: it was warm, but
 * not with reason; WARM: it is now. With the last three the gate closes, or an error came up, in the
 * middle of a batch, a large read or a large write: the lane is still inside, for Python to finish it. */
enum reason { OTHER, CLOSED, GONE, WAITED, WARM, ANSWERING, READING, WRITING, GO_ON };

struct lane {
    const Plain *plain;
    unsigned char *buffer;         /* what is received */
    size_t size;
    const _Atomic uint64_t *turn;
    uint64_t *seen;                /* of each backing: the batch in which it was last looked at */
    uint64_t batches, prepared_for, readable, writable;
    int sock, structured, closed_fd; /* `closed_fd` is readable while the gate is closed */
    uint64_t spin;                 /* nanoseconds */
    unsigned misses, receives, lonely; /* `lonely`: batches of one that nothing came to */
    bool spins;
    long waits;
    uint64_t reads;
    PyObject *meter;               /* what counts the requests, or NULL */
    const struct counting *counting;
    uint64_t since;                /* when it went in, where they are counted */
    _Atomic int inside;
    size_t pos, end, first;        /* `first`: of the batch, or the one large request */
    size_t uncounted;              /* the first of the batch that is not counted yet */
    size_t done;                   /* bytes sent of its replies, or received of its payload */
    size_t most;                   /* to receive next time */
    struct cold cold;
    unsigned count;                /* of iov */
    struct iovec iov[2 * REQUESTS_MOST + 1];
    unsigned char acks[REQUESTS_MOST * ACK], heads[REQUESTS_MOST * CHUNK];
};

/* `receive_first`: begin with that, since what is there is no whole request. */
HIDDEN enum reason lane_run(struct lane *self, bool receive_first);
/* Whether this thread has had to wait for pages or blocks: a number that rises. */
HIDDEN long lane_waits(void);

/* What a batch has come to: the end of what was received, of what it takes, or of what is known. */
enum next { MORE, FULL, UNKNOWN };

/* Do, count and answer what is in the buffer, as much as a batch takes. */
HIDDEN enum reason lane_batch(struct lane *self, enum next *next);

/* One large request, which is at `pos` and lies within the table. GO_ON: it is done. */
HIDDEN enum reason lane_large_read(struct lane *self);
HIDDEN enum reason lane_large_write(struct lane *self);

/* Send a message of `left` bytes, and step over them: GO_ON, GONE, or ANSWERING, and some are left. */
HIDDEN enum reason lane_send(struct lane *self, struct msghdr *message, size_t *left);

/* Wait inside, after EAGAIN, until the client sends or takes more; false: the gate closes. */
HIDDEN bool lane_wait(struct lane *self, short events);
/* Look at a socket for as long as a spin may take, `*until`, 0 at first; false: it is over. */
HIDDEN bool lane_spins(const struct lane *self, uint64_t *until);

/* Count the requests from byte `first` to before `end`: before the last byte of a reply is sent. */
static inline void lane_count(const struct lane *self, size_t first, size_t end)
{
    if (self->meter && first < end)
        self->counting->count(self->meter, self->buffer, first, end, self->since);
}

/* Whether a file is as long as when it was opened; asked once a batch. */
HIDDEN bool lane_intact(struct lane *self, uint32_t backing);

static inline uint64_t get64(const unsigned char *at)
{
    uint64_t number;

    memcpy(&number, at, sizeof(number));
    return be64toh(number);
}

static inline uint32_t get32(const unsigned char *at)
{
    uint32_t number;

    memcpy(&number, at, sizeof(number));
    return be32toh(number);
}

static inline void put32(unsigned char *at, uint32_t number)
{
    number = htobe32(number);
    memcpy(at, &number, sizeof(number));
}

static inline void put_ack(unsigned char *at, const unsigned char *cookie)
{
    put32(at, 0x67446698);
    put32(at + 4, 0);
    memcpy(at + 8, cookie, 8);
}

/* A chunk of a structured reply, with its flags and type as one number. */
static inline void put_chunk(unsigned char *at, uint32_t kind, const unsigned char *cookie,
                             uint32_t length)
{
    put32(at, 0x668e33ef);
    put32(at + 4, kind);
    memcpy(at + 8, cookie, 8);
    put32(at + 16, length);
}

/* What stands before the data of the read at `request`; how long that is. */
static inline size_t put_head(const struct lane *self, unsigned char *at,
                              const unsigned char *request, bool last)
{
    if (!self->structured) {
        put_ack(at, request + 8);
        return ACK;
    }
    put_chunk(at, (last ? 1u << 16 : 0) | 1, request + 8, get32(request + 24) + 8);
    memcpy(at + 20, request + 16, 8);
    return CHUNK;
}

/* Step over the first `size` bytes of a message. */
static inline void step(struct msghdr *message, size_t size)
{
    while (message->msg_iovlen && size >= message->msg_iov->iov_len) {
        size -= message->msg_iov->iov_len;
        message->msg_iov++;
        message->msg_iovlen--;
    }
    if (size) {
        message->msg_iov->iov_base = (char *)message->msg_iov->iov_base + size;
        message->msg_iov->iov_len -= size;
    }
}

static inline bool client_has_gone(int error)
{
    return error == EPIPE || error == ECONNRESET;
}

#endif
