/* The table's file: who holds it, which one is usable here, making and replacing it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/params.h"
#include "lifecycle/file.h"
#include "lifecycle/table.h"

#define FOLDER TPV_SHARED_FOLDER
#define TABLE_BYTES tpv_table_bytes(TPV_EXPORT_SLOTS, TPV_LEASE_SLOTS)
#define REPLACING_S 1.0 /* the longest that anybody holds a file to replace it: it does so for one unlink */

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

/* ---- who holds it ----
 *
 * Every process that may write to a table has a claim on its file: a read lock of the open file description (fcntl(2),
 * F_OFD_SETLK). The kernel drops it with the last process that has the description, however that ends; a forked child
 * has it too. Who replaces a file has a write lock on it, so there is no claim and none begins. Both work across pid
 * namespaces, where pids say nothing.
 */

/* F_RDLCK, a claim, or F_WRLCK, the right to replace, without waiting. errno EAGAIN: somebody holds what forbids it. */
static int lock(int fd, short type) {
    struct flock whole = {.l_type = type, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_SETLK, &whole);
}

typedef enum {
    FREE,      /* nobody holds the file */
    CLAIMED,   /* a living process does */
    REPLACING, /* somebody is about to take its name away */
    UNKNOWN,   /* the kernel does not tell: errno */
} holder_t;

static holder_t holder_of(int fd) {
    struct flock other = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_GETLK, &other) != 0) return UNKNOWN;
    return other.l_type == F_UNLCK ? FREE : other.l_type == F_RDLCK ? CLAIMED : REPLACING;
}

/* ---- a new one ---- */

/* A whole new table under `path`, mapped, and *fd with the claim. TPV_ERR_NOT_FOUND without a message when somebody
 * else's is there already. */
static tpv_status_t create(const char *path, const place_t *place, void **memory, int *fd) {
    tpv_status_t status = TPV_OK;
    size_t bytes = TABLE_BYTES;
    /* Without a name until it is whole: nobody sees half of it, and a death leaves nothing behind. */
    *fd = open(FOLDER, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (*fd < 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "a new file in " FOLDER);
    if (fchmod(*fd, 0600) != 0) { /* whatever the umask took away */
        status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "the mode of a new file in " FOLDER);
        goto close_file;
    }
    /* All of its memory now: later there would be no error but SIGBUS. */
    while (fallocate(*fd, 0, 0, (off_t)bytes) != 0) {
        if (errno == EINTR) continue;
        status = tpv_error_set_errno(errno == ENOSPC ? TPV_ERR_NO_SPACE : TPV_ERR_SYSTEM, errno,
                                     "%zu bytes for the lease table in " FOLDER, bytes);
        goto close_file;
    }
    *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (*memory == MAP_FAILED) {
        status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "mapping a new lease table");
        goto close_file;
    }
    tpv_table_format(*memory, TPV_EXPORT_SLOTS, TPV_LEASE_SLOTS);
    tpv_table_header_t *header = *memory;
    memcpy(header->boot_id, place->boot_id, sizeof header->boot_id);
    header->pid_namespace = place->pid_namespace;
    header->time_namespace = place->time_namespace;
    if (getrandom(&header->epoch, sizeof header->epoch, 0) != sizeof header->epoch)
        header->epoch = (uint64_t)tpv_clock_ns();
    char self[48];
    snprintf(self, sizeof self, "/proc/self/fd/%d", *fd);
    if (lock(*fd, F_RDLCK) != 0)
        status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "locking a new lease table");
    else if (linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) != 0)
        status = errno == EEXIST ? TPV_ERR_NOT_FOUND : tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "%s", path);
    if (status == TPV_OK) return TPV_OK;
    munmap(*memory, bytes);
close_file:
    close(*fd);
    return status;
}

/* ---- one that is there ---- */

static tpv_status_t differs(const char *path, const char *what, unsigned long long found, unsigned long long expected) {
    return tpv_error_set(TPV_ERR_FORMAT,
                         "%s was made by another version of tpview: %s is %llu, expected %llu; end that version's "
                         "processes and remove the file, or set TPVIEW_NAMESPACE to another name",
                         path, what, found, expected);
}

/* Whether this build can work on the table. `bytes` is the file's length. */
static tpv_status_t check_layout(const char *path, const tpv_table_header_t *header, size_t bytes) {
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
    tpv_table_header_t expected = {0};
    tpv_table_format(&expected, TPV_EXPORT_SLOTS, TPV_LEASE_SLOTS);
    if (header->signature != expected.signature)
        return differs(path, "the layout signature", header->signature, expected.signature);
    return bytes == TABLE_BYTES ? TPV_OK : differs(path, "the length", bytes, TABLE_BYTES);
}

/* Names that anybody may take first: say who did. */
static tpv_status_t check_owner(const char *path, const struct stat *info) {
    if (info->st_uid == geteuid()) return TPV_OK;
    return tpv_error_set(TPV_ERR_PERMISSION,
                         "%s belongs to user %u, expected %u: have it removed, or set TPVIEW_NAMESPACE to another name",
                         path, (unsigned)info->st_uid, (unsigned)geteuid());
}

static tpv_status_t check_file(const char *path, const struct stat *info) {
    TPV_TRY(check_owner(path, info));
    if (!S_ISREG(info->st_mode)) return tpv_error_set(TPV_ERR_PERMISSION, "%s is not a regular file", path);
    if ((info->st_mode & 07777) != 0600)
        return tpv_error_set(TPV_ERR_PERMISSION, "%s has mode %04o, expected 0600", path,
                             (unsigned)info->st_mode & 07777);
    if (info->st_size < (off_t)sizeof(tpv_table_header_t))
        return tpv_error_set(TPV_ERR_FORMAT, "%s is not a lease table: it has %lld bytes", path,
                             (long long)info->st_size);
    return TPV_OK;
}

static tpv_status_t open_file(const char *path, bool writable, int *fd) {
    *fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_CLOEXEC);
    if (*fd >= 0) return TPV_OK;
    int error = errno;
    struct stat info;
    if (error == ENOENT) return tpv_error_set(TPV_ERR_NOT_FOUND, "%s: there is no lease table", path);
    if (lstat(path, &info) == 0) TPV_TRY(check_owner(path, &info));
    if (error == ELOOP) return tpv_error_set(TPV_ERR_PERMISSION, "%s is a symbolic link", path);
    return tpv_error_set_errno(error == EACCES ? TPV_ERR_PERMISSION : TPV_ERR_SYSTEM, error, "%s", path);
}

/* What a table's file is to this process. */
typedef enum {
    USABLE,
    ABANDONED, /* its pids and times mean nothing here, and nobody holds it */
    CHANGING,  /* it is being replaced, or has been */
} use_t;

/* Of a table with a sound magic number. TPV_ERR_UNSUPPORTED when living processes of another place hold it. */
static tpv_status_t judge(const char *path, const tpv_table_header_t *header, size_t bytes, const place_t *place,
                          int fd, use_t *use) {
    bool same_boot = memcmp(header->boot_id, place->boot_id, sizeof header->boot_id) == 0;
    bool same_pids = header->pid_namespace == place->pid_namespace;
    if (same_boot) TPV_TRY(check_layout(path, header, bytes));
    *use = USABLE;
    if (same_boot && same_pids && header->time_namespace == place->time_namespace) return TPV_OK;
    holder_t holder = holder_of(fd);
    if (holder == UNKNOWN) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "asking who holds %s", path);
    *use = holder == FREE ? ABANDONED : CHANGING;
    if (holder != CLAIMED) return TPV_OK;
    return tpv_error_set(TPV_ERR_UNSUPPORTED,
                         "%s is in use by living processes of another %s, such as another container: give each a "
                         "TPVIEW_NAMESPACE of its own",
                         path,
                         !same_boot   ? "boot"
                         : !same_pids ? "pid namespace"
                                      : "time namespace");
}

/* Claim a usable table. Who replaces it meanwhile takes its name away before giving up the lock: then it is CHANGING.
 */
static tpv_status_t claim(const char *path, int fd, use_t *use) {
    struct stat info;
    if (lock(fd, F_RDLCK) != 0) {
        if (errno != EAGAIN) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "locking %s", path);
        *use = CHANGING;
    } else if (fstat(fd, &info) != 0 || info.st_nlink == 0) {
        *use = CHANGING;
    }
    return TPV_OK;
}

/* Map the file that is there; *fd stays open, with a claim if the table is usable and to be written to.
 * TPV_ERR_NOT_FOUND: there is none. */
static tpv_status_t map_present(const char *path, bool writable, const place_t *place, void **memory, use_t *use,
                                int *fd) {
    TPV_TRY(open_file(path, writable, fd));
    struct stat info;
    tpv_status_t status =
        fstat(*fd, &info) != 0 ? tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "%s", path) : check_file(path, &info);
    if (status != TPV_OK) goto close_file;
    size_t bytes = (size_t)info.st_size;
    *memory = mmap(NULL, bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, *fd, 0);
    if (*memory == MAP_FAILED) {
        status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "mapping %s", path);
        goto close_file;
    }
    const tpv_table_header_t *header = *memory;
    if (header->magic != TPV_TABLE_MAGIC)
        status = tpv_error_set(TPV_ERR_FORMAT, "%s is not a lease table: its magic number is wrong", path);
    else
        status = judge(path, header, bytes, place, *fd, use);
    if (status == TPV_OK && *use == USABLE && writable) status = claim(path, *fd, use);
    if (status == TPV_OK && *use == USABLE) return TPV_OK;
    munmap(*memory, bytes);
    if (status == TPV_OK) return TPV_OK;
close_file:
    close(*fd);
    return status;
}

/* Take an abandoned file's name away, unless somebody has done so or holds it by now: either way, look again. */
static tpv_status_t remove_abandoned(const char *path, int fd) {
    if (lock(fd, F_WRLCK) != 0)
        return errno == EAGAIN ? TPV_OK : tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "locking %s", path);
    struct stat present, mine;
    if (fstat(fd, &mine) == 0 && lstat(path, &present) == 0 && present.st_ino == mine.st_ino &&
        present.st_dev == mine.st_dev && unlink(path) != 0 && errno != ENOENT)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "removing %s, which nobody uses", path);
    return TPV_OK;
}

/* ---- opening ---- */

typedef enum {
    OPENED,
    MADE,
    AGAIN, /* what was seen has changed */
    WAIT,  /* somebody else is replacing it */
} outcome_t;

/* One look. */
static tpv_status_t try_open(const char *path, tpv_open_t mode, const place_t *place, void **memory, int *fd,
                             outcome_t *outcome) {
    use_t use = USABLE;
    tpv_status_t status = map_present(path, mode != TPV_OPEN_READ, place, memory, &use, fd);
    *outcome = OPENED;
    if (status == TPV_ERR_NOT_FOUND && mode == TPV_OPEN_CREATE) {
        status = create(path, place, memory, fd);
        *outcome = status == TPV_OK ? MADE : AGAIN;
        return status == TPV_ERR_NOT_FOUND ? TPV_OK : status;
    }
    if (status != TPV_OK || use == USABLE) return status;
    *outcome = use == ABANDONED ? AGAIN : WAIT;
    if (use == ABANDONED && mode == TPV_OPEN_CREATE)
        status = remove_abandoned(path, *fd);
    else if (use == ABANDONED)
        status = tpv_error_set(TPV_ERR_STALE, "%s is of an earlier boot or of a container that has ended", path);
    close(*fd);
    return status;
}

tpv_status_t tpv_table_open(const char *name, tpv_open_t mode, tpv_table_t **table) {
    *table = NULL;
    char path[sizeof(*table)->path];
    TPV_TRY(make_path(name, path, sizeof path));
    place_t place;
    TPV_TRY(read_place(&place));
    tpv_table_t *opened = calloc(1, sizeof *opened);
    if (!opened) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a lease table");
    void *memory = NULL;
    int fd = -1;
    outcome_t outcome;
    int64_t deadline = tpv_deadline_in(REPLACING_S);
    tpv_status_t status;
    while ((status = try_open(path, mode, &place, &memory, &fd, &outcome)) == TPV_OK && outcome >= AGAIN) {
        if (outcome == AGAIN) continue;
        if (tpv_deadline_passed(deadline)) {
            status = tpv_error_set(TPV_ERR_REFUSED, "%s is just being replaced: try again", path);
            break;
        }
        nanosleep(&(struct timespec){.tv_nsec = TPV_NS_PER_MS}, NULL);
    }
    if (status != TPV_OK) {
        free(opened);
        return status;
    }
    tpv_table_attach(opened, memory);
    memcpy(opened->path, path, sizeof path);
    opened->claim = fd;
    /* Shared views of a table that is gone: nobody finds them any more. */
    uint32_t findings = 0;
    if (outcome == MADE) tpv_export_files_check(opened, true, NULL, NULL, &findings);
    *table = opened;
    return TPV_OK;
}

void tpv_table_close(tpv_table_t *table) {
    if (!table) return;
    munmap(table->header, table->bytes);
    if (table->claim >= 0) close(table->claim);
    free(table);
}

tpv_status_t tpv_table_remove(const char *name) {
    char path[sizeof((tpv_table_t *)0)->path];
    TPV_TRY(make_path(name, path, sizeof path));
    if (unlink(path) != 0 && errno != ENOENT) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "removing %s", path);
    return TPV_OK;
}
