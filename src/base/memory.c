/*
 * Sources: proc(5) (meminfo, PID/cgroup, PID/mountinfo); Linux, Documentation/admin-guide/cgroup-v2.rst (memory.max,
 * memory.high, memory.current, memory.stat) and cgroup-v1/memory.rst (memory.limit_in_bytes, memory.usage_in_bytes,
 * total_inactive_file, total_active_file).
 */
#include "base/memory.h"

#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *limits[2]; /* NULL: no such file */
    const char *usage;
    const char *cache[2]; /* lines of memory.stat */
} version_t;

static const version_t version_1 = {
    {"memory.limit_in_bytes", NULL}, "memory.usage_in_bytes", {"total_inactive_file", "total_active_file"}};
static const version_t version_2 = {{"memory.max", "memory.high"}, "memory.current", {"inactive_file", "active_file"}};

/* The number behind `key` and white space at the beginning of a line; the first of the file for NULL. */
static bool read_number(const char *path, const char *key, uint64_t *number) {
    char line[512];
    size_t length = key ? strlen(key) : 0;
    bool found = false;
    FILE *file = fopen(path, "re");
    while (file && !found && fgets(line, sizeof line, file)) {
        if (key && (strncmp(line, key, length) != 0 || !strchr(": \t", line[length]))) continue;
        found =
            sscanf(line + length, "%*[: \t]%" SCNu64, number) == 1 || sscanf(line + length, "%" SCNu64, number) == 1;
        if (!key) break;
    }
    if (file) fclose(file);
    return found;
}

/* What the group whose folder is `folder` leaves. */
static uint64_t left_in_group(const char *folder, const version_t *version) {
    char path[PATH_MAX + 64];
    uint64_t limit = UINT64_MAX, usage = 0, cache = 0, number;
    for (int i = 0; i < 2 && version->limits[i]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, version->limits[i]);
        if (read_number(path, NULL, &number) && number < limit) limit = number; /* "max" is no number */
    }
    if (limit >= INT64_MAX / 4096 * 4096) return UINT64_MAX; /* what version 1 says when there is none */
    snprintf(path, sizeof path, "%s/%s", folder, version->usage);
    if (!read_number(path, NULL, &usage)) return limit;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    for (int i = 0; i < 2; i++)
        if (read_number(path, version->cache[i], &number)) cache += number;
    usage = usage > cache ? usage - cache : 0;
    return limit > usage ? limit - usage : 0;
}

/* From the group up to where the hierarchy is mounted. */
static uint64_t left_in_groups(const char *mount, const char *group, const version_t *version) {
    char folder[PATH_MAX];
    int length = snprintf(folder, sizeof folder, "%s%s", mount, group);
    if (length < 0 || (size_t)length >= sizeof folder) return UINT64_MAX;
    size_t shortest = strlen(mount);
    uint64_t least = UINT64_MAX;
    for (;;) {
        uint64_t left = left_in_group(folder, version);
        if (left < least) least = left;
        char *slash = strrchr(folder + shortest, '/');
        if (!slash) return least;
        *slash = '\0';
    }
}

/* This process's group in the hierarchy with the controller "memory", or in version 2's for "". */
static bool find_group(const char *root, const char *controller, char group[PATH_MAX]) {
    char path[PATH_MAX], line[PATH_MAX + 256];
    bool found = false;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "re");
    while (file && !found && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *names = strchr(line, ':'), *place = names ? strchr(names + 1, ':') : NULL, *name;
        if (!place) continue;
        *place++ = '\0';
        names++;
        found = !*controller && !*names;
        while (*controller && (name = strsep(&names, ",")))
            if (strcmp(name, controller) == 0) found = true;
        if (found) snprintf(group, PATH_MAX, "%s", place);
    }
    if (file) fclose(file);
    return found;
}

static bool has_option(const char *options, const char *option) {
    size_t length = strlen(option);
    for (const char *at = options; (at = strstr(at, option)); at += length)
        if ((at == options || at[-1] == ',') && (at[length] == ',' || at[length] == '\0')) return true;
    return false;
}

/* Where the hierarchy is mounted, and which of its groups is seen there as the topmost. */
static bool find_mount(const char *root, const char *type, const char *option, char mount[PATH_MAX],
                       char top[PATH_MAX]) {
    char path[PATH_MAX], line[2 * PATH_MAX + 1024], found_top[PATH_MAX], found_mount[PATH_MAX];
    bool found = false;
    snprintf(path, sizeof path, "%s/proc/self/mountinfo", root);
    FILE *file = fopen(path, "re");
    while (file && !found && fgets(line, sizeof line, file)) {
        char found_type[64], options[1024] = "";
        const char *behind = strstr(line, " - ");
        if (!behind || sscanf(line, "%*s %*s %*s %4095s %4095s", found_top, found_mount) != 2 ||
            sscanf(behind, " - %63s %*s %1023s", found_type, options) < 1)
            continue;
        if (strcmp(found_type, type) != 0 || (*option && !has_option(options, option))) continue;
        found = true;
        int length = snprintf(mount, PATH_MAX, "%s%s", root, found_mount);
        if (length < 0 || length >= PATH_MAX) found = false;
        snprintf(top, PATH_MAX, "%s", found_top);
    }
    if (file) fclose(file);
    return found;
}

static uint64_t left_in_hierarchy(const char *root, const char *controller, const char *type,
                                  const version_t *version) {
    char group[PATH_MAX], mount[PATH_MAX], top[PATH_MAX];
    if (!find_group(root, controller, group) || !find_mount(root, type, controller, mount, top)) return UINT64_MAX;
    size_t length = strcmp(top, "/") == 0 ? 0 : strlen(top);
    const char *below = group;
    /* A group outside of what is mounted, as in a container: its own folder is the mount itself. */
    if (length > 0) below = strncmp(group, top, length) == 0 ? group + length : "";
    if (strncmp(below, "/..", 3) == 0 || strcmp(below, "/") == 0) below = "";
    return left_in_groups(mount, below, version);
}

uint64_t tpv_memory_available(const char *root) {
    char path[PATH_MAX];
    uint64_t available = UINT64_MAX, number;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (read_number(path, "MemAvailable", &number)) available = number * 1024;
    uint64_t left = left_in_hierarchy(root, "memory", "cgroup", &version_1);
    if (left < available) available = left;
    left = left_in_hierarchy(root, "", "cgroup2", &version_2);
    return left < available ? left : available;
}
