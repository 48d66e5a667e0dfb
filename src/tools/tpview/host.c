#include "tools/tpview/host.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

/* /proc/meminfo, see proc(5): "Name:   number [kB]". */
static void read_memory(tpv_host_t *host) {
    const struct {
        const char *name;
        uint64_t *value;
        uint64_t unit;
    } wanted[] = {{"MemTotal", &host->memory_bytes, 1024},
                  {"MemAvailable", &host->memory_available_bytes, 1024},
                  {"HugePages_Total", &host->huge_total, 1},
                  {"HugePages_Free", &host->huge_free, 1},
                  {"Hugepagesize", &host->huge_page_bytes, 1024}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        *wanted[i].value = TPV_HOST_UNKNOWN;
    FILE *file = fopen("/proc/meminfo", "re");
    if (!file) return;
    char line[256], name[64];
    unsigned long long number;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%63[^:]: %llu", name, &number) != 2) continue;
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
            if (strcmp(name, wanted[i].name) == 0) *wanted[i].value = number * wanted[i].unit;
    }
    fclose(file);
}

/* The word in brackets, see the kernel's Documentation/admin-guide/mm/transhuge.rst. */
static void read_transparent(tpv_host_t *host) {
    strcpy(host->transparent, "unknown");
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    if (!file) return;
    char line[128] = "", word[sizeof host->transparent];
    const char *bracket = fgets(line, sizeof line, file) ? strchr(line, '[') : NULL;
    if (bracket && sscanf(bracket, "[%15[a-z]", word) == 1) strcpy(host->transparent, word);
    fclose(file);
}

static uint64_t limit(rlim_t value) {
    return value == RLIM_INFINITY ? TPV_HOST_UNLIMITED : (uint64_t)value;
}

static void read_limit(int resource, uint64_t *soft, uint64_t *hard) {
    struct rlimit now;
    bool known = getrlimit((__rlimit_resource_t)resource, &now) == 0;
    *soft = known ? limit(now.rlim_cur) : TPV_HOST_UNKNOWN;
    *hard = known ? limit(now.rlim_max) : TPV_HOST_UNKNOWN;
}

tpv_host_t tpv_host_read(void) {
    tpv_host_t host = {.shared_bytes = TPV_HOST_UNKNOWN, .shared_free_bytes = TPV_HOST_UNKNOWN};
    struct statvfs system;
    if (statvfs("/dev/shm", &system) == 0) {
        host.shared_bytes = (uint64_t)system.f_blocks * system.f_frsize;
        host.shared_free_bytes = (uint64_t)system.f_bavail * system.f_frsize;
    }
    read_memory(&host);
    read_transparent(&host);
    read_limit(RLIMIT_MEMLOCK, &host.memlock_soft, &host.memlock_hard);
    read_limit(RLIMIT_NOFILE, &host.nofile_soft, &host.nofile_hard);
    return host;
}
