// SPDX-License-Identifier: Apache-2.0
/* See cold.h. */
#define _GNU_SOURCE /* preadv2 */
#include "lane.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

/* Reads that one thread does one after the other: the disk has been told of all of them, so to wait
 * for the first is to wait for most, and a thread for each would cost more than it waits. */
#define GROUP 8
#define GROUP_BYTES (256 << 10)
#define LONG 1000000     /* nanoseconds; what is ready goes out before the rest of such a group */
#define THREADS_MOST 32
#define IDLE 10          /* seconds, then a thread ends */
#define STACK (128 << 10)

struct cold_read {
    struct cold_read *next, *next_group;
    struct lane *lane;
    uint64_t at, length, since;
    int fd;
    bool failed;
    unsigned char request[HEADER], reply[]; /* CHUNK bytes, of which a head takes the last; data */
};

/* ---- lists --------------------------------------------------------------------------------- */

static void empty(struct cold_reads *list)
{
    list->first = NULL;
    list->end = &list->first;
}

static void append(struct cold_reads *list, struct cold_read *read)
{
    read->next = NULL;
    *list->end = read;
    list->end = &read->next;
}

static struct cold_read *take(struct cold_reads *list)
{
    struct cold_read *read = list->first;

    if (read) {
        list->first = read->next;
        if (!list->first)
            list->end = &list->first;
    }
    return read;
}

static void move(struct cold_reads *to, struct cold_reads *from)
{
    if (from->first) {
        *to->end = from->first;
        to->end = from->end;
        empty(from);
    }
}

static void drop(struct cold_reads *list)
{
    struct cold_read *read;

    while ((read = take(list)))
        free(read);
}

bool cold_init(struct cold *cold)
{
    empty(&cold->missed);
    empty(&cold->hit);
    empty(&cold->failed);
    empty(&cold->done);
    cold->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return cold->wake_fd >= 0;
}

void cold_free(struct cold *cold)
{
    if (cold->wake_fd >= 0)
        close(cold->wake_fd);
    drop(&cold->failed);
    free(cold->unsent);
}

/* ---- the threads --------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static struct cold_read *groups, **groups_end = &groups; /* that wait for a thread */
static unsigned threads, idle, queued;

static bool do_read(struct cold_read *read)
{
    for (uint64_t done = 0; done < read->length;) {
        ssize_t got = pread(read->fd, read->reply + CHUNK + done, read->length - done,
                            (off_t)(read->at + done));

        if (got > 0)
            done += (uint64_t)got;
        else if (!got || errno != EINTR)
            return false;
    }
    return true;
}

/* Give what is done back. The lane may be gone as soon as the lock is. */
static void give_back(struct cold *cold, struct cold_reads *done)
{
    pthread_mutex_lock(&lock);
    move(&cold->done, done);
    if (cold->waits) {
        cold->waits = false;
        eventfd_write(cold->wake_fd, 1);
    }
    pthread_mutex_unlock(&lock);
}

static void do_group(struct cold_read *read)
{
    struct cold *cold = &read->lane->cold;
    struct cold_reads done;
    uint64_t begin = clock_now();

    empty(&done);
    for (struct cold_read *next; read; read = next) {
        next = read->next;
        read->failed = !do_read(read);
        append(&done, read);
        if (!next || clock_now() - begin > LONG)
            give_back(cold, &done);
    }
}

static bool wait_for_work(void)
{
    struct timespec until;
    int late = 0;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += IDLE;
    idle++;
    while (!groups && !late)
        late = pthread_cond_timedwait(&work, &lock, &until);
    idle--;
    return groups;
}

static void *run(void *unused)
{
    pthread_mutex_lock(&lock);
    while (groups || wait_for_work()) {
        struct cold_read *group = groups;

        groups = group->next_group;
        queued--;
        if (!groups)
            groups_end = &groups;
        pthread_mutex_unlock(&lock);
        do_group(group);
        pthread_mutex_lock(&lock);
    }
    threads--;
    pthread_mutex_unlock(&lock);
    return unused;
}

/* One more thread; none of Python's signals are for it. */
static bool start_thread(void)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    pthread_t thread;
    int failed;

    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&thread, &attributes, run, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return !failed;
}

static void hand_over(struct cold_read *group)
{
    bool alone = false;

    group->next_group = NULL;
    pthread_mutex_lock(&lock);
    if (queued >= idle && threads < THREADS_MOST) { /* each idle thread has one on its way to it */
        if (start_thread())
            threads++;
        alone = !threads;
    }
    if (!alone) {
        *groups_end = group;
        groups_end = &group->next_group;
        queued++;
        pthread_cond_signal(&work);
    }
    pthread_mutex_unlock(&lock);
    if (alone)
        do_group(group); /* the system has no thread left for us: slower, but done */
}

/* ---- the lane ------------------------------------------------------------------------------ */

#ifdef RWF_NOWAIT
static ssize_t read_now(int fd, void *to, size_t length, uint64_t at)
{
    return preadv2(fd, &(struct iovec){to, length}, 1, (off_t)at, RWF_NOWAIT);
}
#else
static ssize_t read_now(int fd, void *to, size_t length, uint64_t at)
{
    errno = EOPNOTSUPP;
    return -1;
}
#endif

static struct iovec reply_of(const struct cold_read *read)
{
    size_t head = read->lane->structured ? CHUNK : ACK;

    return (struct iovec){(void *)(read->reply + CHUNK - head), head + read->length};
}

enum cold_try cold_try(struct lane *lane, const unsigned char *request, const struct place *place,
                       struct iovec *reply)
{
    struct cold *cold = &lane->cold;
    uint64_t length = get32(request + 24);
    struct cold_read *read = malloc(sizeof(*read) + CHUNK + length);
    ssize_t got;

    if (!read)
        return UNASKED;
    read->lane = lane;
    read->fd = lane->plain->backings[place->backing].fd;
    read->at = place->at;
    read->length = length;
    read->since = lane->since;
    memcpy(read->request, request, HEADER);
    put_head(lane, read->reply + CHUNK - (lane->structured ? CHUNK : ACK), request, true);
    got = read_now(read->fd, read->reply + CHUNK, length, read->at);
    if (got < 0 && errno == EOPNOTSUPP) {
        free(read);
        return UNASKED;
    }
    if (got == (ssize_t)length) {
        cold->hits++;
        append(&cold->hit, read);
        *reply = reply_of(read);
        return HIT;
    }
    cold->hits = 0;
    cold->under_way++;
    append(&cold->missed, read);
    posix_fadvise(read->fd, (off_t)read->at, (off_t)length, POSIX_FADV_WILLNEED);
    return MISS;
}

void cold_sent(struct cold *cold)
{
    drop(&cold->hit);
}

void cold_start(struct lane *lane)
{
    struct cold_reads *missed = &lane->cold.missed;

    while (missed->first) {
        struct cold_reads group;
        uint64_t size = 0;

        empty(&group);
        for (unsigned i = 0; missed->first && i < GROUP && size < GROUP_BYTES; i++) {
            size += missed->first->length;
            append(&group, take(missed));
        }
        hand_over(group.first);
    }
}

void cold_wait(struct lane *lane, bool wanted)
{
    struct cold *cold = &lane->cold;
    struct pollfd fds[] = {{.fd = cold->wake_fd, .events = POLLIN},
                           {.fd = wanted ? lane->sock : -1, .events = POLLIN}};
    eventfd_t number;

    pthread_mutex_lock(&lock);
    cold->waits = !cold->done.first;
    wanted = cold->waits;
    pthread_mutex_unlock(&lock);
    if (!wanted)
        return;
    while (poll(fds, 2, -1) < 0 && errno == EINTR)
        ;
    pthread_mutex_lock(&lock);
    cold->waits = false;
    pthread_mutex_unlock(&lock);
    eventfd_read(cold->wake_fd, &number);
}

static bool send_or_keep(struct lane *lane, const struct cold_reads *reads)
{
    struct iovec iov[UNDER_WAY_MOST];
    struct msghdr message = {.msg_iov = iov};
    enum reason reason = ANSWERING;
    size_t left = 0;

    for (const struct cold_read *read = reads->first; read; read = read->next) {
        struct iovec reply = reply_of(read);

        iov[message.msg_iovlen++] = reply;
        left += reply.iov_len;
    }
    if (left && !lane->cold.unsent)
        reason = lane_send(lane, &message, &left);
    return reason != GONE && (!left || cold_keep(&lane->cold, &message));
}

int cold_answer(struct lane *lane)
{
    struct cold *cold = &lane->cold;
    struct cold_reads done, good;
    struct cold_read *read;
    int count = 0;
    bool there;

    empty(&done);
    empty(&good);
    pthread_mutex_lock(&lock);
    move(&done, &cold->done);
    pthread_mutex_unlock(&lock);
    for (; (read = take(&done)); count++) {
        if (!read->failed && lane->meter)
            lane->counting->count(lane->meter, read->request, 0, HEADER, read->since);
        append(read->failed ? &cold->failed : &good, read);
    }
    cold->under_way -= (unsigned)count;
    there = send_or_keep(lane, &good);
    drop(&good);
    return there ? count : -1;
}

bool cold_keep(struct cold *cold, const struct msghdr *message)
{
    size_t size = cold->unsent_size;
    unsigned char *unsent;

    for (size_t i = 0; i < message->msg_iovlen; i++)
        size += message->msg_iov[i].iov_len;
    unsent = realloc(cold->unsent, size);
    if (!unsent)
        return false;
    cold->unsent = unsent;
    for (size_t i = 0; i < message->msg_iovlen; i++) {
        const struct iovec *iov = &message->msg_iov[i];

        memcpy(unsent + cold->unsent_size, iov->iov_base, iov->iov_len);
        cold->unsent_size += iov->iov_len;
    }
    return true;
}

size_t cold_failed(struct cold *cold, unsigned char *requests)
{
    size_t count = 0;

    for (struct cold_read *read = cold->failed.first; read; read = read->next, count++)
        if (requests)
            memcpy(requests + count * HEADER, read->request, HEADER);
    if (requests)
        drop(&cold->failed);
    return count;
}
