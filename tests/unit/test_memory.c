/* How much memory may be taken: the host's, and what memory cgroups of both versions leave, at every level. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/memory.h"
#include "common/test_files.h"

#define MIB (UINT64_C(1) << 20)

static char *root;

static void put(const char *path, const char *text) {
    char whole[4096];
    snprintf(whole, sizeof whole, "%s%s", root, path);
    for (char *slash = strchr(whole + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(whole, 0700) != 0) assert_int_equal(errno, EEXIST);
        *slash = '/';
    }
    test_file_write_text(whole, text);
}

static int make_root(void **state) {
    (void)state;
    root = test_folder_make();
    put("/proc/meminfo", "MemTotal:       8388608 kB\nMemFree:          1024 kB\nMemAvailable:    4194304 kB\n");
    return 0;
}

static int remove_root(void **state) {
    (void)state;
    char command[4096];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    assert_int_equal(system(command), 0);
    free(root);
    return 0;
}

static void the_host(void **state) {
    (void)state;
    assert_int_equal(tpv_memory_available(root), 4096 * MIB); /* not what is free */
    put("/proc/meminfo", "");
    assert_true(tpv_memory_available(root) == UINT64_MAX);
}

static void version_2(void **state) {
    (void)state;
    put("/proc/self/cgroup", "0::/a/b\n");
    put("/proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
    put("/sys/fs/cgroup/a/b/memory.max", "max\n");
    put("/sys/fs/cgroup/a/b/memory.current", "104857600\n");
    assert_int_equal(tpv_memory_available(root), 4096 * MIB);
    put("/sys/fs/cgroup/a/memory.max", "1073741824\n"); /* the one above counts as well */
    put("/sys/fs/cgroup/a/memory.current", "943718400\n");
    assert_int_equal(tpv_memory_available(root), 124 * MIB);
    put("/sys/fs/cgroup/a/memory.stat", "anon 5\ninactive_file 209715200\nactive_file 104857600\nslab 7\n");
    assert_int_equal(tpv_memory_available(root), 424 * MIB); /* the page cache gives way */
    put("/sys/fs/cgroup/a/b/memory.high", "314572800\n");
    assert_int_equal(tpv_memory_available(root), 200 * MIB);
    put("/sys/fs/cgroup/a/b/memory.current", "400000000\n");
    assert_int_equal(tpv_memory_available(root), 0);
}

static void version_1(void **state) {
    (void)state;
    put("/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/y\n");
    put("/proc/self/mountinfo", "31 23 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
                                "32 23 0:28 / /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_int_equal(tpv_memory_available(root), 4096 * MIB);
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "314572800\n");
    put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "209715200\n");
    put("/sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 52428800\ntotal_active_file 0\n");
    assert_int_equal(tpv_memory_available(root), 150 * MIB);
}

/* A group of this machine's own: what it limits is what there is. */
static void a_real_group(void **state) {
    (void)state;
    static const char *const places[][2] = {{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
                                            {"/sys/fs/cgroup", "memory.max"}};
    char group[256], limit[320], procs[320];
    int i = 0;
    for (; i < 2; i++) {
        snprintf(group, sizeof group, "%s/tpview-test-%d", places[i][0], (int)getpid());
        if (mkdir(group, 0755) != 0) continue;
        snprintf(limit, sizeof limit, "%s/%s", group, places[i][1]);
        if (access(limit, W_OK) == 0) break;
        rmdir(group);
    }
    if (i == 2) skip(); /* needs root and a memory controller */
    snprintf(procs, sizeof procs, "%s/cgroup.procs", group);
    test_file_write_text(limit, "268435456");
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        FILE *file = fopen(procs, "we");
        bool joined = file && fprintf(file, "%d", (int)getpid()) > 0 && fclose(file) == 0;
        uint64_t left = tpv_memory_available("");
        _exit(!joined ? 77 : left <= 256 * MIB && left >= 128 * MIB ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    rmdir(group);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) skip();
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_host, make_root, remove_root),
        cmocka_unit_test_setup_teardown(version_2, make_root, remove_root),
        cmocka_unit_test_setup_teardown(version_1, make_root, remove_root),
        cmocka_unit_test(a_real_group),
    };
    return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
