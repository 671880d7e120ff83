// SPDX-License-Identifier: Apache-2.0
/*
 * For LD_PRELOAD: who opens /dev/mapper/control gets a connection to the unix socket named by
 * DMTOOL_TEST_DRIVER instead, and each ioctl on it becomes a request there: its number and the
 * caller's struct dm_ioctl with all that follows it. Back come an errno and the same number of
 * bytes. tests/stats/driver.py is the other end.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/dm-ioctl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int control = -1;

static int connected(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strncpy(address.sun_path, getenv("DMTOOL_TEST_DRIVER"), sizeof(address.sun_path) - 1);
    if (sock >= 0 && connect(sock, (struct sockaddr *)&address, sizeof(address)) < 0) {
        close(sock);
        sock = -1;
    }
    return control = sock;
}

static int opened(const char *name, const char *path, int flags, mode_t mode)
{
    int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, name);

    return strcmp(path, "/dev/mapper/control") ? next(path, flags, mode) : connected();
}

int open(const char *path, int flags, ...)
{
    va_list more;
    mode_t mode;

    va_start(more, flags);
    mode = va_arg(more, mode_t);
    va_end(more);
    return opened("open", path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list more;
    mode_t mode;

    va_start(more, flags);
    mode = va_arg(more, mode_t);
    va_end(more);
    return opened("open64", path, flags, mode);
}

/* Where the driver's major number is looked up. */
static FILE *opened_file(const char *name, const char *path, const char *mode)
{
    static const char devices[] = "Block devices:\n1000 device-mapper\n";
    FILE *(*next)(const char *, const char *) = dlsym(RTLD_NEXT, name);

    if (strcmp(path, "/proc/devices"))
        return next(path, mode);
    return fmemopen((void *)devices, sizeof(devices) - 1, "r");
}

FILE *fopen(const char *path, const char *mode)
{
    return opened_file("fopen", path, mode);
}

FILE *fopen64(const char *path, const char *mode)
{
    return opened_file("fopen64", path, mode);
}

static void transfer(ssize_t (*move)(int, char *, size_t), char *bytes, size_t length)
{
    while (length) {
        ssize_t moved = move(control, bytes, length);

        if (moved <= 0)
            abort();
        bytes += moved;
        length -= (size_t)moved;
    }
}

static ssize_t put(int fd, char *bytes, size_t length)
{
    return write(fd, bytes, length);
}

static ssize_t get(int fd, char *bytes, size_t length)
{
    return read(fd, bytes, length);
}

int ioctl(int fd, unsigned long request, ...)
{
    int (*next)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
    uint32_t number = _IOC_NR(request), length;
    int32_t failed;
    va_list more;
    char *data;

    va_start(more, request);
    data = va_arg(more, char *);
    va_end(more);
    if (fd != control || fd < 0)
        return next(fd, request, data);
    length = ((struct dm_ioctl *)data)->data_size;
    transfer(put, (char *)&number, sizeof(number));
    transfer(put, data, length);
    transfer(get, (char *)&failed, sizeof(failed));
    transfer(get, data, length);
    errno = failed;
    return failed ? -1 : 0;
}
