#include "client/partial.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

/* How often a name may come and go between two looks at it. */
#define MAX_TRIES 16

static const char *kind_of(mode_t mode) {
    if (S_ISDIR(mode)) return "a folder";
    if (S_ISLNK(mode)) return "a symbolic link";
    if (S_ISFIFO(mode)) return "a FIFO";
    if (S_ISSOCK(mode)) return "a socket";
    return "a device";
}

static tpv_status_t check_target(const char *path) {
    struct stat info;
    if (lstat(path, &info) != 0) {
        if (errno == ENOENT) return TPV_OK;
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot write to %.500s", path);
    }
    if (S_ISREG(info.st_mode)) return TPV_OK;
    return tpv_error_set(TPV_ERR_ARGUMENT, "%.500s is %s: expected the name of a new or a regular file%s", path,
                         kind_of(info.st_mode), S_ISDIR(info.st_mode) ? ", such as one in this folder" : "");
}

tpv_status_t tpv_partial_check(const char *path) {
    size_t length = strlen(path);
    if (length == 0) return tpv_error_set(TPV_ERR_ARGUMENT, "the name of the output is empty");
    TPV_TRY(check_target(path));
    if (path[length - 1] == '/')
        return tpv_error_set(TPV_ERR_ARGUMENT, "%.500s is the name of a folder: expected that of a file", path);
    char *copy = strdup(path);
    if (!copy) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the name of %.500s", path);
    tpv_status_t status = TPV_OK;
    if (faccessat(AT_FDCWD, dirname(copy), W_OK | X_OK, AT_EACCESS) != 0)
        status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot create %.500s", path);
    free(copy);
    return status;
}

/* ---- taking the name ---- */

/* flock's errors on file systems that do not have it: Lustre (ENOSYS), NFS without a lock service (ENOLCK). */
static bool is_unsupported(int error) {
    return error == ENOSYS || error == ENOLCK || error == EOPNOTSUPP || error == EINVAL;
}

/* Whether a file that was there already may be taken over once it is locked. */
static tpv_status_t check_leftover(const tpv_partial_t *partial) {
    struct stat info;
    if (fstat(partial->descriptor, &info) != 0)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "%.500s", partial->name);
    if (!S_ISREG(info.st_mode))
        return tpv_error_set(TPV_ERR_REFUSED, "%.500s is there and is %s: remove it or choose another name",
                             partial->name, kind_of(info.st_mode));
    if (info.st_uid != geteuid() || info.st_nlink > 1)
        return tpv_error_set(TPV_ERR_REFUSED,
                             "%.500s is there and is not a leftover of this user (it belongs to uid %u and has %u "
                             "names): remove it or choose another name",
                             partial->name, (unsigned)info.st_uid, (unsigned)info.st_nlink);
    return TPV_OK;
}

/* The lock goes with the process, so that a leftover of a killed one can be told from a file that is being written. */
static tpv_status_t lock(const tpv_partial_t *partial, bool created) {
    while (flock(partial->descriptor, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR) continue;
        if (errno == EWOULDBLOCK)
            return tpv_error_set(TPV_ERR_REFUSED, "%.500s is being written by another fetch", partial->name);
        if (!is_unsupported(errno))
            return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot lock %.500s", partial->name);
        if (created) break; /* by O_EXCL alone: whoever comes later finds it there */
        return tpv_error_set(TPV_ERR_REFUSED,
                             "%.500s is there, and its file system has no flock that tells whether a fetch still "
                             "writes it: remove it when none does",
                             partial->name);
    }
    return TPV_OK;
}

/* Whether the name still stands for the open file. */
static bool is_named(const tpv_partial_t *partial) {
    struct stat opened, named;
    return fstat(partial->descriptor, &opened) == 0 && lstat(partial->name, &named) == 0 &&
           opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

/* Open the file, new or left over. *gone: what was there has just left, so try again. */
static tpv_status_t open_once(tpv_partial_t *partial, bool *gone) {
    int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW;
    *gone = false;
    partial->descriptor = open(partial->name, flags | O_CREAT | O_EXCL, 0666);
    bool created = partial->descriptor >= 0;
    if (!created && errno == EEXIST) {
        partial->descriptor = open(partial->name, flags | O_NONBLOCK);
        *gone = partial->descriptor < 0 && errno == ENOENT;
        if (partial->descriptor < 0 && errno == ELOOP)
            return tpv_error_set(TPV_ERR_REFUSED, "%.500s is there and is a symbolic link: remove it", partial->name);
    }
    if (partial->descriptor < 0)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot create %.500s", partial->name);
    if (!created) TPV_TRY(check_leftover(partial));
    tpv_status_t status = lock(partial, created);
    if (status == TPV_OK && !is_named(partial)) {
        *gone = true;
        status = tpv_error_set(TPV_ERR_REFUSED, "%.500s is being written by another fetch", partial->name);
    }
    if (status == TPV_ERR_SYSTEM && created) unlink(partial->name);
    return status;
}

static tpv_status_t create(tpv_partial_t *partial, const char *path) {
    if (asprintf(&partial->name, "%s.partial", path) < 0) {
        partial->name = NULL;
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the name of %.500s", path);
    }
    for (int tries = 1;; tries++) {
        bool gone;
        tpv_status_t status = open_once(partial, &gone);
        if (status == TPV_OK) return TPV_OK;
        /* Closed here, so that the end does not remove what is not ours. */
        if (partial->descriptor >= 0) close(partial->descriptor);
        partial->descriptor = -1;
        if (!gone || tries == MAX_TRIES) return status;
    }
}

/* ---- room for the contents ---- */

static tpv_status_t no_room(const tpv_partial_t *partial, int error) {
    bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
    return tpv_error_set_errno(full ? TPV_ERR_NO_SPACE : TPV_ERR_SYSTEM, error, "no room for %zu bytes of %.500s",
                               partial->bytes, partial->name);
}

/* Blocks now: a disk that fills up later would raise SIGBUS in the mapping. Not posix_fallocate, which touches every
 * block of a file system that has no such call. */
static tpv_status_t reserve(const tpv_partial_t *partial, bool *reserved) {
    *reserved = false;
    while (fallocate(partial->descriptor, 0, 0, (off_t)partial->bytes) != 0) {
        if (errno == EINTR) continue;
        if (errno == EOPNOTSUPP || errno == ENOSYS) return TPV_OK;
        return no_room(partial, errno);
    }
    *reserved = true;
    return TPV_OK;
}

static tpv_status_t make_map(tpv_partial_t *partial) {
    bool reserved;
    if (ftruncate(partial->descriptor, 0) != 0)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot empty %.500s", partial->name);
    TPV_TRY(reserve(partial, &reserved));
    void *map = MAP_FAILED;
    if (reserved) map = mmap(NULL, partial->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, partial->descriptor, 0);
    if (map == MAP_FAILED && reserved && errno != ENODEV && errno != EOPNOTSUPP)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot map %.500s", partial->name);
    if (map == MAP_FAILED) {
        map = mmap(NULL, partial->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED)
            return tpv_error_set_errno(TPV_ERR_NO_MEMORY, errno, "no memory for %zu bytes of %.500s", partial->bytes,
                                       partial->name);
        partial->anonymous = true;
    }
    partial->map = map;
    return TPV_OK;
}

tpv_status_t tpv_partial_begin(tpv_partial_t *partial, const char *path, size_t bytes, const void *head,
                               size_t head_bytes) {
    *partial = (tpv_partial_t){.descriptor = -1, .bytes = bytes};
    TPV_TRY(tpv_partial_check(path));
    TPV_TRY(create(partial, path));
    TPV_TRY(make_map(partial));
    memcpy(partial->map, head, head_bytes);
    return TPV_OK;
}

/* ---- the end ---- */

static tpv_status_t write_out(const tpv_partial_t *partial) {
    for (size_t done = 0; done < partial->bytes;) {
        ssize_t wrote = pwrite(partial->descriptor, partial->map + done, partial->bytes - done, (off_t)done);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return no_room(partial, wrote < 0 ? errno : EIO);
        done += (size_t)wrote;
    }
    return TPV_OK;
}

static tpv_status_t give_name(const tpv_partial_t *partial, const char *path) {
    if (partial->anonymous) TPV_TRY(write_out(partial));
    if (!is_named(partial))
        return tpv_error_set(TPV_ERR_REFUSED, "%.500s was removed or replaced while it was written", partial->name);
    TPV_TRY(check_target(path));
    if (rename(partial->name, path) != 0)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot rename %.500s to %.500s", partial->name, path);
    return TPV_OK;
}

tpv_status_t tpv_partial_end(tpv_partial_t *partial, const char *path, tpv_status_t status) {
    if (status == TPV_OK) status = give_name(partial, path);
    if (partial->map) munmap(partial->map, partial->bytes);
    if (partial->descriptor >= 0) {
        if (status != TPV_OK && is_named(partial)) unlink(partial->name);
        close(partial->descriptor);
    }
    free(partial->name);
    return status;
}
