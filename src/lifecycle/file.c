#include "lifecycle/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "lifecycle/sweep.h"
#include "lifecycle/words.h"

#define NAME_FORMAT "%016" PRIx64 ".%" PRIu32 ".%" PRIu64

void tpv_export_file_path(const tpv_table_t *table, tpv_export_t export, char path[TPV_EXPORT_PATH_MAX]) {
    snprintf(path, TPV_EXPORT_PATH_MAX, "%s." NAME_FORMAT, table->path, table->header->epoch, export.slot,
             export.generation);
}

tpv_status_t tpv_export_file_create(int *fd) {
    *fd = open(TPV_SHARED_FOLDER, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (*fd < 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "a new file in " TPV_SHARED_FOLDER);
    if (fchmod(*fd, 0600) == 0) return TPV_OK; /* whatever the umask took away */
    tpv_status_t status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "the mode of a new file in " TPV_SHARED_FOLDER);
    close(*fd);
    return status;
}

tpv_status_t tpv_export_file_publish(const tpv_table_t *table, tpv_export_t export, int fd, uint64_t bytes,
                                     int64_t ttl_ns) {
    char self[48], path[TPV_EXPORT_PATH_MAX];
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    tpv_export_file_path(table, export, path);
    if (linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) != 0)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "naming %s", path);
    tpv_status_t status = tpv_export_publish_file(table, export, bytes, ttl_ns);
    if (status != TPV_OK) table->erase(table, export.slot, export.generation);
    return status;
}

tpv_status_t tpv_export_file_open(const tpv_table_t *table, tpv_export_t export, uint64_t bytes, int *fd) {
    char path[TPV_EXPORT_PATH_MAX];
    tpv_export_file_path(table, export, path);
    *fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (*fd < 0 && errno == ENOENT) return tpv_error_set(TPV_ERR_NOT_FOUND, "%s is gone", path);
    if (*fd < 0 && errno == ELOOP) return tpv_error_set(TPV_ERR_PERMISSION, "%s is a symbolic link", path);
    if (*fd < 0) return tpv_error_set_errno(errno == EACCES ? TPV_ERR_PERMISSION : TPV_ERR_SYSTEM, errno, "%s", path);
    struct stat info;
    tpv_status_t status = TPV_OK;
    if (fstat(*fd, &info) != 0)
        status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "%s", path);
    else if (!S_ISREG(info.st_mode) || info.st_uid != geteuid() || (info.st_mode & 07777) != 0600)
        status = tpv_error_set(TPV_ERR_PERMISSION, "%s is not a regular file of this user with mode 0600", path);
    else if ((uint64_t)info.st_size != bytes)
        status = tpv_error_set(TPV_ERR_FORMAT, "%s has %lld bytes, expected %llu", path, (long long)info.st_size,
                               (unsigned long long)bytes);
    if (status != TPV_OK) close(*fd);
    return status;
}

bool tpv_export_file_erase(const tpv_table_t *table, uint32_t slot, uint64_t generation) {
    if (!table->path[0]) return true;
    char path[TPV_EXPORT_PATH_MAX];
    tpv_export_file_path(table, (tpv_export_t){.slot = slot, .generation = generation}, path);
    if (unlink(path) == 0 || errno == ENOENT) return true;
    TPV_WARN("cannot remove %s: %s", path, strerror(errno));
    return false;
}

/* ---- room ---- */

typedef struct {
    tpv_export_t export;
    uint64_t bytes;
    int64_t moved_ns;
} idle_t;

static int by_age(const void *a, const void *b) {
    const idle_t *x = a, *y = b;
    return (x->moved_ns > y->moved_ns) - (x->moved_ns < y->moved_ns);
}

/* Of the export in `slot`: READY, in a file, without a lease? */
static bool look_at_idle(const tpv_table_t *table, uint32_t slot, idle_t *idle) {
    tpv_export_info_t info;
    idle->export = (tpv_export_t){slot, tpv_word_load(&tpv_table_export(table, slot)->head.generation)};
    if (tpv_export_read(table, idle->export, &info) != TPV_OK) return false;
    idle->bytes = info.bytes;
    idle->moved_ns = info.moved_ns;
    return info.state == TPV_EXPORT_READY && info.owner == TPV_OWNER_FILE && info.active == 0;
}

static uint64_t free_bytes(void) {
    struct statvfs info;
    return statvfs(TPV_SHARED_FOLDER, &info) == 0 ? (uint64_t)info.f_bavail * info.f_frsize : 0;
}

bool tpv_export_files_make_room(const tpv_table_t *table, uint64_t bytes) {
    uint32_t used = tpv_slots_used(&table->exports);
    idle_t *idle = calloc(used ? used : 1, sizeof *idle);
    if (!idle) return false;
    uint64_t room = free_bytes();
    size_t count = 0;
    for (uint32_t i = 0; i < used; i++) {
        if (!look_at_idle(table, i, &idle[count])) continue;
        room += idle[count].bytes < UINT64_MAX - room ? idle[count].bytes : UINT64_MAX - room;
        count++;
    }
    if (room >= bytes) {
        qsort(idle, count, sizeof *idle, by_age);
        for (size_t i = 0; i < count && free_bytes() < bytes; i++)
            if (tpv_export_withdraw_idle(table, idle[i].export, TPV_EXPORT_EVICTED) &&
                tpv_export_close(table, idle[i].export) == TPV_OK)
                tpv_export_free(table, idle[i].export);
    }
    free(idle);
    return free_bytes() >= bytes;
}

/* ---- what is left over ---- */

typedef struct {
    const tpv_table_t *table;
    bool repair;
    tpv_finding_t tell;
    void *user;
    uint32_t findings;
} check_t;

static void found(check_t *check, const char *what, const char *path) {
    char text[256];
    snprintf(text, sizeof text, "%s: %s", path, what);
    check->findings++;
    if (check->tell) check->tell(check->user, text);
}

/* Whether the name may be there: its export is in a state that has one (the name was seen before). */
static bool has_export(const tpv_table_t *table, uint64_t epoch, tpv_export_t export) {
    tpv_export_info_t info;
    return epoch == table->header->epoch && tpv_export_read(table, export, &info) == TPV_OK &&
           info.state != TPV_EXPORT_FAILED;
}

static void check_name(check_t *check, const char *name, const char *prefix) {
    const tpv_table_t *table = check->table;
    uint64_t epoch;
    tpv_export_t export;
    size_t length = strlen(prefix);
    char again[TPV_EXPORT_PATH_MAX], path[TPV_EXPORT_PATH_MAX];
    if (strncmp(name, prefix, length) != 0 || name[length] != '.') return;
    if (sscanf(name + length + 1, "%" SCNx64 ".%" SCNu32 ".%" SCNu64, &epoch, &export.slot, &export.generation) != 3)
        return;
    snprintf(again, sizeof again, "%s." NAME_FORMAT, prefix, epoch, export.slot, export.generation);
    if (strcmp(name, again) != 0 || has_export(table, epoch, export)) return;
    /* A name goes before its slot is freed: it was free by now, so the name is left over if it is still there. */
    snprintf(path, sizeof path, TPV_SHARED_FOLDER "/%s", name);
    if (access(path, F_OK) != 0) return;
    found(check, "a shared view without an export", path);
    if (check->repair && unlink(path) != 0 && errno != ENOENT) TPV_WARN("cannot remove %s: %s", path, strerror(errno));
}

static void check_export(check_t *check, uint32_t slot) {
    const tpv_table_t *table = check->table;
    tpv_export_t export = {slot, tpv_word_load(&tpv_table_export(table, slot)->head.generation)};
    tpv_export_info_t info;
    if (tpv_export_read(table, export, &info) != TPV_OK || info.state != TPV_EXPORT_READY ||
        info.owner != TPV_OWNER_FILE)
        return;
    char path[TPV_EXPORT_PATH_MAX];
    tpv_export_file_path(table, export, path);
    if (access(path, F_OK) == 0 || errno != ENOENT) return;
    /* Still READY, so it was READY then. */
    if (tpv_export_read(table, export, &info) != TPV_OK || info.state != TPV_EXPORT_READY) return;
    found(check, "the file of a ready export is gone", path);
    if (check->repair) tpv_export_withdraw(table, export);
}

tpv_status_t tpv_export_files_check(const tpv_table_t *table, bool repair, tpv_finding_t tell, void *user,
                                    uint32_t *findings) {
    if (!table->path[0]) return TPV_OK;
    check_t check = {.table = table, .repair = repair, .tell = tell, .user = user};
    DIR *folder = opendir(TPV_SHARED_FOLDER);
    if (!folder) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, TPV_SHARED_FOLDER);
    for (const struct dirent *entry; (entry = readdir(folder));)
        check_name(&check, entry->d_name, strrchr(table->path, '/') + 1);
    closedir(folder);
    for (uint32_t i = 0; i < tpv_slots_used(&table->exports); i++)
        check_export(&check, i);
    *findings += check.findings;
    return TPV_OK;
}
