#include "lifecycle/table.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/params.h"
#include "base/process.h"
#include "lifecycle/file.h"
#include "lifecycle/words.h"

#define FOLDER TPV_SHARED_FOLDER

/* ---- layout ---- */

#define OFFSET(type, field) offsetof(type, field), sizeof(((type *)0)->field)

/* Whatever must be the same in two builds that share a table. */
static uint64_t signature(uint32_t export_slots, uint32_t lease_slots) {
    const uint64_t parts[] = {
        2, /* raised when the meaning of a field or a state changes and its place does not */
        export_slots,
        lease_slots,
        sizeof(tpv_table_header_t),
        OFFSET(tpv_table_header_t, exports_used),
        OFFSET(tpv_table_header_t, leases_used),
        OFFSET(tpv_table_header_t, counters),
        OFFSET(tpv_slot_head_t, word),
        OFFSET(tpv_slot_head_t, actor),
        OFFSET(tpv_slot_head_t, generation),
        OFFSET(tpv_slot_head_t, key_hash),
        sizeof(tpv_export_slot_t),
        OFFSET(tpv_export_slot_t, owner),
        OFFSET(tpv_export_slot_t, bytes),
        OFFSET(tpv_export_slot_t, ttl_ns),
        OFFSET(tpv_export_slot_t, cause),
        OFFSET(tpv_export_slot_t, created_ns),
        OFFSET(tpv_export_slot_t, retry_ns),
        OFFSET(tpv_export_slot_t, moved_ns),
        OFFSET(tpv_export_slot_t, record),
        OFFSET(tpv_export_record_t, artifact_id),
        OFFSET(tpv_export_record_t, view_id),
        OFFSET(tpv_export_record_t, device),
        OFFSET(tpv_export_record_t, label),
        sizeof(tpv_lease_slot_t),
        OFFSET(tpv_lease_slot_t, bytes_done),
        OFFSET(tpv_lease_slot_t, record),
        OFFSET(tpv_lease_record_t, id),
        OFFSET(tpv_lease_record_t, owner),
        OFFSET(tpv_lease_record_t, export_slot),
        OFFSET(tpv_lease_record_t, export_generation),
        OFFSET(tpv_lease_record_t, ttl_ms),
        OFFSET(tpv_lease_record_t, granted_deadline_ms),
        OFFSET(tpv_lease_record_t, begin_ns),
        OFFSET(tpv_lease_record_t, bytes_total),
        OFFSET(tpv_lease_record_t, remote_pid),
        OFFSET(tpv_lease_record_t, tp_rank),
        OFFSET(tpv_lease_record_t, tp_size),
        OFFSET(tpv_lease_record_t, remote_host),
        TPV_EXPORT_STATE_COUNT,
        TPV_EXPORT_ACTIVE_SHIFT,
        TPV_EXPORT_STEP_SHIFT,
        TPV_LEASE_STATE_COUNT,
        TPV_LEASE_DEADLINE_SHIFT,
    };
    return XXH3_64bits(parts, sizeof parts);
}

static size_t up_to_line(size_t bytes) {
    return (bytes + TPV_CACHE_LINE - 1) / TPV_CACHE_LINE * TPV_CACHE_LINE;
}

static size_t arbiter_bytes(uint32_t slots) {
    return up_to_line(slots * sizeof(tpv_word_t));
}

size_t tpv_table_bytes(uint32_t export_slots, uint32_t lease_slots) {
    return sizeof(tpv_table_header_t) + arbiter_bytes(export_slots) + arbiter_bytes(lease_slots) +
           export_slots * sizeof(tpv_export_slot_t) + lease_slots * sizeof(tpv_lease_slot_t);
}

void tpv_table_format(void *memory, uint32_t export_slots, uint32_t lease_slots) {
    tpv_table_header_t *header = memory;
    header->magic = TPV_TABLE_MAGIC;
    header->signature = signature(export_slots, lease_slots);
    header->header_bytes = sizeof *header;
    header->export_slots = export_slots;
    header->export_bytes = sizeof(tpv_export_slot_t);
    header->lease_slots = lease_slots;
    header->lease_bytes = sizeof(tpv_lease_slot_t);
}

void tpv_table_attach(tpv_table_t *table, void *memory) {
    tpv_table_header_t *header = memory;
    unsigned char *exports = (unsigned char *)memory + sizeof *header + arbiter_bytes(header->export_slots) +
                             arbiter_bytes(header->lease_slots);
    table->header = header;
    table->bytes = tpv_table_bytes(header->export_slots, header->lease_slots);
    table->exports = (tpv_slots_t){
        .base = exports,
        .stride = sizeof(tpv_export_slot_t),
        .count = header->export_slots,
        .version_mask = TPV_EXPORT_VERSION_MASK,
        .arbiters = (tpv_word_t *)(void *)((unsigned char *)memory + sizeof *header),
        .used = &header->exports_used,
    };
    table->leases = (tpv_slots_t){
        .base = exports + header->export_slots * sizeof(tpv_export_slot_t),
        .stride = sizeof(tpv_lease_slot_t),
        .count = header->lease_slots,
        .version_mask = TPV_LEASE_VERSION_MASK,
        .arbiters =
            (tpv_word_t *)(void *)((unsigned char *)memory + sizeof *header + arbiter_bytes(header->export_slots)),
        .used = &header->leases_used,
    };
    table->now = tpv_clock_ns;
    table->self = tpv_process_self;
    table->alive = tpv_process_alive;
    table->erase = tpv_export_file_erase;
}

/* ---- where we are ---- */

typedef struct {
    char boot_id[40];
    uint64_t pid_namespace, time_namespace;
} place_t;

static tpv_status_t read_place(place_t *place) {
    memset(place, 0, sizeof *place);
    const char *path = "/proc/sys/kernel/random/boot_id"; /* random(4): a UUID, new at every boot */
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, place->boot_id, sizeof place->boot_id - 1);
    int error = errno;
    if (fd >= 0) close(fd);
    if (length <= 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, error, "%s", path);
    place->boot_id[strcspn(place->boot_id, "\n")] = '\0';
    struct stat info;
    if (stat("/proc/self/ns/pid", &info) != 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "/proc/self/ns/pid");
    place->pid_namespace = info.st_ino;
    /* Kernels before 5.6 have no time namespaces: one for all. */
    if (stat("/proc/self/ns/time", &info) == 0) place->time_namespace = info.st_ino;
    return TPV_OK;
}

static tpv_status_t make_path(const char *name, char *path, size_t bytes) {
    if (!name) name = tpv_param_string(TPV_PARAM_NAMESPACE);
    size_t length = strlen(name);
    if (length == 0 || length > 32 ||
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != length)
        return tpv_error_set(TPV_ERR_ARGUMENT,
                             "lease table \"%.40s\": expected 1 to 32 letters, digits, - and _ (TPVIEW_NAMESPACE)",
                             name);
    snprintf(path, bytes, FOLDER "/tpview-%s-%u", name, (unsigned)geteuid());
    return TPV_OK;
}

/* ---- the file ---- */

/* A whole new table under `path`. TPV_ERR_NOT_FOUND without a message when somebody else's is there already. */
static tpv_status_t create(const char *path, const place_t *place) {
    tpv_status_t status = TPV_OK;
    size_t bytes = tpv_table_bytes(TPV_EXPORT_SLOTS, TPV_LEASE_SLOTS);
    /* Without a name until it is whole: nobody sees half of it, and a death leaves nothing behind. */
    int fd = open(FOLDER, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "a new file in " FOLDER);
    if (fchmod(fd, 0600) != 0) { /* whatever the umask took away */
        status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "the mode of a new file in " FOLDER);
        goto close_file;
    }
    /* All of its memory now: later there would be no error but SIGBUS. */
    while (fallocate(fd, 0, 0, (off_t)bytes) != 0) {
        if (errno == EINTR) continue;
        status = tpv_error_set_errno(errno == ENOSPC ? TPV_ERR_NO_SPACE : TPV_ERR_SYSTEM, errno,
                                     "%zu bytes for the lease table in " FOLDER, bytes);
        goto close_file;
    }
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "mapping a new lease table");
        goto close_file;
    }
    tpv_table_format(memory, TPV_EXPORT_SLOTS, TPV_LEASE_SLOTS);
    tpv_table_header_t *header = memory;
    memcpy(header->boot_id, place->boot_id, sizeof header->boot_id);
    header->pid_namespace = place->pid_namespace;
    header->time_namespace = place->time_namespace;
    if (getrandom(&header->epoch, sizeof header->epoch, 0) != sizeof header->epoch)
        header->epoch = (uint64_t)tpv_clock_ns();
    munmap(memory, bytes);
    char self[48];
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    if (linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) != 0)
        status = errno == EEXIST ? TPV_ERR_NOT_FOUND : tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "%s", path);
close_file:
    close(fd);
    return status;
}

/* Take away the table of an earlier boot, unless somebody else has done so: the lock on the old file, which ends with
 * its holder, keeps two from taking away each other's new one. */
static tpv_status_t remove_old(const char *path, int old) {
    int64_t deadline = tpv_deadline_in(1.0); /* it is held for an unlink */
    while (flock(old, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "locking %s", path);
        if (tpv_deadline_passed(deadline))
            return tpv_error_set(TPV_ERR_REFUSED, "%s is of an earlier boot and just being replaced: try again", path);
        nanosleep(&(struct timespec){.tv_nsec = TPV_NS_PER_MS}, NULL);
    }
    struct stat present, mine;
    if (fstat(old, &mine) == 0 && lstat(path, &present) == 0 && present.st_ino == mine.st_ino &&
        present.st_dev == mine.st_dev && unlink(path) != 0 && errno != ENOENT)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "removing %s of an earlier boot", path);
    return TPV_OK;
}

static tpv_status_t differs(const char *path, const char *what, unsigned long long found, unsigned long long expected) {
    return tpv_error_set(TPV_ERR_FORMAT, "%s was made by another version of tpview: %s is %llu, expected %llu", path,
                         what, found, expected);
}

/* Everything that must hold before a process works on a table. `bytes` is the file's length. */
static tpv_status_t check_header(const char *path, const tpv_table_header_t *header, size_t bytes,
                                 const place_t *place) {
    if (header->header_bytes != sizeof *header)
        return differs(path, "the header's size", header->header_bytes, sizeof *header);
    if (header->export_slots != TPV_EXPORT_SLOTS)
        return differs(path, "the number of export slots", header->export_slots, TPV_EXPORT_SLOTS);
    if (header->export_bytes != sizeof(tpv_export_slot_t))
        return differs(path, "the size of an export slot", header->export_bytes, sizeof(tpv_export_slot_t));
    if (header->lease_slots != TPV_LEASE_SLOTS)
        return differs(path, "the number of lease slots", header->lease_slots, TPV_LEASE_SLOTS);
    if (header->lease_bytes != sizeof(tpv_lease_slot_t))
        return differs(path, "the size of a lease slot", header->lease_bytes, sizeof(tpv_lease_slot_t));
    uint64_t expected = signature(TPV_EXPORT_SLOTS, TPV_LEASE_SLOTS);
    if (header->signature != expected) return differs(path, "the layout signature", header->signature, expected);
    if (bytes != tpv_table_bytes(TPV_EXPORT_SLOTS, TPV_LEASE_SLOTS))
        return differs(path, "the length", bytes, tpv_table_bytes(TPV_EXPORT_SLOTS, TPV_LEASE_SLOTS));
    if (header->pid_namespace != place->pid_namespace)
        return tpv_error_set(TPV_ERR_UNSUPPORTED,
                             "%s belongs to another pid namespace (%llu, this is %llu): set TPVIEW_NAMESPACE", path,
                             (unsigned long long)header->pid_namespace, (unsigned long long)place->pid_namespace);
    if (header->time_namespace != place->time_namespace)
        return tpv_error_set(TPV_ERR_UNSUPPORTED,
                             "%s belongs to another time namespace (%llu, this is %llu): set TPVIEW_NAMESPACE", path,
                             (unsigned long long)header->time_namespace, (unsigned long long)place->time_namespace);
    return TPV_OK;
}

static tpv_status_t check_file(const char *path, const struct stat *info) {
    if (!S_ISREG(info->st_mode)) return tpv_error_set(TPV_ERR_PERMISSION, "%s is not a regular file", path);
    if (info->st_uid != geteuid())
        return tpv_error_set(TPV_ERR_PERMISSION, "%s belongs to user %u, expected %u", path, (unsigned)info->st_uid,
                             (unsigned)geteuid());
    if ((info->st_mode & 07777) != 0600)
        return tpv_error_set(TPV_ERR_PERMISSION, "%s has mode %04o, expected 0600", path,
                             (unsigned)info->st_mode & 07777);
    if (info->st_size < (off_t)sizeof(tpv_table_header_t))
        return tpv_error_set(TPV_ERR_FORMAT, "%s is not a lease table: it has %lld bytes", path,
                             (long long)info->st_size);
    return TPV_OK;
}

/* Map the file that is there. *old: it is of an earlier boot, and *fd stays open. TPV_ERR_NOT_FOUND: there is none. */
static tpv_status_t map_present(const char *path, bool writable, const place_t *place, void **memory, bool *old,
                                int *fd) {
    *old = false;
    *fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_CLOEXEC);
    if (*fd < 0 && errno == ENOENT) return tpv_error_set(TPV_ERR_NOT_FOUND, "%s: there is no lease table", path);
    if (*fd < 0 && errno == ELOOP) return tpv_error_set(TPV_ERR_PERMISSION, "%s is a symbolic link", path);
    if (*fd < 0) return tpv_error_set_errno(errno == EACCES ? TPV_ERR_PERMISSION : TPV_ERR_SYSTEM, errno, "%s", path);
    struct stat info;
    tpv_status_t status = TPV_OK;
    if (fstat(*fd, &info) != 0)
        status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "%s", path);
    else
        status = check_file(path, &info);
    if (status != TPV_OK) goto close_file;
    size_t bytes = (size_t)info.st_size;
    *memory = mmap(NULL, bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, *fd, 0);
    if (*memory == MAP_FAILED) {
        status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "mapping %s", path);
        goto close_file;
    }
    const tpv_table_header_t *header = *memory;
    if (header->magic != TPV_TABLE_MAGIC) {
        status = tpv_error_set(TPV_ERR_FORMAT, "%s is not a lease table: its magic number is wrong", path);
    } else if (memcmp(header->boot_id, place->boot_id, sizeof header->boot_id) != 0) {
        munmap(*memory, bytes);
        *old = true;
        return TPV_OK;
    } else {
        status = check_header(path, header, bytes, place);
    }
    if (status != TPV_OK) munmap(*memory, bytes);
close_file:
    close(*fd);
    return status;
}

tpv_status_t tpv_table_open(const char *name, tpv_open_t mode, tpv_table_t **table) {
    *table = NULL;
    char path[sizeof(*table)->path];
    TPV_TRY(make_path(name, path, sizeof path));
    place_t place;
    TPV_TRY(read_place(&place));
    void *memory = NULL;
    for (;;) {
        bool old;
        int fd;
        tpv_status_t status = map_present(path, mode != TPV_OPEN_READ, &place, &memory, &old, &fd);
        if (status == TPV_OK && !old) break;
        if (old && mode == TPV_OPEN_CREATE) status = remove_old(path, fd);
        if (old) close(fd);
        if (old && mode != TPV_OPEN_CREATE)
            return tpv_error_set(TPV_ERR_NOT_FOUND, "%s is of an earlier boot: there is no lease table", path);
        if (status == TPV_ERR_NOT_FOUND && mode == TPV_OPEN_CREATE) {
            status = create(path, &place);
            if (status == TPV_ERR_NOT_FOUND) status = TPV_OK;
        }
        if (status != TPV_OK) return status;
    }
    tpv_table_t *opened = calloc(1, sizeof *opened);
    if (!opened) {
        munmap(memory, tpv_table_bytes(TPV_EXPORT_SLOTS, TPV_LEASE_SLOTS));
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a lease table");
    }
    tpv_table_attach(opened, memory);
    memcpy(opened->path, path, sizeof path);
    *table = opened;
    return TPV_OK;
}

void tpv_table_close(tpv_table_t *table) {
    if (!table) return;
    munmap(table->header, table->bytes);
    free(table);
}

tpv_status_t tpv_table_remove(const char *name) {
    char path[sizeof((tpv_table_t *)0)->path];
    TPV_TRY(make_path(name, path, sizeof path));
    if (unlink(path) != 0 && errno != ENOENT) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "removing %s", path);
    return TPV_OK;
}
