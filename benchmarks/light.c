// SPDX-License-Identifier: Apache-2.0
/*
 * A light NBD client: it keeps DEPTH requests in flight on one connection and throws away what it
 * gets, at about 1 us an operation, so that what is measured is the server.
 *
 *     light SOCKET EXPORT read|write|flush LENGTH DEPTH WARMUP SECONDS SEED [MOST]
 *
 * Requests are LENGTH bytes, at places that come in no order and none twice until all have been;
 * they are all of an export that is a power of two of them, and the first part of any other. `flush`
 * writes LENGTH bytes and flushes, in turn, one request at a time. What is read in large requests goes
 * from the socket to /dev/null by splice, uncopied: for many servers to copy it takes longer than to
 * serve it. Counts what is answered in SECONDS after WARMUP seconds of the same, but not more than
 * MOST, and prints
 *
 *     REQUESTS SECONDS CPU
 *
 * CPU in seconds of this process. Exits with 1 and a line on stderr on any error, replies' too.
 */
#define _GNU_SOURCE /* splice */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define IHAVEOPT UINT64_C(0x49484156454F5054)
#define REPLY_MAGIC UINT64_C(0x3e889045565a9)
#define REQUEST_MAGIC 0x25609513u
#define SIMPLE_MAGIC 0x67446698u
enum { OPT_GO = 7, REP_ACK = 1, REP_INFO = 3 };
enum { CMD_READ = 0, CMD_WRITE = 1, CMD_DISC = 2, CMD_FLUSH = 3 };
#define DEPTH_MOST 256
#define BUFFER (256 << 10) /* stays in a core's cache */
#define SPLICED (64 << 10) /* bodies from here on are not copied */

struct __attribute__((packed)) option {
    uint64_t magic;
    uint32_t option, length;
};

struct __attribute__((packed)) option_reply {
    uint64_t magic;
    uint32_t option, type, length;
};

struct __attribute__((packed)) request {
    uint32_t magic;
    uint16_t flags, command;
    uint64_t cookie, offset;
    uint32_t length;
};

struct __attribute__((packed)) reply {
    uint32_t magic, error;
    uint64_t cookie;
};

static int sock;
static uint64_t blocks, state; /* of the export; of the generator */
static uint32_t length;
static char *payload;

static __attribute__((noreturn, format(printf, 1, 2))) void die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double cpu(void)
{
    struct rusage r;

    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
           (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1e-6;
}

static void send_all(const void *data, size_t size)
{
    if (send(sock, data, size, MSG_NOSIGNAL) != (ssize_t)size)
        die("send: %s", strerror(errno));
}

static void receive_all(void *data, size_t size)
{
    if (size && recv(sock, data, size, MSG_WAITALL) != (ssize_t)size)
        die("the server hung up during the handshake");
}

/* Fixed newstyle, to the export; its size in bytes. Simple replies: no option asks for others. */
static uint64_t handshake(const char *export)
{
    struct __attribute__((packed)) {
        uint64_t init, magic;
        uint16_t flags;
    } greeting;
    uint32_t name = (uint32_t)strlen(export), flags = htobe32(3);
    struct option option = {htobe64(IHAVEOPT), htobe32(OPT_GO), htobe32(name + 6)};
    uint64_t size = 0;

    receive_all(&greeting, sizeof(greeting));
    if (be64toh(greeting.magic) != IHAVEOPT)
        die("not an NBD server");
    send_all(&flags, sizeof(flags));
    send_all(&option, sizeof(option));
    flags = htobe32(name);
    send_all(&flags, sizeof(flags));
    if (name)
        send_all(export, name);
    send_all("\0", 2); /* no infos wanted */
    for (;;) {
        struct option_reply r;
        unsigned char data[4096];

        receive_all(&r, sizeof(r));
        if (be64toh(r.magic) != REPLY_MAGIC || be32toh(r.length) > sizeof(data))
            die("the server's answer is not NBD");
        receive_all(data, be32toh(r.length));
        if (be32toh(r.type) == REP_ACK)
            return size;
        if (be32toh(r.type) != REP_INFO)
            die("no export '%s'", export);
        if (be32toh(r.length) == 12 && !data[0] && !data[1]) {
            memcpy(&size, data + 2, sizeof(size));
            size = be64toh(size);
        }
    }
}

/* The next place: a generator whose low bits go through all values before one comes again. */
static uint64_t place(void)
{
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (state & (blocks - 1)) * length;
}

static void ask(int command, unsigned count)
{
    static struct request requests[DEPTH_MOST];
    static struct iovec iov[2 * DEPTH_MOST];
    struct msghdr message = {.msg_iov = iov};
    size_t total = 0;

    for (unsigned i = 0; i < count; i++) {
        int bare = command == CMD_FLUSH || command == CMD_DISC;
        uint64_t offset = bare ? 0 : place();

        requests[i] = (struct request){
            .magic = htobe32(REQUEST_MAGIC),
            .command = htobe16((uint16_t)command),
            .cookie = offset,
            .offset = htobe64(offset),
            .length = bare ? 0 : htobe32(length),
        };
        iov[message.msg_iovlen++] = (struct iovec){&requests[i], sizeof(requests[i])};
        total += sizeof(requests[i]);
        if (command == CMD_WRITE) {
            iov[message.msg_iovlen++] = (struct iovec){payload, length};
            total += length;
        }
    }
    while (total) {
        ssize_t sent = sendmsg(sock, &message, MSG_NOSIGNAL);

        if (sent < 0)
            die("send: %s", strerror(errno));
        total -= (size_t)sent;
        while (message.msg_iovlen && (size_t)sent >= message.msg_iov->iov_len) {
            sent -= (ssize_t)message.msg_iov->iov_len;
            message.msg_iov++;
            message.msg_iovlen--;
        }
        if (total) {
            message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + sent;
            message.msg_iov->iov_len -= (size_t)sent;
        }
    }
}

/* Throw away some of a body, at most `size` bytes; how many. */
static size_t thrown(size_t size)
{
    static int pipes[2], null = -1;
    ssize_t got;

    if (null < 0) {
        null = open("/dev/null", O_WRONLY);
        if (null < 0 || pipe(pipes) || fcntl(pipes[0], F_SETPIPE_SZ, 1 << 20) < 0)
            die("a pipe to /dev/null: %s", strerror(errno));
    }
    got = splice(sock, NULL, pipes[1], NULL, size, SPLICE_F_MOVE);
    if (got <= 0)
        die(got ? "splice: %s" : "the server hung up", strerror(errno));
    for (ssize_t left = got; left;) {
        ssize_t gone = splice(pipes[0], NULL, null, NULL, (size_t)left, SPLICE_F_MOVE);

        if (gone <= 0)
            die("splice to /dev/null: %s", strerror(errno));
        left -= gone;
    }
    return (size_t)got;
}

/* Wait for some replies; how many came to their end. `body` is what follows each header. */
static unsigned answered(size_t body)
{
    static char buffer[BUFFER];
    static struct reply header;
    static size_t have, skip; /* of the header; of the body, still to come */
    ssize_t got;
    unsigned done = 0;

    if (body >= SPLICED && skip) {
        skip -= thrown(skip);
        return !skip;
    }
    got = recv(sock, buffer, body >= SPLICED ? sizeof(header) - have : sizeof(buffer), 0);
    if (got <= 0)
        die(got ? "recv: %s" : "the server hung up", strerror(errno));
    for (char *at = buffer, *end = buffer + got; at < end;) {
        size_t left = (size_t)(end - at);

        if (skip) {
            size_t step = left < skip ? left : skip;

            at += step;
            skip -= step;
            done += !skip;
            continue;
        }
        size_t step = left < sizeof(header) - have ? left : sizeof(header) - have;

        memcpy((char *)&header + have, at, step);
        at += step;
        have += step;
        if (have < sizeof(header))
            break;
        if (be32toh(header.magic) != SIMPLE_MAGIC || header.error)
            die("a reply with magic %x, error %u", be32toh(header.magic), be32toh(header.error));
        have = 0;
        skip = body;
        done += !skip;
    }
    return done;
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (argc < 9 || argc > 10 || strlen(argv[1]) >= sizeof(address.sun_path))
        die("light SOCKET EXPORT read|write|flush LENGTH DEPTH WARMUP SECONDS SEED [MOST]");
    int flushing = !strcmp(argv[3], "flush");
    int command = !strcmp(argv[3], "read") ? CMD_READ : CMD_WRITE;
    unsigned depth = flushing ? 1 : (unsigned)atoi(argv[5]);
    double warmup = atof(argv[6]), seconds = atof(argv[7]);
    uint64_t most = argc == 10 ? strtoull(argv[9], NULL, 10) : UINT64_MAX;

    length = (uint32_t)atoi(argv[4]);
    state = strtoull(argv[8], NULL, 10);
    payload = malloc(length);
    if (!payload || !length || !depth || depth > DEPTH_MOST)
        die("LENGTH or DEPTH");
    memset(payload, 0xD5, length);
    strcpy(address.sun_path, argv[1]);
    sock = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(sock, (struct sockaddr *)&address, sizeof(address)))
        die("%s: %s", argv[1], strerror(errno));
    size_t all = handshake(argv[2]) / length;
    if (!all)
        die("the export has no block of that length");
    for (blocks = 1; blocks <= all / 2; blocks *= 2)
        ;

    size_t body = command == CMD_READ ? length : 0;
    uint64_t requests = 0, first = 0;
    double begin = now() + warmup, end = begin + seconds, cpu_before = cpu(), time = 0;
    unsigned done, pending = depth;
    int measuring = 0;

    for (ask(command, depth);;) {
        done = answered(body);
        if (!done)
            continue;
        requests += done;
        time = now();
        if (!measuring && time >= begin) {
            measuring = 1;
            begin = time;
            end = begin + seconds;
            first = requests;
            cpu_before = cpu();
        } else if (measuring && (time >= end || requests - first >= most)) {
            break;
        }
        if (flushing)
            command = command == CMD_WRITE ? CMD_FLUSH : CMD_WRITE;
        ask(command, done);
    }
    double used = cpu() - cpu_before;

    /* nbdkit 1.32 dies of a client that leaves while it is being answered */
    for (pending -= done; pending;)
        pending -= answered(body);
    ask(CMD_DISC, 1);
    printf("%llu %.6f %.6f\n", (unsigned long long)(requests - first), time - begin, used);
    return 0;
}
