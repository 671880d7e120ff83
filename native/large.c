// SPDX-License-Identifier: Apache-2.0
/*
 * Large requests: reads are sent by sendfile, which copies nothing; payloads are received into the
 * mapping, which copies once.
 *
 * Both may wait for the client, inside the gate, but not when that is to close: then the rest is left
 * to Python.
 */
#define _GNU_SOURCE /* SEEK_DATA */
#include "lane.h"

#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <unistd.h>

#define PIECES_MOST 512

/* ---- reads --------------------------------------------------------------------------------- */

/* Send private memory; false: not all of it. */
static bool send_small(struct lane *self, const void *data, size_t size, int more)
{
    const char *rest = data;

    while (size) {
        ssize_t sent = send(self->sock, rest, size, MSG_DONTWAIT | MSG_NOSIGNAL | more);

        if (sent > 0) {
            self->done += (size_t)sent;
            rest += sent;
            size -= (size_t)sent;
        } else if (errno != EAGAIN || !lane_wait(self, POLLOUT)) {
            return false;
        }
    }
    return true;
}

static bool send_pieces(struct lane *self, uint64_t offset, uint64_t length)
{
    struct place place;

    while (length) {
        uint64_t size = plain_piece(self->plain, offset, length, &place);
        off_t at = (off_t)place.at;

        for (uint64_t left = size; left;) {
            ssize_t sent =
                sendfile(self->sock, self->plain->backings[place.backing].fd, &at, left);

            if (sent > 0) {
                left -= (size_t)sent;
                self->done += (size_t)sent;
            } else if (!sent || errno != EAGAIN || !lane_wait(self, POLLOUT)) {
                errno = sent ? errno : EIO; /* 0: the file has become shorter */
                return false;
            }
        }
        offset += size;
        length -= size;
    }
    return true;
}

/* Whether all of it can be sent from files that are whole, and has no hole worth telling. */
static bool may_send(struct lane *self, uint64_t offset, uint64_t length)
{
    struct place place;

    while (length) {
        uint64_t size = plain_piece(self->plain, offset, length, &place);
        int fd = size ? self->plain->backings[place.backing].fd : -1;

        if (!size || !lane_intact(self, place.backing))
            return false;
        if (self->structured && size >= LARGE) /* Python looks, and tells holes */
            for (uint64_t done = 0; done < size; done += 1 << 20)
                if (lseek(fd, (off_t)(place.at + done), SEEK_DATA) != (off_t)(place.at + done))
                    return false;
        offset += size;
        length -= size;
    }
    return true;
}

enum reason lane_large_read(struct lane *self)
{
    const unsigned char *request = self->buffer + self->pos;
    uint64_t offset = get64(request + 16), length = get32(request + 24);
    unsigned char head[CHUNK], end[END];
    size_t size = put_head(self, head, request, false);
    bool sent, gone;

    if (length > LARGEST || !may_send(self, offset, length))
        return OTHER;
    self->first = self->pos;
    self->pos += HEADER;
    self->done = 0;
    self->reads++;
    put_chunk(end, 1u << 16, request + 8, 0);
    lane_count(self, self->first, self->pos);
    ioctl(self->sock, FIONBIO, &(int){1}); /* there is no MSG_DONTWAIT for sendfile */
    errno = 0;
    sent = send_small(self, head, size, MSG_MORE) && send_pieces(self, offset, length) &&
           (!self->structured || send_small(self, end, sizeof(end), 0));
    gone = !sent && client_has_gone(errno);
    ioctl(self->sock, FIONBIO, &(int){0});
    return sent ? GO_ON : gone ? GONE : READING;
}

/* ---- writes -------------------------------------------------------------------------------- */

/* Whether a byte is no hole: writing fills those faster than a mapping. */
static bool is_data(const Plain *plain, const struct place *place, uint64_t skip)
{
    off_t at = (off_t)(place->at + skip);

    return lseek(plain->backings[place->backing].fd, at, SEEK_DATA) == at;
}

/* The mapping of the range, as `iov`; how many, or 0: it cannot be received into. */
static int map_pieces(struct lane *self, uint64_t offset, uint64_t length, struct iovec *iov)
{
    struct place place;
    int count = 0;

    for (; length; count++) {
        uint64_t size = plain_piece(self->plain, offset, length, &place);
        const struct backing *backing = size ? &self->plain->backings[place.backing] : NULL;

        if (!size || count == PIECES_MOST || !place.writable || !backing->in_memory ||
            !backing->view.buf)
            return 0;
        if ((!count && !is_data(self->plain, &place, 0)) ||
            (size == length && !is_data(self->plain, &place, size - 1)))
            return 0;
        iov[count] = (struct iovec){(char *)backing->view.buf + place.at, size};
        offset += size;
        length -= size;
    }
    return count;
}

/* Receive into memory; false: the gate closes, or this memory cannot be written to. */
static bool receive_pieces(struct lane *self, struct msghdr *message, size_t length)
{
    uint64_t until = 0;

    while (self->done < length) {
        ssize_t got = recvmsg(self->sock, message, MSG_DONTWAIT);

        if (got > 0) {
            self->done += (size_t)got;
            step(message, (size_t)got);
            until = 0;
        } else if (!got || errno != EAGAIN ||
                   (!lane_spins(self, &until) && !lane_wait(self, POLLIN))) {
            return false;
        }
    }
    return true;
}

enum reason lane_large_write(struct lane *self)
{
    unsigned char *request = self->buffer + self->pos;
    uint64_t offset = get64(request + 16), length = get32(request + 24);
    size_t have = self->end - self->pos - HEADER;
    struct iovec iov[PIECES_MOST + 1];
    struct msghdr message = {.msg_iov = iov};
    unsigned char ack[ACK];
    struct place place;

    if (length > LARGEST)
        return OTHER;
    message.msg_iovlen = (size_t)map_pieces(self, offset, length, iov);
    if (!message.msg_iovlen)
        return OTHER;
    self->first = self->pos;
    put_ack(ack, request + 8);
    for (self->done = 0; self->done < have;) {
        uint64_t size = plain_piece(self->plain, offset + self->done, have - self->done, &place);
        ssize_t put = -1;

        if (size)
            put = pwrite(self->plain->backings[place.backing].fd,
                         request + HEADER + self->done, size, (off_t)place.at);
        if (put <= 0) {
            self->done = 0; /* Python does it over, and finds out */
            return OTHER;
        }
        self->done += (size_t)put;
    }
    self->pos = self->end;
    /* with its last piece comes the next request, no more: its payload is to go where it belongs */
    if (self->size - self->end >= HEADER)
        iov[message.msg_iovlen++] = (struct iovec){self->buffer + self->end, HEADER};
    step(&message, have);
    if (!receive_pieces(self, &message, length))
        return WRITING;
    self->end += self->done - length;
    self->done = length;
    self->most = HEADER;
    lane_count(self, self->first, self->first + HEADER);
    /* so few bytes go at once or not at all */
    while (send(self->sock, ack, sizeof(ack), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        if (errno != EAGAIN || !lane_wait(self, POLLOUT))
            return client_has_gone(errno) ? GONE : WRITING;
    return GO_ON;
}
