/* SPDX-License-Identifier: Apache-2.0
 *
 * A device-mapper driver for dmsetup to talk to where the kernel has none: preloaded
 * (LD_PRELOAD), it answers the ioctls on /dev/mapper/control out of the file $DM_WORDS, and what
 * libdm asks of sysfs. Nothing
 * is kept: suspend, clear and remove succeed, and change nothing.
 *
 * The file has a line for each device, and behind it its targets and what it depends on, in
 * fields parted by tabs:
 *     device  <name, mangled>  <uuid, mangled>  <minor>  <flags: LIsr>  <open count>  <event nr>
 *     target  <start>  <length>  <type>  <params>
 *     dep     <major>  <minor>
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MAJOR 1000u
#define MOST 64
#define CONTROL "/dev/mapper/control"
#define STATE (DM_READONLY_FLAG | DM_SUSPEND_FLAG | DM_ACTIVE_PRESENT_FLAG | DM_INACTIVE_PRESENT_FLAG)

struct target {
	uint64_t start, length;
	char type[DM_MAX_TYPE_NAME], params[512];
};

struct device {
	char name[DM_NAME_LEN], uuid[DM_UUID_LEN];
	uint32_t minor, flags, event, targets, deps;
	int32_t open;
	struct target target[MOST];
	uint64_t dep[MOST];
};

static struct device devices[MOST];
static int known;
static int control = -1;

/* As the kernel writes a device number into an ioctl (huge_encode_dev). */
static uint64_t number(uint32_t major, uint32_t minor)
{
	return (minor & 0xff) | (uint64_t)major << 8 | (uint64_t)(minor & ~0xffu) << 12;
}

static uint32_t flag(char letter)
{
	switch (letter) {
	case 'L': return DM_ACTIVE_PRESENT_FLAG;
	case 'I': return DM_INACTIVE_PRESENT_FLAG;
	case 's': return DM_SUSPEND_FLAG;
	case 'r': return DM_READONLY_FLAG;
	default: return 0;
	}
}

static void take_line(char **field)
{
	struct device *last = &devices[known - 1];

	if (!strcmp(field[0], "device")) {
		last = &devices[known++];
		strcpy(last->name, field[1]);
		strcpy(last->uuid, field[2]);
		last->minor = atoi(field[3]);
		for (const char *letter = field[4]; *letter; letter++)
			last->flags |= flag(*letter);
		last->open = atoi(field[5]);
		last->event = atoi(field[6]);
	} else if (!strcmp(field[0], "target")) {
		struct target *target = &last->target[last->targets++];

		target->start = strtoull(field[1], NULL, 10);
		target->length = strtoull(field[2], NULL, 10);
		strcpy(target->type, field[3]);
		strcpy(target->params, field[4]);
	} else {
		last->dep[last->deps++] = number(atoi(field[1]), atoi(field[2]));
	}
}

static void load(void)
{
	static int loaded;
	char line[4096];
	FILE *file;

	if (loaded++)
		return;
	file = fopen(getenv("DM_WORDS"), "r");
	while (file && fgets(line, sizeof(line), file)) {
		char *field[8], *rest = line;

		line[strcspn(line, "\n")] = 0;
		for (int i = 0; i < 8; i++)
			field[i] = rest ? strsep(&rest, "\t") : "";
		take_line(field);
	}
	if (file)
		fclose(file);
}

static struct device *find(const struct dm_ioctl *ask)
{
	for (struct device *device = devices; device < devices + known; device++) {
		int same = ask->name[0] ? !strcmp(ask->name, device->name)
			 : ask->uuid[0] ? !strcmp(ask->uuid, device->uuid)
			 : ask->dev == number(MAJOR, device->minor);

		if (same)
			return device;
	}
	return NULL;
}

static void describe(struct dm_ioctl *ask, const struct device *device)
{
	strcpy(ask->name, device->name);
	strcpy(ask->uuid, device->uuid);
	ask->dev = number(MAJOR, device->minor);
	ask->open_count = device->open;
	ask->event_nr = device->event;
	ask->flags = (ask->flags & ~STATE) | device->flags;
	ask->target_count = device->flags & DM_ACTIVE_PRESENT_FLAG ? device->targets : 0;
}

/* The next place that is aligned to 8 bytes. */
static char *aligned(char *place)
{
	return (char *)(((uintptr_t)place + 7) & ~(uintptr_t)7);
}

static void list(struct dm_ioctl *ask, char *out)
{
	struct dm_name_list *entry = (void *)out, *last = NULL;

	memset(entry, 0, sizeof(*entry));
	for (struct device *device = devices; device < devices + known; device++) {
		entry = (void *)out;
		if (last)
			last->next = (char *)entry - (char *)last;
		entry->dev = number(MAJOR, device->minor);
		entry->next = 0;
		strcpy(entry->name, device->name);
		out = aligned(entry->name + strlen(entry->name) + 1);
		memset(out, 0, 8); /* the event number, and flags: none */
		out += 8;
		last = entry;
	}
	ask->data_size = out + sizeof(*entry) - (char *)ask;
}

static void table(struct dm_ioctl *ask, char *start, const struct device *device)
{
	char *out = start;

	for (uint32_t i = 0; i < ask->target_count; i++) {
		const struct target *target = &device->target[i];
		struct dm_target_spec *spec = (void *)out;

		spec->sector_start = target->start;
		spec->length = target->length;
		spec->status = 0;
		strcpy(spec->target_type, target->type);
		strcpy((char *)(spec + 1), target->params);
		out = aligned((char *)(spec + 1) + strlen(target->params) + 1);
		spec->next = out - start;
	}
	ask->data_size = out - (char *)ask;
}

static int answer(unsigned long request, struct dm_ioctl *ask)
{
	char *out = (char *)ask + ask->data_start;
	struct device *device;

	load();
	ask->version[0] = 4;
	ask->version[1] = 48;
	ask->version[2] = 0;
	if (_IOC_NR(request) == DM_VERSION_CMD)
		return 0;
	if (_IOC_NR(request) == DM_LIST_DEVICES_CMD) {
		list(ask, out);
		return 0;
	}
	device = find(ask);
	if (!device) {
		errno = ENXIO;
		return -1;
	}
	if (_IOC_NR(request) == DM_DEV_REMOVE_CMD && device->open) {
		errno = EBUSY;
		return -1;
	}
	describe(ask, device);
	switch (_IOC_NR(request)) {
	case DM_TABLE_DEPS_CMD: {
		struct dm_target_deps *deps = (void *)out;

		deps->count = device->deps;
		memcpy(deps->dev, device->dep, device->deps * sizeof(*deps->dev));
		ask->data_size = (char *)(deps->dev + device->deps) - (char *)ask;
		break;
	}
	case DM_TABLE_STATUS_CMD:
		table(ask, out, device);
		break;
	case DM_TARGET_MSG_CMD: /* @stats_list: there are no statistics */
		ask->flags |= DM_DATA_OUT_FLAG;
		*out = 0;
		ask->data_size = out + 1 - (char *)ask;
		break;
	}
	return 0;
}

#define REAL(function) ((__typeof__(&function))dlsym(RTLD_NEXT, #function))
#define SYSFS "/sys/dev/block/"
#define READ_AHEAD_KB "128\n"

int open64(const char *path, int flags, ...)
{
	unsigned minor;
	char rest[16];
	va_list more;
	int mode, fd;

	va_start(more, flags);
	mode = va_arg(more, int);
	va_end(more);
	if (!strcmp(path, CONTROL))
		return control = REAL(open64)("/dev/null", O_RDWR);
	if (sscanf(path, SYSFS "1000:%u/bdi/%15s", &minor, rest) != 2)
		return REAL(open64)(path, flags, mode);
	fd = memfd_create(rest, 0);
	if (fd >= 0 && pwrite(fd, READ_AHEAD_KB, strlen(READ_AHEAD_KB), 0) < 0)
		return -1;
	return fd;
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list rest;
	void *argument;

	va_start(rest, request);
	argument = va_arg(rest, void *);
	va_end(rest);
	if (fd == control && _IOC_TYPE(request) == DM_IOCTL)
		return answer(request, argument);
	return REAL(ioctl)(fd, request, argument);
}

int stat64(const char *path, struct stat64 *status)
{
	if (strcmp(path, CONTROL))
		return REAL(stat64)(path, status);
	memset(status, 0, sizeof(*status));
	status->st_mode = S_IFCHR | 0600;
	status->st_rdev = makedev(10, 236);
	return 0;
}

/* Short names of devices: dm-0 for ours, loop0 and ram0. */
ssize_t readlink(const char *path, char *target, size_t size)
{
	unsigned major, minor;
	const char *kind;

	if (sscanf(path, SYSFS "%u:%u", &major, &minor) != 2)
		return REAL(readlink)(path, target, size);
	kind = major == MAJOR ? "dm-" : major == 7 ? "loop" : "ram";
	return snprintf(target, size, "../%s%u", kind, minor);
}

FILE *fopen64(const char *path, const char *mode)
{
	static char list[] = "Character devices:\n 10 misc\n\nBlock devices:\n1000 device-mapper\n";
	static char line[DM_NAME_LEN + 1];
	unsigned minor;

	if (!strcmp(path, "/proc/devices"))
		return fmemopen(list, sizeof(list) - 1, "r");
	if (sscanf(path, SYSFS "1000:%u/dm/name", &minor) != 1)
		return REAL(fopen64)(path, mode);
	load();
	for (struct device *device = devices; device < devices + known; device++)
		if (device->minor == minor)
			return fmemopen(line, snprintf(line, sizeof(line), "%s\n", device->name), "r");
	return NULL;
}
